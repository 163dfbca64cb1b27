package journal

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
)

// memory is one bucket with conditional writes and pages of two keys.
type memory struct {
	objects map[string]string
	err     error // answers everything
	puts    int
	// beforePut is another writer who comes first.
	beforePut func(key string)
}

func (m *memory) GetObject(_ context.Context, in *s3.GetObjectInput, _ ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	if m.err != nil {
		return nil, m.err
	}
	body, ok := m.objects[*in.Key]
	if !ok {
		return nil, &types.NoSuchKey{}
	}
	return &s3.GetObjectOutput{Body: io.NopCloser(strings.NewReader(body)), ETag: tagOf(body)}, nil
}

func tagOf(body string) *string { return aws.String(fmt.Sprintf("%x", md5.Sum([]byte(body)))) }

func (m *memory) PutObject(_ context.Context, in *s3.PutObjectInput, _ ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	m.puts++
	if m.err != nil {
		return nil, m.err
	}
	if m.beforePut != nil {
		m.beforePut(*in.Key)
	}
	before, exists := m.objects[*in.Key]
	switch {
	case exists && aws.ToString(in.IfNoneMatch) == "*", exists && in.IfMatch != nil && *in.IfMatch != *tagOf(before):
		return nil, &smithy.GenericAPIError{Code: "PreconditionFailed"}
	case !exists && in.IfMatch != nil:
		return nil, &smithy.GenericAPIError{Code: "NoSuchKey"}
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(in.Body); err != nil {
		return nil, err
	}
	m.objects[*in.Key] = b.String()
	return &s3.PutObjectOutput{}, nil
}

func (m *memory) ListObjectsV2(_ context.Context, in *s3.ListObjectsV2Input, _ ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
	if m.err != nil {
		return nil, m.err
	}
	out := &s3.ListObjectsV2Output{}
	for _, k := range slices.Sorted(maps.Keys(m.objects)) {
		if !strings.HasPrefix(k, *in.Prefix) || k <= aws.ToString(in.ContinuationToken) {
			continue
		}
		if len(out.Contents) == 2 {
			out.IsTruncated, out.NextContinuationToken = aws.Bool(true), out.Contents[1].Key
			break
		}
		out.Contents = append(out.Contents, types.Object{Key: aws.String(k)})
	}
	return out, nil
}

func newMemory() (*memory, *Store) {
	m := &memory{objects: map[string]string{}}
	return m, NewStore(m, "journal")
}

func wantFault(t *testing.T, err error, name fault.Name, parts ...string) {
	t.Helper()
	if !fault.Is(err, name) {
		t.Fatalf("error %v, want %s", err, name)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

var at = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func TestPlan(t *testing.T) {
	m, store := newMemory()
	j := store.Migration("orders")
	_, err := j.Plan(t.Context(), "arn:1")
	wantFault(t, err, fault.JournalMissing, `"orders"`, "journal/migrations/orders/plan.json")
	p := migration.Plan{
		Spec: migration.Spec{Migration: "orders", DowntimeWindow: migration.Duration(time.Minute)}, Execution: "arn:1", CreatedAt: at,
		Indices: []migration.PlannedIndex{{Name: "a", Shards: 2, Docs: 1 << 60}},
	}
	if err := j.SavePlan(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	for _, execution := range []string{"arn:1", ""} {
		if got, err := j.Plan(t.Context(), execution); err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("as %q: %+v, %v", execution, got, err)
		}
	}
	_, err = j.Plan(t.Context(), "arn:0")
	wantFault(t, err, fault.Superseded, "arn:0", "arn:1", "orders")
	if _, err := store.Migration("other").Plan(t.Context(), "arn:1"); !fault.Is(err, fault.JournalMissing) {
		t.Errorf("another migration's plan: %v", err)
	}
	m.objects["migrations/orders/plan.json"] = `{"spec":`
	_, err = j.Plan(t.Context(), "arn:1")
	wantFault(t, err, fault.Unclassified, "plan.json")
	if f, _ := fault.As(err); !strings.Contains(f.Advice(), "older version") {
		t.Errorf("advice %q", f.Advice())
	}
}

func TestCheckpointsKeepTheFirst(t *testing.T) {
	m, store := newMemory()
	j := store.Migration("orders")
	if _, found, err := j.Checkpoints(t.Context(), 3); found || err != nil {
		t.Fatalf("none yet: %t, %v", found, err)
	}
	first := Checkpoints{Round: 3, ReadAt: at, PerShard: map[string][]int64{"a": {5, -1}}}
	for _, c := range []Checkpoints{first, {Round: 3, ReadAt: at.Add(time.Hour), PerShard: map[string][]int64{"a": {9, 9}}}} {
		if _, err := j.MergeCheckpoints(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if got, found, err := j.Checkpoints(t.Context(), 3); err != nil || !found || !reflect.DeepEqual(got, first) {
		t.Errorf("got %+v, %t, %v; want the first", got, found, err)
	}
	if m.puts != 1 {
		t.Errorf("%d writes, want 1: there was nothing to add", m.puts)
	}
	// An index that joined the plan since gets its own, and the first one's stay.
	if _, err := j.MergeCheckpoints(t.Context(), Checkpoints{Round: 3, PerShard: map[string][]int64{"a": {9, 9}, "b": {4}}}); err != nil {
		t.Fatal(err)
	}
	if got, _, err := j.Checkpoints(t.Context(), 3); err != nil || !reflect.DeepEqual(got.PerShard, map[string][]int64{"a": {5, -1}, "b": {4}}) {
		t.Errorf("got %+v, %v; want the first and the added index", got.PerShard, err)
	}
	// Another writer under way may still fail: that is no success.
	m.err = &smithy.GenericAPIError{Code: "ConditionalRequestConflict"}
	if _, err := j.MergeCheckpoints(t.Context(), Checkpoints{Round: 4}); !fault.Retryable(err) {
		t.Errorf("a conflict: %v, want a retryable fault", err)
	}
}

func TestRoundsInOrder(t *testing.T) {
	_, store := newMemory()
	j := store.Migration("orders")
	if got, err := j.Rounds(t.Context()); err != nil || len(got) != 0 {
		t.Fatalf("none yet: %v, %v", got, err)
	}
	for _, n := range []int{2, 10_000, 1, 1000, 9999, 10_001, 3} {
		if err := j.SaveRound(t.Context(), migration.Round{Number: n, Execution: "first"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.SaveRound(t.Context(), migration.Round{Number: 3, Execution: "again"}); err != nil {
		t.Fatal(err)
	}
	if err := store.Migration("orders2").SaveRound(t.Context(), migration.Round{Number: 4}); err != nil {
		t.Fatal(err)
	}
	got, err := j.Rounds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, r := range got {
		numbers = append(numbers, r.Number)
	}
	if !slices.Equal(numbers, []int{1, 2, 3, 1000, 9999, 10_000, 10_001}) || got[2].Execution != "again" {
		t.Errorf("rounds %v, third %+v", numbers, got[2])
	}
}

func TestOwner(t *testing.T) {
	_, store := newMemory()
	const execution = "arn:aws:states:eu-west-1:111122223333:execution:migration:orders-1"
	if _, found, err := store.Owner(t.Context(), execution); found || err != nil {
		t.Fatalf("unknown execution: %t, %v", found, err)
	}
	o := Owner{Migration: "orders", Execution: execution}
	for range 2 {
		if err := store.RecordOwner(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	if got, found, err := store.Owner(t.Context(), execution); err != nil || !found || got != o {
		t.Errorf("%+v, %t, %v", got, found, err)
	}
}

func TestFreezeCopiesAndDocuments(t *testing.T) {
	m, store := newMemory()
	j := store.Migration("orders")
	if _, found, err := j.Freeze(t.Context()); found || err != nil {
		t.Errorf("no freeze: %t, %v", found, err)
	}
	if c, err := j.Copies(t.Context()); err != nil || len(c.Indices) != 0 {
		t.Errorf("no copies: %v, %v", c, err)
	}
	predicted := 2.5
	f := Freeze{Execution: "arn:1", State: Frozen, Before: map[string]string{"a": "", "b": "true"}, StartedAt: at, Prediction: &predicted,
		Sealed: map[string][]int64{"a": {3, -1}, "b": {0}}}
	if err := j.SaveFreeze(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if got, found, err := j.Freeze(t.Context()); err != nil || !found || !reflect.DeepEqual(got, f) {
		t.Errorf("%+v, %t, %v", got, found, err)
	}
	if body := m.objects["migrations/orders/freeze.json"]; strings.Contains(body, "provenAt") || strings.Contains(body, "endedAt") {
		t.Errorf("times that nobody measured are written: %s", body)
	}
	if err := j.SaveCopies(t.Context(), Copies{Indices: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	if c, err := j.Copies(t.Context()); err != nil || !slices.Equal(c.Indices, []string{"a"}) {
		t.Errorf("%v, %v", c, err)
	}
	var d migration.Decision
	if found, err := j.Document(t.Context(), DecisionFile, &d); found || err != nil {
		t.Errorf("no decision: %t, %v", found, err)
	}
	if err := j.SaveDocument(t.Context(), DecisionFile, migration.Decision{Action: migration.CutOverNow}); err != nil {
		t.Fatal(err)
	}
	if found, err := j.Document(t.Context(), DecisionFile, &d); err != nil || !found || d.Action != migration.CutOverNow {
		t.Errorf("%+v, %t, %v", d, found, err)
	}
}

func TestS3ErrorsBecomeFaults(t *testing.T) {
	code := func(c string) error {
		return fmt.Errorf("operation: %w", &smithy.GenericAPIError{Code: c, Message: "why"})
	}
	for name, c := range map[string]struct {
		err  error
		want fault.Name
	}{
		"denied":       {code("AccessDenied"), fault.AccessDenied},
		"no bucket":    {code("NoSuchBucket"), fault.AccessDenied},
		"other Region": {code("PermanentRedirect"), fault.AccessDenied},
		"slow down":    {code("SlowDown"), fault.Throttled},
		"503":          {code("ServiceUnavailable"), fault.Throttled},
		"internal":     {code("InternalError"), fault.Unavailable},
		"no answer":    {errors.New("connection reset by peer"), fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			m, store := newMemory()
			m.err = c.err
			j := store.Migration("orders")
			_, read := j.Plan(t.Context(), "")
			_, list := j.Rounds(t.Context())
			_, _, owner := store.Owner(t.Context(), "arn:1")
			for op, err := range map[string]error{
				"read journal": read, "list journal": list, "write journal": j.SavePlan(t.Context(), migration.Plan{}),
			} {
				wantFault(t, err, c.want, op, "journal/migrations/orders")
				if !errors.Is(err, c.err) {
					t.Errorf("%s: the cause is lost: %v", op, err)
				}
			}
			wantFault(t, owner, c.want)
			_, err := j.MergeCheckpoints(t.Context(), Checkpoints{Round: 1})
			wantFault(t, err, c.want)
		})
	}
}

func TestReplayRecords(t *testing.T) {
	m, store := newMemory()
	j := store.Migration("orders")
	if p, err := j.Passes(t.Context()); err != nil || len(p) != 0 {
		t.Errorf("no passes: %v, %v", p, err)
	}
	if got, err := j.Measures(t.Context(), 3); err != nil || got == nil || len(got) != 0 {
		t.Errorf("no measures: %v, %v; want an empty map to write to", got, err)
	}
	if s, err := j.Strategies(t.Context()); err != nil || len(s.Replay)+len(s.Dropped) != 0 || s.Has("a") {
		t.Errorf("no strategies: %+v, %v", s, err)
	}
	// Recorded out of order, one of them twice, and above 9999, where the keys' order is another.
	for _, p := range []migration.Pass{{Number: 10000, Documents: 4}, {Number: 9999, Documents: 3}, {Number: 2, Documents: 1}, {Number: 2, Final: true, Documents: 2, StartedAt: at, FinishedAt: at, Seconds: 0.5}} {
		if err := j.SavePass(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	want := []migration.Pass{{Number: 2, Final: true, Documents: 2, StartedAt: at, FinishedAt: at, Seconds: 0.5}, {Number: 9999, Documents: 3}, {Number: 10000, Documents: 4}}
	if got, err := j.Passes(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if rounds, err := j.Rounds(t.Context()); err != nil || len(rounds) != 0 {
		t.Errorf("passes are taken for rounds: %+v, %v", rounds, err)
	}
	measures := map[string]migration.Measure{"a": {Snapshot: 1, Recovered: 2, Reused: 3}}
	strategies := migration.Strategies{Replay: []migration.OnReplay{{Index: "a", Base: 3, Reason: "why"}}, Dropped: []migration.Dropped{{Name: "b", Reason: "no"}}}
	for range 2 {
		if err := errors.Join(j.SaveMeasures(t.Context(), 3, measures), j.SaveStrategies(t.Context(), strategies)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := j.Measures(t.Context(), 3); err != nil || !reflect.DeepEqual(got, measures) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := j.Measures(t.Context(), 4); err != nil || len(got) != 0 {
		t.Errorf("another round's measures: %+v, %v", got, err)
	}
	if got, err := j.Strategies(t.Context()); err != nil || !reflect.DeepEqual(got, strategies) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, key := range []string{"passes/0002.json", "passes/10000.json", "measures/0003.json", "strategies.json"} {
		if m.objects["migrations/orders/"+key] == "" {
			t.Errorf("there is no %s in %v", key, slices.Sorted(maps.Keys(m.objects)))
		}
	}
}

// TestCheckpointsSayWhatIsInTheSnapshot: what an earlier attempt asked for stays in it, another index of the name replaces the first.
func TestCheckpointsSayWhatIsInTheSnapshot(t *testing.T) {
	_, store := newMemory()
	j := store.Migration("orders")
	record := func(unchanged []string, uuidOfA string, n int64) Checkpoints {
		c, err := j.MergeCheckpoints(t.Context(), Checkpoints{
			Round: 3, PerShard: map[string][]int64{"a": {n}, "b": {n}, "c": {n}}, Unchanged: unchanged,
			Identities: map[string]Identity{"a": {UUID: uuidOfA}, "b": {UUID: "b"}, "c": {UUID: "c"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		kept, _, err := j.Checkpoints(t.Context(), 3)
		if err != nil || !slices.Equal(kept.InSnapshot(), c.InSnapshot()) || !reflect.DeepEqual(kept.PerShard, c.PerShard) || !reflect.DeepEqual(kept.Identities, c.Identities) {
			t.Errorf("kept %+v, answered %+v, %v", kept, c, err)
		}
		return c
	}
	if c := record([]string{"a", "b"}, "a", 1); !slices.Equal(c.InSnapshot(), []string{"c"}) {
		t.Errorf("%+v", c)
	}
	if c := record([]string{"a", "c"}, "a", 2); !slices.Equal(c.InSnapshot(), []string{"b", "c"}) || c.PerShard["b"][0] != 1 {
		t.Errorf("written to since: %+v", c)
	}
	if c := record([]string{"a", "b", "c"}, "another", 3); !slices.Equal(c.InSnapshot(), []string{"b", "c"}) || c.PerShard["a"][0] != 3 || c.PerShard["c"][0] != 1 {
		t.Errorf("made anew: %+v", c)
	}
	if c := record(nil, "third", 4); !slices.Equal(c.InSnapshot(), []string{"a", "b", "c"}) || c.PerShard["a"][0] != 4 {
		t.Errorf("made anew and to be moved: %+v", c)
	}
}

func TestHoldsChangesAndPredictions(t *testing.T) {
	_, store := newMemory()
	j := store.Migration("orders")
	if h, err := j.Holds(t.Context()); err != nil || len(h) != 0 {
		t.Errorf("none yet: %v, %v", h, err)
	}
	holds := map[string]Hold{"a": {Round: 3, Snapshot: "orders-r0003", Checkpoints: []int64{5}, Identity: Identity{UUID: "u", Histories: []string{"h"}, Description: "d"}, CopyUUID: "c", Ready: true}}
	if err := j.SaveHolds(t.Context(), holds); err != nil {
		t.Fatal(err)
	}
	if h, err := j.Holds(t.Context()); err != nil || !reflect.DeepEqual(h, holds) {
		t.Errorf("%+v, %v", h, err)
	}
	first := migration.Change{At: at, Round: 3, Index: "a", What: migration.Created}
	again := first
	again.At = at.Add(time.Hour)
	second := migration.Change{At: at, Round: 4, Index: "a", What: migration.Removed}
	for _, list := range [][]migration.Change{{first}, {again, second}, {again}} {
		if err := j.RecordChanges(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := j.Changes(t.Context()); err != nil || !slices.Equal(list, []migration.Change{first, second}) {
		t.Errorf("%+v, %v", list, err)
	}
	if _, found, err := j.Prediction(t.Context(), 3); found || err != nil {
		t.Errorf("none yet: %t, %v", found, err)
	}
	p := RestorePrediction{Indices: map[string]int64{"a": 7}, Unknown: "b"}
	if err := j.SavePrediction(t.Context(), 3, p); err != nil {
		t.Fatal(err)
	}
	if got, found, err := j.Prediction(t.Context(), 3); err != nil || !found || !reflect.DeepEqual(got, p) {
		t.Errorf("%+v, %t, %v", got, found, err)
	}
}
