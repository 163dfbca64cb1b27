package step

import (
	"context"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// DecideInput is the round that has just been recorded.
type DecideInput struct {
	Migration string `json:"migration"`
	Round     int    `json:"round"`
	Execution string `json:"execution"`
}

// DecideOutput is the decision and the number of the round that would come next.
type DecideOutput struct {
	migration.Decision
	NextRound int `json:"nextRound"`
	// ByRounds and ByReplay say which of the two have indices to bring up to date next.
	ByRounds bool `json:"byRounds"`
	ByReplay bool `json:"byReplay"`
	// CutoverTimeoutSeconds is how long the final round may take before writes are given back.
	CutoverTimeoutSeconds int `json:"cutoverTimeoutSeconds"`
}

// grace is added to the downtime window before an overrunning final round is given up: a prediction may be a little short, and
// what is nearly done is better finished.
const grace = 5 * time.Minute

// Decide says whether to warm again, wait, cut over or stop.
type Decide struct {
	Journal *journal.Store
}

// Run is the state Decide.
func (s Decide) Run(ctx context.Context, in DecideInput) (DecideOutput, error) {
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return DecideOutput{}, err
	}
	h, err := history(ctx, j)
	if err != nil {
		return DecideOutput{}, err
	}
	all := h.Strategies
	h.Strategies = all.Within(p)
	out := DecideOutput{Decision: migration.Decide(p.Spec, p.Execution, len(p.Indices), h), NextRound: in.Round + 1,
		CutoverTimeoutSeconds: int((time.Duration(p.Spec.DowntimeWindow) + grace).Seconds())}
	if len(out.Switch) > 0 {
		all.Replay = append(all.Replay, out.Switch...)
		if err := j.SaveStrategies(ctx, all); err != nil {
			return out, err
		}
	}
	rounds, replayed := all.Split(p)
	out.ByRounds, out.ByReplay = len(rounds) > 0, len(replayed) > 0
	return out, j.SaveDocument(ctx, journal.DecisionFile, out.Decision)
}

func history(ctx context.Context, j *journal.Journal) (h migration.History, err error) {
	if h.Rounds, err = j.Rounds(ctx); err != nil {
		return h, err
	}
	if h.Passes, err = j.Passes(ctx); err != nil {
		return h, err
	}
	if h.Strategies, err = j.Strategies(ctx); err != nil {
		return h, err
	}
	for i := len(h.Rounds) - 1; i >= 0; i-- {
		if !h.Rounds[i].Final {
			h.Measures, err = j.Measures(ctx, h.Rounds[i].Number)
			break
		}
	}
	return h, err
}
