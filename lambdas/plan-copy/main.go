// Command plan-copy is the Lambda that splits the source repository into key ranges (internal/step/plan_copy.go).
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
	copier := func(from, to migration.Repository) step.CopyPlanner { return c.Copier(from, to) }
	opener := step.Opener{
		Journal: c.Journal, Buckets: func(e migration.Endpoint) step.Accessible { return c.Bucket(e) }, Reader: clients.Copying(), Clock: step.WallClock{},
	}
	lambdahost.Start(step.Opening(opener, step.PlanCopy{Journal: c.Journal, Copier: copier, Clock: step.WallClock{}}.Run))
}
