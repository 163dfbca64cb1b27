package simulate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/migration"
)

// Result is what one simulated migration came to.
type Result struct {
	Seed   uint64 `json:"seed"`
	Status string `json:"status"`
	Error  string `json:"error,omitempty"`
	Cause  string `json:"cause,omitempty"`

	Shards      int     `json:"shards"`
	Indices     int     `json:"indices"`
	Bytes       int64   `json:"bytes"` // of the first snapshot
	Hours       float64 `json:"hours"` // of virtual time
	RealSeconds float64 `json:"realSeconds"`
	WarmRounds  int     `json:"warmRounds"`
	WarmPasses  int     `json:"warmPasses"`
	OnReplay    int     `json:"indicesOnReplay"`
	Dropped     int     `json:"indicesBackFromReplay"`
	DropReason  string  `json:"backFromReplayBecause,omitempty"` // of the first

	// Downtime is Prediction at the decision to cut over, and the time from the first refused write to the opened destination. Error is
	// predicted over actual, less 1.
	Window          float64               `json:"windowSeconds"`
	Prediction      *migration.Prediction `json:"prediction,omitempty"`
	Actual          float64               `json:"actualSeconds"`
	PredictionError float64               `json:"predictionError"`

	// Lost counts the shards of which the destination does not hold everything although the migration succeeded; Blocked the indices of the
	// source that take no writes although it failed. Neither is taken from what the product says.
	Lost    int `json:"shardsLost"`
	Blocked int `json:"indicesBlocked"`

	History       map[string]int     `json:"historyEvents"` // state machine -> most events of one of its executions, children of Map Runs included
	S3Requests    map[string]int64   `json:"s3Requests"`
	HTTPRequests  map[string]int64   `json:"httpRequests"`
	Throttled     int64              `json:"httpThrottled"` // answered 429
	Cost          Cost               `json:"dollars"`
	Invocations   int64              `json:"lambdaInvocations"`
	Longest       map[string]float64 `json:"longestInvocationSeconds"`
	LargestOutput map[string]int     `json:"largestOutputBytes"`
	JournalBytes  map[string]int     `json:"largestJournalBytes"`

	Rounds   []migration.Round   `json:"-"`
	Passes   []migration.Pass    `json:"-"`
	CutOvers []migration.CutOver `json:"cutOvers,omitempty"`
	Phases   map[string]float64  `json:"cutOverSeconds,omitempty"` // of the cut-over's functions: the virtual time that each took
}

func (w *world) result(d asl.Description) (Result, error) {
	m := &w.meter
	r := Result{
		Seed: w.cfg.Seed, Status: string(d.Status), Error: d.Error, Cause: d.Cause, Shards: shardsOf(w.source.indices), Indices: len(w.source.indices),
		Hours: w.clock.Now().Sub(start).Hours(), Window: w.cfg.Window.Seconds(), History: map[string]int{}, HTTPRequests: m.http, Throttled: m.throttled,
		S3Requests: map[string]int64{"get": m.get, "put": m.put, "list": m.list, "copy": m.copies, "bySnapshots": m.engineObjects},
		Cost:       m.cost(), Invocations: m.invocations, LargestOutput: w.largestOutput, Longest: map[string]float64{}, JournalBytes: w.journal.largest,
		Phases: w.frozen,
	}
	if d.Status == asl.Succeeded {
		r.Lost = w.lost()
	} else {
		r.Blocked = len(w.blocked)
	}
	for f, t := range w.longest {
		r.Longest[f] = t.Seconds()
	}
	for machine, x := range w.executions {
		for _, one := range x {
			r.History[machine] = max(r.History[machine], one.EventCount())
		}
	}
	var err error
	if r.Rounds, err = all[migration.Round](w, "rounds/%04d.json"); err != nil {
		return r, err
	}
	if r.Passes, err = all[migration.Pass](w, "passes/%04d.json"); err != nil {
		return r, err
	}
	if r.CutOvers, err = all[migration.CutOver](w, "cutovers/%04d.json"); err != nil {
		return r, err
	}
	for _, x := range r.Rounds {
		if !x.Final {
			r.WarmRounds++
		}
	}
	for _, p := range r.Passes {
		if !p.Final {
			r.WarmPasses++
		}
	}
	if len(r.Rounds) > 0 {
		r.Bytes = r.Rounds[0].Snapshot.TotalBytes
	}
	s, _, err := document[migration.Strategies](w, "strategies.json")
	if err != nil {
		return r, err
	}
	if r.OnReplay, r.Dropped = len(s.Replay), len(s.Dropped); r.Dropped > 0 {
		r.DropReason = s.Dropped[0].Reason
	}
	decision, _, err := document[migration.Decision](w, journal.DecisionFile)
	if err != nil {
		return r, err
	}
	r.Prediction = decision.Prediction
	if !w.firstBlock.IsZero() && !w.opened.IsZero() {
		r.Actual = w.opened.Sub(w.firstBlock).Seconds()
	}
	if r.Actual > 0 && r.Prediction != nil {
		r.PredictionError = r.Prediction.Seconds/r.Actual - 1
	}
	return r, nil
}

// lost counts the source's shards whose copies do not hold everything, or more.
func (w *world) lost() (n int) {
	w.source.sync()
	w.destination.sync()
	from, to := &domainView{nil, w.source}, &domainView{nil, w.destination}
	for _, x := range w.source.indices {
		y := w.destination.byName[x.name]
		for i, p := range x.shards {
			if y == nil || y.closed || to.holds(y.shards[i]) != from.holds(p) || to.docs(y.shards[i]) != from.docs(p) {
				n++
			}
		}
	}
	return n
}

func sum(m map[string]int64) (n int64) {
	for _, v := range m {
		n += v
	}
	return n
}

// Text is the result for a reader.
func (r Result) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %-3d %s, %d warm rounds, %d warm passes, %d of %d indices on replay, %.1f h (simulated in %.0f s)\n", r.Seed, r.Status, r.WarmRounds, r.WarmPasses,
		r.OnReplay, r.Indices, r.Hours, r.RealSeconds)
	if p := r.Prediction; p != nil {
		fmt.Fprintf(&b, "         downtime predicted %s (%s to %s)", short(p.Seconds), short(p.Low), short(p.High))
		if r.Actual > 0 {
			fmt.Fprintf(&b, ", actual %s (prediction %+.0f %%)", short(r.Actual), 100*r.PredictionError)
		}
		fmt.Fprintf(&b, ", window %s\n", short(r.Window))
	}
	if r.Dropped > 0 {
		fmt.Fprintf(&b, "         %d indices went back from replay to rounds: %s\n", r.Dropped, r.DropReason)
	}
	if r.Lost > 0 || r.Blocked > 0 {
		fmt.Fprintf(&b, "         %d shards lost, %d indices still blocked\n", r.Lost, r.Blocked)
	}
	if r.Error != "" {
		fmt.Fprintf(&b, "         %s: %s\n", r.Error, r.Cause)
	}
	var history []string
	for _, m := range slices.Sorted(maps.Keys(r.History)) {
		history = append(history, fmt.Sprintf("%s %d", m, r.History[m]))
	}
	fmt.Fprintf(&b, "         history at most %s; requests: S3 %d, HTTP %d (%d answered 429), Lambda %d\n", strings.Join(history, ", "), sum(r.S3Requests), sum(r.HTTPRequests),
		r.Throttled, r.Invocations)
	c := r.Cost
	fmt.Fprintf(&b, "         $%.2f: transfer between Regions %.2f, S3 requests %.2f, Lambda %.2f, Step Functions %.2f\n", c.Total, c.Transfer, c.S3, c.Lambda, c.Transitions)
	return b.String()
}

// Detail lists rounds and passes, the longest invocations, the largest documents and the requests.
func (r Result) Detail() string {
	var b strings.Builder
	for _, x := range r.Rounds {
		fmt.Fprintf(&b, "  round %d%s: snapshot %s in %s, copy %d objects, %s in %s, restore %s (kept %s) of %d indices in %s\n", x.Number, final(x.Final), size(x.Snapshot.Bytes),
			short(x.Snapshot.Seconds), x.Copy.Objects, size(x.Copy.Bytes), short(x.Copy.Seconds), size(x.Restore.RecoveredBytes), size(x.Restore.ReusedBytes), x.Restore.Indices, short(x.Restore.Seconds))
	}
	for _, p := range r.Passes {
		fmt.Fprintf(&b, "  pass %d%s: %d documents, %s, %d deleted in %s\n", p.Number, final(p.Final), p.Documents, size(p.Bytes), p.Deleted, short(p.Seconds))
	}
	for _, f := range slices.Sorted(maps.Keys(r.Phases)) {
		fmt.Fprintf(&b, "  while writes were stopped, %-18s %8.1f s\n", f, r.Phases[f])
	}
	for _, f := range slices.Sorted(maps.Keys(r.Longest)) {
		fmt.Fprintf(&b, "  function %-18s longest %7.1f s, largest output %7d bytes\n", f, r.Longest[f], r.LargestOutput[f])
	}
	for _, f := range slices.Sorted(maps.Keys(r.JournalBytes)) {
		if r.JournalBytes[f] >= 100_000 {
			fmt.Fprintf(&b, "  journal %-28s %9d bytes\n", f, r.JournalBytes[f])
		}
	}
	for _, f := range slices.Sorted(maps.Keys(r.HTTPRequests)) {
		fmt.Fprintf(&b, "  http %-48s %9d\n", f, r.HTTPRequests[f])
	}
	for _, f := range slices.Sorted(maps.Keys(r.S3Requests)) {
		fmt.Fprintf(&b, "  s3 %-50s %9d\n", f, r.S3Requests[f])
	}
	return b.String()
}

func final(is bool) string {
	if is {
		return " (final)"
	}
	return ""
}

func short(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d >= time.Minute {
		return d.Round(time.Second).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

func size(n int64) string {
	switch f := float64(n); {
	case f >= 1e12:
		return fmt.Sprintf("%.1f TB", f/1e12)
	case f >= 1e9:
		return fmt.Sprintf("%.1f GB", f/1e9)
	default:
		return fmt.Sprintf("%.1f MB", f/1e6)
	}
}
