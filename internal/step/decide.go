package step

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
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
	// Approved: the operator has agreed to the cut-over, in this execution.
	Approved bool `json:"approved"`
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
	// AnswerTimeoutSeconds is how long an approval is waited for.
	AnswerTimeoutSeconds int `json:"answerTimeoutSeconds"`
}

// grace is added to the downtime window before an overrunning final round is given up: a prediction may be a little short, and
// what is nearly done is better finished.
const grace = 5 * time.Minute

// trial bounds the verification that is tried: longer than any that a window of seconds allows, and within the function's time.
const trial = 20 * time.Second

// DecideDomain is what deciding reads of a domain: its indices, and what a verification reads, to see how long that takes.
type DecideDomain interface {
	Indices(context.Context) ([]cluster.Index, error)
	VerifyDomain
}

// Decide says whether to warm again, wait, cut over, ask or stop.
type Decide struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) DecideDomain
	Replay  func(source, destination migration.Endpoint) ReplayVerifier
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
	if err := s.entered(ctx, j, in, called, &h); err != nil {
		return DecideOutput{}, err
	}
	all := h.Strategies
	h.Strategies, h.Since, h.Approved = all.Within(p), in.Since, in.Approved
	// What the last round moved of an index that is gone is no round still to come.
	planned := set(p.Names())
	maps.DeleteFunc(h.Measures, func(name string, _ migration.Measure) bool { return !planned[name] })
	if p.Spec.Mode.CutsOver() {
		if err := s.look(ctx, j, p, &h); err != nil {
			return DecideOutput{}, err
		}
	}
	if err := stuck(p, h); err != nil {
		return DecideOutput{}, err
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
	out.AnswerTimeoutSeconds = int(p.Spec.CutOver.ApprovalTimeout.Seconds())
	out.CutoverTimeoutSeconds = int(longest + grace.Seconds())
	if err := j.SaveDocument(ctx, journal.DecisionFile, out.Decision); err != nil {
		return out, err
	}
	out.Switch = nil // of thousands of indices it would not fit the state machine's state
	return out, nil
}

// entered fills in what beginning and ending a state takes. The last decision remembers the longest beginning: a function of a cut-over
// has not run before.
func (s Decide) entered(ctx context.Context, j *journal.Journal, in DecideInput, called time.Time, h *migration.History) error {
	var last migration.Decision
	if _, err := j.Document(ctx, journal.DecisionFile, &last); err != nil {
		return err
	}
	h.Probe.Cold = last.Probe.Cold
	if in.EnteredAt.IsZero() {
		return nil
	}
	h.Probe.Task = max(0, called.Sub(in.EnteredAt).Seconds())
	h.Probe.Cold = max(h.Probe.Cold, h.Probe.Task)
	var ended time.Time
	for _, r := range h.Rounds {
		if r.Execution == in.Execution && r.FinishedAt.After(ended) {
			ended = r.FinishedAt
		}
	}
	for _, p := range h.Passes {
		if p.Execution == in.Execution && p.FinishedAt.After(ended) {
			ended = p.FinishedAt
		}
	}
	if !ended.IsZero() {
		h.Probe.Return = max(0, in.EnteredAt.Sub(ended).Seconds())
	}
	return nil
}

// look asks the domains what a decision depends on now: which indices on rounds were written to since the last round, what a round has
// to follow, and how long the reads of a cut-over take.
func (s Decide) look(ctx context.Context, j *journal.Journal, p migration.Plan, h *migration.History) error {
	source := s.Domain(p.Spec.Source)
	list, err := source.Indices(ctx)
	if err != nil {
		return err
	}
	streams, err := streamsAmong(ctx, source, list)
	if err != nil {
		return err
	}
	for _, c := range changes(p, list, streams) {
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
	var last migration.Round
	for _, r := range h.Rounds {
		if !r.Final {
			last = r
		}
	}
	c, _, err := j.Checkpoints(ctx, last.Number)
	if err != nil {
		return err
	}
	now := s.Clock.Now()
	h.Rates = map[string]float64{}
	for _, x := range rounds {
		shards, seen := sequences[x.Name]
		// Of a data stream the final round restores every index, changed or not.
		if seen && (x.Stream != "" || !slices.EqualFunc(c.PerShard[x.Name], shards, func(then int64, now cluster.ShardSequence) bool { return then == now.GlobalCheckpoint })) {
			h.Changed = append(h.Changed, x.Name)
		}
		if then := c.PerShard[x.Name]; seen && len(then) == len(shards) && now.After(last.StartedAt) {
			operations := int64(0)
			for i, shard := range shards {
				operations += max(0, shard.GlobalCheckpoint-then[i])
			}
			h.Rates[x.Name] = float64(operations) / now.Sub(last.StartedAt).Seconds()
		}
	}
	if h.Probe.Journal, err = s.probe(func() error { _, err := j.Strategies(ctx); return err }); err != nil {
		return err
	}
	if _, replayed := h.Split(p); len(replayed) > 0 {
		open := indexNames(slices.DeleteFunc(replayed, func(x migration.PlannedIndex) bool { return !there[x.Name].Open }))
		// Twice, as for the freeze: the second one finds what was written during the first.
		for range 2 {
			began := s.Clock.Now()
			if err := source.Refresh(ctx, open...); err != nil {
				return err
			}
			h.Probe.Refresh = s.Clock.Now().Sub(began).Seconds()
		}
	}
	h.Probe.Verify = s.verify(ctx, j, p, h.Strategies, there, byName(copies))
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

// verify is how long a verification takes in seconds, whatever it finds: clients go on writing, and the copies lag behind. 0 is not known:
// then it is no reason not to decide, as the indices may change under it. Copies that are closed cannot be read; the source is asked in
// their place.
func (s Decide) verify(ctx context.Context, j *journal.Journal, p migration.Plan, strategies migration.Strategies, there, copies map[string]cluster.Index) float64 {
	ctx, cancel := context.WithTimeout(ctx, trial)
	defer cancel()
	source, destination := s.Domain(p.Spec.Source), s.Domain(p.Spec.Destination)
	p.Indices = slices.DeleteFunc(slices.Clone(p.Indices), func(x migration.PlannedIndex) bool { return !there[x.Name].Open })
	if len(p.Indices) == 0 {
		return 0
	}
	if slices.ContainsFunc(p.Indices, func(x migration.PlannedIndex) bool { return !copies[x.Name].Open }) {
		destination = source
	}
	// In the freeze there is nothing left to refresh: the last delta has seen to it.
	if err := refreshBoth(ctx, source, destination, p); err != nil {
		slog.WarnContext(ctx, "a verification could not be tried, so that its time is assumed", "error", err)
		return 0
	}
	began := s.Clock.Now()
	var compared, replayed float64
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		_, err := compare(groupCtx, source, destination, p, strategies)
		compared = s.Clock.Now().Sub(began).Seconds()
		return err
	})
	group.Go(func() error {
		state, err := readState(groupCtx, j)
		if err != nil || len(state.States) == 0 {
			return err
		}
		// A last pass of that many shards is a Map, which compares what it has moved; the verification finds it done.
		if len(replay.CutDeletes(state.States, replay.Shards(state.States))) > 1 {
			return nil
		}
		_, err = s.Replay(p.Spec.Source, p.Spec.Destination).Verify(groupCtx, state.States, replayedSamples, s.Clock.Now().Add(replayedTime))
		replayed = s.Clock.Now().Sub(began).Seconds()
		return err
	})
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		slog.WarnContext(ctx, "a verification could not be tried, so that its time is assumed", "error", err)
		return 0
	}
	return max(compared, replayed)
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
