package access

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Strangers are objects that the bucket's owner does not own, and so may not be able to read.
type Strangers struct {
	Count int64
	Keys  []string // the first of them
}

const strangersNamed = 10

// Strangers lists a repository's objects with their owners (one request for 1,000) and returns those that are not the bucket owner's. An object
// without an owner in the listing counts as one.
func (b Bucket) Strangers(ctx context.Context, p Place) (Strangers, error) {
	var s Strangers
	acl, err := b.Client.GetBucketAcl(ctx, &s3.GetBucketAclInput{Bucket: &p.Bucket, ExpectedBucketOwner: optional(b.Owner)})
	if err != nil {
		return s, classify(err, "read "+string(BucketACL), p.Bucket, BucketACL, "Get")
	}
	owner := aclOf(acl).Owner
	prefix := p.BasePath
	if prefix != "" {
		prefix += "/"
	}
	pages := s3.NewListObjectsV2Paginator(b.Client, &s3.ListObjectsV2Input{Bucket: &p.Bucket, Prefix: &prefix, FetchOwner: aws.Bool(true), ExpectedBucketOwner: optional(b.Owner)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return s, classify(err, "list the objects' owners", p.Bucket, BucketPolicy, "Get")
		}
		for _, o := range page.Contents {
			if o.Owner != nil && aws.ToString(o.Owner.ID) == owner && owner != "" {
				continue
			}
			s.Count++
			if len(s.Keys) < strangersNamed {
				s.Keys = append(s.Keys, aws.ToString(o.Key))
			}
		}
	}
	return s, nil
}

// CanonicalID is the account's own canonical id, which ACLs name.
func (b Bucket) CanonicalID(ctx context.Context) (string, error) {
	out, err := b.Client.ListBuckets(ctx, &s3.ListBucketsInput{MaxBuckets: aws.Int32(1)})
	if err != nil {
		return "", classify(err, "ask for the account's canonical id", "", BucketACL, "Get")
	}
	if out.Owner == nil {
		return "", nil
	}
	return aws.ToString(out.Owner.ID), nil
}
