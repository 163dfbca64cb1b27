package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/jsii-runtime-go"

	"github.com/domainferry/domainferry/internal/names"
)

// duty is what a function needs rights for; each duty has one role.
type duty string

const (
	// caller speaks to domains. It is one role with a stable name, because fine-grained access control maps role ARNs and an
	// operator should map one, once.
	caller duty = "caller"
	// register speaks to domains and passes the snapshot role. PutRepository is checked for iam:PassRole against the very
	// identity that signs the request, and a Lambda role cannot be narrowed for one function by a session policy. So register
	// has a role of its own, to be mapped beside the caller's; otherwise every function could pass the snapshot role.
	register duty = "register"
	// copier copies objects and never speaks to a domain.
	copier duty = "copier"
	// decider reads and writes the journal only.
	decider duty = "decider"
)

// duties says which role a function runs with. A function that is not here speaks to domains.
var duties = map[string]duty{
	"register":     register,
	"plan-copy":    copier,
	"copy":         copier,
	"publish-copy": copier,
	"ask":          decider,
}

func dutyOf(function string) duty {
	if d, ok := duties[function]; ok {
		return d
	}
	return caller
}

// speaksToDomains: these run in the VPC when there is one; the others need nothing but S3 and stay outside.
func (d duty) speaksToDomains() bool { return d == caller || d == register }

// newRoles makes the Lambdas' roles. Role names carry the Region, because IAM is global and a stage may be deployed to several.
func newRoles(stack awscdk.Stack, c Config, journal awss3.Bucket) map[duty]awsiam.Role {
	roles := map[duty]awsiam.Role{}
	for _, d := range []struct {
		duty        duty
		id          string
		description string
	}{
		{caller, "CallerRole", "Domain Ferry: calls the domains; map it in their fine-grained access control"},
		{register, "RegisterRole", "Domain Ferry: registers repositories, passes the snapshot role; map it like the caller role"},
		{copier, "CopierRole", "Domain Ferry: copies snapshot objects between buckets"},
		{decider, "DeciderRole", "Domain Ferry: reads and writes the journal"},
	} {
		role := awsiam.NewRole(stack, jsii.String(d.id), &awsiam.RoleProps{
			RoleName:    jsii.String(resourceName(c, string(d.duty)) + "-" + *stack.Region()),
			Description: jsii.String(d.description),
			AssumedBy:   awsiam.NewServicePrincipal(jsii.String("lambda.amazonaws.com"), nil),
		})
		allow(role, "Journal", []string{"s3:GetObject", "s3:PutObject"}, *journal.BucketArn()+"/*")
		// Without the right to list, S3 answers 403 instead of 404 to a missing object.
		allow(role, "JournalList", []string{"s3:ListBucket"}, *journal.BucketArn())
		// Whether the execution that has a domain still runs. The ARN is put together from the name: the machine depends on this role.
		allow(role, "AskExecutions", []string{"states:DescribeExecution"}, *stack.FormatArn(&awscdk.ArnComponents{
			Service: jsii.String("states"), Resource: jsii.String("execution"), ResourceName: jsii.String(resourceName(c, names.MigrationMachine) + ":*"),
			ArnFormat: awscdk.ArnFormat_COLON_RESOURCE_NAME,
		}))
		roles[d.duty] = role
	}

	domains := each(c.Domains, func(arn string) string { return arn + "/*" })
	buckets := each(union(c.SourceBuckets, c.DestinationBuckets), bucketARN)
	methods := []string{"es:ESHttpDelete", "es:ESHttpGet", "es:ESHttpHead", "es:ESHttpPost", "es:ESHttpPut"}
	for _, d := range []duty{caller, register} {
		allow(roles[d], "Domains", methods, domains...)
	}
	roles[register].AddToPolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid:       jsii.String("PassSnapshotRole"),
		Actions:   jsii.Strings("iam:PassRole"),
		Resources: jsii.Strings(c.SnapshotRoleARNs...),
		Conditions: &map[string]any{
			"StringEquals": map[string]any{"iam:PassedToService": "es.amazonaws.com"},
		},
	}))

	if len(c.AssumedRoleARNs) > 0 {
		for _, d := range []duty{caller, register, copier} {
			allow(roles[d], "OtherAccounts", []string{"sts:AssumeRole"}, c.AssumedRoleARNs...)
		}
	}

	if c.AlarmTopicARN != "" {
		allow(roles[decider], "TellTheOperator", []string{"sns:Publish"}, c.AlarmTopicARN)
	}

	allow(roles[copier], "ListBuckets", []string{"s3:GetBucketLocation", "s3:ListBucket"}, buckets...)
	allow(roles[copier], "ReadSource", []string{"s3:GetObject"}, each(c.SourceBuckets, objectsARN)...)
	// Delete: a stale index-N at the destination has to go before the copy is published.
	allow(roles[copier], "WriteDestination",
		[]string{"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"},
		each(c.DestinationBuckets, objectsARN)...)

	if c.VPC != nil {
		for _, d := range []duty{caller, register} {
			// Lambda makes the network interfaces with the function's role; EC2 has no resource-level rights for these calls.
			allow(roles[d], "NetworkInterfaces", []string{
				"ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
				"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses",
			}, "*")
		}
	}
	return roles
}

func allow(role awsiam.Role, sid string, actions []string, resources ...string) {
	role.AddToPolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid:       jsii.String(sid),
		Actions:   jsii.Strings(actions...),
		Resources: jsii.Strings(resources...),
	}))
}

func bucketARN(name string) string  { return "arn:" + *awscdk.Aws_PARTITION() + ":s3:::" + name }
func objectsARN(name string) string { return bucketARN(name) + "/*" }

func each(values []string, f func(string) string) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = f(v)
	}
	return out
}

// union keeps the order and drops repetitions: one bucket may be a source here and a destination there.
func union(a, b []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, list := range [][]string{a, b} {
		for _, v := range list {
			if !seen[v] {
				seen[v] = true
				out = append(out, v)
			}
		}
	}
	return out
}
