// Package faultmatrix breaks one thing in one state of a migration, for every state of every machine and every kind of fault, while
// clients keep writing, and then looks whether anything was lost, writes are taken again, everything that was changed is as
// before, and a following execution goes on.
package faultmatrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/local/environment"
)

// Config says which cases to run. States, Faults and Cases select; empty ones take all.
type Config struct {
	Environment environment.Config // Hooks and LogDir are set for each environment
	States      []string           // machine/state, with or without @warm or @final; or the state alone
	Faults      []Fault
	Cases       []string // state:fault, as a failure names them
	Seed        uint64   // decides the data and at which of its calls a function is hit
	Parallel    int      // environments at once; 0 is 2
	Out         string   // folder of fault-matrix.json; logs go below it
	Lines       io.Writer
	Progress    io.Writer // what becomes of each case
}

// Case is one fault in one state, and what came of it.
type Case struct {
	Row     Row     `json:"row"`
	Fault   Fault   `json:"fault"`
	Outcome Outcome `json:"outcome"`
	// Reason says why the case cannot be reached, or what is wrong.
	Reason []string `json:"reason,omitempty"`
	// Scenario is the migration that reaches the state.
	Scenario string `json:"scenario,omitempty"`
	// Call is the number of the function's request at which the fault came, -1 for the moment when the state was entered.
	Call   int      `json:"call"`
	Effect bool     `json:"effect,omitempty"` // of that request, where that is open
	Ended  []string `json:"ended,omitempty"`  // how the executions ended
	// HandedOver: the first execution moved everything in spite of the fault.
	HandedOver bool `json:"handedOver,omitempty"`
	// SecondsUntilWritable is from the fault to the moment when every index took writes, at the source or, verified, at the destination; 0
	// when none had refused any.
	SecondsUntilWritable float64 `json:"secondsUntilWritable"`
	Seconds              float64 `json:"seconds"`
}

// Outcome is what came of a case.
type Outcome string

// The outcomes.
const (
	OK           Outcome = "ok"
	Failed       Outcome = "FAILED"
	NotReachable Outcome = "not reachable"
)

// String is the case as -cases takes it.
func (c Case) String() string { return c.Row.String() + ":" + string(c.Fault) }

// Summary is fault-matrix.json.
type Summary struct {
	Machine      string   `json:"machine"`
	Date         string   `json:"date"`
	Go           string   `json:"go"`
	Revision     string   `json:"revision,omitempty"`
	EnginesAre   string   `json:"enginesAre"`
	Source       string   `json:"source"`
	Destination  string   `json:"destination"`
	Seed         uint64   `json:"seed"`
	Ran          int      `json:"ran"`
	OK           int      `json:"ok"`
	Failed       int      `json:"failed"`
	NotReachable int      `json:"notReachable"`
	NotRun       int      `json:"notRun,omitempty"` // it was interrupted
	Seconds      float64  `json:"seconds"`
	LongestUntil float64  `json:"longestSecondsUntilWritable"`
	Cases        []Case   `json:"cases"`
	Unbroken     []string `json:"unbroken"` // migrations without a fault that show what each state does
}

// plan lists the cases that the configuration selects, in the order of the table.
func (cfg Config) plan() ([]Case, error) {
	rows, err := Rows()
	if err != nil {
		return nil, err
	}
	faults := cfg.Faults
	if len(faults) == 0 {
		faults = Faults()
	}
	for _, f := range faults {
		if !slices.Contains(Faults(), f) {
			return nil, fmt.Errorf("there is no fault %q; the faults are %v", f, Faults())
		}
	}
	for _, name := range cfg.States {
		if !slices.ContainsFunc(rows, func(r Row) bool { return r.is(name) }) {
			return nil, fmt.Errorf("there is no state %q; a state is named machine/state, with @warm or @final in rounds and passes, or by a part of that", name)
		}
	}
	wanted := map[string]bool{}
	for _, c := range cfg.Cases {
		wanted[c] = false
	}
	var list []Case
	for _, r := range rows {
		if len(cfg.States) > 0 && !slices.ContainsFunc(cfg.States, r.is) {
			continue
		}
		for _, f := range Faults() {
			c := Case{Row: r, Fault: f, Call: -1}
			if len(wanted) > 0 {
				if _, ok := wanted[c.String()]; !ok {
					continue
				}
				wanted[c.String()] = true
			} else if !slices.Contains(faults, f) || r.Type != "Task" && !f.anyState() || r.Type == "Task" && r.Function == "" && f.needsFunction() {
				continue
			}
			list = append(list, c)
		}
	}
	for _, c := range cfg.Cases {
		if !wanted[c] {
			return nil, fmt.Errorf("there is no case %q; a case is machine/state:fault, with @warm or @final after the states of rounds and passes", c)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("no case is selected")
	}
	return list, nil
}

func (r Row) is(name string) bool {
	state, phase, _ := strings.Cut(strings.TrimPrefix(name, r.Machine+"/"), "@")
	return name == r.Machine || state == r.State && (phase == "" || phase == string(r.Phase))
}

// matrix is a run of many cases.
type matrix struct {
	cfg   Config
	began time.Time

	mu       sync.Mutex
	summary  Summary
	unbroken map[string]*unbroken
	trials   int
}

// unbroken is a migration without a fault: which states it enters, and what their functions ask for.
type unbroken struct {
	once    sync.Once
	entered map[Row]bool
	seen    map[string][]call
	err     error
}

// Run runs the cases and returns an error when one of them failed or could not be carried out.
func Run(ctx context.Context, cfg Config) (Summary, error) {
	if cfg.Environment.Engines == environment.Nodes && len(cfg.States)+len(cfg.Faults)+len(cfg.Cases) == 0 {
		cfg.Cases = Representative()
	}
	list, err := cfg.plan()
	if err != nil {
		return Summary{}, err
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 2
		if cfg.Environment.Engines == environment.Nodes {
			cfg.Parallel = 1
		}
	}
	m := &matrix{cfg: cfg, began: time.Now(), unbroken: map[string]*unbroken{}}
	m.summary = Summary{
		Machine: fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), Date: time.Now().UTC().Format(time.RFC3339),
		Go: runtime.Version(), Revision: revision(), EnginesAre: string(cfg.Environment.Engines),
		Source: cfg.Environment.Source, Destination: cfg.Environment.Destination, Seed: cfg.Seed, Cases: list,
	}
	next := make(chan *Case)
	var workers sync.WaitGroup
	for n := range min(cfg.Parallel, len(list)) {
		workers.Go(func() { m.work(ctx, n, next) })
	}
	for i := range list {
		select {
		case next <- &m.summary.Cases[i]:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	m.finish()
	if cfg.Out != "" {
		if err := write(filepath.Join(cfg.Out, "fault-matrix.json"), m.summary); err != nil {
			return m.summary, err
		}
	}
	m.summary.Print(cfg.Lines)
	switch s := m.summary; {
	case s.Failed > 0:
		return s, errors.Join(fmt.Errorf("%d of %d cases failed", s.Failed, s.Ran), ctx.Err())
	case s.NotRun > 0:
		return s, fmt.Errorf("%d cases were not run: %w", s.NotRun, ctx.Err())
	}
	return m.summary, nil
}

func revision() string {
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}

func write(path string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(body, '\n'), 0o644)
}

// worker runs cases one after the other in an environment of its own, which lasts as long as it is clean.
type worker struct {
	matrix   *matrix
	number   int
	env      *environment.Environment
	injector *injector
	used     int
}

// work takes cases until there are no more.
func (m *matrix) work(ctx context.Context, n int, next <-chan *Case) {
	w := &worker{matrix: m, number: n}
	defer w.close()
	for c := range next {
		began := time.Now()
		w.try(ctx, c)
		if ctx.Err() != nil {
			c.Outcome, c.Reason = "", nil // what was wrong with it was the interruption
			continue
		}
		c.Seconds = time.Since(began).Seconds()
		m.mu.Lock()
		fmt.Fprintf(m.cfg.Progress, "%6.1f s  %-8s %s  (%.1f s)%s\n", time.Since(m.began).Seconds(), c.Outcome, c, c.Seconds, reasons(c.Reason))
		if c.Outcome == Failed {
			fmt.Fprintf(m.cfg.Progress, "          again: %s\n", m.cfg.again(*c))
		}
		m.mu.Unlock()
	}
}

func reasons(list []string) string {
	text := ""
	for _, r := range list {
		text += "\n          " + r
	}
	return text
}

// again is the command line that runs one case.
func (cfg Config) again(c Case) string {
	return fmt.Sprintf("go run ./cmd/fault-matrix -engine %s -seed %d -cases '%s'", cfg.Environment.Engines, cfg.Seed, c)
}

// try carries a case out, once more when the fault met no call.
func (w *worker) try(ctx context.Context, c *Case) {
	fail := func(format string, args ...any) {
		c.Outcome, c.Reason = Failed, append(c.Reason, fmt.Sprintf(format, args...))
	}
	s := scenarioOf(c.Row)
	c.Scenario = s.name
	u, err := w.unbroken(ctx, c.Row, s)
	if err != nil {
		fail("the migration %q without a fault: %v", s.name, err)
		return
	}
	if c.Fault == DiskFull && w.matrix.cfg.Environment.Engines != environment.Model {
		c.Outcome, c.Reason = NotReachable, []string{"only the model's disk can be filled: a node's is this machine's"}
		return
	}
	random := w.matrix.random(c.String())
	c.Effect = random.IntN(2) == 0
	if reason := c.aim(u, random); reason != "" {
		c.Outcome, c.Reason = NotReachable, []string{reason}
		return
	}
	const tries = 6
	for range tries {
		r, err := w.trial(ctx, c.Row, c.Fault, s, c.Call, c.Effect)
		if err != nil {
			fail("the case could not be carried out: %v", err)
			return
		}
		c.Ended, c.HandedOver, c.SecondsUntilWritable = r.ended, r.handedOver, r.writable
		if r.fired {
			c.Outcome, c.Reason = OK, nil
			if len(r.problems) > 0 {
				c.Outcome, c.Reason = Failed, r.problems
			}
			return
		}
		if len(r.problems) > 0 {
			c.Outcome, c.Reason = Failed, r.problems
			return
		}
		c.Call = min(c.Call, 0)
	}
	fail("the fault met no call in %d executions; the last ended %v", tries, c.Ended)
}

// aim chooses the call to hit, of those that the function makes without a fault; the reason says why there is none.
func (c *Case) aim(u *unbroken, random *rand.Rand) string {
	at := Row{Machine: c.Row.Machine, State: c.Row.State, Phase: c.Row.Phase}
	if !u.entered[at] {
		return "the migration \"" + c.Scenario + "\" does not enter the state"
	}
	if c.Row.Function == "" {
		return ""
	}
	n := 0
	for _, x := range u.seen[at.State+"@"+string(at.Phase)] {
		if c.Fault.hits(x) {
			n++
		}
	}
	if n > 0 {
		c.Call = random.IntN(n)
		return ""
	}
	switch c.Fault {
	case TimeoutWithoutEffect, TooManyRequests, ConnectionCut:
		return "the state asks no domain"
	case TimeoutWithEffect:
		return "the state changes no domain"
	case S3Unavailable, ClockSkew:
		return "the state's function makes no call"
	case S3ErrorIn200:
		return "the state copies no object, so that S3 never answers so"
	}
	return ""
}

func (m *matrix) random(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return rand.New(rand.NewPCG(m.cfg.Seed, h.Sum64()))
}

// unbroken runs a scenario without a fault, once in a matrix.
func (w *worker) unbroken(ctx context.Context, row Row, s scenario) (*unbroken, error) {
	key := s.key(row.Phase)
	w.matrix.mu.Lock()
	u := w.matrix.unbroken[key]
	if u == nil {
		u = &unbroken{}
		w.matrix.unbroken[key] = u
	}
	w.matrix.mu.Unlock()
	u.once.Do(func() {
		began := time.Now()
		var t *trial
		if t, u.err = w.newTrial(ctx, row, none, s, -1, false); u.err != nil {
			return
		}
		var r result
		r, u.err = w.carry(ctx, t)
		if u.err == nil && len(r.problems) > 0 {
			u.err = fmt.Errorf("%s; executions ended %v", strings.Join(r.problems, "; "), r.ended)
		}
		u.entered, u.seen = t.shot.entered, t.shot.seen
		w.matrix.mu.Lock()
		defer w.matrix.mu.Unlock()
		w.matrix.summary.Unbroken = append(w.matrix.summary.Unbroken, key)
		fmt.Fprintf(w.matrix.cfg.Progress, "%6.1f s  the migration %q without a fault (%.1f s): %.200v\n", time.Since(w.matrix.began).Seconds(), key, time.Since(began).Seconds(), r.ended)
	})
	return u, u.err
}

func (w *worker) trial(ctx context.Context, row Row, f Fault, s scenario, call int, effect bool) (result, error) {
	t, err := w.newTrial(ctx, row, f, s, call, effect)
	if err != nil {
		return result{}, err
	}
	return w.carry(ctx, t)
}

// environments are used for some cases and then replaced: the journal and the histories grow.
const reuse = 40

func (w *worker) newTrial(ctx context.Context, row Row, f Fault, s scenario, call int, effect bool) (*trial, error) {
	if w.used++; w.used > reuse {
		w.close()
	}
	if w.env == nil {
		if err := w.open(ctx); err != nil {
			return nil, fmt.Errorf("start the environment: %w", err)
		}
	}
	m := w.matrix
	m.mu.Lock()
	m.trials++
	name := fmt.Sprintf("case-%d", m.trials)
	m.mu.Unlock()
	shot := newShot(w.env, row, f, s)
	shot.at, shot.effect = call, effect
	return &trial{env: w.env, injector: w.injector, shot: shot, name: name, seed: m.cfg.Seed}, nil
}

// carry runs a trial and cleans up after it; an environment that is not clean then is given up.
func (w *worker) carry(ctx context.Context, t *trial) (result, error) {
	limited, cancel := context.WithTimeout(ctx, 4*longest)
	defer cancel()
	r, err := t.run(limited)
	w.injector.shot.Store(nil)
	if err != nil || len(r.problems) > 0 || t.clean(ctx) != nil {
		w.close()
	}
	return r, err
}

func (w *worker) open(ctx context.Context) error {
	cfg := w.matrix.cfg.Environment
	w.injector = &injector{}
	cfg.Hooks, cfg.Progress = w.injector.hooks(), io.Discard
	cfg.LogDir = filepath.Join(w.matrix.cfg.Out, "fault-matrix", fmt.Sprintf("worker-%d", w.number))
	var err error
	w.env, err = environment.Start(ctx, cfg)
	w.used = 1
	return err
}

func (w *worker) close() {
	if w.env == nil {
		return
	}
	if err := w.env.Close(); err != nil {
		w.matrix.mu.Lock()
		fmt.Fprintf(w.matrix.cfg.Progress, "          stop an environment: %v\n", err)
		w.matrix.mu.Unlock()
	}
	w.env = nil
}

// finish counts.
func (m *matrix) finish() {
	s := &m.summary
	s.Seconds = time.Since(m.began).Seconds()
	slices.Sort(s.Unbroken)
	for _, c := range s.Cases {
		switch c.Outcome {
		case OK:
			s.OK++
			s.Ran++
		case NotReachable:
			s.NotReachable++
		case "":
			s.NotRun++
		default:
			s.Failed++
			s.Ran++
		}
		s.LongestUntil = max(s.LongestUntil, c.SecondsUntilWritable)
	}
}
