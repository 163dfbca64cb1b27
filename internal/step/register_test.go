package step

import (
	"errors"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
)

// raising is what Register does after the repositories.
var raising = []string{"put undo/destination-indices.recovery.max_bytes_per_sec.json", "destination PutClusterSetting max_bytes_per_sec=500mb",
	"put undo/destination-cluster.routing.allocation.node_initial_primaries_recoveries.json", "destination PutClusterSetting node_initial_primaries_recoveries=16"}

func runRegister(w *world) (RegisterOutput, error) {
	return register(w).Run(w.t.Context(), RegisterInput{Migration: "orders", Execution: mine})
}

func TestRegister(t *testing.T) {
	w := plannedWorld(t)
	out, err := runRegister(w)
	if err != nil || out != (RegisterOutput{"orders", "registered", "registered"}) {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantLog(append([]string{"source PutRepository orders by region", "destination PutRepository orders by region"}, raising...)...)
	for name, want := range map[*domain]map[string]string{
		w.source:      {"bucket": "old-snapshots", "base_path": "base", "role_arn": "arn:aws:iam::111122223333:role/snapshots", "region": "eu-west-1", "max_snapshot_bytes_per_sec": "80mb"},
		w.destination: {"bucket": "new-snapshots", "role_arn": "arn:aws:iam::444455556666:role/snapshots", "region": "us-east-1", "readonly": "true"},
	} {
		r := name.repositories["orders"]
		if r.Type != "s3" || len(r.Settings) != len(want) {
			t.Errorf("%s: %+v, want %v", name.name, r, want)
		}
		for k, v := range want {
			if r.Settings[k] != v {
				t.Errorf("%s: %s is %q, want %q", name.name, k, r.Settings[k], v)
			}
		}
	}
	// Rates that the operator tuned are no difference, and nothing is registered twice.
	w.source.repositories["orders"].Settings["max_snapshot_bytes_per_sec"] = "1gb"
	w.forget()
	if out, err := runRegister(w); err != nil || out.Source != "unchanged" || out.Destination != "unchanged" {
		t.Fatalf("again: %+v, %v", out, err)
	}
	w.wantLog()
}

func TestRegisterKilled(t *testing.T) {
	killedEverywhere(t, plannedWorld, func(w *world) error { _, err := runRegister(w); return err }, func(w *world) {
		if w.count("source PutRepository") != 1 || w.count("destination PutRepository") != 1 {
			w.t.Errorf("changes %v", w.log)
		}
	})
}

func TestRegisterFallsBackToTheEndpoint(t *testing.T) {
	w := plannedWorld(t)
	refused := fault.Newf(fault.RepositoryRefused, "register", "source", "the region eu-west-1 is wrong")
	w.answers["source PutRepository"] = []error{refused}
	out, err := runRegister(w)
	if err != nil || out.Source != "registered" {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantLog(append([]string{"source PutRepository orders by endpoint", "destination PutRepository orders by region"}, raising...)...)
	s := w.source.repositories["orders"].Settings
	if s["endpoint"] != "s3.amazonaws.com" || s["region"] != "" {
		t.Errorf("settings %v", s)
	}
	// What was reached by the endpoint is recognised the next time.
	if out, err := runRegister(w); err != nil || out.Source != "unchanged" {
		t.Errorf("again: %+v, %v", out, err)
	}

	w = plannedWorld(t)
	w.answers["source PutRepository"] = []error{refused, errors.New("no such bucket")}
	_, err = runRegister(w)
	wantFault(t, err, fault.RepositoryRefused, "with region eu-west-1", "the region eu-west-1 is wrong", "with endpoint s3.amazonaws.com", "no such bucket")
	w.wantLog()
}

func TestRegisterDoesNotFallBackOnOtherErrors(t *testing.T) {
	for _, answer := range []error{unknown("register"), fault.Newf(fault.AccessDenied, "register", "source", "no"), busy("register")} {
		w := plannedWorld(t)
		w.answers["source PutRepository"] = []error{answer}
		if _, err := runRegister(w); !errors.Is(err, answer) {
			t.Errorf("%v came out as %v", answer, err)
		}
		w.wantLog()
	}
	// Unknown, but it took effect: the repeated step sees it.
	w := plannedWorld(t)
	w.lost["source PutRepository"] = []error{unknown("register")}
	if _, err := runRegister(w); !fault.Is(err, fault.OutcomeUnknown) {
		t.Fatal(err)
	}
	if out, err := runRegister(w); err != nil || out.Source != "unchanged" || w.count("source PutRepository") != 1 {
		t.Errorf("%+v, %v, %v", out, err, w.log)
	}
}

func TestRegisterRefusesAnothersRepository(t *testing.T) {
	for name, change := range map[string]func(*cluster.Repository){
		"bucket":    func(r *cluster.Repository) { r.Settings["bucket"] = "x" },
		"base path": func(r *cluster.Repository) { delete(r.Settings, "base_path") },
		"role":      func(r *cluster.Repository) { r.Settings["role_arn"] = "x" },
		"region":    func(r *cluster.Repository) { r.Settings["region"] = "us-east-1" },
		"read-only": func(r *cluster.Repository) { r.Settings["readonly"] = "true" },
		"type":      func(r *cluster.Repository) { r.Type = "fs" },
	} {
		w := plannedWorld(t)
		if _, err := runRegister(w); err != nil {
			t.Fatal(err)
		}
		r := w.source.repositories["orders"]
		change(&r)
		w.source.repositories["orders"] = r
		w.forget()
		_, err := runRegister(w)
		f, ok := fault.As(err)
		if !ok || f.Name != fault.RepositoryRefused || !strings.Contains(f.Advice(), "DELETE _snapshot/orders") {
			t.Errorf("another %s: %v", name, err)
		}
		w.wantLog()
	}
	// A destination that could write to the repository is as wrong.
	w := plannedWorld(t)
	if _, err := runRegister(w); err != nil {
		t.Fatal(err)
	}
	delete(w.destination.repositories["orders"].Settings, "readonly")
	_, err := runRegister(w)
	wantFault(t, err, fault.RepositoryRefused, "other settings")
}

func TestStepsNeedTheirPlan(t *testing.T) {
	w := newWorld(t)
	_, err := register(w).Run(t.Context(), RegisterInput{Execution: mine})
	wantFault(t, err, fault.InvalidInput, "$.migration")
	_, err = runRegister(w)
	wantFault(t, err, fault.JournalMissing)
	w = plannedWorld(t)
	_, err = register(w).Run(t.Context(), RegisterInput{Migration: "orders", Execution: others})
	wantFault(t, err, fault.Superseded)
	w.wantLog()
}
