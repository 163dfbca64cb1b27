package migration

import (
	"math"
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

func TestDecide(t *testing.T) {
	// Overhead 3 s, snapshot 1 s, copy 1 s: the prediction is the last restore and 5 s. The window is 20 s: a restore of 15 s fits.
	spec := Spec{Mode: Migrate, DowntimeWindow: Duration(20 * time.Second), Rounds: RoundLimits{Minimum: 2, Maximum: 6}}
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
		predicted float64 // 0 is none
		wait      int
	}{
		"nothing yet":               {spec, nil, WarmAgain, "0 warm rounds so far", 0, 0},
		"first round":               {spec, rounds("me", 1), WarmAgain, "1 warm rounds so far; a cut-over needs 2", 0, 0},
		"second fits":               {spec, rounds("me", 900, 15), CutOver, "predicted write downtime 20.0 s", 20, 0},
		"second just does not":      {spec, rounds("me", 900, 15.1), WarmAgain, "still getting shorter", 20.1, 0},
		"more are asked for":        {edit(func(s *Spec) { s.Rounds.Minimum = 3 }), rounds("me", 900, 1), WarmAgain, "needs 3", 0, 0},
		"as many as are asked for":  {edit(func(s *Spec) { s.Rounds.Minimum = 3 }), rounds("me", 900, 1, 2), CutOver, "", 7, 0},
		"converging":                {spec, rounds("me", 900, 200, 100, 50), WarmAgain, "still getting shorter", 55, 0},
		"stalled":                   {spec, rounds("me", 900, 100, 99, 98), Stop, "widen downtimeWindow beyond 103 s", 103, 0},
		"stalled after three":       {spec, rounds("me", 900, 100, 99), WarmAgain, "", 104, 0},  // one step may be chance
		"three alike":               {spec, rounds("me", 100, 100, 100), WarmAgain, "", 105, 0}, // the first one says nothing
		"growing":                   {spec, rounds("me", 900, 50, 60, 70), Stop, "restore dominates", 75, 0},
		"first round is left out":   {spec, rounds("me", 100, 100, 60, 59), WarmAgain, "", 64, 0}, // 100 to 60 was won
		"maximum":                   {spec, rounds("me", 900, 800, 600, 400, 200, 100), Stop, "rounds.maximum (6) is reached", 105, 0},
		"maximum but it fits":       {spec, rounds("me", 900, 800, 600, 400, 200, 10), CutOver, "", 15, 0},
		"pause":                     {edit(func(s *Spec) { s.Rounds.Pause = Duration(1500 * time.Millisecond) }), rounds("me", 900), WaitFirst, "", 0, 2},
		"pause while converging":    {edit(func(s *Spec) { s.Rounds.Pause = Duration(time.Hour) }), rounds("me", 900, 100), WaitFirst, "still getting shorter", 105, 3600},
		"no pause before cut-over":  {edit(func(s *Spec) { s.Rounds.Pause = Duration(time.Hour) }), rounds("me", 900, 1), CutOver, "", 6, 0},
		"older rounds predict":      {spec, join(rounds("old", 900, 30), rounds("me", 10)), CutOver, "", 15, 0},
		"older are not my maximum":  {spec, join(rounds("old", 900, 800, 700, 600, 500, 400), rounds("me", 300)), WarmAgain, "still getting shorter", 305, 0},
		"final rounds do not count": {spec, join(rounds("old", 900), final, rounds("me", 2)), CutOver, "", 7, 0},
		"a final round alone":       {spec, join(final, rounds("me", 2)), WarmAgain, "1 warm rounds so far", 0, 0},
		"warm, none":                {edit(func(s *Spec) { s.Mode = Warm }), nil, WarmAgain, "0 of 2", 0, 0},
		"warm, one":                 {edit(func(s *Spec) { s.Mode = Warm }), rounds("me", 9), WarmAgain, "1 of 2", 0, 0},
		"warm, done":                {edit(func(s *Spec) { s.Mode = Warm }), rounds("me", 9, 9), Done, "2 warm rounds made", 0, 0},
		"warm, only older ones":     {edit(func(s *Spec) { s.Mode = Warm }), rounds("old", 9, 9, 9), WarmAgain, "0 of 2", 0, 0},
		"warm with a pause":         {edit(func(s *Spec) { s.Mode = Warm; s.Rounds.Pause = Duration(time.Minute) }), rounds("me", 9), WaitFirst, "", 0, 60},
	} {
		t.Run(name, func(t *testing.T) {
			got := Decide(c.spec, "me", 2, History{Rounds: c.rounds})
			if got.Action != c.want || got.WaitSeconds != c.wait || !strings.Contains(got.Reason, c.reason) || got.Reason == "" {
				t.Errorf("got %+v, want %s, wait %d, reason %q", got, c.want, c.wait, c.reason)
			}
			switch {
			case c.predicted == 0 && got.Prediction != nil:
				t.Errorf("predicted %+v out of nothing", *got.Prediction)
			case c.predicted != 0 && (got.Prediction == nil || math.Abs(got.Prediction.Seconds-c.predicted) > 1e-9):
				t.Errorf("prediction %+v, want %v s", got.Prediction, c.predicted)
			}
		})
	}
}

func TestWhatDominates(t *testing.T) {
	for want, r := range map[string]Round{
		"snapshot": {Snapshot: SnapshotPhase{Seconds: 9}, Copy: CopyPhase{Seconds: 5}, Restore: RestorePhase{Seconds: 5}},
		"copy":     {Snapshot: SnapshotPhase{Seconds: 5}, Copy: CopyPhase{Seconds: 9}, Restore: RestorePhase{Seconds: 5}},
		"restore":  {Snapshot: SnapshotPhase{Seconds: 5}, Copy: CopyPhase{Seconds: 5}, Restore: RestorePhase{Seconds: 9}},
		"overhead": {Snapshot: SnapshotPhase{Seconds: 1}, Copy: CopyPhase{Seconds: 1}, Restore: RestorePhase{Seconds: 1}},
	} {
		p, ok := Predict([]Round{{}, r}, nil, true, false)
		if !ok || p.Dominates != want || p.Seconds != p.Snapshot+p.Copy+p.Restore+p.Overhead {
			t.Errorf("%s: %+v, %t", want, p, ok)
		}
	}
	if _, ok := Predict(rounds("me", 1), nil, true, false); ok {
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
