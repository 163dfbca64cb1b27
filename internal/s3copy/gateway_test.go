package s3copy

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/local/s3gateway"
	"github.com/domainferry/domainferry/internal/repository"
)

// startGateway runs versitygw with a source and a destination bucket.
func startGateway(t *testing.T) *s3gateway.Gateway {
	t.Helper()
	binary, err := s3gateway.Binary(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	gateway, err := s3gateway.Start(t.Context(), s3gateway.Config{
		Binary: binary, Root: filepath.Join(dir, "buckets"), Sidecar: filepath.Join(dir, "sidecar"),
		LogFile: filepath.Join(dir, "gateway.log"), Access: "access", Secret: "secret-secret",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := gateway.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, bucket := range []string{"source", "destination"} {
		if err := gateway.CreateBucket(t.Context(), bucket); err != nil {
			t.Fatal(err)
		}
	}
	return gateway
}

// asNode writes a repository as a node's fs repository does: files in the bucket's folder, behind the gateway's back.
func asNode(t *testing.T, gateway *s3gateway.Gateway, at Location) *testRepository {
	t.Helper()
	path := func(key string) string {
		return filepath.Join(gateway.BucketPath(at.Bucket), filepath.FromSlash(at.key(key)))
	}
	return newTestRepository(func(key, content string) {
		if err := os.MkdirAll(filepath.Dir(path(key)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path(key), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}, func(key string) {
		if err := os.Remove(path(key)); err != nil {
			t.Fatal(err)
		}
	})
}

// files reads a location's files from the bucket's folder, as a node sees them.
func files(t *testing.T, gateway *s3gateway.Gateway, at Location) map[string]string {
	t.Helper()
	held := map[string]string{}
	root := filepath.Join(gateway.BucketPath(at.Bucket), filepath.FromSlash(at.Prefix))
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil || strings.HasPrefix(relative, ".") {
			return err
		}
		content, err := os.ReadFile(path)
		held[filepath.ToSlash(relative)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func TestOnRealGateway(t *testing.T) {
	gateway := startGateway(t)
	client := gateway.Client(gateway.URL())
	for _, tt := range []struct {
		name     string
		from, to Location
	}{
		{"prefixes", Location{"source", "a/b"}, Location{"destination", "c"}},
		{"special characters", Location{"source", "bäse +&%41=x y"}, Location{"destination", "zü #?=+(1)"}},
		{"one bucket", Location{"source", "e"}, Location{"source", "d"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			repo := asNode(t, gateway, tt.from)
			c := &Copier{Source: client, Destination: client, Concurrency: 8, MultipartThreshold: 6 * mib, PartSize: 5 * mib}
			for round := 1; round <= 3; round++ {
				want := repo.snapshot(round)
				if round == 2 {
					repo.put(repo.shards[0]+"__large", strings.Repeat("0123456789abcde\n", 750_000)) // 12 MB: three parts
					repo.put(repo.shards[0]+"pending-__x", "a node is writing this")
				}
				result := mustFerry(t, c, tt.from, tt.to, want, 3)
				if removed := min(round-1, 1); result.Removed != removed {
					t.Errorf("round %d: %+v, want %d removed", round, result, removed)
				}
				sameRepository(t, files(t, gateway, tt.from), files(t, gateway, tt.to))
			}
		})
	}
}

func TestWholeBucketsOnRealGateway(t *testing.T) {
	gateway := startGateway(t)
	client := gateway.Client(gateway.URL())
	from, to := Location{Bucket: "source"}, Location{Bucket: "destination"}
	repo := asNode(t, gateway, from)
	c := &Copier{Source: client, Destination: client}
	for round := 1; round <= 2; round++ {
		want := repo.snapshot(round)
		mustFerry(t, c, from, to, want, 4)
		sameRepository(t, files(t, gateway, from), files(t, gateway, to))
	}
}

// Every listing of the gateway must be in byte order, or the merge-join is wrong: keys that differ where a slash meets a
// character below it are the ones that a folder walk gets wrong.
func TestOrderOnRealGateway(t *testing.T) {
	gateway := startGateway(t)
	from := Location{"source", "order"}
	repo := asNode(t, gateway, from)
	for _, id := range []string{"a", "a-b", "a+b", "a0", "a.b", "A", "_a", "-a"} {
		for _, shard := range []string{"0", "1", "10", "2"} {
			repo.put("indices/"+id+"/"+shard+"/__x", "x")
		}
	}
	c := &Copier{Source: gateway.Client(gateway.URL())}
	totals, err := c.Totals(t.Context(), from)
	if err != nil || totals.Objects != 32 || totals.Bytes != 32 {
		t.Fatalf("%+v %v", totals, err)
	}
}

func TestFaultsOnRealGateway(t *testing.T) {
	gateway := startGateway(t)
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(7, 7))
	var copies atomic.Int64
	proxy, err := s3gateway.NewProxy(gateway.URL(), func(r s3gateway.Request) s3gateway.Answer {
		if r.Kind == s3gateway.CopyObject && copies.Add(1) == 20 {
			// Killed in the middle, and back on the same port.
			if err := gateway.Restart(t.Context()); err != nil {
				t.Error(err)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		answers := []s3gateway.Answer{s3gateway.SlowDown, s3gateway.Cut, s3gateway.CutAfter, s3gateway.InternalError}
		if i := random.IntN(12); i < len(answers) {
			return answers[i]
		}
		return s3gateway.Pass
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	client := gateway.Client(proxy.URL())
	from, to := Location{"source", "x"}, Location{"destination", "y"}
	repo := asNode(t, gateway, from)
	c := &Copier{Source: client, Destination: client, Concurrency: 8, MultipartThreshold: 6 * mib, PartSize: 5 * mib}
	for round := 1; round <= 2; round++ {
		want := repo.snapshot(round)
		repo.put(repo.shards[0]+"__large"+want.SnapshotUUID, strings.Repeat("0123456789abcde\n", 750_000))
		mustFerry(t, c, from, to, want, 3)
		sameRepository(t, files(t, gateway, from), files(t, gateway, to))
	}
	if counts := proxy.Counts(); counts[s3gateway.UploadPartCopy] < 6 || copies.Load() < 40 {
		t.Errorf("too few requests to prove anything: %v", counts)
	}
}

func TestSlicesOnRealGateway(t *testing.T) {
	gateway := startGateway(t)
	client := gateway.Client(gateway.URL())
	from, to := Location{"source", "x"}, Location{"destination", "y"}
	repo := asNode(t, gateway, from)
	var want Want
	for round := range 20 {
		want = repo.snapshot(round + 1)
	}
	c := &Copier{Source: client, Destination: client, Concurrency: 2}
	plan, err := c.Plan(t.Context(), from, to, want, 1)
	if err != nil {
		t.Fatal(err)
	}
	// A slice that is too short for this machine's listing is made longer.
	r, sliceCount, length := plan.Ranges[0], 0, 100*time.Millisecond
	for done := false; !done; sliceCount++ {
		result, err := c.CopyRange(t.Context(), from, to, r, time.Now().Add(length))
		if err != nil || sliceCount > 1000 {
			t.Fatalf("slice %d: %+v %v", sliceCount, result, err)
		}
		if result.Cursor == r.After {
			length *= 2
		}
		r.After, done = result.Cursor, result.Done
	}
	if published, err := c.Publish(t.Context(), from, to, plan.Root, want); err != nil || !published.Published {
		t.Fatalf("%+v %v", published, err)
	}
	sameRepository(t, files(t, gateway, from), files(t, gateway, to))
	if got := files(t, gateway, to)[repository.RootName(19)]; got == "" {
		t.Error("index-19 is not there")
	}
	t.Logf("%d slices", sliceCount)
}
