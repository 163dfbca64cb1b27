// Command reconcile-deletes is the Lambda that deletes at the destination what the source has no more (internal/step/reconcile_deletes.go).
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
	reconciler := func(from, to migration.Endpoint) step.DeleteReconciler { return c.Replayer(from, to) }
	lambdahost.Start(step.ReconcileDeletes{Journal: c.Journal, Replay: reconciler}.Run)
}
