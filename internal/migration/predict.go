package migration

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Phase is a part of the write downtime in seconds: what is expected, and the range that it is expected in.
type Phase struct {
	Seconds float64 `json:"seconds"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"`
}

// Prediction is the expected write downtime if the cut-over began now:
// freeze + max(snapshot + copy + restore, replay) + verify + finish + transitions.
type Prediction struct {
	Seconds float64 `json:"seconds"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"` // a cut-over begins only when this fits the window

	Freeze      Phase `json:"freeze"`
	Snapshot    Phase `json:"snapshot"`
	Copy        Phase `json:"copy"`
	Restore     Phase `json:"restore"`
	Replay      Phase `json:"replay"` // beside snapshot, copy and restore
	Verify      Phase `json:"verify"`
	Finish      Phase `json:"finish"`
	Transitions Phase `json:"transitions"` // between the phases: the state machines' own time

	// What the last delta is expected to be.
	SnapshotBytes int64 `json:"snapshotBytes"`
	RestoreBytes  int64 `json:"restoreBytes"`
	Operations    int64 `json:"operations"` // documents to be written and deletions, by replay
	// Dominates names the phase that costs most and, where known, the node, the shards and the index that it waits for.
	Dominates string `json:"dominates"`
}

// Probe is what the parts of a cut-over took when they were tried just now, in seconds. Zero is not measured.
type Probe struct {
	Source      float64 `json:"source"`      // a read of the statistics that freezing and verifying ask for
	Destination float64 `json:"destination"` // a listing of its indices
	Journal     float64 `json:"journal"`     // a small document
	// Task is how long it took from the state's being entered to its function's first line: what each state of a cut-over costs besides
	// its work. Cold is the longest seen so far: of a function that had to be started first, as those that only a cut-over calls have.
	Task float64 `json:"task"`
	Cold float64 `json:"cold"`
	// Return is how long it took from the end of the last round or pass until the state after it was entered.
	Return float64 `json:"return"`
	// Refresh is a refresh of the source's indices on replay: the last pass has to wait for one.
	Refresh float64 `json:"refresh"`
	// Verify is a verification, tried with writes going on and its outcome left aside.
	Verify float64 `json:"verify"`
}

// What a cut-over costs besides moving the last delta, until one of this migration has been measured: seconds, and how many requests
// and states follow one after the other. From rehearsals on two processors (make rehearsal), some beside other work; what a request, a
// state or a verification costs is probed, and assumed only where it was not.
const (
	assumedRead     = 0.010
	assumedJournal  = 0.005
	assumedTask     = 0.010
	assumedCold     = 0.030
	assumedSnapshot = 0.2
	assumedCopy     = 0.5
	assumedRestore  = 0.3
	assumedPass     = 0.2
	freezeBase      = 0.08 // the block, which all nodes acknowledge, and the pause between two readings
	freezeReads     = 5    // list twice, statistics twice, describe
	verifyBase      = 0.10
	verifyReads     = 8
	verifyAnIndex   = 0.01 // its sampled documents; indices are looked at side by side
	finishBase      = 0.06 // the block's end
	finishReads     = 4
	finishJournal   = 5
	mostTask        = 5 // seconds; more is a retried state, not the cost of one
	besideBase      = 0.02
	besideTasks     = 2    // functions whose start belongs to no phase, besides the verification's
	besideJournal   = 6    // requests to the journal that belong to no phase
	roundTasks      = 9    // the same with a round
	roundJournal    = 18   // the same with a round
	roundCalls      = 12   // requests of a round that belong to no phase: asking for the snapshot, for the restore, looking before
	unknownFactor   = 1.5  // the range of what has never been compared with a measurement, the constants above too
	triedFactor     = 1.35 // of what was tried just now
	narrowest       = 1.1  // no range is narrower than a tenth
	narrowestShift  = 0.03 // nor than 30 ms
	memory          = 20   // rounds, and passes, that are looked back at
	saturated       = 0.9  // the part of an index that moved, above which it may as well have been touched a hundred times
	recent          = 3    // of them set what is expected next
	compared        = 6    // of them set the range
)

// sample is one measured run of a phase: what there was to do (bytes of its busiest node, or operations) and how long it took.
type sample struct{ load, seconds float64 }

// line is the duration of a phase: a fixed part, and a part that grows with what there is to do.
type line struct{ fixed, each float64 }

func (l line) at(load float64) float64 { return l.fixed + l.each*load }

// fit learns a line. The run with most to do gives the rate at volume, the recent ones the fixed part, and both are calibrated by the
// recent ones, which are like the next one. A long run says little of a fixed part that is short beside it: then assumed counts more,
// by its doubt in seconds.
// Medians, so that one odd run does not count. Runs without anything counted (all loads 0) predict that the last one is repeated.
func fit(runs []sample, assumed, doubt float64) line {
	if len(runs) == 0 {
		return line{}
	}
	most := 0
	for i, s := range runs {
		if s.load > runs[most].load {
			most = i
		}
	}
	big := runs[most]
	if big.load <= 0 {
		return line{fixed: runs[len(runs)-1].seconds}
	}
	var late []sample
	for i := len(runs) - 1; i >= 0 && len(late) < recent; i-- {
		if i != most {
			late = append(late, runs[i])
		}
	}
	l := line{fixed: min(assumed, big.seconds/2)}
	l.each = (big.seconds - l.fixed) / big.load
	if len(late) == 0 {
		return l
	}
	for range 10 {
		parts := []weighted{{assumed, 1 / doubt}}
		for _, s := range late {
			long := l.each * s.load
			noise := 0.1*long + 0.1*s.seconds + 0.01
			if s.seconds-long > assumed+5*noise {
				parts[0].weight = 0 // what is left of this run is too much to be chance
			}
			parts = append(parts, weighted{s.seconds - long, 1 / noise})
		}
		l.fixed = min(max(0, weightedMedian(parts)), big.seconds)
		l.each = (big.seconds - l.fixed) / big.load
	}
	var ratios []float64
	for _, s := range late {
		if expected := l.at(s.load); expected > 0 {
			ratios = append(ratios, s.seconds/expected)
		}
	}
	if r := median(ratios); r > 0 {
		l.fixed, l.each = l.fixed*r, l.each*r
	}
	return l
}

type weighted struct{ value, weight float64 }

func weightedMedian(list []weighted) float64 {
	slices.SortFunc(list, func(a, b weighted) int { return cmp.Compare(a.value, b.value) })
	all, below := 0.0, 0.0
	for _, x := range list {
		all += x.weight
	}
	for _, x := range list {
		if below += x.weight; below >= all/2 {
			return x.value
		}
	}
	return 0
}

// median of no values is 0.
func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return (s[(n-1)/2] + s[n/2]) / 2
}

// warmLap is a warm round with what it takes to learn from it: the time over which its changes came about (0: not known) and what it moved
// of each index.
type warmLap struct {
	Round
	interval float64
	measures map[string]Measure
}

// delta is what a round has to move, in bytes.
type delta struct {
	snapshot, copied, restore float64
	largest                   string // the index with most to restore
	largestBytes              float64
}

// laps are the last warm rounds of a history.
func (h History) laps() []warmLap {
	var list []warmLap
	var before time.Time
	for _, r := range h.Rounds {
		l := warmLap{Round: r, measures: h.Earlier[r.Number]}
		if !before.IsZero() && r.StartedAt.After(before) {
			l.interval = r.StartedAt.Sub(before).Seconds()
		}
		before = r.StartedAt
		if !r.Final {
			list = append(list, l)
		}
	}
	if n := len(list); n > 0 && h.Measures != nil {
		list[n-1].measures = h.Measures
	}
	return list[max(0, len(list)-memory):]
}

// expected is the delta of a round over the indices named (nil: as a whole) that is interval seconds after the last of laps. What is
// new in a snapshot grows with the time, but not in proportion: however short it was, segments are written, and some are merged. What a
// restore moves grows too, but not beyond the whole index: an update moves its segment, and the second update of a segment moves nothing
// more. Unless it is about now, few rounds are taken to say nothing of what does not shrink: some have to be tried.
func expected(laps []warmLap, indices []string, interval float64, now bool) delta {
	late := laps[max(1, len(laps)-recent):]
	if len(laps) == 1 {
		late = nil
	}
	timed := interval > 0
	for _, l := range late {
		timed = timed && l.interval > 0
	}
	typical := func(runs []sample) float64 {
		var values []float64
		for _, r := range runs {
			values = append(values, r.seconds)
		}
		if !timed {
			return median(values)
		}
		if !now && len(runs) < recent {
			for i, r := range runs {
				values[i] = r.seconds / r.load
			}
			return median(values) * interval
		}
		return fit(runs, 0, 0.3*median(values)).at(interval)
	}
	var d delta
	if indices == nil {
		var fresh, moved []sample
		size := 0.0
		for _, l := range late {
			fresh = append(fresh, sample{l.interval, float64(l.Snapshot.Bytes)})
			moved = append(moved, sample{l.interval, hit(l.Restore.RecoveredBytes, l.Restore.ReusedBytes)})
			size = float64(l.Restore.RecoveredBytes + l.Restore.ReusedBytes)
		}
		d.snapshot, d.restore = typical(fresh), size*(1-math.Exp(-typical(moved)/hits))
	}
	for _, name := range indices {
		var fresh, moved []sample
		size, whole := 0.0, 0
		for i, l := range late {
			m, there := l.measures[name]
			if !there || movedOnce(laps[:len(laps)-len(late)+i+1], name) {
				continue
			}
			fresh = append(fresh, sample{l.interval, float64(m.Snapshot)})
			if all := m.Recovered + m.Reused; all > 0 {
				size = float64(all)
			}
			if now && float64(m.Recovered) > saturated*float64(m.Recovered+m.Reused) {
				whole++ // how often its segments were touched beyond that cannot be told
				continue
			}
			moved = append(moved, sample{l.interval, hit(m.Recovered, m.Reused)})
		}
		d.snapshot += typical(fresh)
		moves := size * (1 - math.Exp(-typical(moved)/hits))
		if whole > len(moved) {
			moves = size
		}
		d.restore += moves
		if moves > d.largestBytes {
			d.largest, d.largestBytes = name, moves
		}
	}
	var extra []float64
	for _, l := range late {
		extra = append(extra, float64(l.Copy.Bytes-l.Snapshot.Bytes))
	}
	d.copied = max(0, d.snapshot+median(extra))
	return d
}

// movedOnce reports whether the last of laps was the first to have the index, and moved all of it: that says nothing of the next.
func movedOnce(laps []warmLap, name string) bool {
	n := len(laps) - 1
	m, there := laps[n].measures[name]
	if !there || n == 0 || len(laps[n-1].measures) == 0 || m.Reused > 0 || m.Recovered == 0 {
		return false
	}
	return !slices.ContainsFunc(laps[:n], func(l warmLap) bool { _, there := l.measures[name]; return there })
}

// hit is how often a byte of an index was touched, of so many (hits), when moved of them had to move and kept did not.
func hit(moved, kept int64) float64 {
	if moved <= 0 {
		return 0
	}
	return -hits * math.Log(1-min(0.9999, float64(moved)/float64(moved+kept)))
}

const hits = 1e9

// moving is how long a round with that delta takes: each phase waits for its busiest node.
func moving(laps []warmLap, d delta) (snapshot, copied, restore float64) {
	phase := func(get func(Round) (whole int64, seconds float64, nodes []Share), whole, assumed float64) float64 {
		var runs []sample
		var shares []float64
		for _, l := range laps {
			bytes, seconds, nodes := get(l.Round)
			s := sample{float64(bytes), seconds}
			if len(nodes) > 0 && bytes > 0 && nodes[0].Bytes > 0 {
				s.load = float64(nodes[0].Bytes)
				shares = append(shares, s.load/float64(bytes))
			}
			runs = append(runs, s)
		}
		share := 1.0
		if len(shares) > 0 {
			share = median(shares[max(0, len(shares)-recent):])
		}
		return fit(runs, assumed, max(assumed, 0.1)).at(whole * share)
	}
	snapshot = phase(func(r Round) (int64, float64, []Share) { return r.Snapshot.Bytes, r.Snapshot.Seconds, r.Snapshot.Nodes }, d.snapshot, assumedSnapshot)
	copied = phase(func(r Round) (int64, float64, []Share) { return r.Copy.Bytes, r.Copy.Seconds, nil }, d.copied, assumedCopy)
	restore = phase(func(r Round) (int64, float64, []Share) {
		return r.Restore.RecoveredBytes, r.Restore.Seconds, r.Restore.Nodes
	}, d.restore, assumedRestore)
	return snapshot, copied, restore
}

// walk says what would have been predicted for each of the last rounds from those before it: the logarithm of actual over predicted.
func walk(laps []warmLap) (snapshot, copied, restore []float64) {
	for t := max(2, len(laps)-compared); t < len(laps); t++ {
		var names []string
		for name := range laps[t].measures {
			names = append(names, name)
		}
		if known := laps[t-1].measures; known == nil {
			names = nil
		}
		d := expected(laps[:t], names, laps[t].interval, false)
		s, c, r := moving(laps[:t], d)
		snapshot = append(snapshot, miss(laps[t].Snapshot.Seconds, s))
		copied = append(copied, miss(laps[t].Copy.Seconds, c))
		restore = append(restore, miss(laps[t].Restore.Seconds, r))
	}
	return snapshot, copied, restore
}

// miss is the logarithm of actual over predicted. Below some hundredths of a second there is nothing to learn.
func miss(actual, predicted float64) float64 {
	return math.Log(max(actual, narrowestShift) / max(predicted, narrowestShift))
}

// span gives an expectation its range, from the misses of earlier ones; more are the comparisons that will have been added by then.
func span(seconds float64, misses []float64, unknown float64, more int) Phase {
	if seconds <= 0 {
		return Phase{}
	}
	floor, prior := math.Log(narrowest), math.Log(unknown)
	n := float64(len(misses) + more)
	up, down := 0.0, 0.0
	for _, m := range misses {
		up, down = max(up, m), max(down, -m)
	}
	// The worst of a few is not the worst that there is, and none is taken for granted: what is not known counts as one more.
	few := (n + 1) / max(n, 1)
	up, down = max(floor, up*few), max(floor, down*few)
	up, down = (n*up+max(prior, up))/(n+1), (n*down+max(prior, down))/(n+1)
	return Phase{Seconds: seconds, Low: max(0, min(seconds*math.Exp(-down), seconds-narrowestShift)), High: max(seconds*math.Exp(up), seconds+narrowestShift)}
}

// then adds phases one after the other. Their errors are independent of each other, so that the ranges add up as squares.
func then(phases ...Phase) Phase {
	var sum Phase
	var down, up float64
	for _, p := range phases {
		sum.Seconds += p.Seconds
		down, up = math.Hypot(down, p.Seconds-p.Low), math.Hypot(up, p.High-p.Seconds)
	}
	sum.Low, sum.High = max(0, sum.Seconds-down), sum.Seconds+up
	return sum
}

// beside takes the longer of two phases side by side.
func beside(a, b Phase) Phase {
	return Phase{max(a.Seconds, b.Seconds), max(a.Low, b.Low), max(a.High, b.High)}
}

// replays are the samples of the warm passes and how many operations a second there were to replay.
func replays(passes []Pass) (runs []sample, perSecond float64) {
	var rates []float64
	for i, p := range passes {
		load := float64(p.Documents + p.Deleted)
		runs = append(runs, sample{load, p.last()})
		if i == 0 {
			continue // it had everything since the base
		}
		if interval := p.StartedAt.Sub(passes[i-1].StartedAt).Seconds(); interval > 0 {
			rates = append(rates, load/interval)
		}
	}
	return runs, median(rates[max(0, len(rates)-recent):])
}

// pace is the line of a pass. Its fixed part grows with the shards, and what is assumed was seen with few.
func pace(runs []sample) line {
	var took []float64
	for _, r := range runs[max(1, len(runs)-recent):] {
		took = append(took, r.seconds)
	}
	return fit(runs, assumedPass, max(assumedPass, 0.1)+0.3*median(took))
}

// flat is how long the shortest of the recent passes took that had more to do; 0 when none had. All of it may have been its fixed part,
// which a pass with less to do has as well.
func flat(runs []sample, load float64) float64 {
	shortest := math.Inf(1)
	for _, r := range runs[max(1, len(runs)-recent):] {
		if r.load > load {
			shortest = min(shortest, r.seconds)
		}
	}
	if math.IsInf(shortest, 1) {
		return 0
	}
	return shortest
}

// walkPasses is walk for the passes.
func walkPasses(passes []Pass) (misses []float64) {
	for t := max(2, len(passes)-compared); t < len(passes); t++ {
		runs, perSecond := replays(passes[:t])
		interval := passes[t].StartedAt.Sub(passes[t-1].StartedAt).Seconds()
		misses = append(misses, miss(passes[t].last(), pace(runs).at(perSecond*max(0, interval))))
	}
	return misses
}

// ahead predicts cut-overs from one history.
type ahead struct {
	laps     []warmLap
	passes   []Pass // warm ones
	cutOvers []CutOver
	probe    Probe
	indices  int
	onRounds []string // indices that a round has to move; nil with rounds set: as a whole
	rounds   bool     // a final round is needed
	replay   bool     // a last pass is needed
	misses   struct{ snapshot, copied, restore, replay []float64 }
}

// look prepares the prediction; ok is false while too little has been measured.
func look(indices int, h History) (a ahead, ok bool) {
	a = ahead{laps: h.laps(), cutOvers: h.CutOvers, probe: h.Probe, indices: indices, replay: len(h.Replay) > 0}
	// A pass before the last index went on replay says little of the passes with it.
	complete := 0
	for _, x := range h.Replay {
		complete = max(complete, x.AfterPass)
	}
	for _, p := range h.Passes {
		if !p.Final && p.Number > complete {
			a.passes = append(a.passes, p)
		}
	}
	a.passes = a.passes[max(0, len(a.passes)-memory):]
	a.onRounds, a.rounds = h.moved(indices)
	a.misses.snapshot, a.misses.copied, a.misses.restore = walk(a.laps)
	a.misses.replay = walkPasses(a.passes)
	return a, (!a.rounds || len(a.laps) >= 2) && (!a.replay || len(a.passes) >= 2)
}

// moved are the indices that a final round has to move: those on rounds, without those that the last round left alone and that have
// not changed since. needed is false when there are none.
func (h History) moved(indices int) (names []string, needed bool) {
	if len(h.Measures) == 0 {
		return nil, len(h.Replay) < indices
	}
	for name, m := range h.Measures {
		if !h.Has(name) && (!m.Skipped || slices.Contains(h.Changed, name)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, len(names) > 0 || len(h.Follow) > 0
}

// at predicts a cut-over whose changes came about over these seconds; more are the laps until then.
func (a ahead) at(sinceRound, sincePass float64, more int) Prediction {
	var p Prediction
	var d delta
	if a.rounds {
		// What has moved whole moves whole again, for all that is known.
		d = expected(a.laps, a.onRounds, sinceRound, more == 0 && sinceRound > 1)
		s, c, r := moving(a.laps, d)
		p.Snapshot = a.noLonger(span(s, a.misses.snapshot, unknownFactor, more), sinceRound, func(r Round) float64 { return r.Snapshot.Seconds })
		p.Copy = a.noLonger(span(c, a.misses.copied, unknownFactor, more), sinceRound, func(r Round) float64 { return r.Copy.Seconds })
		p.Restore = a.noLonger(span(r, a.misses.restore, unknownFactor, more), sinceRound, func(r Round) float64 { return r.Restore.Seconds })
		p.SnapshotBytes, p.RestoreBytes = int64(d.snapshot), int64(d.restore)
	}
	if a.replay {
		runs, perSecond := replays(a.passes)
		p.Operations = int64(perSecond * max(0, sincePass))
		p.Replay = span(pace(runs).at(perSecond*max(0, sincePass)), a.misses.replay, unknownFactor, more)
		if more == 0 { // what further passes take, they show
			p.Replay.High = max(p.Replay.High, flat(runs, float64(p.Operations)))
		}
	}
	whole := then(a.overhead(&p, false), p.Replay)
	if a.rounds {
		// Side by side, each with what is between its own phases. The longer one tells.
		byReplay, between := whole, p.Transitions
		whole = then(a.overhead(&p, true), then(p.Snapshot, p.Copy, p.Restore))
		if a.replay && byReplay.Seconds > whole.Seconds {
			p.Transitions = between
		}
		if a.replay {
			whole = beside(whole, byReplay)
		}
	}
	p.Seconds, p.Low, p.High = milli(whole.Seconds), milli(whole.Low), milli(whole.High)
	p.Dominates = a.dominates(p, d)
	for _, x := range []*Phase{&p.Freeze, &p.Snapshot, &p.Copy, &p.Restore, &p.Replay, &p.Verify, &p.Finish, &p.Transitions} {
		*x = Phase{milli(x.Seconds), milli(x.Low), milli(x.High)}
	}
	return p
}

// noLonger bounds the range of a phase by the recent rounds that had more time to gather changes. How far off a prediction from two rounds
// of other lengths was says less than they do.
func (a ahead) noLonger(p Phase, interval float64, took func(Round) float64) Phase {
	longest := 0.0
	for _, l := range a.laps[max(min(1, len(a.laps)), len(a.laps)-recent):] {
		if l.interval >= interval {
			longest = max(longest, took(l.Round))
		}
	}
	if longest > 0 {
		p.High = min(p.High, unknownFactor*max(longest, p.Seconds))
	}
	return p
}

func milli(seconds float64) float64 { return math.Round(seconds*1000) / 1000 }

// overhead fills in what is not moving: as the earlier cut-overs of this migration measured it, or else from the probe and the
// constants. What was never measured errs together: a busy machine, or a constant from another one, makes all of it longer. So those
// ranges add up as they are. byRounds is for a last delta by a round, otherwise by a pass.
func (a ahead) overhead(p *Prediction, byRounds bool) Phase {
	or := func(probed, assumed float64) float64 {
		if probed <= 0 {
			return assumed
		}
		return min(probed, max(assumed, mostTask))
	}
	read := func(probed float64) float64 {
		if probed <= 0 {
			return assumedRead
		}
		return probed
	}
	var known, guessed Phase
	phase := func(assumed, unknown float64, get func(CutOver) *float64) Phase {
		var measured []float64
		for _, c := range a.cutOvers[max(0, len(a.cutOvers)-compared):] {
			if s := get(c); s != nil {
				measured = append(measured, *s)
			}
		}
		if len(measured) == 0 {
			x := span(assumed, nil, unknown, 0)
			guessed = Phase{guessed.Seconds + x.Seconds, guessed.Low + x.Low, guessed.High + x.High}
			return x
		}
		expected := median(measured)
		var misses []float64
		for _, s := range measured {
			misses = append(misses, miss(s, expected))
		}
		x := span(expected, misses, unknownFactor, 0)
		known = then(known, x)
		return x
	}
	source, destination := read(a.probe.Source), read(a.probe.Destination)
	journal, task := or(a.probe.Journal, assumedJournal), or(a.probe.Task, assumedTask)
	cold, back := max(task, or(a.probe.Cold, assumedCold)), or(a.probe.Return, journal+task)
	// Writes are proven to stand still while the source is refreshed.
	reads := freezeReads * source
	if a.replay {
		reads = max(reads, a.probe.Refresh)
	}
	freeze, between := freezeBase+journal+reads, besideBase+besideJournal*journal+besideTasks*task
	if byRounds {
		between = besideBase + roundJournal*journal + roundTasks*task + roundCalls*max(source, destination)
	}
	p.Freeze = phase(freeze, unknownFactor, func(c CutOver) *float64 { return c.Freeze })
	if verify := func(c CutOver) *float64 { return c.Verify }; a.probe.Verify > 0 {
		p.Verify = phase(a.probe.Verify+max(source, destination), triedFactor, verify) // and its connections are new ones
	} else {
		p.Verify = phase(verifyBase+verifyReads*max(source, destination)+verifyAnIndex*float64(a.indices), unknownFactor, verify)
	}
	p.Finish = phase(finishBase+finishJournal*journal+cold+finishReads*destination, unknownFactor, func(c CutOver) *float64 { return c.Finish })
	// The last delta is a child execution, or two: begun and ended.
	p.Transitions = phase(between+cold+2*back, unknownFactor, CutOver.Transitions)
	return then(known, guessed)
}

// dominates names the phase that costs most and what is known of where.
func (a ahead) dominates(p Prediction, d delta) string {
	name, most := "freeze", p.Freeze.Seconds
	for _, x := range []struct {
		name    string
		seconds float64
	}{{"snapshot", p.Snapshot.Seconds}, {"copy", p.Copy.Seconds}, {"restore", p.Restore.Seconds}, {"replay", p.Replay.Seconds}, {"verify", p.Verify.Seconds},
		{"finish", p.Finish.Seconds}, {"transitions", p.Transitions.Seconds}} {
		if x.seconds > most {
			name, most = x.name, x.seconds
		}
	}
	if len(a.laps) == 0 {
		return name
	}
	last := a.laps[len(a.laps)-1].Round
	switch name {
	case "snapshot":
		return name + where(last.Snapshot.Nodes, last.Snapshot.Shards, last.Snapshot.Slowest)
	case "restore":
		text := name + where(last.Restore.Nodes, last.Restore.Shards, last.Restore.Slowest)
		if d.largest != "" {
			text += fmt.Sprintf("; index %s has most to move, %s", d.largest, size(int64(d.largestBytes)))
		}
		return text
	}
	return name
}

// where names the busiest node of the last round and its slowest shard.
func where(nodes []Share, shards int, slowest *Share) string {
	text := ""
	if len(nodes) > 0 {
		text = fmt.Sprintf(" on node %s (%d of %d shards, %s in the last round)", nodes[0].Node, nodes[0].Shards, shards, size(nodes[0].Bytes))
	}
	if slowest != nil {
		text += fmt.Sprintf("; slowest was shard %s[%d], %.1f s", slowest.Index, slowest.Shard, slowest.Seconds)
	}
	return text
}

func size(n int64) string {
	switch f := float64(n); {
	case f >= 1e9:
		return fmt.Sprintf("%.1f GB", f/1e9)
	case f >= 1e6:
		return fmt.Sprintf("%.1f MB", f/1e6)
	default:
		return fmt.Sprintf("%.1f kB", f/1e3)
	}
}

// since is how long ago the changes began that a final round, and a last pass, would bring now.
func (a ahead) since(now time.Time) (round, pass float64) {
	var rounds, passes time.Time
	ended := now
	if n := len(a.laps); n > 0 {
		rounds = a.laps[n-1].StartedAt
		if now.IsZero() && a.laps[n-1].FinishedAt.After(ended) {
			ended = a.laps[n-1].FinishedAt
		}
	}
	if n := len(a.passes); n > 0 {
		passes = a.passes[n-1].StartedAt
		if now.IsZero() && a.passes[n-1].FinishedAt.After(ended) {
			ended = a.passes[n-1].FinishedAt
		}
	}
	return max(0, ended.Sub(rounds).Seconds()), max(0, ended.Sub(passes).Seconds())
}

// reach looks further laps ahead and gives the best prediction among them, and after how many laps it comes. A lap that is shorter
// leaves less to the next; the fixed parts stay.
func (a ahead) reach(now time.Time, pause float64, laps int) (best Prediction, after int) {
	const horizon = 10
	round, pass := a.since(now)
	var gaps []float64
	for _, l := range a.laps[max(0, len(a.laps)-recent):] {
		gaps = append(gaps, max(0, l.FinishedAt.Sub(l.StartedAt).Seconds()-l.Seconds()))
	}
	gap := median(gaps)
	if !a.rounds {
		gap = 0
	}
	best.High = math.Inf(1)
	for n := 1; n <= min(laps, horizon); n++ {
		p := a.at(round+pause, pass+pause, n) // as long as the lap itself takes
		wall := max(p.Snapshot.Seconds+p.Copy.Seconds+p.Restore.Seconds+gap, p.Replay.Seconds)
		round, pass = wall, wall
		if p = a.at(round, pass, n); p.High < best.High {
			best, after = p, n
		}
	}
	return best, after
}

// least is the prediction with next to nothing left to move: the fixed costs.
func (a ahead) least() Prediction { return a.at(1e-6, 1e-6, 0) }
