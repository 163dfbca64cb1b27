package step

import (
	"context"
	"slices"
	"strings"
	"time"

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
	Accepted    bool      `json:"accepted"`
	Round       int       `json:"round"`
	Snapshot    string    `json:"snapshot"`
	StartedAt   time.Time `json:"startedAt"`
	Since       time.Time `json:"since"`
	WaitSeconds int       `json:"waitSeconds"` // when another snapshot is in the way
	Waiting     string    `json:"waiting,omitempty"`
}

// SnapshotDomain is what starting a snapshot asks of the source.
type SnapshotDomain interface {
	Indices(context.Context) ([]cluster.Index, error)
	SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error)
	SnapshotTaker
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

// Run is the state StartSnapshot. It looks for a snapshot of the round's name before it asks for one, and records the source's
// global checkpoints before that, so that the snapshot can be the base of a replay.
func (s Snapshot) Run(ctx context.Context, in SnapshotInput) (SnapshotOutput, error) {
	j, p, err := roundPlan(ctx, s.Journal, in.RoundInput)
	if err != nil {
		return SnapshotOutput{}, err
	}
	if len(p.Indices) == 0 {
		// Engines take a snapshot of no indices for one of all.
		return SnapshotOutput{}, fault.Newf(fault.InvalidInput, "snapshot the planned indices", p.Spec.Source.Endpoint, "all of them are on replay, so that a round has nothing to move")
	}
	if in.Round == 0 {
		if in.Round, err = nextRound(ctx, j); err != nil {
			return SnapshotOutput{}, err
		}
	}
	domain := s.Domain(p.Spec.Source)
	out := SnapshotOutput{Round: in.Round, Snapshot: migration.SnapshotName(in.Migration, in.Round), StartedAt: s.Clock.Now(), Since: in.Since}
	if out.Since.IsZero() {
		out.Since = out.StartedAt
	}
	existing, found, err := domain.Snapshot(ctx, p.Spec.RepositoryName(), out.Snapshot)
	if err != nil {
		return out, err
	}
	switch {
	case found && (existing.State == cluster.SnapshotSuccess || existing.State == cluster.SnapshotInProgress) && holds(existing, p):
		out.Accepted, out.StartedAt = true, existing.StartTime
		return out, nil
	case found:
		// By its name our own. Partial or failed in an earlier execution: taken again, once the operator has mended the shards. Or
		// complete, but made for an older plan that had not all of the indices: this round could never be restored from it.
		if err := domain.DeleteSnapshot(ctx, p.Spec.RepositoryName(), out.Snapshot); err != nil {
			return out, err
		}
	}
	if err := checkPresent(ctx, domain, p); err != nil {
		return out, err
	}
	deadline := s.Clock.Now().Add(longPoll)
	for {
		if out.Waiting, err = otherSnapshot(ctx, domain, out.Snapshot); err != nil {
			return out, err
		}
		if out.Waiting == "" {
			out.Waiting, err = s.create(ctx, j, domain, p, in.RoundInput)
			out.Accepted = out.Waiting == "" && err == nil
			if out.Accepted || err != nil {
				return out, err
			}
		}
		if !in.Final || s.Clock.Now().After(deadline) {
			out.WaitSeconds = wait(in.RoundInput, out.Since, s.Clock.Now())
			return out, nil
		}
		if err := s.Clock.Sleep(ctx, 200*time.Millisecond); err != nil {
			return out, err
		}
	}
}

// create asks for the snapshot and answers what is in its way, or "".
func (s Snapshot) create(ctx context.Context, j *journal.Journal, domain SnapshotDomain, p migration.Plan, in RoundInput) (busy string, err error) {
	if err := s.recordCheckpoints(ctx, j, domain, p, in.Round); err != nil {
		return "", err
	}
	err = domain.CreateSnapshot(ctx, p.Spec.RepositoryName(), migration.SnapshotName(in.Migration, in.Round), cluster.SnapshotRequest{
		Indices: p.Names(), Metadata: map[string]any{"taken_by": "domain-ferry", "migration": in.Migration},
	})
	switch {
	case fault.Is(err, fault.Busy):
		// Nothing need be seen running: a snapshot may be being deleted.
		return "another snapshot", nil
	case cluster.NameTaken(err):
		// Nobody had the name a moment ago: an earlier request of ours, whose answer was lost, has taken effect since.
		return "", nil
	}
	return "", err
}

// holds reports whether the snapshot was asked to hold every planned index.
func holds(existing cluster.Snapshot, p migration.Plan) bool {
	return !slices.ContainsFunc(p.Names(), func(name string) bool { return !slices.Contains(existing.Indices, name) })
}

func nextRound(ctx context.Context, j *journal.Journal) (int, error) {
	rounds, err := j.Rounds(ctx)
	if err != nil || len(rounds) == 0 {
		return 1, err
	}
	return rounds[len(rounds)-1].Number + 1, nil
}

// checkPresent faults when planned indices are gone or closed; the engine would refuse the snapshot with less to say.
func checkPresent(ctx context.Context, domain SnapshotDomain, p migration.Plan) error {
	list, err := domain.Indices(ctx)
	if err != nil {
		return err
	}
	there := byName(list)
	var gone []string
	for _, name := range p.Names() {
		if x, ok := there[name]; !ok || !x.Open {
			gone = append(gone, name)
		}
	}
	if len(gone) > 0 {
		return fault.Newf(fault.IndicesChanged, "snapshot the planned indices", p.Spec.Source.Endpoint, "gone or closed since the plan: %s", strings.Join(gone, ", "))
	}
	return nil
}

// otherSnapshot names a running snapshot that is not ours, or "". Amazon's hourly one counts: a domain takes one at a time.
func otherSnapshot(ctx context.Context, domain SnapshotDomain, own string) (string, error) {
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

func (s Snapshot) recordCheckpoints(ctx context.Context, j *journal.Journal, domain SnapshotDomain, p migration.Plan, round int) error {
	sequences, err := domain.SequenceNumbers(ctx, p.Names()...)
	if err != nil {
		return err
	}
	c := journal.Checkpoints{Round: round, ReadAt: s.Clock.Now(), PerShard: map[string][]int64{}}
	for _, x := range p.Indices {
		shards := sequences[x.Name]
		if len(shards) != x.Shards {
			return fault.Newf(fault.Unavailable, "read the global checkpoints of index "+x.Name, p.Spec.Source.Endpoint, "%d of %d primary shards answered", len(shards), x.Shards)
		}
		for _, sh := range shards {
			c.PerShard[x.Name] = append(c.PerShard[x.Name], sh.GlobalCheckpoint)
		}
	}
	return j.RecordCheckpoints(ctx, c)
}
