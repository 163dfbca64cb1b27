// Command poll-status is the Lambda that looks how far a snapshot or a restore is (internal/step/poll_status.go).
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
	domain := func(e migration.Endpoint) step.PollStatusDomain { return c.Domain(e) }
	lambdahost.Start(step.PollStatus{Journal: c.Journal, Domain: domain, Clock: step.WallClock{}}.Run)
}
