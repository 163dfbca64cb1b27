package stepfunctions

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/sfn/types"
)

// need skips the test by name where a tool is missing, and fails it in CI.
func need(t *testing.T, what string, command ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
		report := t.Skipf
		if os.Getenv("CI") == "true" {
			report = t.Fatalf
		}
		report("needs %s (tools/python/requirements.txt has it): %s: %v %s", what, command[0], err, out)
	}
}

func TestAnswersFitTheServicesModel(t *testing.T) {
	need(t, "Python with botocore, which carries the service's API model", "python3", "-c", "import botocore.loaders")
	var answers []answer
	for _, scenario := range []func(*testing.T, *world){approve, failAndRedrive, spread, long, parts, refusals} {
		w := newWorld(t)
		scenario(t, w)
		machines(t, w)
		answers = append(answers, w.answers...)
	}
	var in bytes.Buffer
	served := map[string]bool{}
	for _, a := range answers {
		if err := json.NewEncoder(&in).Encode(a); err != nil {
			t.Fatal(err)
		}
		if a.Status == 200 {
			served[a.Operation] = true
		}
	}
	for _, operation := range slices.Sorted(maps.Keys(operations)) {
		if !served[operation] {
			t.Errorf("no scenario has an answer of %s", operation)
		}
	}
	cmd := exec.CommandContext(t.Context(), "python3", "testdata/validate.py")
	cmd.Stdin = &in
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := lines[len(lines)-1]; err != nil || last != strconv.Itoa(len(answers)) {
		t.Fatalf("%v: %s", err, out)
	}
	for _, problem := range lines[:len(lines)-1] {
		t.Error(problem)
	}
}

// parts runs through the kinds of states and events that the other scenarios do not have.
func parts(t *testing.T, w *world) {
	arn := w.start("parts", "", "{}")
	if d := w.end(arn); *d.Error != "Every.Part" {
		t.Fatalf("%s: %s", *d.Error, *d.Cause)
	}
	seen := map[types.HistoryEventType]bool{}
	for _, e := range w.history(arn) {
		seen[e.Type] = true
	}
	for _, kind := range []types.HistoryEventType{"ChoiceStateEntered", "WaitStateExited", "ParallelStateSucceeded", "TaskSubmitted", "EvaluationFailed",
		"TaskTimedOut", "MapIterationFailed", "MapStateFailed", "FailStateEntered", "ExecutionFailed"} {
		if !seen[kind] {
			t.Errorf("no event %s", kind)
		}
	}
}
