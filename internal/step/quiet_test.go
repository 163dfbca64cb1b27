package step

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
)

func TestQuiet(t *testing.T) {
	const autoCreate, ism = "action.auto_create_index", "plugins.index_state_management.enabled"
	for _, c := range []struct {
		name          string
		include       []string
		present       map[string]string
		autoCreate    string
		says, without string // why auto_create_index is left; whether ISM is switched off
	}{
		{"everything", []string{"*"}, nil, "+.*,-*,+*", "", ""},
		{"some", []string{"logs-*", "orders"}, map[string]string{autoCreate: "true"}, "+.*,-logs-*,-orders,+*", "", ""},
		{"a hidden one by its name", []string{".mine", "logs-*"}, nil, "-.mine,+.*,-logs-*,+*", "", ""},
		{"forbidden already", []string{"*"}, map[string]string{autoCreate: "false"}, "", "it is false already", ""},
		{"the operator's own list", []string{"*"}, map[string]string{autoCreate: "+a*,-*"}, "", "it is +a*,-* already", ""},
		{"with index state management", []string{"*"}, map[string]string{ism: "true"}, "+.*,-*,+*", "", "false"},
		{"which is off", []string{"*"}, map[string]string{ism: "false"}, "+.*,-*,+*", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := migration.Plan{Spec: migration.Spec{Indices: migration.Selection{Include: c.include}}}
			now := cluster.ClusterSettings{Defaults: c.present}
			for _, w := range quiet(p) {
				set, leave := w.value(now)
				switch w.setting {
				case autoCreate:
					if set != c.autoCreate || leave != c.says {
						t.Errorf("%q, %q", set, leave)
					}
				case ism:
					if set != c.without || leave != "" {
						t.Errorf("%s: %q, %q", w.setting, set, leave)
					}
				}
			}
		})
	}
}

// What was switched off comes back with the writes, and stays off after a hand-over, when the report says how to switch it on.
func TestQuietEnds(t *testing.T) {
	const setting = "action.auto_create_index"
	w := plannedWorld(t)
	_, err := runFreeze(w)
	w.must(err)
	if w.source.settings.Persistent[setting] != "+.*,-*,+*" {
		t.Fatal(w.source.settings)
	}
	w.must(byRule(w))
	if _, still := w.source.settings.Persistent[setting]; still {
		t.Error("not put back")
	}

	quieted := func(t *testing.T) *world {
		w := finishable(t)
		p, err := w.journal().Plan(t.Context(), mine)
		w.must(err)
		w.must(silence(t.Context(), undoer(w), p))
		w.forget()
		return w
	}
	kept := func(w *world) {
		w.t.Helper()
		if w.source.settings.Persistent[setting] != "+.*,-*,+*" {
			w.t.Errorf("the source: %v", w.source.settings.Persistent)
		}
		u, _, err := w.journal().Undo(w.t.Context(), "https://source", setting)
		if err != nil || u.Outstanding() || u.LeftAlone != keptOnPurpose {
			w.t.Errorf("%+v, %v", u, err)
		}
	}
	killedEverywhere(t, quieted, func(w *world) error { _, err := runFinish(w); return err }, kept)
	// Killed for good, the rule's thaw ends it either way.
	for at := range 10 {
		w := quieted(t)
		w.killAt = at
		if _, err := runFinish(w); !errors.Is(err, errKilled) {
			t.Fatal(at, err)
		}
		w.killAt, w.dead = -1, false
		w.must(byRule(w))
		if w.freezeState().State == journal.HandedOver {
			kept(w)
		} else if len(w.source.settings.Persistent) != 0 || w.source.block("a") != "" {
			t.Errorf("killed at change %d, writes back: %v", at, w.source.settings.Persistent)
		}
	}
	w = quieted(t)
	_, err = runFinish(w)
	w.must(err)
	var r report.Report
	_, err = w.journal().Document(t.Context(), journal.ReportFile, &r)
	w.must(err)
	lines := strings.Split(r.OpenSource, "\n")
	if want := []string{`PUT https://source/a,b/_settings {"index.blocks.write": null}`, `PUT https://source/_cluster/settings {"persistent":{"action.auto_create_index":null}}`}; !slices.Equal(lines, want) || len(r.Warnings) != 0 {
		t.Errorf("%q, %q", lines, r.Warnings)
	}
}

// An index that is created while writes are being stopped has no block.
func TestFreezeSeesAnIndexCreatedMeanwhile(t *testing.T) {
	w := plannedWorld(t)
	w.onSleep = func() {
		if w.source.indices["fresh"] == nil {
			w.source.add("fresh", 1)
		}
	}
	_, err := runFreeze(w)
	if err == nil {
		// It came after the look; the hand-over looks again.
		w = finishable(t)
		w.source.add("fresh", 1)
		_, err = runFinish(w)
		if w.freezeState().State != journal.Frozen || w.count("destination UpdateSettings") != 0 {
			t.Errorf("opened: %v", w.log)
		}
	}
	wantFault(t, err, fault.IndicesChanged, "fresh (created)")
}

// stopped is a world after preflight whose operator has stopped the clients.
func stopped(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	in := strings.Replace(input, "{", `{"clients": "stopped-by-operator",`, 1)
	_, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(in), Execution: mine})
	w.must(err)
	w.forget()
	return w
}

// Where the operator has stopped the clients, nothing is blocked or switched off at the source, and that nobody writes is proven.
func TestClientsStoppedByOperator(t *testing.T) {
	w := stopped(t)
	if _, err := runFreeze(w); err != nil {
		t.Fatal(err)
	}
	w.wantLog("put freeze.json frozen", "put freeze.json frozen")
	f := w.freezeState()
	if !f.NotBlocked || !slices.Equal(f.Proven["a"], []int64{10, 11}) {
		t.Errorf("%+v", f)
	}
	w.forget()
	if out, err := runThaw(w); err != nil || len(out.Indices) != 0 || w.count("source") != 0 {
		t.Errorf("%+v, %v, %v", out, err, w.log)
	}

	w = stopped(t)
	w.onSleep = func() { w.source.write("a") }
	_, err := runFreeze(w)
	wantFault(t, err, fault.FreezeUnproven, "a")

	for name, wrote := range map[string]bool{"quiet to the end": false, "one that was not stopped": true} {
		w := finishable(t)
		f := w.freezeState()
		now, err := w.source.SequenceNumbers(t.Context(), "a", "b")
		w.must(err)
		f.NotBlocked, f.Proven = true, maxSeqNos(now)
		w.must(w.journal().SaveFreeze(t.Context(), f))
		if wrote {
			w.source.write("b")
		}
		w.forget()
		out, err := runFinish(w)
		switch {
		case wrote:
			wantFault(t, err, fault.FreezeUnproven, "b")
			if w.count("destination UpdateSettings") != 0 {
				t.Errorf("%s: opened: %v", name, w.log)
			}
		case err != nil || w.count("source") != 0 || !strings.Contains(out.Next, "before you start them"):
			t.Errorf("%s: %+v, %v, %v", name, out, err, w.log)
		}
	}
}
