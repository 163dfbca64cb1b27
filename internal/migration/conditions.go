package migration

import (
	"fmt"
	"time"
)

// Approval says whether an operator has to agree before writes are stopped.
type Approval string

// The approvals.
const (
	NoApproval       Approval = "none"
	ApprovalRequired Approval = "required"
)

// CutOverConditions say when, and on whose word, writes may be stopped.
type CutOverConditions struct {
	// NotBefore and NotAfter are the window in which the cut-over has to begin and, as far as it was predicted, to end. Zero is open.
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	// Every repeats the window: one that was missed is followed by the next. Zero when there is only one.
	Every    Duration `json:"every,omitzero"`
	Approval Approval `json:"approval"`
	// ApprovalTimeout is how long an answer is waited for.
	ApprovalTimeout Duration `json:"approvalTimeout"`
}

// window is the one that now lies in or, when it lies in none, the next one; ok is false when there is none any more. Zero times are
// open ends.
func (c CutOverConditions) window(now time.Time) (opens, closes time.Time, ok bool) {
	opens, closes = c.NotBefore, c.NotAfter
	if closes.IsZero() || now.Before(closes) {
		return opens, closes, true
	}
	if c.Every <= 0 {
		return opens, closes, false
	}
	n := now.Sub(closes)/time.Duration(c.Every) + 1
	return opens.Add(n * time.Duration(c.Every)), closes.Add(n * time.Duration(c.Every)), true
}

const (
	// keepWarm is the shortest time between rounds while a window is waited for: often enough to keep the last delta small, seldom
	// enough not to burden the domains.
	keepWarm = 10 * time.Minute
	// waitingRounds is how many rounds a wait is divided into at most, so that the execution's history holds them.
	waitingRounds = 50
)

// pause is how long to wait before the next round while the window is closed.
func (c CutOverConditions) pause(now, opens time.Time) time.Duration {
	left := opens.Sub(now)
	return min(left, max(keepWarm, left/waitingRounds))
}

// conditioned is the decision with the conditions of the cut-over: it waits for the window, warm, and asks for the approval once
// everything else is as it should be.
func (c CutOverConditions) conditioned(d Decision, now time.Time, approved bool) Decision {
	if d.Action != CutOverNow && d.Action != Stop && d.Action != AskFirst {
		return d
	}
	opens, closes, ok := c.window(now)
	switch {
	case !ok:
		d.Action, d.WouldFit = Stop, "a later cutOver.notAfter"
		d.Reason = fmt.Sprintf("cutOver.notAfter has passed (%s); %s", closes.Format(time.RFC3339), d.Reason)
		return d
	case now.Before(opens):
		d.Action, d.WouldFit = WaitFirst, ""
		d.WaitSeconds = max(1, int(c.pause(now, opens).Seconds()))
		d.Reason = fmt.Sprintf("the window opens at %s; kept warm until then; %s", opens.Format(time.RFC3339), d.Reason)
		return d
	}
	if d.Action != CutOverNow {
		return d
	}
	if d.Prediction != nil && !closes.IsZero() && now.Add(time.Duration(d.Prediction.High*float64(time.Second))).After(closes) {
		// Too late in this window; once it is over, the next one is waited for.
		d.Action = WaitFirst
		d.WaitSeconds = max(1, int(closes.Sub(now).Seconds())+1)
		d.Reason = fmt.Sprintf("the window closes at %s, before a cut-over would surely be over; %s", closes.Format(time.RFC3339), d.Reason)
		return d
	}
	if c.Approval == ApprovalRequired && !approved {
		d.Action = AskApproval
		d.Reason = "approval is required; " + d.Reason
	}
	return d
}
