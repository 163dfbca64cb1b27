package s3copy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/repository"
)

const (
	// windowSize is the number of objects admitted and not done: a large object at its low end must not stall the pool.
	windowSize = 5000
	// largeAtOnce is the number of multipart copies under way: few, so that they finish one after another and not all late.
	largeAtOnce = 4
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
		session: c.newSession(), from: from, to: to,
		window: newWindow(windowSize, r.After),
		slots:  make(chan struct{}, c.concurrency()),
		large:  make(chan struct{}, largeAtOnce),
	}
	work, cancel := context.WithCancel(ctx)
	defer cancel()
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

	var workers sync.WaitGroup
	for range c.concurrency() {
		workers.Go(func() {
			for it := range s.window.queue {
				if s.window.isStopped() {
					continue
				}
				if err := s.copy(work, it.source); err != nil {
					s.fail(err)
					continue
				}
				s.window.finish(it)
			}
		})
	}
	s.admit(work, r)
	s.window.drain()
	workers.Wait()

	cursor, empty := s.window.position()
	result := RangeResult{
		Copied: s.copied.Load(), CopiedBytes: s.copiedBytes.Load(), Skipped: s.skipped, SkippedBytes: s.skippedBytes,
		Requests: s.requests.Load(), Cursor: cursor, Done: s.listed && empty, Seconds: time.Since(started).Seconds(),
	}
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
	from, to Location
	window   *window
	slots    chan struct{} // requests in flight
	large    chan struct{} // multipart copies in flight

	failure sync.Once
	err     error
	fail    func(error)

	copied, copiedBytes   atomic.Int64
	skipped, skippedBytes int64
	listed                bool // the listings were read to the end
}

func (s *slice) admit(ctx context.Context, r Range) {
	for e, err := range s.join(ctx, s.from, s.to, r) {
		switch {
		case err != nil:
			s.fail(err)
			return
		case repository.Classify(e.source.key) == repository.ShallowSnapshot:
			s.fail(shallow(s.from, e.source.key))
			return
		case e.equal(settled):
			if !s.window.skip(e.source.key) {
				return
			}
			s.skipped++
			s.skippedBytes += e.source.size
		case !s.window.admit(e):
			return
		}
	}
	s.listed = true
}

// shallow refuses snapshots whose data lies in a remote store.
func shallow(from Location, key string) error {
	return fault.Newf(fault.NotSupported, "copy repository", from.address(key),
		"this is a shallow snapshot: it points at the domain's remote store, and its data is not in the repository").
		WithHint("Register a new repository in an empty base path with remote_store_index_shallow_copy=false, and start a new execution with it.")
}

// copy copies one object, in one request or in parts. A shard's index-* that has vanished is left out.
func (s *slice) copy(ctx context.Context, o object) error {
	var err error
	if o.size > s.multipartThreshold() {
		err = s.copyParts(ctx, o)
	} else {
		err = s.within(ctx, func() error { return s.copyWhole(ctx, s.from, s.to, o) })
	}
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

// within runs a request in one of the slots.
func (s *slice) within(ctx context.Context, call func() error) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.slots }()
	return call()
}

// copyOperation names both ends: S3 does not say which of them it denied.
func copyOperation(verb string, from, to Location, key string) operation {
	return operation{verb, from.address(key) + " to " + to.address(key),
		"s3:GetObject on " + from.address(key) + " or s3:PutObject on " + to.address(key)}
}

// copyWhole copies an object of at most 5 GiB, provided that it still has the listed ETag. Tags and annotations mean nothing in a
// repository and would need permissions of their own, so they are left behind.
func (s *session) copyWhole(ctx context.Context, from, to Location, o object) error {
	_, err := request(ctx, s, copyOperation("copy object", from, to, o.key), func(ctx context.Context) (*s3.CopyObjectOutput, error) {
		return s.Destination.CopyObject(ctx, &s3.CopyObjectInput{
			Bucket: &to.Bucket, Key: aws.String(to.key(o.key)),
			CopySource: aws.String(copySource(from, o.key)), CopySourceIfMatch: optional(o.etag),
			TaggingDirective: types.TaggingDirectiveReplace, AnnotationDirective: types.AnnotationDirectiveExclude,
		}, noRetry)
	})
	return err
}

// copyParts copies an object by multipart upload, all parts side by side. It begins anew when it is cut; an upload that was
// killed stays until the bucket's lifecycle rule for incomplete uploads removes it.
func (s *slice) copyParts(ctx context.Context, o object) (err error) {
	select {
	case s.large <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.large }()

	bucket, key := &s.to.Bucket, aws.String(s.to.key(o.key))
	created, err := request(ctx, s.session, copyOperation("start multipart copy", s.from, s.to, o.key),
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
		s.requests.Add(1)
		// Best effort: the error worth telling is the one that led here.
		_, _ = s.Destination.AbortMultipartUpload(abort, &s3.AbortMultipartUploadInput{Bucket: bucket, Key: key, UploadId: created.UploadId}, noRetry)
	}()

	size := s.partSize(o.size)
	parts := make([]types.CompletedPart, (o.size+size-1)/size)
	all, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var copying sync.WaitGroup
	next := make(chan int, len(parts))
	for i := range parts {
		next <- i
	}
	close(next)
	for range min(len(parts), s.concurrency()) {
		copying.Go(func() {
			for i := range next {
				first := int64(i) * size
				last := min(first+size, o.size) - 1
				err := s.within(all, func() error {
					out, err := request(all, s.session, copyOperation(fmt.Sprintf("copy part %d of object", i+1), s.from, s.to, o.key),
						func(ctx context.Context) (*s3.UploadPartCopyOutput, error) {
							out, err := s.Destination.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
								Bucket: bucket, Key: key, UploadId: created.UploadId, PartNumber: aws.Int32(int32(i + 1)),
								CopySource: aws.String(copySource(s.from, o.key)), CopySourceIfMatch: optional(o.etag),
								CopySourceRange: aws.String(fmt.Sprintf("bytes=%d-%d", first, last)),
							}, noRetry)
							if err == nil && out.CopyPartResult == nil {
								err = &smithy.GenericAPIError{Code: "InternalError", Message: "the answer has no ETag"}
							}
							return out, err
						})
					if err == nil {
						parts[i] = types.CompletedPart{PartNumber: aws.Int32(int32(i + 1)), ETag: out.CopyPartResult.ETag}
					}
					return err
				})
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	copying.Wait()
	if all.Err() != nil {
		return context.Cause(all)
	}
	_, err = request(ctx, s.session, copyOperation("complete multipart copy", s.from, s.to, o.key),
		func(ctx context.Context) (*s3.CompleteMultipartUploadOutput, error) {
			return s.Destination.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
				Bucket: bucket, Key: key, UploadId: created.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
			}, noRetry)
		})
	if f, ok := fault.As(err); ok && f.Status == http.StatusNotFound {
		// NoSuchUpload: an earlier try was carried out although its answer was lost. Only the object itself can tell.
		head, lookErr := request(ctx, s.session, operation{"look at object", s.to.address(o.key), "s3:GetObject on " + s.to.address(o.key)},
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
