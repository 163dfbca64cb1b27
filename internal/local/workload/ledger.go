package workload

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
)

type opKind uint8

const (
	opIndex  opKind = iota // the whole document, new or in place of the old one
	opUpdate               // a few fields of a document that exists
	opDelete
)

func (k opKind) String() string { return [...]string{"index", "update", "delete"}[k] }

// entry is one acknowledged operation: 12 bytes, a million of them must stay small.
type entry struct {
	doc    uint32 // position in ledger.docs
	number uint32 // the token; numbers of one document rise, as its operations are strictly ordered
	kind   opKind
}

// document is what the ledger knows of one document that was ever written by the Writer.
type document struct {
	n         uint32 // filled: doc-<n>; inserted: the n-th insert into its index
	last      uint32 // number of the last acknowledged operation, 0 when there is none
	maybe     uint32 // number of an operation of unknown outcome that was never acknowledged, 0 when there is none
	index     uint8
	lastKind  opKind
	maybeKind opKind
	inserted  bool // by the Writer, not by the fill
	busy      bool // an operation is in flight
	// retired documents take no further operation: an attempt of unknown outcome may still be carried out by the domain later. It
	// repeats the last operation then and changes nothing; after another operation it would undo it.
	retired bool
}

func (d *document) alive() bool {
	if d.last == 0 {
		return !d.inserted
	}
	return d.lastKind != opDelete
}

// ledger is the memory of all acknowledged operations, in the order of their acknowledgement. A million operations on a million
// documents take about 100 MB.
type ledger struct {
	dataset *Dataset
	run     string // makes tokens and ids of this Writer differ from those of any other

	mu       sync.Mutex
	docs     []document
	entries  []entry
	filled   map[uint64]uint32 // index and n of a filled document that was written -> position in docs
	inserted [][]uint32        // by index: positions in docs
	next     uint32            // number of the last operation handed out
}

func newLedger(dataset *Dataset, run string) *ledger {
	return &ledger{dataset: dataset, run: run, filled: map[uint64]uint32{}, inserted: make([][]uint32, len(dataset.Indices))}
}

func (l *ledger) id(d *document) string {
	if d.inserted {
		return "w" + l.run + "-" + strconv.FormatUint(uint64(d.n), 10)
	}
	return filledID(d.n)
}

func (l *ledger) token(number uint32) string {
	return l.run + "-" + strconv.FormatUint(uint64(number), 36)
}

// number is the operation that wrote a token, 0 when it was none of this ledger.
func (l *ledger) number(token string) uint32 {
	digits, ours := strings.CutPrefix(token, l.run+"-")
	if !ours {
		return 0
	}
	n, err := strconv.ParseUint(digits, 36, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// begin claims a document of index for one operation. For opIndex with fresh it is a new one, else any that exists (opIndex also takes a
// deleted one). It answers false when a few tries find none that is free.
func (l *ledger) begin(random *rand.Rand, index int, kind opKind, fresh bool) (position, number uint32, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fresh {
		position = uint32(len(l.docs))
		l.docs = append(l.docs, document{index: uint8(index), inserted: true, n: uint32(len(l.inserted[index]))})
		l.inserted[index] = append(l.inserted[index], position)
	} else if position, ok = l.choose(random, index, kind); !ok {
		return 0, 0, false
	}
	l.docs[position].busy = true
	l.next++
	return position, l.next, true
}

func (l *ledger) choose(random *rand.Rand, index int, kind opKind) (uint32, bool) {
	x := &l.dataset.Indices[index]
	const tries = 16
	for range tries {
		// Of a user's file only what the Writer itself added is deleted: the user may look for the rest afterwards.
		if mine := l.inserted[index]; len(mine) > 0 && (random.IntN(3) == 0 || x.Kind == File && kind == opDelete) {
			position := mine[random.IntN(len(mine))]
			if d := &l.docs[position]; !d.busy && !d.retired && (d.alive() || kind == opIndex) {
				return position, true
			}
			continue
		}
		if x.Documents == 0 || x.Kind == File && kind == opDelete {
			continue
		}
		n := uint32(random.Int64N(x.Documents))
		key := uint64(index)<<32 | uint64(n)
		position, known := l.filled[key]
		if !known {
			position = uint32(len(l.docs))
			l.docs = append(l.docs, document{index: uint8(index), n: n})
			l.filled[key] = position
			return position, true
		}
		if d := &l.docs[position]; !d.busy && !d.retired && (d.alive() || kind == opIndex) {
			return position, true
		}
	}
	return 0, false
}

// document returns a copy.
func (l *ledger) document(position uint32) document {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.docs[position]
}

// acknowledge records an operation as carried out.
func (l *ledger) acknowledge(op *operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := &l.docs[op.position]
	d.last, d.lastKind, d.maybe, d.busy = op.number, op.kind, 0, false
	d.retired = d.retired || op.doubtful
	l.entries = append(l.entries, entry{op.position, op.number, op.kind})
}

// giveUp records that an operation was refused for good, or never answered before the Writer stopped.
func (l *ledger) giveUp(op *operation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := &l.docs[op.position]
	d.busy = false
	if op.doubtful {
		d.maybe, d.maybeKind, d.retired = op.number, op.kind, true
	}
}

// touched says whether an operation on a filled document was, or may have been, carried out.
func (l *ledger) touched(index int, n uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	position, known := l.filled[uint64(index)<<32|uint64(n)]
	return known && (l.docs[position].last != 0 || l.docs[position].maybe != 0)
}
