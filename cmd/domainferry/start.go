package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sfn/types"

	"github.com/domainferry/domainferry/internal/journal"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/internal/report"
	"github.com/domainferry/domainferry/internal/watch"
)

// awsConfig is the operator's own configuration, as the AWS CLI reads it.
func awsConfig(ctx context.Context) (aws.Config, error) {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return cfg, fmt.Errorf("load the AWS configuration: %w", err)
	}
	return cfg, nil
}

// start checks the input here, before anything is started, and starts the execution.
func start(ctx context.Context, args []string) error {
	f := flags("start", "Starts a migration: checks the input file first, then calls StartExecution with your AWS credentials.")
	machine := f.String("state-machine-arn", "", "the stack's output StateMachineArn")
	input := f.String("input", "", "file with the input, see examples/")
	name := f.String("name", "", "name of the execution; empty lets Step Functions choose")
	follow := f.Bool("watch", false, "follow the execution until it ends")
	if err := parse(f, args); err != nil {
		return err
	}
	if *machine == "" || *input == "" {
		return errors.New("start needs -state-machine-arn and -input")
	}
	body, err := os.ReadFile(*input)
	if err != nil {
		return fmt.Errorf("read the input: %w", err)
	}
	if _, err := migration.DecodeSpec(body); err != nil {
		return fmt.Errorf("%s has %w", *input, err)
	}
	cfg, err := awsConfig(ctx)
	if err != nil {
		return err
	}
	client := sfn.NewFromConfig(cfg)
	in := &sfn.StartExecutionInput{StateMachineArn: machine, Input: aws.String(string(body))}
	if *name != "" {
		in.Name = name
	}
	out, err := client.StartExecution(ctx, in)
	if err != nil {
		return fmt.Errorf("start the execution: %w", err)
	}
	fmt.Println(aws.ToString(out.ExecutionArn))
	if !*follow {
		return nil
	}
	return followExecution(ctx, client, aws.ToString(out.ExecutionArn))
}

func watchExecution(ctx context.Context, args []string) error {
	f := flags("watch", "Follows a running execution and says how it ends.")
	execution := f.String("execution-arn", "", "the execution, as start or start-execution printed it")
	if err := parse(f, args); err != nil {
		return err
	}
	if *execution == "" {
		return errors.New("watch needs -execution-arn")
	}
	cfg, err := awsConfig(ctx)
	if err != nil {
		return err
	}
	return followExecution(ctx, sfn.NewFromConfig(cfg), *execution)
}

func followExecution(ctx context.Context, client *sfn.Client, arn string) error {
	d, err := watch.Watcher{Client: client}.Follow(ctx, arn, func(p watch.Progress) {
		fmt.Println(time.Now().Format("15:04:05"), p)
	})
	if err != nil {
		return err
	}
	fmt.Println(d.Status)
	if d.Status != types.ExecutionStatusSucceeded {
		name, message := watch.Explain(ctx, client, d)
		return fmt.Errorf("execution %s: %s: %s", d.Status, name, message)
	}
	fmt.Println(aws.ToString(d.Output))
	return nil
}

func printReport(ctx context.Context, args []string) error {
	f := flags("report", "Prints the report of a finished migration from the journal.")
	bucket := f.String("journal-bucket", "", "the stack's output JournalBucket")
	name := f.String("migration", "", "the migration's name")
	if err := parse(f, args); err != nil {
		return err
	}
	if *bucket == "" || *name == "" {
		return errors.New("report needs -journal-bucket and -migration")
	}
	cfg, err := awsConfig(ctx)
	if err != nil {
		return err
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = o.BaseEndpoint != nil })
	var r report.Report
	found, err := journal.NewStore(client, *bucket).Migration(*name).Document(ctx, journal.ReportFile, &r)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("migration %q has no report in %s: it has not been handed over", *name, *bucket)
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
