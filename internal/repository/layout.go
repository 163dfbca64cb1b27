// Package repository knows the on-disk layout of a snapshot repository as Elasticsearch 5.5 to 7.10 and OpenSearch 1 to 3 write
// it: what each key is, the root document index-N, the pointer index.latest, and the file lists of shards, from which it predicts what
// a restore moves. It does no I/O of its own.
//
//	index-N                            root document, JSON, written once; the numerically highest N is the truth
//	index.latest                       N as 8 bytes big endian, best effort
//	snap-<uuid>.dat, meta-<uuid>.dat   one snapshot, its global metadata
//	indices/<id>/meta-<id>.dat         metadata of one index
//	indices/<id>/<shard>/__*           data, never rewritten
//	indices/<id>/<shard>/snap-*.dat    file list of one shard in one snapshot
//	indices/<id>/<shard>/index-*       shard generation; superseded ones are deleted late
//
// Source: BlobStoreRepository, FsBlobContainer and org.elasticsearch.repositories.blobstore package-info of Elasticsearch 7.10 and
// OpenSearch 2.17; documents of real nodes are in testdata.
package repository

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Class says what a key of a repository is.
type Class int

// The classes. Keys are relative to the repository's base path.
const (
	Other           Class = iota // anything else that belongs to the repository: incompatible-snapshots, snapshot_shard_paths/...
	Data                         // indices/<id>/<shard>/__*: immutable under its name
	ShardSnapshot                // indices/<id>/<shard>/snap-<uuid>.dat
	ShallowSnapshot              // shallow-snap-<uuid>.dat: points at a remote store, the data is not in the repository
	ShardIndex                   // indices/<id>/<shard>/index-<generation>
	IndexMetadata                // indices/<id>/meta-<id>.dat
	RootIndex                    // index-N
	RootLatest                   // index.latest
	RootSnapshot                 // snap-<uuid>.dat
	RootMetadata                 // meta-<uuid>.dat
	Verification                 // tests-<seed>/*: leftovers of _verify, no part of any snapshot
	Pending                      // pending-*: a file that an fs repository is still writing, renamed when complete
)

var classNames = [...]string{"other", "data", "shard snapshot", "shallow snapshot", "shard index", "index metadata", "root index",
	"root latest", "root snapshot", "root metadata", "verification", "pending"}

// String names the class for messages.
func (c Class) String() string {
	if c < 0 || int(c) >= len(classNames) {
		return "class " + strconv.Itoa(int(c))
	}
	return classNames[c]
}

// Classify returns the class of a key relative to the repository's base path. Shard paths with a hash before or between
// (OpenSearch shard_path_type HASHED_PREFIX and HASHED_INFIX: <hash>/indices/<id>/<shard>/...) are recognised.
func Classify(key string) Class {
	slash := strings.LastIndexByte(key, '/')
	name := key[slash+1:]
	switch {
	case strings.HasPrefix(key, "tests-"):
		return Verification
	case strings.HasPrefix(name, "pending-"):
		return Pending
	case strings.HasPrefix(name, "shallow-snap-"):
		return ShallowSnapshot
	}
	if slash < 0 {
		return classifyRoot(name)
	}
	// The folder is [<hash>/]indices/<id>[/<shard>].
	depth := -1
	for part := range strings.SplitSeq(key[:slash], "/") {
		if depth >= 0 {
			depth++
		} else if part == "indices" {
			depth = 0
		}
	}
	switch {
	case depth == 1 && strings.HasPrefix(name, "meta-"):
		return IndexMetadata
	case depth < 2:
		return Other
	case strings.HasPrefix(name, "__"):
		return Data
	case strings.HasPrefix(name, "snap-"):
		return ShardSnapshot
	case strings.HasPrefix(name, "index-"):
		return ShardIndex
	}
	return Other
}

func classifyRoot(name string) Class {
	if _, ok := ParseRootName(name); ok {
		return RootIndex
	}
	switch {
	case name == LatestName:
		return RootLatest
	case strings.HasPrefix(name, "snap-"):
		return RootSnapshot
	case strings.HasPrefix(name, "meta-"):
		return RootMetadata
	}
	return Other
}

// LatestName is the key of the pointer to the newest root document.
const LatestName = "index.latest"

// RootPrefix starts the name of every root document.
const RootPrefix = "index-"

// RootName returns the key of the root document of a generation.
func RootName(generation int64) string { return RootPrefix + strconv.FormatInt(generation, 10) }

// ParseRootName returns N of "index-N". Only what a node writes is taken: decimal digits without sign or leading zeros.
func ParseRootName(name string) (generation int64, ok bool) {
	digits, found := strings.CutPrefix(name, RootPrefix)
	if !found || digits == "" || digits[0] < '0' || digits[0] > '9' || (digits[0] == '0' && len(digits) > 1) {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, err == nil
}

// EncodeLatest returns the content of index.latest. Negative generations do not exist and encode as 0.
func EncodeLatest(generation int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(max(generation, 0)))
}

// DecodeLatest reads the content of index.latest: exactly 8 bytes, not negative.
func DecodeLatest(content []byte) (int64, error) {
	if len(content) != 8 {
		return 0, fmt.Errorf("index.latest has %d bytes, not 8", len(content))
	}
	n := binary.BigEndian.Uint64(content)
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("index.latest names the impossible generation %#x", n)
	}
	return int64(n), nil
}
