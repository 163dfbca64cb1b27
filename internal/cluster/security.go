package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/fault"
)

// Identity is the caller as the security plugin knows it.
type Identity struct {
	Name         string   `json:"user_name"`
	BackendRoles []string `json:"backend_roles"`
	Roles        []string `json:"roles"` // of the plugin
}

// Identity asks who the caller is. known is false where there is no security plugin, or none that this caller is let to; every caller may ask it
// (security.md).
func (c *Client) Identity(ctx context.Context) (i Identity, known bool, err error) {
	path, err := c.securityPath(ctx, "/authinfo")
	if err != nil {
		return i, false, err
	}
	err = c.do(ctx, call{op: "ask who the caller is", method: "GET", path: path, limit: smallAnswer}, &i)
	if status := statusOf(err); status == http.StatusNotFound || status == http.StatusBadRequest || status == http.StatusMethodNotAllowed || status == http.StatusForbidden || status == http.StatusUnauthorized {
		return Identity{}, false, nil
	}
	return i, err == nil && i.Name != "", err
}

// securityPath is below /_plugins/_security or, on Elasticsearch, /_opendistro/_security.
func (c *Client) securityPath(ctx context.Context, rest string) (string, error) {
	v, err := c.Info(ctx)
	if err != nil {
		return "", err
	}
	if v.Distribution == Elasticsearch {
		return "/_opendistro/_security" + rest, nil
	}
	return "/_plugins/_security" + rest, nil
}

// securityObject is the path of a role or a role's mapping.
func (c *Client) securityObject(ctx context.Context, op, name string, kind access.Kind) (string, error) {
	if !plainName(name) {
		return "", fault.Newf(fault.InvalidInput, op, c.endpoint, "%q is not the plain name of a role", excerpt(name, 80))
	}
	folder := map[access.Kind]string{access.SecurityRole: "roles", access.RoleMapping: "rolesmapping"}[kind]
	if folder == "" {
		return "", fault.Newf(fault.InvalidInput, op, c.endpoint, "%s is nothing of a domain", kind)
	}
	return c.securityPath(ctx, "/api/"+folder+"/"+url.PathEscape(name))
}

// Access reads a role or a role's mapping as a request could set it; nil is that there is none. Without the right to the security API it is
// fault.AccessDenied.
func (c *Client) Access(ctx context.Context, name string, kind access.Kind) (*string, error) {
	op := fmt.Sprintf("read %s %s", kind, name)
	path, err := c.securityObject(ctx, op, name, kind)
	if err != nil {
		return nil, err
	}
	var answer map[string]json.RawMessage
	if err := c.do(ctx, call{op: op, method: "GET", path: path, limit: smallAnswer}, &answer); err != nil {
		if statusOf(err) == http.StatusNotFound {
			return nil, nil
		}
		return nil, err
	}
	object, there := answer[name]
	if !there {
		return nil, fault.Newf(fault.Unclassified, op, c.endpoint, "the answer does not speak of it")
	}
	text, err := access.Settable(object)
	if err != nil {
		return nil, fault.New(fault.Unclassified, op, c.endpoint, err)
	}
	return &text, nil
}

// SetAccess replaces a role or a role's mapping; nil deletes it.
func (c *Client) SetAccess(ctx context.Context, name string, kind access.Kind, text *string) error {
	op := fmt.Sprintf("set %s %s", kind, name)
	path, err := c.securityObject(ctx, op, name, kind)
	if err != nil {
		return err
	}
	r := call{op: op, method: "PUT", path: path, mutating: true, limit: smallAnswer}
	if text == nil {
		r.method = "DELETE"
	} else {
		r.body = json.RawMessage(*text)
	}
	var answer struct {
		Status, Message string
	}
	err = c.do(ctx, r, &answer)
	if text == nil && statusOf(err) == http.StatusNotFound {
		return nil
	}
	if err == nil && !slices.Contains([]string{"OK", "CREATED"}, strings.ToUpper(answer.Status)) {
		return fault.Newf(fault.OutcomeUnknown, op, c.endpoint, "the domain answered %q: %s", excerpt(answer.Status, 80), excerpt(answer.Message, 300))
	}
	return err
}

func statusOf(err error) int {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Status
	}
	return 0
}
