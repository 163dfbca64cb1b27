package migration

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Action is what a migration does next.
type Action string

// The actions. The state machine routes by them.
const (
	WarmAgain  Action = "warm"
	WaitFirst  Action = "wait"
	CutOverNow Action = "cutover"
	Done       Action = "done" // mode warm has had its rounds
	Stop       Action = "stop" // more rounds will not bring the downtime under the window
	AskFirst   Action = "ask"  // the same, and the operator wants to be asked
	// AskApproval waits for the operator's word before writes are stopped.
	AskApproval Action = "askApproval"
)

// Decision is an action with its reason and the numbers behind it.
type Decision struct {
	Action      Action      `json:"action"`
	WaitSeconds int         `json:"waitSeconds"` // for WaitFirst
	Reason      string      `json:"reason"`
	Prediction  *Prediction `json:"prediction,omitempty"`
	// Probe is what the prediction's parts besides moving were tried at.
	Probe Probe `json:"probe"`
	// WouldFit says, for Stop and AskFirst, what would make it fit.
	WouldFit string `json:"wouldFit,omitempty"`
	// Switch are the indices that go on replay now.
	Switch []OnReplay `json:"switch,omitempty"`
}

// History is what a migration has measured so far, older executions' rounds and passes included, and what the domains say now.
type History struct {
	Rounds   []Round
	Passes   []Pass
	Measures map[string]Measure         // of the last warm round, by index
	Earlier  map[int]map[string]Measure // of the rounds before it, by number; those that are missing are taken as a whole
	CutOvers []CutOver                  // earlier attempts
	Strategies

	Now   time.Time // zero: when the last round or pass ended
	Since time.Time // rounds and passes that ended before do not count against the limits: the operator said "warm" then
	Probe Probe
	// Approved: the operator has agreed to the cut-over.
	Approved bool
	// Changed are indices on rounds that the source has written to since the last round, Follow what has changed in its list of indices.
	// Either needs a round.
	Changed []string
	Follow  []string
	// Rates are operations a second since the last round, of the indices on rounds; one that is missing is not known.
	Rates map[string]float64
	// Open are copies of changed indices that the last round could not close, because a snapshot of the destination's own held them.
	Open []string
}

const (
	// worthwhile is the part of its time that a round must win on the one before for warming to go on because of that.
	worthwhile = 0.10
	// evidence is how many laps it takes to say that more of them will not help.
	evidence = 3
)

// Decide says what comes after the last recorded round. indices is how many are planned; execution is the one that asks, whose own
// rounds count against Rounds.Maximum.
func Decide(spec Spec, execution string, indices int, h History) Decision {
	if opens, _, ok := spec.CutOver.window(h.Now); ok && !h.Now.Before(opens) && opens.After(h.Since) {
		h.Since = opens // rounds that kept it warm until then do not count
	}
	d := decide(spec, execution, indices, h)
	d.Probe = h.Probe
	more := laps(execution, h, time.Time{}) < maximumRounds
	if spec.Mode.CutsOver() && more {
		d = spec.CutOver.conditioned(d, h.Now, h.Approved)
	}
	if d.Action == Stop && spec.OnNeverFits == AskOperator && more {
		d.Action = AskFirst
	}
	return d
}

func decide(spec Spec, execution string, indices int, h History) Decision {
	var warm []Round
	for _, r := range h.Rounds {
		if !r.Final {
			warm = append(warm, r)
		}
	}
	made := laps(execution, h, h.Since)
	again := func(reason string) Decision {
		if pause := int(math.Ceil(spec.Rounds.Pause.Seconds())); pause > 0 {
			return Decision{Action: WaitFirst, WaitSeconds: pause, Reason: reason}
		}
		return Decision{Action: WarmAgain, Reason: reason}
	}
	if spec.Mode == Warm {
		if made >= spec.Rounds.Minimum {
			return Decision{Action: Done, Reason: fmt.Sprintf("%d warm rounds made; mode warm asks for %d", made, spec.Rounds.Minimum)}
		}
		return again(fmt.Sprintf("warm round %d of %d made", made, spec.Rounds.Minimum))
	}
	change := func(chosen []OnReplay, why string) (Decision, bool) {
		if len(chosen) == 0 {
			return Decision{}, false
		}
		d := again(fmt.Sprintf("%s; %s on replay", why, many(len(chosen))))
		for i := range chosen {
			for _, p := range h.Passes {
				chosen[i].AfterPass = max(chosen[i].AfterPass, p.Number)
			}
		}
		d.Switch = chosen
		return d, true
	}
	base := 0
	if len(warm) > 0 {
		base = warm[len(warm)-1].Number
	}
	if spec.LastMile == LastMileReplay && base > 0 {
		if d, ok := change(h.choose(base, "lastMile is replay", func(m Measure) bool { return m.Recovered > 0 && !m.Skipped }), "lastMile is replay"); ok {
			return d
		}
	}
	a, ok := look(indices, h)
	onRounds, onReplay := len(h.Replay) < indices, len(h.Replay) > 0
	// Once all indices are on replay there are no more rounds to wait for.
	if !ok || onRounds && len(warm) < spec.Rounds.Minimum && !(onReplay && !a.rounds) {
		var reasons []string
		if onRounds {
			reasons = append(reasons, fmt.Sprintf("%d warm rounds so far; a cut-over needs %d", len(warm), spec.Rounds.Minimum))
		} else if len(warm) > 0 {
			reasons = append(reasons, fmt.Sprintf("%d warm rounds so far", len(warm)))
		}
		if onReplay {
			reasons = append(reasons, fmt.Sprintf("a cut-over needs two passes of the replay, of which %d are made", len(a.passes)))
		}
		return again(strings.Join(reasons, "; "))
	}
	round, pass := a.since(h.Now)
	p := a.at(round, pass, 0)
	decision := func(d Decision) Decision { d.Prediction = &p; return d }
	window := spec.DowntimeWindow.Seconds()
	numbers := p.String() + ", window " + spec.DowntimeWindow.String()
	unready := h.unready()
	if unready != "" {
		numbers += "; " + unready
	}
	if p.High <= window && unready == "" {
		return decision(Decision{Action: CutOverNow, Reason: numbers})
	}
	if unready == "" && spec.LastMile == LastMileAuto {
		if d, ok := a.replayWhatDoesNotFit(spec, h, base, numbers, change); ok && made < spec.Rounds.Maximum {
			return decision(d)
		}
	}
	best, after := a.reach(h.Now, spec.Rounds.Pause.Seconds(), spec.Rounds.Maximum-made)
	never := func(why string) Decision {
		would := a.wouldFit(spec, h, p, best)
		return decision(Decision{Action: Stop, Reason: fmt.Sprintf("%s; dominated by %s; %s; %s", numbers, p.Dominates, why, would), WouldFit: would})
	}
	if made >= spec.Rounds.Maximum {
		return never(fmt.Sprintf("rounds.maximum (%d) is reached", spec.Rounds.Maximum))
	}
	if unready != "" {
		return decision(again(numbers))
	}
	helps := after > 0 && best.High <= window
	switch won := winning(a); {
	case a.counted() && made >= evidence && !helps && best.Low > window:
		return never(fmt.Sprintf("after more rounds and passes it would still be %.1f s at best (%.1f to %.1f), so more of them will not help", best.Seconds, best.Low, best.High))
	case won:
		return decision(again(numbers + "; the rounds are still getting shorter"))
	case helps && p.Seconds <= window:
		return decision(again(fmt.Sprintf("%s; it is expected to fit, and %d more would say so with certainty enough", numbers, after)))
	case helps && made < evidence:
		return decision(again(fmt.Sprintf("%s; after %d more it is expected to be %.1f s (%.1f to %.1f)", numbers, after, best.Seconds, best.Low, best.High)))
	case made < evidence || !a.settled():
		return decision(again(numbers + "; too few of them were measured to say that more would not help"))
	}
	return never("the last rounds did not get shorter, so more rounds will not help")
}

// String are the numbers for a reason.
func (p Prediction) String() string {
	return fmt.Sprintf("predicted write downtime %.1f s (%.1f to %.1f: freeze %.1f, snapshot %.1f, copy %.1f, restore %.1f, replay %.1f beside them, verify %.1f, finish %.1f, between them %.1f)",
		p.Seconds, p.Low, p.High, p.Freeze.Seconds, p.Snapshot.Seconds, p.Copy.Seconds, p.Restore.Seconds, p.Replay.Seconds, p.Verify.Seconds, p.Finish.Seconds, p.Transitions.Seconds)
}

func many(n int) string {
	if n == 1 {
		return "1 index goes"
	}
	return fmt.Sprintf("%d indices go", n)
}

// laps are the iterations of an execution since then: a round and a pass of the replay run side by side.
func laps(execution string, h History, since time.Time) int {
	rounds, passes := 0, 0
	for _, r := range h.Rounds {
		if !r.Final && r.Execution == execution && !r.FinishedAt.Before(since) {
			rounds++
		}
	}
	for _, p := range h.Passes {
		if !p.Final && p.Execution == execution && !p.FinishedAt.Before(since) {
			passes++
		}
	}
	return max(rounds, passes)
}

// unready says why no cut-over may begin whatever it would take, or "".
func (h History) unready() string {
	if back := h.Behind(); back != "" {
		return fmt.Sprintf("index %s is back on rounds and no round has brought it up to date yet", back)
	}
	if laps := h.laps(); len(laps) > 0 {
		for _, name := range slices.Sorted(maps.Keys(h.Measures)) {
			if !h.Has(name) && movedOnce(laps, name) {
				return fmt.Sprintf("index %s was moved once, as a whole, which says nothing of its next round", name)
			}
		}
	}
	if len(h.Open) > 0 {
		return fmt.Sprintf("the last round could not close copies, a snapshot of the destination's own held them, and would hold up the cut-over: %s", few(h.Open))
	}
	if len(h.Follow) > 0 {
		return fmt.Sprintf("the source's indices have changed and a round has to follow: %s", few(h.Follow))
	}
	return ""
}

func few(list []string) string {
	const most = 5
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// Behind names an index that went back to rounds and that no round has restored since, or "". While it was on replay no round had it, so
// that any round after its base that has it came after the drop.
func (h History) Behind() string {
	last := 0
	for _, r := range h.Rounds {
		if !r.Final {
			last = r.Number
		}
	}
	for _, d := range h.Dropped {
		if _, restored := h.Measures[d.Name]; !restored || last <= d.Base {
			return d.Name
		}
	}
	return ""
}

// RoundNeeded reports whether the next lap has something to do for a round: an index that changes, one that is behind, or a change to
// follow.
func (h History) RoundNeeded(indices int) bool {
	_, moved := h.moved(indices)
	return moved || h.Behind() != "" || len(h.Follow) > 0
}

// replayWhatDoesNotFit chooses what goes on replay when rounds do not fit the window: the indices whose restores move far more than is
// new in them, and every index that still changes when even a round right after the last one would not fit, or when no further round is
// expected to. Of these, only what replay is expected to serve better goes there.
func (a ahead) replayWhatDoesNotFit(spec Spec, h History, base int, numbers string, change func([]OnReplay, string) (Decision, bool)) (Decision, bool) {
	if !a.rounds {
		return Decision{}, false
	}
	changes := func(m Measure) bool { return !m.Skipped && m.Recovered+m.Snapshot > 0 }
	window := spec.DowntimeWindow.Seconds()
	best, after := a.reach(h.Now, spec.Rounds.Pause.Seconds(), spec.Rounds.Maximum)
	if least := a.least(); a.counted() && least.Low > window {
		why := fmt.Sprintf("a round costs %.1f s of downtime however soon it follows the last one, more than downtimeWindow %s", least.Seconds, spec.DowntimeWindow)
		if d, ok := change(a.gains(h.choose(base, why, changes), best, h.Rates), numbers+"; "+why); ok {
			return d, ok
		}
	}
	if d, ok := change(a.gains(h.wasteful(base), best, h.Rates), numbers); ok {
		return d, ok
	}
	helps := after > 0 && best.High <= window
	if helps || winning(a) || !a.settled() {
		return Decision{}, false
	}
	why := fmt.Sprintf("rounds do not get shorter than %.1f s of downtime (%.1f to %.1f), more than downtimeWindow %s", best.Seconds, best.Low, best.High, spec.DowntimeWindow)
	return change(a.gains(h.choose(base, why, changes), best, h.Rates), numbers+"; "+why)
}

// assumedOperations are the operations a second that a pass is taken to bring over until one has been measured (measured: 4,774
// documents in a second, beside other work).
const assumedOperations = 2_000

// gains keeps of the chosen indices those that make the last delta shorter by going on replay: as it would be after more rounds, beside or
// without the pass that brings the others. Operations that are not known count as none.
func (a ahead) gains(chosen []OnReplay, best Prediction, rates map[string]float64) []OnReplay {
	if len(a.laps) < 2 || rates == nil || a.onRounds == nil || !a.counted() || math.IsInf(best.High, 1) {
		return chosen
	}
	interval := best.Snapshot.Seconds + best.Copy.Seconds + best.Restore.Seconds
	each := map[string]delta{}
	for _, name := range a.onRounds {
		each[name] = expected(a.laps, []string{name}, interval, false)
	}
	going := map[string]bool{}
	byRounds := func() float64 {
		var d delta
		rest := 0
		for _, name := range a.onRounds {
			if !going[name] {
				d.snapshot, d.restore = d.snapshot+each[name].snapshot, d.restore+each[name].restore
				d.copied = d.snapshot + each[name].copied - each[name].snapshot // what a copy has besides is of the round, not of an index
				rest++
			}
		}
		if rest == 0 {
			return 0
		}
		snapshot, copied, restore := moving(a.laps, d)
		return snapshot + copied + restore
	}
	fixed, perSecond := assumedPass, float64(assumedOperations)
	if runs, _ := replays(a.passes); len(runs) > 0 {
		l := pace(runs)
		fixed = l.fixed
		if l.each > 0 {
			perSecond = 1 / l.each
		}
	}
	_, known := replays(a.passes)
	byReplay := func() float64 {
		load := known
		for name := range going {
			load += rates[name]
		}
		switch {
		case len(going) == 0 && !a.replay:
			return 0
		case load >= perSecond:
			return math.Inf(1) // it would fall behind
		}
		return fixed / (1 - load/perSecond) // each pass brings what came during the one before
	}
	longest := func() float64 { return max(byRounds(), byReplay()) }
	before := longest()
	for _, x := range chosen {
		going[x.Index] = true
	}
	busiest := slices.Clone(chosen)
	slices.SortStableFunc(busiest, func(x, y OnReplay) int { return cmp.Compare(rates[y.Index], rates[x.Index]) })
	now := longest()
	for _, x := range busiest {
		delete(going, x.Index)
		if without := longest(); without <= now {
			now = without
			continue
		}
		going[x.Index] = true
	}
	if now >= before {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(chosen), func(x OnReplay) bool { return !going[x.Index] })
}

// wouldFit tells what would make the downtime fit.
func (a ahead) wouldFit(spec Spec, h History, p, best Prediction) string {
	high := min(p.High, best.High)
	if p.High <= spec.DowntimeWindow.Seconds() {
		return "it fits the window, but for that: a larger rounds.maximum leaves time for it"
	}
	text := fmt.Sprintf("it would fit with a downtimeWindow of %.0f s, with fewer indices at once, or at a quieter time", math.Ceil(high))
	changing := 0
	for name, m := range h.Measures {
		if !h.Has(name) && !h.dropped(name) && !m.Skipped && m.Recovered > 0 {
			changing++
		}
	}
	if spec.LastMile == LastMileRounds && changing > 0 {
		text += `; lastMile "auto" would bring the changed indices up to date by replay`
	}
	return text
}

// counted reports whether the rounds say what they moved, so that their fixed costs can be told from those that shrink.
func (a ahead) counted() bool {
	moved := func(l warmLap) bool { return l.Restore.RecoveredBytes > 0 && l.interval > 0 }
	return !a.rounds || slices.ContainsFunc(a.laps, moved)
}

// winning reports that one of the last two laps was worthwhile: shorter than the one before, of the rounds or of the passes. The first of
// each is left out: it moved everything.
func winning(a ahead) bool {
	won := func(seconds []float64) bool {
		n := len(seconds)
		shorter := func(i int) bool { return i >= 2 && seconds[i] < (1-worthwhile)*seconds[i-1] }
		return shorter(n-1) || shorter(n-2)
	}
	rounds, passes := a.durations()
	return a.rounds && won(rounds) || a.replay && won(passes)
}

// settled reports that there are enough of the rounds, and of the passes, to see whether they get shorter.
func (a ahead) settled() bool {
	rounds, passes := a.durations()
	return (!a.rounds || len(rounds) > evidence) && (!a.replay || len(passes) > evidence)
}

func (a ahead) durations() (rounds, passes []float64) {
	for _, l := range a.laps {
		rounds = append(rounds, l.Seconds())
	}
	for _, p := range a.passes {
		passes = append(passes, p.Seconds)
	}
	return rounds, passes
}

// NextPoll is how long to wait before asking again: a tenth of what has passed, at least a second, at most ten minutes, so that
// a phase of any length is seen to end within a tenth of its length and no phase spends more than some hundred polls before
// they are ten minutes apart.
func NextPoll(elapsedSeconds float64) int {
	return int(min(600, max(1, elapsedSeconds/10)))
}
