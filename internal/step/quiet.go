package step

import (
	"context"
	"strings"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/migration"
)

// What a write block does not stop at the source: clients that write to an index which is not there yet create it, and index state
// management rolls over, deletes and opens indices by itself. Both are switched off before the blocks are set, where the domain lets
// them be, and both are caught by the freeze's proof where it does not. Amazon documents the first for every version
// (amazon-operations.md 4).
func quiet(p migration.Plan) []wanted {
	list := []wanted{{"action.auto_create_index", func(now cluster.ClusterSettings) (string, string) {
		switch present := now.Effective("action.auto_create_index"); present {
		case "", "true":
			return withoutAutoCreate(p.Spec.Indices), ""
		default:
			return "", "it is " + present + " already"
		}
	}}}
	for _, setting := range []string{"plugins.index_state_management.enabled", "opendistro.index_state_management.enabled"} {
		list = append(list, wanted{setting, func(now cluster.ClusterSettings) (string, string) {
			if now.Effective(setting) != "true" {
				return "", "" // off, or the domain has no such thing
			}
			return "false", ""
		}})
	}
	return list
}

// withoutAutoCreate forbids what the selection would take; the first pattern that matches counts. System indices are never taken
// by a pattern.
func withoutAutoCreate(s migration.Selection) string {
	patterns := []string{"+.*"}
	for _, include := range s.Include {
		if strings.HasPrefix(include, ".") {
			patterns = append([]string{"-" + include}, patterns...)
		} else {
			patterns = append(patterns, "-"+include)
		}
	}
	return strings.Join(append(patterns, "+*"), ",")
}

// silence switches off what is named above. It comes before the first block, while nobody waits.
func silence(ctx context.Context, l undoLog, p migration.Plan) error {
	if p.Spec.Clients == migration.ClientsStopped {
		return nil
	}
	return l.change(ctx, p, p.Spec.Source, quiet(p))
}

// keptOnPurpose says why what was switched off at the source stays so after a hand-over.
const keptOnPurpose = "kept on purpose after the hand-over: a client that still writes to the source must be refused"
