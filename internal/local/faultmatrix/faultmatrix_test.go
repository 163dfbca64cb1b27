package faultmatrix

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
	"github.com/domainferry/domainferry/internal/local/node"
)

func config(t *testing.T) Config {
	var lines bytes.Buffer
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(lines.String())
		}
	})
	return Config{Seed: 1, Out: t.TempDir(), Lines: &lines, Progress: &lines, Environment: environment.Config{
		Engines: environment.Model, Source: "elasticsearch-7.10.2", Destination: "opensearch-2.19.0", LambdaDir: environmenttest.Lambdas(t, "../../.."),
	}}
}

// A few cases of the matrix, by the code that runs all of them: a function killed, a machine stopped, its process killed in the freeze, and a
// call that took effect and was answered 504.
func TestSomeCases(t *testing.T) {
	cfg := config(t)
	cfg.Cases = []string{"migration/Freeze:step-functions-kill", "migration/Finish:504-with-effect", "round/StartRestore@final:stop-execution",
		"replay/PlanReplay@final:lambda-killed"}
	s, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s.Ran != len(cfg.Cases) || s.OK != s.Ran {
		t.Errorf("%d cases run, %d ok", s.Ran, s.OK)
	}
	for _, c := range s.Cases {
		// Those that were stopped were in the freeze, so that clients saw an end of it.
		if (c.Fault == Stopped || c.Fault == EngineKilled) && (c.HandedOver || len(c.Ended) != 2) {
			t.Errorf("%s: executions ended %v, handed over %v", c, c.Ended, c.HandedOver)
		}
	}
}

// The representative cases on real nodes.
func TestOnNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("real nodes are not for -short")
	}
	cfg := config(t)
	cfg.Environment.Engines = environment.Nodes
	for _, name := range []string{cfg.Environment.Source, cfg.Environment.Destination} {
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
	s, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s.Ran < 30 || s.OK != s.Ran {
		t.Errorf("%d cases run, %d ok", s.Ran, s.OK)
	}
}

// The checks find what they are there for.
func TestChecksFindWhatIsPlanted(t *testing.T) {
	m := &matrix{cfg: config(t), began: time.Now(), unbroken: map[string]*unbroken{}}
	w := &worker{matrix: m}
	defer w.close()
	ctx := t.Context()
	trial, err := w.newTrial(ctx, Row{Machine: "migration", State: "Finish"}, none, rounds(), -1, false)
	if err != nil {
		t.Fatal(err)
	}
	r, err := trial.run(ctx)
	if err != nil || len(r.problems) > 0 || !r.handedOver {
		t.Fatalf("without anything planted: %+v, %v", r, err)
	}
	put := func(side *environment.Side, path, body string) {
		t.Helper()
		if err := request(ctx, http.MethodPut, side.Direct+path, body, nil); err != nil {
			t.Fatal(err)
		}
	}
	store, j := trial.env.Journal(), trial.env.Journal().Migration(trial.name)
	source, destination := trial.env.Source, trial.env.Destination
	freeze, _, err := j.Freeze(ctx)
	if err != nil {
		t.Fatal(err)
	}
	frozen := freeze
	frozen.State = journal.Frozen
	save := func(f journal.Freeze) func() {
		return func() {
			if err := j.SaveFreeze(ctx, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name, want  string
		plant, mend func()
	}{
		{"a block", "copy: /_settings events settings index.blocks.write",
			func() { put(destination, "/events/_settings", `{"index.blocks.write":true}`) },
			func() { put(destination, "/events/_settings", `{"index.blocks.write":null}`) }},
		{"a setting of the source's index", "source: /_settings products settings index.priority",
			func() { put(source, "/products/_settings", `{"index.priority":7}`) },
			func() { put(source, "/products/_settings", `{"index.priority":null}`) }},
		{"a throttle", "destination: /_cluster/settings persistent indices.recovery.max_bytes_per_sec",
			func() {
				put(destination, "/_cluster/settings", `{"persistent":{"indices.recovery.max_bytes_per_sec":"1gb"}}`)
			},
			func() {
				put(destination, "/_cluster/settings", `{"persistent":{"indices.recovery.max_bytes_per_sec":null}}`)
			}},
		{"a lease", "a lease is left: execution x",
			func() {
				if _, err := store.TakeLease(ctx, "http://elsewhere", journal.Owner{Migration: "x", Execution: "execution x"}, time.Now(), nil); err != nil {
					t.Fatal(err)
				}
			},
			func() {
				if err := store.ReleaseLease(ctx, "http://elsewhere", "execution x", time.Now()); err != nil {
					t.Fatal(err)
				}
			}},
		{"a change that is not undone", "not undone: a.setting",
			func() {
				undo(ctx, t, j, journal.Undo{Endpoint: "http://elsewhere", Setting: "a.setting", Set: "1", At: time.Now()})
			},
			func() {
				undo(ctx, t, j, journal.Undo{Endpoint: "http://elsewhere", Setting: "a.setting", Set: "1", At: time.Now(), UndoneAt: time.Now()})
			}},
		{"a freeze", "the freeze is frozen", save(frozen), save(freeze)},
		{"a loss", "lacks it", func() { remove(ctx, t, destination, "events") }, nil},
	} {
		c.plant()
		var r result
		if err := trial.compare(ctx, &r); err != nil {
			t.Fatal(err)
		}
		if len(r.problems) == 0 || !strings.Contains(strings.Join(r.problems, "\n"), c.want) {
			t.Errorf("%s: found %q", c.name, r.problems)
		}
		if c.mend != nil {
			c.mend()
		}
	}
}

// undo writes an entry of the undo log.
func undo(ctx context.Context, t *testing.T, j *journal.Journal, u journal.Undo) {
	t.Helper()
	_, tag, err := j.Undo(ctx, u.Endpoint, u.Setting)
	if err != nil {
		t.Fatal(err)
	}
	if written, err := j.ReplaceUndo(ctx, u, tag); err != nil || !written {
		t.Fatalf("written: %v, %v", written, err)
	}
}

// remove deletes one document.
func remove(ctx context.Context, t *testing.T, side *environment.Side, index string) {
	t.Helper()
	var found struct {
		Hits struct {
			Hits []struct {
				ID string `json:"_id"`
			} `json:"hits"`
		} `json:"hits"`
	}
	if err := request(ctx, http.MethodPost, side.Direct+"/"+index+"/_search", `{"size":1}`, &found); err != nil || len(found.Hits.Hits) == 0 {
		t.Fatalf("%d documents, %v", len(found.Hits.Hits), err)
	}
	if err := request(ctx, http.MethodPost, side.Direct+"/_bulk", `{"delete":{"_index":"`+index+`","_id":`+strconv.Quote(found.Hits.Hits[0].ID)+"}}\n", nil); err != nil {
		t.Fatal(err)
	}
}

// Clients that are refused are not writable until each index has taken a write again.
func TestWritable(t *testing.T) {
	now := time.Now()
	c := &clients{refused: map[string]time.Time{"a": now, "b": now}, accepted: map[string]time.Time{"a": now.Add(time.Second)}}
	if ok, _ := c.writable(); ok {
		t.Error("b still refuses")
	}
	c.accepted["b"] = now.Add(2 * time.Second)
	if ok, at := c.writable(); !ok || !at.Equal(now.Add(2*time.Second)) {
		t.Errorf("%v, %v", ok, at)
	}
}

// What a list of cases names must be there.
func TestUnknownCaseIsRefused(t *testing.T) {
	if _, err := (Config{Cases: []string{"migration/Nowhere:429"}}).plan(); err == nil || !strings.Contains(err.Error(), "migration/Nowhere:429") {
		t.Error(err)
	}
	all, err := Config{Cases: Representative()}.plan()
	if err != nil || len(all) != len(Representative()) || len(all) < 30 {
		t.Errorf("%d representative cases, %v", len(all), err)
	}
}
