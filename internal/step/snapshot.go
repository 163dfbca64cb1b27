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

// SnapshotInput is a round and since when its snapshot has waited for its turn; null at first.
type SnapshotInput struct {
	RoundInput
	Since time.Time `json:"since"`
}

// SnapshotOutput says whether the round's snapshot runs (or ran).
type SnapshotOutput struct {
	Accepted bool `json:"accepted"`
	// Unchanged: the copies hold everything already, so that the round takes no snapshot.
	Unchanged   bool      `json:"unchanged"`
	Round       int       `json:"round"`
	Snapshot    string    `json:"snapshot"`
	StartedAt   time.Time `json:"startedAt"`
	Since       time.Time `json:"since"`
	WaitSeconds int       `json:"waitSeconds"` // when another snapshot is in the way
	Waiting     string    `json:"waiting,omitempty"`
}

// SnapshotDomain is what starting a snapshot asks of the source; of the destination it asks for the indices alone.
type SnapshotDomain interface {
	DomainState
	FollowDomain
	SnapshotTaker
	ClusterSettingsDomain
}

// SnapshotTaker takes snapshots.
type SnapshotTaker interface {
	Snapshot(ctx context.Context, repository, name string) (cluster.Snapshot, bool, error)
	RunningSnapshots(context.Context) ([]cluster.RunningSnapshot, error)
	CreateSnapshot(ctx context.Context, repository, name string, r cluster.SnapshotRequest) error
	DeleteSnapshot(ctx context.Context, repository, name string) error
}

// Snapshot starts the round's snapshot, once.
type Snapshot struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) SnapshotDomain
	Clock   Clock
}

// Run is the state StartSnapshot. It looks for a snapshot of the round's name before it asks for one. A warm round first follows what
// was created, deleted or re-created at the source since the last one. The source's global checkpoints are recorded before the snapshot,
// so that it can be the base of a replay; indices whose copies hold everything are left out. The final snapshot takes data streams whole,
// a warm one their indices.
func (s Snapshot) Run(ctx context.Context, in SnapshotInput) (SnapshotOutput, error) {
	r, err := records(ctx, s.Journal, in.RoundInput)
	if err != nil {
		return SnapshotOutput{}, err
	}
	if in.Round == 0 {
		if in.Round, err = nextRound(ctx, r.journal); err != nil {
			return SnapshotOutput{}, err
		}
		if r.checkpoints, r.recorded, err = r.journal.Checkpoints(ctx, in.Round); err != nil {
			return SnapshotOutput{}, err
		}
	}
	source, destination := s.Domain(r.plan.Spec.Source), s.Domain(r.plan.Spec.Destination)
	out := SnapshotOutput{Round: in.Round, Snapshot: migration.SnapshotName(in.Migration, in.Round), StartedAt: s.Clock.Now(), Since: in.Since}
	if out.Since.IsZero() {
		out.Since = out.StartedAt
	}
	// In the final round, whose plan no longer changes, what comes next is read at the same time.
	var existing cluster.Snapshot
	var found bool
	var now *journal.Checkpoints
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		existing, found, err = source.Snapshot(groupCtx, r.plan.Spec.RepositoryName(), out.Snapshot)
		return err
	})
	if in.Final {
		group.Go(func() (err error) {
			now, out.Waiting, err = s.look(groupCtx, r, source, destination, in, out.Snapshot)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return out, err
	}
	switch {
	case found && (existing.State == cluster.SnapshotSuccess || existing.State == cluster.SnapshotInProgress) && complete(existing, r) && (!in.Final || current(r, *now)):
		out.Accepted, out.StartedAt, out.Waiting = true, existing.StartTime, ""
		return out, nil
	case found:
		// By its name our own. Partial or failed in an earlier execution: taken again, once the operator has mended the shards. Or
		// complete, but made for an older plan that had not all of the indices: this round could never be restored from it. Or, in a final
		// round, made by a warm one of that number that never ended, before writes were stopped.
		if err := source.DeleteSnapshot(ctx, r.plan.Spec.RepositoryName(), out.Snapshot); err != nil {
			return out, err
		}
	}
	if !in.Final && in.Execution != "" {
		// After a redrive: the thaw that followed the failure has put the tuning back.
		if err := raiseAgain(ctx, newUndoLog(r.journal, s.Domain, s.Clock), r.plan); err != nil {
			return out, err
		}
	}
	if !in.Final {
		f := follower{journal: r.journal, source: source, destination: destination, clock: s.Clock, round: in.Round, before: r.strategies}
		if r.plan, err = f.follow(ctx, r.plan); err != nil {
			return out, err
		}
	}
	deadline := s.Clock.Now().Add(longPoll)
	for {
		if now == nil {
			if now, out.Waiting, err = s.look(ctx, r, source, destination, in, out.Snapshot); err != nil {
				return out, err
			}
		}
		if out.Unchanged = len(now.InSnapshot()) == 0; out.Unchanged || out.Waiting == "" {
			out.Waiting, out.Unchanged, err = s.create(ctx, r, source, *now, out.Snapshot)
			out.Accepted = out.Waiting == "" && err == nil && !out.Unchanged
			if out.Accepted || out.Unchanged || err != nil {
				return out, err
			}
		}
		now = nil
		if !in.Final || s.Clock.Now().After(deadline) {
			out.WaitSeconds = wait(in.RoundInput, out.Since, s.Clock.Now())
			return out, nil
		}
		if err := s.Clock.Sleep(ctx, 200*time.Millisecond); err != nil {
			return out, err
		}
	}
}

// create records the checkpoints, asks for the snapshot of what is not in the copies, and answers what is in its way, or "", or that
// there is nothing to ask for.
func (s Snapshot) create(ctx context.Context, r roundRecords, domain SnapshotTaker, now journal.Checkpoints, name string) (busy string, unchanged bool, err error) {
	c, err := r.journal.MergeCheckpoints(ctx, now)
	if err != nil {
		return "", false, err
	}
	p := r.byRounds()
	in := set(c.InSnapshot()) // an earlier attempt may have asked for more
	indices := slices.DeleteFunc(p.Names(), func(x string) bool { return !in[x] })
	if r.final {
		indices = p.Whole(indices)
	}
	if len(indices) == 0 {
		// Engines take a snapshot of no indices for one of all.
		return "", true, nil
	}
	err = domain.CreateSnapshot(ctx, p.Spec.RepositoryName(), name, cluster.SnapshotRequest{
		Indices: indices, Metadata: map[string]any{"taken_by": "domain-ferry", "migration": p.Spec.Migration},
	})
	switch {
	case fault.Is(err, fault.Busy):
		// Nothing need be seen running: a snapshot may be being deleted.
		return "another snapshot", false, nil
	case cluster.NameTaken(err):
		// Nobody had the name a moment ago: an earlier request of ours, whose answer was lost, has taken effect since.
		return "", false, nil
	}
	return "", false, err
}

// complete reports whether the snapshot was asked to hold every index that the round is to move.
func complete(existing cluster.Snapshot, r roundRecords) bool {
	in, unchanged := set(existing.Indices), set(r.checkpoints.Unchanged)
	if r.final && slices.ContainsFunc(r.plan.Streams, func(d migration.PlannedStream) bool { return !slices.Contains(existing.DataStreams, d.Name) }) {
		return false
	}
	return !slices.ContainsFunc(r.byRounds().Names(), func(name string) bool { return !in[name] && !unchanged[name] })
}

// current reports whether the snapshot that was asked for with the round's recorded checkpoints holds the source as it is now.
func current(r roundRecords, now journal.Checkpoints) bool {
	for name, shards := range now.PerShard {
		then, is := r.checkpoints.Identities[name], now.Identities[name]
		if !slices.Equal(r.checkpoints.PerShard[name], shards) || then.UUID != is.UUID || then.UUID == "" || then.Description != is.Description {
			return false
		}
	}
	return true
}

func nextRound(ctx context.Context, j *journal.Journal) (int, error) {
	rounds, err := j.Rounds(ctx)
	if err != nil || len(rounds) == 0 {
		return 1, err
	}
	return rounds[len(rounds)-1].Number + 1, nil
}

// otherSnapshot names a running snapshot that is not ours, or "". Amazon's hourly one counts: a domain takes one at a time.
func otherSnapshot(ctx context.Context, domain SnapshotTaker, own string) (string, error) {
	running, err := domain.RunningSnapshots(ctx)
	if err != nil {
		return "", err
	}
	for _, r := range running {
		if r.Name != own {
			return r.Repository + "/" + r.Name, nil
		}
	}
	return "", nil
}

// look reads the checkpoints and descriptions of the round's indices, finds those whose copies hold everything, and whether another
// snapshot is in the way. In the final round the freeze has looked for unchanged ones already.
func (s Snapshot) look(ctx context.Context, r roundRecords, source, destination SnapshotDomain, in SnapshotInput, own string) (now *journal.Checkpoints, waiting string, err error) {
	p := r.byRounds()
	c := journal.Checkpoints{Round: in.Round, ReadAt: s.Clock.Now(), PerShard: map[string][]int64{}, Identities: map[string]journal.Identity{}}
	if len(p.Indices) == 0 {
		return &c, "", nil
	}
	var sequences map[string][]cluster.ShardSequence
	var descriptions map[string]cluster.Description
	var holds map[string]journal.Hold
	var copies []cluster.Index
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { waiting, err = otherSnapshot(groupCtx, source, own); return err })
	group.Go(func() (err error) { sequences, err = source.SequenceNumbers(groupCtx, p.Names()...); return err })
	group.Go(func() (err error) { descriptions, err = source.Describe(groupCtx, p.Names()...); return err })
	if !in.Final {
		group.Go(func() (err error) { holds, err = r.journal.Holds(groupCtx); return err })
		group.Go(func() (err error) { copies, err = destination.Indices(groupCtx); return err })
	}
	if err := group.Wait(); err != nil {
		return nil, "", err
	}
	there := byName(copies)
	counting := held(holds, r.strategies, p)
	for _, x := range p.Indices {
		shards := sequences[x.Name]
		if len(shards) != x.Shards {
			return nil, "", fault.Newf(fault.Unavailable, "read the global checkpoints of index "+x.Name, p.Spec.Source.Endpoint, "%d of %d primary shards answered", len(shards), x.Shards)
		}
		for _, sh := range shards {
			c.PerShard[x.Name] = append(c.PerShard[x.Name], sh.GlobalCheckpoint)
		}
		c.Identities[x.Name] = identity(shards, descriptions[x.Name])
		if h, ok := counting[x.Name]; ok && x.Stream == "" && unchangedSince(h, shards, descriptions[x.Name]) && intact(h, there, x) {
			c.Unchanged = append(c.Unchanged, x.Name)
		}
	}
	return &c, waiting, nil
}
