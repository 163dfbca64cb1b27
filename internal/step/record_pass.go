package step

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/verify"
)

// RecordPassInput is a pass that is over; what it brought is in the journal.
type RecordPassInput struct {
	ReplayInput
	StartedAt time.Time `json:"startedAt"`
}

// RecordPassDomain is what ending the last pass asks of a domain.
type RecordPassDomain interface {
	AddWriteBlock(ctx context.Context, indices ...string) error
	Aliases(ctx context.Context, indices ...string) (map[string]map[string]json.RawMessage, error)
	UpdateAliases(ctx context.Context, actions []cluster.AliasAction) error
}

// RecordPass collects what the parts of the deletions did, and writes the pass to the journal. After the last one, inside the freeze, it
// blocks the copies until they are verified and gives them the source's aliases, which a restore brings to the other indices.
type RecordPass struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) RecordPassDomain
	Clock   Clock
}

// Run is the state RecordPass.
func (s RecordPass) Run(ctx context.Context, in RecordPassInput) (migration.Pass, error) {
	var state replayState
	j, p, err := planAnd(ctx, s.Journal, in.ReplayInput, func(ctx context.Context, j *journal.Journal) (err error) { state, err = readState(ctx, j); return err })
	if err != nil {
		return migration.Pass{}, err
	}
	open := state.Reconciled < in.Pass
	if err := state.collect(ctx, j, p, in.ReplayInput); err != nil {
		return migration.Pass{}, err
	}
	if open && !in.Final {
		if err := state.save(ctx, j); err != nil {
			return migration.Pass{}, err
		}
	}
	if names := state.names(); in.Final && len(names) > 0 {
		destination := s.Domain(p.Spec.Destination)
		if err := state.seal(ctx, j, destination); err != nil {
			return migration.Pass{}, err
		}
		if err := agreeAliases(ctx, s.Domain(p.Spec.Source), destination, names); err != nil {
			return migration.Pass{}, err
		}
	}
	r := state.record(in.ReplayInput, in.StartedAt, s.Clock.Now())
	return r, j.SavePass(ctx, r)
}

// seal blocks the copies, so that what is verified next is what is handed over.
func (s *replayState) seal(ctx context.Context, j *journal.Journal, destination RecordPassDomain) error {
	s.Sealed = true
	if err := s.save(ctx, j); err != nil {
		return err
	}
	return destination.AddWriteBlock(ctx, s.names()...)
}

// agreeAliases gives the copies the source's aliases.
func agreeAliases(ctx context.Context, source, destination AliasDomain, names []string) error {
	group, groupCtx := errgroup.WithContext(ctx)
	var want, has map[string]map[string]json.RawMessage
	group.Go(func() (err error) { want, err = source.Aliases(groupCtx, names...); return err })
	group.Go(func() (err error) { has, err = destination.Aliases(groupCtx, names...); return err })
	if err := group.Wait(); err != nil {
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
			if now, there := has[index][alias]; !there || !verify.SameJSON(now, want[index][alias]) {
				actions = append(actions, cluster.AliasAction{Index: index, Alias: alias, Definition: want[index][alias]})
			}
		}
	}
	if len(actions) == 0 {
		return nil
	}
	return destination.UpdateAliases(ctx, actions)
}
