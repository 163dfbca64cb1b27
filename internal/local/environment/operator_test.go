package environment_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/migration"
)

// operator is somebody with a shell and the AWS CLI.
type operator struct {
	t   *testing.T
	env *environment.Environment
}

// holder keeps the answer of a function back, as if it took longer, so that a command line of a second arrives in time.
type holder struct {
	mu     sync.Mutex
	name   string // of the function; "" holds none
	frozen bool
	held   chan time.Time
	let    chan struct{} // closed when the answer may go
}

// hold is for the next invocation of the function from the freeze on. The channel tells when it has done its work; let ends it.
func (h *holder) hold(function string) (held <-chan time.Time, let func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.name, h.frozen, h.held, h.let = function, false, make(chan time.Time, 1), make(chan struct{})
	return h.held, sync.OnceFunc(func() { close(h.let) })
}

func (h *holder) invoke(ctx context.Context, function string, payload []byte, invoke func(context.Context, []byte) ([]byte, error)) ([]byte, error) {
	answer, err := invoke(ctx, payload)
	h.mu.Lock()
	h.frozen = h.frozen || function == "freeze"
	hold, held, let := h.frozen && function == h.name, h.held, h.let
	if hold {
		h.name = ""
	}
	h.mu.Unlock()
	if hold {
		held <- time.Now()
		select {
		case <-let:
		case <-ctx.Done():
		}
	}
	return answer, err
}

func newOperator(t *testing.T, hooks environment.Hooks) operator {
	t.Helper()
	if _, err := exec.LookPath("aws"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("the AWS CLI is missing")
	}
	cfg := config(t)
	cfg.Hooks = hooks
	env := environmenttest.Start(t, cfg)
	fill(t, env, 1<<20)
	return operator{t, env}
}

// shell runs a command line as it stands, in a shell that is pointed at this machine by its environment alone.
func (o operator) shell(line string) map[string]any {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "AWS_") { // a profile or session of who runs the tests
			cmd.Env = append(cmd.Env, entry)
		}
	}
	nowhere := o.t.TempDir()
	cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL="+o.env.StepFunctionsURL, "AWS_REGION="+environment.Region, "AWS_DEFAULT_REGION="+environment.Region,
		"AWS_ACCESS_KEY_ID="+environment.Operator.ID, "AWS_SECRET_ACCESS_KEY="+environment.Operator.Secret, "AWS_DEFAULT_OUTPUT=json", "AWS_PAGER=",
		"AWS_CONFIG_FILE="+filepath.Join(nowhere, "config"), "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(nowhere, "credentials"))
	var refused strings.Builder
	cmd.Stderr = &refused
	text, err := cmd.Output()
	if err != nil {
		o.t.Fatalf("%s: %v: %s", line, err, refused.String())
	}
	var out map[string]any
	if len(strings.TrimSpace(string(text))) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			o.t.Fatalf("%s: %v: %s", line, err, text)
		}
	}
	return out
}

// start begins a migration and returns the execution.
func (o operator) start(input map[string]any) string {
	o.t.Helper()
	text, err := json.Marshal(input)
	if err != nil {
		o.t.Fatal(err)
	}
	file := filepath.Join(o.t.TempDir(), "input.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		o.t.Fatal(err)
	}
	arn, _ := o.shell("aws stepfunctions start-execution --state-machine-arn " + o.env.MigrationARN + " --input file://" + file)["executionArn"].(string)
	return arn
}

// ends waits for the end of an execution and describes it: its status, and its error, if it has one.
func (o operator) ends(execution string) (how, cause string) {
	o.t.Helper()
	environmenttest.End(o.t, o.env, execution)
	d := o.shell("aws stepfunctions describe-execution --execution-arn " + execution)
	how, _ = d["status"].(string)
	if name, _ := d["error"].(string); name != "" {
		how += " " + name
	}
	cause, _ = d["cause"].(string)
	return how, cause
}

// answers gives the answer to an execution's question by the command line that comes with it.
func (o operator) answers(execution string, action migration.Action) {
	o.t.Helper()
	q := question(o.t, o.env, "orders")
	for q.Execution != execution {
		q = question(o.t, o.env, "orders")
	}
	for _, a := range q.Answers {
		if a.Action == action {
			o.shell(a.Command)
			return
		}
	}
	o.t.Fatalf("there is no answer %s: %+v", action, q.Answers)
}

// An operator's night: another execution is refused, the cut-over declined, then stopped in each of its phases, then approved.
func TestOperatorByTheAWSCommandLine(t *testing.T) {
	var functions holder
	o := newOperator(t, environment.Hooks{Invoke: functions.invoke})
	env := o.env
	asking := env.Input("orders", "5m")
	asking["cutOver"] = map[string]any{"approval": "required"}
	first := o.start(asking)
	question(t, env, "orders")
	if how, cause := o.ends(o.start(env.Input("books", "5m"))); how != "FAILED Migration.DomainTaken" || !strings.Contains(cause, first) {
		t.Errorf("a second execution ended %s: %s", how, cause)
	}
	o.answers(first, migration.Decline)
	if how, cause := o.ends(first); how != "FAILED Migration.NotApproved" {
		t.Errorf("declined, it ended %s: %s", how, cause)
	}
	if writable(t, env) != env.Source {
		t.Fatal("after a decline the destination takes writes")
	}

	writeLate(env)
	for _, function := range []string{"freeze", "snapshot", "copy", "publish-copy", "restore", "verify"} {
		t.Run("stop in "+function, func(t *testing.T) {
			o := operator{t, env}
			reached, let := functions.hold(function)
			defer let()
			execution := o.start(env.Input("orders", "5m"))
			var at time.Time
			select {
			case at = <-reached:
			case <-time.After(2 * time.Minute):
				t.Fatal("the function was not called")
			}
			o.shell("aws stepfunctions stop-execution --execution-arn " + execution + " --error Operator --cause 'changed my mind'")
			if how, cause := o.ends(execution); how != "ABORTED Operator" {
				t.Fatalf("ended %s: %s", how, cause)
			}
			if writable(t, env) != env.Source {
				t.Fatal("the destination takes writes")
			}
			t.Logf("writes are back %.1f s after the function's work, of which the command line takes a good part", time.Since(at).Seconds())
		})
	}

	last := o.start(asking)
	o.answers(last, migration.Approve)
	if how, cause := o.ends(last); how != "SUCCEEDED" {
		t.Fatalf("approved, it ended %s: %s", how, cause)
	}
	if writable(t, env) != env.Destination {
		t.Error("after the hand-over the source takes writes")
	}
}

// A window that was missed is followed by the next one, and the copies are kept warm until then.
func TestMissedWindowWaitsForTheNext(t *testing.T) {
	o := newOperator(t, environment.Hooks{})
	const every = time.Hour
	opens := time.Now().Add(10 * time.Second).UTC().Truncate(time.Second)
	input := o.env.Input("orders", "5m")
	input["cutOver"] = map[string]any{
		"notBefore": opens.Add(-every).Format(time.RFC3339), "notAfter": opens.Add(-every / 2).Format(time.RFC3339), "every": every.String(),
	}
	execution := o.start(input)
	if how, cause := o.ends(execution); how != "SUCCEEDED" {
		t.Fatalf("ended %s: %s", how, cause)
	}
	f, found, err := o.env.Journal().Migration("orders").Freeze(t.Context())
	if err != nil || !found || f.State != journal.HandedOver || f.StartedAt.Before(opens) {
		t.Errorf("the window opens at %s; frozen at %s (%t, %s, %v)", opens, f.StartedAt, found, f.State, err)
	}
	if n := len(rounds(t, o.env)); n < 2 {
		t.Errorf("%d rounds were made: nothing was warmed before the window", n)
	}
}
