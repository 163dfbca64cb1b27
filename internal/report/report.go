// Package report makes the report of a migration: what moved, how long writes stood still, and the verdict with its evidence.
package report

import (
	"time"

	"github.com/domainferry/domainferry/internal/migration"
)

// Report is report.json in the journal.
type Report struct {
	Migration     string            `json:"migration"`
	Execution     string            `json:"execution"`
	Verdict       migration.Verdict `json:"verdict"`
	Engines       migration.Engines `json:"engines"`
	StartedAt     time.Time         `json:"startedAt"`
	FinishedAt    time.Time         `json:"finishedAt"`
	WriteDowntime WriteDowntime     `json:"writeDowntime"`
	// Phases are the parts of the write downtime, predicted and measured.
	Phases []Phase `json:"phases"`
	// RestoreBytes is how well the restores' bytes were predicted from the repository, round by round.
	RestoreBytes []RestoreBytes `json:"restoreBytes"`
	// Changes of the source's indices that were followed.
	Changes  []migration.Change  `json:"changes"`
	Rounds   []migration.Round   `json:"rounds"`
	Passes   []migration.Pass    `json:"passes"`
	Indices  []Index             `json:"indices"`
	LeftOut  []migration.LeftOut `json:"leftOut"`
	Warnings []string            `json:"warnings"`
	Checks   []migration.Check   `json:"checks"`
	// Green is what waiting for all copies of all shards came to; absent when the input does not ask for it.
	Green *Green `json:"green,omitempty"`
	// DeletedSnapshots are the rounds' snapshots that are gone from the source's repository, as keepSnapshots asks for.
	DeletedSnapshots []string `json:"deletedSnapshots,omitempty"`
	// OpenSource are the requests, a line each, that let the domain which was left take writes again, without those that the other one has
	// taken since. (Mode goBack brings these.)
	OpenSource string `json:"openSource"`
	// WentBack is of a way back: the documents went from the migration's destination to its source, in this order in Engines.
	WentBack bool `json:"wentBack,omitempty"`
}

// WriteDowntime is the time without writes in seconds. A field is absent when nobody measured it.
type WriteDowntime struct {
	PredictedSeconds    *float64 `json:"predictedSeconds,omitempty"`
	PredictedLow        *float64 `json:"predictedLow,omitempty"` // the prediction's range
	PredictedHigh       *float64 `json:"predictedHigh,omitempty"`
	MeasuredSeconds     *float64 `json:"measuredSeconds,omitempty"`     // from the write block to the destination's opening
	SeenByClientSeconds *float64 `json:"seenByClientSeconds,omitempty"` // from the first refused write to the next accepted one
}

// Green says whether the destination's indices have all copies of all shards. Clients write meanwhile: it is no write downtime.
type Green struct {
	Reached bool `json:"reached"`
	// Seconds from the last settings of the indices until all copies were there, or until now.
	Seconds float64 `json:"seconds"`
	// Missing are the indices that are not green, with their health, when nobody waits any longer or still does.
	Missing []string `json:"missing,omitempty"`
}

// Index is one moved index.
type Index struct {
	Name  string `json:"name"`
	Docs  int64  `json:"docs"`
	Bytes int64  `json:"bytes"`
	// LastMile is how the index's last changes travelled, with the reason when it was not by rounds all the way.
	LastMile migration.LastMile `json:"lastMile"`
	Reason   string             `json:"reason,omitempty"`
	// UnchangedSince is the last round that moved the index, when the cut-over found it unchanged since and left it alone; otherwise 0.
	UnchangedSince int `json:"unchangedSince,omitempty"`
}
