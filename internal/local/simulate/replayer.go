package simulate

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/replay"
)

// replayer replays without documents. Plan and Advance are internal/replay's own, over the sequence numbers of the coarse clusters;
// slices, deletions and verification move numbers, and take the time that the requests of internal/replay would take.
type replayer struct{ inv *invocation }

func (r replayer) engine() *replay.Replayer {
	w := r.inv.w
	return &replay.Replayer{Source: historian{&domainView{r.inv, w.source}}, Destination: historian{&domainView{r.inv, w.destination}}}
}

// historian answers the part of replay.Destination that planning uses.
type historian struct{ *domainView }

func (h historian) ShardHistories(ctx context.Context, indices ...string) (map[string]cluster.IndexHistory, error) {
	defer h.enter()()
	list, err := h.find("read shard histories", indices)
	if err != nil {
		return nil, err
	}
	out := map[string]cluster.IndexHistory{}
	for _, x := range list {
		hist := cluster.IndexHistory{UUID: x.uuid}
		for i, p := range x.shards {
			n := h.seqNo(p)
			hist.Shards = append(hist.Shards, cluster.ShardHistory{Shard: i, HistoryUUID: p.historyUUID(), PrimaryTerm: p.term, MaxSeqNo: n, GlobalCheckpoint: n})
		}
		out[x.name] = hist
	}
	h.charge(ctx, "GET _stats, _cluster/state", 2*requests(indices), slow, shardsOf(list), 2*perShard, int64(shardsOf(list))*500)
	return out, nil
}

var errNoDocuments = fmt.Errorf("the simulation has no documents")

func (h historian) ShardDocuments(context.Context, string, int, []cluster.SeqRange, int, bool) (cluster.ShardPage, error) {
	return cluster.ShardPage{}, errNoDocuments
}
func (h historian) ShardCounts(context.Context, string, int, []cluster.SeqRange) ([]int64, error) {
	return nil, errNoDocuments
}
func (h historian) ShardHistogram(context.Context, string, int, []cluster.SeqRange, int64) (map[int64]int64, error) {
	return nil, errNoDocuments
}
func (h historian) ShardCensus(context.Context, string, int, int64, int64) (map[int64]int64, int64, error) {
	return nil, 0, errNoDocuments
}
func (h historian) LatestDocuments(context.Context, string, []cluster.DocumentKey, bool) ([]cluster.ShardDocument, error) {
	return nil, errNoDocuments
}
func (h historian) BulkWrite(context.Context, string, []cluster.Write) ([]cluster.WriteResult, error) {
	return nil, errNoDocuments
}

func (r replayer) Plan(ctx context.Context, states []replay.State, o replay.PlanOptions) (replay.Pass, error) {
	return r.engine().Plan(ctx, states, o)
}

func (r replayer) Advance(ctx context.Context, pass replay.Pass, results []replay.SliceResult) ([]replay.State, error) {
	return r.engine().Advance(ctx, pass, results)
}

// concurrency and sizes are internal/replay's defaults.
const (
	shardsAtOnce   = 4
	comparedAtOnce = 32
	pageDocs       = 2000
	bulkBytes      = 8_000_000
)

// Slice reads pages of each part at the source and writes them to the copy, some parts at a time.
func (r replayer) Slice(ctx context.Context, s replay.Slice, deadline time.Time) (replay.SliceResult, error) {
	w := r.inv.w
	if err := r.inv.spend(ctx, 0); err != nil {
		return replay.SliceResult{}, err
	}
	began := w.clock.Now()
	budget := math.Inf(1)
	if !deadline.IsZero() {
		budget = deadline.Sub(began).Seconds() - 30
	}
	var out replay.SliceResult
	var lanes [shardsAtOnce]float64
	w.state.Lock()
	w.source.sync()
	w.destination.sync()
	for _, part := range s.Parts {
		// The next lane that is free takes the part.
		k := 0
		for i := range lanes {
			if lanes[i] < lanes[k] {
				k = i
			}
		}
		if lanes[k] >= budget {
			out.Rest = append(out.Rest, part)
			continue
		}
		from, to, err := r.shards(part.Index, part.Shard)
		if err != nil {
			w.state.Unlock()
			return out, err
		}
		perDoc := r.perDocument(from.index.bytesPerDoc)
		upto := part.Upto
		found, _ := from.between(part.From, upto)
		if time := found * perDoc; lanes[k]+time > budget {
			done := part.From + int64(float64(part.Upto-part.From)*max(0.01, (budget-lanes[k])/time))
			if done < upto {
				out.Rest = append(out.Rest, replay.Range{Index: part.Index, Shard: part.Shard, From: done, Upto: part.Upto})
				upto = done
			}
			found, _ = from.between(part.From, upto)
		}
		pages := math.Ceil(found/pageDocs) + 1
		bulks := math.Ceil(found * float64(from.index.bytesPerDoc) / bulkBytes)
		lanes[k] += pages*w.latency(sourceRTT+searchSeconds) + bulks*w.latency(destinationRTT+bulkSeconds) + found*perDoc
		if w.jitterBelow(tooManyRequests * bulks) {
			out.Throttled++
			w.meter.throttled++
			lanes[k] += w.latency(0.5)
		}
		w.meter.http["POST _search (replay)"] += int64(pages)
		w.meter.http["POST _bulk"] += int64(bulks)
		w.meter.sourceBytes += int64(found) * from.index.bytesPerDoc
		n := int64(math.Round(found))
		block := replay.ShardBlock{Index: part.Index, Shard: part.Shard, Written: n,
			Block: replay.Block{From: part.From, Upto: upto, DestinationFrom: to.replayed.seqNo, DestinationUpto: to.replayed.seqNo + n}}
		out.Blocks = append(out.Blocks, block)
		out.Documents += n
		out.Bytes += n * from.index.bytesPerDoc
		out.Requests += int64(bulks)
		r.did(from, to, part.From, upto, n)
	}
	w.state.Unlock()
	spent := 0.0
	for _, l := range lanes {
		spent = max(spent, l)
	}
	out.Done, out.Seconds = len(out.Rest) == 0, spent
	return out, r.inv.spend(ctx, seconds(spent))
}

// perDocument is the time of one document on its way, while the next page is read.
func (r replayer) perDocument(bytes int64) float64 {
	w := r.inv.w
	w.mu.Lock()
	defer w.mu.Unlock()
	return (replayDocSeconds + float64(bytes)/replayRate) * noise(w.jitter, transferNoise)
}

func (w *world) jitterBelow(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.jitter.Float64() < p
}

func (r replayer) shards(name string, number int) (from, to *primary, err error) {
	x, y := r.inv.w.source.byName[name], r.inv.w.destination.byName[name]
	if x == nil || y == nil || number >= len(x.shards) || number >= len(y.shards) {
		return nil, nil, fmt.Errorf("shard %d of %s is not on both sides", number, name)
	}
	from, to = x.shards[number], y.shards[number]
	if to.copy == nil || y.closed || y.settings["index.blocks.write"] == "true" {
		return nil, nil, fmt.Errorf("the copy of %s is not open for writing", name)
	}
	if !to.replayed.began {
		to.replayed = replayed{began: true, base: to.copy.seqNo, upto: to.copy.seqNo, erased: to.copy.seqNo, seqNo: to.copy.seqNo, pending: map[int64]int64{}}
	}
	return from, to, nil
}

// did notes a range of operations as replayed: a copy holds everything up to the first gap.
func (r replayer) did(from, to *primary, lower, upper, written int64) {
	p := &to.replayed
	p.seqNo += written
	a0, _, _ := from.at(max(lower, p.base))
	a1, _, _ := from.at(max(upper, p.base))
	p.documents += a1 - a0
	if upper > p.pending[lower] {
		p.pending[lower] = upper
	}
	for more := true; more; {
		more = false
		for f, u := range p.pending {
			if f <= p.upto {
				if u > p.upto {
					p.upto = u
				}
				delete(p.pending, f)
				more = true
			}
		}
	}
}

// ReconcileDeletes compares the shards, some at a time, and deletes at the copies what the source has no more.
func (r replayer) ReconcileDeletes(ctx context.Context, states []replay.State, shards []replay.ShardRef, deadline time.Time) (replay.DeleteResult, error) {
	w := r.inv.w
	var out replay.DeleteResult
	names := map[string]bool{}
	var list []string
	for _, ref := range shards {
		if !names[ref.Index] {
			names[ref.Index] = true
			list = append(list, ref.Index)
		}
	}
	if err := r.engine().Source.Refresh(ctx, list...); err != nil {
		return out, err
	}
	if err := r.engine().Destination.Refresh(ctx, list...); err != nil {
		return out, err
	}
	if err := r.inv.spend(ctx, 0); err != nil {
		return out, err
	}
	known := map[replay.ShardRef]replay.ShardState{}
	for _, s := range states {
		for k := range s.Shards {
			known[replay.ShardRef{Index: s.Index, Shard: k}] = s.Shards[k]
		}
	}
	budget := math.Inf(1)
	if !deadline.IsZero() {
		budget = deadline.Sub(w.clock.Now()).Seconds() - 30
	}
	var lanes [comparedAtOnce]float64
	w.state.Lock()
	w.source.sync()
	w.destination.sync()
	for i, ref := range shards {
		k := i % comparedAtOnce
		if lanes[k] >= budget {
			out.Rest = append(out.Rest, ref)
			continue
		}
		from, to, err := r.shards(ref.Index, ref.Shard)
		if err != nil {
			w.state.Unlock()
			return out, err
		}
		w.source.advance(from)
		p := &to.replayed
		now := min(p.upto, from.seqNo)
		_, gone := from.between(min(p.erased, now), now)
		// A count of the shared region and one for each 400 blocks, both sides at once; where they differ two histograms, the ids and a
		// look at the source, and the deletions.
		requests := 1 + math.Ceil(float64(len(known[ref].Blocks))/400)
		if gone > 0.5 {
			requests += 2 + 3*math.Ceil(gone/5000) + min(gone, 20)
		}
		lanes[k] += requests*w.latency(sourceRTT+searchSeconds) + gone*deleteSeconds
		w.meter.http["POST _search (deletions)"] += 2 * int64(requests)
		n := int64(math.Round(gone))
		out.SharedDeleted += n
		out.Candidates += n
		out.Compared += int64(len(known[ref].Blocks))
		if n > 0 {
			out.Written = append(out.Written, replay.ShardWritten{ShardRef: ref, Operations: n})
		}
		p.seqNo += n
		p.deleted += gone
		p.erased = now
		// A shard at rest is compared then as Verify does it: one count tells when the source has gone on after all.
		out.Settled = append(out.Settled, ref)
		if known[ref].Rests {
			more := 1
			if from.seqNo == known[ref].Position && p.upto >= from.seqNo {
				more = requestsPerShard / 2
				docs := (&domainView{r.inv, w.destination}).docs(to)
				out.Equal = append(out.Equal, replay.ShardVerified{ShardRef: ref, Verified: replay.Verified{Shared: docs}})
			}
			lanes[k] += w.latencies(float64(more), sourceRTT+searchSeconds)
			w.meter.http["POST _search (verify)"] += int64(2 * more)
		}
	}
	w.state.Unlock()
	spent := 0.0
	for _, l := range lanes {
		spent = max(spent, l)
	}
	out.Done, out.Seconds = len(out.Rest) == 0, spent
	return out, r.inv.spend(ctx, seconds(spent))
}

// requestsPerShard of a comparison: two histograms, two counts, a page of documents and their copies; those of both sides, and of the
// two regions, at once.
const requestsPerShard = 6

// Verify says of each index whether its copy holds all of the source. Shards that a pass found equal, and that have not moved since, cost
// nothing.
func (r replayer) Verify(ctx context.Context, states []replay.State, limit int64, deadline time.Time) ([]replay.Evidence, error) {
	w := r.inv.w
	var out []replay.Evidence
	n := 0
	var names []string
	for _, s := range states {
		names = append(names, s.Index)
	}
	for _, side := range []*side{w.source, w.destination} {
		if _, err := (historian{&domainView{r.inv, side}}).ShardHistories(ctx, names...); err != nil {
			return nil, err
		}
	}
	w.state.Lock()
	w.source.sync()
	w.destination.sync()
	v := &domainView{r.inv, w.source}
	d := &domainView{r.inv, w.destination}
	for _, s := range states {
		e := replay.Evidence{Index: s.Index, OK: true, Hashed: limit}
		for k := range s.Shards {
			e.Shards++
			x, y := w.source.byName[s.Index], w.destination.byName[s.Index]
			if x == nil || y == nil {
				e.OK, e.Reason = false, "it is missing on one side"
				continue
			}
			here, there := x.shards[k], y.shards[k]
			if m := s.Shards[k].Verified; m != nil && m.Mark == (replay.Mark{Source: v.seqNo(here), Destination: d.seqNo(there)}) {
				e.Unmoved++
			} else {
				n++
			}
			e.SharedSource += v.docs(here)
			e.SharedDestination += d.docs(there)
			if a, b := v.holds(here), d.holds(there); a != b {
				e.OK, e.Reason = false, fmt.Sprintf("shard %d holds the source's operations up to %d, of %d", k, b, a)
			}
		}
		out = append(out, e)
	}
	w.state.Unlock()
	w.meter.http["POST _search (verify)"] += int64(requestsPerShard * n)
	turns := math.Ceil(float64(n) / comparedAtOnce)
	spent := w.latencies(turns, sourceRTT+searchSeconds) + w.latencies(turns, destinationRTT+searchSeconds)
	return out, r.inv.spend(ctx, seconds(spent))
}
