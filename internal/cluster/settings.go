package cluster

import "context"

// ClusterSettings are the dynamic settings of a cluster, flat, all values as text. Of one setting the transient value counts, else
// the persistent one, else the default (which includes the nodes' configuration files).
type ClusterSettings struct {
	Persistent, Transient, Defaults map[string]string
}

// Effective is the value that counts; "" when the cluster does not tell its default.
func (s ClusterSettings) Effective(setting string) string {
	for _, kind := range []map[string]string{s.Transient, s.Persistent} {
		if v, ok := kind[setting]; ok {
			return v
		}
	}
	return s.Defaults[setting]
}

// ClusterSettings reads the settings. Amazon shows them nested, whatever is asked for, and not before Elasticsearch 5.3
// (amazon-operations.md 4).
func (c *Client) ClusterSettings(ctx context.Context) (ClusterSettings, error) {
	var a struct{ Persistent, Transient, Defaults map[string]any }
	query := values("flat_settings", "true", "include_defaults", "true")
	if err := c.do(ctx, call{op: "read cluster settings", method: "GET", path: "/_cluster/settings", query: query}, &a); err != nil {
		return ClusterSettings{}, err
	}
	s := ClusterSettings{map[string]string{}, map[string]string{}, map[string]string{}}
	flatten("", a.Persistent, s.Persistent, 0)
	flatten("", a.Transient, s.Transient, 0)
	flatten("", a.Defaults, s.Defaults, 0)
	return s, nil
}

// PutClusterSetting sets one persistent cluster setting; nil removes it. Amazon takes the flat form only and refuses all but a few
// settings, whole bodies at a time (amazon-operations.md 2), which comes as fault.RequestRefused; without the permission
// cluster:admin/settings/update it is fault.AccessDenied.
func (c *Client) PutClusterSetting(ctx context.Context, setting string, value any) error {
	body := map[string]any{"persistent": map[string]any{setting: value}}
	return c.change(ctx, call{op: "set cluster setting " + setting, method: "PUT", path: "/_cluster/settings", body: body})
}
