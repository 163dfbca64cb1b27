package step

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// A data stream moves in two ways. Its backing indices are warmed as plain indices, because no engine closes the write index of a stream
// and none restores over an open index. The final round takes and restores the stream whole, by its name, over the closed copies: their
// segments are reused, and the stream appears (measured on OpenSearch 1.3, 2.19 and 3.7). As that restores every backing index, warm
// rounds leave none of them out: they take what the final round will take.

// StreamLister lists data streams.
type StreamLister interface {
	DataStreams(context.Context) ([]cluster.DataStream, error)
}

// StreamKeeper deletes data streams, too.
type StreamKeeper interface {
	StreamLister
	DeleteDataStream(ctx context.Context, name string) error
}

// streamsAmong are the data streams of a domain that has these indices. Where none is named as those of a stream are, nobody is asked.
func streamsAmong(ctx context.Context, domain StreamLister, list []cluster.Index) ([]cluster.DataStream, error) {
	if !slices.ContainsFunc(list, func(x cluster.Index) bool { return migration.IsBacking(x.Name) }) {
		return nil, nil
	}
	return domain.DataStreams(ctx)
}

// choice says whether the migration takes an index of the source.
type choice struct {
	taken  bool
	reason string // of an index that the selection matched and that is left out
	stream string // that it is a backing index of
}

// choose makes the choice for every index of the source. A data stream is taken whole or not at all. Its index that is not in the list was
// made since, by a rollover: the next look finds it.
func choose(s migration.Selection, list []cluster.Index, streams []cluster.DataStream) map[string]choice {
	there := byName(list)
	chosen := make(map[string]choice, len(list))
	for _, d := range streams {
		closed := slices.ContainsFunc(d.Indices, func(name string) bool { x, ok := there[name]; return ok && !x.Open })
		for _, name := range d.Indices {
			x, ok := there[name]
			if !ok {
				continue
			}
			c := choice{stream: d.Name}
			c.taken, c.reason = s.SelectBacking(name, d.Name)
			switch {
			case c.taken && !x.Open:
				c.taken, c.reason = false, migration.ClosedAtSource
			case c.taken && closed:
				c.taken, c.reason = false, migration.ClosedInStream
			}
			chosen[name] = c
		}
	}
	for _, x := range list {
		if _, done := chosen[x.Name]; done {
			continue
		}
		var c choice
		c.taken, c.reason = s.Select(x.Name)
		if c.taken && !x.Open {
			c.taken, c.reason = false, migration.ClosedAtSource
		}
		chosen[x.Name] = c
	}
	return chosen
}

// selects reports whether the selection is for an index, which may be gone.
func selects(s migration.Selection, name string, chosen map[string]choice) bool {
	stream := chosen[name].stream
	if stream == "" {
		stream = migration.StreamOf(name)
	}
	taken, _ := s.Select(name)
	if stream != "" {
		taken, _ = s.SelectBacking(name, stream)
	}
	return taken
}

// planStreams are the data streams of which every backing index is planned.
func planStreams(indices []migration.PlannedIndex, streams []cluster.DataStream) []migration.PlannedStream {
	planned := set(indexNames(indices))
	var out []migration.PlannedStream
	for _, d := range streams {
		if len(d.Indices) > 0 && !slices.ContainsFunc(d.Indices, func(name string) bool { return !planned[name] }) {
			out = append(out, migration.PlannedStream(d))
		}
	}
	return out
}

// differing says of each planned data stream that is not as planned what it is now.
func differing(p migration.Plan, now []cluster.DataStream) map[string]string {
	words := map[string]string{}
	for _, want := range p.Streams {
		i := slices.IndexFunc(now, func(d cluster.DataStream) bool { return d.Name == want.Name })
		switch {
		case i < 0:
			words[want.Name] = "it is not there"
		case !slices.Equal(now[i].Indices, want.Indices):
			words[want.Name] = fmt.Sprintf("it has %s, not %s", ends(now[i].Indices), ends(want.Indices))
		}
	}
	return words
}

// ends names the first and the last of a data stream's indices, which tell a rollover and a deletion.
func ends(indices []string) string {
	switch n := len(indices); n {
	case 0:
		return "no index"
	case 1:
		return indices[0]
	default:
		return fmt.Sprintf("%d indices from %s to %s", n, indices[0], indices[n-1])
	}
}

// indexLister lists the indices and the data streams of a domain.
type indexLister interface {
	Indices(context.Context) ([]cluster.Index, error)
	StreamLister
}

// stillPlanned refuses to go on with the cut-over when the source's indices are not those of the plan any more: what was made anew has
// no write block and would stay behind. A rollover of a data stream is no write, so that blocks do not stop it.
func stillPlanned(ctx context.Context, source indexLister, p migration.Plan, op string) error {
	list, err := source.Indices(ctx)
	if err != nil {
		return err
	}
	streams, err := streamsAmong(ctx, source, list)
	if err != nil {
		return err
	}
	return asPlanned(p, list, streams, op)
}

func asPlanned(p migration.Plan, list []cluster.Index, streams []cluster.DataStream, op string) error {
	var words []string
	for _, c := range changes(p, list, streams) {
		words = append(words, c.String())
	}
	if len(p.Streams) > 0 {
		for name, how := range differing(p, streams) {
			words = append(words, "data stream "+name+": "+how)
		}
	}
	if len(words) == 0 {
		return nil
	}
	slices.Sort(words)
	return fault.Newf(fault.IndicesChanged, op, p.Spec.Source.Endpoint, "since the last round: %s", strings.Join(bounded(words), ", "))
}

// compareStreams are the checks of the data streams, one each: both sides have the stream with the planned indices in their order, the last
// of which takes its writes.
func compareStreams(ctx context.Context, source, destination StreamLister, p migration.Plan) ([]migration.Check, error) {
	if len(p.Streams) == 0 {
		return nil, nil
	}
	var from, to []cluster.DataStream
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { from, err = source.DataStreams(groupCtx); return err })
	group.Go(func() (err error) { to, err = destination.DataStreams(groupCtx); return err })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	before, after := differing(p, from), differing(p, to)
	checks := make([]migration.Check, len(p.Streams))
	for i, d := range p.Streams {
		c := migration.Check{Name: "data-stream", Index: d.Name, Outcome: migration.Passed, Evidence: ends(d.Indices) + " on both sides"}
		if how, ok := before[d.Name]; ok {
			c.Outcome, c.Evidence = migration.Broken, "at the source: "+how
		} else if how, ok := after[d.Name]; ok {
			c.Outcome, c.Evidence = migration.Broken, "at the destination: "+how
		}
		checks[i] = c
	}
	return checks, nil
}

// dropStreams deletes the data streams that an earlier final restore of this migration made at the destination: their write indices can be
// neither closed nor deleted alone, so that no warm round could go over them. Their copies are gone with them, and the next restore brings
// them anew, whole. A stream that has an index of somebody else's is refused. there, the destination's indices, follows.
func dropStreams(ctx context.Context, j *journal.Journal, p migration.Plan, domain StreamKeeper, c journal.Copies, there map[string]cluster.Index) (journal.Copies, error) {
	if len(c.Streams) == 0 {
		return c, nil
	}
	f, found, err := j.Freeze(ctx)
	if err != nil {
		return c, err
	}
	if found && (f.State == journal.HandingOver || f.State == journal.HandedOver) {
		return c, fault.Newf(fault.DestinationOccupied, "warm data streams again", p.Spec.Destination.Endpoint, "the destination has taken over (%s): its data streams take writes", f.State)
	}
	list, err := domain.DataStreams(ctx)
	if err != nil {
		return c, err
	}
	made := set(c.Indices)
	for _, d := range list {
		if !slices.Contains(c.Streams, d.Name) {
			continue
		}
		if i := slices.IndexFunc(d.Indices, func(name string) bool { return !made[name] }); i >= 0 {
			return c, fault.Newf(fault.DestinationOccupied, "delete data stream "+d.Name, p.Spec.Destination.Endpoint,
				"this migration made it, but not its index %s: somebody has rolled it over since", d.Indices[i]).
				WithHint("If nobody needs what was written to it, delete the data stream %s at the destination, then start anew.", d.Name)
		}
		holds, err := j.Holds(ctx)
		if err != nil {
			return c, err
		}
		if err := forget(ctx, j, holds, d.Indices); err != nil {
			return c, err
		}
		if err := domain.DeleteDataStream(ctx, d.Name); err != nil {
			return c, err
		}
		for _, name := range d.Indices {
			delete(there, name)
		}
	}
	c.Streams = nil
	return c, j.SaveCopies(ctx, c)
}
