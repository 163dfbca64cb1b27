package statemachine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/domainferry/domainferry"

// goPackage is what `go list -json` says of a package, as far as the rule needs it. Imports are those of its own files without
// tests; Deps are those of the whole tree below it.
type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// floor is how high a room stands (DESIGN.md section 3): imports between rooms of this module point to lower floors only.
var floor = map[string]int{
	"internal/fault":      0,
	"internal/names":      0,
	"statemachine":        0,
	"internal/migration":  1,
	"internal/repository": 2,
	"internal/access":     2, // what the bucket's and the domain's clients are given to set
	"internal/cluster":    3,
	"internal/s3copy":     3, // orders its work by the layout that repository knows
	"internal/replay":     4, // speaks to both domains by what cluster knows
	"internal/verify":     3,
	"internal/report":     3,
	"internal/lambdahost": 3,
	"internal/watch":      3,
	"internal/journal":    4, // keeps what the others measured
	"internal/clients":    5, // wires the rooms below for the Lambdas
	"internal/step":       5,
	"lambdas":             6,
	"internal/local":      7, // stands in for AWS: may know everything but the commands
	"infra":               7,
	"cmd":                 8,
}

// roomOf is the room a package of this module belongs to: "internal/step" of ".../internal/step/x", "lambdas" of all Lambdas.
// It is empty for packages of other modules.
func roomOf(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	parts := strings.SplitN(rest, "/", 3)
	if parts[0] == "internal" && len(parts) > 1 {
		return path.Join(parts[0], parts[1])
	}
	return parts[0]
}

// isTestSupport: packages that only tests import may import anything (contract suites).
func isTestSupport(importPath string) bool { return strings.HasSuffix(importPath, "test") }

var forbiddenToLambdas = []string{module + "/internal/local", module + "/infra", "github.com/aws/aws-cdk-go", "github.com/aws/constructs-go",
	"github.com/aws/jsii-runtime-go", "github.com/cdklabs", "github.com/recolabs/gnata", "testing", "net/http/httptest"}

// importProblems applies DESIGN.md section 3 to the packages of this module.
func importProblems(packages []goPackage) []string {
	var problems []string
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	under := func(importPath, root string) bool {
		return importPath == root || strings.HasPrefix(importPath, root+"/")
	}
	for _, p := range packages {
		room := roomOf(p.ImportPath)
		if room == "" || isTestSupport(p.ImportPath) {
			continue
		}
		own, known := floor[room]
		if !known {
			problem("%s: room %s has no floor; say in this test where it stands", p.ImportPath, room)
			continue
		}
		for _, i := range p.Imports {
			to := roomOf(i)
			if to == "" || to == room {
				continue
			}
			if floor[to] >= own {
				problem("%s imports %s, which does not stand below it", p.ImportPath, i)
			}
			if to == "internal/local" && room != "cmd" {
				problem("%s imports %s: only tests and cmd may", p.ImportPath, i)
			}
			if room == "infra" && to != "internal/names" && to != "statemachine" {
				problem("%s imports %s: infra shares only names and the definitions", p.ImportPath, i)
			}
		}
		for _, d := range p.Deps {
			switch {
			case room == "lambdas" && slices.ContainsFunc(forbiddenToLambdas, func(f string) bool { return under(d, f) }):
				problem("%s depends on %s, which has no place in a Lambda", p.ImportPath, d)
			case room == "internal/migration" && (d == "net/http" || under(d, "github.com/aws")):
				problem("%s depends on %s: the room is pure", p.ImportPath, d)
			}
		}
	}
	return problems
}

// modulePackages lists the packages of this module that exist by now. -e lets the rule speak while a package does not compile.
func modulePackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func TestImportsPointDownwards(t *testing.T) {
	packages := modulePackages(t)
	if !slices.ContainsFunc(packages, func(p goPackage) bool { return p.ImportPath == module+"/internal/fault" }) {
		t.Fatalf("go list found %d packages, but not internal/fault", len(packages))
	}
	for _, p := range importProblems(packages) {
		t.Error(p)
	}
}

func TestImportRule(t *testing.T) {
	in := func(paths ...string) []string {
		for i, p := range paths {
			if strings.HasPrefix(p, "internal/") || p == "statemachine" {
				paths[i] = module + "/" + p
			}
		}
		return paths
	}
	for name, tc := range map[string]struct {
		from    string
		imports []string
		deps    []string
		want    string // empty: allowed
	}{
		"step uses a cluster":          {"internal/step", in("internal/cluster", "internal/fault", "net/http"), nil, ""},
		"cluster knows step":           {"internal/cluster", in("internal/step"), nil, "does not stand below"},
		"peers":                        {"internal/cluster", in("internal/s3copy"), nil, "does not stand below"},
		"step uses local":              {"internal/step", in("internal/local/node"), nil, "only tests and cmd"},
		"infra uses local":             {"infra", in("internal/local/asl"), nil, "only tests and cmd"},
		"infra uses step":              {"infra", in("internal/step"), nil, "infra shares only"},
		"infra uses names":             {"infra", in("internal/names", "statemachine"), nil, ""},
		"command uses local":           {"cmd/domainferry", in("internal/local/node"), nil, ""},
		"contract suite uses local":    {"internal/cluster/clustertest", in("internal/local/node"), nil, ""},
		"lambda depends on local":      {"lambdas/copy", nil, in("internal/local/asl"), "no place in a Lambda"},
		"lambda depends on the CDK":    {"lambdas/copy", nil, []string{"github.com/aws/aws-cdk-go/awscdk/v2"}, "no place in a Lambda"},
		"lambda depends on testing":    {"lambdas/copy", nil, []string{"testing"}, "no place in a Lambda"},
		"lambda depends on the SDK":    {"lambdas/copy", nil, []string{"github.com/aws/aws-sdk-go-v2/service/s3", "net/http"}, ""},
		"migration depends on the SDK": {"internal/migration", nil, []string{"github.com/aws/smithy-go"}, "pure"},
		"migration depends on HTTP":    {"internal/migration", nil, []string{"net/http"}, "pure"},
		"unknown room":                 {"internal/util", nil, nil, "has no floor"},
	} {
		got := strings.Join(importProblems([]goPackage{{ImportPath: module + "/" + tc.from, Imports: tc.imports, Deps: tc.deps}}), "\n")
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
