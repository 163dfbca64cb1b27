package s3copy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

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
// 1,000) of like weight: by want.Shape where the repository was listed before, otherwise by a look at its shards. Small repositories
// get fewer ranges. Call it when the snapshot is SUCCESS; a listing that is made after the root was read holds all that the root names.
//
// Faults: RepositoryCorrupt (no root document, an unreadable one, snapshot absent or not SUCCESS), DestinationOccupied (another
// repository's root documents at the destination), NotSupported (shallow snapshots, shards that are nowhere), AccessDenied,
// Throttled, Unavailable, InvalidInput.
func (c *Copier) Plan(ctx context.Context, from, to Location, want Want, ranges int) (Plan, error) {
	if err := check(from, to); err != nil {
		return Plan{}, err
	}
	s := c.newSession()
	ranges = min(max(ranges, 1), maxRanges)
	// What does not hang on each other is asked at once: this stands inside the write downtime.
	var source, destination roots
	var shape *Shape
	var shapeErr error
	var asking sync.WaitGroup
	asking.Go(func() { source = s.readNewest(ctx, s.Source, s.sourceLister, from) })
	asking.Go(func() { destination = s.readNewest(ctx, s.Destination, s.destinationLister, to) })
	if shape = want.Shape; shape == nil {
		asking.Go(func() { shape, shapeErr = s.sample(ctx, from, ranges) })
	}
	asking.Wait()
	switch {
	case source.err != nil:
		return Plan{}, source.err
	case source.document == nil:
		return Plan{}, fault.Newf(fault.RepositoryCorrupt, "plan copy", from.String(), "there is no root document (index-N) below this address").
			WithHint("Compare the address with the source repository's bucket and base_path (GET _snapshot/<repository>).")
	}
	plan := Plan{Root: source.newest}
	snapshot, err := wanted(source.document, from.address(plan.Root.Name), want)
	if err != nil {
		return Plan{}, err
	}
	if err := refuseForeign(to, destination, source, want); err != nil {
		return Plan{}, err
	}
	if shapeErr != nil {
		return Plan{}, shapeErr
	}
	var outside bool
	var shallowErr, outsideErr error
	asking.Go(func() { shallowErr = s.refuseShallow(ctx, from, source.document.IndicesOf(snapshot.UUID)) })
	asking.Go(func() { outside, outsideErr = s.outside(ctx, from, to, source.document.Indices) })
	asking.Wait()
	if shallowErr != nil {
		return Plan{}, shallowErr
	}
	if outsideErr != nil {
		return Plan{}, outsideErr
	}
	if outside && want.Shape == nil {
		shape.guessOutside()
	}
	plan.Ranges = shape.cut(ranges, outside)
	for i := range plan.Ranges {
		plan.Ranges[i].Share = len(plan.Ranges)
	}
	return plan, nil
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

// roots are the root documents of a location and what the newest of them holds.
type roots struct {
	all      []Root // by generation
	newest   Root
	content  []byte
	document *repository.Root // nil when there is none
	err      error
}

// readNewest reads the newest root document of a location.
func (s *session) readNewest(ctx context.Context, api S3, lister Lister, at Location) (r roots) {
	if r.all, r.err = s.roots(ctx, lister, at); r.err != nil || len(r.all) == 0 {
		return r
	}
	r.newest = r.all[len(r.all)-1]
	r.content, r.document, r.err = s.readRoot(ctx, api, at, r.newest)
	return r
}

// roots lists the root documents of a location, by generation.
func (s *session) roots(ctx context.Context, lister Lister, at Location) ([]Root, error) {
	var found []Root
	in := Listing{Bucket: at.Bucket, Prefix: at.key(repository.RootPrefix), Delimiter: "/"}
	for {
		page, err := s.page(ctx, lister, in)
		if err != nil {
			return nil, err
		}
		for _, o := range page.Objects {
			name := strings.TrimPrefix(o.Key, at.base())
			if generation, ok := repository.ParseRootName(name); ok {
				found = append(found, Root{Name: name, Generation: generation, ETag: o.ETag, Size: o.Size, LastModified: o.Modified.UTC()})
			}
		}
		if in.Token = page.Next; in.Token == "" {
			break
		}
	}
	// The listing is in byte order, where index-10 comes before index-9.
	slices.SortFunc(found, func(a, b Root) int { return cmp.Compare(a.Generation, b.Generation) })
	return found, nil
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
func refuseForeign(to Location, there, source roots, want Want) error {
	if len(there.all) == 0 {
		return there.err
	}
	if err := refuseNewer(to, there.newest, source.newest); err != nil {
		return err
	}
	if there.err != nil {
		return there.err
	}
	for _, snapshot := range there.document.Snapshots {
		_, ours := source.document.Snapshot(snapshot.Name, snapshot.UUID)
		if !ours && (want.OwnPrefix == "" || !strings.HasPrefix(snapshot.Name, want.OwnPrefix)) {
			return occupied(to, there.newest, fmt.Errorf("the repository there has the snapshot %s (%s), which the source does not have",
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
	return s.each(ctx, min(len(indices), probedIndices), func(ctx context.Context, i int) error {
		page, err := s.page(ctx, s.sourceLister, Listing{
			Bucket: from.Bucket, Prefix: from.key("indices/" + indices[i].ID + "/0/shallow-snap-"), Max: 1,
		})
		if err == nil && len(page.Objects) > 0 {
			err = shallow(from, strings.TrimPrefix(page.Objects[0].Key, from.base()))
		}
		return err
	})
}

// outside reports whether the repository has shards before its base path (shard_path_type HASHED_PREFIX of an s3 repository with a
// base path). A node's file system repository, and one whose base path is the whole bucket, has its hashed folders inside.
func (s *session) outside(ctx context.Context, from, to Location, indices []repository.Index) (bool, error) {
	at := slices.IndexFunc(indices, func(i repository.Index) bool { return i.ShardPathType == repository.PathHashedPrefix })
	if at < 0 {
		return false, nil
	}
	if from.Prefix == "" {
		if to.Prefix == "" {
			return false, nil
		}
		return false, fault.Newf(fault.NotSupported, "plan copy", from.String()+" to "+to.String(),
			"the shards of index %s lie in hashed folders of the bucket (shard_path_type HASHED_PREFIX), which cannot move below a base path", indices[at].Name).
			WithHint("Copy into a bucket of its own: leave the destination's base path empty, as the source's is.")
	}
	folders, err := s.folders(ctx, from, "")
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(folders, func(f string) bool {
		return f != indicesFolder && f != "snapshot_shard_paths/" && !strings.HasPrefix(f, "tests-")
	}) {
		return false, nil
	}
	listing := s.open(ctx, s.sourceLister, from, Range{Outside: true})
	defer listing.close()
	if _, found := listing.read(); !found {
		if listing.failed != nil {
			return false, listing.failed
		}
		return false, fault.Newf(fault.NotSupported, "plan copy", from.String(),
			"the shards of index %s lie outside the base path (shard_path_type HASHED_PREFIX), but no hashed folder in the bucket is theirs", indices[at].Name).
			WithHint("Register a new source repository with shard_path_type FIXED in an empty base path, and start a new execution with it.")
	}
	return true, nil
}

// folders lists the folders directly below a relative folder: full relative paths that end with a slash, in key order.
func (s *session) folders(ctx context.Context, from Location, under string) ([]string, error) {
	var folders []string
	in := Listing{Bucket: from.Bucket, Prefix: from.key(under), Delimiter: "/"}
	for {
		page, err := s.page(ctx, s.sourceLister, in)
		if err != nil {
			return nil, err
		}
		for _, p := range page.Folders {
			folders = append(folders, strings.TrimPrefix(p, from.base()))
		}
		if in.Token = page.Next; in.Token == "" {
			slices.Sort(folders)
			return folders, nil
		}
	}
}
