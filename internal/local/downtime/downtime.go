// Package downtime is `make bench-downtime`: it measures the write downtime of three ways to move an index between two domains on
// this machine, in one run and interleaved, as a client sees it that keeps writing: from its first refused write to the first one
// that the destination accepts.
//
//   - hand: the procedure that people follow by hand (write block, incremental snapshot, `aws s3 sync --size-only`, full restore);
//   - ferry: Domain Ferry's cut-over of a warm migration, by the real state machines and Lambda binaries;
//   - scroll: a copy document by document, as re-indexing tools do.
//
// The source is filled once for a size and put back to that state, from a snapshot of its own, before each run, so that every run
// begins alike; then clients start to write, a part of the data is changed, and the procedure is carried out. After each run the
// destination must hold every acknowledged write, or the run does not count.
//
// Times are never passed or failed: an expectation that is missed is said loudly. A copy that is not whole is an error.
package downtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/workload"
)

// Procedure is a way to move an index.
type Procedure string

// The procedures.
const (
	Hand   Procedure = "hand"
	ByDF   Procedure = "ferry"
	Scroll Procedure = "scroll"
)

// Workload is how the data changes.
type Workload string

// The workloads, with the change between base and cut-over.
const (
	Append Workload = "append" // 1 % of the documents appended to an append-only index
	Update Workload = "update" // 1 % of the documents updated and 0.2 % deleted, at random
)

func (w Workload) kind() workload.Kind {
	if w == Append {
		return workload.Logs
	}
	return workload.Catalogue
}

func (w Workload) change(documents int64) workload.Change {
	if w == Append {
		return workload.Change{Inserts: int(documents / 100)}
	}
	return workload.Change{Updates: int(documents / 100), Deletes: int(documents / 500)}
}

// Throttle is how fast the engines may snapshot and restore.
type Throttle string

// The throttles. A copy by scroll meets neither.
const (
	Default Throttle = "default" // the engines' own, 40 MB/s a node
	Raised  Throttle = "raised"  // 1 GB/s, of recoveries and of both repositories
	NoneMet Throttle = "-"
)

// Config says what to measure. Everything is needed but Progress.
type Config struct {
	Environment environment.Config // its LogDir is made below Out
	Sizes       []int              // of the primaries on disk, MB, rising
	Workloads   []Workload
	Throttles   []Throttle
	Pairs       int           // runs of hand and of ferry in each cell
	Scrolls     int           // runs of scroll for each size and workload
	Slices      int           // of a scroll, side by side; 1 is a plain scroll
	Window      time.Duration // downtimeWindow given to Domain Ferry
	Rate        float64       // operations a second of the clients
	Seed        uint64
	Compare     bool   // read both sides whole after the first run of Domain Ferry in each cell
	Out         string // folder of the picture and of the logs
	JSON        string // file of the figures, written after every run
	Docs        string // folder of the dated copy; "" makes none
	Progress    io.Writer
}

func (c Config) check() error {
	switch {
	case len(c.Sizes) == 0 || len(c.Workloads) == 0 || len(c.Throttles) == 0:
		return errors.New("at least one size, workload and throttle is wanted")
	case c.Pairs < 1 || c.Scrolls < 0 || c.Slices < 1:
		return errors.New("at least one pair and one slice are wanted")
	case c.Window < time.Second:
		return fmt.Errorf("window %s: at least a second is wanted", c.Window)
	case c.Rate <= 0:
		return fmt.Errorf("rate %g: clients that write are wanted", c.Rate)
	}
	for i, s := range c.Sizes {
		if s < 1 || i > 0 && s <= c.Sizes[i-1] {
			return fmt.Errorf("sizes %v: whole MB, rising, are wanted", c.Sizes)
		}
	}
	for _, w := range c.Workloads {
		if w != Append && w != Update {
			return fmt.Errorf("workload %q is neither %q nor %q", w, Append, Update)
		}
	}
	for _, t := range c.Throttles {
		if t != Default && t != Raised {
			return fmt.Errorf("throttle %q is neither %q nor %q", t, Default, Raised)
		}
	}
	return nil
}

// bench is one workload's environment and what is filled in it.
type bench struct {
	cfg                 Config
	aws                 string // the AWS CLI
	env                 *environment.Environment
	source, destination domain // through the front doors, signed
	filled              filled
}

// Measure measures everything. Whatever happens, it leaves nothing running. The report has all runs that were finished, also with an
// error; runs that failed are in it with their errors, and make an error of the whole.
func Measure(ctx context.Context, cfg Config) (report Report, err error) {
	if err := cfg.check(); err != nil {
		return report, err
	}
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	cli, err := exec.LookPath("aws")
	if err != nil {
		return report, fmt.Errorf("the hand procedure copies with the AWS CLI: %w (tools/python/requirements.txt has it)", err)
	}
	for _, dir := range []string{cfg.Out, filepath.Dir(cfg.JSON)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return report, err
		}
	}
	if report, err = newReport(ctx, cfg, cli); err != nil {
		return report, err
	}
	clock := newETA(cfg)
	for _, w := range cfg.Workloads {
		err := oneWorkload(ctx, cfg, cli, w, clock, &report)
		report.summarise()
		if err := errors.Join(err, report.save(cfg)); err != nil {
			return report, err
		}
	}
	if n := report.failures(); n > 0 {
		return report, fmt.Errorf("%d of %d runs failed; they are not in the table", n, len(report.Runs))
	}
	return report, nil
}

func oneWorkload(ctx context.Context, cfg Config, cli string, w Workload, clock *eta, report *Report) (err error) {
	started := cfg.Environment
	started.LogDir = filepath.Join(cfg.Out, "logs-"+string(w))
	started.Progress = cfg.Progress
	b := &bench{cfg: cfg, aws: cli}
	if b.env, err = environment.Start(ctx, started); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.env.Close()) }()
	b.source = domain{b.env.Source.Client(environment.Operator)}
	b.destination = domain{b.env.Destination.Client(environment.Operator)}
	for _, size := range cfg.Sizes {
		began := time.Now()
		if err := b.grow(ctx, w.kind(), int64(size)*1e6); err != nil {
			return err
		}
		clock.done(fillCost(cfg.Sizes, size))
		b.say("%s: filled to %s on disk (%d documents, %s of JSON) in %.0f s; %s", b.filled.index, mb(b.filled.bytes),
			b.filled.dataset.Documents(), mb(b.filled.dataset.Bytes()), time.Since(began).Seconds(), clock)
		failed := 0
		for _, run := range plan(cfg, size, w) {
			b.carryOut(ctx, &run)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			clock.done(runCost(run))
			report.Runs = append(report.Runs, run)
			report.summarise()
			if err := report.save(cfg); err != nil {
				return err
			}
			b.say("%s; %s", run, clock)
			if failed++; run.Error == "" {
				failed = 0
			}
			if failed == 3 {
				return fmt.Errorf("three runs in a row have failed, the last one with: %s", run.Error)
			}
		}
	}
	return nil
}

// plan is the order of a size's runs: hand and ferry take turns in going first, so that neither always meets the warmer machine.
func plan(cfg Config, size int, w Workload) []Run {
	random := rand.New(rand.NewPCG(cfg.Seed, uint64(size)))
	handFirst := random.IntN(2) == 0
	var runs []Run
	for i, t := range cfg.Throttles {
		for pair := range cfg.Pairs {
			order := []Procedure{ByDF, Hand}
			if handFirst {
				order = []Procedure{Hand, ByDF}
			}
			handFirst = !handFirst
			for _, p := range order {
				runs = append(runs, Run{Procedure: p, Size: size, Workload: w, Throttle: t, Pair: pair + 1})
			}
			if i == 0 && pair < cfg.Scrolls {
				runs = append(runs, Run{Procedure: Scroll, Size: size, Workload: w, Throttle: NoneMet, Pair: pair + 1})
			}
		}
	}
	for i := range runs {
		runs[i].Migration = fmt.Sprintf("bench-%s-%d-%d", w, size, i+1)
	}
	return runs
}

// carryOut does one run from the filled source to the checked destination, and notes what became of it.
func (b *bench) carryOut(ctx context.Context, run *Run) {
	began := time.Now()
	err := b.measure(ctx, run)
	// Whatever happened to the run, the next one needs free names and room.
	cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	if ctx.Err() == nil {
		err = errors.Join(err, b.cleanUp(cleaning, run))
	}
	if err != nil {
		run.Error = err.Error()
	}
	run.TotalSeconds = round(time.Since(began).Seconds())
}

func (b *bench) cleanUp(ctx context.Context, run *Run) error {
	destinationNode := domain{workload.Client{URL: b.env.Destination.Direct}}
	err := destinationNode.recoveryRate(ctx, "")
	switch run.Procedure {
	case Hand:
		return errors.Join(err, b.cleanUpByHand(ctx))
	case ByDF:
		return errors.Join(err, b.cleanUpByFerry(ctx, run))
	}
	return errors.Join(err, b.destination.deleteIndex(ctx, b.filled.index))
}

func (b *bench) measure(ctx context.Context, run *Run) error {
	if err := b.reset(ctx); err != nil {
		return err
	}
	run.SourceBytes, run.Documents = b.filled.bytes, b.filled.dataset.Documents()
	if run.Throttle == Raised {
		destinationNode := domain{workload.Client{URL: b.env.Destination.Direct}}
		if err := destinationNode.recoveryRate(ctx, raised); err != nil {
			return err
		}
	}
	var carry func(context.Context, *Run, *workload.Writer) error
	switch run.Procedure {
	case Hand:
		carry = b.byHandFrom
		if err := b.prepareByHand(ctx, run); err != nil {
			return err
		}
	case ByDF:
		carry = b.byFerry
		if err := b.prepareByFerry(ctx, run); err != nil {
			return err
		}
	case Scroll:
		carry = b.byScroll
	}
	writer, err := workload.StartWriter(ctx, b.source.Client, b.filled.dataset, workload.WriterOptions{Rate: b.cfg.Rate})
	if err != nil {
		return err
	}
	moved := b.whileWriting(ctx, run, writer, carry)
	stopping, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if moved != nil {
		cancel() // nobody answers the refused writes any more
	}
	stopped := writer.Stop(stopping)
	if moved != nil {
		return moved
	}
	if stopped != nil {
		return stopped
	}
	return b.verify(ctx, run, writer)
}

// whileWriting changes the source, carries the procedure out and waits until the clients write at the destination.
func (b *bench) whileWriting(ctx context.Context, run *Run, writer *workload.Writer, carry func(context.Context, *Run, *workload.Writer) error) error {
	change := run.Workload.change(b.filled.dataset.Documents())
	run.Changed = change.Operations()
	if err := writer.Apply(change); err != nil {
		return err
	}
	const some = 100 // writes of the clients' own
	before := writer.Stats().Acknowledged
	if err := awaitEvery(ctx, "the clients' first writes", 20*time.Millisecond, time.Minute, func(context.Context) (bool, error) {
		return writer.Stats().Acknowledged >= before+some, nil
	}); err != nil {
		return err
	}
	if err := carry(ctx, run, writer); err != nil {
		return err
	}
	if err := awaitEvery(ctx, "writes at the destination", 20*time.Millisecond, time.Minute, func(context.Context) (bool, error) {
		return writer.Stats().AtDestination >= some, nil
	}); err != nil {
		return err
	}
	s := writer.Stats()
	if len(s.Interruptions) != 1 || s.AcceptedBy != workload.Destination || s.DowntimeSeconds <= 0 {
		return fmt.Errorf("the clients saw no single write downtime that ended at the destination: %+v", s.Interruptions)
	}
	run.DowntimeSeconds = round(s.DowntimeSeconds)
	run.WritesAtSource = s.AtSource
	return nil
}

// phase is a step of a procedure.
type phase struct {
	name string
	do   func(context.Context) error
}

// phases carries steps out one after the other and notes how long each took.
type phases struct{ run *Run }

func (p phases) do(ctx context.Context, steps []phase) error {
	for _, s := range steps {
		began := time.Now()
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		p.run.Phases = append(p.run.Phases, Phase{s.name, round(time.Since(began).Seconds())})
	}
	return nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.cfg.Progress, "%s  %s\n", time.Now().UTC().Format("15:04:05"), fmt.Sprintf(format, args...))
}

func joinCause(ctx context.Context, err error) error { return errors.Join(context.Cause(ctx), err) }

func mb(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }

func writeJSON(path string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(body, '\n'), 0o644)
}
