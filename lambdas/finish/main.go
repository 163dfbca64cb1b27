// Command finish is the Lambda that hands over to the destination and writes the report (internal/step/finish.go).
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
	domain := func(e migration.Endpoint) step.FinishDomain { return c.Domain(e) }
	lambdahost.Start(step.Finish{Journal: c.Journal, Domain: domain, Clock: step.WallClock{}, Buckets: buckets}.Run)
}
