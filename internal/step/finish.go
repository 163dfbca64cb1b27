package step

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
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
}

// FinishDomain is what handing over asks of the destination.
type FinishDomain interface {
	UpdateSettings(ctx context.Context, settings map[string]any, indices ...string) error
	SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error)
	IndexSettings(ctx context.Context, indices ...string) (map[string]map[string]string, error)
}

// Finish gives the destination its settings, lets it take writes, and closes the journal with the report.
type Finish struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) FinishDomain
	Clock   Clock
}

// Run is the state Finish. The journal says HandingOver before the first index is opened and HandedOver once all are, so that
// a thaw in between can tell which side has the last acknowledged write.
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
	if f.State != journal.HandedOver {
		if f, err = s.handOver(ctx, j, p, f); err != nil {
			return FinishOutput{}, err
		}
	}
	return s.report(ctx, j, p, f)
}

func (s Finish) handOver(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze) (journal.Freeze, error) {
	domain := s.Domain(p.Spec.Destination)
	type end struct{ replicas, autoExpand, refresh string }
	groups := map[end][]string{}
	for _, x := range p.Indices {
		e := end{x.Replicas, x.AutoExpand, x.RefreshInterval}
		groups[e] = append(groups[e], x.Name)
	}
	ends := slices.SortedFunc(maps.Keys(groups), func(a, b end) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	for _, e := range ends {
		settings := map[string]any{"index.number_of_replicas": value(e.replicas), "index.refresh_interval": value(e.refresh), "index.auto_expand_replicas": value(e.autoExpand)}
		if err := domain.UpdateSettings(ctx, settings, groups[e]...); err != nil {
			return f, err
		}
	}
	if err := s.endReplay(ctx, j, domain, p); err != nil {
		return f, err
	}
	sealed, err := domain.SequenceNumbers(ctx, p.Names()...)
	if err != nil {
		return f, err
	}
	if f.State != journal.HandingOver {
		f.Sealed = maxSeqNos(sealed)
	}
	f.State = journal.HandingOver
	if err := j.SaveFreeze(ctx, f); err != nil {
		return f, err
	}
	if _, err := setBlocks(ctx, domain, f.Before); err != nil {
		return f, err
	}
	f.State, f.EndedAt = journal.HandedOver, s.Clock.Now()
	return f, j.SaveFreeze(ctx, f)
}

// endReplay gives replayed indices the settings back that were off while documents were replayed: pipelines, the memory of
// deletions.
func (s Finish) endReplay(ctx context.Context, j *journal.Journal, destination FinishDomain, p migration.Plan) error {
	strategies, err := j.Strategies(ctx)
	if err != nil {
		return err
	}
	_, indices := strategies.Split(p)
	if len(indices) == 0 {
		return nil
	}
	source, err := s.Domain(p.Spec.Source).IndexSettings(ctx, indexNames(indices)...)
	if err != nil {
		return err
	}
	for _, x := range indices {
		after := replay.Settings(source[x.Name], source[x.Name]).After
		delete(after, "index.blocks.write") // opened below, with the others
		if err := destination.UpdateSettings(ctx, after, x.Name); err != nil {
			return err
		}
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

// value is a setting to send: null puts the engine's default back.
func value(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (s Finish) report(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze) (FinishOutput, error) {
	rounds, err := j.Rounds(ctx)
	if err != nil {
		return FinishOutput{}, err
	}
	var v migration.Verification
	if _, err := j.Document(ctx, journal.VerificationFile, &v); err != nil {
		return FinishOutput{}, err
	}
	downtime := seconds(f.StartedAt, f.EndedAt)
	passes, err := j.Passes(ctx)
	if err != nil {
		return FinishOutput{}, err
	}
	strategies, err := j.Strategies(ctx)
	if err != nil {
		return FinishOutput{}, err
	}
	r := report.Report{
		Migration: p.Spec.Migration, Execution: p.Execution, Verdict: v.Verdict, Engines: p.Engines, StartedAt: p.CreatedAt, FinishedAt: s.Clock.Now(),
		WriteDowntime: report.WriteDowntime{PredictedSeconds: f.Prediction, MeasuredSeconds: &downtime},
		Rounds:        rounds, Passes: passes, LeftOut: p.LeftOut, Warnings: p.Warnings, Checks: v.Checks,
		OpenSource: fmt.Sprintf(`PUT %s/%s/_settings {"index.blocks.write": null}`, p.Spec.Source.Endpoint, strings.Join(p.Names(), ",")),
	}
	for _, x := range p.Indices {
		i := report.Index{Name: x.Name, Docs: x.Docs, Bytes: x.Bytes, LastMile: migration.LastMileRounds}
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
		r.Indices = append(r.Indices, i)
	}
	out := FinishOutput{
		Migration: r.Migration, Verdict: r.Verdict, DowntimeSeconds: downtime, WritableAt: f.EndedAt, Rounds: len(rounds),
		Next: "Point the clients at the destination; the source keeps its data and its write block until you retire it.",
	}
	return out, j.SaveDocument(ctx, journal.ReportFile, r)
}
