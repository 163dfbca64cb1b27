package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
)

// recording is an answer of a real node; testdata/responses.jsonl holds a selection.
type recording struct {
	Row    int             `json:"row"`
	Engine string          `json:"engine"`
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Status int             `json:"status"`
	Body   json.RawMessage `json:"body"`
}

// wire returns the body as it was sent: texts were recorded as JSON strings.
func (r recording) wire() []byte {
	var s string
	if json.Unmarshal(r.Body, &s) == nil {
		return []byte(s)
	}
	return r.Body
}

func recordings(t testing.TB) []recording {
	t.Helper()
	f, err := os.Open("testdata/responses.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []recording
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r recording
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	if len(out) < 100 {
		t.Fatalf("only %d recordings", len(out))
	}
	return out
}

// recordedFaults says of each recorded refusal (by row) which fault it is; RequestRefused where nothing is said.
var recordedFaults = map[fault.Name][]int{
	fault.AccessDenied:      {0, 5, 8, 45, 148, 223},
	fault.Busy:              {560, 563, 570, 571, 574, 589, 607, 723, 943, 1117, 1118},
	fault.RepositoryRefused: {11, 225, 262, 263, 264, 286, 287, 288, 290, 329, 330, 353, 417, 418, 485},
	fault.RepositoryCorrupt: {680, 688, 770, 776, 883, 886},
	fault.SnapshotFailed:    {618, 625, 698, 705, 906},
	fault.Incompatible:      {1023, 1037, 1041, 1049, 1061, 1063, 1065, 1074, 1081},
	fault.Unavailable:       {587, 592, 603, 944},
}

func TestRecordedRefusals(t *testing.T) {
	want := map[int]fault.Name{}
	for name, rows := range recordedFaults {
		for _, row := range rows {
			want[row] = name
		}
	}
	seen := 0
	for _, r := range recordings(t) {
		if r.Status < 400 {
			continue
		}
		name, ok := want[r.Row]
		if !ok {
			name = fault.RequestRefused
		} else {
			seen++
		}
		err := classify("try", "here", r.Method != "GET", &http.Response{StatusCode: r.Status}, r.wire())
		f, _ := fault.As(err)
		if f == nil || f.Name != name || f.Status != r.Status || f.Advice() == "" {
			t.Errorf("row %d, %s %s %d: %v (%s), want %s", r.Row, r.Engine, r.Method, r.Status, err, f.Name, name)
		}
	}
	if seen != len(want) {
		t.Errorf("%d of %d rows of the table are recorded", seen, len(want))
	}
}

// TestKnownTexts has the texts of failures that no plain node shows, each with a word of the hint that belongs to it.
func TestKnownTexts(t *testing.T) {
	engine := func(kind, reason string, caused ...string) string {
		e := map[string]any{"type": kind, "reason": reason, "root_cause": []any{map[string]any{"type": kind, "reason": reason}}}
		if len(caused) == 2 {
			e["caused_by"] = map[string]any{"type": "exception", "reason": "outer", "caused_by": map[string]any{"type": caused[0], "reason": caused[1]}}
		}
		b, _ := json.Marshal(map[string]any{"error": e, "status": 500})
		return string(b)
	}
	message := func(key, text string) string {
		b, _ := json.Marshal(map[string]string{key: text})
		return string(b)
	}
	tests := []struct {
		status int
		body   string
		name   fault.Name
		hint   string
	}{
		{403, message("Message", "User: arn:aws:iam::123456789012:user/x is not authorized to perform: iam:PassRole on resource: arn:aws:iam::123456789012:role/s"), fault.AccessDenied, "own account"},
		{403, message("Message", "User: anonymous is not authorized to perform: iam:PassRole on resource: arn:aws:iam::123456789012:role/s"), fault.AccessDenied, "not signed"},
		{500, engine("repository_exception", "[r] failed", "a_w_s_security_token_service_exception", "User: arn:x is not authorized to perform: sts:AssumeRole on resource: y"), fault.AccessDenied, "trust policy"},
		{403, engine("security_exception", "no permissions for [cluster:admin/snapshot/restore] and User [name=x]"), fault.AccessDenied, "manage_snapshots"},
		{403, engine("security_exception", "no permissions for [] and User [name=x]"), fault.AccessDenied, "global state"},
		{403, engine("security_exception", "no permissions for [indices:admin/close] and User [name=x]"), fault.AccessDenied, "not enough"},
		{403, message("Message", "User: anonymous is not authorized to perform: es:ESHttpGet"), fault.AccessDenied, "not signed"},
		{403, message("message", "The request signature we calculated does not match the signature you provided."), fault.AccessDenied, "Region"},
		{403, message("message", "The security token included in the request is expired"), fault.AccessDenied, "expired"},
		{401, "Unauthorized", fault.AccessDenied, ""},
		{403, "", fault.AccessDenied, ""},
		{500, engine("snapshot_restore_exception", "[r:s/u] cannot restore index [.kibana_1] because it's open"), fault.RequestRefused, "closed"},
		{500, engine("snapshot_restore_exception", "[r:s/u] cannot restore index [x] with [1] shards from a snapshot of index [x] with [2] shards"), fault.RequestRefused, "primary shards"},
		{503, engine("concurrent_snapshot_execution_exception", "[r:s] a snapshot is already running"), fault.Busy, ""},
		{503, engine("concurrent_snapshot_execution_exception", "[r:s] Restore process is already running in this cluster"), fault.Busy, ""},
		{500, engine("remote_transport_exception", "[n][x]", "snapshot_in_progress_exception", "Cannot delete indices that are being snapshotted: [[x]]"), fault.Busy, ""},
		{500, engine("snapshot_restore_exception", "cannot restore index [x] because it cannot be upgraded", "illegal_state_exception", "was created with version [6.8.0] but the minimum compatible version is [7.0.0]"), fault.Incompatible, "Reindex"},
		{500, engine("snapshot_restore_exception", "the snapshot was created with Elasticsearch version [7.6.0] which is higher than the version of this node [7.5.0]"), fault.Incompatible, "destination"},
		{500, engine("repository_verification_exception", "[r] path [p] is not accessible on cluster_manager node", "amazon_s3_exception", "Access Denied (Service: Amazon S3; Status Code: 403)"), fault.RepositoryRefused, "s3:ListBucket"},
		{500, engine("repository_verification_exception", "[r] path [p] is not accessible on master node", "i_o_exception", "Unable to upload object [tests-x/master.dat] using a single upload"), fault.RepositoryRefused, "wait some minutes"},
		{500, engine("repository_exception", "[r] x", "amazon_s3_exception", "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'"), fault.RepositoryRefused, "endpoint"},
		{500, engine("repository_exception", "[r] Could not read repository data because the contents of the repository do not match its expected state."), fault.RepositoryCorrupt, "read-only"},
		{500, engine("repository_exception", "[r] concurrent modification of the index-N file, expected current generation [2]"), fault.RepositoryCorrupt, "read-only"},
		{500, engine("illegal_state_exception", "trying to modify or unregister repository that is currently used"), fault.Busy, ""},
		{404, engine("repository_missing_exception", "[r] missing"), fault.RepositoryRefused, "not registered"},
		{404, engine("snapshot_missing_exception", "[r:s] is missing"), fault.RequestRefused, ""},
		{404, engine("snapshot_missing_exception", "[r:s/u] is missing", "no_such_file_exception", "Blob object [base/snap-u.dat] not found: NoSuchKey"), fault.RepositoryCorrupt, "lifecycle"},
		{500, engine("snapshot_exception", "x", "amazon_s3_exception", "The operation is not valid for the object's storage class"), fault.RepositoryRefused, "archive"},
		{400, engine("validation_exception", "Validation Failed: 1: this action would add [2] shards, but this cluster currently has [1000]/[1000] maximum normal shards open;"), fault.RequestRefused, "max_shards_per_node"},
		{400, engine("illegal_argument_exception", "expected total copies needs to be a multiple of total awareness attributes [3]"), fault.RequestRefused, "standby"},
		{500, engine("illegal_state_exception", "alias [a] has more than one write index [x,y]"), fault.RequestRefused, "atomic"},
		{403, engine("cluster_block_exception", "index [b] blocked by: [FORBIDDEN/8/index write (api)];"), fault.RequestRefused, "write block"},
		{429, engine("cluster_block_exception", "index [b] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark, index has read-only-allow-delete block];"), fault.RequestRefused, "flood"},
		{403, engine("cluster_block_exception", "blocked by: [FORBIDDEN/6/cluster read-only (api)];"), fault.RequestRefused, "read-only"},
		{403, engine("cluster_block_exception", "blocked by: [FORBIDDEN/4/index closed];"), fault.RequestRefused, ""},
		{401, message("Message", "Your request: '/_cluster/settings' payload is not allowed."), fault.RequestRefused, "does not offer"},
		{401, message("Message", "Your request: '/_settings' is not allowed."), fault.RequestRefused, "does not offer"},
		{403, message("Message", "Request throttled due to too many requests"), fault.Throttled, ""},
		{429, "", fault.Throttled, ""},
		{503, engine("circuit_breaking_exception", "[parent] Data too large"), fault.Throttled, ""},
		{400, message("message", "Invalid Host Header"), fault.RequestRefused, "endpoint name"},
		{400, engine("invalid_snapshot_name_exception", "[r:s] Invalid snapshot name [s], snapshot with the same name already exists"), fault.RequestRefused, "another migration name"},
		{400, `{"error":"no handler found for uri [/x] and method [GET]","status":400}`, fault.RequestRefused, ""},
		{503, engine("master_not_discovered_exception", ""), fault.Unavailable, ""},
		{503, "<html>Service Unavailable</html>", fault.Unavailable, ""},
		{500, "", fault.Unavailable, ""},
		{302, "", fault.RequestRefused, "redirects"},
		{404, "null", fault.RequestRefused, ""},
	}
	for _, test := range tests {
		err := classify("try", "here", true, &http.Response{StatusCode: test.status}, []byte(test.body))
		f, _ := fault.As(err)
		if f.Name != test.name || !strings.Contains(f.Advice(), test.hint) {
			t.Errorf("%d %s:\n%s (%s), want %s (%s)", test.status, test.body, f.Name, f.Advice(), test.name, test.hint)
		}
	}
	// Every entry of the table is reached by one of the texts, here or among the recordings.
	reached := map[int]bool{}
	note := func(status int, body []byte) {
		text := parseRefusal(status, body).text()
		for i, s := range signatures {
			if s.text == nil || s.text.MatchString(text) {
				reached[i] = true
			}
		}
	}
	for _, test := range tests {
		note(test.status, []byte(test.body))
	}
	for _, r := range recordings(t) {
		note(r.Status, r.wire())
	}
	for i, s := range signatures {
		if _, known := fault.Lookup(s.name); !known {
			t.Errorf("%s: unknown fault name", s.id)
		}
		if !reached[i] && s.id != "package missing" && s.id != "ACL" && s.id != "retries exceeded" {
			t.Errorf("no test reaches signature %q", s.id)
		}
	}
}

func TestDiagnose(t *testing.T) {
	for text, want := range map[string]fault.Name{
		"shard has exceeded the maximum number of retries [5] on failed allocation attempts":               fault.RestoreFailed,
		"failed recovery; nested: IllegalArgumentException: IOException while reading analyzers/F12345":    fault.RestoreFailed,
		"NoSuchFileException[/b/indices/A1SG7mbySgylD7HkA-cB2Q/0/__0d16o8yHToq2lAqLKbvRzQ]":                fault.RepositoryCorrupt,
		"AccessControlListNotSupported: The bucket does not allow ACLs":                                    fault.RepositoryRefused,
		"the shard cannot be allocated to the same node on which a copy of the shard already exists [[b]]": fault.Unclassified,
	} {
		if name, _, _ := Diagnose(text); name != want {
			t.Errorf("%s: %s, want %s", text, name, want)
		}
	}
}

func TestOutcome(t *testing.T) {
	answer := func(status int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
	}
	cutOff := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		conn.Close()
	})
	halfAnswer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.Write([]byte(`{"acknowledged`))
	})
	notJSON := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`<html>welcome</html>`)) })
	slow := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // the server notices a client that went away only once the body is read
		<-r.Context().Done()
	})
	for name, test := range map[string]struct {
		handler      http.Handler
		read, mutate fault.Name
	}{
		"502":              {answer(502), fault.Unavailable, fault.OutcomeUnknown},
		"503":              {answer(503), fault.Unavailable, fault.Unavailable},
		"504":              {answer(504), fault.Unavailable, fault.OutcomeUnknown},
		"cut connection":   {cutOff, fault.Unavailable, fault.OutcomeUnknown},
		"half an answer":   {halfAnswer, fault.Unavailable, fault.OutcomeUnknown},
		"not JSON":         {notJSON, fault.Unavailable, fault.OutcomeUnknown},
		"client time-out":  {slow, fault.Unavailable, fault.OutcomeUnknown},
		"too many":         {answer(429), fault.Throttled, fault.Throttled},
		"no such endpoint": {answer(405), fault.RequestRefused, fault.RequestRefused},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, test.handler)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if _, err := c.Health(ctx); !fault.Is(err, test.read) {
				t.Errorf("read: %v, want %s", err, test.read)
			}
			ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			err := c.UpdateSettings(ctx, map[string]any{"index.blocks.write": true}, "a")
			if !fault.Is(err, test.mutate) {
				t.Errorf("mutating: %v, want %s", err, test.mutate)
			}
			if f, _ := fault.As(err); f != nil && f.Target != c.Endpoint() {
				t.Errorf("target %q", f.Target)
			}
		})
	}
	t.Run("refused connection", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c := New("http://"+l.Addr().String(), nil)
		l.Close()
		if err := c.DeleteIndex(t.Context(), "a"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%v: what was never sent is not unknown", err)
		}
	})
	t.Run("context already over", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := New("http://127.0.0.1:1", nil).DeleteIndex(ctx, "a")
		if !fault.Is(err, fault.Unavailable) || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("redirect is not followed", func(t *testing.T) {
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed") }))
		defer other.Close()
		c := serve(t, http.RedirectHandler(other.URL, http.StatusFound))
		if _, err := c.Health(t.Context()); !fault.Is(err, fault.RequestRefused) {
			t.Error(err)
		}
	})
	t.Run("bad endpoints", func(t *testing.T) {
		for _, endpoint := range []string{"https://user:s3cret@host", "https://user:s3cret@host:port", "ftp://host", "https://", "https://host?x=1"} {
			_, err := New(endpoint, nil).Health(t.Context())
			if !fault.Is(err, fault.InvalidInput) || strings.Contains(fmt.Sprint(err), "s3cret") {
				t.Errorf("%s: %v", endpoint, err)
			}
		}
	})
}

// TestRecordedAnswers decodes real answers of every engine.
func TestRecordedAnswers(t *testing.T) {
	byRow := map[int]recording{}
	for _, r := range recordings(t) {
		byRow[r.Row] = r
	}
	play := func(t *testing.T, row int) *Client {
		r, ok := byRow[row]
		if !ok {
			t.Fatalf("row %d is not in the selection", row)
		}
		return serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(r.wire()) }))
	}
	for row, want := range map[int]string{350: "elasticsearch-7.10.2", 414: "opensearch-1.3.20"} {
		if v, err := play(t, row).Info(t.Context()); err != nil || v.String() != want || v.ClusterUUID == "" {
			t.Errorf("row %d: %v, %v", row, v, err)
		}
	}
	for _, row := range []int{245, 311, 371, 505} {
		s, found, err := play(t, row).Snapshot(t.Context(), "r", "s1")
		if err != nil || !found || s.State != SnapshotSuccess || len(s.Indices) != 2 || s.Shards != (ShardCounts{3, 3, 0}) ||
			s.UUID == "" || !s.EndTime.After(s.StartTime) || (row != 311 && s.Metadata["k"] != "v") {
			t.Errorf("row %d: %+v, %v", row, s, err)
		}
	}
	for _, row := range []int{567, 719} {
		running, err := play(t, row).RunningSnapshots(t.Context())
		if err != nil || !reflect.DeepEqual(running, []RunningSnapshot{{"sl", "run1", "STARTED"}}) {
			t.Errorf("row %d: %+v, %v", row, running, err)
		}
	}
	p, found, err := play(t, 567).SnapshotProgress(t.Context(), "sl", "run1")
	if want := (IndexProgress{ShardsTotal: 1, IncrementalFiles: 13, IncrementalBytes: 18096232, ProcessedBytes: 479, TotalBytes: 18096232}); err != nil ||
		!found || p.State != "STARTED" || p.IndexProgress != want || p.Indices["big"] != want {
		t.Errorf("progress: %+v, %v", p, err)
	}
	for _, row := range []int{266, 332} {
		r, err := play(t, row).Recoveries(t.Context(), "ro-b")
		if err != nil || len(r) == 0 || r[0].Stage != "DONE" || r[0].Repository != "ro" || r[0].RecoveredBytes != r[0].TotalBytes || r[0].StopTime.IsZero() {
			t.Errorf("row %d: %+v, %v", row, r, err)
		}
	}
	for _, row := range []int{224, 284} {
		d, err := play(t, row).DiskFree(t.Context())
		if err != nil || len(d) != 1 || d[0].TotalBytes != 270553174016 || d[0].FreeBytes < 7e10 || d[0].FreeBytes > 8e10 {
			t.Errorf("row %d: %+v, %v", row, d, err)
		}
	}
	why, err := play(t, 799).ExplainAllocation(t.Context(), "x-mb", 0, true)
	if err != nil || len(why) > 4000 || !strings.Contains(why, "5 failed attempts") || !strings.Contains(why, "NoSuchFileException") || !strings.Contains(why, "max_retry") ||
		!strings.Contains(why, "in order to retry") {
		t.Errorf("explanation: %s, %v", why, err)
	}
	if name, _, known := Diagnose(why); !known || name != fault.RepositoryCorrupt {
		t.Errorf("diagnosis of the explanation: %s", name)
	}
	set, err := play(t, 120).IndexSettings(t.Context(), "demo")
	if err != nil || set["demo"]["index.number_of_replicas"] != "0" {
		t.Errorf("settings: %v, %v", set, err)
	}
}
