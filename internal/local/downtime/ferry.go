package downtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/workload"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
	"github.com/domainferry/domainferry/internal/watch"
)

// Ferry is what Domain Ferry's own report says of a run.
type Ferry struct {
	LastMile         migration.LastMile `json:"lastMile"`
	Reason           string             `json:"reason,omitempty"` // why it is not by rounds all the way
	PredictedSeconds *float64           `json:"predictedSeconds,omitempty"`
	MeasuredSeconds  *float64           `json:"measuredSeconds,omitempty"`
	Verdict          migration.Verdict  `json:"verdict"`
	WarmSeconds      float64            `json:"warmSeconds"` // of the cut-over's execution until it stopped writes
	Rounds           []migration.Round  `json:"rounds"`      // the base round is the first
	Passes           []migration.Pass   `json:"passes"`
}

// ferryInput is the input of both executions of a run's migration.
func (b *bench) ferryInput(run *Run) map[string]any {
	place := func(s *environment.Side) migration.Endpoint {
		e := s.Endpoint()
		e.Repository.BasePath = run.Migration
		return e
	}
	return map[string]any{
		"migration": run.Migration, "source": place(b.env.Source), "destination": place(b.env.Destination),
		"indices": map[string]any{"include": []string{b.filled.index}}, "downtimeWindow": b.cfg.Window.String(),
	}
}

// prepareByFerry makes the base round: what a migration has behind it days before its cut-over.
func (b *bench) prepareByFerry(ctx context.Context, run *Run) error {
	if run.Throttle == Raised {
		// The operator's own rates: Domain Ferry takes a repository of its name and place as it finds it.
		sides := []struct {
			domain   domain
			bucket   string
			readonly bool
		}{{b.source, b.env.Source.Bucket, false}, {b.destination, b.env.Destination.Bucket, true}}
		for _, side := range sides {
			if err := side.domain.call(ctx, http.MethodPut, "/_snapshot/"+run.Migration, repository(side.bucket, run.Migration, side.readonly, raised), nil); err != nil {
				return err
			}
		}
	}
	input := b.ferryInput(run)
	input["mode"], input["rounds"] = "warm", map[string]any{"minimum": 1}
	_, err := b.execute(ctx, input)
	if err != nil {
		return fmt.Errorf("base round: %w", err)
	}
	return nil
}

// byFerry is the cut-over of an already warm migration. The client moves over the moment the execution has succeeded.
func (b *bench) byFerry(ctx context.Context, run *Run, writer *workload.Writer) error {
	execution, err := b.execute(ctx, b.ferryInput(run))
	if err != nil {
		return err
	}
	writer.SwitchTo(b.destination.Client)
	return b.ferryPhases(ctx, run, execution)
}

// execute runs the migration machine and waits for success.
func (b *bench) execute(ctx context.Context, document map[string]any) (string, error) {
	client := b.env.StepFunctions()
	input, err := json.Marshal(document)
	if err != nil {
		return "", err
	}
	out, err := client.StartExecution(ctx, &sfn.StartExecutionInput{StateMachineArn: &b.env.MigrationARN, Input: aws.String(string(input))})
	if err != nil {
		return "", fmt.Errorf("start the execution: %w", err)
	}
	var ended *sfn.DescribeExecutionOutput
	err = awaitEvery(ctx, "execution "+*out.ExecutionArn, 20*time.Millisecond, 2*patience, func(ctx context.Context) (bool, error) {
		ended, err = client.DescribeExecution(ctx, &sfn.DescribeExecutionInput{ExecutionArn: out.ExecutionArn})
		return err == nil && ended.Status != types.ExecutionStatusRunning, err
	})
	if err != nil {
		return "", err
	}
	if ended.Status != types.ExecutionStatusSucceeded {
		name, message := watch.Explain(ctx, client, ended)
		return "", fmt.Errorf("the execution ended %s: %s: %s", ended.Status, name, message)
	}
	return *out.ExecutionArn, nil
}

// ferryPhases reads from the execution's history when the states of the cut-over were entered, and from the journal's report what
// they did.
func (b *bench) ferryPhases(ctx context.Context, run *Run, execution string) error {
	var r report.Report
	found, err := b.env.Journal().Migration(run.Migration).Document(ctx, journal.ReportFile, &r)
	if err != nil || !found {
		return errors.Join(fmt.Errorf("the journal has no report of %s", execution), err)
	}
	run.Ferry = &Ferry{
		PredictedSeconds: r.WriteDowntime.PredictedSeconds, MeasuredSeconds: r.WriteDowntime.MeasuredSeconds,
		Verdict: r.Verdict, Rounds: r.Rounds, Passes: r.Passes,
	}
	if len(r.Indices) == 1 {
		run.Ferry.LastMile, run.Ferry.Reason = r.Indices[0].LastMile, r.Indices[0].Reason
	}
	// States between these two that a later version adds count to the one before them.
	cutOver := map[string]bool{"Freeze": true, "MoveLastDelta": true, "Verify": true, "Finish": true, "Migrated": true}
	var began, last time.Time
	events := sfn.NewGetExecutionHistoryPaginator(b.env.StepFunctions(), &sfn.GetExecutionHistoryInput{ExecutionArn: &execution})
	for events.HasMorePages() {
		page, err := events.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("read the history of %s: %w", execution, err)
		}
		for _, e := range page.Events {
			if began.IsZero() {
				began = *e.Timestamp
			}
			if e.StateEnteredEventDetails == nil || !cutOver[aws.ToString(e.StateEnteredEventDetails.Name)] {
				continue
			}
			name := aws.ToString(e.StateEnteredEventDetails.Name)
			if n := len(run.Phases); n > 0 {
				run.Phases[n-1].Seconds = e.Timestamp.Sub(last).Seconds()
			} else {
				run.Ferry.WarmSeconds = e.Timestamp.Sub(began).Seconds()
			}
			last = *e.Timestamp
			if name != "Migrated" {
				run.Phases = append(run.Phases, Phase{Name: name})
			}
		}
	}
	for _, x := range r.Rounds {
		if x.Final {
			run.Phases = append(run.Phases, Phase{"final snapshot", x.Snapshot.Seconds}, Phase{"final copy", x.Copy.Seconds}, Phase{"final restore", x.Restore.Seconds})
		}
	}
	for _, x := range r.Passes {
		if x.Final {
			run.Phases = append(run.Phases, Phase{"final pass", x.Seconds})
		}
	}
	return nil
}

// cleanUpByFerry gives the next run free names and the disk back.
func (b *bench) cleanUpByFerry(ctx context.Context, run *Run) error {
	if err := b.destination.deleteIndex(ctx, b.filled.index); err != nil {
		return err
	}
	for _, side := range []struct {
		domain domain
		bucket string
	}{{b.source, b.env.Source.Bucket}, {b.destination, b.env.Destination.Bucket}} {
		if err := side.domain.deleteRepository(ctx, run.Migration); err != nil {
			return err
		}
		if err := os.RemoveAll(filepath.Join(b.env.Gateway.BucketPath(side.bucket), run.Migration)); err != nil {
			return err
		}
	}
	return nil
}
