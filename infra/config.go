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
	// AssumedRoleARNs are roles of other accounts (SnapshotAccess makes them), which the functions assume to call the domains there and to open
	// and close their buckets; the input names one as access.roleArn.
	AssumedRoleARNs []string `json:"assumedRoleArns,omitempty"`
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

// accessKey is where the command line gives the AccessConfig: cdk deploy -c domainferryAccess='{"stage": "prod", ...}'.
const accessKey = "domainferryAccess"

// AccessConfig is what the account of a domain chooses for the stack that lets a deployment of another account move the domain.
type AccessConfig struct {
	// Stage is that of the deployment.
	Stage string `json:"stage"`
	// Domain is the ARN of the domain, of this account.
	Domain string `json:"domain"`
	// WorkflowRoleARNs are the deployment's roles that may assume the caller role: its outputs CallerRoleArn, RegisterRoleArn and CopierRoleArn.
	WorkflowRoleARNs []string `json:"workflowRoleArns"`
	// ExternalID is what they have to say; wanted where the deployment belongs to somebody else.
	ExternalID string `json:"externalId,omitempty"`
	// Bucket is the name of the bucket that is made; empty is one that CloudFormation makes up.
	Bucket string `json:"bucket,omitempty"`
	// SharedBuckets are buckets of other accounts into which the domain writes its snapshots: topology shared.
	SharedBuckets []string `json:"sharedBuckets,omitempty"`
}

// LoadAccessConfig reads the context value of accessKey as LoadConfig does its own.
func LoadAccessConfig(value any) (AccessConfig, error) {
	var c AccessConfig
	if err := decodeContext(accessKey, value, &c); err != nil {
		return c, err
	}
	return c, c.Validate()
}

// LoadConfig reads the context value of contextKey strictly: the object of cdk.json, or its JSON text as the cdk command line
// gives it. The error lists every problem.
func LoadConfig(value any) (Config, error) {
	var c Config
	if value == nil {
		return c, fmt.Errorf("the CDK context has no %q: run from the folder of cdk.json, or pass -c %s='{...}'", contextKey, contextKey)
	}
	if err := decodeContext(contextKey, value, &c); err != nil {
		return c, err
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

// decodeContext reads an object of cdk.json, or its JSON text as the command line gives it, strictly.
func decodeContext(key string, value, into any) error {
	text, ok := value.(string)
	if !ok {
		b, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("read context %s: %w", key, err)
		}
		text = string(b)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("read context %s: %w", key, err)
	}
	return nil
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
	// externalIDPattern is STS's (AssumeRole, ExternalId).
	externalIDPattern = regexp.MustCompile(`^[A-Za-z0-9_+=,.@:/-]{2,1000}$`) // Go's limit of repetition, well below STS's 1224
	// IANA names as the service takes them; whether the zone exists is the service's to say.
	timeZonePattern = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)
)

// retentions are the values that CloudWatch Logs accepts for RetentionInDays.
var retentions = []int{1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653}

// problems collects what is wrong with a config, a line each with its path.
type problems []error

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

func (p *problems) one(path, value string, pattern *regexp.Regexp, what string) {
	if !pattern.MatchString(value) {
		p.add("%s: %q is not %s", path, value, what)
	}
}

// several checks a list that may be empty.
func (p *problems) several(path string, values []string, pattern *regexp.Regexp, what string) {
	for i, v := range values {
		p.one(fmt.Sprintf("%s[%d]", path, i), v, pattern, what)
		if slices.Index(values, v) < i {
			p.add("%s[%d]: %q is there twice", path, i, v)
		}
	}
}

func (p *problems) list(path string, values []string, pattern *regexp.Regexp, what string) {
	if len(values) == 0 {
		p.add("%s: name at least one: %s", path, what)
	}
	p.several(path, values, pattern, what)
}

const (
	aStage  = "a name of 1 to 16 lower-case letters, digits and hyphens that starts with a letter"
	aDomain = "a domain ARN (arn:aws:es:<region>:<account>:domain/<name>)"
	aRole   = "a role ARN (arn:aws:iam::<account>:role/<name>)"
)

// Validate returns one error with a line for each problem, each with its path in the config.
func (c AccessConfig) Validate() error {
	var p problems
	p.one("stage", c.Stage, stagePattern, aStage)
	p.one("domain", c.Domain, domainPattern, aDomain)
	p.list("workflowRoleArns", c.WorkflowRoleARNs, rolePattern, aRole)
	if c.ExternalID != "" {
		p.one("externalId", c.ExternalID, externalIDPattern, "an external id (2 to 1000 letters, digits and _ + = , . @ : / -)")
	}
	if c.Bucket != "" {
		p.one("bucket", c.Bucket, bucketPattern, "a bucket name")
	}
	p.several("sharedBuckets", c.SharedBuckets, bucketPattern, "a bucket name")
	return errors.Join(p...)
}

// accountOf is the account in an ARN that a pattern has accepted.
func accountOf(arn string) string { return strings.Split(arn, ":")[4] }

// Validate returns one error with a line for each problem, each with its path in the config.
func (c Config) Validate() error {
	var p problems
	problem, one, list := p.add, p.one, p.list
	one("stage", c.Stage, stagePattern, aStage)
	list("domains", c.Domains, domainPattern, aDomain)
	list("sourceBuckets", c.SourceBuckets, bucketPattern, "a bucket name")
	list("destinationBuckets", c.DestinationBuckets, bucketPattern, "a bucket name")
	list("snapshotRoleArns", c.SnapshotRoleARNs, rolePattern, aRole)
	p.several("assumedRoleArns", c.AssumedRoleARNs, rolePattern, aRole)
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
	return errors.Join(p...)
}
