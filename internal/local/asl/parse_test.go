package asl

import (
	"strings"
	"testing"
)

func TestParseRefuses(t *testing.T) {
	pass := `{"Type":"Pass","End":true}`
	processor := `"ItemProcessor":{"StartAt":"A","States":{"A":{"Type":"Pass","End":true}}}`
	distributed := `"ItemProcessor":{"ProcessorConfig":{"Mode":"DISTRIBUTED","ExecutionType":"STANDARD"},"StartAt":"A","States":{"A":{"Type":"Pass","End":true}}}`
	for _, c := range []struct{ name, definition, want string }{
		{"not JSON", `{`, "unexpected end"},
		{"no query language", `{"StartAt":"S","States":{"S":` + pass + `}}`, "$: QueryLanguage is missing"},
		{"JSONPath", `{"QueryLanguage":"JSONPath","StartAt":"S","States":{"S":` + pass + `}}`, `$.QueryLanguage: "JSONPath" is not implemented`},
		{"JSONPath state", one(`{"Type":"Pass","QueryLanguage":"JSONPath","End":true}`), `$.States.S.QueryLanguage: "JSONPath"`},
		{"unknown top field", `{"QueryLanguage":"JSONata","StartAt":"S","Foo":1,"States":{"S":` + pass + `}}`, "$.Foo: the field is unknown"},
		{"no StartAt", `{"QueryLanguage":"JSONata","States":{"S":` + pass + `}}`, "$: StartAt is missing"},
		{"no States", `{"QueryLanguage":"JSONata","StartAt":"S"}`, "$: States is missing"},
		{"StartAt nowhere", `{"QueryLanguage":"JSONata","StartAt":"X","States":{"S":` + pass + `}}`, `$.StartAt: there is no state "X"`},
		{"unknown field", one(`{"Type":"Pass","Outptu":1,"End":true}`), "$.States.S.Outptu: the field is unknown"},
		{"JSONPath fields", one(`{"Type":"Pass","ResultPath":"$","Parameters":{},"End":true}`), "$.States.S.Parameters: the field is unknown"},
		{"a field twice", one(`{"Type":"Pass","End":true,"End":true}`), "$.States.S.End: the field stands twice"},
		{"unknown type", one(`{"Type":"Activity","End":true}`), `$.States.S.Type: "Activity"`},
		{"no type", one(`{"End":true}`), "$.States.S: Type is missing"},
		{"Next and End", one(`{"Type":"Pass","Next":"S","End":true}`), "$.States.S: needs exactly one of Next and End"},
		{"neither", one(`{"Type":"Pass"}`), "$.States.S: needs exactly one of Next and End"},
		{"dangling Next", one(`{"Type":"Pass","Next":"X"}`), `$.States.S: goes to "X"`},
		{"dangling Catch", one(`{` + taskS + `,"Catch":[{"ErrorEquals":["E"],"Next":"X"}],"End":true}`), `goes to "X"`},
		{"unreachable", many(`"S":` + pass + `,"T":` + pass), "$.States.T: cannot be reached"},
		{"no end", one(`{"Type":"Pass","Next":"S"}`), "$: no state ends this machine"},
		{"name twice", many(`"S":{"Type":"Map",` + processor + `,"Next":"A"},"A":` + pass), "the name stands twice"},
		{"expression does not parse", one(`{"Type":"Pass","Output":{"a":["{% 1 + %}"]},"End":true}`), "$.States.S.Output.a[0]: the expression"},
		{"expression not closed", one(`{"Type":"Pass","Output":"{% 1","End":true}`), "does not end with %}"},
		{"coalescing", one(`{"Type":"Pass","Output":"{% $a ?? 1 %}","End":true}`), "2.0.6"},
		{"resource", one(`{"Type":"Task","Resource":"arn:aws:states:::s3:getObject","End":true}`), "$.States.S.Resource: "},
		{"no arguments", one(`{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","End":true}`), "$.States.S: Arguments with FunctionName is missing"},
		{"unknown argument", one(`{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"f","InvocationType":"Event"},"End":true}`),
			"$.States.S.Arguments.InvocationType: the field is unknown"},
		{"heartbeat", one(`{` + taskS + `,"TimeoutSeconds":5,"HeartbeatSeconds":5,"End":true}`), "$.States.S.HeartbeatSeconds: must be smaller"},
		{"heartbeat of a child execution", one(`{"Type":"Task","Resource":"arn:aws:states:::states:startExecution.sync:2","Arguments":{"StateMachineArn":"a"},"HeartbeatSeconds":5,"End":true}`),
			"$.States.S.HeartbeatSeconds: is not implemented"},
		{"timeout as a string", one(`{` + taskS + `,"TimeoutSeconds":"5","End":true}`), "$.States.S.TimeoutSeconds: must be a number"},
		{"ALL not last", one(`{` + taskS + `,"Retry":[{"ErrorEquals":["States.ALL"]},{"ErrorEquals":["E"]}],"End":true}`), "$.States.S.Retry[0].ErrorEquals: States.ALL must stand alone and last"},
		{"ALL not alone", one(`{` + taskS + `,"Catch":[{"ErrorEquals":["E","States.ALL"],"Next":"S"}],"End":true}`), "$.States.S.Catch[0].ErrorEquals: States.ALL"},
		{"reserved name", one(`{` + taskS + `,"Retry":[{"ErrorEquals":["States.Mine"]}],"End":true}`), `"States.Mine" is not an error name`},
		{"no ErrorEquals", one(`{` + taskS + `,"Retry":[{}],"End":true}`), "$.States.S.Retry[0]: needs ErrorEquals"},
		{"backoff", one(`{` + taskS + `,"Retry":[{"ErrorEquals":["E"],"BackoffRate":0.5}],"End":true}`), "$.States.S.Retry[0].BackoffRate"},
		{"interval 0", one(`{` + taskS + `,"Retry":[{"ErrorEquals":["E"],"IntervalSeconds":0}],"End":true}`), "$.States.S.Retry[0].IntervalSeconds"},
		{"interval 1.5", one(`{` + taskS + `,"Retry":[{"ErrorEquals":["E"],"IntervalSeconds":1.5}],"End":true}`), "$.States.S.Retry[0].IntervalSeconds"},
		{"max delay", one(`{` + taskS + `,"Retry":[{"ErrorEquals":["E"],"IntervalSeconds":5,"MaxDelaySeconds":5}],"End":true}`), "$.States.S.Retry[0].MaxDelaySeconds"},
		{"jitter", one(`{` + taskS + `,"Retry":[{"ErrorEquals":["E"],"JitterStrategy":"HALF"}],"End":true}`), "$.States.S.Retry[0].JitterStrategy"},
		{"retrier field", one(`{` + taskS + `,"Retry":[{"ErrorEquals":["E"],"MaxAttempt":1}],"End":true}`), "$.States.S.Retry[0].MaxAttempt: the field is unknown"},
		{"catcher field", one(`{` + taskS + `,"Catch":[{"ErrorEquals":["E"],"Next":"S","ResultPath":"$"}],"End":true}`), "$.States.S.Catch[0].ResultPath: the field is unknown"},
		{"retry on Pass", one(`{"Type":"Pass","Retry":[],"End":true}`), "$.States.S.Retry: the field is unknown"},
		{"choice with Variable", many(`"S":{"Type":"Choice","Choices":[{"Variable":"$.x","BooleanEquals":true,"Next":"T"}]},"T":{"Type":"Succeed"}`), "$.States.S.Choices[0].Variable: the field is unknown"},
		{"choice without Next", many(`"S":{"Type":"Choice","Choices":[{"Condition":"{% true %}"}],"Default":"T"},"T":{"Type":"Succeed"}`), "$.States.S.Choices[0]: Next is missing"},
		{"choice with End", many(`"S":{"Type":"Choice","Choices":[{"Condition":"{% true %}","Next":"T"}],"End":true},"T":{"Type":"Succeed"}`), "$.States.S.End: the field is unknown"},
		{"wait with both", one(`{"Type":"Wait","Seconds":1,"Timestamp":"2026-01-01T00:00:00Z","End":true}`), "exactly one of Seconds and Timestamp"},
		{"wait with a string", one(`{"Type":"Wait","Seconds":"5","End":true}`), "$.States.S.Seconds: must be a number"},
		{"bad timestamp", one(`{"Type":"Wait","Timestamp":"tomorrow","End":true}`), "$.States.S.Timestamp"},
		{"variable name", one(`{"Type":"Pass","Assign":{"a-b":1},"End":true}`), "$.States.S.Assign.a-b"},
		{"variable states", one(`{"Type":"Pass","Assign":{"states":1},"End":true}`), "$.States.S.Assign.states"},
		{"assign in Succeed", one(`{"Type":"Succeed","Assign":{"a":1}}`), "$.States.S.Assign: the field is unknown"},
		{"ItemReader", one(`{"Type":"Map","ItemReader":{},` + distributed + `,"End":true}`), "$.States.S.ItemReader: the field is unknown or not implemented"},
		{"ResultWriter", one(`{"Type":"Map","ResultWriter":{},` + distributed + `,"End":true}`), "$.States.S.ResultWriter: the field is unknown or not implemented"},
		{"batcher inline", one(`{"Type":"Map","ItemBatcher":{"MaxItemsPerBatch":1},` + processor + `,"End":true}`), "$.States.S.ItemBatcher: the field is unknown"},
		{"tolerance inline", one(`{"Type":"Map","ToleratedFailureCount":1,` + processor + `,"End":true}`), "$.States.S.ToleratedFailureCount: the field is unknown"},
		{"empty batcher", one(`{"Type":"Map","ItemBatcher":{},` + distributed + `,"End":true}`), "$.States.S.ItemBatcher: needs MaxItemsPerBatch"},
		{"express", one(strings.Replace(`{"Type":"Map",`+distributed+`,"End":true}`, "STANDARD", "EXPRESS", 1)), `ExecutionType: "EXPRESS" is not implemented`},
		{"no execution type", one(strings.Replace(`{"Type":"Map",`+distributed+`,"End":true}`, `,"ExecutionType":"STANDARD"`, "", 1)), "ExecutionType is missing"},
		{"percentage", one(`{"Type":"Map","ToleratedFailurePercentage":101,` + distributed + `,"End":true}`), "$.States.S.ToleratedFailurePercentage: must be a number from 0 to 100"},
		{"label", one(`{"Type":"Map","Label":"a b",` + distributed + `,"End":true}`), "$.States.S.Label"},
		{"inside a branch", one(`{"Type":"Parallel","Branches":[{"StartAt":"A","States":{"A":{"Type":"Pass","Next":"B"}}}],"End":true}`), `$.States.S.Branches[0].States.A: goes to "B"`},
		{"timeout in a branch", one(`{"Type":"Parallel","Branches":[{"StartAt":"A","TimeoutSeconds":1,"States":{"A":{"Type":"Pass","End":true}}}],"End":true}`), `$.States.S.Branches[0].TimeoutSeconds: the field is unknown`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Parse([]byte(c.definition), nil)
			if err == nil {
				t.Fatalf("accepted: %v", m.StateNames())
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestParseReportsAllProblems(t *testing.T) {
	_, err := Parse([]byte(many(`"S":{"Type":"Pass","Foo":1,"Next":"X"},"T":{"Type":"Wait","End":true}`)), nil)
	for _, want := range []string{"$.States.S.Foo", `goes to "X"`, "$.States.T: needs exactly one", "$.States.T: cannot be reached"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
}

func TestSubstitutions(t *testing.T) {
	definition := one(`{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"${Fn}","Payload":"{% '${Other}' %}"},"Output":"{% $states.result.Payload %}","End":true}`)
	_, err := Parse([]byte(definition), map[string]string{"Fn": "f"})
	if err == nil || !strings.Contains(err.Error(), "${Other}") || strings.Contains(err.Error(), "${Fn}") {
		t.Errorf("got %v", err)
	}
	m, err := Parse([]byte(definition), map[string]string{"Fn": "f", "Other": "o", "Unused": ""})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, echo)
	sm, err := w.e.AddStateMachine("m", m)
	w.must(err)
	x, err := w.e.Start(sm.ARN, "", "")
	w.must(err)
	wantOutput(t, w.end(x), `"o"`)
	if strings.Contains(m.Definition(), "${") {
		t.Error("Definition still has placeholders")
	}
}
