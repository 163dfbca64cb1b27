package domain

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

func repositoryMissing(name string) *apiError {
	return fail(404, "repository_missing_exception", "[%s] missing", name)
}

func (r *request) repository() (*repository, *apiError) {
	repo := r.domain.repositories[r.args["repository"]]
	if repo == nil {
		return nil, repositoryMissing(r.args["repository"])
	}
	return repo, nil
}

func handleGetRepository(r *request) (int, any, *apiError) {
	out := map[string]any{}
	want := r.args["repository"]
	for _, name := range sortedKeys(r.domain.repositories) {
		repo := r.domain.repositories[name]
		if want == "" || want == "_all" || slices.ContainsFunc(strings.Split(want, ","), func(p string) bool { return wildcard(p, name) }) {
			out[name] = map[string]any{"type": repo.kind, "settings": repo.settings}
		}
	}
	if len(out) == 0 && want != "" && want != "_all" && !strings.Contains(want, "*") {
		return 0, nil, repositoryMissing(want)
	}
	return ok(out)
}

func (d *Domain) repositoryInUse(repo *repository) bool {
	return slices.ContainsFunc(d.snapshots, func(s *runningSnapshot) bool { return s.repository == repo }) ||
		slices.ContainsFunc(d.restores, func(s *runningRestore) bool { return s.repository == repo })
}

var errRepositoryInUse = "trying to modify or unregister repository that is currently used"

func handlePutRepository(r *request) (int, any, *apiError) {
	d, name := r.domain, r.args["repository"]
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	if strings.ContainsAny(name, " ,#") || strings.HasPrefix(name, "_") {
		return 0, nil, fail(500, "repository_exception", "[%s] invalid repository name", name)
	}
	kind := textOfOr(body["type"], "")
	if kind == "" {
		return 0, nil, fail(400, "action_request_validation_exception", "Validation Failed: 1: type is missing;")
	}
	if kind != "fs" {
		return 0, nil, fail(500, "repository_exception", "[%s] repository type [%s] does not exist", name, kind)
	}
	given, _ := body["settings"].(map[string]any)
	settings := map[string]any{}
	flatten("", given, settings)
	location := textOfOr(settings["location"], "")
	if location == "" {
		return 0, nil, failedRepository(name, "missing location")
	}
	absolute := absoluteLocation(d.cfg.RepositoryRoot, location)
	if root := path.Clean(d.cfg.RepositoryRoot); d.cfg.RepositoryRoot == "" || absolute != root && !strings.HasPrefix(absolute,
		strings.TrimSuffix(root, "/")+"/") {
		return 0, nil, failedRepository(name, "location ["+location+"] doesn't match any of the locations specified by path.repo")
	}
	if old := d.repositories[name]; old != nil && d.repositoryInUse(old) {
		return 0, nil, fail(500, "illegal_state_exception", "%s", errRepositoryInUse)
	}
	repo := &repository{name: name, kind: kind, settings: settings, blobs: d.cfg.OpenBlobs(absolute), known: unknownGeneration}
	d.repositories[name] = repo
	if !repo.readonly() && r.flag("verify", true) {
		if err := d.verifyRepository(repo); err != nil {
			return 0, nil, err // stays registered, as in the engine
		}
	}
	return acknowledged()
}

func failedRepository(name, reason string) *apiError {
	e := fail(500, "repository_exception", "[%s] failed to create repository", name).causedBy("repository_exception", "[%s] %s", name, reason)
	e.rootCause = e.cause
	return e
}

// verifyRepository writes and removes a probe, or, read-only, lists.
func (d *Domain) verifyRepository(repo *repository) *apiError {
	if repo.readonly() {
		_, _, err := repo.load()
		return err
	}
	probe := "tests-" + d.newUUID() + "/master.dat"
	err := repo.blobs.Put(probe, []byte("probe"))
	if err == nil {
		err = repo.blobs.Delete(probe)
	}
	if err == nil {
		// A real folder is left behind by its file; remove it too where the store has folders.
		_ = repo.blobs.Delete(strings.TrimSuffix(probe, "/master.dat"))
		return nil
	}
	role := "master"
	if d.engine.openSearch && d.engine.major >= 2 {
		role = "cluster-manager"
	}
	return fail(500, "repository_verification_exception", "[%s] path  is not accessible on %s node", repo.name,
		role).causedBy("i_o_exception", "%v", err)
}

func handleDeleteRepository(r *request) (int, any, *apiError) {
	repo, err := r.repository()
	if err != nil {
		return 0, nil, err
	}
	if r.domain.repositoryInUse(repo) {
		return 0, nil, fail(500, "illegal_state_exception", "%s", errRepositoryInUse)
	}
	delete(r.domain.repositories, repo.name)
	return acknowledged()
}

func handleVerifyRepository(r *request) (int, any, *apiError) {
	repo, err := r.repository()
	if err != nil {
		return 0, nil, err
	}
	if err := r.domain.verifyRepository(repo); err != nil {
		return 0, nil, err
	}
	nodes := map[string]any{}
	for _, n := range r.domain.nodes {
		nodes[n.id] = map[string]any{"name": n.name}
	}
	return ok(map[string]any{"nodes": nodes})
}

func timeText(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

func (d *Domain) renderSnapshot(info snapshotInfo, verbose bool) map[string]any {
	m := map[string]any{"snapshot": info.Name, "uuid": info.UUID, "indices": info.Indices, "state": info.State}
	if !d.engine.before(7, 9) {
		streams := []any{}
		for _, s := range info.Streams {
			streams = append(streams, s.Name)
		}
		m["data_streams"] = streams
	}
	if !verbose {
		return m
	}
	m["version_id"], m["version"] = info.VersionID, engineOfID(info.VersionID).String()
	m["include_global_state"] = info.GlobalState
	if info.Metadata != nil {
		m["metadata"] = info.Metadata
	}
	if d.engine.openSearch && d.engine.major >= 2 {
		m["remote_store_index_shallow_copy"] = false
	}
	m["start_time"], m["start_time_in_millis"] = timeText(info.Start), info.Start
	m["end_time"], m["end_time_in_millis"] = timeText(info.End), info.End
	m["duration_in_millis"] = max(0, info.End-info.Start)
	failures := info.Failures
	if failures == nil {
		failures = []snapshotFailure{}
	}
	m["failures"] = failures
	failed := len(failures)
	total := info.Total
	if info.State == "IN_PROGRESS" {
		total = 0
	}
	m["shards"] = map[string]any{"total": total, "failed": failed, "successful": info.Successful}
	return m
}

func (d *Domain) running(repo *repository) []*runningSnapshot {
	var out []*runningSnapshot
	for _, s := range d.snapshots {
		if repo == nil || s.repository == repo {
			out = append(out, s)
		}
	}
	return out
}

func handleGetSnapshot(r *request) (int, any, *apiError) {
	d := r.domain
	repo, err := r.repository()
	if err != nil {
		return 0, nil, err
	}
	verbose := r.flag("verbose", true)
	want := r.args["snapshot"]
	list := []any{}
	if want == "_current" {
		for _, run := range d.running(repo) {
			list = append(list, d.renderSnapshot(run.info, verbose))
		}
		return ok(map[string]any{"snapshots": list})
	}
	data, _, err := repo.load()
	if err != nil {
		return 0, nil, err
	}
	type entry struct {
		info snapshotInfo
	}
	var found []entry
	for pattern := range strings.SplitSeq(want, ",") {
		hit := false
		for _, s := range data.Snapshots {
			if pattern != "_all" && !wildcard(pattern, s.Name) || slices.ContainsFunc(found, func(e entry) bool { return e.info.UUID == s.UUID }) {
				continue
			}
			hit = true
			info := snapshotInfo{Name: s.Name, UUID: s.UUID, State: map[int]string{1: "SUCCESS", 2: "FAILED", 3: "PARTIAL"}[s.State], Indices: []string{}}
			if verbose {
				if info, err = d.snapshotInfo(repo, s); err != nil {
					if r.flag("ignore_unavailable", false) {
						continue
					}
					return 0, nil, err
				}
			} else {
				for _, name := range sortedKeys(data.Indices) {
					if slices.Contains(data.Indices[name].Snapshots, s.UUID) {
						info.Indices = append(info.Indices, name)
					}
				}
			}
			found = append(found, entry{info})
		}
		for _, run := range d.running(repo) {
			if pattern == "_all" || wildcard(pattern, run.info.Name) {
				hit = true
				found = append(found, entry{run.info})
			}
		}
		if !hit && pattern != "_all" && pattern != "*" && !r.flag("ignore_unavailable", false) {
			return 0, nil, fail(404, "snapshot_missing_exception", "[%s:%s] is missing", repo.name, pattern)
		}
	}
	slices.SortStableFunc(found, func(a, b entry) int { return int(a.info.Start - b.info.Start) })
	for _, e := range found {
		list = append(list, d.renderSnapshot(e.info, verbose))
	}
	return ok(map[string]any{"snapshots": list})
}

func handleCatSnapshots(r *request) (int, any, *apiError) {
	_, answer, err := handleGetSnapshot(&request{domain: r.domain, args: map[string]string{"repository": r.args["repository"],
		"snapshot": "_all"}, query: map[string][]string{}})
	if err != nil {
		return 0, nil, err
	}
	var rows []row
	for _, s := range answer.(map[string]any)["snapshots"].([]any) {
		m := s.(map[string]any)
		shards := m["shards"].(map[string]any)
		start, end := m["start_time_in_millis"].(int64), m["end_time_in_millis"].(int64)
		rows = append(rows, row{{"id", m["snapshot"]}, {"status", m["state"]}, {"start_epoch", strconv.FormatInt(start/1000, 10)},
			{"start_time", time.UnixMilli(start).UTC().Format("15:04:05")},
			{"end_epoch", strconv.FormatInt(end/1000, 10)}, {"end_time", time.UnixMilli(end).UTC().Format("15:04:05")},
			{"duration", (time.Duration(max(0, end-start)) * time.Millisecond).String()},
			{"indices", strconv.Itoa(len(m["indices"].([]string)))}, {"successful_shards", textOf(shards["successful"])},
			{"failed_shards", textOf(shards["failed"])}, {"total_shards", textOf(shards["total"])}})
	}
	return r.table(rows)
}

// The engines read a few fields of a snapshot or restore body and, from 7.9 on, only OpenSearch's restore refuses unknown ones.
func handlePutSnapshot(r *request) (int, any, *apiError) {
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	req := snapshotRequest{indices: joined(body["indices"]), ignore: body["ignore_unavailable"] == true,
		globalState: body["include_global_state"] != false, partial: body["partial"] == true}
	req.metadata, _ = body["metadata"].(map[string]any)
	d := r.domain
	type outcome struct {
		info snapshotInfo
		err  *apiError
	}
	finished := make(chan outcome, 1)
	d.mu.Lock()
	repo, err := r.repository()
	if err == nil {
		err = d.startSnapshot(repo, r.args["snapshot"], req, func(info snapshotInfo, e *apiError) { finished <- outcome{info, e} })
	}
	d.mu.Unlock()
	if err != nil {
		return 0, nil, err
	}
	if !r.flag("wait_for_completion", false) {
		return ok(map[string]any{"accepted": true})
	}
	o := <-finished
	if o.err != nil {
		return 0, nil, o.err
	}
	return ok(map[string]any{"snapshot": d.renderSnapshot(o.info, true)})
}

func joined(v any) string {
	switch v := v.(type) {
	case nil:
		return "_all"
	case []any:
		var parts []string
		for _, e := range v {
			parts = append(parts, textOf(e))
		}
		return strings.Join(parts, ",")
	}
	return textOf(v)
}

func handleDeleteSnapshot(r *request) (int, any, *apiError) {
	d := r.domain
	gone := make(chan struct{}, 1)
	waiting := false
	d.mu.Lock()
	repo, err := r.repository()
	if err == nil {
		if strings.ContainsAny(r.args["snapshot"], "*,") {
			err = notImplemented("deleting several snapshots at once")
		} else {
			for _, run := range d.running(repo) {
				if run.info.Name == r.args["snapshot"] {
					waiting = true
					run.done = append(run.done, func(snapshotInfo, *apiError) { gone <- struct{}{} })
				}
			}
			err = d.deleteSnapshot(repo, r.args["snapshot"])
		}
	}
	d.mu.Unlock()
	if err != nil {
		return 0, nil, err
	}
	if waiting {
		<-gone
	}
	return acknowledged()
}

type fileStats struct {
	incrementalFiles, totalFiles, processedFiles int
	incremental, total, processed                int64
	start, took                                  int64
}

func (s *fileStats) add(o fileStats) {
	s.incrementalFiles += o.incrementalFiles
	s.totalFiles += o.totalFiles
	s.processedFiles += o.processedFiles
	s.incremental += o.incremental
	s.total += o.total
	s.processed += o.processed
	if s.start == 0 || o.start > 0 && o.start < s.start {
		s.start = o.start
	}
	s.took = max(s.took, o.took)
}

func (s fileStats) render(running bool) map[string]any {
	m := map[string]any{"incremental": map[string]any{"file_count": s.incrementalFiles, "size_in_bytes": s.incremental},
		"total": map[string]any{"file_count": s.totalFiles, "size_in_bytes": s.total}, "start_time_in_millis": s.start, "time_in_millis": s.took}
	if running {
		m["processed"] = map[string]any{"file_count": s.processedFiles, "size_in_bytes": s.processed}
	}
	return m
}

type shardStatus struct {
	index  string
	number int
	stage  string
	node   string
	reason string
	stats  fileStats
}

func renderStatus(repo string, info snapshotInfo, state string, shards []shardStatus, now int64) map[string]any {
	var whole fileStats
	counts := map[string]int{}
	indices := map[string]any{}
	perIndex := map[string]*fileStats{}
	indexCounts := map[string]map[string]int{}
	count := func(c map[string]int, stage string) {
		switch stage {
		case "INIT":
			c["initializing"]++
		case "STARTED":
			c["started"]++
		case "FINALIZE":
			c["finalizing"]++
		case "DONE":
			c["done"]++
		case "FAILURE":
			c["failed"]++
		}
		c["total"]++
	}
	table := func(c map[string]int) map[string]any {
		m := map[string]any{}
		for _, k := range []string{"initializing", "started", "finalizing", "done", "failed", "total"} {
			m[k] = c[k]
		}
		return m
	}
	shardMaps := map[string]map[string]any{}
	for _, s := range shards {
		if perIndex[s.index] == nil {
			perIndex[s.index], indexCounts[s.index], shardMaps[s.index] = &fileStats{}, map[string]int{}, map[string]any{}
		}
		count(counts, s.stage)
		count(indexCounts[s.index], s.stage)
		whole.add(s.stats)
		perIndex[s.index].add(s.stats)
		running := s.stage == "STARTED" || s.stage == "INIT"
		m := map[string]any{"stage": s.stage, "stats": s.stats.render(running)}
		if running && s.node != "" {
			m["node"] = s.node
		}
		if s.reason != "" {
			m["reason"] = s.reason
		}
		shardMaps[s.index][strconv.Itoa(s.number)] = m
	}
	running := state == "STARTED"
	for name := range perIndex {
		indices[name] = map[string]any{"shards_stats": table(indexCounts[name]), "stats": perIndex[name].render(running), "shards": shardMaps[name]}
	}
	whole.start = info.Start
	whole.took = now - info.Start
	return map[string]any{"snapshot": info.Name, "repository": repo, "uuid": info.UUID, "state": state, "include_global_state": info.GlobalState,
		"shards_stats": table(counts), "stats": whole.render(running), "indices": indices}
}

func (d *Domain) runningStatus(run *runningSnapshot) map[string]any {
	now := d.clock.Now()
	var shards []shardStatus
	busy := false
	for _, rs := range run.shards {
		busy = busy || rs.stage == "INIT" || rs.stage == "STARTED"
		s := shardStatus{index: rs.index, number: rs.shard.number, stage: rs.stage, reason: rs.reason}
		if rs.stage == "STARTED" || rs.stage == "DONE" {
			s.node = rs.shard.node.id
			s.stats = fileStats{incrementalFiles: rs.list.IncrementalFiles, incremental: rs.list.IncrementalBytes, totalFiles: len(rs.list.Files),
				total:          rs.total,
				processedFiles: rs.processed, processed: rs.processedSize, start: rs.start.UnixMilli()}
		}
		shards = append(shards, s)
	}
	state := "STARTED"
	if !busy {
		// The moment between the last shard and index-N: the engine already says SUCCESS here.
		state = "SUCCESS"
	}
	return renderStatus(run.repository.name, run.info, state, shards, now.UnixMilli())
}

func handleStatus(r *request) (int, any, *apiError) {
	d := r.domain
	list := []any{}
	if r.args["repository"] == "" {
		for _, run := range d.running(nil) {
			list = append(list, d.runningStatus(run))
		}
		return ok(map[string]any{"snapshots": list})
	}
	repo, err := r.repository()
	if err != nil {
		return 0, nil, err
	}
	if r.args["snapshot"] == "" {
		for _, run := range d.running(repo) {
			list = append(list, d.runningStatus(run))
		}
		return ok(map[string]any{"snapshots": list})
	}
	data, _, err := repo.load()
	if err != nil {
		return 0, nil, err
	}
	for name := range strings.SplitSeq(r.args["snapshot"], ",") {
		if i := slices.IndexFunc(d.snapshots, func(s *runningSnapshot) bool { return s.repository == repo && s.info.Name == name }); i >= 0 {
			list = append(list, d.runningStatus(d.snapshots[i]))
			continue
		}
		s, found := data.find(name)
		if !found {
			if r.flag("ignore_unavailable", false) {
				continue
			}
			return 0, nil, fail(404, "snapshot_missing_exception", "[%s:%s] is missing", repo.name, name)
		}
		status, err := d.finishedStatus(repo, data, s)
		if err != nil {
			return 0, nil, err
		}
		list = append(list, status)
	}
	return ok(map[string]any{"snapshots": list})
}

func (d *Domain) finishedStatus(repo *repository, data repositoryData, s repositorySnapshot) (map[string]any, *apiError) {
	info, err := d.snapshotInfo(repo, s)
	if err != nil {
		return nil, err
	}
	if from := engineOfID(info.VersionID); from.openSearch && from.major >= 3 && (!d.engine.openSearch || d.engine.major < 3) {
		return nil, fail(500, "illegal_state_exception", "Can't get text on a START_ARRAY at 1:1")
	}
	var shards []shardStatus
	for _, name := range info.Indices {
		ri := data.Indices[name]
		// The repository's entry is of the latest index of that name, which may have another number of shards.
		blob := data.Identifiers[s.Lookup[ri.ID]]
		if blob == "" {
			blob = s.UUID
		}
		var meta indexMetadata
		if e := repo.readJSON("indices/"+ri.ID+"/meta-"+blob+".dat", &meta); e != nil {
			return nil, fail(500, "snapshot_exception", "[%s:%s/%s] failed to get snapshot index metadata: %v", repo.name, s.Name, s.UUID, e)
		}
		for shard := range meta.Terms {
			st := shardStatus{index: name, number: shard, stage: "DONE"}
			if i := slices.IndexFunc(info.Failures, func(f snapshotFailure) bool { return f.Index == name && f.Shard == shard }); i >= 0 {
				st.stage, st.reason = "FAILURE", info.Failures[i].Reason
				shards = append(shards, st)
				continue
			}
			var list shardSnapshot
			if e := repo.readJSON(repo.shardFolder(ri.ID, shard)+"snap-"+s.UUID+".dat", &list); e != nil {
				return nil, fail(500, "snapshot_exception", "[%s:%s/%s] failed to read shard snapshot file for [%s][%d]", repo.name, s.Name, s.UUID,
					name, shard).causedBy("no_such_file_exception", "%v", e)
			}
			st.stats = fileStats{incrementalFiles: list.IncrementalFiles, incremental: list.IncrementalBytes, totalFiles: len(list.Files),
				start: list.StartTime, took: list.Time}
			for _, f := range list.Files {
				st.stats.total += f.Length
			}
			shards = append(shards, st)
		}
	}
	state := info.State
	if state == "PARTIAL" && (!d.engine.openSearch || d.engine.major == 1) {
		state = "SUCCESS"
	}
	return renderStatus(repo.name, info, state, shards, info.End), nil
}

var restoreFields = []string{"indices", "ignore_unavailable", "include_global_state", "include_aliases", "partial", "rename_pattern",
	"rename_replacement",
	"index_settings", "ignore_index_settings", "expand_wildcards", "allow_no_indices"}

func handleRestore(r *request) (int, any, *apiError) {
	body, err := r.decode()
	if err != nil {
		return 0, nil, err
	}
	for _, k := range sortedKeys(body) {
		if slices.Contains(restoreFields, k) {
			continue
		}
		if k == "storage_type" || k == "rename_alias_pattern" || k == "rename_alias_replacement" || k == "source_remote_store_repository" {
			return 0, nil, notImplemented("the restore option [%s]", k)
		}
		return 0, nil, fail(400, "illegal_argument_exception", "Unknown parameter %s", k)
	}
	if body["include_global_state"] == true {
		return 0, nil, notImplemented("restoring the global state")
	}
	req := restoreRequest{indices: joined(body["indices"]), ignore: body["ignore_unavailable"] == true, partial: body["partial"] == true,
		aliases: body["include_aliases"] != false,
		pattern: textOfOr(body["rename_pattern"], ""), replacement: textOfOr(body["rename_replacement"], "")}
	if s, ok := body["index_settings"].(map[string]any); ok {
		req.settings = indexSettings(s)
	}
	if v := body["ignore_index_settings"]; v != nil {
		for k := range strings.SplitSeq(joined(v), ",") {
			if k = strings.TrimSpace(k); k != "" {
				req.ignoreSettings = append(req.ignoreSettings, k)
			}
		}
	}
	d := r.domain
	type outcome struct{ total, failed int }
	finished := make(chan outcome, 1)
	var names []string
	d.mu.Lock()
	repo, err := r.repository()
	if err == nil {
		names, err = d.startRestore(repo, r.args["snapshot"], req, func(total, failed int) { finished <- outcome{total, failed} })
	}
	d.mu.Unlock()
	if err != nil {
		return 0, nil, err
	}
	if !r.flag("wait_for_completion", false) {
		return ok(map[string]any{"accepted": true})
	}
	o := <-finished
	if names == nil {
		names = []string{}
	}
	return ok(map[string]any{"snapshot": map[string]any{"snapshot": r.args["snapshot"], "indices": names,
		"shards": map[string]any{"total": o.total, "failed": o.failed, "successful": o.total - o.failed}}})
}
