package domain

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"math"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// matcher tells whether a document belongs to a query's result.
type matcher func(*document) bool

// seqRange is the part of a query that bounds _seq_no: documents lie in its order, so it is a slice of them.
type seqRange struct{ from, to int64 } // both inclusive

type compiled struct {
	bounds seqRange
	match  matcher // nil: all within the bounds
}

func unknownQuery(name string) *apiError { return notImplemented("the query [%s]", name) }

func (d *Domain) compile(ix *index, q map[string]any) (compiled, *apiError) {
	all := compiled{bounds: seqRange{0, math.MaxInt64}}
	if len(q) == 0 {
		return all, nil
	}
	if len(q) != 1 {
		return all, fail(400, "parsing_exception", "[%s] malformed query, expected [END_OBJECT] but found [FIELD_NAME]", sortedKeys(q)[0])
	}
	for name, v := range q {
		body, isObject := v.(map[string]any)
		if !isObject {
			return all, fail(400, "parsing_exception", "[%s] query malformed, no start_object after query name", name)
		}
		switch name {
		case "match_all":
			return all, nil
		case "match_none":
			all.bounds = seqRange{1, 0}
			return all, nil
		case "ids":
			values, ok := body["values"].([]any)
			if !ok {
				return all, fail(400, "illegal_argument_exception", "[ids] requires providing 'values'")
			}
			return withIDs(all, values), nil
		case "term", "terms":
			delete(body, "boost")
			for field, value := range body {
				values, isList := value.([]any)
				if m, isMap := value.(map[string]any); isMap && name == "term" {
					value = m["value"]
				}
				if isList == (name == "term") {
					return all, fail(400, "parsing_exception", "[%s] query does not support that form for [%s]", name, field)
				}
				if name == "term" {
					values = []any{value}
				}
				return compileTerms(ix, all, field, values)
			}
			return all, fail(400, "parsing_exception", "[%s] query needs a field", name)
		case "exists":
			field := textOf(body["field"])
			all.match = func(doc *document) bool { return len(fieldValues(doc, field)) > 0 }
			return all, nil
		case "range":
			for field, value := range body {
				limits, ok := value.(map[string]any)
				if !ok {
					return all, fail(400, "parsing_exception", "[range] query does not support [%s]", field)
				}
				return compileRange(ix, all, field, limits)
			}
			return all, fail(400, "parsing_exception", "[range] query needs a field")
		case "constant_score":
			filter, _ := body["filter"].(map[string]any)
			return d.compile(ix, filter)
		case "bool":
			return d.compileBool(ix, all, body)
		}
		return all, unknownQuery(name)
	}
	return all, nil
}

func withIDs(c compiled, values []any) compiled {
	ids := map[string]bool{}
	for _, v := range values {
		ids[textOf(v)] = true
	}
	c.match = func(doc *document) bool { return ids[doc.id] }
	return c
}

func compileTerms(ix *index, all compiled, field string, values []any) (compiled, *apiError) {
	switch field {
	case "_id":
		return withIDs(all, values), nil
	case "_index":
		hit := slices.ContainsFunc(values, func(v any) bool { return wildcard(textOf(v), ix.name) })
		all.match = func(*document) bool { return hit }
		return all, nil
	}
	want := map[string]bool{}
	for _, v := range values {
		want[textOf(v)] = true
	}
	switch field {
	case "_routing":
		all.match = func(doc *document) bool { return want[doc.routing] }
		return all, nil
	case "_seq_no":
		all.match = func(doc *document) bool { return want[strconv.FormatInt(doc.seqNo, 10)] }
		return all, nil
	}
	kind := ix.fields[field]
	switch kind {
	case "keyword", "boolean", "long", "integer", "short", "byte", "double", "float", "half_float", "ip":
	case "":
		all.bounds = seqRange{1, 0} // an unmapped field matches nothing
		return all, nil
	default:
		return all, notImplemented("[term] on field [%s] of type [%s]", field, kind)
	}
	path := ix.sourcePath(field)
	numeric := kind != "keyword" && kind != "boolean" && kind != "ip"
	numbers := map[float64]bool{}
	for w := range want {
		if n, err := strconv.ParseFloat(w, 64); err == nil {
			numbers[n] = true
		}
	}
	all.match = func(doc *document) bool {
		return slices.ContainsFunc(fieldValues(doc, path), func(v gjson.Result) bool {
			if numeric {
				return numbers[v.Float()]
			}
			return want[v.String()]
		})
	}
	return all, nil
}

// sourcePath strips the name of a multi-field.
func (ix *index) sourcePath(field string) string {
	if parent, _, ok := cutLast(field, "."); ok {
		if kind, known := ix.fields[parent]; known && kind != "object" && kind != "nested" {
			return parent
		}
	}
	return field
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// fieldValues finds the values of a field in the source, through objects, arrays and dotted names.
func fieldValues(doc *document, path string) []gjson.Result {
	var out []gjson.Result
	var walk func(v gjson.Result, rest string)
	walk = func(v gjson.Result, rest string) {
		switch {
		case v.IsArray():
			v.ForEach(func(_, e gjson.Result) bool { walk(e, rest); return true })
		case rest == "":
			if v.Type != gjson.Null && !v.IsObject() {
				out = append(out, v)
			}
		case v.IsObject():
			v.ForEach(func(k, e gjson.Result) bool {
				name := k.String()
				if name == rest {
					walk(e, "")
				} else if sub, ok := strings.CutPrefix(rest, name+"."); ok {
					walk(e, sub)
				}
				return true
			})
		}
	}
	walk(gjson.ParseBytes(doc.source), path)
	return out
}

func compileRange(ix *index, all compiled, field string, limits map[string]any) (compiled, *apiError) {
	low, high := math.Inf(-1), math.Inf(1)
	lowOpen, highOpen := false, false
	for k, v := range limits {
		if k == "boost" || k == "format" || v == nil {
			continue
		}
		n, err := strconv.ParseFloat(textOf(v), 64)
		if err != nil {
			if ix.fields[field] == "date" {
				t, ok := parseDate(textOf(v))
				if !ok {
					return all, notImplemented("date math or this date format in [range]: %q", textOf(v))
				}
				n = t
			} else {
				return all, notImplemented("[range] over text values (field [%s])", field)
			}
		}
		switch k {
		case "gt", "gte":
			low, lowOpen = n, k == "gt"
		case "lt", "lte":
			high, highOpen = n, k == "lt"
		default:
			return all, fail(400, "parsing_exception", "[range] query does not support [%s]", k)
		}
	}
	if field == "_seq_no" {
		if !math.IsInf(low, -1) {
			all.bounds.from = int64(math.Ceil(low))
			if lowOpen && low == math.Trunc(low) {
				all.bounds.from++
			}
		}
		if !math.IsInf(high, 1) {
			all.bounds.to = int64(math.Floor(high))
			if highOpen && high == math.Trunc(high) {
				all.bounds.to--
			}
		}
		return all, nil
	}
	kind := ix.fields[field]
	switch kind {
	case "":
		all.bounds = seqRange{1, 0}
		return all, nil
	case "long", "integer", "short", "byte", "double", "float", "half_float", "scaled_float", "date", "unsigned_long":
	default:
		return all, notImplemented("[range] on field [%s] of type [%s]", field, kind)
	}
	all.match = func(doc *document) bool {
		return slices.ContainsFunc(fieldValues(doc, field), func(v gjson.Result) bool {
			n := v.Float()
			if kind == "date" && v.Type == gjson.String {
				n, _ = parseDate(v.Str)
			}
			return (n > low || !lowOpen && n == low) && (n < high || !highOpen && n == high)
		})
	}
	return all, nil
}

func parseDate(s string) (float64, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02", "2006-01"} {
		if t, err := time.Parse(layout, s); err == nil {
			return float64(t.UnixMilli()), true
		}
	}
	return 0, false
}

func (d *Domain) compileBool(ix *index, all compiled, body map[string]any) (compiled, *apiError) {
	var must, should, not []compiled
	minimum := -1
	for _, k := range sortedKeys(body) {
		var list []any
		switch v := body[k].(type) {
		case []any:
			list = v
		case map[string]any:
			list = []any{v}
		}
		switch k {
		case "must", "filter", "should", "must_not":
		case "minimum_should_match":
			n, err := strconv.Atoi(textOf(body[k]))
			if err != nil {
				return all, notImplemented("this minimum_should_match")
			}
			minimum = n
			continue
		case "boost":
			continue
		default:
			return all, fail(400, "parsing_exception", "[bool] query does not support [%s]", k)
		}
		for _, e := range list {
			q, _ := e.(map[string]any)
			c, err := d.compile(ix, q)
			if err != nil {
				return all, err
			}
			switch k {
			case "must", "filter":
				must = append(must, c)
			case "should":
				should = append(should, c)
			case "must_not":
				not = append(not, c)
			}
		}
	}
	if minimum < 0 {
		minimum = 0
		if len(must) == 0 && len(should) > 0 {
			minimum = 1
		}
	}
	for _, c := range must {
		all.bounds.from, all.bounds.to = max(all.bounds.from, c.bounds.from), min(all.bounds.to, c.bounds.to)
	}
	whole := func(c compiled, doc *document) bool {
		return doc.seqNo >= c.bounds.from && doc.seqNo <= c.bounds.to && (c.match == nil || c.match(doc))
	}
	all.match = func(doc *document) bool {
		for _, c := range must {
			if c.match != nil && !c.match(doc) {
				return false
			}
		}
		for _, c := range not {
			if whole(c, doc) {
				return false
			}
		}
		hits := 0
		for _, c := range should {
			if whole(c, doc) {
				hits++
			}
		}
		return hits >= minimum
	}
	return all, nil
}

// hit is a document of a result with its index and sort values.
type hit struct {
	doc   *document
	index *index
	shard int
	sort  []any
	score float64 // 0: not scored
}

type sortKey struct {
	field string
	desc  bool
}

func parseSort(v any) ([]sortKey, *apiError) {
	var list []any
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []any:
		list = v
	default:
		list = []any{v}
	}
	var keys []sortKey
	for _, e := range list {
		switch e := e.(type) {
		case string:
			field, order, _ := strings.Cut(e, ":")
			keys = append(keys, sortKey{field, order == "desc"})
		case map[string]any:
			for field, o := range e {
				k := sortKey{field: field}
				switch o := o.(type) {
				case string:
					k.desc = o == "desc"
				case map[string]any:
					for name, value := range o {
						switch name {
						case "order":
							k.desc = value == "desc"
						case "unmapped_type", "missing":
						default:
							return nil, notImplemented("the sort option [%s]", name)
						}
					}
				}
				keys = append(keys, k)
			}
		}
	}
	for _, k := range keys {
		if k.field == "_score" {
			return nil, notImplemented("sorting by _score")
		}
	}
	return keys, nil
}

func sortValue(ix *index, doc *document, position int, field string) any {
	switch field {
	case "_seq_no":
		return doc.seqNo
	case "_doc", "_shard_doc":
		return int64(position)
	case "_id":
		return doc.id
	}
	values := fieldValues(doc, ix.sourcePath(field))
	if len(values) == 0 {
		return nil
	}
	switch ix.fields[field] {
	case "keyword":
		return values[0].String()
	case "date":
		if values[0].Type == gjson.String {
			t, _ := parseDate(values[0].Str)
			return int64(t)
		}
	}
	if values[0].Type == gjson.Number && !strings.ContainsAny(values[0].Raw, ".eE") {
		return values[0].Int()
	}
	if values[0].Type == gjson.String {
		return values[0].Str
	}
	return values[0].Float()
}

// compareValues orders sort values; missing ones are last.
func compareValues(a, b any) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	if x, ok := a.(int64); ok {
		if y, ok := b.(int64); ok {
			return cmp.Compare(x, y)
		}
	}
	x, errX := strconv.ParseFloat(textOf(a), 64)
	y, errY := strconv.ParseFloat(textOf(b), 64)
	if _, text := a.(string); errX == nil && errY == nil && !text {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(textOf(a), textOf(b))
}

func compareHits(keys []sortKey, a, b []any) int {
	for i, k := range keys {
		c := compareValues(a[i], b[i])
		if k.desc && a[i] != nil && b[i] != nil {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// scroll is an open cursor over a fixed result.
type scroll struct {
	rest    []hit
	options hitOptions
	size    int
	total   int
	shards  int
	expires time.Time
}

type hitOptions struct {
	version, seqNo bool
	source         sourceFilter
	docvalues      []string
	score          bool
	typed          bool
}

type sourceFilter struct {
	off                bool
	includes, excludes []string
}

func parseSource(v any) (sourceFilter, *apiError) {
	list := func(v any) []string {
		var out []string
		switch v := v.(type) {
		case string:
			out = strings.Split(v, ",")
		case []any:
			for _, e := range v {
				out = append(out, textOf(e))
			}
		}
		return out
	}
	switch v := v.(type) {
	case nil:
		return sourceFilter{}, nil
	case bool:
		return sourceFilter{off: !v}, nil
	case map[string]any:
		return sourceFilter{includes: list(cmp.Or[any](v["includes"], v["include"])), excludes: list(cmp.Or[any](v["excludes"], v["exclude"]))}, nil
	case string:
		if v == "false" || v == "true" {
			return sourceFilter{off: v == "false"}, nil
		}
	}
	return sourceFilter{includes: list(v)}, nil
}

func (f sourceFilter) apply(source []byte) any {
	if f.includes == nil && f.excludes == nil {
		return json.RawMessage(source)
	}
	dec := json.NewDecoder(bytes.NewReader(source))
	dec.UseNumber()
	var doc any
	_ = dec.Decode(&doc)
	paths := strings.Join(f.includes, ",")
	for _, e := range f.excludes {
		paths += ",-" + e
	}
	return filterPath(doc, strings.Trim(paths, ","))
}

// scored is the score as it is written: 1.0 where a query gives every document the same.
func (h hit) scored() json.Number { return json.Number(javaFloat(cmp.Or(h.score, 1))) }

func (o hitOptions) render(h hit) map[string]any {
	m := map[string]any{"_index": h.index.name, "_id": h.doc.id, "_score": nil}
	if o.score {
		m["_score"] = h.scored()
	}
	if o.typed {
		m["_type"] = "_doc"
	}
	if h.doc.routing != "" {
		m["_routing"] = h.doc.routing
	}
	if o.version {
		m["_version"] = h.doc.version
	}
	if o.seqNo {
		m["_seq_no"], m["_primary_term"] = h.doc.seqNo, h.doc.term
	}
	if !o.source.off && h.index.sourceEnabled() {
		m["_source"] = o.source.apply(h.doc.source)
	}
	if h.sort != nil {
		m["sort"] = h.sort
	}
	for _, f := range o.docvalues {
		if f == "_seq_no" {
			m["fields"] = map[string]any{"_seq_no": []any{h.doc.seqNo}}
		}
	}
	return m
}

type searchTarget struct {
	shard *shard
	index *index
	docs  []*document
}

func searchFailure(status int, inner *apiError, index, node string) *apiError {
	e := fail(status, "search_phase_execution_exception", "all shards failed").with("phase", "query", "grouped", true, "failed_shards",
		[]any{map[string]any{"shard": 0, "index": index, "node": node, "reason": inner.object()}})
	e.rootCause = inner.object()
	e.cause = inner.object()
	return e
}

// searchTargets takes the views that a search runs on.
func (r *request) searchTargets() ([]searchTarget, []*index, int, int, *apiError) {
	d := r.domain
	d.mu.Lock()
	defer d.mu.Unlock()
	list, err := d.resolve(r.args["index"], resolveOptions{ignoreMissing: r.flag("ignore_unavailable", false), resourceType: "index_or_alias", streams: true})
	if err != nil {
		return nil, nil, 0, 0, err
	}
	for name := range strings.SplitSeq(r.args["index"], ",") {
		if d.indices[name] == nil && name != "" && !strings.Contains(name, "*") && name != "_all" {
			for _, ix := range list {
				if alias, ok := ix.aliases[name]; ok && (alias["filter"] != nil || alias["search_routing"] != nil) {
					return nil, nil, 0, 0, notImplemented("searches through an alias with a filter or routing ([%s])", name)
				}
			}
		}
	}
	only, err := d.preferredShards(r.query.Get("preference"))
	if err != nil {
		return nil, nil, 0, 0, err
	}
	var targets []searchTarget
	total, successful := 0, 0
	now := d.clock.Now()
	for _, ix := range list {
		if ix.closed {
			return nil, nil, 0, 0, ix.closedError()
		}
		if err := ix.blockedFor("read"); err != nil {
			return nil, nil, 0, 0, err
		}
		var routed map[*shard]bool
		if routing := r.query.Get("routing"); routing != "" {
			routed = map[*shard]bool{}
			for value := range strings.SplitSeq(routing, ",") {
				routed[ix.shardFor(value)] = true
			}
		}
		for _, s := range ix.shards {
			if only != nil && !only[s.number] || routed != nil && !routed[s] {
				continue
			}
			total++
			if s.state != started {
				continue
			}
			successful++
			s.lazyRefresh(now)
			targets = append(targets, searchTarget{s, ix, s.visible()})
		}
	}
	if total > 0 && successful == 0 {
		return nil, nil, 0, 0, fail(503, "search_phase_execution_exception", "all shards failed").with("phase", "query", "grouped", true,
			"failed_shards", []any{})
	}
	return targets, list, total, successful, nil
}

// preferredShards reads the preference of a search: the shards that it is limited to, nil for all. Which copy answers makes no
// difference here, but a preference that an engine refuses is refused alike.
func (d *Domain) preferredShards(preference string) (map[int]bool, *apiError) {
	var only map[int]bool
	spec, sharded := strings.CutPrefix(preference, "_shards:")
	if sharded {
		var more bool
		spec, preference, more = strings.Cut(spec, "|")
		only = map[int]bool{}
		for n := range strings.SplitSeq(spec, ",") {
			i, err := strconv.Atoi(n)
			if err != nil {
				return nil, fail(400, "number_format_exception", "For input string: %q", n)
			}
			only[i] = true
		}
		if !more {
			return only, nil
		}
	} else if !strings.HasPrefix(preference, "_") {
		return nil, nil // any other text picks a copy, the same one each time
	}
	kind, _, _ := strings.Cut(preference, ":")
	switch kind {
	case "_local":
		return only, nil
	case "_only_local", "_prefer_nodes", "_only_nodes":
		return nil, notImplemented("the preference [%s]", preference)
	case "_primary", "_primary_first", "_replica", "_replica_first":
		// Elasticsearch dropped these with 7.0, OpenSearch brought them back with 2.7.
		if d.engine.openSearch && (d.engine.major > 2 || d.engine.major == 2 && d.engine.minor >= 7) || d.engine.before(7, 0) {
			if strings.HasPrefix(kind, "_replica") {
				return nil, notImplemented("the preference [%s]", preference)
			}
			return only, nil
		}
	}
	return nil, fail(400, "illegal_argument_exception", "no Preference for [%s]", preference)
}

func (t searchTarget) within(b seqRange) []*document {
	from := sort.Search(len(t.docs), func(i int) bool { return t.docs[i].seqNo >= b.from })
	if b.to == math.MaxInt64 {
		return t.docs[from:]
	}
	to := sort.Search(len(t.docs), func(i int) bool { return t.docs[i].seqNo > b.to })
	return t.docs[from:max(from, to)]
}

// randomScore takes the one form of function_score that is modelled off a query: a random order that a seed and the documents'
// sequence numbers decide.
func randomScore(query map[string]any) (inner map[string]any, score func(hit) float64, failed *apiError) {
	spec, ok := query["function_score"].(map[string]any)
	if !ok {
		return query, nil, nil
	}
	random, _ := spec["random_score"].(map[string]any)
	seed, err := strconv.ParseInt(textOf(random["seed"]), 10, 64)
	if err != nil || random["field"] != "_seq_no" || spec["boost_mode"] != "replace" {
		return nil, nil, notImplemented("function_score other than random_score with a seed, by [_seq_no], boost_mode [replace]")
	}
	for _, k := range sortedKeys(spec) {
		if k != "query" && k != "random_score" && k != "boost_mode" {
			return nil, nil, notImplemented("the option [%s] of function_score", k)
		}
	}
	inner, _ = spec["query"].(map[string]any)
	return inner, func(h hit) float64 {
		var b [24]byte
		binary.LittleEndian.PutUint64(b[:], uint64(seed))
		binary.LittleEndian.PutUint64(b[8:], uint64(h.shard))
		binary.LittleEndian.PutUint64(b[16:], uint64(h.doc.seqNo))
		f := fnv.New64a()
		f.Write(b[:])
		return float64(f.Sum64()>>11) / (1 << 53)
	}, nil
}

func handleSearch(r *request) (int, any, *apiError) {
	d := r.domain
	begin := d.clock.Now()
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	if r.query.Get("q") != "" {
		return 0, nil, notImplemented("the query string parameter [q]")
	}
	for _, k := range sortedKeys(body) {
		switch k {
		case "query", "size", "from", "sort", "search_after", "track_total_hits", "version", "seq_no_primary_term", "_source", "aggs", "aggregations", "docvalue_fields",
			"timeout", "track_scores", "stored_fields":
		default:
			return 0, nil, fail(400, "parsing_exception", "Unknown key in [%s], or one that the built-in domain model does not implement.", k)
		}
	}
	if body["stored_fields"] != nil {
		return 0, nil, notImplemented("stored_fields")
	}
	number := func(name string, fallback int) int {
		text := r.query.Get(name)
		if v, ok := body[name]; ok {
			text = textOf(v)
		}
		if n, err := strconv.Atoi(text); err == nil {
			return n
		}
		return fallback
	}
	size, from := number("size", 10), number("from", 0)
	if size < 0 || from < 0 {
		return 0, nil, fail(400, "illegal_argument_exception", "[size] and [from] must not be negative")
	}
	flag := func(name string) bool { return body[name] == true || body[name] == nil && r.flag(name, false) }
	options := hitOptions{version: flag("version"), seqNo: flag("seq_no_primary_term"), typed: d.typed()}
	source := body["_source"]
	if source == nil && r.query.Has("_source") {
		source = r.query.Get("_source")
	}
	if options.source, err = parseSource(source); err != nil {
		return 0, nil, err
	}
	if list, ok := body["docvalue_fields"].([]any); ok {
		for _, f := range list {
			if m, isMap := f.(map[string]any); isMap {
				f = m["field"]
			}
			if f != "_seq_no" {
				return 0, nil, notImplemented("docvalue_fields other than _seq_no")
			}
			options.docvalues = append(options.docvalues, "_seq_no")
		}
	}
	sortSpec := body["sort"]
	if sortSpec == nil && r.query.Get("sort") != "" {
		var list []any
		for k := range strings.SplitSeq(r.query.Get("sort"), ",") {
			list = append(list, k)
		}
		sortSpec = list
	}
	keys, err := parseSort(sortSpec)
	if err != nil {
		return 0, nil, err
	}
	options.score = len(keys) == 0
	after, _ := body["search_after"].([]any)
	if after != nil && len(after) != len(keys) {
		return 0, nil, fail(400, "illegal_argument_exception", "search_after has %d value(s) but sort has %d.", len(after), len(keys))
	}
	for i := range after {
		if n, err := strconv.ParseInt(textOf(after[i]), 10, 64); err == nil {
			if _, isNumber := after[i].(json.Number); isNumber {
				after[i] = n
			}
		}
	}
	scrolling := r.query.Get("scroll")
	if scrolling != "" && (from > 0 || after != nil) {
		return 0, nil, fail(400, "action_request_validation_exception",
			"Validation Failed: 1: using [from] or [search_after] is not allowed in a scroll context;")
	}
	targets, list, total, successful, err := r.searchTargets()
	if err != nil {
		return 0, nil, err
	}
	for _, ix := range list {
		window := 10000
		if n := ix.number("index.max_result_window"); n > 0 {
			window = n
		}
		if scrolling == "" && from+size > window || scrolling != "" && size > window {
			return 0, nil, searchFailure(400, fail(400, "illegal_argument_exception",
				"Result window is too large, from + size must be less than or equal to: [%d] but was [%d]. See the scroll api for a more "+
					"efficient way to request large data sets. This limit can be set by changing the [index.max_result_window] index level setting.",
				window, from+size), ix.name, d.nodes[0].id)
		}
	}
	query, _ := body["query"].(map[string]any)
	query, shuffle, err := randomScore(query)
	if err != nil {
		return 0, nil, err
	}
	aggs, _ := cmp.Or[any](body["aggs"], body["aggregations"]).(map[string]any)
	var hits []hit
	count := 0
	matched := map[*index][]*document{}
	cap := size + from
	for _, t := range targets {
		c, err := d.compileLocked(t.index, query)
		if err != nil {
			return 0, nil, err
		}
		// A page by ascending sequence number starts where the last one ended.
		bySeq := len(keys) == 1 && keys[0].field == "_seq_no" && !keys[0].desc
		taken := 0
		for position, doc := range t.within(c.bounds) {
			if c.match != nil && !c.match(doc) {
				continue
			}
			count++
			if aggs != nil {
				matched[t.index] = append(matched[t.index], doc)
			}
			if scrolling == "" && (size == 0 || (len(keys) == 0 && shuffle == nil || bySeq) && taken >= cap) {
				continue
			}
			h := hit{doc: doc, index: t.index, shard: t.shard.number}
			if shuffle != nil {
				h.score = shuffle(h)
			}
			for _, k := range keys {
				h.sort = append(h.sort, sortValue(t.index, doc, position, k.field))
			}
			if after != nil && compareHits(keys, h.sort, after) <= 0 {
				continue
			}
			taken++
			hits = append(hits, h)
		}
	}
	if len(keys) > 0 && (len(keys) != 1 || keys[0].field != "_doc") {
		slices.SortStableFunc(hits, func(a, b hit) int { return compareHits(keys, a.sort, b.sort) })
	}
	if shuffle != nil && len(keys) == 0 {
		slices.SortStableFunc(hits, func(a, b hit) int { return cmp.Compare(b.score, a.score) })
	}
	answer := map[string]any{"timed_out": false, "_shards": map[string]any{"total": total, "successful": successful, "skipped": 0, "failed": 0}}
	if scrolling != "" {
		keep, e := parseTime(scrolling)
		if e != nil {
			return 0, nil, fail(400, "illegal_argument_exception", "failed to parse setting [scroll] with value [%s] as a time value", scrolling)
		}
		sc := &scroll{rest: hits, options: options, size: size, total: count, shards: total, expires: d.clock.Now().Add(keep)}
		d.mu.Lock()
		id := "FGluY2x1ZGVfY29udGV4dF91dWlk" + d.randomText(40)
		d.scrolls[id] = sc
		d.mu.Unlock()
		answer["_scroll_id"] = id
		answer["hits"] = sc.page()
		answer["took"] = d.clock.Now().Sub(begin).Milliseconds()
		return ok(answer)
	}
	best := slices.Clone(hits[:min(1, len(hits))])
	hits = hits[min(from, len(hits)):]
	hits = hits[:min(size, len(hits))]
	rendered := make([]any, len(hits))
	for i, h := range hits {
		rendered[i] = options.render(h)
	}
	result := map[string]any{"max_score": nil, "hits": rendered}
	if options.score && len(hits) > 0 {
		result["max_score"] = best[0].scored()
	}
	track := body["track_total_hits"]
	if track == nil && r.query.Has("track_total_hits") {
		track = r.query.Get("track_total_hits")
	}
	if err := addTotal(result, count, textOfOr(track, ""), d.engine.before(7, 0) || r.flag("rest_total_hits_as_int", false)); err != nil {
		return 0, nil, err
	}
	answer["hits"] = result
	if aggs != nil {
		out := map[string]any{}
		for _, name := range sortedKeys(aggs) {
			spec, _ := aggs[name].(map[string]any)
			v, err := aggregate(name, spec, matched)
			if err != nil {
				return 0, nil, err
			}
			out[name] = v
		}
		answer["aggregations"] = out
	}
	answer["took"] = d.clock.Now().Sub(begin).Milliseconds()
	return ok(answer)
}

// compileLocked reads the mapping, which writes may change, under the lock.
func (d *Domain) compileLocked(ix *index, q map[string]any) (compiled, *apiError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.compile(ix, cloneJSON(q))
}

func addTotal(result map[string]any, count int, track string, asInt bool) *apiError {
	if asInt {
		result["total"] = count
		return nil
	}
	limit := 10000
	switch track {
	case "":
	case "true":
		limit = math.MaxInt
	case "false":
		return nil
	default:
		n, err := strconv.Atoi(track)
		if err != nil {
			return fail(400, "illegal_argument_exception", "[track_total_hits] parameter must be true, false or a number, got [%s]", track)
		}
		limit = n
	}
	relation := "eq"
	if count > limit {
		count, relation = limit, "gte"
	}
	result["total"] = map[string]any{"value": count, "relation": relation}
	return nil
}

func (s *scroll) page() map[string]any {
	n := min(s.size, len(s.rest))
	rendered := make([]any, n)
	for i, h := range s.rest[:n] {
		rendered[i] = s.options.render(h)
	}
	s.rest = s.rest[n:]
	out := map[string]any{"max_score": nil, "hits": rendered, "total": map[string]any{"value": s.total, "relation": "eq"}}
	if s.options.score {
		out["max_score"] = json.Number("1.0")
	}
	return out
}

func handleScroll(r *request) (int, any, *apiError) {
	d := r.domain
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	id := textOfOr(body["scroll_id"], r.query.Get("scroll_id"))
	d.mu.Lock()
	defer d.mu.Unlock()
	sc := d.scrolls[id]
	now := d.clock.Now()
	if sc == nil && !strings.HasPrefix(id, "FGluY2x1ZGVfY29udGV4dF91dWlk") {
		return 0, nil, fail(400, "illegal_argument_exception", "Cannot parse scroll id")
	}
	if sc == nil || now.After(sc.expires) {
		delete(d.scrolls, id)
		return 0, nil, func() *apiError {
			e := fail(404, "search_phase_execution_exception", "all shards failed").with("phase", "query", "grouped", true, "failed_shards", []any{})
			e.rootCause = map[string]any{"type": "search_context_missing_exception", "reason": "No search context found for id [1]"}
			return e
		}()
	}
	if keep, e := parseTime(textOfOr(body["scroll"], r.query.Get("scroll"))); e == nil && keep > 0 {
		sc.expires = now.Add(keep)
	}
	return ok(map[string]any{"_scroll_id": id, "took": 0, "timed_out": false, "hits": sc.page(),
		"_shards": map[string]any{"total": sc.shards, "successful": sc.shards, "skipped": 0, "failed": 0}})
}

func handleClearScroll(r *request) (int, any, *apiError) {
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	ids := []any{r.query.Get("scroll_id")}
	switch v := body["scroll_id"].(type) {
	case string:
		ids = []any{v}
	case []any:
		ids = v
	}
	freed := 0
	for _, id := range ids {
		if _, found := r.domain.scrolls[textOf(id)]; found {
			delete(r.domain.scrolls, textOf(id))
			freed++
		}
	}
	if freed == 0 {
		return 404, map[string]any{"succeeded": true, "num_freed": 0}, nil
	}
	return ok(map[string]any{"succeeded": true, "num_freed": freed})
}

func handleCount(r *request) (int, any, *apiError) {
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	for k := range body {
		if k != "query" {
			return 0, nil, fail(400, "parsing_exception", "request does not support [%s]", k)
		}
	}
	targets, _, total, successful, err := r.searchTargets()
	if err != nil {
		return 0, nil, err
	}
	query, _ := body["query"].(map[string]any)
	count := 0
	for _, t := range targets {
		c, err := r.domain.compileLocked(t.index, query)
		if err != nil {
			return 0, nil, err
		}
		docs := t.within(c.bounds)
		if c.match == nil {
			count += len(docs)
			continue
		}
		for _, doc := range docs {
			if c.match(doc) {
				count++
			}
		}
	}
	return ok(map[string]any{"count": count, "_shards": map[string]any{"total": total, "successful": successful, "skipped": 0, "failed": 0}})
}

// double writes a number as the engines write doubles: 5.0, not 5.
func double(v float64) json.Number {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return json.Number(strconv.FormatFloat(v, 'f', 1, 64))
	}
	return json.Number(strconv.FormatFloat(v, 'g', -1, 64))
}

func aggregate(name string, spec map[string]any, docs map[*index][]*document) (map[string]any, *apiError) {
	if spec["aggs"] != nil || spec["aggregations"] != nil {
		return nil, notImplemented("aggregations inside aggregations")
	}
	if len(spec) != 1 {
		return nil, fail(400, "parsing_exception", "expected exactly one aggregation type")
	}
	for kind, v := range spec {
		body, _ := v.(map[string]any)
		field := textOfOr(body["field"], "")
		var values []float64
		for ix, list := range docs {
			switch field {
			case "_seq_no":
				for _, doc := range list {
					values = append(values, float64(doc.seqNo))
				}
			case "_version":
				return nil, searchFailure(400, fail(400, "illegal_argument_exception",
					"Fielddata is not supported on field [_version] of type [_version]"), ix.name, "")
			case "_primary_term":
			default:
				fieldKind := ix.fields[field]
				switch fieldKind {
				case "", "long", "integer", "short", "byte", "double", "float", "half_float", "date":
				default:
					if kind == "range" && fieldKind == "keyword" {
						return nil, searchFailure(400, fail(400, "illegal_argument_exception",
							"Field [%s] of type [keyword] is not supported for aggregation [range]", field), ix.name, "")
					}
					return nil, notImplemented("aggregations on field [%s] of type [%s]", field, fieldKind)
				}
				for _, doc := range list {
					for _, g := range fieldValues(doc, field) {
						n := g.Float()
						if fieldKind == "date" && g.Type == gjson.String {
							n, _ = parseDate(g.Str)
						}
						values = append(values, n)
					}
				}
			}
		}
		low, high, sum := math.Inf(1), math.Inf(-1), 0.0
		for _, n := range values {
			low, high, sum = min(low, n), max(high, n), sum+n
		}
		single := func(n float64) (map[string]any, *apiError) {
			if len(values) == 0 {
				return map[string]any{"value": nil}, nil
			}
			return map[string]any{"value": double(n)}, nil
		}
		switch kind {
		case "min":
			return single(low)
		case "max":
			return single(high)
		case "avg":
			return single(sum / float64(len(values)))
		case "sum":
			return map[string]any{"value": double(sum)}, nil
		case "value_count":
			return map[string]any{"value": len(values)}, nil
		case "cardinality":
			distinct := map[float64]bool{}
			for _, n := range values {
				distinct[n] = true
			}
			return map[string]any{"value": len(distinct)}, nil
		case "stats":
			if len(values) == 0 {
				return map[string]any{"count": 0, "min": nil, "max": nil, "avg": nil, "sum": double(0)}, nil
			}
			return map[string]any{"count": len(values), "min": double(low), "max": double(high), "avg": double(sum / float64(len(values))),
				"sum": double(sum)}, nil
		case "histogram":
			return histogram(body, values)
		case "range":
			return rangeBuckets(name, body, values)
		}
		return nil, notImplemented("the aggregation [%s]", kind)
	}
	return nil, nil
}

// maxBuckets is the default of search.max_buckets from Elasticsearch 7.9 on.
const maxBuckets = 65535

func histogram(body map[string]any, values []float64) (map[string]any, *apiError) {
	interval, _ := strconv.ParseFloat(textOfOr(body["interval"], ""), 64)
	offset, _ := strconv.ParseFloat(textOfOr(body["offset"], "0"), 64)
	minimum, e := strconv.Atoi(textOfOr(body["min_doc_count"], "0"))
	if interval <= 0 || e != nil {
		return nil, fail(400, "illegal_argument_exception", "[interval] must be >0 for histogram aggregation")
	}
	for k := range body {
		if !slices.Contains([]string{"field", "interval", "offset", "min_doc_count", "hard_bounds"}, k) {
			return nil, notImplemented("the histogram option [%s]", k)
		}
	}
	low, high := math.Inf(-1), math.Inf(1)
	if bounds, ok := body["hard_bounds"].(map[string]any); ok {
		if v, err := strconv.ParseFloat(textOfOr(bounds["min"], ""), 64); err == nil {
			low = v
		}
		if v, err := strconv.ParseFloat(textOfOr(bounds["max"], ""), 64); err == nil {
			high = v
		}
	}
	counts := map[float64]int{}
	first, last := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		key := math.Floor((v-offset)/interval)*interval + offset
		if key < low || key > high { // the engines hold the buckets' keys to the bounds, not the values
			continue
		}
		counts[key]++
		first, last = min(first, key), max(last, key)
	}
	buckets := []any{}
	if minimum == 0 && len(counts) > 0 && (last-first)/interval >= maxBuckets || len(counts) > maxBuckets {
		return nil, searchFailure(503, fail(503, "too_many_buckets_exception", "Trying to create too many buckets. Must be less than or equal to: "+
			"[%d] but was [%d]. This limit can be set by changing the [search.max_buckets] cluster level setting.", maxBuckets, maxBuckets+1), "", "")
	}
	if minimum == 0 {
		for key := first; key <= last; key += interval {
			buckets = append(buckets, map[string]any{"key": double(key), "doc_count": counts[key]})
		}
	} else {
		keys := make([]float64, 0, len(counts))
		for k := range counts {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, key := range keys {
			if counts[key] >= minimum {
				buckets = append(buckets, map[string]any{"key": double(key), "doc_count": counts[key]})
			}
		}
	}
	return map[string]any{"buckets": buckets}, nil
}

// rangeBuckets counts values from the lower bound on, up to but without the upper one. Buckets come in the order of their bounds.
func rangeBuckets(name string, body map[string]any, values []float64) (map[string]any, *apiError) {
	for _, k := range sortedKeys(body) {
		if k != "field" && k != "ranges" && k != "keyed" {
			return nil, notImplemented("the option [%s] of the range aggregation", k)
		}
	}
	list, _ := body["ranges"].([]any)
	if len(list) == 0 {
		return nil, searchFailure(400, fail(400, "illegal_argument_exception", "No [ranges] specified for the [%s] aggregation", name), "", "")
	}
	type bucket struct {
		key      string
		from, to float64
	}
	buckets := make([]bucket, len(list))
	for i, e := range list {
		spec, _ := e.(map[string]any)
		b := bucket{from: math.Inf(-1), to: math.Inf(1)}
		for _, k := range sortedKeys(spec) {
			text := textOf(spec[k])
			var err error
			switch {
			case spec[k] == nil:
			case k == "key":
				b.key = text
			case k == "from":
				b.from, err = strconv.ParseFloat(text, 64)
			case k == "to":
				b.to, err = strconv.ParseFloat(text, 64)
			default:
				return nil, fail(400, "x_content_parse_exception", "[1:1] [range] failed to parse field [ranges]").
					causedBy("x_content_parse_exception", "[1:1] [range] unknown field [%s]", k)
			}
			if err != nil {
				return nil, searchFailure(400, fail(400, "number_format_exception", "For input string: %q", text), "", "")
			}
		}
		bound := func(v float64) string {
			if math.IsInf(v, 0) {
				return "*"
			}
			return javaDouble(v)
		}
		b.key = cmp.Or(b.key, bound(b.from)+"-"+bound(b.to))
		buckets[i] = b
	}
	slices.SortStableFunc(buckets, func(a, b bucket) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	sorted := slices.Sorted(slices.Values(values))
	below := func(v float64) int { n, _ := slices.BinarySearch(sorted, v); return n }
	rendered := make([]any, len(buckets))
	byKey := map[string]any{}
	for i, b := range buckets {
		m := map[string]any{"doc_count": max(0, below(b.to)-below(b.from))}
		if !math.IsInf(b.from, 0) {
			m["from"] = json.Number(javaDouble(b.from))
		}
		if !math.IsInf(b.to, 0) {
			m["to"] = json.Number(javaDouble(b.to))
		}
		byKey[b.key] = m
		if body["keyed"] != true {
			m["key"] = b.key
		}
		rendered[i] = m
	}
	if body["keyed"] == true {
		return map[string]any{"buckets": byKey}, nil
	}
	return map[string]any{"buckets": rendered}, nil
}

// javaDouble writes a number as Java does: 10.0, and 9.223372036854776E18 from ten million on.
func javaDouble(v float64) string {
	if v == 0 || math.Abs(v) >= 1e-3 && math.Abs(v) < 1e7 {
		text := strconv.FormatFloat(v, 'f', -1, 64)
		if !strings.Contains(text, ".") {
			text += ".0"
		}
		return text
	}
	digits, exponent, _ := strings.Cut(strconv.FormatFloat(v, 'E', -1, 64), "E")
	if !strings.Contains(digits, ".") {
		digits += ".0"
	}
	n, _ := strconv.Atoi(exponent)
	return digits + "E" + strconv.Itoa(n)
}

// javaFloat likewise writes a score, which has single precision.
func javaFloat(v float64) string {
	short, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', -1, 32), 64)
	return javaDouble(short)
}
