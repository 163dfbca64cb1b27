package contract

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

type fact struct {
	name  string
	check func(*cluster)
}

// facts come from reference/measured.md and reference/snapshots.md of the project's design.
var facts = []fact{
	{"snapshots are incremental", snapshotsAreIncremental},
	{"layout of the repository", layout},
	{"restore reuses appended segments", restoreReusesAppended},
	{"restore fetches updated segments whole", restoreFetchesUpdated},
	{"stray writes are gone", strayWrites},
	{"forcemerge breaks reuse", forceMergeBreaksReuse},
	{"sequence numbers survive", sequenceNumbers},
	{"deletes use sequence numbers", deletesUseSequenceNumbers},
	{"blocks", blocks},
	{"blocks travel", blocksTravel},
	{"restore is refused", restoreIsRefused},
	{"snapshot is refused", snapshotIsRefused},
	{"repository errors", repositoryErrors},
	{"closed indices", closedIndices},
	{"missing indices", missingIndices},
	{"versions", versions},
	{"bulk answers", bulkAnswers},
	{"updates", updates},
	{"metadata follows restore", metadataFollows},
	{"aliases stay when asked", aliasesStay},
	{"read-only repository", readOnlyRepository},
	{"missing blob", missingBlob},
	{"search pages", searchPages},
	{"aggregations on sequence numbers", aggregations},
	{"scroll", scrolls},
	{"visibility", visibility},
	{"routing", routing},
	{"delete a snapshot", deleteSnapshot},
	{"settings", settings},
}

func incremental(a answer) (files, bytes int64) {
	return a.number("snapshots", 0, "stats", "incremental", "file_count"), a.number("snapshots", 0, "stats", "incremental", "size_in_bytes")
}

func totalBytes(a answer) int64 { return a.number("snapshots", 0, "stats", "total", "size_in_bytes") }

func snapshotsAreIncremental(c *cluster) {
	c.create(c.index, 2)
	c.write(c.index, 0, 3000)
	c.register(c.repo, false)
	first := c.snapshot("s1", c.index)
	files, bytes := incremental(first)
	if all := totalBytes(first); bytes != all || files < 6 || bytes < 100_000 {
		c.Errorf("first snapshot: incremental %d files %d bytes of %d, want everything", files, bytes, all)
	}
	if got := first.number("snapshots", 0, "shards_stats", "done"); got != 2 {
		c.Errorf("done shards: %d", got)
	}
	if files, bytes := incremental(c.snapshot("s2", c.index)); files != 0 || bytes != 0 {
		c.Errorf("unchanged: incremental %d files %d bytes, want none", files, bytes)
	}
	c.do("POST", "/"+c.index+"/_flush?force=true", nil)
	if files, bytes := incremental(c.snapshot("s3", c.index)); files != 0 || bytes != 0 {
		c.Errorf("after a forced flush: incremental %d files %d bytes, want none", files, bytes)
	}
	c.write(c.index, 3000, 3060)
	appended := c.snapshot("s4", c.index)
	files, bytes = incremental(appended)
	if all := totalBytes(appended); files < 4 || bytes == 0 || bytes > all/4 {
		c.Errorf("append: incremental %d files %d bytes of %d", files, bytes, all)
	}
	c.write(c.index, 10, 11) // one update
	updated := c.snapshot("s5", c.index)
	files, bytes = incremental(updated)
	if all := totalBytes(updated); files < 4 || bytes == 0 || bytes > all/4 {
		c.Errorf("update: incremental %d files %d bytes of %d: the snapshot compares file by file", files, bytes, all)
	}
	c.do("DELETE", "/"+c.index+"/_doc/11?refresh=true", nil)
	deleted := c.snapshot("s6", c.index)
	if files, bytes := incremental(deleted); files < 4 || bytes == 0 || bytes > totalBytes(deleted)/4 {
		c.Errorf("delete: incremental %d files %d bytes", files, bytes)
	}
	c.do("PUT", "/"+c.index+"/_settings", map[string]any{"index.refresh_interval": "30s"})
	c.do("POST", "/_aliases", map[string]any{"actions": []any{map[string]any{"add": map[string]any{"index": c.index, "alias": c.index + "-alias"}}}})
	if files, bytes := incremental(c.snapshot("s7", c.index)); files != 0 || bytes != 0 {
		c.Errorf("metadata only: incremental %d files %d bytes, want none", files, bytes)
	}
}

func layout(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 200)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	c.write(c.index, 200, 230)
	c.snapshot("s2", c.index)
	shape := regexp.MustCompile(`^(index-1|index\.latest|(snap|meta)-[\w-]{22}\.dat|indices/[\w-]{22}/(meta-[\w-]{20,22}\.dat|0/(__[\w-]{22}|index-[\w-]{22}|snap-[\w-]{22}\.dat)))$`)
	bad := func() (names []string) {
		roots, shardIndices := 0, 0
		for _, n := range c.files() {
			if !shape.MatchString(n) {
				names = append(names, n)
			}
			if strings.HasPrefix(n, "index-") {
				roots++
			}
			if strings.Contains(n, "/0/index-") {
				shardIndices++
			}
		}
		if roots != 1 || shardIndices != 1 {
			names = append(names, "superseded index blobs remain")
		}
		return names
	}
	c.eventually("removal of superseded blobs", func() bool { return len(bad()) == 0 })
	latest, err := os.ReadFile(filepath.Join(c.root, c.repo, "index.latest"))
	if err != nil || len(latest) != 8 || binary.BigEndian.Uint64(latest) != 1 {
		c.Errorf("index.latest is % x (%v), want 1 in 8 bytes big endian", latest, err)
	}
	b, err := os.ReadFile(filepath.Join(c.root, c.repo, "index-1"))
	if err != nil {
		c.Fatal(err)
	}
	var data struct {
		Snapshots []struct {
			Name, UUID, Version string
			State               int
			Lookup              map[string]string `json:"index_metadata_lookup"`
		}
		Indices map[string]struct {
			ID               string
			Snapshots        []string
			ShardGenerations []string `json:"shard_generations"`
		}
		Identifiers map[string]string `json:"index_metadata_identifiers"`
	}
	if err := json.Unmarshal(b, &data); err != nil {
		c.Fatal(err)
	}
	ix := data.Indices[c.index]
	if len(data.Snapshots) != 2 || data.Snapshots[0].State != 1 || len(ix.Snapshots) != 2 || len(ix.ShardGenerations) != 1 {
		c.Errorf("index-1: %s", b)
	}
	for _, s := range data.Snapshots {
		blob := data.Identifiers[s.Lookup[ix.ID]]
		if !slices.Contains(c.files(), "indices/"+ix.ID+"/meta-"+blob+".dat") {
			c.Errorf("snapshot %s: no index metadata %q", s.Name, blob)
		}
		if !slices.Contains(c.files(), "indices/"+ix.ID+"/0/snap-"+s.UUID+".dat") {
			c.Errorf("snapshot %s: no shard file list", s.Name)
		}
	}
}

func restoreReusesAppended(c *cluster) {
	c.create(c.index, 2)
	c.write(c.index, 0, 4000)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	target := c.index + "-copy"
	c.restore(c.repo, "s1", c.index, target, nil)
	if recovered, reused := c.moved(target); reused != 0 || recovered < 100_000 {
		c.Errorf("first restore: recovered %d reused %d, want all fetched", recovered, reused)
	}
	uuid := c.do("GET", "/"+target+"/_settings?flat_settings=true", nil).string(target, "settings", "index.uuid")
	c.close(target)
	c.restore(c.repo, "s1", c.index, target, nil)
	unchanged, reused := c.moved(target)
	if unchanged == 0 || unchanged > 8_000 || reused < 100_000 {
		c.Errorf("unchanged: recovered %d reused %d, want only the commit points", unchanged, reused)
	}
	c.write(c.index, 4000, 4080)
	delta := c.snapshot("s2", c.index)
	_, bytes := incremental(delta)
	c.close(target)
	c.restore(c.repo, "s2", c.index, target, nil)
	if recovered, reused := c.moved(target); reused < 100_000 || recovered > bytes+8_000 || recovered == 0 {
		c.Errorf("append: recovered %d reused %d, the snapshot's increment was %d", recovered, reused, bytes)
	}
	if n := c.count(target); n != 4080 {
		c.Errorf("count %d, want 4080", n)
	}
	after := c.do("GET", "/"+target+"/_settings?flat_settings=true", nil)
	if got := after.string(target, "settings", "index.uuid"); got != uuid {
		c.Errorf("index UUID changed from %s to %s over restores", uuid, got)
	}
	if after.string(target, "settings", "index.history.uuid") == "" {
		c.Error("a restored index has index.history.uuid")
	}
}

func restoreFetchesUpdated(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 3000)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	target := c.index + "-copy"
	c.restore(c.repo, "s1", c.index, target, nil)
	whole, _ := c.moved(target)
	c.write(c.index, 17, 18)
	increment := c.snapshot("s2", c.index)
	c.close(target)
	c.restore(c.repo, "s2", c.index, target, nil)
	recovered, _ := c.moved(target)
	if _, bytes := incremental(increment); recovered < whole*8/10 || bytes > whole/4 {
		c.Errorf("one update of 3000: the restore fetched %d of %d bytes though the snapshot added only %d; want the whole segment", recovered,
			whole, bytes)
	}
	c.do("DELETE", "/"+c.index+"/_doc/18?refresh=true", nil)
	c.snapshot("s3", c.index)
	c.close(target)
	c.restore(c.repo, "s3", c.index, target, nil)
	if recovered, _ := c.moved(target); recovered < whole*8/10 {
		c.Errorf("one delete: the restore fetched %d of %d bytes, want the whole segment", recovered, whole)
	}
	if n := c.count(target); n != 2999 {
		c.Errorf("count %d, want 2999", n)
	}
	if a := c.do("GET", "/"+target+"/_doc/17", nil); a.number("_version") != 2 || a.number("_seq_no") != 3000 {
		c.Errorf("the updated document: %s", a.text)
	}
}

func strayWrites(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 2000)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	target := c.index + "-copy"
	c.restore(c.repo, "s1", c.index, target, nil)
	c.do("PUT", "/"+target+"/_doc/stray", map[string]any{"n": -1})
	c.close(target)
	c.restore(c.repo, "s1", c.index, target, nil)
	if _, reused := c.moved(target); reused < 50_000 {
		c.Errorf("a stray document broke the reuse: %d bytes", reused)
	}
	if a := c.try("GET", "/"+target+"/_doc/stray", nil); a.status != 404 || c.count(target) != 2000 {
		c.Errorf("stray document after the restore: %d, count %d", a.status, c.count(target))
	}
}

func forceMergeBreaksReuse(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 800)
	c.write(c.index, 800, 1600)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	c.do("POST", "/"+c.index+"/_forcemerge?max_num_segments=1", nil)
	a := c.snapshot("s2", c.index)
	if _, bytes := incremental(a); bytes < totalBytes(a)*9/10 {
		c.Errorf("after a force-merge the snapshot added %d of %d bytes, want everything", bytes, totalBytes(a))
	}
}

func sequenceNumbers(c *cluster) {
	c.create(c.index, 3)
	c.write(c.index, 0, 500)
	c.write(c.index, 100, 150)
	for _, id := range []string{"1", "2", "499"} {
		c.do("DELETE", "/"+c.index+"/_doc/"+id, nil)
	}
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	target := c.index + "-copy"
	c.restore(c.repo, "s1", c.index, target, nil)
	if a, b := c.seqNo(c.index, 3), c.seqNo(target, 3); !slices.Equal(a, b) {
		c.Errorf("sequence numbers: source %v, restored %v", a, b)
	}
	sum := int64(0)
	for _, s := range c.seqNo(c.index, 3) {
		sum += s[0] + 1
		if s[0] != s[1] || s[1] != s[2] {
			c.Errorf("max, local and global checkpoint differ on a single node: %v", s)
		}
	}
	if sum != 553 {
		c.Errorf("553 operations used %d sequence numbers", sum)
	}
	if a := c.do("GET", "/"+target+"/_stats?level=shards", nil); a.string("indices", target, "shards", "0", 0, "commit", "user_data",
		"max_seq_no") == "" {
		c.Errorf("no max_seq_no in the commit's user data: %.500s", a.text)
	}
	d := c.do("GET", "/"+target+"/_doc/120", nil)
	if d.number("_version") != 2 || d.number("_primary_term") != 1 {
		c.Errorf("a restored document keeps version and term: %s", d.text)
	}
	w := c.do("PUT", "/"+target+"/_doc/new", map[string]any{"n": 1})
	if w.number("_primary_term") <= 1 {
		c.Errorf("writes after a restore have a higher primary term: %s", w.text)
	}
}

func deletesUseSequenceNumbers(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 20)
	a := c.do("DELETE", "/"+c.index+"/_doc/19", nil)
	if a.number("_seq_no") != 20 || a.string("result") != "deleted" || a.number("_version") != 2 {
		c.Errorf("delete: %s", a.text)
	}
	if a := c.try("DELETE", "/"+c.index+"/_doc/nothing", nil); a.status != 404 || a.number("_seq_no") != 21 || a.string("result") != "not_found" {
		c.Errorf("delete of nothing: %d %s", a.status, a.text)
	}
	c.do("POST", "/"+c.index+"/_refresh", nil)
	a = c.do("POST", "/"+c.index+"/_search", map[string]any{"size": 0,
		"aggs": map[string]any{"m": map[string]any{"max": map[string]any{"field": "_seq_no"}}}})
	if docs, stats := a.number("aggregations", "m", "value"), c.seqNo(c.index, 1)[0][0]; docs != 18 || stats != 21 {
		c.Errorf("max _seq_no of documents %d, of the shard %d; want 18 and 21", docs, stats)
	}
}

func blocks(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 3)
	a := c.do("PUT", "/"+c.index+"/_block/write", nil)
	if a.get("shards_acknowledged") != true || a.string("indices", 0, "name") != c.index || a.get("indices", 0, "blocked") != true {
		c.Errorf("block: %s", a.text)
	}
	if again := c.do("PUT", "/"+c.index+"/_block/write", nil); again.get("shards_acknowledged") != false || len(again.get("indices").([]any)) != 0 {
		c.Errorf("block again: %s", again.text)
	}
	const reason = "blocked by: [FORBIDDEN/8/index write (api)];"
	c.refused(403, "cluster_block_exception", reason, "PUT", "/"+c.index+"/_doc/1", map[string]any{"n": 1})
	c.refused(403, "cluster_block_exception", reason, "DELETE", "/"+c.index+"/_doc/1", nil)
	c.refused(403, "cluster_block_exception", reason, "POST", "/"+c.index+"/_update/1", map[string]any{"doc": map[string]any{"n": 5}})
	b := c.do("POST", "/_bulk", `{"index":{"_index":"`+c.index+`","_id":"1"}}`+"\n{\"n\":1}\n")
	if b.get("errors") != true || b.number("items", 0, "index", "status") != 403 || b.string("items", 0, "index", "error",
		"type") != "cluster_block_exception" {
		c.Errorf("bulk into a blocked index: %s", b.text)
	}
	c.refused(400, "illegal_argument_exception", "No block found with name nope", "PUT", "/"+c.index+"/_block/nope", nil)
	if n := c.count(c.index); n != 3 {
		c.Errorf("reads go on below a write block: count %d", n)
	}
	c.do("PUT", "/"+c.index+"/_mapping", map[string]any{"properties": map[string]any{"later": map[string]any{"type": "long"}}})
	c.do("PUT", "/"+c.index+"/_settings", map[string]any{"index.blocks.write": nil})
	c.do("PUT", "/"+c.index+"/_doc/1", map[string]any{"n": 1})
}

func blocksTravel(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 3)
	c.do("PUT", "/"+c.index+"/_block/write", nil)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	block := func(index string) string {
		return c.do("GET", "/"+index+"/_settings?flat_settings=true", nil).string(index, "settings", "index.blocks.write")
	}
	for name, tc := range map[string]struct {
		more map[string]any
		want string
	}{
		"-plain":  {nil, "true"},
		"-ignore": {map[string]any{"ignore_index_settings": []string{"index.blocks.*"}}, ""},
		"-text":   {map[string]any{"ignore_index_settings": "index.blocks.write"}, ""},
		"-false":  {map[string]any{"index_settings": map[string]any{"index.blocks.write": false}}, "false"},
		"-null":   {map[string]any{"index_settings": map[string]any{"index.blocks.write": nil}}, ""},
		"-both": {map[string]any{"ignore_index_settings": []string{"index.blocks.*"}, "index_settings": map[string]any{"index.blocks.write": true}},
			"true"},
	} {
		c.restore(c.repo, "s1", c.index, c.index+name, tc.more)
		if got := block(c.index + name); got != tc.want {
			c.Errorf("restore %v: index.blocks.write is %q, want %q", tc.more, got, tc.want)
		}
		status := map[bool]int{true: 403, false: 200}[tc.want == "true"]
		if a := c.try("PUT", "/"+c.index+name+"/_doc/1", map[string]any{"n": 1}); a.status != status {
			c.Errorf("restore %v: write answers %d, want %d", tc.more, a.status, status)
		}
	}
}

func restoreIsRefused(c *cluster) {
	c.create(c.index, 2)
	c.write(c.index, 0, 10)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	path := "/_snapshot/" + c.repo + "/s1/_restore"
	const kind = "snapshot_restore_exception"
	c.refused(500, kind, "cannot restore index ["+c.index+"] because an open index with same name already exists in the cluster", "POST",
		path, map[string]any{"indices": c.index})
	c.refused(500, kind, "["+c.repo+":none] snapshot does not exist", "POST", "/_snapshot/"+c.repo+"/none/_restore", map[string]any{"indices": c.index})
	c.refused(404, "index_not_found_exception", "no such index [zzz]", "POST", path, map[string]any{"indices": "zzz"})
	c.refused(404, "repository_missing_exception", "[nope] missing", "POST", "/_snapshot/nope/s1/_restore", map[string]any{"indices": c.index})
	five := c.index + "-five"
	c.create(five, 5)
	c.close(five)
	c.refused(500, kind, "cannot restore index ["+five+"] with [5] shards from a snapshot of index ["+c.index+"] with [2] shards", "POST", path,
		map[string]any{"indices": c.index, "rename_pattern": "^" + c.index + "$", "rename_replacement": five})
	c.refused(400, "invalid_index_name_exception", "Invalid index name [BAD NAME]", "POST", path,
		map[string]any{"indices": c.index, "rename_pattern": ".+", "rename_replacement": "BAD NAME"})
	c.refused(400, "illegal_argument_exception", "Unknown parameter nonsense", "POST", path, map[string]any{"indices": c.index, "nonsense": 1})
	other := map[string]any{"indices": c.index, "rename_pattern": "^(.+)$", "rename_replacement": "$1-other"}
	for setting, word := range map[string]string{"index.number_of_shards": "modify", "index.version.created": "modify"} {
		body := map[string]any{"index_settings": map[string]any{setting: 1}}
		for k, v := range other {
			body[k] = v
		}
		c.refused(500, kind, "cannot "+word, "POST", path, body)
	}
	c.restore(c.repo, "s1", c.index, c.index+"-renamed", nil)
	if n := c.count(c.index + "-renamed"); n != 10 {
		c.Errorf("renamed restore has %d documents", n)
	}
}

func snapshotIsRefused(c *cluster) {
	c.create(c.index, 1)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	path := "/_snapshot/" + c.repo + "/"
	const kind = "invalid_snapshot_name_exception"
	c.refused(400, kind, "snapshot with the same name already exists", "PUT", path+"s1", map[string]any{"indices": c.index})
	c.refused(400, kind, "must be lowercase", "PUT", path+"UP", map[string]any{"indices": c.index})
	c.refused(400, kind, "must not contain whitespace", "PUT", path+"a%20b", map[string]any{"indices": c.index})
	c.refused(404, "index_not_found_exception", "no such index [zzz]", "PUT", path+"s2", map[string]any{"indices": "zzz"})
	c.refused(404, "repository_missing_exception", "[nope] missing", "PUT", "/_snapshot/nope/s1", map[string]any{"indices": c.index})
	c.refused(404, "snapshot_missing_exception", "["+c.repo+":none] is missing", "GET", path+"none", nil)
	c.refused(404, "snapshot_missing_exception", "["+c.repo+":none] is missing", "GET", path+"none/_status", nil)
	if a := c.do("GET", path+"none?ignore_unavailable=true", nil); len(a.get("snapshots").([]any)) != 0 {
		c.Errorf("ignore_unavailable: %s", a.text)
	}
	if a := c.do("GET", path+"_current", nil); len(a.get("snapshots").([]any)) != 0 {
		c.Errorf("_current while idle: %s", a.text)
	}
	done := c.do("GET", path+"s1", nil)
	if done.string("snapshots", 0, "state") != "SUCCESS" || done.number("snapshots", 0, "shards", "failed") != 0 || done.string("snapshots",
		0, "indices", 0) != c.index ||
		done.string("snapshots", 0, "version") != strings.SplitN(c.engine, "-", 2)[1] {
		c.Errorf("finished snapshot: %s", done.text)
	}
}

func repositoryErrors(c *cluster) {
	c.refused(404, "repository_missing_exception", "[nope] missing", "GET", "/_snapshot/nope", nil)
	c.refused(404, "repository_missing_exception", "[nope] missing", "GET", "/_snapshot/nope/_all", nil)
	c.refused(404, "repository_missing_exception", "[nope] missing", "DELETE", "/_snapshot/nope", nil)
	c.refused(500, "repository_exception", "", "PUT", "/_snapshot/bad-"+c.repo, map[string]any{"type": "fs",
		"settings": map[string]any{"location": "/opt/nowhere"}})
	c.refused(500, "repository_exception", "repository type [s3] does not exist", "PUT", "/_snapshot/bad-"+c.repo,
		map[string]any{"type": "s3", "settings": map[string]any{"bucket": "b"}})
	c.register(c.repo, false)
	if a := c.do("GET", "/_snapshot/"+c.repo, nil); a.string(c.repo, "type") != "fs" || a.string(c.repo, "settings", "location") == "" {
		c.Errorf("repository: %s", a.text)
	}
	if a := c.do("GET", "/_snapshot/"+c.repo+"/_all", nil); len(a.get("snapshots").([]any)) != 0 {
		c.Errorf("an empty repository: %s", a.text)
	}
	if a := c.do("POST", "/_snapshot/"+c.repo+"/_verify", nil); len(a.get("nodes").(map[string]any)) != 1 {
		c.Errorf("verify: %s", a.text)
	}
}

func closedIndices(c *cluster) {
	c.create(c.index, 2)
	c.write(c.index, 0, 50)
	a := c.do("POST", "/"+c.index+"/_close", nil)
	if a.get("indices", c.index, "closed") != true || a.get("shards_acknowledged") != true {
		c.Errorf("close: %s", a.text)
	}
	if again := c.do("POST", "/"+c.index+"/_close", nil); again.get("shards_acknowledged") != false {
		c.Errorf("close again: %s", again.text)
	}
	for _, call := range [][2]string{{"GET", "/_search"}, {"GET", "/_count"}, {"GET", "/_stats"}, {"GET", "/_doc/1"}, {"POST", "/_refresh"},
		{"POST", "/_flush"}, {"POST", "/_forcemerge"}} {
		c.refused(400, "index_closed_exception", "closed", call[0], "/"+c.index+call[1], nil)
	}
	c.refused(400, "index_closed_exception", "closed", "PUT", "/"+c.index+"/_doc/1", map[string]any{"n": 1})
	c.started(c.index) // closed shards are assigned anew, which takes a node a moment
	row := c.do("GET", "/_cat/indices/"+c.index+"?format=json", nil)
	if row.string(0, "status") != "close" || row.string(0, "health") != "green" || row.get(0, "docs.count") != nil {
		c.Errorf("cat: %s", row.text)
	}
	if h := c.do("GET", "/_cluster/health/"+c.index, nil); h.string("status") != "green" || h.number("active_primary_shards") != 2 {
		c.Errorf("health of a closed index: %s", h.text)
	}
	r := c.do("GET", "/"+c.index+"/_recovery", nil)
	if r.string(c.index, "shards", 0, "type") != "EXISTING_STORE" {
		c.Errorf("recovery of a closed index: %s", r.text)
	}
	c.do("PUT", "/"+c.index+"/_settings", map[string]any{"index.codec": "best_compression"})
	if s := c.do("GET", "/"+c.index+"/_settings?flat_settings=true", nil); s.string(c.index, "settings", "index.verified_before_close") != "true" {
		c.Errorf("settings: %s", s.text)
	}
	c.do("POST", "/"+c.index+"/_open", nil)
	c.started(c.index)
	if n := c.count(c.index); n != 50 {
		c.Errorf("count after reopening: %d", n)
	}
	c.register(c.repo, false)
	c.do("POST", "/"+c.index+"/_close", nil)
	c.started(c.index)
	if a := c.snapshot("s1", c.index); a.number("snapshots", 0, "shards_stats", "done") != 2 {
		c.Errorf("a closed index can be snapshotted: %s", a.text)
	}
	c.close(c.index)
	c.restore(c.repo, "s1", c.index, c.index, nil)
	if n := c.count(c.index); n != 50 {
		c.Errorf("a restore opens the index: count %d", n)
	}
}

func missingIndices(c *cluster) {
	const reason = "no such index [c-none]"
	for _, call := range [][2]string{{"GET", "/c-none"}, {"DELETE", "/c-none"}, {"GET", "/c-none/_search"}, {"GET", "/c-none/_settings"},
		{"GET", "/c-none/_mapping"},
		{"POST", "/c-none/_close"}, {"GET", "/c-none/_stats"}, {"GET", "/c-none/_recovery"}, {"GET", "/c-none/_doc/1"},
		{"PUT", "/c-none/_block/write"}, {"GET", "/_cat/indices/c-none"}} {
		c.refused(404, "index_not_found_exception", reason, call[0], call[1], nil)
	}
	if a := c.try("HEAD", "/c-none", nil); a.status != 404 {
		c.Errorf("HEAD: %d", a.status)
	}
	if a := c.try("GET", "/_cluster/health/c-none?timeout=100ms", nil); a.status != 408 || a.get("timed_out") != true || a.string("status") != "red" {
		c.Errorf("health: %d %s", a.status, a.text)
	}
	if a := c.do("GET", "/c-none*/_count", nil); a.number("count") != 0 {
		c.Errorf("wildcard: %s", a.text)
	}
	c.create(c.index, 1)
	c.refused(400, "resource_already_exists_exception", "already exists", "PUT", "/"+c.index, nil)
	c.refused(400, "invalid_index_name_exception", "must be lowercase", "PUT", "/C-Upper", nil)
}

func versions(c *cluster) {
	c.create(c.index, 1)
	put := func(id, query string) answer {
		return c.try("PUT", "/"+c.index+"/_doc/"+id+query, map[string]any{"n": 1})
	}
	if a := put("1", "?version=5&version_type=external_gte"); a.status != 201 || a.number("_version") != 5 {
		c.Errorf("external_gte 5: %d %s", a.status, a.text)
	}
	if a := put("1", "?version=5&version_type=external_gte"); a.status != 200 || a.string("result") != "updated" {
		c.Errorf("external_gte, the same again: %d %s", a.status, a.text)
	}
	c.refused(409, "version_conflict_engine_exception", "[1]: version conflict, current version [5] is higher than the one provided [4]", "PUT",
		"/"+c.index+"/_doc/1?version=4&version_type=external_gte", map[string]any{"n": 1})
	c.refused(409, "version_conflict_engine_exception", "document already exists (current version [5])", "PUT", "/"+c.index+"/_create/1",
		map[string]any{"n": 1})
	if a := c.do("DELETE", "/"+c.index+"/_doc/1?version=8&version_type=external_gte", nil); a.number("_version") != 8 {
		c.Errorf("external delete: %s", a.text)
	}
	c.refused(409, "version_conflict_engine_exception", "current version [8] is higher than the one provided [7]", "PUT",
		"/"+c.index+"/_doc/1?version=7&version_type=external_gte", map[string]any{"n": 1})
	if a := put("1", ""); a.status != 201 || a.number("_version") != 9 {
		c.Errorf("a deleted document's version counts on: %d %s", a.status, a.text)
	}
	a := put("2", "")
	if a := put("2", "?if_seq_no="+strconv.FormatInt(a.number("_seq_no"), 10)+"&if_primary_term=1"); a.status != 200 {
		c.Errorf("if_seq_no: %d %s", a.status, a.text)
	}
	c.refused(409, "version_conflict_engine_exception", "required seqNo", "PUT", "/"+c.index+"/_doc/2?if_seq_no=0&if_primary_term=1",
		map[string]any{"n": 1})
	c.refused(400, "action_request_validation_exception", "internal versioning can not be used", "PUT", "/"+c.index+"/_doc/2?version=3",
		map[string]any{"n": 1})
}

func bulkAnswers(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 1)
	lines := []string{`{"index":{"_index":"` + c.index + `","_id":"a","routing":"r"}}`, `{"n":1}`,
		`{"create":{"_index":"` + c.index + `","_id":"0"}}`, `{"n":1}`,
		`{"delete":{"_index":"` + c.index + `","_id":"none"}}`, `{"update":{"_index":"` + c.index + `","_id":"0"}}`, `{"doc":{"z":2}}`,
		`{"update":{"_index":"` + c.index + `","_id":"none"}}`, `{"doc":{"z":2}}`, `{"index":{"_index":"` + c.index + `","_id":"b"}}`, `{"n":"abc"}`}
	a := c.do("POST", "/_bulk?pipeline=_none", strings.Join(lines, "\n")+"\n")
	want := []struct {
		action, result, failure string
		status                  int64
	}{{"index", "created", "", 201}, {"create", "", "version_conflict_engine_exception", 409}, {"delete", "not_found", "", 404},
		{"update", "updated", "", 200},
		{"update", "", "document_missing_exception", 404}, {"index", "", "mapper_parsing_exception", 400}}
	if a.get("errors") != true {
		c.Errorf("errors: %s", a.text)
	}
	for i, w := range want {
		if a.number("items", i, w.action, "status") != w.status || a.string("items", i, w.action, "result") != w.result || a.string("items", i,
			w.action, "error", "type") != w.failure {
			c.Errorf("item %d: %v, want %+v", i, a.get("items", i), w)
		}
	}
	if a := c.try("POST", "/_bulk", `{"index":{"_index":"x"}}`); a.status != 400 {
		c.Errorf("a bulk that does not end in a newline: %d", a.status)
	}
}

func updates(c *cluster) {
	c.create(c.index, 1)
	c.do("PUT", "/"+c.index+"/_doc/1", map[string]any{"n": 1, "o": map[string]any{"a": 1}})
	a := c.do("POST", "/"+c.index+"/_update/1", map[string]any{"doc": map[string]any{"o": map[string]any{"b": 2}}})
	if a.string("result") != "updated" || a.number("_version") != 2 {
		c.Errorf("update: %s", a.text)
	}
	if a := c.do("POST", "/"+c.index+"/_update/1", map[string]any{"doc": map[string]any{"o": map[string]any{"b": 2}}}); a.string("result") != "noop" || a.number("_seq_no") != 1 {
		c.Errorf("an update without change: %s", a.text)
	}
	c.refused(404, "document_missing_exception", "[7]: document missing", "POST", "/"+c.index+"/_update/7",
		map[string]any{"doc": map[string]any{"n": 1}})
	d := c.do("GET", "/"+c.index+"/_doc/1", nil)
	if d.number("_source", "o", "a") != 1 || d.number("_source", "o", "b") != 2 || d.number("_source", "n") != 1 {
		c.Errorf("merged: %s", d.text)
	}
}

func metadataFollows(c *cluster) {
	c.create(c.index, 1)
	c.do("POST", "/_aliases", map[string]any{"actions": []any{map[string]any{"add": map[string]any{"index": c.index,
		"alias": c.index + "-old", "is_write_index": false}}}})
	c.write(c.index, 0, 5)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	c.do("PUT", "/"+c.index+"/_doc/x", map[string]any{"fresh": "text", "when": "2024-05-06", "deep": map[string]any{"flag": true, "ratio": 0.5}})
	c.do("POST", "/_aliases", map[string]any{"actions": []any{map[string]any{"remove": map[string]any{"index": c.index, "alias": c.index + "-old"}},
		map[string]any{"add": map[string]any{"index": c.index, "alias": c.index + "-new", "routing": "r",
			"filter": map[string]any{"term": map[string]any{"group": "g1"}}}}}})
	c.do("PUT", "/"+c.index+"/_settings", map[string]any{"index.max_result_window": 20000})
	mapping := c.do("GET", "/"+c.index+"/_mapping", nil)
	if mapping.string(c.index, "mappings", "properties", "fresh", "type") != "text" || mapping.string(c.index, "mappings", "properties",
		"fresh", "fields", "keyword", "type") != "keyword" ||
		mapping.string(c.index, "mappings", "properties", "when", "type") != "date" || mapping.string(c.index, "mappings", "properties", "deep",
		"properties", "flag", "type") != "boolean" ||
		mapping.string(c.index, "mappings", "properties", "deep", "properties", "ratio", "type") != "float" {
		c.Errorf("dynamic mapping: %s", mapping.text)
	}
	c.snapshot("s2", c.index)
	target := c.index + "-copy"
	aliases := func() []string {
		a := c.do("GET", "/"+target+"/_alias", nil)
		m, _ := a.get(target, "aliases").(map[string]any)
		var names []string
		for n := range m {
			names = append(names, n)
		}
		slices.Sort(names)
		return names
	}
	c.restore(c.repo, "s1", c.index, target, nil)
	if got := aliases(); !slices.Equal(got, []string{c.index + "-old"}) {
		c.Errorf("aliases of s1: %v", got)
	}
	c.do("POST", "/_aliases", map[string]any{"actions": []any{map[string]any{"add": map[string]any{"index": target, "alias": target + "-own"}}}})
	c.close(target)
	c.restore(c.repo, "s2", c.index, target, map[string]any{"index_settings": map[string]any{"index.blocks.write": true,
		"index.refresh_interval": "-1"}})
	if got := aliases(); !slices.Equal(got, []string{c.index + "-new"}) {
		c.Errorf("aliases of s2 replace the index's own: %v", got)
	}
	a := c.do("GET", "/"+target+"/_alias", nil)
	if a.string(target, "aliases", c.index+"-new", "index_routing") != "r" || a.get(target, "aliases", c.index+"-new", "filter") == nil {
		c.Errorf("alias body: %s", a.text)
	}
	if m := c.do("GET", "/"+target+"/_mapping", nil); m.string(target, "mappings", "properties", "fresh", "type") != "text" {
		c.Errorf("mapping after the second restore: %s", m.text)
	}
	s := c.do("GET", "/"+target+"/_settings?flat_settings=true", nil)
	if s.string(target, "settings", "index.max_result_window") != "20000" || s.string(target, "settings", "index.blocks.write") != "true" ||
		s.string(target, "settings", "index.refresh_interval") != "-1" {
		c.Errorf("settings after the second restore: %s", s.text)
	}
}

func aliasesStay(c *cluster) {
	c.create(c.index, 1)
	c.do("PUT", "/"+c.index+"/_alias/"+c.index+"-source", nil)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	target := c.index + "-copy"
	c.restore(c.repo, "s1", c.index, target, map[string]any{"include_aliases": false})
	c.do("PUT", "/"+target+"/_alias/"+target+"-own", nil)
	c.close(target)
	c.restore(c.repo, "s1", c.index, target, map[string]any{"include_aliases": false})
	a := c.do("GET", "/"+target+"/_alias", nil)
	if m, _ := a.get(target, "aliases").(map[string]any); len(m) != 1 || m[target+"-own"] == nil {
		c.Errorf("include_aliases false keeps the destination's: %s", a.text)
	}
}

func readOnlyRepository(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 100)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	ro := c.repo + "-ro"
	c.register(ro, true)
	names := func() []string {
		a := c.do("GET", "/_snapshot/"+ro+"/_all", nil)
		var out []string
		list, _ := a.get("snapshots").([]any)
		for i := range list {
			out = append(out, a.string("snapshots", i, "snapshot"))
		}
		return out
	}
	if got := names(); !slices.Equal(got, []string{"s1"}) {
		c.Errorf("read-only: %v", got)
	}
	old, err := os.ReadFile(filepath.Join(c.root, c.repo, "index-0"))
	if err != nil {
		c.Fatal(err)
	}
	c.write(c.index, 100, 120)
	c.snapshot("s2", c.index)
	if got := names(); !slices.Equal(got, []string{"s1", "s2"}) {
		c.Errorf("a read-only registration sees new snapshots at once: %v", got)
	}
	c.refused(500, "repository_exception", "cannot create snapshot in a readonly repository", "PUT", "/_snapshot/"+ro+"/s3",
		map[string]any{"indices": c.index})
	c.refused(500, "repository_exception", "cannot delete snapshot from a readonly repository", "DELETE", "/_snapshot/"+ro+"/s1", nil)
	c.restore(ro, "s2", c.index, c.index+"-copy", nil)
	if n := c.count(c.index + "-copy"); n != 120 {
		c.Errorf("restored from read-only: %d", n)
	}
	// A copy in progress: data is there, index-N is still the old one. Only what it names may be seen.
	partial := c.repo + "-partial"
	if err := os.CopyFS(filepath.Join(c.root, partial), os.DirFS(filepath.Join(c.root, c.repo))); err != nil {
		c.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.root, partial, "index-1")); err != nil {
		c.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.root, partial, "index-0"), old, 0o644); err != nil {
		c.Fatal(err)
	}
	c.do("PUT", "/_snapshot/"+partial, map[string]any{"type": "fs", "settings": map[string]any{"location": filepath.Join(c.root, partial),
		"readonly": true}})
	c.Cleanup(func() { c.try("DELETE", "/_snapshot/"+partial, nil) })
	a := c.do("GET", "/_snapshot/"+partial+"/_all", nil)
	if list, _ := a.get("snapshots").([]any); len(list) != 1 || a.string("snapshots", 0, "snapshot") != "s1" {
		c.Errorf("the listing decides, not index.latest: %s", a.text)
	}
	c.refused(500, "snapshot_restore_exception", "snapshot does not exist", "POST", "/_snapshot/"+partial+"/s2/_restore",
		map[string]any{"indices": c.index})
}

func missingBlob(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 300)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	copied := c.repo + "-copy"
	if err := os.CopyFS(filepath.Join(c.root, copied), os.DirFS(filepath.Join(c.root, c.repo))); err != nil {
		c.Fatal(err)
	}
	largest, size := "", int64(-1)
	for _, n := range c.files() {
		if !strings.Contains(n, "/0/__") {
			continue
		}
		info, err := os.Stat(filepath.Join(c.root, c.repo, n))
		if err != nil {
			c.Fatal(err)
		}
		if info.Size() > size {
			largest, size = n, info.Size()
		}
	}
	whole, err := os.ReadFile(filepath.Join(c.root, copied, largest))
	if err != nil {
		c.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.root, copied, largest)); err != nil {
		c.Fatal(err)
	}
	c.do("PUT", "/_snapshot/"+copied, map[string]any{"type": "fs", "settings": map[string]any{"location": filepath.Join(c.root, copied),
		"readonly": true}})
	c.Cleanup(func() { c.try("DELETE", "/_snapshot/"+copied, nil) })
	target := c.index + "-broken"
	body := map[string]any{"indices": c.index, "rename_pattern": "^" + c.index + "$", "rename_replacement": target}
	c.do("POST", "/_snapshot/"+copied+"/s1/_restore", body)
	c.eventually("failure of the restore", func() bool {
		return c.do("GET", "/_cluster/health/"+target, nil).string("status") == "red"
	})
	explain := c.do("GET", "/_cluster/allocation/explain", map[string]any{"index": target, "shard": 0, "primary": true})
	if explain.string("current_state") != "unassigned" || explain.string("unassigned_info", "reason") != "ALLOCATION_FAILED" {
		c.Errorf("explain: %.600s", explain.text)
	}
	if a := c.try("GET", "/"+target+"/_search", nil); a.status != 503 {
		c.Errorf("search of a red index: %d", a.status)
	}
	if err := os.WriteFile(filepath.Join(c.root, copied, largest), whole, 0o644); err != nil {
		c.Fatal(err)
	}
	c.close(target)
	c.restore(copied, "s1", c.index, target, nil)
	if n := c.count(target); n != 300 {
		c.Errorf("close and restore heal it: count %d", n)
	}
}

func searchPages(c *cluster) {
	c.create(c.index, 2)
	c.write(c.index, 0, 200)
	total := 0
	for shard := range 2 {
		last := int64(-1)
		for {
			a := c.do("POST", "/"+c.index+"/_search?preference=_shards:"+strconv.Itoa(shard), map[string]any{"size": 30, "version": true,
				"seq_no_primary_term": true,
				"query":               map[string]any{"range": map[string]any{"_seq_no": map[string]any{"gt": last}}},
				"sort":                []any{map[string]any{"_seq_no": "asc"}}, "track_total_hits": false})
			hits, _ := a.get("hits", "hits").([]any)
			if len(hits) == 0 {
				break
			}
			for i := range hits {
				n := a.number("hits", "hits", i, "_seq_no")
				if n <= last || a.number("hits", "hits", i, "sort", 0) != n || a.number("hits", "hits", i, "_version") != 1 {
					c.Fatalf("hit after %d: %v", last, hits[i])
				}
				last = n
				total++
			}
			if a.get("hits", "total") != nil {
				c.Errorf("track_total_hits false: %v", a.get("hits", "total"))
			}
		}
	}
	if total != 200 {
		c.Errorf("%d hits over both shards, want 200", total)
	}
	count := func(query any) int64 {
		return c.do("POST", "/"+c.index+"/_count", map[string]any{"query": query}).number("count")
	}
	for want, query := range map[int64]any{
		3:  map[string]any{"ids": map[string]any{"values": []string{"1", "2", "3", "nope"}}},
		2:  map[string]any{"terms": map[string]any{"_id": []string{"5", "6"}}},
		29: map[string]any{"term": map[string]any{"group": "g1"}},
		10: map[string]any{"range": map[string]any{"n": map[string]any{"gte": 10, "lt": 20}}},
		1: map[string]any{"bool": map[string]any{"filter": []any{map[string]any{"term": map[string]any{"group": "g1"}},
			map[string]any{"range": map[string]any{"n": map[string]any{"lt": 9}}}}, "must_not": map[string]any{"term": map[string]any{"_id": "1"}}}},
	} {
		if got := count(query); got != want {
			c.Errorf("count of %v: %d, want %d", query, got, want)
		}
	}
	a := c.do("POST", "/"+c.index+"/_search", map[string]any{"size": 2, "sort": []any{map[string]any{"n": "desc"}}, "_source": []string{"n"}})
	if a.number("hits", "hits", 0, "_source", "n") != 199 || a.get("hits", "hits", 0, "_source", "group") != nil || a.number("hits", "total",
		"value") != 200 {
		c.Errorf("sorted: %s", a.text)
	}
	a = c.do("POST", "/"+c.index+"/_search", map[string]any{"size": 2, "sort": []any{map[string]any{"n": "desc"}}, "search_after": []int{100}})
	if a.number("hits", "hits", 0, "_source", "n") != 99 {
		c.Errorf("search_after: %s", a.text)
	}
	if a := c.try("POST", "/"+c.index+"/_search", map[string]any{"size": 10001}); a.status != 400 {
		c.Errorf("a window of 10001: %d", a.status)
	}
}

func aggregations(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 100)
	c.write(c.index, 0, 50) // documents 0..49 now have 100..149
	a := c.do("POST", "/"+c.index+"/_search?preference=_shards:0", map[string]any{"size": 0, "aggs": map[string]any{
		"s": map[string]any{"stats": map[string]any{"field": "_seq_no"}}, "c": map[string]any{"value_count": map[string]any{"field": "_seq_no"}},
		"min": map[string]any{"min": map[string]any{"field": "_seq_no"}}, "sum": map[string]any{"sum": map[string]any{"field": "_seq_no"}},
		"h": map[string]any{"histogram": map[string]any{"field": "_seq_no", "interval": 40}}}})
	if a.number("aggregations", "s", "count") != 100 || a.number("aggregations", "s", "min") != 50 || a.number("aggregations", "s", "max") != 149 ||
		a.number("aggregations", "c", "value") != 100 || a.number("aggregations", "min", "value") != 50 || a.number("aggregations", "sum",
		"value") != 9950 {
		c.Errorf("stats: %s", a.text)
	}
	want := [][2]int64{{40, 30}, {80, 40}, {120, 30}}
	buckets, _ := a.get("aggregations", "h", "buckets").([]any)
	for i := range max(len(want), len(buckets)) {
		if len(buckets) != len(want) || a.number("aggregations", "h", "buckets", i, "key") != want[i][0] || a.number("aggregations", "h",
			"buckets", i, "doc_count") != want[i][1] {
			c.Fatalf("histogram: %v, want %v", buckets, want)
		}
	}
	if a := c.try("POST", "/"+c.index+"/_search", map[string]any{"size": 0,
		"aggs": map[string]any{"v": map[string]any{"max": map[string]any{"field": "_version"}}}}); a.status != 400 {
		c.Errorf("_version cannot be aggregated: %d %s", a.status, a.text)
	}
}

func scrolls(c *cluster) {
	c.create(c.index, 2)
	c.write(c.index, 0, 250)
	seen := map[string]bool{}
	page := c.do("POST", "/"+c.index+"/_search?scroll=1m", map[string]any{"size": 100, "version": true, "sort": []string{"_doc"},
		"query": map[string]any{"match_all": map[string]any{}}})
	c.write(c.index, 250, 260) // not part of the scroll
	for {
		hits, _ := page.get("hits", "hits").([]any)
		if len(hits) == 0 {
			break
		}
		for i := range hits {
			seen[page.string("hits", "hits", i, "_id")] = true
		}
		page = c.do("POST", "/_search/scroll", map[string]any{"scroll": "1m", "scroll_id": page.string("_scroll_id")})
	}
	if len(seen) != 250 {
		c.Errorf("scroll saw %d documents, want 250", len(seen))
	}
	id := page.string("_scroll_id")
	if a := c.do("DELETE", "/_search/scroll", map[string]any{"scroll_id": []string{id}}); a.get("succeeded") != true {
		c.Errorf("clear: %s", a.text)
	}
	if a := c.try("POST", "/_search/scroll", map[string]any{"scroll": "1m", "scroll_id": id}); a.status != 404 {
		c.Errorf("a cleared scroll: %d %s", a.status, a.text)
	}
}

func visibility(c *cluster) {
	c.create(c.index, 1) // refresh_interval -1
	c.do("PUT", "/"+c.index+"/_doc/1", map[string]any{"n": 1})
	if n := c.do("GET", "/"+c.index+"/_count", nil).number("count"); n != 0 {
		c.Errorf("count before a refresh: %d", n)
	}
	if a := c.do("GET", "/"+c.index+"/_doc/1", nil); a.get("found") != true {
		c.Errorf("GET is realtime: %s", a.text)
	}
	m := c.do("POST", "/_mget", map[string]any{"docs": []any{map[string]any{"_index": c.index, "_id": "1"},
		map[string]any{"_index": c.index, "_id": "2"}, map[string]any{"_index": "c-none", "_id": "1"}}})
	if m.get("docs", 0, "found") != true || m.get("docs", 1, "found") != false || m.string("docs", 2, "error", "type") != "index_not_found_exception" {
		c.Errorf("mget: %s", m.text)
	}
	c.do("POST", "/"+c.index+"/_refresh", nil)
	if n := c.do("GET", "/"+c.index+"/_count", nil).number("count"); n != 1 {
		c.Errorf("count after a refresh: %d", n)
	}
}

// routing places documents exactly as the engines do: the shards below were observed on Elasticsearch 7.10.2.
func routing(c *cluster) {
	c.create(c.index, 5)
	c.write(c.index, 0, 1000)
	c.do("PUT", "/"+c.index+"/_doc/routed?routing=customer-7", map[string]any{"n": 1})
	c.do("POST", "/"+c.index+"/_refresh", nil)
	var got []int64
	for shard := range 5 {
		got = append(got, c.do("GET", "/"+c.index+"/_count?preference=_shards:"+strconv.Itoa(shard), nil).number("count"))
	}
	if want := []int64{221, 202, 185, 195, 198}; !slices.Equal(got, want) {
		c.Errorf("documents a shard: %v, want %v", got, want)
	}
	if a := c.try("GET", "/"+c.index+"/_doc/routed", nil); a.status != 404 {
		c.Errorf("without its routing the document is on another shard: %d", a.status)
	}
	a := c.do("GET", "/"+c.index+"/_doc/routed?routing=customer-7", nil)
	if a.string("_routing") != "customer-7" {
		c.Errorf("routed: %s", a.text)
	}
}

func deleteSnapshot(c *cluster) {
	c.create(c.index, 1)
	c.write(c.index, 0, 500)
	c.register(c.repo, false)
	c.snapshot("s1", c.index)
	c.do("POST", "/"+c.index+"/_forcemerge?max_num_segments=1", nil)
	c.write(c.index, 500, 600)
	c.snapshot("s2", c.index)
	before := len(c.files())
	c.do("DELETE", "/_snapshot/"+c.repo+"/s1", nil)
	c.refused(404, "snapshot_missing_exception", "is missing", "DELETE", "/_snapshot/"+c.repo+"/s1", nil)
	c.eventually("removal of blobs", func() bool { return len(c.files()) < before })
	c.restore(c.repo, "s2", c.index, c.index+"-copy", nil)
	if n := c.count(c.index + "-copy"); n != 600 {
		c.Errorf("the other snapshot is whole: count %d", n)
	}
}

func settings(c *cluster) {
	c.create(c.index, 1)
	c.refused(400, "illegal_argument_exception", "unknown setting [index.nope]", "PUT", "/"+c.index+"/_settings", map[string]any{"index.nope": 1})
	c.refused(400, "illegal_argument_exception", "Can't update non dynamic settings [[index.codec]] for open indices", "PUT",
		"/"+c.index+"/_settings", map[string]any{"index.codec": "best_compression"})
	c.refused(400, "illegal_argument_exception", "index.number_of_shards", "PUT", "/"+c.index+"/_settings", map[string]any{"index.number_of_shards": 3})
	nested := c.do("GET", "/"+c.index+"/_settings", nil)
	if nested.string(c.index, "settings", "index", "number_of_shards") != "1" || nested.string(c.index, "settings", "index", "version",
		"created") == "" {
		c.Errorf("nested: %s", nested.text)
	}
	c.refused(400, "illegal_argument_exception", "not recognized", "PUT", "/_cluster/settings",
		map[string]any{"persistent": map[string]any{"nope.nope": 1}})
	a := c.do("PUT", "/_cluster/settings?flat_settings=true", map[string]any{"transient": map[string]any{"indices.recovery.max_bytes_per_sec": "80mb"}})
	if a.string("transient", "indices.recovery.max_bytes_per_sec") != "80mb" {
		c.Errorf("cluster setting: %s", a.text)
	}
	c.refused(400, "illegal_argument_exception", "", "PUT", "/_cluster/settings",
		map[string]any{"transient": map[string]any{"indices.recovery.max_bytes_per_sec": "abc"}})
	c.do("PUT", "/_cluster/settings", map[string]any{"transient": map[string]any{"indices.recovery.max_bytes_per_sec": nil}})
	if a := c.do("GET", "/_cluster/settings?flat_settings=true", nil); a.string("transient", "indices.recovery.max_bytes_per_sec") != "" {
		c.Errorf("after null: %s", a.text)
	}
}
