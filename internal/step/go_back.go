package step

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/replay"
	"github.com/domainferry/domainferry/internal/verify"
)

// Going back after a hand-over is a migration the other way round, by replay alone: the source still has every index as it was at the
// hand-over, and both sides' sequence numbers of that moment are in the journal (replay.md, "Going back works the same way"). So the plan
// of the way back has the two domains exchanged, in a journal of its own, and every step after Preflight works on it as on any other.
// What the operator reads names them as the migration's input does.

// GoBackDomain is what planning a way back asks of either domain. It makes one index at the source, to try mappings, and deletes it.
type GoBackDomain interface {
	ShardNumbers
	Mappings(ctx context.Context, indices ...string) (map[string]json.RawMessage, error)
	CreateIndex(ctx context.Context, index string, settings map[string]any, mappings json.RawMessage) error
	ClusterSettingsDomain
}

const (
	goingBack = "go back"
	// ownSettingsFile is where the journal of a way back keeps what the passes switch off at the source's indices, index -> setting -> value.
	ownSettingsFile = "own-settings.json"
	// refusedFile is where it keeps the whole list of what cannot go back.
	refusedFile = "cannot-go-back.json"
	// settingUp is taken off the time of the migration's plan: an index that is older was there before it, by whichever clock.
	settingUp = 10 * time.Minute
)

// wayBack plans the way back.
type wayBack struct {
	Preflight
	spec      migration.Spec // as the input has it
	execution string
	journal   *journal.Journal // of the way back

	// Of the migration.
	plan       migration.Plan
	freeze     journal.Freeze
	strategies migration.Strategies
	replayed   replayState
	// Of an earlier attempt to go back.
	attempted bool
	earlier   replayState

	here, there                 map[string]cluster.Index // at the destination, at the source
	numbersHere, numbersThere   map[string][]cluster.ShardSequence
	mappingsHere, mappingsThere map[string]json.RawMessage

	found   findings
	refused []string
}

// goBack is Preflight in mode goBack. It takes the domains before it looks at them, because it tries mappings at the source.
func (s Preflight) goBack(ctx context.Context, in PreflightInput, spec migration.Spec) (PreflightOutput, error) {
	b := wayBack{Preflight: s, spec: spec, execution: in.Execution, journal: s.Journal.Migration(migration.WayBack(spec.Migration))}
	endpoints := []string{spec.Source.Endpoint, spec.Destination.Endpoint}
	if err := b.journal.Vacate(ctx, in.Execution, s.End, endpoints...); err != nil {
		return PreflightOutput{}, err
	}
	if err := b.read(ctx); err != nil {
		return PreflightOutput{}, err
	}
	if err := s.Journal.RecordOwner(ctx, journal.Owner{Migration: migration.WayBack(spec.Migration), Execution: in.Execution}); err != nil {
		return PreflightOutput{}, err
	}
	if err := b.journal.Begin(ctx, in.Execution, s.Clock.Now(), s.End, endpoints...); err != nil {
		return PreflightOutput{}, err
	}
	p, state, err := b.make(ctx)
	if err != nil {
		return PreflightOutput{}, err
	}
	if err := b.fault(ctx); err != nil {
		return PreflightOutput{}, err
	}
	if err := b.save(ctx, p, state); err != nil {
		return PreflightOutput{}, err
	}
	out := PreflightOutput{
		Migration: migration.WayBack(spec.Migration), Mode: spec.Mode, FirstRound: 1, ByReplay: true, Engines: p.Engines, Spec: spec, Indices: len(p.Indices),
		LeftOut: p.LeftOut[:min(100, len(p.LeftOut))], Warnings: p.Warnings,
	}
	for _, x := range p.Indices {
		out.Docs += x.Docs
		out.Bytes += x.Bytes
	}
	return out, nil
}

// read takes what the journal has of the migration and of an earlier attempt, and refuses a way back from anywhere but a hand-over.
func (b *wayBack) read(ctx context.Context) error {
	forward, name := b.Journal.Migration(b.spec.Migration), b.spec.Migration
	var found bool
	var back journal.Freeze
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { b.freeze, found, err = forward.Freeze(groupCtx); return err })
	group.Go(func() (err error) { b.strategies, err = forward.Strategies(groupCtx); return err })
	group.Go(func() (err error) { b.replayed, err = readState(groupCtx, forward); return err })
	group.Go(func() (err error) { back, _, err = b.journal.Freeze(groupCtx); return err })
	group.Go(func() (err error) { b.earlier, err = readState(groupCtx, b.journal); return err })
	group.Go(func() error {
		_, err := b.journal.ReadPlan(groupCtx)
		b.attempted = err == nil
		if fault.Is(err, fault.JournalMissing) {
			err = nil
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	nothing := func(why string, values ...any) error {
		return fault.Newf(fault.InvalidInput, goingBack, "migration "+name, "there is nothing to go back from: "+why, values...).
			WithHint("Mode goBack is for a migration whose destination has taken over. Nothing has been touched.")
	}
	switch {
	case !found:
		return nothing("it has not handed over, and the source takes writes")
	case b.freeze.State == journal.Thawed:
		return nothing("its last cut-over ended with writes given back to the source, at %s", b.freeze.EndedAt.Format(time.RFC3339))
	case b.freeze.State == journal.WentBack:
		return nothing("it went back already, and the source takes writes since %s", b.freeze.WentBackAt.Format(time.RFC3339))
	case b.freeze.State != journal.HandedOver:
		return fault.Newf(fault.Busy, goingBack, "migration "+name, "execution %s left it in state %q; %s", b.freeze.Execution, b.freeze.State, freezeHint(b.freeze.State))
	case back.State != "" && back.State != journal.Thawed && back.Execution != b.execution:
		return fault.Newf(fault.Busy, goingBack, "migration "+name, "execution %s has begun to go back and left it in state %q; its end is still being recorded", back.Execution, back.State)
	}
	var err error
	if b.plan, err = forward.ReadPlan(ctx); err != nil {
		return err
	}
	var wrong migration.Problems
	for _, x := range []struct {
		path        string
		given, then migration.Endpoint
	}{{"$.source", b.spec.Source, b.plan.Spec.Source}, {"$.destination", b.spec.Destination, b.plan.Spec.Destination}} {
		if x.given.Endpoint != x.then.Endpoint || x.given.DomainARN != x.then.DomainARN {
			wrong = append(wrong, migration.Problem{Path: x.path, Text: fmt.Sprintf("is %s (%s), and was %s (%s) in the migration: in mode goBack both are named as then",
				x.given.Endpoint, x.given.DomainARN, x.then.Endpoint, x.then.DomainARN)})
		}
	}
	return findings{input: wrong}.fault(name)
}

// make plans the way back, or finds what cannot go back.
func (b *wayBack) make(ctx context.Context) (migration.Plan, replayState, error) {
	p := migration.Plan{Spec: b.spec, Execution: b.execution, CreatedAt: b.Clock.Now(), LeftOut: []migration.LeftOut{}, Warnings: []string{}}
	p.Spec.Source, p.Spec.Destination = b.spec.Destination, b.spec.Source
	p.Spec.LastMile, p.Spec.Replicas = migration.LastMileReplay, nil
	state := replayState{Pass: b.earlier.Pass, Reconciled: b.earlier.Pass, Sealed: true}
	streams, err := b.look(ctx, &p)
	if err != nil {
		return p, state, err
	}
	list := slices.SortedFunc(maps.Values(b.here), func(x, y cluster.Index) int { return strings.Compare(x.Name, y.Name) })
	chosen := choose(b.spec.Indices, list, streams)
	known := slices.Clone(list)
	for _, x := range b.plan.Indices {
		if _, ok := b.here[x.Name]; !ok {
			known = append(known, cluster.Index{Name: x.Name})
		}
	}
	b.found.unmatched(b.spec.Indices, known, streams)
	var going []cluster.Index
	refusedStreams := map[string]bool{}
	for _, x := range list {
		c := chosen[x.Name]
		_, moved := b.plan.Index(x.Name)
		switch {
		case !c.taken && moved && !x.Open:
			b.refuse(x.Name, "it is closed at the destination, so that nobody can tell what was written to it: open it there")
		case !c.taken && moved:
			p.LeftOut = append(p.LeftOut, migration.LeftOut{Name: x.Name, Reason: c.reason + "; it stays at the destination, and the source's index stays as it was"})
		case !c.taken:
			if c.reason != "" {
				p.LeftOut = append(p.LeftOut, migration.LeftOut{Name: x.Name, Reason: c.reason})
			}
		case !moved && !b.isNew(x):
			p.LeftOut = append(p.LeftOut, migration.LeftOut{Name: x.Name, Reason: "it was at the destination before the migration"})
		case c.stream != "":
			if !refusedStreams[c.stream] {
				refusedStreams[c.stream] = true
				b.refused = append(b.refused, fmt.Sprintf("data stream %s: the replay cannot write to a data stream", c.stream))
			}
		case !moved:
			b.refuse(x.Name, "it was created at the destination since the migration, and the source has no index to bring its documents to")
		default:
			going = append(going, x)
		}
	}
	for _, x := range b.plan.Indices {
		if _, ok := b.here[x.Name]; !ok && selects(b.spec.Indices, x.Name, chosen) {
			p.LeftOut = append(p.LeftOut, migration.LeftOut{Name: x.Name, Reason: "it was deleted at the destination; the source's index stays as it was at the hand-over, blocked"})
		}
	}
	if err := b.compare(ctx, going, &p, &state); err != nil {
		return p, state, err
	}
	slices.SortFunc(p.LeftOut, func(x, y migration.LeftOut) int { return strings.Compare(x.Name, y.Name) })
	if len(p.Indices) == 0 && len(b.refused) == 0 && len(b.found.input) == 0 {
		b.found.input = append(b.found.input, migration.Problem{Path: "$.indices", Text: "selects no index that the migration handed over"})
	}
	return p, state, nil
}

// look reads both domains.
func (b *wayBack) look(ctx context.Context, p *migration.Plan) ([]cluster.DataStream, error) {
	here, there := b.Domain(b.spec.Destination), b.Domain(b.spec.Source)
	from, err := here.Info(ctx)
	if err != nil {
		return nil, err
	}
	to, err := there.Info(ctx)
	if err != nil {
		return nil, err
	}
	p.Engines = migration.Engines{Source: from.String(), Destination: to.String()}
	if from.ClusterUUID != "" && from.ClusterUUID == to.ClusterUUID {
		b.found.input = append(b.found.input, migration.Problem{Path: "$.destination.endpoint", Text: "leads to the same cluster as the source's"})
	}
	list, err := here.Indices(ctx)
	if err != nil {
		return nil, err
	}
	streams, err := streamsAmong(ctx, here, list)
	if err != nil {
		return nil, err
	}
	at, err := there.Indices(ctx)
	b.here, b.there = byName(list), byName(at)
	return streams, err
}

// isNew reports whether an index of the destination that the migration did not bring was made since. When that is not known, it is taken
// to be: nothing is left behind unseen.
func (b *wayBack) isNew(x cluster.Index) bool {
	created, err := strconv.ParseInt(x.Settings["index.creation_date"], 10, 64)
	return err != nil || time.UnixMilli(created).After(b.plan.CreatedAt.Add(-settingUp))
}

func (b *wayBack) refuse(index, format string, values ...any) {
	b.refused = append(b.refused, "index "+index+": "+fmt.Sprintf(format, values...))
}

// compare puts the indices that can go back into the plan, with the states of their replay.
func (b *wayBack) compare(ctx context.Context, going []cluster.Index, p *migration.Plan, state *replayState) error {
	var names []string
	for _, x := range going {
		if y, ok := b.there[x.Name]; ok && y.Open {
			names = append(names, x.Name)
		}
	}
	here, there := b.Domain(b.spec.Destination), b.Domain(b.spec.Source)
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { b.numbersHere, err = here.SequenceNumbers(groupCtx, names...); return err })
	group.Go(func() (err error) { b.numbersThere, err = there.SequenceNumbers(groupCtx, names...); return err })
	group.Go(func() (err error) { b.mappingsHere, err = here.Mappings(groupCtx, names...); return err })
	group.Go(func() (err error) { b.mappingsThere, err = there.Mappings(groupCtx, names...); return err })
	if err := group.Wait(); err != nil {
		return err
	}
	for _, x := range going {
		y := b.there[x.Name]
		s, why, err := b.state(x, y)
		if err != nil {
			return err
		}
		if why != "" {
			b.refuse(x.Name, "%s", why)
			continue
		}
		p.Indices = append(p.Indices, migration.PlannedIndex{
			Name: x.Name, UUID: x.UUID, Shards: x.Primaries, Docs: x.Docs, Bytes: x.StoreBytes, WriteBlock: b.freeze.Before[x.Name],
			Replicas: y.Settings["index.number_of_replicas"], AutoExpand: y.Settings["index.auto_expand_replicas"], RefreshInterval: y.Settings["index.refresh_interval"],
		})
		state.States = append(state.States, s)
	}
	return b.tryMappings(ctx, p)
}

// state is where the replay of an index begins, or why it cannot go back.
func (b *wayBack) state(x, y cluster.Index) (s replay.State, why string, err error) {
	planned, _ := b.plan.Index(x.Name)
	at, here, there := b.freeze.SealedAs[x.Name], b.numbersHere[x.Name], b.numbersThere[x.Name]
	switch {
	case y.Name == "":
		return s, "the source has it no more", nil
	case !y.Open:
		return s, "it is closed at the source: open it there", nil
	case planned.UUID != "" && y.UUID != "" && planned.UUID != y.UUID:
		return s, "the source has another index of that name now", nil
	case at.UUID != "" && x.UUID != "" && at.UUID != x.UUID:
		return s, "it was deleted and created anew at the destination since the hand-over", nil
	case x.Primaries != y.Primaries:
		return s, fmt.Sprintf("it has %d primary shards at the destination and %d at the source", x.Primaries, y.Primaries), nil
	case x.Health == "red" || y.Health == "red" || len(here) != x.Primaries || len(there) != x.Primaries:
		return s, "", fault.Newf(fault.Unavailable, goingBack, "index "+x.Name, "not all of its primary shards are started (destination %s, source %s)", x.Health, y.Health).
			WithHint("Bring the index back to green at both domains (GET _cluster/allocation/explain), or exclude it, then start anew.")
	}
	if ok, reason := replay.Eligible(x, b.mappingsHere[x.Name], true); !ok {
		return s, reason, nil
	}
	var before *replay.State
	if b.strategies.Has(x.Name) {
		state, known := b.replayed.state(x.Name)
		if !known {
			return s, "it went to the destination by replay, and the journal does not have where that ended", nil
		}
		before = &state
	}
	s, why = reversed(x.Name, b.freeze, before)
	if why != "" {
		return s, why, nil
	}
	s.DestinationUUID = y.UUID
	for k := range s.Shards {
		proven, sealed := b.freeze.Proven[x.Name][k], b.freeze.Sealed[x.Name][k]
		switch history := s.Shards[k].History; {
		case here[k].MaxSeqNo < sealed || history != "" && here[k].HistoryUUID != "" && history != here[k].HistoryUUID:
			return s, fmt.Sprintf("shard %d was restored or allocated from a stale copy at the destination since the hand-over (sequence number %d, was %d)", k, here[k].MaxSeqNo, sealed), nil
		case there[k].MaxSeqNo < proven || there[k].MaxSeqNo > proven && !b.attempted:
			return s, fmt.Sprintf("somebody has written to the source since the hand-over, or restored it: shard %d is at sequence number %d, was %d", k, there[k].MaxSeqNo, proven), nil
		}
		if s.Shards[k].Started {
			s.Shards[k].DestinationFrom = there[k].MaxSeqNo // what an earlier attempt wrote is not somebody else's
		}
	}
	return s, "", nil
}

// reversed is the state with which an index is replayed back, from where both sides stood at the hand-over. before is the state in which
// the replay to the destination ended; nil for an index that went by rounds.
//
//   - By rounds both sides number alike and hold the same, so all of it is the shared region.
//   - By replay they do so up to the same base as before. Above, each block went into one of the other side, and whatever was deleted or
//     changed since is gone from both: so the same blocks hold, the other way round.
//
// What the destination's clients have written since is above Sealed, whichever it was.
func reversed(index string, f journal.Freeze, before *replay.State) (s replay.State, why string) {
	proven, sealed, at := f.Proven[index], f.Sealed[index], f.SealedAs[index]
	if len(proven) == 0 || len(proven) != len(sealed) {
		return s, "the journal does not have its sequence numbers at the hand-over"
	}
	s = replay.NewState(index, at.UUID, sealed, at.Histories)
	if before == nil {
		if !slices.Equal(proven, sealed) {
			return s, fmt.Sprintf("its shards were at other sequence numbers at the source (%v) than at the destination (%v) at the hand-over", proven, sealed)
		}
		return s, ""
	}
	if len(before.Shards) != len(sealed) {
		return s, fmt.Sprintf("it had %d primary shards at the hand-over, and the journal's state of the replay has %d", len(sealed), len(before.Shards))
	}
	if s.SourceUUID == "" {
		s.SourceUUID = before.DestinationUUID
	}
	for k := range s.Shards {
		shard, base := &s.Shards[k], before.Shards[k].Base
		if base > proven[k] || base > sealed[k] {
			return s, fmt.Sprintf("shard %d was at %d at the source and at %d at the destination at the hand-over, below its base %d", k, proven[k], sealed[k], base)
		}
		shard.Base, shard.Started = base, true
		shard.DestinationFrom, shard.DestinationUpto, shard.Highest = proven[k], proven[k], proven[k]
		shard.Blocks = exchanged(before.Shards[k].Blocks, base, sealed[k], proven[k])
	}
	return s, ""
}

// exchanged are blocks with their sides exchanged, so that they cover (base, upto] and the other side's (base, otherUpto]. Above the last
// block of a replay that has ended there are deletions and no documents. Blocks that do not cover their part are one.
func exchanged(blocks []replay.Block, base, upto, otherUpto int64) []replay.Block {
	if base == upto && base == otherUpto {
		return nil
	}
	var out []replay.Block
	at, otherAt := base, base
	for _, b := range blocks {
		x := replay.Block{From: b.DestinationFrom, Upto: b.DestinationUpto, DestinationFrom: b.From, DestinationUpto: b.Upto}
		if x.From != at || x.DestinationFrom != otherAt || x.Upto < x.From || x.DestinationUpto < x.DestinationFrom || x.Upto > upto || x.DestinationUpto > otherUpto {
			out = nil
			break
		}
		at, otherAt = x.Upto, x.DestinationUpto
		out = append(out, x)
	}
	if len(out) == 0 {
		return []replay.Block{{From: base, Upto: upto, DestinationFrom: base, DestinationUpto: otherUpto}}
	}
	out[len(out)-1].Upto, out[len(out)-1].DestinationUpto = upto, otherUpto
	return out
}

// mappingTrial is a mapping of the destination that the source does not have, with the source's settings that it depends on.
type mappingTrial struct {
	indices  []string
	settings map[string]any
	mapping  json.RawMessage // of the destination
	present  json.RawMessage // of the source
}

// tryMappings finds mappings that the source's engine refuses, by an index that is made with them and deleted at once: no engine offers a
// trial without effect.
func (b *wayBack) tryMappings(ctx context.Context, p *migration.Plan) error {
	trials := map[string]*mappingTrial{}
	for _, x := range p.Indices {
		here, there := b.mappingsHere[x.Name], b.mappingsThere[x.Name]
		if verify.SameJSON(here, there) {
			continue
		}
		t := mappingTrial{settings: map[string]any{"index.number_of_shards": 1, "index.number_of_replicas": 0}, mapping: here, present: there}
		for k, v := range b.there[x.Name].Settings {
			if strings.HasPrefix(k, "index.analysis.") || strings.HasPrefix(k, "index.similarity.") || strings.HasPrefix(k, "index.mapping.") || k == "index.knn" {
				t.settings[k] = v
			}
		}
		key, err := json.Marshal([]any{t.settings, here, there})
		if err != nil {
			return fault.New(fault.Unclassified, "read the mapping of index "+x.Name, b.spec.Destination.Endpoint, err)
		}
		if trials[string(key)] == nil {
			trials[string(key)] = &t
		}
		trials[string(key)].indices = append(trials[string(key)].indices, x.Name)
	}
	for _, key := range slices.Sorted(maps.Keys(trials)) {
		t := trials[key]
		err := b.try(ctx, t.settings, t.mapping)
		if err == nil {
			continue
		}
		if fault.Retryable(err) {
			return err
		}
		// The trial itself may be at fault: a template, or a setting that only looks like the source's. Then its own mapping fails, too.
		if fault.Is(err, fault.RequestRefused) && b.try(ctx, t.settings, t.present) == nil {
			for _, name := range t.indices {
				b.refuse(name, "the source's engine refuses its mapping of now: %v", reason(err))
			}
			continue
		}
		p.Warnings = append(p.Warnings, fmt.Sprintf("whether the source's engine takes the mapping of %s could not be tried (%v); the first pass shows it, before writes are stopped",
			strings.Join(bounded(t.indices), ", "), reason(err)))
	}
	return nil
}

// reason is an error without what was being done when it came up.
func reason(err error) error {
	if f, ok := fault.As(err); ok && f.Err != nil {
		return f.Err
	}
	return err
}

func (b *wayBack) try(ctx context.Context, settings map[string]any, mapping json.RawMessage) error {
	name := ".domain-ferry-trial-" + b.spec.Migration // no pattern of a selection takes it
	there := b.Domain(b.spec.Source)
	return newUndoLog(b.journal, b.Domain, b.Clock).forAMoment(ctx, b.execution, b.spec.Source, name, func() error {
		return there.CreateIndex(ctx, name, settings, mapping)
	})
}

// fault lists all that cannot go back; of many, an error holds some, and the journal all.
func (b *wayBack) fault(ctx context.Context) error {
	if len(b.refused) == 0 || len(b.found.input) > 0 {
		return b.found.fault(b.spec.Migration)
	}
	slices.Sort(b.refused)
	if err := b.journal.SaveDocument(ctx, refusedFile, b.refused); err != nil {
		return err
	}
	return fault.Newf(fault.Incompatible, goingBack, "migration "+b.spec.Migration, "%d cannot go back, and nothing has been touched (all of them are in %s of the journal's folder %s):\n%s",
		len(b.refused), refusedFile, migration.WayBack(b.spec.Migration), strings.Join(bounded(b.refused), "\n")).
		WithHint("Mend what is named, or exclude it (indices.exclude): then it stays at the destination, which goes on taking its writes, and the source's index stays as it was.")
}

// save writes the way back to its journal, the plan last.
func (b *wayBack) save(ctx context.Context, p migration.Plan, state replayState) error {
	strategies, own := migration.Strategies{}, map[string]map[string]string{}
	for _, x := range p.Indices {
		strategies.Replay = append(strategies.Replay, migration.OnReplay{Index: x.Name, Reason: "going back"})
		own[x.Name] = map[string]string{}
		for _, setting := range []string{gcDeletes, "index.default_pipeline", "index.final_pipeline", replay.MergeOnRefresh} {
			if v, ok := b.there[x.Name].Settings[setting]; ok {
				own[x.Name][setting] = v
			}
		}
	}
	if err := b.journal.SaveDocument(ctx, ownSettingsFile, own); err != nil {
		return err
	}
	if err := b.journal.SaveStrategies(ctx, strategies); err != nil {
		return err
	}
	if err := state.save(ctx, b.journal); err != nil {
		return err
	}
	return b.journal.SavePlan(ctx, p)
}

// stuck says why a way back cannot go on: there are no rounds to bring over what the replay cannot, and a plan that is no longer that of the
// indices would leave something behind. Nothing has been stopped yet.
func stuck(p migration.Plan, h migration.History) error {
	if p.Spec.Mode != migration.GoBack || len(h.Dropped) == 0 && len(h.Follow) == 0 {
		return nil
	}
	var lines []string
	for _, d := range h.Dropped {
		lines = append(lines, fmt.Sprintf("index %s cannot go back: %s", d.Name, d.Reason))
	}
	for _, what := range h.Follow {
		lines = append(lines, "since the plan was made: "+what)
	}
	return fault.Newf(fault.IndicesChanged, goingBack, "migration "+p.Spec.Migration, "%s\n(Of what is said of a source or a destination here: documents go from %s to %s.)",
		strings.Join(bounded(lines), "\n"), p.Spec.Source.Endpoint, p.Spec.Destination.Endpoint).
		WithHint("Writes were never stopped and nothing is lost. Mend what is named at the domain that takes the writes, or exclude it (indices.exclude), then start mode goBack anew; what has been brought over is kept.")
}
