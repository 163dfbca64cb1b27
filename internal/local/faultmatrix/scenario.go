package faultmatrix

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/frontdoor"
	"github.com/domainferry/domainferry/internal/names"
)

// scenario is what brings an execution into a state: an input, the operator's answer, and at most one answer of a function that is
// put in place of its own, or one request of it that fails.
type scenario struct {
	name   string
	input  map[string]any
	answer string // to a question
	// forged is the answer, once, to the first call of a state (in the row's phase); the function is not run then.
	forgedState string
	forge       func(payload map[string]any) (any, error)
	// disturb says what becomes of each request to a domain while the function of disturbed works (in the row's phase).
	disturbed string
	disturb   func(side, path string, body []byte) frontdoor.Fault
}

// key tells scenarios apart that differ by phase.
func (s scenario) key(p Phase) string {
	if s.forge == nil && s.disturb == nil {
		return s.name
	}
	return s.name + "@" + string(p)
}

func rounds() scenario { return scenario{name: "rounds", input: map[string]any{"lastMile": "rounds"}} }
func replay() scenario { return scenario{name: "replay", input: map[string]any{"lastMile": "replay"}} }

// slow makes the verification that Decide tries take longer than the window.
func slow(s scenario) scenario {
	s.input["lastMile"], s.input["downtimeWindow"], s.input["rounds"] = "rounds", "1s", map[string]any{"maximum": 2}
	s.disturbed = "Decide"
	s.disturb = func(side, _ string, _ []byte) frontdoor.Fault {
		if side == "source" {
			return frontdoor.Fault{}
		}
		return frontdoor.Fault{Kind: frontdoor.Delay, Delay: 200 * time.Millisecond}
	}
	return s
}

// lost is a 504 without effect for the requests that are meant.
func lost(meant bool) frontdoor.Fault {
	if !meant {
		return frontdoor.Fault{}
	}
	return frontdoor.Fault{Kind: frontdoor.TimeoutWithoutEffect}
}

// scenarioOf says how a row is reached. A state that is not named here is looked for in a plain migration by rounds, or by replay.
func scenarioOf(r Row) scenario {
	plain := rounds()
	forged := func(name, state string, forge func(map[string]any) (any, error)) scenario {
		s := rounds()
		s.name, s.forgedState, s.forge = name, state, forge
		return s
	}
	now := func() string { return time.Now().UTC().Format(time.RFC3339Nano) }
	poll := func(what string, startAgain bool) func(map[string]any) (any, error) {
		return func(in map[string]any) (any, error) {
			wait := 1
			if startAgain {
				wait = 0
			}
			return map[string]any{"what": what, "round": in["round"], "done": false, "startAgain": startAgain, "waitSeconds": wait}, nil
		}
	}
	switch r.Machine {
	case names.RoundMachine:
		switch r.State {
		case "WaitForSlot":
			return forged("another snapshot runs", "StartSnapshot", func(in map[string]any) (any, error) {
				return map[string]any{"accepted": false, "unchanged": false, "round": in["round"], "snapshot": "", "startedAt": now(), "since": now(), "waitSeconds": 1}, nil
			})
		case "SnapshotVanished":
			return forged("the snapshot vanishes", "PollSnapshot", poll("snapshot", true))
		case "WaitForSnapshot":
			return forged("a long snapshot", "PollSnapshot", poll("snapshot", false))
		case "WaitToCopyAgain":
			return forged("the source changes while it is copied", "PublishCopy", func(map[string]any) (any, error) {
				return map[string]any{"published": false, "reason": "made up", "waitSeconds": 1, "copy": map[string]any{}}, nil
			})
		case "WaitToRestore":
			return forged("a snapshot runs at the destination", "StartRestore", func(map[string]any) (any, error) {
				return map[string]any{"accepted": false, "startedAt": now(), "since": now(), "waitSeconds": 1, "indices": 0}, nil
			})
		case "RestoreInterrupted":
			return forged("the restore vanishes", "PollRestore", poll("restore", true))
		case "WaitForRestore":
			return forged("a long restore", "PollRestore", poll("restore", false))
		}
	case names.ReplayMachine:
		plain = replay()
		switch r.State {
		case "Replay", "ReplaySlice", "SliceDone", "SliceReplayed", "ReconcileDeletes", "DeletesDone", "RecordPass":
			plain.name, plain.disturbed = "a pass in slices", "PlanReplay"
			plain.disturb = func(_, path string, _ []byte) frontdoor.Fault { return lost(strings.HasSuffix(path, "/_bulk")) }
		case "Deletes", "DeletePart", "PartDone", "PartDeleted":
			plain.name, plain.disturbed = "deletions in parts", "PlanReplay"
			plain.disturb = func(_, _ string, body []byte) frontdoor.Fault { return lost(countsBySequence(body)) }
		}
	case names.MigrationMachine:
		switch r.State {
		case "Replay", "NoRound", "FinalReplay", "NoFinalRound":
			return replay()
		case "Assessed":
			return scenario{name: "assess", input: map[string]any{"mode": "assess"}}
		case "Warmed":
			return scenario{name: "warm", input: map[string]any{"mode": "warm"}}
		case "NeverFits":
			return slow(scenario{name: "never fits", input: map[string]any{}})
		case "Ask", "Answered":
			return slow(scenario{name: "ask", input: map[string]any{"onNeverFits": "ask"}, answer: "cutover"})
		case "Approve", "Approved":
			return scenario{name: "approve", input: map[string]any{"lastMile": "rounds", "cutOver": map[string]any{"approval": "required"}}, answer: "approve"}
		case "NotApproved":
			return scenario{name: "decline", input: map[string]any{"lastMile": "rounds", "cutOver": map[string]any{"approval": "required"}}, answer: "decline"}
		case "Wait":
			return scenario{name: "pause", input: map[string]any{"lastMile": "rounds", "rounds": map[string]any{"minimum": 2, "pause": "1s"}}}
		case "Thaw", "WritesGivenBack":
			return forged("the verification fails", "Verify", func(map[string]any) (any, error) {
				return nil, &asl.FunctionError{Type: "Migration.Unclassified", Message: "made up by the fault matrix"}
			})
		}
	}
	return plain
}

// countsBySequence tells the request by which deletions are found.
func countsBySequence(body []byte) bool {
	var request struct {
		Aggs map[string]map[string]json.RawMessage `json:"aggs"`
	}
	if json.Unmarshal(body, &request) != nil {
		return false
	}
	for _, a := range request.Aggs {
		if a["histogram"] != nil || a["range"] != nil {
			return true
		}
	}
	return false
}
