package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
)

// brought is a pass as the steps bring it.
func brought(t *testing.T, r *Replayer, states []State, frozen bool) ([]State, Pass, DeleteResult) {
	t.Helper()
	pass, err := r.Plan(t.Context(), journaled(t, states), PlanOptions{Frozen: frozen})
	if err != nil || len(pass.Drops) > 0 {
		t.Fatalf("%+v, %v", pass, err)
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
	found, err := r.ReconcileDeletes(t.Context(), states, pass.Moved, time.Time{})
	if err != nil || !found.Done {
		t.Fatalf("%+v, %v", found, err)
	}
	return AccountDeletes(states, found), pass, found
}

// many has documents in many shards, and a copy that passes have brought up to date, with a deletion in every shard.
func many(t *testing.T, shards int) (source, copied *fake, r *Replayer, states []State) {
	t.Helper()
	source = newFake("s", shards)
	for i := range 40 * shards {
		source.put(cluster.DocumentKey{ID: fmt.Sprintf("d%d", i)}, `{}`)
	}
	states = base(t, source, "i")
	copied = source.restore("d")
	r = &Replayer{Source: source, Destination: copied}
	for i := range 40 * shards {
		switch i % 4 {
		case 0:
			source.remove(cluster.DocumentKey{ID: fmt.Sprintf("d%d", i)})
		case 1:
			source.put(cluster.DocumentKey{ID: fmt.Sprintf("d%d", i)}, `{"changed":1}`)
		}
	}
	states, pass, found := brought(t, r, states, false)
	if len(pass.Moved) != shards || found.SharedDeleted != int64(10*shards) || len(found.Settled) != shards || len(found.Equal) != 0 {
		t.Fatalf("%d shards moved, %+v", len(pass.Moved), found)
	}
	// The next pass finds them at rest, and compares them, once.
	for _, n := range []int{shards, 0} {
		if states, pass, found = brought(t, r, states, false); len(pass.Moved) != n || len(found.Settled) != n || len(found.Equal) != n || len(pass.Ranges) != 0 {
			t.Fatalf("%d shards moved, %+v", len(pass.Moved), found)
		}
	}
	return source, copied, r, states
}

// same fails unless the copy has the source's documents.
func same(t *testing.T, source, copied *fake) {
	t.Helper()
	if a, b := source.live(), copied.live(); !maps.EqualFunc(a, b, func(x, y cluster.ShardDocument) bool { return reflect.DeepEqual(x, y) }) {
		t.Errorf("%d documents at the source, %d at the copy, or other ones", len(a), len(b))
	}
}

// since is what calls a fake was asked for after before.
func since(f *fake, before map[string]int) map[string]int {
	out := map[string]int{}
	for op, n := range f.calls {
		if n > before[op] {
			out[op] = n - before[op]
		}
	}
	return out
}

// TestLastPassLooksAtMovedShards: every operation, a deletion too, takes the shard's next number, so that a shard whose number has not
// moved has nothing to bring, nothing to delete and nothing to compare.
func TestLastPassLooksAtMovedShards(t *testing.T) {
	const shards = 60
	source, copied, r, states := many(t, shards)
	key := cluster.DocumentKey{ID: "d2"}
	highest := func() (list []int64) {
		for _, s := range source.shards {
			list = append(list, s.next)
		}
		return list
	}
	before := highest()
	source.remove(key)
	moved := ShardRef{"i", source.shardOf(key)}
	before[moved.Shard]++
	if !slices.Equal(before, highest()) {
		t.Fatalf("a deletion must move its shard's number, and no other: %v, want %v", highest(), before)
	}
	asked, askedCopy := maps.Clone(source.calls), maps.Clone(copied.calls)
	states, pass, found := brought(t, r, states, true)
	if !slices.Equal(pass.Moved, []ShardRef{moved}) || len(pass.Ranges) != 1 || pass.Operations != 1 || found.SharedDeleted != 1 {
		t.Errorf("moved %v, ranges %v, %+v; want shard %d alone", pass.Moved, pass.Ranges, found, moved.Shard)
	}
	// The source after its numbers were read, and both before they are compared.
	if n, m := since(source, asked)["refresh"], since(copied, askedCopy)["refresh"]; n != 2 || m != 1 {
		t.Errorf("the source was refreshed %d times, the copy %d times", n, m)
	}
	same(t, source, copied)
	asked = maps.Clone(source.calls)
	evidence, err := verified(t, r, states, 0, time.Time{})
	if err != nil || !evidence[0].OK || evidence[0].Shards != shards || evidence[0].Unmoved != shards-1 {
		t.Errorf("%+v, %v", evidence, err)
	}
	if n := int64(len(source.live())); evidence[0].SharedSource+evidence[0].ReplayedSource != n || evidence[0].SharedDestination+evidence[0].ReplayedDestination != n {
		t.Errorf("%+v: want %d documents", evidence[0], n)
	}
	if got := since(source, asked); got["census"] != 1 {
		t.Errorf("%v: want one shard compared", got)
	}
	// With nothing changed there is nothing to do at all.
	source, copied, r, states = many(t, shards)
	asked, askedCopy = maps.Clone(source.calls), maps.Clone(copied.calls)
	states, pass, _ = brought(t, r, states, true)
	if len(pass.Moved)+len(pass.Ranges)+len(pass.Slices) != 0 {
		t.Errorf("%+v", pass)
	}
	if a, b := since(source, asked), since(copied, askedCopy); !maps.Equal(a, map[string]int{"histories": 1}) || !maps.Equal(b, map[string]int{"histories": 2}) {
		t.Errorf("asked the source for %v, the copy for %v", a, b)
	}
	if evidence, err := verified(t, r, states, 0, time.Time{}); err != nil || !evidence[0].OK || evidence[0].Unmoved != shards {
		t.Errorf("%+v, %v", evidence, err)
	}
}

// TestLateWriteMovesTheCopy: what a slice that was given up writes after all, when the pass and its deletions are over, moves nothing at
// the source. It moves the copy's number, and that is enough.
func TestLateWriteMovesTheCopy(t *testing.T) {
	source, copied, r, states := many(t, 8)
	gone := cluster.DocumentKey{ID: "d0"}
	copied.forget()
	copied.apply(cluster.Write{DocumentKey: gone, Version: 1, Source: []byte(`{}`)})
	evidence, err := verified(t, r, states, 0, time.Time{})
	if err != nil || evidence[0].OK || evidence[0].Unmoved != 7 {
		t.Errorf("%+v, %v: want the shard compared, and its document found", evidence, err)
	}
	states, pass, found := brought(t, r, states, true)
	if want := []ShardRef{{"i", source.shardOf(gone)}}; !slices.Equal(pass.Moved, want) || len(pass.Ranges) != 0 {
		t.Errorf("moved %v, want %v", pass.Moved, want)
	}
	// Nobody has replayed the document: that it is in no block is what Unaccounted and the verification are there for.
	if n := states[0].Shards[source.shardOf(gone)].Unaccounted; n != 1 || found.ReplayedDeleted != 0 {
		t.Errorf("%d operations unaccounted for, %+v", n, found)
	}
}

// TestUnprovenShardsAreLookedAtAgain: a mark is made of nothing but what was answered.
func TestUnprovenShardsAreLookedAtAgain(t *testing.T) {
	arrange := func(t *testing.T) (*fake, *fake, *Replayer, []State) {
		source, copied, r, states := many(t, 4)
		for i := range 16 {
			source.remove(cluster.DocumentKey{ID: fmt.Sprintf("d%d", 4*i+2)})
		}
		return source, copied, r, states
	}
	spoil := map[string]func(t *testing.T, copied *fake, r *Replayer, states []State) (context.Context, func(DeleteResult) DeleteResult){
		"the answer of a call was lost": func(t *testing.T, _ *fake, _ *Replayer, _ []State) (context.Context, func(DeleteResult) DeleteResult) {
			return t.Context(), func(d DeleteResult) DeleteResult { return DeleteResult{} }
		},
		"the answers of deletions were lost": func(t *testing.T, copied *fake, _ *Replayer, _ []State) (context.Context, func(DeleteResult) DeleteResult) {
			copied.after = func() error { return fault.Newf(fault.OutcomeUnknown, "bulk", "fake", "the answer was lost") }
			return t.Context(), func(d DeleteResult) DeleteResult { return d }
		},
		"deletions were in conflict": func(t *testing.T, copied *fake, _ *Replayer, _ []State) (context.Context, func(DeleteResult) DeleteResult) {
			copied.refuse = func(w cluster.Write) int {
				if w.Source == nil {
					return 409
				}
				return 0
			}
			return t.Context(), func(d DeleteResult) DeleteResult { return d }
		},
		"the process was killed": func(t *testing.T, copied *fake, _ *Replayer, _ []State) (context.Context, func(DeleteResult) DeleteResult) {
			ctx, cancel := context.WithCancel(t.Context())
			copied.after = func() error { cancel(); return nil }
			return ctx, func(d DeleteResult) DeleteResult { return d }
		},
	}
	for name, disturb := range spoil {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, copied, r, states := arrange(t)
				pass, err := r.Plan(t.Context(), states, PlanOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if states, err = r.Advance(t.Context(), pass, nil); err != nil {
					t.Fatal(err)
				}
				ctx, reported := disturb(t, copied, r, states)
				d, _ := r.ReconcileDeletes(ctx, states, pass.Moved, time.Now().Add(10*time.Minute))
				states = AccountDeletes(states, reported(d))
				copied.after, copied.refuse, copied.before = nil, nil, nil
				states, pass, _ = brought(t, r, states, true)
				if len(pass.Moved) != 4 {
					t.Errorf("after %+v only %v are looked at again", d, pass.Moved)
				}
				same(t, source, copied)
				if e, err := verified(t, r, states, 0, time.Time{}); err != nil || !e[0].OK {
					t.Errorf("%+v, %v", e, err)
				}
			})
		})
	}
}

// TestBusyShardsAreNotVerified: what is equal for a moment while clients write is no evidence, but what was written since moves the number.
func TestBusyShardsAreNotVerified(t *testing.T) {
	source, copied, r, states := many(t, 2)
	source.put(cluster.DocumentKey{ID: "new"}, `{}`) // after the plan of the next pass, say
	mark := states[0].Shards[source.shardOf(cluster.DocumentKey{ID: "new"})].Verified
	copied.put(cluster.DocumentKey{ID: "other"}, `{}`)
	if e, err := verified(t, r, states, 0, time.Time{}); err != nil || e[0].OK || mark == nil {
		t.Errorf("%+v, %v, mark %v", e, err, mark)
	}
	// An index that was created anew has nothing of what was found before.
	_, copied, r, states = many(t, 2)
	copied.uuid = "another"
	if e, err := verified(t, r, states, 0, time.Time{}); err != nil || e[0].Unmoved != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestCutDeletes(t *testing.T) {
	states := func(shards int, operations int64) []State {
		s := NewState("i", "", make([]int64, shards), nil)
		for k := range s.Shards {
			s.Shards[k].Position = operations
		}
		return []State{s}
	}
	for name, c := range map[string]struct {
		shards     int
		operations int64
		marked     int64 // operations that were reconciled before
		parts      int
	}{
		"none":                        {0, 0, 0, 0},
		"one":                         {1, 50, 0, 1},
		"few shards":                  {100, 500, 0, 1},
		"many shards":                 {1000, 500, 0, 8},
		"very many shards":            {60_000, 500, 0, 200},
		"few shards, many operations": {5, 1_000_000, 0, 5},
		"of which most are done":      {5, 1_000_000, 999_000, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := states(c.shards, c.operations)
			for k := range s[0].Shards {
				if c.marked > 0 {
					s[0].Shards[k].Reconciled = &Mark{Source: c.marked}
				}
			}
			parts := CutDeletes(s, Shards(s))
			if len(parts) != c.parts || !slices.Equal(slices.Concat(parts...), Shards(s)) {
				t.Errorf("%d parts, want %d of all shards in order", len(parts), c.parts)
			}
			for _, p := range parts {
				only := Only(s, p)
				if len(only) != 1 || len(only[0].Shards) != c.shards || !reflect.DeepEqual(only[0].Shards[p[0].Shard], s[0].Shards[p[0].Shard]) {
					t.Fatalf("of shard %d: %+v", p[0].Shard, only)
				}
			}
		})
	}
}

func TestLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLanes(8, 32)
		most, now := 0, 0
		work := func(n int) {
			most = 0
			if err := eachShard(t.Context(), l, make([]ShardRef, n), func(context.Context, int, ShardRef) error {
				l.mu.Lock()
				now++
				most = max(most, now)
				l.mu.Unlock()
				time.Sleep(time.Second)
				l.mu.Lock()
				now--
				l.mu.Unlock()
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
		if work(8); most != 8 {
			t.Errorf("%d at a time at first", most)
		}
		if work(200); most != 32 {
			t.Errorf("%d at a time when all goes well", most)
		}
		for range 5 { // the answers to what was under way at that moment
			l.slower()
		}
		if work(16); most != 16 {
			t.Errorf("%d at a time after a 429", most)
		}
		for range 9 {
			time.Sleep(2 * time.Second)
			l.slower()
		}
		if work(3); l.limit != 3 {
			t.Errorf("%d lanes, want a few again after having had one", l.limit)
		}
	})
	failed := errors.New("failed")
	calls := 0
	err := eachShard(t.Context(), newLanes(1, 1), make([]ShardRef, 9), func(context.Context, int, ShardRef) error {
		calls++
		return failed
	})
	if err != failed || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// TestThrottledDeletions: 429 makes it slower; when nothing goes on any more that is said, and the shards are left.
func TestThrottledDeletions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, copied, r, states := many(t, 20)
		source.remove(cluster.DocumentKey{ID: "d2"})
		n := 0
		turn := make(chan struct{}, 1)
		busy := func(op string) error {
			turn <- struct{}{}
			defer func() { <-turn }()
			if n++; op != "histories" && n%3 == 0 {
				return fault.Newf(fault.Throttled, op, "fake", "slow down")
			}
			return nil
		}
		source.before, copied.before = busy, busy
		d, err := r.ReconcileDeletes(t.Context(), states, Shards(states), time.Now().Add(10*time.Minute))
		if err != nil || !d.Done || d.SharedDeleted != 1 {
			t.Errorf("%+v, %v", d, err)
		}
		source.before = func(string) error { return fault.Newf(fault.Throttled, "count", "fake", "slow down") }
		copied.before = nil
		d, err = r.ReconcileDeletes(t.Context(), states, Shards(states), time.Now().Add(15*time.Minute))
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "not one shard") || len(d.Rest) != 20 || d.Done {
			t.Errorf("%+v, %v", d, err)
		}
	})
}
