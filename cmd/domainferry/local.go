package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/workload"
)

// Preferred ports: those of examples/migration.json. Where one is taken, a free one is used and the input that local writes says
// so.
var preferred = environment.Addresses{Source: "127.0.0.1:19201", Destination: "127.0.0.1:19202", StepFunctions: "127.0.0.1:18083"}

func local(ctx context.Context, args []string) error {
	f := flags("local", "Starts gateway, domains, Lambdas and the Step Functions API, fills the source with a little data, prints a ready\n"+
		"start-execution line, and stops everything on Ctrl-C.")
	o := engineFlags(f)
	bytes := f.Int64("bytes", 20<<20, "size of the sample data in bytes")
	dir := f.String("out", "build/local", "folder of the logs and of the input")
	if err := parse(f, args); err != nil {
		return err
	}
	cfg, err := o.config(os.Stdout, *dir)
	if err != nil {
		return err
	}
	cfg.Addresses = environment.Addresses{
		Source: free(preferred.Source), Destination: free(preferred.Destination), StepFunctions: free(preferred.StepFunctions),
	}
	env, err := environment.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		if err := env.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "domainferry: while stopping:", err)
		}
		fmt.Println("stopped")
	}()
	if _, err := workload.Fill(ctx, env.Source.Client(environment.Operator), workload.Options{Seed: cfg.Faults.Seed, TotalBytes: *bytes}); err != nil {
		return err
	}
	input := filepath.Join(*dir, "migration.json")
	if err := writeJSON(input, env.Input("orders", o.window)); err != nil {
		return err
	}
	fmt.Printf(`
Step Functions   %s
source           %s (%s)
destination      %s (%s)
logs             %s

Start a migration from another terminal (input: %s; --region and keys as given, they open nothing but this environment):

  export AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s AWS_DEFAULT_REGION=%s
  aws stepfunctions start-execution --endpoint-url %s --state-machine-arn %s --input file://%s

Ctrl-C stops everything.
`, env.StepFunctionsURL, env.Source.Door.URL(), env.Source.Engine, env.Destination.Door.URL(), env.Destination.Engine, *dir, input,
		environment.Operator.ID, environment.Operator.Secret, environment.Region, env.StepFunctionsURL, env.MigrationARN, input)
	<-ctx.Done()
	fmt.Println("\nstopping")
	return nil
}

// free returns the address if nothing listens there, and else "", which means any free port.
func free(address string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return ""
	}
	_ = l.Close()
	return address
}
