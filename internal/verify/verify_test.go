package verify

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/domainferry/domainferry/internal/migration"
)

func side() Index {
	return Index{
		Present: true, Started: true, Docs: 7, MaxSeqNo: []int64{6, -1},
		Aliases:  map[string]json.RawMessage{"live": json.RawMessage(`{"filter":{"term":{"a":1,"b":"x"}},"is_write_index":true}`)},
		Mapping:  json.RawMessage(`{"properties":{"id":{"type":"keyword","ignore_above":256},"at":{"properties":{"day":{"type":"date"}}},"type":{"type":"text"}}}`),
		Settings: map[string]string{"index.number_of_shards": "2", "index.codec": "best_compression"},
		Samples:  map[string]string{"1/": "aa", "2/r": "bb"},
	}
}

func TestCompare(t *testing.T) {
	same := func(*Index) {}
	with := func(key, value string) func(*Index) {
		return func(x *Index) { x.Settings = maps.Clone(x.Settings); x.Settings[key] = value }
	}
	for name, c := range map[string]struct {
		source, destination func(*Index)
		check               string // the one that does not pass; "" is none
		outcome             migration.Outcome
		evidence            string
	}{
		"equal":                        {same, same, "", "", ""},
		"absent at the source":         {func(x *Index) { *x = Index{} }, same, "present", migration.Broken, "at the source: false, at the destination: true"},
		"absent at the destination":    {same, func(x *Index) { *x = Index{} }, "present", migration.Broken, "at the destination: false"},
		"not started":                  {same, func(x *Index) { x.Started = false }, "shards", migration.Broken, "not all primary shards"},
		"a document less":              {same, func(x *Index) { x.Docs = 6 }, "documents", migration.Broken, "source 7, destination 6"},
		"a document more":              {same, func(x *Index) { x.Docs = 8 }, "documents", migration.Broken, "source 7, destination 8"},
		"a write less":                 {same, func(x *Index) { x.MaxSeqNo = []int64{5, -1} }, "sequence-numbers", migration.Broken, "source [6 -1], destination [5 -1]"},
		"shards swapped":               {same, func(x *Index) { x.MaxSeqNo = []int64{-1, 6} }, "sequence-numbers", migration.Broken, ""},
		"a shard less":                 {same, func(x *Index) { x.MaxSeqNo = []int64{6} }, "sequence-numbers", migration.Broken, ""},
		"no sequence numbers":          {func(x *Index) { x.MaxSeqNo = nil }, func(x *Index) { x.MaxSeqNo = nil }, "sequence-numbers", migration.Broken, ""},
		"alias missing":                {same, func(x *Index) { x.Aliases = nil }, "aliases", migration.Broken, "1 at the source, 0 at the destination, different: live"},
		"alias of its own":             {func(x *Index) { x.Aliases = nil }, same, "aliases", migration.Broken, "different: live"},
		"alias, keys in another order": {same, alias(`{ "is_write_index": true, "filter": {"term": {"b":"x", "a":1}} }`), "", "", ""},
		"alias, another filter":        {same, alias(`{"filter":{"term":{"a":2,"b":"x"}},"is_write_index":true}`), "aliases", migration.Broken, "live"},
		"alias, not the write index":   {same, alias(`{"filter":{"term":{"a":1,"b":"x"}}}`), "aliases", migration.Broken, "live"},
		"alias not readable":           {same, alias(`{`), "aliases", migration.Broken, "live"},
		"mapping, keys in another order": {same, mapping(`{"properties":{"type":{"type":"text"},"at":{"properties":{"day":{"type":"date"}}},"id":{"ignore_above":256,"type":"keyword"}}}`),
			"", "", ""},
		"field missing": {same, mapping(`{"properties":{"at":{"properties":{"day":{"type":"date"}}},"type":{"type":"text"}}}`), "mapping", migration.Broken, "properties.id"},
		"nested field missing": {same, mapping(`{"properties":{"id":{"type":"keyword","ignore_above":256},"at":{"properties":{}},"type":{"type":"text"}}}`),
			"mapping", migration.Broken, "properties.at.properties.day"},
		"another type": {same, mapping(`{"properties":{"id":{"type":"text","ignore_above":256},"at":{"properties":{"day":{"type":"date"}}},"type":{"type":"text"}}}`),
			"mapping", migration.Broken, "properties.id.type"},
		"a field named type has another type": {same, mapping(`{"properties":{"id":{"type":"keyword","ignore_above":256},"at":{"properties":{"day":{"type":"date"}}},"type":{"type":"keyword"}}}`),
			"mapping", migration.Broken, "properties.type.type"},
		"type gone": {same, mapping(`{"properties":{"id":{"ignore_above":256},"at":{"properties":{"day":{"type":"date"}}},"type":{"type":"text"}}}`),
			"mapping", migration.Broken, "properties.id.type"},
		"another parameter": {same, mapping(`{"properties":{"id":{"type":"keyword","ignore_above":99},"at":{"properties":{"day":{"type":"date"}}},"type":{"type":"text"}}}`),
			"mapping", migration.Warning, "properties.id.ignore_above"},
		"a default of the newer engine": {same, mapping(`{"dynamic":"true","properties":{"id":{"type":"keyword","ignore_above":256},"at":{"properties":{"day":{"type":"date"}}},"type":{"type":"text"}}}`),
			"mapping", migration.Warning, "dynamic"},
		"mapping not readable": {same, mapping(``), "mapping", migration.Unknown, "could not be read"},
		"setting differs":      {same, with("index.codec", "default"), "settings", migration.Warning, `index.codec (source "best_compression", destination "default")`},
		"setting added":        {same, with("index.max_result_window", "5"), "settings", migration.Warning, "index.max_result_window"},
		"setting lost":         {with("index.mapping.total_fields.limit", "5"), same, "settings", migration.Warning, "index.mapping.total_fields.limit"},
		"sample differs":       {same, func(x *Index) { x.Samples = map[string]string{"1/": "aa", "2/r": "cc"} }, "sampled-documents", migration.Broken, "1 of 2 sampled documents missing or different: 2/r"},
		"sample missing":       {same, func(x *Index) { x.Samples = map[string]string{"2/r": "bb"} }, "sampled-documents", migration.Broken, "1/"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := side(), side()
			c.source(&a)
			c.destination(&b)
			checks := Compare("logs", a, b)
			found := false
			for _, got := range checks {
				if got.Index != "logs" || got.Evidence == "" {
					t.Errorf("check %+v lacks index or evidence", got)
				}
				if got.Name == c.check {
					found = true
					if got.Outcome != c.outcome || !strings.Contains(got.Evidence, c.evidence) {
						t.Errorf("%+v, want %s with %q", got, c.outcome, c.evidence)
					}
				} else if got.Outcome != migration.Passed {
					t.Errorf("%+v, want passed", got)
				}
			}
			if found != (c.check != "") {
				t.Errorf("check %q found: %t in %+v", c.check, found, checks)
			}
			if c.check == "" && len(checks) != 6 {
				t.Errorf("%d checks, want 6: %+v", len(checks), checks)
			}
		})
	}
}

func alias(definition string) func(*Index) {
	return func(x *Index) { x.Aliases = map[string]json.RawMessage{"live": json.RawMessage(definition)} }
}

func mapping(m string) func(*Index) { return func(x *Index) { x.Mapping = json.RawMessage(m) } }

// What a domain gives itself, or the migration sets at the end, is no difference.
func TestOwnSettings(t *testing.T) {
	for _, key := range []string{
		"index.uuid", "index.creation_date", "index.provided_name", "index.version.created", "index.version.upgraded", "index.number_of_replicas",
		"index.auto_expand_replicas", "index.refresh_interval", "index.blocks.write", "index.routing.allocation.include._tier_preference",
		"index.replication.type", "index.plugins.index_state_management.rollover_alias", "index.lifecycle.name", "index.remote_store.enabled",
		"index.gc_deletes", "index.default_pipeline", "index.final_pipeline", "index.merge_on_flush.enabled",
	} {
		a, b := side(), side()
		b.Settings[key] = "its own"
		for _, c := range Compare("logs", a, b) {
			if c.Outcome != migration.Passed {
				t.Errorf("%s: %+v", key, c)
			}
		}
	}
	// A prefix must not swallow its neighbours.
	a, b := side(), side()
	b.Settings["index.routing_partition_size"] = "2"
	if got := migration.Judge(Compare("logs", a, b)); got != migration.VerifiedWithWarnings {
		t.Errorf("index.routing_partition_size: %s", got)
	}
}

func TestEvidenceIsBounded(t *testing.T) {
	a, b := side(), side()
	for i := range 100 {
		a.Samples[fmt.Sprintf("id%03d/", i)] = "x"
	}
	for _, c := range Compare("logs", a, b) {
		if c.Name == "sampled-documents" && (!strings.Contains(c.Evidence, "100 of 102") || !strings.Contains(c.Evidence, "and 90 more") || len(c.Evidence) > 300) {
			t.Errorf("evidence %q", c.Evidence)
		}
	}
}

func TestDigest(t *testing.T) {
	digest := func(id, routing string, version int64, source string) string {
		t.Helper()
		d, err := Digest(id, routing, version, json.RawMessage(source))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	base := digest("1", "", 3, `{"a":1,"b":{"c":[1,2],"d":null}}`)
	if got := digest("1", "", 3, "{ \"b\" : {\"d\":null,\"c\":[1, 2]},\n\"a\":1 }"); got != base {
		t.Error("white space and key order change the digest")
	}
	for name, other := range map[string]string{
		"id":          digest("2", "", 3, `{"a":1,"b":{"c":[1,2],"d":null}}`),
		"routing":     digest("1", "r", 3, `{"a":1,"b":{"c":[1,2],"d":null}}`),
		"version":     digest("1", "", 4, `{"a":1,"b":{"c":[1,2],"d":null}}`),
		"value":       digest("1", "", 3, `{"a":2,"b":{"c":[1,2],"d":null}}`),
		"type":        digest("1", "", 3, `{"a":"1","b":{"c":[1,2],"d":null}}`),
		"array order": digest("1", "", 3, `{"a":1,"b":{"c":[2,1],"d":null}}`),
		"null field":  digest("1", "", 3, `{"a":1,"b":{"c":[1,2]}}`),
		"no source":   digest("1", "", 3, ``),
	} {
		if other == base {
			t.Errorf("another %s gives the same digest", name)
		}
	}
	// 2^53 and 2^53+1 are one float64.
	if digest("1", "", 1, `{"n":9007199254740992}`) == digest("1", "", 1, `{"n":9007199254740993}`) {
		t.Error("big integers are rounded")
	}
	if digest(`a" "b`, "", 1, "{}") == digest("a", "b", 1, "{}") {
		t.Error("id and routing run into each other")
	}
	if _, err := Digest("7", "", 1, json.RawMessage(`{"a":`)); err == nil || !strings.Contains(err.Error(), `"7"`) {
		t.Errorf("a broken source: %v", err)
	}
}
