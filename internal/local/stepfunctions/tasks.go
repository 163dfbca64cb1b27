package stepfunctions

type taskInput struct {
	TaskToken string
	Output    string
	Error     string
	Cause     string
}

// none is the empty answer of operations that return nothing.
var none = map[string]any{}

func (h *Handler) sendTaskSuccess(in taskInput) (any, error) {
	return none, h.engine.SendTaskSuccess(in.TaskToken, in.Output)
}

func (h *Handler) sendTaskFailure(in taskInput) (any, error) {
	return none, h.engine.SendTaskFailure(in.TaskToken, in.Error, in.Cause)
}

func (h *Handler) sendTaskHeartbeat(in taskInput) (any, error) {
	return none, h.engine.SendTaskHeartbeat(in.TaskToken)
}
