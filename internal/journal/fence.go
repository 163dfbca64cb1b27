package journal

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
)

// Fence says which execution may act for the migration, and on which domains it has leases. A Lambda cannot be stopped: one that is
// still on its way when its execution ends finds the fence closed.
type Fence struct {
	Execution string    `json:"execution"`
	Endpoints []string  `json:"endpoints"`
	Since     time.Time `json:"since"`
	// EndedAt is when the execution's changes were begun to be undone: no step of it acts from then on.
	EndedAt time.Time `json:"endedAt,omitzero"`
}

// Fence reads the fence; one without execution when there is none yet.
func (j *Journal) Fence(ctx context.Context) (Fence, error) {
	f, _, err := j.fence(ctx)
	return f, err
}

// fence is Fence with the tag by which to replace it: what was seen open must not be overwritten by one who has seen it closed.
func (j *Journal) fence(ctx context.Context) (f Fence, tag string, err error) {
	tag, _, err = j.store.read(ctx, j.key("fence.json"), &f)
	return f, tag, err
}

// Begin opens the fence for the execution and takes the domains for it. A domain or a migration that another execution has is
// DomainTaken; what was taken already is given back then.
func (j *Journal) Begin(ctx context.Context, execution string, now time.Time, undo Undoing, endpoints ...string) error {
	// In one order, so that of two that want both one gets both. The fence is first: it says what is to be given back.
	f := Fence{Execution: execution, Endpoints: slices.Sorted(slices.Values(endpoints)), Since: now}
	for begun := false; !begun; {
		tag, err := j.vacate(ctx, execution, undo, endpoints...)
		if err != nil {
			return err
		}
		if begun, err = j.store.replace(ctx, j.key("fence.json"), f, tag); err != nil {
			return err
		}
	}
	for _, e := range f.Endpoints {
		if _, err := j.store.TakeLease(ctx, e, Owner{Migration: j.migration, Execution: execution}, now, undo); err != nil {
			return errors.Join(err, j.giveBack(ctx, execution, now))
		}
	}
	// A function goes on after its execution was stopped. Whoever undoes that one looks after its end; what was taken before it is found
	// then, and what was taken later is given back here.
	if j.store.executions == nil {
		return nil
	}
	running, err := j.store.Running(ctx, execution)
	if err != nil || running {
		return err
	}
	return errors.Join(fault.Newf(fault.Superseded, "run migration", j.migration, "execution %s has ended meanwhile", execution), j.giveBack(ctx, execution, now))
}

// giveBack undoes a Begin that was not followed by anything.
func (j *Journal) giveBack(ctx context.Context, execution string, now time.Time) error {
	_, err := j.Close(ctx, execution, now)
	return errors.Join(err, j.End(ctx, execution, now))
}

// Vacate makes sure that the execution can have the migration and the domains: one that another execution has which still runs is
// fault.DomainTaken with its name; what one has left behind that has ended is undone.
func (j *Journal) Vacate(ctx context.Context, execution string, undo Undoing, endpoints ...string) error {
	_, err := j.vacate(ctx, execution, undo, endpoints...)
	return err
}

// vacate is Vacate; it returns the tag of the fence that the execution may replace.
func (j *Journal) vacate(ctx context.Context, execution string, undo Undoing, endpoints ...string) (string, error) {
	f, tag, err := j.fence(ctx)
	if err != nil {
		return "", err
	}
	if f.Execution != "" && f.Execution != execution && f.EndedAt.IsZero() {
		taken := fault.Newf(fault.DomainTaken, "run migration", j.migration, "execution %s runs it since %s", f.Execution, f.Since.Format(time.RFC3339))
		if err := j.store.succeed(ctx, f.Execution, taken, undo); err != nil {
			return "", err
		}
		ended := f.Execution
		if f, tag, err = j.fence(ctx); err != nil { // closed by now
			return "", err
		}
		if f.Execution != ended && f.Execution != execution && f.EndedAt.IsZero() {
			return j.vacate(ctx, execution, undo, endpoints...) // a third one was faster
		}
	}
	for _, e := range endpoints {
		if _, _, err := j.store.vacate(ctx, e, execution, undo); err != nil {
			return "", err
		}
	}
	return tag, nil
}

// Close closes the fence: no step of the execution acts any more. It reports whether the fence is the execution's: that of a newer one
// is left alone.
func (j *Journal) Close(ctx context.Context, execution string, now time.Time) (bool, error) {
	for {
		f, tag, err := j.fence(ctx)
		if err != nil || f.Execution != execution || !f.EndedAt.IsZero() {
			return f.Execution == execution, err
		}
		f.EndedAt = now
		if closed, err := j.store.replace(ctx, j.key("fence.json"), f, tag); closed || err != nil {
			return true, err
		}
	}
}

// End gives the domains back, once everything that was changed is as before.
func (j *Journal) End(ctx context.Context, execution string, now time.Time) error {
	f, err := j.Fence(ctx)
	if err != nil || f.Execution != execution {
		return err
	}
	for _, e := range f.Endpoints {
		if err := j.store.ReleaseLease(ctx, e, execution, now); err != nil {
			return err
		}
	}
	return nil
}

// resume lets an execution go on that has ended and been redriven; any other is on its way after its end.
func (j *Journal) resume(ctx context.Context, f Fence) error {
	redriven, err := j.store.Running(ctx, f.Execution)
	if err != nil {
		return err
	}
	if !redriven {
		return fault.Newf(fault.Superseded, "act for migration "+j.migration, "execution "+f.Execution, "it ended at %s", f.EndedAt.Format(time.RFC3339))
	}
	// Another migration's leftovers are for its own end to undo, which is on its way.
	undo := func(_ context.Context, execution string) error {
		return fault.Newf(fault.Busy, "go on with migration "+j.migration, "execution "+f.Execution, "execution %s has ended and what it changed is still being undone", execution)
	}
	return j.Begin(ctx, f.Execution, f.Since, undo, f.Endpoints...)
}

// Running reports whether the execution is known to run; false when nobody can be asked.
func (s *Store) Running(ctx context.Context, execution string) (bool, error) {
	if s.executions == nil {
		return false, nil
	}
	return s.executions.Running(ctx, execution)
}
