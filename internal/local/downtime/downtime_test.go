package downtime

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/domainferry/domainferry/internal/local/environment"
	"github.com/domainferry/domainferry/internal/local/environmenttest"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{4}, 4}, {[]float64{9, 1}, 5}, {[]float64{3, 1, 2}, 2}, {[]float64{10, 1, 3, 2}, 2.5}} {
		given := slices.Clone(c.values)
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %g, %g is wanted", c.values, got, c.want)
		}
		if !slices.Equal(given, c.values) {
			t.Errorf("median changed its values to %v", c.values)
		}
	}
}

func TestSlope(t *testing.T) {
	points := func(xy ...float64) []Cell {
		var list []Cell
		for i := 0; i < len(xy); i += 2 {
			list = append(list, Cell{MB: xy[i], Median: xy[i+1]})
		}
		return list
	}
	for name, c := range map[string]struct {
		cells []Cell
		want  float64
		ok    bool
	}{
		"none":        {nil, 0, false},
		"one size":    {points(300, 9), 0, false},
		"equal sizes": {points(300, 9, 300, 10), 0, false},
		"two":         {points(300, 9, 1300, 34), 25, true},
		"flat":        {points(300, 2, 600, 2, 1200, 2), 0, true},
		"falling":     {points(0, 3, 1000, 1), -2, true},
		// Least squares by hand: x 0, 1, 2 GB, y 1, 2, 6: mean 1 and 3, sum of products 5, of squares 2.
		"not on a line": {points(0, 1, 1000, 2, 2000, 6), 2.5, true},
	} {
		got, ok := slope(c.cells)
		if ok != c.ok || math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %g, %t; wanted are %g, %t", name, got, ok, c.want, c.ok)
		}
	}
}

// made makes a run for each second given.
func made(p Procedure, size int, w Workload, throttle Throttle, seconds ...float64) []Run {
	var runs []Run
	for i, s := range seconds {
		runs = append(runs, Run{Procedure: p, Size: size, Workload: w, Throttle: throttle, Pair: i + 1, SourceBytes: int64(size) * 1e6, DowntimeSeconds: s})
	}
	return runs
}

func full(ferryAt1200 float64) Report {
	var runs []Run
	for _, w := range []Workload{Append, Update} {
		for _, th := range []Throttle{Default, Raised} {
			for _, size := range []int{300, 600, 1200} {
				hand, ferry := float64(size)/40+2, 1.5
				if th == Raised {
					hand = float64(size)/400 + 2
				}
				if size == 1200 {
					ferry = ferryAt1200
				}
				runs = append(runs, made(Hand, size, w, th, hand+1, hand, hand-1)...)
				runs = append(runs, made(ByDF, size, w, th, ferry, ferry+0.2, ferry-0.2)...)
			}
		}
		for _, size := range []int{300, 600, 1200} {
			runs = append(runs, made(Scroll, size, w, NoneMet, float64(size)/10)...)
		}
	}
	r := Report{Date: "2026-11-23T01:02:03Z", Commit: "abc", Versions: map[string]string{"source": "elasticsearch-7.10.2", "destination": "opensearch-2.19.0"}, Runs: runs}
	r.summarise()
	return r
}

func TestExpectations(t *testing.T) {
	verdicts := func(r Report) string {
		var b strings.Builder
		for _, x := range r.Expectations {
			b.WriteByte(map[string]byte{"as expected": '+', "EXPECTATION MISSED": '-', "not told by this run": '?'}[x.verdict()])
		}
		return b.String()
	}
	few := func(runs ...[]Run) Report {
		r := Report{Runs: slices.Concat(runs...)}
		r.summarise()
		return r
	}
	for name, c := range map[string]struct {
		report Report
		want   string // at most 3 s; slopes: append default, raised, update default, raised, as far as there are any; ratios: append, update
		said   string
	}{
		"all hold": {full(1.5), "+++++++", "by hand 25.00 s a GB, Domain Ferry 0.00 s a GB"},
		// The medians 1.5, 1.5, 2.5 rise by 1.19 s a GB: 4.8 % of the 25 s a GB under the default throttle, 48 % of the 2.5 under the raised one.
		"grows":              {full(2.5), "++-+-++", "Domain Ferry 1.19 s a GB (4.8 %)"},
		"grows and too long": {full(3.1), "-----++", "the worst is 3.10 s (1200 MB"},
		"one size":           {few(made(Hand, 300, Update, Default, 9), made(ByDF, 300, Update, Default, 2)), "+???", "at least two sizes"},
		"ratio too small":    {few(made(Hand, 600, Update, Default, 9.9), made(ByDF, 600, Update, Default, 2)), "+??-", "9.90 s by hand"},
		"ratio just reached": {few(made(Hand, 600, Append, Default, 10), made(ByDF, 600, Append, Default, 2)), "+?+?", "5.0 times"},
		"nothing of ours":    {few(made(Hand, 600, Append, Default, 10)), "????", "not measured"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := verdicts(c.report); got != c.want {
				t.Errorf("verdicts %s, wanted are %s: %+v", got, c.want, c.report.Expectations)
			}
			if said := fmt.Sprint(c.report.Expectations); !strings.Contains(said, c.said) {
				t.Errorf("%q is not said in %s", c.said, said)
			}
		})
	}
}

func TestFailedRunsDoNotCount(t *testing.T) {
	runs := made(ByDF, 300, Append, Default, 2, 90)
	runs[1].Error = "the copy is not whole"
	r := Report{Runs: runs}
	r.summarise()
	if len(r.Cells) != 1 || r.Cells[0].Runs != 1 || r.Cells[0].Max != 2 || r.failures() != 1 {
		t.Errorf("cells %+v, %d failures", r.Cells, r.failures())
	}
	var b bytes.Buffer
	r.Print(&b)
	for _, text := range []string{b.String(), r.Markdown()} {
		if !strings.Contains(text, "the copy is not whole") {
			t.Errorf("the failed run is not named in\n%s", text)
		}
	}
}

func TestTable(t *testing.T) {
	r := full(1.5)
	var b bytes.Buffer
	r.Print(&b)
	if n := len(rows(r.Cells)); n != 12 {
		t.Errorf("%d rows, wanted are 12", n)
	}
	for _, text := range []string{b.String(), r.Markdown()} {
		// 600 MB appended, default: 17 s by hand, 1.5 s by Domain Ferry, 60 s by scroll.
		for _, want := range []string{"17.00 s (16.00-18.00, n=3)", "1.50 s (1.30-1.70, n=3)", "11.3", "60.00 s (n=1)", "40.0", "1 % updated, 0.2 % deleted"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
	}
	if missed := full(9); !strings.Contains(missed.Markdown(), "EXPECTATION MISSED") {
		t.Error("the copy for docs hides what was missed")
	}
	for line := range strings.Lines(r.Markdown()) {
		if len(line) > 141 && !strings.HasPrefix(line, "|") {
			t.Errorf("line of %d characters: %s", len(line), line)
		}
	}
}

func TestSVG(t *testing.T) {
	named := full(2)
	named.Versions["source"] = `a<b & "c"`
	for name, c := range map[string]struct {
		report Report
		lines  int
	}{
		"all":      {named, 10}, // hand and ferry by workload and throttle, scroll by workload
		"one cell": {func() Report { r := Report{Runs: made(ByDF, 300, Append, Default, 2)}; r.summarise(); return r }(), 1},
		"nothing":  {Report{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			decoder := xml.NewDecoder(strings.NewReader(c.report.SVG()))
			drawn := 0
			for {
				token, err := decoder.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("not well-formed: %v", err)
				}
				e, ok := token.(xml.StartElement)
				if !ok {
					continue
				}
				if e.Name.Local == "polyline" {
					drawn++
				}
				for _, a := range e.Attr {
					if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") || strings.Contains(a.Value, "%!") {
						t.Errorf("%s %s=%q", e.Name.Local, a.Name.Local, a.Value)
					}
				}
			}
			if drawn != c.lines {
				t.Errorf("%d lines are drawn, wanted are %d", drawn, c.lines)
			}
		})
	}
}

func TestPlanTakesTurns(t *testing.T) {
	cfg := Config{Sizes: []int{300}, Workloads: []Workload{Append}, Throttles: []Throttle{Default, Raised}, Pairs: 3, Scrolls: 1, Seed: 1}
	var order []Procedure
	names := map[string]bool{}
	for _, r := range plan(cfg, 300, Append) {
		names[r.Migration] = true
		if r.Procedure != Scroll {
			order = append(order, r.Procedure)
		} else if r.Throttle != NoneMet || r.Pair != 1 {
			t.Errorf("scroll: %+v", r)
		}
	}
	if len(order) != 12 || len(names) != 13 {
		t.Fatalf("%d paired runs, %d names: %v", len(order), len(names), order)
	}
	for i := 0; i < len(order); i += 2 {
		if order[i] == order[i+1] || i > 0 && order[i] == order[i-2] {
			t.Errorf("they do not take turns: %v", order)
		}
	}
	clock := newETA(cfg)
	clock.done(fillCost(cfg.Sizes, 300))
	if text := clock.String(); !strings.HasPrefix(text, "about ") {
		t.Errorf("guess %q", text)
	}
	for _, r := range plan(cfg, 300, Append) {
		clock.done(runCost(r))
	}
	if text := clock.String(); text != "the last one" {
		t.Errorf("at the end the guess is %q", text)
	}
}

func TestConfigIsChecked(t *testing.T) {
	valid := func() Config {
		return Config{Sizes: []int{300}, Workloads: []Workload{Append}, Throttles: []Throttle{Default}, Pairs: 1, Slices: 1, Window: time.Second, Rate: 1}
	}
	if c := valid(); c.check() != nil {
		t.Fatal(c.check())
	}
	for said, change := range map[string]func(*Config){
		"at least one size": func(c *Config) { c.Sizes = nil },
		"rising":            func(c *Config) { c.Sizes = []int{600, 300} },
		"one pair":          func(c *Config) { c.Pairs = 0 },
		`"inserts"`:         func(c *Config) { c.Workloads = []Workload{"inserts"} },
		`"fast"`:            func(c *Config) { c.Throttles = []Throttle{"fast"} },
		"window":            func(c *Config) { c.Window = 0 },
		"rate":              func(c *Config) { c.Rate = 0 },
	} {
		c := valid()
		change(&c)
		if err := c.check(); err == nil || !strings.Contains(err.Error(), said) {
			t.Errorf("%s: %v", said, err)
		}
	}
}

// needAWS skips without the AWS CLI, which CI must have.
func needAWS(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("aws"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("the hand procedure copies with the AWS CLI: ", err)
	}
}

// interrupter ends the bench as Ctrl-C does, at the first line of progress that holds word.
type interrupter struct {
	word string
	end  context.CancelFunc
}

func (i interrupter) Write(text []byte) (int, error) {
	if bytes.Contains(text, []byte(i.word)) {
		i.end()
	}
	return len(text), nil
}

func TestInterruptedItLeavesNothing(t *testing.T) {
	needAWS(t)
	data := t.TempDir()
	t.Setenv("TMPDIR", data)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Measure(ctx, Config{
		Environment: environment.Config{
			Engines: environment.Model, Source: "elasticsearch-7.10.2", Destination: "opensearch-2.19.0", LambdaDir: environmenttest.Lambdas(t, "../../.."),
		},
		Sizes: []int{1}, Workloads: []Workload{Append}, Throttles: []Throttle{Default}, Pairs: 9, Slices: 1, Window: 5 * time.Minute, Rate: 100,
		Out: t.TempDir(), JSON: filepath.Join(t.TempDir(), "downtime.json"), Progress: interrupter{"write downtime", cancel},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestOnTheModel carries every procedure out on the built-in model, which is fast and proves that each of them moves everything; what they
// take there says nothing.
func TestOnTheModel(t *testing.T) {
	needAWS(t)
	for w, c := range map[Workload]struct {
		sizes   []int // MB
		scrolls int
	}{Append: {[]int{1, 2}, 0}, Update: {[]int{1}, 1}} {
		t.Run(string(w), func(t *testing.T) {
			t.Parallel() // they mostly wait
			out := t.TempDir()
			var progress bytes.Buffer
			cfg := Config{
				Environment: environment.Config{
					Engines: environment.Model, Source: "elasticsearch-7.10.2", Destination: "opensearch-2.19.0",
					LambdaDir: environmenttest.Lambdas(t, "../../.."),
				},
				Sizes: c.sizes, Workloads: []Workload{w}, Throttles: []Throttle{Raised}, Pairs: 1, Scrolls: c.scrolls, Slices: 1, Window: 5 * time.Minute,
				Rate: 100, Seed: 3, Compare: true, Out: filepath.Join(out, "bench"), JSON: filepath.Join(out, "downtime.json"),
				Docs: filepath.Join(out, "docs"), Progress: &progress,
			}
			if _, err := Measure(t.Context(), cfg); err != nil {
				t.Fatalf("%v\n%s", err, progress.String())
			}
			body, err := os.ReadFile(cfg.JSON)
			if err != nil {
				t.Fatal(err)
			}
			var r Report
			if err := json.Unmarshal(body, &r); err != nil {
				t.Fatal(err)
			}
			if n := len(c.sizes) * (2 + c.scrolls); len(r.Runs) != n || len(r.Cells) != n || r.Machine.Cores == 0 || r.Versions["awsCli"] == "" {
				t.Errorf("%s", body)
			}
			for _, x := range r.Runs {
				if x.Error != "" || x.DowntimeSeconds <= 0 || x.WritesChecked <= int64(x.Changed) || len(x.Phases) < 4 || x.SourceBytes < 9e5 {
					t.Errorf("run %+v", x)
				}
				if (x.Procedure == ByDF) != (x.Ferry != nil && x.Compared > x.Documents/2) {
					t.Errorf("run %+v", x)
				}
			}
			for _, file := range []string{filepath.Join(cfg.Out, "downtime.svg"), filepath.Join(cfg.Docs, "downtime.svg"), filepath.Join(cfg.Docs, "downtime.md")} {
				if info, err := os.Stat(file); err != nil || info.Size() < 500 {
					t.Errorf("%s: %v", file, err)
				}
			}
		})
	}
}
