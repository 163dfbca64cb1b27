package domain

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// document is one version of a document, or the tombstone of a deletion. It never changes after it was written; only its place
// (segment and ordinal) moves with merges.
type document struct {
	id, routing          string
	version, seqNo, term int64
	source               []byte
	tombstone            bool

	segment *segment // nil while in the indexing buffer
	ordinal int
}

func (doc *document) size() int64 {
	return int64(len(doc.id) + len(doc.routing) + len(doc.source) + 40)
}

type shardState int

const (
	started shardState = iota
	initializing
	unassigned
)

type unassignedInfo struct {
	reason, details, status string
	at                      time.Time
	failedAttempts          int
	decider                 string // what restore_in_progress says of the shard
}

// shard is one primary: an index of documents in segments, and the commit that a snapshot would take.
type shard struct {
	index  *index
	number int
	node   *node
	state  shardState
	cause  *unassignedInfo
	// reassigning: the index was just closed, and its copy is about to be started again from the same store.
	reassigning bool

	live         map[string]*document // newest version of every document, refreshed or not
	deleted      map[string]deletion  // versions of deleted documents, kept for gc_deletes
	buffer       []*document
	bufferBytes  int64
	superseded   []*document // their deletion becomes visible with the next refresh
	dirtySince   time.Time   // first change since the last refresh
	segments     []*segment
	nextSegment  int64
	maxSeqNo     int64
	term         int64
	historyUUID  string
	mergeUUID    string
	changed      bool // since the last commit
	commit       *commit
	visibleCache []*document
	visibleStale bool
	recovery     *recovery
	indexed      int64
	deletes      int64
}

type deletion struct {
	version int64
	at      time.Time
}

// gcDeletes is how long the version of a deleted document counts (index.gc_deletes). With 0 it counts until the clock has moved on.
func (ix *index) gcDeletes() time.Duration {
	if t, err := parseTime(ix.setting("index.gc_deletes")); err == nil && ix.setting("index.gc_deletes") != "" {
		return t
	}
	return 60 * time.Second
}

// indexBuffer is the size at which buffered documents become a segment without being asked.
const indexBuffer = 16 << 20

func (d *Domain) newShard(ix *index, number int) *shard {
	s := &shard{index: ix, number: number, node: d.nodes[(number+len(ix.name))%len(d.nodes)]}
	s.wipe()
	s.term = 1
	s.historyUUID = d.newUUID()
	return s
}

// wipe empties the store; the shard keeps its place and its term.
func (s *shard) wipe() {
	s.live, s.deleted = map[string]*document{}, map[string]deletion{}
	s.buffer, s.bufferBytes, s.superseded, s.segments = nil, 0, nil, nil
	s.nextSegment, s.maxSeqNo, s.commit, s.changed = 0, -1, nil, true
	s.dirtySince, s.mergeUUID = time.Time{}, ""
	s.visibleCache, s.visibleStale = nil, true
}

func (s *shard) softDeletes() bool { return s.index.softDeletes() }

// put appends a version of a document; the caller has checked versions.
func (s *shard) put(now time.Time, doc *document) {
	s.maxSeqNo++
	doc.seqNo, doc.term = s.maxSeqNo, s.term
	if old := s.live[doc.id]; old != nil {
		s.superseded = append(s.superseded, old)
	}
	s.live[doc.id] = doc
	delete(s.deleted, doc.id)
	s.buffer = append(s.buffer, doc)
	s.bufferBytes += doc.size()
	s.indexed++
	s.touch(now)
}

// remove deletes a document, or records the deletion of one that is not there: both use a sequence number.
func (s *shard) remove(now time.Time, id, routing string, version int64) int64 {
	s.maxSeqNo++
	if old := s.live[id]; old != nil {
		s.superseded = append(s.superseded, old)
		delete(s.live, id)
	}
	s.deleted[id] = deletion{version, now}
	if s.softDeletes() {
		s.buffer = append(s.buffer, &document{id: id, routing: routing, version: version, seqNo: s.maxSeqNo, term: s.term, tombstone: true})
	}
	s.deletes++
	s.touch(now)
	return s.maxSeqNo
}

func (s *shard) touch(now time.Time) {
	s.changed = true
	if s.dirtySince.IsZero() {
		s.dirtySince = now
	}
	if s.bufferBytes > indexBuffer {
		s.refresh()
	}
}

// currentVersion is the version that a write of the document meets; 0 when there is none.
func (s *shard) currentVersion(now time.Time, id string) int64 {
	if doc := s.live[id]; doc != nil {
		return doc.version
	}
	if gone, ok := s.deleted[id]; ok {
		if now.Sub(gone.at) <= s.index.gcDeletes() {
			return gone.version
		}
		delete(s.deleted, id)
	}
	return 0
}

// refresh makes everything written so far visible to searches: one new segment, deletions applied to the older ones.
func (s *shard) refresh() {
	if s.dirtySince.IsZero() {
		return
	}
	s.dirtySince = time.Time{}
	if len(s.buffer) > 0 {
		s.addSegment(s.buffer, true)
		s.buffer, s.bufferBytes = nil, 0
	}
	for _, doc := range s.superseded {
		doc.segment.kill(doc.ordinal)
	}
	s.superseded = nil
	s.visibleStale = true
	s.merge()
}

func (s *shard) addSegment(docs []*document, compound bool) *segment {
	seg := &segment{name: "_" + strconv.FormatInt(s.nextSegment, 36), docs: docs, dead: make(bitset, (len(docs)+63)/64), compound: compound}
	seg.id = fmt.Sprintf("%s-%s", s.historyUUID, s.index.domain.newUUID())
	s.nextSegment++
	for i, doc := range docs {
		doc.segment, doc.ordinal = seg, i
		seg.bytes += doc.size()
		if doc.tombstone {
			seg.kill(i)
		}
	}
	s.segments = append(s.segments, seg)
	return seg
}

// lazyRefresh is the engines' refresh in the background: at every full interval of the clock what was written before becomes visible.
func (s *shard) lazyRefresh(now time.Time) {
	interval := s.index.refreshInterval()
	if interval <= 0 || s.dirtySince.IsZero() {
		return
	}
	if s.dirtySince.Before(now.Truncate(interval)) {
		s.refresh()
	}
}

// visible is what a search sees: live documents as of the last refresh, ordered by sequence number. The slice is never changed
// afterwards, so scrolls keep it.
func (s *shard) visible() []*document {
	if !s.visibleStale {
		return s.visibleCache
	}
	var docs []*document
	for _, seg := range s.segments {
		for i, doc := range seg.docs {
			if !seg.dead.has(i) {
				docs = append(docs, doc)
			}
		}
	}
	slices.SortFunc(docs, func(a, b *document) int { return cmp.Compare(a.seqNo, b.seqNo) })
	s.visibleCache, s.visibleStale = docs, false
	return docs
}

func (s *shard) counts() (count, gone int) {
	for _, seg := range s.segments {
		count += len(seg.docs) - seg.killed
		gone += seg.killed
	}
	return count, gone
}

// Merging after the shape of Lucene's tiered policy: ten segments of one order of magnitude become one; segments below the floor count as
// equally small; a segment with more than a third deleted is rewritten.
const (
	segmentsPerTier = 10
	segmentFloor    = 2 << 20
	segmentLargest  = 5 << 30
	deletedPercent  = 33
)

func (s *shard) merge() {
	for {
		tiers := map[int][]*segment{}
		var rewrite []*segment
		for _, seg := range s.segments {
			if seg.bytes > segmentLargest/2 {
				continue
			}
			tier := int(math.Log10(max(1, float64(seg.bytes)/segmentFloor)))
			tiers[tier] = append(tiers[tier], seg)
			// Small ones wait for their tier: rewriting each at every update is more than the engines do.
			if seg.bytes > segmentFloor && seg.killed*100 > len(seg.docs)*deletedPercent {
				rewrite = []*segment{seg}
			}
		}
		var chosen []*segment
		for tier := range 8 {
			if len(tiers[tier]) > segmentsPerTier {
				chosen = tiers[tier][:segmentsPerTier]
				break
			}
		}
		if chosen == nil {
			chosen = rewrite
		}
		if chosen == nil {
			return
		}
		s.mergeSegments(chosen)
	}
}

func (s *shard) mergeSegments(chosen []*segment) {
	var docs []*document
	for _, seg := range chosen {
		for i, doc := range seg.docs {
			if !seg.dead.has(i) {
				docs = append(docs, doc)
			}
		}
	}
	s.segments = slices.DeleteFunc(slices.Clone(s.segments), func(seg *segment) bool { return slices.Contains(chosen, seg) })
	if len(docs) > 0 {
		s.addSegment(docs, false)
	}
	s.changed = true
}

// forceMerge leaves at most n segments without deletions. Like the engines it gives the shard a new merge id, so that the next snapshot
// does not take it for unchanged.
func (s *shard) forceMerge(n int) {
	s.refresh()
	s.mergeUUID = s.index.domain.newUUID()
	clean := true
	for _, seg := range s.segments {
		clean = clean && seg.killed == 0
	}
	if len(s.segments) > n || !clean {
		// Largest first, so that with n > 1 the big ones stay as they are.
		order := slices.Clone(s.segments)
		slices.SortStableFunc(order, func(a, b *segment) int { return cmp.Compare(b.bytes, a.bytes) })
		keep := 0
		for keep < n-1 && keep < len(order) && order[keep].killed == 0 {
			keep++
		}
		if rest := order[keep:]; len(rest) > 1 || len(rest) == 1 && rest[0].killed > 0 {
			s.mergeSegments(rest)
		}
	}
	s.changed = true
	s.flush(false)
}

// stateID identifies the content of a shard for snapshots: equal ids mean that nothing needs to be looked at, even when files
// were rewritten meanwhile (Elasticsearch 7.6 and later).
func (s *shard) stateID() string {
	merged := s.mergeUUID
	if merged == "" {
		merged = "na"
	}
	return fmt.Sprintf("%s-%s-%d", s.historyUUID, merged, s.maxSeqNo)
}

// flush commits: deletions since the last commit become generational files, and a new segments_N names all files.
func (s *shard) flush(force bool) {
	s.refresh()
	if s.commit != nil && !s.changed && !force {
		return
	}
	generation := int64(2)
	if s.commit != nil {
		generation = s.commit.generation + 1
	}
	s.commitAs(generation)
}

func (s *shard) commitAs(generation int64) {
	c := &commit{generation: generation, maxSeqNo: s.maxSeqNo, historyUUID: s.historyUUID, mergeUUID: s.mergeUUID,
		id: s.index.domain.newUUID(), minimumVersion: s.index.domain.engine.lucene()}
	for _, seg := range s.segments {
		seg.commitDeletions(s.softDeletes())
		c.segments = append(c.segments, committedSegment{segment: seg, name: seg.name, id: seg.id, generation: seg.generation})
		c.files = append(c.files, seg.files()...)
	}
	c.nextSegment = s.nextSegment
	c.files = append(c.files, c.file())
	s.commit, s.changed = c, false
}

func (s *shard) storeBytes() int64 {
	var n int64
	if s.commit == nil {
		return 230
	}
	for _, f := range s.commit.files {
		n += f.length
	}
	return n + s.bufferBytes
}

// reassignTime is how long the shards of an index that was closed stay unassigned, and the index red.
const reassignTime = 30 * time.Millisecond

// reassign takes the shard away and starts it again a moment later, as closing does: until then the index is red and cannot be snapshotted.
func (s *shard) reassign(d *Domain) {
	s.flush(false)
	s.term++
	s.state, s.reassigning = unassigned, true
	s.cause = &unassignedInfo{reason: "INDEX_CLOSED", at: d.clock.Now(), status: "no_valid_shard_copy"}
	cause := s.cause
	d.after(reassignTime, func() {
		if s.cause == cause {
			s.reassigned(d)
		}
	})
}

func (s *shard) reassigned(d *Domain) {
	s.state, s.cause, s.reassigning = started, nil, false
	s.existingStoreRecovery(d)
}

func (s *shard) existingStoreRecovery(d *Domain) {
	s.flush(false)
	s.deleted = map[string]deletion{} // a started engine knows no deletions but those in its translog
	now := d.clock.Now()
	s.recovery = &recovery{kind: "EXISTING_STORE", stage: "DONE", start: now, stop: now}
	for _, f := range s.commit.files {
		s.recovery.files = append(s.recovery.files, recoveredFile{name: f.name, length: f.length, reused: true})
	}
}
