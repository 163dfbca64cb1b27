package step

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
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

// VerifyInput is the final round.
type VerifyInput struct {
	Migration string `json:"migration"`
	Round     int    `json:"round"`
	Execution string `json:"execution"`
}

// VerifyOutput is the verdict; the checks are in the journal.
type VerifyOutput struct {
	Verdict migration.Verdict `json:"verdict"`
	Checks  int               `json:"checks"`
	Seconds float64           `json:"seconds"`
}

// VerifyDomain is what verification reads of a domain.
type VerifyDomain interface {
	VerifyShards
	VerifyDescriptions
	VerifyDocuments
	StreamLister
}

// VerifyShards is how far a domain's shards have come and what they hold.
type VerifyShards interface {
	Refresh(ctx context.Context, indices ...string) error
	SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error)
	Shards(ctx context.Context, indices ...string) ([]cluster.Shard, error)
}

// VerifyDescriptions is how a domain describes its indices.
type VerifyDescriptions interface {
	IndexSettings(ctx context.Context, indices ...string) (map[string]map[string]string, error)
	Mappings(ctx context.Context, indices ...string) (map[string]json.RawMessage, error)
	Aliases(ctx context.Context, indices ...string) (map[string]map[string]json.RawMessage, error)
}

// VerifyDocuments is how single documents are read.
type VerifyDocuments interface {
	SampleDocuments(ctx context.Context, index string, ranges []cluster.SeqRange, n int) ([]cluster.Document, error)
	GetDocuments(ctx context.Context, index string, keys []cluster.DocumentKey) ([]cluster.Document, error)
}

// ReplayVerifier compares replayed indices, whose shards are numbered in another way than the source's.
type ReplayVerifier interface {
	Verify(ctx context.Context, states []replay.State, limit int64, deadline time.Time) ([]replay.Evidence, error)
}

// Verify compares the frozen source with the restored destination. It is bounded, because writes stand still meanwhile: the
// documents sampled are few, everything else is one request for many indices, and all of it goes on side by side.
type Verify struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) VerifyDomain
	Replay  func(source, destination migration.Endpoint) ReplayVerifier
	Clock   Clock
}

const (
	samplesPerIndex = 40
	samplesInAll    = 400
	sampledIndices  = 40 // of more, every so manieth
	samplers        = 8  // indices sampled at once
	// Of a replayed index that many of the latest changed documents are compared by hash; all were compared by count.
	replayedSamples = 200
	replayedTime    = 5 * time.Second
)

// Run is the state Verify.
func (s Verify) Run(ctx context.Context, in VerifyInput) (VerifyOutput, error) {
	// Writes stand still: what the journal has is read at once.
	var f journal.Freeze
	var frozen bool
	var strategies migration.Strategies
	var state replayState
	j, p, err := planAnd(ctx, s.Journal, ReplayInput{Migration: in.Migration, Execution: in.Execution},
		func(ctx context.Context, j *journal.Journal) (err error) { f, frozen, err = j.Freeze(ctx); return err },
		func(ctx context.Context, j *journal.Journal) (err error) {
			strategies, err = j.Strategies(ctx)
			return err
		},
		func(ctx context.Context, j *journal.Journal) (err error) { state, err = readState(ctx, j); return err })
	if err != nil {
		return VerifyOutput{}, err
	}
	if !frozen || f.Execution != p.Execution || f.State == journal.Thawed {
		return VerifyOutput{}, fault.Newf(fault.Superseded, "verify migration "+in.Migration, p.Spec.Source.Endpoint, "writes are not stopped on behalf of this execution, so the two sides cannot be compared")
	}
	v := migration.Verification{StartedAt: s.Clock.Now()}
	source, destination := s.Domain(p.Spec.Source), s.Domain(p.Spec.Destination)
	// Counts include the last writes before the freeze then.
	if err := refreshBoth(ctx, source, destination, p); err != nil {
		return VerifyOutput{}, err
	}
	var compared, replayed, streams []migration.Check
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		compared, err = compare(groupCtx, source, destination, p, strategies)
		return err
	})
	group.Go(func() (err error) {
		replayed, err = s.replayed(groupCtx, p, strategies, state)
		return err
	})
	group.Go(func() (err error) {
		streams, err = compareStreams(groupCtx, source, destination, p)
		return err
	})
	if err := group.Wait(); err != nil {
		return VerifyOutput{}, err
	}
	v.Checks = slices.Concat(compared, replayed, streams)
	v.Verdict = migration.Judge(v.Checks)
	v.Seconds = seconds(v.StartedAt, s.Clock.Now())
	if err := j.SaveDocument(ctx, journal.VerificationFile, v); err != nil {
		return VerifyOutput{}, err
	}
	out := VerifyOutput{Verdict: v.Verdict, Checks: len(v.Checks), Seconds: v.Seconds}
	if v.Verdict == migration.Failed {
		return out, fault.Newf(fault.VerificationFailed, "verify migration "+in.Migration, p.Spec.Destination.Endpoint, "%s", broken(v.Checks))
	}
	return out, nil
}

// refreshBoth refreshes the planned indices on both sides.
func refreshBoth(ctx context.Context, source, destination VerifyShards, p migration.Plan) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Refresh(ctx, p.Names()...) })
	group.Go(func() error { return destination.Refresh(ctx, p.Names()...) })
	return group.Wait()
}

// compare describes every index on both sides, samples documents of some, and gives the checks.
func compare(ctx context.Context, source, destination VerifyDomain, p migration.Plan, strategies migration.Strategies) ([]migration.Check, error) {
	var from, to map[string]verify.Index
	sides, sidesCtx := errgroup.WithContext(ctx)
	sides.Go(func() (err error) { from, err = describe(sidesCtx, source, p); return err })
	sides.Go(func() (err error) { to, err = describe(sidesCtx, destination, p); return err })
	if err := sides.Wait(); err != nil {
		return nil, err
	}
	checks := make([][]migration.Check, len(p.Indices))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(samplers)
	stride := (len(p.Indices) + sampledIndices - 1) / sampledIndices
	samples := min(samplesPerIndex, samplesInAll/min(len(p.Indices), sampledIndices))
	for i, x := range p.Indices {
		group.Go(func() (err error) {
			a, b := from[x.Name], to[x.Name]
			if a.Present && b.Present && b.Started && i%stride == 0 {
				if a.Samples, b.Samples, err = sample(groupCtx, source, destination, x.Name, a, samples); err != nil {
					return err
				}
			}
			checks[i] = verify.Compare(x.Name, a, b)
			if strategies.Has(x.Name) {
				checks[i] = slices.DeleteFunc(checks[i], func(c migration.Check) bool { return c.Name == verify.SequenceNumbers })
			}
			return nil
		})
	}
	err := group.Wait()
	return slices.Concat(checks...), err
}

// replayed are the checks of the indices on replay, one each: what the shared region and the replayed one hold on both sides.
func (s Verify) replayed(ctx context.Context, p migration.Plan, strategies migration.Strategies, state replayState) ([]migration.Check, error) {
	_, indices := strategies.Split(p)
	if len(indices) == 0 {
		return nil, nil
	}
	evidence, err := s.Replay(p.Spec.Source, p.Spec.Destination).Verify(ctx, state.States, replayedSamples, s.Clock.Now().Add(replayedTime))
	if err != nil {
		return nil, err
	}
	found := map[string]replay.Evidence{}
	for _, e := range evidence {
		found[e.Index] = e
	}
	checks := make([]migration.Check, len(indices))
	for i, x := range indices {
		c := migration.Check{Name: "replayed-documents", Index: x.Name, Outcome: migration.Unknown, Evidence: "the replay has no state of the index"}
		if e, there := found[x.Name]; there {
			c.Outcome = migration.Passed
			if !e.OK {
				c.Outcome = migration.Broken
			}
			c.Evidence = strings.TrimSpace(fmt.Sprintf("shared region %d and %d documents in %d ranges, replayed region %d and %d documents, %d equal by hash %s",
				e.SharedSource, e.SharedDestination, e.SharedBuckets, e.ReplayedSource, e.ReplayedDestination, e.Hashed-e.Different, e.Reason))
			if e.Unmoved > 0 {
				c.Evidence += fmt.Sprintf("; %d of %d shards were compared by a pass, and neither side has had an operation since", e.Unmoved, e.Shards)
			}
		}
		checks[i] = c
	}
	return checks, nil
}

func broken(checks []migration.Check) string {
	var lines []string
	for _, c := range checks {
		if c.Outcome == migration.Broken || c.Outcome == migration.Unknown {
			lines = append(lines, fmt.Sprintf("%s of index %s: %s (%s)", c.Name, c.Index, c.Outcome, c.Evidence))
		}
	}
	return strings.Join(bounded(lines), "; ")
}

// describe reads one side of every planned index, as its last refresh left it.
func describe(ctx context.Context, domain VerifyDomain, p migration.Plan) (map[string]verify.Index, error) {
	names := p.Names()
	var (
		sequences map[string][]cluster.ShardSequence
		shards    []cluster.Shard
		settings  map[string]map[string]string
		mappings  map[string]json.RawMessage
		aliases   map[string]map[string]json.RawMessage
	)
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { sequences, err = domain.SequenceNumbers(groupCtx, names...); return err })
	group.Go(func() (err error) { shards, err = domain.Shards(groupCtx, names...); return err })
	group.Go(func() (err error) { settings, err = domain.IndexSettings(groupCtx, names...); return err })
	group.Go(func() (err error) { mappings, err = domain.Mappings(groupCtx, names...); return err })
	group.Go(func() (err error) { aliases, err = domain.Aliases(groupCtx, names...); return err })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	started := map[string]int{}
	for _, sh := range shards {
		if sh.Primary && (sh.State == "STARTED" || sh.State == "RELOCATING") {
			started[sh.Index]++
		}
	}
	side := map[string]verify.Index{}
	for _, x := range p.Indices {
		v := verify.Index{Aliases: aliases[x.Name], Mapping: mappings[x.Name], Settings: settings[x.Name]}
		v.Present = v.Settings != nil
		v.Started = started[x.Name] >= x.Shards && len(sequences[x.Name]) == x.Shards
		for _, q := range sequences[x.Name] {
			v.MaxSeqNo = append(v.MaxSeqNo, q.MaxSeqNo)
			v.Docs += q.Docs
		}
		side[x.Name] = v
	}
	return side, nil
}

// sample hashes some documents of the source, as described, and the same ones at the destination.
func sample(ctx context.Context, source, destination VerifyDocuments, index string, described verify.Index, n int) (from, to map[string]string, err error) {
	documents, err := source.SampleDocuments(ctx, index, scattered(index, described, n), n)
	if err != nil {
		return nil, nil, err
	}
	keys := make([]cluster.DocumentKey, len(documents))
	for i, d := range documents {
		keys[i] = d.DocumentKey
	}
	if from, err = digests(documents); err != nil || len(keys) == 0 {
		return from, from, err
	}
	copies, err := destination.GetDocuments(ctx, index, keys)
	if err != nil {
		return nil, nil, err
	}
	to, err = digests(copies)
	return from, to, err
}

// scattered are n short ranges of sequence numbers over the whole index, each of which one document is expected in. The index's name
// decides them, so that a repeated verification looks at the same documents.
func scattered(index string, x verify.Index, n int) []cluster.SeqRange {
	if x.Docs == 0 || len(x.MaxSeqNo) == 0 {
		return nil
	}
	numbers := slices.Max(x.MaxSeqNo) + 1
	width := (numbers + x.Docs - 1) / x.Docs
	if numbers <= width*int64(n) {
		return []cluster.SeqRange{{From: -1, Upto: numbers}}
	}
	h := fnv.New64a()
	h.Write([]byte(index))
	random := rand.New(rand.NewPCG(h.Sum64(), uint64(n)))
	ranges := make([]cluster.SeqRange, n)
	for i := range ranges {
		from := random.Int64N(numbers-width+1) - 1
		ranges[i] = cluster.SeqRange{From: from, Upto: from + width}
	}
	return ranges
}

func digests(documents []cluster.Document) (map[string]string, error) {
	m := map[string]string{}
	for _, d := range documents {
		if !d.Found {
			continue
		}
		digest, err := verify.Digest(d.ID, d.Routing, d.Version, d.Source)
		if err != nil {
			return nil, fault.New(fault.Unclassified, "hash a sampled document", d.ID, err)
		}
		m[d.ID+"/"+d.Routing] = digest
	}
	return m, nil
}
