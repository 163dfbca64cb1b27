package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/repository"
)

// noBlobs is a repository of which nothing can be read.
func noBlobs(migration.Repository) repository.BlobReader { return unreadable{} }

type unreadable struct{}

func (unreadable) Get(context.Context, string) ([]byte, error) {
	return nil, errors.New("no such object")
}

// warmed is a world after a warm round of a and b by the steps themselves, from n on: copies are closed, holds recorded.
func warmed(t *testing.T) *world {
	t.Helper()
	w := plannedWorld(t)
	w.warm(1)
	w.forget()
	return w
}

// warm runs a warm round as the round machine does, without its copy.
func (w *world) warm(n int) {
	w.t.Helper()
	w.must(w.runRound(n))
}

func (w *world) runRound(n int) error {
	ctx := w.t.Context()
	out, err := runSnapshot(w, round(n, false))
	if err != nil {
		return err
	}
	in := RecordRoundInput{RoundInput: round(n, false), StartedAt: out.StartedAt}
	if !out.Unchanged {
		s := w.source.snapshots[out.Snapshot]
		s.State = cluster.SnapshotSuccess
		w.source.snapshots[out.Snapshot] = s
		polled, err := pollStatus(w).Run(ctx, PollStatusInput{RoundInput: round(n, false), What: pollSnapshot, StartedAt: w.now})
		if err != nil || !polled.Done {
			return fmt.Errorf("snapshot %+v: %w", polled, err)
		}
		if _, err := runRestore(w, round(n, false)); err != nil {
			return err
		}
		restored, err := pollStatus(w).Run(ctx, PollStatusInput{RoundInput: round(n, false), What: pollRestore, StartedAt: w.now})
		if err != nil || !restored.Done {
			return fmt.Errorf("restore %+v: %w", restored, err)
		}
		in.Snapshot, in.Restore = *polled.Snapshot, *restored.Restore
	}
	_, err = recordRound(w).Run(ctx, in)
	return err
}

func (w *world) holds() map[string]journal.Hold {
	w.t.Helper()
	h, err := w.journal().Holds(w.t.Context())
	w.must(err)
	return h
}

// write makes an index come further by one acknowledged operation.
func (d *domain) write(index string) {
	s := &d.sequences[index][0]
	s.MaxSeqNo, s.LocalCheckpoint, s.GlobalCheckpoint = s.MaxSeqNo+1, s.LocalCheckpoint+1, s.GlobalCheckpoint+1
}

func TestRoundSkipsWhatHasNotChanged(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*world)
		skipped bool // index a
	}{
		"nothing":                             {func(*world) {}, true},
		"the freeze's own block":              {func(w *world) { w.source.indices["a"].Settings["index.blocks.write"] = "true" }, true},
		"a document":                          {func(w *world) { w.source.write("a") }, false},
		"an operation not yet durable":        {func(w *world) { w.source.sequences["a"][1].MaxSeqNo++ }, false},
		"an alias":                            {func(w *world) { w.source.aliases["a"] = map[string]json.RawMessage{"x": json.RawMessage(`{}`)} }, false},
		"the mapping":                         {func(w *world) { w.source.mappings["a"] = json.RawMessage(`{"properties":{}}`) }, false},
		"a setting":                           {func(w *world) { w.source.indices["a"].Settings["index.max_result_window"] = "7" }, false},
		"another index of the same name":      {func(w *world) { w.source.indices["a"].UUID = "another" }, false},
		"restored over at the source":         {func(w *world) { w.source.sequences["a"][0].HistoryUUID = "another" }, false},
		"the copy was made anew":              {func(w *world) { w.destination.indices["a"].UUID = "another" }, false},
		"the copy is gone":                    {func(w *world) { delete(w.destination.indices, "a") }, false},
		"the copy is red":                     {func(w *world) { w.destination.indices["a"].Health = "red" }, false},
		"somebody opened the copy to writers": {func(w *world) { delete(w.destination.indices["a"].Settings, "index.blocks.write") }, false},
		"the replay wrote to the copy": {func(w *world) {
			w.must(w.journal().SaveStrategies(w.t.Context(), migration.Strategies{Dropped: []migration.Dropped{{Name: "a", Base: 1}}}))
		}, false},
		"the replay wrote to it before its last round": {func(w *world) {
			w.must(w.journal().SaveStrategies(w.t.Context(), migration.Strategies{Dropped: []migration.Dropped{{Name: "a", Base: 0}}}))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := warmed(t)
			w.source.write("b")
			c.change(w)
			w.forget()
			out, err := runSnapshot(w, round(2, false))
			want := []string{"a", "b"}
			if c.skipped {
				want = want[1:]
			}
			if err != nil || !out.Accepted || out.Unchanged || !slices.Equal(w.source.requested.Indices, want) {
				t.Fatalf("%+v, %v: the snapshot holds %v, want %v", out, err, w.source.requested.Indices, want)
			}
			r, _, err := w.journal().Checkpoints(t.Context(), 2)
			if err != nil || !slices.Equal(r.InSnapshot(), want) || len(r.PerShard) != 2 {
				t.Errorf("recorded %+v, %v", r, err)
			}
		})
	}
}

// TestRoundOfNothing: a round that finds nothing changed takes no snapshot, restores nothing, and makes the copies ready.
func TestRoundOfNothing(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := plannedWorld(t)
		w.source.aliases["a"] = map[string]json.RawMessage{"x": json.RawMessage(`{"filter":1}`)}
		w.warm(1)
		w.forget()
		return w
	}
	killedEverywhere(t, arrange, func(w *world) error { return w.runRound(2) }, func(w *world) {
		if w.count("source CreateSnapshot") != 0 || w.count("destination Restore") != 0 || w.count("destination Close") != 0 {
			w.t.Errorf("%v", w.log)
		}
		rounds, err := w.journal().Rounds(w.t.Context())
		measures, _ := w.journal().Measures(w.t.Context(), 2)
		if err != nil || len(rounds) != 2 || rounds[1].Restore.Skipped != 2 || !measures["a"].Skipped || !measures["b"].Skipped {
			w.t.Errorf("%+v, %v, %+v", rounds, err, measures)
		}
		if !w.destination.indices["a"].Open || string(w.destination.aliases["a"]["x"]) != `{"filter":1}` {
			w.t.Errorf("not ready: %+v, %s", w.destination.indices["a"], w.destination.aliases["a"])
		}
		for _, name := range []string{"a", "b"} {
			if h := w.holds()[name]; h.Round != 1 || !h.Ready {
				w.t.Errorf("%s: %+v", name, h)
			}
		}
	})
	// From then on there is nothing to do at all, and the freeze leaves the final round out.
	w := arrange(t)
	w.warm(2)
	w.forget()
	w.warm(3)
	w.wantLog("put checkpoints/0003.json", "put measures/0003.json", "put holds.json", "put rounds/0003.json")
	out, err := runFreeze(w)
	if f := w.freezeState(); err != nil || out.ByRounds || !slices.Equal(f.Unchanged, []string{"a", "b"}) {
		t.Errorf("%+v, %v, %+v", out, err, f)
	}
}

// TestWarmRoundKilled: a whole round with one index changed and one not.
func TestWarmRoundKilled(t *testing.T) {
	killedEverywhere(t, func(t *testing.T) *world { w := warmed(t); w.source.write("b"); return w },
		func(w *world) error { return w.runRound(2) }, func(w *world) {
			if w.count("source CreateSnapshot") != 1 || !slices.Equal(w.source.requested.Indices, []string{"b"}) {
				w.t.Errorf("%v, %v", w.source.requested, w.log)
			}
			h := w.holds()
			if h["a"].Round != 1 || !h["a"].Ready || h["b"].Round != 2 || h["b"].Ready || h["b"].Checkpoints[0] != 11 {
				w.t.Errorf("holds %+v", h)
			}
			if !w.destination.indices["a"].Open || w.destination.indices["b"].Open {
				w.t.Errorf("a open %t, b open %t", w.destination.indices["a"].Open, w.destination.indices["b"].Open)
			}
		})
}

func TestFreezeFindsWhatIsLeft(t *testing.T) {
	w := warmed(t)
	w.warm(2)
	w.source.write("b")
	w.forget()
	out, err := runFreeze(w)
	if f := w.freezeState(); err != nil || !out.ByRounds || !slices.Equal(f.Unchanged, []string{"a"}) {
		t.Fatalf("%+v, %v, %+v", out, err, f)
	}
	if _, err := runSnapshot(w, round(3, true)); err != nil || !slices.Equal(w.source.requested.Indices, []string{"b"}) {
		t.Errorf("the final snapshot holds %v, %v", w.source.requested.Indices, err)
	}
	// A copy that is not ready is moved by the final round, which opens it and brings its aliases.
	w = warmed(t)
	if out, err := runFreeze(w); err != nil || !out.ByRounds || w.freezeState().Unchanged != nil {
		t.Errorf("%+v, %v, %+v", out, err, w.freezeState())
	}
	// What it waits for may still have been written.
	w = warmed(t)
	w.warm(2)
	w.forget()
	a := &w.source.sequences["a"][0]
	a.MaxSeqNo++
	w.onSleep = func() { a.LocalCheckpoint, a.GlobalCheckpoint = a.MaxSeqNo, a.MaxSeqNo }
	if out, err := runFreeze(w); err != nil || !out.ByRounds || !slices.Equal(w.freezeState().Unchanged, []string{"b"}) {
		t.Errorf("%+v, %v, %+v", out, err, w.freezeState())
	}
}

func TestChanges(t *testing.T) {
	p := migration.Plan{
		Spec:    migration.Spec{Indices: migration.Selection{Include: []string{"*"}, Exclude: []string{"no-*"}}},
		Indices: []migration.PlannedIndex{{Name: "same", UUID: "1"}, {Name: "gone", UUID: "2"}, {Name: "shut", UUID: "3"}, {Name: "anew", UUID: "4"}, {Name: ".ds-d-000001", UUID: "6"}, {Name: ".ds-e-000001", UUID: "7"}},
		LeftOut: []migration.LeftOut{{Name: "was-shut", Reason: migration.ClosedAtSource}, {Name: "stream", Reason: "another"}, {Name: "still-shut", Reason: migration.ClosedAtSource}},
	}
	list := []cluster.Index{
		{Name: "same", UUID: "1", Open: true}, {Name: "shut", UUID: "3"}, {Name: "anew", UUID: "5", Open: true}, {Name: "was-shut", Open: true},
		{Name: "stream", Open: true}, {Name: "still-shut"}, {Name: "no-1", Open: true}, {Name: ".kibana", Open: true}, {Name: "new", Open: true}, {Name: "new-shut"},
		{Name: ".ds-d-000001", UUID: "6", Open: true}, {Name: ".ds-d-000002", Open: true}, {Name: ".ds-e-000001", UUID: "7", Open: true}, {Name: ".ds-e-000002"},
		{Name: ".ds-no-1-000001", Open: true}, {Name: ".ds-none-000001", Open: true},
	}
	// d has rolled over, of e an index was closed, and the stream no-1 is excluded.
	streams := []cluster.DataStream{{Name: "d", Indices: []string{".ds-d-000001", ".ds-d-000002"}}, {Name: "e", Indices: []string{".ds-e-000002", ".ds-e-000001"}}, {Name: "no-1", Indices: []string{".ds-no-1-000001"}}}
	var words []string
	for _, c := range changes(p, list, streams) {
		words = append(words, c.String())
	}
	if want := []string{".ds-d-000002 (created)", ".ds-e-000001 (closed)", "anew (re-created)", "gone (removed)", "new (created)", "shut (closed)", "was-shut (opened)"}; !slices.Equal(words, want) {
		t.Errorf("%v, want %v", words, want)
	}
}

func TestFollowKilled(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := warmed(t)
		w.destination.add("theirs", 1)
		delete(w.source.indices, "b")
		w.source.add("c", 1)
		w.source.indices["a"].UUID = "another"
		return w
	}
	killedEverywhere(t, arrange, func(w *world) error { return w.runRound(2) }, func(w *world) {
		p, err := w.journal().Plan(w.t.Context(), mine)
		if a, _ := p.Index("a"); err != nil || !slices.Equal(p.Names(), []string{"a", "c"}) || a.UUID != "another" {
			w.t.Errorf("%+v, %v", p.Indices, err)
		}
		list, err := w.journal().Changes(w.t.Context())
		var words []string
		for _, c := range list {
			words = append(words, c.String())
			if c.Round != 2 || c.At.IsZero() {
				w.t.Errorf("%+v", c)
			}
		}
		if want := []string{"a (re-created)", "b (removed)", "c (created)"}; err != nil || !slices.Equal(words, want) {
			w.t.Errorf("%v, %v", words, err)
		}
		copies, err := w.journal().Copies(w.t.Context())
		if err != nil || !slices.Equal(copies.Indices, []string{"a", "c"}) || len(copies.Removed) != 0 {
			w.t.Errorf("%+v, %v", copies, err)
		}
		if w.destination.indices["b"] != nil || w.destination.indices["theirs"] == nil || w.count("destination DeleteIndex theirs") != 0 {
			w.t.Errorf("deleted: %v", w.log)
		}
		if !slices.Equal(w.source.requested.Indices, []string{"a", "c"}) {
			w.t.Errorf("the snapshot holds %v", w.source.requested.Indices)
		}
		if _, held := w.holds()["b"]; held {
			w.t.Error("what is gone is still held")
		}
	})
}

// TestFollowLeavesTheReplayAlone: a pass beside the round may be writing to the copy, which a bulk request would create anew.
func TestFollowLeavesTheReplayAlone(t *testing.T) {
	w := warmed(t)
	w.must(w.journal().SaveStrategies(t.Context(), migration.Strategies{Replay: []migration.OnReplay{{Index: "b", Base: 1}}}))
	delete(w.source.indices, "b")
	w.forget()
	w.warm(2)
	if s, err := w.journal().Strategies(t.Context()); err != nil || s.Has("b") || w.destination.indices["b"] == nil {
		t.Errorf("strategies %+v, %v; the copy: %+v", s, err, w.destination.indices["b"])
	}
	w.warm(3)
	if w.destination.indices["b"] != nil {
		t.Error("the copy was never deleted")
	}
}

func TestFollowRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		want   fault.Name
		says   string
	}{
		"a name that is somebody else's": {func(w *world) { w.source.add("c", 1); w.destination.add("c", 1) }, fault.DestinationOccupied, "index c"},
		"an index that is too old":       {func(w *world) { w.source.add("c", 1).CreatedVersion = "6080099" }, fault.Incompatible, "index c"},
		"nothing is left":                {func(w *world) { clear(w.source.indices) }, fault.IndicesChanged, "none of the selected indices"},
	} {
		w := warmed(t)
		c.change(w)
		_, err := runSnapshot(w, round(2, false))
		if wantFault(t, err, c.want, c.says); w.count("destination DeleteIndex") != 0 {
			t.Errorf("%s: %v", name, w.log)
		}
	}
	// A red one may have been made a moment ago: the next round looks again.
	w := warmed(t)
	w.source.add("c", 1).Health = "red"
	w.warm(2)
	w.source.indices["c"].Health = "green"
	w.warm(3)
	if p, err := w.journal().Plan(t.Context(), mine); err != nil || !slices.Equal(p.Names(), []string{"a", "b", "c"}) {
		t.Errorf("%v, %v", p.Names(), err)
	}
}

// TestRestoreAnew: where copies cannot be closed, or have another number of shards, those that the migration made are deleted.
func TestRestoreAnew(t *testing.T) {
	refusal := fault.New(fault.RequestRefused, "close", "destination", &cluster.Refusal{Status: 401, Reason: "Your request: '/a,b/_close' is not allowed."})
	t.Run("another number of shards", func(t *testing.T) {
		killedEverywhere(t, func(t *testing.T) *world {
			w := plannedWorld(t)
			w.copies("orders-r0001", true)
			w.destination.indices["a"].Primaries = 5
			return w
		}, func(w *world) error { _, err := runRestore(w, round(2, false)); return err }, func(w *world) {
			if w.count("destination DeleteIndex a") < 1 || w.count("destination DeleteIndex b") != 0 || w.count("destination Close b") != 1 || w.destination.indices["a"].Primaries != 2 {
				w.t.Errorf("%v", w.log)
			}
			w.wantBefore("destination DeleteIndex a", "destination Restore")
		})
	})
	t.Run("no index can be closed", func(t *testing.T) {
		w := plannedWorld(t)
		w.copies("orders-r0001", true)
		w.destination.add("theirs", 1)
		w.answers["destination Close"] = []error{refusal, refusal}
		if out, err := runRestore(w, round(2, false)); err != nil || !out.Accepted {
			t.Fatalf("%+v, %v", out, err)
		}
		w.wantLog("put copies.json", "destination DeleteIndex a", "destination DeleteIndex b", "destination Restore orders-r0002 a,b")
		w.forget()
		if _, err := recordRound(w).Run(t.Context(), recordInput(false)); err != nil {
			t.Fatal(err)
		}
		w.wantLog("put holds.json", "put rounds/0002.json") // asked once, and never again
	})
	t.Run("somebody else's", func(t *testing.T) {
		w := plannedWorld(t)
		w.copies("orders-r0001", true)
		w.destination.indices["a"].Primaries = 5
		w.must(w.journal().SaveCopies(t.Context(), journal.Copies{Indices: []string{"b"}, CannotClose: true}))
		w.forget()
		_, err := runRestore(w, round(2, false))
		wantFault(t, err, fault.DestinationOccupied, "index a")
		w.wantLog()
	})
}

// TestPredictionGoesFromWhatTheCopyHolds: which snapshot each index's prediction starts at.
func TestPredictionGoesFromWhatTheCopyHolds(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		want   map[string][]string
	}{
		"by the holds":  {func(*world) {}, map[string][]string{"orders-r0001": {"a", "b"}}},
		"another index": {func(w *world) { w.source.indices["a"].UUID = "another" }, map[string][]string{"": {"a"}, "orders-r0001": {"b"}}},
		"no index can be closed": {func(w *world) {
			w.must(w.journal().SaveCopies(w.t.Context(), journal.Copies{Indices: []string{"a", "b"}, CannotClose: true}))
		}, map[string][]string{"": {"a", "b"}}},
		"the replay wrote to it": {func(w *world) {
			w.must(w.journal().SaveStrategies(w.t.Context(), migration.Strategies{Dropped: []migration.Dropped{{Name: "b", Base: 1}}}))
		}, map[string][]string{"": {"b"}, "orders-r0001": {"a"}}},
	} {
		w := warmed(t)
		w.source.write("a")
		w.source.write("b")
		c.change(w)
		if _, err := runSnapshot(w, round(2, false)); err != nil {
			t.Fatal(err)
		}
		r, err := records(t.Context(), w.store, round(2, false))
		w.must(err)
		got, err := PublishCopy{Journal: w.store}.bases(t.Context(), r)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
}

// TestMeasuresOfPredictions: what was predicted stands beside what was moved; a part that is unknown makes the sum unknown.
func TestMeasuresOfPredictions(t *testing.T) {
	for name, c := range map[string]struct {
		p    journal.RestorePrediction
		sum  int64 // -1: none
		says string
	}{
		"all":  {journal.RestorePrediction{Indices: map[string]int64{"a": 70, "b": 30}}, 100, ""},
		"some": {journal.RestorePrediction{Indices: map[string]int64{"a": 70}, Unknown: "no list of b"}, -1, "no list of b"},
	} {
		w := warmed(t)
		w.source.write("a")
		w.source.write("b")
		w.must(w.journal().SavePrediction(t.Context(), 2, c.p))
		w.warm(2)
		rounds, err := w.journal().Rounds(t.Context())
		w.must(err)
		r := rounds[1].Restore
		if (r.PredictedBytes == nil) != (c.sum < 0) || r.PredictedBytes != nil && *r.PredictedBytes != c.sum || r.Unpredicted != c.says {
			t.Errorf("%s: %+v", name, r)
		}
		m, err := w.journal().Measures(t.Context(), 2)
		if err != nil || m["a"].Predicted == nil || *m["a"].Predicted != 70 || m["a"].Recovered != 80 || (m["b"].Predicted == nil) != (c.sum < 0) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

func TestShares(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 11, 22, 10, 0, s, 0, time.UTC) }
	var s shares
	s.add("n1", "a", 0, 10, at(0), at(4))
	s.add("n1", "a", 1, 20, at(4), at(9))
	s.add("n2", "b", 0, 90, at(1), at(3))
	s.add("n2", "b", 1, 0, time.Time{}, time.Time{})
	want := []migration.Share{{Node: "n1", Shards: 2, Bytes: 30, Seconds: 9}, {Node: "n2", Shards: 2, Bytes: 90, Seconds: 2}}
	if got := s.nodes(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := s.slowest(); got == nil || *got != (migration.Share{Node: "n1", Index: "a", Shard: 1, Shards: 1, Bytes: 20, Seconds: 5}) {
		t.Errorf("slowest %+v", got)
	}
	for i := range 100 {
		s.add(fmt.Sprint("node-", i), "c", i, 1, at(0), at(1))
	}
	if got := s.nodes(); len(got) != mostShares || got[0].Node != "n1" {
		t.Errorf("%d nodes, the first %+v", len(got), got[0])
	}
}
