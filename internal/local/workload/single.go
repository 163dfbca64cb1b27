package workload

import (
	"context"
	"fmt"
)

// longLine is how many words a log line of FillIndex has besides its message, so that documents of both kinds have about 1 KB.
const longLine = 85

// FillIndex creates one index in a domain that has none of that name, and fills it: "logs" of kind Logs or "catalogue" of kind
// Catalogue, documents of about 1 KB, two shards, no replicas, no aliases. Everything else is as with Fill; the same seed and size
// give the same documents, and with Extend it does not matter in how many steps they came.
func FillIndex(ctx context.Context, client Client, kind Kind, opts Options) (*Dataset, error) {
	x := Index{Name: string(kind), Kind: kind, Shards: 2}
	switch kind {
	case Logs:
		x.more = longLine
	case Catalogue:
	default:
		return nil, fmt.Errorf("fill %s: kind %q is neither %q nor %q", client.URL, kind, Logs, Catalogue)
	}
	dataset := &Dataset{Seed: opts.Seed, Indices: []Index{x}}
	if err := create(ctx, client, &dataset.Indices[0]); err != nil {
		return nil, err
	}
	return dataset, Extend(ctx, client, dataset, opts)
}

// Extend adds opts.TotalBytes of further documents to an index made by FillIndex. The index must hold what was filled and nothing
// else, and no Writer may be at work on it.
func Extend(ctx context.Context, client Client, dataset *Dataset, opts Options) error {
	if len(dataset.Indices) != 1 || dataset.Indices[0].Kind != Logs && dataset.Indices[0].Kind != Catalogue {
		return fmt.Errorf("extend the dataset at %s: it was not made by FillIndex", client.URL)
	}
	index := &dataset.Indices[0]
	total := index.Bytes + opts.TotalBytes
	f := newFiller(ctx, client, opts.Progress, opts.TotalBytes)
	defer f.cancel()
	var document []byte
	for n := uint32(index.Documents); index.Bytes < total && f.ctx.Err() == nil; n++ {
		document = index.appendFilled(document[:0], dataset.Seed, n)
		f.add(index, n, document)
		index.Documents, index.Bytes = index.Documents+1, index.Bytes+int64(len(document))
	}
	return f.finish(ctx, dataset)
}
