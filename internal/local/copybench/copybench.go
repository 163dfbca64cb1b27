// Package copybench measures tools that copy a snapshot repository from one bucket to another, beside Domain Ferry's engine: cold, without
// a change, and with one object in a hundred new; against a real gateway, interleaved, in processes of their own.
package copybench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/local/s3gateway"
)

// Config says what is measured.
type Config struct {
	Small   int   // objects of 4 to 64 KB
	Medium  int   // objects of 5 MiB
	Large   int   // objects of LargeMB
	LargeMB int64 // at least 1
	Runs    int
	Tools   []string // names; empty means all
	Seed    uint64
	Dir     string // below build/: tools, logs
	JSON    string // file of all figures
	Binary  string // of the gateway
}

const (
	sourceBucket = "source"
	prefix       = "base/path/"
	snapshotName = "bench-r0001"
	access       = "bench"
	secret       = "bench-secret"
)

// Passes are what each tool does in each run, in this order.
var Passes = []string{"cold", "no change", "1 % delta"}

// Result is what one tool did.
type Result struct {
	Tool    string           `json:"tool"`
	Version string           `json:"version"`
	Runs    map[string][]Run `json:"runs"` // by pass
}

// Report is build/bench-copy.json.
type Report struct {
	Machine string             `json:"machine"`
	Go      string             `json:"go"`
	Seed    uint64             `json:"seed"`
	At      time.Time          `json:"at"`
	Objects int                `json:"objects"`
	Bytes   int64              `json:"bytes"`
	Results []Result           `json:"results"`
	Skipped map[string]string  `json:"skipped,omitempty"`
	Ratios  map[string]float64 `json:"ratios"` // ours by the best of the others; peak memory by s5cmd's
}

type bench struct {
	config   Config
	progress io.Writer
	gateway  *s3gateway.Gateway
	proxy    *s3gateway.Proxy
	endpoint string
	data     string // folder that is removed in the end
}

// Measure runs everything and writes the figures. It starts a gateway of its own and removes what it wrote but the tools.
func Measure(ctx context.Context, c Config, progress io.Writer) (report Report, err error) {
	c.LargeMB = max(c.LargeMB, 1)
	report = Report{
		Machine: fmt.Sprintf("%s/%s, %d CPUs", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), Go: runtime.Version(), Seed: c.Seed,
		At: time.Now().UTC(), Ratios: map[string]float64{},
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return report, err
	}
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return report, err
	}
	data, err := os.MkdirTemp(c.Dir, "data-")
	if err != nil {
		return report, err
	}
	defer os.RemoveAll(data)
	b := &bench{config: c, progress: progress, data: data}
	if b.gateway, err = s3gateway.Start(ctx, s3gateway.Config{
		Binary: c.Binary, Root: filepath.Join(data, "buckets"), Sidecar: filepath.Join(data, "sidecar"), LogFile: filepath.Join(c.Dir, "gateway.log"),
		Access: access, Secret: secret,
	}); err != nil {
		return report, err
	}
	defer b.gateway.Close()
	if b.proxy, err = s3gateway.NewProxy(b.gateway.URL(), nil); err != nil {
		return report, err
	}
	defer b.proxy.Close()
	b.endpoint = b.proxy.URL()
	tools, skipped, err := b.found(ctx)
	if err != nil {
		return report, err
	}
	report.Skipped = skipped
	for _, name := range slices.Sorted(maps.Keys(skipped)) {
		fmt.Fprintf(progress, "left out: %s: %s\n", name, skipped[name])
	}
	if err := b.gateway.CreateBucket(ctx, sourceBucket); err != nil {
		return report, err
	}
	s := newSource(filepath.Join(b.gateway.BucketPath(sourceBucket), prefix), c)
	fmt.Fprintln(progress, "Writing the repository")
	if err := s.fill(); err != nil {
		return report, fmt.Errorf("write the repository: %w", err)
	}
	held, err := sizes(s.dir)
	if err != nil {
		return report, err
	}
	report.Objects = len(held)
	for _, size := range held {
		report.Bytes += size
	}
	report.Results = make([]Result, len(tools))
	for i, t := range tools {
		report.Results[i] = Result{Tool: t.name, Version: t.version, Runs: map[string][]Run{}}
	}
	for run := range c.Runs {
		for k := range tools {
			// Each begins once, so that none always runs with what the one before left in the caches.
			i := (k + run) % len(tools)
			if err := b.passes(ctx, s, tools[i], fmt.Sprintf("to-%d-%d", i, run), &report.Results[i]); err != nil {
				return report, err
			}
		}
	}
	report.ratios()
	return report, report.write(c.JSON)
}

// passes copies into a new bucket, again, and again after a change.
func (b *bench) passes(ctx context.Context, s *source, t tool, bucket string, r *Result) error {
	if err := b.gateway.CreateBucket(ctx, bucket); err != nil {
		return err
	}
	defer os.RemoveAll(b.gateway.BucketPath(bucket))
	for _, pass := range Passes {
		if pass == Passes[2] {
			if err := s.change(); err != nil {
				return err
			}
		}
		run, err := b.run(ctx, t, bucket)
		if err != nil {
			return fmt.Errorf("%s: %w", pass, err)
		}
		if t.whole && run.Missing > 0 {
			return fmt.Errorf("%s, %s: %d objects are missing at the destination", t.name, pass, run.Missing)
		}
		r.Runs[pass] = append(r.Runs[pass], run)
		fmt.Fprintf(b.progress, "%-22s %-10s %8.2f s  %7.2f s CPU  %6.0f MB  %7d requests\n", t.name, pass, run.Seconds, run.CPU, run.PeakMB, run.Total)
		// The equality of times has a margin of two seconds, which a node's snapshots keep by themselves.
		time.Sleep(3 * time.Second)
	}
	return s.restore()
}

// median of a figure over a tool's runs of a pass.
func (r Result) median(pass string, figure func(Run) float64) float64 {
	var all []float64
	for _, run := range r.Runs[pass] {
		all = append(all, figure(run))
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func seconds(r Run) float64 { return r.Seconds }
func peak(r Run) float64    { return r.PeakMB }

// peak of all passes.
func (r Result) peak() (most float64) {
	for _, pass := range Passes {
		most = max(most, r.median(pass, peak))
	}
	return most
}

func (r *Report) ratios() {
	var mine Result
	for _, x := range r.Results {
		if x.Tool == ours {
			mine = x
		}
	}
	if len(mine.Runs) == 0 {
		return
	}
	for _, pass := range Passes {
		fastest := 0.0
		for _, x := range r.Results {
			if t := x.median(pass, seconds); x.Tool != ours && t > 0 && (fastest == 0 || t < fastest) {
				fastest = t
			}
		}
		if fastest > 0 {
			r.Ratios[pass] = mine.median(pass, seconds) / fastest
		}
	}
	for _, x := range r.Results {
		if x.Tool == "s5cmd sync" && x.peak() > 0 {
			r.Ratios["peak memory by s5cmd's"] = mine.peak() / x.peak()
		}
	}
}

func (r Report) write(path string) error {
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(content, '\n'), 0o644)
}

// Print writes the table of medians.
func (r Report) Print(w io.Writer) {
	fmt.Fprintf(w, "\n%d objects, %.1f MB; medians\n%-22s", r.Objects, float64(r.Bytes)/1e6, "tool")
	for _, pass := range Passes {
		fmt.Fprintf(w, " %12s", pass+" s")
	}
	fmt.Fprintf(w, " %12s %12s %9s\n", "cold CPU s", "cold requests", "peak MB")
	results := slices.Clone(r.Results)
	slices.SortStableFunc(results, func(a, b Result) int { return cmp.Compare(a.median(Passes[0], seconds), b.median(Passes[0], seconds)) })
	for _, x := range results {
		fmt.Fprintf(w, "%-22s", x.Tool)
		for _, pass := range Passes {
			fmt.Fprintf(w, " %12.2f", x.median(pass, seconds))
		}
		fmt.Fprintf(w, " %12.2f %12.0f %9.0f\n", x.median(Passes[0], func(r Run) float64 { return r.CPU }),
			x.median(Passes[0], func(r Run) float64 { return float64(r.Total) }), x.peak())
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(r.Ratios)) {
		lines = append(lines, fmt.Sprintf("%s %.2f", name, r.Ratios[name]))
	}
	fmt.Fprintln(w, "\nours by the fastest of the others:", strings.Join(lines, ", "))
}
