package migration

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Strategies say which indices are brought up to date by replay; all others are by rounds. An index is put on replay once: after
// the first replayed write its segments are its own and no warm restore can reuse them.
type Strategies struct {
	Replay []OnReplay `json:"replay"`
	// Dropped indices went back to rounds, with the reason, and stay there.
	Dropped []Dropped `json:"dropped"`
}

// Dropped is an index that went back to rounds.
type Dropped struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
	// Base is the base that it had on replay: only a round after that one can have brought it up to date again.
	Base int `json:"base"`
}

// OnReplay is an index on replay.
type OnReplay struct {
	Index  string `json:"index"`
	Base   int    `json:"base"` // the round whose checkpoints are the base
	Reason string `json:"reason"`
	// AfterPass is the last pass that was made without the index; the next one brings all that changed since the base.
	AfterPass int `json:"afterPass,omitempty"`
}

// Has reports whether the index is on replay.
func (s Strategies) Has(index string) bool {
	return slices.ContainsFunc(s.Replay, func(r OnReplay) bool { return r.Index == index })
}

func (s Strategies) dropped(index string) bool {
	return slices.ContainsFunc(s.Dropped, func(d Dropped) bool { return d.Name == index })
}

// Drop puts an index back on rounds.
func (s *Strategies) Drop(index, reason string) {
	base := 0
	for _, r := range s.Replay {
		if r.Index == index {
			base = r.Base
		}
	}
	s.Replay = slices.DeleteFunc(s.Replay, func(r OnReplay) bool { return r.Index == index })
	s.Dropped = append(s.Dropped, Dropped{Name: index, Reason: reason, Base: base})
}

// Split gives the plan's indices on rounds and those on replay.
func (s Strategies) Split(p Plan) (rounds, replay []PlannedIndex) {
	for _, x := range p.Indices {
		if s.Has(x.Name) {
			replay = append(replay, x)
		} else {
			rounds = append(rounds, x)
		}
	}
	return rounds, replay
}

// Within are the strategies of the plan's indices alone: an older plan may have had others.
func (s Strategies) Within(p Plan) Strategies {
	var in Strategies
	for _, r := range s.Replay {
		if _, planned := p.Index(r.Index); planned {
			in.Replay = append(in.Replay, r)
		}
	}
	for _, d := range s.Dropped {
		if _, planned := p.Index(d.Name); planned {
			in.Dropped = append(in.Dropped, d)
		}
	}
	return in
}

// Measure is what one round moved of one index, in bytes.
type Measure struct {
	Snapshot  int64 `json:"snapshot"`  // new in the snapshot
	Recovered int64 `json:"recovered"` // moved by the restore
	Reused    int64 `json:"reused"`
	// Predicted is what the repository's file lists said that the restore would move; nil when they could not be read.
	Predicted *int64 `json:"predicted,omitempty"`
	// Skipped indices had not changed since an earlier round: nothing of them was moved.
	Skipped bool `json:"skipped,omitempty"`
}

// Pass is what one pass of the replay measured.
type Pass struct {
	Number     int       `json:"number"`
	Final      bool      `json:"final"`
	Execution  string    `json:"execution"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
	Documents  int64     `json:"documents"` // written
	Bytes      int64     `json:"bytes"`
	Deleted    int64     `json:"deleted"`
	Seconds    float64   `json:"seconds"`
	// AsLast is how long a last pass with as much to do would have taken, in the freeze: without what warm passes do for those to come
	// and, where there is little to write, with the deletions beside it. Zero is not known.
	AsLast float64 `json:"asLastSeconds,omitempty"`
}

// last is what the pass says of a last one.
func (p Pass) last() float64 {
	if p.AsLast > 0 {
		return p.AsLast
	}
	return p.Seconds
}

// wasteful are the indices that rounds do not serve: those whose restore moved far more than their snapshot, because updated documents
// make whole segments move. base is the last warm round, whose measures h has.
func (h History) wasteful(base int) []OnReplay {
	chosen := h.choose(base, "", func(m Measure) bool { return !m.Skipped && m.Recovered > 2*m.Snapshot+slack })
	for i, c := range chosen {
		m := h.Measures[c.Index]
		chosen[i].Reason = fmt.Sprintf("round %d moved %d bytes to bring it %d new ones: updated documents make whole segments move", base, m.Recovered, m.Snapshot)
	}
	return chosen
}

// choose picks indices to go on replay, in order: none that is there already, and none that came back from there.
func (h History) choose(base int, reason string, pick func(Measure) bool) []OnReplay {
	var chosen []OnReplay
	for index, m := range h.Measures {
		if pick(m) && !h.Has(index) && !h.dropped(index) {
			chosen = append(chosen, OnReplay{Index: index, Base: base, Reason: reason})
		}
	}
	slices.SortFunc(chosen, func(a, b OnReplay) int { return cmp.Compare(a.Index, b.Index) })
	return chosen
}

// slack is what a restore moves of an index besides its new segments: some hundred bytes a shard, and merges.
const slack = 1 << 20
