package environment_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/step"
)

// question waits until the migration asks how to go on.
func question(t *testing.T, env *environment.Environment, name string) step.Question {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var q step.Question
		found, err := env.Journal().Migration(name).Document(t.Context(), "question.json", &q)
		switch {
		case err != nil:
			t.Fatal(err)
		case found:
			return q
		case time.Now().After(deadline):
			t.Fatal("nothing was asked")
		}
	}
}

// answer gives one of the question's answers.
func answer(t *testing.T, env *environment.Environment, q step.Question, a migration.Action) {
	t.Helper()
	_, command, _ := strings.Cut(q.Answers[0].Command, "--task-token ")
	token, _, _ := strings.Cut(command, " ")
	_, err := env.StepFunctions().SendTaskSuccess(t.Context(), &sfn.SendTaskSuccessInput{TaskToken: &token, Output: aws.String(`{"action":"` + string(a) + `"}`)})
	if err != nil {
		t.Fatal(err)
	}
}

// One execution at a time acts on a domain: another one is refused with the name of the first, and gets it once that has ended.
func TestSecondExecutionIsRefused(t *testing.T) {
	env := environmenttest.Start(t, config(t))
	fill(t, env, 1<<20)
	input := env.Input("orders", "5m")
	input["cutOver"] = map[string]any{"approval": "required"}
	first := environmenttest.Begin(t, env, env.MigrationARN, input)
	q := question(t, env, "orders")

	for _, name := range []string{"orders", "books"} {
		d := environmenttest.End(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input(name, "5m")))
		if cause := aws.ToString(d.Cause); d.Status != types.ExecutionStatusFailed || aws.ToString(d.Error) != "Migration.DomainTaken" || !strings.Contains(cause, first) {
			t.Errorf("%s ended %s: %s: %s", name, d.Status, aws.ToString(d.Error), cause)
		}
	}
	answer(t, env, q, migration.Decline)
	if d := environmenttest.End(t, env, first); aws.ToString(d.Error) != "Migration.NotApproved" {
		t.Errorf("ended %s: %s", aws.ToString(d.Error), aws.ToString(d.Cause))
	}
	if code, body := call(t, "PUT", env.Source.Direct+"/logs/_doc/declined", `{"written": "after it was declined"}`); code != 201 {
		t.Errorf("the source answers %d %s", code, body)
	}
	// Approved, it makes one more round and cuts over.
	second := environmenttest.Begin(t, env, env.MigrationARN, input)
	for q.Execution != second {
		q = question(t, env, "orders")
	}
	answer(t, env, q, migration.Approve)
	succeed(t, env, second)
	if code, body := call(t, "GET", env.Destination.Direct+"/logs/_doc/declined", ""); code != 200 || !strings.Contains(body, "after it was declined") {
		t.Errorf("the destination answers %d %s", code, body)
	}
	for _, side := range []*environment.Side{env.Source, env.Destination} {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			l, err := env.Journal().Lease(t.Context(), side.Door.URL())
			if err != nil {
				t.Fatal(err)
			}
			if !l.EndedAt.IsZero() {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("a minute after the end: %+v", l)
			}
		}
	}
}
