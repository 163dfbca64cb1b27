package step

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/migration"
)

// What is raised, and why to this.
//
// Only the destination's cluster settings are raised: no client of the migration is there yet, while a faster recovery at the source
// would be felt by its clients. The values are bounded, because a destination may serve other indices already: 500 MB/s is four
// times the throughput of a standard gp3 volume and less than half of a 10 Gbit/s network, so that the hardware decides rather than
// the engine's default of 40 MB/s a node.
//
// The primaries of a restore are bounded by node_initial_primaries_recoveries (default 4 a node): ThrottlingAllocationDecider counts an
// unassigned primary, which recovers from store, snapshot or local shards, under it and no other (canAllocate in its source; the engines'
// guides; snapshots.md 4). node_concurrent_recoveries bounds replicas and relocations, of which a warm destination has none, so it stays.
var raised = []struct {
	setting, value string
	enough         func(present, wanted string) bool
}{
	{"indices.recovery.max_bytes_per_sec", recoveryRate, enoughBytes},
	{"cluster.routing.allocation.node_initial_primaries_recoveries", "16", enoughCount},
}

// recoveryRate is a second per node. From Elasticsearch 7.9 on restores obey this setting; before, only the repository's
// max_restore_bytes_per_sec (measured.md 8; elastic#58658). The lower of both counts, so both are raised.
const recoveryRate = "500mb"

// snapshotRate is max_snapshot_bytes_per_sec of the migration's repository at the source, a second per node: twice the default, because
// the last snapshot is taken while writes are stopped, and no more, because the others are taken beside clients: a standard
// gp3 volume has 125 MB/s for both. It is part of the registration, not of the tuning that is put back: it limits nothing but this
// migration's own snapshots, and only Register may pass the snapshot role that every registration needs.
const snapshotRate = "80mb"

// repositoryRates are the rates with which the migration's own repository is registered.
func repositoryRates(engine string, readonly bool) map[string]string {
	switch {
	case !readonly:
		return map[string]string{"max_snapshot_bytes_per_sec": snapshotRate}
	case restoresByRepositoryRate(engine):
		return map[string]string{"max_restore_bytes_per_sec": recoveryRate}
	}
	return nil // max_restore_bytes_per_sec has no limit unless one is set
}

// restoresByRepositoryRate is true of Elasticsearch before 7.9, where max_restore_bytes_per_sec is 40 MB/s unless set.
func restoresByRepositoryRate(engine string) bool {
	version, ok := strings.CutPrefix(engine, "elasticsearch-")
	if !ok {
		return false
	}
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major < 7 || major == 7 && minor < 9)
}

// tuning is what to raise at the destination.
func tuning() []wanted {
	list := make([]wanted, len(raised))
	for i, r := range raised {
		list[i] = wanted{r.setting, func(now cluster.ClusterSettings) (string, string) {
			present := now.Effective(r.setting)
			if _, overridden := now.Transient[r.setting]; overridden {
				return r.value, "a transient setting holds it at " + present
			}
			if r.enough(present, r.value) {
				return r.value, "it is " + present + " already"
			}
			return r.value, ""
		}}
	}
	return list
}

// raise raises what is lower than wanted.
func raise(ctx context.Context, l undoLog, p migration.Plan) error {
	return l.change(ctx, p, p.Spec.Destination, tuning())
}

// raiseAgain raises what the thaw after a failure has put back, when the execution is redriven; it never is the first to raise.
func raiseAgain(ctx context.Context, l undoLog, p migration.Plan) error {
	if undone, err := l.undone(ctx, p.Execution); err != nil || !undone {
		return err
	}
	return raise(ctx, l, p)
}

// enoughBytes reports whether a rate is unlimited, as high as wanted, or nothing that this understands and should touch.
func enoughBytes(present, wanted string) bool {
	if present == "" {
		return false // the domain does not say: the default
	}
	have, ok := parseBytes(present)
	want, _ := parseBytes(wanted)
	return !ok || have <= 0 || have >= want
}

// size is how the engines write one: "40mb", "1.5g", "512 kb", "0", "-1".
var size = regexp.MustCompile(`^(-?[0-9.]+) *([kmgtp]?)b?$`)

func parseBytes(text string) (float64, bool) {
	m := size.FindStringSubmatch(strings.ToLower(strings.TrimSpace(text)))
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(m[1], 64)
	return n * float64(int64(1)<<(10*(strings.Index("kmgtp", m[2])+len(m[2])))), err == nil
}

func enoughCount(present, wanted string) bool {
	if present == "" {
		return false
	}
	have, err := strconv.Atoi(present)
	want, _ := strconv.Atoi(wanted)
	return err != nil || have >= want
}
