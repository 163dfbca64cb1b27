package s3copy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
)

// As OpenSearch 3.7.0 itself computes it (RemoteStoreEnums.PathType.HASHED_PREFIX.path of a SnapshotShardPathInput).
func TestShardHash(t *testing.T) {
	for _, tt := range []struct{ id, shard, hash string }{
		{"Xa-_0000000000000000aa", "0", "j01000000111101"},
		{"Xa-_0000000000000000aa", "1", "Z00110000110001"},
		{"Xa-_0000000000000000aa", "10", "m00011010111000"},
		{"b0000000000000000000bb", "0", "500100001000101"},
		{"b0000000000000000000bb", "1", "M01000011111010"},
	} {
		rest := "indices/" + tt.id + "/" + tt.shard + "/__x"
		if got := shardHash(tt.shard + tt.id); got != tt.hash || !hashed(tt.hash, rest) || !hashed("prefix-"+tt.hash, rest) {
			t.Errorf("%s/%s: %s, want %s", tt.id, tt.shard, got, tt.hash)
		}
		for folder, below := range map[string]string{
			tt.hash[1:]: rest, tt.hash + "x": rest, tt.hash: "indices/" + tt.id + "/7/__x", "backup": rest, "": rest,
		} {
			if hashed(folder, below) {
				t.Errorf("%s/%s is taken for a shard's", folder, below)
			}
		}
	}
}

func TestSpaceKeepsTheOrder(t *testing.T) {
	outside := Range{Outside: true}.space(Location{"b", "base/path"})
	hashes := []string{shardHash("0a"), shardHash("1a"), shardHash("0b"), "p-" + shardHash("0a")}
	var logical []string
	for i, h := range hashes {
		shard := []string{"a/0", "a/1", "b/0", "a/0"}[i]
		for _, blob := range []string{"__x", "-", "snap-x.dat"} {
			logical = append(logical, h+"/indices/"+shard+"/"+blob)
		}
	}
	slices.Sort(logical)
	var full []string
	for _, key := range logical {
		f := outside.full(key)
		full = append(full, f)
		if back, ours := outside.logical(f); !ours || back != key {
			t.Errorf("%s is %s, which is %s (%v)", key, f, back, ours)
		}
	}
	if !slices.IsSorted(full) || !strings.Contains(full[0], "/base/path/indices/") {
		t.Errorf("%q", full)
	}
	for _, foreign := range []string{"base/path/indices/a/0/__x", "backup/base/path/indices/a/0/__x", hashes[0] + "/other/indices/a/0/__x", "top", "a/b", "z/"} {
		if key, ours := outside.logical(foreign); ours {
			t.Errorf("%s is taken for %s", foreign, key)
		}
		// Nothing of ours may lie between a foreign key and where the listing goes on.
		next := outside.skip(foreign)
		if next < foreign {
			t.Errorf("after %s the listing goes back to %s", foreign, next)
		}
		for _, key := range full {
			if foreign < key && key <= next {
				t.Errorf("after %s the listing goes on at %s, behind %s", foreign, next, key)
			}
		}
	}
}

// hashedRepository moves the shards of a test repository to where OpenSearch 3.2 and newer put them: before the base path.
func hashedRepository(f *fakeS3, at Location) *testRepository {
	move := func(key string) string {
		parts := strings.SplitN(key, "/", 4)
		if len(parts) < 4 || parts[0] != "indices" {
			return at.key(key)
		}
		return Range{Outside: true}.space(at).full(shardHash(parts[2]+parts[1]) + "/" + key)
	}
	repo := newTestRepository(
		func(key, content string) { f.put(at.Bucket, move(key), content) },
		func(key string) { f.remove(at.Bucket, move(key)) })
	repo.pathType = 1
	return repo
}

func TestHashedShardPaths(t *testing.T) {
	for _, to := range []Location{there, {"destination", ""}, {"source", "copy"}} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeS3("source", "destination")
			repo := hashedRepository(f, here)
			// Others' objects all around, which look alike.
			var foreign []string
			for i := range 12 {
				foreign = append(foreign, fmt.Sprintf("%c-logs/2026/%d", "-0AZaz"[i%6], i), fmt.Sprintf("backup%d/%s/indices/Xa-_0000000000000000aa/0/__theirs", i, here.Prefix))
			}
			foreign = append(foreign, shardHash("0Xa-_0000000000000000aa")+"/another/indices/Xa-_0000000000000000aa/0/__theirs", "~", "0")
			for _, key := range foreign {
				f.put(here.Bucket, key, "not ours")
			}
			c := &Copier{Source: f, Destination: f}
			for round := 1; round <= 3; round++ {
				want := repo.snapshot(round)
				time.Sleep(time.Minute)
				result := mustFerry(t, c, here, to, want, 6)
				if wanted := len(repo.held) + len(repo.shards); result.Objects != int64(wanted) {
					t.Errorf("round %d: %d objects verified, want %d", round, result.Objects, wanted)
				}
				// Every object of the source has its place at the destination: the base path is another, the hash the same.
				source := f.contents(Location{Bucket: here.Bucket})
				destination := f.contents(Location{Bucket: to.Bucket})
				inside, outside := Range{}, Range{Outside: true}
				for key, content := range source {
					moved, ours := outside.space(here).logical(key)
					if ours {
						moved = outside.space(to).full(moved)
					} else if moved, ours = inside.space(here).logical(key); ours {
						moved = inside.space(to).full(moved)
					}
					if ours && destination[moved] != content {
						t.Errorf("round %d: %s is not at %s", round, key, moved)
					}
				}
				if to.Bucket != here.Bucket {
					for key := range destination {
						if slices.Contains(foreign, key) || strings.Contains(key, "theirs") {
							t.Errorf("%s was copied", key)
						}
					}
				}
				// The next round knows the shape, and cuts both sides by it.
				if result.Shape == nil || !slices.ContainsFunc(result.Shape.Pieces, func(p Piece) bool { return p.Outside && p.Objects > 0 }) {
					t.Errorf("round %d: shape %+v", round, result.Shape)
				}
			}
			// A blob outside that is missing hinders the publication as any other.
			want := repo.snapshot(4)
			plan, err := c.Plan(t.Context(), here, to, want, 4)
			if err != nil || !slices.ContainsFunc(plan.Ranges, func(r Range) bool { return r.Outside }) {
				t.Fatalf("%+v %v", plan, err)
			}
			for _, r := range plan.Ranges {
				if r.Outside {
					continue
				}
				if _, err := c.CopyRange(t.Context(), here, to, r, time.Time{}); err != nil {
					t.Fatal(err)
				}
			}
			if result, err := c.Publish(t.Context(), here, to, plan.Root, want); err != nil || result.Published || result.Missing == 0 {
				t.Errorf("%+v %v", result, err)
			}
		})
	}
}

func TestHashedShardPathsThatCannotMove(t *testing.T) {
	f := newFakeS3("source", "destination")
	from := Location{Bucket: "source"}
	repo := hashedRepository(f, from)
	want := repo.snapshot(1)
	before := maps.Clone(f.contents(there))
	_, err := (&Copier{Source: f, Destination: f}).Plan(t.Context(), from, there, want, 4)
	if !fault.Is(err, fault.NotSupported) || !strings.Contains(err.Error(), "HASHED_PREFIX") || !maps.Equal(before, f.contents(there)) {
		t.Errorf("out of a whole bucket below a base path: %v", err)
	}
}
