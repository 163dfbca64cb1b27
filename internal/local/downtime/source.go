package downtime

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/domainferry/domainferry/internal/local/workload"
)

const (
	byHand   = "by-hand"  // repository of the hand procedure; the source's filled state is a snapshot in it
	pristine = "pristine" // the same objects, read-only and without a throttle: to put the source back
	base     = "base"     // snapshot of the filled source

	raised = "1gb" // of every rate that a cell raises
)

// filled is the source's index in the state that every run begins with.
type filled struct {
	dataset *workload.Dataset
	index   string
	bytes   int64  // primary store as filled
	base    string // snapshot of that state
}

// grow fills the index until its primaries have about bytes on disk, waits until merges have settled, and keeps that state as a
// snapshot. It goes on from the state of a smaller size, so that nothing is filled twice.
func (b *bench) grow(ctx context.Context, kind workload.Kind, bytes int64) error {
	node := domain{workload.Client{URL: b.env.Source.Direct}}
	if b.filled.dataset == nil {
		if err := b.registerByHand(ctx, raised); err != nil {
			return err
		}
	} else if err := b.reset(ctx); err != nil {
		return err
	}
	index := string(kind)
	ratio := 0.8 // of store to documents; learnt by the first part
	if b.filled.dataset != nil {
		ratio = float64(b.filled.bytes) / float64(b.filled.dataset.Bytes())
	}
	store := b.filled.bytes // of the smaller size, which was put back
	for part := 0; float64(store) < 0.97*float64(bytes); part++ {
		if part == 8 {
			return fmt.Errorf("fill %s to %s: it has %s after %d parts", index, mb(bytes), mb(store), part)
		}
		missing := int64(float64(bytes-store) / ratio)
		if part == 0 && b.filled.dataset == nil {
			missing /= 2 // a small first step teaches the ratio
		}
		if b.filled.dataset == nil {
			dataset, err := workload.FillIndex(ctx, node.Client, kind, workload.Options{Seed: b.cfg.Seed, TotalBytes: 1})
			if err != nil {
				return err
			}
			b.filled = filled{dataset: dataset, index: index}
		}
		if err := node.setSettings(ctx, index, map[string]any{"index.refresh_interval": "-1", "index.translog.durability": "async"}); err != nil {
			return err
		}
		if err := workload.Extend(ctx, node.Client, b.filled.dataset, workload.Options{TotalBytes: missing}); err != nil {
			return err
		}
		if err := b.settle(ctx, node); err != nil {
			return err
		}
		var err error
		if store, err = node.storeBytes(ctx, index); err != nil {
			return err
		}
		ratio = float64(store) / float64(b.filled.dataset.Bytes())
	}
	if err := node.setSettings(ctx, index, map[string]any{"index.refresh_interval": nil, "index.translog.durability": nil}); err != nil {
		return err
	}
	b.filled.bytes = store
	return b.keep(ctx)
}

// settle writes everything to disk and waits for the merges that follow.
func (b *bench) settle(ctx context.Context, node domain) error {
	if err := node.call(ctx, http.MethodPost, "/"+b.filled.index+"/_flush?force=true", nil, nil); err != nil {
		return err
	}
	quiet := 0
	return awaitEvery(ctx, "merges of "+b.filled.index, 500*time.Millisecond, patience, func(ctx context.Context) (bool, error) {
		var stats struct {
			All struct {
				Primaries struct{ Merges struct{ Current int64 } }
			} `json:"_all"`
		}
		if err := node.call(ctx, http.MethodGet, "/"+b.filled.index+"/_stats/merge", nil, &stats); err != nil {
			return false, err
		}
		if quiet++; stats.All.Primaries.Merges.Current > 0 {
			quiet = 0
		}
		return quiet >= 2, nil // one look may fall between two merges
	})
}

// registerByHand registers the hand procedure's repository at the source, its snapshots throttled to rate; "" is the engine's default.
func (b *bench) registerByHand(ctx context.Context, rate string) error {
	return b.source.call(ctx, http.MethodPut, "/_snapshot/"+byHand, repository(b.env.Source.Bucket, byHand, false, rate), nil)
}

// keep makes the source's present state the one that reset goes back to, and brings its snapshot to the destination's bucket.
func (b *bench) keep(ctx context.Context) error {
	f := &b.filled
	old := f.base
	f.base = fmt.Sprintf("%s-%d", base, f.dataset.Documents())
	if err := b.registerByHand(ctx, raised); err != nil {
		return err
	}
	if err := b.source.snapshot(ctx, byHand, f.base, f.index); err != nil {
		return err
	}
	if old != "" {
		if err := b.source.deleteSnapshot(ctx, byHand, old); err != nil {
			return err
		}
	}
	if err := b.source.call(ctx, http.MethodPut, "/_snapshot/"+pristine, repository(b.env.Source.Bucket, byHand, true, raised), nil); err != nil {
		return err
	}
	return b.sync(ctx)
}

// reset puts the source back to the filled state and clears the destination.
func (b *bench) reset(ctx context.Context) error {
	sourceNode, destinationNode := domain{workload.Client{URL: b.env.Source.Direct}}, domain{workload.Client{URL: b.env.Destination.Direct}}
	if err := destinationNode.deleteIndex(ctx, b.filled.index); err != nil {
		return err
	}
	if err := sourceNode.deleteIndex(ctx, b.filled.index); err != nil {
		return err
	}
	if err := sourceNode.recoveryRate(ctx, raised); err != nil {
		return err
	}
	if err := b.source.restore(ctx, pristine, b.filled.base, b.filled.index); err != nil {
		return fmt.Errorf("put the source back: %w", err)
	}
	if err := sourceNode.recoveryRate(ctx, ""); err != nil {
		return err
	}
	count, err := sourceNode.count(ctx, b.filled.index)
	if err != nil {
		return err
	}
	if want := b.filled.dataset.Documents(); count != want {
		return fmt.Errorf("put the source back: index %s has %d documents, it was filled with %d", b.filled.index, count, want)
	}
	return nil
}
