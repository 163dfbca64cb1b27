// Package step holds one file for every state of the state machines: its input, its output and its Run. A step decides nothing
// that the engines or the journal cannot be asked again: each may run twice, be killed anywhere, or be answered 504.
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
	"github.com/domainferry/domainferry/internal/s3copy"
)

// Clock is the time of the steps. Sleep returns early with the context's error.
type Clock interface {
	Now() time.Time
	Sleep(context.Context, time.Duration) error
}

// WallClock is the Clock of a deployment.
type WallClock struct{}

// Now is time.Now in UTC.
func (WallClock) Now() time.Time { return time.Now().UTC() }

// Sleep waits for d or for ctx.
func (WallClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// longPoll is how long a step inside the freeze waits for something before it answers "not yet": a Wait state would cost a
// second of write downtime each time.
const longPoll = 20 * time.Second

// wait is how long a state that has to ask again waits: longer the longer it has asked already, so that no history overflows. In
// the freeze the steps wait themselves, until an hour has passed and a second more or less no longer counts.
func wait(in RoundInput, since, now time.Time) int {
	elapsed := seconds(since, now)
	if in.Final && elapsed < time.Hour.Seconds() {
		return 0
	}
	return migration.NextPoll(elapsed)
}

// RoundInput is what every step of a round is given.
type RoundInput struct {
	Migration string `json:"migration"`
	Round     int    `json:"round"`
	Final     bool   `json:"final"`
	Execution string `json:"execution"` // of the migration; empty when a schedule started the round alone
}

func seconds(from, to time.Time) float64 {
	return float64(to.Sub(from).Milliseconds()) / 1000
}

func location(e migration.Endpoint) s3copy.Location {
	return s3copy.Location{Bucket: e.Repository.Bucket, Prefix: e.Repository.BasePath}
}

func engine(v cluster.Version) migration.Engine {
	return migration.Engine{Distribution: v.Distribution, Major: v.Major, Minor: v.Minor, Patch: v.Patch}
}

// plan opens the journal of a migration and reads its plan.
func plan(ctx context.Context, store *journal.Store, name, execution string) (*journal.Journal, migration.Plan, error) {
	if name == "" {
		return nil, migration.Plan{}, fault.Newf(fault.InvalidInput, "read the step's input", "$.migration", "is missing")
	}
	j := store.Migration(name)
	p, err := j.Plan(ctx, execution)
	return j, p, err
}

// roundRecords are what the journal has about a round.
type roundRecords struct {
	journal     *journal.Journal
	plan        migration.Plan
	strategies  migration.Strategies
	freeze      journal.Freeze // of a final round
	checkpoints journal.Checkpoints
	recorded    bool // the checkpoints were, and with them which indices are in the round's snapshot
	final       bool
}

// records reads them side by side: inside the freeze each request counts.
func records(ctx context.Context, store *journal.Store, in RoundInput) (r roundRecords, err error) {
	r.final = in.Final
	if in.Migration == "" {
		_, _, err := plan(ctx, store, in.Migration, in.Execution)
		return r, err
	}
	r.journal = store.Migration(in.Migration)
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { r.plan, err = r.journal.Plan(groupCtx, in.Execution); return err })
	group.Go(func() (err error) { r.strategies, err = r.journal.Strategies(groupCtx); return err })
	if in.Final {
		group.Go(func() (err error) { r.freeze, _, err = r.journal.Freeze(groupCtx); return err })
	}
	if in.Round > 0 {
		group.Go(func() (err error) {
			r.checkpoints, r.recorded, err = r.journal.Checkpoints(groupCtx, in.Round)
			return err
		})
	}
	return r, group.Wait()
}

// byRounds is the plan of a round: without the indices that are on replay and, in the final round, without those that the freeze
// found unchanged.
func (r roundRecords) byRounds() migration.Plan {
	p := r.plan
	p.Indices, _ = r.strategies.Split(r.plan)
	if r.final {
		unchanged := set(r.freeze.Unchanged)
		p.Indices = slices.DeleteFunc(p.Indices, func(x migration.PlannedIndex) bool { return unchanged[x.Name] })
	}
	return p
}

// inSnapshot is the plan of a round whose snapshot has been started: only with the indices that are in it, because a pass beside the
// round may have put an index back on rounds since. The round's checkpoints, recorded before its snapshot, tell which those are.
func (r roundRecords) inSnapshot() migration.Plan {
	p := r.byRounds()
	if r.recorded {
		in := set(r.checkpoints.InSnapshot())
		p.Indices = slices.DeleteFunc(p.Indices, func(x migration.PlannedIndex) bool { return !in[x.Name] })
	}
	return p
}

// skipped is the plan with the indices that the round leaves alone.
func (r roundRecords) skipped() migration.Plan {
	p := r.byRounds()
	unchanged := set(r.checkpoints.Unchanged)
	p.Indices = slices.DeleteFunc(p.Indices, func(x migration.PlannedIndex) bool { return !unchanged[x.Name] })
	return p
}

func set(names []string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// byName indexes a domain's list of indices.
func byName(list []cluster.Index) map[string]cluster.Index {
	m := make(map[string]cluster.Index, len(list))
	for _, x := range list {
		m[x.Name] = x
	}
	return m
}
