package step

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
	"github.com/domainferry/domainferry/internal/verify"
)

// PlanReplayOutput is a planned pass: its number and its slices, by number. The pass itself is in the journal. A pass of one slice
// needs no others to help: it is brought over at once, and Done. When only its documents are (Brought), Deletes are the parts of its
// deletions that are left.
type PlanReplayOutput struct {
	Pass       int             `json:"pass"`
	StartedAt  time.Time       `json:"startedAt"`
	Operations int64           `json:"operations"`
	Slices     []int           `json:"slices"`
	Dropped    []string        `json:"dropped"` // indices that went back to rounds, with the reason; the first 100, the journal has all
	Brought    bool            `json:"brought"`
	Deletes    []int           `json:"deletes"`
	Done       bool            `json:"done"`   // the pass is over
	Record     *migration.Pass `json:"record"` // of a pass that is over
}

// PassPlanner plans a pass and brings it over.
type PassPlanner interface {
	Plan(ctx context.Context, states []replay.State, o replay.PlanOptions) (replay.Pass, error)
	SliceReplayer
	DeleteReconciler
}

// PlanReplayDomain is what planning a pass asks of either domain.
type PlanReplayDomain interface {
	Indices(context.Context) ([]cluster.Index, error)
	Mappings(ctx context.Context, indices ...string) (map[string]json.RawMessage, error)
	PutMapping(ctx context.Context, index string, mapping json.RawMessage) error
	Open(ctx context.Context, indices ...string) error
	UpdateSettings(ctx context.Context, settings map[string]any, indices ...string) error
	Refresh(ctx context.Context, indices ...string) error
	RecordPassDomain
}

// PlanReplay opens the copies of the indices on replay, gives them the source's present mapping, plans the next pass over what has
// changed, and brings it over when it is small: inside the freeze each further step costs write downtime. What does not work at
// once is left to the states that follow, with their time and their retries.
type PlanReplay struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) PlanReplayDomain
	Replay  func(source, destination migration.Endpoint) PassPlanner
	Clock   Clock
}

// Run is the state PlanReplay.
func (s PlanReplay) Run(ctx context.Context, in ReplayInput) (PlanReplayOutput, error) {
	var strategies migration.Strategies
	var state replayState
	j, p, err := planAnd(ctx, s.Journal, in,
		func(ctx context.Context, j *journal.Journal) (err error) {
			strategies, err = j.Strategies(ctx)
			return err
		},
		func(ctx context.Context, j *journal.Journal) (err error) { state, err = readState(ctx, j); return err })
	if err != nil {
		return PlanReplayOutput{}, err
	}
	_, indices := strategies.Split(p)
	// An older plan's index, or one that was dropped by a pass that failed: nothing may be written to its copy.
	for _, name := range state.names() {
		if !slices.ContainsFunc(indices, func(x migration.PlannedIndex) bool { return x.Name == name }) {
			state.forget(name)
		}
	}
	in.Pass = state.Pass + 1
	out := PlanReplayOutput{Pass: in.Pass, StartedAt: s.Clock.Now(), Slices: []int{}, Deletes: []int{}, Dropped: []string{}}
	// One client for each side: a client asks who its domain is before the first call that needs to know.
	source, destination := s.Domain(p.Spec.Source), s.Domain(p.Spec.Destination)
	engine := s.Replay(p.Spec.Source, p.Spec.Destination)
	pass, drops, err := s.plan(ctx, j, source, destination, in, indices, strategies, engine, &state)
	if err != nil {
		return out, err
	}
	if err := s.drop(ctx, j, in, &state, drops); err != nil {
		return out, err
	}
	for _, d := range drops[:min(100, len(drops))] {
		out.Dropped = append(out.Dropped, d.Index+": "+d.Reason)
	}
	for _, x := range pass.Slices {
		out.Slices = append(out.Slices, x.Number)
	}
	out.Operations = pass.Operations
	if len(pass.Slices) <= 1 {
		if done, err := s.bring(ctx, j, p, destination, in, &pass, engine, &state, &out); done || err != nil {
			return out, err
		}
	}
	if state.Pass == in.Pass { // the slices are in
		out.Slices, out.Brought = []int{}, true
		if out.Deletes, err = state.handOut(ctx, j); err != nil {
			return out, err
		}
		return out, state.save(ctx, j)
	}
	if err := savePass(ctx, j, out.Pass, pass); err != nil {
		return out, err
	}
	return out, state.save(ctx, j)
}

// plan makes the copies ready and plans the pass. In the freeze, where time is dear, both go on at once if an earlier pass has
// opened the copies; what the source's clients may have changed since, mappings and aliases, is compared all the same.
func (s PlanReplay) plan(ctx context.Context, j *journal.Journal, source, destination PlanReplayDomain, in ReplayInput, indices []migration.PlannedIndex, strategies migration.Strategies, engine PassPlanner, state *replayState) (replay.Pass, []replay.Drop, error) {
	o := replay.PlanOptions{Frozen: in.Final}
	if !in.Final || !state.ready(indices) {
		drops, err := s.prepare(ctx, j, source, destination, indices, strategies, state)
		if err != nil {
			return replay.Pass{}, nil, err
		}
		state.Sealed = false
		for _, d := range drops {
			state.forget(d.Index) // the pass must not have it
		}
		pass, err := engine.Plan(ctx, state.States, o)
		if err != nil {
			return pass, nil, err
		}
		// Only now: every document of the pass is older than these mappings. One that needs a newer mapping would be mapped by guess.
		refused, err := agreeMappings(ctx, source, destination, state.names())
		if err != nil || len(refused) == 0 {
			return pass, append(drops, pass.Drops...), err
		}
		for _, d := range refused {
			state.forget(d.Index)
		}
		drops = append(drops, refused...)
		pass, err = engine.Plan(ctx, state.States, o)
		return pass, append(drops, pass.Drops...), err
	}
	var drops []replay.Drop
	var pass replay.Pass
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		drops, err = agreeMappings(groupCtx, source, destination, state.names())
		return err
	})
	group.Go(func() error { return agreeAliases(groupCtx, source, destination, state.names()) })
	group.Go(func() (err error) { pass, err = engine.Plan(groupCtx, state.States, o); return err })
	err := group.Wait()
	return pass, append(drops, pass.Drops...), err
}

// bring brings a pass of one slice over, with its deletions and its record. What does not succeed at once (done is false), and deletions of
// so many shards that calls side by side are to look for them, is where the states of large passes find it.
func (s PlanReplay) bring(ctx context.Context, j *journal.Journal, p migration.Plan, destination PlanReplayDomain, in ReplayInput, pass *replay.Pass, engine PassPlanner, state *replayState, out *PlanReplayOutput) (done bool, err error) {
	results, done, err := s.slices(ctx, j, in, *pass, engine, out)
	if err != nil || !done {
		return false, later(ctx, err)
	}
	if err := state.advance(ctx, j, engine, in, *pass, results); err != nil {
		return false, later(ctx, err)
	}
	if len(replay.CutDeletes(state.States, state.Rest)) > 1 {
		return false, nil
	}
	if done, err := state.reconcile(ctx, j, engine, p, in); err != nil || !done {
		return false, later(ctx, err)
	}
	if names := state.names(); in.Final && len(names) > 0 {
		group, groupCtx := errgroup.WithContext(ctx)
		group.Go(func() error { return state.seal(groupCtx, j, destination) })
		// The verification counts what is visible; it begins with a refresh that finds nothing left to do.
		group.Go(func() error { return destination.Refresh(groupCtx, names...) })
		if err := group.Wait(); err != nil {
			return false, later(ctx, err)
		}
	}
	record := state.record(in, out.StartedAt, s.Clock.Now())
	if !in.Final {
		record.AsLast = record.Seconds - pass.Refreshing - state.settling
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return state.save(groupCtx, j) })
	group.Go(func() error { return j.SavePass(groupCtx, record) })
	if err := group.Wait(); err != nil {
		return false, later(ctx, err)
	}
	out.Done, out.Record = true, &record
	return true, nil
}

// slices replays the slices of a pass, as far as one call takes them.
func (s PlanReplay) slices(ctx context.Context, j *journal.Journal, in ReplayInput, pass replay.Pass, engine PassPlanner, out *PlanReplayOutput) (results []replay.SliceResult, done bool, err error) {
	deadline, _ := ctx.Deadline()
	for _, x := range pass.Slices {
		r, err := engine.Slice(ctx, x, deadline)
		if err != nil || !r.Done {
			// The state Replay goes on with what is left.
			if saved := j.SaveDocument(ctx, resultFile(in.Pass, x.Number, 0), sliceCall{out.StartedAt, x.Parts, r}); saved != nil && err == nil {
				err = saved
			}
			return nil, false, err
		}
		results = append(results, r)
	}
	return results, true, nil
}

// later is nil for an error that the states of large passes get over: by asking again, or by meeting it again.
func later(ctx context.Context, err error) error {
	if fault.Retryable(err) && ctx.Err() == nil {
		return nil
	}
	return err
}

// drop puts indices back on rounds. Inside the freeze there is no round left that could bring them up to date.
func (s PlanReplay) drop(ctx context.Context, j *journal.Journal, in ReplayInput, state *replayState, drops []replay.Drop) error {
	if err := dropped(ctx, j, state, drops); err != nil {
		return err
	}
	if in.Final && len(drops) > 0 {
		return lastDrop(drops[0])
	}
	return nil
}

// prepare makes the copies ready to be written to and finds those that cannot be.
func (s PlanReplay) prepare(ctx context.Context, j *journal.Journal, source, destination PlanReplayDomain, indices []migration.PlannedIndex, strategies migration.Strategies, state *replayState) ([]replay.Drop, error) {
	var here, there []cluster.Index
	var mappings map[string]json.RawMessage
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { here, err = source.Indices(groupCtx); return err })
	group.Go(func() (err error) { there, err = destination.Indices(groupCtx); return err })
	group.Go(func() (err error) { mappings, err = source.Mappings(groupCtx, indexNames(indices)...); return err })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	at, copies := byName(here), byName(there)
	var drops []replay.Drop
	var closed []string
	checkpoints := basesOf{}
	for _, x := range indices {
		// Deleted with its original, which came back under this name later.
		if _, ok := copies[x.Name]; !ok {
			drops = append(drops, replay.Drop{Index: x.Name, Reason: "its copy is missing at the destination"})
			state.forget(x.Name)
			continue
		}
		if _, known := state.state(x.Name); !known {
			fresh, drop, err := s.base(ctx, j, checkpoints, at[x.Name], mappings[x.Name], strategies, x.Name)
			if err != nil {
				return nil, err
			}
			if drop != nil {
				drops = append(drops, *drop)
				continue
			}
			state.States = append(state.States, fresh)
		}
		if !copies[x.Name].Open {
			closed = append(closed, x.Name)
		}
	}
	if len(closed) > 0 {
		if err := destination.Open(ctx, closed...); err != nil {
			return nil, err
		}
	}
	// Most copies lack the same settings: those are given to them in one request for many.
	var changes []map[string]any
	alike := map[string][]string{} // the change, as JSON -> indices
	for _, x := range state.States {
		change := replay.Settings(copies[x.Index].Settings, at[x.Index].Settings)
		if !differs(copies[x.Index].Settings, change.During) {
			continue
		}
		key, err := json.Marshal(change.During)
		if err != nil {
			return nil, err
		}
		if alike[string(key)] == nil {
			changes = append(changes, change.During)
		}
		alike[string(key)] = append(alike[string(key)], x.Index)
	}
	for _, change := range changes {
		key, _ := json.Marshal(change)
		if err := destination.UpdateSettings(ctx, change, alike[string(key)]...); err != nil {
			return nil, err
		}
	}
	if err := holdMerges(ctx, destination, copies, state); err != nil {
		return nil, err
	}
	// The source may be between two states, an alias of a restored index not yet moved: the last pass looks again, and insists.
	if err := agreeAliases(ctx, source, destination, state.names()); err != nil && !fault.Is(err, fault.RequestRefused) {
		return nil, err
	}
	return drops, nil
}

// holdMerges keeps refreshes of the copies from waiting for merges. A domain that refuses is not asked again.
func holdMerges(ctx context.Context, destination PlanReplayDomain, copies map[string]cluster.Index, state *replayState) error {
	if state.Merges == mergesRefused || len(state.States) == 0 {
		return nil
	}
	names := slices.DeleteFunc(state.names(), func(name string) bool { return copies[name].Settings[replay.MergeOnRefresh] == "false" })
	if len(names) == 0 {
		state.Merges = mergesHeld // perhaps by an attempt that was killed, or whose answer was lost
		return nil
	}
	err := destination.UpdateSettings(ctx, map[string]any{replay.MergeOnRefresh: false}, names...)
	switch {
	case fault.Is(err, fault.RequestRefused, fault.AccessDenied) && state.Merges == "":
		state.Merges = mergesRefused
		return nil
	case err == nil:
		state.Merges = mergesHeld
	}
	return err
}

// basesOf are the checkpoints of rounds; many indices have the same base.
type basesOf map[int]journal.Checkpoints

func (b basesOf) round(ctx context.Context, j *journal.Journal, round int) (journal.Checkpoints, error) {
	if c, known := b[round]; known {
		return c, nil
	}
	c, _, err := j.Checkpoints(ctx, round)
	if err == nil {
		b[round] = c // of a round without a record: none of any index
	}
	return c, err
}

// base makes the state of an index that is new on replay from the checkpoints of its base round.
func (s PlanReplay) base(ctx context.Context, j *journal.Journal, bases basesOf, index cluster.Index, mapping json.RawMessage, strategies migration.Strategies, name string) (replay.State, *replay.Drop, error) {
	round := 0
	for _, r := range strategies.Replay {
		if r.Index == name {
			round = r.Base
		}
	}
	c, err := bases.round(ctx, j, round)
	if err != nil {
		return replay.State{}, nil, err
	}
	checkpoints := c.PerShard[name]
	if ok, reason := replay.Eligible(index, mapping, len(checkpoints) > 0); !ok {
		return replay.State{}, &replay.Drop{Index: name, Reason: reason}, nil
	}
	// The index of that moment: a restore, a shrink or another index of the name since is found by its first pass.
	then := c.Identities[name]
	return replay.NewState(name, cmp.Or(then.UUID, index.UUID), checkpoints, then.Histories), nil, nil
}

// differs reports whether a copy does not have the settings yet; null means unset.
func differs(has map[string]string, want map[string]any) bool {
	for k, v := range want {
		now, set := has[k]
		if v == nil && set || v != nil && now != v {
			return true
		}
	}
	return false
}

// agreeMappings gives the copies the source's present mappings before documents come that need them. A mapping that the newer engine
// refuses makes the index go back to rounds.
func agreeMappings(ctx context.Context, source, destination PlanReplayDomain, names []string) ([]replay.Drop, error) {
	var here, there map[string]json.RawMessage
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { here, err = source.Mappings(groupCtx, names...); return err })
	group.Go(func() (err error) { there, err = destination.Mappings(groupCtx, names...); return err })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var drops []replay.Drop
	for _, name := range slices.Sorted(slices.Values(names)) {
		if verify.SameJSON(here[name], there[name]) {
			continue
		}
		err := destination.PutMapping(ctx, name, here[name])
		switch {
		case fault.Is(err, fault.RequestRefused):
			drops = append(drops, replay.Drop{Index: name, Reason: "the destination refuses the source's mapping: " + strings.TrimSpace(err.Error())})
		case err != nil:
			return drops, err
		}
	}
	return drops, nil
}
