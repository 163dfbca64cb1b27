package step

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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
	// Parts is how many parts of Rest were handed out to calls side by side; RecordPass collects what became of them.
	Parts int `json:"parts,omitempty"`
	// What the present pass has brought.
	Documents int64 `json:"documents"`
	Bytes     int64 `json:"bytes"`
	Deleted   int64 `json:"deleted"`
	// Sealed says that the copies are blocked, or about to be: the last pass was over. Before they are written to again they have to be
	// made ready.
	Sealed bool `json:"sealed,omitempty"`
	// Merges says whether the copies' refreshes have been kept from merging; see holdMerges.
	Merges merges `json:"merges,omitempty"`

	settling float64 // of this call's deletions, see replay.DeleteResult
}

// merges says whether refreshes of the copies wait for merges (replay.MergeOnRefresh).
type merges string

const (
	mergesHeld    merges = "held"    // they do not; settle puts it back
	mergesRefused merges = "refused" // the domain does not know the setting, or does not let it be
)

func stateFile() string        { return "replay/state.json" }
func passFile(pass int) string { return fmt.Sprintf("replay/%04d/plan.json", pass) }
func sliceFile(pass, slice int) string {
	return fmt.Sprintf("replay/%04d/slices/%04d.json", pass, slice)
}
func resultFile(pass, slice, call int) string {
	return fmt.Sprintf("replay/%04d/slices/%04d-%04d.json", pass, slice, call)
}
func partFile(pass, part int) string { return fmt.Sprintf("replay/%04d/deletes/%04d.json", pass, part) }
func partResultFile(pass, part int) string {
	return fmt.Sprintf("replay/%04d/deletes/%04d-result.json", pass, part)
}

// passPlan is a planned pass, kept in the journal because a state machine's state is too small for it. Its slices have files of their
// own, so that each is read by itself.
type passPlan struct {
	Number int         `json:"number"`
	Pass   replay.Pass `json:"pass"`
}

func savePass(ctx context.Context, j *journal.Journal, number int, pass replay.Pass) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(journalRequests)
	for _, x := range pass.Slices {
		group.Go(func() error { return j.SaveDocument(groupCtx, sliceFile(number, x.Number), x) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	pass.Slices = nil
	return j.SaveDocument(ctx, passFile(number), passPlan{number, pass})
}

// journalRequests is how many objects of a pass are written or read at once.
const journalRequests = 32

func readState(ctx context.Context, j *journal.Journal) (replayState, error) {
	var s replayState
	_, err := j.Document(ctx, stateFile(), &s)
	return s, err
}

// planAnd opens the journal and reads the plan, and at the same time what else a step needs of it. The plan's error goes first: it says
// whether this execution may act at all.
func planAnd(ctx context.Context, store *journal.Store, in ReplayInput, others ...func(context.Context, *journal.Journal) error) (*journal.Journal, migration.Plan, error) {
	var p migration.Plan
	if in.Migration == "" {
		return plan(ctx, store, in.Migration, in.Execution)
	}
	j := store.Migration(in.Migration)
	errs := make([]error, len(others))
	var reading sync.WaitGroup
	for i, other := range others {
		reading.Go(func() { errs[i] = other(ctx, j) })
	}
	p, err := j.Plan(ctx, in.Execution)
	reading.Wait()
	return j, p, cmp.Or(err, cmp.Or(errs...))
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
	s.Pass, s.Rest, s.Parts = in.Pass, nil, 0
	for _, ref := range pass.Moved {
		if _, known := s.state(ref.Index); known {
			s.Rest = append(s.Rest, ref)
		}
	}
	return nil
}

// deletePart is a part of a pass's deletions, with the states of its shards alone.
type deletePart struct {
	Shards []replay.ShardRef `json:"shards"`
	States []replay.State    `json:"states"`
}

// partResult is the journal's record of what all calls for a part did together.
type partResult struct {
	Shards []replay.ShardRef `json:"shards"` // of the part, which tells it from another cut
	replay.DeleteResult
}

// handOut cuts what is left of the deletions into parts, one for each call of a Distributed Map. The caller saves the state.
func (s *replayState) handOut(ctx context.Context, j *journal.Journal) ([]int, error) {
	parts := replay.CutDeletes(s.States, s.Rest)
	numbers := make([]int, len(parts))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(journalRequests)
	for i, shards := range parts {
		numbers[i] = i
		group.Go(func() error {
			return j.SaveDocument(groupCtx, partFile(s.Pass, i), deletePart{shards, replay.Only(s.States, shards)})
		})
	}
	s.Parts = len(parts)
	return numbers, group.Wait()
}

// collect takes what the parts of the deletions did into the states; the caller saves them.
func (s *replayState) collect(ctx context.Context, j *journal.Journal, p migration.Plan, in ReplayInput) error {
	if s.Pass != in.Pass || s.Reconciled >= in.Pass {
		return nil
	}
	if s.Parts == 0 && len(s.Rest) > 0 {
		return fault.Newf(fault.JournalMissing, "record a pass", in.Migration, "the deletions of pass %d are not done", in.Pass)
	}
	results := make([]partResult, s.Parts)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(journalRequests)
	for i := range results {
		group.Go(func() error {
			found, err := j.Document(groupCtx, partResultFile(in.Pass, i), &results[i])
			if err == nil && (!found || !results[i].Done) {
				err = fault.Newf(fault.JournalMissing, "record a pass", in.Migration, "part %d of the deletions of pass %d is not done", i, in.Pass)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var all replay.DeleteResult
	for _, r := range results {
		all = all.Plus(r.DeleteResult)
	}
	s.States = replay.AccountDeletes(s.States, all)
	s.Deleted += all.SharedDeleted + all.ReplayedDeleted
	if all.Missing > 0 {
		if err := s.foreign(ctx, j, p, in, all); err != nil {
			return err
		}
	}
	s.Reconciled, s.Rest, s.Parts = in.Pass, nil, 0
	return nil
}

func lastDrop(d replay.Drop) error {
	says := d.Reason
	if len(d.IDs) > 0 {
		says += ": " + strings.Join(d.IDs, ", ")
	}
	return fault.Newf(fault.IndicesChanged, "replay the last changes", "index "+d.Index, "%s", says)
}

// reconcile brings deletions over in one call, as far as the time allows. What was done is in the state also beside an error; the caller saves it.
func (s *replayState) reconcile(ctx context.Context, j *journal.Journal, engine DeleteReconciler, p migration.Plan, in ReplayInput) (done bool, err error) {
	if s.Reconciled < in.Pass && len(s.Rest) > 0 {
		deadline, _ := ctx.Deadline()
		r, err := engine.ReconcileDeletes(ctx, s.States, s.Rest, deadline)
		s.States = replay.AccountDeletes(s.States, r)
		s.Deleted += r.SharedDeleted + r.ReplayedDeleted
		s.settling += r.Settling
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
	s.Reconciled, s.Rest, s.Parts = in.Pass, nil, 0
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
