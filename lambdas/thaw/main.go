// Command thaw is the Lambda that gives writes back at the source and puts raised throttles back (internal/step/thaw.go).
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
	domain := func(e migration.Endpoint) step.ThawDomain { return c.Domain(e) }
	lambdahost.Start(step.Thaw{Journal: c.Journal, Domain: domain, Clock: step.WallClock{}, Buckets: buckets}.Run)
}
