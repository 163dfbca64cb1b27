package s3copy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/repository"
)

var (
	here  = Location{Bucket: "source", Prefix: "base/path"}
	there = Location{Bucket: "destination", Prefix: "copy"}
)

// testRepository writes a repository into a store as a node does, generation by generation. A shard's snap-* lists its data
// blobs, one a line, so that a reader can follow it.
type testRepository struct {
	put      func(key, content string)
	remove   func(key string)
	root     map[string]any
	needs    map[int64][]string // by generation: every key that its readers need
	held     []string
	gen      int64
	previous string
	shards   []string // "indices/<id>/<shard>/"
	pathType int      // of the shards
}

func newTestRepository(put func(key, content string), remove func(key string)) *testRepository {
	return &testRepository{
		put: put, remove: remove, gen: -1, needs: map[int64][]string{},
		root: map[string]any{"min_version": "7.9.0", "snapshots": []any{}, "indices": map[string]any{}},
		shards: []string{
			"indices/Xa-_0000000000000000aa/0/", "indices/Xa-_0000000000000000aa/1/", "indices/Xa-_0000000000000000aa/10/",
			"indices/b0000000000000000000bb/0/",
		},
	}
}

func inFake(f *fakeS3, at Location) *testRepository {
	return newTestRepository(
		func(key, content string) { f.put(at.Bucket, at.key(key), content) },
		func(key string) { f.remove(at.Bucket, at.key(key)) })
}

// snapshot adds a snapshot: new data in every shard, then metadata, then the root, then the deletion of what it supersedes.
func (r *testRepository) snapshot(number int) Want {
	r.gen++
	name, uuid := fmt.Sprintf("ferry-r%04d", number), fmt.Sprintf("uuid-%d", number)
	write := func(key, content string) {
		r.put(key, content)
		r.held = append(r.held, key)
	}
	for _, shard := range r.shards {
		r.put(shard+"index-gen"+uuid, "generation of "+uuid)
		if r.previous != "" {
			r.remove(shard + "index-gen" + r.previous)
		}
		var files []string
		for _, key := range r.held {
			if strings.HasPrefix(key, shard+"__") {
				files = append(files, key)
			}
		}
		for i := range 3 {
			key := fmt.Sprintf("%s__%s data+%d", shard, uuid, i)
			write(key, fmt.Sprintf("bytes %d of %s in %s", i, uuid, shard))
			files = append(files, key)
		}
		write(shard+"snap-"+uuid+".dat", strings.Join(files, "\n"))
	}
	for _, id := range []string{"Xa-_0000000000000000aa", "b0000000000000000000bb"} {
		write("indices/"+id+"/meta-"+uuid+".dat", "index metadata "+uuid)
	}
	write("meta-"+uuid+".dat", "global "+uuid)
	write("snap-"+uuid+".dat", "snapshot "+uuid)
	r.root["snapshots"] = append(r.root["snapshots"].([]any), map[string]any{"name": name, "uuid": uuid, "state": 1, "version": "7.10.2"})
	var uuids []string
	for _, s := range r.root["snapshots"].([]any) {
		uuids = append(uuids, s.(map[string]any)["uuid"].(string))
	}
	r.root["indices"] = map[string]any{
		"logs":      map[string]any{"id": "Xa-_0000000000000000aa", "snapshots": uuids, "shard_path_type": r.pathType},
		"catalogue": map[string]any{"id": "b0000000000000000000bb", "snapshots": uuids, "shard_path_type": r.pathType},
	}
	r.publish()
	r.previous = uuid
	return Want{SnapshotName: name, SnapshotUUID: uuid, OwnPrefix: "ferry-r"}
}

func (r *testRepository) publish() {
	content, err := json.Marshal(r.root)
	if err != nil {
		panic(err)
	}
	r.needs[r.gen] = slices.Clone(r.held)
	r.put(repository.RootName(r.gen), string(content))
	r.put(repository.LatestName, string(repository.EncodeLatest(r.gen)))
	if r.gen > 0 {
		r.remove(repository.RootName(r.gen - 1))
	}
}

// broken says what is wrong with what a reader of the destination would see; empty when it is a whole repository, or none.
func (r *testRepository) broken(source, destination map[string]string, roots map[int64]string) string {
	newest := int64(-1)
	for key, content := range destination {
		if n, ok := repository.ParseRootName(key); ok {
			newest = max(newest, n)
		}
		if repository.Classify(key) == repository.ShardSnapshot {
			for file := range strings.SplitSeq(content, "\n") {
				if _, ok := destination[file]; !ok {
					return fmt.Sprintf("%s is there before its file %s", key, file)
				}
			}
		}
	}
	if latest, ok := destination[repository.LatestName]; ok {
		n, err := repository.DecodeLatest([]byte(latest))
		if _, there := destination[repository.RootName(n)]; err != nil || !there {
			return fmt.Sprintf("index.latest names index-%d, which is not there", n)
		}
	}
	if newest < 0 {
		return ""
	}
	if destination[repository.RootName(newest)] != roots[newest] {
		return fmt.Sprintf("%s is not the source's", repository.RootName(newest))
	}
	for _, key := range r.needs[newest] {
		if got, ok := destination[key]; !ok || got != source[key] {
			return fmt.Sprintf("index-%d is visible, but %s is missing or another (there: %v)", newest, key, ok)
		}
	}
	return ""
}

// copied is what a finished copy of a repository holds: everything but what belongs to no snapshot.
func copied(source map[string]string) map[string]string {
	want := maps.Clone(source)
	maps.DeleteFunc(want, func(key, _ string) bool {
		class := repository.Classify(key)
		return class == repository.Verification || class == repository.Pending || strings.HasSuffix(key, "/")
	})
	return want
}

// ferry runs plan, copy and publish as the state machine does.
func ferry(ctx context.Context, c *Copier, from, to Location, want Want, ranges int) (PublishResult, error) {
	for range 5 {
		plan, err := c.Plan(ctx, from, to, want, ranges)
		if err != nil {
			return PublishResult{}, err
		}
		errs := make([]error, len(plan.Ranges))
		var running sync.WaitGroup
		for i, r := range plan.Ranges {
			running.Go(func() {
				for {
					result, err := c.CopyRange(ctx, from, to, r, time.Time{})
					if err != nil || result.Done {
						errs[i] = err
						return
					}
					r.After = result.Cursor
				}
			})
		}
		running.Wait()
		if err := errors.Join(errs...); err != nil {
			return PublishResult{}, err
		}
		if result, err := c.Publish(ctx, from, to, plan.Root, want); err != nil || result.Published {
			return result, err
		}
	}
	return PublishResult{}, errors.New("not published after five tries")
}

func mustFerry(t *testing.T, c *Copier, from, to Location, want Want, ranges int) PublishResult {
	t.Helper()
	result, err := ferry(t.Context(), c, from, to, want, ranges)
	if err != nil {
		t.Fatal(err)
	}
	return result
}
