package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/lambdahost"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/machines"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/internal/replay"
	"github.com/domainferry/domainferry/internal/repository"
	"github.com/domainferry/domainferry/internal/s3copy"
	"github.com/domainferry/domainferry/internal/step"
)

const journalBucket = "journal"

// definitions are parsed once; all programs share them.
var definitions = sync.OnceValues(func() (map[string]*asl.Machine, error) {
	return machines.Parse(asl.New(asl.Config{}).ARN, func(name string) string { return name })
})

// world is everything that one program acts on. All of it lives in one bubble of testing/synctest, whose time is virtual for the
// product, too: deadlines of contexts, pauses of retries, the clock of the steps.
type world struct {
	program     Program
	engine      *asl.Engine
	label       string // before the names of executions, where several worlds have one engine
	s3          *store
	source      *side
	destination *side
	functions   map[string]names.Function
	sabotage    Sabotage
	trace       func(format string, args ...any)

	life context.Context // ends with the program
	end  context.CancelFunc
	work sync.WaitGroup // invocations and rules that outlive the execution they were started for

	mu      sync.Mutex
	seen    map[uint64]uint64 // requests and invocations by what they are, for their latencies
	faults  []*armed
	skewed  map[Place]time.Time // until when signatures are refused
	rules   int                 // events of the rule that thaw has not dealt with yet
	running int                 // migrations
	waiters []*waiter
	counts  Counts
}

// Sabotage breaks the product on purpose: what a harness does not find when it is there, it cannot find.
type Sabotage struct {
	// Skip answers in place of a function; it is not run then.
	Skip func(function string) (out []byte, skip bool)
	// Deaf tells the requests of functions that a domain acknowledges and does not carry out.
	Deaf func(at Place, method, path string) bool
}

// newWorld makes the domains and buckets of a program. It has no engine yet.
func newWorld(p Program) (*world, error) {
	w := &world{program: p, s3: newStore(journalBucket, "source-snapshots", "destination-snapshots"), functions: map[string]names.Function{},
		seen: map[uint64]uint64{}, skewed: map[Place]time.Time{}, trace: func(string, ...any) {}}
	w.life, w.end = context.WithCancel(context.Background())
	var err error
	if w.source, err = newSide(Source, p.Source, w.s3, p.Seed*2+1, p.Rate); err != nil {
		return nil, err
	}
	if w.destination, err = newSide(Destination, p.Destination, w.s3, p.Seed*2+2, p.Rate); err != nil {
		return nil, err
	}
	for _, f := range names.Functions() {
		w.functions[f.Name] = f
	}
	return w, nil
}

// connect gives the world an engine of its own.
func (w *world) connect() (err error) {
	if w.engine, err = newEngine(w, w.program.Seed); err == nil {
		w.engine.Observe(asl.Observer{StateEntered: w.entered, StatusChanged: w.changed})
	}
	return err
}

func newEngine(functions asl.Invoker, seed uint64) (*asl.Engine, error) {
	engine := asl.New(asl.Config{Lambda: functions, Region: region, Account: account, Random: rand.New(rand.NewPCG(seed, 3))})
	parsed, err := definitions()
	if err != nil {
		return nil, err
	}
	for name, m := range parsed {
		if _, err := engine.AddStateMachine(name, m); err != nil {
			return nil, err
		}
	}
	return engine, nil
}

// invocation is one call of a function.
type invocation struct {
	function string
	key      string // what it is called for
	ctx      context.Context
	cancel   context.CancelCauseFunc
	skew     time.Duration // of its clock

	mu   sync.Mutex
	gone error // its process is dead: nothing that it asks for happens any more
}

func (i *invocation) die(err error) {
	i.mu.Lock()
	i.gone = err
	i.mu.Unlock()
	i.cancel(err)
}

func (i *invocation) dead() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.gone
}

// Now implements step.Clock.
func (i *invocation) Now() time.Time { return time.Now().UTC().Add(i.skew) }

// Sleep implements step.Clock.
func (i *invocation) Sleep(ctx context.Context, d time.Duration) error { return sleep(ctx, d) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hash is a number that depends on nothing but the texts.
func hash(texts ...string) uint64 {
	h := fnv.New64a()
	for _, t := range texts {
		_, _ = h.Write([]byte(t))
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}

func digest(body []byte) string {
	h := fnv.New64a()
	_, _ = h.Write(body)
	return strconv.FormatUint(h.Sum64(), 36)
}

// latency is how long the next call of a kind takes: between a half and one and a half of the mean. It depends on the seed, on what is
// called and how often that was called before, and on nothing else. Nanoseconds differ, so that no two things happen at one instant.
func (w *world) latency(mean time.Duration, what ...string) time.Duration {
	key := hash(what...)
	w.mu.Lock()
	n := w.seen[key]
	w.seen[key]++
	w.mu.Unlock()
	x := rand.New(rand.NewPCG(w.program.Seed^key, n)).Float64()
	return time.Duration(float64(mean) * (0.5 + x))
}

const (
	requestLatency = 6 * time.Millisecond
	invokeLatency  = 20 * time.Millisecond
)

// Invoke implements asl.Invoker. A Lambda cannot be stopped: when the task ends first, the function goes on by itself.
func (w *world) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	f, ok := w.functions[function]
	if !ok {
		return nil, fmt.Errorf("no function %q", function)
	}
	key := function + " " + digest(stable(payload))
	if err := sleep(ctx, w.latency(invokeLatency, "invoke", key)); err != nil {
		return nil, err
	}
	inv := &invocation{function: function, key: key}
	timeout := time.Duration(f.TimeoutSeconds) * time.Second
	w.mu.Lock()
	w.counts.Invocations++
	hit := w.hits(request{at: Lambda, what: function})
	w.mu.Unlock()
	switch hit.kind {
	case Throttle:
		return nil, &asl.StateError{Name: "Lambda.TooManyRequestsException", Cause: "Rate Exceeded."}
	case Skewed:
		inv.skew = hit.by
	}
	fctx, cancel := context.WithCancelCause(w.life)
	fctx, stop := context.WithTimeout(fctx, timeout)
	inv.ctx, inv.cancel = fctx, cancel
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	w.work.Go(func() {
		defer cancel(nil)
		defer stop()
		var r result
		skip := false
		if w.sabotage.Skip != nil {
			r.out, skip = w.sabotage.Skip(function)
		}
		if !skip {
			r.out, r.err = w.run(inv, function, payload)
		}
		if inv.dead() == nil {
			done <- r
		}
	})
	late := time.NewTimer(timeout)
	defer late.Stop()
	select {
	case r := <-done:
		return r.out, r.err
	case <-late.C:
		inv.die(errKilled)
		return nil, &asl.StateError{Name: "Sandbox.Timedout", Cause: fmt.Sprintf("Task timed out after %d seconds", f.TimeoutSeconds)}
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-fctx.Done():
		if inv.dead() == errHung {
			<-late.C
			return nil, &asl.StateError{Name: "Sandbox.Timedout", Cause: fmt.Sprintf("Task timed out after %d seconds", f.TimeoutSeconds)}
		}
		if inv.dead() != nil {
			return nil, &asl.StateError{Name: "Runtime.ExitError", Cause: "RequestId: ... Error: Runtime exited with error: signal: killed"}
		}
		r := <-done
		return r.out, r.err
	}
}

var (
	errKilled = errors.New("the function's process was killed")
	errHung   = errors.New("the function hangs")
)

// stable is a payload without what differs from run to run.
func stable(payload []byte) []byte {
	var m map[string]json.RawMessage
	if json.Unmarshal(payload, &m) != nil {
		return payload
	}
	delete(m, "taskToken")
	out, _ := json.Marshal(m)
	return out
}

func handle[In, Out any](i *invocation, run func(context.Context, In) (Out, error), payload []byte) ([]byte, error) {
	out, err := lambdahost.Handle(i.ctx, run, payload)
	if typed, ok := errors.AsType[messages.InvokeResponse_Error](err); ok {
		return nil, &asl.FunctionError{Type: typed.Type, Message: typed.Message}
	}
	return out, err
}

// run runs one step, wired as lambdas/<function>/main.go wires it, but for the policies of buckets: everything is in one account.
func (w *world) run(i *invocation, function string, payload []byte) (out []byte, err error) {
	defer func() {
		if err != nil {
			w.trace("%s failed: %v", i.key, err)
		} else if function == "decide" || function == "verify" {
			w.trace("%s: %s", function, out)
		}
	}()
	client := s3Client{w, i}
	store := journal.NewStore(client, journalBucket).Asking(executions{w})
	view := func(e migration.Endpoint) *cluster.Client { return w.client(i, e) }
	copier := func() *s3copy.Copier { return &s3copy.Copier{Source: client, Destination: client} }
	replayer := func(from, to migration.Endpoint) *replay.Replayer {
		return &replay.Replayer{Source: view(from), Destination: view(to)}
	}
	thaw := step.Thaw{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.ThawDomain { return view(e) }}
	switch function {
	case "preflight":
		return handle(i, step.Preflight{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.PreflightDomain { return view(e) }, End: thaw.End}.Run, payload)
	case "register":
		return handle(i, step.Register{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.RegisterDomain { return view(e) }}.Run, payload)
	case "snapshot":
		return handle(i, step.Snapshot{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.SnapshotDomain { return view(e) }}.Run, payload)
	case "poll-status":
		return handle(i, step.PollStatus{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.PollStatusDomain { return view(e) }}.Run, payload)
	case "plan-copy":
		return handle(i, step.PlanCopy{Journal: store, Clock: i, Copier: func(_, _ migration.Repository) step.CopyPlanner { return copier() }}.Run, payload)
	case "copy":
		return handle(i, step.Copy{Journal: store, Clock: i, Copier: func(_, _ migration.Repository) step.RangeCopier { return copier() }}.Run, payload)
	case "publish-copy":
		return handle(i, step.PublishCopy{Journal: store, Clock: i, Copier: func(_, _ migration.Repository) step.CopyPublisher { return copier() },
			Blobs: func(r migration.Repository) repository.BlobReader { return blobReader{client, r.Bucket, r.BasePath} }}.Run, payload)
	case "restore":
		return handle(i, step.Restore{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.RestoreDomain { return view(e) }}.Run, payload)
	case "record-round":
		return handle(i, step.RecordRound{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.RecordRoundDomain { return view(e) }}.Run, payload)
	case "plan-replay":
		return handle(i, step.PlanReplay{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.PlanReplayDomain { return view(e) },
			Replay: func(from, to migration.Endpoint) step.PassPlanner { return replayer(from, to) }}.Run, payload)
	case "replay":
		return handle(i, step.Replay{Journal: store, Replay: func(from, to migration.Endpoint) step.SliceReplayer { return replayer(from, to) }}.Run, payload)
	case "reconcile-deletes":
		return handle(i, step.ReconcileDeletes{Journal: store, Replay: func(from, to migration.Endpoint) step.DeleteReconciler { return replayer(from, to) }}.Run, payload)
	case "record-pass":
		return handle(i, step.RecordPass{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.RecordPassDomain { return view(e) }}.Run, payload)
	case "decide":
		return handle(i, step.Decide{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.DecideDomain { return view(e) },
			Replay: func(from, to migration.Endpoint) step.ReplayVerifier { return replayer(from, to) }}.Run, payload)
	case "ask":
		return handle(i, step.Ask{Journal: store, Clock: i}.Run, payload)
	case "freeze":
		return handle(i, step.Freeze{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.FreezeDomain { return view(e) }}.Run, payload)
	case "verify":
		return handle(i, step.Verify{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.VerifyDomain { return view(e) },
			Replay: func(from, to migration.Endpoint) step.ReplayVerifier { return replayer(from, to) }}.Run, payload)
	case "finish":
		return handle(i, step.Finish{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.FinishDomain { return view(e) }}.Run, payload)
	case "thaw":
		return handle(i, thaw.Run, payload)
	}
	return nil, fmt.Errorf("a soak has no function %q", function)
}

// client is the way of a function to a domain.
func (w *world) client(i *invocation, e migration.Endpoint) *cluster.Client {
	at := w.source
	if e.Endpoint == w.destination.url() {
		at = w.destination
	}
	return cluster.New(e.Endpoint, transport{w, i, at})
}

// executions asks the engine what became of an execution. It implements journal.Executions.
type executions struct{ w *world }

func (e executions) Running(_ context.Context, execution string) (bool, error) {
	x, err := e.w.engine.Execution(execution)
	if err != nil {
		return false, nil // the service does not know it
	}
	return x.Status() == asl.Running, nil
}

// journal is read without faults.
func (w *world) journal() *journal.Store {
	return journal.NewStore(s3Client{w, nil}, journalBucket)
}

// waiter waits for a state to be entered.
type waiter struct {
	state   string
	reached chan struct{}
	over    bool
}

func machineOf(x *asl.Execution) string {
	_, machine, _ := strings.Cut(x.StateMachineARN, ":stateMachine:")
	machine, _, _ = strings.Cut(machine, "/") // a Map's child
	return machine
}

func (w *world) entered(e asl.StateEntered) {
	machine := machineOf(e.Execution)
	w.trace("%s: %s %s", e.Time.UTC().Format("15:04:05.000"), machine, e.State)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.waiters {
		if !x.over && x.state == e.State {
			x.over = true
			close(x.reached)
		}
	}
	if e.State == "Thaw" {
		w.counts.Thaws++
	}
}

// awaitState waits until a state is entered the next time, for at most so long, and only while a migration runs.
func (w *world) awaitState(state string, most time.Duration) {
	x := &waiter{state: state, reached: make(chan struct{})}
	w.mu.Lock()
	if w.running > 0 {
		w.waiters = append(w.waiters, x)
	} else {
		close(x.reached)
	}
	w.mu.Unlock()
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-x.reached:
	case <-t.C:
	}
}

// changed stands in for the deployment's rule: every end of a migration calls thaw.
func (w *world) changed(c asl.StatusChange) {
	if machineOf(c.Execution) != names.MigrationMachine {
		return
	}
	w.trace("%s: %s is %s", c.Time.UTC().Format("15:04:05.000"), c.Execution.Name, c.Status)
	w.mu.Lock()
	if c.Status == asl.Running {
		w.running++
		w.mu.Unlock()
		return
	}
	w.running--
	for _, x := range w.waiters {
		if w.running == 0 && !x.over {
			x.over = true
			close(x.reached)
		}
	}
	w.mu.Unlock()
	w.rule(c.Execution, w.latency(time.Duration(w.program.RuleDelay), "rule"))
}

// rule delivers an event after a while, and again until thaw succeeds, as EventBridge and Lambda do.
func (w *world) rule(x *asl.Execution, after time.Duration) {
	w.mu.Lock()
	w.rules++
	w.counts.Rules++
	w.mu.Unlock()
	payload, _ := json.Marshal(map[string]string{"execution": x.ARN}) // a text always encodes
	w.work.Go(func() {
		for pause := time.Second; sleep(w.life, after) == nil; after, pause = pause, min(2*pause, 30*time.Second) {
			out, err := w.Invoke(w.life, "thaw", payload)
			if err == nil {
				var given struct{ Indices []string }
				if json.Unmarshal(out, &given) == nil && len(given.Indices) > 0 {
					w.mu.Lock()
					w.counts.RuleThaws++
					w.mu.Unlock()
				}
				break
			}
			w.trace("thaw of %s by the rule: %v", x.Name, err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.rules--
	})
}

// Quiet keeps the steps' own log lines away.
func Quiet() (restore func()) {
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	return func() { slog.SetDefault(before) }
}
