package step

import (
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
)

var errKilled = errors.New("killed")

// world is two domains, the journal's bucket and a clock. Every call that changes something is in log, in order; reads are
// counted in reads.
type world struct {
	mu          sync.Mutex // steps read several things at once
	t           *testing.T
	now         time.Time
	onSleep     func() // what happens meanwhile
	slept       time.Duration
	source      *domain
	destination *domain
	objects     map[string]string
	store       *journal.Store
	log         []string
	reads       map[string]int
	answers     map[string][]error // by call ("source CreateSnapshot"): answers instead of effects, one after another
	lost        map[string][]error // the same, but the call takes effect
	// The process dies before or after the n-th change.
	changes, killAt int
	killAfter       bool
	dead            bool // a killed process makes no further calls
	replay          *replayer
	back            bool            // the replay goes from the destination to the source
	running         map[string]bool // executions that the service knows to run
	beginning       string          // one that runs Preflight
	buckets         Buckets
}

// Running implements journal.Executions.
func (w *world) Running(_ context.Context, execution string) (bool, error) {
	return w.running[execution] || execution == w.beginning, nil
}

func (w *world) Now() time.Time { return w.now }

func (w *world) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		w.t.Fatalf("sleep of %v: the clock would stand still", d)
	}
	w.now, w.slept = w.now.Add(d), w.slept+d
	if w.onSleep != nil {
		w.onSleep()
	}
	return ctx.Err()
}

func pop(m map[string][]error, call string) error {
	if len(m[call]) == 0 {
		return nil
	}
	err := m[call][0]
	m[call] = m[call][1:]
	return err
}

// change runs one changing call; call is "source CreateSnapshot", detail what it was given.
func (w *world) change(call, detail string, effect func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errKilled
	}
	n := w.changes
	w.changes++
	if err := pop(w.answers, call); err != nil {
		return err
	}
	if n == w.killAt && !w.killAfter {
		w.dead = true
		return errKilled
	}
	w.log = append(w.log, strings.TrimSpace(call+" "+detail))
	if err := effect(); err != nil {
		return err
	}
	if n == w.killAt {
		w.dead = true
		return errKilled
	}
	return pop(w.lost, call)
}

func (w *world) read(call string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errKilled
	}
	w.reads[call]++
	return pop(w.answers, call)
}

// count is how often a call that starts so took effect.
func (w *world) count(prefix string) int {
	n := 0
	for _, l := range w.log {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

func (w *world) wantLog(want ...string) {
	w.t.Helper()
	if !slices.Equal(w.log, want) {
		w.t.Errorf("changes:\n  %s\nwant:\n  %s", strings.Join(w.log, "\n  "), strings.Join(want, "\n  "))
	}
}

func (w *world) wantBefore(first, second string) {
	w.t.Helper()
	at := func(prefix string) int {
		return slices.IndexFunc(w.log, func(l string) bool { return strings.HasPrefix(l, prefix) })
	}
	if i, j := at(first), at(second); i < 0 || j < 0 || i > j {
		w.t.Errorf("%q is not before %q in:\n  %s", first, second, strings.Join(w.log, "\n  "))
	}
}

// killedEverywhere kills run before and after each of its changes, runs it again and checks the outcome, which must be that of an
// undisturbed run.
func killedEverywhere(t *testing.T, arrange func(t *testing.T) *world, run func(w *world) error, check func(w *world)) {
	t.Helper()
	quiet := arrange(t)
	quiet.changes = 0
	if err := run(quiet); err != nil {
		t.Fatalf("undisturbed: %v", err)
	}
	check(quiet)
	if quiet.changes == 0 {
		t.Fatal("nothing was changed, so nothing can be interrupted")
	}
	for at := range quiet.changes {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("killed at change %d, after it %t", at, after), func(t *testing.T) {
				w := arrange(t)
				w.changes, w.killAt, w.killAfter = 0, at, after
				if err := run(w); !errors.Is(err, errKilled) {
					t.Fatalf("killed run: %v", err)
				}
				w.killAt, w.dead = -1, false
				if err := run(w); err != nil {
					t.Fatalf("second run: %v", err)
				}
				check(w)
				// Once more over the finished state.
				if err := run(w); err != nil {
					t.Fatalf("third run: %v", err)
				}
				check(w)
			})
		}
	}
}

// The journal's bucket.

type bucket struct{ w *world }

func (b bucket) GetObject(_ context.Context, in *s3.GetObjectInput, _ ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	body, ok := b.w.objects[*in.Key]
	if !ok {
		return nil, &types.NoSuchKey{}
	}
	return &s3.GetObjectOutput{Body: io.NopCloser(strings.NewReader(body)), ETag: tagOf(body)}, nil
}

func tagOf(body string) *string { return aws.String(fmt.Sprintf("%x", md5.Sum([]byte(body)))) }

func (b bucket) PutObject(_ context.Context, in *s3.PutObjectInput, _ ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	body, err := io.ReadAll(in.Body)
	if err != nil {
		return nil, err
	}
	b.w.mu.Lock()
	before, there := b.w.objects[*in.Key]
	b.w.mu.Unlock()
	if there && aws.ToString(in.IfNoneMatch) == "*" || in.IfMatch != nil && *in.IfMatch != *tagOf(before) {
		return nil, &smithy.GenericAPIError{Code: "PreconditionFailed"}
	}
	detail := strings.TrimPrefix(*in.Key, "migrations/orders/")
	var state struct{ State string }
	if detail == "freeze.json" && json.Unmarshal(body, &state) == nil {
		detail += " " + state.State
	}
	return &s3.PutObjectOutput{}, b.w.change("put", detail, func() error { b.w.objects[*in.Key] = string(body); return nil })
}

func (b bucket) ListObjectsV2(_ context.Context, in *s3.ListObjectsV2Input, _ ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	out := &s3.ListObjectsV2Output{}
	for _, k := range slices.Sorted(maps.Keys(b.w.objects)) {
		if strings.HasPrefix(k, *in.Prefix) {
			out.Contents = append(out.Contents, types.Object{Key: aws.String(k)})
		}
	}
	return out, nil
}

// domain is a cluster as the steps see it. Only what they depend on is modelled.
type domain struct {
	w            *world
	name         string
	version      cluster.Version
	health       string
	disks        []cluster.NodeDisk
	streams      []cluster.DataStream
	templates    []string // data streams that have one; nil where they cannot be seen
	indices      map[string]*cluster.Index
	repositories map[string]cluster.Repository
	snapshots    map[string]cluster.Snapshot
	progress     cluster.Progress
	running      []cluster.RunningSnapshot
	sequences    map[string][]cluster.ShardSequence
	shards       []cluster.Shard
	recoveries   []cluster.ShardRecovery
	explanation  string
	restored     cluster.RestoreRequest // the last request
	requested    cluster.SnapshotRequest
	aliases      map[string]map[string]json.RawMessage
	mappings     map[string]json.RawMessage
	documents    map[string][]cluster.Document
	settings     cluster.ClusterSettings
	refuses      string // a field type that the engine does not know
	merges       bool   // it knows replay.MergeOnRefresh
}

func (d *domain) change(call, detail string, effect func() error) error {
	return d.w.change(d.name+" "+call, detail, effect)
}
func (d *domain) read(call string) error { return d.w.read(d.name + " " + call) }

func (d *domain) Info(context.Context) (cluster.Version, error) { return d.version, d.read("Info") }
func (d *domain) Health(context.Context) (cluster.Health, error) {
	return cluster.Health{Status: d.health}, d.read("Health")
}
func (d *domain) DiskFree(context.Context) ([]cluster.NodeDisk, error) {
	return d.disks, d.read("DiskFree")
}
func (d *domain) StatePolicies(context.Context) ([]cluster.StatePolicy, bool, error) {
	return nil, false, nil
}

func (d *domain) DataStreams(context.Context) ([]cluster.DataStream, error) {
	return slices.Clone(d.streams), d.read("DataStreams")
}

// stream adds a data stream, or an index to one.
func (d *domain) stream(name string, indices ...string) {
	for _, x := range indices {
		if d.name == "source" {
			d.add(x, 1)
		}
		i := slices.IndexFunc(d.streams, func(s cluster.DataStream) bool { return s.Name == name })
		if i < 0 {
			d.streams = append(d.streams, cluster.DataStream{Name: name})
			i = len(d.streams) - 1
		}
		d.streams[i].Indices = append(slices.Clone(d.streams[i].Indices), x)
	}
}

// expand gives indices for the names of indices and data streams.
func (d *domain) expand(names []string) (indices, streams []string) {
	for _, name := range names {
		i := slices.IndexFunc(d.streams, func(s cluster.DataStream) bool { return s.Name == name })
		if i < 0 {
			indices = append(indices, name)
			continue
		}
		indices, streams = append(indices, d.streams[i].Indices...), append(streams, name)
	}
	return indices, streams
}

// writeIndex names the data stream whose write index the index is.
func (d *domain) writeIndex(index string) string {
	for _, s := range d.streams {
		if s.Indices[len(s.Indices)-1] == index {
			return s.Name
		}
	}
	return ""
}

func (d *domain) DeleteDataStream(_ context.Context, name string) error {
	return d.change("DeleteDataStream", name, func() error {
		indices, _ := d.expand([]string{name})
		for _, x := range indices {
			delete(d.indices, x)
		}
		d.streams = slices.DeleteFunc(d.streams, func(s cluster.DataStream) bool { return s.Name == name })
		return nil
	})
}

func (d *domain) Holder(_ context.Context, name string) (string, error) {
	if _, streams := d.expand([]string{name}); len(streams) > 0 {
		return "data stream", d.read("Holder")
	}
	if _, there := d.indices[name]; there {
		return "index", d.read("Holder")
	}
	return "", d.read("Holder")
}

func (d *domain) WithoutTemplate(_ context.Context, streams ...string) ([]string, bool, error) {
	return slices.DeleteFunc(slices.Clone(streams), func(s string) bool { return slices.Contains(d.templates, s) }), d.templates != nil, d.read("WithoutTemplate")
}

func (d *domain) Indices(context.Context) ([]cluster.Index, error) {
	var list []cluster.Index
	for _, name := range slices.Sorted(maps.Keys(d.indices)) {
		x := *d.indices[name]
		x.Settings = maps.Clone(x.Settings)
		list = append(list, x)
	}
	return list, d.read("Indices")
}

func (d *domain) Repository(_ context.Context, name string) (cluster.Repository, bool, error) {
	r, ok := d.repositories[name]
	return r, ok, d.read("Repository")
}

func (d *domain) PutRepository(_ context.Context, name string, r cluster.Repository) error {
	where := "region"
	if r.Settings["endpoint"] != "" {
		where = "endpoint"
	}
	return d.change("PutRepository", name+" by "+where, func() error {
		d.repositories[name] = cluster.Repository{Type: r.Type, Settings: maps.Clone(r.Settings)}
		return nil
	})
}

func (d *domain) Snapshot(_ context.Context, _, name string) (cluster.Snapshot, bool, error) {
	s, ok := d.snapshots[name]
	return s, ok, d.read("Snapshot")
}

func (d *domain) SnapshotProgress(context.Context, string, string) (cluster.Progress, bool, error) {
	return d.progress, true, d.read("SnapshotProgress")
}

func (d *domain) RunningSnapshots(context.Context) ([]cluster.RunningSnapshot, error) {
	return d.running, d.read("RunningSnapshots")
}

func (d *domain) CreateSnapshot(_ context.Context, _, name string, r cluster.SnapshotRequest) error {
	return d.change("CreateSnapshot", name, func() error {
		if _, there := d.snapshots[name]; there {
			return nameTaken(name)
		}
		d.requested = r
		indices, streams := d.expand(r.Indices)
		d.snapshots[name] = cluster.Snapshot{Name: name, State: cluster.SnapshotInProgress, Indices: indices, DataStreams: streams, StartTime: d.w.now}
		return nil
	})
}

func nameTaken(name string) error {
	cause := cluster.Cause{Type: "invalid_snapshot_name_exception", Reason: "Invalid snapshot name [" + name + "], snapshot with the same name already exists"}
	return fault.New(fault.RequestRefused, "create snapshot", "source", &cluster.Refusal{Status: 400, Type: cause.Type, Reason: cause.Reason, Causes: []cluster.Cause{cause}})
}

func (d *domain) DeleteSnapshot(_ context.Context, _, name string) error {
	return d.change("DeleteSnapshot", name, func() error { delete(d.snapshots, name); return nil })
}

func (d *domain) SequenceNumbers(_ context.Context, indices ...string) (map[string][]cluster.ShardSequence, error) {
	out := map[string][]cluster.ShardSequence{}
	for _, name := range indices {
		if s, ok := d.sequences[name]; ok {
			out[name] = slices.Clone(s)
			out[name][0].Docs = int64(len(d.documents[name]))
		}
	}
	return out, d.read("SequenceNumbers")
}

// Describe makes the digest of what is modelled of a description, the write block apart.
func (d *domain) Describe(_ context.Context, indices ...string) (map[string]cluster.Description, error) {
	out := map[string]cluster.Description{}
	for _, name := range indices {
		if x, ok := d.indices[name]; ok {
			settings := maps.Clone(x.Settings)
			delete(settings, "index.blocks.write")
			out[name] = cluster.Description{UUID: x.UUID, Aliases: d.aliases[name], Digest: fmt.Sprintf("%s %s %s", settings, d.aliases[name], d.mappings[name])}
		}
	}
	return out, d.read("Describe")
}

func (d *domain) DeleteIndex(_ context.Context, index string) error {
	return d.change("DeleteIndex", index, func() error {
		if stream := d.writeIndex(index); stream != "" {
			return fault.Newf(fault.RequestRefused, "delete", d.name, "index [%s] is the write index for data stream [%s] and cannot be deleted", index, stream)
		}
		delete(d.indices, index)
		return nil
	})
}

func (d *domain) CreateIndex(_ context.Context, index string, settings map[string]any, mappings json.RawMessage) error {
	return d.change("CreateIndex", index, func() error {
		if _, there := d.indices[index]; there {
			return fault.Newf(fault.RequestRefused, "create index", d.name, "index [%s] already exists", index)
		}
		if d.refuses != "" && strings.Contains(string(mappings), d.refuses) {
			return fault.Newf(fault.RequestRefused, "create index", d.name, "No handler for type [%s]", d.refuses)
		}
		d.indices[index] = &cluster.Index{Name: index, Open: true, Primaries: 1, Settings: map[string]string{}}
		return nil
	})
}

func (d *domain) Recoveries(_ context.Context, indices ...string) ([]cluster.ShardRecovery, error) {
	var out []cluster.ShardRecovery
	for _, r := range d.recoveries {
		if slices.Contains(indices, r.Index) {
			out = append(out, r)
		}
	}
	return out, d.read("Recoveries")
}

func (d *domain) Shards(_ context.Context, indices ...string) ([]cluster.Shard, error) {
	var out []cluster.Shard
	for _, s := range d.shards {
		if slices.Contains(indices, s.Index) {
			out = append(out, s)
		}
	}
	return out, d.read("Shards")
}

func (d *domain) ExplainAllocation(_ context.Context, index string, shard int, _ bool) (string, error) {
	return fmt.Sprintf("%s[%d]: %s", index, shard, d.explanation), d.read("ExplainAllocation")
}

func (d *domain) Close(_ context.Context, indices ...string) error {
	return d.change("Close", strings.Join(indices, ","), func() error {
		for _, name := range indices {
			if stream := d.writeIndex(name); stream != "" {
				return fault.Newf(fault.RequestRefused, "close", d.name, "cannot close the following data stream write indices [%s]", name)
			}
			d.indices[name].Open = false
		}
		return nil
	})
}

func (d *domain) Restore(_ context.Context, repository, snapshot string, r cluster.RestoreRequest) error {
	return d.change("Restore", snapshot+" "+strings.Join(r.Indices, ","), func() error {
		d.restored = r
		indices, streams := d.w.source.expand(r.Indices)
		for _, name := range indices {
			if x, there := d.indices[name]; there && x.Open {
				return fault.Newf(fault.RequestRefused, "restore", d.name, "an open index with same name %s", name)
			}
		}
		for _, name := range streams {
			of, _ := d.w.source.expand([]string{name})
			d.stream(name, of...)
		}
		for _, name := range indices {
			x := d.w.source.indices[name]
			d.indices[name] = &cluster.Index{Name: name, UUID: "copy-" + name, Open: true, Primaries: x.Primaries, Settings: map[string]string{"index.blocks.write": "true"}}
			d.recover(snapshot, name, x.Primaries)
		}
		return nil
	})
}

// recover makes every primary of the index started and recovered from the snapshot.
func (d *domain) recover(snapshot, index string, shards int) {
	d.recoveries = slices.DeleteFunc(d.recoveries, func(r cluster.ShardRecovery) bool { return r.Index == index })
	d.shards = slices.DeleteFunc(d.shards, func(s cluster.Shard) bool { return s.Index == index })
	for i := range shards {
		d.recoveries = append(d.recoveries, cluster.ShardRecovery{
			Index: index, Shard: i, Primary: true, Type: "SNAPSHOT", Stage: "DONE", Snapshot: snapshot, TotalBytes: 100, ReusedBytes: 60, RecoveredBytes: 40,
			StartTime: d.w.now, StopTime: d.w.now,
		})
		d.shards = append(d.shards, cluster.Shard{Index: index, Shard: i, Primary: true, State: "STARTED"})
	}
}

func (d *domain) UpdateSettings(_ context.Context, settings map[string]any, indices ...string) error {
	if _, asked := settings[replay.MergeOnRefresh]; asked && !d.merges {
		return fault.Newf(fault.RequestRefused, "update settings", d.name, "unknown setting")
	}
	var words []string
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		words = append(words, fmt.Sprintf("%s=%v", strings.TrimPrefix(k, "index."), settings[k]))
	}
	return d.change("UpdateSettings", strings.Join(words, " ")+" on "+strings.Join(indices, ","), func() error {
		for _, name := range indices {
			for k, v := range settings {
				if v == nil {
					delete(d.indices[name].Settings, k)
				} else {
					d.indices[name].Settings[k] = fmt.Sprint(v)
				}
			}
		}
		return nil
	})
}

func (d *domain) AddWriteBlock(_ context.Context, indices ...string) error {
	return d.change("AddWriteBlock", strings.Join(indices, ","), func() error {
		for _, name := range indices {
			if stream := d.writeIndex(name); stream != "" {
				return fault.Newf(fault.RequestRefused, "block", d.name, "cannot add a block to the following data stream write indices [%s]", name)
			}
			d.indices[name].Settings["index.blocks.write"] = "true"
		}
		return nil
	})
}

func (d *domain) Refresh(context.Context, ...string) error { return d.read("Refresh") }

func (d *domain) IndexSettings(_ context.Context, indices ...string) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	for _, name := range indices {
		if x, ok := d.indices[name]; ok {
			out[name] = maps.Clone(x.Settings)
		}
	}
	return out, d.read("IndexSettings")
}

func (d *domain) Open(_ context.Context, indices ...string) error {
	return d.change("Open", strings.Join(indices, ","), func() error {
		for _, name := range indices {
			d.indices[name].Open = true
		}
		return nil
	})
}

func (d *domain) PutMapping(_ context.Context, index string, mapping json.RawMessage) error {
	return d.change("PutMapping", index, func() error { d.mappings[index] = mapping; return nil })
}

func (d *domain) UpdateAliases(_ context.Context, actions []cluster.AliasAction) error {
	var words []string
	for _, a := range actions {
		words = append(words, fmt.Sprintf("%t %s/%s %s", a.Remove, a.Index, a.Alias, a.Definition))
	}
	return d.change("UpdateAliases", strings.Join(words, ", "), func() error {
		for _, a := range actions {
			if a.Remove {
				delete(d.aliases[a.Index], a.Alias)
				continue
			}
			if d.aliases[a.Index] == nil {
				d.aliases[a.Index] = map[string]json.RawMessage{}
			}
			d.aliases[a.Index][a.Alias] = a.Definition
		}
		return nil
	})
}

func (d *domain) Mappings(_ context.Context, indices ...string) (map[string]json.RawMessage, error) {
	return only(d.mappings, indices), d.read("Mappings")
}

func (d *domain) Aliases(_ context.Context, indices ...string) (map[string]map[string]json.RawMessage, error) {
	return only(d.aliases, indices), d.read("Aliases")
}

// only is what a domain answers to those who ask for some indices.
func only[T any](m map[string]T, indices []string) map[string]T {
	out := map[string]T{}
	for _, name := range indices {
		if v, ok := m[name]; ok {
			out[name] = v
		}
	}
	return out
}

func (d *domain) SampleDocuments(_ context.Context, index string, _ []cluster.SeqRange, n int) ([]cluster.Document, error) {
	list := d.documents[index]
	return list[:min(n, len(list))], d.read("SampleDocuments")
}

func (d *domain) GetDocuments(_ context.Context, index string, keys []cluster.DocumentKey) ([]cluster.Document, error) {
	var out []cluster.Document
	for _, k := range keys {
		i := slices.IndexFunc(d.documents[index], func(x cluster.Document) bool { return x.DocumentKey == k })
		if i < 0 {
			out = append(out, cluster.Document{DocumentKey: k})
			continue
		}
		out = append(out, d.documents[index][i])
	}
	return out, d.read("GetDocuments")
}

func (d *domain) block(index string) string { return d.indices[index].Settings["index.blocks.write"] }

const (
	mine   = "arn:aws:states:eu-west-1:111122223333:execution:migration:mine"
	others = "arn:aws:states:eu-west-1:111122223333:execution:migration:others"
)

const input = `{
  "migration": "orders", "downtimeWindow": "1m",
  "source": {"domainArn": "arn:aws:es:eu-west-1:111122223333:domain/orders-old", "endpoint": "https://source",
    "repository": {"bucket": "old-snapshots", "basePath": "base", "roleArn": "arn:aws:iam::111122223333:role/snapshots"}},
  "destination": {"domainArn": "arn:aws:es:us-east-1:444455556666:domain/orders-new", "endpoint": "https://destination",
    "repository": {"bucket": "new-snapshots", "roleArn": "arn:aws:iam::444455556666:role/snapshots"}}
}`

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, now: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), objects: map[string]string{}, reads: map[string]int{},
		answers: map[string][]error{}, lost: map[string][]error{}, killAt: -1,
	}
	w.store = journal.NewStore(bucket{w}, "journal").Asking(w)
	w.replay = &replayer{w: w}
	fresh := func(name string) *domain {
		return &domain{
			w: w, name: name, health: "green", indices: map[string]*cluster.Index{}, repositories: map[string]cluster.Repository{},
			snapshots: map[string]cluster.Snapshot{}, sequences: map[string][]cluster.ShardSequence{}, documents: map[string][]cluster.Document{},
			aliases: map[string]map[string]json.RawMessage{}, mappings: map[string]json.RawMessage{},
		}
	}
	w.source, w.destination = fresh("source"), fresh("destination")
	w.source.version = cluster.Version{Distribution: cluster.Elasticsearch, Number: "7.10.2", Major: 7, Minor: 10, Patch: 2, ClusterUUID: "old"}
	w.destination.version = cluster.Version{Distribution: cluster.OpenSearch, Number: "2.19.0", Major: 2, Minor: 19, ClusterUUID: "new"}
	w.destination.disks = []cluster.NodeDisk{{Name: "n1", FreeBytes: 1 << 40, TotalBytes: 1 << 41}}
	w.source.add("a", 2)
	w.source.add("b", 1)
	return w
}

// add puts an open, green index created by 7.10.2 with settled sequence numbers 10, 11...
func (d *domain) add(name string, shards int) *cluster.Index {
	x := &cluster.Index{
		Name: name, UUID: "uuid-" + name, Health: "green", Open: true, Primaries: shards, Docs: 100, StoreBytes: 1000, CreatedVersion: "7100299",
		Settings: map[string]string{"index.number_of_replicas": "1"},
	}
	d.indices[name] = x
	for i := range shards {
		n := int64(10 + i)
		d.sequences[name] = append(d.sequences[name], cluster.ShardSequence{Shard: i, MaxSeqNo: n, LocalCheckpoint: n, GlobalCheckpoint: n})
	}
	return x
}

func (w *world) at(e migration.Endpoint) *domain {
	if strings.Contains(e.Endpoint, "source") {
		return w.source
	}
	return w.destination
}

func (w *world) journal() *journal.Journal { return w.store.Migration("orders") }

// planned is a world after preflight by mine, with an empty log.
func plannedWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	if _, err := preflight(w).Run(t.Context(), PreflightInput{Input: json.RawMessage(input), Execution: mine}); err != nil {
		t.Fatal(err)
	}
	w.forget()
	return w
}

func (w *world) forget() { w.log, w.changes, w.reads = nil, 0, map[string]int{} }

// must stops a test whose arrangement fails.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// copies makes a and b copies at the destination, recorded, restored from a snapshot and open or closed.
func (w *world) copies(snapshot string, open bool) {
	w.t.Helper()
	for _, name := range []string{"a", "b"} {
		x := w.source.indices[name]
		w.destination.indices[name] = &cluster.Index{Name: name, Open: open, Primaries: x.Primaries, Settings: map[string]string{"index.blocks.write": "true"}}
		w.destination.sequences[name] = slices.Clone(w.source.sequences[name])
		w.destination.recover(snapshot, name, x.Primaries)
	}
	w.must(w.journal().SaveCopies(w.t.Context(), journal.Copies{Indices: []string{"a", "b"}}))
	w.forget()
}

// frozen records the freeze of an execution and blocks the source; a had no block before, b had one.
func (w *world) frozen(execution string, state journal.FreezeState) {
	w.t.Helper()
	w.must(w.journal().SaveFreeze(w.t.Context(), journal.Freeze{Execution: execution, State: state, Before: map[string]string{"a": "", "b": "true"}, StartedAt: w.now}))
	w.source.indices["a"].Settings["index.blocks.write"] = "true"
	w.source.indices["b"].Settings["index.blocks.write"] = "true"
	w.forget()
}

// checkpoints records a round's checkpoints.
func (w *world) checkpoints(c journal.Checkpoints) {
	w.t.Helper()
	_, err := w.journal().MergeCheckpoints(w.t.Context(), c)
	w.must(err)
}

// settled says that all was done after the hand-over.
func (w *world) settled() {
	w.t.Helper()
	f := w.freezeState()
	f.SettledAt = w.now
	w.must(w.journal().SaveFreeze(w.t.Context(), f))
	w.forget()
}

func (w *world) freezeState() journal.Freeze {
	w.t.Helper()
	f, _, err := w.journal().Freeze(w.t.Context())
	w.must(err)
	return f
}

func wantFault(t *testing.T, err error, name fault.Name, parts ...string) {
	t.Helper()
	if !fault.Is(err, name) {
		t.Fatalf("error %v, want %s", err, name)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func unknown(op string) error {
	return &fault.Error{Name: fault.OutcomeUnknown, Op: op, Target: "domain", Status: 504, Err: errors.New("gateway time-out")}
}

func busy(op string) error { return fault.Newf(fault.Busy, op, "domain", "a snapshot is running") }

// The steps over the world.

// beginning is Preflight as an execution runs it that has just begun.
type beginning struct {
	Preflight
	w *world
}

func (b beginning) Run(ctx context.Context, in PreflightInput) (PreflightOutput, error) {
	b.w.beginning = in.Execution
	defer func() { b.w.beginning = "" }()
	return b.Preflight.Run(ctx, in)
}

func preflight(w *world) beginning {
	return beginning{Preflight{w.store, func(e migration.Endpoint) PreflightDomain { return w.at(e) }, w, thaw(w).End}, w}
}
func register(w *world) Register {
	return Register{Journal: w.store, Domain: func(e migration.Endpoint) RegisterDomain { return w.at(e) }, Clock: w}
}
func snapshot(w *world) Snapshot {
	return Snapshot{w.store, func(e migration.Endpoint) SnapshotDomain { return w.at(e) }, w}
}
func pollStatus(w *world) PollStatus {
	return PollStatus{w.store, func(e migration.Endpoint) PollStatusDomain { return w.at(e) }, w}
}
func restore(w *world) Restore {
	return Restore{w.store, func(e migration.Endpoint) RestoreDomain { return w.at(e) }, w}
}
func recordRound(w *world) RecordRound {
	return RecordRound{w.store, func(e migration.Endpoint) RecordRoundDomain { return w.at(e) }, w}
}
func freeze(w *world) Freeze {
	return Freeze{w.store, func(e migration.Endpoint) FreezeDomain { return w.at(e) }, w}
}
func thaw(w *world) Thaw {
	return Thaw{Journal: w.store, Domain: func(e migration.Endpoint) ThawDomain { return w.at(e) }, Clock: w, Buckets: w.buckets}
}
func verification(w *world) Verify {
	return Verify{w.store, func(e migration.Endpoint) VerifyDomain { return w.at(e) }, func(from, to migration.Endpoint) ReplayVerifier { return w.between(from, to) }, w}
}
func finish(w *world) Finish {
	return Finish{Journal: w.store, Domain: func(e migration.Endpoint) FinishDomain { return w.at(e) }, Clock: w, Buckets: w.buckets}
}

func planReplay(w *world) PlanReplay {
	return PlanReplay{w.store, func(e migration.Endpoint) PlanReplayDomain { return w.at(e) }, func(from, to migration.Endpoint) PassPlanner { return w.between(from, to) }, w}
}
func replaySlice(w *world) Replay {
	return Replay{w.store, func(from, to migration.Endpoint) SliceReplayer { return w.between(from, to) }}
}
func reconcileDeletes(w *world) ReconcileDeletes {
	return ReconcileDeletes{w.store, func(from, to migration.Endpoint) DeleteReconciler { return w.between(from, to) }}
}
func recordPass(w *world) RecordPass {
	return RecordPass{w.store, func(e migration.Endpoint) RecordPassDomain { return w.at(e) }, w}
}
