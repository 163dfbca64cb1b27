package environment_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
)

// twoAccounts starts an environment whose source is another account's, and makes sure that its bucket is closed to the one that copies.
func twoAccounts(t *testing.T) *environment.Environment {
	t.Helper()
	cfg := config(t)
	cfg.TwoAccounts = true
	env := environmenttest.Start(t, cfg)
	fill(t, env, 1<<20)
	closed(t, env, "before")
	return env
}

func sourcePolicy(t *testing.T, env *environment.Environment) string {
	t.Helper()
	text, err := env.OwnerOfSource().Access(t.Context(), environment.SourceBucket, access.BucketPolicy)
	if err != nil || text == nil {
		t.Fatalf("the source bucket's policy: %v, %v", text, err)
	}
	return *text
}

// closed makes sure that the copying account cannot list the source's bucket.
func closed(t *testing.T, env *environment.Environment, when string) {
	t.Helper()
	_, err := env.CopyingAccount().ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String(environment.SourceBucket), Prefix: aws.String(environment.BasePath + "/")})
	if err == nil || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("%s, the copying account lists the source's bucket: %v", when, err)
	}
}

// unchanged waits for the rule's thaw and compares.
func unchanged(t *testing.T, env *environment.Environment) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); sourcePolicy(t, env) != environment.SourcePolicy; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("afterwards the source bucket's policy is\n%s\nnot\n%s", sourcePolicy(t, env), environment.SourcePolicy)
		}
	}
	closed(t, env, "afterwards")
}

// TestMigrationBetweenTwoAccounts moves a domain of another account: nothing but the assumed role may call it, and its bucket is opened by its
// policy for the time of the migration.
func TestMigrationBetweenTwoAccounts(t *testing.T) {
	env := twoAccounts(t)
	opened := make(chan string, 1)
	entered(env, "Freeze", func(*asl.Execution) {
		text, err := env.OwnerOfSource().Access(context.Background(), environment.SourceBucket, access.BucketPolicy)
		if err != nil || text == nil {
			opened <- ""
			return
		}
		opened <- *text
	})
	succeed(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m")))
	if policy := <-opened; !strings.Contains(policy, "DomainFerryReadForCopy") || !strings.Contains(policy, "NobodyDeletes") {
		t.Errorf("while the migration ran the policy was\n%s", policy)
	}
	unchanged(t, env)
}

// TestStoppedBetweenTwoAccounts stops such a migration in the middle.
func TestStoppedBetweenTwoAccounts(t *testing.T) {
	env := twoAccounts(t)
	entered(env, "Freeze", func(x *asl.Execution) {
		_, _ = env.StepFunctions().StopExecution(context.Background(), &sfn.StopExecutionInput{ExecutionArn: &x.ARN, Error: aws.String("Operator")})
	})
	if d := environmenttest.End(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m"))); d.Status != types.ExecutionStatusAborted {
		t.Fatalf("ended %s: %s", d.Status, aws.ToString(d.Cause))
	}
	unchanged(t, env)
}

// TestWithoutTheRoleOfTheOtherAccount has an input without it: the domain refuses, and the error says so.
func TestWithoutTheRoleOfTheOtherAccount(t *testing.T) {
	env := twoAccounts(t)
	input := env.Input("orders", "5m")
	source := env.Source.Endpoint()
	source.Access.ExternalID = "wrong"
	input["source"] = source
	d := environmenttest.End(t, env, environmenttest.Begin(t, env, env.MigrationARN, input))
	if d.Status != types.ExecutionStatusFailed || aws.ToString(d.Error) != "Migration.AccessDenied" || !strings.Contains(aws.ToString(d.Cause), "sts:AssumeRole") {
		t.Errorf("ended %s: %s: %s", d.Status, aws.ToString(d.Error), aws.ToString(d.Cause))
	}
	if sourcePolicy(t, env) != environment.SourcePolicy {
		t.Error("the policy was changed")
	}
}
