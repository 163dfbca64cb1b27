package migration

import "fmt"

// Answer is one way to answer the question whether to go on although the write downtime does not fit the window.
type Answer struct {
	Action  Action `json:"action"`
	Meaning string `json:"meaning"`
	Command string `json:"command"` // a line for a shell
}

// The answers to a question for approval.
const (
	Approve Action = "approve"
	Decline Action = "decline"
)

// Answers are the answers to the question that waits with that task token, after that decision: AskFirst or AskApproval.
func Answers(asked Action, token string) []Answer {
	list := []Answer{
		{Action: CutOverNow, Meaning: "cut over now and accept the predicted downtime"},
		{Action: WarmAgain, Meaning: "go on warming, with the limits counted anew"},
		{Action: Stop, Meaning: "end the execution; the warm destination is kept"},
	}
	if asked == AskApproval {
		list = []Answer{
			{Action: Approve, Meaning: "make one more round and cut over, as soon as the prediction fits downtimeWindow"},
			{Action: Decline, Meaning: "end the execution; writes are not stopped and the warm destination is kept"},
		}
	}
	for i, a := range list {
		list[i].Command = fmt.Sprintf(`aws stepfunctions send-task-success --task-token %s --task-output '{"action":"%s"}'`, token, a.Action)
	}
	return list
}
