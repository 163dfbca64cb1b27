// Package rehearsal runs a whole migration on one machine: it starts the environment, fills the source, keeps clients writing,
// starts the execution through the Step Functions API, lets the clients switch over at the end, and then checks by itself that
// every acknowledged write is at the destination; or, when it is to go back, at the source.
package rehearsal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/workload"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
	"github.com/domainferry/domainferry/internal/watch"
)

// Config says what to rehearse.
type Config struct {
	Environment environment.Config
	Window      string  // downtimeWindow
	LastMile    string  // lastMile of the input; "" leaves the default
	Data        string  // the user's own NDJSON file; "" makes data
	Bytes       int64   // of made data; 0 is the workload's default
	Rate        float64 // client operations a second; 0 is the workload's default
	// GoBack goes back to the source after the cut-over, once the destination has acknowledged a thousand writes.
	GoBack   bool
	Out      string // folder of report.json and history.json
	Progress io.Writer
}

// Report is build/rehearsal/report.json: the journal's report and what the clients saw.
type Report struct {
	report.Report
	// WayBack is the report of going back, where that was rehearsed; then the writes were looked for at the source.
	WayBack                  *report.Report  `json:"wayBack,omitempty"`
	AcknowledgedWrites       int64           `json:"acknowledgedWrites"`
	WritesFoundAtDestination int64           `json:"writesFoundAtDestination"`
	Check                    workload.Result `json:"check"`
	Writer                   workload.Stats  `json:"writer"`
	EnginesAre               string          `json:"enginesAre"` // nodes or model
	Faults                   string          `json:"faults"`
	// SourcePolicy is of two accounts: the policy of the source's bucket, the same before and after, byte for byte.
	SourcePolicy string  `json:"sourcePolicy,omitempty"`
	Seed         uint64  `json:"seed"`
	Machine      string  `json:"machine"`
	Date         string  `json:"date"`
	TotalSeconds float64 `json:"totalSeconds"`
}

const (
	name            = "rehearsal"
	historyFile     = "history.json"
	historyBackFile = "history-back.json"
	enough          = 100   // writes that a side has to acknowledge before the clients stop, so that their downtime has an end
	writesBefore    = 1_000 // writes at the destination before it is gone back
)

// Run rehearses. Whatever happens, it leaves nothing running; the report is returned and written only for a migration that
// ended well and whose writes were all found.
func Run(ctx context.Context, cfg Config) (r Report, err error) {
	began := time.Now()
	if err := os.MkdirAll(cfg.Out, 0o755); err != nil {
		return r, err
	}
	for _, old := range []string{"report.json", historyFile, historyBackFile} {
		if err := os.Remove(filepath.Join(cfg.Out, old)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return r, err
		}
	}
	env, err := environment.Start(ctx, cfg.Environment)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	dataset, err := fill(ctx, cfg, env)
	if err != nil {
		return r, err
	}
	writer, err := workload.StartWriter(ctx, env.Source.Client(environment.Operator), dataset, workload.WriterOptions{Rate: cfg.Rate})
	if err != nil {
		return r, err
	}
	execution, err := migrate(ctx, cfg, env, writer)
	if err != nil {
		return r, errors.Join(err, stop(ctx, writer, 10*time.Second))
	}
	r.EnginesAre, r.Faults, r.Seed = string(cfg.Environment.Engines), cfg.Environment.Faults.String(), cfg.Environment.Faults.Seed
	r.Machine, r.Date = fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), time.Now().UTC().Format(time.DateOnly)
	if err := settle(ctx, env, cfg, writer, dataset, execution, &r); err != nil {
		return r, err
	}
	if cfg.Environment.TwoAccounts {
		if r.SourcePolicy, err = policyAsBefore(ctx, env); err != nil {
			return r, err
		}
	}
	r.TotalSeconds = math.Round(time.Since(began).Seconds()*10) / 10
	if err := writeJSON(filepath.Join(cfg.Out, "report.json"), r); err != nil {
		return r, err
	}
	return r, r.problem()
}

func fill(ctx context.Context, cfg Config, env *environment.Environment) (*workload.Dataset, error) {
	options := workload.Options{Seed: cfg.Environment.Faults.Seed, TotalBytes: cfg.Bytes}
	client := env.Source.Client(environment.Operator)
	began := time.Now()
	var dataset *workload.Dataset
	var err error
	if cfg.Data != "" {
		dataset, err = workload.FillFile(ctx, client, cfg.Data, options)
	} else {
		dataset, err = workload.Fill(ctx, client, options)
	}
	if err != nil {
		return nil, fmt.Errorf("fill the source: %w", err)
	}
	fmt.Fprintf(cfg.Progress, "filled the source: %d documents, %.0f MB in %d indices, %.1f s\n",
		dataset.Documents(), float64(dataset.Bytes())/1e6, len(dataset.Indices), time.Since(began).Seconds())
	return dataset, nil
}

// migrate starts the execution, shows its progress, and sends the clients to the destination the moment it has succeeded.
func migrate(ctx context.Context, cfg Config, env *environment.Environment, writer *workload.Writer) (string, error) {
	document := env.Input(name, cfg.Window)
	if cfg.LastMile != "" {
		document["lastMile"] = cfg.LastMile
	}
	return execute(ctx, cfg, env, writer, document, historyFile, func() { writer.SwitchTo(env.Destination.Client(environment.Operator)) })
}

// execute runs an execution with that input and then, when it has succeeded, handedOver.
func execute(ctx context.Context, cfg Config, env *environment.Environment, writer *workload.Writer, document map[string]any, history string, handedOver func()) (string, error) {
	client := env.StepFunctions()
	input, err := json.Marshal(document)
	if err != nil {
		return "", err
	}
	out, err := client.StartExecution(ctx, &sfn.StartExecutionInput{StateMachineArn: &env.MigrationARN, Input: aws.String(string(input))})
	if err != nil {
		return "", fmt.Errorf("start the execution: %w", err)
	}
	arn := aws.ToString(out.ExecutionArn)
	fmt.Fprintf(cfg.Progress, "started %s\n", arn)
	began := time.Now()
	d, err := watch.Watcher{Client: client, Interval: 100 * time.Millisecond}.Follow(ctx, arn, func(p watch.Progress) {
		s := writer.Stats()
		fmt.Fprintf(cfg.Progress, "%6.1f s  %s  [client: %d writes acknowledged, %d refused]\n", time.Since(began).Seconds(), p, s.Acknowledged, s.Refused)
	})
	if err != nil {
		return arn, err
	}
	if d.Status == types.ExecutionStatusSucceeded {
		handedOver()
	}
	if err := saveHistory(ctx, client, env, filepath.Join(cfg.Out, history), arn); err != nil {
		return arn, err
	}
	if d.Status != types.ExecutionStatusSucceeded {
		name, message := watch.Explain(ctx, client, d)
		return arn, fmt.Errorf("the execution ended %s: %s: %s", d.Status, name, message)
	}
	return arn, nil
}

// settle lets the clients write a while at the destination, goes back if that is asked for, stops the clients, and compares.
func settle(ctx context.Context, env *environment.Environment, cfg Config, writer *workload.Writer, dataset *workload.Dataset, execution string, r *Report) error {
	give := func(err error) error { return errors.Join(err, stop(ctx, writer, 10*time.Second)) }
	if err := until(ctx, "the destination", enough, func() int64 { return writer.Stats().AtDestination }); err != nil {
		return give(err)
	}
	if err := readReport(ctx, env, name, execution, writer, &r.Report); err != nil {
		return give(err)
	}
	side, at := env.Destination, "destination"
	if cfg.GoBack {
		if err := goBack(ctx, env, cfg, writer, r); err != nil {
			return give(err)
		}
		side, at = env.Source, "source"
	}
	if err := stop(ctx, writer, 30*time.Second); err != nil {
		return err
	}
	fmt.Fprintln(cfg.Progress, "looking for every acknowledged write at the "+at)
	var err error
	if r.Check, err = workload.Check(ctx, side.Client(environment.Operator), writer, dataset); err != nil {
		return err
	}
	r.AcknowledgedWrites, r.WritesFoundAtDestination = r.Check.AcknowledgedWrites, r.Check.WritesFoundAtDestination
	r.Writer = writer.Stats()
	return nil
}

// goBack lets the clients write to the destination and goes back with everything that they have written.
func goBack(ctx context.Context, env *environment.Environment, cfg Config, writer *workload.Writer, r *Report) error {
	if err := until(ctx, "the destination", writesBefore, func() int64 { return writer.Stats().AtDestination }); err != nil {
		return err
	}
	fmt.Fprintf(cfg.Progress, "the destination has acknowledged %d writes; going back\n", writer.Stats().AtDestination)
	document := env.Input(name, cfg.Window)
	document["mode"] = string(migration.GoBack)
	before := writer.Stats().AtSource
	execution, err := execute(ctx, cfg, env, writer, document, historyBackFile, func() { writer.SwitchBack(env.Source.Client(environment.Operator)) })
	if err != nil {
		return err
	}
	if err := until(ctx, "the source", enough, func() int64 { return writer.Stats().AtSource - before }); err != nil {
		return err
	}
	r.WayBack = &report.Report{}
	return readReport(ctx, env, migration.WayBack(name), execution, writer, r.WayBack)
}

// readReport reads the journal's report, and adds what the clients have just seen.
func readReport(ctx context.Context, env *environment.Environment, migration, execution string, writer *workload.Writer, r *report.Report) error {
	found, err := env.Journal().Migration(migration).Document(ctx, journal.ReportFile, r)
	if err != nil || !found || r.Execution != execution {
		return errors.Join(fmt.Errorf("the journal has no report of %s", execution), err)
	}
	if seen := writer.Stats().DowntimeSeconds; seen > 0 {
		r.WriteDowntime.SeenByClientSeconds = &seen
	}
	return nil
}

// until waits until a side has acknowledged that many writes.
func until(ctx context.Context, side string, writes int64, acknowledged func() int64) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for acknowledged() < writes {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not acknowledge %d writes within two minutes of the switch: %w", side, writes, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

func stop(ctx context.Context, writer *workload.Writer, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := writer.Stop(ctx); err != nil {
		return fmt.Errorf("stop the clients: %w", err)
	}
	return nil
}

// policyAsBefore waits until the source's bucket has the policy again that it had before, and makes sure that it is closed to the account that
// copies. The migration's end takes it back, and the thaw that follows every end.
func policyAsBefore(ctx context.Context, env *environment.Environment) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		policy, err := env.OwnerOfSource().Access(ctx, environment.SourceBucket, access.BucketPolicy)
		if err != nil {
			return "", err
		}
		if policy != nil && *policy == environment.SourcePolicy {
			break
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("a minute after the end the policy of the source's bucket is not what it was before, but %s", aws.ToString(policy))
		case <-time.After(100 * time.Millisecond):
		}
	}
	_, err := env.CopyingAccount().ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String(environment.SourceBucket), Prefix: aws.String(environment.BasePath + "/")})
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() != "AccessDenied" {
		return "", fmt.Errorf("after the end the account that copies is not refused at the source's bucket: %w", err)
	}
	return environment.SourcePolicy, nil
}

// problem is nil when the migration proved what it promises, and the way back too.
func (r Report) problem() error {
	reports := []report.Report{r.Report}
	if r.WayBack != nil {
		reports = append(reports, *r.WayBack)
	}
	for _, x := range reports {
		switch {
		case x.Verdict != migration.Verified && x.Verdict != migration.VerifiedWithWarnings:
			return fmt.Errorf("the verdict is %q", x.Verdict)
		case x.WriteDowntime.SeenByClientSeconds == nil:
			return errors.New("the clients saw no write downtime, so none was measured")
		}
	}
	return r.Check.Problem()
}

// saveHistory writes the histories of the execution, its rounds and its passes, as GetExecutionHistory gives them.
func saveHistory(ctx context.Context, client *sfn.Client, env *environment.Environment, path, arn string) error {
	type history struct {
		ExecutionARN string               `json:"executionArn"`
		Status       string               `json:"status"`
		Events       []types.HistoryEvent `json:"events"`
	}
	arns := []string{arn}
	for _, machine := range []string{env.RoundARN, env.ReplayARN} {
		pages := sfn.NewListExecutionsPaginator(client, &sfn.ListExecutionsInput{StateMachineArn: &machine})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return fmt.Errorf("list the executions of %s: %w", machine, err)
			}
			for _, e := range page.Executions {
				arns = append(arns, aws.ToString(e.ExecutionArn))
			}
		}
	}
	var all []history
	for _, a := range arns {
		d, err := client.DescribeExecution(ctx, &sfn.DescribeExecutionInput{ExecutionArn: &a})
		if err != nil {
			return err
		}
		h := history{ExecutionARN: a, Status: string(d.Status)}
		events := sfn.NewGetExecutionHistoryPaginator(client, &sfn.GetExecutionHistoryInput{ExecutionArn: &a})
		for events.HasMorePages() {
			page, err := events.NextPage(ctx)
			if err != nil {
				return fmt.Errorf("read the history of %s: %w", a, err)
			}
			h.Events = append(h.Events, page.Events...)
		}
		all = append(all, h)
	}
	return writeJSON(path, all)
}

func writeJSON(path string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(body, '\n'), 0o644)
}

// Print writes what each round and pass moved, the report, and what the clients saw, for a terminal.
func (r Report) Print(w io.Writer) error {
	fmt.Fprintf(w, "\n%-6s %-6s %22s %22s %44s\n", "round", "", "snapshot", "copy", "restore (recovered, reused; indices)")
	for _, x := range r.Rounds {
		fmt.Fprintf(w, "%-6d %-6s %10s in %6.2f s %10s in %6.2f s %10s, %9s; %d, %d skipped in %6.2f s\n", x.Number, kind(x.Final), mb(x.Snapshot.Bytes), x.Snapshot.Seconds,
			mb(x.Copy.Bytes), x.Copy.Seconds, mb(x.Restore.RecoveredBytes), mb(x.Restore.ReusedBytes), x.Restore.Indices, x.Restore.Skipped, x.Restore.Seconds)
	}
	printPasses(w, r.Passes)
	fmt.Fprintln(w)
	if err := r.Report.Print(w); err != nil {
		return err
	}
	if r.SourcePolicy != "" {
		fmt.Fprintln(w, "two accounts: the policy of the source's bucket was extended for the copy and is byte for byte what it was before")
	}
	at, checks := "destination", len(r.Checks)
	if r.WayBack != nil {
		fmt.Fprintln(w)
		printPasses(w, r.WayBack.Passes)
		if err := r.WayBack.Print(w); err != nil {
			return err
		}
		at, checks = "source", checks+len(r.WayBack.Checks)
	}
	fmt.Fprintf(w, "%d checks; %d writes acknowledged, %d found at the %s (%d documents looked up); %s, all in all %.1f s\n",
		checks, r.AcknowledgedWrites, r.WritesFoundAtDestination, at, r.Check.DocumentsChecked, r.EnginesAre, r.TotalSeconds)
	return nil
}

func printPasses(w io.Writer, passes []migration.Pass) {
	for _, x := range passes {
		fmt.Fprintf(w, "pass %-2d %-5s %d documents (%s) replayed, %d deleted in %.2f s\n", x.Number, kind(x.Final), x.Documents, mb(x.Bytes), x.Deleted, x.Seconds)
	}
}

func kind(final bool) string {
	if final {
		return "final"
	}
	return "warm"
}

func mb(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
