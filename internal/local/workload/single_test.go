package workload

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFillIndexInSteps(t *testing.T) {
	for _, kind := range []Kind{Logs, Catalogue} {
		t.Run(string(kind), func(t *testing.T) {
			once, steps := newFake(t), newFake(t)
			whole, err := FillIndex(t.Context(), once.client(), kind, Options{Seed: 4, TotalBytes: 200 << 10})
			if err != nil {
				t.Fatal(err)
			}
			dataset, err := FillIndex(t.Context(), steps.client(), kind, Options{Seed: 4, TotalBytes: 1})
			if err != nil {
				t.Fatal(err)
			}
			if dataset.Documents() != 1 {
				t.Errorf("%d documents for one byte, wanted is one", dataset.Documents())
			}
			for dataset.Documents() < whole.Documents() {
				if err := Extend(t.Context(), steps.client(), dataset, Options{TotalBytes: min(50<<10, whole.Bytes()-dataset.Bytes())}); err != nil {
					t.Fatal(err)
				}
			}
			if !reflect.DeepEqual(once.docs, steps.docs) || !reflect.DeepEqual(whole, dataset) {
				t.Errorf("in steps there are %d documents (%+v), at once %d (%+v)", len(steps.docs), dataset, len(once.docs), whole)
			}
			if mean := whole.Bytes() / whole.Documents(); mean < 800 || mean > 1300 {
				t.Errorf("documents have %d bytes, about 1 KB is wanted", mean)
			}
		})
	}
	if _, err := FillIndex(t.Context(), newFake(t).client(), Static, Options{TotalBytes: 1}); err == nil {
		t.Error("kind static is accepted")
	}
	mixed := fill(t, newFake(t))
	if err := Extend(t.Context(), newFake(t).client(), mixed, Options{TotalBytes: 1}); err == nil || !strings.Contains(err.Error(), "FillIndex") {
		t.Errorf("a dataset of Fill is extended: %v", err)
	}
}

// A change is in the Writer's memory like any other write, and is looked for afterwards.
func TestApply(t *testing.T) {
	f := newFake(t)
	dataset, err := FillIndex(t.Context(), f.client(), Catalogue, Options{Seed: 4, TotalBytes: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	w, err := StartWriter(t.Context(), f.client(), dataset, WriterOptions{Rate: 50})
	if err != nil {
		t.Fatal(err)
	}
	change := Change{Inserts: 10, Updates: 700, Deletes: 100}
	if err := w.Apply(change); err != nil {
		t.Fatal(err)
	}
	if acknowledged := w.Stats().Acknowledged; acknowledged < int64(change.Operations()) {
		t.Errorf("%d operations acknowledged, the change has %d", acknowledged, change.Operations())
	}
	if written := w.WrittenAtDestination(); len(written) > 0 {
		t.Errorf("written at the destination before the switch: %v", written)
	}
	w.SwitchTo(f.client())
	if err := w.Apply(Change{Deletes: 5}); err != nil {
		t.Fatal(err)
	}
	if err := stopWithin(t, w, time.Minute); err != nil {
		t.Fatal(err)
	}
	if written := w.WrittenAtDestination()["catalogue"]; int64(len(written)) > w.Stats().AtDestination || len(written) < 5 {
		t.Errorf("%d documents written at the destination by %d operations", len(written), w.Stats().AtDestination)
	}
	mustBeWhole(t, check(t, f, w, dataset), w)
	if err := w.Apply(Change{Updates: 1}); err == nil {
		t.Error("a change is applied by a writer that has ended")
	}
}
