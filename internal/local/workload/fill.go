package workload

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

const (
	// DefaultBytes is what Fill writes unless told otherwise.
	DefaultBytes = 150 << 20

	bulkBytes   = 5 << 20 // a _bulk body stays near this: half of the 10 MB that small Amazon instance types take
	bulkWriters = 3       // _bulk requests under way at once
	maxLine     = 9 << 20 // one document of a user's file, in bytes; larger ones do not fit a request to a small Amazon instance type
	sampleCount = 2000    // documents of a user's file that are kept
	sampleBytes = 8 << 20
)

// Options say what Fill writes.
type Options struct {
	// Seed decides every document.
	Seed uint64
	// TotalBytes is the size of all documents, JSON source; 0 means DefaultBytes. FillFile writes the file and ignores it.
	TotalBytes int64
	// Progress is told after each _bulk how many bytes of how many are written. It is never called concurrently. Optional.
	Progress func(done, total int64)
}

// Fill creates three indices in an empty domain and fills them: logs (35 % of the bytes, append-only), catalogue (55 %, nested
// attributes, a quarter of the documents with custom routing) and countries (10 %, static). The same seed and size give the same
// documents. A _bulk of unknown outcome is repeated; any refused item is an error, and so is an index that exists already.
func Fill(ctx context.Context, client Client, opts Options) (*Dataset, error) {
	total := opts.TotalBytes
	if total == 0 {
		total = DefaultBytes
	}
	if total < 0 {
		return nil, fmt.Errorf("fill %s: a size of %d bytes is not possible", client.URL, total)
	}
	dataset := &Dataset{Seed: opts.Seed, Indices: []Index{
		{Name: "logs", Kind: Logs, Shards: 2, Replicas: 1, Aliases: []string{"logs-all"}, number: 0},
		{Name: "catalogue", Kind: Catalogue, Shards: 2, Replicas: 0, Aliases: []string{"catalogue-live"}, number: 1},
		{Name: "countries", Kind: Static, Shards: 1, Replicas: 0, number: 2},
	}}
	percent := []int64{35, 55, 10}
	for i := range dataset.Indices {
		if err := create(ctx, client, &dataset.Indices[i]); err != nil {
			return nil, err
		}
	}
	f := newFiller(ctx, client, opts.Progress, total)
	defer f.cancel()
	for i := range dataset.Indices {
		index := &dataset.Indices[i]
		var document []byte
		for n := uint32(0); index.Bytes < total*percent[i]/100 && f.ctx.Err() == nil; n++ {
			document = index.appendFilled(document[:0], opts.Seed, n)
			f.add(index, n, document)
			index.Documents, index.Bytes = index.Documents+1, index.Bytes+int64(len(document))
		}
	}
	if err := f.finish(ctx, dataset); err != nil {
		return nil, err
	}
	return dataset, nil
}

// FillFile creates one index, named after the file, and writes the documents of a user's NDJSON file to it: one JSON object a
// line, ids doc-<n> counted from 0; blank lines are left out. The whole file is read first, so that a line that is no JSON object
// is an error (with its number) before anything is touched.
func FillFile(ctx context.Context, client Client, path string, opts Options) (*Dataset, error) {
	name, err := indexName(path)
	if err != nil {
		return nil, err
	}
	var total, documents int64
	if err := eachLine(path, func(_ int, document []byte) error {
		total, documents = total+int64(len(document)), documents+1
		return ctx.Err()
	}); err != nil {
		return nil, err
	}
	if documents == 0 {
		return nil, fmt.Errorf("%s holds no documents; one JSON object a line is wanted", path)
	}
	dataset := &Dataset{Seed: opts.Seed, Indices: []Index{{Name: name, Kind: File, Shards: 2, Replicas: 1, Aliases: []string{name + "-all"}}}}
	index := &dataset.Indices[0]
	if err := create(ctx, client, index); err != nil {
		return nil, err
	}
	f := newFiller(ctx, client, opts.Progress, total)
	defer f.cancel()
	f.where = map[uint32]int{}
	stride := max(documents/sampleCount, 1)
	kept := 0
	err = eachLine(path, func(line int, document []byte) error {
		n := uint32(index.Documents)
		if int64(n)%stride == 0 && len(index.sample) < sampleCount && kept+len(document) <= sampleBytes {
			index.sample = append(index.sample, taken{n, bytes.Clone(document)})
			kept += len(document)
		}
		f.addLine(index, n, line, document)
		index.Documents, index.Bytes = index.Documents+1, index.Bytes+int64(len(document))
		return f.ctx.Err()
	})
	if finished := f.finish(ctx, dataset); finished != nil {
		return nil, fmt.Errorf("%s: %w", path, finished)
	}
	if err != nil {
		return nil, err
	}
	return dataset, nil
}

// indexName makes an index name from a file's name by the engines' rules (lower case, none of \/*?"<>| ,#: and no leading _ - + .).
func indexName(path string) (string, error) {
	base := filepath.Base(path)
	for _, extension := range []string{".ndjson", ".jsonl", ".json"} {
		if strings.HasSuffix(strings.ToLower(base), extension) {
			base = base[:len(base)-len(extension)]
			break
		}
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '-'
	}, strings.ToLower(base))
	name = strings.TrimLeft(name, "_-+.")
	name = strings.TrimRight(name[:min(len(name), 100)], "-.")
	if name == "" {
		return "", fmt.Errorf("no index name can be made from the file name %q; rename the file, for example to documents.ndjson", path)
	}
	return name, nil
}

// eachLine calls use with every document of an NDJSON file and its line number, counted from 1. The slice is only valid during the call.
func eachLine(path string, use func(line int, document []byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the documents: %w", err)
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Buffer(make([]byte, 64<<10), maxLine)
	line := 0
	for scanner.Scan() {
		line++
		document := scanner.Bytes()
		if line == 1 {
			document = bytes.TrimPrefix(document, []byte("\xef\xbb\xbf"))
		}
		document = bytes.TrimSpace(document)
		if len(document) == 0 {
			continue
		}
		if document[0] != '{' || !json.Valid(document) {
			const enough = 60
			return fmt.Errorf("%s line %d is no JSON object: %q; one JSON object a line is wanted", path, line, document[:min(len(document), enough)])
		}
		if err := use(line, document); err != nil {
			return err
		}
	}
	if err := scanner.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("%s line %d is longer than %d bytes, more than one request to a domain can carry", path, line+1, maxLine)
		}
		return fmt.Errorf("%s line %d: %w", path, line+1, err)
	}
	return nil
}

func create(ctx context.Context, client Client, index *Index) error {
	return persistently(ctx, "create index "+index.Name, func(attempt int) error {
		err := client.do(ctx, http.MethodPut, "/"+index.Name, index.definition(), nil)
		answer, answered := errors.AsType[*answerError](err)
		if answered && (answer.kind == "resource_already_exists_exception" || answer.kind == "index_already_exists_exception") {
			if attempt > 0 {
				return nil // made by an attempt of ours whose answer was lost
			}
			return fmt.Errorf("it exists already at %s; a rehearsal wants an empty domain: %w", client.URL, err)
		}
		return err
	})
}

// body is one _bulk under construction.
type body struct {
	data    []byte
	index   *Index
	numbers []uint32
	bytes   int64 // of documents
}

// filler sends _bulk bodies in parallel.
type filler struct {
	ctx      context.Context
	cancel   context.CancelFunc
	client   Client
	progress func(done, total int64)
	total    int64

	open   body
	bodies chan body
	spare  chan []byte
	wait   sync.WaitGroup

	mu    sync.Mutex
	where map[uint32]int // line of document n, while it is not written; only kept for files
	done  int64
	err   error
}

func newFiller(ctx context.Context, client Client, progress func(done, total int64), total int64) *filler {
	f := &filler{client: client, progress: progress, total: total, bodies: make(chan body), spare: make(chan []byte, bulkWriters)}
	f.ctx, f.cancel = context.WithCancel(ctx)
	for range bulkWriters {
		f.wait.Go(func() {
			for b := range f.bodies {
				f.send(b)
			}
		})
	}
	return f
}

func (f *filler) addLine(index *Index, n uint32, line int, document []byte) {
	f.mu.Lock()
	f.where[n] = line
	f.mu.Unlock()
	f.add(index, n, document)
}

func (f *filler) add(index *Index, n uint32, document []byte) {
	if len(f.open.data) > 0 && (f.open.index != index || len(f.open.data)+len(document) > bulkBytes) {
		f.flush()
	}
	b := &f.open
	b.index = index
	b.data = index.appendAction(b.data, "index", filledID(n), index.routing(n))
	b.data = append(append(b.data, document...), '\n')
	b.numbers = append(b.numbers, n)
	b.bytes += int64(len(document))
}

func (f *filler) flush() {
	if len(f.open.data) > 0 {
		f.bodies <- f.open // senders drain the channel even after an error
	}
	f.open = body{}
	select {
	case spare := <-f.spare:
		f.open.data = spare[:0]
	default:
		f.open.data = make([]byte, 0, bulkBytes+bulkBytes/10)
	}
}

func (f *filler) send(b body) {
	err := f.ctx.Err()
	if err == nil {
		once := func(int) error {
			items, err := f.client.bulk(f.ctx, b.data, len(b.numbers))
			if err != nil {
				return err
			}
			return f.judge(b, items)
		}
		err = persistently(f.ctx, "fill index "+b.index.Name, once)
		if answer, ok := errors.AsType[*answerError](err); ok && answer.status == http.StatusBadRequest && b.index.Kind == File {
			// Two shards that see a new field at once may guess different types, and one document is refused; by now the type is settled.
			err = persistently(f.ctx, "fill index "+b.index.Name, once)
		}
	}
	select {
	case f.spare <- b.data:
	default:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		if f.err == nil {
			f.err = err
		}
		f.cancel()
		return
	}
	f.done += b.bytes
	for _, n := range b.numbers {
		delete(f.where, n)
	}
	if f.progress != nil {
		f.progress(f.done, f.total)
	}
}

// judge turns the first refused item into an error. A 429 or 5xx item is answered as such, so that the body is sent again.
func (f *filler) judge(b body, items []bulkItem) error {
	for i, item := range items {
		if item.Status >= 200 && item.Status < 300 && item.Error == nil {
			continue
		}
		reason := cause{Type: "none", Reason: "no error given"}
		if item.Error != nil {
			reason = *item.Error
		}
		what := "document " + filledID(b.numbers[i])
		f.mu.Lock()
		if line, ok := f.where[b.numbers[i]]; ok {
			what = fmt.Sprintf("line %d", line)
		}
		f.mu.Unlock()
		return &answerError{method: http.MethodPost, url: f.client.URL + "/_bulk", status: item.Status, kind: what + " was refused", reason: reason.String()}
	}
	return nil
}

// finish sends what is left, waits, refreshes and compares the counts.
func (f *filler) finish(ctx context.Context, dataset *Dataset) error {
	f.flush()
	close(f.bodies)
	f.wait.Wait()
	if f.err != nil {
		return f.err
	}
	for _, index := range dataset.Indices {
		if err := refresh(ctx, f.client, index.Name); err != nil {
			return err
		}
		count, err := f.client.count(ctx, index.Name)
		if err != nil {
			return fmt.Errorf("count index %s: %w", index.Name, err)
		}
		if count != index.Documents {
			return fmt.Errorf("fill index %s: %d documents were acknowledged and %d are there; was somebody else writing?", index.Name, index.Documents, count)
		}
	}
	return nil
}

func refresh(ctx context.Context, client Client, index string) error {
	return persistently(ctx, "refresh index "+index, func(int) error {
		return client.do(ctx, http.MethodPost, "/"+index+"/_refresh", nil, nil)
	})
}

// canonical returns a document in one fixed form (sorted keys, numbers as written), for comparison.
func canonical(source []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(source))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return json.Marshal(v)
}

// untouched returns the numbers of a sample of filled documents, at most limit, spread evenly.
func (x *Index) untouched(limit int) []uint32 {
	known := x.Documents
	if x.Kind == File {
		known = int64(len(x.sample))
	}
	numbers := make([]uint32, min(known, int64(limit)))
	for i := range numbers {
		at := int64(i) * known / int64(len(numbers))
		if x.Kind == File {
			numbers[i] = x.sample[at].n
		} else {
			numbers[i] = uint32(at)
		}
	}
	return numbers
}

// original returns document n as it was filled; for a file only a sampled one.
func (x *Index) original(seed uint64, n uint32) []byte {
	if x.Kind != File {
		return x.appendFilled(nil, seed, n)
	}
	i, found := slices.BinarySearchFunc(x.sample, n, func(t taken, n uint32) int { return int(t.n) - int(n) })
	if !found {
		return nil
	}
	return x.sample[i].source
}
