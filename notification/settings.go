package notification

// How long a digest or delay takes: its settings, in the words of v1 (metadata)
// or v2 (controlValues), and the arithmetic of spans; recurring times are in timed.go.

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgautomate/pgautomate/internal/wallclock"
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

// number is an amount, as a JSON number or a string that holds one.
type number float64

// UnmarshalJSON reads both.
func (n *number) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	if text == "null" || text == "" {
		return nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Errorf("%.40s is no number: use 5, or \"5\"", raw)
	}
	*n = number(f)
	return nil
}

// parseSettings reads settings that were checked when their step was saved.
func parseSettings(stepType string, raw json.RawMessage) settings {
	s, _ := readSettings(stepType, raw)
	return s
}

func readSettings(stepType string, raw json.RawMessage) (settings, error) {
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
	err := json.Unmarshal(raw, &m)
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		err = fmt.Errorf("%s is of another kind: it can't be a JSON %s", kind.Field, kind.Value)
	}
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
	if s.Type == "timed" && s.Cron == "" {
		s.Cron = m.Timed.Cron
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
	return s, err
}

var units = []string{"seconds", "minutes", "hours", "days", "weeks", "months"}

// CheckSettings says what is wrong with a digest's, delay's or throttle's settings.
func CheckSettings(stepType string, raw json.RawMessage) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("%s: its settings must be an object", stepType)
	}
	s, err := readSettings(stepType, raw)
	if err != nil {
		return fmt.Errorf("%s: %w", stepType, err)
	}
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
	// What the clock then shows, if the days, weeks or months are moved alone.
	to := func(move func(wall time.Time) time.Time) time.Time {
		if n == 0 {
			return t
		}
		local := t.In(in)
		y, m, d := local.Date()
		hour, minute, second := local.Clock()
		return localInstant(move(time.Date(y, m, d, hour, minute, second, local.Nanosecond(), time.UTC)), in)
	}
	part := func(unit time.Duration) time.Duration { return time.Duration(float64(sign) * fraction * float64(unit)) }
	const day = 24 * time.Hour
	switch s.Unit {
	case "seconds", "minutes", "hours":
		unit := map[string]time.Duration{"seconds": time.Second, "minutes": time.Minute, "hours": time.Hour}[s.Unit]
		return t.Add(time.Duration(float64(sign) * s.Amount * float64(unit)))
	case "days":
		return to(func(wall time.Time) time.Time { return wall.AddDate(0, 0, n) }).Add(part(day))
	case "weeks":
		return to(func(wall time.Time) time.Time { return wall.AddDate(0, 0, 7*n) }).Add(part(7 * day))
	case "months":
		return to(func(wall time.Time) time.Time { return addMonths(wall, n) }).Add(part(30 * day))
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

// localInstant is when the clocks of in first show wall, or what comes after the gap.
func localInstant(wall time.Time, in *time.Location) time.Time {
	at, _ := wallclock.First(wall, in)
	return at
}
