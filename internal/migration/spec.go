// Package migration holds what a migration is and decides how it goes on: the operator's input (Spec), what preflight made of
// it (Plan), what was measured (Round) and whether to warm again, wait, cut over or stop (Decide). It is pure: no I/O, no clock,
// no AWS.
package migration

import (
	"fmt"
	"time"
)

// Mode says how far an execution goes.
type Mode string

// The modes.
const (
	Assess  Mode = "assess"  // preflight only; nothing is touched
	Warm    Mode = "warm"    // Rounds.Minimum warm rounds, no cut-over
	Migrate Mode = "migrate" // everything; an already warm migration goes on from its last round
	// GoBack brings what the destination has taken since the hand-over back to the source, and hands over to that one.
	GoBack Mode = "goBack"
)

// CutsOver reports whether the mode stops writes at one domain to hand over to the other.
func (m Mode) CutsOver() bool { return m == Migrate || m == GoBack }

// WayBack is the name under which the journal keeps the way back of a migration: a folder in the migration's own. No migration can have
// it, because of the slash.
func WayBack(migration string) string { return migration + "/back" }

// Topology says how objects reach the bucket that the destination reads.
type Topology string

// Copy moves objects bucket to bucket. (The shared topology, where the source writes into the destination's bucket, is an issue
// of its own.)
const Copy Topology = "copy"

// LastMile says how the last changes travel: by rounds, which move segments, or by replay, which moves documents.
type LastMile string

// The ways of the last mile. Auto takes rounds while they fit the window and replay for the indices that keep them from it.
const (
	LastMileAuto   LastMile = "auto"
	LastMileRounds LastMile = "rounds"
	LastMileReplay LastMile = "replay"
)

// OnNeverFits says what happens when more rounds will not bring the write downtime under the window.
type OnNeverFits string

// What happens then: the execution ends with the reason, or it waits for the operator's word.
const (
	StopMigration OnNeverFits = "stop"
	AskOperator   OnNeverFits = "ask"
)

// Clients says who keeps the clients from writing during the cut-over.
type Clients string

// The clients: they run and are refused by a write block, or the operator has stopped them and nothing is blocked.
const (
	ClientsRun     Clients = "running"
	ClientsStopped Clients = "stopped-by-operator"
)

// Duration is a time span written as "10m" or "1h30m" in JSON.
type Duration time.Duration

// MarshalText writes the duration as Go writes it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads a duration as Go reads it.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Seconds is the duration in seconds.
func (d Duration) Seconds() float64 { return time.Duration(d).Seconds() }

func (d Duration) String() string { return time.Duration(d).String() }

// Spec is the operator's input, the document given to start-execution or to a schedule, with defaults filled in.
type Spec struct {
	Migration      string            `json:"migration"`
	Mode           Mode              `json:"mode"`
	Source         Endpoint          `json:"source"`
	Destination    Endpoint          `json:"destination"`
	Indices        Selection         `json:"indices"`
	DowntimeWindow Duration          `json:"downtimeWindow"`
	Rounds         RoundLimits       `json:"rounds"`
	LastMile       LastMile          `json:"lastMile"`
	OnNeverFits    OnNeverFits       `json:"onNeverFits"`
	Topology       Topology          `json:"topology"`
	CutOver        CutOverConditions `json:"cutOver"`
	Clients        Clients           `json:"clients"`
	// Replicas at the destination after the cut-over; nil means as at the source.
	Replicas *int          `json:"replicas,omitempty"`
	Finish   FinishOptions `json:"finish"`
	// KeepSnapshots is how many of the newest round snapshots stay in the source's repository after the hand-over; nil means all.
	KeepSnapshots *int `json:"keepSnapshots,omitempty"`
}

// FinishOptions say what becomes of the destination's indices after the hand-over.
type FinishOptions struct {
	// RefreshInterval is set instead of the source's, as the engines write it ("1s", "-1"); "" means as at the source.
	RefreshInterval string `json:"refreshInterval,omitempty"`
	// WaitForGreen is how long the execution goes on at most until every copy of every shard is there; clients write meanwhile. 0 means
	// not at all.
	WaitForGreen Duration `json:"waitForGreen"`
}

// Endpoint is one domain and the S3 place where its snapshot repository lives.
type Endpoint struct {
	DomainARN  string     `json:"domainArn"`
	Endpoint   string     `json:"endpoint"` // https://..., or http://127.0.0.1:... on one machine
	Repository Repository `json:"repository"`
	// Access is how the workflow reaches a domain and a bucket of another account; none is by its own roles.
	Access Access `json:"access,omitzero"`
}

// Access is a role of another account that the workflow's functions assume to speak to the domain there and to change who may use the bucket.
type Access struct {
	RoleARN    string `json:"roleArn"`
	ExternalID string `json:"externalId,omitempty"` // that the role's trust asks for
}

// Region is the Region in the domain's ARN, which signatures carry.
func (e Endpoint) Region() string { return parseARN(e.DomainARN).region }

// Repository is a bucket, a prefix in it and the role by which the domain reaches it.
type Repository struct {
	Bucket   string `json:"bucket"`
	BasePath string `json:"basePath"` // without leading or trailing slash; may be empty
	Region   string `json:"region"`
	RoleARN  string `json:"roleArn"` // the snapshot role that the domain assumes
}

// Selection names indices, with * as wildcard. System indices (a leading dot) are left out unless Include names them exactly,
// and never taken when they belong to the engine or its plugins.
type Selection struct {
	Include []string `json:"include"`
	Exclude []string `json:"exclude"`
}

// RoundLimits bounds the warm rounds.
type RoundLimits struct {
	Minimum int      `json:"minimum"` // warm rounds before a cut-over may be considered; the first one moves everything
	Maximum int      `json:"maximum"` // warm rounds of one execution, at most 500 (history budget)
	Pause   Duration `json:"pause"`   // between the end of a warm round and the next
}

// Defaults and limits of the input.
const (
	defaultMinimumRounds = 2
	defaultMaximumRounds = 20
	maximumRounds        = 500
	defaultEvery         = 24 * time.Hour
	defaultApproval      = 24 * time.Hour
	longestWaitForGreen  = 24 * time.Hour
	mostKeptSnapshots    = 1000
	maximumNameLength    = 50 // a snapshot is <name>-r0001, a Step Functions name has at most 80 characters
)

// RepositoryName is the name under which both domains know the migration's repository.
func (s Spec) RepositoryName() string { return s.Migration }

// SnapshotName is the name of a round's snapshot: deterministic, so that a repeated step finds what an earlier attempt made.
func SnapshotName(migration string, round int) string {
	return fmt.Sprintf("%s-r%04d", migration, round)
}
