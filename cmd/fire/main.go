// Command fire runs migrations under fire: clients write all the time, things break, and every document is compared at the end.
// It exits with 1 when any document differs from what was acknowledged.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/fire"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := fire.Series{Lines: os.Stdout, Progress: io.Discard}
	pairs := flag.String("pairs", "elasticsearch-7.10.2:opensearch-2.19.0,opensearch-2.19.0:opensearch-3.7.0", "source:destination, comma-separated")
	engine := flag.String("engine", "nodes", "nodes or model")
	flag.IntVar(&s.Seeds, "seeds", 10, "number of seeds, each with every pair")
	flag.Uint64Var(&s.First, "first", 1, "first seed")
	flag.Int64Var(&s.Bytes, "bytes", 0, "size of the data before the start; 0 is 60 MB")
	flag.Float64Var(&s.Rate, "rate", 0, "client operations a second; 0: the seed decides, 600 to 900")
	flag.DurationVar(&s.Writing, "writing", 0, "how long clients write at least, half of it before the cut-over; 0: as long as the migration takes")
	flag.StringVar(&s.Tool, "tool", "", "a program that compares two nodes independently: TOOL source destination index...")
	flag.StringVar(&s.Out, "out", "build", "folder of fire.json")
	flag.StringVar(&s.Environment.LambdaDir, "lambdas", "build/lambdas", "folder of the built Lambdas (make build)")
	flag.StringVar(&s.Environment.Heap, "heap", "512m", "Java heap of each real node")
	verbose := flag.Bool("v", false, "show what happens")
	flag.Parse()
	s.Pairs, s.Environment.Engines = strings.Split(*pairs, ","), environment.Engines(*engine)
	if *verbose {
		s.Progress = os.Stdout
	}
	if err := s.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "fire:", err)
		os.Exit(1)
	}
}
