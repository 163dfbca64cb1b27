package contract

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// These facts are what replay, sampling and verification ask of a domain, beyond snapshots and restores.
var replayFacts = []fact{
	{"ranges of sequence numbers", ranges},
	{"preferences", preferences},
	{"primary terms", primaryTerms},
	{"bulk with versions", bulkWithVersions},
	{"deletions are forgotten", deletionsForgotten},
	{"pipelines can be passed by", pipelines},
	{"mappings merge", mappingsMerge},
	{"settings are unset", settingsUnset},
	{"refreshes need not merge", mergesOnRefresh},
	{"random order by a seed", randomOrder},
	{"plugins may be missing", noPlugins},
	{"source filters of mget", sourceFilters},
}

func ranges(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 100)
	c.write(c.index, 0, 20) // documents 0..19 now have 100..119
	search := func(body map[string]any) answer {
		body["size"] = 0
		return c.do("POST", "/"+c.index+"/_search?preference=_shards:0", body)
	}
	aggregate := func(kind string, body map[string]any) map[string]any {
		body["field"] = "_seq_no"
		return map[string]any{"a": map[string]any{kind: body}}
	}
	a := search(map[string]any{"aggs": aggregate("range", map[string]any{"ranges": []any{
		map[string]any{"key": "0", "from": 90, "to": 110}, map[string]any{"key": "1", "from": 0, "to": 30}, map[string]any{"key": "2",
			"from": 500, "to": 600},
		map[string]any{"from": 30, "to": 31}, map[string]any{"to": 25}, map[string]any{"from": 115}}})})
	// In the order of the bounds, lower ones included, upper ones not.
	for i, want := range []string{`*-25.0 5 to 25.0`, `1 10 from 0.0 to 30.0`, `30.0-31.0 1 from 30.0 to 31.0`, `0 20 from 90.0 to 110.0`,
		`115.0-* 5 from 115.0`,
		`2 0 from 500.0 to 600.0`} {
		b, _ := a.get("aggregations", "a", "buckets", i).(map[string]any)
		got := a.string("aggregations", "a", "buckets", i, "key") + " " + strconv.FormatInt(a.number("aggregations", "a", "buckets", i, "doc_count"), 10)
		for _, bound := range []string{"from", "to"} {
			if n, ok := b[bound].(json.Number); ok {
				got += " " + bound + " " + n.String()
			}
		}
		if got != want {
			c.Errorf("bucket %d: %q, want %q", i, got, want)
		}
	}
	if a := c.try("POST", "/"+c.index+"/_search", map[string]any{"size": 0, "aggs": aggregate("range",
		map[string]any{"ranges": []any{}})}); a.status != 400 ||
		a.string("error", "root_cause", 0, "reason") != "No [ranges] specified for the [a] aggregation" {
		c.Errorf("no ranges: %s", a.text)
	}
	within := func(gt, lte int) map[string]any {
		return map[string]any{"range": map[string]any{"_seq_no": map[string]any{"gt": gt, "lte": lte}}}
	}
	a = search(map[string]any{"track_total_hits": true, "query": map[string]any{"bool": map[string]any{"minimum_should_match": 1,
		"should": []any{within(24, 26), within(95, 100)}}}, "aggs": aggregate("histogram", map[string]any{"interval": 10, "min_doc_count": 1})})
	if got := a.number("hits", "total", "value"); got != 7 {
		c.Errorf("two ranges hold %d documents, want 7", got)
	}
	if got := histogramOf(a); !slices.Equal(got, [][2]int64{{20, 2}, {90, 4}, {100, 1}}) {
		c.Errorf("histogram of two ranges: %v", got)
	}
	// The bounds hold for the buckets' keys, not for the values.
	if strings.HasPrefix(c.engine, "elasticsearch-6") {
		return
	}
	a = search(map[string]any{"aggs": aggregate("histogram", map[string]any{"interval": 20, "min_doc_count": 1,
		"hard_bounds": map[string]any{"min": 30, "max": 60}})})
	if got := histogramOf(a); !slices.Equal(got, [][2]int64{{40, 20}, {60, 20}}) {
		c.Errorf("histogram with hard bounds: %v", got)
	}
}

func histogramOf(a answer) (buckets [][2]int64) {
	list, _ := a.get("aggregations", "a", "buckets").([]any)
	for i := range list {
		buckets = append(buckets, [2]int64{a.number("aggregations", "a", "buckets", i, "key"), a.number("aggregations", "a", "buckets", i, "doc_count")})
	}
	return buckets
}

func preferences(c *cluster) {
	c.create(c.index, 2)
	c.write(c.index, 0, 50)
	total := func(preference string) (shards, hits int64) {
		a := c.do("POST", "/"+c.index+"/_search?preference="+preference, map[string]any{"size": 0})
		return a.number("_shards", "total"), a.number("hits", "total", "value")
	}
	one, first := total("_shards:0")
	other, second := total("_shards:1%7C_local")
	if one != 1 || other != 1 || first == 0 || second == 0 || first+second != 50 {
		c.Errorf("shards 0 and 1: %d and %d documents on %d and %d shards, want 50 together", first, second, one, other)
	}
	if shards, hits := total("_shards:7"); shards != 0 || hits != 0 {
		c.Errorf("a shard that does not exist: %d shards, %d hits", shards, hits)
	}
	path := "/" + c.index + "/_search?preference=_shards:0%7C"
	if strings.HasPrefix(c.engine, "elasticsearch") || strings.HasPrefix(c.engine, "opensearch-1") {
		c.refused(400, "illegal_argument_exception", "no Preference for [_primary]", "POST", path+"_primary", nil)
	} else if shards, hits := total("_shards:0%7C_primary"); shards != 1 || hits != first {
		c.Errorf("the primary of shard 0: %d shards, %d hits", shards, hits)
	}
	c.refused(400, "illegal_argument_exception", "no Preference for [_nope]", "POST", path+"_nope", nil)
	c.refused(400, "illegal_argument_exception", "no Preference for [abc]", "POST", path+"abc", nil)
}

func primaryTerms(c *cluster) {
	c.create(c.index, 2)
	path := "/_cluster/state/metadata/" + c.index + "?filter_path=metadata.indices.*.primary_terms,metadata.indices.*.settings.index.uuid"
	term := func(shard string) int64 {
		return c.do("GET", path, nil).number("metadata", "indices", c.index, "primary_terms", shard)
	}
	if term("0") != 1 || term("1") != 1 {
		c.Errorf("a new index: %s", c.do("GET", path, nil).text)
	}
	a := c.do("GET", path, nil)
	stats := c.do("GET", "/"+c.index+"/_stats/docs?level=shards", nil)
	if m, _ := a.get("metadata", "indices").(map[string]any); len(m) != 1 ||
		a.string("metadata", "indices", c.index, "settings", "index", "uuid") != stats.string("indices", c.index, "uuid") {
		c.Errorf("one index was asked for: %s", a.text)
	}
	history := stats.string("indices", c.index, "shards", "0", 0, "commit", "user_data", "history_uuid")
	if history == "" || stats.get("indices", c.index, "shards", "0", 0, "routing", "primary") != true {
		c.Errorf("no history of a primary: %s", stats.text)
	}
	// A shard that starts again goes on in its history under a higher term, and writes carry it.
	c.do("POST", "/"+c.index+"/_close", nil)
	c.do("POST", "/"+c.index+"/_open", nil)
	c.started(c.index)
	after := term("0")
	w := c.do("PUT", "/"+c.index+"/_doc/1", map[string]any{"n": 1})
	if after <= 1 || w.number("_primary_term") != after {
		c.Errorf("after reopening the term is %d: %s", after, w.text)
	}
	stats = c.do("GET", "/"+c.index+"/_stats/docs?level=shards", nil)
	if got := stats.string("indices", c.index, "shards", "0", 0, "commit", "user_data", "history_uuid"); got != history {
		c.Errorf("the history is %s after reopening, was %s", got, history)
	}
	if a := c.do("GET", "/_cluster/state/metadata/c-none", nil); len(a.get("metadata", "indices").(map[string]any)) != 0 {
		c.Errorf("a missing index: %s", a.text)
	}
}

func bulkWithVersions(c *cluster) {
	c.create(c.index, 1)
	path := "/" + c.index + "/_bulk?pipeline=_none"
	send := func(lines ...string) answer { return c.do("POST", path, strings.Join(lines, "\n")+"\n") }
	index := func(version string) string {
		return `{"index":{"_id":"v","version":` + version + `,"version_type":"external_gte"}}`
	}
	remove := func(id, seqNo, term string) string {
		return `{"delete":{"_id":"` + id + `","if_seq_no":` + seqNo + `,"if_primary_term":` + term + `}}`
	}
	const gone = "required seqNo [1], primary term [1]. but no document was found"
	a := send(index("5"), `{"n":1}`, index("5"), `{"n":2}`, index("4"), `{"n":3}`, remove("v", "0", "1"), remove("v", "1", "2"), remove("v", "1", "1"),
		remove("v", "1", "1"), remove("none", "1", "1"), `{"delete":{"_id":"none"}}`,
		`{"index":{"_id":"w","version":1,"version_type":"external_gte"}}`, `{"n":"abc"}`, index("5"), `{"n":2}`, index("6"), `{"n":2}`)
	for i, want := range []struct {
		action         string
		status, seqNo  int64 // seqNo -1: the operation uses none
		result, reason string
	}{{"index", 201, 0, "created", ""}, {"index", 200, 1, "updated", ""}, {"index", 409, -1, "",
		"current version [5] is higher than the one provided [4]"},
		{"delete", 409, -1, "", "required seqNo [0], primary term [1]. current document has seqNo [1] and primary term [1]"},
		{"delete", 409, -1, "", "required seqNo [1], primary term [2]. current document has seqNo [1] and primary term [1]"},
		{"delete", 200, 2, "deleted", ""}, {"delete", 409, -1, "", gone}, {"delete", 409, -1, "", gone}, {"delete", 404, 3, "not_found", ""},
		{"index", 400, -1, "", "failed to parse field [n] of type [long] in document with id 'w'"},
		{"index", 409, -1, "", "current version [6] is higher than the one provided [5]"}, {"index", 201, 4, "created", ""}} {
		seqNo := int64(-1)
		if a.get("items", i, want.action, "_seq_no") != nil {
			seqNo = a.number("items", i, want.action, "_seq_no")
		}
		if a.number("items", i, want.action, "status") != want.status || seqNo != want.seqNo || a.string("items", i, want.action,
			"result") != want.result ||
			!strings.Contains(a.string("items", i, want.action, "error", "reason"), want.reason) {
			c.Errorf("item %d: %v, want %+v", i, a.get("items", i), want)
		}
	}
	// Such mistakes refuse the whole request.
	for reason, lines := range map[string]string{
		"ifSeqNo is set, but primary term is [0]": `{"delete":{"_id":"a","if_seq_no":1}}`,
		"illegal version value [-3] for version type [EXTERNAL_GTE]": `{"index":{"_id":"a"}}` + "\n{}\n" +
			`{"index":{"_id":"b","version_type":"external_gte"}}` + "\n{}",
		"1: ifSeqNo is unassigned, but primary term is [5];2: compare and write operations can not use versioning": `{"delete":{"_id":"a","if_primary_term":5}}` +
			"\n" + `{"delete":{"_id":"a","version":3,"version_type":"external_gte","if_seq_no":1,"if_primary_term":1}}`,
	} {
		c.refused(400, "action_request_validation_exception", reason, "POST", path, lines+"\n")
	}
	if n := c.count(c.index); n != 1 {
		c.Errorf("%d documents, want 1", n)
	}
}

func deletionsForgotten(c *cluster) {
	c.create(c.index, 1)
	path := "/" + c.index + "/_doc/1"
	const external = "?version_type=external_gte&version="
	c.do("PUT", path+external+"7", map[string]any{"n": 1})
	c.do("DELETE", path, nil)
	c.refused(409, "version_conflict_engine_exception", "current version [8]", "PUT", path+external+"1", map[string]any{"n": 1})
	c.do("PUT", "/"+c.index+"/_settings", map[string]any{"index.gc_deletes": "0s"})
	c.eventually("the deletion forgotten", func() bool {
		a := c.try("PUT", path+external+"1", map[string]any{"n": 1})
		return a.status == 201 && a.number("_version") == 1
	})
	c.refused(400, "illegal_argument_exception", "failed to parse setting [index.gc_deletes] with value [5]", "PUT", "/"+c.index+"/_settings",
		map[string]any{"index.gc_deletes": "5"})
	// A shard that starts again has forgotten them too.
	c.do("PUT", "/"+c.index+"/_settings", map[string]any{"index.gc_deletes": nil})
	c.do("DELETE", path, nil)
	c.do("POST", "/"+c.index+"/_close", nil)
	c.do("POST", "/"+c.index+"/_open", nil)
	c.started(c.index)
	if a := c.do("PUT", path, map[string]any{"n": 1}); a.number("_version") != 1 {
		c.Errorf("after reopening: %s", a.text)
	}
}

func pipelines(c *cluster) {
	c.create(c.index, 1)
	set := func(key string, value any) { c.do("PUT", "/"+c.index+"/_settings", map[string]any{key: value}) }
	write := func() answer {
		return c.do("POST", "/"+c.index+"/_bulk?pipeline=_none", `{"index":{"_id":"1"}}`+"\n{}\n")
	}
	set("index.default_pipeline", "c-none")
	c.refused(400, "illegal_argument_exception", "pipeline with id [c-none] does not exist", "PUT", "/"+c.index+"/_doc/1", map[string]any{})
	if a := write(); a.get("errors") != false {
		c.Errorf("pipeline=_none passes by the default pipeline: %s", a.text)
	}
	set("index.default_pipeline", nil)
	set("index.final_pipeline", "c-none")
	if a := write(); a.number("items", 0, "index", "status") != 400 || a.string("items", 0, "index", "error",
		"reason") != "pipeline with id [c-none] does not exist" {
		c.Errorf("pipeline=_none does not pass by the final pipeline: %s", a.text)
	}
	if a := c.do("POST", "/"+c.index+"/_bulk", `{"delete":{"_id":"1"}}`+"\n"); a.number("items", 0, "delete", "status") != 200 {
		c.Errorf("a deletion meets no pipeline: %s", a.text)
	}
	set("index.final_pipeline", nil)
	if a := write(); a.get("errors") != false {
		c.Errorf("without the setting: %s", a.text)
	}
}

func mappingsMerge(c *cluster) {
	c.create(c.index, 1) // n is a long, group a keyword
	path := "/" + c.index + "/_mapping"
	fields := func(properties map[string]any) map[string]any { return map[string]any{"properties": properties} }
	field := func(kind string) map[string]any { return map[string]any{"type": kind} }
	c.do("PUT", path, fields(map[string]any{"o": fields(map[string]any{"a": field("long")})}))
	c.do("PUT", path, fields(map[string]any{"o": fields(map[string]any{"b": field("keyword")}),
		"group": map[string]any{"type": "keyword", "ignore_above": 10}}))
	c.do("PUT", path, map[string]any{})
	m := c.do("GET", path, nil)
	at := []any{c.index, "mappings", "properties"}
	if m.string(append(slices.Clone(at), "o", "properties", "a", "type")...) != "long" ||
		m.string(append(slices.Clone(at), "o", "properties", "b", "type")...) != "keyword" ||
		m.string(append(slices.Clone(at), "n", "type")...) != "long" || m.number(append(slices.Clone(at), "group", "ignore_above")...) != 10 {
		c.Errorf("merged: %s", m.text)
	}
	for reason, body := range map[string]map[string]any{
		"mapper [n] cannot be changed from type [long] to [keyword]":          fields(map[string]any{"n": field("keyword")}),
		"can't merge a non object mapping [o] with an object mapping":         fields(map[string]any{"o": field("long")}),
		"can't merge a non object mapping [n] with an object mapping":         fields(map[string]any{"n": fields(map[string]any{"a": field("long")})}),
		"Root mapping definition has unsupported parameters:  [nonsense : 1]": {"nonsense": 1},
	} {
		kind := map[bool]string{true: "mapper_parsing_exception", false: "illegal_argument_exception"}[strings.HasPrefix(reason, "Root")]
		c.refused(400, kind, reason, "PUT", path, body)
	}
	c.refused(400, "parse_exception", "request body is required", "PUT", path, nil)
	c.refused(404, "index_not_found_exception", "no such index [c-none]", "PUT", "/c-none/_mapping", fields(map[string]any{}))
}

func settingsUnset(c *cluster) {
	c.create(c.index, 1)
	path := "/" + c.index + "/_settings"
	get := func(key string) string {
		return c.do("GET", path+"?flat_settings=true", nil).string(c.index, "settings", key)
	}
	c.do("PUT", path, map[string]any{"index.blocks.write": true, "index.gc_deletes": "5m", "index.number_of_replicas": 0})
	if get("index.blocks.write") != "true" || get("index.gc_deletes") != "5m" {
		c.Errorf("set: %q, %q", get("index.blocks.write"), get("index.gc_deletes"))
	}
	// What is not set can be unset too.
	c.do("PUT", path, map[string]any{"index.blocks.write": nil, "index.gc_deletes": nil, "index.final_pipeline": nil, "index.refresh_interval": nil})
	for _, key := range []string{"index.blocks.write", "index.gc_deletes", "index.final_pipeline", "index.refresh_interval"} {
		if got := get(key); got != "" {
			c.Errorf("%s is %q after it was unset", key, got)
		}
	}
	c.do("PUT", "/"+c.index+"/_doc/1", map[string]any{"n": 1})
}

func mergesOnRefresh(c *cluster) {
	c.create(c.index, 1)
	path, setting := "/"+c.index+"/_settings", "index.merge_on_flush.enabled"
	if strings.HasPrefix(c.engine, "elasticsearch") || strings.HasPrefix(c.engine, "opensearch-1") {
		for _, v := range []any{false, nil} {
			c.refused(400, "illegal_argument_exception", "unknown setting ["+setting+"]", "PUT", path, map[string]any{setting: v})
		}
		return
	}
	c.do("PUT", path, map[string]any{setting: false})
	if got := c.do("GET", path+"?flat_settings=true", nil).string(c.index, "settings", setting); got != "false" {
		c.Errorf("%s is %q", setting, got)
	}
	c.do("PUT", path, map[string]any{setting: nil})
}

func noPlugins(c *cluster) {
	if strings.HasPrefix(c.engine, "elasticsearch") {
		c.refused(404, "index_not_found_exception", "no such index [_opendistro]", "GET", "/_opendistro/_ism/policies", nil)
		return
	}
	if strings.HasPrefix(c.engine, "opensearch-1") {
		c.refused(404, "index_not_found_exception", "no such index [_plugins]", "GET", "/_plugins/_ism/policies", nil)
		return
	}
	if a := c.try("GET", "/_plugins/_ism/policies?size=1000", nil); a.status != 400 || !strings.Contains(a.text, "no handler found for uri [/_plugins/_ism/policies") {
		c.Errorf("%d %s", a.status, a.text)
	}
}

func randomOrder(c *cluster) {
	c.create(c.index, 2)
	c.write(c.index, 0, 200)
	draw := func(seed int) (ids []string, scores []float64) {
		a := c.do("POST", "/"+c.index+"/_search", map[string]any{"size": 10, "query": map[string]any{"function_score": map[string]any{
			"query": map[string]any{"match_all": map[string]any{}}, "random_score": map[string]any{"seed": seed, "field": "_seq_no"},
			"boost_mode": "replace"}}})
		for i := range 10 {
			ids = append(ids, a.string("hits", "hits", i, "_id"))
			score, _ := a.get("hits", "hits", i, "_score").(json.Number)
			f, err := score.Float64()
			if err != nil || f < 0 || f > 1 || i == 0 && a.get("hits", "max_score") != score {
				c.Fatalf("hit %d: %s", i, a.text)
			}
			scores = append(scores, -f)
		}
		if got := a.number("hits", "total", "value"); got != 200 {
			c.Errorf("total %d, want all 200", got)
		}
		return ids, scores
	}
	one, scores := draw(11)
	if again, _ := draw(11); !slices.Equal(one, again) {
		c.Errorf("the same seed drew %v, then %v", one, again)
	}
	if other, _ := draw(12); slices.Equal(one, other) {
		c.Errorf("two seeds drew %v", one)
	}
	if distinct := slices.Compact(slices.Sorted(slices.Values(one))); len(distinct) != 10 || !slices.IsSorted(scores) {
		c.Errorf("drew %v with scores %v, want ten documents, highest score first", one, scores)
	}
}

func sourceFilters(c *cluster) {
	c.create(c.index, 1)
	c.do("PUT", "/"+c.index+"/_doc/1", `{"n":1,"group":"g","o":{"a":1,"b":2}}`)
	get := func(query string, source any) (string, bool) {
		doc := map[string]any{"_id": "1"}
		if source != nil {
			doc["_source"] = source
		}
		a := c.do("POST", "/"+c.index+"/_mget"+query, map[string]any{"docs": []any{doc}})
		if a.get("docs", 0, "found") != true || a.get("docs", 0, "_version") == nil {
			c.Fatalf("mget: %s", a.text)
		}
		b, err := json.Marshal(a.get("docs", 0, "_source"))
		return string(b), err == nil && a.get("docs", 0, "_source") != nil
	}
	for _, tc := range []struct {
		query  string
		source any
		want   string
	}{
		{"", nil, `{"group":"g","n":1,"o":{"a":1,"b":2}}`},
		{"", []string{"n"}, `{"n":1}`},
		{"", "o.a", `{"o":{"a":1}}`},
		{"", map[string]any{"excludes": []string{"o", "group"}}, `{"n":1}`},
		{"", "nope", `{}`},
		{"?_source=n", nil, `{"n":1}`},
		{"?_source=n", []string{"group"}, `{"group":"g"}`},
	} {
		if got, _ := get(tc.query, tc.source); got != tc.want {
			c.Errorf("mget%s of %v: %s, want %s", tc.query, tc.source, got, tc.want)
		}
	}
	for query, source := range map[string]any{"": false, "?_source=false": nil} {
		if got, has := get(query, source); has {
			c.Errorf("mget%s without a source: %s", query, got)
		}
	}
}
