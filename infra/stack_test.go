package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/assertions"
	"github.com/aws/aws-cdk-go/awscdk/v2/awss3"
	"github.com/aws/jsii-runtime-go"
	"github.com/cdklabs/cdk-nag-go/cdknag/v2"

	"github.com/domainferry/domainferry/internal/names"
	"github.com/domainferry/domainferry/statemachine"
)

// TestMain runs the tests with the CDK's own validation off: it costs 5 s a process, and make synth runs it. The jsii kernel takes
// its environment while the imports are initialised, before any code here: so the binary sets it and starts over.
func TestMain(m *testing.M) {
	if os.Getenv("CDK_VALIDATION") == "" {
		os.Setenv("CDK_VALIDATION", "false")
		os.Setenv("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")
		binary, err := os.Executable()
		if err == nil {
			err = syscall.Exec(binary, os.Args, os.Environ())
		}
		fmt.Fprintln(os.Stderr, "start the tests over:", err)
		os.Exit(1)
	}
	code := m.Run()
	jsii.Close()
	os.Exit(code)
}

// needNode skips on a laptop without Node, and fails in CI.
func needNode(t *testing.T) { t.Helper(); needTool(t, "node", "the CDK runs on Node") }

func needTool(t *testing.T, tool, purpose string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: %s", tool, purpose)
		}
		t.Skipf("%s is missing: %s", tool, purpose)
	}
}

// synthesis is the stack with everything optional in it, made once: the jsii kernel costs seconds.
type synthesis struct {
	template template
	text     string
	nag      []string
}

var synthesize = sync.OnceValues(func() (s synthesis, err error) {
	dist, err := placeholderDist()
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dist)
	context, err := cdkContext()
	if err != nil {
		return s, err
	}
	config := context[contextKey].(map[string]any)
	config["vpc"] = map[string]any{"subnetIds": []any{"subnet-0123456789abcdef0", "subnet-0123456789abcdef1"}, "securityGroupIds": []any{"sg-0123456789abcdef0"}}
	config["assumedRoleArns"] = []any{otherCaller}
	config["alarmTopicArn"] = "arn:aws:sns:eu-west-1:111122223333:operators"
	config["schedules"] = []any{
		map[string]any{"name": "nightly", "expression": "cron(0 3 * * ? *)", "timezone": "Europe/Berlin",
			"input": map[string]any{"migration": "legacy-search", "rounds": map[string]any{"minimum": 3}}},
		map[string]any{"name": "standby", "machine": "round", "expression": "rate(1 hour)", "input": map[string]any{"migration": "legacy-search"}},
	}
	app := awscdk.NewApp(&awscdk.AppProps{Context: &context})
	c, err := LoadConfig(app.Node().TryGetContext(jsii.String(contextKey)))
	if err != nil {
		return s, err
	}
	b, err := json.MarshalIndent(assertions.Template_FromStack(newStack(app, c, dist), nil).ToJSON(), "", " ")
	if err != nil {
		return s, err
	}
	// A stack of its own for cdk-nag: with this flag a finding would end the synthesis, and hide the other ones.
	context["@aws-cdk/core:annotationsInValidationReport"] = false
	inspected := newStack(awscdk.NewApp(&awscdk.AppProps{Context: &context}), c, dist)
	suppress(inspected)
	s.nag = nagFindings(inspected)
	s.text = string(b)
	return s, json.Unmarshal(b, &s.template)
})

// placeholderDist makes assets where the binaries would be: tests look at the template, not at the code.
func placeholderDist() (string, error) {
	dist, err := os.MkdirTemp("", "domainferry-dist-")
	if err != nil {
		return "", err
	}
	for _, f := range names.Functions() {
		if err := os.Mkdir(filepath.Join(dist, f.Name), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dist, f.Name, "bootstrap"), []byte(f.Name), 0o755); err != nil {
			return "", err
		}
	}
	return dist, nil
}

// cdkContext is the context of cdk.json: with other feature flags the template would be another one.
func cdkContext() (map[string]any, error) {
	b, err := os.ReadFile("../cdk.json")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Context map[string]any `json:"context"`
	}
	return doc.Context, json.Unmarshal(b, &doc)
}

type template struct {
	Resources map[string]resource
	Outputs   map[string]struct{ Value any }
}

type resource struct {
	Type           string
	Properties     map[string]any
	DeletionPolicy string
}

type statement struct {
	Sid       string
	Effect    string
	Action    any
	Resource  any
	Condition map[string]any
}

func (s statement) actions() []string { return texts(s.Action) }

// resources are JSON texts, so that Fn::GetAtt can be compared.
func (s statement) resources() []string { return texts(s.Resource) }

func texts(v any) []string {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	out := make([]string, len(list))
	for i, e := range list {
		if text, ok := e.(string); ok {
			out[i] = text
			continue
		}
		b, _ := json.Marshal(e)
		out[i] = string(b)
	}
	return out
}

func synthesized(t *testing.T) synthesis {
	t.Helper()
	needNode(t)
	s, err := synthesize()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// find returns the logical ids of a type.
func (x template) find(kind string) []string {
	var out []string
	for id, r := range x.Resources {
		if r.Type == kind {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// named returns the one resource of a type whose property has that value.
func (x template) named(t *testing.T, kind, property, value string) (string, resource) {
	t.Helper()
	for _, id := range x.find(kind) {
		if x.Resources[id].Properties[property] == value {
			return id, x.Resources[id]
		}
	}
	t.Fatalf("no %s with %s = %s", kind, property, value)
	return "", resource{}
}

// statements returns what each role may do, by the role's logical id.
func (x template) statements(t *testing.T) map[string][]statement {
	t.Helper()
	out := map[string][]statement{}
	for _, kind := range []string{"AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"} {
		for _, id := range x.find(kind) {
			var p struct {
				PolicyDocument struct{ Statement []statement }
				Roles          []struct{ Ref string }
			}
			convert(t, x.Resources[id].Properties, &p)
			for _, role := range p.Roles {
				out[role.Ref] = append(out[role.Ref], p.PolicyDocument.Statement...)
			}
		}
	}
	for _, id := range x.find("AWS::IAM::Role") {
		for _, property := range []string{"ManagedPolicyArns", "Policies"} {
			if v, ok := x.Resources[id].Properties[property]; ok {
				t.Errorf("role %s has %s, which this test does not see into: %v", id, property, v)
			}
		}
	}
	return out
}

func (x template) role(t *testing.T, prefix string) string {
	t.Helper()
	for _, id := range x.find("AWS::IAM::Role") {
		if strings.HasPrefix(id, prefix) {
			return id
		}
	}
	t.Fatalf("no role %s", prefix)
	return ""
}

func convert(t *testing.T, from, to any) {
	t.Helper()
	b, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, to); err != nil {
		t.Fatal(err)
	}
}

func expectJSON(t *testing.T, what string, got any, want string) {
	t.Helper()
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var normal any
	if err := json.Unmarshal([]byte(want), &normal); err != nil {
		t.Fatalf("%s: the expectation is no JSON: %v", what, err)
	}
	w, _ := json.Marshal(normal)
	if string(b) != string(w) {
		t.Errorf("%s:\n got %s\nwant %s", what, b, w)
	}
}

func getAtt(id string) string { return `{"Fn::GetAtt":["` + id + `","Arn"]}` }

func TestNoStatementAllowsTooMuch(t *testing.T) {
	x := synthesized(t).template
	// What has no resource-level rights, or whose rights the CDK cannot narrow.
	unscoped := regexp.MustCompile(`^(xray:Put(TraceSegments|TelemetryRecords)|xray:GetSampling(Rules|Targets)|` +
		`logs:(Create|Get|Update|Delete|List)LogDelivery|logs:ListLogDeliveries|logs:(Put|Describe)ResourcePolic(y|ies)|logs:DescribeLogGroups|` +
		`ec2:(Assign|Unassign)PrivateIpAddresses|ec2:(Create|Delete|Describe)NetworkInterfaces?|ec2:DescribeSubnets)$`)
	statements := x.statements(t)
	if len(statements) < 8 {
		t.Fatalf("only %d roles have statements", len(statements))
	}
	for role, list := range statements {
		for _, s := range list {
			for _, action := range s.actions() {
				if strings.Contains(action, "*") {
					t.Errorf("%s: action %s is a wildcard", role, action)
				}
				if slices.Contains(s.resources(), "*") && !unscoped.MatchString(action) {
					t.Errorf("%s: %s is allowed on *", role, action)
				}
			}
		}
	}
}

func TestOnlyRegisterPassesTheSnapshotRole(t *testing.T) {
	x := synthesized(t).template
	register := x.role(t, "RegisterRole")
	found := 0
	for role, list := range x.statements(t) {
		for _, s := range list {
			if !slices.Contains(s.actions(), "iam:PassRole") {
				continue
			}
			found++
			if role != register {
				t.Errorf("%s may pass a role", role)
			}
			expectJSON(t, "passed roles", s.resources(), `["arn:aws:iam::111122223333:role/SnapshotRole"]`)
			expectJSON(t, "condition", s.Condition, `{"StringEquals":{"iam:PassedToService":"es.amazonaws.com"}}`)
		}
	}
	if found != 1 {
		t.Errorf("%d statements pass a role, want 1", found)
	}
}

func TestDomainsAreReachedByTwoRolesOnly(t *testing.T) {
	x := synthesized(t).template
	allowed := map[string]bool{x.role(t, "CallerRole"): false, x.role(t, "RegisterRole"): false}
	for role, list := range x.statements(t) {
		for _, s := range list {
			if !strings.HasPrefix(s.actions()[0], "es:") {
				continue
			}
			if _, ok := allowed[role]; !ok {
				t.Errorf("%s may call domains", role)
			}
			allowed[role] = true
			for _, a := range s.actions() {
				if !strings.HasPrefix(a, "es:ESHttp") {
					t.Errorf("%s: %s", role, a)
				}
			}
			expectJSON(t, "domains", s.resources(),
				`["arn:aws:es:eu-central-1:111122223333:domain/search/*","arn:aws:es:eu-west-1:111122223333:domain/legacy/*"]`)
		}
	}
	for role, did := range allowed {
		if !did {
			t.Errorf("%s may not call domains", role)
		}
	}
}

func TestBucketRights(t *testing.T) {
	x := synthesized(t).template
	journal := x.find("AWS::S3::Bucket")[0]
	place := map[string]string{
		`{"Fn::GetAtt":["` + journal + `","Arn"]}`:                                  "journal",
		`{"Fn::Join":["",[{"Fn::GetAtt":["` + journal + `","Arn"]},"/*"]]}`:         "journal/*",
		`{"Fn::Join":["",["arn:",{"Ref":"AWS::Partition"},":s3:::SOURCE"]]}`:        "source",
		`{"Fn::Join":["",["arn:",{"Ref":"AWS::Partition"},":s3:::SOURCE/*"]]}`:      "source/*",
		`{"Fn::Join":["",["arn:",{"Ref":"AWS::Partition"},":s3:::DESTINATION"]]}`:   "destination",
		`{"Fn::Join":["",["arn:",{"Ref":"AWS::Partition"},":s3:::DESTINATION/*"]]}`: "destination/*",
	}
	buckets := strings.NewReplacer("example-legacy-snapshots", "SOURCE", "example-search-snapshots", "DESTINATION")
	own := []string{"journal s3:ListBucket", "journal/* s3:GetObject", "journal/* s3:PutObject"}
	look := []string{"source s3:GetBucketLocation", "source s3:ListBucket", "destination s3:GetBucketLocation", "destination s3:ListBucket"}
	want := map[string][]string{
		"CallerRole":   own,
		"RegisterRole": own,
		"DeciderRole":  own,
		"CopierRole": append(append(slices.Clone(own), look...), "source/* s3:GetObject", "destination/* s3:GetObject", "destination/* s3:PutObject",
			"destination/* s3:DeleteObject", "destination/* s3:AbortMultipartUpload", "destination/* s3:ListMultipartUploadParts"),
	}
	statements := x.statements(t)
	for prefix, rights := range want {
		var got []string
		for _, s := range statements[x.role(t, prefix)] {
			for _, a := range s.actions() {
				if !strings.HasPrefix(a, "s3:") {
					continue
				}
				for _, r := range s.resources() {
					name, ok := place[buckets.Replace(r)]
					if !ok {
						name = r
					}
					got = append(got, name+" "+a)
				}
			}
		}
		slices.Sort(got)
		slices.Sort(rights)
		if !slices.Equal(got, rights) {
			t.Errorf("%s:\n got %v\nwant %v", prefix, got, rights)
		}
	}
}

func TestFunctions(t *testing.T) {
	x := synthesized(t).template
	roleOf := map[string]string{
		"preflight": "CallerRole", "register": "RegisterRole", "snapshot": "CallerRole", "poll-status": "CallerRole",
		"plan-copy": "CopierRole", "copy": "CopierRole", "publish-copy": "CopierRole", "restore": "CallerRole",
		"record-round": "CallerRole", "decide": "CallerRole", "ask": "DeciderRole", "freeze": "CallerRole", "thaw": "CallerRole",
		"verify": "CallerRole", "finish": "CallerRole",
		"plan-replay": "CallerRole", "replay": "CallerRole", "reconcile-deletes": "CallerRole", "record-pass": "CallerRole",
	}
	if n := len(x.find("AWS::Lambda::Function")); n != len(names.Functions()) {
		t.Errorf("%d functions, want %d", n, len(names.Functions()))
	}
	journal := x.find("AWS::S3::Bucket")[0]
	// The variables that only some have; those of JSON stand in order.
	more := func(function string) string {
		switch roleOf[function] {
		case "DeciderRole":
			return `,"TOPIC_ARN":"arn:aws:sns:eu-west-1:111122223333:operators"`
		case "CopierRole":
			return `,"COPIER_ROLE_ARN":` + getAtt(x.role(t, "CopierRole"))
		case "RegisterRole":
			return `,"CALLER_ROLE_ARN":` + getAtt(x.role(t, "CallerRole"))
		}
		return ""
	}
	for _, f := range names.Functions() {
		t.Run(f.Name, func(t *testing.T) {
			_, r := x.named(t, "AWS::Lambda::Function", "FunctionName", "domainferry-dev-"+f.Name)
			role := x.role(t, roleOf[f.Name])
			log, group := x.named(t, "AWS::Logs::LogGroup", "LogGroupName", "/aws/lambda/domainferry-dev-"+f.Name)
			for property, want := range map[string]string{
				"Architectures": `["arm64"]`,
				"Runtime":       `"provided.al2023"`,
				"Handler":       `"bootstrap"`,
				"Timeout":       fmt.Sprint(f.TimeoutSeconds),
				"MemorySize":    fmt.Sprint(f.MemoryMB),
				"LoggingConfig": `{"LogFormat":"JSON","LogGroup":{"Ref":"` + log + `"}}`,
				"TracingConfig": `{"Mode":"Active"}`,
				"Environment":   `{"Variables":{"JOURNAL_BUCKET":{"Ref":"` + journal + `"}` + more(f.Name) + `}}`,
				"Role":          getAtt(role),
			} {
				expectJSON(t, property, r.Properties[property], want)
			}
			expectJSON(t, "retention", group.Properties["RetentionInDays"], "90")
			vpc, inside := r.Properties["VpcConfig"]
			if wants := strings.HasPrefix(role, "Caller") || strings.HasPrefix(role, "Register"); inside != wants {
				t.Errorf("in the VPC: %v, want %v", inside, wants)
			}
			if inside {
				expectJSON(t, "VpcConfig", vpc, `{"SecurityGroupIds":["sg-0123456789abcdef0"],"SubnetIds":["subnet-0123456789abcdef0","subnet-0123456789abcdef1"]}`)
			}
			if !allows(x.statements(t)[role], "logs:PutLogEvents", getAtt(log)) {
				t.Errorf("the role may not write the function's log")
			}
		})
	}
}

func allows(list []statement, action, resource string) bool {
	return slices.ContainsFunc(list, func(s statement) bool {
		return s.Effect == "Allow" && slices.Contains(s.actions(), action) && slices.Contains(s.resources(), resource)
	})
}

func TestStateMachines(t *testing.T) {
	x := synthesized(t).template
	children := map[string]string{names.RoundMachinePlaceholder: names.RoundMachine, names.ReplayMachinePlaceholder: names.ReplayMachine}
	for name, definition := range map[string]string{names.MigrationMachine: statemachine.Migration, names.RoundMachine: statemachine.Round,
		names.ReplayMachine: statemachine.Replay} {
		t.Run(name, func(t *testing.T) {
			_, r := x.named(t, "AWS::StepFunctions::StateMachine", "StateMachineName", "domainferry-dev-"+name)
			if r.Properties["DefinitionString"] != definition {
				t.Error("DefinitionString is not the embedded text")
			}
			substitutions, _ := r.Properties["DefinitionSubstitutions"].(map[string]any)
			var used []string
			for _, m := range regexp.MustCompile(`\$\{([^}]*)\}`).FindAllStringSubmatch(definition, -1) {
				if !slices.Contains(used, m[1]) {
					used = append(used, m[1])
				}
			}
			if len(used) == 0 || len(substitutions) != len(used) {
				t.Errorf("%d substitutions for %d placeholders", len(substitutions), len(used))
			}

			var role struct {
				Att []string `json:"Fn::GetAtt"`
			}
			convert(t, r.Properties["RoleArn"], &role)
			statements := x.statements(t)[role.Att[0]]
			functions := map[string]string{}
			for _, f := range names.Functions() {
				id, _ := x.named(t, "AWS::Lambda::Function", "FunctionName", "domainferry-dev-"+f.Name)
				functions[f.Placeholder()] = getAtt(id)
			}
			var invoked []string
			for _, placeholder := range used {
				value, ok := substitutions[placeholder]
				if !ok {
					t.Errorf("${%s} stays in the definition", placeholder)
					continue
				}
				if child, ok := children[placeholder]; ok {
					id, _ := x.named(t, "AWS::StepFunctions::StateMachine", "StateMachineName", "domainferry-dev-"+child)
					expectJSON(t, placeholder, value, `{"Ref":"`+id+`"}`)
					if !allows(statements, "states:StartExecution", `{"Ref":"`+id+`"}`) {
						t.Errorf("the role may not start %s", child)
					}
					continue
				}
				expectJSON(t, placeholder, value, functions[placeholder])
				if !allows(statements, "lambda:InvokeFunction", functions[placeholder]) {
					t.Errorf("the role may not invoke %s", placeholder)
				}
				invoked = append(invoked, functions[placeholder])
			}
			for _, s := range statements {
				if slices.Contains(s.actions(), "lambda:InvokeFunction") {
					for _, resource := range s.resources() {
						if !slices.Contains(invoked, resource) {
							t.Errorf("the role may invoke %s, which the definition does not name", resource)
						}
					}
				}
			}
			expectJSON(t, "TracingConfiguration", r.Properties["TracingConfiguration"], `{"Enabled":true}`)
			log, group := x.named(t, "AWS::Logs::LogGroup", "LogGroupName", "/aws/vendedlogs/states/domainferry-dev-"+name)
			expectJSON(t, "retention", group.Properties["RetentionInDays"], "90")
			expectJSON(t, "LoggingConfiguration", r.Properties["LoggingConfiguration"], `{"Destinations":[{"CloudWatchLogsLogGroup":{"LogGroupArn":`+
				getAtt(log)+`}}],"IncludeExecutionData":true,"Level":"ALL"}`)
		})
	}
}

// stateARN is how the template writes an ARN of Step Functions or EventBridge that is put together from a name.
func stateARN(service, rest string) string {
	return `{"Fn::Join":["",["arn:",{"Ref":"AWS::Partition"},":` + service + `:",{"Ref":"AWS::Region"},":",{"Ref":"AWS::AccountId"},":` + rest + `"]]}`
}

func TestMachinesMayRunTheirChildren(t *testing.T) {
	x := synthesized(t).template
	definitions := map[string]string{names.RoundMachine: statemachine.Round, names.ReplayMachine: statemachine.Replay}
	statements := x.statements(t)
	migration := statements[x.role(t, "MigrationRole")]
	for _, action := range []string{"events:PutTargets", "events:PutRule", "events:DescribeRule"} {
		if !allows(migration, action, stateARN("events", "rule/StepFunctionsGetEventsForStepFunctionsExecutionRule")) {
			t.Errorf("migration lacks %s on the managed rule of .sync", action)
		}
	}
	watch := []string{"states:DescribeExecution", "states:StopExecution", "states:RedriveExecution"}
	mine := map[string][]string{} // what each role may do with executions
	for _, c := range []struct{ name, role, label string }{{"round", "RoundRole", "Copy"}, {"replay", "ReplayRole", "Replay"}, {"replay", "ReplayRole", "Deletes"}} {
		if !strings.Contains(definitions[c.name], `"Label": "`+c.label+`"`) {
			t.Errorf("%s: no map run has the label %s", c.name, c.label)
		}
		own := statements[x.role(t, c.role)]
		all, children := stateARN("states", "execution:domainferry-dev-"+c.name+":*"), stateARN("states", "execution:domainferry-dev-"+c.name+"/"+c.label+":*")
		for _, action := range watch {
			if !allows(migration, action, all) {
				t.Errorf("migration lacks %s on executions of %s", action, c.name)
			}
			if !allows(own, action, children) || !allows(own, action, all) {
				t.Errorf("%s lacks %s on map run children", c.name, action)
			}
		}
		if !allows(own, "states:StartExecution", stateARN("states", "stateMachine:domainferry-dev-"+c.name)) {
			t.Errorf("%s may not start the children of its Distributed Map", c.name)
		}
		mine["MigrationRole"] = append(mine["MigrationRole"], all)
		mine[c.role] = append(mine[c.role], all, children)
	}
	for role, want := range mine {
		for _, s := range statements[x.role(t, role)] {
			if !slices.Contains(s.actions(), "states:StopExecution") {
				continue
			}
			for _, resource := range s.resources() {
				if !slices.Contains(want, resource) {
					t.Errorf("%s may stop %s", role, resource)
				}
			}
		}
	}
}

func TestJournalBucket(t *testing.T) {
	x := synthesized(t).template
	ids := x.find("AWS::S3::Bucket")
	if len(ids) != 1 {
		t.Fatalf("buckets: %v", ids)
	}
	r := x.Resources[ids[0]]
	if r.DeletionPolicy != "Retain" {
		t.Errorf("DeletionPolicy %q", r.DeletionPolicy)
	}
	for property, want := range map[string]string{
		"PublicAccessBlockConfiguration": `{"BlockPublicAcls":true,"BlockPublicPolicy":true,"IgnorePublicAcls":true,"RestrictPublicBuckets":true}`,
		"VersioningConfiguration":        `{"Status":"Enabled"}`,
		"BucketEncryption":               `{"ServerSideEncryptionConfiguration":[{"ServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}`,
		"LifecycleConfiguration": `{"Rules":[{"AbortIncompleteMultipartUpload":{"DaysAfterInitiation":7},"Id":"abort-incomplete-uploads",
			"Status":"Enabled"}]}`,
	} {
		expectJSON(t, property, r.Properties[property], want)
	}
	var policy struct {
		PolicyDocument struct{ Statement []statement }
	}
	convert(t, x.Resources[x.find("AWS::S3::BucketPolicy")[0]].Properties, &policy)
	if !slices.ContainsFunc(policy.PolicyDocument.Statement, func(s statement) bool {
		b, _ := json.Marshal(s.Condition)
		return s.Effect == "Deny" && string(b) == `{"Bool":{"aws:SecureTransport":"false"}}`
	}) {
		t.Error("plain HTTP is not denied")
	}
}

func TestThawRule(t *testing.T) {
	x := synthesized(t).template
	_, rule := x.named(t, "AWS::Events::Rule", "Name", "domainferry-dev-thaw")
	migration, _ := x.named(t, "AWS::StepFunctions::StateMachine", "StateMachineName", "domainferry-dev-migration")
	thaw, _ := x.named(t, "AWS::Lambda::Function", "FunctionName", "domainferry-dev-thaw")
	queue := x.find("AWS::SQS::Queue")[0]
	expectJSON(t, "pattern", rule.Properties["EventPattern"], `{"source":["aws.states"],"detail-type":["Step Functions Execution Status Change"],
		"detail":{"status":["SUCCEEDED","FAILED","TIMED_OUT","ABORTED"],"stateMachineArn":[{"Ref":"`+migration+`"}]}}`)
	expectJSON(t, "targets", rule.Properties["Targets"], `[{"Arn":`+getAtt(thaw)+`,"Id":"Target0","DeadLetterConfig":{"Arn":`+getAtt(queue)+`},
		"InputTransformer":{"InputPathsMap":{"detail-executionArn":"$.detail.executionArn"},"InputTemplate":"{\"execution\":<detail-executionArn>}"},
		"RetryPolicy":{"MaximumEventAgeInSeconds":86400,"MaximumRetryAttempts":185}}]`)
	permitted := false
	for _, id := range x.find("AWS::Lambda::Permission") {
		permitted = permitted || x.Resources[id].Properties["Principal"] == "events.amazonaws.com"
	}
	if !permitted {
		t.Error("EventBridge may not invoke thaw")
	}
	ids := x.find("AWS::Lambda::EventInvokeConfig")
	if len(ids) != 1 {
		t.Fatalf("thaw has no destination for what it could not do: %v", ids)
	}
	p := x.Resources[ids[0]].Properties
	expectJSON(t, "destination", p["DestinationConfig"], `{"OnFailure":{"Destination":`+getAtt(queue)+`}}`)
	expectJSON(t, "function", p["FunctionName"], `{"Ref":"`+thaw+`"}`)
	if !allows(x.statements(t)[x.role(t, "CallerRole")], "sqs:SendMessage", getAtt(queue)) {
		t.Error("thaw may not write to the queue")
	}
}

func TestSchedules(t *testing.T) {
	x := synthesized(t).template
	queue := x.find("AWS::SQS::Queue")[0]
	for name, want := range map[string]struct{ machine, expression, zone, input string }{
		"nightly": {"migration", "cron(0 3 * * ? *)", "Europe/Berlin", `{"migration":"legacy-search","rounds":{"minimum":3}}`},
		"standby": {"round", "rate(1 hour)", "UTC", `{"migration":"legacy-search"}`},
	} {
		_, s := x.named(t, "AWS::Scheduler::Schedule", "Name", "domainferry-dev-"+name)
		machine, _ := x.named(t, "AWS::StepFunctions::StateMachine", "StateMachineName", "domainferry-dev-"+want.machine)
		if s.Properties["ScheduleExpression"] != want.expression || s.Properties["ScheduleExpressionTimezone"] != want.zone {
			t.Errorf("%s: %v %v", name, s.Properties["ScheduleExpression"], s.Properties["ScheduleExpressionTimezone"])
		}
		target := s.Properties["Target"].(map[string]any)
		expectJSON(t, name+" target", target["Arn"], `{"Ref":"`+machine+`"}`)
		expectJSON(t, name+" queue", target["DeadLetterConfig"], `{"Arn":`+getAtt(queue)+`}`)
		var input any
		if err := json.Unmarshal([]byte(target["Input"].(string)), &input); err != nil {
			t.Errorf("%s input: %v", name, err)
		}
		expectJSON(t, name+" input", input, want.input)
		var role struct {
			Att []string `json:"Fn::GetAtt"`
		}
		convert(t, target["RoleArn"], &role)
		if !allows(x.statements(t)[role.Att[0]], "states:StartExecution", `{"Ref":"`+machine+`"}`) {
			t.Errorf("%s may not start the machine", name)
		}
	}
}

func TestAlarms(t *testing.T) {
	x := synthesized(t).template
	metrics := map[string]string{}
	for _, id := range x.find("AWS::CloudWatch::Alarm") {
		p := x.Resources[id].Properties
		metrics[p["AlarmName"].(string)] = p["MetricName"].(string)
		expectJSON(t, id+" actions", p["AlarmActions"], `["arn:aws:sns:eu-west-1:111122223333:operators"]`)
		expectJSON(t, id+" threshold", p["Threshold"], "1")
		expectJSON(t, id+" missing data", p["TreatMissingData"], `"notBreaching"`)
	}
	expectJSON(t, "alarms", metrics, `{"domainferry-dev-MigrationFailed":"ExecutionsFailed","domainferry-dev-MigrationTimedOut":"ExecutionsTimedOut",
		"domainferry-dev-RoundFailed":"ExecutionsFailed","domainferry-dev-RoundTimedOut":"ExecutionsTimedOut",
		"domainferry-dev-ReplayFailed":"ExecutionsFailed","domainferry-dev-ReplayTimedOut":"ExecutionsTimedOut",
		"domainferry-dev-EventsUnheard":"ApproximateNumberOfMessagesVisible"}`)
}

func TestOutputs(t *testing.T) {
	x := synthesized(t).template
	migration, _ := x.named(t, "AWS::StepFunctions::StateMachine", "StateMachineName", "domainferry-dev-migration")
	round, _ := x.named(t, "AWS::StepFunctions::StateMachine", "StateMachineName", "domainferry-dev-round")
	replay, _ := x.named(t, "AWS::StepFunctions::StateMachine", "StateMachineName", "domainferry-dev-replay")
	for name, want := range map[string]string{
		"StateMachineArn":       `{"Ref":"` + migration + `"}`,
		"RoundStateMachineArn":  `{"Ref":"` + round + `"}`,
		"ReplayStateMachineArn": `{"Ref":"` + replay + `"}`,
		"CallerRoleArn":         getAtt(x.role(t, "CallerRole")),
		"RegisterRoleArn":       getAtt(x.role(t, "RegisterRole")),
		"JournalBucket":         `{"Ref":"` + x.find("AWS::S3::Bucket")[0] + `"}`,
		"StartCommand": `{"Fn::Join":["",["aws stepfunctions start-execution --state-machine-arn ",{"Ref":"` + migration +
			`"}," --input file://examples/amazon-cross-region.json"]]}`,
	} {
		expectJSON(t, name, x.Outputs[name].Value, want)
	}
	// Stable, because operators map it: only stage and Region are in the name.
	expectJSON(t, "caller role name", x.Resources[x.role(t, "CallerRole")].Properties["RoleName"],
		`{"Fn::Join":["",["domainferry-dev-caller-",{"Ref":"AWS::Region"}]]}`)
}

// suppress says why findings of cdk-nag are accepted. Suppressions live here, not in the deployed template.
func suppress(stack awscdk.Stack) {
	accept := func(id, reason string) *cdknag.NagPackSuppression {
		return &cdknag.NagPackSuppression{Id: jsii.String(id), Reason: jsii.String(reason)}
	}
	cdknag.NagSuppressions_AddStackSuppressions(stack, &[]*cdknag.NagPackSuppression{
		accept("AwsSolutions-IAM5", "Wildcards stand for paths of named domains, objects of named buckets, executions of named machines, log streams "+
			"of named groups, and for calls without resource-level rights (X-Ray, log delivery, network interfaces). "+
			"TestNoStatementAllowsTooMuch holds this list closed."),
		accept("AwsSolutions-S1", "Server access logs of the journal bucket would need a second bucket; CloudTrail data events are the account's choice."),
		accept("AwsSolutions-SQS3", "This queue is itself the dead-letter queue."),
	}, nil)
}

func TestNag(t *testing.T) {
	for _, finding := range synthesized(t).nag {
		t.Error(finding)
	}
	// The rules do run: a bucket that lets plain HTTP in is found.
	stack := awscdk.NewStack(awscdk.NewApp(nil), jsii.String("Careless"), nil)
	awss3.NewBucket(stack, jsii.String("Open"), nil)
	if findings := nagFindings(stack); !slices.ContainsFunc(findings, func(f string) bool { return strings.Contains(f, "AwsSolutions-S10") }) {
		t.Errorf("cdk-nag found %v in a careless stack", findings)
	}
}

// nagFindings runs cdk-nag's AWS Solutions rules, errors and warnings alike.
func nagFindings(stack awscdk.Stack) []string {
	awscdk.Aspects_Of(stack).Add(cdknag.NewAwsSolutionsChecks(&cdknag.NagPackProps{}), nil)
	annotations := assertions.Annotations_FromStack(stack)
	var out []string
	for _, m := range append(*annotations.FindError(jsii.String("*"), assertions.Match_AnyValue()),
		*annotations.FindWarning(jsii.String("*"), assertions.Match_AnyValue())...) {
		//lint:ignore SA1019 the assertions package still answers with the type that has moved
		out = append(out, fmt.Sprintf("%s: %v", *m.Id, m.Entry.Data))
	}
	return out
}

func TestLint(t *testing.T) {
	s := synthesized(t)
	needTool(t, "cfn-lint", "checks the template; pip install -r tools/python/requirements.txt")
	// cfn-lint 1.51 refuses an expression as a number, which JSONata states may have there, and in the branches of a Parallel state fails
	// over telling so. It gets a number; tools/validators read the definition as it is.
	text := s.text
	for expression, times := range map[string]int{"$decision.cutoverTimeoutSeconds": 2, "$decision.answerTimeoutSeconds": 1} {
		expression = `\"TimeoutSeconds\": \"{% ` + expression + ` %}\"`
		if n := strings.Count(text, expression); n != times {
			t.Errorf("the template has %s %d times, want %d", expression, n, times)
		}
		text = strings.ReplaceAll(text, expression, `\"TimeoutSeconds\": 900`)
	}
	file := filepath.Join(t.TempDir(), "template.json")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// W3005: the CDK writes DependsOn beside each Fn::GetAtt of a role, so that its policy is there first.
	out, err := exec.Command("cfn-lint", "--ignore-checks", "W3005", "--", file).CombinedOutput()
	if err != nil {
		t.Errorf("cfn-lint: %v\n%s", err, out)
	}
}
