// Package lambdaruntime runs built Lambda binaries (provided.al2023 "bootstrap" programs) on this machine behind the Lambda
// Runtime API, version 2018-06-01, on 127.0.0.1.
//
// Each process serves one invocation at a time and is kept warm for the next; invocations that run at the same time get processes
// of their own. A process that outlives the function's time-out is killed with its whole process group. Error types and messages
// are those of the service where it makes them itself: Sandbox.Timedout, Runtime.ExitError, Function.ResponseSizeTooLarge.
//
// Not modelled: memory limits (the size is only told to the function), layers, extensions, throttling
// (Lambda.TooManyRequestsException), response streaming and several invocations at once in one process.
//
// Source of the API: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html and aws-lambda-go v1.55.1.
package lambdaruntime

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Limits of the service for synchronous invocations, in bytes.
const (
	maxEvent    = 6 << 20
	maxResponse = 6_291_556
)

// initLimit is how long a new process may take to its first request for an event, on top of the function's time-out: the service
// gives 10 s to the init phase, and repeats it inside the first invocation when that was not enough.
const initLimit = 10 * time.Second

// Function is one Lambda function. Timeout is required, 15 minutes at most; MemoryMB defaults to 128.
//
// The process sees Env, the variables that the service sets, and nothing of the host's own environment.
type Function struct {
	Name     string
	Binary   string
	Env      map[string]string
	Timeout  time.Duration
	MemoryMB int
}

// Config describes a host. LogDir gets one <function>.log each, appended to. Region and AccountID default to us-east-1 and
// 000000000000.
//
// Kill, when set, is asked once an invocation has been fetched by its process; answering true has the process killed (SIGKILL)
// that long afterwards, if it still works on this invocation then.
type Config struct {
	Functions []Function
	LogDir    string
	Region    string
	AccountID string
	Kill      func(function string) (after time.Duration, kill bool)
}

// FunctionError is an invocation that the function, or the runtime in its place, answered with an error. Type is what a state
// machine's ErrorEquals matches.
type FunctionError struct {
	Type       string
	Message    string
	StackTrace []StackFrame
}

// StackFrame is one frame of a FunctionError.
type StackFrame struct {
	Path  string `json:"path"`
	Line  int32  `json:"line"`
	Label string `json:"label"`
}

func (e *FunctionError) Error() string { return e.Type + ": " + e.Message }

// Cause returns the JSON text that Step Functions shows as the Cause of a failed lambda:invoke task.
func (e *FunctionError) Cause() string {
	text, err := json.Marshal(struct {
		Message    string       `json:"errorMessage"`
		Type       string       `json:"errorType"`
		StackTrace []StackFrame `json:"stackTrace,omitempty"`
	}{e.Message, e.Type, e.StackTrace})
	if err != nil {
		return e.Error() // not reached: the fields are plain text and numbers
	}
	return string(text)
}

// ErrUnknownFunction says that no function has this name.
var ErrUnknownFunction = errors.New("function not found")

// ErrClosed says that the host is closed.
var ErrClosed = errors.New("the Lambda host is closed")

// Host runs functions. Its methods may be called from several goroutines.
type Host struct {
	config    Config
	functions map[string]*function

	mu     sync.Mutex
	closed bool
	idle   map[*function][]*process // waiting in "next"; the last one was used last
	live   map[*process]struct{}
}

type function struct {
	Function
	arn string
	log *os.File
}

// Start checks the functions and opens their logs. Processes start with the first invocations.
func Start(config Config) (*Host, error) {
	config.Region = cmp.Or(config.Region, "us-east-1")
	config.AccountID = cmp.Or(config.AccountID, "000000000000")
	h := &Host{config: config, functions: map[string]*function{}, idle: map[*function][]*process{}, live: map[*process]struct{}{}}
	if err := os.MkdirAll(config.LogDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for the functions' logs: %w", err)
	}
	for _, f := range config.Functions {
		if err := h.add(f); err != nil {
			return nil, errors.Join(fmt.Errorf("set up Lambda function %q: %w", f.Name, err), h.Close())
		}
	}
	return h, nil
}

func (h *Host) add(f Function) error {
	switch {
	case f.Name == "" || f.Name != filepath.Base(f.Name):
		return errors.New("the name must be a plain name")
	case h.functions[f.Name] != nil:
		return errors.New("the name is given twice")
	case f.Timeout <= 0 || f.Timeout > 15*time.Minute:
		return fmt.Errorf("time-out %s: must be over 0 and 15 minutes at most", f.Timeout)
	}
	binary, err := filepath.Abs(f.Binary)
	if err != nil {
		return err
	}
	if info, err := os.Stat(binary); err != nil {
		return fmt.Errorf("its binary: %w (build the Lambdas first)", err)
	} else if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("its binary %s is not an executable file", binary)
	}
	f.Binary = binary
	f.MemoryMB = cmp.Or(f.MemoryMB, 128)
	f.Env = maps.Clone(f.Env)
	log, err := os.OpenFile(filepath.Join(h.config.LogDir, f.Name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open its log: %w", err)
	}
	arn := fmt.Sprintf("arn:aws:lambda:%s:%s:function:%s", h.config.Region, h.config.AccountID, f.Name)
	h.functions[f.Name] = &function{Function: f, arn: arn, log: log}
	return nil
}

// Invoke runs the function name on payload and returns its response. A *FunctionError in the chain says that the function failed;
// any other error that it could not be run at all, or that ctx ended, in which case its process has been killed.
func (h *Host) Invoke(ctx context.Context, name string, payload []byte) ([]byte, error) {
	f := h.functions[name]
	if f == nil {
		return nil, fmt.Errorf("invoke Lambda function %q: %w", name, ErrUnknownFunction)
	}
	if len(payload) > maxEvent {
		return nil, fmt.Errorf("invoke Lambda function %q: RequestTooLargeException: the event has %d bytes, the service takes %d",
			name, len(payload), maxEvent)
	}
	inv := &invocation{
		id: newID(), trace: newTraceID(), payload: payload,
		fetched: make(chan struct{}), answered: make(chan struct{}), over: make(chan struct{}),
	}
	for {
		p, err := h.acquire(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("invoke Lambda function %q: %w", name, err)
		}
		result, retry, err := p.run(ctx, inv)
		if retry {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("invoke Lambda function %q: %w", name, err)
		}
		return result, nil
	}
}

// acquire takes the process that was used last, or starts one.
func (h *Host) acquire(ctx context.Context, f *function) (*process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if idle := h.idle[f]; len(idle) > 0 {
		p := idle[len(idle)-1]
		h.idle[f] = idle[:len(idle)-1]
		return p, nil
	}
	p, err := startProcess(h, f)
	if err != nil {
		return nil, err
	}
	h.live[p] = struct{}{}
	return p, nil
}

// release puts p back once it has asked for its next event. It is for warm processes only.
func (h *Host) release(p *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, alive := h.live[p]; alive {
		h.idle[p.function] = append(h.idle[p.function], p)
	}
}

// forget drops a process that has exited.
func (h *Host) forget(p *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.live, p)
	h.idle[p.function] = slices.DeleteFunc(h.idle[p.function], func(other *process) bool { return other == p })
}

// PIDs returns the ids of the function's running processes, idle ones too, in rising order. Each is its process group's id too.
func (h *Host) PIDs(function string) []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	var pids []int
	for p := range h.live {
		if p.function.Name == function {
			pids = append(pids, p.program.Pid())
		}
	}
	slices.Sort(pids)
	return pids
}

// Interruption is an end that an invocation does not expect.
type Interruption string

// The interruptions. Of both the caller sees what the service answers; of a time-out without waiting for it.
const (
	Crash   Interruption = "crash"
	TimeOut Interruption = "time-out"
)

// Interrupt ends the function's processes that work on an invocation now, and reports how many.
func (h *Host) Interrupt(function string, how Interruption) int {
	h.mu.Lock()
	var working []*process
	for p := range h.live {
		if p.function.Name == function {
			working = append(working, p)
		}
	}
	h.mu.Unlock()
	n := 0
	for _, p := range working {
		if p.interrupt(how) {
			n++
		}
	}
	return n
}

// Close kills every process that the host started, waits until they are gone and closes the logs. Invocations under way fail.
func (h *Host) Close() error {
	h.mu.Lock()
	already := h.closed
	h.closed = true
	live := slices.Collect(maps.Keys(h.live))
	h.mu.Unlock()
	if already {
		return nil
	}
	for _, p := range live {
		p.kill()
	}
	var errs []error
	for _, p := range live {
		<-p.exited
	}
	for _, f := range h.functions {
		errs = append(errs, f.log.Close())
	}
	return errors.Join(errs...)
}

// newID returns a random request id in the form of a UUID, version 4.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// newTraceID returns an X-Ray trace header that is not sampled.
func newTraceID() string {
	var b [20]byte
	rand.Read(b[:])
	text := hex.EncodeToString(b[:])
	return "Root=1-" + strconv.FormatInt(time.Now().Unix(), 16) + "-" + text[:24] + ";Parent=" + text[24:] + ";Sampled=0"
}
