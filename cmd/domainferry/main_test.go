package main

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no command":            {nil, "no command given"},
		"unknown command":       {[]string{"migrate"}, `unknown command "migrate"`},
		"left over argument":    {[]string{"doctor", "now"}, `unexpected argument "now"; see domainferry doctor -h`},
		"unknown engine":        {[]string{"rehearse", "-engine", "cloud"}, `-engine "cloud": must be auto, nodes or model`},
		"unknown fault":         {[]string{"rehearse", "-engine", "model", "-faults", "504,flood"}, `unknown fault "flood"`},
		"unknown version":       {[]string{"rehearse", "-engine", "model", "-source", "solr-9"}, "solr-9"},
		"start without input":   {[]string{"start"}, "start needs -state-machine-arn and -input"},
		"watch without arn":     {[]string{"watch"}, "watch needs -execution-arn"},
		"report without bucket": {[]string{"report"}, "report needs -journal-bucket and -migration"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), c.args); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: %v, want %q", c.args, err, c.want)
			}
		})
	}
}

func TestStartChecksTheInputBeforeAnythingElse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "input.json")
	if err := os.WriteFile(file, []byte(`{"migration": "CS", "surprise": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{"start", "-state-machine-arn", "arn:aws:states:us-east-1:123456789012:stateMachine:migration", "-input", file})
	for _, path := range []string{"$.migration", "$.surprise", "$.source", "$.destination", "$.downtimeWindow"} {
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%v does not name %s", err, path)
		}
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	for _, c := range commands {
		if err := c.run(t.Context(), []string{"-h"}); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s -h: %v", c.name, err)
		}
	}
}

func TestWindowFollowsTheFaults(t *testing.T) {
	for faults, want := range map[string]string{"": "4s", "504": "60s", "all": "60s"} {
		f := flag.NewFlagSet("test", flag.ContinueOnError)
		o := engineFlags(f)
		if err := f.Parse([]string{"-engine", "model", "-faults", faults}); err != nil {
			t.Fatal(err)
		}
		if _, err := o.config(io.Discard, "logs"); err != nil {
			t.Fatal(err)
		}
		if o.window != want {
			t.Errorf("faults %q: window %s, want %s", faults, o.window, want)
		}
	}
}

func TestPlain(t *testing.T) {
	if got := plain("\x1b[1mApache Maven 3.8.7\x1b[m"); got != "Apache Maven 3.8.7" {
		t.Errorf("got %q", got)
	}
}
