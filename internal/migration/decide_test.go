package migration

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// rounds makes warm rounds of one execution from their restore times in seconds; snapshot and copy take one second each.
func rounds(execution string, restores ...float64) []Round {
	var list []Round
	for _, s := range restores {
		list = append(list, Round{Execution: execution, Snapshot: SnapshotPhase{Seconds: 1}, Copy: CopyPhase{Seconds: 1}, Restore: RestorePhase{Seconds: s}})
	}
	return list
}

// overhead is what a cut-over of two indices costs besides moving, by the constants.
func overhead(rounds bool) float64 {
	var p Prediction
	ahead{indices: 2}.overhead(&p, rounds)
	return p.Freeze.Seconds + p.Verify.Seconds + p.Finish.Seconds + p.Transitions.Seconds
}

func TestDecide(t *testing.T) {
	// Snapshot 1 s, copy 1 s and the overhead: the prediction is the last restore and 2 s more. These rounds do not say what they moved,
	// so that a prediction is the last one again, and its range what the ones before missed.
	spec := Spec{Mode: Migrate, DowntimeWindow: Duration(30 * time.Second), Rounds: RoundLimits{Minimum: 2, Maximum: 6}}
	edit := func(f func(*Spec)) Spec { s := spec; f(&s); return s }
	join := func(lists ...[]Round) []Round {
		var all []Round
		for i, l := range lists {
			for j := range l {
				l[j].Number = i*100 + j
			}
			all = append(all, l...)
		}
		return all
	}
	final := rounds("old", 500)
	final[0].Final = true
	for name, c := range map[string]struct {
		spec      Spec
		rounds    []Round
		want      Action
		reason    string
		predicted float64 // the restore's part; 0 is none
		wait      int
	}{
		"nothing yet":               {spec, nil, WarmAgain, "0 warm rounds so far", 0, 0},
		"first round":               {spec, rounds("me", 1), WarmAgain, "1 warm rounds so far; a cut-over needs 2", 0, 0},
		"second fits":               {spec, rounds("me", 900, 15), CutOverNow, "window 30s", 15, 0},
		"expected to fit, not sure": {spec, rounds("me", 900, 22), WarmAgain, "", 22, 0}, // half as much again may come
		"sure after some more":      {spec, rounds("me", 900, 22, 22, 22, 22), CutOverNow, "", 22, 0},
		"second does not":           {spec, rounds("me", 900, 35), WarmAgain, "", 35, 0},
		"more are asked for":        {edit(func(s *Spec) { s.Rounds.Minimum = 3 }), rounds("me", 900, 1), WarmAgain, "needs 3", 0, 0},
		"as many as are asked for":  {edit(func(s *Spec) { s.Rounds.Minimum = 3 }), rounds("me", 900, 1, 2), CutOverNow, "", 2, 0},
		"converging":                {spec, rounds("me", 900, 200, 100, 50), WarmAgain, "still getting shorter", 50, 0},
		"stalled":                   {spec, rounds("me", 900, 100, 99, 98), Stop, "the last rounds did not get shorter", 98, 0},
		"stalled after three":       {spec, rounds("me", 900, 100, 99), WarmAgain, "", 99, 0},   // one step may be chance
		"three alike":               {spec, rounds("me", 100, 100, 100), WarmAgain, "", 100, 0}, // the first one says nothing
		"growing":                   {spec, rounds("me", 900, 50, 60, 70), Stop, "dominated by restore", 70, 0},
		"first round is left out":   {spec, rounds("me", 100, 100, 60, 59), WarmAgain, "", 59, 0}, // 100 to 60 was won
		"maximum":                   {spec, rounds("me", 900, 800, 600, 400, 200, 100), Stop, "rounds.maximum (6) is reached", 100, 0},
		"maximum but it fits":       {spec, rounds("me", 900, 800, 600, 400, 200, 10), CutOverNow, "", 10, 0},
		"pause":                     {edit(func(s *Spec) { s.Rounds.Pause = Duration(1500 * time.Millisecond) }), rounds("me", 900), WaitFirst, "", 0, 2},
		"pause while converging":    {edit(func(s *Spec) { s.Rounds.Pause = Duration(time.Hour) }), rounds("me", 900, 200, 100), WaitFirst, "still getting shorter", 100, 3600},
		"no pause before cut-over":  {edit(func(s *Spec) { s.Rounds.Pause = Duration(time.Hour) }), rounds("me", 900, 1), CutOverNow, "", 1, 0},
		"older rounds predict":      {spec, join(rounds("old", 900, 30), rounds("me", 10)), CutOverNow, "", 10, 0},
		"older are not my maximum":  {spec, join(rounds("old", 900, 800, 700, 600, 500, 400), rounds("me", 300)), WarmAgain, "still getting shorter", 300, 0},
		"final rounds do not count": {spec, join(rounds("old", 900), final, rounds("me", 2)), CutOverNow, "", 2, 0},
		"a final round alone":       {spec, join(final, rounds("me", 2)), WarmAgain, "1 warm rounds so far", 0, 0},
		"warm, none":                {edit(func(s *Spec) { s.Mode = Warm }), nil, WarmAgain, "0 of 2", 0, 0},
		"warm, one":                 {edit(func(s *Spec) { s.Mode = Warm }), rounds("me", 9), WarmAgain, "1 of 2", 0, 0},
		"warm, done":                {edit(func(s *Spec) { s.Mode = Warm }), rounds("me", 9, 9), Done, "2 warm rounds made", 0, 0},
		"warm, only older ones":     {edit(func(s *Spec) { s.Mode = Warm }), rounds("old", 9, 9, 9), WarmAgain, "0 of 2", 0, 0},
		"warm with a pause":         {edit(func(s *Spec) { s.Mode = Warm; s.Rounds.Pause = Duration(time.Minute) }), rounds("me", 9), WaitFirst, "", 0, 60},
		"stalled, asked":            {edit(func(s *Spec) { s.OnNeverFits = AskOperator }), rounds("me", 900, 100, 99, 98), AskFirst, "it would fit with a downtimeWindow of", 98, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := Decide(c.spec, "me", 2, History{Rounds: c.rounds})
			if got.Action != c.want || got.WaitSeconds != c.wait || !strings.Contains(got.Reason, c.reason) || got.Reason == "" {
				t.Errorf("got %+v, want %s, wait %d, reason %q", got, c.want, c.wait, c.reason)
			}
			if p := got.Prediction; (p == nil) != (c.predicted == 0) {
				t.Errorf("prediction %+v", p)
			} else if p != nil && (math.Abs(p.Seconds-c.predicted-2-overhead(true)) > 0.002 || p.Low >= p.Seconds || p.High <= p.Seconds) {
				t.Errorf("prediction %+v, want %v s", *p, c.predicted+2+overhead(true))
			}
			if never := got.Action == Stop || got.Action == AskFirst; never != (got.WouldFit != "") {
				t.Errorf("%s would fit: %q", got.Action, got.WouldFit)
			}
		})
	}
}

// What the operator is asked may be answered with "warm": then the limits count anew, but not for ever.
func TestLimitsCountAnew(t *testing.T) {
	spec := Spec{Mode: Migrate, DowntimeWindow: Duration(30 * time.Second), Rounds: RoundLimits{Minimum: 2, Maximum: 4}, OnNeverFits: AskOperator}
	seconds := slices.Repeat([]float64{100}, 8)
	h := History{Rounds: numbered(rounds("me", seconds...))}
	if got := Decide(spec, "me", 2, h); got.Action != AskFirst {
		t.Errorf("%+v", got)
	}
	_, h.Since = lap(5) // three rounds since
	if got := Decide(spec, "me", 2, h); got.Action != AskFirst {
		t.Errorf("three rounds since: %+v", got)
	}
	_, h.Since = lap(7)
	if got := Decide(spec, "me", 2, h); got.Action != WarmAgain {
		t.Errorf("one round since: %+v", got)
	}
	h.Rounds = numbered(rounds("me", slices.Repeat([]float64{100}, maximumRounds)...))
	for i := range h.Rounds {
		h.Rounds[i].FinishedAt = h.Since.Add(-time.Second)
	}
	h.Rounds[len(h.Rounds)-1].FinishedAt, spec.Rounds.Maximum = h.Since, 1
	if got := Decide(spec, "me", 2, h); got.Action != AskFirst && got.Action != Stop {
		t.Errorf("%+v", got)
	}
	if got := Decide(spec, "me", 2, h); got.Action != Stop {
		t.Errorf("the history of one execution has room for %d laps: %+v", maximumRounds, got)
	}
}

// predicted is the prediction of a cut-over that begins now; ok is false while too little has been measured.
func predicted(indices int, h History) (p Prediction, ok bool) {
	a, ok := look(indices, h)
	if !ok {
		return p, false
	}
	round, pass := a.since(h.Now)
	return a.at(round, pass, 0), true
}

func TestWhatDominates(t *testing.T) {
	for want, r := range map[string]Round{
		"snapshot":    {Snapshot: SnapshotPhase{Seconds: 9}, Copy: CopyPhase{Seconds: 5}, Restore: RestorePhase{Seconds: 5}},
		"copy":        {Snapshot: SnapshotPhase{Seconds: 5}, Copy: CopyPhase{Seconds: 9}, Restore: RestorePhase{Seconds: 5}},
		"restore":     {Snapshot: SnapshotPhase{Seconds: 5}, Copy: CopyPhase{Seconds: 5}, Restore: RestorePhase{Seconds: 9}},
		"transitions": {Snapshot: SnapshotPhase{Seconds: 0.1}, Copy: CopyPhase{Seconds: 0.1}, Restore: RestorePhase{Seconds: 0.1}},
		"snapshot on node n7 (3 of 40 shards, 12.0 GB in the last round); slowest was shard logs[4], 8.0 s": {Snapshot: SnapshotPhase{
			Seconds: 9, Shards: 40, Nodes: []Share{{Node: "n7", Shards: 3, Bytes: 12e9}}, Slowest: &Share{Index: "logs", Shard: 4, Seconds: 8}}},
	} {
		p, ok := predicted(1, History{Rounds: []Round{{}, r}})
		if !ok || p.Dominates != want {
			t.Errorf("%s: %+v, %t", want, p, ok)
		}
	}
	if _, ok := predicted(1, History{Rounds: rounds("me", 1)}); ok {
		t.Error("the first round predicts")
	}
}

func TestNextPoll(t *testing.T) {
	for elapsed, want := range map[float64]int{-5: 1, 0: 1, 9.9: 1, 10: 1, 19: 1, 20: 2, 599: 59, 6000: 600, 6001: 600, 1e12: 600} {
		if got := NextPoll(elapsed); got != want {
			t.Errorf("after %v s: %d, want %d", elapsed, got, want)
		}
	}
	// A phase of 15 days at nine history events a poll: below the service's 25,000, with room for the rest of the round.
	const phase = 15 * 24 * 3600.0
	polls, elapsed := 0, 0.0
	for elapsed < phase {
		elapsed += float64(NextPoll(elapsed))
		polls++
	}
	if polls*9 >= 21_000 {
		t.Errorf("%d polls are %d history events", polls, 9*polls)
	}
	if polls < 2000 {
		t.Errorf("%d polls in 15 days: further apart than ten minutes", polls)
	}
}
