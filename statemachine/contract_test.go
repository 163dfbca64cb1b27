package statemachine_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/statemachine"
)

var definitions = map[string]string{
	names.MigrationMachine: statemachine.Migration,
	names.RoundMachine:     statemachine.Round,
	names.ReplayMachine:    statemachine.Replay,
}

// machine is the part of the language that the contract looks at: a whole definition, a Map's item processor or a branch of a Parallel state.
type machine struct {
	StartAt         string
	States          map[string]state
	ProcessorConfig struct{ Mode string }
}

type state struct {
	Type           string
	Resource       string
	Arguments      map[string]any
	Next           string
	Default        string
	Error          string
	TimeoutSeconds any // a number or an expression
	Assign         map[string]any
	Retry          []retrier
	Catch          []catcher
	Choices        []rule
	ItemProcessor  *machine
	Branches       []machine

	expressions []string // every {% %} of the state, without those of its item processor and branches
}

type retrier struct {
	ErrorEquals     []string
	IntervalSeconds int
	MaxAttempts     int
	BackoffRate     *float64
}

type catcher struct {
	ErrorEquals []string
	Assign      map[string]any
	Next        string
}

type rule struct {
	Condition string
	Assign    map[string]any
	Next      string
}

func (s *state) UnmarshalJSON(b []byte) error {
	type plain state
	if err := json.Unmarshal(b, (*plain)(s)); err != nil {
		return err
	}
	var all map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	delete(all, "ItemProcessor")
	delete(all, "Branches")
	s.expressions = expressionsIn(all)
	return nil
}

// expressionsIn returns every {% %} text in v, without its marks.
func expressionsIn(v any) []string {
	var out []string
	switch v := v.(type) {
	case string:
		if inner, ok := strings.CutPrefix(v, "{%"); ok {
			out = append(out, strings.TrimSpace(strings.TrimSuffix(inner, "%}")))
		}
	case []any:
		for _, e := range v {
			out = append(out, expressionsIn(e)...)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			out = append(out, expressionsIn(v[key])...)
		}
	}
	return out
}

func parse(t *testing.T, definition string) machine {
	t.Helper()
	var m machine
	if err := json.Unmarshal([]byte(definition), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// inner are the machines inside a state.
func (s state) inner() []machine {
	if s.ItemProcessor != nil {
		return append(slices.Clone(s.Branches), *s.ItemProcessor)
	}
	return s.Branches
}

// each visits the states of m, of its item processors and branches, in the order of their names.
func (m machine) each(visit func(name string, s state)) {
	for _, name := range slices.Sorted(maps.Keys(m.States)) {
		s := m.States[name]
		visit(name, s)
		for _, m := range s.inner() {
			m.each(func(inner string, s state) { visit(name+"/"+inner, s) })
		}
	}
}

// eachState visits the states of all definitions as subtests of their own machine.
func eachState(t *testing.T, visit func(t *testing.T, name string, s state)) {
	for _, name := range slices.Sorted(maps.Keys(definitions)) {
		t.Run(name, func(t *testing.T) {
			visited := 0
			parse(t, definitions[name]).each(func(name string, s state) {
				visited++
				visit(t, name, s)
			})
			if visited < 9 {
				t.Errorf("only %d states seen", visited)
			}
		})
	}
}

const (
	lambdaTask = "arn:aws:states:::lambda:invoke"
	startChild = "arn:aws:states:::states:startExecution.sync:2"
)

var placeholder = regexp.MustCompile(`\$\{([^}]*)\}`)

func TestPlaceholdersAreKnown(t *testing.T) {
	known := map[string]bool{names.RoundMachinePlaceholder: true, names.ReplayMachinePlaceholder: true}
	used := map[string]bool{}
	for _, f := range names.Functions() {
		known[f.Placeholder()] = true
	}
	for name, definition := range definitions {
		for _, m := range placeholder.FindAllStringSubmatch(definition, -1) {
			used[m[1]] = true
			if !known[m[1]] {
				t.Errorf("%s: ${%s} is no function of names.Functions and no machine", name, m[1])
			}
		}
	}
	for p := range known {
		if !used[p] {
			t.Errorf("no definition uses ${%s}", p)
		}
	}
}

func TestErrorNamesExist(t *testing.T) {
	services := regexp.MustCompile(`^(States|Lambda|StepFunctions|Runtime|Sandbox)\.[A-Za-z]+$`)
	eachState(t, func(t *testing.T, name string, s state) {
		errors := []string{}
		if s.Error != "" && !strings.HasPrefix(s.Error, "{%") {
			errors = append(errors, s.Error)
		}
		for _, r := range s.Retry {
			errors = append(errors, r.ErrorEquals...)
		}
		for _, c := range s.Catch {
			errors = append(errors, c.ErrorEquals...)
		}
		for _, e := range errors {
			if services.MatchString(e) {
				continue
			}
			if _, ok := fault.Lookup(fault.Name(e)); !ok {
				t.Errorf("%s: %q is no name of the fault catalogue and not the service's", name, e)
			}
		}
	})
}

func TestRetryableFaultsAndOnlyThoseAreRetried(t *testing.T) {
	// Docs "Handle transient Lambda service exceptions", and the two names under which a killed or crashed function shows.
	noise := []string{"Lambda.ClientExecutionTimeoutException", "Lambda.ServiceException", "Lambda.AWSLambdaException",
		"Lambda.SdkClientException", "Lambda.TooManyRequestsException", "Lambda.Unknown"}
	eachState(t, func(t *testing.T, name string, s state) {
		retried := map[string]bool{}
		for _, r := range s.Retry {
			for _, e := range r.ErrorEquals {
				retried[e] = r.MaxAttempts > 0
				if d, ok := fault.Lookup(fault.Name(e)); ok && !d.Retryable {
					t.Errorf("%s retries %s, which a retry cannot mend", name, e)
				}
			}
		}
		if s.Type != "Task" || s.Resource != lambdaTask {
			return
		}
		for _, d := range fault.Catalogue() {
			if d.Retryable && !retried[string(d.Name)] {
				t.Errorf("%s does not retry %s", name, d.Name)
			}
		}
		for _, e := range noise {
			if !retried[e] {
				t.Errorf("%s does not retry %s", name, e)
			}
		}
	})
}

// retryProblems are the rules of the language that the validators do not check (reference/step-functions.md, 1.4).
func retryProblems(s state) []string {
	var problems []string
	all := func(what string, i, n int, errors []string) {
		if !slices.Contains(errors, "States.ALL") {
			return
		}
		if len(errors) != 1 {
			problems = append(problems, fmt.Sprintf("%s[%d]: States.ALL is not alone", what, i))
		}
		if i != n-1 {
			problems = append(problems, fmt.Sprintf("%s[%d]: States.ALL is not last", what, i))
		}
	}
	seen := map[string]bool{}
	for i, r := range s.Retry {
		all("Retry", i, len(s.Retry), r.ErrorEquals)
		if r.BackoffRate != nil && *r.BackoffRate < 1 {
			problems = append(problems, fmt.Sprintf("Retry[%d]: BackoffRate %g is below 1", i, *r.BackoffRate))
		}
		for _, e := range r.ErrorEquals {
			if seen[e] {
				problems = append(problems, fmt.Sprintf("Retry[%d]: %s is there twice; the first retrier wins", i, e))
			}
			seen[e] = true
		}
	}
	for i, c := range s.Catch {
		all("Catch", i, len(s.Catch), c.ErrorEquals)
	}
	return problems
}

func TestRetriersAndCatchersAreSound(t *testing.T) {
	eachState(t, func(t *testing.T, name string, s state) {
		for _, p := range retryProblems(s) {
			t.Errorf("%s: %s", name, p)
		}
	})
	var bad state
	if err := json.Unmarshal([]byte(`{"Retry":[{"ErrorEquals":["States.ALL","A"],"BackoffRate":0.5},{"ErrorEquals":["A"]}],
		"Catch":[{"ErrorEquals":["States.ALL"]},{"ErrorEquals":["B"]}]}`), &bad); err != nil {
		t.Fatal(err)
	}
	if got := retryProblems(bad); len(got) != 5 {
		t.Errorf("the check found %v in a bad state", got)
	}
}

// From the freeze on, whatever happens, writes are given back; before it a Catch would keep a redrive from resuming.
func TestOnlyTheFrozenPartCatches(t *testing.T) {
	m := parse(t, statemachine.Migration)
	frozen := map[string]bool{}
	var follow func(string)
	follow = func(name string) {
		s, there := m.States[name]
		if !there || frozen[name] || name == "Thaw" || s.Type == "Succeed" || s.Type == "Fail" {
			return
		}
		frozen[name] = true
		if name == "Finish" {
			return // once it has answered, the destination takes writes
		}
		follow(s.Next)
		follow(s.Default)
		for _, c := range s.Choices {
			follow(c.Next)
		}
	}
	follow("Freeze")
	if !frozen["Verdict"] || !frozen["Finish"] || frozen["Thaw"] {
		t.Fatalf("frozen part: %v", frozen)
	}
	unanswered := map[string]string{"Ask": "NeverFits", "Approve": "NotApproved"}
	for name, s := range m.States {
		for _, inner := range s.inner() {
			inner.each(func(state string, s state) {
				if len(s.Catch) > 0 {
					t.Errorf("%s/%s catches what %s has to see", name, state, name)
				}
			})
		}
		switch {
		case frozen[name] && s.Type == "Choice":
			// It cannot catch; that its conditions never fail is tested with every answer of Verify.
			if s.Default != "Thaw" {
				t.Errorf("%s does not thaw when nothing else fits", name)
			}
		case unanswered[name] != "":
			// Its time-out is no error: nobody answered.
			if len(s.Catch) != 1 || !slices.Equal(s.Catch[0].ErrorEquals, []string{"States.Timeout"}) || s.Catch[0].Next != unanswered[name] {
				t.Errorf("%s catches %+v", name, s.Catch)
			}
		case !frozen[name] && len(s.Catch) > 0:
			t.Errorf("%s catches errors before the freeze", name)
		case frozen[name] && (len(s.Catch) != 1 || s.Catch[0].ErrorEquals[0] != "States.ALL" || s.Catch[0].Next != "Thaw"):
			t.Errorf("%s does not thaw on every error", name)
		}
	}
}

// Writes do not stand still for as long as a round or a pass may last: only the final ones have a time-out, and that is decided with
// the cut-over.
func TestOnlyTheFinalChildrenAreTimed(t *testing.T) {
	const cutover = "{% $decision.cutoverTimeoutSeconds %}"
	got := map[string]any{}
	parse(t, statemachine.Migration).each(func(name string, s state) {
		if s.Resource == startChild {
			got[name] = s.TimeoutSeconds
		}
	})
	want := map[string]any{"Warm/Round": nil, "Warm/Replay": nil, "MoveLastDelta/FinalRound": cutover, "MoveLastDelta/FinalReplay": cutover}
	if !maps.Equal(got, want) {
		t.Errorf("TimeoutSeconds %v, want %v: a first round may take weeks, a frozen one may not", got, want)
	}
}

// A child that is not told who started it does not show as one, and one of the freeze that takes itself for a warm one would not seal
// the copies.
func TestChildrenKnowTheirParent(t *testing.T) {
	const id = "{% $states.context.Execution.Id %}"
	children := 0
	parse(t, statemachine.Migration).each(func(name string, s state) {
		if s.Resource != startChild {
			return
		}
		children++
		in, _ := s.Arguments["Input"].(map[string]any)
		if in["execution"] != id || in["AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"] != id || in["final"] != strings.HasPrefix(name, "MoveLastDelta/") {
			t.Errorf("%s starts its child with %v", name, in)
		}
		machine := map[bool]string{true: names.ReplayMachinePlaceholder, false: names.RoundMachinePlaceholder}[strings.HasSuffix(name, "Replay")]
		if s.Arguments["StateMachineArn"] != "${"+machine+"}" {
			t.Errorf("%s starts %v", name, s.Arguments["StateMachineArn"])
		}
	})
	if children != 4 {
		t.Errorf("%d states start children", children)
	}
}

// A task that the machine gives up before the function's own time-out would run on unseen, and States.Timeout is not retried.
func TestTasksWaitForTheirFunctions(t *testing.T) {
	timeouts := map[string]int{}
	for _, f := range names.Functions() {
		timeouts["${"+f.Placeholder()+"}"] = f.TimeoutSeconds
	}
	eachState(t, func(t *testing.T, name string, s state) {
		if s.Resource != lambdaTask {
			return
		}
		function, _ := s.Arguments["FunctionName"].(string)
		if n, _ := s.TimeoutSeconds.(float64); int(n) < timeouts[function] {
			t.Errorf("%s: TimeoutSeconds %v is less than the function's %d", name, s.TimeoutSeconds, timeouts[function])
		}
	})
}

// variables are $names that are neither $states nor functions.
func variables(expression string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`\$([A-Za-z_][A-Za-z0-9_]*)\s*(\(?)`).FindAllStringSubmatch(expression, -1) {
		if m[2] == "" && m[1] != "states" {
			out = append(out, m[1])
		}
	}
	return out
}

// unassigned lists uses of variables that are not assigned on every path from the start to the use. All fields of a state see
// the values from before the state's own Assign. outer are the variables that m may read from around it.
func (m machine) unassigned(outer map[string]bool) []string {
	type names = map[string]bool
	before := map[string]names{m.StartAt: maps.Clone(outer)}
	arrive := func(at string, have names, assigned ...map[string]any) bool {
		if at == "" {
			return false
		}
		now := maps.Clone(have)
		for _, a := range assigned {
			for v := range a {
				now[v] = true
			}
		}
		old, visited := before[at]
		if !visited {
			before[at] = now
			return true
		}
		n := len(old)
		maps.DeleteFunc(old, func(v string, _ bool) bool { return !now[v] })
		return len(old) != n
	}
	for changed := true; changed; {
		changed = false
		for name, have := range maps.Clone(before) {
			s := m.States[name]
			changed = arrive(s.Next, have, s.Assign) || changed
			changed = arrive(s.Default, have, s.Assign) || changed
			for _, r := range s.Choices {
				changed = arrive(r.Next, have, r.Assign) || changed
			}
			for _, c := range s.Catch {
				changed = arrive(c.Next, have, c.Assign) || changed
			}
		}
	}
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(m.States)) {
		s := m.States[name]
		for _, e := range s.expressions {
			for _, v := range variables(e) {
				if !before[name][v] {
					problems = append(problems, fmt.Sprintf("%s: $%s is not assigned on every path to it", name, v))
				}
			}
		}
		if s.ItemProcessor != nil {
			// A distributed item processor sees none of the outer variables.
			for _, p := range s.ItemProcessor.unassigned(names{}) {
				problems = append(problems, name+"/"+p)
			}
		}
		for _, b := range s.Branches {
			for _, p := range b.unassigned(before[name]) {
				problems = append(problems, name+"/"+p)
			}
		}
	}
	return problems
}

func TestVariablesAreAssignedBeforeUse(t *testing.T) {
	for name, definition := range definitions {
		m := parse(t, definition)
		for _, p := range m.unassigned(map[string]bool{}) {
			t.Errorf("%s: %s", name, p)
		}
		m.each(func(state string, s state) {
			if s.ItemProcessor != nil && s.ItemProcessor.ProcessorConfig.Mode != "DISTRIBUTED" {
				t.Errorf("%s: %s is not distributed: its processor sees outer variables, which this test does not follow", name, state)
			}
		})
	}
	bad := parse(t, `{"StartAt":"A","States":{
		"A":{"Type":"Choice","Choices":[{"Condition":"{% true %}","Next":"B"}],"Default":"C"},
		"B":{"Type":"Pass","Assign":{"x":1,"y":1},"Next":"C"},
		"C":{"Type":"Parallel","Branches":[{"StartAt":"E","States":{"E":{"Type":"Pass","Assign":{"z":1},"Output":"{% $y %}","End":true}}}],"Next":"D"},
		"D":{"Type":"Succeed","Output":"{% $x & $z & $states.input.y & $string(1) %}"}}}`)
	got := strings.Join(bad.unassigned(map[string]bool{}), ", ")
	if got != "C/E: $y is not assigned on every path to it, D: $x is not assigned on every path to it, D: $z is not assigned on every path to it" {
		t.Errorf("the check found %q where one path misses $x and $y, and $z is a branch's own", got)
	}
}
