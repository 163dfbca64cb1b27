package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/local/asl"
	"github.com/domainferry/domainferry/internal/local/lambdaruntime"
	"github.com/domainferry/domainferry/internal/local/machines"
	"github.com/domainferry/domainferry/internal/names"
)

func (e *Environment) startLambdas(cfg Config) error {
	host := lambdaruntime.Config{LogDir: cfg.LogDir, Region: Region, AccountID: Account, Kill: cfg.Faults.kill()}
	for _, f := range names.Functions() {
		more := map[string]string{}
		if e.stsURL != "" {
			more = map[string]string{"AWS_ENDPOINT_URL_STS": e.stsURL, names.CopierRoleVariable: Caller.ID} // whose name is the principal
		}
		binary := filepath.Join(cfg.LambdaDir, f.Name, "bootstrap")
		if _, err := os.Stat(binary); err != nil {
			return fmt.Errorf("the Lambda %s is not built: %w (make build builds all of them)", f.Name, err)
		}
		maps.Copy(more, map[string]string{
			"AWS_ACCESS_KEY_ID": Caller.ID, "AWS_SECRET_ACCESS_KEY": Caller.Secret, "AWS_EC2_METADATA_DISABLED": "true",
			"AWS_ENDPOINT_URL_S3": e.S3URL, "AWS_ENDPOINT_URL_SFN": e.StepFunctionsURL, names.JournalBucketVariable: JournalBucket,
		})
		host.Functions = append(host.Functions, lambdaruntime.Function{
			Name: f.Name, Binary: binary, Timeout: time.Duration(f.TimeoutSeconds) * time.Second, MemoryMB: f.MemoryMB, Env: more,
		})
	}
	var err error
	if e.Lambdas, err = lambdaruntime.Start(host); err != nil {
		return err
	}
	e.closers = append(e.closers, e.Lambdas.Close)
	return nil
}

func functionARN(name string) string {
	return fmt.Sprintf("arn:aws:lambda:%s:%s:function:%s", Region, Account, name)
}

// invoker lets the engine run functions by ARN on the Lambda host.
type invoker struct {
	host  *lambdaruntime.Host
	hooks Hooks
}

func (i invoker) Invoke(ctx context.Context, arn string, payload []byte) ([]byte, error) {
	function := arn[strings.LastIndex(arn, ":")+1:]
	if i.hooks.Invoke == nil {
		return i.invoke(ctx, function, payload)
	}
	return i.hooks.Invoke(ctx, function, payload, func(ctx context.Context, payload []byte) ([]byte, error) { return i.invoke(ctx, function, payload) })
}

func (i invoker) invoke(ctx context.Context, function string, payload []byte) ([]byte, error) {
	out, err := i.host.Invoke(ctx, function, payload)
	if failed, ok := errors.AsType[*lambdaruntime.FunctionError](err); ok {
		return nil, &asl.FunctionError{Type: failed.Type, Message: failed.Message}
	}
	if err != nil {
		return nil, &asl.StateError{Name: "Lambda.ServiceException", Cause: err.Error()}
	}
	return out, nil
}

// addMachines gives the engine the embedded definitions and stands in for the deployment's rule: thaw is called at every end of an
// execution of the migration machine. It gives writes back, unless they were handed over, and puts raised settings back.
func (e *Environment) addMachines() error {
	engine := asl.New(asl.Config{Lambda: invoker{e.Lambdas, e.hooks}, Region: Region, Account: Account})
	e.Engine = engine
	parsed, err := machines.Parse(engine.ARN, functionARN)
	if err != nil {
		return err
	}
	for name, m := range parsed {
		if _, err := engine.AddStateMachine(name, m); err != nil {
			return err
		}
	}
	e.MigrationARN, e.RoundARN, e.ReplayARN = e.Engine.ARN(names.MigrationMachine), e.Engine.ARN(names.RoundMachine), e.Engine.ARN(names.ReplayMachine)
	migrations := e.MigrationARN
	cancel := engine.Observe(asl.Observer{StatusChanged: func(c asl.StatusChange) {
		if c.Execution.StateMachineARN != migrations {
			return
		}
		switch c.Status {
		case asl.Succeeded, asl.Failed, asl.TimedOut, asl.Aborted:
			e.running.Go(func() { e.thaw(c.Execution.ARN) })
		}
	}})
	e.endExecutions = func() error {
		cancel()
		for _, x := range engine.Executions("") {
			if x.Status() == asl.Running {
				x.Stop("", "the local environment is being stopped")
			}
		}
		return nil
	}
	e.closers = append(e.closers, e.endExecutions)
	return nil
}

// thaw calls the thaw function until it succeeds, as EventBridge repeats a delivery.
func (e *Environment) thaw(execution string) {
	payload, err := json.Marshal(map[string]string{"execution": execution})
	if err != nil {
		return
	}
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		out, err := e.Lambdas.Invoke(e.background, "thaw", payload)
		if err == nil {
			fmt.Fprintf(e.log, "%s rule: thaw of %s: %s\n", time.Now().UTC().Format(time.RFC3339), execution, out)
			return
		}
		fmt.Fprintf(e.log, "%s rule: thaw of %s failed, tried again in %s: %v\n", time.Now().UTC().Format(time.RFC3339), execution, pause, err)
		select {
		case <-e.background.Done():
			return
		case <-time.After(pause):
		}
	}
}
