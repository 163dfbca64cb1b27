package sigv4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	arn    = "arn:aws:sts::111122223333:assumed-role/caller/session"
	region = "eu-central-1"
)

var verifier = Verifier{
	Credentials: map[string]Credential{
		"AKIDEXAMPLE": {Secret: "secret", ARN: arn},
		"ASIAEXAMPLE": {Secret: "secret2", SessionToken: "token", ARN: arn + "2"},
	},
	Region: region,
}

// server verifies every request for service and sends the outcomes.
func server(t *testing.T, service string) (url string, outcome func() (string, error)) {
	t.Helper()
	type result struct {
		arn string
		err error
	}
	results := make(chan result, 16)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			results <- result{err: err}
			return
		}
		arn, err := verifier.Verify(r, service, body)
		results <- result{arn, err}
	}))
	t.Cleanup(s.Close)
	return s.URL, func() (string, error) {
		r := <-results
		return r.arn, r.err
	}
}

type call struct {
	method, target, body string
	service              string // signed for
	region               string
	credentials          aws.Credentials
	at                   time.Time
	hash                 string            // signed payload hash; empty: the body's
	sign                 func(http.Header) // before signing
	send                 func(*http.Request)
}

func do(t *testing.T, base string, c call) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), c.method, base+c.target, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	if c.sign != nil {
		c.sign(request.Header)
	}
	if c.hash == "" {
		sum := sha256.Sum256([]byte(c.body))
		c.hash = hex.EncodeToString(sum[:])
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = c.service == "s3" })
	if err := signer.SignHTTP(t.Context(), c.credentials, request, c.hash, c.service, c.region, c.at); err != nil {
		t.Fatal(err)
	}
	if c.send != nil {
		c.send(request)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

func TestVerify(t *testing.T) {
	good := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "secret"}
	header := func(name, value string) func(http.Header) {
		return func(h http.Header) { h.Set(name, value) }
	}
	resend := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, test := range map[string]struct {
		service string // that verifies; es when empty
		change  func(*call)
		want    string // part of the error; empty: accepted
		code    string
		status  int
	}{
		"plain":                  {change: func(*call) {}},
		"no body":                {change: func(c *call) { c.method, c.body = "GET", "" }},
		"lists, stars and dates": {change: func(c *call) { c.target = "/a,b*,-c/_search?expand_wildcards=open,hidden&q=a%20b%2Bc" }},
		"escaped path":           {change: func(c *call) { c.target = "/%3Clogs-%7Bnow%2Fd%7D%3E/_doc/a%2Fb%20c" }},
		"no path":                {change: func(c *call) { c.target = "" }},
		"query without values, twice the same, order": {change: func(c *call) { c.target = "/_cat?v&h=b&h=a&H=1&empty=" }},
		"header with spaces":                          {change: func(c *call) { c.sign = header("X-Amz-Meta", "  a   b ") }},
		"session token": {change: func(c *call) {
			c.credentials = aws.Credentials{AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "secret2", SessionToken: "token"}
		}},
		"content hash header": {change: func(c *call) { c.sign = header("X-Amz-Content-Sha256", hexHash([]byte(c.body))) }},
		"skew of 4 minutes":   {change: func(c *call) { c.at = c.at.Add(-4 * time.Minute) }},
		"s3 path with special characters": {service: "s3", change: func(c *call) {
			c.service, c.target, c.sign = "s3", "/bucket/a%20b%2Bc%2C%27%28d", header("X-Amz-Content-Sha256", hexHash([]byte(c.body)))
		}},
		"s3 unsigned payload": {service: "s3", change: func(c *call) {
			c.service, c.hash, c.sign = "s3", unsignedPayload, header("X-Amz-Content-Sha256", unsignedPayload)
		}},
		"s3 skew of 14 minutes": {service: "s3", change: func(c *call) {
			c.service, c.at, c.sign = "s3", c.at.Add(14*time.Minute), header("X-Amz-Content-Sha256", hexHash([]byte(c.body)))
		}},

		"wrong secret": {change: func(c *call) { c.credentials.SecretAccessKey = "other" },
			want: "The request signature we calculated does not match the signature you provided.", code: "InvalidSignatureException", status: 403},
		"wrong secret for states": {service: "states", change: func(c *call) { c.service, c.credentials.SecretAccessKey = "states", "other" },
			want: "The request signature we calculated does not match", code: "InvalidSignatureException", status: 400},
		"body changed": {change: func(c *call) {
			c.send = func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"a":2}`)) }
		}, want: "does not match the signature"},
		"body changed with content hash header": {change: func(c *call) {
			c.sign = header("X-Amz-Content-Sha256", hexHash([]byte(c.body)))
			c.send = func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"a":2}`)) }
		}, want: "does not match the signature"},
		"path changed":          {change: func(c *call) { c.send = func(r *http.Request) { r.URL.Path = "/other" } }, want: "does not match"},
		"query changed":         {change: func(c *call) { c.send = func(r *http.Request) { r.URL.RawQuery = "wait=true" } }, want: "does not match"},
		"method changed":        {change: func(c *call) { c.send = func(r *http.Request) { r.Method = "POST" } }, want: "does not match"},
		"host changed":          {change: func(c *call) { c.send = func(r *http.Request) { r.Host = "elsewhere" } }, want: "does not match"},
		"signed header changed": {change: func(c *call) { c.sign, c.send = header("X-Amz-Meta", "a"), resend("X-Amz-Meta", "b") }, want: "does not match"},
		"unsigned payload for es": {change: func(c *call) {
			c.hash, c.sign = unsignedPayload, header("X-Amz-Content-Sha256", unsignedPayload)
		}, want: "does not match"},
		"unknown key": {change: func(c *call) { c.credentials.AccessKeyID = "AKIDOTHER" },
			want: "The security token included in the request is invalid.", code: "UnrecognizedClientException", status: 403},
		"session token missing": {change: func(c *call) { c.credentials = aws.Credentials{AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "secret2"} },
			want: "security token included in the request is invalid"},
		"session token too many": {change: func(c *call) { c.credentials.SessionToken = "token" }, want: "security token included in the request is invalid"},
		"other service":          {change: func(c *call) { c.service = "s3" }, want: "Credential should be scoped to correct service: 'es'."},
		"other region":           {change: func(c *call) { c.region = "us-east-1" }, want: "scoped to a valid region"},
		"expired":                {change: func(c *call) { c.at = c.at.Add(-6 * time.Minute) }, want: "Signature expired: "},
		"not yet":                {change: func(c *call) { c.at = c.at.Add(6 * time.Minute) }, want: "Signature not yet current: "},
		"s3 expired": {service: "s3", change: func(c *call) {
			c.service, c.at, c.sign = "s3", c.at.Add(-16*time.Minute), header("X-Amz-Content-Sha256", hexHash([]byte(c.body)))
		}, want: "The difference between the request time and the current time is too large.", code: "RequestTimeTooSkewed", status: 403},
		"s3 without hash": {service: "s3", change: func(c *call) { c.service = "s3" }, want: "Missing required header for this request: x-amz-content-sha256", status: 400},
		"s3 body changed": {service: "s3", change: func(c *call) {
			c.service, c.sign = "s3", header("X-Amz-Content-Sha256", hexHash([]byte(c.body)))
			c.send = func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(`{"a":2}`)) }
		}, code: "XAmzContentSHA256Mismatch", want: "does not match what was computed"},
		"chunk-signed": {service: "s3", change: func(c *call) {
			c.service, c.sign = "s3", header("X-Amz-Content-Sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
		}, code: "NotImplemented", want: "chunk-signed", status: 501},
		"anonymous": {change: func(c *call) { c.send = func(r *http.Request) { r.Header.Del("Authorization") } },
			want: "User: anonymous is not authorized to perform: es:ESHttpPut because no resource-based policy allows the es:ESHttpPut action", status: 403},
		"anonymous for states": {service: "states", change: func(c *call) { c.send = func(r *http.Request) { r.Header.Del("Authorization") } },
			want: "Missing Authentication Token", code: "MissingAuthenticationTokenException", status: 400},
		"basic authentication": {change: func(c *call) { c.send = func(r *http.Request) { r.SetBasicAuth("admin", "hunter2") } },
			want: "(missing equal-sign) in Authorization header", code: "IncompleteSignatureException", status: 403},
		"signature missing": {change: func(c *call) {
			c.send = resend("Authorization", algorithm+" Credential=a/b/c/d/aws4_request, SignedHeaders=host")
		},
			want: "Authorization header requires 'Signature' parameter."},
		"short scope": {change: func(c *call) {
			c.send = resend("Authorization", algorithm+" Credential=a/b, SignedHeaders=host, Signature=0")
		},
			want: "at least 5 slash-delimited elements"},
		"no date":       {change: func(c *call) { c.send = func(r *http.Request) { r.Header.Del("X-Amz-Date") } }, want: "requires existence of either"},
		"date replayed": {change: func(c *call) { c.send = resend("X-Amz-Date", c.at.AddDate(0, 0, 1).UTC().Format(dateForm)) }, want: "Date in Credential scope does not match"},
		"host not signed": {change: func(c *call) {
			c.send = func(r *http.Request) {
				r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "host;", "", 1))
			}
		}, want: "'Host' or ':authority' must be a 'SignedHeader'"},
		"presigned": {change: func(c *call) { c.target = "/?X-Amz-Signature=0" }, want: "query string"},
	} {
		t.Run(name, func(t *testing.T) {
			service := test.service
			if service == "" {
				service = "es"
			}
			url, outcome := server(t, service)
			c := call{method: "PUT", target: "/_snapshot/repo/snap?wait_for_completion=false", body: `{"a":1}`, service: "es", region: region,
				credentials: good, at: time.Now()}
			test.change(&c)
			do(t, url, c)
			got, err := outcome()
			if test.want == "" {
				if err != nil || !strings.HasPrefix(got, arn) {
					t.Fatalf("got %q, %v; want it accepted", got, err)
				}
				return
			}
			refused, ok := errors.AsType[*Error](err)
			if !ok || got != "" || !strings.Contains(refused.Message, test.want) {
				t.Fatalf("got %q, %v; want %q", got, err, test.want)
			}
			if test.code != "" && refused.Code != test.code || test.status != 0 && refused.Status != test.status {
				t.Errorf("got %s %d, want %s %d", refused.Code, refused.Status, test.code, test.status)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "YWRtaW46aHVudGVyMg") {
				t.Error("the error shows a password")
			}
		})
	}
}

// The example of the AWS documentation ("GET ListUsers"), whose signature is published.
func TestPublishedExample(t *testing.T) {
	r := httptest.NewRequest("GET", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", nil)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	r.Header.Set("X-Amz-Date", "20150830T123600Z")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "+
		"SignedHeaders=content-type;host;x-amz-date, Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7")
	v := Verifier{
		Credentials: map[string]Credential{"AKIDEXAMPLE": {Secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", ARN: arn}},
		Now:         func() time.Time { return time.Date(2015, 8, 30, 12, 38, 0, 0, time.UTC) },
	}
	if got, err := v.Verify(r, "iam", nil); err != nil || got != arn {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRealS3Client(t *testing.T) {
	url, outcome := server(t, "s3")
	client := s3.New(s3.Options{BaseEndpoint: &url, UsePathStyle: true, Region: region, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "secret", "")})
	for _, key := range []string{"plain", "a b/ä+c%2F&='(),~*", "indices/x/0/__1"} {
		client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: &key, Body: bytes.NewReader([]byte("content"))})
		if _, err := outcome(); err != nil {
			t.Errorf("put %q: %v", key, err)
		}
	}
	client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("bucket"), Prefix: aws.String("a b/ä+")})
	if _, err := outcome(); err != nil {
		t.Errorf("list: %v", err)
	}
}

func TestAWSCommandLine(t *testing.T) {
	path, err := exec.LookPath("aws")
	if err == nil {
		err = exec.Command(path, "--version").Run()
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the AWS CLI is wanted in CI: %v", err)
		}
		t.Skipf("the AWS CLI is not here: %v", err)
	}
	var mu sync.Mutex
	var caller, target string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arn, err := verifier.Verify(r, "states", body)
		w.Header().Set("Content-Type", "application/x-amz-json-1.0")
		if refused, ok := errors.AsType[*Error](err); ok {
			w.WriteHeader(refused.Status)
			fmt.Fprintf(w, `{"__type":%q,"message":%q}`, refused.Code, refused.Message)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		caller, target = arn, r.Header.Get("X-Amz-Target")
		io.WriteString(w, `{"stateMachines":[]}`)
	}))
	t.Cleanup(s.Close)
	aws := func(secret string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, "stepfunctions", "list-state-machines", "--endpoint-url", s.URL, "--region", region, "--output", "json")
		nowhere := t.TempDir()
		cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID=ASIAEXAMPLE", "AWS_SECRET_ACCESS_KEY="+secret, "AWS_SESSION_TOKEN=token", "AWS_MAX_ATTEMPTS=1",
			"AWS_CONFIG_FILE="+nowhere+"/config", "AWS_SHARED_CREDENTIALS_FILE="+nowhere+"/credentials")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := aws("secret2"); err != nil || !strings.Contains(out, "stateMachines") {
		t.Fatalf("%v: %s", err, out)
	}
	if caller != arn+"2" || target != "AWSStepFunctions.ListStateMachines" {
		t.Errorf("caller %q, target %q", caller, target)
	}
	if out, err := aws("wrong"); err == nil || !strings.Contains(out, "(InvalidSignatureException)") || !strings.Contains(out, "signature we calculated does not match") {
		t.Errorf("a wrong secret: %v: %s", err, out)
	}
}
