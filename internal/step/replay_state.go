package step

import (
	"context"
	"fmt"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

// ReplayInput is what every step of a replay is given. Pass is 0 until PlanReplay has numbered it.
type ReplayInput struct {
	Migration string `json:"migration"`
	Pass      int    `json:"pass"`
	Final     bool   `json:"final"`
	Execution string `json:"execution"`
}

// replayState is where the replay stands, kept in the journal as replay/state.json.
type replayState struct {
	// Pass is the last pass whose results are in States; 0 before the first.
	Pass   int            `json:"pass"`
	States []replay.State `json:"states"`
	// Reconciled is the last pass after which deletions were brought over completely, Rest what is left of the present one.
	Reconciled int               `json:"reconciled"`
	Rest       []replay.ShardRef `json:"rest,omitempty"`
	Deleted    int64             `json:"deleted"` // by the present pass
}

func stateFile() string        { return "replay/state.json" }
func passFile(pass int) string { return fmt.Sprintf("replay/%04d/plan.json", pass) }
func resultFile(pass, slice, call int) string {
	return fmt.Sprintf("replay/%04d/slices/%04d-%04d.json", pass, slice, call)
}

// passPlan is a planned pass, kept in the journal because a state machine's state is too small for it.
type passPlan struct {
	Number int         `json:"number"`
	Pass   replay.Pass `json:"pass"`
}

func readState(ctx context.Context, j *journal.Journal) (replayState, error) {
	var s replayState
	_, err := j.Document(ctx, stateFile(), &s)
	return s, err
}

// dropped puts indices back on rounds and forgets their state.
func dropped(ctx context.Context, j *journal.Journal, s *replayState, drops []replay.Drop) error {
	if len(drops) == 0 {
		return nil
	}
	strategies, err := j.Strategies(ctx)
	if err != nil {
		return err
	}
	for _, d := range drops {
		if strategies.Has(d.Index) {
			strategies.Drop(d.Index, d.Reason)
		}
		s.forget(d.Index)
	}
	return j.SaveStrategies(ctx, strategies)
}

func (s *replayState) forget(index string) {
	var kept []replay.State
	for _, x := range s.States {
		if x.Index != index {
			kept = append(kept, x)
		}
	}
	s.States = kept
}

func (s *replayState) names() []string {
	names := make([]string, len(s.States))
	for i, x := range s.States {
		names[i] = x.Index
	}
	return names
}

func (s *replayState) state(index string) (replay.State, bool) {
	for _, x := range s.States {
		if x.Index == index {
			return x, true
		}
	}
	return replay.State{}, false
}

// names are the indices of planned ones.
func indexNames(list []migration.PlannedIndex) []string {
	names := make([]string, len(list))
	for i, x := range list {
		names[i] = x.Name
	}
	return names
}
