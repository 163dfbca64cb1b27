// Package stepfunctions serves the AWS Step Functions API (JSON 1.0 protocol) over the local engine, for the AWS CLI and SDKs.
//
// Served: StartExecution, DescribeExecution, ListExecutions, GetExecutionHistory, StopExecution, RedriveExecution,
// SendTaskSuccess, SendTaskFailure, SendTaskHeartbeat, ListStateMachines, DescribeStateMachine, DescribeMapRun, ListMapRuns.
// Every other operation answers UnknownOperationException.
//
// Shapes, limits and error names are those of the service's API model (botocore 1.43). The order of the checks (the model's limits,
// the ARN, the state machine, the name, the input), the texts and the two namespaces of error types are those that the service gave
// others, in the recorded answers of LocalStack's and sfn-local's tests (2023 to 2026). Not held against the service: what
// METADATA_ONLY and includeExecutionData=false leave out, and the texts for ARNs that begin with "arn:" but are none.
package stepfunctions

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/sigv4"
)

// maximumRequest is the service's limit of one request in bytes.
const maximumRequest = 1 << 20

// Handler serves the API. It may serve several requests at once.
type Handler struct {
	engine    *asl.Engine
	authorize func(r *http.Request, body []byte) error

	mu       sync.Mutex
	redriven map[string][]redrive // by execution ARN, the newest last
}

// New returns a handler over engine. authorize checks the signature: a *sigv4.Error in its error's chain is answered with its own
// status, code and message, any other error with AccessDeniedException. It may be nil: then every caller is let in.
func New(engine *asl.Engine, authorize func(r *http.Request, body []byte) error) *Handler {
	return &Handler{engine: engine, authorize: authorize, redriven: map[string][]redrive{}}
}

// Namespaces of error types; clients look at what follows the '#'.
const (
	serviceErrors    = "com.amazonaws.swf.service.v2.model#"
	validationErrors = "com.amazon.coral.validate#"
	protocolErrors   = "com.amazon.coral.service#"
)

// apiError is an exception of the API.
type apiError struct {
	status                   int
	namespace, code, message string
	more                     map[string]string // further members of the exception
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// with adds a member to the exception.
func (e *apiError) with(name, value string) *apiError {
	e.more = map[string]string{name: value}
	return e
}

func refuse(code, format string, args ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, namespace: serviceErrors, code: code, message: fmt.Sprintf(format, args...)}
}

func protocol(status int, code, format string, args ...any) *apiError {
	return &apiError{status: status, namespace: protocolErrors, code: code, message: fmt.Sprintf(format, args...)}
}

// operation answers one request; its result is encoded as JSON.
type operation func(h *Handler, body []byte) (any, error)

var operations = map[string]operation{
	"StartExecution":       call((*Handler).startExecution),
	"DescribeExecution":    call((*Handler).describeExecution),
	"ListExecutions":       call((*Handler).listExecutions),
	"GetExecutionHistory":  call((*Handler).getExecutionHistory),
	"StopExecution":        call((*Handler).stopExecution),
	"RedriveExecution":     call((*Handler).redriveExecution),
	"SendTaskSuccess":      call((*Handler).sendTaskSuccess),
	"SendTaskFailure":      call((*Handler).sendTaskFailure),
	"SendTaskHeartbeat":    call((*Handler).sendTaskHeartbeat),
	"ListStateMachines":    call((*Handler).listStateMachines),
	"DescribeStateMachine": call((*Handler).describeStateMachine),
	"DescribeMapRun":       call((*Handler).describeMapRun),
	"ListMapRuns":          call((*Handler).listMapRuns),
}

// checked is an operation's input, which knows the limits that the API model puts on its members.
type checked interface {
	check(v *violations)
}

// call decodes and checks the request of an operation. Members that this API does not act on (trace headers) are ignored, as the
// service ignores what a newer client sends.
func call[In checked](f func(*Handler, In) (any, error)) operation {
	return func(h *Handler, body []byte) (any, error) {
		var in In
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, protocol(http.StatusBadRequest, "SerializationException", "the request body is not what the operation takes: %s", err)
		}
		var v violations
		in.check(&v)
		if err := v.err(); err != nil {
			return nil, err
		}
		return f(h, in)
	}
}

// ServeHTTP serves one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.Header().Set("X-Amzn-RequestId", requestID())
	out, err := h.serve(w, r)
	status := http.StatusOK
	if err != nil {
		e := describe(err)
		status = e.status
		answer := map[string]string{"__type": e.namespace + e.code, "message": e.message}
		for name, value := range e.more {
			answer[name] = value
		}
		out = answer
	}
	body, err := json.Marshal(out)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"__type":"`+protocolErrors+`InternalFailure"}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone: nobody is left to tell
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (any, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maximumRequest))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, protocol(http.StatusRequestEntityTooLarge, "RequestEntityTooLargeException", "a request has at most %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, protocol(http.StatusBadRequest, "SerializationException", "read the request: %s", err)
	}
	target := r.Header.Get("X-Amz-Target")
	name, ok := strings.CutPrefix(target, "AWSStepFunctions.")
	op, known := operations[name]
	if r.Method != http.MethodPost || !ok || !known {
		return nil, protocol(http.StatusBadRequest, "UnknownOperationException", "operation %q is not served by the local environment", target)
	}
	if h.authorize != nil {
		if err := h.authorize(r, body); err != nil {
			return nil, unauthorized(err)
		}
	}
	return op(h, body)
}

func unauthorized(err error) error {
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		return protocol(e.Status, e.Code, "%s", e.Message)
	}
	return protocol(http.StatusBadRequest, "AccessDeniedException", "%s", err)
}

func describe(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*asl.ServiceError](err); ok {
		return refuse(e.Code, "%s", e.Message)
	}
	return protocol(http.StatusInternalServerError, "InternalFailure", "%s", err)
}

// requestID makes the id that clients show with an error.
func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// epoch is a time as the protocol writes it: seconds with milliseconds.
func epoch(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// optional leaves zero times out.
func optional(m map[string]any, name string, t time.Time) {
	if !t.IsZero() {
		m[name] = epoch(t)
	}
}

// text leaves empty texts out.
func text(m map[string]any, name, value string) {
	if value != "" {
		m[name] = value
	}
}
