package fault

import "encoding/json"

// Nested is the error inside the Cause of a failed Task: Step Functions gives a failed Lambda's cause as the JSON of its error, and
// that of a failed child execution as the JSON of DescribeExecution.
type Nested struct {
	Name, Cause string
	Execution   string // the child's ARN; empty when it is a Lambda's error
	Innermost   bool   // a Lambda raised it: there is nothing further inside
}

// Unnest takes one layer off a cause; ok is false when there is none.
func Unnest(cause string) (n Nested, ok bool) {
	var inner struct {
		ExecutionArn string `json:"ExecutionArn"`
		Error        string `json:"Error"`
		Cause        string `json:"Cause"`
		ErrorType    string `json:"errorType"`
		ErrorMessage string `json:"errorMessage"`
	}
	if json.Unmarshal([]byte(cause), &inner) != nil {
		return Nested{}, false
	}
	switch {
	case inner.ErrorType != "":
		return Nested{Name: inner.ErrorType, Cause: inner.ErrorMessage, Innermost: true}, true
	case inner.Error != "":
		return Nested{Name: inner.Error, Cause: inner.Cause, Execution: inner.ExecutionArn}, true
	}
	return Nested{}, false
}
