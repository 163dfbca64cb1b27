package workload

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/local/node"
)

// On a real engine: the index definitions are accepted, a real write block is recognised, and the check reads real answers.
func TestOnRealNodes(t *testing.T) {
	for _, name := range []string{"elasticsearch-7.10.2"} {
		t.Run(name, func(t *testing.T) { onRealNode(t, name) })
	}
}

func onRealNode(t *testing.T, name string) {
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
	if testing.Short() {
		t.Skip("starts a real node")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // the node runs as another user when the test runs as root
		t.Fatal(err)
	}
	started, err := node.Start(t.Context(), node.Config{Engine: engine, Dir: filepath.Join(dir, "node")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := started.Stop(); err != nil {
			t.Error(err)
		}
	})
	client := Client{URL: started.URL}
	dataset, err := Fill(t.Context(), client, Options{Seed: 5, TotalBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mine.ndjson")
	if err := os.WriteFile(file, []byte(strings.Repeat("{\"name\":\"a\",\"deep\":{\"x\":[1.5,2.50]}}\n", 300)), 0o600); err != nil {
		t.Fatal(err)
	}
	mine, err := FillFile(t.Context(), client, file, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := StartWriter(t.Context(), client, dataset, WriterOptions{Rate: 500})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stopWithin(t, w, time.Millisecond) })
	userWriter, err := StartWriter(t.Context(), client, mine, WriterOptions{Rate: 300, Parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stopWithin(t, userWriter, time.Millisecond) })
	until(t, "writes", w, func(s Stats) bool { return s.Acknowledged > 500 })
	for _, index := range []string{"logs", "catalogue"} {
		if err := client.do(t.Context(), http.MethodPut, "/"+index+"/_settings", map[string]any{"index.blocks.write": true}, nil); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "every worker refused", w, func(s Stats) bool { return s.Refused > 0 && s.Pending == s.Refused })
	for _, index := range []string{"logs", "catalogue"} {
		if err := client.do(t.Context(), http.MethodPut, "/"+index+"/_settings", map[string]any{"index.blocks.write": nil}, nil); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "writes after the thaw", w, func(s Stats) bool { return s.Acknowledged > 1500 })
	until(t, "writes to the user's index", userWriter, func(s Stats) bool { return s.Acknowledged > 300 })
	mustStop(t, w)
	mustStop(t, userWriter)
	stats := w.Stats()
	if stats.Rejected != 0 || stats.UnknownRetried != 0 || stats.AcceptedBy != Source || stats.DowntimeSeconds <= 0 || len(stats.Interruptions) != 1 {
		t.Errorf("stats %+v", stats)
	}
	for _, one := range []struct {
		w       *Writer
		dataset *Dataset
	}{{w, dataset}, {userWriter, mine}} {
		result, err := Check(t.Context(), client, one.w, one.dataset)
		if err != nil {
			t.Fatal(err)
		}
		mustBeWhole(t, result, one.w)
		if one.w.Stats().Rejected != 0 {
			t.Errorf("rejected: %+v", one.w.Stats())
		}
	}
	// A real engine must be caught too when it lacks one document.
	d := w.ledger.docs[w.ledger.entries[0].doc]
	x := dataset.Indices[d.index]
	path := "/" + x.Name + "/_doc/" + w.ledger.id(&d)
	if routing := x.routing(d.n); routing != "" {
		path += "?routing=" + routing
	}
	method, body := http.MethodDelete, any(nil)
	if !d.alive() {
		method, body = http.MethodPut, map[string]any{"sku": "back"}
	}
	if err := client.do(t.Context(), method, path, body, nil); err != nil {
		t.Fatal(err)
	}
	result, err := Check(t.Context(), client, w, dataset)
	if err != nil {
		t.Fatal(err)
	}
	if result.Problem() == nil || result.WritesFoundAtDestination == result.AcknowledgedWrites {
		t.Errorf("one document spoilt, result %+v", result)
	}
}
