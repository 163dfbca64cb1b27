package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// PreflightInput is the execution's whole input, unread, and the execution's ARN.
type PreflightInput struct {
	Input     json.RawMessage `json:"input"`
	Execution string          `json:"execution"`
}

// PreflightOutput is what the operator sees of the plan; the plan itself is in the journal.
type PreflightOutput struct {
	Migration  string              `json:"migration"`
	Mode       migration.Mode      `json:"mode"`
	FirstRound int                 `json:"firstRound"` // one more than the journal's last
	ByRounds   bool                `json:"byRounds"`   // indices are to be brought up to date by rounds
	ByReplay   bool                `json:"byReplay"`   // indices are on replay from an earlier execution
	Engines    migration.Engines   `json:"engines"`
	Spec       migration.Spec      `json:"spec"` // with every default filled in
	Indices    int                 `json:"indices"`
	Docs       int64               `json:"docs"`
	Bytes      int64               `json:"bytes"`
	LeftOut    []migration.LeftOut `json:"leftOut"` // the first 100; the plan has all
	Warnings   []string            `json:"warnings"`
}

// PreflightDomain is what preflight asks a domain. It only reads, except for a way back.
type PreflightDomain interface {
	Info(context.Context) (cluster.Version, error)
	Health(context.Context) (cluster.Health, error)
	Indices(context.Context) ([]cluster.Index, error)
	DiskFree(context.Context) ([]cluster.NodeDisk, error)
	StreamLister
	Holder(ctx context.Context, name string) (string, error)
	WithoutTemplate(ctx context.Context, streams ...string) (without []string, known bool, err error)
	StatePolicyLister
	GoBackDomain
}

// Preflight checks the input and both domains, takes the domains for this execution and writes the plan. It changes no domain and no
// bucket but the journal, unless an earlier execution has ended and nobody has undone what it changed: that comes first.
type Preflight struct {
	Journal *journal.Store
	Domain  func(migration.Endpoint) PreflightDomain
	Clock   Clock
	End     journal.Undoing // the rule's Thaw
}

// findings collects everything that stands in the way, so that the operator gets it in one answer.
type findings struct {
	input        migration.Problems
	incompatible []string
	occupied     []string
	other        []*fault.Error
}

func (f findings) fault(target string) error {
	lines := make([]string, 0, len(f.input)+len(f.incompatible)+len(f.occupied))
	for _, p := range f.input {
		lines = append(lines, p.Path+": "+p.Text)
	}
	lines = append(append(lines, f.incompatible...), f.occupied...)
	for _, o := range f.other {
		lines = append(lines, o.Error())
	}
	if len(lines) == 0 {
		return nil
	}
	name := fault.InvalidInput
	switch {
	case len(f.input) > 0:
	case len(f.incompatible) > 0:
		name = fault.Incompatible
	case len(f.occupied) > 0:
		name = fault.DestinationOccupied
	default:
		name = f.other[0].Name
	}
	noun := "problems"
	if len(lines) == 1 {
		noun = "problem"
	}
	return fault.Newf(name, "check the migration", target, "%d %s, nothing has been touched:\n%s", len(lines), noun, strings.Join(lines, "\n"))
}

// Run is the state Preflight.
func (s Preflight) Run(ctx context.Context, in PreflightInput) (PreflightOutput, error) {
	spec, err := migration.DecodeSpec(in.Input)
	var found findings
	if errors.As(err, &found.input) {
		s.addUnmatched(ctx, spec, &found)
		return PreflightOutput{}, found.fault("input")
	}
	if spec.Mode == migration.GoBack {
		return s.goBack(ctx, in, spec)
	}
	j := s.Journal.Migration(spec.Migration)
	endpoints := []string{spec.Source.Endpoint, spec.Destination.Endpoint}
	if spec.Mode != migration.Assess {
		// Before anything is looked at: how the domains are now may be another execution's doing.
		if err := j.Vacate(ctx, in.Execution, s.End, endpoints...); err != nil {
			return PreflightOutput{}, err
		}
	}
	if f, ok, err := j.Freeze(ctx); err != nil {
		return PreflightOutput{}, err
	} else if ok && f.State != journal.Thawed && f.Execution != in.Execution {
		name := fault.Busy // until thaw has given writes back
		if f.State == journal.HandedOver || f.State == journal.WentBack {
			name = fault.DestinationOccupied
		}
		found.other = append(found.other, fault.Newf(name, "start migration "+spec.Migration, "its journal",
			"execution %s left it in state %q at %s; %s", f.Execution, f.State, f.StartedAt.Format("2006-01-02 15:04:05Z"), freezeHint(f.State)))
		return PreflightOutput{}, found.fault(spec.Migration)
	}
	p, err := s.plan(ctx, spec, j, &found)
	if err != nil {
		return PreflightOutput{}, err
	}
	if err := found.fault(spec.Migration); err != nil {
		return PreflightOutput{}, err
	}
	p.Execution = in.Execution
	rounds, err := j.Rounds(ctx)
	if err != nil {
		return PreflightOutput{}, err
	}
	first := 1
	if n := len(rounds); n > 0 {
		first = rounds[n-1].Number + 1
	}
	if spec.Mode != migration.Assess {
		// In this order: who owns the execution must be known before anything is to be given back at its end.
		if err := s.Journal.RecordOwner(ctx, journal.Owner{Migration: spec.Migration, Execution: in.Execution}); err != nil {
			return PreflightOutput{}, err
		}
		if err := j.Begin(ctx, in.Execution, s.Clock.Now(), s.End, endpoints...); err != nil {
			return PreflightOutput{}, err
		}
		if err := j.SavePlan(ctx, p); err != nil {
			return PreflightOutput{}, err
		}
	}
	strategies, err := j.Strategies(ctx)
	if err != nil {
		return PreflightOutput{}, err
	}
	byRounds, byReplay := strategies.Split(p)
	out := PreflightOutput{
		Migration: spec.Migration, Mode: spec.Mode, FirstRound: first, ByRounds: len(byRounds) > 0, ByReplay: len(byReplay) > 0, Engines: p.Engines, Spec: spec, Indices: len(p.Indices),
		LeftOut: p.LeftOut[:min(100, len(p.LeftOut))], Warnings: p.Warnings,
	}
	for _, x := range p.Indices {
		out.Docs += x.Docs
		out.Bytes += x.Bytes
	}
	return out, nil
}

func freezeHint(state journal.FreezeState) string {
	switch state {
	case journal.HandedOver:
		return `this migration is over and the destination takes writes; mode "goBack" brings them back to the source, moving again needs another migration name`
	case journal.WentBack:
		return "the source takes writes again, and its copies at the destination have taken some since, so that no round may go over them: " +
			"start it under another name, with another destination or after you have deleted its indices at this one"
	}
	return "writes are stopped on its behalf; wait until it ends, or run the thaw function with its execution ARN"
}

// addUnmatched names the include patterns that match nothing even when other parts of the input are wrong, as long as the
// source can be asked: the operator gets all problems at once. What the source answers otherwise does not matter here.
func (s Preflight) addUnmatched(ctx context.Context, spec migration.Spec, found *findings) {
	blocking := func(p migration.Problem) bool {
		return p.Path == "$" || p.Path == "$.source" || strings.HasPrefix(p.Path, "$.indices") ||
			strings.HasPrefix(p.Path, "$.source.endpoint") || strings.HasPrefix(p.Path, "$.source.domainArn")
	}
	if spec.Mode == migration.GoBack || slices.ContainsFunc(found.input, blocking) {
		return
	}
	list, err := s.Domain(spec.Source).Indices(ctx)
	if err != nil {
		return
	}
	if streams, err := streamsAmong(ctx, s.Domain(spec.Source), list); err == nil {
		found.unmatched(spec.Indices, list, streams)
	}
}

func (f *findings) unmatched(selection migration.Selection, list []cluster.Index, streams []cluster.DataStream) {
	var names []string
	for _, x := range list {
		names = append(names, x.Name)
	}
	for _, d := range streams {
		names = append(names, d.Name)
		for _, i := range selection.ExcludesPart(d.Name, d.Indices) {
			f.input = append(f.input, migration.Problem{
				Path: fmt.Sprintf("$.indices.exclude[%d]", i), Text: fmt.Sprintf("%q is for backing indices of data stream %q, which moves as a whole: exclude the stream by its name", selection.Exclude[i], d.Name),
			})
		}
	}
	for _, i := range selection.Unmatched(names) {
		f.input = append(f.input, migration.Problem{
			Path: fmt.Sprintf("$.indices.include[%d]", i), Text: fmt.Sprintf("%q matches no index and no data stream at the source", selection.Include[i]),
		})
	}
}

func (s Preflight) plan(ctx context.Context, spec migration.Spec, j *journal.Journal, found *findings) (migration.Plan, error) {
	source, destination := s.Domain(spec.Source), s.Domain(spec.Destination)
	p := migration.Plan{Spec: spec, CreatedAt: s.Clock.Now(), LeftOut: []migration.LeftOut{}, Warnings: []string{}}
	from, err := source.Info(ctx)
	if err != nil {
		return p, err
	}
	to, err := destination.Info(ctx)
	if err != nil {
		return p, err
	}
	p.Engines = migration.Engines{Source: from.String(), Destination: to.String()}
	if from.ClusterUUID != "" && from.ClusterUUID == to.ClusterUUID {
		found.input = append(found.input, migration.Problem{Path: "$.destination.endpoint", Text: "leads to the same cluster as the source's"})
	}
	if why := migration.RefuseEngines(engine(from), engine(to)); why != "" {
		found.incompatible = append(found.incompatible, why)
	}
	if err := s.selectIndices(ctx, source, engine(to), &p, found); err != nil {
		return p, err
	}
	return p, s.checkDestination(ctx, destination, j, &p, found)
}

// selectIndices expands include and exclude to explicit names and checks each index.
func (s Preflight) selectIndices(ctx context.Context, source PreflightDomain, to migration.Engine, p *migration.Plan, found *findings) error {
	list, err := source.Indices(ctx)
	if err != nil {
		return err
	}
	streams, err := streamsAmong(ctx, source, list)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b cluster.Index) int { return strings.Compare(a.Name, b.Name) })
	found.unmatched(p.Spec.Indices, list, streams)
	chosen := choose(p.Spec.Indices, list, streams)
	for _, x := range list {
		c := chosen[x.Name]
		if !c.taken {
			if c.reason != "" {
				p.LeftOut = append(p.LeftOut, migration.LeftOut{Name: x.Name, Reason: c.reason})
			}
			continue
		}
		if x.Health == "red" {
			found.other = append(found.other, fault.Newf(fault.SnapshotFailed, "take index "+x.Name, p.Spec.Source.Endpoint, "it is red; a snapshot of it would be partial"))
		}
		q, err := planIndex(x, p.Spec, to, p.Spec.Source.Endpoint)
		if fault.Is(err, fault.Incompatible) {
			found.incompatible = append(found.incompatible, "index "+x.Name+": "+errors.Unwrap(err).Error())
		} else if err != nil {
			return err
		}
		q.Stream = c.stream
		p.Indices = append(p.Indices, q)
	}
	p.Streams = planStreams(p.Indices, streams)
	if len(p.Indices) == 0 && len(found.input) == 0 {
		found.input = append(found.input, migration.Problem{Path: "$.indices", Text: "selects no index that can be moved"})
	}
	return nil
}

func planned(x cluster.Index, spec migration.Spec) migration.PlannedIndex {
	q := migration.PlannedIndex{
		Name: x.Name, UUID: x.UUID, Shards: x.Primaries, Replicas: x.Settings["index.number_of_replicas"],
		AutoExpand: x.Settings["index.auto_expand_replicas"], RefreshInterval: x.Settings["index.refresh_interval"],
		WriteBlock: x.Settings["index.blocks.write"], Docs: x.Docs, Bytes: x.StoreBytes,
	}
	if spec.Replicas != nil {
		q.Replicas, q.AutoExpand = fmt.Sprint(*spec.Replicas), "false"
	}
	if spec.Finish.RefreshInterval != "" {
		q.RefreshInterval = spec.Finish.RefreshInterval
	}
	return q
}

// checkDestination refuses names that this migration did not make and volumes that are too small, and warns of a red domain.
func (s Preflight) checkDestination(ctx context.Context, destination PreflightDomain, j *journal.Journal, p *migration.Plan, found *findings) error {
	health, err := destination.Health(ctx)
	if err != nil {
		return err
	}
	if health.Status == "red" {
		p.Warnings = append(p.Warnings, "the destination is red; look at it before you rely on it")
	}
	list, err := destination.Indices(ctx)
	if err != nil {
		return err
	}
	copies, err := j.Copies(ctx)
	if err != nil {
		return err
	}
	there := byName(list)
	var needed int64
	for _, x := range p.Indices {
		_, exists := there[x.Name]
		switch {
		case exists && !slices.Contains(copies.Indices, x.Name):
			found.occupied = append(found.occupied, fmt.Sprintf("index %s exists at the destination and was not made by this migration", x.Name))
		case !exists:
			needed += x.Bytes
		}
	}
	if err := checkStreams(ctx, destination, copies, p, found); err != nil {
		return err
	}
	disks, err := destination.DiskFree(ctx)
	if err != nil {
		return err
	}
	var free int64
	for _, d := range disks {
		free += d.FreeBytes
	}
	switch {
	case len(disks) == 0:
		p.Warnings = append(p.Warnings, "the destination does not say how much disk is free; make sure that it has room")
	case free < needed:
		found.other = append(found.other, fault.Newf(fault.InsufficientDisk, "find room at the destination", p.Spec.Destination.Endpoint,
			"the indices need %d bytes, %d are free on %d nodes", needed, free, len(disks)))
	case free < needed*5/4:
		p.Warnings = append(p.Warnings, fmt.Sprintf("little room at the destination: %d bytes needed, %d free", needed, free))
	}
	warnOfStatePolicies(ctx, destination, p)
	return nil
}

// checkStreams refuses data streams whose names the destination has for something that this migration did not make, and warns of those
// that cannot roll over there. Those of Elasticsearch, which Amazon never offered, are refused: that OpenSearch restores them has not been
// seen.
func checkStreams(ctx context.Context, destination PreflightDomain, copies journal.Copies, p *migration.Plan, found *findings) error {
	if len(p.Streams) == 0 {
		return nil
	}
	names := make([]string, len(p.Streams))
	for i, d := range p.Streams {
		names[i] = d.Name
	}
	if strings.HasPrefix(p.Engines.Source, cluster.Elasticsearch) {
		found.incompatible = append(found.incompatible, fmt.Sprintf("data streams of Elasticsearch are not moved: exclude %s", strings.Join(bounded(names), ", ")))
		return nil
	}
	for _, d := range p.Streams {
		holder, err := destination.Holder(ctx, d.Name)
		if err != nil {
			return err
		}
		if holder != "" && !(holder == "data stream" && slices.Contains(copies.Streams, d.Name)) {
			found.occupied = append(found.occupied, fmt.Sprintf("the destination has %s %s with the name of data stream %s, which was not made by this migration", article(holder), holder, d.Name))
		}
	}
	without, known, err := destination.WithoutTemplate(ctx, names...)
	switch {
	case err != nil:
		return err
	case !known:
		p.Warnings = append(p.Warnings, "the destination does not show its index templates; make sure that there are some with data_stream for "+strings.Join(bounded(names), ", ")+
			": without, a data stream takes writes after the cut-over but cannot roll over")
	case len(without) > 0:
		p.Warnings = append(p.Warnings, "no index template with data_stream at the destination is for "+strings.Join(bounded(without), ", ")+
			": after the cut-over a data stream takes writes without, but cannot roll over until there is one")
	}
	return nil
}
