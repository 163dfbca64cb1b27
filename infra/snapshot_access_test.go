package main

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/assertions"
)

// otherCaller is the role of another account that the deployment under test may assume.
const otherCaller = "arn:aws:iam::444455556666:role/domainferry-dev-access-eu-west-1"

func accessConfig() AccessConfig {
	return AccessConfig{
		Stage: "dev", Domain: "arn:aws:es:eu-west-1:444455556666:domain/legacy", ExternalID: "ferry-7", SharedBuckets: []string{"shared-snapshots"},
		WorkflowRoleARNs: []string{"arn:aws:iam::111122223333:role/caller", "arn:aws:iam::111122223333:role/copier"},
	}
}

// accessSynthesis is the template of the stack, and what cdk-nag says of another one.
var accessSynthesis = sync.OnceValues(func() (x template, err error) {
	context, err := cdkContext()
	if err != nil {
		return x, err
	}
	stack := newAccessStack(awscdk.NewApp(&awscdk.AppProps{Context: &context}), accessConfig())
	b, err := json.Marshal(assertions.Template_FromStack(stack, nil).ToJSON())
	if err != nil {
		return x, err
	}
	return x, json.Unmarshal(b, &x)
})

func accessTemplate(t *testing.T) template {
	t.Helper()
	needNode(t)
	x, err := accessSynthesis()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestTheFunctionsAssumeTheRolesOfTheConfigOnly(t *testing.T) {
	x := synthesized(t).template
	var assuming []string
	for role, list := range x.statements(t) {
		for _, s := range list {
			if slices.ContainsFunc(s.actions(), func(a string) bool { return strings.HasPrefix(a, "sts:") }) {
				assuming = append(assuming, role)
				expectJSON(t, "action", s.actions(), `["sts:AssumeRole"]`)
				expectJSON(t, "assumed roles", s.resources(), `["`+otherCaller+`"]`)
			}
		}
	}
	want := []string{x.role(t, "CallerRole"), x.role(t, "CopierRole"), x.role(t, "RegisterRole")}
	slices.Sort(assuming)
	slices.Sort(want)
	if !slices.Equal(assuming, want) {
		t.Errorf("roles that assume others: %v, want %v", assuming, want)
	}
}

func TestAccessRolesAreTrustedNarrowly(t *testing.T) {
	x := accessTemplate(t)
	for prefix, want := range map[string]string{
		"SnapshotAccessSnapshotRole": `[{"Action":"sts:AssumeRole","Condition":{"ArnLike":{"aws:SourceArn":"arn:aws:es:eu-west-1:444455556666:domain/legacy"},` +
			`"StringEquals":{"aws:SourceAccount":"444455556666"}},"Effect":"Allow","Principal":{"Service":"es.amazonaws.com"}}]`,
		"SnapshotAccessCallerRole": `[{"Action":"sts:AssumeRole","Condition":{"StringEquals":{"sts:ExternalId":"ferry-7"}},"Effect":"Allow",` +
			`"Principal":{"AWS":["arn:aws:iam::111122223333:role/caller","arn:aws:iam::111122223333:role/copier"]}}]`,
	} {
		var trust struct{ Statement any }
		convert(t, x.Resources[x.role(t, prefix)].Properties["AssumeRolePolicyDocument"], &trust)
		expectJSON(t, prefix, trust.Statement, want)
	}
	if n := len(x.find("AWS::IAM::Role")); n != 2 {
		t.Errorf("%d roles", n)
	}
}

func TestAccessRolesMayDoWhatIsNeeded(t *testing.T) {
	x := accessTemplate(t)
	bucket := x.find("AWS::S3::Bucket")[0]
	snapshots := x.role(t, "SnapshotAccessSnapshotRole")
	name := strings.NewReplacer(
		`{"Fn::Join":["",[`+getAtt(bucket)+`,"/*"]]}`, "bucket/*", getAtt(bucket), "bucket", getAtt(snapshots), "snapshot role",
		`{"Fn::Join":["",["arn:",{"Ref":"AWS::Partition"},":s3:::shared-snapshots/*"]]}`, "shared/*",
		`{"Fn::Join":["",["arn:",{"Ref":"AWS::Partition"},":s3:::shared-snapshots"]]}`, "shared",
		"arn:aws:es:eu-west-1:444455556666:domain/legacy", "domain")
	want := map[string][]string{
		snapshots: {"bucket s3:ListBucket", "shared s3:ListBucket"},
		x.role(t, "SnapshotAccessCallerRole"): {"snapshot role iam:PassRole", "bucket s3:DeleteBucketPolicy", "bucket s3:GetBucketOwnershipControls",
			"bucket s3:GetBucketPolicy", "bucket s3:PutBucketPolicy"},
	}
	for _, action := range []string{"AbortMultipartUpload", "DeleteObject", "GetObject", "ListMultipartUploadParts", "PutObject"} {
		want[snapshots] = append(want[snapshots], "bucket/* s3:"+action, "shared/* s3:"+action)
	}
	for _, method := range []string{"Delete", "Get", "Head", "Post", "Put"} {
		want[x.role(t, "SnapshotAccessCallerRole")] = append(want[x.role(t, "SnapshotAccessCallerRole")], "domain/* es:ESHttp"+method)
	}
	statements := x.statements(t)
	if len(statements) != len(want) {
		t.Errorf("%d roles have statements", len(statements))
	}
	for role, rights := range want {
		var got []string
		for _, s := range statements[role] {
			for _, a := range s.actions() {
				for _, r := range s.resources() {
					got = append(got, name.Replace(r)+" "+a)
				}
			}
			if slices.Contains(s.actions(), "iam:PassRole") {
				expectJSON(t, "condition", s.Condition, `{"StringEquals":{"iam:PassedToService":"es.amazonaws.com"}}`)
			}
		}
		slices.Sort(got)
		slices.Sort(rights)
		if !slices.Equal(got, rights) {
			t.Errorf("%s:\n got %v\nwant %v", role, got, rights)
		}
	}
}

func TestAccessBucket(t *testing.T) {
	x := accessTemplate(t)
	r := x.Resources[x.find("AWS::S3::Bucket")[0]]
	if r.DeletionPolicy != "Retain" {
		t.Errorf("deletion policy %q", r.DeletionPolicy)
	}
	expectJSON(t, "ownership", r.Properties["OwnershipControls"], `{"Rules":[{"ObjectOwnership":"BucketOwnerEnforced"}]}`)
	expectJSON(t, "public access", r.Properties["PublicAccessBlockConfiguration"],
		`{"BlockPublicAcls":true,"BlockPublicPolicy":true,"IgnorePublicAcls":true,"RestrictPublicBuckets":true}`)
	expectJSON(t, "lifecycle", r.Properties["LifecycleConfiguration"],
		`{"Rules":[{"AbortIncompleteMultipartUpload":{"DaysAfterInitiation":7},"Id":"abort-incomplete-uploads","Status":"Enabled"}]}`)
}

func TestAccessOutputsAreTheInput(t *testing.T) {
	x := accessTemplate(t)
	var input struct {
		Join []any `json:"Fn::Join"`
	}
	convert(t, x.Outputs["Input"].Value, &input)
	// The references put together, each by its logical id's end.
	var text strings.Builder
	for _, part := range input.Join[1].([]any) {
		if s, ok := part.(string); ok {
			text.WriteString(s)
			continue
		}
		b, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		switch s := string(b); {
		case strings.Contains(s, "SnapshotRole"):
			text.WriteString("SNAPSHOTS")
		case strings.Contains(s, "CallerRole"):
			text.WriteString("CALLER")
		case strings.Contains(s, "Bucket"):
			text.WriteString("BUCKET")
		case strings.Contains(s, "Region"):
			text.WriteString("REGION")
		}
	}
	var side any
	if err := json.Unmarshal([]byte(text.String()), &side); err != nil {
		t.Fatalf("%v: %s", err, text.String())
	}
	expectJSON(t, "Input", side, `{"domainArn":"arn:aws:es:eu-west-1:444455556666:domain/legacy","access":{"roleArn":"CALLER","externalId":"ferry-7"},`+
		`"repository":{"bucket":"BUCKET","region":"REGION","roleArn":"SNAPSHOTS"}}`)
	for _, id := range []string{"Bucket", "SnapshotRoleArn", "CallerRoleArn"} {
		if _, ok := x.Outputs[id]; !ok {
			t.Errorf("no output %s", id)
		}
	}
}

func TestAccessConfigProblemsAreAllNamed(t *testing.T) {
	_, err := LoadAccessConfig(map[string]any{
		"stage": "Dev", "domain": "legacy", "workflowRoleArns": []any{}, "externalId": "a b", "bucket": "B", "sharedBuckets": []any{"x", "good", "good"},
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, path := range []string{"stage:", "domain:", "workflowRoleArns:", "externalId:", "bucket:", "sharedBuckets[0]:", "sharedBuckets[2]:"} {
		if !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(l string) bool { return strings.HasPrefix(l, path) }) {
			t.Errorf("%s is not named in:\n%v", path, err)
		}
	}
	if _, err := LoadAccessConfig(`{"stage":"dev","domian":"x"}`); err == nil || !strings.Contains(err.Error(), "domian") {
		t.Errorf("%v", err)
	}
	config := validConfig(t)
	config["assumedRoleArns"] = []any{"role"}
	if _, err := LoadConfig(config); err == nil || !strings.HasPrefix(err.Error(), "assumedRoleArns[0]:") {
		t.Errorf("%v", err)
	}
}

// TestTheAccountOfADomainNeedsNoBinaries builds the stack of the other account as the command line does.
func TestTheAccountOfADomainNeedsNoBinaries(t *testing.T) {
	needNode(t)
	context, err := cdkContext()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(accessConfig())
	if err != nil {
		t.Fatal(err)
	}
	context[accessKey] = string(text)
	app := awscdk.NewApp(&awscdk.AppProps{Context: &context})
	if err := build(app, "nowhere"); err != nil {
		t.Fatal(err)
	}
	if children := *app.Node().Children(); len(children) != 1 || *children[0].Node().Id() != "DomainFerryAccess-dev" {
		t.Errorf("%d stacks", len(children))
	}
	context[accessKey] = map[string]any{"stage": "dev"}
	if err := build(awscdk.NewApp(&awscdk.AppProps{Context: &context}), "nowhere"); err == nil || !strings.Contains(err.Error(), "workflowRoleArns") {
		t.Errorf("%v", err)
	}
}
