package soak

import (
	"fmt"
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

// TestSameEveryTime holds programs to doing the same in every run; what is shrunk and printed could not be played again otherwise. Faults of
// S3 are left out: internal/s3copy tries again after pauses of its own choice, as it should.
func TestSameEveryTime(t *testing.T) {
	defer Quiet()()
	for _, seed := range []uint64{1, 2, 3, 5, 7, 12, 21, 22} {
		p := Generate(seed, false)
		p.Ops = slices.DeleteFunc(p.Ops, func(o Op) bool { return o.Fault != nil && o.Fault.At == S3 })
		var runs [2][]string
		for i := range runs {
			Play(t, p, Options{Trace: func(f string, a ...any) { runs[i] = append(runs[i], fmt.Sprintf(f, a...)) }})
		}
		// What happens at one instant comes in any order.
		slices.Sort(runs[0])
		slices.Sort(runs[1])
		if !slices.Equal(runs[0], runs[1]) {
			t.Errorf("seed %d: two runs differ:\n%s", seed, firstDifference(runs[0], runs[1]))
		}
	}
}

func firstDifference(a, b []string) string {
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return fmt.Sprintf("line %d: %s\nand: %s", i+1, a[i], strings.Join(b[min(i, len(b)):min(i+1, len(b))], ""))
		}
	}
	return "one is longer"
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
