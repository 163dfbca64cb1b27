package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/fault"
)

// script is a server that notes each request as "METHOD uri body" and answers from a table keyed by "METHOD path" (without query).
type script struct {
	requests []string
	answers  map[string]string // optionally "418 body"
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+string(body)))
	answer, ok := s.answers[r.Method+" "+r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	if len(answer) > 4 && answer[3] == ' ' && answer[0] >= '1' && answer[0] <= '9' {
		var status int
		fmt.Sscanf(answer, "%d", &status)
		w.WriteHeader(status)
		answer = answer[4:]
	}
	io.WriteString(w, answer)
}

const (
	rootES68  = `{"cluster_name":"n","cluster_uuid":"u","version":{"number":"6.8.0"},"tagline":"You Know, for Search"}`
	rootES710 = `{"cluster_name":"n","cluster_uuid":"u","version":{"number":"7.10.2"},"tagline":"You Know, for Search"}`
	rootOS219 = `{"cluster_name":"n","cluster_uuid":"u","version":{"distribution":"opensearch","number":"2.19.0"},"tagline":"The OpenSearch Project: https://opensearch.org/"}`
	ack       = `{"acknowledged":true}`
)

func serve(t *testing.T, h http.Handler) *Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return New(server.URL, server.Client().Transport)
}

func TestRequests(t *testing.T) {
	missing := func(kind string) string {
		return `404 {"error":{"root_cause":[{"type":"` + kind + `","reason":"gone"}],"type":"` + kind + `","reason":"gone"},"status":404}`
	}
	tests := map[string]struct {
		call    func(ctx context.Context, c *Client) (any, error)
		answers map[string]string
		want    []string
		result  any // compared when not nil
		fault   fault.Name
	}{
		"create index": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.CreateIndex(ctx, "a", map[string]any{"index.number_of_shards": 1}, json.RawMessage(`{"properties":{}}`))
			},
			answers: map[string]string{"GET /": rootES710, "PUT /a": ack},
			want:    []string{"GET /", `PUT /a?wait_for_active_shards=0 {"mappings":{"properties":{}},"settings":{"index.number_of_shards":1}}`},
		},
		"create index, refused, on 6.8": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.CreateIndex(ctx, "a", nil, json.RawMessage(`{"properties":{}}`))
			},
			answers: map[string]string{"GET /": rootES68, "PUT /a": `400 {"error":{"type":"mapper_parsing_exception","reason":"No handler for type [flat_object]"},"status":400}`},
			want:    []string{"GET /", `PUT /a?include_type_name=false&wait_for_active_shards=0 {"mappings":{"properties":{}},"settings":null}`},
			fault:   fault.RequestRefused,
		},
		"put mapping on 6.8": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.PutMapping(ctx, "a", json.RawMessage(`{"properties":{}}`))
			},
			answers: map[string]string{"GET /": rootES68, "PUT /a/_mapping": ack},
			want:    []string{"GET /", `PUT /a/_mapping?include_type_name=false {"properties":{}}`},
		},
		"create snapshot": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.CreateSnapshot(ctx, "mig", "mig-r0001", SnapshotRequest{[]string{"a", "b"}, map[string]any{"run": "x"}})
			},
			answers: map[string]string{"GET /": rootOS219, "PUT /_snapshot/mig/mig-r0001": `{"accepted":true}`},
			want: []string{"GET /",
				`PUT /_snapshot/mig/mig-r0001 {"ignore_unavailable":false,"include_global_state":false,"indices":"a,b","metadata":{"run":"x"},"partial":false}`},
		},
		"create snapshot without metadata on 6.8": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.CreateSnapshot(ctx, "mig", "mig-r0001", SnapshotRequest{[]string{"a"}, map[string]any{"run": "x"}})
			},
			answers: map[string]string{"GET /": rootES68, "PUT /_snapshot/mig/mig-r0001": `{"accepted":true}`},
			want:    []string{"GET /", `PUT /_snapshot/mig/mig-r0001 {"ignore_unavailable":false,"include_global_state":false,"indices":"a","partial":false}`},
		},
		"snapshot of no indices is refused": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.CreateSnapshot(ctx, "mig", "r1", SnapshotRequest{})
			},
			fault: fault.InvalidInput,
		},
		"restore": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.Restore(ctx, "mig", "r1", RestoreRequest{Indices: []string{"a"}, IgnoreSettings: []string{"index.blocks.*"}, Settings: map[string]any{"index.number_of_replicas": 0}})
			},
			answers: map[string]string{"POST /_snapshot/mig/r1/_restore": `{"accepted":true}`},
			want: []string{`POST /_snapshot/mig/r1/_restore {"ignore_index_settings":["index.blocks.*"],"ignore_unavailable":false,"include_aliases":false,` +
				`"include_global_state":false,"index_settings":{"index.number_of_replicas":0},"indices":"a","partial":false}`},
		},
		"restore with a wildcard is refused": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.Restore(ctx, "mig", "r1", RestoreRequest{Indices: []string{"a*"}})
			},
			fault: fault.InvalidInput,
		},
		"delete snapshot that is gone": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.DeleteSnapshot(ctx, "mig", "r1") },
			answers: map[string]string{"DELETE /_snapshot/mig/r1": missing("snapshot_missing_exception")},
			want:    []string{"DELETE /_snapshot/mig/r1"},
		},
		"put repository": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.PutRepository(ctx, "mig", Repository{"s3", map[string]string{"bucket": "b", "readonly": "true"}})
			},
			answers: map[string]string{"PUT /_snapshot/mig": ack},
			want:    []string{`PUT /_snapshot/mig {"settings":{"bucket":"b","readonly":"true"},"type":"s3"}`},
		},
		"not acknowledged": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.PutRepository(ctx, "mig", Repository{"s3", map[string]string{"bucket": "b"}})
			},
			answers: map[string]string{"PUT /_snapshot/mig": `{"acknowledged":false}`},
			want:    []string{`PUT /_snapshot/mig {"settings":{"bucket":"b"},"type":"s3"}`},
			fault:   fault.OutcomeUnknown,
		},
		"repository, nested settings": {
			call: func(ctx context.Context, c *Client) (any, error) {
				r, found, err := c.Repository(ctx, "mig")
				return []any{r, found}, err
			},
			answers: map[string]string{"GET /_snapshot/mig": `{"mig":{"type":"s3","settings":{"bucket":"b","readonly":true,"x":{"y":3,"z":["1","2"]}}}}`},
			want:    []string{"GET /_snapshot/mig"},
			result:  []any{Repository{"s3", map[string]string{"bucket": "b", "readonly": "true", "x.y": "3", "x.z": "1,2"}}, true},
		},
		"repository missing": {
			call: func(ctx context.Context, c *Client) (any, error) {
				_, found, err := c.Repository(ctx, "mig")
				return found, err
			},
			answers: map[string]string{"GET /_snapshot/mig": missing("repository_missing_exception")},
			want:    []string{"GET /_snapshot/mig"}, result: false,
		},
		"snapshot in a missing repository is an error": {
			call: func(ctx context.Context, c *Client) (any, error) {
				_, _, err := c.Snapshot(ctx, "mig", "r1")
				return nil, err
			},
			answers: map[string]string{"GET /_snapshot/mig/r1": missing("repository_missing_exception")},
			want:    []string{"GET /_snapshot/mig/r1"}, fault: fault.RepositoryRefused,
		},
		"close": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.Close(ctx, "a", ".ds-x-000001", "a") },
			answers: map[string]string{"POST /a,.ds-x-000001/_close": `{"acknowledged":true,"shards_acknowledged":true,"indices":{"a":{"closed":true}}}`},
			want:    []string{"POST /a,.ds-x-000001/_close"},
		},
		"close that does not close": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.Close(ctx, "a") },
			answers: map[string]string{"POST /a/_close": `{"acknowledged":true,"indices":{"a":{"closed":false}}}`},
			want:    []string{"POST /a/_close"}, fault: fault.OutcomeUnknown,
		},
		"close nothing": {
			call:  func(ctx context.Context, c *Client) (any, error) { return nil, c.Close(ctx) },
			fault: fault.InvalidInput,
		},
		"open": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.Open(ctx, "a") },
			answers: map[string]string{"POST /a/_open": ack},
			want:    []string{"POST /a/_open?wait_for_active_shards=0"},
		},
		"write block": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.AddWriteBlock(ctx, "a") },
			answers: map[string]string{"GET /": rootES710, "PUT /a/_block/write": `{"acknowledged":true,"shards_acknowledged":true,"indices":[{"name":"a","blocked":true}]}`},
			want:    []string{"GET /", "PUT /a/_block/write"},
		},
		"write block on 6.8": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.AddWriteBlock(ctx, "a") },
			answers: map[string]string{"GET /": rootES68, "PUT /a/_settings": ack},
			want:    []string{"GET /", `PUT /a/_settings {"index.blocks.write":true}`},
		},
		"write block that the service does not offer": {
			call: func(ctx context.Context, c *Client) (any, error) { return nil, c.AddWriteBlock(ctx, "a") },
			answers: map[string]string{"GET /": rootES710, "PUT /a/_settings": ack,
				"PUT /a/_block/write": `401 {"Message":"Your request: '/a/_block/write' is not allowed."}`},
			want: []string{"GET /", "PUT /a/_block/write", `PUT /a/_settings {"index.blocks.write":true}`},
		},
		"write block on a missing index does not fall back": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.AddWriteBlock(ctx, "a") },
			answers: map[string]string{"GET /": rootES710, "PUT /a/_block/write": missing("index_not_found_exception")},
			want:    []string{"GET /", "PUT /a/_block/write"}, fault: fault.RequestRefused,
		},
		"update settings": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.UpdateSettings(ctx, map[string]any{"index.blocks.write": nil, "index.number_of_replicas": 1}, "a")
			},
			answers: map[string]string{"PUT /a/_settings": ack},
			want:    []string{`PUT /a/_settings {"index.blocks.write":null,"index.number_of_replicas":1}`},
		},
		"mappings on 6.8": {
			call:    func(ctx context.Context, c *Client) (any, error) { return c.Mappings(ctx, "a") },
			answers: map[string]string{"GET /": rootES68, "GET /a/_mapping": `{"a":{"mappings":{"dynamic":"strict"}}}`},
			want:    []string{"GET /", "GET /a/_mapping?include_type_name=false"},
			result:  map[string]json.RawMessage{"a": json.RawMessage(`{"dynamic":"strict"}`)},
		},
		"mappings on OpenSearch": {
			call:    func(ctx context.Context, c *Client) (any, error) { return c.Mappings(ctx, "a") },
			answers: map[string]string{"GET /": rootOS219, "GET /a/_mapping": `{"a":{}}`},
			want:    []string{"GET /", "GET /a/_mapping"},
			result:  map[string]json.RawMessage{"a": json.RawMessage(`{}`)},
		},
		"aliases": {
			call:    func(ctx context.Context, c *Client) (any, error) { return c.Aliases(ctx, "a", "b") },
			answers: map[string]string{"GET /a,b/_alias": `{"a":{"aliases":{"x":{"is_write_index":true}}}}`},
			want:    []string{"GET /a,b/_alias"},
			result:  map[string]map[string]json.RawMessage{"a": {"x": json.RawMessage(`{"is_write_index":true}`)}, "b": {}},
		},
		"update aliases": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.UpdateAliases(ctx, []AliasAction{{Index: "a", Alias: "x", Definition: json.RawMessage(`{"is_write_index":true}`)}, {Remove: true, Index: "b", Alias: "x"}})
			},
			answers: map[string]string{"POST /_aliases": ack},
			want:    []string{`POST /_aliases {"actions":[{"add":{"alias":"x","index":"a","is_write_index":true}},{"remove":{"alias":"x","index":"b"}}]}`},
		},
		"delete index that is gone": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.DeleteIndex(ctx, "a") },
			answers: map[string]string{"DELETE /a": missing("index_not_found_exception")},
			want:    []string{"DELETE /a"},
		},
		"delete _all is refused": {
			call:  func(ctx context.Context, c *Client) (any, error) { return nil, c.DeleteIndex(ctx, "_all") },
			fault: fault.InvalidInput,
		},
		"refresh that fails on a shard": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.Refresh(ctx, "a") },
			answers: map[string]string{"POST /a/_refresh": `{"_shards":{"total":2,"successful":1,"failed":1,"failures":[{"index":"a","shard":1,"reason":{"type":"x"}}]}}`},
			want:    []string{"POST /a/_refresh"}, fault: fault.Unavailable,
		},
		"descriptions": {
			call: func(ctx context.Context, c *Client) (any, error) {
				d, err := c.Describe(ctx, "a", "b", "c")
				if err != nil || d["a"].Digest != d["b"].Digest || d["a"].Digest == d["c"].Digest || len(d["a"].Digest) != 32 {
					return nil, fmt.Errorf("%+v, %w", d, err)
				}
				return []string{d["a"].UUID, string(d["a"].Aliases["x"])}, nil
			},
			answers: map[string]string{"GET /a,b,c": `{"a":{"aliases":{"x":{"filter":{"term":{"n":1}}}},"mappings":{"properties":{"p":{"type":"long"},"q":{"type":"text"}}},
				"settings":{"index.uuid":"1","index.number_of_shards":"2","index.blocks.write":"true","index.number_of_replicas":"1"}},
				"b":{"settings":{"index.number_of_shards":"2","index.creation_date":"7"},"mappings":{"properties":{"q":{"type":"text"},"p":{"type":"long"}}},
				"aliases":{"x":{"filter":{"term":{"n":1}}}}},
				"c":{"aliases":{"x":{"filter":{"term":{"n":2}}}},"mappings":{"properties":{"p":{"type":"long"},"q":{"type":"text"}}},"settings":{"index.number_of_shards":"2"}}}`},
			want: []string{"GET /a,b,c?flat_settings=true"}, result: []string{"1", `{"filter":{"term":{"n":1}}}`},
		},
		"sequence numbers": {
			call: func(ctx context.Context, c *Client) (any, error) { return c.SequenceNumbers(ctx, "a") },
			answers: map[string]string{"GET /a/_stats/docs": `{"_shards":{"failed":0},"indices":{"a":{"uuid":"u","shards":{"1":[{"routing":{"primary":false},"seq_no":{"max_seq_no":1}},
				{"routing":{"primary":true},"docs":{"count":5},"seq_no":{"max_seq_no":9,"local_checkpoint":8,"global_checkpoint":7},"commit":{"user_data":{"history_uuid":"h"}}}],
				"0":[{"routing":{"primary":true},"docs":{"count":0},"seq_no":{"max_seq_no":-1,"local_checkpoint":-1,"global_checkpoint":-1}}]}}}}`},
			want: []string{"GET /a/_stats/docs?filter_path=_shards%2Cindices.%2A.uuid%2Cindices.%2A.shards.%2A.routing%2Cindices.%2A.shards.%2A.docs%2Cindices.%2A.shards.%2A.seq_no%2Cindices.%2A.shards.%2A.commit.user_data.history_uuid&level=shards"},
			result: map[string][]ShardSequence{"a": {
				{Shard: 0, MaxSeqNo: -1, LocalCheckpoint: -1, GlobalCheckpoint: -1, IndexUUID: "u"},
				{Shard: 1, MaxSeqNo: 9, LocalCheckpoint: 8, GlobalCheckpoint: 7, Docs: 5, IndexUUID: "u", HistoryUUID: "h"}}},
		},
		"shards": {
			call: func(ctx context.Context, c *Client) (any, error) { return c.Shards(ctx, "a") },
			answers: map[string]string{"GET /_cat/shards/a": `[{"index":"a","shard":"0","prirep":"r","state":"UNASSIGNED","node":null,"unassigned.reason":"REPLICA_ADDED","docs":null,"store":null},
				{"index":"a","shard":"0","prirep":"p","state":"RELOCATING","node":"n0 -> 127.0.0.1 xyz n1","docs":"7","store":"171"}]`},
			want: []string{"GET /_cat/shards/a?bytes=b&format=json&h=index%2Cshard%2Cprirep%2Cstate%2Cnode%2Cunassigned.reason%2Cdocs%2Cstore"},
			result: []Shard{{Index: "a", Primary: true, State: "RELOCATING", Node: "n0", Docs: 7, StoreBytes: 171},
				{Index: "a", State: "UNASSIGNED", UnassignedReason: "REPLICA_ADDED"}},
		},
		"recoveries": {
			call:    func(ctx context.Context, c *Client) (any, error) { return c.Recoveries(ctx, "a", "gone") },
			answers: map[string]string{"GET /a,gone/_recovery": `{"a":{"shards":[{"id":0,"type":"snapshot","stage":"index","primary":true,"source":{"repository":"r","snapshot":"s"},"index":{"size":{"total_in_bytes":3,"reused_in_bytes":1,"recovered_in_bytes":2}}}]}}`},
			want:    []string{"GET /a,gone/_recovery?ignore_unavailable=true"},
			result: []ShardRecovery{{Index: "a", Primary: true, Type: "SNAPSHOT", Stage: "INDEX", Repository: "r", Snapshot: "s",
				TotalBytes: 3, ReusedBytes: 1, RecoveredBytes: 2}},
		},
		"sample": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.SampleDocuments(ctx, "a", []SeqRange{{3, 5}}, 2)
			},
			answers: map[string]string{"POST /a/_search": `{"_shards":{"failed":0},"hits":{"hits":[{"_id":"1","_routing":"r","_version":3,"_source":{"x":1}}]}}`},
			want:    []string{`POST /a/_search {"_source":true,"query":{"range":{"_seq_no":{"gt":3,"lte":5}}},"size":2,"sort":["_doc"],"track_total_hits":false,"version":true}`},
			result:  []Document{{DocumentKey{"1", "r"}, true, 3, json.RawMessage(`{"x":1}`)}},
		},
		"get documents": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return c.GetDocuments(ctx, "a", []DocumentKey{{"1", "r"}, {"2", ""}})
			},
			answers: map[string]string{"POST /a/_mget": `{"docs":[{"_id":"1","_routing":"r","_version":3,"found":true,"_source":{"x":1}},{"_id":"2","found":false}]}`},
			want:    []string{`POST /a/_mget {"docs":[{"_id":"1","routing":"r"},{"_id":"2"}]}`},
			result:  []Document{{DocumentKey{"1", "r"}, true, 3, json.RawMessage(`{"x":1}`)}, {DocumentKey: DocumentKey{"2", ""}}},
		},
		"indices": {
			call: func(ctx context.Context, c *Client) (any, error) { return c.Indices(ctx) },
			answers: map[string]string{"GET /": rootOS219,
				"GET /_cat/indices":   `[{"health":"green","status":"close","index":"b","uuid":"u2","pri":"1","rep":"0","docs.count":null,"pri.store.size":null},{"health":"yellow","status":"open","index":".a","uuid":"u1","pri":"2","rep":"1","docs.count":"10","pri.store.size":"99"}]`,
				"GET /_all/_settings": `{".a":{"settings":{"index.hidden":"true","index.uuid":"u1","index.version.created":"136407827"}},"b":{"settings":{"index.uuid":"u2","index.version.created":"7100299"}}}`},
			want: []string{"GET /", "GET /_cat/indices?bytes=b&expand_wildcards=all&format=json&h=health%2Cstatus%2Cindex%2Cuuid%2Cpri%2Crep%2Cdocs.count%2Cpri.store.size",
				"GET /_all/_settings?expand_wildcards=all&flat_settings=true"},
			result: []Index{
				{Name: ".a", UUID: "u1", Health: "yellow", Open: true, Hidden: true, Primaries: 2, Replicas: 1, Docs: 10, StoreBytes: 99, CreatedVersion: "136407827",
					Settings: map[string]string{"index.hidden": "true", "index.uuid": "u1", "index.version.created": "136407827"}},
				{Name: "b", UUID: "u2", Health: "green", Primaries: 1, CreatedVersion: "7100299", Settings: map[string]string{"index.uuid": "u2", "index.version.created": "7100299"}}},
		},
		"data streams": {
			call:    func(ctx context.Context, c *Client) (any, error) { return c.DataStreams(ctx) },
			answers: map[string]string{"GET /": rootOS219, "GET /_data_stream": `{"data_streams":[{"name":"d","indices":[{"index_name":".ds-d-000001"}]}]}`},
			want:    []string{"GET /", "GET /_data_stream"},
			result:  []DataStream{{"d", []string{".ds-d-000001"}}},
		},
		"data streams that the service does not offer": {
			call: func(ctx context.Context, c *Client) (any, error) { return c.DataStreams(ctx) },
			answers: map[string]string{"GET /": rootOS219, "GET /_data_stream": `401 {"Message":"Your request: '/_data_stream' is not allowed."}`,
				"GET /_resolve/index/*": `{"indices":[{"name":"plain"}],"aliases":[],"data_streams":[{"name":"d-x","backing_indices":[".ds-d-x-000002",".ds-d-x-000001",".ds-d-x-1000000"]}]}`},
			result: []DataStream{{"d-x", []string{".ds-d-x-000001", ".ds-d-x-000002", ".ds-d-x-1000000"}}},
		},
		"write block of a data stream": {
			call: func(ctx context.Context, c *Client) (any, error) {
				return nil, c.AddWriteBlock(ctx, "a", ".ds-d-000001", ".ds-d-000002")
			},
			answers: map[string]string{"GET /": rootOS219,
				"PUT /a,.ds-d-000001,.ds-d-000002/_block/write": `400 {"error":{"type":"illegal_argument_exception","reason":"cannot add a block to the following data stream write indices [.ds-d-000002]"},"status":400}`,
				"GET /_data_stream":                             `{"data_streams":[{"name":"d","indices":[{"index_name":".ds-d-000001"},{"index_name":".ds-d-000002"}]},{"name":"other","indices":[{"index_name":".ds-other-000001"}]}]}`,
				"PUT /.ds-d-000002/_settings":                   ack,
				"PUT /a,.ds-d-000001/_block/write":              `{"acknowledged":true,"shards_acknowledged":true,"indices":[{"name":"a","blocked":true},{"name":".ds-d-000001","blocked":true}]}`},
			want: []string{"GET /", "PUT /a,.ds-d-000001,.ds-d-000002/_block/write", "GET /_data_stream",
				`PUT /.ds-d-000002/_settings {"index.blocks.write":true}`, "PUT /a,.ds-d-000001/_block/write"},
		},
		"delete a data stream": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.DeleteDataStream(ctx, "d") },
			answers: map[string]string{"DELETE /_data_stream/d": missing("index_not_found_exception")},
			want:    []string{"DELETE /_data_stream/d"},
		},
		"delete a data stream where that is not offered": {
			call:    func(ctx context.Context, c *Client) (any, error) { return nil, c.DeleteDataStream(ctx, "d") },
			answers: map[string]string{"DELETE /_data_stream/d": `401 {"Message":"Your request: '/_data_stream/d' is not allowed."}`},
			want:    []string{"DELETE /_data_stream/d"}, fault: fault.RequestRefused,
		},
		"what has a name": {
			call: func(ctx context.Context, c *Client) (any, error) {
				var kinds []string
				for _, name := range []string{"s", "i", "a", "none"} {
					kind, err := c.Holder(ctx, name)
					if err != nil {
						return nil, err
					}
					kinds = append(kinds, kind)
				}
				return kinds, nil
			},
			answers: map[string]string{
				"GET /_resolve/index/s":    `{"indices":[],"aliases":[],"data_streams":[{"name":"s","backing_indices":[".ds-s-000001"],"timestamp_field":"@timestamp"}]}`,
				"GET /_resolve/index/i":    `{"indices":[{"name":"i","attributes":["open"]}],"aliases":[],"data_streams":[]}`,
				"GET /_resolve/index/a":    `{"indices":[],"aliases":[{"name":"a","indices":["i"]}],"data_streams":[]}`,
				"GET /_resolve/index/none": `{"indices":[],"aliases":[],"data_streams":[]}`,
			},
			result: []string{"data stream", "index", "alias", ""},
		},
		"data streams without template": {
			call: func(ctx context.Context, c *Client) (any, error) {
				without, known, err := c.WithoutTemplate(ctx, "logs-a", "logs-b", "traces", "none")
				return []any{without, known}, err
			},
			answers: map[string]string{"GET /_index_template": `{"index_templates":[
				{"name":"1","index_template":{"index_patterns":["logs-*","traces"],"data_stream":{"timestamp_field":{"name":"@timestamp"}}}},
				{"name":"2","index_template":{"index_patterns":["logs-b"],"priority":5}}]}`},
			want: []string{"GET /_index_template"}, result: []any{[]string{"logs-b", "none"}, true},
		},
		"templates that cannot be seen": {
			call: func(ctx context.Context, c *Client) (any, error) {
				without, known, err := c.WithoutTemplate(ctx, "d")
				return []any{len(without), known}, err
			},
			answers: map[string]string{"GET /_index_template": `401 {"Message":"Your request: '/_index_template' is not allowed."}`},
			result:  []any{0, false},
		},
		"compatibility override": {
			call: func(ctx context.Context, c *Client) (any, error) { return c.Info(ctx) },
			answers: map[string]string{"GET /": `{"version":{"number":"7.10.2"},"tagline":"The OpenSearch Project: https://opensearch.org/"}`,
				"GET /_nodes": `{"nodes":{"x":{"version":"1.3.20"},"y":{"version":"1.2.4"}}}`},
			want:   []string{"GET /", "GET /_nodes?filter_path=nodes.%2A.version"},
			result: Version{Distribution: OpenSearch, Number: "1.2.4", Major: 1, Minor: 2, Patch: 4},
		},
		"not a cluster": {
			call:    func(ctx context.Context, c *Client) (any, error) { return c.Info(ctx) },
			answers: map[string]string{"GET /": `{"hello":"world"}`},
			want:    []string{"GET /"}, fault: fault.Unclassified,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := &script{answers: test.answers}
			c := serve(t, s)
			got, err := test.call(t.Context(), c)
			if test.fault == "" && err != nil {
				t.Fatalf("error: %v", err)
			}
			if test.fault != "" && !fault.Is(err, test.fault) {
				t.Fatalf("error %v, want %s", err, test.fault)
			}
			if (test.want != nil || test.fault == fault.InvalidInput) && !reflect.DeepEqual(s.requests, test.want) {
				t.Errorf("requests:\n%s\nwant:\n%s", strings.Join(s.requests, "\n"), strings.Join(test.want, "\n"))
			}
			if test.result != nil && !reflect.DeepEqual(got, test.result) {
				t.Errorf("got %+v\nwant %+v", got, test.result)
			}
		})
	}
}

func TestLongListsAreSentInParts(t *testing.T) {
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("logs-of-a-rather-long-name-%04d", i))
	}
	var parts int
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.URL.EscapedPath()) > 3500 {
			t.Errorf("a path of %d bytes", len(r.URL.EscapedPath()))
		}
		parts++
		answer := map[string]any{}
		for _, n := range strings.Split(strings.Trim(strings.TrimSuffix(r.URL.Path, "/_settings"), "/"), ",") {
			answer[n] = map[string]any{"settings": map[string]any{"index.uuid": n}}
		}
		json.NewEncoder(w).Encode(answer)
	}))
	got, err := c.IndexSettings(t.Context(), names...)
	if err != nil || len(got) != 300 || got[names[299]]["index.uuid"] != names[299] || parts < 3 {
		t.Fatalf("%d indices in %d parts, error %v", len(got), parts, err)
	}
}

func TestVersions(t *testing.T) {
	for id, want := range map[string]string{
		"7100299": "elasticsearch 7.10.2", "6080099": "elasticsearch 6.8.0", "8080299": "elasticsearch 8.8.2",
		"135217827": "opensearch 1.0.0", "135249827": "opensearch 1.3.20", "136407827": "opensearch 2.19.0", "137287827": "opensearch 3.7.0",
		"": "", "x": "", "-1": "", "0": "", "8503000": "", "134217728": "", "99999999999999": "",
	} {
		d, major, minor, patch, err := DecodeCreatedVersion(id)
		got := fmt.Sprintf("%s %d.%d.%d", d, major, minor, patch)
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
	v := Version{Distribution: OpenSearch, Major: 1, Minor: 3}
	for _, test := range []struct {
		d     string
		x, y  int
		wants bool
	}{{OpenSearch, 1, 3, true}, {OpenSearch, 2, 0, false}, {Elasticsearch, 7, 10, true}, {Elasticsearch, 7, 11, false}, {Elasticsearch, 6, 8, true}} {
		if v.AtLeast(test.d, test.x, test.y) != test.wants {
			t.Errorf("opensearch 1.3 at least %s %d.%d: want %v", test.d, test.x, test.y, test.wants)
		}
	}
	if (Version{Distribution: Elasticsearch, Major: 7, Minor: 10}).AtLeast(OpenSearch, 1, 0) {
		t.Error("Elasticsearch counts as OpenSearch")
	}
}
