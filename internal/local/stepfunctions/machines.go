package stepfunctions

import (
	"errors"

	"github.com/domainferry/domainferry/internal/local/asl"
)

func (in pageInput) check(v *violations) { in.checkPage(v, 1024) }

func (h *Handler) listStateMachines(in pageInput) (any, error) {
	return listing[*asl.StateMachine]{
		name: "stateMachines", all: h.engine.StateMachines(),
		key: func(s *asl.StateMachine) string { return s.ARN },
		shown: func(s *asl.StateMachine) (any, bool) {
			return map[string]any{"stateMachineArn": s.ARN, "name": s.Name, "type": "STANDARD", "creationDate": epoch(s.Created)}, true
		},
	}.page(in)
}

type describeMachineInput struct {
	StateMachineArn, IncludedData *string
}

func (in describeMachineInput) check(v *violations) {
	v.requiredARN("stateMachineArn", in.StateMachineArn)
	v.oneOf("includedData", in.IncludedData, "METADATA_ONLY", "ALL_DATA")
}

func (h *Handler) stateMachine(arn string) (*asl.StateMachine, error) {
	if err := checkARN(arn, "stateMachine"); err != nil {
		return nil, err
	}
	return h.engine.StateMachine(arn)
}

// describeStateMachine shows the definition for METADATA_ONLY too: the API hides only encrypted ones.
func (h *Handler) describeStateMachine(in describeMachineInput) (any, error) {
	s, err := h.stateMachine(*in.StateMachineArn)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"stateMachineArn": s.ARN, "name": s.Name, "status": "ACTIVE", "type": "STANDARD", "definition": s.Machine.Definition(),
		"roleArn": s.RoleARN, "creationDate": epoch(s.Created),
		"loggingConfiguration": map[string]any{"level": "OFF", "includeExecutionData": false},
		"tracingConfiguration": map[string]bool{"enabled": false},
	}, nil
}

type mapRunInput struct{ MapRunArn *string }

func (in mapRunInput) check(v *violations) {
	v.required("mapRunArn", in.MapRunArn)
	v.length("mapRunArn", in.MapRunArn, 1, 2000)
}

func (h *Handler) mapRun(arn string) (*asl.MapRun, error) {
	if err := checkARN(arn, "mapRun"); err != nil {
		return nil, err
	}
	run, err := h.engine.MapRun(arn)
	if e, ok := errors.AsType[*asl.ServiceError](err); ok {
		return nil, refuse(e.Code, "%s", e.Message).with("resourceName", arn)
	}
	return run, err
}

func (h *Handler) describeMapRun(in mapRunInput) (any, error) {
	run, err := h.mapRun(*in.MapRunArn)
	if err != nil {
		return nil, err
	}
	d := run.Describe()
	items, executions := newCounts(d, d.Items), newCounts(d, d.Executions)
	for _, x := range h.engine.Executions(run.ARN) {
		child := x.Describe()
		items.redrive(d, child, child.ItemCount)
		executions.redrive(d, child, 1)
	}
	m := map[string]any{
		"mapRunArn": d.MapRunARN, "executionArn": d.ExecutionARN, "status": d.Status, "startDate": epoch(d.StartDate),
		"maxConcurrency": d.MaxConcurrency, "toleratedFailureCount": d.ToleratedFailureCount,
		"toleratedFailurePercentage": d.ToleratedFailurePercentage, "redriveCount": d.RedriveCount,
		"itemCounts": items, "executionCounts": executions,
	}
	optional(m, "stopDate", d.StopDate)
	optional(m, "redriveDate", d.RedriveDate)
	return m, nil
}

// counts are the items or child executions of a Map Run by their status.
type counts struct {
	Pending               int `json:"pending"`
	Running               int `json:"running"`
	Succeeded             int `json:"succeeded"`
	Failed                int `json:"failed"`
	TimedOut              int `json:"timedOut"`
	Aborted               int `json:"aborted"`
	Total                 int `json:"total"`
	ResultsWritten        int `json:"resultsWritten"`
	FailuresNotRedrivable int `json:"failuresNotRedrivable"`
	PendingRedrive        int `json:"pendingRedrive"`
}

func newCounts(run asl.MapRunDescription, c asl.Counts) *counts {
	out := &counts{
		Pending: c.Pending, Running: c.Running, Succeeded: c.Succeeded, Failed: c.Failed, TimedOut: c.TimedOut, Aborted: c.Aborted, Total: c.Total,
	}
	if run.Status == asl.Succeeded {
		// Despite the documentation ("written by ResultWriter") the service counts them without a ResultWriter too (LocalStack's
		// recording of 2023-09-21).
		out.ResultsWritten = c.Succeeded
	}
	return out
}

// redrive counts what a child's failure means for a redrive; the engine counts children that wait for theirs as pending.
func (c *counts) redrive(run asl.MapRunDescription, child asl.Description, n int) {
	switch {
	case waitsForRedrive(run, child):
		c.Pending -= n
		c.PendingRedrive += n
	case unsuccessful(child.Status) && child.RedriveStatus == "NOT_REDRIVABLE":
		c.FailuresNotRedrivable += n
	}
}

type listMapRunsInput struct {
	ExecutionArn *string
	pageInput
}

func (in listMapRunsInput) check(v *violations) {
	v.requiredARN("executionArn", in.ExecutionArn)
	in.checkPage(v, 1024)
}

func (h *Handler) listMapRuns(in listMapRunsInput) (any, error) {
	x, err := h.execution(*in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	return listing[*asl.MapRun]{
		name: "mapRuns", of: x.ARN, all: x.MapRuns(),
		key: func(run *asl.MapRun) string { return run.ARN },
		shown: func(run *asl.MapRun) (any, bool) {
			d := run.Describe()
			m := map[string]any{
				"executionArn": d.ExecutionARN, "mapRunArn": d.MapRunARN, "stateMachineArn": d.StateMachineARN, "startDate": epoch(d.StartDate),
			}
			optional(m, "stopDate", d.StopDate)
			return m, true
		},
	}.page(in.pageInput)
}
