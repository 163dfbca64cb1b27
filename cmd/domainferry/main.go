// Command domainferry starts, watches and rehearses migrations.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// command is one verb. Its run parses its own flags.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string) error
}

var commands = []command{
	{"rehearse", "run a whole migration on this machine, with clients that keep writing", rehearse},
	{"local", "start everything on this machine and serve the Step Functions API until Ctrl-C", local},
	{"start", "start a migration at AWS", start},
	{"watch", "follow a running migration", watchExecution},
	{"report", "print the report of a finished migration", printReport},
	{"doctor", "say what this machine has, what is missing, and what it is for", doctor},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "domainferry: interrupted; everything that was started here is stopped")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "domainferry:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		for _, c := range commands {
			if c.name == args[0] {
				return c.run(ctx, args[1:])
			}
		}
	}
	out := os.Stderr
	asked := len(args) > 0 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help")
	if asked {
		out = os.Stdout
	}
	fmt.Fprint(out, "usage: domainferry <command> [flags]\n\n")
	for _, c := range commands {
		fmt.Fprintf(out, "  %-9s %s\n", c.name, c.summary)
	}
	fmt.Fprint(out, "\nEvery command explains its flags with -h.\n")
	if asked {
		return nil
	}
	if len(args) == 0 {
		return errors.New("no command given")
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// flags makes a flag set that explains itself.
func flags(name, explanation string) *flag.FlagSet {
	f := flag.NewFlagSet("domainferry "+name, flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "usage: domainferry %s [flags]\n%s\n\n", name, explanation)
		f.PrintDefaults()
	}
	return f
}

// parse refuses what is left over after the flags.
func parse(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see domainferry %s -h", f.Arg(0), f.Name()[len("domainferry "):])
	}
	return nil
}
