// Package watch follows a migration through the Step Functions API, wherever that is: at AWS or on this machine.
package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
)

// StepFunctions is what watching needs of the Step Functions client.
type StepFunctions interface {
	DescribeExecution(context.Context, *sfn.DescribeExecutionInput, ...func(*sfn.Options)) (*sfn.DescribeExecutionOutput, error)
	GetExecutionHistory(context.Context, *sfn.GetExecutionHistoryInput, ...func(*sfn.Options)) (*sfn.GetExecutionHistoryOutput, error)
}

// Progress is where a migration stands, as far as its histories tell.
type Progress struct {
	State      string // of the migration machine: Preflight, Warm, Freeze...
	Round      int    // 0 before the first
	Phase      string // of the round: snapshot, copy, restore
	Percent    float64
	Bytes      int64
	TotalBytes int64
	Replaying  bool     // a pass of the replay runs beside the round
	Predicted  *float64 // write downtime in seconds, once there is a prediction
	Low, High  float64  // its range
	Reason     string   // of the last decision
	Question   string   // what the operator is asked and how to answer, while the execution waits for it
}

// String is one line for a terminal.
func (p Progress) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s", p.State)
	if p.Round > 0 {
		fmt.Fprintf(&b, " round %d", p.Round)
	}
	if p.Phase != "" {
		fmt.Fprintf(&b, "  %-8s", p.Phase)
	}
	if p.TotalBytes > 0 {
		fmt.Fprintf(&b, " %5.1f %%  %s of %s", p.Percent, megabytes(p.Bytes), megabytes(p.TotalBytes))
	}
	if p.Replaying {
		b.WriteString("  + replay")
	}
	if p.Predicted != nil {
		fmt.Fprintf(&b, "  predicted downtime %.1f s", *p.Predicted)
		if p.High > 0 {
			fmt.Fprintf(&b, " (%.1f to %.1f)", p.Low, p.High)
		}
	}
	if p.Question != "" {
		b.WriteString("\n" + p.Question)
	}
	return b.String()
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// Watcher reads the newest events of an execution and of the round that it runs.
type Watcher struct {
	Client StepFunctions
	// Interval between looks; 0 is two seconds.
	Interval time.Duration
}

// Follow reports every change of the progress until the execution ends, and returns how it ended.
func (w Watcher) Follow(ctx context.Context, execution string, report func(Progress)) (*sfn.DescribeExecutionOutput, error) {
	interval := w.Interval
	if interval == 0 {
		interval = 2 * time.Second
	}
	var last Progress
	for {
		d, err := w.Client.DescribeExecution(ctx, &sfn.DescribeExecutionInput{ExecutionArn: &execution})
		if err != nil {
			return nil, fmt.Errorf("describe execution %s: %w", execution, err)
		}
		p, err := w.look(ctx, execution, last)
		if err != nil {
			return nil, err
		}
		if p != last {
			report(p)
			last = p
		}
		if d.Status != types.ExecutionStatusRunning {
			return d, nil
		}
		t := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
	}
}

// recent is how many events, newest first, are looked at: a poll makes nine.
const recent = 60

func (w Watcher) look(ctx context.Context, execution string, last Progress) (Progress, error) {
	events, err := w.newest(ctx, execution)
	if err != nil {
		return last, err
	}
	p := last
	p.State, p.Replaying, p.Question = "", false, ""
	token := ""
	p.Phase, p.Percent, p.Bytes, p.TotalBytes = "", 0, 0, 0
	var round string
	var left, decided bool
	for _, e := range events {
		switch {
		case e.Type == types.HistoryEventTypeParallelStateExited:
			left = true
		case e.Type == types.HistoryEventTypeParallelStateEntered:
			// Newer states than this are branches of it, unless it has been left.
			if !left {
				p.State = aws.ToString(e.StateEnteredEventDetails.Name)
			}
			if p.State == aws.ToString(e.StateEnteredEventDetails.Name) && round != "" {
				return w.round(ctx, round, p)
			}
			left, round = true, ""
		case p.State == "" && e.StateEnteredEventDetails != nil:
			p.State = aws.ToString(e.StateEnteredEventDetails.Name)
		case !left && e.TaskSubmittedEventDetails != nil && aws.ToString(e.TaskSubmittedEventDetails.ResourceType) == "states":
			var out struct{ ExecutionArn string }
			if json.Unmarshal([]byte(aws.ToString(e.TaskSubmittedEventDetails.Output)), &out) != nil {
				continue
			}
			if strings.Contains(out.ExecutionArn, "eplay:") {
				p.Replaying = true
			} else if round == "" {
				round = out.ExecutionArn
			}
		case token == "" && e.TaskScheduledEventDetails != nil:
			token = tokenIn(aws.ToString(e.TaskScheduledEventDetails.Parameters))
		case !decided && e.TaskSucceededEventDetails != nil:
			decided = p.decision(aws.ToString(e.TaskSucceededEventDetails.Output))
		}
	}
	if asked, waits := asking[p.State]; waits && token != "" {
		p.Question = question(asked, p.Reason, token)
	}
	return p, nil
}

// asking are the states that wait for the operator, with the decisions that lead there.
var asking = map[string]migration.Action{"Ask": migration.AskFirst, "Approve": migration.AskApproval}

// tokenIn reads the task token that the state gave to the function.
func tokenIn(parameters string) string {
	var in struct{ Payload struct{ TaskToken string } }
	if json.Unmarshal([]byte(parameters), &in) != nil {
		return ""
	}
	return in.Payload.TaskToken
}

// question is why the operator is asked, and a command line for each answer.
func question(asked migration.Action, reason, token string) string {
	var b strings.Builder
	if asked == migration.AskApproval {
		fmt.Fprintf(&b, "The cut-over waits for your approval: %s.\nAnswer in time (cutOver.approvalTimeout):\n", reason)
	} else {
		fmt.Fprintf(&b, "The write downtime does not fit the window: %s.\nAnswer within a week of the question:\n", reason)
	}
	for _, a := range migration.Answers(asked, token) {
		fmt.Fprintf(&b, "  %s:\n    %s\n", a.Meaning, a.Command)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (w Watcher) newest(ctx context.Context, execution string) ([]types.HistoryEvent, error) {
	out, err := w.Client.GetExecutionHistory(ctx, &sfn.GetExecutionHistoryInput{
		ExecutionArn: &execution, MaxResults: recent, ReverseOrder: true, IncludeExecutionData: aws.Bool(true),
	})
	if err != nil {
		return nil, fmt.Errorf("read the history of %s: %w", execution, err)
	}
	return out.Events, nil
}

// decision reads the output of Decide; that of any other state has no action.
func (p *Progress) decision(output string) bool {
	var out struct {
		Payload struct {
			Action     string
			Reason     string
			Prediction *struct{ Seconds, Low, High float64 }
		}
	}
	if json.Unmarshal([]byte(output), &out) != nil || out.Payload.Action == "" {
		return false
	}
	p.Reason = out.Payload.Reason
	// The same number keeps its address, so that equal progress compares equal.
	if d := out.Payload.Prediction; d != nil && (p.Predicted == nil || *p.Predicted != d.Seconds) {
		p.Predicted = &d.Seconds
	}
	if d := out.Payload.Prediction; d != nil {
		p.Low, p.High = d.Low, d.High
	}
	return true
}

// round reads the phase from the states and the numbers from the newest poll.
func (w Watcher) round(ctx context.Context, child string, p Progress) (Progress, error) {
	events, err := w.newest(ctx, child)
	if err != nil {
		return p, err
	}
	phase, polled := "", false
	p.Percent, p.Bytes, p.TotalBytes = 0, 0, 0
	// The phase first: a poll's answer may be newer than the state that asked.
	if i := slices.IndexFunc(events, func(e types.HistoryEvent) bool { return e.StateEnteredEventDetails != nil }); i >= 0 {
		phase = phaseOf(aws.ToString(events[i].StateEnteredEventDetails.Name))
	}
	for _, e := range events {
		if !polled && e.TaskSucceededEventDetails != nil {
			var out struct {
				Payload struct {
					What              string
					Round             int
					Percent           float64
					Bytes, TotalBytes int64
				}
			}
			if json.Unmarshal([]byte(aws.ToString(e.TaskSucceededEventDetails.Output)), &out) != nil {
				continue
			}
			if out.Payload.Round > 0 {
				p.Round = out.Payload.Round
			}
			if out.Payload.What != "" {
				polled = true
				if out.Payload.What == phase {
					p.Percent, p.Bytes, p.TotalBytes = out.Payload.Percent, out.Payload.Bytes, out.Payload.TotalBytes
				}
			}
		}
	}
	p.Phase = phase
	return p, nil
}

func phaseOf(state string) string {
	switch {
	case strings.Contains(state, "Snapshot"), state == "Begin", state == "WaitForSlot":
		return "snapshot"
	case strings.Contains(state, "Copy"):
		return "copy"
	default:
		return "restore"
	}
}

// Explainer is what explaining a failure needs of the Step Functions client.
type Explainer interface {
	DescribeExecution(context.Context, *sfn.DescribeExecutionInput, ...func(*sfn.Options)) (*sfn.DescribeExecutionOutput, error)
	ListMapRuns(context.Context, *sfn.ListMapRunsInput, ...func(*sfn.Options)) (*sfn.ListMapRunsOutput, error)
	ListExecutions(context.Context, *sfn.ListExecutionsInput, ...func(*sfn.Options)) (*sfn.ListExecutionsOutput, error)
}

// Explain finds the error that ended an execution where it was raised: the service gives a parent the JSON of its child's
// description, and of a Map Run only that too many of its children failed.
func Explain(ctx context.Context, client Explainer, d *sfn.DescribeExecutionOutput) (name, message string) {
	name, message = aws.ToString(d.Error), aws.ToString(d.Cause)
	arn := aws.ToString(d.ExecutionArn)
	for range 5 {
		nested, ok := fault.Unnest(message)
		switch {
		case ok && nested.Innermost:
			return nested.Name, nested.Cause
		case ok:
			name, message, arn = nested.Name, nested.Cause, nested.Execution
		case name == "States.ExceedToleratedFailureThreshold":
			child := failedChild(ctx, client, arn)
			if child == nil {
				return name, message
			}
			name, message, arn = aws.ToString(child.Error), aws.ToString(child.Cause), aws.ToString(child.ExecutionArn)
		default:
			return name, message
		}
	}
	return name, message
}

// failedChild describes a failed child of the execution's last Map Run, or nil when there is none to be had.
func failedChild(ctx context.Context, client Explainer, execution string) *sfn.DescribeExecutionOutput {
	runs, err := client.ListMapRuns(ctx, &sfn.ListMapRunsInput{ExecutionArn: &execution})
	if err != nil || len(runs.MapRuns) == 0 {
		return nil
	}
	last := runs.MapRuns[0]
	for _, r := range runs.MapRuns {
		if aws.ToTime(r.StartDate).After(aws.ToTime(last.StartDate)) {
			last = r
		}
	}
	children, err := client.ListExecutions(ctx, &sfn.ListExecutionsInput{MapRunArn: last.MapRunArn, StatusFilter: types.ExecutionStatusFailed, MaxResults: 1})
	if err != nil || len(children.Executions) == 0 {
		return nil
	}
	d, err := client.DescribeExecution(ctx, &sfn.DescribeExecutionInput{ExecutionArn: children.Executions[0].ExecutionArn})
	if err != nil {
		return nil
	}
	return d
}
