package asl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Status is the status of an execution or Map Run as the API writes it.
type Status string

// The statuses. A Map Run has no TIMED_OUT.
const (
	Running   Status = "RUNNING"
	Succeeded Status = "SUCCEEDED"
	Failed    Status = "FAILED"
	TimedOut  Status = "TIMED_OUT"
	Aborted   Status = "ABORTED"
)

// Names of errors that the service gives. Source: AWS Step Functions Developer Guide, "Handling errors".
const (
	errAll          = "States.ALL"
	errTaskFailed   = "States.TaskFailed"
	errTimeout      = "States.Timeout"
	errHeartbeat    = "States.HeartbeatTimeout"
	errRuntime      = "States.Runtime"
	errDataLimit    = "States.DataLimitExceeded"
	errQuery        = "States.QueryEvaluationError"
	errNoChoice     = "States.NoChoiceMatched"
	errThreshold    = "States.ExceedToleratedFailureThreshold"
	errBranchFailed = "States.BranchFailed"
)

var reservedErrors = []string{
	errAll, errTaskFailed, errTimeout, errHeartbeat, errRuntime, errDataLimit, errQuery, errNoChoice, errThreshold, errBranchFailed,
	"States.Permissions", "States.ItemReaderFailed", "States.ResultWriterFailed", "States.Http.Socket",
}

// StateError is an error inside a state machine: the name that Retry and Catch match, and its cause.
type StateError struct {
	Name  string
	Cause string
}

// Error implements error.
func (e *StateError) Error() string {
	if e.Cause == "" {
		return e.Name
	}
	return e.Name + ": " + e.Cause
}

func (e *StateError) is(names []string) bool {
	if e.Name == errRuntime {
		return false // the service: "always causes the execution to fail"
	}
	for _, name := range names {
		switch {
		case name == e.Name,
			name == errAll && e.Name != errDataLimit,
			// A missed heartbeat is a kind of time-out; whether States.TaskFailed covers it is not documented: no.
			name == errTimeout && e.Name == errHeartbeat,
			name == errTaskFailed && e.Name != errTimeout && e.Name != errHeartbeat && e.Name != errDataLimit:
			return true
		}
	}
	return false
}

// errStopped is why the scope of a run ended early: Stop, a time-out, or the failure of a sibling branch.
var errStopped = errors.New("the execution or its branch was stopped")

// Execution is one run of a state machine, or one child of a Map Run. Its exported fields never change.
type Execution struct {
	ARN             string
	Name            string
	StateMachineARN string

	e           *Engine
	machineName string
	machine     *Machine
	input       value
	mapRun      *MapRun // of a child
	itemCount   int     // of a child

	mu            sync.Mutex
	status        Status
	output        value
	failure       *StateError
	start, stop   time.Time
	redriven      time.Time
	redrives      int
	history       []Event
	current       *run
	root          *frame
	done          chan struct{} // closed at the end of the current run
	doneWakers    []Waker
	mapRunsOfMine []*MapRun // in order
}

// run is one attempt of an execution: the first, or a redrive.
type run struct {
	x      *Execution
	sc     *scope
	closed bool   // under x.mu: nothing may be written any more
	ended  Waker  // woken when the strand is through
	before *run   // must be through first
	over   *scope // ended by finish; the time-out strand waits in it
	event0 int64  // of a redrive: its ExecutionRedriven event
}

// Description is what DescribeExecution tells.
type Description struct {
	ExecutionARN, StateMachineARN, Name string
	Status                              Status
	StartDate, StopDate                 time.Time // StopDate is zero while it runs
	Input                               string
	Output                              string // only when it succeeded
	Error, Cause                        string
	RedriveCount                        int
	RedriveDate                         time.Time // zero when never redriven
	RedriveStatus                       string    // REDRIVABLE, NOT_REDRIVABLE or REDRIVABLE_BY_MAP_RUN
	RedriveStatusReason                 string
	MapRunARN                           string // of a child of a Map Run
	ItemCount                           int    // of a child of a Map Run
}

// Describe returns the state of the execution at this moment.
func (x *Execution) Describe() Description {
	x.mu.Lock()
	defer x.mu.Unlock()
	d := Description{
		ExecutionARN: x.ARN, StateMachineARN: x.StateMachineARN, Name: x.Name, Status: x.status, StartDate: x.start, StopDate: x.stop,
		Input: x.input.text, Output: x.output.text, RedriveCount: x.redrives, RedriveDate: x.redriven, ItemCount: x.itemCount,
	}
	if x.failure != nil {
		d.Error, d.Cause = clip(x.failure.Name, maxErrorLength), clip(x.failure.Cause, maxCauseLength)
	}
	d.RedriveStatus = "REDRIVABLE"
	if d.RedriveStatusReason = x.notRedrivable(); d.RedriveStatusReason != "" {
		d.RedriveStatus = "NOT_REDRIVABLE"
	} else if x.mapRun != nil {
		d.RedriveStatus = "REDRIVABLE_BY_MAP_RUN"
	}
	if x.mapRun != nil {
		d.MapRunARN = x.mapRun.ARN
	}
	return d
}

// Status returns the status at this moment.
func (x *Execution) Status() Status {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.status
}

// History returns the events so far, the oldest first; reading it costs a copy.
func (x *Execution) History() []Event {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.history)
}

// EventCount returns the number of events so far.
func (x *Execution) EventCount() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.history)
}

// MapRuns returns the Map Runs that this execution started, in order.
func (x *Execution) MapRuns() []*MapRun {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.mapRunsOfMine)
}

// Done returns a channel that is closed when the execution ends; a redrive makes a new one.
func (x *Execution) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.done
}

// Wait waits for the end of the execution, and then describes it. It must not be called on a strand of a VirtualClock.
func (x *Execution) Wait(ctx context.Context) (Description, error) {
	select {
	case <-x.Done():
		return x.Describe(), nil
	case <-ctx.Done():
		return Description{}, fmt.Errorf("waiting for execution %s: %w", x.ARN, ctx.Err())
	}
}

// Stop aborts a running execution at once: its tasks are cancelled, its child executions stopped. Stopping one that has ended does
// nothing, as on the service. It returns the time of the end.
func (x *Execution) Stop(errorName, cause string) time.Time {
	x.mu.Lock()
	r := x.current
	x.mu.Unlock()
	r.finish(Aborted, value{}, &StateError{errorName, cause})
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.stop
}

// notRedrivable says why, in the service's words, or nothing. x.mu is held.
func (x *Execution) notRedrivable() string {
	switch {
	case x.status == Running, x.status == Succeeded:
		return "Execution is " + string(x.status) + " and cannot be redriven"
	case len(x.history) >= maxEvents-1:
		return "Execution history event limit exceeded"
	case x.e.clock.Now().Sub(x.stop) > redrivePeriod:
		return "Execution redrivable period exceeded"
	}
	return ""
}

// Redrive continues an unsuccessful execution from the state that did not succeed, with its input and variables; retry counts and
// time-outs begin anew. A finished iteration or branch is not run again; a Distributed Map runs only its unsuccessful children; a
// startExecution.sync:2 task redrives its child execution if that is redrivable and else starts a new one.
// The error code is ExecutionNotRedrivable.
func (x *Execution) Redrive() error {
	if x.mapRun != nil {
		return refuse("ExecutionNotRedrivable", "'%s' is a child of a Map Run; redrive the execution that started it", x.ARN)
	}
	r, err := x.reopen(nil)
	if err != nil {
		return err
	}
	x.e.clock.Go(r.main)
	return nil
}

// open prepares the first attempt, in a scope below parent.
func (x *Execution) open(parent *scope) *run {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.start = x.e.clock.Now()
	x.root = &frame{machine: x.machine, vars: &variables{}}
	r := x.newRun(parent)
	x.appendEvent(0, "ExecutionStarted", "executionStartedEventDetails",
		details{"input": x.input.text, "inputDetails": whole, "roleArn": x.e.cfg.RoleARN})
	return r
}

func (x *Execution) newRun(parent *scope) *run {
	r := &run{x: x, sc: newScope(parent), ended: x.e.clock.NewWaker(), over: newScope(nil), before: x.current}
	x.current, x.status, x.done = r, Running, make(chan struct{})
	x.stop, x.output, x.failure = time.Time{}, value{}, nil
	return r
}

// reopen prepares a redrive.
func (x *Execution) reopen(parent *scope) (*run, error) {
	x.mu.Lock()
	if reason := x.notRedrivable(); reason != "" {
		x.mu.Unlock()
		return nil, refuse("ExecutionNotRedrivable", "%s: '%s'", reason, x.ARN)
	}
	r := x.newRun(parent)
	x.redrives++
	x.redriven = x.e.clock.Now()
	r.event0 = x.appendEvent(int64(len(x.history)), "ExecutionRedriven", "executionRedrivenEventDetails", details{"redriveCount": x.redrives})
	x.mu.Unlock()
	x.e.notifyStatus(x, Running)
	return r, nil
}

// main runs the attempt on its strand.
func (r *run) main() {
	x := r.x
	defer r.ended.Wake()
	if r.before != nil {
		// A stopped run may still be unwinding; it owns the frames until it is through.
		x.e.clock.Wait(r.before.ended, time.Time{})
		r.before = nil
		x.root.resume(r.event0)
	}
	if x.machine.timeout > 0 {
		until := x.e.clock.Now().Add(time.Duration(x.machine.timeout) * time.Second)
		x.e.clock.Go(func() {
			if _, err := r.over.wait(x.e.clock, x.e.clock.NewWaker(), until); err == nil {
				r.finish(TimedOut, value{}, &StateError{})
			}
		})
	}
	if x.root.current == "" {
		x.root.input, x.root.current = x.input, x.machine.startAt
	}
	out, err := r.runFrame(x.root, r.sc)
	switch {
	case err == nil:
		r.finish(Succeeded, out, nil)
	case r.sc.cause() != nil:
		// Stopped from outside: Stop and time-outs have finished the run already, a parent Map Run has not.
		r.finish(Aborted, value{}, &StateError{})
	default:
		r.finish(Failed, value{}, asStateError(err))
	}
}

// finish ends the attempt with its last event; the first call counts.
func (r *run) finish(status Status, output value, failed *StateError) {
	x := r.x
	x.mu.Lock()
	if r.closed {
		x.mu.Unlock()
		return
	}
	r.closed = true
	x.status, x.output, x.failure, x.stop = status, output, failed, x.e.clock.Now()
	last := int64(len(x.history))
	if x.root.last > 0 && status != Aborted && status != TimedOut {
		last = x.root.last
	}
	switch status {
	case Succeeded:
		x.appendEvent(last, "ExecutionSucceeded", "executionSucceededEventDetails", details{"output": output.text, "outputDetails": whole})
	case Failed:
		x.appendEvent(last, "ExecutionFailed", "executionFailedEventDetails", failure(failed))
	case TimedOut:
		x.appendEvent(last, "ExecutionTimedOut", "executionTimedOutEventDetails", failure(failed))
	case Aborted:
		x.appendEvent(last, "ExecutionAborted", "executionAbortedEventDetails", failure(failed))
	}
	done, wakers := x.done, x.doneWakers
	x.doneWakers = nil
	x.mu.Unlock()
	r.over.cancel(errStopped)
	r.sc.cancel(errStopped)
	if r.sc.parent != nil {
		r.sc.release()
	}
	x.e.notifyStatus(x, status)
	close(done) // after the observers: who waited may redrive at once
	for _, w := range wakers {
		w.Wake()
	}
}

// await waits on a strand for the end of the execution.
func (x *Execution) await(sc *scope, until time.Time) (ended bool, err error) {
	w := x.e.clock.NewWaker()
	x.mu.Lock()
	if x.status != Running {
		x.mu.Unlock()
		return true, nil
	}
	x.doneWakers = append(x.doneWakers, w)
	x.mu.Unlock()
	return sc.wait(x.e.clock, w, until)
}

func asStateError(err error) *StateError {
	var se *StateError
	if errors.As(err, &se) {
		return se
	}
	return &StateError{Name: errRuntime, Cause: err.Error()}
}
