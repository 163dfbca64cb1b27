package s3copy

import (
	"context"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/repository"
)

// object is one listed object. Its strings lie in those of a whole page: what is kept for long keeps a clone.
type object struct {
	key      string // logical, see space
	size     int64
	modified time.Time
	etag     string
	archived bool
}

// page lists one page.
func (s *session) page(ctx context.Context, lister Lister, in Listing) (Page, error) {
	op := operation{verb: "list bucket", target: "s3://" + in.Bucket + "/" + in.Prefix, permission: "s3:ListBucket on bucket " + in.Bucket, class: list}
	return request(ctx, s, op, func(ctx context.Context) (Page, error) { return lister.List(ctx, in) })
}

// stream reads the objects of a range in key order, one page ahead of the reader. It holds two pages, whatever the size of the
// range. Folder markers (keys that end with a slash) are left out.
type stream struct {
	session *session
	lister  Lister
	at      space
	bounds  Range

	ctx    context.Context
	cancel context.CancelFunc
	next   chan answered // the page under way; nil after the last one
	page   []Listed
	after  string // the key before, full
	failed error
}

type answered struct {
	page Page
	err  error
}

// open asks for the first page at once. The caller closes the stream.
func (s *session) open(ctx context.Context, lister Lister, at Location, r Range) *stream {
	t := &stream{session: s, lister: lister, at: r.space(at), bounds: r}
	t.ctx, t.cancel = context.WithCancel(ctx)
	if r.After != "" {
		t.after = t.at.full(r.After)
	}
	t.fetch(Listing{Bucket: at.Bucket, Prefix: t.at.listed, After: t.after})
	return t
}

func (t *stream) fetch(in Listing) {
	next := make(chan answered, 1)
	t.next = next
	go func() {
		page, err := t.session.page(t.ctx, t.lister, in)
		next <- answered{page, err}
	}()
}

// close waits for the request under way: none outlives the caller.
func (t *stream) close() {
	t.cancel()
	if t.next != nil {
		<-t.next
		t.next = nil
	}
}

// read returns the next object; false at the end, or when failed is set.
func (t *stream) read() (o object, more bool) {
	for t.failed == nil {
		for len(t.page) > 0 {
			l := &t.page[0]
			t.page = t.page[1:]
			key, ours := t.at.logical(l.Key)
			if !ours || key == "" || strings.HasSuffix(key, "/") {
				continue
			}
			if t.bounds.beyond(key) {
				t.page = nil
				t.close()
				return object{}, false
			}
			// Both the merge-join and the cursor stand on this order.
			if l.Key <= t.after {
				t.failed = fault.Newf(fault.CopyFailed, "list bucket", "s3://"+t.at.bucket+"/"+l.Key,
					"the listing is not in byte order (%q after %q)", l.Key, t.after).
					WithHint("Only general purpose buckets list in order; directory buckets (S3 Express) cannot be copied.")
				return object{}, false
			}
			t.after = l.Key
			return object{key: key, size: l.Size, modified: l.Modified, etag: l.ETag, archived: l.Archived}, true
		}
		if t.next == nil {
			return object{}, false
		}
		got := <-t.next
		t.next = nil
		if got.err != nil {
			t.failed = got.err
			return object{}, false
		}
		t.page = got.page.Objects
		if got.page.Next == "" {
			continue
		}
		in := Listing{Bucket: t.at.bucket, Prefix: t.at.listed, Token: got.page.Next}
		if len(t.page) > 0 {
			last := t.page[len(t.page)-1].Key
			key, ours := t.at.logical(last)
			if ours && t.bounds.beyond(key) {
				continue
			}
			if !ours {
				// Keys of others in between: go on behind them.
				if in.Token, in.After = "", t.at.skip(last); t.bounds.Through != "" && in.After > t.at.full(t.bounds.Through) {
					continue
				}
			}
		}
		t.fetch(in)
	}
	return object{}, false
}

// entry is one key of the source beside the same key of the destination.
type entry struct {
	source      object
	destination object
	there       bool // the destination has the key
}

// join calls each for every source object of a range that is to be copied, with what the destination has under its key: a merge of
// two sorted listings, which are read side by side. It ends early when each returns false.
func (s *session) join(ctx context.Context, from, to Location, r Range, each func(entry) bool) error {
	destination := s.open(ctx, s.destinationLister, to, r)
	defer destination.close()
	source := s.open(ctx, s.sourceLister, from, r)
	defer source.close()
	there, more := destination.read()
	for {
		o, ok := source.read()
		if !ok {
			return source.failed
		}
		for more && there.key < o.key {
			there, more = destination.read()
		}
		if !more && destination.failed != nil {
			return destination.failed
		}
		if !copies(repository.Classify(o.key)) {
			continue
		}
		e := entry{source: o}
		if more && there.key == o.key {
			e.destination, e.there = there, true
		}
		if !each(e) {
			return nil
		}
	}
}

// settled is how much younger than the source's object the copy must be: S3's times are whole seconds, and those of two Regions
// are not the same clock. Blobs that are not data may be written again under their name (failed-over master, numeric shard
// generations before 7.6), so one that was copied at the moment it was written is copied once more: they are tiny.
const settled = 2 * time.Second

// equal reports whether the destination's object need not be copied again. ETags are not compared: those of multipart uploads
// and of KMS differ between equal objects.
func (e *entry) equal(margin time.Duration) bool {
	if !e.there || e.source.size != e.destination.size {
		return false
	}
	if repository.Classify(e.source.key) == repository.Data {
		return true
	}
	return !e.source.modified.Add(margin).After(e.destination.modified)
}
