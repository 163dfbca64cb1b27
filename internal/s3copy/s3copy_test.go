package s3copy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/repository"
)

// sameRepository fails unless the destination holds the source's repository, byte for byte; shard generations that the source
// has deleted since may remain.
func sameRepository(t *testing.T, source, destination map[string]string) {
	t.Helper()
	want := copied(source)
	for key, content := range want {
		if got, ok := destination[key]; !ok || got != content {
			t.Errorf("%s: there %v, %d bytes, want %d", key, ok, len(got), len(content))
		}
	}
	for key := range destination {
		if _, ok := want[key]; !ok && repository.Classify(key) != repository.ShardIndex {
			t.Errorf("%s is at the destination only", key)
		}
	}
}

func TestCopyPublishesWholeRepository(t *testing.T) {
	for _, tt := range []struct {
		name     string
		from, to Location
		ranges   int
	}{
		{"prefixes, one range", here, there, 1},
		{"whole buckets", Location{Bucket: "source"}, Location{Bucket: "destination"}, 3},
		{"many ranges", here, there, 64},
		{"one bucket", here, Location{"source", "other"}, 4},
		{"special characters", Location{"source", "bäse +&%41/x y"}, Location{"destination", "zü #?=+"}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeS3("source", "destination")
				repo := inFake(f, tt.from)
				for _, key := range []string{"tests-x/master.dat", "pending-index-9", "indices/Xa-_0000000000000000aa/0/pending-__1", "indices/"} {
					f.put(tt.from.Bucket, tt.from.key(key), "no part of any snapshot")
				}
				f.put(tt.from.Bucket, tt.from.key("incompatible-snapshots"), "{}")
				f.put(tt.from.Bucket, tt.from.key("aHash_-/indices/Xa-_0000000000000000aa/0/__hashed"), "hashed")
				c := &Copier{Source: f, Destination: f}
				for round := 1; round <= 12; round++ { // past index-9, which sorts above index-10
					want := repo.snapshot(round)
					time.Sleep(time.Minute)
					result := mustFerry(t, c, tt.from, tt.to, want, tt.ranges)
					if removed := min(round-1, 1); result.Removed != removed || result.Missing != 0 {
						t.Fatalf("round %d: %+v, want %d removed", round, result, removed)
					}
					sameRepository(t, f.contents(tt.from), f.contents(tt.to))
				}
			})
		})
	}
}

func TestNoChangeCopiesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeS3("source", "destination")
		f.noETags = true
		want := inFake(f, here).snapshot(1)
		time.Sleep(time.Minute)
		c := &Copier{Source: f, Destination: f}
		mustFerry(t, c, here, there, want, 3)
		writes := func() int { return f.called("CopyObject") + f.called("PutObject") + f.called("DeleteObject") }
		before := writes()
		if result := mustFerry(t, c, here, there, want, 3); !result.Published || writes() != before {
			t.Fatalf("%+v; %d writes in a pass without changes", result, writes()-before)
		}
		result, err := c.CopyRange(t.Context(), here, there, Range{}, time.Time{})
		if err != nil || result.Copied != 0 || result.Skipped == 0 || result.SkippedBytes == 0 || !result.Done {
			t.Fatalf("%+v %v", result, err)
		}
		totals, err := c.Totals(t.Context(), there)
		if err != nil || totals.Objects != result.Skipped || totals.Bytes != result.SkippedBytes {
			t.Fatalf("totals %+v %v, want those of %+v", totals, err, result)
		}
	})
}

// watched is a store in which every request is followed by a look at the destination.
func watched(t *testing.T, f *fakeS3, repo *testRepository, from, to Location) {
	roots := map[int64]string{}
	for _, contents := range []map[string]string{f.contents(from), f.contents(to)} {
		for key, content := range contents {
			if n, ok := repository.ParseRootName(key); ok {
				roots[n] = content
			}
		}
	}
	look := func(op, key string) {
		// What older roots need is never deleted by this test's source, so it serves for all.
		if trouble := repo.broken(f.contents(from), f.contents(to), roots); trouble != "" {
			t.Errorf("after %s %s: %s", op, key, trouble)
		}
	}
	inner := f.after
	f.after = func(op, key string) error {
		look(op, key)
		if inner != nil {
			return inner(op, key)
		}
		return nil
	}
}

func TestReaderNeverSeesHalfARepository(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeS3("source", "destination")
		repo := inFake(f, here)
		c := &Copier{Source: f, Destination: f, Concurrency: 8}
		for round := 1; round <= 4; round++ {
			want := repo.snapshot(round)
			f.latency = time.Millisecond
			f.after = nil
			watched(t, f, repo, here, there)
			// Every third copy is slow, so that those begun later overtake it.
			f.before = func(op, key string) error {
				if op == "CopyObject" && rand.N(3) == 0 {
					time.Sleep(rand.N(time.Second))
				}
				return nil
			}
			time.Sleep(time.Minute)
			mustFerry(t, c, here, there, want, 5)
		}
	})
}

// The test of the test: a copy in the wrong order is caught.
func TestReaderSeesWrongOrder(t *testing.T) {
	f := newFakeS3("source", "destination")
	repo := inFake(f, here)
	repo.snapshot(1)
	roots := map[int64]string{0: f.contents(here)["index-0"]}
	for _, key := range []string{"index-0", repo.shards[0] + "snap-uuid-1.dat", "index.latest"} {
		if trouble := repo.broken(f.contents(here), map[string]string{key: f.contents(here)[key]}, roots); trouble == "" {
			t.Errorf("a destination with nothing but %s passes", key)
		}
	}
}

var errKilled = errors.New("killed")

func TestKilledAtAnyRequestConverges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := newFakeS3("source", "destination")
		repo := inFake(start, here)
		first := repo.snapshot(1)
		time.Sleep(time.Minute)
		mustFerry(t, &Copier{Source: start, Destination: start}, here, there, first, 3)
		want := repo.snapshot(2)
		start.put(there.Bucket, there.key(repo.shards[0]+"__half"), "left by someone")
		start.put(there.Bucket, there.key(repo.shards[1]+"__uuid-2 data+1"), "cut") // another size
		start.remove(there.Bucket, there.key(repo.shards[1]+"snap-uuid-1.dat"))
		start.put(there.Bucket, there.key(repo.shards[1]+"snap-uuid-1.dat"), start.contents(here)[repo.shards[1]+"snap-uuid-1.dat"])
		time.Sleep(time.Minute)

		for _, lost := range []bool{false, true} { // the request is not made, or its answer is lost
			for k := 1; ; k++ {
				f := start.clone()
				ctx, kill := context.WithCancel(t.Context())
				var mu sync.Mutex
				made := 0
				hook := func(string, string) error {
					mu.Lock()
					defer mu.Unlock()
					if made++; made >= k {
						kill()
						return errKilled
					}
					return nil
				}
				if lost {
					f.after = hook
				} else {
					f.before = hook
				}
				watched(t, f, repo, here, there)
				_, err := ferry(ctx, &Copier{Source: f, Destination: f, Concurrency: 4}, here, there, want, 3)
				kill()
				finished := made < k
				if finished != (err == nil) {
					t.Fatalf("kill at request %d of %d: %v", k, made, err)
				}
				f.before, f.after = nil, nil
				watched(t, f, repo, here, there)
				mustFerry(t, &Copier{Source: f, Destination: f}, here, there, want, 3)
				destination := f.contents(there)
				delete(destination, repo.shards[0]+"__half")
				sameRepository(t, f.contents(here), destination)
				if finished || t.Failed() {
					if k < 50 && !t.Failed() {
						t.Errorf("only %d requests were tried", k)
					}
					break
				}
			}
		}
	})
}

func TestFailingRequestsAreRepeated(t *testing.T) {
	for name, failure := range map[string]error{
		"SlowDown":       answer(503, "SlowDown", "Please reduce your request rate."),
		"503 alone":      answer(503, "", ""),
		"200 with error": answer(200, "InternalError", "We encountered an internal error. Please try again."),
		"500":            answer(500, "InternalError", ""),
		"cut":            errLost,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeS3("source", "destination")
				want := inFake(f, here).snapshot(1)
				var mu sync.Mutex
				failed := map[string]int{}
				hook := func(op, key string) error {
					mu.Lock()
					defer mu.Unlock()
					if failed[op+key]++; failed[op+key] <= 4 {
						return failure
					}
					return nil
				}
				f.before = hook
				c := &Copier{Source: f, Destination: f}
				mustFerry(t, c, here, there, want, 3)
				sameRepository(t, f.contents(here), f.contents(there))

				failed = map[string]int{}
				f.before, f.after = nil, hook // the same with lost answers
				repo := inFake(f, Location{"source", "second"})
				want = repo.snapshot(1)
				mustFerry(t, c, Location{"source", "second"}, Location{"destination", "second"}, want, 3)
				sameRepository(t, f.contents(Location{"source", "second"}), f.contents(Location{"destination", "second"}))

				f.before = func(op, _ string) error {
					if op == "CopyObject" {
						return failure
					}
					return nil
				}
				f.after = nil
				_, err := c.CopyRange(t.Context(), here, Location{"destination", "third"}, Range{}, time.Time{})
				if !fault.Is(err, fault.Throttled, fault.Unavailable) || !regexp.MustCompile(`tried \d\d times`).MatchString(err.Error()) {
					t.Fatalf("a failure without end gives %v", err)
				}
			})
		})
	}
}

func TestDeadlineHandsBackACursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeS3("source", "destination")
		repo := inFake(f, here)
		repo.snapshot(1)
		repo.snapshot(2)
		f.latency = 3 * time.Second
		time.Sleep(time.Minute)
		c := &Copier{Source: f, Destination: f, Concurrency: 2}
		source := f.contents(here)
		r, sliceCount, copiedObjects := Range{}, 0, int64(0)
		for done := false; !done; sliceCount++ {
			deadline := time.Now().Add(20 * time.Second)
			result, err := c.CopyRange(t.Context(), here, there, r, deadline)
			if err != nil {
				t.Fatal(err)
			}
			if !time.Now().Before(deadline) {
				t.Fatalf("slice %d came back after its deadline", sliceCount)
			}
			if !result.Done && result.Cursor <= r.After {
				t.Fatalf("slice %d made no way: %+v", sliceCount, result)
			}
			copiedObjects += result.Copied
			destination := f.contents(there)
			for key := range source {
				if _, ok := destination[key]; key <= result.Cursor && copies(repository.Classify(key)) && !ok {
					t.Fatalf("the cursor %q is above %s, which is not copied", result.Cursor, key)
				}
			}
			r.After, done = result.Cursor, result.Done
			if sliceCount > 100 {
				t.Fatal("no end")
			}
		}
		if sliceCount < 3 {
			t.Errorf("%d slices: the deadline was not tried", sliceCount)
		}
		if all := int64(len(f.contents(there))); copiedObjects != all {
			t.Errorf("%d copies of %d objects", copiedObjects, all)
		}
		mustFerry(t, c, here, there, Want{SnapshotName: "ferry-r0002"}, 2)
		sameRepository(t, f.contents(here), f.contents(there))
	})
}

func TestDeadlineOfHangingRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeS3("source", "destination")
		inFake(f, here).snapshot(1)
		f.latency = time.Hour
		c := &Copier{Source: f, Destination: f}
		for _, slice := range []time.Duration{-time.Second, 0, time.Second, time.Minute} {
			deadline := time.Now().Add(slice)
			result, err := c.CopyRange(t.Context(), here, there, Range{After: "a"}, deadline)
			if err != nil || result.Done || result.Cursor != "a" || time.Now().After(deadline.Add(time.Second)) {
				t.Fatalf("%s: %+v %v after %s", slice, result, err, time.Since(deadline))
			}
		}
		// Without progress in a long slice the next would make none either.
		if _, err := c.CopyRange(t.Context(), here, there, Range{}, time.Now().Add(15*time.Minute)); !fault.Is(err, fault.CopyFailed, fault.Unavailable) {
			t.Fatalf("a slice of 15 minutes without one object: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := c.CopyRange(ctx, here, there, Range{}, time.Time{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("a caller that goes away gets %v", err)
		}
	})
}

func TestMultipart(t *testing.T) {
	big := Location{"source", "big"}
	content := func() string {
		b := make([]byte, 13*mib+12345)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return string(b)
	}()
	key := "indices/Xa-_0000000000000000aa/0/__large"
	setup := func(t *testing.T) (*fakeS3, *Copier) {
		t.Helper()
		f := newFakeS3("source", "destination")
		f.put(big.Bucket, big.key(key), content)
		return f, &Copier{Source: f, Destination: f, MultipartThreshold: 6 * mib, PartSize: 5 * mib}
	}
	once := func(op string, then error) func(string, string) error {
		var mu sync.Mutex
		tried := false
		return func(got, _ string) error {
			mu.Lock()
			defer mu.Unlock()
			if got != op || tried {
				return nil
			}
			tried = true
			return then
		}
	}
	t.Run("copies, and finds nothing to do afterwards", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, c := setup(t)
			f.before = once("UploadPartCopy", answer(503, "SlowDown", ""))
			f.after = once("CompleteMultipartUpload", errLost)
			result, err := c.CopyRange(t.Context(), big, there, Range{}, time.Time{})
			if err != nil || result.Copied != 1 || result.CopiedBytes != int64(len(content)) {
				t.Fatalf("%+v %v", result, err)
			}
			if f.contents(there)[key] != content || f.called("UploadPartCopy") != 3 || len(f.uploads) != 0 {
				t.Fatalf("%d parts, %d uploads left, equal %v", f.called("UploadPartCopy"), len(f.uploads), f.contents(there)[key] == content)
			}
			if result, err = c.CopyRange(t.Context(), big, there, Range{}, time.Time{}); err != nil || result.Skipped != 1 {
				t.Fatalf("again: %+v %v", result, err)
			}
		})
	})
	t.Run("keeps the source's parts, and so its ETag", func(t *testing.T) {
		for _, tt := range []struct {
			name      string
			part      int // of the source; 0 is whole
			threshold int64
			parts     int
			equal     bool
		}{
			{"the source's parts", 6 * int(mib), 1, 3, true},
			{"smaller than S3 takes", int(mib), 1, 1, false}, // one part of the usual size
			{"written whole", 0, 1, 1, false},
		} {
			synctest.Test(t, func(t *testing.T) {
				f, c := setup(t)
				c.MultipartThreshold, c.PartSize = tt.threshold, 0
				if tt.part > 0 {
					f.putParts(big.Bucket, big.key(key), content, tt.part)
				}
				if _, err := c.CopyRange(t.Context(), big, there, Range{}, time.Time{}); err != nil {
					t.Fatal(err)
				}
				source, destination := f.buckets[big.Bucket][big.key(key)], f.buckets[there.Bucket][there.key(key)]
				if string(destination.content) != content || f.called("UploadPartCopy") != tt.parts || (source.etag == destination.etag) != tt.equal {
					t.Errorf("%s: %d parts, ETags %s and %s", tt.name, f.called("UploadPartCopy"), source.etag, destination.etag)
				}
			})
		}
	})
	t.Run("is aborted when it fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, c := setup(t)
			f.before = once("UploadPartCopy", answer(403, "AccessDenied", "Access Denied"))
			if _, err := c.CopyRange(t.Context(), big, there, Range{}, time.Time{}); !fault.Is(err, fault.AccessDenied) || len(f.uploads) != 0 {
				t.Fatalf("%v, %d uploads left", err, len(f.uploads))
			}
		})
	})
	t.Run("is aborted at the deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, c := setup(t)
			f.latency = time.Minute
			result, err := c.CopyRange(t.Context(), big, there, Range{}, time.Now().Add(30*time.Second))
			if err != nil || result.Done || len(f.uploads) != 0 || f.called("CreateMultipartUpload") != 1 {
				t.Fatalf("%+v %v, %d uploads left", result, err, len(f.uploads))
			}
		})
	})
	t.Run("an upload that someone else aborts is a failure", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, c := setup(t)
			f.before = func(op, _ string) error {
				if op == "CompleteMultipartUpload" {
					f.mu.Lock()
					defer f.mu.Unlock()
					clear(f.uploads)
				}
				return nil
			}
			if _, err := c.CopyRange(t.Context(), big, there, Range{}, time.Time{}); !fault.Is(err, fault.CopyFailed) {
				t.Fatal(err)
			}
		})
	})
}

func TestPartSize(t *testing.T) {
	for _, tt := range []struct{ field, size, want int64 }{
		{0, gib, 100 * mib},
		{1, gib, 5 * mib},
		{0, 50 << 40, 5243 * mib}, // S3's largest object needs parts above 5 GiB's 10,000: refused by S3, not miscounted here
		{8 * mib, 100 * gib, 11 * mib},
	} {
		c := Copier{PartSize: tt.field}
		if got := c.partSize(tt.size, 100*mib+5); got != tt.want || (tt.size+got-1)/got > maxParts {
			t.Errorf("part size of %d bytes: %d, want %d", tt.size, got, tt.want)
		}
	}
	if got := (&Copier{MultipartThreshold: 99 * gib}).multipartThreshold(mib); got != 5*gib {
		t.Errorf("threshold %d is above CopyObject's limit", got)
	}
}

func TestArchivedObjectsAreRefused(t *testing.T) {
	f := newFakeS3("source", "destination")
	repo := inFake(f, here)
	repo.snapshot(1)
	f.archived = here.key(repo.shards[1] + "__uuid-1 data+1")
	c := &Copier{Source: f, Destination: f}
	_, err := c.CopyRange(t.Context(), here, there, Range{}, time.Time{})
	if !fault.Is(err, fault.CopyFailed) || !strings.Contains(err.Error(), f.archived) || !strings.Contains(err.Error(), "archive") {
		t.Fatal(err)
	}
	if _, there := f.contents(there)["index-0"]; there {
		t.Error("the root is visible")
	}
}

func TestVanishingAndChangingBlobs(t *testing.T) {
	shard := "indices/Xa-_0000000000000000aa/0/"
	for _, tt := range []struct {
		key  string
		want fault.Name
	}{
		{shard + "index-genuuid-1", ""},
		{shard + "__uuid-1 data+0", fault.RepositoryCorrupt},
		{shard + "snap-uuid-1.dat", fault.RepositoryCorrupt},
		{"meta-uuid-1.dat", fault.RepositoryCorrupt},
	} {
		for _, change := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeS3("source", "destination")
				want := inFake(f, here).snapshot(1)
				f.before = func(op, key string) error {
					if op == "CopyObject" && key == there.key(tt.key) {
						if change {
							f.put(here.Bucket, here.key(tt.key), "something else")
						} else {
							f.remove(here.Bucket, here.key(tt.key))
						}
					}
					return nil
				}
				_, err := ferry(t.Context(), &Copier{Source: f, Destination: f}, here, there, want, 2)
				name := tt.want
				if change {
					name = fault.RepositoryCorrupt
				}
				if name == "" && err != nil || name != "" && (!fault.Is(err, name) || !strings.Contains(err.Error(), tt.key)) {
					t.Errorf("%s (changed %v): %v, want %q", tt.key, change, err, name)
				}
			})
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(f *fakeS3, repo *testRepository)
		from    Location
		to      Location
		want    Want
		fault   fault.Name
		text    string
	}{
		{name: "nothing there", from: Location{"source", "elsewhere"}, fault: fault.RepositoryCorrupt, text: "no root document"},
		{name: "no bucket", from: Location{"nowhere", ""}, fault: fault.CopyFailed, text: "NoSuchBucket"},
		{name: "unknown snapshot", want: Want{SnapshotName: "ferry-r0009"}, fault: fault.RepositoryCorrupt, text: "does not hold it"},
		{name: "other uuid", want: Want{SnapshotName: "ferry-r0001", SnapshotUUID: "x"}, fault: fault.RepositoryCorrupt, text: "uuid x"},
		{name: "partial", prepare: func(_ *fakeS3, repo *testRepository) {
			repo.root["snapshots"].([]any)[0].(map[string]any)["state"] = 3
			repo.publish()
		}, fault: fault.RepositoryCorrupt, text: "PARTIAL"},
		{name: "garbage", prepare: func(_ *fakeS3, repo *testRepository) { repo.put("index-10", "{") },
			fault: fault.RepositoryCorrupt, text: "index-10"},
		{name: "shallow", prepare: func(_ *fakeS3, repo *testRepository) { repo.put(repo.shards[0]+"shallow-snap-uuid-1.dat", "") },
			fault: fault.NotSupported, text: "shallow"},
		{name: "hashed outside", prepare: func(_ *fakeS3, repo *testRepository) {
			repo.root["indices"].(map[string]any)["logs"].(map[string]any)["shard_path_type"] = 1
			repo.publish()
		}, fault: fault.NotSupported, text: "HASHED_PREFIX"},
		{name: "destination ahead", prepare: func(f *fakeS3, _ *testRepository) {
			f.put(there.Bucket, there.key("index-1"), f.contents(here)["index-0"])
		}, fault: fault.DestinationOccupied, text: "generation 1"},
		{name: "destination foreign", prepare: func(f *fakeS3, _ *testRepository) {
			f.put(there.Bucket, there.key("index-0"), `{"snapshots":[{"name":"backup","uuid":"zzz","state":1}],"indices":{}}`)
		}, fault: fault.DestinationOccupied, text: "backup"},
		{name: "same place", to: here, fault: fault.InvalidInput, text: "same place"},
		{name: "inside", to: Location{here.Bucket, here.Prefix + "/copy"}, fault: fault.InvalidInput, text: "inside"},
		{name: "around", to: Location{here.Bucket, ""}, fault: fault.InvalidInput, text: "inside"},
		{name: "slash", to: Location{"destination", "x/"}, fault: fault.InvalidInput, text: "slash"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeS3("source", "destination")
			repo := inFake(f, here)
			want := repo.snapshot(1)
			if tt.prepare != nil {
				tt.prepare(f, repo)
			}
			if tt.from.Bucket == "" {
				tt.from = here
			}
			if tt.to.Bucket == "" {
				tt.to = there
			}
			if tt.want.SnapshotName == "" {
				tt.want = want
			}
			before := f.contents(tt.to)
			_, err := (&Copier{Source: f, Destination: f}).Plan(t.Context(), tt.from, tt.to, tt.want, 8)
			if !fault.Is(err, tt.fault) || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("%v, want %s with %q", err, tt.fault, tt.text)
			}
			if f, _ := fault.As(err); f.Advice() == "" {
				t.Error("no hint")
			}
			if !maps.Equal(before, f.contents(tt.to)) {
				t.Error("the destination was touched")
			}
		})
	}
}

// The source may delete its own older snapshots between rounds.
func TestPlanTakesOwnOlderSnapshots(t *testing.T) {
	f := newFakeS3("source", "destination")
	want := inFake(f, here).snapshot(7)
	f.put(there.Bucket, there.key("index-0"), `{"snapshots":[{"name":"ferry-r0006","uuid":"old","state":1}],"indices":{}}`)
	c := &Copier{Source: f, Destination: f}
	if _, err := c.Plan(t.Context(), here, there, want, 1); err != nil {
		t.Error(err)
	}
	want.OwnPrefix = ""
	if _, err := c.Plan(t.Context(), here, there, want, 1); !fault.Is(err, fault.DestinationOccupied) {
		t.Errorf("without a prefix: %v", err)
	}
}

func TestCopyRangeRefusesShallowSnapshots(t *testing.T) {
	f := newFakeS3("source", "destination")
	repo := inFake(f, here)
	repo.snapshot(1)
	repo.put(repo.shards[2]+"shallow-snap-other.dat", "")
	_, err := (&Copier{Source: f, Destination: f}).CopyRange(t.Context(), here, there, Range{}, time.Time{})
	if !fault.Is(err, fault.NotSupported) || !strings.Contains(err.Error(), "shallow-snap-other.dat") {
		t.Fatal(err)
	}
}

func TestPublishRefuses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(f *fakeS3, repo *testRepository)
		reason  string
		fault   fault.Name
		missing int64
	}{
		{name: "data missing", prepare: func(f *fakeS3, repo *testRepository) {
			f.remove(there.Bucket, there.key(repo.shards[0]+"__uuid-1 data+0"))
			f.put(there.Bucket, there.key(repo.shards[0]+"__uuid-1 data+1"), "cut")
		}, reason: "2 objects are missing", missing: 2},
		{name: "metadata written again", prepare: func(f *fakeS3, _ *testRepository) {
			time.Sleep(time.Minute)
			f.put(here.Bucket, here.key("snap-uuid-1.dat"), f.contents(here)["snap-uuid-1.dat"])
		}, reason: "1 objects are missing", missing: 1},
		{name: "next snapshot", prepare: func(_ *fakeS3, repo *testRepository) { repo.snapshot(2) }, reason: "index-1"},
		{name: "root written again", prepare: func(_ *fakeS3, repo *testRepository) {
			time.Sleep(time.Minute)
			repo.publish()
		}, reason: "written again"},
		{name: "root gone", prepare: func(_ *fakeS3, repo *testRepository) { repo.remove("index-0") }, reason: "gone"},
		{name: "destination ahead", prepare: func(f *fakeS3, _ *testRepository) { f.put(there.Bucket, there.key("index-5"), "{}") },
			fault: fault.DestinationOccupied},
		{name: "root does not read back", prepare: func(f *fakeS3, _ *testRepository) {
			f.after = func(op, key string) error {
				if op == "CopyObject" && key == there.key("index-0") {
					f.put(there.Bucket, key, "something else")
				}
				return nil
			}
		}, fault: fault.RepositoryCorrupt},
		{name: "latest does not read back", prepare: func(f *fakeS3, _ *testRepository) {
			f.after = func(op, key string) error {
				if op == "PutObject" {
					f.put(there.Bucket, key, "something else")
				}
				return nil
			}
		}, fault: fault.CopyFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFakeS3("source", "destination")
				repo := inFake(f, here)
				want := repo.snapshot(1)
				time.Sleep(time.Minute)
				c := &Copier{Source: f, Destination: f}
				plan, err := c.Plan(t.Context(), here, there, want, 1)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.CopyRange(t.Context(), here, there, plan.Ranges[0], time.Time{}); err != nil {
					t.Fatal(err)
				}
				tt.prepare(f, repo)
				result, err := c.Publish(t.Context(), here, there, plan.Root, want)
				if tt.fault != "" {
					if !fault.Is(err, tt.fault) || result.Published {
						t.Fatalf("%+v %v, want %s", result, err, tt.fault)
					}
				} else if err != nil || result.Published || !strings.Contains(result.Reason, tt.reason) || result.Missing != tt.missing {
					t.Fatalf("%+v %v, want reason %q, %d missing", result, err, tt.reason, tt.missing)
				}
				if _, visible := f.contents(there)["index-0"]; visible && tt.name != "latest does not read back" {
					t.Error("the root is visible")
				}
			})
		})
	}
}

func TestDeniedNamesBucketKeyAndPermission(t *testing.T) {
	for op, want := range map[string][]string{
		"ListObjectsV2": {"s3:ListBucket", "source"},
		"GetObject":     {"s3:GetObject", "s3://source/base/path/index-0"},
		"CopyObject":    {"s3:GetObject", "s3:PutObject", "s3://source/base/path/", "s3://destination/copy/"},
		"PutObject":     {"s3:PutObject", "s3://destination/copy/index.latest"},
	} {
		f := newFakeS3("source", "destination")
		wanted := inFake(f, here).snapshot(1)
		f.before = func(got, _ string) error {
			if got == op {
				return answer(403, "AccessDenied", "Access Denied")
			}
			return nil
		}
		_, err := ferry(t.Context(), &Copier{Source: f, Destination: f}, here, there, wanted, 1)
		denied, ok := fault.As(err)
		if !ok || denied.Name != fault.AccessDenied {
			t.Errorf("%s: %v", op, err)
			continue
		}
		for _, text := range want {
			if !strings.Contains(denied.Error()+denied.Advice(), text) {
				t.Errorf("%s: %q and %q do not name %s", op, denied.Error(), denied.Advice(), text)
			}
		}
	}
}

func TestUnorderedListingIsRefused(t *testing.T) {
	_, err := (&Copier{Source: &unordered{newFakeS3()}}).Totals(t.Context(), Location{Bucket: "b"})
	if !fault.Is(err, fault.CopyFailed) || !strings.Contains(err.Error(), "byte order") {
		t.Fatal(err)
	}
}

func TestRangesCoverEveryKeyOnce(t *testing.T) {
	for _, folders := range []int{0, 1, 2, 7, 100, 1000} {
		for _, ranges := range []int{1, 2, 8, 64, 1000} {
			f := newFakeS3("source", "destination")
			f.pageSize = 1000
			repo := inFake(f, here)
			want := repo.snapshot(1)
			for i := range folders {
				repo.put(fmt.Sprintf("indices/%04d_id/%d/__x", i*7919%10007, i%12), "x")
			}
			c := &Copier{Source: f, Destination: f}
			plan, err := c.Plan(t.Context(), here, there, want, ranges)
			if err != nil {
				t.Fatal(err)
			}
			// The same again, as after a round, with a shape that is heavy enough for all ranges.
			var shape *Shape
			mustFerry(t, c, here, there, want, 1)
			if published, err := c.Publish(t.Context(), here, there, plan.Root, want); err != nil || published.Shape == nil {
				t.Fatal(err)
			} else {
				shape = published.Shape
			}
			if objects, bytes := shape.Totals(); objects != int64(len(f.contents(here))-2) || bytes == 0 {
				t.Errorf("the shape has %d objects, the repository %d", objects, len(f.contents(here))-2)
			}
			for i := range shape.Pieces {
				shape.Pieces[i].Bytes += 1e12
			}
			want.Shape = shape
			balanced, err := c.Plan(t.Context(), here, there, want, ranges)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(balanced.Ranges); n != min(ranges, len(shape.Pieces)) {
				t.Errorf("%d folders, %d ranges wanted: %d made of %d pieces", folders, ranges, n, len(shape.Pieces))
			}
			keys := slices.Collect(maps.Keys(f.contents(here)))
			keys = append(keys, "a", "indices", "indices/", "indices0", "indices/zzz/0/__late", "zzz", "\U0010FFFF", "indices/0/", "aHash/indices/a/0/__x")
			for _, made := range [][]Range{plan.Ranges, balanced.Ranges} {
				if len(made) > ranges {
					t.Errorf("%d ranges wanted: %d made", ranges, len(made))
				}
				for _, r := range made {
					keys = append(keys, r.After, r.Through)
				}
				for _, key := range keys {
					in := 0
					for _, r := range made {
						if key > r.After && !r.beyond(key) {
							in++
						}
					}
					if key != "" && in != 1 {
						t.Fatalf("%d folders, %d ranges: %q is in %d", folders, ranges, key, in)
					}
				}
			}
		}
	}
}

func TestEqual(t *testing.T) {
	now := time.Now()
	data, metadata := "indices/a/0/__x", "indices/a/0/snap-x.dat"
	for _, tt := range []struct {
		name        string
		key         string
		size        int64
		there       bool
		age         time.Duration // of the source's when the copy was made
		copy, after bool          // equal for CopyRange, for Publish
	}{
		{"absent", data, 5, false, time.Hour, false, false},
		{"data", data, 5, true, time.Hour, true, true},
		{"data, newer source", data, 5, true, -time.Hour, true, true},
		{"data, other size", data, 6, true, time.Hour, false, false},
		{"metadata", metadata, 5, true, time.Hour, true, true},
		{"metadata, newer source", metadata, 5, true, -time.Second, false, false},
		{"metadata, same second", metadata, 5, true, 0, false, true},
		{"metadata, other size", metadata, 6, true, time.Hour, false, false},
	} {
		e := entry{object{key: tt.key, size: tt.size, modified: now, etag: "s"}, object{key: tt.key, size: 5, modified: now.Add(tt.age), etag: "d"}, tt.there}
		if e.equal(settled) != tt.copy || e.equal(0) != tt.after {
			t.Errorf("%s: %v %v", tt.name, e.equal(settled), e.equal(0))
		}
	}
}

func TestCopySource(t *testing.T) {
	for key, want := range map[string]string{
		"__abc-_XYZ09.dat": "b/p%20q/__abc-_XYZ09.dat",
		"a+b c%41/é?#&=":   "b/p%20q/a%2Bb%20c%2541/%C3%A9%3F%23%26%3D",
	} {
		if got := copySource(Range{}.space(Location{"b", "p q"}), key); got != want {
			t.Errorf("%q: %s, want %s", key, got, want)
		}
	}
}
