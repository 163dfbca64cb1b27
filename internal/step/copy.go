package step

import (
	"context"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/s3copy"
)

// CopyInput is one key range: what is left of it and what was done so far. Input and output have the same shape, so that the
// state can go round until it is done.
type CopyInput struct {
	RoundInput
	Range   s3copy.Range `json:"range"` // what is left
	Done    bool         `json:"done"`
	Copied  int64        `json:"copied"`
	Bytes   int64        `json:"bytes"`
	Skipped int64        `json:"skipped"`
	Usage   s3copy.Usage `json:"usage"` // requests by class
}

// RangeCopier copies the objects of a range that the destination does not have.
type RangeCopier interface {
	CopyRange(ctx context.Context, from, to s3copy.Location, r s3copy.Range, deadline time.Time) (s3copy.RangeResult, error)
}

// Copy copies one key range as far as the invocation's time allows.
type Copy struct {
	Journal *journal.Store
	Copier  func(source, destination migration.Repository) RangeCopier
	Clock   Clock
}

// copyMargin is kept free before the invocation's deadline for answering; the copier keeps its own reserve for requests under way.
const copyMargin = 5 * time.Second

// Run is the state CopyRange.
func (s Copy) Run(ctx context.Context, in CopyInput) (CopyInput, error) {
	_, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return in, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = s.Clock.Now().Add(15 * time.Minute)
	}
	r, err := s.Copier(p.Spec.Source.Repository, p.Spec.Destination.Repository).
		CopyRange(ctx, location(p.Spec.Source), location(p.Spec.Destination), in.Range, deadline.Add(-copyMargin))
	if err != nil {
		return in, err
	}
	in.Done = r.Done
	in.Copied += r.Copied
	in.Bytes += r.CopiedBytes
	in.Skipped += r.Skipped
	in.Usage = in.Usage.Add(r.Usage)
	if !r.Done {
		in.Range.After = r.Cursor
	}
	return in, nil
}
