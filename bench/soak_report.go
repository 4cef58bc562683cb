package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// judged is how a series is judged: what of its last quarter's median may be more than the
// base's, as a factor and by what it may be more anyway.
type judged struct {
	name   string
	factor float64
	more   float64
	both   bool // less is told, too
	never  bool // there is nothing to judge
}

// How series are judged. Machines are shared, so times have much room; what the engine holds has little.
var (
	asRate        = judged{name: "rate", factor: 1.1, more: 1, both: true}
	asLatency     = judged{name: "time", factor: 1.5, more: 20}
	asQueue       = judged{name: "queue", factor: 1.5, more: 50}
	asCost        = judged{name: "time", factor: 1.5, more: 0.1}
	asPages       = judged{name: "pages", factor: 1.25, more: 5}
	asMemory      = judged{name: "memory", factor: 1.1, more: 4}
	asConnections = judged{name: "connections", factor: 1, more: 2}
	asLog         = judged{name: "log", factor: 1.5, more: 64}
	asSize        = judged{name: "size", factor: 1.15, more: 0.5}
	asPerRow      = judged{name: "size of a row", factor: 1.15, more: 16}
	asDead        = judged{name: "dead rows", factor: 1.5, more: 2000}
	asRows        = judged{name: "rows", never: true}
	asKept        = judged{name: "kept", never: true} // rows that stay by design
)

// Verdicts.
const (
	Flat     = "flat"
	Growing  = "growing"
	Falling  = "falling"   // a rate
	Kept     = "kept"      // grows by what is kept; what a row takes is judged
	TooShort = "too short" // to say
)

// leastToJudge are the samples that a quarter needs for a verdict.
const leastToJudge = 3

// values are one sample's.
type values map[string]reading

type reading struct {
	unit  string
	how   judged
	value float64
}

func (v values) set(name, unit string, how judged, value float64) {
	v[name] = reading{unit, how, value}
}

// Series is one thing that was looked at, over the whole time.
type Series struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// First, Middle and Last are medians of the first, the middle and the last tenth.
	First  float64 `json:"first"`
	Middle float64 `json:"middle"`
	Last   float64 `json:"last"`
	// Slope is the straight line's through the second half, an hour.
	Slope float64 `json:"slope_per_hour"`
	// Before, Held and After are medians of what came before a held snapshot (the second
	// half), of the last quarter of its time, and of the last quarter of all; nil: none was held.
	Before *float64 `json:"before,omitempty"`
	Held   *float64 `json:"held,omitempty"`
	After  *float64 `json:"after,omitempty"`
	// Verdict compares the last quarter with the base: the second quarter, or, where a snapshot was held, what came before.
	Verdict string `json:"verdict"`
	Why     string `json:"why,omitempty"`
	// Values are the samples; null where there was nothing to see.
	Values []*float64 `json:"values"`

	how judged
}

// SoakReport is what a soak gives.
type SoakReport struct {
	Server      string     `json:"server"`
	Load        string     `json:"load"`
	Retention   string     `json:"retention"`
	For         float64    `json:"for_seconds"`
	Every       float64    `json:"every_seconds"`
	Hold        float64    `json:"hold_seconds"`
	Held        [2]float64 `json:"held_from_to_seconds"` // 0, 0: never
	Took        float64    `json:"took_seconds"`
	Missed      int64      `json:"changes_missed"` // the load was late by more than a second, so they were left out
	Interrupted bool       `json:"interrupted"`
	// At are the samples' times, in seconds of load.
	At     []float64 `json:"at_seconds"`
	Series []*Series `json:"series"`

	mu      sync.Mutex
	dir     string   // where the server was
	dearest []string // statements that cost the server most
}

// hold notes when a snapshot is held; from 0 says only when it was let go.
func (r *SoakReport) hold(from, to time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from > 0 {
		r.Held[0] = from.Seconds()
	}
	r.Held[1] = to.Seconds()
}

// add takes a sample.
func (r *SoakReport) add(at time.Duration, v values) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.At = append(r.At, at.Seconds())
	for name, x := range v {
		s := r.find(name)
		if s == nil {
			s = &Series{Name: name, Unit: x.unit, how: x.how, Values: make([]*float64, len(r.At)-1)}
			r.Series = append(r.Series, s)
		}
		if math.IsNaN(x.value) || math.IsInf(x.value, 0) {
			continue
		}
		s.Values = append(s.Values, &x.value)
	}
	for _, s := range r.Series {
		if len(s.Values) < len(r.At) {
			s.Values = append(s.Values, nil)
		}
	}
}

func (r *SoakReport) find(name string) *Series {
	for _, s := range r.Series {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// line says in one line how it goes.
func (r *SoakReport) line() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var parts []string
	for _, name := range []string{"changes", "starts", "lateness p99", "commit to firing p99", "engine's memory", "dead rows, all tables"} {
		if s := r.find(name); s != nil && len(s.Values) > 0 && s.Values[len(s.Values)-1] != nil {
			parts = append(parts, fmt.Sprintf("%s %s %s", name, number(*s.Values[len(s.Values)-1]), s.Unit))
		}
	}
	return strings.Join(parts, ", ")
}

// window gives the values between two shares of the time.
func (r *SoakReport) window(s *Series, from, to float64) []float64 {
	var v []float64
	for i, at := range r.At {
		if x := s.Values[i]; x != nil && at >= from && at <= to {
			v = append(v, *x)
		}
	}
	return v
}

// judge gives each series its verdict, and puts them into order.
func (r *SoakReport) judge() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Series = slices.DeleteFunc(r.Series, func(s *Series) bool { return !r.shown(s) })
	slices.SortFunc(r.Series, func(a, b *Series) int {
		if d := place(a.Name) - place(b.Name); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	end := r.At[len(r.At)-1]
	r.Took = end
	base := [2]float64{end / 4, end / 2}
	held := r.Held[1] > 0
	if held {
		base = [2]float64{r.Held[0] / 2, r.Held[0]}
	}
	for _, s := range r.Series {
		s.First, s.Middle, s.Last = median(r.window(s, 0, end/10)), median(r.window(s, end*0.45, end*0.55)), median(r.window(s, end*0.9, end))
		s.Slope = r.slope(s, end/2, end)
		before, after := r.window(s, base[0], base[1]), r.window(s, end*3/4, end)
		if held {
			b, h, a := median(before), median(r.window(s, r.Held[1]-(r.Held[1]-r.Held[0])/4, r.Held[1])), median(after)
			s.Before, s.Held, s.After = &b, &h, &a
		}
		s.Verdict, s.Why = s.how.verdict(before, after)
	}
}

// shown leaves out tables in which nothing happens, and statements that cost little.
func (r *SoakReport) shown(s *Series) bool {
	if strings.HasPrefix(s.Name, "statement ") {
		return slices.Contains(r.dearest, strings.TrimSuffix(s.Name, ", pages"))
	}
	table, what, of := strings.Cut(s.Name, ": ")
	if !of || slices.Contains(hot, table) || kept[table] {
		return true
	}
	return (what == "heap" || what == "indexes") && s.most()*1e6 >= worthShowing
}

// most is the highest value.
func (s *Series) most() float64 {
	most := 0.0
	for _, v := range s.Values {
		if v != nil {
			most = max(most, *v)
		}
	}
	return most
}

// order is that of the table and of the plots; tables come after it, by name.
var order = []string{
	"changes", "firings", "starts", "messages", "lateness p50", "lateness p99", "commit to firing p50", "commit to firing p99", "due and not started",
	"claiming", "claiming, pages", "engine's memory", "engine's connections", "log kept by the slot", "log not confirmed", "problems", "dead rows, all tables", "statement",
}

func place(name string) int {
	if strings.HasPrefix(name, "statement ") {
		name = "statement"
	}
	if i := slices.Index(order, name); i >= 0 {
		return i
	}
	return len(order)
}

// verdict compares a quarter with the base.
func (j judged) verdict(base, last []float64) (verdict, why string) {
	switch {
	case j.never && j.name == asKept.name:
		return Kept, ""
	case j.never:
		return "", ""
	case len(base) < leastToJudge || len(last) < leastToJudge:
		return TooShort, ""
	}
	before, after := median(base), median(last)
	why = fmt.Sprintf("%s to %s", number(before), number(after))
	switch {
	case after > before*j.factor+j.more:
		return Growing, why
	case j.both && after < before/j.factor-j.more:
		return Falling, why
	}
	return Flat, why
}

// slope is that of the straight line of least squares, an hour.
func (r *SoakReport) slope(s *Series, from, to float64) float64 {
	var n, sx, sy, sxx, sxy float64
	for i, at := range r.At {
		if v := s.Values[i]; v != nil && at >= from && at <= to {
			x := at / 3600
			n, sx, sy, sxx, sxy = n+1, sx+x, sy+*v, sxx+x*x, sxy+x**v
		}
	}
	d := n*sxx - sx*sx
	if d <= 0 {
		return 0
	}
	if slope := (n*sxy - sx*sy) / d; math.Abs(slope) > 1e-6 {
		return slope
	}
	return 0 // but for rounding
}

// Growing are the names of the series that grow.
func (r *SoakReport) Growing() []string {
	var names []string
	for _, s := range r.Series {
		if s.Verdict == Growing {
			names = append(names, s.Name)
		}
	}
	return names
}

// Verdict sums all up in a line.
func (r *SoakReport) Verdict() string {
	count := map[string]int{}
	for _, s := range r.Series {
		count[s.Verdict]++
	}
	growing := r.Growing()
	switch {
	case len(growing) > 0:
		return fmt.Sprintf("%d series grow: %s; %d are flat", len(growing), strings.Join(growing, "; "), count[Flat])
	case count[Flat] == 0:
		return "too short to say what is flat"
	default:
		return fmt.Sprintf("all that is judged is flat: %d series", count[Flat])
	}
}

// rule says how verdicts come about.
const rule = "A series is growing when the median of its last quarter is above that of its base (the second quarter; where a snapshot was held, the second half of " +
	"the time before it) by more than: times ×1.5 + 20 ms (claims' + 0.1 ms); pages of a claim ×1.25 + 5; memory ×1.1 + 4 MB; connections + 2; log ×1.5 + 64 MB; sizes ×1.15 + 0.5 MB; bytes of a row ×1.15 + 16; " +
	"dead rows ×1.5 + 2,000; queues ×1.5 + 50. Rates may differ by a tenth either way. Sizes of tables whose rows stay by design (kept) are not judged: what a row of theirs takes is."

// texts are the lines before and after the table.
func (r *SoakReport) texts() (before, after []string) {
	took := time.Duration(r.Took * float64(time.Second)).Round(time.Second)
	before = []string{
		r.Server,
		"load: " + r.Load,
		"what is over is kept for: " + r.Retention + ", so that as much goes as comes after that; tables marked kept hold their rows by design",
		fmt.Sprintf("%s of %s, %d samples, every %s", took, time.Duration(r.For*float64(time.Second)), len(r.At), time.Duration(r.Every*float64(time.Second))),
	}
	if r.Interrupted {
		before[len(before)-1] += "; interrupted"
	}
	if r.Missed > 0 {
		before = append(before, fmt.Sprintf("%d changes were left out, because the load was late by more than a second", r.Missed))
	}
	if r.Held[1] > 0 {
		before = append(before, fmt.Sprintf("a snapshot was held from %.0f s to %.0f s", r.Held[0], r.Held[1]))
	}
	return before, []string{rule, "verdict: " + r.Verdict()}
}

// WriteTable writes it for people.
func (r *SoakReport) WriteTable(w io.Writer) error {
	before, after := r.texts()
	fmt.Fprintln(w, strings.Join(before, "\n"))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := "\nseries\tunit\tfirst tenth\tmiddle\tlast tenth\tslope/h\t"
	if r.Held[1] > 0 {
		head = "\nseries\tunit\tbefore\theld\tafter\tslope/h\t"
	}
	fmt.Fprintln(t, head+"verdict")
	for _, s := range r.Series {
		if s.how.name == asRows.name || s.most() == 0 {
			continue // the page and the JSON have it
		}
		a, b, c := s.First, s.Middle, s.Last
		if s.Before != nil {
			a, b, c = *s.Before, *s.Held, *s.After
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Unit, number(a), number(b), number(c), number(s.Slope), s.Verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "\n"+strings.Join(after, "\n"))
	return err
}

// WriteJSON writes all of it, samples included.
func (r *SoakReport) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(struct {
		*SoakReport

		Verdict string   `json:"verdict"`
		Growing []string `json:"growing"`
		Rule    string   `json:"rule"`
	}{r, r.Verdict(), append([]string{}, r.Growing()...), rule})
}
