package verify

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/migration"
)

// FuzzCompare compares what two domains answered, whatever that is: a mapping is always equal to itself, and evidence is bounded.
func FuzzCompare(f *testing.F) {
	f.Add([]byte(`{"properties":{"n":{"type":"long"}}}`), []byte(`{"dynamic":"strict","properties":{"n":{"type":"keyword"},"m":{"type":"long"}}}`))
	f.Add([]byte(`{"a":[1,2,{"b":1e400}]}`), []byte(`{"a":{"b":null}}`))
	f.Add([]byte(strings.Repeat(`{"a":`, 300)+"1"+strings.Repeat("}", 300)), []byte(`null`))
	f.Add([]byte(`{"`+strings.Repeat("k", 5000)+`":{}}`), []byte("{\"\xff\":1}"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, c := range []migration.Check{
			compareMapping("i", a, b), compareAliases("i", map[string]json.RawMessage{"x": a}, map[string]json.RawMessage{"x": b, string(a[:min(len(a), 4000)]): b}),
			compareSettings("i", map[string]string{string(a): string(b)}, nil), compareSamples("i", map[string]string{string(a): "1"}, nil),
		} {
			if len(c.Evidence) > 16<<10 {
				t.Errorf("%s: evidence of %d bytes", c.Name, len(c.Evidence))
			}
		}
		if c := compareMapping("i", a, a); c.Outcome == migration.Broken {
			t.Errorf("a mapping differs from itself: %+v", c)
		}
		if json.Valid(a) && !SameJSON(a, a) && utf8Numbers(a) {
			t.Errorf("%q is not the same as itself", a)
		}
		_, _ = Digest("1", "r", 1, a)
	})
}

// utf8Numbers is false of JSON whose numbers no decoder takes.
func utf8Numbers(raw []byte) bool { var v any; return json.Unmarshal(raw, &v) == nil }
