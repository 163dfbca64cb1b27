package domain

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

const unknownGeneration = -2 // no write through this registration yet: the listing decides

// repository is one registration of a snapshot repository.
type repository struct {
	name     string
	kind     string
	settings map[string]any
	blobs    Blobs
	// known is the generation last written through this registration. From then on the engine trusts it more than the listing, so that
	// a second writer goes unnoticed until it collides.
	known int64
	cache repositoryData
}

func (r *repository) readonly() bool { return textOf(r.settings["readonly"]) == "true" }

// repositoryData is the content of index-N in the shape of 7.10 (and, with a shard_path_type, of OpenSearch 2).
type repositoryData struct {
	Snapshots   []repositorySnapshot       `json:"snapshots"`
	Indices     map[string]repositoryIndex `json:"indices"`
	MinVersion  string                     `json:"min_version,omitempty"`
	Identifiers map[string]string          `json:"index_metadata_identifiers,omitempty"`
}

type repositorySnapshot struct {
	Name    string            `json:"name"`
	UUID    string            `json:"uuid"`
	State   int               `json:"state"`
	Lookup  map[string]string `json:"index_metadata_lookup,omitempty"`
	Version string            `json:"version"`
}

type repositoryIndex struct {
	ID               string   `json:"id"`
	ShardPathType    *int     `json:"shard_path_type,omitempty"`
	Snapshots        []string `json:"snapshots"`
	ShardGenerations []string `json:"shard_generations"`
}

func (data repositoryData) clone() repositoryData {
	b, _ := json.Marshal(data)
	var out repositoryData
	_ = json.Unmarshal(b, &out)
	if out.Indices == nil {
		out.Indices = map[string]repositoryIndex{}
	}
	if out.Identifiers == nil {
		out.Identifiers = map[string]string{}
	}
	return out
}

func (data repositoryData) find(name string) (repositorySnapshot, bool) {
	i := slices.IndexFunc(data.Snapshots, func(s repositorySnapshot) bool { return s.Name == name })
	if i < 0 {
		return repositorySnapshot{}, false
	}
	return data.Snapshots[i], true
}

func snapshotStateNumber(state string) int {
	return map[string]int{"IN_PROGRESS": 0, "SUCCESS": 1, "FAILED": 2, "PARTIAL": 3}[state]
}

// load reads the current generation: the highest index-N in the listing, unless this registration has written.
func (r *repository) load() (repositoryData, int64, *apiError) {
	if r.known >= 0 && !r.readonly() {
		return r.cache.clone(), r.known, nil
	}
	names, err := r.blobs.List("index-")
	if err != nil {
		return repositoryData{}, 0, fail(500, "repository_exception", "[%s] could not determine repository generation from root blobs",
			r.name).causedBy("i_o_exception", "%v", err)
	}
	highest := int64(-1)
	for _, n := range names {
		if g, err := strconv.ParseInt(strings.TrimPrefix(n, "index-"), 10, 64); err == nil {
			highest = max(highest, g)
		}
	}
	var data repositoryData
	if highest >= 0 {
		b, err := r.blobs.Get(indexBlob(highest))
		if err == nil {
			err = json.Unmarshal(b, &data)
		}
		if err != nil {
			return data, 0, fail(500, "repository_exception", "[%s] Unexpected exception when loading repository data",
				r.name).causedBy("i_o_exception", "%v", err)
		}
	}
	return data.clone(), highest, nil
}

func indexBlob(generation int64) string { return "index-" + strconv.FormatInt(generation, 10) }

// store writes the next generation: index-N first, index.latest after it, and only then are superseded roots removed.
func (r *repository) store(data repositoryData, after int64) *apiError {
	next := after + 1
	if _, err := r.blobs.Get(indexBlob(next)); err == nil {
		return fail(500, "repository_exception", "[%s] concurrent modification of the index-N file, expected current generation [%d] but it was not found in the repository. The last cluster state is not known to this node", r.name, after)
	}
	body, _ := json.Marshal(data)
	if err := r.blobs.Put(indexBlob(next), body); err != nil {
		return fail(500, "repository_exception", "[%s] failed to write %s: %v", r.name, indexBlob(next), err)
	}
	if err := r.blobs.Put("index.latest", binary.BigEndian.AppendUint64(nil, uint64(next))); err != nil {
		return fail(500, "repository_exception", "[%s] failed to write index.latest: %v", r.name, err)
	}
	r.known, r.cache = next, data.clone()
	names, _ := r.blobs.List("index-")
	for _, n := range names {
		if g, err := strconv.ParseInt(strings.TrimPrefix(n, "index-"), 10, 64); err == nil && g < next {
			_ = r.blobs.Delete(n)
		}
	}
	return nil
}

// snapshotInfo is the content of snap-UUID.dat at the root; JSON here, SMILE in the engines.
type snapshotInfo struct {
	Name        string            `json:"name"`
	UUID        string            `json:"uuid"`
	VersionID   int               `json:"version_id"`
	Indices     []string          `json:"indices"`
	Streams     []dataStream      `json:"data_streams,omitempty"`
	State       string            `json:"state"`
	Reason      string            `json:"reason,omitempty"`
	GlobalState bool              `json:"include_global_state"`
	Metadata    map[string]any    `json:"metadata,omitempty"`
	Start       int64             `json:"start_time"`
	End         int64             `json:"end_time"`
	Total       int               `json:"total_shards"`
	Successful  int               `json:"successful_shards"`
	Failures    []snapshotFailure `json:"failures"`
}

type snapshotFailure struct {
	Index     string `json:"index"`
	IndexUUID string `json:"index_uuid"`
	Shard     int    `json:"shard_id"`
	Reason    string `json:"reason"`
	NodeID    string `json:"node_id,omitempty"`
	Status    string `json:"status"`
}

// indexMetadata is the content of indices/ID/meta-*.dat.
type indexMetadata struct {
	Name            string                    `json:"name"`
	Settings        map[string]any            `json:"settings"`
	Mapping         map[string]any            `json:"mapping"`
	Aliases         map[string]map[string]any `json:"aliases"`
	Terms           []int64                   `json:"primary_terms"`
	SettingsVersion int                       `json:"settings_version"`
	MappingVersion  int                       `json:"mapping_version"`
	AliasesVersion  int                       `json:"aliases_version"`
	Closed          bool                      `json:"closed,omitempty"`
}

// shardSnapshot is the content of a shard's snap-UUID.dat, in the engines' field names.
type shardSnapshot struct {
	Name             string     `json:"name"`
	IndexVersion     int64      `json:"index_version"`
	StateID          string     `json:"shard_state_id,omitempty"`
	StartTime        int64      `json:"start_time"`
	Time             int64      `json:"time"`
	IncrementalFiles int        `json:"number_of_files"`
	IncrementalBytes int64      `json:"total_size"`
	Files            []fileInfo `json:"files"`
}

// fileInfo says which blob holds which file. A name that starts with v__ is no blob: the content is meta_hash.
type fileInfo struct {
	Name         string `json:"name"`
	PhysicalName string `json:"physical_name"`
	Length       int64  `json:"length"`
	Checksum     string `json:"checksum"`
	PartSize     int64  `json:"part_size,omitempty"`
	WrittenBy    string `json:"written_by"`
	MetaHash     []byte `json:"meta_hash,omitempty"`
}

func (f fileInfo) virtual() bool { return strings.HasPrefix(f.Name, "v__") }

// blobs names the objects that hold the file: one, or its parts.
func (f fileInfo) blobs() []string {
	if f.virtual() {
		return nil
	}
	if f.PartSize <= 0 || f.Length <= f.PartSize {
		return []string{f.Name}
	}
	var parts []string
	for i := int64(0); i*f.PartSize < f.Length; i++ {
		parts = append(parts, fmt.Sprintf("%s.part%d", f.Name, i))
	}
	return parts
}

// shardIndex is the content of a shard's index-UUID: the file lists of all snapshots of the shard.
type shardIndex struct {
	Snapshots map[string]shardSnapshot `json:"snapshots"` // by snapshot UUID
}

func (r *repository) readJSON(name string, v any) error {
	b, err := r.blobs.Get(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("blob %s is not of the model's making: %w", name, err)
	}
	return nil
}

func (r *repository) writeJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return r.blobs.Put(name, b)
}

// info reads a finished snapshot's root blob.
func (d *Domain) snapshotInfo(r *repository, s repositorySnapshot) (snapshotInfo, *apiError) {
	var info snapshotInfo
	id := fmt.Sprintf("%s:%s/%s", r.name, s.Name, s.UUID)
	if err := r.readJSON("snap-"+s.UUID+".dat", &info); errors.Is(err, fs.ErrNotExist) {
		return info, fail(404, "snapshot_missing_exception", "[%s] is missing", id).causedBy("no_such_file_exception", "snap-%s.dat", s.UUID)
	} else if err != nil {
		return info, fail(500, "snapshot_exception", "[%s] Snapshot could not be read", id).causedBy("parse_exception", "%v", err)
	}
	if from := engineOfID(info.VersionID); d.engine.openSearch && d.engine.major >= 3 && !from.openSearch {
		return info, fail(500, "snapshot_exception", "[%s] Snapshot could not be read", id).
			causedBy("unsupported_version_exception", "Unsupported version [ES %s]", from)
	}
	return info, nil
}

func (r *repository) shardFolder(id string, shard int) string {
	return fmt.Sprintf("indices/%s/%d/", id, shard)
}

// collect removes the blobs of one index that no snapshot names any more, and superseded shard generations.
func (r *repository) collectShard(dir, generation string, keep shardIndex) {
	used := map[string]bool{dir + "index-" + generation: true}
	for uuid, s := range keep.Snapshots {
		used[dir+"snap-"+uuid+".dat"] = true
		for _, f := range s.Files {
			for _, b := range f.blobs() {
				used[dir+b] = true
			}
		}
	}
	names, _ := r.blobs.List(dir)
	for _, n := range names {
		if !used[n] {
			_ = r.blobs.Delete(n)
		}
	}
}
