package frontdoor

import (
	"math/rand/v2"
	"sync"
	"time"
)

// FaultKind names a fault.
type FaultKind string

// The faults. The caller of a mutating call cannot tell the variants with and without effect apart.
const (
	None                 FaultKind = ""
	TimeoutWithoutEffect FaultKind = "504-without-effect" // answered 504 after Delay; the cluster never hears of it
	TimeoutWithEffect    FaultKind = "504-with-effect"    // answered 504 after Delay while the call goes on at the cluster
	TooManyRequests      FaultKind = "429"                // answered 429 at once; the cluster never hears of it
	CutWithoutEffect     FaultKind = "cut-without-effect" // the connection is cut; the cluster never hears of it
	CutWithEffect        FaultKind = "cut-with-effect"    // the connection is cut in place of the cluster's answer
	Delay                FaultKind = "delay"              // passed on after Delay
	Skewed               FaultKind = "skewed"             // 403, as a caller is answered whose clock is wrong; the cluster never hears of it
)

// Fault is what happens to one request.
type Fault struct {
	Kind  FaultKind
	Delay time.Duration // of Delay, TimeoutWithoutEffect and TimeoutWithEffect
}

// RandomFaults returns a decision for Config.Faults: a share of rate (0 to 1) of the mutating calls on snapshots, restores, settings
// and the opening and closing of indices is answered 504, half of them without effect, after up to 200 ms. Equal seeds give equal
// decisions for equal sequences of such calls.
func RandomFaults(seed uint64, rate float64) func(Request) Fault {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0x504))
	return func(r Request) Fault {
		if !r.Mutating || !r.has("_snapshot", "_settings", "settings", "_close", "_open", "_block") {
			return Fault{}
		}
		mu.Lock()
		defer mu.Unlock()
		hit, effect, wait := random.Float64() < rate, random.IntN(2) == 0, time.Duration(random.IntN(200))*time.Millisecond
		switch {
		case !hit:
			return Fault{}
		case effect:
			return Fault{TimeoutWithEffect, wait}
		default:
			return Fault{TimeoutWithoutEffect, wait}
		}
	}
}
