package s3gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

func start(t *testing.T) *Gateway {
	t.Helper()
	if testing.Short() {
		t.Skip("needs versitygw, which may have to be built")
	}
	binary, err := Binary(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// Go makes the parent of test folders passable to their owner only.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	g, err := Start(t.Context(), Config{Binary: binary, Root: filepath.Join(dir, "root"), Sidecar: filepath.Join(dir, "sidecar"),
		LogFile: filepath.Join(dir, "gateway.log"), Region: "eu-central-1", Access: "access", Secret: "secretsecret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	if err := g.CreateBucket(t.Context(), "bucket"); err != nil {
		t.Fatal(err)
	}
	return g
}

func proxy(t *testing.T, g *Gateway, decide func(Request) Answer) *Proxy {
	t.Helper()
	p, err := NewProxy(g.URL(), decide)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func put(t *testing.T, c *s3.Client, key, content string) error {
	t.Helper()
	_, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: &key, Body: strings.NewReader(content)})
	return err
}

func get(t *testing.T, c *s3.Client, key string) string {
	t.Helper()
	out, err := c.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("bucket"), Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	content, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func list(t *testing.T, c *s3.Client, prefix string) string {
	t.Helper()
	out, err := c.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("bucket"), Prefix: &prefix})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, o := range out.Contents {
		keys = append(keys, fmt.Sprintf("%s %d", *o.Key, *o.Size))
	}
	return strings.Join(keys, ", ")
}

func duplicate(t *testing.T, c *s3.Client, from, to string, options ...func(*s3.Options)) error {
	t.Helper()
	_, err := c.CopyObject(t.Context(), &s3.CopyObjectInput{Bucket: aws.String("bucket"), Key: &to, CopySource: aws.String("bucket/" + from)}, options...)
	return err
}

func TestPutCopyListAndRestart(t *testing.T) {
	g := start(t)
	c := g.Client(g.URL())
	if err := put(t, c, "a/one", "first"); err != nil {
		t.Fatal(err)
	}
	if err := duplicate(t, c, "a/one", "b/two"); err != nil {
		t.Fatal(err)
	}
	before := g.Pid()
	if err := g.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g.Pid() == before || syscall.Kill(before, 0) == nil {
		t.Errorf("process %d before and %d after the restart", before, g.Pid())
	}
	if got := list(t, c, ""); got != "a/one 5, b/two 5" {
		t.Errorf("after the restart: %s", got)
	}
	if got := get(t, c, "b/two"); got != "first" {
		t.Errorf("the copy holds %q", got)
	}
	if err := g.CreateBucket(t.Context(), "bucket"); err != nil {
		t.Errorf("a bucket that exists: %v", err)
	}

	// A kill from outside, then Restart.
	if err := syscall.Kill(g.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := g.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, c, "a/one"); got != "first" {
		t.Errorf("after the second restart: %q", got)
	}

	pid := g.Pid()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if syscall.Kill(pid, 0) == nil {
		t.Errorf("process %d outlived Close", pid)
	}
	if g.Restart(t.Context()) == nil || g.Pid() != 0 {
		t.Error("a closed gateway restarted")
	}
}

func TestWrongCredentialsAreRefused(t *testing.T) {
	g := start(t)
	other := &Gateway{config: g.config}
	other.config.Secret = "anothersecret"
	err := put(t, other.Client(g.URL()), "a", "x")
	if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != "SignatureDoesNotMatch" {
		t.Errorf("got %v, want SignatureDoesNotMatch", err)
	}
}

// A node writes its fs repository inside a bucket's folder, as another user when this program runs as root; the gateway sees the
// files as objects, and the node can read, replace and delete the gateway's objects.
func TestNodesUserSharesTheBucketsFolder(t *testing.T) {
	g := start(t)
	c := g.Client(g.URL())
	if err := put(t, c, "copied/indices/0/blob", "by the gateway"); err != nil {
		t.Fatal(err)
	}
	if err := duplicate(t, c, "copied/indices/0/blob", "copied/indices/1/blob"); err != nil {
		t.Fatal(err)
	}
	create, err := c.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: aws.String("bucket"), Key: aws.String("parts/0/blob")})
	if err != nil {
		t.Fatal(err)
	}
	part, err := c.UploadPartCopy(t.Context(), &s3.UploadPartCopyInput{Bucket: create.Bucket, Key: create.Key, UploadId: create.UploadId,
		PartNumber: aws.Int32(1), CopySource: aws.String("bucket/copied/indices/0/blob")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{Bucket: create.Bucket, Key: create.Key, UploadId: create.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: part.CopyPartResult.ETag, PartNumber: aws.Int32(1)}}}}); err != nil {
		t.Fatal(err)
	}
	script := exec.Command("/bin/sh", "-ec", `cd "$0"
mkdir -p base/indices && echo node > base/indices/snap && mv base/indices/snap base/indices/snap-1
cat copied/indices/0/blob copied/indices/1/blob parts/0/blob
echo appended >> copied/indices/0/blob
echo new > copied/indices/0/temporary && mv copied/indices/0/temporary copied/indices/0/other
rm copied/indices/1/blob`, g.BucketPath("bucket"))
	if os.Getuid() == 0 {
		script.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if out, err := script.CombinedOutput(); err != nil || string(out) != strings.Repeat("by the gateway", 3) {
		t.Fatalf("the node's user: %v: %s", err, out)
	}
	if got := list(t, c, "base/"); got != "base/indices/snap-1 5" {
		t.Errorf("the gateway lists %q", got)
	}
	if got := get(t, c, "base/indices/snap-1"); got != "node\n" {
		t.Errorf("the gateway reads %q", got)
	}
	if err := duplicate(t, c, "base/indices/snap-1", "copied/snap-1"); err != nil {
		t.Errorf("copy of an object that the node wrote: %v", err)
	}
	if got := list(t, c, "copied/"); got != "copied/indices/0/blob 23, copied/indices/0/other 4, copied/snap-1 5" {
		t.Errorf("the gateway lists %q", got)
	}
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	good := Config{Binary: "/bin/false", Root: filepath.Join(dir, "root"), Sidecar: filepath.Join(dir, "sidecar"),
		LogFile: filepath.Join(dir, "log"), Access: "a", Secret: "s"}
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"a program that exits":   {func(*Config) {}, "exited with exit status 1"},
		"no credentials":         {func(c *Config) { c.Secret = "" }, "secret"},
		"sidecar inside root":    {func(c *Config) { c.Sidecar = filepath.Join(c.Root, "meta") }, "inside the root"},
		"log cannot be written":  {func(c *Config) { c.LogFile = filepath.Join(dir, "none", "log") }, "log"},
		"binary does not exist":  {func(c *Config) { c.Binary = filepath.Join(dir, "none") }, "exited with exit status 127"},
		"root is a regular file": {func(c *Config) { c.Root = "/bin/false" }, "/bin/false"},
	} {
		t.Run(name, func(t *testing.T) {
			config := good
			test.change(&config)
			g, err := Start(t.Context(), config)
			if err == nil {
				g.Close()
				t.Fatal("not refused")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%q does not say %q", err, test.want)
			}
		})
	}
}

func TestProxyPassesAndCounts(t *testing.T) {
	g := start(t)
	p := proxy(t, g, nil)
	c := g.Client(p.URL())
	key := "dir/ä b+c%2F&='(),~"
	if err := put(t, c, key, strings.Repeat("x", 300_000)); err != nil {
		t.Fatal(err)
	}
	if got := get(t, c, key); len(got) != 300_000 {
		t.Errorf("%d bytes came back", len(got))
	}
	if err := put(t, c, "dir/plain", "x"); err != nil {
		t.Fatal(err)
	}
	if err := duplicate(t, c, "dir/plain", "copy"); err != nil {
		t.Fatal(err)
	}
	if got := list(t, c, "dir/"); got != "dir/plain 1, "+key+" 300000" {
		t.Errorf("listed %q", got)
	}
	want := map[Kind]int{PutObject: 2, GetObject: 1, CopyObject: 1, ListObjectsV2: 1}
	got := p.Counts()
	if len(got) != len(want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	for kind, n := range want {
		if got[kind] != n {
			t.Errorf("counted %v, want %v", got, want)
		}
	}
	// While the gateway restarts, clients retry over it.
	if err := g.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, c, "copy"); got != "x" {
		t.Errorf("after the restart %q", got)
	}
}

func TestProxyFaults(t *testing.T) {
	g := start(t)
	if err := put(t, g.Client(g.URL()), "from", "content"); err != nil {
		t.Fatal(err)
	}
	once := func(o *s3.Options) { o.RetryMaxAttempts = 1 }
	for name, test := range map[string]struct {
		answer   Answer
		wantCode string // of the API error; empty: a broken connection
		happened bool   // in spite of the answer
	}{
		"503 SlowDown":      {answer: SlowDown, wantCode: "SlowDown"},
		"200 with an error": {answer: InternalError, wantCode: "InternalError"},
		"cut":               {answer: Cut},
		"cut after":         {answer: CutAfter, happened: true},
	} {
		t.Run(name, func(t *testing.T) {
			var faults atomic.Int32
			p := proxy(t, g, func(r Request) Answer {
				if r.Kind == CopyObject && r.Bucket == "bucket" && strings.HasPrefix(r.Key, "to") && faults.Add(1) == 1 {
					return test.answer
				}
				return Pass
			})
			c := g.Client(p.URL())
			to := fmt.Sprintf("to-%d", test.answer)
			err := duplicate(t, c, "from", to, once)
			api, isAPI := errors.AsType[smithy.APIError](err)
			if err == nil || isAPI != (test.wantCode != "") || isAPI && api.ErrorCode() != test.wantCode {
				t.Fatalf("got %v, want %q", err, test.wantCode)
			}
			_, statErr := os.Stat(filepath.Join(g.BucketPath("bucket"), to))
			if (statErr == nil) != test.happened {
				t.Errorf("object there: %v, want %v", statErr == nil, test.happened)
			}
			faults.Store(0)
			if err := duplicate(t, c, "from", to); err != nil { // the SDK's own retries
				t.Errorf("with retries: %v", err)
			}
			if got := get(t, c, to); got != "content" {
				t.Errorf("the copy holds %q", got)
			}
			if n := p.Counts()[CopyObject]; n != 3 {
				t.Errorf("%d copy requests, want 3", n)
			}
		})
	}
}

func TestRefusedAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer Answer
		status int
	}{
		"InternalError":        {InternalError, http.StatusInternalServerError}, // of other kinds than copies
		"RequestTimeTooSkewed": {Skewed, http.StatusForbidden},
	} {
		p, err := NewProxy("http://127.0.0.1:1", func(Request) Answer { return c.answer })
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		response, err := http.Get(p.URL() + "/bucket/key")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != c.status || !bytes.Contains(body, []byte("<Code>"+name+"</Code>")) {
			t.Errorf("%s: got %s: %s", name, response.Status, body)
		}
	}
	if _, err := NewProxy("not an endpoint", nil); err == nil {
		t.Error("a bad endpoint is not refused")
	}
}

func TestClassify(t *testing.T) {
	for _, test := range []struct {
		method, target, copySource string
		want                       Request
	}{
		{"GET", "/", "", Request{Kind: Other}},
		{"GET", "/b?list-type=2&prefix=x", "", Request{ListObjectsV2, "b", ""}},
		{"GET", "/b/?prefix=x", "", Request{ListObjects, "b", ""}},
		{"GET", "/b?policy", "", Request{Other, "b", ""}},
		{"GET", "/b?uploads", "", Request{ListMultipartUploads, "b", ""}},
		{"PUT", "/b", "", Request{Other, "b", ""}},
		{"POST", "/b?delete", "", Request{DeleteObjects, "b", ""}},
		{"PUT", "/b/a/k%20x?x-id=PutObject", "", Request{PutObject, "b", "a/k x"}},
		{"PUT", "/b/k", "b/s", Request{CopyObject, "b", "k"}},
		{"PUT", "/b/k?tagging", "", Request{Other, "b", "k"}},
		{"PUT", "/b/k?partNumber=1&uploadId=u", "", Request{UploadPart, "b", "k"}},
		{"PUT", "/b/k?partNumber=1&uploadId=u", "b/s", Request{UploadPartCopy, "b", "k"}},
		{"POST", "/b/k?uploads", "", Request{CreateMultipartUpload, "b", "k"}},
		{"POST", "/b/k?uploadId=u", "", Request{CompleteMultipartUpload, "b", "k"}},
		{"DELETE", "/b/k?uploadId=u", "", Request{AbortMultipartUpload, "b", "k"}},
		{"DELETE", "/b/k", "", Request{DeleteObject, "b", "k"}},
		{"GET", "/b/k?uploadId=u", "", Request{ListParts, "b", "k"}},
		{"GET", "/b/k", "", Request{GetObject, "b", "k"}},
		{"HEAD", "/b/k", "", Request{HeadObject, "b", "k"}},
	} {
		r, err := http.NewRequest(test.method, "http://host"+test.target, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.copySource != "" {
			r.Header.Set("X-Amz-Copy-Source", test.copySource)
		}
		if got := classify(r); got != test.want {
			t.Errorf("%s %s: %+v, want %+v", test.method, test.target, got, test.want)
		}
	}
}

func TestBuildersBuildOnceAndLeaveNothingHalfDone(t *testing.T) {
	target := filepath.Join(t.TempDir(), "cache", "versitygw")
	var compiled atomic.Int32
	b := builder{version: "v0", target: target, progress: io.Discard, compile: func(_ context.Context, output string) error {
		compiled.Add(1)
		return os.WriteFile(output, []byte("binary"), 0o755)
	}}

	broken := b
	broken.compile = func(_ context.Context, output string) error {
		os.WriteFile(output, []byte("hal"), 0o755)
		return errors.New("interrupted")
	}
	if err := broken.ensure(t.Context()); err == nil || broken.done() {
		t.Fatalf("an interrupted build: %v, finished %v", err, broken.done())
	}

	var says lockedBuffer
	b.progress = &says
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := b.ensure(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := compiled.Load(); n != 1 {
		t.Errorf("compiled %d times, want once", n)
	}
	if content, err := os.ReadFile(target); err != nil || string(content) != "binary" {
		t.Errorf("target %q, %v", content, err)
	}
	if text := says.String(); strings.Count(text, "Building") != 1 || !strings.Contains(text, "two minutes") {
		t.Errorf("said %q", text)
	}

	// One that waits for a builder gives up with its context.
	other := b
	other.target = filepath.Join(filepath.Dir(target), "other")
	unlock, err := b.lock(t.Context(), filepath.Join(filepath.Dir(target), "build.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := other.ensure(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestBinary(t *testing.T) {
	t.Run("named by the environment", func(t *testing.T) {
		t.Setenv(BinaryVariable, "/bin/sh")
		if got, err := Binary(t.Context(), io.Discard); err != nil || got != "/bin/sh" {
			t.Errorf("got %q, %v", got, err)
		}
		t.Setenv(BinaryVariable, filepath.Join(t.TempDir(), "none"))
		if _, err := Binary(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), BinaryVariable) {
			t.Errorf("got %v, want an error that names the variable", err)
		}
	})
	t.Run("outside the repository", func(t *testing.T) {
		t.Setenv(BinaryVariable, "")
		t.Chdir(t.TempDir())
		if _, err := Binary(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "not inside the Domain Ferry repository") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the pinned version", func(t *testing.T) {
		root, err := repositoryRoot()
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(root, modFile))
		if err != nil {
			t.Fatal(err)
		}
		if match := pinned.FindSubmatch(text); match == nil || string(match[1]) != "v1.8.0" {
			t.Errorf("pinned %q", match)
		}
	})
}
