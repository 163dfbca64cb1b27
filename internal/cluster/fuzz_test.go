package cluster

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/fault"
)

func FuzzClassify(f *testing.F) {
	for _, r := range recordings(f) {
		f.Add(r.Status, r.wire())
	}
	f.Add(500, []byte(`{"error":{"root_cause":[{"root_cause":[{}]}],"caused_by":{"caused_by":{}}}}`))
	f.Add(400, []byte(strings.Repeat(`{"error":`, 1000)))
	f.Add(400, []byte(`{"error":"`+strings.Repeat("x", 20<<10)+`"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 300 {
			status = 300
		}
		err := classify("try", "here", status%2 == 0, &http.Response{StatusCode: status}, body)
		e, ok := fault.As(err)
		if !ok {
			t.Fatal("not a fault")
		}
		if _, known := fault.Lookup(e.Name); !known || len(err.Error()) > 4096 {
			t.Fatalf("%s: a message of %d bytes", e.Name, len(err.Error()))
		}
		Diagnose(string(body))
	})
}

// canned answers every request with 200 and one body, but tells its version.
type canned []byte

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	body := string(c)
	if r.URL.Path == "/" {
		body = rootOS219
	}
	return &http.Response{StatusCode: 200, Request: r, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// seeds are answers by which the calls get far.
var seeds = []string{
	`null`, `[null]`, `{"a":null,"s":{},"indices":{"a":{"shards":{"0":[{"routing":{"primary":true}}]}}}}`,
	`{"docs":[{}],"hits":{"hits":[{}]},"snapshots":[{"snapshot":"a","failures":[{}]}]}`,
	`[{"index":"a","shard":"0","prirep":"p","pri":"1","docs":"4","store":"9"}]`,
	`{"_shards":{"total":1,"successful":1},"hits":{"total":{"value":3},"hits":[{"_id":"1","_seq_no":3,"_source":{"a":1},"sort":[3]}]}}`,
	`{"_shards":{"total":1,"successful":1},"aggregations":{"r":{"buckets":[{"key":"0","doc_count":1},{"key":"1","doc_count":2}]},"h":{"buckets":[{"key":2.0,"doc_count":1}]}}}`,
	`{"docs":[{"_id":"1","found":true,"_version":3,"_seq_no":4,"_source":{"a":[1,{"b":null}]}}],"items":[{"index":{"status":409,"error":{"type":"x","reason":"y"}}}]}`,
	`{"_shards":{"total":1},"indices":{"a":{"uuid":"u","shards":{"0":[{"routing":{"primary":true},"docs":{"count":3},"seq_no":{"max_seq_no":4,"local_checkpoint":4,"global_checkpoint":4},"commit":{"user_data":{"history_uuid":"h"}}}]}}},"metadata":{"indices":{"a":{"primary_terms":{"0":1}}}}}`,
	`{"a":{"aliases":{"b":{"filter":{"term":{"n":1}}}},"mappings":{"properties":{"n":{"type":"long"}}},"settings":{"index.uuid":"u","index":{"x":[1,"2",true,null]}},"type":"s3"}}`,
	`{"snapshots":[{"snapshot":"a","repository":"r","state":"STARTED","shards_stats":{"total":1},"stats":{"incremental":{"file_count":1,"size_in_bytes":2}},"indices":{"a":{"shards":{"0":{"stats":{"start_time_in_millis":1}}}}}}]}`,
	`{"data_streams":[{"name":"a","indices":[{"index_name":"b"}],"backing_indices":["b"]}],"index_templates":[{"index_template":{"index_patterns":["a*","[","\\"],"priority":9,"data_stream":{}}}]}`,
	`{"persistent":{"a":{"b":"c"}},"transient":{},"defaults":{"x":[{}]},"acknowledged":true,"accepted":true,"current_state":"unassigned","node_allocation_decisions":[{"deciders":[{"decision":"NO","explanation":"because of [x] - y"}]}]}`,
}

// FuzzAnswers gives every call of the client one answer: it never panics, and what is an error is a fault of a bounded length.
func FuzzAnswers(f *testing.F) {
	for _, r := range recordings(f) {
		if r.Status < 300 {
			f.Add([]byte(r.wire()))
		}
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	names := slices.Sorted(maps.Keys(everyCall))
	f.Fuzz(func(t *testing.T, body []byte) {
		c := New("http://cluster", canned(body))
		check := func(name string, err error) {
			if err == nil {
				return
			}
			if e, ok := fault.As(err); !ok || e.Op == "" || len(err.Error()) > 4096 {
				t.Errorf("%s: %d bytes: %v", name, len(err.Error()), err)
			}
		}
		for _, name := range names {
			check(name, everyCall[name](t.Context(), c))
		}
		_, err := New("http://cluster", roundTrip(body)).Info(t.Context())
		check("Info", err)
	})
}

// FuzzUnfold never finds JSON in what is none, whatever is not counted.
func FuzzUnfold(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), 0)
		f.Add([]byte(s), 4)
	}
	f.Add([]byte("{\"docs\":[{\"_id\":\"\xff\"}]}"), 4)
	f.Fuzz(func(t *testing.T, raw []byte, opaque int) {
		var whole, again any
		err := unfold(raw, &whole, max(opaque, 0))
		if err == nil && unfold(raw, &again, 0) != nil && opaque <= 0 {
			t.Errorf("%q is refused the second time", raw)
		}
	})
}

func FuzzCreatedVersion(f *testing.F) {
	for _, s := range []string{"7100299", "136407827", "8500000", "0", "-1", "999999999999", " 6080099 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		distribution, major, minor, patch, err := DecodeCreatedVersion(id)
		if err == nil && (distribution != Elasticsearch && distribution != OpenSearch || major < 1 || major > 99 || minor < 0 || minor > 99 || patch < 0 || patch > 99) {
			t.Errorf("%q is %s %d.%d.%d", id, distribution, major, minor, patch)
		}
		var v Version
		_ = v.setNumber(id)
	})
}

// roundTrip answers everything, the root included, with one body.
type roundTrip []byte

func (b roundTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Request: r, Body: io.NopCloser(strings.NewReader(string(b)))}, nil
}
