// Command fault-matrix breaks one thing in every state of a migration, while clients write, and looks whether anything is lost. It exits
// with 1 on any doubt.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/faultmatrix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg := faultmatrix.Config{Lines: os.Stdout, Progress: os.Stdout}
	engine := flag.String("engine", "model", "model, or nodes for the representative cases on real ones")
	pair := flag.String("pair", "elasticsearch-7.10.2:opensearch-2.19.0", "source:destination")
	states := flag.String("states", "", "comma-separated: machine, state, machine/state or machine/state@phase; empty is all")
	faults := flag.String("faults", "", "comma-separated columns; empty is all")
	cases := flag.String("cases", "", "comma-separated machine/state@phase:fault; empty is all")
	flag.Uint64Var(&cfg.Seed, "seed", 1, "decides the data and at which of its calls a function is hit")
	flag.IntVar(&cfg.Parallel, "parallel", 0, "environments at once; 0 is two on the model, one on nodes")
	flag.StringVar(&cfg.Out, "out", "build", "folder of fault-matrix.json")
	flag.StringVar(&cfg.Environment.LambdaDir, "lambdas", "build/lambdas", "folder of the built Lambdas (make build)")
	flag.Parse()
	cfg.Environment.Engines = environment.Engines(*engine)
	source, destination, ok := strings.Cut(*pair, ":")
	if !ok {
		fmt.Fprintf(os.Stderr, "fault-matrix: -pair %q: must be source:destination\n", *pair)
		os.Exit(2)
	}
	cfg.Environment.Source, cfg.Environment.Destination = source, destination
	cfg.States, cfg.Cases = list(*states), list(*cases)
	for _, f := range list(*faults) {
		cfg.Faults = append(cfg.Faults, faultmatrix.Fault(f))
	}
	if _, err := faultmatrix.Run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "fault-matrix:", err)
		os.Exit(1)
	}
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
