package cluster

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/fault"
)

var aSource = json.RawMessage(`{"n":1}`)

// everyCall has each method of Client that speaks to the cluster, with arguments that are sent.
var everyCall = map[string]func(ctx context.Context, c *Client) error{
	"Info":          func(ctx context.Context, c *Client) error { _, err := c.Info(ctx); return err },
	"Health":        func(ctx context.Context, c *Client) error { _, err := c.Health(ctx); return err },
	"DiskFree":      func(ctx context.Context, c *Client) error { _, err := c.DiskFree(ctx); return err },
	"Indices":       func(ctx context.Context, c *Client) error { _, err := c.Indices(ctx); return err },
	"IndexSettings": func(ctx context.Context, c *Client) error { _, err := c.IndexSettings(ctx, "a"); return err },
	"UpdateSettings": func(ctx context.Context, c *Client) error {
		return c.UpdateSettings(ctx, map[string]any{"index.x": 1}, "a")
	},
	"AddWriteBlock": func(ctx context.Context, c *Client) error { return c.AddWriteBlock(ctx, "a") },
	"Close":         func(ctx context.Context, c *Client) error { return c.Close(ctx, "a") },
	"Open":          func(ctx context.Context, c *Client) error { return c.Open(ctx, "a") },
	"CreateIndex":   func(ctx context.Context, c *Client) error { return c.CreateIndex(ctx, "a", nil, aSource) },
	"DeleteIndex":   func(ctx context.Context, c *Client) error { return c.DeleteIndex(ctx, "a") },
	"Refresh":       func(ctx context.Context, c *Client) error { return c.Refresh(ctx, "a") },
	"Mappings":      func(ctx context.Context, c *Client) error { _, err := c.Mappings(ctx, "a"); return err },
	"PutMapping":    func(ctx context.Context, c *Client) error { return c.PutMapping(ctx, "a", aSource) },
	"Aliases":       func(ctx context.Context, c *Client) error { _, err := c.Aliases(ctx, "a"); return err },
	"UpdateAliases": func(ctx context.Context, c *Client) error {
		return c.UpdateAliases(ctx, []AliasAction{{Index: "a", Alias: "b"}})
	},
	"Describe":         func(ctx context.Context, c *Client) error { _, err := c.Describe(ctx, "a"); return err },
	"DataStreams":      func(ctx context.Context, c *Client) error { _, err := c.DataStreams(ctx); return err },
	"DeleteDataStream": func(ctx context.Context, c *Client) error { return c.DeleteDataStream(ctx, "a") },
	"Holder":           func(ctx context.Context, c *Client) error { _, err := c.Holder(ctx, "a"); return err },
	"WithoutTemplate":  func(ctx context.Context, c *Client) error { _, _, err := c.WithoutTemplate(ctx, "a"); return err },
	"StatePolicies":    func(ctx context.Context, c *Client) error { _, _, err := c.StatePolicies(ctx); return err },
	"Identity":         func(ctx context.Context, c *Client) error { _, _, err := c.Identity(ctx); return err },
	"Access": func(ctx context.Context, c *Client) error {
		_, err := c.Access(ctx, "a", access.RoleMapping)
		return err
	},
	"SetAccess": func(ctx context.Context, c *Client) error {
		text := "{}"
		return c.SetAccess(ctx, "a", access.RoleMapping, &text)
	},
	"Repository":       func(ctx context.Context, c *Client) error { _, _, err := c.Repository(ctx, "a"); return err },
	"PutRepository":    func(ctx context.Context, c *Client) error { return c.PutRepository(ctx, "a", Repository{Type: "s3"}) },
	"RunningSnapshots": func(ctx context.Context, c *Client) error { _, err := c.RunningSnapshots(ctx); return err },
	"Snapshot":         func(ctx context.Context, c *Client) error { _, _, err := c.Snapshot(ctx, "r", "a"); return err },
	"CreateSnapshot": func(ctx context.Context, c *Client) error {
		return c.CreateSnapshot(ctx, "r", "a", SnapshotRequest{Indices: []string{"a"}})
	},
	"DeleteSnapshot":   func(ctx context.Context, c *Client) error { return c.DeleteSnapshot(ctx, "r", "a") },
	"SnapshotProgress": func(ctx context.Context, c *Client) error { _, _, err := c.SnapshotProgress(ctx, "r", "a"); return err },
	"Restore": func(ctx context.Context, c *Client) error {
		return c.Restore(ctx, "r", "a", RestoreRequest{Indices: []string{"a"}})
	},
	"Recoveries": func(ctx context.Context, c *Client) error { _, err := c.Recoveries(ctx, "a"); return err },
	"Shards":     func(ctx context.Context, c *Client) error { _, err := c.Shards(ctx, "a"); return err },
	"ExplainAllocation": func(ctx context.Context, c *Client) error {
		_, err := c.ExplainAllocation(ctx, "a", 0, true)
		return err
	},
	"SequenceNumbers":   func(ctx context.Context, c *Client) error { _, err := c.SequenceNumbers(ctx, "a"); return err },
	"ShardHistories":    func(ctx context.Context, c *Client) error { _, err := c.ShardHistories(ctx, "a"); return err },
	"ClusterSettings":   func(ctx context.Context, c *Client) error { _, err := c.ClusterSettings(ctx); return err },
	"PutClusterSetting": func(ctx context.Context, c *Client) error { return c.PutClusterSetting(ctx, "x", 1) },
	"SampleDocuments": func(ctx context.Context, c *Client) error {
		_, err := c.SampleDocuments(ctx, "a", []SeqRange{{0, 9}}, 3)
		return err
	},
	"GetDocuments": func(ctx context.Context, c *Client) error {
		_, err := c.GetDocuments(ctx, "a", []DocumentKey{{ID: "1"}})
		return err
	},
	"LatestDocuments": func(ctx context.Context, c *Client) error {
		_, err := c.LatestDocuments(ctx, "a", []DocumentKey{{ID: "1"}}, true)
		return err
	},
	"ShardDocuments": func(ctx context.Context, c *Client) error {
		_, err := c.ShardDocuments(ctx, "a", 0, []SeqRange{{0, 9}}, 3, true)
		return err
	},
	"ShardCounts": func(ctx context.Context, c *Client) error {
		_, err := c.ShardCounts(ctx, "a", 0, []SeqRange{{0, 4}, {5, 9}})
		return err
	},
	"ShardCounts of one": func(ctx context.Context, c *Client) error {
		_, err := c.ShardCounts(ctx, "a", 0, []SeqRange{{0, 4}})
		return err
	},
	"ShardHistogram": func(ctx context.Context, c *Client) error {
		_, err := c.ShardHistogram(ctx, "a", 0, []SeqRange{{0, 9}}, 2)
		return err
	},
	"ShardCensus": func(ctx context.Context, c *Client) error {
		_, _, err := c.ShardCensus(ctx, "a", 0, 9, 2)
		return err
	},
	"BulkWrite": func(ctx context.Context, c *Client) error {
		_, err := c.BulkWrite(ctx, "a", []Write{{DocumentKey: DocumentKey{ID: "1"}, Source: aSource, Version: 1}})
		return err
	},
	"BulkWrite a removal": func(ctx context.Context, c *Client) error {
		_, err := c.BulkWrite(ctx, "a", []Write{{DocumentKey: DocumentKey{ID: "1"}, SeqNo: 1}})
		return err
	},
}

func TestEveryCallIsTried(t *testing.T) {
	kind := reflect.TypeFor[*Client]()
	for i := range kind.NumMethod() {
		if name := kind.Method(i).Name; name != "Endpoint" && everyCall[name] == nil {
			t.Errorf("%s is not in everyCall, so that no hostile answer is tried on it", name)
		}
	}
}

// anywhere is an object that has the value wherever an answer may have one.
func anywhere(value string) string {
	fields := []string{
		"cluster_name", "version", "status", "number_of_nodes", "nodes", "a", "r", "acknowledged", "accepted", "snapshots", "indices", "data_streams", "aliases",
		"index_templates", "policies", "_shards", "hits", "docs", "items", "aggregations", "persistent", "current_state", "unassigned_info", "metadata", "state", "shards",
	}
	return `{"` + strings.Join(fields, `":`+value+`,"`) + `":` + value + `}`
}

// manyObjects are more than are taken, at three bytes each.
var manyObjects = strings.Repeat("{},", maxValues/objectWeight)

// hostile are answers that no cluster gives. What is said of each is that it ends as an error that costs little.
var hostile = map[string]func(w http.ResponseWriter){
	"an endless text": func(w http.ResponseWriter) { endless(w, `{"a":"`, "x") },
	"endless white":   func(w http.ResponseWriter) { endless(w, "", " ") },
	"an endless refusal": func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusInternalServerError)
		endless(w, `{"error":"`, "x")
	},
	"endless, packed": func(w http.ResponseWriter) {
		w.Header().Set("Content-Encoding", "gzip")
		endless(gzip.NewWriter(w), `{"a":"`, "x")
	},
	"a million brackets":    say(200, strings.Repeat("[", 1_000_000)),
	"a million objects":     say(200, strings.Repeat(`{"a":`, 1_000_000)),
	"brackets that close":   say(200, anywhere(strings.Repeat("[", 200)+strings.Repeat("]", 200))),
	"a refusal of brackets": say(500, `{"error":`+strings.Repeat("[", 300_000)+strings.Repeat("]", 300_000)+`}`),
	"millions of objects":   say(200, `{"a":[`+manyObjects+`{}]}`),
	"a list of millions":    say(200, "["+manyObjects+"{}]"),
	"a string":              say(200, `"hello"`),
	"a number":              say(200, "7"),
	"null":                  say(200, "null"),
	"nothing":               say(200, ""),
	"a page":                say(200, "<html><body>Please log in</body></html>"),
	"strings in it":         say(200, anywhere(`"hello"`)),
	"lists of strings":      say(200, `["hello"]`),
	"invalid UTF-8":         say(200, `{"a":{"b":"`+"\xff\xfe"+`"},"_shards":{"total":1,"successful":1},"hits":{"hits":[{"_id":"`+"\xff"+`"}]},"docs":[{"_id":"`+"\xc0\xaf"+`"}],"items":[{"index":{"status":200}}],"acknowledged":true,"accepted":true}`),
	"numbers too large":     say(200, anywhere("1e999")),
	"longer numbers":        say(200, anywhere(strings.Repeat("9", 2_000))),
	"truncated":             func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100"); io.WriteString(w, `{"a":`) },
	"cut in a chunk": func(w http.ResponseWriter) {
		io.WriteString(w, `{"acknowledged":true,"accepted":true}`)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	},
	"cut JSON":           say(200, `{"acknowledged":true,"accepted":tr`),
	"two documents":      say(200, `{"acknowledged":true,"accepted":true}{}`),
	"an invalid refusal": say(503, "\xff\xfe\x00<html>"),
}

func say(status int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// endless writes until the client has gone.
func endless(w io.Writer, start, more string) {
	io.WriteString(w, start)
	chunk := []byte(strings.Repeat(more, 64<<10))
	for {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// TestHostileAnswers tries each answer on each call: an error that names domain and request, little memory, no panic.
func TestHostileAnswers(t *testing.T) {
	var answer func(http.ResponseWriter)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer == nil {
			io.WriteString(w, rootOS219)
			return
		}
		answer(w)
	}))
	defer server.Close()
	c := New(server.URL, server.Client().Transport)
	for _, kind := range slices.Sorted(maps.Keys(hostile)) {
		t.Run(kind, func(t *testing.T) {
			for _, name := range slices.Sorted(maps.Keys(everyCall)) {
				// All calls read in one way; what differs is the limit.
				if strings.HasPrefix(kind, "endless") && !slices.Contains([]string{"Health", "Indices", "BulkWrite", "GetDocuments"}, name) {
					continue
				}
				answer = nil
				if _, err := c.Info(t.Context()); err != nil { // most calls need the version
					t.Fatal(err)
				}
				answer = hostile[kind]
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				err := everyCall[name](t.Context(), c)
				runtime.ReadMemStats(&after)
				f, ok := fault.As(err)
				if !ok {
					t.Errorf("%s: %v is no fault", name, err)
					continue
				}
				if _, known := fault.Lookup(f.Name); !known || f.Op == "" || !strings.Contains(err.Error(), f.Op) || !strings.Contains(err.Error(), server.URL) || len(err.Error()) > 4096 {
					t.Errorf("%s: the error does not name the domain and the request, or is too long: %.1000s", name, err)
				}
				if allocated := after.TotalAlloc - before.TotalAlloc; allocated > memoryOf(name) {
					t.Errorf("%s took %d MB (%v)", name, allocated>>20, err)
				}
			}
		})
	}
}

// What is taken although it was made to be large: bytes say little of what they unfold to.
func TestMemoryOfWhatIsTaken(t *testing.T) {
	objects := strings.Repeat(`{"":0},`, maxValues/(objectWeight+1)-8)
	c := serve(t, &script{answers: map[string]string{"GET /_cluster/settings": `{"persistent":{"a":[` + objects + `{}]}}`}})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.ClusterSettings(t.Context())
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; err != nil || allocated > 5*maxAnswer {
		t.Errorf("it took %d MB, %v", allocated>>20, err)
	}
}

// memoryOf is what a call may allocate in all, much of it garbage at once: the buffer of an answer grows to some four times its limit.
func memoryOf(call string) uint64 {
	switch call {
	case "SampleDocuments", "GetDocuments", "LatestDocuments":
		return 5 * maxDocuments
	}
	return 5 * maxAnswer
}

// What is no list of indices is refused, because names and numbers of it become requests and plans.
func TestImpossibleIndices(t *testing.T) {
	for name, row := range map[string]string{
		"a path":          `{"index":"../../other","pri":"1"}`,
		"a wildcard":      `{"index":"a*","pri":"1"}`,
		"no name":         `{"pri":"1"}`,
		"no number":       `{"index":"a","pri":"one"}`,
		"too many shards": `{"index":"a","pri":"99999999"}`,
		"beyond integers": `{"index":"a","pri":"1","docs.count":"99999999999999999999"}`,
		"fewer than none": `{"index":"a","pri":"1","docs.count":"-4"}`,
	} {
		s := &script{answers: map[string]string{"GET /": rootOS219, "GET /_cat/indices": "[" + row + "]", "GET /_all/_settings": `{"a":{"settings":{}},"a*":{},"../../other":{},"":{}}`}}
		if list, err := serve(t, s).Indices(t.Context()); !fault.Is(err, fault.Unclassified) {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
}

func TestImpossibleSequenceNumbers(t *testing.T) {
	of := func(shard, max string) string {
		return `{"_shards":{"total":1},"indices":{"a":{"shards":{"` + shard + `":[{"routing":{"primary":true},"seq_no":{"max_seq_no":` + max + `,"local_checkpoint":1,"global_checkpoint":1}}]}}}}`
	}
	for stats, ok := range map[string]bool{of("0", "9007199254740992"): true, of("0", "9007199254740993"): false, of("-1", "1"): false, of("99999", "1"): false, of("x", "1"): false} {
		s := &script{answers: map[string]string{"GET /a/_stats/docs": stats}}
		if got, err := serve(t, s).SequenceNumbers(t.Context(), "a"); (err == nil) != ok {
			t.Errorf("%s: %+v, %v", stats, got, err)
		}
	}
}

// A page out of order, or with what was not asked for, would make a replay leave documents out or read for ever.
func TestImpossiblePages(t *testing.T) {
	page := func(numbers ...string) string {
		hits := make([]string, len(numbers))
		for i, n := range numbers {
			hits[i] = `{"_id":"` + n + `","_seq_no":` + n + `}`
		}
		return `{"_shards":{"total":1,"successful":1},"hits":{"hits":[` + strings.Join(hits, ",") + `]}}`
	}
	for answer, ok := range map[string]bool{
		page("3", "4", "8"): true, page("4", "3"): false, page("2"): false, page("6"): false, page("9"): false, page("3", "4", "5", "8"): false,
		page("9223372036854775807"): false, page("-7"): false,
	} {
		s := &script{answers: map[string]string{"GET /": rootES710, "POST /a/_search": answer}}
		if got, err := serve(t, s).ShardDocuments(t.Context(), "a", 0, []SeqRange{{2, 5}, {7, 8}}, 3, false); (err == nil) != ok {
			t.Errorf("%s: %+v, %v", answer, got, err)
		}
	}
	counts := func(keys ...string) string {
		return `{"_shards":{"total":1,"successful":1},"aggregations":{"r":{"buckets":[{"key":"` + strings.Join(keys, `","doc_count":3},{"key":"`) + `","doc_count":3}]}}}`
	}
	for answer, ok := range map[string]bool{counts("1", "0"): true, counts("0", "0"): false, counts("0", "2"): false, counts("0"): false, counts("0", "-1"): false} {
		s := &script{answers: map[string]string{"GET /": rootES710, "POST /a/_search": answer}}
		if got, err := serve(t, s).ShardCounts(t.Context(), "a", 0, []SeqRange{{0, 4}, {4, 9}}); (err == nil) != ok {
			t.Errorf("%s: %v, %v", answer, got, err)
		}
	}
	for key, ok := range map[string]bool{"4": true, "4.5": false, "-2": false, "1e300": false} {
		s := &script{answers: map[string]string{"GET /": rootES710, "POST /a/_search": `{"_shards":{"total":1,"successful":1},"aggregations":{"h":{"buckets":[{"key":` + key + `,"doc_count":3}]}}}`}}
		if got, err := serve(t, s).ShardHistogram(t.Context(), "a", 0, []SeqRange{{0, 9}}, 2); (err == nil) != ok {
			t.Errorf("%s: %v, %v", key, got, err)
		}
	}
	for answer, ok := range map[string]bool{
		`{"items":[{"index":{"status":201,"_seq_no":4}}]}`: true, `{"items":[{}]}`: false, `{"items":[{"index":{}}]}`: false, `{"items":[]}`: false,
		`{"items":[{"index":{"status":201},"delete":{"status":200}}]}`: false,
	} {
		s := &script{answers: map[string]string{"GET /": rootES710, "POST /a/_bulk": answer}}
		got, err := serve(t, s).BulkWrite(t.Context(), "a", []Write{{DocumentKey: DocumentKey{ID: "1"}, Source: aSource, Version: 1}})
		if (err == nil) != ok || !ok && !fault.Is(err, fault.OutcomeUnknown) {
			t.Errorf("%s: %v, %v", answer, got, err)
		}
	}
}

// The source of a document may be any bytes, its id may not: encoding/json would make it another one.
func TestBytesThatAreNoText(t *testing.T) {
	search := func(id, source string) map[string]string {
		hit := `{"_id":"` + id + `","_seq_no":3,"found":true,"_source":{"n":"` + source + `"}}`
		return map[string]string{"GET /": rootES710, "POST /a/_search": `{"_shards":{"total":1,"successful":1},"hits":{"hits":[` + hit + `]}}`, "POST /a/_mget": `{"docs":[` + hit + `]}`}
	}
	for _, call := range []string{"ShardDocuments", "SampleDocuments", "LatestDocuments", "GetDocuments"} {
		if err := everyCall[call](t.Context(), serve(t, &script{answers: search("1", "\xed\xa0\x80")})); err != nil {
			t.Errorf("%s: a source is any bytes: %v", call, err)
		}
		if err := everyCall[call](t.Context(), serve(t, &script{answers: search("\xff", "x")})); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%s: an id is text: %v", call, err)
		}
	}
}

// Where the answer about many indices or documents is too large, less is asked for.
func TestTooLargeAnswersAreAskedForInParts(t *testing.T) {
	var asked []string
	many := strings.Repeat(" ", maxAnswer) + "{}"
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		names := strings.Split(strings.Trim(strings.TrimSuffix(r.URL.Path, "/_settings"), "/"), ",")
		asked = append(asked, strings.Join(names, "+"))
		if len(names) > 2 {
			io.WriteString(w, many)
			return
		}
		answer := map[string]any{}
		for _, n := range names {
			answer[n] = map[string]any{"settings": map[string]any{"index.uuid": "u-" + n}}
		}
		json.NewEncoder(w).Encode(answer)
	}))
	got, err := c.IndexSettings(t.Context(), "a", "b", "c", "d", "e")
	if err != nil || len(got) != 5 || got["e"]["index.uuid"] != "u-e" {
		t.Errorf("%v, %v", got, err)
	}
	if want := []string{"a+b+c+d+e", "a+b+c", "a+b", "c", "d+e"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
}

// A change whose answer is refused may have been made; it is not asked for again in parts.
func TestHostileAnswersToChanges(t *testing.T) {
	asked := 0
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		io.WriteString(w, strings.Repeat(" ", smallAnswer)+ack)
	}))
	if err := c.UpdateSettings(t.Context(), map[string]any{"index.x": 1}, "a", "b"); !fault.Is(err, fault.OutcomeUnknown) || asked != 1 {
		t.Errorf("asked %d times, %v", asked, err)
	}
}

func TestMeasure(t *testing.T) {
	nested := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, c := range map[string]struct {
		raw    string
		opaque int
		ok     bool
	}{
		"as deep as may be":      {nested(maxDepth), 0, true},
		"deeper":                 {nested(maxDepth + 1), 0, false},
		"deeper below":           {nested(maxDepth + 1), 3, true},
		"brackets in a text":     {`["` + nested(maxDepth+1) + `\"` + nested(maxDepth) + `"]`, 0, true},
		"as many as may be":      {`[` + strings.Repeat("1,", maxValues-1) + `1]`, 0, true},
		"more":                   {`[` + strings.Repeat("1,", maxValues) + `1]`, 0, false},
		"more below":             {`[[` + strings.Repeat("1,", maxValues) + `1]]`, 1, true},
		"objects weigh more":     {`[` + strings.Repeat("{},", maxValues/objectWeight) + `1]`, 0, false},
		"a text without its end": {`["a\`, 0, true},
	} {
		if err := measure([]byte(c.raw), c.opaque); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
