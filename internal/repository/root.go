package repository

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxRootSize is the largest root document, in bytes, that DecodeRoot accepts. A thousand indices in a thousand snapshots are
// about 25 MB.
const MaxRootSize = 128 << 20

// Limits of what a root document unfolds to: "{}," is three bytes and some hundred in memory. A value of a real one has about 25 bytes.
const (
	maxRootValues = 8 << 20 // an object counts as objectWeight of them
	objectWeight  = 8
)

// State is a snapshot's state as the root document records it (org.elasticsearch.snapshots.SnapshotState).
type State int

// The states. StateUnknown is a document that does not say (before 5.6).
const (
	StateUnknown      State = -1
	StateInProgress   State = 0
	StateSuccess      State = 1
	StateFailed       State = 2
	StatePartial      State = 3
	StateIncompatible State = 4
)

// String returns the name that the snapshot API uses.
func (s State) String() string {
	switch s {
	case StateInProgress:
		return "IN_PROGRESS"
	case StateSuccess:
		return "SUCCESS"
	case StateFailed:
		return "FAILED"
	case StatePartial:
		return "PARTIAL"
	case StateIncompatible:
		return "INCOMPATIBLE"
	case StateUnknown:
		return "unknown"
	}
	return "state " + strconv.Itoa(int(s))
}

// Root is the root document index-N.
type Root struct {
	MinVersion string     // lowest version that may read the repository; "" before 7.6 and from OpenSearch 2 on
	Snapshots  []Snapshot // in the document's order, which is not that of time
	Indices    []Index    // by name

	// IndexMetadataIdentifiers maps indexUUID-historyUUID-settingsVersion-mappingVersion-aliasesVersion to the id of a
	// meta-<id>.dat blob (7.9 and newer). The keys change with every change of settings, mapping or aliases.
	IndexMetadataIdentifiers map[string]string
}

// Snapshot is one snapshot of a repository.
type Snapshot struct {
	Name    string
	UUID    string
	State   State
	Version string // of the cluster that took it; "" when the document does not say

	// IndexMetadata maps an index id to its key in Root.IndexMetadataIdentifiers (7.9 and newer).
	IndexMetadata map[string]string
}

// ShardPathType says where the data of an index's shards lies (OpenSearch 2.17 and newer).
type ShardPathType int

// The shard path types, by OpenSearch's RemoteStoreEnums.PathType codes.
const (
	PathFixed        ShardPathType = 0 // <base>/indices/<id>/<shard>
	PathHashedPrefix ShardPathType = 1 // <hash>/<base>/indices/<id>/<shard>: outside the base path on an s3 repository
	PathHashedInfix  ShardPathType = 2 // <base>/<hash>/indices/<id>/<shard>
)

// Index is one index of a repository.
type Index struct {
	Name             string
	ID               string   // folder under indices/
	Snapshots        []string // uuids of the snapshots that hold it
	ShardGenerations []string // by shard; "" where the document has null; nil before 7.6
	ShardPathType    ShardPathType
}

type rootDocument struct {
	MinVersion string `json:"min_version"`
	Snapshots  []struct {
		Name     string            `json:"name"`
		UUID     string            `json:"uuid"`
		State    *int              `json:"state"`
		Version  string            `json:"version"`
		Metadata map[string]string `json:"index_metadata_lookup"`
	} `json:"snapshots"`
	Indices map[string]struct {
		ID               string    `json:"id"`
		Snapshots        []string  `json:"snapshots"`
		ShardGenerations []*string `json:"shard_generations"`
		ShardPathType    int       `json:"shard_path_type"`
	} `json:"indices"`
	IndexMetadataIdentifiers map[string]string `json:"index_metadata_identifiers"`
}

// DecodeRoot reads a root document. It refuses what a node would refuse (an index that names an unknown snapshot) and what
// could lead a key out of the repository (ids and uuids that are not file names). Unknown fields are ignored, as nodes do.
func DecodeRoot(content []byte) (*Root, error) {
	if len(content) > MaxRootSize {
		return nil, fmt.Errorf("root document has %d bytes, the limit is %d", len(content), MaxRootSize)
	}
	if !utf8.Valid(content) {
		return nil, errors.New("root document is not UTF-8")
	}
	if err := bounded(content); err != nil {
		return nil, err
	}
	var doc rootDocument
	if err := json.Unmarshal(content, &doc); err != nil {
		return nil, fmt.Errorf("root document is not that of Elasticsearch 5.5 or newer or of OpenSearch: %w", err)
	}
	if doc.Snapshots == nil || doc.Indices == nil {
		return nil, errors.New(`root document has no "snapshots" or no "indices"`)
	}
	root := &Root{MinVersion: doc.MinVersion, IndexMetadataIdentifiers: doc.IndexMetadataIdentifiers}
	known := make(map[string]bool, len(doc.Snapshots))
	for _, s := range doc.Snapshots {
		if s.Name == "" || !fileName(s.UUID) {
			return nil, fmt.Errorf("root document has a snapshot %q with the impossible uuid %q", clip(s.Name), clip(s.UUID))
		}
		if known[s.UUID] {
			return nil, fmt.Errorf("root document has the snapshot uuid %q twice", clip(s.UUID))
		}
		known[s.UUID] = true
		state := StateUnknown
		if s.State != nil {
			state = State(*s.State)
		}
		root.Snapshots = append(root.Snapshots, Snapshot{
			Name: s.Name, UUID: s.UUID, State: state, Version: s.Version, IndexMetadata: s.Metadata,
		})
	}
	for name, i := range doc.Indices {
		if !fileName(i.ID) {
			return nil, fmt.Errorf("root document gives index %q the impossible id %q", clip(name), clip(i.ID))
		}
		index := Index{Name: name, ID: i.ID, Snapshots: i.Snapshots, ShardPathType: ShardPathType(i.ShardPathType)}
		for _, uuid := range i.Snapshots {
			if !known[uuid] {
				return nil, fmt.Errorf("root document is corrupt: index %q names the unknown snapshot uuid %q", clip(name), clip(uuid))
			}
		}
		for _, generation := range i.ShardGenerations {
			if generation == nil {
				index.ShardGenerations = append(index.ShardGenerations, "")
				continue
			}
			index.ShardGenerations = append(index.ShardGenerations, *generation)
		}
		root.Indices = append(root.Indices, index)
	}
	slices.SortFunc(root.Indices, func(a, b Index) int { return strings.Compare(a.Name, b.Name) })
	return root, nil
}

// bounded refuses a document that would take far more memory than its size. How deep one may nest is bounded by encoding/json.
func bounded(content []byte) error {
	values := 0
	for i := 0; i < len(content); i++ {
		switch content[i] {
		case '"':
			for i++; i < len(content) && content[i] != '"'; i++ {
				if content[i] == '\\' {
					i++
				}
			}
		case '{':
			values += objectWeight
		case '[', ',':
			values++
		}
		if values > maxRootValues {
			return fmt.Errorf("root document holds more than %d values", maxRootValues)
		}
	}
	return nil
}

// Snapshot returns the snapshot of a name and, unless uuid is empty, of that uuid.
func (r *Root) Snapshot(name, uuid string) (Snapshot, bool) {
	for _, s := range r.Snapshots {
		if s.Name == name && (uuid == "" || s.UUID == uuid) {
			return s, true
		}
	}
	return Snapshot{}, false
}

// IndicesOf returns the indices that the snapshot of a uuid holds, by name.
func (r *Root) IndicesOf(uuid string) []Index {
	var held []Index
	for _, i := range r.Indices {
		if slices.Contains(i.Snapshots, uuid) {
			held = append(held, i)
		}
	}
	return held
}

// fileName reports whether s can be one segment of a key.
func fileName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 255 && !strings.ContainsAny(s, "/\\\x00")
}

// clip keeps hostile documents from filling a message.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "..."
	}
	return s
}
