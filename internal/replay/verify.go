package replay

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
)

// Evidence is what Verify found of one index. A replayed shard has other sequence numbers than the source, so it is compared by its parts.
type Evidence struct {
	Index string `json:"index"`
	OK    bool   `json:"ok"`
	// Reason says what differs; empty when nothing does.
	Reason string `json:"reason,omitempty"`

	// SharedSource and SharedDestination count the documents at and below the base. DifferentBuckets of SharedBuckets ranges of
	// sequence numbers hold different counts.
	SharedSource      int64 `json:"sharedSource"`
	SharedDestination int64 `json:"sharedDestination"`
	SharedBuckets     int   `json:"sharedBuckets"`
	DifferentBuckets  int   `json:"differentBuckets"`

	// Shards were compared, Unmoved of them by an earlier pass: neither side has had an operation since. Of these the documents that were
	// counted then are counted here, and so are those that were hashed; the sums are without them.
	Shards  int `json:"shards"`
	Unmoved int `json:"unmoved,omitempty"`

	ReplayedSource      int64 `json:"replayedSource"`
	ReplayedDestination int64 `json:"replayedDestination"`
	// Hashed documents of the replayed region were compared by id, routing, version and source, the latest changes first; all of
	// them unless the limit or the deadline was reached. The sums are of their SHA-256, in any order.
	Hashed         int64  `json:"hashed"`
	SourceSum      string `json:"sourceSum"`
	DestinationSum string `json:"destinationSum"`
	// Different documents are missing at the destination or not the same there; up to 20 ids are quoted.
	Different    int64    `json:"different"`
	DifferentIDs []string `json:"differentIds,omitempty"`
}

// Verify compares replayed indices after the last pass and its deletions, while no writes arrive at either side, and after both were
// refreshed, as it reads what searches see: counts and the
// histogram of sequence numbers in the shared region, counts and up to limit documents for each index (0: all; the limit is
// divided among its shards) in the replayed one. It stops hashing at the
// deadline, a zero one means none. Shards that a pass found equal are not read again while neither side has moved since. The error is of
// reading; differences are in the evidence.
func (r *Replayer) Verify(ctx context.Context, states []State, limit int64, deadline time.Time) ([]Evidence, error) {
	if len(states) == 0 {
		return nil, nil
	}
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.Index
	}
	b := newBudget(deadline)
	here, there, err := both(
		func() (map[string]cluster.IndexHistory, error) { return histories(ctx, r.Source, names) },
		func() (map[string]cluster.IndexHistory, error) { return histories(ctx, r.Destination, names) })
	if err != nil {
		return nil, err
	}
	all := Shards(states)
	found := make(map[ShardRef]shardEvidence, len(all))
	byName := stateByName(states)
	var moved []ShardRef
	for _, ref := range all {
		s, from, to := byName[ref.Index], here[ref.Index], there[ref.Index]
		v := s.Shards[ref.Shard].Verified
		if v == nil || from.UUID != s.SourceUUID || to.UUID != s.DestinationUUID || ref.Shard >= len(from.Shards) || ref.Shard >= len(to.Shards) ||
			!v.holds(from.Shards[ref.Shard], to.Shards[ref.Shard]) {
			moved = append(moved, ref)
			continue
		}
		found[ref] = shardEvidence{Evidence: Evidence{Shards: 1, Unmoved: 1, SharedSource: v.Shared, SharedDestination: v.Shared, SharedBuckets: v.Buckets,
			ReplayedSource: v.Replayed, ReplayedDestination: v.Replayed, Hashed: v.Hashed}}
	}
	lanes := r.readingLanes()
	var writing sync.Mutex
	err = eachShard(ctx, lanes, moved, func(ctx context.Context, _ int, ref ShardRef) error {
		s := byName[ref.Index]
		perShard := int64(0)
		if limit > 0 {
			perShard = max(1, limit/int64(len(s.Shards)))
		}
		e, err := r.verify(ctx, ref, s.Shards[ref.Shard], perShard, budget{end: b.end, lanes: lanes}, false)
		writing.Lock()
		defer writing.Unlock()
		found[ref] = e
		return err
	})
	if err == nil && ctx.Err() != nil {
		err = fmt.Errorf("verify replayed indices: %w", context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	out := make([]Evidence, 0, len(states))
	for _, s := range states {
		e := shardEvidence{Evidence: Evidence{Index: s.Index}}
		for k := range s.Shards {
			e.merge(found[ShardRef{s.Index, k}])
		}
		e.SourceSum, e.DestinationSum = e.source.String(), e.destination.String()
		e.OK = e.Reason == ""
		out = append(out, e.Evidence)
	}
	return out, nil
}

// shardEvidence is a shard's part of an Evidence.
type shardEvidence struct {
	Evidence
	source, destination sum
}

func (e *shardEvidence) merge(s shardEvidence) {
	e.Reason = cmp.Or(e.Reason, s.Reason)
	e.Shards += s.Shards
	e.Unmoved += s.Unmoved
	e.SharedSource += s.SharedSource
	e.SharedDestination += s.SharedDestination
	e.SharedBuckets += s.SharedBuckets
	e.DifferentBuckets += s.DifferentBuckets
	e.ReplayedSource += s.ReplayedSource
	e.ReplayedDestination += s.ReplayedDestination
	e.Hashed += s.Hashed
	e.Different += s.Different
	e.DifferentIDs = quote(e.DifferentIDs, s.DifferentIDs...)
	e.source.plus(s.source)
	e.destination.plus(s.destination)
}

// passSamples is how many documents of an index a pass compares by hash, as Verify is asked to.
const passSamples = 200

// verify compares one shard. cheap is for a shard that is likely different, because its source is written to: then the counts above the base
// alone tell. Otherwise all is asked for at the same time. Throttling is waited for without regard to the deadline, which bounds the
// hashing alone.
func (r *Replayer) verify(ctx context.Context, ref ShardRef, shard ShardState, limit int64, b budget, cheap bool) (shardEvidence, error) {
	e := shardEvidence{Evidence: Evidence{Shards: 1}}
	if cheap {
		above := []cluster.SeqRange{{From: shard.Base, Upto: unbounded}}
		here, there, err := r.counts(ctx, ref, above, above, budget{lanes: b.lanes})
		if err != nil {
			return e, err
		}
		if e.ReplayedSource, e.ReplayedDestination = here[0], there[0]; here[0] != there[0] {
			e.Reason = e.unequal(ref)
			return e, nil
		}
	}
	var replayed shardEvidence
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.verifyCounts(groupCtx, ref, shard, &e.Evidence, b.lanes) })
	group.Go(func() error { return r.verifyReplayed(groupCtx, ref, shard, limit, b, &replayed) })
	if err := group.Wait(); err != nil {
		return e, err
	}
	if e.ReplayedSource != e.ReplayedDestination && e.Reason == "" {
		e.Reason = e.unequal(ref)
	}
	e.merge(replayed)
	if e.Different > 0 && e.Reason == "" {
		e.Reason = fmt.Sprintf("%d documents of shard %d are missing or different at the destination, %q for one", e.Different, ref.Shard, e.DifferentIDs[0])
	}
	return e, nil
}

// verifyBuckets bounds the ranges of a shard that are compared: that the counts are equal in all has to be shown, not where
// they differ, and each of them costs time inside the freeze.
const verifyBuckets = 512

// unbounded is above every sequence number; doubles, which aggregations reckon in, hold it exactly.
const unbounded = int64(1) << 52

func (e Evidence) unequal(ref ShardRef) string {
	return fmt.Sprintf("shard %d has %d documents above its base at the source and %d at the destination", ref.Shard, e.ReplayedSource, e.ReplayedDestination)
}

// verifyCounts counts both sides' documents, in the shared region by ranges.
func (r *Replayer) verifyCounts(ctx context.Context, ref ShardRef, shard ShardState, e *Evidence, l *lanes) error {
	base, width := shard.Base, int64(1)
	for max(base, shard.Position, shard.Highest)/width >= verifyBuckets {
		width *= 2
	}
	type census struct {
		upto  map[int64]int64
		above int64
	}
	ask := func(domain Domain) func() (census, error) {
		return func() (census, error) {
			return patiently(ctx, budget{lanes: l}, nil, func() (c census, err error) {
				c.upto, c.above, err = domain.ShardCensus(ctx, ref.Index, ref.Shard, base, width)
				return c, err
			})
		}
	}
	here, there, err := both(ask(r.Source), ask(r.Destination))
	if err != nil {
		return err
	}
	e.ReplayedSource, e.ReplayedDestination = here.above, there.above
	for _, start := range slices.Sorted(maps.Keys(union(here.upto, there.upto))) {
		e.SharedSource += here.upto[start]
		e.SharedDestination += there.upto[start]
		e.SharedBuckets++
		if here.upto[start] != there.upto[start] {
			e.DifferentBuckets++
			if e.Reason == "" {
				e.Reason = fmt.Sprintf("shard %d has %d documents with sequence numbers %d to %d at the source and %d at the destination", ref.Shard,
					here.upto[start], max(0, start), start+width-1, there.upto[start])
			}
		}
	}
	return nil
}

// verifyReplayed compares the documents above the base, the latest changes first, with what the destination gives for their keys.
func (r *Replayer) verifyReplayed(ctx context.Context, ref ShardRef, shard ShardState, limit int64, b budget, e *shardEvidence) error {
	if len(shard.Blocks) == 0 {
		return nil
	}
	// A number is at most one document: of the latest numbers as many as documents are wanted, and more of older ones where too many were
	// superseded since.
	width := limit
	if limit <= 0 {
		width = maxPage
	}
	upto := unbounded
	for from := max(shard.Base, shard.Position-width); ; {
		if err := r.verifyRange(ctx, ref, cluster.SeqRange{From: from, Upto: upto}, limit, b, e); err != nil {
			return err
		}
		if from <= shard.Base || b.over() || limit > 0 && e.Hashed >= limit {
			return nil
		}
		width *= 4
		from, upto = max(shard.Base, from-width), from
	}
}

// verifyRange compares the documents of a range, at most so many that limit are compared in all.
func (r *Replayer) verifyRange(ctx context.Context, ref ShardRef, part cluster.SeqRange, limit int64, b budget, e *shardEvidence) error {
	size := firstPage
	for part.From < part.Upto {
		if b.over() || limit > 0 && e.Hashed >= limit {
			return nil
		}
		if limit > 0 {
			size = int(min(int64(size), limit-e.Hashed))
		}
		page, err := patiently(ctx, budget{lanes: b.lanes}, nil, func() (cluster.ShardPage, error) {
			return r.Source.ShardDocuments(ctx, ref.Index, ref.Shard, []cluster.SeqRange{part}, size, true)
		})
		if err != nil || len(page.Documents) == 0 {
			return err
		}
		keys := make([]cluster.DocumentKey, len(page.Documents))
		for i, d := range page.Documents {
			keys[i] = d.DocumentKey
		}
		got, err := patiently(ctx, budget{lanes: b.lanes}, nil, func() ([]cluster.ShardDocument, error) {
			return r.Destination.LatestDocuments(ctx, ref.Index, keys, true)
		})
		if err != nil {
			return err
		}
		for i, d := range page.Documents {
			x, err := digest(d)
			if err != nil {
				return err
			}
			e.source.add(x)
			e.Hashed++
			same := false
			if got[i].Found {
				y, err := digest(got[i])
				if err != nil {
					return err
				}
				e.destination.add(y)
				same = x == y
			}
			if !same {
				e.Different++
				e.DifferentIDs = quote(e.DifferentIDs, d.ID)
			}
		}
		if !page.More {
			return nil
		}
		part.From = page.Documents[len(page.Documents)-1].SeqNo
		size = int(min(maxPage, max(1, r.pageBytes()*int64(len(page.Documents))/max(1, page.Bytes))))
	}
	return nil
}

// digest is of everything that must be the same on both sides. The engines give a source back as it was sent, but for line breaks,
// which do not travel in a bulk body.
func digest(d cluster.ShardDocument) ([sha256.Size]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%q %q %d ", d.ID, d.Routing, d.Version)
	if len(d.Source) > 0 {
		if err := json.Compact(&b, d.Source); err != nil {
			return [sha256.Size]byte{}, fmt.Errorf("source of document %q: %w", d.ID, err)
		}
	}
	return sha256.Sum256(b.Bytes()), nil
}

// sum adds up digests to 128 bits, so that their order does not matter.
type sum struct{ high, low uint64 }

func (s *sum) add(d [sha256.Size]byte) {
	var carry uint64
	s.low, carry = bits.Add64(s.low, binary.BigEndian.Uint64(d[8:16]), 0)
	s.high, _ = bits.Add64(s.high, binary.BigEndian.Uint64(d[:8]), carry)
}

func (s *sum) plus(o sum) {
	var carry uint64
	s.low, carry = bits.Add64(s.low, o.low, 0)
	s.high, _ = bits.Add64(s.high, o.high, carry)
}

func (s *sum) String() string { return fmt.Sprintf("%016x%016x", s.high, s.low) }
