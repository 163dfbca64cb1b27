package step

import (
	"context"
	"math"
	"testing"

	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/s3copy"
)

// shaped is a copier that keeps what it is told of the repository's shape.
type shaped struct {
	copier
	planned, published *s3copy.Shape
}

func (c *shaped) Plan(ctx context.Context, from, to s3copy.Location, want s3copy.Want, n int) (s3copy.Plan, error) {
	c.planned = want.Shape
	return c.copier.Plan(ctx, from, to, want, n)
}

func (c *shaped) Publish(ctx context.Context, from, to s3copy.Location, root s3copy.Root, want s3copy.Want) (s3copy.PublishResult, error) {
	c.published = want.Shape
	return c.copier.Publish(ctx, from, to, root, want)
}

// A warm round leaves behind how the repository lies in its key space; the next ones cut their ranges by it, the final one too, which
// itself writes nothing that nobody waits for. What S3 charges is in the round's record.
func TestCopyRemembersTheShapeAndCounts(t *testing.T) {
	w := plannedWorld(t)
	c := &shaped{copier: copier{publish: s3copy.PublishResult{
		Published: true, Usage: s3copy.Usage{List: 10, Read: 5},
		Shape: &s3copy.Shape{Pieces: []s3copy.Piece{{Through: "indices/a0", Objects: 7, Bytes: 70}, {Objects: 3}}},
	}}}
	planner := PlanCopy{w.store, func(migration.Repository, migration.Repository) CopyPlanner { return c }, w}
	publisher := PublishCopy{w.store, func(migration.Repository, migration.Repository) CopyPublisher { return c }, noBlobs, w}
	if _, err := planner.Run(t.Context(), PlanCopyInput{RoundInput: round(3, false)}); err != nil || c.planned != nil {
		t.Fatalf("before any round: %+v, %v", c.planned, err)
	}
	in := PublishCopyInput{RoundInput: round(3, false), Ranges: []CopyInput{
		{Range: s3copy.Range{After: "x", Through: "indices/a0"}, Copied: 2, Skipped: 5, Bytes: 2e9, Usage: s3copy.Usage{List: 4, Copy: 2, Part: 20, Write: 2}},
		{Range: s3copy.Range{Outside: true}, Copied: 1, Skipped: 2, Usage: s3copy.Usage{List: 2, Copy: 1}},
	}}
	out, err := publisher.Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if p := c.published; p == nil || len(p.Pieces) != 2 || p.Pieces[0] != (s3copy.Piece{Through: "indices/a0", Objects: 7, Bytes: 2e9}) || !p.Pieces[1].Outside {
		t.Errorf("Publish was told the shape %+v", p)
	}
	cost := out.Copy.Cost
	if cost == nil || cost.Lists != 16 || cost.Reads != 5 || cost.Copies != 3 || cost.Parts != 20 || cost.Writes != 2 {
		t.Fatalf("cost %+v", cost)
	}
	plan, err := w.journal().ReadPlan(t.Context())
	w.must(err)
	regions := plan.Spec.Source.Repository.Region != plan.Spec.Destination.Repository.Region
	// 41 requests of the dear class, 5 of the cheap one, 2 GB between two Regions.
	if near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }; !near(cost.Requests, 41*5e-6+5*4e-7) || !near(cost.Total, cost.Requests+cost.Transfer) ||
		!near(cost.Transfer, map[bool]float64{true: 0.04}[regions]) {
		t.Errorf("dollars %+v", cost)
	}
	for _, final := range []bool{false, true} {
		if _, err := planner.Run(t.Context(), PlanCopyInput{RoundInput: round(4, final)}); err != nil || c.planned == nil || c.planned.Pieces[0].Objects != 7 {
			t.Errorf("the next round (final %v) was told %+v, %v", final, c.planned, err)
		}
	}
}
