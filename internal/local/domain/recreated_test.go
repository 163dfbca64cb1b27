package domain

import "testing"

// The status of a snapshot is of the index as it was: an index that was made anew since may have another number of shards, and its
// repository folder is the same.
func TestStatusOfAnIndexMadeAnew(t *testing.T) {
	b := newBench(t, Config{Engine: "elasticsearch-7.10.2"})
	for n, shards := range []int{2, 1, 3} {
		b.fill("i", shards, 10)
		name := "/_snapshot/r/s" + string(rune('1'+n))
		b.call(200, "PUT", name+"?wait_for_completion=true", `{"indices":"i"}`)
		for k := range n + 1 {
			b.call(200, "GET", "/_snapshot/r/s"+string(rune('1'+k))+"/_status", "")
		}
		b.call(200, "DELETE", "/i", "")
	}
}

// The first pattern that matches says whether a write may create an index.
func TestAutoCreatePatterns(t *testing.T) {
	b := newBench(t, Config{Engine: "opensearch-2.19.0"})
	b.call(200, "PUT", "/_cluster/settings", `{"persistent":{"action.auto_create_index":"+.own*,-logs-*,+*"}}`)
	b.call(404, "PUT", "/logs-1/_doc/1", `{}`)
	b.call(201, "PUT", "/.own-1/_doc/1", `{}`)
	b.call(201, "PUT", "/other/_doc/1", `{}`)
	b.call(200, "PUT", "/_cluster/settings", `{"persistent":{"action.auto_create_index":"+a*"}}`)
	b.call(404, "PUT", "/logs-2/_doc/1", `{}`)
	b.call(201, "PUT", "/a1/_doc/1", `{}`)
}
