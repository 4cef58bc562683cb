package trigger

import (
	"math/big"
	"strconv"
	"strings"
)

// Numbers of a query, as Postgres can take them without ever failing.

// What Postgres's numeric holds: so many digits before the point, and after it.
const (
	numericDigits   = 131072
	numericDecimals = 16383
)

// decimal is a number: 0.d1d2d3… × 10^exp, d1 and the last digit not 0; no digits: zero.
type decimal struct {
	negative bool
	infinite bool
	digits   string
	exp      int
}

// parseDecimal reads what appendNumber takes for a number.
func parseDecimal(s string) (d decimal, ok bool) {
	b, class := appendNumber(nil, s)
	if class != isNumber {
		return d, false
	}
	var flip byte
	switch b[0] {
	case numZero:
		return d, true
	case numNegInf, numPosInf:
		return decimal{negative: b[0] == numNegInf, infinite: true}, true
	case numNegative:
		d.negative = true
		flip = 0xFF
		b = b[:len(b)-1]
	}
	d.exp = int(b[1]^flip)<<16 | int(b[2]^flip)<<8 | int(b[3]^flip)
	d.exp -= expBias
	digits := make([]byte, 0, 2*len(b))
	for _, c := range b[4:] {
		pair := (c ^ flip) - 1
		digits = append(digits, '0'+pair/10, '0'+pair%10)
	}
	d.digits = strings.TrimRight(string(digits), "0")
	return d, true
}

// String writes it as JSON and Postgres read numbers.
func (d decimal) String() string {
	sign := ""
	if d.negative {
		sign = "-"
	}
	switch {
	case d.infinite:
		return sign + "Infinity"
	case d.digits == "":
		return "0"
	case d.exp >= len(d.digits) && d.exp <= 20:
		return sign + d.digits + strings.Repeat("0", d.exp-len(d.digits))
	case d.exp > 0 && d.exp < len(d.digits):
		return sign + d.digits[:d.exp] + "." + d.digits[d.exp:]
	}
	return sign + d.digits + "e" + strconv.Itoa(d.exp-len(d.digits))
}

// isNumeric says whether a numeric can hold it exactly.
func (d decimal) isNumeric() bool {
	return d.infinite || d.exp <= numericDigits && len(d.digits)-d.exp <= numericDecimals
}

// whole gives the number as an integer, if it is one and not too large.
func (d decimal) whole() (int64, bool) {
	if d.infinite || d.exp > 19 || len(d.digits) > d.exp && d.digits != "" {
		return 0, false
	}
	i := d.floor()
	return i.Int64(), i.IsInt64()
}

// floor gives the largest integer that is not larger; exp must be small.
func (d decimal) floor() *big.Int {
	i := new(big.Int)
	switch {
	case d.exp <= 0:
	case d.exp < len(d.digits):
		i.SetString(d.digits[:d.exp], 10)
	default:
		i.SetString(d.digits+strings.Repeat("0", d.exp-len(d.digits)), 10)
	}
	if d.negative {
		i.Neg(i)
		if d.hasFraction() {
			i.Sub(i, big.NewInt(1))
		}
	}
	return i
}

func (d decimal) hasFraction() bool { return len(d.digits) > max(d.exp, 0) }

// compareNumeric writes x op d for a numeric x that may be NaN, which is in no
// range though Postgres takes it for the largest number; who uses only lower
// bounds must see to that. What no numeric can hold is replaced by its neighbour.
func (c *sqlCompiler) compareNumeric(x string, bound int, d decimal) string {
	low := bound == boundGTE || bound == boundGT
	op := [...]string{boundGTE: ">=", boundGT: ">", boundLTE: "<=", boundLT: "<"}[bound]
	switch {
	case d.isNumeric():
	case d.exp > numericDigits: // beyond all finite ones
		d = decimal{negative: d.negative, infinite: true}
		op = map[bool]string{true: ">=", false: "<"}[low]
		if d.negative {
			op = map[bool]string{true: ">", false: "<="}[low]
		}
	default: // between two; the one that is nearer to zero
		keep := max(d.exp+numericDecimals, 0)
		d.digits = strings.TrimRight(d.digits[:min(keep, len(d.digits))], "0")
		op = map[bool]string{true: ">", false: "<="}[low]
		if d.negative {
			op = map[bool]string{true: ">=", false: "<"}[low]
		}
	}
	return x + " " + op + " " + c.arg(d.String()) + "::numeric"
}

// compareInteger writes x op d for an integer x, so that an index on it serves.
func (c *sqlCompiler) compareInteger(x string, bound int, d decimal) string {
	low := bound == boundGTE || bound == boundGT
	if d.infinite || d.exp > 19 {
		return all(x, low == d.negative)
	}
	i := d.floor()
	op := [...]string{boundGTE: ">=", boundGT: ">", boundLTE: "<=", boundLT: "<"}[bound]
	if d.hasFraction() { // between the floor and the next integer
		op = map[bool]string{true: ">", false: "<="}[low]
	}
	if !i.IsInt64() {
		return all(x, low == d.negative)
	}
	return x + " " + op + " " + c.arg(i.Int64()) + "::int8"
}

// all holds for every value, or for none.
func all(x string, yes bool) string {
	if yes {
		return x + " IS NOT NULL"
	}
	return sqlFalse
}

func quotedNumber(n int64) string { return strconv.FormatInt(n, 10) }
