package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Mixed workload is the hard one: several indices, each written in a way of its own, and a ledger that knows the state of *every*
// document, exactly: whether it is there, its version, its routing and its source. The trial under fire (internal/local/fire) uses it;
// the rehearsal's Writer is simpler and samples.

// patchField and baseField name the operation that made a document, or its latest partial update, what it is.
const (
	baseField  = "ferry_base"
	patchField = "ferry_patch"
)

// nature is how the documents of an index look and what is done to them.
type nature uint8

const (
	appended nature = iota // created once, never changed
	updated                // indexed anew, partially updated, deleted, brought back; nested objects, a quarter with custom routing
	family                 // routing is required: children live on their parent's shard
	external               // versions are the client's own
	hot                    // few documents, changed again and again
	still                  // never written after the fill
)

// MixedIndex is one index of a Mixed workload.
type MixedIndex struct {
	Name     string         `json:"name"`
	Settings map[string]any `json:"settings"` // of the index, number_of_shards among them
	Shards   int            `json:"shards"`

	nature nature
	share  int   // per cent of the operations
	fill   int64 // per cent of the bytes filled
	mix    mix
}

// mix is per cent of the operations on an index that has documents of every state; the rest are inserts.
type mix struct{ replace, patch, remove, revive int }

// state is what a document is, or may be.
type state struct {
	there   bool
	version int64  // of a deleted document, too, as its deletion was acknowledged; 0: never was, or any
	base    uint32 // number of the operation whose content it has
	patch   uint32 // number of the latest partial update since, 0 for none
}

// subject is one document. Its id and routing follow from index and n.
type subject struct {
	index uint8
	n     uint32
	busy  bool // an operation is under way
	// retired documents are left alone: an operation of unknown outcome may be carried out late, and a later one would be undone by it.
	retired bool
	now     state
	maybe   *state
	// source is what the source holds, once the destination has taken writes of this document.
	source *state
	events []event
}

// event is an acknowledged or unknown operation, kept for the explanation of a difference.
type event struct {
	at      time.Time
	number  uint32
	kind    mixedKind
	side    Side
	version int64
	seqNo   int64 // -1 when unknown
	unknown bool
}

func (e event) String() string {
	text := fmt.Sprintf("%s %s #%d at the %s", e.at.UTC().Format("15:04:05.000"), e.kind, e.number, e.side)
	if e.unknown {
		return text + ": outcome unknown"
	}
	return fmt.Sprintf("%s: version %d, seq_no %d", text, e.version, e.seqNo)
}

// Mixed is a filled source domain and the ledger of everything that was acknowledged since.
type Mixed struct {
	Seed    uint64       `json:"seed"`
	Indices []MixedIndex `json:"indices"`
	Filled  int64        `json:"filled"` // documents
	Bytes   int64        `json:"bytes"`  // of the documents filled, JSON source

	mu       sync.Mutex
	subjects [][]*subject // by index, by n
	next     uint32       // number of the last operation
}

// MixedOptions say what FillMixed makes.
type MixedOptions struct {
	// Seed decides documents, shards, settings and the mix of operations.
	Seed uint64
	// TotalBytes is the size of all documents, JSON source; 0 is 60 MB.
	TotalBytes int64
	// Only names the indices to make; empty is all of them.
	Only []string
	// SoftDeletesOff switches soft deletes off on the index "plain", where the engine takes that (up to OpenSearch 2).
	SoftDeletesOff bool
}

// mixedIndices are the same seven for every seed; how they are set and used is not.
func mixedIndices(o MixedOptions) []MixedIndex {
	random := rand.New(rand.NewPCG(o.Seed, 0xf17e))
	refresh := []string{"200ms", "1s", "3s", "5s", "30s", "-1", ""}
	heavy := func() mix { // of updates, deletions and documents brought back
		return mix{replace: 10 + random.IntN(15), patch: 20 + random.IntN(20), remove: 8 + random.IntN(10), revive: 3 + random.IntN(8)}
	}
	index := func(name string, n nature, shards, share int, m mix) MixedIndex {
		x := MixedIndex{Name: name, nature: n, Shards: shards, share: share, mix: m, Settings: map[string]any{
			"number_of_shards": shards, "number_of_replicas": random.IntN(2)}}
		if every := pick(random, refresh); every != "" {
			x.Settings["refresh_interval"] = every
		}
		return x
	}
	all := []MixedIndex{
		index("events", appended, 1+random.IntN(3), 20+random.IntN(15), mix{}),
		index("products", updated, 1+random.IntN(4), 22+random.IntN(15), heavy()),
		index("families", family, 1+random.IntN(3), 10, heavy()),
		index("mirror", external, 1+random.IntN(2), 8, mix{replace: 40, remove: 12, revive: 8}),
		index("hot", hot, 1+random.IntN(2), 8+random.IntN(12), mix{replace: 25, patch: 45, remove: 12, revive: 12}),
		index("plain", updated, 1+random.IntN(2), 8, heavy()),
		index("countries", still, 1, 0, mix{}),
	}
	if o.SoftDeletesOff {
		all[5].Settings["soft_deletes.enabled"] = false
	}
	if o.Seed%2 == 1 {
		// Deletions are forgotten at once, so that versions of documents that come back begin again at 1.
		all[4].Settings["gc_deletes"] = "0s"
	}
	for i := range all {
		all[i].fill = fillPercent[i]
	}
	if len(o.Only) > 0 {
		all = slices.DeleteFunc(all, func(x MixedIndex) bool { return !slices.Contains(o.Only, x.Name) })
	}
	return all
}

// fillPercent is by index, in the order of mixedIndices; hot is small on purpose.
var fillPercent = []int64{38, 34, 10, 6, 1, 6, 5}

// id is a document's: mostly plain, some with what ids may hold and programs stumble over, some as long as they may be.
func (x *MixedIndex) id(n uint32) string {
	digits := strconv.FormatUint(uint64(n), 10)
	switch {
	case n%97 == 5:
		return "a b/c?d&e=" + digits + "%2F+\"q\"\\"
	case n%89 == 7:
		return "größe-漢字-😀-" + digits
	case n%499 == 11:
		return strings.Repeat("x", 512-len(digits)) + digits
	}
	return "d" + digits
}

func (x *MixedIndex) routing(n uint32) string {
	switch {
	case x.nature == family: // every third one is a parent
		return x.id(n - n%3)
	case x.nature != updated || n%4 != 0:
		return ""
	case n%32 == 8:
		return "tenant " + strconv.Itoa(int(n%7)) + ", ß"
	}
	return "tenant-" + strconv.Itoa(int(n/4%13))
}

// content appends the source of document n as operation base wrote it, without the closing brace.
func (m *Mixed) content(to []byte, index int, n, base uint32) []byte {
	x := &m.Indices[index]
	random := rand.New(rand.NewPCG(m.Seed<<8|uint64(index), uint64(base)<<32|uint64(n)))
	switch x.nature {
	case appended:
		to = logLine(to, random, firstLogLine.Add(time.Duration(n)*17*time.Millisecond))
		to = append(to, `,"ratio":1.50,"big":9007199254740993,"none":null,"empty":[]`...) // kept as written
	case still:
		to = country(to, random, n)
	case family:
		parent := n - n%3
		to = append(to, `{"kind":"`...)
		if n == parent {
			to = append(to, `question"`...)
		} else {
			to = strconv.AppendQuote(append(to, `answer","parent":`...), x.id(parent))
		}
		to = append(words(append(to, `,"text":"`...), random, 30+random.IntN(60)), '"')
		to = price(append(to, ','), random)
	default:
		to = product(to, random, n)
	}
	return number(append(to, `,"`+baseField+`":`...), int(base))
}

// changes appends the fields of a partial update: always the same ones of an index, so that only the latest update matters.
func (m *Mixed) changes(to []byte, index int, patch uint32) []byte {
	random := rand.New(rand.NewPCG(m.Seed<<8|uint64(index), uint64(patch)))
	to = price(to, random)
	if m.Indices[index].nature != family {
		to = append(append(to, `,"attributes":[{"colour":"`...), pick(random, colours)...)
		to = append(append(to, `","size":"`...), pick(random, sizes)...)
		to = append(number(append(to, `","grams":`...), random.IntN(5000)), `}]`...)
	}
	return number(append(to, `,"`+patchField+`":`...), int(patch))
}

// expected is the source that a document in this state has; after a partial update the engine may write it differently.
func (m *Mixed) expected(index int, n uint32, s state) ([]byte, error) {
	base := append(m.content(nil, index, n, s.base), '}')
	if s.patch == 0 {
		return base, nil
	}
	var whole, part map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(base, &whole), json.Unmarshal(append(m.changes([]byte{'{'}, index, s.patch), '}'), &part)); err != nil {
		return nil, err
	}
	for k, v := range part {
		whole[k] = v
	}
	return json.Marshal(whole)
}

func (x *MixedIndex) definition() map[string]any {
	type object = map[string]any
	properties := object{baseField: object{"type": "long"}, patchField: object{"type": "long"}}
	for field, kind := range map[string]string{"@timestamp": "date", "level": "keyword", "service": "keyword", "client": "ip", "path": "keyword",
		"status": "keyword", "bytes": "long", "micros": "long", "message": "text", "sku": "keyword", "category": "keyword", "cents": "long",
		"stock": "integer", "description": "text", "name": "text", "kind": "keyword", "parent": "keyword", "text": "text", "facts": "text"} {
		properties[field] = object{"type": kind}
	}
	properties["attributes"] = object{"type": "nested", "properties": object{
		"colour": object{"type": "keyword"}, "size": object{"type": "keyword"}, "grams": object{"type": "integer"}}}
	mapping := object{"properties": properties}
	if x.nature == family {
		mapping["_routing"] = object{"required": true}
	}
	return object{"settings": object{"index": x.Settings}, "mappings": mapping, "aliases": object{x.Name + "-all": object{}}}
}

// appendAction appends the action line of a _bulk. version is the document's own, for an index with external versions.
func (x *MixedIndex) appendAction(to []byte, action string, n uint32, version int64) []byte {
	quoted := func(text string) []byte {
		encoded, _ := json.Marshal(text) // strings always encode
		return encoded
	}
	to = append(append(append(to, `{"`...), action...), `":{"_index":"`...)
	to = append(append(append(to, x.Name...), `","_id":`...), quoted(x.id(n))...)
	if routing := x.routing(n); routing != "" {
		to = append(append(to, `,"routing":`...), quoted(routing)...)
	}
	if x.nature == external {
		to = strconv.AppendInt(append(to, `,"version_type":"external","version":`...), version, 10)
	}
	return append(to, "}}\n"...)
}

// FillMixed creates the indices in an empty domain and fills them. The same options give the same documents; a refused document or an
// index that exists is an error. A few thousand operations of a MixedWriter afterwards bring versions above 1 and deletions.
func FillMixed(ctx context.Context, client Client, o MixedOptions) (*Mixed, error) {
	if o.TotalBytes == 0 {
		o.TotalBytes = 60 << 20
	}
	m := &Mixed{Seed: o.Seed, Indices: mixedIndices(o)}
	m.subjects = make([][]*subject, len(m.Indices))
	for i := range m.Indices {
		x := &m.Indices[i]
		if err := persistently(ctx, "create index "+x.Name, func(int) error {
			return client.do(ctx, http.MethodPut, "/"+x.Name, x.definition(), nil)
		}); err != nil {
			return nil, err
		}
		if err := m.fill(ctx, client, i, o.TotalBytes*x.fill/100); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// fill writes documents until bytes are reached.
func (m *Mixed) fill(ctx context.Context, client Client, index int, bytes int64) error {
	x := &m.Indices[index]
	const enough = 2 << 20 // of a _bulk body
	for done := int64(0); done < bytes; {
		var body []byte
		var batch []*subject
		for len(body) < enough && done < bytes {
			s := &subject{index: uint8(index), n: uint32(len(m.subjects[index])), now: state{there: true, version: 1}}
			m.next++
			s.now.base = m.next
			action := "create"
			if x.nature == external {
				action, s.now.version = "index", int64(1+s.n%5)
			}
			body = x.appendAction(body, action, s.n, s.now.version)
			length := len(body)
			body = append(m.content(body, index, s.n, s.now.base), '}', '\n')
			done += int64(len(body) - length)
			m.Bytes += int64(len(body) - length)
			m.subjects[index], batch = append(m.subjects[index], s), append(batch, s)
		}
		items, err := client.bulk(ctx, body, len(batch))
		if err != nil {
			return fmt.Errorf("fill index %s: %w", x.Name, err)
		}
		for i, item := range items {
			if item.Status != http.StatusCreated || item.Version != batch[i].now.version {
				return fmt.Errorf("fill index %s: document %q was answered %d, version %d: %v", x.Name, x.id(batch[i].n), item.Status, item.Version, item.Error)
			}
		}
		m.Filled += int64(len(batch))
	}
	return nil
}
