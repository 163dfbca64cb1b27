package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
)

// running are the executions that run.
type running map[string]bool

func (r running) Running(_ context.Context, execution string) (bool, error) {
	if execution == "arn:unknown" {
		return false, fault.New(fault.Unavailable, "describe execution", execution, errors.New("no answer"))
	}
	return r[execution], nil
}

// nothing was left behind.
func nothing(context.Context, string) error { return nil }

const domain = "https://vpc-orders.example"

func TestLease(t *testing.T) {
	for _, c := range []struct {
		name    string
		before  []string // executions that took the lease one after the other; "-" gives it back
		running running
		want    fault.Name
		epoch   int64
		undone  string
	}{
		{"nobody has it", nil, nil, "", 1, ""},
		{"it has it already", []string{"arn:2"}, running{"arn:2": true}, "", 1, ""},
		{"its own, after it was given back", []string{"arn:2", "-"}, running{"arn:2": true}, "", 2, ""},
		{"another one runs", []string{"arn:1"}, running{"arn:1": true}, fault.DomainTaken, 0, ""},
		{"another one has ended without giving it back", []string{"arn:1"}, running{}, "", 2, "arn:1"},
		{"another one has given it back", []string{"arn:1", "-"}, running{"arn:1": true}, "", 2, ""},
		{"nobody knows whether the other one runs", []string{"arn:unknown"}, running{}, fault.Unavailable, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, store := newMemory()
			last := ""
			for _, x := range c.before {
				if x == "-" {
					if err := store.ReleaseLease(t.Context(), domain, last, at); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if _, err := store.TakeLease(t.Context(), domain, Owner{"orders", x}, at, nothing); err != nil {
					t.Fatal(err)
				}
				last = x
			}
			var undone []string
			end := func(_ context.Context, execution string) error { undone = append(undone, execution); return nil }
			l, err := store.Asking(c.running).TakeLease(t.Context(), domain, Owner{"books", "arn:2"}, at.Add(time.Hour), end)
			if c.want != "" {
				wantFault(t, err, c.want)
				if c.want == fault.DomainTaken {
					wantFault(t, err, c.want, domain, `"orders"`, "arn:1", "2026-11-22T10:00:00Z")
				}
				if now, _ := store.Lease(t.Context(), domain); now.Execution != last || now.Epoch != 1 {
					t.Errorf("a refused taking has changed the lease to %+v", now)
				}
				return
			}
			if err != nil || l.Execution != "arn:2" || l.Epoch != c.epoch || !l.EndedAt.IsZero() {
				t.Errorf("%+v, %v", l, err)
			}
			if got := strings.Join(undone, ","); got != c.undone {
				t.Errorf("what %q left behind was undone, want %q", got, c.undone)
			}
		})
	}
}

// Two look at a free lease at the same time: the one who writes second sees who was first.
func TestLeaseIsTakenByOne(t *testing.T) {
	m, store := newMemory()
	store = store.Asking(running{"arn:1": true, "arn:2": true})
	m.beforePut = func(string) {
		m.beforePut = nil
		if _, err := store.TakeLease(t.Context(), domain, Owner{"orders", "arn:1"}, at, nothing); err != nil {
			t.Error(err)
		}
	}
	_, err := store.TakeLease(t.Context(), domain, Owner{"books", "arn:2"}, at, nothing)
	wantFault(t, err, fault.DomainTaken, "arn:1")
}

// A lease that has been taken over meanwhile is not given back by the execution that had it.
func TestReleaseLeavesAnothersLease(t *testing.T) {
	m, store := newMemory()
	store = store.Asking(running{})
	if _, err := store.TakeLease(t.Context(), domain, Owner{"orders", "arn:1"}, at, nothing); err != nil {
		t.Fatal(err)
	}
	m.beforePut = func(string) {
		m.beforePut = nil
		if _, err := store.TakeLease(t.Context(), domain, Owner{"books", "arn:2"}, at, nothing); err != nil {
			t.Error(err)
		}
	}
	if err := store.ReleaseLease(t.Context(), domain, "arn:1", at); err != nil {
		t.Fatal(err)
	}
	if l, err := store.Lease(t.Context(), domain); err != nil || l.Execution != "arn:2" || !l.EndedAt.IsZero() {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestFence(t *testing.T) {
	_, store := newMemory()
	alive := running{"arn:1": true, "arn:2": true}
	store = store.Asking(alive)
	orders, books := store.Migration("orders"), store.Migration("books")
	const other = "https://vpc-archive.example"
	begin := func(j *Journal, execution string, endpoints ...string) error {
		t.Helper()
		if err := j.Begin(t.Context(), execution, at, nothing, endpoints...); err != nil {
			return err
		}
		return j.SavePlan(t.Context(), migration.Plan{Execution: execution})
	}
	acts := func(j *Journal, execution string) error { _, err := j.Plan(t.Context(), execution); return err }
	held := func(endpoint string) string {
		t.Helper()
		l, err := store.Lease(t.Context(), endpoint)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(l.Execution, " ", l.EndedAt.IsZero())
	}
	if err := begin(orders, "arn:1", domain, other); err != nil {
		t.Fatal(err)
	}
	// The second one gets neither domain, also not the one that comes first.
	wantFault(t, begin(books, "arn:2", "https://a.example", domain), fault.DomainTaken, "arn:1")
	if l, err := store.Lease(t.Context(), "https://a.example"); err != nil || l.Epoch != 0 {
		t.Errorf("taken in vain: %+v, %v", l, err)
	}
	if f, err := books.Fence(t.Context()); err != nil || f.Execution != "" {
		t.Errorf("%+v, %v", f, err)
	}
	// Nor does another execution of the same migration, whatever its domains.
	wantFault(t, begin(orders, "arn:2", "https://b.example"), fault.DomainTaken, "orders", "arn:1")
	if err := acts(orders, "arn:1"); err != nil {
		t.Error(err)
	}
	// Its end: no step acts, and the domains are given back only once everything is undone.
	alive["arn:1"] = false
	for range 2 {
		if ours, err := orders.Close(t.Context(), "arn:1", at.Add(time.Minute)); !ours || err != nil {
			t.Fatal(ours, err)
		}
	}
	wantFault(t, acts(orders, "arn:1"), fault.Superseded, "2026-11-22T10:01:00Z")
	if got := held(domain); got != "arn:1 true" {
		t.Errorf("held by %s before the end", got)
	}
	for range 2 {
		if err := orders.End(t.Context(), "arn:1", at.Add(2*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := held(domain), held(other); a != "arn:1 false" || b != "arn:1 false" {
		t.Errorf("held by %s, %s after the end", a, b)
	}
	// Redriven, it takes them again.
	alive["arn:1"] = true
	if err := acts(orders, "arn:1"); err != nil {
		t.Error(err)
	}
	if a, b := held(domain), held(other); a != "arn:1 true" || b != "arn:1 true" {
		t.Errorf("held by %s, %s after the redrive", a, b)
	}
	// Redriven after another one has begun, it is refused with that one's name.
	alive["arn:1"] = false
	end := func(j *Journal) (bool, error) {
		ours, err := j.Close(t.Context(), "arn:1", at)
		return ours, errors.Join(err, j.End(t.Context(), "arn:1", at))
	}
	if ours, err := end(orders); !ours || err != nil {
		t.Fatal(ours, err)
	}
	if err := begin(books, "arn:2", domain); err != nil {
		t.Fatal(err)
	}
	alive["arn:1"] = true
	wantFault(t, acts(orders, "arn:1"), fault.DomainTaken, "arn:2", `"books"`)
	// What belongs to another execution is left alone.
	if ours, err := end(books); ours || err != nil || acts(books, "arn:2") != nil {
		t.Error(ours, err, acts(books, "arn:2"))
	}
}

// A journal without anybody to ask never takes an owner for dead, and never lets an ended execution act.
func TestFenceWithoutService(t *testing.T) {
	_, store := newMemory()
	j := store.Migration("orders")
	if err := errors.Join(j.Begin(t.Context(), "arn:1", at, nothing, domain), j.SavePlan(t.Context(), migration.Plan{Execution: "arn:1"})); err != nil {
		t.Fatal(err)
	}
	_, err := store.TakeLease(t.Context(), domain, Owner{"books", "arn:2"}, at, nothing)
	wantFault(t, err, fault.DomainTaken)
	if _, err := j.Close(t.Context(), "arn:1", at); err != nil {
		t.Fatal(err)
	}
	_, err = j.Plan(t.Context(), "arn:1")
	wantFault(t, err, fault.Superseded)
}

// What a dead owner has left behind must be undone before anybody else acts on the domain.
func TestLeaseOfADeadOwnerWaitsForItsUndoing(t *testing.T) {
	_, store := newMemory()
	store = store.Asking(running{})
	if _, err := store.TakeLease(t.Context(), domain, Owner{"orders", "arn:1"}, at, nothing); err != nil {
		t.Fatal(err)
	}
	_, err := store.TakeLease(t.Context(), domain, Owner{"books", "arn:2"}, at, func(context.Context, string) error {
		return fault.New(fault.Unavailable, "open", domain, errors.New("no answer"))
	})
	wantFault(t, err, fault.Unavailable, "arn:1 has left behind")
	if l, err := store.Lease(t.Context(), domain); err != nil || l.Execution != "arn:1" {
		t.Errorf("%+v, %v", l, err)
	}
}

// Two begin at the same time: the one who comes second to a domain gives back what it has.
func TestBeginTakesAllOrNothing(t *testing.T) {
	m, store := newMemory()
	store = store.Asking(running{"arn:1": true, "arn:2": true})
	m.beforePut = func(key string) {
		if strings.HasSuffix(key, "books/fence.json") {
			m.beforePut = nil
			if err := store.Migration("orders").Begin(t.Context(), "arn:1", at, nothing, domain); err != nil {
				t.Error(err)
			}
		}
	}
	books := store.Migration("books")
	wantFault(t, books.Begin(t.Context(), "arn:2", at, nothing, domain, "https://a.example"), fault.DomainTaken, "arn:1")
	if l, err := store.Lease(t.Context(), "https://a.example"); err != nil || l.EndedAt.IsZero() {
		t.Errorf("kept: %+v, %v", l, err)
	}
	if f, err := books.Fence(t.Context()); err != nil || f.EndedAt.IsZero() {
		t.Errorf("open: %+v, %v", f, err)
	}
}

// Two executions of one migration begin at the same time: the fence stays that of the one who was first, or its end would find it to be
// another's and leave everything as it is.
func TestFenceIsTakenByOne(t *testing.T) {
	m, store := newMemory()
	j := store.Asking(running{"arn:1": true, "arn:2": true}).Migration("orders")
	m.beforePut = func(string) {
		m.beforePut = nil
		if err := j.Begin(t.Context(), "arn:1", at, nothing, domain); err != nil {
			t.Fatal(err)
		}
	}
	wantFault(t, j.Begin(t.Context(), "arn:2", at, nothing, domain), fault.DomainTaken, "arn:1")
	f, err := j.Fence(t.Context())
	if err != nil || f.Execution != "arn:1" || !f.EndedAt.IsZero() {
		t.Errorf("the fence is %+v, %v", f, err)
	}
	if ours, err := j.Close(t.Context(), "arn:1", at); err != nil || !ours {
		t.Errorf("the first one's end finds the fence to be another's: %v, %v", ours, err)
	}
}

// A late end must not close the fence of the execution that has begun in the meantime.
func TestFenceIsClosedByItsOwner(t *testing.T) {
	m, store := newMemory()
	first := store.Asking(running{"arn:1": true}).Migration("orders")
	if err := first.Begin(t.Context(), "arn:1", at, nothing, domain); err != nil {
		t.Fatal(err)
	}
	j := store.Asking(running{"arn:2": true}).Migration("orders")
	m.beforePut = func(string) {
		m.beforePut = nil
		if err := j.Begin(t.Context(), "arn:2", at, nothing, domain); err != nil {
			t.Fatal(err)
		}
	}
	if ours, err := j.Close(t.Context(), "arn:1", at); err != nil || ours {
		t.Errorf("%v, %v", ours, err)
	}
	if f, err := j.Fence(t.Context()); err != nil || f.Execution != "arn:2" || !f.EndedAt.IsZero() {
		t.Errorf("the fence is %+v, %v", f, err)
	}
}

// A function goes on after its execution was stopped: whoever undoes that one may have looked before the lease was taken.
func TestBeginAfterTheEndGivesBack(t *testing.T) {
	_, store := newMemory()
	j := store.Asking(running{}).Migration("orders")
	if err := j.Begin(t.Context(), "arn:1", at, nothing, domain); !fault.Is(err, fault.Superseded) {
		t.Errorf("%v", err)
	}
	l, err := store.Lease(t.Context(), domain)
	if err != nil || l.Execution != "arn:1" || l.EndedAt.IsZero() {
		t.Errorf("%+v, %v", l, err)
	}
	if f, err := j.Fence(t.Context()); err != nil || f.EndedAt.IsZero() {
		t.Errorf("%+v, %v", f, err)
	}
}
