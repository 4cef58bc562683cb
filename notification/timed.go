package notification

// Recurring times, of digests and delays of type timed: a cron expression, or v1's
// form, "every two weeks on Monday at nine". Both are what clocks show where the
// subscriber is. A time that a clock change skips is the first instant after the gap,
// one that comes twice the first.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// timed is v1's form of a recurring time.
type timed struct {
	AtTime       string   `json:"atTime"`
	WeekDays     []string `json:"weekDays"`
	MonthDays    []number `json:"monthDays"`
	Ordinal      word     `json:"ordinal"`
	OrdinalValue string   `json:"ordinalValue"`
	MonthlyType  string   `json:"monthlyType"`
	Cron         string   `json:"cronExpression"`
}

// word is a text that may have come as a number.
type word string

// UnmarshalJSON reads both.
func (w *word) UnmarshalJSON(raw []byte) error {
	if text := string(raw); text != "null" {
		*w = word(strings.Trim(text, `"`))
	}
	return nil
}

// none says that there is nothing but the span of the settings.
func (t *timed) none() bool {
	return t.AtTime == "" && len(t.WeekDays) == 0 && len(t.MonthDays) == 0 && t.Ordinal == "" && t.OrdinalValue == ""
}

// next is when a recurring time comes next after t.
func (s settings) next(t time.Time, in *time.Location) (time.Time, error) {
	switch {
	case s.Cron != "":
		return cronNext(s.Cron, t, in)
	case !s.Timed.none():
		r, err := s.recurrence()
		if err != nil {
			return time.Time{}, err
		}
		return r.next(t, in)
	case s.Wait.Amount > 0:
		return s.Wait.after(t, in), s.Wait.check("timed")
	default:
		return time.Time{}, errors.New("timed: say when: cron, or timed.atTime, weekDays, monthDays or ordinal, or amount and unit")
	}
}

var cronParser = cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// everyHour is how the cron library marks a field that is *.
const everyHour = 1 << 63

// cronNext is when an expression comes next. One that names hours means what clocks
// show; of one for every hour, the hour that comes twice has its times twice.
func cronNext(spec string, t time.Time, in *time.Location) (time.Time, error) {
	unreadable := fmt.Errorf("cron: %.100q can't be read: use five fields, such as 0 9 * * 1-5", spec)
	if strings.Contains(spec, "TZ=") {
		return time.Time{}, fmt.Errorf("cron: %.100q names a time zone: leave it out, the subscriber's counts", spec)
	}
	schedule, err := cronParser.Parse(sundays(spec))
	if err != nil {
		return time.Time{}, unreadable
	}
	named, ok := schedule.(*cron.SpecSchedule)
	if !ok || named.Hour&everyHour != 0 {
		if t = schedule.Next(t.In(in)); t.IsZero() {
			return t, fmt.Errorf("cron: %.100q never comes", spec)
		}
		return t, nil
	}
	for wall := wallOf(t.In(in)); ; {
		if wall = named.Next(wall); wall.IsZero() {
			return wall, fmt.Errorf("cron: %.100q never comes", spec)
		}
		if at := localInstant(wall, in); at.After(t) {
			return at, nil
		}
	}
}

// sundays writes the 7 of an expression's weekdays as 0, which alone the library knows.
func sundays(spec string) string {
	fields := strings.Fields(spec)
	if len(fields) < 5 {
		return spec
	}
	days := strings.Split(fields[len(fields)-1], ",")
	for i, d := range days {
		switch from, found := strings.CutSuffix(d, "-7"); {
		case d == "7":
			days[i] = "0"
		case found && from == "7":
			days[i] = "0"
		case found:
			days[i] = from + "-6,0"
		}
	}
	fields[len(fields)-1] = strings.Join(days, ",")
	return strings.Join(fields, " ")
}

// wallOf is what clocks show at t, as if it were UTC.
func wallOf(t time.Time) time.Time {
	y, m, d := t.Date()
	hour, minute, second := t.Clock()
	return time.Date(y, m, d, hour, minute, second, t.Nanosecond(), time.UTC)
}

// recurrence is a recurring time of v1's, checked.
type recurrence struct {
	unit      string         // days, weeks or months
	every     int            // so many of them
	clock     *time.Duration // since midnight; nil: that at which it begins
	weekDays  []time.Weekday // none: all, or the one on which it begins
	monthDays []int
	ordinal   int // 1 to 5, -1 the last; 0: none
	of        string
}

var (
	weekdays = map[string]time.Weekday{
		"monday": time.Monday, "tuesday": time.Tuesday, "wednesday": time.Wednesday, "thursday": time.Thursday, "friday": time.Friday,
		"saturday": time.Saturday, "sunday": time.Sunday,
	}
	ordinals = map[word]int{"1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "last": -1}
)

// recurrence reads v1's settings, and refuses what they can't mean.
func (s settings) recurrence() (*recurrence, error) {
	t := &s.Timed
	r := &recurrence{unit: s.Wait.Unit, every: 1}
	if t.AtTime != "" {
		at, err := time.Parse("15:04:05", t.AtTime)
		if err != nil {
			at, err = time.Parse("15:04", t.AtTime)
		}
		if err != nil {
			return nil, fmt.Errorf("timed: atTime %.40q can't be read: use 09:00", t.AtTime)
		}
		hour, minute, second := at.Clock()
		clock := time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second
		r.clock = &clock
	}
	for _, d := range t.WeekDays {
		day, ok := weekdays[strings.ToLower(d)]
		if !ok {
			return nil, fmt.Errorf("timed: weekday %.40q is not known: use monday to sunday", d)
		}
		r.weekDays = append(r.weekDays, day)
	}
	if t.MonthlyType != "" && t.MonthlyType != "each" && t.MonthlyType != "on" {
		return nil, fmt.Errorf("timed: monthlyType %.40q is not known: use each (monthDays) or on (ordinal)", t.MonthlyType)
	}
	if err := r.readDays(t); err != nil {
		return nil, err
	}
	return r, r.readSpan(s.Wait)
}

// readDays reads the days of the month: by number, or the second Tuesday.
func (r *recurrence) readDays(t *timed) error {
	for _, d := range t.MonthDays {
		if d < 1 || d > 31 || d != number(math.Trunc(float64(d))) {
			return fmt.Errorf("timed: month day %g: use 1 to 31", float64(d))
		}
	}
	if _, ok := ordinals[t.Ordinal]; !ok && t.Ordinal != "" {
		return fmt.Errorf("timed: ordinal %.40q: use 1 to 5 or last", string(t.Ordinal))
	}
	r.of = strings.ToLower(t.OrdinalValue)
	if _, ok := weekdays[r.of]; !ok && !slices.Contains([]string{"", "day", "weekday", "weekend"}, r.of) {
		return fmt.Errorf("timed: ordinalValue %.40q is not known: use day, weekday, weekend, or monday to sunday", t.OrdinalValue)
	}
	on := t.MonthlyType == "on" || t.MonthlyType == "" && t.Ordinal != "" && len(t.MonthDays) == 0
	switch {
	case !on:
		for _, d := range t.MonthDays {
			r.monthDays = append(r.monthDays, int(d))
		}
	case t.Ordinal == "":
		return errors.New("timed: ordinal is missing: use 1 to 5 or last, or monthlyType each with monthDays")
	default:
		r.ordinal = ordinals[t.Ordinal]
	}
	return nil
}

// readSpan reads how often it recurs, and refuses what would never come or not count.
func (r *recurrence) readSpan(wait span) error {
	ofMonth := len(r.monthDays) > 0 || r.ordinal != 0
	switch {
	case wait.Unit == "" || wait.Amount <= 1 && slices.Contains(units[:3], wait.Unit):
		switch {
		case ofMonth:
			r.unit = "months"
		case len(r.weekDays) > 0:
			r.unit = "weeks"
		default:
			r.unit = "days"
		}
	case !slices.Contains(units, wait.Unit):
		return wait.check("timed")
	case slices.Contains(units[:3], wait.Unit):
		return fmt.Errorf("timed: a time of day does not go with every %g %s: use days, weeks or months", wait.Amount, wait.Unit)
	}
	if wait.Amount != 0 {
		if wait.Amount != math.Trunc(wait.Amount) || wait.Amount < 0 {
			return fmt.Errorf("timed: amount %g: use a whole number above 0", wait.Amount)
		}
		if err := (span{wait.Amount, r.unit}).check("timed"); err != nil {
			return err
		}
		r.every = max(1, int(wait.Amount))
	}
	switch {
	case ofMonth && r.unit != "months":
		return fmt.Errorf("timed: days of the month do not go with unit %s: use unit months", r.unit)
	case ofMonth && len(r.weekDays) > 0:
		return errors.New("timed: use weekDays, monthDays or ordinal, one of them")
	case r.unit == "days" && r.every > 1 && len(r.weekDays) > 0:
		return errors.New("timed: weekDays do not go with several days: use unit weeks")
	case r.unit == "months" && r.every > 1 && len(r.monthDays) > 0 && slices.Min(r.monthDays) > 28,
		r.unit == "months" && r.every > 1 && r.ordinal == 5 && weekdayName(r.of):
		return errors.New("timed: with several months between, use a day that each month has")
	}
	return nil
}

func weekdayName(of string) bool {
	_, ok := weekdays[of]
	return ok
}

// next is the first time after t in the period in which it begins, t's own, or in
// those that are so many periods away.
func (r *recurrence) next(t time.Time, in *time.Location) (time.Time, error) {
	begin := wallOf(t.In(in))
	start := begin.Truncate(24 * time.Hour)
	clock := begin.Sub(start)
	if r.clock != nil {
		clock = *r.clock
	}
	for n := range 1000 {
		for _, day := range r.days(start, n*r.every) {
			if day.Before(start) {
				continue
			}
			if at := localInstant(day.Add(clock), in); at.After(t) {
				return at, nil
			}
		}
	}
	return time.Time{}, errors.New("timed: this never comes")
}

// days are those that count in the period so many units after start's.
func (r *recurrence) days(start time.Time, ahead int) []time.Time {
	var days []time.Time
	switch r.unit {
	case "days":
		days = []time.Time{start.AddDate(0, 0, ahead)}
	case "weeks":
		monday := start.AddDate(0, 0, 7*ahead-(int(start.Weekday())+6)%7)
		for d := range 7 {
			days = append(days, monday.AddDate(0, 0, d))
		}
	default:
		first := time.Date(start.Year(), start.Month()+time.Month(ahead), 1, 0, 0, 0, 0, time.UTC)
		for day := first; day.Month() == first.Month(); day = day.AddDate(0, 0, 1) {
			days = append(days, day)
		}
	}
	if r.ordinal != 0 {
		return r.nth(days)
	}
	last := days[len(days)-1].Day()
	return slices.DeleteFunc(days, func(day time.Time) bool {
		switch {
		case len(r.monthDays) > 0:
			return !slices.Contains(r.monthDays, day.Day())
		case len(r.weekDays) > 0:
			return !slices.Contains(r.weekDays, day.Weekday())
		case r.unit == "weeks":
			return day.Weekday() != start.Weekday()
		case r.unit == "months":
			return day.Day() != min(start.Day(), last)
		default:
			return false
		}
	})
}

// nth is the one of a month's days that an ordinal means: its second Tuesday.
func (r *recurrence) nth(days []time.Time) []time.Time {
	days = slices.DeleteFunc(days, func(day time.Time) bool {
		weekend := day.Weekday() == time.Saturday || day.Weekday() == time.Sunday
		switch r.of {
		case "", "day":
			return false
		case "weekday":
			return weekend
		case "weekend":
			return !weekend
		default:
			return day.Weekday() != weekdays[r.of]
		}
	})
	place := r.ordinal - 1
	if r.ordinal < 0 {
		place = len(days) - 1
	}
	if place >= len(days) {
		return nil
	}
	return days[place : place+1]
}

// cron says a recurring time as an expression of five fields; "" where none can.
func (r *recurrence) cron() string {
	if r.clock == nil || r.every > 1 || r.ordinal != 0 || *r.clock%time.Minute != 0 {
		return ""
	}
	days, week := "*", "*"
	switch {
	case len(r.monthDays) > 0:
		days = join(r.monthDays)
	case len(r.weekDays) > 0:
		week = join(r.weekDays)
	case r.unit != "days":
		return ""
	}
	return fmt.Sprintf("%d %d %s * %s", int(*r.clock/time.Minute)%60, int(*r.clock/time.Hour), days, week)
}

func join[N ~int](list []N) string {
	text := make([]string, len(list))
	for i, n := range list {
		text[i] = strconv.Itoa(int(n))
	}
	return strings.Join(text, ",")
}

// The wire.

// DigestShown is a digest step's settings as the activity feed shows them on a job.
func DigestShown(raw json.RawMessage) map[string]any {
	s := parseSettings("digest", raw)
	out := map[string]any{"type": s.Type}
	if s.Wait.Amount > 0 {
		out["amount"] = s.Wait.Amount
	}
	if slices.Contains(units, s.Wait.Unit) {
		out["unit"] = s.Wait.Unit
	}
	if s.DigestKey != "" {
		out["digestKey"] = s.DigestKey
	}
	switch s.Type {
	case "backoff":
		out["backoff"] = true
		out["backoffAmount"], out["backoffUnit"] = s.LookBack.Amount, s.LookBack.Unit
	case "timed":
		at := map[string]any{}
		if s.Cron != "" {
			at["cronExpression"] = s.Cron
		}
		for name, v := range map[string]string{
			"atTime": s.Timed.AtTime, "ordinal": string(s.Timed.Ordinal), "ordinalValue": strings.ToLower(s.Timed.OrdinalValue), "monthlyType": s.Timed.MonthlyType,
		} {
			if v != "" {
				at[name] = v
			}
		}
		if len(s.Timed.WeekDays) > 0 {
			days := make([]string, len(s.Timed.WeekDays))
			for i, d := range s.Timed.WeekDays {
				days[i] = strings.ToLower(d)
			}
			at["weekDays"] = days
		}
		if len(s.Timed.MonthDays) > 0 {
			at["monthDays"] = s.Timed.MonthDays
		}
		out["timed"] = at
	}
	return out
}

// ControlsOf are the settings of a digest, delay or throttle in v2's words, whichever
// they were given in: numbers are numbers, v1's backoff is a window to look back, and
// what of v1's timed cron can say is said so, too.
func ControlsOf(stepType string, given map[string]any) map[string]any {
	raw, err := json.Marshal(given)
	if err != nil {
		return given
	}
	s, out := parseSettings(stepType, raw), maps.Clone(given)
	if _, text := out["amount"].(string); text {
		out["amount"] = s.Wait.Amount
	}
	switch {
	case stepType == "digest" && s.Type == "backoff":
		out["type"] = "regular"
		out["lookBackWindow"] = map[string]any{"amount": s.LookBack.Amount, "unit": s.LookBack.Unit}
	case s.Type == "timed":
		out["type"] = "timed"
		if s.Cron != "" {
			out["cron"] = s.Cron
		} else if r, err := s.recurrence(); err == nil && !s.Timed.none() && r.cron() != "" {
			out["cron"] = r.cron()
		}
	}
	return out
}
