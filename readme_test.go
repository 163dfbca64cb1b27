package domainferry_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
	"github.com/domainferry/domainferry/internal/migration"
	"github.com/domainferry/domainferry/statemachine"
)

var update = flag.Bool("update", false, "write the README's table of faults anew from internal/fault")

const readme = "README.md"

// block is what stands in the README between <!-- name --> and <!-- /name -->.
func block(t *testing.T, name string) string {
	t.Helper()
	_, rest, found := strings.Cut(string(read(t, readme)), "<!-- "+name+" -->\n")
	text, _, closed := strings.Cut(rest, "<!-- /"+name+" -->")
	if !found || !closed {
		t.Fatalf("the README has no block <!-- %s --> ... <!-- /%[1]s -->", name)
	}
	return text
}

func TestReadmeListsTheFaults(t *testing.T) {
	var b strings.Builder
	b.WriteString("| error | tried again by itself | what to do |\n|---|---|---|\n")
	for _, d := range fault.Catalogue() {
		again := "no"
		if d.Retryable {
			again = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", d.Name, again, strings.ReplaceAll(d.Hint, "|", `\|`))
	}
	have := block(t, "faults")
	if have == b.String() {
		return
	}
	if *update {
		const open, end = "<!-- faults -->\n", "<!-- /faults -->"
		text := strings.Replace(string(read(t, readme)), open+have+end, open+b.String()+end, 1)
		if err := os.WriteFile(readme, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the README's faults are not those of internal/fault; run go test . -run Readme -update. They are:\n%s", b.String())
}

// row is a row of the table of input fields.
type row struct{ required, standard, meaning string }

func inputRows(t *testing.T) map[string]row {
	t.Helper()
	rows := map[string]row{}
	name := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(block(t, "input")) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 || !strings.Contains(cells[0], "`") {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		for _, m := range name.FindAllStringSubmatch(cells[0], -1) {
			if _, twice := rows[m[1]]; twice {
				t.Errorf("field %s stands in two rows", m[1])
			}
			rows[m[1]] = row{cells[1], cells[2], cells[3]}
		}
	}
	return rows
}

// fieldsOf lists the JSON paths of a struct's leaves.
func fieldsOf(t reflect.Type, prefix string) []string {
	var paths []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[time.Time]() {
			paths = append(paths, fieldsOf(f.Type, prefix+name+".")...)
		} else {
			paths = append(paths, prefix+name)
		}
	}
	return paths
}

func TestReadmeListsTheInput(t *testing.T) {
	rows := inputRows(t)
	// A comment is accepted and not kept, so the Spec does not have it.
	want := append(fieldsOf(reflect.TypeFor[migration.Spec](), ""), "comment")
	slices.Sort(want)
	if have := slices.Sorted(maps.Keys(rows)); !slices.Equal(have, want) {
		t.Fatalf("the README's fields are\n%v\nthe input's are\n%v", have, want)
	}
	full := document(t, read(t, filepath.Join("examples", "amazon-cross-region.json")))
	set(full, "source.repository.region", "eu-west-1")
	set(full, "destination.repository.region", "eu-central-1")
	for _, side := range []string{"source", "destination"} { // the example stays within one account
		set(full, side+".access", map[string]any{"roleArn": "arn:aws:iam::111122223333:role/mover", "externalId": "ours"})
	}
	for name, r := range rows {
		without := clone(t, full)
		if !remove(without, name) {
			t.Errorf("%s is not in the example with every field", name)
			continue
		}
		if strings.HasPrefix(name, "cutOver.not") {
			remove(without, "cutOver.every") // which repeats both
		}
		spec, err := decode(t, without)
		if required := err != nil; required != slices.Contains([]string{"yes", "in `migrate`", "in `access`"}, r.required) { // the example has both
			t.Errorf("%s: the README says required: %q; without it the input is refused: %t (%v)", name, r.required, required, err)
		}
		if err != nil || name == "comment" {
			continue
		}
		body, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		// Only literal defaults stand in backticks; the others are said in words.
		if literal := strings.Trim(r.standard, "`"); literal != r.standard {
			if have, err := json.Marshal(get(document(t, body), name)); err != nil || string(have) != literal {
				t.Errorf("%s: the README says default %s, the code fills in %s (%v)", name, literal, have, err)
			}
		}
	}
}

// TestReadmeLimits tries the limits that the README gives: the last accepted value and the first refused one.
func TestReadmeLimits(t *testing.T) {
	rows := inputRows(t)
	for _, l := range []struct {
		field              string
		accepted, refused  any
		said               string
		onlyWith, withThis string // another field to set, and its value
	}{
		{"migration", strings.Repeat("a", 50), strings.Repeat("a", 51), "50 characters", "", ""},
		{"migration", "csx", "cs-x", "`cs-`", "", ""},
		{"migration", "a-1", "A-1", "lower-case", "", ""},
		{"mode", "assess", "rehearse", "`assess`, `warm` or `migrate`", "", ""},
		{"downtimeWindow", "1s", "999ms", "1 s", "", ""},
		{"downtimeWindow", "8760h", "8761h", "a year", "", ""},
		{"rounds.minimum", 2, 1, "at least 2 in mode `migrate`", "", ""},
		{"rounds.minimum", 1, 0, "1 to 500", "mode", "warm"},
		{"rounds.maximum", 500, 501, "at most 500", "", ""},
		{"rounds.pause", "8760h", "8761h", "a year", "", ""},
		{"replicas", 100, 101, "0 to 100", "", ""},
		{"finish.refreshInterval", "-1", "1", "`\"-1\"` for none", "", ""},
		{"finish.waitForGreen", "24h", "24h1m", "at most 24 h", "", ""},
		{"keepSnapshots", 1, 0, "1 to 1000", "", ""},
		{"keepSnapshots", 1000, 1001, "1 to 1000", "", ""},
		{"topology", "copy", "shared", "`copy`", "", ""},
		{"source.endpoint", "http://127.0.0.1:9200", "http://example.com", "https", "", ""},
		{"source.repository.basePath", "a/b", "/a", "slash", "", ""},
		{"source.repository.basePath", strings.Repeat("a", 512), strings.Repeat("a", 513), "512 bytes", "", ""},
	} {
		if !strings.Contains(rows[l.field].meaning, l.said) {
			t.Errorf("the README's row of %s does not say %q", l.field, l.said)
		}
		input := document(t, read(t, filepath.Join("examples", "amazon-cross-region.json")))
		if l.onlyWith != "" {
			set(input, l.onlyWith, l.withThis)
		}
		set(input, l.field, l.accepted)
		if _, err := decode(t, input); err != nil {
			t.Errorf("%s = %v: %v", l.field, l.accepted, err)
		}
		set(input, l.field, l.refused)
		if _, err := decode(t, input); err == nil {
			t.Errorf("%s = %v is accepted; the README says that it is not", l.field, l.refused)
		}
	}
}

func decode(t *testing.T, input map[string]any) (migration.Spec, error) {
	t.Helper()
	body, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	return migration.DecodeSpec(body)
}

func clone(t *testing.T, m map[string]any) map[string]any {
	t.Helper()
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return document(t, body)
}

// parent walks to the object that holds the last part of a dotted path; nil when a part is missing.
func parent(m map[string]any, path string) (map[string]any, string) {
	parts := strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		m, _ = m[p].(map[string]any)
	}
	return m, parts[len(parts)-1]
}

func get(m map[string]any, path string) any { m, name := parent(m, path); return m[name] }

func set(m map[string]any, path string, v any) { m, name := parent(m, path); m[name] = v }

func remove(m map[string]any, path string) bool {
	m, name := parent(m, path)
	_, there := m[name]
	delete(m, name)
	return there
}

// aslState is what the pictures show of a state.
type aslState struct {
	Type, Next, Default string
	End                 bool
	Choices, Catch      []struct{ Next string }
}

// TestReadmePicturesTheMachines compares the arrows of both pictures with the definitions. Choice states are left out of the
// pictures: an arrow stands for each of their branches.
func TestReadmePicturesTheMachines(t *testing.T) {
	for name, definition := range map[string]string{"migration-machine": statemachine.Migration, "round-machine": statemachine.Round, "replay-machine": statemachine.Replay} {
		var m struct {
			StartAt string
			States  map[string]aslState
		}
		if err := json.Unmarshal([]byte(definition), &m); err != nil {
			t.Fatal(err)
		}
		var through func(state string) []string
		through = func(state string) []string {
			s := m.States[state]
			if s.Type != "Choice" {
				return []string{state}
			}
			to := through(s.Default)
			for _, c := range s.Choices {
				to = append(to, through(c.Next)...)
			}
			return to
		}
		want := map[string]bool{}
		arrow := func(from, to string) {
			for _, end := range through(to) {
				want[from+" --> "+end] = true
			}
		}
		arrow("[*]", m.StartAt)
		for from, s := range m.States {
			switch {
			case s.Type == "Choice":
			case s.End || s.Type == "Succeed" || s.Type == "Fail":
				want[from+" --> [*]"] = true
			default:
				arrow(from, s.Next)
			}
			for _, c := range s.Catch {
				arrow(from, c.Next)
			}
		}
		have := map[string]bool{}
		for line := range strings.Lines(block(t, name)) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), ":")
			if strings.Contains(line, " --> ") {
				have[strings.TrimSpace(line)] = true
			}
		}
		for a := range want {
			if !have[a] {
				t.Errorf("picture %s lacks %s", name, a)
			}
		}
		for a := range have {
			if !want[a] {
				t.Errorf("picture %s has %s, which the definition has not", name, a)
			}
		}
	}
}

// TestReadmeMapsThePackages: one line for every package, and no line for a package that is gone.
func TestReadmeMapsThePackages(t *testing.T) {
	packages := map[string]bool{}
	for _, root := range []string{"cmd", "infra", "internal", "lambdas", "statemachine"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
				dir := filepath.ToSlash(filepath.Dir(path))
				if root == "lambdas" {
					dir = "lambdas/*" // one line for all: they are wiring
				}
				packages[dir] = true
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	mapped := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(block(t, "map"), -1) {
		mapped[m[1]] = true
	}
	for p := range packages {
		if !mapped[p] {
			t.Errorf("the README's map lacks %s", p)
		}
	}
	for p := range mapped {
		if _, err := os.Stat(p); !packages[p] && err != nil {
			t.Errorf("the README's map has %s, which does not exist", p)
		}
	}
}

// TestReadmeNamesWhatExists: files, make targets and subcommands that the README names.
func TestReadmeNamesWhatExists(t *testing.T) {
	text := string(read(t, readme))
	for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(m[1]); err != nil {
			t.Errorf("link: %v", err)
		}
	}
	for _, file := range exampleFiles(t) {
		if !strings.Contains(text, "examples/"+file) {
			t.Errorf("the README does not speak of examples/%s", file)
		}
	}
	makefile := string(read(t, "Makefile"))
	for _, m := range regexp.MustCompile("`make ([a-z-]+)").FindAllStringSubmatch(text, -1) {
		if !strings.Contains(makefile, "\n"+m[1]+":") {
			t.Errorf("the Makefile has no target %s", m[1])
		}
	}
	command := string(read(t, filepath.Join("cmd", "domainferry", "main.go")))
	for _, m := range regexp.MustCompile("`domainferry ([a-z]+)").FindAllStringSubmatch(text, -1) {
		if !strings.Contains(command, `{"`+m[1]+`",`) {
			t.Errorf("domainferry has no command %s", m[1])
		}
	}
}
