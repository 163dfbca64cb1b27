package lambdaruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambda/messages"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// The test binary is the bootstrap too: with this variable set it serves the Lambda below instead of running tests.
const bootstrapVariable = "LAMBDARUNTIME_TEST_BOOTSTRAP"

func TestMain(m *testing.M) {
	switch os.Getenv(bootstrapVariable) {
	case "serve":
		lambda.Start(serve)
	case "exit in init":
		os.Exit(4)
	case "hang in init":
		select {}
	}
	if dir := os.Getenv(hostVariable); dir != "" {
		hostUntilKilled(dir)
	}
	os.Exit(m.Run())
}

type event struct {
	Do      string `json:"do"`
	Touch   string `json:"touch"`   // file to create once the event is here
	WaitFor string `json:"waitFor"` // file to wait for
}

type answer struct {
	PID         int               `json:"pid"`
	Count       int               `json:"count"`
	RequestID   string            `json:"requestId"`
	ARN         string            `json:"arn"`
	Trace       string            `json:"trace"`
	SecondsLeft float64           `json:"secondsLeft"`
	Env         map[string]string `json:"env"`
	Child       int               `json:"child"`
}

var served int

func serve(ctx context.Context, e event) (any, error) {
	served++
	fmt.Println("doing", e.Do)
	var a answer
	if e.Do == "hang with child" {
		child := exec.Command("sleep", "600")
		if err := child.Start(); err != nil {
			return nil, err
		}
		os.WriteFile(e.Touch, fmt.Append(nil, child.Process.Pid), 0o600)
		select {}
	}
	if e.Touch != "" {
		if err := os.WriteFile(e.Touch, nil, 0o600); err != nil {
			return nil, err
		}
	}
	for e.WaitFor != "" {
		if _, err := os.Stat(e.WaitFor); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	switch e.Do {
	case "error":
		return nil, messages.InvokeResponse_Error{Type: "Migration.Busy", Message: "busy"}
	case "panic":
		panic("boom")
	case "exit":
		os.Exit(3)
	case "hang":
		select {}
	case "big":
		return strings.Repeat("x", maxResponse), nil
	case "broken stream":
		return &brokenReader{}, nil
	}
	lc, _ := lambdacontext.FromContext(ctx)
	deadline, _ := ctx.Deadline()
	a = answer{PID: os.Getpid(), Count: served, RequestID: lc.AwsRequestID, ARN: lc.InvokedFunctionArn,
		Trace: os.Getenv("_X_AMZN_TRACE_ID"), SecondsLeft: time.Until(deadline).Seconds(), Env: map[string]string{}}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		a.Env[name] = value
	}
	return a, nil
}

type brokenReader struct{ read bool }

func (b *brokenReader) Read(p []byte) (int, error) {
	if b.read {
		return 0, errors.New("the source broke off")
	}
	b.read = true
	return copy(p, `{"half":`), nil
}

func start(t *testing.T, timeout time.Duration, change func(*Config)) *Host {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config := Config{LogDir: t.TempDir(), Functions: []Function{
		{Name: "step", Binary: binary, Timeout: timeout, Env: map[string]string{bootstrapVariable: "serve", "OWN": "value"}},
		{Name: "exits-in-init", Binary: binary, Timeout: timeout, Env: map[string]string{bootstrapVariable: "exit in init"}},
		{Name: "hangs-in-init", Binary: binary, Timeout: timeout, Env: map[string]string{bootstrapVariable: "hang in init"}},
	}}
	if change != nil {
		change(&config)
	}
	h, err := Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func invoke(t *testing.T, h *Host, e event) (answer, error) {
	t.Helper()
	payload, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	result, err := h.Invoke(t.Context(), "step", payload)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(result, &a); err != nil {
		t.Fatalf("%v in %s", err, result)
	}
	return a, nil
}

// until waits for a condition on real processes.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s until %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func alive(pid int) bool {
	if err := syscall.Kill(pid, 0); err != nil {
		return false
	}
	// A zombie that nobody has waited for yet answers signal 0 too.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

func TestWarmReuseAndWhatTheFunctionSees(t *testing.T) {
	t.Setenv("HOST_ONLY", "must not leak")
	h := start(t, 30*time.Second, func(c *Config) { c.Region, c.AccountID = "eu-central-1", "111122223333" })
	first, err := invoke(t, h, event{})
	if err != nil {
		t.Fatal(err)
	}
	for count := 2; count <= 20; count++ {
		next, err := invoke(t, h, event{})
		if err != nil {
			t.Fatal(err)
		}
		if next.PID != first.PID || next.Count != count || next.RequestID == first.RequestID {
			t.Fatalf("invocation %d: %+v after %+v, want the same process and another request id", count, next, first)
		}
	}
	if first.ARN != "arn:aws:lambda:eu-central-1:111122223333:function:step" {
		t.Errorf("ARN %s", first.ARN)
	}
	if first.SecondsLeft > 30 || first.SecondsLeft < 25 {
		t.Errorf("deadline in %v s, want just under 30", first.SecondsLeft)
	}
	if !strings.HasPrefix(first.Trace, "Root=1-") {
		t.Errorf("trace id %q", first.Trace)
	}
	for name, want := range map[string]string{
		"OWN": "value", "AWS_REGION": "eu-central-1", "AWS_LAMBDA_FUNCTION_NAME": "step", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
		"AWS_LAMBDA_FUNCTION_VERSION": "$LATEST", "_HANDLER": "bootstrap", "HOST_ONLY": "",
	} {
		if first.Env[name] != want {
			t.Errorf("%s=%q, want %q", name, first.Env[name], want)
		}
	}
	log, err := os.ReadFile(filepath.Join(h.config.LogDir, "step.log"))
	if err != nil || !strings.Contains(string(log), "doing") || !strings.Contains(string(log), "REPORT RequestId: "+first.RequestID) {
		t.Errorf("log %q, %v", log, err)
	}
}

func TestErrorTypes(t *testing.T) {
	for name, test := range map[string]struct {
		do, wantType, wantMessage string
		timeout                   time.Duration
		samePID                   bool // the process lives on
	}{
		"returned":           {do: "error", wantType: "Migration.Busy", wantMessage: "busy", samePID: true},
		"panic":              {do: "panic", wantType: "string", wantMessage: "boom"},
		"exit":               {do: "exit", wantType: "Runtime.ExitError", wantMessage: "Runtime exited with error: exit status 3"},
		"time-out":           {do: "hang", wantType: "Sandbox.Timedout", wantMessage: "Task timed out after 0.50 seconds", timeout: time.Second / 2},
		"response too large": {do: "big", wantType: "Function.ResponseSizeTooLarge", wantMessage: "6291556"},
		"broken response":    {do: "broken stream", wantType: "errorString", wantMessage: "the source broke off", samePID: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, max(test.timeout, time.Second/2), func(c *Config) {
				if test.timeout == 0 {
					c.Functions[0].Timeout = time.Minute
				}
			})
			before, err := invoke(t, h, event{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = invoke(t, h, event{Do: test.do})
			failure, ok := errors.AsType[*FunctionError](err)
			if !ok || failure.Type != test.wantType || !strings.Contains(failure.Message, test.wantMessage) {
				t.Fatalf("got %v, want %s: ...%s...", err, test.wantType, test.wantMessage)
			}
			if test.do == "panic" && len(failure.StackTrace) == 0 {
				t.Error("a panic has no stack trace")
			}
			var cause map[string]any
			if err := json.Unmarshal([]byte(failure.Cause()), &cause); err != nil || cause["errorType"] != test.wantType {
				t.Errorf("cause %s, %v", failure.Cause(), err)
			}
			// The very next invocation must never meet the dying process.
			after, err := invoke(t, h, event{})
			if err != nil {
				t.Fatal(err)
			}
			if (after.PID == before.PID) != test.samePID {
				t.Errorf("process %d before, %d after; want the same: %v", before.PID, after.PID, test.samePID)
			}
		})
	}
}

func TestInitFailures(t *testing.T) {
	h := start(t, time.Second/10, nil)
	_, err := h.Invoke(t.Context(), "exits-in-init", []byte(`{}`))
	if failure, ok := errors.AsType[*FunctionError](err); !ok || failure.Type != "Runtime.ExitError" || !strings.Contains(failure.Message, "exit status 4") {
		t.Errorf("got %v, want Runtime.ExitError", err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second/5, errors.New("enough"))
	defer cancel()
	if _, err = h.Invoke(ctx, "hangs-in-init", []byte(`{}`)); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v, want the context's cause", err)
	}
	if pids := h.PIDs("hangs-in-init"); len(pids) != 0 {
		t.Errorf("processes %v live on", pids)
	}
	if _, err := h.Invoke(t.Context(), "nobody", nil); !errors.Is(err, ErrUnknownFunction) {
		t.Errorf("got %v, want ErrUnknownFunction", err)
	}
}

func TestConcurrentInvocationsGetProcessesOfTheirOwn(t *testing.T) {
	h := start(t, time.Minute, nil)
	dir := t.TempDir()
	const n = 4
	var wg sync.WaitGroup
	pids := make([]int, n)
	for i := range n {
		wg.Go(func() {
			a, err := invoke(t, h, event{Touch: filepath.Join(dir, fmt.Sprint(i)), WaitFor: filepath.Join(dir, "go")})
			if err != nil {
				t.Error(err)
			}
			pids[i] = a.PID
		})
	}
	until(t, "all four work at once", func() bool {
		files, _ := os.ReadDir(dir)
		return len(files) == n
	})
	running := h.PIDs("step")
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	slices.Sort(pids)
	if !slices.Equal(pids, running) || len(slices.Compact(pids)) != n {
		t.Fatalf("answered by %v, running were %v", pids, running)
	}
	again, err := invoke(t, h, event{})
	if err != nil || !slices.Contains(running, again.PID) {
		t.Errorf("the next invocation ran in %d (%v), want one of the warm %v", again.PID, err, running)
	}
}

func TestKilledFromOutsideWhileWorking(t *testing.T) {
	h := start(t, time.Minute, nil)
	mark := filepath.Join(t.TempDir(), "working")
	done := make(chan error, 1)
	go func() {
		_, err := invoke(t, h, event{Do: "hang", Touch: mark})
		done <- err
	}()
	until(t, "the function works", func() bool { return exists(mark) })
	pids := h.PIDs("step")
	if len(pids) != 1 {
		t.Fatalf("processes %v, want one", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err := <-done
	if failure, ok := errors.AsType[*FunctionError](err); !ok || failure.Type != "Runtime.ExitError" || !strings.Contains(failure.Message, "signal: killed") {
		t.Fatalf("got %v", err)
	}
	if _, err := invoke(t, h, event{}); err != nil {
		t.Errorf("after the kill: %v", err)
	}
}

func TestKilledFromOutsideWhileIdle(t *testing.T) {
	h := start(t, time.Minute, nil)
	before, err := invoke(t, h, event{})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "the host has noticed", func() bool { return len(h.PIDs("step")) == 0 })
	after, err := invoke(t, h, event{})
	if err != nil || after.PID == before.PID {
		t.Errorf("got %+v, %v; want another process than %d", after, err, before.PID)
	}
}

func TestInjectedKill(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	h := start(t, time.Minute, func(c *Config) {
		c.Kill = func(function string) (time.Duration, bool) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, function)
			return 20 * time.Millisecond, len(asked) == 2
		}
	})
	mark := filepath.Join(t.TempDir(), "fetched")
	if _, err := invoke(t, h, event{}); err != nil {
		t.Fatal(err)
	}
	_, err := invoke(t, h, event{Do: "hang", Touch: mark})
	if failure, ok := errors.AsType[*FunctionError](err); !ok || failure.Type != "Runtime.ExitError" {
		t.Fatalf("got %v, want Runtime.ExitError", err)
	}
	if _, err := invoke(t, h, event{}); err != nil {
		t.Error(err)
	}
	if !slices.Equal(asked, []string{"step", "step", "step"}) {
		t.Errorf("asked %v", asked)
	}
}

func TestCancelAndTimeOutKillTheWholeProcessGroup(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"cancel": time.Minute, "time-out": time.Second} {
		t.Run(name, func(t *testing.T) {
			h := start(t, timeout, nil)
			mark := filepath.Join(t.TempDir(), "child")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := h.Invoke(ctx, "step", fmt.Appendf(nil, `{"do":"hang with child","touch":%q}`, mark))
				done <- err
			}()
			var child int
			until(t, "the child runs", func() bool {
				text, err := os.ReadFile(mark)
				return err == nil && len(text) > 0 && json.Unmarshal(text, &child) == nil
			})
			if name == "cancel" {
				cancel()
			}
			err := <-done
			if name == "cancel" && !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
			if _, isFailure := errors.AsType[*FunctionError](err); name == "time-out" && !isFailure {
				t.Errorf("got %v, want a time-out", err)
			}
			if pids := h.PIDs("step"); len(pids) != 0 {
				t.Errorf("processes %v live on", pids)
			}
			until(t, "the child is gone", func() bool { return !alive(child) })
		})
	}
}

func TestCloseEndsEverything(t *testing.T) {
	h := start(t, time.Minute, nil)
	idle, err := invoke(t, h, event{})
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "working")
	done := make(chan error, 2)
	for range 2 { // one takes the idle process, one starts another
		go func() {
			_, err := invoke(t, h, event{Do: "hang", Touch: mark})
			done <- err
		}()
	}
	until(t, "both work", func() bool { return exists(mark) && len(h.PIDs("step")) == 2 })
	pids := h.PIDs("step")
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-done; err == nil {
			t.Error("an invocation outlived Close")
		}
	}
	for _, pid := range append(pids, idle.PID) {
		if alive(pid) {
			t.Errorf("process %d lives on", pid)
		}
	}
	if _, err := h.Invoke(t.Context(), "step", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

func TestStartRefuses(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string][]Function{
		"no binary":      {{Name: "a", Binary: filepath.Join(t.TempDir(), "none"), Timeout: time.Second}},
		"no time-out":    {{Name: "a", Binary: binary}},
		"long time-out":  {{Name: "a", Binary: binary, Timeout: time.Hour}},
		"name is a path": {{Name: "a/b", Binary: binary, Timeout: time.Second}},
		"twice":          {{Name: "a", Binary: binary, Timeout: time.Second}, {Name: "a", Binary: binary, Timeout: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			if h, err := Start(Config{LogDir: t.TempDir(), Functions: f}); err == nil {
				h.Close()
				t.Error("not refused")
			}
		})
	}
}

func TestInterrupt(t *testing.T) {
	h := start(t, time.Minute, nil)
	for how, want := range map[Interruption]string{Crash: "Runtime.ExitError", TimeOut: "Sandbox.Timedout"} {
		if n := h.Interrupt("step", how); n != 0 {
			t.Errorf("%s: %d idle processes were interrupted", how, n)
		}
		mark := filepath.Join(t.TempDir(), "working")
		done := make(chan error, 1)
		go func() {
			_, err := invoke(t, h, event{Do: "hang", Touch: mark})
			done <- err
		}()
		until(t, "the function works", func() bool { return exists(mark) })
		if n := h.Interrupt("step", how); n != 1 {
			t.Errorf("%s: %d processes were interrupted, want one", how, n)
		}
		err := <-done
		if failure, ok := errors.AsType[*FunctionError](err); !ok || failure.Type != want {
			t.Errorf("%s: got %v, want %s", how, err, want)
		}
		if _, err := invoke(t, h, event{}); err != nil {
			t.Errorf("after %s: %v", how, err)
		}
	}
}
