package main

import (
	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsiam"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

// SnapshotAccess is what a domain's account has to have so that the workflow of another account can move it: a bucket for the repository, the
// snapshot role by which the domain reaches it, and the caller role that the workflow's functions assume.
type SnapshotAccess struct {
	Bucket       awss3.Bucket
	SnapshotRole awsiam.Role
	CallerRole   awsiam.Role
}

// NewSnapshotAccess makes it.
func NewSnapshotAccess(scope constructs.Construct, id string, c AccessConfig) SnapshotAccess {
	var a SnapshotAccess
	within := constructs.NewConstruct(scope, jsii.String(id))
	stack := awscdk.Stack_Of(within)
	bucket := &awss3.BucketProps{
		BlockPublicAccess: awss3.BlockPublicAccess_BLOCK_ALL(),
		Encryption:        awss3.BucketEncryption_S3_MANAGED,
		EnforceSSL:        jsii.Bool(true),
		MinimumTLSVersion: jsii.Number(1.2),
		// All objects are the bucket's account's, whoever writes them: no ACLs, and nothing to change for topology shared.
		ObjectOwnership: awss3.ObjectOwnership_BUCKET_OWNER_ENFORCED,
		RemovalPolicy:   awscdk.RemovalPolicy_RETAIN,
		// Nothing that expires objects: a repository refers to its oldest ones.
		LifecycleRules: &[]*awss3.LifecycleRule{{
			Id:                                  jsii.String("abort-incomplete-uploads"),
			AbortIncompleteMultipartUploadAfter: awscdk.Duration_Days(jsii.Number(7)),
		}},
	}
	if c.Bucket != "" {
		bucket.BucketName = jsii.String(c.Bucket)
	}
	a.Bucket = awss3.NewBucket(within, jsii.String("Bucket"), bucket)

	role := func(id, name, description string, by awsiam.IPrincipal) awsiam.Role {
		return awsiam.NewRole(within, jsii.String(id), &awsiam.RoleProps{
			// A name that is known before, because the deployment's config names the caller role and its trust names the deployment's roles.
			RoleName:    jsii.String("domainferry-" + c.Stage + "-" + name + "-" + *stack.Region()),
			Description: jsii.String(description),
			AssumedBy:   by,
		})
	}
	a.SnapshotRole = role("SnapshotRole", "snapshots", "Domain Ferry: the domain keeps its snapshots as this role",
		awsiam.NewServicePrincipal(jsii.String("es.amazonaws.com"), &awsiam.ServicePrincipalOpts{Conditions: &map[string]any{
			// Against the confused deputy: no domain but this one.
			"StringEquals": map[string]any{"aws:SourceAccount": accountOf(c.Domain)},
			"ArnLike":      map[string]any{"aws:SourceArn": c.Domain},
		}}))
	buckets := append([]string{*a.Bucket.BucketArn()}, each(c.SharedBuckets, bucketARN)...)
	objects := each(buckets, func(arn string) string { return arn + "/*" })
	allow(a.SnapshotRole, "ListBucket", []string{"s3:ListBucket"}, buckets...)
	allow(a.SnapshotRole, "Objects", []string{"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"}, objects...)

	var trusted awsiam.PrincipalBase = awsiam.NewCompositePrincipal(principals(c.WorkflowRoleARNs)...)
	if c.ExternalID != "" {
		trusted = awsiam.NewPrincipalWithConditions(trusted, &map[string]any{"StringEquals": map[string]any{"sts:ExternalId": c.ExternalID}})
	}
	a.CallerRole = role("CallerRole", "access", "Domain Ferry: the workflow's functions assume it to call the domain and to open and close the bucket; map it in the domain's fine-grained access control", trusted)
	allow(a.CallerRole, "Domain", []string{"es:ESHttpDelete", "es:ESHttpGet", "es:ESHttpHead", "es:ESHttpPost", "es:ESHttpPut"}, c.Domain+"/*")
	a.CallerRole.AddToPolicy(awsiam.NewPolicyStatement(&awsiam.PolicyStatementProps{
		Sid:        jsii.String("PassSnapshotRole"),
		Actions:    jsii.Strings("iam:PassRole"),
		Resources:  &[]*string{a.SnapshotRole.RoleArn()},
		Conditions: &map[string]any{"StringEquals": map[string]any{"iam:PassedToService": "es.amazonaws.com"}},
	}))
	// What is opened for a migration is closed at its end. Ownership and ACL stay as the bucket above has them.
	allow(a.CallerRole, "OpenAndClose", []string{"s3:DeleteBucketPolicy", "s3:GetBucketOwnershipControls", "s3:GetBucketPolicy", "s3:PutBucketPolicy"}, *a.Bucket.BucketArn())
	return a
}

func principals(arns []string) []awsiam.IPrincipal {
	list := make([]awsiam.IPrincipal, len(arns))
	for i, arn := range arns {
		list[i] = awsiam.NewArnPrincipal(jsii.String(arn))
	}
	return list
}

// newAccessStack makes the stack DomainFerryAccess-<stage>, for the account of a domain that another account's deployment moves. Its outputs are
// the values of that side in the migration's input.
func newAccessStack(scope constructs.Construct, c AccessConfig) awscdk.Stack {
	stack := awscdk.NewStack(scope, jsii.String("DomainFerryAccess-"+c.Stage), &awscdk.StackProps{
		Description: jsii.String("Lets a Domain Ferry deployment of another account move a domain of this one"),
	})
	awscdk.Tags_Of(stack).Add(jsii.String("domainferry:stage"), jsii.String(c.Stage), nil)
	a := NewSnapshotAccess(stack, "SnapshotAccess", c)
	output := func(id, value, description string) {
		awscdk.NewCfnOutput(stack, jsii.String(id), &awscdk.CfnOutputProps{Value: jsii.String(value), Description: jsii.String(description)})
	}
	access := map[string]any{"roleArn": *a.CallerRole.RoleArn()}
	if c.ExternalID != "" {
		access["externalId"] = c.ExternalID
	}
	side := map[string]any{
		"domainArn": c.Domain, "access": access,
		"repository": map[string]any{"bucket": *a.Bucket.BucketName(), "region": *stack.Region(), "roleArn": *a.SnapshotRole.RoleArn()},
	}
	output("Input", *stack.ToJsonString(side, nil), "This side (source or destination) of a migration's input; add the domain's endpoint")
	output("Bucket", *a.Bucket.BucketName(), "repository.bucket; name it in the deployment's config too (sourceBuckets or destinationBuckets)")
	output("SnapshotRoleArn", *a.SnapshotRole.RoleArn(), "repository.roleArn")
	output("CallerRoleArn", *a.CallerRole.RoleArn(), "access.roleArn; name it in the deployment's config too (assumedRoleArns), and map it in the domain")
	return stack
}
