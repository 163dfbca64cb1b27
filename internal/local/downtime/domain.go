package downtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/local/workload"
)

// domain is one side as somebody with curl sees it. The bench speaks plain REST, so that what it measures the product against, and
// how it looks at the product's work, has no code in common with the product.
type domain struct{ workload.Client }

type statusError struct {
	request string
	status  int
	body    string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s answered %d: %s", e.request, e.status, e.body)
}

func notFound(err error) bool {
	s, ok := errors.AsType[*statusError](err)
	return ok && s.status == http.StatusNotFound
}

// call sends one request; a body that is no []byte (NDJSON) is sent as JSON, and out may be nil.
func (d domain) call(ctx context.Context, method, path string, body, out any) error {
	var payload []byte
	contentType := "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		payload, contentType = b, "application/x-ndjson"
	default:
		var err error
		if payload, err = json.Marshal(b); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, d.URL+path, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	if payload != nil {
		r.Header.Set("Content-Type", contentType)
	}
	transport := d.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, d.URL+path, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("%s %s: the answer was cut: %w", method, d.URL+path, err)
	}
	if answer.StatusCode > 299 {
		return &statusError{method + " " + d.URL + path, answer.StatusCode, string(text[:min(len(text), 500)])}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s answered what is not understood: %w", method, d.URL+path, err)
	}
	return nil
}

// awaitEvery asks again and again until done says true; patience bounds it.
func awaitEvery(ctx context.Context, what string, interval, patience time.Duration, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s", patience))
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		ok, err := done(ctx)
		if err == nil && ok {
			return nil
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (d domain) setSettings(ctx context.Context, index string, settings map[string]any) error {
	return d.call(ctx, http.MethodPut, "/"+index+"/_settings", settings, nil)
}

// block sets or (false) removes the write block.
func (d domain) block(ctx context.Context, index string, on bool) error {
	var value any
	if on {
		value = true
	}
	return d.setSettings(ctx, index, map[string]any{"index.blocks.write": value})
}

// recoveryRate sets indices.recovery.max_bytes_per_sec; "" gives it back its default.
func (d domain) recoveryRate(ctx context.Context, rate string) error {
	var value any
	if rate != "" {
		value = rate
	}
	return d.call(ctx, http.MethodPut, "/_cluster/settings", map[string]any{"persistent": map[string]any{"indices.recovery.max_bytes_per_sec": value}}, nil)
}

func (d domain) deleteIndex(ctx context.Context, index string) error {
	err := d.call(ctx, http.MethodDelete, "/"+index, nil, nil)
	if notFound(err) {
		return nil
	}
	return err
}

func (d domain) deleteRepository(ctx context.Context, name string) error {
	err := d.call(ctx, http.MethodDelete, "/_snapshot/"+name, nil, nil)
	if notFound(err) {
		return nil
	}
	return err
}

func (d domain) deleteSnapshot(ctx context.Context, repository, snapshot string) error {
	err := d.call(ctx, http.MethodDelete, "/_snapshot/"+repository+"/"+snapshot, nil, nil)
	if notFound(err) {
		return nil
	}
	return err
}

// snapshot takes a snapshot of one index and waits for its end.
func (d domain) snapshot(ctx context.Context, repository, name, index string) error {
	path := "/_snapshot/" + repository + "/" + name
	if err := d.call(ctx, http.MethodPut, path, map[string]any{"indices": index, "include_global_state": false}, nil); err != nil {
		return err
	}
	return awaitEvery(ctx, "snapshot "+name, 50*time.Millisecond, patience, func(ctx context.Context) (bool, error) {
		var answer struct {
			Snapshots []struct{ State string }
		}
		err := d.call(ctx, http.MethodGet, path, nil, &answer)
		switch {
		case err != nil || len(answer.Snapshots) != 1:
			return false, err
		case answer.Snapshots[0].State == "SUCCESS":
			return true, nil
		case answer.Snapshots[0].State == "IN_PROGRESS" || answer.Snapshots[0].State == "STARTED":
			return false, nil
		}
		return false, fmt.Errorf("it ended %s", answer.Snapshots[0].State)
	})
}

// restore restores one index whose name is free and waits until all its shards are there; it has no replicas.
func (d domain) restore(ctx context.Context, repository, snapshot, index string) error {
	err := d.call(ctx, http.MethodPost, "/_snapshot/"+repository+"/"+snapshot+"/_restore", map[string]any{"indices": index, "include_global_state": false}, nil)
	if err != nil {
		return err
	}
	return awaitEvery(ctx, "restore "+index+" from "+snapshot, 50*time.Millisecond, patience, func(ctx context.Context) (bool, error) {
		var health struct{ Status string }
		err := d.call(ctx, http.MethodGet, "/_cluster/health/"+index, nil, &health)
		if s, ok := errors.AsType[*statusError](err); ok && (s.status == http.StatusRequestTimeout || s.status == http.StatusNotFound) {
			return false, nil // not created yet
		}
		return health.Status == "green", err // a primary that is being restored counts as yellow
	})
}

func (d domain) refresh(ctx context.Context, index string) error {
	return d.call(ctx, http.MethodPost, "/"+index+"/_refresh", nil, nil)
}

func (d domain) count(ctx context.Context, index string) (int64, error) {
	var answer struct{ Count int64 }
	err := d.call(ctx, http.MethodGet, "/"+index+"/_count", nil, &answer)
	return answer.Count, err
}

// storeBytes is what _cat/indices shows as the size of the primaries.
func (d domain) storeBytes(ctx context.Context, index string) (int64, error) {
	var rows []map[string]string
	if err := d.call(ctx, http.MethodGet, "/_cat/indices/"+index+"?format=json&bytes=b&h=pri.store.size", nil, &rows); err != nil {
		return 0, err
	}
	if len(rows) != 1 {
		return 0, fmt.Errorf("_cat/indices/%s has %d lines, not one", index, len(rows))
	}
	n, err := strconv.ParseInt(rows[0]["pri.store.size"], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("_cat/indices/%s: %w", index, err)
	}
	return n, nil
}

// hit is one document of a scroll.
type hit struct {
	ID      string          `json:"_id"`
	Routing string          `json:"_routing"`
	Version int64           `json:"_version"`
	Source  json.RawMessage `json:"_source"`
}

// slice says which part of the documents to read; of 1 is all of them.
type slice struct{ number, of int }

// scroll reads the documents of an index, pages of size documents.
func (d domain) scroll(ctx context.Context, index string, part slice, size int, use func([]hit) error) error {
	body := map[string]any{"size": size, "version": true, "sort": []string{"_doc"}}
	if part.of > 1 {
		body["slice"] = map[string]any{"id": part.number, "max": part.of}
	}
	var page struct {
		ID   string `json:"_scroll_id"`
		Hits struct{ Hits []hit }
	}
	if err := d.call(ctx, http.MethodPost, "/"+index+"/_search?scroll=5m", body, &page); err != nil {
		return err
	}
	for len(page.Hits.Hits) > 0 {
		if err := use(page.Hits.Hits); err != nil {
			return err
		}
		id := page.ID
		page.Hits.Hits = nil
		if err := d.call(ctx, http.MethodPost, "/_search/scroll", map[string]any{"scroll": "5m", "scroll_id": id}, &page); err != nil {
			return err
		}
	}
	return d.call(ctx, http.MethodDelete, "/_search/scroll", map[string]any{"scroll_id": []string{page.ID}}, nil)
}

// bulk sends the documents as they are; the first item refused is an error.
func (d domain) bulk(ctx context.Context, index string, hits []hit) error {
	var b bytes.Buffer
	for _, h := range hits {
		id, err := json.Marshal(h.ID)
		if err != nil {
			return err
		}
		b.WriteString(`{"index":{"_id":`)
		b.Write(id)
		if h.Routing != "" {
			routing, err := json.Marshal(h.Routing)
			if err != nil {
				return err
			}
			b.WriteString(`,"routing":`)
			b.Write(routing)
		}
		b.WriteString("}}\n")
		b.Write(h.Source)
		b.WriteByte('\n')
	}
	var answer struct {
		Errors bool
		Items  []map[string]json.RawMessage
	}
	if err := d.call(ctx, http.MethodPost, "/"+url.PathEscape(index)+"/_bulk", b.Bytes(), &answer); err != nil {
		return err
	}
	if !answer.Errors && len(answer.Items) == len(hits) {
		return nil
	}
	for _, item := range answer.Items {
		if text := string(item["index"]); strings.Contains(text, `"error"`) {
			return fmt.Errorf("_bulk to %s: %s", index, text[:min(len(text), 300)])
		}
	}
	return fmt.Errorf("_bulk to %s: %d of %d items were answered", index, len(answer.Items), len(hits))
}

const patience = 20 * time.Minute // for a phase that moves all of the data; it only bounds a bench that hangs
