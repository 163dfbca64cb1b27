// Package replay brings the destination's copy of an index up to date with single documents: those that changed at the source since
// the base snapshot, found shard by shard by their sequence numbers, and those that were deleted. It serves indices whose documents
// are updated in place, where a warm restore fetches every segment again.
//
// It rests on two facts: a restored shard holds the source's documents under the source's sequence numbers, and every change at the
// source takes a higher one. So with the source's global checkpoint G0 that was recorded before the base snapshot
//
//   - what changed since is at the source above G0: a pass reads (from, upto] of each shard and writes it to the destination with
//     the same id, routing and version, where it gets a new sequence number above G0;
//   - at and below G0, the shared region, both sides number alike, so that a difference in counts over ranges shows the deletions;
//   - above G0, the replayed region, blocks remember which source range went to which destination range: what was deleted later
//     shows as a block that holds more at the destination.
//
// The caller reads the global checkpoints before it starts the base snapshot (NewState). When the copy is restored and open the order of
// calls is Plan, Slice for each of the pass's slices until nothing is left, Advance, ReconcileDeletes, and again. The last pass runs while
// the source is frozen (PlanOptions.Frozen) and is followed by Verify. Every call may be killed anywhere and made again.
//
// # What is not looked at again
//
// Whatever is done to a document, at either side, takes the shard's next sequence number: a write, an update, and a deletion as well. So
// when neither side of a shard has a higher number than when the two were compared, the same comparison would see the same documents and
// come to the same answer. A Mark is such a pair of numbers. Plan leaves shards whose Mark still holds out of Pass.Moved, the shards that
// deletions are looked for in, and Verify takes what was found then for what would be found now. A mark holds less than what was true,
// never more: it has the source's global checkpoint from before the comparison's refresh, and of the copy the number that was read before
// it, with the deletions that were answered since. Whatever came in between, or wrote without our knowing (a call that was killed, a lost
// answer, somebody else), leaves a higher number than the mark, and the shard is looked at again.
//
// # What the caller does at the destination
//
// Before the first pass it sets Settings(...).During on the copy: our restored copies carry index.blocks.write, which would refuse our own
// writes too, and a final_pipeline would change documents. index.gc_deletes is 0 because an id that was deleted and written anew at the
// source can begin again at version 1, which the destination refuses while it remembers the deletion. While the block is off others could
// write to the copy as well. That is detected, not prevented: a foreign write in the shared region shows as a document that only the
// source has (DeleteResult.Missing), one in the replayed region in Verify, and Advance compares the destination's sequence numbers with
// what replay itself wrote (ShardState.Unaccounted). An index with such a finding goes back to rounds. After the last pass the caller puts
// Settings(...).After back. After the first replayed write an index cannot be warmed by segments any more.
package replay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
)

// Domain is what replay reads of the source and of the destination. *cluster.Client is one.
type Domain interface {
	Refresh(ctx context.Context, indices ...string) error
	ShardHistories(ctx context.Context, indices ...string) (map[string]cluster.IndexHistory, error)
	Shard
}

// Shard is the reading of one shard's documents.
type Shard interface {
	ShardDocuments(ctx context.Context, index string, shard int, ranges []cluster.SeqRange, limit int, source bool) (cluster.ShardPage, error)
	ShardCounts(ctx context.Context, index string, shard int, ranges []cluster.SeqRange) ([]int64, error)
	ShardHistogram(ctx context.Context, index string, shard int, ranges []cluster.SeqRange, width int64) (map[int64]int64, error)
	ShardCensus(ctx context.Context, index string, shard int, base, width int64) (upto map[int64]int64, above int64, err error)
	LatestDocuments(ctx context.Context, index string, keys []cluster.DocumentKey, source bool) ([]cluster.ShardDocument, error)
}

// Destination is a Domain that is written to.
type Destination interface {
	Domain
	BulkWrite(ctx context.Context, index string, writes []cluster.Write) ([]cluster.WriteResult, error)
}

var _ Destination = (*cluster.Client)(nil)

// Replayer replays from one domain to another. It has no state; its methods may run side by side, except that a pass must be over
// before its Advance, and ReconcileDeletes before the next pass.
type Replayer struct {
	Source      Domain
	Destination Destination

	// Concurrency is the number of shards that one call works on at a time. 0 means 4 for Slice; for ReconcileDeletes and Verify, whose
	// requests are short, it means 8 at first, more (up to 32) as long as the domains answer, and half as many when one answers 429.
	Concurrency int
	// BulkBytes bounds the body of a bulk request; 0 means 8 MB, below the 10 MiB that small Amazon instance types take. A document
	// that alone is larger is tried all the same.
	BulkBytes int
	// PageBytes is the size that a page read from the source should have; 0 means 4 MB.
	PageBytes int
}

const (
	defaultConcurrency = 4
	defaultBulkBytes   = 8_000_000
	defaultPageBytes   = 4_000_000

	firstPage             = 500   // documents, before anything is known of their size
	maxPage               = 2_000 // documents: a page is a block of the replayed region, and small blocks make late deletions cheap to find
	smallPage             = 250
	idPage                = 5_000            // documents when only ids are read
	maxIDs                = 20               // ids that a result quotes
	maxBlocks             = 1_024            // of a shard in a State
	longest               = 30 * time.Second // the reserve before a deadline, at most a quarter of the time
	firstLanes, mostLanes = 8, 32            // shards that are compared at a time
)

func (r *Replayer) concurrency() int {
	if r.Concurrency <= 0 {
		return defaultConcurrency
	}
	return r.Concurrency
}

func (r *Replayer) bulkBytes() int {
	if r.BulkBytes <= 0 {
		return defaultBulkBytes
	}
	return r.BulkBytes
}

func (r *Replayer) pageBytes() int64 {
	if r.PageBytes <= 0 {
		return defaultPageBytes
	}
	return int64(r.PageBytes)
}

// State is what replay knows of one index between passes. The caller keeps it; it is made by NewState and changed only
// by Plan and Advance. Its JSON takes about 100 bytes a block, at most 1,024 blocks a shard.
type State struct {
	Index           string       `json:"index"`
	SourceUUID      string       `json:"sourceUUID,omitempty"`
	DestinationUUID string       `json:"destinationUUID,omitempty"`
	Shards          []ShardState `json:"shards"`
}

// ShardState is one shard's part of a State. Numbers without a side in their name are the source's.
type ShardState struct {
	Base     int64  `json:"base"`              // G0: the global checkpoint before the base snapshot
	Position int64  `json:"position"`          // replayed up to here
	History  string `json:"history,omitempty"` // history uuid, "" while unknown
	Term     int64  `json:"term,omitempty"`    // primary term, 0 while unknown

	Started         bool  `json:"started,omitempty"` // a pass was planned: the copy is written to
	DestinationFrom int64 `json:"destinationFrom"`   // the copy's max_seq_no before the first pass
	DestinationUpto int64 `json:"destinationUpto"`   // what the blocks cover at the destination
	Written         int64 `json:"written"`           // operations that replay has reported as done
	// Unaccounted is how many more operations the destination counts than replay has reported. When no slice was killed or lost an answer,
	// they are foreign writes.
	Unaccounted int64 `json:"unaccounted,omitempty"`

	// Highest is the copy's max_seq_no when the last pass was taken in, and the deletions since.
	Highest int64 `json:"highest"`
	// Reconciled is where the sides stood when the shard had nothing left to delete; nil when that was never found.
	Reconciled *Mark `json:"reconciled,omitempty"`
	// Verified is where they stood when they were found equal.
	Verified *Verified `json:"verified,omitempty"`

	// Rests says that the shard is to be compared as a whole once nothing is left to delete: the last pass brought nothing of it, or was the
	// one in the freeze and had many.
	Rests bool `json:"rests,omitempty"`

	Blocks []Block `json:"blocks,omitempty"`
}

// Mark is where the two sides of a shard stood when they were compared, by their highest sequence numbers: while they are still there,
// nothing was done to either.
type Mark struct {
	Source      int64 `json:"source"`
	Destination int64 `json:"destination"`
}

func (m *Mark) holds(source, destination cluster.ShardHistory) bool {
	return m != nil && *m == Mark{source.MaxSeqNo, destination.MaxSeqNo}
}

// Verified is what a pass found of a shard that was equal on both sides, as Verify finds it.
type Verified struct {
	Mark
	Shared   int64 `json:"shared"` // documents at and below the base, on either side
	Buckets  int   `json:"buckets"`
	Replayed int64 `json:"replayed"` // documents above it
	Hashed   int64 `json:"hashed"`   // of these
}

// Block says that the source's documents in (From, Upto] went into the destination's (DestinationFrom, DestinationUpto].
type Block struct {
	From            int64 `json:"f"`
	Upto            int64 `json:"u"`
	DestinationFrom int64 `json:"df"`
	DestinationUpto int64 `json:"du"`
}

func (b Block) source() cluster.SeqRange { return cluster.SeqRange{From: b.From, Upto: b.Upto} }
func (b Block) destination() cluster.SeqRange {
	return cluster.SeqRange{From: b.DestinationFrom, Upto: b.DestinationUpto}
}

// Drop says that an index cannot be replayed (any more) and must be brought up to date by rounds, and why.
type Drop struct {
	Index  string   `json:"index"`
	Reason string   `json:"reason"`
	Count  int64    `json:"count,omitempty"` // documents refused, where that is the reason
	IDs    []string `json:"ids,omitempty"`   // up to 20 of them
}

// Settings are index settings for the destination's copy: During while it is replayed into, After to put back. nil removes one.
type SettingsChange struct {
	During map[string]any
	After  map[string]any
}

// MergeOnRefresh is a dynamic index setting of OpenSearch 2.0 and newer, true by default: a refresh waits for merges of small segments, up
// to 10 seconds (index.merge_on_flush.max_full_flush_merge_wait_time). Each pass makes such segments, and the last one refreshes while
// writes are stopped: seen were 0.1 s without and 1.1 s with a merge. Where the domain lets it be, it is false during replay.
const MergeOnRefresh = "index.merge_on_flush.enabled"

// Settings returns what to change at the destination's copy, given its flat settings as they are before the first pass and the
// source's. write is the index.blocks.write that the copy shall have after the replay.
func Settings(copy, source map[string]string) SettingsChange {
	c := SettingsChange{
		During: map[string]any{"index.blocks.write": nil, "index.gc_deletes": "0s"},
		After:  map[string]any{"index.gc_deletes": nil},
	}
	for _, key := range []string{"index.gc_deletes", MergeOnRefresh} {
		if v, ok := source[key]; ok {
			c.After[key] = v
		}
	}
	for _, key := range []string{"index.default_pipeline", "index.final_pipeline"} {
		if v, ok := copy[key]; ok && v != "_none" {
			c.During[key], c.After[key] = nil, v
		}
	}
	if v, ok := copy["index.blocks.write"]; ok {
		c.After["index.blocks.write"] = v
	}
	return c
}

// budget is the time that a call has: no new work begins after it.
type budget struct {
	end   time.Time
	lanes *lanes // to be told when a domain is too busy; nil when there are none
}

func newBudget(deadline time.Time) budget {
	if deadline.IsZero() {
		return budget{}
	}
	left := time.Until(deadline)
	return budget{end: deadline.Add(-max(0, min(longest, left/4)))}
}

func (b budget) over() bool { return !b.end.IsZero() && !time.Now().Before(b.end) }

// errCut ends work that ran out of time; it is no failure.
var errCut = fmt.Errorf("out of time")

// pause waits before attempt n (from 0) of something that was throttled, and says errCut when there is no time for it.
func (b budget) pause(ctx context.Context, n int) error {
	d := min(250*time.Millisecond<<min(n, 6), 8*time.Second)
	d = d/2 + rand.N(d/2+1)
	if !b.end.IsZero() && time.Now().Add(d).After(b.end) {
		return errCut
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// patiently repeats a reading (or an idempotent writing) call: while it is throttled until the time is over, a few times when it
// got no answer.
func patiently[T any](ctx context.Context, b budget, throttled *int64, call func() (T, error)) (T, error) {
	const tries = 4
	lost := 0
	for n := 0; ; n++ {
		v, err := call()
		switch {
		case err == nil || ctx.Err() != nil:
			return v, err
		case fault.Is(err, fault.Throttled):
			b.lanes.slower()
			if throttled != nil {
				*throttled++
			}
			// Without a deadline throttling must still end some time.
			if b.end.IsZero() && n >= 20 {
				return v, err
			}
		case fault.Is(err, fault.Unavailable, fault.OutcomeUnknown) && lost < tries:
			lost++
		default:
			return v, err
		}
		if waited := b.pause(ctx, n); waited != nil {
			if waited == errCut && lost > 0 {
				return v, err
			}
			return v, waited
		}
	}
}

func quote(ids []string, more ...string) []string {
	for _, id := range more {
		if len(ids) >= maxIDs {
			break
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}
