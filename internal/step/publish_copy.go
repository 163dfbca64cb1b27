package step

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/repository"
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

// PublishCopy lists both sides again and, when nothing is missing, copies the root document last. It then predicts from the copy's file
// lists what the restore will move.
type PublishCopy struct {
	Journal *journal.Store
	Copier  func(source, destination migration.Repository) CopyPublisher
	Blobs   func(migration.Repository) repository.BlobReader
	Clock   Clock
}

// Run is the state PublishCopy.
func (s PublishCopy) Run(ctx context.Context, in PublishCopyInput) (PublishCopyOutput, error) {
	j, p, err := plan(ctx, s.Journal, in.Migration, in.Execution)
	if err != nil {
		return PublishCopyOutput{}, err
	}
	wanted := want(in.RoundInput)
	wanted.Shape = in.shape()
	r, err := s.Copier(p.Spec.Source.Repository, p.Spec.Destination.Repository).
		Publish(ctx, location(p.Spec.Source), location(p.Spec.Destination), in.Root, wanted)
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
		r.Usage = r.Usage.Add(c.Usage)
	}
	out.Copy.Cost = copyCost(r.Usage, out.Copy.Bytes, p.Spec.Source.Repository.Region != p.Spec.Destination.Repository.Region)
	// Inside the freeze nobody waits for a prediction.
	if !out.Published || in.Final {
		return out, nil
	}
	if r.Shape != nil {
		if err := j.SaveDocument(ctx, shapeFile, r.Shape); err != nil {
			return out, err
		}
	}
	return out, j.SavePrediction(ctx, in.Round, s.predict(ctx, in))
}

// shape is what the ranges' copies say of the repository: where they end and what lies in them.
func (in PublishCopyInput) shape() *s3copy.Shape {
	if len(in.Ranges) < 2 {
		return nil
	}
	known := &s3copy.Shape{}
	for _, c := range in.Ranges {
		known.Pieces = append(known.Pieces, s3copy.Piece{
			Through: c.Range.Through, Outside: c.Range.Outside, Objects: c.Copied + c.Skipped, Bytes: c.Bytes,
		})
	}
	return known
}

// copyCost is nil when nothing was asked of S3.
func copyCost(u s3copy.Usage, bytes int64, crossRegion bool) *migration.CopyCost {
	if u.Total() == 0 {
		return nil
	}
	c := u.Cost(bytes, crossRegion)
	return &migration.CopyCost{
		Lists: u.List, Reads: u.Read, Copies: u.Copy, Parts: u.Part, Writes: u.Write,
		Requests: c.List + c.Read + c.Copy, Transfer: c.Transfer, Total: c.Total,
	}
}

// predicting is how long reading file lists may take: some hundred thousand at 64 a time.
const predicting = 60 * time.Second

// predict says what the restore will move of each index. It fails no round: what cannot be read is unknown.
func (s PublishCopy) predict(ctx context.Context, in PublishCopyInput) journal.RestorePrediction {
	ctx, cancel := context.WithTimeout(ctx, predicting)
	defer cancel()
	out := journal.RestorePrediction{Indices: map[string]int64{}}
	unknown := func(err error) { out.Unknown = strings.TrimSpace(out.Unknown + " " + err.Error()) }
	r, err := records(ctx, s.Journal, in.RoundInput)
	if err != nil {
		unknown(err)
		return out
	}
	bases, err := s.bases(ctx, r)
	if err != nil {
		unknown(err)
		return out
	}
	reader := s.Blobs(r.plan.Spec.Destination.Repository)
	content, err := reader.Get(ctx, in.Root.Name)
	if err != nil {
		unknown(err)
		return out
	}
	root, err := repository.DecodeRoot(content)
	if err != nil {
		unknown(err)
		return out
	}
	next := migration.SnapshotName(in.Migration, in.Round)
	for _, previous := range slices.Sorted(maps.Keys(bases)) {
		shards, err := repository.PredictRestore(ctx, reader, root, previous, next, bases[previous])
		if err != nil {
			unknown(err)
			continue
		}
		for index, list := range shards {
			for _, x := range list {
				out.Indices[index] += x.Recovered
			}
		}
	}
	return out
}

// bases are the round's indices by the snapshot that their copies hold; "" is none, so that everything will move.
func (s PublishCopy) bases(ctx context.Context, r roundRecords) (map[string][]string, error) {
	holds, err := r.journal.Holds(ctx)
	if err != nil {
		return nil, err
	}
	copies, err := r.journal.Copies(ctx)
	if err != nil {
		return nil, err
	}
	p := r.inSnapshot()
	counting := held(holds, r.strategies, p)
	bases := map[string][]string{}
	for _, name := range p.Names() {
		h := counting[name]
		if now := r.checkpoints.Identities[name]; copies.CannotClose || h.UUID != now.UUID {
			h = journal.Hold{} // the copy is deleted before the restore; or another index, of whose files the copy has none
		}
		bases[h.Snapshot] = append(bases[h.Snapshot], name)
	}
	return bases, nil
}
