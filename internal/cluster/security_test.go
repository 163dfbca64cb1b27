package cluster

import (
	"slices"
	"testing"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/fault"
)

// The answers are those of OpenSearch 2.19.1 with the security plugin (security.md).
const noRestAccess = `403 {"status":"FORBIDDEN","message":"No permission to access REST API: User arn:aws:iam::123456789012:role/migrator with Security roles [] does not have any role privileged for admin access. No ssl info found in request."}`

func TestIdentity(t *testing.T) {
	const info = `{"user":"User [name=arn:x]","user_name":"arn:x","user_requested_tenant":null,"remote_address":"10.0.0.7:1","backend_roles":["arn:x"],"custom_attribute_names":[],"roles":["all_access","own_index"],"tenants":{"arn:x":true}}`
	for name, c := range map[string]struct {
		root, path, answer string
		known              bool
	}{
		"OpenSearch":    {rootOS219, "/_plugins/_security/authinfo", info, true},
		"Elasticsearch": {rootES710, "/_opendistro/_security/authinfo", info, true},
		"no plugin":     {rootOS219, "/_plugins/_security/authinfo", `400 {"error":"no handler found for uri [/_plugins/_security/authinfo] and method [GET]"}`, false},
		"no fine-grained access control": {rootES710, "/_opendistro/_security/authinfo",
			`401 {"Message":"Your request: '/_opendistro/_security/authinfo' is not allowed."}`, false},
	} {
		c2 := serve(t, &script{answers: map[string]string{"GET /": c.root, "GET " + c.path: c.answer}})
		i, known, err := c2.Identity(t.Context())
		if err != nil || known != c.known || known && (i.Name != "arn:x" || !slices.Equal(i.BackendRoles, []string{"arn:x"}) || !slices.Contains(i.Roles, "all_access")) {
			t.Errorf("%s: %+v, %t, %v", name, i, known, err)
		}
	}
	c := serve(t, &script{answers: map[string]string{"GET /": rootOS219, "GET /_plugins/_security/authinfo": "503 OpenSearch Security not initialized."}})
	if _, _, err := c.Identity(t.Context()); !fault.Retryable(err) {
		t.Errorf("not initialized: %v", err)
	}
}

func TestAccess(t *testing.T) {
	const path = "/_plugins/_security/api/rolesmapping/manage_snapshots"
	s := &script{answers: map[string]string{"GET /": rootOS219,
		"GET " + path: `{"manage_snapshots":{"hosts":[],"users":[],"reserved":false,"hidden":false,"backend_roles":["snapshotrestore"],"and_backend_roles":[]}}`,
		"GET /_plugins/_security/api/roles/nosuch":             `404 {"status":"NOT_FOUND","message":"role 'nosuch' not found."}`,
		"GET /_plugins/_security/api/roles/x":                  noRestAccess,
		"PUT " + path:                                          `{"status":"OK","message":"'manage_snapshots' updated."}`,
		"PUT /_plugins/_security/api/roles/new":                `201 {"status":"CREATED","message":"'new' created."}`,
		"DELETE /_plugins/_security/api/roles/new":             `{"status":"OK","message":"'new' deleted."}`,
		"DELETE /_plugins/_security/api/roles/nosuch":          `404 {"status":"NOT_FOUND","message":"role 'nosuch' not found."}`,
		"PUT /_plugins/_security/api/roles/x":                  noRestAccess,
		"PUT /_plugins/_security/api/rolesmapping/odd":         `{"status":"error","reason":"Invalid configuration"}`,
		"PUT /_plugins/_security/api/rolesmapping/kibana_user": `504 `,
	}}
	c := serve(t, s)
	text, err := c.Access(t.Context(), "manage_snapshots", access.RoleMapping)
	if err != nil || text == nil || *text != `{"hosts":[],"users":[],"backend_roles":["snapshotrestore"],"and_backend_roles":[]}` {
		t.Fatalf("%v, %v", text, err)
	}
	if text, err := c.Access(t.Context(), "nosuch", access.SecurityRole); text != nil || err != nil {
		t.Errorf("%v, %v", text, err)
	}
	if _, err := c.Access(t.Context(), "x", access.SecurityRole); !fault.Is(err, fault.AccessDenied) {
		t.Errorf("%v", err)
	}
	s.requests = nil
	if err := c.SetAccess(t.Context(), "manage_snapshots", access.RoleMapping, text); err != nil {
		t.Fatal(err)
	}
	if want := `PUT ` + path + ` {"hosts":[],"users":[],"backend_roles":["snapshotrestore"],"and_backend_roles":[]}`; s.requests[len(s.requests)-1] != want {
		t.Errorf("%q, want %q", s.requests, want)
	}
	role := access.RoleFor()
	for what, err := range map[string]error{
		"create": c.SetAccess(t.Context(), "new", access.SecurityRole, &role), "delete": c.SetAccess(t.Context(), "new", access.SecurityRole, nil),
		"delete what is gone": c.SetAccess(t.Context(), "nosuch", access.SecurityRole, nil),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for want, err := range map[fault.Name]error{
		fault.AccessDenied:   c.SetAccess(t.Context(), "x", access.SecurityRole, &role),
		fault.OutcomeUnknown: c.SetAccess(t.Context(), "odd", access.RoleMapping, &role),
		fault.InvalidInput:   c.SetAccess(t.Context(), "a/b", access.RoleMapping, &role),
	} {
		if !fault.Is(err, want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := c.SetAccess(t.Context(), "kibana_user", access.RoleMapping, &role); !fault.Is(err, fault.OutcomeUnknown) {
		t.Errorf("%v", err)
	}
	if _, err := c.Access(t.Context(), "x", access.BucketPolicy); !fault.Is(err, fault.InvalidInput) {
		t.Errorf("%v", err)
	}
}
