package step

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
	"github.com/domainferry/domainferry/internal/report"
)

var backInput = strings.Replace(input, `"migration": "orders",`, `"migration": "orders", "mode": "goBack",`, 1)

const (
	backName = "orders/back"
	comeback = "arn:aws:states:eu-west-1:111122223333:execution:migration:comeback"
	keeping  = "action.auto_create_index"
)

func (w *world) wayBack() *journal.Journal { return w.store.Migration(backName) }

// handedOverWorld is after a migration by mine: a went by replay, from base 10 and 11, b by rounds; a had no block before, b had one. The
// destination's clients have written to a since.
func handedOverWorld(t *testing.T) *world {
	t.Helper()
	w := plannedWorld(t)
	w.copies("orders-r0003", true)
	w.replaying("a")
	for name, x := range w.source.indices {
		x.Settings["index.blocks.write"], x.Settings["index.final_pipeline"] = "true", "stamp-"+name
		c := w.destination.indices[name]
		c.UUID, c.Health, c.CreatedVersion, c.Settings = "copy-"+name, "green", x.CreatedVersion, map[string]string{"index.number_of_replicas": "2"}
		w.destination.mappings[name], w.source.mappings[name] = json.RawMessage(`{"properties":{"n":{"type":"long"}}}`), json.RawMessage(`{"properties":{"n":{"type":"long"}}}`)
	}
	w.reach(w.source, "a", 20, 21)
	w.reach(w.destination, "a", 35, 31)
	w.reach(w.source, "b", 10)
	w.reach(w.destination, "b", 10)
	state := replayState{Pass: 3, Reconciled: 3, Sealed: true, States: []replay.State{{Index: "a", SourceUUID: "uuid-a", DestinationUUID: "copy-a", Shards: []replay.ShardState{
		{Base: 10, Position: 20, Started: true, DestinationFrom: 12, DestinationUpto: 29, Blocks: []replay.Block{{From: 10, Upto: 15, DestinationFrom: 10, DestinationUpto: 18}, {From: 15, Upto: 20, DestinationFrom: 18, DestinationUpto: 29}}},
		{Base: 11, Position: 21, Started: true, DestinationFrom: 11, DestinationUpto: 31},
	}}}}
	w.must(state.save(t.Context(), w.journal()))
	w.must(w.journal().SaveFreeze(t.Context(), journal.Freeze{
		Execution: mine, State: journal.HandedOver, Before: map[string]string{"a": "", "b": "true"}, StartedAt: w.now, EndedAt: w.now, SettledAt: w.now,
		Proven: map[string][]int64{"a": {20, 21}, "b": {10}}, Sealed: map[string][]int64{"a": {30, 31}, "b": {10}},
		SealedAs: map[string]journal.Identity{"a": {UUID: "copy-a", Histories: []string{"h0", "h1"}}, "b": {UUID: "copy-b", Histories: []string{"h0"}}},
	}))
	// The first execution has left it so on purpose.
	w.source.settings.Persistent = map[string]string{keeping: "-*,+*"}
	_, err := w.journal().ReplaceUndo(t.Context(), journal.Undo{Execution: mine, Endpoint: "https://source", Setting: keeping, Set: "-*,+*", At: w.now, LeftAlone: keptOnPurpose}, "")
	w.must(err)
	_, err = w.journal().Close(t.Context(), mine, w.now)
	w.must(err)
	w.must(w.journal().End(t.Context(), mine, w.now))
	w.back = true
	w.forget()
	return w
}

// reach sets how far the shards of an index have come.
func (w *world) reach(d *domain, index string, numbers ...int64) {
	d.sequences[index] = nil
	for k, n := range numbers {
		d.sequences[index] = append(d.sequences[index], cluster.ShardSequence{Shard: k, MaxSeqNo: n, LocalCheckpoint: n, GlobalCheckpoint: n})
	}
}

func (w *world) planWayBack(input string) (PreflightOutput, error) {
	return preflight(w).Run(w.t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: comeback})
}

// backWorld is after the preflight of a way back by comeback.
func backWorld(t *testing.T) *world {
	t.Helper()
	w := handedOverWorld(t)
	_, err := w.planWayBack(backInput)
	w.must(err)
	w.forget()
	return w
}

func TestGoBackPlansTheOtherWay(t *testing.T) {
	w := handedOverWorld(t)
	out, err := w.planWayBack(backInput)
	w.must(err)
	if out.Migration != backName || out.Mode != migration.GoBack || out.ByRounds || !out.ByReplay || out.Indices != 2 || out.Engines.Source != "opensearch-2.19.0" || len(out.Warnings) > 0 {
		t.Errorf("%+v", out)
	}
	if w.count("source") > 0 || w.count("destination") > 0 {
		t.Errorf("a domain was touched: %q", w.log)
	}
	p, err := w.wayBack().Plan(t.Context(), comeback)
	w.must(err)
	if p.Spec.Source.Endpoint != "https://destination" || p.Spec.Destination.Endpoint != "https://source" || p.Spec.Migration != "orders" || p.Spec.Mode != migration.GoBack {
		t.Errorf("spec %+v", p.Spec)
	}
	want := []migration.PlannedIndex{
		{Name: "a", UUID: "copy-a", Shards: 2, Replicas: "1", WriteBlock: ""},
		{Name: "b", UUID: "copy-b", Shards: 1, Replicas: "1", WriteBlock: "true"},
	}
	if !slices.Equal(p.Indices, want) {
		t.Errorf("indices %+v", p.Indices)
	}
	state, err := readState(t.Context(), w.wayBack())
	w.must(err)
	wantStates := []replay.State{
		{Index: "a", SourceUUID: "copy-a", DestinationUUID: "uuid-a", Shards: []replay.ShardState{
			// Beyond the last block there were deletions, at either side.
			{Base: 10, Position: 30, History: "h0", Started: true, DestinationFrom: 20, DestinationUpto: 20, Highest: 20,
				Blocks: []replay.Block{{From: 10, Upto: 18, DestinationFrom: 10, DestinationUpto: 15}, {From: 18, Upto: 30, DestinationFrom: 15, DestinationUpto: 20}}},
			{Base: 11, Position: 31, History: "h1", Started: true, DestinationFrom: 21, DestinationUpto: 21, Highest: 21,
				Blocks: []replay.Block{{From: 11, Upto: 31, DestinationFrom: 11, DestinationUpto: 21}}},
		}},
		{Index: "b", SourceUUID: "copy-b", DestinationUUID: "uuid-b", Shards: []replay.ShardState{{Base: 10, Position: 10, History: "h0"}}},
	}
	if !reflect.DeepEqual(state.States, wantStates) {
		t.Errorf("states\n%+v\nwant\n%+v", state.States, wantStates)
	}
	for _, endpoint := range []string{"https://source", "https://destination"} {
		if l, err := w.store.Lease(t.Context(), endpoint); err != nil || l.Execution != comeback || !l.EndedAt.IsZero() {
			t.Errorf("lease of %s: %+v, %v", endpoint, l, err)
		}
	}
	// The journal of the migration is left as it was.
	if f := w.freezeState(); f.State != journal.HandedOver || f.Execution != mine {
		t.Errorf("freeze %+v", f)
	}
	if before, err := w.journal().ReadPlan(t.Context()); err != nil || before.Execution != mine {
		t.Errorf("plan of %s, %v", before.Execution, err)
	}
}

func TestGoBackNeedsAHandOver(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *world, f *journal.Freeze)
		input  string
		fault  fault.Name
		says   string
	}{
		"thawed":       {func(_ *world, f *journal.Freeze) { f.State = journal.Thawed }, backInput, fault.InvalidInput, "given back to the source"},
		"gone back":    {func(_ *world, f *journal.Freeze) { f.State = journal.WentBack }, backInput, fault.InvalidInput, "it went back already"},
		"frozen":       {func(_ *world, f *journal.Freeze) { f.State = journal.Frozen }, backInput, fault.Busy, "in state \"frozen\""},
		"other domain": {nil, strings.Replace(backInput, "https://destination", "https://elsewhere", 1), fault.InvalidInput, "$.destination: is https://elsewhere"},
		"exchanged": {nil, strings.NewReplacer("https://destination", "https://source", "https://source", "https://destination").Replace(backInput), fault.InvalidInput,
			"$.source: is https://destination"},
		"never frozen": {func(w *world, _ *journal.Freeze) { delete(w.objects, "migrations/orders/freeze.json") }, backInput, fault.InvalidInput, "has not handed over"},
		"being recorded": {func(w *world, _ *journal.Freeze) {
			w.must(w.wayBack().SaveFreeze(w.t.Context(), journal.Freeze{Execution: others, State: journal.HandedOver}))
		}, backInput, fault.Busy, others},
	} {
		t.Run(name, func(t *testing.T) {
			w := handedOverWorld(t)
			if c.change != nil {
				f := w.freezeState()
				c.change(w, &f)
				if _, there := w.objects["migrations/orders/freeze.json"]; there {
					w.must(w.journal().SaveFreeze(t.Context(), f))
				}
			}
			w.forget()
			_, err := w.planWayBack(c.input)
			wantFault(t, err, c.fault, c.says)
			w.wantLog()
		})
	}
}

func TestGoBackListsWhatCannotGo(t *testing.T) {
	refused := func(d *domain) { d.refuses = "flat_object" }
	flat := json.RawMessage(`{"properties":{"n":{"type":"flat_object"}}}`)
	hour := fmt.Sprint(time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC).UnixMilli())
	year := fmt.Sprint(time.Date(2025, 11, 22, 11, 0, 0, 0, time.UTC).UnixMilli())
	for name, c := range map[string]struct {
		change func(w *world)
		input  string   // default: all of it
		says   []string // of the fault; none: it can go back
		left   []string // and is left out
	}{
		"created since": {change: func(w *world) { w.destination.add("new", 1).Settings["index.creation_date"] = hour }, says: []string{"1 cannot go back", "index new: it was created at the destination since"}},
		"created since, excluded": {change: func(w *world) { w.destination.add("new", 1).Settings["index.creation_date"] = hour },
			input: strings.Replace(backInput, `"mode"`, `"indices": {"exclude": ["new"]}, "mode"`, 1), left: []string{"new: excluded by the input"}},
		"there before": {change: func(w *world) { w.destination.add("old", 1).Settings["index.creation_date"] = year }, left: []string{"old: it was at the destination before the migration"}},
		"no date":      {change: func(w *world) { w.destination.add("new", 1) }, says: []string{"index new: it was created"}},
		"deleted":      {change: func(w *world) { delete(w.destination.indices, "b") }, left: []string{"b: it was deleted at the destination"}},
		"closed":       {change: func(w *world) { w.destination.indices["b"].Open = false }, says: []string{"index b: it is closed at the destination"}},
		"excluded": {input: strings.Replace(backInput, `"mode"`, `"indices": {"exclude": ["b"]}, "mode"`, 1),
			left: []string{"b: excluded by the input; it stays at the destination"}},
		"recreated":                {change: func(w *world) { w.destination.indices["b"].UUID = "another" }, says: []string{"index b: it was deleted and created anew"}},
		"gone at the source":       {change: func(w *world) { delete(w.source.indices, "b") }, says: []string{"index b: the source has it no more"}},
		"another at the source":    {change: func(w *world) { w.source.indices["b"].UUID = "another" }, says: []string{"index b: the source has another index"}},
		"closed at the source":     {change: func(w *world) { w.source.indices["b"].Open = false }, says: []string{"index b: it is closed at the source"}},
		"written to at the source": {change: func(w *world) { w.reach(w.source, "a", 20, 22) }, says: []string{"index a: somebody has written to the source", "shard 1 is at sequence number 22, was 21"}},
		"went back in time":        {change: func(w *world) { w.reach(w.destination, "a", 29, 31) }, says: []string{"index a: shard 0 was restored"}},
		"another history":          {change: func(w *world) { w.destination.sequences["b"][0].HistoryUUID = "h9" }, says: []string{"index b: shard 0 was restored"}},
		"no source":                {change: func(w *world) { w.destination.mappings["b"] = json.RawMessage(`{"_source":{"enabled":false}}`) }, says: []string{"index b: its _source is disabled"}},
		"data stream": {change: func(w *world) {
			w.destination.streams = []cluster.DataStream{{Name: "events", Indices: []string{".ds-events-000001"}}}
			w.destination.add(".ds-events-000001", 1)
		}, says: []string{"data stream events: the replay cannot write"}},
		"replay's end lost": {change: func(w *world) { w.must((&replayState{}).save(w.t.Context(), w.journal())) }, says: []string{"index a: it went to the destination by replay, and the journal"}},
		"mapping": {change: func(w *world) { refused(w.source); w.destination.mappings["a"] = flat },
			says: []string{"index a: the source's engine refuses its mapping of now: No handler for type [flat_object]"}},
		"mapping that the source takes": {change: func(w *world) { w.destination.mappings["a"] = flat }},
		"everything at once": {change: func(w *world) {
			refused(w.source)
			w.destination.mappings["a"] = flat
			w.destination.indices["b"].UUID = "another"
			w.destination.add("new", 1)
		}, says: []string{"3 cannot go back", "index a: the source's engine", "index b: it was deleted", "index new: it was created"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := handedOverWorld(t)
			if c.change != nil {
				c.change(w)
			}
			w.forget()
			in := c.input
			if in == "" {
				in = backInput
			}
			out, err := w.planWayBack(in)
			if len(c.says) > 0 {
				wantFault(t, err, fault.Incompatible, append(c.says, "nothing has been touched")...)
				if _, err := w.wayBack().ReadPlan(t.Context()); err == nil {
					t.Error("a plan was written")
				}
			} else if w.must(err); len(out.LeftOut) != len(c.left) {
				t.Errorf("left out: %+v, want %q", out.LeftOut, c.left)
			}
			for i, want := range c.left {
				if have := out.LeftOut[i].Name + ": " + out.LeftOut[i].Reason; !strings.HasPrefix(have, want) {
					t.Errorf("left out %q, want %q", have, want)
				}
			}
			w.wantUntouched()
		})
	}
}

// wantUntouched is that both domains are as they were, but for what was made and deleted again.
func (w *world) wantUntouched() {
	w.t.Helper()
	made, deleted := w.count("source CreateIndex"), w.count("source DeleteIndex")
	if made > deleted || w.count("destination") > 0 || w.count("source") > made+deleted {
		w.t.Errorf("touched: %q", w.log)
	}
	if made > 0 {
		w.wantBefore("put back/undo", "source CreateIndex")
	}
	for name := range w.source.indices {
		if strings.Contains(name, "trial") {
			w.t.Errorf("index %s is still there", name)
		}
	}
	log, err := w.wayBack().UndoLog(w.t.Context())
	w.must(err)
	for _, u := range log {
		if u.Outstanding() {
			w.t.Errorf("not undone: %+v", u)
		}
	}
}

func TestGoBackTriesMappingsWithoutATrace(t *testing.T) {
	killedEverywhere(t, func(t *testing.T) *world {
		w := handedOverWorld(t)
		w.destination.mappings["a"] = json.RawMessage(`{"properties":{"m":{"type":"keyword"}}}`)
		w.forget()
		return w
	}, func(w *world) error {
		_, err := w.planWayBack(backInput)
		return err
	}, func(w *world) {
		if w.count("source CreateIndex") == 0 {
			w.t.Error("the mapping was not tried")
		}
		w.wantUntouched()
	})
	// What a killed trial has left behind is undone with the execution's end.
	w := handedOverWorld(t)
	w.destination.mappings["a"] = json.RawMessage(`{"properties":{"m":{"type":"keyword"}}}`)
	w.forget()
	w.answers["source DeleteIndex"] = []error{unknown("delete")}
	_, err := w.planWayBack(backInput)
	wantFault(t, err, fault.OutcomeUnknown)
	if _, there := w.source.indices[".domain-ferry-trial-orders"]; !there {
		t.Fatalf("there is nothing to undo: %q", w.log)
	}
	w.must(thaw(w).End(t.Context(), comeback))
	w.wantUntouched()
}

// A second attempt begins at the hand-over again, whatever has become of the destination's primaries and of an index that the first one had
// to drop: the first pass compares what is there.
func TestGoBackAgain(t *testing.T) {
	w := backWorld(t)
	state, err := readState(t.Context(), w.wayBack())
	w.must(err)
	state.Pass, state.Sealed = 2, false
	for i := range state.States {
		state.States[i].Shards[0].Position += 5
	}
	w.must(state.save(t.Context(), w.wayBack()))
	s, err := w.wayBack().Strategies(t.Context())
	w.must(err)
	s.Drop("b", "a document was refused")
	w.must(w.wayBack().SaveStrategies(t.Context(), s))
	w.reach(w.source, "a", 25, 21)
	w.reach(w.source, "b", 12)
	w.reach(w.destination, "b", 15)
	w.must(thaw(w).End(t.Context(), comeback))
	_, err = preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(backInput), Execution: others})
	w.must(err)
	next, err := readState(t.Context(), w.wayBack())
	w.must(err)
	if next.Pass != 2 || !next.Sealed || len(next.States) != 2 || next.States[0].Shards[0].Position != 30 || next.States[1].Shards[0].Position != 10 {
		t.Errorf("state %+v", next)
	}
	if s, err = w.wayBack().Strategies(t.Context()); err != nil || !s.Has("a") || !s.Has("b") || len(s.Dropped) > 0 {
		t.Errorf("strategies %+v, %v", s, err)
	}
}

func TestExchangedBlocks(t *testing.T) {
	block := func(f, u, df, du int64) replay.Block {
		return replay.Block{From: f, Upto: u, DestinationFrom: df, DestinationUpto: du}
	}
	for name, c := range map[string]struct {
		blocks                []replay.Block
		base, upto, otherUpto int64
		want                  []replay.Block
	}{
		"never written":         {nil, 7, 7, 7, nil},
		"deletions alone":       {nil, 7, 9, 8, []replay.Block{block(7, 9, 7, 8)}},
		"one":                   {[]replay.Block{block(7, 20, 7, 33)}, 7, 33, 20, []replay.Block{block(7, 33, 7, 20)}},
		"deletions at the end":  {[]replay.Block{block(7, 10, 7, 12), block(10, 20, 12, 33)}, 7, 40, 21, []replay.Block{block(7, 12, 7, 10), block(12, 40, 10, 21)}},
		"a gap":                 {[]replay.Block{block(7, 10, 7, 12), block(11, 20, 12, 33)}, 7, 33, 20, []replay.Block{block(7, 33, 7, 20)}},
		"not from the base":     {[]replay.Block{block(8, 20, 7, 33)}, 7, 33, 20, []replay.Block{block(7, 33, 7, 20)}},
		"beyond the hand-over":  {[]replay.Block{block(7, 20, 7, 34)}, 7, 33, 20, []replay.Block{block(7, 33, 7, 20)}},
		"from the first number": {[]replay.Block{block(-1, 3, -1, 5)}, -1, 5, 3, []replay.Block{block(-1, 5, -1, 3)}},
	} {
		if got := exchanged(c.blocks, c.base, c.upto, c.otherUpto); !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	f := journal.Freeze{Proven: map[string][]int64{"a": {5}}, Sealed: map[string][]int64{"a": {6}}}
	for name, before := range map[string]*replay.State{
		"other numbers after rounds": nil, "other shards": {Shards: make([]replay.ShardState, 2)}, "below the base": {Shards: []replay.ShardState{{Base: 9}}},
	} {
		if _, why := reversed("a", f, before); why == "" {
			t.Errorf("%s: not refused", name)
		}
	}
	if _, why := reversed("b", f, nil); why == "" {
		t.Error("without numbers: not refused")
	}
}

// A pass of the way back reads from the destination and writes to the source, whose own settings are off meanwhile.
func TestGoBackPass(t *testing.T) {
	w := backWorld(t)
	out, err := planReplay(w).Run(t.Context(), ReplayInput{Migration: backName, Execution: comeback})
	w.must(err)
	if out.Pass != 1 || len(out.Dropped) > 0 || w.source.block("a") != "" || w.source.indices["a"].Settings["index.final_pipeline"] != "" {
		t.Errorf("%+v, settings %+v", out, w.source.indices["a"].Settings)
	}
	if w.count("destination") > 0 {
		t.Errorf("the domain that takes the writes was changed: %q", w.log)
	}
	// Stopped now, it is as before.
	w.must(thaw(w).End(t.Context(), comeback))
	w.wantClosed()
	if w.count("destination") > 0 {
		t.Errorf("the domain that takes the writes was changed: %q", w.log)
	}
}

// wantClosed is that the source's indices are as the migration left them.
func (w *world) wantClosed() {
	w.t.Helper()
	for _, name := range []string{"a", "b"} {
		want := map[string]string{"index.blocks.write": "true", "index.final_pipeline": "stamp-" + name, "index.number_of_replicas": "1"}
		if have := w.source.indices[name].Settings; !reflect.DeepEqual(have, want) {
			w.t.Errorf("the source's %s has %v, want %v", name, have, want)
		}
	}
	if w.freezeState().State != journal.HandedOver {
		w.t.Errorf("freeze %+v", w.freezeState())
	}
}

// wayBackFrozen is in the cut-over of a way back: the destination is blocked, the source open for the replay's writes.
func wayBackFrozen(t *testing.T, state journal.FreezeState) *world {
	t.Helper()
	w := backWorld(t)
	for _, name := range []string{"a", "b"} {
		w.destination.indices[name].Settings["index.blocks.write"] = "true"
		w.source.indices[name].Settings = map[string]string{"index.gc_deletes": "0s", "index.number_of_replicas": "1"}
	}
	w.reach(w.source, "a", 25, 21)
	w.must(w.wayBack().SaveFreeze(t.Context(), journal.Freeze{Execution: comeback, State: state, Before: map[string]string{"a": "", "b": ""}, StartedAt: w.now,
		Proven: map[string][]int64{"a": {35, 31}, "b": {10}}, Sealed: map[string][]int64{"a": {25, 21}, "b": {10}}}))
	w.must(w.wayBack().SaveDocument(t.Context(), journal.VerificationFile, migration.Verification{Verdict: migration.Verified}))
	w.forget()
	return w
}

func (w *world) wayBackFreeze() journal.Freeze {
	w.t.Helper()
	f, _, err := w.wayBack().Freeze(w.t.Context())
	w.must(err)
	return f
}

func TestGoBackFinishes(t *testing.T) {
	killedEverywhere(t, func(t *testing.T) *world { return wayBackFrozen(t, journal.Frozen) }, func(w *world) error {
		out, err := finish(w).Run(w.t.Context(), FinishInput{Migration: backName, Execution: comeback})
		if err == nil && (out.Migration != "orders" || !strings.Contains(out.Next, "Point the clients at the source")) {
			w.t.Errorf("%+v", out)
		}
		return err
	}, func(w *world) {
		t := w.t
		for name, block := range map[string]string{"a": "", "b": "true"} {
			want := map[string]string{"index.final_pipeline": "stamp-" + name, "index.number_of_replicas": "1"}
			if block != "" {
				want["index.blocks.write"] = block
			}
			if have := w.source.indices[name].Settings; !reflect.DeepEqual(have, want) {
				t.Errorf("the source's %s has %v, want %v", name, have, want)
			}
			if w.destination.block(name) != "true" {
				t.Errorf("the destination's %s is open", name)
			}
		}
		if f := w.freezeState(); f.State != journal.WentBack || f.WentBackAt.IsZero() || w.wayBackFreeze().State != journal.HandedOver {
			t.Errorf("freeze %+v, of the way back %+v", f, w.wayBackFreeze())
		}
		if v, set := w.source.settings.Persistent[keeping]; set {
			t.Errorf("%s is still %s at the source", keeping, v)
		}
		var r report.Report
		if _, err := w.wayBack().Document(t.Context(), journal.ReportFile, &r); err != nil || !r.WentBack || r.Migration != "orders" || len(r.Warnings) > 0 ||
			!strings.HasPrefix(r.OpenSource, "PUT https://destination/a,b/_settings") {
			t.Errorf("report %+v, %v", r, err)
		}
	})
}

// After a way back nothing of the migration goes on under its name.
func TestAfterGoingBack(t *testing.T) {
	w := wayBackFrozen(t, journal.Frozen)
	_, err := finish(w).Run(t.Context(), FinishInput{Migration: backName, Execution: comeback})
	w.must(err)
	w.must(thaw(w).End(t.Context(), comeback))
	w.forget()
	_, err = preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: others})
	wantFault(t, err, fault.DestinationOccupied, "under another name")
	_, err = w.journal().Plan(t.Context(), "")
	wantFault(t, err, fault.DestinationOccupied)
	_, err = preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(backInput), Execution: others})
	wantFault(t, err, fault.InvalidInput, "it went back already")
	// A late event of the first execution changes nothing.
	out, err := thaw(w).Run(t.Context(), ThawInput{Execution: mine})
	if err != nil || out.State != journal.WentBack || !strings.Contains(out.Cause, "the source takes writes again") {
		t.Errorf("%+v, %v", out, err)
	}
	if w.count("source") > 0 || w.count("destination") > 0 {
		t.Errorf("touched: %q", w.log)
	}
}

// A Finish that came no further than the hand-over is finished by the thaw.
func TestThawFinishesGoingBack(t *testing.T) {
	w := wayBackFrozen(t, journal.HandedOver)
	out, err := thaw(w).Run(t.Context(), ThawInput{Execution: comeback})
	if err != nil || out.State != journal.HandedOver || !strings.Contains(out.Cause, "the verified source takes writes again") {
		t.Fatalf("%+v, %v", out, err)
	}
	if w.freezeState().State != journal.WentBack || w.source.settings.Persistent[keeping] != "" || w.destination.block("a") != "true" {
		t.Errorf("freeze %+v, settings %+v", w.freezeState(), w.source.settings)
	}
}

func TestThawOfAWayBack(t *testing.T) {
	for _, state := range []journal.FreezeState{journal.Frozen, journal.HandingOver} {
		killedEverywhere(t, func(t *testing.T) *world { return wayBackFrozen(t, state) }, func(w *world) error {
			_, err := thaw(w).Run(w.t.Context(), ThawInput{Execution: comeback})
			return err
		}, func(w *world) {
			if f := w.wayBackFreeze(); f.State != journal.Thawed || w.destination.block("a") != "" || w.destination.block("b") != "" {
				w.t.Errorf("the destination does not take writes: %+v", f)
			}
			w.wantClosed()
		})
	}
	w := wayBackFrozen(t, journal.Frozen)
	out, err := thaw(w).Run(t.Context(), ThawInput{Migration: backName, Execution: comeback, Failure: &Failure{Error: "Migration.VerificationFailed", Cause: "different"}})
	if err != nil || out.Error != "Migration.VerificationFailed" || !strings.Contains(out.Cause, "the destination takes writes again since") {
		t.Errorf("%+v, %v", out, err)
	}
	// Once the source has acknowledged a write, there is no way but forward.
	w = wayBackFrozen(t, journal.HandingOver)
	w.reach(w.source, "a", 26, 21)
	if out, err = thaw(w).Run(t.Context(), ThawInput{Execution: comeback}); err != nil || out.State != journal.HandedOver {
		t.Errorf("%+v, %v", out, err)
	}
	if w.source.block("a") != "" || w.source.block("b") != "true" || w.destination.block("a") != "true" || w.freezeState().State != journal.WentBack {
		t.Errorf("source %q %q, destination %q, freeze %+v", w.source.block("a"), w.source.block("b"), w.destination.block("a"), w.freezeState())
	}
}

// What the replay cannot bring over ends a way back before writes are stopped: it has no rounds to fall back to.
func TestGoBackEndsBeforeTheFreeze(t *testing.T) {
	decided := func(w *world) error {
		_, err := decide(w).Run(w.t.Context(), DecideInput{Migration: backName, Round: 1, Execution: comeback})
		return err
	}
	w := backWorld(t)
	w.must(decided(w))
	s, err := w.wayBack().Strategies(t.Context())
	w.must(err)
	s.Drop("b", "the destination refuses documents: number out of range: b7, b9")
	w.must(w.wayBack().SaveStrategies(t.Context(), s))
	wantFault(t, decided(w), fault.IndicesChanged, "index b cannot go back", "b7, b9", "from https://destination to https://source")
	w = backWorld(t)
	w.destination.add("new", 1)
	wantFault(t, decided(w), fault.IndicesChanged, "new")
	if w.destination.block("a") != "" {
		t.Error("writes were stopped")
	}
}
