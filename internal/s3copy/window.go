package s3copy

import (
	"strings"
	"sync"

	"github.com/domainferry/domainferry/internal/repository"
)

// window holds the admitted, unfinished objects of a range in key order. It starts data at once and metadata when all data of
// lower keys is done, and knows the highest key below which everything is done. Its size bounds memory.
type window struct {
	// Ready to copy: small objects, and large ones, which take so long that they must not wait for the small ones before them. Neither
	// blocks: each has room for all of the window.
	queue, large chan *item
	isLarge      func(object) bool

	mu      sync.Mutex
	room    sync.Cond
	items   []*item
	passed  int // items[:passed] are done data and started metadata
	limit   int
	cursor  string
	stopped bool
}

type item struct {
	object object
	data   bool
	large  bool // copied in parts
	done   bool
}

func newWindow(limit int, cursor string, isLarge func(object) bool) *window {
	w := &window{queue: make(chan *item, limit), large: make(chan *item, limit), isLarge: isLarge, limit: limit, cursor: cursor}
	w.room.L = &w.mu
	return w
}

// admit adds an object to copy and waits for room. It reports false when the window has been stopped.
func (w *window) admit(o object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.items) >= w.limit && !w.stopped {
		w.room.Wait()
	}
	if w.stopped {
		return false
	}
	if last := len(w.items) - 1; last >= 0 && w.items[last].done && w.items[last].data {
		w.items[last].object.key = strings.Clone(w.items[last].object.key)
	}
	it := &item{object: o, data: repository.Classify(o.key) == repository.Data}
	w.items = append(w.items, it)
	if it.data {
		w.ready(it)
	}
	w.advance()
	return true
}

// skip notes a key that needs no copy. Runs of them take one place. The key lies in a whole page, which a run that has ended must not
// keep alive: its key is cloned then, see admit.
func (w *window) skip(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return false
	}
	last := len(w.items) - 1
	switch {
	case last < 0:
		w.cursor = key
	case w.items[last].done && w.items[last].data:
		w.items[last].object.key = key
	default:
		w.items = append(w.items, &item{object: object{key: key}, data: true, done: true})
		w.advance()
	}
	return true
}

// finish notes that an object is copied.
func (w *window) finish(it *item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	it.done = true
	w.advance()
	w.room.Broadcast()
}

func (w *window) ready(it *item) {
	if it.large = w.isLarge(it.object); it.large {
		w.large <- it
		return
	}
	w.queue <- it
}

func (w *window) advance() {
	for w.passed < len(w.items) {
		it := w.items[w.passed]
		if it.data && !it.done {
			break
		}
		if !it.data && !w.stopped {
			w.ready(it)
		}
		w.passed++
	}
	for len(w.items) > 0 && w.items[0].done {
		w.cursor = w.items[0].object.key
		w.items = w.items[1:]
		w.passed--
	}
}

// stop refuses all further objects: those admitted but not begun stay undone.
func (w *window) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.room.Broadcast()
}

func (w *window) isStopped() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stopped
}

// drain waits until nothing is left or the window is stopped, and closes the queues.
func (w *window) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.items) > 0 && !w.stopped {
		w.room.Wait()
	}
	w.stopped = true
	close(w.queue)
	close(w.large)
}

// position returns the cursor and whether nothing is left undone.
func (w *window) position() (cursor string, empty bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cursor, len(w.items) == 0
}
