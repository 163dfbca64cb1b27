package domain

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// index is the metadata of one index and its shards.
type index struct {
	domain   *Domain
	name     string
	uuid     string
	settings map[string]any // flat keys, values string or []any of strings
	mapping  map[string]any
	aliases  map[string]map[string]any
	closed   bool
	shards   []*shard

	settingsVersion, mappingVersion, aliasesVersion int
	fields                                          map[string]string // path -> type; a cache of mapping
}

func (ix *index) setting(key string) string { s, _ := ix.settings[key].(string); return s }

func (ix *index) number(key string) int { n, _ := strconv.Atoi(ix.setting(key)); return n }

func (ix *index) softDeletes() bool {
	if s := ix.setting("index.soft_deletes.enabled"); s != "" {
		return s == "true"
	}
	return ix.number("index.version.created") >= 7000000
}

func (ix *index) refreshInterval() time.Duration {
	s := ix.setting("index.refresh_interval")
	if s == "" {
		return time.Second
	}
	t, _ := parseTime(s)
	return t
}

// parseTime reads the engines' time values: 30s, 500ms, 1m, -1.
func parseTime(s string) (time.Duration, error) {
	if s == "-1" || s == "0" {
		return 0, nil
	}
	s = strings.Replace(s, "micros", "us", 1)
	s = strings.Replace(s, "nanos", "ns", 1)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// parseBytes reads the engines' byte values: 40mb, 1gb, 100.
func parseBytes(s string) (int64, bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	for _, u := range []struct {
		suffix string
		factor float64
	}{{"pb", 1 << 50}, {"tb", 1 << 40}, {"gb", 1 << 30}, {"mb", 1 << 20}, {"kb", 1 << 10}, {"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30},
		{"b", 1}, {"", 1}} {
		if n, ok := strings.CutSuffix(s, u.suffix); ok {
			v, err := strconv.ParseFloat(n, 64)
			return int64(v * u.factor), err == nil
		}
	}
	return 0, false
}

type block struct {
	setting, level string
	text           string
	status         int
	levels         string // which kinds of access it stops: write, read, metadata
}

var blocks = []block{
	{"index.blocks.read_only", "FORBIDDEN/5", "index read-only (api)", 403, "write metadata"},
	{"index.blocks.read", "FORBIDDEN/7", "index read (api)", 403, "read"},
	{"index.blocks.write", "FORBIDDEN/8", "index write (api)", 403, "write"},
	{"index.blocks.metadata", "FORBIDDEN/9", "index metadata (api)", 403, "metadata"},
	{floodStage, "TOO_MANY_REQUESTS/12", "index read-only / allow delete (api)", 429, "write metadata"},
}

const floodStage = "index.blocks.read_only_allow_delete"

// blockedFor answers the engine's error when a block forbids that kind of access.
func (ix *index) blockedFor(kind string) *apiError {
	var texts []string
	status := 0
	for _, b := range blocks {
		if ix.setting(b.setting) == "true" && strings.Contains(b.levels, kind) {
			texts = append(texts, fmt.Sprintf("[%s/%s];", b.level, b.text))
			status = max(status, b.status)
			if b.status == 403 {
				status = 403
			}
		}
	}
	if texts == nil {
		return nil
	}
	return fail(status, "cluster_block_exception", "index [%s] blocked by: %s", ix.name, strings.Join(texts, ""))
}

func (ix *index) closedError() *apiError {
	return fail(400, "index_closed_exception", "closed").with("index", ix.name, "index_uuid", ix.uuid)
}

// shardFor routes as the engines do: murmur3 of the routing value over the routing shards of the index.
func (ix *index) shardFor(routing string) *shard {
	n := len(ix.shards)
	if n == 1 {
		return ix.shards[0]
	}
	routingShards := ix.number("index.number_of_routing_shards")
	if routingShards == 0 {
		routingShards = n
		if ix.number("index.version.created") >= 7000000 {
			splits := max(1, 10-bits.Len(uint(n-1)))
			routingShards = n << splits
		}
	}
	h := int(int32(murmur3(routing)))
	h = (h%routingShards + routingShards) % routingShards
	return ix.shards[h/(routingShards/n)]
}

// murmur3 is MurmurHash3 x86 32 bit of the text in UTF-16 little endian, seed 0 (the engines' Murmur3HashFunction).
func murmur3(text string) uint32 {
	var data []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		data = binary.LittleEndian.AppendUint16(data, unit)
	}
	const c1, c2 = 0xcc9e2d51, 0x1b873593
	var h uint32
	n := len(data)
	for ; len(data) >= 4; data = data[4:] {
		k := binary.LittleEndian.Uint32(data) * c1
		k = bits.RotateLeft32(k, 15) * c2
		h = bits.RotateLeft32(h^k, 13)*5 + 0xe6546b64
	}
	if len(data) > 0 { // UTF-16 leaves two bytes or none
		k := uint32(binary.LittleEndian.Uint16(data)) * c1
		h ^= bits.RotateLeft32(k, 15) * c2
	}
	h ^= uint32(n)
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// flatten turns settings in nested or flat form into flat keys with text values; nil stays nil.
func flatten(prefix string, in map[string]any, out map[string]any) {
	for k, v := range in {
		key := prefix + k
		switch v := v.(type) {
		case map[string]any:
			flatten(key+".", v, out)
		case []any:
			list := make([]any, len(v))
			for i, e := range v {
				list[i] = textOf(e)
			}
			out[key] = list
		case nil:
			out[key] = nil
		default:
			out[key] = textOf(v)
		}
	}
}

func textOf(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}

// indexSettings flattens settings and gives every key its "index." prefix.
func indexSettings(in map[string]any) map[string]any {
	flat, out := map[string]any{}, map[string]any{}
	flatten("", in, flat)
	for k, v := range flat {
		if !strings.HasPrefix(k, "index.") && !strings.HasPrefix(k, "archived.") {
			k = "index." + k
		}
		out[k] = v
	}
	return out
}

func unflatten(flat map[string]any) map[string]any {
	out := map[string]any{}
	for _, key := range sortedKeys(flat) {
		at := out
		parts := strings.Split(key, ".")
		for i, p := range parts {
			if i == len(parts)-1 {
				if _, clash := at[p].(map[string]any); !clash {
					at[p] = flat[key]
				}
				break
			}
			next, ok := at[p].(map[string]any)
			if !ok {
				if _, clash := at[p]; clash { // a.b beside a.b.c: keep the rest of the key flat
					at[strings.Join(parts[i:], ".")] = flat[key]
					break
				}
				next = map[string]any{}
				at[p] = next
			}
			at = next
		}
	}
	return out
}

// Settings by how they may change. A trailing * matches any rest.
var (
	dynamicSettings = []string{"index.number_of_replicas", "index.refresh_interval", "index.blocks.*", "index.auto_expand_replicas",
		"index.routing.allocation.*", "index.routing.rebalance.*", "index.mapping.*", "index.max_*", "index.merge.*", "index.translog.*",
		"index.default_pipeline", "index.final_pipeline", "index.priority", "index.query.*", "index.search.*", "index.indexing.*",
		"index.unassigned.*", "index.gc_deletes", "index.hidden", "index.write.*", "index.requests.*", "index.highlight.*", "index.analyze.*",
		"index.warmer.enabled", "index.flush_after_merge", "index.verified_before_close"}
	staticSettings = []string{"index.codec", "index.analysis.*", "index.sort.*", "index.soft_deletes.*", "index.similarity.*", "index.store.*",
		"index.shard.check_on_startup", "index.load_fixed_bitset_filters_eagerly"}
	finalSettings   = []string{"index.number_of_shards", "index.number_of_routing_shards", "index.routing_partition_size"}
	privateSettings = []string{"index.uuid", "index.version.*", "index.creation_date", "index.provided_name", "index.history.uuid",
		"index.replication.*"}
)

func matchesAny(patterns []string, key string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return wildcard(p, key) })
}

// wildcard matches the engines' simple patterns, in which * stands for any text.
func wildcard(pattern, text string) bool {
	if !strings.Contains(pattern, "*") {
		return pattern == text
	}
	parts := strings.Split(pattern, "*")
	if !strings.HasPrefix(text, parts[0]) {
		return false
	}
	text = text[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(text, p)
		if i < 0 {
			return false
		}
		text = text[i+len(p):]
	}
	return len(text) >= len(last) && strings.HasSuffix(text, last)
}

// openSearchSettings are dynamic ones that OpenSearch has from 2.0 on.
var openSearchSettings = []string{"index.merge_on_flush.*"}

// forbidden says why a list of patterns, of which the first that matches counts, keeps an index from being created by a write; "" when it
// does not. The words are those of the engines' AutoCreateIndex.
func forbidden(patterns, name string) string {
	for pattern := range strings.SplitSeq(patterns, ",") {
		pattern = strings.TrimSpace(pattern)
		if wildcard(strings.TrimLeft(pattern, "+-"), name) {
			if strings.HasPrefix(pattern, "-") {
				return "contains [" + pattern + "] which forbids automatic creation of the index"
			}
			return ""
		}
	}
	return "([" + patterns + "]) doesn't match"
}

func (e engine) dynamicSetting(key string) bool {
	return matchesAny(dynamicSettings, key) || e.openSearch && e.major >= 2 && matchesAny(openSearchSettings, key)
}

func (e engine) knownSetting(key string) bool {
	return e.dynamicSetting(key) || matchesAny(staticSettings, key) || matchesAny(finalSettings, key)
}

// checkSettings refuses unknown and private settings and bad values.
func (e engine) checkSettings(settings map[string]any) *apiError {
	for _, k := range sortedKeys(settings) {
		v := settings[k]
		switch {
		case matchesAny(privateSettings, k):
			return fail(400, "illegal_argument_exception", "private index setting [%s] can not be set explicitly", k)
		case !e.knownSetting(k):
			return fail(400, "illegal_argument_exception", "unknown setting [%s] please check that any required plugins are installed, or check the "+
				"breaking changes documentation for removed settings", k)
		}
		text, ok := v.(string)
		if !ok {
			continue
		}
		switch {
		case k == "index.number_of_shards" || k == "index.number_of_replicas":
			n, err := strconv.Atoi(text)
			if err != nil {
				return fail(400, "illegal_argument_exception", "Failed to parse value [%s] for setting [%s]", text, k)
			}
			if minimum := map[bool]int{true: 1}[k == "index.number_of_shards"]; n < minimum {
				return fail(400, "illegal_argument_exception", "Failed to parse value [%s] for setting [%s] must be >= %d", text, k, minimum)
			}
		case strings.HasPrefix(k, "index.blocks.") && text != "true" && text != "false":
			return fail(400, "illegal_argument_exception", "Failed to parse value [%s] as only [true] or [false] are allowed.", text)
		case k == "index.refresh_interval" || k == "index.gc_deletes":
			if _, err := parseTime(text); err != nil {
				return fail(400, "illegal_argument_exception", "failed to parse setting [%s] with value [%s] as a time value: "+
					"unit is missing or unrecognized", k, text)
			}
		}
	}
	return nil
}

func checkIndexName(name string) *apiError {
	reason := ""
	switch {
	case strings.ContainsAny(name, " \"*\\<|,>/?"):
		reason = `must not contain the following characters [ , ", *, \, <, |, ,, >, /, ?]`
	case name != strings.ToLower(name):
		reason = "must be lowercase"
	case strings.HasPrefix(name, "_"), strings.HasPrefix(name, "-"), strings.HasPrefix(name, "+"):
		reason = "must not start with '_', '-', or '+'"
	case strings.ContainsAny(name, "#"):
		reason = "must not contain '#'"
	case strings.Contains(name, ":"):
		reason = "must not contain ':'"
	case len(name) > 255:
		reason = "index name is too long"
	case name == "." || name == "..":
		reason = "must not be '.' or '..'"
	}
	if reason == "" {
		return nil
	}
	return fail(400, "invalid_index_name_exception", "Invalid index name [%s], %s", name, reason).with("index", name, "index_uuid", "_na_")
}

// createIndex adds an open, empty index. Settings are flat and checked.
func (d *Domain) createIndex(name string, settings, mapping map[string]any, aliases map[string]map[string]any) *index {
	ix := &index{domain: d, name: name, uuid: d.newUUID(), settings: map[string]any{}, mapping: mapping, aliases: aliases,
		settingsVersion: 1, mappingVersion: 1, aliasesVersion: 1}
	for k, v := range settings {
		if v != nil {
			ix.settings[k] = v
		}
	}
	shards := "1"
	if d.engine.before(7, 0) {
		shards = "5"
	}
	for k, v := range map[string]string{"index.number_of_shards": shards, "index.number_of_replicas": "1"} {
		if ix.setting(k) == "" {
			ix.settings[k] = v
		}
	}
	if d.engine.openSearch && d.engine.major >= 2 {
		ix.settings["index.replication.type"] = "DOCUMENT"
	}
	ix.settings["index.provided_name"] = name
	ix.settings["index.creation_date"] = strconv.FormatInt(d.clock.Now().UnixMilli(), 10)
	ix.settings["index.uuid"] = ix.uuid
	ix.settings["index.version.created"] = strconv.Itoa(d.engine.id())
	if ix.mapping == nil {
		ix.mapping = map[string]any{}
	}
	if ix.aliases == nil {
		ix.aliases = map[string]map[string]any{}
	}
	now := d.clock.Now()
	for i := range ix.number("index.number_of_shards") {
		s := d.newShard(ix, i)
		s.flush(true)
		s.recovery = &recovery{kind: "EMPTY_STORE", stage: "DONE", start: now, stop: now}
		ix.shards = append(ix.shards, s)
	}
	ix.indexFields()
	d.indices[name] = ix
	return ix
}

// resolveOptions says which indices an expression may name.
type resolveOptions struct {
	ignoreMissing bool
	closed        bool // wildcards match closed indices too
	noAliases     bool
	hidden        bool // wildcards match hidden indices too
	streams       bool // names of data streams stand for their indices
	resourceType  string
}

// resolve turns an index expression (names, aliases, wildcards, exclusions, _all) into indices in name order.
func (d *Domain) resolve(expression string, o resolveOptions) ([]*index, *apiError) {
	found := map[string]*index{}
	if o.resourceType == "" {
		o.resourceType = "index_or_alias"
	}
	add := func(pattern string, remove bool) bool {
		hit := false
		exact := !strings.Contains(pattern, "*") && pattern != "_all" && pattern != ""
		for name, ix := range d.indices {
			match := pattern == "_all" || pattern == "" || wildcard(pattern, name)
			if !match && !o.noAliases {
				for alias := range ix.aliases {
					match = match || wildcard(pattern, alias)
				}
			}
			backing := false
			if o.streams {
				if s := d.streamOf(ix); s != nil && (pattern == "_all" || pattern == "" || wildcard(pattern, s.Name)) {
					match, backing = true, true
				}
			}
			if !match || !exact && (ix.closed && !o.closed || !backing && ix.setting("index.hidden") == "true" && !o.hidden && !strings.HasPrefix(pattern, ".")) {
				continue
			}
			hit = true
			if remove {
				delete(found, name)
			} else {
				found[name] = ix
			}
		}
		return hit || !exact
	}
	wild := false
	for _, part := range strings.Split(expression, ",") {
		remove := wild && strings.HasPrefix(part, "-")
		if remove {
			part = part[1:]
		}
		wild = wild || strings.Contains(part, "*") || part == "_all"
		if !add(part, remove) && !o.ignoreMissing {
			return nil, missingIndex(part, o.resourceType)
		}
	}
	var list []*index
	for _, name := range sortedKeys(found) {
		list = append(list, found[name])
	}
	return list, nil
}

func missingIndex(name, resourceType string) *apiError {
	return fail(404, "index_not_found_exception", "no such index [%s]", name).
		with("index", name, "resource.id", name, "resource.type", resourceType, "index_uuid", "_na_")
}

// writeTarget finds the one index that a write to the name goes to, and the routing that an alias prescribes. It creates the index
// when there is none and the cluster allows it.
func (d *Domain) writeTarget(name string) (ix *index, routing string, err *apiError) {
	if ix := d.indices[name]; ix != nil {
		return ix, "", nil
	}
	if s := d.streams[name]; s != nil {
		return d.indices[s.writeIndex()], "", nil
	}
	var members, writers []*index
	for _, n := range sortedKeys(d.indices) {
		if alias, ok := d.indices[n].aliases[name]; ok {
			members = append(members, d.indices[n])
			if alias["is_write_index"] == true {
				writers = append(writers, d.indices[n])
			}
		}
	}
	if len(members) == 1 && members[0].aliases[name]["is_write_index"] != false {
		writers = members
	}
	switch {
	case len(writers) == 1:
		routing, _ = writers[0].aliases[name]["index_routing"].(string)
		return writers[0], routing, nil
	case len(members) > 0:
		return nil, "", fail(400, "illegal_argument_exception", "no write index is defined for alias [%s]. The write index may be explicitly disabled "+
			"using is_write_index=false or the alias points to multiple indices without one being designated as a write index", name)
	}
	if e := checkIndexName(name); e != nil {
		return nil, "", e
	}
	if auto := d.clusterSetting("action.auto_create_index"); auto == "false" {
		return nil, "", fail(404, "index_not_found_exception", "no such index [%s] and [action.auto_create_index] is [false]", name).
			with("index", name, "index_uuid", "_na_")
	} else if auto != "" && auto != "true" {
		if why := forbidden(auto, name); why != "" {
			return nil, "", fail(404, "index_not_found_exception", "no such index [%s] and [action.auto_create_index] %s", name, why).with("index", name, "index_uuid", "_na_")
		}
	}
	if _, timestamp := d.streamTemplate(name); timestamp != "" {
		s, e := d.createStream(name)
		if e != nil {
			return nil, "", e
		}
		return d.indices[s.writeIndex()], "", nil
	}
	settings, mapping, aliases := d.fromTemplates(name)
	if e := d.shardLimit(1, 1); e != nil {
		return nil, "", e
	}
	return d.createIndex(name, settings, mapping, aliases), "", nil
}

// clusterSetting is the transient value, else the persistent, else "".
func (d *Domain) clusterSetting(key string) string {
	for _, m := range []map[string]any{d.transient, d.persistent} {
		if v, ok := m[key].(string); ok {
			return v
		}
	}
	return ""
}

// fromTemplates is what the best matching composable template, else the legacy ones in order, give a new index.
func (d *Domain) fromTemplates(name string) (settings, mapping map[string]any, aliases map[string]map[string]any) {
	settings, mapping, aliases = map[string]any{}, map[string]any{}, map[string]map[string]any{}
	apply := func(t map[string]any) {
		s, _ := t["settings"].(map[string]any)
		for k, v := range indexSettings(s) {
			settings[k] = v
		}
		if m, ok := t["mappings"].(map[string]any); ok {
			_ = mergeMapping(mapping, m)
		}
		if a, ok := t["aliases"].(map[string]any); ok {
			for alias, body := range a {
				b, _ := body.(map[string]any)
				aliases[alias] = aliasBody(b)
			}
		}
	}
	if best := d.bestTemplate(name); best != "" {
		body := d.templates["_index_template"][best].(map[string]any)
		components, _ := body["composed_of"].([]any)
		for _, c := range components {
			if component, ok := d.templates["_component_template"][textOf(c)].(map[string]any); ok {
				t, _ := component["template"].(map[string]any)
				apply(t)
			}
		}
		t, _ := body["template"].(map[string]any)
		apply(t)
		return settings, mapping, aliases
	}
	legacy := d.templates["_template"]
	names := sortedKeys(legacy)
	slices.SortStableFunc(names, func(a, b string) int { return int(rank(legacy[a], "order") - rank(legacy[b], "order")) })
	for _, n := range names {
		if body, ok := legacy[n].(map[string]any); ok && forName(body, name) {
			apply(body)
		}
	}
	return settings, mapping, aliases
}

// bestTemplate is the composable template of the highest priority for a name, "" when there is none.
func (d *Domain) bestTemplate(name string) string {
	best := ""
	composable := d.templates["_index_template"]
	for _, n := range sortedKeys(composable) {
		if body, ok := composable[n].(map[string]any); ok && forName(body, name) && (best == "" || rank(body, "priority") > rank(composable[best], "priority")) {
			best = n
		}
	}
	return best
}

// forName tells whether a template is for indices or data streams of that name.
func forName(template map[string]any, name string) bool {
	patterns, _ := template["index_patterns"].([]any)
	return slices.ContainsFunc(patterns, func(p any) bool { return wildcard(textOf(p), name) })
}

func rank(template any, key string) float64 {
	m, _ := template.(map[string]any)
	n, _ := strconv.ParseFloat(textOf(m[key]), 64)
	return n
}

// shardLimit refuses more open shards than cluster.max_shards_per_node (default 1000) allows.
func (d *Domain) shardLimit(primaries, copies int) *apiError {
	limit := 1000
	if s := d.clusterSetting("cluster.max_shards_per_node"); s != "" {
		limit, _ = strconv.Atoi(s)
	}
	limit *= len(d.nodes)
	open := 0
	for _, ix := range d.indices {
		if !ix.closed {
			open += len(ix.shards) * (1 + ix.number("index.number_of_replicas"))
		}
	}
	add := primaries * (1 + copies)
	if d.engine.before(7, 0) || open+add <= limit {
		return nil
	}
	return fail(400, "validation_exception", "Validation Failed: 1: this action would add [%d] total shards, but this cluster currently has [%d]/[%d] maximum shards open;",
		add, open, limit)
}

func aliasBody(in map[string]any) map[string]any {
	out := map[string]any{}
	for _, k := range []string{"filter", "is_write_index", "is_hidden"} {
		if v, ok := in[k]; ok {
			out[k] = v
		}
	}
	if r, ok := in["routing"]; ok {
		out["index_routing"], out["search_routing"] = textOf(r), textOf(r)
	}
	for _, k := range []string{"index_routing", "search_routing"} {
		if r, ok := in[k]; ok {
			out[k] = textOf(r)
		}
	}
	return out
}

func absoluteLocation(root, location string) string {
	if path.IsAbs(location) {
		return path.Clean(location)
	}
	return path.Join(root, location)
}
