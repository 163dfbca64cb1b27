package soak

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"github.com/domainferry/domainferry/internal/journal"
)

// ledger is what clients have been acknowledged.
type ledger struct {
	w *world

	mu       sync.Mutex
	at       Place // where clients write
	indices  map[string]*ledgerIndex
	problems []string
	acked    [2]int // at the source, at the destination
	changed  bool   // indices were made or deleted at the destination
	refused  int
}

type ledgerIndex struct {
	docs map[string]*document
	// unsettled indices were made or deleted while writes were stopped: no block stops that, and what the plan knows came before.
	unsettled bool
	made      Place
}

type document struct {
	there   bool
	version int64 // of one that is there
	source  map[string]any
}

func (l *ledger) problem(format string, args ...any) {
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

func (l *ledger) side() *side {
	if l.at == Destination {
		return l.w.destination
	}
	return l.w.source
}

// item is one result of a _bulk request.
type item struct {
	Status  int    `json:"status"`
	Result  string `json:"result"`
	Version int64  `json:"_version"`
	Error   struct {
		Type   string `json:"type"`
		Reason string `json:"reason"`
	} `json:"error"`
}

func routing(id int) string {
	if id%5 != 0 {
		return ""
	}
	return "r" + strconv.Itoa(id%3)
}

// write makes one write, at the side that the clients were handed over to; when that refuses it, they look whether the other one has
// taken over. The caller holds l.mu.
func (l *ledger) write(index, how string, id, value int) {
	if l.attempt(index, how, id, value) {
		return
	}
	before := l.at
	taker, sure := l.taker()
	if taker == before {
		return
	}
	l.at = taker
	// While it is being handed over only an acknowledged write tells.
	if !l.attempt(index, how, id, value) && !sure {
		l.at = before
	}
}

// taker is the side that takes writes by the journal; it is not sure while they are being handed over to it.
func (l *ledger) taker() (at Place, sure bool) {
	forward, _ := l.w.freeze(usual)
	back, _ := l.w.freeze(wayBack)
	switch {
	case forward.State == journal.WentBack, back.State == journal.HandedOver:
		return Source, true
	case back.State == journal.HandingOver && l.at == Destination:
		return Source, false
	case forward.State == journal.HandedOver:
		return Destination, true
	case forward.State == journal.HandingOver && l.at == Source:
		return Destination, false
	}
	return l.at, true
}

// attempt reports whether the write was answered by an engine that takes writes.
func (l *ledger) attempt(index, how string, id, value int) bool {
	name := "d" + strconv.Itoa(id)
	action := map[string]any{"_index": index, "_id": name}
	if r := routing(id); r != "" {
		action["routing"] = r
	}
	source := map[string]any{"n": float64(value), "text": "the quick brown fox " + strconv.Itoa(value)}
	var second any = source
	switch how {
	case "update":
		source = map[string]any{"p": float64(value)}
		second = map[string]any{"doc": source}
	case "delete":
		second = nil
	}
	body, _ := json.Marshal(map[string]any{how: action}) // maps of texts always encode
	body = append(body, '\n')
	if second != nil {
		more, _ := json.Marshal(second)
		body = append(append(body, more...), '\n')
	}
	a := l.side().serve(http.MethodPost, "/_bulk", body, http.Header{"Content-Type": {"application/x-ndjson"}})
	var answered struct {
		Items []map[string]item `json:"items"`
	}
	if a.status != http.StatusOK || json.Unmarshal(a.body, &answered) != nil || len(answered.Items) != 1 {
		l.refused++
		return false
	}
	it := answered.Items[0][how]
	x := l.indices[index]
	switch {
	case it.Status == http.StatusNotFound && it.Error.Type == "index_not_found_exception", it.Status == http.StatusForbidden, it.Status == http.StatusTooManyRequests, it.Status >= 500:
		l.refused++
		if it.Error.Type == "index_not_found_exception" && x != nil && !x.unsettled {
			l.problem("a client finds no index %s at the %s, which was acknowledged", index, l.at)
		}
		return it.Error.Type == "index_not_found_exception" && l.at == Destination
	}
	if x == nil { // made by the write itself
		x = l.create(index)
	}
	l.acked[map[Place]int{Source: 0, Destination: 1}[l.at]]++
	l.w.trace("%s %s/%s=%d at %s: %d %s version %d", how, index, name, value, l.at, it.Status, it.Result, it.Version)
	d := x.docs[name]
	if d == nil {
		d = &document{}
		x.docs[name] = d
	}
	before := *d
	switch {
	case it.Status == http.StatusNotFound:
		if d.there && !x.unsettled {
			l.problem("%s of %s/%s at the %s: it is not there, although version %d was acknowledged", how, index, name, l.at, d.version)
		}
		return true
	case it.Status >= 300:
		l.problem("%s of %s/%s at the %s: %d %s: %s", how, index, name, l.at, it.Status, it.Error.Type, it.Error.Reason)
		return true
	case how == "delete":
		d.there = false
	case how == "update":
		merged := map[string]any{}
		for k, v := range d.source {
			merged[k] = v
		}
		merged["p"] = source["p"]
		if !d.there && !x.unsettled {
			l.problem("update of %s/%s at the %s: it is there, although its deletion was acknowledged", index, name, l.at)
		}
		d.source = merged
	default:
		d.there, d.source = true, source
	}
	d.version = it.Version
	want := before.version + 1
	if it.Result == "noop" {
		want--
	}
	if before.there && it.Version != want && !x.unsettled {
		l.problem("%s of %s/%s at the %s has version %d, after version %d", how, index, name, l.at, it.Version, before.version)
	}
	return true
}

func (l *ledger) create(name string) *ledgerIndex {
	x := &ledgerIndex{docs: map[string]*document{}, unsettled: l.frozen(), made: l.at}
	if before := l.indices[name]; before != nil && before.unsettled {
		x.unsettled = true
	}
	l.indices[name] = x
	l.changed = l.changed || l.at == Destination
	return x
}

// frozen says whether writes are stopped, or are being handed over.
func (l *ledger) frozen() bool {
	for _, name := range []string{usual, wayBack} {
		if f, _ := l.w.freeze(name); f.State == journal.Frozen || f.State == journal.HandingOver {
			return true
		}
	}
	taker, _ := l.taker()
	return taker != l.at
}

func definition(shards int, alias string) []byte {
	body, _ := json.Marshal(map[string]any{
		"settings": map[string]any{"number_of_shards": shards, "number_of_replicas": 1, "refresh_interval": "5s"},
		"mappings": map[string]any{"properties": map[string]any{"n": map[string]any{"type": "long"}, "p": map[string]any{"type": "long"}, "text": map[string]any{"type": "text"}}},
		"aliases":  map[string]any{alias: map[string]any{}},
	})
	return body
}

// createIndex makes an index where it is not there.
func (l *ledger) createIndex(name string, shards int) {
	if l.indices[name] != nil {
		return
	}
	if a := l.side().serve(http.MethodPut, "/"+name, definition(shards, name+"-all"), nil); a.status == http.StatusOK {
		l.create(name)
	} else {
		l.refused++
	}
}

func (l *ledger) deleteIndex(name string) {
	x := l.indices[name]
	if x == nil {
		return
	}
	if a := l.side().serve(http.MethodDelete, "/"+name, nil, nil); a.status != http.StatusOK {
		l.refused++
		return
	}
	l.changed = l.changed || l.at == Destination
	if l.frozen() {
		x.unsettled, x.docs = true, map[string]*document{}
		return
	}
	delete(l.indices, name)
}

// compare looks whether a domain holds what was acknowledged, and nothing else.
func (l *ledger) compare(s *side) (problems []string) {
	_ = s.serve(http.MethodPost, "/_refresh", nil, nil)
	names := []string{}
	for name := range l.indices {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		x := l.indices[name]
		if x.unsettled {
			continue
		}
		a := s.serve(http.MethodPost, "/"+name+"/_search", []byte(`{"size":1000,"version":true,"query":{"match_all":{}}}`), nil)
		var found struct {
			Hits struct {
				Hits []struct {
					ID      string         `json:"_id"`
					Version int64          `json:"_version"`
					Routing string         `json:"_routing"`
					Source  map[string]any `json:"_source"`
				} `json:"hits"`
			} `json:"hits"`
		}
		if a.status != http.StatusOK || json.Unmarshal(a.body, &found) != nil {
			problems = append(problems, fmt.Sprintf("index %s at the %s: %d %.300s", name, s.name, a.status, a.body))
			continue
		}
		seen := map[string]bool{}
		for _, h := range found.Hits.Hits {
			d := x.docs[h.ID]
			id, _ := strconv.Atoi(h.ID[1:])
			switch {
			case seen[h.ID]:
				problems = append(problems, fmt.Sprintf("%s/%s is twice at the %s", name, h.ID, s.name))
			case d == nil || !d.there:
				problems = append(problems, fmt.Sprintf("%s/%s is at the %s, although it was deleted or never acknowledged", name, h.ID, s.name))
			case !reflect.DeepEqual(d.source, h.Source):
				problems = append(problems, fmt.Sprintf("%s/%s at the %s is %v, acknowledged was %v", name, h.ID, s.name, h.Source, d.source))
			case d.version != h.Version:
				problems = append(problems, fmt.Sprintf("%s/%s at the %s has version %d, acknowledged was %d", name, h.ID, s.name, h.Version, d.version))
			case h.Routing != routing(id):
				problems = append(problems, fmt.Sprintf("%s/%s at the %s has routing %q", name, h.ID, s.name, h.Routing))
			}
			seen[h.ID] = true
		}
		for id, d := range x.docs {
			if d.there && !seen[id] {
				problems = append(problems, fmt.Sprintf("%s/%s, version %d, is not at the %s", name, id, d.version, s.name))
			}
		}
	}
	slices.Sort(problems)
	return problems
}
