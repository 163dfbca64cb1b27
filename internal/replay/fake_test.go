package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
)

// fake is a cluster of one index in memory: shards with sequence numbers, versions, tombstones and a refreshed view that lags behind.
type fake struct {
	starting bool // the index was opened, and none of its shards has started
	mu       sync.Mutex
	uuid     string
	shards   []*fakeShard
	// before runs, outside the lock, before every call; its error is the call's.
	before func(op string) error
	// after runs after a bulk request was carried out; its error is the call's.
	after func() error
	// refuse gives the status of an item that is not carried out; 0 carries it out.
	refuse func(w cluster.Write) int
	// limit of a bulk body in bytes; 0 means none.
	limit int
	calls map[string]int
}

type fakeShard struct {
	history    string
	term       int64
	next       int64 // sequence number
	docs       map[string]cluster.ShardDocument
	visible    map[string]cluster.ShardDocument
	tombstones map[string]tombstone
}

type tombstone struct {
	version int64
	at      time.Time
}

func newFake(uuid string, shards int) *fake {
	f := &fake{uuid: uuid, calls: map[string]int{}}
	for k := range shards {
		f.shards = append(f.shards, &fakeShard{history: fmt.Sprintf("%s-%d", uuid, k), term: 1, docs: map[string]cluster.ShardDocument{},
			visible: map[string]cluster.ShardDocument{}, tombstones: map[string]tombstone{}})
	}
	return f
}

// restore is a copy as a restored snapshot has it: same documents and numbers, gaps filled up to max_seq_no, another history.
func (f *fake) restore(uuid string) *fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := newFake(uuid, len(f.shards))
	for k, s := range f.shards {
		g.shards[k].next, g.shards[k].docs, g.shards[k].visible = s.next, maps.Clone(s.docs), maps.Clone(s.docs)
	}
	return g
}

func (f *fake) shardOf(k cluster.DocumentKey) int {
	h := fnv.New32a()
	if k.Routing != "" {
		h.Write([]byte(k.Routing))
	} else {
		h.Write([]byte(k.ID))
	}
	return int(h.Sum32() % uint32(len(f.shards)))
}

// put and remove are a client's writes, with internal versions.
func (f *fake) put(k cluster.DocumentKey, source string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shards[f.shardOf(k)]
	version := int64(1)
	if old, ok := s.docs[k.ID]; ok {
		version = old.Version + 1
	} else if t, ok := s.tombstones[k.ID]; ok {
		version = t.version + 1
	}
	s.write(k, version, json.RawMessage(source))
}

func (s *fakeShard) write(k cluster.DocumentKey, version int64, source json.RawMessage) int64 {
	delete(s.tombstones, k.ID)
	s.docs[k.ID] = cluster.ShardDocument{DocumentKey: k, Found: true, SeqNo: s.next, PrimaryTerm: s.term, Version: version, Source: source}
	s.next++
	return s.next - 1
}

func (f *fake) remove(k cluster.DocumentKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.shards[f.shardOf(k)]
	if old, ok := s.docs[k.ID]; ok {
		s.delete(old)
	}
}

func (s *fakeShard) delete(old cluster.ShardDocument) int64 {
	delete(s.docs, old.ID)
	s.tombstones[old.ID] = tombstone{old.Version + 1, time.Now()}
	s.next++
	return s.next - 1
}

// forget drops all tombstones, as index.gc_deletes does after a while: versions begin again.
func (f *fake) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.shards {
		clear(s.tombstones)
	}
}

func (f *fake) live() map[string]cluster.ShardDocument {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]cluster.ShardDocument{}
	for k, s := range f.shards {
		for id, d := range s.docs {
			d.SeqNo, d.PrimaryTerm = 0, 0
			all[fmt.Sprintf("%d/%s", k, id)] = d
		}
	}
	return all
}

func (f *fake) enter(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return fault.New(fault.Unavailable, op, "fake", err)
	}
	if f.before != nil {
		if err := f.before(op); err != nil {
			return err
		}
	}
	f.mu.Lock()
	f.calls[op]++
	return nil
}

func (f *fake) Refresh(ctx context.Context, _ ...string) error {
	if err := f.enter(ctx, "refresh"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	for _, s := range f.shards {
		s.visible = maps.Clone(s.docs)
	}
	return nil
}

func (f *fake) ShardHistories(ctx context.Context, indices ...string) (map[string]cluster.IndexHistory, error) {
	if err := f.enter(ctx, "histories"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	if f.starting {
		return map[string]cluster.IndexHistory{}, nil
	}
	h := cluster.IndexHistory{UUID: f.uuid}
	for k, s := range f.shards {
		h.Shards = append(h.Shards, cluster.ShardHistory{Shard: k, HistoryUUID: s.history, PrimaryTerm: s.term, MaxSeqNo: s.next - 1, GlobalCheckpoint: s.next - 1})
	}
	out := map[string]cluster.IndexHistory{}
	for _, i := range indices {
		out[i] = h
	}
	return out, nil
}

func (f *fake) within(shard int, ranges []cluster.SeqRange) []cluster.ShardDocument {
	var out []cluster.ShardDocument
	for _, d := range f.shards[shard].visible {
		if slices.ContainsFunc(ranges, func(r cluster.SeqRange) bool { return d.SeqNo > r.From && d.SeqNo <= r.Upto }) {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b cluster.ShardDocument) int { return int(a.SeqNo - b.SeqNo) })
	return out
}

func (f *fake) ShardDocuments(ctx context.Context, _ string, shard int, ranges []cluster.SeqRange, limit int, source bool) (cluster.ShardPage, error) {
	if err := f.enter(ctx, "documents"); err != nil {
		return cluster.ShardPage{}, err
	}
	defer f.mu.Unlock()
	all := f.within(shard, ranges)
	page := cluster.ShardPage{Documents: all[:min(limit, len(all))], More: len(all) >= limit, Bytes: 100}
	for i := range page.Documents {
		page.Bytes += int64(len(page.Documents[i].Source)) + 100
		if !source {
			page.Documents[i].Source = nil
		}
	}
	return page, nil
}

func (f *fake) ShardCounts(ctx context.Context, _ string, shard int, ranges []cluster.SeqRange) ([]int64, error) {
	if err := f.enter(ctx, "counts"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	out := make([]int64, len(ranges))
	for i, r := range ranges {
		out[i] = int64(len(f.within(shard, []cluster.SeqRange{r})))
	}
	return out, nil
}

func (f *fake) ShardHistogram(ctx context.Context, _ string, shard int, ranges []cluster.SeqRange, width int64) (map[int64]int64, error) {
	if err := f.enter(ctx, "histogram"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	out := map[int64]int64{}
	for _, d := range f.within(shard, ranges) {
		out[d.SeqNo/width*width]++
	}
	if len(out) > 10_000 || len(ranges) > 1024 {
		return nil, fmt.Errorf("fake: %d buckets of %d ranges are too many", len(out), len(ranges))
	}
	return out, nil
}

func (f *fake) ShardCensus(ctx context.Context, _ string, shard int, base, width int64) (map[int64]int64, int64, error) {
	if err := f.enter(ctx, "census"); err != nil {
		return nil, 0, err
	}
	defer f.mu.Unlock()
	upto, above := map[int64]int64{}, int64(0)
	for _, d := range f.within(shard, []cluster.SeqRange{{From: -1, Upto: unbounded}}) {
		if d.SeqNo > base {
			above++
		} else {
			upto[base+1-(base-d.SeqNo)/width*width-width]++
		}
	}
	return upto, above, nil
}

func (f *fake) LatestDocuments(ctx context.Context, _ string, keys []cluster.DocumentKey, source bool) ([]cluster.ShardDocument, error) {
	if err := f.enter(ctx, "latest"); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	out := make([]cluster.ShardDocument, len(keys))
	for i, k := range keys {
		d, ok := f.shards[f.shardOf(k)].docs[k.ID]
		if !ok {
			d = cluster.ShardDocument{DocumentKey: k, SeqNo: -1}
		}
		if !source {
			d.Source = nil
		}
		out[i] = d
	}
	return out, nil
}

func (f *fake) BulkWrite(ctx context.Context, _ string, writes []cluster.Write) ([]cluster.WriteResult, error) {
	if err := f.enter(ctx, "bulk"); err != nil {
		return nil, err
	}
	size := 0
	for _, w := range writes {
		size += w.Size()
	}
	if f.limit > 0 && size > f.limit {
		f.mu.Unlock()
		e := fault.New(fault.RequestRefused, "bulk", "fake", errors.New("too large"))
		e.Status = 413
		return nil, e
	}
	results := make([]cluster.WriteResult, len(writes))
	for i, w := range writes {
		results[i] = f.apply(w)
	}
	f.mu.Unlock()
	if f.after != nil {
		if err := f.after(); err != nil {
			return nil, err
		}
	}
	return results, nil
}

func (f *fake) apply(w cluster.Write) cluster.WriteResult {
	if f.refuse != nil {
		if status := f.refuse(w); status != 0 {
			return cluster.WriteResult{Status: status, SeqNo: -1, Type: "fake_exception", Reason: "refused by the test"}
		}
	}
	s := f.shards[f.shardOf(w.DocumentKey)]
	old, exists := s.docs[w.ID]
	conflict := cluster.WriteResult{Status: 409, SeqNo: -1, Type: "version_conflict_engine_exception"}
	if w.Source == nil {
		if !exists || old.SeqNo != w.SeqNo || old.PrimaryTerm != w.PrimaryTerm {
			return conflict
		}
		return cluster.WriteResult{Status: 200, SeqNo: s.delete(old)}
	}
	// index.gc_deletes of 0, by a clock that is read every 200 ms.
	if t, ok := s.tombstones[w.ID]; ok && time.Since(t.at) < 200*time.Millisecond && t.version > w.Version {
		return conflict
	}
	if exists && old.Version > w.Version {
		return conflict
	}
	return cluster.WriteResult{Status: 200, SeqNo: s.write(w.DocumentKey, w.Version, w.Source)}
}
