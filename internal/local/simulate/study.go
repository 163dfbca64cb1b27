package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
)

// The bounds that a study is held to.
const (
	maximumError   = 0.20   // of the prediction at the cut-over, either way: the median over all seeds
	maximumHistory = 20_000 // events of any execution
)

// Summary is build/simulate.json.
type Summary struct {
	Machine     string            `json:"machine"`
	Date        string            `json:"date"`
	Versions    map[string]string `json:"versions"`
	Shards      int               `json:"shards"`
	Bytes       int64             `json:"bytes"`
	Nodes       int               `json:"nodes"`
	Window      string            `json:"window"`
	Seeds       []uint64          `json:"seeds"`
	RealSeconds float64           `json:"realSeconds"`

	// MedianError is the median of the predictions' errors, whichever their sign. Bias is the median with the sign: above 0, more was predicted.
	MedianError float64 `json:"medianPredictionError"`
	Bias        float64 `json:"medianPredictionBias"`
	// InRange counts the seeds whose actual downtime was in the predicted range, InWindow those where it was in the window.
	InRange    int      `json:"inRange"`
	InWindow   int      `json:"inWindow"`
	MaxHistory int      `json:"maxHistoryEvents"`
	Results    []Result `json:"results"`
}

// Study simulates a migration for each seed from cfg.Seed on, as many side by side as there are processors, and tells each on out, in order.
func Study(ctx context.Context, cfg Config, seeds int, out io.Writer) (Summary, error) {
	cfg = cfg.withDefaults()
	began := time.Now()
	s := Summary{
		Machine: fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), Date: began.UTC().Format(time.RFC3339),
		Versions: map[string]string{"source": sourceVersion.String(), "destination": destinationVersion.String(), "go": runtime.Version()},
		Shards:   cfg.Shards, Bytes: cfg.Bytes, Nodes: cfg.Nodes, Window: cfg.Window.String(), Results: make([]Result, seeds),
	}
	failures := make([]error, seeds)
	done := make([]chan struct{}, seeds)
	next := make(chan int, seeds)
	for i := range seeds {
		done[i] = make(chan struct{})
		s.Seeds = append(s.Seeds, cfg.Seed+uint64(i))
		next <- i
	}
	close(next)
	var workers sync.WaitGroup
	for range min(seeds, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for i := range next {
				one := cfg
				one.Seed = s.Seeds[i]
				s.Results[i], failures[i] = Run(ctx, one)
				close(done[i])
			}
		})
	}
	for i := range done {
		<-done[i]
		fmt.Fprint(out, s.Results[i].Text())
		if cfg.Detail {
			fmt.Fprint(out, s.Results[i].Detail())
		}
	}
	workers.Wait()
	s.RealSeconds = time.Since(began).Seconds()
	var sizes, signed []float64
	for _, r := range s.Results {
		for _, n := range r.History {
			s.MaxHistory = max(s.MaxHistory, n)
		}
		if r.Actual == 0 || r.Prediction == nil {
			continue
		}
		sizes = append(sizes, math.Abs(r.PredictionError))
		signed = append(signed, r.PredictionError)
		if r.Prediction.Low <= r.Actual && r.Actual <= r.Prediction.High {
			s.InRange++
		}
		if r.Actual <= r.Window {
			s.InWindow++
		}
	}
	s.MedianError, s.Bias = median(sizes), median(signed)
	return s, errors.Join(failures...)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// Text is the study's end for a reader.
func (s Summary) Text() string {
	return fmt.Sprintf("%d seeds, %d shards, %s, %d nodes a side: median prediction error %.1f %% (bias %+.1f %%), actual in the predicted range %d times, in the window %d times; "+
		"at most %d history events; %.0f s\n", len(s.Results), s.Shards, size(s.Bytes), s.Nodes, 100*s.MedianError, 100*s.Bias, s.InRange, s.InWindow, s.MaxHistory, s.RealSeconds)
}

// Check says which bounds the study broke.
func (s Summary) Check() error {
	var broken []error
	for _, r := range s.Results {
		if r.Lost > 0 || r.Blocked > 0 {
			broken = append(broken, fmt.Errorf("seed %d: %d shards lost, %d indices still blocked", r.Seed, r.Lost, r.Blocked))
		}
		if r.Status != string(asl.Succeeded) {
			broken = append(broken, fmt.Errorf("seed %d: the migration ended %s with %s: %s", r.Seed, r.Status, r.Error, r.Cause))
		}
	}
	if s.MedianError > maximumError {
		broken = append(broken, fmt.Errorf("the median prediction error is %.1f %%, over %.0f %%", 100*s.MedianError, 100*maximumError))
	}
	if s.MaxHistory >= maximumHistory {
		broken = append(broken, fmt.Errorf("an execution has %d history events, not under %d", s.MaxHistory, maximumHistory))
	}
	return errors.Join(broken...)
}
