// Package soak plays random programs: clients that write, faults of every service, and what operators do (approve, decline, stop, redrive,
// start again), on a virtual clock, with the deployment's own state machines and steps over two modelled domains and an S3 in memory. After
// each program nothing that was acknowledged may be lost, writes must be taken by one side, everything else must be as before, and a last
// execution without faults must hand over.
//
// All of a program lives in one process and one bubble of testing/synctest, so that the time of the product itself is virtual, its time-outs
// and pauses included. How long a request takes follows from the program's seed and from what is asked for, so that runs of a program are
// much alike, but not the same: requests that the product sends at one moment arrive in any order, and internal/s3copy pauses by chance. So a
// program that failed may have to be played more than once. What fails is made shorter before it is shown. An S3 gateway, the front door's
// signatures and processes that are really killed are in internal/local/faultmatrix, fewer at a time.
package soak

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Config says which programs are played.
type Config struct {
	First    uint64
	Seeds    int
	Late     bool      // see Generate
	Parallel int       // programs at once; 0 is one a processor
	Progress io.Writer // told from time to time how far it is, and of each failure at once; may be nil
	Options  Options
}

// Failure is a program that failed, and the short one that fails in the same way.
type Failure struct {
	Seed     uint64   `json:"seed"`
	Problems []string `json:"problems"` // of the short program
	Program  Program  `json:"program"`
	Before   int      `json:"operationsBefore"` // shrinking
}

// Summary is build/soak.json.
type Summary struct {
	Machine  string    `json:"machine"`
	Go       string    `json:"go"`
	Date     string    `json:"date"`
	Engines  []string  `json:"engines"` // modelled
	First    uint64    `json:"first"`
	Seeds    int       `json:"seeds"` // played
	Seconds  float64   `json:"seconds"`
	Counts   Counts    `json:"counts"`
	Failures []Failure `json:"failures"`
}

// shrunk is how many failures are made shorter: where more fail, a few tell.
const shrunk = 5

// Run plays Seeds programs from First on.
func Run(t *testing.T, cfg Config) Summary {
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = runtime.GOMAXPROCS(0)
	}
	began := time.Now()
	s := Summary{
		Machine: fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), Go: runtime.Version(), Date: began.UTC().Format(time.RFC3339),
		First: cfg.First, Counts: newCounts(), Failures: []Failure{},
	}
	for _, p := range pairs {
		s.Engines = append(s.Engines, p[0]+" -> "+p[1])
	}
	var mu sync.Mutex
	var workers sync.WaitGroup
	next, told := 0, began
	for range cfg.Parallel {
		workers.Go(func() {
			for {
				mu.Lock()
				n := next
				next++
				mu.Unlock()
				if n >= cfg.Seeds {
					return
				}
				p := Generate(cfg.First+uint64(n), cfg.Late)
				out := Play(t, p, cfg.Options)
				mu.Lock()
				s.Counts.add(out.Counts)
				s.Seeds++
				shorten := out.Failed() && len(s.Failures) < shrunk
				at := len(s.Failures)
				if out.Failed() {
					s.Failures = append(s.Failures, Failure{p.Seed, out.Problems, p, len(p.Ops)})
				}
				mu.Unlock()
				if shorten {
					short, problems := Shrink(t, p, cfg.Options)
					if problems.Failed() {
						out = problems
					} else {
						out.Problems = append(out.Problems, "played again it does not fail")
					}
					mu.Lock()
					s.Failures[at].Program, s.Failures[at].Problems = short, out.Problems
					mu.Unlock()
				}
				mu.Lock()
				if out.Failed() {
					fmt.Fprint(cfg.Progress, s.Failures[at].Text())
				}
				if time.Since(told) > 10*time.Second {
					told = time.Now()
					fmt.Fprintf(cfg.Progress, "%d of %d programs, %d failed, %.0f s\n", s.Seeds, cfg.Seeds, len(s.Failures), time.Since(began).Seconds())
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	slices.SortFunc(s.Failures, func(a, b Failure) int { return int(int64(a.Seed - b.Seed)) })
	s.Seconds = time.Since(began).Seconds()
	return s
}

// Text is the failure for a reader; the program can be played again (cmd/soak -program).
func (f Failure) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d failed; in short (%d operations of %d):\n", f.Seed, len(f.Program.Ops), f.Before)
	for _, p := range f.Problems[:min(len(f.Problems), 5)] {
		fmt.Fprintf(&b, "  %.600s\n", p)
	}
	if more := len(f.Problems) - 5; more > 0 {
		fmt.Fprintf(&b, "  and %d more\n", more)
	}
	b.WriteString(f.Program.Text())
	return b.String()
}

// Text is the program as JSON, an operation a line.
func (p Program) Text() string {
	var b strings.Builder
	indices, _ := json.Marshal(p.Indices) // plain fields always encode
	fmt.Fprintf(&b, `{"seed":%d,"source":%q,"destination":%q,"bytesPerSecond":%d,"ruleDelay":%q,"indices":%s,"ops":[`,
		p.Seed, p.Source, p.Destination, p.Rate, time.Duration(p.RuleDelay), indices)
	for i, o := range p.Ops {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n " + o.String())
	}
	b.WriteString("]}\n")
	return b.String()
}

// Text is the table.
func (s Summary) Text() string {
	var b strings.Builder
	table := func(title string, m map[string]int) {
		total := 0
		for _, n := range m {
			total += n
		}
		fmt.Fprintf(&b, "%s: %d\n", title, total)
		for _, k := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(&b, "  %-46s %7d\n", k, m[k])
		}
	}
	c := s.Counts
	table("operations", c.Operations)
	table("faults that hit a request", c.Faults)
	table("executions", c.Executions)
	fmt.Fprintf(&b, "%-48s %7d\n", "handed over", c.HandOvers)
	fmt.Fprintf(&b, "%-48s %7d\n", "  of them by thaw, after Finish had failed", c.GoneForward)
	fmt.Fprintf(&b, "%-48s %7d\n", "went back", c.WentBack)
	fmt.Fprintf(&b, "%-48s %7d\n", "thaws by the workflow", c.Thaws)
	fmt.Fprintf(&b, "%-48s %7d\n", "writes given back by the rule", c.RuleThaws)
	fmt.Fprintf(&b, "%-48s %7d\n", "events of the rule", c.Rules)
	fmt.Fprintf(&b, "%-48s %7d\n", "writes acknowledged at the source", c.AtSource)
	fmt.Fprintf(&b, "%-48s %7d\n", "writes acknowledged at the destination", c.AtDest)
	fmt.Fprintf(&b, "%-48s %7d\n", "writes refused", c.Refusals)
	fmt.Fprintf(&b, "%-48s %7d\n", "invocations of functions", c.Invocations)
	fmt.Fprintf(&b, "%-48s %7d\n", "requests of functions", c.Requests)
	fmt.Fprintf(&b, "%d programs (seeds %d to %d), %d failed; %.0f virtual hours in %.0f s, %.0f ms each\n", s.Seeds, s.First, s.First+uint64(max(1, s.Seeds))-1, len(s.Failures),
		c.Seconds/3600, s.Seconds, 1000*s.Seconds/float64(max(1, s.Seeds)))
	return b.String()
}
