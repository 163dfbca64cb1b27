package copybench

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/domainferry/domainferry/internal/s3copy"
)

// tool is one way to copy.
type tool struct {
	name    string
	version string
	command func(source, destination, prefix string) []string
	whole   bool // expected to bring everything of a delta; size-only synchronisation does not
}

// ours is the name of Domain Ferry's engine.
const ours = "domain-ferry"

// found are the tools of this machine, and why the others are missing.
func (b *bench) found(ctx context.Context) (tools []tool, skipped map[string]string, err error) {
	skipped = map[string]string{}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	add := func(t tool, err error) {
		switch {
		case len(b.config.Tools) > 0 && !slices.ContainsFunc(b.config.Tools, func(n string) bool { return strings.TrimSpace(n) == t.name }):
		case err != nil:
			skipped[t.name] = err.Error()
		default:
			tools = append(tools, t)
		}
	}
	add(tool{name: ours, version: "this tree", whole: true, command: func(from, to, prefix string) []string {
		return []string{self, "-engine", from, to, prefix, filepath.Join(b.data, "state-"+to+".json")}
	}}, nil)

	python, err := b.python(ctx)
	version, awsErr := output(ctx, filepath.Join(filepath.Dir(python), "aws"), "--version")
	aws := filepath.Join(filepath.Dir(python), "aws")
	if awsErr != nil {
		aws = "aws"
		version, awsErr = output(ctx, aws, "--version")
	}
	version, _, _ = strings.Cut(version, " ")
	for _, sizeOnly := range []bool{false, true} {
		t := tool{name: "aws s3 sync", version: version, whole: !sizeOnly, command: func(from, to, prefix string) []string {
			args := []string{aws, "s3", "sync", "s3://" + from + "/" + prefix, "s3://" + to + "/" + prefix, "--only-show-errors"}
			if sizeOnly {
				args = append(args, "--size-only")
			}
			return args
		}}
		if sizeOnly {
			t.name += " --size-only"
		}
		add(t, awsErr)
	}
	boto := ""
	if err == nil {
		boto, err = output(ctx, python, "-c", "import boto3; print('boto3', boto3.__version__)")
	}
	script := filepath.Join(b.config.Dir, "boto_copy.py")
	if err == nil {
		err = os.WriteFile(script, botoScript, 0o644)
	}
	add(tool{name: "boto3, 64 threads", version: boto, whole: true, command: func(from, to, prefix string) []string {
		return []string{python, script, from, to, prefix}
	}}, err)

	s5cmd, err := b.s5cmd(ctx)
	if err == nil {
		version, err = output(ctx, s5cmd, "version")
	}
	add(tool{name: "s5cmd sync", version: "v2.3.0 " + version, whole: true, command: func(from, to, prefix string) []string {
		return []string{s5cmd, "--endpoint-url", b.endpoint, "sync", "s3://" + from + "/" + prefix + "*", "s3://" + to + "/" + prefix}
	}}, err)

	rclone, err := exec.LookPath("rclone")
	if err == nil {
		version, err = output(ctx, rclone, "version")
	} else {
		err = errors.New("rclone is not on this machine, and building it with its seventy backends takes longer than this measurement")
	}
	version, _, _ = strings.Cut(version, "\n")
	add(tool{name: "rclone sync", version: version, whole: true, command: func(from, to, prefix string) []string {
		return []string{rclone, "sync", "gateway:" + from + "/" + prefix, "gateway:" + to + "/" + prefix, "--transfers", "64", "--checkers", "64", "--fast-list"}
	}}, err)
	return tools, skipped, nil
}

//go:embed boto_copy.py
var botoScript []byte

func output(ctx context.Context, name string, args ...string) (string, error) {
	text, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %.300s", name, strings.Join(args, " "), err, bytes.TrimSpace(text))
	}
	return strings.TrimSpace(string(text)), nil
}

// python returns an interpreter with boto3: that of the path when it has it, or else that of an environment made for this purpose.
func (b *bench) python(ctx context.Context) (string, error) {
	if path, err := exec.LookPath("python3"); err == nil {
		if _, err := output(ctx, path, "-c", "import boto3"); err == nil {
			return path, nil
		}
	}
	dir, err := filepath.Abs(filepath.Join(b.config.Dir, "venv"))
	if err != nil {
		return "", err
	}
	python := filepath.Join(dir, "bin", "python3")
	if _, err := output(ctx, python, "-c", "import boto3"); err == nil {
		return python, nil
	}
	fmt.Fprintln(b.progress, "Installing boto3 and the AWS CLI of tools/python/requirements.txt into", dir)
	if _, err := output(ctx, "python3", "-m", "venv", dir); err != nil {
		return python, err
	}
	_, err = output(ctx, python, "-m", "pip", "install", "--quiet", "-r", "tools/python/requirements.txt")
	return python, err
}

// s5cmd builds the version that tools/s5cmd/go.mod pins, once.
func (b *bench) s5cmd(ctx context.Context) (string, error) {
	path, err := filepath.Abs(filepath.Join(b.config.Dir, "s5cmd-v2.3.0"))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintln(b.progress, "Building s5cmd v2.3.0, once")
	_, err = output(ctx, "go", "build", "-modfile", "tools/s5cmd/go.mod", "-trimpath", "-o", path, "github.com/peak/s5cmd/v2")
	return path, err
}

// Run is one run of a tool.
type Run struct {
	Seconds  float64        `json:"seconds"`
	CPU      float64        `json:"cpuSeconds"` // of the tool, not of the gateway
	PeakMB   float64        `json:"peakMB"`
	Requests map[string]int `json:"requests"`
	Total    int            `json:"totalRequests"`
	Missing  int            `json:"missing"` // objects that the destination lacks afterwards, or has in another size
}

// run runs a tool once and counts.
func (b *bench) run(ctx context.Context, t tool, bucket string) (Run, error) {
	before := b.proxy.Counts()
	args := t.command(sourceBucket, bucket, prefix)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	// Nobody's own account or endpoint may get into it.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "RCLONE_") }),
		"AWS_ACCESS_KEY_ID="+access, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1",
		"AWS_ENDPOINT_URL_S3="+b.endpoint, "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"RCLONE_CONFIG=/dev/null", "RCLONE_CONFIG_GATEWAY_TYPE=s3", "RCLONE_CONFIG_GATEWAY_PROVIDER=Other", "RCLONE_CONFIG_GATEWAY_ENV_AUTH=true",
		"RCLONE_CONFIG_GATEWAY_REGION=us-east-1", "RCLONE_CONFIG_GATEWAY_ENDPOINT="+b.endpoint)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &text
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	began := time.Now()
	err := cmd.Run()
	r := Run{Seconds: time.Since(began).Seconds(), Requests: map[string]int{}}
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	if err != nil {
		return r, fmt.Errorf("%s: %w: %.1000s", t.name, err, bytes.TrimSpace(text.Bytes()))
	}
	r.CPU = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.PeakMB = float64(usage.Maxrss) / 1024 // Linux counts in KiB
	}
	for kind, n := range b.proxy.Counts() {
		if n -= before[kind]; n > 0 {
			r.Requests[string(kind)] = n
			r.Total += n
		}
	}
	r.Missing, err = missing(filepath.Join(b.gateway.BucketPath(sourceBucket), prefix), filepath.Join(b.gateway.BucketPath(bucket), prefix))
	return r, err
}

// Engine is what a measured process of Domain Ferry does: plan, copy the ranges side by side, publish. The state between rounds is in
// the file state, where a deployment has its journal.
func Engine(ctx context.Context, from, to, prefix, state string) error {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	const ranges = 4
	c := &s3copy.Copier{Source: client, Destination: client, Concurrency: 128 / ranges}
	source := s3copy.Location{Bucket: from, Prefix: strings.TrimSuffix(prefix, "/")}
	destination := s3copy.Location{Bucket: to, Prefix: source.Prefix}
	want := s3copy.Want{SnapshotName: snapshotName}
	if content, err := os.ReadFile(state); err == nil {
		want.Shape = &s3copy.Shape{}
		if err := json.Unmarshal(content, want.Shape); err != nil {
			return err
		}
	}
	plan, err := c.Plan(ctx, source, destination, want, ranges)
	if err != nil {
		return err
	}
	errs := make([]error, len(plan.Ranges))
	var copying sync.WaitGroup
	for i, r := range plan.Ranges {
		copying.Go(func() { _, errs[i] = c.CopyRange(ctx, source, destination, r, time.Time{}) })
	}
	copying.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	result, err := c.Publish(ctx, source, destination, plan.Root, want)
	if err != nil {
		return err
	}
	if !result.Published {
		return fmt.Errorf("not published: %s", result.Reason)
	}
	content, err := json.Marshal(result.Shape)
	if err != nil {
		return err
	}
	return os.WriteFile(state, content, 0o644)
}
