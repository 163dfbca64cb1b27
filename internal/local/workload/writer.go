package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// DefaultRate is the Writer's rate in operations a second unless told otherwise.
	DefaultRate = 200
	// DefaultParallel is how many _bulk requests the Writer has under way at most unless told otherwise.
	DefaultParallel = 4

	refusedPause = 50 * time.Millisecond // before a refused write is tried again; it bounds the error of the downtime seen
	doubtPause   = 200 * time.Millisecond
	busyPause    = 200 * time.Millisecond
	rateWindow   = 5 // seconds

	// A refusal this soon after an interruption belongs to it: an answer that was slow, or an index that was thawed a little later.
	straggling = time.Second
)

// WriterOptions tune a Writer.
type WriterOptions struct {
	// Rate in operations a second over all indices; 0 means DefaultRate.
	Rate float64
	// Parallel requests; 0 means DefaultParallel.
	Parallel int
}

// Side says which domain a write was acknowledged by.
type Side string

// The two sides. Which one is meant is the Writer's view: destination is whatever SwitchTo named.
const (
	Source      Side = "source"
	Destination Side = "destination"
)

// Interruption is a time in which writes were refused by a write block.
type Interruption struct {
	FirstRefused time.Time `json:"firstRefused"`
	// FirstAccepted is when the first of the refused writes was acknowledged, zero while none is. Writes that were never refused do not
	// count: while a freeze spreads over the indices, some still take writes.
	FirstAccepted time.Time `json:"firstAccepted"`
	// AllAccepted is when the last of the refused writes was acknowledged (or refused for another reason), zero before.
	AllAccepted time.Time `json:"allAccepted"`
	// AcceptedBy is Source after a thaw and Destination after a cut-over.
	AcceptedBy Side `json:"acceptedBy,omitempty"`
}

// Seconds is from the first refused to the first accepted write, 0 while none is accepted.
func (i Interruption) Seconds() float64 {
	if i.FirstAccepted.IsZero() {
		return 0
	}
	return i.FirstAccepted.Sub(i.FirstRefused).Seconds()
}

// Stats is what the Writer has seen so far.
type Stats struct {
	Acknowledged   int64 `json:"acknowledged"`   // operations
	Refused        int64 `json:"refused"`        // operations refused by a write block at least once; they are tried again
	Rejected       int64 `json:"rejected"`       // operations refused for any other reason and given up
	UnknownRetried int64 `json:"unknownRetried"` // operations with an attempt of unknown outcome
	Pending        int64 `json:"pending"`        // operations without an answer yet; after Stop: given up without one

	AtSource      int64 `json:"atSource"` // of Acknowledged
	AtDestination int64 `json:"atDestination"`

	// FirstRefused, FirstAcceptedAfter, AcceptedBy and DowntimeSeconds are those of the latest interruption: one before it ended in a thaw
	// and belongs to a cut-over that failed. DowntimeSeconds is 0 while the interruption lasts.
	FirstRefused       time.Time `json:"firstRefused"`
	FirstAcceptedAfter time.Time `json:"firstAcceptedAfter"`
	AcceptedBy         Side      `json:"acceptedBy,omitempty"`
	DowntimeSeconds    float64   `json:"downtimeSeconds"`

	Interruptions []Interruption `json:"interruptions,omitempty"`
	Rate          float64        `json:"rate"`                // acknowledged operations a second over the last 5 s
	LastError     string         `json:"lastError,omitempty"` // the latest failure of any kind but the write block
}

// operation is one write under way.
type operation struct {
	position uint32
	number   uint32
	kind     opKind
	lines    []byte // action and source, as they stand in a _bulk
	doubtful bool   // an attempt had an unknown outcome
	held     bool   // an attempt was refused by a write block
}

// Writer keeps writing to a dataset's indices from StartWriter to Stop. It sends small bulks: appends to logs; inserts, updates,
// replacements and deletes in the catalogue; copies, partial updates and deletes of those copies in the index of a user's file.
//
// An operation whose outcome is unknown is repeated, with the same id and token, until it is answered; only an answer
// acknowledges it. A document has at most one operation in flight, so its final state is well-defined.
type Writer struct {
	dataset *Dataset
	ledger  *ledger
	pacer   pacer
	writing []int // positions of the indices that are written

	ctx      context.Context // of the requests
	cancel   context.CancelFunc
	stopping chan struct{}
	stopOnce sync.Once
	workers  sync.WaitGroup

	mu       sync.Mutex
	target   Client
	side     Side
	switched chan struct{} // closed and replaced by SwitchTo
	stats    Stats
	held     int // operations refused by the write block and not acknowledged yet
	// atDestination are the positions of the documents that the destination acknowledged writes of.
	atDestination []uint32
	seconds       [rateWindow + 1]struct{ second, acknowledged int64 }
}

// StartWriter starts writing to the source. Cancelling ctx ends the Writer at once, as Stop with an ended context does.
func StartWriter(ctx context.Context, source Client, dataset *Dataset, opts WriterOptions) (*Writer, error) {
	if opts.Rate == 0 {
		opts.Rate = DefaultRate
	}
	if opts.Parallel == 0 {
		opts.Parallel = DefaultParallel
	}
	if opts.Rate < 0 || opts.Parallel < 0 {
		return nil, fmt.Errorf("start the writer: rate %g and parallel %d must be positive", opts.Rate, opts.Parallel)
	}
	now := time.Now()
	w := &Writer{
		dataset: dataset, ledger: newLedger(dataset, strconv.FormatInt(now.UnixMilli(), 36)),
		pacer:    pacer{interval: time.Duration(float64(time.Second) / opts.Rate), next: now},
		stopping: make(chan struct{}), target: source, side: Source, switched: make(chan struct{}),
	}
	for i, index := range dataset.Indices {
		if index.Kind != Static {
			w.writing = append(w.writing, i)
		}
	}
	if len(w.writing) == 0 {
		return nil, errors.New("start the writer: the dataset has no index to write to")
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	for worker := range opts.Parallel {
		random := rand.New(rand.NewPCG(dataset.Seed, uint64(worker)+1))
		w.workers.Go(func() { w.work(random) })
	}
	return w, nil
}

// SwitchTo makes the destination the target of every attempt from now on; attempts under way at the source run to their end.
func (w *Writer) SwitchTo(destination Client) { w.switchTo(destination, Destination) }

// SwitchBack makes the source the target again, after a SwitchTo.
func (w *Writer) SwitchBack(source Client) { w.switchTo(source, Source) }

func (w *Writer) switchTo(target Client, side Side) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.target, w.side = target, side
	close(w.switched)
	w.switched = make(chan struct{})
}

// Stop begins no further operation, waits until every one under way is answered, and ends the Writer. When ctx ends first, it gives
// up the rest and returns an error that says how many; they do not count as acknowledged. A second Stop only waits.
func (w *Writer) Stop(ctx context.Context) error {
	w.stopOnce.Do(func() { close(w.stopping) })
	done := make(chan struct{})
	go func() {
		w.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		w.cancel()
		<-done
	}
	w.cancel()
	if stats := w.Stats(); stats.Pending > 0 {
		return fmt.Errorf("stop the writer: %d operations were never answered by %s (last error: %s)", stats.Pending, w.address(), stats.LastError)
	}
	return nil
}

func (w *Writer) address() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.target.URL
}

// Stats returns a copy.
func (w *Writer) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.Interruptions = append([]Interruption(nil), s.Interruptions...)
	if n := len(s.Interruptions); n > 0 {
		latest := s.Interruptions[n-1]
		s.FirstRefused, s.FirstAcceptedAfter = latest.FirstRefused, latest.FirstAccepted
		s.AcceptedBy, s.DowntimeSeconds = latest.AcceptedBy, latest.Seconds()
	}
	now := time.Now().Unix()
	for _, slot := range w.seconds {
		if slot.second < now && slot.second >= now-rateWindow { // the present second is not full yet
			s.Rate += float64(slot.acknowledged) / rateWindow
		}
	}
	return s
}

func (w *Writer) work(random *rand.Rand) {
	for {
		operations := w.compose(random)
		if len(operations) == 0 { // every document is busy or retired for the moment
			if !w.pacer.wait(w.ctx, w.stopping, 1) {
				return
			}
			continue
		}
		if !w.pacer.wait(w.ctx, w.stopping, len(operations)) {
			for _, op := range operations {
				w.ledger.giveUp(op)
			}
			return
		}
		w.mu.Lock()
		w.stats.Pending += int64(len(operations))
		w.mu.Unlock()
		w.deliver(operations)
	}
}

// compose begins the operations of one small bulk on one index.
func (w *Writer) compose(random *rand.Rand) []*operation {
	index := w.writing[random.IntN(len(w.writing))]
	x := &w.dataset.Indices[index]
	size := 5
	if x.Kind == Logs {
		size = 10
	}
	var operations []*operation
	for range size {
		kind, fresh := opIndex, true
		if x.Kind != Logs {
			switch p := random.IntN(100); {
			case p < 35: // insert
			case p < 75:
				kind, fresh = opUpdate, false
			case p < 88:
				kind, fresh = opDelete, false
			case x.Kind == Catalogue: // replace a product or bring a deleted one back
				fresh = false
			}
		}
		position, number, ok := w.ledger.begin(random, index, kind, fresh)
		if !ok {
			continue
		}
		op := &operation{position: position, number: number, kind: kind}
		if err := w.write(random, op); err != nil {
			w.ledger.giveUp(op)
			w.note(err)
			continue
		}
		operations = append(operations, op)
	}
	return operations
}

// write fills in the lines of an operation.
func (w *Writer) write(random *rand.Rand, op *operation) error {
	d := w.ledger.document(op.position)
	x := &w.dataset.Indices[d.index]
	op.lines = x.appendAction(nil, op.kind.String(), w.ledger.id(&d), x.routing(d.n))
	token := w.ledger.token(op.number)
	switch {
	case op.kind == opDelete:
		return nil
	case op.kind == opUpdate:
		op.lines = append(op.lines, `{"doc":{`...)
		if x.Kind == Catalogue {
			op.lines = append(price(op.lines, random), ',')
		}
		op.lines = append(append(op.lines, `"`+TokenField+`":"`...), token...)
		op.lines = append(op.lines, `"}}`...)
	case x.Kind == File:
		var err error
		if op.lines, err = withToken(op.lines, pick(random, x.sample).source, token); err != nil {
			return fmt.Errorf("copy a document of %s: %w", x.Name, err)
		}
	default:
		op.lines = x.appendOpen(op.lines, random, d.n, time.Now())
		op.lines = append(append(op.lines, `,"`+TokenField+`":"`...), token...)
		op.lines = append(op.lines, `"}`...)
	}
	op.lines = append(op.lines, '\n')
	return nil
}

// deliver sends the operations until each is acknowledged or rejected, or the Writer ends.
func (w *Writer) deliver(pending []*operation) {
	for len(pending) > 0 {
		w.mu.Lock()
		target, side, switched := w.target, w.side, w.switched
		w.mu.Unlock()
		var data []byte
		for _, op := range pending {
			data = append(data, op.lines...)
		}
		items, err := target.bulk(w.ctx, data, len(pending))
		var wait time.Duration
		if pending, wait = w.settle(pending, items, err, side); len(pending) == 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-switched:
		case <-w.ctx.Done():
		}
		timer.Stop()
		if w.ctx.Err() != nil {
			for _, op := range pending {
				w.ledger.giveUp(op)
			}
			return
		}
	}
}

type outcome int

const (
	acknowledged outcome = iota
	blocked              // refused by a write block: not carried out, may be accepted later
	throttled            // not carried out, to be tried again
	doubtful             // perhaps carried out
	rejected             // not carried out, and never will be
)

func classify(status int, kind string) outcome {
	switch {
	case status >= 200 && status < 300:
		return acknowledged
	case status == http.StatusForbidden && kind == "cluster_block_exception", kind == "index_closed_exception":
		return blocked
	// 409 comes when a first attempt of unknown outcome is carried out while its repetition is: neither is lost by a third.
	case status == http.StatusTooManyRequests, status == http.StatusConflict:
		return throttled
	case status >= 500, status == 0:
		return doubtful
	}
	return rejected
}

// settle books the answers and returns what is to be sent again and after how long.
func (w *Writer) settle(sent []*operation, items []bulkItem, err error, side Side) (again []*operation, wait time.Duration) {
	now := time.Now()
	whole := acknowledged
	if err != nil {
		whole = doubtful
		if answer, ok := errors.AsType[*answerError](err); ok {
			whole = classify(answer.status, answer.kind)
		}
	}
	for i, op := range sent {
		result, reason := whole, err
		if err == nil {
			item := items[i]
			kind := ""
			if item.Error != nil {
				kind = item.Error.Type
				reason = fmt.Errorf("%s: _bulk item answered %d: %s", w.address(), item.Status, item.Error)
			}
			result = classify(item.Status, kind)
			if op.kind == opDelete && item.Status == http.StatusNotFound && item.Error == nil {
				result = acknowledged // gone already: an earlier attempt had done it
			}
			if result != acknowledged && reason == nil {
				reason = fmt.Errorf("%s: _bulk item answered %d without a reason", w.address(), item.Status)
			}
		}
		switch result {
		case acknowledged:
			w.ledger.acknowledge(op)
			w.acknowledged(op, side, now)
			continue
		case rejected:
			w.ledger.giveUp(op)
			w.rejected(op, now)
		case blocked:
			w.blocked(op, now)
			wait = max(wait, refusedPause)
		case throttled:
			wait = max(wait, busyPause)
		case doubtful:
			w.doubt(op)
			wait = max(wait, doubtPause)
		}
		if result != blocked {
			w.note(reason)
		}
		if result != rejected {
			again = append(again, op)
		}
	}
	return again, wait
}

func (w *Writer) note(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.LastError = err.Error()
}

func (w *Writer) acknowledged(op *operation, side Side, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Acknowledged++
	w.stats.Pending--
	if side == Source {
		w.stats.AtSource++
	} else {
		w.stats.AtDestination++
		w.atDestination = append(w.atDestination, op.position)
	}
	second := now.Unix()
	slot := &w.seconds[second%int64(len(w.seconds))]
	if slot.second != second {
		slot.second, slot.acknowledged = second, 0
	}
	slot.acknowledged++
	if op.held {
		latest := &w.stats.Interruptions[len(w.stats.Interruptions)-1]
		if latest.FirstAccepted.IsZero() {
			latest.FirstAccepted, latest.AcceptedBy = now, side
		}
		w.release(now)
	}
}

// release counts a refused operation as answered; the interruption is over with the last of them. The caller holds w.mu.
func (w *Writer) release(now time.Time) {
	if w.held--; w.held == 0 {
		w.stats.Interruptions[len(w.stats.Interruptions)-1].AllAccepted = now
	}
}

func (w *Writer) rejected(op *operation, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.Rejected++
	w.stats.Pending--
	if op.held {
		w.release(now)
	}
}

func (w *Writer) blocked(op *operation, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if op.held {
		return
	}
	op.held = true
	w.stats.Refused++
	if w.held++; w.held > 1 {
		return
	}
	if n := len(w.stats.Interruptions); n > 0 && now.Sub(w.stats.Interruptions[n-1].AllAccepted) < straggling {
		w.stats.Interruptions[n-1].AllAccepted = time.Time{}
		return
	}
	w.stats.Interruptions = append(w.stats.Interruptions, Interruption{FirstRefused: now})
}

func (w *Writer) doubt(op *operation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !op.doubtful {
		op.doubtful = true
		w.stats.UnknownRetried++
	}
}

// pacer spreads operations over time. What an interruption held up is not made up for: the rate after it is the rate before it.
type pacer struct {
	mu       sync.Mutex
	interval time.Duration // of one operation
	next     time.Time
}

// wait waits for the turn of n operations; false means that the writer stops.
func (p *pacer) wait(ctx context.Context, stopping <-chan struct{}, n int) bool {
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now.Add(-time.Second)) {
		p.next = now
	}
	turn := p.next
	p.next = p.next.Add(time.Duration(n) * p.interval)
	p.mu.Unlock()
	timer := time.NewTimer(turn.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stopping:
		return false
	case <-ctx.Done():
		return false
	}
	select { // a turn in the past must not win over the end
	case <-stopping:
		return false
	case <-ctx.Done():
		return false
	default:
		return true
	}
}
