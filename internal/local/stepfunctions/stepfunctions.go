// Package stepfunctions serves the AWS Step Functions API (JSON 1.0 protocol) over the local engine, for the AWS CLI and SDKs.
//
// Served: StartExecution, DescribeExecution, ListExecutions, GetExecutionHistory, StopExecution, RedriveExecution,
// SendTaskSuccess, SendTaskFailure, SendTaskHeartbeat, ListStateMachines, DescribeStateMachine, DescribeMapRun, ListMapRuns.
// Every other operation answers UnknownOperationException. Shapes and errors are those of the service's API model (botocore
// 1.43).
package stepfunctions

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
)

// maximumRequest is the service's limit of one request in bytes.
const maximumRequest = 1 << 20

// Handler serves the API.
type Handler struct {
	engine *asl.Engine
	// authorize checks the signature; its error's text is the answer's message.
	authorize func(r *http.Request, body []byte) error
}

// New returns a handler over engine. authorize may be nil: then every caller is let in.
func New(engine *asl.Engine, authorize func(r *http.Request, body []byte) error) *Handler {
	return &Handler{engine, authorize}
}

// apiError is an exception of the API; all but authorisation ones are HTTP 400.
type apiError struct {
	status        int
	code, message string
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func invalid(format string, args ...any) error {
	return &apiError{http.StatusBadRequest, "ValidationException", fmt.Sprintf(format, args...)}
}

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

// call decodes the request of an operation. Members that this API does not act on (trace headers, client tokens) are ignored, as
// the service ignores what a newer client sends.
func call[In any](f func(*Handler, In) (any, error)) operation {
	return func(h *Handler, body []byte) (any, error) {
		var in In
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, &apiError{http.StatusBadRequest, "SerializationException", "the request body is not what the operation takes: " + err.Error()}
		}
		return f(h, in)
	}
}

// ServeHTTP serves one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	out, err := h.serve(w, r)
	status := http.StatusOK
	if err != nil {
		e := describe(err)
		status = e.status
		w.Header().Set("X-Amzn-ErrorType", e.code)
		out = map[string]string{"__type": "com.amazonaws.swf.service.v2.model#" + e.code, "message": e.message}
	}
	body, err := json.Marshal(out)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"__type":"InternalFailure"}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) (any, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maximumRequest))
	if err != nil {
		return nil, &apiError{http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", err.Error()}
	}
	target := r.Header.Get("X-Amz-Target")
	name, ok := strings.CutPrefix(target, "AWSStepFunctions.")
	op, known := operations[name]
	if r.Method != http.MethodPost || !ok || !known {
		return nil, &apiError{http.StatusBadRequest, "UnknownOperationException", fmt.Sprintf("operation %q is not served by the local environment", target)}
	}
	if h.authorize != nil {
		if err := h.authorize(r, body); err != nil {
			return nil, &apiError{http.StatusForbidden, "AccessDeniedException", err.Error()}
		}
	}
	return op(h, body)
}

func describe(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*asl.ServiceError](err); ok {
		return &apiError{http.StatusBadRequest, e.Code, e.Message}
	}
	return &apiError{http.StatusInternalServerError, "InternalFailure", err.Error()}
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
