package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const small = 300_000 // bytes

func fill(t *testing.T, f *fake) *Dataset {
	t.Helper()
	dataset, err := Fill(t.Context(), f.client(), Options{Seed: 7, TotalBytes: small})
	if err != nil {
		t.Fatal(err)
	}
	return dataset
}

func start(t *testing.T, f *fake, dataset *Dataset, rate float64) *Writer {
	t.Helper()
	w, err := StartWriter(t.Context(), f.client(), dataset, WriterOptions{Rate: rate})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stopWithin(t, w, time.Millisecond) })
	return w
}

func stopWithin(t *testing.T, w *Writer, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return w.Stop(ctx)
}

// until polls; the writer runs in real time.
func until(t *testing.T, what string, w *Writer, condition func(Stats) bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !condition(w.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 60 s: %s; %+v", what, w.Stats())
		}
	}
}

func mustStop(t *testing.T, w *Writer) {
	t.Helper()
	if err := stopWithin(t, w, 60*time.Second); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, f *fake, w *Writer, dataset *Dataset) Result {
	t.Helper()
	f.late.Wait()
	result, err := Check(t.Context(), f.client(), w, dataset)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func mustBeWhole(t *testing.T, result Result, w *Writer) {
	t.Helper()
	if err := result.Problem(); err != nil {
		t.Fatal(err)
	}
	if acknowledged := w.Stats().Acknowledged; result.AcknowledgedWrites != acknowledged || result.WritesFoundAtDestination != acknowledged || acknowledged == 0 {
		t.Errorf("acknowledged %d, result says %d acknowledged and %d found", acknowledged, result.AcknowledgedWrites, result.WritesFoundAtDestination)
	}
	if result.DocumentsChecked == 0 || result.UntouchedSampled == 0 {
		t.Errorf("nothing was checked: %+v", result)
	}
}

func TestFillIsDeterministicAndAsDescribed(t *testing.T) {
	a, b, c := newFake(t), newFake(t), newFake(t)
	var last, total int64
	dataset, err := Fill(t.Context(), a.client(), Options{Seed: 7, TotalBytes: small, Progress: func(done, all int64) { last, total = done, all }})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, b)
	if _, err := Fill(t.Context(), c.client(), Options{Seed: 8, TotalBytes: small}); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a.docs, b.docs) {
		t.Error("the same seed gave other documents")
	}
	if reflect.DeepEqual(a.docs, c.docs) {
		t.Error("another seed gave the same documents")
	}
	if sum := dataset.Bytes(); sum < small || sum > small*11/10 || last != sum || total != small {
		t.Errorf("%d bytes filled, %d of %d reported, %d wanted", sum, last, total, small)
	}
	if int(dataset.Documents()) != len(a.docs) {
		t.Errorf("%d documents described, %d there", dataset.Documents(), len(a.docs))
	}
	routed := 0
	for k := range a.docs {
		if k.routing != "" {
			routed++
		}
	}
	if routed == 0 {
		t.Error("no document has a custom routing")
	}
	var definition struct {
		Settings struct {
			Index map[string]any `json:"index"`
		} `json:"settings"`
		Aliases map[string]any `json:"aliases"`
	}
	if err := json.Unmarshal(a.created["catalogue"], &definition); err != nil {
		t.Fatal(err)
	}
	if definition.Settings.Index["refresh_interval"] != "5s" || len(definition.Aliases) != 1 {
		t.Errorf("catalogue was created with %s", a.created["catalogue"])
	}
}

func TestFillSurvivesUnknownOutcomesAndReportsRefusals(t *testing.T) {
	f := newFake(t)
	f.fault = func(n int) fault { return []fault{cutAfter, timeoutEffect, busy, timeoutNoEffect}[n%4] * fault(n%3%2) }
	fill(t, f)

	if _, err := Fill(t.Context(), f.client(), Options{TotalBytes: small}); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("a second fill: %v", err)
	}
	g := newFake(t)
	g.fault = func(int) fault { return rejectOne }
	if _, err := Fill(t.Context(), g.client(), Options{TotalBytes: small}); err == nil || !strings.Contains(err.Error(), "mapper_parsing_exception") {
		t.Errorf("a refused item: %v", err)
	}
	h := newFake(t)
	h.drop = func(_ string, k key) bool { return k.id == "doc-3" && k.index == "logs" }
	if _, err := Fill(t.Context(), h.client(), Options{TotalBytes: small}); err == nil || !strings.Contains(err.Error(), "index logs") {
		t.Errorf("a lost document: %v", err)
	}
}

func TestEveryAcknowledgedWriteIsFound(t *testing.T) {
	for name, faults := range map[string][]fault{
		"calm":                   {none},
		"504 without effect":     {none, timeoutNoEffect, none, none},
		"504 with effect":        {none, timeoutEffect, none, none},
		"504 with a late effect": {none, timeoutLate, none, none, none, none},
		"cut before":             {none, cutBefore, none},
		"cut after":              {none, cutAfter, none},
		"429":                    {none, busy},
		"all":                    {none, none, timeoutNoEffect, none, timeoutEffect, cutAfter, none, timeoutLate, busy, cutBefore, none},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			dataset := fill(t, f)
			f.fault = func(n int) fault { return faults[n%len(faults)] }
			w, err := StartWriter(t.Context(), f.client(), dataset, WriterOptions{Rate: 5000, Parallel: 24})
			if err != nil {
				t.Fatal(err)
			}
			until(t, "1,500 writes", w, func(s Stats) bool { return s.Acknowledged > 1500 })
			mustStop(t, w)
			mustBeWhole(t, check(t, f, w, dataset), w)
			stats := w.Stats()
			hasUnknown := slices.ContainsFunc(faults, func(x fault) bool { return x != none && x != busy })
			if (stats.UnknownRetried > 0) != hasUnknown || stats.Rejected != 0 || stats.Pending != 0 {
				t.Errorf("stats %+v", stats)
			}
			if f.clash != "" {
				t.Errorf("two requests at once for %s", f.clash)
			}
			several := 0
			for k, numbers := range f.order {
				if !slices.IsSorted(numbers) {
					t.Errorf("operations on %v arrived in the order %v", k, numbers)
				}
				if len(numbers) > 1 {
					several++
				}
			}
			if several == 0 {
				t.Error("no document was written twice: the order proves nothing")
			}
			kinds := map[opKind]int{}
			for _, e := range w.ledger.entries {
				kinds[e.kind]++
			}
			if len(kinds) != 3 {
				t.Errorf("operations by kind: %v", kinds)
			}
		})
	}
}

// The check itself is checked: each case loses or changes something that Check must find.
func TestCheckDetects(t *testing.T) {
	touchedLast := func(w *Writer, want func(d *document) bool) (document, bool) {
		for _, d := range w.ledger.docs {
			if d.last != 0 && want(&d) {
				return d, true
			}
		}
		return document{}, false
	}
	place := func(w *Writer, d document) key {
		x := &w.dataset.Indices[d.index]
		return key{x.Name, w.ledger.id(&d), x.routing(d.n)}
	}
	cases := map[string]struct {
		spoil  func(t *testing.T, f *fake, w *Writer)
		reason string
		lost   bool // acknowledged writes are missing, not only documents
	}{
		"an insert lost": {func(t *testing.T, f *fake, w *Writer) {
			d, _ := touchedLast(w, func(d *document) bool { return d.inserted && d.alive() })
			delete(f.docs, place(w, d))
		}, "not there; the last acknowledged operation is", true},
		"an update undone": {func(t *testing.T, f *fake, w *Writer) {
			d, ok := touchedLast(w, func(d *document) bool { return !d.inserted && d.lastKind == opUpdate })
			if !ok {
				t.Fatal("no filled document was updated")
			}
			k := place(w, d)
			f.raw[k] = w.dataset.Indices[d.index].original(w.dataset.Seed, d.n)
		}, "has no token", true},
		"a delete undone": {func(t *testing.T, f *fake, w *Writer) {
			d, ok := touchedLast(w, func(d *document) bool { return d.lastKind == opDelete })
			if !ok {
				t.Fatal("no document was deleted")
			}
			f.docs[place(w, d)] = map[string]any{"x": 1}
		}, "is there and has no token", true},
		"another routing": {func(t *testing.T, f *fake, w *Writer) {
			d, _ := touchedLast(w, func(d *document) bool { return d.alive() && w.dataset.Indices[d.index].routing(d.n) != "" })
			k := place(w, d)
			moved := k
			moved.routing = ""
			f.docs[moved] = f.docs[k]
			delete(f.docs, k)
		}, "not there", true},
		"an untouched document changed": {func(t *testing.T, f *fake, w *Writer) {
			k := key{"countries", "doc-0", ""}
			f.raw[k] = bytes.Replace(f.raw[k], []byte(`"population":`), []byte(`"population":1`), 1)
		}, "its content differs", false},
		"an untouched document lost": {func(t *testing.T, f *fake, w *Writer) { delete(f.docs, key{"countries", "doc-1", ""}) },
			"never written again, and not there", false},
		"a document too many": {func(t *testing.T, f *fake, w *Writer) { f.docs[key{"logs", "stray", ""}] = map[string]any{} }, "", false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			dataset := fill(t, f)
			w := start(t, f, dataset, 3000)
			until(t, "1,000 writes", w, func(s Stats) bool { return s.Acknowledged > 1000 })
			mustStop(t, w)
			mustBeWhole(t, check(t, f, w, dataset), w)
			c.spoil(t, f, w)
			result := check(t, f, w, dataset)
			if result.Problem() == nil {
				t.Fatal("not detected")
			}
			if c.lost != (result.WritesFoundAtDestination < result.AcknowledgedWrites) {
				t.Errorf("found %d of %d writes", result.WritesFoundAtDestination, result.AcknowledgedWrites)
			}
			if c.reason != "" && (len(result.Missing) != 1 || !strings.Contains(result.Missing[0].Reason, c.reason)) {
				t.Errorf("missing: %+v", result.Missing)
			}
		})
	}
}

// A domain that acknowledges one write and forgets it.
func TestOneDroppedAcknowledgedWriteIsDetected(t *testing.T) {
	f := newFake(t)
	dataset := fill(t, f)
	var dropped []key
	f.drop = func(action string, k key) bool {
		if len(dropped) > 0 || k.index != "logs" {
			return false
		}
		dropped = append(dropped, k)
		return true
	}
	w := start(t, f, dataset, 3000)
	until(t, "500 writes", w, func(s Stats) bool { return s.Acknowledged > 500 })
	mustStop(t, w)
	result := check(t, f, w, dataset)
	if result.AcknowledgedWrites-result.WritesFoundAtDestination != 1 || len(result.Missing) != 1 || result.Missing[0].ID != dropped[0].id {
		t.Errorf("dropped %v, result %+v", dropped, result)
	}
	if err := result.Problem(); err == nil || !strings.Contains(err.Error(), "1 of ") || !strings.Contains(err.Error(), "index logs has") {
		t.Errorf("problem: %v", err)
	}
}

func TestLostWritesAreCountedAsOperations(t *testing.T) {
	f := newFake(t)
	dataset := fill(t, f)
	w := start(t, f, dataset, 3000)
	until(t, "2,000 writes", w, func(s Stats) bool { return s.Acknowledged > 2000 })
	mustStop(t, w)
	operations, deleted := map[uint32]int{}, map[uint32]bool{}
	for _, e := range w.ledger.entries {
		operations[e.doc]++
		deleted[e.doc] = deleted[e.doc] || e.kind == opDelete
	}
	at := slices.IndexFunc(w.ledger.entries, func(e entry) bool { return operations[e.doc] >= 3 && !deleted[e.doc] })
	if at < 0 {
		t.Fatal("no document was written three times and never deleted")
	}
	at = int(w.ledger.entries[at].doc)
	d := w.ledger.docs[at]
	var numbers []uint32
	for _, e := range w.ledger.entries {
		if e.doc == uint32(at) {
			numbers = append(numbers, e.number)
		}
	}
	x := &dataset.Indices[d.index]
	k := key{x.Name, w.ledger.id(&d), x.routing(d.n)}
	f.raw[k] = json.RawMessage(fmt.Sprintf(`{%q:%q}`, TokenField, w.ledger.token(numbers[0])))
	result := check(t, f, w, dataset)
	if lost := result.AcknowledgedWrites - result.WritesFoundAtDestination; lost != int64(len(numbers)-1) {
		t.Errorf("the first of %d operations is there, %d counted as lost", len(numbers), lost)
	}
}

func TestCutOverAndDowntime(t *testing.T) {
	source, destination := newFake(t), newFake(t)
	dataset := fill(t, source)
	w := start(t, source, dataset, 1000)
	until(t, "writes", w, func(s Stats) bool { return s.Acknowledged > 300 })
	source.block(true, "logs") // the block spreads: the catalogue still takes writes
	until(t, "a refused write", w, func(s Stats) bool { return s.Refused > 0 })
	if s := w.Stats(); s.DowntimeSeconds != 0 || !s.FirstAcceptedAfter.IsZero() {
		t.Errorf("the downtime is not over, stats say %+v", s)
	}
	before := w.Stats().Acknowledged
	until(t, "more writes to the catalogue, or all workers refused", w, func(s Stats) bool { return s.Acknowledged > before || s.Pending >= 4*5 })
	source.block(true, "catalogue")
	until(t, "every worker refused", w, func(s Stats) bool {
		source.mu.Lock()
		defer source.mu.Unlock()
		return s.Pending > 0 && s.Pending == s.Refused
	})
	if s := w.Stats(); !s.FirstAcceptedAfter.IsZero() {
		t.Errorf("a write that was never refused ended the downtime: %+v", s)
	}
	destination.restoreFrom(source)
	time.Sleep(150 * time.Millisecond) // a downtime that can be told from none
	w.SwitchTo(destination.client())
	until(t, "writes at the destination", w, func(s Stats) bool { return s.AtDestination > 200 })
	mustStop(t, w)
	stats := w.Stats()
	truth := destination.firstOK.Sub(source.firstNo).Seconds()
	if math.Abs(stats.DowntimeSeconds-truth) > 0.1 || stats.DowntimeSeconds < 0.15 || stats.AcceptedBy != Destination || len(stats.Interruptions) != 1 {
		t.Errorf("downtime %.3f s, the domains say %.3f s; %+v", stats.DowntimeSeconds, truth, stats)
	}
	if stats.AtSource+stats.AtDestination != stats.Acknowledged || stats.Pending != 0 {
		t.Errorf("stats %+v", stats)
	}
	mustBeWhole(t, check(t, destination, w, dataset), w)
	if check(t, source, w, dataset).Problem() == nil {
		t.Error("the source cannot have the writes that went to the destination")
	}
}

func TestThawEndsTheInterruptionAtTheSource(t *testing.T) {
	f := newFake(t)
	dataset := fill(t, f)
	w := start(t, f, dataset, 1000)
	until(t, "writes", w, func(s Stats) bool { return s.Acknowledged > 100 })
	f.block(true, "logs", "catalogue")
	until(t, "every worker refused", w, func(s Stats) bool { return s.Refused > 0 && s.Pending == s.Refused })
	f.block(false, "logs", "catalogue")
	before := w.Stats().Acknowledged
	until(t, "writes after the thaw", w, func(s Stats) bool { return s.Acknowledged > before+100 })
	mustStop(t, w)
	stats := w.Stats()
	if stats.AcceptedBy != Source || len(stats.Interruptions) != 1 || stats.DowntimeSeconds <= 0 || stats.Interruptions[0].AllAccepted.IsZero() {
		t.Errorf("stats %+v", stats)
	}
	mustBeWhole(t, check(t, f, w, dataset), w)
}

// What was never answered is neither acknowledged nor lost: either state is right.
func TestUnansweredWritesAreUncertain(t *testing.T) {
	for name, last := range map[string]fault{"with effect": timeoutEffect, "without effect": timeoutNoEffect} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			dataset := fill(t, f)
			w := start(t, f, dataset, 2000)
			until(t, "writes", w, func(s Stats) bool { return s.Acknowledged > 300 })
			f.mu.Lock()
			f.fault = func(int) fault { return last }
			f.mu.Unlock()
			until(t, "unknown outcomes", w, func(s Stats) bool { return s.UnknownRetried >= 20 })
			err := stopWithin(t, w, 300*time.Millisecond)
			if err == nil || !strings.Contains(err.Error(), "never answered") {
				t.Fatalf("stop: %v", err)
			}
			f.fault = nil
			mustBeWhole(t, check(t, f, w, dataset), w)
		})
	}
}

func TestRejectedOperationsAreNotAcknowledged(t *testing.T) {
	f := newFake(t)
	dataset := fill(t, f)
	f.fault = func(n int) fault { return []fault{none, rejectOne}[n%2] }
	w := start(t, f, dataset, 2000)
	until(t, "rejections", w, func(s Stats) bool { return s.Rejected > 20 })
	mustStop(t, w)
	if stats := w.Stats(); !strings.Contains(stats.LastError, "mapper_parsing_exception") {
		t.Errorf("last error %q", stats.LastError)
	}
	mustBeWhole(t, check(t, f, w, dataset), w)
}

func TestCheckRefusesARunningWriter(t *testing.T) {
	f := newFake(t)
	dataset := fill(t, f)
	w := start(t, f, dataset, 100)
	if _, err := Check(t.Context(), f.client(), w, dataset); err == nil || !strings.Contains(err.Error(), "still running") {
		t.Errorf("got %v", err)
	}
}

func TestUserFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "My Packages (2026).NDJSON")
	var file strings.Builder
	file.WriteString("\xef\xbb\xbf")
	for n := range 500 {
		fmt.Fprintf(&file, `{"package":"p%d","size":%d.50,"ferry_token":"mine","tags":["a",{"b":null}]}`+"\r\n\n", n, n)
	}
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	dataset, err := FillFile(t.Context(), f.client(), path, Options{Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	if x := dataset.Indices[0]; x.Name != "my-packages--2026" || x.Documents != 500 || len(f.docs) != 500 {
		t.Errorf("dataset %+v, %d documents there", x, len(f.docs))
	}
	w := start(t, f, dataset, 3000)
	until(t, "1,000 writes", w, func(s Stats) bool { return s.Acknowledged > 1000 })
	mustStop(t, w)
	mustBeWhole(t, check(t, f, w, dataset), w)
	for n := range uint32(500) {
		if f.docs[key{"my-packages--2026", filledID(n), ""}] == nil {
			t.Errorf("the user's document %d was deleted", n)
		}
	}
}

func TestUserFileErrors(t *testing.T) {
	for name, c := range map[string]struct{ file, content, want string }{
		"array line":  {"a.json", "{\"a\":1}\n[1]\n", "line 2 is no JSON object"},
		"broken line": {"a.json", "{\"a\":1}\n\n{\"a\":\n", "line 3 is no JSON object"},
		"number":      {"a.json", "7", "line 1 is no JSON object"},
		"empty":       {"a.json", "\n\n", "holds no documents"},
		"no name":     {"___.json", "{}", "no index name"},
		"too long":    {"a.json", "{}\n{\"a\":\"" + strings.Repeat("x", maxLine) + "\"}", "line 2 is longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), c.file)
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			f := newFake(t)
			_, err := FillFile(t.Context(), f.client(), path, Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if len(f.created) > 0 {
				t.Error("an index was created before the file was read")
			}
		})
	}
	t.Run("refused by the domain", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "a.json")
		if err := os.WriteFile(path, []byte("\n\n{\"_id\":1}\n{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		f := newFake(t)
		f.fault = func(int) fault { return rejectOne }
		if _, err := FillFile(t.Context(), f.client(), path, Options{}); err == nil || !strings.Contains(err.Error(), "line 3 was refused: mapper_parsing_exception") {
			t.Errorf("got %v", err)
		}
	})
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		status int
		kind   string
		want   outcome
	}{
		{200, "", acknowledged}, {201, "", acknowledged},
		{403, "cluster_block_exception", blocked}, {403, "security_exception", rejected}, {403, "", rejected},
		{400, "index_closed_exception", blocked}, {400, "mapper_parsing_exception", rejected},
		{429, "es_rejected_execution_exception", throttled}, {409, "version_conflict_engine_exception", throttled},
		{504, "", doubtful}, {503, "cluster_block_exception", doubtful}, {500, "", doubtful}, {0, "", doubtful},
		{404, "document_missing_exception", rejected},
	} {
		if got := classify(c.status, c.kind); got != c.want {
			t.Errorf("%d %s: got %d, want %d", c.status, c.kind, got, c.want)
		}
	}
}

func TestAMillionOperationsFitInMemory(t *testing.T) {
	dataset := &Dataset{Indices: []Index{{Name: "logs", Kind: Logs, Documents: 1 << 20}, {Name: "catalogue", Kind: Catalogue, Documents: 1 << 20}}}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	l := newLedger(dataset, "run")
	for n := range uint32(1_000_000) { // the worst case: each on a filled document of its own
		position := uint32(len(l.docs))
		l.docs = append(l.docs, document{index: 1, n: n})
		l.filled[1<<32|uint64(n)] = position
		l.acknowledge(&operation{position: position, number: n + 1})
	}
	if used := heap() - before; used > 150<<20 {
		t.Errorf("%d MB", used>>20)
	}
	runtime.KeepAlive(l)
}
