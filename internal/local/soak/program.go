package soak

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Duration is written as "1.5s" in JSON.
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// Program is what happens in one run: how the world is at its start, and then one operation after the other. It carries all its values
// itself, so that it means the same when operations are taken out of it; the seed decides only how long requests take.
type Program struct {
	Seed        uint64 `json:"seed"`
	Source      string `json:"source"` // engine
	Destination string `json:"destination"`
	Rate        int64  `json:"bytesPerSecond"` // of snapshots and restores
	// RuleDelay is about how long the rule takes to tell thaw of an execution's end.
	RuleDelay Duration `json:"ruleDelay"`
	Indices   []Index  `json:"indices"`
	Ops       []Op     `json:"ops"`
}

// Index is there at the start, with documents 0 to Docs-1.
type Index struct {
	Name   string `json:"name"`
	Shards int    `json:"shards"`
	Docs   int    `json:"docs"`
}

// Do is what an operation does.
type Do string

// The operations. What makes no sense when its turn comes, such as an answer when nothing is asked, does nothing.
const (
	Write       Do = "write"       // of clients: Count documents from ID on, one after the other
	Load        Do = "load"        // of clients, beside what follows: Count writes, one each Every
	CreateIndex Do = "createIndex" // by clients
	DeleteIndex Do = "deleteIndex" // by clients
	Start       Do = "start"       // an execution, whether another one runs or not
	Answer      Do = "answer"      // what an execution asks: approve, decline, cutover, warm, stop, or nonsense
	Stop        Do = "stop"        // the execution that was started last
	Redrive     Do = "redrive"     // the execution that was started last
	Rule        Do = "rule"        // an event of the rule for the execution that was started last, whether it has ended or not
	Break       Do = "break"       // arms a fault
	KillNode    Do = "killNode"    // of a domain; it is back after For
	FillDisk    Do = "fillDisk"    // of the destination, for For
	Pass        Do = "pass"        // nothing: time passes
)

// Op is one operation. It waits for a state, where it names one, then for After, and then is carried out.
type Op struct {
	Do    Do       `json:"do"`
	State string   `json:"state,omitempty"` // waited for until it is entered, for at most Patience, while an execution runs
	After Duration `json:"after,omitempty"`

	Index string `json:"index,omitempty"`
	How   string `json:"how,omitempty"` // of a write: index, update or delete; of an answer: the action
	ID    int    `json:"id,omitempty"`
	Count int    `json:"count,omitempty"`
	Value int    `json:"value,omitempty"`

	Every    Duration       `json:"every,omitempty"`
	For      Duration       `json:"for,omitempty"`
	Domain   Place          `json:"domain,omitempty"`
	Shards   int            `json:"shards,omitempty"`
	Input    map[string]any `json:"input,omitempty"` // of a start, over the default
	Fault    *Fault         `json:"fault,omitempty"`
	Migrates string         `json:"migration,omitempty"` // of a start; empty is the usual one
}

// Patience is how long an operation waits for its state.
const Patience = 3 * time.Minute

// String is the operation in one line.
func (o Op) String() string {
	text, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Check refuses what cannot be run.
func (p Program) Check() error {
	if len(p.Indices) == 0 || p.Rate <= 0 {
		return fmt.Errorf("a program needs indices and bytesPerSecond")
	}
	for i, o := range p.Ops {
		switch o.Do {
		case Write, Load, CreateIndex, DeleteIndex, Start, Answer, Stop, Redrive, Rule, KillNode, FillDisk, Pass:
		case Break:
			if o.Fault == nil {
				return fmt.Errorf("operation %d: break without a fault", i)
			}
			if err := o.Fault.check(); err != nil {
				return fmt.Errorf("operation %d: %w", i, err)
			}
		default:
			return fmt.Errorf("operation %d: there is no %q", i, o.Do)
		}
	}
	return nil
}

var pairs = [][2]string{
	{"elasticsearch-7.10.2", "opensearch-2.19.0"}, {"elasticsearch-7.10.2", "opensearch-1.3.20"}, {"opensearch-1.3.20", "opensearch-2.19.0"},
	{"opensearch-2.19.0", "opensearch-3.7.0"}, {"elasticsearch-7.10.2", "elasticsearch-7.10.2"},
}

// course is the order in which a migration comes by the states that are worth waiting for: up to the decision, and from the freeze on.
var course = []string{
	"Preflight", "Register", "Warm", "StartSnapshot", "PollSnapshot", "PlanCopy", "CopyRange", "PublishCopy", "StartRestore", "PollRestore", "RecordRound",
	"PlanReplay", "ReplaySlice", "RecordPass", "Decide", "Decide", "Approve",
	"Freeze", "Freeze", "MoveLastDelta", "PlanReplay", "MoveLastDelta", "StartSnapshot", "PollSnapshot", "PlanCopy", "CopyRange", "PublishCopy", "StartRestore", "PollRestore", "RecordRound",
	"Verify", "Verify", "Finish", "Finish", "Finish", "Thaw", "Thaw",
}

// freezing is where the freeze begins in the course.
var freezing = slices.Index(course, "Freeze")

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// Generate draws a program: acts, each of which begins with an execution, and goes on along its course. With late, effects of requests that
// were answered 504 may come long after the answer. That is left out otherwise: no engine offers a fence, so that a request to close an
// index, say, which takes effect when the migration is over, cannot be told from an operator's.
func Generate(seed uint64, late bool) Program {
	r := rand.New(rand.NewPCG(seed, 0x50a4))
	pair := pick(r, pairs)
	p := Program{Seed: seed, Source: pair[0], Destination: pair[1], Rate: pick(r, []int64{2 << 10, 16 << 10, 1 << 20})}
	p.RuleDelay = Duration(pick(r, []time.Duration{500 * time.Millisecond, 500 * time.Millisecond, 20 * time.Second, 5 * time.Minute}))
	g := &generator{r: r, late: late}
	for i := range 1 + r.IntN(3) {
		p.Indices = append(p.Indices, Index{Name: string(rune('a' + i)), Shards: 1 + r.IntN(2), Docs: r.IntN(30)})
		g.names = append(g.names, p.Indices[i].Name)
	}
	acts := 1 + r.IntN(3)
	for act := range acts {
		if r.IntN(2) == 0 {
			p.Ops = append(p.Ops, g.clients(Op{After: pause(r)}))
		}
		if r.IntN(3) == 0 { // for what comes first
			p.Ops = append(p.Ops, g.fault(Op{After: pause(r)}))
		}
		start := Op{Do: Start, After: pause(r), Input: input(r)}
		if act > 0 && r.IntN(3) == 0 {
			start.Input = map[string]any{"mode": "goBack"} // refused where nothing was handed over
		}
		p.Ops = append(p.Ops, start)
		first := 0
		if r.IntN(4) > 0 {
			first = freezing
		}
		at := make([]int, 1+r.IntN(8))
		for i := range at {
			at[i] = first + r.IntN(len(course)-first)
			if first > 0 && r.IntN(6) == 0 {
				at[i] = r.IntN(first)
			}
		}
		slices.Sort(at)
		for i, n := range at {
			o := Op{After: pause(r), State: course[n]}
			if i > 0 && r.IntN(3) == 0 {
				o.State = "" // with the one before
			}
			p.Ops = append(p.Ops, g.op(o))
		}
	}
	return p
}

type generator struct {
	r     *rand.Rand
	names []string // of indices
	late  bool
}

// clients is what clients do.
func (g *generator) clients(o Op) Op {
	r := g.r
	o.Index, o.Value = pick(r, g.names), r.IntN(1000)
	if r.IntN(2) == 0 {
		o.Do, o.How = Write, pick(r, []string{"index", "index", "update", "update", "delete"})
		o.ID, o.Count = r.IntN(30), 1+r.IntN(8)
		return o
	}
	o.Do, o.Count, o.Every = Load, 5+r.IntN(60), Duration(pick(r, []time.Duration{7, 31, 130, 900})*time.Millisecond)
	return o
}

func (g *generator) fault(o Op) Op {
	r := g.r
	f := Fault{At: pick(r, []Place{Source, Source, Destination, Destination, S3, Lambda, Lambda}), Nth: 1 + r.IntN(12)}
	for f.Kind = pick(r, kinds[f.At]); f.Kind == TimeoutLate && !g.late; f.Kind = pick(r, kinds[f.At]) {
	}
	switch r.IntN(12) {
	case 0, 1, 2:
		f.Times = 2 + r.IntN(30)
	case 3:
		f.Times = 40 + r.IntN(200) // more than the workflow tries again
	}
	f.Changing = r.IntN(2) == 0 && f.At != Lambda
	if f.Changing || f.At == Lambda {
		f.Nth = 1 + r.IntN(6)
	}
	switch f.Kind {
	case TimeoutLate, Slow:
		f.For = Duration(pick(r, []time.Duration{200 * time.Millisecond, 2 * time.Second, 20 * time.Second}))
	case Skewed:
		f.For = Duration(pick(r, []time.Duration{2 * time.Second, 40 * time.Second, 4 * time.Minute}))
		if f.At == Lambda && r.IntN(2) == 0 {
			f.For = -f.For
		}
	}
	o.Do, o.Fault = Break, &f
	return o
}

// op draws what happens.
func (g *generator) op(o Op) Op {
	r := g.r
	switch n := r.IntN(100); {
	case n < 21:
		return g.clients(o)
	case n < 53:
		return g.fault(o)
	case n < 59:
		o.Do, o.How = Answer, pick(r, []string{"approve", "approve", "approve", "decline", "cutover", "warm", "stop", "nonsense"})
		if r.IntN(2) == 0 {
			o.State = "Approve"
		}
	case n < 75:
		o.Do = Stop
	case n < 79:
		o.Do = Redrive
	case n < 82:
		o.Do = Rule
	case n < 86:
		o.Do, o.Input = Start, input(r)
		if r.IntN(3) == 0 {
			o.Migrates = "other"
		}
	case n < 90:
		o.Do, o.Domain, o.For = KillNode, pick(r, []Place{Source, Destination}), Duration(pick(r, []time.Duration{time.Second, 20 * time.Second, 5 * time.Minute}))
	case n < 92:
		o.Do, o.For = FillDisk, Duration(pick(r, []time.Duration{2 * time.Second, time.Minute}))
	case n < 96:
		o.Do, o.Index, o.Shards = CreateIndex, string(rune('a'+r.IntN(6))), 1+r.IntN(2)
		if !slices.Contains(g.names, o.Index) {
			g.names = append(g.names, o.Index)
		}
	case n < 98:
		o.Do, o.Index = DeleteIndex, pick(r, g.names)
		if o.Index == "a" { // one is always left to be moved
			return g.clients(o)
		}
	default:
		o.Do = Pass
	}
	return o
}

// pause is from nothing to a minute, mostly short.
func pause(r *rand.Rand) Duration {
	longest := pick(r, []time.Duration{3 * time.Millisecond, 40 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 4 * time.Second, time.Minute})
	return Duration(r.Int64N(int64(longest)))
}

// input is what a start says beyond the default.
func input(r *rand.Rand) map[string]any {
	in := map[string]any{"lastMile": pick(r, []string{"auto", "rounds", "replay", "replay"})}
	if r.IntN(3) == 0 {
		in["cutOver"] = map[string]any{"approval": "required", "approvalTimeout": pick(r, []string{"1m", "1h"})}
	}
	if r.IntN(8) == 0 {
		in["mode"], in["rounds"] = pick(r, []string{"warm", "assess"}), map[string]any{"minimum": 1}
	}
	if r.IntN(8) == 0 {
		in["downtimeWindow"], in["rounds"], in["onNeverFits"] = "1s", map[string]any{"minimum": 2, "maximum": 3}, pick(r, []string{"ask", "stop"})
	}
	if r.IntN(10) == 0 {
		in["replicas"] = 0
	}
	return in
}
