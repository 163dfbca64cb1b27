package access

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Role is what the workflow needs of a domain with fine-grained access control beyond manage_snapshots. The list is that of security.md, with
// which the whole loop was run, and what replay and data streams need; it is enough, and not proven to be the least.
type Role struct {
	Cluster []string      `json:"cluster_permissions"`
	Index   []IndexRights `json:"index_permissions"`
}

// IndexRights are the actions that a role may do on indices.
type IndexRights struct {
	Patterns []string `json:"index_patterns"`
	Actions  []string `json:"allowed_actions"`
}

// RoleFor is the role of the workflow, for these index patterns.
func RoleFor(patterns ...string) string {
	if len(patterns) == 0 {
		patterns = []string{"*"}
	}
	return string(encode(Role{
		Cluster: []string{
			"cluster_monitor", "manage_snapshots", "cluster:admin/settings/update", "cluster_manage_index_templates", "cluster_manage_pipelines", "cluster:admin/script/*",
			"indices:data/read/mget*", "indices:data/write/bulk",
		},
		Index: []IndexRights{{patterns, []string{
			"indices_monitor", "indices:admin/create", "indices:admin/delete", "indices:admin/get", "indices:admin/open", "indices:admin/close*",
			"indices:admin/settings/update", "indices:admin/block/add*", "indices:admin/mappings/get", "indices:admin/mapping/put", "indices:admin/aliases",
			"indices:admin/aliases/get", "indices:admin/flush*", "indices:admin/forcemerge*", "indices:admin/refresh*", "indices:admin/data_stream/*",
			"indices:admin/resolve/index", "indices:data/read/*", "indices:data/write/index", "indices:data/write/bulk*", "indices:data/write/delete",
		}}},
	}))
}

// shown are the fields of the security API's answers that it refuses in a request (security.md, export and import).
var shown = []string{"hidden", "reserved", "static"}

// Settable is a role or a mapping as the security API shows it, without the fields that it refuses in a request.
func Settable(object []byte) (string, error) {
	fields, err := members(object)
	if err != nil {
		return "", fmt.Errorf("the security API's answer cannot be read: %w", err)
	}
	out := []byte{'{'}
	for _, f := range fields {
		if slices.Contains(shown, f.name) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, encode(f.name)...), ':'), f.of(object)...)
	}
	return string(append(out, '}')), nil
}

const backendRoles = "backend_roles"

// MergeMapping adds backend roles to a role's mapping (nil: it has none), and reports whether one was missing. Everything else stays as it is:
// a request replaces the whole mapping.
func MergeMapping(mapping *string, roles ...string) (merged string, changed bool, err error) {
	old := `{"backend_roles":[]}`
	if mapping != nil {
		old = *mapping
	}
	there, err := backendRolesOf(old)
	if err != nil {
		return "", false, err
	}
	list := there
	for _, r := range roles {
		if !slices.Contains(list, r) {
			list = append(list, r)
		}
	}
	if len(list) == len(there) {
		return old, false, nil
	}
	merged, err = withBackendRoles(old, list)
	return merged, true, err
}

// withoutAddedRoles is the mapping of now without the backend roles that set has more than before. It is nil when nothing is left of one that
// there was not before.
func withoutAddedRoles(before *string, set, now string) (*string, error) {
	var theirs []string
	var err error
	if before != nil {
		if theirs, err = backendRolesOf(*before); err != nil {
			return nil, err
		}
	}
	added, err := backendRolesOf(set)
	if err != nil {
		return nil, err
	}
	list, err := backendRolesOf(now)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(r string) bool { return slices.Contains(added, r) && !slices.Contains(theirs, r) })
	rest, err := withBackendRoles(now, list)
	if err != nil {
		return nil, err
	}
	if before == nil && nobody(rest) {
		return nil, nil
	}
	return &rest, nil
}

// nobody reports whether a mapping maps no one.
func nobody(mapping string) bool {
	var m struct {
		Users, Hosts []string
		Backend      []string `json:"backend_roles"`
		And          []string `json:"and_backend_roles"`
	}
	return json.Unmarshal([]byte(mapping), &m) == nil && len(m.Users)+len(m.Hosts)+len(m.Backend)+len(m.And) == 0
}

func backendRolesOf(mapping string) ([]string, error) {
	fields, err := members([]byte(mapping))
	if err != nil {
		return nil, fmt.Errorf("the role mapping cannot be read: %w", err)
	}
	for _, f := range fields {
		if f.name != backendRoles {
			continue
		}
		var list []string
		if err := json.Unmarshal(f.of([]byte(mapping)), &list); err != nil {
			return nil, fmt.Errorf("the backend roles of the role mapping cannot be read: %w", err)
		}
		return list, nil
	}
	return nil, nil
}

// withBackendRoles replaces the list where it stands, or adds it.
func withBackendRoles(mapping string, roles []string) (string, error) {
	fields, err := members([]byte(mapping))
	if err != nil {
		return "", fmt.Errorf("the role mapping cannot be read: %w", err)
	}
	if roles == nil {
		roles = []string{}
	}
	list := string(encode(roles))
	for _, f := range fields {
		if f.name == backendRoles {
			return mapping[:f.start] + list + mapping[f.end:], nil
		}
	}
	list = `"backend_roles":` + list
	if len(fields) == 0 {
		return "{" + list + "}", nil
	}
	end := fields[len(fields)-1].end
	return mapping[:end] + "," + list + mapping[end:], nil
}
