// Package environment puts a whole deployment on one machine: a real S3 gateway, two domains (real nodes, or the built-in model)
// behind front doors, the built Lambda binaries behind the Lambda Runtime API, the embedded state machine definitions in the
// local engine, and the Step Functions API on loopback. Everything it starts, Close stops.
package environment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/frontdoor"
	"github.com/domainferry/domainferry/internal/local/lambdaruntime"
	"github.com/domainferry/domainferry/internal/local/s3gateway"
	"github.com/domainferry/domainferry/internal/local/sigv4"
	"github.com/domainferry/domainferry/internal/local/stepfunctions"
	"github.com/domainferry/domainferry/internal/migration"
)

// Names and places that only exist on this machine.
const (
	Region  = "us-east-1" // the only Region that the S3 gateway signs for
	Account = "123456789012"

	SourceBucket      = "source-snapshots"
	DestinationBucket = "destination-snapshots"
	JournalBucket     = "domain-ferry-journal"
	BasePath          = "snapshots"

	callerRole   = "arn:aws:sts::" + Account + ":assumed-role/domain-ferry-caller/lambda"
	operatorUser = "arn:aws:iam::" + Account + ":user/operator"
)

// SnapshotRoleARN is the role that the domains ask for in a repository.
const SnapshotRoleARN = "arn:aws:iam::" + Account + ":role/domain-ferry-snapshots"

// Credentials of the two callers. They open nothing but this environment, which listens on loopback only.
var (
	Caller   = KeyPair{"AKIDOMAINFERRYCALLER", "domain-ferry-local-caller-secret"}
	Operator = KeyPair{"AKIDOMAINFERRYOPERAT", "domain-ferry-local-operator-secret"}
)

// KeyPair is an access key.
type KeyPair struct{ ID, Secret string }

// Engines says what stands behind the front doors.
type Engines string

// The engines.
const (
	Nodes Engines = "nodes" // real Elasticsearch and OpenSearch nodes
	Model Engines = "model" // the built-in domain model
)

// Config says what to start.
type Config struct {
	Engines             Engines
	Source, Destination string            // engines, "elasticsearch-7.10.2"
	Profile             frontdoor.Profile // of both front doors; Amazon when empty. An open one has no automated snapshots
	LambdaDir           string            // <function>/bootstrap for every function, as make build leaves them
	LogDir              string            // logs of every part
	Heap                string            // of a real node; "" is the launcher's default
	Faults              Faults
	Hooks               Hooks // Door and S3 take the place of Faults
	Addresses           Addresses
	TwoAccounts         bool      // the source and its bucket are another account's (accounts.go)
	Progress            io.Writer // what is being started, a line each
	// Data is a folder for what must outlive a kill of this process: the nodes' data, the buckets and with them the journal. What an
	// earlier process left there is used, under that one's Addresses; Close removes it. Empty is a temporary folder. The model keeps its
	// data in memory, so that it has none.
	Data string
}

// Addresses are where things listen, 127.0.0.1:port; empty means a free port.
type Addresses struct{ Source, Destination, StepFunctions string }

// Side is one domain.
type Side struct {
	Engine    string
	DomainARN string
	Door      *frontdoor.Door
	// Direct is the node's or model's own URL, without signatures; for checks only.
	Direct string
	Bucket string

	node   nodeProcess
	access migration.Access
}

// Environment is a running deployment.
type Environment struct {
	Source, Destination *Side
	Gateway             *s3gateway.Gateway
	Lambdas             *lambdaruntime.Host
	Engine              *asl.Engine
	StepFunctionsURL    string
	S3URL               string // what the Lambdas use: the gateway, behind a proxy that injects faults
	MigrationARN        string // state machine
	RoundARN            string // state machine
	ReplayARN           string // state machine
	Resumed             bool   // an earlier process was killed and its data are used

	hooks         Hooks
	api           atomic.Pointer[stepfunctions.Handler] // nil while nobody answers
	endExecutions func() error                          // nothing is told of their end

	stsURL string // "" with one account

	dir     string // data of nodes and gateway, removed by Close
	closers []func() error
	// background ends with Close: the rule that thaws, the automated snapshots of a fault.
	background context.Context
	stop       context.CancelFunc
	running    sync.WaitGroup
	log        io.Writer
}

// Start starts everything. On an error, or when ctx ends first, nothing is left running.
func Start(ctx context.Context, cfg Config) (env *Environment, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	e := &Environment{hooks: cfg.Hooks}
	if e.dir, e.Resumed, err = dataFolder(&cfg); err != nil {
		return nil, fmt.Errorf("make a folder for the data of nodes and gateway: %w", err)
	}
	dir := e.dir
	e.background, e.stop = context.WithCancel(context.Background())
	keep := e.Resumed // until it is known that the data can be used
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
		keep = false
	}()
	e.closers = append(e.closers, func() error {
		if keep {
			return nil
		}
		return os.RemoveAll(dir)
	})
	// The nodes' unprivileged user must be able to pass.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.LogDir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(cfg.LogDir, "environment.log"))
	if err != nil {
		return nil, err
	}
	e.log = log
	e.closers = append(e.closers, log.Close)
	if err := e.startGateway(ctx, cfg); err != nil {
		return nil, err
	}
	if err := e.startDomains(ctx, cfg); err != nil {
		return nil, err
	}
	// The functions ask Step Functions what became of an execution, and Step Functions runs the functions.
	listener, err := listen(cfg.Addresses.StepFunctions)
	if err != nil {
		return nil, err
	}
	e.StepFunctionsURL = "http://" + listener.Addr().String()
	if err := e.startLambdas(cfg); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	if err := e.startStepFunctions(listener); err != nil {
		return nil, err
	}
	if cfg.Data != "" {
		if err := e.remember(cfg); err != nil {
			return nil, err
		}
	}
	return e, e.endLeftovers(ctx)
}

func (cfg Config) check() error {
	if cfg.Engines != Nodes && cfg.Engines != Model {
		return fmt.Errorf("engines %q: must be %q or %q", cfg.Engines, Nodes, Model)
	}
	if cfg.Data != "" && cfg.Engines == Model {
		return errors.New("the model keeps its data in memory; nothing of it outlives the process")
	}
	if cfg.Data != "" && cfg.TwoAccounts {
		return errors.New("two accounts are made anew each time; their data do not outlive the process")
	}
	return nil
}

// Close stops everything in reverse order of the start and removes the data.
func (e *Environment) Close() error {
	e.stop()
	var errs []error
	for i := len(e.closers) - 1; i >= 0; i-- {
		errs = append(errs, e.closers[i]())
	}
	e.closers = nil
	e.running.Wait()
	return errors.Join(errs...)
}

func (e *Environment) startGateway(ctx context.Context, cfg Config) error {
	binary, err := s3gateway.Binary(ctx, cfg.Progress)
	if err != nil {
		return err
	}
	fmt.Fprintln(cfg.Progress, "starting the S3 gateway")
	if e.Gateway, err = s3gateway.Start(ctx, e.gatewayConfig(cfg, binary)); err != nil {
		return err
	}
	e.closers = append(e.closers, e.Gateway.Close)
	if err := e.makeBuckets(ctx, cfg); err != nil {
		return err
	}
	if cfg.TwoAccounts {
		if err := e.startSTS(); err != nil {
			return err
		}
	}
	proxy, err := s3gateway.NewProxy(e.Gateway.URL(), cfg.Faults.s3(cfg.Hooks.S3))
	if err != nil {
		return err
	}
	e.closers = append(e.closers, proxy.Close)
	e.S3URL = proxy.URL()
	return nil
}

// authorizer lets the front doors check signatures.
type authorizer struct{ sigv4.Verifier }

func (a authorizer) Authorize(r *http.Request, body []byte) (string, error) {
	return a.Verify(r, "es", body)
}

func verifier() sigv4.Verifier {
	return sigv4.Verifier{Region: Region, Credentials: map[string]sigv4.Credential{
		Caller.ID:   {Secret: Caller.Secret, ARN: callerRole},
		Operator.ID: {Secret: Operator.Secret, ARN: operatorUser},
	}}
}

// listen opens a loopback address; an empty one is a free port.
func listen(address string) (net.Listener, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	return net.Listen("tcp", address)
}

// serve runs an HTTP server until it is closed, and its listener with it.
func (e *Environment) serve(l net.Listener, handler http.Handler) *http.Server {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	e.running.Go(func() { _ = server.Serve(l) })
	return server
}

func (e *Environment) startStepFunctions(l net.Listener) error {
	if err := e.addMachines(); err != nil {
		return errors.Join(err, l.Close())
	}
	e.openStepFunctions()
	server := e.serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := e.api.Load()
		if h == nil {
			panic(http.ErrAbortHandler) // net/http cuts the connection, as a dead process does
		}
		h.ServeHTTP(w, r)
	}))
	e.closers = append(e.closers, server.Close)
	return nil
}

func (e *Environment) openStepFunctions() {
	v := verifier()
	e.api.Store(stepfunctions.New(e.Engine, func(r *http.Request, body []byte) error {
		_, err := v.Verify(r, "states", body)
		return err
	}))
}
