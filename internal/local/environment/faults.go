package environment

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/local/frontdoor"
	"github.com/domainferry/domainferry/internal/local/s3gateway"
)

// Faults are what goes wrong on purpose.
type Faults struct {
	GatewayTimeout     bool // 504 with and without effect on the domains' mutating calls
	SnapshotInProgress bool // automated snapshots of the domains' own, again and again
	LambdaCrash        bool // Lambda processes killed in the middle of an invocation
	S3Unavailable      bool // 503 SlowDown, cut connections and 200 with an error inside, on the Lambdas' S3 calls
	Seed               uint64
}

// Hooks let a test disturb calls of the migration that it chooses while they are made. Each may be nil; all are called from several
// goroutines at once.
type Hooks struct {
	// Invoke stands between the state machines and the functions; invoke runs the function.
	Invoke func(ctx context.Context, function string, payload []byte, invoke func(context.Context, []byte) ([]byte, error)) ([]byte, error)
	// Door decides about the functions' requests to a domain; side is "source" or "destination".
	Door func(side string, r frontdoor.Request) frontdoor.Fault
	// S3 decides about the functions' requests to S3.
	S3 func(s3gateway.Request) s3gateway.Answer
}

// FaultNames are the faults as an operator writes them.
var FaultNames = []string{"504", "snapshot-in-progress", "lambda-crash", "s3-503"}

// ParseFaults reads a comma-separated list of FaultNames; "all" means all of them.
func ParseFaults(list string, seed uint64) (Faults, error) {
	f := Faults{Seed: seed}
	for name := range strings.SplitSeq(list, ",") {
		switch strings.TrimSpace(name) {
		case "":
		case "all":
			f.GatewayTimeout, f.SnapshotInProgress, f.LambdaCrash, f.S3Unavailable = true, true, true, true
		case FaultNames[0]:
			f.GatewayTimeout = true
		case FaultNames[1]:
			f.SnapshotInProgress = true
		case FaultNames[2]:
			f.LambdaCrash = true
		case FaultNames[3]:
			f.S3Unavailable = true
		default:
			return f, fmt.Errorf("unknown fault %q; the faults are %s and all", name, strings.Join(FaultNames, ", "))
		}
	}
	return f, nil
}

// chance draws from a seeded source that several goroutines share.
type chance struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (f Faults) chance(stream uint64) *chance {
	return &chance{r: rand.New(rand.NewPCG(f.Seed, stream))}
}

func (c *chance) float() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.r.Float64()
}

func (f Faults) door(side string, hook func(string, frontdoor.Request) frontdoor.Fault) func(frontdoor.Request) frontdoor.Fault {
	if hook != nil {
		return func(r frontdoor.Request) frontdoor.Fault {
			if !workflow(r.Principal) {
				return frontdoor.Fault{}
			}
			return hook(side, r)
		}
	}
	if !f.GatewayTimeout {
		return nil
	}
	random := frontdoor.RandomFaults(f.Seed+uint64(len(side)), 0.25)
	return func(r frontdoor.Request) frontdoor.Fault {
		// The clients of the rehearsal keep their own time; only the migration's calls are disturbed.
		if !workflow(r.Principal) {
			return frontdoor.Fault{}
		}
		return random(r)
	}
}

func (f Faults) kill() func(string) (time.Duration, bool) {
	if !f.LambdaCrash {
		return nil
	}
	c := f.chance(1)
	return func(string) (time.Duration, bool) {
		return time.Duration(c.float() * float64(100*time.Millisecond)), c.float() < 0.15
	}
}

func (f Faults) s3(hook func(s3gateway.Request) s3gateway.Answer) func(s3gateway.Request) s3gateway.Answer {
	if hook != nil {
		return hook
	}
	if !f.S3Unavailable {
		return nil
	}
	c := f.chance(2)
	answers := []s3gateway.Answer{s3gateway.SlowDown, s3gateway.Cut, s3gateway.CutAfter, s3gateway.InternalError}
	return func(s3gateway.Request) s3gateway.Answer {
		if c.float() > 0.08 {
			return s3gateway.Pass
		}
		return answers[int(c.float()*float64(len(answers)))%len(answers)]
	}
}

// String lists the faults that are on.
func (f Faults) String() string {
	on := []bool{f.GatewayTimeout, f.SnapshotInProgress, f.LambdaCrash, f.S3Unavailable}
	var names []string
	for i, name := range FaultNames {
		if on[i] {
			names = append(names, name)
		}
	}
	return strings.Join(slices.Clip(names), ",")
}
