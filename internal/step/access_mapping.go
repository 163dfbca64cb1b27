package step

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
)

// securedDomain is a domain with fine-grained access control.
type securedDomain interface {
	Identity(ctx context.Context) (i cluster.Identity, known bool, err error)
	Accessible
}

// The roles of the security plugin that this knows by name.
const (
	snapshotRole = "manage_snapshots"
	// Who is in one of these may use the security API (security.md).
	allAccess, securityAPI = "all_access", "security_rest_api_access"
)

// ownRole is the role that a migration makes for itself where it needs more than manage_snapshots.
func ownRole(name string) string { return "domainferry_" + name }

// letIn maps the workflow's roles in a domain with fine-grained access control: to manage_snapshots, and to a role of the migration's own with
// what it needs beyond. Where they are in all_access, or mapped so already, nothing is changed. caller is the role that calls the domains and
// takes the mapping back at the execution's end; empty is the one that maps.
//
// It returns the requests for an administrator where it may not, or could not be taken back: no fault, because a domain may let the
// workflow in by roles that are not known here.
func (l undoLog) letIn(ctx context.Context, p migration.Plan, e migration.Endpoint, engine, caller string) (byHand string, err error) {
	domain, ok := l.domain(e).(securedDomain)
	if !ok {
		return "", nil
	}
	self, known, err := domain.Identity(ctx)
	if err != nil || !known {
		return "", err
	}
	if e.Access.RoleARN != "" || caller == "" {
		caller = self.Name // every function calls this domain as this one
	}
	var who []string
	if slices.Contains(self.BackendRoles, self.Name) && !slices.Contains(self.Roles, allAccess) {
		who = append(who, self.Name)
	}
	if caller != self.Name {
		who = append(who, caller)
	}
	if len(who) == 0 {
		return "", nil
	}
	byHand = mappingByHand(e, engine, p.Spec.Migration, who)
	admins, err := administrators(ctx, domain)
	if fault.Is(err, fault.AccessDenied) {
		return byHand, nil
	}
	if err != nil {
		return "", err
	}
	who = slices.DeleteFunc(who, func(arn string) bool { return slices.Contains(admins[allAccess], arn) })
	if len(who) == 0 {
		return "", nil
	}
	if caller != self.Name && !slices.Contains(admins[allAccess], caller) && !slices.Contains(admins[securityAPI], caller) {
		return byHand, nil // nobody could take it back
	}
	role := access.RoleFor()
	for _, q := range []permission{
		{kind: access.SecurityRole, name: ownRole(p.Spec.Migration), byHand: byHand, merge: func(now *string) (string, bool, error) {
			return role, now == nil || !access.Same(access.SecurityRole, *now, role), nil
		}},
		{kind: access.RoleMapping, name: ownRole(p.Spec.Migration), byHand: byHand, merge: func(now *string) (string, bool, error) { return access.MergeMapping(now, who...) }},
		{kind: access.RoleMapping, name: snapshotRole, byHand: byHand, merge: func(now *string) (string, bool, error) { return access.MergeMapping(now, who...) }},
	} {
		if _, err := l.allow(ctx, p, e, q); err != nil {
			return "", err
		}
	}
	return "", nil
}

// administrators are the backend roles in the roles that may use the security API.
func administrators(ctx context.Context, domain Accessible) (map[string][]string, error) {
	list := map[string][]string{}
	for _, role := range []string{allAccess, securityAPI} {
		text, err := domain.Access(ctx, role, access.RoleMapping)
		if err != nil {
			return nil, err
		}
		if text == nil {
			continue
		}
		var m struct {
			Backend []string `json:"backend_roles"`
			Users   []string `json:"users"`
		}
		if err := json.Unmarshal([]byte(*text), &m); err != nil {
			return nil, fault.New(fault.Unclassified, "read who is in "+role, "the domain's security API", err)
		}
		list[role] = append(m.Backend, m.Users...)
	}
	return list, nil
}

// mappingByHand are the requests that let the workflow in, a line each.
func mappingByHand(e migration.Endpoint, engine, name string, who []string) string {
	api := e.Endpoint + "/_plugins/_security/api/"
	if strings.HasPrefix(engine, cluster.Elasticsearch) {
		api = e.Endpoint + "/_opendistro/_security/api/"
	}
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value string `json:"value"`
	}
	var add []operation
	for _, arn := range who {
		add = append(add, operation{"add", "/backend_roles/-", arn})
	}
	mapping, _, err := access.MergeMapping(nil, who...)
	if err != nil {
		return ""
	}
	patch, err := json.Marshal(add)
	if err != nil {
		return ""
	}
	return strings.Join([]string{
		fmt.Sprintf("PUT %sroles/%s %s", api, ownRole(name), access.RoleFor()),
		fmt.Sprintf("PUT %srolesmapping/%s %s", api, ownRole(name), mapping),
		fmt.Sprintf("PATCH %srolesmapping/%s %s", api, snapshotRole, patch),
	}, "\n")
}

// withMapping adds to a refusal the requests that would let the workflow in.
func withMapping(err error, byHand string) error {
	f, ok := fault.As(err)
	if byHand == "" || !ok || f.Name != fault.AccessDenied {
		return err
	}
	more := fault.New(f.Name, f.Op, f.Target, f.Err)
	more.Status = f.Status
	return more.WithHint("%s The workflow may not map its roles itself (or could not take that back at the end). An administrator of the domain can:\n%s\nThen redrive.", f.Advice(), byHand)
}
