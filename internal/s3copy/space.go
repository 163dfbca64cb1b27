package s3copy

import (
	"hash/fnv"
	"io"
	"strconv"
	"strings"
)

// space maps between a repository's logical keys and the bucket's.
//
// Inside, a logical key is the key below the base path. Outside, it is "<hash>/indices/<id>/<shard>/<blob>", which OpenSearch 3.2 and
// newer (2.17 and newer on demand: shard_path_type HASHED_PREFIX) puts at "<hash>/<base path>/indices/..." of an s3 repository: in
// front of the base path, one folder a shard. Both maps keep the byte order, because a hash holds no slash.
type space struct {
	bucket  string
	base    string // base path with its slash, or empty
	listed  string // prefix of what is listed
	outside bool
}

func (r Range) space(at Location) space {
	if r.Outside {
		return space{bucket: at.Bucket, base: at.base(), outside: true}
	}
	return space{bucket: at.Bucket, base: at.base(), listed: at.base()}
}

func (p space) address(logical string) string { return "s3://" + p.bucket + "/" + p.full(logical) }

// full returns the key in the bucket.
func (p space) full(logical string) string {
	if !p.outside {
		return p.base + logical
	}
	hash, rest, found := strings.Cut(logical, "/")
	if !found {
		return logical // a bound between two hashes
	}
	return hash + "/" + p.base + rest
}

// logical returns the logical key of a key in the bucket; false when it does not belong to the repository.
func (p space) logical(full string) (string, bool) {
	if !p.outside {
		return strings.CutPrefix(full, p.base)
	}
	hash, rest, found := strings.Cut(full, "/")
	if !found {
		return "", false
	}
	if rest, found = strings.CutPrefix(rest, p.base); !found || !hashed(hash, rest) {
		return "", false
	}
	if p.base == "" {
		return full, true
	}
	return hash + "/" + rest, true
}

// skip returns a key of the bucket, above one that is not the repository's, below which nothing is the repository's: the start of the
// base path's folder in this top folder, or the end of the top folder.
func (p space) skip(full string) string {
	top, rest, found := strings.Cut(full, "/")
	if !found {
		return full
	}
	if rest < p.base+"indices/" {
		return top + "/" + p.base + "indices/"
	}
	if strings.HasPrefix(rest, p.base+"indices/") {
		return full // of an index whose hash does not fit; others may follow
	}
	return top + "0" // '0' follows '/'
}

// hashed reports whether rest, "indices/<id>/<shard>/<blob>", lies below the hash of its shard. A cluster may be told to put a
// prefix before the hash (cluster.snapshot.shard.path.prefix). Source: OpenSearch 3.7.0, RemoteStorePathStrategy
// (SnapshotShardPathInput) and RemoteStoreEnums (FNV_1A_COMPOSITE_1, the only algorithm that snapshots use): FNV-1a of shard and
// index id; before 3.x of "indices", index id and shard.
func hashed(folder, rest string) bool {
	if len(folder) < hashLength {
		return false
	}
	parts := strings.SplitN(rest, "/", 4)
	if len(parts) < 4 || parts[0] != "indices" {
		return false
	}
	hash := folder[len(folder)-hashLength:]
	return hash == shardHash(parts[2]+parts[1]) || hash == shardHash("indices"+parts[1]+parts[2])
}

// hashLength is that of a composite hash: six bits as one character, fourteen as zeros and ones.
const hashLength = 15

func shardHash(text string) string {
	h := fnv.New64a()
	_, _ = io.WriteString(h, text) // never fails
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	sum := h.Sum64()
	bits := strconv.FormatUint(sum>>44&(1<<14-1)|1<<14, 2) // the leading one keeps the zeros
	return string(alphabet[sum>>58]) + bits[1:]
}
