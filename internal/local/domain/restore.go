package domain

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const restoreShardTime = 20 * time.Millisecond // opening the engine after the files have landed

// runningRestore is a restore whose shards are not all started or failed.
type runningRestore struct {
	uuid       string
	repository *repository
	snapshot   repositorySnapshot
	indices    []string
	shards     []*restoringShard
	done       []func(total, failed int)
}

type restoringShard struct {
	run    *runningRestore
	shard  *shard
	done   bool
	failed bool
}

// recovery is what GET _recovery tells of how a shard came to be.
type recovery struct {
	kind, stage          string
	start, stop          time.Time
	repository, snapshot string
	version, index, uuid string
	files                []recoveredFile
	current              int // file in transfer, -1 none
	currentSince         time.Time
	perSecond            int64
}

type recoveredFile struct {
	name      string
	length    int64
	recovered int64
	reused    bool
}

type restoreRequest struct {
	indices              string
	ignore, partial      bool
	aliases              bool
	settings             map[string]any
	ignoreSettings       []string
	pattern, replacement string
}

// startRestore accepts or refuses a restore; done, if not nil, is called with d.mu held once every shard has started or failed.
func (d *Domain) startRestore(r *repository, name string, req restoreRequest, done func(total, failed int)) ([]string, *apiError) {
	data, _, err := r.load()
	if err != nil {
		return nil, err
	}
	snapshot, ok := data.find(name)
	if !ok {
		return nil, fail(500, "snapshot_restore_exception", "[%s:%s] snapshot does not exist", r.name, name)
	}
	info, err := d.snapshotInfo(r, snapshot)
	if err != nil {
		return nil, err
	}
	refuse := func(format string, args ...any) *apiError {
		return fail(500, "snapshot_restore_exception", "[%s:%s/%s] %s", r.name, name, snapshot.UUID, fmt.Sprintf(format, args...))
	}
	expression, streams := restoreStreams(info, req.indices)
	if req.pattern != "" && len(streams) > 0 {
		return nil, notImplemented("renaming data streams on restore")
	}
	names, err := selectNames(info.Indices, expression, req.ignore)
	if err != nil {
		return nil, err
	}
	if info.State != "SUCCESS" && info.State != "PARTIAL" {
		return nil, refuse("unsupported snapshot state [%s]", info.State)
	}
	if info.VersionID > d.engine.id() {
		product := d.engine.product()
		return nil, refuse("the snapshot was created with %s version [%s] which is higher than the version of this node [%s]", product,
			d.engine.misread(info.VersionID), d.engine)
	}
	type plan struct {
		from, to string
		id       string
		meta     indexMetadata
		settings map[string]any
		existing *index
	}
	var plans []plan
	targets := map[string]string{}
	var rename *regexp.Regexp
	if req.pattern != "" {
		compiled, e := regexp.Compile(req.pattern)
		if e != nil {
			return nil, notImplemented("the rename_pattern %q: %v", req.pattern, e)
		}
		rename = compiled
	}
	newShards, copies := 0, 0
	for _, from := range names {
		p := plan{from: from, to: from, id: data.Indices[from].ID}
		if rename != nil {
			p.to = rename.ReplaceAllString(from, regexp.MustCompile(`\$(\d+)`).ReplaceAllString(req.replacement, "$${$1}"))
		}
		if other, twice := targets[p.to]; twice {
			return nil, fail(500, "snapshot_restore_exception", "[%s:%s] indices [%s] and [%s] are renamed into the same index [%s]", r.name, name,
				from, other, p.to)
		}
		targets[p.to] = from
		blob := data.Identifiers[snapshot.Lookup[p.id]]
		if blob == "" {
			blob = snapshot.UUID
		}
		if e := r.readJSON("indices/"+p.id+"/meta-"+blob+".dat", &p.meta); errors.Is(e, fs.ErrNotExist) {
			return nil, fail(404, "snapshot_missing_exception", "[%s:%s/%s] is missing", r.name, name,
				snapshot.UUID).causedBy("no_such_file_exception", "indices/%s/meta-%s.dat", p.id, blob)
		} else if e != nil {
			return nil, fail(500, "snapshot_exception", "[%s:%s/%s] failed to get snapshot index metadata: %v", r.name, name, snapshot.UUID, e)
		}
		for _, f := range info.Failures {
			if f.Index == from && !req.partial {
				return nil, refuse("index [%s] wasn't fully snapshotted - cannot restore", from)
			}
		}
		created, _ := strconv.Atoi(textOf(p.meta.Settings["index.version.created"]))
		if d.engine.openSearch && d.engine.major >= 3 && created&openSearchMask == 0 {
			return nil, fail(400, "illegal_argument_exception", "Failed to parse value [%d] for setting [index.version.created]", created)
		}
		if created < d.engine.oldestIndex() {
			return nil, refuse("cannot restore index [%s] because it cannot be upgraded", from).causedBy("illegal_state_exception",
				"The index [[%s/%s]] was created with version [%s] but the minimum compatible version is [%s]", from, p.meta.Settings["index.uuid"],
				engineOfID(created), engineOfID(d.engine.oldestIndex()))
		}
		if p.settings, err = d.restoredSettings(p.meta.Settings, req, refuse); err != nil {
			return nil, err
		}
		if e := checkIndexName(p.to); e != nil {
			return nil, e
		}
		p.existing = d.indices[p.to]
		switch ix := p.existing; {
		case ix == nil:
			for _, other := range d.indices {
				if _, clash := other.aliases[p.to]; clash {
					return nil, fail(400, "invalid_index_name_exception", "Invalid index name [%s], already exists as alias", p.to).with("index", p.to,
						"index_uuid", "_na_")
				}
			}
			newShards += len(p.meta.Terms)
			copies, _ = strconv.Atoi(textOf(p.settings["index.number_of_replicas"]))
		case !ix.closed:
			return nil, refuse("cannot restore index [%s] because an open index with same name already exists in the cluster. Either close or delete the existing index or "+
				"restore the index under a different name by providing a rename pattern and replacement name", p.to)
		case len(ix.shards) != len(p.meta.Terms):
			return nil, refuse("cannot restore index [%s] with [%d] shards from a snapshot of index [%s] with [%d] shards", p.to, len(ix.shards),
				from, len(p.meta.Terms))
		case req.partial && slices.ContainsFunc(info.Failures, func(f snapshotFailure) bool { return f.Index == from }):
			return nil, refuse("cannot restore partial index [%s] because such index already exists", p.to)
		}
		if req.aliases {
			for alias := range p.meta.Aliases {
				if other := d.indices[alias]; other != nil {
					return nil, fail(500, "illegal_state_exception",
						"index, alias, and data stream names need to be unique, but the following duplicates were found "+
							"[%s (alias of [%s/%s]) conflicts with index]", alias, p.to, d.newUUID())
				}
			}
		}
		plans = append(plans, p)
	}
	if e := d.shardLimit(newShards, copies); newShards > 0 && e != nil {
		return nil, e
	}
	for _, s := range streams {
		if err := d.streamNameTaken(s); err != nil {
			return nil, err
		}
	}
	run := &runningRestore{uuid: d.newUUID(), repository: r, snapshot: snapshot}
	if done != nil {
		run.done = append(run.done, done)
	}
	for _, p := range plans {
		ix := d.restoreMetadata(p.to, p.meta, p.settings, p.existing, req.aliases)
		run.indices = append(run.indices, ix.name)
		for _, s := range ix.shards {
			rs := &restoringShard{run: run, shard: s}
			run.shards = append(run.shards, rs)
			s.state, s.reassigning = initializing, false
			s.term++
			reason := "EXISTING_INDEX_RESTORED"
			if p.existing == nil {
				reason = "NEW_INDEX_RESTORED"
			}
			s.cause = &unassignedInfo{reason: reason, at: d.clock.Now(), details: fmt.Sprintf("restore_source[%s/%s]", r.name, name), status: "awaiting_info"}
			s.recovery = nil
			d.enqueue(s.node, func(release func()) { d.restoreShard(rs, p.id, p.from, info, release) })
		}
	}
	for _, s := range streams {
		d.streams[s.Name] = &s
	}
	if len(run.shards) > 0 {
		d.restores = append(d.restores, run)
	} else if done != nil {
		d.after(0, func() { done(0, 0) })
	}
	return run.indices, nil
}

// selectNames picks from a snapshot's indices those that an expression names.
func selectNames(all []string, expression string, ignore bool) ([]string, *apiError) {
	var out []string
	for _, part := range strings.Split(expression, ",") {
		remove := len(out) > 0 && strings.HasPrefix(part, "-")
		if remove {
			part = part[1:]
		}
		hit := false
		for _, n := range all {
			if part != "" && part != "_all" && !wildcard(part, n) {
				continue
			}
			hit = true
			if remove {
				out = slices.DeleteFunc(out, func(s string) bool { return s == n })
			} else if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
		if !hit && !ignore && !strings.Contains(part, "*") && part != "_all" && part != "" {
			return nil, fail(404, "index_not_found_exception", "no such index [%s]", part).with("index", part, "index_uuid", "_na_")
		}
	}
	return out, nil
}

func (d *Domain) restoredSettings(from map[string]any, req restoreRequest, refuse func(string, ...any) *apiError) (map[string]any, *apiError) {
	kind := "setting"
	if d.engine.openSearch && d.engine.major >= 2 {
		kind = "UnmodifiableOnRestore setting"
	}
	unmodifiable := []string{"index.number_of_shards", "index.version.created", "index.uuid", "index.creation_date", "index.history.uuid"}
	unremovable := []string{"index.number_of_shards", "index.version.created", "index.uuid", "index.creation_date", "index.history.uuid",
		"index.number_of_replicas", "index.auto_expand_replicas", "index.version.upgraded"}
	out := maps.Clone(from)
	for _, pattern := range req.ignoreSettings {
		if !strings.Contains(pattern, "*") {
			if slices.Contains(unremovable, pattern) {
				return nil, refuse("cannot remove %s [%s] on restore", kind, pattern)
			}
			delete(out, pattern)
			continue
		}
		maps.DeleteFunc(out, func(k string, _ any) bool { return wildcard(pattern, k) && !slices.Contains(unremovable, k) })
	}
	for _, k := range sortedKeys(req.settings) {
		if slices.Contains(unmodifiable, k) {
			return nil, refuse("cannot modify %s [%s] on restore", kind, k)
		}
		v := req.settings[k]
		switch {
		case v == nil:
			delete(out, k)
		case k == "index.soft_deletes.enabled" && v == "false":
			return nil, refuse("cannot disable setting [index.soft_deletes.enabled] on restore")
		case !d.engine.knownSetting(k) && !matchesAny(privateSettings, k):
			out["archived."+k] = v
		default:
			if e := d.engine.checkSettings(map[string]any{k: v}); e != nil {
				return nil, e
			}
			out[k] = v
		}
	}
	return out, nil
}

// restoreMetadata puts the snapshot's metadata into the cluster; an existing, closed index keeps its UUID and its files.
func (d *Domain) restoreMetadata(name string, meta indexMetadata, settings map[string]any, existing *index, aliases bool) *index {
	ix := existing
	if ix == nil {
		ix = &index{domain: d, name: name, uuid: d.newUUID(), aliases: map[string]map[string]any{}}
		d.indices[name] = ix
	}
	settings["index.uuid"] = ix.uuid
	settings["index.history.uuid"] = d.newUUID()
	ix.settings, ix.mapping = settings, cloneJSON(meta.Mapping)
	ix.closed = false
	ix.settingsVersion = max(meta.SettingsVersion, ix.settingsVersion+1)
	ix.mappingVersion = max(meta.MappingVersion, ix.mappingVersion+1)
	ix.aliasesVersion = max(meta.AliasesVersion, ix.aliasesVersion+1)
	if aliases {
		ix.aliases = map[string]map[string]any{}
		for alias, body := range meta.Aliases {
			ix.aliases[alias] = cloneJSON(body)
		}
	}
	ix.indexFields()
	for len(ix.shards) < len(meta.Terms) {
		ix.shards = append(ix.shards, d.newShard(ix, len(ix.shards)))
	}
	for i, s := range ix.shards {
		s.term = max(s.term, meta.Terms[i])
	}
	return ix
}

func (d *Domain) restoreShard(rs *restoringShard, indexID, from string, info snapshotInfo, release func()) {
	s, r := rs.shard, rs.run.repository
	if d.indices[s.index.name] != s.index {
		d.restoreDone(rs, true, release)
		return
	}
	failRestore := func(cause error) {
		now := d.clock.Now()
		details := fmt.Sprintf("failed shard on node [%s]: failed recovery, failure RecoveryFailedException[[%s][%d]: Recovery failed on {%s}]; nested: "+
			"IndexShardRecoveryException[failed recovery]; nested: IndexShardRestoreFailedException[restore failed]; nested: %v", s.node.id,
			s.index.name, s.number, s.node.name, cause)
		s.state, s.recovery = unassigned, nil
		s.wipe()
		s.cause = &unassignedInfo{reason: "ALLOCATION_FAILED", at: now, details: details, failedAttempts: 1, status: "no",
			decider: fmt.Sprintf("shard has failed to be restored from the snapshot [%s:%s/%s] because of [%s] - manually close or delete the index [%s] in order to retry to restore the snapshot again "+
				"or use the reroute API to force the allocation of an empty primary shard", r.name, info.Name, info.UUID, details, s.index.name)}
		d.restoreDone(rs, true, release)
	}
	if d.full || d.unallocatable(s.index) != "" {
		s.state = unassigned
		s.cause = &unassignedInfo{reason: s.cause.reason, at: s.cause.at, details: s.cause.details, status: "no",
			decider: fmt.Sprintf("shard has failed to be restored from the snapshot [%s:%s/%s] because of [%s] - manually close or delete the index [%s] in order to retry to restore the snapshot again "+
				"or use the reroute API to force the allocation of an empty primary shard", r.name, info.Name, info.UUID, s.cause.details, s.index.name)}
		d.restoreDone(rs, true, release)
		return
	}
	now := d.clock.Now()
	s.recovery = &recovery{kind: "SNAPSHOT", stage: "INDEX", start: now, repository: r.name, snapshot: info.Name,
		version: engineOfID(info.VersionID).String(),
		index:   from, uuid: rs.run.uuid, current: -1}
	dir := r.shardFolder(indexID, s.number)
	if slices.ContainsFunc(info.Failures, func(f snapshotFailure) bool { return f.Index == from && f.Shard == s.number }) {
		s.wipe()
		s.historyUUID = d.newUUID()
		s.flush(true)
		d.shardStarted(rs, true, release) // partial restore: an empty shard, counted as failed
		return
	}
	var list shardSnapshot
	if err := r.readJSON(dir+"snap-"+info.UUID+".dat", &list); err != nil {
		failRestore(fmt.Errorf("SnapshotException[[%s:%s/%s] failed to read shard snapshot file for [%s][%d]]; nested: NoSuchFileException[%w]",
			r.name, info.Name, info.UUID, from, s.number, err))
		return
	}
	local := map[string]segmentFile{}
	if s.commit != nil {
		for _, f := range s.commit.files {
			local[f.name] = f
		}
	}
	broken := map[string]bool{}
	groups := map[string]bool{}
	for _, f := range list.Files {
		have, ok := local[f.PhysicalName]
		groups[fileGroup(f.PhysicalName)] = true
		if !ok || have.length != f.Length || have.checksum != f.Checksum || string(have.small) != string(f.MetaHash) {
			broken[fileGroup(f.PhysicalName)] = true
		}
	}
	reuse := map[string]*segment{}
	for _, seg := range s.segments {
		if groups[seg.name] && !broken[seg.name] {
			reuse[seg.name] = seg
		}
	}
	var names []string
	content := map[string][]byte{}
	var fetch []int
	for i, f := range list.Files {
		names = append(names, f.PhysicalName)
		reused := !broken[fileGroup(f.PhysicalName)]
		s.recovery.files = append(s.recovery.files, recoveredFile{name: f.PhysicalName, length: f.Length, reused: reused})
		if !reused {
			fetch = append(fetch, i)
		}
		if f.virtual() { // the commit must be read even where it is the one that is there already
			content[f.PhysicalName] = f.MetaHash
		}
	}
	limit := rate(d.byteSetting(textOfOr(r.settings["max_restore_bytes_per_sec"], ""), d.defaultRepositoryRestore()), d.recoveryThrottle())
	s.recovery.perSecond = limit
	var next func(k int)
	next = func(k int) {
		if d.indices[s.index.name] != s.index {
			d.restoreDone(rs, true, release)
			return
		}
		if k == len(fetch) {
			generation := int64(2)
			for _, n := range names {
				if g, ok := strings.CutPrefix(n, "segments_"); ok {
					generation, _ = strconv.ParseInt(g, 36, 64)
				}
			}
			if err := s.installSegments(names, content, reuse); err != nil {
				failRestore(err)
				return
			}
			// A restored shard has a history of its own, and commits of its own on top of the snapshot's.
			s.historyUUID = d.newUUID()
			s.commitAs(generation + 2)
			s.recovery.stage = "TRANSLOG"
			d.after(restoreShardTime, func() { d.shardStarted(rs, false, release) })
			return
		}
		if d.full {
			failRestore(errors.New("IOException[No space left on device]"))
			return
		}
		i := fetch[k]
		f := list.Files[i]
		s.recovery.current, s.recovery.currentSince = i, d.clock.Now()
		d.after(transferTime(f.Length, limit), func() {
			data := f.MetaHash
			if !f.virtual() {
				data = nil
				for _, blob := range f.blobs() {
					part, err := r.blobs.Get(dir + blob)
					if err != nil {
						failRestore(fmt.Errorf("NoSuchFileException[%s%s]: %w", dir, blob, err))
						return
					}
					data = append(data, part...)
				}
			}
			if checksum(data) != f.Checksum {
				failRestore(fmt.Errorf("CorruptIndexException[verification failed (hardware problem?) : expected=%s actual=%s]", f.Checksum, checksum(data)))
				return
			}
			content[f.PhysicalName] = data
			s.recovery.files[i].recovered = f.Length
			s.recovery.current = -1
			next(k + 1)
		})
	}
	next(0)
}

// unallocatable names the allocation filter of an index that no node of the model satisfies; nodes have a name and nothing else.
func (d *Domain) unallocatable(ix *index) string {
	for _, k := range sortedKeys(ix.settings) {
		filter, ok := strings.CutPrefix(k, "index.routing.allocation.")
		want, _ := ix.settings[k].(string)
		if !ok || want == "" {
			continue
		}
		mode, attribute, _ := strings.Cut(filter, ".")
		matches := slices.ContainsFunc(d.nodes, func(n *node) bool {
			return (attribute == "_name" || attribute == "_id") && slices.ContainsFunc(strings.Split(want, ","),
				func(w string) bool { return wildcard(w, n.name) || w == n.id })
		})
		if (mode == "require" || mode == "include") && !matches && attribute != "_tier_preference" {
			return k
		}
	}
	return ""
}

// defaultRepositoryRestore is max_restore_bytes_per_sec when the repository does not set it: 40 MB/s up to 7.8, no limit later.
func (d *Domain) defaultRepositoryRestore() int64 {
	if d.engine.before(7, 9) {
		return d.cfg.RestoreBytesPerSecond
	}
	return Unlimited
}

// recoveryThrottle is indices.recovery.max_bytes_per_sec, which restores obey from 7.9 on.
func (d *Domain) recoveryThrottle() int64 {
	if d.engine.before(7, 9) {
		return Unlimited
	}
	return d.byteSetting(d.clusterSetting("indices.recovery.max_bytes_per_sec"), d.cfg.RestoreBytesPerSecond)
}

func (d *Domain) shardStarted(rs *restoringShard, failed bool, release func()) {
	s := rs.shard
	s.state, s.cause = started, nil
	s.recovery.stage, s.recovery.stop = "DONE", d.clock.Now()
	d.restoreDone(rs, failed, release)
}

func (d *Domain) restoreDone(rs *restoringShard, failed bool, release func()) {
	rs.done, rs.failed = true, failed
	release()
	run := rs.run
	if slices.ContainsFunc(run.shards, func(o *restoringShard) bool { return !o.done }) {
		return
	}
	d.restores = slices.DeleteFunc(d.restores, func(r *runningRestore) bool { return r == run })
	bad := 0
	for _, o := range run.shards {
		if o.failed {
			bad++
		}
	}
	for _, f := range run.done {
		f(len(run.shards), bad)
	}
}

// restoring and snapshotting tell whether an index is in use by one.
func (d *Domain) restoring(ix *index) bool {
	return slices.ContainsFunc(d.restores, func(r *runningRestore) bool {
		return slices.ContainsFunc(r.shards, func(s *restoringShard) bool { return s.shard.index == ix })
	})
}

func (d *Domain) snapshotting(ix *index) bool {
	return slices.ContainsFunc(d.snapshots, func(r *runningSnapshot) bool {
		return slices.ContainsFunc(r.shards, func(s *runningShard) bool { return s.shard.index == ix && (s.stage == "INIT" || s.stage == "STARTED") })
	})
}
