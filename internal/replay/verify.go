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
	"time"

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

// Verify compares replayed indices after the last pass and its deletions, while no writes arrive at either side: counts and the
// histogram of sequence numbers in the shared region, counts and up to limit documents for each index (0: all; the limit is
// divided among its shards) in the replayed one. It stops hashing at the
// deadline, a zero one means none. The error is of reading; differences are in the evidence.
func (r *Replayer) Verify(ctx context.Context, states []State, limit int64, deadline time.Time) ([]Evidence, error) {
	if len(states) == 0 {
		return nil, nil
	}
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.Index
	}
	if err := r.refreshBoth(ctx, budget{}, names); err != nil {
		return nil, err
	}
	b := newBudget(deadline)
	all := Shards(states)
	found := make([]shardEvidence, len(all))
	byName := map[string]ShardState{}
	perShard := map[string]int64{}
	for _, s := range states {
		for k, shard := range s.Shards {
			byName[fmt.Sprint(s.Index, "/", k)] = shard
		}
		if limit > 0 {
			perShard[s.Index] = max(1, limit/int64(max(1, len(s.Shards))))
		}
	}
	err := eachShard(ctx, r.concurrency(), all, func(ctx context.Context, i int, ref ShardRef) (err error) {
		found[i], err = r.verify(ctx, ref, byName[fmt.Sprint(ref.Index, "/", ref.Shard)], perShard[ref.Index], b)
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
		for i, ref := range all {
			if ref.Index == s.Index {
				e.merge(found[i])
			}
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

func (r *Replayer) verify(ctx context.Context, ref ShardRef, shard ShardState, limit int64, b budget) (shardEvidence, error) {
	var e shardEvidence
	if err := r.verifyShared(ctx, ref, shard.Base, &e.Evidence); err != nil {
		return e, err
	}
	above := []cluster.SeqRange{{From: shard.Base, Upto: unbounded}}
	here, there, err := r.counts(ctx, ref, above, above, budget{})
	if err != nil {
		return e, err
	}
	e.ReplayedSource, e.ReplayedDestination = here[0], there[0]
	if here[0] != there[0] && e.Reason == "" {
		e.Reason = fmt.Sprintf("shard %d has %d documents above its base at the source and %d at the destination", ref.Shard, here[0], there[0])
	}
	if err := r.verifyReplayed(ctx, ref, shard, limit, b, &e); err != nil {
		return e, err
	}
	if e.Different > 0 && e.Reason == "" {
		e.Reason = fmt.Sprintf("%d documents of shard %d are missing or different at the destination, %q for one", e.Different, ref.Shard, e.DifferentIDs[0])
	}
	return e, nil
}

// verifyBuckets bounds the ranges of the shared region that are compared: that the counts are equal in all has to be shown, not where
// they differ, and each of them costs time inside the freeze.
const verifyBuckets = 512

// unbounded is above every sequence number; doubles, which aggregations reckon in, hold it exactly.
const unbounded = int64(1) << 52

func (r *Replayer) verifyShared(ctx context.Context, ref ShardRef, base int64, e *Evidence) error {
	if base < 0 {
		return nil
	}
	width := int64(1)
	for base/width >= verifyBuckets {
		width *= 2
	}
	here, there, err := r.histograms(ctx, ref, []cluster.SeqRange{{From: -1, Upto: base}}, width, budget{})
	if err != nil {
		return err
	}
	for _, start := range slices.Sorted(maps.Keys(union(here, there))) {
		e.SharedSource += here[start]
		e.SharedDestination += there[start]
		e.SharedBuckets++
		if here[start] != there[start] {
			e.DifferentBuckets++
			if e.Reason == "" {
				e.Reason = fmt.Sprintf("shard %d has %d documents with sequence numbers %d to %d at the source and %d at the destination", ref.Shard,
					here[start], start, min(start+width-1, base), there[start])
			}
		}
	}
	return nil
}

// verifyReplayed compares the documents above the base, the latest blocks first, with what the destination gives for their keys.
func (r *Replayer) verifyReplayed(ctx context.Context, ref ShardRef, shard ShardState, limit int64, b budget, e *shardEvidence) error {
	blocks := slices.Clone(shard.Blocks)
	if len(blocks) == 0 {
		return nil
	}
	blocks[len(blocks)-1].Upto = unbounded
	size := firstPage
	for _, block := range slices.Backward(blocks) {
		for from := block.From; from < block.Upto; {
			if b.over() || limit > 0 && e.Hashed >= limit {
				return nil
			}
			page, err := patiently(ctx, budget{}, nil, func() (cluster.ShardPage, error) {
				return r.Source.ShardDocuments(ctx, ref.Index, ref.Shard, []cluster.SeqRange{{From: from, Upto: block.Upto}}, size, true)
			})
			if err != nil {
				return err
			}
			keys := make([]cluster.DocumentKey, len(page.Documents))
			for i, d := range page.Documents {
				keys[i] = d.DocumentKey
			}
			got, err := patiently(ctx, budget{}, nil, func() ([]cluster.ShardDocument, error) {
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
				break
			}
			from = page.Documents[len(page.Documents)-1].SeqNo
			size = int(min(maxPage, max(1, r.pageBytes()*int64(len(page.Documents))/max(1, page.Bytes))))
		}
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
