package repository_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/local/node"
	"github.com/domainferry/domainferry/internal/repository"
)

// pairs are the migrations, oldest first, that the engines themselves allow (an index of 1.3 or older cannot be restored on 3.x,
// one of 6.x not on 2.x).
var pairs = [][2]string{
	{"elasticsearch-6.8.0", "elasticsearch-7.10.2"},
	{"elasticsearch-7.10.2", "opensearch-2.19.0"},
	{"opensearch-1.3.20", "opensearch-2.19.0"},
	{"opensearch-2.19.0", "opensearch-2.19.0"},
	{"opensearch-2.19.0", "opensearch-3.7.0"},
	{"opensearch-3.7.0", "opensearch-3.7.0"},
}

const rounds = 5

// TestPredictionHoldsOnRealNodes takes rounds of snapshots on real nodes, restores each over the closed indices of the one before
// on a node of another version, and compares the prediction with what that node says that it reused and read. Every pair
// is run, one node at a time; DOMAIN_FERRY_TEST_PAIRS=first, as make test sets it, runs 7.10.2 to 2.19.0 alone,
// <source>:<destination>,... some.
// With DOMAIN_FERRY_RECORD_SHARDS=<folder> it writes blobs and measurements there, as testdata/shards has them.
func TestPredictionHoldsOnRealNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real nodes")
	}
	chosen := pairs
	if wanted := os.Getenv("DOMAIN_FERRY_TEST_PAIRS"); wanted == "first" {
		chosen = pairs[1:2]
	} else if wanted != "" {
		chosen = nil
		for pair := range strings.SplitSeq(wanted, ",") {
			source, destination, _ := strings.Cut(pair, ":")
			if !slices.Contains(pairs, [2]string{source, destination}) {
				t.Fatalf("DOMAIN_FERRY_TEST_PAIRS names %q; the pairs are %v", pair, pairs)
			}
			chosen = append(chosen, [2]string{source, destination})
		}
	}
	var engines []string
	for _, pair := range chosen {
		for _, name := range pair {
			if !slices.Contains(engines, name) {
				engines = append(engines, name)
			}
		}
	}
	for _, name := range engines {
		engine, err := node.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Available(engine); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	root := t.TempDir()
	for _, open := range []string{filepath.Dir(root), root} { // nodes run as another user when the test runs as root
		if err := os.Chmod(open, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	// A pair's two nodes need not run at once: from the oldest to the newest, each serves its pairs while it is up, first as the
	// destination of older ones, then as a source.
	slices.SortStableFunc(engines, func(a, b string) int {
		order := []string{"elasticsearch-6.8.0", "elasticsearch-7.10.2", "opensearch-1.3.20", "opensearch-2.19.0", "opensearch-3.7.0"}
		return slices.Index(order, a) - slices.Index(order, b)
	})
	for _, name := range engines {
		e := startEngine(t, name, root)
		for _, pair := range chosen {
			if pair[1] == name && pair[0] != name {
				t.Run(pair[0]+" to "+pair[1], func(t *testing.T) { e.destination(t, pair[0]) })
			}
		}
		if slices.ContainsFunc(chosen, func(pair [2]string) bool { return pair[0] == name }) {
			t.Run(name+" as source", e.source)
		}
		if slices.Contains(chosen, [2]string{name, name}) {
			t.Run(name+" to itself", func(t *testing.T) { e.destination(t, name) })
		}
		if err := e.node.Stop(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			return
		}
	}
}

type engine struct {
	name string
	node *node.Node
	root string // folder of all repositories; each is named by its source
}

func startEngine(t *testing.T, name, root string) *engine {
	t.Helper()
	parsed, err := node.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(t.Context(), node.Config{Engine: parsed, Dir: filepath.Join(dir, "node"), RepositoryRoot: root, Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &engine{name: name, node: n, root: root}
}

// call asks the node and decodes its answer into into, which may be nil.
func (e *engine) call(t *testing.T, method, path, body string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.node.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s: %s %s: HTTP %d: %.1000s", e.name, method, path, resp.StatusCode, raw)
	}
	if into != nil {
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatal(err)
		}
	}
}

// workloads are the indices of a source and what happens to each before a round's snapshot (round 1: a first load).
var workloads = map[string]func(w *writer, round int){
	"append": func(w *writer, round int) { w.add(100) },
	"update": func(w *writer, round int) { w.add(20); w.update(10) },
	"delete": func(w *writer, round int) { w.remove(15) },
	"still":  func(w *writer, round int) {},
	"empty":  func(w *writer, round int) {},
	// Deletions the other way than is the version's default: soft deletes on 6.8, .liv files on 7.10 and 1.3.
	"other": func(w *writer, round int) { w.add(5); w.update(5); w.remove(5) },
	"merged": func(w *writer, round int) {
		w.add(50)
		if round%2 == 1 {
			w.engine.call(w.t, "POST", "/merged/_forcemerge?max_num_segments=1", "", nil)
		}
	},
	"churn": func(w *writer, round int) { // enough small segments that the engine merges by itself
		for range 12 {
			w.add(15)
			w.update(2)
		}
	},
}

// source takes the snapshots round-1, round-2... into the repository of the engine's name, and empties the node again.
func (e *engine) source(t *testing.T) {
	settings := map[string]any{"location": filepath.Join(e.root, e.name)}
	if e.name != "opensearch-1.3.20" && e.name != "opensearch-2.19.0" { // so that both forms are read; the default is not to compress
		settings["compress"] = true
	}
	e.register(t, "own", "fs", settings)
	names := []string{}
	writers := map[string]*writer{}
	for name := range workloads {
		index := map[string]any{"number_of_shards": 2, "number_of_replicas": 0}
		if name == "other" {
			switch e.name {
			case "elasticsearch-6.8.0":
				index["soft_deletes.enabled"] = true
			case "elasticsearch-7.10.2", "opensearch-1.3.20":
				index["soft_deletes.enabled"] = false
			default:
				continue // from 2.0 on there is no other way
			}
		}
		body, err := json.Marshal(map[string]any{"settings": map[string]any{"index": index}})
		if err != nil {
			t.Fatal(err)
		}
		e.call(t, "PUT", "/"+name, string(body), nil)
		names = append(names, name)
		writers[name] = &writer{t: t, engine: e, index: name, random: rand.New(rand.NewPCG(1, uint64(len(name))))}
	}
	slices.Sort(names)
	for round := 1; round <= rounds; round++ {
		for _, name := range names {
			w := writers[name]
			if round == 1 && name != "empty" {
				for range 3 {
					w.add(400)
				}
				continue
			}
			workloads[name](w, round)
		}
		e.snapshot(t, "own", fmt.Sprintf("round-%d", round), names...)
	}
	if e.name == "opensearch-2.19.0" {
		e.zstd(t)
	}
	e.call(t, "DELETE", "/"+strings.Join(names, ","), "", nil)
	record(t, e, names)
}

func (e *engine) register(t *testing.T, name, kind string, settings map[string]any) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"type": kind, "settings": settings})
	if err != nil {
		t.Fatal(err)
	}
	e.call(t, "PUT", "/_snapshot/"+name, string(body), nil)
}

func (e *engine) snapshot(t *testing.T, repo, name string, indices ...string) {
	t.Helper()
	var answer struct {
		Snapshot struct{ State string }
	}
	body := fmt.Sprintf(`{"indices":%q,"include_global_state":false}`, strings.Join(indices, ","))
	e.call(t, "PUT", "/_snapshot/"+repo+"/"+name+"?wait_for_completion=true", body, &answer)
	if answer.Snapshot.State != "SUCCESS" {
		t.Fatalf("%s: snapshot %s is %s", e.name, name, answer.Snapshot.State)
	}
}

// zstd checks that the newer compression, made by a real node, is refused by its name.
func (e *engine) zstd(t *testing.T) {
	e.register(t, "zstd", "fs", map[string]any{"location": filepath.Join(e.root, "zstd"), "compress": true, "compression_type": "zstd"})
	e.snapshot(t, "zstd", "one", "still")
	blobs, err := filepath.Glob(filepath.Join(e.root, "zstd", "indices", "*", "0", "snap-*.dat"))
	if err != nil || len(blobs) != 1 {
		t.Fatalf("blobs %v, %v", blobs, err)
	}
	content, err := os.ReadFile(blobs[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repository.DecodeShardSnapshot(content); err == nil || !strings.Contains(err.Error(), "zstd") {
		t.Errorf("a zstd blob: %v", err)
	}
	write(t, filepath.Join("opensearch-2.19.0", "zstd.dat"), content)
}

// writer changes one index.
type writer struct {
	t      *testing.T
	engine *engine
	index  string
	random *rand.Rand
	next   int
	live   []int
}

func (w *writer) document(b *bytes.Buffer, id int) {
	fmt.Fprintf(b, "{\"index\":{\"_id\":\"%d\"}}\n{\"n\":%d,\"word\":\"w%d\",\"text\":\"", id, id, w.random.IntN(50))
	for range 20 {
		fmt.Fprintf(b, "%x ", w.random.Uint32())
	}
	b.WriteString("\"}\n")
}

func (w *writer) add(n int) {
	var b bytes.Buffer
	for range n {
		w.document(&b, w.next)
		w.live = append(w.live, w.next)
		w.next++
	}
	w.send(&b)
}

func (w *writer) update(n int) {
	var b bytes.Buffer
	for range n {
		w.document(&b, w.live[w.random.IntN(len(w.live))])
	}
	w.send(&b)
}

func (w *writer) remove(n int) {
	var b bytes.Buffer
	for range n {
		i := w.random.IntN(len(w.live))
		fmt.Fprintf(&b, "{\"delete\":{\"_id\":\"%d\"}}\n", w.live[i])
		w.live = slices.Delete(w.live, i, i+1)
	}
	w.send(&b)
}

// send writes one bulk request and has it visible, so that it becomes a segment.
func (w *writer) send(b *bytes.Buffer) {
	w.t.Helper()
	path := "/" + w.index + "/_bulk?refresh=true"
	if strings.HasPrefix(w.engine.name, "elasticsearch-6") {
		path = "/" + w.index + "/_doc/_bulk?refresh=true"
	}
	var answer struct{ Errors bool }
	w.engine.call(w.t, "POST", path, b.String(), &answer)
	if answer.Errors {
		w.t.Fatalf("%s: the bulk request to %s has errors", w.engine.name, w.index)
	}
}

// folder reads a repository from disk, as the S3 reader would from a bucket.
type folder string

func (f folder) Get(_ context.Context, key string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(f), filepath.FromSlash(key)))
}

func (f folder) decodeRoot(t *testing.T) *repository.Root {
	t.Helper()
	latest, err := f.Get(t.Context(), repository.LatestName)
	if err != nil {
		t.Fatal(err)
	}
	n, err := repository.DecodeLatest(latest)
	if err != nil {
		t.Fatal(err)
	}
	content, err := f.Get(t.Context(), repository.RootName(n))
	if err != nil {
		t.Fatal(err)
	}
	root, err := repository.DecodeRoot(content)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// recovery is one entry of _recovery.
type recovery struct {
	ID     int    `json:"id"`
	Type   string `json:"type"`
	Stage  string `json:"stage"`
	Source struct {
		Snapshot string `json:"snapshot"`
	} `json:"source"`
	Index struct {
		Size struct {
			Reused    int64 `json:"reused_in_bytes"`
			Recovered int64 `json:"recovered_in_bytes"`
		} `json:"size"`
		Files struct {
			Reused    int `json:"reused"`
			Recovered int `json:"recovered"`
		} `json:"files"`
	} `json:"index"`
}

// measurement is one shard in one round, predicted and as the destination counted it.
type measurement struct {
	Index    string
	Shard    int
	Previous string
	Next     string
	Measured repository.Prediction

	predicted repository.Prediction
}

// destination restores the rounds of a source one over the other and holds the predictions against _recovery.
func (e *engine) destination(t *testing.T, source string) {
	e.register(t, "from-"+source, "fs", map[string]any{"location": filepath.Join(e.root, source), "readonly": true})
	reader := folder(filepath.Join(e.root, source))
	root := reader.decodeRoot(t)
	first, ok := root.Snapshot("round-1", "")
	if !ok {
		t.Fatal("the source left no snapshot")
	}
	var names []string
	for _, index := range root.IndicesOf(first.UUID) {
		names = append(names, index.Name)
	}
	list := strings.Join(names, ",")
	var all []measurement
	previous := ""
	for round := 1; round <= rounds; round++ {
		next := fmt.Sprintf("round-%d", round)
		predicted, err := repository.PredictRestore(t.Context(), reader, root, previous, next, names)
		if err != nil {
			t.Fatal(err)
		}
		if round > 1 {
			e.call(t, "POST", "/"+list+"/_close", "", nil)
		}
		e.call(t, "POST", "/_snapshot/from-"+source+"/"+next+"/_restore", fmt.Sprintf(`{"indices":%q,"include_global_state":false,
			"include_aliases":false,"index_settings":{"index.number_of_replicas":0,"index.refresh_interval":"-1","index.blocks.write":true}}`,
			list), nil)
		measured := e.awaitRestore(t, list, next, 2*len(names))
		for _, name := range names {
			if len(predicted[name]) != 2 {
				t.Fatalf("index %s is predicted with %d shards", name, len(predicted[name]))
			}
			for shard, p := range predicted[name] {
				if p.Shard != shard {
					t.Fatalf("index %s: shard %d is at place %d", name, p.Shard, shard)
				}
				all = append(all, measurement{name, shard, previous, next, measured[name][shard], p.Prediction})
			}
		}
		previous = next
	}
	e.call(t, "DELETE", "/"+list, "", nil)
	report(t, source+" to "+e.name, all)
	keep := slices.DeleteFunc(slices.Clone(all), func(m measurement) bool {
		return m.Shard != 0 || !slices.Contains(recorded, m.Index) || m.Next > fmt.Sprintf("round-%d", recordedRounds)
	})
	content, err := json.MarshalIndent(keep, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(source, "to-"+e.name+".json"), append(content, '\n'))
}

// awaitRestore waits until every shard has been restored from a snapshot.
func (e *engine) awaitRestore(t *testing.T, list, snapshot string, shards int) map[string]map[int]repository.Prediction {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		var answer map[string]struct{ Shards []recovery }
		e.call(t, "GET", "/"+list+"/_recovery", "", &answer)
		done := map[string]map[int]repository.Prediction{}
		count := 0
		for name, index := range answer {
			done[name] = map[int]repository.Prediction{}
			for _, r := range index.Shards {
				if r.Type == "SNAPSHOT" && r.Source.Snapshot == snapshot && r.Stage == "DONE" {
					done[name][r.ID] = repository.Prediction{Reused: r.Index.Size.Reused, Recovered: r.Index.Size.Recovered,
						ReusedFiles: r.Index.Files.Reused, RecoveredFiles: r.Index.Files.Recovered}
					count++
				}
			}
		}
		if count == shards {
			return done
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d of %d shards are restored from %s", e.name, count, shards, snapshot)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// report logs how exact the predictions were and fails below nine shards in ten. First restores, which reuse nothing, do not count.
func report(t *testing.T, pair string, all []measurement) {
	t.Helper()
	warm, exact, reusing := 0, 0, 0
	var predicted, measured int64
	for _, m := range all {
		same := m.predicted == m.Measured
		if !same {
			t.Logf("%s: %s/%d %s over %s: predicted %+v, measured %+v, error %d bytes", pair, m.Index, m.Shard, m.Next, m.Previous,
				m.predicted, m.Measured, m.predicted.Recovered-m.Measured.Recovered)
		}
		if m.Previous == "" {
			if !same {
				t.Errorf("%s: a first restore is not predicted exactly", pair)
			}
			continue
		}
		warm++
		predicted += m.predicted.Recovered
		measured += m.Measured.Recovered
		if same {
			exact++
		}
		if m.Measured.Reused > 0 {
			reusing++
		}
	}
	t.Logf("%s: %d of %d warm shard restores predicted exactly (bytes and files; %d of them reused something); %d bytes predicted, %d measured, "+
		"error %.3f %%", pair, exact, warm, reusing, predicted, measured, 100*float64(predicted-measured)/float64(max(measured, 1)))
	if warm == 0 || exact*10 < warm*9 {
		t.Errorf("%s: fewer than nine in ten are exact", pair)
	}
	if reusing*4 < warm {
		t.Errorf("%s: the rounds reuse too little (%d of %d) to prove anything", pair, reusing, warm)
	}
}

// recorded are the indices whose shard 0 goes into testdata/shards, with the first three rounds.
var recorded = []string{"append", "update", "delete", "other"}

const recordedRounds = 3

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	dir := os.Getenv("DOMAIN_FERRY_RECORD_SHARDS")
	if dir == "" {
		return
	}
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// record writes the file lists of a source, and the metadata of one index.
func record(t *testing.T, e *engine, names []string) {
	reader := folder(filepath.Join(e.root, e.name))
	root := reader.decodeRoot(t)
	for round := 1; round <= recordedRounds; round++ {
		s, ok := root.Snapshot(fmt.Sprintf("round-%d", round), "")
		if !ok {
			t.Fatalf("round %d left no snapshot", round)
		}
		for _, index := range root.IndicesOf(s.UUID) {
			if !slices.Contains(recorded, index.Name) || !slices.Contains(names, index.Name) {
				continue
			}
			content, err := reader.Get(t.Context(), repository.ShardSnapshotKey(s.UUID, index.ID, 0))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(e.name, index.Name+"-"+s.Name+".dat"), content)
		}
	}
	for _, index := range root.Indices {
		blobs, err := filepath.Glob(filepath.Join(string(reader), "indices", index.ID, "meta-*.dat"))
		if err != nil || len(blobs) == 0 {
			t.Fatalf("metadata of %s: %v %v", index.Name, blobs, err)
		}
		content, err := os.ReadFile(blobs[0])
		if err != nil {
			t.Fatal(err)
		}
		if index.Name == "update" {
			write(t, filepath.Join(e.name, "metadata.dat"), content)
		}
	}
}
