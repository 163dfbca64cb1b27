package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/node"
)

// engineOptions are the flags that rehearse and local share.
type engineOptions struct {
	engine, source, destination, faults, lambdas, window, heap string
	seed                                                       uint64
}

func engineFlags(f *flag.FlagSet) *engineOptions {
	var o engineOptions
	f.StringVar(&o.engine, "engine", "auto", "nodes (real ones), model (built in, needs no Java), or auto: nodes when this machine can run them")
	f.StringVar(&o.source, "source", "elasticsearch-7.10.2", "the source's engine")
	f.StringVar(&o.destination, "destination", "opensearch-2.19.0", "the destination's engine")
	f.StringVar(&o.window, "window", "", "downtimeWindow of the input; the default is 4s, and 60s with faults, which cost time")
	f.StringVar(&o.faults, "faults", "", "faults to inject, comma-separated: 504, snapshot-in-progress, lambda-crash, s3-503, all")
	f.Uint64Var(&o.seed, "seed", 1, "seed of data and faults")
	f.StringVar(&o.lambdas, "lambdas", "build/lambdas", "folder of the built Lambdas (make build)")
	f.StringVar(&o.heap, "heap", "512m", "Java heap of each real node")
	return &o
}

// config turns the flags into what to start, and says which engines it is going to be.
func (o *engineOptions) config(progress io.Writer, logs string) (environment.Config, error) {
	cfg := environment.Config{Source: o.source, Destination: o.destination, LambdaDir: o.lambdas, LogDir: logs, Heap: o.heap, Progress: progress}
	var errs []error
	var unavailable error
	for _, name := range []string{o.source, o.destination} {
		e, err := node.Parse(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		unavailable = errors.Join(unavailable, node.Available(e))
	}
	switch o.engine {
	case "nodes":
		cfg.Engines = environment.Nodes
		errs = append(errs, unavailable)
	case "model":
		cfg.Engines = environment.Model
	case "auto":
		cfg.Engines = environment.Nodes
		if unavailable != nil {
			cfg.Engines = environment.Model
			fmt.Fprintf(progress, "using the built-in model, because real nodes cannot run here: %v\n", unavailable)
		} else {
			fmt.Fprintln(progress, "using real nodes")
		}
	default:
		errs = append(errs, fmt.Errorf("-engine %q: must be auto, nodes or model", o.engine))
	}
	faults, err := environment.ParseFaults(o.faults, o.seed)
	cfg.Faults = faults
	if o.window == "" {
		o.window = "4s"
		if faults.String() != "" {
			o.window = "60s"
		}
	}
	return cfg, errors.Join(append(errs, err)...)
}

func writeJSON(path string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(body, '\n'), 0o644)
}
