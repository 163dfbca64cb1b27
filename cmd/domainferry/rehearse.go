package main

import (
	"context"
	"fmt"
	"os"

	"github.com/domainferry/domainferry/internal/local/rehearsal"
)

func rehearse(ctx context.Context, args []string) error {
	f := flags("rehearse", "Runs a whole migration on this machine while clients keep writing, and checks that no acknowledged write is lost.")
	o := engineFlags(f)
	cfg := rehearsal.Config{Progress: os.Stdout}
	f.StringVar(&cfg.Data, "data", "", "your own documents: an NDJSON file, one document a line")
	f.StringVar(&cfg.LastMile, "last-mile", "", "lastMile of the input: auto, rounds or replay")
	f.Int64Var(&cfg.Bytes, "bytes", 0, "size of the made data in bytes; 0 is about 150 MB")
	f.Float64Var(&cfg.Rate, "rate", 0, "client operations a second; 0 is 200")
	f.BoolVar(&cfg.GoBack, "go-back", false, "go back to the source after 1,000 writes at the destination, and look for every write there")
	accounts := f.Int("accounts", 1, "1 or 2: with 2 the source and its bucket are another account's, and bucket policies are enforced")
	f.StringVar(&cfg.Out, "out", "build/rehearsal", "folder of report.json, history.json and the logs")
	if err := parse(f, args); err != nil {
		return err
	}
	var err error
	if cfg.Environment, err = o.config(os.Stdout, cfg.Out); err != nil {
		return err
	}
	if *accounts != 1 && *accounts != 2 {
		return fmt.Errorf("-accounts %d: must be 1 or 2", *accounts)
	}
	cfg.Environment.TwoAccounts = *accounts == 2
	cfg.Window = o.window
	r, err := rehearsal.Run(ctx, cfg)
	if len(r.Rounds) > 0 {
		if err := r.Print(os.Stdout); err != nil {
			return err
		}
		fmt.Printf("report           %s/report.json, history.json, logs of each part beside them\n", cfg.Out)
	}
	return err
}
