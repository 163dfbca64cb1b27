package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"github.com/domainferry/domainferry/internal/fault"
)

// Lease says which execution acts on a domain: one at a time. It does not expire: an execution may wait for days, and the Step
// Functions service knows whether it still runs.
type Lease struct {
	Endpoint  string    `json:"endpoint"`
	Migration string    `json:"migration"`
	Execution string    `json:"execution"` // ARN
	Epoch     int64     `json:"epoch"`     // rises each time the lease changes hands
	TakenAt   time.Time `json:"takenAt"`
	EndedAt   time.Time `json:"endedAt,omitzero"` // given back
}

// Executions tells what became of an execution.
type Executions interface {
	// Running reports whether the execution is running now. One that the service has forgotten, or that never was, is not.
	Running(ctx context.Context, execution string) (bool, error)
}

// Undoing undoes what an execution has left behind that has ended without giving its domains back.
type Undoing func(ctx context.Context, execution string) error

// free is nil when no execution has one of the domains.
func (s *Store) free(ctx context.Context, endpoints ...string) error {
	undone := func(_ context.Context, execution string) error {
		return fault.Newf(fault.Busy, "use domain", execution, "it has ended and what it changed is still being undone")
	}
	for _, e := range endpoints {
		if _, _, err := s.vacate(ctx, e, "", undone); err != nil {
			return err
		}
	}
	return nil
}

// vacate makes sure that the domain can be taken by the execution.
func (s *Store) vacate(ctx context.Context, endpoint, execution string, undo Undoing) (l Lease, tag string, err error) {
	ended := ""
	for {
		if l, tag, err = s.lease(ctx, endpoint); err != nil {
			return l, tag, err
		}
		// Undone, and still not given back: it was killed before it had begun.
		if l.Epoch == 0 || !l.EndedAt.IsZero() || l.Execution == execution || l.Execution == ended {
			return l, tag, nil
		}
		taken := fault.Newf(fault.DomainTaken, "take domain", endpoint, "migration %q has it since %s, by execution %s", l.Migration, l.TakenAt.Format(time.RFC3339), l.Execution)
		if err := s.succeed(ctx, l.Execution, taken, undo); err != nil {
			return l, tag, err
		}
		ended = l.Execution
	}
}

// succeed is taken while the execution runs; what one has left behind that has ended is undone. Without anybody to ask, it is taken to run.
func (s *Store) succeed(ctx context.Context, execution string, taken *fault.Error, undo Undoing) error {
	if s.executions == nil {
		return taken
	}
	running, err := s.executions.Running(ctx, execution)
	if err != nil {
		return err
	}
	if running {
		return taken
	}
	if err := undo(ctx, execution); err != nil {
		return fmt.Errorf("undo what execution %s has left behind: %w", execution, err)
	}
	return nil
}

// TakeLease gives the owner the lease of a domain, once it is vacated. Taking what the owner has already changes nothing.
func (s *Store) TakeLease(ctx context.Context, endpoint string, owner Owner, now time.Time, undo Undoing) (Lease, error) {
	for {
		l, tag, err := s.vacate(ctx, endpoint, owner.Execution, undo)
		if err != nil || l.Execution == owner.Execution && l.EndedAt.IsZero() {
			return l, err
		}
		next := Lease{Endpoint: endpoint, Migration: owner.Migration, Execution: owner.Execution, Epoch: l.Epoch + 1, TakenAt: now}
		if taken, err := s.replace(ctx, leaseKey(endpoint), next, tag); taken || err != nil {
			return next, err
		}
	}
}

// ReleaseLease gives the lease of a domain back, if the execution has it.
func (s *Store) ReleaseLease(ctx context.Context, endpoint, execution string, now time.Time) error {
	for {
		l, tag, err := s.lease(ctx, endpoint)
		if err != nil || l.Execution != execution || !l.EndedAt.IsZero() {
			return err
		}
		l.EndedAt = now
		if released, err := s.replace(ctx, leaseKey(endpoint), l, tag); released || err != nil {
			return err
		}
	}
}

// Lease reads the lease of a domain; one that was never taken has epoch 0.
func (s *Store) Lease(ctx context.Context, endpoint string) (Lease, error) {
	l, _, err := s.lease(ctx, endpoint)
	return l, err
}

// Leases reads the leases of all domains that any execution ever had.
func (s *Store) Leases(ctx context.Context) ([]Lease, error) {
	keys, err := s.list(ctx, "leases/")
	if err != nil {
		return nil, err
	}
	leases := make([]Lease, len(keys))
	for i, k := range keys {
		if _, err := s.get(ctx, k, &leases[i]); err != nil {
			return nil, err
		}
	}
	return leases, nil
}

func (s *Store) lease(ctx context.Context, endpoint string) (l Lease, tag string, err error) {
	tag, _, err = s.read(ctx, leaseKey(endpoint), &l)
	return l, tag, err
}

func leaseKey(endpoint string) string {
	_, host, found := strings.Cut(endpoint, "://")
	if !found {
		host = endpoint
	}
	return "leases/" + strings.NewReplacer(":", "_", "/", "_").Replace(strings.ToLower(strings.TrimRight(host, "/"))) + ".json"
}

// replace writes the object if it is still the one with that tag; an empty tag wants none to be there. It reports whether it did. Where
// the answer was lost, the next reading tells.
func (s *Store) replace(ctx context.Context, key string, v any, tag string) (bool, error) {
	err := s.write(ctx, key, v, condition{ifMatch: tag, ifNoneMatch: tag == ""})
	var api smithy.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		// A conflict is another writer under way, who may still fail; NoSuchKey an If-Match of something that is gone.
		case "PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey":
			return false, nil
		}
	}
	return err == nil, err
}

// condition of a write.
type condition struct {
	ifMatch     string // entity tag
	ifNoneMatch bool   // only if there is none
}

func (c condition) headers() (ifMatch, ifNoneMatch *string) {
	if c.ifMatch != "" {
		ifMatch = aws.String(c.ifMatch)
	}
	if c.ifNoneMatch {
		ifNoneMatch = aws.String("*")
	}
	return ifMatch, ifNoneMatch
}
