package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/fault"
)

// This file holds the calls that replay makes: documents by sequence number, shard by shard, and writing them with their versions.

// SeqRange is the sequence numbers above From, up to and including Upto.
type SeqRange struct {
	From int64 `json:"from"`
	Upto int64 `json:"upto"`
}

// IndexHistory is what the primary shards of an open index have been through.
type IndexHistory struct {
	UUID   string
	Shards []ShardHistory // by shard; a primary that is not assigned is absent
}

// ShardHistory is a primary shard's place in its history of operations. While HistoryUUID and PrimaryTerm stay the same, an
// operation at or below a global checkpoint keeps its sequence number.
type ShardHistory struct {
	Shard            int
	HistoryUUID      string // "" where the engine does not tell
	PrimaryTerm      int64  // 0 where the engine does not tell
	MaxSeqNo         int64  // -1 for a shard that was never written
	GlobalCheckpoint int64
}

// ShardHistories returns the history of each index. Missing and closed indices are refused as the engines refuse them.
func (c *Client) ShardHistories(ctx context.Context, indices ...string) (map[string]IndexHistory, error) {
	const op = "read shard histories"
	out := make(map[string]IndexHistory, len(indices))
	if len(indices) == 0 {
		return out, nil
	}
	err := c.chunked(op, indices, func(path string, part []string) error {
		var terms map[string]map[string]int64
		group, groupCtx := errgroup.WithContext(ctx)
		group.Go(func() (err error) { terms, err = c.primaryTerms(groupCtx, op, path); return err })
		// Whoever reads histories searches the shards next, and that differs by version: asked beside it costs no time. A failure is
		// the business of who needs the answer.
		group.Go(func() error { _, _ = c.engine(groupCtx); return nil })
		stats, err := c.primaryStats(ctx, primaryQuery{
			op: op, path: path, indices: part, hint: "The index was created before Elasticsearch 6.0. Move it by rounds, or reindex it on the source.",
			fields: "_shards,indices.*.uuid,indices.*.shards.*.routing,indices.*.shards.*.seq_no,indices.*.shards.*.commit.user_data.history_uuid",
		})
		if other := group.Wait(); err == nil {
			err = other
		}
		if err != nil {
			return err
		}
		for index, x := range stats {
			h := IndexHistory{UUID: x.uuid}
			for _, s := range x.shards {
				term := terms[index][strconv.Itoa(s.number)]
				h.Shards = append(h.Shards, ShardHistory{s.number, s.Commit.UserData.HistoryUUID, term, s.SeqNo.Max, s.SeqNo.Global})
			}
			out[index] = h
		}
		return err
	})
	return out, err
}

// primaryTerms reads the primary terms from the cluster state, index -> shard -> term. Where the domain does not show its cluster
// state to us the answer is empty.
func (c *Client) primaryTerms(ctx context.Context, op, path string) (map[string]map[string]int64, error) {
	var a struct {
		Metadata struct {
			Indices map[string]struct {
				Terms map[string]int64 `json:"primary_terms"`
			} `json:"indices"`
		} `json:"metadata"`
	}
	query := values("filter_path", "metadata.indices.*.primary_terms")
	err := c.do(ctx, call{op: op, method: "GET", path: "/_cluster/state/metadata" + path, query: query}, &a)
	if fault.Is(err, fault.RequestRefused, fault.AccessDenied) {
		return nil, nil
	}
	if f, ok := fault.As(err); ok && f.Status == http.StatusNotImplemented {
		return nil, nil
	}
	out := make(map[string]map[string]int64, len(a.Metadata.Indices))
	for index, m := range a.Metadata.Indices {
		out[index] = maps.Clone(m.Terms)
	}
	return out, err
}

// ShardDocument is a live document as a shard holds it.
type ShardDocument struct {
	DocumentKey
	Type        string // the document type on Elasticsearch 6, "_doc" or empty later
	Found       bool
	SeqNo       int64
	PrimaryTerm int64
	Version     int64
	Source      json.RawMessage // nil when it was not asked for
}

// ShardPage is the next documents of a shard in the order of their sequence numbers.
type ShardPage struct {
	Documents []ShardDocument
	Bytes     int64 // of the answer
	More      bool  // there may be more documents in the ranges
}

type shardHit struct {
	hit
	Type        string  `json:"_type"`
	SeqNo       *int64  `json:"_seq_no"`
	PrimaryTerm int64   `json:"_primary_term"`
	Sort        []int64 `json:"sort"`
}

func (h shardHit) document() ShardDocument {
	d := ShardDocument{DocumentKey: DocumentKey{h.ID, h.Routing}, Type: h.Type, Found: h.Found, SeqNo: -1, PrimaryTerm: h.PrimaryTerm,
		Version: h.Version, Source: h.Source}
	if h.SeqNo != nil {
		d.SeqNo = *h.SeqNo
	} else if len(h.Sort) > 0 {
		d.SeqNo = h.Sort[0]
	}
	return d
}

// maxSeqNo is more operations than a shard can have seen, and the largest number that aggregations answer exactly.
const maxSeqNo = 1 << 53

// maxPage bounds the answer of one page of documents in bytes; beyond it fewer documents are asked for.
const maxPage = 48 << 20

// ShardDocuments returns the first documents of a shard whose sequence numbers lie in the ranges, at most limit (10,000). Refresh
// before to see the latest. Where limit documents are too large for one answer it returns fewer.
func (c *Client) ShardDocuments(ctx context.Context, index string, shard int, ranges []SeqRange, limit int, source bool) (ShardPage, error) {
	op := fmt.Sprintf("read documents of shard %d of %s", shard, excerpt(index, 255))
	if limit < 1 || limit > MaxSample {
		return ShardPage{}, fault.Newf(fault.InvalidInput, op, c.endpoint, "a page of %d documents is not between 1 and %d", limit, MaxSample)
	}
	for {
		var a struct {
			Hits struct {
				Hits []shardHit `json:"hits"`
			} `json:"hits"`
		}
		size, err := c.searchShard(ctx, op, index, shard, map[string]any{
			"size": limit, "query": seqNoQuery(ranges), "sort": []any{map[string]any{"_seq_no": "asc"}}, "track_total_hits": false,
			"version": true, "seq_no_primary_term": true, "_source": source,
		}, &a)
		// A page whose answer is too large, or which the node's circuit breaker refuses, may fit in part.
		if limit > 1 && (errors.Is(err, errTooLarge) || HasType(err, "circuit_breaking_exception")) {
			limit /= 4
			limit = max(limit, 1)
			continue
		}
		if err != nil {
			return ShardPage{}, err
		}
		if len(a.Hits.Hits) > limit {
			return ShardPage{}, fault.Newf(fault.Unclassified, op, c.endpoint, "asked for %d documents, was answered %d", limit, len(a.Hits.Hits))
		}
		page := ShardPage{Documents: make([]ShardDocument, 0, len(a.Hits.Hits)), Bytes: size, More: len(a.Hits.Hits) == limit}
		last := int64(-1)
		for _, h := range a.Hits.Hits {
			h.Found = true
			d := h.document()
			if d.SeqNo < 0 {
				return ShardPage{}, fault.Newf(fault.Unclassified, op, c.endpoint, "document %q was answered without its sequence number", excerpt(d.ID, 80))
			}
			// The next page begins after the last document of this one: out of order, documents would be left out or read for ever.
			if d.SeqNo < last || !slices.ContainsFunc(ranges, func(r SeqRange) bool { return d.SeqNo > r.From && d.SeqNo <= r.Upto }) {
				return ShardPage{}, fault.Newf(fault.Unclassified, op, c.endpoint, "document %q with the sequence number %d was not asked for, or not in this order",
					excerpt(d.ID, 80), d.SeqNo)
			}
			last = d.SeqNo
			page.Documents = append(page.Documents, d)
		}
		return page, nil
	}
}

// ShardCounts counts a shard's live documents in each range, nested ones not included. Refresh before to see the latest. At most
// some hundred ranges fit into one call.
func (c *Client) ShardCounts(ctx context.Context, index string, shard int, ranges []SeqRange) ([]int64, error) {
	op := fmt.Sprintf("count documents of shard %d of %s", shard, excerpt(index, 255))
	if len(ranges) == 0 {
		return nil, nil
	}
	// One range is asked for in its own words: the most frequent case, and cheaper than an aggregation.
	if len(ranges) == 1 {
		var a struct {
			Hits struct {
				Total json.RawMessage `json:"total"`
			} `json:"hits"`
		}
		_, err := c.searchShard(ctx, op, index, shard, map[string]any{"size": 0, "track_total_hits": true, "query": seqNoQuery(ranges)}, &a)
		if err != nil {
			return nil, err
		}
		var total struct {
			Value *int64 `json:"value"`
		}
		var plain int64
		if json.Unmarshal(a.Hits.Total, &total) == nil && total.Value != nil {
			return []int64{*total.Value}, nil
		}
		if err := json.Unmarshal(a.Hits.Total, &plain); err != nil { // Elasticsearch 6
			return nil, fault.Newf(fault.Unclassified, op, c.endpoint, "the answer holds no count")
		}
		return []int64{plain}, nil
	}
	// Buckets come back in the order of their bounds, so each carries its place in the list as its key.
	list := make([]any, len(ranges))
	for i, r := range ranges {
		list[i] = map[string]any{"key": strconv.Itoa(i), "from": r.From + 1, "to": r.Upto + 1}
	}
	var a struct {
		Aggregations struct {
			R struct {
				Buckets []struct {
					Key   string `json:"key"`
					Count int64  `json:"doc_count"`
				} `json:"buckets"`
			} `json:"r"`
		} `json:"aggregations"`
	}
	_, err := c.searchShard(ctx, op, index, shard, map[string]any{
		"size": 0, "track_total_hits": false, "query": seqNoQuery([]SeqRange{hull(ranges)}),
		"aggs": map[string]any{"r": map[string]any{"range": map[string]any{"field": "_seq_no", "ranges": list}}},
	}, &a)
	if err != nil {
		return nil, err
	}
	counts := slices.Repeat([]int64{-1}, len(ranges))
	if len(a.Aggregations.R.Buckets) != len(ranges) {
		return nil, fault.Newf(fault.Unclassified, op, c.endpoint, "asked for %d counts, was answered %d", len(ranges), len(a.Aggregations.R.Buckets))
	}
	for _, b := range a.Aggregations.R.Buckets {
		i, err := strconv.Atoi(b.Key)
		if err != nil || i < 0 || i >= len(counts) {
			return nil, fault.Newf(fault.Unclassified, op, c.endpoint, "%q is not a range that was asked for", excerpt(b.Key, 40))
		}
		counts[i] = b.Count
	}
	if slices.Min(counts) < 0 {
		return nil, fault.Newf(fault.Unclassified, op, c.endpoint, "the answer does not count each range once")
	}
	return counts, nil
}

// ShardHistogram counts a shard's live documents in the ranges by sequence number, in buckets of the given width; a bucket is
// named by its lowest number, a multiple of the width, and empty ones are absent. Engines answer at most 10,000 buckets.
func (c *Client) ShardHistogram(ctx context.Context, index string, shard int, ranges []SeqRange, width int64) (map[int64]int64, error) {
	op := fmt.Sprintf("count documents of shard %d of %s by sequence number", shard, excerpt(index, 255))
	buckets, err := c.seqNoHistogram(ctx, op, index, shard, map[string]any{"query": seqNoQuery(ranges)}, width, 0)
	if err != nil {
		return nil, err
	}
	out := make(map[int64]int64, len(buckets))
	for _, b := range buckets {
		if b.Key < 0 {
			return nil, fault.Newf(fault.Unclassified, op, c.endpoint, "%g is no sequence number", b.Key)
		}
		out[int64(b.Key)] = b.Count
	}
	return out, nil
}

// seqNoBucket is a range of sequence numbers, named by its lowest, and its documents.
type seqNoBucket struct {
	Key   float64 `json:"key"`
	Count int64   `json:"doc_count"`
}

// seqNoHistogram counts what a search of one shard finds in ranges of width that begin at offset; the first one may begin below 0.
func (c *Client) seqNoHistogram(ctx context.Context, op, index string, shard int, search map[string]any, width, offset int64) ([]seqNoBucket, error) {
	var a struct {
		Aggregations struct {
			H struct {
				Buckets []seqNoBucket `json:"buckets"`
			} `json:"h"`
		} `json:"aggregations"`
	}
	histogram := map[string]any{"field": "_seq_no", "interval": width, "min_doc_count": 1}
	if offset != 0 {
		histogram["offset"] = offset
	}
	search["size"], search["track_total_hits"], search["aggs"] = 0, false, map[string]any{"h": map[string]any{"histogram": histogram}}
	if _, err := c.searchShard(ctx, op, index, shard, search, &a); err != nil {
		return nil, err
	}
	for _, b := range a.Aggregations.H.Buckets {
		if b.Key <= float64(-width) || b.Key > maxSeqNo || b.Key != math.Trunc(b.Key) {
			return nil, fault.Newf(fault.Unclassified, op, c.endpoint, "%g is no sequence number", b.Key)
		}
	}
	return a.Aggregations.H.Buckets, nil
}

func hull(ranges []SeqRange) SeqRange {
	h := ranges[0]
	for _, r := range ranges {
		h.From, h.Upto = min(h.From, r.From), max(h.Upto, r.Upto)
	}
	return h
}

func seqNoQuery(ranges []SeqRange) map[string]any {
	clause := func(r SeqRange) map[string]any {
		return map[string]any{"range": map[string]any{"_seq_no": map[string]any{"gt": r.From, "lte": r.Upto}}}
	}
	if len(ranges) == 1 {
		return clause(ranges[0])
	}
	list := make([]any, len(ranges))
	for i, r := range ranges {
		list[i] = clause(r)
	}
	return map[string]any{"bool": map[string]any{"should": list, "minimum_should_match": 1}}
}

// searchShard searches one shard and refuses an answer that did not come from exactly that shard: the engines answer 200 without
// hits for a shard number that does not exist.
func (c *Client) searchShard(ctx context.Context, op, index string, shard int, body map[string]any, out any) (size int64, err error) {
	if err := c.checkNames(op, []string{index}); err != nil {
		return 0, err
	}
	version, err := c.engine(ctx)
	if err != nil {
		return 0, err
	}
	preference := "_shards:" + strconv.Itoa(shard)
	// With segment replication a replica lags behind the primary, whatever the global checkpoint and a refresh say. Elasticsearch
	// has neither segment replication nor, from 7.0 on, this preference.
	if version.AtLeast(OpenSearch, 2, 7) {
		preference += "|_primary"
	}
	r := call{op: op, method: "POST", path: "/" + url.PathEscape(index) + "/_search", query: values("preference", preference), body: body,
		limit: maxPage, opaque: 5} // hits.hits[]._source
	raw, status, err := c.send(ctx, r)
	if err != nil {
		return 0, err
	}
	var outcome struct {
		Shards   shardOutcome `json:"_shards"`
		TimedOut bool         `json:"timed_out"`
	}
	if err := unfold(raw, &outcome, r.opaque); err != nil {
		return 0, c.answerFault(r, status, raw, err)
	}
	if err := outcome.Shards.fault(op, c.endpoint); err != nil {
		return 0, err
	}
	if outcome.Shards.Total != 1 || outcome.Shards.Successful != 1 || outcome.TimedOut {
		return 0, fault.Newf(fault.Unavailable, op, c.endpoint, "%d of %d shards answered, expected this one alone", outcome.Shards.Successful, outcome.Shards.Total).
			WithHint("The shard has no started copy, or the index was re-created with other shards. Look at GET _cat/shards/%s.", index)
	}
	if err := unfold(raw, out, r.opaque); err != nil {
		return 0, c.answerFault(r, status, raw, err)
	}
	return int64(len(raw)), nil
}

// LatestDocuments returns one document for each key, in the order of the keys, found or not: the latest version, refreshed or not. Ask for
// the sources of no more than fit into some megabytes. With its source, a document that was found has the routing that it was written
// with; it can differ from the key's, because an id is unique in its shard. Without, it has the key's.
func (c *Client) LatestDocuments(ctx context.Context, index string, keys []DocumentKey, source bool) ([]ShardDocument, error) {
	op := "look up documents of " + excerpt(index, 255)
	if err := c.checkNames(op, []string{index}); err != nil {
		return nil, err
	}
	perRequest := 2000
	if source {
		perRequest = 500
	}
	out := make([]ShardDocument, 0, len(keys))
	err := inParts(keys, perRequest, func(part []DocumentKey) error {
		docs := make([]map[string]string, len(part))
		for i, k := range part {
			docs[i] = map[string]string{"_id": k.ID}
			if k.Routing != "" {
				docs[i]["routing"] = k.Routing
			}
		}
		var a struct {
			Docs []shardHit `json:"docs"`
		}
		r := call{op: op, method: "POST", path: "/" + url.PathEscape(index) + "/_mget", body: map[string]any{"docs": docs}, limit: maxDocuments, opaque: 4}
		if !source {
			r.query = values("_source", "false")
		}
		if err := c.do(ctx, r, &a); err != nil {
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
			// Without their source the engines leave the routing out (seen on 2.19.0), and a deletion by such a key would go to another
			// shard.
			if !d.Found || !source {
				d.DocumentKey = part[i]
			}
			out = append(out, d)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Write is one operation of a bulk request. It is either the version of a document as another cluster has it, which is refused
// when a higher version is there already (version_type external_gte), or the deletion of a document that has not changed since.
type Write struct {
	DocumentKey
	Type        string          // as the source gave it; sent to Elasticsearch 6 only
	Source      json.RawMessage // of a document; nil for a deletion
	Version     int64           // of a document
	SeqNo       int64           // of a deletion: what the document must still have
	PrimaryTerm int64           // likewise
}

// Size is the bytes that the operation takes in a request, a little overestimated.
func (w Write) Size() int { return len(w.Source) + len(w.ID) + len(w.Routing) + 160 }

// WriteResult is what became of one operation.
type WriteResult struct {
	Status int   // 200, 201; 404 nothing to delete; 409 conflict; 429 throttled; 400 refused
	SeqNo  int64 // that the operation has used; -1 when none
	Type   string
	Reason string // with its innermost cause
}

// BulkWrite sends the operations in one request, without ingest pipelines (a final_pipeline would run: unset it before), and
// returns one result each, in order. The caller keeps the body under the domain's HTTP limit; a larger one is a fault of HTTP
// status 413. It never creates an index on purpose, but engines do so for a missing one where action.auto_create_index allows it.
func (c *Client) BulkWrite(ctx context.Context, index string, writes []Write) ([]WriteResult, error) {
	op := "write documents to " + excerpt(index, 255)
	if err := c.checkNames(op, []string{index}); err != nil {
		return nil, err
	}
	if len(writes) == 0 {
		return nil, nil
	}
	version, err := c.engine(ctx)
	if err != nil {
		return nil, err
	}
	typed := version.Distribution == Elasticsearch && version.Major < 7
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	for _, w := range writes {
		verb, action := "delete", map[string]any{"_id": w.ID}
		if w.Routing != "" {
			action["routing"] = w.Routing
		}
		if typed {
			action["_type"] = cmp.Or(w.Type, "_doc")
		}
		if w.Source != nil {
			verb = "index"
			action["version"], action["version_type"] = w.Version, "external_gte"
		} else {
			action["if_seq_no"], action["if_primary_term"] = w.SeqNo, w.PrimaryTerm
		}
		if err := encoder.Encode(map[string]any{verb: action}); err != nil {
			return nil, fault.Newf(fault.InvalidInput, op, c.endpoint, "encode the action of document %q: %w", excerpt(w.ID, 80), err)
		}
		if w.Source != nil {
			// A source may have been stored with line breaks, which end an operation here. Compact keeps all else as it is.
			if err := json.Compact(&body, w.Source); err != nil {
				return nil, fault.Newf(fault.InvalidInput, op, c.endpoint, "the source of document %q: %w", excerpt(w.ID, 80), err)
			}
			body.WriteByte('\n')
		}
	}
	r := call{op: op, method: "POST", path: "/" + url.PathEscape(index) + "/_bulk", mutating: true, lines: body.Bytes(),
		query: values("pipeline", "_none", "filter_path", "items.*.status,items.*.error,items.*._seq_no")}
	var a struct {
		Items []map[string]struct {
			Status int             `json:"status"`
			SeqNo  *int64          `json:"_seq_no"`
			Error  json.RawMessage `json:"error"`
		} `json:"items"`
	}
	if err := c.do(ctx, r, &a); err != nil {
		return nil, err
	}
	if len(a.Items) != len(writes) {
		return nil, fault.Newf(fault.OutcomeUnknown, op, c.endpoint, "sent %d operations, was answered %d", len(writes), len(a.Items))
	}
	results := make([]WriteResult, len(writes))
	for i, item := range a.Items {
		if len(item) != 1 {
			return nil, fault.Newf(fault.OutcomeUnknown, op, c.endpoint, "operation %d was answered %d results", i, len(item))
		}
		for _, r := range item {
			if r.Status < 100 {
				return nil, fault.Newf(fault.OutcomeUnknown, op, c.endpoint, "operation %d was answered the status %d", i, r.Status)
			}
			results[i] = WriteResult{Status: r.Status, SeqNo: -1}
			if r.SeqNo != nil && r.Status < 300 || r.SeqNo != nil && r.Status == http.StatusNotFound {
				results[i].SeqNo = *r.SeqNo
			}
			if len(r.Error) > 0 {
				refusal := parseRefusal(r.Status, slices.Concat([]byte(`{"error":`), r.Error, []byte("}")))
				results[i].Type, results[i].Reason = refusal.Type, excerpt(refusal.Error(), 600)
			}
		}
	}
	return results, nil
}

// PutMapping adds fields to an open index's mapping, which must agree with those that are there. mapping is the mappings object.
func (c *Client) PutMapping(ctx context.Context, index string, mapping json.RawMessage) error {
	version, err := c.engine(ctx)
	if err != nil {
		return err
	}
	return c.chunked("put mapping", []string{index}, func(path string, part []string) error {
		r := call{op: "put mapping of " + listed(part), method: "PUT", path: path + "/_mapping", body: mapping}
		if typed(version) {
			r.query = values("include_type_name", "false")
		}
		return c.change(ctx, r)
	})
}
