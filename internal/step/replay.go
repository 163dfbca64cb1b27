package step

import (
	"context"
	"slices"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

// ReplaySlice is one slice of a pass: what is left of it, and how many calls it has had. Input and output have the same shape,
// so that the state can go round until it is done. What each call did is in the journal.
type ReplaySlice struct {
	ReplayInput
	StartedAt time.Time      `json:"startedAt"` // the pass's, which tells it from another plan of the same number
	Slice     int            `json:"slice"`
	Call      int            `json:"call"`
	Rest      []replay.Range `json:"rest"` // null at first: the whole slice
	Done      bool           `json:"done"`
	Documents int64          `json:"documents"`
	Bytes     int64          `json:"bytes"`
}

// sliceCall is the journal's record of a call: what it was given, and what all its attempts did together.
type sliceCall struct {
	StartedAt time.Time      `json:"startedAt"` // of the pass
	Parts     []replay.Range `json:"parts"`
	replay.SliceResult
}

// SliceReplayer replays a slice.
type SliceReplayer interface {
	Slice(ctx context.Context, s replay.Slice, deadline time.Time) (replay.SliceResult, error)
}

// Replay replays one slice as far as the invocation's time allows.
type Replay struct {
	Journal *journal.Store
	Replay  func(source, destination migration.Endpoint) SliceReplayer
}

// Run is the state ReplaySlice.
func (s Replay) Run(ctx context.Context, in ReplaySlice) (ReplaySlice, error) {
	file := resultFile(in.Pass, in.Slice, in.Call)
	slice := replay.Slice{Number: in.Slice, Parts: in.Rest}
	var before sliceCall
	found := false
	j, p, err := planAnd(ctx, s.Journal, in.ReplayInput,
		func(ctx context.Context, j *journal.Journal) (err error) {
			found, err = j.Document(ctx, file, &before)
			return err
		},
		func(ctx context.Context, j *journal.Journal) (err error) {
			if in.Rest == nil {
				slice, err = plannedSlice(ctx, j, in)
			}
			return err
		})
	if err != nil {
		return in, err
	}
	record := sliceCall{StartedAt: in.StartedAt, Parts: slice.Parts}
	// An earlier attempt at this call, whether it failed or its answer was lost, has left its result: this one goes on from there, and
	// both are one result, so that the accounts of the pass lose nothing.
	if found && before.StartedAt.Equal(in.StartedAt) && slices.Equal(before.Parts, slice.Parts) {
		record, slice.Parts = before, before.Rest
	}
	if !record.Done {
		deadline, _ := ctx.Deadline()
		r, err := s.Replay(p.Spec.Source, p.Spec.Destination).Slice(ctx, slice, deadline)
		record.SliceResult = record.Plus(r)
		// What was done before an error is done.
		if saved := j.SaveDocument(ctx, file, record); saved != nil && err == nil {
			err = saved
		}
		if err != nil {
			return in, err
		}
	}
	in.Call++
	in.Rest, in.Done = record.Rest, record.Done
	in.Documents += record.Documents
	in.Bytes += record.Bytes
	return in, nil
}

func plannedSlice(ctx context.Context, j *journal.Journal, in ReplaySlice) (replay.Slice, error) {
	var x replay.Slice
	found, err := j.Document(ctx, sliceFile(in.Pass, in.Slice), &x)
	if err == nil && !found {
		err = fault.Newf(fault.JournalMissing, "replay", in.Migration, "slice %d of pass %d was not planned", in.Slice, in.Pass)
	}
	return x, err
}

// readPass reads a planned pass without its slices.
func readPass(ctx context.Context, j *journal.Journal, in ReplayInput) (replay.Pass, error) {
	var p passPlan
	found, err := j.Document(ctx, passFile(in.Pass), &p)
	if err == nil && !found {
		err = fault.Newf(fault.JournalMissing, "replay", in.Migration, "pass %d was not planned", in.Pass)
	}
	return p.Pass, err
}
