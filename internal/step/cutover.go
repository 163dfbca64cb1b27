package step

import (
	"context"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// measured is what the cut-over of this freeze took, phase by phase, as far as the journal tells: for the report, and for the next
// prediction.
func measured(ctx context.Context, j *journal.Journal, f journal.Freeze) (migration.CutOver, error) {
	c := migration.CutOver{Execution: f.Execution, StartedAt: f.StartedAt, HandedOver: f.State == journal.HandedOver}
	if c.HandedOver {
		c.Total = new(seconds(f.StartedAt, f.EndedAt))
	}
	if f.ProvenAt.IsZero() {
		return c, nil
	}
	c.Freeze = new(seconds(f.StartedAt, f.ProvenAt))
	rounds, err := j.Rounds(ctx)
	if err != nil {
		return c, err
	}
	for _, r := range rounds {
		if r.Final && r.Execution == f.Execution && !r.FinishedAt.Before(f.StartedAt) {
			c.Snapshot, c.Copy, c.Restore = new(r.Snapshot.Seconds), new(r.Copy.Seconds), new(r.Restore.Seconds)
		}
	}
	passes, err := j.Passes(ctx)
	if err != nil {
		return c, err
	}
	for _, p := range passes {
		if p.Final && p.Execution == f.Execution && !p.FinishedAt.Before(f.StartedAt) {
			c.Replay = new(p.Seconds)
		}
	}
	var v migration.Verification
	found, err := j.Document(ctx, journal.VerificationFile, &v)
	if err != nil || !found || v.StartedAt.Before(f.ProvenAt) {
		return c, err // of an earlier cut-over
	}
	c.Move, c.Verify = new(seconds(f.ProvenAt, v.StartedAt)), new(v.Seconds)
	if c.HandedOver {
		c.Finish = new(max(0, *c.Total-*c.Freeze-*c.Move-*c.Verify))
	}
	return c, nil
}
