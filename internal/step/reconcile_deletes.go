package step

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

// ReconcileDeletesInput is a pass whose slices are done, and what they ended with; or one part of its deletions, by its number.
type ReconcileDeletesInput struct {
	ReplayInput
	Slices []ReplaySlice `json:"slices"`
	Part   *int          `json:"part"`
}

// ReconcileDeletesOutput says whether all deletions, or those of the part, are brought over; what is left is in the journal. Parts are to
// be brought over side by side; there are none when it was so little that it is done.
type ReconcileDeletesOutput struct {
	Done    bool  `json:"done"`
	Parts   []int `json:"parts"`
	Deleted int64 `json:"deleted"` // by the pass so far, or of the part
}

// DeleteReconciler takes a pass into the states and brings deletions over.
type DeleteReconciler interface {
	Advance(ctx context.Context, pass replay.Pass, results []replay.SliceResult) ([]replay.State, error)
	ReconcileDeletes(ctx context.Context, states []replay.State, shards []replay.ShardRef, deadline time.Time) (replay.DeleteResult, error)
}

// ReconcileDeletes takes what the slices did into the states, and deletes at the destination what the source has no more: at once, when it
// is a matter of seconds, otherwise in parts, which are this function's, too.
type ReconcileDeletes struct {
	Journal *journal.Store
	Replay  func(source, destination migration.Endpoint) DeleteReconciler
}

// Run is the states ReconcileDeletes and DeletePart.
func (s ReconcileDeletes) Run(ctx context.Context, in ReconcileDeletesInput) (ReconcileDeletesOutput, error) {
	if in.Part != nil {
		return s.part(ctx, in.ReplayInput, *in.Part)
	}
	var state replayState
	j, p, err := planAnd(ctx, s.Journal, in.ReplayInput, func(ctx context.Context, j *journal.Journal) (err error) { state, err = readState(ctx, j); return err })
	if err != nil {
		return ReconcileDeletesOutput{}, err
	}
	engine := s.Replay(p.Spec.Source, p.Spec.Destination)
	// What the slices did is taken into the states once, and in the journal before anything rests on it.
	if state.Pass < in.Pass {
		pass, results, err := slicesOf(ctx, j, in)
		if err != nil {
			return ReconcileDeletesOutput{}, err
		}
		if err := state.advance(ctx, j, engine, in.ReplayInput, pass, results); err != nil {
			return ReconcileDeletesOutput{}, err
		}
		if err := state.save(ctx, j); err != nil {
			return ReconcileDeletesOutput{}, err
		}
	}
	done := false
	if len(replay.CutDeletes(state.States, state.Rest)) <= 1 {
		done, err = state.reconcile(ctx, j, engine, p, in.ReplayInput)
	}
	out := ReconcileDeletesOutput{Done: done, Parts: []int{}, Deleted: state.Deleted}
	if err == nil && !done {
		out.Parts, err = state.handOut(ctx, j)
	}
	saved := state.save(ctx, j)
	if err == nil {
		err = saved
	}
	if err != nil {
		return ReconcileDeletesOutput{}, err
	}
	return out, nil
}

// part brings the deletions of one part over, as far as the time allows. Attempts and calls go on from one another; none touches the state.
func (s ReconcileDeletes) part(ctx context.Context, in ReplayInput, number int) (ReconcileDeletesOutput, error) {
	var part deletePart
	var before partResult
	found := false
	j, p, err := planAnd(ctx, s.Journal, in,
		func(ctx context.Context, j *journal.Journal) (err error) {
			found, err = j.Document(ctx, partFile(in.Pass, number), &part)
			return err
		},
		func(ctx context.Context, j *journal.Journal) error {
			_, err := j.Document(ctx, partResultFile(in.Pass, number), &before)
			return err
		})
	if err != nil {
		return ReconcileDeletesOutput{}, err
	}
	if !found {
		return ReconcileDeletesOutput{}, fault.Newf(fault.JournalMissing, "reconcile deletions", in.Migration, "pass %d has no part %d of deletions", in.Pass, number)
	}
	record := partResult{Shards: part.Shards, DeleteResult: replay.DeleteResult{Rest: part.Shards}}
	if slices.Equal(before.Shards, part.Shards) {
		record = before
	}
	if !record.Done {
		deadline, _ := ctx.Deadline()
		rest := record.Rest
		r, err := s.Replay(p.Spec.Source, p.Spec.Destination).ReconcileDeletes(ctx, part.States, rest, deadline)
		if record.DeleteResult = record.Plus(r); !record.Done && len(record.Rest) == 0 {
			record.Rest = rest // nothing is known of them
		}
		// What was done before an error is done.
		if saved := j.SaveDocument(ctx, partResultFile(in.Pass, number), record); saved != nil && err == nil {
			err = saved
		}
		if err != nil {
			return ReconcileDeletesOutput{}, err
		}
	}
	return ReconcileDeletesOutput{Done: record.Done, Parts: []int{}, Deleted: record.SharedDeleted + record.ReplayedDeleted}, nil
}

func slicesOf(ctx context.Context, j *journal.Journal, in ReconcileDeletesInput) (replay.Pass, []replay.SliceResult, error) {
	pass, err := readPass(ctx, j, in.ReplayInput)
	if err != nil {
		return pass, nil, err
	}
	calls := 0
	for _, slice := range in.Slices {
		calls += slice.Call
	}
	results := make([]replay.SliceResult, 0, calls)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(journalRequests)
	for _, slice := range in.Slices {
		for call := range slice.Call {
			results = append(results, replay.SliceResult{})
			at := &results[len(results)-1]
			group.Go(func() error {
				var c sliceCall
				_, err := j.Document(groupCtx, resultFile(in.Pass, slice.Slice, call), &c)
				*at = c.SliceResult
				return err
			})
		}
	}
	return pass, results, group.Wait()
}
