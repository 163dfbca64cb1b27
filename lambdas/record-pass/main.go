// Command record-pass is the Lambda that writes a finished pass to the journal (internal/step/record_pass.go).
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
	domain := func(e migration.Endpoint) step.RecordPassDomain { return c.Domain(e) }
	lambdahost.Start(step.RecordPass{Journal: c.Journal, Domain: domain, Clock: step.WallClock{}}.Run)
}
