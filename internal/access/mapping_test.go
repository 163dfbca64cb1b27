package access

import (
	"encoding/json"
	"strings"
	"testing"
)

const caller = "arn:aws:iam::111122223333:role/caller"

// asShown is the mapping of manage_snapshots as a real node showed it (security.md).
const asShown = `{"hosts":[],"users":[],"reserved":false,"hidden":false,"backend_roles":["snapshotrestore"],"and_backend_roles":[]}`

func TestMergeMapping(t *testing.T) {
	before, err := Settable([]byte(asShown))
	if err != nil || before != `{"hosts":[],"users":[],"backend_roles":["snapshotrestore"],"and_backend_roles":[]}` {
		t.Fatalf("%s, %v", before, err)
	}
	set, changed, err := MergeMapping(&before, caller, "snapshotrestore")
	if err != nil || !changed || set != `{"hosts":[],"users":[],"backend_roles":["snapshotrestore","`+caller+`"],"and_backend_roles":[]}` {
		t.Fatalf("%s, %t, %v", set, changed, err)
	}
	if again, changed, err := MergeMapping(&set, caller); err != nil || changed || again != set {
		t.Errorf("again: %s, %t, %v", again, changed, err)
	}
	for name, c := range map[string]struct{ before, want string }{
		"none":             {"", `{"backend_roles":["` + caller + `"]}`},
		"an empty one":     {"{}", `{"backend_roles":["` + caller + `"]}`},
		"without the list": {`{"users":["a"],"description":"x"}`, `{"users":["a"],"description":"x","backend_roles":["` + caller + `"]}`},
	} {
		mapping := &c.before
		if c.before == "" {
			mapping = nil
		}
		if got, changed, err := MergeMapping(mapping, caller); err != nil || !changed || got != c.want {
			t.Errorf("%s: %s, %t, %v", name, got, changed, err)
		}
	}
	for _, bad := range []string{"", "[]", `{"backend_roles":"x"}`, `{"backend_roles":[1]}`, `{"backend_roles":[],"backend_roles":[]}`} {
		if got, _, err := MergeMapping(&bad, caller); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

func TestTakeBackMapping(t *testing.T) {
	before := `{"users":[],"backend_roles":["a"]}`
	set, _, err := MergeMapping(&before, caller)
	if err != nil {
		t.Fatal(err)
	}
	own := `{"backend_roles":["` + caller + `"]}`
	for name, c := range map[string]struct {
		before    *string
		set       string
		now, want *string
		needed    bool
	}{
		"nobody else":                    {&before, set, &set, &before, true},
		"reordered by the engine":        {&before, set, ptr(`{"backend_roles":["` + caller + `","a"],"users":[]}`), &before, true},
		"taken back already":             {&before, set, &before, nil, false},
		"somebody was added":             {&before, set, ptr(`{"users":["u"],"backend_roles":["a","` + caller + `","b"]}`), ptr(`{"users":["u"],"backend_roles":["a","b"]}`), true},
		"somebody took ours out":         {&before, set, ptr(`{"users":["u"],"backend_roles":["a"]}`), nil, false},
		"there was none":                 {nil, own, &own, nil, true},
		"there was none, and now others": {nil, own, ptr(`{"backend_roles":["` + caller + `","b"]}`), ptr(`{"backend_roles":["b"]}`), true},
		"nobody is left":                 {nil, own, ptr(`{"backend_roles":["` + caller + `"],"users":[]}`), nil, true},
		"we were there before":           {ptr(own), `{"backend_roles":["` + caller + `","x"]}`, ptr(`{"backend_roles":["` + caller + `","x","b"]}`), ptr(`{"backend_roles":["` + caller + `","b"]}`), true},
	} {
		got, err := TakeBack(RoleMapping, c.before, c.set, c.now)
		if err != nil || got.Needed != c.needed || got.LeftAlone != "" || (got.Text == nil) != (c.want == nil) || got.Text != nil && *got.Text != *c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestTakeBackRole(t *testing.T) {
	role := RoleFor("logs-*")
	if !json.Valid([]byte(role)) || !strings.Contains(role, `"index_patterns":["logs-*"]`) {
		t.Fatal(role)
	}
	if got, err := TakeBack(SecurityRole, nil, role, &role); err != nil || !got.Needed || got.Text != nil {
		t.Errorf("%+v, %v", got, err)
	}
	// As a node shows it after it was set (security.md's records): with what was not set.
	shown := strings.NewReplacer(`{"cluster_permissions"`, `{"tenant_permissions":[],"cluster_permissions"`, `"allowed_actions"`, `"dls":null,"fls":[],"masked_fields":[],"allowed_actions"`).Replace(role)
	if got, err := TakeBack(SecurityRole, nil, role, &shown); err != nil || !got.Needed || got.Text != nil {
		t.Errorf("as shown: %+v, %v", got, err)
	}
	if got, err := TakeBack(SecurityRole, nil, role, ptr(`{"cluster_permissions":["*"]}`)); err != nil || got.Needed || got.LeftAlone == "" {
		t.Errorf("somebody else's: %+v, %v", got, err)
	}
}

func TestOwnershipAndACL(t *testing.T) {
	for _, c := range []struct {
		now          *string
		set          string
		changed, acl bool
	}{
		{nil, OwnerPreferred, true, true}, {ptr(ObjectWriter), OwnerPreferred, true, true},
		{ptr(OwnerPreferred), OwnerPreferred, false, true}, {ptr(OwnerEnforced), OwnerEnforced, false, false},
	} {
		if set, changed, acl := Owning(c.now); set != c.set || changed != c.changed || acl != c.acl {
			t.Errorf("%v: %s, %t, %t", c.now, set, changed, acl)
		}
	}
	if got, err := TakeBack(ObjectOwnership, ptr(ObjectWriter), OwnerPreferred, ptr(OwnerPreferred)); err != nil || !got.Needed || *got.Text != ObjectWriter {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := TakeBack(ObjectOwnership, ptr(ObjectWriter), OwnerPreferred, ptr(OwnerEnforced)); err != nil || got.Needed || got.LeftAlone == "" {
		t.Errorf("%+v, %v", got, err)
	}
	before := ACL{Owner: "o", Grants: []Grant{{ID: "o", Type: "CanonicalUser", Permission: "FULL_CONTROL"}}}.Text()
	set, changed, err := MergeGrants(before, "w")
	if err != nil || !changed {
		t.Fatal(changed, err)
	}
	if _, changed, err := MergeGrants(set, "w"); err != nil || changed {
		t.Error(changed, err)
	}
	if _, changed, err := MergeGrants(before, "o"); err != nil || changed {
		t.Error("an account with full control needs nothing:", changed, err)
	}
	if got, err := TakeBack(BucketACL, &before, set, &set); err != nil || !got.Needed || *got.Text != before {
		t.Errorf("%+v, %v", got, err)
	}
	a, _ := ParseACL(set)
	a.Grants = append(a.Grants, Grant{URI: "http://acs.amazonaws.com/groups/s3/LogDelivery", Type: "Group", Permission: "WRITE"})
	got, err := TakeBack(BucketACL, &before, set, ptr(a.Text()))
	if err != nil || !got.Needed || strings.Contains(*got.Text, `"w"`) || !strings.Contains(*got.Text, "LogDelivery") {
		t.Errorf("%+v, %v", got, err)
	}
}

// FuzzMapping maps a caller in any mapping and takes it out again.
func FuzzMapping(f *testing.F) {
	f.Add(asShown, "b")
	f.Add(`{"users":["\u0061"],"backend_roles":[ ]}`, "")
	f.Add(`{}`, caller)
	f.Fuzz(func(t *testing.T, before, other string) {
		set, changed, err := MergeMapping(&before, caller)
		if err != nil || !changed {
			return
		}
		back, err := TakeBack(RoleMapping, &before, set, &set)
		if err != nil || !back.Needed || *back.Text != before {
			t.Fatalf("taken back from %q: %+v, %v", set, back, err)
		}
		now, changed, err := MergeMapping(&set, other)
		if err != nil {
			t.Fatal(err)
		}
		if !changed {
			return
		}
		want, _, err := MergeMapping(&before, other)
		if err != nil {
			t.Fatal(err)
		}
		if back, err = TakeBack(RoleMapping, &before, set, &now); err != nil || !back.Needed || !Same(RoleMapping, *back.Text, want) {
			t.Fatalf("with somebody else: %+v, %v; want %q", back, err, want)
		}
	})
}
