package lambdaruntime

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	localprocess "github.com/domainferry/domainferry/internal/local/process"
)

// invocation is one event on its way through one process.
type invocation struct {
	id, trace string
	payload   []byte
	deadline  time.Time // set when the process fetches it

	fetched  chan struct{} // closed: the process gets the event; deadline is set
	answered chan struct{} // closed: result or failure is set
	over     chan struct{} // closed: the process has asked for its next event

	once    sync.Once
	result  []byte
	failure *FunctionError
}

func (inv *invocation) answer(result []byte, failure *FunctionError) (first bool) {
	inv.once.Do(func() {
		first = true
		inv.result, inv.failure = result, failure
		close(inv.answered)
	})
	return first
}

// process is one running bootstrap with a Runtime API of its own, so that a request says by its listener which process it is from.
type process struct {
	host     *Host
	function *function
	program  *localprocess.Process
	server   *http.Server
	events   chan *invocation
	exited   chan struct{} // closed: the program has ended and the host has forgotten it

	mu        sync.Mutex
	warm      bool // has served an invocation
	current   *invocation
	initError *FunctionError
}

func startProcess(h *Host, f *function) (*process, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a port for the Runtime API: %w", err)
	}
	p := &process{host: h, function: f, events: make(chan *invocation), exited: make(chan struct{})}
	p.server = &http.Server{Handler: p.api(), ReadHeaderTimeout: 10 * time.Second}
	cmd := exec.Command(f.Binary)
	cmd.Dir = filepath.Dir(f.Binary)
	cmd.Env = environment(h.config, f, listener.Addr().String())
	cmd.Stdout, cmd.Stderr = f.log, f.log
	if p.program, err = localprocess.Start(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", f.Binary, err), listener.Close())
	}
	go p.server.Serve(listener)
	go func() {
		<-p.program.Exited()
		h.forget(p)
		close(p.exited)
		p.server.Close()
	}()
	return p, nil
}

// environment is what the service sets for provided.al2023 (docs: configuration-envvars), then the function's own variables.
func environment(c Config, f *function, api string) []string {
	env := []string{
		"AWS_LAMBDA_RUNTIME_API=" + api,
		"AWS_LAMBDA_FUNCTION_NAME=" + f.Name,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.Itoa(f.MemoryMB),
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + f.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME=" + time.Now().UTC().Format("2006/01/02") + "/[$LATEST]" + newID(),
		"AWS_LAMBDA_LOG_FORMAT=JSON",
		"AWS_EXECUTION_ENV=AWS_Lambda_provided.al2023",
		"AWS_REGION=" + c.Region,
		"AWS_DEFAULT_REGION=" + c.Region,
		"LAMBDA_TASK_ROOT=" + filepath.Dir(f.Binary),
		"LAMBDA_RUNTIME_DIR=" + filepath.Dir(f.Binary),
		"_HANDLER=bootstrap",
		"LANG=en_US.UTF-8",
		"TZ=:UTC",
		"PATH=/usr/local/bin:/usr/bin/:/bin",
	}
	for name, value := range f.Env {
		env = append(env, name+"="+value) // of two equal names the last one counts
	}
	return env
}

// kill ends the whole process group. Once the program has ended it does nothing.
func (p *process) kill() {
	_ = p.program.Signal(syscall.SIGKILL) // refused only for a program that changed its user, which a bootstrap has no right to
}

// run gives inv to p and waits for its end. retry says that p, kept warm, went away before it saw the event: another may have it.
func (p *process) run(ctx context.Context, inv *invocation) (result []byte, retry bool, err error) {
	began := time.Now()
	initLimit := initLimit + p.function.Timeout
	init := time.NewTimer(initLimit)
	defer init.Stop()
	select {
	case p.events <- inv:
		<-inv.fetched
	case <-p.exited:
		if p.warm {
			return nil, true, nil
		}
		return nil, false, p.report(inv, began, p.exitError(inv))
	case <-init.C:
		p.end()
		return nil, false, p.report(inv, began, &FunctionError{Type: "Sandbox.Timedout",
			Message: fmt.Sprintf("RequestId: %s Error: Init phase timed out after %.2f seconds", inv.id, initLimit.Seconds())})
	case <-ctx.Done():
		p.end()
		return nil, false, context.Cause(ctx)
	}

	timeout := time.NewTimer(time.Until(inv.deadline))
	defer timeout.Stop()
	// The answer alone is not the end: the process works on until it asks for more, and may yet exit (it does after a panic).
	select {
	case <-inv.over:
	case <-p.exited:
		inv.answer(nil, p.exitError(inv))
	case <-timeout.C:
		p.end()
		inv.answer(nil, p.timedOut(inv))
	case <-ctx.Done():
		p.end()
		return nil, false, context.Cause(ctx)
	}
	if err := p.report(inv, began, inv.failure); err != nil {
		return nil, false, err
	}
	return inv.result, false, nil
}

// end kills p and waits until it is gone.
func (p *process) end() {
	p.kill()
	<-p.exited
}

// killDuring kills p if it still works on inv.
func (p *process) killDuring(inv *invocation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == inv {
		p.kill()
	}
}

// interrupt ends p if it works on an invocation, which fails in the way that is named.
func (p *process) interrupt(how Interruption) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil {
		return false
	}
	if how == TimeOut {
		p.current.answer(nil, p.timedOut(p.current))
	}
	p.kill()
	return true
}

func (p *process) timedOut(inv *invocation) *FunctionError {
	return &FunctionError{Type: "Sandbox.Timedout",
		Message: fmt.Sprintf("RequestId: %s Error: Task timed out after %.2f seconds", inv.id, p.function.Timeout.Seconds())}
}

// exitError says why p, which has exited, did not answer.
func (p *process) exitError(inv *invocation) *FunctionError {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.initError != nil {
		return p.initError
	}
	reason := "Runtime exited without providing a reason"
	if err := p.program.Err(); err != nil {
		reason = "Runtime exited with error: " + err.Error()
	}
	return &FunctionError{Type: "Runtime.ExitError", Message: "RequestId: " + inv.id + " Error: " + reason}
}

// report writes the platform's line about inv to the function's log and returns failure as an error.
func (p *process) report(inv *invocation, began time.Time, failure *FunctionError) error {
	status := "success"
	if failure != nil {
		status = failure.Type
	}
	fmt.Fprintf(p.function.log, "REPORT RequestId: %s Duration: %.2f ms Status: %s Pid: %d\n",
		inv.id, float64(time.Since(began).Microseconds())/1000, status, p.program.Pid())
	if failure == nil {
		return nil
	}
	return failure
}

// api serves the Runtime API to p.
func (p *process) api() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", p.serveNext)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", p.serveResponse)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", p.serveError)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", p.serveInitError)
	return mux
}

func (p *process) serveNext(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	if done := p.current; done != nil {
		p.current = nil
		done.answer(nil, &FunctionError{Type: "Runtime.ProtocolError", // asked for more without answering
			Message: "RequestId: " + done.id + " Error: the runtime asked for the next event without answering this one"})
		p.warm = true
		p.host.release(p)
		close(done.over)
	}
	p.mu.Unlock()

	var inv *invocation
	select {
	case inv = <-p.events:
	case <-r.Context().Done():
		return
	}
	p.mu.Lock()
	p.current = inv
	p.mu.Unlock()
	inv.deadline = time.Now().Add(p.function.Timeout)
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Lambda-Runtime-Aws-Request-Id", inv.id)
	header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.deadline.UnixMilli(), 10))
	header.Set("Lambda-Runtime-Invoked-Function-Arn", p.function.arn)
	header.Set("Lambda-Runtime-Trace-Id", inv.trace)
	close(inv.fetched)   // before the write, so that the time-out covers a process that does not read
	w.Write(inv.payload) // a broken connection shows as an exit
	http.NewResponseController(w).Flush()
	if ask := p.host.config.Kill; ask != nil {
		if after, kill := ask(p.function.Name); kill {
			time.AfterFunc(after, func() { p.killDuring(inv) })
		}
	}
}

func (p *process) serveResponse(w http.ResponseWriter, r *http.Request) {
	inv := p.working(w, r)
	if inv == nil {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxResponse))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		failure := &FunctionError{Type: "Function.ResponseSizeTooLarge",
			Message: fmt.Sprintf("Response payload size exceeded maximum allowed payload size (%d bytes).", tooLarge.Limit)}
		inv.answer(nil, failure)
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", failure.Message)
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidResponse", "read the response: "+err.Error())
		return
	}
	// A response that broke off while it was produced says so in its trailers (aws-lambda-go does).
	if kind := r.Trailer.Get("Lambda-Runtime-Function-Error-Type"); kind != "" {
		text, err := base64.StdEncoding.DecodeString(r.Trailer.Get("Lambda-Runtime-Function-Error-Body"))
		if err != nil {
			text = nil
		}
		inv.answer(nil, functionError(text, kind))
	} else {
		inv.answer(body, nil)
	}
	w.WriteHeader(http.StatusAccepted)
}

func (p *process) serveError(w http.ResponseWriter, r *http.Request) {
	inv := p.working(w, r)
	if inv == nil {
		return
	}
	if failure := readError(w, r); failure != nil {
		inv.answer(nil, failure)
		w.WriteHeader(http.StatusAccepted)
	}
}

func (p *process) serveInitError(w http.ResponseWriter, r *http.Request) {
	if failure := readError(w, r); failure != nil {
		p.mu.Lock()
		p.initError = failure
		p.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
	}
}

// working returns the invocation that the request is about, if it is the one that p works on; else it answers as the service does.
func (p *process) working(w http.ResponseWriter, r *http.Request) *invocation {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current == nil || p.current.id != r.PathValue("id") {
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return nil
	}
	return p.current
}

func readError(w http.ResponseWriter, r *http.Request) *FunctionError {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxResponse))
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidErrorShape", "read the error: "+err.Error())
		return nil
	}
	return functionError(body, r.Header.Get("Lambda-Runtime-Function-Error-Type"))
}

func functionError(body []byte, kind string) *FunctionError {
	var posted struct {
		Message    string       `json:"errorMessage"`
		Type       string       `json:"errorType"`
		StackTrace []StackFrame `json:"stackTrace"`
	}
	if json.Unmarshal(body, &posted) != nil {
		posted.Message = string(body)
	}
	return &FunctionError{Type: cmp.Or(posted.Type, kind, "Unhandled"), Message: posted.Message, StackTrace: posted.StackTrace}
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"errorType": kind, "errorMessage": message})
}
