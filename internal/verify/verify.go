// Package verify compares what the two domains say of an index and gives the checks of a verdict. It is pure; the step that
// verifies collects the two sides.
package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/migration"
)

// SameJSON reports whether two documents are equal but for white space and the order of keys.
func SameJSON(a, b json.RawMessage) bool {
	x, errX := canonicalJSON(a)
	y, errY := canonicalJSON(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// Index is one side of an index, primaries only.
type Index struct {
	Present  bool
	Started  bool // every primary shard is started
	Docs     int64
	MaxSeqNo []int64 // one per shard, -1 for a shard that was never written
	Aliases  map[string]json.RawMessage
	Mapping  json.RawMessage
	Settings map[string]string
	Samples  map[string]string // document key -> Digest of the document; nil when none were looked at
}

// SequenceNumbers is the name of the check that compares max_seq_no shard by shard.
const SequenceNumbers = "sequence-numbers"

// Digest is the hash of a document: id, routing, version and source with keys in order, so that two engines that write the same
// source differently in white space or key order agree.
func Digest(id, routing string, version int64, source json.RawMessage) (string, error) {
	canonical, err := canonicalJSON(source)
	if err != nil {
		return "", fmt.Errorf("source of document %q: %w", id, err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %d ", id, routing, version)
	h.Write(canonical)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// canonicalJSON writes a document with its keys in order and its numbers as they were written.
func canonicalJSON(doc json.RawMessage) ([]byte, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// Compare gives the checks for one index.
func Compare(name string, source, destination Index) []migration.Check {
	check := func(kind string, ok bool, format string, args ...any) migration.Check {
		c := migration.Check{Name: kind, Index: name, Outcome: migration.Passed, Evidence: fmt.Sprintf(format, args...)}
		if !ok {
			c.Outcome = migration.Broken
		}
		return c
	}
	if !source.Present || !destination.Present {
		return []migration.Check{check("present", false, "at the source: %t, at the destination: %t", source.Present, destination.Present)}
	}
	if !destination.Started {
		return []migration.Check{check("shards", false, "not all primary shards are started at the destination")}
	}
	checks := []migration.Check{
		check("documents", source.Docs == destination.Docs, "source %d, destination %d", source.Docs, destination.Docs),
		check(SequenceNumbers, slices.Equal(source.MaxSeqNo, destination.MaxSeqNo) && len(source.MaxSeqNo) > 0,
			"max_seq_no per shard: source %v, destination %v", source.MaxSeqNo, destination.MaxSeqNo),
		compareAliases(name, source.Aliases, destination.Aliases),
		compareMapping(name, source.Mapping, destination.Mapping),
		compareSettings(name, source.Settings, destination.Settings),
	}
	if source.Samples == nil {
		return checks
	}
	return append(checks, compareSamples(name, source.Samples, destination.Samples))
}

func compareAliases(index string, source, destination map[string]json.RawMessage) migration.Check {
	c := migration.Check{Name: "aliases", Index: index, Outcome: migration.Passed}
	var differ []string
	for alias, a := range source {
		b, ok := destination[alias]
		if !ok || !SameJSON(a, b) {
			differ = append(differ, alias)
		}
	}
	for alias := range destination {
		if _, ok := source[alias]; !ok {
			differ = append(differ, alias)
		}
	}
	slices.Sort(differ)
	c.Evidence = fmt.Sprintf("%d at the source, %d at the destination", len(source), len(destination))
	if len(differ) > 0 {
		c.Outcome = migration.Broken
		c.Evidence += ", different: " + strings.Join(first(differ), ", ")
	}
	return c
}

// compareMapping fails on a field that is missing or has another type, and warns of any other difference: a newer engine may
// write defaults of its own.
func compareMapping(index string, source, destination json.RawMessage) migration.Check {
	c := migration.Check{Name: "mapping", Index: index, Outcome: migration.Passed, Evidence: "equal"}
	var a, b map[string]any
	if json.Unmarshal(source, &a) != nil || json.Unmarshal(destination, &b) != nil {
		c.Outcome, c.Evidence = migration.Unknown, "a mapping could not be read"
		return c
	}
	var broken, differ []string
	diffMapping("", a, b, &broken, &differ)
	switch {
	case len(broken) > 0:
		c.Outcome, c.Evidence = migration.Broken, "missing or of another type at the destination: "+strings.Join(first(broken), ", ")
	case len(differ) > 0:
		c.Outcome, c.Evidence = migration.Warning, "different: "+strings.Join(first(differ), ", ")
	}
	return c
}

func diffMapping(path string, a, b map[string]any, broken, differ *[]string) {
	for _, k := range slices.Sorted(maps.Keys(a)) {
		p := strings.TrimPrefix(path+"."+k, ".")
		other, ok := b[k]
		inner, isObject := a[k].(map[string]any)
		otherInner, otherIsObject := other.(map[string]any)
		switch {
		case isObject && otherIsObject:
			diffMapping(p, inner, otherInner, broken, differ)
		case !ok && isObject, ok && isObject != otherIsObject:
			*broken = append(*broken, p)
		case k == "type" && fmt.Sprint(a[k]) != fmt.Sprint(other):
			*broken = append(*broken, p)
		case fmt.Sprint(a[k]) != fmt.Sprint(other):
			*differ = append(*differ, p)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[k]; !ok {
			*differ = append(*differ, strings.TrimPrefix(path+"."+k, "."))
		}
	}
}

// own are settings that a domain gives itself or that the migration sets on purpose at the end.
var own = []string{
	"index.uuid", "index.creation_date", "index.provided_name", "index.version.", "index.history_uuid", "index.history.", "index.number_of_replicas",
	"index.auto_expand_replicas", "index.refresh_interval", "index.blocks.", "index.routing.", "index.resize.", "index.frozen",
	"index.verified_before_close", "index.replication.type", "index.lifecycle.", "index.plugins.index_state_management.",
	"index.opendistro.index_state_management.", "index.remote_store.",
	// Off while documents are replayed, and put back when the destination is opened or soon after.
	"index.gc_deletes", "index.default_pipeline", "index.final_pipeline", "index.merge_on_flush.enabled",
}

func compareSettings(index string, source, destination map[string]string) migration.Check {
	c := migration.Check{Name: "settings", Index: index, Outcome: migration.Passed, Evidence: "equal"}
	var differ []string
	all := maps.Clone(source)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, destination)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if slices.ContainsFunc(own, func(p string) bool { return strings.HasPrefix(k, p) }) {
			continue
		}
		a, inA := source[k]
		b, inB := destination[k]
		if inA != inB || a != b {
			differ = append(differ, fmt.Sprintf("%s (source %q, destination %q)", k, a, b))
		}
	}
	if len(differ) > 0 {
		c.Outcome, c.Evidence = migration.Warning, "different: "+strings.Join(first(differ), ", ")
	}
	return c
}

func compareSamples(index string, source, destination map[string]string) migration.Check {
	c := migration.Check{Name: "sampled-documents", Index: index, Outcome: migration.Passed, Evidence: fmt.Sprintf("%d documents equal by hash", len(source))}
	var differ []string
	for _, key := range slices.Sorted(maps.Keys(source)) {
		if destination[key] != source[key] {
			differ = append(differ, key)
		}
	}
	if len(differ) > 0 {
		c.Outcome = migration.Broken
		c.Evidence = fmt.Sprintf("%d of %d sampled documents missing or different: %s", len(differ), len(source), strings.Join(first(differ), ", "))
	}
	return c
}

// first bounds a list in evidence, and each of its entries: names of fields may be of any length.
func first(list []string) []string {
	const most, longest = 10, 300
	bounded := slices.Clone(list[:min(len(list), most)])
	for i, text := range bounded {
		if len(text) > longest {
			bounded[i] = strings.ToValidUTF8(text[:longest], "") + "..."
		}
	}
	if len(list) > most {
		bounded = append(bounded, fmt.Sprintf("and %d more", len(list)-most))
	}
	return bounded
}
