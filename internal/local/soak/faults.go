package soak

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Place is where a fault happens.
type Place string

// The places.
const (
	Source      Place = "source"
	Destination Place = "destination"
	S3          Place = "s3"
	Lambda      Place = "lambda"
)

// Kind is what happens to a request of a function, or to the function.
type Kind string

// The kinds. The first four are of domains, the next of all three services, the last of Lambda.
const (
	Timeout           Kind = "504"
	TimeoutWithEffect Kind = "504-with-effect"
	TimeoutLate       Kind = "504-with-late-effect" // the effect comes some seconds after the answer
	Throttle          Kind = "429"                  // of S3 and Lambda, too
	Unavailable       Kind = "503"
	InternalError     Kind = "500"             // of S3
	Cut               Kind = "cut"             // no answer, no effect
	CutWithEffect     Kind = "cut-with-effect" // no answer
	Slow              Kind = "slow"            // the request arrives late; it has its effect even when its caller has given up
	Skewed            Kind = "clock-skew"      // signatures are refused for a while; of Lambda: the function's clock is off
	KilledBefore      Kind = "killed-before"   // the process dies before the request has its effect
	KilledAfter       Kind = "killed-after"
	Hang              Kind = "hang" // until the function's time is over

	passed Kind = ""
)

// kinds are what may happen at a place.
var kinds = map[Place][]Kind{
	Source:      {Timeout, TimeoutWithEffect, TimeoutLate, Throttle, Unavailable, Cut, CutWithEffect, Slow, Skewed},
	Destination: {Timeout, TimeoutWithEffect, TimeoutLate, Throttle, Unavailable, Cut, CutWithEffect, Slow, Skewed},
	S3:          {Throttle, InternalError, Cut, CutWithEffect, Slow, Skewed},
	Lambda:      {KilledBefore, KilledAfter, Hang, Throttle, Skewed},
}

// Fault hits the Nth request from now on that it can hit, and as many after it as Times says.
type Fault struct {
	At    Place    `json:"at"`
	Kind  Kind     `json:"kind"`
	Nth   int      `json:"nth"`             // 1 is the next
	Times int      `json:"times,omitempty"` // 0 is once
	For   Duration `json:"for,omitempty"`   // how late an effect is or a request arrives, how long signatures are refused, how far a clock is off
	// Changing counts only requests that change something.
	Changing bool `json:"changing,omitempty"`
}

func (f Fault) check() error {
	if !slices.Contains(kinds[f.At], f.Kind) {
		return fmt.Errorf("there is no fault %q at %q", f.Kind, f.At)
	}
	if f.Nth < 1 {
		return fmt.Errorf("nth is %d; the next request is 1", f.Nth)
	}
	return nil
}

type armed struct {
	Fault
	left int // until it hits
	more int // times
}

func (w *world) arm(f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, &armed{f, f.Nth, max(1, f.Times)})
}

// disarm ends everything that is broken.
func (w *world) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults, w.skewed = nil, map[Place]time.Time{}
}

// request is one request of a function, or its invocation.
type request struct {
	at       Place
	what     string
	mutating bool
}

type hit struct {
	kind Kind
	by   time.Duration
}

// matches says whether the fault is of this request. What kills a function hits it at any of its requests.
func (f Fault) matches(r request) bool {
	if f.Changing && !r.mutating {
		return false
	}
	switch f.Kind {
	case KilledBefore, KilledAfter, Hang:
		return r.at != Lambda
	case TimeoutLate, TimeoutWithEffect, CutWithEffect:
		return r.at == f.At && r.mutating
	}
	return r.at == f.At
}

// hits books the request and says what happens to it. The caller holds w.mu.
func (w *world) hits(r request) (h hit) {
	if until, ok := w.skewed[r.at]; ok && time.Now().Before(until) {
		return hit{kind: Skewed}
	}
	for _, f := range slices.Clone(w.faults) {
		if !f.matches(r) {
			continue
		}
		if f.left--; f.left > 0 || h.kind != passed {
			continue
		}
		h = hit{f.Kind, time.Duration(f.For)}
		if f.Kind == Skewed && f.At != Lambda {
			w.skewed[r.at] = time.Now().Add(h.by)
		}
		w.counts.Faults[string(f.At)+" "+string(f.Kind)]++
		w.trace("%s: %s at %s: %s", time.Now().UTC().Format("15:04:05.000"), f.Kind, r.at, r.what)
		if f.more--; f.more <= 0 {
			w.faults = slices.DeleteFunc(w.faults, func(x *armed) bool { return x == f })
		}
	}
	return h
}

// request carries out a request of a function: it takes its time, may be hit, and has its effect or not. The verdict is what the caller is
// answered; an error means that nobody is there any more to be answered. Requests without an invocation are the harness's own.
func (w *world) request(ctx context.Context, inv *invocation, r request, effect func()) (Kind, error) {
	if inv == nil {
		effect()
		return passed, nil
	}
	if err := inv.dead(); err != nil {
		return passed, err
	}
	if err := sleep(ctx, w.latency(requestLatency, string(r.at), r.what, inv.key)); err != nil {
		return passed, err
	}
	if err := inv.dead(); err != nil {
		return passed, err
	}
	w.mu.Lock()
	h := w.hits(r)
	w.counts.Requests++
	w.mu.Unlock()
	switch h.kind {
	case KilledBefore:
		inv.die(errKilled)
		return passed, errKilled
	case KilledAfter:
		effect()
		inv.die(errKilled)
		return passed, errKilled
	case Hang:
		inv.die(errHung)
		return passed, errHung
	case passed, TimeoutWithEffect, CutWithEffect:
		effect()
	case TimeoutLate:
		w.work.Go(func() {
			if sleep(w.life, h.by) == nil {
				effect()
			}
		})
	case Slow:
		arrived := make(chan struct{})
		w.work.Go(func() {
			defer close(arrived)
			if sleep(w.life, h.by) == nil {
				effect()
			}
		})
		select {
		case <-arrived:
			h.kind = passed
		case <-ctx.Done():
			return passed, ctx.Err()
		}
	}
	return h.kind, sleep(ctx, w.latency(requestLatency/3, "answer", string(r.at), r.what, inv.key))
}
