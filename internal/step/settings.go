package step

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

// settingsUpdater changes index settings.
type settingsUpdater interface {
	UpdateSettings(ctx context.Context, settings map[string]any, indices ...string) error
}

// settingsReader reads index settings.
type settingsReader interface {
	IndexSettings(ctx context.Context, indices ...string) (map[string]map[string]string, error)
}

// setBlocks sets index.blocks.write of each index to the value given, "" meaning unset, one request a value. It returns the
// indices whose request was answered.
func setBlocks(ctx context.Context, domain settingsUpdater, blocks map[string]string) ([]string, error) {
	groups := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(blocks)) {
		groups[blocks[name]] = append(groups[blocks[name]], name)
	}
	set := []string{}
	for _, block := range slices.Sorted(maps.Keys(groups)) {
		if err := domain.UpdateSettings(ctx, map[string]any{"index.blocks.write": value(block)}, groups[block]...); err != nil {
			return set, err
		}
		set = append(set, groups[block]...)
	}
	return set, nil
}

// setEqual sets the settings of each index, those with equal settings in one request: each is a change of the cluster's state.
func setEqual(ctx context.Context, domain settingsUpdater, settings map[string]map[string]any) error {
	groups := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		key := fmt.Sprint(settings[name]) // maps are printed in the order of their keys
		groups[key] = append(groups[key], name)
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		if err := domain.UpdateSettings(ctx, settings[groups[key][0]], groups[key]...); err != nil {
			return err
		}
	}
	return nil
}

// setThere is setEqual for a domain that takes writes: what its clients have deleted meanwhile is left out.
func setThere(ctx context.Context, domain settingsUpdater, settings map[string]map[string]any) error {
	err := setEqual(ctx, domain, settings)
	if !cluster.HasType(err, "index_not_found_exception") {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if err := domain.UpdateSettings(ctx, settings[name], name); err != nil && !cluster.HasType(err, "index_not_found_exception") {
			return err
		}
	}
	return nil
}

// value is a setting to send: null puts the engine's default back.
func value(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// endReplay gives replayed indices the pipelines back that were off while documents were replayed.
func endReplay(ctx context.Context, j *journal.Journal, source settingsReader, destination settingsUpdater, p migration.Plan) error {
	after, err := afterReplay(ctx, j, source, p)
	if err != nil {
		return err
	}
	for name, settings := range after {
		delete(settings, gcDeletes)
		delete(settings, replay.MergeOnRefresh)
		if len(settings) == 0 {
			delete(after, name)
		}
	}
	return setEqual(ctx, destination, after)
}

// settle gives the indices replicas and refresh as planned, and replayed ones their memory of deletions back. Writes are accepted
// meanwhile, so that it costs no downtime; replicas take their time to fill in any case.
func settle(
	ctx context.Context, j *journal.Journal, source settingsReader, destination settingsUpdater, p migration.Plan, f journal.Freeze, clock Clock,
) (journal.Freeze, error) {
	replayed, err := afterReplay(ctx, j, source, p)
	if err != nil {
		return f, err
	}
	state, err := readState(ctx, j)
	if err != nil {
		return f, err
	}
	settings := map[string]map[string]any{}
	for _, x := range p.Indices {
		settings[x.Name] = map[string]any{
			"index.number_of_replicas": value(x.Replicas), "index.refresh_interval": value(x.RefreshInterval), "index.auto_expand_replicas": value(x.AutoExpand),
		}
		if after, ok := replayed[x.Name]; ok {
			settings[x.Name][gcDeletes] = after[gcDeletes]
			if state.Merges == mergesHeld {
				settings[x.Name][replay.MergeOnRefresh] = after[replay.MergeOnRefresh]
			}
		}
	}
	if err := setThere(ctx, destination, settings); err != nil {
		return f, err
	}
	f.SettledAt = clock.Now()
	return f, j.SaveFreeze(ctx, f)
}

const gcDeletes = "index.gc_deletes"

// afterReplay are the settings that replayed indices end with, as at the source; the write block is opened with all others.
func afterReplay(ctx context.Context, j *journal.Journal, domain settingsReader, p migration.Plan) (map[string]map[string]any, error) {
	if p.Spec.Mode == migration.GoBack {
		return ownSettings(ctx, j, p)
	}
	strategies, err := j.Strategies(ctx)
	if err != nil {
		return nil, err
	}
	_, indices := strategies.Split(p)
	if len(indices) == 0 {
		return nil, nil
	}
	source, err := domain.IndexSettings(ctx, indexNames(indices)...)
	if err != nil {
		return nil, err
	}
	after := map[string]map[string]any{}
	for _, x := range indices {
		after[x.Name] = replay.Settings(source[x.Name], source[x.Name]).After
		delete(after[x.Name], "index.blocks.write")
	}
	return after, nil
}
