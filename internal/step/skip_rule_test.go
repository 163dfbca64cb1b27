package step

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	model "github.com/domainferry/domainferry/internal/local/domain"
	"github.com/domainferry/domainferry/internal/repository"
)

// What the skip rule takes for unchanged, the engine does too: the identifier of the index's metadata in the repository's root, which
// changes with each change of settings, mapping or aliases (7.9 and newer; older roots have none), is the one of the snapshot before. The
// one exception are settings that a copy has of its own: changing them changes nothing that a restore would bring.
func TestSkipRuleAgreesWithTheRepository(t *testing.T) {
	put := func(path, body string) func(call) { return func(do call) { do("PUT", path, body) } }
	post := func(path, body string) func(call) { return func(do call) { do("POST", path, body) } }
	for _, engine := range []string{"elasticsearch-7.10.2", "opensearch-2.19.0"} {
		for name, c := range map[string]struct {
			change          func(call)
			unchanged, same bool
		}{
			"nothing":                  {func(call) {}, true, true},
			"read":                     {post("/a/_search", `{}`), true, true},
			"refreshed and flushed":    {func(do call) { do("POST", "/a/_refresh", ""); do("POST", "/a/_flush", "") }, true, true},
			"force-merged":             {post("/a/_forcemerge?max_num_segments=1", ""), true, true},
			"another index changed":    {put("/b/_mapping", `{"properties":{"m":{"type":"long"}}}`), true, true},
			"written to":               {put("/a/_doc/9?refresh=true", `{"n":9}`), false, true},
			"deleted from":             {func(do call) { do("DELETE", "/a/_doc/1", "") }, false, true},
			"a field more":             {put("/a/_mapping", `{"properties":{"m":{"type":"long"}}}`), false, false},
			"an alias more":            {post("/_aliases", `{"actions":[{"add":{"index":"a","alias":"x"}}]}`), false, false},
			"an alias's filter":        {post("/_aliases", `{"actions":[{"add":{"index":"a","alias":"there","filter":{"term":{"n":1}}}}]}`), false, false},
			"a setting":                {put("/a/_settings", `{"index.max_result_window":20000}`), false, false},
			"a setting of its own":     {put("/a/_settings", `{"index.number_of_replicas":0,"index.refresh_interval":"7s"}`), true, false},
			"the freeze's own setting": {put("/a/_settings", `{"index.blocks.write":true}`), true, false},
			"made anew": {func(do call) {
				do("DELETE", "/a", "")
				create(do, "a")
			}, false, false},
		} {
			t.Run(engine+"/"+name, func(t *testing.T) {
				root := t.TempDir()
				d, err := model.New(model.Config{Engine: engine, RepositoryRoot: root, SnapshotBytesPerSecond: model.Unlimited})
				if err != nil {
					t.Fatal(err)
				}
				server := httptest.NewServer(d)
				defer server.Close()
				do := caller(t, server.URL)
				create(do, "a")
				create(do, "b")
				do("PUT", "/_snapshot/r", `{"type":"fs","settings":{"location":"`+filepath.Join(root, "r")+`"}}`)
				client := cluster.New(server.URL, http.DefaultTransport)
				read := func() ([]cluster.ShardSequence, cluster.Description) {
					sequences, err := client.SequenceNumbers(t.Context(), "a")
					if err != nil {
						t.Fatal(err)
					}
					described, err := client.Describe(t.Context(), "a")
					if err != nil {
						t.Fatal(err)
					}
					return sequences["a"], described["a"]
				}
				shards, description := read()
				hold := journal.Hold{Identity: identity(shards, description)}
				for _, s := range shards {
					hold.Checkpoints = append(hold.Checkpoints, s.GlobalCheckpoint)
				}
				snapshotOf(t, do, "s1")
				c.change(do)
				shards, description = read()
				unchanged := unchangedSince(hold, shards, description)
				snapshotOf(t, do, "s2")
				before, after := metadataIdentifiers(t, filepath.Join(root, "r"))
				if before == "" || after == "" {
					t.Fatalf("no identifiers: %q, %q", before, after)
				}
				if unchanged != c.unchanged || (before == after) != c.same {
					t.Errorf("unchanged by the rule %t, want %t; identifiers %s and %s", unchanged, c.unchanged, before, after)
				}
			})
		}
	}
}

// call makes a request of a domain that must succeed.
type call func(method, path, body string) []byte

func caller(t *testing.T, url string) call {
	return func(method, path, body string) []byte {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		content, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s %s, %v", method, path, answer.Status, content, err)
		}
		return content
	}
}

// create makes an index of two shards with an alias and some documents.
func create(do call, index string) {
	do("PUT", "/"+index, `{"settings":{"number_of_shards":2,"number_of_replicas":1},"mappings":{"properties":{"n":{"type":"long"}}},"aliases":{"there":{}}}`)
	for i := range 4 {
		do("PUT", fmt.Sprintf("/%s/_doc/%d", index, i), fmt.Sprintf(`{"n":%d}`, i))
	}
}

func snapshotOf(t *testing.T, do call, name string) {
	t.Helper()
	do("PUT", "/_snapshot/r/"+name, `{"indices":"a","include_global_state":false}`)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var got struct{ Snapshots []struct{ State string } }
		if err := json.Unmarshal(do("GET", "/_snapshot/r/"+name, ""), &got); err != nil {
			t.Fatal(err)
		}
		if got.Snapshots[0].State == "SUCCESS" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("snapshot %s is %s", name, got.Snapshots[0].State)
		}
	}
}

// metadataIdentifiers are those of index a in the two snapshots of the newest root.
func metadataIdentifiers(t *testing.T, folder string) (before, after string) {
	t.Helper()
	roots, err := filepath.Glob(filepath.Join(folder, "index-*"))
	if err != nil || len(roots) == 0 {
		t.Fatalf("no root: %v", err)
	}
	content, err := os.ReadFile(slices.Max(roots)) // of fewer than ten
	if err != nil {
		t.Fatal(err)
	}
	root, err := repository.DecodeRoot(content)
	if err != nil {
		t.Fatal(err)
	}
	of := func(name string) string {
		s, _ := root.Snapshot(name, "")
		for _, x := range root.IndicesOf(s.UUID) {
			if x.Name == "a" {
				return s.IndexMetadata[x.ID]
			}
		}
		return ""
	}
	return of("s1"), of("s2")
}
