package stepfunctions

type successInput struct {
	TaskToken, Output *string
}

func (in successInput) check(v *violations) {
	checkToken(v, in.TaskToken)
	v.required("output", in.Output)
	v.payload("output", in.Output)
}

func checkToken(v *violations, token *string) {
	v.required("taskToken", token)
	v.length("taskToken", token, 1, 2048)
}

// none is the empty answer of operations that return nothing.
var none = map[string]any{}

func (h *Handler) sendTaskSuccess(in successInput) (any, error) {
	return none, h.engine.SendTaskSuccess(*in.TaskToken, *in.Output)
}

type failureInput struct {
	TaskToken, Error, Cause *string
}

func (in failureInput) check(v *violations) {
	checkToken(v, in.TaskToken)
	checkFailure(v, in.Error, in.Cause)
}

func (h *Handler) sendTaskFailure(in failureInput) (any, error) {
	return none, h.engine.SendTaskFailure(*in.TaskToken, value(in.Error), value(in.Cause))
}

type heartbeatInput struct{ TaskToken *string }

func (in heartbeatInput) check(v *violations) { checkToken(v, in.TaskToken) }

func (h *Handler) sendTaskHeartbeat(in heartbeatInput) (any, error) {
	return none, h.engine.SendTaskHeartbeat(*in.TaskToken)
}
