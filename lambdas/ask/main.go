// Command ask is the Lambda that asks the operator for approval, or how to go on when the write downtime will not fit the window (internal/step/ask.go).
package main

import (
	"context"
	"log"

	"github.com/domainferry/domainferry/internal/clients"
	"github.com/domainferry/domainferry/internal/lambdahost"
	"github.com/domainferry/domainferry/internal/step"
)

func main() {
	c, err := clients.FromEnvironment(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	lambdahost.Start(step.Ask{Journal: c.Journal, Clock: step.WallClock{}, Notify: c.Notify()}.Run)
}
