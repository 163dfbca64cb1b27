package workload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

const (
	missingShown    = 20
	checkBatch      = 500  // documents a _mget that asks for tokens only
	checksumBatch   = 100  // documents a _mget that asks for whole sources, a few KB each when generated
	checksumSamples = 1000 // untouched documents an index
)

// Missing is one document that is not at the destination as the last acknowledged write left it.
type Missing struct {
	Index   string `json:"index"`
	ID      string `json:"id"`
	Routing string `json:"routing,omitempty"`
	Reason  string `json:"reason"`
}

// Result is what Check found. It is in order when Problem returns nil.
type Result struct {
	// AcknowledgedWrites and WritesFoundAtDestination count operations. One is found when its document is at the destination as that
	// operation or a later one left it.
	AcknowledgedWrites       int64 `json:"acknowledgedWrites"`
	WritesFoundAtDestination int64 `json:"writesFoundAtDestination"`
	// DocumentsChecked counts documents touched by acknowledged writes; each was looked up.
	DocumentsChecked int64 `json:"documentsChecked"`
	// DocumentsWrong counts documents, touched or sampled, that are not as they should be. Missing names the first 20.
	DocumentsWrong int64     `json:"documentsWrong"`
	Missing        []Missing `json:"missing,omitempty"`
	// UntouchedSampled counts filled documents that were never written again and were compared whole; Checksum is the SHA-256 over them as
	// found and ExpectedChecksum as filled.
	UntouchedSampled int64  `json:"untouchedSampled"`
	Checksum         string `json:"checksum"`
	ExpectedChecksum string `json:"expectedChecksum"`
	// Counts is by index.
	Counts []Count `json:"counts"`
}

// Count compares the number of documents of an index.
type Count struct {
	Index    string `json:"index"`
	Expected int64  `json:"expected"` // filled + inserted - deleted
	// Uncertain writes were never answered before the Writer stopped; each may add to or take from Expected.
	UncertainMore int64 `json:"uncertainMore,omitempty"`
	UncertainLess int64 `json:"uncertainLess,omitempty"`
	Found         int64 `json:"found"`
}

func (c Count) ok() bool {
	return c.Found >= c.Expected-c.UncertainLess && c.Found <= c.Expected+c.UncertainMore
}

// Problem returns nil when everything was found, else an error that says what was not.
func (r Result) Problem() error {
	var problems []error
	if lost := r.AcknowledgedWrites - r.WritesFoundAtDestination; lost > 0 {
		problems = append(problems, fmt.Errorf("%d of %d acknowledged writes are not at the destination", lost, r.AcknowledgedWrites))
	}
	if r.DocumentsWrong > 0 && len(r.Missing) > 0 {
		m := r.Missing[0]
		problems = append(problems, fmt.Errorf("%d documents are not as they should be, the first is %s/%s: %s", r.DocumentsWrong, m.Index, m.ID, m.Reason))
	}
	if r.Checksum != r.ExpectedChecksum {
		problems = append(problems, fmt.Errorf("the checksum over %d untouched documents differs", r.UntouchedSampled))
	}
	for _, c := range r.Counts {
		if !c.ok() {
			problems = append(problems, fmt.Errorf("index %s has %d documents, expected are %d (uncertain: +%d -%d)",
				c.Index, c.Found, c.Expected, c.UncertainMore, c.UncertainLess))
		}
	}
	return errors.Join(problems...)
}

// found is one document of a _mget answer.
type found struct {
	Index  string          `json:"_index"`
	ID     string          `json:"_id"`
	Found  bool            `json:"found"`
	Source json.RawMessage `json:"_source"`
	Error  *cause          `json:"error"`
}

// wanted is one document of a _mget.
type wanted struct {
	Index   string   `json:"_index"`
	ID      string   `json:"_id"`
	Routing string   `json:"routing,omitempty"`
	Source  []string `json:"_source,omitempty"`
}

// Check compares the destination with what a stopped Writer had acknowledged and with what was filled: every document that a write
// touched, the number of documents of every index, and a sample of the untouched ones by content. A destination that lacks something is a
// Result with a Problem; an error means that it could not be found out. While the Writer runs Check is refused: the answer would be wrong
// a moment later.
func Check(ctx context.Context, destination Client, w *Writer, dataset *Dataset) (Result, error) {
	if w.dataset != dataset {
		return Result{}, errors.New("check the writes: the writer belongs to another dataset")
	}
	select {
	case <-w.ctx.Done():
	default:
		return Result{}, errors.New("check the writes: the writer is still running; stop it first")
	}
	w.workers.Wait()
	c := checker{client: destination, ledger: w.ledger, dataset: dataset}
	for _, index := range dataset.Indices {
		if err := refresh(ctx, destination, index.Name); err != nil {
			return Result{}, fmt.Errorf("check the writes at %s: %w", destination.URL, err)
		}
	}
	for _, step := range []func(context.Context) error{c.writes, c.counts, c.untouched} {
		if err := step(ctx); err != nil {
			return Result{}, fmt.Errorf("check the writes at %s: %w", destination.URL, err)
		}
	}
	return c.result, nil
}

type checker struct {
	client  Client
	ledger  *ledger
	dataset *Dataset
	result  Result
}

func (c *checker) wrong(m Missing) {
	c.result.DocumentsWrong++
	if len(c.result.Missing) < missingShown {
		c.result.Missing = append(c.result.Missing, m)
	}
}

// mget returns the documents asked for, in order.
func (c *checker) mget(ctx context.Context, docs []wanted) ([]found, error) {
	var answer struct {
		Docs []found `json:"docs"`
	}
	err := persistently(ctx, "look documents up", func(int) error {
		answer.Docs = nil
		return c.client.do(ctx, http.MethodPost, "/_mget", map[string]any{"docs": docs}, &answer)
	})
	if err != nil {
		return nil, err
	}
	if len(answer.Docs) != len(docs) {
		return nil, fmt.Errorf("_mget answered %d documents for %d", len(answer.Docs), len(docs))
	}
	for i, doc := range answer.Docs {
		if doc.ID != docs[i].ID {
			return nil, fmt.Errorf("_mget answered document %s where %s was asked for", doc.ID, docs[i].ID)
		}
		if doc.Error != nil {
			return nil, fmt.Errorf("_mget of %s/%s: %s", docs[i].Index, docs[i].ID, doc.Error)
		}
	}
	return answer.Docs, nil
}

// writes looks up every document that an acknowledged operation touched.
func (c *checker) writes(ctx context.Context) error {
	l := c.ledger
	c.result.AcknowledgedWrites = int64(len(l.entries))
	reached := map[uint32]uint32{} // wrong documents: position -> number of the last operation whose effect is there
	absent := map[uint32]bool{}    // wrong documents that are not there: their last acknowledged delete is the operation reached
	var batch []wanted
	var positions []uint32
	look := func() error {
		if len(batch) == 0 {
			return nil
		}
		answers, err := c.mget(ctx, batch)
		if err != nil {
			return err
		}
		for i, answer := range answers {
			d := &l.docs[positions[i]]
			number, reason := c.judge(d, answer)
			if reason == "" {
				continue
			}
			reached[positions[i]], absent[positions[i]] = number, !answer.Found
			c.wrong(Missing{batch[i].Index, batch[i].ID, batch[i].Routing, reason})
		}
		batch, positions = batch[:0], positions[:0]
		return nil
	}
	for position := range l.docs {
		d := &l.docs[position]
		if d.last == 0 {
			continue
		}
		c.result.DocumentsChecked++
		x := &c.dataset.Indices[d.index]
		batch = append(batch, wanted{x.Name, l.id(d), x.routing(d.n), []string{TokenField}})
		positions = append(positions, uint32(position))
		if len(batch) == checkBatch {
			if err := look(); err != nil {
				return err
			}
		}
	}
	if err := look(); err != nil {
		return err
	}
	c.result.WritesFoundAtDestination = c.result.AcknowledgedWrites
	if len(reached) == 0 {
		return nil
	}
	for _, e := range l.entries { // absent as after an earlier delete: that delete and what came before it are found
		if absent[e.doc] && e.kind == opDelete {
			reached[e.doc] = max(reached[e.doc], e.number)
		}
	}
	for _, e := range l.entries {
		if number, isWrong := reached[e.doc]; isWrong && e.number > number {
			c.result.WritesFoundAtDestination--
		}
	}
	return nil
}

// judge returns an empty reason when the document is as the last acknowledged operation left it, or as one of unknown outcome after it
// did; else why not, and the number of the operation whose token is there (0: none).
func (c *checker) judge(d *document, answer found) (uint32, string) {
	if !answer.Found {
		if d.lastKind == opDelete || d.maybe != 0 && d.maybeKind == opDelete {
			return 0, ""
		}
		return 0, fmt.Sprintf("not there; the last acknowledged operation is %s %s", d.lastKind, c.ledger.token(d.last))
	}
	var source map[string]json.RawMessage
	var token string
	if err := json.Unmarshal(answer.Source, &source); err == nil && source[TokenField] != nil {
		_ = json.Unmarshal(source[TokenField], &token) // a token of another type is no token of ours
	}
	number := c.ledger.number(token)
	if number != 0 && (number == d.maybe && d.maybeKind != opDelete || number == d.last && d.lastKind != opDelete) {
		return number, ""
	}
	state := "has token " + token
	if token == "" {
		state = "has no token, as it was filled"
	}
	if d.lastKind == opDelete {
		return number, fmt.Sprintf("is there and %s; the last acknowledged operation is delete %s", state, c.ledger.token(d.last))
	}
	if number > d.last {
		return number, fmt.Sprintf("%s, of an operation that was not acknowledged; the last acknowledged is %s", state, c.ledger.token(d.last))
	}
	return number, fmt.Sprintf("%s; the last acknowledged operation is %s %s", state, d.lastKind, c.ledger.token(d.last))
}

// counts compares the number of documents by index.
func (c *checker) counts(ctx context.Context) error {
	counts := make([]Count, len(c.dataset.Indices))
	for i, x := range c.dataset.Indices {
		counts[i] = Count{Index: x.Name, Expected: x.Documents}
	}
	for i := range c.ledger.docs {
		d := &c.ledger.docs[i]
		count := &counts[d.index]
		alive := d.alive()
		switch {
		case alive && !d.inserted:
			// counted by Documents
		case alive:
			count.Expected++
		case !d.inserted:
			count.Expected--
		}
		switch {
		case d.maybe == 0:
		case alive && d.maybeKind == opDelete:
			count.UncertainLess++
		case !alive && d.maybeKind != opDelete:
			count.UncertainMore++
		}
	}
	for i := range counts {
		var err error
		if counts[i].Found, err = c.client.count(ctx, counts[i].Index); err != nil {
			return fmt.Errorf("count index %s: %w", counts[i].Index, err)
		}
	}
	c.result.Counts = counts
	return nil
}

// untouched compares a sample of the documents that no write touched, whole.
func (c *checker) untouched(ctx context.Context) error {
	have, want := sha256.New(), sha256.New()
	for i := range c.dataset.Indices {
		x := &c.dataset.Indices[i]
		var numbers []uint32
		for _, n := range x.untouched(checksumSamples) {
			if !c.ledger.touched(i, n) {
				numbers = append(numbers, n)
			}
		}
		for len(numbers) > 0 {
			now := numbers[:min(len(numbers), checksumBatch)]
			numbers = numbers[len(now):]
			batch := make([]wanted, len(now))
			for j, n := range now {
				batch[j] = wanted{Index: x.Name, ID: filledID(n), Routing: x.routing(n)}
			}
			answers, err := c.mget(ctx, batch)
			if err != nil {
				return err
			}
			for j, answer := range answers {
				c.result.UntouchedSampled++
				expected, err := canonical(x.original(c.dataset.Seed, now[j]))
				if err != nil {
					return fmt.Errorf("document %s/%s as filled: %w", x.Name, batch[j].ID, err)
				}
				fmt.Fprintf(want, "%s/%s %s\n", x.Name, batch[j].ID, expected)
				if !answer.Found {
					c.wrong(Missing{x.Name, batch[j].ID, batch[j].Routing, "filled, never written again, and not there"})
					continue
				}
				actual, err := canonical(answer.Source)
				if err != nil {
					return fmt.Errorf("document %s/%s: %w", x.Name, batch[j].ID, err)
				}
				fmt.Fprintf(have, "%s/%s %s\n", x.Name, batch[j].ID, actual)
				if !bytes.Equal(actual, expected) {
					c.wrong(Missing{x.Name, batch[j].ID, batch[j].Routing, "filled, never written again, and its content differs"})
				}
			}
		}
	}
	c.result.Checksum, c.result.ExpectedChecksum = hex.EncodeToString(have.Sum(nil)), hex.EncodeToString(want.Sum(nil))
	return nil
}
