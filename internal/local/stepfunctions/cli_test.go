package stepfunctions

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cli runs the AWS CLI against the world and returns its JSON answer, or the text of its refusal.
func (w *world) cli(arguments ...string) (out map[string]any, refusal string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "aws", append([]string{"stepfunctions"}, append(arguments,
		"--endpoint-url", w.url, "--region", region, "--output", "json")...)...)
	nowhere := w.t.TempDir()
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "AWS_") { // a profile or session of who runs the tests
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID="+accessKey, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_PAGER=", "AWS_MAX_ATTEMPTS=1",
		"AWS_CONFIG_FILE="+filepath.Join(nowhere, "config"), "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(nowhere, "credentials"))
	var refused strings.Builder
	cmd.Stderr = &refused
	text, err := cmd.Output()
	if err != nil {
		return nil, refused.String()
	}
	if len(strings.TrimSpace(string(text))) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			w.t.Fatalf("aws %s: %v: %s", arguments[0], err, text)
		}
	}
	return out, ""
}

// must runs the CLI and wants an answer.
func (w *world) must(arguments ...string) map[string]any {
	w.t.Helper()
	out, refusal := w.cli(arguments...)
	if refusal != "" {
		w.t.Fatalf("aws stepfunctions %s: %s", strings.Join(arguments, " "), refusal)
	}
	return out
}

// The flow of an operator: start, look, read the history, be refused, stop, redrive, approve.
func TestAWSCommandLine(t *testing.T) {
	need(t, "the AWS CLI", "aws", "--version")
	w := newWorld(t)

	file := filepath.Join(t.TempDir(), "input.json")
	if err := os.WriteFile(file, []byte(`{"migration":"ä"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	started := w.must("start-execution", "--state-machine-arn", *w.machine("plain"), "--name", "cli", "--input", "file://"+file)
	arn, _ := started["executionArn"].(string)
	w.end(&arn)
	if d := w.must("describe-execution", "--execution-arn", arn); d["status"] != "SUCCEEDED" || d["output"] != `{"got":{"migration":"ä"}}` {
		t.Errorf("described %v", d)
	}
	// Without --max-items the CLI follows nextToken by itself.
	history := w.must("get-execution-history", "--execution-arn", arn, "--page-size", "3", "--include-execution-data")
	if events, _ := history["events"].([]any); len(events) != 4 {
		t.Errorf("history %v", history)
	}

	_, refusal := w.cli("start-execution", "--state-machine-arn", *w.machine("plain"), "--name", "cli", "--input", "{}")
	if !strings.Contains(refusal, "(ExecutionAlreadyExists) when calling the StartExecution operation: Execution Already Exists: '"+arn+"'") {
		t.Errorf("the same name: %s", refusal)
	}
	_, refusal = w.cli("start-execution", "--state-machine-arn", *w.machine("plain"), "--input", "{not JSON")
	if !strings.Contains(refusal, "(InvalidExecutionInput)") {
		t.Errorf("a bad input: %s", refusal)
	}

	asked, _ := w.must("start-execution", "--state-machine-arn", *w.machine("approval"))["executionArn"].(string)
	running := w.must("list-executions", "--state-machine-arn", *w.machine("approval"), "--status-filter", "RUNNING")
	if rows, _ := running["executions"].([]any); len(rows) != 1 || rows[0].(map[string]any)["executionArn"] != asked {
		t.Errorf("running %v", running)
	}
	token := *w.token(&asked)
	w.must("send-task-success", "--task-token", token, "--task-output", `{"by":"cli"}`)
	if d := w.end(&asked); *d.Output != `{"by":"cli"}` {
		t.Errorf("approved with %s", *d.Output)
	}
	_, refusal = w.cli("send-task-failure", "--task-token", token, "--error", "Late", "--cause", "too late")
	if !strings.Contains(refusal, "(TaskTimedOut)") {
		t.Errorf("a late failure: %s", refusal)
	}

	w.held.Store(true)
	w.broken.Store(true)
	stopped, _ := w.must("start-execution", "--state-machine-arn", *w.machine("work"), "--input", `{"bad":true}`)["executionArn"].(string)
	if out := w.must("stop-execution", "--execution-arn", stopped, "--error", "Operator", "--cause", "by hand"); out["stopDate"] == nil {
		t.Errorf("stopped %v", out)
	}
	if d := w.must("describe-execution", "--execution-arn", stopped); d["status"] != "ABORTED" || d["cause"] != "by hand" ||
		d["redriveStatus"] != "REDRIVABLE" {
		t.Errorf("stopped: %v", d)
	}
	w.broken.Store(false)
	w.held.Store(false)
	if out := w.must("redrive-execution", "--execution-arn", stopped); out["redriveDate"] == nil {
		t.Errorf("redriven %v", out)
	}
	w.end(&stopped)
	if d := w.must("describe-execution", "--execution-arn", stopped); d["status"] != "SUCCEEDED" || d["redriveCount"] != 1.0 {
		t.Errorf("redriven: %v", d)
	}

	spreadARN, _ := w.must("start-execution", "--state-machine-arn", *w.machine("spread"), "--input", `{"items":[{},{}]}`)["executionArn"].(string)
	w.end(&spreadARN)
	runs, _ := w.must("list-map-runs", "--execution-arn", spreadARN)["mapRuns"].([]any)
	if len(runs) != 1 {
		t.Fatalf("Map Runs %v", runs)
	}
	run := runs[0].(map[string]any)["mapRunArn"].(string)
	if d := w.must("describe-map-run", "--map-run-arn", run); d["itemCounts"].(map[string]any)["succeeded"] != 2.0 {
		t.Errorf("Map Run %v", d)
	}
	if rows, _ := w.must("list-executions", "--map-run-arn", run)["executions"].([]any); len(rows) != 2 {
		t.Errorf("children %v", rows)
	}
}
