package soak

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestPrograms is the part of make soak that every test run has.
func TestPrograms(t *testing.T) {
	defer Quiet()()
	seeds := 300
	if testing.Short() {
		seeds = 30
	}
	s := Run(t, Config{First: 1, Seeds: seeds})
	t.Log("\n" + s.Text())
	for _, f := range s.Failures {
		t.Error("\n" + f.Text())
	}
	// What was never reached proves nothing.
	for what, n := range map[string]int{
		"faults": len(s.Counts.Faults), "hand-overs": s.Counts.HandOvers, "thaws": s.Counts.Thaws, "writes given back by the rule": s.Counts.RuleThaws,
		"refused writes": s.Counts.Refusals, "stops": s.Counts.Operations[string(Stop)], "redrives": s.Counts.Operations[string(Redrive)], "answers": s.Counts.Operations[string(Answer)],
	} {
		if n == 0 {
			t.Errorf("%d programs had no %s", s.Seeds, what)
		}
	}
}

// TestFindsDefects plants defects of the kinds that the programs are there to find, and wants each found and made short.
func TestFindsDefects(t *testing.T) {
	defer Quiet()()
	for name, c := range map[string]struct {
		sabotage Sabotage
		want     string // in a problem
		longest  int    // operations of the short program
	}{
		"thaw's request is lost": {Sabotage{Deaf: func(at Place, method, path string) bool {
			return at == Source && method == http.MethodPut && strings.HasSuffix(path, "/_settings")
		}}, "takes no writes", 6},
		"the write block is not set": {Sabotage{Deaf: func(at Place, method, path string) bool {
			return at == Source && strings.HasSuffix(path, "/_block/write")
		}}, "at the destination", 6},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Sabotage: c.sabotage}
			for seed := uint64(1); seed <= 300; seed++ {
				p := Generate(seed, false)
				out := Play(t, p, o)
				if !slices.ContainsFunc(out.Problems, func(x string) bool { return strings.Contains(x, c.want) }) {
					continue
				}
				short, problems := Shrink(t, p, o)
				t.Logf("seed %d, %d operations, %q; in short:\n%s%q", seed, len(p.Ops), out.Problems[0], short.Text(), problems.Problems[0])
				if !problems.Failed() || len(short.Ops) > c.longest {
					t.Errorf("the short program has %d operations, want at most %d: %v", len(short.Ops), c.longest, problems.Problems)
				}
				return
			}
			t.Errorf("no program of 300 has found it")
		})
	}
}
