package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
)

// ShardBlock is a block of one shard, as a slice reports it.
type ShardBlock struct {
	Index string `json:"index"`
	Shard int    `json:"shard"`
	Block
	Written int64 `json:"written"` // operations
}

// SliceResult is what one call of Slice did.
type SliceResult struct {
	Rest []Range `json:"rest,omitempty"` // what is left: the next call's Slice.Parts
	Done bool    `json:"done"`           // nothing is left

	Documents int64 `json:"documents"` // written
	Bytes     int64 `json:"bytes"`     // of their sources
	// Superseded documents were not written: the destination holds a version that is as new, or the source has a newer one (a later
	// pass brings it) or none any more.
	Superseded int64 `json:"superseded"`
	// Replaced documents began again at a lower version at the source, so that the destination's old one was deleted first.
	Replaced  int64   `json:"replaced"`
	Throttled int64   `json:"throttled"` // requests and operations that were answered 429 and repeated
	Requests  int64   `json:"requests"`  // bulk requests
	Seconds   float64 `json:"seconds"`

	Blocks []ShardBlock `json:"blocks,omitempty"` // at most 64 and one for each part
	Drops  []Drop       `json:"drops,omitempty"`  // indices whose documents the destination refuses; their ranges are given up
}

// Plus is what two attempts at the same work did, the second one having gone on with the rest of the first.
func (r SliceResult) Plus(next SliceResult) SliceResult {
	next.Documents += r.Documents
	next.Bytes += r.Bytes
	next.Superseded += r.Superseded
	next.Replaced += r.Replaced
	next.Throttled += r.Throttled
	next.Requests += r.Requests
	next.Seconds += r.Seconds
	next.Blocks = slices.Concat(r.Blocks, next.Blocks)
	for _, d := range r.Drops {
		if i := slices.IndexFunc(next.Drops, func(x Drop) bool { return x.Index == d.Index }); i >= 0 {
			d.Count, d.IDs = d.Count+next.Drops[i].Count, quote(d.IDs, next.Drops[i].IDs...)
			next.Drops[i] = d
		} else {
			next.Drops = append(next.Drops, d)
		}
	}
	return next
}

const (
	maxResultBlocks = 64
	// endlessSlice is the time after which a slice that moved nothing is called stuck.
	endlessSlice = 3 * time.Minute
)

// Slice reads the slice's ranges at the source and writes them to the destination. It begins no new work shortly before the
// deadline and returns before it with what is left; a zero deadline means none. A range that was done is done for good, and doing it again
// does no harm.
//
// Faults: Throttled and Unavailable (after some tries; retryable), RequestRefused (a block at the destination, or its deletions are
// remembered too long: see Settings), and those of the domains. The result is filled in also beside an error.
func (r *Replayer) Slice(ctx context.Context, s Slice, deadline time.Time) (SliceResult, error) {
	started := time.Now()
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &sliceWork{Replayer: r, budget: newBudget(deadline), dropped: map[string]*Drop{}, rest: make([]Range, len(s.Parts))}
	if !deadline.IsZero() {
		var cut context.CancelFunc
		work, cut = context.WithDeadline(work, deadline)
		defer cut()
	}
	copy(w.rest, s.Parts)

	next := make(chan int, len(s.Parts))
	for i := range s.Parts {
		next <- i
	}
	close(next)
	var workers sync.WaitGroup
	var once sync.Once
	var failure error
	for range min(r.concurrency(), len(s.Parts)) {
		workers.Go(func() {
			for i := range next {
				err := w.part(work, i)
				if err != nil && !errors.Is(err, errCut) && !errors.Is(work.Err(), context.DeadlineExceeded) {
					once.Do(func() { failure = err })
					cancel()
				}
				if err != nil {
					return
				}
			}
		})
	}
	workers.Wait()

	w.result.Blocks = shorten(w.result.Blocks, maxResultBlocks+len(s.Parts))
	for _, rest := range w.rest {
		if rest.From < rest.Upto && w.dropped[rest.Index] == nil {
			w.result.Rest = append(w.result.Rest, rest)
		}
	}
	for _, d := range w.dropped {
		w.result.Drops = append(w.result.Drops, *d)
	}
	slices.SortFunc(w.result.Drops, func(a, b Drop) int { return cmp.Compare(a.Index, b.Index) })
	w.result.Done = len(w.result.Rest) == 0
	w.result.Seconds = time.Since(started).Seconds()
	if ctx.Err() != nil {
		return w.result, fmt.Errorf("replay a slice: %w", context.Cause(ctx))
	}
	// Cut by its own deadline: not a failure, but it must not go on for ever.
	if failure == nil && !w.result.Done && len(w.result.Blocks) == 0 && time.Since(started) >= endlessSlice {
		failure = fault.Newf(fault.Unavailable, "replay a slice", fmt.Sprintf("shard %d of %s", w.result.Rest[0].Shard, w.result.Rest[0].Index),
			"not one page of documents was moved in %s (%d answers were 429)", time.Since(started).Round(time.Second), w.result.Throttled).
			WithHint("The destination refuses work or is overloaded: look at its write queue (GET _cat/thread_pool/write) and its health, then redrive.")
	}
	return w.result, failure
}

// sliceWork is one call of Slice.
type sliceWork struct {
	*Replayer
	budget budget

	mu      sync.Mutex
	result  SliceResult
	rest    []Range
	dropped map[string]*Drop
}

func (w *sliceWork) isDropped(index string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped[index] != nil
}

func (w *sliceWork) drop(index, reason string, ids ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.dropped[index]
	if d == nil {
		d = &Drop{Index: index, Reason: reason}
		w.dropped[index] = d
	}
	d.Count += int64(len(ids))
	d.IDs = quote(d.IDs, ids...)
}

// part replays one range. The next page is read while one is written.
func (w *sliceWork) part(ctx context.Context, i int) error {
	w.mu.Lock()
	part := w.rest[i]
	w.mu.Unlock()
	type read struct {
		page cluster.ShardPage
		err  error
	}
	fetch := func(from int64, size int) <-chan read {
		c := make(chan read, 1)
		go func() {
			page, err := patiently(ctx, w.budget, nil, func() (cluster.ShardPage, error) {
				return w.Source.ShardDocuments(ctx, part.Index, part.Shard, []cluster.SeqRange{{From: from, Upto: part.Upto}}, size, true)
			})
			c <- read{page, err}
		}()
		return c
	}
	// Of a small part small pages: blocks that differ later are read whole.
	most := maxPage
	if part.Upto-part.From <= maxPage {
		most = smallPage
	}
	size := min(firstPage, most)
	pending := fetch(part.From, size)
	// Whoever leaves must not leave a reader behind.
	defer func() {
		if pending != nil {
			<-pending
		}
	}()
	for part.From < part.Upto {
		if w.budget.over() {
			return errCut
		}
		if w.isDropped(part.Index) {
			return nil
		}
		got := <-pending
		pending = nil
		if got.err != nil {
			return got.err
		}
		done := part.Upto
		if n := len(got.page.Documents); got.page.More && n > 0 {
			done = got.page.Documents[n-1].SeqNo
			size = int(min(int64(most), max(1, w.pageBytes()*int64(n)/max(1, got.page.Bytes))))
			if done < part.Upto {
				pending = fetch(done, size)
			}
		}
		block, reached, err := w.write(ctx, part.Index, part.Shard, got.page.Documents)
		if err != nil {
			done = max(part.From, reached)
		}
		if done > part.From {
			block.From, block.Upto = part.From, done
			part.From = done
			w.mu.Lock()
			w.rest[i] = part
			w.result.Blocks = append(w.result.Blocks, block)
			w.mu.Unlock()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// write writes one page, body after body. When it is cut, reached is the sequence number up to which all is written; -1 when nothing is.
func (w *sliceWork) write(ctx context.Context, index string, shard int, documents []cluster.ShardDocument) (block ShardBlock, reached int64, err error) {
	block, reached = ShardBlock{Index: index, Shard: shard}, -1
	limit := w.bulkBytes()
	var body []cluster.Write
	bytes := 0
	for i, d := range documents {
		if len(d.Source) == 0 {
			w.drop(index, "documents have no _source at the source", d.ID)
			continue
		}
		op := cluster.Write{DocumentKey: d.DocumentKey, Type: d.Type, Source: d.Source, Version: d.Version}
		if len(body) > 0 && bytes+op.Size() > limit {
			if err := w.bulk(ctx, index, body, &block); err != nil {
				return block, reached, err
			}
			body, bytes, reached = nil, 0, documents[i-1].SeqNo
			if w.budget.over() {
				return block, reached, errCut
			}
		}
		body = append(body, op)
		bytes += op.Size()
	}
	if len(body) > 0 {
		err = w.bulk(ctx, index, body, &block)
	}
	return block, reached, err
}

// saw notes a sequence number that an operation took at the destination.
func (b *ShardBlock) saw(seqNo int64) {
	b.Written++
	if seqNo < 0 {
		return
	}
	if b.DestinationUpto == b.DestinationFrom {
		b.DestinationFrom, b.DestinationUpto = seqNo-1, seqNo
		return
	}
	b.DestinationFrom, b.DestinationUpto = min(b.DestinationFrom, seqNo-1), max(b.DestinationUpto, seqNo)
}

// bulk writes one body and repeats what was throttled.
func (w *sliceWork) bulk(ctx context.Context, index string, body []cluster.Write, block *ShardBlock) error {
	const tries = 6 // of a shard that is not available
	unavailable := 0
	for n := 0; len(body) > 0; n++ {
		var throttled int64
		results, err := patiently(ctx, w.budget, &throttled, func() ([]cluster.WriteResult, error) {
			return w.Destination.BulkWrite(ctx, index, body)
		})
		w.mu.Lock()
		w.result.Requests++
		w.result.Throttled += throttled
		w.mu.Unlock()
		if f, ok := fault.As(err); ok && f.Status == http.StatusRequestEntityTooLarge {
			if len(body) == 1 {
				w.drop(index, fmt.Sprintf("a document of %d bytes is larger than the destination's limit for a request", len(body[0].Source)), body[0].ID)
				return nil
			}
			if err := w.bulk(ctx, index, body[:len(body)/2], block); err != nil {
				return err
			}
			body = body[len(body)/2:]
			continue
		}
		if err != nil {
			return err
		}
		var again, conflicts []cluster.Write
		var documents, bytes int64
		throttled = 0
		for i, result := range results {
			op := body[i]
			switch {
			case result.Status < 300:
				documents++
				bytes += int64(len(op.Source))
				block.saw(result.SeqNo)
			case result.Status == http.StatusConflict:
				conflicts = append(conflicts, op)
			case result.Status == http.StatusTooManyRequests && result.Type != "cluster_block_exception":
				throttled++
				again = append(again, op)
			case result.Status == http.StatusBadRequest:
				w.drop(index, "the destination refuses documents: "+result.Reason, op.ID)
			case result.Status >= 500 && unavailable < tries:
				again = append(again, op)
			default:
				return refusedWrite(index, op, result)
			}
		}
		w.mu.Lock()
		w.result.Documents += documents
		w.result.Bytes += bytes
		w.result.Throttled += throttled
		w.mu.Unlock()
		if len(conflicts) > 0 {
			if err := w.settle(ctx, index, conflicts, block); err != nil {
				return err
			}
		}
		if len(again) > int(throttled) {
			unavailable++
		}
		body = again
		if len(body) > 0 {
			if err := w.budget.pause(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func refusedWrite(index string, op cluster.Write, result cluster.WriteResult) error {
	name, hint, known := cluster.Diagnose(result.Type + ": " + result.Reason)
	switch {
	case known && name != fault.Unclassified:
	case result.Status == http.StatusForbidden || result.Status == http.StatusUnauthorized:
		name = fault.AccessDenied
	case result.Status >= 500:
		name = fault.Unavailable
	default:
		name = fault.RequestRefused
	}
	f := fault.Newf(name, fmt.Sprintf("write document %q", op.ID), "index "+index, "%s", result.Reason)
	f.Status, f.Hint = result.Status, hint
	return f
}

// settle decides what a version conflict means. The destination has a higher version than the one that was read. Either the source
// has a newer one too by now, or none: fine, that is the business of the next pass or of the deletions. Or the document was deleted at
// the source and written anew, and its versions began again (the engines forget a deletion after index.gc_deletes, 60 s): then
// the destination's document is deleted, and the new one is written as soon as that deletion is forgotten.
func (w *sliceWork) settle(ctx context.Context, index string, conflicts []cluster.Write, block *ShardBlock) error {
	const tries = 8
	for n := 0; ; n++ {
		keys := make([]cluster.DocumentKey, len(conflicts))
		for i, op := range conflicts {
			keys[i] = op.DocumentKey
		}
		here, err := look(ctx, w.budget, w.Source, index, keys)
		if err != nil {
			return err
		}
		there, err := look(ctx, w.budget, w.Destination, index, keys)
		if err != nil {
			return err
		}
		var deletes, open []cluster.Write
		for i, op := range conflicts {
			switch {
			case !here[i].Found, there[i].Found && here[i].Version >= there[i].Version, here[i].Version > op.Version && !there[i].Found:
				w.mu.Lock()
				w.result.Superseded++
				w.mu.Unlock()
				continue
			case there[i].Found:
				deletes = append(deletes, cluster.Write{DocumentKey: there[i].DocumentKey, Type: op.Type, SeqNo: there[i].SeqNo, PrimaryTerm: there[i].PrimaryTerm})
			}
			open = append(open, op)
		}
		if len(open) == 0 {
			return nil
		}
		if n >= tries {
			return fault.Newf(fault.RequestRefused, "replace documents whose versions began again", "index "+index,
				"%d documents, %q for one, are refused as older than their own deletion", len(open), open[0].ID).
				WithHint("Set index.gc_deletes to 0s on the destination's copy, or wait a minute, then redrive.")
		}
		if len(deletes) > 0 {
			results, err := patiently(ctx, w.budget, nil, func() ([]cluster.WriteResult, error) { return w.Destination.BulkWrite(ctx, index, deletes) })
			if err != nil {
				return err
			}
			for _, result := range results {
				if result.SeqNo >= 0 {
					block.saw(result.SeqNo)
				}
			}
		}
		results, err := patiently(ctx, w.budget, nil, func() ([]cluster.WriteResult, error) { return w.Destination.BulkWrite(ctx, index, open) })
		if err != nil {
			return err
		}
		conflicts = nil
		for i, result := range results {
			switch {
			case result.Status < 300:
				block.saw(result.SeqNo)
				w.mu.Lock()
				w.result.Documents++
				w.result.Replaced++
				w.result.Bytes += int64(len(open[i].Source))
				w.mu.Unlock()
			case result.Status == http.StatusConflict || result.Status == http.StatusTooManyRequests || result.Status >= 500:
				conflicts = append(conflicts, open[i])
			case result.Status == http.StatusBadRequest:
				w.drop(index, "the destination refuses documents: "+result.Reason, open[i].ID)
			default:
				return refusedWrite(index, open[i], result)
			}
		}
		if len(conflicts) == 0 {
			return nil
		}
		// Nodes look at the age of a deletion by a clock that they read every 200 ms.
		if err := w.budget.pause(ctx, min(n, 2)); err != nil {
			return err
		}
	}
}

func look(ctx context.Context, b budget, domain Shard, index string, keys []cluster.DocumentKey) ([]cluster.ShardDocument, error) {
	return patiently(ctx, b, nil, func() ([]cluster.ShardDocument, error) { return domain.LatestDocuments(ctx, index, keys, false) })
}

// shorten merges neighbouring blocks of a shard until at most that many are left.
func shorten(blocks []ShardBlock, most int) []ShardBlock {
	slices.SortFunc(blocks, func(a, b ShardBlock) int {
		switch {
		case a.Index != b.Index:
			return cmp.Compare(a.Index, b.Index)
		case a.Shard != b.Shard:
			return a.Shard - b.Shard
		case a.From != b.From:
			return cmp.Compare(a.From, b.From)
		}
		return cmp.Compare(a.Upto, b.Upto)
	})
	for len(blocks) > most {
		var out []ShardBlock
		for i := 0; i < len(blocks); i++ {
			b := blocks[i]
			if i+1 < len(blocks) && blocks[i+1].Index == b.Index && blocks[i+1].Shard == b.Shard {
				i++
				b = b.with(blocks[i])
			}
			out = append(out, b)
		}
		if len(out) == len(blocks) {
			break
		}
		blocks = out
	}
	return blocks
}

// with merges two neighbours; one that wrote nothing has no place at the destination.
func (b ShardBlock) with(next ShardBlock) ShardBlock {
	b.Upto = max(b.Upto, next.Upto)
	b.Written += next.Written
	switch {
	case next.DestinationUpto == next.DestinationFrom:
	case b.DestinationUpto == b.DestinationFrom:
		b.DestinationFrom, b.DestinationUpto = next.DestinationFrom, next.DestinationUpto
	default:
		b.DestinationFrom, b.DestinationUpto = min(b.DestinationFrom, next.DestinationFrom), max(b.DestinationUpto, next.DestinationUpto)
	}
	return b
}
