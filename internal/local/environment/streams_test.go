package environment_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/local/node"
	"github.com/domainferry/domainferry/internal/migration"
)

func streamConfig(t *testing.T) environment.Config {
	cfg := config(t)
	cfg.Source, cfg.Destination = "opensearch-2.19.0", "opensearch-3.7.0"
	return cfg
}

// streamTemplate makes data streams of everything that begins with "events".
func streamTemplate(t *testing.T, side *environment.Side) {
	t.Helper()
	put(t, "PUT", side.Direct+"/_index_template/events", `{"index_patterns":["events*"],"data_stream":{},"template":{"settings":{"number_of_shards":2,"number_of_replicas":0}}}`)
}

// events appends n documents to a data stream.
func events(t *testing.T, side *environment.Side, stream string, from, n int) {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"create\":{\"_index\":%q,\"_id\":\"%d\"}}\n{\"@timestamp\":\"2026-11-23T04:00:00Z\",\"n\":%d,\"text\":\"event %d of %s\"}\n", stream, from+i, from+i, from+i, stream)
	}
	code, answer := call(t, "POST", side.Direct+"/_bulk?refresh=true", b.String())
	if code != 200 || !strings.Contains(answer, `"errors":false`) {
		t.Fatalf("append to %s: %d %.400s", stream, code, answer)
	}
}

// streamOf is the domain's data stream, its indices in order.
func streamOf(t *testing.T, side *environment.Side, stream string) string {
	t.Helper()
	code, answer := call(t, "GET", side.Direct+"/_data_stream/"+stream, "")
	if code != 200 {
		return ""
	}
	var a struct {
		Streams []struct {
			Indices []struct {
				Name string `json:"index_name"`
			} `json:"indices"`
			Generation int `json:"generation"`
		} `json:"data_streams"`
	}
	if err := json.Unmarshal([]byte(answer), &a); err != nil || len(a.Streams) != 1 {
		t.Fatalf("%v: %s", err, answer)
	}
	var names []string
	for _, x := range a.Streams[0].Indices {
		names = append(names, x.Name)
	}
	return fmt.Sprintf("%s %d", strings.Join(names, ","), a.Streams[0].Generation)
}

// sameStream compares a data stream on both sides, document by document.
func sameStream(t *testing.T, env *environment.Environment, stream string, documents int) {
	t.Helper()
	if a, b := streamOf(t, env.Source, stream), streamOf(t, env.Destination, stream); a == "" || a != b {
		t.Errorf("data stream %s: %q at the source, %q at the destination", stream, a, b)
	}
	for _, path := range []string{"/_search?size=1000&sort=n", "/_mapping"} {
		_, a := call(t, "GET", env.Source.Direct+"/"+stream+path, "")
		_, b := call(t, "GET", env.Destination.Direct+"/"+stream+path, "")
		if x, y := essence(t, a), essence(t, b); x != y {
			t.Errorf("%s%s differs:\n%.800s\n%.800s", stream, path, x, y)
		}
	}
	if _, body := call(t, "GET", env.Destination.Direct+"/"+stream+"/_count", ""); !strings.Contains(body, fmt.Sprintf(`"count":%d,`, documents)) && !strings.Contains(body, fmt.Sprintf(`"count":%d}`, documents)) {
		t.Errorf("%s, want %d", body, documents)
	}
}

// moveStream warms a data stream in two rounds with a rollover in between, appends to it, cuts over, and compares by document.
func moveStream(t *testing.T, env *environment.Environment) {
	t.Helper()
	streamTemplate(t, env.Source)
	static(t, env.Source, "orders", 1, 50)
	events(t, env.Source, "events", 0, 300)
	put(t, "POST", env.Source.Direct+"/events/_rollover", "")
	events(t, env.Source, "events", 300, 50)
	r, _ := warm(t, env, 1, nil)
	if r.Restore.Indices != 3 {
		t.Errorf("the first round: %+v", r.Restore)
	}
	events(t, env.Source, "events", 350, 50)
	put(t, "POST", env.Source.Direct+"/events/_rollover", "")
	events(t, env.Source, "events", 400, 50)
	if streamOf(t, env.Destination, "events") != "" || !exists(t, env.Destination, ".ds-events-000002") {
		t.Error("the first round has not made plain copies")
	}
	r, m := warm(t, env, 1, nil)
	if !m["orders"].Skipped || m[".ds-events-000001"].Skipped || m[".ds-events-000001"].Reused == 0 || m[".ds-events-000003"].Recovered == 0 {
		t.Errorf("the second round: %+v, %+v", r.Restore, m)
	}
	events(t, env.Source, "events", 450, 20)
	migrate(t, env)
	sameStream(t, env, "events", 470)
	same(t, env, "orders")
	list, err := env.Journal().Migration("orders").Rounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	last := list[len(list)-1]
	t.Logf("final restore: %d bytes in %.1f s, %d reused", last.Restore.RecoveredBytes, last.Restore.Seconds, last.Restore.ReusedBytes)
	if !last.Final || last.Restore.Indices != 3 || last.Restore.ReusedBytes < 2*last.Restore.RecoveredBytes {
		t.Errorf("the final round: %+v", last.Restore)
	}
	var v migration.Verification
	if _, err := env.Journal().Migration("orders").Document(t.Context(), journal.VerificationFile, &v); err != nil {
		t.Fatal(err)
	}
	found := false
	for _, c := range v.Checks {
		found = found || c.Name == "data-stream" && c.Index == "events" && c.Outcome == migration.Passed
	}
	if !found {
		t.Errorf("the data stream was not checked: %+v", v.Checks)
	}
	// It takes writes, and rolls over once it has a template.
	events(t, env.Destination, "events", 470, 5)
	streamTemplate(t, env.Destination)
	put(t, "POST", env.Destination.Direct+"/events/_rollover", "")
	events(t, env.Destination, "events", 475, 5)
	if code, body := call(t, "POST", env.Source.Direct+"/events/_bulk", "{\"create\":{}}\n{\"@timestamp\":\"2026-11-23T04:00:00Z\"}\n"); code != 200 || !strings.Contains(body, "cluster_block_exception") {
		t.Errorf("the source's stream takes writes: %d %s", code, body)
	}
}

func TestDataStream(t *testing.T) { moveStream(t, environmenttest.Start(t, streamConfig(t))) }

// TestDataStreamOnNodes is the same on real nodes.
func TestDataStreamOnNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("real nodes are not for -short")
	}
	cfg := streamConfig(t)
	cfg.Engines = environment.Nodes
	for _, name := range []string{cfg.Source, cfg.Destination} {
		engine, err := node.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Available(engine); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	moveStream(t, environmenttest.Start(t, cfg))
}

// rollOver rolls the stream over, once, before a state of the migration runs, and appends a document to its new index.
func rollOver(env *environment.Environment, state string) {
	var once sync.Once
	env.Engine.Observe(asl.Observer{StateEntered: func(s asl.StateEntered) {
		if s.State != state || s.Execution.StateMachineARN != env.MigrationARN {
			return
		}
		once.Do(func() {
			for _, x := range [][2]string{{"/events/_rollover", ""}, {"/events/_doc?refresh=true", `{"@timestamp":"2026-11-23T04:00:00Z","n":100}`}} {
				if resp, err := http.Post(env.Source.Direct+x[0], "application/json", strings.NewReader(x[1])); err == nil {
					resp.Body.Close()
				}
			}
		})
	}})
}

// TestDataStreamRolledOverInTheFreeze: no block stops a rollover, and the new write index has none. The cut-over ends before the
// destination is opened, writes come back, and the next execution goes on: it deletes the stream that the first one had restored.
func TestDataStreamRolledOverInTheFreeze(t *testing.T) {
	for state, c := range map[string]struct {
		fault    string
		restored bool // the stream is at the destination by then
	}{"FinalRound": {"Migration.IndicesChanged", false}, "Finish": {"Migration.IndicesChanged", true}} {
		t.Run(state, func(t *testing.T) {
			env := environmenttest.Start(t, streamConfig(t))
			streamTemplate(t, env.Source)
			events(t, env.Source, "events", 0, 100)
			warm(t, env, 2, nil)
			rollOver(env, state)
			d := environmenttest.End(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m")))
			if aws.ToString(d.Error) != c.fault || !strings.Contains(aws.ToString(d.Cause), ".ds-events-000002") {
				t.Fatalf("ended %s with %s: %s", d.Status, aws.ToString(d.Error), aws.ToString(d.Cause))
			}
			if there := streamOf(t, env.Destination, "events") != ""; there != c.restored {
				t.Errorf("the stream is at the destination: %t", there)
			}
			events(t, env.Source, "events", 101, 10) // writes are back
			migrate(t, env)
			sameStream(t, env, "events", 111)
		})
	}
}

// TestDataStreamOfSomebodyElse: what the destination has of that name is refused before anything is touched.
func TestDataStreamOfSomebodyElse(t *testing.T) {
	env := environmenttest.Start(t, streamConfig(t))
	for _, side := range []*environment.Side{env.Source, env.Destination} {
		streamTemplate(t, side)
		events(t, side, "events", 0, 10)
	}
	d := environmenttest.End(t, env, environmenttest.Begin(t, env, env.MigrationARN, env.Input("orders", "5m")))
	if aws.ToString(d.Error) != "Migration.DestinationOccupied" || !strings.Contains(aws.ToString(d.Cause), "data stream events") {
		t.Errorf("ended %s with %s: %s", d.Status, aws.ToString(d.Error), aws.ToString(d.Cause))
	}
	if got := streamOf(t, env.Destination, "events"); got != ".ds-events-000001 1" {
		t.Errorf("somebody else's stream is %q", got)
	}
}

// TestDataStreamNeverGoesByReplay: where everything is to be replayed, a data stream goes by rounds, and the journal says why.
func TestDataStreamNeverGoesByReplay(t *testing.T) {
	env := environmenttest.Start(t, streamConfig(t))
	streamTemplate(t, env.Source)
	static(t, env.Source, "orders", 1, 50)
	events(t, env.Source, "events", 0, 100)
	input := env.Input("orders", "5m")
	input["lastMile"] = "replay"
	succeed(t, env, environmenttest.Begin(t, env, env.MigrationARN, input))
	sameStream(t, env, "events", 100)
	s, err := env.Journal().Migration("orders").Strategies(t.Context())
	if err != nil || !s.Has("orders") || s.Has(".ds-events-000001") || len(s.Dropped) != 1 || !strings.Contains(s.Dropped[0].Reason, "data stream") {
		t.Errorf("%+v, %v", s, err)
	}
}
