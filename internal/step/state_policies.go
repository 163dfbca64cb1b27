package step

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
)

// StatePolicyLister tells which policies of index state management attach themselves to new indices.
type StatePolicyLister interface {
	StatePolicies(context.Context) (policies []cluster.StatePolicy, offered bool, err error)
}

// warnOfStatePolicies warns of policies at the destination that would take over what is moved: they find restored indices by their names
// and go by their age, so that one may roll over, close or delete a copy minutes after it came (snapshots.md 6; index-management#808
// and #1118). Policies of the source come along with no index. What cannot be seen is no reason to stop.
func warnOfStatePolicies(ctx context.Context, destination StatePolicyLister, p *migration.Plan) {
	policies, _, err := destination.StatePolicies(ctx)
	if err != nil {
		if f, ok := fault.As(err); ok {
			err = f.Err // without the domain, which is named already
		}
		p.Warnings = append(p.Warnings, fmt.Sprintf("the destination's policies of index state management could not be seen (%s); make sure that none takes over what is moved", shorten(fmt.Sprint(err), 300)))
		return
	}
	for _, policy := range policies {
		takes := migration.Selection{Include: policy.Patterns}
		var taken []string
		for _, name := range p.Names() {
			if len(takes.Unmatched([]string{name})) < len(policy.Patterns) {
				taken = append(taken, name)
			}
		}
		if len(taken) == 0 {
			continue
		}
		slices.Sort(taken)
		p.Warnings = append(p.Warnings, fmt.Sprintf("policy %s of index state management at the destination takes over %s by their names (%s), and may roll over, close or delete copies by their age: "+
			`take the patterns out of its ism_template, or PUT %s/_cluster/settings {"persistent":{"plugins.index_state_management.enabled":false}} until you have looked`,
			policy.ID, strings.Join(bounded(taken), ", "), strings.Join(bounded(policy.Patterns), ", "), p.Spec.Destination.Endpoint))
	}
}
