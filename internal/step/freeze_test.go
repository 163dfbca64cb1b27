package step

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

func runFreeze(w *world) (FreezeOutput, error) {
	return freeze(w).Run(w.t.Context(), FreezeInput{Migration: "orders", Execution: mine})
}

var quieting = []string{"put undo/source-action.auto_create_index.json", "source PutClusterSetting auto_create_index=+.*,-*,+*"}

func TestFreeze(t *testing.T) {
	w := plannedWorld(t)
	w.source.indices["b"].Settings["index.blocks.write"] = "true"
	w.must(w.journal().SaveDocument(t.Context(), journal.DecisionFile, migration.Decision{Prediction: &migration.Prediction{Seconds: 4.5}}))
	w.forget()
	began := w.now
	out, err := runFreeze(w)
	if err != nil || out.Indices != 2 || !out.FrozenAt.Equal(began) || out.Seconds <= 0 || out.Seconds > 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	// What a block does not stop is switched off before the first write is refused.
	w.wantLog(append(quieting, "put freeze.json frozen", "source AddWriteBlock a,b", "put freeze.json frozen")...)
	f := w.freezeState()
	if !maps.Equal(f.Before, map[string]string{"a": "", "b": "true"}) || f.Execution != mine || f.Prediction == nil || *f.Prediction != 4.5 || !f.StartedAt.Equal(began) || !f.ProvenAt.Equal(w.now) {
		t.Errorf("recorded %+v", f)
	}
	// One reading proves nothing.
	if w.reads["source SequenceNumbers"] < 2 {
		t.Errorf("%d readings", w.reads["source SequenceNumbers"])
	}
}

func TestFreezeKilled(t *testing.T) {
	var began time.Time
	killedEverywhere(t, func(t *testing.T) *world { w := plannedWorld(t); began = w.now; return w }, func(w *world) error { _, err := runFreeze(w); return err }, func(w *world) {
		f := w.freezeState()
		// The state before is the one before the first attempt, whose blocks the second one sees.
		if !maps.Equal(f.Before, map[string]string{"a": "", "b": ""}) || f.State != journal.Frozen || !f.StartedAt.Equal(began) || f.ProvenAt.IsZero() {
			w.t.Errorf("recorded %+v", f)
		}
		if w.source.block("a") != "true" || w.source.block("b") != "true" {
			w.t.Error("not blocked")
		}
		w.wantBefore("put freeze.json frozen", "source AddWriteBlock")
	})
}

func TestFreezeAnswers(t *testing.T) {
	w := plannedWorld(t)
	w.lost["source AddWriteBlock"] = []error{unknown("block writes")}
	if _, err := runFreeze(w); !fault.Is(err, fault.OutcomeUnknown) {
		t.Fatal(err)
	}
	if out, err := runFreeze(w); err != nil || out.Indices != 2 || w.freezeState().Before["a"] != "" {
		t.Errorf("%+v, %v, %+v", out, err, w.freezeState())
	}
}

func TestFreezeWaitsForWritesInFlight(t *testing.T) {
	w := plannedWorld(t)
	a := w.source.sequences["a"]
	a[0].MaxSeqNo, a[0].LocalCheckpoint, a[0].GlobalCheckpoint = 20, 18, 15
	w.onSleep = func() {
		switch {
		case w.slept > 2*time.Second:
			a[0].GlobalCheckpoint = a[0].MaxSeqNo
		case w.slept > time.Second:
			a[0].MaxSeqNo, a[0].LocalCheckpoint = 21, 21
		}
	}
	if out, err := runFreeze(w); err != nil || out.Seconds < 2 || out.Seconds > 3 {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestFreezeUnproven(t *testing.T) {
	for name, change := range map[string]func(*world){
		"writes go on": func(w *world) {
			w.onSleep = func() {
				b := &w.source.sequences["b"][0]
				b.MaxSeqNo, b.LocalCheckpoint, b.GlobalCheckpoint = b.MaxSeqNo+1, b.MaxSeqNo+1, b.MaxSeqNo+1
			}
		},
		"not on every copy": func(w *world) { w.source.sequences["b"][0].GlobalCheckpoint-- },
		"a gap":             func(w *world) { w.source.sequences["b"][0].LocalCheckpoint-- },
		"a shard is gone":   func(w *world) { delete(w.source.sequences, "b") },
	} {
		w := plannedWorld(t)
		change(w)
		_, err := runFreeze(w)
		wantFault(t, err, fault.FreezeUnproven, "still moving: b")
		if strings.Contains(err.Error(), "a,") || w.slept < 30*time.Second || w.slept > 31*time.Second {
			t.Errorf("%s: %v after %v", name, err, w.slept)
		}
		if f := w.freezeState(); !f.ProvenAt.IsZero() || f.State != journal.Frozen {
			t.Errorf("%s: recorded %+v", name, f)
		}
	}
}

func TestFreezeOfChangedIndices(t *testing.T) {
	w := plannedWorld(t)
	w.source.add("fresh", 1)
	w.source.add(".kibana_2", 1)
	w.source.add("closed", 1).Open = false
	delete(w.source.indices, "b")
	_, err := runFreeze(w)
	wantFault(t, err, fault.IndicesChanged, "fresh (created)", "b (removed)")
	if strings.Contains(err.Error(), "kibana") || strings.Contains(err.Error(), "closed (") {
		t.Errorf("%v", err)
	}
	w.wantLog()
	if w.source.block("a") != "" {
		t.Error("writes were stopped")
	}
}

func TestFreezeOfAnotherExecution(t *testing.T) {
	for _, state := range []journal.FreezeState{journal.Frozen, journal.HandingOver, journal.HandedOver} {
		w := plannedWorld(t)
		w.frozen(others, state)
		_, err := runFreeze(w)
		wantFault(t, err, fault.Busy, others)
		w.wantLog() // above all: the record of how the blocks were is not overwritten
	}
	w := plannedWorld(t)
	w.frozen(others, journal.Thawed)
	if _, err := runFreeze(w); err != nil || w.freezeState().Execution != mine {
		t.Errorf("after a thaw: %v, %+v", err, w.freezeState())
	}
	w = plannedWorld(t)
	w.frozen(mine, journal.Thawed)
	_, err := runFreeze(w)
	wantFault(t, err, fault.Superseded, "already over")
	w.wantLog()
}

func runThaw(w *world) (ThawOutput, error) {
	return thaw(w).Run(w.t.Context(), ThawInput{Migration: "orders", Execution: mine, Failure: &Failure{Error: "Migration.CopyFailed", Cause: "why"}})
}

func TestThawGivesBackWhatWas(t *testing.T) {
	for name, in := range map[string]ThawInput{
		"by the workflow": {Migration: "orders", Execution: mine, Failure: &Failure{Error: "Migration.CopyFailed", Cause: "why"}},
		"by the rule":     {Execution: mine},
	} {
		w := plannedWorld(t)
		w.source.indices["b"].Settings["index.blocks.write"] = "true"
		w.frozen(mine, journal.Frozen)
		out, err := thaw(w).Run(t.Context(), in)
		if err != nil || out.State != journal.Thawed || strings.Join(out.Indices, ",") != "a,b" || !strings.Contains(out.Cause, "the source takes writes again") {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		// First of all no step acts any more; the domains are given back last, when the execution has ended.
		want := []string{"put fence.json", "source UpdateSettings blocks.write=<nil> on a", "source UpdateSettings blocks.write=true on b", "put freeze.json thawed", "put cutovers/0001.json"}
		if in.Failure == nil {
			want = append(want, "put leases/destination.json", "put leases/source.json")
		}
		w.wantLog(want...)
		if w.source.block("a") != "" || w.source.block("b") != "true" || !w.freezeState().EndedAt.Equal(w.now) {
			t.Errorf("%s: a %q, b %q, %+v", name, w.source.block("a"), w.source.block("b"), w.freezeState())
		}
		if in.Failure != nil && (out.Error != "Migration.CopyFailed" || !strings.HasPrefix(out.Cause, "why\n")) {
			t.Errorf("%s: ends with %s: %s", name, out.Error, out.Cause)
		}
		w.forget()
		if out, err := thaw(w).Run(t.Context(), in); err != nil || out.State != journal.Thawed || len(out.Indices) != 0 {
			t.Errorf("%s, again: %+v, %v", name, out, err)
		}
		w.wantLog()
	}
}

func TestThawLeavesOutWhatIsGone(t *testing.T) {
	w := plannedWorld(t)
	w.frozen(mine, journal.Frozen)
	delete(w.source.indices, "b")
	if out, err := runThaw(w); err != nil || strings.Join(out.Indices, ",") != "a" {
		t.Fatalf("%+v, %v", out, err)
	}
	if before := w.freezeState().Before; len(before) != 2 {
		t.Errorf("the record of what was forgot an index: %v", before)
	}
}

func TestThawKilled(t *testing.T) {
	killedEverywhere(t, func(t *testing.T) *world { w := plannedWorld(t); w.frozen(mine, journal.Frozen); return w },
		func(w *world) error { _, err := runThaw(w); return err }, func(w *world) {
			if w.source.block("a") != "" || w.source.block("b") != "true" || w.freezeState().State != journal.Thawed {
				w.t.Errorf("a %q, b %q, %+v", w.source.block("a"), w.source.block("b"), w.freezeState())
			}
		})
}

func TestThawHasNothingToDo(t *testing.T) {
	for name, c := range map[string]struct {
		in    ThawInput
		world func(*world)
		state journal.FreezeState
		says  string
	}{
		"never past preflight": {ThawInput{Execution: others}, nil, journal.Thawed, "never got past preflight"},
		"never froze":          {ThawInput{Execution: mine}, nil, journal.Thawed, "had not stopped any writes"},
		"another's freeze":     {ThawInput{Migration: "orders", Execution: mine}, func(w *world) { w.frozen(others, journal.Frozen) }, journal.Thawed, "had not stopped any writes"},
		"handed over":          {ThawInput{Execution: mine}, func(w *world) { w.frozen(mine, journal.HandedOver); w.settled() }, journal.HandedOver, "the verified destination takes writes"},
	} {
		w := plannedWorld(t)
		if c.world != nil {
			c.world(w)
		}
		out, err := thaw(w).Run(t.Context(), c.in)
		if err != nil || out.State != c.state || !strings.Contains(out.Cause, c.says) || len(out.Indices) != 0 {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if w.count("") != w.count("put fence.json")+w.count("put leases/") {
			t.Errorf("%s: %v", name, w.log)
		}
	}
}

// A Finish that died after the hand-over leaves indices without replicas.
func TestThawSettlesWhatWasHandedOver(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := finishable(t)
		w.frozen(mine, journal.HandedOver)
		w.forget()
		return w
	}
	killedEverywhere(t, arrange, func(w *world) error { _, err := runThaw(w); return err }, func(w *world) {
		if f := w.freezeState(); f.State != journal.HandedOver || f.SettledAt.IsZero() || w.destination.indices["b"].Settings["index.number_of_replicas"] != "2" {
			w.t.Errorf("%+v, b has %v", f, w.destination.indices["b"].Settings)
		}
		if w.source.block("a") != "true" {
			w.t.Error("the source takes writes beside the destination")
		}
	})
}

func TestThawAnswers(t *testing.T) {
	w := plannedWorld(t)
	w.frozen(mine, journal.Frozen)
	w.answers["source UpdateSettings"] = []error{unknown("update settings")}
	if _, err := runThaw(w); !fault.Is(err, fault.OutcomeUnknown) || w.freezeState().State != journal.Frozen {
		t.Errorf("%v, %+v", err, w.freezeState())
	}
}

func TestThawInTheMiddleOfHandingOver(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := plannedWorld(t)
		w.copies("orders-r0003", true)
		w.destination.sequences["a"][0].MaxSeqNo = 500 // replayed: not the source's number
		w.frozen(mine, journal.HandingOver)
		f := w.freezeState()
		f.Sealed = map[string][]int64{"a": {500, 11}, "b": {10}}
		w.must(w.journal().SaveFreeze(t.Context(), f))
		w.forget()
		delete(w.destination.indices["a"].Settings, "index.blocks.write") // Finish died after the first index
		return w
	}
	t.Run("no write arrived", func(t *testing.T) {
		killedEverywhere(t, arrange, func(w *world) error { _, err := runThaw(w); return err }, func(w *world) {
			if w.freezeState().State != journal.Thawed || w.source.block("a") != "" || w.destination.block("a") != "true" || w.destination.block("b") != "true" {
				w.t.Errorf("%+v, source a %q, destination a %q", w.freezeState(), w.source.block("a"), w.destination.block("a"))
			}
			// The destination is closed before it is looked at: a write in between would be lost.
			w.wantBefore("destination AddWriteBlock a,b", "source UpdateSettings")
		})
	})
	t.Run("a write arrived", func(t *testing.T) {
		killedEverywhere(t, func(t *testing.T) *world { w := arrange(t); w.destination.sequences["a"][1].MaxSeqNo++; return w },
			func(w *world) error {
				out, err := runThaw(w)
				if err == nil && (out.State != journal.HandedOver || !strings.Contains(out.Cause, "the source stays blocked on purpose")) {
					w.t.Errorf("%+v", out)
				}
				return err
			}, func(w *world) {
				if w.freezeState().State != journal.HandedOver || w.source.block("a") != "true" || w.destination.block("a") != "" {
					w.t.Errorf("%+v, source a %q, destination a %q", w.freezeState(), w.source.block("a"), w.destination.block("a"))
				}
				// b was blocked before the migration and stays so.
				if w.destination.block("b") != "true" || w.count("source ") != 0 {
					w.t.Errorf("destination b %q, %v", w.destination.block("b"), w.log)
				}
			})
	})
}

func TestThawUnwrapsNestedCauses(t *testing.T) {
	quote := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	lambda := quote(map[string]any{"errorType": "Migration.RestoreFailed", "errorMessage": "shard a[1]"})
	child := quote(map[string]any{"ExecutionArn": "arn", "Status": "FAILED", "Error": "Migration.RestoreFailed", "Cause": lambda})
	for name, c := range map[string]struct {
		in           Failure
		error, cause string
	}{
		"a Lambda":                 {Failure{"Migration.RestoreFailed", lambda}, "Migration.RestoreFailed", "shard a[1]"},
		"a child":                  {Failure{"States.TaskFailed", child}, "Migration.RestoreFailed", "shard a[1]"},
		"a grandchild":             {Failure{"States.TaskFailed", quote(map[string]any{"Error": "States.TaskFailed", "Cause": child})}, "Migration.RestoreFailed", "shard a[1]"},
		"a child that was stopped": {Failure{"States.TaskFailed", `{"Status":"ABORTED","Name":"x"}`}, "States.TaskFailed", `{"Status":"ABORTED","Name":"x"}`},
		"plain words":              {Failure{"States.Timeout", "too late"}, "States.Timeout", "too late"},
		"out of time":              {Failure{"States.Timeout", ""}, "States.Timeout", "Moving the last delta took longer than downtimeWindow and 5m0s, or one of the cut-over's steps did not answer in its time."},
		"a number":                 {Failure{"E", "7"}, "E", "7"},
		"nothing":                  {Failure{"E", ""}, "E", ""},
	} {
		w := plannedWorld(t)
		out, err := thaw(w).Run(t.Context(), ThawInput{Migration: "orders", Execution: mine, Failure: &c.in})
		if err != nil || out.Error != c.error || !strings.HasPrefix(out.Cause, c.cause+"\nState of writes:") {
			t.Errorf("%s: %s: %s, %v", name, out.Error, out.Cause, err)
		}
	}
	// The service takes at most 32,768 characters, and half a letter is none.
	w := plannedWorld(t)
	out, err := thaw(w).Run(t.Context(), ThawInput{Migration: "orders", Execution: mine, Failure: &Failure{"E", "x" + strings.Repeat("ü", 30_000)}})
	if err != nil || len(out.Cause) > 32_768 || !strings.Contains(out.Cause, "State of writes") || strings.ToValidUTF8(out.Cause, "?") != out.Cause {
		t.Errorf("a cause of %d bytes, %v", len(out.Cause), err)
	}
}
