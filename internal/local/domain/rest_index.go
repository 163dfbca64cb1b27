package domain

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (r *request) indices(o resolveOptions) ([]*index, *apiError) {
	o.ignoreMissing = r.flag("ignore_unavailable", false)
	e := r.query.Get("expand_wildcards")
	if strings.Contains(e, "all") || strings.Contains(e, "closed") {
		o.closed = true
	}
	o.hidden = strings.Contains(e, "all") || strings.Contains(e, "hidden")
	return r.domain.resolve(r.args["index"], o)
}

// open resolves indices for an operation that closed ones refuse.
func (r *request) open() ([]*index, *apiError) {
	list, err := r.indices(resolveOptions{streams: true})
	if err != nil {
		return nil, err
	}
	for _, ix := range list {
		if ix.closed {
			if r.flag("ignore_unavailable", false) {
				list = slices.DeleteFunc(slices.Clone(list), func(o *index) bool { return o == ix })
				continue
			}
			return nil, ix.closedError()
		}
	}
	return list, nil
}

func handleCreateIndex(r *request) (int, any, *apiError) {
	d, name := r.domain, r.args["index"]
	if err := checkIndexName(name); err != nil {
		return 0, nil, err
	}
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	for _, k := range sortedKeys(body) {
		if !slices.Contains([]string{"settings", "mappings", "aliases"}, k) {
			return 0, nil, fail(400, "parse_exception", "unknown key [%s] for create index", k)
		}
	}
	if ix := d.indices[name]; ix != nil {
		return 0, nil, fail(400, "resource_already_exists_exception", "index [%s/%s] already exists", name, ix.uuid).with("index", name,
			"index_uuid", ix.uuid)
	}
	for _, ix := range d.indices {
		if _, clash := ix.aliases[name]; clash {
			return 0, nil, fail(400, "invalid_index_name_exception", "Invalid index name [%s], already exists as alias", name).with("index", name,
				"index_uuid", "_na_")
		}
	}
	if template, timestamp := d.streamTemplate(name); timestamp != "" {
		return 0, nil, fail(400, "illegal_argument_exception",
			"cannot create index with name [%s], because it matches with template [%s] that creates data streams only, use create data stream api instead", name, template)
	}
	if d.streams[name] != nil {
		return 0, nil, notImplemented("creating an index with the name of a data stream")
	}
	settings, mapping, aliases := d.fromTemplates(name)
	given, _ := body["settings"].(map[string]any)
	flat := indexSettings(given)
	if err := d.engine.checkSettings(flat); err != nil {
		return 0, nil, err
	}
	maps.Copy(settings, flat)
	if m, isMap := body["mappings"].(map[string]any); isMap {
		if inner, typed := m["_doc"].(map[string]any); typed && len(m) == 1 {
			m = inner
		}
		if err := mergeMapping(mapping, m); err != nil {
			return 0, nil, err
		}
	}
	if m, isMap := body["aliases"].(map[string]any); isMap {
		for alias, b := range m {
			bm, _ := b.(map[string]any)
			if d.streams[alias] != nil {
				return 0, nil, fail(500, "illegal_state_exception",
					"index, alias, and data stream names need to be unique, but the following duplicates were found [%s (alias of [%s/%s]) conflicts with data stream]", alias, name, d.newUUID())
			}
			if d.indices[alias] != nil || alias == name {
				return 0, nil, fail(400, "invalid_alias_name_exception", "Invalid alias name [%s], an index exists with the same name as the alias", alias)
			}
			aliases[alias] = aliasBody(bm)
		}
	}
	number := func(key string) int { n, _ := strconv.Atoi(textOfOr(settings[key], "1")); return n }
	if number("index.number_of_shards") > 1024 {
		return 0, nil, fail(400, "illegal_argument_exception",
			"Failed to parse value [%d] for setting [index.number_of_shards] must be <= 1024", number("index.number_of_shards"))
	}
	if err := d.shardLimit(number("index.number_of_shards"), number("index.number_of_replicas")); err != nil {
		return 0, nil, err
	}
	d.createIndex(name, settings, mapping, aliases)
	return ok(map[string]any{"acknowledged": true, "shards_acknowledged": true, "index": name})
}

func handleDeleteIndex(r *request) (int, any, *apiError) {
	d := r.domain
	for name := range strings.SplitSeq(r.args["index"], ",") {
		if d.indices[name] != nil {
			continue
		}
		for _, ix := range d.indices {
			if _, alias := ix.aliases[name]; alias {
				return 0, nil, fail(400, "illegal_argument_exception",
					"The provided expression [%s] matches an alias, specify the corresponding concrete indices instead.", name)
			}
		}
	}
	list, err := r.indices(resolveOptions{closed: true, noAliases: true})
	if err != nil {
		return 0, nil, err
	}
	for _, ix := range list {
		if d.snapshotting(ix) {
			return 0, nil, d.snapshottedError("delete", ix)
		}
		if ix.setting("index.blocks.read_only") == "true" || ix.setting("index.blocks.metadata") == "true" {
			return 0, nil, ix.blockedFor("metadata")
		}
	}
	for _, ix := range list {
		if s := d.streamOf(ix); s != nil && s.writeIndex() == ix.name {
			return 0, nil, fail(400, "illegal_argument_exception", "index [%s] is the write index for data stream [%s] and cannot be deleted", ix.name, s.Name)
		}
	}
	for _, ix := range list {
		if s := d.streamOf(ix); s != nil {
			s.Indices = slices.DeleteFunc(slices.Clone(s.Indices), func(name string) bool { return name == ix.name })
		}
		d.removeIndex(ix)
	}
	return acknowledged()
}

func (d *Domain) removeIndex(ix *index) {
	delete(d.indices, ix.name)
	for _, run := range d.restores {
		for _, rs := range run.shards {
			if rs.shard.index == ix && !rs.done {
				rs.shard.recovery = nil
			}
		}
	}
}

func (d *Domain) snapshottedError(verb string, ix *index) *apiError {
	return fail(400, "snapshot_in_progress_exception",
		"Cannot %s indices that are being snapshotted: [[%s/%s]]. Try again after snapshot finishes or cancel the currently running snapshot.",
		verb, ix.name, ix.uuid)
}

func handleGetIndex(r *request) (int, any, *apiError) {
	list, err := r.indices(resolveOptions{closed: true, streams: true})
	if err != nil {
		return 0, nil, err
	}
	out := map[string]any{}
	for _, ix := range list {
		entry := map[string]any{"aliases": ix.aliases, "mappings": cloneJSON(ix.mapping), "settings": ix.renderSettings(r, "")}
		if s := r.domain.streamOf(ix); s != nil {
			entry["data_stream"] = s.Name
		}
		out[ix.name] = entry
	}
	return ok(out)
}

func (ix *index) renderSettings(r *request, names string) map[string]any {
	flat := map[string]any{}
	for k, v := range ix.settings {
		if names == "" || names == "_all" || slices.ContainsFunc(strings.Split(names, ","), func(p string) bool { return wildcard(p, k) }) {
			flat[k] = v
		}
	}
	if r.flag("flat_settings", false) {
		return flat
	}
	return unflatten(flat)
}

func handleGetSettings(r *request) (int, any, *apiError) {
	list, err := r.indices(resolveOptions{closed: true, streams: true})
	if err != nil {
		return 0, nil, err
	}
	out := map[string]any{}
	for _, ix := range list {
		entry := map[string]any{"settings": ix.renderSettings(r, r.args["name"])}
		if r.flag("include_defaults", false) {
			entry["defaults"] = map[string]any{} // the model keeps no table of defaults
		}
		out[ix.name] = entry
	}
	return ok(out)
}

func handlePutSettings(r *request) (int, any, *apiError) {
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	if inner, isMap := body["settings"].(map[string]any); isMap && len(body) == 1 {
		body = inner
	}
	flat := indexSettings(body)
	if len(flat) == 0 {
		return 0, nil, fail(400, "action_request_validation_exception", "Validation Failed: 1: no settings to update;")
	}
	checked := maps.Clone(flat)
	maps.DeleteFunc(checked, func(k string, v any) bool {
		return v == nil && (strings.Contains(k, "*") || strings.HasPrefix(k, "archived."))
	})
	if err := r.domain.engine.checkSettings(checked); err != nil {
		return 0, nil, err
	}
	list, err := r.indices(resolveOptions{closed: true})
	if err != nil {
		return 0, nil, err
	}
	for _, ix := range list {
		// The blocks themselves can always be changed, everything else not below a metadata block.
		onlyBlocks := !slices.ContainsFunc(sortedKeys(flat), func(k string) bool { return !strings.HasPrefix(k, "index.blocks.") })
		if e := ix.blockedFor("metadata"); e != nil && !onlyBlocks {
			return 0, nil, e
		}
		for _, k := range sortedKeys(flat) {
			switch {
			case strings.HasPrefix(k, "archived.") || strings.Contains(k, "*"):
			case !ix.closed && !r.domain.engine.dynamicSetting(k):
				return 0, nil, fail(400, "illegal_argument_exception", "Can't update non dynamic settings [[%s]] for open indices [[%s/%s]]", k, ix.name, ix.uuid)
			case matchesAny(finalSettings, k):
				return 0, nil, fail(400, "illegal_argument_exception", "final %s setting [%s], not updateable", ix.name, k)
			}
		}
	}
	for _, ix := range list {
		for k, v := range flat {
			switch {
			case v == nil && strings.Contains(k, "*"):
				maps.DeleteFunc(ix.settings, func(have string, _ any) bool { return wildcard(k, have) && !matchesAny(privateSettings, have) })
			case v == nil:
				delete(ix.settings, k)
				if k == "index.number_of_replicas" {
					ix.settings[k] = "1"
				}
			case r.flag("preserve_existing", false) && ix.settings[k] != nil:
			default:
				ix.settings[k] = v
			}
		}
		ix.settingsVersion++
		if _, ok := flat["index.refresh_interval"]; ok {
			for _, s := range ix.shards {
				if s.state == started && !ix.closed {
					s.refresh()
				}
			}
		}
	}
	return acknowledged()
}

func handleGetMapping(r *request) (int, any, *apiError) {
	list, err := r.indices(resolveOptions{closed: true, streams: true})
	if err != nil {
		return 0, nil, err
	}
	out := map[string]any{}
	for _, ix := range list {
		m := any(cloneJSON(ix.mapping))
		if r.domain.engine.before(7, 0) && len(ix.mapping) > 0 && r.flag("include_type_name", true) {
			m = map[string]any{"_doc": m}
		}
		out[ix.name] = map[string]any{"mappings": m}
	}
	return ok(out)
}

// rootParameters are what a mapping may hold beside its fields.
var rootParameters = []string{"properties", "dynamic", "dynamic_templates", "dynamic_date_formats", "date_detection", "numeric_detection",
	"enabled", "_meta",
	"_routing", "_source", "_field_names", "_size", "_data_stream_timestamp"}

func handlePutMapping(r *request) (int, any, *apiError) {
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	list, err := r.indices(resolveOptions{closed: true})
	if err != nil {
		return 0, nil, err
	}
	if len(r.body) == 0 {
		return 0, nil, fail(400, "parse_exception", "request body is required")
	}
	for _, k := range sortedKeys(body) {
		if !slices.Contains(rootParameters, k) {
			return 0, nil, fail(400, "mapper_parsing_exception", "Root mapping definition has unsupported parameters:  [%s : %s]", k, textOf(body[k]))
		}
	}
	for _, ix := range list {
		if e := ix.blockedFor("metadata"); e != nil {
			return 0, nil, e
		}
		next := cloneJSON(ix.mapping)
		if err := mergeMapping(next, cloneJSON(body)); err != nil {
			return 0, nil, err
		}
		ix.mapping = next
		ix.mappingVersion++
		ix.indexFields()
	}
	return acknowledged()
}

func handleClose(r *request) (int, any, *apiError) {
	d := r.domain
	d.mu.Lock()
	defer d.mu.Unlock()
	list, err := r.indices(resolveOptions{})
	if err != nil {
		return 0, nil, err
	}
	if d.engine.before(7, 2) {
		return 0, nil, notImplemented("closing indices as Elasticsearch before 7.2 does (unassigned shards)")
	}
	if writers := d.writeIndices(list); len(writers) > 0 {
		return 0, nil, fail(400, "illegal_argument_exception", "cannot close the following data stream write indices [%s]", strings.Join(writers, ","))
	}
	out := map[string]any{}
	for _, ix := range list {
		if ix.closed {
			continue
		}
		if d.restoring(ix) {
			return 0, nil, fail(400, "illegal_argument_exception", "Cannot close indices that are being restored: [[%s/%s]]", ix.name, ix.uuid)
		}
		if d.snapshotting(ix) {
			return 0, nil, d.snapshottedError("close", ix)
		}
		if e := ix.blockedFor("metadata"); e != nil {
			return 0, nil, e
		}
	}
	now := d.clock.Now()
	for _, ix := range list {
		if ix.closed {
			continue
		}
		for _, s := range ix.shards {
			if s.state == started {
				s.reassign(d)
			} else if s.cause != nil {
				s.cause = &unassignedInfo{reason: "INDEX_CLOSED", at: now, status: "no_valid_shard_copy"}
			}
		}
		ix.closed = true
		ix.settings["index.verified_before_close"] = "true"
		ix.settingsVersion++
		out[ix.name] = map[string]any{"closed": true}
	}
	return ok(map[string]any{"acknowledged": true, "shards_acknowledged": len(out) > 0, "indices": out})
}

func handleOpen(r *request) (int, any, *apiError) {
	list, err := r.indices(resolveOptions{closed: true})
	if err != nil {
		return 0, nil, err
	}
	for _, ix := range list {
		if !ix.closed {
			continue
		}
		ix.closed = false
		delete(ix.settings, "index.verified_before_close")
		ix.settingsVersion++
		for _, s := range ix.shards {
			if s.reassigning {
				s.reassigned(r.domain)
			}
			if s.state == started {
				s.term++
				s.existingStoreRecovery(r.domain)
			}
		}
	}
	return ok(map[string]any{"acknowledged": true, "shards_acknowledged": true})
}

func shardsTotal(list []*index) (total, successful int) {
	for _, ix := range list {
		total += len(ix.shards) * (1 + ix.number("index.number_of_replicas"))
		for _, s := range ix.shards {
			if s.state == started {
				successful++
			}
		}
	}
	return total, successful
}

func eachShard(r *request, f func(*shard)) (int, any, *apiError) {
	list, err := r.open()
	if err != nil {
		return 0, nil, err
	}
	for _, ix := range list {
		for _, s := range ix.shards {
			if s.state == started {
				f(s)
			}
		}
	}
	total, successful := shardsTotal(list)
	return ok(map[string]any{"_shards": map[string]any{"total": total, "successful": successful, "failed": 0}})
}

func handleRefresh(r *request) (int, any, *apiError) {
	return eachShard(r, func(s *shard) { s.refresh() })
}

func handleFlush(r *request) (int, any, *apiError) {
	force := r.flag("force", false)
	return eachShard(r, func(s *shard) { s.flush(force) })
}

func handleForceMerge(r *request) (int, any, *apiError) {
	n := 1
	if v := r.query.Get("max_num_segments"); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 1 {
			return 0, nil, fail(400, "illegal_argument_exception", "Failed to parse int parameter [max_num_segments] with value [%s]", v)
		}
	}
	if r.query.Has("only_expunge_deletes") {
		return 0, nil, notImplemented("_forcemerge?only_expunge_deletes")
	}
	return eachShard(r, func(s *shard) { s.forceMerge(n) })
}

func handleBlock(r *request) (int, any, *apiError) {
	if r.domain.engine.before(7, 9) {
		return 0, nil, fail(400, "parse_exception", "request body is required")
	}
	name := r.args["block"]
	if !slices.Contains([]string{"write", "read", "metadata", "read_only"}, name) {
		return 0, nil, fail(400, "illegal_argument_exception", "No block found with name %s", name)
	}
	list, err := r.indices(resolveOptions{})
	if err != nil {
		return 0, nil, err
	}
	if writers := r.domain.writeIndices(list); len(writers) > 0 {
		return 0, nil, fail(400, "illegal_argument_exception", "cannot add a block to the following data stream write indices [%s]", strings.Join(writers, ","))
	}
	out := []any{}
	for _, ix := range list {
		if ix.setting("index.blocks."+name) == "true" {
			continue
		}
		ix.settings["index.blocks."+name] = "true"
		ix.settingsVersion++
		out = append(out, map[string]any{"name": ix.name, "blocked": true})
	}
	return ok(map[string]any{"acknowledged": true, "shards_acknowledged": len(out) > 0, "indices": out})
}

func handleGetAlias(r *request) (int, any, *apiError) {
	list, err := r.indices(resolveOptions{closed: true})
	if err != nil {
		return 0, nil, err
	}
	want := r.args["alias"]
	out := map[string]any{}
	found := map[string]bool{}
	for _, ix := range list {
		aliases := map[string]any{}
		for name, body := range ix.aliases {
			if want == "" || want == "_all" || slices.ContainsFunc(strings.Split(want, ","), func(p string) bool { return wildcard(p, name) }) {
				aliases[name] = body
				found[name] = true
			}
		}
		if want == "" || len(aliases) > 0 {
			out[ix.name] = map[string]any{"aliases": aliases}
		}
	}
	if want != "" {
		var missing []string
		for name := range strings.SplitSeq(want, ",") {
			if !strings.Contains(name, "*") && name != "_all" && !found[name] {
				missing = append(missing, name)
			}
		}
		if missing != nil {
			text := "alias [" + strings.Join(missing, ",") + "] missing"
			if len(missing) > 1 {
				text = "aliases [" + strings.Join(missing, ",") + "] missing"
			}
			out["error"], out["status"] = text, 404
			return 404, out, nil
		}
	}
	return ok(out)
}

func handleAliases(r *request) (int, any, *apiError) {
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	actions, isList := body["actions"].([]any)
	if !isList || len(actions) == 0 {
		return 0, nil, fail(400, "action_request_validation_exception", "Validation Failed: 1: Must specify at least one alias action;")
	}
	return r.domain.changeAliases(actions)
}

// changeAliases applies all actions or none.
func (d *Domain) changeAliases(actions []any) (int, any, *apiError) {
	next := map[*index]map[string]map[string]any{}
	of := func(ix *index) map[string]map[string]any {
		if next[ix] == nil {
			next[ix] = maps.Clone(ix.aliases)
		}
		return next[ix]
	}
	var removed []*index
	for _, a := range actions {
		action, _ := a.(map[string]any)
		for kind, b := range action {
			spec, _ := b.(map[string]any)
			list := func(one, many string) []string {
				if v, ok := spec[many]; ok {
					return strings.Split(joined(v), ",")
				}
				return strings.Split(textOfOr(spec[one], ""), ",")
			}
			indices, err := d.resolve(strings.Join(list("index", "indices"), ","), resolveOptions{closed: true, noAliases: true})
			if err != nil {
				return 0, nil, err
			}
			names := list("alias", "aliases")
			for _, ix := range indices {
				if s := d.streamOf(ix); s != nil {
					return 0, nil, fail(400, "illegal_argument_exception",
						"The provided expressions [%s] match a backing index belonging to data stream [%s]. Data streams and their backing indices don't support aliases.", ix.name, s.Name)
				}
			}
			switch kind {
			case "add":
				for _, ix := range indices {
					for _, name := range names {
						if d.indices[name] != nil {
							return 0, nil, fail(400, "invalid_alias_name_exception",
								"Invalid alias name [%s], an index exists with the same name as the alias", name).with("index", ix.name, "index_uuid", ix.uuid)
						}
						if strings.ContainsAny(name, " \"*\\<|,>/?") || name == "" {
							return 0, nil, fail(400, "invalid_alias_name_exception", "Invalid alias name [%s]", name)
						}
						of(ix)[name] = aliasBody(spec)
					}
				}
			case "remove":
				hit := false
				for _, ix := range indices {
					for have := range ix.aliases {
						if slices.ContainsFunc(names, func(p string) bool { return wildcard(p, have) }) {
							hit = true
							delete(of(ix), have)
						}
					}
				}
				if !hit && spec["must_exist"] != false {
					return 0, nil, fail(404, "aliases_not_found_exception", "aliases %v missing", names).with("resource.type", "aliases", "resource.id",
						strings.Join(names, ","))
				}
			case "remove_index":
				removed = append(removed, indices...)
			default:
				return 0, nil, fail(400, "illegal_argument_exception", "[aliases] unknown field [%s]", kind)
			}
		}
	}
	writers := map[string]int{}
	for _, ix := range d.indices {
		aliases := ix.aliases
		if changed, ok := next[ix]; ok {
			aliases = changed
		}
		for name, body := range aliases {
			if body["is_write_index"] == true {
				if writers[name]++; writers[name] > 1 {
					return 0, nil, fail(500, "illegal_state_exception", "alias [%s] has more than one write index", name)
				}
			}
		}
	}
	for ix, aliases := range next {
		ix.aliases = aliases
		ix.aliasesVersion++
	}
	for _, ix := range removed {
		delete(d.indices, ix.name)
	}
	return acknowledged()
}

func handlePutAlias(r *request) (int, any, *apiError) {
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	body["index"], body["alias"] = r.args["index"], r.args["alias"]
	return r.domain.changeAliases([]any{map[string]any{"add": body}})
}

func handleDeleteAlias(r *request) (int, any, *apiError) {
	return r.domain.changeAliases([]any{map[string]any{"remove": map[string]any{"index": r.args["index"], "alias": r.args["alias"]}}})
}

func handleStats(r *request) (int, any, *apiError) {
	d := r.domain
	metrics := r.args["metric"]
	want := func(name string) bool {
		return metrics == "" || metrics == "_all" || slices.Contains(strings.Split(metrics, ","), name)
	}
	for m := range strings.SplitSeq(metrics, ",") {
		if !slices.Contains([]string{"", "_all", "docs", "store", "indexing", "get", "search", "merge", "flush", "refresh", "segments", "translog"}, m) {
			return 0, nil, fail(400, "illegal_argument_exception", "request [%s] contains unrecognized metric: [%s]", r.path, m)
		}
	}
	var list []*index
	var err *apiError
	if r.flag("forbid_closed_indices", true) {
		list, err = r.open()
	} else {
		list, err = r.indices(resolveOptions{})
	}
	if err != nil {
		return 0, nil, err
	}
	sum := func(into, add map[string]any) {
		for section, values := range add {
			have, ok := into[section].(map[string]any)
			if !ok {
				have = map[string]any{}
				into[section] = have
			}
			for k, v := range values.(map[string]any) {
				n, _ := have[k].(int64)
				have[k] = n + v.(int64)
			}
		}
	}
	common := func(s *shard) map[string]any {
		m := map[string]any{}
		count, gone := s.counts()
		if want("docs") {
			m["docs"] = map[string]any{"count": int64(count), "deleted": int64(gone)}
		}
		if want("store") {
			m["store"] = map[string]any{"size_in_bytes": s.storeBytes(), "reserved_in_bytes": int64(0)}
		}
		if want("indexing") {
			m["indexing"] = map[string]any{"index_total": s.indexed, "delete_total": s.deletes}
		}
		if want("segments") {
			m["segments"] = map[string]any{"count": int64(len(s.segments))}
		}
		return m
	}
	all := map[string]any{}
	indices := map[string]any{}
	total, successful := 0, 0
	now := d.clock.Now()
	for _, ix := range list {
		total += len(ix.shards) * (1 + ix.number("index.number_of_replicas"))
		if ix.closed {
			continue // as the engines: no numbers of closed indices, even when they are not forbidden
		}
		whole := map[string]any{}
		shards := map[string]any{}
		for _, s := range ix.shards {
			if s.state != started {
				continue
			}
			successful++
			s.lazyRefresh(now)
			m := common(s)
			sum(whole, m)
			sum(all, m)
			if s.commit == nil {
				s.flush(true)
			}
			count := 0
			for _, seg := range s.segments {
				count += len(seg.docs) - seg.killed
			}
			m["routing"] = map[string]any{"state": "STARTED", "primary": true, "node": s.node.id, "relocating_node": nil}
			m["commit"] = map[string]any{"id": s.commit.id, "generation": s.commit.generation, "user_data": s.commit.userData(), "num_docs": count}
			m["seq_no"] = map[string]any{"max_seq_no": s.maxSeqNo, "local_checkpoint": s.maxSeqNo, "global_checkpoint": s.maxSeqNo}
			m["retention_leases"] = map[string]any{"primary_term": s.term, "version": 1, "leases": []any{}}
			shards[strconv.Itoa(s.number)] = []any{m}
		}
		entry := map[string]any{"uuid": ix.uuid, "primaries": whole, "total": whole}
		if r.query.Get("level") == "shards" {
			entry["shards"] = shards
		}
		if len(shards) > 0 {
			indices[ix.name] = entry
		}
	}
	out := map[string]any{"_shards": map[string]any{"total": total, "successful": successful, "failed": 0},
		"_all": map[string]any{"primaries": all, "total": all}}
	if r.query.Get("level") != "cluster" {
		out["indices"] = indices
	}
	return ok(out)
}

func (s *shard) renderRecovery(d *Domain, detailed bool) map[string]any {
	rec := s.recovery
	now := d.clock.Now()
	stop := rec.stop
	if stop.IsZero() {
		stop = now
	}
	var total, reused, recovered int64
	files, reusedFiles, recoveredFiles := 0, 0, 0
	details := []any{}
	for i, f := range rec.files {
		files++
		total += f.length
		got := f.recovered
		switch {
		case f.reused:
			reused += f.length
			reusedFiles++
		case i == rec.current && rec.current >= 0:
			got = min(f.length, int64(now.Sub(rec.currentSince).Seconds()*float64(rec.perSecond)))
			recovered += got
		case f.recovered == f.length && rec.stage != "INDEX" || f.recovered > 0:
			recovered += f.recovered
			recoveredFiles++
		}
		details = append(details, map[string]any{"name": f.name, "length_in_bytes": f.length, "reused": f.reused, "recovered_in_bytes": got})
	}
	percent := func(done, of int64) string {
		if of <= 0 {
			if files == 0 {
				return "0.0%"
			}
			return "100.0%"
		}
		return strconv.FormatFloat(100*float64(done)/float64(of), 'f', 1, 64) + "%"
	}
	took := stop.Sub(rec.start).Milliseconds()
	m := map[string]any{"id": s.number, "type": rec.kind, "stage": rec.stage, "primary": true, "start_time_in_millis": rec.start.UnixMilli(),
		"total_time_in_millis": took,
		"target":               map[string]any{"id": s.node.id, "host": "127.0.0.1", "transport_address": s.node.address, "ip": "127.0.0.1", "name": s.node.name}}
	if !rec.stop.IsZero() {
		m["stop_time_in_millis"] = rec.stop.UnixMilli()
	}
	source := map[string]any{}
	switch rec.kind {
	case "SNAPSHOT":
		source = map[string]any{"repository": rec.repository, "snapshot": rec.snapshot, "version": rec.version, "index": rec.index, "restoreUUID": rec.uuid}
		if d.engine.openSearch && d.engine.major >= 2 {
			source["isSearchableSnapshot"], source["remoteStoreIndexShallowCopy"] = false, false
			source["sourceRemoteStoreRepository"], source["sourceRemoteTranslogRepository"] = nil, nil
		}
	case "EXISTING_STORE":
		source = map[string]any{"bootstrap_new_history_uuid": false}
	}
	m["source"] = source
	fileStats := map[string]any{"total": files, "reused": reusedFiles, "recovered": recoveredFiles,
		"percent": percent(int64(recoveredFiles), int64(files-reusedFiles))}
	if detailed {
		fileStats["details"] = details
	}
	m["index"] = map[string]any{"size": map[string]any{"total_in_bytes": total, "reused_in_bytes": reused, "recovered_in_bytes": recovered,
		"percent": percent(recovered, total-reused)},
		"files": fileStats, "total_time_in_millis": took, "source_throttle_time_in_millis": 0, "target_throttle_time_in_millis": 0}
	m["translog"] = map[string]any{"recovered": 0, "total": 0, "percent": "100.0%", "total_on_start": 0, "total_time_in_millis": 0}
	m["verify_index"] = map[string]any{"check_index_time_in_millis": 0, "total_time_in_millis": 0}
	return m
}

func handleRecovery(r *request) (int, any, *apiError) {
	list, err := r.indices(resolveOptions{closed: true})
	if err != nil {
		return 0, nil, err
	}
	out := map[string]any{}
	for _, ix := range list {
		var shards []any
		for _, s := range ix.shards {
			if s.recovery == nil || r.flag("active_only", false) && s.recovery.stage == "DONE" {
				continue
			}
			shards = append(shards, s.renderRecovery(r.domain, r.flag("detailed", false)))
		}
		if shards != nil {
			out[ix.name] = map[string]any{"shards": shards}
		}
	}
	return ok(out)
}

func handleSegments(r *request) (int, any, *apiError) {
	list, err := r.open()
	if err != nil {
		return 0, nil, err
	}
	indices := map[string]any{}
	total, successful := shardsTotal(list)
	for _, ix := range list {
		shards := map[string]any{}
		for _, s := range ix.shards {
			segments := map[string]any{}
			for _, seg := range s.segments {
				segments[seg.name] = map[string]any{"generation": seg.generation, "num_docs": len(seg.docs) - seg.killed, "deleted_docs": seg.killed,
					"size_in_bytes": seg.bytes,
					"committed":     seg.dataFiles != nil, "search": true, "compound": seg.compound, "version": r.domain.engine.lucene()}
			}
			shards[strconv.Itoa(s.number)] = []any{map[string]any{"routing": map[string]any{"state": "STARTED", "primary": true, "node": s.node.id},
				"num_committed_segments": len(s.segments), "num_search_segments": len(s.segments), "segments": segments}}
		}
		indices[ix.name] = map[string]any{"shards": shards}
	}
	return ok(map[string]any{"_shards": map[string]any{"total": total, "successful": successful, "failed": 0}, "indices": indices})
}

// waitStep is how often a request that waits for a state looks again.
const waitStep = 20 * time.Millisecond
