// Command bootstrap is a Lambda with no purpose but the test of lambdahost.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/lambdahost"
)

type input struct {
	Do           string `json:"do"`
	ExecutionARN string `json:"executionArn"`
	Migration    string `json:"migration"`
	Round        int    `json:"round"`
}

type output struct {
	SecondsLeft float64 `json:"secondsLeft"`
}

func main() { lambdahost.Start(run) }

func run(ctx context.Context, in input) (output, error) {
	slog.InfoContext(ctx, "the step speaks")
	switch in.Do {
	case "busy":
		return output{}, fmt.Errorf("round %d: %w", in.Round, fault.Newf(fault.Busy, "create snapshot", "domain x", "another one runs"))
	case "panic":
		panic("boom")
	case "wait":
		<-ctx.Done()
		return output{}, fmt.Errorf("wait: %w", ctx.Err())
	}
	deadline, _ := ctx.Deadline()
	return output{SecondsLeft: time.Until(deadline).Seconds()}, nil
}
