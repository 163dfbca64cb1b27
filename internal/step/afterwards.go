package step

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
)

// This file is about what happens once the destination takes writes. Nothing of it can fail the migration or cost write downtime: what
// does not come about is a warning.

// SnapshotDeleter deletes snapshots. Nothing else than the engine may: only it knows which objects other snapshots refer to.
type SnapshotDeleter interface {
	Snapshot(ctx context.Context, repository, name string) (cluster.Snapshot, bool, error)
	DeleteSnapshot(ctx context.Context, repository, name string) error
}

// afterwards is what became of that so far.
type afterwards struct {
	green    *report.Green
	deleted  []string
	warnings []string
	wait     int // seconds; 0: nothing is waited for
	waiting  string
}

func (a *afterwards) warn(format string, args ...any) {
	a.warnings = append(a.warnings, fmt.Sprintf(format, args...))
}

// again asks for another look.
func (a *afterwards) again(seconds int, what string) {
	if a.wait == 0 || seconds < a.wait {
		a.wait = seconds
	}
	a.waiting = strings.Trim(a.waiting+"; "+what, "; ")
}

// afterwards looks how far the copies of the shards are and deletes snapshots that need not be kept. The first call, by which the
// destination was handed over, only says that there is something to delete: who watches is to see at once that clients can write.
func (s Finish) afterwards(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze, first bool) (afterwards, journal.Freeze, error) {
	var a afterwards
	f, err := s.awaitGreen(ctx, j, p, f, &a)
	if err != nil {
		return a, f, err
	}
	return a, f, s.prune(ctx, j, p, f, first, &a)
}

// awaitGreen looks whether the planned indices are green. What the domain does not answer counts as not yet.
func (s Finish) awaitGreen(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze, a *afterwards) (journal.Freeze, error) {
	most := p.Spec.Finish.WaitForGreen
	if most <= 0 {
		return f, nil
	}
	if !f.GreenAt.IsZero() {
		a.green = &report.Green{Reached: true, Seconds: seconds(f.SettledAt, f.GreenAt)}
		return f, nil
	}
	now := s.Clock.Now()
	a.green = &report.Green{Seconds: seconds(f.SettledAt, now)}
	list, err := s.Domain(p.Spec.Destination).Indices(ctx)
	if err != nil {
		a.green.Missing = []string{"unknown: " + shorten(err.Error(), 300)}
	} else {
		a.green.Missing = notGreen(p, list)
	}
	switch left := most.Seconds() - a.green.Seconds; {
	case len(a.green.Missing) == 0:
		a.green.Reached, f.GreenAt = true, now
		return f, j.SaveFreeze(ctx, f)
	case left > 0:
		// A tenth of the time so far, 2 s to 10 min, and not beyond the end.
		a.again(max(1, min(max(2, int(a.green.Seconds/10)), 600, int(left+1))), "for all copies of all shards at the destination")
	default:
		a.warn("after %s not all copies of all shards are there at the destination: %s. Clients write all the same, and the copies go on filling; "+
			"see GET %s/_cluster/allocation/explain.", most, strings.Join(bounded(a.green.Missing), ", "), p.Spec.Destination.Endpoint)
	}
	return f, nil
}

// notGreen are the planned indices that are not, with what they are.
func notGreen(p migration.Plan, list []cluster.Index) []string {
	there := byName(list)
	var missing []string
	for _, x := range p.Indices {
		switch have, ok := there[x.Name]; {
		case !ok:
			missing = append(missing, x.Name+" (gone)") // deleted, or rolled over and deleted, by whom clients belong to
		case have.Health != "green":
			missing = append(missing, fmt.Sprintf("%s (%s)", x.Name, have.Health))
		}
	}
	return missing
}

// pruneFor is how long snapshots are tried to be deleted while the domain is busy.
const pruneFor = time.Hour

// prune deletes the snapshots of earlier rounds at the source, whose registration alone may write, and through its API alone. The copy
// in the destination's bucket stays as it is: its root document names the same snapshots, and none of its objects is touched; it is
// registered read-only there, so that no domain could delete in it.
func (s Finish) prune(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze, first bool, a *afterwards) error {
	if p.Spec.KeepSnapshots == nil || p.Spec.Mode == migration.GoBack {
		return nil
	}
	rounds, err := j.Rounds(ctx)
	if err != nil {
		return err
	}
	holds, err := j.Holds(ctx)
	if err != nil {
		return err
	}
	source, repository := s.Domain(p.Spec.Source), p.Spec.RepositoryName()
	old := superfluous(rounds, holds, *p.Spec.KeepSnapshots)
	for i, x := range old {
		late := !s.Clock.Now().Before(f.SettledAt.Add(pruneFor))
		if deadline, ok := ctx.Deadline(); first || ok && time.Until(deadline) < time.Minute {
			if late {
				a.left(p, old[i:], "an hour has gone")
			} else {
				a.again(1, fmt.Sprintf("to delete %d more snapshots at the source", len(old)-i))
			}
			return nil
		}
		gone, foreign, err := discard(ctx, source, repository, x)
		switch {
		case gone:
			a.deleted = append(a.deleted, x.Name)
		case foreign:
			a.warn("snapshot %s/%s at the source is not the one that this migration took; it was left alone.", repository, x.Name)
		case fault.Retryable(err) && !late:
			a.again(15, "for the source, to delete snapshots there: "+shorten(err.Error(), 300))
			return nil
		default:
			a.left(p, old[i:], err.Error())
			return nil
		}
	}
	return nil
}

// left names what is still there, and how to delete it.
func (a *afterwards) left(p migration.Plan, list []migration.SnapshotPhase, why string) {
	names := make([]string, len(list))
	for i, x := range list {
		names[i] = x.Name
	}
	a.warn("snapshots of earlier rounds are still in the source's repository (%s): %s. Delete each by DELETE %s/_snapshot/%s/<name>; never delete objects in the bucket.",
		shorten(why, 300), strings.Join(bounded(names), ", "), p.Spec.Source.Endpoint, p.Spec.RepositoryName())
}

// superfluous are the snapshots, oldest first, that neither belong to the newest rounds nor are what the copy of an index was restored
// from: an index that did not change since is in no later one, so that only together do those that are kept hold everything.
func superfluous(rounds []migration.Round, holds map[string]journal.Hold, keep int) []migration.SnapshotPhase {
	needed := map[string]bool{}
	for _, h := range holds {
		needed[h.Snapshot] = true
	}
	var taken []migration.SnapshotPhase
	for _, r := range rounds {
		if r.Snapshot.Name != "" && r.Snapshot.UUID != "" { // a round in which nothing had changed takes none
			taken = append(taken, r.Snapshot)
		}
	}
	return slices.DeleteFunc(taken[:max(0, len(taken)-keep)], func(x migration.SnapshotPhase) bool { return needed[x.Name] })
}

// discard deletes one snapshot, if it is that one.
func discard(ctx context.Context, source SnapshotDeleter, repository string, x migration.SnapshotPhase) (gone, foreign bool, err error) {
	have, found, err := source.Snapshot(ctx, repository, x.Name)
	switch {
	case err != nil:
		return false, false, err
	case !found:
		return true, false, nil
	case have.UUID != x.UUID:
		return false, true, nil
	}
	if err := source.DeleteSnapshot(ctx, repository, x.Name); err != nil {
		return false, false, err
	}
	return true, false, nil
}
