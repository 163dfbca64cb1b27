package step

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
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
	// What the present pass has brought.
	Documents int64 `json:"documents"`
	Bytes     int64 `json:"bytes"`
	Deleted   int64 `json:"deleted"`
	// Sealed says that the copies are blocked, or about to be: the last pass was over. Before they are written to again they have to be
	// made ready.
	Sealed bool `json:"sealed,omitempty"`
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

func (s *replayState) save(ctx context.Context, j *journal.Journal) error {
	return j.SaveDocument(ctx, stateFile(), s)
}

// advance takes what the slices of a pass did into the states. Indices that a slice dropped go back to rounds; in the freeze that is an
// error, because there is no round left that could bring them up to date.
func (s *replayState) advance(ctx context.Context, j *journal.Journal, engine DeleteReconciler, in ReplayInput, pass replay.Pass, results []replay.SliceResult) error {
	states, err := engine.Advance(ctx, pass, results)
	if err != nil {
		return err
	}
	s.States, s.Documents, s.Bytes, s.Deleted = states, 0, 0, 0
	var drops []replay.Drop
	for _, r := range results {
		s.Documents += r.Documents
		s.Bytes += r.Bytes
		drops = append(drops, r.Drops...)
	}
	if err := dropped(ctx, j, s, drops); err != nil {
		return err
	}
	if in.Final && len(drops) > 0 {
		return lastDrop(drops[0])
	}
	s.Pass, s.Rest = in.Pass, replay.Shards(s.States)
	return nil
}

func lastDrop(d replay.Drop) error {
	says := d.Reason
	if len(d.IDs) > 0 {
		says += ": " + strings.Join(d.IDs, ", ")
	}
	return fault.Newf(fault.IndicesChanged, "replay the last changes", "index "+d.Index, "%s", says)
}

// reconcile brings deletions over as far as the time allows. What was done is in the state also beside an error; the caller saves it.
func (s *replayState) reconcile(ctx context.Context, j *journal.Journal, engine DeleteReconciler, p migration.Plan, in ReplayInput) (done bool, err error) {
	if s.Reconciled < in.Pass && len(s.Rest) > 0 {
		deadline, _ := ctx.Deadline()
		r, err := engine.ReconcileDeletes(ctx, s.States, s.Rest, deadline)
		s.States = replay.AccountDeletes(s.States, r)
		s.Deleted += r.SharedDeleted + r.ReplayedDeleted
		if err != nil {
			return false, err
		}
		if r.Missing > 0 {
			if err := s.foreign(ctx, j, p, in, r); err != nil {
				return false, err
			}
		}
		if !r.Done {
			s.Rest = slices.DeleteFunc(r.Rest, func(ref replay.ShardRef) bool { _, known := s.state(ref.Index); return !known })
			if len(s.Rest) > 0 {
				return false, nil
			}
		}
	}
	s.Reconciled, s.Rest = in.Pass, nil
	return true, nil
}

// foreign drops indices to which somebody else wrote at the destination.
func (s *replayState) foreign(ctx context.Context, j *journal.Journal, p migration.Plan, in ReplayInput, r replay.DeleteResult) error {
	var drops []replay.Drop
	for _, index := range r.MissingIn {
		drops = append(drops, replay.Drop{Index: index, Reason: fmt.Sprintf("documents are missing at the destination (%d in all): somebody else wrote there", r.Missing)})
	}
	if in.Final {
		// The state keeps the index: a repeated step has to find the same again.
		if err := dropped(ctx, j, &replayState{}, drops); err != nil {
			return err
		}
		return fault.Newf(fault.VerificationFailed, "replay "+strings.Join(r.MissingIn, ", "), p.Spec.Destination.Endpoint, "%d documents are at the source and not at the destination", r.Missing)
	}
	return dropped(ctx, j, s, drops)
}

// record is the journal's record of the present pass.
func (s *replayState) record(in ReplayInput, started, finished time.Time) migration.Pass {
	return migration.Pass{
		Number: in.Pass, Final: in.Final, Execution: in.Execution, StartedAt: started, FinishedAt: finished,
		Documents: s.Documents, Bytes: s.Bytes, Deleted: s.Deleted, Seconds: seconds(started, finished),
	}
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

// ready reports whether an earlier pass has made the copies of all these indices ready to be written to, and no last pass has
// sealed them since.
func (s *replayState) ready(indices []migration.PlannedIndex) bool {
	return !s.Sealed && !slices.ContainsFunc(indices, func(x migration.PlannedIndex) bool {
		state, known := s.state(x.Name)
		return !known || len(state.Shards) == 0 || !state.Shards[0].Started
	})
}

// names are the indices of planned ones.
func indexNames(list []migration.PlannedIndex) []string {
	names := make([]string, len(list))
	for i, x := range list {
		names[i] = x.Name
	}
	return names
}
