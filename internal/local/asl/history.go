package asl

import (
	"encoding/json"
	"time"
)

// Limits of the service for Standard workflows. Source: AWS Step Functions Developer Guide, "Quotas".
const (
	maxPayload       = 256 << 10 // bytes of any input, output, argument or variable
	maxEvents        = 25_000    // of one execution's history
	maxInlineThreads = 40        // iterations of an inline Map at a time
	maxChildren      = 10_000    // children of a Map Run at a time
	maxErrorLength   = 256       // characters
	maxCauseLength   = 32_768    // characters
	redrivePeriod    = 14 * 24 * time.Hour
)

// Event is one event of an execution's history with the names that the Step Functions API uses.
type Event struct {
	ID         int64
	PreviousID int64 // 0 for the first event and the first state entered
	Timestamp  time.Time
	Type       string // as in HistoryEventType, e.g. TaskStateEntered
	// DetailsName is the API's field for Details, such as stateEnteredEventDetails; empty when the type has none.
	DetailsName string
	Details     map[string]any // must not be changed
}

// MarshalJSON writes the event as GetExecutionHistory does: the timestamp in seconds since 1970 with milliseconds.
func (ev Event) MarshalJSON() ([]byte, error) {
	out := map[string]any{
		"id": ev.ID, "previousEventId": ev.PreviousID, "type": ev.Type, "timestamp": float64(ev.Timestamp.UnixMilli()) / 1000,
	}
	if ev.DetailsName != "" {
		out[ev.DetailsName] = ev.Details
	}
	return json.Marshal(out)
}

type details map[string]any

func (d details) with(key string, v any) details {
	d[key] = v
	return d
}

var whole = map[string]any{"truncated": false}

// failure is the details of every event that reports an error; the service leaves out what is empty.
func failure(err *StateError) details {
	d := details{}
	if err.Name != "" {
		d["error"] = clip(err.Name, maxErrorLength)
	}
	if err.Cause != "" {
		d["cause"] = clip(err.Cause, maxCauseLength)
	}
	return d
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:min(n, len(r))])
}

// event appends to the history and returns the event's id. A closed run adds nothing more. The event that reaches the limit fails
// the execution instead, as on the service.
func (r *run) event(previous int64, kind, name string, d details) int64 {
	x := r.x
	x.mu.Lock()
	if r.closed {
		x.mu.Unlock()
		return previous
	}
	if len(x.history) < maxEvents-1 {
		id := x.appendEvent(previous, kind, name, d)
		x.mu.Unlock()
		return id
	}
	x.mu.Unlock()
	r.finish(Failed, value{}, &StateError{Name: errRuntime,
		Cause: "The execution reached the maximum number of history events (25000)."})
	return previous
}

// appendEvent adds one event; x.mu is held.
func (x *Execution) appendEvent(previous int64, kind, name string, d details) int64 {
	id := int64(len(x.history) + 1)
	x.history = append(x.history, Event{ID: id, PreviousID: previous, Timestamp: x.e.clock.Now(), Type: kind, DetailsName: name, Details: d})
	return id
}

// enterEvent and exitEvent write the pair that every state has.
func (r *run) enterEvent(f *frame, s *state) {
	f.last = r.event(f.last, s.kind+"StateEntered", "stateEnteredEventDetails",
		details{"name": s.name, "input": f.input.text, "inputDetails": whole})
	r.x.e.notifyEntered(r.x, s.name)
}

func (r *run) exitEvent(f *frame, s *state, output value, assigned map[string]value) {
	d := details{"name": s.name, "output": output.text, "outputDetails": whole}
	if len(assigned) > 0 {
		vars := map[string]string{}
		for name, v := range assigned {
			vars[name] = v.text
		}
		d["assignedVariables"] = vars
		d["assignedVariablesDetails"] = whole
	}
	f.last = r.event(f.last, s.kind+"StateExited", "stateExitedEventDetails", d)
}
