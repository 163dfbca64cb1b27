package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/internal/report"
)

// Counts is what happened in a run, or in many.
type Counts struct {
	Operations  map[string]int `json:"operations"` // carried out
	Faults      map[string]int `json:"faults"`     // that hit a request
	Executions  map[string]int `json:"executions"` // by their end: a status, with the error of a failed one
	HandOvers   int            `json:"handOvers"`
	GoneForward int            `json:"handOversByThaw"` // of HandOvers: the execution failed, and the destination had taken writes by then
	WentBack    int            `json:"wentBack"`
	Thaws       int            `json:"thaws"`       // the state was entered
	RuleThaws   int            `json:"thawsByRule"` // that gave writes back
	Refusals    int            `json:"refusedWrites"`
	AtSource    int            `json:"writesAtSource"` // acknowledged
	AtDest      int            `json:"writesAtDestination"`
	Rules       int            `json:"ruleEvents"`
	Invocations int            `json:"invocations"`
	Requests    int            `json:"requests"`
	Seconds     float64        `json:"virtualSeconds"`
}

func newCounts() Counts {
	return Counts{Operations: map[string]int{}, Faults: map[string]int{}, Executions: map[string]int{}}
}

func (c *Counts) add(more Counts) {
	for _, m := range []struct{ to, from map[string]int }{{c.Operations, more.Operations}, {c.Faults, more.Faults}, {c.Executions, more.Executions}} {
		for k, v := range m.from {
			m.to[k] += v
		}
	}
	c.HandOvers += more.HandOvers
	c.GoneForward += more.GoneForward
	c.WentBack += more.WentBack
	c.Thaws += more.Thaws
	c.RuleThaws += more.RuleThaws
	c.Refusals += more.Refusals
	c.AtSource += more.AtSource
	c.AtDest += more.AtDest
	c.Rules += more.Rules
	c.Invocations += more.Invocations
	c.Requests += more.Requests
	c.Seconds += more.Seconds
}

// Outcome is what one program came to. It has failed when there is a problem.
type Outcome struct {
	Problems []string
	Counts   Counts
}

// Failed says whether anything is wrong.
func (o Outcome) Failed() bool { return len(o.Problems) > 0 }

// Options of a run. The zero value is a plain one.
type Options struct {
	Sabotage Sabotage
	Trace    func(format string, args ...any) // told of each state, fault and write; may be nil
}

// Play runs a program from an empty world to the last check. The product's goroutines live in a bubble of their own (testing/synctest), in
// which time is virtual; that is the only reason for t, which is not used otherwise. Several programs may be played side by side.
func Play(t *testing.T, p Program, o Options) (out Outcome) {
	defer func() {
		if v := recover(); v != nil {
			out = Outcome{Problems: []string{fmt.Sprintf("everything stands still: %v", v)}, Counts: newCounts()}
		}
	}()
	synctest.Test(t, func(*testing.T) {
		w, err := newWorld(p)
		if err != nil {
			out = Outcome{Problems: []string{err.Error()}, Counts: newCounts()}
			return
		}
		if err := w.connect(); err != nil {
			out = Outcome{Problems: []string{err.Error()}, Counts: newCounts()}
			return
		}
		w.sabotage = o.Sabotage
		if o.Trace != nil {
			w.trace = o.Trace
		}
		out = w.play()
	})
	return out
}

// driver carries out a program.
type driver struct {
	*world
	ledger  *ledger
	started []*asl.Execution
	loads   sync.WaitGroup
	broken  sync.WaitGroup // nodes and disks
	before  map[Place]map[string]string
	began   time.Time
}

func (w *world) play() Outcome {
	d := &driver{world: w, began: time.Now(), before: map[Place]map[string]string{}}
	w.counts = newCounts()
	d.ledger = &ledger{w: w, at: Source, indices: map[string]*ledgerIndex{}}
	d.fill()
	for i, o := range w.program.Ops {
		d.perform(i, o)
	}
	problems := d.finish()
	d.end()
	w.work.Wait()
	problems = append(d.ledger.problems, problems...)
	w.counts.Refusals, w.counts.AtSource, w.counts.AtDest = d.ledger.refused, d.ledger.acked[0], d.ledger.acked[1]
	w.counts.Seconds = time.Since(d.began).Seconds()
	for _, x := range d.started {
		how := x.Describe()
		end := string(how.Status)
		if how.Error != "" {
			end += " " + how.Error
		}
		w.counts.Executions[end]++
	}
	return Outcome{Problems: problems, Counts: w.counts}
}

func (d *driver) fill() {
	l := d.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range d.program.Indices {
		l.createIndex(x.Name, x.Shards)
		for id := range x.Docs {
			l.write(x.Name, "index", id, id)
		}
	}
	for _, s := range []*side{d.source, d.destination} {
		d.before[s.name] = clusterSettings(s)
	}
}

// perform waits for the operation's turn and carries it out. Each has an instant of its own.
func (d *driver) perform(i int, o Op) {
	if o.State != "" {
		d.awaitState(o.State, Patience)
	}
	time.Sleep(time.Duration(o.After) + d.latency(100*time.Microsecond, "operation", fmt.Sprint(i)))
	d.trace("%s: %s", time.Now().UTC().Format("15:04:05.000"), o)
	l := d.ledger
	done := true
	switch o.Do {
	case Write:
		l.mu.Lock()
		for n := range max(1, o.Count) {
			l.write(o.Index, o.How, o.ID+n, o.Value+n)
		}
		l.mu.Unlock()
	case Load:
		d.loads.Go(func() {
			for n := range o.Count {
				time.Sleep(time.Duration(o.Every) + d.latency(100*time.Microsecond, "load", fmt.Sprint(i)))
				h := hash(fmt.Sprint(o.Value, n))
				l.mu.Lock()
				l.write(o.Index, []string{"index", "index", "update", "update", "delete"}[h%5], int(h>>8%40), o.Value*100+n)
				l.mu.Unlock()
			}
		})
	case CreateIndex, DeleteIndex:
		l.mu.Lock()
		if o.Do == CreateIndex {
			l.createIndex(o.Index, o.Shards)
		} else {
			l.deleteIndex(o.Index)
		}
		l.mu.Unlock()
	case Start:
		// Another migration of the same domains has to be refused. Without one that holds them it would only have been first.
		if done = o.Migrates == "" || d.held(); done {
			_, err := d.start(o.Migrates, o.Input)
			done = err == nil
		}
	case Answer:
		done = d.answer(o.How)
	case Stop, Redrive, Rule:
		if done = len(d.started) > 0; !done {
			break
		}
		x := d.started[len(d.started)-1]
		switch {
		case o.Do == Stop:
			done = x.Status() == asl.Running
			x.Stop("Operator", "stopped by the program")
		case o.Do == Redrive:
			done = x.Redrive() == nil
		default:
			d.rule(x, time.Millisecond)
		}
	case Break:
		d.arm(*o.Fault)
	case KillNode:
		s := d.source
		if o.Domain == Destination {
			s = d.destination
		}
		s.domain.Kill()
		d.broken.Go(func() {
			_ = sleep(d.life, time.Duration(o.For))
			s.domain.Restart()
		})
	case FillDisk:
		d.destination.domain.FillDisk(true)
		d.broken.Go(func() {
			_ = sleep(d.life, time.Duration(o.For))
			d.destination.domain.FillDisk(false)
		})
	}
	if done {
		d.world.mu.Lock()
		d.counts.Operations[string(o.Do)]++
		d.world.mu.Unlock()
	}
}

// The journals of the usual migration and of its way back.
const usual = "soak"

var wayBack = migration.WayBack(usual)

// start starts an execution.
func (d *driver) start(name string, more map[string]any) (*asl.Execution, error) {
	if name == "" {
		name = usual
	}
	in := map[string]any{
		"migration": name, "source": d.source.endpoint(), "destination": d.destination.endpoint(),
		"indices": map[string]any{"include": []string{"*"}}, "downtimeWindow": "10m",
	}
	maps.Copy(in, more)
	if more["mode"] == "goBack" {
		// Nobody goes back before the clients have been sent to the destination.
		d.ledger.mu.Lock()
		if taker, sure := d.ledger.taker(); sure {
			d.ledger.at = taker
		}
		d.ledger.mu.Unlock()
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	x, err := d.engine.Start(d.engine.ARN(names.MigrationMachine), fmt.Sprintf("%srun-%d", d.label, len(d.started)+1), string(body))
	if err == nil {
		d.started = append(d.started, x)
	}
	return x, err
}

// held says whether an execution that runs has both domains.
func (d *driver) held() bool {
	leases, err := d.journal().Leases(d.life)
	return err == nil && len(leases) == 2 && !slices.ContainsFunc(leases, func(l journal.Lease) bool {
		x, err := d.engine.Execution(l.Execution)
		return err != nil || x.Status() != asl.Running || !l.EndedAt.IsZero()
	})
}

// answer answers what is asked; it reports whether anything was.
func (d *driver) answer(action string) bool {
	tasks := d.engine.WaitingTasks()
	for _, t := range tasks {
		_ = d.engine.SendTaskSuccess(t.Token, `{"action":"`+action+`"}`) // one that is over takes no answer
	}
	return len(tasks) > 0
}

// freeze is the record of a migration or of a way back.
func (w *world) freeze(name string) (journal.Freeze, bool) {
	w.s3.mu.Lock()
	o, ok := w.s3.buckets[journalBucket]["migrations/"+name+"/freeze.json"]
	w.s3.mu.Unlock()
	var f journal.Freeze
	if !ok || json.Unmarshal(o.body, &f) != nil {
		return f, false
	}
	return f, true
}

// finish mends what is broken, lets executions and the rule come to their ends, and checks everything. When nothing was handed over, one more
// execution has to do it; after every second hand-over one more has to bring everything back.
func (d *driver) finish() (problems []string) {
	d.disarm()
	d.broken.Wait()
	d.loads.Wait()
	if problems := d.settle(); len(problems) > 0 {
		return problems
	}
	if problems := d.check(); len(problems) > 0 {
		return problems
	}
	if f, _ := d.freeze(usual); f.State != journal.HandedOver && f.State != journal.WentBack {
		way := "rounds"
		if d.program.Seed%2 == 0 {
			way = "replay"
		}
		if problems := d.last(map[string]any{"lastMile": way}, usual, journal.HandedOver); len(problems) > 0 {
			return problems
		}
	}
	unsettled := slices.ContainsFunc(slices.Collect(maps.Values(d.ledger.indices)), func(x *ledgerIndex) bool { return x.unsettled })
	if f, _ := d.freeze(usual); f.State == journal.HandedOver && d.program.Seed%4 < 2 && !d.ledger.changed && !unsettled {
		return d.last(map[string]any{"mode": "goBack"}, wayBack, journal.HandedOver)
	}
	return nil
}

const (
	longestRun  = 20 * 24 * time.Hour // of an execution without faults that nobody answers; a question waits for a week
	longestThaw = 2 * time.Hour
)

// settle waits until no execution runs and the rule has done its work.
func (d *driver) settle() (problems []string) {
	for began := time.Now(); ; {
		running := slices.ContainsFunc(d.started, func(x *asl.Execution) bool { return x.Status() == asl.Running })
		if !running {
			break
		}
		if time.Since(began) > longestRun {
			return []string{fmt.Sprintf("an execution still runs after %s", longestRun)}
		}
		time.Sleep(time.Minute)
	}
	for began := time.Now(); ; time.Sleep(time.Second) {
		d.mu.Lock()
		left := d.rules
		d.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Since(began) > longestThaw {
			return []string{fmt.Sprintf("thaw has not succeeded in %s after the end", longestThaw)}
		}
	}
	// Functions that outlived their executions: a while after the longest time-out none is left.
	time.Sleep(20 * time.Minute)
	return nil
}

// last runs an execution in a world without faults. It has to end verified, with the freeze in that state.
func (d *driver) last(input map[string]any, name string, state journal.FreezeState) []string {
	x, err := d.start("", input)
	if err != nil {
		return []string{err.Error()}
	}
	if problems := d.settle(); len(problems) > 0 {
		return problems
	}
	how := x.Describe()
	if how.Status != asl.Succeeded {
		return []string{fmt.Sprintf("the last execution, without faults, ended %s %s: %.900s", how.Status, how.Error, how.Cause)}
	}
	var r report.Report
	found, err := d.journal().Migration(name).Document(context.Background(), journal.ReportFile, &r)
	switch {
	case err != nil:
		return []string{err.Error()}
	case !found || r.Execution != x.ARN || r.Verdict != migration.Verified:
		return []string{fmt.Sprintf("the last execution's report says %q (found: %v, of %s): %v", r.Verdict, found, r.Execution, r.Checks)}
	}
	if f, _ := d.freeze(name); f.State != state {
		return []string{fmt.Sprintf("the last execution succeeded, and the freeze is %q", f.State)}
	}
	return d.check()
}

// check looks at everything while nothing runs.
func (d *driver) check() (problems []string) {
	ctx := context.Background()
	store := d.journal()
	leases, err := store.Leases(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	for _, l := range leases {
		if l.EndedAt.IsZero() {
			problems = append(problems, fmt.Sprintf("a lease is left: %s has %s", l.Execution, l.Endpoint))
		}
	}
	forward, found := d.freeze(usual)
	handedOver, wentBack := forward.State == journal.HandedOver, forward.State == journal.WentBack
	kept := map[string]bool{}
	for _, name := range []string{usual, wayBack, "other"} {
		undo, err := store.Migration(name).UndoLog(ctx)
		if err != nil {
			return []string{err.Error()}
		}
		for _, u := range undo {
			if u.Outstanding() {
				problems = append(problems, fmt.Sprintf("not undone: %s at %s", u.Changed(), u.Endpoint))
			}
			if strings.Contains(u.LeftAlone, "somebody else") {
				problems = append(problems, fmt.Sprintf("the undo log says that %s at %s was changed by somebody else, and nobody did", u.Changed(), u.Endpoint))
			} else if u.LeftAlone != "" && (name == usual && handedOver || name == wayBack && wentBack) {
				kept[u.Endpoint+" "+u.Setting] = true
			}
		}
	}
	if found && forward.State != journal.Thawed && !wentBack && (!handedOver || forward.SettledAt.IsZero()) {
		problems = append(problems, fmt.Sprintf("the freeze is %s (settled %v) when nothing runs", forward.State, forward.SettledAt))
	}
	if f, found := d.freeze(wayBack); found && f.State != journal.Thawed && (f.State != journal.HandedOver || f.SettledAt.IsZero() || !wentBack) {
		problems = append(problems, fmt.Sprintf("the freeze of the way back is %s (settled %v) when nothing runs, and the migration's is %s", f.State, f.SettledAt, forward.State))
	}
	if f, found := d.freeze("other"); found && f.State != journal.Thawed {
		problems = append(problems, fmt.Sprintf("migration other has a freeze: %s", f.State))
	}
	l := d.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	taker := Source
	if handedOver {
		taker = Destination
	}
	if l.at != taker && !(l.at == Source && handedOver) && !(l.at == Destination && wentBack) { // clients have not heard of it yet
		problems = append(problems, fmt.Sprintf("the %s has acknowledged writes, and was not handed over", l.at))
	}
	l.at = taker
	owner := l.side()
	switch x, err := d.engine.Execution(forward.Execution); {
	case handedOver:
		d.counts.HandOvers = 1
		if err == nil && x.Status() != asl.Succeeded {
			d.counts.GoneForward = 1
		}
		problems = append(problems, d.copies()...)
	case wentBack:
		d.counts.HandOvers, d.counts.WentBack = 1, 1
	}
	problems = append(problems, l.compare(owner)...)
	for _, s := range []*side{d.source, d.destination} {
		now := clusterSettings(s)
		for _, k := range slices.Sorted(maps.Keys(merged(now, d.before[s.name]))) {
			if a, b := d.before[s.name][k], now[k]; a != b && !kept[s.url()+" "+strings.TrimPrefix(k, "persistent ")] {
				problems = append(problems, fmt.Sprintf("cluster setting %s at the %s was %q, is %q", k, s.name, a, b))
			}
		}
	}
	// Clients can write, to every index.
	for _, name := range slices.Sorted(maps.Keys(l.indices)) {
		before := l.refused
		if !l.indices[name].unsettled {
			l.write(name, "index", 1000, 1)
		}
		if l.refused > before {
			problems = append(problems, fmt.Sprintf("index %s at the %s takes no writes", name, owner.name))
		}
	}
	return append(problems, l.compare(owner)...)
}

// copies compares the settings of indices at the destination with those of their originals.
func (d *driver) copies() (problems []string) {
	from, to := indexSettings(d.source), indexSettings(d.destination)
	replicas := map[string]bool{}
	for _, x := range d.started {
		replicas[x.ARN] = strings.Contains(x.Describe().Input, `"replicas"`)
	}
	f, _ := d.freeze(usual)
	for name := range to {
		if d.ledger.indices[name] == nil {
			problems = append(problems, fmt.Sprintf("index %s is at the destination, although it was deleted", name))
		}
	}
	for name, x := range d.ledger.indices {
		if x.unsettled || x.made == Destination {
			continue
		}
		for _, setting := range []string{"index.refresh_interval", "index.number_of_replicas", "index.blocks.write", "index.blocks.read_only", "index.number_of_shards"} {
			a, b := from[name][setting], to[name][setting]
			if setting == "index.blocks.write" {
				a = "" // the source's is kept on purpose
			}
			if setting == "index.number_of_replicas" && replicas[f.Execution] {
				continue
			}
			if a != b {
				problems = append(problems, fmt.Sprintf("setting %s of index %s is %q at the destination, and %q at the source", setting, name, b, a))
			}
		}
	}
	slices.Sort(problems)
	return problems
}

func merged(a, b map[string]string) map[string]string {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

// clusterSettings are flat: "persistent name" -> value.
func clusterSettings(s *side) map[string]string {
	a := s.serve(http.MethodGet, "/_cluster/settings?flat_settings=true", nil, nil)
	var found map[string]map[string]any
	out := map[string]string{}
	if json.Unmarshal(a.body, &found) != nil {
		return out
	}
	for kind, list := range found {
		for k, v := range list {
			out[kind+" "+k] = fmt.Sprint(v)
		}
	}
	return out
}

// indexSettings are flat: index -> name -> value.
func indexSettings(s *side) map[string]map[string]string {
	a := s.serve(http.MethodGet, "/_settings?flat_settings=true&expand_wildcards=all", nil, nil)
	var found map[string]struct {
		Settings map[string]any `json:"settings"`
	}
	out := map[string]map[string]string{}
	if json.Unmarshal(a.body, &found) != nil {
		return out
	}
	for index, x := range found {
		out[index] = map[string]string{}
		for k, v := range x.Settings {
			out[index][k] = fmt.Sprint(v)
		}
	}
	return out
}
