package downtime

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/process"
	"github.com/domainferry/domainferry/internal/local/workload"
)

// repository is the body that registers a place in S3; rate "" leaves the engine's throttles as they are.
func repository(bucket, basePath string, readonly bool, rate string) map[string]any {
	settings := map[string]any{"bucket": bucket, "base_path": basePath, "region": environment.Region, "role_arn": environment.SnapshotRoleARN}
	if readonly {
		settings["readonly"] = "true"
	}
	if rate != "" {
		settings["max_snapshot_bytes_per_sec"], settings["max_restore_bytes_per_sec"] = rate, rate
	}
	return map[string]any{"type": "s3", "settings": settings}
}

// byHandFrom is the procedure that people follow by hand, done without a pause between its steps. The base snapshot is at the
// destination's bucket already; of the destination nothing is prepared but that the index's name is free.
func (b *bench) byHandFrom(ctx context.Context, run *Run, writer *workload.Writer) error {
	const final = "final"
	index, rate := b.filled.index, ""
	if run.Throttle == Raised {
		rate = raised
	}
	steps := phases{run: run}
	return steps.do(ctx, []phase{
		{"block", func(ctx context.Context) error { return b.source.block(ctx, index, true) }},
		{"snapshot", func(ctx context.Context) error { return b.source.snapshot(ctx, byHand, final, index) }},
		{"copy", b.sync},
		{"register", func(ctx context.Context) error {
			return b.destination.call(ctx, http.MethodPut, "/_snapshot/"+byHand, repository(b.env.Destination.Bucket, byHand, true, rate), nil)
		}},
		{"restore", func(ctx context.Context) error { return b.destination.restore(ctx, byHand, final, index) }},
		{"counts", func(ctx context.Context) error { return b.compareCounts(ctx) }},
		{"open", func(ctx context.Context) error {
			if err := b.destination.block(ctx, index, false); err != nil {
				return err
			}
			writer.SwitchTo(b.destination.Client)
			return nil
		}},
	})
}

// prepareByHand is what a careful operator has done before the window: the repository with the wanted rate.
func (b *bench) prepareByHand(ctx context.Context, run *Run) error {
	rate := ""
	if run.Throttle == Raised {
		rate = raised
	}
	return b.registerByHand(ctx, rate)
}

// cleanUpByHand leaves the base snapshot alone at the source.
func (b *bench) cleanUpByHand(ctx context.Context) error {
	if err := b.destination.deleteIndex(ctx, b.filled.index); err != nil {
		return err
	}
	if err := b.destination.deleteRepository(ctx, byHand); err != nil {
		return err
	}
	return b.source.deleteSnapshot(ctx, byHand, "final")
}

func (b *bench) compareCounts(ctx context.Context) error {
	var counts [2]int64
	for i, d := range []domain{b.source, b.destination} {
		if err := d.refresh(ctx, b.filled.index); err != nil {
			return err
		}
		var err error
		if counts[i], err = d.count(ctx, b.filled.index); err != nil {
			return err
		}
	}
	if counts[0] != counts[1] {
		return fmt.Errorf("index %s has %d documents at the source and %d at the destination", b.filled.index, counts[0], counts[1])
	}
	return nil
}

// sync runs the AWS CLI as people do.
func (b *bench) sync(ctx context.Context) error {
	cmd := exec.Command(b.aws, "s3", "sync", "--size-only", "--only-show-errors",
		"s3://"+b.env.Source.Bucket+"/"+byHand, "s3://"+b.env.Destination.Bucket+"/"+byHand, "--endpoint-url", b.env.Gateway.URL(), "--region", environment.Region)
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "AWS_") { // a profile or session of who runs the bench
			cmd.Env = append(cmd.Env, entry)
		}
	}
	nowhere := filepath.Join(b.cfg.Out, "no-such-folder")
	cmd.Env = append(cmd.Env, "AWS_ACCESS_KEY_ID="+environment.Caller.ID, "AWS_SECRET_ACCESS_KEY="+environment.Caller.Secret, "AWS_PAGER=",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE="+filepath.Join(nowhere, "config"), "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(nowhere, "credentials"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	p, err := process.Start(cmd)
	if err != nil {
		return fmt.Errorf("start aws s3 sync: %w", err)
	}
	select {
	case <-p.Exited():
	case <-ctx.Done():
		_, err := p.End(syscall.SIGKILL, 10*time.Second)
		return fmt.Errorf("aws s3 sync was ended: %w", joinCause(ctx, err))
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("aws s3 sync: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}
