package faultmatrix

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/statemachine"
)

// Phase says in which of its two uses a round or a pass is disturbed.
type Phase string

// The phases. A state of the migration machine has none.
const (
	Warm  Phase = "warm"  // clients go on writing
	Final Phase = "final" // inside the freeze
)

// Row is one state of one machine, as the embedded definitions have it: a new state is a new row.
type Row struct {
	Machine string `json:"machine"`
	State   string `json:"state"`
	Phase   Phase  `json:"phase,omitempty"`
	Type    string `json:"type"`
	// Function is the Lambda that the state runs; empty when it runs none.
	Function string `json:"function,omitempty"`
}

// String is the row as -states and -cases write it: machine/state, with @warm or @final for rounds and passes.
func (r Row) String() string {
	name := r.Machine + "/" + r.State
	if r.Phase != "" {
		name += "@" + string(r.Phase)
	}
	return name
}

// definition is what rows need of a state machine.
type definition struct {
	States map[string]state
}

type state struct {
	Type      string
	Arguments json.RawMessage // a text where it is an expression
	Branches  []definition
	// ItemProcessor is a Map's.
	ItemProcessor definition
}

// Rows lists all states of all machines, in the order of their definitions; those of the round and replay machines twice.
func Rows() ([]Row, error) {
	functions := map[string]string{}
	for _, f := range names.Functions() {
		functions["${"+f.Placeholder()+"}"] = f.Name
	}
	var all []Row
	for _, m := range []struct {
		name, text string
		phases     []Phase
	}{
		{names.MigrationMachine, statemachine.Migration, []Phase{""}},
		{names.RoundMachine, statemachine.Round, []Phase{Warm, Final}},
		{names.ReplayMachine, statemachine.Replay, []Phase{Warm, Final}},
	} {
		var d definition
		if err := json.Unmarshal([]byte(m.text), &d); err != nil {
			return nil, fmt.Errorf("state machine %s: %w", m.name, err)
		}
		rows := d.rows(m.name, functions)
		slices.SortFunc(rows, func(a, b Row) int { return position(m.text, a.State) - position(m.text, b.State) })
		for _, phase := range m.phases {
			for _, r := range rows {
				r.Phase = phase
				all = append(all, r)
			}
		}
	}
	return all, nil
}

// position is where a state is defined in the text.
func position(text, state string) int { return strings.Index(text, `"`+state+`": {`) }

func (d definition) rows(machine string, functions map[string]string) (all []Row) {
	for name, s := range d.States {
		var arguments struct{ FunctionName string }
		_ = json.Unmarshal(s.Arguments, &arguments) // an expression names no function
		all = append(all, Row{Machine: machine, State: name, Type: s.Type, Function: functions[arguments.FunctionName]})
		for _, b := range append(s.Branches, s.ItemProcessor) {
			all = append(all, b.rows(machine, functions)...)
		}
	}
	return all
}
