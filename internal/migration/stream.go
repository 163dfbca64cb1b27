package migration

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// PlannedStream is a data stream that moves: its backing indices as plain ones in the warm rounds, the stream whole and by its name in the
// final one.
type PlannedStream struct {
	Name    string   `json:"name"`
	Indices []string `json:"indices"` // the backing indices, the write index last
}

// ClosedInStream is the reason of a backing index that is left out only as long as another one of its stream is closed.
const ClosedInStream = "its data stream has a closed index; open that to move the stream"

// Stream returns the planned data stream of that name.
func (p Plan) Stream(name string) (PlannedStream, bool) {
	i := slices.IndexFunc(p.Streams, func(s PlannedStream) bool { return s.Name == name })
	if i < 0 {
		return PlannedStream{}, false
	}
	return p.Streams[i], true
}

// Whole names what a final snapshot or restore of the planned indices asks for: a data stream once, instead of its backing indices.
func (p Plan) Whole(indices []string) []string {
	stream := map[string]string{}
	for _, s := range p.Streams {
		for _, name := range s.Indices {
			stream[name] = s.Name
		}
	}
	whole := make([]string, 0, len(indices))
	asked := map[string]bool{}
	for _, name := range indices {
		if s, ok := stream[name]; ok {
			if asked[s] {
				continue
			}
			name, asked[s] = s, true
		}
		whole = append(whole, name)
	}
	return whole
}

// SelectBacking says whether the selection takes a backing index of a data stream, which moves as a whole: the stream's name decides.
func (s Selection) SelectBacking(name, stream string) (taken bool, reason string) {
	taken, reason = s.Select(stream)
	if !taken && reason == "" && slices.ContainsFunc(s.Include, func(p string) bool { return matches(p, name) }) {
		reason = fmt.Sprintf("backing index of data stream %q, which moves as a whole only: include the stream by its name", stream)
	}
	return taken, reason
}

// ExcludesPart returns the exclude patterns that are meant for backing indices alone (".ds-...") and match one of them although the
// selection takes its stream.
func (s Selection) ExcludesPart(stream string, indices []string) []int {
	if taken, _ := s.Select(stream); !taken {
		return nil
	}
	var parts []int
	for i, p := range s.Exclude {
		if IsBacking(p) && slices.ContainsFunc(indices, func(name string) bool { return matches(p, name) }) {
			parts = append(parts, i)
		}
	}
	return parts
}

// backingName is how OpenSearch names the indices of a data stream.
var backingName = regexp.MustCompile(`^\.ds-(.+)-\d{6,}$`)

// IsBacking reports whether an index is named as the engines name backing indices of data streams. It may be a plain index all the same.
func IsBacking(name string) bool { return strings.HasPrefix(name, ".ds-") }

// StreamOf is the data stream that an index of that name belonged to, by its name alone: for indices that are gone. "" when it is not
// named so.
func StreamOf(name string) string {
	if m := backingName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}
