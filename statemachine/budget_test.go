package statemachine_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/internal/step"
)

// budget is what an execution's history may hold. The service fails an execution at 25,000 events and redrives none above
// 24,999: what is left is for retries and redrives.
const budget = 20_000

// sprinkled makes every tenth invocation of a state fail once.
func sprinkled(_ context.Context, _ site, call int) error {
	if call%10 == 0 {
		return fault.Newf(fault.Unavailable, "ask", "https://legacy", "no answer")
	}
	return nil
}

// largest returns the longest history of each machine's executions, children of Map Runs included.
func (w *world) largest() map[string]int {
	most := map[string]int{}
	for _, x := range w.order {
		machine := x.StateMachineARN[strings.LastIndex(x.StateMachineARN, ":")+1:]
		most[machine] = max(most[machine], x.EventCount())
	}
	return most
}

func (w *world) checkBudget(d asl.Description, began time.Time) {
	w.t.Helper()
	if d.Status != asl.Succeeded {
		w.t.Fatalf("got %s %s: %s", d.Status, d.Error, d.Cause)
	}
	most := w.largest()
	for _, machine := range slices.Sorted(maps.Keys(most)) {
		w.t.Logf("%s: at most %d history events in one of its executions", machine, most[machine])
		if most[machine] >= budget {
			w.t.Errorf("%s: %d history events are not under %d", machine, most[machine], budget)
		}
	}
	w.t.Logf("%d executions, %.1f virtual hours in %s", len(w.order), w.elapsed().Hours(), time.Since(began).Round(time.Millisecond))
}

func TestBudgetOfTheLongestRound(t *testing.T) {
	began := time.Now()
	w := newWorld(t)
	w.disturb = sprinkled
	w.takes = func(string, int) time.Duration { return 5 * 24 * time.Hour }
	w.ranges, w.slices, w.slice = 16, 200, 890*time.Second
	_, d := w.run(names.RoundMachine, `{"migration":"orders"}`)
	w.checkBudget(d, began)
	if w.elapsed() < 300*time.Hour || w.calls[site{"CopyRange", false}] < 16*200 || w.largest()[names.RoundMachine+"/Copy"] < 200*7 {
		t.Errorf("that was not the longest round: %s, %v", w.elapsed(), w.calls)
	}
}

func TestBudgetOfTheMostRounds(t *testing.T) {
	began := time.Now()
	w := newWorld(t)
	w.disturb = sprinkled
	w.takes = func(what string, round int) time.Duration {
		if round == 1 && what == "restore" {
			return 12 * time.Hour
		}
		return 0
	}
	_, d := w.run(names.MigrationMachine, input(`"rounds":{"minimum":500,"maximum":500,"pause":"30m"}`))
	w.checkBudget(d, began)
	if len(w.rounds) != 501 || !w.rounds[500].Final || w.elapsed() < 250*time.Hour {
		t.Errorf("%d rounds in %s", len(w.rounds), w.elapsed())
	}
	for _, more := range []string{`"rounds":{"maximum":501}`, `"rounds":{"minimum":501}`} {
		if x, d := newWorld(t).run(names.MigrationMachine, input(more)); d.Error != string(fault.InvalidInput) {
			t.Errorf("%s is accepted, so this is not the largest input: %v", more, x.Status())
		}
	}
}

// The waits that do not grow with time bound how long they may last; these lengths are held, not much more is. waitSeconds is what
// the steps answer at present.
func TestBudgetOfWaitsThatDoNotGrow(t *testing.T) {
	busyUntil := func(w *world, d time.Duration) bool { return w.elapsed() < d }
	for name, c := range map[string]struct {
		input  string
		script func(*world)
		lasts  time.Duration
	}{
		"final round, long polls of 20 seconds": {`{"migration":"orders","round":9,"final":true}`, func(w *world) {
			w.takes = func(string, int) time.Duration { return 7 * time.Hour }
		}, 14 * time.Hour},
		"another snapshot at the source, waits of 5 seconds": {`{"migration":"orders"}`, func(w *world) {
			w.snapshot = func(_ int, out step.SnapshotOutput) step.SnapshotOutput {
				if busyUntil(w, 2*time.Hour) {
					out.Accepted, out.WaitSeconds = false, 5
				}
				return out
			}
		}, 2 * time.Hour},
		"a snapshot of the destination's own, waits of 2 seconds": {`{"migration":"orders"}`, func(w *world) {
			w.restore = func(_ int, out step.RestoreOutput) step.RestoreOutput {
				if busyUntil(w, time.Hour) {
					out.Accepted, out.WaitSeconds = false, 2
				}
				return out
			}
		}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			w := newWorld(t)
			w.disturb = sprinkled
			c.script(w)
			_, d := w.run(names.RoundMachine, c.input)
			w.checkBudget(d, began)
			if w.elapsed() < c.lasts {
				t.Errorf("it lasted only %s", w.elapsed())
			}
		})
	}
}
