package faultmatrix

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/domainferry/domainferry/internal/local/environment"
)

// Print writes the table: rows are states, columns are faults, and below it what is not reachable and why.
func (s Summary) Print(w io.Writer) {
	var rows []Row
	cells := map[string]Case{}
	used := map[Fault]bool{}
	wide := 0
	for _, c := range s.Cases {
		if len(rows) == 0 || rows[len(rows)-1] != c.Row {
			rows = append(rows, c.Row)
		}
		cells[c.String()] = c
		used[c.Fault] = true
		wide = max(wide, len(c.Row.String()))
	}
	faults := slices.DeleteFunc(Faults(), func(f Fault) bool { return !used[f] })
	fmt.Fprintln(w, "columns:")
	for i, f := range faults {
		fmt.Fprintf(w, "  %2d %s\n", i+1, f)
	}
	fmt.Fprintf(w, "\n%-*s", wide, "")
	for i := range faults {
		fmt.Fprintf(w, " %6d", i+1)
	}
	fmt.Fprintln(w)
	unreachable := map[string][]string{}
	var order []string
	for _, r := range rows {
		fmt.Fprintf(w, "%-*s", wide, r)
		for _, f := range faults {
			c, ok := cells[Case{Row: r, Fault: f}.String()]
			text := "."
			switch {
			case !ok:
			case c.Outcome == "":
				text = "?"
			case c.Outcome == NotReachable:
				text = "-"
				why := strings.Join(c.Reason, "; ")
				if unreachable[why] == nil {
					order = append(order, why)
				}
				unreachable[why] = append(unreachable[why], c.String())
			default:
				text = string(c.Outcome)
			}
			fmt.Fprintf(w, " %6s", text)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "\n. no such case: the state runs no function, or does no work; its own states have rows")
	if len(order) > 0 {
		fmt.Fprintln(w, "- not reachable:")
	}
	for _, why := range order {
		fmt.Fprintf(w, "  %s:\n    %s\n", why, strings.Join(unreachable[why], ", "))
	}
	for _, c := range s.Cases {
		if c.Outcome == Failed {
			fmt.Fprintf(w, "\nFAILED %s%s\n          executions: %s\n          again: %s\n", c, reasons(c.Reason), strings.Join(c.Ended, " | "), s.again(c))
		}
	}
	fmt.Fprintf(w, "\n%d cases run: %d ok, %d FAILED; %d not reachable; %d migrations without a fault; the longest time from a fault until writes were taken is %.1f s; %s, %.0f s\n",
		s.Ran, s.OK, s.Failed, s.NotReachable, len(s.Unbroken), s.LongestUntil, s.EnginesAre, s.Seconds)
}

func (s Summary) again(c Case) string {
	var cfg Config
	cfg.Environment.Engines, cfg.Seed = environment.Engines(s.EnginesAre), s.Seed
	return cfg.again(c)
}
