package s3gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// BinaryVariable names an environment variable with the path of a built versitygw. When it is set, nothing is built; which version
// it is stays the user's affair.
const BinaryVariable = "DOMAIN_FERRY_VERSITYGW"

const (
	modulePath = "github.com/domainferry/domainferry"
	modFile    = "tools/versitygw/go.mod"
	command    = "github.com/versity/versitygw/cmd/versitygw"
)

var pinned = regexp.MustCompile(`(?m)^\s*(?:require\s+)?github\.com/versity/versitygw\s+(v\S+)`)

// Binary returns the path of versitygw in the version that tools/versitygw/go.mod pins. The first call on a machine builds it with
// the go command (about two minutes on two cores, once the modules are downloaded) into the user's cache folder under
// domain-ferry/versitygw/<version>-<os>-<architecture>, and says so on progress. Builders that run at the same time wait for each
// other; a build that was interrupted leaves nothing that looks finished.
//
// The working directory must be inside the repository, where the pin is read, unless BinaryVariable is set.
func Binary(ctx context.Context, progress io.Writer) (string, error) {
	if path := os.Getenv(BinaryVariable); path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("the S3 gateway that %s names: %w", BinaryVariable, err)
		}
		return filepath.Abs(path)
	}
	root, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(root, modFile))
	if err != nil {
		return "", fmt.Errorf("find the S3 gateway's version: %w", err)
	}
	match := pinned.FindSubmatch(text)
	if match == nil {
		return "", fmt.Errorf("find the S3 gateway's version: %s does not require github.com/versity/versitygw", modFile)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder for the S3 gateway: %w (or set %s to a built versitygw)", err, BinaryVariable)
	}
	version := string(match[1])
	dir := filepath.Join(cache, "domain-ferry", "versitygw", version+"-"+runtime.GOOS+"-"+runtime.GOARCH)
	b := builder{version: version, target: filepath.Join(dir, "versitygw"), progress: progress, compile: func(ctx context.Context, output string) error {
		return goBuild(ctx, root, output)
	}}
	if err := b.ensure(ctx); err != nil {
		return "", fmt.Errorf("build the S3 gateway versitygw %s: %w", version, err)
	}
	return b.target, nil
}

type builder struct {
	version  string
	target   string
	progress io.Writer
	compile  func(ctx context.Context, output string) error
}

func (b builder) ensure(ctx context.Context) error {
	if b.done() {
		return nil
	}
	dir := filepath.Dir(b.target)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := b.lock(ctx, filepath.Join(dir, "build.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if b.done() {
		return nil // another builder was first
	}
	fmt.Fprintf(b.progress, "Building the S3 gateway versitygw %s, once for this machine; about two minutes on two cores, "+
		"longer with downloads. It goes to %s.\n", b.version, b.target)
	began := time.Now()
	unfinished := b.target + ".unfinished" // under the lock nobody else writes it
	defer os.Remove(unfinished)
	if err := b.compile(ctx, unfinished); err != nil {
		return err
	}
	if err := os.Rename(unfinished, b.target); err != nil {
		return err
	}
	fmt.Fprintf(b.progress, "Built the S3 gateway in %s.\n", time.Since(began).Round(time.Second))
	return nil
}

func (b builder) done() bool {
	info, err := os.Stat(b.target)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o100 != 0
}

// lock takes an advisory lock, which the system releases when its holder dies.
func (b builder) lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	const pause = 200 * time.Millisecond
	for waiting := false; ; {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		if !waiting {
			fmt.Fprintf(b.progress, "Another process builds the S3 gateway; waiting for it.\n")
			waiting = true
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the builder that holds %s: %w", path, context.Cause(ctx)), file.Close())
		case <-time.After(pause):
		}
	}
}

func goBuild(ctx context.Context, root, output string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-modfile", modFile, "-trimpath", "-ldflags", "-s -w", "-o", output, command)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the compilers too
	cmd.WaitDelay = 10 * time.Second
	text, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		const shown = 2000
		if len(text) > shown {
			text = text[len(text)-shown:]
		}
		return fmt.Errorf("go build: %w: %s", err, cmp.Or(strings.TrimSpace(string(text)), "no output"))
	}
	return nil
}

// repositoryRoot walks up from the working directory to Domain Ferry's own go.mod.
func repositoryRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if first, _, _ := strings.Cut(string(text), "\n"); err == nil && strings.TrimSpace(first) == "module "+modulePath {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside the Domain Ferry repository, which pins the S3 gateway; go there, or set %s to a built versitygw",
				start, BinaryVariable)
		}
	}
}
