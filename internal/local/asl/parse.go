package asl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// The resources that a Task may name.
const (
	resourceInvoke      = "arn:aws:states:::lambda:invoke"
	resourceInvokeToken = "arn:aws:states:::lambda:invoke.waitForTaskToken"
	resourceStartSync   = "arn:aws:states:::states:startExecution.sync:2"
	resourcePublish     = "arn:aws:states:::sns:publish"
)

// taskArguments lists what Arguments may hold for each resource, the required ones first.
var taskArguments = map[string]struct{ required, optional []string }{
	resourceInvoke:      {[]string{"FunctionName"}, []string{"Payload"}},
	resourceInvokeToken: {[]string{"FunctionName"}, []string{"Payload"}},
	resourceStartSync:   {[]string{"StateMachineArn"}, []string{"Input", "Name"}},
	resourcePublish:     {[]string{"Message"}, []string{"TopicArn", "TargetArn", "Subject", "MessageAttributes", "MessageStructure"}},
}

// Machine is a parsed state machine definition. It is immutable and safe for concurrent use.
type Machine struct {
	definition string
	comment    string
	startAt    string
	states     map[string]*state
	timeout    int // seconds; 0 is none
}

// Definition returns the JSON text with all substitutions made.
func (m *Machine) Definition() string { return m.definition }

// Comment returns the machine's Comment.
func (m *Machine) Comment() string { return m.comment }

// StateNames returns the names of the top-level states, sorted.
func (m *Machine) StateNames() []string { return slices.Sorted(maps.Keys(m.states)) }

type state struct {
	name, kind string
	next       string // empty at the end
	arguments  *template
	output     *template
	assign     []assignment

	resource           string
	timeout, heartbeat *template
	retry              []retrier
	catch              []catcher

	rules      []choiceRule
	defaultTo  string
	seconds    *template
	timestamp  *template
	errorName  *template
	errorCause *template

	branches []*Machine // Parallel

	processor      *Machine // Map
	distributed    bool
	items          *template
	itemSelector   *template
	maxConcurrency *template
	failedCount    *template
	failedPercent  *template
	label          string
	batch          *batcher
}

type assignment struct {
	name string
	t    *template
}

type retrier struct {
	errors     []string
	interval   float64 // seconds
	attempts   int
	backoff    float64
	maxDelay   float64 // seconds; 0 is none
	fullJitter bool
}

type catcher struct {
	errors []string
	next   string
	assign []assignment
	output *template
}

type choiceRule struct {
	condition *template
	next      string
	assign    []assignment
	output    *template
}

type batcher struct {
	maxItems, maxBytes *template
	input              *template
}

var placeholder = regexp.MustCompile(`\$\{([A-Za-z0-9_]+)\}`)

// Parse reads an Amazon States Language definition in the JSONata dialect after it has replaced every ${Name} by its substitution.
//
// Parse is strict: a field, state type, task resource or query language that this engine does not implement is an error that names
// its JSON path, never ignored. One call reports every problem it finds. Beyond the service's own checks it refuses States.ALL that
// is not alone in the last retrier or catcher, and unreachable states.
// Source of the rules: states-language.net/spec.html and the AWS Step Functions Developer Guide.
func Parse(definition []byte, substitutions map[string]string) (*Machine, error) {
	var missing []string
	text := placeholder.ReplaceAllStringFunc(string(definition), func(p string) string {
		name := p[2 : len(p)-1]
		s, ok := substitutions[name]
		if !ok {
			missing = append(missing, p)
			return p
		}
		return s
	})
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, fmt.Errorf("state machine definition: no substitution given for %s", strings.Join(slices.Compact(missing), ", "))
	}
	if !json.Valid([]byte(text)) {
		var v any
		return nil, fmt.Errorf("state machine definition: %w", json.Unmarshal([]byte(text), &v))
	}
	if len(text) > 1<<20 {
		return nil, fmt.Errorf("state machine definition: %d bytes, more than the service's limit of 1 MiB", len(text))
	}
	p := &parser{names: map[string]bool{}}
	m := p.machine(json.RawMessage(text), "$", topLevel)
	if len(p.problems) > 0 {
		return nil, fmt.Errorf("state machine definition: %w", errors.Join(p.problems...))
	}
	m.definition = text
	return m, nil
}

type parser struct {
	problems []error
	names    map[string]bool // of all states: unique in the whole definition
}

func (p *parser) problem(path, format string, args ...any) {
	p.problems = append(p.problems, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// object is a JSON object whose fields are taken out one by one; what is left over is refused.
type object struct {
	p      *parser
	path   string
	fields map[string]json.RawMessage
	order  []string
}

func (p *parser) object(raw json.RawMessage, path string) *object {
	o := &object{p: p, path: path, fields: map[string]json.RawMessage{}}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		p.problem(path, "must be an object")
		return o
	}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			p.problem(path, "%v", err)
			return o
		}
		key := tok.(string)
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			p.problem(path, "%v", err)
			return o
		}
		if _, twice := o.fields[key]; twice {
			p.problem(path+"."+key, "the field stands twice")
		}
		o.fields[key] = v
		o.order = append(o.order, key)
	}
	return o
}

func (o *object) take(key string) (json.RawMessage, bool) {
	raw, ok := o.fields[key]
	delete(o.fields, key)
	return raw, ok
}

func (o *object) decode(key, want string, into any) bool {
	raw, ok := o.take(key)
	if !ok {
		return false
	}
	if string(raw) == "null" || json.Unmarshal(raw, into) != nil {
		o.p.problem(o.path+"."+key, "must be %s", want)
		return false
	}
	return true
}

func (o *object) str(key string) (s string) {
	o.decode(key, "a string", &s)
	return s
}

func (o *object) required(key string) string {
	if _, ok := o.fields[key]; !ok {
		o.p.problem(o.path, "%s is missing", key)
		return ""
	}
	s := o.str(key)
	if s == "" {
		o.p.problem(o.path+"."+key, "must be a string that is not empty")
	}
	return s
}

func (o *object) template(key, field string) *template {
	raw, ok := o.take(key)
	if !ok {
		return nil
	}
	t, err := parseTemplate(raw, o.path+"."+key, field)
	if err != nil {
		o.p.problems = append(o.p.problems, err)
		return nil
	}
	return t
}

// numeric takes a field that is a number in a range, or an expression that gives one.
func (o *object) numeric(key string, least, most float64) *template {
	t := o.template(key, key)
	if t == nil || t.expr != nil {
		return t
	}
	var n float64
	text, _ := t.constant()
	if json.Unmarshal([]byte(text), &n) != nil || text == "null" || n < least || n > most {
		o.p.problem(o.path+"."+key, "must be a number from %g to %g, or an expression in {%% %%}", least, most)
	}
	return t
}

func (o *object) array(key string) (elems []json.RawMessage) {
	o.decode(key, "an array", &elems)
	return elems
}

func (o *object) assign(prefix string) (out []assignment) {
	raw, ok := o.take("Assign")
	if !ok {
		return nil
	}
	a := o.p.object(raw, o.path+".Assign")
	for _, name := range a.order {
		if !variableName.MatchString(name) || len(name) > 80 || name == "states" {
			o.p.problem(a.path+"."+name, "is not a name that a variable may have")
			continue
		}
		if t := a.template(name, prefix+"Assign/"+name); t != nil {
			out = append(out, assignment{name, t})
		}
	}
	return out
}

var variableName = regexp.MustCompile(`^[\p{L}_][\p{L}\p{N}_]*$`)

func (o *object) jsonata(required bool) {
	if _, ok := o.fields["QueryLanguage"]; !ok {
		if required {
			o.p.problem(o.path, `QueryLanguage is missing; this engine runs "JSONata" only, and the service's default is JSONPath`)
		}
		return
	}
	if q := o.str("QueryLanguage"); q != "JSONata" {
		o.p.problem(o.path+".QueryLanguage", `%q is not implemented; only "JSONata" is`, q)
	}
}

// done refuses every field that nobody took.
func (o *object) done(what string) {
	for _, key := range o.order {
		if _, left := o.fields[key]; left {
			o.p.problem(o.path+"."+key, "the field is unknown or not implemented in %s", what)
		}
	}
}

type level int

const (
	topLevel level = iota
	branchLevel
	processorLevel
)

func (p *parser) machine(raw json.RawMessage, path string, at level) *Machine {
	o := p.object(raw, path)
	m := &Machine{definition: string(raw), states: map[string]*state{}}
	m.comment = o.str("Comment")
	o.jsonata(at == topLevel)
	if at == topLevel {
		if v, ok := o.take("Version"); ok && string(v) != `"1.0"` {
			p.problem(path+".Version", `must be "1.0"`)
		}
		if o.decode("TimeoutSeconds", "a whole number", &m.timeout) && (m.timeout < 1 || m.timeout > 99999999) {
			p.problem(path+".TimeoutSeconds", "must be from 1 to 99999999")
		}
	}
	if at == processorLevel {
		delete(o.fields, "ProcessorConfig") // read by the Map state
	}
	m.startAt = o.required("StartAt")
	statesRaw, ok := o.take("States")
	if !ok {
		p.problem(path, "States is missing")
	} else {
		states := p.object(statesRaw, path+".States")
		for _, name := range states.order {
			if utf8.RuneCountInString(name) > 80 || name == "" {
				p.problem(states.path+"."+name, "a state name has 1 to 80 characters")
			}
			if p.names[name] {
				p.problem(states.path+"."+name, "the name stands twice in this definition")
			}
			p.names[name] = true
			m.states[name] = p.state(states.fields[name], states.path+"."+name, name)
		}
		p.connected(m, path)
	}
	o.done("a state machine")
	return m
}

// connected checks that every transition has a target, every state can be reached and the end can be reached.
func (p *parser) connected(m *Machine, path string) {
	if m.states[m.startAt] == nil {
		if m.startAt != "" {
			p.problem(path+".StartAt", "there is no state %q here", m.startAt)
		}
		return
	}
	reached := map[string]bool{m.startAt: true}
	ends := false
	for queue := []string{m.startAt}; len(queue) > 0; queue = queue[1:] {
		s := m.states[queue[0]]
		targets := s.targets()
		if s.kind == "Succeed" || s.kind == "Fail" || (s.kind != "Choice" && s.next == "") {
			ends = true
		}
		for _, to := range targets {
			if m.states[to] == nil {
				p.problem(path+".States."+s.name, "goes to %q, which is no state here", to)
			} else if !reached[to] {
				reached[to] = true
				queue = append(queue, to)
			}
		}
	}
	for _, name := range m.StateNames() {
		if !reached[name] {
			p.problem(path+".States."+name, "cannot be reached")
		}
	}
	if !ends {
		p.problem(path, "no state ends this machine")
	}
}

func (s *state) targets() []string {
	var out []string
	for _, r := range s.rules {
		out = append(out, r.next)
	}
	for _, c := range s.catch {
		out = append(out, c.next)
	}
	for _, to := range []string{s.next, s.defaultTo} {
		if to != "" {
			out = append(out, to)
		}
	}
	return out
}

func (p *parser) state(raw json.RawMessage, path, name string) *state {
	o := p.object(raw, path)
	s := &state{name: name}
	o.str("Comment")
	o.jsonata(false)
	s.kind = o.required("Type")
	if s.kind != "Fail" {
		s.output = o.template("Output", "Output")
	}
	if s.kind != "Succeed" && s.kind != "Fail" {
		s.assign = o.assign("")
	}
	switch s.kind {
	case "Pass", "Succeed":
	case "Task":
		p.task(o, s)
	case "Choice":
		p.choice(o, s)
	case "Wait":
		s.seconds = o.numeric("Seconds", 0, 99999999)
		s.timestamp = o.template("Timestamp", "Timestamp")
		if (s.seconds == nil) == (s.timestamp == nil) {
			p.problem(path, "needs exactly one of Seconds and Timestamp")
		}
		if text, ok := stringConstant(s.timestamp); ok {
			if _, err := parseTimestamp(text); err != nil {
				p.problem(path+".Timestamp", "%v", err)
			}
		}
	case "Fail":
		s.errorName = o.template("Error", "Error")
		s.errorCause = o.template("Cause", "Cause")
	case "Parallel":
		s.arguments = o.template("Arguments", "Arguments")
		for i, b := range o.array("Branches") {
			s.branches = append(s.branches, p.machine(b, fmt.Sprintf("%s.Branches[%d]", path, i), branchLevel))
		}
		if len(s.branches) == 0 {
			p.problem(path, "needs Branches")
		}
		p.retryCatch(o, s)
	case "Map":
		p.mapState(o, s)
	case "":
	default:
		p.problem(path+".Type", "%q is not a state type that this engine implements", s.kind)
		return s
	}
	switch s.kind {
	case "Pass", "Task", "Wait", "Parallel", "Map":
		s.next = o.str("Next")
		var end bool
		o.decode("End", "true or false", &end)
		if end == (s.next != "") {
			p.problem(path, "needs exactly one of Next and End: true")
		}
	}
	o.done("a " + s.kind + " state")
	return s
}

func stringConstant(t *template) (string, bool) {
	if t == nil {
		return "", false
	}
	return t.literalString()
}

func (p *parser) task(o *object, s *state) {
	s.resource = o.required("Resource")
	s.arguments = o.template("Arguments", "Arguments")
	s.timeout = o.numeric("TimeoutSeconds", 1, 99999999)
	s.heartbeat = o.numeric("HeartbeatSeconds", 1, 99999999)
	if s.timeout != nil && s.heartbeat != nil && s.timeout.expr == nil && s.heartbeat.expr == nil {
		var t, h float64
		_ = json.Unmarshal([]byte(s.timeout.literal), &t)
		_ = json.Unmarshal([]byte(s.heartbeat.literal), &h)
		if h >= t {
			p.problem(o.path+".HeartbeatSeconds", "must be smaller than TimeoutSeconds")
		}
	}
	if s.heartbeat != nil && s.resource == resourceStartSync {
		p.problem(o.path+".HeartbeatSeconds", "is not implemented for %s", s.resource)
	}
	known, ok := taskArguments[s.resource]
	if !ok {
		if s.resource != "" {
			p.problem(o.path+".Resource", "%q is not implemented; these are: %s", s.resource,
				strings.Join(slices.Sorted(maps.Keys(taskArguments)), ", "))
		}
	} else {
		p.taskArguments(o, s, known.required, known.optional)
	}
	p.retryCatch(o, s)
}

func (p *parser) taskArguments(o *object, s *state, required, optional []string) {
	path := o.path + ".Arguments"
	switch {
	case s.arguments == nil:
		p.problem(o.path, "Arguments with %s is missing", strings.Join(required, ", "))
	case s.arguments.expr != nil: // checked when it is evaluated
	case !s.arguments.object:
		p.problem(path, "must be an object")
	default:
		for _, key := range s.arguments.keys {
			if !slices.Contains(required, key) && !slices.Contains(optional, key) {
				p.problem(path+"."+key, "the field is unknown or not implemented for %s", s.resource)
			}
		}
		for _, key := range required {
			if s.arguments.member(key) == nil {
				p.problem(path, "%s is missing", key)
			}
		}
	}
}

func (p *parser) choice(o *object, s *state) {
	for i, raw := range o.array("Choices") {
		r := p.object(raw, fmt.Sprintf("%s.Choices[%d]", o.path, i))
		field := fmt.Sprintf("Choices[%d]/", i)
		rule := choiceRule{condition: r.template("Condition", field+"Condition"), assign: r.assign(field)}
		rule.output = r.template("Output", field+"Output")
		rule.next = r.required("Next")
		r.str("Comment")
		if rule.condition == nil {
			p.problem(r.path, "needs a Condition")
		} else if rule.condition.expr == nil && rule.condition.literal != "true" && rule.condition.literal != "false" {
			p.problem(r.path+".Condition", "must be true, false or an expression in {%% %%}")
		}
		r.done("a choice rule")
		s.rules = append(s.rules, rule)
	}
	if len(s.rules) == 0 {
		p.problem(o.path, "needs Choices")
	}
	s.defaultTo = o.str("Default")
}

// errorNames reads ErrorEquals and keeps the rules of States.ALL.
func (p *parser) errorNames(o *object, last bool) (names []string) {
	if !o.decode("ErrorEquals", "an array of error names", &names) || len(names) == 0 {
		p.problem(o.path, "needs ErrorEquals with at least one error name")
	}
	if slices.Contains(names, errAll) && (len(names) > 1 || !last) {
		p.problem(o.path+".ErrorEquals", "States.ALL must stand alone and last")
	}
	for _, name := range names {
		if strings.HasPrefix(name, "States.") && !slices.Contains(reservedErrors, name) {
			p.problem(o.path+".ErrorEquals", "%q is not an error name of the service; names of one's own must not start with States.", name)
		}
	}
	return names
}

func (p *parser) retryCatch(o *object, s *state) {
	retries := o.array("Retry")
	for i, raw := range retries {
		r := p.object(raw, fmt.Sprintf("%s.Retry[%d]", o.path, i))
		re := retrier{errors: p.errorNames(r, i == len(retries)-1), interval: 1, attempts: 3, backoff: 2}
		r.str("Comment")
		interval, maxDelay, jitter := 1, 0, ""
		if r.decode("IntervalSeconds", "a whole number", &interval) && (interval < 1 || interval > 99999999) {
			p.problem(r.path+".IntervalSeconds", "must be from 1 to 99999999")
		}
		if r.decode("MaxAttempts", "a whole number", &re.attempts) && (re.attempts < 0 || re.attempts > 99999999) {
			p.problem(r.path+".MaxAttempts", "must be from 0 to 99999999")
		}
		if r.decode("BackoffRate", "a number", &re.backoff) && re.backoff < 1 {
			p.problem(r.path+".BackoffRate", "must be at least 1")
		}
		if r.decode("MaxDelaySeconds", "a whole number", &maxDelay) && (maxDelay <= interval || maxDelay >= 31622400) {
			p.problem(r.path+".MaxDelaySeconds", "must be greater than IntervalSeconds and smaller than 31622400")
		}
		if r.decode("JitterStrategy", "a string", &jitter) && jitter != "FULL" && jitter != "NONE" {
			p.problem(r.path+".JitterStrategy", "must be FULL or NONE")
		}
		re.interval, re.maxDelay, re.fullJitter = float64(interval), float64(maxDelay), jitter == "FULL"
		r.done("a retrier")
		s.retry = append(s.retry, re)
	}
	catches := o.array("Catch")
	for i, raw := range catches {
		c := p.object(raw, fmt.Sprintf("%s.Catch[%d]", o.path, i))
		field := fmt.Sprintf("Catch[%d]/", i)
		ca := catcher{errors: p.errorNames(c, i == len(catches)-1), assign: c.assign(field)}
		c.str("Comment")
		ca.next = c.required("Next")
		ca.output = c.template("Output", field+"Output")
		c.done("a catcher")
		s.catch = append(s.catch, ca)
	}
}

func (p *parser) mapState(o *object, s *state) {
	s.items = o.template("Items", "Items")
	if s.items != nil && s.items.expr == nil && !s.items.array {
		p.problem(o.path+".Items", "must be an array or an expression in {%% %%}")
	}
	s.itemSelector = o.template("ItemSelector", "ItemSelector")
	s.maxConcurrency = o.numeric("MaxConcurrency", 0, 10000)
	raw, ok := o.take("ItemProcessor")
	if !ok {
		p.problem(o.path, "ItemProcessor is missing")
		return
	}
	path := o.path + ".ItemProcessor"
	var peek map[string]json.RawMessage
	mode, kind := "INLINE", ""
	if json.Unmarshal(raw, &peek) == nil && peek["ProcessorConfig"] != nil {
		c := p.object(peek["ProcessorConfig"], path+".ProcessorConfig")
		mode = c.required("Mode")
		if mode == "DISTRIBUTED" {
			if kind = c.required("ExecutionType"); kind != "STANDARD" && kind != "" {
				p.problem(c.path+".ExecutionType", "%q is not implemented; STANDARD is", kind)
			}
		} else if mode != "INLINE" {
			p.problem(c.path+".Mode", "must be INLINE or DISTRIBUTED")
		}
		c.done("an item processor's configuration in mode " + mode)
	}
	s.distributed = mode == "DISTRIBUTED"
	if s.distributed {
		s.failedCount = o.numeric("ToleratedFailureCount", 0, 99999999)
		s.failedPercent = o.numeric("ToleratedFailurePercentage", 0, 100)
		s.label = o.str("Label")
		if utf8.RuneCountInString(s.label) > 40 || strings.ContainsAny(s.label, forbiddenInNames) {
			p.problem(o.path+".Label", "has 40 characters at most, without white space and none of %s", forbiddenInNames)
		}
		if b, ok := o.take("ItemBatcher"); ok {
			p.batcher(b, o.path+".ItemBatcher", s)
		}
	}
	// A distributed child is an execution of its own: its state names need not differ from the parent's in the service, but ours do.
	s.processor = p.machine(raw, path, processorLevel)
	p.retryCatch(o, s)
}

func (p *parser) batcher(raw json.RawMessage, path string, s *state) {
	b := p.object(raw, path)
	s.batch = &batcher{input: b.template("BatchInput", "ItemBatcher/BatchInput")}
	s.batch.maxItems = b.numeric("MaxItemsPerBatch", 1, 99999999)
	s.batch.maxBytes = b.numeric("MaxInputBytesPerBatch", 1, maxPayload)
	if s.batch.maxItems == nil && s.batch.maxBytes == nil {
		p.problem(path, "needs MaxItemsPerBatch or MaxInputBytesPerBatch")
	}
	b.done("an item batcher")
}
