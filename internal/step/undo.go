package step

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// ClusterSettingsDomain is what changing cluster settings, and undoing all that the log knows of, asks of a domain.
type ClusterSettingsDomain interface {
	ClusterSettings(context.Context) (cluster.ClusterSettings, error)
	PutClusterSetting(ctx context.Context, setting string, value any) error
	IndexDeleter
}

// undoLog changes cluster settings for the time of a migration, and makes indices for a moment. Each change is in the journal with the
// value before, before it is made.
type undoLog struct {
	journal *journal.Journal
	domain  func(migration.Endpoint) ClusterSettingsDomain
	clock   Clock
	buckets Buckets // nil where none is changed (access.go)
	// last is at the execution's end, when nobody has to reach the domains any more: only then access to them is taken back.
	last bool
}

// newUndoLog takes the domains of any step, whose own interface has more.
func newUndoLog[D ClusterSettingsDomain](j *journal.Journal, domain func(migration.Endpoint) D, clock Clock) undoLog {
	return undoLog{journal: j, domain: func(e migration.Endpoint) ClusterSettingsDomain { return domain(e) }, clock: clock}
}

// wanted is a setting to change.
type wanted struct {
	setting string
	// value is the one to set, or why the setting is left as it is; two empty ones are for a setting that is of no concern here.
	value func(cluster.ClusterSettings) (set, leave string)
}

// change makes the changes at one domain, once an execution. What a domain does not allow is recorded and no error; an error is one
// that asking again can mend. When the execution's end comes meanwhile, what was changed is undone at once and the error is
// fault.Superseded.
func (l undoLog) change(ctx context.Context, p migration.Plan, e migration.Endpoint, list []wanted) error {
	var now cluster.ClusterSettings
	var refused error
	looked := false
	for _, w := range list {
		u, tag, err := l.journal.Undo(ctx, e.Endpoint, w.setting)
		if err != nil {
			return err
		}
		if u.Execution == p.Execution && u.UndoneAt.IsZero() && !u.Outstanding() {
			continue // not made, or somebody else's since: that stays
		}
		if !looked {
			looked = true
			if now, refused = l.domain(e).ClusterSettings(ctx); fault.Retryable(refused) {
				return refused
			}
		}
		if set, leave := w.value(now); refused == nil && set == "" && leave == "" && !u.Outstanding() {
			continue
		}
		for {
			next := l.entry(p, e, w, u, now, refused)
			written := u == next
			if !written {
				if written, err = l.journal.ReplaceUndo(ctx, next, tag); err != nil {
					return err
				}
			}
			// Where another attempt came first, what it saw before the change is what counts.
			if u, tag, err = l.journal.Undo(ctx, e.Endpoint, w.setting); err != nil {
				return err
			}
			if written {
				break
			}
		}
		if err := l.set(ctx, e, u, tag, now); err != nil {
			return err
		}
	}
	// Only an execution that may act leaves changes behind.
	_, err := l.journal.Plan(ctx, p.Execution)
	if fault.Is(err, fault.Superseded) {
		if retracted := l.retract(ctx, p, e, list); retracted != nil {
			return retracted
		}
	}
	return err
}

// retract undoes what was changed after the execution's end had undone it already.
func (l undoLog) retract(ctx context.Context, p migration.Plan, e migration.Endpoint, list []wanted) error {
	for _, w := range list {
		u, tag, err := l.journal.Undo(ctx, e.Endpoint, w.setting)
		if err != nil {
			return err
		}
		if u.Execution == p.Execution && !u.UndoneAt.IsZero() {
			u.UndoneAt = time.Time{}
			if _, err := l.journal.ReplaceUndo(ctx, u, tag); err != nil {
				return err
			}
		}
		if err := l.undoOne(ctx, e.Endpoint, w.setting); err != nil {
			return err
		}
	}
	return nil
}

// entry is what the log has to say before the change is made. An outstanding one, of an earlier attempt or execution, knows how it was
// before.
func (l undoLog) entry(p migration.Plan, e migration.Endpoint, w wanted, u journal.Undo, now cluster.ClusterSettings, refused error) journal.Undo {
	if u.Outstanding() {
		u.Execution = p.Execution
		return u
	}
	u = journal.Undo{Execution: p.Execution, DomainARN: e.DomainARN, Endpoint: e.Endpoint, Setting: w.setting, Access: e.Access, At: l.clock.Now()}
	if refused != nil {
		u.NotMade = notAllowed(refused)
		return u
	}
	if value, set := now.Persistent[w.setting]; set {
		u.Before = &value
	}
	u.Set, u.NotMade = w.value(now)
	return u
}

// set makes a change that is not made yet.
func (l undoLog) set(ctx context.Context, e migration.Endpoint, u journal.Undo, tag string, now cluster.ClusterSettings) error {
	if !u.Outstanding() {
		return nil
	}
	before, ours := became(u, now)
	switch {
	case ours:
		return nil
	case !before:
		u.LeftAlone = changedByOthers(u, now)
	default:
		err := l.domain(e).PutClusterSetting(ctx, u.Setting, u.Set)
		if err == nil || fault.Retryable(err) {
			return err
		}
		u.NotMade = notAllowed(err)
	}
	_, err := l.journal.ReplaceUndo(ctx, u, tag)
	return err
}

// notAllowed says why a domain does not let a setting be changed.
func notAllowed(err error) string {
	if f, ok := fault.As(err); ok && f.Err != nil {
		err = f.Err
	}
	return "not allowed: " + shorten(err.Error(), 500)
}

// became tells what became of the setting: as it was before, as this migration set it, or neither.
func became(u journal.Undo, now cluster.ClusterSettings) (before, ours bool) {
	value, set := now.Persistent[u.Setting]
	return set == (u.Before != nil) && (!set || value == *u.Before), set && value == u.Set
}

func changedByOthers(u journal.Undo, now cluster.ClusterSettings) string {
	value, set := now.Persistent[u.Setting]
	if !set {
		value = "its default"
	}
	return fmt.Sprintf("changed to %s by somebody else since; it was %s before the migration", value, orDefault(u.Before))
}

func orDefault(value *string) string {
	if value == nil {
		return "not set"
	}
	return *value
}

// undo puts back every outstanding change, the newest first, where it is still as this migration made it. It may be called at any time
// and twice. An error leaves the others done and recorded.
func (l undoLog) undo(ctx context.Context) error {
	list, err := l.journal.UndoLog(ctx)
	if err != nil {
		return err
	}
	var failed error
	// Access to a domain last, and only when nothing else is left to undo by it.
	slices.SortStableFunc(list, func(a, b journal.Undo) int { return cmp.Compare(inLast(a), inLast(b)) })
	for _, u := range list {
		if !u.Outstanding() || l.later(u) || failed != nil && inLast(u) > 0 {
			continue
		}
		if err := l.undoOne(ctx, u.Endpoint, u.Changed()); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}

func (l undoLog) undoOne(ctx context.Context, endpoint, changed string) error {
	u, tag, err := l.journal.Undo(ctx, endpoint, changed)
	if err != nil || !u.Outstanding() {
		return err
	}
	if u.Kind != "" {
		return l.takeBack(ctx, u, tag)
	}
	domain := l.domain(reached(u))
	if u.Index != "" {
		if err := domain.DeleteIndex(ctx, u.Index); err != nil {
			return err
		}
		u.UndoneAt = l.clock.Now()
		_, err = l.journal.ReplaceUndo(ctx, u, tag)
		return err
	}
	now, err := domain.ClusterSettings(ctx)
	if err != nil {
		return err
	}
	before, ours := became(u, now)
	if !before && !ours {
		u.LeftAlone = changedByOthers(u, now)
	} else {
		if ours && !before {
			if err := domain.PutClusterSetting(ctx, u.Setting, inverse(u)); err != nil {
				return err
			}
		}
		u.UndoneAt = l.clock.Now()
	}
	// Where another attempt came first, it has recorded the same.
	_, err = l.journal.ReplaceUndo(ctx, u, tag)
	return err
}

// keep leaves what was changed at one domain as it is.
func (l undoLog) keep(ctx context.Context, endpoint, why string) error {
	list, err := l.journal.UndoLog(ctx)
	if err != nil {
		return err
	}
	for _, entry := range list {
		if entry.Endpoint != endpoint || !entry.Outstanding() || entry.Kind != "" {
			continue
		}
		u, tag, err := l.journal.Undo(ctx, endpoint, entry.Changed())
		if err != nil {
			return err
		}
		u.LeftAlone = why
		if _, err := l.journal.ReplaceUndo(ctx, u, tag); err != nil {
			return err
		}
	}
	return nil
}

// inverse is the value to send; null is the engine's default.
func inverse(u journal.Undo) any {
	if u.Before == nil {
		return nil
	}
	return *u.Before
}

// byHand is the request that undoes the change.
func byHand(u journal.Undo) string {
	switch {
	case u.Kind != "":
		return accessByHand(u)
	case u.Index != "":
		return fmt.Sprintf("DELETE %s/%s", u.Endpoint, u.Index)
	}
	body, err := json.Marshal(map[string]any{"persistent": map[string]any{u.Setting: inverse(u)}})
	if err != nil {
		return u.Setting
	}
	return fmt.Sprintf("PUT %s/_cluster/settings %s", u.Endpoint, body)
}

// end undoes everything but what keeps the source quiet after a hand-over, and returns what the report should warn of. It is no reason to
// fail a migration that has succeeded: the thaw that follows every execution's end tries again.
func (l undoLog) end(ctx context.Context, source string) []string {
	failed := l.keep(ctx, source, keptOnPurpose)
	if failed == nil {
		failed = l.undo(ctx)
	}
	list, err := l.journal.UndoLog(ctx)
	if err != nil {
		return []string{fmt.Sprintf("whether the settings that were changed are put back is not known: %v", err)}
	}
	var warnings []string
	for _, u := range list {
		switch {
		case u.LeftAlone != "" && u.LeftAlone != keptOnPurpose:
			warnings = append(warnings, fmt.Sprintf("%s at %s was left alone: %s", u.Changed(), u.Endpoint, u.LeftAlone))
		case l.later(u):
		case failed != nil && u.Outstanding() && u.Kind != "":
			warnings = append(warnings, fmt.Sprintf("what was added to the %s of %s for the migration is still there and is taken out when the execution ends (%v); by hand: %s", u.Kind, u.Name, failed, byHand(u)))
		case failed != nil && u.Outstanding() && u.Index != "":
			warnings = append(warnings, fmt.Sprintf("index %s, made for a trial at %s, is still there and is deleted when the execution ends (%v); by hand: %s",
				u.Index, u.Endpoint, failed, byHand(u)))
		case failed != nil && u.Outstanding():
			warnings = append(warnings, fmt.Sprintf("%s at %s is still %s and is tried again when the execution ends (%v); by hand: %s",
				u.Setting, u.Endpoint, u.Set, failed, byHand(u)))
		}
	}
	return warnings
}

// forAMoment has an index made and deletes it again. It returns the error of making it, or else that of deleting it.
func (l undoLog) forAMoment(ctx context.Context, execution string, e migration.Endpoint, index string, create func() error) error {
	for {
		// What an earlier attempt has left behind.
		if err := l.undoOne(ctx, e.Endpoint, index); err != nil {
			return err
		}
		_, tag, err := l.journal.Undo(ctx, e.Endpoint, index)
		if err != nil {
			return err
		}
		written, err := l.journal.ReplaceUndo(ctx, journal.Undo{Execution: execution, DomainARN: e.DomainARN, Endpoint: e.Endpoint, Index: index, Access: e.Access, At: l.clock.Now()}, tag)
		if err != nil {
			return err
		}
		if written {
			break
		}
	}
	made := create()
	return cmp.Or(made, l.undoOne(ctx, e.Endpoint, index))
}

// putBackKept undoes what was left changed on purpose at one domain, which takes writes again.
func (l undoLog) putBackKept(ctx context.Context, endpoint string) error {
	list, err := l.journal.UndoLog(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, entry := range list {
		if entry.Endpoint != endpoint || entry.LeftAlone != keptOnPurpose {
			continue
		}
		u, tag, err := l.journal.Undo(ctx, endpoint, entry.Changed())
		if err == nil && u.LeftAlone == keptOnPurpose {
			u.LeftAlone = ""
			_, err = l.journal.ReplaceUndo(ctx, u, tag)
		}
		if err != nil {
			return err
		}
	}
	for _, entry := range list {
		if entry.Endpoint == endpoint {
			failed = cmp.Or(failed, l.undoOne(ctx, endpoint, entry.Changed()))
		}
	}
	return failed
}

// undone reports whether an end of this execution has undone something: it was redriven since.
func (l undoLog) undone(ctx context.Context, execution string) (bool, error) {
	list, err := l.journal.UndoLog(ctx)
	return slices.ContainsFunc(list, func(u journal.Undo) bool { return u.Execution == execution && !u.UndoneAt.IsZero() }), err
}

// later reports whether an entry is for the execution's end only: access to a domain, which is needed until then.
func (l undoLog) later(u journal.Undo) bool { return !l.last && inLast(u) > 0 }

// inLast is 1 for access to a domain, 0 for what is undone by it.
func inLast(u journal.Undo) int {
	if u.Kind != "" && !u.Kind.OfBucket() {
		return 1
	}
	return 0
}
