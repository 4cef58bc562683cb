package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// when calls f once something was written that holds a text.
type when struct {
	text  string
	f     func()
	heard bytes.Buffer
}

func (w *when) Write(p []byte) (int, error) {
	w.heard.Write(p)
	if w.f != nil && strings.Contains(string(p), w.text) {
		w.f()
		w.f = nil
	}
	return len(p), nil
}

func soakFor(t *testing.T, ctx context.Context, o SoakOptions) *SoakReport { //nolint:revive // the context may be another than the test's
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Engine, o.Logger = []string{program, "engine"}, slog.New(slog.NewTextHandler(t.Output(), nil))
	report, err := Soak(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.Stat(report.dir); !os.IsNotExist(err) {
		t.Errorf("left behind: %v, %v", left, err)
	}
	return report
}

func TestSoak(t *testing.T) {
	t.Parallel()
	var progress bytes.Buffer
	report := soakFor(t, t.Context(), SoakOptions{For: 6 * time.Second, Rate: 100, Every: 200 * time.Millisecond, Hold: 1500 * time.Millisecond, Progress: &progress})
	if report.Interrupted || report.Took < 4 || len(report.At) < 8 {
		t.Errorf("interrupted %v, took %v s, %d samples", report.Interrupted, report.Took, len(report.At))
	}
	if from, to := report.Held[0], report.Held[1]; from < 1.9 || to-from < 1.4 || to > 5 {
		t.Errorf("a snapshot was held from %v to %v s", from, to)
	}
	// What must be seen, and seen to be at work.
	for _, name := range []string{
		"changes", "firings", "starts", "lateness p50", "lateness p99", "commit to firing p50", "commit to firing p99", "engine's memory", "engine's connections",
		"log kept by the slot", "dead rows, all tables", "river_job: heap", "river_job: indexes", "lead_stage_actions: heap", "lead_stage_actions: indexes",
		"lead_stage_actions: dead rows", "trigger_firings: heap", "due_signals: heap", "lanes: heap", "lead_stages: heap", "throttle_starts: heap", "notification_events: heap",
		"lead: heap per live row", "lead: indexes per live row", "lead: live rows", "claiming", "claiming, pages",
	} {
		s := report.find(name)
		switch {
		case s == nil && strings.HasPrefix(name, "claiming") && strings.Contains(progress.String(), "pg_stat_statements"):
			continue // the server has none
		case s == nil:
			t.Errorf("%s is missing", name)
			continue
		case s.most() <= 0:
			t.Errorf("%s: %v", name, s.Values)
		case len(s.Values) != len(report.At):
			t.Errorf("%s has %d values of %d", name, len(s.Values), len(report.At))
		case s.Verdict == "" && name != "lead: live rows":
			t.Errorf("%s has no verdict", name)
		case s.Held == nil:
			t.Errorf("%s: nothing is said of the held snapshot", name)
		}
	}
	// Which statements are the dearest is the machine's business; each has its time and its pages.
	times, pages := 0, 0
	for _, s := range report.Series {
		switch {
		case !strings.HasPrefix(s.Name, "statement ") || s.most() <= 0 || len(s.Values) != len(report.At):
		case strings.HasSuffix(s.Name, ", pages"):
			pages++
		default:
			times++
		}
	}
	if (times == 0 || pages == 0) && report.find("claiming") != nil {
		t.Errorf("%d statements with times, %d with pages", times, pages)
	}
	// A tenth of the changes fires, a tenth are leads' actions; each is one row.
	if c, f := report.find("changes").mean(), report.find("firings").mean(); f < c/20 || f > c/5 {
		t.Errorf("%.1f changes/s, %.1f firings/s", c, f)
	}

	var table, page, raw bytes.Buffer
	if err := report.WriteTable(&table); err != nil || !strings.Contains(table.String(), "lateness p99") || !strings.Contains(table.String(), "held") {
		t.Errorf("%v: %s", err, table.String())
	}
	t.Logf("\n%s", table.String())
	if err := report.WritePage(&page); err != nil || strings.Count(page.String(), "<svg") < 10 || strings.Count(page.String(), "<polyline") < 10 {
		t.Errorf("%v: %.2000s", err, page.String())
	}
	if away := regexp.MustCompile(`(?i)(src|href|url\(|@import|<script)`).FindString(page.String()); away != "" {
		t.Errorf("the page needs something else: %s", away)
	}
	if err := report.WriteJSON(&raw); err != nil {
		t.Fatal(err)
	}
	var got struct {
		At      []float64 `json:"at_seconds"`
		Verdict string    `json:"verdict"`
		Rule    string    `json:"rule"`
		Series  []struct {
			Name    string     `json:"name"`
			Verdict string     `json:"verdict"`
			Values  []*float64 `json:"values"`
		} `json:"series"`
	}
	if err := json.Unmarshal(raw.Bytes(), &got); err != nil || got.Verdict == "" || got.Rule == "" || len(got.Series) < 20 || len(got.At) != len(got.Series[0].Values) {
		t.Errorf("%v: %.500s", err, raw.String())
	}
}

// mean is of what was seen.
func (s *Series) mean() float64 {
	n, sum := 0, 0.0
	for _, v := range s.Values {
		if v != nil {
			n, sum = n+1, sum+*v
		}
	}
	return sum / float64(max(n, 1))
}

// Ctrl-C ends it with what was seen until then.
func TestSoakInterrupted(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	progress := &when{text: "the engine runs", f: func() { time.AfterFunc(1500*time.Millisecond, stop) }}
	report := soakFor(t, ctx, SoakOptions{For: time.Hour, Rate: 20, Every: 100 * time.Millisecond, Progress: progress})
	if !report.Interrupted || report.Took > 30 || len(report.At) == 0 {
		t.Errorf("interrupted %v, took %v s, %d samples\n%s", report.Interrupted, report.Took, len(report.At), progress.heard.String())
	}
}

func TestSoakIsBounded(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]SoakOptions{
		"time": {For: MaxSoak + 1}, "no time": {For: -time.Second}, "rate": {Rate: MaxSoakRate + 1}, "no rate": {Rate: -1},
		"hold": {For: time.Minute, Hold: 21 * time.Second}, "short hold": {For: time.Minute, Hold: time.Millisecond},
	} {
		if report, err := Soak(t.Context(), o); err == nil || report != nil {
			t.Errorf("%s: %v, %v", name, report, err)
		}
	}
	o := SoakOptions{}
	if err := o.Check(); err != nil || o.For != time.Hour || o.Rate != 300 || o.Every != 10*time.Second {
		t.Errorf("%v: %+v", err, o)
	}
}

// The load never heaps up: who is late leaves out what it missed.
func TestPacerLeavesOut(t *testing.T) {
	t.Parallel()
	p := &pacer{began: time.Now().Add(-time.Minute), rate: 1000}
	if i, ok := p.take(t.Context()); !ok || i < 58_000 || p.missed.Load() < 58_000 {
		t.Errorf("%d after %d that were missed", i, p.missed.Load())
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	series := func(f func(i int) float64) *SoakReport {
		r := &SoakReport{}
		for i := range 100 {
			v := values{}
			v.set("x", "MB", asMemory, f(i))
			v.set("rate", "/s", asRate, f(i))
			v.set("kept", "MB", asKept, f(i))
			r.add(time.Duration(i+1)*time.Second, v)
		}
		return r
	}
	for name, tc := range map[string]struct {
		f                  func(i int) float64
		verdict, ofTheRate string
	}{
		"the same":      {func(int) float64 { return 100 }, Flat, Flat},
		"warms up":      {func(i int) float64 { return 100 * min(1, float64(i)/20) }, Flat, Flat},
		"leaks":         {func(i int) float64 { return 100 + float64(i) }, Growing, Growing},
		"a sawtooth":    {func(i int) float64 { return 100 + float64(i%7)*10 }, Flat, Flat},
		"one outlier":   {func(i int) float64 { return map[bool]float64{true: 1e6, false: 100}[i == 90] }, Flat, Flat},
		"falls":         {func(i int) float64 { return 1000 - 5*float64(i) }, Flat, Falling},
		"little at all": {func(i int) float64 { return float64(i) / 100 }, Flat, Flat},
	} {
		r := series(tc.f)
		r.judge()
		if got := r.find("x"); got.Verdict != tc.verdict {
			t.Errorf("%s: %s (%s), want %s", name, got.Verdict, got.Why, tc.verdict)
		}
		if got := r.find("rate"); got.Verdict != tc.ofTheRate {
			t.Errorf("%s, a rate: %s (%s), want %s", name, got.Verdict, got.Why, tc.ofTheRate)
		}
		if got := r.find("kept"); got.Verdict != Kept {
			t.Errorf("%s, kept: %s", name, got.Verdict)
		}
	}
	r := series(func(i int) float64 { return 100 + float64(i) })
	r.judge()
	if x := r.find("x"); x.First != 105 || x.Middle != 149 || x.Last != 194 || x.Slope < 3599 || x.Slope > 3601 || !slices.Equal(r.Growing(), []string{"rate", "x"}) {
		t.Errorf("first %v, middle %v, last %v, slope %v; growing %v", x.First, x.Middle, x.Last, x.Slope, r.Growing())
	}
	// A held snapshot: what comes after is compared with what was before.
	r = series(func(i int) float64 {
		switch {
		case i < 33:
			return 100
		case i < 66:
			return 300
		}
		return 200
	})
	r.hold(33*time.Second, 66*time.Second)
	r.judge()
	if x := r.find("x"); x.Verdict != Growing || *x.Before != 100 || *x.Held != 300 || *x.After != 200 {
		t.Errorf("%s: before %v, held %v, after %v", x.Verdict, *x.Before, *x.Held, *x.After)
	}
	short := &SoakReport{}
	v := values{}
	v.set("x", "MB", asMemory, 1)
	short.add(time.Second, v)
	short.judge()
	if x := short.find("x"); x.Verdict != TooShort || !strings.Contains(short.Verdict(), "too short") {
		t.Errorf("%s, %s", x.Verdict, short.Verdict())
	}
}
