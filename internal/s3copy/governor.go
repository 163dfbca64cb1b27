package s3copy

import (
	"context"
	"math/bits"
	"sync"
	"time"
)

// governor finds how much S3 lets through and stays there. It holds two limits:
//
//   - the pace of requests: S3 refuses more than a partition's 3,500 writes a second (SlowDown). It begins with this range's share of
//     that and grows by 15 % each tick until the first refusals, which cut it to what was carried out. From there on it grows by 10
//     requests a second each second and is cut by a twentieth (by more while most are refused) at most once a second: a sum up and a
//     factor down bring those who share a partition to equal parts.
//   - the number in flight: bytes between Regions are limited too, by a bound that Amazon does not publish. Reaching it shows as
//     refusals of large copies, as errors inside a 200, or only as requests that take longer. It grows by 15 % each tick until
//     it is first cut and by 1 % from there on, while requests take as long as they did; it stands still when they take twice as long,
//     and is cut when they take three times as long.
//
// Each grows only while it is what holds the copy back. Retries are paced like first tries, and there is no quota of retries to run
// out of: the SDK's makes nine of ten calls fail in a throttled copy (s3-copy.md 2.1).
type governor struct {
	mu sync.Mutex

	rate       float64 // requests a second
	turnstile  chan struct{}
	next       time.Time
	searching  bool // no refusal yet
	paceBound  bool // the pace held somebody back in this tick
	lastCut    time.Time
	overloaded int // cuts in a row that found most refused

	flight      float64 // requests in flight allowed
	most        float64
	used        [kinds]int
	waiting     [kinds][]chan struct{}
	lastShort   time.Time // when a short one came last
	widening    bool      // never cut yet
	flightBound bool
	lastShrink  time.Time

	// Answers in this tick.
	tick                       time.Time // its begin
	answers, refusedSmall      int
	answersLarge, refusedLarge int
	failed                     int
	good                       int       // carried out since window began
	window                     time.Time // one second
	carried                    float64   // a second, in the window before

	// Time of requests by size class, factors of four: what it was at best, and in this tick.
	best    [sizeClasses]float64 // seconds; 0 is unknown
	samples [sizeClasses]int
	sums    [sizeClasses]float64
	bytes   [sizeClasses]int64

	perRequest float64 // bytes a second that one large request moves, smoothed; 0 is unknown
	throttles  int64
}

// signal is what an answer tells the governor.
type signal int

const (
	fine      signal = iota
	throttled        // SlowDown, 503
	failing          // 500, a cut connection, an error inside a 200
	refused          // says nothing about load
)

const (
	partitionRate  = 3500.0 // writes a second on one partition of a bucket (S3 user guide, "optimizing performance")
	lowestRate     = 1.0
	firstFlight    = 64.0
	lowestFlight   = 4.0
	tickLength     = 200 * time.Millisecond
	sizeClasses    = 24
	largeRequest   = 8 * mib // moves long enough to tell bandwidth from latency
	enoughSamples  = 4
	requestSeconds = 20.0 // what a request should take at most: a part's size follows from it
	// firstPerRequest is the least that anybody measured between two Regions (s3-copy.md 0).
	firstPerRequest = 5 * float64(mib)
	smallestPart    = 16 * mib
)

func newGovernor(concurrency, share int) *governor {
	now := time.Now()
	return &governor{
		rate: partitionRate / float64(max(share, 1)), turnstile: make(chan struct{}, 1), searching: true, next: now, tick: now, window: now,
		flight: min(firstFlight, float64(concurrency)), most: float64(concurrency), widening: true,
	}
}

// run closes ticks while nothing ends, until ctx does: long requests come and go all at once.
func (g *governor) run(ctx context.Context) {
	ticker := time.NewTicker(tickLength)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			g.mu.Lock()
			g.turn()
			g.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// kind of a request in flight: parts of large objects stay for long, small objects come and go.
type kind int

const (
	short kind = iota
	long
	kinds
)

// largestShare is what long requests may take of the places while there are short ones: they would hold all of them for half a minute.
const largestShare = 0.85

// enter waits for a place in flight. Places are given in the order in which those of a kind ask.
func (g *governor) enter(ctx context.Context, k kind) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	g.turn()
	if k == short {
		g.lastShort = time.Now()
	}
	if len(g.waiting[k]) == 0 && g.room(k) {
		g.used[k]++
		g.mu.Unlock()
		return nil
	}
	g.flightBound = true
	turn := make(chan struct{})
	g.waiting[k] = append(g.waiting[k], turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		for i, w := range g.waiting[k] {
			if w == turn {
				g.waiting[k] = append(g.waiting[k][:i], g.waiting[k][i+1:]...)
				return ctx.Err()
			}
		}
		g.used[k]-- // it was given at this moment
		g.admit()
		return ctx.Err()
	}
}

func (g *governor) inFlight() float64 { return float64(g.used[short] + g.used[long]) }

func (g *governor) room(k kind) bool {
	if g.inFlight()+1 > g.flight {
		return false
	}
	return k == short || float64(g.used[long])+1 <= largestShare*g.flight || time.Since(g.lastShort) > 2*time.Second
}

// leave gives the place back.
func (g *governor) leave(k kind) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used[k]--
	g.turn()
	g.admit()
}

// admit gives out what places there are: two to long ones, which are done last, for each to a short one.
func (g *governor) admit() {
	for {
		k := short
		if g.used[long] < 2*g.used[short] {
			k = long
		}
		if len(g.waiting[k]) == 0 || !g.room(k) {
			k = short + long - k
		}
		if len(g.waiting[k]) == 0 {
			return
		}
		if !g.room(k) {
			g.flightBound = true
			return
		}
		close(g.waiting[k][0])
		g.waiting[k] = g.waiting[k][1:]
		g.used[k]++
		if k == short {
			g.lastShort = time.Now()
		}
	}
}

// slack is how far the pace may fall behind and catch up: timers are not exact.
const slack = 20 * time.Millisecond

// pace waits until the next request may be sent. One waits for its moment, the others for it: moments given out ahead would be those
// of a rate that has changed since.
func (g *governor) pace(ctx context.Context) error {
	select {
	case g.turnstile <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-g.turnstile }()
	g.mu.Lock()
	g.turn()
	now := time.Now()
	if earliest := now.Add(-slack); g.next.Before(earliest) {
		g.next = earliest
	}
	g.next = g.next.Add(time.Duration(float64(time.Second) / g.rate))
	wait := g.next.Sub(now)
	if wait > 0 {
		g.paceBound = true
	}
	g.mu.Unlock()
	if wait <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answered notes how a request ended.
func (g *governor) answered(size int64, took time.Duration, s signal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch s {
	case fine:
		g.good++
		class := sizeClass(size)
		g.samples[class]++
		g.sums[class] += took.Seconds()
		g.bytes[class] += size
		if size >= largeRequest && took > 0 {
			b := float64(size) / took.Seconds()
			if g.perRequest == 0 {
				g.perRequest = b
			}
			g.perRequest += (b - g.perRequest) / 16
		}
	case throttled:
		g.throttles++
		if size >= largeRequest {
			g.refusedLarge++
		} else {
			g.refusedSmall++
		}
	case failing:
		g.failed++
	}
	g.answers++
	if size >= largeRequest {
		g.answersLarge++
	}
	g.turn()
}

func (g *governor) shrink(now time.Time, apart time.Duration, by float64) bool {
	if now.Sub(g.lastShrink) < apart {
		return false
	}
	g.flight = max(min(lowestFlight, g.most), min(g.flight, g.inFlight()+1)*by)
	g.lastShrink = now
	g.widening = false
	return true
}

// turn closes a tick that is over.
func (g *governor) turn() {
	now := time.Now()
	passed := now.Sub(g.tick)
	if passed < tickLength {
		return
	}
	g.tick = now
	// One in a hundred is an accident of S3's, not a limit.
	much := func(n int) bool { return n > 0 && n*100 > g.answers }
	switch {
	case much(g.refusedSmall) && now.Sub(g.lastCut) < time.Second:
	case much(g.refusedSmall):
		if g.searching {
			// The search overshoots: what was carried out is what S3 allows, and half is enough when that says too little.
			carried := max(g.carried, float64(g.good)/max(now.Sub(g.window).Seconds(), tickLength.Seconds()))
			g.rate = max(g.rate/2, min(g.rate, carried))
		}
		// By a twentieth. By more only when that did not help for seconds: the retries of one burst come back as another.
		by, share := 0.05, float64(g.refusedSmall)/float64(g.answers)
		if g.overloaded++; share < 0.3 {
			g.overloaded = 0
		}
		if g.overloaded > 3 {
			by = min(0.5, share)
		}
		g.rate = max(lowestRate, g.rate*(1-by))
		g.lastCut, g.searching = now, false
	case !g.paceBound:
	case g.searching:
		g.rate *= 1.15
	case now.Sub(g.lastCut) > 4*time.Second:
		g.rate = max(g.rate*1.02, g.rate+2) // others have left
	default:
		g.rate += 2
	}
	// Large ones are refused for the number of requests as small ones are; only when they alone are, it is for their bytes.
	// So do all when most are refused: fewer in flight are as good then.
	if g.refusedSmall == 0 && g.refusedLarge >= enoughSamples && g.refusedLarge*5 > g.answersLarge ||
		g.answers >= 20 && (g.refusedSmall+g.refusedLarge)*2 > g.answers {
		g.shrink(now, time.Second, 0.8)
	} else if g.answers >= 20 && g.failed*20 > g.answers {
		g.shrink(now, time.Second, 0.9)
	}
	g.answers, g.answersLarge, g.refusedSmall, g.refusedLarge, g.failed = 0, 0, 0, 0, 0
	if now.Sub(g.window) >= time.Second {
		g.carried = float64(g.good) / now.Sub(g.window).Seconds()
		g.good, g.window = 0, now
	}
	took, best, longest := 0.0, 0.0, 0.0
	for i, n := range g.samples {
		if n == 0 {
			continue
		}
		mean := g.sums[i] / float64(n)
		if n >= enoughSamples {
			// The best fades, so that a link that has become slower for good is believed in the end.
			switch g.best[i] *= 1.002; {
			case g.best[i] == 0 && g.bytes[i] >= largeRequest*int64(n):
				// The first large ones may have met a full link already: what others measured is believed until then.
				g.best[i] = min(mean, float64(g.bytes[i])/float64(n)/firstPerRequest)
			case g.best[i] == 0 || mean < g.best[i]:
				g.best[i] = mean
			}
		}
		if g.best[i] > 0 {
			took += g.sums[i]
			best += g.best[i] * float64(n)
			longest = max(longest, mean)
		}
		g.samples[i], g.sums[i], g.bytes[i] = 0, 0, 0
	}
	switch {
	case best > 0 && took > 3*best:
		// A cut shows only in requests that begin after it.
		if g.shrink(now, max(time.Second, time.Duration(longest*float64(time.Second))), 0.9) {
			// Nor may cuts that do not help go on: requests can take longer for reasons of their own.
			for i := range g.best {
				g.best[i] *= 1.1
			}
		}
	case best > 0 && took > 2*best:
	case g.flightBound && g.widening:
		g.flight = min(g.most, g.flight*1.15)
	case g.flightBound:
		g.flight = min(g.most, g.flight*1.01)
	}
	g.paceBound, g.flightBound = false, len(g.waiting[short])+len(g.waiting[long]) > 0
	g.admit()
}

func sizeClass(size int64) int { return min(bits.Len64(uint64(max(size, 0)))/2, sizeClasses-1) }

// unit returns the bytes that one request should move: what it moves in 20 s, as far as known.
func (g *governor) unit() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.perRequest
	if b == 0 {
		b = firstPerRequest
	}
	return int64(min(max(b*requestSeconds, float64(smallestPart)), float64(maxPartSize)))
}

func (g *governor) throttled() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.throttles
}
