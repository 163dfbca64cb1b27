package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/local/domain"
	"github.com/domainferry/domainferry/internal/local/node"
)

// pairs are all that can restore from one another, in an order that lets nodes be stopped soon.
var pairs = [][2]string{
	{"elasticsearch-7.10.2", "opensearch-2.19.0"},
	{"elasticsearch-6.8.0", "elasticsearch-7.10.2"},
	{"elasticsearch-7.1.1", "elasticsearch-7.10.2"},
	{"elasticsearch-7.10.2", "opensearch-1.3.20"},
	{"elasticsearch-6.8.0", "opensearch-1.3.20"},
	{"elasticsearch-7.1.1", "opensearch-1.3.20"},
	{"opensearch-1.3.20", "opensearch-2.19.0"},
	{"opensearch-2.19.0", "opensearch-3.7.0"},
	{"opensearch-3.7.0", "opensearch-3.7.0"},
}

// TestNodes replays between real nodes of all versions that can be paired, which takes minutes. DOMAIN_FERRY_TEST_PAIRS=first, as make test
// sets it, takes one pair, <source>:<destination>,... some. internal/repository knows the same variable and has other pairs too.
func TestNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("real nodes are not for -short")
	}
	wanted := pairs
	if which := os.Getenv("DOMAIN_FERRY_TEST_PAIRS"); which == "first" {
		wanted = pairs[:1]
	} else if which != "" {
		named := strings.Split(which, ",")
		wanted = slices.DeleteFunc(slices.Clone(pairs), func(p [2]string) bool { return !slices.Contains(named, p[0]+":"+p[1]) })
	}
	root := nodeRoot(t)
	nodes := map[string]*node.Node{}
	// A node starts once and runs until its last pair is over. One that restores from its own version is another one.
	names := func(pair [2]string) []string {
		if pair[0] == pair[1] {
			return []string{pair[0], pair[1] + " again"}
		}
		return pair[:]
	}
	for i, pair := range wanted {
		var missing []string
		for _, name := range names(pair) {
			if nodes[name] == nil {
				missing = append(missing, name)
			}
		}
		started, err := startNodes(t, root, missing)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(nodes, started)
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			underFire(t, nodes[names(pair)[0]].URL, nodes[names(pair)[1]].URL, filepath.Join(root, "repositories", strconv.Itoa(i)), pair[0])
		})
		for _, name := range names(pair) {
			if !slices.ContainsFunc(wanted[i+1:], func(p [2]string) bool { return slices.Contains(names(p), name) }) {
				if err := nodes[name].Stop(); err != nil {
					t.Error(err)
				}
				delete(nodes, name)
			}
		}
	}
}

// startNodes starts nodes side by side; they are stopped at the end of the test at the latest.
func startNodes(t *testing.T, root string, names []string) (map[string]*node.Node, error) {
	t.Helper()
	nodes := make([]*node.Node, len(names))
	failures := make([]error, len(names))
	var starting sync.WaitGroup
	for i, name := range names {
		engine, err := node.Parse(strings.TrimSuffix(name, " again"))
		if err != nil {
			return nil, err
		}
		if err := node.Available(engine); err != nil {
			if os.Getenv("CI") == "true" {
				return nil, err
			}
			t.Skip(err)
		}
		starting.Go(func() {
			nodes[i], failures[i] = node.Start(t.Context(), node.Config{Engine: engine, Dir: filepath.Join(root, strings.ReplaceAll(name, " ", "-")), RepositoryRoot: filepath.Join(root, "repositories")})
			if failures[i] == nil {
				t.Cleanup(func() { _ = nodes[i].Stop() })
			}
		})
	}
	starting.Wait()
	byName := map[string]*node.Node{}
	for i, name := range names {
		byName[name] = nodes[i]
	}
	return byName, errors.Join(failures...)
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
	for _, pair := range [][2]string{{"elasticsearch-7.10.2", "opensearch-2.19.0"}, {"opensearch-2.19.0", "opensearch-3.7.0"}} {
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
	family bool // documents have parents
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
	action := func(verb, id string, more map[string]any) {
		a := map[string]any{"_id": id}
		maps.Copy(a, more)
		if r := routingOf(id); r != "" {
			a["routing"] = r
		}
		if c.typed {
			a["_type"] = oldType
		}
		line, _ := json.Marshal(map[string]any{verb: a})
		body.Write(line)
		body.WriteByte('\n')
	}
	for range n {
		c.n++
		id := ""
		if c.random.IntN(50) == 0 {
			// Versions of the client's own.
			id = fmt.Sprintf("external-%d", c.random.IntN(20))
			next[id] = fmt.Sprintf(`{"n":%d}`, c.n)
			action("index", id, map[string]any{"version": 1000 + c.n, "version_type": "external"})
			body.WriteString(next[id] + "\n")
			continue
		}
		switch x := c.random.IntN(100); {
		case x < 40 || len(c.ids) == 0:
			id = fmt.Sprintf("doc/%d", c.n)
			c.ids = append(c.ids, id)
		default:
			id = c.ids[c.random.IntN(len(c.ids))]
		}
		if c.random.IntN(8) == 0 {
			next[id] = ""
			action("delete", id, nil)
			continue
		}
		source := fmt.Sprintf(`{"n":%d, "text":"<b>%s</b> \u00e4", "items":[{"name":"a%d"},{"name":"b"}], "price":1.50}`, c.n, strings.Repeat("lorem ", c.random.IntN(30)), c.n)
		if c.family {
			relation := `"parent"`
			if parent := strings.TrimPrefix(routingOf(id), "group-"); parent != "" {
				relation = fmt.Sprintf(`{"name":"child","parent":"doc/%s"}`, parent)
			}
			source = `{"family":` + relation + "," + source[1:]
		}
		next[id] = source
		action("index", id, nil)
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

// oldType is the document type on Elasticsearch 6, where it may be any name: its copies keep it, and later engines take what they
// call "_doc" for it.
const oldType = "item"

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
	// Nodes serve several pairs.
	t.Cleanup(func() {
		for _, url := range []string{sourceURL, destinationURL} {
			_, _ = rest("DELETE", url+"/shop", nil)
			_, _ = rest("DELETE", url+"/_snapshot/mig", nil)
		}
	})
	typed := strings.HasPrefix(engine, "elasticsearch-6")
	properties := map[string]any{
		"n": map[string]any{"type": "long"}, "text": map[string]any{"type": "text"}, "price": map[string]any{"type": "double"},
		"items": map[string]any{"type": "nested", "properties": map[string]any{"name": map[string]any{"type": "keyword"}}}}
	// Of the archives that the nodes come from only that of 3.7.0 has the module for parents and children.
	family := engine == "opensearch-3.7.0"
	if family {
		properties["family"] = map[string]any{"type": "join", "relations": map[string]any{"parent": "child"}}
	}
	var mappings any = map[string]any{"properties": properties}
	if typed {
		mappings = map[string]any{oldType: mappings}
	}
	// The source forgets deletions at once, so that ids that are written anew begin again at version 1.
	must("PUT", sourceURL+"/shop", map[string]any{"mappings": mappings,
		"settings": map[string]any{"index.number_of_shards": 2, "index.number_of_replicas": 0, "index.gc_deletes": "0s"}})
	writer := &client{url: sourceURL, typed: typed, family: family, random: rand.New(rand.NewPCG(1, 2)), live: map[string]string{}}
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

	states := base(t, source, "shop")
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
	// A pipeline that would run on what replay writes, and does not even exist.
	must("PUT", destinationURL+"/shop/_settings", map[string]any{"index.default_pipeline": "nowhere"})
	if _, err := rest("PUT", destinationURL+"/shop/_doc/piped", `{}`); err == nil {
		t.Fatal("a write without replay's care went past the pipeline")
	}
	var frozenSince time.Time
	for p := range 4 {
		frozen := p == 3
		// However fast a pass is, the writer has done something since the last one.
		was := writer.acknowledged()
		eventually(t, "write", func() bool { return writer.acknowledged() > was })
		if frozen {
			stop()
			writing.Wait()
			if wrong != nil {
				t.Fatal(wrong)
			}
			frozenSince = time.Now()
			must("PUT", sourceURL+"/shop/_settings", map[string]any{"index.blocks.write": true})
		}
		began := time.Now()
		pass, err := r.Plan(t.Context(), states, PlanOptions{Frozen: frozen, SliceOperations: 3000})
		if err != nil || len(pass.Drops) > 0 {
			t.Fatalf("%+v, %v", pass.Drops, err)
		}
		var results []SliceResult
		var total SliceResult
		replay := func() {
			for _, s := range pass.Slices {
				for !s.done() {
					result, err := r.Slice(t.Context(), s, time.Now().Add(time.Minute))
					if err != nil || len(result.Drops) > 0 {
						t.Errorf("%+v, %v", result, err)
						return
					}
					results = append(results, result)
					s.Parts = result.Rest
					total.Documents += result.Documents
					total.Replaced += result.Replaced
					total.Superseded += result.Superseded
				}
			}
		}
		var d DeleteResult
		reconcile := func(states []State) {
			d, err = r.ReconcileDeletes(t.Context(), states, pass.Moved, time.Now().Add(time.Minute))
			if err != nil || !d.Done || d.Missing > 0 {
				t.Errorf("%+v, %v", d, err)
			}
		}
		// The last pass looks for deletions while it writes, in what the copy had before.
		if frozen {
			var both sync.WaitGroup
			both.Go(replay)
			both.Go(func() { reconcile(pass.States) })
			both.Wait()
			pass.States = AccountDeletes(pass.States, d)
		} else {
			replay()
		}
		if t.Failed() {
			return
		}
		passed := time.Since(began)
		if states, err = r.Advance(t.Context(), pass, results); err != nil {
			t.Fatal(err)
		}
		if !frozen {
			reconcile(states)
			states = AccountDeletes(states, d)
		}
		if t.Failed() {
			return
		}
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
	evidence, err := verified(t, r, states, 0, time.Now().Add(time.Minute))
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

	states = atRest(t, r, states, func(block any) {
		must("PUT", sourceURL+"/shop/_settings", map[string]any{"index.blocks.write": block})
		for _, url := range []string{sourceURL, destinationURL} {
			must("POST", url+"/shop/_flush", nil)
		}
	})
	// A foreign write at the destination does not go unnoticed.
	must("POST", destinationURL+"/shop/_doc/foreign?pipeline=_none", `{"n":1}`)
	pass, err := r.Plan(t.Context(), states, PlanOptions{Frozen: true})
	if err != nil {
		t.Fatal(err)
	}
	after, err := r.Advance(t.Context(), pass, nil)
	if err != nil || after[0].Shards[0].Unaccounted+after[0].Shards[1].Unaccounted != 1 {
		t.Errorf("%+v, %v: want one operation unaccounted for", after, err)
	}
	if evidence, err = verified(t, r, states, 0, time.Time{}); err != nil || evidence[0].OK {
		t.Errorf("%+v, %v: want the foreign document found", evidence, err)
	}
}

// atRest holds the rule by which shards are not looked at again to the engine: refreshing and flushing move no number, a deletion moves that
// of its shard alone, and what is left out then is nothing. block sets the source's write block, and flushes both sides.
func atRest(t *testing.T, r *Replayer, states []State, block func(any)) []State {
	t.Helper()
	source := r.Source.(*cluster.Client)
	plan := func(frozen bool) Pass {
		t.Helper()
		pass, err := r.Plan(t.Context(), states, PlanOptions{Frozen: frozen})
		if err != nil || len(pass.Drops) > 0 {
			t.Fatalf("%+v, %v", pass.Drops, err)
		}
		return pass
	}
	advance := func(pass Pass) {
		t.Helper()
		var err error
		if states, err = r.Advance(t.Context(), pass, nil); err != nil {
			t.Fatal(err)
		}
	}
	verified := func(unmoved int) {
		t.Helper()
		if e, err := verified(t, r, states, 0, time.Time{}); err != nil || !e[0].OK || e[0].Unmoved != unmoved {
			t.Errorf("%+v, %v: want %d shards that are not compared again", e, err, unmoved)
		}
	}
	advance(plan(false))
	d, err := r.ReconcileDeletes(t.Context(), states, Shards(states), time.Time{})
	if err != nil || len(d.Settled) != 2 || len(d.Equal) != 2 {
		t.Errorf("%+v, %v: want both shards found equal", d, err)
	}
	states = AccountDeletes(states, d)
	block(true)
	if pass := plan(true); len(pass.Moved)+len(pass.Ranges) != 0 {
		t.Errorf("moved %v, ranges %v", pass.Moved, pass.Ranges)
	}
	verified(2)

	page, err := source.ShardDocuments(t.Context(), "shop", 1, []cluster.SeqRange{{From: -1, Upto: unbounded}}, 1, false)
	if err != nil || len(page.Documents) != 1 {
		t.Fatalf("%+v, %v", page, err)
	}
	x := page.Documents[0]
	block(nil)
	if done, err := source.BulkWrite(t.Context(), "shop", []cluster.Write{{DocumentKey: x.DocumentKey, Type: x.Type, SeqNo: x.SeqNo, PrimaryTerm: x.PrimaryTerm}}); err != nil || done[0].Status != 200 {
		t.Fatalf("%+v, %v", done, err)
	}
	block(true)
	pass := plan(true)
	if want := []ShardRef{{"shop", 1}}; !slices.Equal(pass.Moved, want) || pass.Operations != 1 {
		t.Errorf("moved %v by %d operations, want %v by one", pass.Moved, pass.Operations, want)
	}
	if d, err = r.ReconcileDeletes(t.Context(), pass.States, pass.Moved, time.Time{}); err != nil || d.SharedDeleted+d.ReplayedDeleted != 1 {
		t.Errorf("%+v, %v: want one deleted", d, err)
	}
	pass.States = AccountDeletes(pass.States, d)
	advance(pass)
	verified(1)
	return states
}

// base is the state of an index before its base snapshot. Beside what the journal keeps it has the primary terms.
func base(t *testing.T, source Domain, index string) []State {
	t.Helper()
	histories, err := source.ShardHistories(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	h := histories[index]
	var checkpoints []int64
	var uuids []string
	for _, s := range h.Shards {
		checkpoints, uuids = append(checkpoints, s.GlobalCheckpoint), append(uuids, s.HistoryUUID)
	}
	state := NewState(index, h.UUID, checkpoints, uuids)
	for k, s := range h.Shards {
		state.Shards[k].Term = s.PrimaryTerm
	}
	return []State{state}
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
