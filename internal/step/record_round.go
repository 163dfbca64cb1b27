package step

import (
	"context"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// RecordRoundInput is what the phases of the round measured.
type RecordRoundInput struct {
	RoundInput
	StartedAt time.Time               `json:"startedAt"`
	Snapshot  migration.SnapshotPhase `json:"snapshot"`
	Copy      migration.CopyPhase     `json:"copy"`
	Restore   migration.RestorePhase  `json:"restore"`
}

// RecordRoundDomain is what ending a round asks of the destination.
type RecordRoundDomain interface {
	Close(ctx context.Context, indices ...string) error
}

// RecordRound writes the round to the journal. After a warm round it closes the destination's copies, so that the next restore
// need not wait for a snapshot that holds them.
type RecordRound struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) RecordRoundDomain
	Clock   Clock
}

// Run is the state RecordRound.
func (s RecordRound) Run(ctx context.Context, in RecordRoundInput) (migration.Round, error) {
	j, p, err := snapshotPlan(ctx, s.Journal, in.RoundInput)
	if err != nil {
		return migration.Round{}, err
	}
	if !in.Final {
		// A snapshot of the destination's own may hold them now; then the next round closes them.
		if err := s.Domain(p.Spec.Destination).Close(ctx, p.Names()...); err != nil && !fault.Is(err, fault.Busy) {
			return migration.Round{}, err
		}
	}
	r := migration.Round{
		Number: in.Round, Final: in.Final, Execution: in.Execution, StartedAt: in.StartedAt, FinishedAt: s.Clock.Now(),
		Snapshot: in.Snapshot, Copy: in.Copy, Restore: in.Restore,
	}
	return r, j.SaveRound(ctx, r)
}
