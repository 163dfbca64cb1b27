package workload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
)

// Difference is one document that is not what it must be.
type Difference struct {
	Index       string   `json:"index"`
	ID          string   `json:"id"`
	Routing     string   `json:"routing,omitempty"`
	What        string   `json:"what"`
	Expected    string   `json:"expected"` // by the ledger
	Source      string   `json:"source"`
	Destination string   `json:"destination"`
	History     []string `json:"history,omitempty"` // the document's last operations
}

// MixedIndexResult is what CompareMixed found in one index.
type MixedIndexResult struct {
	Name        string `json:"name"`
	Source      int64  `json:"source"` // documents
	Destination int64  `json:"destination"`
	Differences int64  `json:"differences"`
}

// MixedResult is what CompareMixed found.
type MixedResult struct {
	Compared int64 `json:"compared"` // documents of the ledger, deleted ones among them
	Live     int64 `json:"live"`     // of them at the destination
	// Undecided documents had an operation of unknown outcome: either outcome is right, but both sides must show the same.
	Undecided int64 `json:"undecided"`
	// Continued documents were written again at the destination; their source copy is compared with what the source had acknowledged.
	Continued   int64              `json:"continued"`
	Differences int64              `json:"differences"`
	Shown       []Difference       `json:"shown,omitempty"` // the first 50
	Indices     []MixedIndexResult `json:"indices"`
}

// Problem returns nil when every document is as it must be.
func (r MixedResult) Problem() error {
	if r.Differences == 0 {
		return nil
	}
	d := r.Shown[0]
	return fmt.Errorf("%d of %d documents differ, the first is %s/%q: %s; expected %s, source %s, destination %s",
		r.Differences, r.Compared, d.Index, d.ID, d.What, d.Expected, d.Source, d.Destination)
}

// sighting is a document as one side has it.
type sighting struct {
	routing string
	version int64
	shard   int
	seqNo   int64
	source  []byte
	twice   bool // the id was met more than once
}

func (s *sighting) String() string {
	if s == nil {
		return "absent"
	}
	return fmt.Sprintf("version %d, routing %q, source %s, shard %d, seq_no %d", s.version, s.routing, digest(s.source), s.shard, s.seqNo)
}

// digest is for people: the first half of the hash of a source in canonical form.
func digest(source []byte) string {
	form, err := canonical(source)
	if err != nil {
		return err.Error()
	}
	hash := sha256.Sum256(form)
	return hex.EncodeToString(hash[:sha256.Size/2])
}

// equal compares two sources. Most were never rewritten by the engine, so that their bytes are the same.
func equal(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, err := canonical(a)
	if err != nil {
		return false
	}
	y, err := canonical(b)
	return err == nil && bytes.Equal(x, y)
}

// CompareMixed reads every document of both sides, shard by shard, and compares: each with what the writer knows was acknowledged, and
// both sides with each other, by id, routing, version, source and shard. The writer must be stopped. It shares no code
// with the product's own verification.
func CompareMixed(ctx context.Context, source, destination Client, m *Mixed) (MixedResult, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var r MixedResult
	for i := range m.Indices {
		x := &m.Indices[i]
		sides := make([]map[string]*sighting, 2)
		failures := make(chan error, 2)
		for k, client := range []Client{source, destination} {
			go func() {
				var err error
				sides[k], err = m.sight(ctx, client, i)
				failures <- err
			}()
		}
		for range sides {
			if err := <-failures; err != nil {
				return r, fmt.Errorf("compare index %s: %w", x.Name, err)
			}
		}
		c := mixedComparer{mixed: m, index: i, source: sides[0], destination: sides[1], result: &r}
		r.Indices = append(r.Indices, MixedIndexResult{Name: x.Name, Source: int64(len(sides[0])), Destination: int64(len(sides[1]))})
		r.Live += int64(len(sides[1]))
		if err := c.compare(); err != nil {
			return r, fmt.Errorf("compare index %s: %w", x.Name, err)
		}
	}
	return r, nil
}

// sight reads all live documents of an index.
func (m *Mixed) sight(ctx context.Context, client Client, index int) (map[string]*sighting, error) {
	x := &m.Indices[index]
	if err := refresh(ctx, client, x.Name); err != nil {
		return nil, err
	}
	all := make(map[string]*sighting, len(m.subjects[index]))
	for shard := range x.Shards {
		after := []int64(nil)
		for {
			var page struct {
				Shards struct {
					Failed int `json:"failed"`
				} `json:"_shards"`
				Hits struct {
					Hits []struct {
						ID      string          `json:"_id"`
						Routing string          `json:"_routing"`
						Version int64           `json:"_version"`
						SeqNo   int64           `json:"_seq_no"`
						Source  json.RawMessage `json:"_source"`
					} `json:"hits"`
				} `json:"hits"`
			}
			body := map[string]any{"size": 2000, "version": true, "seq_no_primary_term": true, "track_total_hits": false,
				"sort": []any{map[string]any{"_seq_no": "asc"}}, "query": map[string]any{"match_all": map[string]any{}}}
			if after != nil {
				body["search_after"] = after
			}
			err := persistently(ctx, "read the documents", func(int) error {
				page.Hits.Hits = nil
				return client.do(ctx, http.MethodPost, fmt.Sprintf("/%s/_search?preference=_shards:%d", x.Name, shard), body, &page)
			})
			if err != nil {
				return nil, err
			}
			if page.Shards.Failed > 0 {
				return nil, fmt.Errorf("%s: %d shards failed", client.URL, page.Shards.Failed)
			}
			if len(page.Hits.Hits) == 0 {
				break
			}
			for _, h := range page.Hits.Hits {
				s := &sighting{routing: h.Routing, version: h.Version, shard: shard, seqNo: h.SeqNo, source: h.Source, twice: all[h.ID] != nil}
				all[h.ID] = s
				after = []int64{h.SeqNo}
			}
		}
	}
	return all, nil
}

type mixedComparer struct {
	mixed               *Mixed
	index               int
	source, destination map[string]*sighting
	result              *MixedResult
}

func (c *mixedComparer) compare() error {
	x := &c.mixed.Indices[c.index]
	for _, s := range c.mixed.subjects[c.index] {
		c.result.Compared++
		id := x.id(s.n)
		left, right := c.source[id], c.destination[id]
		delete(c.source, id)
		delete(c.destination, id)
		at := s.now
		maybeAtSource := s.maybe
		if s.source != nil {
			c.result.Continued++
			at, maybeAtSource = *s.source, nil
		}
		if s.maybe != nil {
			c.result.Undecided++
		}
		var problems []string
		for _, check := range []struct {
			side  Side
			found *sighting
			may   []state
		}{{Source, left, states(at, maybeAtSource)}, {Destination, right, states(s.now, s.maybe)}} {
			what, err := c.judge(s, check.found, check.may)
			if err != nil {
				return err
			}
			if what != "" {
				problems = append(problems, fmt.Sprintf("the %s %s", check.side, what))
			}
		}
		if s.source == nil && !same(left, right) {
			problems = append(problems, "source and destination differ")
		}
		if len(problems) > 0 {
			c.differ(s, id, strings.Join(problems, "; "), left, right)
		}
	}
	strangers := maps.Clone(c.source)
	maps.Copy(strangers, c.destination)
	for id, found := range strangers {
		c.add(Difference{Index: x.Name, ID: id, Routing: found.routing, What: "an id that no client ever wrote", Expected: "absent",
			Source: c.source[id].String(), Destination: c.destination[id].String()})
	}
	return nil
}

func states(now state, maybe *state) []state {
	if maybe == nil {
		return []state{now}
	}
	return []state{now, *maybe}
}

func same(a, b *sighting) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.version == b.version && a.routing == b.routing && a.shard == b.shard && equal(a.source, b.source)
}

// judge returns what is wrong with a document, "" for nothing.
func (c *mixedComparer) judge(s *subject, found *sighting, may []state) (string, error) {
	if found != nil && found.twice {
		return "has it more than once", nil
	}
	routing := c.mixed.Indices[c.index].routing(s.n)
	for _, one := range may {
		if !one.there || found == nil {
			if !one.there && found == nil {
				return "", nil
			}
			continue
		}
		source, err := c.mixed.expected(c.index, s.n, one)
		if err != nil {
			return "", err
		}
		// An operation of unknown outcome on a deleted document may have taken any version.
		if (one.version == 0 || one.version == found.version) && found.routing == routing && equal(found.source, source) {
			return "", nil
		}
	}
	if found == nil {
		return "lacks it", nil
	}
	if !may[0].there {
		return "still has it", nil
	}
	source, err := c.mixed.expected(c.index, s.n, may[0])
	if err != nil {
		return "", err
	}
	if !equal(found.source, source) {
		return "has another content", nil
	}
	return "has another version or routing", nil
}

func (c *mixedComparer) differ(s *subject, id, what string, left, right *sighting) {
	x := &c.mixed.Indices[c.index]
	d := Difference{Index: x.Name, ID: id, Routing: x.routing(s.n), What: what, Source: left.String(), Destination: right.String()}
	for _, one := range states(s.now, s.maybe) {
		if d.Expected != "" {
			d.Expected += ", or "
		}
		if !one.there {
			d.Expected += "absent"
			continue
		}
		source, err := c.mixed.expected(c.index, s.n, one)
		if err != nil {
			d.Expected += err.Error()
			continue
		}
		d.Expected += fmt.Sprintf("version %d, source %s", one.version, digest(source))
	}
	const enough = 8
	for _, e := range s.events[max(0, len(s.events)-enough):] {
		d.History = append(d.History, e.String())
	}
	c.add(d)
}

func (c *mixedComparer) add(d Difference) {
	c.result.Differences++
	c.result.Indices[c.index].Differences++
	const shown = 50
	if len(c.result.Shown) < shown {
		c.result.Shown = append(c.result.Shown, d)
	}
}
