package step

import (
	"testing"

	"github.com/domainferry/domainferry/internal/verify"
)

func TestSamplesAreScatteredOverTheWholeIndex(t *testing.T) {
	for name, c := range map[string]struct {
		docs     int64
		maxSeqNo []int64
		ranges   int
		width    int64
	}{
		"never written":         {0, []int64{-1, -1}, 0, 0},
		"no shard answered":     {5, nil, 0, 0},
		"fewer than are wanted": {3, []int64{2, 0}, 1, 4}, // all of it
		"each document once":    {1_000_000, []int64{499_999, 499_999}, 40, 1},
		"each ten times":        {100_000, []int64{999_999}, 40, 10},
	} {
		got := scattered("logs", verify.Index{Docs: c.docs, MaxSeqNo: c.maxSeqNo}, 40)
		if len(got) != c.ranges {
			t.Errorf("%s: %d ranges, want %d", name, len(got), c.ranges)
			continue
		}
		var halves [2]int
		for _, r := range got {
			if r.Upto-r.From != c.width || r.From < -1 || r.Upto > c.maxSeqNo[0]+1 {
				t.Errorf("%s: range %+v, want %d numbers of up to %d", name, r, c.width, c.maxSeqNo[0])
			}
			halves[min(1, 2*max(0, r.From)/(c.maxSeqNo[0]+1))]++
		}
		if c.ranges > 1 && (halves[0] < 10 || halves[1] < 10) {
			t.Errorf("%s: %v of the ranges lie in the lower and the upper half", name, halves)
		}
	}
	a, b := scattered("logs", verify.Index{Docs: 9e6, MaxSeqNo: []int64{9e6}}, 40), scattered("logs", verify.Index{Docs: 9e6, MaxSeqNo: []int64{9e6}}, 40)
	if a[7] != b[7] {
		t.Error("a repeated verification looks at other documents")
	}
}
