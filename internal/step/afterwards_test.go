package step

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
)

// asking is a finishable migration whose input asks for more; its rounds have taken n snapshots, the last of them the final one.
func asking(t *testing.T, n int, change func(*migration.Spec)) *world {
	w := finishable(t)
	p, err := w.journal().Plan(t.Context(), mine)
	w.must(err)
	change(&p.Spec)
	w.must(w.journal().SavePlan(t.Context(), p))
	for i := range n {
		name, uuid := migration.SnapshotName("orders", i+1), fmt.Sprint("u", i+1)
		w.source.snapshots[name] = cluster.Snapshot{Name: name, UUID: uuid, State: cluster.SnapshotSuccess}
		w.must(w.journal().SaveRound(t.Context(), migration.Round{
			Number: i + 1, Final: i+1 == n, Execution: mine, FinishedAt: w.now.Add(3 * time.Second), Snapshot: migration.SnapshotPhase{Name: name, UUID: uuid},
		}))
	}
	w.forget()
	return w
}

func (w *world) report() report.Report {
	w.t.Helper()
	var r report.Report
	if found, err := w.journal().Document(w.t.Context(), journal.ReportFile, &r); err != nil || !found {
		w.t.Fatal(found, err)
	}
	return r
}

func (w *world) healths(health string) {
	for _, x := range []string{"a", "b"} {
		w.destination.indices[x].Health = health
	}
}

func waitForGreen(most time.Duration) func(*migration.Spec) {
	return func(s *migration.Spec) { s.Finish.WaitForGreen = migration.Duration(most) }
}

// Waiting is no downtime: the destination takes writes and the report is there from the first answer on.
func TestFinishWaitsForGreen(t *testing.T) {
	w := asking(t, 3, waitForGreen(time.Hour))
	w.healths("yellow")
	out, err := runFinish(w)
	if err != nil || out.Action != migration.WaitFirst || out.WaitSeconds != 2 || out.Waiting == "" || out.WritableAt.IsZero() || w.freezeState().State != journal.HandedOver {
		t.Fatalf("%+v, %v", out, err)
	}
	if g := w.report().Green; g == nil || g.Reached || !slices.Equal(g.Missing, []string{"a (yellow)", "b (yellow)"}) {
		t.Errorf("%+v", g)
	}
	down := out.DowntimeSeconds
	settled := w.freezeState().SettledAt
	for _, lap := range []struct {
		after time.Duration
		wait  int
	}{{10 * time.Second, 2}, {time.Minute, 6}, {30 * time.Minute, 180}, {59*time.Minute + 40*time.Second, 21}} {
		w.now = settled.Add(lap.after)
		if out, err := runFinish(w); err != nil || out.WaitSeconds != lap.wait || out.DowntimeSeconds != down {
			t.Errorf("after %s: %+v, %v, want a wait of %d s", lap.after, out, err, lap.wait)
		}
	}
	// The domain cannot be asked for a moment: that is no failure either.
	w.answers["destination Indices"] = []error{fault.Newf(fault.Unavailable, "list", "https://destination", "no answer")}
	if out, err := runFinish(w); err != nil || out.Action != migration.WaitFirst || !strings.Contains(w.report().Green.Missing[0], "no answer") {
		t.Errorf("%+v, %v", out, err)
	}
	w.healths("green")
	for range 2 {
		if out, err := runFinish(w); err != nil || out.Action != migration.Done || out.WaitSeconds != 0 || out.DowntimeSeconds != down {
			t.Fatalf("%+v, %v", out, err)
		}
		if g := w.report().Green; g == nil || !g.Reached || g.Seconds != 3580 || len(w.report().Warnings) != 0 {
			t.Errorf("%+v", w.report())
		}
		w.now = w.now.Add(time.Hour)
		w.healths("red") // afterwards nobody looks any more
	}
}

func TestFinishGivesUpWaitingForGreen(t *testing.T) {
	w := asking(t, 3, waitForGreen(time.Minute))
	w.healths("green")
	w.destination.indices["b"].Health = "yellow"
	if out, err := runFinish(w); err != nil || out.Action != migration.WaitFirst {
		t.Fatalf("%+v, %v", out, err)
	}
	w.now = w.now.Add(time.Minute)
	out, err := runFinish(w)
	if err != nil || out.Action != migration.Done || out.Verdict != migration.Verified {
		t.Fatalf("a time-out is no failure: %+v, %v", out, err)
	}
	r := w.report()
	if r.Green == nil || r.Green.Reached || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "b (yellow)") || !strings.Contains(r.Warnings[0], "_cluster/allocation/explain") {
		t.Errorf("%+v, %v", r.Green, r.Warnings)
	}
}

func TestFinishWaitsForNothingByDefault(t *testing.T) {
	w := asking(t, 3, func(*migration.Spec) {})
	w.healths("yellow")
	out, err := runFinish(w)
	if err != nil || out.Action != migration.Done || w.report().Green != nil || w.reads["destination Indices"] != 0 || len(w.source.snapshots) != 3 || w.report().DeletedSnapshots != nil {
		t.Errorf("%+v, %v, %d snapshots", out, err, len(w.source.snapshots))
	}
}

func keep(n int) func(*migration.Spec) { return func(s *migration.Spec) { s.KeepSnapshots = &n } }

func snapshotNames(rounds ...int) []string {
	var names []string
	for _, n := range rounds {
		names = append(names, migration.SnapshotName("orders", n))
	}
	return names
}

func (w *world) wantSnapshots(rounds ...int) {
	w.t.Helper()
	var have []string
	for name := range w.source.snapshots {
		have = append(have, name)
	}
	slices.Sort(have)
	if want := snapshotNames(rounds...); !slices.Equal(have, want) {
		w.t.Errorf("the source has %v, want %v", have, want)
	}
}

// handedOver is after the first call of Finish.
func (w *world) handedOver() {
	w.t.Helper()
	if out, err := runFinish(w); err != nil || out.Action != migration.WaitFirst {
		w.t.Fatalf("%+v, %v", out, err)
	}
}

// finished is after the second one.
func (w *world) finished() {
	w.t.Helper()
	w.handedOver()
	if out, err := runFinish(w); err != nil || out.Action != migration.Done {
		w.t.Fatalf("%+v, %v", out, err)
	}
}

func TestKeepSnapshots(t *testing.T) {
	w := asking(t, 6, keep(2))
	// a was last moved by round 2; the snapshots after it do not hold it.
	w.must(w.journal().SaveHolds(t.Context(), map[string]journal.Hold{
		"a": {Round: 2, Snapshot: migration.SnapshotName("orders", 2)}, "b": {Round: 6, Snapshot: migration.SnapshotName("orders", 6)},
	}))
	w.source.snapshots["nightly"] = cluster.Snapshot{Name: "nightly", UUID: "n"}
	w.forget()
	if out, err := runFinish(w); err != nil || out.Action != migration.WaitFirst || out.WaitSeconds != 1 || w.count("source DeleteSnapshot") != 0 || out.WritableAt.IsZero() {
		t.Fatalf("the hand-over is not to be seen at once: %+v, %v", out, err)
	}
	for range 2 {
		out, err := runFinish(w)
		if err != nil || out.Action != migration.Done {
			t.Fatalf("%+v, %v", out, err)
		}
		if r := w.report(); !slices.Equal(r.DeletedSnapshots, snapshotNames(1, 3, 4)) || len(r.Warnings) != 0 {
			t.Errorf("%v, %v", r.DeletedSnapshots, r.Warnings)
		}
	}
	if _, kept := w.source.snapshots["nightly"]; !kept || w.count("source DeleteSnapshot") != 3 || w.count("destination DeleteSnapshot") != 0 {
		t.Errorf("deleted what is not this migration's, or twice: %v", w.log)
	}
	delete(w.source.snapshots, "nightly")
	w.wantSnapshots(2, 5, 6)
	w.wantBefore("put freeze.json handedOver", "source DeleteSnapshot")
}

// A round in which nothing changed has no snapshot, and one that another cluster took over that name is not ours.
func TestKeepSnapshotsLeavesAlone(t *testing.T) {
	w := asking(t, 5, keep(1))
	w.source.snapshots[migration.SnapshotName("orders", 2)] = cluster.Snapshot{Name: migration.SnapshotName("orders", 2), UUID: "another"}
	w.must(w.journal().SaveRound(t.Context(), migration.Round{Number: 3, Execution: mine}))
	w.finished()
	w.wantSnapshots(2, 3, 5)
	if r := w.report(); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "orders-r0002") || !strings.Contains(r.Warnings[0], "left alone") {
		t.Errorf("%v", r.Warnings)
	}
}

func TestKeepSnapshotsOfABusySource(t *testing.T) {
	busy := fault.Newf(fault.Busy, "delete snapshot", "https://source", "a snapshot is running")
	w := asking(t, 4, keep(1))
	w.handedOver()
	w.answers["source DeleteSnapshot"] = []error{nil, busy}
	out, err := runFinish(w)
	if err != nil || out.Action != migration.WaitFirst || out.WaitSeconds != 15 || !strings.Contains(out.Waiting, "a snapshot is running") {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantSnapshots(2, 3, 4)
	w.lost["source DeleteSnapshot"] = []error{unknown("delete")} // done, but nobody knows
	if out, err := runFinish(w); err != nil || out.Action != migration.WaitFirst {
		t.Fatalf("%+v, %v", out, err)
	}
	if out, err := runFinish(w); err != nil || out.Action != migration.Done {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantSnapshots(4)
	if r := w.report(); !slices.Equal(r.DeletedSnapshots, snapshotNames(1, 2, 3)) {
		t.Errorf("%v", r.DeletedSnapshots)
	}

	// It may not be, or not for an hour: said, with what to do.
	for name, c := range map[string]struct {
		err   error
		later time.Duration
	}{"refused": {fault.Newf(fault.AccessDenied, "delete snapshot", "https://source", "no permissions"), 0}, "busy for an hour": {busy, pruneFor}} {
		w := asking(t, 4, keep(2))
		w.handedOver()
		if c.later > 0 {
			w.answers["source DeleteSnapshot"] = []error{c.err}
			if out, err := runFinish(w); err != nil || out.Action != migration.WaitFirst {
				t.Fatalf("%+v, %v", out, err)
			}
			w.now = w.now.Add(c.later)
		}
		w.answers["source DeleteSnapshot"] = []error{c.err}
		if out, err := runFinish(w); err != nil || out.Action != migration.Done {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		r := w.report()
		if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "orders-r0001, orders-r0002") || !strings.Contains(r.Warnings[0], "DELETE https://source/_snapshot/orders/<name>") {
			t.Errorf("%s: %v", name, r.Warnings)
		}
	}
}

// Near the end of the invocation the rest is left for the next one.
func TestKeepSnapshotsInSeveralInvocations(t *testing.T) {
	w := asking(t, 4, keep(1))
	w.handedOver()
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(50*time.Second))
	defer cancel()
	out, err := finish(w).Run(ctx, FinishInput{Migration: "orders", Round: 3, Execution: mine})
	if err != nil || out.Action != migration.WaitFirst || out.WaitSeconds != 1 || !strings.Contains(out.Waiting, "3 more snapshots") {
		t.Fatalf("%+v, %v", out, err)
	}
	w.now = w.now.Add(pruneFor)
	if out, err := finish(w).Run(ctx, FinishInput{Migration: "orders", Round: 3, Execution: mine}); err != nil || out.Action != migration.Done || !strings.Contains(w.report().Warnings[0], "orders-r0001, orders-r0002, orders-r0003") {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantSnapshots(1, 2, 3, 4)
}

func TestKeepSnapshotsKilled(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := asking(t, 4, func(s *migration.Spec) { keep(2)(s); waitForGreen(time.Hour)(s) })
		w.healths("green")
		return w
	}
	run := func(w *world) error { // as the state machine does
		for {
			if out, err := runFinish(w); err != nil || out.Action == migration.Done {
				return err
			}
		}
	}
	killedEverywhere(t, arrange, run, func(w *world) {
		w.wantSnapshots(3, 4)
		if r := w.report(); !slices.Equal(r.DeletedSnapshots, snapshotNames(1, 2)) || r.Green == nil || !r.Green.Reached {
			w.t.Errorf("%v, %+v", r.DeletedSnapshots, r.Green)
		}
	})
}

func TestSuperfluous(t *testing.T) {
	var rounds []migration.Round
	for n := 1; n <= 5; n++ {
		rounds = append(rounds, migration.Round{Number: n, Snapshot: migration.SnapshotPhase{Name: fmt.Sprint(n), UUID: "u"}})
	}
	for keep, want := range map[int]int{1: 4, 4: 1, 5: 0, 9: 0} {
		if got := superfluous(slices.Clone(rounds), nil, keep); len(got) != want || want > 0 && got[0].Name != "1" {
			t.Errorf("keep %d: %v", keep, got)
		}
	}
	if got := superfluous(rounds, map[string]journal.Hold{"a": {Snapshot: "1"}, "b": {Snapshot: "3"}}, 1); len(got) != 2 || got[0].Name != "2" || got[1].Name != "4" {
		t.Errorf("%v", got)
	}
}

func TestRefreshIntervalOfTheInput(t *testing.T) {
	x := cluster.Index{Name: "a", Settings: map[string]string{"index.refresh_interval": "30s", "index.number_of_replicas": "1"}}
	if q := planned(x, migration.Spec{}); q.RefreshInterval != "30s" {
		t.Errorf("%+v", q)
	}
	if q := planned(x, migration.Spec{Finish: migration.FinishOptions{RefreshInterval: "5s"}}); q.RefreshInterval != "5s" || q.Replicas != "1" {
		t.Errorf("%+v", q)
	}
}
