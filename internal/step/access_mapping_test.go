package step

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// secured is a domain with fine-grained access control, as one caller sees it.
type secured struct {
	*domain
	*owned
	self cluster.Identity
	off  bool
}

func (s secured) Identity(context.Context) (cluster.Identity, bool, error) {
	return s.self, !s.off, s.owned.w.read("identity")
}

const (
	callerARN   = "arn:aws:iam::111122223333:role/domainferry-dev-caller-eu-west-1"
	registerARN = "arn:aws:iam::111122223333:role/domainferry-dev-register-eu-west-1"
	mappingKey  = snapshotRole + " roleMapping"
	mappedByUs  = `{"hosts":[],"users":[],"backend_roles":["snapshotrestore"],"and_backend_roles":[]}`
)

// securedWorld is a planned migration whose source knows the caller only as a user of the security API.
func securedWorld(t *testing.T, self string, roles ...string) (*world, *secured, undoLog) {
	t.Helper()
	w := plannedWorld(t)
	o := &owned{w: w, texts: map[string]string{
		mappingKey:                   mappedByUs,
		allAccess + " roleMapping":   `{"backend_roles":["arn:aws:iam::111122223333:role/admin"],"users":["admin"]}`,
		securityAPI + " roleMapping": `{"backend_roles":["` + callerARN + `"]}`,
	}}
	s := &secured{domain: w.source, owned: o, self: cluster.Identity{Name: self, BackendRoles: []string{self}, Roles: roles}}
	l := newUndoLog(w.journal(), func(migration.Endpoint) *secured { return s }, w)
	return w, s, l
}

func plannedOf(t *testing.T, w *world) migration.Plan {
	t.Helper()
	p, err := w.journal().ReadPlan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTheWorkflowIsLetInAndOutAgain(t *testing.T) {
	w, s, l := securedWorld(t, registerARN, securityAPI)
	p := plannedOf(t, w)
	byHand, err := l.letIn(t.Context(), p, p.Spec.Source, p.Engines.Source, callerARN)
	if err != nil || byHand != "" {
		t.Fatalf("%q, %v", byHand, err)
	}
	w.wantLog("put undo/source-securityRole-domainferry_orders.json", "set securityRole domainferry_orders",
		"put undo/source-roleMapping-domainferry_orders.json", "set roleMapping domainferry_orders",
		"put undo/source-roleMapping-manage_snapshots.json", "set roleMapping manage_snapshots")
	if want := strings.Replace(mappedByUs, `"snapshotrestore"`, `"snapshotrestore","`+registerARN+`","`+callerARN+`"`, 1); s.texts[mappingKey] != want {
		t.Errorf("%s\nwant\n%s", s.texts[mappingKey], want)
	}
	w.forget()
	if byHand, err := l.letIn(t.Context(), p, p.Spec.Source, p.Engines.Source, callerARN); err != nil || byHand != "" {
		t.Fatalf("again: %q, %v", byHand, err)
	}
	w.wantLog()

	// A hand-over leaves it, because the steps after it need the domain; so does a thaw inside the workflow.
	if warnings := l.end(t.Context(), "https://source"); len(warnings) > 0 {
		t.Errorf("%s", warnings)
	}
	w.wantLog()
	// Nor at the end, while something that needs the domain is not undone.
	w.source.settings = cluster.ClusterSettings{Persistent: map[string]string{}, Defaults: map[string]string{"action.auto_create_index": "true"}}
	if err := silence(t.Context(), l, p); err != nil {
		t.Fatal(err)
	}
	w.forget()
	l.last = true
	w.answers["source PutClusterSetting"] = []error{unknown("set")}
	if err := l.undo(t.Context()); !fault.Is(err, fault.OutcomeUnknown) {
		t.Fatalf("%v", err)
	}
	w.wantLog()
	if err := l.undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantBefore("source PutClusterSetting", "set roleMapping")
	w.wantBefore("remove roleMapping domainferry_orders", "remove securityRole domainferry_orders")
	if s.texts[mappingKey] != mappedByUs || len(s.texts) != 3 {
		t.Errorf("afterwards: %v", s.texts)
	}
}

func TestLettingInKilled(t *testing.T) {
	var s *secured
	var l undoLog
	killedEverywhere(t, func(t *testing.T) *world {
		var w *world
		w, s, l = securedWorld(t, callerARN, securityAPI)
		return w
	}, func(w *world) error {
		p := plannedOf(w.t, w)
		l.last = true
		if _, err := l.letIn(w.t.Context(), p, p.Spec.Source, p.Engines.Source, callerARN); err != nil {
			return err
		}
		return l.undo(w.t.Context())
	}, func(w *world) {
		if s.texts[mappingKey] != mappedByUs || len(s.texts) != 3 {
			w.t.Errorf("afterwards: %v", s.texts)
		}
	})
}

func TestWhoNeedsNoMapping(t *testing.T) {
	for name, c := range map[string]struct {
		self   cluster.Identity
		caller string
		off    bool
	}{
		"no fine-grained access control": {off: true},
		"all access":                     {self: cluster.Identity{Name: callerARN, BackendRoles: []string{callerARN}, Roles: []string{allAccess}}},
		"a user of the domain's own":     {self: cluster.Identity{Name: "admin", BackendRoles: []string{"admins"}, Roles: []string{securityAPI}}},
		"both are administrators": {self: cluster.Identity{Name: "arn:aws:iam::111122223333:role/admin", BackendRoles: []string{"arn:aws:iam::111122223333:role/admin"}},
			caller: "arn:aws:iam::111122223333:role/admin"},
	} {
		w, s, l := securedWorld(t, "")
		s.self, s.off = c.self, c.off
		p := plannedOf(t, w)
		if byHand, err := l.letIn(t.Context(), p, p.Spec.Source, p.Engines.Source, c.caller); err != nil || byHand != "" {
			t.Errorf("%s: %q, %v", name, byHand, err)
		}
		w.wantLog()
	}
}

// TestRegisterLetsTheWorkflowIn has the state do it at both domains, before it registers.
func TestRegisterLetsTheWorkflowIn(t *testing.T) {
	w, s, _ := securedWorld(t, registerARN, securityAPI)
	domain := func(e migration.Endpoint) RegisterDomain {
		if w.at(e) == w.source {
			return s
		}
		return w.destination
	}
	r := Register{Journal: w.store, Domain: domain, Clock: w, Caller: callerARN}
	if out, err := r.Run(t.Context(), RegisterInput{Migration: "orders", Execution: mine}); err != nil || out.Source != "registered" {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantBefore("set roleMapping manage_snapshots", "source PutRepository")
	// Where it may not, the refusal says what an administrator can do.
	w, s, _ = securedWorld(t, registerARN)
	delete(s.texts, securityAPI+" roleMapping")
	w.answers["source PutRepository"] = []error{fault.Newf(fault.AccessDenied, "register repository", "source", "no permissions for [cluster:admin/repository/put]")}
	r = Register{Journal: w.store, Domain: domain, Clock: w, Caller: callerARN}
	_, err := r.Run(t.Context(), RegisterInput{Migration: "orders", Execution: mine})
	if f, _ := fault.As(err); f == nil || f.Name != fault.AccessDenied || !strings.Contains(f.Advice(), "/_opendistro/_security/api/rolesmapping/manage_snapshots") {
		t.Errorf("%v", err)
	}
	w.wantLog()
}

func TestLettingInThatIsNotAllowed(t *testing.T) {
	refused := fault.Newf(fault.AccessDenied, "read roleMapping", "source", "No permission to access REST API")
	for name, arrange := range map[string]func(w *world, s *secured){
		"no right to the security API": func(w *world, _ *secured) { w.answers["access roleMapping"] = []error{refused} },
		"nobody could take it back":    func(_ *world, s *secured) { delete(s.texts, securityAPI+" roleMapping") },
	} {
		w, s, l := securedWorld(t, registerARN)
		arrange(w, s)
		p := plannedOf(t, w)
		byHand, err := l.letIn(t.Context(), p, p.Spec.Source, "elasticsearch-7.10.2", callerARN)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		w.wantLog()
		lines := strings.Split(byHand, "\n")
		if len(lines) != 3 || lines[2] != `PATCH https://source/_opendistro/_security/api/rolesmapping/manage_snapshots [{"op":"add","path":"/backend_roles/-","value":"`+
			registerARN+`"},{"op":"add","path":"/backend_roles/-","value":"`+callerARN+`"}]` {
			t.Errorf("%s: %s", name, byHand)
		}
		_, body, _ := strings.Cut(lines[0], "domainferry_orders ")
		if !json.Valid([]byte(body)) {
			t.Errorf("%s: %s", name, lines[0])
		}
		got := withMapping(fault.Newf(fault.AccessDenied, "register repository", "source", "no permissions for [cluster:admin/repository/put]"), byHand)
		if f, _ := fault.As(got); !strings.Contains(f.Advice(), lines[1]) || !fault.Is(got, fault.AccessDenied) {
			t.Errorf("%s: %s", name, f.Advice())
		}
		other := unknown("register")
		if withMapping(other, byHand) != other || withMapping(nil, byHand) != nil {
			t.Error("other errors are changed")
		}
	}
	// The change itself is refused: an error, with the requests.
	w, _, l := securedWorld(t, callerARN)
	w.answers["set securityRole"] = []error{refused}
	p := plannedOf(t, w)
	_, err := l.letIn(t.Context(), p, p.Spec.Source, "opensearch-2.19.1", callerARN)
	if f, _ := fault.As(err); f == nil || f.Name != fault.AccessDenied || !strings.Contains(f.Advice(), "PATCH https://source/_plugins/_security/api/rolesmapping/manage_snapshots") {
		t.Errorf("%v", err)
	}
	if list, err := w.journal().UndoLog(t.Context()); err != nil || slices.ContainsFunc(list, func(u journal.Undo) bool { return u.Outstanding() }) {
		t.Errorf("%v, %v", list, err)
	}
}
