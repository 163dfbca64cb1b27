package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/names"
)

// contextKey is where cdk.json keeps the Config. On the command line: cdk synth -c domainferry='{"stage": "prod", ...}'.
const contextKey = "domainferry"

// Config is what an operator chooses for a deployment. Everything that concerns one migration only is not here but in the
// execution's input.
type Config struct {
	// Stage tells deployments apart, in one account and Region, by name: domainferry-<stage>-...
	Stage string `json:"stage"`
	// Domains are the ARNs of the domains that may be a source or a destination.
	Domains []string `json:"domains"`
	// SourceBuckets are read, DestinationBuckets are written.
	SourceBuckets      []string `json:"sourceBuckets"`
	DestinationBuckets []string `json:"destinationBuckets"`
	// SnapshotRoleARNs are the roles that domains assume to reach those buckets; register passes them.
	SnapshotRoleARNs []string `json:"snapshotRoleArns"`
	// RetentionDays of all logs; one of the values that CloudWatch Logs accepts.
	RetentionDays int `json:"retentionDays"`
	// VPC puts the functions that speak to domains into subnets; nil means that the domains have public endpoints.
	VPC *VPC `json:"vpc,omitempty"`
	// AlarmTopicARN is the SNS topic that the alarms notify, and the questions to the operator; empty means that they only show in CloudWatch.
	AlarmTopicARN string     `json:"alarmTopicArn,omitempty"`
	Schedules     []Schedule `json:"schedules,omitempty"`
}

// VPC is where domains without public endpoints are reached: the subnets need a route to S3 (gateway endpoint or NAT), the
// security groups must be let into the domains' on port 443.
type VPC struct {
	SubnetIDs        []string `json:"subnetIds"`
	SecurityGroupIDs []string `json:"securityGroupIds"`
}

// Schedule starts executions by EventBridge Scheduler.
type Schedule struct {
	Name string `json:"name"`
	// Machine is migration (the default) or round, which keeps a destination warm.
	Machine    string `json:"machine,omitempty"`
	Expression string `json:"expression"`         // rate(...), cron(...) or at(...)
	TimeZone   string `json:"timezone,omitempty"` // IANA name; empty means UTC
	// Input is the execution's input, the same document that a human would give to start-execution.
	Input map[string]any `json:"input"`
}

// LoadConfig reads the context value of contextKey strictly: the object of cdk.json, or its JSON text as the cdk command line
// gives it. The error lists every problem.
func LoadConfig(value any) (Config, error) {
	var c Config
	if value == nil {
		return c, fmt.Errorf("the CDK context has no %q: run from the folder of cdk.json, or pass -c %s='{...}'", contextKey, contextKey)
	}
	text, ok := value.(string)
	if !ok {
		b, err := json.Marshal(value)
		if err != nil {
			return c, fmt.Errorf("read context %s: %w", contextKey, err)
		}
		text = string(b)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("read context %s: %w", contextKey, err)
	}
	for i := range c.Schedules {
		if c.Schedules[i].Machine == "" {
			c.Schedules[i].Machine = names.MigrationMachine
		}
		if c.Schedules[i].TimeZone == "" {
			c.Schedules[i].TimeZone = "UTC"
		}
	}
	return c, c.Validate()
}

var (
	stagePattern      = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`) // keeps role names with the Region under IAM's 64 characters
	domainPattern     = regexp.MustCompile(`^arn:aws[a-z-]*:es:[a-z0-9-]+:[0-9]{12}:domain/[a-z][a-z0-9-]{2,27}$`)
	bucketPattern     = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	rolePattern       = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$`)
	topicPattern      = regexp.MustCompile(`^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+$`)
	subnetPattern     = regexp.MustCompile(`^subnet-([0-9a-f]{8}|[0-9a-f]{17})$`)
	groupPattern      = regexp.MustCompile(`^sg-([0-9a-f]{8}|[0-9a-f]{17})$`)
	schedulePattern   = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,40}$`)
	expressionPattern = regexp.MustCompile(`^(rate|cron|at)\(.+\)$`)
	// IANA names as the service takes them; whether the zone exists is the service's to say.
	timeZonePattern = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)
)

// retentions are the values that CloudWatch Logs accepts for RetentionInDays.
var retentions = []int{1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653}

// Validate returns one error with a line for each problem, each with its path in the config.
func (c Config) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	one := func(path, value string, pattern *regexp.Regexp, what string) {
		if !pattern.MatchString(value) {
			problem("%s: %q is not %s", path, value, what)
		}
	}
	list := func(path string, values []string, pattern *regexp.Regexp, what string) {
		if len(values) == 0 {
			problem("%s: name at least one: %s", path, what)
		}
		for i, v := range values {
			one(fmt.Sprintf("%s[%d]", path, i), v, pattern, what)
			if slices.Index(values, v) < i {
				problem("%s[%d]: %q is there twice", path, i, v)
			}
		}
	}
	one("stage", c.Stage, stagePattern, "a name of 1 to 16 lower-case letters, digits and hyphens that starts with a letter")
	list("domains", c.Domains, domainPattern, "a domain ARN (arn:aws:es:<region>:<account>:domain/<name>)")
	list("sourceBuckets", c.SourceBuckets, bucketPattern, "a bucket name")
	list("destinationBuckets", c.DestinationBuckets, bucketPattern, "a bucket name")
	list("snapshotRoleArns", c.SnapshotRoleARNs, rolePattern, "a role ARN (arn:aws:iam::<account>:role/<name>)")
	if !slices.Contains(retentions, c.RetentionDays) {
		problem("retentionDays: CloudWatch Logs keeps logs %s days, not %d",
			strings.Join(strings.Fields(strings.Trim(fmt.Sprint(retentions), "[]")), ", "), c.RetentionDays)
	}
	if c.VPC != nil {
		list("vpc.subnetIds", c.VPC.SubnetIDs, subnetPattern, "a subnet id (subnet-...)")
		list("vpc.securityGroupIds", c.VPC.SecurityGroupIDs, groupPattern, "a security group id (sg-...)")
	}
	if c.AlarmTopicARN != "" {
		one("alarmTopicArn", c.AlarmTopicARN, topicPattern, "a topic ARN (arn:aws:sns:<region>:<account>:<name>)")
	}
	for i, s := range c.Schedules {
		path := fmt.Sprintf("schedules[%d]", i)
		one(path+".name", s.Name, schedulePattern, "a name of 1 to 40 letters, digits and _ . -")
		if slices.IndexFunc(c.Schedules, func(o Schedule) bool { return o.Name == s.Name }) < i {
			problem("%s.name: %q is there twice", path, s.Name)
		}
		if s.Machine != names.MigrationMachine && s.Machine != names.RoundMachine {
			problem("%s.machine: %q is neither %q nor %q", path, s.Machine, names.MigrationMachine, names.RoundMachine)
		}
		one(path+".expression", s.Expression, expressionPattern, "a schedule expression: rate(...), cron(...) or at(...)")
		one(path+".timezone", s.TimeZone, timeZonePattern, "an IANA time zone")
		if m, _ := s.Input["migration"].(string); m == "" {
			problem("%s.input.migration: name the migration", path)
		}
	}
	return errors.Join(problems...)
}
