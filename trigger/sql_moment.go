package trigger

import (
	"fmt"
	"strings"
	"time"
)

// Moments of a query as Postgres takes them. Those relative to now are worked out
// here, by the same time zones as everywhere else, and not by the server's.

// What Postgres's date and timestamp hold, as days and microseconds since 2000-01-01.
const (
	minDay    = -2451545
	maxDay    = 2147483493 + minDay
	minMicros = -211813488000000000
	maxMicros = 9223371331200000000 - 1
)

// bounds works out a bound of moment_range: the instant, and the first day that
// starts at or after it, which is what a date is compared with.
func (c *sqlCompiler) bound(m *momentNode) (day, micros int64) {
	if m.typ == momentFixed {
		if parsed, _ := parseMoment(m.value); !parsed.hasTime {
			day = fixedDay(m, &parsed)
			return day, dayStart(day, c.loc)
		}
	}
	micros = c.instant(m)
	return dayAtOrAfter(micros, c.loc), micros
}

// fixedDay gives the day that starts at a day's start or end.
func fixedDay(m *momentNode, parsed *moment) int64 {
	if m.which == "end" {
		return parsed.day + 1 // the end of a day is the start of the next
	}
	return parsed.day
}

// instant gives the first microsecond at or after a moment.
func (c *sqlCompiler) instant(m *momentNode) int64 {
	switch m.typ {
	case momentFixed:
		parsed, _ := parseMoment(m.value)
		if !parsed.hasTime {
			return dayStart(fixedDay(m, &parsed), c.loc)
		}
		micros := parsed.instant()
		if parsed.rest {
			micros++
		}
		return micros
	case momentOffset:
		return clampMicros(readOffset(&parser{}, m, 0).instant(c))
	default:
		micros := (c.now.Unix()-epochSecs)*secsMicros + int64(c.now.Nanosecond()/1000)
		if c.now.Nanosecond()%1000 > 0 {
			micros++
		}
		return clampMicros(micros)
	}
}

func clampMicros(micros int64) int64 { return min(max(micros, minMicros), maxMicros) }

// instant adds: years and months first (a day that the month lacks is its last
// one), then weeks and days, both on the local calendar and clock, then the rest
// as time that passes.
func (o *offset) instant(c *sqlCompiler) int64 {
	var micros int64
	if o.inner != nil {
		micros = o.inner.instant(c)
	} else {
		micros = c.instant(&o.from)
	}
	n := &o.counts
	months := o.sign * (n[unitYears]*12 + n[unitMonths])
	days := o.sign * (n[unitWeeks]*7 + n[unitDays])
	if months != 0 || days != 0 {
		day, clock := wall(micros, c.loc)
		micros = wallInstant(addMonths(day, months)+days, clock, c.loc)
	}
	micros += o.sign * ((n[unitHours]*60+n[unitMinutes])*60 + n[unitSeconds]) * secsMicros
	if o.dayEnd != "" {
		day, _ := wall(micros, c.loc)
		if o.dayEnd == "end" {
			day++
		}
		micros = dayStart(day, c.loc)
	}
	return micros
}

// wall gives the local day and the microseconds that its clock shows.
func wall(micros int64, loc *time.Location) (day, clock int64) {
	secs, rest := floorDiv(micros, secsMicros)
	_, offset := time.Unix(secs+epochSecs, 0).In(loc).Zone()
	day, secs = floorDiv(secs+int64(offset), 86400)
	return day, secs*secsMicros + rest
}

// wallInstant gives the first instant at which the local clock shows that or, where it
// was set forward over it, more.
func wallInstant(day, clock int64, loc *time.Location) int64 {
	secs, rest := floorDiv(clock, secsMicros)
	wall := time.Unix(day*86400+secs+epochSecs, 0).In(loc) // were the clock UTC's
	for at := wall.Add(-48 * time.Hour); ; {
		start, end := at.ZoneBounds()
		_, offset := at.Zone()
		first := wall.Add(-time.Duration(offset) * time.Second)
		if !start.IsZero() && first.Before(start) {
			first, rest = start, 0
		}
		if end.IsZero() || first.Before(end) {
			return (first.Unix()-epochSecs)*secsMicros + rest
		}
		at = end
	}
}

func addMonths(day, months int64) int64 {
	t := time.Unix(day*86400+epochSecs, 0).UTC()
	y, m := floorDiv(int64(t.Year())*12+int64(t.Month())-1+months, 12)
	return daysFromCivil(y, m+1, min(int64(t.Day()), daysIn(y, m+1)))
}

func floorDiv(a, b int64) (quotient, rest int64) {
	quotient, rest = a/b, a%b
	if rest < 0 {
		return quotient - 1, rest + b
	}
	return quotient, rest
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
