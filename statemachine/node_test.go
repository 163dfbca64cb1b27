package statemachine_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const validators = "../tools/validators"

var installNodePackages = sync.OnceValue(func() error {
	out, err := exec.Command("node", filepath.Join(validators, "install.mjs")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("install the packages of tools/validators: %w\n%s", err, out)
	}
	return nil
})

// node runs a script of tools/validators and returns its standard output and exit error. Without Node it skips on a laptop and
// fails in CI.
func node(t *testing.T, stdin []byte, script string, args ...string) (string, error) {
	t.Helper()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: it runs the validators of the state machines", tool)
			}
			t.Skipf("%s is missing: it runs the validators of the state machines", tool)
		}
	}
	if err := installNodePackages(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", append([]string{filepath.Join(validators, script)}, args...)...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w %s", script, err, stderr.String())
	}
	return string(out), err
}

func TestValidatorsPass(t *testing.T) {
	if out, err := node(t, nil, "validate-asl.mjs", "migration.asl.json", "round.asl.json", "replay.asl.json"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The validators complement each other; this keeps an upgrade or a wrong option from switching one off unnoticed.
func TestValidatorsFindMistakes(t *testing.T) {
	definition, err := os.ReadFile("migration.asl.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ from, to, tool string }{
		"dangling Next":      {`"Next": "WhatNext"`, `"Next": "Nowhere"`, "asl-validator"},
		"JSONata syntax":     {`{% $mode = 'assess' %}`, `{% $mode = %}`, "asl-validator"},
		"JSONata of 2.2":     {`{% $decision.reason %}`, `{% $decision.reason ?? '' %}`, "asl-validator"},
		"unknown jitter":     {`"JitterStrategy": "FULL"`, `"JitterStrategy": "HALF"`, "language service"},
		"back-off below one": {`"BackoffRate": 1.5`, `"BackoffRate": 0.5`, "language service"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(string(definition), tc.from, tc.to, 1)
			if bad == string(definition) {
				t.Fatalf("%s is not in the definition any more", tc.from)
			}
			file := filepath.Join(t.TempDir(), "bad.asl.json")
			if err := os.WriteFile(file, []byte(bad), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := node(t, nil, "validate-asl.mjs", file)
			if err == nil || !strings.Contains(out, ": "+tc.tool) {
				t.Errorf("%s did not find it: %v\n%s", tc.tool, err, out)
			}
		})
	}
}
