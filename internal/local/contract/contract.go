// Package contract holds the built-in domain model and real nodes to the same facts: what snapshots and restores move, what travels with
// them, and how calls are refused. Where the two differ, the model is wrong.
package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Target is one cluster to be judged.
type Target struct {
	// Name labels the subtests.
	Name string
	// Engine is the name and version, as "elasticsearch-7.10.2".
	Engine string
	// Start brings up an empty cluster that stops with the test. It returns its URL and a folder that is path.repo, readable by the test.
	Start func(t *testing.T) (url, repositoryRoot string)
}

// Run checks every fact on one target. All facts share one cluster; each uses indices and repositories of its own.
func Run(t *testing.T, target Target) {
	t.Run(target.Name, func(t *testing.T) {
		url, root := target.Start(t)
		for _, f := range slices.Concat(facts, replayFacts, streamFacts) {
			t.Run(f.name, func(t *testing.T) {
				name := strings.ReplaceAll(f.name, " ", "-")
				c := &cluster{T: t, url: url, root: root, engine: target.Engine, index: "c-" + name, repo: name}
				t.Cleanup(func() { c.try("DELETE", "/c-"+name+"*", nil) })
				f.check(c)
			})
		}
	})
}

// cluster is a client for one fact: index and repo are names that no other fact uses.
type cluster struct {
	*testing.T
	url, root, engine, index, repo string
}

// answer is a response body with paths into it.
type answer struct {
	t      *testing.T
	call   string
	status int
	body   any
	text   string
}

// try makes a call and does not judge its status. A string body is sent as it stands, anything else as JSON.
func (c *cluster) try(method, path string, body any) answer {
	c.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			c.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	// The context of a finished test is cancelled, and clean-ups call too: so none is attached.
	req, err := http.NewRequest(method, c.url+path, reader)
	if err != nil {
		c.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Fatalf("%s %s: %v", method, path, err)
	}
	a := answer{t: c.T, call: method + " " + path, status: resp.StatusCode, text: string(data)}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	_ = dec.Decode(&a.body)
	return a
}

// do makes a call that must succeed.
func (c *cluster) do(method, path string, body any) answer {
	c.Helper()
	a := c.try(method, path, body)
	if a.status >= 300 {
		c.Fatalf("%s: %d %s", a.call, a.status, a.text)
	}
	return a
}

// refused makes a call that must fail with that status and error type; reason is a part of the reason.
func (c *cluster) refused(status int, kind, reason, method, path string, body any) {
	c.Helper()
	a := c.try(method, path, body)
	if a.status != status || a.string("error", "type") != kind || !strings.Contains(a.string("error", "reason"), reason) {
		c.Errorf("%s: got %d %s\nwant %d %s with %q", a.call, a.status, a.text, status, kind, reason)
	}
}

// get follows keys through objects; nil when there is nothing.
func (a answer) get(path ...any) any {
	v := a.body
	for _, p := range path {
		switch key := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[key]
		case int:
			l, _ := v.([]any)
			if key >= len(l) {
				return nil
			}
			v = l[key]
		}
	}
	return v
}

func (a answer) string(path ...any) string {
	s, _ := a.get(path...).(string)
	return s
}

func (a answer) number(path ...any) int64 {
	a.t.Helper()
	n, ok := a.get(path...).(json.Number)
	if !ok {
		a.t.Fatalf("%s: no number at %v in %.600s", a.call, path, a.text)
	}
	i, err := n.Int64()
	if err != nil {
		f, err := n.Float64()
		if err != nil {
			a.t.Fatalf("%s: %v at %v", a.call, n, path)
		}
		return int64(f)
	}
	return i
}

// create makes the fact's index: 2 shards, no replicas, no refresh but on demand.
func (c *cluster) create(index string, shards int) {
	c.Helper()
	c.do("PUT", "/"+index, map[string]any{
		"settings": map[string]any{"number_of_shards": shards, "number_of_replicas": 0, "refresh_interval": "-1"},
		"mappings": map[string]any{"properties": map[string]any{"group": map[string]any{"type": "keyword"}, "n": map[string]any{"type": "long"}}},
	})
}

// write indexes documents from..to-1 of about 300 bytes each, refreshed.
func (c *cluster) write(index string, from, to int) {
	c.Helper()
	var b strings.Builder
	for i := from; i < to; i++ {
		// Text that compresses badly, so that sizes follow the number of documents.
		noise := ""
		for j := range 12 {
			noise += fmt.Sprintf("%016x ", uint64(i*13+j)*0x9e3779b97f4a7c15)
		}
		fmt.Fprintf(&b, "{\"index\":{\"_index\":%q,\"_id\":\"%d\"}}\n{\"n\":%d,\"group\":\"g%d\",\"text\":%q}\n", index, i, i, i%7, noise)
	}
	if a := c.do("POST", "/_bulk?refresh=true", b.String()); a.get("errors") != false {
		c.Fatalf("bulk: %.800s", a.text)
	}
}

func (c *cluster) register(name string, readonly bool) {
	c.Helper()
	settings := map[string]any{"location": filepath.Join(c.root, c.repo)}
	if readonly {
		settings["readonly"] = true
	}
	c.do("PUT", "/_snapshot/"+name, map[string]any{"type": "fs", "settings": settings})
	c.Cleanup(func() { c.try("DELETE", "/_snapshot/"+name, nil) })
}

// snapshot takes one and waits for it; the answer is the finished _status.
func (c *cluster) snapshot(name, index string) answer {
	c.Helper()
	c.do("PUT", "/_snapshot/"+c.repo+"/"+name, map[string]any{"indices": index, "include_global_state": false})
	c.eventually("snapshot "+name, func() bool {
		return c.do("GET", "/_snapshot/"+c.repo+"/"+name, nil).string("snapshots", 0, "state") == "SUCCESS"
	})
	return c.do("GET", "/_snapshot/"+c.repo+"/"+name+"/_status", nil)
}

func (c *cluster) eventually(what string, done func() bool) {
	c.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			c.Fatalf("%s: not within 60 s", what)
		}
		time.Sleep(20 * time.Millisecond) // a poll of a real process, bounded by the deadline
	}
}

// restore puts the snapshot's index into another name, closed before when it exists, and waits until all primaries are started.
func (c *cluster) restore(repo, snapshot, index, target string, more map[string]any) {
	c.Helper()
	body := map[string]any{"indices": index, "include_global_state": false}
	if target != index {
		body["rename_pattern"], body["rename_replacement"] = "^"+index+"$", target
	}
	for k, v := range more {
		body[k] = v
	}
	c.do("POST", "/_snapshot/"+repo+"/"+snapshot+"/_restore", body)
	c.started(target)
}

func (c *cluster) started(index string) {
	c.Helper()
	c.eventually("restore of "+index, func() bool {
		a := c.try("GET", "/_cluster/health/"+index+"?level=shards&timeout=1s", nil)
		return a.get("indices", index, "number_of_shards") != nil && a.number("indices", index, "active_primary_shards") == a.number("indices",
			index, "number_of_shards")
	})
}

func (c *cluster) close(index string) {
	c.Helper()
	// On a real node the end of a restore reaches the cluster state a moment after its last shard.
	c.eventually("close of "+index, func() bool { return c.try("POST", "/"+index+"/_close", nil).status == 200 })
}

// moved sums what the last recovery of an index fetched and reused.
func (c *cluster) moved(index string) (recovered, reused int64) {
	c.Helper()
	a := c.do("GET", "/"+index+"/_recovery", nil)
	shards, _ := a.get(index, "shards").([]any)
	if len(shards) == 0 {
		c.Fatalf("%s: no shards in %s", a.call, a.text)
	}
	for i := range shards {
		if kind, stage := a.string(index, "shards", i, "type"), a.string(index, "shards", i, "stage"); kind != "SNAPSHOT" || stage != "DONE" {
			c.Fatalf("recovery of %s[%d] is %s %s", index, i, kind, stage)
		}
		recovered += a.number(index, "shards", i, "index", "size", "recovered_in_bytes")
		reused += a.number(index, "shards", i, "index", "size", "reused_in_bytes")
	}
	return recovered, reused
}

func (c *cluster) count(index string) int64 {
	c.Helper()
	c.do("POST", "/"+index+"/_refresh", nil)
	return c.do("GET", "/"+index+"/_count", nil).number("count")
}

// seqNo reads max_seq_no, local and global checkpoint of every shard.
func (c *cluster) seqNo(index string, shards int) [][3]int64 {
	c.Helper()
	a := c.do("GET", "/"+index+"/_stats?level=shards", nil)
	var out [][3]int64
	for i := range shards {
		at := []any{"indices", index, "shards", fmt.Sprint(i), 0, "seq_no"}
		out = append(out, [3]int64{a.number(append(at, "max_seq_no")...), a.number(append(at, "local_checkpoint")...),
			a.number(append(at, "global_checkpoint")...)})
	}
	return out
}

// files lists the repository as a copy would see it.
func (c *cluster) files() []string {
	c.Helper()
	var names []string
	dir := filepath.Join(c.root, c.repo)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // deleted while listing: superseded index blobs are
		}
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		c.Fatal(err)
	}
	slices.Sort(names)
	return names
}
