package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/fault"
)

// What a search and a bulk request look like, and what is made of their answers. The answers are shortened ones of 7.10.2 and 2.19.0.
func TestReplayRequests(t *testing.T) {
	one := `"_shards":{"total":1,"successful":1,"skipped":0,"failed":0},"timed_out":false`
	query := func(from, upto int) string {
		return fmt.Sprintf(`{"range":{"_seq_no":{"gt":%d,"lte":%d}}}`, from, upto)
	}
	type calls = func(ctx context.Context, c *Client) (any, error)
	tests := map[string]struct {
		call    calls
		answers map[string]string
		want    []string
		result  any
		fault   fault.Name
	}{
		"documents": {
			call: func(ctx context.Context, c *Client) (any, error) {
				p, err := c.ShardDocuments(ctx, "a", 3, []SeqRange{{5, 9}}, 2, true)
				return p.Documents, err
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_search": `{` + one + `,"hits":{"hits":[` +
				`{"_id":"x","_routing":"r","_version":7,"_seq_no":6,"_primary_term":1,"_source":{"a": 1},"sort":[6]}]}}`},
			want: []string{"GET /", `POST /a/_search?preference=_shards%3A3 {"_source":true,"query":` + query(5, 9) +
				`,"seq_no_primary_term":true,"size":2,"sort":[{"_seq_no":"asc"}],"track_total_hits":false,"version":true}`},
			result: []ShardDocument{{DocumentKey: DocumentKey{"x", "r"}, Found: true, SeqNo: 6, PrimaryTerm: 1, Version: 7, Source: []byte(`{"a": 1}`)}},
		},
		"documents of the primary on OpenSearch": {
			call: func(ctx context.Context, c *Client) (any, error) {
				p, err := c.ShardDocuments(ctx, "a", 0, []SeqRange{{5, 9}, {11, 12}}, 2, false)
				return p.More, err
			},
			answers: map[string]string{"GET /": rootOS219, "POST /a/_search": `{` + one + `,"hits":{"hits":[]}}`},
			want: []string{"GET /", `POST /a/_search?preference=_shards%3A0%7C_primary {"_source":false,"query":{"bool":{"minimum_should_match":1,"should":[` +
				query(5, 9) + `,` + query(11, 12) + `]}},"seq_no_primary_term":true,"size":2,"sort":[{"_seq_no":"asc"}],"track_total_hits":false,"version":true}`},
			result: false,
		},
		"a shard that does not exist answers nothing": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.ShardDocuments(ctx, "a", 9, []SeqRange{{5, 9}}, 2, true)
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_search": `{"_shards":{"total":0,"successful":0,"failed":0},"hits":{"hits":[]}}`},
			fault:   fault.Unavailable,
		},
		"a document without its number": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.ShardDocuments(ctx, "a", 0, []SeqRange{{5, 9}}, 2, true)
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_search": `{` + one + `,"hits":{"hits":[{"_id":"x"}]}}`},
			fault:   fault.Unclassified,
		},
		"one count": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.ShardCounts(ctx, "a", 0, []SeqRange{{-1, 9}})
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_search": `{` + one + `,"hits":{"total":{"value":8,"relation":"eq"}}}`},
			result:  []int64{8},
		},
		"one count on 6.8": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.ShardCounts(ctx, "a", 0, []SeqRange{{-1, 9}})
			},
			answers: map[string]string{"GET /": rootES68, "POST /a/_search": `{` + one + `,"hits":{"total":8}}`},
			result:  []int64{8},
		},
		"some counts": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.ShardCounts(ctx, "a", 0, []SeqRange{{4, 9}, {1, 4}})
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_search": `{` + one + `,"aggregations":{"r":{"buckets":[{"key":"1","from":2.0,"to":5.0,"doc_count":3},{"key":"0","from":5.0,"to":10.0,"doc_count":2}]}}}`},
			want: []string{"GET /", `POST /a/_search?preference=_shards%3A0 {"aggs":{"r":{"range":{"field":"_seq_no","ranges":[{"from":5,"key":"0","to":10},{"from":2,"key":"1","to":5}]}}},` +
				`"query":` + query(1, 9) + `,"size":0,"track_total_hits":false}`},
			result: []int64{2, 3},
		},
		"histogram": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.ShardHistogram(ctx, "a", 0, []SeqRange{{-1, 40}}, 16)
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_search": `{` + one + `,"aggregations":{"h":{"buckets":[{"key":0.0,"doc_count":16},{"key":32.0,"doc_count":2}]}}}`},
			want: []string{"GET /", `POST /a/_search?preference=_shards%3A0 {"aggs":{"h":{"histogram":{"field":"_seq_no","interval":16,"min_doc_count":1}}},"query":` +
				query(-1, 40) + `,"size":0,"track_total_hits":false}`},
			result: map[int64]int64{0: 16, 32: 2},
		},
		"census": {
			call: func(ctx context.Context, c *Client) (any, error) {
				upto, above, err := c.ShardCensus(ctx, "a", 0, 40, 16)
				return []any{upto, above}, err
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_search": `{` + one + `,"aggregations":{"h":{"buckets":[{"key":-7.0,"doc_count":9},{"key":25.0,"doc_count":2},{"key":41.0,"doc_count":5},{"key":73.0,"doc_count":1}]}}}`},
			want: []string{"GET /", `POST /a/_search?preference=_shards%3A0 {"aggs":{"h":{"histogram":{"field":"_seq_no","interval":16,"min_doc_count":1,"offset":9}}},` +
				`"size":0,"track_total_hits":false}`},
			result: []any{map[int64]int64{-7: 9, 25: 2}, int64(6)},
		},
		"a failed shard": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.ShardHistogram(ctx, "a", 0, []SeqRange{{-1, 40}}, 16)
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_search": `{"_shards":{"total":1,"successful":0,"failed":1,"failures":[{"shard":0,"index":"a","reason":{"type":"x"}}]}}`},
			fault:   fault.Unavailable,
		},
		"latest without source keep the key's routing": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.LatestDocuments(ctx, "a", []DocumentKey{{"x", "r"}, {"y", ""}}, false)
			},
			answers: map[string]string{"POST /a/_mget": `{"docs":[{"_id":"x","found":true,"_version":3,"_seq_no":8,"_primary_term":2},{"_id":"y","found":false}]}`},
			want:    []string{`POST /a/_mget?_source=false {"docs":[{"_id":"x","routing":"r"},{"_id":"y"}]}`},
			result: []ShardDocument{{DocumentKey: DocumentKey{"x", "r"}, Found: true, SeqNo: 8, PrimaryTerm: 2, Version: 3},
				{DocumentKey: DocumentKey{"y", ""}, SeqNo: -1}},
		},
		"bulk": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.BulkWrite(ctx, "a", []Write{
					{DocumentKey: DocumentKey{`x"<`, "r"}, Source: []byte("{\"a\":\n \"<\"}"), Version: 3},
					{DocumentKey: DocumentKey{"y", ""}, SeqNo: 8, PrimaryTerm: 2},
					{DocumentKey: DocumentKey{"z", ""}, Source: []byte("{}"), Version: 1},
				})
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_bulk": `{"items":[{"index":{"status":201,"_seq_no":4}},{"delete":{"status":404,"_seq_no":5}},` +
				`{"index":{"status":400,"error":{"type":"mapper_parsing_exception","reason":"failed to parse","caused_by":{"type":"illegal_argument_exception","reason":"For input string"}}}}]}`},
			want: []string{"GET /", `POST /a/_bulk?filter_path=items.%2A.status%2Citems.%2A.error%2Citems.%2A._seq_no&pipeline=_none ` +
				`{"index":{"_id":"x\"<","routing":"r","version":3,"version_type":"external_gte"}}` + "\n" + `{"a":"<"}` + "\n" +
				`{"delete":{"_id":"y","if_primary_term":2,"if_seq_no":8}}` + "\n" + `{"index":{"_id":"z","version":1,"version_type":"external_gte"}}` + "\n{}"},
			result: []WriteResult{{Status: 201, SeqNo: 4}, {Status: 404, SeqNo: 5},
				{Status: 400, SeqNo: -1, Type: "mapper_parsing_exception", Reason: "mapper_parsing_exception: failed to parse; caused by illegal_argument_exception: For input string"}},
		},
		"bulk with types on 6.8": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.BulkWrite(ctx, "a", []Write{{DocumentKey: DocumentKey{"x", ""}, Type: "doc", Source: []byte("{}"), Version: 3}})
			},
			answers: map[string]string{"GET /": rootES68, "POST /a/_bulk": `{"items":[{"index":{"status":201,"_seq_no":4}}]}`},
			want: []string{"GET /", `POST /a/_bulk?filter_path=items.%2A.status%2Citems.%2A.error%2Citems.%2A._seq_no&pipeline=_none ` +
				`{"index":{"_id":"x","_type":"doc","version":3,"version_type":"external_gte"}}` + "\n{}"},
		},
		"bulk with a short answer": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.BulkWrite(ctx, "a", []Write{{DocumentKey: DocumentKey{"x", ""}, Source: []byte("{}"), Version: 3}})
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_bulk": `{"items":[]}`},
			fault:   fault.OutcomeUnknown,
		},
		"bulk throttled": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.BulkWrite(ctx, "a", []Write{{DocumentKey: DocumentKey{"x", ""}, Source: []byte("{}"), Version: 3}})
			},
			answers: map[string]string{"GET /": rootES710, "POST /a/_bulk": `429 Too Many Requests /_bulk`},
			fault:   fault.Throttled,
		},
		"bulk to a wildcard is refused": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.BulkWrite(ctx, "a*", []Write{{DocumentKey: DocumentKey{"x", ""}, Source: []byte("{}"), Version: 3}})
			},
			fault: fault.InvalidInput,
		},
		"histories": {
			call: func(ctx context.Context, c *Client) (any, error) { return c.ShardHistories(ctx, "a") },
			answers: map[string]string{
				"GET /_cluster/state/metadata/a": `{"metadata":{"indices":{"a":{"primary_terms":{"0":4}}}}}`,
				"GET /a/_stats/docs": `{"_shards":{"failed":0},"indices":{"a":{"uuid":"U","shards":{"0":[{"routing":{"primary":false}},` +
					`{"routing":{"primary":true},"seq_no":{"max_seq_no":9,"local_checkpoint":9,"global_checkpoint":8},"commit":{"user_data":{"history_uuid":"H"}}}]}}}}`},
			result: map[string]IndexHistory{"a": {UUID: "U", Shards: []ShardHistory{{0, "H", 4, 9, 8}}}},
		},
		"histories without the cluster state": {
			call: func(ctx context.Context, c *Client) (any, error) { return c.ShardHistories(ctx, "a") },
			answers: map[string]string{
				"GET /_cluster/state/metadata/a": `401 {"Message":"Your request: '/_cluster/state' is not allowed."}`,
				"GET /a/_stats/docs":             `{"indices":{"a":{"uuid":"U","shards":{"0":[{"routing":{"primary":true},"seq_no":{"max_seq_no":9,"global_checkpoint":8}}]}}}}`},
			result: map[string]IndexHistory{"a": {UUID: "U", Shards: []ShardHistory{{0, "", 0, 9, 8}}}},
		},
		"histories of an old index": {
			call: func(ctx context.Context, c *Client) (any, error) { return c.ShardHistories(ctx, "a") },
			answers: map[string]string{
				"GET /_cluster/state/metadata/a": `{}`,
				"GET /a/_stats/docs":             `{"indices":{"a":{"uuid":"U","shards":{"0":[{"routing":{"primary":true}}]}}}}`},
			fault: fault.Incompatible,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := &script{answers: tc.answers}
			got, err := tc.call(t.Context(), serve(t, s))
			if tc.fault != "" {
				if !fault.Is(err, tc.fault) {
					t.Fatalf("got %v, want %s", err, tc.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tc.want != nil && !reflect.DeepEqual(s.requests, tc.want) {
				t.Errorf("requests\n%s\nwant\n%s", strings.Join(s.requests, "\n"), strings.Join(tc.want, "\n"))
			}
			if tc.result != nil && !reflect.DeepEqual(got, tc.result) {
				t.Errorf("got %+v, want %+v", got, tc.result)
			}
		})
	}
}

// A page whose answer the node refuses as too large comes in a smaller one.
func TestShardDocumentsAskForLess(t *testing.T) {
	var sizes []string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			fmt.Fprint(w, rootES710)
			return
		}
		var body [4096]byte
		n, err := r.Body.Read(body[:])
		if err != nil && n == 0 {
			t.Error(err)
		}
		_, size, _ := strings.Cut(string(body[:n]), `"size":`)
		size, _, _ = strings.Cut(size, ",")
		sizes = append(sizes, size)
		if len(sizes) < 3 {
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"error":{"type":"circuit_breaking_exception","reason":"[parent] Data too large"},"status":429}`)
			return
		}
		fmt.Fprint(w, `{"_shards":{"total":1,"successful":1,"failed":0},"hits":{"hits":[{"_id":"x","_seq_no":1,"_version":1,"_source":{}}]}}`)
	}))
	page, err := c.ShardDocuments(t.Context(), "a", 0, []SeqRange{{0, 100}}, 8, true)
	if err != nil || len(page.Documents) != 1 || !page.More || strings.Join(sizes, " ") != "8 2 1" {
		t.Errorf("%+v, %v after sizes %v", page, err, sizes)
	}
	sizes = nil
	if _, err := c.ShardDocuments(t.Context(), "a", 0, []SeqRange{{0, 100}}, 1, true); !HasType(err, "circuit_breaking_exception") {
		t.Errorf("%v: want the refusal of a single document", err)
	}
	if _, err := c.ShardDocuments(t.Context(), "a", 0, nil, MaxSample+1, true); !fault.Is(err, fault.InvalidInput) || errors.Is(err, errTooLarge) {
		t.Errorf("%v: want InvalidInput", err)
	}
}
