package workload

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fault is what the fake does to one _bulk request.
type fault int

const (
	none            fault = iota
	timeoutNoEffect       // 504, nothing done
	timeoutEffect         // 504, done
	timeoutLate           // 504, done a little later, as Amazon's front door lets slow calls go on
	cutBefore             // connection cut, nothing done
	cutAfter              // connection cut, done
	busy                  // 429
	rejectOne             // the first item is refused with 400
)

// key is a document's place. The routing is part of it: an engine looks for a document with another routing in another shard.
type key struct{ index, id, routing string }

// fake is a domain in memory.
type fake struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	created map[string]json.RawMessage
	docs    map[key]map[string]any
	raw     map[key]json.RawMessage
	blocked map[string]bool
	fault   func(request int) fault
	drop    func(action string, k key) bool // acknowledged and not carried out
	bulks   int
	firstNo time.Time       // first refusal by the block
	firstOK time.Time       // first carried-out write of the latest unblocked time
	order   map[key][]int64 // numbers of the tokens in the order of arrival, repetitions left out
	late    sync.WaitGroup
	flying  map[key]int // documents with a request under way
	clash   string      // a document that had two requests under way
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, created: map[string]json.RawMessage{}, docs: map[key]map[string]any{}, raw: map[key]json.RawMessage{}, blocked: map[string]bool{},
		order: map[key][]int64{}, flying: map[key]int{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(func() {
		f.late.Wait()
		f.Close()
	})
	return f
}

func (f *fake) client() Client { return Client{URL: f.URL, Transport: f.Server.Client().Transport} }

func (f *fake) block(on bool, indices ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, index := range indices {
		f.blocked[index] = on
	}
	if !on {
		f.firstOK = time.Time{}
	}
}

// restoreFrom makes the fake's content that of another, as a final round does.
func (f *fake) restoreFrom(other *fake) {
	other.mu.Lock()
	defer other.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created, f.docs, f.raw = maps.Clone(other.created), maps.Clone(other.docs), maps.Clone(other.raw)
}

func (f *fake) fail(w http.ResponseWriter, status int, kind, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"type":%q,"reason":%q},"status":%d}`, kind, reason, status)
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client has gone
	}
	index, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case index == "_bulk":
		f.bulk(w, body)
	case index == "_mget":
		f.mget(w, body)
	case rest == "_refresh":
		fmt.Fprint(w, `{"_shards":{"failed":0}}`)
	case rest == "_count":
		f.mu.Lock()
		defer f.mu.Unlock()
		n := 0
		for k := range f.docs {
			if k.index == index {
				n++
			}
		}
		fmt.Fprintf(w, `{"count":%d,"_shards":{"failed":0}}`, n)
	case r.Method == http.MethodPut && rest == "":
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.created[index] != nil {
			f.fail(w, 400, "resource_already_exists_exception", "index exists")
			return
		}
		f.created[index] = body
		fmt.Fprint(w, `{"acknowledged":true}`)
	default:
		f.fail(w, 400, "illegal_argument_exception", "the fake knows no "+r.Method+" "+r.URL.Path)
	}
}

type action struct {
	name   string
	key    key
	source json.RawMessage
}

func (f *fake) parse(body []byte) []action {
	var actions []action
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var head map[string]struct {
			Index   string `json:"_index"`
			ID      string `json:"_id"`
			Routing string `json:"routing"`
		}
		if err := json.Unmarshal(lines.Bytes(), &head); err != nil {
			f.t.Errorf("action line %q: %v", lines.Bytes(), err)
			return nil
		}
		for name, at := range head {
			a := action{name: name, key: key{at.Index, at.ID, at.Routing}}
			if name != "delete" {
				if !lines.Scan() {
					f.t.Error("a source line is missing")
				}
				a.source = bytes.Clone(lines.Bytes())
			}
			actions = append(actions, a)
		}
	}
	return actions
}

func (f *fake) bulk(w http.ResponseWriter, body []byte) {
	actions := f.parse(body)
	f.mu.Lock()
	f.bulks++
	what := none
	if f.fault != nil {
		what = f.fault(f.bulks)
	}
	for _, a := range actions {
		if f.flying[a.key]++; f.flying[a.key] > 1 {
			f.clash = fmt.Sprint(a.key)
		}
	}
	f.mu.Unlock()
	land := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, a := range actions {
			f.flying[a.key]--
		}
	}
	switch what {
	case timeoutNoEffect, timeoutEffect, timeoutLate:
		if what == timeoutEffect {
			f.apply(actions, false)
		}
		if what == timeoutLate {
			f.late.Go(func() {
				// Longer than the client's pauses: the repetition is answered first, and would be followed by other writes.
				time.Sleep(600 * time.Millisecond)
				f.apply(actions, false)
			})
		}
		land()
		f.fail(w, 504, "", "")
		return
	case cutBefore, cutAfter:
		if what == cutAfter {
			f.apply(actions, false)
		}
		land()
		panic(http.ErrAbortHandler)
	case busy:
		land()
		f.fail(w, 429, "circuit_breaking_exception", "too much")
		return
	}
	items := f.apply(actions, what == rejectOne)
	land()
	if err := json.NewEncoder(w).Encode(map[string]any{"errors": true, "items": items}); err != nil {
		f.t.Log(err)
	}
}

func refusal(status int, kind string) map[string]any {
	return map[string]any{"status": status, "error": map[string]any{"type": kind, "reason": "refused by the fake"}}
}

func (f *fake) apply(actions []action, rejectFirst bool) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	var items []any
	for i, a := range actions {
		var answer map[string]any
		_, exists := f.docs[a.key]
		switch {
		case rejectFirst && i == 0:
			answer = refusal(400, "mapper_parsing_exception")
		case f.blocked[a.key.index]:
			if f.firstNo.IsZero() {
				f.firstNo = time.Now()
			}
			answer = refusal(403, "cluster_block_exception")
		case a.name == "update" && !exists:
			answer = refusal(404, "document_missing_exception")
		case a.name == "delete" && !exists:
			answer = map[string]any{"status": 404, "result": "not_found"}
		case f.drop != nil && f.drop(a.name, a.key):
			answer = map[string]any{"status": 200, "result": "updated"}
		default:
			if f.firstOK.IsZero() {
				f.firstOK = time.Now()
			}
			f.store(a)
			answer = map[string]any{"status": 200, "result": "ok"}
		}
		items = append(items, map[string]any{a.name: answer})
	}
	return items
}

func (f *fake) store(a action) {
	if a.name == "delete" {
		delete(f.docs, a.key)
		delete(f.raw, a.key)
		return
	}
	var source map[string]any
	if err := json.Unmarshal(a.source, &source); err != nil {
		f.t.Errorf("source %q: %v", a.source, err)
	}
	if a.name == "update" {
		merged := maps.Clone(f.docs[a.key])
		maps.Copy(merged, source["doc"].(map[string]any))
		f.docs[a.key] = merged
		delete(f.raw, a.key)
	} else {
		f.docs[a.key], f.raw[a.key] = source, a.source
	}
	if token, ok := f.docs[a.key][TokenField].(string); ok {
		_, digits, _ := strings.Cut(token, "-")
		var n int64
		for _, r := range digits {
			n = n*36 + int64(strings.IndexRune("0123456789abcdefghijklmnopqrstuvwxyz", r))
		}
		if seen := f.order[a.key]; len(seen) == 0 || seen[len(seen)-1] != n {
			f.order[a.key] = append(seen, n)
		}
	}
}

func (f *fake) mget(w http.ResponseWriter, body []byte) {
	var asked struct {
		Docs []wanted `json:"docs"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		f.t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	docs := []map[string]any{}
	for _, d := range asked.Docs {
		k := key{d.Index, d.ID, d.Routing}
		answer := map[string]any{"_index": d.Index, "_id": d.ID, "found": false}
		if source, ok := f.docs[k]; ok {
			answer["found"], answer["_source"] = true, source
			if f.raw[k] != nil {
				answer["_source"] = f.raw[k]
			}
		}
		docs = append(docs, answer)
	}
	if err := json.NewEncoder(w).Encode(map[string]any{"docs": docs}); err != nil {
		f.t.Log(err)
	}
}
