package migration

import (
	"path"
	"slices"
	"strings"
	"time"
)

// Plan is what preflight decided. Everything after it reads the plan from the journal and never the input.
type Plan struct {
	Spec      Spec           `json:"spec"`
	Execution string         `json:"execution"` // ARN of the execution that owns the migration; older ones may not act any more
	CreatedAt time.Time      `json:"createdAt"`
	Engines   Engines        `json:"engines"`
	Indices   []PlannedIndex `json:"indices"`
	// Streams are the data streams whose backing indices are all among the indices.
	Streams  []PlannedStream `json:"streams,omitempty"`
	LeftOut  []LeftOut       `json:"leftOut"`
	Warnings []string        `json:"warnings"`
}

// Engines are the two versions as the domains gave them, "elasticsearch-7.10.2".
type Engines struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
}

// PlannedIndex is one index to move, as the source had it at preflight.
type PlannedIndex struct {
	Name            string `json:"name"`
	UUID            string `json:"uuid"`
	Stream          string `json:"stream,omitempty"` // the data stream that it is a backing index of
	Shards          int    `json:"shards"`
	Replicas        string `json:"replicas"`                  // index.number_of_replicas to set at the end
	AutoExpand      string `json:"autoExpandReplicas"`        // index.auto_expand_replicas at the source, "" when unset
	RefreshInterval string `json:"refreshInterval,omitempty"` // "" when unset: the engine's default
	WriteBlock      string `json:"writeBlock,omitempty"`      // index.blocks.write at the source before any freeze, "" when unset
	Docs            int64  `json:"docs"`
	Bytes           int64  `json:"bytes"` // primaries
}

// LeftOut is an index that the selection matched and the plan does not move.
type LeftOut struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Names are the planned index names in order.
func (p Plan) Names() []string {
	names := make([]string, len(p.Indices))
	for i, x := range p.Indices {
		names[i] = x.Name
	}
	return names
}

// Index returns the planned index of that name.
func (p Plan) Index(name string) (PlannedIndex, bool) {
	i := slices.IndexFunc(p.Indices, func(x PlannedIndex) bool { return x.Name == name })
	if i < 0 {
		return PlannedIndex{}, false
	}
	return p.Indices[i], true
}

// enginePrefixes are the names of indices that belong to the engine or its plugins. They are excluded by name because restoring
// them breaks the destination or is refused (snapshots.md section 6).
var enginePrefixes = []string{
	".opendistro", ".opensearch", ".plugins-", ".kibana", ".ql-", ".tasks", ".security", ".apm", ".geoip", ".monitoring", ".watches",
	".triggered_watches", ".ltrstore", ".async-search", ".replication", "security-auditlog",
}

// Select says whether the selection takes the index, and if it matched but is left out, why.
func (s Selection) Select(name string) (taken bool, reason string) {
	matches := func(pattern string) bool { return matches(pattern, name) }
	if !slices.ContainsFunc(s.Include, matches) {
		return false, ""
	}
	if slices.ContainsFunc(s.Exclude, matches) {
		return false, "excluded by the input"
	}
	for _, p := range enginePrefixes {
		if strings.HasPrefix(name, p) {
			return false, "system index of the engine or a plugin; its content is moved through that plugin's API"
		}
	}
	if strings.HasPrefix(name, ".") && !slices.Contains(s.Include, name) {
		return false, "hidden index; include it by its exact name to move it"
	}
	return true, ""
}

// Unmatched returns the include patterns that match none of the names.
func (s Selection) Unmatched(names []string) []int {
	var none []int
	for i, p := range s.Include {
		if !slices.ContainsFunc(names, func(n string) bool { return matches(p, n) }) {
			none = append(none, i)
		}
	}
	return none
}

func matches(pattern, name string) bool {
	ok, _ := path.Match(escape(pattern), name)
	return ok
}

// escape leaves * as the only wildcard.
func escape(pattern string) string {
	return strings.NewReplacer("[", `\[`, "]", `\]`, "?", `\?`).Replace(pattern)
}
