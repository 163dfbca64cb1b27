package names

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestPlaceholder(t *testing.T) {
	for name, want := range map[string]string{"poll-status": "PollStatusFunction", "freeze": "FreezeFunction", "plan-copy": "PlanCopyFunction"} {
		if got := (Function{Name: name}).Placeholder(); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestEveryLambdaIsListed(t *testing.T) {
	mains, err := filepath.Glob(filepath.Join("..", "..", "lambdas", "*", "main.go"))
	if err != nil || len(mains) == 0 {
		t.Fatalf("no lambdas: %v", err)
	}
	var there, listed []string
	for _, m := range mains {
		there = append(there, filepath.Base(filepath.Dir(m)))
	}
	for _, f := range Functions() {
		listed = append(listed, f.Name)
		if f.TimeoutSeconds < 30 || f.TimeoutSeconds > 900 || f.MemoryMB < 128 {
			t.Errorf("%+v is outside the service's limits, or too short for a long poll of 20 s", f)
		}
		if _, err := os.Stat(filepath.Join("..", "..", "lambdas", f.Name, "main.go")); err != nil {
			t.Errorf("%s has no main.go: %v", f.Name, err)
		}
	}
	slices.Sort(listed)
	if !slices.Equal(there, listed) {
		t.Errorf("directories %v, listed %v", there, listed)
	}
	Functions()[0].Name = "changed"
	if Functions()[0].Name == "changed" {
		t.Error("the list can be changed from outside")
	}
}
