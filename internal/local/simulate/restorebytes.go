package simulate

import "github.com/domainferry/domainferry/internal/repository"

// restoreBytes is what a restore of next over previous moves and keeps, by internal/repository's own rule.
func restoreBytes(previous, next *commit) (recovered, reused int64) {
	if next == nil {
		return 0, 0
	}
	if previous == next { // the restored shard has written a segments_N of its own
		return commitBytes, next.bytes() - commitBytes
	}
	p := repository.RestoreBytes(previous.files(), next.files())
	return p.Recovered, p.Reused
}
