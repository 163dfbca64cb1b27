package migration

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// lap is when the n-th round or pass of an execution ran: those of one number side by side.
func lap(n int) (began, ended time.Time) {
	began = time.Date(2026, 11, 22, n, 0, 0, 0, time.UTC)
	return began, began.Add(30 * time.Minute)
}

// passes makes warm passes of one execution from their times in seconds.
func passes(execution string, seconds ...float64) []Pass {
	var list []Pass
	for i, s := range seconds {
		p := Pass{Number: i + 1, Execution: execution, Seconds: s}
		p.StartedAt, p.FinishedAt = lap(p.Number)
		list = append(list, p)
	}
	return list
}

func final(list []Pass) []Pass {
	for i := range list {
		list[i].Final = true
	}
	return list
}

func numbered(list []Round) []Round {
	for i := range list {
		list[i].Number = i + 1
		list[i].StartedAt, list[i].FinishedAt = lap(i + 1)
	}
	return list
}

func on(indices ...string) (list []OnReplay) {
	for _, x := range indices {
		list = append(list, OnReplay{Index: x, Base: 1})
	}
	return list
}

// Of the two indices "logs" is appended to and "users" updated: its restore moved a hundred times what its snapshot had.
func TestDecideOnReplay(t *testing.T) {
	measured := map[string]Measure{"logs": {Snapshot: 50 << 20, Recovered: 50 << 20}, "users": {Snapshot: 5 << 20, Recovered: 500 << 20}}
	spec := Spec{Mode: Migrate, LastMile: LastMileAuto, DowntimeWindow: Duration(30 * time.Second), Rounds: RoundLimits{Minimum: 2, Maximum: 8}}
	edit := func(f func(*Spec)) Spec { s := spec; f(&s); return s }
	by := func(m LastMile) Spec { return edit(func(s *Spec) { s.LastMile = m }) }
	slow := numbered(rounds("me", 900, 100))
	fourRounds, fourPasses := numbered(rounds("me", 500, 400, 300, 200)), passes("me", 9, 8, 7, 6)
	for name, c := range map[string]struct {
		spec     Spec
		h        History
		want     Action
		switched []OnReplay // without reasons
		says     []string
		silent   string // what the reason does not say
	}{
		"rounds fit": {spec, History{Rounds: numbered(rounds("me", 900, 15)), Measures: measured}, CutOverNow, nil, []string{"predicted write downtime"}, "on replay"},
		"they do not, one index is wasteful": {spec, History{Rounds: slow, Measures: measured}, WarmAgain, []OnReplay{{Index: "users", Base: 2}},
			[]string{"restore 100.0", "1 index goes on replay"}, ""},
		"only once": {spec, History{Rounds: slow, Measures: measured, Passes: passes("me", 50, 40), Strategies: Strategies{Replay: on("users")}}, WarmAgain, nil, []string{"too few of them were measured"}, "on replay"},
		"the base is the last warm round": {spec, History{Rounds: append(numbered(rounds("me", 900, 100, 90)), Round{Number: 4, Final: true}), Measures: measured}, WarmAgain,
			[]OnReplay{{Index: "users", Base: 3}}, nil, ""},
		"the first round chooses nothing":  {spec, History{Rounds: slow[:1], Measures: measured}, WarmAgain, nil, []string{"1 warm rounds so far; a cut-over needs 2"}, "replay"},
		"nothing is wasteful":              {spec, History{Rounds: slow, Measures: map[string]Measure{"logs": measured["logs"]}}, WarmAgain, nil, []string{"too few of them were measured"}, "on replay"},
		"dropped stays on rounds":          {spec, History{Rounds: slow, Measures: measured, Strategies: Strategies{Dropped: []Dropped{{Name: "users"}}}}, WarmAgain, nil, nil, "on replay"},
		"the maximum comes before":         {edit(func(s *Spec) { s.Rounds.Maximum = 2 }), History{Rounds: slow, Measures: measured}, Stop, nil, []string{"rounds.maximum (2) is reached"}, "on replay"},
		"rounds, stalled":                  {by(LastMileRounds), History{Rounds: numbered(rounds("me", 900, 100, 99, 98)), Measures: measured}, Stop, nil, []string{`; lastMile "auto" would bring the changed indices up to date by replay`}, ""},
		"rounds, stalled, nothing changes": {by(LastMileRounds), History{Rounds: numbered(rounds("me", 900, 100, 99, 98)), Measures: map[string]Measure{"logs": {Reused: 9}}}, Stop, nil, nil, "lastMile"},
		"rounds, stalled, already dropped": {by(LastMileRounds), History{Rounds: numbered(rounds("me", 900, 100, 99, 98)), Measures: measured, Strategies: Strategies{Dropped: []Dropped{{Name: "logs"}, {Name: "users"}}}}, Stop, nil, nil, "lastMile"},
		"rounds do not switch":             {by(LastMileRounds), History{Rounds: slow, Measures: measured}, WarmAgain, nil, nil, "on replay"},
		"replay, nothing moved yet":        {by(LastMileReplay), History{}, WarmAgain, nil, nil, "on replay"},
		"replay switches after the first":  {by(LastMileReplay), History{Rounds: slow[:1], Measures: measured}, WarmAgain, []OnReplay{{Index: "logs", Base: 1}, {Index: "users", Base: 1}}, []string{"lastMile is replay; 2 indices go on replay"}, ""},
		"replay, what did not move stays":  {by(LastMileReplay), History{Rounds: slow[:1], Measures: map[string]Measure{"logs": {Reused: 9}, "users": {Recovered: 1}}}, WarmAgain, []OnReplay{{Index: "users", Base: 1}}, nil, ""},
		"replay, later ones follow": {by(LastMileReplay), History{Rounds: slow, Measures: measured, Passes: passes("me", 9), Strategies: Strategies{Replay: on("logs")}}, WarmAgain,
			[]OnReplay{{Index: "users", Base: 2, AfterPass: 1}}, nil, ""},
		"switch with a pause": {edit(func(s *Spec) { s.Rounds.Pause = Duration(time.Minute) }), History{Rounds: slow, Measures: measured}, WaitFirst, []OnReplay{{Index: "users", Base: 2}}, nil, ""},

		"no pass yet":                    {spec, History{Rounds: slow, Strategies: Strategies{Replay: on("users")}}, WarmAgain, nil, []string{"two passes of the replay, of which 0 are made"}, "predicted"},
		"one pass says nothing":          {spec, History{Rounds: numbered(rounds("me", 900, 2)), Passes: passes("me", 1), Strategies: Strategies{Replay: on("users")}}, WarmAgain, nil, []string{"of which 1 are made"}, "predicted"},
		"two passes fit":                 {spec, History{Rounds: numbered(rounds("me", 900, 2)), Passes: passes("me", 90, 17), Strategies: Strategies{Replay: on("users")}}, CutOverNow, nil, []string{"replay 17.0 beside them"}, ""},
		"the slower of the two counts":   {spec, History{Rounds: numbered(rounds("me", 900, 15)), Passes: passes("me", 90, 17), Strategies: Strategies{Replay: on("users")}}, CutOverNow, nil, []string{"restore 15.0, replay 17.0 beside them"}, ""},
		"two passes do not fit":          {spec, History{Rounds: numbered(rounds("me", 900, 2)), Passes: passes("me", 90, 35), Strategies: Strategies{Replay: on("users")}}, WarmAgain, nil, []string{"replay 35.0 beside them"}, ""},
		"rounds stalled, passes are not": {spec, History{Rounds: numbered(rounds("me", 900, 100, 99, 98)), Passes: passes("me", 900, 200, 100, 50), Strategies: Strategies{Replay: on("users")}}, WarmAgain, nil, []string{"still getting shorter"}, ""},
		"rounds are not, passes stalled": {spec, History{Rounds: numbered(rounds("me", 900, 300, 200, 100)), Passes: passes("me", 900, 50, 50, 50), Strategies: Strategies{Replay: on("users")}}, WarmAgain, nil, nil, ""},
		"rounds stalled, nothing is wasteful": {spec, History{Rounds: numbered(rounds("me", 900, 100, 99, 98)), Measures: map[string]Measure{"logs": measured["logs"]}}, WarmAgain, []OnReplay{{Index: "logs", Base: 4}},
			[]string{"rounds do not get shorter than"}, ""},
		"both stalled":                    {spec, History{Rounds: numbered(rounds("me", 900, 100, 99, 98)), Passes: passes("me", 900, 50, 50, 50), Strategies: Strategies{Replay: on("users")}}, Stop, nil, []string{"dominated by restore"}, ""},
		"too few passes have stalled":     {spec, History{Rounds: numbered(rounds("me", 900, 100, 99, 98)), Passes: passes("me", 50, 50, 50), Strategies: Strategies{Replay: on("users")}}, WarmAgain, nil, nil, ""},
		"the replay dominates":            {spec, History{Rounds: numbered(rounds("me", 900, 10, 10, 10)), Passes: passes("me", 900, 50, 50, 50), Strategies: Strategies{Replay: on("users")}}, Stop, nil, []string{"dominated by replay", "it would fit with a downtimeWindow of"}, ""},
		"old passes of dropped ones":      {spec, History{Rounds: numbered(rounds("me", 900, 100, 99, 98)), Passes: passes("me", 9, 3), Measures: measured, Strategies: Strategies{Dropped: []Dropped{{Name: "logs"}, {Name: "users"}}}}, Stop, nil, []string{"restore 98.0"}, ""},
		"all on replay, one round":        {spec, History{Rounds: slow[:1], Passes: passes("me", 9, 2), Strategies: Strategies{Replay: on("logs", "users")}}, CutOverNow, nil, []string{"restore 0.0, replay 2.0 beside them"}, ""},
		"all on replay, first pass":       {spec, History{Rounds: slow[:1], Passes: passes("me", 9), Strategies: Strategies{Replay: on("logs", "users")}}, WarmAgain, nil, []string{"of which 1 are made"}, "a cut-over needs 2"},
		"all on replay, stalled":          {spec, History{Rounds: slow[:1], Passes: passes("me", 900, 50, 50, 50), Strategies: Strategies{Replay: on("logs", "users")}}, Stop, nil, []string{"dominated by replay"}, ""},
		"all on replay, maximum":          {spec, History{Rounds: slow[:1], Passes: passes("me", 900, 800, 700, 600, 500, 400, 300, 200), Strategies: Strategies{Replay: on("logs", "users")}}, Stop, nil, []string{"rounds.maximum (8) is reached"}, ""},
		"others' passes are not mine":     {spec, History{Rounds: slow[:1], Passes: passes("old", 900, 800, 700, 600, 500, 400, 300, 200), Strategies: Strategies{Replay: on("logs", "users")}}, WarmAgain, nil, nil, ""},
		"a pass beside a round is no lap": {edit(func(s *Spec) { s.Rounds.Maximum = 5 }), History{Rounds: fourRounds, Passes: fourPasses, Strategies: Strategies{Replay: on("users")}}, WarmAgain, nil, nil, ""},
		"but a round is one":              {edit(func(s *Spec) { s.Rounds.Maximum = 4 }), History{Rounds: fourRounds, Passes: fourPasses, Strategies: Strategies{Replay: on("users")}}, Stop, nil, []string{"rounds.maximum (4)"}, ""},
		"going back has passes alone":     {edit(func(s *Spec) { s.Mode = GoBack }), History{Passes: passes("me", 9, 2), Strategies: Strategies{Replay: on("logs", "users")}}, CutOverNow, nil, nil, "warm round"},
		"going back needs two":            {edit(func(s *Spec) { s.Mode = GoBack }), History{Passes: passes("me", 9), Strategies: Strategies{Replay: on("logs", "users")}}, WarmAgain, nil, []string{"two passes of the replay, of which 1 are made"}, "warm round"},
		"mode warm, all on replay":        {edit(func(s *Spec) { s.Mode = Warm }), History{Rounds: numbered(rounds("old", 9)), Passes: passes("me", 9, 9), Strategies: Strategies{Replay: on("logs", "users")}}, Done, nil, nil, ""},
		"mode warm does not switch":       {edit(func(s *Spec) { s.Mode, s.LastMile = Warm, LastMileReplay }), History{Rounds: slow[:1], Measures: measured}, WarmAgain, nil, nil, "on replay"},

		// A dropped index was not in the last round, which says nothing of what it will take.
		"dropped, no round since": {spec, History{Rounds: numbered(rounds("me", 900, 1)), Measures: map[string]Measure{"logs": {}}, Strategies: Strategies{Dropped: []Dropped{{Name: "users"}}}}, WarmAgain, nil,
			[]string{"index users is back on rounds and no round has brought it up to date yet"}, ""},
		"dropped, a round since": {spec, History{Rounds: numbered(rounds("me", 900, 1)), Measures: measured, Strategies: Strategies{Dropped: []Dropped{{Name: "users"}}}}, CutOverNow, nil, nil, "back on rounds"},
		// The last round was the index's base: it was there before it was on replay.
		"dropped in a lap without a round": {spec, History{Rounds: numbered(rounds("me", 900, 1)), Measures: measured, Strategies: Strategies{Dropped: []Dropped{{Name: "users", Base: 2}}}}, WarmAgain, nil,
			[]string{"index users is back on rounds"}, ""},
		"dropped, a round after its base": {spec, History{Rounds: numbered(rounds("me", 900, 1, 1)), Measures: measured, Strategies: Strategies{Dropped: []Dropped{{Name: "users", Base: 2}}}}, CutOverNow, nil, nil, "back on rounds"},
		"final passes are no laps": {edit(func(s *Spec) { s.Rounds.Maximum = 3 }), History{Rounds: slow[:1], Passes: append(passes("me", 90, 60), final(passes("me", 1, 1))...), Strategies: Strategies{Replay: on("logs", "users")}}, WarmAgain, nil,
			[]string{"window 30s"}, "rounds.maximum"},
		"the source has a new index": {spec, History{Rounds: numbered(rounds("me", 900, 1)), Measures: measured, Follow: []string{"logs-2 (created)"}}, WarmAgain, nil, []string{"a round has to follow: logs-2 (created)"}, ""},
		"a new index was moved once": {spec, History{Rounds: numbered(rounds("me", 900, 1, 1)), Measures: map[string]Measure{"logs": measured["logs"], "new": {Snapshot: 1, Recovered: 1}},
			Earlier: map[int]map[string]Measure{1: {"logs": measured["logs"]}, 2: {"logs": measured["logs"]}}}, WarmAgain, nil, []string{"index new was moved once"}, ""},
		"rounds have nothing to do": {spec, History{Rounds: numbered(rounds("me", 900, 100)), Measures: map[string]Measure{"logs": {Skipped: true}}, Passes: passes("me", 9, 2), Strategies: Strategies{Replay: on("users")}}, CutOverNow, nil,
			[]string{"restore 0.0, replay 2.0 beside them"}, ""},
		"rounds have, since": {spec, History{Rounds: numbered(rounds("me", 900, 100)), Measures: map[string]Measure{"logs": {Skipped: true}}, Changed: []string{"logs"}, Passes: passes("me", 9, 2), Strategies: Strategies{Replay: on("users")}}, WarmAgain, nil,
			[]string{"restore 100.0"}, ""},

		"dropped, no round left": {edit(func(s *Spec) { s.Rounds.Maximum = 2 }), History{Rounds: numbered(rounds("me", 900, 1)), Measures: map[string]Measure{"logs": {}}, Strategies: Strategies{Dropped: []Dropped{{Name: "users"}}}}, Stop, nil, []string{"back on rounds"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := Decide(c.spec, "me", 2, c.h)
			bare := slices.Clone(got.Switch)
			for i := range bare {
				if bare[i].Reason == "" {
					t.Errorf("%s is switched without a reason", bare[i].Index)
				}
				bare[i].Reason = ""
			}
			if got.Action != c.want || !slices.Equal(bare, c.switched) {
				t.Errorf("%+v, want %s and a switch of %v", got, c.want, c.switched)
			}
			for _, s := range c.says {
				if !strings.Contains(got.Reason, s) {
					t.Errorf("reason %q does not say %q", got.Reason, s)
				}
			}
			if c.silent != "" && strings.Contains(got.Reason, c.silent) {
				t.Errorf("reason %q says %q", got.Reason, c.silent)
			}
		})
	}
}

func TestPredictWithReplay(t *testing.T) {
	fast, slow := rounds("me", 900, 10), rounds("me", 900, 40)
	for name, c := range map[string]struct {
		warm               []Round
		passes             []Pass
		onRounds, onReplay bool
		moving             float64 // 0: no prediction
		dominates          string
	}{
		"rounds alone":               {fast, passes("me", 90, 80), true, false, 12, "restore"},
		"replay alone":               {fast, passes("me", 90, 20), false, true, 20, "replay"},
		"replay without rounds":      {nil, passes("me", 90, 20), false, true, 20, "replay"},
		"the rounds take longer":     {slow, passes("me", 90, 20), true, true, 42, "restore"},
		"the replay takes longer":    {fast, passes("me", 90, 20), true, true, 20, "replay"},
		"both are short":             {rounds("me", 900, 1), passes("me", 9, 2), true, true, 3, "replay"},
		"one pass":                   {fast, passes("me", 1), true, true, 0, ""},
		"one round":                  {fast[:1], passes("me", 1, 1), true, true, 0, ""},
		"one round, nobody needs it": {fast[:1], passes("me", 1, 1), false, true, 1, "replay"},
	} {
		h := History{Rounds: c.warm, Passes: c.passes}
		if c.onReplay {
			h.Replay = on("a")
		}
		indices := len(h.Replay)
		if c.onRounds {
			indices++
		}
		p, ok := predicted(indices, h)
		want := c.moving + p.Freeze.Seconds + p.Verify.Seconds + p.Finish.Seconds + p.Transitions.Seconds
		if ok != (c.moving != 0) || ok && (math.Abs(p.Seconds-want) > 0.002 || p.Dominates != c.dominates) {
			t.Errorf("%s: %+v, %t; want %v", name, p, ok, want)
		}
	}
}

func TestWastefulIndices(t *testing.T) {
	for name, c := range map[string]struct {
		measure Measure
		want    bool
	}{
		"appended":                 {Measure{Snapshot: 100 << 20, Recovered: 100 << 20}, false},
		"twice as much":            {Measure{Snapshot: 100 << 20, Recovered: 200<<20 + slack}, false},
		"more than twice":          {Measure{Snapshot: 100 << 20, Recovered: 200<<20 + slack + 1}, true},
		"unchanged":                {Measure{Reused: 1 << 40}, false},
		"a little of nothing":      {Measure{Recovered: slack}, false},
		"much of nothing":          {Measure{Recovered: slack + 1}, true},
		"one percent updated":      {Measure{Snapshot: 3 << 20, Recovered: 283 << 20}, true},
		"new bytes do not move it": {Measure{Snapshot: 283 << 20, Recovered: 0}, false},
	} {
		got := History{Measures: map[string]Measure{"x": c.measure}}.wasteful(3)
		if (len(got) == 1) != c.want || c.want && got[0].Base != 3 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestStrategies(t *testing.T) {
	p := Plan{Indices: []PlannedIndex{{Name: "a"}, {Name: "b"}, {Name: "c"}}}
	s := Strategies{Replay: append(on("gone"), OnReplay{Index: "b", Base: 7}), Dropped: []Dropped{{Name: "c", Reason: "early"}, {Name: "old"}}}
	names := func(list []PlannedIndex) string { return strings.Join(Plan{Indices: list}.Names(), ",") }
	rounds, replay := s.Split(p)
	if names(rounds) != "a,c" || names(replay) != "b" || !s.Has("b") || s.Has("c") || s.Has("a") {
		t.Errorf("rounds %v, replay %v", rounds, replay)
	}
	if got, want := s.Within(p), (Strategies{Replay: []OnReplay{{Index: "b", Base: 7}}, Dropped: []Dropped{{Name: "c", Reason: "early"}}}); !reflect.DeepEqual(got, want) {
		t.Errorf("within the plan %+v", got)
	}
	s.Drop("b", "why")
	rounds, replay = s.Split(p)
	if names(rounds) != "a,b,c" || len(replay) != 0 || !slices.Contains(s.Dropped, Dropped{Name: "b", Reason: "why", Base: 7}) || len(s.Dropped) != 3 {
		t.Errorf("after the drop: rounds %v, replay %v, %+v", rounds, replay, s)
	}
}

// Rounds do not fit for a reason of their own: only what a pass brings over in less time goes on replay.
func TestOnlyWhatReplayShortensGoesThere(t *testing.T) {
	began := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	// Four rounds, ten seconds apart: each costs a second, and 40 MB a second of what it moves.
	history := func(moved map[string]int64, rates map[string]float64) History {
		h := History{Earlier: map[int]map[string]Measure{}, Rates: rates, Now: began.Add(41 * time.Second)}
		for n := range 4 {
			r := Round{Number: n + 1, Execution: "me", StartedAt: began.Add(time.Duration(n) * 10 * time.Second)}
			measures := map[string]Measure{}
			for index, bytes := range moved {
				m := Measure{Snapshot: bytes, Recovered: bytes, Reused: 10_000e6}
				if index == "users" {
					m.Snapshot = 1000
				}
				if n == 0 {
					m = Measure{Snapshot: 10_000e6, Recovered: 10_000e6}
				}
				measures[index] = m
				r.Snapshot.Bytes += m.Snapshot
				r.Restore.RecoveredBytes += m.Recovered
				r.Restore.ReusedBytes += m.Reused
			}
			r.Copy.Bytes = r.Snapshot.Bytes
			r.Snapshot.Seconds, r.Copy.Seconds = 0.3+float64(r.Snapshot.Bytes)/40e6, 0.4+float64(r.Copy.Bytes)/100e6
			r.Restore.Seconds = 0.3 + float64(r.Restore.RecoveredBytes)/40e6
			r.FinishedAt = r.StartedAt.Add(9 * time.Second)
			h.Rounds = append(h.Rounds, r)
			if h.Measures != nil {
				h.Earlier[n] = h.Measures
			}
			h.Measures = measures
		}
		return h
	}
	for name, c := range map[string]struct {
		moved  map[string]int64
		rates  map[string]float64
		window time.Duration
		want   []string
	}{
		"both fit":                        {map[string]int64{"logs": 4e6, "users": 4e6}, map[string]float64{"logs": 50, "users": 5}, time.Minute, nil},
		"appended and updated, no window": {map[string]int64{"logs": 4e6, "users": 4e6}, map[string]float64{"logs": 50, "users": 5}, 900 * time.Millisecond, []string{"logs", "users"}},
		"appended alone, no window":       {map[string]int64{"logs": 4e6}, map[string]float64{"logs": 50}, 900 * time.Millisecond, []string{"logs"}},
		// It has more operations a second than a pass brings over: only rounds can serve it, and then the round is made anyway.
		"appended too fast":            {map[string]int64{"logs": 40e6, "users": 400e6}, map[string]float64{"logs": 9000, "users": 5}, 6 * time.Second, []string{"users"}},
		"nothing replay serves":        {map[string]int64{"logs": 400e6}, map[string]float64{"logs": 9000}, time.Second, nil},
		"operations that nobody knows": {map[string]int64{"logs": 4e6}, nil, 900 * time.Millisecond, []string{"logs"}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := Spec{Mode: Migrate, LastMile: LastMileAuto, DowntimeWindow: Duration(c.window), Rounds: RoundLimits{Minimum: 2, Maximum: 20}}
			got := Decide(spec, "me", len(c.moved), history(c.moved, c.rates))
			var on []string
			for _, x := range got.Switch {
				on = append(on, x.Index)
			}
			if !slices.Equal(on, c.want) {
				t.Errorf("on replay %v, want %v: %s", on, c.want, got.Reason)
			}
		})
	}
}
