package trigger

import (
	"time"

	"github.com/pgautomate/pgautomate/internal/wallclock"
)

// Moments relative to now, and when a condition on them flips by the mere passing
// of time.
//
// A bound such as "7 days from now" moves with the clock, and only ever forward.
// So a value that is at or after it today is passed by it at one moment, which
// can be worked out: nothing has to be looked at until then.

// reckoning is what moments relative to now are worked out from.
type reckoning struct {
	now int64 // microseconds since 2000-01-01 UTC
	loc *time.Location
}

// microsOf gives the first microsecond at or after a time, counted from
// 2000-01-01 UTC.
func microsOf(t time.Time) int64 {
	micros := (t.Unix()-epochSecs)*secsMicros + int64(t.Nanosecond()/1000)
	if t.Nanosecond()%1000 > 0 {
		micros++
	}
	return micros
}

// timeOf is the other way round.
func timeOf(micros int64) time.Time {
	secs, rest := floorDiv(micros, secsMicros)
	return time.Unix(secs+epochSecs, rest*1000).UTC()
}

// instant gives the first microsecond at or after a moment.
func (r reckoning) instant(m *momentNode) int64 {
	switch m.typ {
	case momentFixed:
		parsed, _ := parseMoment(m.value)
		if !parsed.hasTime {
			return dayStart(fixedDay(m, &parsed), r.loc)
		}
		micros := parsed.instant()
		if parsed.rest {
			micros++
		}
		return micros
	case momentOffset:
		return clampMicros(r.offset(readOffset(&parser{}, m, 0)))
	default:
		return clampMicros(r.now)
	}
}

// fixedDay gives the day that starts at a day's start or end.
func fixedDay(m *momentNode, parsed *moment) int64 {
	if m.which == "end" {
		return parsed.day + 1 // the end of a day is the start of the next
	}
	return parsed.day
}

func clampMicros(micros int64) int64 { return min(max(micros, minMicros), maxMicros) }

// offset adds: years and months first (a day that the month lacks is its last
// one), then weeks and days, both on the local calendar and clock, then the rest
// as time that passes.
func (r reckoning) offset(o *offset) int64 {
	var micros int64
	if o.inner != nil {
		micros = r.offset(o.inner)
	} else {
		micros = r.instant(&o.from)
	}
	n := &o.counts
	months := o.sign * (n[unitYears]*12 + n[unitMonths])
	days := o.sign * (n[unitWeeks]*7 + n[unitDays])
	if months != 0 || days != 0 {
		day, clock := wall(micros, r.loc)
		micros = wallInstant(addMonths(day, months)+days, clock, r.loc)
	}
	micros += o.sign * ((n[unitHours]*60+n[unitMinutes])*60 + n[unitSeconds]) * secsMicros
	if o.dayEnd != "" {
		day, _ := wall(micros, r.loc)
		if o.dayEnd == "end" {
			day++
		}
		micros = dayStart(day, r.loc)
	}
	return micros
}

// moves says whether a moment moves with the clock.
func (m *momentNode) moves() bool {
	switch m.typ {
	case momentNow:
		return true
	case momentOffset:
		o := readOffset(&parser{}, m, 0)
		for o != nil && o.inner != nil {
			o = o.inner
		}
		return o != nil && o.from.typ == momentNow
	}
	return false
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
	first, skipped := wallclock.First(time.Unix(day*86400+secs+epochSecs, 0).UTC(), loc)
	if skipped {
		rest = 0
	}
	return (first.Unix()-epochSecs)*secsMicros + rest
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

// never is later than any moment.
const never = int64(infinity)

// movingBound is a bound that moves with the clock, ready for use.
type movingBound struct {
	offset *offset // nil: now itself
	loc    *time.Location

	now, last int64 // what it was asked last, and the answer
}

// at gives where the bound is at a time.
func (b *movingBound) at(now int64) int64 {
	if b.offset == nil {
		return now
	}
	if b.now != now {
		b.now, b.last = now, clampMicros(reckoning{now, b.loc}.offset(b.offset))
	}
	return b.last
}

// horizon is how far ahead the moment at which a bound passes a value is looked
// for: 10,000 years.
const horizon = 10_000 * 366 * dayMicros

// passes gives the first moment after now at which the bound is later than a
// value that it has not passed yet. Twice a year, when a local hour comes twice, a
// bound on the local clock goes back once; then it is one such moment.
func (b *movingBound) passes(now, value int64) int64 {
	if value >= horizon {
		return never
	}
	// Apart from calendars and clock changes it moves as the clock does.
	guess := max(now+value-b.at(now), now) + 1
	low, high := now, guess
	if b.at(guess) > value {
		if b.at(guess-1) <= value {
			return guess
		}
		for step := int64(3600 * secsMicros); ; step *= 8 {
			if low = guess - step; low <= now {
				low = now
				break
			}
			if b.at(low) <= value {
				break
			}
			high = low
		}
	} else {
		for step := int64(3600 * secsMicros); ; step *= 8 {
			low, high = high, high+step
			if high > horizon+value-b.at(now) {
				return never // it stands still at the end of what a timestamp can hold
			}
			if b.at(high) > value {
				break
			}
		}
	}
	for high-low > 1 {
		if middle := low + (high-low)/2; b.at(middle) > value {
			high = middle
		} else {
			low = middle
		}
	}
	return high
}
