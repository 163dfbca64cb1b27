package downtime

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// line is one procedure, workload and throttle over the sizes.
type line struct {
	name   string
	colour string
	dashes string
	marker string // circle for appended, square for updated data
	cells  []Cell
}

func lines(cells []Cell) []line {
	var list []line
	add := func(name, colour string, p Procedure, w Workload, t Throttle) {
		c := of(cells, p, w, t)
		if len(c) == 0 {
			return
		}
		l := line{name: name + ", " + changeText(w), colour: colour, marker: "circle", cells: c}
		if w == Update {
			l.marker = "square"
		}
		if t == Raised {
			l.dashes = "6 4"
		}
		if t != NoneMet {
			l.name += ", throttle " + string(t)
		}
		list = append(list, l)
	}
	for _, w := range []Workload{Append, Update} {
		add("(c) scroll and bulk", "#7a7a7a", Scroll, w, NoneMet)
	}
	for _, t := range []Throttle{Default, Raised} {
		for _, w := range []Workload{Append, Update} {
			add("(a) by hand", "#c2410c", Hand, w, t)
		}
	}
	for _, t := range []Throttle{Default, Raised} {
		for _, w := range []Workload{Append, Update} {
			add("(b) Domain Ferry", "#0f6cbd", ByDF, w, t)
		}
	}
	return list
}

// SVG draws the downtime over the size: medians joined by lines, shortest and longest run as bars. The seconds are on a logarithmic scale,
// or the shortest lines would lie on the axis.
func (r Report) SVG() string {
	const (
		width, height            = 900, 560
		left, right, top, bottom = 70, 330, 50, 60
	)
	all := lines(r.Cells)
	largest, least, most := 1.0, math.Inf(1), 0.0
	for _, l := range all {
		for _, c := range l.cells {
			largest, least, most = max(largest, c.MB), min(least, c.Min), max(most, c.Max)
		}
	}
	if most <= 0 {
		least, most = 1, 10
	}
	low, high := math.Floor(math.Log10(max(least, 0.01))), math.Ceil(math.Log10(most))
	if high <= low {
		high = low + 1
	}
	x := func(mb float64) float64 { return left + (width-left-right)*mb/(largest*1.05) }
	y := func(seconds float64) float64 {
		return top + (height-top-bottom)*(high-math.Log10(max(seconds, 0.01)))/(high-low)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	text := func(x, y float64, anchor, content string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, escape(content))
	}
	day, _, _ := strings.Cut(r.Date, "T")
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="15">%s</text>`+"\n", left,
		escape(fmt.Sprintf("Write downtime as the client sees it, %s -> %s, %s", r.Versions["source"], r.Versions["destination"], day)))
	for e := low; e <= high; e++ {
		for _, f := range []float64{1, 2, 5} {
			s := f * math.Pow(10, e)
			if s > math.Pow(10, high) {
				continue
			}
			fmt.Fprintf(&b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1[2]f" stroke="#dddddd"/>`+"\n", left, y(s), width-right)
			text(left-8, y(s)+4, "end", fmt.Sprintf("%g s", s))
		}
	}
	step := math.Pow(10, math.Floor(math.Log10(largest)))
	for largest/step < 4 {
		step /= 2
	}
	for m := 0.0; m <= largest*1.05; m += step {
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1[1]f" y2="%[3]d" stroke="#eeeeee"/>`+"\n", x(m), top, height-bottom)
		text(x(m), height-bottom+18, "middle", fmt.Sprintf("%g", m))
	}
	text(x(largest/2), height-16, "middle", "source, MB on disk (primaries)")
	for i, l := range all {
		style := fmt.Sprintf(`stroke="%s" fill="none" stroke-width="2"`, l.colour)
		if l.dashes != "" {
			style += fmt.Sprintf(` stroke-dasharray="%s"`, l.dashes)
		}
		var points []string
		for _, c := range l.cells {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(c.MB), y(c.Median)))
			fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1[1]f" y2="%.1[3]f" stroke="%[4]s" stroke-opacity="0.4"/>`+"\n", x(c.MB), y(c.Min), y(c.Max), l.colour)
			b.WriteString(marker(l, x(c.MB), y(c.Median)))
		}
		fmt.Fprintf(&b, `<polyline points="%s" %s/>`+"\n", strings.Join(points, " "), style)
		at := float64(top + 10 + 22*i)
		fmt.Fprintf(&b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1[2]f" %[4]s/>`+"\n", width-right+14, at, width-right+44, style)
		b.WriteString(marker(l, width-right+29, at))
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" font-size="11">%s</text>`+"\n", width-right+50, at+4, escape(l.name))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func marker(l line, x, y float64) string {
	if l.marker == "square" {
		return fmt.Sprintf(`<rect x="%.1f" y="%.1f" width="7" height="7" fill="%s"/>`+"\n", x-3.5, y-3.5, l.colour)
	}
	return fmt.Sprintf(`<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", x, y, l.colour)
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}
