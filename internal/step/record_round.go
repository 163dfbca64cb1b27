package step

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// RecordRoundInput is what the phases of the round measured; null for a round that had nothing to move.
type RecordRoundInput struct {
	RoundInput
	StartedAt time.Time               `json:"startedAt"`
	Snapshot  migration.SnapshotPhase `json:"snapshot"`
	Copy      migration.CopyPhase     `json:"copy"`
	Restore   migration.RestorePhase  `json:"restore"`
}

// RecordRoundDomain is what ending a round asks of the destination; of the source it asks for aliases alone.
type RecordRoundDomain interface {
	Indices(context.Context) ([]cluster.Index, error)
	Close(ctx context.Context, indices ...string) error
	Open(ctx context.Context, indices ...string) error
	Shards(ctx context.Context, indices ...string) ([]cluster.Shard, error)
	AliasDomain
}

// RecordRound writes the round to the journal, and what each copy holds now. After a warm round it closes the copies that were
// restored, so that the next restore need not wait for a snapshot that holds them, and makes those that had not changed ready for the
// cut-over: open, and with the source's aliases.
type RecordRound struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) RecordRoundDomain
	Clock   Clock
}

// started is how long opened copies may take to start; the next round looks again.
const started = 30 * time.Second

// Run is the state RecordRound.
func (s RecordRound) Run(ctx context.Context, in RecordRoundInput) (migration.Round, error) {
	var holds map[string]journal.Hold
	var r roundRecords
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { r, err = records(groupCtx, s.Journal, in.RoundInput); return err })
	if in.Migration != "" {
		group.Go(func() (err error) { holds, err = s.Journal.Migration(in.Migration).Holds(groupCtx); return err })
	}
	if err := group.Wait(); err != nil {
		return migration.Round{}, err
	}
	restored, skipped := r.inSnapshot(), r.skipped()
	if !r.recorded {
		skipped.Indices = nil
	}
	round := migration.Round{
		Number: in.Round, Final: in.Final, Execution: in.Execution, StartedAt: in.StartedAt, Snapshot: in.Snapshot, Copy: in.Copy, Restore: in.Restore,
	}
	round.Restore.Skipped = len(skipped.Indices)
	if in.Final {
		round.Restore.Skipped = len(r.freeze.Unchanged)
	}
	s.hold(r, in, restored, holds)
	if !in.Final {
		if err := s.settle(ctx, r, restored, skipped, holds); err != nil {
			return migration.Round{}, err
		}
	}
	round.FinishedAt = s.Clock.Now()
	if !in.Final {
		if err := s.measures(ctx, r.journal, &round, skipped); err != nil {
			return migration.Round{}, err
		}
		if err := r.journal.SaveHolds(ctx, holds); err != nil {
			return migration.Round{}, err
		}
		return round, r.journal.SaveRound(ctx, round)
	}
	group, groupCtx = errgroup.WithContext(ctx)
	group.Go(func() error { return r.journal.SaveHolds(groupCtx, holds) })
	group.Go(func() error { return r.journal.SaveRound(groupCtx, round) })
	return round, group.Wait()
}

// hold notes what the restored copies hold.
func (s RecordRound) hold(r roundRecords, in RecordRoundInput, restored migration.Plan, holds map[string]journal.Hold) {
	for _, x := range restored.Indices {
		holds[x.Name] = journal.Hold{
			Round: in.Round, Snapshot: migration.SnapshotName(in.Migration, in.Round), Checkpoints: r.checkpoints.PerShard[x.Name],
			Identity: r.checkpoints.Identities[x.Name], Ready: in.Final, // the final restore brings the aliases and leaves the copies open
		}
	}
}

// settle leaves the copies as the next round, or the cut-over, wants to find them.
func (s RecordRound) settle(ctx context.Context, r roundRecords, restored, skipped migration.Plan, holds map[string]journal.Hold) error {
	source, destination := s.Domain(r.plan.Spec.Source), s.Domain(r.plan.Spec.Destination)
	var list []cluster.Index
	var copies journal.Copies
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { list, err = destination.Indices(groupCtx); return err })
	group.Go(func() (err error) { copies, err = r.journal.Copies(groupCtx); return err })
	if err := group.Wait(); err != nil {
		return err
	}
	there := byName(list)
	for _, x := range restored.Indices {
		h := holds[x.Name]
		h.CopyUUID = there[x.Name].UUID
		holds[x.Name] = h
	}
	if len(restored.Indices) > 0 && !copies.CannotClose {
		err := destination.Close(ctx, restored.Names()...)
		switch {
		case cluster.CannotClose(err):
			copies.CannotClose = true
			if err := r.journal.SaveCopies(ctx, copies); err != nil {
				return err
			}
		case fault.Is(err, fault.Busy):
			// A snapshot of the destination's own may hold them now; then the next round closes them.
		case err != nil:
			return err
		}
	}
	var waiting []migration.PlannedIndex
	for _, x := range skipped.Indices {
		if c, ok := there[x.Name]; ok && (!holds[x.Name].Ready || !c.Open) {
			waiting = append(waiting, x)
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	if err := s.open(ctx, destination, waiting, there); err != nil {
		return err
	}
	// The aliases of all in one step, because one that moves from one index to another must leave the one first. An alias that cannot be
	// had now, say because the index that still has it was restored in this round, is had in a later one or by the final restore.
	ready := indexNames(waiting)
	if err := agreeAliases(ctx, source, destination, ready); fault.Is(err, fault.RequestRefused) {
		ready = slices.DeleteFunc(ready, func(name string) bool {
			err := agreeAliases(ctx, source, destination, []string{name})
			return err != nil
		})
	} else if err != nil {
		return err
	}
	up, err := s.started(ctx, destination, waiting)
	if err != nil {
		return err
	}
	for _, name := range ready {
		h := holds[name]
		h.Ready = up[name]
		holds[name] = h
	}
	return nil
}

func (s RecordRound) open(ctx context.Context, destination RecordRoundDomain, list []migration.PlannedIndex, there map[string]cluster.Index) error {
	var closed []string
	for _, x := range list {
		if !there[x.Name].Open {
			closed = append(closed, x.Name)
		}
	}
	if len(closed) == 0 {
		return nil
	}
	return destination.Open(ctx, closed...)
}

// started waits until every primary of the indices is started, for half a minute at most, and tells of which they are.
func (s RecordRound) started(ctx context.Context, destination RecordRoundDomain, list []migration.PlannedIndex) (map[string]bool, error) {
	deadline := s.Clock.Now().Add(started)
	for {
		shards, err := destination.Shards(ctx, indexNames(list)...)
		if err != nil {
			return nil, err
		}
		count := map[string]int{}
		for _, sh := range shards {
			if sh.Primary && (sh.State == "STARTED" || sh.State == "RELOCATING") {
				count[sh.Index]++
			}
		}
		up := map[string]bool{}
		for _, x := range list {
			if count[x.Name] >= x.Shards {
				up[x.Name] = true
			}
		}
		if len(up) == len(list) || s.Clock.Now().After(deadline) {
			return up, nil
		}
		if err := s.Clock.Sleep(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// measures adds to the round's measures what the repository had predicted, and the indices that were left alone.
func (s RecordRound) measures(ctx context.Context, j *journal.Journal, round *migration.Round, skipped migration.Plan) error {
	measures, err := j.Measures(ctx, round.Number)
	if err != nil {
		return err
	}
	predicted, found, err := j.Prediction(ctx, round.Number)
	if err != nil {
		return err
	}
	var total int64
	missing := round.Restore.Indices == 0
	for index, m := range measures {
		bytes, ok := predicted.Indices[index]
		m.Predicted = nil
		if ok {
			m.Predicted = &bytes
			total += bytes
		}
		missing = missing || !ok && !m.Skipped
		measures[index] = m
	}
	if found {
		round.Restore.Unpredicted = predicted.Unknown
	}
	if found && !missing {
		round.Restore.PredictedBytes = &total
	}
	for _, x := range skipped.Indices {
		measures[x.Name] = migration.Measure{Skipped: true}
	}
	if len(measures) == 0 {
		return nil
	}
	return j.SaveMeasures(ctx, round.Number, measures)
}
