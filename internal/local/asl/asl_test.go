package asl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var epoch = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// lambda is an Invoker made of one function.
type lambda func(ctx context.Context, name string, payload []byte) ([]byte, error)

func (l lambda) Invoke(ctx context.Context, name string, payload []byte) ([]byte, error) {
	return l(ctx, name, payload)
}

// world is an engine on a virtual clock.
type world struct {
	t     *testing.T
	e     *Engine
	clock *VirtualClock
}

func newWorld(t *testing.T, l lambda) *world {
	clock := NewVirtualClock(epoch)
	e := New(Config{Clock: clock, Lambda: l, Random: rand.New(rand.NewPCG(1, 2))})
	return &world{t, e, clock}
}

func (w *world) add(name, definition string) string {
	w.t.Helper()
	m, err := Parse([]byte(definition), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	sm, err := w.e.AddStateMachine(name, m)
	if err != nil {
		w.t.Fatal(err)
	}
	return sm.ARN
}

func (w *world) start(definition, input string) *Execution {
	w.t.Helper()
	x, err := w.e.Start(w.add("machine", definition), "", input)
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

func (w *world) end(x *Execution) Description {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	d, err := x.Wait(ctx)
	if err != nil {
		w.t.Fatalf("%v; history: %v", err, kinds(x))
	}
	return d
}

func (w *world) run(definition, input string) (*Execution, Description) {
	w.t.Helper()
	x := w.start(definition, input)
	return x, w.end(x)
}

func kinds(x *Execution) []string {
	var out []string
	for _, ev := range x.History() {
		out = append(out, ev.Type)
	}
	return out
}

func wantKinds(t *testing.T, x *Execution, want string) {
	t.Helper()
	if got := strings.Join(kinds(x), " "); got != strings.Join(strings.Fields(want), " ") {
		t.Errorf("events\n got %s\nwant %s", got, strings.Join(strings.Fields(want), " "))
	}
}

func wantOutput(t *testing.T, d Description, want string) {
	t.Helper()
	if d.Status != Succeeded || d.Output != want {
		t.Errorf("got %s %s %s: %s; want output %s", d.Status, d.Output, d.Error, d.Cause, want)
	}
}

// one wraps one state, which must have End, into a machine.
func one(state string) string {
	return `{"QueryLanguage":"JSONata","StartAt":"S","States":{"S":` + state + `}}`
}

func many(states string) string {
	return `{"QueryLanguage":"JSONata","StartAt":"S","States":{` + states + `}}`
}

const taskS = `"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"f","Payload":"{% $states.input %}"}`

func echo(_ context.Context, _ string, payload []byte) ([]byte, error) { return payload, nil }

func TestStates(t *testing.T) {
	for _, c := range []struct{ name, definition, input, want string }{
		{"pass keeps order and text", one(`{"Type":"Pass","End":true}`), `{"z":1,"a":[1.50,null,"<&>"]}`, `{"z":1,"a":[1.50,null,"<&>"]}`},
		{"output", one(`{"Type":"Pass","Output":{"b":"{% $states.input.x + 1 %}","a":["{% $states.input.s %}",true,null,2.50]},"End":true}`),
			`{"x":1,"s":"<é>"}`, `{"b":2,"a":["<é>",true,null,2.50]}`},
		{"null and empty", one(`{"Type":"Pass","Output":"{% $states.input %}","End":true}`), `{"n":null,"o":{},"a":[]}`, `{"n":null,"o":{},"a":[]}`},
		{"succeed", one(`{"Type":"Succeed","Output":"{% 1 %}"}`), `{}`, `1`},
		{"task", one(`{` + taskS + `,"End":true}`), `{"x":1}`, `{"ExecutedVersion":"$LATEST","Payload":{"x":1},"StatusCode":200}`},
		{"task output", one(`{` + taskS + `,"Output":"{% $states.result.Payload.x %}","End":true}`), `{"x":1}`, `1`},
		{"assign is seen by the next state and not by its own", many(`"S":{"Type":"Pass","Assign":{"a":"{% $states.input.x %}"},"Next":"T"},
			"T":{"Type":"Pass","Assign":{"a":"{% $a + 1 %}","b":"{% $a %}"},"Output":"{% $a %}","Next":"U"},
			"U":{"Type":"Pass","Output":"{% {'in': $states.input, 'a': $a, 'b': $b} %}","End":true}`), `{"x":1}`, `{"in":1,"a":2,"b":1}`},
		{"choice, assign and output of the rule", many(`"S":{"Type":"Choice","Assign":{"v":0},"Default":"T","Choices":[
			{"Condition":"{% $states.input.x = 1 %}","Next":"T","Assign":{"v":1}},{"Condition":"{% $states.input.x = 2 %}","Next":"T","Assign":{"v":2},"Output":{"o":true}}]},
			"T":{"Type":"Pass","Output":{"v":"{% $v %}","in":"{% $states.input %}"},"End":true}`), `{"x":2}`, `{"v":2,"in":{"o":true}}`},
		{"choice default", many(`"S":{"Type":"Choice","Assign":{"v":0},"Output":9,"Default":"T","Choices":[{"Condition":false,"Next":"T"}]},
			"T":{"Type":"Pass","Output":["{% $v %}","{% $states.input %}"],"End":true}`), `{}`, `[0,9]`},
		{"parallel", one(`{"Type":"Parallel","End":true,"Arguments":{"n":"{% $states.input.x %}"},"Branches":[
			{"StartAt":"A","States":{"A":{"Type":"Pass","Output":"{% $states.input.n %}","End":true}}},
			{"StartAt":"B","States":{"B":{"Type":"Wait","Seconds":5,"Output":"b","End":true}}}]}`), `{"x":7}`, `[7,"b"]`},
		{"map", one(`{"Type":"Map","Items":"{% $states.input.xs %}","ItemSelector":{"i":"{% $states.context.Map.Item.Index %}","v":"{% $states.context.Map.Item.Value %}"},
			"ItemProcessor":{"StartAt":"A","States":{"A":{"Type":"Pass","Output":"{% $states.input.v * 10 + $states.context.Map.Item.Index %}","End":true}}},"End":true}`),
			`{"xs":[3,1,2]}`, `[30,11,22]`},
		{"map of one and of nothing", one(`{"Type":"Map","Items":["{% $states.input %}"],"ItemProcessor":{"StartAt":"A","States":{"A":{"Type":"Map","Items":[],
			"ItemProcessor":{"StartAt":"B","States":{"B":{"Type":"Pass","End":true}}},"End":true}}},"End":true}`), `{}`, `[[]]`},
		{"inner scopes read outer variables", many(`"S":{"Type":"Pass","Assign":{"v":5},"Next":"M"},"M":{"Type":"Map","Items":[1,2],
			"ItemProcessor":{"StartAt":"A","States":{"A":{"Type":"Pass","Assign":{"w":"{% $states.input %}"},"Next":"B"},"B":{"Type":"Pass","Output":"{% $v + $w %}","End":true}}},"End":true}`),
			`{}`, `[6,7]`},
		{"functions", one(`{"Type":"Pass","End":true,"Output":{"p":"{% $partition([1,null,{'b':null,'a':1}],2) %}","r":"{% $range(1,7,3) %}","h":"{% $hash('a','SHA-256') %}",
			"j":"{% $parse('{\"k\":[1]}').k[0] %}","u":"{% $length($uuid()) %}","n":"{% $now() %}","x":"{% $random() < 1 %}","s":"{% $random(5) = $random(5) %}","m":"{% $millis() %}"}}`), `{}`,
			`{"p":[[1,null],[{"a":1,"b":null}]],"r":[1,4,7],"h":"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb","j":1,"u":36,"n":"2026-11-22T08:00:00.000Z","x":true,"s":true,"m":1795334400000}`},
		{"context", one(`{"Type":"Pass","End":true,"Output":["{% $states.context.StateMachine.Name %}","{% $states.context.State.Name %}","{% $states.context.State.EnteredTime %}",
			"{% $states.context.State.RetryCount %}","{% $states.context.Execution.StartTime %}","{% $states.context.Execution.Input %}","{% $states.context.StateMachine.Id %}"]}`), `{"x":1}`,
			`["machine","S","2026-11-22T08:00:00.000Z",0,"2026-11-22T08:00:00.000Z",{"x":1},"arn:aws:states:us-east-1:123456789012:stateMachine:machine"]`},
		{"wait until", one(`{"Type":"Wait","Timestamp":"{% $states.input.t %}","Output":"{% $now() %}","End":true}`), `{"t":"2026-11-22T10:00:00+01:00"}`, `"2026-11-22T09:00:00.000Z"`},
		{"wait in the past", one(`{"Type":"Wait","Timestamp":"2020-01-01T00:00:00Z","Output":"{% $now() %}","End":true}`), `{}`, `"2026-11-22T08:00:00.000Z"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, d := newWorld(t, echo).run(c.definition, c.input)
			wantOutput(t, d, c.want)
		})
	}
}

func TestFailures(t *testing.T) {
	boom := func(_ context.Context, _ string, payload []byte) ([]byte, error) {
		return nil, &FunctionError{Type: "Ferry.Broken", Message: "no", Trace: []string{"a"}}
	}
	big := func(context.Context, string, []byte) ([]byte, error) {
		return []byte(`"` + strings.Repeat("x", maxPayload) + `"`), nil
	}
	catch := func(names string) string {
		return many(`"S":{` + taskS + `,"Catch":[{"ErrorEquals":` + names + `,"Next":"C","Assign":{"e":"{% $states.errorOutput.Error %}"},"Output":"{% $states.errorOutput.Cause %}"}],"End":true},
			"C":{"Type":"Pass","Output":["{% $e %}","{% $states.input %}"],"End":true}`)
	}
	for _, c := range []struct {
		name, definition, input string
		l                       lambda
		wantError, wantCause    string // a part of the cause
	}{
		{"function error", one(`{` + taskS + `,"End":true}`), `{}`, boom, "Ferry.Broken", `{"errorMessage":"no","errorType":"Ferry.Broken","stackTrace":["a"]}`},
		{"lambda service error", one(`{` + taskS + `,"End":true}`), `{}`, func(context.Context, string, []byte) ([]byte, error) {
			return nil, &StateError{"Lambda.TooManyRequestsException", "busy"}
		}, "Lambda.TooManyRequestsException", "busy"},
		{"other error", one(`{` + taskS + `,"End":true}`), `{}`, func(context.Context, string, []byte) ([]byte, error) {
			return nil, errors.New("no such process")
		}, "Lambda.Unknown", "no such process"},
		{"missing field", one(`{"Type":"Pass","Output":"{% $states.input.nope %}","End":true}`), `{}`, echo, errQuery,
			"The JSONata expression '$states.input.nope' specified for the field 'Output' returned nothing (undefined)."},
		{"missing field deep in Arguments", one(`{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"f","Payload":{"a":["{% $nope %}"]}},"End":true}`),
			`{}`, echo, errQuery, "'Arguments/Payload/a[0]'"},
		{"$eval", one(`{"Type":"Pass","Output":"{% $eval('1') %}","End":true}`), `{}`, echo, errQuery, "$eval is not supported"},
		{"function as result", one(`{"Type":"Pass","Output":"{% function($x){$x} %}","End":true}`), `{}`, echo, errQuery, "no JSON form"},
		{"range too long", one(`{"Type":"Pass","Output":"{% $range(1,2000,1) %}","End":true}`), `{}`, echo, errQuery, "1,000"},
		{"condition is no boolean", many(`"S":{"Type":"Choice","Choices":[{"Condition":"{% 'yes' %}","Next":"T"}]},"T":{"Type":"Succeed"}`), `{}`, echo, errQuery, "must be true or false"},
		{"no choice", many(`"S":{"Type":"Choice","Choices":[{"Condition":"{% false %}","Next":"T"}]},"T":{"Type":"Succeed"}`), `{}`, echo, errNoChoice, ""},
		{"wait for half a second", one(`{"Type":"Wait","Seconds":"{% 0.5 %}","End":true}`), `{}`, echo, errQuery, "whole number"},
		{"fail", one(`{"Type":"Fail","Error":"{% 'A' & 'B' %}","Cause":"why"}`), `{}`, echo, "AB", "why"},
		{"large result", one(`{` + taskS + `,"End":true}`), `{}`, big, errDataLimit, "exceeding"},
		{"States.ALL does not catch a large result", catch(`["States.ALL"]`), `{}`, big, errDataLimit, "exceeding"},
		{"large output", one(`{"Type":"Pass","Output":"{% $states.input & $states.input %}","End":true}`), `"` + strings.Repeat("x", 200_000) + `"`, echo, errDataLimit, ""},
		{"assign to an outer variable", many(`"S":{"Type":"Pass","Assign":{"v":5},"Next":"M"},"M":{"Type":"Map","Items":[1],
			"ItemProcessor":{"StartAt":"A","States":{"A":{"Type":"Pass","Assign":{"v":1},"End":true}}},"End":true}`), `{}`, echo, errRuntime, "outer scope"},
		{"a distributed child sees no outer variable", many(`"S":{"Type":"Pass","Assign":{"v":5},"Next":"M"},"M":{"Type":"Map","Items":[1],
			"ItemProcessor":{"ProcessorConfig":{"Mode":"DISTRIBUTED","ExecutionType":"STANDARD"},"StartAt":"A","States":{"A":{"Type":"Pass","Output":"{% $v %}","End":true}}},"End":true}`),
			`{}`, echo, errThreshold, ""},
		{"items are no array", one(`{"Type":"Map","ItemProcessor":{"StartAt":"A","States":{"A":{"Type":"Pass","End":true}}},"End":true}`), `{}`, echo, errQuery, "must be an array"},
		{"no such child machine", one(`{"Type":"Task","Resource":"arn:aws:states:::states:startExecution.sync:2","Arguments":{"StateMachineArn":"x"},"End":true}`), `{}`, echo,
			"StepFunctions.StateMachineDoesNotExistException", ""},
		{"no publisher", one(`{"Type":"Task","Resource":"arn:aws:states:::sns:publish","Arguments":{"Message":"x"},"End":true}`), `{}`, echo, errRuntime, "publisher"},
		{"unknown argument from an expression", one(`{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":"{% {'FunctionName':'f','Qualifier':'1'} %}","End":true}`),
			`{}`, echo, errRuntime, "'Qualifier'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, d := newWorld(t, c.l).run(c.definition, c.input)
			if d.Status != Failed || d.Error != c.wantError || !strings.Contains(d.Cause, c.wantCause) {
				t.Errorf("got %s %q %.300q, want FAILED %q with %q", d.Status, d.Error, d.Cause, c.wantError, c.wantCause)
			}
			if last := x.History()[x.EventCount()-1]; last.Type != "ExecutionFailed" || last.Details["error"] != any(c.wantError) {
				t.Errorf("last event %+v", last)
			}
		})
	}
	t.Run("events of a failed evaluation", func(t *testing.T) {
		x, _ := newWorld(t, echo).run(one(`{"Type":"Pass","Output":"{% $states.input.nope %}","End":true}`), `{}`)
		wantKinds(t, x, "ExecutionStarted PassStateEntered EvaluationFailed ExecutionFailed")
		got, _ := json.Marshal(x.History()[2].Details)
		if !strings.Contains(string(got), `"error":"States.QueryEvaluationError","location":"Output","state":"S"`) {
			t.Errorf("details %s", got)
		}
	})
	for _, c := range []struct {
		names string
		l     lambda
		want  string
	}{
		{`["Ferry.Broken"]`, boom, `["Ferry.Broken","{\"errorMessage\":\"no\",\"errorType\":\"Ferry.Broken\",\"stackTrace\":[\"a\"]}"]`},
		{`["States.TaskFailed"]`, boom, `["Ferry.Broken","{\"errorMessage\":\"no\",\"errorType\":\"Ferry.Broken\",\"stackTrace\":[\"a\"]}"]`},
		{`["States.ALL"]`, boom, `["Ferry.Broken","{\"errorMessage\":\"no\",\"errorType\":\"Ferry.Broken\",\"stackTrace\":[\"a\"]}"]`},
	} {
		t.Run("catch "+c.names, func(t *testing.T) {
			_, d := newWorld(t, c.l).run(catch(c.names), `{}`)
			wantOutput(t, d, c.want)
		})
	}
	t.Run("a named catcher takes a large result", func(t *testing.T) {
		_, d := newWorld(t, big).run(catch(`["States.DataLimitExceeded"]`), `{}`)
		if d.Status != Succeeded {
			t.Errorf("got %+v", d)
		}
	})
	t.Run("a catcher without Output gives the error", func(t *testing.T) {
		_, d := newWorld(t, boom).run(many(`"S":{`+taskS+`,"Catch":[{"ErrorEquals":["States.ALL"],"Next":"C"}],"End":true},"C":{"Type":"Pass","Output":"{% $states.input.Error %}","End":true}`), `{}`)
		wantOutput(t, d, `"Ferry.Broken"`)
	})
}

// TestRetrySchedules holds the engine to the waits of the examples in states-language.net/spec.html and of AWS's "Handling errors".
func TestRetrySchedules(t *testing.T) {
	for _, c := range []struct {
		name, retry string
		errors      []string // of the attempts, the last one repeats
		want        []float64
		wantError   string
	}{
		// "IntervalSeconds": 3, "MaxAttempts": 2, "BackoffRate": 1.5: waits of 3 and 4.5 seconds.
		{"spec: interval 3, rate 1.5, two attempts", `[{"ErrorEquals":["E"],"IntervalSeconds":3,"MaxAttempts":2,"BackoffRate":1.5}]`, []string{"E"}, []float64{3, 4.5}, "E"},
		{"defaults: 1 s, 3 attempts, rate 2", `[{"ErrorEquals":["E"]}]`, []string{"E"}, []float64{1, 2, 4}, "E"},
		{"MaxDelaySeconds", `[{"ErrorEquals":["E"],"IntervalSeconds":1,"MaxAttempts":6,"BackoffRate":2,"MaxDelaySeconds":3}]`, []string{"E"}, []float64{1, 2, 3, 3, 3, 3}, "E"},
		{"MaxAttempts 0 is never", `[{"ErrorEquals":["E"],"MaxAttempts":0},{"ErrorEquals":["States.ALL"]}]`, []string{"E"}, nil, "E"},
		// Spec: each retrier keeps its own count: ErrorA, ErrorB, ErrorC, ErrorB, ErrorB ends after the second retrier's two attempts.
		{"spec: counts by retrier", `[{"ErrorEquals":["ErrorA","ErrorB"],"IntervalSeconds":1,"BackoffRate":2,"MaxAttempts":2},{"ErrorEquals":["ErrorC"],"IntervalSeconds":5}]`,
			[]string{"ErrorA", "ErrorB", "ErrorC", "ErrorB"}, []float64{1, 2, 5}, "ErrorB"},
		{"no match", `[{"ErrorEquals":["Other"]}]`, []string{"E"}, nil, "E"},
		{"Runtime is never retried", `[{"ErrorEquals":["States.ALL"]}]`, []string{errRuntime}, nil, errRuntime},
		{"DataLimitExceeded is not in ALL", `[{"ErrorEquals":["States.ALL"]}]`, []string{errDataLimit}, nil, errDataLimit},
		{"TaskFailed is not Timeout", `[{"ErrorEquals":["States.TaskFailed"]}]`, []string{errTimeout}, nil, errTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			var at []time.Time
			var w *world
			w = newWorld(t, func(context.Context, string, []byte) ([]byte, error) {
				at = append(at, w.clock.Now())
				return nil, &StateError{Name: c.errors[min(len(at), len(c.errors))-1]}
			})
			x, d := w.run(one(`{`+taskS+`,"Retry":`+c.retry+`,"End":true}`), `{}`)
			var waits []float64
			for i := 1; i < len(at); i++ {
				waits = append(waits, at[i].Sub(at[i-1]).Seconds())
			}
			if !slices.Equal(waits, c.want) || d.Error != c.wantError {
				t.Errorf("waits %v and error %s, want %v and %s", waits, d.Error, c.want, c.wantError)
			}
			// ExecutionStarted, Entered, ExecutionFailed, and 3 for every attempt.
			if got, want := x.EventCount(), 3+3*(1+len(c.want)); got != want {
				t.Errorf("%d events, want %d: %v", got, want, kinds(x))
			}
		})
	}
}

func TestJitterIsBelowTheDelayAndRepeatable(t *testing.T) {
	waits := func() (out []time.Duration) {
		var last time.Time
		var w *world
		w = newWorld(t, func(context.Context, string, []byte) ([]byte, error) {
			if !last.IsZero() {
				out = append(out, w.clock.Now().Sub(last))
			}
			last = w.clock.Now()
			return nil, &StateError{Name: "E"}
		})
		w.run(one(`{`+taskS+`,"Retry":[{"ErrorEquals":["E"],"IntervalSeconds":10,"MaxAttempts":20,"BackoffRate":1,"JitterStrategy":"FULL"}],"End":true}`), `{}`)
		return out
	}
	a, b := waits(), waits()
	if len(a) != 20 || !slices.Equal(a, b) || slices.Max(a) >= 10*time.Second || slices.Min(a) > 5*time.Second || slices.Max(a) < 5*time.Second {
		t.Errorf("waits %v and %v", a, b)
	}
}

func TestRetryCountInContext(t *testing.T) {
	n := 0
	w := newWorld(t, func(_ context.Context, _ string, payload []byte) ([]byte, error) {
		if n++; n < 3 {
			return nil, &StateError{Name: "E"}
		}
		return payload, nil
	})
	_, d := w.run(one(`{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"f","Payload":"{% $states.context.State.RetryCount %}"},
		"Output":"{% $states.result.Payload %}","Retry":[{"ErrorEquals":["E"]}],"End":true}`), `{}`)
	wantOutput(t, d, "2")
}

// TestLongPolling: 330 hours of Wait, Task and Choice pass on the virtual clock, at 9 events a poll.
func TestLongPolling(t *testing.T) {
	n := 0
	w := newWorld(t, func(context.Context, string, []byte) ([]byte, error) {
		n++
		return fmt.Appendf(nil, `{"done":%t,"waitSeconds":%d}`, n == 1980, 600), nil
	})
	began := time.Now()
	x, d := w.run(many(`"S":{"Type":"Pass","Assign":{"wait":600},"Next":"Wait"},"Wait":{"Type":"Wait","Seconds":"{% $wait %}","Next":"Poll"},
		"Poll":{`+taskS+`,"Assign":{"wait":"{% $states.result.Payload.waitSeconds %}"},"Output":"{% $states.result.Payload %}","Next":"Done?"},
		"Done?":{"Type":"Choice","Choices":[{"Condition":"{% $states.input.done %}","Next":"Done"}],"Default":"Wait"},"Done":{"Type":"Succeed"}`), `{}`)
	wantOutput(t, d, `{"done":true,"waitSeconds":600}`)
	if got := d.StopDate.Sub(d.StartDate); got != 330*time.Hour {
		t.Errorf("took %v, want 330h", got)
	}
	if got, want := x.EventCount(), 1+2+9*1980+2+1; got != want {
		t.Errorf("%d events, want %d", got, want)
	}
	t.Logf("330 hours in %v", time.Since(began)) // well under a second on an idle machine; w.end allows a minute
}

func TestHistoryLimit(t *testing.T) {
	x, d := newWorld(t, echo).run(many(`"S":{"Type":"Pass","Next":"T"},"T":{"Type":"Pass","Next":"C"},"C":{"Type":"Choice","Choices":[{"Condition":false,"Next":"End"}],"Default":"S"},"End":{"Type":"Succeed"}`), `{}`)
	if d.Status != Failed || x.EventCount() != 25_000 || !strings.Contains(d.Cause, "25000") || d.RedriveStatus != "NOT_REDRIVABLE" {
		t.Errorf("%d events, %+v", x.EventCount(), d)
	}
}

func TestEvents(t *testing.T) {
	n := 0
	flaky := func(_ context.Context, _ string, payload []byte) ([]byte, error) {
		if n++; n == 1 {
			return nil, &FunctionError{Type: "E", Message: "m"}
		}
		return payload, nil
	}
	inline := `"ItemProcessor":{"StartAt":"A","States":{"A":{"Type":"Pass","End":true}}}`
	distributed := `"ItemProcessor":{"ProcessorConfig":{"Mode":"DISTRIBUTED","ExecutionType":"STANDARD"},"StartAt":"A","States":{"A":{"Type":"Pass","End":true}}}`
	for _, c := range []struct{ name, definition, want string }{
		{"lambda task: 5", one(`{` + taskS + `,"End":true}`), "TaskStateEntered TaskScheduled TaskStarted TaskSucceeded TaskStateExited"},
		{"a retry adds 3", one(`{` + taskS + `,"Retry":[{"ErrorEquals":["E"]}],"End":true}`),
			"TaskStateEntered TaskScheduled TaskStarted TaskFailed TaskScheduled TaskStarted TaskSucceeded TaskStateExited"},
		{"pass: 2", one(`{"Type":"Pass","End":true}`), "PassStateEntered PassStateExited"},
		{"wait: 2", one(`{"Type":"Wait","Seconds":1,"End":true}`), "WaitStateEntered WaitStateExited"},
		{"choice: 2, succeed: 2", many(`"S":{"Type":"Choice","Choices":[{"Condition":true,"Next":"T"}]},"T":{"Type":"Succeed"}`),
			"ChoiceStateEntered ChoiceStateExited SucceedStateEntered SucceedStateExited"},
		{"inline map: 4 and 2 an iteration", one(`{"Type":"Map","Items":[1],` + inline + `,"End":true}`),
			"MapStateEntered MapStateStarted MapIterationStarted PassStateEntered PassStateExited MapIterationSucceeded MapStateSucceeded MapStateExited"},
		{"distributed map: 6", one(`{"Type":"Map","Items":[1,2,3],` + distributed + `,"End":true}`),
			"MapStateEntered MapStateStarted MapRunStarted MapRunSucceeded MapStateSucceeded MapStateExited"},
		{"parallel: 4", one(`{"Type":"Parallel","Branches":[{"StartAt":"A","States":{"A":{"Type":"Pass","End":true}}}],"End":true}`),
			"ParallelStateEntered ParallelStateStarted PassStateEntered PassStateExited ParallelStateSucceeded ParallelStateExited"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n = 0
			l := lambda(echo)
			if strings.HasPrefix(c.name, "a retry") {
				l = flaky
			}
			x, _ := newWorld(t, l).run(c.definition, `{"k":1}`)
			wantKinds(t, x, "ExecutionStarted "+c.want+" ExecutionSucceeded")
			for i, ev := range x.History() {
				if ev.ID != int64(i+1) || (i > 1 && (ev.PreviousID < 1 || ev.PreviousID >= ev.ID)) || (i < 2 && ev.PreviousID != 0) {
					t.Errorf("event %d has id %d, previous %d", i, ev.ID, ev.PreviousID)
				}
			}
		})
	}
	t.Run("details", func(t *testing.T) {
		n = 0
		x, _ := newWorld(t, flaky).run(one(`{`+taskS+`,"TimeoutSeconds":60,"Assign":{"v":"{% [1] %}"},"Retry":[{"ErrorEquals":["E"]}],"End":true}`), `{"k":1}`)
		for i, want := range map[int]string{
			0: `{"executionStartedEventDetails":{"input":"{\"k\":1}","inputDetails":{"truncated":false},"roleArn":"arn:aws:iam::123456789012:role/local-step-functions"},"id":1,"previousEventId":0,"timestamp":1795334400,"type":"ExecutionStarted"}`,
			1: `{"id":2,"previousEventId":0,"stateEnteredEventDetails":{"input":"{\"k\":1}","inputDetails":{"truncated":false},"name":"S"},"timestamp":1795334400,"type":"TaskStateEntered"}`,
			2: `{"id":3,"previousEventId":2,"taskScheduledEventDetails":{"parameters":"{\"FunctionName\":\"f\",\"Payload\":{\"k\":1}}","region":"us-east-1","resource":"invoke","resourceType":"lambda","timeoutInSeconds":60},"timestamp":1795334400,"type":"TaskScheduled"}`,
			4: `{"id":5,"previousEventId":4,"taskFailedEventDetails":{"cause":"{\"errorMessage\":\"m\",\"errorType\":\"E\"}","error":"E","resource":"invoke","resourceType":"lambda"},"timestamp":1795334400,"type":"TaskFailed"}`,
			8: `{"id":9,"previousEventId":8,"stateExitedEventDetails":{"assignedVariables":{"v":"[1]"},"assignedVariablesDetails":{"truncated":false},"name":"S","output":"{\"ExecutedVersion\":\"$LATEST\",\"Payload\":{\"k\":1},\"StatusCode\":200}","outputDetails":{"truncated":false}},"timestamp":1795334401,"type":"TaskStateExited"}`,
		} {
			if got, _ := json.Marshal(x.History()[i]); string(got) != want {
				t.Errorf("event %d\n got %s\nwant %s", i+1, got, want)
			}
		}
	})
	t.Run("a failing sibling aborts", func(t *testing.T) {
		w := newWorld(t, echo)
		x, d := w.run(one(`{"Type":"Parallel","Branches":[{"StartAt":"A","States":{"A":{"Type":"Wait","Seconds":9,"End":true}}},
			{"StartAt":"B","States":{"B":{"Type":"Fail","Error":"E"}}}],"End":true}`), `{}`)
		wantKinds(t, x, `ExecutionStarted ParallelStateEntered ParallelStateStarted WaitStateEntered FailStateEntered WaitStateAborted ParallelStateFailed ExecutionFailed`)
		if d.Error != "E" || w.clock.Now() != epoch {
			t.Errorf("got %+v at %v", d, w.clock.Now())
		}
	})
}

func TestTimeouts(t *testing.T) {
	slow := func(d time.Duration) func(*world) lambda {
		return func(w *world) lambda {
			return func(ctx context.Context, _ string, p []byte) ([]byte, error) { return p, Sleep(ctx, w.clock, d) }
		}
	}
	for _, c := range []struct {
		name, definition string
		l                func(*world) lambda
		status           Status
		err              string
		took             time.Duration
	}{
		{"task", one(`{` + taskS + `,"TimeoutSeconds":10,"End":true}`), slow(time.Hour), Failed, errTimeout, 10 * time.Second},
		{"task in time", one(`{` + taskS + `,"TimeoutSeconds":10,"End":true}`), slow(9 * time.Second), Succeeded, "", 9 * time.Second},
		{"by expression", one(`{` + taskS + `,"TimeoutSeconds":"{% 5+2 %}","End":true}`), slow(time.Hour), Failed, errTimeout, 7 * time.Second},
		{"each attempt anew", one(`{` + taskS + `,"TimeoutSeconds":10,"Retry":[{"ErrorEquals":["States.Timeout"],"MaxAttempts":1}],"End":true}`), slow(time.Hour), Failed, errTimeout, 21 * time.Second},
		{"heartbeat", one(`{` + taskS + `,"HeartbeatSeconds":4,"TimeoutSeconds":10,"End":true}`), slow(time.Hour), Failed, errHeartbeat, 4 * time.Second},
		{"execution", `{"QueryLanguage":"JSONata","TimeoutSeconds":100,"StartAt":"S","States":{"S":{"Type":"Wait","Seconds":500,"End":true}}}`, slow(0), TimedOut, "", 100 * time.Second},
		{"execution, in a task", `{"QueryLanguage":"JSONata","TimeoutSeconds":100,"StartAt":"S","States":{"S":{` + taskS + `,"End":true}}}`, slow(time.Hour), TimedOut, "", 100 * time.Second},
		{"execution in time", `{"QueryLanguage":"JSONata","TimeoutSeconds":100,"StartAt":"S","States":{"S":{"Type":"Wait","Seconds":99,"End":true}}}`, slow(0), Succeeded, "", 99 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w *world
			w = newWorld(t, func(ctx context.Context, n string, p []byte) ([]byte, error) { return c.l(w)(ctx, n, p) })
			x, d := w.run(c.definition, `{}`)
			if d.Status != c.status || d.Error != c.err || d.StopDate.Sub(d.StartDate) != c.took {
				t.Errorf("got %s %s after %v, want %s %s after %v", d.Status, d.Error, d.StopDate.Sub(d.StartDate), c.status, c.err, c.took)
			}
			if c.err == errTimeout && !slices.Contains(kinds(x), "TaskTimedOut") {
				t.Errorf("no TaskTimedOut: %v", kinds(x))
			}
		})
	}
}

func TestTimedOutTaskStopsItsChild(t *testing.T) {
	w := newWorld(t, echo)
	child := w.add("child", one(`{"Type":"Wait","Seconds":5000,"End":true}`))
	x, d := w.run(one(`{"Type":"Task","Resource":"arn:aws:states:::states:startExecution.sync:2","Arguments":{"StateMachineArn":"`+child+`","Name":"kid"},"TimeoutSeconds":50,"End":true}`), `{}`)
	kid, err := w.e.Execution(w.e.arn("execution", "child:kid"))
	if err != nil || d.Error != errTimeout || kid.Status() != Aborted || d.StopDate.Sub(epoch) != 50*time.Second {
		t.Errorf("parent %+v, child %v, %v", d, kid.Status(), err)
	}
	wantKinds(t, x, "ExecutionStarted TaskStateEntered TaskScheduled TaskStarted TaskSubmitted TaskTimedOut ExecutionFailed")
}

func TestVirtualClock(t *testing.T) {
	clock := NewVirtualClock(epoch)
	var log []string
	note := func(s string) { log = append(log, fmt.Sprintf("%s@%v", s, clock.Now().Sub(epoch))) }
	release := clock.Hold()
	ctx, cancel := context.WithCancel(t.Context())
	for _, d := range []time.Duration{3 * time.Hour, time.Hour, 2 * time.Hour, time.Hour} {
		clock.Go(func() {
			if err := Sleep(context.Background(), clock, d); err != nil {
				t.Error(err)
			}
			note(d.String())
		})
	}
	clock.WaitIdle()
	if len(log) != 0 || clock.Now() != epoch {
		t.Errorf("a held clock moved: %v", log)
	}
	release()
	clock.WaitIdle()
	if got := strings.Join(log, " "); got != "1h0m0s@1h0m0s 1h0m0s@1h0m0s 2h0m0s@2h0m0s 3h0m0s@3h0m0s" {
		t.Errorf("got %s", got)
	}
	log, release = nil, clock.Hold()
	woken := make(chan struct{})
	clock.Go(func() {
		if err := Sleep(ctx, clock, time.Hour); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled sleep returned %v", err)
		}
		note("cancelled")
		close(woken)
	})
	done := make(chan struct{})
	clock.Go(func() {
		w := clock.NewWaker()
		w.Wake()
		if !clock.Wait(w, time.Time{}) || clock.Wait(clock.NewWaker(), clock.Now()) {
			t.Error("an early wake or a past deadline blocked")
		}
		cancel()
		close(done)
	})
	<-done
	<-woken // context.AfterFunc wakes from a goroutine of its own, so being idle says nothing
	release()
	if got := strings.Join(log, " "); got != "cancelled@3h0m0s" {
		t.Errorf("got %s", got)
	}
}

func TestStopCancelsTasksAndChildren(t *testing.T) {
	cancelled := false
	var w *world
	w = newWorld(t, func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
		err := Sleep(ctx, w.clock, 1000*time.Hour)
		cancelled = err != nil
		return nil, err
	})
	child := w.add("child", one(`{`+taskS+`,"End":true}`))
	x := func() *Execution {
		defer w.clock.Hold()()
		x := w.start(one(`{"Type":"Task","Resource":"arn:aws:states:::states:startExecution.sync:2","Arguments":{"StateMachineArn":"`+child+`","Name":"kid"},"End":true}`), `{}`)
		w.clock.WaitIdle()
		if at := x.Stop("Operator", "enough"); !at.Equal(epoch) {
			t.Errorf("stopped at %v", at)
		}
		w.clock.WaitIdle()
		return x
	}()
	if d := w.end(x); d.Status != Aborted || d.Error != "Operator" || d.Cause != "enough" {
		t.Errorf("got %+v", d)
	}
	kid, err := w.e.Execution(w.e.arn("execution", "child:kid"))
	if err != nil || kid.Status() != Aborted || !cancelled {
		t.Errorf("child %v %v, task cancelled %v", kid.Status(), err, cancelled)
	}
	wantKinds(t, x, "ExecutionStarted TaskStateEntered TaskScheduled TaskStarted TaskSubmitted ExecutionAborted")
	x.Stop("again", "")
	if d := x.Describe(); d.Error != "Operator" {
		t.Errorf("a second stop changed the execution: %+v", d)
	}
}

func TestTaskToken(t *testing.T) {
	definition := one(`{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke.waitForTaskToken","HeartbeatSeconds":100,"TimeoutSeconds":1000,
		"Arguments":{"FunctionName":"ask","Payload":{"token":"{% $states.context.Task.Token %}"}},"End":true}`)
	submitted := "ExecutionStarted TaskStateEntered TaskScheduled TaskStarted TaskSubmitted "
	for _, c := range []struct {
		name   string
		answer func(w *world, token string)
		check  func(t *testing.T, d Description)
		events string
		took   time.Duration
	}{
		{"success", func(w *world, token string) { w.must(w.e.SendTaskSuccess(token, `{"approved":true}`)) },
			func(t *testing.T, d Description) { wantOutput(t, d, `{"approved":true}`) }, "TaskSucceeded TaskStateExited ExecutionSucceeded", 60 * time.Second},
		{"failure", func(w *world, token string) { w.must(w.e.SendTaskFailure(token, "Denied", "no")) },
			func(t *testing.T, d Description) {
				if d.Error != "Denied" || d.Cause != "no" {
					t.Errorf("got %+v", d)
				}
			}, "TaskFailed ExecutionFailed", 60 * time.Second},
		{"heartbeat then silence", func(w *world, token string) { w.must(w.e.SendTaskHeartbeat(token)) },
			func(t *testing.T, d Description) {
				if d.Error != errHeartbeat {
					t.Errorf("got %+v", d)
				}
			}, "TaskTimedOut ExecutionFailed", 160 * time.Second},
		{"bad output is refused", func(w *world, token string) {
			w.code(w.e.SendTaskSuccess(token, `{`), "InvalidOutput")
			w.code(w.e.SendTaskSuccess("nope", `{}`), "InvalidToken")
		}, func(t *testing.T, d Description) {}, "TaskTimedOut ExecutionFailed", 100 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w *world
			var token string
			w = newWorld(t, func(ctx context.Context, _ string, p []byte) ([]byte, error) {
				var in struct{ Token string }
				w.must(json.Unmarshal(p, &in))
				token = in.Token
				if got := w.e.WaitingTasks(); len(got) != 1 || got[0].Token != token || got[0].State != "S" {
					t.Errorf("waiting tasks %v", got)
				}
				w.clock.Go(func() {
					w.must(Sleep(context.Background(), w.clock, time.Minute))
					c.answer(w, token)
				})
				return nil, nil
			})
			x, d := w.run(definition, `{}`)
			c.check(t, d)
			wantKinds(t, x, submitted+c.events)
			if d.StopDate.Sub(d.StartDate) != c.took {
				t.Errorf("took %v, want %v", d.StopDate.Sub(d.StartDate), c.took)
			}
			w.code(w.e.SendTaskSuccess(token, `{}`), "TaskTimedOut")
			if got := w.e.WaitingTasks(); len(got) != 0 {
				t.Errorf("waiting tasks %v", got)
			}
		})
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Error(err)
	}
}

func (w *world) code(err error, code string) {
	w.t.Helper()
	if se, ok := errors.AsType[*ServiceError](err); !ok || se.Code != code {
		w.t.Errorf("got error %v, want %s", err, code)
	}
}

func TestChildExecution(t *testing.T) {
	broken := true
	calls := map[string]int{}
	w := newWorld(t, func(_ context.Context, name string, p []byte) ([]byte, error) {
		calls[name]++
		if name == "second" && broken {
			return nil, &FunctionError{Type: "Ferry.Broken", Message: "no"}
		}
		return p, nil
	})
	child := w.add("child", many(`"S":{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"first"},"Next":"T"},
		"T":{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"second"},"Output":{"k":1},"End":true}`))
	x, d := w.run(one(`{"Type":"Task","Resource":"arn:aws:states:::states:startExecution.sync:2","Arguments":{"StateMachineArn":"`+child+`","Name":"kid","Input":{"in":1}},"End":true}`), `{}`)
	if d.Status != Failed || d.Error != errTaskFailed {
		t.Fatalf("got %+v", d)
	}
	var cause struct{ ExecutionArn, Error, Cause, Input, Status string }
	w.must(json.Unmarshal([]byte(d.Cause), &cause))
	if cause.Error != "Ferry.Broken" || cause.Cause != `{"errorMessage":"no","errorType":"Ferry.Broken"}` || cause.Input != `{"in":1}` || cause.Status != "FAILED" ||
		cause.ExecutionArn != "arn:aws:states:us-east-1:123456789012:execution:child:kid" {
		t.Errorf("cause %+v", cause)
	}
	broken = false
	w.must(x.Redrive())
	d = w.end(x)
	var out struct {
		Output       map[string]int
		Input        map[string]int
		Status       string
		RedriveCount int
	}
	w.must(json.Unmarshal([]byte(d.Output), &out))
	if out.Output["k"] != 1 || out.Input["in"] != 1 || out.Status != "SUCCEEDED" || out.RedriveCount != 1 || calls["first"] != 1 || calls["second"] != 2 {
		t.Errorf("output %s, calls %v", d.Output, calls)
	}
	wantKinds(t, x, `ExecutionStarted TaskStateEntered TaskScheduled TaskStarted TaskSubmitted TaskFailed ExecutionFailed
		ExecutionRedriven TaskScheduled TaskStarted TaskSubmitted TaskSucceeded TaskStateExited ExecutionSucceeded`)
}

func TestRedrive(t *testing.T) {
	broken := true
	calls := map[string]int{}
	l := func(_ context.Context, name string, p []byte) ([]byte, error) {
		calls[string(p)]++
		if string(p) == "2" && broken {
			return nil, &FunctionError{Type: "E"}
		}
		return p, nil
	}
	t.Run("task, with variables and new retry counts", func(t *testing.T) {
		broken, calls = true, map[string]int{}
		w := newWorld(t, l)
		x, d := w.run(many(`"S":{"Type":"Pass","Assign":{"v":2},"Output":{"o":1},"Next":"T"},
			"T":{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"f","Payload":"{% $v %}"},
			"Retry":[{"ErrorEquals":["E"],"MaxAttempts":1}],"Output":["{% $v %}","{% $states.input.o %}","{% $states.context.Execution.RedriveCount %}"],"End":true}`), `{}`)
		if d.Status != Failed || d.RedriveStatus != "REDRIVABLE" {
			t.Fatalf("got %+v", d)
		}
		w.must(x.Redrive())
		if d = w.end(x); d.Status != Failed || calls["2"] != 4 {
			t.Fatalf("got %+v after %v calls", d, calls)
		}
		broken = false
		w.must(x.Redrive())
		d = w.end(x)
		wantOutput(t, d, `[2,1,2]`)
		if d.RedriveCount != 2 || d.RedriveStatus != "NOT_REDRIVABLE" {
			t.Errorf("got %+v", d)
		}
		w.code(x.Redrive(), "ExecutionNotRedrivable")
		wantKinds(t, x, `ExecutionStarted PassStateEntered PassStateExited TaskStateEntered TaskScheduled TaskStarted TaskFailed TaskScheduled TaskStarted TaskFailed ExecutionFailed
			ExecutionRedriven TaskScheduled TaskStarted TaskFailed TaskScheduled TaskStarted TaskFailed ExecutionFailed
			ExecutionRedriven TaskScheduled TaskStarted TaskSucceeded TaskStateExited ExecutionSucceeded`)
	})
	t.Run("inline map runs only unfinished iterations", func(t *testing.T) {
		broken, calls = true, map[string]int{}
		w := newWorld(t, l)
		x, _ := w.run(one(`{"Type":"Map","Items":[1,2,3,4],"MaxConcurrency":1,"ItemProcessor":{"StartAt":"A","States":{"A":{`+taskS+`,"Output":"{% $states.result.Payload %}","End":true}}},"End":true}`), `{}`)
		broken = false
		w.must(x.Redrive())
		wantOutput(t, w.end(x), `[1,2,3,4]`)
		if fmt.Sprint(calls) != "map[1:1 2:2 3:1 4:1]" {
			t.Errorf("calls %v", calls)
		}
		if n := len(slices.DeleteFunc(kinds(x), func(k string) bool { return k != "MapIterationStarted" })); n != 4 {
			t.Errorf("%d iterations started: %v", n, kinds(x))
		}
	})
	t.Run("distributed map redrives only unsuccessful children", func(t *testing.T) {
		broken, calls = true, map[string]int{}
		w := newWorld(t, l)
		x, d := w.run(one(`{"Type":"Map","Label":"L","Items":[1,2,3,4],"MaxConcurrency":1,"ItemProcessor":{"ProcessorConfig":{"Mode":"DISTRIBUTED","ExecutionType":"STANDARD"},
			"StartAt":"A","States":{"A":{`+taskS+`,"Output":"{% $states.result.Payload %}","End":true}}},"End":true}`), `{}`)
		m := x.MapRuns()[0]
		if got := m.Describe(); d.Error != errThreshold || got.Status != Failed || got.Items != (Counts{Total: 4, Succeeded: 1, Failed: 1, Pending: 2}) {
			t.Fatalf("%+v, %+v", d, got)
		}
		broken = false
		w.must(x.Redrive())
		wantOutput(t, w.end(x), `[1,2,3,4]`)
		got := m.Describe()
		if fmt.Sprint(calls) != "map[1:1 2:2 3:1 4:1]" || got.Items != (Counts{Total: 4, Succeeded: 4}) || got.Executions != got.Items || got.RedriveCount != 1 || got.Status != Succeeded {
			t.Errorf("calls %v, %+v", calls, got)
		}
		wantKinds(t, x, `ExecutionStarted MapStateEntered MapStateStarted MapRunStarted MapRunFailed MapStateFailed ExecutionFailed
			ExecutionRedriven MapRunRedriven MapRunSucceeded MapStateSucceeded MapStateExited ExecutionSucceeded`)
		children := w.e.Executions(m.ARN)
		if len(children) != 4 || !strings.HasPrefix(m.ARN, "arn:aws:states:us-east-1:123456789012:mapRun:machine/L:") ||
			!strings.HasPrefix(children[0].ARN, "arn:aws:states:us-east-1:123456789012:execution:machine/L:") {
			t.Errorf("children %v of %s", children, m.ARN)
		}
		if len(w.e.Executions("")) != 1 {
			t.Error("children are listed among the executions")
		}
	})
	t.Run("after stop, at the state where it stood", func(t *testing.T) {
		w := newWorld(t, echo)
		release := w.clock.Hold()
		x := w.start(many(`"S":{"Type":"Pass","Next":"W"},"W":{"Type":"Wait","Seconds":60,"End":true}`), `{"k":1}`)
		w.clock.WaitIdle()
		x.Stop("", "")
		w.must(x.Redrive())
		release()
		wantOutput(t, w.end(x), `{"k":1}`)
		wantKinds(t, x, `ExecutionStarted PassStateEntered PassStateExited WaitStateEntered ExecutionAborted ExecutionRedriven WaitStateEntered WaitStateExited ExecutionSucceeded`)
	})
	t.Run("too late", func(t *testing.T) {
		w := newWorld(t, echo)
		x, _ := w.run(one(`{"Type":"Fail","Error":"E"}`), `{}`)
		later, _ := w.e.Start(w.add("later", one(`{"Type":"Wait","Seconds":1300000,"End":true}`)), "", "")
		w.end(later)
		w.code(x.Redrive(), "ExecutionNotRedrivable")
	})
}

func TestDistributedMap(t *testing.T) {
	var mu sync.Mutex
	live, most := 0, 0
	var inputs []string
	var w *world
	l := func(ctx context.Context, _ string, p []byte) ([]byte, error) {
		mu.Lock()
		live++
		most = max(most, live)
		inputs = append(inputs, string(p))
		mu.Unlock()
		err := Sleep(ctx, w.clock, time.Minute)
		mu.Lock()
		live--
		mu.Unlock()
		if strings.Contains(string(p), "-") {
			return nil, &FunctionError{Type: "E"}
		}
		return p, err
	}
	definition := func(fields string) string {
		return one(`{"Type":"Map","Items":"{% $states.input %}",` + fields + `"ItemProcessor":{"ProcessorConfig":{"Mode":"DISTRIBUTED","ExecutionType":"STANDARD"},
			"StartAt":"A","States":{"A":{` + taskS + `,"Output":"{% $states.result.Payload %}","End":true}}},"End":true}`)
	}
	for _, c := range []struct {
		name, fields, input string
		status              Status
		output              string
		most                int
		items               Counts
		took                time.Duration
	}{
		{"all at once", ``, `[1,2,3]`, Succeeded, `[1,2,3]`, 3, Counts{Total: 3, Succeeded: 3}, time.Minute},
		{"nothing", ``, `[]`, Succeeded, `[]`, 0, Counts{}, 0},
		{"concurrency", `"MaxConcurrency":"{% 2 %}",`, `[1,2,3]`, Succeeded, `[1,2,3]`, 2, Counts{Total: 3, Succeeded: 3}, 2 * time.Minute},
		{"batches", `"MaxConcurrency":1,"ItemBatcher":{"MaxItemsPerBatch":2,"BatchInput":{"b":"{% $states.context.Execution.Name %}"}},`, `[1,2,3]`, Succeeded,
			`[{"BatchInput":{"b":"x"},"Items":[1,2]},{"BatchInput":{"b":"x"},"Items":[3]}]`, 1, Counts{Total: 3, Succeeded: 3}, 2 * time.Minute},
		{"batches by bytes", `"ItemBatcher":{"MaxInputBytesPerBatch":23},`, `["aaa","bbb","ccc"]`, Succeeded,
			`[{"Items":["aaa","bbb"]},{"Items":["ccc"]}]`, 2, Counts{Total: 3, Succeeded: 3}, time.Minute},
		{"selector", `"ItemSelector":{"n":"{% $states.context.Map.Item.Index %}","v":"{% $states.context.Map.Item.Value %}"},`, `[7]`, Succeeded, `[{"n":0,"v":7}]`, 1,
			Counts{Total: 1, Succeeded: 1}, time.Minute},
		{"no tolerance", `"MaxConcurrency":1,`, `[1,-2,3]`, Failed, ``, 1, Counts{Total: 3, Succeeded: 1, Failed: 1, Pending: 1}, 2 * time.Minute},
		{"the others are aborted", ``, `[-1,2,3]`, Failed, ``, 3, Counts{Total: 3, Failed: 1, Aborted: 2}, time.Minute},
		{"count tolerated", `"ToleratedFailureCount":1,`, `[1,-2,3]`, Succeeded, `[1,3]`, 3, Counts{Total: 3, Succeeded: 2, Failed: 1}, time.Minute},
		{"count exceeded", `"MaxConcurrency":1,"ToleratedFailureCount":1,`, `[-1,-2,3]`, Failed, ``, 1, Counts{Total: 3, Failed: 2, Pending: 1}, 2 * time.Minute},
		{"percentage tolerated", `"ToleratedFailurePercentage":50,`, `[1,-2,3,-4]`, Succeeded, `[1,3]`, 4, Counts{Total: 4, Succeeded: 2, Failed: 2}, time.Minute},
		{"percentage exceeded", `"MaxConcurrency":1,"ToleratedFailurePercentage":10,`, `[1,-2,3,-4]`, Failed, ``, 1, Counts{Total: 4, Succeeded: 1, Failed: 1, Pending: 2}, 2 * time.Minute},
		{"a failed batch fails its items", `"ItemBatcher":{"MaxItemsPerBatch":2},"ToleratedFailureCount":1,`, `[-1,2,3]`, Failed, ``, 2, Counts{Total: 3, Failed: 2, Aborted: 1}, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			live, most, inputs = 0, 0, nil
			w = newWorld(t, l)
			x, err := w.e.Start(w.add("machine", definition(c.fields)), "x", c.input)
			if err != nil {
				t.Fatal(err)
			}
			d := w.end(x)
			m := x.MapRuns()[0].Describe()
			if d.Status != c.status || d.Output != c.output || most != c.most || d.StopDate.Sub(d.StartDate) != c.took {
				t.Errorf("got %s %s (%s %s), %d at once, took %v", d.Status, d.Output, d.Error, d.Cause, most, d.StopDate.Sub(d.StartDate))
			}
			w.clock.WaitIdle()
			if m := x.MapRuns()[0].Describe(); m.Items != c.items {
				t.Errorf("items %+v, want %+v", m.Items, c.items)
			}
			if d.Status == Failed && (d.Error != errThreshold || m.Status != Failed) {
				t.Errorf("error %s, Map Run %s", d.Error, m.Status)
			}
		})
	}
	t.Run("ten thousand children", func(t *testing.T) {
		w = newWorld(t, echo)
		x, d := w.run(strings.Replace(definition(`"MaxConcurrency":500,`), `"{% $states.input %}"`, `"{% [1..10000] %}"`, 1), `{}`)
		if d.Status != Succeeded || x.EventCount() != 8 || x.MapRuns()[0].Describe().Items.Succeeded != 10_000 {
			t.Errorf("got %s %s: %s", d.Status, d.Error, d.Cause)
		}
	})
}

func TestPublish(t *testing.T) {
	clock := NewVirtualClock(epoch)
	var got string
	e := New(Config{Clock: clock, Publisher: publisher(func(args []byte) ([]byte, error) {
		got = string(args)
		return []byte(`{"MessageId":"1"}`), nil
	})})
	w := &world{t, e, clock}
	_, d := w.run(one(`{"Type":"Task","Resource":"arn:aws:states:::sns:publish","Arguments":{"TopicArn":"t","Message":{"k":"{% $states.input.x %}"}},"End":true}`), `{"x":1}`)
	wantOutput(t, d, `{"MessageId":"1"}`)
	if got != `{"TopicArn":"t","Message":{"k":1}}` {
		t.Errorf("published %s", got)
	}
}

type publisher func([]byte) ([]byte, error)

func (p publisher) Publish(_ context.Context, args []byte) ([]byte, error) { return p(args) }

func TestStartRules(t *testing.T) {
	w := newWorld(t, echo)
	arn := w.add("machine", one(`{"Type":"Wait","Seconds":60,"End":true}`))
	release := w.clock.Hold()
	a, err := w.e.Start(arn, "n", `{"x":1}`)
	w.must(err)
	if b, err := w.e.Start(arn, "n", `{"x":1}`); err != nil || a != b {
		t.Errorf("same name and input while running: %v %v", b, err)
	}
	_, err = w.e.Start(arn, "n", `{"x":2}`)
	w.code(err, "ExecutionAlreadyExists")
	release()
	w.end(a)
	_, err = w.e.Start(arn, "n", `{"x":1}`)
	w.code(err, "ExecutionAlreadyExists")
	_, err = w.e.Start(arn+"x", "n", ``)
	w.code(err, "StateMachineDoesNotExist")
	for _, name := range []string{"a b", "a:b", "a/b", strings.Repeat("x", 81), "a\x00"} {
		_, err = w.e.Start(arn, name, ``)
		w.code(err, "InvalidName")
	}
	for _, input := range []string{"{", `"` + strings.Repeat("x", maxPayload) + `"`} {
		_, err = w.e.Start(arn, "", input)
		w.code(err, "InvalidExecutionInput")
	}
	_, err = w.e.Execution("nope")
	w.code(err, "ExecutionDoesNotExist")
	_, err = w.e.MapRun("nope")
	w.code(err, "ResourceNotFound")
}

func TestObserve(t *testing.T) {
	w := newWorld(t, echo)
	var seen []string
	cancel := w.e.Observe(Observer{
		StatusChanged: func(c StatusChange) { seen = append(seen, string(c.Status)) },
		StateEntered:  func(s StateEntered) { seen = append(seen, s.State) },
	})
	x, _ := w.run(many(`"S":{"Type":"Pass","Next":"T"},"T":{"Type":"Fail"}`), `{}`)
	w.must(x.Redrive())
	w.end(x)
	w.clock.WaitIdle()
	if got := strings.Join(seen, " "); got != "RUNNING S T FAILED RUNNING T FAILED" {
		t.Errorf("saw %s", got)
	}
	cancel()
	w.run(one(`{"Type":"Pass","End":true}`), `{}`)
	if len(seen) != 7 {
		t.Errorf("a cancelled observer saw %v", seen)
	}
}

// TestDeterminism: the same seeds give the same history, byte for byte, with threads and jitter.
func TestDeterminism(t *testing.T) {
	history := func() string {
		n := 0
		var w *world
		w = newWorld(t, func(ctx context.Context, _ string, p []byte) ([]byte, error) {
			n++
			k, _ := strconv.Atoi(string(p))
			if err := Sleep(ctx, w.clock, time.Duration(k%7)*time.Second); err != nil {
				return nil, err
			}
			if n%3 == 0 {
				return nil, &StateError{Name: "E"}
			}
			return p, nil
		})
		x, d := w.run(one(`{"Type":"Map","Items":"{% [1..30] %}","MaxConcurrency":8,"ItemProcessor":{"StartAt":"A","States":{"A":{`+taskS+`,
			"Retry":[{"ErrorEquals":["E"],"MaxAttempts":50,"JitterStrategy":"FULL","MaxDelaySeconds":9}],"End":true}}},"End":true}`), `{}`)
		if d.Status != Succeeded {
			t.Fatalf("%+v", d)
		}
		text, err := json.Marshal(x.History())
		w.must(err)
		return string(text)
	}
	first := history()
	for range 5 {
		if history() != first {
			t.Fatal("two runs differ")
		}
	}
}

// TestRealClock runs the same engine on real time and threads.
func TestRealClock(t *testing.T) {
	started := make(chan struct{}, 100)
	e := New(Config{Lambda: lambda(func(ctx context.Context, name string, p []byte) ([]byte, error) {
		if name == "hang" {
			started <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return p, nil
	})})
	w := &world{t: t, e: e}
	map20 := func(name string) string {
		return one(`{"Type":"Map","Items":"{% [1..20] %}","ItemProcessor":{"ProcessorConfig":{"Mode":"DISTRIBUTED","ExecutionType":"STANDARD"},"StartAt":"A","States":{
			"A":{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"` + name + `","Payload":1},"Output":1,"End":true}}},"End":true}`)
	}
	var all []*Execution
	for range 10 {
		all = append(all, w.start(map20("f"), `{}`))
	}
	for _, x := range all {
		if d := w.end(x); d.Status != Succeeded {
			t.Errorf("%+v", d)
		}
	}
	// Iterations share the decoded values of outer variables: no function may write to them.
	_, d := w.run(many(`"S":{"Type":"Pass","Assign":{"v":{"list":[3,1,2,5,4],"o":{"k":1}}},"Next":"M"},"M":{"Type":"Map","Items":"{% [1..40] %}","ItemProcessor":{"StartAt":"A","States":{
		"A":{"Type":"Pass","Output":"{% [$append($v.list, $states.input)[5] = $states.input, $sort($v.list)[0] = 1, $reverse($v.list)[0] = 4, $merge([$v.o, {'k': 2}]).k = 2, ($v ~> |o|{'k': 9}|).o.k = 9, $v.o.k = 1, $v.list = [3,1,2,5,4], $count($shuffle($v.list)) = 5] %}","End":true}}},"Output":"{% $distinct($reduce($states.result, $append)) %}","End":true}`), `{}`)
	wantOutput(t, d, `true`)
	x := w.start(map20("hang"), `{}`)
	for range 20 {
		<-started
	}
	x.Stop("Stop", "")
	if d := w.end(x); d.Status != Aborted {
		t.Errorf("%+v", d)
	}
	w.must(x.Redrive())
	for range 20 {
		<-started
	}
	x.Stop("Stop", "")
	w.end(x)
}
