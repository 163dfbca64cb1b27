package simulate

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"

	"github.com/domainferry/domainferry/internal/repository"
)

// segment is a run of documents that never changes, but for how many of them are deleted.
type segment struct {
	id         int64
	docs, dead int64 // dead ones are still in it
	bytes      int64
	generation int64 // of the committed deletions; 0: none
	touched    bool  // documents died since the last commit
}

// view is a segment as one commit has it.
type view struct {
	id, docs, dead, bytes, generation int64
}

// What a segment takes besides its documents, in bytes and files. Large segments are not compound.
const (
	infoBytes      = 400        // .si and the .cfe of a compound segment
	segmentFiles   = 3          // .si (inside the file list), .cfe, .cfs
	looseFiles     = 13         // of a segment that is not compound
	compoundUpto   = 5 << 20    // bytes; the engines make larger ones loose
	deletionFiles  = 3          // .dvd, .dvm, .fnm of a generation
	deletionHeader = 200        // .dvm and .fnm
	commitBytes    = 500        // segments_N
	tombstoneBytes = 60         // a deletion keeps a place in a segment for a while
	partBytes      = int64(1e9) // chunk_size of an s3 repository: larger files travel in parts
)

// deletionBytes is the size of a generation of soft deletes: a bit for each document.
func (v view) deletionBytes() int64 {
	if v.generation == 0 {
		return 0
	}
	return (v.docs+63)/64*8 + deletionHeader
}

func (v view) total() int64 { return v.bytes + infoBytes + v.deletionBytes() }

// commit is what a snapshot of a shard takes, and what a copy of it holds.
type commit struct {
	number   int64 // of the shard's commits; equal numbers are equal commits
	seqNo    int64 // highest sequence number in it
	live     int64
	segments []view
}

func (c *commit) bytes() int64 {
	n := int64(commitBytes)
	for _, v := range c.segments {
		n += v.total()
	}
	return n
}

// files writes the commit as a repository's file list, so that the restore rule is internal/repository's own.
func (c *commit) files() repository.ShardFiles {
	if c == nil {
		return repository.ShardFiles{}
	}
	list := repository.ShardFiles{Files: make([]repository.File, 0, 2*len(c.segments)+1)}
	for _, v := range c.segments {
		name := "_" + strconv.FormatInt(v.id, 36)
		list.Files = append(list.Files, repository.File{PhysicalName: name + ".cfs", Length: v.bytes + infoBytes, Checksum: name})
		if v.generation > 0 {
			file := name + "_" + strconv.FormatInt(v.generation, 36) + "_Lucene80_0.dvd"
			list.Files = append(list.Files, repository.File{PhysicalName: file, Length: v.deletionBytes(), Checksum: file})
		}
		if v.dead >= v.docs {
			list.Dead = append(list.Dead, name)
		}
	}
	end := "segments_" + strconv.FormatInt(c.number, 36)
	list.Files = append(list.Files, repository.File{PhysicalName: end, Length: commitBytes, Checksum: end})
	return list
}

// epoch is the sum of a shard's operations up to a sequence number.
type epoch struct {
	seqNo                      int64
	appended, updated, deleted int64
}

// shard is a primary of the source: what a snapshot, a restore and a replay of it cost, without its documents.
type shard struct {
	segments []segment
	next     int64 // segment id
	live     int64
	seqNo    int64 // -1: never written
	epochs   []epoch
	changed  bool // since the last commit
	last     *commit
	commits  int64
	random   *rand.Rand
}

func newShard(random *rand.Rand) *shard {
	return &shard{seqNo: -1, epochs: []epoch{{seqNo: -1}}, changed: true, random: random}
}

// age gives an empty shard the segments that years of writing leave: full tiers are merged, so that each tier has some segments, fewer than it
// takes for a merge, and what does not fit there is in segments of the largest size. How many is chance, or else all shards would merge at
// once.
func (s *shard) age(docs float64, documentBytes int64) {
	bytes := docs * float64(documentBytes)
	add := func(size float64) {
		size = min(size, bytes)
		if n := int64(size / float64(documentBytes)); n > 0 {
			s.segments = append(s.segments, segment{id: s.next, docs: n, bytes: n * documentBytes})
			s.next++
		}
		bytes -= size
	}
	var small []float64
	for tier := segmentFloor; tier < segmentLargest/2; tier *= 10 {
		for range 1 + s.random.IntN(segmentsPerTier-1) {
			small = append(small, float64(tier)*(1+4*s.random.Float64()))
		}
	}
	sum := 0.0
	for _, size := range small {
		sum += size
	}
	for bytes-sum > segmentLargest/2 {
		add(segmentLargest * (0.6 + 0.4*s.random.Float64()))
	}
	for _, size := range slices.Backward(small) {
		add(size)
	}
	if bytes > 0 {
		add(bytes)
	}
}

// write applies operations and makes them one new segment: what a refresh does. bytes is the size of one document in a segment.
func (s *shard) write(appended, updated, deleted, bytes int64) {
	updated, deleted = min(updated, s.live), min(deleted, max(0, s.live-updated))
	n := appended + updated + deleted
	if n == 0 {
		return
	}
	s.kill(updated + deleted)
	s.segments = append(s.segments, segment{id: s.next, docs: n, dead: deleted, bytes: (appended+updated)*bytes + deleted*tombstoneBytes})
	s.next++
	s.live += appended - deleted
	s.seqNo += n
	e := s.epochs[len(s.epochs)-1]
	s.epochs = append(s.epochs, epoch{s.seqNo, e.appended + appended, e.updated + updated, e.deleted + deleted})
	s.changed = true
	s.merge()
}

// few is the number of deaths that are dealt out one by one; more of them meet every segment by its share.
const few = 200

// kill deletes n live documents of the segments, each with the same chance.
func (s *shard) kill(n int64) {
	live := int64(0)
	for i := range s.segments {
		live += s.segments[i].docs - s.segments[i].dead
	}
	n = min(n, live)
	if n <= few {
		for ; n > 0; n-- {
			at := s.random.Int64N(live)
			for i := range s.segments {
				g := &s.segments[i]
				if at -= g.docs - g.dead; at < 0 {
					g.dead++
					g.touched = true
					break
				}
			}
			live--
		}
		return
	}
	for i := range s.segments {
		g := &s.segments[i]
		own := g.docs - g.dead
		if own == 0 {
			continue
		}
		// What is left of n over what is left of the live ones: the last segment takes what rounding has left.
		k := min(own, int64(math.Round(float64(n)*float64(own)/float64(live))))
		n, live = n-k, live-own
		if k > 0 {
			g.dead += k
			g.touched = true
		}
	}
}

// The tiers of the built-in model, which has them from Lucene: ten segments of one order of magnitude become one; a segment with more
// than a third deleted is written anew.
const (
	segmentsPerTier = 10
	segmentFloor    = 2 << 20
	segmentLargest  = 5 << 30
	deletedPercent  = 33
)

func (s *shard) merge() {
	for {
		var tiers [8][]int
		chosen, rewrite := []int(nil), -1
		for i := range s.segments {
			g := &s.segments[i]
			if g.bytes > segmentLargest/2 {
				continue
			}
			tier := min(7, int(math.Log10(max(1, float64(g.bytes)/segmentFloor))))
			tiers[tier] = append(tiers[tier], i)
			if g.bytes > segmentFloor && g.dead*100 > g.docs*deletedPercent {
				rewrite = i
			}
		}
		for _, tier := range tiers {
			if len(tier) > segmentsPerTier {
				chosen = tier[:segmentsPerTier]
				break
			}
		}
		if chosen == nil && rewrite >= 0 {
			chosen = []int{rewrite}
		}
		if chosen == nil {
			return
		}
		s.mergeSegments(chosen)
	}
}

// mergeSegments writes the live documents of some segments into a new one.
func (s *shard) mergeSegments(chosen []int) {
	merged := segment{id: s.next}
	for _, i := range chosen {
		g := s.segments[i]
		live := g.docs - g.dead
		merged.docs += live
		if g.docs > 0 {
			merged.bytes += int64(float64(g.bytes) * float64(live) / float64(g.docs))
		}
	}
	keep := s.segments[:0]
	for i, g := range s.segments {
		if !slices.Contains(chosen, i) {
			keep = append(keep, g)
		}
	}
	s.segments = keep
	if merged.docs > 0 {
		s.next++
		s.segments = append(s.segments, merged)
	}
	s.changed = true
}

// forceMerge leaves one segment.
func (s *shard) forceMerge() {
	all := make([]int, len(s.segments))
	for i := range all {
		all[i] = i
	}
	if len(all) > 1 || len(all) == 1 && s.segments[0].dead > 0 {
		s.mergeSegments(all)
	}
}

// flush commits: segments in which documents died get a new generation of deletions.
func (s *shard) flush() *commit {
	if s.last != nil && !s.changed {
		return s.last
	}
	s.commits++
	c := &commit{number: s.commits, seqNo: s.seqNo, live: s.live, segments: make([]view, len(s.segments))}
	for i := range s.segments {
		g := &s.segments[i]
		if g.touched {
			g.generation++
			g.touched = false
		}
		c.segments[i] = view{g.id, g.docs, g.dead, g.bytes, g.generation}
	}
	s.last, s.changed = c, false
	return c
}

// at sums the operations up to a sequence number, evenly between two refreshes.
func (s *shard) at(seqNo int64) (appended, updated, deleted float64) {
	i := sort.Search(len(s.epochs), func(i int) bool { return s.epochs[i].seqNo >= seqNo })
	if i == len(s.epochs) {
		i--
	}
	e := s.epochs[i]
	if i == 0 || e.seqNo == seqNo {
		return float64(e.appended), float64(e.updated), float64(e.deleted)
	}
	b := s.epochs[i-1]
	part := float64(seqNo-b.seqNo) / float64(e.seqNo-b.seqNo)
	between := func(from, to int64) float64 { return float64(from) + part*float64(to-from) }
	return between(b.appended, e.appended), between(b.updated, e.updated), between(b.deleted, e.deleted)
}

// between is what a replay of the operations (from, upto] finds: live documents that are new or changed there, and deletions.
func (s *shard) between(from, upto int64) (documents, deletions float64) {
	a0, u0, d0 := s.at(from)
	a1, u1, d1 := s.at(upto)
	updated := u1 - u0
	// Some documents are updated several times; only the last one is live.
	if live := float64(max(1, s.live)); updated > 0 {
		updated = live * (1 - math.Exp(-updated/live))
	}
	return a1 - a0 + updated, d1 - d0
}

// increment is what a snapshot that already has some segments and generations adds.
func increment(known map[int64]int64, c *commit) (files, bytes, objects int64) {
	for _, v := range c.segments {
		generation, has := known[v.id]
		if !has {
			n := int64(segmentFiles)
			if v.bytes > compoundUpto {
				n = looseFiles
			}
			files += n
			bytes += v.bytes + infoBytes
			objects += n - 1 + v.bytes/partBytes
		}
		if v.generation > 0 && (!has || generation != v.generation) {
			files += deletionFiles
			bytes += v.deletionBytes()
			objects += deletionFiles
		}
	}
	return files + 1, bytes + commitBytes, objects
}
