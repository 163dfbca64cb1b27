// Package journal keeps what a migration decided and did, as JSON objects in the deployment's own bucket:
//
//	executions/<execution name>.json              which migration an execution belongs to
//	leases/<host of a domain>.json                Lease: which execution acts on the domain
//	migrations/<name>/fence.json                  Fence: the execution that may act for the migration
//	migrations/<name>/plan.json                   migration.Plan
//	migrations/<name>/checkpoints/0003.json       Checkpoints, written before the round's snapshot
//	migrations/<name>/rounds/0003.json            migration.Round, written when the round is over
//	migrations/<name>/measures/0003.json          what the round moved, index -> migration.Measure
//	migrations/<name>/passes/0001.json            migration.Pass, written when the pass is over
//	migrations/<name>/strategies.json             migration.Strategies: which indices are on replay
//	migrations/<name>/replay/...                  the replay's plans, results and states
//	migrations/<name>/copies.json                 Copies: indices this migration made at the destination
//	migrations/<name>/holds.json                  what each copy holds, index -> Hold
//	migrations/<name>/changes.json                []migration.Change: what the migration followed at the source
//	migrations/<name>/predictions/0003.json       RestorePrediction, written before the round's restore
//	migrations/<name>/freeze.json                 Freeze: what was blocked and how it was before
//	migrations/<name>/verification.json           migration.Verification of the last cut-over
//	migrations/<name>/decision.json               migration.Decision, the last one
//	migrations/<name>/report.json                 report.Report
//	migrations/<name>/undo/<host>-<setting>.json  Undo: a setting that is changed, and how it was before
//	migrations/<name>/back/...                    all of this for the way back after the hand-over (migration.WayBack)
//
// S3 is strongly consistent; write-once objects use If-None-Match, so that a repeated step keeps what the first attempt wrote.
package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
)

// S3 is what the journal needs of the S3 client.
type S3 interface {
	GetObject(context.Context, *s3.GetObjectInput, ...func(*s3.Options)) (*s3.GetObjectOutput, error)
	PutObject(context.Context, *s3.PutObjectInput, ...func(*s3.Options)) (*s3.PutObjectOutput, error)
	ListObjectsV2(context.Context, *s3.ListObjectsV2Input, ...func(*s3.Options)) (*s3.ListObjectsV2Output, error)
}

// maximumObject bounds what is read of one journal object: a plan of some 100,000 indices.
const maximumObject = 64 << 20

// Store is the journal bucket.
type Store struct {
	client     S3
	bucket     string
	executions Executions
}

// NewStore returns the store in bucket.
func NewStore(client S3, bucket string) *Store { return &Store{client: client, bucket: bucket} }

// Asking returns the store with somebody to ask whether an execution still runs; without, none is ever known to have ended.
func (s *Store) Asking(e Executions) *Store {
	return &Store{client: s.client, bucket: s.bucket, executions: e}
}

// Journal is one migration's folder.
type Journal struct {
	store     *Store
	migration string
}

// Migration returns the folder of the migration of that name.
func (s *Store) Migration(name string) *Journal { return &Journal{s, name} }

// Owner says which migration an execution belongs to.
type Owner struct {
	Migration string `json:"migration"`
	Execution string `json:"execution"`
}

// RecordOwner notes that the execution (an ARN) belongs to the migration, for those who know only the execution: the rule that
// gives writes back when an execution fails, times out or is stopped.
func (s *Store) RecordOwner(ctx context.Context, o Owner) error {
	return s.put(ctx, ownerKey(o.Execution), o)
}

// Owner finds the migration of an execution; found is false when the execution never got past preflight.
func (s *Store) Owner(ctx context.Context, execution string) (o Owner, found bool, err error) {
	found, err = s.get(ctx, ownerKey(execution), &o)
	return o, found, err
}

func ownerKey(execution string) string {
	return "executions/" + strings.NewReplacer(":", "_", "/", "_").Replace(execution) + ".json"
}

func (j *Journal) key(parts ...string) string {
	return path.Join(append([]string{"migrations", j.migration}, parts...)...)
}

// SavePlan replaces the plan.
func (j *Journal) SavePlan(ctx context.Context, p migration.Plan) error {
	return j.store.put(ctx, j.key("plan.json"), p)
}

// Plan reads the plan, and is the fence: it lets a step of the execution go on only while the execution may act. When the plan
// belongs to a newer one, or the execution has ended, the fault is Superseded; when there is no plan, JournalMissing. An execution that
// was redriven after its end takes its domains again, unless another one has them (DomainTaken). An empty execution, a round that a
// schedule starts, takes the plan as it is and no domain, and is refused while an execution has one of them.
func (j *Journal) Plan(ctx context.Context, execution string) (migration.Plan, error) {
	var p migration.Plan
	var f Fence
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { p, err = j.ReadPlan(groupCtx); return err })
	group.Go(func() (err error) { f, err = j.Fence(groupCtx); return err })
	err := group.Wait()
	switch {
	case err != nil:
		return p, err
	case execution == "":
		return p, j.alone(ctx, p)
	case execution != p.Execution:
		return p, fault.Newf(fault.Superseded, "act for migration "+j.migration, "execution "+execution, "the plan now belongs to %s", p.Execution)
	case f.Execution == execution && !f.EndedAt.IsZero():
		return p, j.resume(ctx, f)
	}
	return p, nil
}

// alone refuses a round that a schedule starts where it would harm: while an execution has a domain, and once the destination takes
// writes.
func (j *Journal) alone(ctx context.Context, p migration.Plan) error {
	f, found, err := j.Freeze(ctx)
	if err != nil {
		return err
	}
	if found && (f.State == HandedOver || f.State == HandingOver || f.State == WentBack) {
		return fault.Newf(fault.DestinationOccupied, "keep the destination warm", p.Spec.Destination.Endpoint, "migration %q is over: it takes writes since %s", j.migration, f.EndedAt.Format(time.RFC3339)).
			WithHint("Remove the schedule of this round; it would restore over what clients have written.")
	}
	return j.store.free(ctx, p.Spec.Source.Endpoint, p.Spec.Destination.Endpoint)
}

// ReadPlan reads the plan, for those who act for no execution. When there is none the fault is JournalMissing.
func (j *Journal) ReadPlan(ctx context.Context) (migration.Plan, error) {
	var p migration.Plan
	found, err := j.store.get(ctx, j.key("plan.json"), &p)
	if err == nil && !found {
		err = fault.Newf(fault.JournalMissing, "read plan", j.store.bucket+"/"+j.key("plan.json"), "there is none for migration %q", j.migration)
	}
	return p, err
}

// Checkpoints are the source's global checkpoints, index -> one per shard, read before a round's snapshot. Everything at or
// below them is in the snapshot (replay.md, step 0).
type Checkpoints struct {
	Round    int                `json:"round"`
	ReadAt   time.Time          `json:"readAt"`
	PerShard map[string][]int64 `json:"perShard"`
	// Identities are which indices these were and how they were described, read before the snapshot too.
	Identities map[string]Identity `json:"identities,omitempty"`
	// Unchanged are indices whose copies hold everything already. They are in PerShard, and not in the round's snapshot.
	Unchanged []string `json:"unchanged,omitempty"`
}

// Identity tells an index from another one of its name, and from itself with another description.
type Identity struct {
	UUID        string   `json:"uuid"`
	Histories   []string `json:"histories,omitempty"` // history uuid per shard; empty where the engine does not tell
	Description string   `json:"description"`         // digest of mapping, aliases and settings
}

// InSnapshot are the indices that the round's snapshot holds, in order.
func (c Checkpoints) InSnapshot() []string {
	unchanged := map[string]bool{}
	for _, x := range c.Unchanged {
		unchanged[x] = true
	}
	var names []string
	for x := range c.PerShard {
		if !unchanged[x] {
			names = append(names, x)
		}
	}
	slices.Sort(names)
	return names
}

// MergeCheckpoints keeps the first record of an index in a round: an older checkpoint is the safe one when a snapshot is started
// twice, and what the first request asked for stays in it. Indices that the first record did not have, or knew as another index of
// that name, are added. It returns what is recorded then.
func (j *Journal) MergeCheckpoints(ctx context.Context, c Checkpoints) (Checkpoints, error) {
	key := j.key("checkpoints", roundFile(c.Round))
	first, found, err := j.Checkpoints(ctx, c.Round)
	if err != nil {
		return c, err
	}
	if !found {
		return c, j.store.putOnce(ctx, key, c)
	}
	changed := false
	for index, shards := range c.PerShard {
		_, known := first.PerShard[index]
		if a, b := first.Identities[index].UUID, c.Identities[index].UUID; known && (a == b || a == "" || b == "") {
			if slices.Contains(first.Unchanged, index) && !slices.Contains(c.Unchanged, index) {
				first.Unchanged, changed = slices.DeleteFunc(first.Unchanged, func(x string) bool { return x == index }), true
			}
			continue
		}
		if first.PerShard == nil {
			first.PerShard = map[string][]int64{}
		}
		if first.Identities == nil {
			first.Identities = map[string]Identity{}
		}
		first.PerShard[index], first.Identities[index], changed = shards, c.Identities[index], true
		first.Unchanged = slices.DeleteFunc(first.Unchanged, func(x string) bool { return x == index })
		if slices.Contains(c.Unchanged, index) {
			first.Unchanged = append(first.Unchanged, index)
		}
	}
	if !changed {
		return first, nil
	}
	return first, j.store.put(ctx, key, first)
}

// Checkpoints reads the record of a round.
func (j *Journal) Checkpoints(ctx context.Context, round int) (c Checkpoints, found bool, err error) {
	found, err = j.store.get(ctx, j.key("checkpoints", roundFile(round)), &c)
	return c, found, err
}

func roundFile(round int) string { return fmt.Sprintf("%04d.json", round) }

// SaveRound records a finished round. Recording it again replaces it.
func (j *Journal) SaveRound(ctx context.Context, r migration.Round) error {
	return j.store.put(ctx, j.key("rounds", roundFile(r.Number)), r)
}

// Rounds reads all recorded rounds in order.
func (j *Journal) Rounds(ctx context.Context) ([]migration.Round, error) {
	rounds, err := all[migration.Round](ctx, j, "rounds")
	// Above 9999 the keys' byte order is not the rounds'.
	slices.SortFunc(rounds, func(a, b migration.Round) int { return a.Number - b.Number })
	return rounds, err
}

// SavePass records a finished pass of the replay. Recording it again replaces it.
func (j *Journal) SavePass(ctx context.Context, p migration.Pass) error {
	return j.store.put(ctx, j.key("passes", roundFile(p.Number)), p)
}

// Passes reads all recorded passes in order.
func (j *Journal) Passes(ctx context.Context) ([]migration.Pass, error) {
	passes, err := all[migration.Pass](ctx, j, "passes")
	slices.SortFunc(passes, func(a, b migration.Pass) int { return a.Number - b.Number })
	return passes, err
}

// all reads every object of a folder, some side by side.
func all[T any](ctx context.Context, j *Journal, folder string) ([]T, error) {
	keys, err := j.store.list(ctx, j.key(folder)+"/")
	if err != nil {
		return nil, err
	}
	list := make([]T, len(keys))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i, k := range keys {
		group.Go(func() error { _, err := j.store.get(ctx, k, &list[i]); return err })
	}
	return list, group.Wait()
}

// Measures reads what a round moved of each index; none yet is an empty map.
func (j *Journal) Measures(ctx context.Context, round int) (map[string]migration.Measure, error) {
	m := map[string]migration.Measure{}
	_, err := j.store.get(ctx, j.key("measures", roundFile(round)), &m)
	return m, err
}

// SaveMeasures replaces the record of a round.
func (j *Journal) SaveMeasures(ctx context.Context, round int, m map[string]migration.Measure) error {
	return j.store.put(ctx, j.key("measures", roundFile(round)), m)
}

// Strategies reads which indices are on replay; none yet is empty.
func (j *Journal) Strategies(ctx context.Context) (migration.Strategies, error) {
	var s migration.Strategies
	_, err := j.store.get(ctx, j.key("strategies.json"), &s)
	return s, err
}

// SaveStrategies replaces the record.
func (j *Journal) SaveStrategies(ctx context.Context, s migration.Strategies) error {
	return j.store.put(ctx, j.key("strategies.json"), s)
}

// Copies are the indices that this migration made, or is about to make, at the destination. A name is recorded before the
// restore that creates it; only recorded names are ever closed or restored over.
type Copies struct {
	Indices []string `json:"indices"`
	// Removed are those whose index is gone at the source, so that the copy is to be deleted. Nothing else is ever deleted but what is
	// restored anew at once.
	Removed []string `json:"removed,omitempty"`
	// Streams are the data streams that this migration made there with a final restore, or is about to. Such a stream is deleted before
	// its indices are restored anew: its write index cannot be closed.
	Streams []string `json:"streams,omitempty"`
	// CannotClose is set once the domain has refused to close an index: copies are deleted and restored anew there.
	CannotClose bool `json:"cannotClose,omitempty"`
}

// Hold is what a copy at the destination holds: everything of the source's index as the round's checkpoints had it.
type Hold struct {
	Round       int     `json:"round"`
	Snapshot    string  `json:"snapshot"`
	Checkpoints []int64 `json:"checkpoints"` // per shard, read before the snapshot
	Identity
	CopyUUID string `json:"copyUuid,omitempty"` // of the index at the destination; empty when it was not looked at
	// Ready copies are open, started and have the source's aliases: nothing is left to do to them in a cut-over.
	Ready bool `json:"ready,omitempty"`
}

// SaveHolds replaces the record.
func (j *Journal) SaveHolds(ctx context.Context, h map[string]Hold) error {
	return j.store.put(ctx, j.key("holds.json"), h)
}

// Holds reads the record; none yet is an empty one.
func (j *Journal) Holds(ctx context.Context) (map[string]Hold, error) {
	h := map[string]Hold{}
	_, err := j.store.get(ctx, j.key("holds.json"), &h)
	return h, err
}

// RecordChanges adds to the record of what was followed; what is there already is not added again.
func (j *Journal) RecordChanges(ctx context.Context, changes []migration.Change) error {
	list, err := j.Changes(ctx)
	if err != nil {
		return err
	}
	before := len(list)
	for _, c := range changes {
		if !slices.ContainsFunc(list, func(x migration.Change) bool { return x.Round == c.Round && x.Index == c.Index && x.What == c.What }) {
			list = append(list, c)
		}
	}
	if len(list) == before {
		return nil
	}
	return j.store.put(ctx, j.key("changes.json"), list)
}

// Changes reads what the migration followed at the source, in order; none yet is empty.
func (j *Journal) Changes(ctx context.Context) ([]migration.Change, error) {
	var list []migration.Change
	_, err := j.store.get(ctx, j.key("changes.json"), &list)
	return list, err
}

// RestorePrediction is what the repository's file lists say that a round's restore will move, in bytes.
type RestorePrediction struct {
	Indices map[string]int64 `json:"indices"`
	Unknown string           `json:"unknown,omitempty"` // why it does not speak of all indices
}

// SavePrediction replaces the record of a round.
func (j *Journal) SavePrediction(ctx context.Context, round int, p RestorePrediction) error {
	return j.store.put(ctx, j.key("predictions", roundFile(round)), p)
}

// Prediction reads the record of a round; found is false when nothing was predicted.
func (j *Journal) Prediction(ctx context.Context, round int) (p RestorePrediction, found bool, err error) {
	found, err = j.store.get(ctx, j.key("predictions", roundFile(round)), &p)
	return p, found, err
}

// SaveCopies replaces the record.
func (j *Journal) SaveCopies(ctx context.Context, c Copies) error {
	return j.store.put(ctx, j.key("copies.json"), c)
}

// Copies reads the record; none yet is an empty one.
func (j *Journal) Copies(ctx context.Context) (Copies, error) {
	var c Copies
	_, err := j.store.get(ctx, j.key("copies.json"), &c)
	return c, err
}

// FreezeState says who takes writes.
type FreezeState string

// The states of a freeze.
const (
	Frozen      FreezeState = "frozen"      // the source is blocked, or about to be
	Thawed      FreezeState = "thawed"      // the source takes writes again
	HandingOver FreezeState = "handingOver" // the verified destination is being opened
	HandedOver  FreezeState = "handedOver"  // the verified destination takes writes; the source stays blocked on purpose
	// WentBack is after HandedOver: the source takes writes again and has all that the destination had taken; that one stays blocked.
	WentBack FreezeState = "wentBack"
)

// Freeze is the inverse of the write block, recorded before the block is set.
type Freeze struct {
	Execution string            `json:"execution"`
	State     FreezeState       `json:"state"`
	Before    map[string]string `json:"before"` // index -> index.blocks.write before, "" when it was not set
	StartedAt time.Time         `json:"startedAt"`
	ProvenAt  time.Time         `json:"provenAt,omitzero"`
	EndedAt   time.Time         `json:"endedAt,omitzero"` // thawed or handed over
	// NotBlocked: the operator has stopped the clients, and no block is set.
	NotBlocked bool `json:"notBlocked,omitempty"`
	// Proven are the source's highest sequence numbers, index -> one per shard, once writes had stopped.
	Proven map[string][]int64 `json:"proven,omitempty"`
	// SettledAt is when the destination's indices had replicas and refresh as planned, after the hand-over.
	SettledAt time.Time `json:"settledAt,omitzero"`
	// GreenAt is when every copy of every shard was first seen there after that, where the input waits for it.
	GreenAt    time.Time `json:"greenAt,omitzero"`
	Prediction *float64  `json:"predictedSeconds,omitempty"`
	// Unchanged are the indices on rounds whose copies already hold everything, by sequence number and description: the final round
	// leaves them out.
	Unchanged []string `json:"unchanged,omitempty"`
	// Sealed are the destination's highest sequence numbers, index -> one per shard, before the first index there was opened: a
	// higher one later is an acknowledged write.
	Sealed map[string][]int64 `json:"sealed,omitempty"`
	// SealedAs are which indices, and which histories of their shards, those numbers are of, for a way back.
	SealedAs map[string]Identity `json:"sealedAs,omitempty"`
	// WentBackAt is when the source took writes again after a hand-over.
	WentBackAt time.Time `json:"wentBackAt,omitzero"`
}

// SaveFreeze replaces the record.
func (j *Journal) SaveFreeze(ctx context.Context, f Freeze) error {
	return j.store.put(ctx, j.key("freeze.json"), f)
}

// Freeze reads the record; found is false when this migration never froze anything.
func (j *Journal) Freeze(ctx context.Context) (f Freeze, found bool, err error) {
	found, err = j.store.get(ctx, j.key("freeze.json"), &f)
	return f, found, err
}

// Documents that other packages define and the journal only keeps.
const (
	VerificationFile = "verification.json"
	DecisionFile     = "decision.json"
	ReportFile       = "report.json"
)

// SaveDocument replaces one of the named documents.
func (j *Journal) SaveDocument(ctx context.Context, file string, v any) error {
	return j.store.put(ctx, j.key(file), v)
}

// Document reads one of the named documents into v.
func (j *Journal) Document(ctx context.Context, file string, v any) (found bool, err error) {
	return j.store.get(ctx, j.key(file), v)
}

func (s *Store) put(ctx context.Context, key string, v any) error {
	return s.write(ctx, key, v, condition{})
}

// putOnce writes the object unless there is one.
func (s *Store) putOnce(ctx context.Context, key string, v any) error {
	err := s.write(ctx, key, v, condition{ifNoneMatch: true})
	var api smithy.APIError
	// A ConditionalRequestConflict is another writer under way, who may still fail: the step asks again.
	if errors.As(err, &api) && api.ErrorCode() == "PreconditionFailed" {
		return nil
	}
	return err
}

func (s *Store) write(ctx context.Context, key string, v any, c condition) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("journal: encode %s: %w", key, err)
	}
	ifMatch, ifNoneMatch := c.headers()
	_, err = s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &key, Body: bytes.NewReader(body), ContentType: aws.String("application/json"), IfMatch: ifMatch, IfNoneMatch: ifNoneMatch,
	})
	return s.classify(err, "write journal", key)
}

func (s *Store) get(ctx context.Context, key string, v any) (found bool, err error) {
	_, found, err = s.read(ctx, key, v)
	return found, err
}

// read is get with the object's entity tag.
func (s *Store) read(ctx context.Context, key string, v any) (tag string, found bool, err error) {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.bucket, Key: &key})
	var none *types.NoSuchKey
	if errors.As(err, &none) {
		return "", false, nil
	}
	if err != nil {
		return "", false, s.classify(err, "read journal", key)
	}
	defer out.Body.Close()
	body, err := io.ReadAll(io.LimitReader(out.Body, maximumObject))
	if err != nil {
		return "", false, fault.New(fault.Unavailable, "read journal", s.bucket+"/"+key, err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return "", false, fault.New(fault.Unclassified, "read journal", s.bucket+"/"+key, err).WithHint("The object is not what Domain Ferry wrote; restore an older version of it (the bucket is versioned).")
	}
	return aws.ToString(out.ETag), true, nil
}

func (s *Store) list(ctx context.Context, prefix string) ([]string, error) {
	var keys []string
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, s.classify(err, "list journal", prefix)
		}
		for _, o := range page.Contents {
			keys = append(keys, aws.ToString(o.Key))
		}
	}
	return keys, nil
}

// classify turns an S3 error into a fault; journal writes are whole-object replacements, so repeating one is always safe.
func (s *Store) classify(err error, op, key string) error {
	if err == nil {
		return nil
	}
	name := fault.Unavailable
	var api smithy.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "PermanentRedirect", "AuthorizationHeaderMalformed":
			name = fault.AccessDenied
		case "SlowDown", "ServiceUnavailable", "RequestLimitExceeded":
			name = fault.Throttled
		}
	}
	return fault.New(name, op, s.bucket+"/"+key, err)
}
