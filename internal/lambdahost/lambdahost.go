// Package lambdahost is the edge between the Lambda runtime and a step: it decodes the event strictly, leaves a margin before the
// deadline, logs, and turns every error into a Step Functions error that carries a name of internal/fault.
//
// Why an adapter is needed: aws-lambda-go reports the bare Go type name of the outermost error ("wrapError"), so that no Retry or
// Catch would ever match. Only a messages.InvokeResponse_Error returned by value, not wrapped, keeps its Type.
package lambdahost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/domainferry/domainferry/internal/fault"
)

// Margin is how long before the invocation's deadline the step's context ends, so that the step can still return a typed fault: a
// killed function is only "Lambda.Unknown" or "Sandbox.Timedout" to the state machine. When less than twice the margin is left
// at the start, half of what is left is kept instead.
const Margin = 5 * time.Second

const (
	// maxOutput is the largest state output that Step Functions takes, in bytes. Above it the execution ends with
	// States.DataLimitExceeded, which States.ALL does not catch: then no thaw would run.
	maxOutput = 262_144
	// maxErrorText bounds the error text in bytes: Step Functions cuts a Cause at 32,768 characters, and a cut Cause is not JSON.
	maxErrorText = 12 << 10
	maxFrames    = 32
)

// Start serves run as a Lambda function. It does not return.
func Start[In, Out any](run func(context.Context, In) (Out, error)) {
	slog.SetDefault(slog.New(eventLogger{lambdacontext.NewLogger().Handler()}))
	lambda.Start(handler[In, Out](run))
}

// handler implements lambda.Handler, which gets the raw event; with a plain function the library would decode it leniently.
type handler[In, Out any] func(context.Context, In) (Out, error)

func (run handler[In, Out]) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	return Handle(ctx, run, payload)
}

// Handle decodes payload into In, runs the step and encodes its output: one invocation without a Lambda runtime.
//
// The event must be one JSON value that In describes exactly: an unknown field (names are case-sensitive), a duplicate field or a
// value of the wrong type is a fault.InvalidInput that lists every such place by its JSON path and quotes no value (a type that
// decodes itself may). A null counts as not given.
//
// A non-nil error is always a messages.InvokeResponse_Error by value. Its Type is the name of the outermost fault in the chain;
// fault.OutcomeUnknown when there is none and the context ended; else fault.Unclassified. Its Message is the error's text,
// then " Next: " and the fault's advice, with credentials blotted out. A panic of the step becomes fault.Unclassified with a stack
// trace, and asks the runtime to end the process: its memory is not to be trusted any more.
func Handle[In, Out any](ctx context.Context, run func(context.Context, In) (Out, error), payload []byte) ([]byte, error) {
	began := time.Now()
	ctx, cancel := withMargin(ctx, began)
	defer cancel()
	ctx = withEventAttributes(ctx, payload)

	output, err := invoke(ctx, run, payload)
	if err != nil {
		answer := adapt(ctx, err)
		slog.ErrorContext(ctx, "step failed", "error", answer.Type, "cause", answer.Message, "durationMs", time.Since(began).Milliseconds())
		return nil, answer
	}
	slog.InfoContext(ctx, "step done", "outputBytes", len(output), "durationMs", time.Since(began).Milliseconds())
	return output, nil
}

func invoke[In, Out any](ctx context.Context, run func(context.Context, In) (Out, error), payload []byte) (output []byte, err error) {
	defer func() {
		if value := recover(); value != nil {
			output, err = nil, &panicError{value: value, frames: stack()}
		}
	}()
	var in In
	if err := decode(payload, &in); err != nil {
		return nil, err
	}
	out, err := run(ctx, in)
	if err != nil {
		return nil, err
	}
	output, err = json.Marshal(out)
	if err != nil {
		return nil, fault.Newf(fault.Unclassified, "encode the step's output", "", "%w", err).
			WithHint("This is a defect of Domain Ferry; report it with this message.")
	}
	if len(output) > maxOutput {
		return nil, fault.Newf(fault.Unclassified, "return the step's output", "", "%d bytes, Step Functions takes %d", len(output), maxOutput).
			WithHint("This is a defect of Domain Ferry (large results belong in the journal); report it, and move fewer indices at once until then.")
	}
	return output, nil
}

func withMargin(ctx context.Context, now time.Time) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(Margin, deadline.Sub(now)/2)))
}

func adapt(ctx context.Context, err error) messages.InvokeResponse_Error {
	f, ok := fault.As(err)
	if !ok {
		f = fault.New(fault.Unclassified, "", "", err)
		if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			f.Name = fault.OutcomeUnknown
		}
	}
	answer := messages.InvokeResponse_Error{Type: string(f.Name)}
	text := shorten(redact(err.Error()))
	if advice := f.Advice(); advice != "" {
		text += " Next: " + redact(advice)
	}
	answer.Message = text
	if panicked, ok := errors.AsType[*panicError](err); ok {
		answer.StackTrace = panicked.frames
		answer.ShouldExit = true
	}
	return answer
}

// shorten keeps both ends: the beginning says what failed, the end is the innermost cause.
func shorten(text string) string {
	if len(text) <= maxErrorText {
		return text
	}
	half := maxErrorText / 2
	head, tail := strings.ToValidUTF8(text[:half], ""), strings.ToValidUTF8(text[len(text)-half:], "")
	return fmt.Sprintf("%s [... %d bytes left out ...] %s", head, len(text)-len(head)-len(tail), tail)
}

type panicError struct {
	value  any
	frames []*messages.InvokeResponse_Error_StackFrame
}

func (p *panicError) Error() string { return fmt.Sprintf("the step panicked: %v", p.value) }

// Unwrap lets a panic with a fault or a context error keep its name.
func (p *panicError) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// stack returns the frames from the panic outwards, in the form that the Lambda console shows.
func stack() []*messages.InvokeResponse_Error_StackFrame {
	const hidden = 4 // runtime.Callers, stack, the deferred function, runtime.gopanic
	callers := make([]uintptr, maxFrames)
	frames := runtime.CallersFrames(callers[:runtime.Callers(hidden, callers)])
	var trace []*messages.InvokeResponse_Error_StackFrame
	for {
		frame, more := frames.Next()
		if frame.Function != "" {
			label := frame.Function[strings.LastIndex(frame.Function, "/")+1:]
			trace = append(trace, &messages.InvokeResponse_Error_StackFrame{Path: frame.File, Line: int32(frame.Line), Label: label})
		}
		if !more {
			return trace
		}
	}
}

// eventAttributes are the top-level fields of an event that every log line of its invocation carries.
var eventAttributes = []string{"executionArn", "migration", "round"}

type attributesKey struct{}

func withEventAttributes(ctx context.Context, payload []byte) context.Context {
	var event map[string]json.RawMessage
	if json.Unmarshal(payload, &event) != nil {
		return ctx // decode says why
	}
	var attributes []slog.Attr
	for _, name := range eventAttributes {
		var text string
		var number json.Number
		switch raw := event[name]; {
		case len(raw) == 0 || string(raw) == "null":
		case raw[0] == '"' && json.Unmarshal(raw, &text) == nil:
			attributes = append(attributes, slog.String(name, redact(text)))
		case raw[0] != '"' && json.Unmarshal(raw, &number) == nil:
			attributes = append(attributes, slog.Any(name, number))
		}
	}
	return context.WithValue(ctx, attributesKey{}, attributes)
}

// eventLogger adds the event's attributes, which Handle puts into the context, to each record.
type eventLogger struct{ slog.Handler }

func (l eventLogger) Handle(ctx context.Context, record slog.Record) error {
	if attributes, ok := ctx.Value(attributesKey{}).([]slog.Attr); ok {
		record.AddAttrs(attributes...)
	}
	return l.Handler.Handle(ctx, record)
}

func (l eventLogger) WithAttrs(attributes []slog.Attr) slog.Handler {
	return eventLogger{l.Handler.WithAttrs(attributes)}
}

func (l eventLogger) WithGroup(name string) slog.Handler {
	return eventLogger{l.Handler.WithGroup(name)}
}
