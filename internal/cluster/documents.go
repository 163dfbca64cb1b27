package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"

	"github.com/domainferry/domainferry/internal/fault"
)

// DocumentKey finds a document: its routing is needed where it was given at writing.
type DocumentKey struct{ ID, Routing string }

// Document is a live document.
type Document struct {
	DocumentKey
	Found   bool
	Version int64
	Source  json.RawMessage // as stored; nil when not found or when _source is disabled
}

// MaxSample is the most documents that SampleDocuments returns (the engines' default index.max_result_window).
const MaxSample = 10_000

type hit struct {
	ID      string          `json:"_id"`
	Routing string          `json:"_routing"`
	Version int64           `json:"_version"`
	Found   bool            `json:"found"`
	Source  json.RawMessage `json:"_source"`
	Error   json.RawMessage `json:"error"`
}

func (h hit) document() Document {
	return Document{DocumentKey: DocumentKey{h.ID, h.Routing}, Found: h.Found, Version: h.Version, Source: h.Source}
}

// SampleDocuments returns up to n documents of an index whose sequence numbers lie in one of the ranges (at most 1,000 of them), fewer
// where they are too large for one answer. Ranges
// are found in the index's points: a random order over all documents would read a value of each. Refresh before to see the latest.
func (c *Client) SampleDocuments(ctx context.Context, index string, ranges []SeqRange, n int) ([]Document, error) {
	op := "sample documents of " + excerpt(index, 255)
	if n <= 0 || len(ranges) == 0 {
		return nil, nil
	}
	if n > MaxSample {
		return nil, fault.Newf(fault.InvalidInput, op, c.endpoint, "a sample of %d is larger than %d", n, MaxSample)
	}
	var a struct {
		Shards shardOutcome `json:"_shards"`
		Hits   struct {
			Hits []hit `json:"hits"`
		} `json:"hits"`
	}
	if err := c.checkNames(op, []string{index}); err != nil {
		return nil, err
	}
	for {
		body := map[string]any{"size": n, "version": true, "_source": true, "query": seqNoQuery(ranges), "sort": []string{"_doc"}, "track_total_hits": false}
		err := c.do(ctx, call{op: op, method: "POST", path: "/" + url.PathEscape(index) + "/_search", body: body, limit: maxDocuments, opaque: 5}, &a)
		if errors.Is(err, errTooLarge) && n > 1 {
			n = (n + 3) / 4
			continue
		}
		if err != nil {
			return nil, err
		}
		break
	}
	if err := a.Shards.fault(op, c.endpoint); err != nil {
		return nil, err
	}
	documents := make([]Document, 0, len(a.Hits.Hits))
	for _, h := range a.Hits.Hits {
		h.Found = true
		documents = append(documents, h.document())
	}
	return documents, nil
}

// keysPerRequest keeps an _mget answer of ordinary documents within some megabytes.
const keysPerRequest = 100

// GetDocuments returns one document for each key, in the order of the keys, found or not. It reads the latest versions, refreshed
// or not.
func (c *Client) GetDocuments(ctx context.Context, index string, keys []DocumentKey) ([]Document, error) {
	op := "get documents of " + excerpt(index, 255)
	documents := make([]Document, 0, len(keys))
	err := c.chunked(op, []string{index}, func(path string, _ []string) error {
		return inParts(keys, keysPerRequest, func(part []DocumentKey) error {
			// No "_type": engines with types (6.8) then look the id up in all of them, later ones know none.
			docs := make([]map[string]string, len(part))
			for i, k := range part {
				docs[i] = map[string]string{"_id": k.ID}
				if k.Routing != "" {
					docs[i]["routing"] = k.Routing
				}
			}
			var a struct {
				Docs []hit `json:"docs"`
			}
			if err := c.do(ctx, call{op: op, method: "POST", path: path + "/_mget", body: map[string]any{"docs": docs}, limit: maxDocuments, opaque: 4}, &a); err != nil {
				return err
			}
			if len(a.Docs) != len(part) {
				return fault.Newf(fault.Unclassified, op, c.endpoint, "asked for %d documents, was answered %d", len(part), len(a.Docs))
			}
			for i, h := range a.Docs {
				if len(h.Error) > 0 {
					return fault.Newf(fault.Unavailable, op, c.endpoint, "document %q: %s", excerpt(part[i].ID, 80), excerpt(string(h.Error), 400))
				}
				d := h.document()
				d.DocumentKey = part[i]
				documents = append(documents, d)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return documents, nil
}
