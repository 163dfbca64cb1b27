// Package machines parses the embedded state machines for the local engine.
package machines

import (
	"fmt"

	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/statemachine"
)

// Parse parses every definition, by its name. machine gives the ARN of a state machine and function what a function is called by.
func Parse(machine, function func(name string) string) (map[string]*asl.Machine, error) {
	substitutions := map[string]string{names.RoundMachinePlaceholder: machine(names.RoundMachine), names.ReplayMachinePlaceholder: machine(names.ReplayMachine)}
	for _, f := range names.Functions() {
		substitutions[f.Placeholder()] = function(f.Name)
	}
	parsed := map[string]*asl.Machine{}
	for name, definition := range map[string]string{
		names.MigrationMachine: statemachine.Migration, names.RoundMachine: statemachine.Round, names.ReplayMachine: statemachine.Replay,
	} {
		m, err := asl.Parse([]byte(definition), substitutions)
		if err != nil {
			return nil, fmt.Errorf("state machine %s: %w", name, err)
		}
		parsed[name] = m
	}
	return parsed, nil
}
