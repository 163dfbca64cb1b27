package contract

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/domainferry/domainferry/internal/local/domain"
	"github.com/domainferry/domainferry/internal/local/node"
)

func TestModel(t *testing.T) {
	for _, engine := range []string{"elasticsearch-7.10.2", "opensearch-1.3.20", "opensearch-2.19.0", "opensearch-3.7.0"} {
		Run(t, Target{Name: engine, Engine: engine, Start: func(t *testing.T) (string, string) {
			root := t.TempDir()
			d, err := domain.New(domain.Config{Engine: engine, RepositoryRoot: root, Seed: 1})
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(d)
			t.Cleanup(server.Close)
			return server.URL, root
		}})
	}
}

// TestNodes asks the same of the engines themselves. One node takes half a minute on a busy machine; DOMAINFERRY_CONTRACT_ENGINES names
// others than the two that a rehearsal uses by default.
func TestNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("real nodes are not for -short")
	}
	engines := []string{"elasticsearch-7.10.2", "opensearch-2.19.0"}
	if os.Getenv("DOMAINFERRY_CONTRACT_ENGINES") == "all" {
		engines = append(engines, "opensearch-1.3.20", "opensearch-3.7.0")
	}
	for _, name := range engines {
		engine, err := node.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Available(engine); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Logf("skipped: %v", err)
			t.Run(name, func(t *testing.T) { t.Skip(err) })
			continue
		}
		Run(t, Target{Name: name, Engine: name, Start: func(t *testing.T) (string, string) {
			// Not t.TempDir: the node runs as an unprivileged user, whose files only the node's own clean-up leaves behind in order.
			root, err := os.MkdirTemp("", "domainferry-contract-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(root) })
			repositories := filepath.Join(root, "repositories")
			for dir, mode := range map[string]os.FileMode{root: 0o755, repositories: 0o777} {
				if err := os.MkdirAll(dir, mode); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir, mode); err != nil {
					t.Fatal(err)
				}
			}
			n, err := node.Start(t.Context(), node.Config{Engine: engine, Dir: filepath.Join(root, "node"), RepositoryRoot: repositories})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = n.Stop() })
			return n.URL, repositories
		}})
	}
}
