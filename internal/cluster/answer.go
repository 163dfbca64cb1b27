package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/domainferry/domainferry/internal/fault"
)

// This file bounds what an answer may cost. A domain's endpoint may be a proxy, a login page or something hostile; and an honest
// answer of a huge cluster must end as an error that says so rather than as a Lambda that runs out of memory and is started anew.

// Limits of one answer in bytes. What is read is decoded to about as much again.
const (
	smallAnswer  = 1 << 20   // an acknowledgement, a version, one repository
	maxAnswer    = 64 << 20  // lists of indices, shards, settings, mappings
	maxDocuments = 128 << 20 // documents, whose sources are kept as they are: the engines' http.max_content_length is 100 MB
	maxError     = 1 << 20
)

// Limits of what an answer's bytes unfold to. "{}," is three bytes and some hundred in memory, so bytes alone bound nothing.
const (
	// maxValues bounds the decoded values, an object counting objectWeight: about 200 MB in memory at worst. The progress of a snapshot
	// of 10,000 shards has 600,000.
	maxValues    = 4 << 20
	objectWeight = 8
	// maxDepth bounds how deep they nest. The engines' answers nest about 10 deep.
	maxDepth = 128
)

var (
	errTooLarge = errors.New("the answer is too large")
	errNoAnswer = errors.New("the answer is not what a search cluster sends")
)

// unfold decodes an answer into out, unless it would take too much memory, nests too deeply or is not UTF-8 (of which encoding/json
// would make other names without a word). Objects and arrays below the level opaque (0: none) are kept as they are by out, in
// json.RawMessage, and are not counted; only documents and mappings are such. The sources of documents may be any bytes.
func unfold(raw []byte, out any, opaque int) error {
	start := bytes.TrimLeft(raw, " \t\r\n")
	if len(start) == 0 || start[0] != '{' && start[0] != '[' {
		return fmt.Errorf("%w (neither an object nor an array)", errNoAnswer)
	}
	if err := measure(start, opaque); err != nil {
		return err
	}
	if !utf8.Valid(raw) && (opaque == 0 || !keysAreText(raw)) {
		return fmt.Errorf("%w (it is not UTF-8)", errNoAnswer)
	}
	err := json.Unmarshal(raw, out)
	// encoding/json would quote the whole Go type.
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		err = fmt.Errorf("a %s at %q", excerpt(wrong.Value, 80), excerpt(wrong.Field, 200))
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", errNoAnswer, err)
	}
	return nil
}

// measure counts values and levels without decoding. What is no JSON is found out later.
func measure(raw []byte, opaque int) error {
	depth, values := 0, 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			for i++; i < len(raw) && raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
		case '{', '[', ',':
			if raw[i] != ',' {
				depth++
			}
			if opaque > 0 && depth > opaque {
				continue
			}
			values++
			if raw[i] == '{' {
				values += objectWeight - 1
			}
			if depth > maxDepth {
				return fmt.Errorf("%w (it nests deeper than %d)", errNoAnswer, maxDepth)
			}
			if values > maxValues {
				return fmt.Errorf("%w: it holds more than %d values", errTooLarge, maxValues)
			}
		case '}', ']':
			depth--
		}
	}
	return nil
}

// keysAreText reports whether the ids and routings of an answer's documents are UTF-8, whatever their sources are.
func keysAreText(raw []byte) bool {
	type keys struct {
		ID      json.RawMessage `json:"_id"`
		Routing json.RawMessage `json:"_routing"`
	}
	var a struct {
		Hits struct {
			Hits []keys `json:"hits"`
		} `json:"hits"`
		Docs []keys `json:"docs"`
	}
	if json.Unmarshal(raw, &a) != nil || len(a.Hits.Hits)+len(a.Docs) == 0 {
		return false
	}
	return !slices.ContainsFunc(slices.Concat(a.Hits.Hits, a.Docs), func(k keys) bool { return !utf8.Valid(k.ID) || !utf8.Valid(k.Routing) })
}

// answerFault is the fault of an answer that was refused by unfold, or by its length. A change may have been made all the same.
func (c *Client) answerFault(r call, status int, raw []byte, err error) error {
	name := fault.Unavailable
	switch {
	case r.mutating:
		// Not wrapped: asking for less would ask for a change again.
		name, err = fault.OutcomeUnknown, errors.New(err.Error())
	case errors.Is(err, errTooLarge):
		name = fault.Unclassified
	}
	if errors.Is(err, errNoAnswer) || r.mutating {
		err = fmt.Errorf("%w: %q", err, excerpt(string(raw[:min(len(raw), 1000)]), 200))
	}
	f := fault.New(name, r.op, c.endpoint, err)
	f.Status = status
	if errors.Is(err, errTooLarge) {
		return f.WithHint("No domain that Domain Ferry was made for answers as much. Check that the endpoint is the domain's own; if it is, move fewer indices at once or report this message.")
	}
	return f
}

// inParts calls f with parts of a list, in order, and with smaller ones where an answer is too large.
func inParts[T any](list []T, most int, f func([]T) error) error {
	for part := range slices.Chunk(list, most) {
		err := f(part)
		if errors.Is(err, errTooLarge) && len(part) > 1 {
			err = inParts(part, (len(part)+1)/2, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
