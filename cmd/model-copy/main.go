// Command model-copy runs the copy engine against the modelled S3 of internal/local/modelcopy, on a virtual clock: how near it comes to
// the physical bound at 10 and 100 TB, and how much memory a comparison takes at up to ten million objects.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/domainferry/domainferry/internal/local/modelcopy"
)

// report is build/model-copy.json.
type report struct {
	Machine string              `json:"machine"`
	Go      string              `json:"go"`
	Seed    uint64              `json:"seed"`
	At      time.Time           `json:"at"`
	Cases   []modelcopy.Outcome `json:"cases"`
	Memory  []modelcopy.Memory  `json:"memory"`
}

// least is the share of the physical bound that a case must reach.
const least = 0.9

func main() {
	path := flag.String("json", "build/model-copy.json", "file of all figures")
	scale := flag.Float64("scale", 1, "part of the objects and bytes that are copied; less than 1 gives the tails more weight than they have")
	seed := flag.Uint64("seed", 1, "seed of the failures")
	sizes := flag.String("memory", "10000,100000,1000000,10000000", "numbers of objects to compare")
	only := flag.String("case", "", "run only the case of this name")
	flag.Usage = usage
	testing.Init() // the virtual clock is that of testing/synctest, which runs in tests only; its flags are not shown
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { os.Exit(130) })
	run := func(t *testing.T) {
		if err := model(t, *path, *scale, *seed, *sizes, *only); err != nil {
			fmt.Fprintln(os.Stderr, "model-copy:", err)
			t.Fail()
		}
	}
	//nolint:staticcheck // the only way to have a *testing.T in a program
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "model-copy", F: run}}, nil, nil)
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: model-copy [flags]")
	flag.VisitAll(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") {
			fmt.Fprintf(os.Stderr, "  -%s (%s)\n    \t%s\n", f.Name, f.DefValue, f.Usage)
		}
	})
}

func model(t *testing.T, path string, scale float64, seed uint64, sizes, only string) error {
	r := report{Machine: fmt.Sprintf("%s/%s, %d CPUs", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), Go: runtime.Version(), Seed: seed, At: time.Now().UTC()}
	narrow := modelcopy.Usual()
	narrow.Bandwidth = 10e9
	var failed error
	fmt.Printf("%-34s %10s %10s %8s %11s %9s %9s  %s\n", "case", "bound s", "copy s", "of bound", "requests", "refused", "dollars", "bound by")
	for _, c := range []modelcopy.Case{
		{Name: "10TB-1M", Objects: 1e6, Bytes: 10e12, Lambdas: 12, Limits: modelcopy.Usual()},
		{Name: "10TB-1M-10GBps", Objects: 1e6, Bytes: 10e12, Lambdas: 12, Limits: narrow},
		{Name: "100TB-10M", Objects: 1e7, Bytes: 100e12, Lambdas: 12, Limits: modelcopy.Usual()},
	} {
		if only != "" && only != c.Name {
			continue
		}
		c.Seed = seed
		c.Objects, c.Bytes = int64(float64(c.Objects)*scale), int64(float64(c.Bytes)*scale)
		var out modelcopy.Outcome
		var err error
		synctest.Test(t, func(t *testing.T) { out, err = c.Run(t.Context()) })
		if err != nil {
			return err
		}
		r.Cases = append(r.Cases, out)
		fmt.Printf("%-34s %10.0f %10.0f %7.1f%% %11d %9d %9.0f  %s\n", c.Name, out.BoundSeconds, out.CopySeconds, 100*out.Efficiency, out.Requests, out.Refused,
			out.Cost.Total, out.Bound)
		if out.Efficiency < least {
			failed = fmt.Errorf("%s reaches %.1f %% of the physical bound, less than %.0f %%", c.Name, 100*out.Efficiency, 100*least)
		}
	}
	fmt.Printf("\n%12s %10s %12s\n", "objects", "pages", "peak MB")
	for text := range strings.SplitSeq(sizes, ",") {
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			return fmt.Errorf("-memory: %w", err)
		}
		var m modelcopy.Memory
		synctest.Test(t, func(t *testing.T) { m, err = modelcopy.MeasureMemory(t.Context(), n) })
		if err != nil {
			return err
		}
		r.Memory = append(r.Memory, m)
		fmt.Printf("%12d %10d %12.1f\n", m.Objects, m.Pages, m.PeakMB)
	}
	if n := len(r.Memory); n > 1 && r.Memory[n-1].PeakMB > 2*r.Memory[0].PeakMB+4 {
		failed = fmt.Errorf("comparing %d objects takes %.1f MB, %d objects %.1f MB: memory grows", r.Memory[n-1].Objects, r.Memory[n-1].PeakMB,
			r.Memory[0].Objects, r.Memory[0].PeakMB)
	}
	content, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, append(content, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Println("\nfigures", path)
	return failed
}
