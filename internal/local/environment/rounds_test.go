package environment_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/migration"
)

// put sends a request that must succeed to a domain, directly.
func put(t *testing.T, method, url, body string) {
	t.Helper()
	if code, answer := call(t, method, url, body); code != http.StatusOK && code != http.StatusCreated {
		t.Fatalf("%s %s: %d %s", method, url, code, answer)
	}
}

// static makes an index with n documents and an alias.
func static(t *testing.T, side *environment.Side, name string, shards, n int) {
	t.Helper()
	put(t, "PUT", side.Direct+"/"+name, fmt.Sprintf(`{"settings":{"number_of_shards":%d,"number_of_replicas":0},"mappings":{"properties":{"n":{"type":"long"}}},"aliases":{"%s-read":{}}}`, shards, name))
	documents(t, side, name, 0, n)
}

func documents(t *testing.T, side *environment.Side, index string, from, n int) {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"index\":{\"_index\":%q,\"_id\":\"%d\"}}\n{\"n\":%d,\"text\":\"document %d of %s\"}\n", index, from+i, from+i, from+i, index)
	}
	put(t, "POST", side.Direct+"/_bulk?refresh=true", b.String())
}

// warm runs some warm rounds and returns the last one with its measures.
func warm(t *testing.T, env *environment.Environment, n int, options map[string]any) (migration.Round, map[string]migration.Measure) {
	t.Helper()
	input := env.Input("orders", "5m")
	input["mode"], input["rounds"] = "warm", map[string]any{"minimum": n}
	for k, v := range options {
		input[k] = v
	}
	succeed(t, env, environmenttest.Begin(t, env, env.MigrationARN, input))
	j := env.Journal().Migration("orders")
	list, err := j.Rounds(t.Context())
	if err != nil || len(list) == 0 {
		t.Fatalf("rounds %v, %v", list, err)
	}
	last := list[len(list)-1]
	m, err := j.Measures(t.Context(), last.Number)
	if err != nil {
		t.Fatal(err)
	}
	return last, m
}

func migrate(t *testing.T, env *environment.Environment) {
	t.Helper()
	succeed(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m")))
	var v migration.Verification
	if _, err := env.Journal().Migration("orders").Document(t.Context(), journal.VerificationFile, &v); err != nil || v.Verdict != migration.Verified {
		t.Errorf("verdict %q, %v: %+v", v.Verdict, err, v.Checks)
	}
}

// same compares documents, aliases and mapping of an index on both sides.
func same(t *testing.T, env *environment.Environment, index string) {
	t.Helper()
	for _, path := range []string{"/_search?size=1000&sort=n", "/_alias", "/_mapping"} {
		_, a := call(t, "GET", env.Source.Direct+"/"+index+path, "")
		_, b := call(t, "GET", env.Destination.Direct+"/"+index+path, "")
		if x, y := essence(t, a), essence(t, b); x != y {
			t.Errorf("%s%s differs:\n%.800s\n%.800s", index, path, x, y)
		}
	}
}

// essence is an answer without what differs between two searches of the same documents.
func essence(t *testing.T, answer string) string {
	t.Helper()
	var a struct {
		Hits struct {
			Hits []struct {
				ID     string          `json:"_id"`
				Source json.RawMessage `json:"_source"`
			} `json:"hits"`
		} `json:"hits"`
	}
	if err := json.Unmarshal([]byte(answer), &a); err == nil && len(a.Hits.Hits) > 0 {
		b, err := json.Marshal(a.Hits.Hits)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var v any
	if err := json.Unmarshal([]byte(answer), &v); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	if m, ok := v.(map[string]any); ok {
		delete(m, "took")
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func exists(t *testing.T, side *environment.Side, index string) bool {
	t.Helper()
	code, _ := call(t, "GET", side.Direct+"/"+index, "")
	return code == http.StatusOK
}

func changesOf(t *testing.T, env *environment.Environment) []string {
	t.Helper()
	list, err := env.Journal().Migration("orders").Changes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for _, c := range list {
		words = append(words, c.String())
	}
	slices.Sort(words)
	return words
}

// TestStaticIndicesAreSkipped: an index that nobody touches is moved once, left alone by every later round, the final one included, and
// is identical in the end. What changes in it besides documents is followed.
func TestStaticIndicesAreSkipped(t *testing.T) {
	env := environmenttest.Start(t, config(t))
	for _, name := range []string{"quiet", "mapped", "aliased", "tuned"} {
		static(t, env.Source, name, 2, 50)
	}
	static(t, env.Source, "busy", 1, 50)

	r, m := warm(t, env, 1, nil)
	// The model's file lists are its own: a prediction that cannot be made is said to be missing, and fails no round.
	if r.Restore.Skipped != 0 || r.Restore.Indices != 5 || r.Restore.PredictedBytes != nil || r.Restore.Unpredicted == "" {
		t.Errorf("the first round: %+v", r.Restore)
	}
	if len(r.Restore.Nodes) == 0 || r.Restore.Slowest == nil || len(r.Snapshot.Nodes) == 0 || r.Snapshot.Nodes[0].Node == "" {
		t.Errorf("the first round tells no shares: %+v %+v", r.Snapshot, r.Restore)
	}
	for name, x := range m {
		if x.Skipped || x.Predicted != nil || x.Recovered == 0 {
			t.Errorf("%s: %+v", name, x)
		}
	}

	documents(t, env.Source, "busy", 50, 20)
	put(t, "POST", env.Source.Direct+"/aliased/_alias/orders-live", `{"filter":{"term":{"n":3}}}`)
	put(t, "PUT", env.Source.Direct+"/mapped/_mapping", `{"properties":{"later":{"type":"keyword"}}}`)
	put(t, "PUT", env.Source.Direct+"/tuned/_settings", `{"index":{"max_result_window":20000}}`)
	put(t, "POST", env.Source.Direct+"/quiet/_forcemerge?max_num_segments=1", "") // moves files, changes nothing
	r, m = warm(t, env, 1, nil)
	if r.Restore.Skipped != 1 || r.Restore.Indices != 4 || !m["quiet"].Skipped || m["aliased"].Skipped || m["mapped"].Skipped || m["tuned"].Skipped || m["busy"].Skipped {
		t.Errorf("the second round: %+v, %+v", r.Restore, m)
	}

	// Nothing at all has changed: no snapshot, and a round all the same.
	r, m = warm(t, env, 1, nil)
	if r.Restore.Skipped != 5 || r.Snapshot.Name != "" || r.Restore.Indices != 0 || r.Number != 3 || len(m) != 5 {
		t.Errorf("the third round: %+v, %+v", r, m)
	}
	if _, body := call(t, "GET", env.Source.Direct+"/_snapshot/orders/_all", ""); strings.Contains(body, "orders-r0003") {
		t.Error("a snapshot was taken of nothing")
	}
	for _, name := range []string{"quiet", "mapped", "aliased", "tuned", "busy"} {
		same(t, env, name) // open, and with the aliases, before the cut-over
	}

	put(t, "POST", env.Source.Direct+"/quiet/_alias/at-last", "")
	warm(t, env, 2, nil)
	migrate(t, env)
	f, _, err := env.Journal().Migration("orders").Freeze(t.Context())
	if err != nil || !slices.Equal(f.Unchanged, []string{"aliased", "busy", "mapped", "quiet", "tuned"}) {
		t.Errorf("the freeze found unchanged: %v, %v", f.Unchanged, err)
	}
	list, err := env.Journal().Migration("orders").Rounds(t.Context())
	if err != nil || slices.ContainsFunc(list, func(r migration.Round) bool { return r.Final }) {
		t.Errorf("a final round moved nothing: %+v, %v", list, err)
	}
	for _, name := range []string{"quiet", "mapped", "aliased", "tuned", "busy"} {
		same(t, env, name)
	}
	if _, body := call(t, "GET", env.Destination.Direct+"/tuned/_settings", ""); !strings.Contains(body, "20000") {
		t.Errorf("the setting was not followed: %s", body)
	}
	put(t, "POST", env.Destination.Direct+"/quiet/_doc/new", `{"n":1}`)
}

// TestFollowsTheSource: indices come, go, roll over and are made anew between rounds. Only copies that the migration made are touched.
func TestFollowsTheSource(t *testing.T) {
	env := environmenttest.Start(t, config(t))
	static(t, env.Source, "stays", 1, 30)
	static(t, env.Source, "goes", 1, 30)
	static(t, env.Source, "anew", 1, 30)
	static(t, env.Source, "split", 1, 30)
	static(t, env.Source, "shut", 1, 30)
	put(t, "PUT", env.Source.Direct+"/log-000001", `{"settings":{"number_of_replicas":0},"aliases":{"log":{"is_write_index":true}}}`)
	documents(t, env.Source, "log-000001", 0, 30)
	static(t, env.Destination, "theirs", 1, 7)
	warm(t, env, 1, nil)

	put(t, "DELETE", env.Source.Direct+"/goes", "")
	put(t, "DELETE", env.Source.Direct+"/anew", "")
	static(t, env.Source, "anew", 1, 30) // the same documents, another index
	put(t, "DELETE", env.Source.Direct+"/split", "")
	static(t, env.Source, "split", 3, 40)
	put(t, "POST", env.Source.Direct+"/shut/_close", "")
	static(t, env.Source, "comes", 2, 30)
	put(t, "PUT", env.Source.Direct+"/log-000002", `{"settings":{"number_of_replicas":0}}`)
	put(t, "POST", env.Source.Direct+"/_aliases", `{"actions":[{"add":{"index":"log-000001","alias":"log","is_write_index":false}},{"add":{"index":"log-000002","alias":"log","is_write_index":true}}]}`)
	documents(t, env.Source, "log-000002", 0, 30)

	// In one execution: the changes are found at the start of its second round at the latest.
	r, _ := warm(t, env, 2, nil)
	if exists(t, env.Destination, "goes") || exists(t, env.Destination, "shut") || !exists(t, env.Destination, "theirs") {
		t.Error("the wrong indices were deleted at the destination")
	}
	if r.Restore.Skipped != 6 {
		t.Errorf("the last round: %+v", r.Restore)
	}
	put(t, "POST", env.Source.Direct+"/shut/_open", "")
	migrate(t, env)
	for _, name := range []string{"stays", "anew", "split", "comes", "shut", "log-000001", "log-000002"} {
		same(t, env, name)
	}
	if exists(t, env.Destination, "goes") || !exists(t, env.Destination, "theirs") {
		t.Error("the wrong indices are at the destination")
	}
	if code, body := call(t, "GET", env.Destination.Direct+"/theirs/_count", ""); code != 200 || !strings.Contains(body, `"count":7`) {
		t.Errorf("somebody else's index: %s", body)
	}
}

// TestFollowsWithinAnExecution: what happens after the plan was made is followed by the next round of the same execution, and recorded.
func TestFollowsWithinAnExecution(t *testing.T) {
	env := environmenttest.Start(t, config(t))
	static(t, env.Source, "stays", 1, 30)
	static(t, env.Source, "goes", 1, 30)
	static(t, env.Source, "anew", 1, 30)
	static(t, env.Destination, "theirs", 1, 7)
	input := env.Input("orders", "5m")
	input["mode"], input["rounds"] = "warm", map[string]any{"minimum": 1}
	succeed(t, env, environmenttest.Begin(t, env, env.MigrationARN, input))
	// A round alone, as a schedule starts it, has no preflight before it.
	alone := func() string {
		return environmenttest.Begin(t, env, env.RoundARN, map[string]any{"migration": "orders"})
	}
	put(t, "DELETE", env.Source.Direct+"/goes", "")
	put(t, "DELETE", env.Source.Direct+"/anew", "")
	static(t, env.Source, "anew", 2, 60)
	static(t, env.Source, "comes", 2, 30)
	succeed(t, env, alone())
	if got, want := changesOf(t, env), []string{"anew (re-created)", "comes (created)", "goes (removed)"}; !slices.Equal(got, want) {
		t.Errorf("recorded %v, want %v", got, want)
	}
	p, err := env.Journal().Migration("orders").Plan(context.WithoutCancel(t.Context()), "")
	if err != nil || !slices.Equal(p.Names(), []string{"anew", "comes", "stays"}) {
		t.Errorf("plan %v, %v", p.Names(), err)
	}
	succeed(t, env, alone())
	for _, name := range []string{"stays", "anew", "comes"} {
		same(t, env, name)
	}
	// A name that somebody else has at the destination is refused, and not touched.
	static(t, env.Source, "theirs", 1, 3)
	if d := environmenttest.End(t, env, alone()); aws.ToString(d.Error) != "Migration.DestinationOccupied" {
		t.Errorf("%s: %s", aws.ToString(d.Error), aws.ToString(d.Cause))
	}
	if code, body := call(t, "GET", env.Destination.Direct+"/theirs/_count", ""); code != 200 || !strings.Contains(body, `"count":7`) {
		t.Errorf("somebody else's index: %s", body)
	}
}

// TestDestinationThatCannotClose: Amazon offers no _close before Elasticsearch 7.4, so that changed copies are deleted and restored anew.
func TestDestinationThatCannotClose(t *testing.T) {
	cfg := config(t)
	cfg.Source, cfg.Destination = "elasticsearch-7.1.1", "elasticsearch-7.1.1"
	env := environmenttest.Start(t, cfg)
	static(t, env.Source, "quiet", 1, 30)
	static(t, env.Source, "busy", 2, 30)
	static(t, env.Destination, "theirs", 1, 7)
	warm(t, env, 1, nil)
	documents(t, env.Source, "busy", 30, 10)
	r, m := warm(t, env, 1, nil)
	if r.Restore.ReusedBytes != 0 || r.Restore.RecoveredBytes == 0 || !m["quiet"].Skipped || m["busy"].Skipped {
		t.Errorf("%+v, %+v", r.Restore, m)
	}
	c, err := env.Journal().Migration("orders").Copies(t.Context())
	if err != nil || !c.CannotClose {
		t.Errorf("%+v, %v", c, err)
	}
	documents(t, env.Source, "busy", 40, 10)
	migrate(t, env)
	for _, name := range []string{"quiet", "busy"} {
		same(t, env, name)
	}
	if code, body := call(t, "GET", env.Destination.Direct+"/theirs/_count", ""); code != 200 || !strings.Contains(body, `"count":7`) {
		t.Errorf("somebody else's index: %s", body)
	}
}
