package step

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/local/s3gateway"
	"github.com/domainferry/domainferry/internal/migration"
)

// gatewayAccounts starts a real S3 gateway with two accounts, for which policies hold; the gateway's root key, for which none do, is used for
// nothing but making them.
func gatewayAccounts(t *testing.T) (owner, copying *s3.Client) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs versitygw, which may have to be built")
	}
	binary, err := s3gateway.Binary(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	g, err := s3gateway.Start(t.Context(), s3gateway.Config{Binary: binary, Root: filepath.Join(dir, "root"), Sidecar: filepath.Join(dir, "sidecar"),
		IAM: filepath.Join(dir, "iam"), LogFile: filepath.Join(dir, "gateway.log"), Access: "root", Secret: "rootsecret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, account := range []string{"sourceaccount", "copyingaccount"} {
		if err := g.CreateAccount(t.Context(), account, account+"-secret"); err != nil {
			t.Fatal(err)
		}
	}
	return g.As("sourceaccount", "sourceaccount-secret"), g.As("copyingaccount", "copyingaccount-secret")
}

// gatewayPolicy is a policy of somebody else in the bucket. It names the owner, because the gateway judges that one by the policy too.
const gatewayPolicy = `{
  "Version": "2012-10-17",
  "Statement": [
    {"Sid": "Owner", "Effect": "Allow", "Principal": {"AWS": ["sourceaccount"]}, "Action": ["s3:*"], "Resource": ["arn:aws:s3:::old-snapshots", "arn:aws:s3:::old-snapshots/*"]} ,
    {"Sid": "NotEvenThen", "Effect": "Deny", "Principal": {"AWS": ["copyingaccount"]}, "Action": ["s3:DeleteObject"], "Resource": ["arn:aws:s3:::old-snapshots/*"]}
  ]
}`

// TestAccessAcrossRealAccounts copies between two accounts of a real gateway: it is denied before the policy is extended, works with it, and
// afterwards the policy is byte for byte what it was.
func TestAccessAcrossRealAccounts(t *testing.T) {
	owner, copying := gatewayAccounts(t)
	ctx := t.Context()
	for bucket, client := range map[string]*s3.Client{"old-snapshots": owner, "new-snapshots": copying} {
		if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"base/index-1", "elsewhere/secret"} {
		if _, err := owner.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("old-snapshots"), Key: &key, Body: strings.NewReader("content")}); err != nil {
			t.Fatal(err)
		}
	}
	bucket := access.Bucket{Client: owner}
	policy := gatewayPolicy
	if err := bucket.SetAccess(ctx, "old-snapshots", access.BucketPolicy, &policy); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		t.Helper()
		now, err := bucket.Access(ctx, "old-snapshots", access.BucketPolicy)
		if err != nil || now == nil {
			t.Fatalf("%v, %v", now, err)
		}
		return *now
	}
	before := read()

	w, _ := acrossWorld(t)
	w.buckets = func(migration.Endpoint) Accessible { return bucket }
	copies := func(key string) error {
		_, err := copying.CopyObject(ctx, &s3.CopyObjectInput{Bucket: aws.String("new-snapshots"), Key: &key, CopySource: aws.String("old-snapshots/" + key)})
		return classified(err, "s3://old-snapshots/"+key)
	}
	lists := func(prefix string) error {
		_, err := copying.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String("old-snapshots"), Prefix: &prefix})
		return classified(err, "s3://old-snapshots/"+prefix)
	}
	tries := 0
	step := func(context.Context, RoundInput) (int, error) {
		tries++
		if err := lists("base/"); err != nil {
			return tries, err
		}
		return tries, copies("base/index-1")
	}
	if _, err := step(ctx, roundOfMine); !fault.Is(err, fault.AccessDenied) {
		t.Fatalf("before, another account reads: %v", err)
	}
	o := Opener{Journal: w.store, Buckets: w.buckets, Reader: "copyingaccount", Clock: w}
	if _, err := Opening(o, step)(ctx, roundOfMine); err != nil {
		t.Fatal(err)
	}
	if tries < 3 {
		t.Errorf("%d tries: it was never denied", tries)
	}
	// No more than the repository.
	for what, err := range map[string]error{"copy another prefix": copies("elsewhere/secret"), "list another prefix": lists("elsewhere/"), "list all": lists("")} {
		if !fault.Is(err, fault.AccessDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := copying.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("old-snapshots"), Key: aws.String("base/x"), Body: strings.NewReader("x")}); err == nil {
		t.Error("the role that copies may write into the source")
	}

	if _, err := thaw(w).Run(ctx, ThawInput{Execution: mine}); err != nil {
		t.Fatal(err)
	}
	if after := read(); after != before || after != gatewayPolicy {
		t.Errorf("afterwards the policy is\n%s\nnot\n%s", after, gatewayPolicy)
	}
	if err := copies("base/index-1"); !fault.Is(err, fault.AccessDenied) {
		t.Errorf("afterwards, another account reads: %v", err)
	}
}

// TestOthersChangeARealPolicy has the owner change the policy while it is extended, and takes out what was added only.
func TestOthersChangeARealPolicy(t *testing.T) {
	owner, copying := gatewayAccounts(t)
	ctx := t.Context()
	if _, err := owner.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("old-snapshots")}); err != nil {
		t.Fatal(err)
	}
	bucket := access.Bucket{Client: owner}
	policy := gatewayPolicy
	if err := bucket.SetAccess(ctx, "old-snapshots", access.BucketPolicy, &policy); err != nil {
		t.Fatal(err)
	}
	w, _ := acrossWorld(t)
	w.buckets = func(migration.Endpoint) Accessible { return bucket }
	step := func(context.Context, RoundInput) (int, error) {
		_, err := copying.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String("old-snapshots"), Prefix: aws.String("base/")})
		return 0, classified(err, "s3://old-snapshots/base/")
	}
	o := Opener{Journal: w.store, Buckets: w.buckets, Reader: "copyingaccount", Clock: w}
	if _, err := Opening(o, step)(ctx, roundOfMine); err != nil {
		t.Fatal(err)
	}
	now, err := bucket.Access(ctx, "old-snapshots", access.BucketPolicy)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(*now, `"Sid": "NotEvenThen"`, `"Sid": "Renamed"`, 1)
	if err := bucket.SetAccess(ctx, "old-snapshots", access.BucketPolicy, &changed); err != nil {
		t.Fatal(err)
	}
	if _, err := thaw(w).Run(ctx, ThawInput{Execution: mine}); err != nil {
		t.Fatal(err)
	}
	after, err := bucket.Access(ctx, "old-snapshots", access.BucketPolicy)
	if err != nil || !access.Same(access.BucketPolicy, *after, strings.Replace(gatewayPolicy, "NotEvenThen", "Renamed", 1)) {
		t.Errorf("%v: %s", err, *after)
	}
	if _, err := step(ctx, roundOfMine); !fault.Is(err, fault.AccessDenied) {
		t.Errorf("afterwards, another account reads: %v", err)
	}
	// Who does not own the bucket may not change its policy.
	if err := (access.Bucket{Client: copying}).SetAccess(ctx, "old-snapshots", access.BucketPolicy, &policy); !fault.Is(err, fault.AccessDenied) {
		t.Errorf("%v", err)
	}
}

// classified is S3's refusal as the copy engine says it.
func classified(err error, target string) error {
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() == "AccessDenied" {
		return fault.New(fault.AccessDenied, "read", target, err)
	}
	return err
}
