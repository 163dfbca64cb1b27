package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
)

// ShardRecovery is how a shard copy got (or gets) its data.
type ShardRecovery struct {
	Index                string
	Shard                int
	Primary              bool
	Type                 string // "SNAPSHOT", "PEER", "EXISTING_STORE", "EMPTY_STORE", "LOCAL_SHARDS"
	Stage                string // "INIT", "INDEX", "VERIFY_INDEX", "TRANSLOG", "FINALIZE", "DONE"
	Repository, Snapshot string // of a SNAPSHOT recovery
	// RecoveredBytes were read from the repository, ReusedBytes were there already; together they come to TotalBytes in the end.
	TotalBytes, ReusedBytes, RecoveredBytes int64
	StartTime, StopTime                     time.Time // UTC; StopTime is zero while it runs
	Node                                    string    // name of the node that got it
}

// Recoveries lists the latest recovery of each shard copy of the indices, by index and shard. Shards that wait for their turn, and
// indices that do not exist or are closed, are simply absent.
func (c *Client) Recoveries(ctx context.Context, indices ...string) ([]ShardRecovery, error) {
	const op = "read recoveries"
	var out []ShardRecovery
	if len(indices) == 0 {
		return nil, nil
	}
	err := c.chunked(op, indices, func(path string, part []string) error {
		var a map[string]struct {
			Shards []struct {
				ID      int    `json:"id"`
				Type    string `json:"type"`
				Stage   string `json:"stage"`
				Primary bool   `json:"primary"`
				Start   int64  `json:"start_time_in_millis"`
				Stop    int64  `json:"stop_time_in_millis"`
				Source  struct {
					Repository string `json:"repository"`
					Snapshot   string `json:"snapshot"`
				} `json:"source"`
				Target struct {
					Name string `json:"name"`
				} `json:"target"`
				Index struct {
					Size struct {
						Total     int64 `json:"total_in_bytes"`
						Reused    int64 `json:"reused_in_bytes"`
						Recovered int64 `json:"recovered_in_bytes"`
					} `json:"size"`
				} `json:"index"`
			} `json:"shards"`
		}
		query := values("ignore_unavailable", "true")
		if err := c.do(ctx, call{op: op, method: "GET", path: path + "/_recovery", query: query}, &a); err != nil {
			return err
		}
		for _, index := range part {
			for _, s := range a[index].Shards {
				out = append(out, ShardRecovery{
					Index: index, Shard: s.ID, Primary: s.Primary, Type: strings.ToUpper(s.Type), Stage: strings.ToUpper(s.Stage),
					Repository: s.Source.Repository, Snapshot: s.Source.Snapshot,
					TotalBytes: s.Index.Size.Total, ReusedBytes: s.Index.Size.Reused, RecoveredBytes: s.Index.Size.Recovered,
					StartTime: millis(s.Start), StopTime: millis(s.Stop), Node: s.Target.Name,
				})
			}
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b ShardRecovery) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Shard, b.Shard), boolOrder(b.Primary, a.Primary))
	})
	return out, err
}

func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Shard is one copy of a shard.
type Shard struct {
	Index            string
	Shard            int
	Primary          bool
	State            string // "STARTED", "INITIALIZING", "RELOCATING", "UNASSIGNED"
	Node             string // name; empty when unassigned
	UnassignedReason string // "ALLOCATION_FAILED", "NEW_INDEX_RESTORED"...
	Docs             int64  // Lucene documents; 0 when unknown
	StoreBytes       int64  // 0 when unknown
}

// Shards lists the shard copies of the indices, by index and shard, primary first. The engines refuse closed and missing indices
// (HasType index_closed_exception, index_not_found_exception).
func (c *Client) Shards(ctx context.Context, indices ...string) ([]Shard, error) {
	const op = "list shards"
	var out []Shard
	if len(indices) == 0 {
		return nil, nil
	}
	err := c.chunked(op, indices, func(path string, part []string) error {
		var rows []map[string]any
		query := values("format", "json", "bytes", "b", "h", "index,shard,prirep,state,node,unassigned.reason,docs,store")
		if err := c.do(ctx, call{op: op, method: "GET", path: "/_cat/shards" + path, query: query}, &rows); err != nil {
			return err
		}
		for _, r := range rows {
			var n numbers
			s := Shard{
				Index: text(r["index"]), Shard: int(n.read(text(r["shard"]))), Primary: text(r["prirep"]) == "p", State: text(r["state"]),
				UnassignedReason: text(r["unassigned.reason"]), Docs: n.read(text(r["docs"])), StoreBytes: n.read(text(r["store"])),
			}
			if n.err != nil {
				return fault.Newf(fault.Unclassified, op, c.endpoint, "a shard of index %s: %w", excerpt(s.Index, 255), n.err)
			}
			// A relocating shard is shown as "from -> address id to".
			s.Node, _, _ = strings.Cut(text(r["node"]), " ->")
			if slices.Contains(part, s.Index) {
				out = append(out, s)
			}
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b Shard) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Shard, b.Shard), boolOrder(b.Primary, a.Primary))
	})
	return out, err
}

// ExplainAllocation says in one paragraph why a shard is where it is, or why it is nowhere, with the words of the deciders.
func (c *Client) ExplainAllocation(ctx context.Context, index string, shard int, primary bool) (string, error) {
	const op = "explain the allocation"
	if err := c.checkNames(op, []string{index}); err != nil {
		return "", err
	}
	var a struct {
		State      string `json:"current_state"`
		Unassigned struct {
			Reason   string `json:"reason"`
			Details  string `json:"details"`
			Attempts int    `json:"failed_allocation_attempts"`
		} `json:"unassigned_info"`
		Allocate    string `json:"allocate_explanation"`
		Explanation string `json:"explanation"`
		Nodes       []struct {
			Name     string `json:"node_name"`
			Deciders []struct {
				Decider     string `json:"decider"`
				Decision    string `json:"decision"`
				Explanation string `json:"explanation"`
			} `json:"deciders"`
		} `json:"node_allocation_decisions"`
	}
	body := map[string]any{"index": index, "shard": shard, "primary": primary}
	if err := c.do(ctx, call{op: op, method: "GET", path: "/_cluster/allocation/explain", body: body}, &a); err != nil {
		return "", err
	}
	kind := "primary"
	if !primary {
		kind = "replica"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s shard %d of %s is %s", kind, shard, index, cmp.Or(excerpt(a.State, 40), "in an unknown state"))
	if a.Unassigned.Reason != "" {
		fmt.Fprintf(&b, " (%s", excerpt(a.Unassigned.Reason, 60))
		if a.Unassigned.Attempts > 0 {
			fmt.Fprintf(&b, ", %d failed attempts", a.Unassigned.Attempts)
		}
		if a.Unassigned.Details != "" {
			fmt.Fprintf(&b, ": %s", excerpt(a.Unassigned.Details, 900))
		}
		b.WriteByte(')')
	}
	if why := cmp.Or(a.Allocate, a.Explanation); why != "" {
		fmt.Fprintf(&b, "; %s", excerpt(why, 400))
	}
	// The same decider says the same of many nodes; each is quoted once, and the details above are not repeated.
	said := map[string]bool{}
	for _, n := range a.Nodes {
		for _, d := range n.Deciders {
			if d.Decision == "YES" || said[d.Decider] || len(said) == 6 {
				continue
			}
			said[d.Decider] = true
			words, _, _ := strings.Cut(d.Explanation, ", [unassigned_info[")
			if before, details, ok := strings.Cut(words, " because of ["); ok {
				// What follows the details tells whether the domain has given up.
				const end = "] - "
				words = before
				if i := strings.LastIndex(details, end); i >= 0 {
					words += details[i+1:]
				}
			}
			fmt.Fprintf(&b, "; node %s, %s: %s", excerpt(n.Name, 80), excerpt(d.Decider, 60), excerpt(words, 600))
		}
	}
	return b.String(), nil
}

// ShardSequence is how far a primary shard has come. Every write and delete uses a sequence number, so that on a frozen index
// MaxSeqNo, both checkpoints and the source's and destination's values are all equal.
type ShardSequence struct {
	Shard            int
	MaxSeqNo         int64 // -1 for a shard that was never written
	LocalCheckpoint  int64
	GlobalCheckpoint int64
	Docs             int64 // Lucene documents, nested ones included
	// IndexUUID and HistoryUUID are of which index and of which history the numbers are; "" where the engine does not tell.
	IndexUUID, HistoryUUID string
}

// SequenceNumbers returns the sequence numbers of the primary shards of each index, by shard. The indices must be open; a primary
// that is not assigned is absent.
func (c *Client) SequenceNumbers(ctx context.Context, indices ...string) (map[string][]ShardSequence, error) {
	const op = "read sequence numbers"
	out := make(map[string][]ShardSequence, len(indices))
	if len(indices) == 0 {
		return out, nil
	}
	err := c.chunked(op, indices, func(path string, part []string) error {
		stats, err := c.primaryStats(ctx, primaryQuery{
			op: op, path: path, indices: part, hint: "The index was created before Elasticsearch 6.0. Reindex it on the source, or exclude it.",
			fields: "_shards,indices.*.uuid,indices.*.shards.*.routing,indices.*.shards.*.docs,indices.*.shards.*.seq_no,indices.*.shards.*.commit.user_data.history_uuid",
		})
		for index, x := range stats {
			for _, s := range x.shards {
				out[index] = append(out[index], ShardSequence{
					Shard: s.number, MaxSeqNo: s.SeqNo.Max, LocalCheckpoint: s.SeqNo.Local, GlobalCheckpoint: s.SeqNo.Global, Docs: s.Docs.Count,
					IndexUUID: x.uuid, HistoryUUID: s.Commit.UserData.HistoryUUID,
				})
			}
		}
		return err
	})
	return out, err
}

// primaryQuery asks for the statistics of primary shards that all have sequence numbers.
type primaryQuery struct {
	op, path string
	indices  []string
	fields   string // filter_path
	hint     string // for an index without sequence numbers
}

// primaryStats are an index's uuid and its primaries by shard, as far as the fields asked for tell.
type primaryStats struct {
	uuid   string
	shards []shardStats
}

type shardStats struct {
	number  int
	Routing struct {
		Primary bool `json:"primary"`
	} `json:"routing"`
	Docs struct {
		Count int64 `json:"count"`
	} `json:"docs"`
	SeqNo *struct {
		Max    int64 `json:"max_seq_no"`
		Local  int64 `json:"local_checkpoint"`
		Global int64 `json:"global_checkpoint"`
	} `json:"seq_no"`
	Commit struct {
		UserData struct {
			HistoryUUID string `json:"history_uuid"`
		} `json:"user_data"`
	} `json:"commit"`
}

// primaryStats reads _stats shard by shard. Every index asked for is in the answer, without shards when none is assigned.
func (c *Client) primaryStats(ctx context.Context, q primaryQuery) (map[string]primaryStats, error) {
	var a struct {
		Indices map[string]struct {
			UUID   string                  `json:"uuid"`
			Shards map[string][]shardStats `json:"shards"`
		} `json:"indices"`
		Outcome shardOutcome `json:"_shards"`
	}
	query := values("level", "shards", "filter_path", q.fields)
	if err := c.do(ctx, call{op: q.op, method: "GET", path: q.path + "/_stats/docs", query: query}, &a); err != nil {
		return nil, err
	}
	if err := a.Outcome.fault(q.op, c.endpoint); err != nil {
		return nil, err
	}
	out := make(map[string]primaryStats, len(q.indices))
	for _, index := range q.indices {
		x := primaryStats{uuid: a.Indices[index].UUID}
		for id, copies := range a.Indices[index].Shards {
			n, err := strconv.Atoi(id)
			if err != nil || n < 0 || n >= maxPrimaries {
				return nil, fault.Newf(fault.Unclassified, q.op, c.endpoint, "%q is not a shard number", excerpt(id, 40))
			}
			for _, s := range copies {
				if !s.Routing.Primary {
					continue
				}
				if s.SeqNo == nil {
					return nil, fault.Newf(fault.Incompatible, q.op, c.endpoint, "index %s keeps no sequence numbers", index).WithHint("%s", q.hint)
				}
				if max(s.SeqNo.Max, s.SeqNo.Local, s.SeqNo.Global) > maxSeqNo {
					return nil, fault.Newf(fault.Unclassified, q.op, c.endpoint, "shard %d of index %s has the impossible sequence number %d", n, index,
						max(s.SeqNo.Max, s.SeqNo.Local, s.SeqNo.Global))
				}
				s.number = n
				x.shards = append(x.shards, s)
			}
		}
		slices.SortFunc(x.shards, func(a, b shardStats) int { return cmp.Compare(a.number, b.number) })
		out[index] = x
	}
	return out, nil
}
