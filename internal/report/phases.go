package report

import (
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/domainferry/domainferry/internal/migration"
)

// Phase is a part of the write downtime in seconds: what was predicted, its range, and what it took. Actual is absent when nobody
// measured it.
type Phase struct {
	Name      string   `json:"name"`
	Predicted float64  `json:"predicted"`
	Low       float64  `json:"low"`
	High      float64  `json:"high"`
	Actual    *float64 `json:"actual,omitempty"`
}

// Phases sets what was predicted against what the cut-over took, in order; the last one, "total", is the whole. Without a prediction
// there are none.
func Phases(p *migration.Prediction, c migration.CutOver) []Phase {
	if p == nil {
		return []Phase{}
	}
	phase := func(name string, x migration.Phase, actual *float64) Phase {
		return Phase{Name: name, Predicted: x.Seconds, Low: x.Low, High: x.High, Actual: actual}
	}
	return []Phase{
		phase("freeze", p.Freeze, c.Freeze), phase("snapshot", p.Snapshot, c.Snapshot), phase("copy", p.Copy, c.Copy), phase("restore", p.Restore, c.Restore),
		phase("replay", p.Replay, c.Replay), phase("verify", p.Verify, c.Verify), phase("finish", p.Finish, c.Finish),
		phase("transitions", p.Transitions, c.Transitions()),
		phase("total", migration.Phase{Seconds: p.Seconds, Low: p.Low, High: p.High}, c.Total),
	}
}

// RestoreBytes compares what a round's restore moved with what the repository's file lists said that it would.
type RestoreBytes struct {
	Round        int     `json:"round"`
	Predicted    int64   `json:"predicted"`
	Recovered    int64   `json:"recovered"`
	ErrorPercent float64 `json:"errorPercent"` // of what was recovered; positive when less was predicted than moved
}

// RestoreErrors lists the rounds whose restores were predicted.
func RestoreErrors(rounds []migration.Round) []RestoreBytes {
	list := []RestoreBytes{}
	for _, r := range rounds {
		predicted := r.Restore.PredictedBytes
		if predicted == nil {
			continue
		}
		x := RestoreBytes{Round: r.Number, Predicted: *predicted, Recovered: r.Restore.RecoveredBytes}
		if off := x.Recovered - x.Predicted; off != 0 {
			x.ErrorPercent = math.Round(1000*float64(off)/float64(max(x.Recovered, 1))) / 10
		}
		list = append(list, x)
	}
	return list
}

// Print writes the report for a terminal: the downtime phase by phase, how each index travelled, and what was found.
func (r Report) Print(w io.Writer) error {
	var b strings.Builder
	went := ""
	if r.WentBack {
		went = " went back"
	}
	fmt.Fprintf(&b, "%s%s: %s -> %s, %s\n", r.Migration, went, r.Engines.Source, r.Engines.Destination, r.Verdict)
	if d := r.WriteDowntime; d.MeasuredSeconds != nil {
		fmt.Fprintf(&b, "write downtime %.2f s", *d.MeasuredSeconds)
		if d.PredictedSeconds != nil {
			fmt.Fprintf(&b, ", predicted %.2f s", *d.PredictedSeconds)
		}
		if d.PredictedLow != nil && d.PredictedHigh != nil {
			fmt.Fprintf(&b, " [%.2f..%.2f]", *d.PredictedLow, *d.PredictedHigh)
		}
		if d.SeenByClientSeconds != nil {
			fmt.Fprintf(&b, ", seen by the client %.2f s", *d.SeenByClientSeconds)
		}
		b.WriteString("\n")
	}
	PrintPhases(&b, r.Phases)
	for _, x := range r.RestoreBytes {
		fmt.Fprintf(&b, "round %-4d restore predicted %d bytes, moved %d (%+.1f %%)\n", x.Round, x.Predicted, x.Recovered, x.ErrorPercent)
	}
	for _, x := range r.Indices {
		fmt.Fprintf(&b, "index %s  %s\n", x.Name, x.travelled())
	}
	for _, x := range r.Changes {
		fmt.Fprintf(&b, "round %-4d followed: %s\n", x.Round, x)
	}
	if g := r.Green; g != nil && g.Reached {
		fmt.Fprintf(&b, "all copies of all shards were there %.0f s after the hand-over\n", g.Seconds)
	} else if g != nil {
		fmt.Fprintf(&b, "not all copies of all shards were there %.0f s after the hand-over: %s\n", g.Seconds, strings.Join(g.Missing, ", "))
	}
	if n := len(r.DeletedSnapshots); n > 0 {
		fmt.Fprintf(&b, "%d snapshots of earlier rounds are gone from the source's repository, as keepSnapshots asks for\n", n)
	}
	for _, x := range r.LeftOut {
		fmt.Fprintf(&b, "left out %s: %s\n", x.Name, x.Reason)
	}
	for _, x := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", x)
	}
	for _, c := range r.Checks {
		if c.Outcome != migration.Passed {
			fmt.Fprintf(&b, "check %s of index %s: %s (%s)\n", c.Name, c.Index, c.Outcome, c.Evidence)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// travelled is how the index's last changes came over, in words.
func (x Index) travelled() string {
	text := "last mile by " + string(x.LastMile)
	if x.UnchangedSince > 0 {
		text = fmt.Sprintf("skipped: unchanged since round %d", x.UnchangedSince)
	}
	if x.Reason != "" {
		text += ": " + x.Reason
	}
	return text
}

// PrintPhases writes a table of the phases; those that neither were expected nor took place are left out.
func PrintPhases(w io.Writer, phases []Phase) {
	for i, x := range phases {
		if i == 0 {
			fmt.Fprintf(w, "%-12s %9s  %-18s %8s\n", "phase", "predicted", "range", "actual")
		}
		actual := "-"
		if x.Actual != nil {
			actual = fmt.Sprintf("%.2f s", *x.Actual)
		}
		if x.Predicted > 0 || x.Actual != nil && *x.Actual > 0 {
			fmt.Fprintf(w, "%-12s %7.2f s  %-18s %8s\n", x.Name, x.Predicted, fmt.Sprintf("[%.2f..%.2f]", x.Low, x.High), actual)
		}
	}
}
