package s3copy

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/repository"
)

// Publish makes the copied repository visible: it lists both sides again and, when nothing is missing and the source's root is
// still the planned one, copies index-N, writes index.latest, removes other index-* and reads back what it wrote. Otherwise
// Published is false and Reason says why: copy again (Missing > 0) or plan again (the root changed).
//
// The order shows readers a whole repository at every moment: index-N is higher than what is there and takes effect at once;
// index.latest never names a root that is not there; lower roots go last. What only the destination has is left alone.
//
// Two listings are read side by side, one request for each 1,000 objects and side, in pieces at once where want.Shape says how the
// objects lie. Faults as for Plan and CopyRange.
func (c *Copier) Publish(ctx context.Context, from, to Location, root Root, want Want) (result PublishResult, err error) {
	if err := check(from, to); err != nil {
		return PublishResult{}, err
	}
	started := time.Now()
	s := c.newSession()
	defer func() {
		result.Usage = s.used()
		result.Requests = result.Usage.Total()
		result.Seconds = time.Since(started).Seconds()
	}()
	// What does not hang on each other is asked at once: this stands inside the write downtime.
	asked, cancel := context.WithCancel(ctx)
	defer cancel()
	var asking sync.WaitGroup
	var content, rootThere, latestThere []byte
	var there []Root
	var reason string
	var rootErr, thereErr, changedErr, listErr error
	asking.Go(func() {
		var document *repository.Root
		if content, document, rootErr = s.readRoot(asked, c.Source, from, root); rootErr == nil {
			_, rootErr = wanted(document, from.address(root.Name), want)
		}
		if rootErr != nil {
			return
		}
		var outside bool
		if outside, rootErr = s.outside(asked, from, to, document.Indices); rootErr == nil {
			listErr = s.verify(asked, from, to, want.Shape, outside, &result)
		}
	})
	asking.Go(func() {
		if reason, changedErr = s.changed(asked, from, root); changedErr != nil || reason != "" {
			cancel()
		}
	})
	asking.Go(func() { there, thereErr = s.roots(asked, s.destinationLister, to) })
	var presentErrs [2]error
	asking.Go(func() {
		rootThere, _, presentErrs[0] = s.read(asked, c.Destination, to, root.Name, repository.MaxRootSize)
	})
	asking.Go(func() {
		latestThere, _, presentErrs[1] = s.read(asked, c.Destination, to, repository.LatestName, latestLimit)
	})
	asking.Wait()
	if changedErr != nil || reason != "" {
		return PublishResult{Reason: reason}, changedErr
	}
	if err := cmp.Or(listErr, thereErr); err != nil {
		return result, err
	}
	if result.Missing > 0 {
		return result, nil
	}
	// Also after the listing: what was listed belongs to the root that is published.
	if result.Reason, err = s.changed(ctx, from, root); err != nil || result.Reason != "" {
		return result, err
	}
	if err := cmp.Or(rootErr, presentErrs[0], presentErrs[1]); err != nil {
		return result, err
	}
	if len(there) > 0 {
		if err := refuseNewer(to, there[len(there)-1], root); err != nil {
			return result, err
		}
	}
	if !bytes.Equal(rootThere, content) {
		if err := s.publishRoot(ctx, from, to, root, content); err != nil {
			return result, err
		}
	}
	if latest := repository.EncodeLatest(root.Generation); !bytes.Equal(latestThere, latest) {
		if err := s.publishLatest(ctx, to, latest); err != nil {
			return result, err
		}
	}
	for _, old := range there {
		if old.Generation == root.Generation {
			continue
		}
		if err := s.remove(ctx, to, old.Name); err != nil {
			return result, err
		}
		result.Removed++
	}
	result.Published = true
	return result, nil
}

// listedAtOnce is the number of pieces that are verified at once.
const listedAtOnce = 16

// verify lists both sides and fills in what is missing.
func (s *session) verify(ctx context.Context, from, to Location, shape *Shape, outside bool, result *PublishResult) error {
	ranges := []Range{{}}
	if shape != nil {
		ranges = shape.cut(listedAtOnce, outside)
	} else if outside {
		ranges = append(ranges, Range{Outside: true})
	}
	type found struct {
		objects, bytes, missing int64
		first                   string
		pieces                  []Piece
	}
	all := make([]found, len(ranges))
	err := s.each(ctx, len(ranges), func(ctx context.Context, i int) error {
		f := &all[i]
		k := newSketch(ranges[i].Outside)
		var refused error
		err := s.join(ctx, from, to, ranges[i], func(e entry) bool {
			if repository.Classify(e.source.key) == repository.ShallowSnapshot {
				refused = shallow(from, e.source.key)
				return false
			}
			f.objects++
			f.bytes += e.source.size
			k.add(e.source)
			if !e.equal(0) {
				if f.missing++; f.first == "" {
					f.first = ranges[i].space(to).address(e.source.key)
				}
			}
			return true
		})
		f.pieces = k.end(ranges[i].Through)
		return cmp.Or(refused, err)
	})
	if err != nil {
		return err
	}
	first := ""
	pieces := make([][]Piece, len(all))
	for i, f := range all {
		result.Objects += f.objects
		result.Bytes += f.bytes
		result.Missing += f.missing
		first = cmp.Or(first, f.first)
		pieces[i] = f.pieces
	}
	result.Shape = shapeOf(pieces)
	if result.Missing > 0 {
		result.Reason = fmt.Sprintf("%d objects are missing at the destination or older there, %s the first of them", result.Missing, first)
	}
	return nil
}

// changed says how the source's newest root differs from the planned one; empty when it does not.
func (s *session) changed(ctx context.Context, from Location, planned Root) (string, error) {
	roots, err := s.roots(ctx, s.sourceLister, from)
	if err != nil {
		return "", err
	}
	if len(roots) == 0 {
		return fmt.Sprintf("the source's root %s is gone", from.address(planned.Name)), nil
	}
	now := roots[len(roots)-1]
	switch {
	case planned.same(now):
		return "", nil
	case planned.Name == now.Name:
		return fmt.Sprintf("the source's root %s was written again since the plan", from.address(now.Name)), nil
	}
	return fmt.Sprintf("the source's root is now %s, no longer %s", from.address(now.Name), planned.Name), nil
}

func (s *session) publishRoot(ctx context.Context, from, to Location, root Root, content []byte) error {
	inside := Range{}
	if err := s.copyWhole(ctx, inside.space(from), inside.space(to), object{key: root.Name, size: root.Size, etag: root.ETag}); err != nil {
		if notFound(err) {
			f, _ := fault.As(err)
			return fault.New(fault.RepositoryCorrupt, f.Op, f.Target, f.Err)
		}
		return err
	}
	present, found, err := s.read(ctx, s.Destination, to, root.Name, repository.MaxRootSize)
	if err != nil {
		return err
	}
	if found && bytes.Equal(present, content) {
		return nil
	}
	// A root that is not what was checked must not be believed; what was there before is then the truth again.
	if err := s.remove(ctx, to, root.Name); err != nil {
		return err
	}
	return fault.Newf(fault.RepositoryCorrupt, "publish root document", to.address(root.Name),
		"it does not read back as the source's that was checked, and was removed again").
		WithHint("Something rewrote the source's root document at this moment. Check for a second domain that writes into the repository, then redrive.")
}

// latestLimit is far above the 8 bytes that index.latest has.
const latestLimit = 64

// publishLatest writes the pointer itself: the source's own is best effort and may be behind.
func (s *session) publishLatest(ctx context.Context, to Location, latest []byte) error {
	address := to.address(repository.LatestName)
	op := operation{verb: "write object", target: address, permission: "s3:PutObject on " + address, class: write}
	_, err := request(ctx, s, op, func(ctx context.Context) (*s3.PutObjectOutput, error) {
		return s.Destination.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &to.Bucket, Key: aws.String(to.key(repository.LatestName)),
			Body: bytes.NewReader(latest), ContentLength: aws.Int64(int64(len(latest))),
		}, noRetry)
	})
	if err != nil {
		return err
	}
	present, found, err := s.read(ctx, s.Destination, to, repository.LatestName, latestLimit)
	if err == nil && (!found || !bytes.Equal(present, latest)) {
		err = fault.Newf(fault.CopyFailed, "write object", address, "it does not read back as written").
			WithHint("Something else writes into the destination's base path. Stop it, then redrive.")
	}
	return err
}

func (s *session) remove(ctx context.Context, to Location, name string) error {
	address := to.address(name)
	_, err := request(ctx, s, operation{verb: "delete object", target: address, permission: "s3:DeleteObject on " + address, class: remove}, func(ctx context.Context) (*s3.DeleteObjectOutput, error) {
		return s.Destination.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &to.Bucket, Key: aws.String(to.key(name))}, noRetry)
	})
	if notFound(err) {
		return nil
	}
	return err
}
