package step

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// ThawInput comes from the workflow (all three) or from the rule on failed, timed-out and stopped executions (the execution
// alone).
type ThawInput struct {
	Migration string   `json:"migration"`
	Execution string   `json:"execution"`
	Failure   *Failure `json:"failure"`
}

// Failure is what a Catch gives: the error that ended the cut-over.
type Failure struct {
	Error string `json:"Error"`
	Cause string `json:"Cause"`
}

// ThawOutput says who takes writes now, and the error with which the execution ends.
type ThawOutput struct {
	State   journal.FreezeState `json:"state"`
	Indices []string            `json:"indices"` // given back by this call
	Error   string              `json:"error"`
	Cause   string              `json:"cause"`
}

// ThawDomain is what giving writes back asks of a domain.
type ThawDomain interface {
	ClusterSettingsDomain
	Indices(context.Context) ([]cluster.Index, error)
	settingsReader
	settingsUpdater
	AddWriteBlock(ctx context.Context, indices ...string) error
	SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error)
}

// Thaw gives writes back at the source, as the blocks were before, and then undoes what else was changed (undo.go). It leaves
// writes as they are when this execution froze nothing, when they are back already, and when the verified destination has taken over.
type Thaw struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) ThawDomain
	Clock   Clock
	Buckets Buckets
}

// Run is the state Thaw and the target of the rule. First it closes the fence, so that no step of the execution acts any more. Settings
// that cannot be put back now do not hold up the state, which has given writes back by then and has an error to tell: the rule calls
// again when the execution has ended, and gives the domains back once everything is as before.
func (s Thaw) Run(ctx context.Context, in ThawInput) (ThawOutput, error) {
	byRule := in.Failure == nil
	if in.Migration == "" {
		owner, found, err := s.Journal.Owner(ctx, in.Execution)
		out := ThawOutput{State: journal.Thawed, Indices: []string{}, Error: string(fault.Unclassified)}
		if err != nil {
			return out, err
		}
		if !found {
			return out.explain(in.Failure, "the execution never got past preflight; nothing was stopped"), nil
		}
		in.Migration = owner.Migration
	}
	if byRule {
		// An event may come late, after a redrive. Where nobody can be asked, writes are given back rather than not.
		if running, err := s.Journal.Running(ctx, in.Execution); err == nil && running {
			out := ThawOutput{Indices: []string{}, Error: string(fault.Unclassified)}
			return out.explain(nil, "the execution runs; stop it to have writes given back (aws stepfunctions stop-execution)"), nil
		}
	}
	j := s.Journal.Migration(in.Migration)
	ours, err := j.Close(ctx, in.Execution, s.Clock.Now())
	if err != nil {
		return ThawOutput{}, err
	}
	out, err := s.writes(ctx, in)
	if err != nil || !ours {
		return out, err
	}
	undoing := newUndoLog(j, s.Domain, s.Clock).reaching(s.Buckets)
	undoing.last = byRule
	var wayBack error
	if out.State == journal.HandedOver {
		p, err := j.ReadPlan(ctx)
		if err == nil {
			err = undoing.keep(ctx, p.Spec.Source.Endpoint, keptOnPurpose)
		}
		if err == nil && p.Spec.Mode == migration.GoBack {
			if err = s.markWentBack(ctx, j, p); err == nil {
				wayBack = switchOn(ctx, s.Journal, s.Domain, s.Clock, p)
			}
		}
		if err != nil {
			return out, err
		}
	} else {
		wayBack = closeAgain(ctx, j, s.Domain, in.Execution)
	}
	if err := errors.Join(undoing.undo(ctx), wayBack); err != nil {
		if byRule {
			return out, fmt.Errorf("put back the settings that were changed: %w", err)
		}
		out.Cause += fmt.Sprintf("\nSettings that were changed are not all put back yet (%s); it is tried again right after.", shorten(err.Error(), 1<<10))
	}
	if byRule {
		return out, j.End(ctx, in.Execution, s.Clock.Now())
	}
	return out, nil
}

// markWentBack is for a Finish that came no further than the hand-over.
func (s Thaw) markWentBack(ctx context.Context, j *journal.Journal, p migration.Plan) error {
	f, _, err := j.Freeze(ctx)
	if err != nil {
		return err
	}
	return markWentBack(ctx, s.Journal, p, f)
}

// End is what the rule does, for those who find an execution that has ended while nobody has undone what it changed.
func (s Thaw) End(ctx context.Context, execution string) error {
	_, err := s.Run(ctx, ThawInput{Execution: execution})
	return err
}

// writes gives writes back.
func (s Thaw) writes(ctx context.Context, in ThawInput) (ThawOutput, error) {
	out := ThawOutput{State: journal.Thawed, Indices: []string{}, Error: string(fault.Unclassified)}
	j := s.Journal.Migration(in.Migration)
	f, found, err := j.Freeze(ctx)
	if err != nil {
		return out, err
	}
	if !found || f.Execution != in.Execution {
		return out.explain(in.Failure, "this execution had not stopped any writes"), nil
	}
	p, err := j.ReadPlan(ctx)
	if err != nil {
		return out, err
	}
	switch {
	case f.State == journal.HandedOver && f.SettledAt.IsZero():
		return s.settled(ctx, j, p, f, in.Failure)
	case f.State == journal.Thawed || f.State == journal.HandedOver || f.State == journal.WentBack:
		out.State = f.State
		return out.explain(in.Failure, stateText(p, f)), nil
	}
	if f.State == journal.HandingOver {
		accepted, err := s.destinationAccepted(ctx, p, f)
		if err != nil {
			return out, err
		}
		if accepted {
			return s.goForward(ctx, j, p, f, in.Failure)
		}
	}
	if out.Indices, err = s.giveBack(ctx, p, f); err != nil {
		return out, err
	}
	f.State, f.EndedAt = journal.Thawed, s.Clock.Now()
	if err := j.SaveFreeze(ctx, f); err != nil {
		return out, err
	}
	took, err := measured(ctx, j, f)
	if err != nil {
		return out, err
	}
	return out.explain(in.Failure, stateText(p, f)), saveCutOver(ctx, j, took)
}

// giveBack sets every block to what it was, index by index value, leaving out indices that are gone.
func (s Thaw) giveBack(ctx context.Context, p migration.Plan, f journal.Freeze) ([]string, error) {
	if f.NotBlocked {
		return []string{}, nil // the clients are the operator's
	}
	domain := s.Domain(p.Spec.Source)
	list, err := domain.Indices(ctx)
	if err != nil {
		return nil, err
	}
	there := byName(list)
	before := maps.Clone(f.Before)
	maps.DeleteFunc(before, func(name, _ string) bool { _, ok := there[name]; return !ok })
	return setBlocks(ctx, domain, before)
}

// destinationAccepted blocks the destination again and reports whether it took a write while it was being opened, or somebody deleted
// an index there: then the source no longer has everything as it is, and must not be opened.
func (s Thaw) destinationAccepted(ctx context.Context, p migration.Plan, f journal.Freeze) (bool, error) {
	destination := s.Domain(p.Spec.Destination)
	list, err := destination.Indices(ctx)
	if err != nil {
		return false, err
	}
	there := byName(list)
	for _, x := range p.Indices {
		if _, ok := there[x.Name]; !ok {
			return true, nil
		}
	}
	if err := destination.AddWriteBlock(ctx, p.Names()...); err != nil {
		return false, err
	}
	now, err := destination.SequenceNumbers(ctx, p.Names()...)
	if err != nil {
		return false, err
	}
	for _, x := range p.Indices {
		if len(now[x.Name]) != x.Shards {
			return false, fault.Newf(fault.Unavailable, "see whether index "+x.Name+" took a write", p.Spec.Destination.Endpoint, "%d of %d primary shards answered", len(now[x.Name]), x.Shards)
		}
	}
	return !maps.EqualFunc(f.Sealed, maxSeqNos(now), slices.Equal[[]int64]), nil
}

// goForward opens the destination, which has acknowledged writes that the source does not have.
func (s Thaw) goForward(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze, failure *Failure) (ThawOutput, error) {
	blocks := map[string]map[string]any{}
	for name, block := range opened(p, f) {
		blocks[name] = map[string]any{"index.blocks.write": value(block)}
	}
	if err := setThere(ctx, s.Domain(p.Spec.Destination), blocks); err != nil {
		return ThawOutput{State: f.State, Indices: []string{}, Error: string(fault.Unclassified)}, err
	}
	f.State, f.EndedAt = journal.HandedOver, s.Clock.Now()
	if err := j.SaveFreeze(ctx, f); err != nil {
		return ThawOutput{State: f.State, Indices: []string{}, Error: string(fault.Unclassified)}, err
	}
	return s.settled(ctx, j, p, f, failure)
}

// settled does what a Finish that failed after the hand-over left undone.
func (s Thaw) settled(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze, failure *Failure) (ThawOutput, error) {
	out := ThawOutput{State: f.State, Indices: []string{}, Error: string(fault.Unclassified)}
	f, err := settle(ctx, j, s.Domain(p.Spec.Source), s.Domain(p.Spec.Destination), p, f, s.Clock)
	return out.explain(failure, stateText(p, f)), err
}

// explain fills in the error with which the execution ends: the innermost one, in words, and who takes writes.
func (o ThawOutput) explain(f *Failure, state string) ThawOutput {
	o.Cause = "State of writes: " + state
	if f == nil {
		return o
	}
	name, cause := innermost(*f)
	if name == "States.Timeout" && cause == "" {
		// The service says no more.
		cause = fmt.Sprintf("Moving the last delta took longer than downtimeWindow and %s, or one of the cut-over's steps did not answer in its time.", grace)
	}
	o.Error = name
	o.Cause = shorten(cause, 24<<10) + "\n" + o.Cause
	return o
}

// shorten keeps a cause under the service's limit of 32,768 characters.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// innermost unwraps the causes that Step Functions nests.
func innermost(f Failure) (name, cause string) {
	for range 5 {
		n, ok := fault.Unnest(f.Cause)
		if !ok {
			break
		}
		f = Failure{n.Name, n.Cause}
		if n.Innermost {
			break
		}
	}
	return f.Error, f.Cause
}
