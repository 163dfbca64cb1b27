package step

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/migration"
)

// mostShares bounds the nodes that a round tells of: its record passes through a state machine.
const mostShares = 64

// shares adds up what each node had of a phase, shard by shard.
type shares struct{ list []work }

type work struct {
	migration.Share
	start, stop time.Time
}

func (s *shares) add(node, index string, shard int, bytes int64, start, stop time.Time) {
	x := work{migration.Share{Node: node, Index: index, Shard: shard, Shards: 1, Bytes: bytes}, start, stop}
	if !start.IsZero() && stop.After(start) {
		x.Seconds = seconds(start, stop)
	}
	s.list = append(s.list, x)
}

// nodes are the nodes by what they had, the busiest first. A node's seconds are from the first of its shards that began to the last that
// ended.
func (s *shares) nodes() []migration.Share {
	byNode := map[string]*work{}
	for _, x := range s.list {
		n := byNode[x.Node]
		if n == nil {
			n = &work{Share: migration.Share{Node: x.Node}}
			byNode[x.Node] = n
		}
		n.Shards++
		n.Bytes += x.Bytes
		if !x.start.IsZero() && (n.start.IsZero() || x.start.Before(n.start)) {
			n.start = x.start
		}
		if x.stop.After(n.stop) {
			n.stop = x.stop
		}
	}
	var out []migration.Share
	for _, n := range byNode {
		if !n.start.IsZero() && n.stop.After(n.start) {
			n.Seconds = seconds(n.start, n.stop)
		}
		out = append(out, n.Share)
	}
	slices.SortFunc(out, func(a, b migration.Share) int {
		return cmp.Or(cmp.Compare(b.Seconds, a.Seconds), cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Node, b.Node))
	})
	return out[:min(len(out), mostShares)]
}

// slowest is the shard that took longest; nil when no shard did anything.
func (s *shares) slowest() *migration.Share {
	var most *migration.Share
	for i, x := range s.list {
		if x.Seconds > 0 && (most == nil || x.Seconds > most.Seconds) {
			most = &s.list[i].Share
		}
	}
	return most
}

// snapshotShares tells which nodes of the source had which part of a snapshot. A finished snapshot does not say; the primaries are
// where they are now.
func snapshotShares(ctx context.Context, domain PollStatusDomain, p migration.Plan, progress cluster.Progress) ([]migration.Share, *migration.Share, error) {
	if len(progress.Shards) == 0 {
		return nil, nil, nil
	}
	shards, err := domain.Shards(ctx, p.Names()...)
	if err != nil {
		return nil, nil, err
	}
	type shard struct {
		index  string
		number int
	}
	node := map[shard]string{}
	for _, sh := range shards {
		if sh.Primary {
			node[shard{sh.Index, sh.Shard}] = sh.Node
		}
	}
	var work shares
	for _, x := range progress.Shards {
		work.add(node[shard{x.Index, x.Shard}], x.Index, x.Shard, x.Bytes, x.Start, x.Start.Add(x.Took))
	}
	return work.nodes(), work.slowest(), nil
}
