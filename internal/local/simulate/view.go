package simulate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
)

// domainView is a cluster as one invocation sees it: what *cluster.Client is in a deployment. It has the methods of every interface that
// internal/step declares of a domain, says only what the coarse state says, and charges the requests that the client would make.
type domainView struct {
	inv  *invocation
	side *side
}

func (w *world) view(i *invocation, e migration.Endpoint) *domainView {
	if e.Endpoint == w.destination.name {
		return &domainView{i, w.destination}
	}
	return &domainView{i, w.source}
}

// enter brings the cluster up to the present and keeps others out until the returned function is called.
func (v *domainView) enter() (leave func()) {
	v.inv.w.state.Lock()
	v.side.sync()
	return v.inv.w.state.Unlock
}

// maxNames is cluster.Client's own bound of the names in one path, in bytes.
const maxNames = 3300

// requests is how many requests the client makes for a list of names.
func requests(indices []string) int64 {
	n, length := int64(1), 0
	for _, name := range indices {
		if length += len(name) + 1; length > maxNames+1 {
			n, length = n+1, len(name)+1
		}
	}
	return n
}

// charge counts requests, one after another, that take each their base time, and together some time for each of some units, and answer
// so many bytes.
func (v *domainView) charge(ctx context.Context, op string, n int64, base float64, units int, perUnit float64, bytes int64) {
	w := v.inv.w
	rtt := sourceRTT
	if v.side == w.destination {
		rtt = destinationRTT
	}
	chance := v.inv.chance(v.side.name + op)
	d := float64(n)*(rtt+base)*noise(chance, latencyNoise) + float64(units)*perUnit + float64(bytes)/httpRate
	w.mu.Lock()
	w.meter.http[op] += n
	if v.side == w.source {
		w.meter.sourceBytes += bytes
	}
	throttled := chance.Float64() < tooManyRequests*float64(n)
	if throttled {
		w.meter.throttled++
	}
	w.mu.Unlock()
	if throttled { // the client asks again, a little later
		d += 0.5 * noise(chance, latencyNoise)
	}
	v.inv.owe(ctx, seconds(d))
}

func (v *domainView) find(op string, names []string) ([]*index, error) {
	list := make([]*index, 0, len(names))
	for _, n := range names {
		x := v.side.byName[n]
		if x == nil {
			return nil, fault.Newf(fault.IndicesChanged, op, v.side.name, "no such index [%s]", n)
		}
		list = append(list, x)
	}
	return list, nil
}

func shardsOf(list []*index) (n int) {
	for _, x := range list {
		n += len(x.shards)
	}
	return n
}

// Info implements what preflight asks.
func (v *domainView) Info(ctx context.Context) (cluster.Version, error) {
	v.charge(ctx, "GET /", 1, fast, 0, 0, 0)
	return v.side.version, nil
}

func (v *domainView) Health(ctx context.Context) (cluster.Health, error) {
	defer v.enter()()
	v.charge(ctx, "GET _cluster/health", 1, fast, 0, 0, 0)
	return cluster.Health{Status: "green", Nodes: len(v.side.nodes), DataNodes: len(v.side.nodes)}, nil
}

func (v *domainView) Indices(ctx context.Context) ([]cluster.Index, error) {
	defer v.enter()()
	out := make([]cluster.Index, len(v.side.indices))
	for i, x := range v.side.indices {
		out[i] = cluster.Index{Name: x.name, UUID: x.uuid, Health: "green", Open: !x.closed, Primaries: len(x.shards), CreatedVersion: x.created, Settings: v.settingsOf(x)}
		for _, p := range x.shards {
			out[i].Docs += v.docs(p)
			out[i].StoreBytes += v.store(p)
			if p.state == "UNASSIGNED" || p.state == "INITIALIZING" {
				out[i].Health = "red"
			}
		}
	}
	v.charge(ctx, "GET _cat/indices, _settings", 2, slow, shardsOf(v.side.indices), perShard, int64(len(out))*1500)
	return out, nil
}

func (v *domainView) settingsOf(x *index) map[string]string {
	m := make(map[string]string, len(x.settings))
	for k, s := range x.settings {
		m[k] = s
	}
	return m
}

func (v *domainView) docs(p *primary) int64 {
	if p.shard != nil {
		v.side.advance(p)
		return p.live
	}
	if p.index.closed || p.copy == nil {
		return 0
	}
	return p.copy.live + int64(p.replayed.documents) - int64(p.replayed.deleted)
}

func (v *domainView) store(p *primary) int64 {
	if p.shard != nil {
		n := int64(0)
		for _, g := range p.segments {
			n += g.bytes
		}
		return n
	}
	if p.copy == nil {
		return 0
	}
	return p.copy.bytes()
}

func (v *domainView) DiskFree(ctx context.Context) ([]cluster.NodeDisk, error) {
	v.charge(ctx, "GET _nodes/stats", 1, slow, 0, 0, 100_000)
	var out []cluster.NodeDisk
	for _, n := range v.side.nodes {
		out = append(out, cluster.NodeDisk{Name: n.name, FreeBytes: diskBytes, TotalBytes: diskBytes})
	}
	return out, nil
}

func (v *domainView) StatePolicies(context.Context) ([]cluster.StatePolicy, bool, error) {
	return nil, false, nil
}

func (v *domainView) DataStreams(ctx context.Context) ([]cluster.DataStream, error) {
	v.charge(ctx, "GET _data_stream", 1, fast, 0, 0, 0)
	return nil, nil
}

func (v *domainView) DeleteDataStream(context.Context, string) error { return nil }

func (v *domainView) Holder(context.Context, string) (string, error) { return "", nil }

func (v *domainView) WithoutTemplate(context.Context, ...string) ([]string, bool, error) {
	return nil, true, nil
}

func (v *domainView) Repository(ctx context.Context, name string) (cluster.Repository, bool, error) {
	defer v.enter()()
	v.charge(ctx, "GET _snapshot/<repository>", 1, fast, 0, 0, 0)
	r, ok := v.side.repositories[name]
	return r, ok, nil
}

func (v *domainView) PutRepository(ctx context.Context, name string, r cluster.Repository) error {
	defer v.enter()()
	v.charge(ctx, "PUT _snapshot/<repository>", 1, 1, 0, 0, 0)
	settings := map[string]string{}
	for k, s := range r.Settings {
		settings[k] = s
	}
	v.side.repositories[name] = cluster.Repository{Type: r.Type, Settings: settings}
	return nil
}

func (v *domainView) SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error) {
	defer v.enter()()
	list, err := v.find("read sequence numbers", indices)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]cluster.ShardSequence, len(list))
	for _, x := range list {
		rows := make([]cluster.ShardSequence, 0, len(x.shards))
		for i, p := range x.shards {
			if p.state == "UNASSIGNED" {
				continue
			}
			n := v.seqNo(p)
			rows = append(rows, cluster.ShardSequence{Shard: i, MaxSeqNo: n, LocalCheckpoint: n, GlobalCheckpoint: n, Docs: v.docs(p),
				IndexUUID: x.uuid, HistoryUUID: p.historyUUID()})
		}
		out[x.name] = rows
	}
	v.charge(ctx, "GET _stats", requests(indices), slow, shardsOf(list), perShard, int64(shardsOf(list))*300)
	return out, nil
}

func (v *domainView) seqNo(p *primary) int64 {
	if p.shard != nil {
		v.side.advance(p)
		return p.seqNo
	}
	if p.replayed.began {
		return p.replayed.seqNo
	}
	if p.copy == nil {
		return -1
	}
	return p.copy.seqNo
}

func (v *domainView) Snapshot(ctx context.Context, _, name string) (cluster.Snapshot, bool, error) {
	defer v.enter()()
	v.charge(ctx, "GET _snapshot/<repository>/<snapshot>", 1, slow, 0, 0, 200_000)
	run, ok := v.inv.w.source.snapshots[name]
	if !ok || v.side == v.inv.w.destination && !v.inv.w.bucket.published[name] {
		return cluster.Snapshot{}, false, nil
	}
	s := cluster.Snapshot{Name: run.name, UUID: run.uuid, State: run.state, Version: v.side.version.Number, StartTime: run.start, EndTime: run.end,
		Shards: cluster.ShardCounts{Total: run.total, Successful: run.total - run.left}}
	for _, x := range run.indices {
		s.Indices = append(s.Indices, x.name)
	}
	return s, true, nil
}

func (v *domainView) RunningSnapshots(ctx context.Context) ([]cluster.RunningSnapshot, error) {
	defer v.enter()()
	v.charge(ctx, "GET _snapshot/_status", 1, slow, 0, 0, 0)
	var out []cluster.RunningSnapshot
	for _, r := range v.side.running {
		out = append(out, cluster.RunningSnapshot{Repository: r.repository, Name: r.name, State: "STARTED"})
	}
	return out, nil
}

func (v *domainView) CreateSnapshot(ctx context.Context, repository, name string, r cluster.SnapshotRequest) error {
	defer v.enter()()
	op := "create snapshot " + name
	v.charge(ctx, "PUT _snapshot/<repository>/<snapshot>", 1, clusterState, len(r.Indices), perIndexState, 0)
	if _, taken := v.side.snapshots[name]; taken {
		return fault.Newf(fault.RequestRefused, op, v.side.name, "invalid_snapshot_name_exception: snapshot with the same name already exists")
	}
	if len(v.side.running) > 0 {
		return fault.Newf(fault.Busy, op, v.side.name, "a snapshot is already running")
	}
	list, err := v.find(op, r.Indices)
	if err != nil {
		return err
	}
	run := &snapshot{repository: repository, name: name, uuid: "uuid-" + name, indices: list}
	v.side.snapshots[name] = run
	v.side.take(run)
	return nil
}

func (v *domainView) DeleteSnapshot(ctx context.Context, _, name string) error {
	defer v.enter()()
	v.charge(ctx, "DELETE _snapshot/<repository>/<snapshot>", 1, clusterState, 0, 0, 0)
	return fault.Newf(fault.NotSupported, "delete snapshot "+name, v.side.name, "the simulation never has to")
}

// SnapshotProgress: of a finished snapshot the engine reads one object a shard.
func (v *domainView) SnapshotProgress(ctx context.Context, _, name string) (cluster.Progress, bool, error) {
	defer v.enter()()
	run, ok := v.inv.w.source.snapshots[name]
	if !ok {
		v.charge(ctx, "GET _snapshot/<repository>/<snapshot>/_status", 1, fast, 0, 0, 0)
		return cluster.Progress{}, false, nil
	}
	p := cluster.Progress{State: run.state, Indices: map[string]cluster.IndexProgress{}}
	for n, x := range run.progress {
		p.Indices[n] = *x
		p.ProcessedBytes += x.ProcessedBytes
	}
	for _, x := range run.indices {
		for n, q := range x.shards {
			if d, ok := run.took[q]; ok {
				p.Shards = append(p.Shards, cluster.ShardProgress{Index: x.name, Shard: n, Bytes: d.bytes, Start: d.start, Took: d.took})
			}
		}
	}
	p.IncrementalFiles, p.IncrementalBytes, p.TotalBytes, p.ShardsTotal = run.files, run.bytes, run.size, run.total
	each := perShard
	if run.state == cluster.SnapshotSuccess {
		each = statusPerShard
	}
	v.charge(ctx, "GET _snapshot/<repository>/<snapshot>/_status", 1, slow, run.total, each, int64(run.total)*400)
	return p, true, nil
}

func (v *domainView) Recoveries(ctx context.Context, indices ...string) ([]cluster.ShardRecovery, error) {
	defer v.enter()()
	var out []cluster.ShardRecovery
	for _, n := range indices {
		x := v.side.byName[n]
		if x == nil || x.closed {
			continue
		}
		for i, p := range x.shards {
			r := p.recovery
			if r == nil {
				continue
			}
			row := cluster.ShardRecovery{Index: n, Shard: i, Primary: true, Type: "SNAPSHOT", Stage: "INDEX", Snapshot: r.snapshot, TotalBytes: r.total,
				ReusedBytes: r.reused, StartTime: r.start, StopTime: r.stop, Node: p.node.name}
			if r.done {
				row.Stage, row.RecoveredBytes = "DONE", r.total-r.reused
			} else if r.seconds > 0 {
				row.RecoveredBytes = int64(float64(r.total-r.reused) * min(1, v.side.now.Sub(r.start).Seconds()/r.seconds))
			}
			out = append(out, row)
		}
	}
	v.charge(ctx, "GET _recovery", requests(indices), slow, len(out), perShard, int64(len(out))*900)
	return out, nil
}

func (v *domainView) Shards(ctx context.Context, indices ...string) ([]cluster.Shard, error) {
	defer v.enter()()
	list, err := v.find("list shards", indices)
	if err != nil {
		return nil, err
	}
	out := make([]cluster.Shard, 0, shardsOf(list))
	for _, x := range list {
		if x.closed {
			return nil, fault.Newf(fault.RequestRefused, "list shards", v.side.name, "index_closed_exception: closed [%s]", x.name)
		}
		for i, p := range x.shards {
			s := cluster.Shard{Index: x.name, Shard: i, Primary: true, State: p.state, Node: p.node.name, UnassignedReason: p.reason}
			if p.shard != nil {
				s.State = "STARTED"
			}
			if s.State == "UNASSIGNED" {
				s.Node = ""
			} else {
				s.Docs, s.StoreBytes = v.docs(p), v.store(p)
			}
			out = append(out, s)
		}
	}
	v.charge(ctx, "GET _cat/shards", requests(indices), slow, len(out), perShard, int64(len(out))*250)
	return out, nil
}

func (v *domainView) ExplainAllocation(ctx context.Context, _ string, _ int, _ bool) (string, error) {
	v.charge(ctx, "GET _cluster/allocation/explain", 1, slow, 0, 0, 2000)
	return "it waits for its turn", nil
}

func (v *domainView) Close(ctx context.Context, indices ...string) error {
	defer v.enter()()
	list, err := v.find("close", indices)
	if err != nil {
		return err
	}
	v.charge(ctx, "POST _close", requests(indices), clusterState, len(indices), perIndexState, int64(len(indices))*100)
	for _, x := range list {
		if x.snapshots > 0 {
			return fault.Newf(fault.Busy, "close", v.side.name, "Cannot close indices that are being snapshotted: [[%s]]", x.name)
		}
		if slices.ContainsFunc(x.shards, func(p *primary) bool { return p.shard == nil && p.state != "STARTED" }) {
			return fault.Newf(fault.Busy, "close", v.side.name, "Cannot close indices that are being restored: [[%s]]", x.name)
		}
	}
	for _, x := range list {
		x.closed = true
		for _, p := range x.shards {
			p.recovery = nil
		}
	}
	return nil
}

func (v *domainView) Open(ctx context.Context, indices ...string) error {
	defer v.enter()()
	list, err := v.find("open", indices)
	if err != nil {
		return err
	}
	v.charge(ctx, "POST _open", requests(indices), clusterState+openShard, len(indices), perIndexState, 0)
	for _, x := range list {
		x.closed = false
	}
	return nil
}

func (v *domainView) Restore(ctx context.Context, _, name string, r cluster.RestoreRequest) error {
	defer v.enter()()
	w := v.inv.w
	v.charge(ctx, "POST _restore", 1, clusterState, len(r.Indices), perIndexState, 0)
	if !w.bucket.published[name] {
		return fault.Newf(fault.RestoreFailed, "restore snapshot "+name, v.side.name, "snapshot_restore_exception: snapshot does not exist")
	}
	return v.side.restore(w.source.snapshots[name], r.Indices, r)
}

func (v *domainView) AddWriteBlock(ctx context.Context, indices ...string) error {
	defer v.enter()()
	list, err := v.find("add the write block", indices)
	if err != nil {
		return err
	}
	// Request after request; each has its own moment. The last of them ends the writes.
	n := requests(indices)
	v.charge(ctx, "PUT <indices>/_block/write", n, clusterState, len(indices), perIndexState, int64(len(indices))*60)
	for _, x := range list {
		v.block(x, "true")
	}
	return nil
}

// block notes what a value of index.blocks.write means for the writers.
func (v *domainView) block(x *index, value string) {
	x.settings["index.blocks.write"] = value
	w := v.inv.w
	switch {
	case v.side == w.source && value == "true":
		if w.blocked[x.name].IsZero() {
			w.blocked[x.name] = v.side.now
		}
		if w.firstBlock.IsZero() {
			w.firstBlock = v.side.now
		}
	case v.side == w.source:
		delete(w.blocked, x.name)
		if len(w.blocked) == 0 {
			w.firstBlock = time.Time{}
		}
	case value != "true":
		w.opened = v.side.now
	}
}

func (v *domainView) UpdateSettings(ctx context.Context, settings map[string]any, indices ...string) error {
	defer v.enter()()
	list, err := v.find("update settings", indices)
	if err != nil {
		return err
	}
	v.charge(ctx, "PUT _settings", requests(indices), clusterState, len(indices), perIndexState, 0)
	for _, x := range list {
		for k, value := range settings {
			text := ""
			if value != nil {
				text = fmt.Sprint(value)
			}
			if k == "index.blocks.write" {
				v.block(x, text)
			}
			if text == "" {
				delete(x.settings, k)
			} else {
				x.settings[k] = text
			}
		}
		x.settingsVersion++
	}
	return nil
}

func (v *domainView) Refresh(ctx context.Context, indices ...string) error {
	defer v.enter()()
	list, err := v.find("refresh", indices)
	if err != nil {
		return err
	}
	v.charge(ctx, "POST _refresh", requests(indices), slow, shardsOf(list), perShard, 0)
	return nil
}

func (v *domainView) IndexSettings(ctx context.Context, indices ...string) (map[string]map[string]string, error) {
	defer v.enter()()
	out := map[string]map[string]string{}
	for _, n := range indices {
		if x := v.side.byName[n]; x != nil {
			out[n] = v.settingsOf(x)
		}
	}
	v.charge(ctx, "GET _settings", requests(indices), fast, len(out), perIndexRead, int64(len(out))*800)
	return out, nil
}

func (v *domainView) Mappings(ctx context.Context, indices ...string) (map[string]json.RawMessage, error) {
	defer v.enter()()
	out := map[string]json.RawMessage{}
	for _, n := range indices {
		if x := v.side.byName[n]; x != nil {
			out[n] = json.RawMessage(x.mapping)
		}
	}
	v.charge(ctx, "GET _mapping", requests(indices), fast, len(out), perIndexRead, int64(len(out))*mappingBytes)
	return out, nil
}

func (v *domainView) PutMapping(ctx context.Context, name string, mapping json.RawMessage) error {
	defer v.enter()()
	v.charge(ctx, "PUT _mapping", 1, clusterState, 0, 0, mappingBytes)
	if x := v.side.byName[name]; x != nil {
		x.mapping = string(mapping)
	}
	return nil
}

func (v *domainView) Aliases(ctx context.Context, indices ...string) (map[string]map[string]json.RawMessage, error) {
	defer v.enter()()
	out := map[string]map[string]json.RawMessage{}
	for _, n := range indices {
		x := v.side.byName[n]
		if x == nil {
			continue
		}
		out[n] = map[string]json.RawMessage{}
		for _, a := range x.aliases {
			out[n][a] = json.RawMessage(`{}`)
		}
	}
	v.charge(ctx, "GET _alias", requests(indices), fast, len(out), perIndexRead, int64(len(out))*80)
	return out, nil
}

func (v *domainView) UpdateAliases(ctx context.Context, actions []cluster.AliasAction) error {
	defer v.enter()()
	v.charge(ctx, "POST _aliases", 1, clusterState, len(actions), perIndexState, 0)
	for _, a := range actions {
		x := v.side.byName[a.Index]
		if x == nil {
			continue
		}
		x.aliases = slices.DeleteFunc(x.aliases, func(s string) bool { return s == a.Alias })
		if !a.Remove {
			x.aliases = append(x.aliases, a.Alias)
		}
		slices.Sort(x.aliases)
	}
	return nil
}

// SampleDocuments makes documents up: one for each shard at most, whose version is the state that the shard is in. A copy gives the same
// back only while it holds the same state.
func (v *domainView) SampleDocuments(ctx context.Context, name string, _ []cluster.SeqRange, n int) ([]cluster.Document, error) {
	defer v.enter()()
	list, err := v.find("sample documents", []string{name})
	if err != nil {
		return nil, err
	}
	v.charge(ctx, "POST _search", 1, slow, len(list[0].shards), perShard, int64(n)*1000)
	var out []cluster.Document
	for i := range min(n, len(list[0].shards)) {
		out = append(out, v.document(list[0], i))
	}
	return out, nil
}

func (v *domainView) GetDocuments(ctx context.Context, name string, keys []cluster.DocumentKey) ([]cluster.Document, error) {
	defer v.enter()()
	list, err := v.find("read documents", []string{name})
	if err != nil {
		return nil, err
	}
	v.charge(ctx, "POST _mget", 1, fast, len(keys), perShard, int64(len(keys))*1000)
	out := make([]cluster.Document, len(keys))
	for i, k := range keys {
		var shard int
		if _, err := fmt.Sscanf(k.ID, "document-of-shard-%d", &shard); err == nil && shard < len(list[0].shards) {
			out[i] = v.document(list[0], shard)
		} else {
			out[i] = cluster.Document{DocumentKey: k}
		}
	}
	return out, nil
}

// document is the latest one of a shard: its version tells the state that the shard is in.
func (v *domainView) document(x *index, shard int) cluster.Document {
	p := x.shards[shard]
	return cluster.Document{DocumentKey: cluster.DocumentKey{ID: fmt.Sprintf("document-of-shard-%d", shard)}, Found: true, Version: v.holds(p) + 2,
		Source: json.RawMessage(fmt.Sprintf(`{"index":%q,"shard":%d}`, strings.TrimPrefix(x.uuid, "copy-"), shard))}
}

// holds is the sequence number of the source up to which a shard holds everything; for a copy with documents that the source has deleted,
// one less.
func (v *domainView) holds(p *primary) int64 {
	switch {
	case p.shard != nil:
		v.side.advance(p)
		return p.seqNo
	case p.copy == nil:
		return -1
	case p.replayed.began:
		from := p.of.shard
		_, _, upto := from.at(p.replayed.upto)
		_, _, erased := from.at(p.replayed.erased)
		if erased < upto {
			return p.replayed.upto - 1
		}
		return p.replayed.upto
	}
	return p.copy.seqNo
}

// ClusterSettings and PutClusterSetting are those of an Amazon domain, which lets nobody raise the speed of recoveries
// (amazon-operations.md 4).
func (v *domainView) ClusterSettings(ctx context.Context) (cluster.ClusterSettings, error) {
	v.charge(ctx, "GET _cluster/settings", 1, fast, 0, 0, 0)
	return cluster.ClusterSettings{}, nil
}

func (v *domainView) PutClusterSetting(ctx context.Context, setting string, _ any) error {
	v.charge(ctx, "PUT _cluster/settings", 1, clusterState, 0, 0, 0)
	return fault.Newf(fault.RequestRefused, "set "+setting, v.side.name, "Your request: '/_cluster/settings' payload is not allowed.")
}

// Describe tells an index from itself with another description.
func (v *domainView) Describe(ctx context.Context, indices ...string) (map[string]cluster.Description, error) {
	defer v.enter()()
	list, err := v.find("read descriptions", indices)
	if err != nil {
		return nil, err
	}
	out := make(map[string]cluster.Description, len(list))
	for _, x := range list {
		aliases := map[string]json.RawMessage{}
		for _, a := range x.aliases {
			aliases[a] = json.RawMessage(`{}`)
		}
		out[x.name] = cluster.Description{UUID: x.uuid, Aliases: aliases, Digest: x.mapping + strings.Join(x.aliases, ",")}
	}
	v.charge(ctx, "GET <indices>", requests(indices), fast, len(out), perIndexRead, int64(len(out))*(mappingBytes+900))
	return out, nil
}

// CreateIndex is asked for by a way back alone, which is not simulated.
func (v *domainView) CreateIndex(context.Context, string, map[string]any, json.RawMessage) error {
	return fault.Newf(fault.NotSupported, "create index", v.side.name, "a way back is not simulated")
}

// DeleteIndex deletes an index and its data.
func (v *domainView) DeleteIndex(ctx context.Context, name string) error {
	indices := []string{name}
	defer v.enter()()
	v.charge(ctx, "DELETE <indices>", requests(indices), clusterState, len(indices), perIndexState, 0)
	for _, n := range indices {
		delete(v.side.byName, n)
		v.side.indices = slices.DeleteFunc(v.side.indices, func(x *index) bool { return x.name == n })
	}
	return nil
}
