package step

import (
	"context"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

// ReconcileDeletesInput is a pass whose slices are done, and what they ended with.
type ReconcileDeletesInput struct {
	ReplayInput
	Slices []ReplaySlice `json:"slices"`
}

// ReconcileDeletesOutput says whether all deletions are brought over; what is left is in the journal.
type ReconcileDeletesOutput struct {
	Done    bool  `json:"done"`
	Deleted int64 `json:"deleted"` // by the pass so far
}

// DeleteReconciler takes a pass into the states and brings deletions over.
type DeleteReconciler interface {
	Advance(ctx context.Context, pass replay.Pass, results []replay.SliceResult) ([]replay.State, error)
	ReconcileDeletes(ctx context.Context, states []replay.State, shards []replay.ShardRef, deadline time.Time) (replay.DeleteResult, error)
}

// ReconcileDeletes deletes at the destination what the source has no more.
type ReconcileDeletes struct {
	Journal *journal.Store
	Replay  func(source, destination migration.Endpoint) DeleteReconciler
}

// Run is the state ReconcileDeletes.
func (s ReconcileDeletes) Run(ctx context.Context, in ReconcileDeletesInput) (ReconcileDeletesOutput, error) {
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return ReconcileDeletesOutput{}, err
	}
	state, err := readState(ctx, j)
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
	done, err := state.reconcile(ctx, j, engine, p, in.ReplayInput)
	saved := state.save(ctx, j)
	if err == nil {
		err = saved
	}
	if err != nil {
		return ReconcileDeletesOutput{}, err
	}
	return ReconcileDeletesOutput{Done: done, Deleted: state.Deleted}, nil
}

func slicesOf(ctx context.Context, j *journal.Journal, in ReconcileDeletesInput) (replay.Pass, []replay.SliceResult, error) {
	pass, err := readPass(ctx, j, in.ReplayInput)
	if err != nil {
		return pass, nil, err
	}
	var results []replay.SliceResult
	for _, slice := range in.Slices {
		for call := range slice.Call {
			var c sliceCall
			if _, err := j.Document(ctx, resultFile(in.Pass, slice.Slice, call), &c); err != nil {
				return pass, nil, err
			}
			results = append(results, c.SliceResult)
		}
	}
	return pass, results, nil
}
