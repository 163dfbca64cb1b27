// Package fire is the trial of correctness under fire: a whole migration in the local environment while clients insert, update, delete
// and bring back documents as fast as they can, with faults, killed nodes and a cut-over that is called off; afterwards every
// document of both sides is compared with what the clients know was acknowledged.
package fire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/workload"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
	"github.com/domainferry/domainferry/internal/watch"
)

// Config is one trial.
type Config struct {
	Environment environment.Config
	Seed        uint64
	Bytes       int64   // filled before the start; 0 is the workload's default
	Rate        float64 // client operations a second; 0 is the workload's default
	LastMile    string
	Window      string // downtimeWindow of the first execution
	// Cuts is the share of requests whose connection the clients cut.
	Cuts float64
	// StopIn names the state of the migration machine in which the first execution is stopped; "" for none. The clients must get
	// their writes back, and a second execution goes on.
	StopIn string
	// Kill names the side ("source", "destination") whose node is killed and started again as the machine enters Warm for the second time.
	Kill string
	// Warmup and Afterwards are how long clients write before the migration and after the hand-over.
	Warmup, Afterwards time.Duration
	// Writing is how long the clients write in all, at least; the cut-over waits for half of it. 0 is as long as the migration takes.
	Writing time.Duration
	// Tool is a program that compares indices of two nodes independently ("TOOL source destination index..."); "" for none.
	Tool     string
	Progress io.Writer
}

// ForSeed is the trial that a seed stands for. Odd seeds are disturbed: 504s, killed Lambdas, S3 errors, the domains' own snapshots,
// and clients whose connections break.
func ForSeed(seed uint64, env environment.Config) Config {
	random := rand.New(rand.NewPCG(seed, 0xf14e))
	cfg := Config{Environment: env, Seed: seed, Window: "30s", Warmup: 3 * time.Second, Afterwards: 3 * time.Second, Progress: io.Discard}
	cfg.LastMile = []string{"auto", "replay", "rounds"}[seed%3]
	cfg.StopIn = []string{"", "MoveLastDelta", "", "Verify", "Warm"}[random.IntN(5)]
	cfg.Kill = []string{"", "destination", "", "source"}[random.IntN(4)]
	cfg.Rate = 600 + float64(random.IntN(4))*100
	cfg.Environment.Faults = environment.Faults{Seed: seed}
	if seed%2 == 1 {
		cfg.Environment.Faults, _ = environment.ParseFaults("all", seed) // "all" always parses
		cfg.Cuts, cfg.Window = 0.005, "120s"
	}
	return cfg
}

// Result is what a trial found.
type Result struct {
	Seed        uint64                `json:"seed"`
	Source      string                `json:"source"`
	Destination string                `json:"destination"`
	EnginesAre  string                `json:"enginesAre"`
	Faults      string                `json:"faults"`
	LastMile    string                `json:"lastMile"`
	StopIn      string                `json:"stopIn,omitempty"`
	Kill        string                `json:"kill,omitempty"`
	Indices     []workload.MixedIndex `json:"indices"`
	Filled      int64                 `json:"filled"` // documents
	FilledBytes int64                 `json:"filledBytes"`
	Writer      workload.MixedStats   `json:"writer"`
	Executions  []string              `json:"executions"` // how each ended
	Rounds      int                   `json:"rounds"`     // of the last one
	Passes      int                   `json:"passes"`
	ByReplay    []string              `json:"byReplay"` // indices whose last changes went by replay
	Downtime    report.WriteDowntime  `json:"writeDowntime"`
	Verdict     migration.Verdict     `json:"verdict"`
	Compared    workload.MixedResult  `json:"compared"`
	// Tool is what the independent program found: "identical", its output, or why it did not run.
	Tool         string  `json:"tool"`
	ToolDiffers  bool    `json:"toolDiffers"`
	TotalSeconds float64 `json:"totalSeconds"`
	Failed       string  `json:"failed,omitempty"` // why the trial could not be carried through
}

// Problem is nil when nothing was lost, added or changed, and the product knew it.
func (r Result) Problem() error {
	var problems []error
	if r.Failed != "" {
		problems = append(problems, errors.New(r.Failed))
	}
	if err := r.Compared.Problem(); err != nil {
		problems = append(problems, err)
	}
	if r.ToolDiffers {
		problems = append(problems, fmt.Errorf("the independent comparison: %s", r.Tool))
	}
	if r.Writer.Surprises > 0 {
		problems = append(problems, fmt.Errorf("%d answers contradict what was acknowledged before, the first: %s", r.Writer.Surprises, r.Writer.FirstSurprise[0]))
	}
	if r.Failed == "" && r.Verdict != migration.Verified && r.Verdict != migration.VerifiedWithWarnings {
		problems = append(problems, fmt.Errorf("the migration's own verdict is %q", r.Verdict))
	}
	return errors.Join(problems...)
}

// Line is the trial for a terminal.
func (r Result) Line() string {
	verdict := "EQUAL"
	switch {
	case r.Compared.Differences > 0 || r.ToolDiffers || r.Writer.Surprises > 0:
		verdict = "DIFFERENT"
	case r.Problem() != nil:
		verdict = "FAILED"
	}
	downtime := "-"
	if r.Downtime.MeasuredSeconds != nil {
		downtime = fmt.Sprintf("%.1f s", *r.Downtime.MeasuredSeconds)
	}
	how := r.LastMile
	if r.Faults != "" {
		how += ", faults"
	}
	if r.StopIn != "" {
		how += ", stopped in " + r.StopIn
	}
	if r.Kill != "" {
		how += ", killed " + r.Kill
	}
	return fmt.Sprintf("seed %-3d %s -> %s  %-40s %4.0f ops/s (%d acknowledged, %d refused, %d unknown)  %d documents  "+
		"%d executions, %d rounds, %d passes  down %s  %s %s  %d differences  %.0f s",
		r.Seed, r.Source, r.Destination, how, r.Writer.Rate, r.Writer.Acknowledged, r.Writer.Refused, r.Writer.Unknown,
		r.Compared.Live, len(r.Executions), r.Rounds, r.Passes, downtime, verdict, r.Verdict, r.Compared.Differences, r.TotalSeconds)
}

const migrationName = "fire"

// Run carries a trial out. Result.Problem says what is wrong with the migration; an error is one of the trial itself.
func Run(ctx context.Context, cfg Config) (r Result, err error) {
	began := time.Now()
	r = Result{Seed: cfg.Seed, Source: cfg.Environment.Source, Destination: cfg.Environment.Destination, EnginesAre: string(cfg.Environment.Engines),
		Faults: cfg.Environment.Faults.String(), LastMile: cfg.LastMile, StopIn: cfg.StopIn, Kill: cfg.Kill}
	defer func() { r.TotalSeconds = time.Since(began).Seconds() }()
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	if cfg.Environment.Progress == nil {
		cfg.Environment.Progress = cfg.Progress
	}
	env, err := environment.Start(ctx, cfg.Environment)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	source := env.Source.Client(environment.Operator)
	mixed, err := workload.FillMixed(ctx, source, workload.MixedOptions{Seed: cfg.Seed, TotalBytes: cfg.Bytes,
		SoftDeletesOff: strings.HasPrefix(cfg.Environment.Source, "elasticsearch-7.") && cfg.Environment.Engines == environment.Nodes})
	if err != nil {
		return r, err
	}
	r.Indices, r.Filled, r.FilledBytes = mixed.Indices, mixed.Filled, mixed.Bytes
	fmt.Fprintf(cfg.Progress, "%5.1f s filled %d documents, %.0f MB\n", time.Since(began).Seconds(), mixed.Filled, float64(mixed.Bytes)/1e6)
	writer := workload.StartMixedWriter(ctx, source, mixed, workload.MixedWriterOptions{Rate: cfg.Rate, Cuts: cfg.Cuts})
	defer writer.Stop()
	t := &trial{cfg: cfg, env: env, writer: writer, mixed: mixed, result: &r, began: began, writing: time.Now()}
	if err := workload.Pause(ctx, cfg.Warmup); err != nil {
		return r, err
	}
	if err := t.migrate(ctx); err != nil {
		return r, err
	}
	if r.Failed == "" {
		err = t.afterwards(ctx)
	}
	writer.Stop()
	r.Writer = writer.Stats()
	if s := r.Writer.DowntimeSeconds; s > 0 {
		r.Downtime.SeenByClientSeconds = &s
	}
	if err != nil || r.Failed != "" {
		return r, err
	}
	t.say("comparing every document")
	r.Compared, err = workload.CompareMixed(ctx, workload.Client{URL: env.Source.Direct}, workload.Client{URL: env.Destination.Direct}, mixed)
	return r, err
}

type trial struct {
	cfg    Config
	env    *environment.Environment
	writer *workload.MixedWriter
	mixed  *workload.Mixed
	result *Result
	began  time.Time

	writing time.Time // when the clients began
}

func (t *trial) say(format string, args ...any) {
	s := t.writer.Stats()
	fmt.Fprintf(t.cfg.Progress, "%5.1f s %s [%d acknowledged, %d refused, %d unknown, %.0f/s]\n", time.Since(t.began).Seconds(),
		fmt.Sprintf(format, args...), s.Acknowledged, s.Refused, s.Unknown, s.Rate)
}

// migrate runs executions until one has moved everything, or one failed in a way that none is expected to.
func (t *trial) migrate(ctx context.Context) error {
	window, stopIn, kill := t.cfg.Window, t.cfg.StopIn, t.cfg.Kill
	const most = 5
	for range most {
		killed := t.disturb(ctx, stopIn, kill)
		d, err := t.execute(ctx, window)
		if killed := killed(); err != nil || killed != nil {
			return errors.Join(err, killed)
		}
		failure, message := "", ""
		if d.Status != types.ExecutionStatusSucceeded {
			failure, message = watch.Explain(ctx, t.env.StepFunctions(), d)
		}
		t.result.Executions = append(t.result.Executions, strings.TrimSpace(string(d.Status)+" "+failure))
		t.say("the execution ended %s %s %.600s", d.Status, failure, message)
		switch {
		case d.Status == types.ExecutionStatusSucceeded:
			return t.read(ctx, aws.ToString(d.ExecutionArn))
		case d.Status == types.ExecutionStatusAborted && stopIn != "":
			stopIn, kill = "", ""
		case failure == "Migration.NeverFits": // the next one has more time, as an operator would give it
			length, err := time.ParseDuration(window)
			if err != nil {
				return err
			}
			window = (4 * length).String()
		default:
			t.result.Failed = fmt.Sprintf("execution %d ended %s: %s: %s", len(t.result.Executions), d.Status, failure, message)
			return nil
		}
		if err := t.writesAreBack(ctx); err != nil {
			t.result.Failed = fmt.Sprintf("after execution %d ended %s: %v", len(t.result.Executions), d.Status, err)
			return nil
		}
	}
	t.result.Failed = fmt.Sprintf("%d executions were not enough", most)
	return nil
}

// disturb stops the next execution when it enters a state, and kills a node in its second warm round. The function that it returns
// waits until a killed node is back.
func (t *trial) disturb(ctx context.Context, stopIn, kill string) (wait func() error) {
	var mu sync.Mutex
	var killer sync.WaitGroup
	var failure error
	warm := 0
	cancel := t.env.Engine.Observe(asl.Observer{StateEntered: func(s asl.StateEntered) {
		if s.Execution.StateMachineARN != t.env.MigrationARN {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if s.State == "Warm" {
			warm++
		}
		second := s.State == "Warm" && warm == 2
		if s.State == stopIn && (s.State != "Warm" || second) {
			stopIn = ""
			t.say("stopping the execution in %s", s.State)
			s.Execution.Stop("Operator", "called off") // here and now: a moment later it may have gone on
		}
		if kill != "" && second {
			side := t.env.Source
			if kill == "destination" {
				side = t.env.Destination
			}
			t.say("killing the node of the %s", kill)
			kill = ""
			killer.Go(func() {
				err := errors.Join(side.Kill9(), side.Restart(context.WithoutCancel(ctx)))
				mu.Lock()
				failure = errors.Join(failure, err)
				mu.Unlock()
			})
		}
	}})
	return func() error {
		cancel()
		killer.Wait()
		mu.Lock()
		defer mu.Unlock()
		return failure
	}
}

func (t *trial) execute(ctx context.Context, window string) (*sfn.DescribeExecutionOutput, error) {
	document := t.env.Input(migrationName, window)
	document["lastMile"] = t.cfg.LastMile
	if t.cfg.Writing > 0 {
		document["cutOver"] = map[string]any{"notBefore": t.writing.Add(t.cfg.Writing / 2).UTC().Format(time.RFC3339)}
	}
	input, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	client := t.env.StepFunctions()
	out, err := client.StartExecution(ctx, &sfn.StartExecutionInput{StateMachineArn: &t.env.MigrationARN, Input: aws.String(string(input))})
	if err != nil {
		return nil, fmt.Errorf("start the execution: %w", err)
	}
	t.say("started an execution with a window of %s", window)
	longest := 20*time.Minute + t.cfg.Writing
	limited, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	last := ""
	d, err := watch.Watcher{Client: client, Interval: 100 * time.Millisecond}.Follow(limited, aws.ToString(out.ExecutionArn), func(p watch.Progress) {
		if now := fmt.Sprintf("%s round %d %s", p.State, p.Round, p.Phase); now != last {
			last = now
			t.say("%s", p)
		}
	})
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("the execution still ran after %s: %w", longest, err)
	}
	return d, err
}

// writesAreBack waits until the source takes writes to every index again and the journal says so: until then Preflight refuses.
func (t *trial) writesAreBack(ctx context.Context) error {
	const patience = 2 * time.Minute
	deadline := time.Now().Add(patience)
	for {
		freeze, found, err := t.env.Journal().Migration(migrationName).Freeze(ctx)
		if err != nil {
			return err
		}
		open := !found || freeze.State == journal.Thawed
		for _, x := range t.mixed.Indices {
			var settings map[string]struct {
				Settings map[string]string `json:"settings"`
			}
			err := t.env.Source.Client(environment.Operator).Get(ctx, "/"+x.Name+"/_settings?flat_settings=true", &settings)
			open = open && err == nil && settings[x.Name].Settings["index.blocks.write"] != "true"
		}
		if open {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the source refuses writes %s later", patience)
		}
		if err := workload.Pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// read takes over what the migration itself says.
func (t *trial) read(ctx context.Context, execution string) error {
	var own report.Report
	found, err := t.env.Journal().Migration(migrationName).Document(ctx, journal.ReportFile, &own)
	if err != nil || !found || own.Execution != execution {
		return errors.Join(fmt.Errorf("the journal has no report of %s", execution), err)
	}
	r := t.result
	r.Verdict, r.Downtime, r.Rounds, r.Passes = own.Verdict, own.WriteDowntime, len(own.Rounds), len(own.Passes)
	r.ByReplay = []string{}
	for _, x := range own.Indices {
		if x.LastMile == migration.LastMileReplay {
			r.ByReplay = append(r.ByReplay, x.Name)
		}
	}
	return nil
}

// afterwards has the independent program look while both sides stand still, then lets the clients write at the destination.
func (t *trial) afterwards(ctx context.Context) error {
	resume := t.writer.Hold()
	err := t.independently(ctx)
	t.writer.SwitchTo(t.env.Destination.Client(environment.Operator))
	resume()
	if err != nil {
		return err
	}
	const enough = 500
	least := time.Now().Add(max(t.cfg.Afterwards, t.cfg.Writing-time.Since(t.writing)))
	deadline := least.Add(time.Minute)
	for time.Now().Before(least) || t.writer.Stats().AtDestination < enough {
		if time.Now().After(deadline) {
			t.result.Failed = fmt.Sprintf("the destination acknowledged %d writes within a minute: %s", t.writer.Stats().AtDestination, t.writer.Stats().LastError)
			return nil
		}
		if err := workload.Pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	t.say("wrote at the destination")
	return nil
}

func (t *trial) independently(ctx context.Context) error {
	if t.cfg.Tool == "" {
		t.result.Tool = "not run: the program is not on this machine; the comparison of this package is the only one"
		return nil
	}
	args := []string{t.env.Source.Direct, t.env.Destination.Direct}
	for _, x := range t.mixed.Indices {
		args = append(args, x.Name)
	}
	out, err := exec.CommandContext(ctx, t.cfg.Tool, args...).CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.result.Tool = "identical"
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		t.result.Tool, t.result.ToolDiffers = string(out), true
	default:
		return fmt.Errorf("%s: %w\n%s", t.cfg.Tool, err, out)
	}
	t.say("the independent comparison: %s", t.result.Tool)
	return nil
}
