package modelcopy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/s3copy"
)

// Case is one modelled copy.
type Case struct {
	Name    string  `json:"name"`
	Objects int64   `json:"objects"`
	Bytes   int64   `json:"bytes"` // nine tenths of them in objects of 1,000 MiB, uploaded in parts of 100 MiB
	Lambdas int     `json:"lambdas"`
	Limits  Limits  `json:"-"`
	Seed    uint64  `json:"seed"`
	Slice   float64 `json:"sliceSeconds"` // an invocation's time; 0 means 15 minutes
}

// Usual are limits as far as they are published or were measured (s3-copy.md 0 and 2): one partition, 4.8 MB/s a request.
func Usual() Limits {
	return Limits{
		RequestRate: 3500, PerRequest: 4.8e6, CopyLatency: 120 * time.Millisecond, ListLatency: 60 * time.Millisecond,
		FailureShare: 0.0001, LongestBehind: 2 * time.Minute,
	}
}

// Outcome is what a case took, in seconds of the virtual clock.
type Outcome struct {
	Case
	ActualBytes   int64        `json:"actualBytes"`
	Requests      int64        `json:"writeRequests"` // carried out by S3
	Refused       int64        `json:"refused"`       // with 503
	OpenUploads   int          `json:"openUploads"`   // whose answer was lost; a lifecycle rule removes them
	Slices        int          `json:"slices"`
	MostInFlight  int64        `json:"mostInFlight"`
	PlanSeconds   float64      `json:"planSeconds"`
	CopySeconds   float64      `json:"copySeconds"`
	VerifySeconds float64      `json:"verifySeconds"` // listing both sides again, and publishing
	BoundSeconds  float64      `json:"boundSeconds"`  // no tool can copy faster
	Bound         string       `json:"bound"`         // what sets it
	Efficiency    float64      `json:"efficiency"`    // bound by copy
	Pace          []int64      `json:"pace"`          // writes carried out in each tenth of a minute
	RangeSeconds  []float64    `json:"rangeSeconds"`  // when each range was done
	Usage         s3copy.Usage `json:"usage"`
	Cost          s3copy.Cost  `json:"cost"`
}

// flightOfLambda is what a Lambda can have open at once, with room for all else in its 1,024 file descriptors.
const flightOfLambda = 800

// bound is the physical limit (s3-copy.md 5): requests, bytes, and the last part.
func (c Case) bound(b *bucket) (seconds float64, by string) {
	requests := float64(b.objects)
	if b.every > 1 {
		requests += float64(b.larges()) * (largeBytes/partBytes + 2 - 1)
	}
	width := float64(c.Lambdas*flightOfLambda) * c.Limits.PerRequest
	by = "bytes a second of the requests in flight"
	if c.Limits.Bandwidth > 0 && c.Limits.Bandwidth < width {
		width, by = c.Limits.Bandwidth, "bytes a second between the Regions"
	}
	seconds = float64(b.bytes()) / width
	if r := requests / c.Limits.RequestRate; r > seconds {
		seconds, by = r, "requests a second of the partition"
	}
	if tail := partBytes / c.Limits.PerRequest; tail > seconds {
		seconds, by = tail, "one part"
	}
	return seconds, by
}

var (
	from = s3copy.Location{Bucket: "source"}
	to   = s3copy.Location{Bucket: "destination"}
)

// Run copies and publishes. It must be called inside a bubble of testing/synctest, whose clock is the virtual one.
func (c Case) Run(ctx context.Context) (Outcome, error) {
	b := newBucket(c.Objects, c.Bytes, c.Limits, c.Seed)
	out := Outcome{Case: c, ActualBytes: b.bytes()}
	out.BoundSeconds, out.Bound = c.bound(b)
	engine := &s3copy.Copier{Source: b, Destination: b, Concurrency: flightOfLambda}
	want := s3copy.Want{SnapshotName: "model-r0001", OwnPrefix: "model-r"}

	began := time.Now()
	plan, err := engine.Plan(ctx, from, to, want, c.Lambdas)
	if err != nil {
		return out, err
	}
	out.PlanSeconds = time.Since(began).Seconds()
	slice := time.Duration(c.Slice * float64(time.Second))
	if slice == 0 {
		slice = 15 * time.Minute
	}
	began = time.Now()
	shape := &s3copy.Shape{Pieces: make([]s3copy.Piece, len(plan.Ranges))}
	errs := make([]error, len(plan.Ranges))
	out.RangeSeconds = make([]float64, len(plan.Ranges))
	var mu sync.Mutex
	var lambdas sync.WaitGroup
	for i, r := range plan.Ranges {
		lambdas.Go(func() {
			shape.Pieces[i] = s3copy.Piece{Through: r.Through, Outside: r.Outside}
			for done := false; !done; {
				result, err := engine.CopyRange(ctx, from, to, r, time.Now().Add(slice))
				mu.Lock()
				out.Slices++
				out.Usage = out.Usage.Add(result.Usage)
				mu.Unlock()
				shape.Pieces[i].Objects += result.Copied + result.Skipped
				shape.Pieces[i].Bytes += result.CopiedBytes
				if err != nil {
					errs[i] = err
					return
				}
				r.After, done = result.Cursor, result.Done
			}
			out.RangeSeconds[i] = time.Since(began).Seconds()
		})
	}
	copied := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for last := int64(0); ; {
			select {
			case <-copied:
				return
			case <-time.After(6 * time.Second):
				b.mu.Lock()
				out.Pace = append(out.Pace, b.requests-last)
				last = b.requests
				b.mu.Unlock()
			}
		}
	})
	lambdas.Wait()
	close(copied)
	watching.Wait()
	if err := errors.Join(errs...); err != nil {
		return out, err
	}
	out.CopySeconds = time.Since(began).Seconds()
	out.Efficiency = out.BoundSeconds / out.CopySeconds
	began = time.Now()
	want.Shape = shape
	published, err := engine.Publish(ctx, from, to, plan.Root, want)
	if err != nil {
		return out, err
	}
	out.VerifySeconds = time.Since(began).Seconds()
	out.Usage = out.Usage.Add(published.Usage)
	out.Cost = out.Usage.Cost(out.ActualBytes, true)
	out.Requests, out.Refused, out.MostInFlight, out.OpenUploads = b.requests, b.refused, b.most, len(b.uploads)
	if !published.Published || b.missing() > 0 {
		return out, fmt.Errorf("the copy of %s is not whole: %d objects missing, %+v", c.Name, b.missing(), published)
	}
	return out, nil
}

// Memory is the live heap while a repository is compared that has not changed.
type Memory struct {
	Objects int64   `json:"objects"`
	Pages   int64   `json:"pages"`
	PeakMB  float64 `json:"peakMB"` // most of the live heap, garbage collected, above what it was before
	Copies  int64   `json:"copies"`
}

// MeasureMemory lists and joins both sides of a repository of so many objects in one range. It must be called inside a bubble.
func MeasureMemory(ctx context.Context, objects int64) (Memory, error) {
	b := newBucket(objects, objects<<20, Usual(), 1)
	b.fill()
	live := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	before, peak, pages := live(), 0.0, int64(0)
	// Looked at some twenty times, whatever the number of pages.
	every := max(objects/1000*2/20, 1)
	b.onList = func() {
		if pages++; pages%every == 0 {
			peak = math.Max(peak, live()-before)
		}
	}
	engine := &s3copy.Copier{Source: b, Destination: b}
	result, err := engine.CopyRange(ctx, from, to, s3copy.Range{}, time.Time{})
	if err == nil && (!result.Done || result.Copied > 0 || result.Skipped != objects) {
		err = fmt.Errorf("a pass without changes over %d objects: %+v", objects, result)
	}
	runtime.KeepAlive(b)
	return Memory{Objects: objects, Pages: pages, PeakMB: peak, Copies: result.Copied}, err
}
