// Package s3gateway runs versitygw, a real S3 gateway over a folder (posix backend), as a child process, and puts faults in front of it.
//
// A bucket is a folder below the root; an object is a file in it, so that a search node's fs repository inside a bucket's folder is
// a prefix of that bucket. Known differences to S3 (measured with v1.8.0): objects that were written behind the gateway's back have
// an empty ETag in lists and "None" in HEAD, and If-None-Match on CopyObject, and on PutObject over such an object, is ignored.
package s3gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/domainferry/domainferry/internal/local/process"
)

// Config says how to run the gateway. Binary is the path of versitygw (see the Binary function). Root holds the buckets; it is made
// when missing, and every folder above it must be passable for the nodes' user. Sidecar holds the objects' metadata and must not be
// inside Root. Region defaults to us-east-1; the gateway refuses signatures of any other. Access and Secret are the only credentials,
// and no policy holds for them, unless there is a folder IAM, in which the gateway keeps further accounts (CreateAccount).
type Config struct {
	Binary  string
	Root    string
	Sidecar string
	LogFile string // appended to
	Region  string
	Access  string
	Secret  string
	IAM     string
}

// startLimit is how long the gateway may take to answer; it takes well below a second.
const startLimit = 30 * time.Second

// Gateway is a running gateway. Its methods may be called from several goroutines.
type Gateway struct {
	config  Config
	address string

	mu      sync.Mutex // held while starting and stopping
	closed  bool
	process *process.Process
}

// Start runs the gateway on a free port of 127.0.0.1 and waits until it answers.
func Start(ctx context.Context, config Config) (*Gateway, error) {
	if config.Access == "" || config.Secret == "" {
		return nil, errors.New("start the S3 gateway: access key and secret are wanted")
	}
	config.Region = cmp.Or(config.Region, "us-east-1")
	for _, dir := range []*string{&config.Root, &config.Sidecar} {
		absolute, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fmt.Errorf("start the S3 gateway: %w", err)
		}
		if err := os.MkdirAll(absolute, 0o755); err != nil {
			return nil, fmt.Errorf("start the S3 gateway: %w", err)
		}
		*dir = absolute
	}
	if config.IAM != "" {
		if err := os.MkdirAll(config.IAM, 0o700); err != nil {
			return nil, fmt.Errorf("start the S3 gateway: %w", err)
		}
	}
	if inside, err := filepath.Rel(config.Root, config.Sidecar); err == nil && filepath.IsLocal(inside) {
		return nil, fmt.Errorf("start the S3 gateway: sidecar folder %s is inside the root %s, where it would be a bucket", config.Sidecar, config.Root)
	}
	const attempts = 5 // another program may take the port between the look and the start
	var errs []error
	for range attempts {
		address, err := freeAddress()
		if err != nil {
			return nil, fmt.Errorf("start the S3 gateway: %w", err)
		}
		g := &Gateway{config: config, address: address}
		if err = g.launch(ctx); err == nil {
			return g, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || !errors.Is(err, errExited) {
			break
		}
	}
	return nil, fmt.Errorf("start the S3 gateway: %w", errors.Join(errs...))
}

var errExited = errors.New("it exited")

// launch starts the process on g.address and waits until it answers. The caller holds g.mu or is the only user.
func (g *Gateway) launch(ctx context.Context) error {
	log, err := os.OpenFile(g.config.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open its log: %w", err)
	}
	defer log.Close()
	// umask: the gateway asks for the modes below, which the creator's umask would narrow. Folders and files must be open to all
	// because the nodes run as another user when this program runs as root, and write repositories beside the gateway's objects.
	arguments := []string{"-c", `umask 0 && exec "$0" "$@"`, g.config.Binary,
		"--port", g.address, "--region", g.config.Region, "--health", healthPath, "--keep-alive", "--quiet"}
	if g.config.IAM != "" {
		arguments = append(arguments, "--iam-dir", g.config.IAM)
	}
	arguments = append(arguments, "posix", "--dir-perms", "0777", "--file-perms", "0666", "--sidecar", g.config.Sidecar, g.config.Root)
	cmd := exec.Command("/bin/sh", arguments...)
	// By environment, so that the list of processes does not show the secret.
	// Nothing else, because VGW_* variables of this program's environment would change what it does.
	cmd.Env = []string{"PATH=/usr/bin:/bin", "ROOT_ACCESS_KEY_ID=" + g.config.Access, "ROOT_SECRET_ACCESS_KEY=" + g.config.Secret}
	cmd.Stdout, cmd.Stderr = log, log
	p, err := process.Start(cmd)
	if err != nil {
		return err
	}
	g.process = p
	if err := g.awaitAnswer(ctx); err != nil {
		return fmt.Errorf("%w; its log is %s", errors.Join(err, g.kill()), g.config.LogFile)
	}
	return nil
}

// healthPath cannot be a bucket: underscores are not allowed in bucket names.
const healthPath = "/_health"

func (g *Gateway) awaitAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("no answer from %s in %s", g.address, startLimit))
	defer cancel()
	const pause = 10 * time.Millisecond
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.URL()+healthPath, nil)
		if err != nil {
			return err
		}
		response, err := probe.Do(request)
		if err == nil {
			response.Body.Close()
		}
		select {
		case <-g.process.Exited():
			return fmt.Errorf("%w with %s", errExited, g.process.Ending())
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
			if err == nil && response.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(pause)
	}
}

// probe keeps no connections: a restarted gateway must be asked anew.
var probe = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}

// URL returns the endpoint, http://127.0.0.1:port.
func (g *Gateway) URL() string { return "http://" + g.address }

// Pid returns the id of the gateway's process, which is its process group's id too; 0 after Close.
func (g *Gateway) Pid() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return 0
	}
	return g.process.Pid()
}

// Restart kills the gateway with SIGKILL and starts it again on the same port over the same folders. Requests under way are cut.
// It serves too when the process has been killed from outside.
func (g *Gateway) Restart(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errors.New("restart the S3 gateway: it is closed")
	}
	if err := g.kill(); err != nil {
		return fmt.Errorf("restart the S3 gateway: %w", err)
	}
	if err := g.launch(ctx); err != nil {
		return fmt.Errorf("restart the S3 gateway on %s: %w", g.address, err)
	}
	return nil
}

// Close kills the gateway and waits until it is gone. Its folders stay.
func (g *Gateway) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	return g.kill()
}

// killLimit is how long the kernel may take to end a killed process.
const killLimit = 10 * time.Second

func (g *Gateway) kill() error {
	ended, err := g.process.End(syscall.SIGKILL, killLimit)
	if err == nil && !ended {
		err = fmt.Errorf("process %d has not ended %s after SIGKILL", g.process.Pid(), killLimit)
	}
	return err
}

// Client returns an S3 client (path style, the gateway's credentials) for endpoint: the gateway's URL, or that of a Proxy before it.
func (g *Gateway) Client(endpoint string) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(endpoint),
		UsePathStyle: true,
		Region:       g.config.Region,
		Credentials:  credentials.NewStaticCredentialsProvider(g.config.Access, g.config.Secret, ""),
	})
}

// CreateAccount makes an account that owns the buckets it creates and for which bucket policies hold. Its name, the access key, is the principal in
// them. Unlike at S3, the owner of a bucket with a policy may do no more than that allows, too. It needs Config.IAM.
func (g *Gateway) CreateAccount(ctx context.Context, access, secret string) error {
	cmd := exec.CommandContext(ctx, g.config.Binary, "admin", "--region", g.config.Region, "--endpoint-url", g.URL(),
		"create-user", "--access", access, "--secret", secret, "--role", "userplus")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "ADMIN_ACCESS_KEY_ID=" + g.config.Access, "ADMIN_SECRET_ACCESS_KEY=" + g.config.Secret}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("create account %s at the S3 gateway: %w: %s", access, err, strings.TrimSpace(string(text)))
	}
	return nil
}

// As returns an S3 client (path style) of an account.
func (g *Gateway) As(access, secret string) *s3.Client {
	options := g.Client(g.URL()).Options()
	options.Credentials = credentials.NewStaticCredentialsProvider(access, secret, "")
	return s3.New(options)
}

// CreateBucket makes a bucket whose folder every user of this machine may write to. It may exist already.
func (g *Gateway) CreateBucket(ctx context.Context, name string) error {
	_, err := g.Client(g.URL()).CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name})
	if _, exists := errors.AsType[*types.BucketAlreadyOwnedByYou](err); err != nil && !exists {
		return fmt.Errorf("create bucket %s at the S3 gateway: %w", name, err)
	}
	return g.OpenBucket(name)
}

// OpenBucket lets every user of this machine write to a bucket's folder.
func (g *Gateway) OpenBucket(name string) error {
	if err := os.Chmod(g.BucketPath(name), 0o777); err != nil {
		return fmt.Errorf("open the folder of bucket %s to all users: %w", name, err)
	}
	return nil
}

// BucketPath returns the folder of a bucket.
func (g *Gateway) BucketPath(bucket string) string { return filepath.Join(g.config.Root, bucket) }

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), listener.Close()
}
