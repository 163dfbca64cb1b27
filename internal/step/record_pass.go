package step

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// RecordPassInput is a pass that is over.
type RecordPassInput struct {
	ReplayInput
	StartedAt time.Time     `json:"startedAt"`
	Slices    []ReplaySlice `json:"slices"`
	Deleted   int64         `json:"deleted"`
}

// RecordPassDomain is what ending the last pass asks of a domain.
type RecordPassDomain interface {
	AddWriteBlock(ctx context.Context, indices ...string) error
	Aliases(ctx context.Context, indices ...string) (map[string]map[string]json.RawMessage, error)
	UpdateAliases(ctx context.Context, actions []cluster.AliasAction) error
}

// RecordPass writes the pass to the journal. After the last one, inside the freeze, it blocks the copies until they are verified
// and gives them the source's aliases, which a restore brings to the other indices.
type RecordPass struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) RecordPassDomain
	Clock   Clock
}

// Run is the state RecordPass.
func (s RecordPass) Run(ctx context.Context, in RecordPassInput) (migration.Pass, error) {
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return migration.Pass{}, err
	}
	strategies, err := j.Strategies(ctx)
	if err != nil {
		return migration.Pass{}, err
	}
	if _, indices := strategies.Split(p); in.Final && len(indices) > 0 {
		if err := s.seal(ctx, p, indexNames(indices)); err != nil {
			return migration.Pass{}, err
		}
	}
	r := migration.Pass{Number: in.Pass, Final: in.Final, Execution: in.Execution, StartedAt: in.StartedAt, FinishedAt: s.Clock.Now(), Deleted: in.Deleted}
	for _, x := range in.Slices {
		r.Documents += x.Documents
		r.Bytes += x.Bytes
	}
	r.Seconds = seconds(r.StartedAt, r.FinishedAt)
	return r, j.SavePass(ctx, r)
}

func (s RecordPass) seal(ctx context.Context, p migration.Plan, names []string) error {
	destination := s.Domain(p.Spec.Destination)
	if err := destination.AddWriteBlock(ctx, names...); err != nil {
		return err
	}
	want, err := s.Domain(p.Spec.Source).Aliases(ctx, names...)
	if err != nil {
		return err
	}
	has, err := destination.Aliases(ctx, names...)
	if err != nil {
		return err
	}
	var actions []cluster.AliasAction
	for _, index := range names {
		for _, alias := range slices.Sorted(maps.Keys(has[index])) {
			if _, keep := want[index][alias]; !keep {
				actions = append(actions, cluster.AliasAction{Remove: true, Index: index, Alias: alias})
			}
		}
		for _, alias := range slices.Sorted(maps.Keys(want[index])) {
			actions = append(actions, cluster.AliasAction{Index: index, Alias: alias, Definition: want[index][alias]})
		}
	}
	if len(actions) == 0 {
		return nil
	}
	return destination.UpdateAliases(ctx, actions)
}
