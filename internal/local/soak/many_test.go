package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
)

// router passes what one engine calls and tells on to the worlds that share it, by the names of their executions.
type router map[string]*world

func (r router) of(execution string) *world {
	name := execution[strings.LastIndex(execution, ":")+1:]
	label, _, _ := strings.Cut(name, "run-")
	return r[label]
}

// Invoke implements asl.Invoker.
func (r router) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	var in struct{ Execution string }
	if err := json.Unmarshal(payload, &in); err != nil || r.of(in.Execution) == nil {
		return nil, fmt.Errorf("%s for no migration: %s", function, payload)
	}
	return r.of(in.Execution).Invoke(ctx, function, payload)
}

// Fifty migrations at once on one engine, each of its own domains, with clients that write all the time and a fault here and there. None may
// notice the others.
func TestFiftyMigrationsAtOnce(t *testing.T) {
	defer Quiet()()
	const migrations = 50
	synctest.Test(t, func(t *testing.T) {
		worlds := router{}
		engine, err := newEngine(worlds, 1)
		if err != nil {
			t.Fatal(err)
		}
		for i := range migrations {
			p := Generate(uint64(i+1), false)
			p.Ops = []Op{
				{Do: Load, Index: p.Indices[0].Name, Count: 300, Every: Duration(time.Second), Value: i},
				{Do: Start, Input: map[string]any{"lastMile": []string{"auto", "rounds", "replay"}[i%3]}},
			}
			if i%5 == 0 {
				p.Ops = append(p.Ops, Op{Do: Stop, State: "MoveLastDelta"})
			}
			w, err := newWorld(p)
			if err != nil {
				t.Fatal(err)
			}
			w.engine, w.label = engine, fmt.Sprintf("m%02d-", i)
			worlds[w.label] = w
		}
		engine.Observe(asl.Observer{
			StateEntered: func(s asl.StateEntered) {
				if w := worlds.of(s.Execution.ARN); w != nil {
					w.entered(s)
				}
			},
			StatusChanged: func(c asl.StatusChange) {
				if w := worlds.of(c.Execution.ARN); w != nil {
					w.changed(c)
				}
			},
		})
		began := time.Now()
		var all sync.WaitGroup
		var mu sync.Mutex
		total := newCounts()
		for label, w := range worlds {
			all.Go(func() {
				out := w.play()
				mu.Lock()
				defer mu.Unlock()
				total.add(out.Counts)
				for _, problem := range out.Problems {
					t.Errorf("%s %s", label, problem)
				}
			})
		}
		all.Wait()
		if total.HandOvers != migrations || total.Thaws+total.RuleThaws == 0 || total.Refusals == 0 {
			t.Errorf("%d hand-overs of %d, %d thaws, %d by the rule, %d refused writes", total.HandOvers, migrations, total.Thaws, total.RuleThaws, total.Refusals)
		}
		t.Logf("%d migrations side by side: %v of virtual time, %d invocations, %d requests, executions %v", migrations, time.Since(began), total.Invocations, total.Requests, total.Executions)
	})
}
