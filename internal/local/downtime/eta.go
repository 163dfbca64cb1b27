package downtime

import (
	"fmt"
	"time"
)

// eta guesses how long the rest takes: from what each part costs on a machine with two cores, corrected by how this one does.
type eta struct {
	began       time.Time
	spent, left float64 // seconds, as guessed
}

func newETA(cfg Config) *eta {
	e := &eta{began: time.Now()}
	for _, w := range cfg.Workloads {
		for _, size := range cfg.Sizes {
			e.left += fillCost(cfg.Sizes, size)
			for _, run := range plan(cfg, size, w) {
				e.left += runCost(run)
			}
		}
	}
	return e
}

// fillCost is for the growth from the size before.
func fillCost(sizes []int, size int) float64 {
	before := 0
	for _, s := range sizes {
		if s < size {
			before = max(before, s)
		}
	}
	return 20 + float64(size-before)/7
}

func runCost(r Run) float64 {
	size := float64(r.Size)
	slow := 0.0 // time at 40 MB/s
	if r.Throttle == Default {
		slow = size / 40
	}
	switch r.Procedure {
	case Hand:
		return 10 + size/100 + slow
	case ByDF:
		restores := 1.0 // of everything
		if r.Workload == Update {
			restores = 2
		}
		return 30 + size/40 + (1+restores)*slow
	}
	return 10 + size/10
}

func (e *eta) done(cost float64) { e.spent, e.left = e.spent+cost, e.left-cost }

func (e *eta) String() string {
	if e.left < 1 {
		return "the last one"
	}
	rest := time.Duration(e.left / e.spent * float64(time.Since(e.began)))
	return fmt.Sprintf("about %s left", rest.Round(10*time.Second))
}
