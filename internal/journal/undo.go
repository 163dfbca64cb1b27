package journal

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/access"
	"github.com/domainferry/domainferry/internal/migration"
)

// Undo is an entry of the undo log: one persistent cluster setting that the migration changes, written with the value seen before it
// is changed, or an index that it makes for a moment. An entry is over once it is undone, or known not to be made, or left alone.
type Undo struct {
	Execution string `json:"execution"` // the one whose end undoes it
	DomainARN string `json:"domainArn"`
	Endpoint  string `json:"endpoint"`
	Setting   string `json:"setting"`
	// Index is one that was not there before: undoing deletes it. Setting, Before and Set are empty then.
	Index    string    `json:"index,omitempty"`
	Before   *string   `json:"before"` // null: it was not set
	Set      string    `json:"set"`
	At       time.Time `json:"at"`
	UndoneAt time.Time `json:"undoneAt,omitzero"`
	// Kind is of a thing that says who may use a bucket or a domain: Name is the bucket or the role, Before and Set are its text. Endpoint is
	// s3://<bucket> for one of a bucket, Region where that lies.
	Kind   access.Kind `json:"kind,omitempty"`
	Name   string      `json:"name,omitempty"`
	Region string      `json:"region,omitempty"`
	// Access is how the domain or the bucket is reached, as the plan had it.
	Access migration.Access `json:"access,omitzero"`
	// NotMade says why it was left as it was, such as "not allowed: ...": no fault, the migration goes on without.
	NotMade string `json:"notMade,omitempty"`
	// LeftAlone says why it is not as it was before: somebody else has changed it since.
	LeftAlone string `json:"leftAlone,omitempty"`
}

// Outstanding reports whether the change was made, or may have been, and is not undone.
func (u Undo) Outstanding() bool {
	return !u.At.IsZero() && u.UndoneAt.IsZero() && u.NotMade == "" && u.LeftAlone == ""
}

// Changed names what is changed: the setting, or the index.
func (u Undo) Changed() string { return cmp.Or(u.Setting, u.Index) }

const undoFolder = "undo"

func (j *Journal) undoKey(endpoint, changed string) string {
	return j.key(undoFolder, strings.TrimSuffix(strings.TrimPrefix(leaseKey(endpoint), "leases/"), ".json")+"-"+changed+".json")
}

// Undo reads the entry of a setting or an index and the tag by which to replace it; one that was never written is not outstanding.
func (j *Journal) Undo(ctx context.Context, endpoint, changed string) (u Undo, tag string, err error) {
	tag, _, err = j.store.read(ctx, j.undoKey(endpoint, changed), &u)
	return u, tag, err
}

// ReplaceUndo writes the entry if it is still the one with that tag, and reports whether it did: the value before must not be lost to
// another attempt of the same step, which may have read it after the change.
func (j *Journal) ReplaceUndo(ctx context.Context, u Undo, tag string) (bool, error) {
	return j.store.replace(ctx, j.undoKey(u.Endpoint, u.Changed()), u, tag)
}

// UndoLog reads all entries, the newest first: the order in which they are undone.
func (j *Journal) UndoLog(ctx context.Context) ([]Undo, error) {
	list, err := all[Undo](ctx, j, undoFolder)
	slices.SortStableFunc(list, func(a, b Undo) int { return b.At.Compare(a.At) })
	return list, err
}
