package downtime

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/local/workload"
	"github.com/domainferry/domainferry/internal/migration"
)

// verify refuses a run whose copy is not whole.
func (b *bench) verify(ctx context.Context, run *Run, writer *workload.Writer) error {
	result, err := workload.Check(ctx, b.destination.Client, writer, b.filled.dataset)
	if err != nil {
		return err
	}
	if err := result.Problem(); err != nil {
		return fmt.Errorf("the copy is not whole: %w", err)
	}
	run.WritesChecked = result.AcknowledgedWrites
	if run.Procedure != ByDF {
		return nil
	}
	if v := run.Ferry.Verdict; v != migration.Verified && v != migration.VerifiedWithWarnings {
		return fmt.Errorf("the verdict is %q", v)
	}
	if !b.cfg.Compare || run.Pair > 1 {
		return nil
	}
	if run.Compared, err = b.compareAll(ctx, writer.WrittenAtDestination()[b.filled.index]); err != nil {
		return fmt.Errorf("compare the indices document by document: %w", err)
	}
	return nil
}

// digest is a sum over documents that does not depend on their order.
type digest struct {
	documents   int64
	first, last uint64
}

func (d *digest) add(o digest) {
	d.documents, d.first, d.last = d.documents+o.documents, d.first+o.first, d.last+o.last
}

// compareAll reads every document of both sides and compares id, routing, version and source, byte by byte, leaving out those that
// the clients have written at the destination since. It returns how many documents were compared.
func (b *bench) compareAll(ctx context.Context, except map[string]bool) (int64, error) {
	sums := [2]digest{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for side, url := range []string{b.env.Source.Direct, b.env.Destination.Direct} {
		node := domain{workload.Client{URL: url}}
		if err := node.refresh(ctx, b.filled.index); err != nil {
			return 0, err
		}
		of := min(b.cfg.Slices, 2) // the two sides at once already take both cores
		for i := range of {
			group.Go(func() error {
				var mine digest
				err := node.scroll(ctx, b.filled.index, slice{i, of}, scrollPage, func(hits []hit) error {
					for _, h := range hits {
						if !except[h.ID] {
							mine.add(digestOf(h))
						}
					}
					return nil
				})
				mu.Lock()
				defer mu.Unlock()
				sums[side].add(mine)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if sums[0] != sums[1] {
		return 0, fmt.Errorf("%d documents at the source and %d at the destination are not the same", sums[0].documents, sums[1].documents)
	}
	return sums[0].documents, nil
}

func digestOf(h hit) digest {
	hash := sha256.New()
	for _, field := range []string{h.ID, h.Routing, strconv.FormatInt(h.Version, 10)} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(field)))
		hash.Write(length[:])
		hash.Write([]byte(field))
	}
	hash.Write(h.Source)
	sum := hash.Sum(nil)
	return digest{1, binary.BigEndian.Uint64(sum), binary.BigEndian.Uint64(sum[8:])}
}
