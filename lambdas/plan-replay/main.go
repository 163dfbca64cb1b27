// Command plan-replay is the Lambda that plans a pass of the replay (internal/step/plan_replay.go).
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
	domain := func(e migration.Endpoint) step.PlanReplayDomain { return c.Domain(e) }
	replayer := func(from, to migration.Endpoint) step.PassPlanner { return c.Replayer(from, to) }
	lambdahost.Start(step.PlanReplay{Journal: c.Journal, Domain: domain, Replay: replayer, Clock: step.WallClock{}}.Run)
}
