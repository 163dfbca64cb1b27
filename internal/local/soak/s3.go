package soak

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/domainferry/domainferry/internal/repository"
)

// store is S3 in memory: strongly consistent, conditional writes, times of whole seconds.
type store struct {
	mu      sync.Mutex
	buckets map[string]map[string]object
}

type object struct {
	body     []byte
	etag     string
	modified time.Time
}

func newStore(buckets ...string) *store {
	s := &store{buckets: map[string]map[string]object{}}
	for _, b := range buckets {
		s.buckets[b] = map[string]object{}
	}
	return s
}

func (s *store) put(bucket, key string, body []byte) object {
	sum := md5.Sum(body)
	o := object{body: body, etag: `"` + hex.EncodeToString(sum[:]) + `"`, modified: time.Now().UTC().Truncate(time.Second)}
	s.buckets[bucket][key] = o
	return o
}

// keys are those with the prefix, in order. The caller holds s.mu.
func (s *store) keys(bucket, prefix string) []string {
	var keys []string
	for k := range s.buckets[bucket] {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// blobs is a domain's repository: what the engine writes and reads, which is not subject to faults.
type blobs struct {
	store          *store
	bucket, prefix string // with a slash at the end
}

func (b blobs) Put(name string, data []byte) error {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	b.store.put(b.bucket, b.prefix+name, bytes.Clone(data))
	return nil
}

func (b blobs) Get(name string) ([]byte, error) {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	o, ok := b.store.buckets[b.bucket][b.prefix+name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return bytes.Clone(o.body), nil
}

func (b blobs) List(prefix string) ([]string, error) {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	keys := b.store.keys(b.bucket, b.prefix+prefix)
	for i, k := range keys {
		keys[i] = strings.TrimPrefix(k, b.prefix)
	}
	return keys, nil
}

func (b blobs) Delete(name string) error {
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	delete(b.store.buckets[b.bucket], b.prefix+name)
	return nil
}

// s3Client is the S3 client of one invocation. As the SDK's, it repeats what failed, unless it is told not to.
type s3Client struct {
	w   *world
	inv *invocation
}

// s3Attempts is how often the Lambdas' own client tries (internal/clients).
const s3Attempts = 6

var errCut = errors.New("read: connection reset by peer")

func s3Error(status int, code, message string) error {
	return answered(status, &smithy.GenericAPIError{Code: code, Message: message})
}

func answered(status int, err error) error {
	return &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status, Header: http.Header{}}}, Err: err}
}

// call makes one request, and others after it where the SDK would.
func call[T any](ctx context.Context, c s3Client, what string, mutating bool, options []func(*s3.Options), effect func(s *store) (T, error)) (out T, err error) {
	var o s3.Options
	for _, f := range options {
		f(&o)
	}
	attempts := s3Attempts
	if _, never := o.Retryer.(aws.NopRetryer); never {
		attempts = 1
	}
	for attempt := 1; ; attempt++ {
		out, err = once(ctx, c, what, mutating, effect)
		if err == nil || attempt >= attempts || ctx.Err() != nil || !again(err) {
			return out, err
		}
		if err := sleep(ctx, time.Duration(attempt)*100*time.Millisecond); err != nil {
			return out, err
		}
	}
}

// again are the errors that the SDK's standard retryer repeats: 5xx, throttling and broken connections.
func again(err error) bool {
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		return r.HTTPStatusCode() >= http.StatusInternalServerError
	}
	return errors.Is(err, errCut)
}

func once[T any](ctx context.Context, c s3Client, what string, mutating bool, effect func(s *store) (T, error)) (out T, err error) {
	verdict, lost := c.w.request(ctx, c.inv, request{at: S3, what: what, mutating: mutating}, func() {
		c.w.s3.mu.Lock()
		defer c.w.s3.mu.Unlock()
		out, err = effect(c.w.s3)
	})
	if lost != nil {
		return out, lost
	}
	switch verdict {
	case passed:
		return out, err
	case Throttle, Unavailable:
		return out, s3Error(http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
	case InternalError:
		return out, s3Error(http.StatusInternalServerError, "InternalError", "We encountered an internal error. Please try again.")
	case Skewed:
		return out, s3Error(http.StatusForbidden, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
	}
	return out, errCut
}

func noSuchKey() error {
	return answered(http.StatusNotFound, &types.NoSuchKey{Message: aws.String("The specified key does not exist.")})
}

func (c s3Client) GetObject(ctx context.Context, in *s3.GetObjectInput, o ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	return call(ctx, c, "GET "+*in.Key, false, o, func(s *store) (*s3.GetObjectOutput, error) {
		x, ok := s.buckets[*in.Bucket][*in.Key]
		if !ok {
			return nil, noSuchKey()
		}
		return &s3.GetObjectOutput{Body: io.NopCloser(bytes.NewReader(x.body)), ContentLength: aws.Int64(int64(len(x.body))), ETag: &x.etag, LastModified: &x.modified}, nil
	})
}

func (c s3Client) HeadObject(ctx context.Context, in *s3.HeadObjectInput, o ...func(*s3.Options)) (*s3.HeadObjectOutput, error) {
	return call(ctx, c, "HEAD "+*in.Key, false, o, func(s *store) (*s3.HeadObjectOutput, error) {
		x, ok := s.buckets[*in.Bucket][*in.Key]
		if !ok {
			return nil, s3Error(http.StatusNotFound, "NotFound", "")
		}
		return &s3.HeadObjectOutput{ContentLength: aws.Int64(int64(len(x.body))), ETag: &x.etag, LastModified: &x.modified}, nil
	})
}

func (c s3Client) PutObject(ctx context.Context, in *s3.PutObjectInput, o ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	body, err := io.ReadAll(in.Body)
	if err != nil {
		return nil, err
	}
	return call(ctx, c, "PUT "+*in.Key, true, o, func(s *store) (*s3.PutObjectOutput, error) {
		before, there := s.buckets[*in.Bucket][*in.Key]
		switch {
		case in.IfMatch != nil && !there:
			return nil, noSuchKey()
		case aws.ToString(in.IfNoneMatch) == "*" && there, in.IfMatch != nil && *in.IfMatch != before.etag:
			return nil, s3Error(http.StatusPreconditionFailed, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
		}
		x := s.put(*in.Bucket, *in.Key, body)
		return &s3.PutObjectOutput{ETag: &x.etag}, nil
	})
}

func (c s3Client) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput, o ...func(*s3.Options)) (*s3.DeleteObjectOutput, error) {
	return call(ctx, c, "DELETE "+*in.Key, true, o, func(s *store) (*s3.DeleteObjectOutput, error) {
		delete(s.buckets[*in.Bucket], *in.Key)
		return &s3.DeleteObjectOutput{}, nil
	})
}

func (c s3Client) CopyObject(ctx context.Context, in *s3.CopyObjectInput, o ...func(*s3.Options)) (*s3.CopyObjectOutput, error) {
	from, err := url.PathUnescape(*in.CopySource)
	if err != nil {
		return nil, err
	}
	bucket, key, _ := strings.Cut(from, "/")
	return call(ctx, c, "COPY "+*in.Key, true, o, func(s *store) (*s3.CopyObjectOutput, error) {
		x, ok := s.buckets[bucket][key]
		switch {
		case !ok:
			return nil, noSuchKey()
		case in.CopySourceIfMatch != nil && *in.CopySourceIfMatch != x.etag:
			return nil, s3Error(http.StatusPreconditionFailed, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
		}
		x = s.put(*in.Bucket, *in.Key, x.body)
		return &s3.CopyObjectOutput{CopyObjectResult: &types.CopyObjectResult{ETag: &x.etag, LastModified: &x.modified}}, nil
	})
}

// ListObjectsV2 lists a page. A continuation token is the last key of the page before.
func (c s3Client) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input, o ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
	prefix, delimiter, after := aws.ToString(in.Prefix), aws.ToString(in.Delimiter), aws.ToString(in.StartAfter)
	if in.ContinuationToken != nil {
		after = *in.ContinuationToken
	}
	most := 1000
	if in.MaxKeys != nil {
		most = int(*in.MaxKeys)
	}
	return call(ctx, c, "LIST "+*in.Bucket+" "+prefix+" "+after, false, o, func(s *store) (*s3.ListObjectsV2Output, error) {
		out := &s3.ListObjectsV2Output{IsTruncated: aws.Bool(false)}
		folders := map[string]bool{}
		last := ""
		for _, k := range s.keys(*in.Bucket, prefix) {
			if k <= after {
				continue
			}
			if len(out.Contents)+len(folders) >= most {
				out.IsTruncated, out.NextContinuationToken = aws.Bool(true), aws.String(last)
				break
			}
			last = k
			if i := strings.Index(k[len(prefix):], delimiter); delimiter != "" && i >= 0 {
				folders[k[:len(prefix)+i+len(delimiter)]] = true
				continue
			}
			x := s.buckets[*in.Bucket][k]
			out.Contents = append(out.Contents, types.Object{Key: aws.String(k), Size: aws.Int64(int64(len(x.body))), ETag: aws.String(x.etag), LastModified: aws.Time(x.modified)})
		}
		for _, f := range slices.Sorted(maps.Keys(folders)) {
			out.CommonPrefixes = append(out.CommonPrefixes, types.CommonPrefix{Prefix: aws.String(f)})
		}
		out.KeyCount = aws.Int32(int32(len(out.Contents) + len(out.CommonPrefixes)))
		return out, nil
	})
}

var errNoParts = errors.New("no object of a soak is large enough for a multipart copy")

func (s3Client) CreateMultipartUpload(context.Context, *s3.CreateMultipartUploadInput, ...func(*s3.Options)) (*s3.CreateMultipartUploadOutput, error) {
	return nil, errNoParts
}

func (s3Client) UploadPartCopy(context.Context, *s3.UploadPartCopyInput, ...func(*s3.Options)) (*s3.UploadPartCopyOutput, error) {
	return nil, errNoParts
}

func (s3Client) CompleteMultipartUpload(context.Context, *s3.CompleteMultipartUploadInput, ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	return nil, errNoParts
}

func (s3Client) AbortMultipartUpload(context.Context, *s3.AbortMultipartUploadInput, ...func(*s3.Options)) (*s3.AbortMultipartUploadOutput, error) {
	return nil, errNoParts
}

// blobReader reads a repository's small objects, as internal/clients does.
type blobReader struct {
	client         s3Client
	bucket, prefix string
}

// Get implements repository.BlobReader.
func (b blobReader) Get(ctx context.Context, key string) ([]byte, error) {
	full := strings.TrimPrefix(b.prefix+"/"+key, "/")
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.bucket, Key: &full})
	if err != nil {
		return nil, fmt.Errorf("s3://%s/%s: %w", b.bucket, full, err)
	}
	return io.ReadAll(io.LimitReader(out.Body, repository.MaxBlobSize))
}
