package environment_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
)

// TestGoBack goes back after a hand-over, stopped before and inside the freeze at first: each time the destination takes writes and the
// source is blocked again, and in the end everything is at the source.
func TestGoBack(t *testing.T) {
	var env *environment.Environment
	var stopIn atomic.Pointer[string] // the function that finds its execution stopped
	cfg := config(t)
	cfg.Hooks.Invoke = func(ctx context.Context, function string, payload []byte, next func(context.Context, []byte) ([]byte, error)) ([]byte, error) {
		if want := stopIn.Load(); want != nil && *want == function && stopIn.CompareAndSwap(want, nil) {
			var in struct{ Execution string }
			if err := json.Unmarshal(payload, &in); err != nil {
				t.Error(err)
			}
			if _, err := env.StepFunctions().StopExecution(context.WithoutCancel(ctx), &sfn.StopExecutionInput{ExecutionArn: &in.Execution, Error: aws.String("Operator")}); err != nil {
				t.Error(err)
			}
		}
		return next(ctx, payload)
	}
	env = environmenttest.Start(t, cfg)
	fill(t, env, 1<<20)
	goBack := func() map[string]any {
		in := env.Input("orders", "5m")
		in["mode"] = "goBack"
		for _, side := range []string{"source", "destination"} { // no bucket is needed
			e := env.Source.Endpoint()
			if side == "destination" {
				e = env.Destination.Endpoint()
			}
			in[side] = map[string]any{"domainArn": e.DomainARN, "endpoint": e.Endpoint}
		}
		return in
	}
	refused := func(in map[string]any, name string, says ...string) {
		t.Helper()
		d := environmenttest.End(t, env, environmenttest.Begin(t, env, env.MigrationARN, in))
		if aws.ToString(d.Error) != name {
			t.Fatalf("ended with %s: %s", aws.ToString(d.Error), aws.ToString(d.Cause))
		}
		for _, s := range says {
			if !strings.Contains(aws.ToString(d.Cause), s) {
				t.Errorf("the cause does not say %q: %s", s, aws.ToString(d.Cause))
			}
		}
	}
	refused(goBack(), "Migration.InvalidInput", "has not handed over")
	succeed(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m")))
	awaitBlocks(t, env, "true", "")

	at := env.Destination.Direct
	must := func(method, path, body string, want int) {
		t.Helper()
		if code, answer := call(t, method, at+path, body); code != want {
			t.Fatalf("%s %s answered %d: %s", method, path, code, answer)
		}
	}
	must("PUT", "/logs/_doc/fresh?routing=a", `{"message":"written at the destination"}`, http.StatusCreated)
	must("PUT", "/logs/_doc/short?routing=a", `{"message":"soon gone"}`, http.StatusCreated)
	must("DELETE", "/logs/_doc/short?routing=a", "", http.StatusOK)
	must("PUT", "/logs/_mapping", `{"properties":{"since":{"type":"keyword"}}}`, http.StatusOK)
	must("PUT", "/extra", `{}`, http.StatusOK)
	refused(goBack(), "Migration.Incompatible", "1 cannot go back", "index extra: it was created at the destination")
	awaitBlocks(t, env, "true", "")

	excluding := goBack()
	excluding["indices"] = map[string]any{"exclude": []string{"extra"}}
	for _, function := range []string{"plan-replay", "decide", "verify"} {
		stopIn.Store(&function)
		d := environmenttest.End(t, env, environmenttest.Begin(t, env, env.MigrationARN, excluding))
		if d.Status != types.ExecutionStatusAborted {
			t.Fatalf("stopped in %s it ended %s: %s", function, d.Status, aws.ToString(d.Cause))
		}
		awaitBlocks(t, env, "true", "")
	}
	succeed(t, env, environmenttest.Begin(t, env, env.MigrationARN, excluding))
	awaitBlocks(t, env, "", "true")
	for path, want := range map[string]int{"/logs/_doc/fresh?routing=a": http.StatusOK, "/logs/_doc/short?routing=a": http.StatusNotFound, "/extra": http.StatusNotFound} {
		if code, answer := call(t, "GET", env.Source.Direct+path, ""); code != want {
			t.Errorf("the source answers %d to %s: %s", code, path, answer)
		}
	}
	for _, index := range []string{"logs", "catalogue", "countries"} {
		_, here := call(t, "GET", env.Source.Direct+"/"+index+"/_count?filter_path=count", "")
		_, there := call(t, "GET", env.Destination.Direct+"/"+index+"/_count?filter_path=count", "")
		if here != there {
			t.Errorf("%s has %s at the source and %s at the destination", index, here, there)
		}
	}
	refused(goBack(), "Migration.InvalidInput", "it went back already")
	refused(env.Input("orders", "5m"), "Migration.DestinationOccupied", "under another name")
	awaitBlocks(t, env, "", "true")
}

// awaitBlocks waits until the write blocks of logs are those, and no lease and no outstanding change are left.
func awaitBlocks(t *testing.T, env *environment.Environment, source, destination string) {
	t.Helper()
	block := func(side *environment.Side) string {
		var a map[string]struct{ Settings map[string]any }
		_, body := call(t, "GET", side.Direct+"/logs/_settings?flat_settings=true", "")
		if err := json.Unmarshal([]byte(body), &a); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		text, _ := a["logs"].Settings["index.blocks.write"].(string)
		return text
	}
	deadline := time.Now().Add(time.Minute)
	for {
		leases, err := env.Journal().Leases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held := 0
		for _, l := range leases {
			if l.EndedAt.IsZero() {
				held++
			}
		}
		at, to := block(env.Source), block(env.Destination)
		if at == source && to == destination && held == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("blocks: %q at the source, %q at the destination; %d leases; want %q and %q and none", at, to, held, source, destination)
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, name := range []string{"orders", "orders/back"} {
		list, err := env.Journal().Migration(name).UndoLog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range list {
			if u.Outstanding() {
				t.Errorf("not undone: %+v", u)
			}
		}
	}
}
