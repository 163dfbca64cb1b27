package step

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

func runRestore(w *world, in RoundInput) (RestoreOutput, error) {
	return restore(w).Run(w.t.Context(), RestoreInput{RoundInput: in})
}

func TestRestoreOfNewIndices(t *testing.T) {
	w := plannedWorld(t)
	w.destination.add("unrelated", 1)
	out, err := runRestore(w, round(1, false))
	if err != nil || !out.Accepted || out.Indices != 2 || !out.StartedAt.Equal(w.now) {
		t.Fatalf("%+v, %v", out, err)
	}
	// The names are recorded before the indices can exist; nothing is closed.
	w.wantLog("put copies.json", "destination Restore orders-r0001 a,b")
	want := cluster.RestoreRequest{
		Indices: []string{"a", "b"}, IgnoreSettings: ignoredSettings,
		Settings: map[string]any{"index.number_of_replicas": 0, "index.auto_expand_replicas": "false", "index.refresh_interval": "-1", "index.blocks.write": true},
	}
	if !reflect.DeepEqual(w.destination.restored, want) || !slices.Contains(ignoredSettings, "index.blocks.*") {
		t.Errorf("asked for %+v", w.destination.restored)
	}
	// Again: everything is under way.
	w.forget()
	if out, err := runRestore(w, round(1, false)); err != nil || !out.Accepted || out.Indices != 0 {
		t.Errorf("again: %+v, %v", out, err)
	}
	w.wantLog()
}

func TestRestoreKilled(t *testing.T) {
	check := func(w *world) {
		if n := w.count("destination Restore"); n != 1 {
			w.t.Errorf("%d restores: %v", n, w.log)
		}
		if c, err := w.journal().Copies(w.t.Context()); err != nil || !slices.Equal(c.Indices, []string{"a", "b"}) {
			w.t.Errorf("copies %v, %v", c, err)
		}
	}
	t.Run("first round", func(t *testing.T) {
		killedEverywhere(t, plannedWorld, func(w *world) error { _, err := runRestore(w, round(1, false)); return err }, func(w *world) {
			check(w)
			w.wantBefore("put copies.json", "destination Restore")
		})
	})
	t.Run("over open copies", func(t *testing.T) {
		killedEverywhere(t, func(t *testing.T) *world { w := plannedWorld(t); w.copies("orders-r0001", true); return w },
			func(w *world) error { _, err := runRestore(w, round(2, true)); return err }, func(w *world) {
				check(w)
				w.wantBefore("destination Close a,b", "destination Restore orders-r0002 a,b")
			})
	})
}

func TestRestoreOverClosedCopies(t *testing.T) {
	w := plannedWorld(t)
	w.copies("orders-r0001", false)
	if out, err := runRestore(w, round(2, false)); err != nil || out.Indices != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantLog("destination Restore orders-r0002 a,b")
	if w.destination.restored.IncludeAliases {
		t.Error("a warm round brings aliases")
	}
	w.copies("orders-r0002", false)
	if _, err := runRestore(w, round(3, true)); err != nil || !w.destination.restored.IncludeAliases {
		t.Errorf("the final round does not bring the aliases: %v", err)
	}
}

func TestRestoreLeavesForeignIndicesAlone(t *testing.T) {
	w := plannedWorld(t)
	w.copies("orders-r0001", true)
	w.must(w.journal().SaveCopies(t.Context(), journal.Copies{Indices: []string{"a"}}))
	w.forget()
	_, err := runRestore(w, round(2, false))
	wantFault(t, err, fault.DestinationOccupied, "index b")
	w.wantLog()
}

func TestRestoreDoesWhatIsLeft(t *testing.T) {
	// a is restored from this snapshot, b still from the one before.
	w := plannedWorld(t)
	w.copies("orders-r0001", true)
	w.destination.recover("orders-r0002", "a", 2)
	w.destination.add("unrelated", 1)
	if out, err := runRestore(w, round(2, false)); err != nil || out.Indices != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantLog("destination Close b", "destination Restore orders-r0002 b")
	if !w.destination.indices["unrelated"].Open {
		t.Error("an unrelated index was closed")
	}
	// A primary of a is lost: its recovery proves nothing.
	w.forget()
	w.destination.shards[slices.IndexFunc(w.destination.shards, func(s cluster.Shard) bool { return s.Index == "a" })].State = "UNASSIGNED"
	if _, err := runRestore(w, round(2, false)); err != nil {
		t.Fatal(err)
	}
	w.wantLog("destination Close a", "destination Restore orders-r0002 a")
	// Only one of a's two shards is under way.
	w.forget()
	w.destination.recoveries = slices.DeleteFunc(w.destination.recoveries, func(r cluster.ShardRecovery) bool { return r.Index == "a" && r.Shard == 1 })
	if _, err := runRestore(w, round(2, false)); err != nil {
		t.Fatal(err)
	}
	w.wantLog("destination Close a", "destination Restore orders-r0002 a")
	// A copy that somebody deleted is made anew, without recording it a second time.
	w.forget()
	delete(w.destination.indices, "b")
	if _, err := runRestore(w, round(2, false)); err != nil {
		t.Fatal(err)
	}
	w.wantLog("destination Restore orders-r0002 b")
}

func TestRestoreAnswers(t *testing.T) {
	for _, call := range []string{"destination Close", "destination Restore"} {
		for _, final := range []bool{false, true} {
			w := plannedWorld(t)
			w.copies("orders-r0001", true)
			w.answers[call] = []error{busy(call)}
			out, err := runRestore(w, round(2, final))
			switch {
			case final && (err != nil || !out.Accepted || out.Waiting != "" || w.slept == 0 || w.slept > time.Second || !out.StartedAt.Equal(w.now)):
				t.Errorf("%s busy, final: %+v, %v after %v; want it to go on the moment it can", call, out, err, w.slept)
			case !final && (err != nil || out.Accepted || out.WaitSeconds < 1 || out.Waiting == "" || w.slept != 0):
				t.Errorf("%s busy: %+v, %v after %v", call, out, err, w.slept)
			}
			if out, err := runRestore(w, round(2, final)); err != nil || !out.Accepted || w.count("destination Restore") != 1 {
				t.Errorf("%s, afterwards: %+v, %v, %v", call, out, err, w.log)
			}
		}
		w := plannedWorld(t)
		w.copies("orders-r0001", true)
		w.lost[call] = []error{unknown(call)}
		if out, err := runRestore(w, round(2, true)); !fault.Is(err, fault.OutcomeUnknown) || out.Accepted {
			t.Errorf("%s 504: %+v, %v", call, out, err)
		}
		if out, err := runRestore(w, round(2, true)); err != nil || !out.Accepted || w.count("destination Restore") != 1 || w.count("destination Close") != 1 {
			t.Errorf("%s, after 504: %+v, %v, %v", call, out, err, w.log)
		}
	}
}

func recordInput(final bool) RecordRoundInput {
	return RecordRoundInput{
		RoundInput: round(2, final), StartedAt: time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC), Snapshot: migration.SnapshotPhase{Name: "orders-r0002", Seconds: 1},
		Copy: migration.CopyPhase{Objects: 3, Seconds: 2}, Restore: migration.RestorePhase{Shards: 3, Seconds: 4},
	}
}

func TestRecordRound(t *testing.T) {
	w := plannedWorld(t)
	w.copies("orders-r0002", true)
	w.destination.add("unrelated", 1)
	r, err := recordRound(w).Run(t.Context(), recordInput(false))
	if err != nil {
		t.Fatal(err)
	}
	w.wantLog("destination Close a,b", "put holds.json", "put rounds/0002.json")
	in := recordInput(false)
	want := migration.Round{Number: 2, Execution: mine, StartedAt: in.StartedAt, FinishedAt: w.now, Snapshot: in.Snapshot, Copy: in.Copy, Restore: in.Restore}
	if got, err := w.journal().Rounds(t.Context()); err != nil || !reflect.DeepEqual(r, want) || !reflect.DeepEqual(got, []migration.Round{want}) || want.Seconds() != 7 {
		t.Errorf("returned %+v, recorded %+v, want %+v, %v", r, got, want, err)
	}

	w = plannedWorld(t)
	w.copies("orders-r0002", true)
	if r, err := recordRound(w).Run(t.Context(), recordInput(true)); err != nil || !r.Final {
		t.Fatalf("%+v, %v", r, err)
	}
	if w.count("put holds.json") != 1 || w.count("put rounds/0002.json") != 1 || w.count("destination") != 0 { // the final copies stay open
		t.Errorf("%v", w.log)
	}

	// A snapshot of the destination's own holds the copies: the next round closes them.
	w = plannedWorld(t)
	w.copies("orders-r0002", true)
	w.answers["destination Close"] = []error{busy("close")}
	if _, err := recordRound(w).Run(t.Context(), recordInput(false)); err != nil {
		t.Fatal(err)
	}
	w.wantLog("put holds.json", "put rounds/0002.json")
	w.forget()
	w.answers["destination Close"] = []error{unknown("close")}
	if _, err := recordRound(w).Run(t.Context(), recordInput(false)); !fault.Is(err, fault.OutcomeUnknown) {
		t.Errorf("504: %v", err)
	}
	w.wantLog()
}

func TestRecordRoundKilled(t *testing.T) {
	killedEverywhere(t, func(t *testing.T) *world { w := plannedWorld(t); w.copies("orders-r0002", true); return w },
		func(w *world) error { _, err := recordRound(w).Run(w.t.Context(), recordInput(false)); return err }, func(w *world) {
			if got, err := w.journal().Rounds(w.t.Context()); err != nil || len(got) != 1 || w.destination.indices["a"].Open {
				w.t.Errorf("%+v, %v, open %t", got, err, w.destination.indices["a"].Open)
			}
		})
}

// TestRestoreThatTookEffectLate: the first request's answer was lost, the step looked before it took effect, and asked again.
func TestRestoreThatTookEffectLate(t *testing.T) {
	late := fault.New(fault.RequestRefused, "restore", "destination", &cluster.Refusal{Status: 500, Causes: []cluster.Cause{{
		Type: "snapshot_restore_exception", Reason: "[r:s/x] cannot restore index [a] because an open index with same name already exists in the cluster.",
	}}})
	w := plannedWorld(t)
	w.answers["destination Restore"] = []error{late}
	out, err := runRestore(w, round(1, false))
	if err != nil || out.Accepted || out.WaitSeconds < 1 {
		t.Fatalf("warm: %+v, %v; want to look again", out, err)
	}
	for _, name := range []string{"a", "b"} {
		w.destination.add(name, 2)
		w.destination.recover("orders-r0001", name, w.source.indices[name].Primaries)
	}
	w.forget()
	if out, err := runRestore(w, round(1, false)); err != nil || !out.Accepted || out.Indices != 0 {
		t.Errorf("looked again: %+v, %v", out, err)
	}
	w.wantLog()
}

// TestRestoreOverAnIndexThatAppeared: recorded as a copy to be made, but made by somebody else before the restore.
func TestRestoreOverAnIndexThatAppeared(t *testing.T) {
	w := plannedWorld(t)
	w.answers["destination Restore"] = []error{unknown("restore")}
	if _, err := runRestore(w, round(1, false)); !fault.Is(err, fault.OutcomeUnknown) {
		t.Fatal(err)
	}
	w.destination.add("a", 1)
	w.destination.recoveries = []cluster.ShardRecovery{{Index: "a", Primary: true, Type: "EMPTY_STORE", Stage: "DONE"}}
	w.forget()
	_, err := runRestore(w, round(1, false))
	wantFault(t, err, fault.DestinationOccupied, "a")
	w.wantLog()
}
