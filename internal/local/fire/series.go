package fire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/local/environment"
)

// Series is many trials: every seed with every pair of engines.
type Series struct {
	Pairs       []string // "elasticsearch-7.10.2:opensearch-2.19.0"
	First       uint64   // the first seed
	Seeds       int
	Environment environment.Config // Source, Destination, LogDir and Faults are set by trial
	Bytes       int64
	Rate        float64
	Writing     time.Duration // see Config
	Tool        string
	Out         string    // folder of fire.json; the logs of each trial go below it
	Lines       io.Writer // a line a trial
	Progress    io.Writer
}

// Summary is build/fire.json.
type Summary struct {
	Machine string   `json:"machine"`
	Date    string   `json:"date"`
	Trials  []Result `json:"trials"`
}

// Run carries all trials out, one after the other, goes on after a difference, and returns an error when any trial has a problem.
// The summary is written after each.
func (s Series) Run(ctx context.Context) error {
	summary := Summary{Machine: fmt.Sprintf("%s/%s, %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()),
		Date: time.Now().UTC().Format(time.RFC3339)}
	bad := 0
	for n := range s.Seeds {
		for _, pair := range s.Pairs {
			source, destination, ok := strings.Cut(pair, ":")
			if !ok {
				return fmt.Errorf("pair %q: must be source:destination, for example elasticsearch-7.10.2:opensearch-2.19.0", pair)
			}
			env := s.Environment
			env.Source, env.Destination = source, destination
			seed := s.First + uint64(n)
			env.LogDir = filepath.Join(s.Out, "fire", fmt.Sprintf("%s-%s-%d", source, destination, seed))
			cfg := ForSeed(seed, env)
			cfg.Bytes, cfg.Writing, cfg.Tool, cfg.Progress = s.Bytes, s.Writing, s.Tool, s.Progress
			if s.Rate > 0 {
				cfg.Rate = s.Rate
			}
			fmt.Fprintf(s.Progress, "seed %d: %s -> %s, last mile %s, faults %q, stop in %q, kill %q, %.0f operations a second\n",
				seed, source, destination, cfg.LastMile, cfg.Environment.Faults, cfg.StopIn, cfg.Kill, cfg.Rate)
			r, err := Run(ctx, cfg)
			if ctx.Err() != nil {
				return errors.Join(ctx.Err(), err)
			}
			if err != nil {
				r.Failed = err.Error()
			}
			summary.Trials = append(summary.Trials, r)
			fmt.Fprintln(s.Lines, r.Line())
			if err := r.Problem(); err != nil {
				bad++
				fmt.Fprintf(s.Lines, "  %v\n", err)
				for _, d := range r.Compared.Shown[:min(len(r.Compared.Shown), 5)] {
					fmt.Fprintf(s.Lines, "  %s/%q routing %q: %s\n    expected    %s\n    source      %s\n    destination %s\n    %s\n", d.Index, d.ID, d.Routing, d.What,
						d.Expected, d.Source, d.Destination, strings.Join(d.History, "\n    "))
				}
			}
			if err := write(filepath.Join(s.Out, "fire.json"), summary); err != nil {
				return err
			}
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d trials have a problem; see %s", bad, len(summary.Trials), filepath.Join(s.Out, "fire.json"))
	}
	return nil
}

func write(path string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(body, '\n'), 0o644)
}
