// Package workload is the clients of a rehearsal: it fills a source domain with documents, keeps writing while a migration
// runs, switches over to the destination, and at the end checks that every write that was acknowledged is there.
//
// It speaks plain REST (_bulk, _mget, _count, _refresh, index creation), the same on Elasticsearch 7.10, OpenSearch 1.3 to 3.7
// and the built-in domain model, and knows nothing of the migration: it sees the write downtime as any other client does.
package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// attemptTimeout bounds one request. A request that takes longer has an unknown outcome, as with any client.
const attemptTimeout = 60 * time.Second

// maxAnswer bounds how much of an answer is read, in bytes; a _bulk or _mget answer of this package stays far below.
const maxAnswer = 256 << 20

// Client reaches one domain: a node or the front door before it.
type Client struct {
	// URL is scheme, host and port, for example http://127.0.0.1:9200.
	URL string
	// Transport sends the requests and signs them where the domain wants it; nil means http.DefaultTransport.
	Transport http.RoundTripper
}

// answerError is an answer of the domain that is no success: the request was answered, so its outcome is known below 500.
type answerError struct {
	method, url string
	status      int
	kind        string // the error type, for example cluster_block_exception; empty when the body has none
	reason      string
}

func (e *answerError) Error() string {
	what := e.reason
	if e.kind != "" {
		what = e.kind + ": " + e.reason
	}
	return fmt.Sprintf("%s %s answered %d: %s", e.method, e.url, e.status, what)
}

// unknown says whether the request may have been carried out although no success was answered: DESIGN.md section 4 wants a
// 504, a time-out and a cut connection read so, and for a write every other 5xx is no safer.
func unknown(err error) bool {
	if answer, ok := errors.AsType[*answerError](err); ok {
		return answer.status >= 500
	}
	return true
}

// do sends one request and decodes the answer into out (nil: not decoded). A []byte body is sent as NDJSON, any
// other as JSON.
func (c Client) do(ctx context.Context, method, path string, body, out any) error {
	contentType := "application/json"
	var payload []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		payload, contentType = b, "application/x-ndjson"
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("encode the body of %s %s: %w", method, path, err)
		}
		payload = encoded
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	target := strings.TrimRight(c.URL, "/") + path
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(payload))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, target, err)
	}
	if payload != nil {
		request.Header.Set("Content-Type", contentType)
	}
	transport := c.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, target, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: the answer was cut: %w", method, target, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return newAnswerError(method, target, response.StatusCode, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s answered %d with a body that is not understood: %w", method, target, response.StatusCode, err)
	}
	return nil
}

func newAnswerError(method, target string, status int, body []byte) *answerError {
	e := &answerError{method: method, url: target, status: status}
	var structured struct {
		Error cause `json:"error"`
	}
	if err := json.Unmarshal(body, &structured); err == nil && structured.Error.Type != "" {
		e.kind, e.reason = structured.Error.Type, structured.Error.Reason
		return e
	}
	const enough = 300
	e.reason = strings.TrimSpace(string(body[:min(len(body), enough)]))
	if e.reason == "" {
		e.reason = http.StatusText(status)
	}
	return e
}

type cause struct {
	Type     string `json:"type"`
	Reason   string `json:"reason"`
	CausedBy *cause `json:"caused_by"`
}

func (c cause) String() string {
	text := c.Type + ": " + c.Reason
	if c.CausedBy != nil {
		text += " (" + c.CausedBy.String() + ")"
	}
	return text
}

// bulkItem is the answer to one action of a _bulk.
type bulkItem struct {
	Status  int    `json:"status"`
	Result  string `json:"result"`
	Version int64  `json:"_version"`
	SeqNo   *int64 `json:"_seq_no"`
	Error   *cause `json:"error"`
}

// bulk sends body and returns one item an action, in order. An answer with another number of items is an error of unknown outcome.
func (c Client) bulk(ctx context.Context, body []byte, actions int) ([]bulkItem, error) {
	var answer struct {
		Items []map[string]bulkItem `json:"items"`
	}
	if err := c.do(ctx, http.MethodPost, "/_bulk", body, &answer); err != nil {
		return nil, err
	}
	if len(answer.Items) != actions {
		return nil, fmt.Errorf("POST %s/_bulk answered %d items to %d actions", c.URL, len(answer.Items), actions)
	}
	items := make([]bulkItem, 0, actions)
	for i, one := range answer.Items {
		if len(one) != 1 {
			return nil, fmt.Errorf("POST %s/_bulk: item %d of the answer holds %d actions, not one", c.URL, i, len(one))
		}
		for _, item := range one {
			items = append(items, item)
		}
	}
	return items, nil
}

// count returns the number of live root documents of an index that a search sees.
func (c Client) count(ctx context.Context, index string) (int64, error) {
	var answer struct {
		Count  *int64 `json:"count"`
		Shards struct {
			Failed int `json:"failed"`
		} `json:"_shards"`
	}
	if err := c.do(ctx, http.MethodGet, "/"+index+"/_count", nil, &answer); err != nil {
		return 0, err
	}
	if answer.Count == nil || answer.Shards.Failed > 0 {
		return 0, fmt.Errorf("GET %s/%s/_count: %d shards failed, the count is not whole", c.URL, index, answer.Shards.Failed)
	}
	return *answer.Count, nil
}

// Pause waits or returns the context's error.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// persistently repeats a request that may safely run twice while its outcome is unknown or the domain asks for less (429).
func persistently(ctx context.Context, what string, request func(attempt int) error) error {
	const attempts = 8
	var err error
	for attempt := range attempts {
		if err = request(attempt); err == nil {
			return nil
		}
		answer, answered := errors.AsType[*answerError](err)
		if ctx.Err() != nil || !(unknown(err) || answered && answer.status == http.StatusTooManyRequests) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if err := Pause(ctx, min(200*time.Millisecond<<attempt, 3*time.Second)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return fmt.Errorf("%s: given up after %d attempts: %w", what, attempts, err)
}

// Get reads one JSON document.
func (c Client) Get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, nil, out)
}
