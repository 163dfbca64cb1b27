package s3copy

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"
)

// limited answers as a bucket does: at most rate requests a second, the rest are refused at once; and bandwidth bytes a second for all
// requests together, at most each for one, which shows in their time only.
type limited struct {
	mu              sync.Mutex
	rate, tokens    float64
	filled          time.Time
	latency         time.Duration
	bandwidth, each float64
	open            int

	good, refused, bytes int64
	most                 int // open at once
}

func (l *limited) call(ctx context.Context, size int64) error {
	l.mu.Lock()
	now := time.Now()
	if l.rate > 0 {
		l.tokens = min(l.tokens+now.Sub(l.filled).Seconds()*l.rate, l.rate/10)
		l.filled = now
		if l.tokens < 1 {
			l.refused++
			l.mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			return &smithy.GenericAPIError{Code: "SlowDown"}
		}
		l.tokens--
	}
	l.open++
	l.most = max(l.most, l.open)
	l.mu.Unlock()
	took := l.latency
	for left := float64(size); left >= 1; {
		l.mu.Lock()
		b := l.each
		if l.bandwidth > 0 {
			b = min(b, l.bandwidth/float64(l.open))
		}
		l.mu.Unlock()
		step := min(left/b, 2)
		time.Sleep(time.Duration(step * float64(time.Second)))
		left -= step * b
	}
	time.Sleep(took)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	l.good++
	l.bytes += size
	return nil
}

// drive copies without end for a time, as CopyRange does.
func drive(t *testing.T, s *session, l *limited, size int64, length time.Duration) {
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	go s.governor.run(ctx)
	var copying sync.WaitGroup
	k := short
	if size >= largeRequest {
		k = long
	}
	for s.governor.enter(ctx, k) == nil {
		copying.Go(func() {
			defer s.governor.leave(k)
			_, err := request(ctx, s, operation{verb: "copy", class: copyWhole, size: size}, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, l.call(ctx, size)
			})
			if err != nil && ctx.Err() == nil {
				t.Errorf("a call failed for good: %v", err)
			}
		})
	}
	copying.Wait()
}

// The SDK's retryer fails nine of ten calls here, its adaptive mode uses two thirds of what is allowed (s3-copy.md 2.1).
func TestGovernorStaysAtTheRequestLimit(t *testing.T) {
	for _, share := range []int{1, 12, 100} {
		synctest.Test(t, func(t *testing.T) {
			const allowed = 300.0
			l := &limited{rate: allowed, latency: 100 * time.Millisecond, filled: time.Now()}
			s := &session{Copier: &Copier{}, governor: newGovernor(256, share)}
			drive(t, s, l, 0, 40*time.Second)
			l.good, l.refused = 0, 0
			begin := time.Now()
			drive(t, s, l, 0, 30*time.Second)
			used := float64(l.good) / time.Since(begin).Seconds() / allowed
			t.Logf("share %d: %.0f %% of the limit, %.3f refusals a request", share, 100*used, float64(l.refused)/float64(l.good))
			if used < 0.93 || float64(l.refused) > 0.1*float64(l.good) {
				t.Errorf("share %d: %.0f %% of the limit, %d refusals beside %d", share, 100*used, l.refused, l.good)
			}
		})
	}
}

func TestGovernorFindsAnUnlimitedBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &limited{latency: 30 * time.Millisecond}
		s := &session{Copier: &Copier{}, governor: newGovernor(800, 100)}
		drive(t, s, l, 0, 5*time.Second)
		// A hundredth of a partition's rate at first, 35 a second; it doubles each second.
		if perSecond := float64(l.good) / 5; perSecond < 200 || l.refused > 0 {
			t.Errorf("%.0f requests a second where nothing limits them", perSecond)
		}
	})
}

// Bytes between Regions have a limit too: it only shows as requests that take longer. What is beyond it in flight moves nothing.
func TestGovernorStaysAtTheBandwidth(t *testing.T) {
	for _, tt := range []struct {
		name      string
		bandwidth float64
	}{{"limited by the link", 3e8}, {"limited by nothing but the requests", 0}} {
		synctest.Test(t, func(t *testing.T) {
			l := &limited{latency: 100 * time.Millisecond, each: 5e6, bandwidth: tt.bandwidth}
			s := &session{Copier: &Copier{}, governor: newGovernor(400, 12)}
			begin := time.Now()
			drive(t, s, l, 100*mib, 200*time.Second)
			moved := float64(l.bytes) / time.Since(begin).Seconds()
			possible := 400 * 5e6
			if tt.bandwidth > 0 {
				possible = tt.bandwidth
			}
			t.Logf("%s: %.0f %%, %d in flight at most, %.0f at the end, unit %d MiB", tt.name, 100*moved/possible, l.most, s.governor.flight, s.governor.unit()/mib)
			if moved < 0.9*possible {
				t.Errorf("%s: %.0f %% of the bound", tt.name, 100*moved/possible)
			}
		})
	}
}

func TestGovernorPlacesGoInOrderAndComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(2, 1)
		for range 2 {
			if err := g.enter(t.Context(), short); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() { gone <- g.enter(ctx, short) }()
		synctest.Wait()
		came := make(chan int, 2)
		for i := range 2 {
			go func() {
				if g.enter(t.Context(), short) == nil {
					came <- i
				}
			}()
			synctest.Wait()
		}
		cancel()
		if err := <-gone; err == nil {
			t.Error("a caller that is gone has a place")
		}
		for want := range 2 {
			g.leave(short)
			if got := <-came; got != want {
				t.Errorf("the place was given to %d, it was the turn of %d", got, want)
			}
		}
		g.leave(short)
		g.leave(short)
		if g.inFlight() != 0 || len(g.waiting[short]) != 0 {
			t.Errorf("%.0f places taken, %d waiting", g.inFlight(), len(g.waiting[short]))
		}
	})
}
