package faultmatrix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/workload"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
)

const (
	// patience is how long the source may refuse writes after a failure, and how long what was changed may stay.
	patience = time.Minute
	// longest is how long an execution may take; without a fault it takes some seconds.
	longest = 5 * time.Minute
	// enough writes at the destination show that it takes them.
	enough = 10

	filled = 200 << 10 // bytes: some hundred documents
	rate   = 150       // operations a second: enough for the last pass to have something to bring
)

var indices = []string{"events", "products", "countries"}

// trial is one migration with one fault in an environment that is clean.
type trial struct {
	env      *environment.Environment
	injector *injector
	shot     *shot
	name     string // of the migration
	seed     uint64

	watch               *clients
	writer              *workload.MixedWriter
	mixed               *workload.Mixed
	source, destination settings // before
	switched            bool
}

// result is what a trial found.
type result struct {
	fired      bool
	ended      []string // how each execution ended
	handedOver bool     // by the first
	writable   float64  // seconds from the fault to the moment when all indices took writes; 0 when none had refused any
	problems   []string
}

func (r *result) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

// run carries the trial out. An error is one of the trial itself; what is wrong with the product is in the result.
func (t *trial) run(ctx context.Context) (r result, err error) {
	if err := t.prepare(ctx); err != nil {
		return r, fmt.Errorf("prepare: %w", err)
	}
	defer t.writer.Stop()
	first := t.begin(t.shot.scenario.input)
	if first.err != nil {
		return r, first.err
	}
	how, err := t.end(ctx, &r, first.x)
	first.cancel()
	failed := t.shot.firedAt()
	r.fired, r.ended = !failed.IsZero(), append(r.ended, how)
	if err != nil || len(r.problems) > 0 {
		return r, errors.Join(err, t.shot.over())
	}
	if !r.fired {
		failed = time.Now()
	}
	if err := t.shot.over(); err != nil {
		return r, err
	}
	if r.handedOver, err = t.settle(ctx, &r, failed); err != nil || len(r.problems) > 0 || !r.fired && t.shot.fault != none {
		return r, err
	}
	t.injector.shot.Store(nil)
	if !r.handedOver {
		if err := t.differences(ctx, &r, false); err != nil || len(r.problems) > 0 {
			return r, err
		}
		if err := t.again(ctx, &r); err != nil || len(r.problems) > 0 {
			return r, err
		}
	}
	return r, t.last(ctx, &r)
}

// end waits until the execution has ended, or is lost, and says how. It does not wait when clients are refused for too long.
func (t *trial) end(ctx context.Context, r *result, x *asl.Execution) (string, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(longest); ; {
		select {
		case <-x.Done():
			return describe(x), nil
		case <-t.shot.lost:
			return "LOST with the process that held it", nil
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			r.problem("the execution still runs after %s", longest)
			return describe(x), nil
		}
		if fired := t.shot.firedAt(); !fired.IsZero() && time.Since(fired) > patience {
			if ok, _ := t.watch.writable(); !ok {
				r.problem("%s after the fault the execution runs and writes are refused", patience)
				return describe(x), nil
			}
		}
	}
}

// prepare fills the source, lets clients write, and looks at how everything is.
func (t *trial) prepare(ctx context.Context) (err error) {
	source := t.env.Source.Client(environment.Operator)
	if t.mixed, err = workload.FillMixed(ctx, source, workload.MixedOptions{Seed: t.seed, TotalBytes: filled, Only: indices}); err != nil {
		return err
	}
	if t.source, err = look(ctx, t.env.Source, true); err != nil {
		return err
	}
	if t.destination, err = look(ctx, t.env.Destination, false); err != nil {
		return err
	}
	t.watch = &clients{refused: map[string]time.Time{}, accepted: map[string]time.Time{}}
	source.Transport = watched{t.watch, source.Transport}
	t.writer = workload.StartMixedWriter(ctx, source, t.mixed, workload.MixedWriterOptions{Rate: rate, Parallel: 2})
	return nil
}

type begun struct {
	x      *asl.Execution
	cancel func()
	err    error
}

// begin starts an execution.
func (t *trial) begin(more map[string]any) begun {
	document := t.env.Input(t.name, "10m")
	for _, side := range []string{"source", "destination"} {
		e, _ := document[side].(migration.Endpoint)
		e.Repository.BasePath = t.name
		document[side] = e
	}
	for k, v := range more {
		document[k] = v
	}
	input, err := json.Marshal(document)
	if err != nil {
		return begun{err: err}
	}
	cancel := func() {}
	if s := t.shot; s != nil && s.execution == nil {
		s.mu.Lock() // no state is entered before the execution is known
		defer s.mu.Unlock()
		cancel = t.env.Engine.Observe(asl.Observer{StateEntered: s.entering})
		t.injector.shot.Store(s)
	}
	x, err := t.env.Engine.Start(t.env.MigrationARN, "", string(input))
	if err != nil {
		cancel()
		return begun{err: fmt.Errorf("start the execution: %w", err)}
	}
	if t.shot.execution == nil {
		t.shot.execution = x
	}
	return begun{x: x, cancel: cancel}
}

func describe(x *asl.Execution) string {
	d := x.Describe()
	if d.Error == "" {
		return string(d.Status)
	}
	return fmt.Sprintf("%s %s: %.400s", d.Status, d.Error, d.Cause)
}

// settle waits until writes are taken, at the one side or the other, and nothing is left of the execution.
func (t *trial) settle(ctx context.Context, r *result, failed time.Time) (handedOver bool, err error) {
	deadline := time.Now().Add(patience)
	for {
		f, found, problems, err := ended(ctx, t.env, t.name)
		if err != nil {
			return false, err
		}
		handedOver = found && f.State == journal.HandedOver
		if handedOver && !t.switched {
			t.switchOver()
		}
		writable, at := t.watch.writable()
		if !writable {
			problems = append(problems, "writes are refused")
		}
		if len(problems) == 0 {
			if at.After(failed) {
				r.writable = max(r.writable, at.Sub(failed).Seconds())
			}
			if !handedOver && at.Sub(failed) > patience {
				r.problem("the source took writes only %.0f s after the fault", at.Sub(failed).Seconds())
			}
			return handedOver, nil
		}
		if time.Now().After(deadline) {
			for _, p := range problems {
				r.problem("%s after the end of the execution: %s", patience, p)
			}
			return handedOver, nil
		}
		if err := workload.Pause(ctx, 20*time.Millisecond); err != nil {
			return false, err
		}
	}
}

// switchOver sends the clients to the destination.
func (t *trial) switchOver() {
	t.switched = true
	client := t.env.Destination.Client(environment.Operator)
	client.Transport = watched{t.watch, client.Transport}
	t.writer.SwitchTo(client)
}

// again runs a following execution of the same migration, which must verify.
func (t *trial) again(ctx context.Context, r *result) error {
	way := "rounds"
	if t.shot.scenario.input["lastMile"] == "replay" {
		way = "replay"
	}
	next := t.begin(map[string]any{"lastMile": way})
	if next.err != nil {
		return next.err
	}
	limited, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	d, err := next.x.Wait(limited)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.problem("the following execution still runs after %s", longest)
		next.x.Stop("", "given up by the fault matrix")
		return nil
	}
	r.ended = append(r.ended, describe(next.x))
	if d.Status != asl.Succeeded {
		r.problem("the following execution ended %s", describe(next.x))
		return nil
	}
	var own report.Report
	found, err := t.env.Journal().Migration(t.name).Document(ctx, journal.ReportFile, &own)
	if err != nil {
		return err
	}
	if !found || own.Execution != next.x.ARN || own.Verdict != migration.Verified {
		r.problem("the following execution's report says %q (found: %v, of %s)", own.Verdict, found, own.Execution)
	}
	handedOver, err := t.settle(ctx, r, time.Now())
	if err == nil && !handedOver && len(r.problems) == 0 {
		r.problem("the following execution succeeded and did not hand over")
	}
	return err
}

// last lets clients write at the destination, stops them, and compares everything.
func (t *trial) last(ctx context.Context, r *result) error {
	for deadline := time.Now().Add(patience); t.writer.Stats().AtDestination < enough; {
		if time.Now().After(deadline) {
			r.problem("the destination acknowledged %d writes within %s: %s", t.writer.Stats().AtDestination, patience, t.writer.Stats().LastError)
			return nil
		}
		if err := workload.Pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	t.writer.Stop()
	return t.compare(ctx, r)
}

// compare looks at every document and every setting, and at what the journal holds, once clients are still.
func (t *trial) compare(ctx context.Context, r *result) error {
	if s := t.writer.Stats(); s.Surprises > 0 {
		r.problem("%d answers contradict what was acknowledged before, the first: %s", s.Surprises, s.FirstSurprise[0])
	}
	compared, err := workload.CompareMixed(ctx, workload.Client{URL: t.env.Source.Direct}, workload.Client{URL: t.env.Destination.Direct}, t.mixed)
	if err != nil {
		return err
	}
	if err := compared.Problem(); err != nil {
		r.problem("%v", err)
	}
	_, _, problems, err := ended(ctx, t.env, t.name)
	if err != nil {
		return err
	}
	r.problems = append(r.problems, problems...)
	return t.differences(ctx, r, true)
}

func (t *trial) differences(ctx context.Context, r *result, handedOver bool) error {
	list, err := compareSettings(ctx, t.env, t.name, t.source, t.destination, handedOver)
	const shown = 10
	r.problems = append(r.problems, list[:min(len(list), shown)]...)
	return err
}

// clean removes all that a trial has made, so that the next one finds empty domains.
func (t *trial) clean(ctx context.Context) error {
	var errs []error
	for _, side := range []*environment.Side{t.env.Source, t.env.Destination} {
		var all map[string]any
		errs = append(errs, get(ctx, side.Direct+"/_settings", &all))
		for name := range all {
			if !strings.HasPrefix(name, ".") {
				errs = append(errs, request(ctx, "DELETE", side.Direct+"/"+name, "", nil))
			}
		}
		var cluster struct {
			Persistent map[string]any `json:"persistent"`
		}
		errs = append(errs, get(ctx, side.Direct+"/_cluster/settings?flat_settings=true", &cluster))
		for name := range cluster.Persistent {
			cluster.Persistent[name] = nil
		}
		body, err := json.Marshal(map[string]any{"persistent": cluster.Persistent})
		errs = append(errs, err)
		if len(cluster.Persistent) > 0 {
			errs = append(errs, request(ctx, "PUT", side.Direct+"/_cluster/settings", string(body), nil))
		}
		var repositories map[string]any
		errs = append(errs, get(ctx, side.Direct+"/_snapshot", &repositories))
		if repositories[t.name] != nil {
			errs = append(errs, request(ctx, "DELETE", side.Direct+"/_snapshot/"+t.name, "", nil))
		}
		errs = append(errs, os.RemoveAll(filepath.Join(t.env.Gateway.BucketPath(side.Bucket), t.name)))
	}
	return errors.Join(errs...)
}
