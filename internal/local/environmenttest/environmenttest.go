// Package environmenttest helps tests that run migrations in the local environment.
package environmenttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/names"
)

var lambdas struct {
	once sync.Once
	dir  string
	err  error
}

// Lambdas builds every function for this machine once in a test binary, as make build does, so that a test never meets stale
// ones. root is the repository's root relative to the test's folder.
func Lambdas(t *testing.T, root string) string {
	t.Helper()
	lambdas.once.Do(func() { lambdas.dir, lambdas.err = build(root) })
	if lambdas.err != nil {
		t.Fatal(lambdas.err)
	}
	return lambdas.dir
}

// build links into a folder that stays, because go then links only what has changed, and all together take longer than most
// tests.
func build(root string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(root, "build", "test-lambdas"))
	if err != nil {
		return "", err
	}
	binaries := filepath.Join(dir, "bin")
	if err := os.MkdirAll(binaries, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-tags", "lambda.norpc", "-trimpath", "-buildvcs=false", "-o", binaries+string(filepath.Separator), "./lambdas/...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the Lambdas: %w\n%s", err, out)
	}
	for _, f := range names.Functions() {
		if err := os.MkdirAll(filepath.Join(dir, f.Name), 0o755); err != nil {
			return "", err
		}
		link, target := filepath.Join(dir, f.Name, "bootstrap"), filepath.Join("..", "bin", f.Name)
		if now, err := os.Readlink(link); err == nil && now == target {
			continue
		}
		if err := errors.Join(os.RemoveAll(link), os.Symlink(target, link)); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	return dir, nil
}

// Start brings up an environment for the test. When the test fails it shows how executions ended, children of Map Runs
// included: a migration's own error may only say that a child failed.
func Start(t *testing.T, cfg environment.Config) *environment.Environment {
	t.Helper()
	var progress bytes.Buffer
	cfg.Progress = &progress
	if cfg.LogDir == "" {
		cfg.LogDir = t.TempDir()
	}
	env, err := environment.Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("start the environment: %v\n%s", err, progress.String())
	}
	var mu sync.Mutex
	var failures []string
	env.Engine.Observe(asl.Observer{StatusChanged: func(c asl.StatusChange) {
		if c.Status == asl.Failed || c.Status == asl.TimedOut {
			d := c.Execution.Describe()
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, fmt.Sprintf("%s %s: %s: %s", d.Status, d.ExecutionARN, d.Error, d.Cause))
		}
	}})
	t.Cleanup(func() {
		if err := env.Close(); err != nil {
			t.Errorf("stop the environment: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if t.Failed() {
			t.Logf("executions that failed, the first one first:\n%s", strings.Join(failures, "\n"))
		}
	})
	return env
}

// Begin starts an execution of a state machine through the Step Functions API.
func Begin(t *testing.T, env *environment.Environment, machine string, input any) string {
	t.Helper()
	body, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	out, err := env.StepFunctions().StartExecution(t.Context(), &sfn.StartExecutionInput{StateMachineArn: &machine, Input: aws.String(string(body))})
	if err != nil {
		t.Fatalf("start an execution: %v", err)
	}
	return aws.ToString(out.ExecutionArn)
}

// End waits for the end of an execution.
func End(t *testing.T, env *environment.Environment, execution string) *sfn.DescribeExecutionOutput {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for {
		d, err := env.StepFunctions().DescribeExecution(ctx, &sfn.DescribeExecutionInput{ExecutionArn: &execution})
		if err != nil {
			t.Fatal(err)
		}
		if d.Status != types.ExecutionStatusRunning {
			return d
		}
		select {
		case <-ctx.Done():
			t.Fatalf("execution %s still runs: %v", execution, context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
