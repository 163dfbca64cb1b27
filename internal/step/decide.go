package step

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// DecideInput is the round that has just been recorded.
type DecideInput struct {
	Migration string `json:"migration"`
	Round     int    `json:"round"`
	Execution string `json:"execution"`
	// EnteredAt is when the state was entered: the time since then is what a state costs besides its work. Null is not known.
	EnteredAt time.Time `json:"enteredAt"`
	// Since is when the operator answered "warm" to the question whether to go on: rounds before do not count against the limits. Null
	// until then.
	Since time.Time `json:"since"`
}

// DecideOutput is the decision and the number of the round that would come next.
type DecideOutput struct {
	migration.Decision
	NextRound int `json:"nextRound"`
	// ByRounds and ByReplay say which of the two have indices to bring up to date next.
	ByRounds bool `json:"byRounds"`
	ByReplay bool `json:"byReplay"`
	// CutoverTimeoutSeconds is how long moving the last delta may take before writes are given back.
	CutoverTimeoutSeconds int `json:"cutoverTimeoutSeconds"`
}

// grace is added to the downtime window before an overrunning final round is given up: a prediction may be a little short, and
// what is nearly done is better finished.
const grace = 5 * time.Minute

// DecideDomain is what deciding reads of a domain.
type DecideDomain interface {
	Indices(context.Context) ([]cluster.Index, error)
	SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error)
}

// Decide says whether to warm again, wait, cut over, ask or stop.
type Decide struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) DecideDomain
	Clock   Clock
}

// Run is the state Decide.
func (s Decide) Run(ctx context.Context, in DecideInput) (DecideOutput, error) {
	called := s.Clock.Now()
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return DecideOutput{}, err
	}
	h, err := history(ctx, j)
	if err != nil {
		return DecideOutput{}, err
	}
	if !in.EnteredAt.IsZero() {
		h.Probe.Task = max(0, called.Sub(in.EnteredAt).Seconds())
	}
	all := h.Strategies
	h.Strategies, h.Since = all.Within(p), in.Since
	if p.Spec.Mode == migration.Migrate {
		if err := s.look(ctx, j, p, &h); err != nil {
			return DecideOutput{}, err
		}
	}
	out := DecideOutput{Decision: migration.Decide(p.Spec, p.Execution, len(p.Indices), h), NextRound: in.Round + 1}
	if len(out.Switch) > 0 {
		all.Replay = append(all.Replay, out.Switch...)
		if err := j.SaveStrategies(ctx, all); err != nil {
			return out, err
		}
		h.Strategies = all.Within(p)
	}
	rounds, replayed := all.Split(p)
	out.ByReplay = len(replayed) > 0
	// In mode warm, and until a pass runs beside them, rounds are all there is to do.
	out.ByRounds = len(rounds) > 0 && (!out.ByReplay || p.Spec.Mode == migration.Warm || h.RoundNeeded(len(p.Indices))) || len(h.Follow) > 0
	longest := p.Spec.DowntimeWindow.Seconds()
	if out.Prediction != nil {
		longest = max(longest, out.Prediction.High) // an operator who is asked may accept more than the window
	}
	out.CutoverTimeoutSeconds = int(longest + grace.Seconds())
	if err := j.SaveDocument(ctx, journal.DecisionFile, out.Decision); err != nil {
		return out, err
	}
	out.Switch = nil // of thousands of indices it would not fit the state machine's state
	return out, nil
}

// look asks the domains what a decision depends on now: which indices on rounds were written to since the last round, what a round has
// to follow, and how long the reads of a cut-over take.
func (s Decide) look(ctx context.Context, j *journal.Journal, p migration.Plan, h *migration.History) error {
	source := s.Domain(p.Spec.Source)
	list, err := source.Indices(ctx)
	if err != nil {
		return err
	}
	for _, c := range changes(p, list) {
		h.Follow = append(h.Follow, c.String())
	}
	there := byName(list)
	rounds, _ := h.Split(p)
	var names []string
	for _, x := range rounds {
		if now, ok := there[x.Name]; ok && now.Open {
			names = append(names, x.Name)
		}
	}
	if len(names) == 0 {
		for _, x := range p.Indices {
			if now, ok := there[x.Name]; ok && now.Open {
				names = append(names, x.Name)
			}
		}
	}
	var sequences map[string][]cluster.ShardSequence
	if len(names) > 0 {
		h.Probe.Source, err = s.probe(func() error { sequences, err = source.SequenceNumbers(ctx, names...); return err })
		if err != nil {
			return err
		}
	}
	// The copies may be closed, and then have no statistics. Listing them is two requests.
	destination := s.Domain(p.Spec.Destination)
	var copies []cluster.Index
	if h.Probe.Destination, err = s.probe(func() error { copies, err = destination.Indices(ctx); return err }); err != nil {
		return err
	}
	h.Probe.Destination /= 2
	last := 0
	for _, r := range h.Rounds {
		if !r.Final {
			last = r.Number
		}
	}
	c, _, err := j.Checkpoints(ctx, last)
	if err != nil {
		return err
	}
	for _, x := range rounds {
		if shards, seen := sequences[x.Name]; seen && !slices.EqualFunc(c.PerShard[x.Name], shards, func(then int64, now cluster.ShardSequence) bool { return then == now.GlobalCheckpoint }) {
			h.Changed = append(h.Changed, x.Name)
		}
	}
	// The last round closed what it restored, unless a snapshot of the destination's own held it: that would hold up the cut-over, too.
	made, err := j.Copies(ctx)
	if err != nil {
		return err
	}
	for _, x := range copies {
		if x.Open && !made.CannotClose && slices.Contains(h.Changed, x.Name) && !h.Measures[x.Name].Skipped {
			h.Open = append(h.Open, x.Name)
		}
	}
	h.Now = s.Clock.Now()
	return nil
}

// probe is how long a read takes in seconds, the median of three: the first may have to connect.
func (s Decide) probe(read func() error) (float64, error) {
	var took []float64
	for range 3 {
		began := s.Clock.Now()
		if err := read(); err != nil {
			return 0, err
		}
		took = append(took, s.Clock.Now().Sub(began).Seconds())
	}
	slices.Sort(took)
	return took[1], nil
}

// lookBack is of how many rounds the measures are read.
const lookBack = 10

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
	if h.CutOvers, err = cutOvers(ctx, j); err != nil {
		return h, err
	}
	h.Earlier = map[int]map[string]migration.Measure{}
	for i := len(h.Rounds) - 1; i >= 0 && len(h.Earlier) < lookBack; i-- {
		if h.Rounds[i].Final {
			continue
		}
		m, err := j.Measures(ctx, h.Rounds[i].Number)
		if err != nil {
			return h, err
		}
		if h.Measures == nil {
			h.Measures = m
		}
		h.Earlier[h.Rounds[i].Number] = m
	}
	return h, nil
}

// cutOverFile is where the journal keeps what the n-th cut-over of the migration took, n from 1.
func cutOverFile(n int) string { return fmt.Sprintf("cutovers/%04d.json", n) }

// cutOvers reads what the cut-overs so far took, those included that ended in a thaw.
func cutOvers(ctx context.Context, j *journal.Journal) ([]migration.CutOver, error) {
	var list []migration.CutOver
	for {
		var c migration.CutOver
		found, err := j.Document(ctx, cutOverFile(len(list)+1), &c)
		if err != nil || !found {
			return list, err
		}
		list = append(list, c)
	}
}

// saveCutOver records a cut-over: one record for each freeze, by its start, so that a step that runs twice replaces its own.
func saveCutOver(ctx context.Context, j *journal.Journal, c migration.CutOver) error {
	list, err := cutOvers(ctx, j)
	if err != nil {
		return err
	}
	n := slices.IndexFunc(list, func(x migration.CutOver) bool { return x.Execution == c.Execution && x.StartedAt.Equal(c.StartedAt) })
	if n < 0 {
		n = len(list)
	}
	return j.SaveDocument(ctx, cutOverFile(n+1), c)
}
