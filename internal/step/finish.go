package step

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

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
}

// FinishDomain is what handing over asks of the destination.
type FinishDomain interface {
	UpdateSettings(ctx context.Context, settings map[string]any, indices ...string) error
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
	r := report.Report{
		Migration: p.Spec.Migration, Execution: p.Execution, Verdict: v.Verdict, Engines: p.Engines, StartedAt: p.CreatedAt, FinishedAt: s.Clock.Now(),
		WriteDowntime: report.WriteDowntime{PredictedSeconds: f.Prediction, MeasuredSeconds: &downtime},
		Rounds:        rounds, LeftOut: p.LeftOut, Warnings: p.Warnings, Checks: v.Checks,
		OpenSource: fmt.Sprintf(`PUT %s/%s/_settings {"index.blocks.write": null}`, p.Spec.Source.Endpoint, strings.Join(p.Names(), ",")),
	}
	for _, x := range p.Indices {
		r.Indices = append(r.Indices, report.Index{Name: x.Name, Docs: x.Docs, Bytes: x.Bytes})
	}
	out := FinishOutput{
		Migration: r.Migration, Verdict: r.Verdict, DowntimeSeconds: downtime, WritableAt: f.EndedAt, Rounds: len(rounds),
		Next: "Point the clients at the destination; the source keeps its data and its write block until you retire it.",
	}
	return out, j.SaveDocument(ctx, journal.ReportFile, r)
}
