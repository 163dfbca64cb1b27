// Command verify is the Lambda that compares the frozen source with the destination (internal/step/verify.go).
package main

import (
	"context"
	"log"

	"github.com/domainferry/domainferry/internal/clients"
	"github.com/domainferry/domainferry/internal/lambdahost"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/step"
)

func main() {
	c, err := clients.FromEnvironment(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	domain := func(e migration.Endpoint) step.VerifyDomain { return c.Domain(e) }
	verifier := func(from, to migration.Endpoint) step.ReplayVerifier { return c.Replayer(from, to) }
	lambdahost.Start(step.Verify{Journal: c.Journal, Domain: domain, Replay: verifier, Clock: step.WallClock{}}.Run)
}
