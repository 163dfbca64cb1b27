package stepfunctions

import (
	"encoding/base64"
	"strconv"

	"github.com/domainferry/domainferry/internal/local/asl"
)

type pageInput struct {
	MaxResults int
	NextToken  string
}

// page cuts rows to one page. A token is the offset of the next one; 100 rows are the default and 1,000 the most, as in the API.
func page(name string, rows []any, most int, token string) (any, error) {
	if most < 0 || most > 1000 {
		return nil, invalid("maxResults must be between 0 and 1000")
	}
	if most == 0 {
		most = 100
	}
	from := 0
	if token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err == nil {
			from, err = strconv.Atoi(string(raw))
		}
		if err != nil || from < 0 || from > len(rows) {
			return nil, &apiError{400, "InvalidToken", "Invalid Token: '" + token + "'"}
		}
	}
	to := min(from+most, len(rows))
	m := map[string]any{name: rows[from:to]}
	if to < len(rows) {
		m["nextToken"] = base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(to)))
	}
	return m, nil
}

func (h *Handler) listStateMachines(in pageInput) (any, error) {
	rows := []any{}
	for _, s := range h.engine.StateMachines() {
		rows = append(rows, map[string]any{"stateMachineArn": s.ARN, "name": s.Name, "type": "STANDARD", "creationDate": epoch(s.Created)})
	}
	return page("stateMachines", rows, in.MaxResults, in.NextToken)
}

func (h *Handler) describeStateMachine(in struct{ StateMachineArn string }) (any, error) {
	if err := checkARN(in.StateMachineArn, "stateMachine"); err != nil {
		return nil, err
	}
	s, err := h.engine.StateMachine(in.StateMachineArn)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"stateMachineArn": s.ARN, "name": s.Name, "status": "ACTIVE", "type": "STANDARD", "definition": s.Machine.Definition(),
		"roleArn": s.RoleARN, "creationDate": epoch(s.Created), "loggingConfiguration": map[string]any{"level": "OFF", "includeExecutionData": false},
		"tracingConfiguration": map[string]bool{"enabled": false},
	}, nil
}

type mapRunInput struct{ MapRunArn string }

func (h *Handler) describeMapRun(in mapRunInput) (any, error) {
	run, err := h.engine.MapRun(in.MapRunArn)
	if err != nil {
		return nil, err
	}
	d := run.Describe()
	m := map[string]any{
		"mapRunArn": d.MapRunARN, "executionArn": d.ExecutionARN, "status": d.Status, "startDate": epoch(d.StartDate),
		"maxConcurrency": d.MaxConcurrency, "toleratedFailureCount": d.ToleratedFailureCount,
		"toleratedFailurePercentage": d.ToleratedFailurePercentage, "redriveCount": d.RedriveCount,
		"itemCounts": counts(d.Items), "executionCounts": counts(d.Executions),
	}
	optional(m, "stopDate", d.StopDate)
	optional(m, "redriveDate", d.RedriveDate)
	return m, nil
}

func counts(c asl.Counts) map[string]int {
	return map[string]int{
		"pending": c.Pending, "running": c.Running, "succeeded": c.Succeeded, "failed": c.Failed, "timedOut": c.TimedOut,
		"aborted": c.Aborted, "total": c.Total, "resultsWritten": 0, "failuresNotRedrivable": 0, "pendingRedrive": 0,
	}
}

func (h *Handler) listMapRuns(in struct {
	ExecutionArn string
	pageInput
}) (any, error) {
	x, err := h.execution(in.ExecutionArn)
	if err != nil {
		return nil, err
	}
	rows := []any{}
	for _, run := range x.MapRuns() {
		d := run.Describe()
		m := map[string]any{"executionArn": d.ExecutionARN, "mapRunArn": d.MapRunARN, "stateMachineArn": d.StateMachineARN, "startDate": epoch(d.StartDate)}
		optional(m, "stopDate", d.StopDate)
		rows = append(rows, m)
	}
	return page("mapRuns", rows, in.MaxResults, in.NextToken)
}
