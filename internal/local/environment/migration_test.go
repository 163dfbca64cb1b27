package environment_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/local/node"
	"github.com/domainferry/domainferry/internal/local/workload"
	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/internal/report"
)

const root = "../../.."

func config(t *testing.T) environment.Config {
	return environment.Config{
		Engines: environment.Model, Source: "elasticsearch-7.10.2", Destination: "opensearch-2.19.0", LambdaDir: environmenttest.Lambdas(t, root),
	}
}

func fill(t *testing.T, env *environment.Environment, bytes int64) *workload.Dataset {
	t.Helper()
	d, err := workload.Fill(t.Context(), env.Source.Client(environment.Operator), workload.Options{Seed: 7, TotalBytes: bytes})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func succeed(t *testing.T, env *environment.Environment, execution string) {
	t.Helper()
	if d := environmenttest.End(t, env, execution); d.Status != types.ExecutionStatusSucceeded {
		t.Fatalf("execution ended %s: %s: %s", d.Status, aws.ToString(d.Error), aws.ToString(d.Cause))
	}
}

// call speaks to a domain directly, without signature.
func call(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b.String()
}

// entered runs f once when the migration machine enters the state.
func entered(env *environment.Environment, state string, f func(*asl.Execution)) {
	var once sync.Once
	env.Engine.Observe(asl.Observer{StateEntered: func(s asl.StateEntered) {
		if s.State == state && s.Execution.StateMachineARN == env.MigrationARN {
			once.Do(func() { go f(s.Execution) })
		}
	}})
}

func TestBadInputNamesEveryProblemAndTouchesNothing(t *testing.T) {
	env := environmenttest.Start(t, config(t))
	fill(t, env, 1<<20)
	input := env.Input("orders", "0s")
	input["surprise"] = true
	input["indices"] = map[string]any{"include": []string{"logs", "no-such-*"}}
	input["topology"] = 3
	d := environmenttest.End(t, env, environmenttest.Begin(t, env, env.MigrationARN, input))
	if aws.ToString(d.Error) != "Migration.InvalidInput" {
		t.Fatalf("ended with %s: %s", aws.ToString(d.Error), aws.ToString(d.Cause))
	}
	for _, path := range []string{"$.surprise", "$.downtimeWindow", "$.indices.include[1]", "$.topology", "4 problems"} {
		if !strings.Contains(aws.ToString(d.Cause), path) {
			t.Errorf("the cause does not name %s: %s", path, aws.ToString(d.Cause))
		}
	}
	for _, side := range []*environment.Side{env.Source, env.Destination} {
		if _, body := call(t, "GET", side.Direct+"/_snapshot", ""); strings.Contains(body, "orders") {
			t.Errorf("a repository was registered: %s", body)
		}
	}
	if _, err := env.Journal().Migration("orders").ReadPlan(t.Context()); err == nil {
		t.Error("a plan was written")
	}
}

func TestStopInsideTheFreezeGivesWritesBack(t *testing.T) {
	for _, state := range []string{"Freeze", "FinalRound", "Verify", "Finish"} {
		t.Run(state, func(t *testing.T) {
			env := environmenttest.Start(t, config(t))
			fill(t, env, 1<<20)
			writeLate(env)
			stopped := make(chan error, 1)
			entered(env, state, func(x *asl.Execution) {
				_, err := env.StepFunctions().StopExecution(context.Background(), &sfn.StopExecutionInput{
					ExecutionArn: &x.ARN, Error: aws.String("Operator"), Cause: aws.String("changed my mind"),
				})
				stopped <- err
			})
			execution := environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m"))
			if d := environmenttest.End(t, env, execution); d.Status != types.ExecutionStatusAborted {
				t.Fatalf("ended %s: %s", d.Status, aws.ToString(d.Cause))
			}
			if err := <-stopped; err != nil {
				t.Fatal(err)
			}
			side := writable(t, env)
			if side == env.Destination {
				// Only from Finish on may the destination have taken over; then the source must stay closed for good.
				if state != "Finish" {
					t.Fatalf("the destination takes writes after a stop in %s", state)
				}
				return
			}
			// The next execution goes on from the warm destination.
			before := rounds(t, env)
			succeed(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m")))
			if after := rounds(t, env); len(after) <= len(before) {
				t.Errorf("%d rounds before, %d after the second execution", len(before), len(after))
			}
		})
	}
}

// writeLate writes a document whenever a freeze begins, so that the final round has something to move.
func writeLate(env *environment.Environment) {
	env.Engine.Observe(asl.Observer{StateEntered: func(s asl.StateEntered) {
		if s.State != "Freeze" {
			return
		}
		if resp, err := http.Post(env.Source.Direct+"/logs/_doc?routing=a", "application/json", strings.NewReader(`{"message":"at the last moment"}`)); err == nil {
			resp.Body.Close()
		}
	}})
}

// writable waits, 30 seconds at most, until exactly one side takes a write to logs, and returns it.
func writable(t *testing.T, env *environment.Environment) *environment.Side {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		source, _ := call(t, "POST", env.Source.Direct+"/logs/_doc?routing=a", `{"message":"after the stop"}`)
		destination, _ := call(t, "POST", env.Destination.Direct+"/logs/_doc?routing=a", `{"message":"after the stop"}`)
		switch {
		case source == http.StatusCreated && destination == http.StatusCreated:
			t.Fatal("both sides take writes")
		case source == http.StatusCreated:
			return env.Source
		case destination == http.StatusCreated:
			return env.Destination
		case time.Now().After(deadline):
			t.Fatalf("30 s after the stop no side takes writes: source %d, destination %d", source, destination)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func rounds(t *testing.T, env *environment.Environment) []int {
	t.Helper()
	list, err := env.Journal().Migration("orders").Rounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, r := range list {
		numbers = append(numbers, r.Number)
	}
	return numbers
}

func TestRedriveAfterAFailureBeforeTheFreeze(t *testing.T) {
	env := environmenttest.Start(t, config(t))
	fill(t, env, 1<<20)
	// Registered by somebody else with another bucket: Register fails, which no retry can mend.
	if code, body := call(t, "PUT", env.Source.Direct+"/_snapshot/orders", `{"type":"fs","settings":{"location":"`+env.Gateway.BucketPath(environment.JournalBucket)+`/x"}}`); code != 200 {
		t.Fatalf("register a foreign repository: %s", body)
	}
	execution := environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m"))
	d := environmenttest.End(t, env, execution)
	if aws.ToString(d.Error) != "Migration.RepositoryRefused" {
		t.Fatalf("ended with %s: %s", aws.ToString(d.Error), aws.ToString(d.Cause))
	}
	if code, body := call(t, "DELETE", env.Source.Direct+"/_snapshot/orders", ""); code != 200 {
		t.Fatal(body)
	}
	if _, err := env.StepFunctions().RedriveExecution(t.Context(), &sfn.RedriveExecutionInput{ExecutionArn: &execution}); err != nil {
		t.Fatal(err)
	}
	succeed(t, env, execution)
}

// TestKill9 kills Lambda processes, gateway and nodes with SIGKILL again and again while clients write; nothing may be lost.
func TestKill9(t *testing.T) {
	env := environmenttest.Start(t, config(t))
	dataset := fill(t, env, 4<<20)
	writer, err := workload.StartWriter(t.Context(), env.Source.Client(environment.Operator), dataset, workload.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var killer sync.WaitGroup
	killer.Go(func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for i, f := range names.Functions() {
				if (n+i)%5 == 0 {
					for _, pid := range env.Lambdas.PIDs(f.Name) {
						_ = syscall.Kill(-pid, syscall.SIGKILL)
					}
				}
			}
			if n%7 == 3 {
				if err := env.Gateway.Restart(context.WithoutCancel(ctx)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	execution := environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m"))
	d := environmenttest.End(t, env, execution)
	stop()
	killer.Wait()
	if d.Status != types.ExecutionStatusSucceeded {
		t.Fatalf("ended %s: %s: %s", d.Status, aws.ToString(d.Error), aws.ToString(d.Cause))
	}
	writer.SwitchTo(env.Destination.Client(environment.Operator))
	check(t, env, writer, dataset)
}

// check stops the writer and looks for every acknowledged write at the destination.
func check(t *testing.T, env *environment.Environment, writer *workload.Writer, dataset *workload.Dataset) {
	t.Helper()
	if err := writer.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	result, err := workload.Check(t.Context(), env.Destination.Client(environment.Operator), writer, dataset)
	if err := errors.Join(err, result.Problem()); err != nil {
		t.Error(err)
	}
	if result.AcknowledgedWrites == 0 {
		t.Error("the clients wrote nothing, so nothing was proven")
	}
}

// TestRealNodes moves a real 7.10.2 domain into a real 2.19.0 one, with a destination node that is killed in the middle of a
// restore, and has an independent program compare the documents.
func TestRealNodes(t *testing.T) {
	cfg := config(t)
	cfg.Engines = environment.Nodes
	for _, name := range []string{cfg.Source, cfg.Destination} {
		e, err := node.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Available(e); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	env := environmenttest.Start(t, cfg)
	dataset := fill(t, env, 8<<20)
	killed := make(chan error, 1)
	var once sync.Once
	env.Engine.Observe(asl.Observer{StateEntered: func(s asl.StateEntered) {
		if s.State == "PollRestore" {
			once.Do(func() {
				go func() {
					killed <- errors.Join(env.Destination.Kill9(), env.Destination.Restart(context.WithoutCancel(t.Context())))
				}()
			})
		}
	}})
	succeed(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m")))
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if found, err := env.Journal().Migration("orders").Document(t.Context(), journal.ReportFile, &r); err != nil || !found || r.Verdict != "verified" {
		t.Errorf("report: found %t, verdict %q, %v", found, r.Verdict, err)
	}
	compare(t, env, dataset)
	replicas(t, env)
}

// compare runs ../shared/tools/compare-indices, which reads the nodes independently of this project's code.
func compare(t *testing.T, env *environment.Environment, dataset *workload.Dataset) {
	t.Helper()
	tool, err := filepath.Abs(filepath.Join(root, "..", "shared", "tools", "compare-indices"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(tool); err != nil {
		t.Log("compare-indices is not beside the repository; the documents were compared by the migration's own verification only")
		return
	}
	args := []string{env.Source.Direct, env.Destination.Direct}
	for _, x := range dataset.Indices {
		args = append(args, x.Name)
	}
	if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
		t.Errorf("compare-indices: %v\n%s", err, out)
	}
}

// replicas checks that the destination's settings are the source's, the write block apart.
func replicas(t *testing.T, env *environment.Environment) {
	t.Helper()
	type answer map[string]struct {
		Settings map[string]any `json:"settings"`
	}
	var source, destination answer
	for side, into := range map[*environment.Side]*answer{env.Source: &source, env.Destination: &destination} {
		_, body := call(t, "GET", side.Direct+"/_settings?flat_settings=true", "")
		if err := json.Unmarshal([]byte(body), into); err != nil {
			t.Fatal(err)
		}
	}
	var checked []string
	for name, want := range source {
		if strings.HasPrefix(name, ".") {
			continue
		}
		checked = append(checked, name)
		for _, k := range []string{"index.number_of_replicas", "index.refresh_interval", "index.auto_expand_replicas"} {
			if got := destination[name].Settings[k]; got != want.Settings[k] {
				t.Errorf("%s of %s is %v at the destination, %v at the source", k, name, got, want.Settings[k])
			}
		}
		if got := destination[name].Settings["index.blocks.write"]; got != nil {
			t.Errorf("%s still has index.blocks.write %v", name, got)
		}
	}
	slices.Sort(checked)
	if !slices.Equal(checked, []string{"catalogue", "countries", "logs"}) {
		t.Errorf("compared the settings of %v", checked)
	}
}
