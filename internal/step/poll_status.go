package step

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// What PollStatus looks at.
const (
	pollSnapshot = "snapshot"
	pollRestore  = "restore"
)

// PollStatusInput names what is waited for and when it began.
type PollStatusInput struct {
	RoundInput
	What      string    `json:"what"` // "snapshot" or "restore"
	StartedAt time.Time `json:"startedAt"`
}

// PollStatusOutput is the state of a snapshot or a restore. Percent and bytes are what was observed; while shards are still
// being looked at the total may grow.
type PollStatusOutput struct {
	What        string                   `json:"what"`
	Round       int                      `json:"round"`
	Done        bool                     `json:"done"`
	StartAgain  bool                     `json:"startAgain"` // it vanished (node restarted); start it anew
	WaitSeconds int                      `json:"waitSeconds"`
	Percent     float64                  `json:"percent"`
	Bytes       int64                    `json:"bytes"`
	TotalBytes  int64                    `json:"totalBytes"`
	Snapshot    *migration.SnapshotPhase `json:"snapshot,omitempty"`
	Restore     *migration.RestorePhase  `json:"restore,omitempty"`
}

// PollStatusDomain is what polling asks of a domain.
type PollStatusDomain interface {
	Snapshot(ctx context.Context, repository, name string) (cluster.Snapshot, bool, error)
	SnapshotProgress(ctx context.Context, repository, name string) (cluster.Progress, bool, error)
	Recoveries(ctx context.Context, indices ...string) ([]cluster.ShardRecovery, error)
	Shards(ctx context.Context, indices ...string) ([]cluster.Shard, error)
	ExplainAllocation(ctx context.Context, index string, shard int, primary bool) (string, error)
}

// PollStatus asks once; inside the freeze it asks until the answer changes, for 20 seconds at most.
type PollStatus struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) PollStatusDomain
	Clock   Clock
}

// Run is the states PollSnapshot and PollRestore.
func (s PollStatus) Run(ctx context.Context, in PollStatusInput) (PollStatusOutput, error) {
	r, err := records(ctx, s.Journal, in.RoundInput)
	if err != nil {
		return PollStatusOutput{}, err
	}
	j, p := r.journal, r.inSnapshot()
	var once func() (PollStatusOutput, error)
	switch in.What {
	case pollSnapshot:
		domain := s.Domain(p.Spec.Source)
		once = func() (PollStatusOutput, error) { return s.snapshot(ctx, j, domain, p, in) }
	case pollRestore:
		domain := s.Domain(p.Spec.Destination)
		once = func() (PollStatusOutput, error) { return s.restore(ctx, j, domain, p, in) }
	default:
		return PollStatusOutput{}, fault.Newf(fault.InvalidInput, "poll", "$.what", `must be "snapshot" or "restore", is %q`, in.What)
	}
	deadline := s.Clock.Now().Add(longPoll)
	for pause := 20 * time.Millisecond; ; pause = min(pause*5/4, 200*time.Millisecond) {
		out, err := once()
		out.What, out.Round = in.What, in.Round
		if err != nil || out.Done || out.StartAgain {
			return out, err
		}
		if !in.Final || s.Clock.Now().After(deadline) {
			out.WaitSeconds = wait(in.RoundInput, in.StartedAt, s.Clock.Now())
			return out, nil
		}
		if err := s.Clock.Sleep(ctx, pause); err != nil {
			return out, err
		}
	}
}

// snapshot trusts only GET _snapshot for the outcome: _status says SUCCESS before the snapshot is finalised.
func (s PollStatus) snapshot(ctx context.Context, j *journal.Journal, domain PollStatusDomain, p migration.Plan, in PollStatusInput) (PollStatusOutput, error) {
	repository, name := p.Spec.RepositoryName(), migration.SnapshotName(in.Migration, in.Round)
	got, found, err := domain.Snapshot(ctx, repository, name)
	switch {
	case err != nil:
		return PollStatusOutput{}, err
	case !found:
		return PollStatusOutput{StartAgain: true}, nil
	}
	switch got.State {
	case cluster.SnapshotSuccess, cluster.SnapshotInProgress:
	default:
		return PollStatusOutput{}, snapshotFault(got, p)
	}
	if in.Final && got.State == cluster.SnapshotInProgress {
		return PollStatusOutput{}, nil // nobody watches the progress of a second
	}
	if i := slices.IndexFunc(got.Indices, func(name string) bool { _, planned := p.Index(name); return !planned }); in.Final && i >= 0 {
		// A data stream was rolled over since the freeze: it is in the snapshot whole, and would be restored whole.
		return PollStatusOutput{}, fault.Newf(fault.IndicesChanged, "take snapshot "+got.Name, p.Spec.Source.Endpoint, "it holds index %s, which is not planned: its data stream was rolled over while writes were stopped", got.Indices[i])
	}
	progress, _, err := domain.SnapshotProgress(ctx, repository, name)
	if err != nil {
		return PollStatusOutput{}, err
	}
	out := PollStatusOutput{Bytes: progress.ProcessedBytes, TotalBytes: progress.IncrementalBytes, Percent: percent(progress.ProcessedBytes, progress.IncrementalBytes)}
	if got.State == cluster.SnapshotInProgress {
		return out, nil
	}
	if got.Shards.Failed > 0 || len(got.Failures) > 0 {
		return out, snapshotFault(got, p)
	}
	out.Done, out.Percent, out.Bytes = true, 100, progress.IncrementalBytes
	out.Snapshot = &migration.SnapshotPhase{
		Name: got.Name, UUID: got.UUID, Shards: got.Shards.Total, Files: progress.IncrementalFiles, Bytes: progress.IncrementalBytes,
		TotalBytes: progress.TotalBytes, Seconds: seconds(got.StartTime, got.EndTime),
	}
	if in.Final {
		return out, nil // decisions are made of warm rounds
	}
	if out.Snapshot.Nodes, out.Snapshot.Slowest, err = snapshotShares(ctx, domain, p, progress); err != nil {
		return out, err
	}
	measures := map[string]migration.Measure{}
	for index, x := range progress.Indices {
		measures[index] = migration.Measure{Snapshot: x.IncrementalBytes}
	}
	return out, j.SaveMeasures(ctx, in.Round, measures)
}

func snapshotFault(got cluster.Snapshot, p migration.Plan) error {
	var shards []string
	for _, f := range got.Failures {
		shards = append(shards, fmt.Sprintf("%s[%d]: %s", f.Index, f.Shard, f.Reason))
	}
	return fault.Newf(fault.SnapshotFailed, "take snapshot "+got.Name, p.Spec.Source.Endpoint, "state %s, %d of %d shards failed: %s",
		got.State, got.Shards.Failed, got.Shards.Total, strings.Join(bounded(shards), "; "))
}

// bounded keeps a fault's list readable and under the service's 32 KiB.
func bounded(list []string) []string {
	const most = 20
	if len(list) > most {
		return append(slices.Clone(list[:most]), fmt.Sprintf("and %d more", len(list)-most))
	}
	return list
}

func percent(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(1000*part/whole) / 10
}

// restore is over when every primary of every planned index has been recovered from this round's snapshot and is started. The
// restore's own record in the cluster state proves nothing: it vanishes for failed shards too.
func (s PollStatus) restore(ctx context.Context, j *journal.Journal, domain PollStatusDomain, p migration.Plan, in PollStatusInput) (PollStatusOutput, error) {
	name := migration.SnapshotName(in.Migration, in.Round)
	var recoveries []cluster.ShardRecovery
	var shards []cluster.Shard
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { recoveries, err = domain.Recoveries(groupCtx, p.Names()...); return err })
	group.Go(func() (err error) { shards, err = domain.Shards(groupCtx, p.Names()...); return err })
	if err := group.Wait(); err != nil {
		return PollStatusOutput{}, err
	}
	var out PollStatusOutput
	started := map[string]int{}
	var waiting []cluster.Shard
	for _, sh := range shards {
		if !sh.Primary {
			continue
		}
		switch sh.State {
		case "STARTED", "RELOCATING":
			started[sh.Index]++
		case "UNASSIGNED":
			waiting = append(waiting, sh)
		}
	}
	if again, err := s.unassigned(ctx, domain, p, waiting); err != nil || again {
		return PollStatusOutput{StartAgain: again}, err
	}
	type shard struct {
		index  string
		number int
	}
	phase := migration.RestorePhase{Indices: len(p.Indices)}
	recovered, seen := map[string]int{}, map[shard]bool{}
	var first, last time.Time
	var work shares
	done := func(r cluster.ShardRecovery) {
		if id := (shard{r.Index, r.Shard}); r.Stage == "DONE" && !seen[id] {
			seen[id] = true
			recovered[r.Index]++
		}
	}
	for _, r := range recoveries {
		// A primary that the domain has moved to another node since shows that move only.
		if r.Primary && r.Type == "PEER" && r.StartTime.After(in.StartedAt) {
			done(r)
		}
		// One whose node was restarted since shows that alone: whether its restore was over by then is not known.
		if r.Primary && r.Type == "EXISTING_STORE" && r.StartTime.After(in.StartedAt) {
			return PollStatusOutput{StartAgain: true}, nil
		}
		if !r.Primary || r.Type != "SNAPSHOT" || r.Snapshot != name {
			continue
		}
		phase.Shards++
		phase.ReusedBytes += r.ReusedBytes
		phase.RecoveredBytes += r.RecoveredBytes
		out.TotalBytes += r.TotalBytes - r.ReusedBytes
		if first.IsZero() || r.StartTime.Before(first) {
			first = r.StartTime
		}
		if r.StopTime.After(last) {
			last = r.StopTime
		}
		work.add(r.Node, r.Index, r.Shard, r.RecoveredBytes, r.StartTime, r.StopTime)
		done(r)
	}
	out.Bytes, out.Percent = phase.RecoveredBytes, percent(phase.RecoveredBytes, out.TotalBytes)
	for _, x := range p.Indices {
		if recovered[x.Name] < x.Shards || started[x.Name] < x.Shards {
			return out, nil
		}
	}
	phase.Bytes = phase.RecoveredBytes
	// By the domain's own clock where it tells: without the pauses between polls, which a final round does not have.
	if phase.Seconds = seconds(in.StartedAt, s.Clock.Now()); !first.IsZero() && last.After(first) {
		phase.Seconds = min(phase.Seconds, seconds(first, last))
	}
	phase.Nodes, phase.Slowest = work.nodes(), work.slowest()
	out.Done, out.Percent, out.Restore = true, 100, &phase
	if in.Final {
		return out, nil
	}
	return out, saveRestored(ctx, j, in.Round, name, recoveries)
}

// saveRestored adds what the restore moved of each index to the round's measures.
func saveRestored(ctx context.Context, j *journal.Journal, round int, snapshot string, recoveries []cluster.ShardRecovery) error {
	measures, err := j.Measures(ctx, round)
	if err != nil {
		return err
	}
	for index, m := range measures {
		m.Recovered, m.Reused = 0, 0
		measures[index] = m
	}
	for _, r := range recoveries {
		if r.Primary && r.Type == "SNAPSHOT" && r.Snapshot == snapshot {
			m := measures[r.Index]
			m.Recovered += r.RecoveredBytes
			m.Reused += r.ReusedBytes
			measures[r.Index] = m
		}
	}
	return j.SaveMeasures(ctx, round, measures)
}

// mostExplained bounds the questions of one poll: of thousands of shards most wait for their turn.
const mostExplained = 10

// unassigned tells shards that wait their turn from those whose restore was cut off by a lost node (start again) and from those
// that the domain has given up (fault with its reason).
func (s PollStatus) unassigned(ctx context.Context, domain PollStatusDomain, p migration.Plan, waiting []cluster.Shard) (startAgain bool, err error) {
	var failed, queued []cluster.Shard
	for _, sh := range waiting {
		switch sh.UnassignedReason {
		case "CLUSTER_RECOVERED", "NODE_LEFT":
			return true, nil
		case "ALLOCATION_FAILED":
			failed = append(failed, sh)
		case "EXISTING_INDEX_RESTORED", "NEW_INDEX_RESTORED":
			queued = append(queued, sh)
		}
	}
	doubtful := append(failed, queued...)
	for _, sh := range doubtful[:min(mostExplained, len(doubtful))] {
		why, err := domain.ExplainAllocation(ctx, sh.Index, sh.Shard, true)
		if err != nil {
			return false, err
		}
		// The deciders' words for "no further attempt will be made" (RestoreInProgressAllocationDecider, MaxRetryAllocationDecider).
		for _, final := range []string{"in order to retry", "exceeded the maximum number of retries"} {
			if strings.Contains(why, final) {
				return false, fault.Newf(fault.RestoreFailed, "restore shard "+fmt.Sprintf("%s[%d]", sh.Index, sh.Shard), p.Spec.Destination.Endpoint, "%s", why)
			}
		}
	}
	return false, nil
}
