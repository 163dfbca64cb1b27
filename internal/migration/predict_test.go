package migration

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// story is a migration whose true costs are known: nodes that work side by side, a fixed cost of each phase, rates, indices that are
// appended to or updated, and noise. It runs as the state machine does and asks Decide after each lap.
type story struct {
	indices []storyIndex
	nodes   int
	// True costs: seconds a phase, bytes a second and node, operations a second.
	snapshot, copied, restore, pass              float64
	snapshotRate, copyRate, restoreRate, opsRate float64
	pause                                        time.Duration
	noise                                        float64 // of every duration and delta, as a part of it
	grows                                        float64 // of the deltas, each lap
	spike                                        float64 // a merge: how often a lap restores a part of everything
	spec                                         Spec
	silent                                       bool // the domains give no nodes' shares
	surprising                                   int  // of 100 cut-overs, how many may take longer than the range said; 0 is 10
	probe                                        Probe
}

type storyIndex struct {
	name  string
	size  float64 // bytes
	fresh float64 // new bytes a second
	hits  float64 // how often a second each byte of it is hit by updates
	ops   float64 // operations a second
}

// outcome is how a story ended.
type outcome struct {
	decision Decision
	actual   float64 // of the cut-over
	laps     int
	switched map[string]int
	missed   []float64 // actual over predicted, of each lap that had a prediction, moving phases only
}

func (s story) run(t *testing.T, seed uint64) outcome {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	wobble := func() float64 { return math.Exp(s.noise * rng.NormFloat64()) }
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	h := History{Earlier: map[int]map[string]Measure{}, Probe: s.probe}
	out := outcome{switched: map[string]int{}}
	var snapped, replayed time.Time
	growth := 1.0
	s.indices = slices.Clone(s.indices)
	after := func(seconds float64) time.Time { return now.Add(time.Duration(seconds * float64(time.Second))) }
	round := func(final bool) Round {
		r := Round{Number: len(h.Rounds) + 1, Execution: "me", StartedAt: now, Final: final}
		measures := map[string]Measure{}
		interval := 0.0
		if !snapped.IsZero() {
			interval = now.Sub(snapped).Seconds()
		}
		merged := rng.Float64() < s.spike
		for i, x := range s.indices {
			s.indices[i].size += x.fresh * interval
			if h.Has(x.name) {
				continue
			}
			x.size = s.indices[i].size
			m := Measure{Snapshot: int64(x.fresh * interval * growth * wobble())}
			m.Recovered = m.Snapshot + int64(x.size*(1-math.Exp(-x.hits*interval*growth)))
			if merged {
				m.Snapshot, m.Recovered = m.Snapshot+int64(x.size/10), m.Recovered+int64(x.size/10)
			}
			if snapped.IsZero() {
				m = Measure{Snapshot: int64(x.size), Recovered: int64(x.size)}
			}
			m.Recovered = min(m.Recovered, int64(x.size))
			m.Reused = int64(x.size) - m.Recovered
			m.Skipped = m.Recovered == 0
			measures[x.name] = m
			r.Snapshot.Bytes += m.Snapshot
			r.Restore.RecoveredBytes += m.Recovered
			r.Restore.ReusedBytes += m.Reused
		}
		r.Copy.Bytes = r.Snapshot.Bytes + 200_000
		// The busiest node has somewhat more than its part.
		busy := func(bytes int64) int64 { return int64(float64(bytes) * min(1, 1.4/float64(s.nodes)) * wobble()) }
		a, b := busy(r.Snapshot.Bytes), busy(r.Restore.RecoveredBytes)
		r.Snapshot.Seconds = (s.snapshot + float64(a)/s.snapshotRate) * wobble()
		r.Copy.Seconds = (s.copied + float64(r.Copy.Bytes)/s.copyRate) * wobble()
		r.Restore.Seconds = (s.restore + float64(b)/s.restoreRate) * wobble()
		if !s.silent {
			r.Snapshot.Nodes, r.Restore.Nodes = []Share{{Node: "s", Bytes: a}}, []Share{{Node: "d", Bytes: b}}
		}
		polls := 3.0
		if final {
			polls = 0
		}
		r.FinishedAt = after(r.Seconds() + polls)
		snapped = now
		if !final {
			if h.Measures != nil {
				h.Earlier[len(h.Rounds)] = h.Measures
			}
			h.Measures = measures
		}
		return r
	}
	pass := func(final bool) Pass {
		p := Pass{Number: len(h.Passes) + 1, Execution: "me", StartedAt: now, Final: final}
		for _, x := range s.indices {
			if h.Has(x.name) {
				p.Documents += int64(x.ops * now.Sub(replayed).Seconds() * growth * wobble())
			}
		}
		p.Seconds = (s.pass + float64(p.Documents)/s.opsRate) * wobble()
		p.FinishedAt = after(p.Seconds)
		replayed = now
		return p
	}
	byRounds := true
	lap := func(final bool) (moved float64) {
		began, ended := now, now
		if byRounds {
			r := round(final)
			h.Rounds, ended, moved = append(h.Rounds, r), r.FinishedAt, r.Seconds()
		}
		if len(h.Replay) > 0 {
			p := pass(final)
			h.Passes, moved = append(h.Passes, p), max(moved, p.Seconds)
			if p.FinishedAt.After(ended) {
				ended = p.FinishedAt
			}
		}
		now, growth = ended, growth*(1+s.grows)
		if !final && ended.Equal(began) {
			now = now.Add(time.Second)
		}
		return moved
	}
	for out.laps < 2*s.spec.Rounds.Maximum+10 {
		before := out.decision.Prediction
		moved := lap(false)
		out.laps++
		if before != nil && len(out.decision.Switch) == 0 && s.pause == 0 {
			expected := max(before.Snapshot.Seconds+before.Copy.Seconds+before.Restore.Seconds, before.Replay.Seconds)
			out.missed = append(out.missed, moved/expected)
		}
		h.Now = now
		out.decision = Decide(s.spec, "me", len(s.indices), h)
		for _, x := range out.decision.Switch {
			out.switched[x.Index]++
			if len(h.Replay) == 0 {
				replayed = snapped
			}
			h.Replay = append(h.Replay, x)
		}
		byRounds = len(h.Replay) == 0 || h.RoundNeeded(len(s.indices))
		switch out.decision.Action {
		case CutOverNow:
			_, byRounds = h.moved(len(s.indices))
			moved := lap(true)
			p := out.decision.Prediction
			out.actual = moved + (p.Freeze.Seconds+p.Verify.Seconds+p.Finish.Seconds+p.Transitions.Seconds)*wobble()
			return out
		case Stop, Done, AskFirst:
			return out
		case WaitFirst:
			now = now.Add(s.pause)
		}
	}
	t.Fatalf("seed %d: no end after %d laps: %+v", seed, out.laps, out.decision)
	return out
}

const (
	mb = 1e6
	gb = 1e9
)

// machine are the costs of a domain of so many nodes.
func machine(nodes int) story {
	return story{nodes: nodes, snapshot: 0.3, copied: 0.5, restore: 0.4, pass: 0.2, snapshotRate: 40 * mb, copyRate: float64(nodes) * 100 * mb,
		restoreRate: 40 * mb, opsRate: 5000, noise: 0.05,
		spec: Spec{Mode: Migrate, LastMile: LastMileAuto, DowntimeWindow: Duration(time.Minute), Rounds: RoundLimits{Minimum: 2, Maximum: 20}}}
}

func stories() map[string]struct {
	story
	want Action
} {
	static := storyIndex{name: "static", size: 10 * gb}
	logs := storyIndex{name: "logs", size: 100 * gb, fresh: 2 * mb, ops: 2000}
	users := storyIndex{name: "users", size: 50 * gb, fresh: 0.5 * mb, hits: 1e-3, ops: 300}
	with := func(nodes int, f func(*story), indices ...storyIndex) story {
		s := machine(nodes)
		s.indices = indices
		if f != nil {
			f(&s)
		}
		return s
	}
	// Measured: domains that have nothing else to do, and the same two on a machine that has.
	quick := Probe{Source: 0.004, Destination: 0.004, Journal: 0.002, Task: 0.006, Cold: 0.02, Return: 0.015, Refresh: 0.02, Verify: 0.12}
	sluggish := Probe{Source: 0.012, Destination: 0.012, Journal: 0.01, Task: 0.02, Cold: 0.06, Return: 0.1, Refresh: 0.14, Verify: 0.4}
	second := func(p Probe) func(*story) {
		return func(s *story) { s.spec.DowntimeWindow, s.probe = Duration(time.Second), p }
	}
	window := func(d time.Duration) func(*story) { return func(s *story) { s.spec.DowntimeWindow = Duration(d) } }
	type table = map[string]struct {
		story
		want Action
	}
	return table{
		"append":                     {with(4, nil, logs, static), CutOverNow},
		"append, no shares":          {with(4, func(s *story) { s.silent = true }, logs, static), CutOverNow},
		"append and update":          {with(4, nil, logs, users, static), CutOverNow},
		"update, long window":        {with(4, window(2*time.Hour), users), CutOverNow},
		"pauses":                     {with(4, func(s *story) { s.pause, s.spec.Rounds.Pause = time.Hour, Duration(time.Hour) }, logs), CutOverNow},
		"growing":                    {with(4, func(s *story) { s.grows = 0.1 }, logs, static), CutOverNow},
		"noisy":                      {with(4, func(s *story) { s.noise, s.surprising = 0.25, 25 }, logs, users), CutOverNow},
		"merges":                     {with(4, func(s *story) { s.spike, s.surprising = 0.15, 20 }, logs, static), CutOverNow},
		"large":                      {with(40, window(5*time.Minute), storyIndex{name: "a", size: 1e5 * gb, fresh: 100 * mb, ops: 1e5}, storyIndex{name: "b", size: 1e3 * gb, fresh: mb, hits: 1e-4, ops: 900}), CutOverNow},
		"1 s":                        {with(1, second(quick), storyIndex{name: "a", size: 0.1 * gb, fresh: 0.1 * mb, ops: 100}, storyIndex{name: "b", size: 0.05 * gb, hits: 1e-2, ops: 10}, static), CutOverNow},
		"1 s, slow domains":          {with(1, second(sluggish), storyIndex{name: "a", size: 0.1 * gb, fresh: 0.1 * mb, ops: 100}, storyIndex{name: "b", size: 0.05 * gb, hits: 1e-2, ops: 10}, static), Stop},
		"1 s, by rounds":             {with(1, func(s *story) { window(time.Second)(s); s.spec.LastMile = LastMileRounds }, storyIndex{name: "a", size: 0.1 * gb, fresh: 0.1 * mb}), Stop},
		"faster than it can be read": {with(1, nil, storyIndex{name: "a", size: 10 * gb, fresh: 60 * mb, ops: 9000}), Stop},
		"updates by rounds alone":    {with(4, func(s *story) { s.spec.LastMile, s.indices[0].hits = LastMileRounds, 0.05 }, users), Stop},
		"all by replay":              {with(4, func(s *story) { s.spec.LastMile = LastMileReplay }, logs, users, static), CutOverNow},
		"asked": {with(1, func(s *story) {
			window(time.Second)(s)
			s.spec.LastMile, s.spec.OnNeverFits = LastMileRounds, AskOperator
		}, logs), AskFirst},
	}
}

// Every story ends, as it must, within the limits; no index is put on replay twice; the prediction at the cut-over is right.
func TestPredictionsHold(t *testing.T) {
	const seeds = 100
	for name, c := range stories() {
		t.Run(name, func(t *testing.T) {
			var errs, misses, laps []float64
			over, ended := 0, 0
			for seed := range uint64(seeds) {
				out := c.run(t, seed)
				if out.laps > c.spec.Rounds.Maximum {
					t.Errorf("seed %d: %d laps, the maximum is %d", seed, out.laps, c.spec.Rounds.Maximum)
				}
				for index, n := range out.switched {
					if n != 1 {
						t.Errorf("seed %d: index %s was put on replay %d times", seed, index, n)
					}
				}
				laps = append(laps, float64(out.laps))
				misses = append(misses, out.missed...)
				if out.decision.Action == c.want {
					ended++
				} else if len(laps) < 5 {
					t.Logf("seed %d: %s after %d laps: %s", seed, out.decision.Action, out.laps, out.decision.Reason)
				}
				if out.decision.Action != CutOverNow {
					continue
				}
				p := out.decision.Prediction
				if p.High > c.spec.DowntimeWindow.Seconds() || p.Low > p.Seconds || p.Seconds > p.High {
					t.Errorf("seed %d: cut over with %+v", seed, *p)
				}
				errs = append(errs, math.Abs(out.actual/p.Seconds-1))
				if out.actual > p.High {
					over++
				}
			}
			if ended < seeds*8/10 {
				t.Errorf("%d of %d ended in %s", ended, seeds, c.want)
			}
			t.Logf("%s: %.0f laps (median), error at the cut-over %.0f %% (median), %d of %d above the range, laps' misses %.2f (median)",
				c.want, median(laps), 100*median(errs), over, len(errs), median(misses))
			if median(errs) > 0.20 {
				t.Errorf("median error %.2f", median(errs))
			}
			if over > max(1, len(errs)*cmp.Or(c.surprising, 10)/100) {
				t.Errorf("%d of %d cut-overs took longer than the range said", over, len(errs))
			}
		})
	}
}

// What rounds cannot serve goes on replay at once, with its reason, and what replay does not need stays.
func TestWhatGoesOnReplay(t *testing.T) {
	for name, want := range map[string][]string{
		"append": {}, "append and update": {"users"}, "1 s": {"a", "b"}, "1 s, by rounds": {}, "all by replay": {"logs", "static", "users"}, "update, long window": {},
	} {
		out := stories()[name].run(t, 1)
		var got []string
		for index := range out.switched {
			got = append(got, index)
		}
		slices.Sort(got)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: on replay %v, want %v", name, got, want)
		}
	}
}

func TestFit(t *testing.T) {
	for name, c := range map[string]struct {
		runs        []sample
		load, wants float64
	}{
		"nothing":              {nil, 5, 0},
		"one":                  {[]sample{{100, 10}}, 50, 5.25},
		"nothing counted":      {[]sample{{0, 10}, {0, 4}}, 0, 4},
		"fixed and rate":       {[]sample{{1000, 101}, {100, 11}, {50, 6}}, 200, 21},
		"fixed alone is left":  {[]sample{{1000, 101}, {2, 1.2}, {1, 1.1}}, 0, 1},
		"one odd run":          {[]sample{{1000, 101}, {100, 11}, {50, 60}, {50, 6}}, 200, 22},
		"faster than at first": {[]sample{{1000, 100}, {100, 5}, {100, 5}}, 100, 5},
		"order is no matter":   {[]sample{{100, 11}, {1000, 101}, {50, 6}}, 200, 21},
	} {
		if got := fit(c.runs, 0.5, 0.5).at(c.load); math.Abs(got-c.wants) > 0.05*c.wants+1e-9 {
			t.Errorf("%s: %v, want %v", name, got, c.wants)
		}
	}
}
