package statemachine_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/lambdahost"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/internal/replay"
	"github.com/domainferry/domainferry/internal/s3copy"
	"github.com/domainferry/domainferry/internal/step"
)

// site is a Task state; final tells a final round's states from a warm round's.
type site struct {
	state string
	final bool
}

func (s site) String() string {
	if s.final {
		return s.state + " (final)"
	}
	return s.state
}

// world runs the machines on a virtual clock with steps that follow a script instead of moving data. Their events and answers
// pass through lambdahost and the types of internal/step, so that the definitions meet the shapes and error names of a deployment.
type world struct {
	t       *testing.T
	clock   *asl.VirtualClock
	engine  *asl.Engine
	started time.Time

	// The script. Zero values give the shortest way through.
	decisions  []migration.Decision                               // in order; when used up, migration.Decide decides
	takes      func(what string, round int) time.Duration         // how long a snapshot or restore runs
	ranges     int                                                // of a copy plan; 0 means 1
	slices     int64                                              // invocations that a range takes; 0 means 1
	slice      time.Duration                                      // of one invocation
	disturb    func(ctx context.Context, at site, call int) error // asked at the start of each invocation; an error is its outcome
	snapshot   func(call int, out step.SnapshotOutput) step.SnapshotOutput
	poll       func(at site, call int, out step.PollStatusOutput) step.PollStatusOutput
	publish    func(call int, out step.PublishCopyOutput) step.PublishCopyOutput
	restore    func(call int, out step.RestoreOutput) step.RestoreOutput
	unchanged  bool                                         // no round has anything to move
	verify     func() any                                   // what Verify answers
	busy       map[string]time.Duration                     // for how long StartSnapshot, PublishCopy and StartRestore do not get their turn
	strategy   func(decision int) (byRounds, byReplay bool) // of Preflight (0) and of each Decide; without it by rounds alone
	pass       func(pass int) passScript                    // without it one slice, one call of each
	call       time.Duration                                // of ReplaySlice, ReconcileDeletes and DeletePart
	answers    []string                                     // to Ask, in order, as JSON; when used up nobody answers
	afterwards []int                                        // seconds that Finish answers to wait, in order
	thinks     time.Duration                                // before each answer

	// What happened.
	mu       sync.Mutex
	calls    map[site]int
	entered  map[*asl.Execution][]string
	order    []*asl.Execution // as they entered their first states
	rounds   []migration.Round
	passes   []migration.Pass
	deciding int
	asked    map[int]int         // calls of ReconcileDeletes and DeletePart that got through, by pass
	parts    map[string]int      // calls of DeletePart that got through, by pass and part
	reads    map[string][]string // by pass and slice: Rest of each invocation
	cursors  map[string][]string // by a range's upper end: After of each invocation
	spec     migration.Spec
	planned  []step.PlanCopyOutput
	since    map[string]time.Time // of StartSnapshot, PlanCopy and StartRestore
	failures []step.Failure       // that Thaw was given
	asking   []step.AskInput
	deciders []step.DecideInput
	decided  migration.Action // the last decision
	frozen   bool
}

// passScript is what a pass asks for.
type passScript struct {
	slices, calls int
	parts         int  // of the deletions; 0: ReconcileDeletes brings them over itself
	deletes       int  // calls of each part
	small         bool // brought over with its plan, but for the parts
}

// deletions is how many calls look for deletions.
func (s passScript) deletions() int {
	n := s.parts * s.deletes
	if !s.small {
		n++
	}
	return n
}

const (
	thawError = string(fault.VerificationFailed)
	thawCause = "what Thaw says\nState of writes: the source takes writes again"
)

// parsed holds the definitions with each function's name for its ARN: hundreds of worlds share them.
var parsed = sync.OnceValues(func() (map[string]*asl.Machine, error) {
	arn := asl.New(asl.Config{}).ARN
	substitutions := map[string]string{names.RoundMachinePlaceholder: arn(names.RoundMachine), names.ReplayMachinePlaceholder: arn(names.ReplayMachine)}
	for _, f := range names.Functions() {
		substitutions[f.Placeholder()] = f.Name
	}
	machines := map[string]*asl.Machine{}
	for name, definition := range definitions {
		m, err := asl.Parse([]byte(definition), substitutions)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		machines[name] = m
	}
	return machines, nil
})

func newWorld(t *testing.T) *world {
	t.Helper()
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { slog.SetDefault(before) })
	w := &world{
		t: t, started: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC),
		asked: map[int]int{}, parts: map[string]int{}, reads: map[string][]string{},
		calls: map[site]int{}, entered: map[*asl.Execution][]string{}, cursors: map[string][]string{}, since: map[string]time.Time{},
	}
	w.clock = asl.NewVirtualClock(w.started)
	w.engine = asl.New(asl.Config{Clock: w.clock, Lambda: w, Random: rand.New(rand.NewPCG(3, 4))})
	machines, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range machines {
		if _, err := w.engine.AddStateMachine(name, m); err != nil {
			t.Fatal(err)
		}
	}
	w.engine.Observe(asl.Observer{StateEntered: func(e asl.StateEntered) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.entered[e.Execution] == nil {
			w.order = append(w.order, e.Execution)
		}
		w.entered[e.Execution] = append(w.entered[e.Execution], e.State)
	}})
	return w
}

// Errors of disturb that do not come from a step.
var errGarbled = errors.New("the function answers null")

// Invoke implements asl.Invoker.
func (w *world) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	single := func(state string) func(json.RawMessage) site {
		return func(json.RawMessage) site { return site{state: state} }
	}
	ofRound := func(state string) func(json.RawMessage) site {
		return func(b json.RawMessage) site {
			var in step.PollStatusInput
			if err := json.Unmarshal(b, &in); err != nil {
				w.t.Errorf("%s: %v", state, err)
			}
			if state == "" {
				state = map[string]string{"snapshot": "PollSnapshot", "restore": "PollRestore"}[in.What]
			}
			return site{state, in.Final}
		}
	}
	switch function {
	case "preflight":
		return serve(ctx, w, single("Preflight"), payload, w.runPreflight)
	case "register":
		return serve(ctx, w, single("Register"), payload, func(_ context.Context, in step.RegisterInput, _ int) (step.RegisterOutput, error) {
			return step.RegisterOutput{Repository: in.Migration, Source: "registered", Destination: "registered"}, nil
		})
	case "decide":
		return serve(ctx, w, single("Decide"), payload, w.runDecide)
	case "ask":
		return serve(ctx, w, single(w.asks()), payload, w.runAsk)
	case "freeze":
		return serve(ctx, w, single("Freeze"), payload, w.runFreeze)
	case "verify":
		return serve(ctx, w, single("Verify"), payload, func(context.Context, step.VerifyInput, int) (any, error) {
			if w.verify != nil {
				return w.verify(), nil
			}
			return step.VerifyOutput{Verdict: migration.Verified, Checks: 7, Seconds: 0.5}, nil
		})
	case "finish":
		return serve(ctx, w, single("Finish"), payload, func(_ context.Context, in step.FinishInput, _ int) (step.FinishOutput, error) {
			w.frozen = false
			out := step.FinishOutput{Migration: in.Migration, Verdict: migration.Verified, Rounds: in.Round, WritableAt: w.clock.Now(), Action: migration.Done}
			if len(w.afterwards) > 0 {
				out.Action, out.WaitSeconds, w.afterwards = migration.WaitFirst, w.afterwards[0], w.afterwards[1:]
			}
			return out, nil
		})
	case "thaw":
		return serve(ctx, w, single("Thaw"), payload, w.runThaw)
	case "snapshot":
		return serve(ctx, w, ofRound("StartSnapshot"), payload, w.runSnapshot)
	case "poll-status":
		return serve(ctx, w, ofRound(""), payload, w.runPoll)
	case "plan-copy":
		return serve(ctx, w, ofRound("PlanCopy"), payload, w.runPlanCopy)
	case "copy":
		return serve(ctx, w, ofRound("CopyRange"), payload, w.runCopy)
	case "publish-copy":
		return serve(ctx, w, ofRound("PublishCopy"), payload, w.runPublish)
	case "restore":
		return serve(ctx, w, ofRound("StartRestore"), payload, w.runRestore)
	case "record-round":
		return serve(ctx, w, ofRound("RecordRound"), payload, w.runRecord)
	case "plan-replay":
		return serve(ctx, w, ofRound("PlanReplay"), payload, w.runPlanReplay)
	case "replay":
		return serve(ctx, w, ofRound("ReplaySlice"), payload, w.runReplaySlice)
	case "reconcile-deletes":
		var in step.ReconcileDeletesInput
		if err := json.Unmarshal(payload, &in); err != nil {
			return nil, err
		}
		if in.Part != nil {
			return serve(ctx, w, ofRound("DeletePart"), payload, w.runDeletePart)
		}
		return serve(ctx, w, ofRound("ReconcileDeletes"), payload, w.runReconcileDeletes)
	case "record-pass":
		return serve(ctx, w, ofRound("RecordPass"), payload, w.runRecordPass)
	}
	return nil, fmt.Errorf("no function %q", function)
}

// serve is one invocation: the event is decoded as strictly as a deployed function does it, the answer made by run.
func serve[In, Out any](ctx context.Context, w *world, at func(json.RawMessage) site, payload []byte,
	run func(context.Context, In, int) (Out, error)) ([]byte, error) {
	where := at(payload)
	w.mu.Lock()
	w.calls[where]++
	call := w.calls[where]
	w.mu.Unlock()
	var outside error // not the step's own: it reaches the engine as it is
	answer, err := lambdahost.Handle(ctx, func(ctx context.Context, in In) (Out, error) {
		if w.disturb != nil {
			if err := w.disturb(ctx, where, call); err != nil {
				var none Out
				if _, ours := fault.As(err); !ours {
					outside = err
				}
				return none, err
			}
		}
		return run(ctx, in, call)
	}, payload)
	switch typed, ok := errors.AsType[messages.InvokeResponse_Error](err); {
	case outside == errGarbled:
		return []byte("null"), nil
	case outside != nil:
		return nil, outside
	case ok:
		return nil, &asl.FunctionError{Type: typed.Type, Message: typed.Message}
	}
	return answer, err
}

func (w *world) runPreflight(_ context.Context, in step.PreflightInput, _ int) (step.PreflightOutput, error) {
	spec, err := migration.DecodeSpec(in.Input)
	if err != nil {
		return step.PreflightOutput{}, fault.New(fault.InvalidInput, "check the migration", "input", err)
	}
	w.spec = spec
	byRounds, byReplay := w.strategies()
	return step.PreflightOutput{
		Migration: spec.Migration, Mode: spec.Mode, FirstRound: 1, ByRounds: byRounds, ByReplay: byReplay, Spec: spec, LeftOut: []migration.LeftOut{}, Warnings: []string{},
	}, nil
}

// strategies answers for Preflight, and for each Decide after it.
func (w *world) strategies() (byRounds, byReplay bool) {
	n := w.deciding
	w.deciding++
	if w.strategy == nil {
		return true, false
	}
	return w.strategy(n)
}

func (w *world) runDecide(_ context.Context, in step.DecideInput, _ int) (step.DecideOutput, error) {
	w.deciders = append(w.deciders, in)
	out := step.DecideOutput{NextRound: in.Round + 1, AnswerTimeoutSeconds: 3600, CutoverTimeoutSeconds: int(time.Duration(w.spec.DowntimeWindow).Seconds()) + 300}
	if len(w.decisions) > 0 {
		out.Decision, w.decisions = w.decisions[0], w.decisions[1:]
	} else {
		out.Decision = migration.Decide(w.spec, in.Execution, 1, migration.History{Rounds: w.rounds})
	}
	out.ByRounds, out.ByReplay = w.strategies()
	w.decided = out.Action
	return out, nil
}

// asks is the state that asks now.
func (w *world) asks() string {
	if w.decided == migration.AskApproval {
		return "Approve"
	}
	return "Ask"
}

// runAsk answers while the question is still being written, which is as good as later.
func (w *world) runAsk(ctx context.Context, in step.AskInput, _ int) (step.Question, error) {
	if in.TaskToken == "" || in.Migration != "orders" || in.Execution == "" {
		w.t.Errorf("Ask got %+v", in)
	}
	w.asking = append(w.asking, in)
	if len(w.answers) > 0 {
		if err := asl.Sleep(ctx, w.clock, w.thinks); err != nil {
			return step.Question{}, err
		}
		answer := w.answers[0]
		w.answers = w.answers[1:]
		if err := w.engine.SendTaskSuccess(in.TaskToken, answer); err != nil {
			w.t.Error(err)
		}
	}
	return step.Question{Migration: in.Migration, Answers: migration.Answers(w.decided, in.TaskToken)}, nil
}

func (w *world) runFreeze(context.Context, step.FreezeInput, int) (step.FreezeOutput, error) {
	w.frozen = true
	byRounds, byReplay := w.strategies()
	return step.FreezeOutput{FrozenAt: w.clock.Now(), Indices: 1, ByRounds: byRounds, ByReplay: byReplay}, nil
}

func (w *world) runThaw(_ context.Context, in step.ThawInput, _ int) (step.ThawOutput, error) {
	if in.Failure == nil {
		return step.ThawOutput{}, errors.New("thaw was not told why")
	}
	w.frozen = false
	w.failures = append(w.failures, *in.Failure)
	return step.ThawOutput{State: journal.Thawed, Indices: []string{"orders"}, Error: thawError, Cause: thawCause}, nil
}

// goesOn checks that a state is told since when it has been asking: first null, then what it answered.
func (w *world) goesOn(state string, round int, since time.Time) time.Time {
	key := fmt.Sprintf("%s %d", state, round)
	if before := w.since[key]; !since.Equal(before) {
		w.t.Errorf("%s is told since %s, it answered %s", key, since, before)
	}
	if since.IsZero() {
		since = w.clock.Now()
	}
	w.since[key] = since
	return since
}

// turn waits for a state's turn as the steps do: inside the freeze in the function, for 20 seconds, and until an hour has passed
// without a Wait state. It answers how long to wait before asking again, or that it is the state's turn.
func (w *world) turn(ctx context.Context, state string, final bool, since time.Time) (now bool, waitSeconds int, err error) {
	left := since.Add(w.busy[state]).Sub(w.clock.Now())
	if final && left > 0 {
		err = asl.Sleep(ctx, w.clock, min(20*time.Second, left))
		left = since.Add(w.busy[state]).Sub(w.clock.Now())
	}
	if left <= 0 || err != nil {
		return err == nil, 0, err
	}
	return false, w.patience(final, since), nil
}

// patience is step's wait, which its own tests hold to these numbers.
func (w *world) patience(final bool, since time.Time) int {
	elapsed := w.clock.Now().Sub(since)
	if final && elapsed < time.Hour {
		return 0
	}
	return migration.NextPoll(elapsed.Seconds())
}

func (w *world) runSnapshot(ctx context.Context, in step.SnapshotInput, call int) (step.SnapshotOutput, error) {
	if in.Round == 0 { // the next one of the journal
		in.Round = len(w.rounds) + 1
	}
	out := step.SnapshotOutput{Round: in.Round, Snapshot: migration.SnapshotName(in.Migration, in.Round), Since: w.goesOn("StartSnapshot", in.Round, in.Since)}
	var err error
	if out.Accepted, out.WaitSeconds, err = w.turn(ctx, "StartSnapshot", in.Final, out.Since); err != nil {
		return out, err
	}
	out.StartedAt = w.clock.Now()
	if w.snapshot != nil {
		out = w.snapshot(call, out)
	}
	if w.unchanged {
		out.Accepted, out.Unchanged = false, true
	}
	return out, nil
}

// runPoll waits inside the freeze and answers how long to wait outside of it, as the real step does.
func (w *world) runPoll(ctx context.Context, in step.PollStatusInput, call int) (step.PollStatusOutput, error) {
	out := step.PollStatusOutput{What: in.What, Round: in.Round}
	over := in.StartedAt
	if w.takes != nil {
		over = over.Add(w.takes(in.What, in.Round))
	}
	if in.Final {
		if err := asl.Sleep(ctx, w.clock, min(20*time.Second, over.Sub(w.clock.Now()))); err != nil {
			return out, err
		}
	}
	now := w.clock.Now()
	at := site{"PollSnapshot", in.Final}
	if in.What == "restore" {
		at.state = "PollRestore"
	}
	switch {
	case !now.Before(over) && in.What == "snapshot":
		out.Done = true
		out.Snapshot = &migration.SnapshotPhase{Name: migration.SnapshotName(in.Migration, in.Round), Seconds: over.Sub(in.StartedAt).Seconds()}
	case !now.Before(over):
		out.Done, out.Restore = true, &migration.RestorePhase{Indices: 1, Seconds: over.Sub(in.StartedAt).Seconds()}
	default:
		out.WaitSeconds = w.patience(in.Final, in.StartedAt)
	}
	if w.poll != nil {
		out = w.poll(at, call, out)
	}
	return out, nil
}

func (w *world) runPlanCopy(_ context.Context, in step.PlanCopyInput, _ int) (step.PlanCopyOutput, error) {
	out := step.PlanCopyOutput{Since: w.goesOn("PlanCopy", in.Round, in.Since)}
	out.Root = s3copy.Root{Name: fmt.Sprintf("index-%d", in.Round), Generation: int64(in.Round), LastModified: w.clock.Now()}
	after := ""
	for i := range max(w.ranges, 1) {
		through := fmt.Sprintf("indices/%02d0", i)
		if i == max(w.ranges, 1)-1 {
			through = ""
		}
		out.Ranges = append(out.Ranges, s3copy.Range{After: after, Through: through})
		after = through
	}
	w.planned = append(w.planned, out)
	return out, nil
}

func (w *world) runCopy(ctx context.Context, in step.CopyInput, _ int) (step.CopyInput, error) {
	w.mu.Lock()
	w.cursors[in.Range.Through] = append(w.cursors[in.Range.Through], in.Range.After)
	w.mu.Unlock()
	if err := asl.Sleep(ctx, w.clock, w.slice); err != nil {
		return in, err
	}
	in.Copied++
	in.Bytes += 1000
	if in.Done = in.Copied >= w.slices; !in.Done {
		in.Range.After = fmt.Sprintf("%s~%d", in.Range.Through, in.Copied)
	}
	return in, nil
}

func (w *world) runPublish(_ context.Context, in step.PublishCopyInput, call int) (step.PublishCopyOutput, error) {
	planned := w.planned[len(w.planned)-1]
	if in.Root != planned.Root || !in.StartedAt.Equal(planned.Since) || len(in.Ranges) != len(planned.Ranges) {
		w.t.Errorf("PublishCopy got %+v, planned was %+v", in, planned)
	}
	out := step.PublishCopyOutput{Published: true, Copy: migration.CopyPhase{Seconds: w.clock.Now().Sub(in.StartedAt).Seconds()}}
	for i, r := range in.Ranges {
		if !r.Done || r.Range.Through != planned.Ranges[i].Through {
			w.t.Errorf("range %d came back as %+v", i, r)
		}
		out.Copy.Objects += r.Copied
	}
	if lap := w.clock.Now().Sub(in.StartedAt); lap < w.busy["PublishCopy"] {
		if out.Published = false; lap > time.Minute {
			out.WaitSeconds = migration.NextPoll(lap.Seconds())
		}
	}
	if w.publish != nil {
		out = w.publish(call, out)
	}
	return out, nil
}

func (w *world) runRestore(ctx context.Context, in step.RestoreInput, call int) (step.RestoreOutput, error) {
	out := step.RestoreOutput{Since: w.goesOn("StartRestore", in.Round, in.Since), Indices: 1}
	var err error
	if out.Accepted, out.WaitSeconds, err = w.turn(ctx, "StartRestore", in.Final, out.Since); err != nil {
		return out, err
	}
	out.StartedAt = w.clock.Now()
	if w.restore != nil {
		out = w.restore(call, out)
	}
	return out, nil
}

func (w *world) runRecord(_ context.Context, in step.RecordRoundInput, _ int) (migration.Round, error) {
	r := migration.Round{
		Number: in.Round, Final: in.Final, Execution: in.Execution, StartedAt: in.StartedAt, FinishedAt: w.clock.Now(),
		Snapshot: in.Snapshot, Copy: in.Copy, Restore: in.Restore,
	}
	name, objects, indices := migration.SnapshotName(in.Migration, in.Round), r.Copy.Objects > 0, 1
	if w.unchanged {
		name, objects, indices = "", true, 0
	}
	if r.Snapshot.Name != name || !objects || r.Restore.Indices != indices || r.StartedAt.IsZero() {
		w.t.Errorf("RecordRound got %+v", in)
	}
	w.rounds = append(w.rounds, r)
	return r, nil
}

func (w *world) script(pass int) passScript {
	if w.pass == nil {
		return passScript{slices: 1, calls: 1}
	}
	return w.pass(pass)
}

func (w *world) runPlanReplay(_ context.Context, in step.ReplayInput, _ int) (step.PlanReplayOutput, error) {
	if in.Pass != 0 || in.Migration == "" || in.Execution == "" {
		w.t.Errorf("PlanReplay got %+v", in)
	}
	out := step.PlanReplayOutput{Pass: len(w.passes) + 1, StartedAt: w.clock.Now(), Slices: []int{}, Deletes: []int{}, Dropped: []string{}}
	script := w.script(out.Pass)
	if script.small && script.parts > 0 {
		out.Brought, out.Deletes = true, numbers(script.parts)
		return out, nil
	}
	if script.small {
		record := migration.Pass{Number: out.Pass, Final: in.Final, Execution: in.Execution, StartedAt: out.StartedAt, FinishedAt: out.StartedAt}
		w.passes = append(w.passes, record)
		out.Done, out.Record = true, &record
		return out, nil
	}
	for i := range script.slices {
		out.Slices = append(out.Slices, i+1)
	}
	return out, nil
}

// present checks that a step is told the pass that was planned.
func (w *world) present(state string, in step.ReplayInput) passScript {
	if in.Pass != len(w.passes)+1 || in.Migration != "orders" || in.Execution == "" {
		w.t.Errorf("%s got %+v after %d passes", state, in, len(w.passes))
	}
	return w.script(in.Pass)
}

func (w *world) runReplaySlice(ctx context.Context, in step.ReplaySlice, _ int) (step.ReplaySlice, error) {
	script := w.present("ReplaySlice", in.ReplayInput)
	rest := "all"
	for _, r := range in.Rest {
		rest = fmt.Sprintf("%s/%d %d..%d", r.Index, r.Shard, r.From, r.Upto)
	}
	if (in.Call == 0) != (in.Rest == nil) || in.StartedAt.IsZero() {
		w.t.Errorf("ReplaySlice got %+v", in)
	}
	key := fmt.Sprintf("%d/%d", in.Pass, in.Slice)
	w.mu.Lock()
	w.reads[key] = append(w.reads[key], rest)
	w.mu.Unlock()
	if err := asl.Sleep(ctx, w.clock, w.call); err != nil {
		return in, err
	}
	in.Call++
	in.Documents += 10
	in.Bytes += 1000
	if in.Done, in.Rest = in.Call >= script.calls, []replay.Range{}; !in.Done {
		in.Rest = []replay.Range{{Index: "orders", Shard: in.Slice, From: int64(in.Call), Upto: int64(script.calls)}}
	}
	return in, nil
}

// finished checks that a step is given every slice of the pass, as its last call left it.
func (w *world) finished(state string, slices []step.ReplaySlice, script passScript) {
	ok := len(slices) == script.slices && slices != nil
	for i, x := range slices {
		ok = ok && x.Done && x.Slice == i+1 && x.Call == script.calls && x.Documents == int64(10*script.calls)
	}
	if !ok {
		w.t.Errorf("%s got %d slices, want %+v: %+v", state, len(slices), script, slices)
	}
}

func (w *world) runReconcileDeletes(ctx context.Context, in step.ReconcileDeletesInput, _ int) (step.ReconcileDeletesOutput, error) {
	script := w.present("ReconcileDeletes", in.ReplayInput)
	w.finished("ReconcileDeletes", in.Slices, script)
	if err := asl.Sleep(ctx, w.clock, w.call); err != nil {
		return step.ReconcileDeletesOutput{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[in.Pass]++
	return step.ReconcileDeletesOutput{Done: script.parts == 0, Parts: numbers(script.parts), Deleted: 3}, nil
}

func (w *world) runDeletePart(ctx context.Context, in step.ReconcileDeletesInput, _ int) (step.ReconcileDeletesOutput, error) {
	script := w.present("DeletePart", in.ReplayInput)
	if *in.Part < 0 || *in.Part >= script.parts || in.Slices != nil {
		w.t.Errorf("DeletePart got %+v of %+v", in, script)
	}
	if err := asl.Sleep(ctx, w.clock, w.call); err != nil {
		return step.ReconcileDeletesOutput{}, err
	}
	key := fmt.Sprintf("%d/%d", in.Pass, *in.Part)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[in.Pass]++
	w.parts[key]++
	return step.ReconcileDeletesOutput{Done: w.parts[key] >= script.deletes, Parts: []int{}, Deleted: 3}, nil
}

func numbers(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

func (w *world) runRecordPass(_ context.Context, in step.RecordPassInput, _ int) (migration.Pass, error) {
	script := w.present("RecordPass", in.ReplayInput)
	p := migration.Pass{
		Number: in.Pass, Final: in.Final, Execution: in.Execution, StartedAt: in.StartedAt, FinishedAt: w.clock.Now(), Deleted: int64(3 * w.asked[in.Pass]),
		Documents: int64(10 * script.slices * script.calls), Seconds: w.clock.Now().Sub(in.StartedAt).Seconds(),
	}
	if w.asked[in.Pass] != script.deletions() || p.StartedAt.IsZero() {
		w.t.Errorf("RecordPass got %+v", in)
	}
	w.passes = append(w.passes, p)
	return p, nil
}

// input is a whole input document; extra fields come first.
func input(extra string) string {
	side := func(region, name string) string {
		return fmt.Sprintf(`{"domainArn":"arn:aws:es:%[1]s:111122223333:domain/%[2]s","endpoint":"https://search-%[2]s.%[1]s.es.amazonaws.com",
			"repository":{"bucket":"%[2]s-snapshots","basePath":"%[2]s","region":"%[1]s","roleArn":"arn:aws:iam::111122223333:role/snapshots"}}`, region, name)
	}
	if extra != "" {
		extra += ","
	}
	if !strings.Contains(extra, "downtimeWindow") {
		extra += `"downtimeWindow":"10m",`
	}
	return `{` + extra + `"migration":"orders","source":` + side("eu-west-1", "legacy") + `,"destination":` + side("eu-central-1", "modern") +
		`,"indices":{"include":["orders-*"]}}`
}

func (w *world) start(machine, input string) *asl.Execution {
	w.t.Helper()
	x, err := w.engine.Start(w.engine.ARN(machine), "", input)
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

func (w *world) end(x *asl.Execution) asl.Description {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	d, err := x.Wait(ctx)
	if err != nil {
		w.t.Fatalf("%v; at %s", err, w.clock.Now())
	}
	w.clock.WaitIdle()
	return d
}

func (w *world) run(machine, input string) (*asl.Execution, asl.Description) {
	w.t.Helper()
	x := w.start(machine, input)
	return x, w.end(x)
}

// branchOf says in which branch of a Parallel state ("Warm 1") a state of the migration machine is.
var branchOf = sync.OnceValues(func() (map[string]string, error) {
	var m machine
	if err := json.Unmarshal([]byte(definitions[names.MigrationMachine]), &m); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, s := range m.States {
		for i, b := range s.Branches {
			b.each(func(state string, _ state) { out[state] = fmt.Sprintf("%s %d", name, i) })
		}
	}
	return out, nil
})

// branch lists the states that an execution entered in a branch of a Parallel state, "" being none. Branches run side by side: there
// is an order within each, not between them.
func (w *world) branch(x *asl.Execution, which string) string {
	of := map[string]string{}
	if x.StateMachineARN == w.engine.ARN(names.MigrationMachine) {
		var err error
		if of, err = branchOf(); err != nil {
			w.t.Fatal(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(slices.DeleteFunc(slices.Clone(w.entered[x]), func(state string) bool { return of[state] != which }), " ")
}

// trace lists the states that an execution entered outside of branches.
func (w *world) trace(x *asl.Execution) string { return w.branch(x, "") }

// branches are those of both Parallel states.
func (w *world) branches(x *asl.Execution) (out [4]string) {
	for i, which := range []string{"Warm 0", "Warm 1", "MoveLastDelta 0", "MoveLastDelta 1"} {
		out[i] = w.branch(x, which)
	}
	return out
}

// traces lists those of every execution of a machine, the oldest first; "round/Copy" means the children of the Copy map.
func (w *world) traces(machine string) []string {
	arn := w.engine.ARN(machine)
	var out []string
	for _, x := range w.order {
		if x.StateMachineARN == arn {
			out = append(out, w.trace(x))
		}
	}
	return out
}

func (w *world) elapsed() time.Duration { return w.clock.Now().Sub(w.started) }

func words(s string) string { return strings.Join(strings.Fields(s), " ") }

const (
	snapshotStates = "Begin StartSnapshot SnapshotStarted PollSnapshot SnapshotDone "
	copyStates     = "PlanCopy Copy PublishCopy CopyPublished "
	restoreStates  = "StartRestore RestoreStarted PollRestore RestoreDone RecordRound"
	roundStates    = snapshotStates + copyStates + restoreStates
	cutOverStates  = "Freeze MoveLastDelta Verify Verdict Finish HandedOver Migrated"
	warmStates     = "Warm Decide WhatNext "
	oneCall        = "ReplaySlice SliceDone SliceReplayed"
	smallPass      = "Begin PlanReplay SmallPass PassOver"
	passStates     = "Begin PlanReplay SmallPass Replay ReconcileDeletes DeletesDone RecordPass"
)

var (
	warmAgain = migration.Decision{Action: migration.WarmAgain, Reason: "again"}
	ask       = migration.Decision{Action: migration.AskFirst, Reason: "it does not fit"}
	approval  = migration.Decision{Action: migration.AskApproval, Reason: "it fits"}
	cutOver   = migration.Decision{Action: migration.CutOverNow, Reason: "fits"}
)

func TestPaths(t *testing.T) {
	for _, c := range []struct {
		name     string
		machine  string // default migration
		input    string // default: mode migrate
		script   func(*world)
		want     string     // states of the execution
		rounds   []string   // of its rounds; nil means not looked at
		ranges   []string   // of the children of all Copy maps, sorted; nil means not looked at
		passes   []string   // of its replays; nil: there is none
		slices   []string   // of the children of all Replay maps; nil: there is none
		deletes  []string   // of the children of all Deletes maps; nil: there is none
		branches *[4]string // of Warm, then of MoveLastDelta; nil: rounds alone, as often as the states say
		status   asl.Status
		err      string
		cause    string
		took     time.Duration // without it: not looked at
		atOnce   bool          // no time passes
		alsoTrue func(t *testing.T, w *world, d asl.Description)
	}{
		{
			name: "three warm rounds and the cut-over, decided by the rounds' durations",
			script: func(w *world) {
				w.takes = func(what string, round int) time.Duration {
					if what == "snapshot" {
						return 0
					}
					return []time.Duration{400 * time.Hour, 40 * time.Minute, 20 * time.Minute, 7 * time.Minute, 6 * time.Minute}[round]
				}
			},
			want: "Preflight AssessOnly Register " + warmStates + warmStates + warmStates + cutOverStates,
			alsoTrue: func(t *testing.T, w *world, d asl.Description) {
				finals := []bool{}
				for _, r := range w.rounds {
					finals = append(finals, r.Final)
				}
				if !slices.Equal(finals, []bool{false, false, false, true}) || w.rounds[3].Number != 4 {
					t.Errorf("rounds %+v", w.rounds)
				}
				traces := w.traces(names.RoundMachine)
				for i, trace := range traces {
					if got, want := strings.Contains(trace, "Wait"), i < 3; got != want {
						t.Errorf("round %d entered %s", i+1, trace)
					}
				}
				polls := strings.Repeat(" PollRestore RestoreDone", 18)
				if want := snapshotStates + copyStates + "StartRestore RestoreStarted" + polls + " RecordRound"; traces[3] != want {
					t.Errorf("the final round of 6 minutes entered\n%s, want long polls of 20 seconds:\n%s", traces[3], want)
				}
				var out step.FinishOutput
				if err := json.Unmarshal([]byte(d.Output), &out); err != nil || out.Verdict != migration.Verified || out.Rounds != 4 {
					t.Errorf("output %s, %v", d.Output, err)
				}
			},
		},
		{
			name:   "nothing to wait for",
			script: func(w *world) { w.decisions = []migration.Decision{warmAgain, warmAgain, cutOver} },
			want:   "Preflight AssessOnly Register " + warmStates + warmStates + warmStates + cutOverStates,
			rounds: []string{roundStates, roundStates, roundStates, roundStates}, atOnce: true,
		},
		{
			name: "after the hand-over the execution waits as long as Finish asks for",
			script: func(w *world) {
				w.decisions, w.afterwards = []migration.Decision{cutOver}, []int{2, 600, 60}
			},
			want:   "Preflight AssessOnly Register " + warmStates + strings.Replace(cutOverStates, "Migrated", strings.Repeat("WaitForCopies Finish HandedOver ", 3)+"Migrated", 1),
			rounds: []string{roundStates, roundStates}, took: 662 * time.Second,
		},
		{name: "assess", input: input(`"mode":"assess"`), want: "Preflight AssessOnly Assessed", rounds: []string{}, atOnce: true,
			alsoTrue: func(t *testing.T, _ *world, d asl.Description) {
				var out step.PreflightOutput
				if err := json.Unmarshal([]byte(d.Output), &out); err != nil || out.Spec.Rounds.Maximum != 20 {
					t.Errorf("the output does not show the input with its defaults: %s, %v", d.Output, err)
				}
			}},
		{name: "warm", input: input(`"mode":"warm","rounds":{"minimum":3}`),
			want: "Preflight AssessOnly Register " + warmStates + warmStates + warmStates + "Warmed", rounds: []string{roundStates, roundStates, roundStates}},
		{
			name: "pause between rounds", input: input(`"mode":"warm","rounds":{"minimum":3,"pause":"36h"}`),
			want: "Preflight AssessOnly Register " + warmStates + "Wait " + warmStates + "Wait " + warmStates + "Warmed", took: 72 * time.Hour,
		},
		{
			name: "never fits", script: func(w *world) {
				w.takes = func(string, int) time.Duration { return time.Hour }
			},
			want:   "Preflight AssessOnly Register " + strings.Repeat(warmStates, 4) + "NeverFits",
			status: asl.Failed, err: string(fault.NeverFits), cause: "predicted write downtime 7200.",
			alsoTrue: func(t *testing.T, w *world, d asl.Description) {
				if want := migration.Decide(w.spec, d.ExecutionARN, 1, migration.History{Rounds: w.rounds}).Reason; d.Cause != want {
					t.Errorf("cause %q, want the decision's reason %q", d.Cause, want)
				}
			},
		},
		{
			name: "asked, and cut over all the same", script: func(w *world) {
				w.decisions, w.answers = []migration.Decision{ask}, []string{`{"action":"cutover"}`}
			},
			want: "Preflight AssessOnly Register " + warmStates + "Ask Answered " + cutOverStates, atOnce: true,
		},
		{
			name: "asked, and told to go on: limits count from then on", script: func(w *world) {
				w.decisions, w.answers, w.thinks = []migration.Decision{ask, ask, cutOver}, []string{`{"action":"warm"}`, `{"action":"warm"}`}, time.Hour
			},
			want: "Preflight AssessOnly Register " + strings.Repeat(warmStates+"Ask Answered ", 2) + warmStates + cutOverStates, took: 2 * time.Hour,
			alsoTrue: func(t *testing.T, w *world, _ asl.Description) {
				for i, want := range []time.Time{{}, w.started.Add(time.Hour), w.started.Add(2 * time.Hour)} {
					if got := w.deciders[i].Since; !got.Equal(want) {
						t.Errorf("decision %d counts from %s, want %s", i+1, got, want)
					}
				}
				if w.asking[1].Answer != "" || w.asking[1].TaskToken == w.asking[0].TaskToken {
					t.Errorf("asked %+v", w.asking)
				}
			},
		},
		{
			name: "asked, and told to stop", script: func(w *world) {
				w.decisions, w.answers = []migration.Decision{ask}, []string{`{"action":"stop"}`}
			},
			want: "Preflight AssessOnly Register " + warmStates + "Ask Answered NeverFits", status: asl.Failed, err: string(fault.NeverFits), cause: "it does not fit", atOnce: true,
		},
		{
			name: "asked, and nobody answers for a week", script: func(w *world) { w.decisions = []migration.Decision{ask} },
			want:   "Preflight AssessOnly Register " + warmStates + "Ask NeverFits",
			status: asl.Failed, err: string(fault.NeverFits), cause: "it does not fit", took: 7 * 24 * time.Hour,
		},
		{
			name: "asked, and answered with what is no answer: asked again", script: func(w *world) {
				w.decisions = []migration.Decision{ask}
				w.answers = []string{`{"action":"cut-over"}`, `{}`, `null`, `"cutover"`, `["cutover"]`, `{"action":["cutover"]}`, `{"action":"cutover"}`}
			},
			want: "Preflight AssessOnly Register " + warmStates + strings.Repeat("Ask Answered ", 7) + cutOverStates, atOnce: true,
			alsoTrue: func(t *testing.T, w *world, _ asl.Description) {
				for i, want := range []string{"", "cut-over", "an answer without an action"} {
					if got := w.asking[i].Answer; got != want {
						t.Errorf("question %d is told of the answer %q, want %q", i+1, got, want)
					}
				}
			},
		},
		{
			name: "approved: one more round, and the cut-over", script: func(w *world) {
				w.decisions, w.answers = []migration.Decision{approval, cutOver}, []string{`{"action":"approve"}`}
			},
			want: "Preflight AssessOnly Register " + warmStates + "Approve Approved " + warmStates + cutOverStates, atOnce: true,
			alsoTrue: func(t *testing.T, w *world, _ asl.Description) {
				if w.deciders[0].Approved || !w.deciders[1].Approved {
					t.Errorf("decided %+v", w.deciders)
				}
			},
		},
		{
			name: "declined", script: func(w *world) {
				w.decisions, w.answers = []migration.Decision{approval}, []string{`{"action":"decline"}`}
			},
			want:   "Preflight AssessOnly Register " + warmStates + "Approve Approved NotApproved",
			status: asl.Failed, err: string(fault.NotApproved), cause: "decline", atOnce: true,
		},
		{
			name: "nobody approves in time", script: func(w *world) { w.decisions = []migration.Decision{approval} },
			want:   "Preflight AssessOnly Register " + warmStates + "Approve NotApproved",
			status: asl.Failed, err: string(fault.NotApproved), cause: "no answer in time", took: time.Hour,
		},
		{
			name: "an approval needs its own word", script: func(w *world) {
				w.decisions, w.answers = []migration.Decision{approval}, []string{`{"action":"cutover"}`, `{"action":"decline"}`}
			},
			want:   "Preflight AssessOnly Register " + warmStates + "Approve Approved Approve Approved NotApproved",
			status: asl.Failed, err: string(fault.NotApproved), atOnce: true,
		},
		{name: "input that is no migration", input: `{"migration":"orders","sauce":1}`, want: "Preflight",
			status: asl.Failed, err: string(fault.InvalidInput), cause: "$.sauce", rounds: []string{}},
		{
			name: "a round alone takes the journal's next number", machine: names.RoundMachine, input: `{"migration":"orders"}`,
			script: func(w *world) { w.rounds = make([]migration.Round, 6) }, want: roundStates,
			alsoTrue: func(t *testing.T, w *world, _ asl.Description) {
				if got := w.rounds[6]; got.Number != 7 || got.Final || got.Execution != "" {
					t.Errorf("recorded %+v", got)
				}
			},
		},
		{
			name: "the slot is busy twice", machine: names.RoundMachine, input: `{"migration":"orders","round":1}`,
			script: func(w *world) {
				w.snapshot = func(call int, out step.SnapshotOutput) step.SnapshotOutput {
					if call < 3 {
						out.Accepted, out.Waiting, out.WaitSeconds = false, "cs-automated/hourly", 5
					}
					return out
				}
			},
			want: "Begin StartSnapshot SnapshotStarted WaitForSlot StartSnapshot SnapshotStarted WaitForSlot StartSnapshot SnapshotStarted PollSnapshot SnapshotDone " +
				copyStates + restoreStates, took: 10 * time.Second,
		},
		{
			name: "nothing has changed", machine: names.RoundMachine, input: `{"migration":"orders","round":1}`,
			script: func(w *world) { w.unchanged = true },
			want:   "Begin StartSnapshot SnapshotStarted RecordRound", atOnce: true,
		},
		{
			name: "nothing has changed, in the final round", machine: names.RoundMachine, input: `{"migration":"orders","round":1,"final":true}`,
			script: func(w *world) { w.unchanged = true },
			want:   "Begin StartSnapshot SnapshotStarted RecordRound", atOnce: true,
		},
		{
			name: "the snapshot is gone and started again", machine: names.RoundMachine, input: `{"migration":"orders","round":1}`,
			script: func(w *world) {
				w.poll = func(at site, call int, out step.PollStatusOutput) step.PollStatusOutput {
					if at.state == "PollSnapshot" && call == 1 {
						return step.PollStatusOutput{What: out.What, Round: out.Round, StartAgain: true}
					}
					return out
				}
			},
			want: snapshotStates + "SnapshotVanished StartSnapshot SnapshotStarted PollSnapshot SnapshotDone " + copyStates + restoreStates, took: time.Second,
		},
		{
			name: "not published, planned again", machine: names.RoundMachine, input: `{"migration":"orders","round":1}`,
			script: func(w *world) {
				w.ranges = 3
				w.publish = func(call int, out step.PublishCopyOutput) step.PublishCopyOutput {
					out.Published = call > 1
					return out
				}
			},
			want:   snapshotStates + copyStates + copyStates + restoreStates,
			ranges: slices.Repeat([]string{"CopyRange RangeDone RangeCopied"}, 6), atOnce: true,
		},
		{
			name: "not published for a while: planned again, later each time", machine: names.RoundMachine, input: `{"migration":"orders","round":1}`,
			script: func(w *world) {
				w.slice, w.busy = 50*time.Second, map[string]time.Duration{"PublishCopy": 3 * time.Minute}
			},
			// At 50 s at once, at 100 s after 10 s, at 160 s after 16 s; published at 226 s.
			want: snapshotStates + copyStates + copyStates + "WaitToCopyAgain " + copyStates + "WaitToCopyAgain " + copyStates + restoreStates,
			took: 226 * time.Second,
			alsoTrue: func(t *testing.T, w *world, _ asl.Description) {
				if got := w.rounds[0].Copy.Seconds; got != 226 {
					t.Errorf("the copy is said to have taken %g s", got)
				}
			},
		},
		{
			name: "the slot is busy for a minute: asked again, later each time", machine: names.RoundMachine, input: `{"migration":"orders","round":1}`,
			script: func(w *world) { w.busy = map[string]time.Duration{"StartSnapshot": time.Minute} },
			want: "Begin " + strings.Repeat("StartSnapshot SnapshotStarted WaitForSlot ", 33) + "StartSnapshot SnapshotStarted PollSnapshot SnapshotDone " +
				copyStates + restoreStates, took: time.Minute, // 20 waits of 1 s, 5 of 2, 4 of 3, 2 of 4, 2 of 5
		},
		{
			name: "the destination holds the index, later the restore is cut off", machine: names.RoundMachine, input: `{"migration":"orders","round":1}`,
			script: func(w *world) {
				w.restore = func(call int, out step.RestoreOutput) step.RestoreOutput {
					if call == 1 {
						out.Accepted, out.Waiting, out.WaitSeconds = false, "cs-automated holds orders", 2
					}
					return out
				}
				w.poll = func(at site, call int, out step.PollStatusOutput) step.PollStatusOutput {
					switch {
					case at.state == "PollRestore" && call == 1:
						return step.PollStatusOutput{WaitSeconds: 7}
					case at.state == "PollRestore" && call == 2:
						return step.PollStatusOutput{StartAgain: true}
					}
					return out
				}
			},
			want: snapshotStates + copyStates + "StartRestore RestoreStarted WaitToRestore StartRestore RestoreStarted PollRestore RestoreDone WaitForRestore " +
				"PollRestore RestoreDone RestoreInterrupted " + restoreStates, took: 10 * time.Second,
		},
		{
			name: "ranges that take several invocations", machine: names.RoundMachine, input: `{"migration":"orders","round":1}`,
			script: func(w *world) { w.ranges, w.slices, w.slice = 14, 3, 10*time.Minute },
			want:   roundStates, took: time.Hour, // 14 ranges, 12 at a time
			ranges: slices.Repeat([]string{"CopyRange RangeDone CopyRange RangeDone CopyRange RangeDone RangeCopied"}, 14),
			alsoTrue: func(t *testing.T, w *world, _ asl.Description) {
				if got, want := w.cursors["indices/050"], []string{"indices/040", "indices/050~1", "indices/050~2"}; !slices.Equal(got, want) {
					t.Errorf("cursors %v, want %v", got, want)
				}
				if got := w.rounds[0].Copy.Objects; got != 14*3 {
					t.Errorf("%d objects recorded", got)
				}
			},
		},
		{
			name: "inside the freeze everything goes round without Wait states", machine: names.RoundMachine,
			input: `{"migration":"orders","round":3,"final":true,"execution":"arn:x"}`,
			script: func(w *world) {
				w.takes = func(string, int) time.Duration { return 50 * time.Second }
				w.busy = map[string]time.Duration{"StartSnapshot": 45 * time.Second, "StartRestore": 45 * time.Second}
			},
			want: "Begin " + strings.Repeat("StartSnapshot SnapshotStarted ", 3) + strings.Repeat("PollSnapshot SnapshotDone ", 3) + copyStates +
				strings.Repeat("StartRestore RestoreStarted ", 3) + strings.Repeat("PollRestore RestoreDone ", 3) + "RecordRound", took: 190 * time.Second,
		},
		{
			name: "replay from the second decision on, its last pass beside the final round",
			script: func(w *world) {
				w.decisions = []migration.Decision{warmAgain, warmAgain, warmAgain, cutOver}
				w.strategy = func(decision int) (bool, bool) { return true, decision >= 2 }
			},
			want:   "Preflight AssessOnly Register " + strings.Repeat(warmStates, 4) + cutOverStates,
			rounds: slices.Repeat([]string{roundStates}, 5), passes: slices.Repeat([]string{passStates}, 3),
			slices: slices.Repeat([]string{oneCall}, 3), atOnce: true,
			branches: &[4]string{strings.Repeat("RoundNeeded Round ", 4), "ReplayNeeded NoReplay ReplayNeeded NoReplay ReplayNeeded Replay ReplayNeeded Replay",
				"FinalRoundNeeded FinalRound", "FinalReplayNeeded FinalReplay"},
			alsoTrue: func(t *testing.T, w *world, d asl.Description) {
				for i, p := range w.passes {
					if p.Number != i+1 || p.Final != (i == 2) || p.Execution != d.ExecutionARN || p.Documents != 10 || p.Deleted != 3 {
						t.Errorf("pass %d is %+v", i+1, p)
					}
				}
				if last := w.rounds[4]; last.Number != 5 || !last.Final {
					t.Errorf("last round %+v", last)
				}
			},
		},
		{
			name: "rounds and replay run side by side",
			script: func(w *world) {
				w.decisions = []migration.Decision{cutOver}
				w.strategy = func(int) (bool, bool) { return true, true }
				w.takes = func(what string, _ int) time.Duration {
					return map[bool]time.Duration{true: 5 * time.Minute}[what == "restore"]
				}
				w.call = 2 * time.Minute
			},
			want:   "Preflight AssessOnly Register " + warmStates + cutOverStates,
			passes: []string{passStates, passStates}, slices: []string{oneCall, oneCall},
			branches: &[4]string{"RoundNeeded Round", "ReplayNeeded Replay", "FinalRoundNeeded FinalRound", "FinalReplayNeeded FinalReplay"},
			alsoTrue: func(t *testing.T, w *world, _ asl.Description) {
				// A warm round waits in steps; the final one and both passes are exact.
				if final := w.rounds[1]; final.FinishedAt.Sub(w.passes[1].StartedAt) != 5*time.Minute || w.passes[1].Seconds != 240 {
					t.Errorf("final round %+v, last pass %+v", final, w.passes[1])
				}
				if w.elapsed() > 11*time.Minute {
					t.Errorf("it took %s: one after the other", w.elapsed())
				}
			},
		},
		{
			name: "replay alone",
			script: func(w *world) {
				w.decisions = []migration.Decision{warmAgain, warmAgain, cutOver}
				w.strategy = func(decision int) (bool, bool) { return decision == 0, decision > 0 }
			},
			want:   "Preflight AssessOnly Register " + strings.Repeat(warmStates, 3) + cutOverStates,
			rounds: []string{roundStates}, passes: slices.Repeat([]string{passStates}, 3), slices: slices.Repeat([]string{oneCall}, 3), atOnce: true,
			branches: &[4]string{"RoundNeeded Round RoundNeeded NoRound RoundNeeded NoRound", "ReplayNeeded NoReplay ReplayNeeded Replay ReplayNeeded Replay",
				"FinalRoundNeeded NoFinalRound", "FinalReplayNeeded FinalReplay"},
		},
		{
			name: "going back: no repository, no round", input: input(`"mode":"goBack"`),
			script: func(w *world) {
				w.decisions = []migration.Decision{warmAgain, cutOver}
				w.strategy = func(int) (bool, bool) { return false, true }
			},
			want:   "Preflight AssessOnly " + strings.Repeat(warmStates, 2) + cutOverStates,
			rounds: []string{}, passes: slices.Repeat([]string{passStates}, 3), slices: slices.Repeat([]string{oneCall}, 3), atOnce: true,
			branches: &[4]string{"RoundNeeded NoRound RoundNeeded NoRound", "ReplayNeeded Replay ReplayNeeded Replay", "FinalRoundNeeded NoFinalRound", "FinalReplayNeeded FinalReplay"},
		},
		{
			name: "an index goes back to rounds", input: input(`"mode":"warm"`),
			script: func(w *world) {
				w.decisions = []migration.Decision{warmAgain, warmAgain, {Action: migration.Done}}
				w.strategy = func(decision int) (bool, bool) { return decision != 1, decision == 1 }
			},
			want:   "Preflight AssessOnly Register " + strings.Repeat(warmStates, 3) + "Warmed",
			rounds: []string{roundStates, roundStates}, passes: []string{passStates}, slices: []string{oneCall},
			branches: &[4]string{"RoundNeeded Round RoundNeeded NoRound RoundNeeded Round", "ReplayNeeded NoReplay ReplayNeeded Replay ReplayNeeded NoReplay", "", ""},
		},
		{
			name: "slices and deletes that take several calls", machine: names.ReplayMachine, input: `{"migration":"orders","final":true,"execution":"arn:x"}`,
			script: func(w *world) {
				w.pass = func(int) passScript { return passScript{slices: 10, calls: 3, parts: 9, deletes: 2} }
				w.call = 10 * time.Minute
			},
			want:     "Begin PlanReplay SmallPass Replay ReconcileDeletes DeletesDone Deletes RecordPass",
			passes:   []string{"Begin PlanReplay SmallPass Replay ReconcileDeletes DeletesDone Deletes RecordPass"},
			slices:   slices.Repeat([]string{"ReplaySlice SliceDone ReplaySlice SliceDone ReplaySlice SliceDone SliceReplayed"}, 10),
			deletes:  slices.Repeat([]string{"DeletePart PartDone DeletePart PartDone PartDeleted"}, 9),
			took:     110 * time.Minute, // 10 slices of 3 calls and 9 parts of 2, 8 at a time, and the call between them
			branches: &[4]string{},
			alsoTrue: func(t *testing.T, w *world, _ asl.Description) {
				if got, want := w.reads["1/7"], []string{"all", "orders/7 1..3", "orders/7 2..3"}; !slices.Equal(got, want) {
					t.Errorf("slice 7 was given %v, want %v", got, want)
				}
				if p := w.passes[0]; p.Documents != 300 || p.Deleted != 57 || !p.Final || p.Execution != "arn:x" || p.Seconds != 6600 {
					t.Errorf("pass %+v", p)
				}
			},
		},
		{
			name: "a small pass is over with its plan", machine: names.ReplayMachine, input: `{"migration":"orders","final":true,"execution":"arn:x"}`,
			script: func(w *world) { w.pass = func(int) passScript { return passScript{small: true} } },
			want:   smallPass, passes: []string{smallPass}, atOnce: true, branches: &[4]string{},
			alsoTrue: func(t *testing.T, w *world, d asl.Description) {
				if p := w.passes[0]; !p.Final || !strings.Contains(d.Output, `"number":1`) || w.elapsed() != 0 {
					t.Errorf("%+v, output %s after %s", p, d.Output, w.elapsed())
				}
			},
		},
		{
			name: "a small pass with deletions in many shards", machine: names.ReplayMachine, input: `{"migration":"orders","final":true,"execution":"arn:x"}`,
			script: func(w *world) { w.pass = func(int) passScript { return passScript{small: true, parts: 2, deletes: 1} } },
			want:   "Begin PlanReplay SmallPass Deletes RecordPass", passes: []string{"Begin PlanReplay SmallPass Deletes RecordPass"},
			deletes: slices.Repeat([]string{"DeletePart PartDone PartDeleted"}, 2), atOnce: true, branches: &[4]string{},
			alsoTrue: func(t *testing.T, w *world, _ asl.Description) {
				if p := w.passes[0]; !p.Final || p.Deleted != 6 || !maps.Equal(w.parts, map[string]int{"1/0": 1, "1/1": 1}) {
					t.Errorf("%+v, parts %v", p, w.parts)
				}
			},
		},
		{
			name: "an empty pass", machine: names.ReplayMachine, input: `{"migration":"orders","final":false,"execution":"arn:x"}`,
			script: func(w *world) { w.pass = func(int) passScript { return passScript{} } },
			want:   passStates, passes: []string{passStates}, atOnce: true, branches: &[4]string{},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.script != nil {
				c.script(w)
			}
			x, d := w.run(cmp.Or(c.machine, names.MigrationMachine), cmp.Or(c.input, input("")))
			if d.Status != cmp.Or(c.status, asl.Succeeded) || d.Error != c.err || !strings.Contains(d.Cause, c.cause) {
				t.Errorf("got %s %s: %s", d.Status, d.Error, d.Cause)
			}
			if got := w.trace(x); got != words(c.want) {
				t.Errorf("states\n got %s\nwant %s", got, words(c.want))
			}
			if got := w.traces(names.RoundMachine); c.rounds != nil && !slices.Equal(got, c.rounds) {
				t.Errorf("rounds\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(c.rounds, "\n     "))
			}
			branches := c.branches
			if branches == nil {
				warm, final := strings.Count(words(c.want), "Warm "), strings.Count(c.want, "MoveLastDelta")
				branches = &[4]string{strings.Repeat("RoundNeeded Round ", warm), strings.Repeat("ReplayNeeded NoReplay ", warm),
					strings.Repeat("FinalRoundNeeded FinalRound", final), strings.Repeat("FinalReplayNeeded NoFinalReplay", final)}
			}
			for i, got := range w.branches(x) {
				if got != words(branches[i]) {
					t.Errorf("branch %d\n got %s\nwant %s", i, got, words(branches[i]))
				}
			}
			if got := w.traces(names.ReplayMachine); !slices.Equal(got, c.passes) {
				t.Errorf("passes\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(c.passes, "\n     "))
			}
			if got := w.traces(names.ReplayMachine + "/Replay"); !slices.Equal(got, c.slices) {
				t.Errorf("slices\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(c.slices, "\n     "))
			}
			if got := w.traces(names.ReplayMachine + "/Deletes"); !slices.Equal(got, c.deletes) {
				t.Errorf("parts of deletions\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(c.deletes, "\n     "))
			}
			if got := w.traces(names.RoundMachine + "/Copy"); c.ranges != nil && !slices.Equal(got, c.ranges) {
				t.Errorf("ranges\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(c.ranges, "\n     "))
			}
			if (c.atOnce || c.took > 0) && w.elapsed() != c.took {
				t.Errorf("it took %s, want %s", w.elapsed(), c.took)
			}
			if w.frozen {
				t.Error("writes are still stopped")
			}
			if c.alsoTrue != nil && !t.Failed() {
				c.alsoTrue(t, w, d)
			}
		})
	}
}

// sites lists the Lambda tasks of all machines by what an error there leads to: before the freeze a failed execution, inside it
// a thaw. The states of a round and of a pass are in both.
func sites(t *testing.T) (warm, frozen []site) {
	t.Helper()
	parse(t, definitions[names.MigrationMachine]).each(func(name string, s state) {
		switch {
		case s.Resource != lambdaTask || name == "Thaw":
		case len(s.Catch) > 0:
			frozen = append(frozen, site{name, false})
		default:
			warm = append(warm, site{name, false})
		}
	})
	for _, child := range []string{names.RoundMachine, names.ReplayMachine} {
		parse(t, definitions[child]).each(func(name string, s state) {
			if s.Resource == lambdaTask {
				name = name[strings.LastIndex(name, "/")+1:]
				warm, frozen = append(warm, site{name, false}), append(frozen, site{name, true})
			}
		})
	}
	if len(warm) < 15 || len(frozen) < 15 {
		t.Fatalf("warm %v, frozen %v", warm, frozen)
	}
	return warm, frozen
}

// short is a migration of one warm round and the cut-over, with a pass beside each round.
func short(t *testing.T) *world {
	w := newWorld(t)
	w.decisions = []migration.Decision{cutOver}
	w.strategy = func(int) (bool, bool) { return true, true }
	w.pass = func(int) passScript { return passScript{slices: 1, calls: 1, parts: 1, deletes: 1} }
	return w
}

// machineOf says whether a round or a pass has the state.
func machineOf(t *testing.T, name string) string {
	found := names.RoundMachine
	parse(t, definitions[names.ReplayMachine]).each(func(inner string, _ state) {
		if inner[strings.LastIndex(inner, "/")+1:] == name {
			found = names.ReplayMachine
		}
	})
	return found
}

// settle lets the other branch of a Parallel state come to its end, which takes no time here: what is under way in it when a branch
// fails is otherwise left to chance.
func settle(ctx context.Context, w *world) error { return asl.Sleep(ctx, w.clock, time.Second) }

func refused(context.Context, *world) error {
	return fault.Newf(fault.RequestRefused, "do it", "https://legacy", "no")
}

// retryables are the errors that both retriers name, with the most attempts and the longest waits before the n-th repetition.
func retryables() map[string]struct {
	err      error
	attempts int
	wait     func(n int) time.Duration
} {
	type kind = struct {
		err      error
		attempts int
		wait     func(n int) time.Duration
	}
	grows := func(rate float64) func(n int) time.Duration {
		return func(n int) time.Duration {
			delay := 1.0
			for range n {
				delay = min(30, delay*rate)
			}
			return time.Duration(delay * float64(time.Second))
		}
	}
	all := map[string]kind{"an error of the network": {errors.New("connection reset"), 9, grows(2)}} // Lambda.Unknown
	for _, d := range fault.Catalogue() {
		if d.Retryable {
			all[string(d.Name)] = kind{fault.Newf(d.Name, "do it", "https://legacy", "not now"), 121, grows(1.5)}
		}
	}
	for _, name := range []string{"Runtime.ExitError", "Sandbox.Timedout"} {
		all[name] = kind{&asl.FunctionError{Type: name, Message: "RequestId: 1 Error"}, 9, grows(2)}
	}
	for _, name := range []string{"Lambda.ServiceException", "Lambda.TooManyRequestsException", "Lambda.SdkClientException",
		"Lambda.AWSLambdaException", "Lambda.ClientExecutionTimeoutException"} {
		all[name] = kind{&asl.StateError{Name: name, Cause: "try again"}, 9, grows(2)}
	}
	return all
}

func TestRetryableErrorsPass(t *testing.T) {
	plain := short(t)
	if _, d := plain.run(names.MigrationMachine, input("")); d.Status != asl.Succeeded || plain.elapsed() != 0 {
		t.Fatalf("got %s after %s: %s %s", d.Status, plain.elapsed(), d.Error, d.Cause)
	}
	warm, frozen := sites(t)
	const failures = 7
	for _, at := range append(warm, frozen...) {
		for name, kind := range retryables() {
			w := short(t)
			w.disturb = func(_ context.Context, here site, call int) error {
				if here == at && call <= failures {
					return kind.err
				}
				return nil
			}
			_, d := w.run(names.MigrationMachine, input(""))
			var longest time.Duration
			for n := range failures {
				longest += kind.wait(n)
			}
			want := maps.Clone(plain.calls)
			want[at] += failures
			if d.Status != asl.Succeeded || !maps.Equal(w.calls, want) || w.elapsed() == 0 || w.elapsed() > longest {
				t.Errorf("%s, %s: %s after %s (at most %s wanted), %d attempts: %s %s", at, name, d.Status, w.elapsed(), longest, w.calls[at], d.Error, d.Cause)
			}
		}
	}
}

func TestRetriesEnd(t *testing.T) {
	warm, _ := sites(t)
	for _, at := range warm {
		for name, kind := range retryables() {
			if at != warm[0] && name != string(fault.Busy) && name != "Runtime.ExitError" {
				continue // each name at one state, each retrier at every state
			}
			w := short(t)
			w.disturb = func(_ context.Context, here site, _ int) error {
				if here == at {
					return kind.err
				}
				return nil
			}
			_, d := w.run(names.MigrationMachine, input(""))
			if d.Status != asl.Failed || w.calls[at] != kind.attempts || w.elapsed() > time.Hour {
				t.Errorf("%s, %s: %s after %d attempts and %s, want %d attempts", at, name, d.Status, w.calls[at], w.elapsed(), kind.attempts)
			}
		}
	}
}

// innermost reads an execution's error as an operator (and Thaw) does: the causes that the service nests, down to the step's own.
func innermost(name, cause string) (string, string) {
	for {
		var inner struct{ Error, Cause, ErrorType, ErrorMessage string }
		if json.Unmarshal([]byte(cause), &inner) != nil {
			return name, cause
		}
		switch {
		case inner.ErrorType != "":
			return inner.ErrorType, inner.ErrorMessage
		case inner.Error != "":
			name, cause = inner.Error, inner.Cause
		default:
			return name, cause
		}
	}
}

// A Map Run tells only that children failed, never why: the name of an error in it is with the child.
const mapRunFailed = "States.ExceedToleratedFailureThreshold"

// inMapRun finds the error of the failed child of an execution's last Map Run.
func (w *world) inMapRun(x *asl.Execution) (name, cause string) {
	runs := x.MapRuns()
	if len(runs) == 0 {
		return "", ""
	}
	for _, child := range w.engine.Executions(runs[len(runs)-1].ARN) {
		if d := child.Describe(); d.Status == asl.Failed {
			return innermost(d.Error, d.Cause)
		}
	}
	return "", ""
}

// last is the latest execution of a machine.
func (w *world) last(machine string) *asl.Execution {
	return w.engine.Executions(w.engine.ARN(machine))[0]
}

// inMap reports whether at is in a Distributed Map.
func inMap(at site) bool {
	return at.state == "CopyRange" || at.state == "ReplaySlice" || at.state == "DeletePart"
}

// hang is a function that does not answer in its state's time.
func hang(ctx context.Context, w *world) error {
	if err := asl.Sleep(ctx, w.clock, 3*time.Hour); err != nil {
		return err
	}
	return errors.New("nobody waits for this any more")
}

func TestFailuresBeforeTheFreezeAreRedriven(t *testing.T) {
	plain := short(t)
	px, pd := plain.run(names.MigrationMachine, input(""))
	if pd.Status != asl.Succeeded {
		t.Fatalf("%+v", pd)
	}
	warm, _ := sites(t)
	kinds := map[string]func(context.Context, *world) error{
		"States.Timeout": hang,
	}
	for _, d := range fault.Catalogue() {
		if !d.Retryable {
			kinds[string(d.Name)] = func(context.Context, *world) error { return fault.Newf(d.Name, "do it", "https://legacy", "no") }
		}
	}
	for _, at := range warm {
		for want, fails := range kinds {
			if at != warm[0] && want != string(fault.RequestRefused) && want != "States.Timeout" {
				continue // each name at one state, one name and the time-out at every state
			}
			w := short(t)
			w.disturb = func(ctx context.Context, here site, _ int) error {
				if here == at {
					if err := settle(ctx, w); err != nil {
						return err
					}
					return fails(ctx, w)
				}
				return nil
			}
			x, d := w.run(names.MigrationMachine, input(""))
			name, cause := innermost(d.Error, d.Cause)
			if inMap(at) {
				if name != mapRunFailed {
					t.Errorf("%s, %s: the execution ends with %s; the Map Run hides nothing any more?", at, want, name)
				}
				name, cause = w.inMapRun(w.last(machineOf(t, at.state)))
			}
			told := want == "States.Timeout" || strings.Contains(cause, "do it on https://legacy: no Next: ")
			if d.Status != asl.Failed || name != want || !told || w.calls[at] != 1 {
				t.Errorf("%s, %s: %s with %s %q after %d attempts", at, want, d.Status, name, cause, w.calls[at])
				continue
			}
			if w.calls[site{"Thaw", false}]+w.calls[site{"Freeze", false}] != 0 {
				t.Errorf("%s, %s: froze or thawed", at, want)
			}
			w.disturb = nil
			if err := x.Redrive(); err != nil {
				t.Errorf("%s, %s: %v", at, want, err)
				continue
			}
			d = w.end(x)
			calls := maps.Clone(plain.calls)
			calls[at]++
			if d.Status != asl.Succeeded || !maps.Equal(w.calls, calls) {
				t.Errorf("%s, %s, redriven: %s %s %s; calls %v, want %v", at, want, d.Status, d.Error, d.Cause, w.calls, calls)
			}
			if got, want := w.trace(x), plain.trace(px); got != want {
				t.Errorf("%s: the redriven execution entered %s, want %s", at, got, want)
			}
			if got, want := w.branches(x), plain.branches(px); got != want {
				t.Errorf("%s: the redriven execution entered %q in its branches, want %q", at, got, want)
			}
			for _, machine := range []string{names.RoundMachine, names.ReplayMachine} {
				if got, want := w.traces(machine), plain.traces(machine); !slices.Equal(got, want) {
					t.Errorf("%s: executions of %s entered %v, want %v", at, machine, got, want)
				}
			}
		}
	}
}

func TestEveryFailureInTheFreezeThaws(t *testing.T) {
	_, frozen := sites(t)
	type kind struct {
		fail  func(ctx context.Context, w *world) error
		name  string // that Thaw can find
		delay bool   // retries come first
	}
	kinds := map[string]kind{
		"fault":   {refused, string(fault.RequestRefused), false},
		"hang":    {hang, "States.Timeout", true},
		"garbled": {func(context.Context, *world) error { return errGarbled }, "States.QueryEvaluationError", false},
	}
	for name, k := range retryables() {
		told := name
		if name == "an error of the network" {
			told = "Lambda.Unknown"
		}
		kinds["for ever "+name] = kind{func(context.Context, *world) error { return k.err }, told, true}
	}
	// Stops the child that at is in.
	stops := map[string]struct{ error, told string }{
		"child stopped":                {"Operator.Impatient", "Operator.Impatient"},
		"child stopped without a word": {"", "States.TaskFailed"},
	}
	for name, s := range stops {
		kinds[name] = kind{nil, s.told, false}
	}
	// Whose answer the machine does not look at.
	unread := []string{"Freeze", "Finish", "RecordRound", "RecordPass"}
	for _, at := range frozen {
		for name, k := range kinds {
			if name == "garbled" && slices.Contains(unread, at.state) || strings.HasPrefix(name, "child stopped") && !at.final {
				continue
			}
			w := short(t)
			child := machineOf(t, at.state)
			var failedAt time.Time
			w.disturb = func(ctx context.Context, here site, _ int) error {
				if here != at {
					return nil
				}
				if failedAt.IsZero() {
					if err := settle(ctx, w); err != nil {
						return err
					}
					failedAt = w.clock.Now()
				}
				w.frozen = true // a freeze that fails may have got half way
				if s, ok := stops[name]; ok {
					w.last(child).Stop(s.error, "")
					return ctx.Err()
				}
				return k.fail(ctx, w)
			}
			// The window is wide enough for all retries of the final round.
			x, d := w.run(names.MigrationMachine, input(`"downtimeWindow":"2h"`))
			if d.Status != asl.Failed || d.Error != thawError || d.Cause != thawCause {
				t.Errorf("%s, %s: %s %s %q, want what Thaw returned", at, name, d.Status, d.Error, d.Cause)
			}
			if got := w.calls[site{"Thaw", false}]; got != 1 || w.frozen {
				t.Errorf("%s, %s: thawed %d times, writes stopped: %v", at, name, got, w.frozen)
				continue
			}
			if got := w.trace(x); !strings.HasSuffix(got, " Thaw WritesGivenBack") || strings.Contains(got, "Migrated") {
				t.Errorf("%s, %s: entered %s", at, name, got)
			}
			told, _ := innermost(w.failures[0].Error, w.failures[0].Cause)
			want := k.name
			switch {
			case inMap(at) && !strings.HasPrefix(name, "child stopped"):
				want = mapRunFailed
			case at.state == "Verify" && name == "garbled":
				want = string(fault.VerificationFailed)
			}
			if told != want {
				t.Errorf("%s, %s: Thaw was told %s (%+v), want %s", at, name, told, w.failures[0], want)
			}
			if late := w.clock.Now().Sub(failedAt); !k.delay && late != 0 {
				t.Errorf("%s, %s: thawed %s late", at, name, late)
			}
		}
	}
}

// Only a good verdict opens the destination, whatever else Verify answers and however it does.
func TestOnlyAGoodVerdictFinishes(t *testing.T) {
	type verdict struct {
		Verdict any `json:"verdict"`
	}
	for name, c := range map[string]struct {
		answer any
		good   bool
	}{
		"verified":           {step.VerifyOutput{Verdict: migration.Verified}, true},
		"with warnings":      {step.VerifyOutput{Verdict: migration.VerifiedWithWarnings}, true},
		"failed":             {step.VerifyOutput{Verdict: migration.Failed}, false},
		"none":               {step.VerifyOutput{}, false},
		"one not known here": {step.VerifyOutput{Verdict: "verified-later"}, false},
		"null":               {verdict{nil}, false},
		"a list":             {verdict{[]string{"verified", "verified"}}, false},
		"no object":          {"verified", false},
		"no answer":          {nil, false},
	} {
		w := short(t)
		w.verify = func() any { return c.answer }
		x, d := w.run(names.MigrationMachine, input(""))
		finished, thawed := w.calls[site{"Finish", false}], w.calls[site{"Thaw", false}]
		if c.good {
			if d.Status != asl.Succeeded || finished != 1 || thawed != 0 {
				t.Errorf("%s: %s %s %s; entered %s", name, d.Status, d.Error, d.Cause, w.trace(x))
			}
			continue
		}
		if d.Status != asl.Failed || d.Error != thawError || d.Cause != thawCause || finished != 0 || thawed != 1 || w.frozen {
			t.Errorf("%s: %s %s %s; entered %s", name, d.Status, d.Error, d.Cause, w.trace(x))
			continue
		}
		if got := w.trace(x); !strings.HasSuffix(got, "Freeze MoveLastDelta Verify Verdict Thaw WritesGivenBack") {
			t.Errorf("%s: entered %s", name, got)
		}
		if got := w.failures[0]; got.Error != string(fault.VerificationFailed) || got.Cause == "" {
			t.Errorf("%s: Thaw was told %+v", name, got)
		}
	}
}

// A final round that takes longer than the window and what may be added to it is stopped, wherever it is, and writes are given
// back at that moment. One that is just in time is not.
func TestFinalRoundThatOverruns(t *testing.T) {
	const limit = 15 * time.Minute // a window of ten minutes and five to spare
	for name, c := range map[string]struct {
		script func(*world, time.Duration)
		stops  string // the last state of the stopped round
	}{
		"in the snapshot": {func(w *world, d time.Duration) {
			w.takes = func(what string, round int) time.Duration {
				return map[bool]time.Duration{true: d}[what == "snapshot" && round == 2]
			}
		}, "PollSnapshot"},
		"in the restore": {func(w *world, d time.Duration) {
			w.takes = func(what string, round int) time.Duration {
				return map[bool]time.Duration{true: d}[what == "restore" && round == 2]
			}
		}, "PollRestore"},
		"waiting for the slot": {func(w *world, d time.Duration) {
			w.disturb = func(_ context.Context, at site, _ int) error {
				if at == (site{"StartSnapshot", true}) {
					w.busy = map[string]time.Duration{"StartSnapshot": d}
				}
				return nil
			}
		}, "StartSnapshot"},
		"in the copy": {func(w *world, d time.Duration) {
			w.disturb = func(_ context.Context, at site, _ int) error {
				if at == (site{"PlanCopy", true}) {
					w.slices, w.slice = 10, d/10
				}
				return nil
			}
		}, "Copy"},
		"in a retry": {func(w *world, d time.Duration) {
			var began time.Time
			w.disturb = func(_ context.Context, at site, call int) error {
				if at != (site{"PublishCopy", true}) {
					return nil
				}
				if call == 1 {
					began = w.clock.Now()
				}
				if w.clock.Now().Before(began.Add(d)) {
					return fault.Newf(fault.Unavailable, "ask", "https://legacy", "no answer")
				}
				return nil
			}
		}, "PublishCopy"},
	} {
		for _, late := range []bool{false, true} {
			w := short(t)
			d := limit - time.Minute // the last wait before a retry may be half a minute long
			if late {
				d = limit + 30*time.Second
			}
			c.script(w, d)
			x, got := w.run(names.MigrationMachine, input(""))
			final := w.last(names.RoundMachine)
			if !late {
				if got.Status != asl.Succeeded || len(w.rounds) != 2 || w.elapsed() < d || w.elapsed() > limit {
					t.Errorf("%s, in time: %s %s %s after %s", name, got.Status, got.Error, got.Cause, w.elapsed())
				}
				continue
			}
			if got.Status != asl.Failed || got.Error != thawError || w.frozen || w.calls[site{"Thaw", false}] != 1 || w.elapsed() != limit {
				t.Errorf("%s: %s %s %s after %s, want a thaw after %s", name, got.Status, got.Error, got.Cause, w.elapsed(), limit)
			}
			if got := w.trace(x); !strings.HasSuffix(got, "Freeze MoveLastDelta Thaw WritesGivenBack") {
				t.Errorf("%s: entered %s", name, got)
			}
			if final.Status() != asl.Aborted || !strings.HasSuffix(w.trace(final), c.stops) || len(w.rounds) != 1 {
				t.Errorf("%s: the final round is %s, it entered %s", name, final.Status(), w.trace(final))
			}
			if len(w.failures) != 1 || w.failures[0].Error != "States.Timeout" {
				t.Errorf("%s: Thaw was told %+v", name, w.failures)
			}
		}
	}
}

func TestThawIsRetried(t *testing.T) {
	for name, k := range retryables() {
		w := short(t)
		w.disturb = func(ctx context.Context, at site, call int) error {
			switch {
			case at.state == "Verify":
				return refused(ctx, w)
			case at.state == "Thaw" && call <= 2:
				return k.err
			}
			return nil
		}
		_, d := w.run(names.MigrationMachine, input(""))
		if d.Status != asl.Failed || d.Error != thawError || d.Cause != thawCause || w.calls[site{"Thaw", false}] != 3 || w.frozen || w.elapsed() > 3*time.Second {
			t.Errorf("%s: %s %s %q after %d attempts and %s", name, d.Status, d.Error, d.Cause, w.calls[site{"Thaw", false}], w.elapsed())
		}
	}
}

// A thaw that fails for good is what a redrive repeats, and nothing else; once writes are back a redrive moves nothing any more.
func TestRedriveOfAThaw(t *testing.T) {
	w := short(t)
	w.disturb = func(ctx context.Context, at site, _ int) error {
		switch at.state {
		case "Verify":
			return refused(ctx, w)
		case "Thaw":
			return fault.Newf(fault.AccessDenied, "give writes back", "https://legacy", "no")
		}
		return nil
	}
	x, d := w.run(names.MigrationMachine, input(""))
	if name, _ := innermost(d.Error, d.Cause); d.Status != asl.Failed || name != string(fault.AccessDenied) || !w.frozen {
		t.Fatalf("got %s %s %s", d.Status, d.Error, d.Cause)
	}
	w.disturb = nil
	before := maps.Clone(w.calls)
	before[site{"Thaw", false}]++
	for _, redrive := range []string{"of the failed Thaw", "after it"} {
		if err := x.Redrive(); err != nil {
			t.Fatal(err)
		}
		if d := w.end(x); d.Status != asl.Failed || d.Error != thawError || w.frozen || !maps.Equal(w.calls, before) {
			t.Errorf("redrive %s: %s %s; calls %v, want %v", redrive, d.Status, d.Error, w.calls, before)
		}
	}
}

// When one of the two fails in the freeze, writes are given back at once: the other is stopped, wherever it is, and nothing of it goes on
// behind Thaw's back. Before the freeze the same failure leaves an execution that a redrive takes up where both were.
func TestFailureOfOneBranchStopsTheOther(t *testing.T) {
	slowRound := func(w *world) {
		w.takes = func(what string, _ int) time.Duration {
			return map[bool]time.Duration{true: 10 * time.Minute}[what == "restore"]
		}
	}
	slowCopy := func(w *world) { w.slice, w.slices = 5*time.Minute, 2 }
	slowReplay := func(w *world) { w.call = 5 * time.Minute }
	for _, c := range []struct {
		fails site // after a minute
		slow  func(*world)
		stops string // machine
		at    string // its last state
	}{
		{site{"PlanReplay", true}, slowRound, names.RoundMachine, "PollRestore"},
		{site{"ReplaySlice", true}, slowRound, names.RoundMachine, "PollRestore"},
		{site{"ReconcileDeletes", true}, slowCopy, names.RoundMachine, "Copy"},
		{site{"RecordPass", true}, slowCopy, names.RoundMachine, "Copy"},
		{site{"StartSnapshot", true}, slowReplay, names.ReplayMachine, "Replay"},
		{site{"CopyRange", true}, slowReplay, names.ReplayMachine, "Replay"},
		{site{"StartRestore", true}, slowReplay, names.ReplayMachine, "Replay"},
		{site{"RecordRound", true}, func(w *world) {
			slowReplay(w)
			w.disturb = func(ctx context.Context, at site, _ int) error {
				if at == (site{"PublishCopy", true}) {
					return asl.Sleep(ctx, w.clock, 6*time.Minute)
				}
				return nil
			}
		}, names.ReplayMachine, "ReconcileDeletes"},
		{site{"DeletePart", true}, slowCopy, names.RoundMachine, "Copy"},
		{site{"RecordRound", true}, func(w *world) {
			slowReplay(w)
			w.disturb = func(ctx context.Context, at site, _ int) error {
				if at == (site{"PublishCopy", true}) {
					return asl.Sleep(ctx, w.clock, 11*time.Minute)
				}
				return nil
			}
		}, names.ReplayMachine, "Deletes"},
	} {
		for _, final := range []bool{true, false} {
			fails := site{c.fails.state, final}
			if !final && (c.at == "ReconcileDeletes" || c.at == "Deletes") {
				continue
			}
			w := short(t)
			c.slow(w)
			slow, broken := w.disturb, true
			var failedAt time.Time
			w.disturb = func(ctx context.Context, at site, call int) error {
				if broken && at == fails {
					if err := asl.Sleep(ctx, w.clock, time.Minute); err != nil {
						return err
					}
					failedAt = w.clock.Now()
					return refused(ctx, w)
				}
				if slow != nil {
					return slow(ctx, at, call)
				}
				return nil
			}
			x, d := w.run(names.MigrationMachine, input(`"downtimeWindow":"2h"`))
			other, stopsAt := w.last(c.stops), c.at
			if stopsAt == "PollRestore" && !final {
				stopsAt = "WaitForRestore" // only a final round's polls wait themselves
			}
			if d.Status != asl.Failed || other.Status() != asl.Aborted || !strings.HasSuffix(w.trace(other), " "+stopsAt) {
				t.Errorf("%s: %s %s %s; the other child is %s, it entered %s", fails, d.Status, d.Error, d.Cause, other.Status(), w.trace(other))
				continue
			}
			for _, run := range other.MapRuns() {
				for _, child := range w.engine.Executions(run.ARN) {
					if child.Status() == asl.Running {
						t.Errorf("%s: %s goes on", fails, child.ARN)
					}
				}
			}
			thawed := w.calls[site{"Thaw", false}]
			if late := w.clock.Now().Sub(failedAt); late != 0 {
				t.Errorf("%s: the execution ended %s late", fails, late)
			}
			if final {
				if thawed != 1 || w.frozen || d.Error != thawError || !strings.HasSuffix(w.trace(x), "Freeze MoveLastDelta Thaw WritesGivenBack") {
					t.Errorf("%s: thawed %d times, writes stopped: %v, %s; entered %s", fails, thawed, w.frozen, d.Error, w.trace(x))
				}
				want := string(fault.RequestRefused)
				if inMap(fails) {
					want = mapRunFailed
				}
				if told, _ := innermost(w.failures[0].Error, w.failures[0].Cause); told != want {
					t.Errorf("%s: Thaw was told %+v", fails, w.failures[0])
				}
				continue
			}
			if thawed != 0 || w.calls[site{"Freeze", false}] != 0 {
				t.Errorf("%s: froze or thawed", fails)
			}
			broken = false
			if err := x.Redrive(); err != nil {
				t.Errorf("%s: %v", fails, err)
				continue
			}
			if d = w.end(x); d.Status != asl.Succeeded || len(w.rounds) != 2 || len(w.passes) != 2 {
				t.Errorf("%s, redriven: %s %s %s; %d rounds, %d passes", fails, d.Status, d.Error, d.Cause, len(w.rounds), len(w.passes))
			}
			for _, machine := range []string{names.RoundMachine, names.ReplayMachine} {
				if n := len(w.engine.Executions(w.engine.ARN(machine))); n != 2 {
					t.Errorf("%s: %d executions of %s, a redrive goes on with the two there are", fails, n, machine)
				}
			}
		}
	}
}

// What has ended well is not done again, whichever side failed.
func TestRedriveResumesTheFailedBranchOnly(t *testing.T) {
	for _, c := range []struct {
		fails site
		once  string // machine of the other branch
	}{
		{site{"ReconcileDeletes", false}, names.RoundMachine},
		{site{"ReplaySlice", false}, names.RoundMachine},
		{site{"DeletePart", false}, names.RoundMachine},
		{site{"StartRestore", false}, names.ReplayMachine},
		{site{"CopyRange", false}, names.ReplayMachine},
	} {
		w := short(t)
		broken := true
		w.disturb = func(ctx context.Context, at site, _ int) error {
			if !broken || at != c.fails {
				return nil
			}
			if err := settle(ctx, w); err != nil {
				return err
			}
			return refused(ctx, w)
		}
		x, d := w.run(names.MigrationMachine, input(""))
		other := w.last(c.once)
		if d.Status != asl.Failed || other.Status() != asl.Succeeded {
			t.Fatalf("%s: %s, the other child is %s", c.fails, d.Status, other.Status())
		}
		events, trace := other.EventCount(), w.trace(other)
		broken = false
		if err := x.Redrive(); err != nil {
			t.Fatal(err)
		}
		if d = w.end(x); d.Status != asl.Succeeded || other.EventCount() != events || w.trace(other) != trace || len(w.traces(c.once)) != 2 {
			t.Errorf("%s, redriven: %s %s %s; executions of %s entered %v", c.fails, d.Status, d.Error, d.Cause, c.once, w.traces(c.once))
		}
	}
}

// A last pass that overruns the window gives writes back as an overrunning round does.
func TestLastPassThatOverruns(t *testing.T) {
	w := short(t)
	w.disturb = func(_ context.Context, at site, _ int) error {
		if at.final {
			w.call = 20 * time.Minute
		}
		return nil
	}
	x, d := w.run(names.MigrationMachine, input(""))
	if d.Status != asl.Failed || d.Error != thawError || w.frozen || w.calls[site{"Thaw", false}] != 1 || w.elapsed() != 15*time.Minute {
		t.Errorf("%s %s %s after %s; entered %s", d.Status, d.Error, d.Cause, w.elapsed(), w.trace(x))
	}
	if pass := w.last(names.ReplayMachine); pass.Status() != asl.Aborted || len(w.passes) != 1 {
		t.Errorf("the last pass is %s, %d recorded", pass.Status(), len(w.passes))
	}
	if len(w.failures) != 1 || w.failures[0].Error != "States.Timeout" {
		t.Errorf("Thaw was told %+v", w.failures)
	}
}

// Stop and the time-outs of executions leave no state that could thaw: the rule on ABORTED and TIMED_OUT calls the function, and this
// is why it must exist. What the machine owes is that nothing goes on behind the rule's back.
func TestStopInTheFreezeStopsTheRound(t *testing.T) {
	w := short(t)
	var x *asl.Execution
	w.disturb = func(ctx context.Context, at site, _ int) error {
		if at == (site{"PollRestore", true}) {
			x.Stop("Operator", "enough")
			return ctx.Err()
		}
		return nil
	}
	release := w.clock.Hold()
	x = w.start(names.MigrationMachine, input(""))
	release()
	if d := w.end(x); d.Status != asl.Aborted || w.last(names.RoundMachine).Status() != asl.Aborted {
		t.Errorf("got %+v, round %s", d, w.last(names.RoundMachine).Status())
	}
	if w.calls[site{"Thaw", false}] != 0 || w.calls[site{"RecordRound", true}] != 0 {
		t.Errorf("calls %v", w.calls)
	}
}
