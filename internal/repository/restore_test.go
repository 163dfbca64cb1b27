package repository

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// sources are the engines whose shard blobs are in testdata/shards: three rounds of some indices, shard 0, and what a destination's
// _recovery then said (written by TestPredictionHoldsOnRealNodes).
var sources = []string{"elasticsearch-6.8.0", "elasticsearch-7.10.2", "opensearch-1.3.20", "opensearch-2.19.0", "opensearch-3.7.0"}

func shardBlob(t testing.TB, source, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", "shards", source, name+".dat"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestRealShardsAndRestores(t *testing.T) {
	reusing, dying := 0, 0
	for _, source := range sources {
		t.Run(source, func(t *testing.T) {
			results, err := filepath.Glob(filepath.Join("testdata", "shards", source, "to-*.json"))
			if err != nil || len(results) == 0 {
				t.Fatalf("no measurements: %v", err)
			}
			lucene := map[string]string{"elasticsearch-6.8.0": "7.7.0", "elasticsearch-7.10.2": "8.7.0", "opensearch-1.3.20": "8.10.1",
				"opensearch-2.19.0": "9.12.1", "opensearch-3.7.0": "10."}[source]
			for _, result := range results {
				content, err := os.ReadFile(result)
				if err != nil {
					t.Fatal(err)
				}
				var measured []struct {
					Index, Previous, Next string
					Measured              Prediction
				}
				if err := json.Unmarshal(content, &measured); err != nil {
					t.Fatal(err)
				}
				for _, m := range measured {
					var previous ShardFiles
					if m.Previous != "" {
						if previous, err = DecodeShardSnapshot(shardBlob(t, source, m.Index+"-"+m.Previous)); err != nil {
							t.Fatal(err)
						}
					}
					next, err := DecodeShardSnapshot(shardBlob(t, source, m.Index+"-"+m.Next))
					if err != nil {
						t.Fatal(err)
					}
					if next.Name != m.Next {
						t.Errorf("the snapshot is %q, not %q", next.Name, m.Next)
					}
					for _, f := range next.Files {
						virtual := strings.HasPrefix(f.Name, "v__")
						if !strings.HasPrefix(f.WrittenBy, lucene) || (!virtual && !strings.HasPrefix(f.Name, "__")) ||
							virtual && int64(len(f.MetaHash)) != f.Length {
							t.Errorf("%+v", f)
						}
					}
					if _, err := deadSegments(next.Files); err != nil {
						t.Errorf("%s %s: %v", m.Index, m.Next, err)
					}
					if got := RestoreBytes(previous, next); got != m.Measured {
						t.Errorf("%s: %s over %q: predicted %+v, measured %+v", filepath.Base(result), m.Next, m.Previous, got, m.Measured)
					}
					if m.Measured.Reused > 0 {
						reusing++
					}
					if previous.Dead = nil; RestoreBytes(previous, next) != m.Measured {
						dying++
					}
				}
			}
			if n, err := decodeShardCount(shardBlob(t, source, "metadata")); err != nil || n != 2 {
				t.Errorf("%d shards, %v", n, err)
			}
		})
	}
	// Otherwise the files would prove little: nothing reused, or no segment that the source keeps although all in it is deleted.
	if reusing < 10 || dying == 0 {
		t.Errorf("%d measurements reuse something, %d depend on dead segments", reusing, dying)
	}
}

func TestRestoreBytesRule(t *testing.T) {
	file := func(name string, length int64, checksum string) File {
		return File{Name: "__" + name, PhysicalName: name, Length: length, Checksum: checksum}
	}
	base := []File{file("_0.cfs", 100, "a"), file("_0.cfe", 10, "b"), file("_0.si", 1, "c"), file("_1_Lucene84_0.tim", 40, "d"),
		file("_1.fdt", 60, "e"), file("_10.cfs", 7, "f"), file("segments_3", 3, "g")}
	change := func(edit func(files []File) []File) []File { return edit(slices.Clone(base)) }
	for name, c := range map[string]struct {
		previous, next []File
		reused         int64
	}{
		"nothing before": {nil, base, 0},
		"the same":       {base, base, 218},
		"another blob name is the same file": {base, change(func(f []File) []File {
			f[0].Name = "__other"
			return f
		}), 218},
		"another length": {base, change(func(f []File) []File {
			f[1].Length++
			return f
		}), 107},
		"another checksum": {base, change(func(f []File) []File {
			f[4].Checksum = "x"
			return f
		}), 118},
		"another content of .si": {base, change(func(f []File) []File {
			f[2].MetaHash = []byte{1}
			return f
		}), 107},
		"a new generation of doc values moves its segment": {base, append(slices.Clone(base), file("_1_1.dvd", 5, "h")), 118},
		"a new generation of field infos too":              {base, append(slices.Clone(base), file("_1_1.fnm", 5, "h")), 118},
		"a new .liv moves with the commit":                 {base, append(slices.Clone(base), file("_0_1.liv", 5, "h")), 218},
		"a known .liv moves too": {append(slices.Clone(base), file("_0_1.liv", 5, "h")),
			append(slices.Clone(base), file("_0_1.liv", 5, "h")), 218},
		"a new segment":    {base, append(slices.Clone(base), file("_2.cfs", 50, "h")), 218},
		"a merged segment": {base, []File{file("_3.cfs", 100, "a"), file("segments_4", 3, "g")}, 0},
	} {
		got := RestoreBytes(ShardFiles{Files: c.previous}, ShardFiles{Files: c.next})
		var total int64
		for _, f := range c.next {
			total += f.Length
		}
		if got.Reused != c.reused || got.Total() != total || got.ReusedFiles+got.RecoveredFiles != len(c.next) {
			t.Errorf("%s: %+v, want %d of %d reused", name, got, c.reused, total)
		}
	}
	if got := RestoreBytes(ShardFiles{Files: base, Dead: []string{"_0"}}, ShardFiles{Files: base}); got.Reused != 107 {
		t.Errorf("a dead segment: %+v", got)
	}
	if got := (File{}).group(); got != "" {
		t.Errorf("a file without name is of %q", got)
	}
}

// seal frames a body as a node would.
func seal(codec string, version uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, codecMagic)
	b = append(append(b, byte(len(codec))), codec...)
	b = append(binary.BigEndian.AppendUint32(b, version), body...)
	b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, footerMagic), 0)
	return binary.BigEndian.AppendUint64(b, uint64(crc32.ChecksumIEEE(b)))
}

func deflate(t testing.TB, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	b.Write(deflateMark)
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// body is what lies between a blob's header and footer.
func body(blob []byte, codec string) []byte { return blob[4+1+len(codec)+4 : len(blob)-footerSize] }

// smile builds documents by hand: keys and texts are short ASCII, everything else is given as bytes.
func smile(parts ...any) []byte {
	b := []byte(":)\n\x05")
	for _, p := range parts {
		switch p := p.(type) {
		case string: // "key:" or "text"
			if key, ok := strings.CutSuffix(p, ":"); ok {
				b = append(append(b, 0x80+byte(len(key)-1)), key...)
			} else {
				b = append(append(b, 0x40+byte(len(p)-1)), p...)
			}
		case int:
			b = append(b, byte(p))
		}
	}
	return b
}

const (
	obj, objEnd, arr, arrEnd, one = 0xFA, 0xFB, 0xF8, 0xF9, 0xC2 // the last is the number 1
)

func TestDecodeShardSnapshotRefuses(t *testing.T) {
	real := shardBlob(t, "opensearch-2.19.0", "update-round-2")
	flipped := bytes.Clone(real)
	flipped[len(flipped)/2] ^= 1
	file := []any{obj, "name:", "__a", "physical_name:", "_0.si", "length:", one, "checksum:", "x"}
	list := func(parts ...any) []byte {
		all := append([]any{obj, "name:", "s", "files:", arr}, parts...)
		return seal(shardSnapshotCodec, 1, smile(append(all, arrEnd, objEnd)...))
	}
	if got, err := DecodeShardSnapshot(list(append(slices.Clone(file), objEnd)...)); err != nil || len(got.Files) != 1 || got.Files[0].Length != 1 {
		t.Fatalf("the refused cases are built on one that is refused itself: %+v %v", got, err)
	}
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"empty":               {nil, "only 0 bytes"},
		"cut":                 {real[:len(real)-20], "cut off"},
		"a flipped bit":       {flipped, "corrupt"},
		"too large":           {make([]byte, MaxBlobSize+1), "limit"},
		"no Lucene file":      {bytes.Repeat([]byte("x"), 100), "codec header"},
		"another codec":       {shardBlob(t, "opensearch-2.19.0", "metadata"), "codec"},
		"another version":     {seal(shardSnapshotCodec, 2, body(real, shardSnapshotCodec)), "version 2"},
		"zstd of a real node": {shardBlob(t, "opensearch-2.19.0", "zstd"), "compressed by zstd"},
		"LZF":                 {seal(shardSnapshotCodec, 1, []byte("LZF\x00xxxx")), "compressed by LZF"},
		"JSON":                {seal(shardSnapshotCodec, 1, []byte(`{"name":"s","files":[]}`)), "SMILE"},
		"SMILE of the future": {seal(shardSnapshotCodec, 1, []byte(":)\n\x15\xFA\xFB")), "version 1"},
		"broken deflate":      {seal(shardSnapshotCodec, 1, []byte("DFL\x00\xFF\xFF\xFF")), "inflated"},
		"a deflate bomb":      {seal(shardSnapshotCodec, 1, deflate(t, make([]byte, maxInflatedSize+1))), "more than"},
		"bottomless":          {seal(shardSnapshotCodec, 1, append(smile(obj, "x:"), bytes.Repeat([]byte{arr}, 1000)...)), "deeper"},
		"no object":           {seal(shardSnapshotCodec, 1, smile(arr, arrEnd)), "belongs"},
		"no files":            {seal(shardSnapshotCodec, 1, smile(obj, "name:", "s", objEnd)), `no "files"`},
		"files twice": {seal(shardSnapshotCodec, 1,
			smile(obj, "name:", "s", "files:", arr, arrEnd, "files:", arr, arrEnd, objEnd)), "twice"},
		"something behind":     {seal(shardSnapshotCodec, 1, smile(obj, "name:", "s", "files:", arr, arrEnd, objEnd, one)), "follow"},
		"an end of the future": {seal(shardSnapshotCodec, 1, smile(obj, "name:", "s", "files:", arr)), "middle"},
		"a bare file":          {list(obj, objEnd), "impossible"},
		"a file as text":       {list("x"), `"text"`},
		"an escaping name":     {list(obj, "name:", "../x", "physical_name:", "_0.si", objEnd), "impossible"},
		"no length":            {list(obj, "name:", "__a", "physical_name:", "_0.si", "checksum:", "x", objEnd), "length"},
		"a negative length":    {list(append(slices.Clone(file), "length:", 0xC1, objEnd)...), "length"},
		"no checksum":          {list(obj, "name:", "__a", "physical_name:", "_0.si", "length:", one, objEnd), "checksum"},
		"a file twice":         {list(append(append(slices.Clone(file), objEnd), append(slices.Clone(file), objEnd)...)...), "twice"},
		"a text hash":          {list(append(slices.Clone(file), "meta_hash:", "x", objEnd)...), "meta_hash"},
		"a reference nowhere":  {list(obj, 0x7F, one, objEnd), "nowhere"},
		"a huge binary":        {list(append(slices.Clone(file), "meta_hash:", 0xFD, 0x7F, 0x7F, 0x7F, 0x7F, 0xBF)...), "middle"},
		"a number too long": {list(append(slices.Clone(file), "length:", 0x25, 0x7F, 0x7F, 0x7F, 0x7F, 0x7F, 0x7F, 0x7F, 0x7F, 0x7F,
			0x7F, 0x7F)...), "64 bits"},
	} {
		_, err := DecodeShardSnapshot(c.content)
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 500 {
			t.Errorf("%s: %v (want %q)", name, err, c.want)
		}
	}
}

// The deflate bomb is small, and inflating it must stop at the limit.
func TestInflatingIsBounded(t *testing.T) {
	bomb := seal(shardSnapshotCodec, 1, deflate(t, make([]byte, 160<<20)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := DecodeShardSnapshot(bomb); err == nil {
		t.Error("it is accepted")
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 8*maxInflatedSize {
		t.Errorf("%d bytes were allocated for a bomb of %d", got, len(bomb))
	}
}

func TestSmileForms(t *testing.T) {
	// Each value between two keys: what is not understood in full would shift the second key.
	for name, value := range map[string]string{
		"empty text": "\x20", "null": "\x21", "false": "\x22", "true": "\x23", "int": "\x24\x01\x81", "long": "\x25\x01\x02\x83",
		"float": "\x28\x00\x01\x02\x03\x04", "double": "\x29\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09",
		"big integer": "\x26\x88\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09", "big decimal": "\x2A\x84\x81\x00\x01",
		"small int": "\xC1", "longest tiny ASCII": "\x5F" + strings.Repeat("x", 32), "shortest short ASCII": "\x60" + strings.Repeat("x", 33),
		"longest short ASCII": "\x7F" + strings.Repeat("x", 64), "shortest tiny text": "\x80\xC3\xA9",
		"longest tiny text": "\x9F" + strings.Repeat("x", 33), "shortest short text": "\xA0" + strings.Repeat("x", 34),
		"longest short text": "\xBF" + strings.Repeat("x", 65), "long ASCII": "\xE0" + strings.Repeat("x", 300) + "\xFC",
		"long text": "\xE4\xC3\xA9\xFC", "binary in 7 bits": "\xE8\x87\x00\x01\x02\x03\x04\x05\x06\x07", "raw binary": "\xFD\x83abc",
		"array": "\xF8\xC1\xFA\xFB\xF9", "object": "\xFA\x80x\xF8\xF9\xFB",
		"long key": "\xFA\x34" + strings.Repeat("k", 100) + "\xFC\xC1\xFB", "empty key": "\xFA\x20\xC1\xFB",
		"key of other text": "\xFA\xC0\xC3\xA9\xC1\xFB", "shared key": "\xFA\x40\xC1\xFB",
	} {
		r, err := newSmileReader([]byte(":)\n\x05\xFA\x80a" + value + "\x81zz\x41zz\xFB\xFF"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.expect(kindObject); err != nil {
			t.Fatal(err)
		}
		var keys []string
		err = r.fields(func(key string) error { keys = append(keys, key); return r.skip() })
		if err != nil || !slices.Equal(keys, []string{"a", "zz"}) {
			t.Errorf("%s: %q, %v", name, keys, err)
		}
		if _, err := r.expect(kindEnd); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Shared texts, when the header says so, by short and long references; numbers.
	r, err := newSmileReader([]byte(":)\n\x03\xF8\x41ab\x01\xEC\x00\x24\x01\x80\x24\x01\x81\xF9"))
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for {
		got, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if got.kind == kindEnd {
			break
		}
		said = append(said, fmt.Sprint(got.kind, " ", got.text, got.number))
	}
	if want := []string{"array 0", "text ab0", "text ab0", "text ab0", "integer 32", "integer -33", "end of array 0"}; !slices.Equal(said, want) {
		t.Errorf("%q", said)
	}
	// After 1024 shared keys the table begins anew, in Jackson as here.
	full := []byte(":)\n\x01\xFA")
	for i := range maxShared + 1 {
		full = append(append(full, 0x83), fmt.Sprintf("%04d\xC1", i)...)
	}
	full = append(full, 0x40, 0xC1, 0xFB)
	if r, err = newSmileReader(full); err != nil {
		t.Fatal(err)
	}
	last := ""
	if _, err := r.expect(kindObject); err != nil {
		t.Fatal(err)
	}
	if err := r.fields(func(key string) error { last = key; return r.skip() }); err != nil || last != "1024" {
		t.Errorf("the key is %q, %v", last, err)
	}
}

// bucket is a repository in memory that counts its readers.
type bucket struct {
	blobs     map[string][]byte
	now, most atomic.Int32
}

func (b *bucket) Get(_ context.Context, key string) ([]byte, error) {
	now := b.now.Add(1)
	defer b.now.Add(-1)
	for most := b.most.Load(); now > most && !b.most.CompareAndSwap(most, now); most = b.most.Load() {
	}
	runtime.Gosched()
	if content, ok := b.blobs[key]; ok {
		return content, nil
	}
	return nil, errors.New("bucket x: no such key " + key)
}

func metadata(shards string) []byte {
	return seal(indexMetadataCodec, 1,
		smile(obj, "i:", obj, "version:", one, "settings:", obj, "index.number_of_shards:", shards, objEnd, objEnd, objEnd))
}

func shardList(snapshot string, files ...string) []byte {
	parts := []any{obj, "name:", snapshot, "files:", arr}
	for _, f := range files {
		parts = append(parts, obj, "name:", "__"+f, "physical_name:", f, "length:", one, "checksum:", "x", objEnd)
	}
	return seal(shardSnapshotCodec, 1, smile(append(parts, arrEnd, objEnd)...))
}

func TestPredictRestore(t *testing.T) {
	root := func() *Root {
		return &Root{
			Snapshots: []Snapshot{
				{Name: "s1", UUID: "u1", State: StateSuccess, IndexMetadata: map[string]string{"A": "k", "B": "k2"}},
				{Name: "s2", UUID: "u2", State: StateSuccess, IndexMetadata: map[string]string{"A": "k", "B": "k3"}},
				{Name: "bad", UUID: "u3", State: StatePartial}, {Name: "old", UUID: "u4", State: StateUnknown}},
			Indices: []Index{{Name: "a", ID: "A", Snapshots: []string{"u1", "u2"}}, {Name: "b", ID: "B", Snapshots: []string{"u1", "u2"}},
				{Name: "new", ID: "N", Snapshots: []string{"u2"}},
				{Name: "hashed", ID: "H", Snapshots: []string{"u2"}, ShardPathType: PathHashedInfix},
				{Name: "lost", ID: "L", Snapshots: []string{"u2"}}, {Name: "wrong", ID: "W", Snapshots: []string{"u2"}},
				{Name: "before", ID: "O", Snapshots: []string{"u4"}}},
			IndexMetadataIdentifiers: map[string]string{"k": "m1", "k2": "m2", "k3": "m3"},
		}
	}
	b := &bucket{blobs: map[string][]byte{
		"indices/A/meta-m1.dat": metadata("2"), "indices/B/meta-m2.dat": metadata("2"), "indices/B/meta-m3.dat": metadata("1"),
		"indices/N/meta-u2.dat": metadata("1"), "indices/L/meta-u2.dat": metadata("1"), "indices/W/meta-u2.dat": metadata("1"),
		"indices/O/meta-u4.dat":   metadata("200"),
		"indices/A/0/snap-u1.dat": shardList("s1", "_0.cfs", "segments_1"),
		"indices/A/1/snap-u1.dat": shardList("s1", "_0.cfs", "segments_1"),
		"indices/A/0/snap-u2.dat": shardList("s2", "_0.cfs", "segments_1"),
		"indices/A/1/snap-u2.dat": shardList("s2", "_1.cfs", "segments_1"),
		"indices/B/0/snap-u1.dat": shardList("s1", "_0.cfs"), "indices/B/1/snap-u1.dat": shardList("s1", "_0.cfs"),
		"indices/B/0/snap-u2.dat": shardList("s2", "_0.cfs"), "indices/N/0/snap-u2.dat": shardList("s2", "_0.cfs", "_1.cfs"),
		"indices/W/0/snap-u2.dat": shardList("s1", "_0.cfs"),
	}}
	for shard := range 200 {
		b.blobs[ShardSnapshotKey("u4", "O", shard)] = shardList("old", "_0.cfs")
	}
	got, err := PredictRestore(t.Context(), b, root(), "s1", "s2", []string{"a", "b", "new", "a"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]ShardPrediction{
		"a":   {{0, Prediction{1, 1, 1, 1}}, {1, Prediction{0, 2, 0, 2}}},
		"b":   {{0, Prediction{0, 1, 0, 1}}}, // another number of shards
		"new": {{0, Prediction{0, 2, 0, 2}}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got, err = PredictRestore(t.Context(), b, root(), "", "old", []string{"before"}); err != nil || len(got["before"]) != 200 {
		t.Errorf("%d shards, %v", len(got["before"]), err)
	}
	if most := b.most.Load(); most > readers {
		t.Errorf("%d readers at once", most)
	}
	for _, c := range []struct{ previous, next, index, want string }{
		{"", "none", "a", "no snapshot"}, {"none", "s2", "a", "no snapshot"}, {"", "bad", "a", "PARTIAL"}, {"bad", "s2", "a", "PARTIAL"},
		{"", "s2", "nope", "does not hold"}, {"", "s1", "new", "does not hold"}, {"", "s2", "hashed", "hashed paths"},
		{"", "s2", "lost", "no such key indices/L/0/snap-u2.dat"}, {"", "s2", "wrong", `of snapshot "s1"`},
	} {
		got, err := PredictRestore(t.Context(), b, root(), c.previous, c.next, []string{c.index})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v %v", c, got, err)
		}
	}
	broken := root()
	broken.IndexMetadataIdentifiers = nil
	if _, err := PredictRestore(t.Context(), b, broken, "", "s2", []string{"a"}); err == nil || !strings.Contains(err.Error(), "names no metadata") {
		t.Errorf("no identifiers: %v", err)
	}
	for _, shards := range []string{"0", "-1", "x", "1025", "9999999999999999999"} {
		if n, err := decodeShardCount(metadata(shards)); err == nil {
			t.Errorf("%q is %d shards", shards, n)
		}
	}
}

func FuzzDecodeShardSnapshot(f *testing.F) {
	for _, source := range sources {
		f.Add(body(shardBlob(f, source, "delete-round-2"), shardSnapshotCodec))
	}
	f.Add(body(shardList("s", "_0.cfs", "_0_1.liv", "segments_1"), shardSnapshotCodec))
	// The frame is put around here, or the checksum would hide the rest from the fuzzer.
	f.Fuzz(func(t *testing.T, content []byte) {
		_, _ = DecodeShardSnapshot(content)
		list, err := DecodeShardSnapshot(seal(shardSnapshotCodec, 1, content))
		if err != nil {
			return
		}
		full, again := RestoreBytes(ShardFiles{}, list), RestoreBytes(list, list)
		if full.Reused != 0 || full.RecoveredFiles != len(list.Files) || again.Total() != full.Total() || again.Reused < 0 || again.Recovered < 0 {
			t.Errorf("%+v, %+v", full, again)
		}
	})
}

func FuzzIndexMetadata(f *testing.F) {
	for _, source := range sources {
		f.Add(body(shardBlob(f, source, "metadata"), indexMetadataCodec))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		if n, err := decodeShardCount(seal(indexMetadataCodec, 1, content)); err == nil && (n < 1 || n > maxShards) {
			t.Errorf("%d shards", n)
		}
	})
}

func FuzzSegments(f *testing.F) {
	for _, source := range sources {
		list, err := DecodeShardSnapshot(shardBlob(f, source, "delete-round-2"))
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range list.Files {
			if len(file.MetaHash) > 0 {
				f.Add(file.MetaHash)
			}
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		_, _ = documentsOf(content)
		_ = readCommit(content, func(string, uint64) {})
	})
}
