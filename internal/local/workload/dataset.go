package workload

import (
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"time"
)

// Kind says what the documents of an index are and how the Writer treats them.
type Kind string

// The kinds of index.
const (
	Logs      Kind = "logs"      // append-only
	Catalogue Kind = "catalogue" // update-heavy, partly with custom routing
	Static    Kind = "static"    // never written after the fill
	File      Kind = "file"      // the user's own documents
)

// TokenField is the keyword field that carries the unique token of the write that made a document what it is. Filled documents have none.
const TokenField = "ferry_token"

// Dataset describes what Fill or FillFile has written. The Writer and Check need the very value, not a copy made through JSON:
// of a user's file it keeps a sample of the documents.
type Dataset struct {
	Seed    uint64  `json:"seed"`
	Indices []Index `json:"indices"`
}

// Index is one filled index.
type Index struct {
	Name      string   `json:"name"`
	Kind      Kind     `json:"kind"`
	Documents int64    `json:"documents"` // ids doc-0 to doc-<Documents-1>; for a File doc-<n> is its n-th document, counted from 0
	Bytes     int64    `json:"bytes"`     // JSON source, without bulk action lines
	Shards    int      `json:"shards"`
	Replicas  int      `json:"replicas"`
	Aliases   []string `json:"aliases,omitempty"`

	number int     // position in Dataset.Indices: part of every document's seed
	more   int     // Kind Logs: words of a further text field, 0 for none
	sample []taken // Kind File: documents kept for the Writer to copy and for Check to compare, in order of n
}

// taken is one kept document of a user's file.
type taken struct {
	n      uint32
	source []byte
}

// Documents returns the number of filled documents of all indices.
func (d *Dataset) Documents() int64 {
	var sum int64
	for _, index := range d.Indices {
		sum += index.Documents
	}
	return sum
}

// Bytes returns the size of all filled documents, JSON source, in bytes.
func (d *Dataset) Bytes() int64 {
	var sum int64
	for _, index := range d.Indices {
		sum += index.Bytes
	}
	return sum
}

func filledID(n uint32) string { return "doc-" + strconv.FormatUint(uint64(n), 10) }

// routing is the custom routing of a document, empty for most. It follows from n, so that the ledger need not keep it.
func (x *Index) routing(n uint32) string {
	if x.Kind != Catalogue || n%4 != 0 {
		return ""
	}
	return "tenant-" + strconv.FormatUint(uint64(n/4%13), 10)
}

// appendFilled appends the generated document n as Fill wrote it. The same seed and n always give the same bytes.
func (x *Index) appendFilled(to []byte, seed uint64, n uint32) []byte {
	random := rand.New(rand.NewPCG(seed, uint64(x.number)<<32|uint64(n)))
	return append(x.appendOpen(to, random, n, firstLogLine.Add(time.Duration(n)*17*time.Millisecond)), '}')
}

// appendOpen appends a generated document without its closing brace.
func (x *Index) appendOpen(to []byte, random *rand.Rand, n uint32, at time.Time) []byte {
	switch x.Kind {
	case Logs:
		if to = logLine(to, random, at); x.more > 0 {
			to = append(words(append(to, `,"detail":"`...), random, x.more), '"')
		}
		return to
	case Catalogue:
		return product(to, random, n)
	default:
		return country(to, random, n)
	}
}

// appendAction appends the action line of a _bulk.
func (x *Index) appendAction(to []byte, action, id, routing string) []byte {
	to = append(append(to, `{"`...), action...)
	to = append(append(to, `":{"_index":"`...), x.Name...)
	to = append(append(to, `","_id":"`...), id...)
	if routing != "" {
		to = append(append(to, `","routing":"`...), routing...)
	}
	return append(to, "\"}}\n"...)
}

// definition is the body that creates the index.
func (x *Index) definition() map[string]any {
	type object = map[string]any
	kind := func(t string) object { return object{"type": t} }
	settings := object{"number_of_shards": x.Shards, "number_of_replicas": x.Replicas}
	properties := object{TokenField: kind("keyword")}
	aliases := object{}
	for _, alias := range x.Aliases {
		aliases[alias] = object{}
	}
	switch x.Kind {
	case Logs:
		for field, t := range map[string]string{"@timestamp": "date", "level": "keyword", "service": "keyword", "host": "keyword", "client": "ip",
			"method": "keyword", "path": "keyword", "status": "integer", "bytes": "long", "micros": "long", "trace": "keyword"} {
			properties[field] = kind(t)
		}
		properties["message"] = object{"type": "text", "norms": false}
		if x.more > 0 {
			properties["detail"] = object{"type": "text", "norms": false}
		}
	case Catalogue:
		settings["refresh_interval"] = "5s"
		for field, t := range map[string]string{"sku": "keyword", "category": "keyword", "status": "keyword", "cents": "long", "stock": "integer",
			"description": "text"} {
			properties[field] = kind(t)
		}
		properties["name"] = object{"type": "text", "fields": object{"raw": kind("keyword")}}
		properties["attributes"] = object{"type": "nested", "properties": object{
			"colour": kind("keyword"), "size": kind("keyword"), "grams": kind("integer")}}
		for alias := range aliases {
			aliases[alias] = object{"filter": object{"term": object{"status": "live"}}}
		}
	case Static:
		for field, t := range map[string]string{"code": "keyword", "name": "keyword", "continent": "keyword", "population": "long",
			"independent": "boolean", "languages": "keyword", "facts": "text"} {
			properties[field] = kind(t)
		}
	}
	body := object{"settings": object{"index": settings}, "mappings": object{"properties": properties}}
	if len(aliases) > 0 {
		body["aliases"] = aliases
	}
	return body
}

// withToken appends source (one JSON object) with TokenField set to token, whatever it was before.
func withToken(to, source []byte, token string) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(source, &object); err != nil {
		return nil, err
	}
	object[TokenField] = json.RawMessage(strconv.Quote(token))
	encoded, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	return append(to, encoded...), nil
}
