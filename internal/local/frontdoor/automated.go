package frontdoor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// AutomatedSnapshot is an automated snapshot that has been begun.
type AutomatedSnapshot struct {
	Name string
	done chan struct{}
	err  error
}

// Wait returns when the snapshot has ended: nil for SUCCESS, an error for any other end.
func (s *AutomatedSnapshot) Wait(ctx context.Context) error {
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// takeAutomatedSnapshots runs until the door closes.
func (d *Door) takeAutomatedSnapshots() {
	tick := time.NewTicker(d.cfg.AutomatedEvery)
	defer tick.Stop()
	for {
		select {
		case <-d.life.Done():
			return
		case <-tick.C:
		}
		name, err := d.TakeAutomatedSnapshot(d.life)
		event := "automated snapshot " + name
		if err != nil {
			event = "automated snapshot failed: " + err.Error()
		}
		if d.life.Err() == nil {
			d.record(logEntry{Time: time.Now().UTC(), Event: event})
		}
	}
}

// TakeAutomatedSnapshot takes a snapshot of all indices into cs-automated, as the service does every hour, waits for its end and
// returns its name. Old ones are never deleted (the service keeps 336).
func (d *Door) TakeAutomatedSnapshot(ctx context.Context) (string, error) {
	s, err := d.StartAutomatedSnapshot(ctx, "")
	if err != nil {
		return "", err
	}
	return s.Name, s.Wait(ctx)
}

// StartAutomatedSnapshot begins an automated snapshot and returns once it is in progress at the cluster. bytesPerSec, such as "1mb",
// slows it down so that others see it in progress; empty means the engine's own pace. Only one can be in progress. In profile Amazon
// the caller's own snapshots are refused until it ends.
func (d *Door) StartAutomatedSnapshot(ctx context.Context, bytesPerSec string) (*AutomatedSnapshot, error) {
	if d.cfg.AutomatedRoot == "" {
		return nil, errors.New("automated snapshot: the front door has no AutomatedRoot to keep it in")
	}
	now := time.Now().UTC()
	s := &AutomatedSnapshot{
		Name: strings.ToLower(now.Format("2006-01-02T15-04-05")) + fmt.Sprintf(".%09d", now.Nanosecond()),
		done: make(chan struct{}),
	}
	d.mu.Lock()
	if d.automated != nil {
		d.mu.Unlock()
		return nil, fmt.Errorf("automated snapshot: %s is in progress", d.automated.Name)
	}
	d.automated = s // before the call, so that no snapshot of a caller slips in between
	d.mu.Unlock()
	err := d.registerAutomated(ctx, bytesPerSec)
	if err == nil {
		err = d.ask(ctx, http.MethodPut, "/_snapshot/"+automatedRepository+"/"+s.Name, map[string]any{"indices": "*"}, nil)
	}
	if err != nil {
		d.endAutomated(s, err)
		return nil, fmt.Errorf("automated snapshot: %w", err)
	}
	d.calls.Go(func() { d.endAutomated(s, d.awaitAutomated(s.Name)) })
	return s, nil
}

func (d *Door) endAutomated(s *AutomatedSnapshot, err error) {
	s.err = err
	d.mu.Lock()
	d.automated = nil
	d.mu.Unlock()
	close(s.done)
}

func (d *Door) awaitAutomated(name string) error {
	misses := 0
	for {
		var list struct {
			Snapshots []struct {
				State string `json:"state"`
			} `json:"snapshots"`
		}
		err := d.ask(d.life, http.MethodGet, "/_snapshot/"+automatedRepository+"/"+name, nil, &list)
		switch {
		case d.life.Err() != nil:
			return fmt.Errorf("automated snapshot %s: the front door was closed", name)
		case isStatus(err, http.StatusNotFound):
			return fmt.Errorf("automated snapshot %s is gone: the cluster died over it, or somebody deleted it", name)
		case err != nil:
			// The cluster may be restarting.
			if misses++; misses > 300 {
				return fmt.Errorf("automated snapshot %s: %w", name, err)
			}
		case len(list.Snapshots) == 1 && list.Snapshots[0].State == "SUCCESS":
			return nil
		case len(list.Snapshots) != 1 || list.Snapshots[0].State != "IN_PROGRESS":
			return fmt.Errorf("automated snapshot %s ended as %+v", name, list.Snapshots)
		default:
			misses = 0
		}
		_ = sleep(d.life, 100*time.Millisecond)
	}
}

// registerAutomated registers cs-automated at the cluster.
func (d *Door) registerAutomated(ctx context.Context, bytesPerSec string) error {
	settings := map[string]any{"location": filepath.Join(d.cfg.AutomatedRoot, automatedRepository)}
	if bytesPerSec != "" {
		settings["max_snapshot_bytes_per_sec"] = bytesPerSec
	}
	return d.ask(ctx, http.MethodPut, "/_snapshot/"+automatedRepository, repository{"fs", settings}, nil)
}

// statusError is an answer other than success to a call of the door's own.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && e.status == status
}

// ask is a call of the door's own, straight to the cluster.
func (d *Door) ask(ctx context.Context, method, path string, body, into any) error {
	var content io.Reader = http.NoBody
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, d.cfg.Upstream+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if d.cfg.Security {
		req.Header.Set("X-Proxy-User", "arn:aws:iam::000000000000:role/service")
		req.Header.Set("X-Proxy-Roles", "arn:aws:iam::000000000000:role/service")
		req.Header.Set("X-Forwarded-For", "127.0.0.1")
	}
	a := d.do(req)
	if a.status/100 != 2 {
		return &statusError{a.status, fmt.Sprintf("%s %s%s: HTTP %d: %.500s", method, d.cfg.Upstream, path, a.status, a.body)}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(a.body, into)
}

// refuseWhileAutomated keeps Amazon's rule "You can't take a snapshot if one is currently in progress" (developer guide, manual
// snapshots) for the automated ones. The engines themselves have taken several at once since Elasticsearch 7.9.
func (d *Door) refuseWhileAutomated(r Request) *answer {
	if len(r.segments) != 3 || r.segments[0] != "_snapshot" || strings.HasPrefix(r.segments[2], "_") ||
		(r.Method != http.MethodPut && r.Method != http.MethodPost) {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.automated == nil {
		return nil
	}
	return engineError(http.StatusServiceUnavailable, cause{"concurrent_snapshot_execution_exception",
		fmt.Sprintf("[%s:%s] cannot snapshot while a snapshot is already running", r.segments[1], r.segments[2])})
}
