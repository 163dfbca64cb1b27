package step

import (
	"context"
	"fmt"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

// opened are the write blocks that the indices of the domain which takes over get: those that they had at the source before it was frozen.
func opened(p migration.Plan, f journal.Freeze) map[string]string {
	if p.Spec.Mode != migration.GoBack {
		return f.Before
	}
	blocks := map[string]string{}
	for _, x := range p.Indices {
		blocks[x.Name] = x.WriteBlock
	}
	return blocks
}

// markWentBack ends the migration whose way back has been handed over: its record says so.
func markWentBack(ctx context.Context, store *journal.Store, p migration.Plan, f journal.Freeze) error {
	forward := store.Migration(p.Spec.Migration)
	was, found, err := forward.Freeze(ctx)
	if err != nil || !found || was.State != journal.HandedOver {
		return err
	}
	was.State, was.WentBackAt = journal.WentBack, f.EndedAt
	return forward.SaveFreeze(ctx, was)
}

// switchOn puts back what the migration had left switched off at its source, so that late clients were refused there.
func switchOn[D ClusterSettingsDomain](ctx context.Context, store *journal.Store, domain func(migration.Endpoint) D, clock Clock, p migration.Plan) error {
	return newUndoLog(store.Migration(p.Spec.Migration), domain, clock).putBackKept(ctx, p.Spec.Destination.Endpoint)
}

// goneBack does what is left after a way back has been handed over, and returns what the report should warn of.
func (s Finish) goneBack(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze) (warnings []string, err error) {
	if err := markWentBack(ctx, s.Journal, p, f); err != nil {
		return nil, err
	}
	if err := switchOn(ctx, s.Journal, s.Domain, s.Clock, p); err != nil {
		warnings = append(warnings, fmt.Sprintf("what the migration had left switched off at the source is not all put back yet (%v); it is tried again when the execution ends", err))
	}
	state, err := readState(ctx, j)
	if err != nil {
		return warnings, err
	}
	for _, x := range state.States {
		more := int64(0)
		for _, shard := range x.Shards {
			more += shard.Unaccounted
		}
		if more > 0 {
			warnings = append(warnings, fmt.Sprintf("index %s has taken %d more operations at the source than the replay knows of: requests were repeated, or a client has written there while it went back", x.Index, more))
		}
	}
	return warnings, nil
}

// afterWayBack is what the operator does next.
const afterWayBack = "Point the clients at the source. The destination keeps its data and its write block until you retire it; moving again needs another migration name."

// SourceKeeper is what closing the source again asks of it.
type SourceKeeper interface {
	Indices(context.Context) ([]cluster.Index, error)
	settingsReader
	settingsUpdater
}

// closeAgain gives the source's indices what the passes of a way back that has failed took from them: the write block that they had on
// purpose, so that no late client writes there, and their own settings.
func closeAgain(ctx context.Context, j *journal.Journal, domain func(migration.Endpoint) ThawDomain, execution string) error {
	p, err := j.ReadPlan(ctx)
	if fault.Is(err, fault.JournalMissing) {
		return nil
	}
	if err != nil || p.Execution != execution || p.Spec.Mode != migration.GoBack {
		return err
	}
	state, err := readState(ctx, j)
	if err != nil {
		return err
	}
	if !state.Sealed {
		state.Sealed = true
		if err := state.save(ctx, j); err != nil {
			return err
		}
	}
	var source SourceKeeper = domain(p.Spec.Destination)
	list, err := source.Indices(ctx)
	if err != nil {
		return err
	}
	there := byName(list)
	settings, err := afterReplay(ctx, j, source, p)
	if err != nil {
		return err
	}
	blocked := map[string]map[string]any{}
	for _, x := range p.Indices {
		if now, ok := there[x.Name]; ok {
			after := settings[x.Name]
			if after == nil {
				after = map[string]any{}
			}
			if _, own := after[replay.MergeOnRefresh]; !own && state.Merges == mergesHeld {
				after[replay.MergeOnRefresh] = nil // the engine's default
			}
			after["index.blocks.write"] = "true"
			if differs(now.Settings, after) {
				blocked[x.Name] = after
			}
		}
	}
	return setEqual(ctx, source, blocked)
}

// ownSettings are the settings of the source's indices that the passes of a way back switch off, as they were before.
func ownSettings(ctx context.Context, j *journal.Journal, p migration.Plan) (map[string]map[string]any, error) {
	own := map[string]map[string]string{}
	if _, err := j.Document(ctx, ownSettingsFile, &own); err != nil {
		return nil, err
	}
	after := map[string]map[string]any{}
	for _, x := range p.Indices {
		after[x.Name] = replay.Settings(own[x.Name], own[x.Name]).After
	}
	return after, nil
}

// stateText says who takes writes, for the error that an execution ends with.
func stateText(p migration.Plan, f journal.Freeze) string {
	back := p.Spec.Mode == migration.GoBack
	at := f.EndedAt.Format("15:04:05Z")
	switch {
	case f.State == journal.WentBack:
		return "the source takes writes again since " + f.WentBackAt.Format("15:04:05Z") + ", and has what the destination had taken"
	case f.State == journal.HandedOver && back:
		return "the migration went back: the verified source takes writes again since " + at + "; the destination stays blocked on purpose"
	case f.State == journal.HandedOver:
		return "the verified destination takes writes since " + at + "; the source stays blocked on purpose"
	case back:
		return fmt.Sprintf("the destination takes writes again since %s (stopped at %s); nothing is lost, and the source stays blocked, as it was before", at, f.StartedAt.Format("15:04:05Z"))
	}
	return fmt.Sprintf("the source takes writes again since %s (stopped at %s); nothing is lost and the destination stays warm for the next execution", at, f.StartedAt.Format("15:04:05Z"))
}
