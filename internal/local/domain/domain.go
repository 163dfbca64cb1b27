// Package domain is a model of a search cluster in plain Go: one [Domain] is one cluster that serves the REST API of
// Elasticsearch 6.8/7.x or OpenSearch 1.x to 3.x as an [http.Handler]. It stands in for real nodes where there is no Java, in
// fast tests, and under a virtual clock.
//
// What it models is what a migration by snapshots depends on: documents with versions and sequence numbers; segments that are
// written, marked with deletions by generation and merged; snapshots that take segment files incrementally into a repository of
// the engines' own layout; restores over closed indices that fetch a whole segment again when any of its files differs; write
// blocks; aliases, mappings and settings that travel with a snapshot; throttles; and the errors with which all of it is refused.
// The names of files and the shape of every answer follow recordings from real nodes; the content of the .dat files and of the segment
// files is the model's own, so a model and a real node cannot read each other's repositories.
//
// What it does not model it refuses with HTTP 400 and a reason that begins with "the built-in domain model does not
// implement". It never accepts what the engine would refuse, as far as the contract suite in internal/local/contract tells.
package domain

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"time"
)

// Clock is the time that a domain lives in. Throttled work is scheduled with AfterFunc, so that a virtual clock can make hours
// of snapshot pass in microseconds.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f once, d from now, in a goroutine of its own or in the clock's; it never calls f before it returns.
	AfterFunc(d time.Duration, f func())
}

type systemClock struct{}

func (systemClock) Now() time.Time                      { return time.Now() }
func (systemClock) AfterFunc(d time.Duration, f func()) { time.AfterFunc(d, f) }

// Unlimited, as a throttle, means that only the speed of the modelled disk (400 MiB/s a node) counts.
const Unlimited int64 = -1

const (
	defaultThrottle = 40 << 20
	diskRate        = 400 << 20
)

// Config says what a domain is. The zero value of a field takes its default.
type Config struct {
	// Engine is the name and version, for example "elasticsearch-7.10.2" or "opensearch-2.19.0". Required.
	Engine string
	// Name is the cluster's name; default "domain".
	Name string
	// RepositoryRoot is path.repo: the only folder below which fs repositories may be registered.
	RepositoryRoot string
	// OpenBlobs opens the repository at an absolute location; default: a folder of real files.
	OpenBlobs func(location string) Blobs
	// Clock defaults to the system's.
	Clock Clock
	// Nodes is the number of data nodes that share the shards, each with throttles of its own; default 1.
	Nodes int
	// SnapshotBytesPerSecond and RestoreBytesPerSecond are the limits of one node that count while no repository or cluster
	// setting says otherwise; default 40 MiB/s, as in the engines. See [Unlimited].
	SnapshotBytesPerSecond, RestoreBytesPerSecond int64
	// Seed makes UUIDs and generated document ids repeatable; default: random. Domains that share a repository need different
	// seeds: their blobs are named by these UUIDs.
	Seed uint64
}

// Domain is one modelled cluster. Create it with [New]; it is safe for concurrent use and needs no closing: it owns no files,
// ports or goroutines beyond the timers of running snapshots and restores.
type Domain struct {
	cfg    Config
	engine engine
	clock  Clock

	mu           sync.Mutex
	random       *rand.Rand
	epoch        int // raised by Kill: timers of an earlier life do nothing
	down         bool
	uuid         string
	nodes        []*node
	indices      map[string]*index
	streams      map[string]*dataStream
	templates    map[string]map[string]any // kind -> name -> body
	persistent   map[string]any
	transient    map[string]any
	repositories map[string]*repository
	snapshots    []*runningSnapshot
	restores     []*runningRestore
	scrolls      map[string]*scroll
	failing      map[shardKey]string
	full         bool // no room on any node's disk
}

type node struct {
	id, name, address string
	lane              lane
}

type shardKey struct {
	index string
	shard int
}

// New makes an empty domain. It fails when the engine is unknown or RepositoryRoot is not absolute.
func New(cfg Config) (*Domain, error) {
	e, err := parseEngine(cfg.Engine)
	if err != nil {
		return nil, err
	}
	if cfg.RepositoryRoot != "" && !filepath.IsAbs(cfg.RepositoryRoot) {
		return nil, fmt.Errorf("domain %s: repository root %q is not an absolute path", cfg.Engine, cfg.RepositoryRoot)
	}
	if cfg.Name == "" {
		cfg.Name = "domain"
	}
	if cfg.OpenBlobs == nil {
		cfg.OpenBlobs = func(location string) Blobs { return folder(location) }
	}
	if cfg.Clock == nil {
		cfg.Clock = systemClock{}
	}
	if cfg.Nodes < 1 {
		cfg.Nodes = 1
	}
	if cfg.SnapshotBytesPerSecond == 0 {
		cfg.SnapshotBytesPerSecond = defaultThrottle
	}
	if cfg.RestoreBytesPerSecond == 0 {
		cfg.RestoreBytesPerSecond = defaultThrottle
	}
	if cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	d := &Domain{
		cfg: cfg, engine: e, clock: cfg.Clock, random: rand.New(rand.NewPCG(cfg.Seed, 0x646f6d61696e)),
		indices: map[string]*index{}, streams: map[string]*dataStream{}, templates: map[string]map[string]any{}, persistent: map[string]any{}, transient: map[string]any{},
		repositories: map[string]*repository{}, scrolls: map[string]*scroll{}, failing: map[shardKey]string{},
	}
	d.uuid = d.newUUID()
	for i := range cfg.Nodes {
		d.nodes = append(d.nodes, &node{id: d.newUUID(), name: fmt.Sprintf("%s-%d", cfg.Name, i), address: fmt.Sprintf("127.0.0.1:%d", 9300+i)})
	}
	return d, nil
}

// Kill ends all nodes at once, as SIGKILL would: requests are cut off until [Domain.Restart], running snapshots are gone without a
// trace, and shards that were being restored stay red for good (until their index is closed or deleted, and restored again).
// Acknowledged writes stay, refreshed or not: the engines have a translog for that.
func (d *Domain) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epoch++
	d.down = true
	for _, run := range d.snapshots {
		for _, f := range run.done {
			f(run.info, fail(503, "node_closed_exception", "node closed"))
		}
	}
	d.snapshots = nil
	d.scrolls = map[string]*scroll{}
	d.transient = map[string]any{}
	for _, n := range d.nodes {
		n.lane = lane{}
	}
	for _, r := range d.restores {
		for _, rs := range r.shards {
			if !rs.done {
				rs.shard.state = unassigned
				rs.shard.recovery = nil
				rs.shard.wipe()
				rs.shard.cause = &unassignedInfo{reason: "CLUSTER_RECOVERED", at: d.clock.Now(), status: "no_valid_shard_copy"}
			}
		}
		for _, f := range r.done {
			f(len(r.shards), len(r.shards))
		}
	}
	d.restores = nil
	for _, r := range d.repositories {
		r.known = unknownGeneration
	}
}

// Restart ends what [Domain.Kill] began: requests are served again, and every started shard has a new primary term.
func (d *Domain) Restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = false
	for _, ix := range d.indices {
		for _, s := range ix.shards {
			if s.reassigning || s.state == started {
				s.term++
				s.reassigned(d)
			}
		}
	}
}

// FailShard makes every later snapshot of one shard fail with the reason given, so that the snapshot ends PARTIAL. An empty
// reason heals the shard.
func (d *Domain) FailShard(index string, shard int, reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if reason == "" {
		delete(d.failing, shardKey{index, shard})
		return
	}
	d.failing[shardKey{index, shard}] = reason
}

// FillDisk fills the disks of all nodes, or empties them again. On full disks every index that is there takes no write and no change of
// its metadata (flood-stage watermark: 429, FORBIDDEN before 7.8 is not modelled), no shard of a restore is allocated, and one that
// is being restored fails for want of space. The engines take the block away again by themselves, since 7.4. Not modelled: indices made
// meanwhile.
func (d *Domain) FillDisk(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
	for _, ix := range d.indices {
		if full {
			ix.settings[floodStage] = "true"
		} else {
			delete(ix.settings, floodStage)
		}
	}
}

// ServeHTTP answers one request of the engine's REST API.
func (d *Domain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	down := d.down
	d.mu.Unlock()
	if down {
		panic(http.ErrAbortHandler) // net/http cuts the connection, as a dead node does
	}
	d.serve(w, r)
}

const base64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// newUUID is a name of 22 URL-safe characters, as the engines' UUIDs.randomBase64UUID. Call with d.mu held.
func (d *Domain) newUUID() string { return d.randomText(22) }

func (d *Domain) randomText(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = base64URL[d.random.IntN(len(base64URL))]
	}
	return string(b)
}

// after runs f with d.mu held, t from now, unless the domain was killed meanwhile.
func (d *Domain) after(t time.Duration, f func()) {
	epoch := d.epoch
	d.clock.AfterFunc(t, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.epoch == epoch {
			f()
		}
	})
}

// lane is the snapshot thread pool of a node: one thread, used by snapshots and restores alike, shard after shard.
type lane struct {
	busy  bool
	queue []func(release func())
}

// enqueue runs job when the lane is free; the job calls release (with d.mu held) when the next may start.
func (d *Domain) enqueue(n *node, job func(release func())) {
	n.lane.queue = append(n.lane.queue, job)
	d.advance(n)
}

func (d *Domain) advance(n *node) {
	if n.lane.busy || len(n.lane.queue) == 0 {
		return
	}
	job := n.lane.queue[0]
	n.lane.queue = n.lane.queue[1:]
	n.lane.busy = true
	d.after(0, func() {
		job(func() {
			n.lane.busy = false
			d.advance(n)
		})
	})
}
