package asl

import (
	"fmt"
	"regexp"
	"sync"
	"time"
)

// MapRun is the run of a Distributed Map state; its children are executions of their own. ARN never changes.
type MapRun struct {
	ARN string

	e           *Engine
	parent      *Execution
	childPrefix string // execution ARNs are childPrefix + ":" + name
	childName   string // machine name of the children
	processor   *Machine

	mu             sync.Mutex
	status         Status
	start, stop    time.Time
	redrives       int
	redriven       time.Time
	maxConcurrency int
	tolerateCount  float64
	toleratePct    float64
	children       []*mapChild
	failedItems    int // of this run's children
}

// mapChild is one child execution to be, with its input.
type mapChild struct {
	input   value
	items   int
	x       *Execution // nil until started
	pending bool       // not yet begun in this run
}

// Counts are the items, or the child executions, of a Map Run by their status.
type Counts struct {
	Total, Pending, Running, Succeeded, Failed, TimedOut, Aborted int
}

// MapRunDescription is what DescribeMapRun tells.
type MapRunDescription struct {
	MapRunARN, ExecutionARN    string // ExecutionARN is the parent's
	StateMachineARN            string // of the children
	Status                     Status
	StartDate, StopDate        time.Time // StopDate is zero while it runs
	MaxConcurrency             int
	ToleratedFailureCount      int
	ToleratedFailurePercentage float64
	RedriveCount               int
	RedriveDate                time.Time
	Items, Executions          Counts
}

// Describe returns the Map Run at this moment.
func (m *MapRun) Describe() MapRunDescription {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := MapRunDescription{
		MapRunARN: m.ARN, ExecutionARN: m.parent.ARN, StateMachineARN: m.e.arn("stateMachine", m.childName), Status: m.status,
		StartDate: m.start, StopDate: m.stop, MaxConcurrency: m.maxConcurrency, ToleratedFailureCount: int(m.tolerateCount),
		ToleratedFailurePercentage: m.toleratePct, RedriveCount: m.redrives, RedriveDate: m.redriven,
	}
	for _, c := range m.children {
		status := Status("")
		if c.x != nil && !c.pending {
			status = c.x.Status()
		}
		d.Items.add(status, c.items)
		d.Executions.add(status, 1)
	}
	return d
}

func (c *Counts) add(s Status, n int) {
	c.Total += n
	switch s {
	case Running:
		c.Running += n
	case Succeeded:
		c.Succeeded += n
	case Failed:
		c.Failed += n
	case TimedOut:
		c.TimedOut += n
	case Aborted:
		c.Aborted += n
	default:
		c.Pending += n
	}
}

// mapItems evaluates Items and ItemSelector.
func (r *run) mapItems(f *frame, s *state) ([]mapItem, []value, error) {
	source := f.input
	if s.items != nil {
		var err error
		if source, err = r.eval(f, s.items, nil); err != nil {
			return nil, nil, err
		}
	}
	elems, ok := source.v.([]any)
	if !ok {
		return nil, nil, r.evaluationFailed(f, "Items", "The field 'Items' must be an array.")
	}
	items := make([]mapItem, len(elems))
	inputs := make([]value, len(elems))
	for i, e := range elems {
		text, err := appendJSON(nil, e)
		if err != nil {
			return nil, nil, r.evaluationFailed(f, "Items", err.Error())
		}
		items[i] = mapItem{index: i, value: value{text: string(text), v: e}}
		inputs[i] = items[i].value
		if s.itemSelector != nil {
			if inputs[i], err = r.eval(f, s.itemSelector, map[string]any{"item": itemContext(&items[i])}); err != nil {
				return nil, nil, err
			}
		}
	}
	return items, inputs, nil
}

func (r *run) mapState(f *frame, s *state, sc *scope) (*value, error) {
	if s.distributed {
		return r.distributedMap(f, s, sc)
	}
	limit, err := r.evalNumber(f, s.maxConcurrency, 0, 0, 10000)
	if err != nil {
		return nil, err
	}
	if limit == 0 || limit > maxInlineThreads {
		limit = maxInlineThreads
	}
	if f.sub == nil {
		items, inputs, err := r.mapItems(f, s)
		if err != nil {
			return nil, err
		}
		f.last = r.event(f.last, "MapStateStarted", "mapStateStartedEventDetails", details{"length": len(items)})
		f.sub = []*frame{}
		for i := range items {
			f.sub = append(f.sub, &frame{machine: s.processor, parent: f, vars: &variables{parent: f.vars}, item: &items[i],
				current: s.processor.startAt, input: inputs[i], last: f.last})
		}
	}
	err = r.threads(f, sc, int(limit), func(i int, kind string) {
		sub := f.sub[i]
		sub.last = r.event(sub.last, "MapIteration"+kind, "mapIteration"+kind+"EventDetails", details{"name": s.name, "index": i})
	})
	if err != nil {
		if sc.cause() == nil {
			f.last = r.event(f.last, "MapStateFailed", "", nil)
		}
		return nil, err
	}
	f.last = r.event(f.last, "MapStateSucceeded", "", nil)
	return joinOutputs(f.sub)
}

var notInLabels = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// distributedMap runs the children of a Map Run. Without a ResultWriter, the result is the array of the outputs of the children that
// succeeded, in order (what the service puts in the place of a tolerated failure is not documented).
func (r *run) distributedMap(f *frame, s *state, sc *scope) (*value, error) {
	m := f.mapRun
	if m == nil {
		var err error
		if m, err = r.newMapRun(f, s); err != nil {
			return nil, err
		}
		f.last = r.event(f.last, "MapStateStarted", "mapStateStartedEventDetails", details{"length": m.items()})
		f.last = r.event(f.last, "MapRunStarted", "mapRunStartedEventDetails", details{"mapRunArn": m.ARN})
		f.mapRun = m
		e, x := r.x.e, r.x
		e.mu.Lock()
		e.mapRuns[m.ARN] = m
		e.mu.Unlock()
		x.mu.Lock()
		x.mapRunsOfMine = append(x.mapRunsOfMine, m)
		x.mu.Unlock()
	} else {
		f.last = r.event(f.last, "MapRunRedriven", "mapRunRedrivenEventDetails", details{"mapRunArn": m.ARN, "redriveCount": m.redrive()})
	}
	limit := m.maxConcurrency
	if limit == 0 {
		limit = maxChildren
	}
	var open []*mapChild
	for _, c := range m.children {
		if c.pending {
			open = append(open, c)
		}
	}
	err := r.together(sc, len(open), limit, func(i int, group *scope) error {
		m.runChild(open[i], group)
		if m.exceeded() {
			return &StateError{errThreshold, "The specified tolerated failure threshold was exceeded"}
		}
		return nil
	})
	switch {
	case sc.cause() != nil:
		m.end(Aborted)
		return nil, sc.cause()
	case err != nil:
		m.end(Failed)
		f.last = r.event(f.last, "MapRunFailed", "mapRunFailedEventDetails", failure(asStateError(err)))
		f.last = r.event(f.last, "MapStateFailed", "", nil)
		return nil, err
	}
	m.end(Succeeded)
	f.last = r.event(f.last, "MapRunSucceeded", "", nil)
	var outputs []string
	for _, c := range m.children {
		if d := c.x.Describe(); d.Status == Succeeded {
			outputs = append(outputs, d.Output)
		}
	}
	v, err := joinArray(outputs)
	if err != nil {
		return nil, err
	}
	if err := r.tooLarge(f, "result of the Map Run", v.text); err != nil {
		f.last = r.event(f.last, "MapStateFailed", "", nil)
		return nil, err
	}
	f.last = r.event(f.last, "MapStateSucceeded", "", nil)
	return &v, nil
}

func (r *run) newMapRun(f *frame, s *state) (*MapRun, error) {
	_, inputs, err := r.mapItems(f, s)
	if err != nil {
		return nil, err
	}
	label := s.label
	if label == "" {
		label = notInLabels.ReplaceAllString(s.name, "")
		label = label[:min(len(label), 40)]
	}
	e := r.x.e
	m := &MapRun{
		ARN: e.arn("mapRun", r.x.machineName+"/"+label+":"+e.uuid()), e: e, parent: r.x, status: Running, start: e.clock.Now(),
		childName: r.x.machineName + "/" + label, processor: s.processor,
	}
	m.childPrefix = e.arn("execution", m.childName)
	for _, field := range []struct {
		t    *template
		most float64
		into *float64
	}{{s.failedCount, 99999999, &m.tolerateCount}, {s.failedPercent, 100, &m.toleratePct}} {
		if *field.into, err = r.evalNumber(f, field.t, 0, 0, field.most); err != nil {
			return nil, err
		}
	}
	limit, err := r.evalNumber(f, s.maxConcurrency, 0, 0, maxChildren)
	if err != nil {
		return nil, err
	}
	m.maxConcurrency = int(limit)
	if m.children, err = r.batches(f, s, inputs); err != nil {
		return nil, err
	}
	return m, nil
}

// batches makes the inputs of the children: the items themselves, or {"BatchInput":..., "Items":[...]}.
func (r *run) batches(f *frame, s *state, inputs []value) ([]*mapChild, error) {
	var out []*mapChild
	if s.batch == nil {
		for _, in := range inputs {
			out = append(out, &mapChild{input: in, items: 1, pending: true})
		}
		return out, nil
	}
	maxItems, err := r.evalNumber(f, s.batch.maxItems, 99999999, 1, 99999999)
	if err != nil {
		return nil, err
	}
	maxBytes, err := r.evalNumber(f, s.batch.maxBytes, maxPayload, 1, maxPayload)
	if err != nil {
		return nil, err
	}
	head := `{"Items":[`
	if s.batch.input != nil {
		in, err := r.eval(f, s.batch.input, nil)
		if err != nil {
			return nil, err
		}
		head = `{"BatchInput":` + in.text + `,"Items":[`
	}
	const tail = "]}"
	for len(inputs) > 0 {
		text, n := head, 0
		for n < len(inputs) && n < int(maxItems) {
			more := inputs[n].text
			if n > 0 {
				more = "," + more
			}
			if len(text)+len(more)+len(tail) > int(maxBytes) {
				break
			}
			text += more
			n++
		}
		if n == 0 {
			return nil, &StateError{errDataLimit, fmt.Sprintf("An item of the state '%s' has %d bytes and does not fit into a batch of %d.",
				s.name, len(inputs[0].text), int(maxBytes))}
		}
		in, err := parseValue(text + tail)
		if err != nil {
			return nil, err
		}
		out = append(out, &mapChild{input: in, items: n, pending: true})
		inputs = inputs[n:]
	}
	return out, nil
}

func (m *MapRun) items() (n int) {
	for _, c := range m.children {
		n += c.items
	}
	return n
}

// redrive makes every child that did not succeed pending again.
func (m *MapRun) redrive() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.redrives++
	m.redriven, m.status, m.stop, m.failedItems = m.e.clock.Now(), Running, time.Time{}, 0
	for _, c := range m.children {
		c.pending = c.x == nil || c.x.Status() != Succeeded
	}
	return m.redrives
}

// runChild starts or redrives one child and runs it to its end on this strand. Its failure is counted, not returned.
func (m *MapRun) runChild(c *mapChild, group *scope) {
	e := m.e
	var r *run
	fresh := c.x == nil
	if !fresh {
		var err error
		if r, err = c.x.reopen(group); err != nil {
			// Not redrivable any more (its history is full): it starts anew, as on the service.
			fresh = true
		}
	}
	if fresh {
		name := e.uuid()
		x := &Execution{
			e: e, ARN: m.childPrefix + ":" + name, Name: name, StateMachineARN: e.arn("stateMachine", m.childName), machineName: m.childName,
			machine: m.processor, input: c.input, mapRun: m, itemCount: c.items,
		}
		r = x.open(group)
		m.mu.Lock()
		c.x = x
		m.mu.Unlock()
		e.mu.Lock()
		e.executions[x.ARN] = x
		e.started = append(e.started, x)
		e.mu.Unlock()
	}
	m.mu.Lock()
	c.pending = false
	m.mu.Unlock()
	if fresh {
		e.notifyStatus(c.x, Running)
	}
	r.main()
	if c.x.Status() != Succeeded {
		m.mu.Lock()
		m.failedItems += c.items
		m.mu.Unlock()
	}
}

func (m *MapRun) exceeded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	failed, count, pct := float64(m.failedItems), m.tolerateCount, m.toleratePct
	switch {
	case failed == 0:
		return false
	case count == 0 && pct == 0:
		return true
	}
	// Either limit alone ends the Map Run; an unset one does not limit.
	return (count > 0 && failed > count) || (pct > 0 && failed*100 > pct*float64(m.items()))
}

func (m *MapRun) end(s Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status, m.stop = s, m.e.clock.Now()
}
