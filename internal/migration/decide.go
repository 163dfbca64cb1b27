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
	Overhead  float64 `json:"overheadSeconds"`
	Dominates string  `json:"dominates"` // the phase that costs most: snapshot, copy, restore or overhead
}

// Decision is an action with its reason and the numbers behind it.
type Decision struct {
	Action      Action      `json:"action"`
	WaitSeconds int         `json:"waitSeconds"` // for WaitFirst
	Reason      string      `json:"reason"`
	Prediction  *Prediction `json:"prediction,omitempty"`
}

const (
	// overheadSeconds is what a cut-over costs besides the final round: freeze and its proof, verification, handing over, and
	// the transitions between. Measured in rehearsals; see the README for the command.
	overheadSeconds = 3
	// worthwhile is the part of the prediction that another round must win for warming to go on.
	worthwhile = 0.10
)

// Predict gives the write downtime if the cut-over began now. It assumes that the final round moves what the last warm round
// moved, which holds while the time between snapshots stays alike; the first round moves everything and predicts nothing, so
// there must be at least two.
func Predict(warm []Round) (Prediction, bool) {
	if len(warm) < 2 {
		return Prediction{}, false
	}
	last := warm[len(warm)-1]
	p := Prediction{Snapshot: last.Snapshot.Seconds, Copy: last.Copy.Seconds, Restore: last.Restore.Seconds, Overhead: overheadSeconds}
	p.Seconds = math.Round((p.Snapshot+p.Copy+p.Restore+p.Overhead)*1000) / 1000
	p.Dominates = "overhead"
	most := p.Overhead
	for _, phase := range []struct {
		name    string
		seconds float64
	}{{"snapshot", p.Snapshot}, {"copy", p.Copy}, {"restore", p.Restore}} {
		if phase.seconds > most {
			p.Dominates, most = phase.name, phase.seconds
		}
	}
	return p, true
}

// Decide says what comes after the last recorded round. rounds are all rounds of the migration in order, older executions'
// included; execution is the one that asks, whose own rounds count against Rounds.Maximum.
func Decide(spec Spec, execution string, rounds []Round) Decision {
	var warm, own []Round
	for _, r := range rounds {
		if r.Final {
			continue
		}
		warm = append(warm, r)
		if r.Execution == execution {
			own = append(own, r)
		}
	}
	again := func(reason string) Decision {
		if pause := int(math.Ceil(spec.Rounds.Pause.Seconds())); pause > 0 {
			return Decision{Action: WaitFirst, WaitSeconds: pause, Reason: reason}
		}
		return Decision{Action: WarmAgain, Reason: reason}
	}
	if spec.Mode == Warm {
		if len(own) >= spec.Rounds.Minimum {
			return Decision{Action: Done, Reason: fmt.Sprintf("%d warm rounds made; mode warm asks for %d", len(own), spec.Rounds.Minimum)}
		}
		return again(fmt.Sprintf("warm round %d of %d made", len(own), spec.Rounds.Minimum))
	}
	p, ok := Predict(warm)
	if !ok || len(warm) < spec.Rounds.Minimum {
		return again(fmt.Sprintf("%d warm rounds so far; a cut-over needs %d", len(warm), spec.Rounds.Minimum))
	}
	decision := func(d Decision) Decision { d.Prediction = &p; return d }
	window := spec.DowntimeWindow.Seconds()
	numbers := fmt.Sprintf("predicted write downtime %.1f s (snapshot %.1f, copy %.1f, restore %.1f, overhead %.1f), window %s",
		p.Seconds, p.Snapshot, p.Copy, p.Restore, p.Overhead, spec.DowntimeWindow)
	if p.Seconds <= window {
		return decision(Decision{Action: CutOver, Reason: numbers})
	}
	if len(own) >= spec.Rounds.Maximum {
		return decision(Decision{Action: Stop, Reason: fmt.Sprintf("%s; %s dominates; rounds.maximum (%d) is reached", numbers, p.Dominates, spec.Rounds.Maximum)})
	}
	if stalled(warm) {
		return decision(Decision{Action: Stop, Reason: fmt.Sprintf(
			"%s; %s dominates and the last rounds did not get shorter, so more rounds will not help; widen downtimeWindow beyond %.0f s, move fewer indices at once, or choose a quieter time",
			numbers, p.Dominates, math.Ceil(p.Seconds))})
	}
	return decision(again(numbers + "; the rounds are still getting shorter"))
}

// stalled reports that the last two steps from round to round won next to nothing. The first round is left out: it moved
// everything.
func stalled(warm []Round) bool {
	n := len(warm)
	if n < 4 {
		return false
	}
	won := func(before, after Round) bool { return after.Seconds() < (1-worthwhile)*before.Seconds() }
	return !won(warm[n-2], warm[n-1]) && !won(warm[n-3], warm[n-2])
}

// NextPoll is how long to wait before asking again: a tenth of what has passed, at least a second, at most ten minutes, so that
// a phase of any length is seen to end within a tenth of its length and no phase spends more than some hundred polls before
// they are ten minutes apart.
func NextPoll(elapsedSeconds float64) int {
	return int(min(600, max(1, elapsedSeconds/10)))
}
