package step

import (
	"context"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/s3copy"
)

// PublishCopyInput is the planned root and what each range did.
type PublishCopyInput struct {
	RoundInput
	Root      s3copy.Root `json:"root"`
	StartedAt time.Time   `json:"startedAt"`
	Ranges    []CopyInput `json:"ranges"` // what each CopyRange ended with
}

// PublishCopyOutput says whether the destination's readers see the round's snapshot now; if not, the copy is planned again.
type PublishCopyOutput struct {
	Published bool   `json:"published"`
	Reason    string `json:"reason,omitempty"`
	// WaitSeconds before the copy is planned again; 0 at first, because a source that changed meanwhile is the rule then.
	WaitSeconds int                 `json:"waitSeconds"`
	Copy        migration.CopyPhase `json:"copy"`
}

// CopyPublisher makes a complete copy visible.
type CopyPublisher interface {
	Publish(ctx context.Context, from, to s3copy.Location, root s3copy.Root, want s3copy.Want) (s3copy.PublishResult, error)
}

// PublishCopy lists both sides again and, when nothing is missing, copies the root document last.
type PublishCopy struct {
	Journal *journal.Store
	Copier  func(source, destination migration.Repository) CopyPublisher
	Clock   Clock
}

// Run is the state PublishCopy.
func (s PublishCopy) Run(ctx context.Context, in PublishCopyInput) (PublishCopyOutput, error) {
	_, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return PublishCopyOutput{}, err
	}
	r, err := s.Copier(p.Spec.Source.Repository, p.Spec.Destination.Repository).
		Publish(ctx, location(p.Spec.Source), location(p.Spec.Destination), in.Root, want(in.RoundInput))
	if err != nil {
		return PublishCopyOutput{}, err
	}
	out := PublishCopyOutput{Published: r.Published, Reason: r.Reason, Copy: migration.CopyPhase{Seconds: seconds(in.StartedAt, s.Clock.Now())}}
	if lap := out.Copy.Seconds; !out.Published && lap > 60 {
		out.WaitSeconds = migration.NextPoll(lap)
	}
	for _, c := range in.Ranges {
		out.Copy.Objects += c.Copied
		out.Copy.Bytes += c.Bytes
		out.Copy.Skipped += c.Skipped
	}
	return out, nil
}
