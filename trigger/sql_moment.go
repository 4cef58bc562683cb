package trigger

import (
	"fmt"
	"strings"
	"time"
)

// Moments of a query as Postgres takes them. Those relative to now are worked out
// in relative.go, by the same time zones as everywhere else, and not by the server's.

// What Postgres's date and timestamp hold, as days and microseconds since 2000-01-01.
const (
	minDay    = -2451545
	maxDay    = 2147483493 + minDay
	minMicros = -211813488000000000
	maxMicros = 9223371331200000000 - 1
)

// bound works out a bound of moment_range as of now: the instant, and the first
// day that starts at or after it.
func (c *sqlCompiler) bound(m *momentNode) (day, micros int64) {
	if !m.moves() {
		return fixedBound(m, c.loc)
	}
	micros = reckoning{microsOf(c.now), c.loc}.instant(m)
	return dayAtOrAfter(micros, c.loc), micros
}

// dayText writes a day as Postgres reads it in any date style; ok is false for one
// that no date column can hold.
func dayText(day int64) (s string, ok bool) {
	switch day {
	case infinity:
		return "infinity", true
	case negInfinity:
		return "-infinity", true
	}
	if day < minDay || day > maxDay {
		return "", false
	}
	s, era := civil(day)
	return s + era, true
}

func civil(day int64) (s, era string) {
	y, m, d := time.Unix(day*86400+epochSecs, 0).UTC().Date()
	if y <= 0 {
		y, era = 1-y, " BC"
	}
	return fmt.Sprintf("%04d-%02d-%02d", y, m, d), era
}

// instantText writes an instant in UTC; zone is "" or "+00".
func instantText(micros int64, zone string) (s string, ok bool) {
	switch micros {
	case infinity:
		return "infinity", true
	case negInfinity:
		return "-infinity", true
	}
	if micros < minMicros || micros > maxMicros {
		return "", false
	}
	day, clock := floorDiv(micros, dayMicros)
	s, era := civil(day)
	secs := clock / secsMicros
	clock %= secsMicros
	return fmt.Sprintf("%s %02d:%02d:%02d.%06d%s%s", s, secs/3600, secs/60%60, secs%60, clock, zone, era), true
}

// momentRange writes moment_range for a date or timestamp.
func (c *sqlCompiler) momentRange(x string, kind Kind, cond *condition) string {
	var parts []string
	for i := range cond.moments {
		m := &cond.moments[i]
		if m.typ == momentNone {
			continue
		}
		day, micros := c.bound(m)
		text, _ := dayText(day)
		typ := "date"
		switch kind {
		case KindTimestamp:
			text, _ = instantText(micros, "")
			typ = "timestamp"
		case KindTimestampTZ:
			text, _ = instantText(micros, "+00")
			typ = "timestamptz"
		}
		parts = append(parts, x+[2]string{" >= ", " < "}[i]+c.arg(text)+"::text::"+typ)
	}
	return strings.Join(parts, " AND ")
}

// jsonMoments writes moment_range for a string in JSON, which may be anything:
// the database's function reads it as parseMoment does.
func (c *sqlCompiler) jsonMoments(x string, cond *condition) string {
	args := [4]string{"NULL", "NULL", "NULL", "NULL"}
	for i := range cond.moments {
		if m := &cond.moments[i]; m.typ != momentNone {
			day, micros := c.bound(m)
			args[2*i], args[2*i+1] = c.arg(day)+"::int8", c.arg(micros)+"::int8"
		}
	}
	return "pgautomate.json_moment_between(" + x + ", " + strings.Join(args[:], ", ") + ")"
}
