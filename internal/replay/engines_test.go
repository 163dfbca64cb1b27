package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/local/domain"
	"github.com/domainferry/domainferry/internal/local/node"
)

// pairs are the engines that can restore from one another; the first is always tried, all of them with DOMAINFERRY_REPLAY_PAIRS=all.
var pairs = [][2]string{
	{"elasticsearch-7.10.2", "opensearch-2.19.0"},
	{"opensearch-2.19.0", "opensearch-3.7.0"},
	{"elasticsearch-7.10.2", "opensearch-1.3.20"},
	{"elasticsearch-6.8.0", "elasticsearch-7.10.2"},
	{"elasticsearch-6.8.0", "opensearch-1.3.20"},
	{"opensearch-1.3.20", "opensearch-2.19.0"},
}

func TestNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("real nodes are not for -short")
	}
	wanted := pairs[:1]
	if which := os.Getenv("DOMAINFERRY_REPLAY_PAIRS"); which == "all" {
		wanted = pairs
	} else if which != "" {
		wanted = slices.DeleteFunc(slices.Clone(pairs), func(p [2]string) bool { return p[0]+"/"+p[1] != which })
	}
	for _, pair := range wanted {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			var urls [2]string
			root := nodeRoot(t)
			var started sync.WaitGroup
			var failures [2]error
			for i, name := range pair {
				engine, err := node.Parse(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := node.Available(engine); err != nil {
					if os.Getenv("CI") == "true" {
						t.Fatal(err)
					}
					t.Skip(err)
				}
				started.Go(func() {
					n, err := node.Start(t.Context(), node.Config{Engine: engine, Dir: filepath.Join(root, fmt.Sprintf("node-%d", i)),
						RepositoryRoot: filepath.Join(root, "repositories")})
					if err != nil {
						failures[i] = err
						return
					}
					t.Cleanup(func() { _ = n.Stop() })
					urls[i] = n.URL
				})
			}
			started.Wait()
			if err := errors.Join(failures[:]...); err != nil {
				t.Fatal(err)
			}
			underFire(t, urls[0], urls[1], filepath.Join(root, "repositories"), pair[0])
		})
	}
}

// nodeRoot is a folder that nodes, which run as an unprivileged user, may use.
func nodeRoot(t *testing.T) string {
	t.Helper()
	root, err := os.MkdirTemp("", "domainferry-replay-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	for dir, mode := range map[string]os.FileMode{root: 0o755, filepath.Join(root, "repositories"): 0o777} {
		if err := errors.Join(os.MkdirAll(dir, mode), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestModel(t *testing.T) {
	for _, pair := range pairs[:2] {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			root := t.TempDir()
			var urls [2]string
			for i, engine := range pair {
				d, err := domain.New(domain.Config{Engine: engine, RepositoryRoot: root, Seed: uint64(i + 1)})
				if err != nil {
					t.Fatal(err)
				}
				server := httptest.NewServer(d)
				t.Cleanup(server.Close)
				urls[i] = server.URL
			}
			underFire(t, urls[0], urls[1], root, pair[0])
		})
	}
}

// rest makes plain calls, for what only a test does.
func rest(method, url string, body any) (string, error) {
	var data []byte
	switch b := body.(type) {
	case nil:
	case string:
		data = []byte(b)
	default:
		data, _ = json.Marshal(b)
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(data))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %d %s", method, url, resp.StatusCode, answer)
	}
	return string(answer), err
}

// client writes to the source until it is stopped: inserts, updates, deletions and ids that are written anew, with routing and nested
// documents. It remembers what was acknowledged.
type client struct {
	url    string
	typed  bool // Elasticsearch 6
	random *rand.Rand
	mu     sync.Mutex
	live   map[string]string // id -> source
	ids    []string
	n      int
	done   int // operations acknowledged
}

func (c *client) acknowledged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// routing follows from the id, so that an id has one place.
func routingOf(id string) string {
	if strings.HasSuffix(id, "7") {
		return "group-" + id[len(id)-2:]
	}
	return ""
}

func (c *client) batch(n int) error {
	var body strings.Builder
	next := map[string]string{}
	action := func(verb, id string) {
		a := map[string]any{"_id": id}
		if r := routingOf(id); r != "" {
			a["routing"] = r
		}
		if c.typed {
			a["_type"] = "_doc"
		}
		line, _ := json.Marshal(map[string]any{verb: a})
		body.Write(line)
		body.WriteByte('\n')
	}
	for range n {
		c.n++
		id := ""
		switch x := c.random.IntN(100); {
		case x < 40 || len(c.ids) == 0:
			id = fmt.Sprintf("doc/%d", c.n)
			c.ids = append(c.ids, id)
		default:
			id = c.ids[c.random.IntN(len(c.ids))]
		}
		if c.random.IntN(8) == 0 {
			next[id] = ""
			action("delete", id)
			continue
		}
		source := fmt.Sprintf(`{"n":%d, "text":"<b>%s</b> \u00e4", "items":[{"name":"a%d"},{"name":"b"}], "price":1.50}`, c.n, strings.Repeat("lorem ", c.random.IntN(30)), c.n)
		next[id] = source
		action("index", id)
		body.WriteString(source + "\n")
	}
	answer, err := rest("POST", c.url+"/shop/_bulk", body.String())
	if err != nil {
		return err
	}
	if strings.Contains(answer, `"error":`) {
		return fmt.Errorf("bulk: %.500s", answer)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	for id, source := range next {
		if source == "" {
			delete(c.live, id)
		} else {
			c.live[id] = source
		}
	}
	return nil
}

// underFire replays an index under a live writer, and compares every document and what the writer was promised.
func underFire(t *testing.T, sourceURL, destinationURL, root, engine string) {
	must := func(method, url string, body any) string {
		t.Helper()
		answer, err := rest(method, url, body)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	typed := strings.HasPrefix(engine, "elasticsearch-6")
	var mappings any = map[string]any{"properties": map[string]any{
		"n": map[string]any{"type": "long"}, "text": map[string]any{"type": "text"}, "price": map[string]any{"type": "double"},
		"items": map[string]any{"type": "nested", "properties": map[string]any{"name": map[string]any{"type": "keyword"}}}}}
	if typed {
		mappings = map[string]any{"_doc": mappings}
	}
	// The source forgets deletions at once, so that ids that are written anew begin again at version 1.
	must("PUT", sourceURL+"/shop", map[string]any{"mappings": mappings,
		"settings": map[string]any{"index.number_of_shards": 2, "index.number_of_replicas": 0, "index.gc_deletes": "0s"}})
	writer := &client{url: sourceURL, typed: typed, random: rand.New(rand.NewPCG(1, 2)), live: map[string]string{}}
	for range 20 {
		if err := writer.batch(1000); err != nil {
			t.Fatal(err)
		}
	}
	source, destination := cluster.New(sourceURL, nil), cluster.New(destinationURL, nil)
	r := &Replayer{Source: source, Destination: destination}

	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	var wrong error
	writing.Go(func() {
		for ctx.Err() == nil {
			if err := writer.batch(50); err != nil {
				wrong = err
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond): // a writer's own pace
			}
		}
	})
	defer writing.Wait()
	defer stop()

	states, err := ReadBase(t.Context(), source, []string{"shop"})
	if err != nil {
		t.Fatal(err)
	}
	if s := states[0]; len(s.Shards) != 2 || s.SourceUUID == "" || s.Shards[0].History == "" || s.Shards[0].Base <= 0 {
		t.Fatalf("the base is %+v", s)
	}
	for _, url := range []string{sourceURL, destinationURL} {
		must("PUT", url+"/_snapshot/mig", map[string]any{"type": "fs", "settings": map[string]any{"location": filepath.Join(root, "mig"), "readonly": url == destinationURL}})
	}
	must("PUT", sourceURL+"/_snapshot/mig/base", map[string]any{"indices": "shop", "include_global_state": false})
	eventually(t, "snapshot", func() bool { return strings.Contains(must("GET", sourceURL+"/_snapshot/mig/base", nil), `"SUCCESS"`) })
	must("POST", destinationURL+"/_snapshot/mig/base/_restore", map[string]any{"indices": "shop", "include_global_state": false,
		"ignore_index_settings": []string{"index.blocks.*"},
		"index_settings":        map[string]any{"index.number_of_replicas": 0, "index.refresh_interval": "-1", "index.blocks.write": true}})
	eventually(t, "restore", func() bool {
		answer, err := rest("GET", destinationURL+"/_cluster/health/shop", nil)
		return err == nil && strings.Contains(answer, `"active_primary_shards":2`)
	})

	copySettings, err := destination.IndexSettings(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	sourceSettings, err := source.IndexSettings(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	change := Settings(copySettings["shop"], sourceSettings["shop"])
	if err := destination.UpdateSettings(t.Context(), change.During, "shop"); err != nil {
		t.Fatal(err)
	}
	var frozenSince time.Time
	for p := range 4 {
		frozen := p == 3
		if frozen {
			stop()
			writing.Wait()
			if wrong != nil {
				t.Fatal(wrong)
			}
			frozenSince = time.Now()
			must("PUT", sourceURL+"/shop/_settings", map[string]any{"index.blocks.write": true})
		}
		if !frozen {
			// However fast a pass is, the writer has done something since the last one.
			was := writer.acknowledged()
			eventually(t, "write", func() bool { return writer.acknowledged() > was })
		}
		began := time.Now()
		pass, err := r.Plan(t.Context(), states, PlanOptions{Frozen: frozen, SliceOperations: 3000})
		if err != nil || len(pass.Drops) > 0 {
			t.Fatalf("%+v, %v", pass.Drops, err)
		}
		var results []SliceResult
		var total SliceResult
		for _, s := range pass.Slices {
			for !s.done() {
				result, err := r.Slice(t.Context(), s, time.Now().Add(time.Minute))
				if err != nil || len(result.Drops) > 0 {
					t.Fatalf("%+v, %v", result, err)
				}
				results = append(results, result)
				s.Parts = result.Rest
				total.Documents += result.Documents
				total.Replaced += result.Replaced
				total.Superseded += result.Superseded
			}
		}
		passed := time.Since(began)
		if states, err = r.Advance(t.Context(), pass, results); err != nil {
			t.Fatal(err)
		}
		d, err := r.ReconcileDeletes(t.Context(), states, Shards(states), time.Now().Add(time.Minute))
		if err != nil || !d.Done || d.Missing > 0 {
			t.Fatalf("%+v, %v", d, err)
		}
		states = AccountDeletes(states, d)
		t.Logf("pass %d: %d operations, %d documents in %d slices in %.2f s (%d replaced, %d superseded); deletions %d + %d of %d listed in %.2f s, %d blocks",
			p, pass.Operations, total.Documents, len(pass.Slices), passed.Seconds(), total.Replaced, total.Superseded, d.SharedDeleted, d.ReplayedDeleted, d.Listed,
			d.Seconds, len(states[0].Shards[0].Blocks)+len(states[0].Shards[1].Blocks))
		for k, s := range states[0].Shards {
			if s.Unaccounted != 0 {
				t.Errorf("shard %d has %d operations unaccounted for: %+v", k, s.Unaccounted, s)
			}
		}
	}
	downtime := time.Since(frozenSince)
	evidence, err := r.Verify(t.Context(), states, 0, time.Now().Add(time.Minute))
	if err != nil || !evidence[0].OK {
		t.Errorf("%+v, %v", evidence, err)
	}
	t.Logf("frozen for %.2f s, verified after %.2f s: %+v", downtime.Seconds(), time.Since(frozenSince).Seconds(), evidence)

	a, b := everything(t, source), everything(t, destination)
	for id, d := range a {
		if d != b[id] {
			t.Errorf("document %s differs", id)
		}
	}
	if len(a) != len(b) || len(a) != len(writer.live) {
		t.Errorf("%d documents at the source, %d at the destination, %d acknowledged", len(a), len(b), len(writer.live))
	}
	got, err := destination.LatestDocuments(t.Context(), "shop", keysOf(writer.live), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range got {
		if want := writer.live[d.ID]; !d.Found || string(compact(d.Source)) != string(compact([]byte(want))) {
			t.Errorf("%s: the writer was promised %s, the destination has %s", d.ID, want, d.Source)
		}
	}

	// A foreign write at the destination does not go unnoticed.
	must("POST", destinationURL+"/shop/_doc/foreign", `{"n":1}`)
	pass, err := r.Plan(t.Context(), states, PlanOptions{Frozen: true})
	if err != nil {
		t.Fatal(err)
	}
	after, err := r.Advance(t.Context(), pass, nil)
	if err != nil || after[0].Shards[0].Unaccounted+after[0].Shards[1].Unaccounted != 1 {
		t.Errorf("%+v, %v: want one operation unaccounted for", after, err)
	}
	if evidence, err = r.Verify(t.Context(), states, 0, time.Time{}); err != nil || evidence[0].OK {
		t.Errorf("%+v, %v: want the foreign document found", evidence, err)
	}
}

func (s Slice) done() bool { return len(s.Parts) == 0 }

func compact(source []byte) []byte {
	var b bytes.Buffer
	_ = json.Compact(&b, source)
	return b.Bytes()
}

func keysOf(live map[string]string) []cluster.DocumentKey {
	var keys []cluster.DocumentKey
	for id := range live {
		keys = append(keys, cluster.DocumentKey{ID: id, Routing: routingOf(id)})
	}
	return keys
}

func everything(t *testing.T, domain Domain) map[string][32]byte {
	t.Helper()
	if err := domain.Refresh(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	all := map[string][32]byte{}
	for shard := range 2 {
		for from := int64(-1); ; {
			page, err := domain.ShardDocuments(t.Context(), "shop", shard, []cluster.SeqRange{{From: from, Upto: unbounded}}, 2000, true)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page.Documents {
				x, err := digest(d)
				if err != nil {
					t.Fatal(err)
				}
				all[fmt.Sprintf("%d/%s", shard, d.ID)] = x
				from = d.SeqNo
			}
			if !page.More {
				break
			}
		}
	}
	return all
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within two minutes", what)
		}
		time.Sleep(50 * time.Millisecond) // a poll of a real process, bounded by the deadline
	}
}
