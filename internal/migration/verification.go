package migration

import "time"

// Verdict is the outcome of a verification.
type Verdict string

// The verdicts.
const (
	Verified             Verdict = "verified"
	VerifiedWithWarnings Verdict = "verified-with-warnings"
	Failed               Verdict = "failed"
)

// Outcome is the outcome of one check. Unknown is what could not be observed; it never counts as passed.
type Outcome string

// The outcomes of a check.
const (
	Passed  Outcome = "passed"
	Warning Outcome = "warning"
	Broken  Outcome = "failed"
	Unknown Outcome = "unknown"
)

// Check is one comparison with its evidence.
type Check struct {
	Name     string  `json:"name"`  // documents, sequence-numbers, mapping...
	Index    string  `json:"index"` // "" when it is about the whole
	Outcome  Outcome `json:"outcome"`
	Evidence string  `json:"evidence"`
}

// Verification is all checks of a cut-over.
type Verification struct {
	Verdict   Verdict   `json:"verdict"`
	Checks    []Check   `json:"checks"`
	StartedAt time.Time `json:"startedAt"`
	Seconds   float64   `json:"seconds"`
}

// Judge derives the verdict: one failed or unknown check fails it, one warning qualifies it, and no checks at all verify nothing.
func Judge(checks []Check) Verdict {
	if len(checks) == 0 {
		return Failed
	}
	verdict := Verified
	for _, c := range checks {
		switch c.Outcome {
		case Passed:
		case Warning:
			verdict = VerifiedWithWarnings
		default:
			return Failed
		}
	}
	return verdict
}
