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

// FreezeInput names the migration.
type FreezeInput struct {
	Migration string `json:"migration"`
	Execution string `json:"execution"`
}

// FreezeOutput says since when writes are stopped and how long proving it took.
type FreezeOutput struct {
	FrozenAt time.Time `json:"frozenAt"`
	Indices  int       `json:"indices"`
	Seconds  float64   `json:"seconds"`
	// ByRounds and ByReplay say which of the two have something left to move.
	ByRounds bool `json:"byRounds"`
	ByReplay bool `json:"byReplay"`
}

// FreezeDomain is what freezing asks of the source.
type FreezeDomain interface {
	Indices(context.Context) ([]cluster.Index, error)
	AddWriteBlock(ctx context.Context, indices ...string) error
	SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error)
}

// Freeze stops writes to the planned indices at the source and proves it.
type Freeze struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) FreezeDomain
	Clock   Clock
}

// proof is how long the sequence numbers may take to stand still.
const proof = 30 * time.Second

// Run is the state Freeze. The inverse is in the journal before the first block is set.
func (s Freeze) Run(ctx context.Context, in FreezeInput) (FreezeOutput, error) {
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return FreezeOutput{}, err
	}
	domain := s.Domain(p.Spec.Source)
	f, found, err := j.Freeze(ctx)
	if err != nil {
		return FreezeOutput{}, err
	}
	if found && f.Execution != p.Execution && f.State != journal.Thawed {
		// Its record is the only memory of how the blocks were before; it must not be overwritten.
		return FreezeOutput{}, fault.Newf(fault.Busy, "freeze the source", p.Spec.Source.Endpoint, "execution %s has stopped writes and not given them back (%s)", f.Execution, f.State)
	}
	if !found || f.Execution != in.Execution {
		if f, err = s.record(ctx, j, domain, p); err != nil {
			return FreezeOutput{}, err
		}
	} else if f.State != journal.Frozen {
		return FreezeOutput{}, fault.Newf(fault.Superseded, "freeze the source", p.Spec.Source.Endpoint, "this execution's freeze is already over (%s)", f.State)
	}
	if err := domain.AddWriteBlock(ctx, p.Names()...); err != nil {
		return FreezeOutput{}, err
	}
	if err := s.prove(ctx, domain, p); err != nil {
		return FreezeOutput{}, err
	}
	f.ProvenAt = s.Clock.Now()
	strategies, err := j.Strategies(ctx)
	if err != nil {
		return FreezeOutput{}, err
	}
	rounds, replayed := strategies.Split(p)
	out := FreezeOutput{FrozenAt: f.StartedAt, Indices: len(p.Indices), Seconds: seconds(f.StartedAt, f.ProvenAt), ByRounds: len(rounds) > len(f.Unchanged), ByReplay: len(replayed) > 0}
	return out, j.SaveFreeze(ctx, f)
}

// record notes how the blocks were before, and refuses to freeze when the source has indices that the plan does not know: they
// would stay behind.
func (s Freeze) record(ctx context.Context, j *journal.Journal, domain FreezeDomain, p migration.Plan) (journal.Freeze, error) {
	list, err := domain.Indices(ctx)
	if err != nil {
		return journal.Freeze{}, err
	}
	there := byName(list)
	var changed []string
	for _, x := range list {
		taken, _ := p.Spec.Indices.Select(x.Name)
		_, planned := p.Index(x.Name)
		leftOut := slices.ContainsFunc(p.LeftOut, func(l migration.LeftOut) bool { return l.Name == x.Name })
		if taken && x.Open && !planned && !leftOut {
			changed = append(changed, x.Name+" (new)")
		}
	}
	f := journal.Freeze{Execution: p.Execution, State: journal.Frozen, Before: map[string]string{}, StartedAt: s.Clock.Now()}
	for _, x := range p.Indices {
		now, ok := there[x.Name]
		if !ok || !now.Open {
			changed = append(changed, x.Name+" (gone or closed)")
			continue
		}
		f.Before[x.Name] = now.Settings["index.blocks.write"]
	}
	if len(changed) > 0 {
		return f, fault.Newf(fault.IndicesChanged, "freeze the source", p.Spec.Source.Endpoint, "since the plan: %s", strings.Join(bounded(changed), ", "))
	}
	var d migration.Decision
	if ok, err := j.Document(ctx, journal.DecisionFile, &d); err != nil {
		return f, err
	} else if ok && d.Prediction != nil {
		f.Prediction = &d.Prediction.Seconds
	}
	return f, j.SaveFreeze(ctx, f)
}

// prove waits until two readings of every shard agree and all operations are durable: max_seq_no, local and global checkpoint
// are one number.
func (s Freeze) prove(ctx context.Context, domain FreezeDomain, p migration.Plan) error {
	deadline := s.Clock.Now().Add(proof)
	var before map[string][]cluster.ShardSequence
	for {
		now, err := domain.SequenceNumbers(ctx, p.Names()...)
		if err != nil {
			return err
		}
		moving := unsettled(p, before, now)
		if len(moving) == 0 {
			return nil
		}
		if s.Clock.Now().After(deadline) {
			return fault.Newf(fault.FreezeUnproven, "prove that writes have stopped", p.Spec.Source.Endpoint, "after %s still moving: %s", proof, strings.Join(bounded(moving), ", "))
		}
		before = now
		if err := s.Clock.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// unsettled names the indices whose shards are not all seen, not all at one number, or not where they were before.
func unsettled(p migration.Plan, before, now map[string][]cluster.ShardSequence) []string {
	var moving []string
	for _, x := range p.Indices {
		shards := now[x.Name]
		settled := len(shards) == x.Shards && slices.EqualFunc(before[x.Name], shards, func(a, b cluster.ShardSequence) bool {
			return a.Shard == b.Shard && a.MaxSeqNo == b.MaxSeqNo && b.LocalCheckpoint == b.MaxSeqNo && b.GlobalCheckpoint == b.MaxSeqNo
		})
		if !settled {
			moving = append(moving, x.Name)
		}
	}
	return moving
}
