package simulate

import (
	"bytes"
	"context"
	"crypto/md5"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/s3copy"
)

// repositoryBuckets are the source's and the destination's bucket: how many objects each key range holds and how much of them is not
// copied yet.
type repositoryBuckets struct {
	w          *world
	generation int64
	written    time.Time
	names      []string // snapshots in the newest root
	ranges     [copyRanges]struct{ objects, copied, pendingObjects, pendingBytes int64 }
	published  map[string]bool // snapshots that the destination's readers see
}

func (b *repositoryBuckets) add(run *snapshot) {
	b.generation++
	b.written = b.w.source.now
	b.names = append(b.names, run.name)
	for i := range b.ranges {
		r := &b.ranges[i]
		r.objects += run.rangeObjects[i]
		r.pendingObjects += run.rangeObjects[i]
		r.pendingBytes += run.rangeBytes[i]
	}
	b.ranges[copyRanges-1].objects += 2
	b.ranges[copyRanges-1].pendingObjects += 2
	b.ranges[copyRanges-1].pendingBytes += int64(len(run.indices)) * 1000
}

func (b *repositoryBuckets) root() s3copy.Root {
	return s3copy.Root{Name: fmt.Sprintf("index-%d", b.generation), Generation: b.generation, Size: 1 << 20, LastModified: b.written}
}

// copier is the copy engine: internal/s3copy's requests, counted and timed.
type copier struct{ inv *invocation }

// Plan implements step.CopyPlanner: roots, the root document of both sides, 100 probes, the folders.
func (c copier) Plan(ctx context.Context, _, _ s3copy.Location, want s3copy.Want, ranges int) (s3copy.Plan, error) {
	b := c.inv.w.bucket
	c.inv.w.source.sync()
	folders := int64(len(c.inv.w.source.indices)/1000 + 1)
	c.inv.s3List(ctx, "list", 4+folders, 1)
	c.inv.s3List(ctx, "list", 100, 16)
	c.inv.s3Get(ctx, "get", 2, 1, 1<<20)
	if !slices.Contains(b.names, want.SnapshotName) {
		return s3copy.Plan{}, fmt.Errorf("the root document does not hold snapshot %s", want.SnapshotName)
	}
	p := s3copy.Plan{Root: b.root()}
	for i := range copyRanges {
		p.Ranges = append(p.Ranges, s3copy.Range{After: rangeEnd(i - 1), Through: rangeEnd(i)})
	}
	return p, nil
}

func rangeEnd(i int) string {
	if i < 0 || i == copyRanges-1 {
		return ""
	}
	return fmt.Sprintf("indices/%02d~~~~~~~~~~~~~~~~0", i)
}

func rangeNumber(r s3copy.Range) int {
	for i := range copyRanges {
		if r.Through == rangeEnd(i) {
			return i
		}
	}
	return 0
}

// CopyRange implements step.RangeCopier: it lists both sides, page after page, and copies what is missing, until its time is over.
func (c copier) CopyRange(ctx context.Context, _, _ s3copy.Location, r s3copy.Range, deadline time.Time) (s3copy.RangeResult, error) {
	w := c.inv.w
	w.source.sync()
	at := &w.bucket.ranges[rangeNumber(r)]
	if err := c.inv.pay(ctx); err != nil {
		return s3copy.RangeResult{}, err
	}
	began := w.clock.Now()
	pages := at.objects/1000 + 1
	w.meter.list += 2 * pages // both sides, side by side
	listing := w.latencies(float64(pages), s3ListSeconds)
	left := deadline.Sub(began).Seconds() - 60
	// Requests in flight share the range's part of what two Regions let through.
	perObject := s3CopySeconds * noise(w.random, transferNoise) / copyStreams
	perByte := 1 / (copyRangeRate * noise(w.random, transferNoise))
	objects, size := at.pendingObjects, at.pendingBytes
	mean := 0.0
	if objects > 0 {
		mean = float64(size) / float64(objects)
	}
	each := max(perObject, mean*perByte, copyRanges/s3RequestsPerSecond)
	can := min(objects, int64(max(1, left/each)))
	done := can >= objects
	moved := size
	if !done {
		moved = int64(float64(can) * mean)
	}
	spent := max(listing, float64(can)*each)
	if err := c.inv.sleep(ctx, seconds(spent)); err != nil {
		return s3copy.RangeResult{Cursor: r.After}, err
	}
	at.pendingObjects -= can
	at.pendingBytes -= moved
	at.copied += can
	// Objects above the threshold travel in parts of 100 MiB.
	parts := moved / (100 << 20)
	w.meter.copies += can + parts
	w.meter.copiedBytes += moved
	cursor := r.Through
	if !done {
		cursor = fmt.Sprintf("%s~%d", r.After[:min(len(r.After), 10)], at.copied)
	}
	return s3copy.RangeResult{Copied: can, CopiedBytes: moved, Skipped: at.objects - can, Requests: 2*pages + can, Cursor: cursor, Done: done, Seconds: spent}, nil
}

// Publish implements step.CopyPublisher: it lists both sides whole, one after another page, before it copies the root.
func (c copier) Publish(ctx context.Context, _, _ s3copy.Location, root s3copy.Root, want s3copy.Want) (s3copy.PublishResult, error) {
	w := c.inv.w
	w.source.sync()
	var objects, pending int64
	for i := range w.bucket.ranges {
		objects += w.bucket.ranges[i].objects
		pending += w.bucket.ranges[i].pendingObjects
	}
	pages := objects/1000 + 1
	w.meter.list += 2*pages + 6
	w.meter.get += 5
	w.meter.copies += 2
	if err := c.inv.sleep(ctx, seconds(w.latencies(float64(pages+8), s3ListSeconds))); err != nil {
		return s3copy.PublishResult{}, err
	}
	result := s3copy.PublishResult{Objects: objects, Missing: pending, Requests: 2*pages + 13}
	switch {
	case w.bucket.root() != root && !w.bucket.root().LastModified.Equal(root.LastModified):
		result.Reason = "the source's root is now another"
	case pending > 0:
		result.Reason = fmt.Sprintf("%d objects are missing at the destination", pending)
	default:
		result.Published = true
		for _, n := range w.bucket.names {
			w.bucket.published[n] = true
		}
	}
	return result, nil
}

// journalBucket is the deployment's own bucket: real objects, counted and timed.
type journalBucket struct {
	objects map[string][]byte
	largest map[string]int
}

// journalView is the bucket as one invocation sees it. It implements journal.S3.
type journalView struct{ inv *invocation }

func (v journalView) GetObject(ctx context.Context, in *s3.GetObjectInput, _ ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	w := v.inv.w
	w.mu.Lock()
	body, ok := w.journal.objects[aws.ToString(in.Key)]
	w.mu.Unlock()
	v.inv.s3Get(ctx, "get "+aws.ToString(in.Key), 1, 1, int64(len(body)))
	if !ok {
		return nil, &types.NoSuchKey{}
	}
	return &s3.GetObjectOutput{Body: io.NopCloser(bytes.NewReader(body)), ContentLength: aws.Int64(int64(len(body))), ETag: tagOf(body)}, nil
}

func tagOf(body []byte) *string { return aws.String(fmt.Sprintf("%x", md5.Sum(body))) }

func (v journalView) PutObject(ctx context.Context, in *s3.PutObjectInput, _ ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	w, key := v.inv.w, aws.ToString(in.Key)
	body, err := io.ReadAll(in.Body)
	if err != nil {
		return nil, err
	}
	v.inv.s3Put(ctx, "put "+key, 1, int64(len(body)))
	w.mu.Lock()
	defer w.mu.Unlock()
	before, there := w.journal.objects[key]
	if there && aws.ToString(in.IfNoneMatch) == "*" || in.IfMatch != nil && *in.IfMatch != *tagOf(before) {
		return nil, &smithy.GenericAPIError{Code: "PreconditionFailed", Message: "the object is not as the condition says"}
	}
	w.journal.objects[key] = body
	w.journal.largest[folder(key)] = max(w.journal.largest[folder(key)], len(body))
	return &s3.PutObjectOutput{}, nil
}

func (v journalView) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input, _ ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
	w := v.inv.w
	v.inv.s3List(ctx, "list "+aws.ToString(in.Prefix), 1, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &s3.ListObjectsV2Output{IsTruncated: aws.Bool(false)}
	for _, key := range slices.Sorted(maps.Keys(w.journal.objects)) {
		if strings.HasPrefix(key, aws.ToString(in.Prefix)) {
			out.Contents = append(out.Contents, types.Object{Key: aws.String(key), Size: aws.Int64(int64(len(w.journal.objects[key])))})
		}
	}
	return out, nil
}

// folder is what kind of document a key of the journal is: numbers are left out.
func folder(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		if strings.Trim(p, "0123456789-.json") == "" {
			parts[i] = "N"
		}
	}
	return strings.Join(parts[min(2, len(parts)-1):], "/")
}

// fileLists stands for the objects that a prediction of the restore reads: it counts and times them, and cannot be decoded. So the
// simulation has no predicted bytes.
type fileLists struct{ inv *invocation }

func (f fileLists) Get(ctx context.Context, _ string) ([]byte, error) {
	w := f.inv.w
	w.state.Lock()
	objects := int64(0)
	if n := len(w.bucket.names); n > 0 {
		run := w.source.snapshots[w.bucket.names[n-1]]
		objects = int64(2*run.total + 2*len(run.indices))
	}
	w.state.Unlock()
	const readers = 64 // internal/repository
	f.inv.s3Get(ctx, "get file lists", objects+1, readers, 0)
	return nil, fmt.Errorf("the simulation has no file lists")
}
