package migration

import (
	"fmt"
	"math"
)

// Action is what a migration does next.
type Action string

// The actions. The state machine routes by them.
const (
	WarmAgain Action = "warm"
	WaitFirst Action = "wait"
	CutOver   Action = "cutover"
	Done      Action = "done" // mode warm has had its rounds
	Stop      Action = "stop" // more rounds will not bring the downtime under the window
)

// Prediction is the expected write downtime, from the last warm round.
type Prediction struct {
	Seconds   float64 `json:"seconds"`
	Snapshot  float64 `json:"snapshotSeconds"`
	Copy      float64 `json:"copySeconds"`
	Restore   float64 `json:"restoreSeconds"`
	Replay    float64 `json:"replaySeconds"` // runs beside snapshot, copy and restore
	Overhead  float64 `json:"overheadSeconds"`
	Dominates string  `json:"dominates"` // the phase that costs most: snapshot, copy, restore, replay or overhead
}

// Decision is an action with its reason and the numbers behind it.
type Decision struct {
	Action      Action      `json:"action"`
	WaitSeconds int         `json:"waitSeconds"` // for WaitFirst
	Reason      string      `json:"reason"`
	Prediction  *Prediction `json:"prediction,omitempty"`
	// Switch are the indices that go on replay now.
	Switch []OnReplay `json:"switch,omitempty"`
}

// History is what a migration has measured so far, older executions' rounds and passes included.
type History struct {
	Rounds   []Round
	Passes   []Pass
	Measures map[string]Measure // of the last warm round, by index
	Strategies
}

const (
	// overheadSeconds is what a cut-over costs besides the final round: freeze and its proof, verification, handing over, and
	// the transitions between. Measured in rehearsals; see the README for the command.
	overheadSeconds = 3
	// worthwhile is the part of the prediction that another round must win for warming to go on.
	worthwhile = 0.10
)

// Predict gives the write downtime if the cut-over began now. It assumes that the final round moves what the last warm round
// moved, and the final pass what the last pass did, which holds while the time between them stays alike. The first round moves
// everything and the first pass all changes since its base, so they predict nothing.
func Predict(warm []Round, passes []Pass, onRounds, onReplay bool) (Prediction, bool) {
	p := Prediction{Overhead: overheadSeconds}
	if onRounds {
		if len(warm) < 2 {
			return p, false
		}
		last := warm[len(warm)-1]
		p.Snapshot, p.Copy, p.Restore = last.Snapshot.Seconds, last.Copy.Seconds, last.Restore.Seconds
	}
	if onReplay {
		if len(passes) < 2 {
			return p, false
		}
		p.Replay = passes[len(passes)-1].Seconds
	}
	p.Seconds = math.Round((p.Overhead+max(p.Snapshot+p.Copy+p.Restore, p.Replay))*1000) / 1000
	p.Dominates = "overhead"
	most := p.Overhead
	for _, phase := range []struct {
		name    string
		seconds float64
	}{{"snapshot", p.Snapshot}, {"copy", p.Copy}, {"restore", p.Restore}, {"replay", p.Replay}} {
		if phase.seconds > most {
			p.Dominates, most = phase.name, phase.seconds
		}
	}
	return p, true
}

// Decide says what comes after the last recorded round. indices is how many are planned; execution is the one that asks, whose
// own rounds count against Rounds.Maximum.
func Decide(spec Spec, execution string, indices int, h History) Decision {
	var warm, own []Round
	for _, r := range h.Rounds {
		if r.Final {
			continue
		}
		warm = append(warm, r)
		if r.Execution == execution {
			own = append(own, r)
		}
	}
	made := laps(own, h.Passes, execution)
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
	if spec.LastMile == LastMileReplay && len(warm) > 0 {
		if d, ok := change(spec, warm, h, again, "lastMile is replay"); ok {
			return d
		}
	}
	onRounds, onReplay := len(h.Replay) < indices, len(h.Replay) > 0
	p, ok := Predict(warm, h.Passes, onRounds, onReplay)
	// Once all indices are on replay there are no more rounds to wait for.
	if !ok || onRounds && len(warm) < spec.Rounds.Minimum {
		reason := fmt.Sprintf("%d warm rounds so far", len(warm))
		if onRounds {
			reason += fmt.Sprintf("; a cut-over needs %d", spec.Rounds.Minimum)
		}
		if onReplay {
			reason += fmt.Sprintf("; a cut-over needs two passes of the replay, of which %d are made", len(h.Passes))
		}
		return again(reason)
	}
	decision := func(d Decision) Decision { d.Prediction = &p; return d }
	window := spec.DowntimeWindow.Seconds()
	numbers := fmt.Sprintf("predicted write downtime %.1f s (snapshot %.1f, copy %.1f, restore %.1f, replay %.1f beside them, overhead %.1f), window %s",
		p.Seconds, p.Snapshot, p.Copy, p.Restore, p.Replay, p.Overhead, spec.DowntimeWindow)
	back := behind(h)
	if back != "" {
		numbers += fmt.Sprintf("; index %s is back on rounds and no round has brought it up to date yet", back)
	}
	if p.Seconds <= window && back == "" {
		return decision(Decision{Action: CutOver, Reason: numbers})
	}
	if made >= spec.Rounds.Maximum {
		return decision(Decision{Action: Stop, Reason: fmt.Sprintf("%s; %s dominates; rounds.maximum (%d) is reached", numbers, p.Dominates, spec.Rounds.Maximum)})
	}
	if back != "" {
		return decision(again(numbers))
	}
	if spec.LastMile == LastMileAuto {
		if d, ok := change(spec, warm, h, again, numbers); ok {
			return decision(d)
		}
	}
	if stalled(warm, h.Passes, onRounds, onReplay) {
		return decision(Decision{Action: Stop, Reason: fmt.Sprintf(
			"%s; %s dominates and the last rounds did not get shorter, so more rounds will not help; widen downtimeWindow beyond %.0f s, move fewer indices at once, or choose a quieter time%s",
			numbers, p.Dominates, math.Ceil(p.Seconds), replayHint(spec, h))})
	}
	return decision(again(numbers + "; the rounds are still getting shorter"))
}

// laps are the iterations of an execution: a round and a pass of the replay run side by side.
func laps(own []Round, passes []Pass, execution string) int {
	n := 0
	for _, p := range passes {
		if p.Execution == execution {
			n++
		}
	}
	return max(len(own), n)
}

// behind names an index that went back to rounds and that no round has restored since, or "".
func behind(h History) string {
	for _, d := range h.Dropped {
		if _, restored := h.Measures[d.Name]; !restored {
			return d.Name
		}
	}
	return ""
}

// replayHint tells who forbade replay what it could do.
func replayHint(spec Spec, h History) string {
	auto := spec
	auto.LastMile = LastMileAuto
	if spec.LastMile != LastMileRounds || len(chooseReplay(auto, 0, h.Measures, h.Strategies)) == 0 {
		return ""
	}
	return `; lastMile "auto" would bring the updated indices up to date by replay`
}

// change puts on replay what rounds do not serve. The base of an index is the round that its copy was restored from last.
func change(spec Spec, warm []Round, h History, again func(string) Decision, why string) (Decision, bool) {
	chosen := chooseReplay(spec, warm[len(warm)-1].Number, h.Measures, h.Strategies)
	if len(chosen) == 0 {
		return Decision{}, false
	}
	d := again(fmt.Sprintf("%s; %d indices go on replay", why, len(chosen)))
	d.Switch = chosen
	return d, true
}

// stalled reports that the last two steps won next to nothing, of the rounds and of the passes. The first of each is left out: it
// moved everything.
func stalled(warm []Round, passes []Pass, onRounds, onReplay bool) bool {
	won := func(before, after float64) bool { return after < (1-worthwhile)*before }
	still := func(seconds []float64) bool {
		n := len(seconds)
		return n >= 4 && !won(seconds[n-2], seconds[n-1]) && !won(seconds[n-3], seconds[n-2])
	}
	var rounds, replays []float64
	for _, r := range warm {
		rounds = append(rounds, r.Seconds())
	}
	for _, p := range passes {
		replays = append(replays, p.Seconds)
	}
	return (!onRounds || still(rounds)) && (!onReplay || still(replays))
}

// NextPoll is how long to wait before asking again: a tenth of what has passed, at least a second, at most ten minutes, so that
// a phase of any length is seen to end within a tenth of its length and no phase spends more than some hundred polls before
// they are ten minutes apart.
func NextPoll(elapsedSeconds float64) int {
	return int(min(600, max(1, elapsedSeconds/10)))
}
