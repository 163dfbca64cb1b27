package access_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/local/s3gateway"
)

// TestSharedBucketOnARealGateway lets another account write a repository into a bucket: by policy and, where the bucket has ACLs, by Object
// Ownership and a grant, each taken back to what it was.
func TestSharedBucketOnARealGateway(t *testing.T) {
	if testing.Short() {
		t.Skip("needs versitygw, which may have to be built")
	}
	ctx := t.Context()
	binary, err := s3gateway.Binary(ctx, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	g, err := s3gateway.Start(ctx, s3gateway.Config{Binary: binary, Root: filepath.Join(dir, "root"), Sidecar: filepath.Join(dir, "sidecar"),
		IAM: filepath.Join(dir, "iam"), LogFile: filepath.Join(dir, "gateway.log"), Access: "root", Secret: "rootsecret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	client := map[string]*s3.Client{}
	for _, account := range []string{"destination", "snapshots"} {
		if err := g.CreateAccount(ctx, account, account+"-secret"); err != nil {
			t.Fatal(err)
		}
		client[account] = g.As(account, account+"-secret")
	}
	owner := access.Bucket{Client: client["destination"]}
	if _, err := owner.Client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("shared"), ObjectOwnership: types.ObjectOwnershipObjectWriter}); err != nil {
		t.Fatal(err)
	}
	policy := `{"Version":"2012-10-17","Statement":[{"Sid":"Owner","Effect":"Allow","Principal":{"AWS":["destination"]},"Action":["s3:*"],"Resource":["arn:aws:s3:::shared","arn:aws:s3:::shared/*"]}]}`
	if err := owner.SetAccess(ctx, "shared", access.BucketPolicy, &policy); err != nil {
		t.Fatal(err)
	}
	read := func(kind access.Kind) *string {
		t.Helper()
		text, err := owner.Access(ctx, "shared", kind)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	before := map[access.Kind]*string{}
	for _, kind := range []access.Kind{access.BucketPolicy, access.ObjectOwnership, access.BucketACL} {
		if before[kind] = read(kind); before[kind] == nil {
			t.Fatalf("no %s", kind)
		}
	}
	place := access.Place{Bucket: "shared", BasePath: "base"}
	writes := func() error {
		_, err := client["snapshots"].PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("shared"), Key: aws.String("base/index-1"), Body: strings.NewReader("x")})
		return err
	}
	if writes() == nil {
		t.Fatal("another account writes before it is let")
	}

	set := map[access.Kind]string{}
	ownership, changed, usesACL := access.Owning(before[access.ObjectOwnership])
	if !changed || !usesACL {
		t.Fatalf("%s, %t, %t", ownership, changed, usesACL)
	}
	set[access.ObjectOwnership] = ownership
	if set[access.BucketPolicy], changed, err = access.Merge(before[access.BucketPolicy], access.WriteStatements("orders", "snapshots", place)...); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if set[access.BucketACL], changed, err = access.MergeGrants(*before[access.BucketACL], "snapshots"); err != nil || !changed {
		t.Fatal(changed, err)
	}
	for _, kind := range []access.Kind{access.ObjectOwnership, access.BucketPolicy, access.BucketACL} {
		text := set[kind]
		if err := owner.SetAccess(ctx, "shared", kind, &text); err != nil {
			t.Fatal(err)
		}
		if now := read(kind); now == nil || !access.Same(kind, *now, text) {
			t.Errorf("%s: read back %v, set %s", kind, aws.ToString(now), text)
		}
	}
	if err := writes(); err != nil {
		t.Fatalf("after it is let: %v", err)
	}
	if s, err := owner.Strangers(ctx, place); err != nil || s.Count != 0 {
		t.Errorf("objects that are not the bucket owner's: %+v, %v", s, err)
	}

	for _, kind := range []access.Kind{access.BucketACL, access.BucketPolicy, access.ObjectOwnership} {
		back, err := access.TakeBack(kind, before[kind], set[kind], read(kind))
		if err != nil || !back.Needed {
			t.Fatalf("%s: %+v, %v", kind, back, err)
		}
		if err := owner.SetAccess(ctx, "shared", kind, back.Text); err != nil {
			t.Fatal(err)
		}
	}
	for kind, text := range before {
		if now := read(kind); now == nil || *now != *text {
			t.Errorf("%s: afterwards %v, before %s", kind, aws.ToString(now), *text)
		}
	}
	if writes() == nil {
		t.Error("another account writes afterwards")
	}
	// A bucket that has none of them.
	if _, err := owner.Client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("bare")}); err != nil {
		t.Fatal(err)
	}
	if text, err := owner.Access(ctx, "bare", access.BucketPolicy); text != nil || err != nil {
		t.Errorf("%v, %v", text, err)
	}
	bare := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["destination"]},"Action":["s3:*"],"Resource":["arn:aws:s3:::bare"]}]}`
	if err := owner.SetAccess(ctx, "bare", access.BucketPolicy, &bare); err != nil {
		t.Fatal(err)
	}
	if err := owner.SetAccess(ctx, "bare", access.BucketPolicy, nil); err != nil {
		t.Fatal(err)
	}
	if text, err := owner.Access(ctx, "bare", access.BucketPolicy); text != nil || err != nil {
		t.Errorf("%v, %v", text, err)
	}
}

// TestS3Answers has answers of S3 that the gateway does not give.
func TestS3Answers(t *testing.T) {
	const refusal = `<?xml version="1.0"?><Error><Code>%CODE</Code><Message>m</Message></Error>`
	for _, c := range []struct {
		status int
		code   string
		want   fault.Name
	}{
		{403, "AccessDenied", fault.AccessDenied}, {405, "MethodNotAllowed", fault.AccessDenied}, {503, "SlowDown", fault.Throttled}, {500, "InternalError", fault.Unavailable},
		{400, "MalformedPolicy", fault.RequestRefused}, {404, "NoSuchBucket", fault.RequestRefused}, {409, "OperationAborted", fault.Unavailable},
	} {
		b := fake(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(strings.Replace(refusal, "%CODE", c.code, 1)))
		})
		text := "{}"
		if err := b.SetAccess(t.Context(), "b", access.BucketPolicy, &text); !fault.Is(err, c.want) {
			t.Errorf("%s: %v, want %s", c.code, err, c.want)
		}
	}
	b := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(strings.Replace(refusal, "%CODE", "OwnershipControlsNotFoundError", 1)))
	})
	if text, err := b.Access(t.Context(), "b", access.ObjectOwnership); text != nil || err != nil {
		t.Errorf("%v, %v", text, err)
	}
	if err := b.SetAccess(t.Context(), "b", access.BucketACL, nil); !fault.Is(err, fault.InvalidInput) {
		t.Errorf("an ACL is removed: %v", err)
	}
	if _, err := b.Access(t.Context(), "b", access.RoleMapping); !fault.Is(err, fault.InvalidInput) {
		t.Errorf("%v", err)
	}
}

func TestStrangers(t *testing.T) {
	b := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("acl") {
			_, _ = w.Write([]byte(`<AccessControlPolicy><Owner><ID>me</ID></Owner><AccessControlList></AccessControlList></AccessControlPolicy>`))
			return
		}
		if q := r.URL.Query(); q.Get("fetch-owner") != "true" || q.Get("prefix") != "base/" {
			t.Errorf("asked for %s", r.URL.RawQuery)
		}
		_, _ = w.Write([]byte(`<ListBucketResult><Contents><Key>base/a</Key><Owner><ID>me</ID></Owner></Contents>` +
			`<Contents><Key>base/b</Key><Owner><ID>them</ID></Owner></Contents><Contents><Key>base/c</Key></Contents></ListBucketResult>`))
	})
	s, err := b.Strangers(t.Context(), access.Place{Bucket: "b", BasePath: "base"})
	if err != nil || s.Count != 2 || !slices.Equal(s.Keys, []string{"base/b", "base/c"}) {
		t.Errorf("%+v, %v", s, err)
	}
}

// fake is a bucket of a server that answers as told, once.
func fake(t *testing.T, answer http.HandlerFunc) access.Bucket {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return access.Bucket{Client: s3.New(s3.Options{
		BaseEndpoint: &server.URL, UsePathStyle: true, Region: "us-east-1", Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", ""),
	})}
}

func TestNobodyAnswers(t *testing.T) {
	b := fake(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if _, err := b.Access(context.Background(), "b", access.BucketPolicy); !fault.Is(err, fault.Unavailable) {
		t.Errorf("%v", err)
	}
}
