package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/domainferry/domainferry/internal/local/domain"
	"github.com/domainferry/domainferry/internal/local/frontdoor"
	"github.com/domainferry/domainferry/internal/local/node"
)

// nodeProcess is a node that can be lost and come back.
type nodeProcess interface {
	Kill9() error
	Restart(context.Context) error
}

// modelProcess is the built-in model as such.
type modelProcess struct{ *domain.Domain }

func (m modelProcess) Kill9() error { m.Kill(); return nil }

func (m modelProcess) Restart(context.Context) error { m.Domain.Restart(); return nil }

// Kill9 kills the domain's only node as a machine failure would; Restart brings it back on its data.
func (s *Side) Kill9() error { return s.node.Kill9() }

// Restart starts a killed node again.
func (s *Side) Restart(ctx context.Context) error { return s.node.Restart(ctx) }

// FillDisk fills the disk of a modelled domain, or empties it again; a real node's cannot be filled without filling this machine's.
func (s *Side) FillDisk(full bool) error {
	m, ok := s.node.(modelProcess)
	if !ok {
		return errors.New("only the model's disk can be filled")
	}
	m.Domain.FillDisk(full)
	return nil
}

func (e *Environment) startDomains(ctx context.Context, cfg Config) error {
	e.Source = &Side{Engine: cfg.Source, Bucket: SourceBucket, DomainARN: domainARN("source")}
	e.Destination = &Side{Engine: cfg.Destination, Bucket: DestinationBucket, DomainARN: domainARN("destination")}
	if cfg.TwoAccounts {
		e.Source.ofOtherAccount()
	}
	sides := map[string]*Side{"source": e.Source, "destination": e.Destination}
	group, ctx2 := errgroup.WithContext(ctx)
	stops := make(chan func() error, len(sides))
	for name, side := range sides {
		group.Go(func() error {
			fmt.Fprintf(cfg.Progress, "starting the %s: %s (%s)\n", name, side.Engine, cfg.Engines)
			stop, err := e.startEngine(ctx2, cfg, name, side)
			if err == nil {
				stops <- stop
			}
			return err
		})
	}
	err := group.Wait()
	close(stops)
	for stop := range stops {
		e.closers = append(e.closers, stop)
	}
	if err != nil {
		return err
	}
	if err := e.openDoor(ctx, cfg, "source", cfg.Addresses.Source, e.Source); err != nil {
		return err
	}
	if err := e.openDoor(ctx, cfg, "destination", cfg.Addresses.Destination, e.Destination); err != nil {
		return err
	}
	if cfg.Faults.SnapshotInProgress {
		for _, side := range sides {
			e.running.Go(func() { e.automatedSnapshots(side) })
		}
	}
	return nil
}

func domainARN(name string) string {
	return fmt.Sprintf("arn:aws:es:%s:%s:domain/%s", Region, Account, name)
}

func (e *Environment) startEngine(ctx context.Context, cfg Config, name string, side *Side) (stop func() error, err error) {
	root := filepath.Dir(e.Gateway.BucketPath(SourceBucket))
	if cfg.Engines == Model {
		automated := filepath.Join(e.dir, name+"-automated")
		model, err := domain.New(domain.Config{Engine: side.Engine, Name: name, RepositoryRoot: e.dir})
		if err != nil {
			return nil, err
		}
		l, err := listen("")
		if err != nil {
			return nil, err
		}
		server := e.serve(l, model)
		side.Direct, side.node = "http://"+l.Addr().String(), modelProcess{model}
		// A snapshot or restore that is still going on would write into folders that are being removed.
		return func() error { err := server.Close(); model.Kill(); return err }, os.MkdirAll(automated, 0o777)
	}
	engine, err := node.Parse(side.Engine)
	if err != nil {
		return nil, err
	}
	n, err := node.Start(ctx, node.Config{
		Engine: engine, Dir: filepath.Join(e.dir, name), Heap: cfg.Heap, RepositoryRoot: root,
		LogPath: filepath.Join(cfg.LogDir, name+".log"), Progress: cfg.Progress,
	})
	if err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	side.Direct, side.node = n.URL, n
	return n.Stop, nil
}

func (e *Environment) openDoor(ctx context.Context, cfg Config, name, address string, side *Side) error {
	log, err := os.Create(filepath.Join(cfg.LogDir, name+"-access.log"))
	if err != nil {
		return err
	}
	e.closers = append(e.closers, log.Close)
	automated := filepath.Join(e.dir, name+"-automated")
	if n, ok := side.node.(*node.Node); ok {
		automated = n.PrivateRepositories
	}
	if cfg.Profile == frontdoor.Open {
		automated = ""
	}
	side.Door, err = frontdoor.New(frontdoor.Config{
		Upstream: side.Direct, Engine: side.Engine, Profile: cfg.Profile, Address: address, GatewayRoot: filepath.Dir(e.Gateway.BucketPath(SourceBucket)), Region: Region,
		Authorizer: authorizer{side.verifier()}, AutomatedRoot: automated, AutomatedEvery: time.Hour, Faults: cfg.Faults.door(name, cfg.Hooks.Door), Log: log,
	})
	if err != nil {
		return err
	}
	if err := side.Door.Start(ctx); err != nil {
		return fmt.Errorf("open the front door of the %s: %w", name, err)
	}
	e.closers = append(e.closers, side.Door.Close)
	return nil
}

// automatedSnapshots keeps one in progress most of the time, slowly, so that the migration meets it again and again.
func (e *Environment) automatedSnapshots(side *Side) {
	for {
		if s, err := side.Door.StartAutomatedSnapshot(e.background, "30mb"); err == nil {
			_ = s.Wait(e.background)
		}
		select {
		case <-e.background.Done():
			return
		case <-time.After(4 * time.Second):
		}
	}
}
