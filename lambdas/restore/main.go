// Command restore is the Lambda that starts the round's restore (internal/step/restore.go).
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
	domain := func(e migration.Endpoint) step.RestoreDomain { return c.Domain(e) }
	lambdahost.Start(step.Restore{Journal: c.Journal, Domain: domain, Clock: step.WallClock{}}.Run)
}
