package notification

// How long a digest or delay takes: its settings, in the words of v1 (metadata)
// or v2 (controlValues), and the arithmetic of times.

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// settings are a digest's, delay's or throttle's.
type settings struct {
	Type      string // regular, backoff, timed, scheduled, dynamic
	Wait      span
	LookBack  span
	DigestKey string
	Cron      string
	Timed     timed
	DelayPath string
	Threshold int // of a throttle
}

// span is an amount of a unit: 0.5 hours, 2 months.
type span struct {
	Amount float64
	Unit   string
}

// timed is v1's form of a recurring time.
type timed struct {
	AtTime       string   `json:"atTime"`
	WeekDays     []string `json:"weekDays"`
	MonthDays    []int    `json:"monthDays"`
	Ordinal      string   `json:"ordinal"`
	OrdinalValue string   `json:"ordinalValue"`
	MonthlyType  string   `json:"monthlyType"`
}

// number is an amount, as a JSON number or a string that holds one.
type number float64

func (n *number) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	if text == "null" || text == "" {
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	*n = number(f)
	return err
}

func parseSettings(stepType string, raw json.RawMessage) settings {
	var m struct {
		Type           string `json:"type"`
		Amount         number `json:"amount"`
		Unit           string `json:"unit"`
		DigestKey      string `json:"digestKey"`
		Backoff        bool   `json:"backoff"`
		BackoffAmount  number `json:"backoffAmount"`
		BackoffUnit    string `json:"backoffUnit"`
		LookBackWindow *struct {
			Amount number `json:"amount"`
			Unit   string `json:"unit"`
		} `json:"lookBackWindow"`
		Cron       string `json:"cron"`
		Timed      timed  `json:"timed"`
		DelayPath  string `json:"delayPath"`
		DynamicKey string `json:"dynamicKey"`

		ThrottleKey string `json:"throttleKey"`
		Threshold   number `json:"threshold"`
	}
	_ = json.Unmarshal(raw, &m) // checked when the step was saved
	s := settings{
		Type: m.Type, Wait: span{float64(m.Amount), m.Unit}, DigestKey: m.DigestKey, Cron: m.Cron, Timed: m.Timed,
		DelayPath: m.DelayPath, Threshold: int(m.Threshold),
	}
	if stepType == "throttle" {
		s.DigestKey = m.ThrottleKey
		if s.Type == "" {
			s.Type = "fixed"
		}
	}
	if s.DelayPath == "" {
		s.DelayPath = m.DynamicKey
	}
	if s.Type == "" {
		s.Type = "regular"
	}
	if m.Cron != "" {
		s.Type = "timed"
	}
	if stepType == "digest" && m.LookBackWindow != nil && m.LookBackWindow.Amount > 0 {
		s.Type, s.LookBack = "backoff", span{float64(m.LookBackWindow.Amount), m.LookBackWindow.Unit}
	} else if m.Type == "backoff" || m.Backoff {
		s.Type, s.LookBack = "backoff", span{float64(m.BackoffAmount), m.BackoffUnit}
		if s.LookBack.Amount == 0 {
			s.LookBack = s.Wait
		}
	}
	return s
}

var units = []string{"seconds", "minutes", "hours", "days", "weeks", "months"}

// CheckSettings says what is wrong with a digest's, delay's or throttle's settings.
func CheckSettings(stepType string, raw json.RawMessage) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("%s: its settings must be an object", stepType)
	}
	s := parseSettings(stepType, raw)
	known := map[string][]string{"digest": {"regular", "backoff", "timed"}, "delay": {"regular", "scheduled", "dynamic", "timed"}, "throttle": {"fixed", "dynamic"}}[stepType]
	if !slices.Contains(known, s.Type) {
		return fmt.Errorf("%s: type %q is not known: use one of %s", stepType, s.Type, strings.Join(known, ", "))
	}
	if s.Threshold < 0 || s.Threshold > 1_000_000 {
		return fmt.Errorf("%s: threshold %d: use how many may come through, at least 1", stepType, s.Threshold)
	}
	switch s.Type {
	case "scheduled", "dynamic":
		if s.DelayPath == "" {
			return fmt.Errorf("%s: delayPath (or dynamicKey) is missing: name the payload's member that holds the time", stepType)
		}
		return nil
	case "timed":
		_, err := s.next(time.Now(), time.UTC)
		return err
	case "backoff":
		if err := s.LookBack.check(stepType + ": backoff"); err != nil {
			return err
		}
	}
	return s.Wait.check(stepType)
}

// longest is how far away a time may be.
const longest = 100 * 365 * 24 * time.Hour

// check says what is wrong with a span; what is in front of the sentence.
func (s span) check(what string) error {
	if s.Amount <= 0 || math.IsInf(s.Amount, 0) || math.IsNaN(s.Amount) {
		return fmt.Errorf("%s: amount is missing: use a number above 0", what)
	}
	if !slices.Contains(units, s.Unit) {
		return fmt.Errorf("%s: unit %q is not known: use one of %s", what, s.Unit, strings.Join(units, ", "))
	}
	if s.Amount*seconds[s.Unit] > longest.Seconds() {
		return fmt.Errorf("%s: %g %s are too long: use at most 100 years", what, s.Amount, s.Unit)
	}
	return nil
}

// seconds are about how many a unit has.
var seconds = map[string]float64{"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 7 * 86400, "months": 30 * 86400}

// after is the time so long after t. Whole days, weeks and months are the
// calendar's, so a day is 23 hours when the clocks change.
func (s span) after(t time.Time, in *time.Location) time.Time { return s.move(t, in, 1) }

func (s span) before(t time.Time, in *time.Location) time.Time { return s.move(t, in, -1) }

func (s span) move(t time.Time, in *time.Location, sign int) time.Time {
	whole, fraction := math.Modf(s.Amount)
	n := sign * int(whole)
	local := t.In(in)
	part := func(unit time.Duration) time.Duration { return time.Duration(float64(sign) * fraction * float64(unit)) }
	const day = 24 * time.Hour
	switch s.Unit {
	case "seconds", "minutes", "hours":
		unit := map[string]time.Duration{"seconds": time.Second, "minutes": time.Minute, "hours": time.Hour}[s.Unit]
		return t.Add(time.Duration(float64(sign) * s.Amount * float64(unit)))
	case "days":
		return local.AddDate(0, 0, n).Add(part(day))
	case "weeks":
		return local.AddDate(0, 0, 7*n).Add(part(7 * day))
	case "months":
		return addMonths(local, n).Add(part(30 * day))
	default:
		return t
	}
}

// addMonths keeps the day where the month has it, else takes the month's last.
func addMonths(t time.Time, n int) time.Time {
	first := time.Date(t.Year(), t.Month()+time.Month(n), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location())
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(t.Day(), last)-1)
}

// next is when a recurring time comes next after t.
func (s settings) next(t time.Time, in *time.Location) (time.Time, error) {
	spec := s.Cron
	if spec == "" {
		var err error
		if spec, err = s.timedCron(); err != nil {
			return time.Time{}, err
		}
		if spec == "" {
			return s.Wait.after(t, in), nil
		}
	}
	schedule, err := cron.ParseStandard(spec)
	if err != nil {
		return time.Time{}, fmt.Errorf("cron: %q can't be read: use five fields, such as 0 9 * * 1-5", spec)
	}
	for at := t.In(in); ; {
		if at = schedule.Next(at); at.IsZero() {
			return at, fmt.Errorf("cron: %q never comes", spec)
		}
		if s.fits(at) {
			return at, nil
		}
	}
}

// timedCron says v1's settings as a cron expression; "" where they are a mere span.
func (s settings) timedCron() (string, error) {
	hour, minute := 0, 0
	if s.Timed.AtTime != "" {
		at, err := time.Parse("15:04", s.Timed.AtTime)
		if err != nil {
			return "", fmt.Errorf("timed: atTime %q can't be read: use 09:00", s.Timed.AtTime)
		}
		hour, minute = at.Hour(), at.Minute()
	}
	days := map[string]string{"monday": "1", "tuesday": "2", "wednesday": "3", "thursday": "4", "friday": "5", "saturday": "6", "sunday": "0"}
	switch {
	case len(s.Timed.WeekDays) > 0:
		var list []string
		for _, d := range s.Timed.WeekDays {
			n, ok := days[strings.ToLower(d)]
			if !ok {
				return "", fmt.Errorf("timed: weekday %q is not known: use monday to sunday", d)
			}
			list = append(list, n)
		}
		return fmt.Sprintf("%d %d * * %s", minute, hour, strings.Join(list, ",")), nil
	case len(s.Timed.MonthDays) > 0:
		var list []string
		for _, d := range s.Timed.MonthDays {
			if d < 1 || d > 31 {
				return "", fmt.Errorf("timed: month day %d: use 1 to 31", d)
			}
			list = append(list, strconv.Itoa(d))
		}
		return fmt.Sprintf("%d %d %s * *", minute, hour, strings.Join(list, ",")), nil
	case s.Timed.Ordinal != "":
		if _, ok := ordinals[s.Timed.Ordinal]; !ok {
			return "", fmt.Errorf("timed: ordinal %q: use 1 to 5 or last", s.Timed.Ordinal)
		}
		return fmt.Sprintf("%d %d * * *", minute, hour), nil // narrowed by fits
	case s.Timed.AtTime != "":
		return fmt.Sprintf("%d %d * * *", minute, hour), nil
	case s.Wait.Amount > 0:
		return "", s.Wait.check("timed")
	default:
		return "", errors.New("timed: say when: cron, or timed.atTime, weekDays, monthDays or ordinal, or amount and unit")
	}
}

var ordinals = map[string]int{"1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "last": -1}

// fits narrows a day to v1's "second Tuesday" and the like.
func (s settings) fits(at time.Time) bool {
	n, ok := ordinals[s.Timed.Ordinal]
	if !ok || s.Cron != "" || len(s.Timed.WeekDays) > 0 || len(s.Timed.MonthDays) > 0 {
		return true
	}
	counts := func(d time.Time) bool {
		weekend := d.Weekday() == time.Saturday || d.Weekday() == time.Sunday
		switch value := strings.ToLower(s.Timed.OrdinalValue); value {
		case "", "day":
			return true
		case "weekday":
			return !weekend
		case "weekend":
			return weekend
		default:
			return strings.EqualFold(d.Weekday().String(), value)
		}
	}
	if !counts(at) {
		return false
	}
	from, place := 1, 0
	if n < 0 { // none may follow in this month
		for d := at.AddDate(0, 0, 1); d.Month() == at.Month(); d = d.AddDate(0, 0, 1) {
			if counts(d) {
				return false
			}
		}
		return true
	}
	for day := from; day <= at.Day(); day++ {
		if counts(time.Date(at.Year(), at.Month(), day, 12, 0, 0, 0, at.Location())) {
			place++
		}
	}
	return place == n
}
