package simulate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/domainferry/domainferry/internal/local/domain"
)

// memory is a repository without a disk.
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
	if data, ok := m.blobs[name]; ok {
		return data, nil
	}
	return nil, &fs.PathError{Op: "get", Path: name, Err: fs.ErrNotExist}
}

func (m *memory) List(prefix string) (names []string, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
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

// pair is one shard twice: in the built-in domain, with documents, and as a coarse shard.
type pair struct {
	*testing.T
	source, destination *domain.Domain
	coarse              *shard
	copied              *commit
	known               map[int64]int64
	ids                 []int // live documents
	next                int
	random              *rand.Rand
	rounds              int
	documentBytes       int64
}

const sourceBytes = 1000

func newPair(t *testing.T, seed uint64) *pair {
	store := &memory{blobs: map[string][]byte{}}
	p := &pair{T: t, random: rand.New(rand.NewPCG(seed, 4)), known: map[int64]int64{}, documentBytes: sourceBytes + 30}
	p.coarse = newShard(rand.New(rand.NewPCG(seed, 5)))
	for i, d := range []**domain.Domain{&p.source, &p.destination} {
		made, err := domain.New(domain.Config{Engine: []string{"elasticsearch-7.10.2", "opensearch-2.19.0"}[i], RepositoryRoot: "/repositories",
			OpenBlobs: func(string) domain.Blobs { return store }, Seed: 2*seed + uint64(i)})
		if err != nil {
			t.Fatal(err)
		}
		*d = made
	}
	p.call(p.source, "PUT", "/_snapshot/r", `{"type":"fs","settings":{"location":"/repositories/r"}}`)
	p.call(p.destination, "PUT", "/_snapshot/r", `{"type":"fs","settings":{"location":"/repositories/r","readonly":true}}`)
	p.call(p.source, "PUT", "/i", `{"settings":{"number_of_shards":1,"number_of_replicas":0,"refresh_interval":"-1"}}`)
	return p
}

func (p *pair) call(d *domain.Domain, method, path, body string) map[string]any {
	p.Helper()
	w := httptest.NewRecorder()
	d.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	if w.Code >= 300 {
		p.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		p.Fatalf("%s %s: %v", method, path, err)
	}
	return answer
}

// number reads a number of an answer.
func number(answer any, path ...string) int64 {
	for _, k := range path {
		switch v := answer.(type) {
		case map[string]any:
			answer = v[k]
		case []any:
			answer = v[0].(map[string]any)[k]
		}
	}
	n, _ := answer.(float64)
	return int64(n)
}

// write is one refresh with so many operations on both.
func (p *pair) write(appended, updated, deleted int) {
	p.Helper()
	var body strings.Builder
	put := func(id int) {
		fmt.Fprintf(&body, "{\"index\":{\"_index\":\"i\",\"_id\":\"%07d\"}}\n{\"text\":%q}\n", id, strings.Repeat(string(rune('a'+p.random.IntN(26))), sourceBytes))
	}
	p.random.Shuffle(len(p.ids), func(i, j int) { p.ids[i], p.ids[j] = p.ids[j], p.ids[i] })
	for _, id := range p.ids[:updated] {
		put(id)
	}
	for _, id := range p.ids[updated : updated+deleted] {
		fmt.Fprintf(&body, "{\"delete\":{\"_index\":\"i\",\"_id\":\"%07d\"}}\n", id)
	}
	p.ids = slices.Delete(p.ids, updated, updated+deleted)
	for range appended {
		put(p.next)
		p.ids = append(p.ids, p.next)
		p.next++
	}
	if answer := p.call(p.source, "POST", "/_bulk?refresh=true", body.String()); answer["errors"] != false {
		p.Fatal(answer)
	}
	p.coarse.write(int64(appended), int64(updated), int64(deleted), p.documentBytes)
}

func (p *pair) merge() {
	p.call(p.source, "POST", "/i/_forcemerge?max_num_segments=1", "")
	p.coarse.forceMerge()
}

// move is what a round moves, in bytes.
type move struct{ snapshot, recovered, reused int64 }

// round takes a snapshot of both and restores it over the copy.
func (p *pair) round() (real, coarse move) {
	p.Helper()
	p.rounds++
	name := fmt.Sprintf("s%d", p.rounds)
	p.call(p.source, "PUT", "/_snapshot/r/"+name+"?wait_for_completion=true", `{"indices":"i","include_global_state":false}`)
	status := p.call(p.source, "GET", "/_snapshot/r/"+name+"/_status", "")
	real.snapshot = number(status, "snapshots", "stats", "incremental", "size_in_bytes")
	if p.rounds > 1 {
		p.call(p.destination, "POST", "/i/_close", "")
	}
	p.call(p.destination, "POST", "/_snapshot/r/"+name+"/_restore?wait_for_completion=true", `{"indices":"i","include_global_state":false,"index_settings":{"index.blocks.write":true}}`)
	recovery := p.call(p.destination, "GET", "/i/_recovery", "")
	real.recovered = number(recovery, "i", "shards", "index", "size", "recovered_in_bytes")
	real.reused = number(recovery, "i", "shards", "index", "size", "reused_in_bytes")

	c := p.coarse.flush()
	_, coarse.snapshot, _ = increment(p.known, c)
	for _, v := range c.segments {
		p.known[v.id] = v.generation
	}
	coarse.recovered, coarse.reused = restoreBytes(p.copied, c)
	p.copied = c
	return real, coarse
}

// near reports whether two sizes are within a part of the larger, or a few kilobytes, of each other.
func near(a, b int64, tolerance float64) bool {
	return math.Abs(float64(a-b)) <= max(8000, tolerance*float64(max(a, b)))
}

// TestShardMovesWhatTheModelMoves holds the coarse shard to the built-in domain, which the contract suite holds to real nodes: the same
// operations give the same snapshot increments and the same bytes moved and kept by a restore. Which segment a random update hits is
// chance on both, so that a single round may differ by a segment; sums may not.
func TestShardMovesWhatTheModelMoves(t *testing.T) {
	for _, c := range []struct {
		name                       string
		appended, updated, deleted int // in a refresh
		mergeAt                    int // a round
	}{
		{name: "appended", appended: 200},
		{name: "updated", updated: 60},
		{name: "one update", updated: 1},
		{name: "deleted", deleted: 20, appended: 20},
		{name: "all of it", appended: 100, updated: 50, deleted: 20},
		{name: "merged by force", appended: 100, updated: 10, mergeAt: 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, 7)
				for range 25 {
					p.write(150, 0, 0)
				}
				var real, coarse move
				for n := range 8 {
					if n > 0 {
						for range 3 {
							p.write(c.appended, c.updated, c.deleted)
						}
					}
					if c.mergeAt > 0 && n == c.mergeAt {
						p.merge()
					}
					a, b := p.round()
					t.Logf("round %d: model %+v, coarse %+v", n+1, a, b)
					if !near(a.recovered+a.reused, b.recovered+b.reused, 0.05) || !near(a.snapshot, b.snapshot, 0.3) {
						t.Errorf("round %d: model %+v, coarse %+v", n+1, a, b)
					}
					real = move{real.snapshot + a.snapshot, real.recovered + a.recovered, real.reused + a.reused}
					coarse = move{coarse.snapshot + b.snapshot, coarse.recovered + b.recovered, coarse.reused + b.reused}
					time.Sleep(time.Second)
				}
				kept := func(m move) float64 { return float64(m.reused) / float64(m.recovered+m.reused) }
				if !near(real.snapshot, coarse.snapshot, 0.05) || !near(real.recovered, coarse.recovered, 0.05) || math.Abs(kept(real)-kept(coarse)) > 0.03 {
					t.Errorf("in all: model %+v, coarse %+v", real, coarse)
				}
			})
		})
	}
}

// TestShardCountsWhatAReplayFinds: documents above a checkpoint, and deletions at or below it.
func TestShardCountsWhatAReplayFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 8)
		p.write(3000, 0, 0)
		live := int64(3000)
		for n := 1; n < 6; n++ {
			from := p.coarse.seqNo
			const writes = 10
			appended, updated, deleted := 10*n, 60*n, 2*n
			for range writes {
				p.write(appended, updated, deleted)
			}
			live += int64(writes * (appended - deleted))
			above := number(p.call(p.source, "POST", "/i/_count", fmt.Sprintf(`{"query":{"range":{"_seq_no":{"gt":%d}}}}`, from)), "count")
			all := number(p.call(p.source, "POST", "/i/_count", ""), "count")
			documents, deletions := p.coarse.between(from, p.coarse.seqNo)
			t.Logf("checkpoint %d: model %d documents above, coarse %.0f; %d live", from, above, documents, all)
			// What was changed and then deleted within the range is in the coarse sum, and not in the model's.
			if math.Abs(documents-float64(above)) > 0.05*float64(above)+5 {
				t.Errorf("above %d the model has %d documents, the coarse shard %.0f", from, above, documents)
			}
			if all != live || p.coarse.live != live || deletions != float64(writes*deleted) {
				t.Errorf("live: model %d, coarse %d, want %d; %.0f deletions", all, p.coarse.live, live, deletions)
			}
			seq := number(p.call(p.source, "GET", "/i/_stats?level=shards", ""), "indices", "i", "shards", "0", "seq_no", "max_seq_no")
			if seq != p.coarse.seqNo {
				t.Errorf("max_seq_no: model %d, coarse %d", seq, p.coarse.seqNo)
			}
		}
	})
}
