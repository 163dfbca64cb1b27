package downtime

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// row is a line of the table: one size, workload and throttle.
type row struct {
	hand, ferry, scroll Cell // Runs is 0 for what was not measured
}

func (r row) any() Cell {
	for _, c := range []Cell{r.hand, r.ferry, r.scroll} {
		if c.Runs > 0 {
			return c
		}
	}
	return Cell{}
}

// rows are by workload, throttle and size. A scroll, which meets no throttle, stands in the rows of each.
func rows(cells []Cell) []row {
	var sizes []int
	for _, c := range cells {
		if !slices.Contains(sizes, c.Size) {
			sizes = append(sizes, c.Size)
		}
	}
	slices.Sort(sizes)
	var list []row
	for _, w := range []Workload{Append, Update} {
		for _, t := range []Throttle{Default, Raised} {
			for _, s := range sizes {
				var r row
				r.hand, _ = find(cells, Hand, s, w, t)
				r.ferry, _ = find(cells, ByDF, s, w, t)
				if r.hand.Runs+r.ferry.Runs > 0 {
					r.scroll, _ = find(cells, Scroll, s, w, NoneMet)
					list = append(list, r)
				}
			}
		}
	}
	return list
}

func (c Cell) text() string {
	switch c.Runs {
	case 0:
		return "-"
	case 1:
		return fmt.Sprintf("%.2f s (n=1)", c.Median)
	}
	return fmt.Sprintf("%.2f s (%.2f-%.2f, n=%d)", c.Median, c.Min, c.Max, c.Runs)
}

func times(slow, fast Cell) string {
	if slow.Runs == 0 || fast.Runs == 0 || fast.Median <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", slow.Median/fast.Median)
}

func changeText(w Workload) string {
	if w == Append {
		return "1 % appended"
	}
	return "1 % updated, 0.2 % deleted"
}

var headings = []string{"source MB", "changed", "throttle", "(a) by hand", "(b) Domain Ferry", "a/b", "(c) scroll and bulk", "c/b"}

func (r row) columns() []string {
	x := r.any()
	throttle := x.Throttle
	return []string{fmt.Sprintf("%.0f", x.MB), changeText(x.Workload), string(throttle), r.hand.text(), r.ferry.text(), times(r.hand, r.ferry),
		r.scroll.text(), times(r.scroll, r.ferry)}
}

// Print writes the table and what became of the expectations, for a terminal.
func (r Report) Print(w io.Writer) {
	table := [][]string{headings}
	for _, x := range rows(r.Cells) {
		table = append(table, x.columns())
	}
	widths := make([]int, len(headings))
	for _, line := range table {
		for i, cell := range line {
			widths[i] = max(widths[i], len(cell))
		}
	}
	fmt.Fprintf(w, "\nwrite downtime as the client sees it, median (min-max), %s -> %s (%s)\n\n", r.Versions["source"], r.Versions["destination"], r.EnginesAre)
	for _, line := range table {
		for i, cell := range line {
			fmt.Fprintf(w, "%-*s  ", widths[i], cell)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	for _, x := range r.Expectations {
		fmt.Fprintf(w, "%s: %s; %s\n", x.verdict(), x.Text, x.Figures)
	}
	for _, x := range r.Runs {
		if x.Error != "" {
			fmt.Fprintln(w, x)
		}
	}
}

func (x Expectation) verdict() string {
	switch {
	case x.Holds == nil:
		return "not told by this run"
	case *x.Holds:
		return "as expected"
	}
	return "EXPECTATION MISSED"
}

// Markdown is the dated copy for docs.
func (r Report) Markdown() string {
	var b strings.Builder
	day, _, _ := strings.Cut(r.Date, "T")
	fmt.Fprintf(&b, "# The write downtime, measured\n\nWritten by `make bench-downtime DOCS=docs`; do not edit. On %s, commit %s, %s, %d cores", day, r.Commit, r.Machine.OS, r.Machine.Cores)
	if r.Machine.MemoryBytes > 0 {
		fmt.Fprintf(&b, ", %.0f GiB", float64(r.Machine.MemoryBytes)/(1<<30))
	}
	if r.Machine.Processor != "" {
		fmt.Fprintf(&b, " (%s)", r.Machine.Processor)
	}
	fmt.Fprintf(&b, ":\n%s to %s (%s, one of each, heap %s), %s, seed %d. All parts share the machine: trust the ratios, not the seconds.\n\n",
		r.Versions["source"], r.Versions["destination"], r.EnginesAre, r.Heap, r.Versions["awsCli"], r.Seed)
	b.WriteString("Seconds from the clients' first refused write to the first that the destination accepts: median (shortest-longest, runs).\n\n")
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(headings, " | "), strings.Repeat("---|", len(headings)))
	for _, x := range rows(r.Cells) {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(x.columns(), " | "))
	}
	b.WriteString("\n![write downtime over the size of the source](downtime.svg)\n\n| expected | measured | |\n|---|---|---|\n")
	for _, x := range r.Expectations {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", x.Text, x.Figures, x.verdict())
	}
	if n := r.failures(); n > 0 {
		fmt.Fprintf(&b, "\n**%d of %d runs failed** and are not in the table:\n\n", n, len(r.Runs))
		for _, x := range r.Runs {
			if x.Error != "" {
				fmt.Fprintf(&b, "* %d MB, %s, %s, %s: %s\n", x.Size, x.Workload, x.Throttle, x.Procedure, strings.ReplaceAll(x.Error, "\n", " "))
			}
		}
	}
	b.WriteString(r.where())
	fmt.Fprintf(&b, `
## How it is measured

The source's index is filled once for a size: documents of about 1 KB, two shards, no replicas, flushed, merges settled; the MB are those
of _cat/indices. Before each run the source is put back to that state from a snapshot of its own and the destination is cleared. Then
clients begin to write %g operations a second, the change of the table is made at once, and the procedure follows. The clients write on
until they are refused, ask again every 50 ms, and are sent to the destination when the procedure says that it is open. Within a pair
(a) and (b) take turns in going first.

* **(a) by hand**, with no pause between the steps: write block; final incremental snapshot (the base snapshot was taken and copied
  before); aws s3 sync --size-only; registration at the destination; full _restore; counts compared; write block taken off.
* **(b) Domain Ferry**: the deployment's state machines and Lambda binaries. The base round is made before the change, the cut-over's
  execution after it; its warm rounds and passes run while the clients write, which is the point of it. downtimeWindow is %s: it decides
  when a migration is content with what it predicts, not how fast it is. The phases of the report are in build/downtime.json.
* **(c) scroll and bulk**: mappings, then %d slices read by scroll and written by _bulk (%d documents each), the destination without
  refresh; counts compared. It copies every document with writes stopped, whatever has changed, and meets no throttle.

Throttle "default" is the engines' own, 40 MB/s a node for snapshots and restores; "raised" is 1 GB/s for
indices.recovery.max_bytes_per_sec at the destination and for both rates of both repositories, in (a) and (b) alike.

After every run each write that was acknowledged, the change included, is looked up at the destination, counts are compared, and a sample of
unchanged documents by content. After the first (b) of a cell both sides are read whole and compared by id, routing, version and
source, all but what the clients have written at the destination since. A run that lacks anything is not counted, but listed.
`, r.Rate, r.Window, r.Slices, scrollPage)
	return b.String()
}

// where tells what the downtime of Domain Ferry is made of: the medians of its states.
func (r Report) where() string {
	type key struct {
		w Workload
		t Throttle
		s int
	}
	var order []key
	seconds := map[key]map[string][]float64{}
	lastMiles := map[key][]string{}
	names := []string{"Freeze", "MoveLastDelta", "Verify", "Finish"}
	for _, x := range r.Runs {
		if x.Ferry == nil || x.Error != "" {
			continue
		}
		k := key{x.Workload, x.Throttle, x.Size}
		if seconds[k] == nil {
			order, seconds[k] = append(order, k), map[string][]float64{}
		}
		if m := string(x.Ferry.LastMile); !slices.Contains(lastMiles[k], m) {
			lastMiles[k] = append(lastMiles[k], m)
		}
		for _, p := range x.Phases {
			seconds[k][p.Name] = append(seconds[k][p.Name], p.Seconds)
		}
	}
	if len(order) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nWhere (b) spends it, median seconds of each state:\n\n| MB | changed | throttle | last mile | %s |\n|---|---|---|---|%s\n",
		strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	for _, k := range order {
		fmt.Fprintf(&b, "| %d | %s | %s | %s |", k.s, changeText(k.w), k.t, strings.Join(lastMiles[k], ", "))
		for _, name := range names {
			if s := seconds[k][name]; len(s) > 0 {
				fmt.Fprintf(&b, " %.2f |", median(s))
			} else {
				b.WriteString(" - |")
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
