package repository

import (
	"errors"
	"fmt"
	"strconv"
)

// Limits of one shard's file list. Lucene's own limit of open files ends a shard long before.
const (
	maxFiles      = 100_000
	maxShardBytes = 1 << 60
	maxShards     = 1024 // Elasticsearch's and OpenSearch's own default limit of an index (es.index.max_number_of_shards)
)

// ShardFiles is the file list of one shard in one snapshot: everything that a restore of the shard reads.
type ShardFiles struct {
	Name  string // the snapshot's
	Files []File

	// Dead are the segments that have no live document, by name such as "_3"; a shard restored from here loses them when it is closed.
	// It stays empty where the form of segments_N or .si is not known here (before Lucene 7.4 and after 10).
	Dead []string
}

// File is one Lucene file of a shard.
type File struct {
	Name         string // blob: __<id>, in parts __<id>.part<n> when longer than PartSize, or v__<id> when MetaHash is all of it
	PhysicalName string // name in the shard's folder, such as _0.cfs
	Length       int64  // bytes
	Checksum     string // of Lucene's footer, in base 36
	PartSize     int64  // bytes; 0 when the file list does not say
	WrittenBy    string // version of Lucene
	MetaHash     []byte // content of .si and segments_N files, otherwise nil
}

// DecodeShardSnapshot reads the blob indices/<id>/<shard>/snap-<uuid>.dat as Elasticsearch 5.5 to 7.10 and OpenSearch 1 to 3 write
// it. It never takes more memory than some multiple of 32 MiB. Unknown fields are ignored, as nodes do. Blobs compressed by zstd
// are refused.
//
// Source: BlobStoreIndexShardSnapshot and ChecksumBlobStoreFormat of Elasticsearch 7.10; blobs of real nodes are in testdata.
func DecodeShardSnapshot(content []byte) (ShardFiles, error) {
	list, err := decodeShardSnapshot(content)
	if err != nil {
		return ShardFiles{}, fmt.Errorf("shard file list: %w", err)
	}
	return list, nil
}

func decodeShardSnapshot(content []byte) (ShardFiles, error) {
	r, err := openBlob(content, shardSnapshotCodec)
	if err != nil {
		return ShardFiles{}, err
	}
	if _, err := r.expect(kindObject); err != nil {
		return ShardFiles{}, err
	}
	var list ShardFiles
	found := false
	err = r.fields(func(key string) error {
		switch key {
		case "name":
			return readText(r, key, &list.Name)
		case "files":
			if found {
				return errors.New(`it has "files" twice`)
			}
			found = true
			return readFiles(r, &list)
		}
		return r.skip()
	})
	if err != nil {
		return ShardFiles{}, err
	}
	if _, err := r.expect(kindEnd); err != nil {
		return ShardFiles{}, err
	}
	if list.Name == "" || !found {
		return ShardFiles{}, errors.New(`it has no "name" or no "files"`)
	}
	// An engine newer than this program may write other forms; the rule over files, which is nearly all, needs nothing of them.
	if dead, err := deadSegments(list.Files); err == nil {
		list.Dead = dead
	}
	return list, nil
}

func readFiles(r *smileReader, list *ShardFiles) error {
	if _, err := r.expect(kindArray); err != nil {
		return err
	}
	var total int64
	seen := map[string]bool{}
	for {
		t, err := r.next()
		if err != nil {
			return err
		}
		if t.kind == kindArrayEnd {
			return nil
		}
		if t.kind != kindObject {
			return fmt.Errorf("a file is an %q", t.kind)
		}
		if len(list.Files) == maxFiles {
			return fmt.Errorf("it has more than %d files", maxFiles)
		}
		f, err := readFile(r)
		if err != nil {
			return fmt.Errorf("file %q: %w", clip(f.PhysicalName), err)
		}
		if seen[f.PhysicalName] {
			return fmt.Errorf("it has the file %q twice", clip(f.PhysicalName))
		}
		seen[f.PhysicalName] = true
		if total += f.Length; total > maxShardBytes {
			return fmt.Errorf("its files have more than %d bytes together", int64(maxShardBytes))
		}
		list.Files = append(list.Files, f)
	}
}

// readFile reads one file. On an error the name read so far is returned with it.
func readFile(r *smileReader) (File, error) {
	f := File{Length: -1}
	err := r.fields(func(key string) error {
		switch key {
		case "name":
			return readText(r, key, &f.Name)
		case "physical_name":
			return readText(r, key, &f.PhysicalName)
		case "checksum":
			return readText(r, key, &f.Checksum)
		case "written_by":
			return readText(r, key, &f.WrittenBy)
		case "length":
			return readSize(r, key, &f.Length)
		case "part_size":
			return readSize(r, key, &f.PartSize)
		case "meta_hash":
			t, err := r.next()
			if err == nil && t.kind != kindBinary {
				err = fmt.Errorf("its meta_hash is an %q", t.kind)
			}
			f.MetaHash = append([]byte(nil), t.bytes...)
			return err
		}
		return r.skip()
	})
	switch {
	case err != nil:
		return f, err
	case !fileName(f.Name) || !fileName(f.PhysicalName):
		return f, fmt.Errorf("its blob %q or its own name is impossible", clip(f.Name))
	case f.Length < 0:
		return f, errors.New("it has no length")
	case f.Checksum == "":
		return f, errors.New("it has no checksum: it is older than what is supported here")
	}
	return f, nil
}

// readText reads a text value. Null stays the empty text.
func readText(r *smileReader, key string, into *string) error {
	t, err := r.next()
	if err != nil {
		return err
	}
	if t.kind != kindText {
		return fmt.Errorf("its %s is an %q", key, t.kind)
	}
	*into = t.text
	return nil
}

func readSize(r *smileReader, key string, into *int64) error {
	t, err := r.next()
	if err != nil {
		return err
	}
	if t.kind != kindInteger || t.number < 0 || t.number > maxShardBytes && key == "length" {
		return fmt.Errorf("its %s is the %q %d", key, t.kind, t.number)
	}
	*into = t.number
	return nil
}

// decodeShardCount reads the number of shards from the blob indices/<id>/meta-<id>.dat.
func decodeShardCount(content []byte) (int, error) {
	r, err := openBlob(content, indexMetadataCodec)
	if err != nil {
		return 0, fmt.Errorf("index metadata: %w", err)
	}
	shards := ""
	// {"<index>": {"settings": {"index.number_of_shards": "5", ...}, ...}}
	path := []string{"", "settings", "index.number_of_shards"}
	var descend func(level int) error
	descend = func(level int) error {
		if level == len(path) {
			return readText(r, path[level-1], &shards)
		}
		if _, err := r.expect(kindObject); err != nil {
			return err
		}
		return r.fields(func(key string) error {
			if level == 0 || key == path[level] {
				return descend(level + 1)
			}
			return r.skip()
		})
	}
	if err := descend(0); err != nil {
		return 0, fmt.Errorf("index metadata: %w", err)
	}
	n, err := strconv.Atoi(shards)
	if err != nil || n < 1 || n > maxShards {
		return 0, fmt.Errorf("index metadata: its number of shards is %q", clip(shards))
	}
	return n, nil
}
