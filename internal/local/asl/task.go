package asl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/recolabs/gnata"
)

// call is one attempt of a Task.
type call struct {
	r             *run
	f             *frame
	s             *state
	sc            *scope // of this attempt: ends with it
	args          value
	kind, name    string // resourceType and resource of the events
	deadline      time.Time
	beat          time.Duration // heartbeat; 0 is none
	token         *taskToken
	timeoutSecond float64
}

func (c *call) details() details { return details{"resourceType": c.kind, "resource": c.name} }

func (c *call) event(kind, name string, d details) {
	c.f.last = c.r.event(c.f.last, kind, name, d)
}

// task runs one attempt of a Task state. Its events are those of an optimised integration: Scheduled, Started, (Submitted,) and
// Succeeded, Failed or TimedOut.
func (r *run) task(f *frame, s *state, sc *scope) (*value, error) {
	kind, name, _ := strings.Cut(strings.TrimPrefix(s.resource, "arn:aws:states:::"), ":")
	c := &call{r: r, f: f, s: s, kind: kind, name: name}
	extra := map[string]any{}
	if s.resource == resourceInvokeToken {
		c.token = r.x.e.newToken(r.x, s.name)
		defer c.token.close()
		extra["token"] = c.token.id
	}
	var err error
	if c.args, err = r.eval(f, s.arguments, extra); err != nil {
		return nil, err
	}
	if c.timeoutSecond, err = r.evalNumber(f, s.timeout, 0, 1, 99999999); err != nil {
		return nil, err
	}
	beat, err := r.evalNumber(f, s.heartbeat, 0, 1, 99999999)
	if err != nil {
		return nil, err
	}
	c.beat = time.Duration(beat * float64(time.Second))
	d := c.details().with("parameters", c.args.text).with("region", r.x.e.cfg.Region)
	if c.timeoutSecond > 0 {
		c.deadline = r.x.e.clock.Now().Add(time.Duration(c.timeoutSecond * float64(time.Second)))
		d["timeoutInSeconds"] = int64(c.timeoutSecond)
	}
	if beat > 0 {
		d["heartbeatInSeconds"] = int64(beat)
	}
	c.event("TaskScheduled", "taskScheduledEventDetails", d)
	if err := c.checkArguments(); err != nil {
		c.event("TaskFailed", "taskFailedEventDetails", merge(c.details(), failure(asStateError(err))))
		return nil, err
	}
	c.event("TaskStarted", "taskStartedEventDetails", c.details())

	c.sc = newScope(sc)
	defer c.sc.release()
	var result value
	switch s.resource {
	case resourceInvoke:
		result, err = c.invoke(c.beat)
	case resourceInvokeToken:
		result, err = c.invokeAndWait()
	case resourceStartSync:
		result, err = c.startAndWait()
	case resourcePublish:
		result, err = c.publish()
	}
	if err == nil {
		err = r.tooLarge(f, "task result", result.text)
	}
	if err != nil {
		if stopped := sc.cause(); stopped != nil {
			return nil, stopped
		}
		failed := asStateError(err)
		if failed.Name == errTimeout || failed.Name == errHeartbeat {
			c.event("TaskTimedOut", "taskTimedOutEventDetails", merge(c.details(), failure(failed)))
		} else {
			c.event("TaskFailed", "taskFailedEventDetails", merge(c.details(), failure(failed)))
		}
		return nil, failed
	}
	c.event("TaskSucceeded", "taskSucceededEventDetails", c.details().with("output", result.text).with("outputDetails", whole))
	return &result, nil
}

func merge(d, more details) details {
	for k, v := range more {
		d[k] = v
	}
	return d
}

// object is what gnata decodes an object to.
type decodedObject interface {
	Get(key string) (any, bool)
	Keys() []string
}

// checkArguments holds an Arguments object that an expression made to the same fields as a literal one.
func (c *call) checkArguments() error {
	o, ok := c.args.v.(decodedObject)
	if !ok {
		return &StateError{errRuntime, fmt.Sprintf("The Arguments of the state '%s' are no object.", c.s.name)}
	}
	known := taskArguments[c.s.resource]
	for _, key := range o.Keys() {
		if !slices.Contains(known.required, key) && !slices.Contains(known.optional, key) {
			return &StateError{errRuntime, fmt.Sprintf("The field '%s' in the Arguments of the state '%s' is unknown or not implemented.",
				key, c.s.name)}
		}
	}
	for _, key := range known.required {
		if _, ok := o.Get(key); !ok {
			return &StateError{errRuntime, fmt.Sprintf("The field '%s' is missing in the Arguments of the state '%s'.", key, c.s.name)}
		}
	}
	return nil
}

func (c *call) argument(key string) (text string, given bool, err error) {
	v, given := c.args.v.(decodedObject).Get(key)
	if !given {
		return "", false, nil
	}
	b, err := appendJSON(nil, v)
	return string(b), true, err
}

func (c *call) stringArgument(key string) (string, error) {
	v, given := c.args.v.(decodedObject).Get(key)
	if !given || gnata.IsNull(v) {
		return "", nil
	}
	s, ok := v.(string)
	if !ok {
		return "", &StateError{errRuntime, fmt.Sprintf("The field '%s' in the Arguments of the state '%s' must be a string.", key, c.s.name)}
	}
	return s, nil
}

func (c *call) timedOut() *StateError {
	return &StateError{Name: errTimeout}
}

// await waits for w until the task's own time-out, or for a heartbeat limit if that is sooner.
func (c *call) await(w Waker, beat time.Duration) error {
	clock := c.r.x.e.clock
	until, late := c.deadline, c.timedOut()
	if beat > 0 {
		if b := clock.Now().Add(beat); until.IsZero() || b.Before(until) {
			until, late = b, &StateError{Name: errHeartbeat}
		}
	}
	woken, err := c.sc.wait(clock, w, until)
	if err != nil {
		return err
	}
	if !woken {
		return late
	}
	return nil
}

// outside runs f, which may block for as long as it likes, on a strand of its own; when the task ends first f's answer is lost.
func (c *call) outside(beat time.Duration, f func(ctx context.Context) ([]byte, error)) ([]byte, error) {
	type answer struct {
		result []byte
		err    error
	}
	w := c.r.x.e.clock.NewWaker()
	got := make(chan answer, 1)
	c.r.x.e.clock.Go(func() {
		result, err := f(c.sc)
		got <- answer{result, err}
		w.Wake()
	})
	if err := c.await(w, beat); err != nil {
		return nil, err
	}
	a := <-got
	return a.result, a.err
}

func (c *call) invoke(beat time.Duration) (value, error) {
	name, err := c.stringArgument("FunctionName")
	if err != nil {
		return value{}, err
	}
	payload, given, err := c.argument("Payload")
	if err != nil {
		return value{}, err
	}
	if !given {
		payload = "{}"
	}
	if c.r.x.e.cfg.Lambda == nil {
		return value{}, &StateError{errRuntime, "This engine was made without a Lambda invoker."}
	}
	answer, err := c.outside(beat, func(ctx context.Context) ([]byte, error) {
		return c.r.x.e.cfg.Lambda.Invoke(ctx, name, []byte(payload))
	})
	if err != nil {
		return value{}, lambdaError(err)
	}
	if len(answer) == 0 {
		answer = []byte("null")
	}
	text, err := compactJSON(answer)
	if err != nil {
		return value{}, &StateError{"Lambda.Unknown", fmt.Sprintf("The function %s answered what is not JSON: %v", name, err)}
	}
	return parseValue(`{"ExecutedVersion":"$LATEST","Payload":` + text + `,"StatusCode":200}`)
}

func lambdaError(err error) error {
	if fe, ok := errors.AsType[*FunctionError](err); ok {
		return &StateError{fe.Type, fe.cause()}
	}
	if se, ok := errors.AsType[*StateError](err); ok {
		return se
	}
	if errors.Is(err, errStopped) {
		return err
	}
	return &StateError{"Lambda.Unknown", err.Error()}
}

func (c *call) invokeAndWait() (value, error) {
	// HeartbeatSeconds counts from the submission on: while the function is being called there is nothing to hear.
	submitted, err := c.invoke(0)
	if err != nil {
		return value{}, err // a failed call ends the task, even if its token has been answered
	}
	c.event("TaskSubmitted", "taskSubmittedEventDetails", c.details().with("output", submitted.text).with("outputDetails", whole))
	for {
		w, settled := c.token.watch()
		if !settled {
			if err := c.await(w, c.beat); err != nil {
				return value{}, err
			}
		}
		if output, failed, settled := c.token.answer(); settled {
			if failed != nil {
				return value{}, failed
			}
			return output, nil
		}
	}
}

func (c *call) publish() (value, error) {
	p := c.r.x.e.cfg.Publisher
	if p == nil {
		return value{}, &StateError{errRuntime, "This engine was made without a publisher for sns:publish."}
	}
	answer, err := c.outside(c.beat, func(ctx context.Context) ([]byte, error) { return p.Publish(ctx, []byte(c.args.text)) })
	if err != nil {
		if se, ok := errors.AsType[*StateError](err); ok {
			return value{}, se
		}
		if errors.Is(err, errStopped) {
			return value{}, err
		}
		return value{}, &StateError{"SNS.SnsException", err.Error()}
	}
	text, err := compactJSON(answer)
	if err != nil {
		return value{}, &StateError{"SNS.SnsException", fmt.Sprintf("the publisher answered what is not JSON: %v", err)}
	}
	return parseValue(text)
}

// startAndWait is startExecution.sync:2. A redrive of the parent redrives the same child if it can be, so that its finished work
// counts; else, and on a retry, a new child starts.
func (c *call) startAndWait() (value, error) {
	e := c.r.x.e
	child := c.f.child
	c.f.child = nil
	if child != nil && child.Redrive() != nil {
		child = nil
	}
	if child == nil {
		arn, err := c.stringArgument("StateMachineArn")
		if err != nil {
			return value{}, err
		}
		name, err := c.stringArgument("Name")
		if err != nil {
			return value{}, err
		}
		input, _, err := c.argument("Input")
		if err != nil {
			return value{}, err
		}
		if child, err = e.Start(arn, name, input); err != nil {
			if se, ok := errors.AsType[*ServiceError](err); ok {
				return value{}, &StateError{"StepFunctions." + se.Code + "Exception", se.Message}
			}
			return value{}, err
		}
	}
	c.f.child = child
	started := child.Describe()
	c.event("TaskSubmitted", "taskSubmittedEventDetails", c.details().with("outputDetails", whole).
		with("output", fmt.Sprintf(`{"ExecutionArn":%s,"StartDate":%d}`, quote(child.ARN), started.StartDate.UnixMilli())))
	ended, err := child.await(c.sc, c.deadline)
	if err == nil && !ended {
		err = c.timedOut()
	}
	if err != nil {
		child.Stop("", "The execution "+c.r.x.ARN+" that waited for this one ended or timed out.")
		return value{}, err
	}
	d := child.Describe()
	if d.Status != Succeeded {
		return value{}, &StateError{errTaskFailed, describeText(d, false)}
	}
	return parseValue(describeText(d, true))
}

// describeText is the DescribeExecution document as the .sync:2 integration gives it: times in milliseconds since 1970; Input and
// Output are JSON in a result, while the Cause of a failure keeps the input as text.
func describeText(d Description, parsed bool) string {
	b := []byte(`{"ExecutionArn":` + quote(d.ExecutionARN))
	data := func(key, text string) {
		if !parsed {
			text = quote(text)
		}
		b = append(b, fmt.Sprintf(`,"%s":%s,"%sDetails":{"Included":true}`, key, text, key)...)
	}
	if d.Status != Succeeded {
		if d.Cause != "" {
			b = append(b, `,"Cause":`+quote(d.Cause)...)
		}
		if d.Error != "" {
			b = append(b, `,"Error":`+quote(d.Error)...)
		}
	}
	data("Input", d.Input)
	b = append(b, `,"Name":`+quote(d.Name)...)
	if d.Status == Succeeded {
		data("Output", d.Output)
	}
	b = append(b, fmt.Sprintf(`,"RedriveCount":%d,"RedriveStatus":%s`, d.RedriveCount, quote(d.RedriveStatus))...)
	if d.RedriveStatusReason != "" {
		b = append(b, `,"RedriveStatusReason":`+quote(d.RedriveStatusReason)...)
	}
	return string(append(b, fmt.Sprintf(`,"StartDate":%d,"StateMachineArn":%s,"Status":%s,"StopDate":%d}`,
		d.StartDate.UnixMilli(), quote(d.StateMachineARN), quote(string(d.Status)), d.StopDate.UnixMilli())...))
}

// taskToken is a task that waits for SendTaskSuccess or SendTaskFailure.
type taskToken struct {
	e     *Engine
	id    string
	x     *Execution
	state string

	// under e.mu:
	closed  bool // nobody waits any more
	settled bool
	output  value
	failed  *StateError
	waker   Waker
}

func (e *Engine) newToken(x *Execution, state string) *taskToken {
	t := &taskToken{e: e, id: e.uuid() + e.uuid(), x: x, state: state}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tokens[t.id] = t
	return t
}

func (t *taskToken) close() {
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	t.closed = true
}

func (t *taskToken) watch() (w Waker, settled bool) {
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	t.waker = t.e.clock.NewWaker()
	return t.waker, t.settled
}

func (t *taskToken) answer() (value, *StateError, bool) {
	t.e.mu.Lock()
	defer t.e.mu.Unlock()
	return t.output, t.failed, t.settled
}

// settle finds the token and lets change write to it; e.mu is held in change.
func (e *Engine) settle(token string, change func(t *taskToken)) error {
	e.mu.Lock()
	t := e.tokens[token]
	switch {
	case t == nil:
		e.mu.Unlock()
		return refuse("InvalidToken", "Invalid Token: 'Invalid token'")
	case t.closed || t.settled:
		e.mu.Unlock()
		return refuse("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'")
	}
	change(t)
	w := t.waker
	e.mu.Unlock()
	if w != nil {
		w.Wake()
	}
	return nil
}

// SendTaskSuccess ends the task that waits with this token; output is its result as JSON. Codes: InvalidToken, TaskTimedOut (it
// does not wait any more), InvalidOutput.
func (e *Engine) SendTaskSuccess(token, output string) error {
	if len(output) > maxPayload {
		return refuse("InvalidOutput", "Invalid Output: %d bytes are more than %d", len(output), maxPayload)
	}
	v, err := parseValue(output)
	if err != nil {
		return refuse("InvalidOutput", "Invalid Output: '%v'", err)
	}
	return e.settle(token, func(t *taskToken) { t.settled, t.output = true, v })
}

// SendTaskFailure fails the task that waits with this token. Codes: InvalidToken, TaskTimedOut.
func (e *Engine) SendTaskFailure(token, errorName, cause string) error {
	return e.settle(token, func(t *taskToken) { t.settled, t.failed = true, &StateError{errorName, cause} })
}

// SendTaskHeartbeat starts the task's HeartbeatSeconds anew. Codes: InvalidToken, TaskTimedOut.
func (e *Engine) SendTaskHeartbeat(token string) error {
	return e.settle(token, func(*taskToken) {})
}

// WaitingTask is a task that waits for an answer by token.
type WaitingTask struct {
	Token, ExecutionARN, State string
}

// WaitingTasks returns the tasks that wait for a token at this moment, sorted by execution and state. The service has no such call;
// a local operator needs it to approve.
func (e *Engine) WaitingTasks() []WaitingTask {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []WaitingTask
	for id, t := range e.tokens {
		if !t.closed && !t.settled {
			out = append(out, WaitingTask{id, t.x.ARN, t.state})
		}
	}
	slices.SortFunc(out, func(a, b WaitingTask) int {
		return cmp.Or(strings.Compare(a.ExecutionARN, b.ExecutionARN), strings.Compare(a.State, b.State), strings.Compare(a.Token, b.Token))
	})
	return out
}
