package clients

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/names"
)

// environment gives the function the variables that the service sets, and keeps this machine's configuration out.
func environment(t *testing.T, endpoint string) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_SESSION_TOKEN", "")
	t.Setenv("AWS_REGION", "eu-west-1")
	t.Setenv("AWS_PROFILE", "")
	t.Setenv("AWS_CONFIG_FILE", "none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "none")
	t.Setenv("AWS_ENDPOINT_URL_S3", endpoint)
}

func TestFromEnvironmentNamesWhatIsMissing(t *testing.T) {
	environment(t, "")
	t.Setenv(names.JournalBucketVariable, "")
	if _, err := FromEnvironment(t.Context()); err == nil || !strings.Contains(err.Error(), names.JournalBucketVariable) {
		t.Errorf("%v", err)
	}
}

func TestRequestsAreSignedForTheirRegion(t *testing.T) {
	var path, scope string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.Method + " " + r.URL.Path
		_, scope, _ = strings.Cut(r.Header.Get("Authorization"), "Credential=AKIDEXAMPLE/")
		scope, _, _ = strings.Cut(scope, ",")
		_, _ = w.Write([]byte(`{"cluster_name":"c","version":{"number":"7.10.2"}}`))
	}))
	defer server.Close()
	environment(t, server.URL)
	t.Setenv(names.JournalBucketVariable, "journal")
	c, err := FromEnvironment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	check := func(what, wantPath, wantScope string) {
		t.Helper()
		// The date stands before: 20261122/eu-west-1/s3/aws4_request.
		if _, got, _ := strings.Cut(scope, "/"); path != wantPath || got != wantScope {
			t.Errorf("%s: %q signed for %q, want %q, %q", what, path, got, wantPath, wantScope)
		}
	}
	if err := c.Journal.RecordOwner(t.Context(), journal.Owner{Migration: "orders", Execution: "arn"}); err != nil {
		t.Fatal(err)
	}
	check("journal", "PUT /journal/executions/arn.json", "eu-west-1/s3/aws4_request")
	if _, err := c.S3("us-west-2").DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("b"), Key: aws.String("k")}); err != nil {
		t.Fatal(err)
	}
	check("S3", "DELETE /b/k", "us-west-2/s3/aws4_request")
	domain := c.Domain(migration.Endpoint{Endpoint: server.URL, DomainARN: "arn:aws:es:us-east-1:111122223333:domain/orders"})
	if v, err := domain.Info(t.Context()); err != nil || v.Number != "7.10.2" {
		t.Fatalf("%+v, %v", v, err)
	}
	check("domain", "GET /", "us-east-1/es/aws4_request")
}

func TestCopierAsksEachSideInItsRegion(t *testing.T) {
	environment(t, "")
	t.Setenv(names.JournalBucketVariable, "journal")
	c, err := FromEnvironment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	copier := c.Copier(migration.Repository{Region: "eu-west-1"}, migration.Repository{Region: "us-east-1"})
	for want, client := range map[string]any{"eu-west-1": copier.Source, "us-east-1": copier.Destination} {
		o := client.(*s3.Client).Options()
		if o.Region != want || o.UsePathStyle {
			t.Errorf("Region %s, path style %t; want %s and virtual hosts at AWS", o.Region, o.UsePathStyle, want)
		}
	}
}

func TestReplayerAsksEachSideInItsRegion(t *testing.T) {
	scopes := map[string]string{}
	server := func(side string) migration.Endpoint {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, scope, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=AKIDEXAMPLE/")
			scope, _, _ = strings.Cut(scope, ",")
			_, scopes[side], _ = strings.Cut(scope, "/")
			_, _ = w.Write([]byte(`{"_shards":{"total":1,"successful":1,"failed":0}}`))
		}))
		t.Cleanup(s.Close)
		region := map[string]string{"source": "eu-west-1", "destination": "us-east-1"}[side]
		return migration.Endpoint{Endpoint: s.URL, DomainARN: "arn:aws:es:" + region + ":111122223333:domain/orders"}
	}
	environment(t, "")
	t.Setenv(names.JournalBucketVariable, "journal")
	c, err := FromEnvironment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := c.Replayer(server("source"), server("destination"))
	if err := errors.Join(r.Source.Refresh(t.Context(), "a"), r.Destination.Refresh(t.Context(), "a")); err != nil {
		t.Fatal(err)
	}
	if scopes["source"] != "eu-west-1/es/aws4_request" || scopes["destination"] != "us-east-1/es/aws4_request" {
		t.Errorf("signed for %v", scopes)
	}
}

// TestOtherAccountsAreReachedAsTheirRole has STS give credentials for a role, and looks who signs.
func TestOtherAccountsAreReachedAsTheirRole(t *testing.T) {
	var signers []string
	assumed := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, signer, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
		signer, _, _ = strings.Cut(signer, "/")
		if r.FormValue("Action") == "AssumeRole" {
			assumed++
			if signer != "AKIDEXAMPLE" || r.FormValue("RoleArn") != "arn:aws:iam::444455556666:role/access" || r.FormValue("ExternalId") != "ferry-7" {
				t.Errorf("%s assumes %v", signer, r.Form)
			}
			_, _ = w.Write([]byte(`<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAOTHER</AccessKeyId><SecretAccessKey>s</SecretAccessKey>` +
				`<SessionToken>t</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`))
			return
		}
		signers = append(signers, signer)
		if r.URL.Query().Has("policy") {
			if owner := r.Header.Get("X-Amz-Expected-Bucket-Owner"); owner != "444455556666" || r.URL.Path != "/old" {
				t.Errorf("policy of %s, owner %q", r.URL.Path, owner)
			}
			_, _ = w.Write([]byte(`{"Statement":[]}`))
			return
		}
		_, _ = w.Write([]byte(`{"cluster_name":"c","version":{"number":"7.10.2"}}`))
	}))
	defer server.Close()
	environment(t, server.URL)
	t.Setenv("AWS_ENDPOINT_URL_STS", server.URL)
	t.Setenv(names.JournalBucketVariable, "journal")
	c, err := FromEnvironment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := migration.Endpoint{
		Endpoint: server.URL, DomainARN: "arn:aws:es:us-east-1:444455556666:domain/orders", Repository: migration.Repository{Bucket: "old", Region: "us-east-1"},
		Access: migration.Access{RoleARN: "arn:aws:iam::444455556666:role/access", ExternalID: "ferry-7"},
	}
	if _, err := c.Domain(other).Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text, err := c.Bucket(other).Access(t.Context(), "old", access.BucketPolicy); err != nil || text == nil || *text != `{"Statement":[]}` {
		t.Fatalf("%v, %v", text, err)
	}
	own := other
	own.Access = migration.Access{}
	if _, err := c.Domain(own).Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"ASIAOTHER", "ASIAOTHER", "AKIDEXAMPLE"}; !slices.Equal(signers, want) || assumed != 1 {
		t.Errorf("signed by %v, want %v; assumed %d times", signers, want, assumed)
	}
}

func TestARoleThatCannotBeAssumed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`<ErrorResponse><Error><Code>AccessDenied</Code><Message>not authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>`))
	}))
	defer server.Close()
	environment(t, server.URL)
	t.Setenv("AWS_ENDPOINT_URL_STS", server.URL)
	t.Setenv(names.JournalBucketVariable, "journal")
	c, err := FromEnvironment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := migration.Endpoint{Endpoint: server.URL, DomainARN: "arn:aws:es:us-east-1:444455556666:domain/orders", Repository: migration.Repository{Bucket: "old", Region: "us-east-1"},
		Access: migration.Access{RoleARN: "arn:aws:iam::444455556666:role/access"}}
	_, err = c.Bucket(e).Access(t.Context(), "old", access.BucketPolicy)
	if f, ok := fault.As(err); !ok || f.Name != fault.AccessDenied || !strings.Contains(f.Advice(), "sts:AssumeRole") {
		t.Errorf("%v", err)
	}
	if _, err := c.Domain(e).Info(t.Context()); !fault.Is(err, fault.AccessDenied) {
		t.Errorf("%v", err)
	}
}
