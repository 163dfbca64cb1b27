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
	lambdahost.Start(step.Decide{
		Journal: c.Journal, Domain: func(e migration.Endpoint) step.DecideDomain { return c.Domain(e) }, Clock: step.WallClock{},
	}.Run)
}
