// Command freeze is the Lambda that stops writes at the source and proves it (internal/step/freeze.go).
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
	domain := func(e migration.Endpoint) step.FreezeDomain { return c.Domain(e) }
	lambdahost.Start(step.Freeze{Journal: c.Journal, Domain: domain, Clock: step.WallClock{}}.Run)
}
