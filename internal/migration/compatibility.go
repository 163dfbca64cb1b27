package migration

import "fmt"

// Engine is a version of a search engine, or the version that created an index.
type Engine struct {
	Distribution        string // "elasticsearch" or "opensearch"
	Major, Minor, Patch int
}

func (e Engine) String() string {
	return fmt.Sprintf("%s-%d.%d.%d", e.Distribution, e.Major, e.Minor, e.Patch)
}

func (e Engine) before(o Engine) bool {
	if e.Major != o.Major {
		return e.Major < o.Major
	}
	return e.Minor < o.Minor || e.Minor == o.Minor && e.Patch < o.Patch
}

const (
	elasticsearch = "elasticsearch"
	opensearch    = "opensearch"
)

// RefuseEngines says why the destination cannot read snapshots of the source, or "". Tried on real nodes (measured.md,
// "Versions"): a snapshot of a newer engine is refused, OpenSearch 3 cannot even list a repository that Elasticsearch wrote.
func RefuseEngines(source, destination Engine) string {
	switch {
	case source.Distribution == destination.Distribution:
		if destination.before(source) {
			return fmt.Sprintf("%s cannot restore snapshots of the newer %s", destination, source)
		}
	case source.Distribution == opensearch:
		return fmt.Sprintf("%s cannot restore snapshots of %s", destination, source)
	case Engine{elasticsearch, 7, 10, 2}.before(source):
		return fmt.Sprintf("%s cannot restore snapshots of %s; 7.10.2 is the last Elasticsearch that OpenSearch reads", destination, source)
	case destination.Major >= 3:
		return fmt.Sprintf("%s cannot read a repository written by %s; move to OpenSearch 2.19 first", destination, source)
	}
	return ""
}

// RefuseIndex says why the destination cannot open an index that created made, or "" (table in snapshots.md section 5, by the
// engines' minimum index compatibility version).
func RefuseIndex(created, destination Engine) string {
	var oldest Engine
	switch {
	case destination.Distribution == elasticsearch:
		oldest = Engine{elasticsearch, destination.Major - 1, 0, 0}
	case destination.Major == 1:
		oldest = Engine{elasticsearch, 6, 0, 0}
	case destination.Major == 2:
		oldest = Engine{elasticsearch, 7, 0, 0}
	default:
		oldest = Engine{opensearch, destination.Major - 1, 0, 0}
	}
	readable := created.Distribution == oldest.Distribution && !created.before(oldest) ||
		created.Distribution == opensearch && oldest.Distribution == elasticsearch && destination.Distribution == opensearch
	if readable {
		return ""
	}
	return fmt.Sprintf("created by %s; %s reads indices created by %s %d.%d and newer", created, destination, oldest.Distribution, oldest.Major, oldest.Minor)
}
