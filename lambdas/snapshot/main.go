// Command snapshot is the Lambda that starts the round's snapshot (internal/step/snapshot.go).
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
	domain := func(e migration.Endpoint) step.SnapshotDomain { return c.Domain(e) }
	lambdahost.Start(step.Snapshot{Journal: c.Journal, Domain: domain, Clock: step.WallClock{}}.Run)
}
