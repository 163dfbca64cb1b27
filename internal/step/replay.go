package step

import (
	"context"
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
	Slice     int            `json:"slice"`
	Call      int            `json:"call"`
	Rest      []replay.Range `json:"rest"` // null at first: the whole slice
	Done      bool           `json:"done"`
	Documents int64          `json:"documents"`
	Bytes     int64          `json:"bytes"`
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
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return in, err
	}
	slice := replay.Slice{Number: in.Slice, Parts: in.Rest}
	if in.Rest == nil {
		if slice, err = plannedSlice(ctx, j, in); err != nil {
			return in, err
		}
	}
	deadline, _ := ctx.Deadline()
	r, err := s.Replay(p.Spec.Source, p.Spec.Destination).Slice(ctx, slice, deadline)
	// What was done before an error is done, and the accounts of the pass need it.
	if saved := j.SaveDocument(ctx, resultFile(in.Pass, in.Slice, in.Call), r); saved != nil && err == nil {
		err = saved
	}
	if err != nil {
		return in, err
	}
	in.Call++
	in.Rest, in.Done = r.Rest, r.Done
	in.Documents += r.Documents
	in.Bytes += r.Bytes
	return in, nil
}

func plannedSlice(ctx context.Context, j *journal.Journal, in ReplaySlice) (replay.Slice, error) {
	pass, err := readPass(ctx, j, in.ReplayInput)
	if err != nil {
		return replay.Slice{}, err
	}
	for _, x := range pass.Slices {
		if x.Number == in.Slice {
			return x, nil
		}
	}
	return replay.Slice{}, fault.Newf(fault.JournalMissing, "replay", in.Migration, "pass %d has no slice %d", in.Pass, in.Slice)
}

func readPass(ctx context.Context, j *journal.Journal, in ReplayInput) (replay.Pass, error) {
	var p passPlan
	found, err := j.Document(ctx, passFile(in.Pass), &p)
	if err == nil && !found {
		err = fault.Newf(fault.JournalMissing, "replay", in.Migration, "pass %d was not planned", in.Pass)
	}
	return p.Pass, err
}
