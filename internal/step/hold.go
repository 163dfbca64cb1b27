package step

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/domainferry/domainferry/internal/cluster"
	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
)

// DomainState is how a domain tells what its indices hold.
type DomainState interface {
	SequenceNumbers(ctx context.Context, indices ...string) (map[string][]cluster.ShardSequence, error)
	Describe(ctx context.Context, indices ...string) (map[string]cluster.Description, error)
}

// identity is which index the numbers and the description are of. Where they are of two, because it was made anew between the two
// readings, the uuid is left out: then nothing can be told to be unchanged since.
func identity(shards []cluster.ShardSequence, d cluster.Description) journal.Identity {
	id := journal.Identity{UUID: d.UUID, Description: d.Digest}
	for _, s := range shards {
		id.Histories = append(id.Histories, s.HistoryUUID)
		if s.IndexUUID != "" && s.IndexUUID != d.UUID {
			id.UUID = ""
		}
	}
	return id
}

// unchangedSince reports whether the index is still as its copy holds it. Every operation at or below the global checkpoints recorded
// before the copy's snapshot is in that snapshot; when the shards have come no further, nothing is missing (replay.md). Files do not
// tell: a merge moves them without changing a document, and mapping, aliases and settings change without moving one.
func unchangedSince(h journal.Hold, shards []cluster.ShardSequence, d cluster.Description) bool {
	if h.UUID == "" || h.UUID != d.UUID || h.Description == "" || h.Description != d.Digest || len(shards) != len(h.Checkpoints) || len(shards) != len(h.Histories) {
		return false
	}
	for i, s := range shards {
		if s.Shard != i || s.MaxSeqNo != h.Checkpoints[i] || s.GlobalCheckpoint != h.Checkpoints[i] || s.HistoryUUID != h.Histories[i] || s.IndexUUID != "" && s.IndexUUID != h.UUID {
			return false
		}
	}
	return true
}

// intact reports whether the copy is there as it was left: nobody made it anew, lost a shard or gave it to writers.
func intact(h journal.Hold, there map[string]cluster.Index, x migration.PlannedIndex) bool {
	c, ok := there[x.Name]
	return ok && c.Primaries == x.Shards && c.Health != "red" && (h.CopyUUID == "" || c.UUID == h.CopyUUID) && c.Settings["index.blocks.write"] == "true"
}

// held are the holds of the plan's indices that still count: a pass of the replay has written to copies that came back from there, so
// that only a later round tells what they hold.
func held(holds map[string]journal.Hold, s migration.Strategies, p migration.Plan) map[string]journal.Hold {
	out := map[string]journal.Hold{}
	for _, x := range p.Indices {
		h, ok := holds[x.Name]
		written := s.Has(x.Name) || slices.ContainsFunc(s.Dropped, func(d migration.Dropped) bool { return d.Name == x.Name && d.Base >= h.Round })
		if ok && !written {
			out[x.Name] = h
		}
	}
	return out
}

// forget removes holds: what the copies hold is about to change, or they are.
func forget(ctx context.Context, j *journal.Journal, holds map[string]journal.Hold, names []string) error {
	before, gone := len(holds), set(names)
	maps.DeleteFunc(holds, func(name string, _ journal.Hold) bool { return gone[name] })
	if len(holds) == before {
		return nil
	}
	return j.SaveHolds(ctx, holds)
}

// AliasDomain reads and changes aliases.
type AliasDomain interface {
	Aliases(ctx context.Context, indices ...string) (map[string]map[string]json.RawMessage, error)
	UpdateAliases(ctx context.Context, actions []cluster.AliasAction) error
}
