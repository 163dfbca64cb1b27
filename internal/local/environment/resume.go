package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// resumption is what a process that takes over must know of the one that was killed.
type resumption struct {
	Source, Destination string // engines
	Addresses           Addresses
}

func resumptionFile(dir string) string { return filepath.Join(dir, "resumption.json") }

// dataFolder is a new temporary folder, or cfg.Data with what is in it; then cfg has the addresses of the process that was killed,
// because plans and leases name them.
func dataFolder(cfg *Config) (dir string, resumed bool, err error) {
	if cfg.Data == "" {
		dir, err := os.MkdirTemp("", "domain-ferry-")
		return dir, false, err
	}
	if err := os.MkdirAll(cfg.Data, 0o755); err != nil {
		return "", false, err
	}
	body, err := os.ReadFile(resumptionFile(cfg.Data))
	if errors.Is(err, fs.ErrNotExist) {
		// Killed before it was ready: nothing in it is worth anything.
		return cfg.Data, false, errors.Join(os.RemoveAll(cfg.Data), os.MkdirAll(cfg.Data, 0o755))
	}
	if err != nil {
		return "", false, err
	}
	var r resumption
	if err := json.Unmarshal(body, &r); err != nil {
		return "", false, fmt.Errorf("%s: %w; remove the folder to start anew", resumptionFile(cfg.Data), err)
	}
	if r.Source != cfg.Source || r.Destination != cfg.Destination {
		return "", false, fmt.Errorf("%s holds the data of %s and %s, which were killed; start these again, or remove the folder", cfg.Data, r.Source, r.Destination)
	}
	cfg.Addresses = r.Addresses
	return cfg.Data, true, nil
}

// remember writes down what a process needs that takes over.
func (e *Environment) remember(cfg Config) error {
	host := func(url string) string { return strings.TrimPrefix(url, "http://") }
	body, err := json.Marshal(resumption{cfg.Source, cfg.Destination, Addresses{
		Source: host(e.Source.Door.URL()), Destination: host(e.Destination.Door.URL()), StepFunctions: host(e.StepFunctionsURL),
	}})
	if err != nil {
		return err
	}
	return os.WriteFile(resumptionFile(e.dir), body, 0o644)
}

// endLeftovers does for the executions of a process that was killed what the rule does at their end. Their history died with it.
func (e *Environment) endLeftovers(ctx context.Context) error {
	if !e.Resumed {
		return nil
	}
	return e.undoLeftovers(ctx)
}

// RestartStepFunctions does what a kill and a new start of the process does that holds the executions: those that ran are gone with
// their histories, without a word to the rule, their functions are killed, and what they have left behind is undone as at any other start.
// Engine is another one afterwards.
func (e *Environment) RestartStepFunctions(ctx context.Context) error {
	e.api.Store(nil)
	if err := e.endExecutions(); err != nil {
		return err
	}
	if err := e.addMachines(); err != nil {
		return err
	}
	e.openStepFunctions()
	return e.undoLeftovers(ctx)
}

func (e *Environment) undoLeftovers(ctx context.Context) error {
	leases, err := e.Journal().Leases(ctx)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, l := range leases {
		if l.EndedAt.IsZero() && !seen[l.Execution] {
			seen[l.Execution] = true
			e.running.Go(func() { e.thaw(l.Execution) })
		}
	}
	return nil
}
