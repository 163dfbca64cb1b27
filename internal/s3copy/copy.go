package s3copy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/semaphore"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/repository"
)

const (
	// windowSize is the number of objects admitted and not done: a large object at its low end, which takes half a minute, must not
	// stall the others.
	windowSize = 20_000
	// partsAsking is the number of parts of one object that are under way or wait for it.
	partsAsking = 256
	// longestReserve is the time before the deadline in which no new work begins, at most a quarter of the slice.
	longestReserve = time.Minute
	// endlessSlice is the slice after which an object that did not finish alone is called too large.
	endlessSlice = 5 * time.Minute
)

// CopyRange copies what the destination lacks of a range, except the root documents (see Publish). It begins no new work shortly
// before the deadline and returns before it; Done then is false, and the work goes on with another call whose Range.After is the
// result's Cursor. A zero deadline means none. It may be killed anywhere and called again for any range.
//
// Faults: AccessDenied, Throttled and Unavailable (after ten tries; the Copier has kept what is copied), RepositoryCorrupt (a
// listed blob vanished or changed; shard index-* may vanish, the source deletes superseded ones late), NotSupported (shallow
// snapshots), CopyFailed. The result is filled in also beside an error.
func (c *Copier) CopyRange(ctx context.Context, from, to Location, r Range, deadline time.Time) (RangeResult, error) {
	started := time.Now()
	if err := check(from, to); err != nil {
		return RangeResult{Cursor: r.After}, err
	}
	s := &slice{
		session: c.newSession(), from: r.space(from), to: r.space(to),
		// Twice as many parts as can be in flight: objects finish one after another and not all late.
		large: semaphore.NewWeighted(2 * int64(c.concurrency())),
	}
	s.governor = newGovernor(c.concurrency(), r.Share)
	s.window = newWindow(windowSize, r.After, func(o object) bool { return o.size > s.multipartThreshold(s.governor.unit()) })
	work, cancel := context.WithCancel(ctx)
	var governing sync.WaitGroup
	defer governing.Wait()
	defer cancel()
	governing.Go(func() { s.governor.run(work) })
	if !deadline.IsZero() {
		reserve := max(0, min(longestReserve, time.Until(deadline)/4))
		timer := time.AfterFunc(time.Until(deadline)-reserve, s.window.stop)
		defer timer.Stop()
		var cut context.CancelFunc
		work, cut = context.WithDeadline(work, deadline.Add(-reserve/5))
		defer cut()
	}
	s.fail = func(err error) {
		s.failure.Do(func() { s.err = err })
		s.window.stop()
		cancel()
	}
	// A caller that goes away must not leave the admission below waiting for room.
	defer context.AfterFunc(work, s.window.stop)()

	var copying sync.WaitGroup
	for _, queue := range []chan *item{s.window.queue, s.window.large} {
		copying.Go(func() {
			for it := range queue {
				if !s.window.isStopped() {
					s.begin(work, it, &copying)
				}
			}
		})
	}
	s.admit(work, from, to, r)
	s.window.drain()
	copying.Wait()

	cursor, empty := s.window.position()
	result := RangeResult{
		Copied: s.copied.Load(), CopiedBytes: s.copiedBytes.Load(), Skipped: s.skipped, SkippedBytes: s.skippedBytes,
		Usage: s.used(), Throttled: s.governor.throttled(),
		Cursor: cursor, Done: s.listed && empty, Seconds: time.Since(started).Seconds(),
	}
	result.Requests = result.Usage.Total()
	switch {
	case ctx.Err() != nil:
		return result, fmt.Errorf("copy %s to %s: %w", from, to, context.Cause(ctx))
	case s.err != nil && work.Err() != nil && errors.Is(s.err, work.Err()) && !isFault(s.err):
		// Cut by the slice's own deadline: not a failure, but it must not go on for ever.
		if result.Copied+result.Skipped == 0 && time.Since(started) >= endlessSlice {
			return result, fault.Newf(fault.CopyFailed, "copy range", r.String(),
				"no object was finished in %s: the next one is too large, or S3 too slow, for one slice", time.Since(started).Round(time.Second)).
				WithHint("Raise the copy function's timeout or the part concurrency; write the repository with a smaller chunk_size.")
		}
		return result, nil
	}
	return result, s.err
}

func isFault(err error) bool { _, ok := fault.As(err); return ok }

// slice is one CopyRange under way.
type slice struct {
	*session
	from, to space
	window   *window
	large    *semaphore.Weighted // parts of the objects under way

	failure sync.Once
	err     error
	fail    func(error)

	copied, copiedBytes   atomic.Int64
	skipped, skippedBytes int64
	listed                bool // the listings were read to the end
}

func (s *slice) admit(ctx context.Context, from, to Location, r Range) {
	full := false
	err := s.join(ctx, from, to, r, func(e entry) bool {
		switch {
		case repository.Classify(e.source.key) == repository.ShallowSnapshot:
			s.fail(shallow(from, e.source.key))
			return false
		case e.equal(settled):
			if full = !s.window.skip(e.source.key); full {
				return false
			}
			s.skipped++
			s.skippedBytes += e.source.size
			return true
		case e.source.archived:
			s.fail(archivedFault(s.from, e.source.key))
			return false
		}
		// The page that the strings lie in must not stay for as long as this object waits.
		e.source.key, e.source.etag = strings.Clone(e.source.key), strings.Clone(e.source.etag)
		full = !s.window.admit(e.source)
		return !full
	})
	switch {
	case err != nil:
		s.fail(err)
	case !full && !s.window.isStopped():
		s.listed = true
	}
}

// begin starts the copy of one object when there is room for it.
func (s *slice) begin(ctx context.Context, it *item, copying *sync.WaitGroup) {
	carry, leave := s.copyWhole, func() { s.governor.leave(short) }
	if it.large {
		parts := min(it.object.size/s.partSize(it.object.size, s.governor.unit())+1, 2*int64(s.concurrency()))
		if err := s.large.Acquire(ctx, parts); err != nil {
			s.fail(err)
			return
		}
		carry, leave = s.copyParts, func() { s.large.Release(parts) }
	} else if err := s.governor.enter(ctx, short); err != nil {
		s.fail(err)
		return
	}
	if s.window.isStopped() { // while this one waited
		leave()
		return
	}
	copying.Go(func() {
		defer leave()
		err := carry(ctx, s.from, s.to, it.object)
		if err = s.ended(it.object, err); err != nil {
			s.fail(err)
			return
		}
		s.window.finish(it)
	})
}

// archivedFault refuses objects that cannot be read as they are.
func archivedFault(from space, key string) error {
	return fault.Newf(fault.CopyFailed, "copy object", from.address(key), "it lies in an archive storage class").WithHint(archiveHint)
}

const archiveHint = "The object lies in an archive storage class. Restore it from there, remove the lifecycle rule that moved it, and redrive."

// shallow refuses snapshots whose data lies in a remote store.
func shallow(from Location, key string) error {
	return fault.Newf(fault.NotSupported, "copy repository", from.address(key),
		"this is a shallow snapshot: it points at the domain's remote store, and its data is not in the repository").
		WithHint("Register a new repository in an empty base path with remote_store_index_shallow_copy=false, and start a new execution with it.")
}

// ended counts a copy. A shard's index-* that has vanished is left out.
func (s *slice) ended(o object, err error) error {
	switch {
	case err == nil:
		s.copied.Add(1)
		s.copiedBytes.Add(o.size)
		return nil
	case !notFound(err):
		return err
	case repository.Classify(o.key) == repository.ShardIndex:
		return nil
	}
	f, _ := fault.As(err)
	return fault.Newf(fault.RepositoryCorrupt, f.Op, f.Target, "the source no longer has this %s blob, which was listed a moment ago (%w)",
		repository.Classify(o.key), f.Err).
		WithHint("Something deletes from the source repository: another domain, a snapshot policy, a lifecycle rule. Stop it, then start a new execution.")
}

// copyOperation names both ends: S3 does not say which of them it denied.
func copyOperation(verb string, from, to space, key string, c class, size int64) operation {
	return operation{
		verb: verb, target: from.address(key) + " to " + to.address(key), class: c, size: size,
		permission: "s3:GetObject on " + from.address(key) + " or s3:PutObject on " + to.address(key),
	}
}

// copyWhole copies an object of at most 5 GiB, provided that it still has the listed ETag. Tags and annotations mean nothing in a
// repository and would need permissions of their own, so they are left behind.
func (s *session) copyWhole(ctx context.Context, from, to space, o object) error {
	_, err := request(ctx, s, copyOperation("copy object", from, to, o.key, copyWhole, o.size), func(ctx context.Context) (*s3.CopyObjectOutput, error) {
		return s.Destination.CopyObject(ctx, &s3.CopyObjectInput{
			Bucket: &to.bucket, Key: aws.String(to.full(o.key)),
			CopySource: aws.String(copySource(from, o.key)), CopySourceIfMatch: optional(o.etag),
			TaggingDirective: types.TaggingDirectiveReplace, AnnotationDirective: types.AnnotationDirectiveExclude,
		}, noRetry)
	})
	return err
}

// copyParts copies an object by multipart upload, all parts side by side. It begins anew when it is cut; an upload that was
// killed stays until the bucket's lifecycle rule for incomplete uploads removes it.
func (s *slice) copyParts(ctx context.Context, from, to space, o object) (err error) {
	size, err := s.boundaries(ctx, o)
	if err != nil {
		return err
	}
	bucket, key := &to.bucket, aws.String(to.full(o.key))
	created, err := request(ctx, s.session, copyOperation("start multipart copy", from, to, o.key, write, 0),
		func(ctx context.Context) (*s3.CreateMultipartUploadOutput, error) {
			return s.Destination.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: key}, noRetry)
		})
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		abort, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		s.requests[remove].Add(1)
		// Best effort: the error worth telling is the one that led here.
		_, _ = s.Destination.AbortMultipartUpload(abort, &s3.AbortMultipartUploadInput{Bucket: bucket, Key: key, UploadId: created.UploadId}, noRetry)
	}()

	parts := make([]types.CompletedPart, (o.size+size-1)/size)
	all, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var copying sync.WaitGroup
	// The parts of an object ask for their places together, before those of the next: objects that share the places evenly would all be
	// done late.
	asking := make(chan struct{}, partsAsking)
	for i := range parts {
		asking <- struct{}{}
		copying.Go(func() {
			defer func() { <-asking }()
			err := s.governor.enter(all, long)
			if err == nil {
				parts[i], err = s.copyPart(all, o, created.UploadId, i, size)
				s.governor.leave(long)
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	copying.Wait()
	if all.Err() != nil {
		return context.Cause(all)
	}
	_, err = request(ctx, s.session, copyOperation("complete multipart copy", from, to, o.key, write, 0),
		func(ctx context.Context) (*s3.CompleteMultipartUploadOutput, error) {
			return s.Destination.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
				Bucket: bucket, Key: key, UploadId: created.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
			}, noRetry)
		})
	if f, ok := fault.As(err); ok && f.Status == http.StatusNotFound {
		// NoSuchUpload: an earlier try was carried out although its answer was lost. Only the object itself can tell.
		address := to.address(o.key)
		head, lookErr := request(ctx, s.session, operation{verb: "look at object", target: address, permission: "s3:GetObject on " + address, class: read},
			func(ctx context.Context) (*s3.HeadObjectOutput, error) {
				return s.Destination.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: key}, noRetry)
			})
		if lookErr == nil && aws.ToInt64(head.ContentLength) == o.size {
			return nil
		}
		// A missing upload is not a missing source blob.
		return fault.Newf(fault.CopyFailed, f.Op, f.Target, "the upload is gone (%w)", f.Err).
			WithHint("Something aborts multipart uploads in the destination bucket, a lifecycle rule perhaps. Stop it, then redrive.")
	}
	return err
}

// copyPart copies part i, counted from 0, of an object.
func (s *slice) copyPart(ctx context.Context, o object, upload *string, i int, size int64) (types.CompletedPart, error) {
	first := int64(i) * size
	last := min(first+size, o.size) - 1
	op := copyOperation(fmt.Sprintf("copy part %d of object", i+1), s.from, s.to, o.key, copyPart, last-first+1)
	out, err := request(ctx, s.session, op, func(ctx context.Context) (*s3.UploadPartCopyOutput, error) {
		out, err := s.Destination.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
			Bucket: &s.to.bucket, Key: aws.String(s.to.full(o.key)), UploadId: upload, PartNumber: aws.Int32(int32(i + 1)),
			CopySource: aws.String(copySource(s.from, o.key)), CopySourceIfMatch: optional(o.etag),
			CopySourceRange: aws.String(fmt.Sprintf("bytes=%d-%d", first, last)),
		}, noRetry)
		if err == nil && (out.CopyPartResult == nil || aws.ToString(out.CopyPartResult.ETag) == "") {
			err = &smithy.GenericAPIError{Code: "InternalError", Message: "the answer has no ETag"}
		}
		return out, err
	})
	if err != nil {
		return types.CompletedPart{}, err
	}
	return types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: out.CopyPartResult.ETag}, nil
}

// boundaries returns the size of the parts of an object: that of the source's own parts where it was uploaded in parts, because an ETag
// is made of those of the parts, and equal parts make an equal ETag. The source is asked for one large object in a request of its own;
// an S3 that does not answer as S3 does costs only the equality.
func (s *slice) boundaries(ctx context.Context, o object) (int64, error) {
	usual := s.partSize(o.size, s.governor.unit())
	count := partsOf(o.etag)
	if s.PartSize > 0 || count < 2 {
		return usual, nil
	}
	address := s.from.address(o.key)
	head, err := request(ctx, s.session, operation{verb: "look at object", target: address, permission: "s3:GetObject on " + address, class: read},
		func(ctx context.Context) (*s3.HeadObjectOutput, error) {
			return s.Source.HeadObject(ctx, &s3.HeadObjectInput{
				Bucket: &s.from.bucket, Key: aws.String(s.from.full(o.key)), PartNumber: aws.Int32(1),
			}, noRetry)
		})
	if ctx.Err() != nil {
		return 0, err
	}
	if err != nil {
		return usual, nil // the copy itself will tell what is wrong
	}
	own := aws.ToInt64(head.ContentLength)
	// Above a minute a request, finishing comes first.
	const longest = 3
	if own < minPartSize || own > min(maxPartSize, longest*s.governor.unit()) || (o.size+own-1)/own != count {
		return usual, nil
	}
	return own, nil
}

// partsOf reads the number of parts from an ETag "<hash>-<n>"; 0 for objects that were written whole.
func partsOf(etag string) int64 {
	_, digits, found := strings.Cut(strings.Trim(etag, `"`), "-")
	if !found {
		return 0
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n < 1 || n > maxParts {
		return 0
	}
	return n
}
