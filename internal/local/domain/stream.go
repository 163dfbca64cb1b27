package domain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// dataStream is a data stream of OpenSearch: hidden backing indices, the last of which takes the writes.
type dataStream struct {
	Name       string   `json:"name"`
	Timestamp  string   `json:"timestamp_field"`
	Indices    []string `json:"indices"`
	Generation int      `json:"generation"`
}

func (s *dataStream) writeIndex() string { return s.Indices[len(s.Indices)-1] }

func backingName(stream string, generation int) string {
	return fmt.Sprintf(".ds-%s-%06d", stream, generation)
}

// streamOf is the data stream that an index belongs to, nil when it is a plain one.
func (d *Domain) streamOf(ix *index) *dataStream {
	for _, s := range d.streams {
		if slices.Contains(s.Indices, ix.name) {
			return s
		}
	}
	return nil
}

// writeIndices are those of the indices that take the writes of a data stream.
func (d *Domain) writeIndices(list []*index) []string {
	var names []string
	for _, ix := range list {
		if s := d.streamOf(ix); s != nil && s.writeIndex() == ix.name {
			names = append(names, ix.name)
		}
	}
	return names
}

// streamTemplate is the best template for the name and the timestamp field that it prescribes, "" when it is not one for data streams.
func (d *Domain) streamTemplate(name string) (template, timestamp string) {
	template = d.bestTemplate(name)
	if template == "" {
		return "", ""
	}
	body, _ := d.templates["_index_template"][template].(map[string]any)
	definition, _ := body["data_stream"].(map[string]any)
	field, _ := definition["timestamp_field"].(map[string]any)
	return template, textOfOr(field["name"], "")
}

// createStream adds a data stream with its first index.
func (d *Domain) createStream(name string) (*dataStream, *apiError) {
	if d.streams[name] != nil {
		return nil, fail(400, "resource_already_exists_exception", "data_stream [%s] already exists", name)
	}
	if d.indices[name] != nil {
		return nil, fail(400, "resource_already_exists_exception", "index [%s/%s] already exists", name, d.indices[name].uuid)
	}
	_, timestamp := d.streamTemplate(name)
	if timestamp == "" {
		return nil, fail(400, "illegal_argument_exception", "no matching index template found for data stream [%s]", name)
	}
	s := &dataStream{Name: name, Timestamp: timestamp}
	if err := d.addBacking(s); err != nil {
		return nil, err
	}
	d.streams[name] = s
	return s, nil
}

// addBacking gives the stream its next write index.
func (d *Domain) addBacking(s *dataStream) *apiError {
	_, timestamp := d.streamTemplate(s.Name)
	if timestamp == "" {
		return fail(400, "illegal_argument_exception", "no matching index template found for data stream [%s]", s.Name)
	}
	next := backingName(s.Name, s.Generation+1)
	if ix := d.indices[next]; ix != nil {
		return fail(400, "resource_already_exists_exception", "index [%s/%s] already exists", next, ix.uuid).with("index", next, "index_uuid", ix.uuid)
	}
	settings, mapping, _ := d.fromTemplates(s.Name)
	if err := d.shardLimit(1, 1); err != nil {
		return err
	}
	settings["index.hidden"] = "true"
	if err := mergeMapping(mapping, map[string]any{"properties": map[string]any{timestamp: map[string]any{"type": "date"}}}); err != nil {
		return err
	}
	mapping["_data_stream_timestamp"] = map[string]any{"enabled": true}
	d.createIndex(next, settings, mapping, nil)
	s.Generation++
	s.Indices = append(s.Indices, next)
	return nil
}

// refuseForStream is what the engines say to a write that a data stream or one of its indices does not take.
func (d *Domain) refuseForStream(w write) *apiError {
	if s := d.streams[w.index]; s != nil {
		if w.action != "create" {
			return fail(400, "illegal_argument_exception", "only write ops with an op_type of create are allowed in data streams")
		}
		return nil
	}
	ix := d.indices[w.index]
	if ix == nil {
		return nil
	}
	s := d.streamOf(ix)
	switch {
	case s == nil:
	case w.action == "create":
		return fail(400, "illegal_argument_exception", "index request with op_type=create targeting backing indices is disallowed, target corresponding data stream [%s] instead", s.Name)
	case w.action == "index" && w.ifSeqNo == nil:
		return fail(400, "illegal_argument_exception",
			"index request with op_type=index and no if_primary_term and if_seq_no set targeting backing indices is disallowed, target corresponding data stream [%s] instead", s.Name)
	}
	return nil
}

// timestamped refuses a document without its timestamp, in whatever index has a data stream's mapping.
func (ix *index) timestamped(source []byte) *apiError {
	on, _ := ix.mapping["_data_stream_timestamp"].(map[string]any)
	if on["enabled"] != true {
		return nil
	}
	if v := gjson.GetBytes(source, "@timestamp"); v.Exists() && !v.IsArray() {
		return nil
	}
	return fail(400, "mapper_parsing_exception", "failed to parse").causedBy("illegal_argument_exception",
		"documents must contain a single-valued timestamp field '@timestamp' of date type")
}

func (r *request) noStreams() *apiError {
	if r.domain.engine.openSearch {
		return nil
	}
	return fail(400, "invalid_index_name_exception", "Invalid index name [_data_stream], must not start with '_'.").with("index", "_data_stream", "index_uuid", "_na_")
}

func handleDataStreams(r *request) (int, any, *apiError) {
	if err := r.noStreams(); err != nil {
		return 0, nil, err
	}
	d, want := r.domain, r.args["name"]
	list := []any{}
	for _, name := range sortedKeys(d.streams) {
		if want != "" && want != "_all" && !slices.ContainsFunc(strings.Split(want, ","), func(p string) bool { return wildcard(p, name) }) {
			continue
		}
		s := d.streams[name]
		indices := []any{}
		status := "GREEN"
		for _, n := range s.Indices {
			ix := d.indices[n]
			indices = append(indices, map[string]any{"index_name": n, "index_uuid": ix.uuid})
			if _, health := ix.health(); !ix.closed && (health == "red" || health == "yellow" && status == "GREEN") {
				status = strings.ToUpper(health)
			}
		}
		entry := map[string]any{"name": name, "timestamp_field": map[string]any{"name": s.Timestamp}, "indices": indices, "generation": s.Generation, "status": status}
		if template, timestamp := d.streamTemplate(name); timestamp != "" {
			entry["template"] = template
		}
		list = append(list, entry)
	}
	if len(list) == 0 && want != "" && want != "_all" && !strings.Contains(want, "*") {
		return 0, nil, missingIndex(want, "index_or_alias")
	}
	return ok(map[string]any{"data_streams": list})
}

func handlePutDataStream(r *request) (int, any, *apiError) {
	if err := r.noStreams(); err != nil {
		return 0, nil, err
	}
	if err := checkIndexName(r.args["name"]); err != nil {
		return 0, nil, err
	}
	if _, err := r.domain.createStream(r.args["name"]); err != nil {
		return 0, nil, err
	}
	return acknowledged()
}

// handleDeleteDataStream acknowledges the deletion of one that does not exist, as the engines do.
func handleDeleteDataStream(r *request) (int, any, *apiError) {
	if err := r.noStreams(); err != nil {
		return 0, nil, err
	}
	d := r.domain
	for _, name := range sortedKeys(d.streams) {
		if !slices.ContainsFunc(strings.Split(r.args["name"], ","), func(p string) bool { return wildcard(p, name) }) {
			continue
		}
		s := d.streams[name]
		for _, n := range s.Indices {
			if d.snapshotting(d.indices[n]) {
				return 0, nil, fail(400, "snapshot_in_progress_exception",
					"Cannot delete data streams that are being snapshotted: [%s]. Try again after snapshot finishes or cancel the currently running snapshot.", name)
			}
		}
		for _, n := range s.Indices {
			d.removeIndex(d.indices[n])
		}
		delete(d.streams, name)
	}
	return acknowledged()
}

// handleRollover rolls a data stream over at once. A write block does not stop it, a metadata block does.
func handleRollover(r *request) (int, any, *apiError) {
	d := r.domain
	s := d.streams[r.args["index"]]
	if s == nil || len(strings.TrimSpace(string(r.body))) > 0 && strings.TrimSpace(string(r.body)) != "{}" {
		return 0, nil, notImplemented("_rollover of anything but a data stream, or with conditions")
	}
	old := s.writeIndex()
	if err := d.indices[old].blockedFor("metadata"); err != nil {
		return 0, nil, err
	}
	if err := d.addBacking(s); err != nil {
		return 0, nil, err
	}
	return ok(map[string]any{"acknowledged": true, "shards_acknowledged": true, "old_index": old, "new_index": s.writeIndex(), "rolled_over": true, "dry_run": false,
		"conditions": map[string]any{}})
}

// handleResolve tells what has a name. The model expands wildcards to everything, whatever expand_wildcards says.
func handleResolve(r *request) (int, any, *apiError) {
	d := r.domain
	if d.engine.before(7, 9) {
		return 0, nil, notImplemented("%s %s", r.method, r.path)
	}
	if e := r.query.Get("expand_wildcards"); e != "all" {
		return 0, nil, notImplemented("_resolve/index with expand_wildcards=%q", e)
	}
	patterns := strings.Split(r.args["name"], ",")
	named := func(name string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return p == "_all" || wildcard(p, name) })
	}
	indices, aliases, streams := []any{}, []any{}, []any{}
	members := map[string][]any{}
	for _, name := range sortedKeys(d.indices) {
		ix := d.indices[name]
		for alias := range ix.aliases {
			if named(alias) {
				members[alias] = append(members[alias], name)
			}
		}
		if !named(name) {
			continue
		}
		attributes := []any{map[bool]string{false: "open", true: "closed"}[ix.closed]}
		if ix.setting("index.hidden") == "true" {
			attributes = append([]any{"hidden"}, attributes...)
		}
		entry := map[string]any{"name": name, "attributes": attributes}
		if s := d.streamOf(ix); s != nil {
			entry["data_stream"] = s.Name
		}
		indices = append(indices, entry)
	}
	for _, alias := range sortedKeys(members) {
		aliases = append(aliases, map[string]any{"name": alias, "indices": members[alias]})
	}
	for _, name := range sortedKeys(d.streams) {
		if named(name) {
			streams = append(streams, map[string]any{"name": name, "backing_indices": d.streams[name].Indices, "timestamp_field": d.streams[name].Timestamp})
		}
	}
	return ok(map[string]any{"indices": indices, "aliases": aliases, "data_streams": streams})
}

// snapshotStreams are the data streams that an expression of a snapshot names, as the snapshot keeps them.
func (d *Domain) snapshotStreams(expression string) []dataStream {
	var list []dataStream
	for _, name := range sortedKeys(d.streams) {
		if slices.ContainsFunc(strings.Split(expression, ","), func(p string) bool { return p == "_all" || p == "" || wildcard(p, name) }) {
			s := *d.streams[name]
			s.Indices = slices.Clone(s.Indices)
			list = append(list, s)
		}
	}
	return list
}

// restoreStreams takes the names of data streams in a restore's expression apart: their indices are restored, and the streams are put in
// place with them.
func restoreStreams(info snapshotInfo, expression string) (indices string, streams []dataStream) {
	var parts []string
	for _, part := range strings.Split(expression, ",") {
		exact := false
		for _, s := range info.Streams {
			if part != "_all" && part != "" && !wildcard(part, s.Name) || slices.ContainsFunc(streams, func(o dataStream) bool { return o.Name == s.Name }) {
				continue
			}
			streams = append(streams, s)
			parts = append(parts, s.Indices...)
			exact = exact || part == s.Name
		}
		if !exact {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ","), streams
}

// streamNameTaken refuses a restored data stream whose name is that of an index or an alias.
func (d *Domain) streamNameTaken(s dataStream) *apiError {
	duplicates := func(what string) *apiError {
		return fail(500, "illegal_state_exception", "index, alias, and data stream names need to be unique, but the following duplicates were found [%s]", what)
	}
	if d.indices[s.Name] != nil {
		return duplicates("data stream [" + s.Name + "] conflicts with index")
	}
	for _, name := range sortedKeys(d.indices) {
		if ix := d.indices[name]; ix.aliases[s.Name] != nil {
			return duplicates(fmt.Sprintf("%s (alias of [%s/%s]) conflicts with data stream", s.Name, name, ix.uuid))
		}
	}
	return nil
}

// dataStreamTemplate completes the data_stream of an index template.
func (r *request) dataStreamTemplate(body map[string]any) *apiError {
	definition, given := body["data_stream"].(map[string]any)
	if !given {
		return nil
	}
	if !r.domain.engine.openSearch {
		return fail(400, "illegal_argument_exception", "composable template [%s] template after composition is invalid", r.args["name"]).
			causedBy("x_content_parse_exception", "[index_template] unknown field [data_stream]")
	}
	if definition["timestamp_field"] == nil {
		definition["timestamp_field"] = map[string]any{"name": "@timestamp"}
	}
	if field, _ := definition["timestamp_field"].(map[string]any); textOfOr(field["name"], "") != "@timestamp" {
		return notImplemented("data streams with another timestamp field than @timestamp")
	}
	return nil
}

// templateInUse refuses to delete a template that data streams are made by.
func (d *Domain) templateInUse(name string) *apiError {
	var users []string
	for _, s := range sortedKeys(d.streams) {
		if template, _ := d.streamTemplate(s); template == name {
			users = append(users, s)
		}
	}
	if users == nil {
		return nil
	}
	return fail(400, "illegal_argument_exception", "unable to remove composable templates [%s] as they are in use by a data streams [%s]", name, strings.Join(users, ", "))
}
