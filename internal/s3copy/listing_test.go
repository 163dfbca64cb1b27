package s3copy

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/fault"
)

// repositoryPage is a full page as S3 sends it: 1,000 data blobs of one shard.
func repositoryPage() []byte {
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\n" + `<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>snapshots</Name>` +
		`<Prefix>base/path/</Prefix><NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>` +
		`<KeyCount>1000</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>`)
	for i := range 1000 {
		fmt.Fprintf(&b, `<Contents><Key>base/path/indices/Xa-_0000000000000000aa/%d/__%021d-</Key><LastModified>2026-11-23T06:40:%02d.000Z</LastModified>`+
			`<ETag>&quot;%032x&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>`+
			`<Size>%d</Size><StorageClass>STANDARD</StorageClass></Contents>`, i/500, i, i%60, i*7919, i*104729)
	}
	b.WriteString(`</ListBucketResult>`)
	return b.Bytes()
}

func TestDecodePage(t *testing.T) {
	at := time.Date(2026, 11, 23, 6, 40, 1, 500e6, time.UTC)
	for _, tt := range []struct {
		name, body string
		want       Page
		err        string
	}{
		{name: "empty", body: `<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>`},
		{name: "elements without content", body: `<ListBucketResult><Prefix/><Contents/><CommonPrefixes/></ListBucketResult>`},
		{name: "any order, unknown elements, attributes and comments", body: `<?xml version="1.0"?>
			<!-- a > comment --><ListBucketResult xmlns="a>b" x='"'><Contents> <Owner><ID>x</ID><Key>not this</Key></Owner>
			<StorageClass>DEEP_ARCHIVE</StorageClass><Size>12</Size><ETag>"e"</ETag><LastModified>2026-11-23T06:40:01.500Z</LastModified>
			<Key>a&amp;b&lt;&gt;&quot;&apos;&#65;&#x42;+%41</Key ></Contents><Deep><Deep><IsTruncated>true</IsTruncated></Deep></Deep>
			<CommonPrefixes><X/><Prefix>f+/</Prefix></CommonPrefixes><IsTruncated>false</IsTruncated></ListBucketResult>`,
			want: Page{Objects: []Listed{{Key: `a&b<>"'AB+%41`, Size: 12, Modified: at, ETag: `"e"`, Archived: true}}, Folders: []string{"f+/"}}},
		{name: "encoded keys, said late", body: `<ListBucketResult><NextContinuationToken>a+b%41</NextContinuationToken><IsTruncated>true</IsTruncated>` +
			`<Contents><Key>b%C3%A4se/a+b%2B%25%0A</Key><Size>0</Size></Contents><CommonPrefixes><Prefix>%3cx%3E/</Prefix></CommonPrefixes>` +
			`<EncodingType>url</EncodingType></ListBucketResult>`,
			want: Page{Objects: []Listed{{Key: "bäse/a b+%\n"}}, Folders: []string{"<x>/"}, Next: "a+b%41"}},
		{name: "another time", body: `<ListBucketResult><Contents><Key>k</Key><LastModified>2026-11-23T07:40:01.5+01:00</LastModified></Contents></ListBucketResult>`,
			want: Page{Objects: []Listed{{Key: "k", Modified: at}}}},
		{name: "error in a 200", body: `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please &amp; thank you</Message></Error>`, err: "api error SlowDown: Please & thank you"},
		{name: "goes on nowhere", body: `<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>`, err: "but not where"},
		{name: "no key", body: `<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>`, err: "without a key"},
		{name: "negative size", body: `<ListBucketResult><Contents><Key>k</Key><Size>-1</Size></Contents></ListBucketResult>`, err: "size"},
		{name: "huge size", body: `<ListBucketResult><Contents><Key>k</Key><Size>9999999999999999999</Size></Contents></ListBucketResult>`, err: "size"},
		{name: "no time", body: `<ListBucketResult><Contents><Key>k</Key><LastModified>today</LastModified></Contents></ListBucketResult>`, err: "time"},
		{name: "half an escape", body: `<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>k%4</Key></Contents></ListBucketResult>`, err: "escape"},
		{name: "no escape", body: `<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>k%4x</Key></Contents></ListBucketResult>`, err: "escape"},
		{name: "unknown entity", body: `<ListBucketResult><Contents><Key>&nbsp;</Key></Contents></ListBucketResult>`, err: "entity"},
		{name: "bare &", body: `<ListBucketResult><Contents><Key>a & b</Key></Contents></ListBucketResult>`, err: "without its ;"},
		{name: "no character", body: `<ListBucketResult><Contents><Key>&#xD800;</Key></Contents></ListBucketResult>`, err: "character"},
		{name: "a key in two pieces", body: `<ListBucketResult><Contents><Key>a<!-- -->b</Key></Contents></ListBucketResult>`, err: "inside <Key>"},
		{name: "CDATA", body: `<ListBucketResult><![CDATA[x]]></ListBucketResult>`, err: "no listing has"},
		{name: "wrong end", body: `<ListBucketResult></ListBucket>`, err: "inside <ListBucketResult>"},
		{name: "a page of a proxy", body: `<html><body>Sign in</body></html>`, err: "not a listing"},
		{name: "nothing", body: ``, err: "ends in the middle"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodePage([]byte(tt.body))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("%+v, %v; want an error with %q", got, err, tt.err)
				}
				return
			}
			if err != nil || !slices.Equal(got.Objects, tt.want.Objects) || !slices.Equal(got.Folders, tt.want.Folders) || got.Next != tt.want.Next {
				t.Fatalf("%+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

// A connection that is cut without net/http's notice must not look like the end of the bucket.
func TestCutPageIsNoPage(t *testing.T) {
	body := repositoryPage()
	for _, n := range []int{0, 1, 40, 200, 400, 1000, 5000, len(body) / 2, len(body) - 30, len(body) - 19, len(body) - 1} {
		if page, err := decodePage(body[:n]); !errors.Is(err, errCut) {
			t.Errorf("%d of %d bytes: %d objects, %v", n, len(body), len(page.Objects), err)
		}
	}
	small := []byte(`<?xml version="1.0"?><ListBucketResult a="b"><IsTruncated>false</IsTruncated><Contents><Key>k&amp;</Key><Size>1</Size></Contents></ListBucketResult>`)
	for n := range small {
		if _, err := decodePage(small[:n]); err == nil {
			t.Errorf("%q is taken for a page", small[:n])
		}
	}
}

// reference is the same document as encoding/xml reads it.
type reference struct {
	XMLName  xml.Name
	Contents []struct {
		Key, ETag string
		Size      string
	}
	CommonPrefixes        []struct{ Prefix []string }
	IsTruncated           []string
	EncodingType          []string
	NextContinuationToken []string
}

func FuzzDecodePage(f *testing.F) {
	page := repositoryPage()
	f.Add(append(slices.Clone(page[:2000]), "</ListBucketResult>"...))
	f.Add([]byte(`<ListBucketResult><Contents><Key>a&amp;b&#65;+%41</Key><Size>7</Size></Contents><CommonPrefixes><Prefix>x/</Prefix></CommonPrefixes></ListBucketResult>`))
	f.Add([]byte(`<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>a+b%2F</Key></Contents><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>`))
	f.Add([]byte(`<Error><Code>SlowDown</Code><Message>x</Message></Error>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := decodePage(body)
		if err != nil {
			if len(got.Objects)+len(got.Folders) > 0 || got.Next != "" {
				t.Fatalf("a page beside the error %v", err)
			}
			return
		}
		var want reference
		if err := xml.Unmarshal(body, &want); err != nil {
			return // it is stricter in what does not matter here
		}
		var keys []string
		for _, c := range want.Contents {
			keys = append(keys, c.Key)
		}
		// Only what both must agree on: encoded keys are decoded by one of them only.
		if len(want.EncodingType) == 0 && want.XMLName.Space == "" && !bytes.Contains(body, []byte("\r")) && !bytes.Contains(body, []byte(":")) {
			i := 0
			for _, o := range got.Objects {
				for i < len(keys) && keys[i] == "" && o.Key != "" {
					i++ // <Contents/>
				}
				if i >= len(keys) || keys[i] != o.Key {
					t.Fatalf("key %q, the reference has %q", o.Key, keys)
				}
				i++
			}
		}
		if _, err := url.QueryUnescape(got.Next); err != nil && len(want.NextContinuationToken) == 0 {
			t.Fatalf("token %q from nowhere", got.Next)
		}
	})
}

// answers is an HTTP client with one answer.
type answers struct {
	status int
	body   []byte
	asked  []*http.Request
}

func (a *answers) Do(r *http.Request) (*http.Response, error) {
	a.asked = append(a.asked, r)
	return &http.Response{
		StatusCode: a.status, Header: http.Header{"Content-Type": {"application/xml"}}, Request: r,
		Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)),
	}, nil
}

func clientOf(a *answers) *s3.Client {
	return s3.New(s3.Options{Region: "eu-west-1", HTTPClient: a, Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", "token")})
}

// The lean lister asks as the SDK does, and both give the same page.
func TestLeanListerIsTheSDKs(t *testing.T) {
	in := Listing{Bucket: "snapshots", Prefix: "bäse +&%41/x y/", Delimiter: "/", After: "bäse +&%41/x y/a+b c", Max: 7}
	a := &answers{status: 200, body: repositoryPage()}
	lean, ok := listerOf(clientOf(a)).(*leanLister)
	if !ok {
		t.Fatal("an s3.Client has no lean lister")
	}
	got, err := lean.List(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	want, err := sdkLister{clientOf(a)}.List(t.Context(), in)
	if err != nil || len(want.Objects) != 1000 {
		t.Fatal(err)
	}
	if !slices.Equal(got.Objects, want.Objects) || got.Next != want.Next {
		t.Errorf("the pages differ: %+v and %+v", got.Objects[0], want.Objects[0])
	}
	mine, theirs := a.asked[0], a.asked[1]
	query := func(r *http.Request) url.Values {
		q := r.URL.Query()
		q.Del("encoding-type") // the SDK does not ask for it
		q.Del("x-id")
		return q
	}
	if mine.URL.Host != theirs.URL.Host || mine.URL.Path != theirs.URL.Path || query(mine).Encode() != query(theirs).Encode() {
		t.Errorf("asked %s, the SDK asks %s", mine.URL, theirs.URL)
	}
	if mine.URL.Host != "snapshots.s3.eu-west-1.amazonaws.com" || mine.URL.Query().Get("encoding-type") != "url" {
		t.Errorf("asked %s", mine.URL)
	}
	authorization := mine.Header.Get("Authorization")
	if !strings.Contains(authorization, "Credential=AKID/") || !strings.Contains(authorization, "/eu-west-1/s3/aws4_request") ||
		!strings.Contains(authorization, "x-amz-security-token") || mine.Header.Get("X-Amz-Security-Token") != "token" {
		t.Errorf("signed %q", authorization)
	}
	// Only what a lean request cannot sign goes to the SDK.
	if _, ok := listerOf(s3.New(s3.Options{Region: "eu-west-1", Credentials: aws.AnonymousCredentials{}})).(sdkLister); !ok {
		t.Error("an anonymous client is signed for")
	}
	if e, err := lean.endpoint(t.Context(), "snapshots--euw1-az1--x-s3"); err != nil || e.lean {
		t.Errorf("a directory bucket is asked with the wrong signature: %+v, %v", e, err)
	}
}

func TestLeanListerFaults(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   fault.Name
		text   string
	}{
		{"denied", 403, `<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`, fault.AccessDenied, "AccessDenied: Access Denied"},
		{"no bucket", 404, `<Error><Code>NoSuchBucket</Code></Error>`, fault.CopyFailed, "NoSuchBucket"},
		{"wrong Region", 301, `<Error><Code>PermanentRedirect</Code></Error>`, fault.CopyFailed, "PermanentRedirect"},
		{"slow down", 503, `<Error><Code>SlowDown</Code></Error>`, fault.Throttled, "SlowDown"},
		{"slow down in a 200", 200, `<Error><Code>SlowDown</Code></Error>`, fault.Throttled, "SlowDown"},
		{"error in a 200", 200, `<Error><Code>InternalError</Code></Error>`, fault.Unavailable, "InternalError"},
		{"503 of a proxy", 503, `<html>`, fault.Throttled, "503"},
		{"502 of a proxy", 502, ``, fault.Unavailable, "502"},
		{"403 of a proxy", 403, `no`, fault.AccessDenied, "403"},
		{"cut", 200, `<ListBucketResult>`, fault.Unavailable, "middle"},
		{"a page of a proxy", 200, `<html><body></body></html>`, fault.CopyFailed, "not a listing"},
	} {
		_, err := listerOf(clientOf(&answers{status: tt.status, body: []byte(tt.body)})).List(t.Context(), Listing{Bucket: "b"})
		f := classify(operation{verb: "list bucket"}, err)
		if err == nil || f.Name != tt.want || !strings.Contains(f.Error(), tt.text) {
			t.Errorf("%s: %v, want %s with %q", tt.name, f, tt.want, tt.text)
		}
	}
	broken := s3.New(s3.Options{Region: "eu-west-1", HTTPClient: &answers{}, Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{}, &smithy.GenericAPIError{Code: "ExpiredToken"}
	})})
	if _, err := listerOf(broken).List(t.Context(), Listing{Bucket: "b"}); classify(operation{}, err).Name != fault.AccessDenied {
		t.Errorf("without credentials: %v", err)
	}
}

// What a page costs, without timing anything: the SDK makes about ten allocations an object, the lean lister none.
func TestLeanListerAllocations(t *testing.T) {
	c := clientOf(&answers{status: 200, body: repositoryPage()})
	cost := func(l Lister) float64 {
		return testing.AllocsPerRun(5, func() {
			if page, err := l.List(t.Context(), Listing{Bucket: "b"}); err != nil || len(page.Objects) != 1000 {
				t.Fatal(err)
			}
		})
	}
	lean, sdk := cost(listerOf(c)), cost(sdkLister{c})
	t.Logf("allocations for a page of 1,000 keys: lean %.0f, SDK %.0f", lean, sdk)
	if lean > 500 || sdk < 10*lean {
		t.Errorf("lean %.0f allocations, SDK %.0f", lean, sdk)
	}
}

// BenchmarkPage lists one page of 1,000 keys, with everything but the network: both in one run, so that the ratio can be read.
func BenchmarkPage(b *testing.B) {
	c := clientOf(&answers{status: 200, body: repositoryPage()})
	for name, l := range map[string]Lister{"lean": listerOf(c), "sdk": sdkLister{c}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.List(b.Context(), Listing{Bucket: "b"}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
