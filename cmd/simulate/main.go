// Command simulate runs migrations of 100 TB on a virtual clock (internal/local/simulate) and holds the product to its bounds.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/domainferry/domainferry/internal/local/simulate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("simulate", flag.ContinueOnError)
	var cfg simulate.Config
	f.Uint64Var(&cfg.Seed, "seed", 1, "the first seed")
	seeds := f.Int("seeds", 20, "how many seeds")
	f.IntVar(&cfg.Shards, "shards", 10_000, "primary shards")
	f.IntVar(&cfg.Nodes, "nodes", 40, "nodes on each side")
	f.DurationVar(&cfg.Window, "window", simulate.DefaultWindow, "downtimeWindow of the input")
	f.BoolVar(&cfg.Detail, "detail", false, "tell rounds, passes, requests and the largest documents of each seed")
	trace := f.Bool("trace", false, "tell each state and each failed step on standard error")
	file := f.String("json", "build/simulate.json", "file of all figures")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see -h", f.Arg(0))
	}
	if *trace {
		cfg.Trace = func(format string, a ...any) { fmt.Fprintf(os.Stderr, format+"\n", a...) }
	}
	defer simulate.Quiet()()
	debug.SetGCPercent(400) // the garbage is the journal's JSON; there is memory
	s, err := simulate.Study(ctx, cfg, *seeds, os.Stdout)
	if err != nil {
		return err
	}
	fmt.Print(s.Text())
	body, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(*file, append(body, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Println("figures", *file)
	return s.Check()
}
