package report

import (
	"slices"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/migration"
)

func TestPhases(t *testing.T) {
	p := &migration.Prediction{
		Seconds: 4, Low: 3, High: 6, Freeze: migration.Phase{Seconds: 0.2, Low: 0.1, High: 0.3}, Restore: migration.Phase{Seconds: 2, Low: 1, High: 3},
		Replay: migration.Phase{Seconds: 1, Low: 0.5, High: 2},
	}
	c := migration.CutOver{Freeze: new(0.25), Restore: new(1.5), Copy: new(0.0), Replay: new(1.75), Verify: new(0.5), Finish: new(0.25), Total: new(3.0)}
	got := map[string]Phase{}
	var names []string
	for _, x := range Phases(p, c) {
		got[x.Name] = x
		names = append(names, x.Name)
	}
	if want := []string{"freeze", "snapshot", "copy", "restore", "replay", "verify", "finish", "transitions", "total"}; !slices.Equal(names, want) {
		t.Fatalf("%v, want %v", names, want)
	}
	for name, want := range map[string]float64{"freeze": 0.25, "copy": 0, "restore": 1.5, "replay": 1.75, "transitions": 0.25, "total": 3} {
		if x := got[name]; x.Actual == nil || *x.Actual != want {
			t.Errorf("%s: %+v, want %v", name, x, want)
		}
	}
	if x := got["snapshot"]; x.Actual != nil {
		t.Errorf("nobody measured the snapshot: %+v", x)
	}
	if x := got["restore"]; x.Predicted != 2 || x.Low != 1 || x.High != 3 {
		t.Errorf("%+v", x)
	}
	if x := got["total"]; x.Predicted != 4 || x.Low != 3 || x.High != 6 {
		t.Errorf("%+v", x)
	}
	c.Verify = nil
	if x := Phases(p, c)[7]; x.Name != "transitions" || x.Actual != nil {
		t.Errorf("what is left over is not known when a part is not: %+v", x)
	}
	if got := Phases(nil, c); len(got) != 0 || got == nil {
		t.Errorf("without a prediction: %v", got)
	}
}

func TestRestoreErrors(t *testing.T) {
	round := func(n int, predicted *int64, recovered int64) migration.Round {
		return migration.Round{Number: n, Restore: migration.RestorePhase{PredictedBytes: predicted, RecoveredBytes: recovered}}
	}
	got := RestoreErrors([]migration.Round{round(1, new(int64(1000)), 1000), round(2, nil, 7), round(3, new(int64(900)), 1000), round(4, new(int64(1500)), 1000),
		round(5, new(int64(0)), 0)})
	want := []RestoreBytes{{1, 1000, 1000, 0}, {3, 900, 1000, 10}, {4, 1500, 1000, -50}, {5, 0, 0, 0}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestPrint(t *testing.T) {
	r := Report{
		Migration: "orders", Verdict: migration.Verified, WriteDowntime: WriteDowntime{PredictedSeconds: new(2.0), PredictedLow: new(1.5), PredictedHigh: new(3.0), MeasuredSeconds: new(2.5)},
		Phases:       []Phase{{"freeze", 0.2, 0.1, 0.3, new(0.25)}, {"copy", 0, 0, 0, nil}, {"verify", 0.5, 0.4, 0.6, nil}},
		RestoreBytes: []RestoreBytes{{2, 900, 1000, 10}},
		Indices: []Index{{Name: "logs", LastMile: migration.LastMileRounds}, {Name: "users", LastMile: migration.LastMileReplay, Reason: "updated"},
			{Name: "static", LastMile: migration.LastMileRounds, UnchangedSince: 1}},
		Changes: []migration.Change{{Round: 3, Index: "logs-2", What: migration.Created}},
		Checks:  []migration.Check{{Name: "documents", Outcome: migration.Passed}, {Name: "aliases", Index: "logs", Outcome: migration.Warning, Evidence: "one more"}},
	}
	r.Green, r.DeletedSnapshots = &Green{Seconds: 61, Missing: []string{"logs (yellow)"}}, []string{"orders-r0001"}
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"not all copies of all shards were there 61 s after the hand-over: logs (yellow)\n", "1 snapshots of earlier rounds are gone",
		"write downtime 2.50 s, predicted 2.00 s [1.50..3.00]", "freeze          0.20 s  [0.10..0.30]         0.25 s", "verify          0.50 s  [0.40..0.60]              -",
		"round 2    restore predicted 900 bytes, moved 1000 (+10.0 %)", "index logs  last mile by rounds\n", "index users  last mile by replay: updated",
		"index static  skipped: unchanged since round 1", "followed: logs-2 (created)", "check aliases of index logs: warning (one more)",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, b.String())
		}
	}
	for _, not := range []string{"copy", "documents"} {
		if strings.Contains(b.String(), not) {
			t.Errorf("the report says %q, of which there is nothing to say:\n%s", not, b.String())
		}
	}
}
