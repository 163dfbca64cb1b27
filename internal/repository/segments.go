package repository

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Segments without a live document matter to the prediction: an index with soft deletes keeps deleted documents, and the tombstones
// of deletions, for the sake of its copies (leases that follow every few minutes), and a snapshot has them. A restored shard has no
// such copies: when it is closed, its commit drops every segment that is deleted in full (Lucene's IndexWriter.writeReaderPool with
// Elasticsearch's SoftDeletesPolicy; seen on real nodes), so that the next restore reads such a segment again.

// deadSegments returns the names of the segments that have no live document.
func deadSegments(files []File) ([]string, error) {
	documents := map[string]uint32{}
	var commit []byte
	for _, f := range files {
		segment, isInfo := strings.CutSuffix(f.PhysicalName, ".si")
		switch {
		case strings.HasPrefix(f.PhysicalName, "segments_"):
			commit = f.MetaHash
		case isInfo:
			n, err := documentsOf(f.MetaHash)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.PhysicalName, err)
			}
			documents[segment] = n
		}
	}
	var dead []string
	err := readCommit(commit, func(segment string, deleted uint64) {
		if n, ok := documents[segment]; ok && deleted >= uint64(n) {
			dead = append(dead, segment)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("segments_N: %w", err)
	}
	return dead, nil
}

// luceneReader reads Lucene's primitive types. After an error it returns zeros.
type luceneReader struct {
	in  []byte
	err error
}

func (r *luceneReader) take(n uint64) []byte {
	if r.err == nil && n > uint64(len(r.in)) {
		r.err = errors.New("it ends too early")
	}
	if r.err != nil {
		return nil
	}
	taken := r.in[:n]
	r.in = r.in[n:]
	return taken
}

func (r *luceneReader) byte() byte {
	if b := r.take(1); r.err == nil {
		return b[0]
	}
	return 0
}

func (r *luceneReader) uint32() uint32 {
	if b := r.take(4); r.err == nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint is 7 bits a byte, the lowest first.
func (r *luceneReader) varint() uint64 {
	v, n := binary.Uvarint(r.in)
	if n <= 0 && r.err == nil {
		r.err = errors.New("a number is cut off or too long")
	}
	r.take(uint64(max(n, 0)))
	return v
}

func (r *luceneReader) text() string { return string(r.take(r.varint())) }

// indexHeader reads the header of a file of an index (CodecUtil.writeIndexHeader).
func (r *luceneReader) indexHeader() (codec string, version uint32) {
	if magic := r.uint32(); r.err == nil && magic != codecMagic {
		r.err = errors.New("it does not begin as Lucene's files do")
	}
	codec, version = r.text(), r.uint32()
	r.take(16) // id
	r.take(uint64(r.byte()))
	return codec, version
}

// documentsOf returns the number of documents of a segment, deleted ones too, from its .si file (Lucene70SegmentInfoFormat to
// Lucene99SegmentInfoFormat).
func documentsOf(info []byte) (uint32, error) {
	r := luceneReader{in: info}
	if codec, _ := r.indexHeader(); r.err == nil && !strings.HasSuffix(codec, "SegmentInfo") {
		return 0, fmt.Errorf("its codec is %q", clip(codec))
	}
	version := r.take(12) // three numbers: big endian up to Lucene 8, little endian from 9 on
	if r.err == nil && r.byte() == 1 {
		r.take(12) // the lowest version in it
	}
	count := r.take(4)
	if r.err != nil {
		return 0, r.err
	}
	if binary.BigEndian.Uint32(version) < 256 {
		return binary.BigEndian.Uint32(count), nil
	}
	return binary.LittleEndian.Uint32(count), nil
}

// The forms of segments_N: 9 is that of Lucene 7.4 (the first with soft deletes), 10 that of 8.6 to 10.
const (
	minCommitForm = 9
	maxCommitForm = 10
)

// readCommit calls segment for each segment of a segments_N file with its number of deleted documents, softly or not. Its numbers
// are big endian in all Lucene versions (SegmentInfos.readCommit).
func readCommit(commit []byte, segment func(name string, deleted uint64)) error {
	r := luceneReader{in: commit}
	codec, form := r.indexHeader()
	if r.err == nil && (codec != "segments" || form < minCommitForm || form > maxCommitForm) {
		return fmt.Errorf("its codec is %q in version %d", clip(codec), form)
	}
	for range 4 { // version of Lucene, major version that created the index
		r.varint()
	}
	r.take(8)  // version of the commit
	r.varint() // counter of segment names
	segments := r.uint32()
	if segments > 0 {
		for range 3 { // the lowest version of a segment
			r.varint()
		}
	}
	for range segments {
		name := r.text()
		r.take(16) // id
		r.text()   // codec
		r.take(8)  // generation of .liv
		deleted := uint64(r.uint32())
		r.take(16) // generations of .fnm and of doc values
		deleted += uint64(r.uint32())
		if form >= 10 && r.byte() == 1 {
			r.take(16) // id of the segment's commit
		}
		r.texts()
		for range r.uint32() { // fields with updated doc values
			r.take(4)
			r.texts()
			if r.err != nil {
				break
			}
		}
		if r.err != nil {
			return r.err
		}
		segment(name, deleted)
	}
	return r.err
}

func (r *luceneReader) texts() {
	for range r.varint() {
		r.text()
		if r.err != nil {
			return
		}
	}
}
