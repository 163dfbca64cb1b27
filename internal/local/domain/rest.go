package domain

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// apiError is an answer in the engines' error shape.
type apiError struct {
	status       int
	kind, reason string
	extra        map[string]any
	cause        map[string]any
	rootCause    map[string]any
	bare         string // the whole answer, for the few errors that are only a text
}

func (e *apiError) Error() string { return e.kind + ": " + e.reason }

func fail(status int, kind, format string, args ...any) *apiError {
	return &apiError{status: status, kind: kind, reason: fmt.Sprintf(format, args...)}
}

func notImplemented(format string, args ...any) *apiError {
	return fail(400, "illegal_argument_exception", "the built-in domain model does not implement "+format, args...)
}

func (e *apiError) with(pairs ...any) *apiError {
	e.extra = map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		e.extra[pairs[i].(string)] = pairs[i+1]
	}
	return e
}

func (e *apiError) causedBy(kind, format string, args ...any) *apiError {
	e.cause = map[string]any{"type": kind, "reason": fmt.Sprintf(format, args...)}
	return e
}

// object is the error without root causes, as it stands in bulk items too.
func (e *apiError) object() map[string]any {
	m := map[string]any{"type": e.kind, "reason": e.reason}
	for k, v := range e.extra {
		m[k] = v
	}
	if e.cause != nil {
		m["caused_by"] = e.cause
	}
	return m
}

func (e *apiError) body() any {
	if e.bare != "" {
		return map[string]any{"error": e.bare, "status": e.status}
	}
	m := e.object()
	root := e.object()
	delete(root, "caused_by")
	if e.rootCause != nil {
		root = e.rootCause
	}
	m["root_cause"] = []any{root}
	if e.kind == "search_phase_execution_exception" && e.rootCause == nil {
		m["root_cause"] = []any{}
	}
	return map[string]any{"error": m, "status": e.status}
}

// request is one call, taken apart.
type request struct {
	domain *Domain
	method string
	path   string
	args   map[string]string
	query  url.Values
	body   []byte
}

func (r *request) flag(name string, fallback bool) bool {
	if !r.query.Has(name) {
		return fallback
	}
	return r.query.Get(name) != "false"
}

// decode reads a JSON object body with numbers kept as written; an empty body is an empty object.
func (r *request) decode() (map[string]any, *apiError) {
	out := map[string]any{}
	if len(bytes.TrimSpace(r.body)) == 0 {
		return out, nil
	}
	dec := json.NewDecoder(bytes.NewReader(r.body))
	dec.UseNumber()
	if err := dec.Decode(&out); err != nil {
		return nil, fail(400, "parse_exception", "Failed to parse content to map").causedBy("json_parse_exception", "%v", err)
	}
	return out, nil
}

func cloneJSON(in map[string]any) map[string]any {
	b, _ := json.Marshal(in)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	out := map[string]any{}
	_ = dec.Decode(&out)
	return out
}

// route is an entry of the table: the pattern's parts in braces become arguments; parameters lists the query parameters that the
// model honours or may ignore without harm.
type route struct {
	methods    string
	pattern    string
	parameters string
	handle     func(*request) (int, any, *apiError)
}

const commonParameters = "pretty human error_trace filter_path format master_timeout cluster_manager_timeout timeout local v"

func (d *Domain) serve(w http.ResponseWriter, hr *http.Request) {
	body := io.Reader(hr.Body)
	if hr.Header.Get("Content-Encoding") == "gzip" {
		if z, err := gzip.NewReader(hr.Body); err == nil {
			body = z
		}
	}
	data, err := io.ReadAll(body)
	r := &request{domain: d, method: hr.Method, path: hr.URL.Path, query: hr.URL.Query(), body: data, args: map[string]string{}}
	status, answer, e := 0, any(nil), (*apiError)(nil)
	if err != nil {
		e = fail(400, "i_o_exception", "request body could not be read: %v", err)
	} else {
		status, answer, e = r.dispatch(hr.URL.EscapedPath())
	}
	if e != nil {
		status, answer = e.status, e.body()
	}
	if text, ok := answer.(string); ok {
		w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
		return
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if r.query.Has("pretty") && r.query.Get("pretty") != "false" {
		enc.SetIndent("", "  ")
	}
	if filter := r.query.Get("filter_path"); filter != "" && e == nil {
		answer = filterPath(answer, filter)
	}
	if err := enc.Encode(answer); err != nil {
		status = 500
		out.Reset()
		fmt.Fprintf(&out, `{"error":{"type":"exception","reason":%q},"status":500}`, err.Error())
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	if hr.Method != http.MethodHead {
		_, _ = w.Write(bytes.TrimSuffix(out.Bytes(), []byte("\n")))
	}
}

func (r *request) dispatch(escaped string) (int, any, *apiError) {
	var parts []string
	for p := range strings.SplitSeq(strings.Trim(escaped, "/"), "/") {
		u, err := url.PathUnescape(p)
		if err != nil {
			return 0, nil, fail(400, "illegal_argument_exception", "malformed path %q", escaped)
		}
		parts = append(parts, u)
	}
	for _, rt := range routes {
		if !slices.Contains(strings.Fields(rt.methods), r.method) {
			continue
		}
		args, ok := match(rt.pattern, parts)
		if !ok {
			continue
		}
		allowed := strings.Fields(commonParameters + " " + rt.parameters)
		for name := range r.query {
			if !slices.Contains(allowed, name) {
				return 0, nil, fail(400, "illegal_argument_exception",
					"request [%s] contains unrecognized parameter, or one that the built-in domain model does not implement: [%s]", r.path, name)
			}
		}
		r.args = args
		return rt.handle(r)
	}
	return 0, nil, notImplemented("%s %s", r.method, r.path)
}

func match(pattern string, parts []string) (map[string]string, bool) {
	want := strings.Split(strings.Trim(pattern, "/"), "/")
	if len(want) != len(parts) {
		return nil, false
	}
	args := map[string]string{}
	for i, w := range want {
		if name, ok := strings.CutPrefix(w, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			if parts[i] == "" || name == "index" && strings.HasPrefix(parts[i], "_") && parts[i] != "_all" {
				return nil, false
			}
			args[name] = parts[i]
			continue
		}
		if w != parts[i] {
			return nil, false
		}
	}
	return args, true
}

// filterPath keeps what a filter_path names; * stands for any text of one level, ** for any levels.
func filterPath(answer any, filter string) any {
	b, err := json.Marshal(answer)
	if err != nil {
		return answer
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var doc any
	if dec.Decode(&doc) != nil {
		return answer
	}
	var include, exclude [][]string
	for p := range strings.SplitSeq(filter, ",") {
		if rest, ok := strings.CutPrefix(p, "-"); ok {
			exclude = append(exclude, strings.Split(rest, "."))
		} else {
			include = append(include, strings.Split(p, "."))
		}
	}
	var keep func(v any, paths [][]string, drop bool) (any, bool)
	keep = func(v any, paths [][]string, drop bool) (any, bool) {
		switch v := v.(type) {
		case map[string]any:
			out := map[string]any{}
			for k, e := range v {
				var next [][]string
				whole := false
				for _, p := range paths {
					if p[0] == "**" {
						next = append(next, p)
						if len(p) > 1 && wildcard(p[1], k) {
							whole = whole || len(p) == 2
							if len(p) > 2 {
								next = append(next, p[2:])
							}
						}
					} else if wildcard(p[0], k) {
						whole = whole || len(p) == 1
						if len(p) > 1 {
							next = append(next, p[1:])
						}
					}
				}
				switch {
				case whole && !drop:
					out[k] = e
				case whole:
				case len(next) > 0:
					if sub, ok := keep(e, next, drop); ok {
						out[k] = sub
					}
				case drop:
					out[k] = e
				}
			}
			return out, drop || len(out) > 0
		case []any:
			var out []any
			for _, e := range v {
				if sub, ok := keep(e, paths, drop); ok {
					out = append(out, sub)
				}
			}
			return out, drop || len(out) > 0
		}
		return v, drop
	}
	if include != nil {
		kept, ok := keep(doc, include, false)
		if !ok {
			return map[string]any{}
		}
		doc = kept
	}
	if exclude != nil {
		doc, _ = keep(doc, exclude, true)
	}
	return doc
}

// locked runs a handler with the domain's lock held.
// handleNoPlugin is how nodes without plugins answer. Up to OpenSearch 1 such a path is that of a document of a type.
func handleNoPlugin(r *request) (int, any, *apiError) {
	if e := r.domain.engine; !e.openSearch || e.major < 2 {
		index, _, _ := strings.Cut(strings.TrimPrefix(r.path, "/"), "/")
		return 0, nil, missingIndex(index, "index_expression")
	}
	return http.StatusBadRequest, map[string]any{"error": fmt.Sprintf("no handler found for uri [%s] and method [%s]", r.path, r.method)}, nil
}

func locked(f func(*request) (int, any, *apiError)) func(*request) (int, any, *apiError) {
	return func(r *request) (int, any, *apiError) {
		r.domain.mu.Lock()
		defer r.domain.mu.Unlock()
		return f(r)
	}
}

func ok(v any) (int, any, *apiError) { return 200, v, nil }

func acknowledged() (int, any, *apiError) { return ok(map[string]any{"acknowledged": true}) }

const (
	expand   = "ignore_unavailable allow_no_indices expand_wildcards"
	writes   = "routing version version_type refresh pipeline if_seq_no if_primary_term op_type wait_for_active_shards"
	searches = expand + " size from scroll preference routing track_total_hits version seq_no_primary_term sort _source rest_total_hits_as_int request_cache search_type q"
)

var routes []route

func init() {
	routes = []route{
		{"GET HEAD", "/", "", locked(handleRoot)},
		{"GET", "/_cluster/health", "level wait_for_status wait_for_no_initializing_shards wait_for_no_relocating_shards wait_for_active_shards wait_for_events", handleHealth},
		{"GET", "/_cluster/health/{index}", "level wait_for_status wait_for_no_initializing_shards wait_for_no_relocating_shards wait_for_active_shards wait_for_events expand_wildcards", handleHealth},
		{"GET", "/_cluster/settings", "flat_settings include_defaults", locked(handleClusterSettings)},
		{"PUT", "/_cluster/settings", "flat_settings", locked(handlePutClusterSettings)},
		{"GET POST", "/_cluster/allocation/explain", "include_yes_decisions include_disk_info", locked(handleExplain)},
		{"POST", "/_cluster/reroute", "retry_failed metric dry_run explain", locked(handleReroute)},
		{"GET", "/_cluster/state/{metric}", "flat_settings " + expand, locked(handleClusterState)},
		{"GET", "/_cluster/state/{metric}/{index}", "flat_settings " + expand, locked(handleClusterState)},
		{"GET", "/_cluster/pending_tasks", "", func(*request) (int, any, *apiError) { return ok(map[string]any{"tasks": []any{}}) }},
		{"GET", "/_remote/info", "", func(*request) (int, any, *apiError) { return ok(map[string]any{}) }},
		{"GET", "/_nodes", "flat_settings", locked(handleNodes)},
		{"GET", "/_nodes/stats", "level", locked(handleNodesStats)},
		{"GET", "/_nodes/stats/{metric}", "level", locked(handleNodesStats)},
		{"GET", "/_nodes/{metric}", "flat_settings", locked(handleNodes)},
		{"GET", "/_tasks", "actions detailed nodes group_by parent_task_id", locked(handleTasks)},
		{"GET", "/_cat/indices", "bytes h s health pri time " + expand, locked(handleCatIndices)},
		{"GET", "/_cat/indices/{index}", "bytes h s health pri time " + expand, locked(handleCatIndices)},
		{"GET", "/_cat/shards", "bytes h s time", locked(handleCatShards)},
		{"GET", "/_cat/shards/{index}", "bytes h s time", locked(handleCatShards)},
		{"GET", "/_cat/recovery", "bytes h s time active_only detailed", locked(handleCatRecovery)},
		{"GET", "/_cat/recovery/{index}", "bytes h s time active_only detailed", locked(handleCatRecovery)},
		{"GET", "/_cat/nodes", "bytes h s time full_id", locked(handleCatNodes)},
		{"GET", "/_cat/health", "h s ts time", locked(handleCatHealth)},
		{"GET", "/_cat/snapshots/{repository}", "h s time ignore_unavailable", locked(handleCatSnapshots)},

		{"GET", "/_plugins/{plugin}/{what}", "size", handleNoPlugin},
		{"GET", "/_opendistro/{plugin}/{what}", "size", handleNoPlugin},

		{"GET", "/_data_stream", "", locked(handleDataStreams)},
		{"GET", "/_data_stream/{name}", "", locked(handleDataStreams)},
		{"PUT", "/_data_stream/{name}", "", locked(handlePutDataStream)},
		{"DELETE", "/_data_stream/{name}", "", locked(handleDeleteDataStream)},
		{"GET", "/_resolve/index/{name}", "expand_wildcards", locked(handleResolve)},
		{"GET HEAD", "/_template", "flat_settings", templateGet("_template")},
		{"GET HEAD", "/_template/{name}", "flat_settings", templateGet("_template")},
		{"PUT POST", "/_template/{name}", "create order", templatePut("_template")},
		{"DELETE", "/_template/{name}", "", templateDelete("_template")},
		{"GET HEAD", "/_index_template", "flat_settings", templateGet("_index_template")},
		{"GET HEAD", "/_index_template/{name}", "flat_settings", templateGet("_index_template")},
		{"PUT POST", "/_index_template/{name}", "create cause", templatePut("_index_template")},
		{"DELETE", "/_index_template/{name}", "", templateDelete("_index_template")},
		{"GET HEAD", "/_component_template", "flat_settings", templateGet("_component_template")},
		{"GET HEAD", "/_component_template/{name}", "flat_settings", templateGet("_component_template")},
		{"PUT POST", "/_component_template/{name}", "create", templatePut("_component_template")},
		{"DELETE", "/_component_template/{name}", "", templateDelete("_component_template")},
		{"GET", "/_ingest/pipeline", "", templateGet("_ingest/pipeline")},
		{"GET", "/_ingest/pipeline/{name}", "", templateGet("_ingest/pipeline")},
		{"PUT", "/_ingest/pipeline/{name}", "", templatePut("_ingest/pipeline")},
		{"DELETE", "/_ingest/pipeline/{name}", "", templateDelete("_ingest/pipeline")},

		{"GET", "/_snapshot", "", locked(handleGetRepository)},
		{"GET", "/_snapshot/_status", "ignore_unavailable", locked(handleStatus)},
		{"GET", "/_snapshot/{repository}", "", locked(handleGetRepository)},
		{"PUT POST", "/_snapshot/{repository}", "verify", locked(handlePutRepository)},
		{"DELETE", "/_snapshot/{repository}", "", locked(handleDeleteRepository)},
		{"POST", "/_snapshot/{repository}/_verify", "", locked(handleVerifyRepository)},
		{"GET", "/_snapshot/{repository}/_status", "ignore_unavailable", locked(handleStatus)},
		{"GET", "/_snapshot/{repository}/{snapshot}", "ignore_unavailable verbose index_details", locked(handleGetSnapshot)},
		{"PUT POST", "/_snapshot/{repository}/{snapshot}", "wait_for_completion", handlePutSnapshot},
		{"DELETE", "/_snapshot/{repository}/{snapshot}", "", handleDeleteSnapshot},
		{"GET", "/_snapshot/{repository}/{snapshot}/_status", "ignore_unavailable", locked(handleStatus)},
		{"POST", "/_snapshot/{repository}/{snapshot}/_restore", "wait_for_completion", handleRestore},

		{"POST PUT", "/_bulk", writes + " _source require_alias", handleBulk},
		{"POST PUT", "/{index}/_bulk", writes + " _source require_alias", handleBulk},
		{"GET POST", "/_mget", "routing realtime refresh preference _source", locked(handleMultiGet)},
		{"GET POST", "/{index}/_mget", "routing realtime refresh preference _source", locked(handleMultiGet)},
		{"GET HEAD", "/{index}/_doc/{id}", "routing realtime refresh preference _source version version_type", locked(handleGetDocument)},
		{"PUT POST", "/{index}/_doc/{id}", writes, locked(handleIndexDocument)},
		{"POST", "/{index}/_doc", writes, locked(handleIndexDocument)},
		{"PUT POST", "/{index}/_create/{id}", writes, locked(handleIndexDocument)},
		{"DELETE", "/{index}/_doc/{id}", writes, locked(handleDeleteDocument)},
		{"POST", "/{index}/_update/{id}", "routing refresh retry_on_conflict if_seq_no if_primary_term wait_for_active_shards",
			locked(handleUpdateDocument)},

		{"GET POST", "/_search", searches, handleSearch},
		{"GET POST", "/_search/scroll", "scroll scroll_id rest_total_hits_as_int", handleScroll},
		{"DELETE", "/_search/scroll", "scroll_id", locked(handleClearScroll)},
		{"GET POST", "/{index}/_search", searches, handleSearch},
		{"GET POST", "/_count", expand + " preference routing", handleCount},
		{"GET POST", "/{index}/_count", expand + " preference routing", handleCount},

		{"GET", "/_alias", expand, locked(handleGetAlias)},
		{"GET HEAD", "/_alias/{alias}", expand, locked(handleGetAlias)},
		{"GET", "/_aliases", expand, locked(handleGetAlias)},
		{"POST", "/_aliases", "", locked(handleAliases)},
		{"GET", "/{index}/_alias", expand, locked(handleGetAlias)},
		{"GET", "/{index}/_aliases", expand, locked(handleGetAlias)},
		{"GET HEAD", "/{index}/_alias/{alias}", expand, locked(handleGetAlias)},
		{"PUT POST", "/{index}/_alias/{alias}", "", locked(handlePutAlias)},
		{"DELETE", "/{index}/_alias/{alias}", "", locked(handleDeleteAlias)},

		{"GET", "/_settings", "flat_settings include_defaults " + expand, locked(handleGetSettings)},
		{"GET", "/{index}/_settings", "flat_settings include_defaults " + expand, locked(handleGetSettings)},
		{"GET", "/{index}/_settings/{name}", "flat_settings include_defaults " + expand, locked(handleGetSettings)},
		{"PUT", "/{index}/_settings", "preserve_existing flat_settings " + expand, locked(handlePutSettings)},
		{"PUT", "/_settings", "preserve_existing flat_settings " + expand, locked(handlePutSettings)},
		{"GET", "/_mapping", "include_type_name " + expand, locked(handleGetMapping)},
		{"GET", "/{index}/_mapping", "include_type_name " + expand, locked(handleGetMapping)},
		{"PUT POST", "/{index}/_mapping", "include_type_name " + expand, locked(handlePutMapping)},
		{"POST", "/{index}/_rollover", "", locked(handleRollover)},
		{"POST", "/{index}/_close", "wait_for_active_shards " + expand, handleClose},
		{"POST", "/{index}/_open", "wait_for_active_shards " + expand, locked(handleOpen)},
		{"POST GET", "/_refresh", expand, locked(handleRefresh)},
		{"POST GET", "/{index}/_refresh", expand, locked(handleRefresh)},
		{"POST GET", "/_flush", "force wait_if_ongoing " + expand, locked(handleFlush)},
		{"POST GET", "/{index}/_flush", "force wait_if_ongoing " + expand, locked(handleFlush)},
		{"POST", "/{index}/_forcemerge", "max_num_segments flush only_expunge_deletes " + expand, locked(handleForceMerge)},
		{"PUT", "/{index}/_block/{block}", expand, locked(handleBlock)},
		{"GET", "/_stats", "level forbid_closed_indices " + expand, locked(handleStats)},
		{"GET", "/_stats/{metric}", "level forbid_closed_indices " + expand, locked(handleStats)},
		{"GET", "/{index}/_stats", "level forbid_closed_indices " + expand, locked(handleStats)},
		{"GET", "/{index}/_stats/{metric}", "level forbid_closed_indices " + expand, locked(handleStats)},
		{"GET", "/_recovery", expand + " detailed active_only", locked(handleRecovery)},
		{"GET", "/{index}/_recovery", expand + " detailed active_only", locked(handleRecovery)},
		{"GET", "/{index}/_segments", expand, locked(handleSegments)},

		{"PUT", "/{index}", "wait_for_active_shards include_type_name", locked(handleCreateIndex)},
		{"DELETE", "/{index}", expand, locked(handleDeleteIndex)},
		{"GET", "/{index}", "flat_settings include_defaults " + expand, locked(handleGetIndex)},
		{"HEAD", "/{index}", "flat_settings include_defaults " + expand, locked(handleGetIndex)},
	}
}
