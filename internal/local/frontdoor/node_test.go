package frontdoor

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/local/node"
)

// openTempDir is t.TempDir opened to the user that nodes run as.
func openTempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startNode(t *testing.T, name, gatewayRoot string) *node.Node {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a real node")
	}
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
	n, err := node.Start(t.Context(), node.Config{Engine: engine, Dir: filepath.Join(openTempDir(t), "n"), RepositoryRoot: gatewayRoot,
		Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// TestRealNode proves what the fake cluster cannot: that an engine takes the rewritten registration, writes into the bucket's folder,
// gives the carried settings back, and can be seen at work on an automated snapshot.
func TestRealNode(t *testing.T) {
	names := []string{"opensearch-2.19.0"}
	if more := os.Getenv("DOMAIN_FERRY_TEST_ENGINES"); more != "" {
		names = strings.Split(more, ",")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			root := openTempDir(t)
			n := startNode(t, name, root)
			d := open(t, n.URL, func(cfg *Config) {
				for _, bucket := range []string{"near", "far"} {
					if err := os.Mkdir(filepath.Join(root, bucket), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				cfg.Engine, cfg.GatewayRoot, cfg.AutomatedRoot = name, root, n.PrivateRepositories
			})
			must := func(method, path, body string) map[string]any {
				t.Helper()
				r := send(t, d, method, path, body)
				var out map[string]any
				if err := json.Unmarshal([]byte(r.body), &out); err != nil || r.status/100 != 2 {
					t.Fatalf("%s %s: %d %s (%v)", method, path, r.status, r.body, err)
				}
				return out
			}

			must("PUT", "/a", `{"settings":{"number_of_replicas":0,"number_of_shards":1}}`)
			var bulk strings.Builder
			for i := range 3000 {
				fmt.Fprintf(&bulk, "{\"index\":{\"_type\":\"_doc\"}}\n{\"n\":%d,\"text\":\"%x %x\"}\n", i, i*7919, i*104729)
			}
			body := bulk.String()
			if strings.HasPrefix(name, "opensearch-2") || strings.HasPrefix(name, "opensearch-3") {
				body = strings.ReplaceAll(body, `"_type":"_doc"`, "")
			}
			if out := must("POST", "/a/_bulk?refresh=true", body); out["errors"] != false {
				t.Fatalf("%.300v", out)
			}

			asked := map[string]any{"bucket": "near", "base_path": "moves/m1", "region": "eu-central-1", "role_arn": role,
				"max_snapshot_bytes_per_sec": "1gb"}
			registration, err := json.Marshal(repository{"s3", asked})
			if err != nil {
				t.Fatal(err)
			}
			must("PUT", "/_snapshot/r", string(registration))
			list := must("GET", "/_snapshot", "")
			shown, ok := list["r"].(map[string]any)
			if !ok || shown["type"] != "s3" {
				t.Fatalf("shown: %v", list)
			}
			settings, _ := shown["settings"].(map[string]any)
			if len(settings) != len(asked) {
				t.Errorf("settings shown: %v", settings)
			}
			for k, v := range asked {
				if settings[k] != v {
					t.Errorf("settings shown: %s = %v, want %v", k, settings[k], v)
				}
			}
			if list["cs-automated"] == nil || strings.Contains(fmt.Sprint(list), n.PrivateRepositories) {
				t.Errorf("cs-automated: %v", list)
			}

			out := must("PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"a","include_global_state":false}`)
			if s, _ := out["snapshot"].(map[string]any); s["state"] != "SUCCESS" {
				t.Fatalf("%v", out)
			}
			files := 0
			err = filepath.WalkDir(filepath.Join(root, "near", "moves", "m1"), func(p string, e fs.DirEntry, err error) error {
				if err == nil && e.Type().IsRegular() {
					files++
					var f *os.File
					if f, err = os.Open(p); err == nil { // the gateway must be able to read what the node wrote
						err = f.Close()
					}
				}
				return err
			})
			if err != nil || files < 6 {
				t.Errorf("%d files in the bucket's folder, %v", files, err)
			}

			// An automated snapshot, slowed down, is seen in progress among all.
			s, err := d.StartAutomatedSnapshot(t.Context(), "60kb")
			if err != nil {
				t.Fatal(err)
			}
			running, _ := must("GET", "/_snapshot/_status", "")["snapshots"].([]any)
			if len(running) != 1 {
				t.Fatalf("in progress: %v", running)
			}
			if one, _ := running[0].(map[string]any); one["repository"] != "cs-automated" || one["snapshot"] != s.Name {
				t.Errorf("in progress: %v", one)
			}
			if r := send(t, d, "PUT", "/_snapshot/r/s2", `{"indices":"a"}`); r.status != 503 {
				t.Errorf("a snapshot meanwhile: %+v", r)
			}
			closable := name != "elasticsearch-6.8.0" && name != "elasticsearch-7.1.1"
			if r := send(t, d, "POST", "/a/_close", ""); closable && r.status != 400 || !closable && r.status != 401 {
				t.Errorf("closing an index that is being snapshotted: %+v", r)
			}
			if err := s.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if name, err := d.TakeAutomatedSnapshot(t.Context()); err != nil || name <= s.Name {
				t.Errorf("the next one, at full pace: %s, %v", name, err)
			}
			if out := must("GET", "/_snapshot/cs-automated/_all", ""); len(out["snapshots"].([]any)) != 2 {
				t.Errorf("%v", out)
			}
			if closable {
				must("POST", "/a/_close", "")
			}
		})
	}
}
