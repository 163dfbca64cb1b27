package lambdahost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/local/lambdaruntime"
)

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // Handle logs each failure
	os.Exit(m.Run())
}

type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = duration(parsed)
	return err
}

type common struct {
	Migration string `json:"migration"`
	Round     int    `json:"round"`
}

type event struct {
	common
	Window  duration           `json:"window"`
	Indices []index            `json:"indices"`
	Tags    map[string]int     `json:"tags"`
	Raw     json.RawMessage    `json:"raw"`
	Any     any                `json:"any"`
	Since   *time.Time         `json:"since"`
	Small   uint8              `json:"small"`
	Ratio   float64            `json:"ratio"`
	Deep    *struct{ On bool } `json:"deep"`
	Hidden  string             `json:"-"`
}

type index struct {
	Name string `json:"name"`
	Docs int64  `json:"docs,omitempty"`
}

func failure(t *testing.T, err error) messages.InvokeResponse_Error {
	t.Helper()
	answer, ok := err.(messages.InvokeResponse_Error) // by value and not wrapped: the library looks no deeper
	if !ok {
		t.Fatalf("got %T %v, want messages.InvokeResponse_Error by value", err, err)
	}
	return answer
}

func TestStrictDecoding(t *testing.T) {
	full := `{"migration":"m","round":3,"window":"10m","indices":[{"name":"a","docs":1}],"tags":{"x":1},"raw":{"any":["thing"]},
		"any":[1,{"b":null}],"since":"2026-11-22T00:00:00Z","small":255,"ratio":0.5,"deep":{"On":true}}`
	for name, test := range map[string]struct {
		payload string
		want    []string // all of them in the message; none: accepted
	}{
		"full":                      {payload: full},
		"empty object":              {payload: `{}`},
		"nulls count as not given":  {payload: `{"migration":null,"indices":null,"deep":null,"window":null}`},
		"unknown":                   {payload: `{"migratoin":"m"}`, want: []string{"$.migratoin: is not known; known here: any, deep,"}},
		"name in other case":        {payload: `{"Migration":"m"}`, want: []string{"$.Migration: is not known"}},
		"hidden field":              {payload: `{"Hidden":"m"}`, want: []string{"$.Hidden: is not known"}},
		"unknown in an array":       {payload: `{"indices":[{"name":"a"},{"nam":"b"}]}`, want: []string{"$.indices[1].nam: is not known; known here: docs, name"}},
		"unknown name with a space": {payload: `{"a b":1}`, want: []string{`$["a b"]: is not known`}},
		"wrong types, all of them": {payload: `{"round":"3","indices":{"name":"a"},"tags":{"x":"s3cr3t"},"deep":[],"migration":7}`, want: []string{
			"$.round: is a string, a whole number of 64 bits is wanted", "$.indices: is an object, an array is wanted",
			"$.tags.x: is a string, a whole number", "$.deep: is an array, an object is wanted", "$.migration: is a number, a string is wanted"}},
		"fraction":        {payload: `{"round":1.5}`, want: []string{"$.round: is a number with a fraction"}},
		"overflow":        {payload: `{"small":256}`, want: []string{"$.small: is a number, a whole number of 8 bits, not negative"}},
		"duration":        {payload: `{"window":"soon"}`, want: []string{`$.window: time: invalid duration "soon"`}},
		"duration number": {payload: `{"window":600}`, want: []string{"$.window: is a number, a string is wanted"}},
		"time":            {payload: `{"since":"yesterday"}`, want: []string{"$.since: "}},
		"twice":           {payload: `{"round":1,"round":2}`, want: []string{"$.round: is given twice"}},
		"not an object":   {payload: `[]`, want: []string{"$: is an array, an object is wanted"}},
		"not JSON":        {payload: `{"round":}`, want: []string{"not JSON at byte 10"}},
		"two documents":   {payload: `{} {}`, want: []string{"not JSON at byte 4"}},
		"empty":           {payload: " ", want: []string{"it is empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			var ran bool
			var got event
			_, err := Handle(t.Context(), func(_ context.Context, in event) (struct{}, error) {
				ran, got = true, in
				return struct{}{}, nil
			}, []byte(test.payload))
			if test.want == nil {
				if err != nil || !ran {
					t.Fatalf("refused: %v", err)
				}
				if name == "full" && (got.Migration != "m" || got.Round != 3 || time.Duration(got.Window) != 10*time.Minute || got.Indices[0].Docs != 1) {
					t.Errorf("decoded %+v", got)
				}
				return
			}
			answer := failure(t, err)
			if ran || answer.Type != string(fault.InvalidInput) {
				t.Errorf("ran %v, type %s", ran, answer.Type)
			}
			for _, want := range append(test.want, " Next: Correct the fields") {
				if !strings.Contains(answer.Message, want) {
					t.Errorf("%q does not say %q", answer.Message, want)
				}
			}
			if strings.Contains(answer.Message, "s3cr3t") {
				t.Error("the message quotes a value")
			}
		})
	}
}

func TestErrorMapping(t *testing.T) {
	busy := fault.New(fault.Busy, "create snapshot", "domain x", errors.New("another one runs"))
	for name, test := range map[string]struct {
		err         error
		wantType    fault.Name
		wantMessage string
	}{
		"fault":          {busy, fault.Busy, "create snapshot on domain x: another one runs Next: Another snapshot"},
		"wrapped fault":  {fmt.Errorf("round 3: %w", busy), fault.Busy, "round 3: create snapshot on domain x: another one runs Next: "},
		"joined":         {errors.Join(errors.New("first"), busy), fault.Busy, "first\ncreate snapshot"},
		"own hint":       {fault.New(fault.Throttled, "copy", "bucket", nil).WithHint("wait %d h", 2), fault.Throttled, "copy on bucket Next: wait 2 h"},
		"outermost":      {fault.New(fault.CopyFailed, "copy", "b", busy), fault.CopyFailed, "copy on b: create snapshot"},
		"plain":          {errors.New("odd"), fault.Unclassified, "odd Next: This is an error that Domain Ferry does not know"},
		"deadline":       {fmt.Errorf("GET /: %w", context.DeadlineExceeded), fault.OutcomeUnknown, "GET /: context deadline exceeded Next: The call may have taken effect"},
		"fault deadline": {fault.New(fault.Unavailable, "ask", "d", context.DeadlineExceeded), fault.Unavailable, "ask on d: context deadline exceeded Next: "},
	} {
		t.Run(name, func(t *testing.T) {
			output, err := Handle(t.Context(), func(context.Context, struct{}) (int, error) { return 1, test.err }, []byte(`{}`))
			answer := failure(t, err)
			if output != nil || answer.Type != string(test.wantType) || !strings.HasPrefix(answer.Message, test.wantMessage) || answer.ShouldExit {
				t.Errorf("got %q %s: %s, want %s: %s", output, answer.Type, answer.Message, test.wantType, test.wantMessage)
			}
		})
	}
}

func TestPanicsAreFaults(t *testing.T) {
	for name, test := range map[string]struct {
		value any
		want  fault.Name
	}{"text": {"boom", fault.Unclassified}, "fault": {fault.New(fault.Busy, "boom", "", nil), fault.Busy}} {
		t.Run(name, func(t *testing.T) {
			_, err := Handle(t.Context(), func(context.Context, struct{}) (int, error) { panic(test.value) }, []byte(`{}`))
			answer := failure(t, err)
			if answer.Type != string(test.want) || !strings.HasPrefix(answer.Message, "the step panicked: boom") || !answer.ShouldExit {
				t.Errorf("got %s: %s, exit %v", answer.Type, answer.Message, answer.ShouldExit)
			}
			if len(answer.StackTrace) == 0 || !strings.Contains(answer.StackTrace[0].Label, "TestPanicsAreFaults") {
				t.Errorf("the stack trace does not begin where it happened: %+v", answer.StackTrace)
			}
		})
	}
}

func TestOutputs(t *testing.T) {
	handle := func(size int) error {
		_, err := Handle(t.Context(), func(context.Context, struct{}) (string, error) { return strings.Repeat("x", size), nil }, []byte(`{}`))
		return err
	}
	if err := handle(maxOutput - 2); err != nil {
		t.Errorf("the largest output is refused: %v", err)
	}
	if answer := failure(t, handle(maxOutput-1)); answer.Type != string(fault.Unclassified) || !strings.Contains(answer.Message, "262145 bytes") {
		t.Errorf("got %s: %s", answer.Type, answer.Message)
	}
	_, err := Handle(t.Context(), func(context.Context, struct{}) (any, error) { return func() {}, nil }, []byte(`{}`))
	if answer := failure(t, err); answer.Type != string(fault.Unclassified) || !strings.Contains(answer.Message, "encode the step's output") {
		t.Errorf("got %s: %s", answer.Type, answer.Message)
	}
}

func TestMargin(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{time.Minute: 55 * time.Second, 10 * time.Second: 5 * time.Second, 4 * time.Second: 2 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), given)
			defer cancel()
			began := time.Now()
			_, err := Handle(ctx, func(ctx context.Context, _ struct{}) (int, error) {
				<-ctx.Done()
				return 0, errors.New("gave up") // as a library might that hides the cause
			}, []byte(`{}`))
			if answer := failure(t, err); answer.Type != string(fault.OutcomeUnknown) {
				t.Errorf("type %s, want OutcomeUnknown", answer.Type)
			}
			if took := time.Since(began); took != want {
				t.Errorf("of %s the step got %s, want %s", given, took, want)
			}
		})
	}
}

func TestCredentialsAreBlottedOut(t *testing.T) {
	t.Setenv("AWS_SESSION_TOKEN", "IQoJb3JpZ2luX2Vj")
	for name, text := range map[string]string{
		"URL":          `Get "https://admin:hunter2@host/": refused`,
		"presigned":    "https://b/k?X-Amz-Credential=hunter2%2F20260101&X-Amz-Signature=hunter2&x=1",
		"token header": `X-Amz-Security-Token: hunter2`,
		"sigv4":        "Authorization: AWS4-HMAC-SHA256 Credential=hunter2/20260101/r/es/aws4_request, SignedHeaders=host, Signature=hunter2",
		"basic":        "Authorization: Basic hunter2hunter2==",
		"key id":       "key AKIAHUNTER2HUNTER222 is not known",
		"JSON":         `{"password":"hunter2","user":"u"}`,
		"escaped JSON": `{\"secretAccessKey\": \"hunter2\"}`,
		"assignment":   "password=hunter2",
		"own token":    "refused IQoJb3JpZ2luX2Vj",
	} {
		_, err := Handle(t.Context(), func(context.Context, struct{}) (int, error) {
			return 0, fault.New(fault.AccessDenied, "ask", "", errors.New(text)).WithHint("see %s", text)
		}, []byte(`{}`))
		message := failure(t, err).Message
		if lower := strings.ToLower(message); strings.Contains(lower, "hunter2") || strings.Contains(message, "IQoJ") || strings.Count(message, blot) < 2 {
			t.Errorf("%s: %s", name, message)
		}
	}
	for _, harmless := range []string{"$.password: is not known; known here: a", "PUT https://host:9200/_snapshot/a: refused", "basic auth is wanted"} {
		if got := redact(harmless); got != harmless {
			t.Errorf("%q became %q", harmless, got)
		}
	}
}

func TestLongTextsKeepTheAdvice(t *testing.T) {
	_, err := Handle(t.Context(), func(context.Context, struct{}) (int, error) {
		return 0, fault.Newf(fault.Busy, "begin", "", "%sä%s the end", strings.Repeat("é", 20_000), strings.Repeat("é", 20_000))
	}, []byte(`{}`))
	message := failure(t, err).Message
	if len(message) > maxErrorText+1000 || !strings.HasPrefix(message, "begin: é") || !strings.Contains(message, "the end Next: Another snapshot") {
		t.Errorf("%d bytes: %.60s", len(message), message)
	}
	cause, marshalErr := json.Marshal(failure(t, err))
	if marshalErr != nil || len(cause) > 32_768 || strings.Contains(message, "\ufffd") {
		t.Errorf("the cause has %d bytes, %v", len(cause), marshalErr)
	}
}

func TestLogLinesCarryTheEventsAttributes(t *testing.T) {
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	for payload, want := range map[string]string{
		`{"executionArn":"arn:x","migration":"m","round":3}`: "executionArn=arn:x migration=m round=3",
		`{"round":"3","migration":{"no":"text"}}`:            "round=3",
		`{}`: "",
	} {
		var log bytes.Buffer
		slog.SetDefault(slog.New(eventLogger{slog.NewTextHandler(&log, nil)}))
		run := func(ctx context.Context, _ json.RawMessage) (int, error) {
			slog.Default().With("own", 1).InfoContext(ctx, "hello")
			return 0, errors.New("no")
		}
		Handle(t.Context(), run, []byte(payload))
		for _, line := range []string{strings.TrimSpace("msg=hello own=1 " + want), "cause=\"no Next: "} {
			if !strings.Contains(log.String(), line) {
				t.Errorf("%s: no %q in %s", payload, line, log.String())
			}
		}
		if strings.Count(log.String(), want) < 2 || strings.Contains(log.String(), "text") {
			t.Errorf("%s: %s", payload, log.String())
		}
	}
}

// The library's own handler must pass the event unread and the error unchanged.
func TestThroughTheLibrary(t *testing.T) {
	h := lambda.NewHandler(handler[common, common](func(_ context.Context, in common) (common, error) {
		if in.Round == 0 {
			return in, fmt.Errorf("wrapped: %w", fault.New(fault.Busy, "wait", "", nil))
		}
		return in, nil
	}))
	output, err := h.Invoke(t.Context(), []byte(`{"migration":"<m>","round":2}`))
	if err != nil || string(output) != `{"migration":"\u003cm\u003e","round":2}` {
		t.Errorf("got %s, %v", output, err)
	}
	_, err = h.Invoke(t.Context(), []byte(`{"round":0}`))
	if answer := failure(t, err); answer.Type != string(fault.Busy) {
		t.Errorf("got %s", answer.Type)
	}
	_, err = h.Invoke(t.Context(), []byte(`{"other":0}`))
	if answer := failure(t, err); answer.Type != string(fault.InvalidInput) {
		t.Errorf("got %s", answer.Type)
	}
}

func TestCompiledBootstrapUnderTheRuntimeAPI(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "bootstrap")
	build := exec.Command("go", "build", "-tags", "lambda.norpc", "-o", binary, "./testdata/bootstrap")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	host, err := lambdaruntime.Start(lambdaruntime.Config{LogDir: dir, Functions: []lambdaruntime.Function{
		{Name: "step", Binary: binary, Timeout: 20 * time.Second}, {Name: "short", Binary: binary, Timeout: time.Second},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })

	result, err := host.Invoke(t.Context(), "step", []byte(`{"executionArn":"arn:x","migration":"m","round":2}`))
	var out struct{ SecondsLeft float64 }
	if err != nil || json.Unmarshal(result, &out) != nil || out.SecondsLeft > 15 || out.SecondsLeft < 10 {
		t.Errorf("got %s, %v; want just under 15 seconds", result, err)
	}
	for name, test := range map[string]struct {
		function, payload string
		want              fault.Name
		says              string
		pidStays          bool
	}{
		"fault":         {"step", `{"do":"busy","round":2}`, fault.Busy, "round 2: create snapshot on domain x: another one runs Next: ", true},
		"unknown field": {"step", `{"doo":"x"}`, fault.InvalidInput, "$.doo: is not known", true},
		"deadline":      {"short", `{"do":"wait"}`, fault.OutcomeUnknown, "wait: context deadline exceeded", true},
		"panic":         {"step", `{"do":"panic"}`, fault.Unclassified, "the step panicked: boom", false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := host.Invoke(t.Context(), test.function, []byte(`{}`)); err != nil {
				t.Fatal(err)
			}
			pids := host.PIDs(test.function)
			_, err := host.Invoke(t.Context(), test.function, []byte(test.payload))
			failure, ok := errors.AsType[*lambdaruntime.FunctionError](err)
			if !ok || failure.Type != string(test.want) || !strings.Contains(failure.Message, test.says) {
				t.Fatalf("got %v, want %s: %s", err, test.want, test.says)
			}
			if stays := fmt.Sprint(host.PIDs(test.function)) == fmt.Sprint(pids); stays != test.pidStays {
				t.Errorf("process before %v, after %v", pids, host.PIDs(test.function))
			}
		})
	}
	log, err := os.ReadFile(filepath.Join(dir, "step.log"))
	if err != nil {
		t.Fatal(err)
	}
	var found bool
	for line := range strings.Lines(string(log)) {
		var record map[string]any
		if json.Unmarshal([]byte(line), &record) == nil && record["message"] == "the step speaks" && record["migration"] == "m" {
			found = record["executionArn"] == "arn:x" && record["round"] == 2.0 && record["requestId"] != nil
		}
	}
	if !found {
		t.Errorf("no structured line with the event's attributes in %s", log)
	}
}
