package repository

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"testing"
)

// allocated is what f allocates in all, in bytes; what of it is alive at once is less.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Blobs that no engine writes end as an error that is short and costs little.
func TestHostileBlobs(t *testing.T) {
	files := func(n int, fields ...any) []byte {
		head, file := smile(obj, "name:", "s", "files:", arr), smile(append(append([]any{obj}, fields...), objEnd)...)[4:]
		return append(append(head, bytes.Repeat(file, n)...), arrEnd, objEnd)
	}
	number := func(n int) []byte { return bytes.Repeat([]byte{0x7F}, n) }
	long := func(kind byte, digits int) []byte {
		return append(append(smile(obj, "name:", "s", "files:", arr, obj, "name:", "x", "meta_hash:"), kind), append(number(digits), 0xBF)...)
	}
	for name, content := range map[string][]byte{
		"a bomb":                           seal(shardSnapshotCodec, 1, deflate(t, make([]byte, 4*maxInflatedSize))),
		"a bomb of files":                  seal(shardSnapshotCodec, 1, deflate(t, files(4_000_000, "name:", "a"))),
		"a million arrays":                 seal(shardSnapshotCodec, 1, append(smile(obj, "name:"), bytes.Repeat([]byte{arr}, 1_000_000)...)),
		"a million arrays, skipped":        seal(shardSnapshotCodec, 1, append(smile(obj, "other:"), bytes.Repeat([]byte{arr}, 1_000_000)...)),
		"a million objects":                seal(shardSnapshotCodec, 1, append(smile(obj, "files:"), bytes.Repeat(smile(obj, "a:")[4:], 1_000_000)...)),
		"one file a hundred thousand fold": seal(shardSnapshotCodec, 1, files(maxFiles, "name:", "__a", "physical_name:", "a", "length:", one, "checksum:", "x")),
		"binary longer than all":           seal(shardSnapshotCodec, 1, long(0xFD, 9)),
		"binary beyond 64 bits":            seal(shardSnapshotCodec, 1, long(0xFD, 12)),
		"packed binary longer than all":    seal(shardSnapshotCodec, 1, long(0xE8, 8)),
		"a big number longer than all":     seal(shardSnapshotCodec, 1, long(0x26, 8)),
		"a codec of 255 characters":        seal(strings.Repeat("c", 255), 1, smile(obj, objEnd)),
		"a codec that is cut off":          append(seal(shardSnapshotCodec, 1, nil)[:4], 0xFF),
		"zeros":                            make([]byte, MaxBlobSize),
		"more than the limit":              make([]byte, MaxBlobSize+1),
		"texts that are not UTF-8":         seal(shardSnapshotCodec, 1, append(smile(obj, "name:", "s", "files:", arr, obj, "name:"), 0x41, 0xFF, 0xFE, arrEnd)),
		"a back reference to nothing":      seal(shardSnapshotCodec, 1, append(smile(obj, "name:"), 0xEF, 0xFF)),
		"metadata, a million objects":      seal(indexMetadataCodec, 1, append(smile(), bytes.Repeat(smile(obj, "settings:")[4:], 1_000_000)...)),
	} {
		t.Run(name, func(t *testing.T) {
			var err, counted error
			took := allocated(func() {
				_, err = DecodeShardSnapshot(content)
				_, counted = decodeShardCount(content)
			})
			if err == nil || counted == nil || len(err.Error()) > 500 || len(counted.Error()) > 500 {
				t.Errorf("%.600v; %.600v", err, counted)
			}
			if took > 8*maxInflatedSize {
				t.Errorf("it took %d MB", took>>20)
			}
		})
	}
}

// The files of segments, which lie in a shard's file list, name counts that nothing follows on.
func TestHostileSegments(t *testing.T) {
	header := func(codec string, version uint32) []byte {
		b := seal(codec, version, nil)
		return append(append(b[:4+1+len(codec)+4:4+1+len(codec)+4], make([]byte, 16)...), 0) // id, no suffix
	}
	commit := append(append(header("segments", 9), 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1), 0xFF, 0xFF, 0xFF, 0xFF, 1, 1, 1)
	for name, content := range map[string][]byte{
		"four billion segments":     commit,
		"a name longer than all":    append(bytes.Clone(commit), 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F),
		"numbers without an end":    append(header("segments", 9), bytes.Repeat([]byte{0x80}, 1000)...),
		"a codec longer than all":   {0x3F, 0xD7, 0x6C, 0x17, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F},
		"nothing":                   nil,
		"a million empty segments":  append(bytes.Clone(commit), make([]byte, 1_000_000)...),
		"a billion updated columns": append(append(bytes.Clone(commit), 1, 'x'), append(append(make([]byte, 16+1+8+4+16+4), 0), 0x3F, 0xFF, 0xFF, 0xFF)...),
	} {
		found := 0
		took := allocated(func() { _ = readCommit(content, func(string, uint64) { found++ }); _, _ = documentsOf(content) })
		if took > 32<<20 || found > len(content) {
			t.Errorf("%s: %d segments, %d MB", name, found, took>>20)
		}
	}
}

func TestHostileRoots(t *testing.T) {
	for name, document := range map[string]string{
		"millions of objects":  `{"snapshots":[` + strings.Repeat("{},", maxRootValues/objectWeight) + `{}],"indices":{}}`,
		"millions of texts":    `{"snapshots":[],"indices":{},"other":[` + strings.Repeat(`"",`, maxRootValues) + `""]}`,
		"invalid UTF-8":        `{"snapshots":[{"name":"` + "\xff" + `","uuid":"u"}],"indices":{}}`,
		"numbers too large":    `{"snapshots":[{"name":"s","uuid":"u","state":1e999}],"indices":{}}`,
		"cut off":              `{"snapshots":[{"name":"s","uuid":"u"}],"indices":{"a":{"id":"x"`,
		"a text for an object": `"index-1"`,
	} {
		var err error
		took := allocated(func() { _, err = DecodeRoot([]byte(document)) })
		if err == nil || len(err.Error()) > 500 {
			t.Errorf("%s: %.600v", name, err)
		}
		if took > 256<<20 {
			t.Errorf("%s: it took %d MB", name, took>>20)
		}
	}
}

// hostileBucket has one content for every key of a kind, framed as that kind is.
type hostileBucket struct{ content []byte }

func (b hostileBucket) Get(_ context.Context, key string) ([]byte, error) {
	if Classify(key) == IndexMetadata {
		return seal(indexMetadataCodec, 1, b.content), nil
	}
	return seal(shardSnapshotCodec, 1, b.content), nil
}

// FuzzPredictRestore reads a root document and what it leads to: no key leaves the repository, and what is predicted adds up.
func FuzzPredictRestore(f *testing.F) {
	const root = `{"snapshots":[{"name":"s1","uuid":"u1","state":1},{"name":"s2","uuid":"u2","state":1,"index_metadata_lookup":{"A":"k"}}],` +
		`"indices":{"a":{"id":"A","snapshots":["u1","u2"]}},"index_metadata_identifiers":{"k":"m"}}`
	f.Add([]byte(root), body(metadata("1"), indexMetadataCodec))
	f.Add([]byte(root), body(shardList("s2", "_0.cfs", "segments_1"), shardSnapshotCodec))
	for _, source := range sources {
		f.Add([]byte(root), body(shardBlob(f, source, "delete-round-2"), shardSnapshotCodec))
	}
	f.Fuzz(func(t *testing.T, document, content []byte) {
		r, err := DecodeRoot(document)
		if err != nil || len(r.Snapshots) > 8 || len(r.Indices) > 8 {
			return
		}
		var indices []string
		for _, i := range r.Indices {
			indices = append(indices, i.Name)
		}
		for _, previous := range append(r.Snapshots, Snapshot{}) {
			for _, next := range r.Snapshots {
				got, err := PredictRestore(t.Context(), hostileBucket{content}, r, previous.Name, next.Name, indices)
				if err != nil {
					if len(err.Error()) > 4096 {
						t.Fatalf("a message of %d bytes", len(err.Error()))
					}
					continue
				}
				for index, shards := range got {
					for n, s := range shards {
						if s.Shard != n || s.Reused < 0 || s.Recovered < 0 {
							t.Errorf("index %q: %+v", index, s)
						}
					}
				}
			}
		}
	})
}
