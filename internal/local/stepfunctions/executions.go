package stepfunctions

import (
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
)

type startInput struct {
	StateMachineArn string
	Name            string
	Input           *string
}

func (h *Handler) startExecution(in startInput) (any, error) {
	if err := checkARN(in.StateMachineArn, "stateMachine"); err != nil {
		return nil, err
	}
	input := "{}"
	if in.Input != nil {
		input = *in.Input
	}
	x, err := h.engine.Start(in.StateMachineArn, in.Name, input)
	if err != nil {
		return nil, err
	}
	return map[string]any{"executionArn": x.ARN, "startDate": epoch(x.Describe().StartDate)}, nil
}

// checkARN refuses what is no ARN of Step Functions with the service's code.
func checkARN(arn, kind string) error {
	parts := strings.Split(arn, ":")
	if len(parts) < 7 || parts[0] != "arn" || parts[2] != "states" || kind == "stateMachine" && parts[5] != kind {
		return &apiError{400, "InvalidArn", "Invalid Arn: '" + arn + "'"}
	}
	return nil
}

type executionInput struct {
	ExecutionArn string
}

func (h *Handler) execution(arn string) (*asl.Execution, error) {
	if err := checkARN(arn, "execution"); err != nil {
		return nil, err
	}
	return h.engine.Execution(arn)
}

func (h *Handler) describeExecution(in executionInput) (any, error) {
	x, err := h.execution(in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	d := x.Describe()
	m := map[string]any{
		"executionArn": d.ExecutionARN, "stateMachineArn": d.StateMachineARN, "name": d.Name, "status": d.Status,
		"startDate": epoch(d.StartDate), "input": d.Input, "inputDetails": included, "redriveCount": d.RedriveCount,
		"redriveStatus": d.RedriveStatus,
	}
	optional(m, "stopDate", d.StopDate)
	optional(m, "redriveDate", d.RedriveDate)
	text(m, "redriveStatusReason", d.RedriveStatusReason)
	text(m, "error", d.Error)
	text(m, "cause", d.Cause)
	text(m, "mapRunArn", d.MapRunARN)
	if d.Status == asl.Succeeded {
		m["output"], m["outputDetails"] = d.Output, included
	}
	return m, nil
}

var included = map[string]bool{"included": true}

type listExecutionsInput struct {
	StateMachineArn string
	MapRunArn       string
	StatusFilter    asl.Status
	RedriveFilter   string
	MaxResults      int
	NextToken       string
}

func (h *Handler) listExecutions(in listExecutionsInput) (any, error) {
	arn := in.StateMachineArn
	switch {
	case arn == "" && in.MapRunArn == "" || arn != "" && in.MapRunArn != "":
		return nil, invalid("Must provide exactly one of StateMachineArn or MapRunArn")
	case arn != "":
		if err := checkARN(arn, "stateMachine"); err != nil {
			return nil, err
		}
		if _, err := h.engine.StateMachine(arn); err != nil {
			return nil, err
		}
	default:
		if _, err := h.engine.MapRun(in.MapRunArn); err != nil {
			return nil, err
		}
		arn = in.MapRunArn
	}
	rows := []any{}
	for _, x := range h.engine.Executions(arn) {
		d := x.Describe()
		if in.StatusFilter != "" && d.Status != in.StatusFilter ||
			in.RedriveFilter == "REDRIVEN" && d.RedriveCount == 0 || in.RedriveFilter == "NOT_REDRIVEN" && d.RedriveCount > 0 {
			continue
		}
		m := map[string]any{
			"executionArn": d.ExecutionARN, "stateMachineArn": d.StateMachineARN, "name": d.Name, "status": d.Status,
			"startDate": epoch(d.StartDate), "redriveCount": d.RedriveCount,
		}
		optional(m, "stopDate", d.StopDate)
		optional(m, "redriveDate", d.RedriveDate)
		if d.MapRunARN != "" {
			m["mapRunArn"], m["itemCount"] = d.MapRunARN, d.ItemCount
		}
		rows = append(rows, m)
	}
	return page("executions", rows, in.MaxResults, in.NextToken)
}

type historyInput struct {
	ExecutionArn         string
	MaxResults           int
	ReverseOrder         bool
	NextToken            string
	IncludeExecutionData *bool
}

func (h *Handler) getExecutionHistory(in historyInput) (any, error) {
	x, err := h.execution(in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	events := x.History()
	rows := make([]any, len(events))
	for i, e := range events {
		if in.IncludeExecutionData != nil && !*in.IncludeExecutionData {
			e = withoutData(e)
		}
		if in.ReverseOrder {
			rows[len(rows)-1-i] = e
		} else {
			rows[i] = e
		}
	}
	return page("events", rows, in.MaxResults, in.NextToken)
}

// withoutData drops inputs, outputs and parameters, as includeExecutionData=false asks.
func withoutData(e asl.Event) asl.Event {
	kept := map[string]any{}
	for k, v := range e.Details {
		switch k {
		case "input", "output", "inputDetails", "outputDetails", "parameters", "assignedVariables", "assignedVariablesDetails":
		default:
			kept[k] = v
		}
	}
	e.Details = kept
	return e
}

type stopInput struct {
	ExecutionArn string
	Error        string
	Cause        string
}

func (h *Handler) stopExecution(in stopInput) (any, error) {
	x, err := h.execution(in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	if len(in.Error) > 256 || len(in.Cause) > 32768 {
		return nil, invalid("error has at most 256 and cause at most 32768 characters")
	}
	return map[string]any{"stopDate": epoch(x.Stop(in.Error, in.Cause))}, nil
}

func (h *Handler) redriveExecution(in executionInput) (any, error) {
	x, err := h.execution(in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	if err := x.Redrive(); err != nil {
		return nil, err
	}
	at := x.Describe().RedriveDate
	if at.IsZero() {
		at = time.Now()
	}
	return map[string]any{"redriveDate": epoch(at)}, nil
}
