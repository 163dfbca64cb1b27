package simulate

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
)

// side is one of the two clusters. Nothing happens in it on its own: whoever asks it something first brings it up to the present (sync),
// event by event. Only one strand runs at a time, so it needs no lock of its own but world.mu, which guards calls that a step makes from
// several goroutines.
type side struct {
	w       *world
	name    string
	version cluster.Version
	now     time.Time
	events  eventHeap
	order   int

	nodes        []*node
	indices      []*index // by name
	byName       map[string]*index
	repositories map[string]cluster.Repository
	snapshots    map[string]*snapshot // of the migration's repository
	running      []*snapshot
	automated    int       // taken so far
	hourly       time.Time // the next one
	settings     map[string]string
	deal         []int // nodes that the next shards go to
}

type node struct {
	name  string
	speed float64 // of its network and disk, 1 being as it should
	lanes [lanes]lane
}

// Each kind of work has a lane of its own on a node and takes a shard at a time: the engines share one thread pool, but throttle
// snapshots by repository and restores on their own.
const (
	laneSnapshot = iota
	laneRestore
	laneAutomated
	lanes
)

type lane struct {
	busy  bool
	queue []job
}

// job is a shard's turn: start says how long it takes, end is called when it is over.
type job struct {
	start func() time.Duration
	end   func()
}

type index struct {
	name, uuid string
	kind       kind
	created    string
	settings   map[string]string
	mapping    string
	aliases    []string
	closed     bool
	shards     []*primary
	snapshots  int // automated ones that hold a shard of it

	bytesPerDoc             int64
	appends, updates, erase float64 // operations a second and shard, on average
	settingsVersion         int
}

// primary is a shard on one side.
type primary struct {
	index  *index
	number int
	node   *node
	// source
	*shard
	synced    time.Time
	inRound   *commit         // taken by the last snapshot of the migration
	uploaded  map[int64]int64 // segment -> generation, in the migration's repository
	automated *commit         // taken by the last automated one
	saved     map[int64]int64
	// destination
	copy     *commit // what its store holds, as long as nothing was written to it
	of       *primary
	state    string // STARTED, INITIALIZING, UNASSIGNED
	reason   string
	recovery *recovery
	replayed replayed
	term     int64
	history  int // of the copy: a restore begins a new one
}

func (p *primary) historyUUID() string {
	return fmt.Sprintf("%s-%d-%d", p.index.uuid, p.number, p.history)
}

type recovery struct {
	snapshot      string
	total, reused int64
	start, stop   time.Time
	seconds       float64
	done          bool
}

// replayed is what single documents have brought to a copy.
type replayed struct {
	began     bool
	base      int64           // the source's sequence number that the copy was restored at
	upto      int64           // replayed without a gap
	pending   map[int64]int64 // from -> upto, done by slices before the gap below them
	erased    int64           // deletions up to this sequence number of the source are brought over
	seqNo     int64           // of the copy
	documents float64
	deleted   float64
}

type snapshot struct {
	repository, name, uuid string
	automated              bool
	indices                []*index
	left, total            int
	start, end             time.Time
	state                  string
	files, bytes, size     int64
	objects                int64
	progress               map[string]*cluster.IndexProgress
	commits                map[*primary]*commit
	rangeObjects           []int64
	rangeBytes             []int64
	metadata               map[string]int // index -> its settings' version
	took                   map[*primary]share
}

// share is one shard's part of a snapshot.
type share struct {
	bytes int64
	start time.Time
	took  time.Duration
}

type event struct {
	at    time.Time
	order int
	f     func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].order < h[j].order
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

func (s *side) after(d time.Duration, f func()) {
	s.order++
	heap.Push(&s.events, event{s.now.Add(max(0, d)), s.order, f})
}

// sync lets everything happen that is due.
func (s *side) sync() {
	now := s.w.clock.Now()
	for {
		if len(s.events) > 0 && !s.events[0].at.After(now) && (s.hourly.IsZero() || s.events[0].at.Before(s.hourly)) {
			e := heap.Pop(&s.events).(event)
			s.now = e.at
			e.f()
			continue
		}
		if s.hourly.IsZero() || s.hourly.After(now) {
			break
		}
		s.now = s.hourly
		s.hourly = s.hourly.Add(time.Hour)
		s.takeAutomated()
	}
	s.now = now
}

func (s *side) enqueue(n *node, which int, j job) {
	n.lanes[which].queue = append(n.lanes[which].queue, j)
	s.work(n, which)
}

func (s *side) work(n *node, which int) {
	l := &n.lanes[which]
	if l.busy || len(l.queue) == 0 {
		return
	}
	j := l.queue[0]
	l.queue = l.queue[1:]
	l.busy = true
	s.after(j.start(), func() {
		l.busy = false
		j.end()
		s.work(n, which)
	})
}

// noise is a factor around 1.
func noise(random *rand.Rand, sigma float64) float64 {
	return math.Exp(random.NormFloat64()*sigma - sigma*sigma/2)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// transfer is how long a node takes for so many bytes under a throttle (bytes a second).
func (s *side) transfer(n *node, bytes int64, throttle float64) time.Duration {
	rate := min(throttle*noise(s.w.random, throttleNoise), nodeRate*n.speed*noise(s.w.random, transferNoise))
	return seconds(float64(bytes) / rate)
}

// advance lets the writers have written to a shard of the source until now.
func (s *side) advance(p *primary) {
	if p.shard == nil {
		return
	}
	x := p.index
	if x.kind == static {
		if since := s.now.Sub(p.synced); since > 0 && s.w.random.Float64() < forceMerges*since.Hours()/24 {
			p.forceMerge()
		}
		p.synced = s.now
		return
	}
	for p.synced.Before(s.now) {
		until := s.now
		if frozen := s.w.blocked[x.name]; !frozen.IsZero() && frozen.Before(until) {
			until = frozen
		}
		step := min(until.Sub(p.synced), refreshStep)
		if step <= 0 {
			p.synced = s.now
			return
		}
		middle := p.synced.Add(step / 2)
		factor := daily(middle) * step.Seconds() * noise(s.w.random, writeNoise)
		p.write(s.round(x.appends*factor), s.round(x.updates*factor), s.round(x.erase*factor), x.bytesPerDoc)
		p.synced = p.synced.Add(step)
	}
}

// round makes a number of operations whole, keeping its mean.
func (s *side) round(n float64) int64 {
	whole := math.Floor(n)
	if s.w.random.Float64() < n-whole {
		whole++
	}
	return int64(whole)
}

// daily is the write rate over the day: lowest at 3 o'clock, highest at 15.
func daily(t time.Time) float64 {
	hour := float64(t.Hour()) + float64(t.Minute())/60
	return 1 + 0.5*math.Sin(2*math.Pi*(hour-9)/24)
}

// take starts a snapshot.
func (s *side) take(run *snapshot) {
	run.start, run.state = s.now, cluster.SnapshotInProgress
	run.progress, run.commits, run.metadata, run.took = map[string]*cluster.IndexProgress{}, map[*primary]*commit{}, map[string]int{}, map[*primary]share{}
	run.rangeObjects, run.rangeBytes = make([]int64, copyRanges), make([]int64, copyRanges)
	s.running = append(s.running, run)
	which := laneSnapshot
	if run.automated {
		which = laneAutomated
	}
	for i, x := range run.indices {
		run.metadata[x.name] = x.settingsVersion
		progress := &cluster.IndexProgress{ShardsTotal: len(x.shards)}
		run.progress[x.name] = progress
		run.total += len(x.shards)
		run.left += len(x.shards)
		left := len(x.shards)
		if run.automated {
			x.snapshots++
		}
		for _, p := range x.shards {
			s.enqueue(p.node, which, job{
				start: func() time.Duration { return s.snapshotShard(run, p, progress, i) },
				end: func() {
					progress.ShardsDone++
					progress.ProcessedBytes = progress.IncrementalBytes
					if left--; left == 0 && run.automated {
						x.snapshots--
					}
					if run.left--; run.left == 0 {
						s.after(seconds(snapshotFinal+float64(len(run.indices))*snapshotIndex), func() { s.finish(run) })
					}
				},
			})
		}
	}
}

// snapshotShard compares the shard with what the repository has of it.
func (s *side) snapshotShard(run *snapshot, p *primary, progress *cluster.IndexProgress, number int) time.Duration {
	var c *commit
	if p.shard != nil {
		s.advance(p)
		c = p.flush()
	} else if c = p.copy; c == nil {
		c = &commit{}
	}
	known, before := &p.uploaded, &p.inRound
	if run.automated {
		known, before = &p.saved, &p.automated
	}
	if *before != nil && (*before).seqNo == c.seqNo && (*before).live == c.live {
		c = *before // the engine takes a shard of the same operations for the same, whatever was merged (7.6 and newer)
	}
	var files, bytes, objects int64
	if c != *before {
		if *known == nil {
			*known = make(map[int64]int64, len(c.segments))
		}
		files, bytes, objects = increment(*known, c)
		clear(*known) // older files stay in the repository, but no later commit has them
		for _, v := range c.segments {
			(*known)[v.id] = v.generation
		}
		*before = c
	}
	objects += 2 // file list and shard generation
	size := c.bytes()
	progress.IncrementalFiles += files
	progress.IncrementalBytes += bytes
	progress.TotalBytes += size
	run.files += files
	run.bytes += bytes
	run.size += size
	run.objects += objects
	run.rangeObjects[number%copyRanges] += objects
	run.rangeBytes[number%copyRanges] += bytes
	if !run.automated {
		run.commits[p] = c
	}
	s.w.meter.engineObjects += objects
	d := seconds(snapshotShard*noise(s.w.random, transferNoise)) + s.transfer(p.node, bytes, s.snapshotThrottle(run))
	run.took[p] = share{bytes, s.now, d}
	return d
}

func (s *side) snapshotThrottle(run *snapshot) float64 {
	if !run.automated {
		if r, ok := s.repositories[run.repository]; ok {
			if n, ok := parseRate(r.Settings["max_snapshot_bytes_per_sec"]); ok {
				return n
			}
		}
	}
	return defaultThrottle
}

func (s *side) restoreThrottle() float64 {
	rate := float64(defaultThrottle)
	if n, ok := parseRate(s.settings["indices.recovery.max_bytes_per_sec"]); ok {
		rate = n
	}
	return rate
}

// parseRate reads "40mb"; false when it is not set. Unlimited is very fast.
func parseRate(text string) (float64, bool) {
	text = strings.TrimSpace(strings.ToLower(text))
	if text == "" {
		return 0, false
	}
	var n float64
	var unit string
	if _, err := fmt.Sscanf(text, "%g%s", &n, &unit); err != nil && unit == "" {
		if _, err := fmt.Sscanf(text, "%g", &n); err != nil {
			return 0, false
		}
	}
	if n <= 0 {
		return 1 << 40, true
	}
	switch strings.TrimSuffix(strings.TrimSuffix(unit, "/s"), "b") {
	case "k":
		n *= 1 << 10
	case "m":
		n *= 1 << 20
	case "g":
		n *= 1 << 30
	}
	return n, true
}

func (s *side) finish(run *snapshot) {
	run.end, run.state = s.now, cluster.SnapshotSuccess
	s.running = slices.DeleteFunc(s.running, func(r *snapshot) bool { return r == run })
	if run.automated {
		s.w.automatedBytes += run.bytes
		return
	}
	s.w.bucket.add(run)
}

// takeAutomated is the service's own hourly snapshot; one at a time.
func (s *side) takeAutomated() {
	if slices.ContainsFunc(s.running, func(r *snapshot) bool { return r.automated }) {
		return
	}
	var open []*index
	for _, x := range s.indices {
		if len(x.shards) > 0 && !slices.ContainsFunc(x.shards, func(p *primary) bool { return p.shard == nil && p.state != "STARTED" }) {
			open = append(open, x)
		}
	}
	if len(open) == 0 {
		return
	}
	s.automated++
	s.take(&snapshot{repository: "cs-automated", name: fmt.Sprintf("hourly-%04d", s.automated), automated: true, indices: open})
}

// restore starts restoring a snapshot's indices: new ones, or over closed ones.
func (s *side) restore(run *snapshot, names []string, request cluster.RestoreRequest) error {
	op := "restore snapshot " + run.repository + "/" + run.name
	for _, name := range names {
		if x := s.byName[name]; x != nil && !x.closed {
			return fault.Newf(fault.DestinationOccupied, op, s.name, "cannot restore index [%s] because an open index with same name already exists in the cluster", name)
		}
		if !slices.ContainsFunc(run.indices, func(x *index) bool { return x.name == name }) {
			return fault.Newf(fault.RequestRefused, op, s.name, "the snapshot does not hold index %s", name)
		}
	}
	for _, from := range run.indices {
		if !slices.Contains(names, from.name) {
			continue
		}
		x := s.byName[from.name]
		if x == nil {
			x = &index{name: from.name, uuid: "copy-" + from.uuid, created: from.created, kind: from.kind}
			for i := range from.shards {
				x.shards = append(x.shards, &primary{index: x, number: i, node: s.placeFor(), of: from.shards[i], term: 1})
			}
			s.add(x)
		}
		x.closed = false
		x.settings = map[string]string{}
		for k, v := range from.settings {
			if !slices.ContainsFunc(request.IgnoreSettings, func(p string) bool { return strings.HasPrefix(k, strings.TrimSuffix(p, "*")) }) {
				x.settings[k] = v
			}
		}
		for k, v := range request.Settings {
			x.settings[k] = fmt.Sprint(v)
		}
		x.mapping = from.mapping
		if request.IncludeAliases {
			x.aliases = slices.Clone(from.aliases)
		}
		for i, p := range x.shards {
			c := run.commits[from.shards[i]]
			p.state, p.reason, p.recovery = "UNASSIGNED", "EXISTING_INDEX_RESTORED", nil
			if p.copy == nil {
				p.reason = "NEW_INDEX_RESTORED"
			}
			s.enqueue(p.node, laneRestore, job{
				start: func() time.Duration { return s.restoreShard(run, p, c) },
				end: func() {
					p.recovery.done, p.recovery.stop = true, s.now
					p.state, p.reason = "STARTED", ""
					if p.copy == nil || x.name != s.w.forget {
						p.copy = c
					}
					p.replayed = replayed{}
					p.term++
					p.history++
				},
			})
		}
	}
	return nil
}

func (s *side) restoreShard(run *snapshot, p *primary, c *commit) time.Duration {
	recovered, reused := restoreBytes(p.copy, c)
	if p.replayed.began { // its segments are its own
		recovered, reused = restoreBytes(nil, c)
	}
	d := seconds(restoreShard*noise(s.w.random, transferNoise)) + s.transfer(p.node, recovered, s.restoreThrottle())
	p.state = "INITIALIZING"
	p.recovery = &recovery{snapshot: run.name, total: recovered + reused, reused: reused, start: s.now, seconds: d.Seconds()}
	return d
}

func (s *side) add(x *index) {
	at, _ := slices.BinarySearchFunc(s.indices, x.name, func(a *index, n string) int { return strings.Compare(a.name, n) })
	s.indices = slices.Insert(s.indices, at, x)
	s.byName[x.name] = x
}

// placeFor deals shards out evenly, in a random order.
func (s *side) placeFor() *node {
	if len(s.deal) == 0 {
		s.deal = s.w.random.Perm(len(s.nodes))
	}
	n := s.deal[0]
	s.deal = s.deal[1:]
	return s.nodes[n]
}
