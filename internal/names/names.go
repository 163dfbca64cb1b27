// Package names holds the names that the deployment (infra), the local environment and the Lambdas must spell alike.
package names

import "strings"

// StateMachines, by file name without .asl.json; also the placeholders' stems.
const (
	MigrationMachine = "migration"
	RoundMachine     = "round"
	ReplayMachine    = "replay"
)

// Environment variables of the Lambdas.
const (
	// JournalBucketVariable names the deployment's own bucket, where plans, rounds and reports are kept.
	JournalBucketVariable = "JOURNAL_BUCKET"
	// TopicVariable names the SNS topic that is told when an operator's word is waited for; it may be missing.
	TopicVariable = "TOPIC_ARN"
	// CopierRoleVariable is the ARN of the role that copies, which the policies of buckets of other accounts let read; it may be missing.
	CopierRoleVariable = "COPIER_ROLE_ARN"
	// CallerRoleVariable is the ARN of the role that calls the domains, for register, which has another; it may be missing.
	CallerRoleVariable = "CALLER_ROLE_ARN"
)

// Function is one Lambda: a directory under lambdas/ and a state's worker.
type Function struct {
	Name           string // directory under lambdas/ and end of the deployed function's name
	TimeoutSeconds int    // Lambda time-out; the service's maximum is 900
	MemoryMB       int
}

// Functions lists every Lambda in the order in which a migration meets them.
func Functions() []Function { return append([]Function(nil), functions...) }

var functions = []Function{
	{"preflight", 300, 256},
	{"register", 300, 256},
	{"snapshot", 120, 256},
	{"poll-status", 120, 256},
	{"plan-copy", 600, 512},
	{"copy", 900, 1769},
	{"publish-copy", 900, 512},
	{"restore", 120, 256},
	{"record-round", 120, 256},
	{"plan-replay", 300, 512},
	{"replay", 900, 512},
	{"reconcile-deletes", 900, 512},
	{"record-pass", 120, 512},
	{"decide", 60, 256},
	{"ask", 60, 256},
	{"freeze", 120, 256},
	{"thaw", 120, 256},
	{"verify", 600, 512},
	{"finish", 300, 256},
}

// Placeholder is the substitution in the state machine definitions that stands for the function's ARN: "poll-status" is
// PollStatusFunction.
func (f Function) Placeholder() string {
	var b strings.Builder
	for _, part := range strings.Split(f.Name, "-") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String() + "Function"
}

// RoundMachinePlaceholder stands for the ARN of the round state machine.
const RoundMachinePlaceholder = "RoundStateMachine"

// ReplayMachinePlaceholder stands for the ARN of the replay state machine.
const ReplayMachinePlaceholder = "ReplayStateMachine"
