package replay

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
)

// NewState is the State of an index at its base: the global checkpoints, one a shard, that were read before the base snapshot was
// started, with the index's uuid and the shards' history uuids of that moment. "" and nil for those mean unknown: the first pass takes
// them as they are then, and what happened to the source in between is not noticed. Primary terms are taken from the first pass in any
// case: until then a new primary has lost nothing at or below a global checkpoint, and what it lost above is replayed as it is now.
func NewState(index, sourceUUID string, checkpoints []int64, histories []string) State {
	s := State{Index: index, SourceUUID: sourceUUID}
	for k, g := range checkpoints {
		shard := ShardState{Base: g, Position: g}
		if k < len(histories) {
			shard.History = histories[k]
		}
		s.Shards = append(s.Shards, shard)
	}
	return s
}

func unassigned(op, index string, shard int) error {
	return fault.Newf(fault.Unavailable, op, "index "+index, "primary shard %d is not started", shard).
		WithHint("Bring the index back to green (GET _cluster/allocation/explain), then redrive.")
}

// Range is the operations (From, Upto] of one shard.
type Range struct {
	Index string `json:"index"`
	Shard int    `json:"shard"`
	From  int64  `json:"from"`
	Upto  int64  `json:"upto"`
}

// Slice is the part of a pass that one call of Slice works on; every shard's ranges are there in order.
type Slice struct {
	Number int     `json:"number"`
	Parts  []Range `json:"parts"`
}

// Pass is one pass over all indices on replay.
type Pass struct {
	States []State `json:"states"` // of the indices that take part, with what Plan learned
	Ranges []Range `json:"ranges"` // one for each shard that has changed
	// Moved are the shards that deletions have to be looked for in: those where either side has gone on since that was done last. A warm pass
	// also has those that were never found equal, so that the freeze need not compare them.
	Moved      []ShardRef `json:"moved,omitempty"`
	Operations int64      `json:"operations"` // at most that many documents are to be read
	Slices     []Slice    `json:"slices"`     // none when nothing has changed
	Frozen     bool       `json:"frozen,omitempty"`
	Drops      []Drop     `json:"drops,omitempty"`
	// Refreshing is how long the source's refresh took, in seconds. In the freeze there is next to nothing left for it.
	Refreshing float64 `json:"refreshingSeconds,omitempty"`
}

// PlanOptions say how to cut a pass.
type PlanOptions struct {
	// Frozen demands that no write is under way at the source: on every shard the global checkpoint is the highest number.
	Frozen bool
	// SliceOperations is the least number of operations that is worth a slice of its own; 0 means 20,000, some seconds of work.
	SliceOperations int64
	// MaxSlices bounds the number of slices; 0 means 200.
	MaxSlices int
}

// Plan decides what a pass brings: each shard's (position, global checkpoint], the checkpoint being read before the source is
// refreshed, so that the searches that follow see everything at or below it. Indices that nothing is read of are not refreshed. An index whose history or identity changed at either
// side, which was re-created, shrunk, split or restored, is left out and named in Drops; a new base snapshot makes it eligible again.
//
// Faults: Unavailable (a primary is not started; Frozen and writes are still arriving), and those of the domains.
func (r *Replayer) Plan(ctx context.Context, states []State, o PlanOptions) (Pass, error) {
	pass := Pass{Frozen: o.Frozen}
	if len(states) == 0 {
		return pass, nil
	}
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.Index
	}
	source, destination, err := both(
		func() (map[string]cluster.IndexHistory, error) { return histories(ctx, r.Source, names) },
		func() (map[string]cluster.IndexHistory, error) { return histories(ctx, r.Destination, names) })
	if err != nil {
		return pass, err
	}
	var searched []string
	for _, s := range states {
		from, here := source[s.Index]
		to, there := destination[s.Index]
		reason, err := "", error(nil)
		switch {
		case !here:
			reason = "it is missing or closed at the source"
		case !there:
			reason = "its copy is missing or closed at the destination"
		default:
			reason, err = checkHistory(s, from, to)
		}
		if err != nil {
			return pass, err
		}
		if reason != "" {
			pass.Drops = append(pass.Drops, Drop{Index: s.Index, Reason: reason})
			continue
		}
		s.SourceUUID, s.DestinationUUID = from.UUID, to.UUID
		s.Shards = slices.Clone(s.Shards)
		reads := false
		for k := range s.Shards {
			shard, now, copied := &s.Shards[k], from.Shards[k], to.Shards[k]
			if o.Frozen && now.MaxSeqNo != now.GlobalCheckpoint {
				return Pass{}, fault.Newf(fault.Unavailable, "plan the last pass", "index "+s.Index, "shard %d has operations under way: global checkpoint %d, highest %d",
					k, now.GlobalCheckpoint, now.MaxSeqNo)
			}
			shard.History, shard.Term = now.HistoryUUID, now.PrimaryTerm
			if !shard.Started {
				shard.Started, shard.DestinationFrom, shard.DestinationUpto = true, copied.MaxSeqNo, shard.Base
			}
			if !shard.Reconciled.holds(now, copied) || !o.Frozen && (shard.Verified == nil || !shard.Verified.holds(now, copied)) {
				pass.Moved = append(pass.Moved, ShardRef{s.Index, k})
				reads = true
			}
			if now.GlobalCheckpoint > shard.Position {
				pass.Ranges = append(pass.Ranges, Range{s.Index, k, shard.Position, now.GlobalCheckpoint})
				pass.Operations += now.GlobalCheckpoint - shard.Position
				reads = true
			}
		}
		pass.States = append(pass.States, s)
		if reads {
			searched = append(searched, s.Index)
		}
	}
	if len(searched) > 0 {
		began := time.Now()
		if _, err := patiently(ctx, budget{}, nil, func() (struct{}, error) { return struct{}{}, r.Source.Refresh(ctx, searched...) }); err != nil {
			return Pass{}, err
		}
		pass.Refreshing = time.Since(began).Seconds()
	}
	pass.Slices = cut(pass.Ranges, pass.Operations, o)
	return pass, nil
}

// histories reads all histories. An index that is missing or closed has none; one that was opened a moment ago has one without shards,
// because statistics know only those that have started.
func histories(ctx context.Context, domain Domain, names []string) (map[string]cluster.IndexHistory, error) {
	read := func(names ...string) (map[string]cluster.IndexHistory, error) {
		return patiently(ctx, budget{}, nil, func() (map[string]cluster.IndexHistory, error) { return domain.ShardHistories(ctx, names...) })
	}
	all, err := read(names...)
	if err == nil {
		for _, name := range names {
			if _, started := all[name]; !started {
				all[name] = cluster.IndexHistory{}
			}
		}
	}
	if !gone(err) {
		return all, err
	}
	// One of them is missing; which one is found by asking for each.
	all = map[string]cluster.IndexHistory{}
	for _, name := range names {
		h, err := read(name)
		if err != nil && !gone(err) {
			return nil, err
		}
		if err == nil {
			all[name] = h[name]
		}
	}
	return all, nil
}

func gone(err error) bool {
	return cluster.HasType(err, "index_not_found_exception", "index_closed_exception")
}

func checkHistory(s State, source, destination cluster.IndexHistory) (reason string, err error) {
	switch {
	case len(source.Shards) == 0:
		return "", unassigned("plan a pass at the source", s.Index, 0)
	case len(destination.Shards) == 0:
		return "", unassigned("plan a pass at the destination", s.Index, 0)
	case s.SourceUUID != "" && source.UUID != s.SourceUUID:
		return "it was deleted and created anew, shrunk, split or restored at the source since its base snapshot (another index uuid)", nil
	case s.DestinationUUID != "" && destination.UUID != s.DestinationUUID:
		return "its copy was deleted and created anew at the destination (another index uuid)", nil
	case len(s.Shards) == 0:
		return "no checkpoints were recorded before its base snapshot", nil
	}
	for k, shard := range s.Shards {
		if k >= len(source.Shards) || source.Shards[k].Shard != k {
			return "", unassigned("plan a pass at the source", s.Index, k)
		}
		if k >= len(destination.Shards) || destination.Shards[k].Shard != k {
			return "", unassigned("plan a pass at the destination", s.Index, k)
		}
		from, to := source.Shards[k], destination.Shards[k]
		switch {
		case shard.History != "" && from.HistoryUUID != "" && from.HistoryUUID != shard.History:
			return fmt.Sprintf("shard %d got another history at the source since its base snapshot (restored, or a stale copy was allocated)", k), nil
		// A new primary keeps what is at or below the global checkpoint as long as nothing was lost; whether something was lost
		// (asynchronous translog, no replica) cannot be told from outside.
		case shard.Term != 0 && from.PrimaryTerm != 0 && from.PrimaryTerm != shard.Term:
			return fmt.Sprintf("shard %d changed its primary at the source since its base snapshot (primary term %d, was %d)", k, from.PrimaryTerm, shard.Term), nil
		case from.GlobalCheckpoint < shard.Position:
			return fmt.Sprintf("shard %d went back at the source: global checkpoint %d, replayed up to %d", k, from.GlobalCheckpoint, shard.Position), nil
		case to.MaxSeqNo < shard.Base:
			return fmt.Sprintf("shard %d of the copy does not reach the base: highest sequence number %d, base %d", k, to.MaxSeqNo, shard.Base), nil
		case shard.Started && to.MaxSeqNo < shard.DestinationUpto:
			return fmt.Sprintf("shard %d of the copy went back: highest sequence number %d, was %d", k, to.MaxSeqNo, shard.DestinationUpto), nil
		}
	}
	if len(source.Shards) != len(s.Shards) || len(destination.Shards) != len(s.Shards) {
		return fmt.Sprintf("it has %d primary shards at the source and %d at the destination, and had %d before its base snapshot", len(source.Shards),
			len(destination.Shards), len(s.Shards)), nil
	}
	return "", nil
}

// cut packs the ranges, in order, into slices of about equal numbers of operations.
func cut(ranges []Range, operations int64, o PlanOptions) []Slice {
	least, most := cmp.Or(max(o.SliceOperations, 0), 20_000), int64(cmp.Or(max(o.MaxSlices, 0), 200))
	size := max(least, (operations+most-1)/most)
	var slices []Slice
	room := int64(0)
	for _, r := range ranges {
		for from := r.From; from < r.Upto; {
			if room == 0 {
				slices = append(slices, Slice{Number: len(slices)})
				room = size
			}
			upto := min(r.Upto, from+room)
			last := &slices[len(slices)-1]
			last.Parts = append(last.Parts, Range{r.Index, r.Shard, from, upto})
			room -= upto - from
			from = upto
		}
	}
	return slices
}

// Advance takes a pass whose slices are all done into the states of its indices, with what the slices have reported. It reads the
// destination's sequence numbers, so nothing may be written there meanwhile. An index that a slice dropped must not be among the states of
// further passes. Results of calls that were killed may be missing.
func (r *Replayer) Advance(ctx context.Context, pass Pass, results []SliceResult) ([]State, error) {
	names := make([]string, len(pass.States))
	for i, s := range pass.States {
		names[i] = s.Index
	}
	if len(names) == 0 {
		return nil, nil
	}
	now, err := histories(ctx, r.Destination, names)
	if err != nil {
		return nil, err
	}
	type key struct {
		index string
		shard int
	}
	blocks := map[key][]Block{}
	written := map[key]int64{}
	for _, result := range results {
		for _, b := range result.Blocks {
			k := key{b.Index, b.Shard}
			blocks[k] = append(blocks[k], b.Block)
			written[k] += b.Written
		}
	}
	upto := map[key]int64{}
	for _, x := range pass.Ranges {
		upto[key{x.Index, x.Shard}] = x.Upto
	}
	// In the freeze a few shards are compared by Verify alone, beside what else it does.
	compare := pass.Frozen && len(CutDeletes(pass.States, pass.Moved)) > 1
	states := make([]State, 0, len(pass.States))
	for _, s := range pass.States {
		s.Shards = slices.Clone(s.Shards)
		for n := range s.Shards {
			shard, k := &s.Shards[n], key{s.Index, n}
			if n >= len(now[s.Index].Shards) || now[s.Index].UUID != s.DestinationUUID {
				return nil, fault.Newf(fault.IndicesChanged, "record a pass", "index "+s.Index, "its copy at the destination was closed, deleted or created anew during the pass").
					WithHint("Find who changes the destination, and start a new execution; the index begins with a new base.")
			}
			highest := now[s.Index].Shards[n].MaxSeqNo
			shard.Written += written[k]
			shard.Highest = highest
			shard.Unaccounted = max(0, highest-shard.DestinationFrom-shard.Written)
			to, changed := upto[k]
			shard.Rests = compare || !pass.Frozen && !changed
			if changed {
				shard.Blocks = bound(append(slices.Clone(shard.Blocks), arrange(blocks[k], shard.Position, to, shard.DestinationUpto, highest)...))
				shard.Position, shard.DestinationUpto = to, highest
			}
		}
		states = append(states, s)
	}
	return states, nil
}

// AccountDeletes adds what ReconcileDeletes wrote to the states, so that Advance does not take it for foreign writes, and marks the
// shards that it is through with. Results of calls that were killed may be missing: then marks are, or do not hold.
func AccountDeletes(states []State, d DeleteResult) []State {
	operations := map[ShardRef]int64{}
	for _, w := range d.Written {
		operations[w.ShardRef] += w.Operations
	}
	settled, equal := map[ShardRef]bool{}, map[ShardRef]Verified{}
	for _, ref := range d.Settled {
		settled[ref] = true
	}
	for _, v := range d.Equal {
		equal[v.ShardRef] = v.Verified
	}
	out := slices.Clone(states)
	for i := range out {
		out[i].Shards = slices.Clone(out[i].Shards)
		for k := range out[i].Shards {
			shard, ref := &out[i].Shards[k], ShardRef{out[i].Index, k}
			shard.Written += operations[ref]
			shard.Highest += operations[ref]
			if !settled[ref] {
				continue
			}
			mark := Mark{shard.Position, shard.Highest}
			shard.Reconciled = &mark
			if v, ok := equal[ref]; ok {
				v.Mark = mark
				shard.Verified = &v
			}
		}
	}
	return out
}

// arrange makes blocks that cover the source's (from, upto] and the destination's (dfrom, dupto] exactly once, in the same order on both
// sides. Blocks that overlap, from slices of one shard that ran side by side or from a call that was repeated, become one. What a killed
// call wrote lies between two blocks, and belongs to the one after it.
func arrange(blocks []Block, from, upto, dfrom, dupto int64) []Block {
	blocks = slices.Clone(blocks)
	slices.SortFunc(blocks, func(a, b Block) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Upto, b.Upto)) })
	var out []Block
	for _, b := range blocks {
		if b.Upto <= from || b.From >= upto || b.DestinationUpto <= dfrom || b.DestinationUpto > dupto {
			continue // nothing was written, or it is another pass's
		}
		for len(out) > 0 {
			last := out[len(out)-1]
			if b.DestinationFrom >= last.DestinationUpto && b.From >= last.Upto {
				break
			}
			b = Block{min(b.From, last.From), max(b.Upto, last.Upto), min(b.DestinationFrom, last.DestinationFrom), max(b.DestinationUpto, last.DestinationUpto)}
			out = out[:len(out)-1]
		}
		out = append(out, b)
	}
	if len(out) == 0 {
		return []Block{{from, upto, dfrom, dupto}}
	}
	for i := range out {
		out[i].From, out[i].DestinationFrom = from, dfrom
		from, dfrom = max(from, out[i].Upto), out[i].DestinationUpto
		out[i].Upto = from
	}
	out[len(out)-1].Upto, out[len(out)-1].DestinationUpto = upto, dupto
	return out
}

// bound merges neighbours until there are few enough.
func bound(blocks []Block) []Block {
	for len(blocks) > maxBlocks {
		var merged []Block
		for pair := range slices.Chunk(blocks, 2) {
			first, last := pair[0], pair[len(pair)-1]
			merged = append(merged, Block{first.From, last.Upto, first.DestinationFrom, last.DestinationUpto})
		}
		blocks = merged
	}
	return blocks
}
