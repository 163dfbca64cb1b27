package faultmatrix

import "testing"

// Every state of every machine has a row, and there are enough cases.
func TestPlanCoversEveryState(t *testing.T) {
	all, err := Config{}.plan()
	if err != nil {
		t.Fatal(err)
	}
	rows, err := Rows()
	if err != nil {
		t.Fatal(err)
	}
	count := map[Row]int{}
	for _, c := range all {
		count[c.Row]++
	}
	for _, r := range rows {
		if count[r] < 2 {
			t.Errorf("%s has %d cases", r, count[r])
		}
		if r.Function != "" && count[r] != len(Faults()) {
			t.Errorf("%s runs %s and has %d cases of %d", r, r.Function, count[r], len(Faults()))
		}
	}
	t.Logf("%d states, %d cases", len(rows), len(all))
	if len(all) < 300 {
		t.Errorf("%d cases", len(all))
	}
}
