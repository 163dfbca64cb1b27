package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
)

// StatePolicy is a policy of index state management that attaches itself to new indices.
type StatePolicy struct {
	ID       string
	Patterns []string // names of indices, with * as wildcard
}

// StatePolicies lists the policies that have a template (ism_template), by id; restored indices count as new ones to them. offered is
// false where the domain has no index state management or does not list its policies (Open Distro before 1.13). The list ends after
// 1,000.
func (c *Client) StatePolicies(ctx context.Context) (policies []StatePolicy, offered bool, err error) {
	const op = "list the policies of index state management"
	version, err := c.engine(ctx)
	if err != nil {
		return nil, false, err
	}
	path := "/_plugins/_ism/policies"
	if version.Distribution == Elasticsearch {
		path = "/_opendistro/_ism/policies"
	}
	type template struct {
		Patterns []string `json:"index_patterns"`
	}
	var a struct {
		Policies []struct {
			ID     string `json:"_id"`
			Policy struct {
				// A list, since Open Distro 1.13; before and in some answers of later ones a single one, or null.
				Template json.RawMessage `json:"ism_template"`
			} `json:"policy"`
		} `json:"policies"`
	}
	err = c.do(ctx, call{op: op, method: "GET", path: path, query: values("size", "1000")}, &a)
	switch {
	case endpointRefused(err) || isMissing(err, "index_not_found_exception"):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	}
	for _, p := range a.Policies {
		var several []template
		var one template
		if json.Unmarshal(p.Policy.Template, &several) != nil && json.Unmarshal(p.Policy.Template, &one) == nil {
			several = []template{one}
		}
		s := StatePolicy{ID: p.ID}
		for _, t := range several {
			s.Patterns = append(s.Patterns, t.Patterns...)
		}
		if len(s.Patterns) > 0 {
			policies = append(policies, s)
		}
	}
	slices.SortFunc(policies, func(a, b StatePolicy) int { return cmp.Compare(a.ID, b.ID) })
	return policies, true, nil
}
