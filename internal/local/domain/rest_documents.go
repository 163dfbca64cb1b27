package domain

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// write is one index, create, update or delete operation.
type write struct {
	action      string // index, create, update, delete
	index, id   string
	routing     string
	version     *int64
	versionType string
	ifSeqNo     *int64
	ifTerm      *int64
	pipeline    string
	body        []byte
}

// invalid names what the engines refuse about a write before they look at any index; in a bulk request one such write refuses all.
func (w write) invalid() string {
	switch {
	case w.ifSeqNo != nil && w.ifTerm == nil:
		return "ifSeqNo is set, but primary term is [0]"
	case w.ifSeqNo == nil && w.ifTerm != nil:
		return fmt.Sprintf("ifSeqNo is unassigned, but primary term is [%d]", *w.ifTerm)
	case w.ifSeqNo != nil && w.versionType != "" && w.versionType != "internal":
		return "compare and write operations can not use versioning"
	}
	switch w.versionType {
	case "", "internal":
		if w.version != nil {
			return "internal versioning can not be used for optimistic concurrency control. Please use `if_seq_no` and `if_primary_term` instead"
		}
	case "external", "external_gt", "external_gte":
		given := int64(-3) // what stands for none in the engines
		if w.version != nil {
			given = *w.version
		}
		if given < 0 {
			kind := map[bool]string{true: "EXTERNAL_GTE", false: "EXTERNAL"}[w.versionType == "external_gte"]
			return fmt.Sprintf("illegal version value [%d] for version type [%s]", given, kind)
		}
	}
	return ""
}

// validate refuses a request with invalid writes, naming them all.
func validate(writes ...write) *apiError {
	var text strings.Builder
	n := 0
	for _, w := range writes {
		if what := w.invalid(); what != "" {
			n++
			fmt.Fprintf(&text, "%d: %s;", n, what)
		}
	}
	if n == 0 {
		return nil
	}
	return fail(400, "action_request_validation_exception", "Validation Failed: %s", text.String())
}

// pipelined refuses a write that an ingest pipeline would change.
func (d *Domain) pipelined(ix *index, w write) *apiError {
	for _, name := range []string{cmp.Or(w.pipeline, ix.setting("index.default_pipeline")), ix.setting("index.final_pipeline")} {
		switch {
		case name == "" || name == "_none":
		case d.templates["_ingest/pipeline"][name] == nil:
			return fail(400, "illegal_argument_exception", "pipeline with id [%s] does not exist", name)
		default:
			return notImplemented("ingest pipelines on writes (index [%s])", ix.name)
		}
	}
	return nil
}

// apply runs one write, which is valid, with d.mu held. It answers the item of a bulk response and its HTTP status.
func (d *Domain) apply(w write) (int, map[string]any, *apiError) {
	if err := d.refuseForStream(w); err != nil {
		return 0, nil, err
	}
	ix, aliasRouting, err := d.writeTarget(w.index)
	if err != nil {
		return 0, nil, err
	}
	if err := d.refuseForStream(w); err != nil { // it has just been made
		return 0, nil, err
	}
	if aliasRouting != "" {
		w.routing = aliasRouting
	}
	if ix.closed {
		return 0, nil, ix.closedError()
	}
	if err := ix.blockedFor("write"); err != nil {
		return 0, nil, err
	}
	if w.action != "delete" {
		if err := d.pipelined(ix, w); err != nil {
			return 0, nil, err
		}
	}
	if w.id == "" {
		w.id = d.randomText(20)
		w.action = "create"
	}
	if len(w.id) > 512 {
		return 0, nil, fail(400, "illegal_argument_exception", "id [%s] is too long, must be no longer than 512 bytes but was: %d", w.id, len(w.id))
	}
	if required, ok := ix.mapping["_routing"].(map[string]any); ok && required["required"] == true && w.routing == "" {
		return 0, nil, fail(400, "routing_missing_exception", "routing is required for [%s]/[_doc]/[%s]", ix.name, w.id).with("index", ix.name,
			"index_uuid", ix.uuid)
	}
	key := w.routing
	if key == "" {
		key = w.id
	}
	s := ix.shardFor(key)
	if s.state != started {
		return 0, nil, fail(503, "unavailable_shards_exception", "[%s][%d] primary shard is not active Timeout: [1m]", ix.name, s.number)
	}
	now := d.clock.Now()
	conflict := func(format string, args ...any) *apiError {
		return fail(409, "version_conflict_engine_exception", "[%s]: version conflict, %s", w.id, fmt.Sprintf(format, args...)).
			with("index", ix.name, "shard", strconv.Itoa(s.number), "index_uuid", ix.uuid)
	}
	old := s.live[w.id]
	current := s.currentVersion(now, w.id)
	if w.action == "update" {
		return d.update(ix, s, w)
	}
	if w.action == "create" && old != nil {
		return 0, nil, conflict("document already exists (current version [%d])", old.version)
	}
	if w.ifSeqNo != nil {
		switch {
		case old == nil:
			return 0, nil, conflict("required seqNo [%d], primary term [%d]. but no document was found", *w.ifSeqNo, *w.ifTerm)
		case old.seqNo != *w.ifSeqNo || old.term != *w.ifTerm:
			return 0, nil, conflict("required seqNo [%d], primary term [%d]. current document has seqNo [%d] and primary term [%d]", *w.ifSeqNo,
				*w.ifTerm, old.seqNo, old.term)
		}
	}
	version := current + 1
	switch w.versionType {
	case "", "internal":
	case "external", "external_gt", "external_gte":
		version = *w.version
		if w.versionType == "external_gte" && current > version {
			return 0, nil, conflict("current version [%d] is higher than the one provided [%d]", current, version)
		}
		if w.versionType != "external_gte" && current >= version {
			return 0, nil, conflict("current version [%d] is higher or equal to the one provided [%d]", current, version)
		}
	default:
		return 0, nil, fail(400, "illegal_argument_exception", "No version type match [%s]", w.versionType)
	}
	item := map[string]any{"_index": ix.name, "_id": w.id, "_shards": map[string]any{"total": 1 + ix.number("index.number_of_replicas"),
		"successful": 1, "failed": 0}}
	if d.typed() {
		item["_type"] = "_doc"
	}
	if w.action == "delete" {
		if old == nil && w.versionType == "" && current == 0 {
			version = 1
		}
		status, result := 404, "not_found"
		if old != nil {
			status, result = 200, "deleted"
		}
		item["_seq_no"] = s.remove(now, w.id, w.routing, version)
		item["_version"], item["result"], item["_primary_term"] = version, result, s.term
		return status, item, nil
	}
	if err := ix.timestamped(w.body); err != nil {
		return 0, nil, err
	}
	if err := ix.mapDocument(w.id, w.body); err != nil {
		return 0, nil, err
	}
	if w.versionType == "" && old == nil && current > 0 {
		version = current + 1
	}
	doc := &document{id: w.id, routing: w.routing, version: version, source: w.body}
	s.put(now, doc)
	status, result := 201, "created"
	if old != nil {
		status, result = 200, "updated"
	}
	item["_version"], item["result"], item["_seq_no"], item["_primary_term"] = version, result, doc.seqNo, doc.term
	return status, item, nil
}

func (d *Domain) typed() bool { return !d.engine.openSearch || d.engine.major == 1 }

// update merges a partial document into the newest version.
func (d *Domain) update(ix *index, s *shard, w write) (int, map[string]any, *apiError) {
	var body struct {
		Doc         map[string]any  `json:"doc"`
		Upsert      json.RawMessage `json:"upsert"`
		DocAsUpsert bool            `json:"doc_as_upsert"`
		DetectNoop  *bool           `json:"detect_noop"`
		Script      json.RawMessage `json:"script"`
	}
	dec := json.NewDecoder(bytes.NewReader(w.body))
	dec.UseNumber()
	if err := dec.Decode(&body); err != nil {
		return 0, nil, fail(400, "x_content_parse_exception", "[1:1] [UpdateRequest] %v", err)
	}
	if body.Script != nil {
		return 0, nil, notImplemented("scripted updates")
	}
	old := s.live[w.id]
	again := w
	again.action = "index"
	if old == nil {
		switch {
		case body.Upsert != nil:
			again.body = body.Upsert
		case body.DocAsUpsert:
			again.body, _ = marshal(body.Doc)
		default:
			text := "[" + w.id + "]: document missing"
			if d.typed() {
				text = "[_doc]" + text
			}
			return 0, nil, fail(404, "document_missing_exception", "%s", text).with("index", ix.name, "shard", strconv.Itoa(s.number), "index_uuid", ix.uuid)
		}
		return d.apply(again)
	}
	var source map[string]any
	dec = json.NewDecoder(bytes.NewReader(old.source))
	dec.UseNumber()
	if err := dec.Decode(&source); err != nil {
		return 0, nil, fail(500, "illegal_state_exception", "stored source of [%s] cannot be read: %v", w.id, err)
	}
	if changed := deepMerge(source, body.Doc); !changed && (body.DetectNoop == nil || *body.DetectNoop) && w.ifSeqNo == nil {
		item := map[string]any{"_index": ix.name, "_id": w.id, "_version": old.version, "result": "noop",
			"_shards": map[string]any{"total": 0, "successful": 0, "failed": 0},
			"_seq_no": old.seqNo, "_primary_term": old.term}
		if d.typed() {
			item["_type"] = "_doc"
		}
		return 200, item, nil
	}
	again.body, _ = marshal(source)
	if again.routing == "" {
		again.routing = old.routing
	}
	return d.apply(again)
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func deepMerge(into, add map[string]any) (changed bool) {
	for k, v := range add {
		sub, isObject := v.(map[string]any)
		have, wasObject := into[k].(map[string]any)
		if isObject && wasObject {
			changed = deepMerge(have, sub) || changed
			continue
		}
		if old, ok := into[k]; !ok || !reflect.DeepEqual(old, v) {
			into[k], changed = v, true
		}
	}
	return changed
}

func (r *request) write(action string) (write, *apiError) {
	w := write{action: action, index: r.args["index"], id: r.args["id"], routing: r.query.Get("routing"),
		versionType: r.query.Get("version_type"), pipeline: r.query.Get("pipeline"), body: r.body}
	for name, p := range map[string]**int64{"version": &w.version, "if_seq_no": &w.ifSeqNo, "if_primary_term": &w.ifTerm} {
		if text := r.query.Get(name); text != "" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return w, fail(400, "illegal_argument_exception", "Failed to parse long parameter [%s] with value [%s]", name, text)
			}
			*p = &n
		}
	}
	return w, nil
}

// one answers a single write; the refresh parameter is honoured.
func (r *request) one(w write) (int, any, *apiError) {
	if err := validate(w); err != nil {
		return 0, nil, err
	}
	status, item, err := r.domain.apply(w)
	if err != nil {
		return 0, nil, err
	}
	r.refreshAfter([]string{w.index})
	return status, item, nil
}

func (r *request) refreshAfter(names []string) {
	if !r.query.Has("refresh") || r.query.Get("refresh") == "false" {
		return
	}
	for _, name := range names {
		if ix, _, err := r.domain.writeTarget(name); err == nil {
			for _, s := range ix.shards {
				if s.state == started {
					s.refresh()
				}
			}
		}
	}
}

func handleIndexDocument(r *request) (int, any, *apiError) {
	if len(bytes.TrimSpace(r.body)) == 0 {
		return 0, nil, fail(400, "parse_exception", "request body is required")
	}
	action := "index"
	// Without an id the request is one to create, which a bulk item is not.
	if match, ok := match("/{index}/_create/{id}", splitPath(r.path)); ok && match["id"] != "" || r.query.Get("op_type") == "create" || r.args["id"] == "" {
		action = "create"
	}
	w, err := r.write(action)
	if err != nil {
		return 0, nil, err
	}
	return r.one(w)
}

func handleDeleteDocument(r *request) (int, any, *apiError) {
	w, err := r.write("delete")
	if err != nil {
		return 0, nil, err
	}
	if r.domain.indices[w.index] == nil { // a delete creates no index unless it carries a version
		if list, e := r.domain.resolve(w.index, resolveOptions{}); e != nil || len(list) == 0 {
			return 0, nil, missingIndex(w.index, "index_expression")
		}
	}
	return r.one(w)
}

func handleUpdateDocument(r *request) (int, any, *apiError) {
	w, err := r.write("update")
	if err != nil {
		return 0, nil, err
	}
	return r.one(w)
}

func handleBulk(r *request) (int, any, *apiError) {
	d := r.domain
	lines := r.body
	if len(lines) == 0 {
		return 0, nil, fail(400, "parse_exception", "request body is required")
	}
	if lines[len(lines)-1] != '\n' {
		return 0, nil, fail(400, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
	}
	var writes []write
	for number := 1; len(lines) > 0; number++ {
		var line []byte
		line, lines, _ = bytes.Cut(lines, []byte("\n"))
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var header map[string]struct {
			Index       string `json:"_index"`
			Type        string `json:"_type"`
			ID          any    `json:"_id"`
			Routing     any    `json:"routing"`
			OldRouting  any    `json:"_routing"`
			Version     *int64 `json:"version"`
			VersionType string `json:"version_type"`
			IfSeqNo     *int64 `json:"if_seq_no"`
			IfTerm      *int64 `json:"if_primary_term"`
			Pipeline    string `json:"pipeline"`
			Retry       int    `json:"retry_on_conflict"`
		}
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.UseNumber()
		dec.DisallowUnknownFields()
		if err := dec.Decode(&header); err != nil || len(header) != 1 {
			return 0, nil, fail(400, "illegal_argument_exception",
				"Malformed action/metadata line [%d], expected START_OBJECT or END_OBJECT but found something else: %v", number, err)
		}
		for action, h := range header {
			w := write{action: action, index: h.Index, version: h.Version, versionType: h.VersionType, ifSeqNo: h.IfSeqNo, ifTerm: h.IfTerm,
				pipeline: h.Pipeline}
			if h.ID != nil {
				w.id = textOf(h.ID)
			}
			if h.OldRouting != nil && d.engine.before(7, 0) {
				w.routing = textOf(h.OldRouting)
			} else if h.OldRouting != nil {
				return 0, nil, fail(400, "illegal_argument_exception", "Action/metadata line [%d] contains an unknown parameter [_routing]", number)
			}
			if h.Type != "" && !d.typed() {
				return 0, nil, fail(400, "illegal_argument_exception", "Action/metadata line [%d] contains an unknown parameter [_type]", number)
			}
			if h.Routing != nil {
				w.routing = textOf(h.Routing)
			}
			if w.routing == "" {
				w.routing = r.query.Get("routing")
			}
			if w.index == "" {
				w.index = r.args["index"]
			}
			if w.pipeline == "" {
				w.pipeline = r.query.Get("pipeline")
			}
			switch action {
			case "delete":
			case "index", "create", "update":
				var body []byte
				body, lines, _ = bytes.Cut(lines, []byte("\n"))
				w.body = bytes.TrimSuffix(body, []byte("\r"))
				number++
			default:
				return 0, nil, fail(400, "illegal_argument_exception",
					"Malformed action/metadata line [%d], expected field [create], [delete], [index] or [update] but found [%s]", number, action)
			}
			if w.index == "" {
				return 0, nil, fail(400, "action_request_validation_exception", "Validation Failed: 1: index is missing;")
			}
			if w.id == "" && (action == "delete" || action == "update") {
				return 0, nil, fail(400, "action_request_validation_exception", "Validation Failed: 1: id is missing;")
			}
			writes = append(writes, w)
		}
	}
	if len(writes) == 0 {
		return 0, nil, fail(400, "action_request_validation_exception", "Validation Failed: 1: no requests added;")
	}
	if err := validate(writes...); err != nil {
		return 0, nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	begin := d.clock.Now()
	failed := false
	items := make([]any, 0, len(writes))
	touched := map[string]bool{}
	for _, w := range writes {
		touched[w.index] = true
		status, item, err := d.apply(w)
		if err != nil {
			failed = true
			item = map[string]any{"_index": w.index, "_id": w.id, "status": err.status, "error": err.object()}
			if w.id == "" {
				item["_id"] = nil
			}
			if d.typed() {
				item["_type"] = "_doc"
			}
		} else {
			item["status"] = status
		}
		items = append(items, map[string]any{w.action: item})
	}
	r.refreshAfter(sortedKeys(touched))
	return ok(map[string]any{"took": d.clock.Now().Sub(begin).Milliseconds(), "errors": failed, "items": items})
}

func (d *Domain) readTarget(name string) (*index, *apiError) {
	list, err := d.resolve(name, resolveOptions{closed: true, resourceType: "index_expression"})
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, fail(400, "illegal_argument_exception",
			"Alias [%s] has more than one indices associated with it, can't execute a single index op", name)
	}
	ix := list[0]
	if ix.closed {
		return nil, ix.closedError()
	}
	if err := ix.blockedFor("read"); err != nil {
		return nil, err
	}
	return ix, nil
}

// get answers a realtime read: refreshed or not.
func (d *Domain) get(ix *index, id, routing string, withSource bool) (map[string]any, *apiError) {
	key := routing
	if key == "" {
		key = id
	}
	s := ix.shardFor(key)
	if s.state != started {
		return nil, fail(503, "no_shard_available_action_exception", "No shard available for [get [%s][_doc][%s]: routing [%s]]", ix.name, id, routing)
	}
	out := map[string]any{"_index": ix.name, "_id": id, "found": false}
	if d.typed() {
		out["_type"] = "_doc"
	}
	doc := s.live[id]
	if doc == nil {
		return out, nil
	}
	out["found"], out["_version"], out["_seq_no"], out["_primary_term"] = true, doc.version, doc.seqNo, doc.term
	if doc.routing != "" {
		out["_routing"] = doc.routing
	}
	if withSource && ix.sourceEnabled() {
		out["_source"] = json.RawMessage(doc.source)
	}
	return out, nil
}

func (ix *index) sourceEnabled() bool {
	m, ok := ix.mapping["_source"].(map[string]any)
	return !ok || m["enabled"] != false
}

// sourceParameter reads the parameter _source: true, false, or the fields that are wanted.
func (r *request) sourceParameter() (sourceFilter, *apiError) {
	if !r.query.Has("_source") {
		return sourceFilter{}, nil
	}
	return parseSource(r.query.Get("_source"))
}

func handleGetDocument(r *request) (int, any, *apiError) {
	ix, err := r.domain.readTarget(r.args["index"])
	if err != nil {
		return 0, nil, err
	}
	source, err := r.sourceParameter()
	if err != nil {
		return 0, nil, err
	}
	out, err := r.domain.get(ix, r.args["id"], r.query.Get("routing"), !source.off)
	if err != nil {
		return 0, nil, err
	}
	if raw, ok := out["_source"].(json.RawMessage); ok {
		out["_source"] = source.apply(raw)
	}
	if out["found"] == false {
		return 404, out, nil
	}
	return ok(out)
}

func handleMultiGet(r *request) (int, any, *apiError) {
	var body struct {
		Docs []struct {
			Index   string `json:"_index"`
			Type    string `json:"_type"`
			ID      any    `json:"_id"`
			Routing any    `json:"routing"`
			Source  any    `json:"_source"`
		} `json:"docs"`
		IDs []any `json:"ids"`
	}
	dec := json.NewDecoder(bytes.NewReader(r.body))
	dec.UseNumber()
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		return 0, nil, fail(400, "parsing_exception", "unexpected token or field in _mget body: %v", err)
	}
	docs := []any{}
	one := func(index, id, routing string, source sourceFilter) {
		ix, err := r.domain.readTarget(index)
		var out map[string]any
		if err == nil {
			out, err = r.domain.get(ix, id, routing, !source.off)
		}
		if raw, ok := out["_source"].(json.RawMessage); ok {
			out["_source"] = source.apply(raw)
		}
		if err != nil {
			out = map[string]any{"_index": index, "_id": id, "error": err.body().(map[string]any)["error"]}
		}
		docs = append(docs, out)
	}
	defaultSource, failed := r.sourceParameter()
	if failed != nil {
		return 0, nil, failed
	}
	for _, doc := range body.Docs {
		index, routing := doc.Index, r.query.Get("routing")
		if index == "" {
			index = r.args["index"]
		}
		if doc.Routing != nil {
			routing = textOf(doc.Routing)
		}
		source := defaultSource
		if doc.Source != nil {
			var err *apiError
			if source, err = parseSource(doc.Source); err != nil {
				return 0, nil, err
			}
		}
		one(index, textOf(doc.ID), routing, source)
	}
	for _, id := range body.IDs {
		one(r.args["index"], textOf(id), r.query.Get("routing"), defaultSource)
	}
	if len(docs) == 0 {
		return 0, nil, fail(400, "action_request_validation_exception", "Validation Failed: 1: no documents to get;")
	}
	return ok(map[string]any{"docs": docs})
}
