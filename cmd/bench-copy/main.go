// Command bench-copy measures how fast tools copy a snapshot repository from one bucket to another, Domain Ferry's engine among them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/domainferry/domainferry/internal/local/copybench"
	"github.com/domainferry/domainferry/internal/local/s3gateway"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) == 6 && os.Args[1] == "-engine" {
		// A measured process: the engine and nothing else.
		err = copybench.Engine(ctx, os.Args[2], os.Args[3], os.Args[4], os.Args[5])
	} else {
		err = run(ctx, os.Args[1:])
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench-copy: interrupted; everything that was started here is stopped")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "bench-copy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench-copy", flag.ContinueOnError)
	var cfg copybench.Config
	f.IntVar(&cfg.Small, "small", 20_000, "objects of 4 to 64 KB")
	f.IntVar(&cfg.Medium, "medium", 200, "objects of 5 MiB")
	f.IntVar(&cfg.Large, "large", 3, "objects of -large-mb")
	f.Int64Var(&cfg.LargeMB, "large-mb", 300, "MiB of a large object")
	f.IntVar(&cfg.Runs, "runs", 3, "runs of each tool, interleaved")
	f.Uint64Var(&cfg.Seed, "seed", 1, "seed of names and sizes")
	f.StringVar(&cfg.Dir, "dir", "build/bench-copy", "folder of the tools, the logs and (while it runs) the data")
	f.StringVar(&cfg.JSON, "json", "build/bench-copy.json", "file of all figures")
	tools := f.String("tools", "", "comma-separated names, as the table shows them; empty means all that are there")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see -h", f.Arg(0))
	}
	if *tools != "" {
		cfg.Tools = strings.Split(*tools, ",")
	}
	var err error
	if cfg.Binary, err = s3gateway.Binary(ctx, os.Stderr); err != nil {
		return err
	}
	report, err := copybench.Measure(ctx, cfg, os.Stdout)
	if err != nil {
		return err
	}
	report.Print(os.Stdout)
	fmt.Println("figures", cfg.JSON)
	return nil
}
