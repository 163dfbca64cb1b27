package step

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// books is another migration's input, into the same destination.
var books = strings.Replace(strings.Replace(input, `"orders"`, `"books"`, 1), "https://source", "https://source-2", 1)

func (w *world) lease(endpoint string) journal.Lease {
	w.t.Helper()
	l, err := w.store.Lease(w.t.Context(), endpoint)
	w.must(err)
	return l
}

// A second execution on a domain is refused with the owner's name, whichever migration it is of, and has touched nothing.
func TestPreflightIsRefusedADomainThatIsTaken(t *testing.T) {
	for name, in := range map[string]string{"the same migration": input, "another one, into the same destination": books} {
		w := raisedWorld(t)
		w.running = map[string]bool{mine: true}
		w.frozen(mine, journal.Frozen)
		_, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(in), Execution: others})
		wantFault(t, err, fault.DomainTaken, "orders", mine)
		w.wantLog()
		if l := w.lease("https://destination"); l.Execution != mine || !l.EndedAt.IsZero() {
			t.Errorf("%s: %+v", name, l)
		}
	}
	// Looking is free.
	w := raisedWorld(t)
	w.running = map[string]bool{mine: true}
	assess := strings.Replace(books, `{`, `{"mode": "assess",`, 1)
	if _, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(assess), Execution: others}); err != nil {
		t.Error(err)
	}
	w.wantLog()
}

// An execution ended while writes were stopped, and nobody heard of it: the next one first gives writes back and undoes the rest.
func TestPreflightTakesOverFromTheDead(t *testing.T) {
	for name, in := range map[string]string{"the same migration": input, "another one, into the same destination": books} {
		arrange := func(t *testing.T) *world {
			w := raisedWorld(t)
			w.frozen(mine, journal.Frozen)
			w.forget()
			return w
		}
		killedEverywhere(t, arrange, func(w *world) error {
			_, err := preflight(w).Run(w.t.Context(), PreflightInput{Input: json.RawMessage(in), Execution: others})
			return err
		}, func(w *world) {
			if w.freezeState().State != journal.Thawed || w.source.block("a") != "" {
				t.Errorf("%s: %s, a blocked: %q", name, w.freezeState().State, w.source.block("a"))
			}
			w.wantSettings(map[string]string{rate: "20mb"})
			if l := w.lease("https://destination"); l.Execution != others || l.Epoch != 2 || !l.EndedAt.IsZero() {
				t.Errorf("%s: %+v", name, l)
			}
		})
	}
}

// While the domain cannot be opened again nobody else gets it.
func TestPreflightWaitsForTheDead(t *testing.T) {
	w := raisedWorld(t)
	w.frozen(mine, journal.Frozen)
	w.answers["source UpdateSettings"] = []error{unknown("update settings")}
	_, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(books), Execution: others})
	wantFault(t, err, fault.OutcomeUnknown)
	if l := w.lease("https://destination"); l.Execution != mine || !l.EndedAt.IsZero() {
		t.Errorf("%+v", l)
	}
}

// After a thaw a Lambda of the old execution that is still on its way changes nothing.
func TestNothingActsAfterAThaw(t *testing.T) {
	w := raisedWorld(t)
	w.frozen(mine, journal.Frozen)
	w.must(byRule(w))
	w.forget()
	for name, run := range map[string]func() error{
		"register": func() error { _, err := runRegister(w); return err },
		"freeze":   func() error { _, err := runFreeze(w); return err },
		"finish":   func() error { _, err := runFinish(w); return err },
		"a round":  func() error { return w.runRound(3) },
	} {
		err := run()
		wantFault(t, err, fault.Superseded)
		if len(w.log) != 0 {
			t.Errorf("%s: %v", name, w.log)
		}
	}
}

// An event that comes late finds the execution redriven, and leaves it alone; an operator is told to stop it.
func TestThawLeavesARunningExecutionAlone(t *testing.T) {
	w := raisedWorld(t)
	w.frozen(mine, journal.Frozen)
	w.forget()
	w.running = map[string]bool{mine: true}
	out, err := thaw(w).Run(t.Context(), ThawInput{Execution: mine})
	if err != nil || out.State != "" || !strings.Contains(out.Cause, "stop-execution") {
		t.Errorf("%+v, %v", out, err)
	}
	w.wantLog()
	// The workflow's own Thaw runs inside the execution.
	if out, err := runThaw(w); err != nil || out.State != journal.Thawed {
		t.Errorf("%+v, %v", out, err)
	}
	if l := w.lease("https://source"); l.Execution != mine || !l.EndedAt.IsZero() {
		t.Errorf("given back before the execution's end: %+v", l)
	}
}

// A redriven execution takes its domains again; when another one has them, it is refused.
func TestRedriveTakesTheDomainsAgain(t *testing.T) {
	w := raisedWorld(t)
	w.must(byRule(w))
	w.running = map[string]bool{mine: true}
	if _, err := runRegister(w); err != nil {
		t.Fatal(err)
	}
	if l := w.lease("https://source"); l.Execution != mine || l.Epoch != 2 || !l.EndedAt.IsZero() {
		t.Errorf("%+v", l)
	}
	w.running = nil
	w.must(byRule(w))
	w.running = map[string]bool{mine: true, others: true}
	if _, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(books), Execution: others}); err != nil {
		t.Fatal(err)
	}
	w.forget()
	_, err := runRegister(w)
	wantFault(t, err, fault.DomainTaken, `"books"`, others)
	if w.count("destination ") != 0 {
		t.Error(w.log)
	}
	if p, err := w.store.Migration("books").Plan(t.Context(), others); err != nil || p.Spec.Mode != migration.Migrate {
		t.Errorf("%+v, %v", p.Spec, err)
	}
}

// A round that a schedule starts has no domain of its own: it waits for what is being undone, and is refused while an execution acts.
func TestScheduledRoundKeepsAway(t *testing.T) {
	alone := func(w *world) error {
		_, err := runSnapshot(w, RoundInput{Migration: "orders", Round: 1})
		return err
	}
	w := plannedWorld(t)
	wantFault(t, alone(w), fault.Busy, mine)
	w.running = map[string]bool{mine: true}
	wantFault(t, alone(w), fault.DomainTaken, mine)
	w.wantLog()
	w.running = nil
	w.must(byRule(w))
	w.must(alone(w))
	if w.count("source CreateSnapshot") != 1 {
		t.Error(w.log)
	}
	// A destination that takes writes is not restored over.
	w.frozen(mine, journal.HandedOver)
	w.settled()
	wantFault(t, alone(w), fault.DestinationOccupied, "is over")
}
