package s3copy

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/repository"
)

// Publish makes the copied repository visible: it lists both sides again and, when nothing is missing and the source's root is
// still the planned one, copies index-N, writes index.latest, removes lower index-* and reads back what it wrote. Otherwise
// Published is false and Reason says why: copy again (Missing > 0) or plan again (the root changed).
//
// The order shows readers a whole repository at every moment: index-N is higher than what is there and takes effect at once;
// index.latest never names a root that is not there; lower roots go last. What only the destination has is left alone.
//
// Two listings are read, one request for each 1,000 objects and side. Faults as for Plan and CopyRange.
func (c *Copier) Publish(ctx context.Context, from, to Location, root Root, want Want) (result PublishResult, err error) {
	if err := check(from, to); err != nil {
		return PublishResult{}, err
	}
	started := time.Now()
	s := c.newSession()
	defer func() {
		result.Requests = s.requests.Load()
		result.Seconds = time.Since(started).Seconds()
	}()
	if result.Reason, err = s.changed(ctx, from, root); err != nil || result.Reason != "" {
		return result, err
	}
	first := ""
	for e, err := range s.join(ctx, from, to, Range{}) {
		if err != nil {
			return result, err
		}
		if repository.Classify(e.source.key) == repository.ShallowSnapshot {
			return result, shallow(from, e.source.key)
		}
		result.Objects++
		result.Bytes += e.source.size
		if !e.equal(0) {
			if result.Missing++; first == "" {
				first = e.source.key
			}
		}
	}
	if result.Missing > 0 {
		result.Reason = fmt.Sprintf("%d objects are missing at the destination or older there, %s the first of them", result.Missing, to.address(first))
		return result, nil
	}
	// Also after the listing: what was listed belongs to the root that is published.
	if result.Reason, err = s.changed(ctx, from, root); err != nil || result.Reason != "" {
		return result, err
	}
	content, document, err := s.readRoot(ctx, c.Source, from, root)
	if err != nil {
		return result, err
	}
	if _, err := wanted(document, from.address(root.Name), want); err != nil {
		return result, err
	}
	there, err := s.roots(ctx, c.Destination, to)
	if err != nil {
		return result, err
	}
	if len(there) > 0 {
		if err := refuseNewer(to, there[len(there)-1], root); err != nil {
			return result, err
		}
	}
	if err := s.publishRoot(ctx, from, to, root, content); err != nil {
		return result, err
	}
	if err := s.publishLatest(ctx, to, root.Generation); err != nil {
		return result, err
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

// changed says how the source's newest root differs from the planned one; empty when it does not.
func (s *session) changed(ctx context.Context, from Location, planned Root) (string, error) {
	roots, err := s.roots(ctx, s.Source, from)
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
	present, found, err := s.read(ctx, s.Destination, to, root.Name, repository.MaxRootSize)
	if err != nil {
		return err
	}
	if found && bytes.Equal(present, content) {
		return nil
	}
	if err := s.copyWhole(ctx, from, to, object{key: root.Name, size: root.Size, etag: root.ETag}); err != nil {
		if notFound(err) {
			f, _ := fault.As(err)
			return fault.New(fault.RepositoryCorrupt, f.Op, f.Target, f.Err)
		}
		return err
	}
	present, found, err = s.read(ctx, s.Destination, to, root.Name, repository.MaxRootSize)
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

// publishLatest writes the pointer itself: the source's own is best effort and may be behind.
func (s *session) publishLatest(ctx context.Context, to Location, generation int64) error {
	latest := repository.EncodeLatest(generation)
	const limit = 64
	present, found, err := s.read(ctx, s.Destination, to, repository.LatestName, limit)
	if err != nil || (found && bytes.Equal(present, latest)) {
		return err
	}
	address := to.address(repository.LatestName)
	_, err = request(ctx, s, operation{"write object", address, "s3:PutObject on " + address}, func(ctx context.Context) (*s3.PutObjectOutput, error) {
		return s.Destination.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &to.Bucket, Key: aws.String(to.key(repository.LatestName)),
			Body: bytes.NewReader(latest), ContentLength: aws.Int64(int64(len(latest))),
		}, noRetry)
	})
	if err != nil {
		return err
	}
	present, found, err = s.read(ctx, s.Destination, to, repository.LatestName, limit)
	if err == nil && (!found || !bytes.Equal(present, latest)) {
		err = fault.Newf(fault.CopyFailed, "write object", address, "it does not read back as written").
			WithHint("Something else writes into the destination's base path. Stop it, then redrive.")
	}
	return err
}

func (s *session) remove(ctx context.Context, to Location, name string) error {
	address := to.address(name)
	_, err := request(ctx, s, operation{"delete object", address, "s3:DeleteObject on " + address}, func(ctx context.Context) (*s3.DeleteObjectOutput, error) {
		return s.Destination.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &to.Bucket, Key: aws.String(to.key(name))}, noRetry)
	})
	if notFound(err) {
		return nil
	}
	return err
}
