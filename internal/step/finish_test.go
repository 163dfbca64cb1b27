package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
	"github.com/domainferry/domainferry/internal/s3copy"
)

// restoredWorld is frozen, with equal copies at the destination.
func restoredWorld(t *testing.T) *world {
	w := plannedWorld(t)
	w.copies("orders-r0003", true)
	for _, d := range []*domain{w.source, w.destination} {
		for _, x := range []string{"a", "b"} {
			d.mappings[x] = json.RawMessage(`{"properties":{"n":{"type":"long"}}}`)
			d.aliases[x] = map[string]json.RawMessage{"all": json.RawMessage(`{}`)}
			for i := range 60 {
				d.documents[x] = append(d.documents[x], cluster.Document{
					DocumentKey: cluster.DocumentKey{ID: fmt.Sprint(x, i), Routing: "r"}, Found: true, Version: 1, Source: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i)),
				})
			}
		}
	}
	w.source.shards = []cluster.Shard{
		{Index: "a", Shard: 0, Primary: true, State: "STARTED"}, {Index: "a", Shard: 1, Primary: true, State: "STARTED"}, {Index: "b", Primary: true, State: "STARTED"},
	}
	w.frozen(mine, journal.Frozen)
	return w
}

func runVerify(w *world) (VerifyOutput, error) {
	return verification(w).Run(w.t.Context(), VerifyInput{Migration: "orders", Round: 3, Execution: mine})
}

func TestVerify(t *testing.T) {
	w := restoredWorld(t)
	for range 2 {
		out, err := runVerify(w)
		if err != nil || out.Verdict != migration.Verified || out.Checks != 12 {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	w.wantLog("put verification.json", "put verification.json")
	if w.reads["source Refresh"] == 0 || w.reads["destination Refresh"] == 0 {
		t.Error("counts without a refresh miss the last writes")
	}
	var v migration.Verification
	if found, err := w.journal().Document(t.Context(), journal.VerificationFile, &v); err != nil || !found || v.Verdict != migration.Verified || len(v.Checks) != 12 {
		t.Errorf("kept %+v, %v", v, err)
	}
	sampled := 0
	for _, c := range v.Checks {
		if c.Name == "sampled-documents" && strings.HasPrefix(c.Evidence, "40 documents") {
			sampled++
		}
	}
	if sampled != 2 {
		t.Errorf("40 documents of each index were not sampled: %+v", v.Checks)
	}
}

func TestVerifyFails(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		says   []string
	}{
		"a document less":    {func(w *world) { w.destination.documents["a"] = w.destination.documents["a"][:59] }, []string{"documents of index a", "source 60, destination 59"}},
		"a write less":       {func(w *world) { w.destination.sequences["a"][1].MaxSeqNo-- }, []string{"sequence-numbers of index a", "[10 11]", "[10 10]"}},
		"another source":     {func(w *world) { w.destination.documents["b"][3].Source = json.RawMessage(`{"n":99}`) }, []string{"sampled-documents of index b", "b3/r"}},
		"another version":    {func(w *world) { w.destination.documents["b"][3].Version = 2 }, []string{"sampled-documents of index b", "b3/r"}},
		"a sample missing":   {func(w *world) { w.destination.documents["b"][3].ID = "elsewhere" }, []string{"b3/r"}},
		"not started":        {func(w *world) { w.destination.shards[1].State = "INITIALIZING" }, []string{"shards of index a", "not all primary shards"}},
		"index missing":      {func(w *world) { delete(w.destination.indices, "b") }, []string{"present of index b", "at the destination: false"}},
		"alias missing":      {func(w *world) { w.destination.aliases = nil }, []string{"aliases of index a", "aliases of index b"}},
		"mapping unreadable": {func(w *world) { w.destination.mappings = nil }, []string{"mapping of index a: unknown"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := restoredWorld(t)
			c.change(w)
			out, err := runVerify(w)
			wantFault(t, err, fault.VerificationFailed, c.says...)
			var v migration.Verification
			if _, err := w.journal().Document(t.Context(), journal.VerificationFile, &v); err != nil || v.Verdict != migration.Failed || out.Verdict != migration.Failed {
				t.Errorf("kept %+v, %v", v, err)
			}
		})
	}
	w := restoredWorld(t)
	w.destination.indices["a"].Settings["index.codec"] = "default"
	if out, err := runVerify(w); err != nil || out.Verdict != migration.VerifiedWithWarnings {
		t.Errorf("a warning: %+v, %v", out, err)
	}
	w.answers["destination SequenceNumbers"] = []error{unknown("count")}
	w.forget()
	if _, err := runVerify(w); !fault.Is(err, fault.OutcomeUnknown) {
		t.Errorf("504: %v", err)
	}
	w.wantLog() // what was not seen is no verdict
}

func runFinish(w *world) (FinishOutput, error) {
	return finish(w).Run(w.t.Context(), FinishInput{Migration: "orders", Round: 3, Execution: mine})
}

// finishable is a verified migration: b was blocked before, has two replicas and a refresh interval.
func finishable(t *testing.T) *world {
	w := restoredWorld(t)
	p, err := w.journal().Plan(t.Context(), mine)
	w.must(err)
	p.Indices[1].Replicas, p.Indices[1].RefreshInterval, p.Indices[1].AutoExpand = "2", "30s", "0-1"
	w.must(w.journal().SavePlan(t.Context(), p))
	f := w.freezeState()
	f.ProvenAt = w.now.Add(time.Second)
	w.must(w.journal().SaveFreeze(t.Context(), f))
	w.must(w.journal().SaveRound(t.Context(), migration.Round{Number: 3, Final: true, Execution: mine, FinishedAt: w.now.Add(3 * time.Second), Restore: migration.RestorePhase{Seconds: 1.5}}))
	w.must(w.journal().SaveDocument(t.Context(), journal.VerificationFile, migration.Verification{
		Verdict: migration.Verified, Checks: []migration.Check{{Name: "documents"}}, StartedAt: w.now.Add(4 * time.Second), Seconds: 0.5,
	}))
	w.forget()
	return w
}

func TestFinish(t *testing.T) {
	w := finishable(t)
	w.now = w.now.Add(7 * time.Second)
	out, err := runFinish(w)
	if err != nil || out.Verdict != migration.Verified || out.DowntimeSeconds != 7 || !out.WritableAt.Equal(w.now) || out.Rounds != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	w.wantLog(
		"put freeze.json handingOver",
		"destination UpdateSettings blocks.write=<nil> on a",
		"destination UpdateSettings blocks.write=true on b",
		"put freeze.json handedOver",
		"destination UpdateSettings auto_expand_replicas=0-1 number_of_replicas=2 refresh_interval=30s on b",
		"destination UpdateSettings auto_expand_replicas=<nil> number_of_replicas=1 refresh_interval=<nil> on a",
		"put freeze.json handedOver",
		"put cutovers/0001.json",
		"put report.json",
	)
	var r report.Report
	if found, err := w.journal().Document(t.Context(), journal.ReportFile, &r); err != nil || !found {
		t.Fatal(found, err)
	}
	if r.Verdict != migration.Verified || r.WriteDowntime.MeasuredSeconds == nil || *r.WriteDowntime.MeasuredSeconds != 7 || r.WriteDowntime.PredictedSeconds != nil ||
		r.WriteDowntime.SeenByClientSeconds != nil || len(r.Rounds) != 1 || len(r.Checks) != 1 || len(r.Indices) != 2 || r.Engines.Destination != "opensearch-2.19.0" ||
		!strings.Contains(r.OpenSource, "PUT https://source/a,b/_settings") {
		t.Errorf("report %+v", r)
	}
	// Again, later: the downtime stays what it was and no domain is touched.
	w.forget()
	w.now = w.now.Add(time.Hour)
	if out, err := runFinish(w); err != nil || out.DowntimeSeconds != 7 {
		t.Errorf("%+v, %v", out, err)
	}
	w.wantLog("put cutovers/0001.json", "put report.json")
	took, err := cutOvers(t.Context(), w.journal())
	if err != nil || len(took) != 1 || !took[0].HandedOver || *took[0].Freeze != 1 || *took[0].Restore != 1.5 || *took[0].Move != 3 || *took[0].Verify != 0.5 || *took[0].Finish != 2.5 || *took[0].Total != 7 {
		t.Errorf("the cut-over took %+v, %v", took, err)
	}
}

func TestFinishKilled(t *testing.T) {
	killedEverywhere(t, finishable, func(w *world) error { _, err := runFinish(w); return err }, func(w *world) {
		if w.freezeState().State != journal.HandedOver || w.destination.block("a") != "" || w.destination.block("b") != "true" || w.source.block("a") != "true" {
			w.t.Errorf("%+v, destination a %q, b %q, source a %q", w.freezeState(), w.destination.block("a"), w.destination.block("b"), w.source.block("a"))
		}
		if w.destination.indices["b"].Settings["index.number_of_replicas"] != "2" {
			w.t.Errorf("b has %v", w.destination.indices["b"].Settings)
		}
		if w.objects["migrations/orders/report.json"] == "" {
			w.t.Error("no report")
		}
		w.wantBefore("put freeze.json handingOver", "destination UpdateSettings blocks.write")
	})
}

// A Finish that died is taken back by Thaw as long as no write reached the destination, and never half.
func TestThawAfterAKilledFinish(t *testing.T) {
	quiet := finishable(t)
	quiet.changes = 0
	if _, err := runFinish(quiet); err != nil {
		t.Fatal(err)
	}
	for at := range quiet.changes {
		for _, after := range []bool{false, true} {
			w := finishable(t)
			w.changes, w.killAt, w.killAfter = 0, at, after
			if _, err := runFinish(w); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			w.killAt, w.dead = -1, false
			out, err := runThaw(w)
			if err != nil {
				t.Fatal(err)
			}
			source, destination := w.source.block("a") == "", w.destination.block("a") == ""
			if source == destination || out.State != w.freezeState().State || destination != (out.State == journal.HandedOver) {
				t.Errorf("killed at %d, after %t: source writable %t, destination writable %t, %s", at, after, source, destination, out.State)
			}
		}
	}
}

func TestFinishWithoutAFreeze(t *testing.T) {
	for name, change := range map[string]func(*world){
		"none":      func(w *world) { delete(w.objects, "migrations/orders/freeze.json") },
		"another's": func(w *world) { w.frozen(others, journal.Frozen) },
		"thawed":    func(w *world) { w.frozen(mine, journal.Thawed) },
	} {
		w := finishable(t)
		change(w)
		_, err := runFinish(w)
		if !fault.Is(err, fault.Superseded) {
			t.Errorf("%s: %v", name, err)
		}
		w.wantLog()
	}
	w := finishable(t)
	w.answers["destination UpdateSettings"] = []error{unknown("update settings")}
	if _, err := runFinish(w); !fault.Is(err, fault.OutcomeUnknown) || w.freezeState().State != journal.HandingOver {
		t.Errorf("504: %v, %+v", err, w.freezeState())
	}
}

// copier records what the copy states ask for.
type copier struct {
	plan     s3copy.Plan
	ranges   []s3copy.Range
	results  []s3copy.RangeResult
	want     s3copy.Want
	from, to s3copy.Location
	deadline time.Time
	publish  s3copy.PublishResult
	err      error
}

func (c *copier) Plan(_ context.Context, from, to s3copy.Location, want s3copy.Want, _ int) (s3copy.Plan, error) {
	c.from, c.to, c.want = from, to, want
	return c.plan, c.err
}

func (c *copier) CopyRange(_ context.Context, _, _ s3copy.Location, r s3copy.Range, deadline time.Time) (s3copy.RangeResult, error) {
	c.ranges, c.deadline = append(c.ranges, r), deadline
	if c.err != nil {
		return s3copy.RangeResult{}, c.err
	}
	result := c.results[0]
	c.results = c.results[1:]
	return result, nil
}

func (c *copier) Publish(_ context.Context, _, _ s3copy.Location, _ s3copy.Root, want s3copy.Want) (s3copy.PublishResult, error) {
	c.want = want
	return c.publish, c.err
}

// The copy's states pass JSON to each other as round.asl.json does: an item of ranges becomes "range", CopyRange's output is its
// next input until $states.input.done, and all outputs are PublishCopy's ranges.
func TestCopyStatesFitTogether(t *testing.T) {
	w := plannedWorld(t)
	c := &copier{
		plan:    s3copy.Plan{Root: s3copy.Root{Name: "index-3", Generation: 3}, Ranges: []s3copy.Range{{After: "", Through: "m"}, {After: "m", Through: ""}}},
		publish: s3copy.PublishResult{Published: true},
		results: []s3copy.RangeResult{
			{Copied: 2, CopiedBytes: 20, Skipped: 1, Cursor: "g"}, {Copied: 1, CopiedBytes: 10, Skipped: 4, Done: true}, {Copied: 5, CopiedBytes: 50, Done: true},
		},
	}
	encode := func(v any) string {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	decode := func(text string, into any) {
		t.Helper()
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(into); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	planned, err := PlanCopy{w.store, func(migration.Repository, migration.Repository) CopyPlanner { return c }, w}.Run(t.Context(), PlanCopyInput{RoundInput: round(3, false)})
	if err != nil {
		t.Fatal(err)
	}
	if c.from != (s3copy.Location{Bucket: "old-snapshots", Prefix: "base"}) || c.to != (s3copy.Location{Bucket: "new-snapshots"}) ||
		c.want != (s3copy.Want{SnapshotName: "orders-r0003", OwnPrefix: "orders-r"}) {
		t.Errorf("asked for %+v from %+v to %+v", c.want, c.from, c.to)
	}
	var plan struct {
		Root, Since json.RawMessage
		Ranges      []json.RawMessage
	}
	decode(encode(planned), &plan)
	step := Copy{w.store, func(migration.Repository, migration.Repository) RangeCopier { return c }, w}
	var copied []json.RawMessage
	for _, item := range plan.Ranges {
		state := encode(map[string]any{"migration": "orders", "round": 3, "final": false, "execution": mine, "range": item})
		for done := false; !done; {
			var in CopyInput
			decode(state, &in)
			out, err := step.Run(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			state = encode(out)
			var choice map[string]any
			decode(state, &choice)
			is := false
			if done, is = choice["done"].(bool); !is {
				t.Fatalf("no done in %s", state)
			}
		}
		copied = append(copied, json.RawMessage(state))
	}
	if !slices.Equal(c.ranges, []s3copy.Range{{Through: "m"}, {After: "g", Through: "m"}, {After: "m"}}) {
		t.Errorf("ranges %v", c.ranges)
	}
	w.now = w.now.Add(3 * time.Second)
	var in PublishCopyInput
	decode(encode(map[string]any{
		"migration": "orders", "round": 3, "final": false, "execution": mine, "root": plan.Root, "startedAt": plan.Since, "ranges": copied,
	}), &in)
	out, err := PublishCopy{w.store, func(migration.Repository, migration.Repository) CopyPublisher { return c }, noBlobs, w}.Run(t.Context(), in)
	want := PublishCopyOutput{Published: true, Copy: migration.CopyPhase{Objects: 8, Bytes: 80, Skipped: 5, Seconds: 3}}
	if err != nil || out != want || in.Root.Name != "index-3" {
		t.Errorf("%+v, %v, want %+v", out, err, want)
	}
	w.wantLog("put predictions/0003.json")
}

func TestCopyAnswers(t *testing.T) {
	w := plannedWorld(t)
	c := &copier{err: fault.Newf(fault.Throttled, "copy", "bucket", "slow down")}
	in := CopyInput{RoundInput: round(3, false), Range: s3copy.Range{After: "x"}}
	if _, err := (Copy{w.store, func(migration.Repository, migration.Repository) RangeCopier { return c }, w}).Run(t.Context(), in); !fault.Is(err, fault.Throttled) {
		t.Errorf("range: %v", err)
	}
	if _, err := (PlanCopy{w.store, func(migration.Repository, migration.Repository) CopyPlanner { return c }, w}).Run(t.Context(), PlanCopyInput{RoundInput: in.RoundInput}); !fault.Is(err, fault.Throttled) {
		t.Errorf("plan: %v", err)
	}
	publish := PublishCopy{w.store, func(migration.Repository, migration.Repository) CopyPublisher { return c }, noBlobs, w}
	if out, err := publish.Run(t.Context(), PublishCopyInput{RoundInput: in.RoundInput}); !fault.Is(err, fault.Throttled) || out.Published {
		t.Errorf("publish: %+v, %v", out, err)
	}
	c.err, c.publish = nil, s3copy.PublishResult{Reason: "2 objects are missing"}
	if out, err := publish.Run(t.Context(), PublishCopyInput{RoundInput: in.RoundInput}); err != nil || out.Published || out.Reason != "2 objects are missing" {
		t.Errorf("not published: %+v, %v", out, err)
	}
	// The copier is told to end before the invocation does.
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(time.Minute))
	defer cancel()
	end, _ := ctx.Deadline()
	c.results = []s3copy.RangeResult{{Done: true}}
	if _, err := (Copy{w.store, func(migration.Repository, migration.Repository) RangeCopier { return c }, w}).Run(ctx, in); err != nil || !c.deadline.Before(end) {
		t.Errorf("deadline %v, invocation ends %v, %v", c.deadline, end, err)
	}
}

// A copy that is planned again goes on since the first plan, and waits the longer the longer nothing could be published: not at
// all in the first minute, because a source that changed meanwhile is the rule then.
func TestCopyPlannedAgainGrows(t *testing.T) {
	w := plannedWorld(t)
	c := &copier{publish: s3copy.PublishResult{Reason: "2 objects are missing"}}
	planner := PlanCopy{w.store, func(migration.Repository, migration.Repository) CopyPlanner { return c }, w}
	publisher := PublishCopy{w.store, func(migration.Repository, migration.Repository) CopyPublisher { return c }, noBlobs, w}
	began := w.now
	in := PlanCopyInput{RoundInput: round(3, false)}
	for _, lap := range []struct {
		at   time.Duration
		wait int
	}{{time.Second, 0}, {time.Minute, 0}, {61 * time.Second, 6}, {10 * time.Minute, 60}, {time.Hour, 360}, {72 * time.Hour, 600}} {
		planned, err := planner.Run(t.Context(), in)
		if err != nil || !planned.Since.Equal(began) {
			t.Fatalf("planned since %s, %v, want %s", planned.Since, err, began)
		}
		in.Since = planned.Since // round.asl.json gives it back
		w.now = began.Add(lap.at)
		out, err := publisher.Run(t.Context(), PublishCopyInput{RoundInput: in.RoundInput, StartedAt: planned.Since})
		if err != nil || out.Published || out.WaitSeconds != lap.wait || out.Copy.Seconds != lap.at.Seconds() {
			t.Errorf("after %s: %+v, %v, want a wait of %d s", lap.at, out, err, lap.wait)
		}
	}
	c.publish = s3copy.PublishResult{Published: true}
	if out, err := publisher.Run(t.Context(), PublishCopyInput{RoundInput: in.RoundInput, StartedAt: in.Since}); err != nil || !out.Published || out.WaitSeconds != 0 {
		t.Errorf("published: %+v, %v", out, err)
	}
}
