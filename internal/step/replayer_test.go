package step

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

// replayer is the replay of the world: it answers as it is told and remembers what it was asked for.
type replayer struct {
	w        *world
	cut      []replay.Slice // of every pass
	drops    []replay.Drop  // what Plan drops
	planned  [][]replay.State
	options  []replay.PlanOptions
	slices   []replay.Slice
	results  []replay.SliceResult // of Slice, one after another
	sliceErr []error              // beside them
	advanced [][]replay.SliceResult
	deletes  []replay.DeleteResult
	shards   [][]replay.ShardRef
	// reconciled are the states that deletions were looked for with.
	reconciled [][]replay.State
	deadline   time.Time
	// grow is how far a pass takes the positions; what a shard's deletions cost follows from it. 0 means 100.
	grow     int64
	evidence []replay.Evidence
	verified []replay.State
}

// between is the replay from the source to the destination; the other way round, unless it goes back, would write to the source.
func (w *world) between(from, to migration.Endpoint) *replayer {
	w.t.Helper()
	if w.at(from) == w.at(to) || (w.at(from) == w.source) == w.back {
		w.t.Fatalf("replay from %s to %s", from.Endpoint, to.Endpoint)
	}
	return w.replay
}

func next[T any](list *[]T) (v T) {
	if len(*list) > 0 {
		v, *list = (*list)[0], (*list)[1:]
	}
	return v
}

func (e *replayer) Plan(_ context.Context, states []replay.State, o replay.PlanOptions) (replay.Pass, error) {
	e.planned, e.options = append(e.planned, slices.Clone(states)), append(e.options, o)
	p := replay.Pass{Slices: e.cut, Drops: e.drops, Operations: 7}
	for _, s := range states {
		if slices.ContainsFunc(e.drops, func(d replay.Drop) bool { return d.Index == s.Index }) {
			continue
		}
		s.DestinationUUID = "copy-of-" + s.Index // what Plan learned
		p.States = append(p.States, s)
	}
	p.Moved = replay.Shards(p.States)
	return p, e.w.read("replay Plan")
}

func (e *replayer) Slice(_ context.Context, s replay.Slice, deadline time.Time) (replay.SliceResult, error) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if e.w.dead {
		return replay.SliceResult{}, errKilled
	}
	e.slices, e.deadline = append(e.slices, s), deadline
	return next(&e.results), next(&e.sliceErr)
}

func (e *replayer) Advance(_ context.Context, pass replay.Pass, results []replay.SliceResult) ([]replay.State, error) {
	e.advanced = append(e.advanced, results)
	states := slices.Clone(pass.States)
	for i := range states {
		states[i].Shards = slices.Clone(states[i].Shards)
		for k := range states[i].Shards {
			states[i].Shards[k].Position += cmp.Or(e.grow, 100)
		}
	}
	return states, e.w.read("replay Advance")
}

func (e *replayer) ReconcileDeletes(_ context.Context, states []replay.State, shards []replay.ShardRef, deadline time.Time) (replay.DeleteResult, error) {
	e.w.mu.Lock()
	e.shards, e.deadline = append(e.shards, slices.Clone(shards)), deadline
	e.reconciled = append(e.reconciled, states)
	e.w.mu.Unlock()
	// As the real one: a shard without a state is refused.
	for _, ref := range shards {
		if !slices.ContainsFunc(states, func(s replay.State) bool { return s.Index == ref.Index && ref.Shard < len(s.Shards) }) {
			return replay.DeleteResult{Rest: shards}, fmt.Errorf("there is no state for %s[%d]", ref.Index, ref.Shard)
		}
	}
	if len(e.deletes) == 0 {
		return replay.DeleteResult{Done: true}, e.w.read("replay ReconcileDeletes")
	}
	return next(&e.deletes), e.w.read("replay ReconcileDeletes")
}

func (e *replayer) Verify(_ context.Context, states []replay.State, _ int64, deadline time.Time) ([]replay.Evidence, error) {
	e.verified, e.deadline = states, deadline
	return e.evidence, e.w.read("replay Verify")
}

// replaying puts indices on replay with round 2 as base, whose checkpoints are in the journal: a {10, 11}, b {10}.
func (w *world) replaying(indices ...string) {
	w.t.Helper()
	s := migration.Strategies{}
	for _, name := range indices {
		s.Replay = append(s.Replay, migration.OnReplay{Index: name, Base: 2, Reason: "updated documents"})
	}
	w.must(w.journal().SaveStrategies(w.t.Context(), s))
	w.checkpoints(journal.Checkpoints{Round: 2, PerShard: map[string][]int64{"a": {10, 11}, "b": {10}}})
	w.checkpoints(journal.Checkpoints{Round: 1, PerShard: map[string][]int64{"a": {1, 2}, "b": {3}}})
	w.forget()
}

func (w *world) strategies() (replay string, dropped []migration.Dropped) {
	w.t.Helper()
	s, err := w.journal().Strategies(w.t.Context())
	w.must(err)
	var names []string
	for _, r := range s.Replay {
		names = append(names, r.Index)
	}
	return strings.Join(names, ","), s.Dropped
}

func (w *world) state() replayState {
	w.t.Helper()
	s, err := readState(w.t.Context(), w.journal())
	w.must(err)
	return s
}
