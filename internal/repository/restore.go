package repository

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Prediction is what a restore of one shard over its closed, warm copy will do, in bytes and files as _recovery counts them.
type Prediction struct {
	Reused, Recovered           int64 // bytes kept, bytes read from the repository
	ReusedFiles, RecoveredFiles int
}

// Total is the size of the shard in bytes.
func (p Prediction) Total() int64 { return p.Reused + p.Recovered }

// ShardPrediction is the prediction of one shard, by its number.
type ShardPrediction struct {
	Shard int
	Prediction
}

// RestoreBytes predicts the restore of next over a closed index that was restored from previous and not been written to, merged or
// deleted since. A zero previous means that there is no such index: all is read.
//
// The rule is that of Elasticsearch up to 7.15 and of OpenSearch 1 to 3 (Store.MetadataSnapshot.recoveryDiff): files are taken by
// segment, and a segment is kept only when each of its files is there with the same length, checksum and, for .si, content. So one
// updated document moves its whole segment, where the index has soft deletes. Files of deletions (.liv, .del) and segments_N form
// one group of their own, which always moves, because the restored shard writes a segments_N of its own when it starts. Segments
// of previous that are deleted in full have gone (ShardFiles.Dead).
// Elasticsearch 7.16 and newer keeps more (generations of a segment apart); there the prediction is too high.
func RestoreBytes(previous, next ShardFiles) Prediction {
	have := make(map[string]File, len(previous.Files))
	for _, f := range previous.Files {
		if !slices.Contains(previous.Dead, f.group()) {
			have[f.PhysicalName] = f
		}
	}
	moves := map[string]bool{perCommit: true}
	for _, f := range next.Files {
		if old, ok := have[f.PhysicalName]; !ok || !f.same(old) {
			moves[f.group()] = true
		}
	}
	var p Prediction
	for _, f := range next.Files {
		if moves[f.group()] {
			p.Recovered += f.Length
			p.RecoveredFiles++
		} else {
			p.Reused += f.Length
			p.ReusedFiles++
		}
	}
	return p
}

// same is the engine's StoreFileMetadata.isSame. A blob's name says nothing: one file may have several.
func (f File) same(other File) bool {
	return f.Length == other.Length && f.Checksum == other.Checksum && bytes.Equal(f.MetaHash, other.MetaHash)
}

// perCommit is the group of the files that belong to a commit and not to one segment; no segment has this name.
const perCommit = "segments"

// group is the segment of a file (Lucene's IndexFileNames.parseSegmentName), or perCommit.
func (f File) group() string {
	if _, extension, _ := strings.Cut(f.PhysicalName, "."); extension == "liv" || extension == "del" {
		return perCommit
	}
	name := f.PhysicalName
	if i := strings.IndexByte(name[min(1, len(name)):], '_'); i >= 0 {
		return name[:i+1]
	}
	segment, _, _ := strings.Cut(name, ".")
	return segment
}

// BlobReader reads an object of a repository. Keys are relative to the repository's base path. It is called from several goroutines
// at once, should refuse objects of more than MaxBlobSize bytes, and says in its errors which bucket it reads.
type BlobReader interface {
	Get(ctx context.Context, key string) ([]byte, error)
}

// readers is how many objects are read at once: small ones, so that latency is what counts.
const readers = 64

// PredictRestore predicts, for each index and shard (in order), the restore of snapshot next over what was restored from snapshot
// previous; "" means that nothing was. Indices that previous does not hold, or holds with another number of shards (the engine
// refuses to restore over these, so they are deleted first), are predicted as read in full.
//
// It reads one or two index metadata blobs an index and two file lists a shard. Errors: a snapshot that is not in the root or did
// not succeed, an index that next does not hold, shard paths with hashes (OpenSearch shard_path_type), whatever the reader
// returns (a shard without file list is a failed one, or a shallow snapshot of a remote store), blobs that cannot be read.
func PredictRestore(ctx context.Context, reader BlobReader, root *Root, previous, next string, indices []string) (
	map[string][]ShardPrediction, error) {
	var old Snapshot
	if previous != "" {
		var err error
		if old, err = root.restorable(previous); err != nil {
			return nil, err
		}
	}
	target, err := root.restorable(next)
	if err != nil {
		return nil, err
	}
	held := map[string]Index{}
	for _, i := range root.IndicesOf(target.UUID) {
		held[i.Name] = i
	}
	type job struct {
		index     Index
		warm      bool // previous holds the index with as many shards
		predicted []ShardPrediction
	}
	jobs := make(map[string]*job, len(indices))
	for _, name := range indices {
		i, ok := held[name]
		if !ok {
			return nil, fmt.Errorf("snapshot %q does not hold index %q", next, name)
		}
		if i.ShardPathType != PathFixed {
			return nil, fmt.Errorf("index %q has its shards below hashed paths (shard_path_type %d), which is not supported; register the "+
				"source's repository with shard_path_type FIXED and take its snapshots anew", name, i.ShardPathType)
		}
		jobs[name] = &job{index: i}
	}

	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, j := range jobs {
		group.Go(func() error {
			key, err := root.metadataKey(target, j.index)
			if err != nil {
				return err
			}
			shards, err := shardCount(groupCtx, reader, key, j.index)
			if err != nil {
				return err
			}
			j.predicted = make([]ShardPrediction, shards)
			if previous == "" || !slices.Contains(j.index.Snapshots, old.UUID) {
				return nil
			}
			oldKey, err := root.metadataKey(old, j.index)
			if err != nil {
				return err
			}
			oldShards := shards
			if oldKey != key {
				if oldShards, err = shardCount(groupCtx, reader, oldKey, j.index); err != nil {
					return err
				}
			}
			j.warm = oldShards == shards
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}

	group, groupCtx = errgroup.WithContext(ctx)
	group.SetLimit(readers)
	for _, j := range jobs {
		for shard := range j.predicted {
			group.Go(func() error {
				var have ShardFiles
				if j.warm {
					var err error
					if have, err = shardFiles(groupCtx, reader, old, j.index, shard); err != nil {
						return err
					}
				}
				want, err := shardFiles(groupCtx, reader, target, j.index, shard)
				if err != nil {
					return err
				}
				j.predicted[shard] = ShardPrediction{Shard: shard, Prediction: RestoreBytes(have, want)}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	out := make(map[string][]ShardPrediction, len(jobs))
	for name, j := range jobs {
		out[name] = j.predicted
	}
	return out, nil
}

// restorable finds a snapshot that a restore can be made from. Before 5.6 the root does not say whether it succeeded.
func (r *Root) restorable(name string) (Snapshot, error) {
	s, ok := r.Snapshot(name, "")
	if !ok {
		return Snapshot{}, fmt.Errorf("the repository has no snapshot %q", name)
	}
	if s.State != StateSuccess && s.State != StateUnknown {
		return Snapshot{}, fmt.Errorf("snapshot %q is %s: not all of its shards have a file list to predict from", name, s.State)
	}
	return s, nil
}

// metadataKey is the key of an index's metadata in a snapshot: by the root's tables since 7.9, by the snapshot's uuid before.
func (r *Root) metadataKey(s Snapshot, i Index) (string, error) {
	id := s.UUID
	if identifier, ok := s.IndexMetadata[i.ID]; ok {
		if id = r.IndexMetadataIdentifiers[identifier]; !fileName(id) {
			return "", fmt.Errorf("the root document names no metadata of index %q in snapshot %q", i.Name, s.Name)
		}
	}
	return "indices/" + i.ID + "/meta-" + id + ".dat", nil
}

// ShardSnapshotKey is the key of the file list of one shard in a snapshot, relative to the base path. It is right for
// PathFixed only.
func ShardSnapshotKey(snapshotUUID, indexID string, shard int) string {
	return fmt.Sprintf("indices/%s/%d/snap-%s.dat", indexID, shard, snapshotUUID)
}

func shardCount(ctx context.Context, reader BlobReader, key string, i Index) (int, error) {
	content, err := reader.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("read the metadata of index %q: %w", i.Name, err)
	}
	n, err := decodeShardCount(content)
	if err != nil {
		return 0, fmt.Errorf("index %q: %s: %w", i.Name, key, err)
	}
	return n, nil
}

func shardFiles(ctx context.Context, reader BlobReader, s Snapshot, i Index, shard int) (ShardFiles, error) {
	key := ShardSnapshotKey(s.UUID, i.ID, shard)
	content, err := reader.Get(ctx, key)
	if err != nil {
		return ShardFiles{}, fmt.Errorf("read the files of shard %d of index %q in snapshot %q: %w", shard, i.Name, s.Name, err)
	}
	list, err := DecodeShardSnapshot(content)
	if err != nil {
		return ShardFiles{}, fmt.Errorf("shard %d of index %q in snapshot %q: %s: %w", shard, i.Name, s.Name, key, err)
	}
	if list.Name != s.Name {
		return ShardFiles{}, fmt.Errorf("shard %d of index %q: %s is of snapshot %q, not of %q", shard, i.Name, key, clip(list.Name), s.Name)
	}
	return list, nil
}
