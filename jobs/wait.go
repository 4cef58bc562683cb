package jobs

// Action type wait: the next action of the stage becomes due later. A wait is a
// row with a perform_at, not a sleeping worker: the first run returns the instant
// as Result.Until, the second, when it has come, completes.
//
// The wait is counted from Action.PerformAt, the end of the action before, and
// not from when a worker got to it, so that a late worker doesn't make waits
// longer. Days and what is longer than a day are calendar days in the
// organization's time zone, as in Postgres: "2 days" after Friday 09:00 is
// Sunday 09:00 local time, also when the clocks change between; "48 hours" is
// exact. A local time that a clock change skips means the first instant after
// the gap; one that comes twice means the first.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgautomate/pgautomate/internal/wallclock"
)

// maxWait bounds "for", against typing errors.
const maxWaitYears = 10

type waitHandler struct{}

// WaitOutput is the result of a wait.
type WaitOutput struct {
	Until time.Time `json:"until"`
}

func (waitHandler) Run(ctx context.Context, a *Action) (Result, error) {
	if a.Resumed {
		out := Result{Output: WaitOutput{a.Now}}
		if len(a.Parked) > 0 {
			out.Output = a.Parked
		}
		return out, nil
	}
	p, err := Render(ctx, a.Params, a.Vars)
	if err != nil {
		return Result{}, err
	}
	base := a.PerformAt
	if base.IsZero() {
		base = a.Now
	}
	until, err := WaitTime(p, base, a.Location)
	if err != nil {
		return Result{}, Permanent(err)
	}
	result := Result{Output: WaitOutput{until}}
	if until.After(a.Now) {
		result.Until = until
	}
	return result, nil
}

func (waitHandler) Validate(params json.RawMessage) error {
	p, err := decodeParams(params)
	if err != nil {
		return err
	}
	// What a template stands in is checked when it is rendered.
	for _, name := range []string{"for", "until"} {
		if s, ok := p[name].(string); ok && isTemplate(s) {
			p[name] = map[string]string{"for": "1 hour", "until": "09:00"}[name]
		}
	}
	if w, ok := p["window"].(map[string]any); ok {
		templated := false
		_, _ = eachString("window", w, 0, func(_, s string) (any, error) {
			templated = templated || isTemplate(s)
			return s, nil
		})
		if templated {
			delete(p, "window")
			if p["for"] == nil && p["until"] == nil {
				return nil
			}
		}
	}
	_, err = WaitTime(p, time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC), time.UTC)
	return err
}

// WaitTime is the instant at which a wait with these rendered parameters ends,
// when it begins at base; loc is the organization's time zone (nil: UTC). It is
// pure. The result may lie before base: an instant that has passed.
func WaitTime(params map[string]any, base time.Time, loc *time.Location) (time.Time, error) {
	if loc == nil {
		loc = time.UTC
	}
	span, until := params["for"], params["until"]
	end := base
	switch {
	case span != nil && until != nil:
		return time.Time{}, errors.New(`wait: give either "for" or "until", not both`)
	case span != nil:
		text, ok := span.(string)
		if !ok {
			return time.Time{}, errors.New(`for: use a time span with its unit, such as "2 days" or "90m"`)
		}
		s, err := parseSpan(text)
		if err != nil {
			return time.Time{}, fmt.Errorf("for: %w", err)
		}
		end = s.after(base, loc)
	case until != nil:
		text, ok := until.(string)
		if !ok {
			return time.Time{}, fmt.Errorf("until: %s", untilForms)
		}
		var err error
		if end, err = parseUntil(text, base, loc); err != nil {
			return time.Time{}, fmt.Errorf("until: %w", err)
		}
	case params["window"] == nil:
		return time.Time{}, errors.New(`wait: give "for" ("2 days") or "until" ("09:00" or an instant)`)
	}
	if params["window"] == nil {
		return end, nil
	}
	w, err := parseWindow(params["window"], loc)
	if err != nil {
		return time.Time{}, err
	}
	return w.next(end)
}

// span is a length of time as Postgres's interval has it.
type span struct {
	months, days int
	exact        time.Duration
}

// after adds s to t: months, then days, both keeping the local time of day, then
// the exact rest.
func (s span) after(t time.Time, loc *time.Location) time.Time {
	if s.months == 0 && s.days == 0 {
		return t.Add(s.exact)
	}
	l := t.In(loc)
	year, month, day := l.Date()
	if s.months != 0 {
		first := time.Date(year, month+time.Month(s.months), 1, 0, 0, 0, 0, time.UTC)
		last := time.Date(first.Year(), first.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
		year, month, day = first.Year(), first.Month(), min(day, last)
	}
	return localInstant(civil{year, month, day + s.days}, clockOf(l), loc).Add(s.exact)
}

const spanForms = `use a span such as "2 days", "1 hour 30 minutes", "90m" or "PT1H"`

var (
	spanToken = regexp.MustCompile(`^(\d+(?:\.\d+)?)\s*([a-zµ]+)`)
	clockSpan = regexp.MustCompile(`^(\d+):([0-5]\d)(?::([0-5]\d)(\.\d+)?)?$`)
	isoSpan   = regexp.MustCompile(`^P(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)S)?)?$`)
)

// parseSpan reads words ("2 days", "1 hour 30 minutes", "2d 4h"), Go's ("90m",
// "1h30m"; m is minutes), ISO 8601's ("P1DT2H") and Postgres's ("1 day 02:30:00").
func parseSpan(text string) (span, error) {
	var s span
	bad := func() (span, error) { return span{}, fmt.Errorf("%q is not a time span: %s", excerpt(text), spanForms) }
	rest := strings.TrimSpace(text)
	if m := isoSpan.FindStringSubmatch(strings.ToUpper(rest)); m != nil && len(rest) > 2 && !strings.HasSuffix(strings.ToUpper(rest), "T") {
		for i, unit := range []string{"years", "months", "weeks", "days", "hours", "minutes", "seconds"} {
			if m[i+1] != "" {
				if err := s.add(m[i+1], unit); err != nil {
					return span{}, err
				}
			}
		}
		return s, s.bound()
	}
	rest = strings.ToLower(rest)
	found := false
	for rest != "" {
		if m := clockSpan.FindStringSubmatch(rest); m != nil {
			for i, unit := range []string{"hours", "minutes", "seconds"} {
				if m[i+1] != "" {
					n := m[i+1]
					if i == 2 {
						n += m[4]
					}
					if err := s.add(n, unit); err != nil {
						return span{}, err
					}
				}
			}
			return s, s.bound()
		}
		m := spanToken.FindStringSubmatch(rest)
		if m == nil {
			return bad()
		}
		if err := s.add(m[1], m[2]); err != nil {
			return span{}, err
		}
		found = true
		rest = strings.TrimLeft(rest[len(m[0]):], " \t,")
		rest = strings.TrimPrefix(rest, "and ")
		rest = strings.TrimLeft(rest, " ")
	}
	if !found {
		return bad()
	}
	return s, s.bound()
}

var exactUnits = map[string]time.Duration{
	"ms": time.Millisecond, "millisecond": time.Millisecond, "us": time.Microsecond, "µs": time.Microsecond, "ns": time.Nanosecond,
	"s": time.Second, "sec": time.Second, "second": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour,
}

var calendarUnits = map[string]span{
	"d": {days: 1}, "day": {days: 1}, "w": {days: 7}, "week": {days: 7},
	"mo": {months: 1}, "mon": {months: 1}, "month": {months: 1}, "y": {months: 12}, "yr": {months: 12}, "year": {months: 12},
}

// add adds n units. Only units that are exact take fractions.
func (s *span) add(n, unit string) error {
	singular := unit
	if len(unit) > 2 {
		singular = strings.TrimSuffix(unit, "s")
	}
	if d, ok := exactUnits[singular]; ok {
		f, err := strconv.ParseFloat(n, 64)
		if err != nil || f*float64(d) > float64(maxWaitYears)*366*24*float64(time.Hour) {
			return fmt.Errorf("%s %s: wait at most %d years", n, unit, maxWaitYears)
		}
		if whole, err := strconv.ParseInt(n, 10, 64); err == nil {
			s.exact += time.Duration(whole) * d
		} else {
			s.exact += time.Duration(f * float64(d))
		}
		return nil
	}
	c, ok := calendarUnits[singular]
	if !ok {
		hint := ""
		if near := nearest(singular, slices.Sorted(maps.Keys(calendarUnits))); near != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", near)
		}
		return fmt.Errorf("unit %q is unknown%s: %s", unit, hint, spanForms)
	}
	whole, err := strconv.Atoi(n)
	if err != nil && strings.Contains(n, ".") {
		return fmt.Errorf("%s %s: use a whole number, or hours for a part of a day", n, unit)
	}
	if err != nil || whole > maxWaitYears*366 {
		return fmt.Errorf("%s %s: wait at most %d years", n, unit, maxWaitYears)
	}
	s.days += whole * c.days
	s.months += whole * c.months
	return nil
}

func (s *span) bound() error {
	if s.exact < 0 || float64(s.months)/12+float64(s.days)/365.25+s.exact.Hours()/8766 > maxWaitYears+0.01 {
		return fmt.Errorf("wait at most %d years", maxWaitYears)
	}
	return nil
}

const untilForms = `use an instant ("2028-03-13T09:00:00Z"), a local date and time ("2028-03-13 09:00") or a time of day ("09:00")`

var untilLocal = []string{
	"2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02",
}

var untilInstant = []string{
	time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999-07",
	"2006-01-02T15:04:05.999999999-07", "2006-01-02 15:04:05 -0700",
}

// parseUntil reads an instant, a local date with or without a time, or a time of
// day: the next one that is not before base.
func parseUntil(text string, base time.Time, loc *time.Location) (time.Time, error) {
	text = strings.TrimSpace(text)
	for _, layout := range untilInstant {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	for _, layout := range untilLocal {
		if t, err := time.Parse(layout, text); err == nil {
			return localInstant(civilOf(t), clockOf(t), loc), nil
		}
	}
	c, err := parseClock(text)
	if err != nil || c >= 24*time.Hour {
		return time.Time{}, fmt.Errorf("%q is not a time: %s", excerpt(text), untilForms)
	}
	day := civilOf(base.In(loc))
	// Two days on: a day whose time is skipped altogether gives way to the next.
	for range 3 {
		if t := localInstant(day, c, loc); !t.Before(base) {
			return t, nil
		}
		day.day++
	}
	return time.Time{}, fmt.Errorf("%q never comes in %s", excerpt(text), loc)
}

// window is when a wait may end.
type window struct {
	weekdays [7]bool
	from, to time.Duration // since local midnight; to may be up to 24 h, or less than from: the next day
	loc      *time.Location
	holidays map[civil]bool
}

var weekdayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

const windowForm = `{"weekdays": ["mon", …], "hours": ["09:00", "17:00"], "time_zone"?, "holidays"?: ["2028-03-13"]}`

func parseWindow(v any, loc *time.Location) (window, error) {
	w := window{to: 24 * time.Hour, loc: loc, holidays: map[civil]bool{}}
	m, ok := v.(map[string]any)
	if !ok {
		return w, fmt.Errorf("window: use %s", windowForm)
	}
	known := []string{"weekdays", "hours", "time_zone", "holidays"}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(known, name) {
			return w, fmt.Errorf("window: unknown member %q: use %s", name, windowForm)
		}
	}
	if zone := m["time_zone"]; zone != nil {
		name, _ := zone.(string)
		l, err := time.LoadLocation(name)
		if err != nil || name == "" || name == "Local" {
			return w, fmt.Errorf(`window.time_zone: %q is not a time zone: use a name such as "Europe/Berlin"`, excerpt(fmt.Sprint(zone)))
		}
		w.loc = l
	}
	days, err := stringList(m["weekdays"])
	if err != nil || (m["weekdays"] != nil && len(days) == 0) {
		return w, errors.New(`window.weekdays: use an array of days, such as ["mon", "tue"]`)
	}
	for _, d := range days {
		i := -1
		if lower := strings.ToLower(strings.TrimSpace(d)); len(lower) >= 3 {
			i = slices.Index(weekdayNames, lower[:3])
			if i >= 0 && lower != weekdayNames[i] && lower != strings.ToLower(time.Weekday(i).String()) {
				i = -1
			}
		}
		if i < 0 {
			return w, fmt.Errorf("window.weekdays: %q is not a day: use mon, tue, wed, thu, fri, sat, sun", excerpt(d))
		}
		w.weekdays[i] = true
	}
	if len(days) == 0 {
		w.weekdays = [7]bool{true, true, true, true, true, true, true}
	}
	hours, err := stringList(m["hours"])
	if err != nil || (m["hours"] != nil && len(hours) != 2) {
		return w, errors.New(`window.hours: use two times, such as ["09:00", "17:00"]`)
	}
	if len(hours) == 2 {
		if w.from, err = parseClock(hours[0]); err != nil {
			return w, fmt.Errorf("window.hours: %w", err)
		}
		if w.to, err = parseClock(hours[1]); err != nil {
			return w, fmt.Errorf("window.hours: %w", err)
		}
		if w.from == w.to || w.from == 24*time.Hour {
			return w, errors.New(`window.hours: the window is empty: use two different times, such as ["09:00", "17:00"]`)
		}
	}
	holidays, err := stringList(m["holidays"])
	if err != nil {
		return w, errors.New(`window.holidays: use an array of dates, such as ["2028-03-13"]`)
	}
	for _, h := range holidays {
		t, err := time.Parse("2006-01-02", strings.TrimSpace(h))
		if err != nil {
			return w, fmt.Errorf("window.holidays: %q is not a date: use the form 2028-03-13", excerpt(h))
		}
		w.holidays[civilOf(t)] = true
	}
	return w, nil
}

// next is t when it lies in the window, else the next opening.
func (w window) next(t time.Time) (time.Time, error) {
	day := civilOf(t.In(w.loc))
	day.day-- // a window over midnight may have opened yesterday
	// Each week has an open day unless a holiday or a clock change takes it.
	for range 7 * (len(w.holidays) + 4) {
		d := civilOf(day.utc())
		day.day++
		if !w.weekdays[d.utc().Weekday()] || w.holidays[d] {
			continue
		}
		opens := localInstant(d, w.from, w.loc)
		last := d
		if w.to < w.from {
			last.day++
		}
		closes := localInstant(last, w.to, w.loc)
		if t.Before(closes) && opens.Before(closes) {
			if t.Before(opens) {
				return opens, nil
			}
			return t, nil
		}
	}
	return time.Time{}, errors.New("window: it never opens: leave some days that are not holidays")
}

func stringList(v any) ([]string, error) {
	if v == nil {
		return nil, nil
	}
	items, ok := v.([]any)
	if !ok {
		return nil, errors.New("not an array")
	}
	out := make([]string, len(items))
	for i, item := range items {
		if out[i], ok = item.(string); !ok {
			return nil, errors.New("not a string")
		}
	}
	return out, nil
}

// parseClock reads a time of day as the time since midnight, up to 24:00.
func parseClock(s string) (time.Duration, error) {
	s = strings.TrimSpace(s)
	if s == "24:00" {
		return 24 * time.Hour, nil
	}
	for _, layout := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil {
			return clockOf(t), nil
		}
	}
	return 0, fmt.Errorf(`%q is not a time of day: use the form "09:00"`, excerpt(s))
}

// civil is a date without a time zone; day may lie outside of the month until utc.
type civil struct {
	year  int
	month time.Month
	day   int
}

func civilOf(t time.Time) civil {
	y, m, d := t.Date()
	return civil{y, m, d}
}

func (c civil) utc() time.Time { return time.Date(c.year, c.month, c.day, 0, 0, 0, 0, time.UTC) }

// clockOf is what the clock shows at t, since midnight.
func clockOf(t time.Time) time.Duration {
	h, m, s := t.Clock()
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(t.Nanosecond())
}

// localInstant is when the clocks of loc show that date and time.
func localInstant(date civil, clock time.Duration, loc *time.Location) time.Time {
	at, _ := wallclock.First(date.utc().Add(clock), loc)
	return at
}
