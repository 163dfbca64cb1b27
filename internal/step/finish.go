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

// handOver opens the destination. All that its indices end with is set before the first of them takes a write.
func (s Finish) handOver(ctx context.Context, j *journal.Journal, p migration.Plan, f journal.Freeze) (journal.Freeze, error) {
	destination := s.Domain(p.Spec.Destination)
	source, err := s.Domain(p.Spec.Source).IndexSettings(ctx, p.Names()...)
	if err != nil {
		return f, err
	}
	if err := setEqual(ctx, destination, finalSettings(p, source)); err != nil {
		return f, err
	}
	if f.State != journal.HandingOver {
		sealed, err := destination.SequenceNumbers(ctx, p.Names()...)
		if err != nil {
			return f, err
		}
		f.Sealed, f.State = maxSeqNos(sealed), journal.HandingOver
		if err := j.SaveFreeze(ctx, f); err != nil {
			return f, err
		}
	}
	if _, err := setBlocks(ctx, destination, f.Before); err != nil {
		return f, err
	}
	f.State, f.EndedAt = journal.HandedOver, s.Clock.Now()
	return f, j.SaveFreeze(ctx, f)
}

// finalSettings are what each index ends with: replicas and refresh as planned, and as at the source what was off while documents were
// replayed (pipelines, the memory of deletions).
func finalSettings(p migration.Plan, source map[string]map[string]string) map[string]map[string]any {
	final := make(map[string]map[string]any, len(p.Indices))
	for _, x := range p.Indices {
		settings := replay.Settings(source[x.Name], source[x.Name]).After
		delete(settings, "index.blocks.write") // opened last, all together
		settings["index.number_of_replicas"] = value(x.Replicas)
		settings["index.refresh_interval"] = value(x.RefreshInterval)
		settings["index.auto_expand_replicas"] = value(x.AutoExpand)
		final[x.Name] = settings
	}
	return final
}

// setEqual sets the settings of each index, those with equal settings in one request: each is a change of the cluster's state.
func setEqual(ctx context.Context, domain settingsUpdater, settings map[string]map[string]any) error {
	groups := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		key := fmt.Sprint(settings[name]) // maps are printed in the order of their keys
		groups[key] = append(groups[key], name)
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		if err := domain.UpdateSettings(ctx, settings[groups[key][0]], groups[key]...); err != nil {
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
