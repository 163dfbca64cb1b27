package domain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a repository without a disk, for tests in virtual time.
type memory struct {
	mu    sync.Mutex
	blobs map[string][]byte
}

func (m *memory) Put(name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[name] = bytes.Clone(data)
	return nil
}

func (m *memory) Get(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.blobs[name]
	if !ok {
		return nil, &fs.PathError{Op: "get", Path: name, Err: fs.ErrNotExist}
	}
	return data, nil
}

func (m *memory) List(prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for n := range maps.Keys(m.blobs) {
		if strings.HasPrefix(n, prefix) {
			names = append(names, n)
		}
	}
	return names, nil
}

func (m *memory) Delete(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, name)
	return nil
}

var benches atomic.Uint64

// bench is a domain with an in-memory repository "r", called without a network.
type bench struct {
	*testing.T
	*Domain
	store *memory
}

func newBench(t *testing.T, cfg Config) *bench {
	b := &bench{T: t, store: &memory{blobs: map[string][]byte{}}}
	cfg.RepositoryRoot = "/repositories"
	cfg.Seed = benches.Add(1) // two domains of one seed would name their blobs alike
	cfg.OpenBlobs = func(string) Blobs { return b.store }
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.Domain = d
	b.call(200, "PUT", "/_snapshot/r", `{"type":"fs","settings":{"location":"/repositories/r"}}`)
	return b
}

func (b *bench) call(status int, method, path, body string) string {
	b.Helper()
	w := httptest.NewRecorder()
	b.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	if w.Code != status {
		b.Fatalf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, status)
	}
	return w.Body.String()
}

func (b *bench) wants(text, method, path string) {
	b.Helper()
	if got := b.call(200, method, path, ""); !strings.Contains(got, text) {
		b.Errorf("%s %s: %s\nwant %s in it", method, path, got, text)
	}
}

func (b *bench) fill(index string, shards, docs int) {
	b.Helper()
	b.call(200, "PUT", "/"+index, fmt.Sprintf(`{"settings":{"number_of_shards":%d,"number_of_replicas":0}}`, shards))
	b.add(index, 0, docs)
}

func (b *bench) add(index string, from, to int) {
	b.Helper()
	var body strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&body, "{\"index\":{\"_index\":%q,\"_id\":\"%d\"}}\n{\"n\":%d,\"text\":%q}\n", index, i, i, strings.Repeat("x", 1000))
	}
	if got := b.call(200, "POST", "/_bulk?refresh=true", body.String()); !strings.Contains(got, `"errors":false`) {
		b.Fatal(got)
	}
}

func TestSnapshotRunsAtTheThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{Engine: "opensearch-2.19.0", SnapshotBytesPerSecond: 100_000, RestoreBytesPerSecond: 50_000})
		b.fill("i", 1, 2000) // 2 MB and a little
		begin := time.Now()
		b.call(200, "PUT", "/_snapshot/r/s1", `{"indices":"i","include_global_state":false}`)
		time.Sleep(5 * time.Second)
		b.wants(`"state":"IN_PROGRESS"`, "GET", "/_snapshot/r/s1")
		b.wants(`"stage":"STARTED"`, "GET", "/_snapshot/r/s1/_status")
		b.call(400, "POST", "/i/_close", "")
		b.call(400, "PUT", "/_snapshot/r/s1", `{"indices":"i"}`)
		for !strings.Contains(b.call(200, "GET", "/_snapshot/r/s1/_status", ""), `"state":"SUCCESS"`) {
			time.Sleep(10 * time.Millisecond)
		}
		b.wants(`"state":"IN_PROGRESS"`, "GET", "/_snapshot/r/s1") // _status says it too early
		time.Sleep(snapshotFinalTime)
		b.wants(`"state":"SUCCESS"`, "GET", "/_snapshot/r/s1")
		if took := time.Since(begin); took < 20*time.Second || took > 23*time.Second {
			t.Errorf("2 MB at 100 kB/s took %s", took)
		}
		begin = time.Now()
		b.call(200, "POST", "/_snapshot/r/s1/_restore", `{"indices":"i","rename_pattern":"i","rename_replacement":"j"}`)
		time.Sleep(10 * time.Second)
		b.wants(`"stage":"INDEX"`, "GET", "/j/_recovery")
		b.call(400, "POST", "/j/_close", "")
		b.call(503, "GET", "/j/_search", "")
		b.call(503, "PUT", "/j/_doc/1", `{}`)
		b.call(200, "GET", "/_cluster/health/j?wait_for_status=green&timeout=5m", "")
		if took := time.Since(begin); took < 40*time.Second || took > 44*time.Second {
			t.Errorf("2 MB at 50 kB/s took %s", took)
		}
		b.wants(`"count":2000`, "GET", "/j/_count")
	})
}

func TestOneThreadANode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for nodes, want := range map[int]time.Duration{1: 40 * time.Second, 2: 20 * time.Second} {
			b := newBench(t, Config{Engine: "opensearch-2.19.0", Nodes: nodes, SnapshotBytesPerSecond: 100_000})
			b.fill("i", 2, 4000)
			begin := time.Now()
			b.call(200, "PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"i"}`)
			if took := time.Since(begin); took < want || took > want*12/10 {
				t.Errorf("4 MB on %d nodes at 100 kB/s each took %s, want about %s", nodes, took, want)
			}
		}
	})
}

func TestConcurrentSnapshots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newBench(t, Config{Engine: "elasticsearch-7.8.0", SnapshotBytesPerSecond: 10_000})
		old.fill("i", 1, 100)
		old.call(200, "PUT", "/_snapshot/r/s1", `{"indices":"i"}`)
		if got := old.call(503, "PUT", "/_snapshot/r/s2", `{"indices":"i"}`); !strings.Contains(got, "concurrent_snapshot_execution_exception") {
			t.Error(got)
		}
		b := newBench(t, Config{Engine: "elasticsearch-7.10.2", SnapshotBytesPerSecond: 10_000})
		b.fill("i", 1, 100)
		b.fill("k", 1, 100)
		b.call(200, "PUT", "/_snapshot/r/s1", `{"indices":"i"}`)
		b.call(200, "PUT", "/_snapshot/r/s2", `{"indices":"i,k"}`)
		b.call(500, "DELETE", "/_snapshot/r", "")
		time.Sleep(5 * time.Minute)
		for _, s := range []string{"s1", "s2"} {
			b.wants(`"state":"SUCCESS"`, "GET", "/_snapshot/r/"+s)
			b.call(200, "POST", "/_snapshot/r/"+s+"/_restore?wait_for_completion=true", `{"indices":"i","rename_pattern":"i","rename_replacement":"from-`+s+`"}`)
			b.wants(`"count":100`, "GET", "/from-"+s+"/_count")
		}
		b.call(200, "PUT", "/_snapshot/r/s3", `{"indices":"i,k"}`)
		b.add("i", 100, 200)
		b.call(200, "DELETE", "/_snapshot/r/s1", "")
		b.call(200, "PUT", "/_snapshot/r/gone", `{"indices":"i"}`)
		b.call(200, "DELETE", "/_snapshot/r/gone", "") // aborts it
		b.call(404, "GET", "/_snapshot/r/gone", "")
	})
}

func TestKilledDuringSnapshotAndRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{Engine: "opensearch-2.19.0", SnapshotBytesPerSecond: 100_000, RestoreBytesPerSecond: 100_000})
		b.fill("i", 1, 1000)
		b.call(200, "PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"i"}`)
		b.add("i", 1000, 2000)
		b.call(200, "PUT", "/_snapshot/r/s2", `{"indices":"i"}`)
		time.Sleep(3 * time.Second)
		b.Kill()
		b.Restart()
		b.call(404, "GET", "/_snapshot/r/s2", "")
		b.wants(`"count":2000`, "GET", "/i/_count")
		b.call(200, "PUT", "/_snapshot/r/s2?wait_for_completion=true", `{"indices":"i"}`) // the name is free
		const body = `{"indices":"i","rename_pattern":"i","rename_replacement":"j"}`
		b.call(200, "POST", "/_snapshot/r/s1/_restore", body)
		time.Sleep(2 * time.Second)
		b.Kill()
		b.Restart()
		time.Sleep(time.Hour)
		b.wants(`"status":"red"`, "GET", "/_cluster/health/j")
		if got := b.call(200, "GET", "/j/_recovery", ""); got != "{}" {
			t.Errorf("_recovery after the kill: %s", got)
		}
		explain := b.call(200, "POST", "/_cluster/allocation/explain", `{"index":"j","shard":0,"primary":true}`)
		if !strings.Contains(explain, "CLUSTER_RECOVERED") || !strings.Contains(explain, "no_valid_shard_copy") {
			t.Error(explain)
		}
		b.call(200, "POST", "/_cluster/reroute?retry_failed=true", "")
		b.wants(`"status":"red"`, "GET", "/_cluster/health/j")
		b.call(200, "POST", "/j/_close", "")
		b.call(200, "POST", "/_snapshot/r/s1/_restore?wait_for_completion=true", body)
		b.wants(`"count":1000`, "GET", "/j/_count")
	})
}

func TestPartialSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{Engine: "elasticsearch-7.10.2"})
		b.fill("i", 2, 100)
		b.FailShard("i", 1, "disk on fire")
		b.call(200, "PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"i","partial":false}`)
		b.wants(`"state":"PARTIAL"`, "GET", "/_snapshot/r/s1")
		b.wants(`disk on fire`, "GET", "/_snapshot/r/s1")
		b.wants(`"state":"SUCCESS"`, "GET", "/_snapshot/r/s1/_status") // 7.x hides it here
		if got := b.call(500, "POST", "/_snapshot/r/s1/_restore", `{"indices":"i","rename_pattern":"i","rename_replacement":"j"}`); !strings.Contains(got, "wasn't fully snapshotted") {
			t.Error(got)
		}
		b.FailShard("i", 1, "")
		b.call(200, "PUT", "/_snapshot/r/s2?wait_for_completion=true", `{"indices":"i"}`)
		b.wants(`"state":"SUCCESS"`, "GET", "/_snapshot/r/s2")
	})
}

func TestVersionsThatCanBeRestored(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		status   int
		reason   string
	}{
		{"elasticsearch-6.8.0", "elasticsearch-7.10.2", 200, ""},
		{"elasticsearch-6.8.0", "opensearch-1.3.20", 200, ""},
		{"elasticsearch-6.8.0", "opensearch-2.19.0", 500, "cannot be upgraded"},
		{"elasticsearch-7.10.2", "opensearch-1.3.20", 200, ""},
		{"elasticsearch-7.10.2", "opensearch-2.19.0", 200, ""},
		{"elasticsearch-7.10.2", "opensearch-3.7.0", 500, "Snapshot could not be read"},
		{"opensearch-1.3.20", "opensearch-3.7.0", 500, "cannot be upgraded"},
		{"opensearch-2.19.0", "opensearch-3.7.0", 200, ""},
		{"opensearch-3.7.0", "opensearch-2.19.0", 500, "created with OpenSearch version [3.7.0] which is higher than the version of this node [2.19.0]"},
		{"opensearch-1.3.20", "elasticsearch-7.10.2", 500, "created with Elasticsearch version [35.24.98-beta2] which is higher"},
	} {
		t.Run(tc.from+" to "+tc.to, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := newBench(t, Config{Engine: tc.from})
				source.fill("i", 1, 10)
				source.call(200, "PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"i"}`)
				b := newBench(t, Config{Engine: tc.to})
				b.repositories["r"].blobs = source.store
				got := b.call(tc.status, "POST", "/_snapshot/r/s1/_restore?wait_for_completion=true", `{"indices":"i"}`)
				if !strings.Contains(got, tc.reason) {
					t.Errorf("got %s, want %q", got, tc.reason)
				}
				if tc.status == 200 {
					b.wants(`"count":10`, "GET", "/i/_count")
				}
			})
		})
	}
}

// Without soft deletes (indices created before 7.0) a deletion touches the commit only, and the segment is reused.
func TestIndicesOfElasticsearch6ReuseUpdatedSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newBench(t, Config{Engine: "elasticsearch-6.8.0"})
		source.fill("i", 1, 1000)
		b := newBench(t, Config{Engine: "elasticsearch-7.10.2"})
		b.repositories["r"].blobs = source.store
		source.call(200, "PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"i"}`)
		b.call(200, "POST", "/_snapshot/r/s1/_restore?wait_for_completion=true", `{"indices":"i"}`)
		source.add("i", 5, 6)
		source.call(200, "PUT", "/_snapshot/r/s2?wait_for_completion=true", `{"indices":"i"}`)
		b.call(200, "POST", "/i/_close", "")
		b.call(200, "POST", "/_snapshot/r/s2/_restore?wait_for_completion=true", `{"indices":"i"}`)
		var answer map[string]struct {
			Shards []struct {
				Index struct {
					Size struct {
						Reused    int64 `json:"reused_in_bytes"`
						Recovered int64 `json:"recovered_in_bytes"`
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(b.call(200, "GET", "/i/_recovery", "")), &answer); err != nil {
			t.Fatal(err)
		}
		if size := answer["i"].Shards[0].Index.Size; size.Reused < 1_000_000 || size.Recovered > 10_000 {
			t.Errorf("reused %d, recovered %d", size.Reused, size.Recovered)
		}
		b.wants(`"_version":2`, "GET", "/i/_doc/5")
		b.wants(`"count":1000`, "GET", "/i/_count")
	})
}

func TestTwoWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newBench(t, Config{Engine: "elasticsearch-7.10.2"})
		a.fill("i", 1, 10)
		a.call(200, "PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"i"}`)
		b := newBench(t, Config{Engine: "elasticsearch-7.10.2"})
		b.repositories["r"].blobs = a.store
		b.fill("i", 1, 10)
		b.wants(`"s1"`, "GET", "/_snapshot/r/_all")
		b.call(200, "PUT", "/_snapshot/r/s2?wait_for_completion=true", `{"indices":"i"}`)
		if got := a.call(200, "GET", "/_snapshot/r/_all", ""); strings.Contains(got, `"s2"`) {
			t.Error("a registration that has written must not see the other writer's snapshot")
		}
		if got := a.call(500, "PUT", "/_snapshot/r/s3?wait_for_completion=true", `{"indices":"i"}`); !strings.Contains(got, "concurrent modification of the index-N file") {
			t.Error(got)
		}
	})
}

func TestWhatIsNotModelledIsRefused(t *testing.T) {
	b := newBench(t, Config{Engine: "opensearch-2.19.0"})
	b.fill("i", 1, 1)
	b.call(200, "PUT", "/_ingest/pipeline/p", `{"processors":[]}`)
	for _, call := range [][3]string{{"POST", "/_reindex", "{}"}, {"POST", "/i/_search", `{"query":{"match":{"text":"x"}}}`}, {"POST", "/i/_update/0", `{"script":{"source":"x"}}`},
		{"POST", "/i/_search", `{"query":{"term":{"text":"x"}}}`}, {"PUT", "/i/_doc/1?pipeline=p", `{}`}, {"GET", "/i/_search?preference=_only_nodes:x", ""}} {
		if got := b.call(400, call[0], call[1], call[2]); !strings.Contains(got, "the built-in domain model does not implement") {
			t.Errorf("%v: %s", call, got)
		}
	}
}

func TestEngines(t *testing.T) {
	for text, id := range map[string]int{"elasticsearch-7.10.2": 7100299, "elasticsearch-6.8.0": 6080099, "opensearch-1.3.20": 135249827, "opensearch-2.19.0": 136407827, "opensearch-3.7.0": 137287827} {
		e, err := parseEngine(text)
		if err != nil || e.id() != id || engineOfID(id) != e {
			t.Errorf("%s: %+v %v, id %d, back %+v", text, e, err, e.id(), engineOfID(id))
		}
	}
	for _, text := range []string{"", "elasticsearch", "elasticsearch-8.0.0", "opensearch-2.19", "lucene-7.1.0"} {
		if _, err := parseEngine(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestFolder(t *testing.T) {
	f := folder(t.TempDir())
	for _, n := range []string{"index-1", "index.latest", "indices/a/0/__x", "indices/a/1/__y"} {
		if err := f.Put(n, []byte(n)); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string]int{"": 4, "index-": 1, "index": 2, "ind": 4, "indices/a/0/": 1, "indices/a/": 2, "none/": 0} {
		if got, err := f.List(prefix); err != nil || len(got) != want {
			t.Errorf("List(%q) = %v, %v; want %d", prefix, got, err, want)
		}
	}
	if _, err := f.Get("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing blob: %v", err)
	}
	if err := errors.Join(f.Delete("none"), f.Delete("index-1")); err != nil {
		t.Error(err)
	}
}

// TestComparisonTool runs the independent check that judges a rehearsal against two models, one restored from the other's snapshot.
func TestComparisonTool(t *testing.T) {
	tool, err := filepath.Abs(filepath.Join("..", "..", "..", "..", "shared", "tools", "compare-indices"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tool); err != nil {
		t.Skip("the comparison tool is not beside the repository")
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3")
	}
	source := newBench(t, Config{Engine: "elasticsearch-7.10.2"})
	source.fill("i", 2, 5000)
	source.add("i", 100, 200)
	source.call(201, "PUT", "/i/_doc/routed?routing=x", `{"deep":{"a":[1,2.50,"<é>"]}}`)
	source.call(200, "PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"i"}`)
	b := newBench(t, Config{Engine: "opensearch-2.19.0"})
	b.repositories["r"].blobs = source.store
	b.call(200, "POST", "/_snapshot/r/s1/_restore?wait_for_completion=true", `{"indices":"i"}`)
	one, two := httptest.NewServer(source), httptest.NewServer(b)
	defer one.Close()
	defer two.Close()
	if out, err := exec.Command(python, tool, one.URL, two.URL, "i").CombinedOutput(); err != nil || !bytes.Contains(out, []byte(`"identical": true`)) {
		t.Errorf("%v: %s", err, out)
	}
	b.call(200, "PUT", "/i/_doc/3", `{"n":-3}`)
	if out, err := exec.Command(python, tool, one.URL, two.URL, "i").CombinedOutput(); err == nil || !bytes.Contains(out, []byte(`"different": ["3"]`)) {
		t.Errorf("a changed document is not found: %v: %s", err, out)
	}
}

// TestLoad holds the model to the speed that a rehearsal needs (about 4 s on two free
// cores; the bound allows for a busy machine): 300,000 documents of 500 bytes written and read again.
func TestLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("150 MB")
	}
	b := newBench(t, Config{Engine: "elasticsearch-7.10.2", SnapshotBytesPerSecond: Unlimited, RestoreBytesPerSecond: Unlimited})
	b.call(200, "PUT", "/i", `{"settings":{"number_of_shards":2,"number_of_replicas":0}}`)
	begin := time.Now()
	text := strings.Repeat("lorem ipsum ", 38)
	for from := 0; from < 300_000; from += 5000 {
		var body strings.Builder
		for i := from; i < from+5000; i++ {
			fmt.Fprintf(&body, "{\"index\":{\"_index\":\"i\",\"_id\":\"%d\"}}\n{\"n\":%d,\"tag\":\"t%d\",\"text\":%q}\n", i, i, i%10, text)
		}
		b.call(200, "POST", "/_bulk", body.String())
	}
	loaded := time.Since(begin)
	begin = time.Now()
	b.call(200, "POST", "/i/_refresh", "")
	b.wants(`"count":300000`, "GET", "/i/_count")
	for shard := range 2 {
		last := -1
		for page := 0; ; page++ {
			got := b.call(200, "POST", fmt.Sprintf("/i/_search?preference=_shards:%d", shard), fmt.Sprintf(`{"size":5000,"sort":[{"_seq_no":"asc"}],"track_total_hits":false,"query":{"range":{"_seq_no":{"gt":%d}}}}`, last))
			hits := strings.Count(got, `"_id"`)
			if hits == 0 {
				break
			}
			last += hits
		}
	}
	searched := time.Since(begin)
	begin = time.Now()
	b.call(200, "PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"i"}`)
	t.Logf("300,000 documents: written in %s, read in %s, snapshot in %s", loaded, searched, time.Since(begin))
	if loaded+searched > 3*time.Minute {
		t.Errorf("too slow: %s and %s", loaded, searched)
	}
}
