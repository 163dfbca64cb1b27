package replay

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
)

var seeds = flag.Int("replay.seeds", 40, "random histories to try")

// history is a random client of a source.
type history struct {
	*rand.Rand
	source *fake
	keys   []cluster.DocumentKey
	n      int
}

func (h *history) step() {
	h.n++
	key := func() cluster.DocumentKey { return h.keys[h.IntN(len(h.keys))] }
	switch x := h.IntN(100); {
	case x < 20:
		k := cluster.DocumentKey{ID: fmt.Sprintf("new-%d", h.n)}
		if h.IntN(2) == 0 {
			k.Routing = fmt.Sprintf("r%d", h.IntN(5))
		}
		h.keys = append(h.keys, k)
		h.source.put(k, fmt.Sprintf(`{"n":%d}`, h.n))
	case x < 60:
		h.source.put(key(), fmt.Sprintf(`{"n":%d, "text":%q}`, h.n, strings.Repeat("x", h.IntN(200))))
	case x < 85:
		h.source.remove(key())
	case x < 90:
		h.source.forget()
	case x < 95: // the same id under another routing is another document, perhaps in another shard
		k := key()
		k.Routing = fmt.Sprintf("r%d", h.IntN(5))
		h.keys = append(h.keys, k)
		h.source.put(k, fmt.Sprintf(`{"n":%d}`, h.n))
	default:
		k := key()
		h.source.remove(k)
		h.source.forget()
		h.source.put(k, fmt.Sprintf(`{"again":%d}`, h.n))
	}
}

// TestDestinationEqualsSource replays random histories, with writes between any two calls, slices that are killed, lost answers and
// throttling, and expects the very same documents after the frozen pass.
func TestDestinationEqualsSource(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { replayHistory(t, uint64(seed)) }) })
	}
}

func replayHistory(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 7))
	source := newFake("source", 1+random.IntN(3))
	h := &history{Rand: rand.New(rand.NewPCG(seed, 8)), source: source, keys: []cluster.DocumentKey{{ID: "first"}}}
	for range random.IntN(1500) {
		h.step()
	}
	states := base(t, source, "i")
	if random.IntN(3) == 0 {
		old := states[0]
		states[0] = NewState("i", "", nil, nil)
		for _, s := range old.Shards {
			states[0].Shards = append(states[0].Shards, ShardState{Base: s.Base, Position: s.Base})
		}
	}
	// Writes go on between the record and the snapshot, which may lack some of them below its highest number.
	for range random.IntN(50) {
		h.step()
	}
	copied := source.restore("copy")
	for k, s := range copied.shards {
		for id, d := range s.docs {
			if d.SeqNo > states[0].Shards[k].Base && random.IntN(2) == 0 {
				delete(s.docs, id)
			}
		}
		s.visible = maps.Clone(s.docs)
	}

	frozen, resting := false, false
	// Between any two calls a client may write; the hook is called from several goroutines.
	turn := make(chan struct{}, 1)
	source.before = func(string) error {
		turn <- struct{}{}
		defer func() { <-turn }()
		if frozen || resting {
			return nil
		}
		for range h.IntN(4) {
			h.step()
		}
		if h.IntN(40) == 0 {
			return fault.Newf(fault.Throttled, "read", "fake", "slow down")
		}
		return nil
	}
	pick := func(n int) int {
		turn <- struct{}{}
		defer func() { <-turn }()
		return random.IntN(n)
	}
	chance := func(n int) bool { return pick(n) == 0 }
	copied.refuse = func(cluster.Write) int {
		if chance(50) {
			return 429
		}
		return 0
	}
	copied.after = func() error {
		if chance(30) {
			return fault.Newf(fault.OutcomeUnknown, "bulk", "fake", "the answer was lost")
		}
		return nil
	}
	copied.limit = 6_000
	r := &Replayer{Source: source, Destination: copied, Concurrency: 1 + random.IntN(3), BulkBytes: 1_000 + random.IntN(10_000), PageBytes: 1_000 + random.IntN(3_000)}

	passes := 1 + random.IntN(5)
	for p := range passes {
		frozen = p == passes-1
		// The clients may do nothing for some passes, or no more than a few things between two of them.
		if was := resting; was && random.IntN(2) == 0 {
			for range random.IntN(3) {
				h.step()
			}
		}
		resting = random.IntN(2) == 0
		states = journaled(t, states)
		pass, err := r.Plan(t.Context(), states, PlanOptions{Frozen: frozen, SliceOperations: int64(1 + random.IntN(400)), MaxSlices: 1 + random.IntN(20)})
		if err != nil {
			t.Fatal(err)
		}
		if len(pass.Drops) > 0 {
			t.Fatalf("dropped: %+v", pass.Drops)
		}
		// Deletions are looked for where the plan says, in parts side by side, each with what it needs of the journal. Some are killed,
		// and report nothing.
		reconcile := func(states []State) (deleted []DeleteResult) {
			var parts [][]ShardRef
			for _, ref := range pass.Moved {
				if len(parts) == 0 || chance(3) {
					parts = append(parts, nil)
				}
				parts[len(parts)-1] = append(parts[len(parts)-1], ref)
			}
			var mu sync.Mutex
			var side sync.WaitGroup
			for _, shards := range parts {
				side.Go(func() {
					for {
						d, err := r.ReconcileDeletes(t.Context(), journaled(t, Only(states, shards)), shards, time.Now().Add(time.Minute))
						if err != nil && !fault.Retryable(err) {
							t.Error(err)
							return
						}
						if d.Missing > 0 {
							t.Errorf("pass %d: %d documents are said to be missing: %+v", p, d.Missing, d)
						}
						if chance(6) {
							continue
						}
						mu.Lock()
						deleted = append(deleted, d)
						mu.Unlock()
						if shards = d.Rest; d.Done {
							return
						}
					}
				})
			}
			side.Wait()
			return deleted
		}
		var results []SliceResult
		todo := slices.Clone(pass.Slices)
		for _, slice := range pass.Slices {
			if chance(4) {
				todo = append(todo, slice) // a state that is retried after its answer was lost on the way
			}
		}
		for _, slice := range todo {
			for {
				ctx, cancel := context.WithCancel(t.Context())
				if chance(3) {
					time.AfterFunc(time.Duration(pick(300))*time.Millisecond, cancel)
				}
				result, err := r.Slice(ctx, slice, time.Now().Add(time.Minute))
				killed := ctx.Err() != nil
				cancel()
				if killed && err != nil {
					if chance(2) {
						continue // a killed Lambda reports nothing
					}
				} else if err != nil && !fault.Retryable(err) {
					t.Fatal(err)
				}
				if len(result.Drops) > 0 {
					t.Fatalf("dropped: %+v", result.Drops)
				}
				results = append(results, result)
				if slice.Parts = result.Rest; result.Done {
					break
				}
			}
		}
		if states, err = r.Advance(t.Context(), pass, results); err != nil {
			t.Fatal(err)
		}
		for _, s := range states[0].Shards {
			checkBlocks(t, s)
		}
		if !frozen && chance(2) {
			continue // deletions may be left to a later pass
		}
		for _, d := range reconcile(states) {
			states = AccountDeletes(states, d)
		}
	}
	if a, b := source.live(), copied.live(); !maps.EqualFunc(a, b, func(x, y cluster.ShardDocument) bool { return reflect.DeepEqual(x, y) }) {
		for k, d := range a {
			if !reflect.DeepEqual(d, b[k]) {
				t.Errorf("%s: source %+v, destination %+v", k, d, b[k])
			}
		}
		for k, d := range b {
			if _, ok := a[k]; !ok {
				t.Errorf("%s: only at the destination: %+v", k, d)
			}
		}
	}
	evidence, err := verified(t, r, states, 0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if e := evidence[0]; !e.OK || e.SourceSum != e.DestinationSum || e.Shards != len(states[0].Shards) || e.Unmoved == 0 && e.Hashed != e.ReplayedSource {
		t.Errorf("evidence: %+v", e)
	}
	// What passes found before is as if it were found now.
	for i := range states[0].Shards {
		states[0].Shards[i].Verified = nil
	}
	again, err := verified(t, r, states, 0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := evidence[0], again[0]; !b.OK || b.Unmoved != 0 || a.SharedSource != b.SharedSource || a.SharedDestination != b.SharedDestination || a.SharedBuckets != b.SharedBuckets ||
		a.ReplayedSource != b.ReplayedSource || a.ReplayedDestination != b.ReplayedDestination {
		t.Errorf("evidence %+v, without what passes found %+v", a, b)
	}
}

// journaled is what the journal gives back of states.
func journaled(t *testing.T, states []State) (out []State) {
	t.Helper()
	b, err := json.Marshal(states)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// checkBlocks expects that blocks cover what was replayed, without gaps, on both sides.
func checkBlocks(t *testing.T, s ShardState) {
	t.Helper()
	from, dfrom := s.Base, s.Base
	for _, b := range s.Blocks {
		if b.From != from || b.DestinationFrom != dfrom || b.Upto < b.From || b.DestinationUpto < b.DestinationFrom {
			t.Fatalf("blocks of %+v have a gap", s)
		}
		from, dfrom = b.Upto, b.DestinationUpto
	}
	if len(s.Blocks) > 0 && (from != s.Position || dfrom != s.DestinationUpto) {
		t.Fatalf("blocks of %+v end early", s)
	}
}

func TestVerifyFinds(t *testing.T) {
	tests := map[string]struct {
		spoil  func(destination *fake)
		reason string
	}{
		"nothing":                    {func(*fake) {}, ""},
		"a lost old document":        {func(d *fake) { d.remove(cluster.DocumentKey{ID: "old-3"}) }, "sequence numbers"},
		"a foreign document":         {func(d *fake) { d.put(cluster.DocumentKey{ID: "foreign"}, `{}`) }, "above its base"},
		"a foreign update":           {func(d *fake) { d.put(cluster.DocumentKey{ID: "new-3"}, `{}`) }, "missing or different"},
		"a foreign update of an old": {func(d *fake) { d.put(cluster.DocumentKey{ID: "old-3"}, `{}`) }, "sequence numbers"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			source := newFake("s", 1)
			for i := range 50 {
				source.put(cluster.DocumentKey{ID: fmt.Sprintf("old-%d", i)}, `{"a": 1}`)
			}
			r, states := replayed(t, source, func() {
				for i := range 50 {
					source.put(cluster.DocumentKey{ID: fmt.Sprintf("new-%d", i)}, `{"a": 1}`)
				}
			})
			tc.spoil(r.Destination.(*fake))
			evidence, err := verified(t, r, states, 0, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if e := evidence[0]; e.OK != (tc.reason == "") || !strings.Contains(e.Reason, tc.reason) {
				t.Errorf("evidence: %+v, want %q", e, tc.reason)
			}
			if tc.reason == "" {
				return
			}
			// Whoever wrote, the numbers that the destination used up show it at the next pass.
			pass, err := r.Plan(t.Context(), states, PlanOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if states, err = r.Advance(t.Context(), pass, nil); err != nil || states[0].Shards[0].Unaccounted != 1 {
				t.Errorf("states %+v, %v: want 1 operation unaccounted for", states, err)
			}
		})
	}
}

// TestVerifyHashesTheLatest: so many as were asked for, of the latest changes, wherever these are.
func TestVerifyHashesTheLatest(t *testing.T) {
	source := newFake("s", 1)
	source.put(cluster.DocumentKey{ID: "old"}, `{}`)
	r, states := replayed(t, source, func() {
		for i := range 900 {
			source.put(cluster.DocumentKey{ID: fmt.Sprintf("n%d", i)}, `{}`)
		}
		for range 3000 { // all of them one document
			source.put(cluster.DocumentKey{ID: "busy"}, `{}`)
		}
		source.put(cluster.DocumentKey{ID: "last"}, `{}`)
	})
	copied := r.Destination.(*fake)
	states[0].Shards[0].Verified = nil
	for limit, hashed := range map[int64]int64{0: 902, 1: 1, 2: 2, 10: 10, 200: 200, 5000: 902} {
		calls := source.calls["documents"]
		e, err := verified(t, r, states, limit, time.Time{})
		if err != nil || !e[0].OK || e[0].Hashed != hashed || e[0].SourceSum != e[0].DestinationSum {
			t.Errorf("limit %d: %+v, %v, want %d hashed", limit, e, err, hashed)
		}
		if n := source.calls["documents"] - calls; n > 8 {
			t.Errorf("limit %d: %d pages", limit, n)
		}
	}
	d := copied.shards[0].docs["last"]
	d.Source = json.RawMessage(`{"spoilt":1}`)
	copied.shards[0].docs["last"] = d
	if e, err := verified(t, r, states, 1, time.Time{}); err != nil || e[0].OK || !slices.Equal(e[0].DifferentIDs, []string{"last"}) {
		t.Errorf("%+v, %v: want the latest change compared", e, err)
	}
}

// TestVerifyCut expects no evidence from a call that was killed.
func TestVerifyCut(t *testing.T) {
	source := newFake("s", 3)
	r, states := replayed(t, source, func() { source.put(cluster.DocumentKey{ID: "a"}, `{}`) })
	ctx, cancel := context.WithCancel(t.Context())
	source.before = func(string) error { cancel(); return nil }
	if evidence, err := r.Verify(ctx, states, 0, time.Time{}); err == nil {
		t.Errorf("%+v: want an error", evidence)
	}
}

// replayed brings a copy of source up to date with what change does.
func replayed(t *testing.T, source *fake, change func()) (*Replayer, []State) {
	t.Helper()
	states := base(t, source, "i")
	r := &Replayer{Source: source, Destination: source.restore("d")}
	change()
	pass, err := r.Plan(t.Context(), states, PlanOptions{Frozen: true})
	if err != nil {
		t.Fatal(err)
	}
	var results []SliceResult
	for _, s := range pass.Slices {
		result, err := r.Slice(t.Context(), s, time.Time{})
		if err != nil || !result.Done {
			t.Fatalf("%+v, %v", result, err)
		}
		results = append(results, result)
	}
	if states, err = r.Advance(t.Context(), pass, results); err != nil {
		t.Fatal(err)
	}
	d, err := r.ReconcileDeletes(t.Context(), states, Shards(states), time.Time{})
	if err != nil || !d.Done {
		t.Fatalf("%+v, %v", d, err)
	}
	return r, AccountDeletes(states, d)
}

// TestDeletionsReadFewDocuments holds the cost of finding deletions to the number of deletions, not to the index's size.
func TestDeletionsReadFewDocuments(t *testing.T) {
	source := newFake("s", 1)
	for i := range 60_000 {
		source.put(cluster.DocumentKey{ID: fmt.Sprintf("d-%d", i)}, `{}`)
	}
	states := base(t, source, "i")
	copied := source.restore("d")
	r := &Replayer{Source: source, Destination: copied}
	for i := range 40 {
		source.remove(cluster.DocumentKey{ID: fmt.Sprintf("d-%d", i*1499)})
	}
	d, err := r.ReconcileDeletes(t.Context(), states, Shards(states), time.Time{})
	if err != nil || d.SharedDeleted != 40 || d.Listed != 40 || d.Missing != 0 {
		t.Errorf("%+v, %v: want 40 deleted and 40 listed", d, err)
	}
	if n := copied.calls["histogram"]; n > 4 {
		t.Errorf("%d histograms of the destination, want at most 4", n)
	}
	// And what the destination lost by itself is told, not hidden.
	copied.remove(cluster.DocumentKey{ID: "d-7"})
	if d, err = r.ReconcileDeletes(t.Context(), states, Shards(states), time.Time{}); err != nil || d.Missing != 1 || d.SharedDeleted != 0 {
		t.Errorf("%+v, %v: want 1 missing", d, err)
	}
}

// TestWarmDeletionsLeaveChangedDocuments alone: seen by counts alone, a document that was changed after the pass looks like a deleted one.
func TestWarmDeletionsLeaveChangedDocuments(t *testing.T) {
	source := newFake("s", 1)
	for i := range 100 {
		source.put(cluster.DocumentKey{ID: fmt.Sprintf("old-%d", i)}, `{}`)
	}
	r, states := replayed(t, source, func() {
		for i := range 100 {
			source.put(cluster.DocumentKey{ID: fmt.Sprintf("new-%d", i)}, `{}`)
		}
	})
	source.put(cluster.DocumentKey{ID: "old-3"}, `{"changed":1}`)
	source.put(cluster.DocumentKey{ID: "new-3"}, `{"changed":1}`)
	source.remove(cluster.DocumentKey{ID: "old-4"})
	source.remove(cluster.DocumentKey{ID: "new-4"})
	d, err := r.ReconcileDeletes(t.Context(), states, Shards(states), time.Time{})
	if err != nil || d.SharedDeleted != 1 || d.ReplayedDeleted != 1 || d.Candidates != 2 || d.Missing != 0 {
		t.Errorf("%+v, %v: want one deleted in each region", d, err)
	}
	if n := len(r.Destination.(*fake).live()); n != 198 {
		t.Errorf("%d documents are left, want 198", n)
	}
}

func TestPlanDrops(t *testing.T) {
	tests := map[string]struct {
		change func(source, destination *fake, s *State)
		reason string
	}{
		"nothing":            {func(_, _ *fake, _ *State) {}, ""},
		"re-created":         {func(s, _ *fake, _ *State) { s.uuid = "other" }, "created anew, shrunk"},
		"copy re-created":    {func(_, d *fake, s *State) { s.DestinationUUID = "was"; d.uuid = "is" }, "at the destination"},
		"restored":           {func(s, _ *fake, _ *State) { s.shards[1].history = "other" }, "another history"},
		"another primary":    {func(s, _ *fake, _ *State) { s.shards[0].term++ }, "primary term 2, was 1"},
		"went back":          {func(s, _ *fake, st *State) { st.Shards[0].Position += 10 }, "went back"},
		"copy without base":  {func(_, d *fake, _ *State) { d.shards[0].next = 0 }, "does not reach the base"},
		"other shard count":  {func(s, _ *fake, _ *State) { s.shards = append(s.shards, newFake("x", 1).shards...) }, "3 primary shards"},
		"no base":            {func(_, _ *fake, st *State) { st.Shards = nil }, "no checkpoints"},
		"unknown is no drop": {func(s, _ *fake, st *State) { s.shards[0].term++; st.Shards[0].Term = 0 }, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			source := newFake("s", 2)
			for i := range 20 {
				source.put(cluster.DocumentKey{ID: fmt.Sprint(i)}, `{}`)
			}
			states := base(t, source, "i")
			destination := source.restore("d")
			tc.change(source, destination, &states[0])
			pass, err := (&Replayer{Source: source, Destination: destination}).Plan(t.Context(), states, PlanOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if len(pass.Drops) > 0 {
				got = pass.Drops[0].Reason
			}
			if (got == "") != (tc.reason == "") || !strings.Contains(got, tc.reason) || len(pass.States)+len(pass.Drops) != 1 {
				t.Errorf("dropped for %q, want %q", got, tc.reason)
			}
		})
	}
}

func TestSliceRefusals(t *testing.T) {
	source := newFake("s", 1)
	states := base(t, source, "i")
	for i := range 30 {
		source.put(cluster.DocumentKey{ID: fmt.Sprintf("d%02d", i)}, `{"a":1}`)
	}
	slice := func(t *testing.T, change func(*fake)) (SliceResult, error) {
		destination := newFake("d", 1)
		change(destination)
		r := &Replayer{Source: source, Destination: destination}
		pass, err := r.Plan(t.Context(), states, PlanOptions{})
		if err != nil || len(pass.Slices) != 1 {
			t.Fatalf("%+v, %v", pass, err)
		}
		return r.Slice(t.Context(), pass.Slices[0], time.Now().Add(10*time.Minute))
	}
	t.Run("mapping", func(t *testing.T) {
		got, err := slice(t, func(d *fake) {
			d.refuse = func(w cluster.Write) int {
				if w.ID > "d04" {
					return 400
				}
				return 0
			}
		})
		if err != nil || !got.Done || len(got.Drops) != 1 || got.Drops[0].Count != 25 || len(got.Drops[0].IDs) != 20 || got.Documents != 5 {
			t.Errorf("%+v, %v: want the index dropped with 25 refusals, 20 ids", got, err)
		}
	})
	t.Run("too large", func(t *testing.T) {
		got, err := slice(t, func(d *fake) { d.limit = 100 })
		if err != nil || len(got.Drops) != 1 || !strings.Contains(got.Drops[0].Reason, "limit for a request") {
			t.Errorf("%+v, %v: want the index dropped", got, err)
		}
	})
	t.Run("block", func(t *testing.T) {
		got, err := slice(t, func(d *fake) { d.refuse = func(cluster.Write) int { return 403 } })
		if !fault.Is(err, fault.AccessDenied) || got.Done {
			t.Errorf("%+v, %v: want AccessDenied and something left", got, err)
		}
	})
	t.Run("always throttled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			started := time.Now()
			got, err := slice(t, func(d *fake) { d.refuse = func(cluster.Write) int { return 429 } })
			if !fault.Is(err, fault.Unavailable) || got.Done || len(got.Rest) != 1 || got.Throttled == 0 || time.Since(started) > 10*time.Minute {
				t.Errorf("%+v, %v after %s: want the stuck slice given up before the deadline", got, err, time.Since(started))
			}
		})
	})
	t.Run("cut by the deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			destination := newFake("d", 1)
			destination.after = func() error { time.Sleep(20 * time.Second); return nil }
			r := &Replayer{Source: source, Destination: destination, BulkBytes: 400, PageBytes: 1}
			pass, err := r.Plan(t.Context(), states, PlanOptions{SliceOperations: 3})
			if err != nil {
				t.Fatal(err)
			}
			calls, parts := 0, Slice{Parts: []Range{{"i", 0, -1, 29}}}
			for _, s := range pass.Slices[:2] {
				if n := len(s.Parts); n != 1 || s.Parts[0].Upto-s.Parts[0].From != 3 {
					t.Fatalf("slices %+v", pass.Slices)
				}
			}
			for len(parts.Parts) > 0 {
				deadline := time.Now().Add(time.Minute)
				got, err := r.Slice(t.Context(), parts, deadline)
				if err != nil || time.Now().After(deadline) {
					t.Fatalf("%+v, %v, past the deadline: %t", got, err, time.Now().After(deadline))
				}
				parts.Parts = got.Rest
				if calls++; calls > 60 {
					t.Fatal("no end")
				}
			}
			if n := len(destination.live()); n != 30 || calls < 2 {
				t.Errorf("%d documents after %d calls, want 30 after some", n, calls)
			}
		})
	})
}

func TestCut(t *testing.T) {
	var ranges []Range
	total := int64(0)
	for k := range 5000 {
		n := int64(k % 7 * 1000)
		if n > 0 {
			ranges = append(ranges, Range{"i", k, 10, 10 + n})
			total += n
		}
	}
	got := cut(ranges, total, PlanOptions{})
	if len(got) > 201 || len(got) < 150 {
		t.Errorf("%d slices of %d operations", len(got), total)
	}
	sum := int64(0)
	for _, s := range got {
		for _, p := range s.Parts {
			sum += p.Upto - p.From
		}
	}
	if sum != total {
		t.Errorf("slices hold %d operations of %d", sum, total)
	}
	if got := cut(ranges[:3], 6000, PlanOptions{}); len(got) != 1 || len(got[0].Parts) != 3 {
		t.Errorf("a small pass has slices %+v, want one", got)
	}
}

func TestArrange(t *testing.T) {
	tests := map[string]struct{ blocks, want []Block }{
		"nothing reported":     {nil, []Block{{0, 100, 50, 90}}},
		"one after another":    {[]Block{{0, 40, 50, 60}, {40, 100, 60, 80}}, []Block{{0, 40, 50, 60}, {40, 100, 60, 90}}},
		"a killed call before": {[]Block{{0, 40, 70, 75}, {40, 100, 75, 90}}, []Block{{0, 40, 50, 75}, {40, 100, 75, 90}}},
		"side by side":         {[]Block{{0, 40, 50, 70}, {40, 100, 55, 90}}, []Block{{0, 100, 50, 90}}},
		"in another order":     {[]Block{{0, 40, 70, 90}, {40, 100, 50, 70}}, []Block{{0, 100, 50, 90}}},
		"repeated":             {[]Block{{0, 40, 50, 60}, {0, 40, 60, 70}, {40, 100, 70, 90}}, []Block{{0, 40, 50, 70}, {40, 100, 70, 90}}},
		"nothing written":      {[]Block{{0, 40, 0, 0}, {40, 100, 50, 90}}, []Block{{0, 100, 50, 90}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := arrange(tc.blocks, 0, 100, 50, 90); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestEligible(t *testing.T) {
	const es710, es56, os219 = "7100299", "5061699", "136407827"
	tests := map[string]struct {
		index   cluster.Index
		mapping string
		base    bool
		reason  string
	}{
		"plain":              {cluster.Index{Name: "i", CreatedVersion: es710}, `{"properties":{}}`, true, ""},
		"opensearch":         {cluster.Index{Name: "i", CreatedVersion: os219}, `{"_source":{"enabled":true,"excludes":[]}}`, true, ""},
		"old":                {cluster.Index{Name: "i", CreatedVersion: es56}, `{}`, true, "before Elasticsearch 6.0"},
		"no base":            {cluster.Index{Name: "i", CreatedVersion: es710}, `{}`, false, "no checkpoints"},
		"source off":         {cluster.Index{Name: "i", CreatedVersion: es710}, `{"_source":{"enabled":false}}`, true, "disabled"},
		"excludes":           {cluster.Index{Name: "i", CreatedVersion: es710}, `{"_source":{"excludes":["a"]}}`, true, "filtered"},
		"includes":           {cluster.Index{Name: "i", CreatedVersion: es710}, `{"_source":{"includes":["a"]}}`, true, "filtered"},
		"typed":              {cluster.Index{Name: "i", CreatedVersion: es710}, `{"doc":{"_source":{"enabled":false}}}`, true, "disabled"},
		"a field _source":    {cluster.Index{Name: "i", CreatedVersion: es710}, `{"properties":{"_source":{"enabled":false}}}`, true, ""},
		"derived":            {cluster.Index{Name: "i", CreatedVersion: os219, Settings: map[string]string{"index.derived_source.enabled": "true"}}, `{}`, true, "derived"},
		"data stream":        {cluster.Index{Name: ".ds-logs-000001", CreatedVersion: os219}, `{}`, true, "data stream"},
		"unknown version":    {cluster.Index{Name: "i", CreatedVersion: "x"}, `{}`, true, "unknown"},
		"unreadable mapping": {cluster.Index{Name: "i", CreatedVersion: es710}, `[`, true, "cannot be read"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ok, reason := Eligible(tc.index, json.RawMessage(tc.mapping), tc.base)
			if ok != (tc.reason == "") || !strings.Contains(reason, tc.reason) {
				t.Errorf("got %t, %q, want %q", ok, reason, tc.reason)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	got := Settings(map[string]string{"index.blocks.write": "true", "index.final_pipeline": "p", "index.default_pipeline": "_none"},
		map[string]string{"index.gc_deletes": "5m"})
	want := SettingsChange{
		During: map[string]any{"index.blocks.write": nil, "index.gc_deletes": "0s", "index.final_pipeline": nil},
		After:  map[string]any{"index.blocks.write": "true", "index.gc_deletes": "5m", "index.final_pipeline": "p"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestPatiently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		_, err := patiently(t.Context(), budget{}, nil, func() (int, error) {
			n++
			return 0, fault.Newf(fault.AccessDenied, "x", "y", "no")
		})
		if n != 1 || !fault.Is(err, fault.AccessDenied) {
			t.Errorf("%d calls, %v: want one", n, err)
		}
		n = 0
		if _, err := patiently(t.Context(), newBudget(time.Now().Add(20*time.Second)), nil, func() (int, error) {
			n++
			return 0, fault.Newf(fault.Throttled, "x", "y", "slow")
		}); !errors.Is(err, errCut) || n < 3 {
			t.Errorf("%d calls, %v: want to be cut by the deadline", n, err)
		}
	})
}

// verified is Verify, after the refreshes that it asks for.
func verified(t *testing.T, r *Replayer, states []State, limit int64, deadline time.Time) ([]Evidence, error) {
	t.Helper()
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = s.Index
	}
	if _, err := r.refreshBoth(t.Context(), budget{}, names); err != nil {
		t.Fatal(err)
	}
	return r.Verify(t.Context(), states, limit, deadline)
}

// A copy that was opened a moment ago has no shards yet. It is waited for, and not given up.
func TestPlanWaitsForShardsToStart(t *testing.T) {
	for _, side := range []string{"source", "destination"} {
		source := newFake("s", 3)
		r, states := replayed(t, source, func() { source.put(cluster.DocumentKey{ID: "a"}, `{}`) })
		map[string]*fake{"source": source, "destination": r.Destination.(*fake)}[side].starting = true
		pass, err := r.Plan(t.Context(), states, PlanOptions{})
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), side) || len(pass.Drops) > 0 {
			t.Errorf("%s: %+v, %v", side, pass.Drops, err)
		}
	}
}
