package step

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// What is raised, and why to this.
//
// Only the destination's cluster settings are raised: no client of the migration is there yet, while a faster recovery at the source
// would be felt by its clients. The values are bounded, because a destination may serve other indices already: 500 MB/s is four
// times the throughput of a standard gp3 volume and less than half of a 10 Gbit/s network, so that the hardware decides rather than
// the engine's default of 40 MB/s a node.
//
// The primaries of a restore are bounded by node_initial_primaries_recoveries (default 4 a node): ThrottlingAllocationDecider counts an
// unassigned primary, which recovers from store, snapshot or local shards, under it and no other (canAllocate in its source; the engines'
// guides; snapshots.md 4). node_concurrent_recoveries bounds replicas and relocations, of which a warm destination has none, so it stays.
var raised = []struct {
	setting, value string
	enough         func(present, wanted string) bool
}{
	{"indices.recovery.max_bytes_per_sec", recoveryRate, enoughBytes},
	{"cluster.routing.allocation.node_initial_primaries_recoveries", "16", enoughCount},
}

// recoveryRate is a second per node. From Elasticsearch 7.9 on restores obey this setting; before, only the repository's
// max_restore_bytes_per_sec (measured.md 8; elastic#58658). The lower of both counts, so both are raised.
const recoveryRate = "500mb"

// snapshotRate is max_snapshot_bytes_per_sec of the migration's repository at the source, a second per node: twice the default, because
// the last snapshot is taken while writes are stopped, and no more, because the others are taken beside clients: a standard
// gp3 volume has 125 MB/s for both. It is part of the registration, not of the tuning that is put back: it limits nothing but this
// migration's own snapshots, and only Register may pass the snapshot role that every registration needs.
const snapshotRate = "80mb"

// repositoryRates are the rates with which the migration's own repository is registered.
func repositoryRates(engine string, readonly bool) map[string]string {
	switch {
	case !readonly:
		return map[string]string{"max_snapshot_bytes_per_sec": snapshotRate}
	case restoresByRepositoryRate(engine):
		return map[string]string{"max_restore_bytes_per_sec": recoveryRate}
	}
	return nil // max_restore_bytes_per_sec has no limit unless one is set
}

// restoresByRepositoryRate is true of Elasticsearch before 7.9, where max_restore_bytes_per_sec is 40 MB/s unless set.
func restoresByRepositoryRate(engine string) bool {
	version, ok := strings.CutPrefix(engine, "elasticsearch-")
	if !ok {
		return false
	}
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major < 7 || major == 7 && minor < 9)
}

// TuningState says whether settings are raised now.
type TuningState string

// The states of the tuning.
const (
	TuningRaising TuningState = "raising" // recorded, and raised or about to be
	TuningRaised  TuningState = "raised"
	TuningPutBack TuningState = "putBack" // put back, or about to be; see the changes
)

// Tuning is the journal's record of cluster settings that were raised for the restores: recorded before the first is touched.
type Tuning struct {
	Execution string         `json:"execution"` // the one whose end puts everything back
	State     TuningState    `json:"state"`
	EndedAt   time.Time      `json:"endedAt,omitzero"` // since when the state is putBack
	Changes   []TuningChange `json:"changes"`
}

// TuningChange is one setting. It is over once one of PutBackAt, NotRaised and NotPutBack is filled in.
type TuningChange struct {
	DomainARN string    `json:"domainArn"`
	Endpoint  string    `json:"endpoint"`
	Setting   string    `json:"setting"`
	Before    *string   `json:"before"` // the persistent value before; null: it was not set
	Set       string    `json:"set"`
	At        time.Time `json:"at"`
	PutBackAt time.Time `json:"putBackAt,omitzero"`
	// NotRaised says why it was left as it was, such as "not allowed: ...": no fault, the migration goes on at the domain's own rate.
	NotRaised string `json:"notRaised,omitempty"`
	// NotPutBack says why it is not as it was before: somebody else has changed it since.
	NotPutBack string `json:"notPutBack,omitempty"`
}

func (c TuningChange) outstanding() bool {
	return c.PutBackAt.IsZero() && c.NotRaised == "" && c.NotPutBack == ""
}

// inverse is the value to send.
func (c TuningChange) inverse() any {
	if c.Before == nil {
		return nil
	}
	return *c.Before
}

// byHand is the request that puts the setting back.
func (c TuningChange) byHand() string {
	body, err := json.Marshal(map[string]any{"persistent": map[string]any{c.Setting: c.inverse()}})
	if err != nil {
		return c.Setting
	}
	return fmt.Sprintf("PUT %s/_cluster/settings %s", c.Endpoint, body)
}

// compare tells what became of the setting: as it was before, as this migration set it, or neither.
func (c TuningChange) compare(now cluster.ClusterSettings) (before, ours bool) {
	value, set := now.Persistent[c.Setting]
	return set == (c.Before != nil) && (!set || value == *c.Before), set && value == c.Set
}

func (c TuningChange) changedByOthers(now cluster.ClusterSettings) string {
	value, set := now.Persistent[c.Setting]
	if !set {
		value = "its default"
	}
	return fmt.Sprintf("changed to %s by somebody else since; it was %s before the migration", value, orDefault(c.Before))
}

func orDefault(value *string) string {
	if value == nil {
		return "not set"
	}
	return *value
}

func (t Tuning) outstanding() bool { return slices.ContainsFunc(t.Changes, TuningChange.outstanding) }

// TuningDomain is what the tuning asks of a domain.
type TuningDomain interface {
	ClusterSettings(context.Context) (cluster.ClusterSettings, error)
	PutClusterSetting(ctx context.Context, setting string, value any) error
}

// tuner raises settings of the destination and puts them back.
type tuner struct {
	journal *journal.Journal
	domain  func(migration.Endpoint) TuningDomain
	clock   Clock
}

// newTuner takes the domains of any step, whose own interface has more.
func newTuner[D TuningDomain](j *journal.Journal, domain func(migration.Endpoint) D, clock Clock) tuner {
	return tuner{j, func(e migration.Endpoint) TuningDomain { return domain(e) }, clock}
}

func (s tuner) load(ctx context.Context) (t Tuning, found bool, err error) {
	found, err = s.journal.Document(ctx, journal.TuningFile, &t)
	return t, found, err
}

func (s tuner) save(ctx context.Context, t Tuning) error {
	return s.journal.SaveDocument(ctx, journal.TuningFile, t)
}

// raise raises what is lower than wanted, once an execution. What a domain does not allow is recorded and no error; an error is one that
// asking again can mend. started is when the caller's step began: when the execution has ended since, and its thaw is done, what
// was raised is put back at once. After a thaw from before that (a redriven execution) it is raised again.
func (s tuner) raise(ctx context.Context, p migration.Plan, started time.Time) error {
	t, found, err := s.load(ctx)
	if err != nil || found && t.Execution == p.Execution && t.State == TuningRaised {
		return err
	}
	e := p.Spec.Destination
	now, refused := s.domain(e).ClusterSettings(ctx)
	if fault.Retryable(refused) {
		return refused
	}
	next := Tuning{Execution: p.Execution, State: TuningRaising}
	for _, c := range t.Changes {
		if c.outstanding() && c.Endpoint != e.Endpoint {
			next.Changes = append(next.Changes, c) // the migration had another destination once
		}
	}
	for _, r := range raised {
		i := slices.IndexFunc(t.Changes, func(c TuningChange) bool {
			return c.outstanding() && c.Endpoint == e.Endpoint && c.Setting == r.setting
		})
		if i >= 0 {
			// Raised, or about to be, by an earlier attempt or execution: what was before that is what counts.
			next.Changes = append(next.Changes, t.Changes[i])
			continue
		}
		c := TuningChange{DomainARN: e.DomainARN, Endpoint: e.Endpoint, Setting: r.setting, Set: r.value, At: s.clock.Now()}
		if value, set := now.Persistent[r.setting]; set {
			c.Before = &value
		}
		_, overridden := now.Transient[r.setting]
		switch present := now.Effective(r.setting); {
		case refused != nil:
			c.NotRaised = notAllowed(refused)
		case overridden:
			c.NotRaised = "a transient setting holds it at " + present
		case r.enough(present, r.value):
			c.NotRaised = "it is " + present + " already"
		}
		next.Changes = append(next.Changes, c)
	}
	// Looked at again right before it is replaced: the execution may have been stopped, or followed by a newer one.
	if over, err := s.over(ctx, p, started); over || err != nil {
		return err
	}
	if err := s.save(ctx, next); err != nil {
		return err
	}
	if refused == nil {
		if err := s.set(ctx, e, next.Changes, now); err != nil {
			return err
		}
	}
	over, err := s.over(ctx, p, started)
	if err != nil {
		return err
	}
	if over {
		return s.settle(ctx, next)
	}
	next.State = TuningRaised
	return s.save(ctx, next)
}

// raiseAgain raises what the thaw after a failure has put back, when the execution is redriven; it never is the first to raise.
func (s tuner) raiseAgain(ctx context.Context, p migration.Plan, started time.Time) error {
	if t, _, err := s.load(ctx); err != nil || t.Execution != p.Execution || t.State != TuningPutBack {
		return err
	}
	return s.raise(ctx, p, started)
}

// over tells whether a thaw has ended the tuning of this execution since started; a newer execution is fault.Superseded.
func (s tuner) over(ctx context.Context, p migration.Plan, started time.Time) (bool, error) {
	if _, err := s.journal.Plan(ctx, p.Execution); err != nil {
		return false, err
	}
	t, _, err := s.load(ctx)
	return t.Execution == p.Execution && t.State == TuningPutBack && !t.EndedAt.Before(started), err
}

// set sends the outstanding changes of one domain that have not taken effect yet, each by itself: Amazon refuses a body whole.
func (s tuner) set(ctx context.Context, e migration.Endpoint, changes []TuningChange, now cluster.ClusterSettings) error {
	for i := range changes {
		c := &changes[i]
		if !c.outstanding() || c.Endpoint != e.Endpoint {
			continue
		}
		before, ours := c.compare(now)
		switch {
		case ours:
			continue
		case !before:
			c.NotPutBack = c.changedByOthers(now)
			continue
		}
		err := s.domain(e).PutClusterSetting(ctx, c.Setting, c.Set)
		if fault.Retryable(err) {
			return err
		}
		if err != nil {
			c.NotRaised = notAllowed(err)
		}
	}
	return nil
}

// notAllowed says why a domain does not let a setting be raised.
func notAllowed(err error) string {
	if f, ok := fault.As(err); ok && f.Err != nil {
		err = f.Err
	}
	return "not allowed: " + shorten(err.Error(), 500)
}

// putBack puts back what the execution answers for, where it is still as this migration set it. It may be called at any time and twice.
// With mark it notes also that nothing was raised, so that a Register that is still under way sees that its execution is over.
func (s tuner) putBack(ctx context.Context, execution string, mark bool) error {
	t, found, err := s.load(ctx)
	if err != nil {
		return err
	}
	switch {
	case !found || t.State == TuningPutBack && !t.outstanding():
		if !mark || t.Execution == execution {
			return nil
		}
		t = Tuning{Execution: execution}
	case t.Execution != execution:
		return nil // the newer execution has taken it over and puts it back
	}
	t.State, t.EndedAt = TuningPutBack, s.clock.Now()
	if err := s.save(ctx, t); err != nil || !t.outstanding() {
		return err
	}
	return s.settle(ctx, t)
}

// settle sends the inverse of every outstanding change and records it. An error leaves the others done and recorded.
func (s tuner) settle(ctx context.Context, t Tuning) error {
	t.State = TuningPutBack
	if t.EndedAt.IsZero() {
		t.EndedAt = s.clock.Now()
	}
	var failed error
	for i := range t.Changes {
		if c := &t.Changes[i]; c.outstanding() {
			if err := s.undo(ctx, c); err != nil && failed == nil {
				failed = err
			}
		}
	}
	if err := s.save(ctx, t); failed == nil {
		failed = err
	}
	return failed
}

func (s tuner) undo(ctx context.Context, c *TuningChange) error {
	domain := s.domain(migration.Endpoint{DomainARN: c.DomainARN, Endpoint: c.Endpoint})
	now, err := domain.ClusterSettings(ctx)
	if err != nil {
		return err
	}
	before, ours := c.compare(now)
	if !before && !ours {
		c.NotPutBack = c.changedByOthers(now)
		return nil
	}
	if ours {
		if err := domain.PutClusterSetting(ctx, c.Setting, c.inverse()); err != nil {
			return err
		}
	}
	c.PutBackAt = s.clock.Now()
	return nil
}

// end puts the tuning back after a hand-over and returns what the report should warn of. It is no reason to fail a migration that has
// succeeded: the thaw that follows every execution's end tries again.
func (s tuner) end(ctx context.Context, execution string) []string {
	failed := s.putBack(ctx, execution, false)
	t, _, err := s.load(ctx)
	if err != nil {
		return []string{fmt.Sprintf("whether the destination's raised settings are put back is not known: %v", err)}
	}
	var warnings []string
	for _, c := range t.Changes {
		switch {
		case c.NotPutBack != "":
			warnings = append(warnings, fmt.Sprintf("%s at %s was left alone: %s", c.Setting, c.Endpoint, c.NotPutBack))
		case failed != nil && c.outstanding():
			warnings = append(warnings, fmt.Sprintf("%s at %s is still raised and is tried again when the execution ends (%v); by hand: %s",
				c.Setting, c.Endpoint, failed, c.byHand()))
		}
	}
	return warnings
}

// enoughBytes reports whether a rate is unlimited, as high as wanted, or nothing that this understands and should touch.
func enoughBytes(present, wanted string) bool {
	if present == "" {
		return false // the domain does not say: the default
	}
	have, ok := parseBytes(present)
	want, _ := parseBytes(wanted)
	return !ok || have <= 0 || have >= want
}

// size is how the engines write one: "40mb", "1.5g", "512 kb", "0", "-1".
var size = regexp.MustCompile(`^(-?[0-9.]+) *([kmgtp]?)b?$`)

func parseBytes(text string) (float64, bool) {
	m := size.FindStringSubmatch(strings.ToLower(strings.TrimSpace(text)))
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(m[1], 64)
	return n * float64(int64(1)<<(10*(strings.Index("kmgtp", m[2])+len(m[2])))), err == nil
}

func enoughCount(present, wanted string) bool {
	if present == "" {
		return false
	}
	have, err := strconv.Atoi(present)
	want, _ := strconv.Atoi(wanted)
	return err != nil || have >= want
}
