package cluster

import (
	"context"
	"fmt"
)

// ShardCensus counts a shard's documents by one search: those with sequence numbers up to base by ranges of width (the lowest number of a
// range -> its documents; of the first range it may be negative), and those above base as a whole. The ranges end at base. Ranges without
// documents are absent.
func (c *Client) ShardCensus(ctx context.Context, index string, shard int, base, width int64) (upto map[int64]int64, above int64, err error) {
	op := fmt.Sprintf("count all documents of shard %d of %s by sequence number", shard, excerpt(index, 255))
	// Without a query: every document is counted in any case, and a range would be looked up besides.
	buckets, err := c.seqNoHistogram(ctx, op, index, shard, map[string]any{}, width, (base+1)%width)
	if err != nil {
		return nil, 0, err
	}
	upto = make(map[int64]int64, len(buckets))
	for _, b := range buckets {
		if int64(b.Key) > base {
			above += b.Count
		} else {
			upto[int64(b.Key)] = b.Count
		}
	}
	return upto, above, nil
}
