package migration

import "fmt"

// Answer is one way to answer the question whether to go on although the write downtime does not fit the window.
type Answer struct {
	Action  Action `json:"action"`
	Meaning string `json:"meaning"`
	Command string `json:"command"` // a line for a shell
}

// Answers are the answers to the question that waits with that task token.
func Answers(token string) []Answer {
	list := []Answer{
		{Action: CutOverNow, Meaning: "cut over now and accept the predicted downtime"},
		{Action: WarmAgain, Meaning: "go on warming, with the limits counted anew"},
		{Action: Stop, Meaning: "end the execution; the warm destination is kept"},
	}
	for i, a := range list {
		list[i].Command = fmt.Sprintf(`aws stepfunctions send-task-success --task-token %s --task-output '{"action":"%s"}'`, token, a.Action)
	}
	return list
}
