// Package domainferry_test keeps what the repository shows its readers true: every example is executed, and the README's tables
// and pictures are compared with the code.
package domainferry_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/local/workload"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
)

const (
	localExample = "migration.json" // for `make local`, as it stands
	roundExample = "round.json"     // for the round machine
)

// scenarios are the examples in the order in which they are run, each scenario against a deployment of its own. A later example
// of a scenario goes on from what the one before it left.
var scenarios = []struct {
	name     string
	examples []string
	check    func(t *testing.T, env *environment.Environment, outputs map[string]map[string]any)
}{
	{"one machine", []string{localExample}, func(t *testing.T, env *environment.Environment, outputs map[string]map[string]any) {
		checkMigrated(t, env, outputs[localExample], "catalogue", "countries", "logs")
	}},
	{"assess and migrate", []string{"assess.json", "amazon-cross-region.json"}, func(t *testing.T, env *environment.Environment, outputs map[string]map[string]any) {
		if n := outputs["assess.json"]["indices"]; n != 3.0 {
			t.Errorf("assess.json found %v indices, want 3", n)
		}
		// The first round has to be number 1: an assessment leaves nothing behind.
		if n := outputs["assess.json"]["firstRound"]; n != 1.0 {
			t.Errorf("assess.json says that the first round is %v, want 1", n)
		}
		out := outputs["amazon-cross-region.json"]
		checkMigrated(t, env, out, "catalogue", "logs")
		var r report.Report
		if _, err := env.Journal().Migration(out["migration"].(string)).Document(t.Context(), journal.ReportFile, &r); err != nil {
			t.Fatal(err)
		}
		// A time-out of the wait for green is no failure, and said.
		if r.Green == nil || r.Green.Reached || len(r.Green.Missing) != 2 || r.Green.Seconds < 3 || out["action"] != "done" {
			t.Errorf("waited for replicas that one node has no place for: %+v, %v", r.Green, out)
		}
	}},
	{"standby", []string{"standby-warm.json", roundExample}, func(t *testing.T, env *environment.Environment, outputs map[string]map[string]any) {
		if a := outputs["standby-warm.json"]["action"]; a != "done" {
			t.Errorf("standby-warm.json ended with action %v, want done", a)
		}
		rounds, err := env.Journal().Migration("standby-search").Rounds(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(rounds) != 2 || rounds[0].Final || rounds[1].Final {
			t.Fatalf("the journal has %d rounds, want one warm round of each example: %+v", len(rounds), rounds)
		}
		if rounds[0].Restore.RecoveredBytes == 0 || rounds[1].Restore.Skipped != 3 || rounds[1].Restore.RecoveredBytes != 0 {
			t.Errorf("restored %+v and then %+v; nothing was written in between, so the second round has nothing to move", rounds[0].Restore, rounds[1].Restore)
		}
	}},
}

func checkMigrated(t *testing.T, env *environment.Environment, output map[string]any, indices ...string) {
	t.Helper()
	if output["verdict"] != string(migration.Verified) {
		t.Errorf("the verdict is %v: %v", output["verdict"], output)
	}
	var r report.Report
	name, _ := output["migration"].(string)
	if found, err := env.Journal().Migration(name).Document(t.Context(), journal.ReportFile, &r); err != nil || !found {
		t.Fatalf("report of %q in the journal: found %t, %v", name, found, err)
	}
	var moved []string
	for _, x := range r.Indices {
		moved = append(moved, x.Name)
	}
	slices.Sort(moved)
	if !slices.Equal(moved, indices) {
		t.Errorf("moved %v, want %v", moved, indices)
	}
	if n := len(r.Rounds); n < 2 || r.Rounds[0].Final || r.Rounds[1].Final {
		t.Errorf("%d rounds, want at least two warm ones", n)
	}
	// Nobody writes.
	for _, x := range r.Indices {
		if x.UnchangedSince != 1 {
			t.Errorf("index %s was moved again after round 1: %+v", x.Name, x)
		}
	}
}

func TestEveryExampleDecodes(t *testing.T) {
	for _, file := range exampleFiles(t) {
		body := read(t, filepath.Join("examples", file))
		if file == roundExample {
			var in struct {
				Migration string `json:"migration"`
				Round     int    `json:"round"`
				Final     bool   `json:"final"`
			}
			d := json.NewDecoder(bytes.NewReader(body))
			d.DisallowUnknownFields()
			if err := d.Decode(&in); err != nil || in.Migration == "" {
				t.Errorf("%s: migration %q, %v", file, in.Migration, err)
			}
			continue
		}
		if _, err := migration.DecodeSpec(body); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestExamplesRun executes every example through the Step Functions API, on the real definitions and Lambda binaries, a real S3
// gateway and the built-in domain model.
func TestExamplesRun(t *testing.T) {
	var covered []string
	for _, s := range scenarios {
		covered = append(covered, s.examples...)
	}
	slices.Sort(covered)
	if all := exampleFiles(t); !slices.Equal(covered, all) {
		t.Fatalf("the scenarios run %v; the examples are %v", covered, all)
	}
	lambdas := environmenttest.Lambdas(t, ".")
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			env := start(t, lambdas)
			outputs := map[string]map[string]any{}
			for _, file := range s.examples {
				outputs[file] = run(t, env, file)
			}
			s.check(t, env, outputs)
		})
	}
}

// start brings up a deployment whose source holds about a megabyte.
func start(t *testing.T, lambdas string) *environment.Environment {
	t.Helper()
	env := environmenttest.Start(t, environment.Config{
		Engines: environment.Model, Source: "elasticsearch-7.10.2", Destination: "opensearch-2.19.0", LambdaDir: lambdas,
	})
	if _, err := workload.Fill(t.Context(), env.Source.Client(environment.Operator), workload.Options{Seed: 1, TotalBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	return env
}

// run executes an example and returns the execution's output.
func run(t *testing.T, env *environment.Environment, file string) map[string]any {
	t.Helper()
	input := document(t, read(t, filepath.Join("examples", file)))
	machine := env.MigrationARN
	switch file {
	case roundExample:
		machine = env.RoundARN
	case localExample:
		checkLocal(t, env, input)
		fallthrough
	default:
		moveHere(t, env, input)
	}
	d := environmenttest.End(t, env, environmenttest.Begin(t, env, machine, input))
	if d.Status != types.ExecutionStatusSucceeded {
		t.Fatalf("%s ended %s: %s: %s", file, d.Status, aws.ToString(d.Error), aws.ToString(d.Cause))
	}
	return document(t, []byte(aws.ToString(d.Output)))
}

// checkLocal holds the example for `make local` to the input that the environment itself makes; only the ports, which are free
// ones here, may differ, and those must be the ones that the command prefers.
func checkLocal(t *testing.T, env *environment.Environment, input map[string]any) {
	t.Helper()
	name, _ := input["migration"].(string)
	window, _ := input["downtimeWindow"].(string)
	body, err := json.Marshal(env.Input(name, window))
	if err != nil {
		t.Fatal(err)
	}
	want := document(t, body)
	command := string(read(t, filepath.Join("cmd", "domainferry", "local.go")))
	for _, side := range []string{"source", "destination"} {
		endpoint, _ := input[side].(map[string]any)["endpoint"].(string)
		u, err := url.Parse(endpoint)
		if err != nil || !strings.Contains(command, `"`+u.Host+`"`) {
			t.Errorf("%s.endpoint %q is not an address that `domainferry local` prefers (%v)", side, endpoint, err)
		}
		want[side].(map[string]any)["endpoint"] = endpoint
	}
	if !reflect.DeepEqual(input, want) {
		t.Errorf("%s is\n%v\nthe environment's own input is\n%v", localExample, input, want)
	}
}

// moveHere puts the environment's domains and buckets in the place of the example's and shortens a pause between rounds and the wait
// for replicas; nothing else of the example changes.
func moveHere(t *testing.T, env *environment.Environment, input map[string]any) {
	t.Helper()
	delete(input, "cutOver") // nobody is here to approve, and tests run at any hour
	input["source"], input["destination"] = env.Source.Endpoint(), env.Destination.Endpoint()
	if rounds, ok := input["rounds"].(map[string]any); ok && rounds["pause"] != nil {
		rounds["pause"] = "1s"
	}
	if finish, ok := input["finish"].(map[string]any); ok {
		finish["waitForGreen"] = "3s" // one node has no place for replicas
	}
}

func exampleFiles(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("examples", "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("list the examples: %d found, %v", len(paths), err)
	}
	for i, p := range paths {
		paths[i] = filepath.Base(p)
	}
	slices.Sort(paths)
	return paths
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func document(t *testing.T, body []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return m
}
