// Package simulate runs whole migrations of a size that no machine here holds: the deployment's own state machines and steps, on a virtual
// clock, over coarse clusters that know segments, sequence numbers and bytes, but no documents.
//
// What a snapshot adds and what a restore moves follow from the segments by the same rules as in the built-in domain (a test holds the two
// together), and the built-in domain is held to real nodes. How long things take is assumed: see constants.go for each number and where it
// comes from. So the simulation shows whether decisions, predictions, histories and request counts hold at that size; it does not
// measure Amazon.
package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/machines"
	"github.com/domainferry/domainferry/internal/names"
)

// DefaultWindow is the downtimeWindow of a simulation.
const DefaultWindow = 30 * time.Minute

// Config is the size of a simulation. Zero values take the defaults of the issue: 10,000 shards, 100 TB, 40 nodes.
type Config struct {
	Seed   uint64
	Shards int
	Bytes  int64
	Nodes  int
	Window time.Duration                    // downtimeWindow
	Trace  func(format string, args ...any) // told of each state that is entered, and of failed steps; may be nil
	Detail bool                             // a study tells all of each result
}

func (c Config) withDefaults() Config {
	if c.Shards == 0 {
		c.Shards = 10_000
	}
	if c.Bytes == 0 {
		c.Bytes = int64(c.Shards) * 10e9
	}
	if c.Nodes == 0 {
		c.Nodes = 40
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	return c
}

// definitions are parsed once; all simulations share them.
var definitions = sync.OnceValues(func() (map[string]*asl.Machine, error) {
	return machines.Parse(asl.New(asl.Config{}).ARN, func(name string) string { return name })
})

// start is when a simulation begins. Deadlines pass through contexts, which know only real time: a date before the present would have
// passed already.
var start = time.Date(2100, 3, 1, 8, 0, 0, 0, time.UTC)

var (
	sourceVersion      = cluster.Version{Distribution: cluster.Elasticsearch, Number: "7.10.2", Major: 7, Minor: 10, Patch: 2, ClusterUUID: "source"}
	destinationVersion = cluster.Version{Distribution: cluster.OpenSearch, Number: "2.19.0", Major: 2, Minor: 19, ClusterUUID: "destination"}
)

func newWorld(cfg Config) (*world, error) {
	w := &world{
		cfg: cfg, clock: asl.NewVirtualClock(start), random: rand.New(rand.NewPCG(cfg.Seed, 1)), jitter: rand.New(rand.NewPCG(cfg.Seed, 2)),
		journal: &journalBucket{objects: map[string][]byte{}, largest: map[string]int{}}, blocked: map[string]time.Time{},
		largestOutput: map[string]int{}, longest: map[string]time.Duration{}, frozen: map[string]float64{}, executions: map[string][]*asl.Execution{}, functions: map[string]names.Function{},
	}
	w.meter.http = map[string]int64{}
	w.bucket = &repositoryBuckets{w: w, published: map[string]bool{}}
	w.source = w.newSide("https://search-source.eu-west-1.es.amazonaws.com", sourceVersion)
	w.destination = w.newSide("https://search-destination.eu-central-1.es.amazonaws.com", destinationVersion)
	w.fill()
	for _, f := range names.Functions() {
		w.functions[f.Name] = f
	}
	w.engine = asl.New(asl.Config{Clock: w.clock, Lambda: w, Random: rand.New(rand.NewPCG(cfg.Seed, 3))})
	parsed, err := definitions()
	if err != nil {
		return nil, err
	}
	for name, m := range parsed {
		if _, err := w.engine.AddStateMachine(name, m); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) newSide(name string, version cluster.Version) *side {
	s := &side{w: w, name: name, version: version, now: start, byName: map[string]*index{}, repositories: map[string]cluster.Repository{},
		snapshots: map[string]*snapshot{}, settings: map[string]string{}, hourly: start.Add(time.Duration(w.random.IntN(60)) * time.Minute)}
	for i := range w.cfg.Nodes {
		n := &node{name: fmt.Sprintf("%s-%d", version.ClusterUUID, i), speed: noise(w.random, nodeNoise)}
		if w.random.Float64() < slowNodes {
			n.speed *= slowness
		}
		s.nodes = append(s.nodes, n)
	}
	return s
}

// kind is what is done to an index.
type kind int

const (
	static  kind = iota // yesterday's and older: nothing
	growing             // appended to
	updated             // documents are changed in place and deleted
	small               // many little ones, some changes
)

// population is the mix of indices: how much of the shards, how many to an index, how large, and what a shard is written to in a day
// (a part of its documents).
var population = []struct {
	kind                     kind
	name                     string
	shards                   float64 // part of all shards
	perIndex                 int
	size                     float64 // of a shard, 1 being the average
	document                 int64   // bytes
	appends, updates, erases float64 // a day, part of the shard's documents
}{
	{static, "logs-2026.%03d", 0.60, 20, 1.1, 800, 0, 0, 0},
	{growing, "events-%04d", 0.25, 10, 1.2, 800, 0.03, 0, 0},
	{updated, "catalogue-%04d", 0.10, 10, 0.6, 1500, 0.002, 0.02, 0.002},
	{small, "tenant-%05d", 0.05, 2, 0.02, 1200, 0.005, 0.01, 0.001},
}

// fill makes the source's indices as they have grown.
func (w *world) fill() {
	s := w.source
	average := float64(w.cfg.Bytes) / float64(w.cfg.Shards)
	weight := 0.0
	for _, p := range population {
		weight += p.shards * p.size
	}
	for _, p := range population {
		count := int(float64(w.cfg.Shards)*p.shards+0.5) / p.perIndex
		for i := range count {
			x := &index{name: fmt.Sprintf(p.name, i), uuid: fmt.Sprintf("uuid-%d-%d", p.kind, i), kind: p.kind, created: "7100299", bytesPerDoc: p.document,
				settings: map[string]string{"index.number_of_replicas": "1", "index.refresh_interval": "30s"}, mapping: `{"properties":{"text":{"type":"text"}}}`,
				aliases: []string{"all-" + p.name[:4]}}
			bytes := average * p.size / weight * noise(w.random, 0.3)
			docs := bytes / float64(p.document)
			x.appends, x.updates, x.erase = docs*p.appends/86400, docs*p.updates/86400, docs*p.erases/86400
			for n := range p.perIndex {
				sh := newShard(w.random)
				sh.age(docs, p.document)
				sh.live = 0
				for _, g := range sh.segments {
					sh.live += g.docs
				}
				sh.seqNo = sh.live - 1
				sh.epochs = []epoch{{seqNo: sh.seqNo}}
				if p.updates > 0 {
					sh.kill(sh.live / 10)
					dead := int64(0)
					for _, g := range sh.segments {
						dead += g.dead
					}
					sh.live -= dead
				}
				sh.merge()
				x.shards = append(x.shards, &primary{index: x, number: n, node: s.placeFor(), shard: sh, synced: start, state: "STARTED", term: 1})
			}
			s.add(x)
		}
	}
}

func (w *world) input() string {
	side := func(s *side, region, name string) string {
		return fmt.Sprintf(`{"domainArn":"arn:aws:es:%[1]s:111122223333:domain/%[2]s","endpoint":%[3]q,
			"repository":{"bucket":"%[2]s-snapshots","basePath":"%[2]s","region":"%[1]s","roleArn":"arn:aws:iam::111122223333:role/snapshots"}}`, region, name, s.name)
	}
	return fmt.Sprintf(`{"migration":"large","source":%s,"destination":%s,"indices":{"include":["*"]},"downtimeWindow":%q}`,
		side(w.source, "eu-west-1", "source"), side(w.destination, "eu-central-1", "destination"), w.cfg.Window)
}

// Run simulates one migration from the first look to the end. The error is of the simulation itself; how the migration ended is in the
// result.
func Run(ctx context.Context, cfg Config) (Result, error) {
	w, err := newWorld(cfg.withDefaults())
	if err != nil {
		return Result{}, err
	}
	return w.run(ctx)
}

func (w *world) run(ctx context.Context) (Result, error) {
	began := time.Now()
	w.engine.Observe(asl.Observer{StateEntered: w.entered})
	x, err := w.engine.Start(w.engine.ARN(names.MigrationMachine), "", w.input())
	if err != nil {
		return Result{}, err
	}
	d, err := x.Wait(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("seed %d: %w; the virtual time was %s", w.cfg.Seed, err, w.clock.Now().Format(time.DateTime))
	}
	w.clock.WaitIdle()
	r, err := w.result(d)
	r.RealSeconds = time.Since(began).Seconds()
	return r, err
}

// entered counts a transition, and remembers the execution for its history.
func (w *world) entered(e asl.StateEntered) {
	w.mu.Lock()
	w.meter.transitions++
	machine := e.Execution.StateMachineARN[strings.LastIndex(e.Execution.StateMachineARN, ":")+1:]
	if known := w.executions[machine]; len(known) == 0 || known[len(known)-1] != e.Execution {
		w.executions[machine] = append(known, e.Execution)
	}
	w.mu.Unlock()
	if w.cfg.Trace != nil && !strings.Contains(machine, "/") {
		w.cfg.Trace("%s %s %s", e.Time.Format(time.DateTime), machine, e.State)
	}
}

// Quiet keeps the steps' own log lines away.
func Quiet() (restore func()) {
	before := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	return func() { slog.SetDefault(before) }
}

// document reads one of the journal's.
func document[T any](w *world, key string) (v T, found bool, err error) {
	body, ok := w.journal.objects["migrations/large/"+key]
	if !ok {
		return v, false, nil
	}
	return v, true, json.Unmarshal(body, &v)
}

// all reads numbered documents from 1 on.
func all[T any](w *world, key string) (out []T, err error) {
	for n := 1; ; n++ {
		v, found, err := document[T](w, fmt.Sprintf(key, n))
		if err != nil || !found {
			return out, err
		}
		out = append(out, v)
	}
}
