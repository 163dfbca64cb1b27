package domain

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// On a full disk nothing is written or restored; once there is room again everything goes on, what failed when it is asked for again.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{Engine: "opensearch-2.19.0", RestoreBytesPerSecond: 100_000})
		b.fill("i", 1, 1000)
		b.call(200, "PUT", "/_snapshot/r/s1?wait_for_completion=true", `{"indices":"i"}`)
		const restore, body = "/_snapshot/r/s1/_restore", `{"indices":"i","rename_pattern":"i","rename_replacement":"j"}`
		for _, begun := range []bool{false, true} { // before the restore, and in the middle of it
			if begun {
				b.call(200, "POST", restore, body)
				time.Sleep(2 * time.Second)
			}
			b.FillDisk(true)
			b.call(429, "PUT", "/i/_doc/1", `{}`)
			b.call(429, "PUT", "/i/_settings", `{"index.number_of_replicas":1}`)
			b.wants(`"index.blocks.read_only_allow_delete":"true"`, "GET", "/i/_settings?flat_settings=true")
			if !begun {
				b.call(200, "POST", restore, body)
			}
			time.Sleep(time.Hour)
			b.wants(`"status":"red"`, "GET", "/_cluster/health/j")
			explain := b.call(200, "POST", "/_cluster/allocation/explain", `{"index":"j","shard":0,"primary":true}`)
			if !strings.Contains(explain, "in order to retry") || begun != strings.Contains(explain, "No space left on device") {
				t.Errorf("begun: %v: %s", begun, explain)
			}
			b.FillDisk(false)
			b.call(200, "PUT", "/i/_doc/1", `{"n":1}`)
			b.call(200, "POST", "/j/_close", "")
			b.call(200, "POST", restore+"?wait_for_completion=true", body)
			b.wants(`"count":1000`, "GET", "/j/_count")
			b.call(200, "DELETE", "/j", "")
		}
	})
}
