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
	"github.com/domainferry/domainferry/internal/report"
)

// FinishInput is the final round.
type FinishInput struct {
	Migration string `json:"migration"`
	Round     int    `json:"round"`
	Execution string `json:"execution"`
}

// FinishOutput is the execution's output.
type FinishOutput struct {
	Migration       string            `json:"migration"`
	Verdict         migration.Verdict `json:"verdict"`
	DowntimeSeconds float64           `json:"writeDowntimeSeconds"`
	WritableAt      time.Time         `json:"writableAt"`
	Rounds          int               `json:"rounds"`
	Next            string            `json:"next"`
	// Action is Wait as long as something goes on that the input waits for: Finish is to be asked again in WaitSeconds. Clients write.
	Action      migration.Action `json:"action"`
	WaitSeconds int              `json:"waitSeconds"`
	Waiting     string           `json:"waiting,omitempty"`
}

// FinishDomain is what handing over asks of the destination.
type FinishDomain interface {
	ClusterSettingsDomain
	settingsReader
	settingsUpdater
	indexLister
	ShardNumbers
	SnapshotDeleter
}

// Finish gives the destination its settings, lets it take writes, and closes the journal with the report.
type Finish struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) FinishDomain
	Clock   Clock
	Buckets Buckets
}

// Run is the state Finish. The journal says HandingOver before the first index is opened and HandedOver once all are, so that
// a thaw in between can tell which side has the last acknowledged write. Settings that no write depends on come last.
func (s Finish) Run(ctx context.Context, in FinishInput) (FinishOutput, error) {
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return FinishOutput{}, err
	}
	f, found, err := j.Freeze(ctx)
	if err != nil {
		return FinishOutput{}, err
	}
	if !found || f.Execution != in.Execution || f.State == journal.Thawed {
		return FinishOutput{}, fault.Newf(fault.Superseded, "hand over", p.Spec.Destination.Endpoint, "writes are not stopped on behalf of this execution")
	}
	first := f.State != journal.HandedOver
	if first {
		if f, err = s.handOver(ctx, j, p, f); err != nil {
			return FinishOutput{}, err
		}
	}
	// Before the replicas fill: their recovery must not crowd out the clients that are there now.
	p.Warnings = append(p.Warnings, newUndoLog(j, s.Domain, s.Clock).reaching(s.Buckets).end(ctx, p.Spec.Source.Endpoint)...)
	if p.Spec.Mode == migration.GoBack {
		warnings, err := s.goneBack(ctx, j, p, f)
		if err != nil {
			return FinishOutput{}, err
		}
		p.Warnings = append(p.Warnings, warnings...)
	}
	if f.SettledAt.IsZero() {
		if f, err = settle(ctx, j, s.Domain(p.Spec.Source), s.Domain(p.Spec.Destination), p, f, s.Clock); err != nil {
			return FinishOutput{}, err
		}
	}
	after, f, err := s.afterwards(ctx, j, p, f, first)
	if err != nil {
		return FinishOutput{}, err
	}
	p.Warnings = append(p.Warnings, after.warnings...)
	return s.report(ctx, j, p, f, after)
}

// handOver opens the destination. What its writes depend on is set before, everything else after: each change of settings is write
// downtime.
func (s Finish) handOver(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze) (journal.Freeze, error) {
	destination := s.Domain(p.Spec.Destination)
	if err := endReplay(ctx, j, s.Domain(p.Spec.Source), destination, p); err != nil {
		return f, err
	}
	if f.State != journal.HandingOver {
		var sealed map[string][]cluster.ShardSequence
		group, groupCtx := errgroup.WithContext(ctx)
		group.Go(func() (err error) { sealed, err = destination.SequenceNumbers(groupCtx, p.Names()...); return err })
		group.Go(func() error { return stillPlanned(groupCtx, s.Domain(p.Spec.Source), p, "hand over") })
		group.Go(func() error { return stillQuiet(groupCtx, s.Domain(p.Spec.Source), p, f) })
		if err := group.Wait(); err != nil {
			return f, err
		}
		f.Sealed, f.SealedAs, f.State = maxSeqNos(sealed), identities(sealed), journal.HandingOver
		if err := j.SaveFreeze(ctx, f); err != nil {
			return f, err
		}
	}
	if _, err := setBlocks(ctx, destination, opened(p, f)); err != nil {
		return f, err
	}
	f.State, f.EndedAt = journal.HandedOver, s.Clock.Now()
	return f, j.SaveFreeze(ctx, f)
}

// ShardNumbers is how far a domain's shards have come.
type ShardNumbers interface {
	SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error)
}

// stillQuiet makes sure that clients which the operator stopped have stayed so: nothing else has kept them from writing.
func stillQuiet(ctx context.Context, source ShardNumbers, p migration.Plan, f journal.Freeze) error {
	if !f.NotBlocked {
		return nil
	}
	now, err := source.SequenceNumbers(ctx, p.Names()...)
	if err != nil {
		return err
	}
	var moved []string
	numbers := maxSeqNos(now)
	for _, x := range p.Indices {
		if !slices.Equal(numbers[x.Name], f.Proven[x.Name]) {
			moved = append(moved, x.Name)
		}
	}
	if len(moved) > 0 {
		return fault.Newf(fault.FreezeUnproven, "hand over", p.Spec.Source.Endpoint, "clients that were to be stopped by the operator have written to %s since", strings.Join(bounded(moved), ", "))
	}
	return nil
}

func maxSeqNos(sequences map[string][]cluster.ShardSequence) map[string][]int64 {
	m := map[string][]int64{}
	for index, shards := range sequences {
		for _, s := range shards {
			m[index] = append(m[index], s.MaxSeqNo)
		}
	}
	return m
}

// identities are which indices, and which histories of their shards, the numbers are of.
func identities(sequences map[string][]cluster.ShardSequence) map[string]journal.Identity {
	m := map[string]journal.Identity{}
	for index, shards := range sequences {
		var id journal.Identity
		for _, s := range shards {
			id.UUID = s.IndexUUID
			id.Histories = append(id.Histories, s.HistoryUUID)
		}
		m[index] = id
	}
	return m
}

// report records what the cut-over took and writes the report.
func (s Finish) report(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze, after afterwards) (FinishOutput, error) {
	took, err := measured(ctx, j, f)
	if err != nil {
		return FinishOutput{}, err
	}
	if err := saveCutOver(ctx, j, took); err != nil {
		return FinishOutput{}, err
	}
	r, err := s.collect(ctx, j, p)
	if err != nil {
		return FinishOutput{}, err
	}
	r.WriteDowntime.MeasuredSeconds = took.Total
	r.Green, r.DeletedSnapshots = after.green, after.deleted
	var d migration.Decision
	if _, err := j.Document(ctx, journal.DecisionFile, &d); err != nil {
		return FinishOutput{}, err
	}
	r.Phases = report.Phases(d.Prediction, took)
	if d.Prediction != nil {
		r.WriteDowntime.PredictedSeconds, r.WriteDowntime.PredictedLow, r.WriteDowntime.PredictedHigh = &d.Prediction.Seconds, &d.Prediction.Low, &d.Prediction.High
	}
	if r.Indices, err = indices(ctx, j, p, f); err != nil {
		return FinishOutput{}, err
	}
	if r.OpenSource, err = openSource(ctx, j, p, f); err != nil {
		return FinishOutput{}, err
	}
	out := FinishOutput{
		Migration: r.Migration, Verdict: r.Verdict, DowntimeSeconds: seconds(f.StartedAt, f.EndedAt), WritableAt: f.EndedAt, Rounds: len(r.Rounds),
		Action: migration.Done, WaitSeconds: after.wait, Waiting: after.waiting,
		Next: "Point the clients at the destination; the source keeps its data and its write block until you retire it.",
	}
	if after.wait > 0 {
		out.Action = migration.WaitFirst
	}
	switch {
	case p.Spec.Mode == migration.GoBack:
		out.Next, r.WentBack = afterWayBack, true
	case f.NotBlocked:
		out.Next = "Point the clients at the destination before you start them; the source keeps its data and is not blocked."
	}
	return out, j.SaveDocument(ctx, journal.ReportFile, r)
}

// openSource are the requests that let the source take writes again, a line each.
func openSource(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze) (string, error) {
	var lines []string
	if !f.NotBlocked {
		lines = append(lines, fmt.Sprintf(`PUT %s/%s/_settings {"index.blocks.write": null}`, p.Spec.Source.Endpoint, strings.Join(p.Names(), ",")))
	}
	list, err := j.UndoLog(ctx)
	for _, u := range list {
		if u.LeftAlone == keptOnPurpose {
			lines = append(lines, byHand(u))
		}
	}
	return strings.Join(lines, "\n"), err
}

// collect reads what the journal holds of the migration.
func (s Finish) collect(ctx context.Context, j *journal.Journal, p migration.Plan) (report.Report, error) {
	r := report.Report{
		Migration: p.Spec.Migration, Execution: p.Execution, Engines: p.Engines, StartedAt: p.CreatedAt, FinishedAt: s.Clock.Now(),
		LeftOut: p.LeftOut, Warnings: p.Warnings,
	}
	var v migration.Verification
	if _, err := j.Document(ctx, journal.VerificationFile, &v); err != nil {
		return r, err
	}
	r.Verdict, r.Checks = v.Verdict, v.Checks
	var err error
	if r.Rounds, err = j.Rounds(ctx); err != nil {
		return r, err
	}
	r.RestoreBytes = report.RestoreErrors(r.Rounds)
	if r.Passes, err = j.Passes(ctx); err != nil {
		return r, err
	}
	r.Changes, err = j.Changes(ctx)
	return r, err
}

// indices says of each index how its last changes travelled.
func indices(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze) ([]report.Index, error) {
	strategies, err := j.Strategies(ctx)
	if err != nil {
		return nil, err
	}
	holds, err := j.Holds(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]report.Index, len(p.Indices))
	for n, x := range p.Indices {
		i := report.Index{Name: x.Name, Docs: x.Docs, Bytes: x.Bytes, LastMile: migration.LastMileRounds}
		if slices.Contains(f.Unchanged, x.Name) {
			i.UnchangedSince = holds[x.Name].Round
		}
		for _, o := range strategies.Replay {
			if o.Index == x.Name {
				i.LastMile, i.Reason = migration.LastMileReplay, o.Reason
			}
		}
		for _, d := range strategies.Dropped {
			if d.Name == x.Name {
				i.Reason = "back from replay: " + d.Reason
			}
		}
		list[n] = i
	}
	return list, nil
}
