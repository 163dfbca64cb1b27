package stepfunctions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/sigv4"
)

const (
	region    = "us-east-1"
	accessKey = "AKIALOCAL"
	secret    = "secretsecret"
)

// definitions are small state machines, each for one part of the API.
var definitions = map[string]string{
	"plain": `{"QueryLanguage":"JSONata","StartAt":"P","States":{"P":{"Type":"Pass","Output":{"got":"{% $states.input %}"},"End":true}}}`,
	"approval": `{"QueryLanguage":"JSONata","StartAt":"Approve","States":{"Approve":{"Type":"Task",
		"Resource":"arn:aws:states:::lambda:invoke.waitForTaskToken","Assign":{"who":"{% $states.result.by %}"},
		"Arguments":{"FunctionName":"ask","Payload":{"token":"{% $states.context.Task.Token %}"}},"End":true}}}`,
	"work": `{"QueryLanguage":"JSONata","StartAt":"Work","States":{"Work":{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke",
		"Arguments":{"FunctionName":"work","Payload":"{% $states.input %}"},"Output":"{% $states.result.Payload %}","End":true}}}`,
	"spread": `{"QueryLanguage":"JSONata","StartAt":"Spread","States":{"Spread":{"Type":"Map","Label":"items","Items":"{% $states.input.items %}",
		"MaxConcurrency":1,"ToleratedFailureCount":1,
		"ItemProcessor":{"ProcessorConfig":{"Mode":"DISTRIBUTED","ExecutionType":"STANDARD"},"StartAt":"Work","States":{"Work":{"Type":"Task",
		"Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"work","Payload":"{% $states.input %}"},
		"Output":"{% $states.result.Payload %}","End":true}}},"End":true}}}`,
	"parts": `{"QueryLanguage":"JSONata","TimeoutSeconds":60,"StartAt":"Choose","States":{
		"Choose":{"Type":"Choice","Choices":[{"Condition":"{% true %}","Next":"Wait"}],"Default":"Wait"},
		"Wait":{"Type":"Wait","Seconds":0,"Next":"Both"},
		"Both":{"Type":"Parallel","Branches":[
			{"StartAt":"Child","States":{"Child":{"Type":"Task","Resource":"arn:aws:states:::states:startExecution.sync:2",
				"Arguments":{"StateMachineArn":"arn:aws:states:us-east-1:123456789012:stateMachine:plain","Input":{}},"End":true}}},
			{"StartAt":"Pass","States":{"Pass":{"Type":"Pass","End":true}}}],"Next":"Evaluate"},
		"Evaluate":{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke","Arguments":{"FunctionName":"work","Payload":"{% 1 + 'one' %}"},
			"Catch":[{"ErrorEquals":["States.ALL"],"Next":"Late"}],"Next":"Fail"},
		"Late":{"Type":"Task","Resource":"arn:aws:states:::lambda:invoke.waitForTaskToken","TimeoutSeconds":1,
			"Arguments":{"FunctionName":"ask","Payload":{"token":"{% $states.context.Task.Token %}"}},
			"Catch":[{"ErrorEquals":["States.Timeout"],"Next":"Each"}],"Next":"Fail"},
		"Each":{"Type":"Map","Items":[1],"ItemProcessor":{"ProcessorConfig":{"Mode":"INLINE"},"StartAt":"No","States":{
			"No":{"Type":"Fail","Error":"No","Cause":"never"}}},"Catch":[{"ErrorEquals":["No"],"Next":"Fail"}],"End":true},
		"Fail":{"Type":"Fail","Error":"{% 'Every.Part' %}","Cause":"the end"}}}`,
	"long": `{"QueryLanguage":"JSONata","StartAt":"All","States":{"All":{"Type":"Map","Items":"{% [1..300] %}",
		"ItemProcessor":{"ProcessorConfig":{"Mode":"INLINE"},"StartAt":"P","States":{"P":{"Type":"Pass","End":true}}},"Output":"done","End":true}}}`,
}

// answer is one answer of the API as it went over the wire.
type answer struct {
	Operation string          `json:"operation"`
	Status    int             `json:"status"`
	Body      json.RawMessage `json:"body"`
}

// world is the API on a loopback port, with every answer recorded.
type world struct {
	t      *testing.T
	engine *asl.Engine
	url    string
	client *sfn.Client

	// broken makes the function "work" fail for {"bad":true}; while held, "work" waits for the gate and the test lets one through
	// at a time.
	broken atomic.Bool
	held   atomic.Bool
	gate   chan struct{}

	mu      sync.Mutex
	answers []answer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, gate: make(chan struct{})}
	w.engine = asl.New(asl.Config{Lambda: w, Region: region})
	for name, definition := range definitions {
		m, err := asl.Parse([]byte(definition), nil)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := w.engine.AddStateMachine(name, m); err != nil {
			t.Fatal(err)
		}
	}
	verifier := sigv4.Verifier{Region: region, Credentials: map[string]sigv4.Credential{
		accessKey: {Secret: secret, ARN: "arn:aws:iam::123456789012:user/test"},
	}}
	handler := New(w.engine, func(r *http.Request, body []byte) error {
		_, err := verifier.Verify(r, "states", body)
		return err
	})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, r)
		_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		w.mu.Lock()
		w.answers = append(w.answers, answer{operation, recorder.Code, bytes.Clone(recorder.Body.Bytes())})
		w.mu.Unlock()
		for name, values := range recorder.Header() {
			rw.Header()[name] = values
		}
		rw.WriteHeader(recorder.Code)
		_, _ = rw.Write(recorder.Body.Bytes())
	}))
	t.Cleanup(func() {
		for _, x := range w.engine.Executions("") {
			x.Stop("Test.Over", "")
		}
		server.Close()
	})
	w.url = server.URL
	w.client = w.clientWith(secret)
	return w
}

// clientWith leaves the SDK's retries on: its HTTP client now and then cuts a connection by itself under load (smithy-go's request
// body answers WriteTo after Close with io.EOF, which net/http takes for a failed write).
func (w *world) clientWith(secret string) *sfn.Client {
	return sfn.New(sfn.Options{BaseEndpoint: &w.url, Region: region,
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secret, "")})
}

// Invoke is the Lambda service of the world.
func (w *world) Invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	if function != "work" {
		return []byte("{}"), nil
	}
	if w.held.Load() {
		select {
		case <-w.gate:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	var in struct{ Bad bool }
	if err := json.Unmarshal(payload, &in); err != nil {
		return nil, err
	}
	if in.Bad && w.broken.Load() {
		return nil, &asl.FunctionError{Type: "Work.Broken", Message: "it is broken"}
	}
	return []byte(`{"done":true}`), nil
}

func (w *world) machine(name string) *string { return aws.String(w.engine.ARN(name)) }

func (w *world) start(machine, name, input string) *string {
	w.t.Helper()
	in := &sfn.StartExecutionInput{StateMachineArn: w.machine(machine), Input: &input}
	if name != "" {
		in.Name = &name
	}
	out, err := w.client.StartExecution(w.t.Context(), in)
	if err != nil {
		w.t.Fatal(err)
	}
	return out.ExecutionArn
}

func (w *world) describe(arn *string) *sfn.DescribeExecutionOutput {
	w.t.Helper()
	out, err := w.client.DescribeExecution(w.t.Context(), &sfn.DescribeExecutionInput{ExecutionArn: arn})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// end waits for the end of an execution and describes it.
func (w *world) end(arn *string) *sfn.DescribeExecutionOutput {
	w.t.Helper()
	x, err := w.engine.Execution(*arn)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if _, err := x.Wait(ctx); err != nil {
		w.t.Fatal(err)
	}
	return w.describe(arn)
}

// token waits until a task of the execution waits for an answer.
func (w *world) token(arn *string) *string {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		for _, task := range w.engine.WaitingTasks() {
			if task.ExecutionARN == *arn {
				return &task.Token
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("no task of %s waits for a token", *arn)
		}
	}
}

// await polls until the condition holds.
func (w *world) await(what string, condition func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

func (w *world) history(arn *string) []types.HistoryEvent {
	w.t.Helper()
	var events []types.HistoryEvent
	pages := sfn.NewGetExecutionHistoryPaginator(w.client, &sfn.GetExecutionHistoryInput{ExecutionArn: arn, IncludeExecutionData: aws.Bool(true)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		events = append(events, page.Events...)
	}
	return events
}

// send sends a signed request that the SDK would not make and returns the status and the decoded answer. change may spoil it.
func (w *world) send(target, body string, change func(*http.Request)) (int, map[string]any) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+"/", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("X-Amz-Target", target)
	r.Header.Set("Content-Type", "application/x-amz-json-1.0")
	if err := v4.NewSigner().SignHTTP(w.t.Context(), aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secret}, r,
		hash(body), "states", region, time.Now()); err != nil {
		w.t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(text, &out); err != nil {
		w.t.Fatal(errors.Join(err, errors.New(string(text))))
	}
	return response.StatusCode, out
}
