package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
)

// Figure is one measurement beside its reference.
type Figure struct {
	Name          string  `json:"name"`
	Unit          string  `json:"unit"`
	Value         float64 `json:"value"`
	ReferenceName string  `json:"reference_name"`
	Reference     float64 `json:"reference"` // in the same unit
	Ratio         float64 `json:"ratio"`     // value / reference
	Reach         float64 `json:"reach"`     // what is wanted; Conditions begin with of what
	Conditions    string  `json:"conditions"`

	of   reached
	most bool // at most, not at least
}

// reached is what the reach is of.
type reached int

const (
	ofRatio reached = iota
	ofValue
)

// Reached says whether the figure is where it is wanted.
func (f *Figure) Reached() bool {
	v := f.Ratio
	if f.of == ofValue {
		v = f.Value
	}
	if f.most {
		return v <= f.Reach
	}
	return v >= f.Reach
}

func (f *Figure) reachText() string {
	what, how := "ratio", "at least"
	if f.of == ofValue {
		what = f.Unit
	}
	if f.most {
		how = "at most"
	}
	return fmt.Sprintf("reach: %s %s %s", what, how, number(f.Reach))
}

// Report is what a run gives.
type Report struct {
	Figures []Figure
	Server  string // on what
	Took    time.Duration

	dir string // where the server was
}

// document is a report as JSON.
type document struct {
	Figures []Figure `json:"figures"`
	Server  string   `json:"server"`
	Took    float64  `json:"took_seconds"`
}

// WriteJSON writes {"figures": […], "server": …, "took_seconds": …}.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(document{r.Figures, r.Server, r.Took.Seconds()})
}

var reachPattern = regexp.MustCompile(`^reach: (.+?) at (least|most) [^;]+; `)

// ReadReport reads what WriteJSON wrote.
func ReadReport(from io.Reader) (*Report, error) {
	var d document
	if err := json.NewDecoder(from).Decode(&d); err != nil {
		return nil, fmt.Errorf("this is not what bench --json writes: %w", err)
	}
	for i := range d.Figures {
		f := &d.Figures[i]
		m := reachPattern.FindStringSubmatch(f.Conditions)
		if m == nil {
			return nil, fmt.Errorf("this is not what bench --json writes: the conditions of %q don't begin with its reach", f.Name)
		}
		if m[1] != "ratio" {
			f.of = ofValue
		}
		f.most = m[2] == "most"
	}
	return &Report{Figures: d.Figures, Server: d.Server, Took: time.Duration(d.Took * float64(time.Second))}, nil
}

// What stands between these lines of a page comes from a report.
const (
	pageBegins = "<!-- figures: made by bench --markdown, not by hand -->\n"
	pageEnds   = "<!-- end of figures -->\n"
)

// Page gives a page, in Markdown, with the report's figures in place of those that it had, or at its end.
func (r *Report) Page(page string) (string, error) {
	part := pageBegins + r.markdown() + pageEnds
	before, rest, found := strings.Cut(page, pageBegins)
	if !found {
		return page + part, nil
	}
	_, after, found := strings.Cut(rest, pageEnds)
	if !found {
		return "", fmt.Errorf("the page has the line %q, but not the line %q after it", strings.TrimSpace(pageBegins), strings.TrimSpace(pageEnds))
	}
	return before + part + after, nil
}

func (r *Report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s. Measured in %s.\n\n| figure | value | reference | unit | ratio | reach | reached |\n|---|---:|---:|---|---:|---|---|\n",
		r.Server, r.Took.Round(time.Second))
	for i := range r.Figures {
		f := &r.Figures[i]
		verdict := "yes"
		if !f.Reached() {
			verdict = "**no**"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %.2f | %s | %s |\n", f.Name, number(f.Value), number(f.Reference), f.Unit, f.Ratio, f.wanted(), verdict)
	}
	fmt.Fprintln(&b)
	for i := range r.Figures {
		f := &r.Figures[i]
		fmt.Fprintf(&b, "- `%s`, beside %s: %s.\n", f.Name, f.ReferenceName, f.circumstances())
	}
	return b.String() + "\n"
}

// wanted is the reach, in short.
func (f *Figure) wanted() string {
	reach := "≥ "
	if f.most {
		reach = "≤ "
	}
	if reach += number(f.Reach); f.of == ofValue {
		reach += " " + f.Unit
	}
	return reach
}

// circumstances are the conditions without the reach.
func (f *Figure) circumstances() string {
	_, conditions, _ := strings.Cut(f.Conditions, "; ")
	return conditions
}

// WriteTable writes the figures for people.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintln(w, r.Server)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nfigure\tvalue\treference\tunit\tratio\treach\t")
	for i := range r.Figures {
		f := &r.Figures[i]
		verdict := "reached"
		if !f.Reached() {
			verdict = "SHORT"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.2f\t%s\t%s\n", f.Name, number(f.Value), number(f.Reference), f.Unit, f.Ratio, f.wanted(), verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for i := range r.Figures {
		f := &r.Figures[i]
		fmt.Fprintf(w, "%s: beside %s; %s\n", f.Name, f.ReferenceName, f.circumstances())
	}
	_, err := fmt.Fprintf(w, "\nmeasured in %s\n", r.Took.Round(time.Second))
	return err
}

// number prints three digits that count.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 10_000:
		text := fmt.Sprintf("%.0f", v)
		for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}
