package domain

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// bitset is a set of document ordinals.
type bitset []uint64

func (b bitset) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bitset) set(i int)      { b[i/64] |= 1 << (i % 64) }

// segment is an immutable run of documents and the set of those deleted since.
type segment struct {
	name, id string
	docs     []*document
	dead     bitset
	killed   int
	bytes    int64
	compound bool

	generation    int64 // of the committed deletions; 0: none
	committedDead bitset
	dataFiles     []segmentFile // made with the first commit
	deletionFiles []segmentFile
}

func (seg *segment) kill(i int) {
	if !seg.dead.has(i) {
		seg.dead.set(i)
		seg.killed++
	}
}

// segmentFile is one file of a commit as a snapshot sees it. Content is made anew whenever it is wanted: documents are immutable, so it is
// always the same.
type segmentFile struct {
	name     string
	length   int64
	checksum string
	small    []byte // whole content of .si and segments_N: it travels inside the shard's file list, not as an object
	content  func() []byte
}

func newFile(name string, small bool, content func() []byte) segmentFile {
	data := content()
	f := segmentFile{name: name, length: int64(len(data)), checksum: checksum(data), content: content}
	if small {
		f.small = data
	}
	return f
}

func checksum(data []byte) string { return strconv.FormatUint(uint64(crc32.ChecksumIEEE(data)), 36) }

// files lists the segment's files as of the last commit.
func (seg *segment) files() []segmentFile {
	if seg.dataFiles == nil {
		docs := seg.docs
		header := segmentInfo{Name: seg.name, ID: seg.id, Documents: len(docs), Compound: seg.compound}
		info := func() []byte { b, _ := json.Marshal(header); return b }
		table := func(kind string) func() []byte {
			return func() []byte { return fmt.Appendf(nil, "%s %s %s %d\n", kind, seg.name, header.ID, len(docs)) }
		}
		data := func() []byte { return encodeDocuments(header.ID, docs) }
		seg.dataFiles = []segmentFile{newFile(seg.name+".si", true, info)}
		if seg.compound {
			seg.dataFiles = append(seg.dataFiles, newFile(seg.name+".cfe", false, table("entries")), newFile(seg.name+".cfs", false, data))
		} else {
			seg.dataFiles = append(seg.dataFiles, newFile(seg.name+".fdt", false, data), newFile(seg.name+".fdx", false, table("fields")),
				newFile(seg.name+".fnm", false, table("names")), newFile(seg.name+"_Lucene84_0.tip", false, table("terms")))
		}
	}
	return slices.Concat(seg.dataFiles, seg.deletionFiles)
}

type segmentInfo struct {
	Name      string `json:"name"`
	ID        string `json:"id"`
	Documents int    `json:"documents"`
	Compound  bool   `json:"compound"`
}

// commitDeletions writes a new generation of deletion files when documents died since the last. With soft deletes they are doc values
// and belong to the segment; without they are live-document files that belong to the commit. That difference decides what a restore reuses.
func (seg *segment) commitDeletions(soft bool) {
	if seg.killed == 0 || slices.Equal(seg.dead, seg.committedDead) {
		return
	}
	dead := slices.Clone(seg.dead)
	seg.committedDead = dead
	seg.generation++
	generation := strconv.FormatInt(seg.generation, 36)
	content := func() []byte {
		b := append([]byte(seg.id), '\n')
		for _, word := range dead {
			b = binary.LittleEndian.AppendUint64(b, word)
		}
		return b
	}
	label := func() []byte { return fmt.Appendf(nil, "%s %s\n", seg.id, generation) }
	if soft {
		prefix := seg.name + "_" + generation
		seg.deletionFiles = []segmentFile{newFile(prefix+"_Lucene80_0.dvd", false, content),
			newFile(prefix+"_Lucene80_0.dvm", false, label), newFile(prefix+".fnm", false, label)}
	} else {
		seg.deletionFiles = []segmentFile{newFile(seg.name+"_"+generation+".liv", false, content)}
	}
}

// commit is a segments_N file with all that it names.
type commit struct {
	id                     string
	generation, maxSeqNo   int64
	nextSegment            int64
	historyUUID, mergeUUID string
	minimumVersion         string
	segments               []committedSegment
	files                  []segmentFile
}

type committedSegment struct {
	segment    *segment
	name, id   string
	generation int64
}

type commitContent struct {
	ID          string            `json:"id"`
	NextSegment int64             `json:"next_segment"`
	Segments    []commitSegment   `json:"segments"`
	UserData    map[string]string `json:"user_data"`
}

type commitSegment struct {
	Name       string `json:"name"`
	ID         string `json:"id"`
	Generation int64  `json:"generation"`
}

func (c *commit) userData() map[string]string {
	data := map[string]string{"local_checkpoint": strconv.FormatInt(c.maxSeqNo, 10), "max_seq_no": strconv.FormatInt(c.maxSeqNo, 10),
		"max_unsafe_auto_id_timestamp": "-1", "min_retained_seq_no": "0", "history_uuid": c.historyUUID, "translog_uuid": c.id}
	if c.mergeUUID != "" {
		data["force_merge_uuid"] = c.mergeUUID
	}
	return data
}

func (c *commit) file() segmentFile {
	content := commitContent{ID: c.id, NextSegment: c.nextSegment, UserData: c.userData()}
	for _, s := range c.segments {
		content.Segments = append(content.Segments, commitSegment{s.name, s.id, s.generation})
	}
	return newFile("segments_"+strconv.FormatInt(c.generation, 36), true, func() []byte { b, _ := json.Marshal(content); return b })
}

// fileGroup is the unit that a restore reuses or fetches: all files of a segment, or the commit itself with its live-document
// files (the engines' Store.MetadataSnapshot.recoveryDiff up to 7.15 and in OpenSearch).
func fileGroup(name string) string {
	if strings.HasPrefix(name, "segments_") || strings.HasSuffix(name, ".liv") {
		return ""
	}
	end := strings.IndexAny(name[1:], "_.")
	if end < 0 {
		return name
	}
	return name[:end+1]
}

func encodeDocuments(id string, docs []*document) []byte {
	size := len(id) + 32
	for _, doc := range docs {
		size += int(doc.size())
	}
	b := make([]byte, 0, size)
	b = appendText(b, id)
	b = binary.AppendUvarint(b, uint64(len(docs)))
	for _, doc := range docs {
		b = appendText(b, doc.id)
		b = appendText(b, doc.routing)
		b = binary.AppendUvarint(b, uint64(doc.version))
		b = binary.AppendUvarint(b, uint64(doc.seqNo))
		b = binary.AppendUvarint(b, uint64(doc.term))
		if doc.tombstone {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		b = binary.AppendUvarint(b, uint64(len(doc.source)))
		b = append(b, doc.source...)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errTruncated = errors.New("segment data ends in the middle of a document")

func decodeDocuments(data []byte) (docs []*document, err error) {
	next := func() uint64 {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			err = errTruncated
			data = nil
			return 0
		}
		data = data[n:]
		return v
	}
	take := func() []byte {
		n := next()
		if uint64(len(data)) < n {
			err = errTruncated
			data = nil
			return nil
		}
		b := data[:n:n]
		data = data[n:]
		return b
	}
	take()
	count := next()
	for i := uint64(0); i < count && err == nil; i++ {
		doc := &document{id: string(take()), routing: string(take())}
		doc.version, doc.seqNo, doc.term = int64(next()), int64(next()), int64(next())
		if len(data) == 0 {
			return nil, errTruncated
		}
		doc.tombstone = data[0] == 1
		data = data[1:]
		doc.source = take()
		docs = append(docs, doc)
	}
	return docs, err
}

func decodeDeletions(data []byte, id string) (bitset, error) {
	rest, ok := strings.CutPrefix(string(data), id+"\n")
	if !ok || len(rest)%8 != 0 {
		return nil, fmt.Errorf("deletions do not belong to segment %s", id)
	}
	var b bitset
	for i := 0; i < len(rest); i += 8 {
		b = append(b, binary.LittleEndian.Uint64([]byte(rest[i:i+8])))
	}
	return b, nil
}

// installSegments replaces the shard's store by the commit among the files given: those whose segment is in reuse keep their documents,
// all others are decoded from their content.
func (s *shard) installSegments(names []string, content map[string][]byte, reuse map[string]*segment) error {
	var commitName string
	for _, name := range names {
		if strings.HasPrefix(name, "segments_") {
			commitName = name
		}
	}
	var c commitContent
	if err := json.Unmarshal(content[commitName], &c); err != nil {
		return fmt.Errorf("commit %q: %w", commitName, err)
	}
	maxSeqNo, err := strconv.ParseInt(c.UserData["max_seq_no"], 10, 64)
	if err != nil {
		return fmt.Errorf("commit %q: %w", commitName, err)
	}
	byGroup := map[string][]string{}
	for _, name := range names {
		segment := fileGroup(name)
		if strings.HasSuffix(name, ".liv") {
			segment = name[:strings.IndexByte(name[1:], '_')+1]
		}
		byGroup[segment] = append(byGroup[segment], name)
	}
	var segments []*segment
	for _, cs := range c.Segments {
		seg := reuse[cs.Name]
		if seg == nil || seg.id != cs.ID {
			seg = &segment{name: cs.Name, id: cs.ID}
			for _, name := range byGroup[cs.Name] {
				data := content[name]
				switch {
				case strings.HasSuffix(name, ".si"):
					var info segmentInfo
					if err := json.Unmarshal(data, &info); err != nil {
						return fmt.Errorf("segment info %s: %w", name, err)
					}
					seg.compound = info.Compound
				case strings.HasSuffix(name, ".cfs"), strings.HasSuffix(name, ".fdt"):
					if seg.docs, err = decodeDocuments(data); err != nil {
						return fmt.Errorf("segment data %s: %w", name, err)
					}
				}
			}
			for i, doc := range seg.docs {
				doc.segment, doc.ordinal = seg, i
				seg.bytes += doc.size()
			}
		} else {
			// A reused segment may have died further in memory after the snapshot's point: take the deletions of the commit.
			seg = &segment{name: seg.name, id: seg.id, docs: seg.docs, bytes: seg.bytes, compound: seg.compound, committedDead: seg.committedDead}
			for i, doc := range seg.docs {
				doc.segment, doc.ordinal = seg, i
			}
		}
		seg.generation = cs.Generation
		seg.dead = make(bitset, (len(seg.docs)+63)/64)
		deletions := func(name string) bool { return strings.HasSuffix(name, ".dvd") || strings.HasSuffix(name, ".liv") }
		if !slices.ContainsFunc(byGroup[cs.Name], deletions) {
			seg.committedDead = nil // what died at the copy since, and was committed there, lives again
		}
		for _, name := range byGroup[cs.Name] {
			if data := content[name]; data != nil && deletions(name) {
				if seg.committedDead, err = decodeDeletions(data, seg.id); err != nil {
					return err
				}
			}
		}
		copy(seg.dead, seg.committedDead)
		for i := range seg.docs {
			if seg.dead.has(i) {
				seg.killed++
			}
		}
		seg.rebuildFiles(s.softDeletes())
		segments = append(segments, seg)
	}
	s.wipe()
	s.segments, s.nextSegment, s.maxSeqNo = segments, c.NextSegment, maxSeqNo
	s.mergeUUID = c.UserData["force_merge_uuid"]
	for _, seg := range segments {
		for i, doc := range seg.docs {
			if !seg.dead.has(i) {
				s.live[doc.id] = doc
			}
		}
	}
	return nil
}

// rebuildFiles makes the deletion files of a restored segment under the generation that it was restored with.
func (seg *segment) rebuildFiles(soft bool) {
	seg.dataFiles, seg.deletionFiles = nil, nil
	if seg.generation == 0 {
		return
	}
	seg.generation--
	seg.committedDead = nil
	seg.commitDeletions(soft)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
