package replay

import (
	"context"
	"sync"
	"time"
)

// lanes bound how many shards a call works on at a time: one more after each shard that went well, half as many when a domain says that
// it is too busy, and from then on one more only after as many shards as there are lanes.
type lanes struct {
	mu          sync.Mutex
	free        *sync.Cond
	limit, most int
	busy, went  int
	slowed      time.Time
}

func newLanes(first, most int) *lanes {
	l := &lanes{limit: first, most: most}
	l.free = sync.NewCond(&l.mu)
	return l
}

// readingLanes are those of the calls that compare shards.
func (r *Replayer) readingLanes() *lanes {
	if r.Concurrency > 0 {
		return newLanes(r.Concurrency, r.Concurrency)
	}
	return newLanes(firstLanes, mostLanes)
}

func (l *lanes) enter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.busy >= l.limit {
		l.free.Wait()
	}
	l.busy++
}

func (l *lanes) leave(well bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	if well {
		l.went++
	}
	if l.went >= l.limit || well && l.slowed.IsZero() {
		l.limit, l.went = min(l.limit+1, l.most), 0
	}
	l.free.Broadcast()
}

// slower halves the lanes. The requests that were under way at that moment are refused together, and count once.
func (l *lanes) slower() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.slowed) >= time.Second {
		l.limit, l.went, l.slowed = max(1, l.limit/2), 0, now
	}
}

// eachShard calls f for the shards, as many at a time as there are lanes, until one fails.
func eachShard(ctx context.Context, l *lanes, shards []ShardRef, f func(ctx context.Context, i int, ref ShardRef) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	var once sync.Once
	var failure error
	for i, ref := range shards {
		l.enter()
		if ctx.Err() != nil {
			l.leave(false)
			break
		}
		workers.Go(func() {
			err := f(ctx, i, ref)
			if err != nil {
				once.Do(func() { failure = err })
				cancel()
			}
			l.leave(err == nil)
		})
	}
	workers.Wait()
	return failure
}
