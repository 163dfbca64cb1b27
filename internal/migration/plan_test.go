package migration

import (
	"slices"
	"strings"
	"testing"
)

func TestSelect(t *testing.T) {
	for _, c := range []struct {
		include, exclude, name string
		taken                  bool
		reason                 string // part of it
	}{
		{"*", "", "logs-1", true, ""},
		{"logs-*", "", "metrics-1", false, ""},
		{"logs-*", "", "logs-", true, ""},
		{"logs-*", "logs-2*", "logs-2020", false, "excluded"},
		{"a b", "", "b", true, ""},
		{"*", "b", "b", false, "excluded"},
		{"a*c", "", "abbc", true, ""},
		{"a*c", "", "abcd", false, ""},
		{"a[b]", "", "ab", false, ""}, // brackets are no class
		{"a[b]", "", "a[b]", true, ""},
		{"a?", "", "ab", false, ""}, // nor is the question mark a wildcard
		{"a?", "", "a?", true, ""},
		{"*", "", ".mine", false, "hidden"},
		{".mi*", "", ".mine", false, "hidden"},
		{".mine", "", ".mine", true, ""},
		{"* .mine", "", ".mine", true, ""},
		{".mine", ".mine", ".mine", false, "excluded"},
		{"*", "", ".kibana_1", false, "system index"},
		{".kibana_1", "", ".kibana_1", false, "system index"},
		{".opendistro_security", "", ".opendistro_security", false, "system index"},
		{"*", "", ".plugins-ml-model", false, "system index"},
		{"*", "", "security-auditlog-2026.11.22", false, "system index"},
		{"other", "", ".kibana_1", false, ""}, // not matched at all: not even mentioned
	} {
		s := Selection{Include: strings.Fields(c.include), Exclude: strings.Fields(c.exclude)}
		taken, reason := s.Select(c.name)
		if taken != c.taken || !strings.Contains(reason, c.reason) || (reason == "") != (c.reason == "") {
			t.Errorf("include %q exclude %q: %s is %t, %q; want %t, %q", c.include, c.exclude, c.name, taken, reason, c.taken, c.reason)
		}
	}
}

func TestUnmatched(t *testing.T) {
	s := Selection{Include: []string{"logs-*", "nothing*", "a", "a[b]", "*"}}
	if got := s.Unmatched([]string{"logs-1", "a", "ab"}); !slices.Equal(got, []int{1, 3}) {
		t.Errorf("unmatched %v", got)
	}
	if got := s.Unmatched(nil); len(got) != 5 {
		t.Errorf("without indices nothing matches, got %v", got)
	}
}

func TestPlanIndex(t *testing.T) {
	p := Plan{Indices: []PlannedIndex{{Name: "a", Shards: 1}, {Name: "b", Shards: 2}}}
	if x, ok := p.Index("b"); !ok || x.Shards != 2 {
		t.Errorf("b is %+v, %t", x, ok)
	}
	if _, ok := p.Index("c"); ok {
		t.Error("c is planned")
	}
	if !slices.Equal(p.Names(), []string{"a", "b"}) {
		t.Errorf("names %v", p.Names())
	}
}

func engineOf(t *testing.T, s string) Engine {
	t.Helper()
	distribution, number, _ := strings.Cut(s, "-")
	e := Engine{Distribution: map[string]string{"es": elasticsearch, "os": opensearch}[distribution]}
	var n [3]int
	for i, part := range strings.Split(number, ".") {
		for _, c := range part {
			n[i] = 10*n[i] + int(c-'0')
		}
	}
	e.Major, e.Minor, e.Patch = n[0], n[1], n[2]
	return e
}

// The rows are measured.md, "Versions", and the table of snapshots.md section 5.
func TestRefuseEngines(t *testing.T) {
	for _, c := range []struct {
		source, destination string
		why                 string // "" is accepted
	}{
		{"es-6.8.0", "es-7.10.2", ""},
		{"es-6.8.0", "os-1.3.20", ""},
		{"es-7.10.2", "os-1.3.20", ""},
		{"es-7.10.2", "os-2.19.0", ""},
		{"es-7.10.2", "es-7.10.2", ""},
		{"es-7.4.2", "es-7.10.2", ""},
		{"os-1.3.20", "os-2.19.0", ""},
		{"os-2.19.0", "os-2.19.1", ""},
		{"os-2.19.0", "os-3.7.0", ""},
		{"es-7.10.2", "os-3.7.0", "move to OpenSearch 2.19 first"},
		{"es-6.8.0", "os-3.7.0", "move to OpenSearch 2.19 first"},
		{"os-3.7.0", "os-2.19.0", "newer opensearch-3.7.0"},
		{"os-2.19.1", "os-2.19.0", "newer opensearch-2.19.1"},
		{"es-7.10.2", "es-7.4.0", "newer elasticsearch-7.10.2"},
		{"es-7.10.2", "es-6.8.0", "newer elasticsearch-7.10.2"},
		{"es-7.11.0", "os-2.19.0", "7.10.2 is the last"},
		{"es-8.15.0", "os-2.19.0", "7.10.2 is the last"},
		{"os-1.3.20", "es-7.10.2", "cannot restore snapshots of opensearch-1.3.20"},
		{"os-2.19.0", "es-8.15.0", "cannot restore snapshots of opensearch-2.19.0"},
	} {
		got := RefuseEngines(engineOf(t, c.source), engineOf(t, c.destination))
		if (got == "") != (c.why == "") || !strings.Contains(got, c.why) {
			t.Errorf("%s to %s: %q, want %q", c.source, c.destination, got, c.why)
		}
	}
}

func TestRefuseIndex(t *testing.T) {
	for _, c := range []struct {
		created, destination string
		readable             bool
	}{
		{"es-5.0.0", "es-6.8.0", true},
		{"es-2.4.6", "es-6.8.0", false},
		{"es-6.0.0", "es-7.10.2", true},
		{"es-5.6.0", "es-7.10.2", false},
		{"es-6.8.0", "os-1.3.20", true},
		{"es-5.6.0", "os-1.3.20", false},
		{"os-1.3.20", "os-1.3.20", true},
		{"es-7.0.0", "os-2.19.0", true},
		{"es-7.10.2", "os-2.19.0", true},
		{"es-6.8.0", "os-2.19.0", false},
		{"os-1.3.20", "os-2.19.0", true},
		{"os-2.19.0", "os-2.19.0", true},
		{"os-2.0.0", "os-3.7.0", true},
		{"os-3.7.0", "os-3.7.0", true},
		{"os-1.3.20", "os-3.7.0", false},
		{"es-7.10.2", "os-3.7.0", false},
		{"es-7.0.0", "es-8.15.0", true},
		{"es-6.8.0", "es-8.15.0", false},
		{"os-2.19.0", "es-8.15.0", false},
		{"os-1.3.20", "es-7.10.2", false},
	} {
		got := RefuseIndex(engineOf(t, c.created), engineOf(t, c.destination))
		if (got == "") != c.readable {
			t.Errorf("created by %s on %s: %q", c.created, c.destination, got)
		}
		if !c.readable && (!strings.Contains(got, "created by "+engineOf(t, c.created).String()) || !strings.Contains(got, engineOf(t, c.destination).String())) {
			t.Errorf("%q does not name both versions", got)
		}
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		outcomes string
		want     Verdict
	}{
		{"", Failed},
		{"passed", Verified},
		{"passed passed", Verified},
		{"passed warning passed", VerifiedWithWarnings},
		{"warning failed", Failed},
		{"failed passed", Failed},
		{"passed unknown", Failed},
		{"passed something-new", Failed},
	} {
		var checks []Check
		for _, o := range strings.Fields(c.outcomes) {
			checks = append(checks, Check{Outcome: Outcome(o)})
		}
		if got := Judge(checks); got != c.want {
			t.Errorf("%q is %s, want %s", c.outcomes, got, c.want)
		}
	}
}
