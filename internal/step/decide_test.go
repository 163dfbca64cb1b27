package step

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

func decide(w *world) Decide {
	return Decide{w.store, func(e migration.Endpoint) DecideDomain { return w.at(e) }, w.verifier, w}
}

func (w *world) verifier(from, to migration.Endpoint) ReplayVerifier { return w.between(from, to) }

func TestDecide(t *testing.T) {
	w := plannedWorld(t)
	run := func(n int) DecideOutput {
		t.Helper()
		w.must(w.journal().SaveRound(t.Context(), migration.Round{Number: n, Execution: mine, Restore: migration.RestorePhase{Seconds: 10}}))
		w.forget()
		out, err := decide(w).Run(t.Context(), DecideInput{Migration: "orders", Round: n, Execution: mine})
		if err != nil {
			t.Fatal(err)
		}
		w.wantLog("put decision.json")
		var kept migration.Decision
		if found, err := w.journal().Document(t.Context(), "decision.json", &kept); err != nil || !found || !reflect.DeepEqual(kept, out.Decision) {
			t.Errorf("kept %+v, %v; said %+v", kept, err, out.Decision)
		}
		return out
	}
	// The downtime window of a minute, and five to spare.
	if out := run(1); out.CutoverTimeoutSeconds != 360 || out.Action != migration.WarmAgain || out.NextRound != 2 || out.Prediction != nil {
		t.Errorf("%+v", out)
	}
	out := run(2)
	if out.CutoverTimeoutSeconds != 360 || out.Action != migration.CutOverNow || out.NextRound != 3 || out.Prediction == nil || out.Prediction.Restore.Seconds != 10 ||
		out.Prediction.Seconds <= 10 || out.Prediction.High <= out.Prediction.Seconds {
		t.Errorf("%+v", out)
	}
	// What an earlier attempt took is known better than the constants.
	w.must(saveCutOver(t.Context(), w.journal(), migration.CutOver{Execution: others, StartedAt: w.now, Freeze: new(7.0), Verify: new(0.5)}))
	w.must(saveCutOver(t.Context(), w.journal(), migration.CutOver{Execution: others, StartedAt: w.now, Freeze: new(8.0), Verify: new(0.5)})) // the same again
	if again := run(2); again.Prediction.Freeze.Seconds != 8 || again.Prediction.Verify.Seconds != 0.5 || again.Prediction.Finish != out.Prediction.Finish {
		t.Errorf("%+v", again.Prediction)
	}
}

// slow is a domain whose reads take their time.
type slow struct {
	*domain
	takes time.Duration
}

func (s slow) Indices(ctx context.Context) ([]cluster.Index, error) {
	s.w.now = s.w.now.Add(s.takes)
	return s.domain.Indices(ctx)
}

func (s slow) SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error) {
	s.w.now = s.w.now.Add(s.takes)
	return s.domain.SequenceNumbers(ctx, indices...)
}

// A domain that answers slowly makes the freeze and the verification long: seen before the freeze, not in it.
func TestDecideProbesTheDomains(t *testing.T) {
	var before migration.Prediction
	for i, takes := range []time.Duration{10 * time.Millisecond, 2 * time.Second} {
		w := plannedWorld(t)
		for n := range 2 {
			w.must(w.journal().SaveRound(t.Context(), migration.Round{Number: n + 1, Execution: mine, Restore: migration.RestorePhase{Seconds: 1}}))
		}
		s := decide(w)
		s.Domain = func(e migration.Endpoint) DecideDomain { return slow{w.at(e), takes} }
		out, err := s.Run(t.Context(), DecideInput{Migration: "orders", Round: 2, Execution: mine, EnteredAt: w.now.Add(-takes / 10)})
		if err != nil {
			t.Fatal(err)
		}
		p := *out.Prediction
		if i == 1 && (p.Transitions.Seconds < before.Transitions.Seconds+1 || p.Freeze.Seconds < before.Freeze.Seconds+5 || p.Verify.Seconds < before.Verify.Seconds+3 || p.Finish.Seconds < before.Finish.Seconds+2) {
			t.Errorf("with fast domains %+v, with slow ones %+v", before, p)
		}
		before = p
	}
}

// What a cut-over does besides moving is tried while clients write: how long it takes stands in the decision, what it finds does not count.
func TestDecideTriesTheCutOver(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := plannedWorld(t)
		w.copies("orders-r0002", true)
		began := w.now.Add(-time.Hour)
		for n := range 2 {
			r := migration.Round{Number: n + 1, Execution: mine, StartedAt: began, FinishedAt: began.Add(time.Second), Restore: migration.RestorePhase{Seconds: 1}}
			w.must(w.journal().SaveRound(t.Context(), r))
			p := migration.Pass{Number: n + 1, Execution: mine, StartedAt: began, FinishedAt: w.now.Add(-300 * time.Millisecond), Seconds: 1}
			w.must(w.journal().SavePass(t.Context(), p))
		}
		w.replaying("a", "b")
		w.must((&replayState{Pass: 2, States: []replay.State{{Index: "a", Shards: make([]replay.ShardState, 2)}, {Index: "b", Shards: make([]replay.ShardState, 1)}}}).save(t.Context(), w.journal()))
		w.source.documents["a"] = []cluster.Document{{DocumentKey: cluster.DocumentKey{ID: "1"}, Found: true, Source: []byte(`{}`)}} // and none at the copy
		w.forget()
		return w
	}
	run := func(t *testing.T, w *world, in DecideInput) migration.Probe {
		t.Helper()
		in.Migration, in.Round, in.Execution = "orders", 2, mine
		s := decide(w)
		s.Domain = func(e migration.Endpoint) DecideDomain { return slow{w.at(e), time.Second} }
		out, err := s.Run(t.Context(), in)
		if err != nil || out.Prediction == nil {
			t.Fatalf("%+v, %v", out, err)
		}
		return out.Probe
	}
	w := arrange(t)
	p := run(t, w, DecideInput{EnteredAt: w.now.Add(-200 * time.Millisecond)})
	if p.Return != 0.1 || p.Task != 0.2 || p.Cold != 0.2 || p.Verify < 1 || w.reads["replay Verify"] != 1 || len(w.replay.verified) != 2 {
		t.Errorf("%+v, %v", p, w.reads)
	}
	// A warm function begins faster; those that only a cut-over calls will not.
	if p := run(t, w, DecideInput{EnteredAt: w.now.Add(-10 * time.Millisecond)}); p.Task != 0.01 || p.Cold != 0.2 {
		t.Errorf("%+v", p)
	}
	// What cannot be tried is not measured, and decides nothing.
	w = arrange(t)
	w.answers["replay Verify"] = []error{fault.Newf(fault.Unavailable, "read", "destination", "no answer")}
	if p := run(t, w, DecideInput{}); p.Verify != 0 || p.Task != 0 || p.Return != 0 {
		t.Errorf("%+v", p)
	}
	// Closed copies are not asked for documents.
	w = arrange(t)
	w.copies("orders-r0002", false)
	if p := run(t, w, DecideInput{}); p.Verify == 0 || w.reads["destination SequenceNumbers"] != 0 || w.reads["destination Refresh"] != 0 {
		t.Errorf("%+v, %v", p, w.reads)
	}
}

func TestDecideSavesTheSwitch(t *testing.T) {
	arrange := func(t *testing.T) *world {
		w := plannedWorld(t)
		for n, s := range []float64{900, 300} {
			w.must(w.journal().SaveRound(t.Context(), migration.Round{Number: n + 1, Execution: mine, Restore: migration.RestorePhase{Seconds: s}}))
		}
		w.must(w.journal().SaveMeasures(t.Context(), 2, map[string]migration.Measure{"a": {Snapshot: 1 << 20, Recovered: 1 << 30}, "b": {Snapshot: 1 << 20, Recovered: 1 << 20}}))
		// An older plan had another index on replay.
		w.must(w.journal().SaveStrategies(t.Context(), migration.Strategies{Replay: []migration.OnReplay{{Index: "old", Base: 1}}}))
		w.forget()
		return w
	}
	run := func(w *world) (DecideOutput, error) {
		return decide(w).Run(w.t.Context(), DecideInput{Migration: "orders", Round: 2, Execution: mine})
	}
	w := arrange(t)
	out, err := run(w)
	var kept migration.Decision
	if _, err := w.journal().Document(t.Context(), journal.DecisionFile, &kept); err != nil || len(kept.Switch) != 1 || kept.Switch[0].Index != "a" || kept.Switch[0].Base != 2 {
		t.Errorf("the journal keeps %+v, %v", kept, err)
	}
	if err != nil || len(out.Switch) != 0 || !out.ByRounds || !out.ByReplay || out.NextRound != 3 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantLog("put strategies.json", "put decision.json")
	killedEverywhere(t, arrange, func(w *world) error {
		out, err := run(w)
		if err == nil && (!out.ByReplay || !out.ByRounds || out.Action != migration.WarmAgain) {
			w.t.Errorf("%+v", out)
		}
		return err
	}, func(w *world) {
		if on, _ := w.strategies(); on != "old,a" {
			w.t.Errorf("on replay %s", on)
		}
	})
	w = plannedWorld(t)
	w.replaying("a", "b")
	if out, err := run(w); err != nil || out.ByRounds || !out.ByReplay {
		t.Errorf("all on replay: %+v, %v", out, err)
	}
	w.replaying()
	if out, err := run(w); err != nil || !out.ByRounds || out.ByReplay {
		t.Errorf("none on replay: %+v, %v", out, err)
	}
}

// When only replay has something to do, no round is run beside it: until an index on rounds is written to, comes back from the replay, or
// the source's list of indices changes.
func TestDecideWhetherARoundIsNeeded(t *testing.T) {
	for name, c := range map[string]struct {
		script   func(*world)
		byRounds bool
		ready    bool   // a cut-over may begin
		says     string // in the reason
	}{
		"nothing to move": {func(*world) {}, false, true, "snapshot 0.0"},
		"written to":      {func(w *world) { w.source.sequences["b"][0].GlobalCheckpoint++ }, true, true, "snapshot 1.0"},
		"a new index":     {func(w *world) { w.source.add("c", 1) }, true, false, "c (created)"},
		"made anew":       {func(w *world) { w.source.indices["b"].UUID = "another" }, true, false, "b (re-created)"},
		"gone":            {func(w *world) { delete(w.source.indices, "b"); delete(w.source.sequences, "b") }, true, false, "b (removed)"},
		"back from the replay": {func(w *world) {
			w.must(w.journal().SaveStrategies(w.t.Context(), migration.Strategies{Replay: []migration.OnReplay{{Index: "a", Base: 1}},
				Dropped: []migration.Dropped{{Name: "b", Reason: "why", Base: 2}}}))
		}, true, false, "index b is back on rounds"},
	} {
		t.Run(name, func(t *testing.T) {
			w := plannedWorld(t)
			began := w.now.Add(-time.Hour)
			for n := range 2 {
				r := migration.Round{Number: n + 1, Execution: mine, StartedAt: began.Add(time.Duration(n) * time.Minute), Snapshot: migration.SnapshotPhase{Seconds: 1}}
				r.FinishedAt = r.StartedAt.Add(time.Second)
				w.must(w.journal().SaveRound(t.Context(), r))
				p := migration.Pass{Number: n + 1, Execution: mine, StartedAt: began.Add(time.Duration(n+2) * time.Minute), Seconds: 1}
				p.FinishedAt = p.StartedAt.Add(time.Second)
				w.must(w.journal().SavePass(t.Context(), p))
			}
			w.must(w.journal().SaveMeasures(t.Context(), 2, map[string]migration.Measure{"b": {Skipped: true}}))
			w.checkpoints(journal.Checkpoints{Round: 2, PerShard: map[string][]int64{"b": {10}}})
			w.replaying("a")
			c.script(w)
			out, err := decide(w).Run(t.Context(), DecideInput{Migration: "orders", Round: 2, Execution: mine})
			if err != nil {
				t.Fatal(err)
			}
			if out.ByRounds != c.byRounds || !out.ByReplay || (out.Action == migration.CutOverNow) != c.ready || !strings.Contains(out.Reason, c.says) {
				t.Errorf("%+v", out)
			}
		})
	}
}

func TestAsk(t *testing.T) {
	w := plannedWorld(t)
	p := &migration.Prediction{Seconds: 90, Low: 80, High: 400, Dominates: "restore on node n1"}
	d := migration.Decision{Action: migration.AskFirst, Reason: "it does not fit", WouldFit: "it would with 400 s", Prediction: p}
	in := AskInput{Migration: "orders", Round: 4, Execution: mine, TaskToken: "AAA+/=", Answer: "perhaps"}
	var told []string
	ask := Ask{w.store, w, func(_ context.Context, subject, message string) error {
		told = append(told, subject, message)
		return nil
	}}
	if _, err := ask.Run(t.Context(), in); !fault.Is(err, fault.JournalMissing) {
		t.Errorf("without a decision: %v", err)
	}
	w.must(w.journal().SaveDocument(t.Context(), journal.DecisionFile, d))
	if _, err := ask.Run(t.Context(), AskInput{Migration: "orders", Execution: mine}); !fault.Is(err, fault.JournalMissing) {
		t.Errorf("without a token: %v", err)
	}
	if _, err := ask.Run(t.Context(), AskInput{Migration: "orders", Execution: others, TaskToken: "x"}); !fault.Is(err, fault.Superseded) {
		t.Errorf("an older execution asks: %v", err)
	}
	w.forget()
	out, err := ask.Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	w.wantLog("put question.json")
	var kept Question
	if found, err := w.journal().Document(t.Context(), "question.json", &kept); err != nil || !found || !reflect.DeepEqual(kept, out) {
		t.Errorf("kept %+v, %v; said %+v", kept, err, out)
	}
	if out.Reason != d.Reason || out.WouldFit != d.WouldFit || out.Dominates != p.Dominates || out.NotAnswer != "perhaps" || !out.AskedAt.Equal(w.now) || out.Execution != mine {
		t.Errorf("%+v", out)
	}
	if len(told) != 2 || len(told[0]) > 100 || !strings.Contains(told[0], "orders") {
		t.Errorf("told %q", told)
	}
	for _, part := range []string{"it does not fit", "restore on node n1", "it would with 400 s", "perhaps", out.Answers[0].Command, out.Answers[2].Command} {
		if !strings.Contains(told[1], part) {
			t.Errorf("the message does not say %q:\n%s", part, told[1])
		}
	}
	var lines []string
	for _, a := range out.Answers {
		lines = append(lines, a.Command)
	}
	const command = "aws stepfunctions send-task-success --task-token AAA+/= --task-output "
	if want := []string{command + `'{"action":"cutover"}'`, command + `'{"action":"warm"}'`, command + `'{"action":"stop"}'`}; !slices.Equal(lines, want) {
		t.Errorf("%q", lines)
	}
}
