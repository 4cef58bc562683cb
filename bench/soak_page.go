package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// A page of its own: a table and a plot for each group of series, drawn as SVG, nothing
// from anywhere else.

const (
	plotWidth, plotHeight = 460, 190
	plotLeft, plotRight   = 62, 12
	plotTop, plotBottom   = 26, 26
)

var plotColors = []string{"#1f6feb", "#d1571b", "#2e8540", "#7d4cdb"}

const pageHead = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>pgautomate soak</title>
<style>
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1440px; padding: 0 1em; color: #1c2128; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1em 0 }
th, td { padding: 2px 10px; text-align: right; border-bottom: 1px solid #e3e6ea } th:first-child, td:first-child { text-align: left }
.growing, .falling { color: #b42318; font-weight: 600 } .flat { color: #2e8540 } .kept { color: #666 }
.plots { display: flex; flex-wrap: wrap; gap: 10px } svg { border: 1px solid #e3e6ea; border-radius: 4px }
svg text { font: 11px system-ui, sans-serif; fill: #444 } svg .title { font-weight: 600; fill: #1c2128 }
</style></head><body>
<h1>pgautomate soak</h1>
`

// WritePage writes the report as one HTML page that needs nothing else.
func (r *SoakReport) WritePage(w io.Writer) error {
	var b strings.Builder
	b.WriteString(pageHead)
	before, after := r.texts()
	for _, line := range append([]string{after[len(after)-1]}, before...) {
		fmt.Fprintf(&b, "<p>%s</p>\n", html.EscapeString(line))
	}
	b.WriteString("<div class=\"plots\">\n")
	for _, g := range r.plots() {
		r.plot(&b, g)
	}
	b.WriteString("</div>\n<table><tr><th>series</th><th>unit</th>")
	columns := []string{"first tenth", "middle", "last tenth"}
	if r.Held[1] > 0 {
		columns = append(columns, "before the held snapshot", "while it was held", "last quarter")
	}
	for _, c := range append(columns, "slope an hour", "verdict", "base to last quarter") {
		fmt.Fprintf(&b, "<th>%s</th>", c)
	}
	b.WriteString("</tr>\n")
	for _, s := range r.Series {
		cells := []float64{s.First, s.Middle, s.Last}
		if s.Before != nil {
			cells = append(cells, *s.Before, *s.Held, *s.After)
		}
		fmt.Fprintf(&b, "<tr><td>%s</td><td>%s</td>", html.EscapeString(s.Name), html.EscapeString(s.Unit))
		for _, c := range append(cells, s.Slope) {
			fmt.Fprintf(&b, "<td>%s</td>", number(c))
		}
		fmt.Fprintf(&b, "<td class=\"%s\">%s</td><td>%s</td></tr>\n", strings.ReplaceAll(s.Verdict, " ", "-"), s.Verdict, html.EscapeString(s.Why))
	}
	fmt.Fprintf(&b, "</table>\n<p>%s</p>\n</body></html>\n", html.EscapeString(after[0]))
	_, err := io.WriteString(w, b.String())
	return err
}

// plotted are series that share a plot.
type plotted struct {
	title  string
	series []*Series
}

// plots puts what belongs together and has one unit into one plot.
func (r *SoakReport) plots() []plotted {
	var all []plotted
	at := map[string]int{}
	for _, s := range r.Series {
		title := s.Name
		if table, what, of := strings.Cut(s.Name, ": "); of {
			switch what {
			case "heap", "indexes":
				title = table
			case "dead rows", "live rows":
				title = table + ": rows"
			default:
				title = table + ": bytes of a row"
			}
		} else {
			title = strings.TrimSuffix(strings.TrimSuffix(title, " p50"), " p99")
		}
		title += ", " + s.Unit
		i, there := at[title]
		if !there {
			i = len(all)
			at[title] = i
			all = append(all, plotted{title: title})
		}
		all[i].series = append(all[i].series, s)
	}
	return all
}

// plot draws one.
func (r *SoakReport) plot(b *strings.Builder, g plotted) {
	end, top := max(r.At[len(r.At)-1], 1e-9), 0.0
	for _, s := range g.series {
		for _, v := range s.Values {
			if v != nil {
				top = max(top, *v)
			}
		}
	}
	top = niceTop(top)
	x := func(at float64) float64 { return plotLeft + at/end*(plotWidth-plotLeft-plotRight) }
	y := func(v float64) float64 { return plotHeight - plotBottom - v/top*(plotHeight-plotTop-plotBottom) }
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img"><text class="title" x="%d" y="16">%s</text>`,
		plotWidth, plotHeight, plotWidth, plotHeight, plotLeft, html.EscapeString(g.title))
	if r.Held[1] > 0 {
		fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#f3e8c8"><title>a snapshot is held</title></rect>`,
			x(r.Held[0]), plotTop, x(min(r.Held[1], end))-x(r.Held[0]), plotHeight-plotTop-plotBottom)
	}
	for i := range 5 {
		v := top * float64(i) / 4
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#e3e6ea"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
			plotLeft, y(v), plotWidth-plotRight, y(v), plotLeft-5, y(v)+4, number(v))
		at := end * float64(i) / 4
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`, min(x(at), plotWidth-24), plotHeight-8, moment(at, end))
	}
	for i, s := range g.series {
		var points []string
		flush := func() {
			if len(points) > 0 {
				fmt.Fprintf(b, `<polyline fill="none" stroke="%s" stroke-width="1.4" points="%s"/>`, plotColors[i%len(plotColors)], strings.Join(points, " "))
			}
			points = points[:0]
		}
		for j, v := range s.Values {
			if v == nil {
				flush() // nothing was seen there
				continue
			}
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(r.At[j]), y(*v)))
		}
		flush()
		if len(g.series) > 1 {
			_, name, of := strings.Cut(s.Name, ": ")
			if !of {
				name = s.Name[strings.LastIndex(s.Name, " ")+1:]
			}
			fmt.Fprintf(b, `<text x="%d" y="16" text-anchor="end" style="fill:%s">%s</text>`, plotWidth-plotRight-100*(len(g.series)-1-i), plotColors[i%len(plotColors)], html.EscapeString(name))
		}
	}
	b.WriteString("</svg>\n")
}

// niceTop is a round number at or above v.
func niceTop(v float64) float64 {
	if v <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 4, 5, 10} {
		if n*unit >= v {
			return n * unit
		}
	}
	return 10 * unit
}

// moment prints seconds of load in the unit that the end has.
func moment(seconds, end float64) string {
	switch {
	case end < 300:
		return fmt.Sprintf("%.3g s", seconds)
	case end < 3*3600:
		return fmt.Sprintf("%.3g min", seconds/60)
	default:
		return fmt.Sprintf("%.3g h", seconds/3600)
	}
}
