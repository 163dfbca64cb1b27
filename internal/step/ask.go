package step

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// AskInput is a decision that is the operator's, and the token by which the operator answers.
type AskInput struct {
	Migration string `json:"migration"`
	Round     int    `json:"round"`
	Execution string `json:"execution"`
	TaskToken string `json:"taskToken"`
	// Answer is one that was not understood; empty the first time.
	Answer string `json:"answer"`
}

// Question is question.json in the journal: what is asked, why, and how to answer.
type Question struct {
	Migration  string                `json:"migration"`
	Asked      migration.Action      `json:"asked"` // the decision that needs an answer
	Execution  string                `json:"execution"`
	AskedAt    time.Time             `json:"askedAt"`
	Reason     string                `json:"reason"`
	Dominates  string                `json:"dominates"`
	WouldFit   string                `json:"wouldFit"`
	Prediction *migration.Prediction `json:"prediction,omitempty"`
	NotAnswer  string                `json:"notUnderstood,omitempty"` // the last answer, when it was none
	Answers    []migration.Answer    `json:"answers"`
}

const questionFile = "question.json"

// Ask puts the question into the journal and the log. The state waits for the answer, not this function.
type Ask struct {
	Journal *journal.Store
	Clock   Clock
}

// Run is the state Ask.
func (s Ask) Run(ctx context.Context, in AskInput) (Question, error) {
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return Question{}, err
	}
	var d migration.Decision
	found, err := j.Document(ctx, journal.DecisionFile, &d)
	if err != nil {
		return Question{}, err
	}
	if !found || in.TaskToken == "" {
		return Question{}, fault.Newf(fault.JournalMissing, "ask how to go on", in.Migration, "there is no decision to ask about, or no token to answer with")
	}
	q := Question{
		Migration: in.Migration, Asked: d.Action, Execution: p.Execution, AskedAt: s.Clock.Now(), Reason: d.Reason, WouldFit: d.WouldFit, Prediction: d.Prediction,
		NotAnswer: in.Answer, Answers: migration.Answers(d.Action, in.TaskToken),
	}
	if d.Prediction != nil {
		q.Dominates = d.Prediction.Dominates
	}
	slog.InfoContext(ctx, "waiting for the operator's answer", "migration", q.Migration, "reason", q.Reason, "answers", fmt.Sprint(q.Answers))
	return q, j.SaveDocument(ctx, questionFile, q)
}
