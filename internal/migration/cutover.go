package migration

import "time"

// CutOver is what one cut-over took, in seconds a phase; nil is a phase that was not reached or that nobody measured. The journal keeps
// each, also of those that ended in a thaw: the next prediction learns from them.
type CutOver struct {
	Execution  string    `json:"execution"`
	StartedAt  time.Time `json:"startedAt"`  // of the freeze
	HandedOver bool      `json:"handedOver"` // the destination took over; otherwise writes were given back
	Freeze     *float64  `json:"freeze,omitempty"`
	Snapshot   *float64  `json:"snapshot,omitempty"`
	Copy       *float64  `json:"copy,omitempty"`
	Restore    *float64  `json:"restore,omitempty"`
	Replay     *float64  `json:"replay,omitempty"` // beside snapshot, copy and restore
	Move       *float64  `json:"move,omitempty"`   // from the proven freeze to the verification: the phases above and what is between them
	Verify     *float64  `json:"verify,omitempty"`
	Finish     *float64  `json:"finish,omitempty"`
	Total      *float64  `json:"total,omitempty"` // from the first refused write to the opened destination
}

// Moved is the time of the moving phases alone: snapshot, copy and restore one after the other, the replay beside them.
func (c CutOver) Moved() float64 {
	return max(value(c.Snapshot)+value(c.Copy)+value(c.Restore), value(c.Replay))
}

// Transitions is what passed between the phases; nil unless every part of the sum was measured.
func (c CutOver) Transitions() *float64 {
	if c.Total == nil || c.Freeze == nil || c.Verify == nil || c.Finish == nil {
		return nil
	}
	return new(max(0, *c.Total-*c.Freeze-*c.Verify-*c.Finish-c.Moved()))
}

func value(p *float64) float64 {
	if p == nil {
		return 0
	}
	return *p
}
