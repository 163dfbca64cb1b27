package step

import (
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// changes are what has happened to the source's list of indices since the plan was made, as far as it concerns the migration; sorted
// by index. A rollover is an index that is created; a shrink, split or restore onto the same name is an index re-created.
func changes(p migration.Plan, list []cluster.Index, streams []cluster.DataStream) []migration.Change {
	var found []migration.Change
	there, chosen := byName(list), choose(p.Spec.Indices, list, streams)
	for _, x := range list {
		if _, planned := p.Index(x.Name); planned {
			continue
		}
		taken, what := chosen[x.Name].taken, migration.Created
		for _, l := range p.LeftOut {
			if l.Name == x.Name {
				taken, what = taken && (l.Reason == migration.ClosedAtSource || l.Reason == migration.ClosedInStream), migration.Opened
			}
		}
		if taken {
			found = append(found, migration.Change{Index: x.Name, What: what})
		}
	}
	for _, x := range p.Indices {
		switch now, ok := there[x.Name]; {
		case !ok:
			found = append(found, migration.Change{Index: x.Name, What: migration.Removed})
		case !chosen[x.Name].taken:
			found = append(found, migration.Change{Index: x.Name, What: migration.Closed})
		case x.UUID != "" && now.UUID != "" && x.UUID != now.UUID:
			found = append(found, migration.Change{Index: x.Name, What: migration.Recreated})
		}
	}
	slices.SortFunc(found, func(a, b migration.Change) int { return strings.Compare(a.Index, b.Index) })
	return found
}

// planIndex is how an index of the source is planned, or why it cannot be: only the fault Incompatible says so.
func planIndex(x cluster.Index, spec migration.Spec, to migration.Engine, source string) (migration.PlannedIndex, error) {
	distribution, major, minor, patch, err := cluster.DecodeCreatedVersion(x.CreatedVersion)
	if err != nil {
		return migration.PlannedIndex{}, fault.New(fault.Unclassified, "read the version that created index "+x.Name, source, err)
	}
	if why := migration.RefuseIndex(migration.Engine{Distribution: distribution, Major: major, Minor: minor, Patch: patch}, to); why != "" {
		return migration.PlannedIndex{}, fault.Newf(fault.Incompatible, "take index "+x.Name, source, "%s", why)
	}
	return planned(x, spec), nil
}

// IndexDeleter deletes indices.
type IndexDeleter interface {
	DeleteIndex(ctx context.Context, index string) error
}

// FollowDomain is what following the source's list of indices asks of either domain.
type FollowDomain interface {
	Info(context.Context) (cluster.Version, error)
	Indices(context.Context) ([]cluster.Index, error)
	Holder(ctx context.Context, name string) (string, error)
	IndexDeleter
	StreamKeeper
}

// follower brings the plan up to the source's present list of indices.
type follower struct {
	journal             *journal.Journal
	source, destination FollowDomain
	clock               Clock
	round               int
	// before are the strategies at the start of the round: a pass beside it may be writing to the copies of those on replay, which are
	// therefore left alone until the next round.
	before migration.Strategies

	list    []cluster.Index // of the source
	streams []cluster.DataStream
	chosen  map[string]choice
	copies  journal.Copies
	there   map[string]cluster.Index // at the destination
}

// follow returns the plan as it is now. Everything it finds is in the journal before anything is deleted.
func (f *follower) follow(ctx context.Context, p migration.Plan) (migration.Plan, error) {
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		if f.list, err = f.source.Indices(groupCtx); err != nil {
			return err
		}
		f.streams, err = streamsAmong(groupCtx, f.source, f.list)
		return err
	})
	group.Go(func() (err error) { f.copies, err = f.journal.Copies(groupCtx); return err })
	group.Go(func() error {
		list, err := f.destination.Indices(groupCtx)
		f.there = byName(list)
		return err
	})
	if err := group.Wait(); err != nil {
		return p, err
	}
	f.chosen = choose(p.Spec.Indices, f.list, f.streams)
	var err error
	// While a snapshot of the destination's own holds them, they stay until the restore.
	if f.copies, err = dropStreams(ctx, f.journal, p, f.destination, f.copies, f.there); err != nil && !fault.Is(err, fault.Busy) {
		return p, err
	}
	next, followed, err := f.next(ctx, p)
	if err != nil {
		return p, err
	}
	removed := f.toRemove(next)
	for _, name := range removed {
		// Between two executions: no plan of this one ever had it.
		if !slices.Contains(f.copies.Removed, name) && !slices.ContainsFunc(followed, func(c migration.Change) bool { return c.Index == name }) {
			followed = append(followed, migration.Change{At: f.clock.Now(), Round: f.round, Index: name, What: migration.Removed})
		}
	}
	if len(next.Indices) == 0 {
		// Above all, nothing is deleted then.
		return p, fault.Newf(fault.IndicesChanged, "follow the source's indices", p.Spec.Source.Endpoint, "none of the selected indices is left there")
	}
	if err := f.record(ctx, p, next, followed, removed); err != nil {
		return p, err
	}
	if len(f.copies.Streams) == 0 {
		f.copies, err = deleteRemoved(ctx, f.journal, f.destination, f.copies, f.before)
	}
	return next, err
}

// next is the plan with the changes made, and those changes.
func (f *follower) next(ctx context.Context, p migration.Plan) (next migration.Plan, followed []migration.Change, err error) {
	next = p
	next.Indices, next.LeftOut = slices.Clone(p.Indices), slices.Clone(p.LeftOut)
	now := byName(f.list)
	var to cluster.Version
	for i, x := range next.Indices {
		// Settings that the end of the migration puts back follow the source's without a word.
		if c, ok := now[x.Name]; ok && c.Open {
			fresh := planned(c, p.Spec)
			next.Indices[i].Stream = f.chosen[x.Name].stream
			next.Indices[i].Replicas, next.Indices[i].AutoExpand, next.Indices[i].RefreshInterval = fresh.Replicas, fresh.AutoExpand, fresh.RefreshInterval
		}
	}
	for _, c := range changes(p, f.list, f.streams) {
		c.At, c.Round = f.clock.Now(), f.round
		x := now[c.Index]
		leave := func() {
			next.Indices = slices.DeleteFunc(next.Indices, func(q migration.PlannedIndex) bool { return q.Name == c.Index })
		}
		switch c.What {
		case migration.Removed:
			leave()
		case migration.Closed:
			leave()
			next.LeftOut = append(next.LeftOut, migration.LeftOut{Name: c.Index, Reason: f.chosen[c.Index].reason})
		default:
			if x.Health == "red" {
				continue // just made, perhaps: it is followed once its shards are there
			}
			if to.Number == "" {
				if to, err = f.destination.Info(ctx); err != nil {
					return p, nil, err
				}
			}
			q, err := planIndex(x, p.Spec, engine(to), p.Spec.Source.Endpoint)
			if err != nil {
				return p, nil, err
			}
			q.Stream = f.chosen[c.Index].stream
			if _, exists := f.there[c.Index]; exists && !slices.Contains(f.copies.Indices, c.Index) {
				return p, nil, fault.Newf(fault.DestinationOccupied, "follow index "+c.Index, p.Spec.Destination.Endpoint,
					"it was created at the source since the plan, and an index of that name exists at the destination that was not made by this migration")
			}
			leave()
			next.LeftOut = slices.DeleteFunc(next.LeftOut, func(l migration.LeftOut) bool { return l.Name == c.Index })
			next.Indices = append(next.Indices, q)
		}
		followed = append(followed, c)
	}
	slices.SortFunc(next.Indices, func(a, b migration.PlannedIndex) int { return strings.Compare(a.Name, b.Name) })
	next.Streams = planStreams(next.Indices, f.streams)
	for _, d := range next.Streams {
		if _, before := p.Stream(d.Name); before {
			continue
		}
		holder, err := f.destination.Holder(ctx, d.Name)
		if err != nil {
			return p, nil, err
		}
		if holder != "" && !(holder == "data stream" && slices.Contains(f.copies.Streams, d.Name)) {
			return p, nil, fault.Newf(fault.DestinationOccupied, "follow data stream "+d.Name, p.Spec.Destination.Endpoint,
				"it was created at the source since the plan, and the destination has %s %s of that name that was not made by this migration", article(holder), holder)
		}
	}
	return next, followed, nil
}

func article(noun string) string {
	if strings.ContainsAny(noun[:1], "aeiou") {
		return "an"
	}
	return "a"
}

// toRemove are the copies whose index the migration would move and which is no longer there to be moved. What an earlier execution with
// another selection made is none of them.
func (f *follower) toRemove(next migration.Plan) []string {
	now := byName(f.list)
	var removed []string
	for _, name := range f.copies.Indices {
		_, planned := next.Index(name)
		if _, exists := now[name]; !planned && selects(next.Spec.Indices, name, f.chosen) && (!exists || !f.chosen[name].taken) {
			removed = append(removed, name)
		}
	}
	return removed
}

// record writes down what was found: changes first, because the plan that tells them is then overwritten.
func (f *follower) record(ctx context.Context, p, next migration.Plan, followed []migration.Change, removed []string) error {
	if len(followed) > 0 {
		if err := f.journal.RecordChanges(ctx, followed); err != nil {
			return err
		}
	}
	// An index that is planned again keeps its copy: its next restore goes over it.
	if !slices.Equal(f.copies.Removed, removed) {
		f.copies.Removed = removed
		if err := f.journal.SaveCopies(ctx, f.copies); err != nil {
			return err
		}
	}
	gone := slices.Clone(removed)
	for _, c := range followed {
		if c.What != migration.Created {
			gone = append(gone, c.Index)
		}
	}
	if err := f.leaveReplay(ctx, gone); err != nil {
		return err
	}
	if len(gone) > 0 {
		holds, err := f.journal.Holds(ctx)
		if err != nil {
			return err
		}
		if err := forget(ctx, f.journal, holds, gone); err != nil {
			return err
		}
	}
	same := func(a, b migration.PlannedStream) bool { return a.Name == b.Name && slices.Equal(a.Indices, b.Indices) }
	if slices.Equal(p.Indices, next.Indices) && slices.Equal(p.LeftOut, next.LeftOut) && slices.EqualFunc(p.Streams, next.Streams, same) {
		return nil
	}
	return f.journal.SavePlan(ctx, next)
}

// leaveReplay takes indices off the replay: what its base tells is of an index that is no more.
func (f *follower) leaveReplay(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	s, err := f.journal.Strategies(ctx)
	if err != nil {
		return err
	}
	replayed, dropped := len(s.Replay), len(s.Dropped)
	s.Replay = slices.DeleteFunc(s.Replay, func(r migration.OnReplay) bool { return slices.Contains(names, r.Index) })
	s.Dropped = slices.DeleteFunc(s.Dropped, func(d migration.Dropped) bool { return slices.Contains(names, d.Name) })
	if len(s.Replay) == replayed && len(s.Dropped) == dropped {
		return nil
	}
	return f.journal.SaveStrategies(ctx, s)
}

// deleteRemoved deletes the copies that are recorded as removed, but for those that a pass of the replay may be writing to, and those that
// a snapshot of the domain's own holds now: they stay recorded.
func deleteRemoved(ctx context.Context, j *journal.Journal, destination IndexDeleter, c journal.Copies, replaying migration.Strategies) (journal.Copies, error) {
	var deleted []string
	var problem error
	for _, name := range c.Removed {
		if replaying.Has(name) {
			continue
		}
		switch err := destination.DeleteIndex(ctx, name); {
		case fault.Is(err, fault.Busy):
		case err != nil:
			problem = errors.Join(problem, err)
		default:
			deleted = append(deleted, name)
		}
	}
	if problem != nil || len(deleted) == 0 {
		return c, problem
	}
	isDeleted := func(name string) bool { return slices.Contains(deleted, name) }
	c.Indices, c.Removed = slices.DeleteFunc(slices.Clone(c.Indices), isDeleted), slices.DeleteFunc(slices.Clone(c.Removed), isDeleted)
	return c, j.SaveCopies(ctx, c)
}
