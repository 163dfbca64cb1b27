package step

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
)

func round(n int, final bool) RoundInput {
	return RoundInput{Migration: "orders", Round: n, Final: final, Execution: mine}
}

func runSnapshot(w *world, in RoundInput) (SnapshotOutput, error) {
	return snapshot(w).Run(w.t.Context(), SnapshotInput{RoundInput: in})
}

func TestSnapshotRecordsCheckpointsFirst(t *testing.T) {
	w := plannedWorld(t)
	w.source.sequences["a"][0].MaxSeqNo = 99 // beyond the global checkpoint: not yet on every copy
	out, err := runSnapshot(w, round(3, false))
	if err != nil || !out.Accepted || out.Round != 3 || out.Snapshot != "orders-r0003" || !out.StartedAt.Equal(w.now) {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantLog("put checkpoints/0003.json", "source CreateSnapshot orders-r0003")
	c, found, err := w.journal().Checkpoints(t.Context(), 3)
	if err != nil || !found || !reflect.DeepEqual(c.PerShard, map[string][]int64{"a": {10, 11}, "b": {10}}) {
		t.Errorf("checkpoints %+v, %v", c, err)
	}
	if !slices.Equal(w.source.requested.Indices, []string{"a", "b"}) || w.source.requested.Metadata["migration"] != "orders" {
		t.Errorf("asked for %+v", w.source.requested)
	}
	// Again, running and finished: nothing is changed, and the time is the snapshot's own.
	began := w.now
	w.forget()
	w.now = w.now.Add(time.Hour)
	for _, state := range []string{cluster.SnapshotInProgress, cluster.SnapshotSuccess} {
		s := w.source.snapshots["orders-r0003"]
		s.State = state
		w.source.snapshots["orders-r0003"] = s
		if out, err := runSnapshot(w, round(3, false)); err != nil || !out.Accepted || !out.StartedAt.Equal(began) {
			t.Errorf("%s: %+v, %v", state, out, err)
		}
	}
	w.wantLog()
}

func TestSnapshotKilled(t *testing.T) {
	killedEverywhere(t, plannedWorld, func(w *world) error { _, err := runSnapshot(w, round(1, false)); return err }, func(w *world) {
		if n := w.count("source CreateSnapshot"); n != 1 {
			w.t.Errorf("%d snapshots", n)
		}
		w.wantBefore("put checkpoints/0001.json", "source CreateSnapshot")
	})
}

func TestSnapshotRoundZeroIsTheNext(t *testing.T) {
	w := plannedWorld(t)
	w.must(byRule(w)) // a schedule's round runs while no migration does
	if out, err := runSnapshot(w, RoundInput{Migration: "orders"}); err != nil || out.Round != 1 || out.Snapshot != "orders-r0001" {
		t.Errorf("%+v, %v", out, err)
	}
	w.must(w.journal().SaveRound(t.Context(), migration.Round{Number: 7}))
	if out, err := runSnapshot(w, RoundInput{Migration: "orders"}); err != nil || out.Round != 8 || out.Snapshot != "orders-r0008" {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestSnapshotTakenAgain(t *testing.T) {
	for name, existing := range map[string]cluster.Snapshot{
		"partial":               {State: cluster.SnapshotPartial, Indices: []string{"a", "b"}},
		"failed":                {State: cluster.SnapshotFailed, Indices: []string{"a", "b"}},
		"of an older plan":      {State: cluster.SnapshotSuccess, Indices: []string{"a"}},
		"running, older plan":   {State: cluster.SnapshotInProgress, Indices: []string{"b"}},
		"of an unknown version": {State: "INCOMPATIBLE"},
	} {
		w := plannedWorld(t)
		w.source.snapshots["orders-r0002"] = existing
		out, err := runSnapshot(w, round(2, false))
		if err != nil || !out.Accepted {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		w.wantLog("source DeleteSnapshot orders-r0002", "put checkpoints/0002.json", "source CreateSnapshot orders-r0002")
	}
	// One that holds more than the plan is as good.
	w := plannedWorld(t)
	w.source.snapshots["orders-r0002"] = cluster.Snapshot{State: cluster.SnapshotSuccess, Indices: []string{"a", "b", "c"}}
	if out, err := runSnapshot(w, round(2, false)); err != nil || !out.Accepted {
		t.Errorf("%+v, %v", out, err)
	}
	w.wantLog()
}

// A warm round that never ended leaves a snapshot of its number behind, which a final round of that number must not take for its own: what
// was written in between is not in it.
func TestFinalSnapshotOfAnEarlierExecution(t *testing.T) {
	for _, c := range []struct {
		name   string
		since  func(w *world) // what happens at the source after the warm round's snapshot
		reused bool
	}{
		{"nothing", func(*world) {}, true},
		{"a write", func(w *world) { w.source.sequences["a"][0].GlobalCheckpoint++ }, false},
		{"another mapping", func(w *world) { w.source.mappings["a"] = json.RawMessage(`{"properties":{"new":{"type":"long"}}}`) }, false},
	} {
		w := plannedWorld(t)
		if out, err := runSnapshot(w, round(2, false)); err != nil || !out.Accepted {
			t.Fatalf("%s: the warm round: %+v, %v", c.name, out, err)
		}
		s := w.source.snapshots["orders-r0002"]
		s.State, s.Indices = cluster.SnapshotSuccess, []string{"a", "b"}
		w.source.snapshots["orders-r0002"] = s
		c.since(w)
		w.forget()
		if out, err := runSnapshot(w, round(2, true)); err != nil || !out.Accepted {
			t.Fatalf("%s: the final round: %+v, %v", c.name, out, err)
		}
		if n := w.count("source DeleteSnapshot"); (n == 0) != c.reused {
			t.Errorf("%s: the old snapshot was deleted %d times; reused should be %v", c.name, n, c.reused)
		}
	}
}

func TestSnapshotWaitsForAnother(t *testing.T) {
	w := plannedWorld(t)
	w.source.running = []cluster.RunningSnapshot{{Repository: "cs-automated", Name: "2026-11-22", State: "STARTED"}}
	out, err := runSnapshot(w, round(2, false))
	if err != nil || out.Accepted || out.WaitSeconds < 1 || out.Waiting != "cs-automated/2026-11-22" || out.Round != 2 {
		t.Fatalf("warm: %+v, %v", out, err)
	}
	if w.slept != 0 {
		t.Errorf("a warm round sleeps %v in the function", w.slept)
	}
	w.wantLog()

	// Inside the freeze it stays and goes on the moment the other one is over.
	w.onSleep = func() {
		if w.slept >= 3*time.Second {
			w.source.running = nil
		}
	}
	out, err = runSnapshot(w, round(2, true))
	if err != nil || !out.Accepted || w.slept < 3*time.Second || w.slept > 4*time.Second {
		t.Fatalf("final: %+v, %v after %v", out, err, w.slept)
	}

	// At most 20 seconds, then the state goes round without a Wait state.
	w = plannedWorld(t)
	w.source.running = []cluster.RunningSnapshot{{Repository: "r", Name: "endless"}}
	out, err = runSnapshot(w, round(2, true))
	if err != nil || out.Accepted || out.WaitSeconds != 0 || w.slept < 20*time.Second || w.slept > 21*time.Second {
		t.Fatalf("endless: %+v, %v after %v", out, err, w.slept)
	}
	w.wantLog()
}

func TestSnapshotAnswers(t *testing.T) {
	w := plannedWorld(t)
	w.answers["source CreateSnapshot"] = []error{busy("create snapshot")}
	if out, err := runSnapshot(w, round(1, false)); err != nil || out.Accepted || out.WaitSeconds < 1 || out.Waiting == "" {
		t.Errorf("busy, warm: %+v, %v", out, err)
	}
	// Inside the freeze it asks again itself, and takes the slot the moment it is free.
	w.answers["source CreateSnapshot"] = slices.Repeat([]error{busy("create snapshot")}, 10)
	w.slept = 0
	if out, err := runSnapshot(w, round(1, true)); err != nil || !out.Accepted || out.Waiting != "" || w.slept < time.Second || w.slept > 3*time.Second {
		t.Errorf("busy, final: %+v, %v after %v", out, err, w.slept)
	}
	w = plannedWorld(t)
	w.answers["source CreateSnapshot"] = slices.Repeat([]error{busy("create snapshot")}, 1000)
	if out, err := runSnapshot(w, round(1, true)); err != nil || out.Accepted || out.Waiting == "" || out.WaitSeconds != 0 || w.slept < 20*time.Second || w.slept > 21*time.Second {
		t.Errorf("endlessly busy, final: %+v, %v after %v", out, err, w.slept)
	}
	w.answers = map[string][]error{}
	// 504: the outcome is unknown and said so; the repeated step finds the snapshot.
	w.lost["source CreateSnapshot"] = []error{unknown("create snapshot")}
	if _, err := runSnapshot(w, round(1, false)); !fault.Is(err, fault.OutcomeUnknown) {
		t.Errorf("504: %v", err)
	}
	if out, err := runSnapshot(w, round(1, false)); err != nil || !out.Accepted || w.count("source CreateSnapshot") != 1 {
		t.Errorf("after 504: %+v, %v, %v", out, err, w.log)
	}
	// 504, and the request takes effect between the repeated step's look and its request.
	w = plannedWorld(t)
	w.answers["source CreateSnapshot"] = []error{nameTaken("orders-r0001")}
	if out, err := runSnapshot(w, round(1, false)); err != nil || !out.Accepted {
		t.Errorf("name taken: %+v, %v", out, err)
	}
	// Any other refusal ends the round.
	w = plannedWorld(t)
	w.answers["source CreateSnapshot"] = []error{fault.Newf(fault.RequestRefused, "create snapshot", "source", "no")}
	if out, err := runSnapshot(w, round(1, false)); !fault.Is(err, fault.RequestRefused) || out.Accepted {
		t.Errorf("refused: %+v, %v", out, err)
	}
}

// growing are how long a state has had to ask again, and what a warm round and the final one wait then.
var growing = []struct {
	since       time.Duration // ago; 0 is what the machine sends first: null
	warm, final int
}{
	{0, 1, 0}, {time.Second, 1, 0}, {30 * time.Second, 3, 0}, {10 * time.Minute, 60, 0}, {59 * time.Minute, 354, 0}, {61 * time.Minute, 366, 366},
	{90 * time.Minute, 540, 540}, {100 * time.Minute, 600, 600}, {72 * time.Hour, 600, 600},
}

// ago is the since of a round's next request; null at first.
func (w *world) ago(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return w.now.Add(-d)
}

// A refused request is repeated the later the longer it has been refused, so that no history overflows. Long polls of 20 seconds
// are part of that time in the final round.
func TestWaitsGrow(t *testing.T) {
	type answer struct {
		waitSeconds int
		waiting     string
		since       time.Time
	}
	for name, run := range map[string]func(w *world, final bool, since time.Time) (answer, error){
		"another snapshot is seen": func(w *world, final bool, since time.Time) (answer, error) {
			w.source.running = []cluster.RunningSnapshot{{Repository: "r", Name: "endless"}}
			out, err := snapshot(w).Run(w.t.Context(), SnapshotInput{round(2, final), since})
			return answer{out.WaitSeconds, out.Waiting, out.Since}, err
		},
		"another snapshot is not seen": func(w *world, final bool, since time.Time) (answer, error) {
			w.answers["source CreateSnapshot"] = slices.Repeat([]error{busy("create snapshot")}, 1000)
			out, err := snapshot(w).Run(w.t.Context(), SnapshotInput{round(2, final), since})
			return answer{out.WaitSeconds, out.Waiting, out.Since}, err
		},
		"the copies cannot be closed": func(w *world, final bool, since time.Time) (answer, error) {
			w.copies("orders-r0001", true)
			w.answers["destination Close"] = slices.Repeat([]error{busy("close")}, 1000)
			out, err := restore(w).Run(w.t.Context(), RestoreInput{round(2, final), since})
			return answer{out.WaitSeconds, out.Waiting, out.Since}, err
		},
		"the restore is refused": func(w *world, final bool, since time.Time) (answer, error) {
			w.answers["destination Restore"] = slices.Repeat([]error{busy("restore")}, 1000)
			out, err := restore(w).Run(w.t.Context(), RestoreInput{round(2, final), since})
			return answer{out.WaitSeconds, out.Waiting, out.Since}, err
		},
		"the snapshot runs": func(w *world, final bool, since time.Time) (answer, error) {
			if since.IsZero() {
				since = w.now
			}
			w.source.snapshots["orders-r0002"] = cluster.Snapshot{State: cluster.SnapshotInProgress}
			out, err := pollStatus(w).Run(w.t.Context(), PollStatusInput{round(2, final), "snapshot", since})
			return answer{out.WaitSeconds, out.What, since}, err
		},
		"the restore runs": func(w *world, final bool, since time.Time) (answer, error) {
			if since.IsZero() {
				since = w.now
			}
			w.copies("orders-r0002", true)
			w.destination.recoveries[1].Stage = "INDEX"
			out, err := pollStatus(w).Run(w.t.Context(), PollStatusInput{round(2, final), "restore", since})
			return answer{out.WaitSeconds, out.What, since}, err
		},
	} {
		for _, c := range growing {
			for _, final := range []bool{false, true} {
				w := plannedWorld(t)
				began := w.now
				got, err := run(w, final, w.ago(c.since))
				least, most := c.warm, c.warm
				if final {
					if least, most = c.final, c.final; least > 0 {
						most += 3 // a tenth of the long poll
					}
				}
				if err != nil || got.waiting == "" || got.waitSeconds < least || got.waitSeconds > most {
					t.Errorf("%s, since %s, final %t: %+v, %v, want a wait of %d s", name, c.since, final, got, err, least)
				}
				if !got.since.Equal(began.Add(-c.since)) {
					t.Errorf("%s, since %s: goes on since %s, it is %s", name, c.since, got.since, began)
				}
				if polled := w.slept >= longPoll && w.slept <= longPoll+time.Second; polled != final || !final && w.slept > 0 {
					t.Errorf("%s, final %t: the function slept %s", name, final, w.slept)
				}
			}
		}
	}
}

func TestSnapshotOfChangedIndices(t *testing.T) {
	w := plannedWorld(t)
	delete(w.source.indices, "a")
	w.source.indices["b"].Open = false
	_, err := runSnapshot(w, round(1, false))
	wantFault(t, err, fault.IndicesChanged, "none of the selected indices")
	w.wantLog()

	w = plannedWorld(t)
	w.source.sequences["a"] = w.source.sequences["a"][:1]
	_, err = runSnapshot(w, round(1, false))
	wantFault(t, err, fault.Unavailable, "index a", "1 of 2 primary shards")
	w.wantLog()
}

func poll(w *world, what string, final bool) (PollStatusOutput, error) {
	return pollStatus(w).Run(w.t.Context(), PollStatusInput{RoundInput: round(2, final), What: what, StartedAt: w.now.Add(-50 * time.Second)})
}

func TestPollSnapshot(t *testing.T) {
	w := plannedWorld(t)
	began := w.now.Add(-50 * time.Second)
	s := cluster.Snapshot{Name: "orders-r0002", UUID: "u", State: cluster.SnapshotInProgress, StartTime: began, Shards: cluster.ShardCounts{Total: 3}}
	w.source.snapshots["orders-r0002"] = s
	// _status says SUCCESS too early; it is never believed.
	w.source.progress = cluster.Progress{State: "SUCCESS", IndexProgress: cluster.IndexProgress{IncrementalFiles: 7, IncrementalBytes: 1000, ProcessedBytes: 250, TotalBytes: 5000}}
	out, err := poll(w, "snapshot", false)
	if err != nil || out.Done || out.StartAgain || out.WaitSeconds != 5 || out.Percent != 25 || out.Bytes != 250 || out.TotalBytes != 1000 || out.What != "snapshot" || out.Round != 2 {
		t.Fatalf("running: %+v, %v", out, err)
	}
	s.State, s.EndTime, s.Shards.Successful = cluster.SnapshotSuccess, began.Add(1500*time.Millisecond), 3
	w.source.snapshots["orders-r0002"] = s
	out, err = poll(w, "snapshot", false)
	want := migration.SnapshotPhase{Name: "orders-r0002", UUID: "u", Shards: 3, Files: 7, Bytes: 1000, TotalBytes: 5000, Seconds: 1.5}
	if err != nil || !out.Done || out.Percent != 100 || out.Snapshot == nil || !reflect.DeepEqual(*out.Snapshot, want) || out.WaitSeconds != 0 {
		t.Fatalf("finished: %+v, %v", out, err)
	}
	for _, state := range []string{cluster.SnapshotPartial, cluster.SnapshotFailed, cluster.SnapshotSuccess} {
		s.State, s.Shards.Failed = state, 1
		s.Failures = []cluster.ShardFailure{{Index: "a", Shard: 1, Reason: "node left"}}
		w.source.snapshots["orders-r0002"] = s
		out, err := poll(w, "snapshot", false)
		wantFault(t, err, fault.SnapshotFailed, state, "1 of 3 shards failed", "a[1]: node left")
		if out.Done {
			t.Errorf("%s is done", state)
		}
	}
	delete(w.source.snapshots, "orders-r0002")
	if out, err := poll(w, "snapshot", true); err != nil || !out.StartAgain || out.Done {
		t.Errorf("vanished: %+v, %v", out, err)
	}
	w.answers["source Snapshot"] = []error{unknown("read snapshot")}
	if _, err := poll(w, "snapshot", false); !fault.Is(err, fault.OutcomeUnknown) {
		t.Errorf("504: %v", err)
	}
	if _, err := poll(w, "copy", false); !fault.Is(err, fault.InvalidInput) {
		t.Errorf("what is copy: %v", err)
	}
	w.wantLog("put measures/0002.json") // once, when it was complete
}

func TestPollSnapshotInsideTheFreeze(t *testing.T) {
	w := plannedWorld(t)
	w.source.snapshots["orders-r0002"] = cluster.Snapshot{Name: "orders-r0002", State: cluster.SnapshotInProgress, StartTime: w.now}
	w.onSleep = func() {
		if w.slept > 2*time.Second {
			w.source.snapshots["orders-r0002"] = cluster.Snapshot{Name: "orders-r0002", State: cluster.SnapshotSuccess, StartTime: w.now, EndTime: w.now}
		}
	}
	out, err := poll(w, "snapshot", true)
	if err != nil || !out.Done || w.slept > 3*time.Second {
		t.Fatalf("%+v, %v after %v: the answer is not given the moment it is there", out, err, w.slept)
	}
	w = plannedWorld(t)
	w.source.snapshots["orders-r0002"] = cluster.Snapshot{State: cluster.SnapshotInProgress}
	out, err = poll(w, "snapshot", true)
	if err != nil || out.Done || out.WaitSeconds != 0 || w.slept < 20*time.Second || w.slept > 21*time.Second {
		t.Fatalf("endless: %+v, %v after %v", out, err, w.slept)
	}
	if w.reads["source Snapshot"] > 120 || w.reads["source SnapshotProgress"] > 0 {
		t.Errorf("%d questions in 20 s", w.reads["source Snapshot"])
	}
}

func TestPollRestore(t *testing.T) {
	for name, c := range map[string]struct {
		change     func(*world)
		done       bool
		startAgain bool
		fault      fault.Name
		says       string
	}{
		"all of it":             {func(*world) {}, true, false, "", ""},
		"a shard still moves":   {func(w *world) { w.destination.recoveries[1].Stage = "INDEX" }, false, false, "", ""},
		"a shard queues":        {func(w *world) { w.destination.recoveries = w.destination.recoveries[1:] }, false, false, "", ""},
		"of an older snapshot":  {func(w *world) { w.destination.recoveries[2].Snapshot = "orders-r0001" }, false, false, "", ""},
		"of another type":       {func(w *world) { w.destination.recoveries[0].Type = "LOCAL_SHARDS" }, false, false, "", ""},
		"a replica's":           {func(w *world) { w.destination.recoveries[0].Primary = false }, false, false, "", ""},
		"recovered, not yet up": {func(w *world) { w.destination.shards[0].State = "INITIALIZING" }, false, false, "", ""},
		"on its way elsewhere":  {func(w *world) { w.destination.shards[0].State = "RELOCATING" }, true, false, "", ""},
		"moved since": {func(w *world) {
			w.destination.recoveries[0].Type, w.destination.recoveries[0].Snapshot = "PEER", ""
			w.destination.recoveries[0].StartTime = w.now
		}, true, false, "", ""},
		"restarted since": {func(w *world) {
			w.destination.recoveries[0].Type, w.destination.recoveries[0].Snapshot = "EXISTING_STORE", ""
			w.destination.recoveries[0].StartTime = w.now
		}, false, true, "", ""},
		"moved before": {func(w *world) {
			w.destination.recoveries[0].Type, w.destination.recoveries[0].Snapshot = "PEER", ""
			w.destination.recoveries[0].StartTime = w.now.Add(-time.Hour)
		}, false, false, "", ""},
		"moving: one shard is not counted twice": {func(w *world) {
			again := w.destination.recoveries[0]
			again.Type = "PEER"
			w.destination.recoveries = append([]cluster.ShardRecovery{w.destination.recoveries[0], again}, w.destination.recoveries[2:]...)
		}, false, false, "", ""},
		"a replica is missing": {func(w *world) {
			w.destination.shards = append(w.destination.shards, cluster.Shard{Index: "a", Shard: 0, State: "UNASSIGNED", UnassignedReason: "NODE_LEFT"})
		}, true, false, "", ""},
		"node lost":        {lose("NODE_LEFT"), false, true, "", ""},
		"node restarted":   {lose("CLUSTER_RECOVERED"), false, true, "", ""},
		"waits its turn":   {func(w *world) { lose("EXISTING_INDEX_RESTORED")(w); w.destination.explanation = "throttled" }, false, false, "", ""},
		"will be retried":  {func(w *world) { lose("ALLOCATION_FAILED")(w); w.destination.explanation = "2 failed attempts" }, false, false, "", ""},
		"reopened":         {lose("INDEX_REOPENED"), false, false, "", ""},
		"given up":         {final("manually close or delete the index [a] in order to retry to restore the snapshot again"), false, false, fault.RestoreFailed, "a[1]: manually close"},
		"retries are over": {final("shard has exceeded the maximum number of retries [5]"), false, false, fault.RestoreFailed, "a[1]"},
		"no answer":        {func(w *world) { w.answers["destination Recoveries"] = []error{unknown("read")} }, false, false, fault.OutcomeUnknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := plannedWorld(t)
			w.copies("orders-r0002", true)
			c.change(w)
			out, err := poll(w, "restore", false)
			if c.fault != "" {
				wantFault(t, err, c.fault, c.says)
				return
			}
			if err != nil || out.Done != c.done || out.StartAgain != c.startAgain {
				t.Fatalf("%+v, %v", out, err)
			}
			if (out.WaitSeconds > 0) != (!out.Done && !out.StartAgain) || out.Done != (out.Restore != nil) {
				t.Errorf("%+v", out)
			}
			if c.done {
				w.wantLog("put measures/0002.json")
			} else {
				w.wantLog()
			}
		})
	}
}

// lose takes a primary away from its node.
func lose(reason string) func(*world) {
	return func(w *world) {
		w.destination.shards[1].State, w.destination.shards[1].UnassignedReason = "UNASSIGNED", reason
	}
}

func final(words string) func(*world) {
	return func(w *world) { lose("NEW_INDEX_RESTORED")(w); w.destination.explanation = words }
}

func TestPollRestoreMeasures(t *testing.T) {
	w := plannedWorld(t)
	w.copies("orders-r0002", true)
	out, err := poll(w, "restore", true)
	want := migration.RestorePhase{Indices: 2, Shards: 3, Bytes: 120, ReusedBytes: 180, RecoveredBytes: 120, Seconds: 50, Nodes: []migration.Share{{Shards: 3, Bytes: 120}}}
	if err != nil || out.Restore == nil || !reflect.DeepEqual(*out.Restore, want) || out.Percent != 100 || out.Bytes != 120 || out.TotalBytes != 120 {
		t.Fatalf("%+v %+v, %v", out, out.Restore, err)
	}
	w.destination.recoveries[0].RecoveredBytes, w.destination.recoveries[0].Stage = 10, "INDEX"
	if out, err := poll(w, "restore", false); err != nil || out.Percent != 75 || out.Bytes != 90 || out.TotalBytes != 120 {
		t.Errorf("%+v, %v", out, err)
	}
}

// Thousands of shards wait for their turn; the failed ones are asked about first, and not all of the others.
func TestPollRestoreAsksFewQuestions(t *testing.T) {
	w := plannedWorld(t)
	w.copies("orders-r0002", true)
	w.destination.recoveries = nil
	for i := range 1000 {
		w.destination.shards = append(w.destination.shards, cluster.Shard{Index: "b", Shard: i + 1, Primary: true, State: "UNASSIGNED", UnassignedReason: "NEW_INDEX_RESTORED"})
	}
	if out, err := poll(w, "restore", false); err != nil || out.Done || w.reads["destination ExplainAllocation"] != 10 {
		t.Errorf("%+v, %v, %d questions", out, err, w.reads["destination ExplainAllocation"])
	}
	w.destination.shards = append(w.destination.shards, cluster.Shard{Index: "a", Shard: 7, Primary: true, State: "UNASSIGNED", UnassignedReason: "ALLOCATION_FAILED"})
	w.destination.explanation = "in order to retry"
	_, err := poll(w, "restore", false)
	wantFault(t, err, fault.RestoreFailed, "a[7]")
	if strings.Contains(err.Error(), "b[") {
		t.Errorf("%v speaks of shards that wait", err)
	}
}
