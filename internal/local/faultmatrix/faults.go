package faultmatrix

import (
	"slices"
	"time"

	"github.com/domainferry/domainferry/internal/local/frontdoor"
	"github.com/domainferry/domainferry/internal/local/s3gateway"
)

// Fault is a column.
type Fault string

// The faults. Each is injected once in a case.
const (
	LambdaKilled         Fault = "lambda-killed"       // the function's process is killed while it works
	LambdaTimeout        Fault = "lambda-timeout"      // its invocation ends with the service's time-out while it works
	TimeoutWithoutEffect Fault = "504-without-effect"  // a call to a domain
	TimeoutWithEffect    Fault = "504-with-effect"     // a call that changes a domain
	TooManyRequests      Fault = "429"                 // a call to a domain
	ConnectionCut        Fault = "connection-cut"      // a call to a domain, with or without effect
	S3Unavailable        Fault = "s3-503"              // SlowDown, three times in a row
	S3ErrorIn200         Fault = "s3-200-error"        // a copy or the end of a multipart upload
	SourceKilled         Fault = "source-killed"       // the node, back a second later
	DestinationKilled    Fault = "destination-killed"  // the node, back a second later
	GatewayRestarted     Fault = "gateway-restarted"   // the S3 gateway
	Stopped              Fault = "stop-execution"      // of the migration
	EngineKilled         Fault = "step-functions-kill" // the process that holds the executions; histories are lost
	ClockSkew            Fault = "clock-skew"          // all calls of the functions are refused for two seconds
	DiskFull             Fault = "disk-full"           // at the destination, for three seconds
	none                 Fault = "none"                // the run that shows what a state does
)

const (
	nodeDown   = time.Second
	skewFor    = 2 * time.Second
	diskFor    = 3 * time.Second
	s3Failures = 3
)

// Faults lists the columns.
func Faults() []Fault {
	return []Fault{LambdaKilled, LambdaTimeout, TimeoutWithoutEffect, TimeoutWithEffect, TooManyRequests, ConnectionCut, S3Unavailable, S3ErrorIn200,
		SourceKilled, DestinationKilled, GatewayRestarted, Stopped, EngineKilled, ClockSkew, DiskFull}
}

// Representative are the cases that are worth real nodes: each fault, in the states where the engine itself, and not only this project, has
// to get over it.
func Representative() []string {
	return []string{
		"migration/Preflight:lambda-timeout", "migration/Register:504-with-effect", "migration/Register:source-killed",
		"migration/Decide:destination-killed", "migration/Freeze:lambda-killed", "migration/Freeze:504-with-effect",
		"migration/Freeze:source-killed", "migration/Freeze:stop-execution", "migration/Freeze:step-functions-kill",
		"migration/MoveLastDelta:step-functions-kill", "migration/Verify:destination-killed", "migration/Verify:stop-execution",
		"migration/Finish:lambda-killed", "migration/Finish:504-with-effect", "migration/Finish:destination-killed",
		"migration/Finish:stop-execution", "migration/Thaw:504-without-effect", "migration/Thaw:source-killed",
		"round/StartSnapshot@warm:504-with-effect", "round/PollSnapshot@warm:source-killed", "round/PollRestore@warm:destination-killed",
		"round/StartSnapshot@final:source-killed", "round/CopyRange@final:s3-200-error", "round/CopyRange@final:gateway-restarted",
		"round/PublishCopy@final:s3-503", "round/StartRestore@final:504-with-effect", "round/PollRestore@final:destination-killed",
		"round/PollRestore@final:clock-skew", "replay/PlanReplay@warm:destination-killed", "replay/PlanReplay@final:connection-cut",
		"replay/PlanReplay@final:source-killed", "replay/ReplaySlice@final:429",
	}
}

// needsFunction are the faults that hit a function or one of its calls.
func (f Fault) needsFunction() bool {
	switch f {
	case SourceKilled, DestinationKilled, GatewayRestarted, Stopped, EngineKilled, DiskFull:
		return false
	}
	return true
}

// anyState are the faults of states that do no work.
func (f Fault) anyState() bool { return f == Stopped || f == EngineKilled }

// call is one request of a function: to a domain, or to S3.
type call struct {
	side     string // "source", "destination"; empty for S3
	mutating bool
	kind     s3gateway.Kind
}

// hits says whether the fault can hit the call; of calls that it can hit those that change something are the ones that matter.
func (f Fault) hits(c call) bool {
	switch f {
	case TimeoutWithoutEffect, TooManyRequests, ConnectionCut:
		return c.side != ""
	case TimeoutWithEffect:
		return c.side != "" && c.mutating
	case S3Unavailable:
		return c.side == ""
	case S3ErrorIn200:
		return slices.Contains([]s3gateway.Kind{s3gateway.CopyObject, s3gateway.UploadPartCopy, s3gateway.CompleteMultipartUpload}, c.kind)
	}
	return true
}

// door is what becomes of the very call that is hit.
func (f Fault) door(effect bool) frontdoor.Fault {
	switch f {
	case TimeoutWithoutEffect:
		return frontdoor.Fault{Kind: frontdoor.TimeoutWithoutEffect, Delay: 50 * time.Millisecond}
	case TimeoutWithEffect:
		return frontdoor.Fault{Kind: frontdoor.TimeoutWithEffect, Delay: 50 * time.Millisecond}
	case TooManyRequests:
		return frontdoor.Fault{Kind: frontdoor.TooManyRequests}
	case ClockSkew:
		return frontdoor.Fault{Kind: frontdoor.Skewed}
	case ConnectionCut:
		if effect {
			return frontdoor.Fault{Kind: frontdoor.CutWithEffect}
		}
		return frontdoor.Fault{Kind: frontdoor.CutWithoutEffect}
	case LambdaKilled, LambdaTimeout, Stopped, EngineKilled:
		// The caller is gone; whether its last call went through is a matter of chance.
		if !effect {
			return frontdoor.Fault{Kind: frontdoor.CutWithoutEffect}
		}
	}
	return frontdoor.Fault{}
}

func (f Fault) s3(effect bool) s3gateway.Answer {
	switch f {
	case S3Unavailable:
		return s3gateway.SlowDown
	case S3ErrorIn200:
		return s3gateway.InternalError
	case ClockSkew:
		return s3gateway.Skewed
	case LambdaKilled, LambdaTimeout, Stopped, EngineKilled:
		if !effect {
			return s3gateway.Cut
		}
		return s3gateway.CutAfter
	}
	return s3gateway.Pass
}
