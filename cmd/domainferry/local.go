package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

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
	if cfg.Engines == environment.Nodes {
		var unlock func()
		if cfg.Data, unlock, err = dataOf(*dir); err != nil {
			return err
		}
		defer unlock()
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
	if env.Resumed {
		fmt.Println("an earlier run was killed; its data are used, and writes that it had stopped are given back")
	} else if _, err := workload.Fill(ctx, env.Source.Client(environment.Operator), workload.Options{Seed: cfg.Faults.Seed, TotalBytes: *bytes}); err != nil {
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

// dataOf is the folder of a local environment's data, one for each folder of logs, held by one process at a time. It lies where an
// unprivileged user can read it. Data is "" when another process has it.
func dataOf(dir string) (data string, unlock func(), err error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	data = filepath.Join(os.TempDir(), fmt.Sprintf("domain-ferry-local-%x", sha256.Sum256([]byte(absolute)))[:40])
	lock, err := os.OpenFile(data+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, err
	}
	unlock = func() { _ = lock.Close() }
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return "", unlock, nil
	}
	return data, unlock, nil
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
