package frontdoor

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// family is a distribution and a version as major*100+minor, the grain of Amazon's lists.
type family struct {
	openSearch bool
	version    int
}

func parseFamily(engine string) (family, error) {
	distribution, version, _ := strings.Cut(engine, "-")
	parts := strings.Split(version, ".")
	if (distribution != "elasticsearch" && distribution != "opensearch") || len(parts) < 2 {
		return family{}, fmt.Errorf("engine %q is not of the form opensearch-2.19.0", engine)
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return family{}, fmt.Errorf("engine %q: %w", engine, err)
	}
	minor, err := strconv.Atoi(parts[1])
	if err != nil {
		return family{}, fmt.Errorf("engine %q: %w", engine, err)
	}
	f := family{distribution == "opensearch", major*100 + minor}
	if !f.openSearch && f.version < 501 {
		return family{}, fmt.Errorf("engine %q: the lists of Elasticsearch older than 5.1 are not known here", engine)
	}
	if f.openSearch && f.version > 217 {
		f.version = 217 // Amazon has no list for 2.19 and says nothing of 3.x: the last list stands for them
	}
	return f, nil
}

// listing says which versions list an operation or setting: Elasticsearch from..to and OpenSearch from..to, both ends
// included; from 0 means none. Versions between two that Amazon lists count as the lower one, which these ranges give.
type listing struct {
	name                       string
	esFrom, esTo, osFrom, osTo int
}

const last = 9999

func (l listing) holds(f family) bool {
	from, to := l.esFrom, l.esTo
	if f.openSearch {
		from, to = l.osFrom, l.osTo
	}
	return from > 0 && from <= f.version && f.version <= to
}

func always(name string) listing               { return listing{name, 501, last, 100, last} }
func since(name string, es, os int) listing    { return listing{name, es, last, os, last} }
func onlyES(name string, from, to int) listing { return listing{name, from, to, 0, 0} }
func onlyOS(name string, from, to int) listing { return listing{name, 0, 0, from, to} }

// rootOperations are the root-level paths that Amazon lists ("Supported operations in Amazon OpenSearch Service", developer guide,
// supported-operations; Elasticsearch 5.1 and newer). A listed path stands for its sub-paths unless a longer one is listed too.
// What is not listed is undocumented rather than proven refused; this door refuses it, so that nothing comes to rely on it.
var rootOperations = []listing{
	always("_alias"), always("_aliases"), always("_all"), always("_analyze"), always("_bulk"), always("_cat"),
	always("_cluster/allocation/explain"), always("_cluster/health"), always("_cluster/pending_tasks"), always("_cluster/settings"),
	always("_cluster/state"), always("_cluster/stats"), always("_count"), always("_flush"), always("_mapping"), always("_mget"),
	always("_msearch"), always("_nodes"), always("_percolate"), always("_refresh"), always("_search"), always("_snapshot"),
	always("_stats"), always("_status"), always("_template"), always("_delete_by_query"), always("_explain"), always("_field_caps"),
	always("_field_stats"), always("_mtermvectors"), always("_reindex"), always("_rollover"), always("_shard_stores"), always("_shrink"),
	always("_tasks"), always("_update_by_query"), always("_validate"), always("_ingest/pipeline"), always("_render"),
	since("_scripts", 505, 100), since("_rank_eval", 602, 100), since("_split", 602, 100), since("_ltr", 707, 100),
	onlyES("_index_template", 708, last), since("_resolve/index", 709, 100),
	onlyOS("_search/point_in_time", 205, last), onlyOS("_search/pipeline", 209, last), onlyOS("_list", 217, last),
	onlyOS("_dashboards", 100, last), onlyES("_plugin/kibana", 501, last),
	onlyES("_opendistro/_alerting", 602, last), onlyES("_opendistro/_sql", 605, last), onlyES("_opendistro/_security", 607, last),
	onlyES("_opendistro/_ism", 608, last), onlyES("_opendistro/_anomaly_detection", 704, last), onlyES("_opendistro/_ppl", 709, last),
	onlyES("_opendistro/_asynchronous_search", 710, last), onlyES("_plugins/_replication", 710, last),
	onlyOS("_plugins/_alerting", 100, last), onlyOS("_plugins/_anomaly_detection", 100, last),
	onlyOS("_plugins/_asynchronous_search", 100, last), onlyOS("_plugins/_ism", 100, last), onlyOS("_plugins/_ppl", 100, last),
	onlyOS("_plugins/_security", 100, last), onlyOS("_plugins/_sql", 100, last), onlyOS("_plugins/_transforms", 100, 101),
	onlyOS("_plugins/_ml", 103, last), onlyOS("_plugins/_notifications", 203, last), onlyOS("_plugins/_security_analytics", 205, last),
	onlyOS("_plugins/_sm", 205, last),
}

// clusterSettings are the properties that Amazon lists for PUT _cluster/settings. Those of plugins are let through besides: the
// lists say that they leave them out.
var clusterSettings = []listing{
	always("indices.breaker.fielddata.limit"), always("indices.breaker.request.limit"), always("indices.breaker.total.limit"),
	always("action.auto_create_index"), always("action.search.shard_count.limit"),
	{"cluster.max_shards_per_node", 607, last, 100, 216}, onlyES("cluster.blocks.read_only", 608, 608),
	onlyOS("cluster.search.request.slowlog.level", 213, last),
	onlyOS("cluster.search.request.slowlog.threshold.warn", 213, last), onlyOS("cluster.search.request.slowlog.threshold.info", 213, last),
	onlyOS("cluster.search.request.slowlog.threshold.debug", 213, last), onlyOS("cluster.search.request.slowlog.threshold.trace", 213, last),
	onlyOS("search.phase_took_enabled", 213, last),
}

// refuse returns Amazon's refusal of a request, or nil when it is let through.
func (f family) refuse(r Request) *answer {
	if len(r.segments) == 0 {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return nil // in no list, but every client calls it
		}
		return notAllowed(r.Path)
	}
	first := r.segments[0]
	if !strings.HasPrefix(first, "_") || first == "_all" {
		// Index-path operations: all of them, but for _close before Elasticsearch 7.4.
		if !f.openSearch && f.version < 704 && len(r.segments) == 2 && r.segments[1] == "_close" {
			return notAllowed(r.Path)
		}
		return nil
	}
	if f.openSearch && first == "_data_stream" && r.Method == http.MethodDelete && len(r.segments) == 2 {
		return nil // in no list, but in the developer guide ("Managing time-series data ... with data streams", step 7)
	}
	if !f.lists(r.segments) {
		return notAllowed(r.Path)
	}
	switch {
	case r.has("nodeattrs") && first == "_cat":
		return notAllowed(r.Path)
	case first == "_cluster" && r.segments[1] == "settings":
		return f.refuseClusterSettings(r)
	case first == "_snapshot":
		return f.refuseSnapshot(r)
	}
	return nil
}

// lists finds the longest listed path that covers the segments, over all versions, and tells whether f has it.
func (f family) lists(segments []string) bool {
	length, held := 0, false
	for _, l := range rootOperations {
		path := strings.Split(l.name, "/")
		if len(path) > length && len(path) <= len(segments) && slices.Equal(path, segments[:len(path)]) {
			length, held = len(path), l.holds(f)
		}
	}
	return held
}

func (f family) refuseClusterSettings(r Request) *answer {
	switch {
	case len(r.segments) > 2:
		return notAllowed(r.Path)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		if !f.openSearch && f.version < 503 {
			return notAllowed(r.Path)
		}
		return nil
	case r.Method != http.MethodPut:
		return notAllowed(r.Path)
	}
	// Only the flat form, and of the two kinds only "persistent" is documented.
	var body map[string]map[string]json.RawMessage
	if json.Unmarshal(r.Body, &body) != nil {
		return payloadNotAllowed(r.Path)
	}
	for kind, settings := range body {
		if kind != "persistent" {
			return payloadNotAllowed(r.Path)
		}
		for name, value := range settings {
			if strings.HasPrefix(strings.TrimSpace(string(value)), "{") || !f.settable(name) {
				return payloadNotAllowed(r.Path)
			}
		}
	}
	return nil
}

func (f family) settable(name string) bool {
	if strings.HasPrefix(name, "plugins.") || strings.HasPrefix(name, "opendistro.") {
		return true
	}
	return slices.ContainsFunc(clusterSettings, func(l listing) bool { return l.name == name && l.holds(f) })
}

// refuseSnapshot guards what the service owns: names that begin with "cs-", among repositories as in patterns that match them.
// Reading from them and restoring out of them is allowed.
func (f family) refuseSnapshot(r Request) *answer {
	if len(r.segments) > 1 && r.segments[1] == "_status" && !f.openSearch && f.version < 505 {
		return notAllowed(r.Path)
	}
	if len(r.segments) < 2 || !r.Mutating {
		return nil
	}
	if r.Method == http.MethodPost && r.segments[len(r.segments)-1] == "_restore" {
		return nil
	}
	for name := range strings.SplitSeq(r.segments[1], ",") {
		if strings.HasPrefix(name, "cs-") || strings.Contains(name, "*") || name == "_all" {
			return notAllowed(r.Path)
		}
	}
	return nil
}
