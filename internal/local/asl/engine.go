// Package asl is a strict interpreter of the Amazon States Language in its JSONata dialect, with the parts of the Step Functions
// service around it: executions, histories, Map Runs, task tokens, redrive. It runs the project's state machines unchanged, on real
// time for a rehearsal and on a VirtualClock for tests, where a migration of 300 hours takes a fraction of a second.
//
// What it does not implement, Parse refuses: JSONPath, activities, ItemReader and ResultWriter, Express children, resources other
// than lambda:invoke (plain and waitForTaskToken), startExecution.sync:2 and sns:publish. Where the service's behaviour is not
// documented, the place in the code says what was assumed. These assumptions matter most and were never held against the service:
//
//   - a redrive writes no second StateEntered event for Task, Map and Parallel, and one for the other states;
//   - a redriven startExecution.sync:2 task redrives its child execution if that can be redriven, and starts a new one if not;
//   - Stop and a machine's time-out write one last event and none for the states and Map Runs that they cut off;
//   - HeartbeatSeconds of a waitForTaskToken task counts from TaskSubmitted on;
//   - the result of a Map Run leaves out tolerated failures.
package asl

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/recolabs/gnata"
)

// Invoker runs a Lambda function. An error of the function itself is a *FunctionError; an error of the Lambda service is a
// *StateError with its name, such as Lambda.TooManyRequestsException; any other error becomes Lambda.Unknown.
// It is called on a strand of the engine's clock; ctx ends when the task times out or its execution stops.
type Invoker interface {
	Invoke(ctx context.Context, functionName string, payload []byte) (result []byte, err error)
}

// Publisher takes the Arguments of an sns:publish task and returns its result as JSON (with MessageId on the service).
type Publisher interface {
	Publish(ctx context.Context, arguments []byte) (result []byte, err error)
}

// FunctionError is a failed Lambda invocation: Type is the error name that Retry and Catch match, and the state machine's Cause is
// the JSON object {"errorType","errorMessage"[,"stackTrace"]}, as the service gives it.
type FunctionError struct {
	Type    string
	Message string
	Trace   []string
}

// Error implements error.
func (e *FunctionError) Error() string { return e.Type + ": " + e.Message }

func (e *FunctionError) cause() string {
	cause := struct {
		Message string   `json:"errorMessage"`
		Type    string   `json:"errorType"`
		Trace   []string `json:"stackTrace,omitempty"`
	}{e.Message, e.Type, e.Trace}
	text, _ := json.Marshal(cause) // strings always encode
	return string(text)
}

// ServiceError is an error of the Step Functions API; Code is the name of the API's exception, such as ExecutionAlreadyExists.
type ServiceError struct {
	Code    string
	Message string
}

// Error implements error.
func (e *ServiceError) Error() string { return e.Code + ": " + e.Message }

func refuse(code, format string, args ...any) error {
	return &ServiceError{code, fmt.Sprintf(format, args...)}
}

// Config is what an Engine needs from outside. Only Lambda is required, and Publisher where a machine publishes.
type Config struct {
	Clock     Clock // default RealClock
	Lambda    Invoker
	Publisher Publisher
	Random    *rand.Rand // jitter, $random, $uuid and names; default seeded by chance. Give a seeded one for repeatable runs
	Region    string     // default us-east-1
	Account   string     // default 123456789012
	RoleARN   string     // in $states.context.Execution.RoleArn; default a role of the account
}

// Engine holds state machines and their executions in memory. All methods are safe for concurrent use.
type Engine struct {
	cfg        Config
	clock      Clock
	expression func(*gnata.Expression, map[string]any) (any, error)

	randMu sync.Mutex

	mu         sync.Mutex
	machines   map[string]*StateMachine
	executions map[string]*Execution
	started    []*Execution // in order
	mapRuns    map[string]*MapRun
	tokens     map[string]*taskToken
	observers  []*Observer
}

// New returns an engine without state machines.
func New(cfg Config) *Engine {
	cfg.Region = cmp.Or(cfg.Region, "us-east-1")
	cfg.Account = cmp.Or(cfg.Account, "123456789012")
	cfg.RoleARN = cmp.Or(cfg.RoleARN, "arn:aws:iam::"+cfg.Account+":role/local-step-functions")
	if cfg.Clock == nil {
		cfg.Clock = RealClock()
	}
	if cfg.Random == nil {
		var seed [16]byte
		_, _ = crand.Read(seed[:]) // never fails
		cfg.Random = rand.New(rand.NewPCG(binary.NativeEndian.Uint64(seed[:8]), binary.NativeEndian.Uint64(seed[8:])))
	}
	e := &Engine{
		cfg: cfg, clock: cfg.Clock,
		machines: map[string]*StateMachine{}, executions: map[string]*Execution{},
		mapRuns: map[string]*MapRun{}, tokens: map[string]*taskToken{},
	}
	e.expression = e.evaluator()
	return e
}

func (e *Engine) random() float64 {
	e.randMu.Lock()
	defer e.randMu.Unlock()
	return e.cfg.Random.Float64()
}

// uuid makes a version 4 UUID from the engine's random source.
func (e *Engine) uuid() string {
	e.randMu.Lock()
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], e.cfg.Random.Uint64())
	binary.BigEndian.PutUint64(b[8:], e.cfg.Random.Uint64())
	e.randMu.Unlock()
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// Clock returns the engine's clock.
func (e *Engine) Clock() Clock { return e.clock }

// StateMachine is a Machine under a name in an Engine.
type StateMachine struct {
	ARN     string
	Name    string
	RoleARN string
	Created time.Time
	Machine *Machine
}

// ARN returns the ARN of a state machine of this engine's Region and account, whether it exists or not.
func (e *Engine) ARN(stateMachine string) string { return e.arn("stateMachine", stateMachine) }

func (e *Engine) arn(kind, rest string) string {
	return "arn:aws:states:" + e.cfg.Region + ":" + e.cfg.Account + ":" + kind + ":" + rest
}

// AddStateMachine makes m known under a name. A second call with the same name replaces the definition for executions that start
// later, as an update on the service does.
func (e *Engine) AddStateMachine(name string, m *Machine) (*StateMachine, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	sm := &StateMachine{ARN: e.ARN(name), Name: name, RoleARN: e.cfg.RoleARN, Created: e.clock.Now(), Machine: m}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.machines[sm.ARN] = sm
	return sm, nil
}

// StateMachine returns the state machine with this ARN, or StateMachineDoesNotExist.
func (e *Engine) StateMachine(arn string) (*StateMachine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if sm := e.machines[arn]; sm != nil {
		return sm, nil
	}
	return nil, refuse("StateMachineDoesNotExist", "State Machine Does Not Exist: '%s'", arn)
}

// StateMachines returns all state machines, sorted by name.
func (e *Engine) StateMachines() []*StateMachine {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*StateMachine
	for _, sm := range e.machines {
		out = append(out, sm)
	}
	slices.SortFunc(out, func(a, b *StateMachine) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Start starts an execution. Input is JSON text of at most 256 KiB; an empty one is {}. An empty name is replaced by a UUID.
//
// Start is idempotent as StartExecution of Standard workflows: the same name and input while that execution runs gives the same
// execution; anything else under a used name is ExecutionAlreadyExists. Other codes: StateMachineDoesNotExist, InvalidName,
// InvalidExecutionInput.
func (e *Engine) Start(stateMachineARN, name, input string) (*Execution, error) {
	sm, err := e.StateMachine(stateMachineARN)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = e.uuid()
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	in, err := parseInput(input)
	if err != nil {
		return nil, err
	}
	x := &Execution{
		e: e, ARN: e.arn("execution", sm.Name+":"+name), Name: name, StateMachineARN: sm.ARN,
		machineName: sm.Name, machine: sm.Machine, input: in,
	}
	e.mu.Lock()
	if old := e.executions[x.ARN]; old != nil {
		e.mu.Unlock()
		if old.Status() == Running && old.input.text == in.text {
			return old, nil
		}
		return nil, refuse("ExecutionAlreadyExists", "Execution Already Exists: '%s'", x.ARN)
	}
	// Opened before others can find it, so that nobody meets an execution without status or history.
	r := x.open(nil)
	e.executions[x.ARN] = x
	e.started = append(e.started, x)
	e.mu.Unlock()
	e.notifyStatus(x, Running)
	e.clock.Go(r.main)
	return x, nil
}

func parseInput(input string) (value, error) {
	if input == "" {
		input = "{}"
	}
	if len(input) > maxPayload {
		return value{}, refuse("InvalidExecutionInput", "Invalid State Machine Execution Input: %d bytes are more than %d", len(input), maxPayload)
	}
	v, err := parseValue(input)
	if err != nil {
		return value{}, refuse("InvalidExecutionInput", "Invalid State Machine Execution Input: '%v'", err)
	}
	return v, nil
}

// forbiddenInNames is the service's list for names of executions, state machines and labels.
const forbiddenInNames = "<>{}[]?*\"#%\\^|~`$&,;:/ \t\r\n"

func checkName(name string) error {
	if n := utf8.RuneCountInString(name); n < 1 || n > 80 {
		return refuse("InvalidName", "Invalid Name: '%s' (a name has 1 to 80 characters)", name)
	}
	if strings.ContainsAny(name, forbiddenInNames) || strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name) {
		return refuse("InvalidName", "Invalid Name: '%s' (white space, control characters and any of %s are not allowed)", name,
			strings.TrimSpace(forbiddenInNames))
	}
	return nil
}

// Execution returns the execution with this ARN, children of Map Runs included, or ExecutionDoesNotExist.
func (e *Engine) Execution(arn string) (*Execution, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.executions[arn]; x != nil {
		return x, nil
	}
	return nil, refuse("ExecutionDoesNotExist", "Execution Does Not Exist: '%s'", arn)
}

// Executions returns the executions of a state machine or of a Map Run by its ARN, the newest first. The empty ARN means all but
// the children of Map Runs.
func (e *Engine) Executions(arn string) []*Execution {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*Execution
	for _, x := range slices.Backward(e.started) {
		switch {
		case x.mapRun != nil && x.mapRun.ARN == arn, x.mapRun == nil && (arn == "" || x.StateMachineARN == arn):
			out = append(out, x)
		}
	}
	return out
}

// MapRun returns the Map Run with this ARN, or ResourceNotFound.
func (e *Engine) MapRun(arn string) (*MapRun, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m := e.mapRuns[arn]; m != nil {
		return m, nil
	}
	return nil, refuse("ResourceNotFound", "Resource not found: '%s'", arn)
}

// StatusChange reports that an execution began, ended or was redriven.
type StatusChange struct {
	Execution *Execution
	Status    Status
	Time      time.Time
}

// StateEntered reports that an execution entered a state.
type StateEntered struct {
	Execution *Execution
	State     string
	Time      time.Time
}

// Observer is told what happens, in order for each execution, on the engine's strands. Its functions must return soon; they may
// start and stop executions. Either may be nil.
type Observer struct {
	StatusChanged func(StatusChange)
	StateEntered  func(StateEntered)
}

// Observe adds an observer for all executions, children of Map Runs included, until cancel is called.
func (e *Engine) Observe(o Observer) (cancel func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.observers = append(slices.Clip(e.observers), &o)
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.observers = slices.DeleteFunc(slices.Clone(e.observers), func(x *Observer) bool { return x == &o })
	}
}

func (e *Engine) watching() []*Observer {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.observers
}

func (e *Engine) notifyStatus(x *Execution, s Status) {
	change := StatusChange{x, s, e.clock.Now()}
	for _, o := range e.watching() {
		if o.StatusChanged != nil {
			o.StatusChanged(change)
		}
	}
}

func (e *Engine) notifyEntered(x *Execution, name string) {
	for _, o := range e.watching() {
		if o.StateEntered != nil {
			o.StateEntered(StateEntered{x, name, e.clock.Now()})
		}
	}
}
