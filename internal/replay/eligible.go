package replay

import (
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/domainferry/domainferry/internal/cluster"
)

// backingIndex is the name of a data stream's index, which takes no plain index operations.
var backingIndex = regexp.MustCompile(`^\.ds-.+-\d{6}$`)

// Eligible says whether an index of the source can be replayed, and if not, why. mapping is its mappings object (cluster.Mappings),
// base tells whether checkpoints were recorded before the snapshot that its copy was restored from. Whether the mapping accepts its
// own old documents shows only in a Slice (SliceResult.Drops).
func Eligible(index cluster.Index, mapping json.RawMessage, base bool) (ok bool, reason string) {
	if backingIndex.MatchString(index.Name) {
		return false, "it belongs to a data stream, which takes no updates by id"
	}
	distribution, major, _, _, err := cluster.DecodeCreatedVersion(index.CreatedVersion)
	switch {
	case err != nil:
		return false, fmt.Sprintf("its version of creation is unknown (%v)", err)
	case distribution == cluster.Elasticsearch && major < 6:
		return false, "it was created before Elasticsearch 6.0 and keeps no sequence numbers for its old documents"
	case !base:
		return false, "no checkpoints were recorded before its base snapshot; the next round records them"
	case index.Settings["index.derived_source.enabled"] == "true":
		return false, "its _source is derived from other fields (index.derived_source), so that documents cannot be copied as they were sent"
	}
	return sourceComplete(mapping)
}

func sourceComplete(mapping json.RawMessage) (ok bool, reason string) {
	var top map[string]json.RawMessage
	if len(mapping) == 0 {
		return true, ""
	}
	if err := json.Unmarshal(mapping, &top); err != nil {
		return false, fmt.Sprintf("its mapping cannot be read (%.200v)", err)
	}
	if raw, has := top["_source"]; has {
		var s struct {
			Enabled  any             `json:"enabled"`
			Mode     string          `json:"mode"`
			Includes json.RawMessage `json:"includes"`
			Excludes json.RawMessage `json:"excludes"`
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			return false, fmt.Sprintf("its mapping of _source cannot be read (%.200v)", err)
		}
		switch {
		case s.Enabled == false || s.Enabled == "false" || s.Mode == "disabled":
			return false, "its _source is disabled, so that there are no documents to copy"
		case s.Mode != "" && s.Mode != "stored":
			return false, fmt.Sprintf("its _source is %.40s, so that documents cannot be copied as they were sent", s.Mode)
		case filters(s.Includes) || filters(s.Excludes):
			return false, "its _source is filtered (includes or excludes), so that fields would be lost"
		}
		return true, ""
	}
	// On Elasticsearch 6.8 without include_type_name=false the mapping lies below its type's name.
	for key, raw := range top {
		var nested map[string]json.RawMessage
		if key != "properties" && json.Unmarshal(raw, &nested) == nil && nested["_source"] != nil {
			return sourceComplete(raw)
		}
	}
	return true, ""
}

func filters(list json.RawMessage) bool {
	switch string(list) {
	case "", "null", "[]", `""`:
		return false
	}
	return true
}
