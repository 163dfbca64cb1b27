// Command register is the Lambda that registers the snapshot repository on both domains and raises the destination's throttles
// (internal/step/register.go).
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
	domain := func(e migration.Endpoint) step.RegisterDomain { return c.Domain(e) }
	lambdahost.Start(step.Register{Journal: c.Journal, Domain: domain, Clock: step.WallClock{}, Caller: clients.Calling()}.Run)
}
