// Command replay is the Lambda that replays one slice of a pass (internal/step/replay.go).
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
	replayer := func(from, to migration.Endpoint) step.SliceReplayer { return c.Replayer(from, to) }
	lambdahost.Start(step.Replay{Journal: c.Journal, Replay: replayer}.Run)
}
