package stepfunctions

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/sigv4"
)

func hash(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

func TestExecutionToSuccess(t *testing.T) {
	w := newWorld(t)
	before := time.Now().Truncate(time.Millisecond)
	arn := w.start("plain", "first", `{"a":1}`)
	if want := "arn:aws:states:us-east-1:123456789012:execution:plain:first"; *arn != want {
		t.Errorf("ARN %s, want %s", *arn, want)
	}
	d := w.end(arn)
	if d.Status != types.ExecutionStatusSucceeded || *d.Input != `{"a":1}` || *d.Output != `{"got":{"a":1}}` || *d.Name != "first" ||
		*d.StateMachineArn != *w.machine("plain") || !d.InputDetails.Included || !d.OutputDetails.Included {
		t.Errorf("described as %+v", d)
	}
	if d.RedriveStatus != types.ExecutionRedriveStatusNotRedrivable || *d.RedriveStatusReason != "Execution is SUCCEEDED and cannot be redriven" {
		t.Errorf("redrive status %s: %s", d.RedriveStatus, *d.RedriveStatusReason)
	}
	if d.StartDate.Before(before) || d.StopDate.Before(*d.StartDate) || d.StopDate.After(time.Now()) {
		t.Errorf("started %s, stopped %s, test began %s", d.StartDate, d.StopDate, before)
	}
	if d.Error != nil || d.Cause != nil || d.MapRunArn != nil || d.RedriveDate != nil {
		t.Errorf("a success has an error, a Map Run or a redrive: %+v", d)
	}
	bare, err := w.client.DescribeExecution(t.Context(), &sfn.DescribeExecutionInput{ExecutionArn: arn, IncludedData: types.IncludedDataMetadataOnly})
	if err != nil {
		t.Fatal(err)
	}
	if bare.Input != nil || bare.Output != nil || bare.Status != d.Status {
		t.Errorf("METADATA_ONLY shows %+v", bare)
	}
	var kinds []string
	for _, e := range w.history(arn) {
		kinds = append(kinds, fmt.Sprintf("%d<%d %s", e.Id, e.PreviousEventId, e.Type))
	}
	if got, want := strings.Join(kinds, ", "), "1<0 ExecutionStarted, 2<0 PassStateEntered, 3<2 PassStateExited, 4<3 ExecutionSucceeded"; got != want {
		t.Errorf("history %s\nwant    %s", got, want)
	}
}

func TestStartIsIdempotentWhileItRuns(t *testing.T) {
	w := newWorld(t)
	in := &sfn.StartExecutionInput{StateMachineArn: w.machine("approval"), Name: aws.String("same"), Input: aws.String("{}")}
	first, err := w.client.StartExecution(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.client.StartExecution(t.Context(), in)
	if err != nil || *again.ExecutionArn != *first.ExecutionArn || !again.StartDate.Equal(*first.StartDate) {
		t.Errorf("again: %+v, %v", again, err)
	}
	var exists *types.ExecutionAlreadyExists
	if _, err := w.client.StartExecution(t.Context(), &sfn.StartExecutionInput{StateMachineArn: in.StateMachineArn, Name: in.Name,
		Input: aws.String(`{"other":1}`)}); !errors.As(err, &exists) {
		t.Errorf("other input: %v", err)
	}
	if _, err := w.client.StopExecution(t.Context(), &sfn.StopExecutionInput{ExecutionArn: first.ExecutionArn}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.StartExecution(t.Context(), in); !errors.As(err, &exists) {
		t.Errorf("after the end: %v", err)
	}
	unnamed, err := w.client.StartExecution(t.Context(), &sfn.StartExecutionInput{StateMachineArn: w.machine("plain")})
	if err != nil {
		t.Fatal(err)
	}
	if d := w.end(unnamed.ExecutionArn); *d.Input != "{}" || len(*d.Name) != 36 {
		t.Errorf("without name and input: name %s, input %s", *d.Name, *d.Input)
	}
}

// approve answers a task token in each way and leaves three executions: succeeded, failed and stopped.
func approve(t *testing.T, w *world) {
	ctx := t.Context()
	yes := w.start("approval", "yes", "{}")
	token := w.token(yes)
	if _, err := w.client.SendTaskHeartbeat(ctx, &sfn.SendTaskHeartbeatInput{TaskToken: token}); err != nil {
		t.Error(err)
	}
	_, err := w.client.SendTaskSuccess(ctx, &sfn.SendTaskSuccessInput{TaskToken: token, Output: aws.String("{not JSON")})
	wantError(t, err, "InvalidOutput", "Invalid Output: ")
	if _, err := w.client.SendTaskSuccess(ctx, &sfn.SendTaskSuccessInput{TaskToken: token, Output: aws.String(`{"by":"me"}`)}); err != nil {
		t.Fatal(err)
	}
	if d := w.end(yes); d.Status != types.ExecutionStatusSucceeded || *d.Output != `{"by":"me"}` {
		t.Errorf("approved: %s %s", d.Status, aws.ToString(d.Output))
	}
	for name, late := range map[string]func() error{
		"success": func() error {
			_, err := w.client.SendTaskSuccess(ctx, &sfn.SendTaskSuccessInput{TaskToken: token, Output: aws.String("{}")})
			return err
		},
		"failure": func() error {
			_, err := w.client.SendTaskFailure(ctx, &sfn.SendTaskFailureInput{TaskToken: token})
			return err
		},
		"heartbeat": func() error {
			_, err := w.client.SendTaskHeartbeat(ctx, &sfn.SendTaskHeartbeatInput{TaskToken: token})
			return err
		},
	} {
		t.Run("late "+name, func(t *testing.T) { wantError(t, late(), "TaskTimedOut", "Task Timed Out: ") })
	}

	no := w.start("approval", "no", "{}")
	if _, err := w.client.SendTaskFailure(ctx, &sfn.SendTaskFailureInput{TaskToken: w.token(no), Error: aws.String("Approval.Denied"),
		Cause: aws.String("not today")}); err != nil {
		t.Fatal(err)
	}
	if d := w.end(no); d.Status != types.ExecutionStatusFailed || *d.Error != "Approval.Denied" || *d.Cause != "not today" || d.Output != nil ||
		d.RedriveStatus != types.ExecutionRedriveStatusRedrivable || d.RedriveStatusReason != nil {
		t.Errorf("denied: %+v", d)
	}

	stopped := w.start("approval", "stopped", "{}")
	w.token(stopped)
	stop, err := w.client.StopExecution(ctx, &sfn.StopExecutionInput{ExecutionArn: stopped, Error: aws.String("Operator"), Cause: aws.String("enough")})
	if err != nil {
		t.Fatal(err)
	}
	if d := w.end(stopped); d.Status != types.ExecutionStatusAborted || *d.Error != "Operator" || *d.Cause != "enough" ||
		!d.StopDate.Equal(*stop.StopDate) {
		t.Errorf("stopped: %+v", d)
	}
	again, err := w.client.StopExecution(ctx, &sfn.StopExecutionInput{ExecutionArn: stopped})
	if err != nil || !again.StopDate.Equal(*stop.StopDate) {
		t.Errorf("stopped again: %+v, %v", again, err)
	}
	last := w.history(stopped)
	if e := last[len(last)-1]; e.Type != types.HistoryEventTypeExecutionAborted || *e.ExecutionAbortedEventDetails.Cause != "enough" {
		t.Errorf("last event %+v", e)
	}
}

func TestTaskTokensAndStop(t *testing.T) { approve(t, newWorld(t)) }

// failAndRedrive leaves an execution that failed, was redriven and succeeded.
func failAndRedrive(t *testing.T, w *world) {
	ctx := t.Context()
	w.broken.Store(true)
	arn := w.start("work", "", `{"bad":true}`)
	d := w.end(arn)
	if d.Status != types.ExecutionStatusFailed || *d.Error != "Work.Broken" || !strings.Contains(*d.Cause, `"errorMessage":"it is broken"`) {
		t.Fatalf("%s %s %s", d.Status, *d.Error, *d.Cause)
	}
	w.broken.Store(false)
	w.held.Store(true) // so that the redrive still runs when it is looked at
	in := &sfn.RedriveExecutionInput{ExecutionArn: arn, ClientToken: aws.String("mine")}
	out, err := w.client.RedriveExecution(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.client.RedriveExecution(ctx, in)
	if err != nil || !again.RedriveDate.Equal(*out.RedriveDate) {
		t.Errorf("the same client token: %+v, %v", again, err)
	}
	_, err = w.client.RedriveExecution(ctx, &sfn.RedriveExecutionInput{ExecutionArn: arn})
	wantError(t, err, "ExecutionNotRedrivable", "Execution is RUNNING and cannot be redriven")
	if d := w.describe(arn); d.Status != types.ExecutionStatusRunning || *d.RedriveCount != 1 ||
		!d.RedriveDate.Equal(*out.RedriveDate) || d.StopDate != nil {
		t.Errorf("redriven: %+v", d)
	}
	w.held.Store(false)
	close(w.gate)
	if d := w.end(arn); d.Status != types.ExecutionStatusSucceeded || *d.RedriveCount != 1 || *d.Output != `{"done":true}` {
		t.Errorf("after the redrive: %+v", d)
	}
	redriven := slices.IndexFunc(w.history(arn), func(e types.HistoryEvent) bool {
		return e.Type == types.HistoryEventTypeExecutionRedriven && *e.ExecutionRedrivenEventDetails.RedriveCount == 1
	})
	if redriven < 0 {
		t.Error("the history has no ExecutionRedriven event")
	}
}

func TestRedrive(t *testing.T) { failAndRedrive(t, newWorld(t)) }

// spread runs a Distributed Map of four items of which two fail (one is tolerated), and redrives it.
func spread(t *testing.T, w *world) {
	ctx := t.Context()
	w.broken.Store(true)
	arn := w.start("spread", "s", `{"items":[{},{"bad":true},{"bad":true},{}]}`)
	if d := w.end(arn); d.Status != types.ExecutionStatusFailed || *d.Error != "States.ExceedToleratedFailureThreshold" {
		t.Fatalf("%s %s", d.Status, aws.ToString(d.Error))
	}
	runs, err := w.client.ListMapRuns(ctx, &sfn.ListMapRunsInput{ExecutionArn: arn})
	if err != nil || len(runs.MapRuns) != 1 {
		t.Fatalf("%+v, %v", runs, err)
	}
	listed := runs.MapRuns[0]
	run := listed.MapRunArn
	if *listed.ExecutionArn != *arn || listed.StopDate == nil || *listed.StateMachineArn != *w.machine("spread")+"/items" ||
		!strings.HasPrefix(*run, "arn:aws:states:us-east-1:123456789012:mapRun:spread/items:") {
		t.Errorf("listed %+v", listed)
	}
	m, err := w.client.DescribeMapRun(ctx, &sfn.DescribeMapRunInput{MapRunArn: run})
	if err != nil {
		t.Fatal(err)
	}
	c := m.ItemCounts
	if m.Status != types.MapRunStatusFailed || *m.ExecutionArn != *arn || m.MaxConcurrency != 1 || m.ToleratedFailureCount != 1 ||
		c.Total != 4 || c.Succeeded != 1 || c.Failed != 2 || c.Pending+c.Aborted != 1 || m.ExecutionCounts.Total != 4 {
		t.Errorf("failed Map Run: %+v, %+v", m, c)
	}
	children := func(status types.ExecutionStatus) []types.ExecutionListItem {
		out, err := w.client.ListExecutions(ctx, &sfn.ListExecutionsInput{MapRunArn: run, StatusFilter: status})
		if err != nil {
			t.Fatal(err)
		}
		return out.Executions
	}
	failed := children(types.ExecutionStatusFailed)
	if len(failed) != 2 || len(children(types.ExecutionStatusSucceeded)) != 1 {
		t.Fatalf("children %+v", children(""))
	}
	child := failed[0]
	if *child.MapRunArn != *run || *child.ItemCount != 1 || *child.StateMachineArn != *w.machine("spread")+"/items" ||
		!strings.HasPrefix(*child.ExecutionArn, "arn:aws:states:us-east-1:123456789012:execution:spread/items:") {
		t.Errorf("child %+v", child)
	}
	if d := w.describe(child.ExecutionArn); *d.MapRunArn != *run || *d.Error != "Work.Broken" ||
		d.RedriveStatus != types.ExecutionRedriveStatusRedrivableByMapRun {
		t.Errorf("child described: %+v", d)
	}
	if events := w.history(child.ExecutionArn); events[len(events)-1].Type != types.HistoryEventTypeExecutionFailed {
		t.Errorf("child's history: %+v", events)
	}
	_, err = w.client.RedriveExecution(ctx, &sfn.RedriveExecutionInput{ExecutionArn: child.ExecutionArn})
	wantError(t, err, "ExecutionNotRedrivable", "Map Run")

	w.broken.Store(false)
	w.held.Store(true)
	if _, err := w.client.RedriveExecution(ctx, &sfn.RedriveExecutionInput{ExecutionArn: arn}); err != nil {
		t.Fatal(err)
	}
	// One child at a time: while the first redriven one is held, the other waits for its turn.
	w.await("a child runs again", func() bool { return len(children(types.ExecutionStatusRunning)) == 1 })
	if waiting := children(types.ExecutionStatusPendingRedrive); len(waiting) != 1 {
		t.Errorf("children that wait for their redrive: %+v", waiting)
	} else if d := w.describe(waiting[0].ExecutionArn); d.Status != types.ExecutionStatusPendingRedrive {
		t.Errorf("described as %s", d.Status)
	}
	m, err = w.client.DescribeMapRun(ctx, &sfn.DescribeMapRunInput{MapRunArn: run})
	if err != nil {
		t.Fatal(err)
	}
	if c := m.ExecutionCounts; m.Status != types.MapRunStatusRunning || *m.RedriveCount != 1 || m.RedriveDate == nil || m.StopDate != nil ||
		c.Running != 1 || *c.PendingRedrive != 1 || c.Pending != 1 || c.Succeeded != 1 || c.Failed != 0 || c.Total != 4 {
		t.Errorf("redriven Map Run: %+v, %+v", m, c)
	}
	w.held.Store(false)
	close(w.gate)
	if d := w.end(arn); d.Status != types.ExecutionStatusSucceeded {
		t.Fatalf("%s %s", d.Status, aws.ToString(d.Cause))
	}
	m, err = w.client.DescribeMapRun(ctx, &sfn.DescribeMapRunInput{MapRunArn: run})
	if err != nil {
		t.Fatal(err)
	}
	if c := m.ItemCounts; m.Status != types.MapRunStatusSucceeded || c.Succeeded != 4 || c.ResultsWritten != 4 ||
		*c.PendingRedrive != 0 || m.StopDate == nil {
		t.Errorf("redriven Map Run after its end: %+v, %+v", m, c)
	}
	out, err := w.client.ListExecutions(ctx, &sfn.ListExecutionsInput{MapRunArn: run, RedriveFilter: types.ExecutionRedriveFilterRedriven})
	if err != nil || len(out.Executions) != 2 {
		t.Errorf("redriven children: %+v, %v", out, err)
	}
}

func TestMapRuns(t *testing.T) { spread(t, newWorld(t)) }

// long leaves an execution of more events than the largest page and pages through it.
func long(t *testing.T, w *world) {
	ctx := t.Context()
	arn := w.start("long", "", "{}")
	w.end(arn)
	all := w.history(arn)
	if len(all) <= 1000 {
		t.Fatalf("the machine writes only %d events", len(all))
	}
	for _, reverse := range []bool{false, true} {
		for most, want := range map[int32]int{0: 100, 7: 7, 1000: 1000} {
			in := &sfn.GetExecutionHistoryInput{ExecutionArn: arn, MaxResults: most, ReverseOrder: reverse, IncludeExecutionData: aws.Bool(false)}
			var ids []int64
			for {
				out, err := w.client.GetExecutionHistory(ctx, in)
				if err != nil {
					t.Fatal(err)
				}
				if len(out.Events) != want && out.NextToken != nil {
					t.Fatalf("maxResults %d: a page of %d", most, len(out.Events))
				}
				for _, e := range out.Events {
					if e.StateEnteredEventDetails != nil && (e.StateEnteredEventDetails.Input != nil || e.StateEnteredEventDetails.Name == nil) {
						t.Fatalf("event without data: %+v", e.StateEnteredEventDetails)
					}
					ids = append(ids, e.Id)
				}
				if in.NextToken = out.NextToken; in.NextToken == nil || most == 7 && len(ids) > 50 {
					break
				}
			}
			if reverse && ids[0] != int64(len(all)) {
				t.Errorf("reversed, the first event is %d", ids[0])
			}
			if most != 7 && len(ids) != len(all) {
				t.Errorf("reverse %v, maxResults %d: %d events in pages, %d in all", reverse, most, len(ids), len(all))
			}
			if !slices.IsSortedFunc(ids, func(a, b int64) int { return int(a-b) * map[bool]int{false: 1, true: -1}[reverse] }) {
				t.Errorf("reverse %v, maxResults %d: not in order", reverse, most)
			}
		}
	}
	first, err := w.client.GetExecutionHistory(ctx, &sfn.GetExecutionHistoryInput{ExecutionArn: arn})
	if err != nil {
		t.Fatal(err)
	}
	if in := first.Events[0].ExecutionStartedEventDetails.Input; in == nil || *in != "{}" {
		t.Error("without includeExecutionData the data is not there")
	}
	for name, in := range map[string]*sfn.GetExecutionHistoryInput{
		"other order":     {ExecutionArn: arn, NextToken: first.NextToken, ReverseOrder: true},
		"other execution": {ExecutionArn: w.start("plain", "", "{}"), NextToken: first.NextToken},
		"no token":        {ExecutionArn: arn, NextToken: aws.String("no token")},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.client.GetExecutionHistory(ctx, in)
			wantError(t, err, "InvalidToken", "Invalid Token: '"+*in.NextToken+"'")
		})
	}
}

func TestHistoryPages(t *testing.T) { long(t, newWorld(t)) }

func TestListsAndTheirPages(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for i := range 5 {
		w.end(w.start("plain", fmt.Sprintf("x%d", i), "{}"))
	}
	w.start("approval", "", "{}")
	in := &sfn.ListExecutionsInput{StateMachineArn: w.machine("plain"), StatusFilter: types.ExecutionStatusSucceeded, MaxResults: 2}
	var names []string
	for {
		out, err := w.client.ListExecutions(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range out.Executions {
			names = append(names, *x.Name)
		}
		if in.NextToken = out.NextToken; in.NextToken == nil {
			break
		}
		w.end(w.start("plain", "", "{}")) // what starts between two pages belongs before the first one
	}
	if got := strings.Join(names, " "); got != "x4 x3 x2 x1 x0" {
		t.Errorf("listed %s", got)
	}
	none, err := w.client.ListExecutions(ctx, &sfn.ListExecutionsInput{StateMachineArn: w.machine("plain"), StatusFilter: types.ExecutionStatusFailed})
	if err != nil || none.Executions == nil || len(none.Executions) != 0 {
		t.Errorf("failed ones: %+v, %v", none, err)
	}
	machines(t, w)
}

// machines lists and describes the state machines.
func machines(t *testing.T, w *world) {
	ctx := t.Context()
	var names []string
	pages := sfn.NewListStateMachinesPaginator(w.client, &sfn.ListStateMachinesInput{MaxResults: 2})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.StateMachines {
			names = append(names, *m.Name)
			if m.Type != types.StateMachineTypeStandard || m.CreationDate.IsZero() || *m.StateMachineArn != *w.machine(*m.Name) {
				t.Errorf("listed %+v", m)
			}
		}
	}
	if want := slices.Sorted(maps.Keys(definitions)); !slices.Equal(names, want) {
		t.Errorf("machines %v, want %v", names, want)
	}
	d, err := w.client.DescribeStateMachine(ctx, &sfn.DescribeStateMachineInput{StateMachineArn: w.machine("work")})
	if err != nil {
		t.Fatal(err)
	}
	if *d.Definition != definitions["work"] || *d.Name != "work" || d.Status != types.StateMachineStatusActive || d.RoleArn == nil ||
		d.LoggingConfiguration.Level != types.LogLevelOff || d.TracingConfiguration.Enabled {
		t.Errorf("described %+v", d)
	}
}

func wantError(t *testing.T, err error, code, message string) {
	t.Helper()
	if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != code || !strings.Contains(e.ErrorMessage(), message) {
		t.Errorf("got %v\nwant %s: %s", err, code, message)
	}
}

// refusals sends what must be refused.
func refusals(t *testing.T, w *world) {
	const (
		machine   = "arn:aws:states:us-east-1:123456789012:stateMachine:"
		execution = "arn:aws:states:us-east-1:123456789012:execution:"
		mapRun    = "arn:aws:states:us-east-1:123456789012:mapRun:"
	)
	plain, long := machine+"plain", strings.Repeat("a", 81)
	for _, test := range []struct {
		name, operation, body, kind, message string
	}{
		{"no ARN", "StartExecution", `{"stateMachineArn":"not-an-arn"}`, "InvalidArn", "Invalid Arn: 'Invalid ARN prefix: not-an-arn'"},
		{"half an ARN", "StartExecution", `{"stateMachineArn":"arn:aws:states:us-east-1"}`, "InvalidArn", "Invalid Arn: 'arn:aws:states:us-east-1'"},
		{"ARN of another kind", "StartExecution", `{"stateMachineArn":"` + execution + `plain:x"}`, "InvalidArn",
			"Invalid Arn: 'Resource type not valid in this context: execution'"},
		{"no such machine", "StartExecution", `{"stateMachineArn":"` + machine + `none","name":"a b","input":"{"}`, "StateMachineDoesNotExist",
			"State Machine Does Not Exist: '" + machine + "none'"},
		{"bad name before bad input", "StartExecution", `{"stateMachineArn":"` + plain + `","name":"a b","input":"{"}`, "InvalidName",
			"Invalid Name: 'a b'"},
		{"input is no JSON", "StartExecution", `{"stateMachineArn":"` + plain + `","input":"{"}`, "InvalidExecutionInput",
			"Invalid State Machine Execution Input: '"},
		{"empty input", "StartExecution", `{"stateMachineArn":"` + plain + `","input":""}`, "InvalidExecutionInput",
			"Invalid State Machine Execution Input: 'Invalid execution input.'"},
		{"long name before no such machine", "StartExecution", `{"stateMachineArn":"` + machine + `none","name":"` + long + `"}`, "ValidationException",
			"1 validation error detected: Value '" + long + "' at 'name' failed to satisfy constraint: Member must have length less than or equal to 80"},
		{"large input", "StartExecution", `{"stateMachineArn":"` + plain + `","input":"\"` + strings.Repeat("a", 262_144) + `\""}`,
			"ValidationException",
			"1 validation error detected: Value at 'input' failed to satisfy constraint: " +
				"Member must have size less than or equal to 262144 bytes in UTF-8 encoding"},
		{"no machine", "StartExecution", `{"name":"n"}`, "ValidationException",
			"1 validation error detected: Value null at 'stateMachineArn' failed to satisfy constraint: Member must not be null"},
		{"two at once", "StartExecution", `{"name":""}`, "ValidationException", "2 validation errors detected: " +
			"Value null at 'stateMachineArn' failed to satisfy constraint: Member must not be null; " +
			"Value '' at 'name' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"labelled ARN", "StartExecution", `{"stateMachineArn":"` + machine + `spread/items"}`, "ValidationException", "labelled"},
		{"wrong type", "StartExecution", `{"stateMachineArn":1}`, "SerializationException", ""},
		{"no JSON", "StartExecution", `no`, "SerializationException", ""},
		{"no such execution", "DescribeExecution", `{"executionArn":"` + execution + `plain:none"}`, "ExecutionDoesNotExist",
			"Execution Does Not Exist: '" + execution + "plain:none'"},
		{"describe a machine as an execution", "DescribeExecution", `{"executionArn":"` + plain + `"}`, "InvalidArn",
			"Invalid Arn: 'Resource type not valid in this context: stateMachine'"},
		{"describe with unknown data", "DescribeExecution", `{"executionArn":"` + execution + `plain:x","includedData":"SOME"}`, "ValidationException",
			"Value 'SOME' at 'includedData' failed to satisfy constraint: Member must satisfy enum value set: [METADATA_ONLY, ALL_DATA]"},
		{"history of nothing", "GetExecutionHistory", `{"executionArn":"` + execution + `plain:none"}`, "ExecutionDoesNotExist", ""},
		{"history, too much", "GetExecutionHistory", `{"executionArn":"` + execution + `plain:none","maxResults":1001}`, "ValidationException",
			"Value '1001' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 1000"},
		{"history, too little", "GetExecutionHistory", `{"executionArn":"` + execution + `plain:none","maxResults":-1}`, "ValidationException",
			"Value '-1' at 'maxResults' failed to satisfy constraint: Member must have value greater than or equal to 0"},
		{"stop nothing", "StopExecution", `{"executionArn":"` + execution + `plain:none"}`, "ExecutionDoesNotExist", ""},
		{"stop with a long error", "StopExecution", `{"executionArn":"` + execution + `plain:none","error":"` + strings.Repeat("e", 257) + `"}`,
			"ValidationException", "Value at 'error' failed to satisfy constraint: Member must have length less than or equal to 256"},
		{"redrive nothing", "RedriveExecution", `{"executionArn":"` + execution + `plain:none"}`, "ExecutionDoesNotExist", ""},
		{"redrive a Map Run", "RedriveExecution", `{"executionArn":"` + mapRun + `spread/items:x"}`, "InvalidArn", ""},
		{"list neither", "ListExecutions", `{}`, "ValidationException", "Must provide"},
		{"list both", "ListExecutions", `{"stateMachineArn":"` + plain + `","mapRunArn":"` + mapRun + `spread/items:x"}`, "ValidationException",
			"Must provide"},
		{"list for no machine", "ListExecutions", `{"stateMachineArn":"` + machine + `none"}`, "StateMachineDoesNotExist", ""},
		{"list for no Map Run", "ListExecutions", `{"mapRunArn":"` + mapRun + `spread/items:none"}`, "ResourceNotFound", ""},
		{"list an unknown status", "ListExecutions", `{"stateMachineArn":"` + plain + `","statusFilter":"succeeded"}`, "ValidationException",
			"1 validation error detected: Value 'succeeded' at 'statusFilter' failed to satisfy constraint: " +
				"Member must satisfy enum value set: [SUCCEEDED, TIMED_OUT, PENDING_REDRIVE, ABORTED, FAILED, RUNNING]"},
		{"list pending redrives of a machine", "ListExecutions", `{"stateMachineArn":"` + plain + `","statusFilter":"PENDING_REDRIVE"}`,
			"ValidationException", "Map Run"},
		{"list with a bad token", "ListExecutions", `{"stateMachineArn":"` + plain + `","nextToken":"x"}`, "InvalidToken", "Invalid Token: 'x'"},
		{"list machines with a bad token", "ListStateMachines", `{"nextToken":"x"}`, "InvalidToken", "Invalid Token: 'x'"},
		{"describe no machine", "DescribeStateMachine", `{"stateMachineArn":"` + machine + `none"}`, "StateMachineDoesNotExist", ""},
		{"describe no Map Run", "DescribeMapRun", `{"mapRunArn":"` + mapRun + `spread/items:none"}`, "ResourceNotFound", ""},
		{"describe an execution as a Map Run", "DescribeMapRun", `{"mapRunArn":"` + execution + `plain:x"}`, "InvalidArn", ""},
		{"Map Runs of nothing", "ListMapRuns", `{"executionArn":"` + execution + `plain:none"}`, "ExecutionDoesNotExist", ""},
		{"success for no task", "SendTaskSuccess", `{"taskToken":"x","output":"{}"}`, "InvalidToken", "Invalid Token: 'Invalid token'"},
		{"success without output", "SendTaskSuccess", `{"taskToken":"x"}`, "ValidationException", "Value null at 'output'"},
		{"failure for no task", "SendTaskFailure", `{"taskToken":"x"}`, "InvalidToken", ""},
		{"heartbeat for no task", "SendTaskHeartbeat", `{"taskToken":"x"}`, "InvalidToken", ""},
		{"not served", "CreateStateMachine", `{}`, "UnknownOperationException", `"AWSStepFunctions.CreateStateMachine" is not served`},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, out := w.send("AWSStepFunctions."+test.operation, test.body, nil)
			namespace := serviceErrors
			switch test.kind {
			case "ValidationException":
				namespace = validationErrors
			case "SerializationException", "UnknownOperationException":
				namespace = protocolErrors
			}
			if status != http.StatusBadRequest || out["__type"] != namespace+test.kind || !strings.Contains(fmt.Sprint(out["message"]), test.message) {
				t.Errorf("%d %v\nwant %s: %s", status, out, namespace+test.kind, test.message)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	refusals(t, w)
	if n := len(w.engine.Executions("")); n != 0 {
		t.Errorf("%d executions were started", n)
	}
	_, err := w.client.DescribeMapRun(t.Context(), &sfn.DescribeMapRunInput{MapRunArn: aws.String("arn:aws:states:us-east-1:123456789012:mapRun:a/b:c")})
	if e, ok := errors.AsType[*types.ResourceNotFound](err); !ok || *e.ResourceName != "arn:aws:states:us-east-1:123456789012:mapRun:a/b:c" {
		t.Errorf("the SDK sees %v", err)
	}
}

func TestSignatures(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]struct {
		change  func(*http.Request)
		status  int
		kind    string
		message string
	}{
		"none": {func(r *http.Request) { r.Header.Del("Authorization") }, 400,
			"MissingAuthenticationTokenException", "Missing Authentication Token"},
		"other operation": {func(r *http.Request) { r.Header.Set("X-Amz-Target", "AWSStepFunctions.ListExecutions") }, 400,
			"InvalidSignatureException", ""},
		"other body": {func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("[]")) }, 400, "InvalidSignatureException",
			"The request signature we calculated does not match"},
		"unknown key": {replace(accessKey, "AKIAOTHER"), 400, "UnrecognizedClientException", "The security token included in the request is invalid."},
		"other service": {replace("/states/", "/es/"), 400, "InvalidSignatureException",
			"Credential should be scoped to correct service: 'states'."},
		"no signature": {func(r *http.Request) { r.Header.Set("Authorization", "Basic eDp5") }, 400, "IncompleteSignatureException", ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, out := w.send("AWSStepFunctions.ListStateMachines", "{}", test.change)
			kind, message := fmt.Sprint(out["__type"]), fmt.Sprint(out["message"])
			if status != test.status || kind != protocolErrors+test.kind || !strings.Contains(message, test.message) {
				t.Errorf("%d %v", status, out)
			}
		})
	}
	_, err := w.clientWith("another secret").ListStateMachines(t.Context(), &sfn.ListStateMachinesInput{})
	wantError(t, err, "InvalidSignatureException", "does not match")
}

func replace(from, to string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Set("Authorization", strings.ReplaceAll(r.Header.Get("Authorization"), from, to))
	}
}

func TestAuthorization(t *testing.T) {
	request := func(authorize func(*http.Request, []byte) error) (int, string) {
		h := New(asl.New(asl.Config{}), authorize)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader("{}"))
		r.Header.Set("X-Amz-Target", "AWSStepFunctions.ListStateMachines")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for name, test := range map[string]struct {
		authorize func(*http.Request, []byte) error
		status    int
		want      string
	}{
		"everybody": {nil, 200, `{"stateMachines":[]}`},
		"a wrapped refusal": {func(*http.Request, []byte) error {
			return fmt.Errorf("x: %w", &sigv4.Error{Status: 403, Code: "Code", Message: "m"})
		}, 403, `#Code"`},
		"an error of any kind": {func(*http.Request, []byte) error { return errors.New("not you") }, 400, `#AccessDeniedException","message":"not you"`},
		"sees the body":        {func(_ *http.Request, body []byte) error { return errors.New(string(body)) }, 400, `"message":"{}"`},
	} {
		if status, out := request(test.authorize); status != test.status || !strings.Contains(out, test.want) {
			t.Errorf("%s: %d %s", name, status, out)
		}
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*http.Request){
		"GET":          func(r *http.Request) { r.Method = http.MethodGet },
		"no target":    func(r *http.Request) { r.Header.Del("X-Amz-Target") },
		"other target": func(r *http.Request) { r.Header.Set("X-Amz-Target", "DynamoDB_20120810.ListTables") },
	} {
		if status, out := w.send("AWSStepFunctions.ListStateMachines", "{}", change); status != 400 ||
			out["__type"] != protocolErrors+"UnknownOperationException" {
			t.Errorf("%s: %d %v", name, status, out)
		}
	}
	status, out := w.send("AWSStepFunctions.StartExecution", strings.Repeat(" ", maximumRequest+1), nil)
	if status != http.StatusRequestEntityTooLarge ||
		out["__type"] != protocolErrors+"RequestEntityTooLargeException" {
		t.Errorf("too large: %d %v", status, out)
	}
}
