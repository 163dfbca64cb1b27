package copybench

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSourceChangesAndComesBack(t *testing.T) {
	s := newSource(filepath.Join(t.TempDir(), "base"), Config{Small: 30, Medium: 0, Large: 1, LargeMB: 1, Seed: 5})
	if err := s.fill(); err != nil {
		t.Fatal(err)
	}
	before, err := sizes(s.dir)
	if err != nil || len(before) != 30+1+3+2*shards+2 {
		t.Fatalf("%d files, %v", len(before), err)
	}
	if err := s.change(); err != nil {
		t.Fatal(err)
	}
	changed, err := sizes(s.dir)
	if err != nil || len(changed) != len(before)+1 || changed["index-1"] == 0 || changed["index-0"] != 0 {
		t.Fatalf("%d files after the change, %v", len(changed), err)
	}
	if err := s.restore(); err != nil {
		t.Fatal(err)
	}
	after, err := sizes(s.dir)
	if err != nil || len(after) != len(before) || after["index-0"] == 0 {
		t.Fatalf("%d files at last, %v", len(after), err)
	}
	other := t.TempDir()
	if n, err := missing(s.dir, other); err != nil || n != len(before) {
		t.Errorf("%d missing in an empty folder, %v", n, err)
	}
	if n, err := missing(s.dir, s.dir); err != nil || n != 0 {
		t.Errorf("%d missing in the folder itself, %v", n, err)
	}
}

func TestReport(t *testing.T) {
	runs := func(seconds, peak float64) map[string][]Run {
		all := map[string][]Run{}
		for _, pass := range Passes {
			all[pass] = []Run{{Seconds: seconds * 3, PeakMB: peak}, {Seconds: seconds, PeakMB: peak}, {Seconds: seconds, PeakMB: peak}}
		}
		return all
	}
	r := Report{Ratios: map[string]float64{}, Results: []Result{
		{Tool: "slow", Runs: runs(9, 10)}, {Tool: ours, Runs: runs(1, 30)}, {Tool: "s5cmd sync", Runs: runs(2, 120)}, {Tool: "broken", Runs: map[string][]Run{}},
	}}
	r.ratios()
	if r.Ratios["cold"] != 0.5 || r.Ratios["no change"] != 0.5 || r.Ratios["peak memory by s5cmd's"] != 0.25 {
		t.Errorf("ratios %v", r.Ratios)
	}
	path := filepath.Join(t.TempDir(), "build", "x.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	var back Report
	if err != nil || json.Unmarshal(content, &back) != nil || len(back.Results) != 4 {
		t.Errorf("%v %s", err, content)
	}
	var text strings.Builder
	r.Print(&text)
	if out := text.String(); strings.Index(out, ours) > strings.Index(out, "slow") {
		t.Errorf("not the fastest first:\n%s", out)
	}
}
