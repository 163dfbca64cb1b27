package migration

import "time"

// Change is something that happened to the list of indices at the source during the migration, and what was made of it.
type Change struct {
	At    time.Time `json:"at"`
	Round int       `json:"round"` // that followed it; 0 when it has not been followed
	Index string    `json:"index"`
	What  What      `json:"what"`
}

// What happened to an index at the source.
type What string

// The changes. Created and opened indices are added to the plan, removed and closed ones leave it, re-created ones (another uuid: made
// anew, restored, shrunk or split onto the name) are moved again as a whole.
const (
	Created   What = "created"
	Opened    What = "opened"
	Removed   What = "removed"
	Closed    What = "closed"
	Recreated What = "re-created"
)

// String says it in words, for messages.
func (c Change) String() string { return c.Index + " (" + string(c.What) + ")" }

// ClosedAtSource is the reason of an index that is left out only as long as it is closed.
const ClosedAtSource = "closed at the source; open it to move it"
