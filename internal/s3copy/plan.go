package s3copy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/repository"
)

// probedIndices is the number of a snapshot's indices that Plan looks at for shallow snapshots, so as to refuse them early;
// CopyRange refuses any that are left.
const probedIndices = 100

// maxRanges keeps a plan's ranges inside a state's 256 KiB with room to spare.
const maxRanges = 1000

// Plan reads the source's newest root document, makes sure that it holds the wanted snapshot whole and that the destination is
// free or holds an earlier copy of the same repository, and cuts the key space into at most the given number of ranges (1 to
// 1,000) along indices and shards. Call it when the snapshot is SUCCESS; a listing that is made after the root was read holds
// all that the root names.
//
// Faults: RepositoryCorrupt (no root document, an unreadable one, snapshot absent or not SUCCESS), DestinationOccupied (another
// repository's root documents at the destination), NotSupported (shallow snapshots, data outside the base path), AccessDenied,
// Throttled, Unavailable, InvalidInput.
func (c *Copier) Plan(ctx context.Context, from, to Location, want Want, ranges int) (Plan, error) {
	if err := check(from, to); err != nil {
		return Plan{}, err
	}
	s := c.newSession()
	roots, err := s.roots(ctx, c.Source, from)
	if err != nil {
		return Plan{}, err
	}
	if len(roots) == 0 {
		return Plan{}, fault.Newf(fault.RepositoryCorrupt, "plan copy", from.String(), "there is no root document (index-N) below this address").
			WithHint("Compare the address with the source repository's bucket and base_path (GET _snapshot/<repository>).")
	}
	plan := Plan{Root: roots[len(roots)-1]}
	_, root, err := s.readRoot(ctx, c.Source, from, plan.Root)
	if err != nil {
		return Plan{}, err
	}
	snapshot, err := wanted(root, from.address(plan.Root.Name), want)
	if err != nil {
		return Plan{}, err
	}
	if err := s.refuseForeign(ctx, to, plan.Root, root, want); err != nil {
		return Plan{}, err
	}
	indices := root.IndicesOf(snapshot.UUID)
	if err := s.refuseShallow(ctx, from, indices); err != nil {
		return Plan{}, err
	}
	folders, err := s.folders(ctx, from, "")
	if err != nil {
		return Plan{}, err
	}
	if err := refuseOutside(from, indices, folders); err != nil {
		return Plan{}, err
	}
	plan.Ranges, err = s.cut(ctx, from, min(max(ranges, 1), maxRanges))
	return plan, err
}

// wanted finds the snapshot in a root document.
func wanted(root *repository.Root, target string, want Want) (repository.Snapshot, error) {
	snapshot, ok := root.Snapshot(want.SnapshotName, want.SnapshotUUID)
	if !ok {
		return snapshot, fault.Newf(fault.RepositoryCorrupt, "look for snapshot "+want.SnapshotName, target,
			"the root document does not hold it%s", uuidNote(want.SnapshotUUID)).
			WithHint("Compare bucket and base_path with the source repository's (GET _snapshot/<repository>), and check that no second domain writes there.")
	}
	if snapshot.State != repository.StateSuccess && snapshot.State != repository.StateUnknown {
		return snapshot, fault.Newf(fault.RepositoryCorrupt, "look for snapshot "+want.SnapshotName, target,
			"its state is %s, not SUCCESS", snapshot.State)
	}
	return snapshot, nil
}

func uuidNote(uuid string) string {
	if uuid == "" {
		return ""
	}
	return " under the uuid " + uuid
}

// roots lists the root documents of a location, by generation.
func (s *session) roots(ctx context.Context, api S3, at Location) ([]Root, error) {
	var roots []Root
	var token *string
	for {
		page, err := s.page(ctx, api, at, s3.ListObjectsV2Input{
			Prefix: aws.String(at.key(repository.RootPrefix)), Delimiter: aws.String("/"), ContinuationToken: token,
		})
		if err != nil {
			return nil, err
		}
		for _, o := range page.Contents {
			name := strings.TrimPrefix(aws.ToString(o.Key), at.base())
			if generation, ok := repository.ParseRootName(name); ok {
				root := Root{Name: name, Generation: generation, ETag: aws.ToString(o.ETag), Size: aws.ToInt64(o.Size)}
				if o.LastModified != nil {
					root.LastModified = o.LastModified.UTC()
				}
				roots = append(roots, root)
			}
		}
		if token = page.NextContinuationToken; !aws.ToBool(page.IsTruncated) || token == nil {
			break
		}
	}
	// The listing is in byte order, where index-10 comes before index-9.
	slices.SortFunc(roots, func(a, b Root) int { return int(min(max(a.Generation-b.Generation, -1), 1)) })
	return roots, nil
}

// readRoot fetches and decodes a root document.
func (s *session) readRoot(ctx context.Context, api S3, at Location, r Root) ([]byte, *repository.Root, error) {
	content, found, err := s.read(ctx, api, at, r.Name, repository.MaxRootSize)
	if err != nil {
		return nil, nil, err
	}
	if !found {
		return nil, nil, fault.Newf(fault.RepositoryCorrupt, "read root document", at.address(r.Name), "it vanished after it was listed").
			WithHint("Another snapshot was taken or deleted at this moment; redrive. If it happens again, another domain writes into this repository.")
	}
	root, err := repository.DecodeRoot(content)
	if err != nil {
		return nil, nil, fault.New(fault.RepositoryCorrupt, "read root document", at.address(r.Name), err)
	}
	return content, root, nil
}

// refuseForeign refuses a destination whose newest root document is not an earlier (or the same) state of the source's.
func (s *session) refuseForeign(ctx context.Context, to Location, newest Root, source *repository.Root, want Want) error {
	roots, err := s.roots(ctx, s.Destination, to)
	if err != nil || len(roots) == 0 {
		return err
	}
	there := roots[len(roots)-1]
	if err := refuseNewer(to, there, newest); err != nil {
		return err
	}
	_, root, err := s.readRoot(ctx, s.Destination, to, there)
	if err != nil {
		return err
	}
	for _, snapshot := range root.Snapshots {
		_, ours := source.Snapshot(snapshot.Name, snapshot.UUID)
		if !ours && (want.OwnPrefix == "" || !strings.HasPrefix(snapshot.Name, want.OwnPrefix)) {
			return occupied(to, there, fmt.Errorf("the repository there has the snapshot %s (%s), which the source does not have",
				snapshot.Name, snapshot.UUID))
		}
	}
	return nil
}

// refuseNewer refuses a destination that is ahead of the source: its root would hide the one that is to be published.
func refuseNewer(to Location, there, newest Root) error {
	if there.Generation <= newest.Generation {
		return nil
	}
	return occupied(to, there, fmt.Errorf("the repository there is at generation %d, the source only at %d: it is not a copy of the source",
		there.Generation, newest.Generation))
}

func occupied(to Location, there Root, cause error) error {
	return fault.New(fault.DestinationOccupied, "plan copy", to.address(there.Name), cause).
		WithHint("Choose an empty base path for this migration, or remove that repository if nobody needs it; Domain Ferry never overwrites what it did not make.")
}

// refuseShallow looks at the first shard of the snapshot's first indices.
func (s *session) refuseShallow(ctx context.Context, from Location, indices []repository.Index) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	probes := make(chan repository.Index)
	done := make(chan struct{})
	const probers = 16
	for range probers {
		go func() {
			defer func() { done <- struct{}{} }()
			for index := range probes {
				page, err := s.page(ctx, s.Source, from, s3.ListObjectsV2Input{
					Prefix: aws.String(from.key("indices/" + index.ID + "/0/shallow-snap-")), MaxKeys: aws.Int32(1),
				})
				if err == nil && len(page.Contents) > 0 {
					err = shallow(from, strings.TrimPrefix(aws.ToString(page.Contents[0].Key), from.base()))
				}
				if err != nil {
					cancel(err)
				}
			}
		}()
	}
	for _, index := range indices[:min(len(indices), probedIndices)] {
		probes <- index
	}
	close(probes)
	for range probers {
		<-done
	}
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return ctx.Err()
}

// refuseOutside refuses repositories with shard data outside the base path (shard_path_type HASHED_PREFIX of an s3 repository
// with a base path): it would be a copy without data. In a whole-bucket repository the hashed folders are inside.
func refuseOutside(from Location, indices []repository.Index, folders []string) error {
	hashed := slices.IndexFunc(indices, func(i repository.Index) bool { return i.ShardPathType == repository.PathHashedPrefix })
	if hashed < 0 || slices.ContainsFunc(folders, func(f string) bool {
		return f != "indices/" && f != "snapshot_shard_paths/" && !strings.HasPrefix(f, "tests-")
	}) {
		return nil
	}
	return fault.Newf(fault.NotSupported, "plan copy", from.String(),
		"the shards of index %s lie outside the base path (shard_path_type HASHED_PREFIX)", indices[hashed].Name).
		WithHint("Register a new source repository with shard_path_type FIXED in an empty base path, and start a new execution with it.")
}

// folders lists the folders directly below a relative folder: full relative paths that end with a slash, in key order.
func (s *session) folders(ctx context.Context, from Location, under string) ([]string, error) {
	var folders []string
	var token *string
	for {
		page, err := s.page(ctx, s.Source, from, s3.ListObjectsV2Input{
			Prefix: optional(from.key(under)), Delimiter: aws.String("/"), ContinuationToken: token,
		})
		if err != nil {
			return nil, err
		}
		for _, p := range page.CommonPrefixes {
			folders = append(folders, strings.TrimPrefix(aws.ToString(p.Prefix), from.base()))
		}
		if token = page.NextContinuationToken; !aws.ToBool(page.IsTruncated) || token == nil {
			slices.Sort(folders)
			return folders, nil
		}
	}
}

const indicesFolder = "indices/"

// cut splits the key space between index folders, and between shard folders when there are fewer indices than ranges. The cuts
// are ends of folders ("indices/<id>0", as '0' follows '/'), so whatever is listed later falls into exactly one range.
func (s *session) cut(ctx context.Context, from Location, ranges int) ([]Range, error) {
	if ranges == 1 {
		return []Range{{}}, nil
	}
	folders, err := s.folders(ctx, from, indicesFolder)
	if err != nil {
		return nil, err
	}
	if len(folders) < ranges-1 {
		var shards []string
		for _, folder := range folders {
			below, err := s.folders(ctx, from, folder)
			if err != nil {
				return nil, err
			}
			shards = append(shards, below...)
			if len(below) == 0 {
				shards = append(shards, folder)
			}
		}
		slices.Sort(shards)
		folders = shards
	}
	return cutAt(folders, ranges), nil
}

// cutAt makes ranges that hold equal numbers of folders; the last one is what follows indices/, the metadata of the snapshots.
func cutAt(folders []string, ranges int) []Range {
	groups := min(ranges-1, len(folders))
	var cuts []string
	for g := 1; g < groups; g++ {
		cuts = append(cuts, endOf(folders[g*len(folders)/groups-1]))
	}
	cuts = append(cuts, endOf(indicesFolder))
	var made []Range
	after := ""
	for _, through := range cuts {
		made = append(made, Range{After: after, Through: through})
		after = through
	}
	return append(made, Range{After: after})
}

// endOf returns the lowest string above every key in a folder.
func endOf(folder string) string { return strings.TrimSuffix(folder, "/") + "0" }
