package statemachine_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/recolabs/gnata"

	"github.com/domainferry/domainferry/statemachine"
)

// situations are what expressions meet: $states and the variables, as a migration runs, and with every optional field missing,
// null, empty or of another type. Every expression of all machines is evaluated in each of them.
var situations = map[string]string{
	"migration, preflight done": `{"states":{"input":{"migration":"legacy","downtimeWindow":"10m"},
		"context":{"Execution":{"Id":"arn:aws:states:eu-west-1:111122223333:execution:domainferry-dev-migration:run-1"}},
		"result":{"StatusCode":200,"Payload":{"migration":"legacy","mode":"migrate","firstRound":1}}},
		"migration":"legacy","mode":"migrate","round":1}`,
	"migration, goBack": `{"states":{"input":{"migration":"legacy","mode":"goBack"},"context":{"Execution":{"Id":"arn:x"}},
		"result":{"Payload":{"migration":"legacy/back","mode":"goBack","firstRound":1}}},"migration":"legacy/back","mode":"goBack","round":1}`,
	"migration, assess": `{"states":{"input":{"migration":"legacy","mode":"assess"},"context":{"Execution":{"Id":"arn:x"}},
		"result":{"Payload":{"migration":"legacy","mode":"assess","firstRound":1,"problems":[]}}},"migration":"legacy","mode":"assess","round":1}`,
	"decided to warm": `{"states":{"result":{"Payload":{"action":"warm","nextRound":3,"waitSeconds":0,"reason":"shrinking"}}},
		"decision":{"action":"warm","nextRound":3,"waitSeconds":0,"reason":"shrinking"},"migration":"legacy","round":2}`,
	"decided to wait":     `{"decision":{"action":"wait","waitSeconds":600,"nextRound":4},"round":4}`,
	"decided to cut over": `{"decision":{"action":"cutover","nextRound":4,"waitSeconds":0,"cutoverTimeoutSeconds":900},"round":4}`,
	"verified":            `{"states":{"result":{"Payload":{"verdict":"verified","checks":7}}},"verification":{"verdict":"verified","checks":7}}`,
	"with warnings":       `{"verification":{"verdict":"verified-with-warnings","checks":7}}`,
	"not verified":        `{"verification":{"verdict":"failed","checks":7}}`,
	"verified by null":    `{"states":{"result":{"Payload":null}},"verification":null}`,
	"two verdicts":        `{"verification":[{"verdict":"verified"},{"verdict":"failed"}]}`,
	"verdict of no text":  `{"verification":{"verdict":["verified"]}}`,
	"warm execution done": `{"decision":{"action":"done"}}`,
	"never fits":          `{"decision":{"action":"stop","reason":"Predicted 1h0m0s of write downtime, the window is 10m: \"catalogue\" – ü"}}`,
	"final round done": `{"states":{"result":{"ExecutionArn":"arn:x","Output":{"migration":"legacy","round":4,"bytes":9007199254740991,
		"seconds":1.5,"indices":["a"],"nested":[[1],[2,3]]}}},"migration":"legacy","round":4}`,
	"caught": `{"states":{"errorOutput":{"Error":"States.TaskFailed","Cause":"{\"errorMessage\":\"x\"}"},
		"result":{"Payload":{"error":"Migration.FreezeUnproven","cause":"Writes still arrived. Hint: find the writer."}}},
		"failure":{"Error":"States.TaskFailed","Cause":"..."},
		"thaw":{"error":"Migration.FreezeUnproven","cause":"Writes still arrived. Hint: find the writer."},"migration":"legacy"}`,
	"round, begun by a migration":   `{"states":{"input":{"migration":"legacy","round":2,"final":true,"execution":"arn:x"}}}`,
	"round, nothing waited for yet": `{"snapshotSince":null,"copySince":null,"restoreSince":null,"copy":{"published":false,"waitSeconds":0}}`,
	"round, all waited for": `{"states":{"result":{"Payload":{"since":"2026-11-22T10:00:00Z","accepted":false,"waitSeconds":60}}},
		"snapshotSince":"2026-11-22T10:00:00Z","copySince":"2026-11-22T11:00:00Z","restoreSince":"2026-11-22T12:00:00.123Z","copy":{"published":false,"waitSeconds":60}}`,
	"round, begun by a schedule": `{"states":{"input":{"migration":"legacy"}}}`,
	"round, input of nulls":      `{"states":{"input":{"migration":null,"round":null,"final":null,"execution":null}}}`,
	"snapshot accepted": `{"states":{"result":{"Payload":{"accepted":true,"round":2,"startedAt":"2026-11-22T10:00:00Z","waitSeconds":0}}},
		"snapshot":{"accepted":true,"round":2,"startedAt":"2026-11-22T10:00:00Z","waitSeconds":0},
		"snapshotStatus":{"done":false,"startAgain":false,"waitSeconds":5},"migration":"legacy","round":2,"final":false,"execution":""}`,
	"nothing to snapshot": `{"snapshot":{"accepted":false,"unchanged":true,"waitSeconds":0,"startedAt":"2026-11-22T10:00:00Z"},
		"snapshotStatus":{"snapshot":null},"copy":{"copy":null},"restoreStatus":{"restore":null}}`,
	"snapshot waits, then starts again": `{"snapshot":{"accepted":false,"waitSeconds":30},"snapshotStatus":{"done":false,"startAgain":true,
		"waitSeconds":0},"migration":"legacy","round":2,"final":false,"execution":"arn:x"}`,
	"snapshot done": `{"snapshot":{"accepted":true,"startedAt":"2026-11-22T10:00:00Z"},"snapshotStatus":{"done":true,
		"snapshot":{"name":"legacy-r0002","bytes":123456789012,"shards":[]}},"round":2,"final":false,"migration":"legacy","execution":"arn:x"}`,
	"copy planned, one range": `{"states":{"result":{"Payload":{"ranges":[{"from":"","to":""}],"root":{"generation":3}}},
		"context":{"Map":{"Item":{"Index":0,"Value":{"from":"","to":""}}}},"input":{"migration":"legacy","range":{"after":"a","through":"b"},"done":false,"copied":3}},
		"copyPlan":{"ranges":[{"from":"","to":""}],"root":{"generation":3},"since":"2026-11-22T10:00:00Z"}}`,
	"copy planned, nothing to do": `{"states":{"result":[],"context":{"Map":{"Item":{"Index":0,"Value":null}}},"input":{"range":{"after":"a","through":""},"done":true}},
		"copyPlan":{"ranges":[],"root":null},"copied":[]}`,
	"copied": `{"states":{"result":[{"done":true,"copied":{"objects":3,"bytes":0}}]},"copied":[{"done":true,"copied":{"objects":3,"bytes":0}}],
		"copyPlan":{"root":{"generation":3,"uuid":"x"},"since":"2026-11-22T10:00:00Z"},"copy":{"published":true,"copy":{"objects":3,"seconds":0.25}}}`,
	"copy not published": `{"copy":{"published":false},"copied":[[{"done":true}],[{"done":true}]]}`,
	"restore": `{"restore":{"accepted":true,"waitSeconds":0,"startedAt":"2026-11-22T10:00:00Z"},
		"restoreStatus":{"done":true,"restore":{"recovered":10,"reused":90}},"snapshotStatus":{"snapshot":{"name":"s"}},"copy":{"copy":{"objects":1}}}`,
	"restore waits":    `{"restore":{"accepted":false,"waitSeconds":1.5},"restoreStatus":{"done":false,"startAgain":false,"waitSeconds":20}}`,
	"by rounds alone":  `{"states":{"result":{"Payload":{"byRounds":true,"byReplay":false}}},"decision":{"byRounds":true,"byReplay":false},"lastDelta":{"byRounds":true,"byReplay":false},"migration":"legacy"}`,
	"by replay alone":  `{"states":{"result":{"Payload":{"byRounds":false,"byReplay":true}}},"decision":{"byRounds":false,"byReplay":true},"lastDelta":{"byRounds":false,"byReplay":true},"migration":"legacy"}`,
	"both, of no type": `{"states":{"result":{"Payload":{"byRounds":null,"byReplay":"yes"}}},"decision":{"byRounds":null,"byReplay":"yes"},"lastDelta":{"byRounds":null,"byReplay":"yes"}}`,
	"pass begun":       `{"states":{"input":{"migration":"legacy","final":true,"execution":"arn:x"}},"migration":"legacy","final":true,"execution":"arn:x"}`,
	"pass planned": `{"states":{"result":{"Payload":{"pass":3,"startedAt":"2026-11-22T10:00:00Z","operations":70000,"slices":[1,2,3],"dropped":[]}},
		"context":{"Map":{"Item":{"Index":0,"Value":1}}},"input":{"migration":"legacy","pass":3,"slice":1,"call":1,
		"rest":[{"index":"a","shard":0,"from":9007199254740991,"upto":9007199254740992}],"done":false}},
		"pass":{"pass":3,"startedAt":"2026-11-22T10:00:00Z","slices":[1,2,3]},"migration":"legacy","final":false,"execution":"arn:x"}`,
	"handed over": `{"states":{"input":{"action":"done","waitSeconds":0}}}`, "handed over, copies fill": `{"states":{"input":{"action":"wait","waitSeconds":600}}}`,
	"pass of one slice": `{"states":{"result":[{"slice":1,"done":true,"rest":null}],"input":{"slice":1,"done":true,"rest":null},"context":{"Map":{"Item":{"Value":1}}}},
		"pass":{"pass":1,"slices":[1]},"slices":[{"slice":1,"done":true,"rest":null}],"deletes":{"done":false,"deleted":0}}`,
	"deletions in parts": `{"states":{"result":{"Payload":{"done":false,"parts":[0,1],"deleted":0}},"context":{"Map":{"Item":{"Index":1,"Value":1}}},
		"input":{"migration":"legacy","pass":3,"final":true,"execution":"arn:x","part":1,"done":false}},"parts":[0,1],"deletes":{"done":false,"parts":[0,1]},
		"pass":{"pass":3,"brought":true,"deletes":[0,1],"done":false},"migration":"legacy","final":true,"execution":"arn:x"}`,
	"pass of nothing": `{"states":{"result":[]},"pass":{"pass":4,"startedAt":"2026-11-22T10:00:00Z","slices":[]},"slices":[],"deletes":{"done":true,"deleted":12}}`,
	"pass over with its plan": `{"states":{"result":{"Payload":{"pass":5,"slices":[0],"done":true,"record":{"number":5,"documents":12}}}},
		"pass":{"pass":5,"startedAt":"2026-11-22T10:00:00Z","slices":[0],"done":true,"record":{"number":5,"documents":12}}}`,
	"pass that is not over": `{"pass":{"pass":5,"slices":[],"done":false,"record":null}}`,
	"pass of nulls":         `{"pass":{"pass":null,"startedAt":null,"slices":null},"slices":null,"deletes":{"done":null,"deleted":null}}`,
	"pass of no type":       `{"states":{"input":{"done":"yes"}},"pass":[{"slices":[1]},{"slices":[2]}],"slices":[[]],"deletes":"done"}`,
	"empty objects":         `{"states":{"input":{},"result":{},"context":{},"errorOutput":{}},"decision":{},"snapshot":{},"snapshotStatus":{},"copy":{},"restore":{},"restoreStatus":{},"verification":{}}`,
	"asked":                 `{"states":{"context":{"Task":{"Token":"AAA+/="},"State":{"EnteredTime":"2026-11-22T10:00:00.000Z"}},"result":{"action":"warm"}},"since":"2026-11-22T10:00:00Z","answer":"cut-over"}`,
	"answered oddly":        `{"states":{"result":{"action":["cutover"]}},"answer":"an answer without an action"}`,
	"answered by a text":    `{"states":{"result":"cutover"},"answer":"cutover"}`,
	"asked for approval":    `{"decision":{"action":"askApproval","answerTimeoutSeconds":3600,"reason":"it fits"},"answer":"approve","approved":false}`,
	"declined":              `{"decision":{"action":"askApproval","answerTimeoutSeconds":3600,"reason":"it fits"},"answer":"decline","approved":true}`,
	"answered by null":      `{"states":{"result":null},"answer":null,"since":null}`,
	"nothing at all":        `{"states":{}}`,
	"other types": `{"states":{"input":{"round":"2","final":0,"execution":[]},"result":{"Payload":[1,[2]]}},"mode":{"a":1},"decision":["warm","wait"],
		"snapshot":{"accepted":"yes","waitSeconds":"5"},"copy":{"published":[],"waitSeconds":"60"},"verification":"verified","restore":{"accepted":{},"waitSeconds":null}}`,
}

// answer is one engine's: a value, undefined or an error.
type answer struct {
	Value     any    `json:"value"`
	Undefined bool   `json:"undefined"`
	Error     string `json:"error"`
}

func (a answer) String() string {
	switch {
	case a.Error != "":
		return "error " + a.Error
	case a.Undefined:
		return "undefined"
	}
	return fmt.Sprintf("%#v", a.Value)
}

// same: both fail (texts differ), both are undefined, or the values are equal.
func (a answer) same(b answer) bool {
	if (a.Error != "") != (b.Error != "") || a.Undefined != b.Undefined {
		return false
	}
	return a.Error != "" || reflect.DeepEqual(a.Value, b.Value)
}

func evaluateByGnata(t *testing.T, expression, situation string) answer {
	t.Helper()
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(situation), &raw); err != nil {
		t.Fatal(err)
	}
	bound := map[string]any{}
	for name, b := range raw {
		v, err := gnata.DecodeJSON(b)
		if err != nil {
			t.Fatal(err)
		}
		bound[name] = v
	}
	compiled, err := gnata.Compile(expression)
	if err != nil {
		return answer{Error: err.Error()}
	}
	v, err := compiled.EvalWithVars(t.Context(), nil, bound)
	if err != nil {
		return answer{Error: err.Error()}
	}
	if v == nil {
		return answer{Undefined: true}
	}
	var a answer
	b, err := json.Marshal(gnata.NormalizeValue(v))
	if err != nil {
		return answer{Error: "the value is no JSON: " + err.Error()} // a variable that is not set may have a built-in function's name
	}
	if err := json.Unmarshal(b, &a.Value); err != nil {
		t.Fatal(err)
	}
	return a
}

// The local engine evaluates by gnata, the service by JSONata 2.0.6: for what the definitions say they have to agree.
func TestBothJSONataEnginesAgree(t *testing.T) {
	type question struct {
		Expression string          `json:"expression"`
		Variables  json.RawMessage `json:"variables"`
		situation  string
	}
	expressions := map[string]bool{}
	for _, definition := range definitions {
		parse(t, definition).each(func(_ string, s state) {
			for _, e := range s.expressions {
				expressions[e] = true
			}
		})
	}
	if len(expressions) < 30 {
		t.Fatalf("only %d expressions found", len(expressions))
	}
	var questions []question
	for _, e := range slices.Sorted(maps.Keys(expressions)) {
		for _, s := range slices.Sorted(maps.Keys(situations)) {
			questions = append(questions, question{e, json.RawMessage(situations[s]), s})
		}
	}
	stdin, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	out, err := node(t, stdin, "evaluate.mjs")
	if err != nil {
		t.Fatal(err)
	}
	var answers []answer
	if err := json.NewDecoder(bytes.NewReader([]byte(out))).Decode(&answers); err != nil || len(answers) != len(questions) {
		t.Fatalf("%d answers for %d questions: %v", len(answers), len(questions), err)
	}
	defined := map[string]bool{}
	for i, q := range questions {
		if answers[i].Error == "" && !answers[i].Undefined {
			defined[q.Expression] = true
		}
		if got := evaluateByGnata(t, q.Expression, string(q.Variables)); !got.same(answers[i]) {
			t.Errorf("%s, %s:\n  jsonata %v\n  gnata   %v", q.Expression, q.situation, answers[i], got)
		}
	}
	for e := range expressions {
		if !defined[e] {
			t.Errorf("no situation gives %s a value: the comparison is empty", e)
		}
	}
}

// A Choice state cannot catch, so the condition that opens the destination must have an answer to whatever Verify says: true for
// the two good verdicts alone, otherwise false, never an error or nothing.
func TestVerdictAnswersAlways(t *testing.T) {
	verdict := parse(t, statemachine.Migration).States["Verdict"]
	condition, _ := strings.CutPrefix(verdict.Choices[0].Condition, "{%")
	condition = strings.TrimSuffix(condition, "%}")
	for _, c := range []struct {
		verification string
		good         bool
	}{
		{`{"verdict":"verified"}`, true}, {`{"verdict":"verified-with-warnings"}`, true}, {`{"verdict":"failed"}`, false}, {`{"verdict":""}`, false},
		{`{"verdict":"Verified"}`, false}, {`{"verdict":null}`, false}, {`{"verdict":true}`, false}, {`{"verdict":["verified","failed"]}`, false},
		{`{"verdict":{"verified":1}}`, false}, {`{}`, false}, {`null`, false}, {`[]`, false}, {`"verified"`, false}, {`true`, false}, {`1`, false},
		{`[{"verdict":"verified"},{"verdict":"failed"}]`, false},
	} {
		if got := evaluateByGnata(t, condition, `{"verification":`+c.verification+`}`); got.Value != c.good {
			t.Errorf("%s: %s, want %t", c.verification, got, c.good)
		}
	}
}
