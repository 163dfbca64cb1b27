package step

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// RestoreInput is a round and since when its restore has waited for its turn; null at first.
type RestoreInput struct {
	RoundInput
	Since time.Time `json:"since"`
}

// RestoreOutput says whether the round's restore runs (or ran).
type RestoreOutput struct {
	Accepted    bool      `json:"accepted"`
	StartedAt   time.Time `json:"startedAt"`
	Since       time.Time `json:"since"`
	WaitSeconds int       `json:"waitSeconds"`
	Waiting     string    `json:"waiting,omitempty"`
	Indices     int       `json:"indices"` // that this call asked to restore
}

// RestoreDomain is what starting a restore asks of the destination.
type RestoreDomain interface {
	RestoreState
	Close(ctx context.Context, indices ...string) error
	IndexDeleter
	StreamKeeper
	Restore(ctx context.Context, repository, snapshot string, r cluster.RestoreRequest) error
}

// RestoreState is how far restores are.
type RestoreState interface {
	Indices(context.Context) ([]cluster.Index, error)
	Recoveries(ctx context.Context, indices ...string) ([]cluster.ShardRecovery, error)
	Shards(ctx context.Context, indices ...string) ([]cluster.Shard, error)
}

// Restore restores the round's snapshot at the destination: new indices as they are, existing copies over themselves after
// closing them, so that only segments that differ move. Copies that cannot be closed, or that have another number of shards, are deleted
// and restored anew: the snapshot is complete and copied by then, and a copy is only what the journal records as made by this migration.
// A final restore brings data streams whole, by their names, over the copies of their indices.
type Restore struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) RestoreDomain
	Clock   Clock
}

// ignoredSettings must not travel: allocation rules name the source's nodes, blocks are our own freeze, and lifecycle policies
// would act on a copy by its age.
var ignoredSettings = []string{
	"index.routing.allocation.*", "index.blocks.*", "index.lifecycle.*", "index.plugins.index_state_management.*",
	"index.opendistro.index_state_management.*",
}

// Run is the state StartRestore.
func (s Restore) Run(ctx context.Context, in RestoreInput) (RestoreOutput, error) {
	r, err := records(ctx, s.Journal, in.RoundInput)
	if err != nil {
		return RestoreOutput{}, err
	}
	j, p := r.journal, r.inSnapshot()
	out := RestoreOutput{StartedAt: s.Clock.Now(), Since: in.Since}
	if out.Since.IsZero() {
		out.Since = out.StartedAt
	}
	domain := s.Domain(p.Spec.Destination)
	deadline := out.StartedAt.Add(longPoll)
	for {
		out.Indices, err = s.start(ctx, domain, p, j, in.RoundInput)
		if !fault.Is(err, fault.Busy) {
			out.Accepted = err == nil
			return out, err
		}
		// Another snapshot or restore holds the index; the domain's hourly snapshot is such a one.
		if !in.Final || s.Clock.Now().After(deadline) {
			out.WaitSeconds, out.Waiting = wait(in.RoundInput, out.Since, s.Clock.Now()), err.Error()
			return out, nil
		}
		if err := s.Clock.Sleep(ctx, 200*time.Millisecond); err != nil {
			return out, err
		}
		out.StartedAt = s.Clock.Now()
	}
}

// start asks for what is not yet restored, or being restored, and says how many indices that were.
func (s Restore) start(ctx context.Context, domain RestoreDomain, p migration.Plan, j *journal.Journal, in RoundInput) (int, error) {
	snapshot := migration.SnapshotName(in.Migration, in.Round)
	var list []cluster.Index
	var copies journal.Copies
	var holds map[string]journal.Hold
	var streams []cluster.DataStream
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { list, err = domain.Indices(groupCtx); return err })
	group.Go(func() (err error) { copies, err = j.Copies(groupCtx); return err })
	group.Go(func() (err error) { holds, err = j.Holds(groupCtx); return err })
	if in.Final && len(p.Streams) > 0 {
		group.Go(func() (err error) { streams, err = domain.DataStreams(groupCtx); return err })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	there := byName(list)
	if !in.Final {
		// A thaw after a final restore left them; a round that finds its snapshot taken has not followed the source before.
		var err error
		if copies, err = dropStreams(ctx, j, p, domain, copies, there); err != nil {
			return 0, err
		}
	}
	todo, open, copies, err := s.outstanding(ctx, domain, p, j, snapshot, there, copies)
	if err == nil && in.Final {
		todo, open, copies, err = s.whole(ctx, domain, p, j, streams, there, copies, todo, open)
	}
	if err != nil || len(todo) == 0 {
		return 0, err
	}
	if err := forget(ctx, j, holds, todo); err != nil {
		return 0, err
	}
	if err := s.clear(ctx, domain, p, j, there, copies, todo, open); err != nil {
		return 0, err
	}
	names := todo
	if in.Final {
		names = p.Whole(todo)
	}
	err = domain.Restore(ctx, p.Spec.RepositoryName(), snapshot, cluster.RestoreRequest{
		Indices: names, IncludeAliases: in.Final, IgnoreSettings: ignoredSettings,
		Settings: map[string]any{
			"index.number_of_replicas": 0, "index.auto_expand_replicas": "false", "index.refresh_interval": "-1", "index.blocks.write": true,
		},
	})
	if cluster.OpenIndexInTheWay(err) {
		// Nothing was open when we looked: an earlier request of ours, whose answer was lost, has taken effect since. Look again.
		return 0, fault.New(fault.Busy, "restore snapshot "+snapshot, p.Spec.Destination.Endpoint, err)
	}
	return len(todo), err
}

// clear makes way for the restore: copies that are open are closed. Those with another number of shards than the index has now, which
// no engine restores over, are deleted, and on a domain that closes no index all that are open are.
func (s Restore) clear(ctx context.Context, domain RestoreDomain, p migration.Plan, j *journal.Journal, there map[string]cluster.Index, copies journal.Copies, todo, open []string) error {
	var other []string
	for _, name := range todo {
		x, _ := p.Index(name)
		if c, exists := there[name]; exists && c.Primaries != x.Shards {
			other = append(other, name)
		}
	}
	same := slices.DeleteFunc(slices.Clone(open), func(name string) bool { return slices.Contains(other, name) })
	if len(same) > 0 && !copies.CannotClose {
		err := domain.Close(ctx, same...)
		switch {
		case cluster.CannotClose(err):
			copies.CannotClose = true // asked once
			if err := j.SaveCopies(ctx, copies); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	if copies.CannotClose {
		other = append(other, same...)
	}
	for _, name := range other {
		if err := domain.DeleteIndex(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// outstanding lists the planned indices that are not yet restored, or being restored, from the snapshot, and those of them that
// are open. Names that are about to be created are recorded before.
func (s Restore) outstanding(ctx context.Context, domain RestoreDomain, p migration.Plan, j *journal.Journal, snapshot string, there map[string]cluster.Index, copies journal.Copies) (todo, open []string, now journal.Copies, err error) {
	made := set(copies.Indices)
	var created, candidates []string
	for _, name := range p.Names() {
		x, exists := there[name]
		switch {
		case exists && !made[name]:
			return nil, nil, copies, fault.Newf(fault.DestinationOccupied, "restore index "+name, p.Spec.Destination.Endpoint, "an index of that name exists and was not made by this migration")
		case !made[name]:
			created = append(created, name)
		}
		if exists && x.Open {
			candidates = append(candidates, name)
		} else {
			todo = append(todo, name)
		}
	}
	if len(created) > 0 {
		copies.Indices = append(copies.Indices, created...)
		slices.Sort(copies.Indices)
		if err := j.SaveCopies(ctx, copies); err != nil {
			return nil, nil, copies, err
		}
	}
	if len(candidates) == 0 {
		return todo, nil, copies, nil
	}
	under, err := s.underWay(ctx, domain, p, snapshot, candidates)
	if err != nil {
		return nil, nil, copies, err
	}
	for _, name := range candidates {
		if !under[name] {
			open = append(open, name)
			todo = append(todo, name)
		}
	}
	slices.Sort(todo)
	return todo, open, copies, nil
}

// whole completes the list of a final restore, which brings data streams whole: while a stream is not there, all of its indices are to be
// restored. One that is there and has lost a shard is deleted and restored anew, because its write index cannot be closed. Streams that
// are about to be created are recorded before.
func (s Restore) whole(
	ctx context.Context, domain RestoreDomain, p migration.Plan, j *journal.Journal, existing []cluster.DataStream, there map[string]cluster.Index, copies journal.Copies, todo, open []string,
) ([]string, []string, journal.Copies, error) {
	missing := set(todo)
	record := false
	for _, d := range p.Streams {
		i := slices.IndexFunc(existing, func(e cluster.DataStream) bool { return e.Name == d.Name })
		switch {
		case i >= 0 && !slices.ContainsFunc(d.Indices, func(name string) bool { return missing[name] }):
			continue // restored, or being restored
		case i >= 0 && !slices.Contains(copies.Streams, d.Name):
			return nil, nil, copies, fault.Newf(fault.DestinationOccupied, "restore data stream "+d.Name, p.Spec.Destination.Endpoint, "a data stream of that name exists and was not made by this migration")
		case i >= 0:
			if err := s.lost(ctx, domain, p, d.Name, existing[i].Indices); err != nil {
				return nil, nil, copies, err
			}
			if err := domain.DeleteDataStream(ctx, d.Name); err != nil {
				return nil, nil, copies, err
			}
			for _, name := range existing[i].Indices {
				delete(there, name)
			}
			open = slices.DeleteFunc(open, func(name string) bool { return slices.Contains(existing[i].Indices, name) })
		case !slices.Contains(copies.Streams, d.Name):
			copies.Streams, record = append(copies.Streams, d.Name), true
		}
		for _, name := range d.Indices {
			if missing[name] {
				continue
			}
			todo = append(todo, name)
			if there[name].Open {
				open = append(open, name)
			}
		}
	}
	slices.Sort(todo)
	if record {
		return todo, open, copies, j.SaveCopies(ctx, copies)
	}
	return todo, open, copies, nil
}

// lost is nil when no shard of the data stream's indices still waits for its turn to be restored: then what is missing is lost.
func (s Restore) lost(ctx context.Context, domain RestoreDomain, p migration.Plan, stream string, indices []string) error {
	shards, err := domain.Shards(ctx, indices...)
	if err != nil {
		return err
	}
	for _, sh := range shards {
		if sh.Primary && (sh.State == "INITIALIZING" || sh.State == "UNASSIGNED" && (sh.UnassignedReason == "EXISTING_INDEX_RESTORED" || sh.UnassignedReason == "NEW_INDEX_RESTORED")) {
			return fault.Newf(fault.Busy, "restore data stream "+stream, p.Spec.Destination.Endpoint, "shard %s[%d] is still being restored", sh.Index, sh.Shard)
		}
	}
	return nil
}

// underWay finds the open indices of which every primary is being recovered, or was recovered, from the snapshot. A shard that
// still queues has no recovery yet; then closing the index is refused as busy and the step asks again later.
func (s Restore) underWay(ctx context.Context, domain RestoreState, p migration.Plan, snapshot string, names []string) (map[string]bool, error) {
	var recoveries []cluster.ShardRecovery
	var shards []cluster.Shard
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { recoveries, err = domain.Recoveries(groupCtx, names...); return err })
	group.Go(func() (err error) { shards, err = domain.Shards(groupCtx, names...); return err })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, r := range recoveries {
		if r.Primary && r.Type == "EMPTY_STORE" {
			return nil, fault.Newf(fault.DestinationOccupied, "restore index "+r.Index, p.Spec.Destination.Endpoint,
				"the index there was created empty, not restored: somebody else made it since the plan")
		}
		if r.Primary && r.Type == "SNAPSHOT" && r.Snapshot == snapshot {
			count[r.Index]++
		}
	}
	lost := map[string]bool{}
	for _, sh := range shards {
		if sh.Primary && sh.State == "UNASSIGNED" {
			lost[sh.Index] = true
		}
	}
	under := map[string]bool{}
	for _, x := range p.Indices {
		under[x.Name] = count[x.Name] >= x.Shards && !lost[x.Name]
	}
	return under, nil
}
