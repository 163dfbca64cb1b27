package step

import (
	"encoding/json"
	"testing"

	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/statemachine"
)

// The last pass takes what it finds in the journal for the copies' state, and that is only so after a warm pass of the same
// execution: before it nobody has looked whether the copies are open, sealed by an earlier freeze, or somebody else's. So once an index is
// on replay no path may lead to Freeze but through a lap with a pass.
func TestAWarmPassRunsBeforeFreeze(t *testing.T) {
	var machine struct {
		StartAt string
		States  map[string]struct {
			Next, Default  string
			Choices, Catch []struct{ Next string }
			Assign         json.RawMessage
			Branches       []struct {
				StartAt string
				States  map[string]struct {
					Type, Next, Default string
					Choices             []struct{ Condition, Next string }
					Arguments           json.RawMessage
					End                 bool
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(statemachine.Migration), &machine); err != nil {
		t.Fatal(err)
	}
	// Without the state Warm, Freeze cannot be reached.
	reached := map[string]bool{}
	var walk func(state string)
	walk = func(state string) {
		if state == "" || state == "Warm" || reached[state] {
			return
		}
		reached[state] = true
		s := machine.States[state]
		walk(s.Next)
		walk(s.Default)
		for _, c := range append(s.Choices, s.Catch...) {
			walk(c.Next)
		}
	}
	walk(machine.StartAt)
	if !reached["Register"] || reached["Freeze"] || reached["Decide"] {
		t.Errorf("without Warm are reached: %v", reached)
	}
	// Warm's second branch is the pass, whenever the decision before says that an index is on replay.
	branch := machine.States["Warm"].Branches[1]
	first := branch.States[branch.StartAt]
	if first.Type != "Choice" || len(first.Choices) != 1 || first.Choices[0].Condition != "{% $decision.byReplay %}" || branch.States[first.Choices[0].Next].Type != "Task" {
		t.Errorf("the pass of Warm depends on %+v", first)
	}
	// Preflight says so of what an earlier execution left on replay.
	w := plannedWorld(t)
	w.replaying("a")
	out, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: mine})
	if err != nil || !out.ByReplay {
		t.Errorf("a new execution with an index on replay: %+v, %v", out, err)
	}
	// A decision that puts an index on replay does not cut over as well, and says byReplay for the lap that follows, as does each one after it.
	w = plannedWorld(t)
	for n, seconds := range []float64{900, 300} {
		w.must(w.journal().SaveRound(t.Context(), migration.Round{Number: n + 1, Execution: mine, Restore: migration.RestorePhase{Seconds: seconds}}))
	}
	w.must(w.journal().SaveMeasures(t.Context(), 2, map[string]migration.Measure{"a": {Snapshot: 1 << 20, Recovered: 1 << 30}, "b": {Snapshot: 1 << 20, Recovered: 1 << 20}}))
	for range 2 {
		d, err := decide(w).Run(t.Context(), DecideInput{Migration: "orders", Round: 2, Execution: mine})
		if err != nil || d.Action != migration.WarmAgain || !d.ByReplay {
			t.Fatalf("%+v, %v", d, err)
		}
		if on, _ := w.strategies(); on != "a" {
			t.Fatalf("on replay %q", on)
		}
	}
	// One warm pass before: only then does the last one take the short way, without making the copies ready first.
	w = smallLast(t)
	if out, err := runPlanReplay(w, true); err != nil || !out.Done || w.count("destination Open")+w.count("destination UpdateSettings") != 0 {
		t.Errorf("%+v, %v, %v", out, err, w.log)
	}
	w = small(t)
	if out, err := runPlanReplay(w, true); err != nil || !out.Done || w.count("destination Open") == 0 {
		t.Errorf("without a warm pass the last one must make the copies ready: %+v, %v, %v", out, err, w.log)
	}
}
