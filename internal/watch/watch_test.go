package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"
)

// histories answers look after look; each look is what every execution's newest events are, newest first.
type histories struct {
	looks  []map[string][]types.HistoryEvent
	status []types.ExecutionStatus
	look   int
	asked  []string
	err    error
}

func (h *histories) DescribeExecution(_ context.Context, in *sfn.DescribeExecutionInput, _ ...func(*sfn.Options)) (*sfn.DescribeExecutionOutput, error) {
	if h.err != nil {
		return nil, h.err
	}
	h.look++
	return &sfn.DescribeExecutionOutput{ExecutionArn: in.ExecutionArn, Status: h.status[h.look-1]}, nil
}

func (h *histories) GetExecutionHistory(_ context.Context, in *sfn.GetExecutionHistoryInput, _ ...func(*sfn.Options)) (*sfn.GetExecutionHistoryOutput, error) {
	if !in.ReverseOrder || !aws.ToBool(in.IncludeExecutionData) {
		return nil, errors.New("the newest events with their data are needed")
	}
	h.asked = append(h.asked, *in.ExecutionArn)
	return &sfn.GetExecutionHistoryOutput{Events: h.looks[h.look-1][*in.ExecutionArn]}, nil
}

func entered(state string) types.HistoryEvent {
	return types.HistoryEvent{StateEnteredEventDetails: &types.StateEnteredEventDetails{Name: aws.String(state)}}
}

func submitted(child string) types.HistoryEvent {
	return types.HistoryEvent{TaskSubmittedEventDetails: &types.TaskSubmittedEventDetails{
		ResourceType: aws.String("states"), Output: aws.String(`{"ExecutionArn":"` + child + `"}`),
	}}
}

func succeeded(payload string) types.HistoryEvent {
	return types.HistoryEvent{TaskSucceededEventDetails: &types.TaskSucceededEventDetails{Output: aws.String(`{"Payload":` + payload + `}`)}}
}

// parallel is a parallel state that was entered; its branches' states are newer.
func parallel(state string) types.HistoryEvent {
	e := entered(state)
	e.Type = types.HistoryEventTypeParallelStateEntered
	return e
}

func left(state string) types.HistoryEvent {
	return types.HistoryEvent{Type: types.HistoryEventTypeParallelStateExited, StateExitedEventDetails: &types.StateExitedEventDetails{Name: aws.String(state)}}
}

func TestFollow(t *testing.T) {
	decided := succeeded(`{"action":"cutover","reason":"it fits","prediction":{"seconds":4.5}}`)
	polled := succeeded(`{"what":"snapshot","round":2,"percent":25,"bytes":250,"totalBytes":1000}`)
	h := &histories{
		status: []types.ExecutionStatus{"RUNNING", "RUNNING", "RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"},
		looks: []map[string][]types.HistoryEvent{
			{"m": {entered("Preflight")}},
			{"m": {submitted("r1"), entered("Round"), parallel("Warm")}, "r1": {polled, entered("PollSnapshot")}},
			{"m": {submitted("r1"), entered("Round"), parallel("Warm")}, "r1": {polled, entered("PollSnapshot")}}, // no news
			{"m": {submitted("r1"), entered("Round"), parallel("Warm")}, "r1": {entered("Copy"), polled, entered("PollSnapshot")}},
			{"m": {entered("Freeze"), decided, entered("Decide"), left("Warm"), submitted("r1"), entered("Round"), parallel("Warm")}},
			{"m": {entered("Migrated"), succeeded(`{"verdict":"verified"}`)}},
		},
	}
	var lines []string
	var all []Progress
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		d, err := Watcher{Client: h}.Follow(t.Context(), "m", func(p Progress) { all, lines = append(all, p), append(lines, p.String()) })
		if err != nil || d.Status != types.ExecutionStatusSucceeded {
			t.Fatalf("%v, %v", d, err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("six looks took %v, want two seconds between them", took)
		}
	})
	var states []string
	for _, p := range all {
		states = append(states, fmt.Sprint(p.State, "/", p.Phase, "/", p.Round))
	}
	if !slices.Equal(states, []string{"Preflight//0", "Warm/snapshot/2", "Warm/copy/2", "Freeze//2", "Migrated//2"}) {
		t.Fatalf("reported %v", states)
	}
	if all[1].Percent != 25 || all[1].Bytes != 250 || all[1].TotalBytes != 1000 || !strings.Contains(lines[1], "25.0 %") {
		t.Errorf("poll: %+v, %q", all[1], lines[1])
	}
	// The snapshot's numbers say nothing of the copy.
	if all[2].Percent != 0 || all[2].TotalBytes != 0 || strings.Contains(lines[2], "%") {
		t.Errorf("copy: %+v", all[2])
	}
	if all[3].Predicted == nil || *all[3].Predicted != 4.5 || all[3].Reason != "it fits" || !strings.Contains(lines[3], "predicted downtime 4.5 s") {
		t.Errorf("decision: %+v", all[3])
	}
	if n := strings.Count(strings.Join(h.asked, " "), "r1"); n != 3 {
		t.Errorf("the round was asked %d times, want only while it runs", n)
	}
}

// While the execution waits for the operator, the question is there with a command line for each answer; once it is answered it is gone.
func TestFollowAQuestion(t *testing.T) {
	decided := succeeded(`{"action":"ask","reason":"it would be 9 s","prediction":{"seconds":9,"low":7,"high":12}}`)
	asked := types.HistoryEvent{TaskScheduledEventDetails: &types.TaskScheduledEventDetails{Parameters: aws.String(`{"FunctionName":"ask","Payload":{"taskToken":"T0K/n=="}}`)}}
	h := &histories{status: []types.ExecutionStatus{"RUNNING", "RUNNING", "SUCCEEDED"}, looks: []map[string][]types.HistoryEvent{
		{"m": {asked, entered("Ask"), decided, entered("Decide")}},
		{"m": {asked, entered("Ask"), decided, entered("Decide")}},
		{"m": {entered("Freeze"), succeeded(`{"action":"cutover"}`), asked, entered("Ask"), decided, entered("Decide")}},
	}}
	var lines []string
	synctest.Test(t, func(t *testing.T) {
		if _, err := (Watcher{Client: h}).Follow(t.Context(), "m", func(p Progress) { lines = append(lines, p.String()) }); err != nil {
			t.Error(err)
		}
	})
	if len(lines) != 2 || strings.Contains(lines[1], "send-task-success") {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	for _, want := range []string{"predicted downtime 9.0 s (7.0 to 12.0)", "it would be 9 s", `aws stepfunctions send-task-success --task-token T0K/n== --task-output '{"action":"cutover"}'`, `'{"action":"warm"}'`, `'{"action":"stop"}'`} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("the question does not say %q:\n%s", want, lines[0])
		}
	}
}

func TestFollowEnds(t *testing.T) {
	h := &histories{err: errors.New("no such execution")}
	if _, err := (Watcher{Client: h}).Follow(t.Context(), "m", func(Progress) { t.Error("reported") }); !errors.Is(err, h.err) || !strings.Contains(err.Error(), "m") {
		t.Errorf("%v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := &histories{status: []types.ExecutionStatus{"RUNNING"}, looks: []map[string][]types.HistoryEvent{{"m": {entered("Wait")}}}}
		if _, err := (Watcher{Client: h, Interval: time.Hour}).Follow(ctx, "m", func(Progress) { cancel() }); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

// The two branches of Warm and MoveLastDelta, in whatever order their events come.
func TestFollowBranches(t *testing.T) {
	const replay = "arn:aws:states:eu-west-1:111122223333:execution:DomainFerryReplay:p1"
	polled := succeeded(`{"what":"restore","round":3,"percent":50,"bytes":5,"totalBytes":10}`)
	rounds := map[string][]types.HistoryEvent{"r1": {entered("Copy")}, "r2": {polled, entered("PollRestore")}}
	for name, c := range map[string]struct {
		events []types.HistoryEvent
		want   string
	}{
		"both run":          {[]types.HistoryEvent{submitted(replay), submitted("r2"), entered("Replay"), entered("Round"), parallel("Warm")}, "Warm/restore/3/true/50"},
		"the other way":     {[]types.HistoryEvent{submitted("r2"), entered("Round"), submitted(replay), entered("Replay"), parallel("Warm")}, "Warm/restore/3/true/50"},
		"no replay":         {[]types.HistoryEvent{entered("NoReplay"), submitted("r2"), entered("Round"), parallel("Warm")}, "Warm/restore/3/false/50"},
		"no round":          {[]types.HistoryEvent{submitted(replay), entered("NoRound"), entered("Replay"), parallel("Warm")}, "Warm//0/true/0"},
		"nothing yet":       {[]types.HistoryEvent{entered("RoundNeeded"), parallel("Warm")}, "Warm//0/false/0"},
		"in the freeze":     {[]types.HistoryEvent{submitted(replay), submitted("r2"), entered("FinalRound"), parallel("MoveLastDelta"), entered("Freeze")}, "MoveLastDelta/restore/3/true/50"},
		"after both":        {[]types.HistoryEvent{entered("Verify"), left("MoveLastDelta"), submitted(replay), submitted("r2"), parallel("MoveLastDelta")}, "Verify//0/false/0"},
		"a round before":    {[]types.HistoryEvent{submitted("r2"), parallel("Warm"), entered("Decide"), left("Warm"), submitted("r1"), parallel("Warm")}, "Warm/restore/3/false/50"},
		"a replay before":   {[]types.HistoryEvent{submitted("r2"), parallel("Warm"), entered("Decide"), left("Warm"), submitted(replay), parallel("Warm")}, "Warm/restore/3/false/50"},
		"between two":       {[]types.HistoryEvent{entered("Wait"), entered("Decide"), left("Warm"), submitted(replay), submitted("r1"), parallel("Warm")}, "Wait//0/false/0"},
		"only just entered": {[]types.HistoryEvent{parallel("Warm"), entered("Wait"), entered("Decide"), left("Warm"), submitted("r1"), parallel("Warm")}, "Warm//0/false/0"},
	} {
		t.Run(name, func(t *testing.T) {
			look := map[string][]types.HistoryEvent{"m": c.events}
			for arn, events := range rounds {
				look[arn] = events
			}
			h := &histories{status: []types.ExecutionStatus{"SUCCEEDED"}, looks: []map[string][]types.HistoryEvent{look}}
			var got []string
			if _, err := (Watcher{Client: h}).Follow(t.Context(), "m", func(p Progress) {
				got = append(got, fmt.Sprintf("%s/%s/%d/%t/%g", p.State, p.Phase, p.Round, p.Replaying, p.Percent))
				if strings.Contains(p.String(), "+ replay") != p.Replaying {
					t.Errorf("%+v is told as %q", p, p)
				}
			}); err != nil || !slices.Equal(got, []string{c.want}) {
				t.Errorf("reported %v, %v, want %s", got, err, c.want)
			}
		})
	}
}
