package contract

import (
	"fmt"
	"slices"
	"strings"
)

// These facts are what moving data streams asks of a domain.
var streamFacts = []fact{
	{"data streams", dataStreams},
	{"data streams are restored over plain copies", streamsOverCopies},
	{"names of data streams are taken", streamNamesTaken},
}

// withStreams makes a template for data streams named by the fact, and says whether the engine has such a thing.
func (c *cluster) withStreams() bool {
	c.Helper()
	a := c.try("PUT", "/_index_template/"+c.index, map[string]any{"index_patterns": []any{c.index + "*"}, "data_stream": map[string]any{},
		"template": map[string]any{"settings": map[string]any{"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "-1"}}})
	if strings.HasPrefix(c.engine, "elasticsearch") {
		if a.status != 400 || !strings.Contains(a.text, "unknown field [data_stream]") || c.try("GET", "/_data_stream", nil).status < 400 {
			c.Errorf("data streams of an engine without: %d %s", a.status, a.text)
		}
		return false
	}
	if a.status != 200 {
		c.Fatalf("%s: %d %s", a.call, a.status, a.text)
	}
	c.Cleanup(func() {
		c.try("DELETE", "/_data_stream/"+c.index+"*", nil)
		c.try("DELETE", "/.ds-"+c.index+"*", nil)
		c.try("DELETE", "/_index_template/"+c.index, nil)
	})
	return true
}

func backing(stream string, generation int) string {
	return fmt.Sprintf(".ds-%s-%06d", stream, generation)
}

// append creates documents from..to-1 in a data stream, refreshed.
func (c *cluster) append(stream string, from, to int) {
	c.Helper()
	var b strings.Builder
	for i := from; i < to; i++ {
		noise := ""
		for j := range 12 {
			noise += fmt.Sprintf("%016x ", uint64(i*13+j)*0x9e3779b97f4a7c15)
		}
		fmt.Fprintf(&b, "{\"create\":{\"_index\":%q,\"_id\":\"%d\"}}\n{\"@timestamp\":\"2026-01-01T00:00:00Z\",\"n\":%d,\"text\":%q}\n", stream, i, i, noise)
	}
	if a := c.do("POST", "/_bulk?refresh=true", b.String()); a.get("errors") != false {
		c.Fatalf("bulk: %.800s", a.text)
	}
}

// stream is what the domain says of a data stream: its indices in order.
func (c *cluster) stream(name string) (indices []string, generation int64) {
	c.Helper()
	a := c.do("GET", "/_data_stream/"+name, nil)
	list, _ := a.get("data_streams", 0, "indices").([]any)
	for i := range list {
		indices = append(indices, a.string("data_streams", 0, "indices", i, "index_name"))
	}
	return indices, a.number("data_streams", 0, "generation")
}

func dataStreams(c *cluster) {
	if !c.withStreams() {
		return
	}
	s := c.index
	one, two, three := backing(s, 1), backing(s, 2), backing(s, 3)
	c.append(s, 0, 20)
	if a := c.do("POST", "/"+s+"/_rollover", nil); a.string("old_index") != one || a.string("new_index") != two {
		c.Errorf("rollover: %s", a.text)
	}
	c.append(s, 20, 30)
	if indices, generation := c.stream(s); !slices.Equal(indices, []string{one, two}) || generation != 2 {
		c.Errorf("stream %v, generation %d", indices, generation)
	}
	if c.count(s) != 30 || c.count(two) != 10 {
		c.Errorf("counts %d, %d", c.count(s), c.count(two))
	}
	a := c.do("GET", "/"+two, nil)
	if a.get(two, "mappings", "_data_stream_timestamp", "enabled") != true || a.string(two, "mappings", "properties", "@timestamp", "type") != "date" ||
		a.string(two, "data_stream") != s || a.string(two, "settings", "index", "hidden") != "true" {
		c.Errorf("backing index %s", a.text)
	}
	if a := c.do("GET", "/_all/_settings?flat_settings=true&expand_wildcards=all", nil); a.get(one) == nil || a.get(two) == nil {
		c.Errorf("backing indices are not listed: %.600s", a.text)
	}
	if a := c.do("GET", "/_cat/indices?format=json&h=index&expand_wildcards=all", nil); !strings.Contains(a.text, one) {
		c.Errorf("backing indices are not listed: %.600s", a.text)
	}
	a = c.do("GET", "/_resolve/index/"+s+"*?expand_wildcards=all", nil)
	if names, _ := a.get("data_streams", 0, "backing_indices").([]any); a.string("data_streams", 0, "name") != s || len(names) != 2 || names[1] != two {
		c.Errorf("resolved %s", a.text)
	}
	// What it takes, and what it does not.
	item := func(header, body string) answer {
		c.Helper()
		return c.do("POST", "/"+s+"/_bulk", header+"\n"+body+"\n")
	}
	for _, x := range []struct {
		header, body string
		status       int64
		reason       string
	}{
		{`{"index":{"_id":"x"}}`, `{"@timestamp":"2026-01-01T00:00:00Z"}`, 400, "only write ops with an op_type of create are allowed in data streams"},
		{`{"index":{}}`, `{"@timestamp":"2026-01-01T00:00:00Z"}`, 400, "only write ops with an op_type of create are allowed in data streams"},
		{`{"create":{}}`, `{"@timestamp":"2026-01-01T00:00:00Z"}`, 201, ""},
		{`{"create":{"_id":"x"}}`, `{"n":1}`, 400, "failed to parse"},
		{`{"create":{"_id":"20"}}`, `{"@timestamp":"2026-01-01T00:00:00Z"}`, 409, "document already exists"},
		{`{"create":{"_id":"0"}}`, `{"@timestamp":"2026-01-01T00:00:00Z"}`, 201, ""}, // the same id, in another backing index
		{`{"create":{"_index":"` + one + `","_id":"y"}}`, `{"@timestamp":"2026-01-01T00:00:00Z"}`, 400, "op_type=create targeting backing indices is disallowed"},
		{`{"index":{"_index":"` + one + `","_id":"0"}}`, `{"@timestamp":"2026-01-01T00:00:00Z"}`, 400, "no if_primary_term and if_seq_no set targeting backing indices is disallowed"},
	} {
		a := item(x.header, x.body)
		entry, _ := a.get("items", 0).(map[string]any)
		for action := range entry {
			if reason := a.string("items", 0, action, "error", "reason"); a.number("items", 0, action, "status") != x.status || !strings.Contains(reason, x.reason) {
				c.Errorf("%s: %s", x.header, a.text)
			}
		}
	}
	if a := c.do("POST", "/"+s+"/_doc", map[string]any{"@timestamp": "2026-01-01T00:00:00Z"}); a.string("_index") != two {
		c.Errorf("a document without id: %s", a.text)
	}
	c.refused(400, "illegal_argument_exception", "only write ops with an op_type of create", "PUT", "/"+s+"/_doc/z", map[string]any{"@timestamp": "2026-01-01T00:00:00Z"})
	// The write index can be neither closed nor blocked by _block nor deleted; a setting blocks it, and no block for writes stops a rollover.
	c.refused(400, "illegal_argument_exception", "cannot close the following data stream write indices ["+two+"]", "POST", "/"+one+","+two+"/_close", nil)
	c.refused(404, "index_not_found_exception", "no such index ["+s+"]", "POST", "/"+s+"/_close", nil)
	c.refused(400, "illegal_argument_exception", "cannot add a block to the following data stream write indices ["+two+"]", "PUT", "/"+one+","+two+"/_block/write", nil)
	if a := c.do("GET", "/"+one+"/_settings?flat_settings=true", nil); a.get(one, "settings", "index.blocks.write") != nil {
		c.Errorf("half of a refused block: %s", a.text)
	}
	c.do("PUT", "/"+one+"/_block/write", nil)
	c.do("PUT", "/"+two+"/_settings", map[string]any{"index.blocks.write": true})
	if a := item(`{"create":{}}`, `{"@timestamp":"2026-01-01T00:00:00Z"}`); a.number("items", 0, "create", "status") != 403 {
		c.Errorf("a blocked stream: %s", a.text)
	}
	c.do("PUT", "/"+two+"/_settings", map[string]any{"index.blocks.read_only": true})
	c.refused(403, "cluster_block_exception", "index read-only (api)", "POST", "/"+s+"/_rollover", nil)
	c.do("PUT", "/"+two+"/_settings", map[string]any{"index.blocks.read_only": nil})
	c.do("POST", "/"+s+"/_rollover", nil)
	if a := item(`{"create":{}}`, `{"@timestamp":"2026-01-01T00:00:00Z"}`); a.number("items", 0, "create", "status") != 201 || a.string("items", 0, "create", "_index") != three {
		c.Errorf("after a rollover below a write block: %s", a.text)
	}
	c.refused(400, "illegal_argument_exception", "index ["+three+"] is the write index for data stream ["+s+"] and cannot be deleted", "DELETE", "/"+three, nil)
	c.do("DELETE", "/"+one, nil)
	if indices, generation := c.stream(s); !slices.Equal(indices, []string{two, three}) || generation != 3 {
		c.Errorf("after a deletion: stream %v, generation %d", indices, generation)
	}
	c.refused(400, "illegal_argument_exception", "don't support aliases", "POST", "/_aliases", map[string]any{"actions": []any{map[string]any{"add": map[string]any{"index": two, "alias": s + "-alias"}}}})
	c.refused(400, "illegal_argument_exception", "in use by a data streams ["+s+"]", "DELETE", "/_index_template/"+s, nil)
	c.refused(400, "resource_already_exists_exception", "data_stream ["+s+"] already exists", "PUT", "/_data_stream/"+s, nil)
	c.refused(400, "illegal_argument_exception", "creates data streams only", "PUT", "/"+s+"-plain", map[string]any{})
	c.refused(404, "index_not_found_exception", "no such index ["+s+"]", "DELETE", "/"+s, nil)
	c.do("DELETE", "/_data_stream/"+s, nil)
	c.do("DELETE", "/_data_stream/"+s, nil) // twice is no error
	c.refused(404, "index_not_found_exception", "no such index ["+s+"]", "GET", "/_data_stream/"+s, nil)
	if c.try("GET", "/"+three, nil).status != 404 {
		c.Error("the indices of a deleted data stream are there")
	}
}

// streamsOverCopies is how a data stream is moved: its indices as plain copies that are closed, and the stream whole over them.
func streamsOverCopies(c *cluster) {
	if !c.withStreams() {
		return
	}
	s := c.index
	one, two := backing(s, 1), backing(s, 2)
	c.append(s, 0, 2000)
	c.do("POST", "/"+s+"/_rollover", nil)
	c.append(s, 2000, 4000)
	c.register(c.repo, false)
	c.snapshot("warm", one+","+two)
	c.append(s, 4000, 4100)
	c.do("PUT", "/"+one+"/_block/write", nil)
	c.do("PUT", "/"+two+"/_settings", map[string]any{"index.blocks.write": true})
	c.snapshot("final", s)
	for name, streams := range map[string]int{"warm": 0, "final": 1} {
		a := c.do("GET", "/_snapshot/"+c.repo+"/"+name, nil)
		held, _ := a.get("snapshots", 0, "data_streams").([]any)
		indices, _ := a.get("snapshots", 0, "indices").([]any)
		if len(held) != streams || len(indices) != 2 {
			c.Errorf("snapshot %s: %s", name, a.text)
		}
	}
	c.do("DELETE", "/_data_stream/"+s, nil)
	// An index template for data streams is nothing to plain copies, and is not needed by the stream.
	c.do("DELETE", "/_index_template/"+s, nil)
	options := func(more map[string]any) map[string]any {
		body := map[string]any{"include_global_state": false, "ignore_index_settings": []any{"index.blocks.*"},
			"index_settings": map[string]any{"index.number_of_replicas": 0, "index.refresh_interval": "-1", "index.blocks.write": true}}
		for k, v := range more {
			body[k] = v
		}
		return body
	}
	c.refused(404, "index_not_found_exception", "no such index ["+s+"]", "POST", "/_snapshot/"+c.repo+"/warm/_restore", options(map[string]any{"indices": s}))
	c.do("POST", "/_snapshot/"+c.repo+"/warm/_restore", options(map[string]any{"indices": one + "," + two}))
	c.started(one)
	c.started(two)
	if a := c.do("GET", "/_resolve/index/*?expand_wildcards=all", nil); strings.Contains(a.text, `"data_stream":"`+s+`"`) {
		c.Errorf("plain copies are a data stream: %s", a.text)
	}
	c.refused(500, "snapshot_restore_exception", "open index with same name already exists", "POST", "/_snapshot/"+c.repo+"/final/_restore", options(map[string]any{"indices": s}))
	c.close(one + "," + two)
	c.do("POST", "/_snapshot/"+c.repo+"/final/_restore", options(map[string]any{"indices": s}))
	c.started(one)
	c.started(two)
	if indices, generation := c.stream(s); !slices.Equal(indices, []string{one, two}) || generation != 2 {
		c.Errorf("restored stream %v, generation %d", indices, generation)
	}
	if recovered, reused := c.moved(one); recovered > 2000 || reused < 100_000 {
		c.Errorf("%s, unchanged: recovered %d, reused %d", one, recovered, reused)
	}
	if recovered, reused := c.moved(two); recovered > reused/2 || reused < 100_000 {
		c.Errorf("%s, appended: recovered %d, reused %d", two, recovered, reused)
	}
	if c.count(s) != 4100 {
		c.Errorf("%d documents", c.count(s))
	}
	create := func(id string) answer {
		return c.do("POST", "/"+s+"/_bulk", `{"create":{"_id":"`+id+`"}}`+"\n"+`{"@timestamp":"2026-01-01T00:00:00Z"}`+"\n")
	}
	if a := create("a"); a.number("items", 0, "create", "status") != 403 {
		c.Errorf("the block did not come: %s", a.text)
	}
	c.do("PUT", "/"+one+","+two+"/_settings", map[string]any{"index.blocks.write": nil, "index.refresh_interval": nil})
	if a := create("a"); a.number("items", 0, "create", "status") != 201 || a.string("items", 0, "create", "_index") != two {
		c.Errorf("opened: %s", a.text)
	}
	c.refused(400, "illegal_argument_exception", "no matching index template found for data stream ["+s+"]", "POST", "/"+s+"/_rollover", nil)
	// A closed index of a stream that is there is restored over and stays in it; the stream is not.
	c.close(one)
	c.do("POST", "/_snapshot/"+c.repo+"/warm/_restore", options(map[string]any{"indices": one}))
	c.started(one)
	if indices, _ := c.stream(s); !slices.Equal(indices, []string{one, two}) {
		c.Errorf("after a restore of one index: stream %v", indices)
	}
	c.refused(500, "snapshot_restore_exception", "open index with same name already exists", "POST", "/_snapshot/"+c.repo+"/final/_restore", options(map[string]any{"indices": s}))
}

// streamNamesTaken: a data stream is not restored onto the name of anything else.
func streamNamesTaken(c *cluster) {
	if !c.withStreams() {
		return
	}
	s := c.index
	c.append(s, 0, 10)
	c.register(c.repo, false)
	c.snapshot("one", s)
	c.do("DELETE", "/_data_stream/"+s, nil)
	c.do("DELETE", "/_index_template/"+s, nil)
	restore := func(reason string) {
		c.Helper()
		a := c.try("POST", "/_snapshot/"+c.repo+"/one/_restore", map[string]any{"indices": s, "include_global_state": false})
		if a.status < 400 || !strings.Contains(a.text, reason) {
			c.Errorf("%s: %d %s", a.call, a.status, a.text)
		}
	}
	c.create(s, 1)
	restore("names need to be unique")
	c.do("DELETE", "/"+s, nil)
	c.create(s+"-other", 1)
	c.do("POST", "/"+s+"-other/_alias/"+s, nil)
	restore("names need to be unique")
	if a := c.do("GET", "/_resolve/index/"+s+"?expand_wildcards=all", nil); a.string("aliases", 0, "name") != s {
		c.Errorf("resolved %s", a.text)
	}
	c.do("DELETE", "/"+s+"-other", nil)
	c.do("POST", "/_snapshot/"+c.repo+"/one/_restore", map[string]any{"indices": s, "include_global_state": false})
	c.started(backing(s, 1))
	a := c.do("GET", "/_resolve/index/"+s+"?expand_wildcards=all", nil)
	if a.string("data_streams", 0, "name") != s {
		c.Errorf("resolved %s", a.text)
	}
	if a := c.do("GET", "/_resolve/index/"+s+"-none?expand_wildcards=all", nil); strings.Contains(a.text, s) {
		c.Errorf("resolved %s", a.text)
	}
}
