package asl

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"time"
)

// Clock is the engine's time and its scheduler. Everything in the engine that waits, waits in Wait, so that a clock that knows all
// its strands may decide when time passes.
//
// A strand is a goroutine started by Go. Wait may be called only on a strand; Now, Go and NewWaker anywhere.
type Clock interface {
	// Now is the current time of this clock.
	Now() time.Time
	// Go runs f on a strand of its own.
	Go(f func())
	// NewWaker makes a one-shot signal for Wait.
	NewWaker() Waker
	// Wait blocks the calling strand until w is woken or the clock reaches until; the zero time means no limit. It says whether w was woken.
	Wait(w Waker, until time.Time) bool
}

// Waker ends one Wait. Wake may be called from any goroutine, early and more than once. A Waker belongs to the clock that made it.
type Waker interface{ Wake() }

// Sleep blocks the calling strand of clock for d, or until ctx is done, and then returns ctx's error. Stand-ins for Lambda
// functions that take time call it; on a VirtualClock they must not block in anything else, or time stands still.
func Sleep(ctx context.Context, clock Clock, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := clock.NewWaker()
	// The engine cancels its own contexts in order, on the strand that cancels; context.AfterFunc would wake from a foreign
	// goroutine some time later, and a virtual clock could have moved on by then.
	if sc, ok := ctx.Value(scopeKey{}).(*scope); ok {
		if !sc.attach(w) {
			return ctx.Err()
		}
		defer sc.detach(w)
	}
	stop := context.AfterFunc(ctx, w.Wake)
	defer stop()
	clock.Wait(w, clock.Now().Add(d))
	return ctx.Err()
}

// RealClock returns the clock of this machine.
func RealClock() Clock { return realClock{} }

type realClock struct{}

type realWaker struct {
	once sync.Once
	ch   chan struct{}
}

func (w *realWaker) Wake() { w.once.Do(func() { close(w.ch) }) }

func (realClock) Now() time.Time  { return time.Now() }
func (realClock) Go(f func())     { go f() }
func (realClock) NewWaker() Waker { return &realWaker{ch: make(chan struct{})} }

func (realClock) Wait(w Waker, until time.Time) bool {
	ch := w.(*realWaker).ch
	if until.IsZero() {
		<-ch
		return true
	}
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-ch:
		return true
	case <-t.C:
		return false
	}
}

// VirtualClock is a clock whose time passes only when every strand waits; it then jumps to the next deadline. Strands run one at a
// time in the order in which they became ready, so that a run is repeatable event by event.
//
// A strand that blocks outside the clock (a real request to a server, say) stops virtual time for that long, which is what one wants.
type VirtualClock struct {
	mu      sync.Mutex
	changed *sync.Cond
	now     time.Time
	running bool
	ready   []chan struct{}
	timers  timerHeap
	seq     int
	holds   int
}

// NewVirtualClock returns a virtual clock that stands at start.
func NewVirtualClock(start time.Time) *VirtualClock {
	c := &VirtualClock{now: start}
	c.changed = sync.NewCond(&c.mu)
	return c
}

type virtualWaker struct {
	clock *VirtualClock
	fired bool
	park  chan struct{} // set while a strand waits
}

// Wake implements Waker.
func (w *virtualWaker) Wake() {
	c := w.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	w.fired = true
	if w.park != nil {
		c.ready = append(c.ready, w.park)
		w.park = nil
		c.dispatch()
	}
}

type virtualTimer struct {
	at   time.Time
	seq  int
	w    *virtualWaker
	park chan struct{}
}

type timerHeap []virtualTimer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)   { *h = append(*h, x.(virtualTimer)) }
func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	*h = old[:len(old)-1]
	return t
}

// Now implements Clock.
func (c *VirtualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// NewWaker implements Clock.
func (c *VirtualClock) NewWaker() Waker { return &virtualWaker{clock: c} }

// Go implements Clock.
func (c *VirtualClock) Go(f func()) {
	turn := make(chan struct{})
	c.mu.Lock()
	c.ready = append(c.ready, turn)
	c.dispatch()
	c.mu.Unlock()
	go func() {
		<-turn
		defer func() {
			c.mu.Lock()
			c.running = false
			c.dispatch()
			c.mu.Unlock()
		}()
		f()
	}()
}

// Wait implements Clock.
func (c *VirtualClock) Wait(w Waker, until time.Time) bool {
	vw := w.(*virtualWaker)
	c.mu.Lock()
	if vw.fired || (!until.IsZero() && !until.After(c.now)) {
		defer c.mu.Unlock()
		return vw.fired
	}
	turn := make(chan struct{})
	vw.park = turn
	if !until.IsZero() {
		c.seq++
		heap.Push(&c.timers, virtualTimer{at: until, seq: c.seq, w: vw, park: turn})
	}
	c.running = false
	c.dispatch()
	c.mu.Unlock()
	<-turn
	c.mu.Lock()
	defer c.mu.Unlock()
	return vw.fired
}

// dispatch gives the turn to the next strand, moving time when none is ready. c.mu is held.
func (c *VirtualClock) dispatch() {
	for !c.running {
		if len(c.ready) > 0 {
			next := c.ready[0]
			c.ready = c.ready[1:]
			c.running = true
			close(next)
			return
		}
		c.dropDeadTimers()
		if c.holds > 0 || len(c.timers) == 0 {
			c.changed.Broadcast()
			return
		}
		t := heap.Pop(&c.timers).(virtualTimer)
		if t.at.After(c.now) {
			c.now = t.at
		}
		t.w.park = nil
		c.ready = append(c.ready, t.park)
	}
}

func (c *VirtualClock) dropDeadTimers() {
	for len(c.timers) > 0 && c.timers[0].w.park != c.timers[0].park {
		heap.Pop(&c.timers)
	}
}

// Hold stops time (strands still run) until release is called; tests start several executions at one instant with it.
func (c *VirtualClock) Hold() (release func()) {
	c.mu.Lock()
	c.holds++
	c.mu.Unlock()
	return sync.OnceFunc(func() {
		c.mu.Lock()
		c.holds--
		c.dispatch()
		c.mu.Unlock()
	})
}

// WaitIdle blocks the caller, which must not be a strand, until no strand runs and time does not move: all are done, or wait for a
// signal that only the outside can give, such as a task token, or time is held.
func (c *VirtualClock) WaitIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		c.dropDeadTimers()
		if !c.running && len(c.ready) == 0 && (len(c.timers) == 0 || c.holds > 0) {
			return
		}
		c.changed.Wait()
	}
}

// scope is a cancellable part of an execution. It is a context.Context for the task that runs in it; unlike the contexts of the
// standard library it wakes the strands that wait in it before cancel returns.
type scope struct {
	mu       sync.Mutex
	parent   *scope
	done     chan struct{}
	err      error   // why it was cancelled; nil while live
	wakers   []Waker // in order, so that cancelling is repeatable
	children []*scope
}

type scopeKey struct{}

func newScope(parent *scope) *scope {
	sc := &scope{parent: parent, done: make(chan struct{})}
	if parent == nil {
		return sc
	}
	parent.mu.Lock()
	err := parent.err
	if err == nil {
		parent.children = append(parent.children, sc)
	}
	parent.mu.Unlock()
	if err != nil {
		sc.cancel(err)
	}
	return sc
}

// cancel ends the scope and everything below it; the first reason stays.
func (sc *scope) cancel(err error) {
	sc.mu.Lock()
	if sc.err != nil {
		sc.mu.Unlock()
		return
	}
	sc.err = err
	close(sc.done)
	wakers, children := sc.wakers, sc.children
	sc.wakers, sc.children = nil, nil
	sc.mu.Unlock()
	for _, w := range wakers {
		w.Wake()
	}
	for _, child := range children {
		child.cancel(err)
	}
}

// release takes a finished scope out of its parent, cancelling what still uses it as a context.
func (sc *scope) release() {
	sc.cancel(context.Canceled)
	if p := sc.parent; p != nil {
		p.mu.Lock()
		p.children = slices.DeleteFunc(p.children, func(x *scope) bool { return x == sc })
		p.mu.Unlock()
	}
}

func (sc *scope) cause() error {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.err
}

func (sc *scope) attach(w Waker) bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.err != nil {
		return false
	}
	sc.wakers = append(sc.wakers, w)
	return true
}

func (sc *scope) detach(w Waker) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.wakers = slices.DeleteFunc(sc.wakers, func(x Waker) bool { return x == w })
}

// wait waits for w in the scope; a cancelled scope ends it with the reason.
func (sc *scope) wait(clock Clock, w Waker, until time.Time) (woken bool, err error) {
	if !sc.attach(w) {
		return false, sc.cause()
	}
	woken = clock.Wait(w, until)
	sc.detach(w)
	return woken, sc.cause()
}

// Deadline implements context.Context; a scope has none, the engine cancels it in time.
func (sc *scope) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (sc *scope) Done() <-chan struct{} { return sc.done }

// Err implements context.Context.
func (sc *scope) Err() error {
	if sc.cause() != nil {
		return context.Canceled
	}
	return nil
}

// Value implements context.Context.
func (sc *scope) Value(key any) any {
	if _, ok := key.(scopeKey); ok {
		return sc
	}
	return nil
}
