package cluster

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/fault"
)

func FuzzClassify(f *testing.F) {
	for _, r := range recordings(f) {
		f.Add(r.Status, r.wire())
	}
	f.Add(500, []byte(`{"error":{"root_cause":[{"root_cause":[{}]}],"caused_by":{"caused_by":{}}}}`))
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
	})
}

// canned answers every request with 200 and one body.
type canned []byte

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	body := string(c)
	if r.URL.Path == "/" {
		body = rootOS219
	}
	return &http.Response{StatusCode: 200, Request: r, Body: io.NopCloser(strings.NewReader(body))}, nil
}

func FuzzAnswers(f *testing.F) {
	for _, r := range recordings(f) {
		if r.Status < 300 {
			f.Add([]byte(r.wire()))
		}
	}
	f.Add([]byte(`null`))
	f.Add([]byte(`[null]`))
	f.Add([]byte(`{"a":null,"s":{},"indices":{"a":{"shards":{"0":[{"routing":{"primary":true}}]}}}}`))
	f.Add([]byte(`{"docs":[{}],"hits":{"hits":[{}]},"snapshots":[{"snapshot":"s","failures":[{}]}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, ctx := New("http://cluster", canned(body)), t.Context()
		New("http://cluster", roundTrip(body)).Info(ctx)
		c.Health(ctx)
		c.DiskFree(ctx)
		c.Indices(ctx)
		c.DataStreams(ctx)
		c.Holder(ctx, "a")
		c.WithoutTemplate(ctx, "a")
		c.Repository(ctx, "s")
		c.RunningSnapshots(ctx)
		c.Snapshot(ctx, "r", "s")
		c.SnapshotProgress(ctx, "r", "s")
		c.Recoveries(ctx, "a")
		c.Shards(ctx, "a")
		c.ExplainAllocation(ctx, "a", 0, true)
		c.SequenceNumbers(ctx, "a")
		c.IndexSettings(ctx, "a")
		c.Mappings(ctx, "a")
		c.Aliases(ctx, "a")
		c.SampleDocuments(ctx, "a", []SeqRange{{0, 1}}, 1)
		c.GetDocuments(ctx, "a", []DocumentKey{{ID: "1"}})
		c.Close(ctx, "a")
		c.AddWriteBlock(ctx, "a")
		c.Refresh(ctx, "a")
	})
}

// roundTrip answers everything, the root included, with one body.
type roundTrip []byte

func (b roundTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Request: r, Body: io.NopCloser(strings.NewReader(string(b)))}, nil
}
