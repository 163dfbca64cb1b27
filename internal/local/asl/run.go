package asl

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// frame is one thread of an execution: its top level, a branch of a Parallel state or an iteration of an inline Map. It outlives a
// failed run, so that a redrive can go on where it stopped.
type frame struct {
	machine *Machine
	parent  *frame
	vars    *variables
	item    *mapItem // of an iteration

	current    string // state
	input      value  // of the current state
	entered    time.Time
	last       int64 // event that comes before this thread's next one
	retries    []int // by retrier
	retryCount int
	begun      bool // an iteration whose start is in the history
	inState    bool // the current state's Entered event is in the history
	resumed    bool // the current state is redriven
	done       bool
	output     value

	// Of the current state:
	sub    []*frame   // iterations or branches
	mapRun *MapRun    // of a Distributed Map
	child  *Execution // of startExecution.sync:2
}

type mapItem struct {
	index int
	value value
}

// variables are the workflow variables of one scope; inner scopes read the outer ones.
type variables struct {
	parent *variables
	values map[string]value
}

func (v *variables) bind(into map[string]any) {
	if v == nil {
		return
	}
	v.parent.bind(into)
	for name, val := range v.values {
		into[name] = val.v
	}
}

func (v *variables) outer(name string) bool {
	for o := v.parent; o != nil; o = o.parent {
		if _, ok := o.values[name]; ok {
			return true
		}
	}
	return false
}

// resume prepares a frame that did not finish for a redrive; event is the id of ExecutionRedriven.
func (f *frame) resume(event int64) {
	if f.done {
		return
	}
	f.resumed = f.inState
	f.last = event
	for _, sub := range f.sub {
		sub.resume(event)
	}
}

// enter makes name the current state.
func (f *frame) enter(name string, input value) {
	f.current, f.input = name, input
	f.reset()
}

// reset forgets what the current state did so far.
func (f *frame) reset() {
	f.retries, f.retryCount, f.resumed, f.inState = nil, 0, false, false
	f.sub, f.mapRun, f.child = nil, nil, nil
}

// runFrame runs a thread from its current state to its end.
func (r *run) runFrame(f *frame, sc *scope) (value, error) {
	if f.done {
		return f.output, nil
	}
	for {
		if err := sc.cause(); err != nil {
			return value{}, err
		}
		s := f.machine.states[f.current]
		next, out, err := r.runState(f, s, sc)
		if err != nil {
			return value{}, err
		}
		if next == "" {
			f.reset()
			f.done, f.output = true, out
			return out, nil
		}
		f.enter(next, out)
	}
}

// outcome is where a state's own work leads: the fields that shape its output, and the state after it.
type outcome struct {
	result *value // $states.result
	next   string
	assign []assignment
	output *template
	prefer *value // output when there is no Output field; the input when nil
}

// runState runs one state with its retries and catchers.
func (r *run) runState(f *frame, s *state, sc *scope) (next string, out value, err error) {
	f.entered = r.x.e.clock.Now()
	redriven := f.resumed
	f.resumed = false
	f.retries, f.retryCount = make([]int, len(s.retry)), 0
	if !redriven || (s.kind != "Task" && s.kind != "Map" && s.kind != "Parallel") {
		// A redriven Task is "scheduled and started again", Map and Parallel go on in their threads; the others are re-entered.
		r.enterEvent(f, s)
		f.inState = true
	}
	for {
		out, next, err := r.attempt(f, s, sc)
		if err == nil {
			return next, out, nil
		}
		if stopped := sc.cause(); stopped != nil {
			r.abortedEvent(f, s)
			return "", value{}, stopped
		}
		failed := asStateError(err)
		if i := slices.IndexFunc(s.retry, func(re retrier) bool { return failed.is(re.errors) }); i >= 0 && f.retries[i] < s.retry[i].attempts {
			delay := r.x.e.retryDelay(s.retry[i], f.retries[i])
			f.retries[i]++
			f.retryCount++
			f.sub, f.mapRun, f.child = nil, nil, nil
			if _, err := sc.wait(r.x.e.clock, r.x.e.clock.NewWaker(), r.x.e.clock.Now().Add(delay)); err != nil {
				r.abortedEvent(f, s)
				return "", value{}, err
			}
			continue
		}
		for _, c := range s.catch {
			if !failed.is(c.errors) {
				continue
			}
			caught := errorOutput(failed)
			out, err := r.leave(f, s, outcome{next: c.next, assign: c.assign, output: c.output, prefer: &caught}, &caught)
			if err != nil {
				return "", value{}, err
			}
			return c.next, out, nil
		}
		return "", value{}, failed
	}
}

func errorOutput(failed *StateError) value {
	text := `{"Error":` + quote(failed.Name) + `,"Cause":` + quote(clip(failed.Cause, maxCauseLength)) + `}`
	v, _ := parseValue(text) // valid by construction
	return v
}

// retryDelay is the wait before retry number n+1 of a retrier.
func (e *Engine) retryDelay(re retrier, n int) time.Duration {
	seconds := re.interval * math.Pow(re.backoff, float64(n))
	if re.maxDelay > 0 {
		seconds = min(seconds, re.maxDelay)
	}
	seconds = min(seconds, 99999999)
	if re.fullJitter {
		seconds *= e.random()
	}
	return time.Duration(seconds * float64(time.Second))
}

// attempt does a state's work once and leaves the state.
func (r *run) attempt(f *frame, s *state, sc *scope) (value, string, error) {
	o := outcome{next: s.next, assign: s.assign, output: s.output}
	var err error
	switch s.kind {
	case "Task":
		o.result, err = r.task(f, s, sc)
	case "Map":
		o.result, err = r.mapState(f, s, sc)
	case "Parallel":
		o.result, err = r.parallel(f, s, sc)
	case "Choice":
		o, err = r.choose(f, s)
	case "Wait":
		err = r.wait(f, s, sc)
	case "Fail":
		err = r.fail(f, s)
	}
	if err != nil {
		return value{}, "", err
	}
	out, err := r.leave(f, s, o, nil)
	return out, o.next, err
}

// leave evaluates Output and Assign, both with the variables as they were, and writes the exit event.
func (r *run) leave(f *frame, s *state, o outcome, caught *value) (value, error) {
	out := f.input
	if o.prefer != nil {
		out = *o.prefer
	} else if o.result != nil {
		out = *o.result
	}
	extra := map[string]any{}
	if o.result != nil {
		extra["result"] = o.result.v
	}
	if caught != nil {
		extra["errorOutput"] = caught.v
	}
	if o.output != nil {
		var err error
		if out, err = r.eval(f, o.output, extra); err != nil {
			return value{}, err
		}
	}
	assigned := map[string]value{}
	for _, a := range o.assign {
		v, err := r.eval(f, a.t, extra)
		if err != nil {
			return value{}, err
		}
		if f.vars.outer(a.name) {
			return value{}, &StateError{errRuntime, fmt.Sprintf("The variable '%s' exists in an outer scope and cannot be assigned in the state '%s'.",
				a.name, s.name)}
		}
		assigned[a.name] = v
	}
	if err := r.tooLarge(f, "output", out.text); err != nil {
		return value{}, err
	}
	if len(assigned) > 0 {
		if f.vars.values == nil {
			f.vars.values = map[string]value{}
		}
		for name, v := range assigned {
			f.vars.values[name] = v
		}
	}
	if s.kind != "Fail" {
		r.exitEvent(f, s, out, assigned)
	}
	return out, nil
}

// eval fills a template of the current state. Its failure is States.QueryEvaluationError, or States.DataLimitExceeded.
func (r *run) eval(f *frame, t *template, extra map[string]any) (value, error) {
	if t.fixed != nil {
		return *t.fixed, r.tooLarge(f, t.field, t.fixed.text)
	}
	vars := map[string]any{}
	f.vars.bind(vars)
	states := map[string]any{"input": f.input.v, "context": r.context(f)}
	for k, v := range extra {
		if k == "token" {
			states["context"].(map[string]any)["Task"] = map[string]any{"Token": v}
		} else if k == "item" {
			states["context"].(map[string]any)["Map"] = v
		} else {
			states[k] = v
		}
	}
	vars["states"] = states
	v, err := r.x.e.evaluate(t, vars)
	var ee *expressionError
	if errors.As(err, &ee) {
		return value{}, r.evaluationFailed(f, ee.t.field, ee.Error())
	}
	if err != nil {
		return value{}, r.evaluationFailed(f, t.field, err.Error())
	}
	if err := r.tooLarge(f, t.field, v.text); err != nil {
		return value{}, err
	}
	return v, nil
}

func (r *run) evaluationFailed(f *frame, field, cause string) error {
	failed := &StateError{errQuery, fmt.Sprintf("An error occurred while executing the state '%s' (entered at the event id #%d). %s",
		f.current, f.last, cause)}
	f.last = r.event(f.last, "EvaluationFailed", "evaluationFailedEventDetails", failure(failed).with("state", f.current).with("location", field))
	return failed
}

func (r *run) tooLarge(f *frame, what, text string) error {
	if len(text) <= maxPayload {
		return nil
	}
	return &StateError{errDataLimit, fmt.Sprintf(
		"The state/task '%s' returned a result with a size exceeding the maximum number of bytes service limit (%s: %d bytes, limit %d).",
		f.current, what, len(text), maxPayload)}
}

// context is $states.context.
func (r *run) context(f *frame) map[string]any {
	x := r.x
	x.mu.Lock()
	start, redrives, redriven := x.start, x.redrives, x.redriven
	x.mu.Unlock()
	execution := map[string]any{
		"Id": x.ARN, "Input": x.input.v, "Name": x.Name, "RoleArn": x.e.cfg.RoleARN, "StartTime": formatTime(start),
		"RedriveCount": float64(redrives),
	}
	if redrives > 0 {
		execution["RedriveTime"] = formatTime(redriven)
	}
	c := map[string]any{
		"Execution":    execution,
		"State":        map[string]any{"EnteredTime": formatTime(f.entered), "Name": f.current, "RetryCount": float64(f.retryCount)},
		"StateMachine": map[string]any{"Id": x.StateMachineARN, "Name": x.machineName},
	}
	for at := f; at != nil; at = at.parent {
		if at.item != nil {
			c["Map"] = itemContext(at.item)
			break
		}
	}
	return c
}

func itemContext(it *mapItem) map[string]any {
	return map[string]any{"Item": map[string]any{"Index": float64(it.index), "Value": it.value.v}}
}

// evalNumber evaluates a numeric field; nil gives the fallback.
func (r *run) evalNumber(f *frame, t *template, fallback, least, most float64) (float64, error) {
	if t == nil {
		return fallback, nil
	}
	v, err := r.eval(f, t, nil)
	if err != nil {
		return 0, err
	}
	n, ok := number(v.v)
	if !ok || n < least || n > most {
		return 0, r.evaluationFailed(f, t.field, fmt.Sprintf("The field '%s' must be a number from %g to %g but is %s.", t.field, least, most, v.text))
	}
	return n, nil
}

func (r *run) choose(f *frame, s *state) (outcome, error) {
	for _, rule := range s.rules {
		v, err := r.eval(f, rule.condition, nil)
		if err != nil {
			return outcome{}, err
		}
		matched, ok := v.v.(bool)
		if !ok {
			return outcome{}, r.evaluationFailed(f, rule.condition.field,
				fmt.Sprintf("The JSONata expression '%s' specified for the field '%s' must be true or false but is %s.", rule.condition.source,
					rule.condition.field, v.text))
		}
		if matched {
			return outcome{next: rule.next, assign: rule.assign, output: rule.output}, nil
		}
	}
	if s.defaultTo == "" {
		return outcome{}, &StateError{errNoChoice, fmt.Sprintf("No choice rule of the state '%s' matched and it has no Default.", s.name)}
	}
	return outcome{next: s.defaultTo, assign: s.assign, output: s.output}, nil
}

func (r *run) wait(f *frame, s *state, sc *scope) error {
	clock := r.x.e.clock
	var until time.Time
	if s.seconds != nil {
		n, err := r.evalNumber(f, s.seconds, 0, 0, 99999999)
		if err != nil {
			return err
		}
		if n != math.Trunc(n) {
			return r.evaluationFailed(f, s.seconds.field, fmt.Sprintf("The field 'Seconds' must be a whole number but is %g.", n))
		}
		until = clock.Now().Add(time.Duration(n) * time.Second)
	} else {
		v, err := r.eval(f, s.timestamp, nil)
		if err != nil {
			return err
		}
		text, _ := v.v.(string)
		if until, err = parseTimestamp(text); err != nil {
			return r.evaluationFailed(f, s.timestamp.field, err.Error())
		}
	}
	if !until.After(clock.Now()) {
		return nil
	}
	_, err := sc.wait(clock, clock.NewWaker(), until)
	return err
}

// parseTimestamp reads the ASL's profile of RFC 3339: an upper case T, and Z unless an offset is given.
func parseTimestamp(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("the timestamp %q is not of the form 2026-11-22T08:00:00Z", text)
	}
	return t, nil
}

func (r *run) fail(f *frame, s *state) error {
	failed := &StateError{}
	for _, field := range []struct {
		t    *template
		into *string
	}{{s.errorName, &failed.Name}, {s.errorCause, &failed.Cause}} {
		if field.t == nil {
			continue
		}
		v, err := r.eval(f, field.t, nil)
		if err != nil {
			return err
		}
		text, ok := v.v.(string)
		if !ok {
			return r.evaluationFailed(f, field.t.field, fmt.Sprintf("The field '%s' must be a string but is %s.", field.t.field, v.text))
		}
		*field.into = text
	}
	return failed
}

// abortedEvent notes a state that a sibling's failure cut off; the history of a stopped execution is closed already.
func (r *run) abortedEvent(f *frame, s *state) {
	switch s.kind {
	case "Task", "Wait", "Map", "Parallel":
		f.last = r.event(f.last, s.kind+"StateAborted", "", nil)
	}
}

// together runs body for 0..n-1 on strands, at most limit at a time, in order of their numbers. The first error stops the others,
// unless body keeps its errors to itself. It returns when all have ended.
func (r *run) together(sc *scope, n, limit int, body func(i int, sc *scope) error) error {
	if n == 0 {
		return sc.cause()
	}
	clock := r.x.e.clock
	group := newScope(sc)
	defer group.release()
	var mu sync.Mutex
	var first error
	next, live := 0, min(n, limit)
	all := clock.NewWaker()
	for range live {
		clock.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= n || group.cause() != nil {
					break
				}
				if err := body(i, group); err != nil {
					mu.Lock()
					if first == nil && group.cause() == nil {
						first = err
					}
					mu.Unlock()
					group.cancel(errStopped)
				}
			}
			mu.Lock()
			live--
			over := live == 0
			mu.Unlock()
			if over {
				all.Wake()
			}
		})
	}
	clock.Wait(all, time.Time{})
	if err := sc.cause(); err != nil {
		return err
	}
	return first
}

func (r *run) parallel(f *frame, s *state, sc *scope) (*value, error) {
	if f.sub == nil {
		input := f.input
		if s.arguments != nil {
			var err error
			if input, err = r.eval(f, s.arguments, nil); err != nil {
				return nil, err
			}
		}
		f.last = r.event(f.last, "ParallelStateStarted", "", nil)
		for _, b := range s.branches {
			f.sub = append(f.sub, &frame{machine: b, parent: f, vars: &variables{parent: f.vars}, current: b.startAt, input: input, last: f.last})
		}
	}
	if err := r.threads(f, sc, len(f.sub), nil); err != nil {
		if sc.cause() == nil {
			f.last = r.event(f.last, "ParallelStateFailed", "", nil)
		}
		return nil, err
	}
	f.last = r.event(f.last, "ParallelStateSucceeded", "", nil)
	return joinOutputs(f.sub)
}

// threads runs the frames below f; note writes the events around an iteration.
func (r *run) threads(f *frame, sc *scope, limit int, note func(i int, kind string)) error {
	defer func() {
		for _, sub := range f.sub {
			f.last = max(f.last, sub.last)
		}
	}()
	return r.together(sc, len(f.sub), limit, func(i int, group *scope) error {
		sub := f.sub[i]
		if sub.done {
			return nil
		}
		if note != nil && !sub.begun {
			note(i, "Started")
			sub.begun = true
		}
		_, err := r.runFrame(sub, group)
		if note != nil {
			switch {
			case err == nil:
				note(i, "Succeeded")
			case group.cause() != nil:
				note(i, "Aborted")
			default:
				note(i, "Failed")
			}
		}
		return err
	})
}

func joinOutputs(frames []*frame) (*value, error) {
	outputs := make([]string, len(frames))
	for i, sub := range frames {
		outputs[i] = sub.output.text
	}
	v, err := joinArray(outputs)
	return &v, err
}

func joinArray(texts []string) (value, error) {
	raws := make([]json.RawMessage, len(texts))
	for i, t := range texts {
		raws[i] = json.RawMessage(t)
	}
	b := []byte{'['}
	for i, raw := range raws {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, raw...)
	}
	return parseValue(string(append(b, ']')))
}
