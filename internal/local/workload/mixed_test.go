package workload

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/local/domain"
)

// model serves a built-in domain; refuse, when set, answers instead of it.
func model(t *testing.T, engine string, intercept func(http.ResponseWriter, *http.Request, http.Handler) bool) Client {
	t.Helper()
	d, err := domain.New(domain.Config{Engine: engine, Name: "mixed", RepositoryRoot: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if intercept == nil || !intercept(w, r, d) {
			d.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return Client{URL: server.URL}
}

func fillMixed(t *testing.T, client Client) *Mixed {
	t.Helper()
	m, err := FillMixed(t.Context(), client, MixedOptions{Seed: 3, TotalBytes: 400_000})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// writeMixed writes until so many operations are acknowledged and returns the stopped writer's statistics.
func writeMixed(t *testing.T, w *MixedWriter, condition func(MixedStats) bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !condition(w.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 60 s: %+v", w.Stats())
		}
	}
}

func compareMixed(t *testing.T, source, destination Client, m *Mixed) MixedResult {
	t.Helper()
	r, err := CompareMixed(t.Context(), source, destination, m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestMixedLedgerIsExact writes every kind of operation, some cut in the middle, and finds every document as the ledger has it; then spoils
// single documents in every way that a migration could, and wants each of them named.
func TestMixedLedgerIsExact(t *testing.T) {
	client := model(t, "elasticsearch-7.10.2", nil)
	m := fillMixed(t, client)
	w := StartMixedWriter(t.Context(), client, m, MixedWriterOptions{Rate: 5000, Cuts: 0.02})
	t.Cleanup(w.Stop)
	writeMixed(t, w, func(s MixedStats) bool { return s.Acknowledged > 5000 && s.Unknown > 0 })
	w.Stop()
	stats := w.Stats()
	r := compareMixed(t, client, client, m)
	if err := r.Problem(); err != nil || stats.Surprises != 0 {
		t.Fatalf("%v; surprises %v", err, stats.FirstSurprise)
	}
	kinds := map[mixedKind]int{}
	for _, index := range m.subjects {
		for _, s := range index {
			for _, e := range s.events {
				kinds[e.kind]++
			}
		}
	}
	if len(kinds) != 5 {
		t.Errorf("operations by kind %v: some are missing", kinds)
	}

	const products, mirror, countries = 1, 3, 6
	pickOne := func(index int, there bool) *subject {
		i := slices.IndexFunc(m.subjects[index], func(s *subject) bool { return s.now.there == there && !s.retired })
		if i < 0 {
			t.Fatalf("no document of %s is there: %t", m.Indices[index].Name, there)
		}
		s := m.subjects[index][i]
		s.retired = true
		return s
	}
	path := func(s *subject, more string) string {
		x := &m.Indices[s.index]
		p := "/" + x.Name + "/_doc/" + url.PathEscape(x.id(s.n)) + "?" + more
		if routing := x.routing(s.n); routing != "" {
			p += "&routing=" + url.QueryEscape(routing)
		}
		return p
	}
	spoil := func(method, path string, body any) {
		t.Helper()
		if err := client.do(t.Context(), method, path, body, nil); err != nil {
			t.Fatal(err)
		}
	}
	gone, back, again := pickOne(products, true), pickOne(products, false), pickOne(products, true)
	changed, newer := pickOne(countries, true), pickOne(mirror, true)
	spoil(http.MethodDelete, path(gone, ""), nil)
	spoil(http.MethodPut, path(back, ""), map[string]any{"sku": "back"})
	spoil(http.MethodPut, path(changed, fmt.Sprintf("version_type=external_gte&version=%d", changed.now.version)), map[string]any{"code": "other"})
	form, err := m.expected(mirror, newer.n, newer.now)
	if err != nil {
		t.Fatal(err)
	}
	spoil(http.MethodPut, path(newer, fmt.Sprintf("version_type=external&version=%d", newer.now.version+1)), jsonText(form))
	spoil(http.MethodPut, "/events/_doc/stranger", map[string]any{"message": "never written by a client"})
	// The same id with another routing, so that it is there twice, or with another routing than it had.
	spoil(http.MethodPut, "/products/_doc/"+url.PathEscape(m.Indices[products].id(again.n))+"?routing=elsewhere", map[string]any{"sku": "twice"})

	r = compareMixed(t, client, client, m)
	var found []string
	for _, d := range r.Shown {
		found = append(found, d.Index+" "+d.ID)
	}
	want := []string{"events stranger"}
	for _, s := range []*subject{gone, back, changed, newer, again} {
		want = append(want, m.Indices[s.index].Name+" "+m.Indices[s.index].id(s.n))
	}
	slices.Sort(found)
	slices.Sort(want)
	if !slices.Equal(found, want) || r.Differences != int64(len(want)) || r.Problem() == nil {
		t.Errorf("spoilt %q, found %q: %v", want, found, r.Problem())
	}
}

type jsonText []byte

func (j jsonText) MarshalJSON() ([]byte, error) { return j, nil }

// TestMixedUnknownOutcomes answers 504 to every fifth request, with and without carrying it out: both outcomes are right, but two sides
// that differ are not, even where each of them alone would be.
func TestMixedUnknownOutcomes(t *testing.T) {
	n := 0
	client := model(t, "opensearch-2.19.0", func(w http.ResponseWriter, r *http.Request, d http.Handler) bool {
		if r.URL.Path != "/_bulk" || r.Header.Get("Authorization") != "lossy" {
			return false
		}
		if n++; n%5 != 0 {
			return false
		}
		if n%2 == 0 {
			d.ServeHTTP(httptest.NewRecorder(), r)
		}
		w.WriteHeader(http.StatusGatewayTimeout)
		return true
	})
	m := fillMixed(t, client)
	lossy := Client{URL: client.URL, Transport: header{"lossy"}}
	w := StartMixedWriter(t.Context(), lossy, m, MixedWriterOptions{Rate: 2000, Parallel: 1})
	t.Cleanup(w.Stop)
	writeMixed(t, w, func(s MixedStats) bool { return s.Unknown > 40 })
	w.Stop()
	r := compareMixed(t, client, client, m)
	if err := r.Problem(); err != nil || r.Undecided < 40 || w.Stats().Surprises != 0 {
		t.Fatalf("%v, %d undecided, surprises %v", err, r.Undecided, w.Stats().FirstSurprise)
	}
	c := mixedComparer{mixed: m, index: 1, source: map[string]*sighting{}, destination: map[string]*sighting{},
		result: &MixedResult{Indices: make([]MixedIndexResult, len(m.Indices))}}
	kept := m.subjects[1]
	defer func() { m.subjects[1] = kept }()
	s := &subject{index: 1, n: 1, now: state{}, maybe: &state{there: true, base: 1}, retired: true}
	m.subjects[1] = []*subject{s}
	form, err := m.expected(1, 1, *s.maybe)
	if err != nil {
		t.Fatal(err)
	}
	id := m.Indices[1].id(1)
	c.destination[id] = &sighting{version: 1, source: form}
	if err := c.compare(); err != nil {
		t.Fatal(err)
	}
	if c.result.Differences != 1 || !strings.Contains(c.result.Shown[0].What, "source and destination differ") {
		t.Errorf("%+v", c.result)
	}
}

type header struct{ text string }

func (h header) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", h.text)
	return http.DefaultTransport.RoundTrip(r)
}

// TestMixedWritesGoOnAtTheDestination freezes the source, switches, and finds what the source had kept apart from what the destination has.
func TestMixedWritesGoOnAtTheDestination(t *testing.T) {
	source := model(t, "elasticsearch-7.10.2", nil)
	m := fillMixed(t, source)
	w := StartMixedWriter(t.Context(), source, m, MixedWriterOptions{Rate: 3000})
	t.Cleanup(w.Stop)
	writeMixed(t, w, func(s MixedStats) bool { return s.Acknowledged > 1000 })
	for _, x := range m.Indices {
		if err := source.do(t.Context(), http.MethodPut, "/"+x.Name+"/_settings", map[string]any{"index.blocks.write": true}, nil); err != nil {
			t.Fatal(err)
		}
	}
	writeMixed(t, w, func(s MixedStats) bool { return s.Refused > 0 })
	resume := w.Hold()
	// A migration in small: every document with its version.
	destination := model(t, "opensearch-2.19.0", nil)
	for i := range m.Indices {
		copyIndex(t.Context(), t, source, destination, m, i)
	}
	before := w.Stats().Acknowledged
	w.SwitchTo(destination)
	resume()
	writeMixed(t, w, func(s MixedStats) bool { return s.AtDestination > 1000 })
	w.Stop()
	stats := w.Stats()
	if stats.Acknowledged != before+stats.AtDestination || stats.DowntimeSeconds <= 0 || stats.Surprises != 0 {
		t.Errorf("%+v", stats)
	}
	r := compareMixed(t, source, destination, m)
	if err := r.Problem(); err != nil || r.Continued == 0 {
		t.Errorf("%v; %d continued", err, r.Continued)
	}
	// A write that reaches the source after the switch is found, although no side lacks anything.
	late := slices.IndexFunc(m.subjects[1], func(s *subject) bool { return s.source != nil && s.source.there })
	x := &m.Indices[1]
	id, routing := x.id(uint32(late)), x.routing(uint32(late))
	for _, call := range []struct {
		method, path string
		body         any
	}{{http.MethodPut, "/products/_settings", map[string]any{"index.blocks.write": nil}},
		{http.MethodDelete, "/products/_doc/" + url.PathEscape(id) + "?routing=" + url.QueryEscape(routing), nil}} {
		if err := source.do(t.Context(), call.method, call.path, call.body, nil); err != nil {
			t.Fatal(err)
		}
	}
	if r := compareMixed(t, source, destination, m); r.Differences != 1 || r.Shown[0].ID != id {
		t.Errorf("a deletion at the source after the switch: %+v", r.Shown)
	}
}

func copyIndex(ctx context.Context, t *testing.T, source, destination Client, m *Mixed, index int) {
	t.Helper()
	x := &m.Indices[index]
	if err := destination.do(ctx, http.MethodPut, "/"+x.Name, x.definition(), nil); err != nil {
		t.Fatal(err)
	}
	var body []byte
	documents := 0
	for _, s := range m.subjects[index] {
		if !s.now.there {
			continue
		}
		form, err := m.expected(index, s.n, s.now)
		if err != nil {
			t.Fatal(err)
		}
		line := string((&MixedIndex{Name: x.Name, nature: x.nature}).appendAction(nil, "index", s.n, s.now.version))
		if x.nature != external {
			line = strings.Replace(line, `"_index"`, fmt.Sprintf(`"version_type":"external_gte","version":%d,"_index"`, s.now.version), 1)
		}
		body, documents = append(append(append(body, line...), form...), '\n'), documents+1
	}
	if documents == 0 {
		return
	}
	items, err := destination.bulk(ctx, body, documents)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range items {
		if item.Status != http.StatusCreated {
			t.Fatalf("%+v", item)
		}
	}
}
