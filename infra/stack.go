package main

import (
	"regexp"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatch"
	"github.com/aws/aws-cdk-go/awscdk/v2/awscloudwatchactions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsevents"
	"github.com/aws/aws-cdk-go/awscdk/v2/awseventstargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambda"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslambdadestinations"
	"github.com/aws/aws-cdk-go/awscdk/v2/awslogs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3assets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsscheduler"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsschedulertargets"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssns"
	"github.com/aws/aws-cdk-go/awscdk/v2/awssqs"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsstepfunctions"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"

	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/statemachine"
)

// resourceName is the stable name of a role, function or state machine.
func resourceName(c Config, name string) string { return "domainferry-" + c.Stage + "-" + name }

// newStack makes the stack DomainFerry-<stage>. Each function's binary is <dist>/<name>/bootstrap.
func newStack(scope constructs.Construct, c Config, dist string) awscdk.Stack {
	stack := awscdk.NewStack(scope, jsii.String("DomainFerry-"+c.Stage), &awscdk.StackProps{
		Description: jsii.String("Domain Ferry moves search domains by snapshots with a write downtime that is known beforehand"),
	})
	awscdk.Tags_Of(stack).Add(jsii.String("domainferry:stage"), jsii.String(c.Stage), nil)

	journal := newJournal(stack)
	roles := newRoles(stack, c, journal)
	unheard := newQueue(stack, "Unheard")
	functions := map[string]awslambda.Function{}
	for _, f := range names.Functions() {
		functions[f.Name] = newFunction(stack, c, f, roles, journal, dist, unheard)
	}

	round := newMachine(stack, c, names.RoundMachine, statemachine.Round, functions, nil)
	replay := newMachine(stack, c, names.ReplayMachine, statemachine.Replay, functions, nil)
	migration := newMachine(stack, c, names.MigrationMachine, statemachine.Migration, functions, map[string]child{
		names.RoundMachinePlaceholder:  {names.RoundMachine, round},
		names.ReplayMachinePlaceholder: {names.ReplayMachine, replay},
	})

	newThawRule(stack, c, migration, functions["thaw"], unheard)
	newSchedules(stack, c, map[string]awsstepfunctions.StateMachine{names.MigrationMachine: migration, names.RoundMachine: round}, unheard)
	newAlarms(stack, c, migration, round, replay, unheard)

	output := func(id, value, description string) {
		awscdk.NewCfnOutput(stack, jsii.String(id), &awscdk.CfnOutputProps{Value: jsii.String(value), Description: jsii.String(description)})
	}
	output("StateMachineArn", *migration.StateMachineArn(), "Starts migrations")
	output("RoundStateMachineArn", *round.StateMachineArn(), "Runs one round; schedule it to keep a destination warm")
	output("ReplayStateMachineArn", *replay.StateMachineArn(), "Runs one pass of the replay; migrations start it where rounds do not shrink")
	output("CallerRoleArn", *roles[caller].RoleArn(), "Map this role in both domains")
	output("RegisterRoleArn", *roles[register].RoleArn(), "Map this role in both domains too (manage_snapshots is enough); it alone may pass the snapshot role")
	output("CopierRoleArn", *roles[copier].RoleArn(), "Copies objects; the policies of other accounts' buckets let it read")
	output("JournalBucket", *journal.BucketName(), "Plans, rounds and reports")
	output("StartCommand", "aws stepfunctions start-execution --state-machine-arn "+*migration.StateMachineArn()+
		" --input file://examples/amazon-cross-region.json", "Edit the example first")
	return stack
}

// newJournal makes the deployment's own bucket. It outlives the stack: it holds how to undo what was done to the domains.
func newJournal(stack awscdk.Stack) awss3.Bucket {
	return awss3.NewBucket(stack, jsii.String("Journal"), &awss3.BucketProps{
		BlockPublicAccess: awss3.BlockPublicAccess_BLOCK_ALL(),
		Encryption:        awss3.BucketEncryption_S3_MANAGED,
		EnforceSSL:        jsii.Bool(true),
		MinimumTLSVersion: jsii.Number(1.2),
		ObjectOwnership:   awss3.ObjectOwnership_BUCKET_OWNER_ENFORCED,
		Versioned:         jsii.Bool(true),
		RemovalPolicy:     awscdk.RemovalPolicy_RETAIN,
		LifecycleRules: &[]*awss3.LifecycleRule{{
			Id:                                  jsii.String("abort-incomplete-uploads"),
			AbortIncompleteMultipartUploadAfter: awscdk.Duration_Days(jsii.Number(7)),
		}},
	})
}

// newQueue makes a queue for events that could not be delivered or dealt with; 14 days is the longest that SQS keeps them.
func newQueue(stack awscdk.Stack, id string) awssqs.Queue {
	return awssqs.NewQueue(stack, jsii.String(id), &awssqs.QueueProps{
		Encryption:      awssqs.QueueEncryption_SQS_MANAGED,
		EnforceSSL:      jsii.Bool(true),
		RetentionPeriod: awscdk.Duration_Days(jsii.Number(14)),
	})
}

func newLogGroup(stack awscdk.Stack, c Config, id, name string) awslogs.LogGroup {
	group := awslogs.NewLogGroup(stack, jsii.String(id), &awslogs.LogGroupProps{
		LogGroupName: jsii.String(name),
		// A named group that is kept would stop the stack from being deployed again; what must last is in the journal.
		RemovalPolicy: awscdk.RemovalPolicy_DESTROY,
	})
	// The construct takes an enumeration, the config says days.
	group.Node().DefaultChild().(awslogs.CfnLogGroup).SetRetentionInDays(jsii.Number(c.RetentionDays))
	return group
}

func newFunction(stack awscdk.Stack, c Config, f names.Function, roles map[duty]awsiam.Role, journal awss3.Bucket, dist string,
	unheard awssqs.Queue) awslambda.Function {
	role := roles[dutyOf(f.Name)]
	name := resourceName(c, f.Name)
	logs := newLogGroup(stack, c, f.Placeholder()+"Logs", "/aws/lambda/"+name)
	logs.GrantWrite(role)
	props := &awslambda.FunctionProps{
		FunctionName:  jsii.String(name),
		Description:   jsii.String("Domain Ferry: " + f.Name),
		Code:          awslambda.Code_FromAsset(jsii.String(dist+"/"+f.Name), &awss3assets.AssetOptions{}),
		Runtime:       awslambda.Runtime_PROVIDED_AL2023(),
		Architecture:  awslambda.Architecture_ARM_64(),
		Handler:       jsii.String("bootstrap"),
		Role:          role,
		Timeout:       awscdk.Duration_Seconds(jsii.Number(f.TimeoutSeconds)),
		MemorySize:    jsii.Number(f.MemoryMB),
		LoggingFormat: awslambda.LoggingFormat_JSON,
		LogGroup:      logs,
		Tracing:       awslambda.Tracing_ACTIVE,
		Environment:   &map[string]*string{names.JournalBucketVariable: journal.BucketName()},
	}
	switch dutyOf(f.Name) {
	case copier: // whom the policies of other accounts' buckets let read
		(*props.Environment)[names.CopierRoleVariable] = role.RoleArn()
	case register: // whom it maps in the domains
		(*props.Environment)[names.CallerRoleVariable] = roles[caller].RoleArn()
	}
	if f.Name == "ask" && c.AlarmTopicARN != "" {
		(*props.Environment)[names.TopicVariable] = jsii.String(c.AlarmTopicARN)
	}
	if f.Name == "thaw" {
		// The thaw rule invokes it asynchronously: what EventBridge delivered, Lambda tries three times and would then drop.
		props.OnFailure = awslambdadestinations.NewSqsDestination(unheard)
		props.RetryAttempts = jsii.Number(2)
	}
	function := awslambda.NewFunction(stack, jsii.String(f.Placeholder()), props)
	if c.VPC != nil && dutyOf(f.Name).speaksToDomains() {
		// By id on the resource itself: the construct would want the VPC looked up, which needs credentials.
		function.Node().DefaultChild().(awslambda.CfnFunction).SetVpcConfig(&awslambda.CfnFunction_VpcConfigProperty{
			SubnetIds:        jsii.Strings(c.VPC.SubnetIDs...),
			SecurityGroupIds: jsii.Strings(c.VPC.SecurityGroupIDs...),
		})
	}
	return function
}

var (
	placeholderPattern = regexp.MustCompile(`\$\{([A-Za-z]+)\}`)
	// labelPattern finds the Distributed Maps: their children's executions are named <machine>/<label>:<id>.
	labelPattern = regexp.MustCompile(`"Label": "([A-Za-z]+)"`)
)

// child is a state machine that another one starts by startExecution.sync:2.
type child struct {
	name    string // of the definition
	machine awsstepfunctions.StateMachine
}

// newMachine makes a state machine of a definition: its role may do what the definition's placeholders and map labels name, and no
// more. No rights are derived by the CDK from a definition given as a text. children are the machines that it may start, by
// placeholder.
func newMachine(stack awscdk.Stack, c Config, name, definition string, functions map[string]awslambda.Function,
	children map[string]child) awsstepfunctions.StateMachine {
	id := map[string]string{names.MigrationMachine: "Migration", names.RoundMachine: "Round", names.ReplayMachine: "Replay"}[name]
	fullName := resourceName(c, name)
	role := awsiam.NewRole(stack, jsii.String(id+"Role"), &awsiam.RoleProps{
		Description: jsii.String("Domain Ferry: state machine " + name),
		AssumedBy:   awsiam.NewServicePrincipal(jsii.String("states.amazonaws.com"), nil),
	})

	substitutions := map[string]*string{}
	var invoked, started, startedExecutions []string
	arn := func(resource, rest string) string {
		return *stack.FormatArn(&awscdk.ArnComponents{
			Service: jsii.String("states"), Resource: jsii.String(resource), ResourceName: jsii.String(rest),
			ArnFormat: awscdk.ArnFormat_COLON_RESOURCE_NAME,
		})
	}
	arns := map[string]*string{}
	for _, f := range names.Functions() {
		arns[f.Placeholder()] = functions[f.Name].FunctionArn()
	}
	for _, m := range placeholderPattern.FindAllStringSubmatch(definition, -1) {
		placeholder := m[1]
		if _, done := substitutions[placeholder]; done {
			continue
		}
		if function, ok := arns[placeholder]; ok {
			substitutions[placeholder] = function
			invoked = append(invoked, *function)
		} else if m, ok := children[placeholder]; ok {
			substitutions[placeholder] = m.machine.StateMachineArn()
			started = append(started, *m.machine.StateMachineArn())
			startedExecutions = append(startedExecutions, arn("execution", resourceName(c, m.name)+":*"))
		}
	}
	allow(role, "Invoke", []string{"lambda:InvokeFunction"}, invoked...)
	watch := []string{"states:DescribeExecution", "states:RedriveExecution", "states:StopExecution"}
	if len(started) > 0 {
		// startExecution.sync:2 starts, watches by a rule that the service manages, and stops the child with its parent.
		allow(role, "StartChildren", []string{"states:StartExecution"}, started...)
		allow(role, "WatchChildren", watch, startedExecutions...)
		allow(role, "ManagedRule", []string{"events:DescribeRule", "events:PutRule", "events:PutTargets"},
			*stack.FormatArn(&awscdk.ArnComponents{Service: jsii.String("events"), Resource: jsii.String("rule"),
				ResourceName: jsii.String("StepFunctionsGetEventsForStepFunctionsExecutionRule")}))
	}
	if labels := labelPattern.FindAllStringSubmatch(definition, -1); len(labels) > 0 {
		// A Distributed Map starts children of the machine itself. The ARNs are put together from the name, because the machine
		// depends on this very policy.
		executions := []string{arn("execution", fullName+":*")}
		for _, m := range labels {
			executions = append(executions, arn("execution", fullName+"/"+m[1]+":*"))
		}
		allow(role, "StartMapRun", []string{"states:StartExecution"}, arn("stateMachine", fullName))
		allow(role, "WatchMapRun", watch, executions...)
	}

	return awsstepfunctions.NewStateMachine(stack, jsii.String(id+"Machine"), &awsstepfunctions.StateMachineProps{
		StateMachineName: jsii.String(fullName),
		// Not DefinitionBody_FromFile: that becomes an S3 asset which no linter and no test sees.
		DefinitionBody:          awsstepfunctions.DefinitionBody_FromString(jsii.String(definition)),
		DefinitionSubstitutions: &substitutions,
		Role:                    role,
		TracingEnabled:          jsii.Bool(true),
		Logs: &awsstepfunctions.LogOptions{
			// The prefix keeps the log group out of the account's resource policy, whose size is limited.
			Destination:          newLogGroup(stack, c, id+"MachineLogs", "/aws/vendedlogs/states/"+fullName),
			Level:                awsstepfunctions.LogLevel_ALL,
			IncludeExecutionData: jsii.Bool(true),
		},
	})
}

// newThawRule gives writes back when an execution ends where no Catch sees it: timed out, stopped by hand, or failed in a way
// that States.ALL does not match. After a success thaw leaves writes as they are and puts back what the migration raised at the
// destination, which every end must do. Only the execution's ARN is passed on, because error and cause are not in every event; thaw
// finds the rest in the journal.
func newThawRule(stack awscdk.Stack, c Config, migration awsstepfunctions.StateMachine, thaw awslambda.Function, unheard awssqs.Queue) {
	awsevents.NewRule(stack, jsii.String("ThawRule"), &awsevents.RuleProps{
		RuleName:    jsii.String(resourceName(c, "thaw")),
		Description: jsii.String("Gives writes back when a migration fails, times out or is stopped; puts raised settings back at every end"),
		EventPattern: &awsevents.EventPattern{
			Source:     jsii.Strings("aws.states"),
			DetailType: jsii.Strings("Step Functions Execution Status Change"),
			Detail: &map[string]any{
				"status":          []string{"SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"},
				"stateMachineArn": []*string{migration.StateMachineArn()},
			},
		},
		Targets: &[]awsevents.IRuleTarget{
			awseventstargets.NewLambdaFunction(thaw, &awseventstargets.LambdaFunctionProps{
				Event: awsevents.RuleTargetInput_FromObject(map[string]any{
					"execution": awsevents.EventField_FromPath(jsii.String("$.detail.executionArn")),
				}),
				DeadLetterQueue: unheard,
				MaxEventAge:     awscdk.Duration_Hours(jsii.Number(24)),
				RetryAttempts:   jsii.Number(185),
			}),
		},
	})
}

func newSchedules(stack awscdk.Stack, c Config, machines map[string]awsstepfunctions.StateMachine, unheard awssqs.Queue) {
	for _, s := range c.Schedules {
		awsscheduler.NewSchedule(stack, jsii.String("Schedule-"+s.Name), &awsscheduler.ScheduleProps{
			ScheduleName: jsii.String(resourceName(c, s.Name)),
			Description:  jsii.String("Starts the " + s.Machine + " state machine of Domain Ferry"),
			Schedule: awsscheduler.ScheduleExpression_Expression(jsii.String(s.Expression),
				awscdk.TimeZone_Of(jsii.String(s.TimeZone))),
			Target: awsschedulertargets.NewStepFunctionsStartExecution(machines[s.Machine], &awsschedulertargets.ScheduleTargetBaseProps{
				Input:           awsscheduler.ScheduleTargetInput_FromObject(s.Input),
				DeadLetterQueue: unheard,
				// A start that is hours late would migrate at an hour that nobody chose.
				MaxEventAge:   awscdk.Duration_Hours(jsii.Number(1)),
				RetryAttempts: jsii.Number(10),
			}),
		})
	}
}

func newAlarms(stack awscdk.Stack, c Config, migration, round, replay awsstepfunctions.StateMachine, unheard awssqs.Queue) {
	perMinute := &awscloudwatch.MetricOptions{Period: awscdk.Duration_Minutes(jsii.Number(1)), Statistic: jsii.String("Sum")}
	var topic awssns.ITopic
	if c.AlarmTopicARN != "" {
		topic = awssns.Topic_FromTopicArn(stack, jsii.String("AlarmTopic"), jsii.String(c.AlarmTopicARN))
	}
	for _, a := range []struct {
		id, description string
		metric          awscloudwatch.Metric
	}{
		{"MigrationFailed", "A migration failed; its error names the cause and what to do next", migration.MetricFailed(perMinute)},
		{"MigrationTimedOut", "A migration timed out", migration.MetricTimedOut(perMinute)},
		{"RoundFailed", "A round failed; started by a schedule it leaves the destination stale", round.MetricFailed(perMinute)},
		{"RoundTimedOut", "A round timed out", round.MetricTimedOut(perMinute)},
		{"ReplayFailed", "A pass of the replay failed, and its migration with it; its error names the cause", replay.MetricFailed(perMinute)},
		{"ReplayTimedOut", "A pass of the replay timed out", replay.MetricTimedOut(perMinute)},
		{"EventsUnheard", "A thaw or a scheduled start never took effect: see the queue, and call thaw by hand if writes are blocked",
			unheard.MetricApproximateNumberOfMessagesVisible(&awscloudwatch.MetricOptions{
				Period: awscdk.Duration_Minutes(jsii.Number(1)), Statistic: jsii.String("Maximum")})},
	} {
		alarm := a.metric.CreateAlarm(stack, jsii.String(a.id), &awscloudwatch.CreateAlarmOptions{
			AlarmName:          jsii.String(resourceName(c, a.id)),
			AlarmDescription:   jsii.String(a.description),
			Threshold:          jsii.Number(1),
			EvaluationPeriods:  jsii.Number(1),
			ComparisonOperator: awscloudwatch.ComparisonOperator_GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
			TreatMissingData:   awscloudwatch.TreatMissingData_NOT_BREACHING,
		})
		if topic != nil {
			alarm.AddAlarmAction(awscloudwatchactions.NewSnsAction(topic))
		}
	}
}
