package fault

import "testing"

func TestUnnest(t *testing.T) {
	for name, c := range map[string]struct {
		cause string
		want  Nested
		ok    bool
	}{
		"a Lambda's error": {`{"errorMessage":"no","errorType":"Migration.Busy"}`, Nested{Name: "Migration.Busy", Cause: "no", Innermost: true}, true},
		"a child execution": {`{"ExecutionArn":"arn:x","Error":"States.TaskFailed","Cause":"{}","Status":"FAILED"}`,
			Nested{Name: "States.TaskFailed", Cause: "{}", Execution: "arn:x"}, true},
		"a child without cause":  {`{"ExecutionArn":"arn:x","Error":"States.Timeout"}`, Nested{Name: "States.Timeout", Execution: "arn:x"}, true},
		"plain words":            {"the operator changed his mind", Nested{}, false},
		"nothing":                {"", Nested{}, false},
		"an object of no error":  {`{"verdict":"failed"}`, Nested{}, false},
		"a cause of wrong types": {`{"Error":1}`, Nested{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := Unnest(c.cause); got != c.want || ok != c.ok {
				t.Errorf("got %+v, %t; want %+v, %t", got, ok, c.want, c.ok)
			}
		})
	}
}
