package migration

import (
	"slices"
	"strings"
	"testing"
)

func TestSelectBacking(t *testing.T) {
	for _, c := range []struct {
		include, exclude string
		taken            bool
		reason           string
		part             []int
	}{
		{"*", "", true, "", nil},
		{"logs-*", "", true, "", nil},
		{"logs-app", "", true, "", nil},
		{"*", "logs-*", false, "excluded by the input", nil},
		{"metrics", "", false, "", nil},
		{".ds-logs-app-000001", "", false, `backing index of data stream "logs-app"`, nil},
		{".ds-*", "", false, "include the stream by its name", nil},
		{"*", ".ds-logs-app-000001", true, "", []int{0}},
		{"*", ".ds-*", true, "", []int{0}},
		{"*", ".*", true, "", nil},
		{"logs-app", ".ds-other-*", true, "", nil},
	} {
		s := Selection{Include: []string{c.include}}
		if c.exclude != "" {
			s.Exclude = []string{c.exclude}
		}
		taken, reason := s.SelectBacking(".ds-logs-app-000001", "logs-app")
		if taken != c.taken || (reason == "") != (c.reason == "") || !strings.Contains(reason, c.reason) {
			t.Errorf("include %s, exclude %s: %t, %q", c.include, c.exclude, taken, reason)
		}
		if got := s.ExcludesPart("logs-app", []string{".ds-logs-app-000001", ".ds-logs-app-000002"}); !slices.Equal(got, c.part) {
			t.Errorf("include %s, exclude %s: parts %v", c.include, c.exclude, got)
		}
	}
	// A stream with a hidden name moves as a hidden index does.
	if taken, _ := (Selection{Include: []string{"*"}}).SelectBacking(".ds-.hidden-000001", ".hidden"); taken {
		t.Error("a hidden stream is taken by a wildcard")
	}
}

func TestWhole(t *testing.T) {
	p := Plan{Streams: []PlannedStream{{Name: "d", Indices: []string{".ds-d-000009", ".ds-d-000010"}}, {Name: "e", Indices: []string{".ds-e-000001"}}}}
	if got := p.Whole([]string{".ds-d-000009", ".ds-d-000010", ".ds-f-000001", "a"}); !slices.Equal(got, []string{"d", ".ds-f-000001", "a"}) {
		t.Errorf("%v", got)
	}
	if d, ok := p.Stream("e"); !ok || len(d.Indices) != 1 {
		t.Errorf("%+v", d)
	}
}

func TestStreamOf(t *testing.T) {
	for name, want := range map[string]string{
		".ds-a-000001": "a", ".ds-a-2026.01-1000000": "a-2026.01", ".ds-a": "", "ds-a-000001": "", ".ds--000001": "", ".ds-a-00001": "",
	} {
		if got := StreamOf(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
