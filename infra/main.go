// Command infra is the CDK app of Domain Ferry: state machines, Lambdas, journal bucket, roles, rules and alarms of one stage.
//
// With -c domainferryAccess='{...}' it is the stack for the account of a domain that a deployment of another account moves.
//
// It reads its Config from the context of cdk.json, takes the Lambdas' binaries from dist/ (make dist) and looks nothing up, so
// that synth needs no credentials. It imports no internal package but names.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/jsii-runtime-go"

	"github.com/domainferry/domainferry/internal/names"
)

func main() {
	defer jsii.Close()
	app := awscdk.NewApp(nil)
	if err := build(app, "dist"); err != nil {
		fmt.Fprintln(os.Stderr, "infra:", err)
		jsii.Close()
		os.Exit(1)
	}
	app.Synth(nil)
}

func build(app awscdk.App, dist string) error {
	if value := app.Node().TryGetContext(jsii.String(accessKey)); value != nil {
		// For the account of a domain: nothing of the deployment, and no binaries.
		access, err := LoadAccessConfig(value)
		if err != nil {
			return fmt.Errorf("the config %s is not usable:\n%w", accessKey, err)
		}
		newAccessStack(app, access)
		return nil
	}
	config, err := LoadConfig(app.Node().TryGetContext(jsii.String(contextKey)))
	if err != nil {
		return fmt.Errorf("the config in cdk.json is not usable:\n%w", err)
	}
	for _, f := range names.Functions() {
		binary := filepath.Join(dist, f.Name, "bootstrap")
		if _, err := os.Stat(binary); err != nil {
			return fmt.Errorf("the binary of function %s is missing; run make dist first: %w", f.Name, err)
		}
	}
	newStack(app, config, dist)
	return nil
}
