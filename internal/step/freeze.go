package step

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

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

// FreezeDomain is what freezing asks of the source; of the destination it asks for the indices alone.
type FreezeDomain interface {
	Indices(context.Context) ([]cluster.Index, error)
	AddWriteBlock(ctx context.Context, indices ...string) error
	Refresh(ctx context.Context, indices ...string) error
	DomainState
	IndexDeleter
	StreamLister
	settingsUpdater
	ClusterSettingsDomain
}

// Freeze stops writes to the planned indices at the source and proves it.
type Freeze struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) FreezeDomain
	Clock   Clock
}

// proof is how long the sequence numbers may take to stand still.
const proof = 30 * time.Second

// ground is what the freeze reads before it stops a single write.
type ground struct {
	roundRecords
	freeze   journal.Freeze
	found    bool
	holds    map[string]journal.Hold
	copies   journal.Copies
	decision migration.Decision
	list     []cluster.Index // of the source
	streams  []cluster.DataStream
	there    map[string]cluster.Index
}

func (s Freeze) read(ctx context.Context, in FreezeInput) (g ground, err error) {
	if in.Migration == "" {
		_, _, err := plan(ctx, s.Journal, in.Migration, in.Execution)
		return g, err
	}
	j := s.Journal.Migration(in.Migration)
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		g.roundRecords, err = records(groupCtx, s.Journal, RoundInput{Migration: in.Migration, Execution: in.Execution})
		return err
	})
	group.Go(func() (err error) { g.freeze, g.found, err = j.Freeze(groupCtx); return err })
	group.Go(func() (err error) { g.holds, err = j.Holds(groupCtx); return err })
	group.Go(func() (err error) { g.copies, err = j.Copies(groupCtx); return err })
	group.Go(func() error { _, err := j.Document(groupCtx, journal.DecisionFile, &g.decision); return err })
	if err := group.Wait(); err != nil {
		return g, err
	}
	group, groupCtx = errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		source := s.Domain(g.plan.Spec.Source)
		if g.list, err = source.Indices(groupCtx); err != nil {
			return err
		}
		g.streams, err = streamsAmong(groupCtx, source, g.list)
		return err
	})
	group.Go(func() error {
		list, err := s.Domain(g.plan.Spec.Destination).Indices(groupCtx)
		g.there = byName(list)
		return err
	})
	return g, group.Wait()
}

// Run is the state Freeze. The inverse is in the journal before the first block is set.
func (s Freeze) Run(ctx context.Context, in FreezeInput) (FreezeOutput, error) {
	g, err := s.read(ctx, in)
	if err != nil {
		return FreezeOutput{}, err
	}
	j, p, f := g.journal, g.plan, g.freeze
	source := s.Domain(p.Spec.Source)
	if g.found && f.Execution != p.Execution && f.State != journal.Thawed {
		// Its record is the only memory of how the blocks were before; it must not be overwritten.
		return FreezeOutput{}, fault.Newf(fault.Busy, freezing, p.Spec.Source.Endpoint, "execution %s has stopped writes and not given them back (%s)", f.Execution, f.State)
	}
	if !g.found || f.Execution != in.Execution {
		if f, err = s.begin(ctx, g); err != nil {
			return FreezeOutput{}, err
		}
	} else if f.State != journal.Frozen {
		return FreezeOutput{}, fault.Newf(fault.Superseded, freezing, p.Spec.Source.Endpoint, "this execution's freeze is already over (%s)", f.State)
	}
	if !f.NotBlocked {
		if err := s.stop(ctx, source, p); err != nil {
			return FreezeOutput{}, err
		}
	}
	rounds, replayed := g.strategies.Split(p)
	candidates := s.candidates(g)
	var sequences map[string][]cluster.ShardSequence
	var descriptions map[string]cluster.Description
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { sequences, err = s.prove(groupCtx, source, p); return err })
	group.Go(func() (err error) { descriptions, err = source.Describe(groupCtx, candidates...); return err })
	group.Go(func() error { return stillPlanned(groupCtx, source, p, freezing) })
	// The last pass begins with it, and has less to wait for then.
	if len(replayed) > 0 {
		group.Go(func() error { return source.Refresh(groupCtx, indexNames(replayed)...) })
	}
	if err := group.Wait(); err != nil {
		return FreezeOutput{}, err
	}
	f.Unchanged = nil
	for _, name := range candidates {
		if unchangedSince(g.holds[name], sequences[name], descriptions[name]) {
			f.Unchanged = append(f.Unchanged, name)
		}
	}
	f.ProvenAt, f.Proven = s.Clock.Now(), maxSeqNos(sequences)
	out := FreezeOutput{FrozenAt: f.StartedAt, Indices: len(p.Indices), Seconds: seconds(f.StartedAt, f.ProvenAt), ByRounds: len(rounds) > len(f.Unchanged), ByReplay: len(replayed) > 0}
	return out, j.SaveFreeze(ctx, f)
}

// stop sets the write blocks. Those of the write indices of data streams are settings, because no engine blocks them by _block.
func (s Freeze) stop(ctx context.Context, source FreezeDomain, p migration.Plan) error {
	var writers []string
	for _, d := range p.Streams {
		writers = append(writers, d.Indices[len(d.Indices)-1])
	}
	rest := slices.DeleteFunc(p.Names(), func(name string) bool { return slices.Contains(writers, name) })
	group, groupCtx := errgroup.WithContext(ctx)
	if len(rest) > 0 {
		group.Go(func() error { return source.AddWriteBlock(groupCtx, rest...) })
	}
	if len(writers) > 0 {
		group.Go(func() error {
			return source.UpdateSettings(groupCtx, map[string]any{"index.blocks.write": true}, writers...)
		})
	}
	return group.Wait()
}

// candidates are the indices on rounds whose copies are ready for the cut-over, if they hold everything.
func (s Freeze) candidates(g ground) []string {
	p := g.byRounds()
	counting := held(g.holds, g.strategies, p)
	var names []string
	for _, x := range p.Indices {
		if h, ok := counting[x.Name]; ok && x.Stream == "" && h.Ready && g.there[x.Name].Open && intact(h, g.there, x) {
			names = append(names, x.Name)
		}
	}
	return names
}

// begin refuses to freeze when the source's indices are not those of the plan any more; the next execution's first round follows them.
// Then it silences the source and notes how the blocks were.
func (s Freeze) begin(ctx context.Context, g ground) (journal.Freeze, error) {
	p := g.plan
	if err := asPlanned(p, g.list, g.streams, freezing); err != nil {
		return journal.Freeze{}, err
	}
	for _, x := range p.Indices {
		if _, whole := p.Stream(x.Stream); x.Stream != "" && !whole {
			return journal.Freeze{}, fault.Newf(fault.IndicesChanged, freezing, p.Spec.Source.Endpoint, "the last round did not see data stream %s whole; its index %s would move as a plain one", x.Stream, x.Name)
		}
	}
	// No round has followed what was removed between two executions, where all indices are on replay.
	left := follower{list: g.list, copies: g.copies, chosen: choose(p.Spec.Indices, g.list, g.streams)}
	if removed := left.toRemove(p); !slices.Equal(removed, g.copies.Removed) {
		g.copies.Removed = removed
		if err := g.journal.SaveCopies(ctx, g.copies); err != nil {
			return journal.Freeze{}, err
		}
	}
	// No pass of the replay runs now, so that what it kept from being deleted can be.
	if _, err := deleteRemoved(ctx, g.journal, s.Domain(p.Spec.Destination), g.copies, migration.Strategies{}); err != nil {
		return journal.Freeze{}, err
	}
	if err := silence(ctx, newUndoLog(g.journal, s.Domain, s.Clock), p); err != nil {
		return journal.Freeze{}, err
	}
	// While clients still write, so that little is left to refresh for the last pass and for the verification.
	if err := s.Domain(p.Spec.Source).Refresh(ctx, p.Names()...); err != nil {
		return journal.Freeze{}, err
	}
	return s.record(ctx, g)
}

const freezing = "freeze the source"

// record notes how the blocks were before.
func (s Freeze) record(ctx context.Context, g ground) (journal.Freeze, error) {
	p := g.plan
	there := byName(g.list)
	f := journal.Freeze{Execution: p.Execution, State: journal.Frozen, Before: map[string]string{}, StartedAt: s.Clock.Now(), NotBlocked: p.Spec.Clients == migration.ClientsStopped}
	for _, x := range p.Indices {
		f.Before[x.Name] = there[x.Name].Settings["index.blocks.write"]
	}
	if g.decision.Prediction != nil {
		f.Prediction = &g.decision.Prediction.Seconds
	}
	return f, g.journal.SaveFreeze(ctx, f)
}

// prove waits until two readings of every shard agree and all operations are durable: max_seq_no, local and global checkpoint
// are one number. It returns the last reading.
func (s Freeze) prove(ctx context.Context, domain DomainState, p migration.Plan) (map[string][]cluster.ShardSequence, error) {
	deadline := s.Clock.Now().Add(proof)
	var before map[string][]cluster.ShardSequence
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		now, err := domain.SequenceNumbers(ctx, p.Names()...)
		if err != nil {
			return nil, err
		}
		moving := unsettled(p, before, now)
		if len(moving) == 0 {
			return now, nil
		}
		if s.Clock.Now().After(deadline) {
			return nil, fault.Newf(fault.FreezeUnproven, "prove that writes have stopped", p.Spec.Source.Endpoint, "after %s still moving: %s", proof, strings.Join(bounded(moving), ", "))
		}
		before = now
		if err := s.Clock.Sleep(ctx, pause); err != nil {
			return nil, err
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
