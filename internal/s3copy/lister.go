package s3copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/auth"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Listing asks for one page of a bucket, in byte order.
type Listing struct {
	Bucket    string
	Prefix    string
	Delimiter string
	After     string // keys above it only; with the first page
	Token     string // Page.Next of the page before
	Max       int    // keys and folders; 0 means 1,000, S3's limit
}

// Lister lists buckets. A client of a Copier that is a Lister is asked for pages by List; an *s3.Client gets a lean one that shares
// its credentials, endpoints and connections; of any other S3 ListObjectsV2 is called.
type Lister interface {
	List(context.Context, Listing) (Page, error)
}

func listerOf(api S3) Lister {
	if l, ok := api.(Lister); ok {
		return l
	}
	if c, ok := api.(interface{ Options() s3.Options }); ok {
		o := c.Options()
		if o.HTTPSignerV4 != nil && o.HTTPClient != nil && o.EndpointResolverV2 != nil && o.Credentials != nil &&
			!aws.IsCredentialsProvider(o.Credentials, aws.AnonymousCredentials{}) && !o.UseAccelerate {
			return &leanLister{options: o, sdk: sdkLister{api}}
		}
	}
	return sdkLister{api}
}

// sdkLister lists by the client's own ListObjectsV2.
type sdkLister struct{ api S3 }

// List implements Lister.
func (l sdkLister) List(ctx context.Context, in Listing) (Page, error) {
	out, err := l.api.ListObjectsV2(ctx, &s3.ListObjectsV2Input{
		Bucket: &in.Bucket, Prefix: optional(in.Prefix), Delimiter: optional(in.Delimiter), StartAfter: optional(in.After),
		ContinuationToken: optional(in.Token), MaxKeys: aws.Int32(in.max()),
	}, noRetry)
	if err != nil {
		return Page{}, err
	}
	page := Page{Objects: make([]Listed, len(out.Contents))}
	for i := range out.Contents {
		o := &out.Contents[i]
		page.Objects[i] = Listed{
			Key: aws.ToString(o.Key), Size: aws.ToInt64(o.Size), ETag: aws.ToString(o.ETag), Modified: aws.ToTime(o.LastModified),
			Archived: archived(string(o.StorageClass)),
		}
	}
	for _, p := range out.CommonPrefixes {
		page.Folders = append(page.Folders, aws.ToString(p.Prefix))
	}
	if aws.ToBool(out.IsTruncated) {
		if page.Next = aws.ToString(out.NextContinuationToken); page.Next == "" {
			return Page{}, &smithy.GenericAPIError{Code: "InternalError", Message: "the listing says that it goes on, but not where"}
		}
	}
	return page, nil
}

func (in Listing) max() int32 {
	if in.Max <= 0 || in.Max > int(listPageSize) {
		return listPageSize
	}
	return int32(in.Max)
}

// leanLister makes ListObjectsV2 requests itself: the SDK's endpoint rules, credentials, signer and HTTP client, but neither its
// middleware nor its decoder. Each List is one request; repeating it is the caller's.
type leanLister struct {
	options s3.Options
	sdk     Lister // for buckets that are signed in another way (S3 Express, multi-Region access points)

	mu        sync.Mutex
	endpoints map[string]endpoint // by bucket
}

type endpoint struct {
	url           url.URL
	headers       http.Header
	service       string
	signingRegion string
	lean          bool
}

// endpoint resolves where a bucket is asked and how requests to it are signed.
func (l *leanLister) endpoint(ctx context.Context, bucket string) (endpoint, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.endpoints[bucket]; ok {
		return e, nil
	}
	o := &l.options
	resolved, err := o.EndpointResolverV2.ResolveEndpoint(ctx, s3.EndpointParameters{
		Bucket: &bucket, Region: &o.Region, Endpoint: o.BaseEndpoint, ForcePathStyle: &o.UsePathStyle,
		UseFIPS:      aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
		UseDualStack: aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled),
		Accelerate:   aws.Bool(false), UseGlobalEndpoint: aws.Bool(false), UseArnRegion: &o.UseARNRegion,
		DisableMultiRegionAccessPoints: &o.DisableMultiRegionAccessPoints, DisableS3ExpressSessionAuth: o.DisableS3ExpressSessionAuth,
	})
	if err != nil {
		return endpoint{}, err
	}
	e := endpoint{url: resolved.URI, headers: resolved.Headers, service: "s3", signingRegion: o.Region, lean: true}
	if schemes, ok := auth.GetAuthOptions(&resolved.Properties); ok {
		e.lean = false
		for _, scheme := range schemes {
			if scheme.SchemeID != "sigv4" && scheme.SchemeID != auth.SchemeIDSigV4 { // the rules say the first
				continue
			}
			if name, ok := smithyhttp.GetSigV4SigningName(&scheme.SignerProperties); ok {
				e.service = name
			}
			if region, ok := smithyhttp.GetSigV4SigningRegion(&scheme.SignerProperties); ok {
				e.signingRegion = region
			}
			e.lean = e.service == "s3"
			break
		}
	}
	if l.endpoints == nil {
		l.endpoints = map[string]endpoint{}
	}
	l.endpoints[bucket] = e
	return e, nil
}

// emptyHash is the SHA-256 of nothing, the payload of every listing.
const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// List implements Lister.
func (l *leanLister) List(ctx context.Context, in Listing) (Page, error) {
	e, err := l.endpoint(ctx, in.Bucket)
	if err != nil {
		return Page{}, err
	}
	if !e.lean {
		return l.sdk.List(ctx, in)
	}
	credentials, err := l.options.Credentials.Retrieve(ctx)
	if err != nil {
		return Page{}, fmt.Errorf("get credentials: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, in.url(e.url), nil)
	if err != nil {
		return Page{}, err
	}
	for name, values := range e.headers {
		request.Header[name] = slices.Clone(values)
	}
	request.Header.Set("X-Amz-Content-Sha256", emptyHash)
	request.Header.Set("Accept-Encoding", "identity") // or net/http asks for gzip and hides the length
	request.Header.Set("User-Agent", "domain-ferry")
	if err := l.options.HTTPSignerV4.SignHTTP(ctx, credentials, request, emptyHash, e.service, e.signingRegion, time.Now()); err != nil {
		return Page{}, fmt.Errorf("sign the request: %w", err)
	}
	response, err := l.options.HTTPClient.Do(request)
	if err != nil {
		return Page{}, err
	}
	defer response.Body.Close()
	body := bodies.Get().(*bytes.Buffer)
	defer bodies.Put(body)
	body.Reset()
	if _, err := body.ReadFrom(io.LimitReader(response.Body, maxListing+1)); err != nil {
		return Page{}, err
	}
	if body.Len() > maxListing {
		return Page{}, fmt.Errorf("the listing is longer than %d bytes", maxListing)
	}
	return readAnswer(response.StatusCode, response.Header, body.Bytes())
}

// maxListing is far above a page of 1,000 keys of 1,024 bytes, each byte of them escaped.
const maxListing = 16 << 20

var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// readAnswer decodes an answer. Errors are shaped as the SDK's are, so that classify takes both.
func readAnswer(status int, header http.Header, body []byte) (Page, error) {
	var err error
	if status == http.StatusOK {
		var page Page
		if page, err = decodePage(body); err == nil {
			return page, nil
		}
		if _, failed := errors.AsType[*smithy.GenericAPIError](err); failed && err != errCut {
			status = http.StatusInternalServerError // a 200 that holds an error, as the SDK takes it too
		}
	} else if failure := decodeFailure(body); failure != nil {
		err = failure
	} else {
		err = errors.New(strings.TrimSpace("HTTP status " + strconv.Itoa(status) + " " + http.StatusText(status)))
	}
	return Page{}, &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status, Header: header}}, Err: err,
	}
}

// url returns the address of the request at a bucket's endpoint.
func (in Listing) url(at url.URL) string {
	// RawPath stays empty: bucket names need no escaping.
	if at.Path == "" {
		at.Path = "/"
	}
	query := url.Values{"list-type": {"2"}, "encoding-type": {"url"}, "max-keys": {strconv.Itoa(int(in.max()))}}
	for name, value := range map[string]string{
		"prefix": in.Prefix, "delimiter": in.Delimiter, "start-after": in.After, "continuation-token": in.Token,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	at.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return at.String()
}
