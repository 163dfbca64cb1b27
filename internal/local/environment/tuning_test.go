package environment_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/local/frontdoor"
	"github.com/domainferry/domainferry/internal/local/node"
)

const (
	recoveryRate      = "indices.recovery.max_bytes_per_sec"
	initialRecoveries = "cluster.routing.allocation.node_initial_primaries_recoveries"
)

// persistentSettings reads the persistent settings of a domain, without signature; also from the engine's own calls, where a test must
// not be ended.
func persistentSettings(side *environment.Side) (map[string]string, error) {
	r, err := http.Get(side.Direct + "/_cluster/settings?flat_settings=true")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	var a struct{ Persistent map[string]string }
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
		return nil, fmt.Errorf("read the settings of %s: %s: %w", side.Engine, r.Status, err)
	}
	return a.Persistent, nil
}

func persistent(t *testing.T, side *environment.Side) map[string]string {
	t.Helper()
	settings, err := persistentSettings(side)
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

// tuned runs a migration, does interfere when it enters a state, and checks what the destination's settings were when it entered Warm
// and that they are as before soon after its end.
func tuned(t *testing.T, env *environment.Environment, state string, interfere func(*asl.Execution) error, want map[string]string) *sfn.DescribeExecutionOutput {
	t.Helper()
	before := persistent(t, env.Destination)
	var mu sync.Mutex
	var during map[string]string
	var problem error
	cancel := env.Engine.Observe(asl.Observer{StateEntered: func(s asl.StateEntered) {
		if s.Execution.StateMachineARN != env.MigrationARN {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if s.State == "Warm" && during == nil {
			during, problem = persistentSettings(env.Destination)
		}
		if s.State == state && interfere != nil {
			problem = errors.Join(problem, interfere(s.Execution))
			interfere = nil
		}
	}})
	defer cancel()
	d := environmenttest.End(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m")))
	mu.Lock()
	defer mu.Unlock()
	if problem != nil || interfere != nil {
		t.Fatalf("in %s: %v; the state never came: %t", state, problem, interfere != nil)
	}
	if !maps.Equal(during, want) {
		t.Errorf("the destination had %v while the migration ran, want %v", during, want)
	}
	deadline := time.Now().Add(time.Minute)
	for now := persistent(t, env.Destination); !maps.Equal(now, before); now = persistent(t, env.Destination) {
		if time.Now().After(deadline) {
			t.Fatalf("a minute after the execution ended %s the destination has %v, before it had %v", d.Status, now, before)
		}
		time.Sleep(50 * time.Millisecond)
	}
	now := persistent(t, env.Source)
	if d.Status == types.ExecutionStatusSucceeded {
		delete(now, "action.auto_create_index") // kept with the write block, on purpose
	}
	if len(now) != 0 {
		t.Errorf("the source was changed: %v", now)
	}
	return d
}

func undoLog(t *testing.T, env *environment.Environment) []journal.Undo {
	t.Helper()
	list, err := env.Journal().Migration("orders").UndoLog(t.Context())
	list = slices.DeleteFunc(list, func(u journal.Undo) bool { return u.Endpoint != env.Destination.Door.URL() })
	if err != nil || len(list) != 2 {
		t.Fatalf("undo log: %v, %+v", err, list)
	}
	return list
}

// TestRaisedSettingsArePutBack ends migrations in every way.
func TestRaisedSettingsArePutBack(t *testing.T) {
	cfg := config(t)
	cfg.Profile = frontdoor.Open
	env := environmenttest.Start(t, cfg)
	fill(t, env, 1<<20)
	if code, body := call(t, "PUT", env.Destination.Direct+"/_cluster/settings", `{"persistent":{"`+recoveryRate+`":"20mb"}}`); code != 200 {
		t.Fatal(body)
	}
	want := map[string]string{recoveryRate: "500mb", initialRecoveries: "16"}

	failed := tuned(t, env, "Warm", func(*asl.Execution) error {
		r, err := http.NewRequest("DELETE", env.Source.Direct+"/_snapshot/orders", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		return answer.Body.Close() // were it still there, the migration would not fail
	}, want)
	if failed.Status != types.ExecutionStatusFailed {
		t.Errorf("without its repository the migration ended %s", failed.Status)
	}

	stopped := tuned(t, env, "Freeze", func(x *asl.Execution) error {
		go x.Stop("Operator", "changed my mind") // as StopExecution does; not from inside the engine's own call
		return nil
	}, want)
	if stopped.Status != types.ExecutionStatusAborted {
		t.Errorf("stopped in Freeze the migration ended %s", stopped.Status)
	}

	succeeded := tuned(t, env, "", nil, want)
	if succeeded.Status != types.ExecutionStatusSucceeded {
		t.Errorf("ended %s: %s", succeeded.Status, aws.ToString(succeeded.Cause))
	}
	for _, c := range undoLog(t, env) {
		if c.UndoneAt.IsZero() || c.LeftAlone != "" {
			t.Errorf("%+v", c)
		}
	}
}

func TestAmazonDoesNotLetSettingsBeRaised(t *testing.T) {
	env := environmenttest.Start(t, config(t))
	fill(t, env, 1<<20)
	if d := tuned(t, env, "", nil, map[string]string{}); d.Status != types.ExecutionStatusSucceeded {
		t.Errorf("ended %s: %s", d.Status, aws.ToString(d.Cause))
	}
	for _, c := range undoLog(t, env) {
		if !strings.HasPrefix(c.NotMade, "not allowed: ") {
			t.Errorf("%+v", c)
		}
	}
}

func TestRaisedSettingsOnNodes(t *testing.T) {
	cfg := config(t)
	cfg.Engines, cfg.Profile = environment.Nodes, frontdoor.Open
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
	fill(t, env, 4<<20)
	d := tuned(t, env, "", nil, map[string]string{recoveryRate: "500mb", initialRecoveries: "16"})
	if d.Status != types.ExecutionStatusSucceeded {
		t.Errorf("ended %s: %s", d.Status, aws.ToString(d.Cause))
	}
	for _, c := range undoLog(t, env) {
		if c.UndoneAt.IsZero() || c.Before != nil {
			t.Errorf("%+v", c)
		}
	}
	code, body := call(t, "GET", env.Source.Direct+"/_snapshot/orders", "")
	if code != 200 || !strings.Contains(body, fmt.Sprintf("%q:%q", "max_snapshot_bytes_per_sec", "80mb")) {
		t.Errorf("the source's repository: %d %s", code, body)
	}
}
