package simulate

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/local/asl"
)

// The service's and the journal's limits, in bytes.
const (
	largestState    = 256 << 10
	largestDocument = 64 << 20
)

func finish(t *testing.T, w *world) Result {
	t.Helper()
	t.Cleanup(Quiet())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, err := w.run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s%s", r.Text(), r.Detail())
	return r
}

// TestMigration runs a small migration whole: whatever the prediction is worth at that size, nothing may be lost, writes must be open on
// one side, and no limit of the service may be met.
func TestMigration(t *testing.T) {
	for _, c := range []struct {
		name   string
		window time.Duration
	}{{"by rounds", time.Hour}, {"by rounds and replay", 100 * time.Second}} {
		t.Run(c.name, func(t *testing.T) {
			w, err := newWorld(Config{Seed: 1, Shards: 500, Window: c.window}.withDefaults())
			if err != nil {
				t.Fatal(err)
			}
			r := finish(t, w)
			if r.Lost > 0 || r.Blocked > 0 {
				t.Errorf("%d shards lost, %d indices still blocked", r.Lost, r.Blocked)
			}
			if r.Status == string(asl.Succeeded) && (r.Actual <= 0 || r.Prediction == nil || r.WarmRounds < 2) {
				t.Errorf("no downtime, no prediction or no rounds: %+v", r)
			}
			for machine, n := range r.History {
				if n >= maximumHistory {
					t.Errorf("an execution of %s has %d history events", machine, n)
				}
			}
			for function, n := range r.LargestOutput {
				if n >= largestState {
					t.Errorf("%s answered %d bytes", function, n)
				}
			}
			for key, n := range r.JournalBytes {
				if n >= largestDocument {
					t.Errorf("journal document %s has %d bytes", key, n)
				}
			}
			if r.Cost.Transfer <= 0 || r.Cost.Total <= r.Cost.Transfer {
				t.Errorf("cost %+v", r.Cost)
			}
		})
	}
}

// TestSkippedIndexIsFound: documents do not exist here, so the verification must still tell a copy that lacks something.
func TestSkippedIndexIsFound(t *testing.T) {
	w, err := newWorld(Config{Seed: 1, Shards: 200, Window: time.Hour}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	w.forget = "events-0001"
	if _, there := w.source.byName[w.forget]; !there {
		t.Fatalf("there is no index %s", w.forget)
	}
	r := finish(t, w)
	if r.Status != string(asl.Failed) || r.Error != string(fault.VerificationFailed) || r.Blocked > 0 {
		t.Errorf("a copy without its last changes ended as %s %s with %d indices blocked", r.Status, r.Error, r.Blocked)
	}
}

// TestSameSeedSameRun: a study can be repeated, up to the order in which the goroutines of one step ask.
func TestSameSeedSameRun(t *testing.T) {
	var runs []Result
	for range 2 {
		w, err := newWorld(Config{Seed: 3, Shards: 100, Window: time.Hour}.withDefaults())
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, finish(t, w))
	}
	near := func(x, y float64) bool { return math.Abs(x-y) <= 0.05*max(x, y) }
	if a, b := runs[0], runs[1]; a.Status != b.Status || a.WarmRounds != b.WarmRounds || a.OnReplay != b.OnReplay || !near(a.Actual, b.Actual) || !near(a.Hours, b.Hours) {
		t.Errorf("%s %d rounds, %d on replay, %g s, %g h\n%s %d rounds, %d on replay, %g s, %g h",
			a.Status, a.WarmRounds, a.OnReplay, a.Actual, a.Hours, b.Status, b.WarmRounds, b.OnReplay, b.Actual, b.Hours)
	}
}
