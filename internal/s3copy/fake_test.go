package s3copy

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
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
)

// fakeS3 holds buckets in memory and answers as S3 does where the copy depends on it: byte order, small pages, times in whole
// seconds, conditional copies, ETags of multipart uploads that differ from those of whole objects. Unlike S3 its requests can be
// made to fail before or after they take effect.
type fakeS3 struct {
	mu       sync.Mutex
	buckets  map[string]map[string]fakeObject // bucket, key
	uploads  map[string]map[int32][]byte
	calls    map[string]int // by operation
	pageSize int
	noETags  bool          // as versitygw lists objects that it did not write
	latency  time.Duration // of each copy
	archived string        // this key lies in GLACIER

	before func(op, key string) error // an error: the request has no effect
	after  func(op, key string) error // an error: it took effect, the answer is lost
}

type fakeObject struct {
	content  []byte
	modified time.Time
	etag     string
	part     int // size of the parts that it was uploaded in; 0 is whole
}

func newFakeS3(buckets ...string) *fakeS3 {
	f := &fakeS3{buckets: map[string]map[string]fakeObject{}, uploads: map[string]map[int32][]byte{}, calls: map[string]int{}, pageSize: 3}
	for _, b := range buckets {
		f.buckets[b] = map[string]fakeObject{}
	}
	return f
}

func (f *fakeS3) put(bucket, key, content string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buckets[bucket][key] = whole([]byte(content))
}

// putParts uploads an object in parts.
func (f *fakeS3) putParts(bucket, key, content string, part int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := whole([]byte(content))
	var sums []byte
	n := 0
	for rest := o.content; len(rest) > 0; n++ {
		sum := md5.Sum(rest[:min(part, len(rest))])
		sums = append(sums, sum[:]...)
		rest = rest[min(part, len(rest)):]
	}
	o.etag, o.part = fmt.Sprintf(`"%x-%d"`, md5.Sum(sums), n), part
	f.buckets[bucket][key] = o
}

func (f *fakeS3) remove(bucket, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.buckets[bucket], key)
}

// contents returns what a bucket holds below a prefix, by relative key.
func (f *fakeS3) contents(at Location) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := map[string]string{}
	for key, o := range f.buckets[at.Bucket] {
		if relative, ok := strings.CutPrefix(key, at.base()); ok {
			held[relative] = string(o.content)
		}
	}
	return held
}

func (f *fakeS3) clone() *fakeS3 {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := newFakeS3()
	c.pageSize = f.pageSize
	for name, bucket := range f.buckets {
		c.buckets[name] = maps.Clone(bucket)
	}
	return c
}

func (f *fakeS3) called(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func whole(content []byte) fakeObject {
	return fakeObject{content: content, modified: time.Now().Truncate(time.Second), etag: fmt.Sprintf("%q", fmt.Sprintf("%x", md5.Sum(content)))}
}

func answer(status int, code, message string) error {
	return &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}},
		Err:      &smithy.GenericAPIError{Code: code, Message: message},
	}
}

var errLost = errors.New("connection reset by peer")

// call runs one request under the lock, between the two hooks.
func call[T any](ctx context.Context, f *fakeS3, op, key string, run func() (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if f.latency > 0 && strings.Contains(op, "Copy") {
		select {
		case <-time.After(f.latency):
		case <-ctx.Done():
			return none, ctx.Err()
		}
	}
	if f.before != nil {
		if err := f.before(op, key); err != nil {
			return none, err
		}
	}
	f.mu.Lock()
	f.calls[op]++
	out, err := run()
	f.mu.Unlock()
	if err == nil && f.after != nil {
		if err := f.after(op, key); err != nil {
			return none, err
		}
	}
	return out, err
}

func (f *fakeS3) bucket(name *string) (map[string]fakeObject, error) {
	b, ok := f.buckets[aws.ToString(name)]
	if !ok {
		return nil, answer(404, "NoSuchBucket", "The specified bucket does not exist")
	}
	return b, nil
}

func (f *fakeS3) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input, _ ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
	return call(ctx, f, "ListObjectsV2", aws.ToString(in.Prefix), func() (*s3.ListObjectsV2Output, error) {
		bucket, err := f.bucket(in.Bucket)
		if err != nil {
			return nil, err
		}
		prefix, after := aws.ToString(in.Prefix), aws.ToString(in.StartAfter)
		if in.ContinuationToken != nil {
			after = *in.ContinuationToken
		}
		out := &s3.ListObjectsV2Output{IsTruncated: aws.Bool(false)}
		entries, last := 0, ""
		for _, key := range slices.Sorted(maps.Keys(bucket)) {
			if !strings.HasPrefix(key, prefix) || key <= after {
				continue
			}
			folder := ""
			if in.Delimiter != nil {
				if i := strings.Index(key[len(prefix):], *in.Delimiter); i >= 0 {
					folder = key[:len(prefix)+i+1]
				}
			}
			if folder != "" && (strings.HasPrefix(after, folder) || (last != "" && strings.HasPrefix(last, folder))) {
				last = key
				continue
			}
			if entries == f.pageSize {
				out.IsTruncated, out.NextContinuationToken = aws.Bool(true), aws.String(last)
				break
			}
			entries++
			last = key
			if folder != "" {
				out.CommonPrefixes = append(out.CommonPrefixes, types.CommonPrefix{Prefix: aws.String(folder)})
				continue
			}
			o := bucket[key]
			listed := types.Object{Key: aws.String(key), Size: aws.Int64(int64(len(o.content))), LastModified: aws.Time(o.modified)}
			if key == f.archived {
				listed.StorageClass = types.ObjectStorageClassGlacier
			}
			if !f.noETags {
				listed.ETag = aws.String(o.etag)
			}
			out.Contents = append(out.Contents, listed)
		}
		return out, nil
	})
}

func (f *fakeS3) GetObject(ctx context.Context, in *s3.GetObjectInput, _ ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	return call(ctx, f, "GetObject", *in.Key, func() (*s3.GetObjectOutput, error) {
		bucket, err := f.bucket(in.Bucket)
		if err != nil {
			return nil, err
		}
		o, ok := bucket[*in.Key]
		if !ok {
			return nil, answer(404, "NoSuchKey", "The specified key does not exist.")
		}
		return &s3.GetObjectOutput{Body: io.NopCloser(bytes.NewReader(o.content))}, nil
	})
}

func (f *fakeS3) HeadObject(ctx context.Context, in *s3.HeadObjectInput, _ ...func(*s3.Options)) (*s3.HeadObjectOutput, error) {
	return call(ctx, f, "HeadObject", *in.Key, func() (*s3.HeadObjectOutput, error) {
		o, ok := f.buckets[*in.Bucket][*in.Key]
		if !ok {
			return nil, answer(404, "NotFound", "")
		}
		length := len(o.content)
		if in.PartNumber != nil && o.part > 0 {
			length = min(o.part, length)
		}
		return &s3.HeadObjectOutput{ContentLength: aws.Int64(int64(length))}, nil
	})
}

func (f *fakeS3) PutObject(ctx context.Context, in *s3.PutObjectInput, _ ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	return call(ctx, f, "PutObject", *in.Key, func() (*s3.PutObjectOutput, error) {
		content, err := io.ReadAll(in.Body)
		if err != nil {
			return nil, err
		}
		f.buckets[*in.Bucket][*in.Key] = whole(content)
		return &s3.PutObjectOutput{}, nil
	})
}

func (f *fakeS3) source(copySource, ifMatch *string) (fakeObject, error) {
	decoded, err := url.PathUnescape(*copySource)
	if err != nil {
		return fakeObject{}, answer(400, "InvalidArgument", "copy source")
	}
	bucket, key, _ := strings.Cut(decoded, "/")
	o, ok := f.buckets[bucket][key]
	if !ok {
		return o, answer(404, "NoSuchKey", "The specified key does not exist.")
	}
	if ifMatch != nil && *ifMatch != o.etag {
		return o, answer(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
	}
	return o, nil
}

func (f *fakeS3) CopyObject(ctx context.Context, in *s3.CopyObjectInput, _ ...func(*s3.Options)) (*s3.CopyObjectOutput, error) {
	return call(ctx, f, "CopyObject", *in.Key, func() (*s3.CopyObjectOutput, error) {
		o, err := f.source(in.CopySource, in.CopySourceIfMatch)
		if err != nil {
			return nil, err
		}
		f.buckets[*in.Bucket][*in.Key] = whole(o.content)
		return &s3.CopyObjectOutput{CopyObjectResult: &types.CopyObjectResult{}}, nil
	})
}

func (f *fakeS3) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput, _ ...func(*s3.Options)) (*s3.DeleteObjectOutput, error) {
	return call(ctx, f, "DeleteObject", *in.Key, func() (*s3.DeleteObjectOutput, error) {
		delete(f.buckets[*in.Bucket], *in.Key)
		return &s3.DeleteObjectOutput{}, nil
	})
}

func (f *fakeS3) CreateMultipartUpload(ctx context.Context, in *s3.CreateMultipartUploadInput, _ ...func(*s3.Options)) (*s3.CreateMultipartUploadOutput, error) {
	return call(ctx, f, "CreateMultipartUpload", *in.Key, func() (*s3.CreateMultipartUploadOutput, error) {
		id := fmt.Sprintf("%s#%d", *in.Key, f.calls["CreateMultipartUpload"])
		f.uploads[id] = map[int32][]byte{}
		return &s3.CreateMultipartUploadOutput{UploadId: &id}, nil
	})
}

func (f *fakeS3) UploadPartCopy(ctx context.Context, in *s3.UploadPartCopyInput, _ ...func(*s3.Options)) (*s3.UploadPartCopyOutput, error) {
	return call(ctx, f, "UploadPartCopy", *in.Key, func() (*s3.UploadPartCopyOutput, error) {
		o, err := f.source(in.CopySource, in.CopySourceIfMatch)
		if err != nil {
			return nil, err
		}
		var first, last int
		if _, err := fmt.Sscanf(*in.CopySourceRange, "bytes=%d-%d", &first, &last); err != nil || last >= len(o.content) {
			return nil, answer(400, "InvalidArgument", "range "+*in.CopySourceRange)
		}
		upload, ok := f.uploads[*in.UploadId]
		if !ok {
			return nil, answer(404, "NoSuchUpload", "The specified upload does not exist.")
		}
		upload[*in.PartNumber] = o.content[first : last+1]
		return &s3.UploadPartCopyOutput{CopyPartResult: &types.CopyPartResult{ETag: aws.String(fmt.Sprint("part", *in.PartNumber))}}, nil
	})
}

func (f *fakeS3) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput, _ ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	return call(ctx, f, "CompleteMultipartUpload", *in.Key, func() (*s3.CompleteMultipartUploadOutput, error) {
		upload, ok := f.uploads[*in.UploadId]
		if !ok {
			return nil, answer(404, "NoSuchUpload", "The specified upload does not exist.")
		}
		var content, sums []byte
		for i, p := range in.MultipartUpload.Parts {
			if *p.PartNumber != int32(i+1) || upload[*p.PartNumber] == nil || *p.ETag != fmt.Sprint("part", *p.PartNumber) {
				return nil, answer(400, "InvalidPart", fmt.Sprint(*p.PartNumber))
			}
			content = append(content, upload[*p.PartNumber]...)
			sum := md5.Sum(upload[*p.PartNumber])
			sums = append(sums, sum[:]...)
		}
		o := whole(content)
		o.etag, o.part = fmt.Sprintf(`"%x-%d"`, md5.Sum(sums), len(in.MultipartUpload.Parts)), len(upload[1])
		delete(f.uploads, *in.UploadId)
		f.buckets[*in.Bucket][*in.Key] = o
		return &s3.CompleteMultipartUploadOutput{}, nil
	})
}

func (f *fakeS3) AbortMultipartUpload(ctx context.Context, in *s3.AbortMultipartUploadInput, _ ...func(*s3.Options)) (*s3.AbortMultipartUploadOutput, error) {
	return call(ctx, f, "AbortMultipartUpload", *in.Key, func() (*s3.AbortMultipartUploadOutput, error) {
		delete(f.uploads, *in.UploadId)
		return &s3.AbortMultipartUploadOutput{}, nil
	})
}

var _ S3 = (*fakeS3)(nil)

// unordered lists as a directory bucket may.
type unordered struct{ *fakeS3 }

func (unordered) ListObjectsV2(context.Context, *s3.ListObjectsV2Input, ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
	return &s3.ListObjectsV2Output{Contents: []types.Object{{Key: aws.String("b")}, {Key: aws.String("a")}}}, nil
}
