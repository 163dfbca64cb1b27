// Command preflight is the Lambda that checks the input and both domains and writes the plan (internal/step/preflight.go).
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
	buckets := func(e migration.Endpoint) step.Accessible { return c.Bucket(e) }
	domain := func(e migration.Endpoint) step.PreflightDomain { return c.Domain(e) }
	thaw := step.Thaw{Journal: c.Journal, Domain: func(e migration.Endpoint) step.ThawDomain { return c.Domain(e) }, Clock: step.WallClock{}, Buckets: buckets}
	lambdahost.Start(step.Preflight{Journal: c.Journal, Domain: domain, Clock: step.WallClock{}, End: thaw.End}.Run)
}
