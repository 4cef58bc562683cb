package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
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

// WriteJSON writes {"figures": […]}.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string][]Figure{"figures": r.Figures})
}

// WriteTable writes the figures for people.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintln(w, r.Server)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nfigure\tvalue\treference\tunit\tratio\treach\t")
	for i := range r.Figures {
		f := &r.Figures[i]
		reach, verdict := "≥ ", "reached"
		if f.most {
			reach = "≤ "
		}
		if reach += number(f.Reach); f.of == ofValue {
			reach += " " + f.Unit
		}
		if !f.Reached() {
			verdict = "SHORT"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.2f\t%s\t%s\n", f.Name, number(f.Value), number(f.Reference), f.Unit, f.Ratio, reach, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for i := range r.Figures {
		f := &r.Figures[i]
		_, conditions, _ := strings.Cut(f.Conditions, "; ")
		fmt.Fprintf(w, "%s: beside %s; %s\n", f.Name, f.ReferenceName, conditions)
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
