package replay

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/cluster"
)

// FuzzEligible looks at any mapping and settings: what is not eligible has a reason, and none of it panics.
func FuzzEligible(f *testing.F) {
	for _, s := range []string{
		`{"properties":{"n":{"type":"long"}}}`, `{"_source":{"enabled":false}}`, `{"_source":{"includes":["a"],"excludes":[]}}`, `{"doc":{"_source":{"excludes":"x"}}}`,
		`null`, `[]`, `{"_source":7}`, `{"a":null}`, strings.Repeat(`{"a":`, 100),
	} {
		f.Add([]byte(s), "7100299", "true")
	}
	f.Fuzz(func(t *testing.T, mapping []byte, created, value string) {
		settings := map[string]string{"index.version.created": created, "index.soft_deletes.enabled": value, "index.gc_deletes": value, "index.default_pipeline": value}
		x := cluster.Index{Name: "a", Open: true, Primaries: 1, CreatedVersion: created, Settings: settings}
		for _, base := range []bool{false, true} {
			if ok, reason := Eligible(x, json.RawMessage(mapping), base); ok != (reason == "") || len(reason) > 4096 {
				t.Errorf("%t, %q", ok, reason)
			}
		}
		Settings(settings, map[string]string{"index.gc_deletes": created})
	})
}
