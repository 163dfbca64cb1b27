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
	rounds, err := j.Rounds(ctx)
	if err != nil {
		return DecideOutput{}, err
	}
	out := DecideOutput{Decision: migration.Decide(p.Spec, p.Execution, rounds), NextRound: in.Round + 1,
		CutoverTimeoutSeconds: int((time.Duration(p.Spec.DowntimeWindow) + grace).Seconds())}
	return out, j.SaveDocument(ctx, journal.DecisionFile, out.Decision)
}
