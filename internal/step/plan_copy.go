package step

import (
	"context"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/s3copy"
)

// copyRanges is how many key ranges are copied side by side at most: the Map state's MaxConcurrency. They are of like weight, so a range
// more would take as long again as all the others.
const copyRanges = 12

// PlanCopyInput is a round and since when it has been copied; null at first.
type PlanCopyInput struct {
	RoundInput
	Since time.Time `json:"since"`
}

// PlanCopyOutput is what the copy moves: the source's root generation and the key ranges.
type PlanCopyOutput struct {
	Root   s3copy.Root    `json:"root"`
	Ranges []s3copy.Range `json:"ranges"`
	Since  time.Time      `json:"since"`
}

// CopyPlanner plans a copy.
type CopyPlanner interface {
	Plan(ctx context.Context, from, to s3copy.Location, want s3copy.Want, ranges int) (s3copy.Plan, error)
}

// PlanCopy reads the source repository's root, checks that it holds the round's snapshot and splits the key space.
type PlanCopy struct {
	Journal *journal.Store
	Copier  func(source, destination migration.Repository) CopyPlanner
	Clock   Clock
}

// shapeFile holds how the repository lay in its key space when a warm round listed it last.
const shapeFile = "copy-shape.json"

// shape reads it; nil when there is none. It only balances the ranges: what cannot be read is not worth a failure.
func shape(ctx context.Context, j *journal.Journal) *s3copy.Shape {
	var known s3copy.Shape
	if found, err := j.Document(ctx, shapeFile, &known); err != nil || !found || len(known.Pieces) == 0 {
		return nil
	}
	return &known
}

// Run is the state PlanCopy.
func (s PlanCopy) Run(ctx context.Context, in PlanCopyInput) (PlanCopyOutput, error) {
	wanted := want(in.RoundInput)
	var reading sync.WaitGroup
	if in.Migration != "" { // beside the plan: inside the freeze each request counts
		reading.Go(func() { wanted.Shape = shape(ctx, s.Journal.Migration(in.Migration)) })
	}
	_, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	reading.Wait()
	if err != nil {
		return PlanCopyOutput{}, err
	}
	out := PlanCopyOutput{Since: in.Since}
	if out.Since.IsZero() {
		out.Since = s.Clock.Now()
	}
	c, err := s.Copier(p.Spec.Source.Repository, p.Spec.Destination.Repository).Plan(ctx, location(p.Spec.Source), location(p.Spec.Destination), wanted, copyRanges)
	if err != nil {
		return out, err
	}
	out.Root, out.Ranges = c.Root, c.Ranges
	return out, nil
}

func want(in RoundInput) s3copy.Want {
	return s3copy.Want{SnapshotName: migration.SnapshotName(in.Migration, in.Round), OwnPrefix: in.Migration + "-r"}
}
