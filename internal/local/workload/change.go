package workload

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// Change is a number of operations of each kind.
type Change struct{ Inserts, Updates, Deletes int }

// Operations is how many they are.
func (c Change) Operations() int { return c.Inserts + c.Updates + c.Deletes }

const changeBatch = 500 // operations a _bulk: well under the 10 MB that small Amazon instance types take

// Apply carries out a change of the first written index as fast as the domain takes it, beside the steady writes and kept in the
// same memory: updates and deletes hit random documents that exist, inserts are new. It returns when all of it is answered, or the
// Writer has ended. Operations that are refused for good, or find no document, are an error.
func (w *Writer) Apply(c Change) error {
	index := w.writing[0]
	random := rand.New(rand.NewPCG(w.dataset.Seed, 1<<40))
	rejected := w.Stats().Rejected
	for _, part := range []struct {
		kind  opKind
		fresh bool
		count int
	}{{opIndex, true, c.Inserts}, {opUpdate, false, c.Updates}, {opDelete, false, c.Deletes}} {
		for left := part.count; left > 0; {
			operations := make([]*operation, 0, changeBatch)
			for range min(left, changeBatch) {
				position, number, ok := w.ledger.begin(random, index, part.kind, part.fresh)
				if !ok {
					return w.undone(operations, fmt.Errorf("change index %s: no document is left to %s", w.dataset.Indices[index].Name, part.kind))
				}
				op := &operation{position: position, number: number, kind: part.kind}
				operations = append(operations, op)
				if err := w.write(random, op); err != nil {
					return w.undone(operations, err)
				}
			}
			left -= len(operations)
			w.mu.Lock()
			w.stats.Pending += int64(len(operations))
			w.mu.Unlock()
			w.deliver(operations)
			if w.ctx.Err() != nil {
				return fmt.Errorf("change index %s: the writer has ended before all was answered", w.dataset.Indices[index].Name)
			}
		}
	}
	if stats := w.Stats(); stats.Rejected > rejected {
		return errors.New("change the source: operations were refused: " + stats.LastError)
	}
	return nil
}

// undone gives operations up that were never sent.
func (w *Writer) undone(operations []*operation, err error) error {
	for _, op := range operations {
		w.ledger.giveUp(op)
	}
	return err
}

// WrittenAtDestination are the documents (id by index) that the destination has acknowledged a write of, deletes included: only in
// these may source and destination differ after a cut-over.
func (w *Writer) WrittenAtDestination() map[string]map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	written := map[string]map[string]bool{}
	for _, position := range w.atDestination {
		d := w.ledger.document(position)
		name := w.dataset.Indices[d.index].Name
		if written[name] == nil {
			written[name] = map[string]bool{}
		}
		written[name][w.ledger.id(&d)] = true
	}
	return written
}
