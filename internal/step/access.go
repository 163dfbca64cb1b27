package step

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// Accessible is what says who may use buckets, or a domain: their owner's S3 client, or the domain's security API. A text of nil is that there
// is none.
type Accessible interface {
	Access(ctx context.Context, name string, kind access.Kind) (*string, error)
	SetAccess(ctx context.Context, name string, kind access.Kind, text *string) error
}

// Buckets reaches the bucket of an endpoint as the role that its input names, or as the function's own.
type Buckets func(migration.Endpoint) Accessible

// reaching is the undo log for one that changes, or undoes, what is of buckets.
func (l undoLog) reaching(b Buckets) undoLog {
	l.buckets = b
	return l
}

// permission is access to be given: what a thing has to be, of what it is, so that it is there.
type permission struct {
	kind  access.Kind
	name  string // of the bucket or the role
	merge func(now *string) (text string, missing bool, err error)
	// byHand is the request for an administrator, where the workflow may not make it.
	byHand string
}

// entryOf is where the log keeps it.
func (q permission) entryOf(e migration.Endpoint) (endpoint, changed string) {
	if q.kind.OfBucket() {
		return "s3://" + q.name, string(q.kind)
	}
	return e.Endpoint, string(q.kind) + "-" + q.name
}

// at is who can be asked for it.
func (l undoLog) at(e migration.Endpoint, kind access.Kind) (Accessible, error) {
	if kind.OfBucket() {
		if l.buckets == nil {
			return nil, fault.Newf(fault.Unclassified, "change who may use a bucket", e.Repository.Bucket, "this function does not reach buckets")
		}
		return l.buckets(e), nil
	}
	security, ok := l.domain(e).(Accessible)
	if !ok {
		return nil, fault.Newf(fault.Unclassified, "change who may use a domain", e.Endpoint, "its client does not reach the security API")
	}
	return security, nil
}

// allow gives access that is missing: recorded with its inverse, made, and read back. It returns the entry; one that was never written says
// that nothing was missing, or that somebody else has given it. fault.AccessDenied, with the request for an administrator as its hint, says
// that the workflow may not.
func (l undoLog) allow(ctx context.Context, p migration.Plan, e migration.Endpoint, q permission) (journal.Undo, error) {
	endpoint, changed := q.entryOf(e)
	who, err := l.at(e, q.kind)
	if err != nil {
		return journal.Undo{}, err
	}
	for {
		u, tag, err := l.journal.Undo(ctx, endpoint, changed)
		if err != nil {
			return u, err
		}
		now, err := who.Access(ctx, q.name, q.kind)
		if err != nil {
			return u, q.denied(err)
		}
		set, missing, err := q.merge(now)
		if err != nil {
			return u, q.denied(fault.New(fault.AccessDenied, "extend "+string(q.kind), endpoint, err))
		}
		if !missing && (!u.Outstanding() || u.Execution == p.Execution) {
			if !u.Outstanding() {
				u = journal.Undo{} // an entry of earlier says nothing of what is there now
			}
			return u, nil
		}
		next := u
		next.Execution = p.Execution
		if missing {
			before := now
			if u.Outstanding() {
				// Made in part, or changed by somebody else since: what they have, without what was added.
				back, err := access.TakeBack(q.kind, u.Before, u.Set, now)
				if err != nil {
					return u, fault.New(fault.AccessDenied, "extend "+string(q.kind), endpoint, err)
				}
				if back.Needed {
					before = back.Text
				}
			}
			next = journal.Undo{
				Execution: p.Execution, DomainARN: e.DomainARN, Endpoint: endpoint, Setting: changed, Access: e.Access,
				Kind: q.kind, Name: q.name, Region: e.Repository.Region, Before: before, Set: set, At: l.clock.Now(),
			}
		}
		written, err := l.journal.ReplaceUndo(ctx, next, tag)
		if err != nil {
			return u, err
		}
		if !written {
			continue // another attempt came first
		}
		if missing {
			if err := l.give(ctx, who, q, next); err != nil {
				return next, err
			}
		}
		return next, l.mayStill(ctx, p, endpoint, changed)
	}
}

// give makes a recorded change and reads it back.
func (l undoLog) give(ctx context.Context, who Accessible, q permission, u journal.Undo) error {
	if err := who.SetAccess(ctx, q.name, q.kind, &u.Set); err != nil {
		if fault.Retryable(err) {
			return err
		}
		_, tag, readErr := l.journal.Undo(ctx, u.Endpoint, u.Changed())
		if readErr != nil {
			return readErr
		}
		u.NotMade = notAllowed(err)
		if _, err := l.journal.ReplaceUndo(ctx, u, tag); err != nil {
			return err
		}
		return q.denied(err)
	}
	now, err := who.Access(ctx, q.name, q.kind)
	if err != nil {
		return q.denied(err)
	}
	if _, missing, err := q.merge(now); err != nil || missing {
		return fault.Newf(fault.OutcomeUnknown, "extend "+string(q.kind), u.Endpoint, "what was set is not what is read back")
	}
	return nil
}

// denied adds the request for an administrator to a fault of access.
func (q permission) denied(err error) error {
	f, ok := fault.As(err)
	if !ok || fault.Retryable(err) {
		return err
	}
	return fault.New(fault.AccessDenied, f.Op, f.Target, cmp.Or(f.Err, err)).WithHint("Domain Ferry may not give this access itself. An administrator of the bucket or the domain can:\n%s\nThen redrive.", q.byHand)
}

// mayStill takes back at once what was given after the execution's end had undone everything.
func (l undoLog) mayStill(ctx context.Context, p migration.Plan, endpoint, changed string) error {
	_, err := l.journal.Plan(ctx, p.Execution)
	if !fault.Is(err, fault.Superseded) {
		return err
	}
	u, tag, readErr := l.journal.Undo(ctx, endpoint, changed)
	if readErr != nil {
		return readErr
	}
	if u.Execution == p.Execution && !u.UndoneAt.IsZero() {
		u.UndoneAt = time.Time{}
		if _, err := l.journal.ReplaceUndo(ctx, u, tag); err != nil {
			return err
		}
	}
	return cmp.Or(l.undoOne(ctx, endpoint, changed), err)
}

// takeBack undoes a change of access. What somebody else has changed since stays; only what was added is taken out.
func (l undoLog) takeBack(ctx context.Context, u journal.Undo, tag string) error {
	who, err := l.at(reached(u), u.Kind)
	if err != nil {
		return err
	}
	now, err := who.Access(ctx, u.Name, u.Kind)
	if err != nil {
		return err
	}
	back, err := access.TakeBack(u.Kind, u.Before, u.Set, now)
	switch {
	case err != nil:
		u.LeftAlone = shorten(err.Error(), 500)
	case back.LeftAlone != "":
		u.LeftAlone = back.LeftAlone
	default:
		if back.Needed {
			if err := who.SetAccess(ctx, u.Name, u.Kind, back.Text); err != nil {
				return err
			}
		}
		u.UndoneAt = l.clock.Now()
	}
	// Where another attempt came first, it has recorded the same.
	_, err = l.journal.ReplaceUndo(ctx, u, tag)
	return err
}

// reached is the endpoint of an entry, as far as its client needs it.
func reached(u journal.Undo) migration.Endpoint {
	e := migration.Endpoint{DomainARN: u.DomainARN, Endpoint: u.Endpoint, Access: u.Access}
	if u.Kind.OfBucket() {
		e.Repository = migration.Repository{Bucket: u.Name, Region: u.Region}
	}
	return e
}

// accessByHand is what undoes a change of access by hand.
func accessByHand(u journal.Undo) string {
	if u.Kind.OfBucket() {
		return access.Command(u.Name, u.Kind, u.Before)
	}
	path := map[access.Kind]string{access.SecurityRole: "roles", access.RoleMapping: "rolesmapping"}[u.Kind] + "/" + u.Name
	if u.Before == nil {
		return fmt.Sprintf("DELETE %s/_plugins/_security/api/%s", u.Endpoint, path)
	}
	return fmt.Sprintf("PUT %s/_plugins/_security/api/%s %s", u.Endpoint, path, *u.Before)
}

// Opener opens the source's bucket, of another account, to the role that copies: topology copy. One without a Reader opens nothing.
type Opener struct {
	Journal *journal.Store
	Buckets Buckets
	// Reader is the principal that copies: the ARN of its role.
	Reader string
	Clock  Clock
}

// A policy takes some time until it is in force everywhere.
const (
	policyPause    = 2 * time.Second
	policyPatience = time.Minute
	// policyLimit is after which a bucket that is still closed is so for another reason.
	policyLimit = 10 * time.Minute
)

// Opening is a step of a round that reads the source's bucket. Where that is refused, and the input names a role that may change the bucket's
// policy, it adds what is missing there and tries again until it is in force. A round that a schedule started alone opens nothing: no end would
// close it.
func Opening[In interface{ ofRound() RoundInput }, Out any](o Opener, run func(context.Context, In) (Out, error)) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (out Out, err error) {
		out, err = run(ctx, in)
		if !fault.Is(err, fault.AccessDenied) || o.Reader == "" {
			return out, err
		}
		j, p, planErr := plan(ctx, o.Journal, in.ofRound().Migration, in.ofRound().Execution)
		if planErr != nil {
			return out, planErr
		}
		err = o.open(ctx, j, p, in.ofRound(), err, func() error {
			var again error
			out, again = run(ctx, in)
			return again
		})
		return out, err
	}
}

func (in RoundInput) ofRound() RoundInput { return in }

// open adds to the bucket's policy and reads again, after it was refused with err.
func (o Opener) open(ctx context.Context, j *journal.Journal, p migration.Plan, in RoundInput, err error, read func() error) error {
	source := p.Spec.Source
	if !inBucket(err, source.Repository.Bucket) {
		return err
	}
	statements := access.ReadStatements(p.Spec.Migration, o.Reader, placeOf(source, p.Engines.Source))
	q := permission{
		kind: access.BucketPolicy, name: source.Repository.Bucket,
		merge:  func(now *string) (string, bool, error) { return access.Merge(now, statements...) },
		byHand: fmt.Sprintf("add to the policy of bucket %s these statements, and where its objects are encrypted with a key of KMS, let %s use that (kms:Decrypt):\n%s", source.Repository.Bucket, o.Reader, access.Request(statements)),
	}
	if source.Access.RoleARN == "" || in.Execution == "" {
		f, _ := fault.As(err)
		return fault.New(f.Name, f.Op, f.Target, f.Err).WithHint("%s If the bucket is another account's, name a role of that account in the input ($.source.access.roleArn), which adds what is needed to its policy "+
			"for the time of an execution; or let an administrator %s", f.Advice(), q.byHand)
	}
	u, allowErr := newUndoLog(j, func(migration.Endpoint) ClusterSettingsDomain { return nil }, o.Clock).reaching(o.Buckets).allow(ctx, p, source, q)
	if allowErr != nil {
		return allowErr
	}
	began := o.Clock.Now()
	for {
		if err = read(); !fault.Is(err, fault.AccessDenied) {
			return err
		}
		now := o.Clock.Now()
		if u.At.IsZero() {
			return err // the policy allows it already: it is something else that is refused
		}
		if now.Sub(u.At) > policyLimit {
			return fault.Newf(fault.AccessDenied, "read the source's bucket", "s3://"+source.Repository.Bucket, "its policy allows it since %s: %w", u.At.Format(time.RFC3339), err).
				WithHint("Something else refuses it: a statement of the bucket's policy that denies, a policy of the organization, or the KMS key of the objects (kms:Decrypt). Allow it to %s, then redrive.", o.Reader)
		}
		if now.Sub(began) >= policyPatience {
			return fault.New(fault.Unavailable, "wait for the bucket's policy", "s3://"+source.Repository.Bucket, err)
		}
		if err := o.Clock.Sleep(ctx, policyPause); err != nil {
			return err
		}
	}
}

// inBucket reports whether a fault is about an object of the bucket, or the bucket.
func inBucket(err error, bucket string) bool {
	for f, ok := fault.As(err); ok; f, ok = fault.As(f.Err) {
		if rest, found := strings.CutPrefix(f.Target, "s3://"+bucket); found && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// placeOf is the repository of an endpoint in its bucket.
func placeOf(e migration.Endpoint, engine string) access.Place {
	partition, _, _ := strings.Cut(strings.TrimPrefix(e.DomainARN, "arn:"), ":")
	return access.Place{Partition: partition, Bucket: e.Repository.Bucket, BasePath: e.Repository.BasePath, Hashed: keepsHashedPaths(engine)}
}

// keepsHashedPaths is true of OpenSearch 3.2 and newer (s3-copy.md 0.5), and of an engine that is not known.
func keepsHashedPaths(engine string) bool {
	if strings.HasPrefix(engine, "elasticsearch-") {
		return false
	}
	var major, minor int
	if _, err := fmt.Sscanf(engine, "opensearch-%d.%d", &major, &minor); err != nil {
		return true
	}
	return major > 3 || major == 3 && minor >= 2
}
