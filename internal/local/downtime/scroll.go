package downtime

import (
	"context"
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/local/workload"
)

const scrollPage = 2000 // documents a page and a _bulk: about 2 MB, well under the 10 MB that small Amazon instance types take

// byScroll copies document by document, as re-indexing tools do: mappings first, then slices read by scroll and written by _bulk, the
// destination without refresh meanwhile. Such tools see no later changes, so writes are stopped all the while.
func (b *bench) byScroll(ctx context.Context, run *Run, writer *workload.Writer) error {
	index := b.filled.index
	steps := phases{run: run}
	return steps.do(ctx, []phase{
		{"block", func(ctx context.Context) error { return b.source.block(ctx, index, true) }},
		{"create", func(ctx context.Context) error { return b.createAlike(ctx, index) }},
		{"copy", func(ctx context.Context) error {
			if err := b.source.refresh(ctx, index); err != nil {
				return err
			}
			group, ctx := errgroup.WithContext(ctx)
			for i := range b.cfg.Slices {
				group.Go(func() error {
					return b.source.scroll(ctx, index, slice{i, b.cfg.Slices}, scrollPage, func(hits []hit) error {
						return b.destination.bulk(ctx, index, hits)
					})
				})
			}
			return group.Wait()
		}},
		{"counts", func(ctx context.Context) error { return b.compareCounts(ctx) }},
		{"open", func(ctx context.Context) error {
			if err := b.destination.setSettings(ctx, index, map[string]any{"index.refresh_interval": nil}); err != nil {
				return err
			}
			writer.SwitchTo(b.destination.Client)
			return nil
		}},
	})
}

// createAlike makes the destination's index with the source's mappings and number of shards.
func (b *bench) createAlike(ctx context.Context, index string) error {
	var mappings map[string]struct{ Mappings any }
	if err := b.source.call(ctx, http.MethodGet, "/"+index+"/_mapping", nil, &mappings); err != nil {
		return err
	}
	found, ok := mappings[index]
	if !ok {
		return fmt.Errorf("the source answers no mapping of index %s", index)
	}
	return b.destination.call(ctx, http.MethodPut, "/"+index, map[string]any{
		"settings": map[string]any{"index.number_of_shards": b.filled.dataset.Indices[0].Shards, "index.number_of_replicas": 0, "index.refresh_interval": "-1"},
		"mappings": found.Mappings,
	}, nil)
}
