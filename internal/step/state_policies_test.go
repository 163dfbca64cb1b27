package step

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
)

type policies struct {
	list []cluster.StatePolicy
	err  error
}

func (p policies) StatePolicies(context.Context) ([]cluster.StatePolicy, bool, error) {
	return p.list, p.err == nil, p.err
}

func TestWarnOfStatePolicies(t *testing.T) {
	plan := func() *migration.Plan {
		return &migration.Plan{
			Spec:    migration.Spec{Destination: migration.Endpoint{Endpoint: "https://destination"}},
			Indices: []migration.PlannedIndex{{Name: "logs-2"}, {Name: "logs-1"}, {Name: "orders"}, {Name: ".ds-audit-1", Stream: "audit"}}, Warnings: []string{"before"},
		}
	}
	for name, c := range map[string]struct {
		policies policies
		says     [][]string // of each warning
	}{
		"none":             {policies{}, nil},
		"of other indices": {policies{list: []cluster.StatePolicy{{ID: "x", Patterns: []string{"metrics-*", "log"}}}}, nil},
		"of some": {policies{list: []cluster.StatePolicy{{ID: "retire", Patterns: []string{"logs-*", "metrics-*"}}, {ID: "all", Patterns: []string{"*"}}}}, [][]string{
			{"policy retire", "takes over logs-1, logs-2 by their names (logs-*, metrics-*)", "https://destination/_cluster/settings"}, {"policy all", ".ds-audit-1, logs-1, logs-2, orders"},
		}},
		"not to be seen": {policies{err: fault.Newf(fault.AccessDenied, "list", "https://destination", "no permissions for [x]")}, [][]string{{"could not be seen (no permissions for [x])"}}},
	} {
		p := plan()
		warnOfStatePolicies(t.Context(), c.policies, p)
		if len(p.Warnings) != 1+len(c.says) || p.Warnings[0] != "before" {
			t.Errorf("%s: %q", name, p.Warnings)
			continue
		}
		for i, says := range c.says {
			if slices.ContainsFunc(says, func(s string) bool { return !strings.Contains(p.Warnings[i+1], s) }) {
				t.Errorf("%s: %q does not say %q", name, p.Warnings[i+1], says)
			}
		}
	}
}
