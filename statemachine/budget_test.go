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
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/names"
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
	w.strategy = func(int) (bool, bool) { return true, true }                                   // a pass beside each round
	w.afterwards = slices.Concat(slices.Repeat([]int{15}, 240), slices.Repeat([]int{600}, 138)) // snapshots deleted for an hour, copies awaited for a day
	_, d := w.run(names.MigrationMachine, input(`"rounds":{"minimum":500,"maximum":500,"pause":"30m"}`))
	w.checkBudget(d, began)
	if len(w.rounds) != 501 || !w.rounds[500].Final || len(w.passes) != 501 || !w.passes[500].Final || w.elapsed() < 250*time.Hour {
		t.Errorf("%d rounds and %d passes in %s", len(w.rounds), len(w.passes), w.elapsed())
	}
	for _, more := range []string{`"rounds":{"maximum":501}`, `"rounds":{"minimum":501}`} {
		if x, d := newWorld(t).run(names.MigrationMachine, input(more)); d.Error != string(fault.InvalidInput) {
			t.Errorf("%s is accepted, so this is not the largest input: %v", more, x.Status())
		}
	}
}

// An operator may answer "warm" each time: an execution has its 500 laps in all, and a question after each of them.
func TestBudgetOfTheMostQuestions(t *testing.T) {
	began := time.Now()
	w := newWorld(t)
	w.disturb = sprinkled
	w.decisions = append(slices.Repeat([]migration.Decision{ask}, 500), migration.Decision{Action: migration.Done})
	w.answers = slices.Repeat([]string{`{"action":"warm"}`}, 500)
	w.strategy = func(int) (bool, bool) { return true, true }
	_, d := w.run(names.MigrationMachine, input(`"onNeverFits":"ask"`))
	w.checkBudget(d, began)
	if len(w.asking) < 500 || len(w.rounds) != 501 {
		t.Errorf("%d questions, %d rounds", len(w.asking), len(w.rounds))
	}
}

// A pass has at most 200 slices (replay.PlanOptions.MaxSlices) and 200 parts of deletions (replay.CutDeletes); 200 calls of one are two
// days. Each is an execution of its own, so that many of them and many calls need not meet in one pass to show the longest history of either
// machine.
func TestBudgetOfTheLongestPass(t *testing.T) {
	for _, script := range []passScript{{slices: 200, calls: 2, parts: 200, deletes: 2}, {slices: 9, calls: 200, parts: 9, deletes: 200}} {
		began := time.Now()
		w := newWorld(t)
		w.disturb = sprinkled
		w.pass = func(int) passScript { return script }
		w.call = 890 * time.Second
		_, d := w.run(names.ReplayMachine, `{"migration":"orders","final":false,"execution":"arn:x"}`)
		w.checkBudget(d, began)
		if got := w.passes[0]; got.Documents != int64(10*script.slices*script.calls) || w.asked[1] != script.deletions() ||
			w.largest()[names.ReplayMachine+"/Replay"] < script.calls*6 || w.largest()[names.ReplayMachine+"/Deletes"] < script.deletes*6 {
			t.Errorf("that was not the longest pass: %+v, %v", got, w.calls)
		}
	}
}

// Whatever a round waits for, it may do so for days: the waits grow, in the final round after an hour. The final round alone has no
// time-out here; within a migration its state has one.
func TestBudgetOfLongWaits(t *testing.T) {
	const days = 24 * time.Hour
	warm, final := `{"migration":"orders"}`, `{"migration":"orders","round":9,"final":true}`
	busy := func(state string) func(*world) {
		return func(w *world) {
			w.busy = map[string]time.Duration{state: 3 * days}
			w.slice = time.Second // no lap of a copy is shorter
		}
	}
	for _, c := range []struct {
		name   string
		input  string
		script func(*world)
		lasts  time.Duration
	}{
		{"another snapshot at the source", warm, busy("StartSnapshot"), 3 * days},
		{"a snapshot of the destination's own", warm, busy("StartRestore"), 3 * days},
		{"a copy that is never published", warm, busy("PublishCopy"), 3 * days},
		{"one after the other", warm, func(w *world) {
			w.busy = map[string]time.Duration{"StartSnapshot": 2 * days, "StartRestore": 2 * days, "PublishCopy": 2 * days}
			w.slice = time.Second
		}, 6 * days},
		{"final round, another snapshot at the source", final, busy("StartSnapshot"), 3 * days},
		{"final round, a snapshot of the destination's own", final, busy("StartRestore"), 3 * days},
		{"final round, a copy that is never published", final, busy("PublishCopy"), 3 * days},
		{"final round, long snapshot and restore", final, func(w *world) {
			w.takes = func(string, int) time.Duration { return 2 * days }
		}, 4 * days},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			w := newWorld(t)
			w.disturb = sprinkled
			c.script(w)
			_, d := w.run(names.RoundMachine, c.input)
			w.checkBudget(d, began)
			if w.elapsed() < c.lasts || w.elapsed() > c.lasts+c.lasts/10 {
				t.Errorf("it lasted %s, want %s", w.elapsed(), c.lasts)
			}
		})
	}
}
