package cluster

import (
	"context"
	"fmt"
	"math"

	"github.com/domainferry/domainferry/internal/fault"
)

// ShardCensus counts a shard's documents by one search: those with sequence numbers up to base by ranges of width (the lowest number of a
// range -> its documents; of the first range it may be negative), and those above base as a whole. The ranges end at base. Ranges without
// documents are absent.
func (c *Client) ShardCensus(ctx context.Context, index string, shard int, base, width int64) (upto map[int64]int64, above int64, err error) {
	op := fmt.Sprintf("count all documents of shard %d of %s by sequence number", shard, excerpt(index, 255))
	var a struct {
		Aggregations struct {
			H struct {
				Buckets []struct {
					Key   float64 `json:"key"`
					Count int64   `json:"doc_count"`
				} `json:"buckets"`
			} `json:"h"`
		} `json:"aggregations"`
	}
	// Without a query: every document is counted in any case, and a range would be looked up besides.
	_, err = c.searchShard(ctx, op, index, shard, map[string]any{
		"size": 0, "track_total_hits": false,
		"aggs": map[string]any{"h": map[string]any{"histogram": map[string]any{"field": "_seq_no", "interval": width, "offset": (base + 1) % width, "min_doc_count": 1}}},
	}, &a)
	if err != nil {
		return nil, 0, err
	}
	upto = make(map[int64]int64, len(a.Aggregations.H.Buckets))
	for _, b := range a.Aggregations.H.Buckets {
		switch {
		case b.Key <= float64(-width) || b.Key > maxSeqNo || b.Key != math.Trunc(b.Key):
			return nil, 0, fault.Newf(fault.Unclassified, op, c.endpoint, "%g is no range of sequence numbers", b.Key)
		case int64(b.Key) > base:
			above += b.Count
		default:
			upto[int64(b.Key)] = b.Count
		}
	}
	return upto, above, nil
}
