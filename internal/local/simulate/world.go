package simulate

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/lambda/messages"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/lambdahost"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/internal/repository"
	"github.com/domainferry/domainferry/internal/step"
)

// world is one simulated migration: the two clusters, the buckets, and the functions that the state machines call.
type world struct {
	cfg    Config
	clock  *asl.VirtualClock
	engine *asl.Engine
	random *rand.Rand

	// state guards the clusters and the buckets, mu the journal, the meter and jitter: steps ask several things at once.
	state       sync.Mutex
	mu          sync.Mutex
	jitter      *rand.Rand
	source      *side
	destination *side
	bucket      *repositoryBuckets
	journal     *journalBucket
	meter       meter

	forget         string               // of this index only the first restore takes effect: a product that skips what has changed
	blocked        map[string]time.Time // when writes to an index of the source were stopped
	automatedBytes int64
	firstBlock     time.Time
	opened         time.Time // when the last index of the destination took writes
	largestOutput  map[string]int
	longest        map[string]time.Duration
	frozen         map[string]float64          // function -> seconds while writes were stopped
	executions     map[string][]*asl.Execution // by state machine
	functions      map[string]names.Function
}

// meter counts what is paid for, and what has limits.
type meter struct {
	get, put, list, copies int64 // requests to S3 of the Lambdas
	copiedBytes            int64 // between Regions, by S3
	sourceBytes            int64 // between Regions, by the Lambdas: answers of the source
	engineObjects          int64 // objects that the source's snapshots wrote
	http                   map[string]int64
	throttled              int64 // 429 answered
	invocations            int64
	gbSeconds              float64
	transitions            int64
}

// invocation is one call of a function. What it asks of the model adds to its debt, which is slept off at the next look at the clock:
// a step may ask from several goroutines, of which only its own may wait on a virtual clock.
type invocation struct {
	w        *world
	ctx      context.Context
	function string
	number   int64

	asleep sync.Mutex

	mu    sync.Mutex
	calls map[string]uint64 // how many of each so far
	main  <-chan struct{}   // of the context of the step itself
	debt  time.Duration
	aside map[<-chan struct{}]aside
}

// aside is what calls side by side, with a context of their own, have taken: together and the longest.
type aside struct{ together, longest time.Duration }

// sideBySide is how many calls of one group are taken to run at once. Steps have groups of a few calls, and of many for single indices.
const sideBySide = 16

// owe adds to the debt. Calls with another context than the step's own belong to a group that it waits for.
func (i *invocation) owe(ctx context.Context, d time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if ctx == nil || ctx.Done() == i.main {
		i.debt += d
		return
	}
	if i.aside == nil {
		i.aside = map[<-chan struct{}]aside{}
	}
	a := i.aside[ctx.Done()]
	i.aside[ctx.Done()] = aside{a.together + d, max(a.longest, d)}
}

// pay sleeps off what the calls so far have taken.
func (i *invocation) pay(ctx context.Context) error { return i.sleep(ctx, 0) }

// sleep pays, and sleeps for d more, but never beyond the function's time.
func (i *invocation) sleep(ctx context.Context, d time.Duration) error {
	i.mu.Lock()
	d += i.debt
	for _, a := range i.aside {
		d += max(a.longest, a.together/sideBySide)
	}
	i.debt, i.aside = 0, nil
	i.mu.Unlock()
	if d <= 0 {
		return ctx.Err()
	}
	i.asleep.Lock() // one of the step's goroutines at a time: together they are one strand
	defer i.asleep.Unlock()
	// Only the function's own time is in virtual time; deadlines that a step sets itself are not.
	if deadline, ok := i.ctx.Deadline(); ok && i.w.clock.Now().Add(d).After(deadline.Add(-lambdahost.Margin)) {
		deadline = deadline.Add(-lambdahost.Margin)
		if err := asl.Sleep(ctx, i.w.clock, deadline.Sub(i.w.clock.Now())); err != nil {
			return err
		}
		return context.DeadlineExceeded
	}
	return asl.Sleep(ctx, i.w.clock, d)
}

// spend sleeps when the step itself asks, and owes when one of a group of its calls does.
func (i *invocation) spend(ctx context.Context, d time.Duration) error {
	if ctx.Done() == i.main {
		return i.sleep(ctx, d)
	}
	i.owe(ctx, d)
	return ctx.Err()
}

// Now implements step.Clock.
func (i *invocation) Now() time.Time {
	_ = i.pay(i.ctx)
	return i.w.clock.Now()
}

// Sleep implements step.Clock.
func (i *invocation) Sleep(ctx context.Context, d time.Duration) error { return i.sleep(ctx, d) }

// latency is a request's time, around its mean.
func (w *world) latency(mean float64) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return mean * noise(w.jitter, latencyNoise)
}

// latencies is the time of n requests, one after the other: each has its own luck.
func (w *world) latencies(n, mean float64) float64 {
	if n <= 0 {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return n * mean * noise(w.jitter, latencyNoise/math.Sqrt(n))
}

// chance is a source of chance for the next call of a kind. It depends on nothing but the seed, the invocation and how many calls of the kind
// there were, so that a run can be repeated although a step's goroutines come in any order.
func (i *invocation) chance(kind string) *rand.Rand {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.calls == nil {
		i.calls = map[string]uint64{}
	}
	i.calls[kind]++
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %d", i.number, kind, i.calls[kind])
	return rand.New(rand.NewPCG(i.w.cfg.Seed, h.Sum64()))
}

func (i *invocation) s3(ctx context.Context, kind string, counter *int64, n, atOnce int64, mean float64, bytes int64) {
	i.w.mu.Lock()
	*counter += n
	i.w.mu.Unlock()
	i.owe(ctx, seconds(float64((n+atOnce-1)/atOnce)*mean*noise(i.chance(kind), latencyNoise)+float64(bytes)/s3ReadRate))
}

func (i *invocation) s3Get(ctx context.Context, key string, n, atOnce, bytes int64) {
	i.s3(ctx, key, &i.w.meter.get, n, atOnce, s3GetSeconds, bytes)
}
func (i *invocation) s3Put(ctx context.Context, key string, n, bytes int64) {
	i.s3(ctx, key, &i.w.meter.put, n, 1, s3PutSeconds, bytes)
}
func (i *invocation) s3List(ctx context.Context, key string, n, atOnce int64) {
	i.s3(ctx, key, &i.w.meter.list, n, atOnce, s3ListSeconds, 0)
}

// timed gives a context the function's deadline in virtual time. lambdahost takes its margin from it.
type timed struct {
	context.Context
	at time.Time
}

func (t timed) Deadline() (time.Time, bool) { return t.at, true }

// Invoke implements asl.Invoker.
func (w *world) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	f, ok := w.functions[function]
	if !ok {
		return nil, fmt.Errorf("no function %q", function)
	}
	if err := asl.Sleep(ctx, w.clock, seconds(w.latency(invokeSeconds))); err != nil {
		return nil, err
	}
	if function == "copy" || function == "replay" { // children of a Map Run
		if err := asl.Sleep(ctx, w.clock, seconds(w.latency(mapRunSeconds))); err != nil {
			return nil, err
		}
	}
	began := w.clock.Now()
	ctx = timed{ctx, began.Add(time.Duration(f.TimeoutSeconds) * time.Second)}
	w.mu.Lock()
	w.meter.invocations++
	i := &invocation{w: w, ctx: ctx, function: function, number: w.meter.invocations}
	w.mu.Unlock()
	out, err := w.call(i, function, payload)
	if owed := i.pay(ctx); err == nil && owed != nil {
		// The work is done, but its answer came too late: the service kills the function.
		err = &asl.StateError{Name: "Sandbox.Timedout", Cause: fmt.Sprintf("Task timed out after %d seconds", f.TimeoutSeconds)}
	}
	took := w.clock.Now().Sub(began)
	w.mu.Lock()
	w.meter.gbSeconds += took.Seconds() * float64(f.MemoryMB) / 1024
	w.longest[function] = max(w.longest[function], took)
	if !w.firstBlock.IsZero() && !w.opened.After(w.firstBlock) || function == "freeze" || function == "finish" {
		w.frozen[function] += took.Seconds()
	}
	w.largestOutput[function] = max(w.largestOutput[function], len(out))
	w.mu.Unlock()
	return out, err
}

func handle[In, Out any](i *invocation, run func(context.Context, In) (Out, error), payload []byte) ([]byte, error) {
	out, err := lambdahost.Handle(i.ctx, func(ctx context.Context, in In) (Out, error) {
		i.main = ctx.Done()
		return run(ctx, in)
	}, payload)
	if typed, ok := errors.AsType[messages.InvokeResponse_Error](err); ok {
		if i.w.cfg.Trace != nil {
			i.w.cfg.Trace("%s %s failed: %s: %s", i.w.clock.Now().Format(time.DateTime), i.function, typed.Type, typed.Message)
		}
		return nil, &asl.FunctionError{Type: typed.Type, Message: typed.Message}
	}
	return out, err
}

// call runs one step, wired as lambdas/<function>/main.go wires it.
func (w *world) call(i *invocation, function string, payload []byte) ([]byte, error) {
	store := journal.NewStore(journalView{i}, "journal")
	view := func(e migration.Endpoint) *domainView { return w.view(i, e) }
	switch function {
	case "preflight":
		return handle(i, step.Preflight{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.PreflightDomain { return view(e) }}.Run, payload)
	case "register":
		return handle(i, step.Register{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.RegisterDomain { return view(e) }}.Run, payload)
	case "snapshot":
		return handle(i, step.Snapshot{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.SnapshotDomain { return view(e) }}.Run, payload)
	case "poll-status":
		return handle(i, step.PollStatus{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.PollStatusDomain { return view(e) }}.Run, payload)
	case "plan-copy":
		return handle(i, step.PlanCopy{Journal: store, Clock: i, Copier: func(_, _ migration.Repository) step.CopyPlanner { return copier{i} }}.Run, payload)
	case "copy":
		return handle(i, step.Copy{Journal: store, Clock: i, Copier: func(_, _ migration.Repository) step.RangeCopier { return copier{i} }}.Run, payload)
	case "publish-copy":
		return handle(i, step.PublishCopy{Journal: store, Clock: i, Copier: func(_, _ migration.Repository) step.CopyPublisher { return copier{i} },
			Blobs: func(migration.Repository) repository.BlobReader { return fileLists{i} }}.Run, payload)
	case "restore":
		return handle(i, step.Restore{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.RestoreDomain { return view(e) }}.Run, payload)
	case "record-round":
		return handle(i, step.RecordRound{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.RecordRoundDomain { return view(e) }}.Run, payload)
	case "plan-replay":
		return handle(i, step.PlanReplay{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.PlanReplayDomain { return view(e) },
			Replay: func(_, _ migration.Endpoint) step.PassPlanner { return replayer{i} }}.Run, payload)
	case "replay":
		return handle(i, step.Replay{Journal: store, Replay: func(_, _ migration.Endpoint) step.SliceReplayer { return replayer{i} }}.Run, payload)
	case "reconcile-deletes":
		return handle(i, step.ReconcileDeletes{Journal: store, Replay: func(_, _ migration.Endpoint) step.DeleteReconciler { return replayer{i} }}.Run, payload)
	case "record-pass":
		return handle(i, step.RecordPass{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.RecordPassDomain { return view(e) }}.Run, payload)
	case "decide":
		return handle(i, step.Decide{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.DecideDomain { return view(e) },
			Replay: func(_, _ migration.Endpoint) step.ReplayVerifier { return replayer{i} }}.Run, payload)
	case "ask":
		return handle(i, step.Ask{Journal: store, Clock: i}.Run, payload)
	case "freeze":
		return handle(i, step.Freeze{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.FreezeDomain { return view(e) }}.Run, payload)
	case "verify":
		return handle(i, step.Verify{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.VerifyDomain { return view(e) },
			Replay: func(_, _ migration.Endpoint) step.ReplayVerifier { return replayer{i} }}.Run, payload)
	case "finish":
		return handle(i, step.Finish{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.FinishDomain { return view(e) }}.Run, payload)
	case "thaw":
		return handle(i, step.Thaw{Journal: store, Clock: i, Domain: func(e migration.Endpoint) step.ThawDomain { return view(e) }}.Run, payload)
	}
	return nil, fmt.Errorf("the simulation has no function %q", function)
}
