package domain

import (
	"fmt"
	"strconv"
	"strings"
)

const openSearchMask = 0x08000000 // OpenSearch sets this bit in version ids so that they sort above Elasticsearch's

// engine is a product and version. Its id is what index.version.created holds.
type engine struct {
	openSearch          bool
	major, minor, patch int
}

func parseEngine(text string) (engine, error) {
	name, version, _ := strings.Cut(text, "-")
	parts := strings.Split(version, ".")
	var e engine
	if len(parts) != 3 || name != "elasticsearch" && name != "opensearch" {
		return e, fmt.Errorf("engine %q: want elasticsearch-X.Y.Z or opensearch-X.Y.Z", text)
	}
	e.openSearch = name == "opensearch"
	for i, p := range []*int{&e.major, &e.minor, &e.patch} {
		n, err := strconv.Atoi(parts[i])
		if err != nil || n < 0 || n > 99 {
			return e, fmt.Errorf("engine %q: bad version", text)
		}
		*p = n
	}
	if e.openSearch && (e.major < 1 || e.major > 3) || !e.openSearch && (e.major < 6 || e.major > 7 || e.major == 7 && e.minor > 10) {
		return e, fmt.Errorf("engine %q: the model knows Elasticsearch 6.0 to 7.10 and OpenSearch 1 to 3", text)
	}
	return e, nil
}

func (e engine) id() int {
	id := e.major*1000000 + e.minor*10000 + e.patch*100 + 99
	if e.openSearch {
		id ^= openSearchMask
	}
	return id
}

func engineOfID(id int) engine {
	e := engine{openSearch: id&openSearchMask != 0}
	if e.openSearch {
		id ^= openSearchMask
	}
	e.major, e.minor, e.patch = id/1000000, id/10000%100, id/100%100
	return e
}

func (e engine) String() string { return fmt.Sprintf("%d.%d.%d", e.major, e.minor, e.patch) }
func (e engine) product() string {
	return map[bool]string{false: "Elasticsearch", true: "OpenSearch"}[e.openSearch]
}

// before tells whether an Elasticsearch of that version would be newer; every OpenSearch counts as newer than any of them.
func (e engine) before(major, minor int) bool {
	return !e.openSearch && (e.major < major || e.major == major && e.minor < minor)
}

// oldestIndex is the smallest index.version.created that this engine opens (reference: snapshots.md, section 5).
func (e engine) oldestIndex() int {
	switch {
	case e.openSearch && e.major == 3:
		return engine{openSearch: true, major: 2}.id() - 99
	case e.openSearch && e.major == 2:
		return 7000000
	case !e.openSearch && e.major == 6:
		return 5000000
	default:
		return 6000000
	}
}

// lucene is the version that segment infos name; the exact value matters to nobody but readers of the files.
func (e engine) lucene() string {
	switch {
	case e.openSearch && e.major == 3:
		return "10.3.2"
	case e.openSearch && e.major == 2:
		return "9.12.1"
	case !e.openSearch && e.major == 6:
		return "7.7.0"
	case e.openSearch:
		return "8.10.1"
	default:
		return "8.7.0"
	}
}

func (e engine) minimums() (wire, index string) {
	switch {
	case e.openSearch && e.major == 3:
		return "2.19.0", "2.0.0"
	case e.openSearch && e.major == 2:
		return "7.10.0", "7.0.0"
	case !e.openSearch && e.major == 6:
		return "5.6.0", "5.0.0"
	default:
		return "6.8.0", "6.0.0-beta1"
	}
}

// misread is how an Elasticsearch node spells the version id of an OpenSearch snapshot, which it cannot know.
func (e engine) misread(id int) string {
	if e.openSearch || id&openSearchMask == 0 {
		return engineOfID(id).String()
	}
	major, minor, revision, build := id/1000000%100, id/10000%100, id/100%100, id%100
	text := fmt.Sprintf("%d.%d.%d", major, minor, revision)
	switch {
	case build < 25:
		text += fmt.Sprintf("-alpha%d", build)
	case build < 50:
		text += fmt.Sprintf("-beta%d", build-25)
	case build < 99:
		text += fmt.Sprintf("-rc%d", build-50)
	}
	return text
}
