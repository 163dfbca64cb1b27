package step

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
	"github.com/domainferry/domainferry/internal/verify"
)

// PlanReplayOutput is a planned pass: its number and its slices, by number. The pass itself is in the journal.
type PlanReplayOutput struct {
	Pass       int       `json:"pass"`
	StartedAt  time.Time `json:"startedAt"`
	Operations int64     `json:"operations"`
	Slices     []int     `json:"slices"`
	Dropped    []string  `json:"dropped"` // indices that went back to rounds, with the reason
}

// PassPlanner plans a pass.
type PassPlanner interface {
	Plan(ctx context.Context, states []replay.State, o replay.PlanOptions) (replay.Pass, error)
}

// PlanReplayDomain is what planning a pass asks of either domain.
type PlanReplayDomain interface {
	Indices(context.Context) ([]cluster.Index, error)
	Mappings(ctx context.Context, indices ...string) (map[string]json.RawMessage, error)
	PutMapping(ctx context.Context, index string, mapping json.RawMessage) error
	Open(ctx context.Context, indices ...string) error
	UpdateSettings(ctx context.Context, settings map[string]any, indices ...string) error
}

// PlanReplay opens the copies of the indices on replay, gives them the source's present mapping, and plans the next pass over
// what has changed.
type PlanReplay struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) PlanReplayDomain
	Replay  func(source, destination migration.Endpoint) PassPlanner
	Clock   Clock
}

// Run is the state PlanReplay.
func (s PlanReplay) Run(ctx context.Context, in ReplayInput) (PlanReplayOutput, error) {
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return PlanReplayOutput{}, err
	}
	strategies, err := j.Strategies(ctx)
	if err != nil {
		return PlanReplayOutput{}, err
	}
	state, err := readState(ctx, j)
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
	out := PlanReplayOutput{Pass: state.Pass + 1, StartedAt: s.Clock.Now(), Slices: []int{}, Dropped: []string{}}
	drops, err := s.prepare(ctx, j, p, indices, strategies, &state)
	if err != nil {
		return out, err
	}
	for _, d := range drops {
		state.forget(d.Index) // the pass must not have it
	}
	pass, err := s.Replay(p.Spec.Source, p.Spec.Destination).Plan(ctx, state.States, replay.PlanOptions{Frozen: in.Final})
	if err != nil {
		return out, err
	}
	drops = append(drops, pass.Drops...)
	if err := s.drop(ctx, j, p, in, &state, drops); err != nil {
		return out, err
	}
	for _, d := range drops {
		out.Dropped = append(out.Dropped, d.Index+": "+d.Reason)
	}
	for _, x := range pass.Slices {
		out.Slices = append(out.Slices, x.Number)
	}
	out.Operations = pass.Operations
	if err := j.SaveDocument(ctx, passFile(out.Pass), passPlan{out.Pass, pass}); err != nil {
		return out, err
	}
	return out, j.SaveDocument(ctx, stateFile(), state)
}

// drop puts indices back on rounds. Inside the freeze there is no round left that could bring them up to date.
func (s PlanReplay) drop(ctx context.Context, j *journal.Journal, p migration.Plan, in ReplayInput, state *replayState, drops []replay.Drop) error {
	if err := dropped(ctx, j, state, drops); err != nil {
		return err
	}
	if in.Final && len(drops) > 0 {
		return fault.Newf(fault.IndicesChanged, "replay index "+drops[0].Index, p.Spec.Destination.Endpoint, "%s", drops[0].Reason)
	}
	return nil
}

// prepare makes the copies ready to be written to and finds those that cannot be.
func (s PlanReplay) prepare(ctx context.Context, j *journal.Journal, p migration.Plan, indices []migration.PlannedIndex, strategies migration.Strategies, state *replayState) ([]replay.Drop, error) {
	source, destination := s.Domain(p.Spec.Source), s.Domain(p.Spec.Destination)
	here, err := source.Indices(ctx)
	if err != nil {
		return nil, err
	}
	there, err := destination.Indices(ctx)
	if err != nil {
		return nil, err
	}
	at, copies := byName(here), byName(there)
	names := indexNames(indices)
	mappings, err := source.Mappings(ctx, names...)
	if err != nil {
		return nil, err
	}
	var drops []replay.Drop
	var closed []string
	for _, x := range indices {
		if _, known := state.state(x.Name); !known {
			fresh, drop, err := s.base(ctx, j, at[x.Name], mappings[x.Name], strategies, x.Name)
			if err != nil {
				return nil, err
			}
			if drop != nil {
				drops = append(drops, *drop)
				continue
			}
			state.States = append(state.States, fresh)
		}
		if c, ok := copies[x.Name]; ok && !c.Open {
			closed = append(closed, x.Name)
		}
	}
	if len(closed) > 0 {
		if err := destination.Open(ctx, closed...); err != nil {
			return nil, err
		}
	}
	for _, x := range state.States {
		change := replay.Settings(copies[x.Index].Settings, at[x.Index].Settings)
		if differs(copies[x.Index].Settings, change.During) {
			if err := destination.UpdateSettings(ctx, change.During, x.Index); err != nil {
				return nil, err
			}
		}
	}
	refused, err := s.mappings(ctx, destination, state.States, mappings)
	return append(drops, refused...), err
}

// base makes the state of an index that is new on replay from the checkpoints of its base round.
func (s PlanReplay) base(ctx context.Context, j *journal.Journal, index cluster.Index, mapping json.RawMessage, strategies migration.Strategies, name string) (replay.State, *replay.Drop, error) {
	round := 0
	for _, r := range strategies.Replay {
		if r.Index == name {
			round = r.Base
		}
	}
	c, found, err := j.Checkpoints(ctx, round)
	if err != nil {
		return replay.State{}, nil, err
	}
	checkpoints := c.PerShard[name]
	if ok, reason := replay.Eligible(index, mapping, found && len(checkpoints) > 0); !ok {
		return replay.State{}, &replay.Drop{Index: name, Reason: reason}, nil
	}
	return replay.NewState(name, index.UUID, checkpoints), nil, nil
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

// mappings gives the copies the source's present mappings before documents come that need them. A mapping that the newer engine
// refuses makes the index go back to rounds.
func (s PlanReplay) mappings(ctx context.Context, destination PlanReplayDomain, states []replay.State, mappings map[string]json.RawMessage) ([]replay.Drop, error) {
	names := make([]string, len(states))
	for i, x := range states {
		names[i] = x.Index
	}
	slices.Sort(names)
	there, err := destination.Mappings(ctx, names...)
	if err != nil {
		return nil, err
	}
	var drops []replay.Drop
	for _, name := range names {
		if verify.SameJSON(mappings[name], there[name]) {
			continue
		}
		err := destination.PutMapping(ctx, name, mappings[name])
		switch {
		case fault.Is(err, fault.RequestRefused):
			drops = append(drops, replay.Drop{Index: name, Reason: "the destination refuses the source's mapping: " + strings.TrimSpace(err.Error())})
		case err != nil:
			return drops, err
		}
	}
	return drops, nil
}
