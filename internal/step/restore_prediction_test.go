package step

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/repository"
	"github.com/domainferry/domainferry/internal/s3copy"
)

// blobs is a copied repository that can be read.
type blobs map[string][]byte

func (b blobs) Get(_ context.Context, key string) ([]byte, error) {
	if content, ok := b[key]; ok {
		return content, nil
	}
	return nil, errors.New("bucket new-snapshots: no such key " + key)
}

// frame is a metadata blob as a node writes it: Lucene's header, SMILE, Lucene's footer with its CRC. A key is given with a colon after
// it, other texts without, and everything that is no text as its byte.
func frame(codec string, parts ...any) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0x3FD76C17)
	b = append(append(b, byte(len(codec))), codec...)
	b = append(binary.BigEndian.AppendUint32(b, 1), ":)\n\x05"...)
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			if key, is := strings.CutSuffix(p, ":"); is {
				b = append(append(b, 0x80+byte(len(key)-1)), key...)
			} else {
				b = append(append(b, 0x40+byte(len(p)-1)), p...)
			}
		case int:
			b = append(b, byte(p))
		}
	}
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, ^uint32(0x3FD76C17)), 0)
	return binary.BigEndian.AppendUint64(b, uint64(crc32.ChecksumIEEE(b)))
}

// SMILE's brackets, and small integers: those from 0 to 15.
const (
	smileObject, smileObjectEnd, smileArray, smileArrayEnd = 0xFA, 0xFB, 0xF8, 0xF9
)

func smileInt(n int) int { return 0xC0 + 2*n }

func indexMetadata(shards string) []byte {
	return frame("index-metadata", smileObject, "i:", smileObject, "version:", smileInt(1), "settings:", smileObject,
		"index.number_of_shards:", shards, smileObjectEnd, smileObjectEnd, smileObjectEnd)
}

// shardFiles lists files of a shard, each with its length.
func shardFiles(snapshot string, files ...any) []byte {
	parts := []any{smileObject, "name:", snapshot, "files:", smileArray}
	for i := 0; i < len(files); i += 2 {
		name := files[i].(string)
		parts = append(parts, smileObject, "name:", "__"+name, "physical_name:", name, "length:", smileInt(files[i+1].(int)), "checksum:", "x", smileObjectEnd)
	}
	return frame("snapshot", append(parts, smileArrayEnd, smileObjectEnd)...)
}

// What the copied repository's file lists say is in predictions/NNNN.json before the restore, and beside what was moved in the round's
// record and in its measures.
func TestRestoreIsPredictedFromTheRepository(t *testing.T) {
	const root = `{"snapshots": [
		{"name": "orders-r0001", "uuid": "u1", "state": 1, "version": "7.10.2", "index_metadata_lookup": {"A": "k1", "B": "k2"}},
		{"name": "orders-r0002", "uuid": "u2", "state": 1, "version": "7.10.2", "index_metadata_lookup": {"A": "k1", "B": "k2"}}],
		"indices": {"a": {"id": "A", "snapshots": ["u1", "u2"]}, "b": {"id": "B", "snapshots": ["u1", "u2"]}},
		"index_metadata_identifiers": {"k1": "m1", "k2": "m2"}}`
	complete := func() blobs {
		return blobs{
			"index-2": []byte(root), "indices/A/meta-m1.dat": indexMetadata("2"), "indices/B/meta-m2.dat": indexMetadata("1"),
			// Appended to: the old segment stays, the new one and the commit move.
			"indices/A/0/snap-u1.dat": shardFiles("orders-r0001", "_0.cfs", 9, "segments_1", 1),
			"indices/A/0/snap-u2.dat": shardFiles("orders-r0002", "_0.cfs", 9, "_1.cfs", 5, "segments_2", 1),
			// Updated: a file of doc values more, so that the whole segment moves.
			"indices/A/1/snap-u1.dat": shardFiles("orders-r0001", "_0.cfs", 8, "segments_1", 1),
			"indices/A/1/snap-u2.dat": shardFiles("orders-r0002", "_0.cfs", 8, "_0_1.dvd", 2, "segments_2", 1),
			"indices/B/0/snap-u1.dat": shardFiles("orders-r0001", "_0.cfs", 7, "segments_1", 1),
			"indices/B/0/snap-u2.dat": shardFiles("orders-r0002", "_0.cfs", 7, "segments_1", 1),
		}
	}
	const a, b = 5 + 1 + 8 + 2 + 1, 1
	for name, c := range map[string]struct {
		change func(blobs)
		want   map[string]int64
		sum    int64 // -1: none
		says   string
	}{
		"readable":      {func(blobs) {}, map[string]int64{"a": a, "b": b}, a + b, ""},
		"a list lost":   {func(x blobs) { delete(x, "indices/B/0/snap-u2.dat") }, map[string]int64{}, -1, "no such key indices/B/0/snap-u2.dat"},
		"no root":       {func(x blobs) { delete(x, "index-2") }, map[string]int64{}, -1, "no such key index-2"},
		"a broken root": {func(x blobs) { x["index-2"] = []byte("{") }, map[string]int64{}, -1, "root document"},
	} {
		t.Run(name, func(t *testing.T) {
			w := warmed(t)
			w.source.write("a")
			w.source.write("b")
			if _, err := runSnapshot(w, round(2, false)); err != nil {
				t.Fatal(err)
			}
			there := complete()
			c.change(there)
			var asked migration.Repository
			open := func(r migration.Repository) repository.BlobReader { asked = r; return there }
			copier := &copier{publish: s3copy.PublishResult{Published: true}}
			publish := PublishCopy{w.store, func(migration.Repository, migration.Repository) CopyPublisher { return copier }, open, w}
			out, err := publish.Run(t.Context(), PublishCopyInput{RoundInput: round(2, false), Root: s3copy.Root{Name: "index-2"}, StartedAt: w.now})
			if err != nil || !out.Published {
				t.Fatalf("%+v, %v", out, err)
			}
			if asked.Bucket != "new-snapshots" {
				t.Errorf("file lists were read in %+v, not where the restore reads", asked)
			}
			p, found, err := w.journal().Prediction(t.Context(), 2)
			if err != nil || !found || len(p.Indices) != len(c.want) || (p.Unknown == "") != (c.says == "") || !strings.Contains(p.Unknown, c.says) {
				t.Fatalf("%+v, %t, %v", p, found, err)
			}
			for index, want := range c.want {
				if p.Indices[index] != want {
					t.Errorf("%s: %d bytes, want %d", index, p.Indices[index], want)
				}
			}
			w.warm(2)
			rounds, err := w.journal().Rounds(t.Context())
			w.must(err)
			r := rounds[1].Restore
			if (r.PredictedBytes == nil) != (c.sum < 0) || r.PredictedBytes != nil && *r.PredictedBytes != c.sum || !strings.Contains(r.Unpredicted, c.says) {
				t.Errorf("the round's record has %+v", r)
			}
			measures, err := w.journal().Measures(t.Context(), 2)
			w.must(err)
			for index, want := range c.want {
				if m := measures[index]; m.Predicted == nil || *m.Predicted != want || m.Recovered == 0 {
					t.Errorf("%s: %+v, want %d beside what was moved", index, m, want)
				}
			}
		})
	}
}
