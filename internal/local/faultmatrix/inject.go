package faultmatrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/frontdoor"
	"github.com/domainferry/domainferry/internal/local/lambdaruntime"
	"github.com/domainferry/domainferry/internal/local/s3gateway"
	"github.com/domainferry/domainferry/internal/local/workload"
)

// injector stands behind the hooks of one environment; it does what the present shot says.
type injector struct{ shot atomic.Pointer[shot] }

func (i *injector) hooks() environment.Hooks {
	return environment.Hooks{
		Invoke: func(ctx context.Context, function string, payload []byte, invoke func(context.Context, []byte) ([]byte, error)) ([]byte, error) {
			if s := i.shot.Load(); s != nil {
				return s.invoke(ctx, function, payload, invoke)
			}
			return invoke(ctx, payload)
		},
		Door: func(side string, r frontdoor.Request) frontdoor.Fault {
			if s := i.shot.Load(); s != nil {
				return s.door(side, r)
			}
			return frontdoor.Fault{}
		},
		S3: func(r s3gateway.Request) s3gateway.Answer {
			if s := i.shot.Load(); s != nil {
				return s.s3(r)
			}
			return s3gateway.Pass
		},
	}
}

// shot is one fault on its way into one state of one execution.
type shot struct {
	env      *environment.Environment
	row      Row
	fault    Fault
	scenario scenario
	// at is the number of the call, of those that the fault can hit, at which it is injected; -1 is when the state is entered.
	at     int
	effect bool // of the very call

	// turn is held for writing by the call of a function whose requests must be told from all others'.
	turn sync.RWMutex

	mu        sync.Mutex
	execution *asl.Execution // of the migration
	working   string         // the state whose call holds the turn, "" for none
	final     Phase
	armed     bool // the state was entered
	aimed     bool // its function works
	forged    bool
	calls     int // of the present call, that the fault can hit
	fired     time.Time
	left      int       // S3 answers
	until     time.Time // of a fault that lasts
	recording bool
	seen      map[string][]call // what a state's function asks for when it is first called, in a run without a fault
	entered   map[Row]bool
	states    map[string]string // execution -> the state it is in, for functions that several states run
	acting    sync.WaitGroup
	failure   error
	lost      chan struct{} // closed: the executions are lost with their process, and another one has taken over
}

func newShot(env *environment.Environment, row Row, f Fault, s scenario) *shot {
	return &shot{env: env, row: row, fault: f, scenario: s, at: -1, seen: map[string][]call{}, entered: map[Row]bool{}, states: map[string]string{}, lost: make(chan struct{})}
}

// place tells the machine, and the phase, of an execution.
func (s *shot) place(x *asl.Execution) (machine string, p Phase) {
	_, machine, _ = strings.Cut(x.StateMachineARN, ":stateMachine:")
	machine, _, _ = strings.Cut(machine, "/") // a Map's child
	if machine == "migration" {
		return machine, ""
	}
	var input struct{ Final bool }
	_ = json.Unmarshal([]byte(x.Describe().Input), &input) // an input without it is a warm one
	if input.Final {
		return machine, Final
	}
	return machine, Warm
}

// entering is told of every state that is entered.
func (s *shot) entering(e asl.StateEntered) {
	machine, phase := s.place(e.Execution)
	s.mu.Lock()
	at := Row{Machine: machine, State: e.State, Phase: phase}
	s.entered[at] = true
	s.states[machine+"@"+string(phase)] = e.State
	mine := at == Row{Machine: s.row.Machine, State: s.row.State, Phase: s.row.Phase} && s.fired.IsZero()
	if mine && s.fault != none && (s.at < 0 || s.row.Function == "") {
		s.fire()
		s.mu.Unlock()
		return
	}
	s.armed = s.armed || mine
	s.mu.Unlock()
}

// invoke stands between the machines and the functions.
func (s *shot) invoke(ctx context.Context, function string, payload []byte, invoke func(context.Context, []byte) ([]byte, error)) ([]byte, error) {
	var in map[string]any
	_ = json.Unmarshal(payload, &in) // a payload without members has none of those asked for
	phase := Phase("")
	if f, ok := in["final"].(bool); ok && f {
		phase = Final
	} else if ok {
		phase = Warm
	}
	s.mu.Lock()
	state := s.stateOf(function, phase, in)
	forge := s.scenario.forge != nil && !s.forged && state == s.scenario.forgedState && phase == s.row.Phase
	if forge {
		s.forged = true
		s.mu.Unlock()
		out, err := s.scenario.forge(in)
		if err != nil {
			return nil, err
		}
		return json.Marshal(out)
	}
	mine := s.fault != none && s.armed && s.fired.IsZero() && function == s.row.Function && phase == s.row.Phase
	disturbed := s.scenario.disturb != nil && state == s.scenario.disturbed && phase == s.row.Phase
	s.mu.Unlock()
	if s.fault != none && !mine && !disturbed {
		s.turn.RLock()
		defer s.turn.RUnlock()
		return s.answered(ctx, function, phase, in)(invoke(ctx, payload))
	}
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	s.working, s.final, s.aimed, s.calls = state, phase, mine && s.fired.IsZero(), 0
	at := s.at
	if s.fault == none && s.seen[state+"@"+string(phase)] == nil {
		s.recording, s.seen[state+"@"+string(phase)] = true, []call{}
	}
	s.mu.Unlock()
	out, err := s.answered(ctx, function, phase, in)(invoke(ctx, payload))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working, s.aimed, s.recording = "", false, false
	if mine && s.fired.IsZero() && at >= 0 {
		s.at = 0 // it made fewer calls than it did in the run without a fault; the next one is hit at once
	}
	return out, err
}

// stateOf names the state that runs a function: most functions have one. The caller holds s.mu.
func (s *shot) stateOf(function string, phase Phase, in map[string]any) string {
	switch {
	case function == "poll-status" && in["what"] == "snapshot":
		return "PollSnapshot"
	case function == "poll-status":
		return "PollRestore"
	case function == "reconcile-deletes" && in["part"] != nil:
		return "DeletePart"
	case function == "ask":
		return s.states["migration@"]
	}
	return functionStates()[function]
}

// functionStates maps functions to states, for those that one state alone runs.
var functionStates = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	rows, _ := Rows() // Run has had the error
	for _, r := range rows {
		if r.Function != "" {
			m[r.Function] = r.State
		}
	}
	m["reconcile-deletes"] = "ReconcileDeletes"
	return m
})

// shortWait takes the place of the least wait of a warm round, a second, which would be most of a case's time.
const shortWait = 100 * time.Millisecond

// answered gives the operator's answer to a question that has just been asked, and shortens waits of warm rounds.
func (s *shot) answered(ctx context.Context, function string, phase Phase, in map[string]any) func([]byte, error) ([]byte, error) {
	return func(out []byte, err error) ([]byte, error) {
		if err == nil && function == "poll-status" && phase == Warm {
			var status map[string]any
			if err := json.Unmarshal(out, &status); err == nil && status["waitSeconds"] == 1.0 && workload.Pause(ctx, shortWait) == nil {
				status["waitSeconds"] = 0
				return json.Marshal(status)
			}
		}
		token, _ := in["taskToken"].(string)
		if err == nil && function == "ask" && token != "" && s.scenario.answer != "" {
			engine := s.env.Engine
			go func() {
				// The engine takes the answer once it has taken the function's; a token of an execution that has ended is never taken.
				for range 100 {
					if engine.SendTaskSuccess(token, `{"action":"`+s.scenario.answer+`"}`) == nil {
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			}()
		}
		return out, err
	}
}

// note books a request of the function at work and says whether the fault hits it now. The caller holds s.mu.
func (s *shot) note(c call) (hit bool) {
	if s.recording {
		s.seen[s.working+"@"+string(s.final)] = append(s.seen[s.working+"@"+string(s.final)], c)
	}
	if !s.aimed || !s.fired.IsZero() || !s.fault.hits(c) {
		return false
	}
	s.calls++
	return s.calls-1 == s.at
}

func (s *shot) door(side string, r frontdoor.Request) frontdoor.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scenario.disturb != nil && s.working == s.scenario.disturbed && s.final == s.row.Phase {
		if f := s.scenario.disturb(side, r.Path, r.Body); f.Kind != frontdoor.None {
			return f
		}
	}
	if s.note(call{side: side, mutating: r.Mutating}) {
		s.fire()
		return s.fault.door(s.effect)
	}
	if s.fault == ClockSkew && time.Now().Before(s.until) {
		return frontdoor.Fault{Kind: frontdoor.Skewed}
	}
	return frontdoor.Fault{}
}

func (s *shot) s3(r s3gateway.Request) s3gateway.Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.note(call{kind: r.Kind}) {
		s.fire()
		return s.fault.s3(s.effect)
	}
	switch {
	case s.fault == ClockSkew && time.Now().Before(s.until):
		return s3gateway.Skewed
	case s.fault == S3Unavailable && s.left > 0:
		s.left--
		return s3gateway.SlowDown
	}
	return s3gateway.Pass
}

// fire makes the fault happen. The caller holds s.mu.
func (s *shot) fire() {
	s.fired = time.Now()
	switch s.fault {
	case LambdaKilled:
		s.env.Lambdas.Interrupt(s.row.Function, lambdaruntime.Crash)
	case LambdaTimeout:
		s.env.Lambdas.Interrupt(s.row.Function, lambdaruntime.TimeOut)
	case S3Unavailable:
		s.left = s3Failures - 1
	case ClockSkew:
		s.until = s.fired.Add(skewFor)
	case SourceKilled, DestinationKilled:
		side := s.env.Source
		if s.fault == DestinationKilled {
			side = s.env.Destination
		}
		killed := make(chan struct{})
		s.act(func() error {
			err := side.Kill9()
			close(killed)
			time.Sleep(nodeDown)
			return errors.Join(err, side.Restart(context.Background()))
		})
		<-killed
	case GatewayRestarted:
		s.act(func() error { return s.env.Gateway.Restart(context.Background()) })
	case DiskFull:
		s.failure = errors.Join(s.failure, s.env.Destination.FillDisk(true))
		s.act(func() error { time.Sleep(diskFor); return s.env.Destination.FillDisk(false) })
	case Stopped:
		x := s.execution
		s.act(func() error { x.Stop("Operator", "stopped by the fault matrix"); return nil })
	case EngineKilled:
		s.act(func() error {
			defer close(s.lost)
			return s.env.RestartStepFunctions(context.Background())
		})
	}
}

// act runs a part of the fault that takes time; over waits for it.
func (s *shot) act(f func() error) {
	s.acting.Go(func() {
		if err := f(); err != nil {
			s.mu.Lock()
			s.failure = errors.Join(s.failure, fmt.Errorf("inject %s: %w", s.fault, err))
			s.mu.Unlock()
		}
	})
}

// over waits until what was broken is whole again.
func (s *shot) over() error {
	s.acting.Wait()
	s.mu.Lock()
	left := time.Until(s.until)
	defer s.mu.Unlock()
	if left > 0 {
		time.Sleep(left)
	}
	return s.failure
}

func (s *shot) firedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fired
}
