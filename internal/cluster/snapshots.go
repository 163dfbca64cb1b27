package cluster

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
)

// Repository is a registration of a snapshot repository.
type Repository struct {
	Type     string            // "s3", "fs"...
	Settings map[string]string // flat, all values as text, as the engines keep them
}

func (c *Client) snapshotPath(op string, names ...string) (string, error) {
	path := "/_snapshot"
	for i, n := range names {
		if err := c.checkName(op, []string{"repository", "snapshot"}[i], n); err != nil {
			return "", err
		}
		path += "/" + url.PathEscape(n)
	}
	return path, nil
}

// Repository returns the registration of name; found is false when there is none.
func (c *Client) Repository(ctx context.Context, name string) (repository Repository, found bool, err error) {
	op := "read repository " + name
	path, err := c.snapshotPath(op, name)
	if err != nil {
		return Repository{}, false, err
	}
	var a map[string]struct {
		Type     string         `json:"type"`
		Settings map[string]any `json:"settings"`
	}
	if err := c.do(ctx, call{op: op, method: "GET", path: path, limit: smallAnswer}, &a); err != nil {
		if isMissing(err, "repository_missing_exception") {
			return Repository{}, false, nil
		}
		return Repository{}, false, err
	}
	r, found := a[name]
	if !found {
		return Repository{}, false, fault.Newf(fault.Unclassified, op, c.endpoint, "the answer does not speak of the repository")
	}
	repository = Repository{Type: r.Type, Settings: map[string]string{}}
	flatten("", r.Settings, repository.Settings, 0)
	return repository, true, nil
}

// PutRepository registers or re-registers a repository; the nodes verify it. fault.Busy while a snapshot or restore uses it,
// fault.RepositoryRefused when the nodes cannot use it. On an engine before 7.x a failed verification may leave it registered.
func (c *Client) PutRepository(ctx context.Context, name string, repository Repository) error {
	op := "register repository " + name
	path, err := c.snapshotPath(op, name)
	if err != nil {
		return err
	}
	settings := repository.Settings
	if settings == nil {
		settings = map[string]string{}
	}
	return c.change(ctx, call{op: op, method: "PUT", path: path, body: map[string]any{"type": repository.Type, "settings": settings}})
}

// RunningSnapshot is a snapshot that is being taken.
type RunningSnapshot struct{ Repository, Name, State string }

// RunningSnapshots lists the snapshots that run now in any repository, the service's own ones included.
func (c *Client) RunningSnapshots(ctx context.Context) ([]RunningSnapshot, error) {
	var a struct {
		Snapshots []snapshotStatus `json:"snapshots"`
	}
	if err := c.do(ctx, call{op: "list running snapshots", method: "GET", path: "/_snapshot/_status"}, &a); err != nil {
		return nil, err
	}
	var running []RunningSnapshot
	for _, s := range a.Snapshots {
		running = append(running, RunningSnapshot{s.Repository, s.Snapshot, s.State})
	}
	return running, nil
}

// The states of Snapshot.State.
const (
	SnapshotInProgress = "IN_PROGRESS"
	SnapshotSuccess    = "SUCCESS"
	SnapshotPartial    = "PARTIAL"
	SnapshotFailed     = "FAILED"
)

// Snapshot is a snapshot as the repository tells it.
type Snapshot struct {
	Name    string
	UUID    string
	State   string   // SnapshotInProgress, SnapshotSuccess, SnapshotPartial, SnapshotFailed, "INCOMPATIBLE"
	Version string   // of the engine that took it
	Indices []string // backing indices of data streams included
	// DataStreams are those that the snapshot holds whole; a snapshot of backing indices by their names holds none.
	DataStreams []string
	Shards      ShardCounts
	Failures    []ShardFailure
	// StartTime and EndTime are in UTC; EndTime is zero while the snapshot runs.
	StartTime, EndTime time.Time
	Metadata           map[string]any // as given to CreateSnapshot; nil before 7.3
}

// ShardCounts counts the shards of a snapshot.
type ShardCounts struct{ Total, Successful, Failed int }

// ShardFailure is a shard that a snapshot does not hold.
type ShardFailure struct {
	Index  string
	Shard  int
	Node   string // id; empty when the shard was on none
	Reason string
}

// Snapshot returns a snapshot by name. found is false only when the repository says that there is none of this name; a missing
// repository, or a snapshot that is listed but whose objects are gone, is an error.
func (c *Client) Snapshot(ctx context.Context, repository, name string) (snapshot Snapshot, found bool, err error) {
	op := "read snapshot " + repository + "/" + name
	path, err := c.snapshotPath(op, repository, name)
	if err != nil {
		return Snapshot{}, false, err
	}
	var a struct {
		Snapshots []struct {
			Snapshot string      `json:"snapshot"`
			UUID     string      `json:"uuid"`
			State    string      `json:"state"`
			Version  string      `json:"version"`
			Indices  []string    `json:"indices"`
			Streams  []string    `json:"data_streams"`
			Shards   ShardCounts `json:"shards"`
			Failures []struct {
				Index  string `json:"index"`
				Shard  int    `json:"shard_id"`
				Node   string `json:"node_id"`
				Reason string `json:"reason"`
			} `json:"failures"`
			Start    int64          `json:"start_time_in_millis"`
			End      int64          `json:"end_time_in_millis"`
			Metadata map[string]any `json:"metadata"`
		} `json:"snapshots"`
	}
	if err := c.do(ctx, call{op: op, method: "GET", path: path}, &a); err != nil {
		if snapshotMissing(err) {
			return Snapshot{}, false, nil
		}
		return Snapshot{}, false, err
	}
	for _, s := range a.Snapshots {
		if s.Snapshot != name {
			continue
		}
		snapshot = Snapshot{
			Name: s.Snapshot, UUID: s.UUID, State: s.State, Version: s.Version, Indices: s.Indices, DataStreams: s.Streams, Shards: s.Shards,
			StartTime: millis(s.Start), EndTime: millis(s.End), Metadata: s.Metadata,
		}
		for _, f := range s.Failures {
			snapshot.Failures = append(snapshot.Failures, ShardFailure(f))
		}
		return snapshot, true, nil
	}
	return Snapshot{}, false, fault.Newf(fault.Unclassified, op, c.endpoint, "the answer does not speak of the snapshot")
}

// snapshotMissing reports whether err says that no snapshot has the name. A listed snapshot whose object is gone is answered with
// the same type, caused by the missing object: that one is classified as fault.RepositoryCorrupt.
func snapshotMissing(err error) bool {
	return isMissing(err, "snapshot_missing_exception") && !fault.Is(err, fault.RepositoryCorrupt)
}

func millis(n int64) time.Time {
	if n <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(n).UTC()
}

// SnapshotRequest says what a snapshot is to hold.
type SnapshotRequest struct {
	Indices  []string       // explicit names of indices, closed ones not included, and of data streams
	Metadata map[string]any // kept with the snapshot; not sent to engines before 7.3, which refuse it
}

// CreateSnapshot starts a snapshot and does not wait for it. fault.OutcomeUnknown: look with Snapshot before asking again.
// NameTaken tells whether the refusal is about the name.
func (c *Client) CreateSnapshot(ctx context.Context, repository, name string, request SnapshotRequest) error {
	op := "create snapshot " + repository + "/" + name
	path, err := c.snapshotPath(op, repository, name)
	if err != nil {
		return err
	}
	if err := c.checkNames(op, request.Indices); err != nil {
		return err
	}
	version, err := c.engine(ctx)
	if err != nil {
		return err
	}
	body := map[string]any{
		"indices":              strings.Join(unique(request.Indices), ","),
		"include_global_state": false,
		"partial":              false,
		"ignore_unavailable":   false,
	}
	if len(request.Metadata) > 0 && version.AtLeast(Elasticsearch, 7, 3) {
		body["metadata"] = request.Metadata
	}
	return c.accept(ctx, call{op: op, method: "PUT", path: path, body: body})
}

// accept sends a request that the engines accept and go on with, {"accepted":true}. Another answer says nothing of the outcome.
func (c *Client) accept(ctx context.Context, r call) error {
	r.mutating, r.limit = true, smallAnswer
	var a struct {
		Accepted bool `json:"accepted"`
	}
	if err := c.do(ctx, r, &a); err != nil {
		return err
	}
	if !a.Accepted {
		return fault.Newf(fault.OutcomeUnknown, r.op, c.endpoint, "the answer does not say that the request was accepted")
	}
	return nil
}

// DeleteSnapshot deletes a snapshot, or aborts it while it runs. A missing one is no error.
func (c *Client) DeleteSnapshot(ctx context.Context, repository, name string) error {
	op := "delete snapshot " + repository + "/" + name
	path, err := c.snapshotPath(op, repository, name)
	if err != nil {
		return err
	}
	err = c.change(ctx, call{op: op, method: "DELETE", path: path})
	if snapshotMissing(err) {
		return nil
	}
	return err
}

// Progress is how far a snapshot is. Bytes and files are those that this snapshot adds to the repository (incremental), done so far
// (processed), and that it refers to in all (total). Incremental grows while shards initialize, so estimates hold only once
// ShardsInitializing is 0. State is in the vocabulary of _status ("INIT", "STARTED", "SUCCESS"...) and says SUCCESS too early, and
// for PARTIAL too on some engines: Snapshot alone tells the outcome.
type Progress struct {
	State string
	IndexProgress
	Indices map[string]IndexProgress
	// Shards are by index and shard.
	Shards []ShardProgress
}

// ShardProgress is what a snapshot adds to the repository for one shard.
type ShardProgress struct {
	Index string
	Shard int
	Bytes int64
	Start time.Time // UTC; zero when the shard had nothing to do
	Took  time.Duration
}

// IndexProgress is Progress of one index.
type IndexProgress struct {
	ShardsTotal, ShardsDone, ShardsFailed, ShardsInitializing      int
	IncrementalFiles, IncrementalBytes, ProcessedBytes, TotalBytes int64
}

type snapshotStatus struct {
	Snapshot   string `json:"snapshot"`
	Repository string `json:"repository"`
	State      string `json:"state"`
	statusCounts
	Indices map[string]struct {
		statusCounts
		Shards map[string]struct {
			Stats struct {
				Incremental fileCount `json:"incremental"`
				Start       int64     `json:"start_time_in_millis"`
				Millis      int64     `json:"time_in_millis"`
			} `json:"stats"`
		} `json:"shards"`
	} `json:"indices"`
}

type statusCounts struct {
	Counts struct {
		Initializing int `json:"initializing"`
		Done         int `json:"done"`
		Failed       int `json:"failed"`
		Total        int `json:"total"`
	} `json:"shards_stats"`
	Stats struct {
		Incremental fileCount  `json:"incremental"`
		Processed   *fileCount `json:"processed"`
		Total       fileCount  `json:"total"`
	} `json:"stats"`
}

type fileCount struct {
	Files int64 `json:"file_count"`
	Bytes int64 `json:"size_in_bytes"`
}

func (s statusCounts) progress() IndexProgress {
	p := IndexProgress{
		ShardsTotal: s.Counts.Total, ShardsDone: s.Counts.Done, ShardsFailed: s.Counts.Failed, ShardsInitializing: s.Counts.Initializing,
		IncrementalFiles: s.Stats.Incremental.Files, IncrementalBytes: s.Stats.Incremental.Bytes, TotalBytes: s.Stats.Total.Bytes,
	}
	switch {
	case s.Stats.Processed != nil:
		p.ProcessedBytes = s.Stats.Processed.Bytes
	case s.Counts.Done+s.Counts.Failed == s.Counts.Total:
		// "processed" is left out once all is done.
		p.ProcessedBytes = p.IncrementalBytes
	}
	return p
}

// SnapshotProgress returns the progress of a running snapshot, or the sizes of a finished one (costly: the engine reads one object
// a shard). found is false when there is no such snapshot.
func (c *Client) SnapshotProgress(ctx context.Context, repository, name string) (progress Progress, found bool, err error) {
	op := "read the progress of snapshot " + repository + "/" + name
	path, err := c.snapshotPath(op, repository, name)
	if err != nil {
		return Progress{}, false, err
	}
	var a struct {
		Snapshots []snapshotStatus `json:"snapshots"`
	}
	if err := c.do(ctx, call{op: op, method: "GET", path: path + "/_status"}, &a); err != nil {
		if snapshotMissing(err) {
			return Progress{}, false, nil
		}
		return Progress{}, false, err
	}
	for _, s := range a.Snapshots {
		if s.Snapshot != name {
			continue
		}
		progress = Progress{State: s.State, IndexProgress: s.progress(), Indices: make(map[string]IndexProgress, len(s.Indices))}
		for index, counts := range s.Indices {
			progress.Indices[index] = counts.progress()
			for id, shard := range counts.Shards {
				var n numbers
				number := int(n.read(id))
				if n.err != nil {
					return Progress{}, false, fault.Newf(fault.Unclassified, op, c.endpoint, "a shard of index %s: %w", excerpt(index, 255), n.err)
				}
				progress.Shards = append(progress.Shards, ShardProgress{index, number, shard.Stats.Incremental.Bytes, millis(shard.Stats.Start), time.Duration(shard.Stats.Millis) * time.Millisecond})
			}
		}
		slices.SortFunc(progress.Shards, func(a, b ShardProgress) int {
			return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Shard, b.Shard))
		})
		return progress, true, nil
	}
	return Progress{}, false, nil
}

// RestoreRequest says what to restore and how.
type RestoreRequest struct {
	Indices        []string       // explicit names of indices and data streams; an existing index must be closed
	IncludeAliases bool           // false: an existing index keeps its own aliases
	IgnoreSettings []string       // settings of the snapshot to drop; simple wildcards are allowed
	Settings       map[string]any // settings to override, flat keys; wins over IgnoreSettings
}

// Restore starts a restore and does not wait for it; watch it by Recoveries and Shards. Acceptance says nothing of the outcome.
// fault.OutcomeUnknown: look at Recoveries before asking again.
func (c *Client) Restore(ctx context.Context, repository, name string, request RestoreRequest) error {
	op := "restore snapshot " + repository + "/" + name
	path, err := c.snapshotPath(op, repository, name)
	if err != nil {
		return err
	}
	if err := c.checkNames(op, request.Indices); err != nil {
		return err
	}
	body := map[string]any{
		"indices":              strings.Join(unique(request.Indices), ","),
		"include_global_state": false,
		"include_aliases":      request.IncludeAliases,
		"partial":              false,
		"ignore_unavailable":   false,
	}
	if len(request.IgnoreSettings) > 0 {
		body["ignore_index_settings"] = request.IgnoreSettings
	}
	if len(request.Settings) > 0 {
		body["index_settings"] = request.Settings
	}
	return c.accept(ctx, call{op: op, method: "POST", path: path + "/_restore", body: body})
}
