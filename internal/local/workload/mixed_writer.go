package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// lostPause is how long a client waits when a domain did not answer: a dead node must not make every document's state unknown.
const lostPause = time.Second

// mixedKind is what an operation does.
type mixedKind uint8

const (
	insert  mixedKind = iota // a new id
	replace                  // the whole document anew
	patch                    // a partial update
	remove
	revive // a deleted id again
)

func (k mixedKind) String() string {
	return [...]string{"insert", "replace", "patch", "remove", "revive"}[k]
}

// MixedWriterOptions tune a MixedWriter.
type MixedWriterOptions struct {
	// Rate in operations a second; 0 is 700.
	Rate float64
	// Parallel requests; 0 is 8.
	Parallel int
	// Cuts is the share of requests, 0 to 1, whose connection the writer itself cuts a few milliseconds after sending.
	Cuts float64
}

// MixedStats is what a MixedWriter has seen so far. Numbers are operations.
type MixedStats struct {
	Acknowledged  int64 `json:"acknowledged"`
	AtDestination int64 `json:"atDestination"` // of Acknowledged
	Refused       int64 `json:"refused"`       // by a write block or a 429: had no effect, forgotten
	Unknown       int64 `json:"unknown"`       // cut, timed out or 5xx: both outcomes are allowed, and the document is left alone
	// Surprises are answers that contradict the ledger, such as "not found" for a document that was acknowledged.
	Surprises     int64    `json:"surprises"`
	FirstSurprise []string `json:"firstSurprise,omitempty"` // up to 20
	// OpenSeconds is the time in which no index was refused; Rate is Acknowledged over it.
	OpenSeconds float64 `json:"openSeconds"`
	Rate        float64 `json:"rate"`
	// DowntimeSeconds is the latest time from the first refused operation to the first acknowledged one on an index that had refused,
	// without what Hold took of it.
	DowntimeSeconds float64 `json:"downtimeSeconds"`
	LastError       string  `json:"lastError,omitempty"`
}

// MixedWriter writes to the indices of a Mixed workload from StartMixedWriter to Stop. It never repeats an operation: each is
// acknowledged, refused, or of unknown outcome, and the ledger says which.
type MixedWriter struct {
	mixed    *Mixed
	options  MixedWriterOptions
	pacer    pacer
	ctx      context.Context
	cancel   context.CancelFunc
	stopping chan struct{}
	stopOnce sync.Once
	workers  sync.WaitGroup

	// flights is held for reading while a request is under way, for writing by Hold.
	flights sync.RWMutex

	mu       sync.Mutex
	target   Client
	side     Side
	stats    MixedStats
	began    time.Time
	closed   time.Duration // of the interruptions that are over
	heldFor  time.Duration // of the interruption that goes on
	refusing map[uint8]bool
	since    time.Time // of the interruption that goes on
}

// StartMixedWriter starts writing to the source. Cancelling ctx ends it at once.
func StartMixedWriter(ctx context.Context, source Client, m *Mixed, o MixedWriterOptions) *MixedWriter {
	if o.Rate == 0 {
		o.Rate = 700
	}
	if o.Parallel == 0 {
		o.Parallel = 8
	}
	now := time.Now()
	w := &MixedWriter{mixed: m, options: o, stopping: make(chan struct{}), target: source, side: Source, began: now, refusing: map[uint8]bool{},
		pacer: pacer{interval: time.Duration(float64(time.Second) / o.Rate), next: now}}
	w.ctx, w.cancel = context.WithCancel(ctx)
	for worker := range o.Parallel {
		random := rand.New(rand.NewPCG(m.Seed, uint64(worker)+100))
		w.workers.Go(func() { w.work(random) })
	}
	return w
}

// Hold waits until no request is under way and lets none begin until resume is called: both domains stand still then.
func (w *MixedWriter) Hold() (resume func()) {
	w.flights.Lock()
	began := time.Now()
	return func() {
		w.mu.Lock()
		w.heldFor += time.Since(began)
		w.mu.Unlock()
		w.flights.Unlock()
	}
}

// SwitchTo makes the destination the target of every operation that begins from now on.
func (w *MixedWriter) SwitchTo(destination Client) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.target, w.side = destination, Destination
}

// Stop begins no further operation and waits for the answers of those under way.
func (w *MixedWriter) Stop() {
	w.stopOnce.Do(func() { close(w.stopping) })
	w.workers.Wait()
	w.cancel()
}

// Stats returns a copy.
func (w *MixedWriter) Stats() MixedStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.FirstSurprise = append([]string(nil), s.FirstSurprise...)
	open := time.Since(w.began) - w.closed
	if len(w.refusing) > 0 {
		open -= time.Since(w.since)
	}
	s.OpenSeconds = open.Seconds()
	s.Rate = float64(s.Acknowledged) / s.OpenSeconds
	return s
}

// mixedOp is an operation under way.
type mixedOp struct {
	*subject
	kind   mixedKind
	number uint32
	after  state // if it is carried out; version 0 is not known
}

func (w *MixedWriter) work(random *rand.Rand) {
	for {
		size := 5 + random.IntN(30)
		if !w.pacer.wait(w.ctx, w.stopping, size) {
			return
		}
		w.flights.RLock()
		ops, body := w.compose(random, size)
		if len(ops) > 0 {
			w.send(random, ops, body)
		}
		w.flights.RUnlock()
	}
}

// compose begins up to size operations on one index: an engine syncs its log once a shard and request, so that a request over many
// indices would measure the disk.
func (w *MixedWriter) compose(random *rand.Rand, size int) (ops []*mixedOp, body []byte) {
	m := w.mixed
	m.mu.Lock()
	defer m.mu.Unlock()
	index := m.chooseIndex(random)
	x := &m.Indices[index]
	for range size {
		op := m.begin(random, index)
		if op == nil {
			continue
		}
		action := map[mixedKind]string{insert: "create", replace: "index", patch: "update", remove: "delete", revive: "index"}[op.kind]
		if x.nature == external && op.kind == insert {
			action = "index"
		}
		body = x.appendAction(body, action, op.n, op.after.version)
		switch op.kind {
		case remove:
		case patch:
			body = append(m.changes(append(body, `{"doc":{`...), index, op.number), "}}\n"...)
		default:
			body = append(m.content(body, index, op.n, op.number), "}\n"...)
		}
		ops = append(ops, op)
	}
	return ops, body
}

func (m *Mixed) chooseIndex(random *rand.Rand) int {
	sum := 0
	for _, x := range m.Indices {
		sum += x.share
	}
	at := random.IntN(sum)
	for i, x := range m.Indices {
		if at < x.share {
			return i
		}
		at -= x.share
	}
	return 0
}

// begin claims a document for an operation; nil when a few tries find none that is free and in the right state. The caller holds m.mu.
func (m *Mixed) begin(random *rand.Rand, index int) *mixedOp {
	x := &m.Indices[index]
	kind, p := insert, random.IntN(100)
	switch {
	case p < x.mix.replace:
		kind = replace
	case p < x.mix.replace+x.mix.patch:
		kind = patch
	case p < x.mix.replace+x.mix.patch+x.mix.remove:
		kind = remove
	case p < x.mix.replace+x.mix.patch+x.mix.remove+x.mix.revive:
		kind = revive
	}
	var s *subject
	if kind == insert {
		s = &subject{index: uint8(index), n: uint32(len(m.subjects[index]))}
		m.subjects[index] = append(m.subjects[index], s)
	} else if s = m.find(random, index, kind); s == nil {
		return nil
	}
	s.busy = true
	m.next++
	op := &mixedOp{subject: s, kind: kind, number: m.next, after: state{there: kind != remove, base: m.next}}
	if kind == patch {
		op.after.base, op.after.patch = s.now.base, m.next
	}
	switch {
	case x.nature == external:
		op.after.version = s.now.version + 1 + int64(random.IntN(5))
	case s.now.there:
		op.after.version = s.now.version + 1
	}
	return op
}

func (m *Mixed) find(random *rand.Rand, index int, kind mixedKind) *subject {
	all := m.subjects[index]
	const tries = 40
	for range tries {
		n := random.IntN(len(all))
		if random.IntN(3) == 0 { // what was written lately is written again
			n = len(all) - 1 - random.IntN(min(len(all), 500))
		}
		if s := all[n]; !s.busy && !s.retired && s.now.there == (kind != revive) {
			return s
		}
	}
	return nil
}

// send sends one _bulk and books its answers.
func (w *MixedWriter) send(random *rand.Rand, ops []*mixedOp, body []byte) {
	w.mu.Lock()
	target, side := w.target, w.side
	w.mu.Unlock()
	ctx, cancel := w.ctx, context.CancelFunc(func() {})
	if random.Float64() < w.options.Cuts {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(25_000))*time.Microsecond)
	}
	items, err := target.bulk(ctx, body, len(ops))
	cancel()
	now := time.Now()
	whole := acknowledged
	if err != nil {
		whole = doubtful
		if answer, ok := errors.AsType[*answerError](err); ok {
			whole = classify(answer.status, answer.kind)
		}
		w.note(err)
	}
	var wait time.Duration
	for i, op := range ops {
		result, item := whole, bulkItem{}
		if err == nil {
			item = items[i]
			kind := ""
			if item.Error != nil {
				kind = item.Error.Type
				w.note(fmt.Errorf("_bulk item answered %d: %s", item.Status, item.Error))
			}
			if result = classify(item.Status, kind); item.Status == http.StatusConflict || item.Status == http.StatusNotFound {
				result = rejected
			}
		}
		switch result {
		case acknowledged:
			w.acknowledge(op, item, side, now)
		case blocked, throttled:
			wait = max(wait, refusedPause)
			w.refuse(op, result == blocked, now)
		case doubtful:
			if ctx == w.ctx {
				wait = lostPause
			}
			w.doubt(op, side, now)
		case rejected:
			// The state stays as it was: the comparison will show whether the ledger or the answer is wrong.
			w.surprise(op, fmt.Sprintf("the %s answered %d to %s: %v %v", side, item.Status, op.kind, item.Error, err))
			w.mixed.settle(op, func(s *subject) { s.retired = true })
		}
	}
	if wait > 0 {
		_ = Pause(w.ctx, wait) // the Writer's end is seen by the pacer
	}
}

// settle ends an operation; book changes the document's entry.
func (m *Mixed) settle(op *mixedOp, book func(*subject)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	book(op.subject)
	op.busy = false
}

func (w *MixedWriter) acknowledge(op *mixedOp, item bulkItem, side Side, now time.Time) {
	if want := op.after.version; want != 0 && item.Version != want {
		w.surprise(op, fmt.Sprintf("the %s answered version %d to %s, expected is %d", side, item.Version, op.kind, want))
	}
	if op.kind == patch && item.Result == "noop" {
		w.surprise(op, fmt.Sprintf("the %s answered that the partial update changes nothing", side))
	}
	op.after.version = item.Version
	seqNo := int64(-1)
	if item.SeqNo != nil {
		seqNo = *item.SeqNo
	}
	w.mixed.settle(op, func(s *subject) {
		s.keepSource(side)
		s.now = op.after
		s.events = append(s.events, event{at: now, number: op.number, kind: op.kind, side: side, version: item.Version, seqNo: seqNo})
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Acknowledged++
	if side == Destination {
		w.stats.AtDestination++
	}
	if w.refusing[op.index] {
		w.stats.DowntimeSeconds = (now.Sub(w.since) - w.heldFor).Seconds()
		w.closed += now.Sub(w.since)
		clear(w.refusing)
		w.heldFor = 0
	}
}

// keepSource remembers what the source holds before the destination takes the first write. The caller holds the ledger's lock.
func (s *subject) keepSource(side Side) {
	if side == Destination && s.source == nil {
		was := s.now
		s.source = &was
	}
}

func (w *MixedWriter) refuse(op *mixedOp, blocked bool, now time.Time) {
	w.mixed.settle(op, func(*subject) {})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Refused++
	if !blocked {
		return
	}
	if len(w.refusing) == 0 {
		w.since, w.heldFor = now, 0
	}
	w.refusing[op.index] = true
}

func (w *MixedWriter) doubt(op *mixedOp, side Side, now time.Time) {
	w.mixed.settle(op, func(s *subject) {
		s.keepSource(side)
		s.maybe, s.retired = &op.after, true
		s.events = append(s.events, event{at: now, number: op.number, kind: op.kind, side: side, unknown: true})
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Unknown++
}

func (w *MixedWriter) surprise(op *mixedOp, text string) {
	x := &w.mixed.Indices[op.index]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Surprises++
	if len(w.stats.FirstSurprise) < missingShown {
		w.stats.FirstSurprise = append(w.stats.FirstSurprise, fmt.Sprintf("%s/%q: %s", x.Name, x.id(op.n), text))
	}
}

func (w *MixedWriter) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.LastError = err.Error()
}
