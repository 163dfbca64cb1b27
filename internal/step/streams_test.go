package step

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

const (
	d1 = ".ds-d-000001"
	d2 = ".ds-d-000002"
	d3 = ".ds-d-000003"
)

// streamWorld has indices a and b and a data stream d of two indices.
func streamWorld(t *testing.T) *world {
	w := newWorld(t)
	w.source.version = cluster.Version{Distribution: cluster.OpenSearch, Number: "2.19.0", Major: 2, Minor: 19, ClusterUUID: "old"}
	w.source.stream("d", d1, d2)
	w.destination.templates = []string{"d"}
	return w
}

func runPreflight(w *world, fields string) (PreflightOutput, error) {
	return preflight(w).Run(w.t.Context(), PreflightInput{Input: with(w.t, fields), Execution: mine})
}

func (w *world) plan() migration.Plan {
	w.t.Helper()
	p, err := w.journal().Plan(w.t.Context(), mine)
	w.must(err)
	return p
}

// streamWarmed is a world after a warm round of all of it.
func streamWarmed(t *testing.T) *world {
	t.Helper()
	w := streamWorld(t)
	_, err := runPreflight(w, `{}`)
	w.must(err)
	w.warm(1)
	w.forget()
	return w
}

func TestPreflightPlansDataStreams(t *testing.T) {
	leftOut := func(p migration.Plan) string {
		words := make([]string, len(p.LeftOut))
		for i, l := range p.LeftOut {
			words[i] = l.Name + ": " + l.Reason
		}
		return strings.Join(words, "; ")
	}
	for name, c := range map[string]struct {
		fields  string
		world   func(*world)
		indices []string
		streams []string
		left    string // part of what is said of those left out
		warns   string
	}{
		"everything":            {`{}`, nil, []string{d1, d2, "a", "b"}, []string{"d"}, "", ""},
		"by the stream's name":  {`{"indices":{"include":["d"]}}`, nil, []string{d1, d2}, []string{"d"}, "", ""},
		"excluded":              {`{"indices":{"exclude":["d"]}}`, nil, []string{"a", "b"}, nil, d1 + ": excluded by the input", ""},
		"not included":          {`{"indices":{"include":["a"]}}`, nil, []string{"a"}, nil, "", ""},
		"by its indices' names": {`{"indices":{"include":["a",".ds-d-000002"]}}`, nil, []string{"a"}, nil, d2 + `: backing index of data stream "d"`, ""},
		"a closed index": {`{}`, func(w *world) { w.source.indices[d1].Open = false }, []string{"a", "b"}, nil,
			d1 + ": " + migration.ClosedAtSource + "; " + d2 + ": " + migration.ClosedInStream, ""},
		"a plain index that is named so": {`{}`, func(w *world) { w.source.add(".ds-plain-000001", 1) }, []string{d1, d2, "a", "b"}, []string{"d"}, ".ds-plain-000001: hidden index", ""},
		"no template":                    {`{}`, func(w *world) { w.destination.templates = []string{"other"} }, []string{d1, d2, "a", "b"}, []string{"d"}, "", "cannot roll over until there is one"},
		"templates not shown":            {`{}`, func(w *world) { w.destination.templates = nil }, []string{d1, d2, "a", "b"}, []string{"d"}, "", "does not show its index templates"},
		"a stream that we made": {`{}`, func(w *world) {
			w.must(w.journal().SaveCopies(w.t.Context(), journal.Copies{Indices: []string{d1, d2}, Streams: []string{"d"}}))
			w.destination.stream("d", d1, d2)
		}, []string{d1, d2, "a", "b"}, []string{"d"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := streamWorld(t)
			if c.world != nil {
				c.world(w)
			}
			out, err := runPreflight(w, c.fields)
			if err != nil {
				t.Fatal(err)
			}
			p := w.plan()
			var streams []string
			for _, d := range p.Streams {
				streams = append(streams, d.Name)
				if !slices.Equal(d.Indices, []string{d1, d2}) {
					t.Errorf("stream %+v", d)
				}
			}
			for _, x := range p.Indices {
				if (x.Stream == "d") != strings.HasPrefix(x.Name, ".ds-d-") {
					t.Errorf("index %+v", x)
				}
			}
			if !slices.Equal(p.Names(), c.indices) || !slices.Equal(streams, c.streams) || !strings.Contains(leftOut(p), c.left) || (leftOut(p) == "") != (c.left == "") {
				t.Errorf("indices %v, streams %v, left out %s", p.Names(), streams, leftOut(p))
			}
			if warns := strings.Join(out.Warnings, "; "); (warns == "") != (c.warns == "") || !strings.Contains(warns, c.warns) {
				t.Errorf("warnings %q", warns)
			}
		})
	}
}

func TestPreflightRefusesDataStreams(t *testing.T) {
	for name, c := range map[string]struct {
		fields string
		world  func(*world)
		fault  fault.Name
		says   string
	}{
		"a part excluded":            {`{"indices":{"exclude":[".ds-d-000001"]}}`, func(*world) {}, fault.InvalidInput, "exclude the stream by its name"},
		"no such stream":             {`{"indices":{"include":["e"]}}`, func(*world) {}, fault.InvalidInput, "no index and no data stream"},
		"an index has the name":      {`{}`, func(w *world) { w.destination.add("d", 1) }, fault.DestinationOccupied, "an index with the name of data stream d"},
		"somebody else's stream":     {`{}`, func(w *world) { w.destination.stream("d", ".ds-d-000009") }, fault.DestinationOccupied, "a data stream with the name of data stream d"},
		"somebody has a copy's name": {`{}`, func(w *world) { w.destination.add(d1, 1) }, fault.DestinationOccupied, d1},
		"a source of Elasticsearch": {`{}`, func(w *world) {
			w.source.version = cluster.Version{Distribution: cluster.Elasticsearch, Number: "7.10.2", Major: 7, Minor: 10, Patch: 2, ClusterUUID: "old"}
		}, fault.Incompatible, "exclude d"},
	} {
		t.Run(name, func(t *testing.T) {
			w := streamWorld(t)
			c.world(w)
			_, err := runPreflight(w, c.fields)
			wantFault(t, err, c.fault, c.says)
		})
	}
}

// Warm rounds take every backing index by its name, changed or not, and leave the copies closed.
func TestWarmRoundsOfDataStreams(t *testing.T) {
	w := streamWarmed(t)
	w.warm(2)
	if want := []string{d1, d2}; !slices.Equal(w.source.requested.Indices, want) || !slices.Equal(w.destination.restored.Indices, want) || len(w.destination.streams) != 0 {
		t.Errorf("asked for %v, restored %v, streams %v", w.source.requested.Indices, w.destination.restored.Indices, w.destination.streams)
	}
	if w.destination.indices[d1].Open || w.destination.indices[d2].Open || !w.destination.indices["a"].Open {
		t.Error("copies of a stream's indices are not closed, or others are not ready")
	}
	// It rolls over and loses its oldest index; another stream comes.
	w.source.stream("d", d3)
	w.source.streams[0].Indices = w.source.streams[0].Indices[1:]
	delete(w.source.indices, d1)
	w.source.stream("e", ".ds-e-000001")
	w.warm(3)
	p := w.plan()
	if !slices.Equal(p.Names(), []string{d2, d3, ".ds-e-000001", "a", "b"}) || len(p.Streams) != 2 || !slices.Equal(p.Streams[0].Indices, []string{d2, d3}) || p.Indices[1].Stream != "d" {
		t.Errorf("indices %v, streams %+v", p.Names(), p.Streams)
	}
	if _, there := w.destination.indices[d1]; there || w.destination.indices[d3] == nil {
		t.Error("the copies do not follow the stream")
	}
	// The stream is deleted.
	for _, name := range []string{d2, d3} {
		delete(w.source.indices, name)
	}
	w.source.streams = w.source.streams[1:]
	w.warm(4)
	if p := w.plan(); len(p.Streams) != 1 || p.Streams[0].Name != "e" || w.destination.indices[d2] != nil || w.destination.indices[d3] != nil {
		t.Errorf("streams %+v", p.Streams)
	}
	// The name of a new one is somebody else's at the destination.
	w.destination.stream("f", ".ds-f-000007")
	w.source.stream("f", ".ds-f-000001")
	wantFault(t, w.runRound(5), fault.DestinationOccupied, "data stream f", "a data stream of that name")
}

// A rollover between the list of indices and that of data streams is no closed index, and no copy is deleted for it.
func TestRolloverWhileLooking(t *testing.T) {
	w := streamWarmed(t)
	w.source.streams[0].Indices = []string{d1, d2, d3}
	w.must(w.runRound(2))
	if p := w.plan(); !slices.Equal(p.Names(), []string{d1, d2, "a", "b"}) || len(p.Streams) != 0 || w.count("destination DeleteIndex") != 0 {
		t.Errorf("indices %v, streams %+v", p.Names(), p.Streams)
	}
	_, err := runFreeze(w)
	wantFault(t, err, fault.IndicesChanged, "data stream d whole")
	w.source.add(d3, 1)
	w.must(w.runRound(3))
	if p := w.plan(); len(p.Streams) != 1 || !slices.Equal(p.Streams[0].Indices, []string{d1, d2, d3}) {
		t.Errorf("streams %+v", p.Streams)
	}
}

// runFinal runs freeze, final round and verification's look at the streams, up to the end of the restore.
func (w *world) runFinal(n int) error {
	ctx := w.t.Context()
	if _, err := runFreeze(w); err != nil {
		return err
	}
	out, err := runSnapshot(w, round(n, true))
	if err != nil {
		return err
	}
	s := w.source.snapshots[out.Snapshot]
	s.State = cluster.SnapshotSuccess
	w.source.snapshots[out.Snapshot] = s
	if polled, err := pollStatus(w).Run(ctx, PollStatusInput{RoundInput: round(n, true), What: pollSnapshot, StartedAt: w.now}); err != nil || !polled.Done {
		return fmt.Errorf("snapshot %+v: %w", polled, err)
	}
	if _, err := runRestore(w, round(n, true)); err != nil {
		return err
	}
	restored, err := pollStatus(w).Run(ctx, PollStatusInput{RoundInput: round(n, true), What: pollRestore, StartedAt: w.now})
	if err != nil || !restored.Done {
		return fmt.Errorf("restore %+v: %w", restored, err)
	}
	_, err = recordRound(w).Run(ctx, RecordRoundInput{RoundInput: round(n, true), StartedAt: out.StartedAt, Restore: *restored.Restore})
	return err
}

// streamEvidence is what verification says of the streams.
func (w *world) streamEvidence() []migration.Check {
	w.t.Helper()
	checks, err := compareStreams(w.t.Context(), w.source, w.destination, w.plan())
	w.must(err)
	return checks
}

func TestFinalRoundTakesDataStreamsWhole(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := streamWarmed(t)
		w.warm(2) // a and b, which do not change, are ready
		w.source.write(d2)
		w.forget()
		return w
	}
	killedEverywhere(t, arrange, func(w *world) error { return w.runFinal(3) }, func(w *world) {
		if !slices.Equal(w.source.requested.Indices, []string{"d"}) || !slices.Equal(w.destination.restored.Indices, []string{"d"}) {
			w.t.Errorf("asked for %v, restored %v", w.source.requested.Indices, w.destination.restored.Indices)
		}
		if got := w.destination.streams; len(got) != 1 || !slices.Equal(got[0].Indices, []string{d1, d2}) {
			w.t.Errorf("streams %+v", got)
		}
		if checks := w.streamEvidence(); len(checks) != 1 || checks[0].Outcome != migration.Passed || checks[0].Index != "d" {
			w.t.Errorf("%+v", checks)
		}
		if w.block(d1) != "true" || w.source.block(d2) != "true" {
			w.t.Error("a backing index takes writes in the freeze")
		}
		c, err := w.journal().Copies(w.t.Context())
		if err != nil || !slices.Equal(c.Streams, []string{"d"}) {
			w.t.Errorf("%+v, %v", c, err)
		}
	})
	w := arrange(t)
	w.must(w.runFinal(3))
	w.wantBefore("put copies.json", "destination Restore")
	if w.count("destination Close") != 0 {
		t.Error("copies are closed inside the freeze")
	}
}

func (w *world) block(index string) string { return w.source.block(index) }

// A rollover is no write: no block stops it. Wherever it falls, the cut-over ends before the destination is opened.
func TestRolloverInTheFreeze(t *testing.T) {
	roll := func(w *world) { w.source.stream("d", d3) }
	t.Run("before", func(t *testing.T) {
		w := streamWarmed(t)
		roll(w)
		_, err := runFreeze(w)
		wantFault(t, err, fault.IndicesChanged, d3+" (created)")
		if w.count("source AddWriteBlock") != 0 {
			t.Error("writes were stopped")
		}
	})
	t.Run("while writes are being stopped", func(t *testing.T) {
		w := streamWarmed(t)
		w.onSleep = func() {
			if len(w.source.streams[0].Indices) == 2 {
				roll(w)
			}
		}
		// The first reading of the sequence numbers never settles, so that there is a sleep before the second look at the streams.
		w.answers["source DataStreams"] = nil
		_, err := runFreeze(w)
		if err == nil {
			_, err = runSnapshot(w, round(2, true))
			w.must(err)
			s := w.source.snapshots["orders-r0002"]
			s.State = cluster.SnapshotSuccess
			w.source.snapshots["orders-r0002"] = s
			_, err = pollStatus(w).Run(t.Context(), PollStatusInput{RoundInput: round(2, true), What: pollSnapshot, StartedAt: w.now})
		}
		wantFault(t, err, fault.IndicesChanged, d3)
	})
	t.Run("before the snapshot", func(t *testing.T) {
		w := streamWarmed(t)
		_, err := runFreeze(w)
		w.must(err)
		roll(w)
		_, err = runSnapshot(w, round(2, true))
		w.must(err)
		s := w.source.snapshots["orders-r0002"]
		s.State = cluster.SnapshotSuccess
		w.source.snapshots["orders-r0002"] = s
		_, err = pollStatus(w).Run(t.Context(), PollStatusInput{RoundInput: round(2, true), What: pollSnapshot, StartedAt: w.now})
		wantFault(t, err, fault.IndicesChanged, d3, "rolled over while writes were stopped")
	})
	t.Run("after the restore", func(t *testing.T) {
		w := streamWarmed(t)
		w.must(w.runFinal(2))
		roll(w)
		if checks := w.streamEvidence(); checks[0].Outcome != migration.Broken || !strings.Contains(checks[0].Evidence, d3) {
			t.Errorf("%+v", checks)
		}
		w.forget()
		_, err := runFinish(w)
		wantFault(t, err, fault.IndicesChanged, "data stream d", d3)
		if w.count("destination UpdateSettings") != 0 || w.freezeState().State != journal.Frozen {
			t.Errorf("the destination was opened: %s, %v", w.freezeState().State, w.log)
		}
	})
}

// After a thaw the stream stays at the destination until the next execution's first round, which makes plain copies of it again.
func TestWarmAgainAfterAFinalRestore(t *testing.T) {
	for name, follows := range map[string]bool{"a new snapshot": true, "a snapshot that is there": false} {
		t.Run(name, func(t *testing.T) {
			arrange := func(t *testing.T) *world {
				w := streamWarmed(t)
				w.must(w.runFinal(2))
				_, err := runThaw(w)
				w.must(err)
				w.running = map[string]bool{mine: true} // redriven
				w.source.write(d2)
				if !follows {
					w.source.snapshots["orders-r0003"] = cluster.Snapshot{Name: "orders-r0003", State: cluster.SnapshotSuccess, Indices: []string{d1, d2, "a", "b"}, StartTime: w.now}
				}
				w.forget()
				return w
			}
			killedEverywhere(t, arrange, func(w *world) error { return w.runRound(3) }, func(w *world) {
				if len(w.destination.streams) != 0 || w.destination.indices[d1] == nil || w.destination.indices[d2].Open || w.count("destination DeleteDataStream") != 1 {
					w.t.Errorf("streams %+v, changes %v", w.destination.streams, w.log)
				}
				c, err := w.journal().Copies(w.t.Context())
				if err != nil || len(c.Streams) != 0 || !slices.Contains(c.Indices, d2) {
					w.t.Errorf("%+v, %v", c, err)
				}
			})
			w := arrange(t)
			w.must(w.runRound(3))
			if follows {
				w.wantBefore("put holds.json", "destination DeleteDataStream") // what the copies hold is forgotten first
			}
			f := w.freezeState()
			f.Execution = others // the execution that was thawed
			w.must(w.journal().SaveFreeze(t.Context(), f))
			w.must(w.runFinal(4))
		})
	}
	t.Run("it is deleted at the source", func(t *testing.T) {
		w := streamWarmed(t)
		w.must(w.runFinal(2))
		_, err := runThaw(w)
		w.must(err)
		w.running = map[string]bool{mine: true} // redriven
		w.source.streams = nil
		delete(w.source.indices, d1)
		delete(w.source.indices, d2)
		w.must(w.runRound(3))
		if len(w.destination.streams) != 0 || w.destination.indices[d1] != nil || w.destination.indices[d2] != nil {
			t.Errorf("streams %+v", w.destination.streams)
		}
	})
	for name, c := range map[string]struct {
		world func(*world)
		says  string
	}{
		"rolled over at the destination": {func(w *world) {
			w.destination.stream("d", ".ds-d-000003")
			w.destination.add(".ds-d-000003", 1)
		}, "not its index .ds-d-000003"},
		"the destination has taken over": {func(w *world) {
			f := w.freezeState()
			f.State = journal.HandedOver
			w.must(w.journal().SaveFreeze(w.t.Context(), f))
		}, "the destination has taken over"},
	} {
		t.Run(name, func(t *testing.T) {
			w := streamWarmed(t)
			w.must(w.runFinal(2))
			c.world(w)
			wantFault(t, w.runRound(3), fault.DestinationOccupied, c.says)
			if w.count("destination DeleteDataStream") != 0 || len(w.destination.streams) != 1 {
				t.Error("the stream was deleted")
			}
		})
	}
}

func TestFinalRestoreOfDataStreams(t *testing.T) {
	final := func(t *testing.T) *world {
		w := streamWarmed(t)
		_, err := runFreeze(w)
		w.must(err)
		_, err = runSnapshot(w, round(2, true))
		w.must(err)
		w.forget()
		return w
	}
	t.Run("somebody else's stream", func(t *testing.T) {
		w := final(t)
		w.destination.stream("d", ".ds-d-000007")
		_, err := runRestore(w, round(2, true))
		wantFault(t, err, fault.DestinationOccupied, "data stream d")
	})
	t.Run("a lost shard", func(t *testing.T) {
		w := final(t)
		_, err := runRestore(w, round(2, true))
		w.must(err)
		w.forget()
		i := slices.IndexFunc(w.destination.shards, func(s cluster.Shard) bool { return s.Index == d1 })
		w.destination.shards[i].State, w.destination.shards[i].UnassignedReason = "UNASSIGNED", "NODE_LEFT"
		w.destination.recoveries = slices.DeleteFunc(w.destination.recoveries, func(r cluster.ShardRecovery) bool { return r.Index == d1 })
		out, err := runRestore(w, round(2, true))
		if err != nil || !out.Accepted || out.Indices != 2 {
			t.Fatalf("%+v, %v", out, err)
		}
		w.wantBefore("destination DeleteDataStream d", "destination Restore")
	})
	t.Run("a shard that waits for its turn", func(t *testing.T) {
		w := final(t)
		_, err := runRestore(w, round(2, true))
		w.must(err)
		w.forget()
		i := slices.IndexFunc(w.destination.shards, func(s cluster.Shard) bool { return s.Index == d1 })
		w.destination.shards[i].State, w.destination.shards[i].UnassignedReason = "UNASSIGNED", "EXISTING_INDEX_RESTORED"
		before := slices.Clone(w.destination.recoveries)
		w.destination.recoveries = slices.DeleteFunc(w.destination.recoveries, func(r cluster.ShardRecovery) bool { return r.Index == d1 })
		w.onSleep = func() {
			w.destination.shards[i].State, w.destination.recoveries = "STARTED", before
		}
		out, err := runRestore(w, round(2, true))
		if err != nil || !out.Accepted || w.count("destination DeleteDataStream") != 0 || w.slept == 0 {
			t.Errorf("%+v, %v, %v", out, err, w.log)
		}
	})
	t.Run("a snapshot of the same name without the stream", func(t *testing.T) {
		w := final(t)
		w.source.snapshots["orders-r0002"] = cluster.Snapshot{Name: "orders-r0002", State: cluster.SnapshotSuccess, Indices: []string{d1, d2, "a", "b"}, StartTime: w.now}
		_, err := runSnapshot(w, round(2, true))
		w.must(err)
		if got := w.source.snapshots["orders-r0002"].DataStreams; !slices.Equal(got, []string{"d"}) {
			t.Errorf("the snapshot has the streams %v", got)
		}
	})
}

// A source without data streams is not asked for them inside the freeze.
func TestNobodyIsAskedForDataStreams(t *testing.T) {
	w := warmed(t)
	_, err := runFreeze(w)
	if err != nil || w.reads["source DataStreams"]+w.reads["destination DataStreams"] != 0 {
		t.Errorf("%v, %v", w.reads, err)
	}
	if _, err := compareStreams(t.Context(), nil, nil, w.plan()); err != nil {
		t.Error(err)
	}
	w = newWorld(t)
	w.source.stream("d", d1)
	w.answers["source DataStreams"] = []error{errors.New("no permission")}
	if _, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: mine}); err == nil {
		t.Error("streams that cannot be listed are taken for none")
	}
}
