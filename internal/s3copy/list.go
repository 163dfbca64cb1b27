package s3copy

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/repository"
)

// object is one listed object.
type object struct {
	key      string // relative to the location
	size     int64
	modified time.Time
	etag     string
}

// page lists one page below a relative prefix. after is a full key or empty.
func (s *session) page(ctx context.Context, api S3, at Location, in s3.ListObjectsV2Input) (*s3.ListObjectsV2Output, error) {
	in.Bucket = &at.Bucket
	op := operation{"list bucket", "s3://" + at.Bucket + "/" + aws.ToString(in.Prefix), "s3:ListBucket on bucket " + at.Bucket}
	return request(ctx, s, op, func(ctx context.Context) (*s3.ListObjectsV2Output, error) {
		return api.ListObjectsV2(ctx, &in, noRetry)
	})
}

// list yields the objects of a range in key order, one page ahead of the reader. Folder markers (keys that end with a slash) are
// left out. It holds two pages, whatever the size of the range, and ends after the first error.
func (s *session) list(ctx context.Context, api S3, at Location, r Range) iter.Seq2[object, error] {
	type answer struct {
		page *s3.ListObjectsV2Output
		err  error
	}
	return func(yield func(object, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var next <-chan answer
		defer func() {
			cancel()
			if next != nil {
				<-next // no request outlives the caller
			}
		}()
		fetch := func(token *string) <-chan answer {
			next := make(chan answer, 1)
			go func() {
				in := s3.ListObjectsV2Input{Prefix: optional(at.base()), ContinuationToken: token, MaxKeys: aws.Int32(listPageSize)}
				if token == nil && r.After != "" {
					in.StartAfter = aws.String(at.key(r.After))
				}
				page, err := s.page(ctx, api, at, in)
				next <- answer{page, err}
			}()
			return next
		}
		previous := ""
		for next = fetch(nil); next != nil; {
			got := <-next
			next = nil
			if got.err != nil {
				yield(object{}, got.err)
				return
			}
			contents := got.page.Contents
			ended := len(contents) > 0 && r.beyond(strings.TrimPrefix(aws.ToString(contents[len(contents)-1].Key), at.base()))
			if aws.ToBool(got.page.IsTruncated) && got.page.NextContinuationToken != nil && !ended {
				next = fetch(got.page.NextContinuationToken)
			}
			for i := range contents {
				key := strings.TrimPrefix(aws.ToString(contents[i].Key), at.base())
				if key == "" || strings.HasSuffix(key, "/") {
					continue
				}
				if r.beyond(key) {
					return
				}
				// Both the merge-join and the cursor stand on this order.
				if key <= previous || key <= r.After {
					yield(object{}, fault.Newf(fault.CopyFailed, "list bucket", at.address(key),
						"the listing is not in byte order (%q after %q)", key, max(previous, r.After)).
						WithHint("Only general purpose buckets list in order; directory buckets (S3 Express) cannot be copied."))
					return
				}
				previous = key
				o := object{key: key, size: aws.ToInt64(contents[i].Size), etag: aws.ToString(contents[i].ETag)}
				if contents[i].LastModified != nil {
					o.modified = *contents[i].LastModified
				}
				if !yield(o, nil) {
					return
				}
			}
		}
	}
}

// entry is one key of the source beside the same key of the destination.
type entry struct {
	source      object
	destination object
	there       bool // the destination has the key
}

// join yields every source object of a range that is to be copied, with what the destination has under its key: a merge of two
// sorted listings.
func (s *session) join(ctx context.Context, from, to Location, r Range) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		next, stop := iter.Pull2(s.list(ctx, s.Destination, to, r))
		defer stop()
		there, err, more := next()
		if err != nil {
			yield(entry{}, err)
			return
		}
		for o, err := range s.list(ctx, s.Source, from, r) {
			if err != nil {
				yield(entry{}, err)
				return
			}
			for more && there.key < o.key {
				if there, err, more = next(); err != nil {
					yield(entry{}, err)
					return
				}
			}
			if !copies(repository.Classify(o.key)) {
				continue
			}
			e := entry{source: o}
			if more && there.key == o.key {
				e.destination, e.there = there, true
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// settled is how much younger than the source's object the copy must be: S3's times are whole seconds, and those of two Regions
// are not the same clock. Blobs that are not data may be written again under their name (failed-over master, numeric shard
// generations before 7.6), so one that was copied at the moment it was written is copied once more: they are tiny.
const settled = 2 * time.Second

// equal reports whether the destination's object need not be copied again. ETags are not compared: those of multipart uploads
// and of KMS differ between equal objects.
func (e entry) equal(margin time.Duration) bool {
	if !e.there || e.source.size != e.destination.size {
		return false
	}
	if repository.Classify(e.source.key) == repository.Data {
		return true
	}
	return !e.source.modified.Add(margin).After(e.destination.modified)
}
