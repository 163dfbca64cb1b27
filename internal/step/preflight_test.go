package step

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// with returns the input with fields replaced at the top.
func with(t *testing.T, fields string) json.RawMessage {
	t.Helper()
	var doc map[string]json.RawMessage
	for _, part := range []string{input, fields} {
		if err := json.Unmarshal([]byte(part), &doc); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPreflightWritesThePlan(t *testing.T) {
	w := newWorld(t)
	w.source.indices["a"].Settings = map[string]string{
		"index.number_of_replicas": "2", "index.auto_expand_replicas": "0-1", "index.refresh_interval": "30s", "index.blocks.write": "true",
	}
	w.source.add(".kibana_1", 1)
	w.source.add("closed", 1).Open = false
	out, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: mine})
	if err != nil {
		t.Fatal(err)
	}
	w.wantLog("put executions/"+strings.NewReplacer(":", "_", "/", "_").Replace(mine)+".json",
		"put fence.json", "put leases/destination.json", "put leases/source.json", "put plan.json")
	p, err := w.journal().Plan(t.Context(), mine)
	if err != nil {
		t.Fatal(err)
	}
	a := migration.PlannedIndex{
		Name: "a", UUID: "uuid-a", Shards: 2, Replicas: "2", AutoExpand: "0-1", RefreshInterval: "30s", WriteBlock: "true", Docs: 100, Bytes: 1000,
	}
	if !slices.Equal(p.Names(), []string{"a", "b"}) || p.Indices[0] != a {
		t.Errorf("indices %+v", p.Indices)
	}
	left := map[string]string{}
	for _, l := range p.LeftOut {
		left[l.Name] = l.Reason
	}
	if len(left) != 2 || !strings.Contains(left[".kibana_1"], "system index") || !strings.Contains(left["closed"], "closed at the source") {
		t.Errorf("left out %v", left)
	}
	if len(out.Warnings) != 0 || out.Indices != 2 || out.Docs != 200 || out.Bytes != 2000 || out.FirstRound != 1 || out.Mode != migration.Migrate ||
		out.Engines != (migration.Engines{Source: "elasticsearch-7.10.2", Destination: "opensearch-2.19.0"}) || out.Spec.Rounds.Maximum != 20 {
		t.Errorf("output %+v", out)
	}
	if o, found, err := w.store.Owner(t.Context(), mine); err != nil || !found || o.Migration != "orders" {
		t.Errorf("owner %+v, %t, %v", o, found, err)
	}
}

func TestPreflightGoesOnFromTheLastRound(t *testing.T) {
	w := plannedWorld(t)
	w.copies("orders-r0004", false)
	w.must(w.journal().SaveRound(t.Context(), migration.Round{Number: 4, Execution: mine}))
	w.frozen(mine, journal.Thawed)
	w.destination.disks = []cluster.NodeDisk{{FreeBytes: 10}} // the copies are there: no room is needed
	out, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: others})
	if err != nil || out.FirstRound != 5 {
		t.Fatalf("first round %d, %v", out.FirstRound, err)
	}
	if _, err := w.journal().Plan(t.Context(), mine); !fault.Is(err, fault.Superseded) {
		t.Errorf("the older execution may still act: %v", err)
	}
}

func TestPreflightReplicasByInput(t *testing.T) {
	w := newWorld(t)
	w.source.indices["a"].Settings["index.auto_expand_replicas"] = "0-all"
	if _, err := preflight(w).Run(t.Context(), PreflightInput{Input: with(t, `{"replicas":0}`), Execution: mine}); err != nil {
		t.Fatal(err)
	}
	p, err := w.journal().Plan(t.Context(), mine)
	if err != nil || p.Indices[0].Replicas != "0" || p.Indices[0].AutoExpand != "false" {
		t.Errorf("%+v, %v", p.Indices, err)
	}
}

func TestAssessWritesNothing(t *testing.T) {
	w := newWorld(t)
	out, err := preflight(w).Run(t.Context(), PreflightInput{Input: with(t, `{"mode":"assess"}`), Execution: mine})
	if err != nil || out.Indices != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantLog()
}

// Whatever is wrong, nothing is written, and all of it is in one answer.
func TestPreflightRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		input  string
		world  func(*world)
		fault  fault.Name
		says   []string
		silent []string // not in the text
	}{
		"bad input and unmatched pattern together": {
			`{"downtimeWindow":"0s","indices":{"include":["a","nothing-*"]}}`, nil, fault.InvalidInput,
			[]string{"2 problems, nothing has been touched", "$.downtimeWindow", `$.indices.include[1]: "nothing-*" matches no index`}, nil,
		},
		"bad input, source unreachable": {
			`{"downtimeWindow":"0s","indices":{"include":["nothing-*"]}}`, func(w *world) { w.answers["source Indices"] = []error{unknown("list")} }, fault.InvalidInput,
			[]string{"1 problem", "$.downtimeWindow"}, []string{"nothing-*"},
		},
		"unmatched pattern and occupied destination together": {
			`{"indices":{"include":["a","nothing-*","none"]}}`, func(w *world) { w.destination.add("a", 2) }, fault.InvalidInput,
			[]string{"3 problems", "$.indices.include[1]", "$.indices.include[2]", "index a exists at the destination"}, nil,
		},
		"occupied": {
			`{}`, func(w *world) { w.destination.add("b", 1) }, fault.DestinationOccupied,
			[]string{"index b exists at the destination and was not made by this migration"}, []string{"index a exists"},
		},
		"incompatible index": {
			`{}`, func(w *world) { w.source.add("old", 1).CreatedVersion = "6080099" }, fault.Incompatible,
			[]string{"index old: created by elasticsearch-6.8.0"}, []string{"index a"},
		},
		"incompatible engines": {
			`{}`, func(w *world) {
				w.destination.version = cluster.Version{Distribution: cluster.OpenSearch, Number: "3.7.0", Major: 3, Minor: 7}
			}, fault.Incompatible,
			[]string{"opensearch-3.7.0 cannot read a repository written by elasticsearch-7.10.2", "index a", "index b"}, nil,
		},
		"unknown version id": {
			`{}`, func(w *world) { w.source.indices["a"].CreatedVersion = "8518000" }, fault.Unclassified, []string{"index a", "8518000"}, nil,
		},
		"red": {`{}`, func(w *world) { w.source.indices["b"].Health = "red" }, fault.SnapshotFailed, []string{"take index b", "it is red"}, nil},
		"red but not chosen": {
			`{"indices":{"include":["none"]}}`, func(w *world) { w.source.indices["b"].Health = "red" }, fault.InvalidInput, []string{"1 problem"}, []string{"red"},
		},
		"disk": {
			`{}`, func(w *world) { w.destination.disks = []cluster.NodeDisk{{FreeBytes: 1000}, {FreeBytes: 999}} }, fault.InsufficientDisk,
			[]string{"need 2000 bytes, 1999 are free on 2 nodes"}, nil,
		},
		"red and no disk": {
			`{}`, func(w *world) {
				w.source.indices["b"].Health = "red"
				w.destination.disks = []cluster.NodeDisk{{FreeBytes: 1}}
			}, fault.SnapshotFailed, []string{"2 problems", "it is red", "find room"}, nil,
		},
		"one cluster by two names": {
			`{}`, func(w *world) { w.destination.version.ClusterUUID = "old" }, fault.InvalidInput, []string{"$.destination.endpoint: leads to the same cluster"}, nil,
		},
		"nothing to move": {
			`{"indices":{"include":["a"],"exclude":["a"]}}`, nil, fault.InvalidInput, []string{"$.indices: selects no index"}, nil,
		},
		"handed over": {
			`{}`, func(w *world) { w.frozen(others, journal.HandedOver) }, fault.DestinationOccupied, []string{others, "another migration name"}, nil,
		},
		"frozen by another": {
			`{}`, func(w *world) { w.frozen(others, journal.Frozen) }, fault.Busy, []string{others, "run the thaw function"}, nil,
		},
		"half handed over by another": {
			`{"mode":"assess"}`, func(w *world) { w.frozen(others, journal.HandingOver) }, fault.Busy, []string{others}, nil,
		},
		"no answer": {`{}`, func(w *world) { w.answers["destination Info"] = []error{unknown("ask for the version")} }, fault.OutcomeUnknown, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.world != nil {
				c.world(w)
			}
			before := maps.Clone(w.objects)
			_, err := preflight(w).Run(t.Context(), PreflightInput{Input: with(t, c.input), Execution: mine})
			wantFault(t, err, c.fault, c.says...)
			for _, s := range c.silent {
				if strings.Contains(err.Error(), s) {
					t.Errorf("%q speaks of %q", err, s)
				}
			}
			w.wantLog()
			if !maps.Equal(w.objects, before) {
				t.Errorf("the journal changed: %v", w.objects)
			}
		})
	}
}

func TestPreflightWarns(t *testing.T) {
	for says, change := range map[string]func(*world){
		"the destination is red": func(w *world) { w.destination.health = "red" },
		"does not say how much":  func(w *world) { w.destination.disks = nil },
		"little room":            func(w *world) { w.destination.disks = []cluster.NodeDisk{{FreeBytes: 2499}} },
	} {
		w := newWorld(t)
		change(w)
		out, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: mine})
		if err != nil || len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], says) {
			t.Errorf("%q: %q, %v", says, out.Warnings, err)
		}
	}
}

func TestPreflightKilled(t *testing.T) {
	killedEverywhere(t, newWorld, func(w *world) error {
		_, err := preflight(w).Run(w.t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: mine})
		return err
	}, func(w *world) {
		if _, err := w.journal().Plan(w.t.Context(), mine); err != nil {
			w.t.Error(err)
		}
		if _, found, _ := w.store.Owner(w.t.Context(), mine); !found {
			w.t.Error("nobody can find the migration of the execution")
		}
	})
}

// A later execution goes on with what an earlier one put on replay.
func TestPreflightSaysWhatIsOnReplay(t *testing.T) {
	for _, c := range []struct {
		replay             []string
		byRounds, byReplay bool
	}{{nil, true, false}, {[]string{"a"}, true, true}, {[]string{"a", "b"}, false, true}, {[]string{"old", "older"}, true, false}} {
		w := newWorld(t)
		w.replaying(c.replay...)
		out, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: mine})
		if err != nil || out.ByRounds != c.byRounds || out.ByReplay != c.byReplay {
			t.Errorf("%v on replay: by rounds %t, by replay %t, %v", c.replay, out.ByRounds, out.ByReplay, err)
		}
	}
}
