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
	if state.Pass < in.Pass {
		if err := s.advance(ctx, j, engine, p, in, &state); err != nil {
			return ReconcileDeletesOutput{}, err
		}
	}
	if state.Reconciled >= in.Pass || len(state.Rest) == 0 {
		state.Reconciled = in.Pass
		return ReconcileDeletesOutput{Done: true, Deleted: state.Deleted}, j.SaveDocument(ctx, stateFile(), state)
	}
	deadline, _ := ctx.Deadline()
	r, err := engine.ReconcileDeletes(ctx, state.States, state.Rest, deadline)
	state.States = replay.AccountDeletes(state.States, r)
	state.Deleted += r.SharedDeleted + r.ReplayedDeleted
	if err != nil {
		// The deletions that were made are in the accounts; the error is what the caller acts on.
		_ = j.SaveDocument(ctx, stateFile(), state)
		return ReconcileDeletesOutput{}, err
	}
	if r.Missing > 0 {
		if err := s.foreign(ctx, j, p, in, &state, r); err != nil {
			return ReconcileDeletesOutput{}, err
		}
	}
	state.Rest = slices.DeleteFunc(r.Rest, func(ref replay.ShardRef) bool { _, known := state.state(ref.Index); return !known })
	r.Done = r.Done || len(state.Rest) == 0
	if r.Done {
		state.Reconciled, state.Rest = in.Pass, nil
	}
	return ReconcileDeletesOutput{Done: r.Done, Deleted: state.Deleted}, j.SaveDocument(ctx, stateFile(), state)
}

// advance takes what the slices did into the states, once.
func (s ReconcileDeletes) advance(ctx context.Context, j *journal.Journal, engine DeleteReconciler, p migration.Plan, in ReconcileDeletesInput, state *replayState) error {
	pass, err := readPass(ctx, j, in.ReplayInput)
	if err != nil {
		return err
	}
	var results []replay.SliceResult
	var drops []replay.Drop
	for _, slice := range in.Slices {
		for call := range slice.Call {
			var r replay.SliceResult
			if _, err := j.Document(ctx, resultFile(in.Pass, slice.Slice, call), &r); err != nil {
				return err
			}
			results = append(results, r)
			drops = append(drops, r.Drops...)
		}
	}
	if state.States, err = engine.Advance(ctx, pass, results); err != nil {
		return err
	}
	if err := dropped(ctx, j, state, drops); err != nil {
		return err
	}
	if in.Final && len(drops) > 0 {
		return fault.Newf(fault.IndicesChanged, "replay index "+drops[0].Index, p.Spec.Destination.Endpoint, "%s: %s", drops[0].Reason, strings.Join(drops[0].IDs, ", "))
	}
	state.Pass, state.Deleted, state.Rest = in.Pass, 0, replay.Shards(state.States)
	return j.SaveDocument(ctx, stateFile(), *state)
}

// foreign drops indices to which somebody else wrote at the destination.
func (s ReconcileDeletes) foreign(ctx context.Context, j *journal.Journal, p migration.Plan, in ReconcileDeletesInput, state *replayState, r replay.DeleteResult) error {
	var drops []replay.Drop
	for _, index := range r.MissingIn {
		drops = append(drops, replay.Drop{Index: index, Reason: fmt.Sprintf("documents are missing at the destination (%d in all): somebody else wrote there", r.Missing)})
	}
	if err := dropped(ctx, j, state, drops); err != nil {
		return err
	}
	if in.Final {
		return fault.Newf(fault.VerificationFailed, "replay "+strings.Join(r.MissingIn, ", "), p.Spec.Destination.Endpoint, "%d documents are at the source and not at the destination", r.Missing)
	}
	return nil
}
