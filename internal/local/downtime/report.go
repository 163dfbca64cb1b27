package downtime

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Run is one procedure carried out once.
type Run struct {
	Procedure Procedure `json:"procedure"`
	Size      int       `json:"size"` // asked for, MB
	Workload  Workload  `json:"workload"`
	Throttle  Throttle  `json:"throttle"`
	Pair      int       `json:"pair"` // counted from 1
	Migration string    `json:"migration"`

	SourceBytes int64 `json:"sourceBytes"` // primaries on disk as filled
	Documents   int64 `json:"documents"`   // as filled
	Changed     int   `json:"changed"`     // operations of the change
	// WritesAtSource counts what the source acknowledged, the change included; WritesChecked what was looked for at the destination.
	WritesAtSource int64 `json:"writesAtSource"`
	WritesChecked  int64 `json:"writesChecked"`
	Compared       int64 `json:"compared,omitempty"` // documents read at both sides and found the same

	// DowntimeSeconds is from the clients' first refused write to the first that the destination accepted.
	DowntimeSeconds float64 `json:"downtimeSeconds"`
	// Phases are the parts of the downtime in order. Of Domain Ferry they are the states, and then, inside MoveLastDelta, what the
	// final round and pass did side by side.
	Phases       []Phase `json:"phases"`
	Ferry        *Ferry  `json:"ferry,omitempty"`
	TotalSeconds float64 `json:"totalSeconds"` // with reset, base round, change and checks
	Error        string  `json:"error,omitempty"`
}

// Phase is a part of a downtime.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// String is one line for a terminal.
func (r Run) String() string {
	what := fmt.Sprintf("%d MB %s %s %s %d:", r.Size, r.Workload, r.Throttle, r.Procedure, r.Pair)
	if r.Error != "" {
		return fmt.Sprintf("%s FAILED after %.0f s: %s", what, r.TotalSeconds, r.Error)
	}
	var parts []string
	for _, p := range r.Phases {
		parts = append(parts, fmt.Sprintf("%s %.2f", p.Name, p.Seconds))
	}
	how := ""
	if r.Ferry != nil {
		how = " by " + string(r.Ferry.LastMile)
	}
	return fmt.Sprintf("%s write downtime %.2f s%s (%s), all in all %.0f s", what, r.DowntimeSeconds, how, strings.Join(parts, ", "), r.TotalSeconds)
}

// Cell sums the runs of one procedure up.
type Cell struct {
	Procedure Procedure `json:"procedure"`
	Size      int       `json:"size"`
	Workload  Workload  `json:"workload"`
	Throttle  Throttle  `json:"throttle"`
	MB        float64   `json:"mb"` // on disk, mean
	Runs      int       `json:"runs"`
	Median    float64   `json:"medianSeconds"`
	Min       float64   `json:"minSeconds"`
	Max       float64   `json:"maxSeconds"`
}

// Expectation is something that is said of Domain Ferry, and whether these figures bear it out.
type Expectation struct {
	Text    string `json:"text"`
	Figures string `json:"figures"`
	// Holds is nil when the run has too few cells to tell.
	Holds *bool `json:"holds"`
}

// Machine is where it was measured.
type Machine struct {
	OS          string `json:"os"`
	Processor   string `json:"processor,omitempty"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memoryBytes,omitempty"`
}

// Report is build/downtime.json.
type Report struct {
	Date         string            `json:"date"`
	Commit       string            `json:"commit"`
	Machine      Machine           `json:"machine"`
	Versions     map[string]string `json:"versions"`
	EnginesAre   string            `json:"enginesAre"` // nodes or model
	Heap         string            `json:"heap"`
	Seed         uint64            `json:"seed"`
	Window       string            `json:"window"`
	Rate         float64           `json:"rate"`
	Slices       int               `json:"slices"`
	Cells        []Cell            `json:"cells"`
	Expectations []Expectation     `json:"expectations"`
	Runs         []Run             `json:"runs"`
}

func newReport(ctx context.Context, cfg Config, cli string) (Report, error) {
	version, err := exec.CommandContext(ctx, cli, "--version").Output()
	if err != nil {
		return Report{}, fmt.Errorf("ask the AWS CLI for its version: %w", err)
	}
	awsCLI, _, _ := strings.Cut(strings.TrimSpace(string(version)), " ")
	commit := "unknown"
	if out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil {
		commit = strings.TrimSpace(string(out))
	}
	return Report{
		Date: time.Now().UTC().Format(time.RFC3339), Commit: commit, Machine: thisMachine(),
		Versions:   map[string]string{"source": cfg.Environment.Source, "destination": cfg.Environment.Destination, "awsCli": awsCLI, "go": runtime.Version()},
		EnginesAre: string(cfg.Environment.Engines), Heap: cfg.Environment.Heap, Seed: cfg.Seed, Window: cfg.Window.String(), Rate: cfg.Rate, Slices: cfg.Slices,
	}, nil
}

func thisMachine() Machine {
	m := Machine{OS: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU()}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.OS += " " + strings.TrimSpace(string(release))
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		if kb, err := strconv.ParseInt(strings.TrimSuffix(field(string(text), "MemTotal"), " kB"), 10, 64); err == nil {
			m.MemoryBytes = kb << 10
		}
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.Processor = field(string(text), "model name")
	}
	return m
}

// field is the value of the first "name : value" line.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (r Report) failures() int {
	n := 0
	for _, x := range r.Runs {
		if x.Error != "" {
			n++
		}
	}
	return n
}

// summarise makes cells and expectations of the runs.
func (r *Report) summarise() {
	r.Cells = cells(r.Runs)
	r.Expectations = expectations(r.Cells)
}

// save writes the figures, the picture and the dated copy.
func (r Report) save(cfg Config) error {
	if err := writeJSON(cfg.JSON, r); err != nil {
		return err
	}
	picture := []byte(r.SVG())
	if err := os.WriteFile(filepath.Join(cfg.Out, "downtime.svg"), picture, 0o644); err != nil {
		return err
	}
	if cfg.Docs == "" {
		return nil
	}
	if err := os.MkdirAll(cfg.Docs, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(cfg.Docs, "downtime.svg"), picture, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cfg.Docs, "downtime.md"), []byte(r.Markdown()), 0o644)
}

// cells sums runs up, failed ones left out, in the order of their first runs.
func cells(runs []Run) []Cell {
	type key struct {
		p Procedure
		s int
		w Workload
		t Throttle
	}
	var order []key
	seconds := map[key][]float64{}
	megabytes := map[key]float64{}
	for _, r := range runs {
		if r.Error != "" {
			continue
		}
		k := key{r.Procedure, r.Size, r.Workload, r.Throttle}
		if _, known := seconds[k]; !known {
			order = append(order, k)
		}
		seconds[k] = append(seconds[k], r.DowntimeSeconds)
		megabytes[k] += float64(r.SourceBytes) / 1e6
	}
	var list []Cell
	for _, k := range order {
		s := seconds[k]
		list = append(list, Cell{
			Procedure: k.p, Size: k.s, Workload: k.w, Throttle: k.t, MB: round(megabytes[k] / float64(len(s))), Runs: len(s),
			Median: round(median(s)), Min: slices.Min(s), Max: slices.Max(s),
		})
	}
	return list
}

// median of at least one value.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// slope is that of the least-squares line through the cells' medians over their sizes, in seconds a GB. ok is false for fewer than two sizes.
func slope(cells []Cell) (perGB float64, ok bool) {
	var x, y, n float64
	for _, c := range cells {
		x, y, n = x+c.MB/1e3, y+c.Median, n+1
	}
	if n < 2 {
		return 0, false
	}
	x, y = x/n, y/n
	var xx, xy float64
	for _, c := range cells {
		xx += (c.MB/1e3 - x) * (c.MB/1e3 - x)
		xy += (c.MB/1e3 - x) * (c.Median - y)
	}
	if xx == 0 {
		return 0, false
	}
	return xy / xx, true
}

// of returns the cells of a line of the picture, by size.
func of(cells []Cell, p Procedure, w Workload, t Throttle) []Cell {
	var list []Cell
	for _, c := range cells {
		if c.Procedure == p && c.Workload == w && c.Throttle == t {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b Cell) int { return a.Size - b.Size })
	return list
}

func find(cells []Cell, p Procedure, size int, w Workload, t Throttle) (Cell, bool) {
	for _, c := range of(cells, p, w, t) {
		if c.Size == size {
			return c, true
		}
	}
	return Cell{}, false
}

// What is expected of Domain Ferry.
const (
	mostSeconds = 3.0  // median of every cell
	mostSlope   = 0.05 // of the hand procedure's
	leastRatio  = 5.0  // hand to ferry, at ratioSize under the default throttle
	ratioSize   = 600
)

func expectations(cells []Cell) []Expectation {
	list := []Expectation{atMost(cells)}
	for _, w := range []Workload{Append, Update} {
		for _, t := range []Throttle{Default, Raised} {
			if hand, ferry := of(cells, Hand, w, t), of(cells, ByDF, w, t); len(hand)+len(ferry) > 0 {
				list = append(list, noGrowth(w, t, hand, ferry))
			}
		}
	}
	for _, w := range []Workload{Append, Update} {
		list = append(list, farBelow(cells, w))
	}
	return list
}

func atMost(cells []Cell) Expectation {
	x := Expectation{Text: fmt.Sprintf("Domain Ferry's median write downtime is at most %g s in every cell", mostSeconds), Figures: "not measured"}
	var worst Cell
	var longest float64
	for _, c := range cells {
		if c.Procedure != ByDF {
			continue
		}
		if c.Median > worst.Median {
			worst = c
		}
		longest = max(longest, c.Max)
	}
	if worst.Runs == 0 {
		return x
	}
	holds := worst.Median <= mostSeconds
	x.Holds = &holds
	x.Figures = fmt.Sprintf("the worst is %.2f s (%d MB, %s, throttle %s); the longest single run %.2f s", worst.Median, worst.Size, worst.Workload, worst.Throttle, longest)
	return x
}

func noGrowth(w Workload, t Throttle, hand, ferry []Cell) Expectation {
	x := Expectation{Text: fmt.Sprintf("it does not grow with the size: at most %.0f %% of the hand procedure's slope (%s, throttle %s)", 100*mostSlope, w, t), Figures: "not measured: at least two sizes are needed"}
	h, ok := slope(hand)
	f, ok2 := slope(ferry)
	if !ok || !ok2 {
		return x
	}
	x.Figures = fmt.Sprintf("by hand %.2f s a GB, Domain Ferry %.2f s a GB", h, f)
	if h <= 0 {
		x.Figures += "; the hand procedure does not grow, so there is nothing to compare with"
		return x
	}
	holds := f <= mostSlope*h
	x.Holds = &holds
	x.Figures += fmt.Sprintf(" (%.1f %%)", 100*f/h)
	return x
}

func farBelow(cells []Cell, w Workload) Expectation {
	x := Expectation{Text: fmt.Sprintf("at %d MB under the default throttle it is at least %g times shorter than by hand (%s)", ratioSize, leastRatio, w), Figures: "not measured"}
	h, ok := find(cells, Hand, ratioSize, w, Default)
	f, ok2 := find(cells, ByDF, ratioSize, w, Default)
	if !ok || !ok2 {
		return x
	}
	holds := h.Median >= leastRatio*f.Median
	x.Holds = &holds
	x.Figures = fmt.Sprintf("%.2f s by hand, %.2f s by Domain Ferry: %.1f times", h.Median, f.Median, h.Median/f.Median)
	return x
}

func round(seconds float64) float64 { return math.Round(seconds*1000) / 1000 }
