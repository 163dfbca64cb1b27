package step

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
)

func (d *domain) ClusterSettings(context.Context) (cluster.ClusterSettings, error) {
	s := cluster.ClusterSettings{Persistent: map[string]string{}, Transient: d.settings.Transient,
		Defaults: map[string]string{rate: "40mb", primaries: "4"}}
	for k, v := range d.settings.Persistent {
		s.Persistent[k] = v
	}
	return s, d.read("ClusterSettings")
}

func (d *domain) PutClusterSetting(_ context.Context, setting string, value any) error {
	return d.change("PutClusterSetting", fmt.Sprintf("%s=%v", setting[strings.LastIndex(setting, ".")+1:], value), func() error {
		if d.settings.Persistent == nil {
			d.settings.Persistent = map[string]string{}
		}
		if value == nil {
			delete(d.settings.Persistent, setting)
		} else {
			d.settings.Persistent[setting] = fmt.Sprint(value)
		}
		return nil
	})
}

const (
	rate      = "indices.recovery.max_bytes_per_sec"
	primaries = "cluster.routing.allocation.node_initial_primaries_recoveries"
)

// registered is a world whose repositories are registered already, so that Register only raises.
func registered(t *testing.T) *world {
	t.Helper()
	w := plannedWorld(t)
	_, err := runRegister(w)
	w.must(err)
	w.destination.settings.Persistent = nil
	maps.DeleteFunc(w.objects, func(key, _ string) bool { return strings.Contains(key, "/undo/") })
	w.forget()
	return w
}

// raisedWorld is one in the middle of a migration.
func raisedWorld(t *testing.T) *world {
	t.Helper()
	w := registered(t)
	w.destination.settings.Persistent = map[string]string{rate: "20mb"}
	_, err := runRegister(w)
	w.must(err)
	w.forget()
	return w
}

// undoLog reads the entries of the rate and of the primaries.
func (w *world) undoLog() (rateEntry, primariesEntry journal.Undo) {
	w.t.Helper()
	var err error
	rateEntry, _, err = w.journal().Undo(w.t.Context(), "https://destination", rate)
	w.must(err)
	primariesEntry, _, err = w.journal().Undo(w.t.Context(), "https://destination", primaries)
	w.must(err)
	return rateEntry, primariesEntry
}

// undoer puts changes back.
func undoer(w *world) undoLog {
	return newUndoLog(w.journal(), func(e migration.Endpoint) ClusterSettingsDomain { return w.at(e) }, w)
}

// wantSettings checks the persistent settings of the destination.
func (w *world) wantSettings(want map[string]string) {
	w.t.Helper()
	have := w.destination.settings.Persistent
	if len(have) != len(want) || have[rate] != want[rate] || have[primaries] != want[primaries] {
		w.t.Errorf("the destination has %v, want %v", have, want)
	}
	if len(w.source.settings.Persistent) != 0 {
		w.t.Errorf("the source has %v: its clients would feel it", w.source.settings.Persistent)
	}
}

func byRule(w *world) error {
	_, err := thaw(w).Run(w.t.Context(), ThawInput{Execution: mine})
	return err
}

func TestRaise(t *testing.T) {
	w := registered(t)
	w.destination.settings.Persistent = map[string]string{rate: "20mb"}
	if _, err := runRegister(w); err != nil {
		t.Fatal(err)
	}
	// The record is there before the first change.
	w.wantLog(raising...)
	w.wantSettings(map[string]string{rate: "500mb", primaries: "16"})
	r, p := w.undoLog()
	if !r.Outstanding() || !p.Outstanding() || r.Execution != mine || orDefault(r.Before) != "20mb" || p.Before != nil {
		t.Errorf("%+v, %+v", r, p)
	}
	w.forget()
	if _, err := runRegister(w); err != nil {
		t.Fatal(err)
	}
	w.wantLog() // once an execution
	if err := byRule(w); err != nil {
		t.Fatal(err)
	}
	w.wantSettings(map[string]string{rate: "20mb"})
	if r, p := w.undoLog(); r.UndoneAt.IsZero() || p.UndoneAt.IsZero() {
		t.Errorf("%+v, %+v", r, p)
	}
	w.forget()
	w.must(byRule(w))
	w.wantLog()
}

func TestRaiseLeavesWhatIsEnough(t *testing.T) {
	for name, c := range map[string]struct {
		settings cluster.ClusterSettings
		says     string
	}{
		"higher":      {cluster.ClusterSettings{Persistent: map[string]string{rate: "1gb", primaries: "50"}}, "it is 1gb already"},
		"equal":       {cluster.ClusterSettings{Persistent: map[string]string{rate: "500mb", primaries: "16"}}, "already"},
		"unlimited":   {cluster.ClusterSettings{Persistent: map[string]string{rate: "0", primaries: "16"}}, "it is 0 already"},
		"minus one":   {cluster.ClusterSettings{Persistent: map[string]string{rate: "-1", primaries: "16"}}, "it is -1 already"},
		"not a size":  {cluster.ClusterSettings{Persistent: map[string]string{rate: "plenty", primaries: "many"}}, "it is plenty already"},
		"a transient": {cluster.ClusterSettings{Transient: map[string]string{rate: "10mb", primaries: "1"}}, "a transient setting holds it at 10mb"},
	} {
		w := registered(t)
		w.destination.settings = c.settings
		_, err := runRegister(w)
		w.must(err)
		w.must(byRule(w))
		if w.count("destination PutClusterSetting") != 0 {
			t.Errorf("%s: %v", name, w.log)
		}
		if x, _ := w.undoLog(); !strings.Contains(x.NotMade, c.says) {
			t.Errorf("%s: %+v", name, x)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]float64{"40mb": 40 << 20, "1GB": 1 << 30, "1.5g": 1.5 * (1 << 30), "512 kb": 512 << 10, "0": 0, "0b": 0, "-1": -1, "7b": 7, "2tb": 2 << 40, "1p": 1 << 50} {
		if n, ok := parseBytes(text); !ok || n != want {
			t.Errorf("%s: %v, %t", text, n, ok)
		}
	}
	for _, text := range []string{"", "mb", "4x", "1.2.3mb", "40 mb/s"} {
		if n, ok := parseBytes(text); ok {
			t.Errorf("%q is %v", text, n)
		}
	}
}

// What Amazon answers is neither an error nor asked again.
func TestRaiseWhereItIsNotAllowed(t *testing.T) {
	refused := fault.New(fault.RequestRefused, "set", "destination", &cluster.Refusal{Status: 403, Reason: "Your request: '/_cluster/settings' payload is not allowed."})
	denied := fault.New(fault.AccessDenied, "set", "destination", errors.New("no permissions"))
	for name, arrange := range map[string]func(*world){
		"the service":     func(w *world) { w.answers["destination PutClusterSetting"] = []error{refused, refused} },
		"the permissions": func(w *world) { w.answers["destination PutClusterSetting"] = []error{denied, denied} },
		"even to look":    func(w *world) { w.answers["destination ClusterSettings"] = []error{denied} },
	} {
		w := registered(t)
		arrange(w)
		for range 2 {
			if _, err := runRegister(w); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if w.reads["destination ClusterSettings"] != 1 {
			t.Errorf("%s: looked %d times", name, w.reads["destination ClusterSettings"])
		}
		r, p := w.undoLog()
		for _, u := range []journal.Undo{r, p} {
			if !strings.HasPrefix(u.NotMade, "not allowed: ") || u.Outstanding() {
				t.Errorf("%s: %+v", name, u)
			}
		}
		w.must(byRule(w))
		w.wantSettings(nil)
		if warnings := undoer(w).end(t.Context(), "https://source"); len(warnings) != 0 {
			t.Errorf("%s: warns %v", name, warnings)
		}
	}
	// One may be allowed and the other not.
	w := registered(t)
	w.answers["destination PutClusterSetting"] = []error{refused}
	_, err := runRegister(w)
	w.must(err)
	w.wantSettings(map[string]string{primaries: "16"})
	w.must(byRule(w))
	w.wantSettings(nil)
}

func TestRaiseKilled(t *testing.T) {
	killedEverywhere(t, registered, func(w *world) error { _, err := runRegister(w); return err }, func(w *world) {
		w.wantSettings(map[string]string{rate: "500mb", primaries: "16"})
		if r, p := w.undoLog(); !r.Outstanding() || !p.Outstanding() || r.Before != nil || p.Before != nil {
			w.t.Errorf("%+v, %+v", r, p)
		}
	})
	// Killed for good: the rule's thaw puts back whatever had been raised by then.
	for at := range 4 {
		for _, after := range []bool{false, true} {
			w := registered(t)
			w.destination.settings.Persistent = map[string]string{rate: "20mb"}
			w.changes, w.killAt, w.killAfter = 0, at, after
			if _, err := runRegister(w); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			w.killAt, w.dead = -1, false
			w.must(byRule(w))
			w.wantSettings(map[string]string{rate: "20mb"})
		}
	}
}

func TestPutBackKilled(t *testing.T) {
	killedEverywhere(t, raisedWorld, byRule, func(w *world) {
		w.wantSettings(map[string]string{rate: "20mb"})
		if r, p := w.undoLog(); r.UndoneAt.IsZero() || p.UndoneAt.IsZero() {
			w.t.Errorf("%+v, %+v", r, p)
		}
	})
}

func TestTuningUnknownOutcomes(t *testing.T) {
	for name, effect := range map[string]func(w *world, call string, errs ...error){
		"without effect": func(w *world, call string, errs ...error) { w.answers[call] = errs },
		"with effect":    func(w *world, call string, errs ...error) { w.lost[call] = errs },
	} {
		w := registered(t)
		w.destination.settings.Persistent = map[string]string{rate: "20mb"}
		effect(w, "destination PutClusterSetting", unknown("set"))
		if _, err := runRegister(w); !fault.Is(err, fault.OutcomeUnknown) {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := runRegister(w); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		w.wantSettings(map[string]string{rate: "500mb", primaries: "16"})
		if n := w.count("destination PutClusterSetting max_bytes_per_sec"); n != 1 {
			t.Errorf("%s: set %d times", name, n)
		}
		effect(w, "destination PutClusterSetting", unknown("set"))
		if err := byRule(w); !fault.Is(err, fault.OutcomeUnknown) {
			t.Fatalf("%s: %v", name, err)
		}
		// The other setting was put back nevertheless.
		if w.destination.settings.Persistent[rate] != "20mb" {
			t.Errorf("%s: %v", name, w.destination.settings.Persistent)
		}
		w.must(byRule(w))
		w.wantSettings(map[string]string{rate: "20mb"})
	}
}

func TestPutBackLeavesOthersChanges(t *testing.T) {
	w := raisedWorld(t)
	w.destination.settings.Persistent[rate] = "300mb"
	delete(w.destination.settings.Persistent, primaries) // which is how it was
	w.must(byRule(w))
	w.wantSettings(map[string]string{rate: "300mb"})
	if r, p := w.undoLog(); r.Outstanding() || r.LeftAlone != "changed to 300mb by somebody else since; it was 20mb before the migration" || p.UndoneAt.IsZero() {
		t.Errorf("%+v, %+v", r, p)
	}
	warnings := undoer(w).end(t.Context(), "https://source")
	if len(warnings) != 1 || !strings.Contains(warnings[0], "max_bytes_per_sec at https://destination was left alone: changed to 300mb") {
		t.Errorf("%q", warnings)
	}

	w = raisedWorld(t)
	delete(w.destination.settings.Persistent, rate)
	w.must(byRule(w))
	w.wantSettings(nil)
	if x, _ := w.undoLog(); !strings.HasPrefix(x.LeftAlone, "changed to its default") {
		t.Errorf("%+v", x)
	}
}

// A newer execution answers for what the older one changed, and still knows how it was before that.
func TestNewerExecutionTakesOver(t *testing.T) {
	w := raisedWorld(t)
	p, err := w.journal().Plan(t.Context(), mine)
	w.must(err)
	p.Execution = others
	w.beginning = others
	w.must(w.journal().Begin(t.Context(), others, w.now, func(context.Context, string) error { return nil }, "https://destination", "https://source"))
	w.beginning = ""
	w.must(w.journal().SavePlan(t.Context(), p))
	w.forget()
	if _, err := register(w).Run(t.Context(), RegisterInput{Migration: "orders", Execution: others}); err != nil {
		t.Fatal(err)
	}
	if w.count("destination PutClusterSetting") != 0 {
		t.Errorf("raised twice: %v", w.log)
	}
	w.must(byRule(w)) // the older one's end, late
	w.wantSettings(map[string]string{rate: "500mb", primaries: "16"})
	_, err = thaw(w).Run(t.Context(), ThawInput{Migration: "orders", Execution: others})
	w.must(err)
	w.wantSettings(map[string]string{rate: "20mb"})
}

// A destination that the migration no longer has is put back too.
func TestUndoOfAnEarlierDestination(t *testing.T) {
	w := raisedWorld(t)
	p, err := w.journal().Plan(t.Context(), mine)
	w.must(err)
	p.Spec.Destination.Endpoint = "https://source-2" // another domain
	w.must(w.journal().SavePlan(t.Context(), p))
	w.must(raise(t.Context(), undoer(w), p))
	if w.source.settings.Persistent[rate] != "500mb" || w.destination.settings.Persistent[rate] != "500mb" {
		t.Fatalf("%v, %v", w.source.settings, w.destination.settings)
	}
	w.must(undoer(w).undo(t.Context()))
	w.wantSettings(map[string]string{rate: "20mb"})
}

// Two attempts of a step look at the log at the same time. What the first saw before its change is what counts: the second one looks
// at the setting when it is changed already.
func TestUndoOfTwoAttempts(t *testing.T) {
	w := registered(t)
	w.destination.settings.Persistent = map[string]string{rate: "20mb"}
	p, err := w.journal().Plan(t.Context(), mine)
	w.must(err)
	first := false
	l := newUndoLog(w.journal(), func(migration.Endpoint) ClusterSettingsDomain {
		return interrupting{w.destination, func(call string) {
			if !first && call == "destination ClusterSettings" {
				first = true
				w.must(raise(t.Context(), undoer(w), p))
			}
		}}
	}, w)
	w.must(raise(t.Context(), l, p))
	w.wantSettings(map[string]string{rate: "500mb", primaries: "16"})
	w.must(byRule(w))
	w.wantSettings(map[string]string{rate: "20mb"})
}

// Stopped while Register still runs: whichever comes first, nothing stays raised.
func TestThawInTheMiddleOfRaising(t *testing.T) {
	for _, at := range []string{"destination PutRepository", "destination ClusterSettings", "destination PutClusterSetting max", "destination PutClusterSetting node"} {
		w := plannedWorld(t)
		done := false
		interrupted := interrupting{w.destination, func(call string) {
			if !done && strings.HasPrefix(call, at) {
				done = true
				w.now = w.now.Add(time.Second)
				w.must(byRule(w))
			}
		}}
		s := Register{Journal: w.store, Domain: func(e migration.Endpoint) RegisterDomain {
			if w.at(e) == w.destination {
				return interrupted
			}
			return w.source
		}, Clock: w}
		if _, err := s.Run(t.Context(), RegisterInput{Migration: "orders", Execution: mine}); !fault.Is(err, fault.Superseded) {
			t.Fatalf("%s: %v", at, err)
		}
		if !done {
			t.Fatalf("%s never came", at)
		}
		w.wantSettings(nil)
		if r, p := w.undoLog(); r.Outstanding() || p.Outstanding() {
			t.Errorf("%s: %+v, %+v", at, r, p)
		}
		// The execution is redriven: raised again.
		w.now, w.running = w.now.Add(time.Second), map[string]bool{mine: true}
		_, err := runRegister(w)
		w.must(err)
		w.wantSettings(map[string]string{rate: "500mb", primaries: "16"})
	}
}

func TestRaiseAgainIsNeverTheFirst(t *testing.T) {
	for name, arrange := range map[string]func(*testing.T) *world{"nothing raised": registered, "still raised": raisedWorld} {
		w := arrange(t)
		p, err := w.journal().Plan(t.Context(), mine)
		w.must(err)
		w.must(raiseAgain(t.Context(), undoer(w), p))
		if len(w.log) != 0 {
			t.Errorf("%s: %v", name, w.log)
		}
	}
}

// interrupting calls before right before each call to the domain.
type interrupting struct {
	*domain
	before func(call string)
}

func (d interrupting) ClusterSettings(ctx context.Context) (cluster.ClusterSettings, error) {
	d.before("destination ClusterSettings")
	return d.domain.ClusterSettings(ctx)
}

func (d interrupting) PutClusterSetting(ctx context.Context, setting string, value any) error {
	d.before("destination PutClusterSetting " + setting[strings.LastIndex(setting, ".")+1:])
	return d.domain.PutClusterSetting(ctx, setting, value)
}

func (d interrupting) PutRepository(ctx context.Context, name string, r cluster.Repository) error {
	d.before("destination PutRepository")
	return d.domain.PutRepository(ctx, name, r)
}

func TestThawPutsBackAfterWrites(t *testing.T) {
	w := raisedWorld(t)
	w.frozen(mine, journal.Frozen)
	w.answers["destination PutClusterSetting"] = []error{unknown("set")}
	// The workflow has an error to tell and does not wait for it...
	out, err := runThaw(w)
	if err != nil || out.State != journal.Thawed || !strings.Contains(out.Cause, "not all put back yet") || out.Error != "Migration.CopyFailed" {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantBefore("put freeze.json thawed", "destination PutClusterSetting")
	// ...the rule does.
	w.must(byRule(w))
	w.wantSettings(map[string]string{rate: "20mb"})
	// Writes come first: as long as they are not given back nothing else is done.
	w = raisedWorld(t)
	w.frozen(mine, journal.Frozen)
	w.answers["source UpdateSettings"] = []error{unknown("update settings")}
	if _, err := runThaw(w); !fault.Is(err, fault.OutcomeUnknown) || w.count("destination") != 0 {
		t.Errorf("%v, %v", err, w.log)
	}
}

func TestEndWarnsOfWhatIsStillRaised(t *testing.T) {
	w := raisedWorld(t)
	w.answers["destination PutClusterSetting"] = []error{unknown("set")}
	warnings := undoer(w).end(t.Context(), "https://source")
	if len(warnings) != 1 || !strings.Contains(warnings[0], `by hand: PUT https://destination/_cluster/settings {"persistent":{"`+primaries+`":null}}`) {
		t.Errorf("%q", warnings)
	}
	if warnings := undoer(w).end(t.Context(), "https://source"); len(warnings) != 0 {
		t.Errorf("%q", warnings)
	}
	w.wantSettings(map[string]string{rate: "20mb"})
}

func TestRepositoryRates(t *testing.T) {
	for engine, limited := range map[string]bool{
		"elasticsearch-6.8.0": true, "elasticsearch-7.8.1": true, "elasticsearch-7.9.0": false, "elasticsearch-7.10.2": false, "opensearch-1.3.20": false, "opensearch-2.19.0": false,
	} {
		if got := repositoryRates(engine, true)["max_restore_bytes_per_sec"]; (got == "500mb") != limited {
			t.Errorf("%s as a destination: %q", engine, got)
		}
		if got := repositoryRates(engine, false); len(got) != 1 || got["max_snapshot_bytes_per_sec"] != "80mb" {
			t.Errorf("%s as a source: %v", engine, got)
		}
	}
}

func TestFinishPutsBackAfterTheHandOver(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := finishable(t)
		_, err := runRegister(w)
		w.must(err)
		w.forget()
		return w
	}
	killedEverywhere(t, arrange, func(w *world) error { _, err := runFinish(w); return err }, func(w *world) {
		w.wantSettings(nil)
		w.wantBefore("put freeze.json handedOver", "destination PutClusterSetting")
	})
	// What cannot be put back now does not fail a migration that has succeeded: the report says it, and the rule's thaw does it.
	w := arrange(t)
	w.answers["destination PutClusterSetting"] = []error{unknown("set")}
	if _, err := runFinish(w); err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if _, err := w.journal().Document(t.Context(), journal.ReportFile, &r); err != nil || !strings.Contains(strings.Join(r.Warnings, "\n"), primaries+" at https://destination is still 16") {
		t.Errorf("%q, %v", r.Warnings, err)
	}
	w.must(byRule(w))
	w.wantSettings(nil)
	if w.freezeState().State != journal.HandedOver || w.source.block("a") != "true" {
		t.Error("the thaw of a success touched the writes")
	}
}
