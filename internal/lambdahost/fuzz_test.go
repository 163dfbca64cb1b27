package lambdahost

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/domainferry/domainferry/internal/fault"
)

// FuzzHandle gives a step any event: what the step gets is what was sent, and everything else is refused by name and path.
func FuzzHandle(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"migration":"orders","round":3,"window":"10m","indices":[{"name":"a","docs":4}],"tags":{"a":1},"raw":{"x":[1]},"any":[null],"since":"2026-01-02T03:04:05Z","small":7,"ratio":1.5,"deep":{"On":true}}`,
		`{"round":1e999,"small":300,"Round":1,"round":2}`, `{"indices":[1,"a",{"nam":""}]}`, `{"tags":{"a":"b"},"window":7,"since":"x"}`, `[]`, `null`, `"x"`, ``,
		strings.Repeat("[", 11_000), `{"any":` + strings.Repeat("[", 11_000), "{\"migration\":\"\xff\"}", `{"migration":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		called := false
		out, err := Handle(t.Context(), func(_ context.Context, in event) (event, error) { called = true; return in, nil }, payload)
		if called == (err != nil && !strings.Contains(err.Error(), "encode the step's output") && !strings.Contains(err.Error(), "return the step's output")) {
			t.Fatalf("called %t, %v", called, err)
		}
		if err != nil {
			answer, ok := errors.AsType[messages.InvokeResponse_Error](err)
			if _, known := fault.Lookup(fault.Name(answer.Type)); !ok || !known || len(answer.Message) > 2*maxErrorText {
				t.Fatalf("%d bytes: %v", len(answer.Message), err)
			}
			return
		}
		if !json.Valid(out) {
			t.Fatalf("%q", out)
		}
	})
}

// A large event that is wrong everywhere costs no more than some times its size.
func TestHostileEvents(t *testing.T) {
	for name, payload := range map[string]string{
		"a million wrong items":   `{"indices":[` + strings.Repeat("1,", 1_000_000) + `1]}`,
		"a million wrong members": `{"tags":{"a":"b"` + strings.Repeat(`,"a":"b"`, 300_000) + `}}`,
		"a million brackets":      strings.Repeat("[", 1_000_000),
		"a million objects":       strings.Repeat(`{"any":`, 1_000_000),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Handle(t.Context(), func(_ context.Context, in event) (event, error) { return in, nil }, []byte(payload))
		runtime.ReadMemStats(&after)
		if answer, ok := errors.AsType[messages.InvokeResponse_Error](err); !ok || answer.Type != string(fault.InvalidInput) || len(answer.Message) > 2*maxErrorText {
			t.Errorf("%s: %.300v", name, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 512<<20 {
			t.Errorf("%s: it took %d MB", name, took>>20)
		}
	}
}
