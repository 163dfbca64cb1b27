package domain

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

func splitPath(path string) []string { return strings.Split(strings.Trim(path, "/"), "/") }

func handleRoot(r *request) (int, any, *apiError) {
	d := r.domain
	wire, oldest := d.engine.minimums()
	version := map[string]any{"number": d.engine.String(), "build_type": "model", "build_hash": "0000000000000000000000000000000000000000",
		"build_date":     "2026-01-01T00:00:00.000000Z",
		"build_snapshot": false, "lucene_version": d.engine.lucene(), "minimum_wire_compatibility_version": wire,
		"minimum_index_compatibility_version": oldest}
	tagline := "You Know, for Search"
	if d.engine.openSearch {
		version["distribution"] = "opensearch"
		tagline = "The OpenSearch Project: https://opensearch.org/"
	} else {
		version["build_flavor"] = "oss"
	}
	return ok(map[string]any{"name": d.nodes[0].name, "cluster_name": d.cfg.Name, "cluster_uuid": d.uuid, "version": version, "tagline": tagline})
}

type healthCounts struct{ primaries, active, initializing, unassigned int }

var severity = []string{"green", "yellow", "red"}

func worse(a, b string) string {
	return severity[max(slices.Index(severity, a), slices.Index(severity, b))]
}

func (d *Domain) shardHealth(s *shard) (healthCounts, string) {
	replicas := s.index.number("index.number_of_replicas")
	if s.index.setting("index.auto_expand_replicas") != "" && s.index.setting("index.auto_expand_replicas") != "false" {
		replicas = min(replicas, len(d.nodes)-1)
	}
	var h healthCounts
	switch s.state {
	case started:
		h.primaries, h.active = 1, 1
		assigned := min(replicas, len(d.nodes)-1)
		h.active += assigned
		h.unassigned = replicas - assigned
	case initializing:
		h.initializing, h.unassigned = 1, replicas
		return h, "yellow" // a primary that is being restored for the first time counts as yellow
	default:
		h.unassigned = 1 + replicas
		return h, "red"
	}
	if h.unassigned > 0 {
		return h, "yellow"
	}
	return h, "green"
}

func (h *healthCounts) add(o healthCounts) {
	h.primaries += o.primaries
	h.active += o.active
	h.initializing += o.initializing
	h.unassigned += o.unassigned
}

func (h healthCounts) fields(m map[string]any) {
	m["active_primary_shards"], m["active_shards"], m["relocating_shards"] = h.primaries, h.active, 0
	m["initializing_shards"], m["unassigned_shards"] = h.initializing, h.unassigned
}

func (ix *index) health() (healthCounts, string) {
	status := "green"
	var sum healthCounts
	for _, s := range ix.shards {
		h, st := ix.domain.shardHealth(s)
		sum.add(h)
		status = worse(status, st)
	}
	return sum, status
}

func handleHealth(r *request) (int, any, *apiError) {
	d := r.domain
	limit := 30 * time.Second
	if t, err := parseTime(r.query.Get("timeout")); err == nil && r.query.Has("timeout") {
		limit = t
	}
	d.mu.Lock()
	deadline := d.clock.Now().Add(limit)
	d.mu.Unlock()
	for {
		d.mu.Lock()
		answer, satisfied, err := r.health()
		now := d.clock.Now()
		d.mu.Unlock()
		if err != nil {
			return 0, nil, err
		}
		if satisfied {
			return ok(answer)
		}
		if !now.Before(deadline) {
			answer["timed_out"] = true
			return 408, answer, nil
		}
		wake := make(chan struct{})
		d.clock.AfterFunc(min(waitStep, deadline.Sub(now)), func() { close(wake) })
		<-wake
	}
}

// health answers the state and whether what the request waits for has come.
func (r *request) health() (map[string]any, bool, *apiError) {
	d := r.domain
	missing := false
	list, err := d.resolve(r.args["index"], resolveOptions{closed: true})
	if err != nil {
		missing, list = true, nil // an index that does not exist is waited for
	}
	status := "green"
	var sum healthCounts
	indices := map[string]any{}
	level := r.query.Get("level")
	for _, ix := range list {
		h, st := ix.health()
		sum.add(h)
		status = worse(status, st)
		m := map[string]any{"status": st, "number_of_shards": len(ix.shards), "number_of_replicas": ix.number("index.number_of_replicas")}
		h.fields(m)
		if level == "shards" {
			shards := map[string]any{}
			for _, s := range ix.shards {
				h, st := d.shardHealth(s)
				sm := map[string]any{"status": st, "primary_active": s.state == started}
				h.fields(sm)
				delete(sm, "active_primary_shards")
				shards[strconv.Itoa(s.number)] = sm
			}
			m["shards"] = shards
		}
		indices[ix.name] = m
	}
	if missing {
		status = "red"
	}
	m := map[string]any{"cluster_name": d.cfg.Name, "status": status, "timed_out": false, "number_of_nodes": len(d.nodes),
		"number_of_data_nodes":      len(d.nodes),
		"delayed_unassigned_shards": 0, "number_of_pending_tasks": 0, "number_of_in_flight_fetch": 0, "task_max_waiting_in_queue_millis": 0}
	sum.fields(m)
	if d.engine.openSearch {
		m["discovered_master"] = true
		if d.engine.major >= 2 {
			m["discovered_cluster_manager"] = true
		}
	}
	percent := 100.0
	if n := sum.active + sum.initializing + sum.unassigned; n > 0 {
		percent = 100 * float64(sum.active) / float64(n)
	}
	m["active_shards_percent_as_number"] = double(percent)
	if level == "indices" || level == "shards" {
		m["indices"] = indices
	}
	satisfied := !missing
	if want := r.query.Get("wait_for_status"); want != "" {
		satisfied = satisfied && slices.Index(severity, status) <= slices.Index(severity, want)
	}
	if r.flag("wait_for_no_initializing_shards", false) {
		satisfied = satisfied && sum.initializing == 0
	}
	if n := r.query.Get("wait_for_active_shards"); n != "" && n != "0" {
		wanted, e := strconv.Atoi(n)
		satisfied = satisfied && (e == nil && sum.active >= wanted || n == "all" && sum.initializing+sum.unassigned == 0)
	}
	return m, satisfied, nil
}

func (r *request) renderCluster(m map[string]any) any {
	if r.flag("flat_settings", false) {
		return m
	}
	return unflatten(m)
}

func handleClusterSettings(r *request) (int, any, *apiError) {
	d := r.domain
	out := map[string]any{"persistent": r.renderCluster(d.persistent), "transient": r.renderCluster(d.transient)}
	if r.flag("include_defaults", false) {
		defaults := map[string]any{"indices.recovery.max_bytes_per_sec": "40mb", "cluster.max_shards_per_node": "1000", "action.auto_create_index": "true",
			"cluster.routing.allocation.node_initial_primaries_recoveries": "4", "cluster.routing.allocation.node_concurrent_recoveries": "2",
			"cluster.blocks.read_only": "false"}
		maps.DeleteFunc(defaults, func(k string, _ any) bool { return d.clusterSetting(k) != "" })
		out["defaults"] = r.renderCluster(defaults)
	}
	return ok(out)
}

var clusterSettings = []string{"indices.recovery.*", "cluster.routing.allocation.*", "cluster.max_shards_per_node",
	"action.auto_create_index", "action.destructive_requires_name",
	"snapshot.max_concurrent_operations", "search.*", "cluster.info.update.interval", "cluster.snapshot.*", "cluster.indices.close.enable",
	"indices.breaker.*",
	"cluster.persistent_tasks.*", "logger.*", "cluster.metadata.*", "plugins.*", "opendistro.*", "cluster.remote.*", "archived.*"}

func handlePutClusterSettings(r *request) (int, any, *apiError) {
	d := r.domain
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	flat := map[string]map[string]any{"persistent": {}, "transient": {}}
	for k, v := range body {
		m, isMap := v.(map[string]any)
		if flat[k] == nil || !isMap {
			return 0, nil, fail(400, "illegal_argument_exception", "[cluster_update_settings_request] unknown field [%s]", k)
		}
		flatten("", m, flat[k])
	}
	if len(flat["persistent"])+len(flat["transient"]) == 0 {
		return 0, nil, fail(400, "action_request_validation_exception", "Validation Failed: 1: no settings to update;")
	}
	for _, kind := range []string{"persistent", "transient"} {
		for _, k := range sortedKeys(flat[kind]) {
			v := flat[kind][k]
			if !matchesAny(clusterSettings, k) && !(v == nil && strings.Contains(k, "*")) {
				if strings.HasPrefix(k, "cluster.blocks.") {
					return 0, nil, notImplemented("the cluster setting [%s]", k)
				}
				return 0, nil, fail(400, "illegal_argument_exception", "%s setting [%s], not recognized", kind, k)
			}
			if text, isText := v.(string); isText && strings.HasSuffix(k, "bytes_per_sec") {
				if _, good := parseBytes(text); !good {
					return 0, nil, fail(400, "illegal_argument_exception",
						"failed to parse setting [%s] with value [%s] as a size in bytes: unit is missing or unrecognized", k, text)
				}
			}
		}
	}
	answer := map[string]any{"acknowledged": true}
	for kind, have := range map[string]map[string]any{"persistent": d.persistent, "transient": d.transient} {
		now := map[string]any{}
		for k, v := range flat[kind] {
			switch {
			case v == nil:
				maps.DeleteFunc(have, func(name string, _ any) bool { return wildcard(k, name) })
			default:
				have[k] = v
				now[k] = v
			}
		}
		answer[kind] = r.renderCluster(now)
	}
	return ok(answer)
}

func (d *Domain) nodeMap(n *node) map[string]any {
	roles := []string{"data", "ingest", "master", "remote_cluster_client"}
	m := map[string]any{"name": n.name, "transport_address": n.address, "host": "127.0.0.1", "ip": "127.0.0.1"}
	if d.engine.openSearch && d.engine.major >= 2 {
		roles = []string{"cluster_manager", "data", "ingest", "remote_cluster_client"}
		m["attributes"] = map[string]any{"shard_indexing_pressure_enabled": "true"}
	}
	m["roles"] = roles
	return m
}

func (d *Domain) nodesAnswer(fill func(*node, map[string]any)) (int, any, *apiError) {
	nodes := map[string]any{}
	for _, n := range d.nodes {
		m := d.nodeMap(n)
		fill(n, m)
		nodes[n.id] = m
	}
	return ok(map[string]any{"_nodes": map[string]any{"total": len(nodes), "successful": len(nodes), "failed": 0},
		"cluster_name": d.cfg.Name, "nodes": nodes})
}

func handleNodes(r *request) (int, any, *apiError) {
	if m := r.args["metric"]; !slices.Contains([]string{"", "_all", "settings", "plugins", "os", "http", "process", "thread_pool"}, m) {
		return 0, nil, notImplemented("GET /_nodes/%s", m)
	}
	d := r.domain
	return d.nodesAnswer(func(n *node, m map[string]any) {
		m["version"] = d.engine.String()
		m["plugins"], m["modules"] = []any{}, []any{}
		m["settings"] = map[string]any{"cluster": map[string]any{"name": d.cfg.Name}, "node": map[string]any{"name": n.name},
			"path": map[string]any{"repo": []any{d.cfg.RepositoryRoot}}}
		m["thread_pool"] = map[string]any{"snapshot": map[string]any{"type": "scaling", "core": 1, "max": 1, "keep_alive": "5m", "queue_size": -1}}
		m["os"] = map[string]any{"available_processors": 2, "allocated_processors": 2}
	})
}

// Every node has a disk of 1 TiB.
const diskBytes = int64(1) << 40

func handleNodesStats(r *request) (int, any, *apiError) {
	d := r.domain
	for m := range strings.SplitSeq(r.args["metric"], ",") {
		if !slices.Contains([]string{"", "_all", "fs", "indices", "os", "jvm", "thread_pool"}, m) {
			return 0, nil, notImplemented("GET /_nodes/stats/%s", m)
		}
	}
	now := d.clock.Now().UnixMilli()
	return d.nodesAnswer(func(n *node, m map[string]any) {
		used, count, gone := int64(0), 0, 0
		for _, ix := range d.indices {
			for _, s := range ix.shards {
				if s.node == n {
					used += s.storeBytes()
					c, g := s.counts()
					count, gone = count+c, gone+g
				}
			}
		}
		total := map[string]any{"total_in_bytes": diskBytes, "free_in_bytes": diskBytes - used, "available_in_bytes": diskBytes - used}
		m["timestamp"] = now
		m["fs"] = map[string]any{"timestamp": now, "total": total, "data": []any{map[string]any{"path": "model", "mount": "model", "type": "model",
			"total_in_bytes": diskBytes, "free_in_bytes": diskBytes - used, "available_in_bytes": diskBytes - used}}}
		m["indices"] = map[string]any{"docs": map[string]any{"count": count, "deleted": gone},
			"store": map[string]any{"size_in_bytes": used, "reserved_in_bytes": 0}}
		m["os"] = map[string]any{"timestamp": now, "cpu": map[string]any{"percent": 1}}
		m["jvm"] = map[string]any{"timestamp": now, "mem": map[string]any{"heap_used_percent": 10}}
		m["thread_pool"] = map[string]any{"snapshot": map[string]any{"threads": 1, "queue": len(n.lane.queue),
			"active": map[bool]int{true: 1}[n.lane.busy], "rejected": 0, "largest": 1, "completed": 0}}
	})
}

func handleTasks(r *request) (int, any, *apiError) {
	d := r.domain
	_, answer, err := d.nodesAnswer(func(n *node, m map[string]any) {
		m["tasks"] = map[string]any{n.id + ":1": map[string]any{"node": n.id, "id": 1, "type": "transport", "action": "cluster:monitor/tasks/lists",
			"start_time_in_millis": d.clock.Now().UnixMilli(), "running_time_in_nanos": 1, "cancellable": false, "headers": map[string]any{}}}
	})
	if err != nil {
		return 0, nil, err
	}
	return ok(map[string]any{"nodes": answer.(map[string]any)["nodes"]})
}

func handleExplain(r *request) (int, any, *apiError) {
	d := r.domain
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	var s *shard
	if len(body) == 0 {
		for _, name := range sortedKeys(d.indices) {
			for _, candidate := range d.indices[name].shards {
				if s == nil && candidate.state == unassigned {
					s = candidate
				}
			}
		}
		if s == nil {
			return 0, nil, fail(400, "illegal_argument_exception",
				"unable to find any unassigned shards to explain [ClusterAllocationExplainRequest[useAnyUnassignedShard=true,includeYesDecisions?=false]")
		}
	} else {
		ix := d.indices[textOfOr(body["index"], "")]
		if ix == nil {
			return 0, nil, missingIndex(textOfOr(body["index"], ""), "index_expression")
		}
		n, e := strconv.Atoi(textOfOr(body["shard"], ""))
		if e != nil || n < 0 || n >= len(ix.shards) {
			return 0, nil, fail(400, "illegal_argument_exception", "No shard was specified in the request which is required, or it does not exist")
		}
		if body["primary"] == false {
			return 0, nil, notImplemented("explaining replicas")
		}
		s = ix.shards[n]
	}
	current := map[string]any{"id": s.node.id, "name": s.node.name, "transport_address": s.node.address}
	out := map[string]any{"index": s.index.name, "shard": s.number, "primary": true}
	info := func() map[string]any {
		m := map[string]any{"reason": s.cause.reason, "at": s.cause.at.UTC().Format("2006-01-02T15:04:05.000Z"), "last_allocation_status": s.cause.status}
		if s.cause.details != "" {
			m["details"] = s.cause.details
		}
		if s.cause.failedAttempts > 0 {
			m["failed_allocation_attempts"] = s.cause.failedAttempts
		}
		return m
	}
	switch s.state {
	case started:
		current["weight_ranking"] = 1
		out["current_state"], out["current_node"] = "started", current
		out["can_remain_on_current_node"], out["can_rebalance_cluster"], out["can_rebalance_to_other_node"] = "yes", "yes", "no"
		out["rebalance_explanation"] = "cannot rebalance as no target node exists that can both allocate this shard and improve the cluster balance"
	case initializing:
		out["current_state"], out["current_node"], out["unassigned_info"] = "initializing", current, info()
		out["explanation"] = fmt.Sprintf("the shard is in the process of initializing on node [%s], wait until initialization has completed", s.node.name)
	default:
		out["current_state"], out["unassigned_info"] = "unassigned", info()
		if s.cause.status == "no_valid_shard_copy" {
			out["can_allocate"] = "no_valid_shard_copy"
			out["allocate_explanation"] = "cannot allocate because a previous copy of the primary shard existed but can no longer be found on the nodes in the cluster"
			break
		}
		out["can_allocate"], out["allocate_explanation"] = "no", "cannot allocate because allocation is not permitted to any of the nodes"
		var decisions []any
		for i, n := range d.nodes {
			decisions = append(decisions, map[string]any{"node_id": n.id, "node_name": n.name, "transport_address": n.address,
				"node_decision": "no", "weight_ranking": i + 1,
				"deciders": []any{map[string]any{"decider": "restore_in_progress", "decision": "NO", "explanation": s.cause.decider}}})
		}
		out["node_allocation_decisions"] = decisions
	}
	return ok(out)
}

func handleReroute(r *request) (int, any, *apiError) {
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	if len(body) > 0 {
		return 0, nil, notImplemented("_cluster/reroute with commands")
	}
	// retry_failed helps no shard whose restore failed (measured on real nodes), and the model has no others.
	return ok(map[string]any{"acknowledged": true, "state": map[string]any{"cluster_uuid": r.domain.uuid}})
}

func handleClusterState(r *request) (int, any, *apiError) {
	d := r.domain
	out := map[string]any{"cluster_name": d.cfg.Name, "cluster_uuid": d.uuid}
	// Other than the calls on indices, this one takes a missing index for none unless it is told not to.
	list, err := d.resolve(r.args["index"], resolveOptions{ignoreMissing: r.flag("ignore_unavailable", true), closed: r.args["index"] == ""})
	if err != nil {
		return 0, nil, err
	}
	for m := range strings.SplitSeq(r.args["metric"], ",") {
		switch m {
		case "version":
			out["version"], out["state_uuid"] = 1, d.uuid
		case "metadata":
			indices := map[string]any{}
			for _, ix := range list {
				terms := map[string]any{}
				for _, s := range ix.shards {
					terms[strconv.Itoa(s.number)] = s.term
				}
				names := sortedKeys(ix.aliases)
				if names == nil {
					names = []string{}
				}
				indices[ix.name] = map[string]any{"state": map[bool]string{false: "open", true: "close"}[ix.closed], "settings": ix.renderSettings(r, ""),
					"mappings": map[string]any{"_doc": cloneJSON(ix.mapping)}, "aliases": names, "primary_terms": terms,
					"settings_version": ix.settingsVersion, "mapping_version": ix.mappingVersion, "aliases_version": ix.aliasesVersion}
			}
			out["metadata"] = map[string]any{"cluster_uuid": d.uuid, "indices": indices}
		case "blocks":
			blocked := map[string]any{}
			for _, ix := range list {
				m := map[string]any{}
				for _, b := range blocks {
					if ix.setting(b.setting) == "true" {
						_, id, _ := strings.Cut(b.level, "/")
						m[id] = map[string]any{"description": b.text, "retryable": false, "levels": strings.Fields(b.levels)}
					}
				}
				if ix.closed {
					m["4"] = map[string]any{"description": "index closed", "retryable": false, "levels": []string{"read", "write"}}
				}
				if len(m) > 0 {
					blocked[ix.name] = m
				}
			}
			out["blocks"] = map[string]any{}
			if len(blocked) > 0 {
				out["blocks"] = map[string]any{"indices": blocked}
			}
		default:
			return 0, nil, notImplemented("GET /_cluster/state/%s", m)
		}
	}
	return ok(out)
}

// row is one line of a _cat answer: columns in their default order. A column that is shown only when h names it starts with "?".
type row []struct {
	name  string
	value any
}

func (r *request) table(rows []row) (int, any, *apiError) {
	var columns []string
	if h := r.query.Get("h"); h != "" {
		columns = strings.Split(h, ",")
	}
	list := []json.RawMessage{}
	var text strings.Builder
	for _, rw := range rows {
		values := map[string]any{}
		order := columns
		for _, c := range rw {
			name, hidden := strings.CutPrefix(c.name, "?")
			values[name] = c.value
			if columns == nil && !hidden {
				order = append(order, name)
			}
		}
		var object strings.Builder
		var plain []string
		for _, name := range order {
			v, known := values[name]
			if !known {
				if len(values) > 0 && strings.Contains(name, "*") {
					return 0, nil, notImplemented("wildcards in h")
				}
				continue
			}
			b, _ := json.Marshal(v)
			if object.Len() > 0 {
				object.WriteByte(',')
			}
			key, _ := json.Marshal(name)
			object.Write(key)
			object.WriteByte(':')
			object.Write(b)
			plain = append(plain, textOfOr(v, ""))
		}
		list = append(list, json.RawMessage("{"+object.String()+"}"))
		text.WriteString(strings.Join(plain, " ") + "\n")
	}
	if r.query.Get("format") == "json" {
		return ok(list)
	}
	if r.flag("v", false) {
		return 0, nil, notImplemented("_cat answers as text with headings; ask for format=json")
	}
	return ok(text.String())
}

func (r *request) size(n int64) string {
	if r.query.Get("bytes") == "b" {
		return strconv.FormatInt(n, 10)
	}
	for _, u := range []struct {
		suffix string
		size   float64
	}{{"tb", 1 << 40}, {"gb", 1 << 30}, {"mb", 1 << 20}, {"kb", 1 << 10}} {
		if float64(n) >= u.size {
			return strings.TrimSuffix(strconv.FormatFloat(float64(int64(float64(n)/u.size*10))/10, 'f', 1, 64), ".0") + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "b"
}

func handleCatIndices(r *request) (int, any, *apiError) {
	list, err := r.indices(resolveOptions{closed: true, streams: true})
	if err != nil {
		return 0, nil, err
	}
	var rows []row
	now := r.domain.clock.Now()
	for _, ix := range list {
		_, status := ix.health()
		if want := r.query.Get("health"); want != "" && want != status {
			continue
		}
		var docs, gone, size any
		if !ix.closed {
			count, killed, bytes, any := 0, 0, int64(0), false
			for _, s := range ix.shards {
				if s.state == started {
					any = true
					s.lazyRefresh(now)
					c, k := s.counts()
					count, killed, bytes = count+c, killed+k, bytes+s.storeBytes()
				}
			}
			if any {
				docs, gone, size = strconv.Itoa(count), strconv.Itoa(killed), r.size(bytes)
			}
		}
		state := map[bool]string{false: "open", true: "close"}[ix.closed]
		created := ix.setting("index.creation_date")
		rows = append(rows, row{{"health", status}, {"status", state}, {"index", ix.name}, {"uuid", ix.uuid},
			{"pri", strconv.Itoa(len(ix.shards))}, {"rep", ix.setting("index.number_of_replicas")},
			{"docs.count", docs}, {"docs.deleted", gone}, {"store.size", size}, {"pri.store.size", size}, {"?creation.date", created}})
	}
	return r.table(rows)
}

func handleCatShards(r *request) (int, any, *apiError) {
	list, err := r.open()
	if r.args["index"] == "" {
		list, err = r.indices(resolveOptions{closed: true})
	}
	if err != nil {
		return 0, nil, err
	}
	var rows []row
	for _, ix := range list {
		for _, s := range ix.shards {
			var docs, store, ip, name any
			state := "STARTED"
			switch s.state {
			case started:
				c, _ := s.counts()
				docs, store, ip, name = strconv.Itoa(c), r.size(s.storeBytes()), "127.0.0.1", s.node.name
			case initializing:
				state, ip, name = "INITIALIZING", "127.0.0.1", s.node.name
			default:
				state = "UNASSIGNED"
			}
			line := row{{"index", ix.name}, {"shard", strconv.Itoa(s.number)}, {"prirep", "p"}, {"state", state}, {"docs", docs}, {"store", store},
				{"ip", ip}, {"node", name}}
			var reason, details any
			if s.cause != nil && s.state != started {
				reason, details = s.cause.reason, s.cause.details
			}
			line = append(line, row{{"?unassigned.reason", reason}, {"?unassigned.details", details}}...)
			rows = append(rows, line)
			for i := range ix.number("index.number_of_replicas") {
				line := row{{"index", ix.name}, {"shard", strconv.Itoa(s.number)}, {"prirep", "r"}, {"state", "UNASSIGNED"}, {"docs", nil},
					{"store", nil}, {"ip", nil}, {"node", nil}, {"?unassigned.reason", "INDEX_CREATED"}, {"?unassigned.details", nil}}
				if i < len(r.domain.nodes)-1 && s.state == started {
					line[3].value, line[4].value, line[5].value = "STARTED", docs, store
					line[6].value, line[7].value = "127.0.0.1", r.domain.nodes[(slices.Index(r.domain.nodes, s.node)+i+1)%len(r.domain.nodes)].name
				}
				rows = append(rows, line)
			}
		}
	}
	return r.table(rows)
}

func handleCatRecovery(r *request) (int, any, *apiError) {
	list, err := r.indices(resolveOptions{closed: true})
	if err != nil {
		return 0, nil, err
	}
	var rows []row
	for _, ix := range list {
		for _, s := range ix.shards {
			if s.recovery == nil || r.flag("active_only", false) && s.recovery.stage == "DONE" {
				continue
			}
			m := s.renderRecovery(r.domain, false)
			part := func(k string) map[string]any { return m["index"].(map[string]any)[k].(map[string]any) }
			files, size := part("files"), part("size")
			repository, snapshot := "n/a", "n/a"
			if s.recovery.kind == "SNAPSHOT" {
				repository, snapshot = s.recovery.repository, s.recovery.snapshot
			}
			rows = append(rows, row{{"index", ix.name}, {"shard", strconv.Itoa(s.number)}, {"time",
				fmt.Sprintf("%dms", m["total_time_in_millis"])}, {"type", strings.ToLower(s.recovery.kind)},
				{"stage", strings.ToLower(s.recovery.stage)}, {"source_host", "n/a"}, {"source_node", "n/a"}, {"target_host", "127.0.0.1"},
				{"target_node", s.node.name},
				{"repository", repository}, {"snapshot", snapshot}, {"files", strconv.Itoa(files["total"].(int) - files["reused"].(int))},
				{"files_recovered", textOf(files["recovered"])},
				{"files_percent", files["percent"]}, {"files_total", textOf(files["total"])}, {"bytes",
					textOf(size["total_in_bytes"].(int64) - size["reused_in_bytes"].(int64))},
				{"bytes_recovered", textOf(size["recovered_in_bytes"])}, {"bytes_percent", size["percent"]}, {"bytes_total", textOf(size["total_in_bytes"])},
				{"translog_ops", "0"}, {"translog_ops_recovered", "0"}, {"translog_ops_percent", "100.0%"}})
		}
	}
	return r.table(rows)
}

func handleCatNodes(r *request) (int, any, *apiError) {
	var rows []row
	for i, n := range r.domain.nodes {
		rows = append(rows, row{{"ip", "127.0.0.1"}, {"heap.percent", "10"}, {"ram.percent", "10"}, {"cpu", "1"}, {"load_1m", "0.10"},
			{"load_5m", "0.10"}, {"load_15m", "0.10"},
			{"node.role", "dimr"}, {"master", map[bool]string{true: "*", false: "-"}[i == 0]}, {"name", n.name}, {"?version", r.domain.engine.String()}})
	}
	return r.table(rows)
}

func handleCatHealth(r *request) (int, any, *apiError) {
	m, _, err := r.health()
	if err != nil {
		return 0, nil, err
	}
	now := r.domain.clock.Now()
	nodes := strconv.Itoa(len(r.domain.nodes))
	return r.table([]row{{{"epoch", strconv.FormatInt(now.Unix(), 10)}, {"timestamp", now.UTC().Format("15:04:05")},
		{"cluster", r.domain.cfg.Name}, {"status", m["status"]},
		{"node.total", nodes}, {"node.data", nodes}, {"shards", textOf(m["active_shards"])}, {"pri", textOf(m["active_primary_shards"])},
		{"relo", "0"}, {"init", textOf(m["initializing_shards"])},
		{"unassign", textOf(m["unassigned_shards"])}, {"pending_tasks", "0"}, {"max_task_wait_time", "-"},
		{"active_shards_percent", textOf(m["active_shards_percent_as_number"]) + "%"}}})
}

// Templates and pipelines are kept and given back; index templates shape new indices, pipelines are never run.
func templateGet(kind string) func(*request) (int, any, *apiError) {
	return locked(func(r *request) (int, any, *apiError) {
		bodies := r.domain.templates[kind]
		want := r.args["name"]
		found := map[string]any{}
		for name, body := range bodies {
			if want == "" || slices.ContainsFunc(strings.Split(want, ","), func(p string) bool { return wildcard(p, name) }) {
				found[name] = body
			}
		}
		exact := want != "" && !strings.Contains(want, "*")
		list := func(outer, inner string) (int, any, *apiError) {
			if exact && len(found) == 0 {
				return 0, nil, fail(404, "resource_not_found_exception", "%s matching [%s] not found", strings.ReplaceAll(inner, "_", " "), want)
			}
			entries := []any{}
			for _, name := range sortedKeys(found) {
				entries = append(entries, map[string]any{"name": name, inner: found[name]})
			}
			return ok(map[string]any{outer: entries})
		}
		switch kind {
		case "_index_template":
			return list("index_templates", "index_template")
		case "_component_template":
			return list("component_templates", "component_template")
		}
		if len(found) == 0 && (exact || kind == "_ingest/pipeline") {
			return 404, map[string]any{}, nil
		}
		return ok(found)
	})
}

func templatePut(kind string) func(*request) (int, any, *apiError) {
	return locked(func(r *request) (int, any, *apiError) {
		body, err := r.decode()
		if err != nil {
			return 0, nil, err
		}
		inner := body
		if t, isMap := body["template"].(map[string]any); isMap {
			inner = t
		}
		if s, isMap := inner["settings"].(map[string]any); isMap {
			flat := indexSettings(s)
			if err := r.domain.engine.checkSettings(flat); err != nil {
				return 0, nil, err
			}
			inner["settings"] = unflatten(flat)
		}
		switch kind {
		case "_template":
			for k, v := range map[string]any{"order": json.Number("0"), "settings": map[string]any{}, "mappings": map[string]any{},
				"aliases": map[string]any{}} {
				if body[k] == nil {
					body[k] = v
				}
			}
			if p, isText := body["index_patterns"].(string); isText {
				body["index_patterns"] = []any{p}
			}
		case "_index_template":
			if err := r.dataStreamTemplate(body); err != nil {
				return 0, nil, err
			}
			if body["composed_of"] == nil {
				body["composed_of"] = []any{}
			}
			components, _ := body["composed_of"].([]any)
			for _, c := range components {
				if r.domain.templates["_component_template"][textOf(c)] == nil {
					return 0, nil, fail(400, "invalid_index_template_exception",
						"index_template [%s] invalid, cause [index template [%s] specifies component templates [%s] that do not exist]", r.args["name"],
						r.args["name"], textOf(c))
				}
			}
		case "_ingest/pipeline":
			if body["processors"] == nil {
				return 0, nil, fail(400, "parse_exception", "[processors] required property is missing")
			}
		}
		if kind != "_ingest/pipeline" && kind != "_component_template" && body["index_patterns"] == nil {
			return 0, nil, fail(400, "action_request_validation_exception", "Validation Failed: 1: index patterns are missing;")
		}
		if r.domain.templates[kind] == nil {
			r.domain.templates[kind] = map[string]any{}
		}
		r.domain.templates[kind][r.args["name"]] = body
		return acknowledged()
	})
}

func templateDelete(kind string) func(*request) (int, any, *apiError) {
	return locked(func(r *request) (int, any, *apiError) {
		if r.domain.templates[kind][r.args["name"]] == nil {
			return 0, nil, fail(404, "resource_not_found_exception", "%s [%s] is missing", strings.Trim(strings.ReplaceAll(strings.TrimPrefix(kind,
				"_ingest/"), "_", " "), " "), r.args["name"])
		}
		if kind == "_index_template" {
			if err := r.domain.templateInUse(r.args["name"]); err != nil {
				return 0, nil, err
			}
		}
		delete(r.domain.templates[kind], r.args["name"])
		return acknowledged()
	})
}
