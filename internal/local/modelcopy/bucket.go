// Package modelcopy runs the copy engine against a model of S3 on a virtual clock: sizes that no machine here holds, limits that no
// gateway has. The engine is the real one, with its governor, its retries and its slices; only S3 and the time are made up.
//
// The model knows what limits a copy between two buckets (s3-copy.md 2 and 5): requests a second for each partition of the destination
// (refused with 503 above), bytes a second of one request, bytes a second between the Regions (requests wait in line, and are refused
// when the line is long), the time of each listing, and requests that fail before or after they took effect. It holds no objects: the
// source's keys follow from their number, and a bit for each says whether the destination has it.
package modelcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/domainferry/domainferry/internal/s3copy"
)

// Limits are those of the modelled S3.
type Limits struct {
	RequestRate   float64 // writes a second that the destination's partitions take
	PerRequest    float64 // bytes a second of one copy request
	Bandwidth     float64 // bytes a second between the Regions; 0 is without a limit
	CopyLatency   time.Duration
	ListLatency   time.Duration
	FailureShare  float64 // of the copy requests: a third each are refused, carried out without an answer, and answered with an error in a 200
	LongestBehind time.Duration
}

const (
	objectsOfIndex = 2000 // one shard each
	rootName       = "index-0"
	latestName     = "index.latest"
	rootDocument   = `{"snapshots":[{"name":"model-r0001","uuid":"u","state":1}],"indices":{}}`
	rootETag       = `"root"`
	partBytes      = 100 << 20 // of the source's own multipart uploads
	largeBytes     = 10 * partBytes
)

// bucket is the source and the destination: S3 routes by the bucket's name.
type bucket struct {
	limits  Limits
	objects int64
	every   int64 // each so many objects there is a large one
	small   int64 // bytes of the others
	written time.Time
	copied  time.Time // when the destination's objects were, as far as a listing tells: later than settled

	mu       sync.Mutex
	random   *rand.Rand
	present  []uint64
	root     bool
	latest   []byte
	uploads  map[string]map[int32]int64 // sizes of the parts
	number   int
	tokens   float64
	filled   time.Time
	line     time.Time // when the link is free
	onList   func()
	requests int64 // writes carried out
	refused  int64
	moved    int64
	flight   int64
	most     int64
}

func newBucket(objects, bytes int64, limits Limits, seed uint64) *bucket {
	b := &bucket{
		limits: limits, objects: objects, random: rand.New(rand.NewPCG(seed, 1)), present: make([]uint64, (objects+63)/64),
		uploads: map[string]map[int32]int64{}, written: time.Now(), filled: time.Now(), line: time.Now(),
	}
	b.copied = b.written.Add(time.Hour)
	// Nine tenths of the bytes are in large objects.
	large := max(bytes*9/10/largeBytes, 1)
	b.every = max(objects/large, 1)
	b.small = max((bytes-b.larges()*largeBytes)/max(objects-b.larges(), 1), 1)
	return b
}

func (b *bucket) larges() int64 { return (b.objects + b.every - 1) / b.every }

func (b *bucket) size(i int64) int64 {
	if i%b.every == 0 && b.every > 1 {
		return largeBytes
	}
	return b.small
}

func (b *bucket) bytes() (n int64) {
	if b.every <= 1 {
		return b.objects * b.small
	}
	return b.larges()*largeBytes + (b.objects-b.larges())*b.small
}

func (b *bucket) has(i int64) bool { return b.present[i/64]>>(i%64)&1 == 1 }

func (b *bucket) set(i int64) { b.present[i/64] |= 1 << (i % 64) }

// fill copies everything at once.
func (b *bucket) fill() {
	for i := range b.present {
		b.present[i] = ^uint64(0)
	}
	b.root, b.latest = true, make([]byte, 8)
}

func (b *bucket) missing() int64 {
	n := b.objects
	for i := range b.objects / 64 {
		n -= int64(bits.OnesCount64(b.present[i]))
	}
	for i := b.objects / 64 * 64; i < b.objects; i++ {
		if b.has(i) {
			n--
		}
	}
	return n
}

// keyLength is that of "indices/i00000000/0/__000000000000".
const keyLength = 8 + 9 + 3 + 2 + 12

func appendKey(to []byte, i int64) []byte {
	to = append(to, "indices/i"...)
	to = appendNumber(to, i/objectsOfIndex, 8)
	to = append(to, "/0/__"...)
	return appendNumber(to, i, 12)
}

func appendNumber(to []byte, n int64, width int) []byte {
	start := len(to)
	for range width {
		to = append(to, '0')
	}
	for at := len(to) - 1; at >= start && n > 0; at-- {
		to[at] = byte('0' + n%10)
		n /= 10
	}
	return to
}

func keyOf(i int64) string { return string(appendKey(nil, i)) }

func numberOf(key string) (int64, bool) {
	if len(key) != keyLength {
		return 0, false
	}
	i, err := strconv.ParseInt(key[keyLength-12:], 10, 64)
	return i, err == nil && keyOf(i) == key
}

// firstAbove returns the number of the first object whose key is above a string: keys are in the order of their numbers.
func (b *bucket) firstAbove(after string) int64 {
	low, high := int64(0), b.objects
	buffer := make([]byte, 0, keyLength)
	for low < high {
		middle := (low + high) / 2
		if string(appendKey(buffer[:0], middle)) > after {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return low
}

// List implements s3copy.Lister.
func (b *bucket) List(ctx context.Context, in s3copy.Listing) (s3copy.Page, error) {
	if err := wait(ctx, b.limits.ListLatency); err != nil {
		return s3copy.Page{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.onList != nil {
		b.onList()
	}
	most := in.Max
	if most <= 0 {
		most = 1000
	}
	after := max(in.After, in.Token)
	source := in.Bucket == "source"
	var page s3copy.Page
	special := func(key string, size int, etag string) {
		if strings.HasPrefix(key, in.Prefix) && key > after {
			page.Objects = append(page.Objects, s3copy.Listed{Key: key, Size: int64(size), ETag: etag, Modified: b.written})
		}
	}
	if source || b.root {
		special(rootName, len(rootDocument), rootETag)
	}
	if source || b.latest != nil {
		special(latestName, 8, `"latest"`)
	}
	if in.Delimiter != "" && in.Prefix == "" {
		page.Folders = []string{"indices/"}
		return page, nil
	}
	if !strings.HasPrefix("indices/", in.Prefix) && !strings.HasPrefix(in.Prefix, "indices/") {
		return page, nil
	}
	i := b.firstAbove(max(after, strings.TrimSuffix(in.Prefix, "/")))
	if in.Delimiter != "" {
		if in.Prefix != "indices/" {
			if i < b.objects && strings.HasPrefix(keyOf(i), in.Prefix) {
				page.Folders = []string{in.Prefix + "0/"}
			}
			return page, nil
		}
		if in.Token != "" {
			i = (i + objectsOfIndex - 1) / objectsOfIndex * objectsOfIndex
		}
		for ; i < b.objects && len(page.Folders) < most; i += objectsOfIndex {
			page.Folders = append(page.Folders, keyOf(i)[:18])
		}
		if i < b.objects {
			page.Next = keyOf(i - 1)
		}
		return page, nil
	}
	count := int64(0)
	numbers := make([]int64, 0, most)
	for ; i < b.objects && len(numbers)+len(page.Objects) < most; i++ {
		if in.Prefix != "" && count%objectsOfIndex == 0 && !strings.HasPrefix(keyOf(i), in.Prefix) {
			break
		}
		count++
		if source || b.has(i) {
			numbers = append(numbers, i)
		}
	}
	text := make([]byte, 0, len(numbers)*keyLength)
	for _, n := range numbers {
		text = appendKey(text, n)
	}
	keys := string(text)
	for at, n := range numbers {
		o := s3copy.Listed{Key: keys[at*keyLength : (at+1)*keyLength], Size: b.size(n), Modified: b.written, ETag: `"e"`}
		if o.Size == largeBytes {
			o.ETag = `"e-10"`
		}
		if !source {
			o.Modified = b.copied
		}
		page.Objects = append(page.Objects, o)
	}
	if i < b.objects && (in.Prefix == "" || strings.HasPrefix(keyOf(i), in.Prefix)) {
		page.Next = keyOf(i - 1)
	}
	return page, nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errCut = errors.New("connection reset by peer")

func answer(status int, code string) error {
	return &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: &smithy.GenericAPIError{Code: code, Message: "modelled"},
	}
}

// write takes the time of a request that writes size bytes and calls done when it takes effect.
func (b *bucket) write(ctx context.Context, size int64, done func() error) error {
	b.mu.Lock()
	now := time.Now()
	b.tokens = min(b.tokens+now.Sub(b.filled).Seconds()*b.limits.RequestRate, b.limits.RequestRate/4)
	b.filled = now
	behind := b.line.Sub(now)
	if b.tokens < 1 || b.limits.Bandwidth > 0 && size > 0 && behind > b.limits.LongestBehind {
		b.refused++
		b.mu.Unlock()
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		return answer(http.StatusServiceUnavailable, "SlowDown")
	}
	b.tokens--
	took := b.limits.CopyLatency + time.Duration(float64(size)/b.limits.PerRequest*float64(time.Second))
	if b.limits.Bandwidth > 0 && size > 0 {
		if b.line.Before(now) {
			b.line = now
		}
		b.line = b.line.Add(time.Duration(float64(size) / b.limits.Bandwidth * float64(time.Second)))
		took = max(took, b.line.Sub(now))
	}
	failure := -1
	if b.limits.FailureShare > 0 && b.random.Float64() < b.limits.FailureShare {
		// Refused at once, or failing at any moment; but carried out before its answer is lost.
		if failure = b.random.IntN(3); failure == 0 {
			took = 20 * time.Millisecond
		} else if failure == 1 {
			took = time.Duration(b.random.Float64() * float64(took))
		}
	}
	b.flight++
	b.most = max(b.most, b.flight)
	b.mu.Unlock()
	err := wait(ctx, took)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flight--
	if err != nil {
		return err
	}
	b.requests++
	switch failure {
	case 0:
		return answer(http.StatusServiceUnavailable, "SlowDown")
	case 1:
		return answer(http.StatusOK, "InternalError")
	}
	b.moved += size
	if err := done(); err != nil {
		return err
	}
	if failure == 2 {
		return errCut
	}
	return nil
}

// ListObjectsV2 is not called: the model is a Lister.
func (b *bucket) ListObjectsV2(context.Context, *s3.ListObjectsV2Input, ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
	return nil, answer(http.StatusNotImplemented, "NotImplemented")
}

// GetObject reads the root documents.
func (b *bucket) GetObject(ctx context.Context, in *s3.GetObjectInput, _ ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	if err := wait(ctx, b.limits.ListLatency); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var content []byte
	switch {
	case *in.Key == rootName && (*in.Bucket == "source" || b.root):
		content = []byte(rootDocument)
	case *in.Key == latestName && *in.Bucket != "source" && b.latest != nil:
		content = b.latest
	default:
		return nil, answer(http.StatusNotFound, "NoSuchKey")
	}
	return &s3.GetObjectOutput{Body: io.NopCloser(bytes.NewReader(content)), ContentLength: aws.Int64(int64(len(content)))}, nil
}

// HeadObject tells the size of an object, or of its parts.
func (b *bucket) HeadObject(ctx context.Context, in *s3.HeadObjectInput, _ ...func(*s3.Options)) (*s3.HeadObjectOutput, error) {
	if err := wait(ctx, b.limits.ListLatency); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i, ok := numberOf(*in.Key)
	if !ok || *in.Bucket != "source" && !b.has(i) {
		return nil, answer(http.StatusNotFound, "NotFound")
	}
	size := b.size(i)
	if in.PartNumber != nil && size == largeBytes {
		size = partBytes
	}
	return &s3.HeadObjectOutput{ContentLength: &size}, nil
}

// PutObject writes index.latest.
func (b *bucket) PutObject(ctx context.Context, in *s3.PutObjectInput, _ ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	content, err := io.ReadAll(in.Body)
	if err == nil {
		err = b.write(ctx, 0, func() error { b.latest = content; return nil })
	}
	return &s3.PutObjectOutput{}, err
}

// CopyObject copies one object.
func (b *bucket) CopyObject(ctx context.Context, in *s3.CopyObjectInput, _ ...func(*s3.Options)) (*s3.CopyObjectOutput, error) {
	if *in.Key == rootName {
		return &s3.CopyObjectOutput{}, b.write(ctx, int64(len(rootDocument)), func() error { b.root = true; return nil })
	}
	i, ok := numberOf(*in.Key)
	if !ok {
		return nil, answer(http.StatusNotFound, "NoSuchKey")
	}
	return &s3.CopyObjectOutput{CopyObjectResult: &types.CopyObjectResult{}}, b.write(ctx, b.size(i), func() error { b.set(i); return nil })
}

// DeleteObject is for the root documents.
func (b *bucket) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput, _ ...func(*s3.Options)) (*s3.DeleteObjectOutput, error) {
	return &s3.DeleteObjectOutput{}, wait(ctx, b.limits.CopyLatency)
}

// CreateMultipartUpload begins the copy of a large object.
func (b *bucket) CreateMultipartUpload(ctx context.Context, in *s3.CreateMultipartUploadInput, _ ...func(*s3.Options)) (*s3.CreateMultipartUploadOutput, error) {
	id := ""
	err := b.write(ctx, 0, func() error {
		b.number++
		id = fmt.Sprint(b.number)
		b.uploads[id] = map[int32]int64{}
		return nil
	})
	return &s3.CreateMultipartUploadOutput{UploadId: &id}, err
}

// UploadPartCopy copies one part.
func (b *bucket) UploadPartCopy(ctx context.Context, in *s3.UploadPartCopyInput, _ ...func(*s3.Options)) (*s3.UploadPartCopyOutput, error) {
	var first, last int64
	if _, err := fmt.Sscanf(*in.CopySourceRange, "bytes=%d-%d", &first, &last); err != nil {
		return nil, answer(http.StatusBadRequest, "InvalidArgument")
	}
	err := b.write(ctx, last-first+1, func() error {
		parts := b.uploads[*in.UploadId]
		if parts == nil {
			return answer(http.StatusNotFound, "NoSuchUpload")
		}
		parts[*in.PartNumber] = last - first + 1
		return nil
	})
	return &s3.UploadPartCopyOutput{CopyPartResult: &types.CopyPartResult{ETag: aws.String("p")}}, err
}

// CompleteMultipartUpload ends the copy of a large object.
func (b *bucket) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput, _ ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	i, ok := numberOf(*in.Key)
	if !ok {
		return nil, answer(http.StatusNotFound, "NoSuchKey")
	}
	return &s3.CompleteMultipartUploadOutput{}, b.write(ctx, 0, func() error {
		parts, ok := b.uploads[*in.UploadId]
		if !ok {
			return answer(http.StatusNotFound, "NoSuchUpload")
		}
		whole := int64(0)
		for _, p := range in.MultipartUpload.Parts {
			whole += parts[*p.PartNumber]
		}
		if whole != b.size(i) {
			return answer(http.StatusBadRequest, "InvalidPart")
		}
		delete(b.uploads, *in.UploadId)
		b.set(i)
		return nil
	})
}

// AbortMultipartUpload gives a copy up.
func (b *bucket) AbortMultipartUpload(_ context.Context, in *s3.AbortMultipartUploadInput, _ ...func(*s3.Options)) (*s3.AbortMultipartUploadOutput, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.uploads, *in.UploadId)
	return &s3.AbortMultipartUploadOutput{}, nil
}

var (
	_ s3copy.S3     = (*bucket)(nil)
	_ s3copy.Lister = (*bucket)(nil)
)
