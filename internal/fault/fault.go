// Package fault is the one list of error names that Domain Ferry's states can end with.
//
// A fault says what failed (Op), on which domain, bucket or index (Target), why (Err) and what to do next (Hint). Its Name is
// what the state machine definitions match in Retry and Catch; the Lambda edge (internal/lambdahost) turns the outermost
// *Error of a chain into the Step Functions error of that name.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Name is a Step Functions error name. Names never start with "States." or "Lambda.", which belong to the service.
type Name string

// The names. Catalogue says of each whether a retry can help and what the operator should do.
const (
	OutcomeUnknown      Name = "Migration.OutcomeUnknown"
	Unavailable         Name = "Migration.Unavailable"
	Throttled           Name = "Migration.Throttled"
	Busy                Name = "Migration.Busy"
	InvalidInput        Name = "Migration.InvalidInput"
	AccessDenied        Name = "Migration.AccessDenied"
	Incompatible        Name = "Migration.Incompatible"
	DestinationOccupied Name = "Migration.DestinationOccupied"
	DomainTaken         Name = "Migration.DomainTaken"
	InsufficientDisk    Name = "Migration.InsufficientDisk"
	RepositoryRefused   Name = "Migration.RepositoryRefused"
	RepositoryCorrupt   Name = "Migration.RepositoryCorrupt"
	SnapshotFailed      Name = "Migration.SnapshotFailed"
	CopyFailed          Name = "Migration.CopyFailed"
	RestoreFailed       Name = "Migration.RestoreFailed"
	FreezeUnproven      Name = "Migration.FreezeUnproven"
	IndicesChanged      Name = "Migration.IndicesChanged"
	VerificationFailed  Name = "Migration.VerificationFailed"
	NeverFits           Name = "Migration.NeverFits"
	NotApproved         Name = "Migration.NotApproved"
	NotSupported        Name = "Migration.NotSupported"
	JournalMissing      Name = "Migration.JournalMissing"
	Superseded          Name = "Migration.Superseded"
	RequestRefused      Name = "Migration.RequestRefused"
	Unclassified        Name = "Migration.Unclassified"
)

// Definition describes one name: whether the workflow retries it by itself, and the hint that is shown when the place that
// raised the fault knew nothing better.
type Definition struct {
	Name      Name
	Retryable bool
	Hint      string
}

// Catalogue lists every name, in the order of the constants.
func Catalogue() []Definition { return append([]Definition(nil), catalogue...) }

var catalogue = []Definition{
	{OutcomeUnknown, true, "The call may have taken effect; the step looks before it asks again. If this persists, check the domain's load and the network between the Lambdas and the domain."},
	{Unavailable, true, "The service did not answer. Check that the endpoint is right and reachable from the Lambdas' subnets, and the domain's health; redrive the execution once it answers."},
	{Throttled, true, "The service asks for fewer requests; the step backs off. If this persists, the domain or bucket is overloaded by other clients."},
	{Busy, true, "Another snapshot, restore or configuration change is running; the step waits for it. Nothing needs to be done unless it never ends."},
	{InvalidInput, false, "Correct the fields named in the message and start a new execution; nothing has been touched."},
	{AccessDenied, false, "Allow the caller role what the message names: IAM policy, bucket policy, or a role mapping in the domain's fine-grained access control."},
	{Incompatible, false, "The destination's version cannot read what the message names. Choose another destination version, or reindex or exclude those indices."},
	{DestinationOccupied, false, "The destination already holds indices of these names that this migration did not make. Delete or rename them there, or exclude them; Domain Ferry never overwrites what it did not make."},
	{DomainTaken, false, "One execution at a time acts on a domain. Wait until the one named ends, or stop it (aws stepfunctions stop-execution); what it has warmed is kept. Then start anew."},
	{InsufficientDisk, false, "Enlarge the destination's volumes or move fewer indices at once; the restore needs room for every primary shard in full."},
	{RepositoryRefused, false, "The domain cannot use the repository. Check the bucket, its Region, the snapshot role's trust (es.amazonaws.com) and its bucket permissions."},
	{RepositoryCorrupt, false, "The repository does not hold what its own index says. Do not delete anything; check for other writers and lifecycle rules on the bucket, then start a new execution."},
	{SnapshotFailed, false, "Look at the listed shards on the source (GET _cluster/allocation/explain); bring them back to green or exclude the index, then start a new execution; it takes this snapshot again."},
	{CopyFailed, false, "Objects could not be copied. Check permissions, storage class and encryption keys of the objects named, then redrive; what is copied already is kept."},
	{RestoreFailed, false, "The listed shards could not be restored at the destination; the allocation explanation in the message says why. Mend it, then redrive."},
	{FreezeUnproven, false, "Writes still arrived after the write block. Writes have been given back; find the writer that gets past the block (new indices, data streams) and start anew."},
	{IndicesChanged, false, "The source's indices are not those of the plan. Start a new execution so that the plan is made again; warm copies are reused."},
	{VerificationFailed, false, "The destination does not hold the same data. Writes have been given back to the source; see the checks in verification.json of the journal and start anew."},
	{NeverFits, false, "More rounds will not bring the write downtime under the window. Widen downtimeWindow, move fewer indices at once, or choose a quieter time, and start anew; the warm destination is reused."},
	{NotApproved, false, "The approval was declined, or not given in time. Writes were never stopped and the destination is kept warm: start anew when it suits."},
	{NotSupported, false, "This version of Domain Ferry does not do this yet. Change the input as the message says."},
	{JournalMissing, false, "The journal has no plan for this migration. Start a new execution; Preflight writes it."},
	{Superseded, false, "A newer execution of this migration has taken over; this one must not act any more. Watch the newer one."},
	{RequestRefused, false, "The domain refused the request with the answer quoted in the message. Mend what it names, then redrive."},
	{Unclassified, false, "This is an error that Domain Ferry does not know; the message quotes it whole. Redrive once the cause is mended."},
}

// Lookup returns the definition of name.
func Lookup(name Name) (Definition, bool) {
	for _, d := range catalogue {
		if d.Name == name {
			return d, true
		}
	}
	return Definition{}, false
}

// Error is a typed fault.
type Error struct {
	Name   Name
	Op     string // what was attempted, as a verb phrase: "create snapshot"
	Target string // on what: domain endpoint, bucket/key, index
	Status int    // HTTP status of the answer, 0 when there was none
	Hint   string // what to do next; empty means the catalogue's
	Err    error  // why
}

// New makes a fault. err may be nil when Op and Target say it all.
func New(name Name, op, target string, err error) *Error {
	return &Error{Name: name, Op: op, Target: target, Err: err}
}

// Newf makes a fault whose cause is a formatted text (with %w).
func Newf(name Name, op, target, format string, args ...any) *Error {
	return New(name, op, target, fmt.Errorf(format, args...))
}

// WithHint sets a hint that knows more than the catalogue's and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Error says what failed, where and why, without the hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Target != "" {
		b.WriteString(" on " + e.Target)
	}
	if e.Status != 0 {
		fmt.Fprintf(&b, " (HTTP %d)", e.Status)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Advice returns the fault's own hint, or the catalogue's.
func (e *Error) Advice() string {
	if e.Hint != "" {
		return e.Hint
	}
	d, _ := Lookup(e.Name)
	return d.Hint
}

// As returns the outermost fault of err's chain.
func As(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// Is reports whether the outermost fault of err's chain has one of the names.
func Is(err error, names ...Name) bool {
	e, ok := As(err)
	if !ok {
		return false
	}
	for _, n := range names {
		if e.Name == n {
			return true
		}
	}
	return false
}

// Retryable reports whether the workflow retries err by itself.
func Retryable(err error) bool {
	e, ok := As(err)
	if !ok {
		return false
	}
	d, _ := Lookup(e.Name)
	return d.Retryable
}
