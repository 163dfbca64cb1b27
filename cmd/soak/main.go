// Command soak plays random programs of writes, faults and operator actions on a virtual clock (internal/local/soak). It exits with 1 when one
// fails, and prints the shortest program that fails in the same way.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"

	"github.com/domainferry/domainferry/internal/local/soak"
)

func main() {
	cfg := soak.Config{Progress: os.Stdout}
	seeds := flag.Int("seeds", 10_000, "how many programs")
	first := flag.Uint64("first", 1, "the seed of the first program")
	seed := flag.Uint64("seed", 0, "play this seed alone, and print its program")
	program := flag.String("program", "", "play the program in this file (as a failure prints it) alone")
	flag.BoolVar(&cfg.Late, "late", false, "effects may come long after a 504; no engine has a fence against them, so failures are to be expected")
	parallel := flag.Int("parallel", 0, "programs at once; 0 is one a processor")
	trace := flag.Bool("trace", false, "with -seed or -program: tell each state, fault and write")
	file := flag.String("json", "build/soak.json", "file of all figures")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "soak: unexpected argument %q; see -h\n", flag.Arg(0))
		os.Exit(2)
	}
	cfg.Seeds, cfg.First, cfg.Parallel = *seeds, *first, *parallel
	play := func(t *testing.T) error { return many(t, cfg, *file) }
	if *seed > 0 || *program != "" {
		play = func(t *testing.T) error { return one(t, soak.Generate(*seed, cfg.Late), *program, *trace) }
	}
	defer soak.Quiet()()
	debug.SetGCPercent(400)
	// Bubbles of virtual time (testing/synctest) are only to be had in a test; Main runs one, and exits.
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "soak", F: func(t *testing.T) {
		if err := play(t); err != nil {
			fmt.Fprintln(os.Stderr, "soak:", err)
			t.Fail()
		}
	}}}, nil, nil)
}

func many(t *testing.T, cfg soak.Config, file string) error {
	s := soak.Run(t, cfg)
	fmt.Print(s.Text())
	body, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, append(body, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Println("figures", file)
	if n := len(s.Failures); n > 0 {
		return fmt.Errorf("%d of %d programs failed", n, s.Seeds)
	}
	return nil
}

func one(t *testing.T, p soak.Program, file string, trace bool) error {
	if file != "" {
		body, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		p = soak.Program{}
		if err := json.Unmarshal(body, &p); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	if err := p.Check(); err != nil {
		return err
	}
	var o soak.Options
	if trace {
		o.Trace = func(format string, a ...any) { fmt.Printf(format+"\n", a...) }
	}
	fmt.Print(p.Text())
	out := soak.Play(t, p, o)
	for _, x := range out.Problems {
		fmt.Println(x)
	}
	if out.Failed() {
		return errors.New("the program failed")
	}
	return nil
}
