// Command bench-downtime measures the write downtime of Domain Ferry and of what it replaces, on this machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/domainferry/domainferry/internal/local/downtime"
	"github.com/domainferry/domainferry/internal/local/environment"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench-downtime: interrupted; everything that was started here is stopped")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "bench-downtime:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench-downtime", flag.ContinueOnError)
	cfg := downtime.Config{Progress: os.Stdout, Environment: environment.Config{Engines: environment.Nodes}}
	f.StringVar(&cfg.Environment.Source, "source", "elasticsearch-7.10.2", "the source's engine")
	f.StringVar(&cfg.Environment.Destination, "destination", "opensearch-2.19.0", "the destination's engine")
	f.StringVar(&cfg.Environment.LambdaDir, "lambdas", "build/lambdas", "folder of the built Lambdas (make build)")
	f.StringVar(&cfg.Environment.Heap, "heap", "1g", "Java heap of each node")
	f.IntVar(&cfg.Pairs, "pairs", 3, "runs of the hand procedure and of Domain Ferry in each cell")
	f.IntVar(&cfg.Scrolls, "scrolls", 1, "runs of scroll and bulk for each size and workload, at most as many as pairs")
	f.IntVar(&cfg.Slices, "slices", 4, "slices of scroll and bulk")
	f.DurationVar(&cfg.Window, "window", 3*time.Second, "downtimeWindow of Domain Ferry's input: what each of its cells is held to")
	f.Float64Var(&cfg.Rate, "rate", 200, "client operations a second")
	f.Uint64Var(&cfg.Seed, "seed", 1, "seed of the data and of the order")
	f.BoolVar(&cfg.Compare, "compare", true, "read both sides whole after the first run of Domain Ferry in each cell")
	f.StringVar(&cfg.Out, "out", "build/bench", "folder of downtime.svg and of the logs")
	f.StringVar(&cfg.JSON, "json", "build/downtime.json", "file of all figures")
	f.StringVar(&cfg.Docs, "docs", "", "folder of the dated copy (downtime.md, downtime.svg); empty makes none")
	sizes := f.String("sizes", "300,600,1200", "MB of the source on disk")
	workloads := f.String("workloads", "append,update", "append (1 % appended) and update (1 % updated, 0.2 % deleted)")
	throttles := f.String("throttles", "default,raised", "default (the engines' own) and raised (1gb)")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see -h", f.Arg(0))
	}
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("-sizes: %w", err)
		}
		cfg.Sizes = append(cfg.Sizes, n)
	}
	for text := range strings.SplitSeq(*workloads, ",") {
		cfg.Workloads = append(cfg.Workloads, downtime.Workload(strings.TrimSpace(text)))
	}
	for text := range strings.SplitSeq(*throttles, ",") {
		cfg.Throttles = append(cfg.Throttles, downtime.Throttle(strings.TrimSpace(text)))
	}
	report, err := downtime.Measure(ctx, cfg)
	if len(report.Cells) > 0 {
		report.Print(os.Stdout)
		fmt.Printf("\nfigures %s, picture %s/downtime.svg, logs beside it\n", cfg.JSON, cfg.Out)
	}
	return err
}
