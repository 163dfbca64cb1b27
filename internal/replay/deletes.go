package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
)

// ShardRef names a shard.
type ShardRef struct {
	Index string `json:"index"`
	Shard int    `json:"shard"`
}

// ShardWritten is a number of operations at one shard of the destination.
type ShardWritten struct {
	ShardRef
	Operations int64 `json:"operations"`
}

// DeleteResult is what one call of ReconcileDeletes found and did.
type DeleteResult struct {
	Rest []ShardRef `json:"rest,omitempty"` // not finished
	Done bool       `json:"done"`

	SharedDeleted   int64 `json:"sharedDeleted"`
	ReplayedDeleted int64 `json:"replayedDeleted"`
	// Candidates were missing in the source's last refreshed state; those that were not deleted are there again, or were changed.
	Candidates int64 `json:"candidates"`
	// Missing documents are at the source and not at the destination where both number alike or in a block: somebody else wrote to
	// the destination. The index must go back to rounds.
	Missing   int64    `json:"missing,omitempty"`
	MissingIn []string `json:"missingIn,omitempty"` // up to 20 indices
	Compared  int64    `json:"compared"`            // blocks whose counts were compared
	Listed    int64    `json:"listed"`              // documents whose ids were read
	Throttled int64    `json:"throttled,omitempty"` // requests and operations that were answered 429 and repeated
	Seconds   float64  `json:"seconds"`
	// Settling is what of these is not done in the freeze: work for the passes to come, and waiting longer for the source's refresh than for
	// the destination's, because the freeze has seen to that.
	Settling float64 `json:"settlingSeconds,omitempty"`

	// For AccountDeletes: what was written, the shards that have nothing left to delete, and those that were found equal then.
	Written []ShardWritten  `json:"written,omitempty"`
	Settled []ShardRef      `json:"settled,omitempty"`
	Equal   []ShardVerified `json:"equal,omitempty"`
}

// ShardVerified is what was found of a shard that is equal on both sides.
type ShardVerified struct {
	ShardRef
	Verified
}

// Plus is what two calls did, the second one having gone on with the rest of the first.
func (r DeleteResult) Plus(next DeleteResult) DeleteResult {
	next.SharedDeleted += r.SharedDeleted
	next.ReplayedDeleted += r.ReplayedDeleted
	next.Candidates += r.Candidates
	next.Missing += r.Missing
	next.MissingIn = quote(slices.Clone(r.MissingIn), next.MissingIn...)
	next.Compared += r.Compared
	next.Listed += r.Listed
	next.Throttled += r.Throttled
	next.Seconds += r.Seconds
	next.Settling += r.Settling
	next.Written = slices.Concat(r.Written, next.Written)
	next.Settled = slices.Concat(r.Settled, next.Settled)
	next.Equal = slices.Concat(r.Equal, next.Equal)
	return next
}

// Shards lists all shards of the states, for ReconcileDeletes.
func Shards(states []State) []ShardRef {
	var all []ShardRef
	for _, s := range states {
		for k := range s.Shards {
			all = append(all, ShardRef{s.Index, k})
		}
	}
	return all
}

const (
	partWork      = 128 // shards without changes that are worth a part of their own: some seconds
	partOperation = 1_000
	mostParts     = 200
)

// CutDeletes cuts shards into parts for calls of ReconcileDeletes side by side; one when they are few. What a shard costs follows from the
// operations since it was last reconciled, each of which may be a deletion.
func CutDeletes(states []State, shards []ShardRef) [][]ShardRef {
	byName := stateByName(states)
	cost := func(ref ShardRef) int64 {
		s, ok := byName[ref.Index]
		if !ok || ref.Shard >= len(s.Shards) {
			return 1
		}
		shard := s.Shards[ref.Shard]
		since := shard.Base
		if shard.Reconciled != nil {
			since = shard.Reconciled.Source
		}
		return 1 + max(0, shard.Position-since)/partOperation
	}
	all := int64(0)
	for _, ref := range shards {
		all += cost(ref)
	}
	size := max(partWork, (all+mostParts-1)/mostParts)
	var parts [][]ShardRef
	room := int64(0)
	for _, ref := range shards {
		if room <= 0 {
			parts, room = append(parts, nil), size
		}
		last := len(parts) - 1
		parts[last] = append(parts[last], ref)
		room -= cost(ref)
	}
	return parts
}

// Only returns what of the states is needed to work on these shards; the other shards of their indices are blank.
func Only(states []State, shards []ShardRef) []State {
	wanted := map[string][]int{}
	for _, ref := range shards {
		wanted[ref.Index] = append(wanted[ref.Index], ref.Shard)
	}
	var out []State
	for _, s := range states {
		list, ok := wanted[s.Index]
		if !ok {
			continue
		}
		some := make([]ShardState, len(s.Shards))
		for _, k := range list {
			if k >= 0 && k < len(some) {
				some[k] = s.Shards[k]
			}
		}
		s.Shards = some
		out = append(out, s)
	}
	return out
}

func stateByName(states []State) map[string]State {
	m := make(map[string]State, len(states))
	for _, s := range states {
		m[s.Index] = s
	}
	return m
}

// ReconcileDeletes deletes at the destination what the source has no more, in the given shards of the states. Every document is
// looked up at the source, with its routing and in real time, before it is deleted, and it is deleted only as long as it has not
// changed at the destination; so the call is safe in warm passes, where it keeps the last one small. There a difference may as well
// be a document that was changed since the pass, so with many updates most blocks are read. A shard that was not finished before the
// deadline is in Rest; what was deleted stays deleted. In a warm pass the rest may be left to the next one. Calls for different shards may
// run side by side.
//
// The states are those that Advance returned, with all blocks up to the last pass. Shards that have nothing left to delete and are at rest
// (ShardState.Rests) are compared as Verify does it, after a refresh of the copies: these have been verified by that, long before the freeze
// or, in the freeze, by as many calls as there are parts.
//
// Faults: Unavailable also when nothing went on for three minutes because a domain answers 429 (retryable), and those of the domains. The
// result is filled in also beside an error.
func (r *Replayer) ReconcileDeletes(ctx context.Context, states []State, shards []ShardRef, deadline time.Time) (DeleteResult, error) {
	started := time.Now()
	byName := stateByName(states)
	var names []string
	for _, ref := range shards {
		s, ok := byName[ref.Index]
		if !ok || ref.Shard < 0 || ref.Shard >= len(s.Shards) {
			return DeleteResult{Rest: shards}, fault.Newf(fault.InvalidInput, "reconcile deletions", fmt.Sprintf("shard %d of %s", ref.Shard, ref.Index), "there is no state for it")
		}
		names = append(names, ref.Index)
	}
	if len(shards) == 0 {
		return DeleteResult{Done: true}, nil
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	w := &deleteWork{Replayer: r, budget: newBudget(deadline), changed: map[ShardRef]int64{}, unsettled: map[ShardRef]bool{}}
	w.budget.lanes = r.readingLanes()
	var err error
	if w.result.Settling, err = r.refreshBoth(ctx, w.budget, names); err != nil && !errors.Is(err, errCut) {
		return DeleteResult{Rest: shards}, err
	}

	work := ctx
	if !deadline.IsZero() {
		var cut context.CancelFunc
		work, cut = context.WithDeadline(work, deadline)
		defer cut()
	}
	finished := make([]bool, len(shards))
	failure := eachShard(work, w.budget.lanes, shards, func(ctx context.Context, i int, ref ShardRef) error {
		err := errCut
		if !w.budget.over() {
			err = w.shard(ctx, ref, byName[ref.Index].Shards[ref.Shard])
		}
		finished[i] = err == nil
		if errors.Is(err, errCut) || errors.Is(work.Err(), context.DeadlineExceeded) {
			return nil
		}
		return err
	})
	var settled []ShardRef
	for i, ref := range shards {
		switch {
		case !finished[i]:
			w.result.Rest = append(w.result.Rest, ref)
		case !w.unsettled[ref]:
			settled = append(settled, ref)
		}
	}
	if failure == nil && ctx.Err() == nil {
		began := time.Now()
		w.settle(work, byName, settled)
		w.result.Settling += time.Since(began).Seconds()
	}
	w.result.Done = len(w.result.Rest) == 0
	w.result.Seconds = time.Since(started).Seconds()
	for ref, operations := range w.changed {
		w.result.Written = append(w.result.Written, ShardWritten{ref, operations})
	}
	byShard := func(a, b ShardRef) int { return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Shard, b.Shard)) }
	slices.SortFunc(w.result.Written, func(a, b ShardWritten) int { return byShard(a.ShardRef, b.ShardRef) })
	slices.SortFunc(w.result.Equal, func(a, b ShardVerified) int { return byShard(a.ShardRef, b.ShardRef) })
	if ctx.Err() != nil {
		return w.result, fmt.Errorf("reconcile deletions: %w", context.Cause(ctx))
	}
	// Running out of time is not a failure, but it must not go on for ever.
	if failure == nil && len(w.result.Rest) == len(shards) && w.result.Listed == 0 && time.Since(started) >= endlessSlice {
		failure = fault.Newf(fault.Unavailable, "reconcile deletions", fmt.Sprintf("shard %d of %s", shards[0].Shard, shards[0].Index),
			"not one shard was compared in %s", time.Since(started).Round(time.Second)).
			WithHint("A domain refuses work or is overloaded: look at the search queues (GET _cat/thread_pool/search) and the health of both, then redrive.")
	}
	return w.result, failure
}

// settle compares the shards that have nothing left to delete and are at rest, because those need not be looked at again in the freeze. The
// pass does not need it, so that errors only cost the marks.
func (w *deleteWork) settle(ctx context.Context, states map[string]State, settled []ShardRef) {
	w.result.Settled = settled
	resting := slices.DeleteFunc(slices.Clone(settled), func(ref ShardRef) bool { return !states[ref.Index].Shards[ref.Shard].Rests })
	written := map[string]bool{}
	for _, ref := range resting {
		if w.changed[ref] > 0 {
			written[ref.Index] = true
		}
	}
	if len(written) > 0 && !w.budget.over() {
		_, err := patiently(ctx, w.budget, nil, func() (struct{}, error) {
			return struct{}{}, w.Destination.Refresh(ctx, slices.Sorted(maps.Keys(written))...)
		})
		if err != nil {
			return
		}
	}
	var quiet sync.Mutex
	_ = eachShard(ctx, w.budget.lanes, resting, func(ctx context.Context, _ int, ref ShardRef) error {
		if w.budget.over() {
			return nil
		}
		state := states[ref.Index]
		e, err := w.verify(ctx, ref, state.Shards[ref.Shard], max(1, passSamples/int64(len(state.Shards))), w.budget, true)
		if err != nil || e.Reason != "" {
			return nil // the source has gone on, or a domain is busy: Verify looks again
		}
		quiet.Lock()
		defer quiet.Unlock()
		w.result.Equal = append(w.result.Equal, ShardVerified{ref, Verified{Shared: e.SharedSource, Buckets: e.SharedBuckets, Replayed: e.ReplayedSource, Hashed: e.Hashed}})
		return nil
	})
}

// deleteWork is one call of ReconcileDeletes.
type deleteWork struct {
	*Replayer
	budget budget

	mu        sync.Mutex
	result    DeleteResult
	changed   map[ShardRef]int64 // operations at the destination
	unsettled map[ShardRef]bool  // whose comparison is not the last word
}

func (w *deleteWork) missing(ref ShardRef, n int64) {
	if n <= 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Missing += n
	w.result.MissingIn = quote(w.result.MissingIn, ref.Index)
	w.unsettled[ref] = true
}

// shard works on both regions at once: no document is in both.
func (w *deleteWork) shard(ctx context.Context, ref ShardRef, s ShardState) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.shared(ctx, ref, s.Base) })
	group.Go(func() error { return w.replayed(ctx, ref, s.Blocks) })
	return group.Wait()
}

// shared compares the region in which both sides number alike. A count costs a tenth of a histogram, and in the freeze, after the pass, it
// is all there is to do in a shard of which nothing was deleted.
func (w *deleteWork) shared(ctx context.Context, ref ShardRef, base int64) error {
	if base < 0 {
		return nil
	}
	whole := []cluster.SeqRange{{From: -1, Upto: base}}
	here, there, err := w.counts(ctx, ref, whole, whole)
	if err != nil || here[0] == there[0] {
		return err
	}
	diff := &difference{
		count: func(ranges []cluster.SeqRange, width int64) (map[int64]int64, map[int64]int64, error) {
			return w.histograms(ctx, ref, ranges, width)
		},
		found: func(missing, extra []int64) error {
			w.missing(ref, int64(len(missing)))
			for part := range slices.Chunk(runs(extra), maxClauses) {
				if err := w.sweep(ctx, ref, part, &w.result.SharedDeleted); err != nil {
					return err
				}
			}
			return nil
		},
	}
	return diff.run(base, max(here[0], there[0]), there[0]-here[0])
}

const (
	maxClauses     = 400 // ranges in one request; the engines refuse 1,024 clauses (indices.query.bool.max_clause_count)
	minBuckets     = 64
	maxBuckets     = 8_000 // of one histogram; the oldest engines refuse 10,000 (search.max_buckets)
	bucketOfLeaves = 24    // documents: buckets that small are resolved to single numbers
	fewLeaves      = 4_000 // documents: so are larger ones, while they come to no more in all
)

// difference finds the sequence numbers that only one side has, by histograms that grow finer where they differ. Buckets of width 1
// are sequence numbers, so that ids have to be read of deleted documents alone: reading them is what costs.
type difference struct {
	count func(ranges []cluster.SeqRange, width int64) (here, there map[int64]int64, err error)
	found func(onlyHere, onlyThere []int64) error
}

// run looks at the numbers up to upto, which documents have; about expected of them are different. With the root of both's product as
// the number of buckets, the first histogram and the one that resolves the different buckets come out equally large.
func (d *difference) run(upto, documents, expected int64) error {
	buckets := int64(math.Sqrt(float64(documents) * float64(max(1, expected))))
	buckets = min(max(buckets, minBuckets), maxBuckets)
	width := int64(1)
	for upto/width >= buckets {
		width *= 2
	}
	return d.refine([]cluster.SeqRange{{From: -1, Upto: upto}}, width, upto)
}

func (d *difference) refine(ranges []cluster.SeqRange, width, upto int64) error {
	here, there, err := d.count(ranges, width)
	if err != nil {
		return err
	}
	var different, onlyHere, onlyThere []int64
	largest := int64(0)
	for _, start := range slices.Sorted(maps.Keys(union(here, there))) {
		if here[start] == there[start] {
			continue
		}
		if width == 1 {
			if here[start] > there[start] {
				onlyHere = append(onlyHere, start)
			} else {
				onlyThere = append(onlyThere, start)
			}
			continue
		}
		different = append(different, start)
		largest = max(largest, here[start], there[start])
	}
	if width == 1 {
		if len(onlyHere)+len(onlyThere) == 0 {
			return nil
		}
		return d.found(onlyHere, onlyThere)
	}
	if len(different) == 0 {
		return nil
	}
	finer := int64(1)
	if largest*int64(len(different)) > fewLeaves && largest > bucketOfLeaves {
		finer = width
		for parts := int64(1); parts < min(1024, largest/(bucketOfLeaves/2)) && finer > 1; parts *= 2 {
			finer /= 2
		}
	}
	// A range gives at most as many buckets as it has documents, or numbers.
	var chunk []cluster.SeqRange
	buckets := int64(0)
	flush := func() error {
		if len(chunk) == 0 {
			return nil
		}
		err := d.refine(chunk, finer, upto)
		chunk, buckets = nil, 0
		return err
	}
	for _, start := range different {
		n := min(max(here[start], there[start]), width/finer)
		if len(chunk) > 0 && (buckets+n > maxBuckets || len(chunk) >= maxClauses) {
			if err := flush(); err != nil {
				return err
			}
		}
		r := cluster.SeqRange{From: start - 1, Upto: min(start+width-1, upto)}
		if last := len(chunk) - 1; last >= 0 && chunk[last].Upto == r.From {
			chunk[last].Upto = r.Upto
		} else {
			chunk = append(chunk, r)
		}
		buckets += n
	}
	return flush()
}

func union(a, b map[int64]int64) map[int64]int64 {
	out := maps.Clone(a)
	if out == nil {
		out = map[int64]int64{}
	}
	for k := range b {
		out[k] += 0
	}
	return out
}

// runs makes ranges of sorted numbers.
func runs(numbers []int64) []cluster.SeqRange {
	var out []cluster.SeqRange
	for _, n := range numbers {
		if last := len(out) - 1; last >= 0 && out[last].Upto == n-1 {
			out[last].Upto = n
		} else {
			out = append(out, cluster.SeqRange{From: n - 1, Upto: n})
		}
	}
	return out
}

// replayed compares the blocks of the region above the base.
func (w *deleteWork) replayed(ctx context.Context, ref ShardRef, blocks []Block) error {
	for part := range slices.Chunk(blocks, maxClauses) {
		from, to := make([]cluster.SeqRange, len(part)), make([]cluster.SeqRange, len(part))
		for i, b := range part {
			from[i], to[i] = b.source(), b.destination()
		}
		here, there, err := w.counts(ctx, ref, from, to)
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.result.Compared += int64(len(part))
		w.mu.Unlock()
		var list []cluster.SeqRange
		for i := range part {
			w.missing(ref, here[i]-there[i])
			if there[i] > here[i] {
				list = append(list, to[i])
			}
		}
		if len(list) > 0 {
			if err := w.sweep(ctx, ref, list, &w.result.ReplayedDeleted); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep reads the ids of the destination's documents in the ranges and deletes those that the source has no more.
func (w *deleteWork) sweep(ctx context.Context, ref ShardRef, ranges []cluster.SeqRange, deleted *int64) error {
	for len(ranges) > 0 {
		if w.budget.over() {
			return errCut
		}
		page, err := patiently(ctx, w.budget, nil, func() (cluster.ShardPage, error) {
			return w.Destination.ShardDocuments(ctx, ref.Index, ref.Shard, ranges, idPage, false)
		})
		if err != nil {
			return err
		}
		if err := w.delete(ctx, ref, page.Documents, deleted); err != nil {
			return err
		}
		if !page.More {
			return nil
		}
		last := page.Documents[len(page.Documents)-1].SeqNo
		var rest []cluster.SeqRange
		for _, r := range ranges {
			if r.Upto > last {
				rest = append(rest, cluster.SeqRange{From: max(r.From, last), Upto: r.Upto})
			}
		}
		ranges = rest
	}
	return nil
}

func (w *deleteWork) delete(ctx context.Context, ref ShardRef, documents []cluster.ShardDocument, deleted *int64) error {
	if len(documents) == 0 {
		return nil
	}
	keys := make([]cluster.DocumentKey, len(documents))
	for i, d := range documents {
		keys[i] = d.DocumentKey
	}
	here, err := look(ctx, w.budget, w.Source, ref.Index, keys)
	if err != nil {
		return err
	}
	var writes []cluster.Write
	for i, d := range documents {
		if !here[i].Found {
			writes = append(writes, cluster.Write{DocumentKey: d.DocumentKey, Type: d.Type, SeqNo: d.SeqNo, PrimaryTerm: d.PrimaryTerm})
		}
	}
	w.mu.Lock()
	w.result.Listed += int64(len(documents))
	w.result.Candidates += int64(len(writes))
	w.mu.Unlock()
	var operations, gone, throttled int64
	conflict := false
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		*deleted += gone
		w.result.Throttled += throttled
		if operations > 0 {
			w.changed[ref] += operations
		}
		// The document was changed or deleted meanwhile, perhaps by an earlier attempt: nothing is wrong, but nothing is proven.
		w.unsettled[ref] = w.unsettled[ref] || conflict
	}()
	for n := 0; len(writes) > 0; n++ {
		part := writes[:min(len(writes), 2000)]
		results, err := patiently(ctx, w.budget, &throttled, func() ([]cluster.WriteResult, error) { return w.Destination.BulkWrite(ctx, ref.Index, part) })
		if err != nil {
			return err
		}
		var again []cluster.Write
		for i, result := range results {
			if result.SeqNo >= 0 {
				operations++
			}
			switch {
			case result.Status < 300:
				gone++
			case result.Status == http.StatusNotFound:
			case result.Status == http.StatusConflict:
				conflict = true
			case result.Status == http.StatusTooManyRequests || result.Status >= 500 && n < 6:
				again = append(again, part[i])
				if result.Status == http.StatusTooManyRequests {
					throttled++
					w.budget.lanes.slower()
				}
			default:
				return refusedWrite(ref.Index, part[i], result)
			}
		}
		writes = append(again, writes[len(part):]...)
		if len(again) > 0 {
			if err := w.budget.pause(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Replayer) counts(ctx context.Context, ref ShardRef, from, to []cluster.SeqRange, b budget) (here, there []int64, err error) {
	return both(
		func() ([]int64, error) {
			return patiently(ctx, b, nil, func() ([]int64, error) { return r.Source.ShardCounts(ctx, ref.Index, ref.Shard, from) })
		},
		func() ([]int64, error) {
			return patiently(ctx, b, nil, func() ([]int64, error) { return r.Destination.ShardCounts(ctx, ref.Index, ref.Shard, to) })
		})
}

func (w *deleteWork) counts(ctx context.Context, ref ShardRef, from, to []cluster.SeqRange) (here, there []int64, err error) {
	if w.budget.over() {
		return nil, nil, errCut
	}
	return w.Replayer.counts(ctx, ref, from, to, w.budget)
}

func (r *Replayer) histograms(ctx context.Context, ref ShardRef, ranges []cluster.SeqRange, width int64, b budget) (here, there map[int64]int64, err error) {
	ask := func(domain Shard) func() (map[int64]int64, error) {
		return func() (map[int64]int64, error) {
			return patiently(ctx, b, nil, func() (map[int64]int64, error) {
				return domain.ShardHistogram(ctx, ref.Index, ref.Shard, ranges, width)
			})
		}
	}
	return both(ask(r.Source), ask(r.Destination))
}

func (w *deleteWork) histograms(ctx context.Context, ref ShardRef, ranges []cluster.SeqRange, width int64) (here, there map[int64]int64, err error) {
	if w.budget.over() {
		return nil, nil, errCut
	}
	return w.Replayer.histograms(ctx, ref, ranges, width, w.budget)
}

// refreshBoth says also how much longer the source took than the destination, in seconds.
func (r *Replayer) refreshBoth(ctx context.Context, b budget, names []string) (longer float64, err error) {
	ask := func(domain Domain) func() (float64, error) {
		return func() (float64, error) {
			began := time.Now()
			_, err := patiently(ctx, b, nil, func() (struct{}, error) { return struct{}{}, domain.Refresh(ctx, names...) })
			return time.Since(began).Seconds(), err
		}
	}
	source, destination, err := both(ask(r.Source), ask(r.Destination))
	return max(0, source-destination), err
}

// both asks the two sides at the same time.
func both[T any](a, b func() (T, error)) (x, y T, err error) {
	var second error
	var done sync.WaitGroup
	done.Go(func() { y, second = b() })
	x, err = a()
	done.Wait()
	if err == nil {
		err = second
	}
	return x, y, err
}
