package step

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
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
	// Notify tells the operator; nil when there is nobody to be told.
	Notify func(ctx context.Context, subject, message string) error
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
	if err := j.SaveDocument(ctx, questionFile, q); err != nil || s.Notify == nil {
		return q, err
	}
	return q, s.Notify(ctx, q.subject(), q.message())
}

// subject is a line of at most 100 characters, as SNS has it.
func (q Question) subject() string {
	return "Domain Ferry: migration " + q.Migration + " waits for your answer" // a name has at most 50 characters
}

// message says what is asked, what will happen and how to answer.
func (q Question) message() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Migration %s (%s) waits for your answer since %s.\n\n%s\n", q.Migration, q.Execution, q.AskedAt.Format(time.RFC3339), q.Reason)
	if q.Dominates != "" {
		fmt.Fprintf(&b, "What costs most: %s.\n", q.Dominates)
	}
	if q.WouldFit != "" {
		fmt.Fprintf(&b, "It would fit with %s.\n", q.WouldFit)
	}
	if q.NotAnswer != "" {
		fmt.Fprintf(&b, "The last answer was not understood: %s.\n", q.NotAnswer)
	}
	b.WriteString("\nUntil you answer, clients write to the source as before. The answers:\n")
	for _, a := range q.Answers {
		fmt.Fprintf(&b, "\n%s: %s\n  %s\n", a.Action, a.Meaning, a.Command)
	}
	return b.String()
}
