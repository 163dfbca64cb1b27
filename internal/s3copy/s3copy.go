// Package s3copy copies a snapshot repository from one bucket to another with server-side copies, in an order that never
// exposes a half-copied repository.
//
// A reader of a repository lists index-* and believes the highest one. The order is therefore:
//
//  1. Plan reads the source's root index-N and cuts the key space into ranges of like weight.
//  2. CopyRange, once or more for each range, copies everything but the root documents. Nothing of it is reachable at the
//     destination before step 3, so ranges may run in parallel and in any order. Within a range metadata waits for all data of
//     lower keys, so that a shard's file list never precedes its files.
//  3. Publish lists both sides again. Only when nothing is missing and the source's root is still the same does it copy index-N,
//     then write index.latest, then remove lower index-*, and read both back.
//
// The destination's listing is the only state: a call that is killed anywhere is simply made again. Both listings are read as
// streams and merged, so memory does not depend on the number of objects.
package s3copy

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/repository"
)

// S3 is the part of *s3.Client that copying needs. Every call is repeated by this package itself, so calls are made with the
// client's own retries switched off.
type S3 interface {
	ListObjectsV2(context.Context, *s3.ListObjectsV2Input, ...func(*s3.Options)) (*s3.ListObjectsV2Output, error)
	GetObject(context.Context, *s3.GetObjectInput, ...func(*s3.Options)) (*s3.GetObjectOutput, error)
	HeadObject(context.Context, *s3.HeadObjectInput, ...func(*s3.Options)) (*s3.HeadObjectOutput, error)
	PutObject(context.Context, *s3.PutObjectInput, ...func(*s3.Options)) (*s3.PutObjectOutput, error)
	CopyObject(context.Context, *s3.CopyObjectInput, ...func(*s3.Options)) (*s3.CopyObjectOutput, error)
	DeleteObject(context.Context, *s3.DeleteObjectInput, ...func(*s3.Options)) (*s3.DeleteObjectOutput, error)
	CreateMultipartUpload(context.Context, *s3.CreateMultipartUploadInput, ...func(*s3.Options)) (*s3.CreateMultipartUploadOutput, error)
	UploadPartCopy(context.Context, *s3.UploadPartCopyInput, ...func(*s3.Options)) (*s3.UploadPartCopyOutput, error)
	CompleteMultipartUpload(context.Context, *s3.CompleteMultipartUploadInput, ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error)
	AbortMultipartUpload(context.Context, *s3.AbortMultipartUploadInput, ...func(*s3.Options)) (*s3.AbortMultipartUploadOutput, error)
}

var _ S3 = (*s3.Client)(nil)

// Location is a repository: a bucket and the base path in it, without slashes at its ends; empty for the whole bucket.
type Location struct {
	Bucket string `json:"bucket"`
	Prefix string `json:"prefix"`
}

// String returns the location as an s3:// address.
func (l Location) String() string {
	if l.Prefix == "" {
		return "s3://" + l.Bucket
	}
	return "s3://" + l.Bucket + "/" + l.Prefix
}

// key returns the full key of a key relative to the location.
func (l Location) key(relative string) string { return l.base() + relative }

func (l Location) base() string {
	if l.Prefix == "" {
		return ""
	}
	return l.Prefix + "/"
}

func (l Location) address(relative string) string { return "s3://" + l.Bucket + "/" + l.key(relative) }

// Copier copies repositories. Source reads and lists the source bucket; Destination lists and writes the destination bucket and
// is sent the copy requests, so its principal must be able to read the source's objects, and its Region must be the
// destination's. Both may be the same client. A Copier has no state; its methods may run side by side.
type Copier struct {
	Source      S3
	Destination S3

	// Concurrency is the largest number of copy requests in flight in one CopyRange; 0 means 800 (a Lambda has 1,024 file
	// descriptors). How many there are is found while copying, see governor.
	Concurrency int
	// MultipartThreshold is the size in bytes above which an object is copied in parts. 0 means what one request moves in 20 s, as
	// measured while copying: one cross-Region request moves about 5 MB/s (measured by others on one pair of Regions), so much larger
	// ones outlive a Lambda. At most 5 GiB, the limit of CopyObject.
	MultipartThreshold int64
	// PartSize is the size of a part in bytes; 0 means that of the source's parts, so that the ETags of both stay equal, or else what
	// one request moves in 20 s. At least 5 MiB; raised where an object would need more than 10,000 parts.
	PartSize int64
}

const (
	mib = int64(1) << 20
	gib = int64(1) << 30

	defaultConcurrency = 800
	maxSingleCopy      = 5 * gib // CopyObject's limit, S3 API reference
	minPartSize        = 5 * mib // S3 API reference
	maxParts           = 10_000  // S3 API reference
	maxPartSize        = 5 * gib // S3 API reference
	listPageSize       = int32(1000)
)

func (c *Copier) concurrency() int {
	if c.Concurrency <= 0 {
		return defaultConcurrency
	}
	return c.Concurrency
}

// multipartThreshold returns the size above which an object is copied in parts; measured is what one request moves in 20 s.
func (c *Copier) multipartThreshold(measured int64) int64 {
	if c.MultipartThreshold <= 0 {
		return min(measured, maxSingleCopy)
	}
	return min(c.MultipartThreshold, maxSingleCopy)
}

// partSize returns the part size for an object: whole MiB, and at most 10,000 parts.
func (c *Copier) partSize(size, measured int64) int64 {
	part := c.PartSize
	if part <= 0 {
		part = measured / mib * mib
	}
	part = min(max(part, minPartSize), maxPartSize)
	if least := (size + maxParts - 1) / maxParts; part < least {
		part = (least + mib - 1) / mib * mib
	}
	return part
}

// Want names the snapshot that the copy is made for.
type Want struct {
	SnapshotName string `json:"snapshotName"`
	SnapshotUUID string `json:"snapshotUUID"` // empty accepts any uuid of that name
	// OwnPrefix starts the names of the snapshots that this migration makes ("<migration>-r"). A snapshot at the destination that
	// the source no longer has makes the destination foreign unless its name starts so. Empty: none is expected.
	OwnPrefix string `json:"ownPrefix,omitempty"`
	// Shape is how the repository lay in its key space when it was listed last. Plan balances its ranges by it, Publish lists its
	// pieces side by side. Nil: Plan samples the source, Publish lists it in one piece.
	Shape *Shape `json:"-"`
}

// Root identifies the source's root document as it was when it was read.
type Root struct {
	Name         string    `json:"name"` // "index-12"
	Generation   int64     `json:"generation"`
	ETag         string    `json:"etag"` // as listed; empty on gateways that do not know it
	Size         int64     `json:"size"`
	LastModified time.Time `json:"lastModified"`
}

// same compares with the root as it is listed now.
func (r Root) same(now Root) bool {
	return r.Name == now.Name && r.Generation == now.Generation && r.ETag == now.ETag && r.Size == now.Size &&
		r.LastModified.Equal(now.LastModified)
}

// Range is a piece of the key space: relative keys k with After < k <= Through in byte order. An empty Through has no upper end.
type Range struct {
	After   string `json:"after"`
	Through string `json:"through"`
	// Outside is the key space before the base path, where newer engines put hashed shard folders; see space.
	Outside bool `json:"outside,omitempty"`
	// Share is how many ranges are copied at the same time; they begin with that part of S3's request rate each. 0 means 1.
	Share int `json:"share,omitempty"`
}

func (r Range) beyond(key string) bool { return r.Through != "" && key > r.Through }

// Plan is what is to be copied: the root to publish and ranges that cover the key space, inside and (where the repository has shards
// there) outside the base path, exactly once.
type Plan struct {
	Root   Root    `json:"root"`
	Ranges []Range `json:"ranges"`
}

// RangeResult is what one CopyRange did. Objects that are above Cursor were done out of order and are counted again (as
// skipped) by the call that goes on from there.
type RangeResult struct {
	Copied       int64   `json:"copied"`
	Skipped      int64   `json:"skipped"`
	CopiedBytes  int64   `json:"copiedBytes"`
	SkippedBytes int64   `json:"skippedBytes"`
	Requests     int64   `json:"requests"` // made to S3, repeated ones included
	Usage        Usage   `json:"usage"`    // the same by class
	Throttled    int64   `json:"throttled"`
	Cursor       string  `json:"cursor"` // all keys of the range up to it are done; the next call's Range.After
	Done         bool    `json:"done"`
	Seconds      float64 `json:"seconds"`
}

// PublishResult is what Publish found and did.
type PublishResult struct {
	Published bool    `json:"published"`
	Reason    string  `json:"reason,omitempty"` // why not
	Missing   int64   `json:"missing"`          // objects to copy again: absent, of another size, or older than the source's
	Objects   int64   `json:"objects"`          // of the source's repository, root documents excluded
	Bytes     int64   `json:"bytes"`            // of these
	Removed   int     `json:"removed"`          // superseded root documents removed at the destination
	Requests  int64   `json:"requests"`
	Usage     Usage   `json:"usage"` // the same by class
	Shape     *Shape  `json:"-"`     // of the source's repository as listed; nil when it was not listed to the end
	Seconds   float64 `json:"seconds"`
}

// Totals are the objects and bytes of a repository.
type Totals struct {
	Objects  int64 `json:"objects"`
	Bytes    int64 `json:"bytes"`
	Requests int64 `json:"requests"`
}

// Totals lists everything below a location with the source's client: one request for each 1,000 objects, one after another.
func (c *Copier) Totals(ctx context.Context, at Location) (Totals, error) {
	var t Totals
	s := c.newSession()
	listing := s.open(ctx, s.sourceLister, at, Range{})
	defer listing.close()
	for o, more := listing.read(); more; o, more = listing.read() {
		if copies(repository.Classify(o.key)) {
			t.Objects++
			t.Bytes += o.size
		}
	}
	t.Requests = s.used().Total()
	return t, listing.failed
}

// copies reports whether objects of a class are what CopyRange copies: not the root documents, which Publish copies last, and
// not what belongs to no snapshot.
func copies(class repository.Class) bool {
	switch class {
	case repository.RootIndex, repository.RootLatest, repository.Verification, repository.Pending:
		return false
	}
	return true
}

// check refuses locations that cannot be copied.
func check(from, to Location) error {
	for _, l := range []Location{from, to} {
		if l.Bucket == "" {
			return fault.Newf(fault.InvalidInput, "copy repository", from.String()+" to "+to.String(), "a bucket is missing")
		}
		if strings.HasPrefix(l.Prefix, "/") || strings.HasSuffix(l.Prefix, "/") {
			return fault.Newf(fault.InvalidInput, "copy repository", l.String(), "the prefix %q starts or ends with a slash", l.Prefix)
		}
	}
	// A repository inside another one would be listed, and published, as a part of it.
	if from.Bucket == to.Bucket && (strings.HasPrefix(from.base(), to.base()) || strings.HasPrefix(to.base(), from.base())) {
		return fault.Newf(fault.InvalidInput, "copy repository", from.String()+" to "+to.String(),
			"source and destination are the same place, or one lies inside the other")
	}
	return nil
}

// String returns the range as JSON, for messages.
func (r Range) String() string {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Sprintf("%q to %q", r.After, r.Through)
	}
	return string(text)
}
