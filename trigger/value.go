package trigger

import (
	"bytes"
	"math"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pgautomate/pgautomate/internal/jsonscan"
	"github.com/pgautomate/pgautomate/internal/wallclock"
)

// Values in the text forms that Postgres prints them in.

// class is what reading a number gave.
type class uint8

const (
	notNumber class = iota
	isNumber
	isNaN
)

// Leading byte of an encoded number. Byte order is number order.
const (
	numNegInf = iota
	numNegative
	numZero
	numPositive
	numPosInf
)

const (
	expBias  = 1 << 23
	expLimit = 1 << 22 // decimal places either way; Postgres ends at 131,072
)

// appendNumber appends the number in an encoding that is canonical (1000 and
// 1000.00 are the same bytes) and whose byte order is the order of numbers.
//
// A number is ±0.d1d2d3… × 10^e with d1 ≠ 0: a byte for sign and class, three
// for e with a bias, then the digits in pairs, each pair plus one. Nothing ends
// the digits of a positive number, since a prefix sorts first; a negative one
// has all of it complemented and ends in 0xFF, so that a prefix sorts last.
func appendNumber[S []byte | string](dst []byte, s S) ([]byte, class) { //nolint:cyclop // a grammar, case by case
	i, negative := 0, false
	if len(s) > 0 && (s[0] == '-' || s[0] == '+') {
		negative = s[0] == '-'
		i = 1
	}
	if i >= len(s) {
		return dst, notNumber
	}
	if s[i] == 'N' || s[i] == 'I' {
		switch string(s) {
		case "NaN":
			return dst, isNaN
		case "Infinity", "+Infinity":
			return append(dst, numPosInf), isNumber
		case "-Infinity":
			return append(dst, numNegInf), isNumber
		}
		return dst, notNumber
	}

	start, point, first, last := i, -1, -1, -1
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' && point < 0 && i > start {
			point = i
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		if c != '0' {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	end := i
	if end == start || point == end-1 {
		return dst, notNumber
	}
	if point < 0 {
		point = end
	}
	exp := 0
	if i < len(s) {
		if s[i]|0x20 != 'e' {
			return dst, notNumber
		}
		i++
		expNegative := false
		if i < len(s) && (s[i] == '-' || s[i] == '+') {
			expNegative = s[i] == '-'
			i++
		}
		if i >= len(s) {
			return dst, notNumber
		}
		for ; i < len(s); i++ {
			if s[i] < '0' || s[i] > '9' {
				return dst, notNumber
			}
			if exp < 2*expLimit {
				exp = exp*10 + int(s[i]-'0')
			}
		}
		if expNegative {
			exp = -exp
		}
	}
	if first < 0 {
		return append(dst, numZero), isNumber
	}
	if first < point {
		exp += point - first
	} else {
		exp -= first - point - 1
	}
	if exp <= -expLimit || exp >= expLimit {
		return dst, notNumber
	}

	var flip byte
	if negative {
		dst = append(dst, numNegative)
		flip = 0xFF
	} else {
		dst = append(dst, numPositive)
	}
	e := uint32(exp + expBias)
	dst = append(dst, byte(e>>16)^flip, byte(e>>8)^flip, byte(e)^flip)
	pair, half := byte(0), false
	for i = first; i <= last; i++ {
		if i == point {
			continue
		}
		if d := s[i] - '0'; half {
			dst = append(dst, (pair+d+1)^flip)
			half = false
		} else {
			pair = d * 10
			half = true
		}
	}
	if half {
		dst = append(dst, (pair+1)^flip)
	}
	if negative {
		dst = append(dst, 0xFF)
	}
	return dst, isNumber
}

// Moments are counted as Postgres counts them, from 2000-01-01 UTC, in days for
// a date and in microseconds for a timestamp; every value that Postgres can hold
// fits. The infinities are the extremes.
const (
	infinity    = math.MaxInt64
	negInfinity = math.MinInt64

	dayMicros  = 24 * 60 * 60 * 1_000_000
	epochDays  = 10957 // 1970-01-01 to 2000-01-01
	epochSecs  = epochDays * 24 * 60 * 60
	maxDayNum  = math.MaxInt64/dayMicros - 2
	secsMicros = 1_000_000
)

// moment is a date or date-time as it was written.
type moment struct {
	day      int64 // since 2000-01-01
	micros   int64 // of that day, before the offset is taken off
	offset   int64 // seconds east of UTC
	hasTime  bool
	hasZone  bool
	rest     bool // there were digits beyond the microsecond
	infinite int8
}

// instant gives the microseconds since 2000-01-01 UTC; no offset means UTC.
func (m *moment) instant() int64 {
	switch {
	case m.infinite > 0 || m.day > maxDayNum:
		return infinity
	case m.infinite < 0 || m.day < -maxDayNum:
		return negInfinity
	}
	return m.day*dayMicros + m.micros - m.offset*secsMicros
}

// days gives the days since 2000-01-01.
func (m *moment) days() int64 {
	switch {
	case m.infinite > 0:
		return infinity
	case m.infinite < 0:
		return negInfinity
	}
	return m.day
}

// parseMoment reads a date or a date-time as Postgres prints it in the ISO date
// style and as RFC 3339 writes it: 2026-01-31, 2026-01-31 10:00:00.5+02,
// 2026-01-31T10:00:00Z, 0044-03-15 BC, infinity.
func parseMoment[S []byte | string](s S) (m moment, ok bool) { //nolint:cyclop // a grammar, case by case
	switch string(s) {
	case "infinity":
		m.infinite = 1
		return m, true
	case "-infinity":
		m.infinite = -1
		return m, true
	}
	n := len(s)
	bc := n > 3 && string(s[n-3:]) == " BC"
	if bc {
		n -= 3
	}
	i := 0
	number := func(minDigits, maxDigits int) int64 {
		v, start := int64(0), i
		for i < n && i-start < maxDigits && s[i] >= '0' && s[i] <= '9' {
			v = v*10 + int64(s[i]-'0')
			i++
		}
		if i-start < minDigits {
			return -1
		}
		return v
	}
	lit := func(c byte) bool {
		if i < n && s[i] == c {
			i++
			return true
		}
		return false
	}

	year := number(4, 7)
	if year < 0 || !lit('-') {
		return m, false
	}
	month := number(2, 2)
	if month < 1 || month > 12 || !lit('-') {
		return m, false
	}
	day := number(2, 2)
	if bc {
		year = 1 - year
	}
	if day < 1 || day > daysIn(year, month) {
		return m, false
	}
	m.day = daysFromCivil(year, month, day)
	if i == n {
		return m, true
	}

	if s[i] != ' ' && s[i] != 'T' && s[i] != 't' {
		return m, false
	}
	i++
	m.hasTime = true
	hour := number(2, 2)
	if hour < 0 || hour > 24 || !lit(':') {
		return m, false
	}
	minute := number(2, 2)
	if minute < 0 || minute > 59 {
		return m, false
	}
	second, micros := int64(0), int64(0)
	if lit(':') {
		if second = number(2, 2); second < 0 || second > 60 {
			return m, false
		}
		if lit('.') {
			start := i
			for unit := int64(100_000); i < n && s[i] >= '0' && s[i] <= '9'; i++ {
				micros += int64(s[i]-'0') * unit
				m.rest = m.rest || unit == 0 && s[i] != '0'
				unit /= 10
			}
			if i == start {
				return m, false
			}
		}
	}
	m.micros = ((hour*60+minute)*60+second)*secsMicros + micros
	if m.micros > dayMicros {
		return m, false
	}
	if i == n {
		return m, true
	}

	m.hasZone = true
	if s[i] == 'Z' || s[i] == 'z' {
		return m, i+1 == n
	}
	sign := int64(1)
	switch s[i] {
	case '-':
		sign = -1
	case '+':
	default:
		return m, false
	}
	i++
	zone := number(2, 2) * 3600
	if zone < 0 {
		return m, false
	}
	for unit := int64(60); i < n && unit > 0; unit /= 60 {
		lit(':')
		v := number(2, 2)
		if v < 0 || v > 59 {
			return m, false
		}
		zone += v * unit
	}
	m.offset = sign * zone
	return m, i == n
}

func daysIn(year, month int64) int64 {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysFromCivil counts the days from 2000-01-01 in the proleptic Gregorian
// calendar (Howard Hinnant's algorithm). Year 0 is 1 BC.
func daysFromCivil(y, m, d int64) int64 {
	if m <= 2 {
		y--
	}
	era := y / 400
	if y < 0 {
		era = (y - 399) / 400
	}
	yearOfEra := y - era*400
	dayOfYear := (153*((m+9)%12)+2)/5 + d - 1
	dayOfEra := yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear
	return era*146097 + dayOfEra - 719468 - epochDays
}

// dayStart gives the first instant of a day in a time zone, in microseconds
// since 2000-01-01 UTC. Where the clock was set forward over midnight, the day
// starts when it was; where midnight came twice, at the first.
func dayStart(day int64, loc *time.Location) int64 {
	first, _ := wallclock.First(time.Unix(day*86400+epochSecs, 0).UTC(), loc)
	return (first.Unix() - epochSecs) * secsMicros
}

// dayAtOrAfter gives the first day that starts at or after the instant.
func dayAtOrAfter(micros int64, loc *time.Location) int64 {
	secs := micros / secsMicros
	if micros%secsMicros < 0 {
		secs--
	}
	y, m, d := time.Unix(secs+epochSecs, 0).In(loc).Date()
	day := daysFromCivil(int64(y), int64(m), int64(d))
	for dayStart(day, loc) < micros {
		day++
	}
	return day
}

// equalFold reports whether strings.ToLower(value) is lower, which has been
// through strings.ToLower itself. It stops at the first difference and builds
// nothing: values can be long.
func equalFold(value []byte, lower string) bool {
	for len(value) > 0 {
		if c := value[0]; c < utf8.RuneSelf {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			if len(lower) == 0 || lower[0] != c {
				return false
			}
			value, lower = value[1:], lower[1:]
			continue
		}
		r, size := utf8.DecodeRune(value)
		want, wantSize := utf8.DecodeRuneInString(lower)
		if wantSize == 0 || want == utf8.RuneError && wantSize == 1 || unicode.ToLower(r) != want {
			return false
		}
		value, lower = value[size:], lower[wantSize:]
	}
	return len(lower) == 0
}

// splitArray walks an array in Postgres's text form and calls yield for every
// element that is not NULL, of whatever dimension. Elements with escapes are
// written to buf, which is returned. It is false for text that is not an array.
//
// See "Array Input and Output Syntax" in the Postgres manual, 8.15.6.
func splitArray(b, buf []byte, yield func(element []byte)) ([]byte, bool) { //nolint:cyclop // a grammar, case by case
	i := 0
	if len(b) > 0 && b[0] == '[' { // bounds that do not start at 1: [0:1]={a,b}
		if i = bytes.IndexByte(b, '=') + 1; i == 0 {
			return buf, false
		}
	}
	if i >= len(b) || b[i] != '{' {
		return buf, false
	}
	depth := 0
	value := true  // an element or a brace may stand here
	comma := false // a comma stands before it
	for i < len(b) {
		switch c := b[i]; {
		case c == '{':
			if !value {
				return buf, false
			}
			depth++
			i++
			comma = false
		case c == '}':
			if depth--; depth < 0 || comma {
				return buf, false
			}
			i++
			if depth == 0 {
				return buf, i == len(b)
			}
			value = false
		case c == ',':
			if value {
				return buf, false
			}
			value, comma = true, true
			i++
		case !value:
			return buf, false
		case c == '"':
			start := len(buf)
			end := i + 1
			escaped := false
			for end < len(b) && b[end] != '"' {
				if b[end] == '\\' {
					escaped = true
					end++
				}
				end++
			}
			if end >= len(b) {
				return buf, false
			}
			if !escaped {
				yield(b[i+1 : end])
			} else {
				for j := i + 1; j < end; j++ {
					if b[j] == '\\' {
						j++
					}
					buf = append(buf, b[j])
				}
				yield(buf[start:len(buf):len(buf)])
			}
			value, comma = false, false
			i = end + 1
		default:
			end := i
			for end < len(b) && b[end] != ',' && b[end] != '}' && b[end] != '{' && b[end] != '"' && b[end] != '\\' {
				end++
			}
			if end >= len(b) || b[end] == '{' || b[end] == '"' || b[end] == '\\' {
				return buf, false
			}
			if element := b[i:end]; string(element) != "NULL" {
				yield(element)
			}
			value, comma = false, false
			i = end
		}
	}
	return buf, false
}

// isUUID reports whether s looks like a UUID in its usual form.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return false
			}
		} else if !jsonscan.IsHex(s[i]) {
			return false
		}
	}
	return true
}
