package step

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

// An index that was deleted at the source between two executions is in no plan of the second one. Where everything that is left is on replay
// there is no round either that would follow: the freeze has its copy deleted, and the decision does not wait for its next round.

func TestFreezeDeletesWhatNoRoundFollowed(t *testing.T) {
	w := plannedWorld(t)
	w.copies("orders-r0001", true)
	w.destination.indices["gone"] = &cluster.Index{Name: "gone", Open: true, Primaries: 1, Settings: map[string]string{"index.blocks.write": "true"}}
	w.must(w.journal().SaveCopies(t.Context(), journal.Copies{Indices: []string{"a", "b", "gone"}}))
	w.replaying("a", "b")
	w.forget()
	if _, err := runFreeze(w); err != nil {
		t.Fatal(err)
	}
	w.wantBefore("put copies.json", "destination DeleteIndex gone")
	w.wantBefore("destination DeleteIndex gone", "source AddWriteBlock")
	if c, err := w.journal().Copies(t.Context()); err != nil || len(c.Indices) != 2 || len(c.Removed) != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestDecideForgetsWhatIsGone(t *testing.T) {
	w := plannedWorld(t)
	w.copies("orders-r0001", true)
	began := w.now.Add(-time.Hour)
	w.must(w.journal().SaveRound(t.Context(), migration.Round{Number: 1, Execution: others, StartedAt: began, FinishedAt: began.Add(time.Second)}))
	w.must(w.journal().SaveMeasures(t.Context(), 1, map[string]migration.Measure{"a": {Recovered: 1}, "b": {Recovered: 1}, "gone": {Recovered: 1}}))
	for n := range 2 {
		w.must(w.journal().SavePass(t.Context(), migration.Pass{Number: n + 1, Execution: mine, StartedAt: began, FinishedAt: w.now.Add(-300 * time.Millisecond), Seconds: 1}))
	}
	w.replaying("a", "b")
	w.must((&replayState{Pass: 2, States: []replay.State{{Index: "a", Shards: make([]replay.ShardState, 2)}, {Index: "b", Shards: make([]replay.ShardState, 1)}}}).save(t.Context(), w.journal()))
	out, err := decide(w).Run(t.Context(), DecideInput{Migration: "orders", Round: 2, Execution: mine})
	if err != nil || out.Action != migration.CutOverNow {
		text, _ := json.Marshal(out)
		t.Errorf("%s, %v: there is no other round to wait for", text, err)
	}
}
