package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
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

// replayWorld has closed copies of a and b, both on replay, with the same mapping on both sides.
func replayWorld(t *testing.T) *world {
	t.Helper()
	w := plannedWorld(t)
	w.copies("orders-r0002", false)
	w.replaying("a", "b")
	for _, d := range []*domain{w.source, w.destination} {
		for _, x := range []string{"a", "b"} {
			d.mappings[x] = json.RawMessage(`{"properties":{"n":{"type":"long"}}}`)
		}
	}
	w.replay.cut = []replay.Slice{{Number: 0, Parts: []replay.Range{{Index: "a", Upto: 20}}}, {Number: 1, Parts: []replay.Range{{Index: "b", Upto: 20}}}}
	return w
}

func pass(n int, final bool) ReplayInput {
	return ReplayInput{Migration: "orders", Pass: n, Final: final, Execution: mine}
}

// wantPassLog is wantLog for what is written side by side.
func (w *world) wantPassLog(want ...string) {
	w.t.Helper()
	aside := func(a, b string) int {
		if strings.HasPrefix(a, "put replay/") && path.Dir(a) == path.Dir(b) && (strings.Contains(a, "/slices/") || strings.Contains(a, "/deletes/")) {
			return strings.Compare(a, b)
		}
		return 0
	}
	slices.SortStableFunc(w.log, aside)
	w.wantLog(want...)
}

func runPlanReplay(w *world, final bool) (PlanReplayOutput, error) {
	return planReplay(w).Run(w.t.Context(), pass(0, final))
}

const during = "blocks.write=<nil> gc_deletes=0s on "

func TestPlanReplay(t *testing.T) {
	w := replayWorld(t)
	out, err := runPlanReplay(w, false)
	want := PlanReplayOutput{Pass: 1, StartedAt: w.now, Operations: 7, Slices: []int{0, 1}, Dropped: []string{}, Deletes: []int{}}
	if err != nil || !reflect.DeepEqual(out, want) {
		t.Fatalf("%+v, %v, want %+v", out, err, want)
	}
	planned := []string{"put replay/0001/slices/0000.json", "put replay/0001/slices/0001.json", "put replay/0001/plan.json", "put replay/state.json"}
	w.wantPassLog(append([]string{"destination Open a,b", "destination UpdateSettings " + during + "a,b"}, planned...)...)
	// From the checkpoints of the base round, not those of another one.
	bases := []replay.State{replay.NewState("a", "uuid-a", []int64{10, 11}, nil), replay.NewState("b", "uuid-b", []int64{10}, nil)}
	if !reflect.DeepEqual(w.replay.planned, [][]replay.State{bases}) || w.replay.options[0].Frozen {
		t.Errorf("planned %+v with %+v", w.replay.planned, w.replay.options)
	}
	// Again, before the pass is over: the same number and base, and the copies are ready already.
	w.forget()
	if again, err := runPlanReplay(w, true); err != nil || again.Pass != 1 || !w.replay.options[1].Frozen || !reflect.DeepEqual(w.replay.planned[1], bases) {
		t.Errorf("%+v, %v, %+v", again, err, w.replay.options)
	}
	w.wantPassLog(planned...)
	// When the pass is over the next one has the next number and goes on from where it ended.
	if _, err := reconcileDeletes(w).Run(t.Context(), ReconcileDeletesInput{ReplayInput: pass(1, false)}); err != nil {
		t.Fatal(err)
	}
	if out, err := runPlanReplay(w, false); err != nil || out.Pass != 2 || w.replay.planned[2][0].Shards[0].Position != 110 || w.replay.planned[2][0].Shards[0].Base != 10 {
		t.Errorf("%+v, %v, %+v", out, err, w.replay.planned[2])
	}
}

// What the journal knows of the index before its snapshot goes into its base, so that the first pass notices what became of it since.
func TestPlanReplayBaseHasIdentity(t *testing.T) {
	w := replayWorld(t)
	w.checkpoints(journal.Checkpoints{Round: 4, PerShard: map[string][]int64{"a": {10, 11}},
		Identities: map[string]journal.Identity{"a": {UUID: "uuid-then", Histories: []string{"h0", "h1"}}}})
	w.must(w.journal().SaveStrategies(t.Context(), migration.Strategies{Replay: []migration.OnReplay{{Index: "a", Base: 4}}}))
	if _, err := runPlanReplay(w, false); err != nil {
		t.Fatal(err)
	}
	want := replay.NewState("a", "uuid-then", []int64{10, 11}, []string{"h0", "h1"})
	if got := w.replay.planned[0]; !reflect.DeepEqual(got, []replay.State{want}) || got[0].Shards[1].History != "h1" {
		t.Errorf("planned %+v, want %+v", got, want)
	}
}

// Refreshes of the copies do not wait for merges, where the domain can be told so, until all is over.
func TestReplayHoldsMerges(t *testing.T) {
	w := replayWorld(t)
	w.destination.merges = true
	w.source.indices["b"].Settings[replay.MergeOnRefresh] = "true"
	for range 2 {
		if _, err := runPlanReplay(w, false); err != nil {
			t.Fatal(err)
		}
	}
	held := 0
	for _, line := range w.log {
		if strings.HasPrefix(line, "destination UpdateSettings merge_on_flush") {
			held++
		}
	}
	if held != 1 || !slices.Contains(w.log, "destination UpdateSettings merge_on_flush.enabled=false on a,b") {
		t.Errorf("log %q", w.log)
	}
	p, err := w.journal().Plan(t.Context(), mine)
	w.must(err)
	f, _, err := w.journal().Freeze(t.Context())
	w.must(err)
	_, err = settle(t.Context(), w.journal(), w.source, w.destination, p, f, w)
	w.must(err)
	a, b := w.destination.indices["a"].Settings, w.destination.indices["b"].Settings
	if v, set := a[replay.MergeOnRefresh]; set || b[replay.MergeOnRefresh] != "true" {
		t.Errorf("a has %q (%t), b %q", v, set, b[replay.MergeOnRefresh])
	}
}

func TestPlanReplayPipelines(t *testing.T) {
	w := replayWorld(t)
	w.destination.indices["a"].Settings["index.final_pipeline"] = "stamp"
	w.destination.indices["b"].Open = true
	w.destination.indices["b"].Settings = map[string]string{"index.gc_deletes": "0s"}
	if _, err := runPlanReplay(w, false); err != nil {
		t.Fatal(err)
	}
	w.wantPassLog("destination Open a", "destination UpdateSettings blocks.write=<nil> final_pipeline=<nil> gc_deletes=0s on a",
		"put replay/0001/slices/0000.json", "put replay/0001/slices/0001.json", "put replay/0001/plan.json", "put replay/state.json")
}

// small has one slice, so that PlanReplay brings the pass over itself.
func small(t *testing.T) *world {
	t.Helper()
	w := replayWorld(t)
	w.replay.cut = []replay.Slice{{Parts: []replay.Range{{Index: "a", Upto: 20}, {Index: "b", Upto: 20}}}}
	w.replay.results = []replay.SliceResult{{Done: true, Documents: 3, Bytes: 30}}
	w.replay.deletes = []replay.DeleteResult{{Done: true, SharedDeleted: 1, ReplayedDeleted: 1, Written: []replay.ShardWritten{{ShardRef: replay.ShardRef{Index: "b"}, Operations: 2}}}}
	return w
}

// smallLast is small with a warm pass behind it.
func smallLast(t *testing.T) *world {
	t.Helper()
	w := small(t)
	if out, err := runPlanReplay(w, false); err != nil || !out.Done {
		t.Fatalf("%+v, %v", out, err)
	}
	w.replay.results = slices.Repeat([]replay.SliceResult{{Done: true, Documents: 5, Bytes: 50}}, 9)
	w.replay.deletes = slices.Repeat([]replay.DeleteResult{{Done: true, SharedDeleted: 7}}, 9)
	w.forget()
	return w
}

func TestSmallPass(t *testing.T) {
	w := small(t)
	out, err := runPlanReplay(w, false)
	want := migration.Pass{Number: 1, Execution: mine, StartedAt: w.now, FinishedAt: w.now, Documents: 3, Bytes: 30, Deleted: 2}
	if err != nil || !out.Done || out.Pass != 1 || *out.Record != want {
		t.Fatalf("%+v, record %+v, %v, want %+v", out, out.Record, err, want)
	}
	kept, err := w.journal().Passes(t.Context())
	if s := w.state(); err != nil || len(kept) != 1 || kept[0] != want || s.Pass != 1 || s.Reconciled != 1 || s.Sealed || len(s.Rest) != 0 ||
		s.States[0].Shards[0].Position != 110 || s.States[1].Shards[0].Written != 2 {
		t.Errorf("%+v, kept %+v, %v", s, kept, err)
	}
	if w.count("destination AddWriteBlock") != 0 || w.count("put replay/0001/") != 0 {
		t.Errorf("%v", w.log)
	}
}

func TestLastSmallPass(t *testing.T) {
	w := smallLast(t)
	w.source.mappings["b"] = json.RawMessage(`{"properties":{"n":{"type":"long"},"late":{"type":"keyword"}}}`)
	w.source.aliases = map[string]map[string]json.RawMessage{"b": {"late": json.RawMessage(`{}`)}}
	out, err := runPlanReplay(w, true)
	if err != nil || !out.Done || out.Pass != 2 || out.Record.Documents != 5 || out.Record.Deleted != 7 || !out.Record.Final {
		t.Fatalf("%+v, %+v, %v", out, out.Record, err)
	}
	s := w.state()
	if !s.Sealed || s.Pass != 2 || s.Reconciled != 2 || w.destination.block("a") != "true" || w.destination.block("b") != "true" {
		t.Errorf("%+v, blocks %q, %q", s, w.destination.block("a"), w.destination.block("b"))
	}
	if string(w.destination.mappings["b"]) != string(w.source.mappings["b"]) || w.destination.aliases["b"]["late"] == nil {
		t.Error("what changed since the warm pass is not at the copy")
	}
	if w.reads["destination Indices"] != 1 || w.reads["destination Refresh"] != 1 {
		t.Errorf("%v: the copies were ready", w.reads)
	}
	w.wantBefore("put replay/state.json", "destination AddWriteBlock")
	// Deletions are looked for after the pass: what it updated is none.
	if a := w.replay.reconciled[1][0]; a.Shards[0].Position != 210 {
		t.Errorf("reconciled %+v", a)
	}
	// The freeze was taken back: the next pass opens the copies again, even a last one.
	w.forget()
	if out, err := runPlanReplay(w, true); err != nil || !out.Done || out.Pass != 3 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantBefore("destination UpdateSettings blocks.write=<nil>", "destination AddWriteBlock")
}

// What PlanReplay cannot do at once is left to the other states, and they lose nothing of what it did.
func TestSmallPassLeftToOthers(t *testing.T) {
	slow := fault.Newf(fault.Throttled, "write", "destination", "slow down")
	finish := func(w *world, out PlanReplayOutput, final bool) (r migration.Pass) {
		t.Helper()
		if out.Done || out.Record != nil {
			t.Fatalf("%+v", out)
		}
		in := ReconcileDeletesInput{ReplayInput: pass(out.Pass, final)}
		for _, n := range out.Slices {
			x, err := replaySlice(w).Run(t.Context(), ReplaySlice{ReplayInput: in.ReplayInput, StartedAt: out.StartedAt, Slice: n})
			if err != nil || !x.Done {
				t.Fatalf("%+v, %v", x, err)
			}
			in.Slices = append(in.Slices, x)
		}
		if d, err := reconcileDeletes(w).Run(t.Context(), in); err != nil || !d.Done {
			t.Fatalf("%+v, %v", d, err)
		}
		r, err := recordPass(w).Run(t.Context(), RecordPassInput{ReplayInput: in.ReplayInput, StartedAt: out.StartedAt})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, final := range []bool{false, true} {
		arrange := func() *world {
			if final {
				return smallLast(t)
			}
			return small(t)
		}
		rest := []replay.Range{{Index: "b", From: 12, Upto: 20}}
		part := replay.SliceResult{Rest: rest, Documents: 2, Blocks: []replay.ShardBlock{{Index: "b", Written: 2}}}
		for name, err := range map[string]error{"slice fails": slow, "slice runs out of time": nil} {
			w := arrange()
			w.replay.results = []replay.SliceResult{part, {Done: true, Documents: 1, Blocks: []replay.ShardBlock{{Index: "b", Written: 1}}}}
			w.replay.sliceErr = []error{err}
			asked := len(w.replay.slices)
			out, err := runPlanReplay(w, final)
			if err != nil || len(out.Slices) != 1 {
				t.Fatalf("%s: %+v, %v", name, out, err)
			}
			r := finish(w, out, final)
			last := w.replay.advanced[len(w.replay.advanced)-1]
			if r.Documents != 3 || len(last) != 1 || len(last[0].Blocks) != 2 || !reflect.DeepEqual(w.replay.slices[asked+1].Parts, rest) {
				t.Errorf("%s, final %t: %+v, advanced with %+v, asked for %+v", name, final, r, last, w.replay.slices[asked:])
			}
		}
		w := arrange()
		w.answers["replay ReconcileDeletes"] = []error{slow}
		out, err := runPlanReplay(w, final)
		if err != nil || len(out.Slices) != 0 {
			t.Fatalf("%+v, %v", out, err)
		}
		asked := len(w.replay.slices)
		if r := finish(w, out, final); len(w.replay.slices) != asked || r.Documents == 0 || len(w.replay.advanced) != map[bool]int{false: 1, true: 2}[final] {
			t.Errorf("final %t: %+v", final, r)
		}
		if final && w.destination.block("b") != "true" {
			t.Error("the copies are not sealed")
		}
	}
	w := smallLast(t)
	w.answers["destination AddWriteBlock"] = []error{unknown("add block")}
	out, err := runPlanReplay(w, true)
	if err != nil {
		t.Fatal(err)
	}
	if r := finish(w, out, true); r.Documents != 5 || w.destination.block("b") != "true" {
		t.Errorf("%+v", r)
	}
	// What asking again does not get over is an error at once.
	w = smallLast(t)
	w.replay.results = []replay.SliceResult{{Rest: []replay.Range{{Index: "b", Upto: 20}}}}
	w.replay.sliceErr = []error{fault.Newf(fault.AccessDenied, "write", "destination", "no permissions")}
	if _, err := runPlanReplay(w, true); !fault.Is(err, fault.AccessDenied) {
		t.Errorf("%v", err)
	}
	// An index that the destination refuses in the freeze, and foreign writes, found by a small pass.
	w = smallLast(t)
	w.replay.results = []replay.SliceResult{{Done: true, Drops: []replay.Drop{{Index: "b", Reason: "documents are refused"}}}}
	_, err = runPlanReplay(w, true)
	wantFault(t, err, fault.IndicesChanged, "index b", "documents are refused")
	w = smallLast(t)
	w.replay.deletes = []replay.DeleteResult{{Done: true, Missing: 5, MissingIn: []string{"b"}}}
	_, err = runPlanReplay(w, true)
	wantFault(t, err, fault.VerificationFailed, "5 documents")
	if on, _ := w.strategies(); on != "a" {
		t.Errorf("on replay %s", on)
	}
}

func TestSmallPassKilled(t *testing.T) {
	for final, arrange := range map[bool]func(*testing.T) *world{
		true: smallLast,
		false: func(t *testing.T) *world {
			w := small(t)
			w.replay.results = slices.Repeat(w.replay.results, 9)
			return w
		},
	} {
		killedEverywhere(t, arrange, func(w *world) error {
			out, err := runPlanReplay(w, final)
			if err == nil && !out.Done {
				w.t.Errorf("%+v", out)
			}
			return err
		}, func(w *world) {
			s := w.state()
			sealed := w.destination.block("a") == "true" && w.destination.block("b") == "true"
			if s.Pass == 0 || s.Reconciled != s.Pass || s.Sealed != final || sealed != final {
				w.t.Errorf("%+v, sealed %t", s, sealed)
			}
		})
	}
}

func TestPlanReplayLeavesOthersAlone(t *testing.T) {
	w := replayWorld(t)
	w.replaying("b")
	w.must(w.journal().SaveDocument(t.Context(), stateFile(), replayState{Pass: 3, States: []replay.State{replay.NewState("a", "uuid-a", []int64{1, 1}, nil), replay.NewState("old", "u", []int64{1}, nil)}}))
	w.forget()
	if out, err := runPlanReplay(w, false); err != nil || out.Pass != 4 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantPassLog("destination Open b", "destination UpdateSettings "+during+"b",
		"put replay/0004/slices/0000.json", "put replay/0004/slices/0001.json", "put replay/0004/plan.json", "put replay/state.json")
	if s := w.state(); !slices.Equal(s.names(), []string{"b"}) {
		t.Errorf("states of %v", s.names())
	}
}

func TestPlanReplayMappings(t *testing.T) {
	w := replayWorld(t)
	w.destination.mappings["a"] = json.RawMessage(`{ "properties" : { "n" : { "type" : "long" } } }`) // the same
	w.source.mappings["b"] = json.RawMessage(`{"properties":{"n":{"type":"long"},"new":{"type":"keyword"}}}`)
	if _, err := runPlanReplay(w, false); err != nil {
		t.Fatal(err)
	}
	if w.count("destination PutMapping") != 1 || string(w.destination.mappings["b"]) != string(w.source.mappings["b"]) {
		t.Errorf("%v", w.log)
	}
	w.wantBefore("destination PutMapping b", "put replay/0001/plan.json")

	w = replayWorld(t)
	w.source.mappings["b"] = json.RawMessage(`{"properties":{"new":{"type":"odd"}}}`)
	w.answers["destination PutMapping"] = []error{unknown("put mapping")}
	if _, err := runPlanReplay(w, false); !fault.Is(err, fault.OutcomeUnknown) {
		t.Errorf("504: %v", err)
	}
}

func TestPlanReplayDrops(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		says   string
	}{
		"no base": {func(w *world) {
			w.must(w.journal().SaveStrategies(w.t.Context(), migration.Strategies{Replay: []migration.OnReplay{{Index: "a", Base: 2}, {Index: "b", Base: 9}}}))
		}, "no checkpoints were recorded"},
		"not eligible":    {func(w *world) { w.source.mappings["b"] = json.RawMessage(`{"_source":{"enabled":false}}`) }, "_source is disabled"},
		"mapping refused": {func(w *world) { refuseMapping(w) }, "the destination refuses the source's mapping"},
		"by its history":  {func(w *world) { w.replay.drops = []replay.Drop{{Index: "b", Reason: "another history"}} }, "another history"},
	} {
		t.Run(name, func(t *testing.T) {
			w := replayWorld(t)
			c.change(w)
			out, err := runPlanReplay(w, false)
			if err != nil || len(out.Dropped) != 1 || !strings.HasPrefix(out.Dropped[0], "b: ") || !strings.Contains(out.Dropped[0], c.says) {
				t.Fatalf("%+v, %v", out, err)
			}
			on, left := w.strategies()
			if on != "a" || len(left) != 1 || left[0].Name != "b" || !strings.Contains(left[0].Reason, c.says) {
				t.Errorf("on replay %s, dropped %+v", on, left)
			}
			// The pass does not write to it: not now and not by way of its plan.
			p, err := readPass(t.Context(), w.journal(), pass(1, false))
			if s := w.state(); err != nil || !slices.Equal(s.names(), []string{"a"}) || len(p.States) != 1 || p.States[0].Index != "a" {
				t.Errorf("states of %v, pass %+v, %v", s.names(), p.States, err)
			}
			// It is dropped once and stays so.
			w.replay.drops = nil
			if out, err := runPlanReplay(w, false); err != nil || len(out.Dropped) != 0 || len(w.replay.planned[len(w.replay.planned)-1]) != 1 {
				t.Errorf("again: %+v, %v", out, err)
			}
			if _, left := w.strategies(); len(left) != 1 {
				t.Errorf("dropped %+v", left)
			}
			// In the freeze no round could bring it up to date any more.
			w = replayWorld(t)
			c.change(w)
			_, err = runPlanReplay(w, true)
			wantFault(t, err, fault.IndicesChanged, "index b", c.says)
			if on, _ := w.strategies(); on != "a" {
				t.Errorf("in the freeze: on replay %s; the next execution would try again", on)
			}
		})
	}
}

func refuseMapping(w *world) {
	w.source.mappings["b"] = json.RawMessage(`{"properties":{"old":{"type":"odd"}}}`)
	w.answers["destination PutMapping"] = []error{fault.Newf(fault.RequestRefused, "put mapping", "destination", "no handler for type [odd]")}
}

func TestPlanReplayKilled(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := replayWorld(t)
		w.source.mappings["a"] = json.RawMessage(`{"properties":{"n":{"type":"long"},"m":{"type":"long"}}}`)
		w.replay.drops = []replay.Drop{{Index: "b", Reason: "another history"}}
		return w
	}
	killedEverywhere(t, arrange, func(w *world) error {
		out, err := runPlanReplay(w, false)
		if err == nil && out.Pass != 1 {
			w.t.Errorf("%+v", out)
		}
		return err
	}, func(w *world) {
		on, left := w.strategies()
		if s := w.state(); on != "a" || len(left) != 1 || !slices.Equal(s.names(), []string{"a"}) || s.Pass != 0 {
			w.t.Errorf("on replay %s, dropped %+v, %+v", on, left, s)
		}
		if !w.destination.indices["a"].Open || w.destination.block("a") != "" || w.destination.indices["a"].Settings["index.gc_deletes"] != "0s" ||
			string(w.destination.mappings["a"]) != string(w.source.mappings["a"]) {
			w.t.Errorf("the copy is not ready: %+v", w.destination.indices["a"])
		}
		if _, err := readPass(w.t.Context(), w.journal(), pass(1, false)); err != nil {
			w.t.Error(err)
		}
	})
}

func TestReplaySlice(t *testing.T) {
	w := replayWorld(t)
	if _, err := runPlanReplay(w, false); err != nil {
		t.Fatal(err)
	}
	w.forget()
	rest := []replay.Range{{Index: "b", From: 12, Upto: 20}}
	w.replay.results = []replay.SliceResult{{Rest: rest, Documents: 2, Bytes: 20}, {Done: true, Documents: 3, Bytes: 30}}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(time.Minute))
	defer cancel()
	in := ReplaySlice{ReplayInput: pass(1, false), Slice: 1}
	out, err := replaySlice(w).Run(ctx, in)
	want := in
	want.Call, want.Rest, want.Documents, want.Bytes = 1, rest, 2, 20
	if err != nil || !reflect.DeepEqual(out, want) {
		t.Fatalf("%+v, %v, want %+v", out, err, want)
	}
	if end, _ := ctx.Deadline(); !w.replay.deadline.Equal(end) {
		t.Errorf("deadline %v, want the invocation's", w.replay.deadline)
	}
	// The state machine gives the output back as it is.
	b, err := json.Marshal(out)
	w.must(err)
	var again ReplaySlice
	w.must(json.Unmarshal(b, &again))
	if out, err = replaySlice(w).Run(ctx, again); err != nil || !out.Done || out.Call != 2 || out.Documents != 5 || out.Bytes != 50 {
		t.Errorf("%+v, %v", out, err)
	}
	if !reflect.DeepEqual(w.replay.slices, []replay.Slice{{Number: 1, Parts: []replay.Range{{Index: "b", Upto: 20}}}, {Number: 1, Parts: rest}}) {
		t.Errorf("asked for %+v", w.replay.slices)
	}
	w.wantLog("put replay/0001/slices/0001-0000.json", "put replay/0001/slices/0001-0001.json")
}

func TestReplaySliceAnswers(t *testing.T) {
	w := replayWorld(t)
	_, err := replaySlice(w).Run(t.Context(), ReplaySlice{ReplayInput: pass(1, false)})
	wantFault(t, err, fault.JournalMissing, "slice 0 of pass 1 was not planned")
	if _, err := runPlanReplay(w, false); err != nil {
		t.Fatal(err)
	}
	_, err = replaySlice(w).Run(t.Context(), ReplaySlice{ReplayInput: pass(1, false), Slice: 7})
	wantFault(t, err, fault.JournalMissing, "slice 7 of pass 1 was not planned")
	// What was done beside an error is in the journal, and the call is not counted.
	w.forget()
	w.replay.results, w.replay.sliceErr = []replay.SliceResult{{Documents: 4}}, []error{fault.Newf(fault.Throttled, "write", "destination", "slow down")}
	out, err := replaySlice(w).Run(t.Context(), ReplaySlice{ReplayInput: pass(1, false)})
	wantFault(t, err, fault.Throttled)
	var kept replay.SliceResult
	if found, err := w.journal().Document(t.Context(), resultFile(1, 0, 0), &kept); err != nil || !found || kept.Documents != 4 || out.Call != 0 || out.Done {
		t.Errorf("%+v, kept %+v, %v", out, kept, err)
	}
	// Another execution has taken over.
	in := ReplaySlice{ReplayInput: pass(1, false)}
	in.Execution = others
	asked := len(w.replay.slices)
	if _, err := replaySlice(w).Run(t.Context(), in); !fault.Is(err, fault.Superseded) || len(w.replay.slices) != asked {
		t.Errorf("superseded: %v", err)
	}
}

// Attempts at one call are one result; those at another plan of the same number are not taken for it.
func TestReplaySliceGoesOnWhereAnAttemptFailed(t *testing.T) {
	w := replayWorld(t)
	planned, err := runPlanReplay(w, false)
	if err != nil {
		t.Fatal(err)
	}
	in := ReplaySlice{ReplayInput: pass(1, false), StartedAt: planned.StartedAt}
	rest := []replay.Range{{Index: "a", From: 12, Upto: 20}}
	block := func(n int64) []replay.ShardBlock { return []replay.ShardBlock{{Index: "a", Written: n}} }
	w.replay.results = []replay.SliceResult{{Rest: rest, Documents: 4, Blocks: block(4)}, {Done: true, Documents: 3, Blocks: block(3)}, {Done: true, Documents: 9}}
	w.replay.sliceErr = []error{fault.Newf(fault.Throttled, "write", "destination", "slow down")}
	if _, err := replaySlice(w).Run(t.Context(), in); !fault.Is(err, fault.Throttled) {
		t.Fatal(err)
	}
	for range 2 { // the second time the answer was lost
		out, err := replaySlice(w).Run(t.Context(), in)
		var kept sliceCall
		if _, err := w.journal().Document(t.Context(), resultFile(1, 0, 0), &kept); err != nil || len(kept.Blocks) != 2 {
			t.Errorf("kept %+v, %v", kept, err)
		}
		if err != nil || !out.Done || out.Documents != 7 || len(w.replay.slices) != 2 || !reflect.DeepEqual(w.replay.slices[1].Parts, rest) {
			t.Errorf("%+v, %v, asked for %+v", out, err, w.replay.slices)
		}
	}
	in.StartedAt = in.StartedAt.Add(time.Second)
	if out, err := replaySlice(w).Run(t.Context(), in); err != nil || out.Documents != 9 || len(w.replay.slices) != 3 {
		t.Errorf("another plan: %+v, %v", out, err)
	}
}

func TestReplaySliceKilled(t *testing.T) {
	killedEverywhere(t, func(t *testing.T) *world {
		w := replayWorld(t)
		_, err := runPlanReplay(w, false)
		w.must(err)
		w.forget()
		w.replay.results = slices.Repeat([]replay.SliceResult{{Done: true, Documents: 3}}, 9)
		return w
	}, func(w *world) error {
		out, err := replaySlice(w).Run(w.t.Context(), ReplaySlice{ReplayInput: pass(1, false)})
		if err == nil && (out.Documents != 3 || out.Call != 1) {
			w.t.Errorf("%+v", out)
		}
		return err
	}, func(w *world) {
		if w.objects["migrations/orders/"+resultFile(1, 0, 0)] == "" || w.objects["migrations/orders/"+resultFile(1, 0, 1)] != "" {
			w.t.Errorf("results %v, want that of call 0 alone", slices.Sorted(maps.Keys(w.objects)))
		}
	})
}

// replayed has pass 1 planned and its slices done: slice 0 in two calls.
func replayed(t *testing.T) *world {
	t.Helper()
	w := replayWorld(t)
	_, err := runPlanReplay(w, false)
	w.must(err)
	for file, n := range map[string]int64{resultFile(1, 0, 0): 1, resultFile(1, 0, 1): 2, resultFile(1, 1, 0): 3} {
		w.must(w.journal().SaveDocument(t.Context(), file, replay.SliceResult{Documents: n}))
	}
	w.forget()
	return w
}

func runReconcile(w *world, final bool) (ReconcileDeletesOutput, error) {
	return reconcileDeletes(w).Run(w.t.Context(), ReconcileDeletesInput{ReplayInput: pass(1, final), Slices: []ReplaySlice{{Slice: 0, Call: 2}, {Slice: 1, Call: 1}}})
}

func TestReconcileDeletes(t *testing.T) {
	w := replayed(t)
	all := []replay.ShardRef{{Index: "a", Shard: 0}, {Index: "a", Shard: 1}, {Index: "b", Shard: 0}}
	w.replay.deletes = []replay.DeleteResult{
		{Rest: all[1:], SharedDeleted: 2, ReplayedDeleted: 1, Written: []replay.ShardWritten{{ShardRef: all[0], Operations: 3}}}, {Done: true, SharedDeleted: 4},
	}
	if out, err := runReconcile(w, false); err != nil || out.Done || out.Deleted != 3 {
		t.Fatalf("%+v, %v", out, err)
	}
	if out, err := runReconcile(w, false); err != nil || !out.Done || out.Deleted != 7 {
		t.Fatalf("%+v, %v", out, err)
	}
	if out, err := runReconcile(w, false); err != nil || !out.Done || out.Deleted != 7 {
		t.Fatalf("over: %+v, %v", out, err)
	}
	if !reflect.DeepEqual(w.replay.shards, [][]replay.ShardRef{all, all[1:]}) {
		t.Errorf("asked for %v", w.replay.shards)
	}
	if len(w.replay.advanced) != 1 || !reflect.DeepEqual(w.replay.advanced[0], []replay.SliceResult{{Documents: 1}, {Documents: 2}, {Documents: 3}}) {
		t.Errorf("advanced with %+v, want once, with every call's result", w.replay.advanced)
	}
	s := w.state()
	if a, _ := s.state("a"); s.Pass != 1 || s.Reconciled != 1 || len(s.Rest) != 0 || a.Shards[0].Position != 110 || a.Shards[0].Written != 3 {
		t.Errorf("%+v", s)
	}
}

func TestReconcileDeletesOfNothing(t *testing.T) {
	w := replayWorld(t)
	w.must(w.journal().SaveDocument(t.Context(), passFile(1), passPlan{Number: 1}))
	w.forget()
	if out, err := reconcileDeletes(w).Run(t.Context(), ReconcileDeletesInput{ReplayInput: pass(1, false)}); err != nil || !out.Done || len(w.replay.shards) != 0 {
		t.Errorf("%+v, %v", out, err)
	}
	_, err := reconcileDeletes(w).Run(t.Context(), ReconcileDeletesInput{ReplayInput: pass(2, false)})
	wantFault(t, err, fault.JournalMissing, "pass 2 was not planned")
}

func TestReconcileDeletesDropsWhatSlicesDropped(t *testing.T) {
	for _, final := range []bool{false, true} {
		w := replayed(t)
		w.must(w.journal().SaveDocument(t.Context(), resultFile(1, 1, 0), replay.SliceResult{Done: true, Drops: []replay.Drop{{Index: "b", Reason: "documents are refused", IDs: []string{"7"}}}}))
		out, err := runReconcile(w, final)
		if on, left := w.strategies(); on != "a" || len(left) != 1 || left[0].Name != "b" || left[0].Reason != "documents are refused" {
			t.Errorf("final %t: on replay %s, dropped %+v", final, on, left)
		}
		if final {
			wantFault(t, err, fault.IndicesChanged, "index b", "documents are refused", "7")
			continue
		}
		s := w.state()
		if err != nil || !out.Done || !slices.Equal(s.names(), []string{"a"}) || len(w.replay.shards[0]) != 2 {
			t.Errorf("%+v, %v, states of %v, asked for %v", out, err, s.names(), w.replay.shards)
		}
	}
}

func TestReconcileDeletesFindsForeignWrites(t *testing.T) {
	for _, final := range []bool{false, true} {
		w := replayed(t)
		// The rest still has a shard of the index that is dropped now.
		w.replay.deletes = []replay.DeleteResult{{Missing: 5, MissingIn: []string{"b"}, Rest: []replay.ShardRef{{Index: "a", Shard: 1}, {Index: "b", Shard: 0}}}}
		out, err := runReconcile(w, final)
		on, left := w.strategies()
		if on != "a" || len(left) != 1 || !strings.Contains(left[0].Reason, "somebody else wrote there") {
			t.Errorf("final %t: on replay %s, dropped %+v", final, on, left)
		}
		if final {
			wantFault(t, err, fault.VerificationFailed, "replay b", "5 documents")
			continue
		}
		if err != nil || out.Done {
			t.Fatalf("%+v, %v", out, err)
		}
		if out, err := runReconcile(w, false); err != nil || !out.Done || !reflect.DeepEqual(w.replay.shards[1], []replay.ShardRef{{Index: "a", Shard: 1}}) {
			t.Errorf("%+v, %v, asked for %v", out, err, w.replay.shards)
		}
	}
}

func TestReconcileDeletesAnswers(t *testing.T) {
	w := replayed(t)
	w.replay.deletes = []replay.DeleteResult{{SharedDeleted: 2, Written: []replay.ShardWritten{{ShardRef: replay.ShardRef{Index: "b"}, Operations: 2}}}}
	w.answers["replay ReconcileDeletes"] = []error{unknown("delete")}
	_, err := runReconcile(w, false)
	wantFault(t, err, fault.OutcomeUnknown)
	s := w.state()
	if b, _ := s.state("b"); s.Pass != 1 || s.Reconciled != 0 || s.Deleted != 2 || b.Shards[0].Written != 2 || len(s.Rest) != 3 {
		t.Errorf("what was done beside the error is lost: %+v", s)
	}
	if out, err := runReconcile(w, false); err != nil || !out.Done || out.Deleted != 2 || len(w.replay.advanced) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestReconcileDeletesKilled(t *testing.T) {
	killedEverywhere(t, replayed, func(w *world) error {
		out, err := runReconcile(w, false)
		if err == nil && !out.Done {
			w.t.Errorf("%+v", out)
		}
		return err
	}, func(w *world) {
		s := w.state()
		if a, _ := s.state("a"); s.Pass != 1 || s.Reconciled != 1 || a.Shards[0].Position != 110 {
			w.t.Errorf("%+v: the pass is not taken in once", s)
		}
	})
}

// large is replayed with so much to do that each shard's deletions are a part of their own.
func large(t *testing.T) *world {
	t.Helper()
	w := replayed(t)
	w.replay.grow = 200_000
	return w
}

func runPart(w *world, n int, final bool) (ReconcileDeletesOutput, error) {
	return reconcileDeletes(w).Run(w.t.Context(), ReconcileDeletesInput{ReplayInput: pass(1, final), Part: &n})
}

func runRecordFirst(w *world, final bool) (migration.Pass, error) {
	return recordPass(w).Run(w.t.Context(), RecordPassInput{ReplayInput: pass(1, final), StartedAt: w.now})
}

func TestDeletesInParts(t *testing.T) {
	w := large(t)
	all := []replay.ShardRef{{Index: "a", Shard: 0}, {Index: "a", Shard: 1}, {Index: "b", Shard: 0}}
	for range 2 { // the first answer was lost
		out, err := runReconcile(w, false)
		if err != nil || out.Done || !slices.Equal(out.Parts, []int{0, 1, 2}) || len(w.replay.shards) != 0 || len(w.replay.advanced) != 1 {
			t.Fatalf("%+v, %v, asked for %v", out, err, w.replay.shards)
		}
	}
	_, err := runRecordFirst(w, false)
	wantFault(t, err, fault.JournalMissing, "part")
	written := func(ref replay.ShardRef, n int64) []replay.ShardWritten {
		return []replay.ShardWritten{{ShardRef: ref, Operations: n}}
	}
	w.replay.deletes = []replay.DeleteResult{
		{Rest: all[1:2], SharedDeleted: 2, Written: written(all[1], 2)},
		{Done: true, ReplayedDeleted: 1, Written: written(all[1], 1), Settled: all[1:2], Equal: []replay.ShardVerified{{ShardRef: all[1]}}},
		{Done: true, Settled: all[:1]},
		{Done: true, SharedDeleted: 4, Written: written(all[2], 4)},
	}
	for i, want := range []ReconcileDeletesOutput{{Parts: []int{}, Deleted: 2}, {Done: true, Parts: []int{}, Deleted: 3}, {Done: true, Parts: []int{}, Deleted: 3}} {
		if out, err := runPart(w, 1, false); err != nil || !reflect.DeepEqual(out, want) {
			t.Errorf("call %d: %+v, %v, want %+v", i, out, err, want)
		}
	}
	before := w.state()
	for _, n := range []int{0, 2} {
		if out, err := runPart(w, n, false); err != nil || !out.Done {
			t.Errorf("%+v, %v", out, err)
		}
	}
	// Each is asked for its own shards alone, with their states, and the one that was done already is not asked for again.
	if want := [][]replay.ShardRef{all[1:2], all[1:2], all[:1], all[2:]}; !reflect.DeepEqual(w.replay.shards, want) {
		t.Errorf("asked for %v, want %v", w.replay.shards, want)
	}
	if got := w.replay.reconciled[0]; len(got) != 1 || got[0].Index != "a" || got[0].Shards[1].Position != 200_011 || got[0].Shards[0].Position != 0 {
		t.Errorf("the states of part 1: %+v", got)
	}
	if !reflect.DeepEqual(w.state(), before) {
		t.Error("parts side by side changed the state that they share")
	}
	for range 2 {
		p, err := runRecordFirst(w, false)
		s := w.state()
		a, _ := s.state("a")
		b, _ := s.state("b")
		if err != nil || p.Deleted != 7 || p.Documents != 6 || s.Reconciled != 1 || len(s.Rest) != 0 || s.Parts != 0 {
			t.Fatalf("%+v, %v, %+v", p, err, s)
		}
		mark := replay.Mark{Source: 200_011, Destination: 3}
		if a.Shards[1].Written != 3 || b.Shards[0].Written != 4 || *a.Shards[1].Reconciled != mark || a.Shards[1].Verified.Mark != mark ||
			a.Shards[0].Verified != nil || b.Shards[0].Reconciled != nil {
			t.Errorf("%+v, %+v", a, b)
		}
	}
}

func TestDeletePartAnswers(t *testing.T) {
	w := large(t)
	_, err := runPart(w, 0, false)
	wantFault(t, err, fault.JournalMissing, "pass 1 has no part 0")
	if _, err := runReconcile(w, false); err != nil {
		t.Fatal(err)
	}
	// What was done beside an error is done, and what is not known to be done is asked for again.
	w.replay.deletes = []replay.DeleteResult{{SharedDeleted: 2}, {Done: true, SharedDeleted: 1}}
	w.answers["replay ReconcileDeletes"] = []error{unknown("delete")}
	_, err = runPart(w, 0, false)
	wantFault(t, err, fault.OutcomeUnknown)
	if out, err := runPart(w, 0, false); err != nil || !out.Done || out.Deleted != 3 || !reflect.DeepEqual(w.replay.shards[1], []replay.ShardRef{{Index: "a"}}) {
		t.Errorf("%+v, %v, asked for %v", out, err, w.replay.shards)
	}
	// The result of another cut of the same number is not this one's.
	w.must(w.journal().SaveDocument(t.Context(), partFile(1, 0), deletePart{Shards: []replay.ShardRef{{Index: "b"}}, States: w.state().States}))
	if out, err := runPart(w, 0, false); err != nil || !out.Done || out.Deleted != 0 || len(w.replay.shards) != 3 {
		t.Errorf("%+v, %v, asked for %v", out, err, w.replay.shards)
	}
	in := ReconcileDeletesInput{ReplayInput: pass(1, false), Part: new(0)}
	in.Execution = others
	if _, err := reconcileDeletes(w).Run(t.Context(), in); !fault.Is(err, fault.Superseded) || len(w.replay.shards) != 3 {
		t.Errorf("superseded: %v", err)
	}
}

func TestDeletePartsFindForeignWrites(t *testing.T) {
	for _, final := range []bool{false, true} {
		w := large(t)
		if _, err := runReconcile(w, final); err != nil {
			t.Fatal(err)
		}
		w.replay.deletes = []replay.DeleteResult{{Done: true}, {Done: true}, {Done: true, Missing: 5, MissingIn: []string{"b"}}}
		for n := range 3 {
			if out, err := runPart(w, n, final); err != nil || !out.Done {
				t.Fatalf("%+v, %v", out, err)
			}
		}
		for range 2 {
			_, err := runRecordFirst(w, final)
			if on, left := w.strategies(); on != "a" || len(left) != 1 || !strings.Contains(left[0].Reason, "somebody else wrote there") {
				t.Errorf("final %t: on replay %s, dropped %+v", final, on, left)
			}
			if final {
				wantFault(t, err, fault.VerificationFailed, "replay b", "5 documents")
			} else if s := w.state(); err != nil || !slices.Equal(s.names(), []string{"a"}) {
				t.Errorf("%v, states of %v", err, s.names())
			}
		}
	}
}

func TestDeletesInPartsKilled(t *testing.T) {
	done := func(w *world) *world {
		w.replay.deletes = slices.Repeat([]replay.DeleteResult{{Done: true, SharedDeleted: 2, Written: []replay.ShardWritten{{ShardRef: replay.ShardRef{Index: "b"}, Operations: 2}}}}, 9)
		return w
	}
	handedOut := func(t *testing.T) *world {
		w := done(large(t))
		_, err := runReconcile(w, true)
		w.must(err)
		w.forget()
		return w
	}
	t.Run("handed out", func(t *testing.T) {
		killedEverywhere(t, large, func(w *world) error {
			out, err := runReconcile(w, false)
			if err == nil && (out.Done || len(out.Parts) != 3) {
				w.t.Errorf("%+v", out)
			}
			return err
		}, func(w *world) {
			s := w.state()
			if a, _ := s.state("a"); s.Pass != 1 || s.Reconciled != 0 || s.Parts != 3 || len(s.Rest) != 3 || a.Shards[0].Position != 200_010 {
				w.t.Errorf("%+v: the pass is not taken in once", s)
			}
			for n := range 3 {
				if w.objects["migrations/orders/"+partFile(1, n)] == "" {
					w.t.Errorf("part %d is missing", n)
				}
			}
		})
	})
	t.Run("part", func(t *testing.T) {
		killedEverywhere(t, handedOut, func(w *world) error { _, err := runPart(w, 2, true); return err }, func(w *world) {
			var r partResult
			if found, err := w.journal().Document(w.t.Context(), partResultFile(1, 2), &r); err != nil || !found || !r.Done || r.SharedDeleted != 2 {
				w.t.Errorf("%+v, %v", r, err)
			}
		})
	})
	t.Run("collected", func(t *testing.T) {
		killedEverywhere(t, func(t *testing.T) *world {
			w := handedOut(t)
			for n := range 3 {
				_, err := runPart(w, n, true)
				w.must(err)
			}
			w.forget()
			return w
		}, func(w *world) error { _, err := runRecordFirst(w, true); return err }, func(w *world) {
			s := w.state()
			passes, err := w.journal().Passes(w.t.Context())
			if b, _ := s.state("b"); err != nil || s.Reconciled != 1 || s.Deleted != 6 || b.Shards[0].Written != 6 || !s.Sealed || len(passes) != 1 || passes[0].Deleted != 6 {
				w.t.Errorf("%+v, passes %+v, %v: the parts are not taken in once", s, passes, err)
			}
			w.wantBefore("put replay/state.json", "destination AddWriteBlock")
		})
	})
}

// A pass of one slice whose deletions are many brings its documents over at once, and leaves the deletions to calls side by side.
func TestSmallPassLeavesManyDeletions(t *testing.T) {
	for _, final := range []bool{false, true} {
		w := small(t)
		if final {
			w = smallLast(t)
		}
		w.replay.grow = 200_000
		asked := len(w.replay.shards)
		if final {
			// Already known to Plan, so that nothing is looked for beside the writes.
			s := w.state()
			for _, x := range s.States {
				for k := range x.Shards {
					x.Shards[k].Position += 200_000
				}
			}
			w.must(s.save(t.Context(), w.journal()))
		}
		out, err := runPlanReplay(w, final)
		if err != nil || out.Done || !out.Brought || len(out.Slices) != 0 || !slices.Equal(out.Deletes, []int{0, 1, 2}) || len(w.replay.shards) != asked {
			t.Fatalf("final %t: %+v, %v, asked for %v", final, out, err, w.replay.shards)
		}
		in := pass(out.Pass, final)
		w.replay.deletes = slices.Repeat([]replay.DeleteResult{{Done: true, SharedDeleted: 2}}, 3)
		for _, n := range out.Deletes {
			if d, err := reconcileDeletes(w).Run(t.Context(), ReconcileDeletesInput{ReplayInput: in, Part: &n}); err != nil || !d.Done {
				t.Fatalf("%+v, %v", d, err)
			}
		}
		r, err := recordPass(w).Run(t.Context(), RecordPassInput{ReplayInput: in, StartedAt: out.StartedAt})
		if err != nil || r.Deleted != 6 || r.Documents == 0 || w.state().Reconciled != out.Pass || w.state().Sealed != final {
			t.Errorf("final %t: %+v, %v, %+v", final, r, err, w.state())
		}
	}
}

// What deletions are looked for in is what Plan has found to have moved.
func TestDeletionsOfMovedShards(t *testing.T) {
	w := replayed(t)
	var p passPlan
	if _, err := w.journal().Document(t.Context(), passFile(1), &p); err != nil || len(p.Pass.Moved) != 3 || len(p.Pass.Slices) != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	p.Pass.Moved = []replay.ShardRef{{Index: "gone"}, {Index: "a", Shard: 1}}
	w.must(w.journal().SaveDocument(t.Context(), passFile(1), p))
	if out, err := runReconcile(w, false); err != nil || !out.Done || !reflect.DeepEqual(w.replay.shards, [][]replay.ShardRef{{{Index: "a", Shard: 1}}}) {
		t.Errorf("%+v, %v, asked for %v", out, err, w.replay.shards)
	}
	w.must(w.journal().SaveDocument(t.Context(), stateFile(), replayState{}))
	p.Pass.Moved = nil
	w.must(w.journal().SaveDocument(t.Context(), passFile(1), p))
	if out, err := runReconcile(w, false); err != nil || !out.Done || len(w.replay.shards) != 1 {
		t.Errorf("nothing moved: %+v, %v, asked for %v", out, err, w.replay.shards)
	}
}

func runRecordPass(w *world, final bool) (migration.Pass, error) {
	return recordPass(w).Run(w.t.Context(), RecordPassInput{ReplayInput: pass(4, final), StartedAt: w.now.Add(-3 * time.Second)})
}

// sealable has open copies; only b is on replay. The source's aliases of b have changed.
func sealable(t *testing.T) *world {
	t.Helper()
	w := replayWorld(t)
	w.replaying("b")
	for _, x := range []string{"a", "b"} {
		w.destination.indices[x].Open = true
		delete(w.destination.indices[x].Settings, "index.blocks.write")
	}
	plain, filtered := json.RawMessage(`{}`), json.RawMessage(`{"filter":{"term":{"n":1}}}`)
	w.source.aliases = map[string]map[string]json.RawMessage{"a": {"all": plain}, "b": {"all": plain, "some": filtered}}
	w.destination.aliases = map[string]map[string]json.RawMessage{"b": {"all": plain, "old": plain}}
	w.reconciled(t, replay.NewState("b", "uuid-b", []int64{10}, nil))
	return w
}

// reconciled has pass 4 in the states, which are those of the indices on replay.
func (w *world) reconciled(t *testing.T, states ...replay.State) {
	t.Helper()
	w.must(w.journal().SaveDocument(t.Context(), stateFile(), replayState{Pass: 4, Reconciled: 4, States: states, Documents: 5, Bytes: 50, Deleted: 6}))
	w.forget()
}

func TestRecordPass(t *testing.T) {
	w := sealable(t)
	p, err := runRecordPass(w, false)
	want := migration.Pass{Number: 4, Execution: mine, StartedAt: w.now.Add(-3 * time.Second), FinishedAt: w.now, Documents: 5, Bytes: 50, Deleted: 6, Seconds: 3}
	kept, kerr := w.journal().Passes(t.Context())
	if err != nil || kerr != nil || p != want || !reflect.DeepEqual(kept, []migration.Pass{want}) {
		t.Errorf("%+v, kept %+v, want %+v, %v, %v", p, kept, want, err, kerr)
	}
	w.wantLog("put passes/0004.json")

	w = sealable(t)
	if p, err := runRecordPass(w, true); err != nil || !p.Final {
		t.Fatalf("%+v, %v", p, err)
	}
	w.wantLog("put replay/state.json", "destination AddWriteBlock b",
		`destination UpdateAliases true b/old , false b/some {"filter":{"term":{"n":1}}}`, "put passes/0004.json")
	if !w.state().Sealed {
		t.Error("the journal does not know that the copies are blocked")
	}
	// Nothing on replay any more: nothing to seal.
	w = sealable(t)
	w.reconciled(t)
	if _, err := runRecordPass(w, true); err != nil {
		t.Fatal(err)
	}
	w.wantLog("put passes/0004.json")
	w = sealable(t)
	w.source.aliases, w.destination.aliases = nil, nil
	if _, err := runRecordPass(w, true); err != nil {
		t.Fatal(err)
	}
	w.wantLog("put replay/state.json", "destination AddWriteBlock b", "put passes/0004.json")
}

func TestRecordPassKilled(t *testing.T) {
	killedEverywhere(t, sealable, func(w *world) error { _, err := runRecordPass(w, true); return err }, func(w *world) {
		if w.destination.block("b") != "true" || w.destination.block("a") != "" || !reflect.DeepEqual(w.destination.aliases["b"], w.source.aliases["b"]) || w.destination.aliases["a"] != nil {
			w.t.Errorf("block %q, aliases %s", w.destination.block("b"), w.destination.aliases)
		}
		if p, err := w.journal().Passes(w.t.Context()); err != nil || len(p) != 1 {
			w.t.Errorf("%+v, %v", p, err)
		}
		w.wantBefore("destination AddWriteBlock b", "destination UpdateAliases")
	})
}

// A round has nothing to do with an index on replay, from its snapshot to its record.
func TestRoundLeavesReplayAlone(t *testing.T) {
	for _, final := range []bool{false, true} {
		w := replayWorld(t)
		w.replaying("b")
		w.destination.indices["a"].Open, w.destination.indices["b"].Open = true, true
		w.destination.sequences["b"][0].MaxSeqNo = 500
		delete(w.source.indices, "b") // whatever becomes of it
		w.forget()
		if _, err := runSnapshot(w, round(3, final)); err != nil || !slices.Equal(w.source.requested.Indices, []string{"a"}) {
			t.Fatalf("%v, snapshot of %v", err, w.source.requested.Indices)
		}
		c, _, err := w.journal().Checkpoints(t.Context(), 3)
		if err != nil || !reflect.DeepEqual(c.PerShard, map[string][]int64{"a": {10, 11}}) {
			t.Errorf("checkpoints %+v, %v", c, err)
		}
		if out, err := runRestore(w, round(3, final)); err != nil || out.Indices != 1 {
			t.Fatalf("%+v, %v", out, err)
		}
		out, err := pollStatus(w).Run(t.Context(), PollStatusInput{round(3, final), "restore", w.now})
		if err != nil || !out.Done || out.Restore.Indices != 1 || out.Restore.Shards != 2 {
			t.Fatalf("%+v, %v", out, err)
		}
		in := recordInput(final)
		in.Round = 3
		if _, err := recordRound(w).Run(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		for _, line := range w.log {
			if _, names, _ := strings.Cut(line, "destination "); strings.HasSuffix(names, "b") {
				t.Errorf("final %t: %s", final, line)
			}
		}
		if b := w.destination.indices["b"]; !b.Open || b.Settings["index.blocks.write"] != "true" {
			t.Errorf("the copy of b was touched: %+v", b)
		}
	}
	w := replayWorld(t) // all of them: engines would take a snapshot of everything
	out, err := runSnapshot(w, round(3, false))
	if err != nil || !out.Unchanged || out.Accepted {
		t.Errorf("%+v, %v", out, err)
	}
	w.wantLog("put checkpoints/0003.json")
}

// A pass beside a round puts b back on rounds: the round under way goes on without it, the next one has it.
func TestIndexDroppedBesideARound(t *testing.T) {
	w := replayWorld(t)
	w.replaying("b")
	w.destination.indices["a"].Open, w.destination.indices["b"].Open = true, true
	if _, err := runSnapshot(w, round(3, false)); err != nil {
		t.Fatal(err)
	}
	w.must(w.journal().SaveStrategies(t.Context(), migration.Strategies{Dropped: []migration.Dropped{{Name: "b", Reason: "why"}}}))
	w.forget()
	if out, err := runRestore(w, round(3, false)); err != nil || out.Indices != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantLog("destination Close a", "destination Restore orders-r0003 a")
	if out, err := pollStatus(w).Run(t.Context(), PollStatusInput{round(3, false), "restore", w.now}); err != nil || !out.Done {
		t.Errorf("%+v, %v", out, err)
	}
	w.source.running = nil
	if _, err := runSnapshot(w, round(4, false)); err != nil || !slices.Equal(w.source.requested.Indices, []string{"a", "b"}) {
		t.Fatalf("%v, snapshot of %v", err, w.source.requested.Indices)
	}
	if out, err := runRestore(w, round(4, false)); err != nil || out.Indices != 2 {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestMeasures(t *testing.T) {
	w := plannedWorld(t)
	w.copies("orders-r0002", true)
	w.source.snapshots["orders-r0002"] = cluster.Snapshot{State: cluster.SnapshotSuccess, StartTime: w.now, EndTime: w.now}
	w.source.progress = cluster.Progress{Indices: map[string]cluster.IndexProgress{"a": {IncrementalBytes: 7}, "b": {IncrementalBytes: 9}}}
	check := func(what string, want map[string]migration.Measure) {
		t.Helper()
		if _, err := poll(w, what, false); err != nil {
			t.Fatal(err)
		}
		if got, err := w.journal().Measures(t.Context(), 2); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("after the %s: %+v, %v, want %+v", what, got, err, want)
		}
	}
	taken := map[string]migration.Measure{"a": {Snapshot: 7}, "b": {Snapshot: 9}}
	both := map[string]migration.Measure{"a": {Snapshot: 7, Recovered: 80, Reused: 120}, "b": {Snapshot: 9, Recovered: 40, Reused: 60}}
	// Every poll may be answered twice.
	check("snapshot", taken)
	check("snapshot", taken)
	check("restore", both)
	check("restore", both)
	// A replica's recovery and another snapshot's are not the round's.
	w.destination.recoveries = append(w.destination.recoveries, cluster.ShardRecovery{Index: "a", Type: "SNAPSHOT", Snapshot: "orders-r0002", RecoveredBytes: 1 << 30},
		cluster.ShardRecovery{Index: "a", Primary: true, Type: "SNAPSHOT", Snapshot: "orders-r0001", RecoveredBytes: 1 << 30})
	check("restore", both)
}

func TestVerifyReplayed(t *testing.T) {
	arrange := func() *world {
		w := restoredWorld(t)
		w.replaying("b")
		w.destination.sequences["b"][0].MaxSeqNo = 500 // replayed: other numbers than the source's
		w.must(w.journal().SaveDocument(t.Context(), stateFile(), replayState{Pass: 2, States: []replay.State{replay.NewState("b", "uuid-b", []int64{10}, nil)}}))
		w.replay.evidence = []replay.Evidence{{Index: "b", OK: true, SharedSource: 50, SharedDestination: 50, SharedBuckets: 3, ReplayedSource: 10, ReplayedDestination: 10, Hashed: 10}}
		w.forget()
		return w
	}
	check := func(w *world) (found migration.Check, sequences []string) {
		var v migration.Verification
		_, err := w.journal().Document(t.Context(), journal.VerificationFile, &v)
		w.must(err)
		for _, c := range v.Checks {
			switch c.Name {
			case "replayed-documents":
				found = c
			case "sequence-numbers":
				sequences = append(sequences, c.Index)
			}
		}
		return found, sequences
	}
	w := arrange()
	out, err := runVerify(w)
	if err != nil || out.Verdict != migration.Verified || out.Checks != 12 {
		t.Fatalf("%+v, %v", out, err)
	}
	c, sequences := check(w)
	if c.Outcome != migration.Passed || c.Index != "b" || !strings.Contains(c.Evidence, "shared region 50 and 50 documents") || !strings.Contains(c.Evidence, "10 equal by hash") {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(sequences, []string{"a"}) {
		t.Errorf("sequence numbers of %v were compared", sequences)
	}
	if strings.Contains(c.Evidence, "were compared by a pass") {
		t.Errorf("%q: no pass has compared anything", c.Evidence)
	}
	w = arrange()
	w.replay.evidence[0].Shards, w.replay.evidence[0].Unmoved = 5, 4
	if _, err := runVerify(w); err != nil {
		t.Fatal(err)
	}
	if c, _ := check(w); !strings.Contains(c.Evidence, "4 of 5 shards were compared by a pass") {
		t.Errorf("%+v", c)
	}
	if len(w.replay.verified) != 1 || w.replay.verified[0].Index != "b" || !w.replay.deadline.After(w.now) {
		t.Errorf("verified %+v until %v", w.replay.verified, w.replay.deadline)
	}
	for name, c := range map[string]struct {
		change  func(*world)
		outcome migration.Outcome
		says    string
	}{
		"different": {func(w *world) {
			w.replay.evidence[0].OK, w.replay.evidence[0].Different, w.replay.evidence[0].Reason = false, 4, "4 documents differ"
		}, migration.Broken, "6 equal by hash 4 documents differ"},
		"no evidence": {func(w *world) { w.replay.evidence = nil }, migration.Unknown, "no state of the index"},
		"of another":  {func(w *world) { w.replay.evidence[0].Index = "a" }, migration.Unknown, "no state of the index"},
	} {
		w := arrange()
		c.change(w)
		_, err := runVerify(w)
		wantFault(t, err, fault.VerificationFailed, "replayed-documents of index b", c.says)
		if got, _ := check(w); got.Outcome != c.outcome {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// An index on rounds is still compared by its numbers.
	w = arrange()
	w.destination.sequences["a"][0].MaxSeqNo = 500
	_, err = runVerify(w)
	wantFault(t, err, fault.VerificationFailed, "sequence-numbers of index a")
	w = arrange()
	w.answers["replay Verify"] = []error{unknown("verify")}
	if _, err := runVerify(w); !fault.Is(err, fault.OutcomeUnknown) {
		t.Errorf("504: %v", err)
	}
	w.wantLog()
}

// finishedReplay is a verified migration with a on replay, whose copy has other numbers than the source, and pipelines at the source.
func finishedReplay(t *testing.T) *world {
	t.Helper()
	w := finishable(t)
	w.replaying("a")
	w.destination.sequences["a"][0].MaxSeqNo = 500
	w.source.indices["a"].Settings["index.final_pipeline"] = "stamp"
	w.destination.indices["a"].Settings["index.gc_deletes"] = "0s"
	w.must(w.journal().SavePass(t.Context(), migration.Pass{Number: 1, Final: true}))
	w.forget()
	return w
}

func TestFinishReplayed(t *testing.T) {
	w := finishedReplay(t)
	if _, err := runFinish(w); err != nil {
		t.Fatal(err)
	}
	w.wantLog(
		"destination UpdateSettings final_pipeline=stamp on a",
		"put freeze.json handingOver",
		"destination UpdateSettings blocks.write=<nil> on a",
		"destination UpdateSettings blocks.write=true on b",
		"put freeze.json handedOver",
		"destination UpdateSettings auto_expand_replicas=0-1 number_of_replicas=2 refresh_interval=30s on b",
		"destination UpdateSettings auto_expand_replicas=<nil> gc_deletes=<nil> number_of_replicas=1 refresh_interval=<nil> on a",
		"put freeze.json handedOver",
		"put cutovers/0001.json",
		"put report.json",
	)
	if f := w.freezeState(); !reflect.DeepEqual(f.Sealed, map[string][]int64{"a": {500, 11}, "b": {10}}) {
		t.Errorf("sealed %v", f.Sealed)
	}
	var r report.Report
	if _, err := w.journal().Document(t.Context(), journal.ReportFile, &r); err != nil || len(r.Passes) != 1 || r.Indices[0].LastMile != migration.LastMileReplay ||
		r.Indices[0].Reason == "" || r.Indices[1].LastMile != migration.LastMileRounds || r.Indices[1].Reason != "" {
		t.Errorf("%+v, %v", r, err)
	}
}

// What clients wrote while a Finish that died was opening the destination must not become the seal of its repetition.
func TestFinishSealsOnce(t *testing.T) {
	w := finishedReplay(t)
	w.killAt = 2 // the first index takes writes, the second is not opened yet
	w.killAfter = true
	if _, err := runFinish(w); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	if w.freezeState().State != journal.HandingOver || w.destination.block("a") != "" {
		t.Fatalf("%+v, a %q", w.freezeState(), w.destination.block("a"))
	}
	w.killAt, w.dead = -1, false
	w.destination.sequences["a"][1].MaxSeqNo++
	if _, err := runFinish(w); err != nil {
		t.Fatal(err)
	}
	if f := w.freezeState(); f.State != journal.HandedOver || !reflect.DeepEqual(f.Sealed, map[string][]int64{"a": {500, 11}, "b": {10}}) {
		t.Errorf("%+v", f)
	}
}

func TestFinishReplayedKilled(t *testing.T) {
	killedEverywhere(t, finishedReplay, func(w *world) error { _, err := runFinish(w); return err }, func(w *world) {
		a := w.destination.indices["a"].Settings
		if w.freezeState().State != journal.HandedOver || w.destination.block("a") != "" || a["index.final_pipeline"] != "stamp" || a["index.gc_deletes"] != "" {
			w.t.Errorf("%+v, %v", w.freezeState(), a)
		}
		w.wantBefore("destination UpdateSettings final_pipeline=stamp", "put freeze.json handingOver")
		w.wantBefore("put freeze.json handingOver", "destination UpdateSettings blocks.write")
	})
}

// With replayed indices too, a Finish that died is taken back as long as no write arrived, and goes forward when one did.
func TestThawAfterAKilledFinishOfReplayed(t *testing.T) {
	quiet := finishedReplay(t)
	if _, err := runFinish(quiet); err != nil {
		t.Fatal(err)
	}
	for at := range quiet.changes {
		for _, after := range []bool{false, true} {
			for _, written := range []bool{false, true} {
				w := finishedReplay(t)
				w.killAt, w.killAfter = at, after
				if _, err := runFinish(w); !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				w.killAt, w.dead = -1, false
				open := w.destination.block("a") == ""
				if written && !open {
					continue // nobody can write
				}
				if written {
					w.destination.sequences["a"][1].MaxSeqNo++
				}
				over := w.freezeState().State == journal.HandedOver || written
				out, err := runThaw(w)
				name := fmt.Sprintf("killed at %d, after %t, written %t", at, after, written)
				if err != nil || (out.State == journal.HandedOver) != over || out.State != w.freezeState().State {
					t.Errorf("%s: %+v, %v", name, out, err)
				}
				if source, destination := w.source.block("a") == "", w.destination.block("a") == ""; source == over || destination != over {
					t.Errorf("%s: source writable %t, destination writable %t", name, source, destination)
				}
			}
		}
	}
}
