package jobs

// Liquid filters of our own, in place of the library's: results are bounded,
// arithmetic is decimal (0.1 plus 0.2 is 0.3, whole numbers stay whole), dates
// are shown in the organization's time zone, and HTML knows what is escaped.

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cockroachdb/apd/v3"
	"github.com/osteele/liquid/filters"
	"github.com/osteele/liquid/parser"
	"github.com/osteele/liquid/values"
	"github.com/osteele/tuesday"
)

func newLocation() parser.SourceLoc { return parser.SourceLoc{LineNo: 1} }

var (
	htmlTag      = regexp.MustCompile(`(?s)<script.*?</script>|<!--.*?-->|<style.*?</style>|<.*?>`)
	wideDate     = regexp.MustCompile(`%[-_0^#]*\d{3,}`)
	exactContext = &apd.Context{Precision: 40, MaxExponent: 400, MinExponent: -400, Rounding: apd.RoundHalfUp}
)

func bounded(s string) (string, error) {
	if len(s) > maxRendered {
		return "", errOutputTooLarge
	}
	return s, nil
}

func addOwnFilters(to filters.FilterDictionary, loc *time.Location) {
	// text
	to.AddFilter("append", func(s, suffix string) (string, error) { return bounded(s + suffix) })
	to.AddFilter("prepend", func(s, prefix string) (string, error) { return bounded(prefix + s) })
	to.AddFilter("replace", func(s, old, with string) (string, error) { return replaceText(s, old, with, -1) })
	to.AddFilter("replace_first", func(s, old, with string) (string, error) { return replaceText(s, old, with, 1) })
	to.AddFilter("capitalize", func(s string) string {
		r, n := utf8.DecodeRuneInString(s)
		if n == 0 {
			return s
		}
		return string(unicode.ToUpper(r)) + s[n:]
	})
	to.AddFilter("slice", func(s string, start int, length func(int) int) string {
		r := []rune(s)
		if start < 0 {
			start += len(r)
		}
		n := length(1)
		if start < 0 || start >= len(r) || n <= 0 {
			return ""
		}
		return string(r[start:min(len(r), start+min(n, len(r)))])
	})
	to.AddFilter("truncate", func(s string, length func(int) int, ellipsis func(string) string) (string, error) {
		r, el := []rune(s), []rune(ellipsis("..."))
		n := length(50)
		if len(r) <= n {
			return s, nil
		}
		return bounded(string(r[:max(0, n-len(el))]) + string(el))
	})
	to.AddFilter("truncatewords", func(s string, length func(int) int, ellipsis func(string) string) (string, error) {
		words, n := strings.Fields(s), max(1, length(15))
		if len(words) <= n {
			return s, nil
		}
		return bounded(strings.Join(words[:n], " ") + ellipsis("..."))
	})
	to.AddFilter("strip_html", func(s string) string { return htmlTag.ReplaceAllString(s, "") })
	to.AddFilter("strip_newlines", func(s string) string { return strings.NewReplacer("\r\n", "", "\n", "", "\r", "").Replace(s) })

	// HTML
	to.AddFilter("raw", func(s string) safeHTML { return safeHTML(s) })
	to.AddFilter("escape", func(v any) (safeHTML, error) {
		if safe, ok := v.(safeHTML); ok {
			return safe, nil
		}
		s, err := bounded(html.EscapeString(text(v, false)))
		return safeHTML(s), err
	})
	to.AddFilter("escape_once", func(s string) (safeHTML, error) {
		s, err := bounded(html.EscapeString(html.UnescapeString(s)))
		return safeHTML(s), err
	})
	to.AddFilter("newline_to_br", func(v any) any {
		s := strings.ReplaceAll(text(v, false), "\r\n", "\n")
		if _, safe := v.(safeHTML); safe {
			return safeHTML(brText(s).String())
		}
		return brText(s)
	})

	// arrays and objects
	to.AddFilter("join", func(a []any, sep func(string) string) (string, error) {
		parts, size, between := make([]string, 0, len(a)), 0, sep(" ")
		for _, v := range a {
			if v == nil {
				continue
			}
			p := text(v, false)
			if size += len(p) + len(between); size > maxRendered+len(between) {
				return "", errOutputTooLarge
			}
			parts = append(parts, p)
		}
		return strings.Join(parts, between), nil
	})
	to.AddFilter("concat", func(a, b []any) ([]any, error) {
		if len(a)+len(b) > maxRounds {
			return nil, fmt.Errorf("more than %d items", maxRounds)
		}
		return append(append(make([]any, 0, len(a)+len(b)), a...), b...), nil
	})
	toJSON := func(v any) (string, error) {
		data, err := json.Marshal(v)
		if err != nil {
			return "", err
		}
		return bounded(string(data))
	}
	to.AddFilter("json", toJSON)
	to.AddFilter("inspect", toJSON)

	// numbers
	to.AddFilter("plus", func(a, b any) (any, error) { return arithmetic(exactContext.Add, a, b) })
	to.AddFilter("minus", func(a, b any) (any, error) { return arithmetic(exactContext.Sub, a, b) })
	to.AddFilter("times", func(a, b any) (any, error) { return arithmetic(exactContext.Mul, a, b) })
	to.AddFilter("divided_by", divide)
	to.AddFilter("modulo", func(a, b any) (any, error) {
		// a - b*floor(a/b): the sign of the divisor, as in Liquid's Ruby
		return arithmetic(func(d, x, y *apd.Decimal) (apd.Condition, error) {
			if y.IsZero() {
				return 0, errors.New("division by zero")
			}
			if c, err := exactContext.Rem(d, x, y); err != nil {
				return c, err
			}
			if !d.IsZero() && d.Negative != y.Negative {
				return exactContext.Add(d, d, y)
			}
			return 0, nil
		}, a, b)
	})
	to.AddFilter("abs", func(a any) (any, error) {
		return arithmetic(func(d, x, _ *apd.Decimal) (apd.Condition, error) { return exactContext.Abs(d, x) }, a, 0)
	})
	to.AddFilter("ceil", func(a any) (any, error) {
		return arithmetic(func(d, x, _ *apd.Decimal) (apd.Condition, error) { return exactContext.Ceil(d, x) }, a, 0)
	})
	to.AddFilter("floor", func(a any) (any, error) {
		return arithmetic(func(d, x, _ *apd.Decimal) (apd.Condition, error) { return exactContext.Floor(d, x) }, a, 0)
	})
	to.AddFilter("round", func(a any, places func(int) int) (any, error) {
		p := min(30, max(-30, places(0)))
		return arithmetic(func(d, x, _ *apd.Decimal) (apd.Condition, error) {
			return exactContext.Quantize(d, x, int32(-p))
		}, a, 0)
	})

	// dates
	to.AddFilter("date", func(v any, format func(string) string) (string, error) {
		if v == nil || v == "" {
			return "", nil
		}
		t, err := dateOf(v, loc)
		if err != nil {
			return "", err
		}
		f := format("%a, %b %d, %y")
		if wideDate.MatchString(f) {
			return "", errors.New("a width in a date format has two digits at most")
		}
		return tuesday.Strftime(f, t.In(loc))
	})
}

func replaceText(s, old, with string, n int) (string, error) {
	found := strings.Count(s, old)
	if n >= 0 {
		found = min(found, n)
	}
	if len(s)+found*len(with) > maxRendered+found*len(old) {
		return "", errOutputTooLarge
	}
	return strings.Replace(s, old, with, n), nil
}

func decimalOf(v any) (*apd.Decimal, error) {
	s := ""
	switch v := v.(type) {
	case nil:
		return apd.New(0, 0), nil
	case string:
		s = strings.TrimSpace(v)
	case float64:
		s = strconv.FormatFloat(v, 'g', -1, 64)
	default:
		s = text(v, false)
	}
	d, _, err := apd.NewFromString(s)
	if err != nil || d.Form != apd.Finite || d.Exponent > 400 || d.Exponent < -400 {
		return nil, fmt.Errorf("%q is not a number", excerpt(s))
	}
	return d, nil
}

func arithmetic(op func(d, x, y *apd.Decimal) (apd.Condition, error), a, b any) (any, error) {
	x, err := decimalOf(a)
	if err != nil {
		return nil, err
	}
	y, err := decimalOf(b)
	if err != nil {
		return nil, err
	}
	var d apd.Decimal
	if _, err := op(&d, x, y); err != nil {
		return nil, err
	}
	return numberOf(&d), nil
}

// divide gives a whole number, rounded down, when both sides are whole.
func divide(a, b any) (any, error) {
	x, err := decimalOf(a)
	if err != nil {
		return nil, err
	}
	y, err := decimalOf(b)
	if err != nil {
		return nil, err
	}
	if y.IsZero() {
		return nil, errors.New("division by zero")
	}
	var d apd.Decimal
	if _, err := exactContext.Quo(&d, x, y); err != nil {
		return nil, err
	}
	if whole(a) && whole(b) {
		if _, err := exactContext.Floor(&d, &d); err != nil {
			return nil, err
		}
	}
	return numberOf(&d), nil
}

func whole(v any) bool {
	switch v := v.(type) {
	case int, int64:
		return true
	case string:
		_, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		return err == nil
	default:
		return false
	}
}

func numberOf(d *apd.Decimal) any {
	var reduced apd.Decimal
	reduced.Reduce(d)
	if i, err := reduced.Int64(); err == nil && i >= math.MinInt && i <= math.MaxInt {
		return int(i)
	}
	f, err := strconv.ParseFloat(reduced.Text('f'), 64)
	if err != nil {
		return reduced.Text('f')
	}
	return f
}

// dateLayouts are how Postgres writes times, as JSON and as text; those without a
// zone are in the organization's.
var dateLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999-07",
	"2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999-07", "2006-01-02",
}

func dateOf(v any, loc *time.Location) (time.Time, error) {
	switch v := v.(type) {
	case time.Time:
		return v, nil
	case int:
		return time.Unix(int64(v), 0), nil
	case float64:
		return time.UnixMicro(int64(v * 1e6)), nil
	case string:
		for _, layout := range dateLayouts {
			if t, err := time.ParseInLocation(layout, v, loc); err == nil {
				return t, nil
			}
		}
		if t, err := values.ParseDate(v); err == nil {
			return t, nil
		}
		return time.Time{}, fmt.Errorf("%q is not a date", excerpt(v))
	default:
		return time.Time{}, fmt.Errorf("%s is not a date", excerpt(text(v, false)))
	}
}
