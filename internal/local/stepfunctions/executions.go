package stepfunctions

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
)

type startInput struct {
	StateMachineArn, Name, Input *string
}

func (in startInput) check(v *violations) {
	v.requiredARN("stateMachineArn", in.StateMachineArn)
	v.length("name", in.Name, 1, 80)
	v.payload("input", in.Input)
}

func (h *Handler) startExecution(in startInput) (any, error) {
	if _, err := h.stateMachine(*in.StateMachineArn); err != nil {
		return nil, err
	}
	input := "{}"
	if in.Input != nil {
		if input = *in.Input; strings.TrimSpace(input) == "" {
			return nil, refuse("InvalidExecutionInput", "Invalid State Machine Execution Input: 'Invalid execution input.'")
		}
	}
	x, err := h.engine.Start(*in.StateMachineArn, value(in.Name), input)
	if err != nil {
		return nil, err
	}
	return map[string]any{"executionArn": x.ARN, "startDate": epoch(x.Describe().StartDate)}, nil
}

type describeExecutionInput struct {
	ExecutionArn, IncludedData *string
}

func (in describeExecutionInput) check(v *violations) {
	v.requiredARN("executionArn", in.ExecutionArn)
	v.oneOf("includedData", in.IncludedData, "METADATA_ONLY", "ALL_DATA")
}

func (h *Handler) execution(arn string) (*asl.Execution, error) {
	if err := checkARN(arn, "execution"); err != nil {
		return nil, err
	}
	return h.engine.Execution(arn)
}

func (h *Handler) describeExecution(in describeExecutionInput) (any, error) {
	x, err := h.execution(*in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	d := x.Describe()
	m := h.row(d)
	delete(m, "itemCount") // only in lists
	m["redriveStatus"] = d.RedriveStatus
	if value(in.IncludedData) == "METADATA_ONLY" {
		return m, nil
	}
	m["input"], m["inputDetails"] = d.Input, included
	if d.Status == asl.Succeeded {
		m["output"], m["outputDetails"] = d.Output, included
	}
	text(m, "error", d.Error)
	text(m, "cause", d.Cause)
	text(m, "redriveStatusReason", d.RedriveStatusReason)
	return m, nil
}

var included = map[string]bool{"included": true}

// row is what lists and descriptions of an execution have in common.
func (h *Handler) row(d asl.Description) map[string]any {
	m := map[string]any{
		"executionArn": d.ExecutionARN, "stateMachineArn": d.StateMachineARN, "name": d.Name, "status": h.status(d),
		"startDate": epoch(d.StartDate), "redriveCount": d.RedriveCount,
	}
	optional(m, "stopDate", d.StopDate)
	optional(m, "redriveDate", d.RedriveDate)
	if d.MapRunARN != "" {
		m["mapRunArn"], m["itemCount"] = d.MapRunARN, d.ItemCount
	}
	return m
}

// pendingRedrive is the status of a child that waits for its turn in a redriven Map Run; the engine keeps its old one until then.
const pendingRedrive = "PENDING_REDRIVE"

func (h *Handler) status(d asl.Description) string {
	if d.MapRunARN != "" && unsuccessful(d.Status) { // asking the Map Run walks over all its children
		if run, err := h.engine.MapRun(d.MapRunARN); err == nil && waitsForRedrive(run.Describe(), d) {
			return pendingRedrive
		}
	}
	return string(d.Status)
}

func waitsForRedrive(run asl.MapRunDescription, child asl.Description) bool {
	return run.Status == asl.Running && run.RedriveCount > 0 && unsuccessful(child.Status) && !child.StopDate.After(run.RedriveDate)
}

func unsuccessful(s asl.Status) bool { return s == asl.Failed || s == asl.TimedOut || s == asl.Aborted }

type listExecutionsInput struct {
	StateMachineArn, MapRunArn, StatusFilter, RedriveFilter *string
	pageInput
}

func (in listExecutionsInput) check(v *violations) {
	v.length("stateMachineArn", in.StateMachineArn, 1, 256)
	v.length("mapRunArn", in.MapRunArn, 1, 2000)
	v.oneOf("statusFilter", in.StatusFilter, "SUCCEEDED", "TIMED_OUT", pendingRedrive, "ABORTED", "FAILED", "RUNNING")
	v.oneOf("redriveFilter", in.RedriveFilter, "REDRIVEN", "NOT_REDRIVEN")
	in.checkPage(v, 3096)
}

func (h *Handler) listExecutions(in listExecutionsInput) (any, error) {
	arn := value(in.StateMachineArn)
	switch {
	case (in.StateMachineArn == nil) == (in.MapRunArn == nil):
		return nil, invalid("Must provide either a state machine ARN or a Map Run ARN, and not both").with("reason", "MISSING_REQUIRED_PARAMETER")
	case arn == "":
		arn = *in.MapRunArn
		if _, err := h.mapRun(arn); err != nil {
			return nil, err
		}
	default:
		if _, err := h.stateMachine(arn); err != nil {
			return nil, err
		}
		// The API model's documentation: "If you provide a state machine ARN ..., the API returns a validation exception."
		if value(in.StatusFilter) == pendingRedrive || in.RedriveFilter != nil {
			return nil, invalid("the status filter %s and a redrive filter need a Map Run ARN", pendingRedrive)
		}
	}
	status, redriven := value(in.StatusFilter), value(in.RedriveFilter)
	return listing[*asl.Execution]{
		name: "executions", of: strings.Join([]string{arn, status, redriven}, " "), all: h.engine.Executions(arn),
		key: func(x *asl.Execution) string { return x.ARN },
		shown: func(x *asl.Execution) (any, bool) {
			d := x.Describe()
			m := h.row(d)
			return m, (status == "" || m["status"] == status) && (redriven == "" || (redriven == "REDRIVEN") == (d.RedriveCount > 0))
		},
	}.page(in.pageInput)
}

type historyInput struct {
	ExecutionArn         *string
	ReverseOrder         bool
	IncludeExecutionData *bool
	pageInput
}

func (in historyInput) check(v *violations) {
	v.requiredARN("executionArn", in.ExecutionArn)
	in.checkPage(v, 1024)
}

func (h *Handler) getExecutionHistory(in historyInput) (any, error) {
	x, err := h.execution(*in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	events := x.History()
	if in.ReverseOrder {
		slices.Reverse(events)
	}
	return listing[asl.Event]{
		name: "events", of: x.ARN + " " + strconv.FormatBool(in.ReverseOrder), all: events,
		key: func(e asl.Event) string { return strconv.FormatInt(e.ID, 10) },
		shown: func(e asl.Event) (any, bool) {
			if in.IncludeExecutionData != nil && !*in.IncludeExecutionData {
				e = withoutData(e)
			}
			return e, true
		},
	}.page(in.pageInput)
}

// withoutData drops inputs and outputs, as includeExecutionData=false asks, and variables, which hold the same. The parameters of a
// task stay: the API model requires them.
func withoutData(e asl.Event) asl.Event {
	if e.DetailsName == "" {
		return e
	}
	kept := map[string]any{}
	for k, v := range e.Details {
		switch k {
		case "input", "output", "inputDetails", "outputDetails", "assignedVariables", "assignedVariablesDetails":
		default:
			kept[k] = v
		}
	}
	e.Details = kept
	return e
}

type stopInput struct {
	ExecutionArn, Error, Cause *string
}

func (in stopInput) check(v *violations) {
	v.requiredARN("executionArn", in.ExecutionArn)
	checkFailure(v, in.Error, in.Cause)
}

// checkFailure checks the error and cause that a caller gives.
func checkFailure(v *violations, name, cause *string) {
	v.hidden("error", name, 256)
	v.hidden("cause", cause, 32_768)
}

func (h *Handler) stopExecution(in stopInput) (any, error) {
	x, err := h.execution(*in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	return map[string]any{"stopDate": epoch(x.Stop(value(in.Error), value(in.Cause)))}, nil
}

type redriveInput struct {
	ExecutionArn, ClientToken *string
}

func (in redriveInput) check(v *violations) {
	v.requiredARN("executionArn", in.ExecutionArn)
	v.length("clientToken", in.ClientToken, 1, 64)
}

// redrive is a redrive that a client asked for with a token of its own.
type redrive struct {
	token string
	date  time.Time
}

// The API answers the last 10 tokens of an execution alike for 15 minutes: a client that lost the answer asks again with the token
// that it made.
const (
	rememberedTokens = 10
	tokenValid       = 15 * time.Minute
)

func (h *Handler) redriveExecution(in redriveInput) (any, error) {
	x, err := h.execution(*in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	token := value(in.ClientToken)
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.redriven[x.ARN]
	for _, r := range before {
		if token != "" && r.token == token && h.engine.Clock().Now().Sub(r.date) < tokenValid {
			return map[string]any{"redriveDate": epoch(r.date)}, nil
		}
	}
	if err := x.Redrive(); err != nil {
		return nil, err
	}
	date := x.Describe().RedriveDate
	before = append(before, redrive{token, date})
	h.redriven[x.ARN] = before[max(0, len(before)-rememberedTokens):]
	return map[string]any{"redriveDate": epoch(date)}, nil
}
