package domain

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Times of a snapshot that do not depend on its size. Between the last shard and the end _status already says SUCCESS, GET not yet.
const (
	snapshotShardTime = 10 * time.Millisecond
	snapshotFinalTime = 60 * time.Millisecond
)

// runningSnapshot is a snapshot between its acceptance and its entry in index-N.
type runningSnapshot struct {
	repository *repository
	info       snapshotInfo
	shards     []*runningShard
	indexIDs   map[string]string
	metadata   map[string]indexMetadata
	identifier map[string]string
	aborted    bool
	finalizing bool
	done       []func(snapshotInfo, *apiError)
}

type runningShard struct {
	index, uuid   string
	shard         *shard
	stage         string // INIT, STARTED, DONE, FAILURE
	reason        string
	list          shardSnapshot
	total         int64
	pending       []segmentFile
	pendingInfo   []fileInfo
	processed     int
	processedSize int64
	start         time.Time
	generation    string
	previous      shardIndex
}

// rate is the slower of two throttles and of the disk; 0 and less mean no limit.
func rate(limits ...int64) int64 {
	r := int64(diskRate)
	for _, l := range limits {
		if l > 0 {
			r = min(r, l)
		}
	}
	return r
}

func (d *Domain) byteSetting(text string, fallback int64) int64 {
	if text == "" {
		return fallback
	}
	if n, ok := parseBytes(text); ok {
		return n
	}
	return fallback
}

func transferTime(bytes, perSecond int64) time.Duration {
	return time.Duration(float64(bytes) / float64(perSecond) * float64(time.Second))
}

func checkSnapshotName(repository, name string) *apiError {
	reason := ""
	switch {
	case name == "":
		reason = "cannot be empty"
	case strings.ContainsAny(name, " \t\n"):
		reason = "must not contain whitespace"
	case strings.Contains(name, ","):
		reason = "must not contain ','"
	case strings.Contains(name, "#"):
		reason = "must not contain '#'"
	case strings.HasPrefix(name, "_"):
		reason = "must not start with '_'"
	case name != strings.ToLower(name):
		reason = "must be lowercase"
	case strings.ContainsAny(name, `"*\<|>/?`):
		reason = `must not contain the following characters [ , ", *, \, <, |, ,, >, /, ?]`
	}
	if reason == "" {
		return nil
	}
	return invalidSnapshotName(repository, name, reason)
}

func invalidSnapshotName(repository, name, reason string) *apiError {
	return fail(400, "invalid_snapshot_name_exception", "[%s:%s] Invalid snapshot name [%s], %s", repository, name, name, reason)
}

type snapshotRequest struct {
	indices     string
	ignore      bool
	globalState bool
	partial     bool
	metadata    map[string]any
}

// startSnapshot accepts or refuses a snapshot; done, if not nil, is called with d.mu held at its end.
func (d *Domain) startSnapshot(r *repository, name string, req snapshotRequest, done func(snapshotInfo, *apiError)) *apiError {
	if err := checkSnapshotName(r.name, name); err != nil {
		return err
	}
	if r.readonly() {
		return fail(500, "repository_exception", "[%s] cannot create snapshot in a readonly repository", r.name)
	}
	data, _, err := r.load()
	if err != nil {
		return err
	}
	if _, exists := data.find(name); exists {
		return invalidSnapshotName(r.name, name, "snapshot with the same name already exists")
	}
	for _, s := range d.snapshots {
		if d.engine.before(7, 9) {
			return fail(503, "concurrent_snapshot_execution_exception", "[%s:%s]  a snapshot is already running", r.name, name)
		}
		if s.repository == r && s.info.Name == name {
			return invalidSnapshotName(r.name, name, "snapshot with the same name is already in-progress")
		}
	}
	indices, err := d.resolve(req.indices, resolveOptions{ignoreMissing: req.ignore, closed: true, streams: true})
	if err != nil {
		return err
	}
	uuid := d.newUUID()
	var red []string
	for _, ix := range indices {
		if err := ix.blockedFor("read"); err != nil {
			return err
		}
		if ix.closed && d.engine.before(7, 2) {
			return fail(403, "cluster_block_exception", "blocked by: [FORBIDDEN/4/index closed];")
		}
		if slices.ContainsFunc(ix.shards, func(s *shard) bool { return s.state == unassigned }) {
			red = append(red, ix.name)
		}
	}
	if red != nil && !req.partial {
		return fail(500, "snapshot_exception", "[%s:%s/%s] Indices don't have primary shards [%s]", r.name, name, uuid, strings.Join(red, ","))
	}
	run := &runningSnapshot{repository: r, indexIDs: map[string]string{}, metadata: map[string]indexMetadata{}, identifier: map[string]string{}}
	run.info = snapshotInfo{Name: name, UUID: uuid, VersionID: d.engine.id(), Indices: []string{}, State: "IN_PROGRESS", GlobalState: req.globalState,
		Streams: d.snapshotStreams(req.indices), Metadata: req.metadata, Start: d.clock.Now().UnixMilli(), Failures: []snapshotFailure{}}
	if done != nil {
		run.done = append(run.done, done)
	}
	for _, ix := range indices {
		run.info.Indices = append(run.info.Indices, ix.name)
		id := data.Indices[ix.name].ID
		if id == "" {
			id = d.newUUID()
			for _, other := range d.snapshots { // a concurrent snapshot may have named it already
				if other.repository == r && other.indexIDs[ix.name] != "" {
					id = other.indexIDs[ix.name]
				}
			}
		}
		run.indexIDs[ix.name] = id
		for _, s := range ix.shards {
			rs := &runningShard{index: ix.name, uuid: ix.uuid, shard: s, stage: "INIT"}
			run.shards = append(run.shards, rs)
			if s.state == unassigned {
				rs.stage, rs.reason = "FAILURE", "primary shard is not allocated"
			}
		}
	}
	run.info.Total = len(run.shards)
	d.snapshots = append(d.snapshots, run)
	d.after(0, func() {
		// Metadata is taken here, as the engine takes it with the cluster state of the start.
		for _, name := range run.info.Indices {
			if ix := d.indices[name]; ix != nil {
				run.metadata[name], run.identifier[name] = ix.snapshotMetadata()
			}
		}
		for _, rs := range run.shards {
			if rs.stage == "INIT" {
				d.enqueueSnapshotShard(run, rs)
			}
		}
		d.finishSnapshot(run)
	})
	return nil
}

func (ix *index) snapshotMetadata() (indexMetadata, string) {
	m := indexMetadata{Name: ix.name, Settings: maps.Clone(ix.settings), Mapping: cloneJSON(ix.mapping), Aliases: map[string]map[string]any{},
		SettingsVersion: ix.settingsVersion, MappingVersion: ix.mappingVersion, AliasesVersion: ix.aliasesVersion, Closed: ix.closed}
	delete(m.Settings, "index.verified_before_close")
	for name, body := range ix.aliases {
		m.Aliases[name] = cloneJSON(body)
	}
	for _, s := range ix.shards {
		m.Terms = append(m.Terms, s.term)
	}
	history := ix.setting("index.history.uuid")
	if history == "" {
		history = "_na_"
	}
	return m, fmt.Sprintf("%s-%s-%d-%d-%d", ix.uuid, history, ix.settingsVersion, ix.mappingVersion, ix.aliasesVersion)
}

func (d *Domain) enqueueSnapshotShard(run *runningSnapshot, rs *runningShard) {
	// A shard that is being restored is waited for, as the engine does.
	if rs.shard.state == initializing {
		d.after(50*time.Millisecond, func() { d.enqueueSnapshotShard(run, rs) })
		return
	}
	d.enqueue(rs.shard.node, func(release func()) {
		d.after(snapshotShardTime, func() {
			if err := d.prepareShard(run, rs); err != "" {
				rs.stage, rs.reason = "FAILURE", err
				release()
				d.finishSnapshot(run)
				return
			}
			d.uploadNext(run, rs, 0, release)
		})
	})
}

// prepareShard flushes and compares, file by file, with what the repository holds of the shard.
func (d *Domain) prepareShard(run *runningSnapshot, rs *runningShard) string {
	rs.start = d.clock.Now()
	s := rs.shard
	if run.aborted {
		return "aborted"
	}
	if reason := d.failing[shardKey{rs.index, s.number}]; reason != "" {
		return reason
	}
	ix := d.indices[rs.index]
	if ix == nil || ix.uuid != rs.uuid || s.state != started {
		return "IndexNotFoundException[no such index [" + rs.index + "]]"
	}
	if !ix.closed {
		s.flush(false)
	}
	data, _, err := run.repository.load()
	if err != nil {
		return err.reason
	}
	id := run.indexIDs[rs.index]
	dir := run.repository.shardFolder(id, s.number)
	rs.previous.Snapshots = map[string]shardSnapshot{}
	if generations := data.Indices[rs.index].ShardGenerations; s.number < len(generations) && generations[s.number] != "" {
		if err := run.repository.readJSON(dir+"index-"+generations[s.number], &rs.previous); err != nil {
			return fmt.Sprintf("IndexShardSnapshotFailedException[failed to read shard index %s: %v]", generations[s.number], err)
		}
	}
	stateID := s.stateID()
	rs.list = shardSnapshot{Name: run.info.Name, IndexVersion: s.commit.generation, StartTime: rs.start.UnixMilli()}
	known := map[string][]fileInfo{}
	var order []string
	for _, snapshot := range data.Snapshots {
		order = append(order, snapshot.UUID)
	}
	unchanged := false
	for _, uuid := range order {
		old, ok := rs.previous.Snapshots[uuid]
		if !ok {
			continue
		}
		if !d.engine.before(7, 6) {
			if rs.list.StateID = stateID; old.StateID == stateID {
				rs.list.Files, rs.list.IndexVersion, unchanged = old.Files, old.IndexVersion, true
				break
			}
		}
		for _, f := range old.Files {
			known[f.PhysicalName] = append(known[f.PhysicalName], f)
		}
	}
	if !d.engine.before(7, 6) {
		rs.list.StateID = stateID
	}
	if !unchanged {
		chunk := d.byteSetting(textOfOr(run.repository.settings["chunk_size"], ""), 0)
		for _, f := range s.commit.files {
			i := slices.IndexFunc(known[f.name], func(old fileInfo) bool {
				return old.Length == f.length && old.Checksum == f.checksum && string(old.MetaHash) == string(f.small)
			})
			if i >= 0 {
				rs.list.Files = append(rs.list.Files, known[f.name][i])
				continue
			}
			prefix := "__"
			if f.small != nil {
				prefix = "v__"
			}
			info := fileInfo{Name: prefix + d.newUUID(), PhysicalName: f.name, Length: f.length, Checksum: f.checksum, PartSize: chunk,
				WrittenBy: d.engine.lucene(), MetaHash: f.small}
			rs.list.Files = append(rs.list.Files, info)
			rs.list.IncrementalFiles++
			rs.list.IncrementalBytes += f.length
			if f.small != nil {
				rs.processed++
				rs.processedSize += f.length
				continue
			}
			rs.pending = append(rs.pending, f)
			rs.pendingInfo = append(rs.pendingInfo, info)
		}
	}
	for _, f := range rs.list.Files {
		rs.total += f.Length
	}
	rs.stage = "STARTED"
	// The shard's new generation is written before its data: harmless, nothing refers to it yet.
	rs.generation = d.newUUID()
	rs.previous.Snapshots[run.info.UUID] = rs.list
	if err := run.repository.writeJSON(dir+"index-"+rs.generation, rs.previous); err != nil {
		return err.Error()
	}
	return ""
}

func textOfOr(v any, fallback string) string {
	if v == nil {
		return fallback
	}
	return textOf(v)
}

func (d *Domain) uploadNext(run *runningSnapshot, rs *runningShard, i int, release func()) {
	dir := run.repository.shardFolder(run.indexIDs[rs.index], rs.shard.number)
	stop := func(reason string) {
		rs.stage, rs.reason = "FAILURE", reason
		release()
		d.finishSnapshot(run)
	}
	if run.aborted {
		stop("aborted")
		return
	}
	if i == len(rs.pending) {
		rs.list.Time = d.clock.Now().Sub(rs.start).Milliseconds()
		if err := run.repository.writeJSON(dir+"snap-"+run.info.UUID+".dat", rs.list); err != nil {
			stop(err.Error())
			return
		}
		rs.stage = "DONE"
		release()
		d.finishSnapshot(run)
		return
	}
	f, info := rs.pending[i], rs.pendingInfo[i]
	limit := rate(d.byteSetting(textOfOr(run.repository.settings["max_snapshot_bytes_per_sec"], ""), d.cfg.SnapshotBytesPerSecond))
	d.after(transferTime(f.length, limit), func() {
		data := f.content()
		for part, blob := range info.blobs() {
			chunk := data
			if info.PartSize > 0 {
				chunk = data[int64(part)*info.PartSize : min(int64(part+1)*info.PartSize, int64(len(data)))]
			}
			if err := run.repository.blobs.Put(dir+blob, chunk); err != nil {
				stop(err.Error())
				return
			}
		}
		rs.processed++
		rs.processedSize += f.length
		d.uploadNext(run, rs, i+1, release)
	})
}

// finishSnapshot writes the metadata and index-N once no shard is running.
func (d *Domain) finishSnapshot(run *runningSnapshot) {
	if run.finalizing || slices.ContainsFunc(run.shards, func(rs *runningShard) bool { return rs.stage == "INIT" || rs.stage == "STARTED" }) {
		return
	}
	run.finalizing = true
	d.after(snapshotFinalTime, func() { d.finalize(run) })
}

func (d *Domain) finalize(run *runningSnapshot) {
	info := &run.info
	end := func(err *apiError) {
		d.snapshots = slices.DeleteFunc(d.snapshots, func(s *runningSnapshot) bool { return s == run })
		for _, f := range run.done {
			f(*info, err)
		}
	}
	r := run.repository
	if run.aborted {
		for _, rs := range run.shards {
			dir := r.shardFolder(run.indexIDs[rs.index], rs.shard.number)
			for _, f := range rs.pendingInfo {
				for _, b := range f.blobs() {
					_ = r.blobs.Delete(dir + b)
				}
			}
			_ = r.blobs.Delete(dir + "snap-" + info.UUID + ".dat")
			if rs.generation != "" {
				_ = r.blobs.Delete(dir + "index-" + rs.generation)
			}
		}
		end(fail(500, "snapshot_exception", "[%s:%s/%s] Snapshot was aborted by deletion", r.name, info.Name, info.UUID))
		return
	}
	info.State = "SUCCESS"
	for _, rs := range run.shards {
		if rs.stage == "DONE" {
			info.Successful++
			continue
		}
		info.State = "PARTIAL"
		info.Failures = append(info.Failures, snapshotFailure{Index: rs.index, IndexUUID: rs.index, Shard: rs.shard.number, Reason: rs.reason,
			NodeID: rs.shard.node.id, Status: "INTERNAL_SERVER_ERROR"})
	}
	info.End = max(info.Start, d.clock.Now().UnixMilli())
	data, generation, err := r.load()
	if err == nil {
		err = d.writeSnapshot(run, data, generation)
	}
	if err != nil {
		end(fail(500, "snapshot_exception", "[%s:%s/%s] failed to update snapshot in repository", r.name, info.Name,
			info.UUID).causedBy(err.kind, "%s", err.reason))
		return
	}
	end(nil)
}

func (d *Domain) writeSnapshot(run *runningSnapshot, data repositoryData, generation int64) *apiError {
	r, info := run.repository, run.info
	failed := func(err error) *apiError { return fail(500, "repository_exception", "[%s] %v", r.name, err) }
	if err := r.writeJSON("meta-"+info.UUID+".dat", map[string]any{"persistent_settings": d.persistent}); err != nil {
		return failed(err)
	}
	entry := repositorySnapshot{Name: info.Name, UUID: info.UUID, State: snapshotStateNumber(info.State), Version: d.engine.String(),
		Lookup: map[string]string{}}
	for _, name := range info.Indices {
		id, identifier := run.indexIDs[name], run.identifier[name]
		blob := data.Identifiers[identifier]
		if d.engine.before(7, 9) {
			blob = info.UUID
		}
		if blob == "" || d.engine.before(7, 9) {
			if blob == "" {
				blob = d.randomText(20)
			}
			if err := r.writeJSON("indices/"+id+"/meta-"+blob+".dat", run.metadata[name]); err != nil {
				return failed(err)
			}
		}
		if !d.engine.before(7, 9) {
			data.Identifiers[identifier] = blob
			entry.Lookup[id] = identifier
		}
		ri := data.Indices[name]
		ri.ID = id
		if d.engine.openSearch && d.engine.major >= 2 {
			ri.ShardPathType = new(int)
		}
		ri.Snapshots = append(ri.Snapshots, info.UUID)
		data.Indices[name] = ri
	}
	if err := r.writeJSON("snap-"+info.UUID+".dat", info); err != nil {
		return failed(err)
	}
	superseded := []string{}
	for _, rs := range run.shards {
		ri := data.Indices[rs.index]
		for len(ri.ShardGenerations) <= rs.shard.number {
			ri.ShardGenerations = append(ri.ShardGenerations, "")
		}
		old := ri.ShardGenerations[rs.shard.number]
		if rs.stage == "DONE" {
			dir := r.shardFolder(ri.ID, rs.shard.number)
			if merged, ok := d.mergeGenerations(r, dir, old, rs, info.UUID); ok {
				if err := r.writeJSON(dir+"index-"+rs.generation, merged); err != nil {
					return failed(err)
				}
			}
			ri.ShardGenerations[rs.shard.number] = rs.generation
			if old != "" {
				superseded = append(superseded, dir+"index-"+old)
			}
		}
		data.Indices[rs.index] = ri
	}
	data.Snapshots = append(data.Snapshots, entry)
	if !d.engine.openSearch {
		switch {
		case !d.engine.before(7, 9):
			data.MinVersion = "7.9.0"
		case !d.engine.before(7, 6):
			data.MinVersion = "7.6.0"
		}
	}
	if err := r.store(data, generation); err != nil {
		return err
	}
	for _, name := range superseded {
		_ = r.blobs.Delete(name)
	}
	return nil
}

// mergeGenerations adds to a shard's file lists those that a concurrent snapshot finished after this one had read them.
func (d *Domain) mergeGenerations(r *repository, dir, current string, rs *runningShard, uuid string) (shardIndex, bool) {
	if current == "" {
		return shardIndex{}, false
	}
	var now shardIndex
	if err := r.readJSON(dir+"index-"+current, &now); err != nil {
		return shardIndex{}, false
	}
	changed := false
	for id, list := range now.Snapshots {
		if _, ok := rs.previous.Snapshots[id]; !ok {
			rs.previous.Snapshots[id], changed = list, true
		}
	}
	rs.previous.Snapshots[uuid] = rs.list
	return rs.previous, changed
}

// deleteSnapshot removes a finished snapshot and the blobs that only it used, or aborts a running one.
func (d *Domain) deleteSnapshot(r *repository, name string) *apiError {
	if r.readonly() {
		return fail(500, "repository_exception", "[%s] cannot delete snapshot from a readonly repository", r.name)
	}
	aborted := false
	for _, run := range d.snapshots {
		if run.repository == r && run.info.Name == name {
			run.aborted, aborted = true, true
		}
	}
	if aborted {
		return nil
	}
	data, generation, err := r.load()
	if err != nil {
		return err
	}
	gone, ok := data.find(name)
	if !ok {
		return fail(404, "snapshot_missing_exception", "[%s:%s] is missing", r.name, name)
	}
	for _, restore := range d.restores {
		if restore.repository == r && restore.snapshot.UUID == gone.UUID {
			return fail(503, "concurrent_snapshot_execution_exception",
				"[%s:%s/%s] cannot delete snapshot during a restore in progress in [RestoreInProgress[{%s}{%s:%s/%s}]]",
				r.name, name, gone.UUID, restore.uuid, r.name, name, gone.UUID)
		}
	}
	if len(d.snapshots) > 0 && d.engine.before(7, 9) {
		return fail(503, "concurrent_snapshot_execution_exception", "[%s:%s] another snapshot is currently running cannot delete", r.name, name)
	}
	data.Snapshots = slices.DeleteFunc(data.Snapshots, func(s repositorySnapshot) bool { return s.UUID == gone.UUID })
	type cleanup struct {
		dir, generation string
		keep            shardIndex
	}
	var cleanups []cleanup
	var whole []string
	for name, ri := range data.Indices {
		if !slices.Contains(ri.Snapshots, gone.UUID) {
			continue
		}
		ri.Snapshots = slices.DeleteFunc(ri.Snapshots, func(s string) bool { return s == gone.UUID })
		if len(ri.Snapshots) == 0 {
			whole = append(whole, "indices/"+ri.ID+"/")
			delete(data.Indices, name)
			continue
		}
		for shard, old := range ri.ShardGenerations {
			dir := r.shardFolder(ri.ID, shard)
			var lists shardIndex
			if old == "" || r.readJSON(dir+"index-"+old, &lists) != nil {
				continue
			}
			delete(lists.Snapshots, gone.UUID)
			next := d.newUUID()
			if err := r.writeJSON(dir+"index-"+next, lists); err != nil {
				return fail(500, "repository_exception", "[%s] %v", r.name, err)
			}
			ri.ShardGenerations[shard] = next
			cleanups = append(cleanups, cleanup{dir, next, lists})
		}
		data.Indices[name] = ri
	}
	usedIdentifiers := map[string]bool{}
	for _, s := range data.Snapshots {
		for _, identifier := range s.Lookup {
			usedIdentifiers[identifier] = true
		}
	}
	var metadata []string
	for id, identifier := range gone.Lookup {
		if !usedIdentifiers[identifier] {
			metadata = append(metadata, "indices/"+id+"/meta-"+data.Identifiers[identifier]+".dat")
			delete(data.Identifiers, identifier)
		}
	}
	if err := r.store(data, generation); err != nil {
		return err
	}
	for _, c := range cleanups {
		r.collectShard(c.dir, c.generation, c.keep)
	}
	for _, prefix := range whole {
		names, _ := r.blobs.List(prefix)
		for _, n := range names {
			_ = r.blobs.Delete(n)
		}
	}
	for _, n := range append(metadata, "snap-"+gone.UUID+".dat", "meta-"+gone.UUID+".dat") {
		_ = r.blobs.Delete(n)
	}
	return nil
}
