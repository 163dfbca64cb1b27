package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/domainferry/domainferry/internal/fault"
)

// Bucket reads and changes who may use buckets, as an identity of the account that owns them. S3 has no conditional change of a policy: read just
// before, and read again.
type Bucket struct {
	Client *s3.Client
	// Owner is the account that must own the buckets; empty is any.
	Owner string
}

// Access reads a bucket's policy, ownership or ACL; nil is that it has none. Faults: AccessDenied, Throttled, Unavailable, RequestRefused.
func (b Bucket) Access(ctx context.Context, bucket string, kind Kind) (*string, error) {
	var text *string
	var err error
	owner := optional(b.Owner)
	switch kind {
	case BucketPolicy:
		var out *s3.GetBucketPolicyOutput
		if out, err = b.Client.GetBucketPolicy(ctx, &s3.GetBucketPolicyInput{Bucket: &bucket, ExpectedBucketOwner: owner}); err == nil {
			text = out.Policy
		}
	case ObjectOwnership:
		var out *s3.GetBucketOwnershipControlsOutput
		out, err = b.Client.GetBucketOwnershipControls(ctx, &s3.GetBucketOwnershipControlsInput{Bucket: &bucket, ExpectedBucketOwner: owner})
		if err == nil && out.OwnershipControls != nil && len(out.OwnershipControls.Rules) > 0 {
			text = aws.String(string(out.OwnershipControls.Rules[0].ObjectOwnership))
		}
	case BucketACL:
		var out *s3.GetBucketAclOutput
		if out, err = b.Client.GetBucketAcl(ctx, &s3.GetBucketAclInput{Bucket: &bucket, ExpectedBucketOwner: owner}); err == nil {
			text = aws.String(aclOf(out).Text())
		}
	default:
		return nil, fault.Newf(fault.InvalidInput, "read "+string(kind), "s3://"+bucket, "it is nothing of a bucket")
	}
	if missing(err) {
		return nil, nil
	}
	return text, classify(err, "read "+string(kind), bucket, kind, "Get")
}

// SetAccess replaces a bucket's policy, ownership or ACL; nil removes it. An ACL cannot be removed.
func (b Bucket) SetAccess(ctx context.Context, bucket string, kind Kind, text *string) error {
	var err error
	verb := "Put"
	owner := optional(b.Owner)
	switch {
	case kind == BucketPolicy && text == nil:
		verb = "Delete"
		_, err = b.Client.DeleteBucketPolicy(ctx, &s3.DeleteBucketPolicyInput{Bucket: &bucket, ExpectedBucketOwner: owner})
	case kind == BucketPolicy:
		_, err = b.Client.PutBucketPolicy(ctx, &s3.PutBucketPolicyInput{Bucket: &bucket, Policy: text, ExpectedBucketOwner: owner})
	case kind == ObjectOwnership && text == nil:
		_, err = b.Client.DeleteBucketOwnershipControls(ctx, &s3.DeleteBucketOwnershipControlsInput{Bucket: &bucket, ExpectedBucketOwner: owner})
	case kind == ObjectOwnership:
		_, err = b.Client.PutBucketOwnershipControls(ctx, &s3.PutBucketOwnershipControlsInput{Bucket: &bucket, ExpectedBucketOwner: owner,
			OwnershipControls: &types.OwnershipControls{Rules: []types.OwnershipControlsRule{{ObjectOwnership: types.ObjectOwnership(*text)}}}})
	case kind == BucketACL && text != nil:
		var a ACL
		if a, err = ParseACL(*text); err != nil {
			return fault.New(fault.Unclassified, "set "+string(kind), "s3://"+bucket, err)
		}
		_, err = b.Client.PutBucketAcl(ctx, &s3.PutBucketAclInput{Bucket: &bucket, AccessControlPolicy: a.sdk(), ExpectedBucketOwner: owner})
	default:
		return fault.Newf(fault.InvalidInput, "set "+string(kind), "s3://"+bucket, "it is nothing of a bucket, or cannot be removed")
	}
	if text == nil && missing(err) {
		return nil
	}
	return classify(err, "set "+string(kind), bucket, kind, verb)
}

func aclOf(out *s3.GetBucketAclOutput) ACL {
	a := ACL{Grants: []Grant{}}
	if out.Owner != nil {
		a.Owner = aws.ToString(out.Owner.ID)
	}
	for _, g := range out.Grants {
		if g.Grantee == nil {
			continue
		}
		// A grant that is there twice is one; versitygw gives the owner's again with each change.
		if x := (Grant{aws.ToString(g.Grantee.ID), aws.ToString(g.Grantee.URI), string(g.Grantee.Type), string(g.Permission)}); !slices.Contains(a.Grants, x) {
			a.Grants = append(a.Grants, x)
		}
	}
	return a
}

func (a ACL) sdk() *types.AccessControlPolicy {
	p := &types.AccessControlPolicy{Owner: &types.Owner{ID: &a.Owner}}
	for _, g := range a.Grants {
		p.Grants = append(p.Grants, types.Grant{
			Grantee:    &types.Grantee{ID: optional(g.ID), URI: optional(g.URI), Type: types.Type(g.Type)},
			Permission: types.Permission(g.Permission),
		})
	}
	return p
}

func missing(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && (api.ErrorCode() == "NoSuchBucketPolicy" || api.ErrorCode() == "OwnershipControlsNotFoundError")
}

// classify turns an S3 error into a fault. Every change replaces the whole thing, so that one whose outcome is unknown is safe to repeat after a
// look.
func classify(err error, op, bucket string, kind Kind, verb string) error {
	if err == nil {
		return nil
	}
	target := "s3://" + bucket
	status, code := 0, ""
	if response, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = response.HTTPStatusCode()
	}
	cause := err
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code = api.ErrorCode()
		cause = fmt.Errorf("%s: %s", code, strings.TrimSpace(api.ErrorMessage()))
	}
	made := func(name fault.Name) *fault.Error {
		f := fault.New(name, op, target, cause)
		f.Status = status
		return f
	}
	switch {
	case code == "SlowDown" || code == "ServiceUnavailable" || status == http.StatusTooManyRequests:
		return made(fault.Throttled)
	case status >= 500 || status == 0 && code == "" && !noCredentials(err) || code == "OperationAborted":
		return made(fault.Unavailable)
	case code == "MalformedPolicy":
		return made(fault.RequestRefused).WithHint("S3 does not take the policy. A principal that it calls invalid does not exist yet: check the role ARNs, then redrive.")
	case status == http.StatusForbidden || status == http.StatusMethodNotAllowed || noCredentials(err):
		return made(fault.AccessDenied).WithHint("The role that the input names under access needs s3:%s%s on bucket %s, of the account that owns it, and the workflow's roles need sts:AssumeRole on it.",
			verb, map[Kind]string{BucketPolicy: "BucketPolicy", ObjectOwnership: "BucketOwnershipControls", BucketACL: "BucketAcl"}[kind], bucket)
	}
	return made(fault.RequestRefused)
}

// noCredentials reports whether the role could not be assumed.
func noCredentials(err error) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && api.ErrorCode() == "AccessDenied" && strings.Contains(err.Error(), "STS") || strings.Contains(err.Error(), "get credentials") || strings.Contains(err.Error(), "get identity")
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// Command is the AWS CLI command that does by hand what SetAccess would.
func Command(bucket string, kind Kind, text *string) string {
	quoted := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	switch {
	case kind == BucketPolicy && text == nil:
		return "aws s3api delete-bucket-policy --bucket " + bucket
	case kind == BucketPolicy:
		return "aws s3api put-bucket-policy --bucket " + bucket + " --policy " + quoted(*text)
	case kind == ObjectOwnership && text == nil:
		return "aws s3api delete-bucket-ownership-controls --bucket " + bucket
	case kind == ObjectOwnership:
		return "aws s3api put-bucket-ownership-controls --bucket " + bucket + " --ownership-controls " + quoted("Rules=[{ObjectOwnership="+*text+"}]")
	case kind == BucketACL && text != nil:
		if a, err := ParseACL(*text); err == nil {
			if policy, err := json.Marshal(a.sdk()); err == nil {
				return "aws s3api put-bucket-acl --bucket " + bucket + " --access-control-policy " + quoted(string(policy))
			}
		}
	}
	return "s3://" + bucket
}
