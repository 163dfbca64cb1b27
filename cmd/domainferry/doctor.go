package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"github.com/domainferry/domainferry/internal/local/node"
)

// tool is a program of the machine. Required ones are those without which the two commands of the README do not work in full.
type tool struct {
	name, purpose string
	args          []string
}

var tools = []tool{
	{"go", "builds everything", []string{"version"}},
	{"git", "the repository itself", []string{"--version"}},
	{"java", "real Elasticsearch and OpenSearch nodes (17; 21 or newer for OpenSearch 3); without it rehearsals use the built-in model", []string{"-version"}},
	{"mvn", "fetches the nodes' archives", []string{"-v"}},
	{"node", "CDK and the definitions' validators", []string{"--version"}},
	{"npm", "installs them", []string{"--version"}},
	{"python3", "cfn-lint and the comparison of nodes in tests", []string{"--version"}},
	{"aws", "starts executions by hand; any AWS SDK or domainferry start does as well", []string{"--version"}},
}

func doctor(ctx context.Context, args []string) error {
	f := flags("doctor", "Says what this machine has, what is missing, and what it is for.")
	if err := parse(f, args); err != nil {
		return err
	}
	missing := 0
	for _, t := range tools {
		out, err := exec.CommandContext(ctx, t.name, t.args...).CombinedOutput()
		if err != nil {
			missing++
			fmt.Printf("missing  %-8s %s\n", t.name, t.purpose)
			continue
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		fmt.Printf("present  %-8s %s (%s)\n", t.name, t.purpose, plain(first))
	}
	for _, e := range node.Supported() {
		if err := node.Available(e); err != nil {
			fmt.Printf("missing  %s: %v\n", e, err)
		} else {
			fmt.Printf("present  %s can be run here\n", e)
		}
	}
	fmt.Printf("machine  %s/%s, %d processors\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if missing > 0 {
		fmt.Printf("%d programs are missing; what needs them is skipped by name, or fails when CI=true\n", missing)
	}
	return nil
}

// plain removes terminal colours, which Maven prints.
func plain(s string) string {
	var b strings.Builder
	inside := false
	for _, r := range s {
		switch {
		case r == '\x1b':
			inside = true
		case inside:
			inside = r != 'm'
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
