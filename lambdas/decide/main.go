// Command decide is the Lambda that says whether to warm again, wait, cut over, ask or stop (internal/step/decide.go).
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
	domain := func(e migration.Endpoint) step.DecideDomain { return c.Domain(e) }
	verifier := func(from, to migration.Endpoint) step.ReplayVerifier { return c.Replayer(from, to) }
	lambdahost.Start(step.Decide{Journal: c.Journal, Domain: domain, Replay: verifier, Clock: step.WallClock{}}.Run)
}
