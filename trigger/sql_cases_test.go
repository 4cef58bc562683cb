package trigger

import (
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"
)

// What random queries meet too rarely, and what goes beyond triggers.

// oneColumn makes a table of one column, with the values as rows 1, 2, …
func (b *sqlBench) oneColumn(t *testing.T, decl string, values []string) (Schemas, SQLTables) {
	t.Helper()
	b.exec(t, "DROP TABLE IF EXISTS lead; CREATE TABLE lead (id int PRIMARY KEY, x "+decl+")")
	typ, _, _ := strings.Cut(decl, " COLLATE")
	b.exec(t, "INSERT INTO lead SELECT n, v::text::"+typ+" FROM unnest($1::text[]) WITH ORDINALITY AS u(v, n)", values)
	fields, oids := b.describe(t, "lead")
	schema := &Schema{ObjectType: "lead", ID: "id", Fields: fields}
	if fields[1].Kind == KindJSON {
		schema.Custom = "x"
	}
	return only(schema), func(string) SQLTable {
		return SQLTable{Name: "lead", TypeOf: func(column string) uint32 { return oids[column] }}
	}
}

// which gives the values that a condition on x holds for.
func (b *sqlBench) which(t *testing.T, values []string, condition string, schemas Schemas, tables SQLTables, o SQLOptions) []string {
	t.Helper()
	ids := b.matching(t, q("lead", fc("x", condition)), "lead", schemas, tables, o)
	var got []string
	for i, v := range values {
		if slices.Contains(ids, strconv.Itoa(i+1)) {
			got = append(got, v)
		}
	}
	if not := b.matching(t, q("lead", not(fc("x", condition))), "lead", schemas, tables, o); len(not)+len(ids) != len(values) {
		t.Fatalf("%s and its negation hold for %d and %d of %d rows", condition, len(ids), len(not), len(values))
	}
	return got
}

func TestSQLNumberBounds(t *testing.T) {
	t.Parallel()
	b := newSQLBench(t)
	huge := "1" + strings.Repeat("0", numericDigits-1)
	tiny := "0." + strings.Repeat("0", numericDecimals-1) + "1"
	limits := []string{
		"0", "1", "-1", "1.5", "-1.5", "2147483647", "-2147483648.5", "9223372036854775807", "9223372036854775807.5", "9223372036854775808", "-9223372036854775808", "-9223372036854775808.5",
		"-9223372036854775809", "1e19", "1e20", "-1e30", huge, "-" + huge, "1e131072", "-1e131072", "1e4000000", "-1e4000000", tiny, "-" + tiny, "1e-16384", "-1e-16384", "15e-16384", "-15e-16384", "1e-4000000",
		"-1e-4000000", "0.1", "0.1000000001",
	}
	for decl, values := range map[string][]string{
		"int2":    {"0", "1", "-1", "2", "-2", "32767", "-32768"},
		"int8":    {"0", "1", "-1", "2", "-2", "9223372036854775807", "9223372036854775806", "-9223372036854775808", "-9223372036854775807"},
		"numeric": {"0", "1", "-1", "1.5", "-1.5", "0.1", "0.10000", huge, "-" + huge, tiny, "-" + tiny, "2e-16383", "-2e-16383", "Infinity", "-Infinity", "NaN"},
		"float8":  {"0", "1", "-1", "1.5", "0.1", "0.10000000000000002", "1e300", "5e-324", "Infinity", "-Infinity", "NaN"},
		"jsonb":   {"0", "1", "-1.5", "0.1", tiny, "-" + tiny, huge, `"1"`, "[1, 1.5]", "[]"},
	} {
		schemas, tables := b.oneColumn(t, decl, values)
		for _, limit := range limits {
			l, _ := parseDecimal(limit)
			for _, bound := range boundNames {
				var want []string
				for _, v := range values {
					if slices.ContainsFunc(strings.Split(strings.Trim(v, "[]"), ", "), func(v string) bool {
						d, ok := parseDecimal(v)
						order := compareDecimals(d, l)
						return ok && map[string]bool{"gte": order >= 0, "gt": order > 0, "lte": order <= 0, "lt": order < 0}[bound]
					}) {
						want = append(want, v)
					}
				}
				condition := fmt.Sprintf(`{"type":"number_range",%q:%s}`, bound, limit)
				if decl == "jsonb" {
					schemas := schemas
					ids := b.matching(t, q("lead", fc("x", condition)), "lead", schemas, tables, SQLOptions{})
					if len(ids) != len(want) {
						t.Errorf("%s %s %.30s: %d, want %d", decl, bound, limit, len(ids), len(want))
					}
				} else if got := b.which(t, values, condition, schemas, tables, SQLOptions{}); !slices.Equal(got, want) {
					t.Errorf("%s %s %.30s: %.60q, want %.60q", decl, bound, limit, got, want)
				}
			}
		}
	}
}

// compareDecimals compares without writing the numbers out.
func compareDecimals(a, b decimal) int {
	sign := func(d decimal) int {
		switch {
		case d.digits == "" && !d.infinite:
			return 0
		case d.negative:
			return -1
		}
		return 1
	}
	if sa, sb := sign(a), sign(b); sa != sb || sa == 0 {
		return sa - sb
	}
	order := 0
	switch {
	case a.infinite || b.infinite:
		if a.infinite != b.infinite {
			order = map[bool]int{true: 1, false: -1}[a.infinite]
		}
	case a.exp != b.exp:
		order = a.exp - b.exp
	default:
		order = strings.Compare(a.digits, b.digits)
	}
	return order * sign(a)
}

func TestDecimals(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[+-]?[0-9]{1,12}(\.[0-9]{1,12})?(e[+-]?[0-9]{1,2})?`).Draw(t, "number")
		d, ok := parseDecimal(s)
		want, _ := new(big.Rat).SetString(s)
		got, ok2 := new(big.Rat).SetString(d.String())
		if !ok || !ok2 || want.Cmp(got) != 0 {
			t.Fatalf("%s became %s", s, d)
		}
		floor := new(big.Int).Div(want.Num(), want.Denom())
		if d.floor().Cmp(floor) != 0 || d.hasFraction() == want.IsInt() {
			t.Fatalf("%s: floor %s, want %s", s, d.floor(), floor)
		}
		if n, whole := d.whole(); whole != (want.IsInt() && want.Num().IsInt64()) || whole && n != want.Num().Int64() {
			t.Fatalf("%s: %d %t", s, n, whole)
		}
	})
}

// Each letter that Go lowers to another one, under each kind of collation.
func TestSQLLowersAsGoDoes(t *testing.T) {
	t.Parallel()
	b := newSQLBench(t)
	var values []string
	for l, us := range lowered() {
		values = append(values, "<"+string(l)+">")
		for _, u := range us {
			if unicode.ToLower(u) != l {
				t.Fatalf("%q is lowered to %q", u, unicode.ToLower(u))
			}
			values = append(values, "<"+string(u)+">")
		}
	}
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if l := unicode.ToLower(r); l != r && !slices.Contains(lowered()[l], r) {
			t.Fatalf("%q is not among what is lowered to %q", r, l)
		}
		if l := unicode.ToLower(r); unicode.ToLower(l) != l {
			t.Fatalf("%q is lowered to %q, and that to another one", r, l)
		}
	}
	decls := []string{"text", `text COLLATE "C"`}
	if b.icu {
		decls = append(decls, "text COLLATE loose")
	}
	for _, decl := range decls {
		schemas, tables := b.oneColumn(t, decl, values)
		letters := []rune{'k', 'i', 's', 'å', 'ǆ', 'ß', 'σ', 'ω', 'ⅷ', 'ა', 'ꭰ', '𐐨'}
		if decl == "text" && !testing.Short() {
			letters = letters[:0]
			for l := range lowered() { // each takes some milliseconds
				letters = append(letters, l)
			}
		}
		for _, l := range letters {
			value := "<" + string(l) + ">"
			var want []string
			for _, v := range values {
				if strings.ToLower(v) == value {
					want = append(want, v)
				}
			}
			if got := b.which(t, values, exact(value), schemas, tables, SQLOptions{}); !slices.Equal(got, want) {
				t.Fatalf("%s: %q finds %q, want %q", decl, value, got, want)
			}
		}
	}
}

// Under a collation that takes different texts for equal, they are different still.
func TestSQLComparesBytes(t *testing.T) {
	t.Parallel()
	b := newSQLBench(t)
	if !b.icu {
		t.Skip("this Postgres has no ICU")
	}
	values := []string{"12", "１２", "É", "e\u0301", "E", ""}
	schemas, tables := b.oneColumn(t, "text COLLATE loose", values)
	schemas("lead").Organization = "x"
	for i, v := range values {
		for _, condition := range []string{term(v), exact(v)} {
			if got := b.which(t, values, condition, schemas, tables, SQLOptions{}); !slices.Equal(got, []string{v}) {
				t.Errorf("%s finds %q", condition, got)
			}
		}
		if v == "" {
			continue // no organization
		}
		if ids := b.matching(t, q("lead", matchAll), "lead", schemas, tables, SQLOptions{Organization: v}); !slices.Equal(ids, []string{strconv.Itoa(i + 1)}) {
			t.Errorf("organization %q: %v", v, ids)
		}
	}
}

// wordsOf is what words are, by the tables of Unicode alone.
func wordsOf(s string) []string {
	return strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return !unicode.In(r, unicode.L, unicode.M, unicode.N) })
}

func wordsMeet(mode, text, value string) bool {
	have, sought := wordsOf(text), wordsOf(value)
	if len(sought) == 0 {
		return false
	}
	if mode == "phrase" {
		return strings.Contains(" "+strings.Join(have, " ")+" ", " "+strings.Join(sought, " ")+" ")
	}
	for _, w := range sought {
		if !slices.ContainsFunc(have, func(h string) bool { return h == w || mode == "beginning_of_words" && strings.HasPrefix(h, w) }) {
			return false
		}
	}
	return true
}

func TestSQLTextModes(t *testing.T) {
	t.Parallel()
	b := newSQLBench(t)
	values := []string{
		"", "CEO", "ceo", "Chief Executive Officer", "the CEO, Acme Inc.", "CEOs only", "co-ceo", "jane.doe@acme.com", "https://acme.com/a_b?c=1", "(ceo)", "ceo\nacme", "acme   ceo",
		"Ünïcode straße", "STRASSE", "ÜNÏCODE", "नमस्ते दुनिया", "\u65e5\u672c\u8a9e テキスト", "x²", "1,000.50", "O'Brien", "İstanbul", "a\u00adb", "a\u200bb", "\u212aelvin scale", "e\u0301te\u0301", "été",
		strings.Repeat("word ", 1000) + "end", strings.Repeat("x", 5000), "😀 smile", "%_", `back\slash`, "ceo", "ＣＥＯ", "ǅ",
	}
	modes := textModes[1:]
	decls := []string{"text", "varchar", `text COLLATE "C"`}
	if b.icu {
		decls = append(decls, "text COLLATE loose")
	}
	for _, decl := range decls {
		schemas, tables := b.oneColumn(t, decl, values)
		for _, value := range []string{
			"CEO", "ceo acme", "acme CEO", "exec", "chief officer", "executive OFFICER", "acme", "acme.com", "doe@acme", "a b", "ünïcode", "STRASSE", "straße", "नमस्ते", "\u65e5\u672c", "x2", "x²", "000", "50",
			"brien", "o'brien", "istanbul", "kelvin", "été", "", " ", "!?", "end word", "word end", "word word", "xxx", "smile", "😀", "_", `\`, ".*", "[a-z]", "co", "c", "ǆ", "ceo ceo",
		} {
			for _, mode := range modes {
				var want []string
				for _, v := range values {
					if wordsMeet(mode, v, value) {
						want = append(want, v)
					}
				}
				condition := fmt.Sprintf(`{"type":"text","mode":%q,"value":%s}`, mode, asJSON(value))
				if got := b.which(t, values, condition, schemas, tables, SQLOptions{}); !slices.Equal(got, want) {
					t.Errorf("%s %s %q finds %.60q, want %.60q", decl, mode, value, got, want)
				}
			}
		}
	}

	// Longer than a tsvector may be.
	large := []string{strings.Repeat("word ", 50_000) + "end", strings.Repeat("x", 2_000_000)}
	schemas, tables := b.oneColumn(t, "text", large)
	if got := b.which(t, large, `{"type":"text","mode":"phrase","value":"word END"}`, schemas, tables, SQLOptions{}); !slices.Equal(got, large[:1]) {
		t.Error("in a large text")
	}
	schemas, tables = b.oneColumn(t, "text[]", []string{"{ceo of acme,NULL}", "{acme,ceo}", "{}"})
	if got := b.matching(t, q("lead", fc("x", `{"type":"text","mode":"full_words","value":"acme CEO"}`)), "lead", schemas, tables, SQLOptions{}); !slices.Equal(got, []string{"1"}) {
		t.Errorf("in an array: %v", got)
	}
	schemas, tables = b.oneColumn(t, "jsonb", []string{`{"cf_x": "ceo of acme"}`, `{"cf_x": ["nobody", "The Acme CEO"]}`, `{"cf_x": 12}`, `{"cf_x": {"a": "acme ceo"}}`, `"acme ceo"`})
	if got := b.matching(t, q("lead", fc("cf_x", `{"type":"text","mode":"full_words","value":"acme CEO"}`)), "lead", schemas, tables, SQLOptions{}); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("in JSON: %v", got)
	}
}

func TestSeparatorsAreWhatIsNoWord(t *testing.T) {
	t.Parallel()
	assigned := []*unicode.RangeTable{unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Z, unicode.Cc, unicode.Cf, unicode.Co}
	for r := rune(1); r <= unicode.MaxRune; r++ {
		if unicode.In(r, assigned...) && isSeparator(r) == unicode.In(r, unicode.L, unicode.M, unicode.N) {
			t.Fatalf("%U: %t", r, isSeparator(r))
		}
	}
}

func TestSQLBareText(t *testing.T) {
	t.Parallel()
	b := newSQLBench(t)
	b.exec(t, `CREATE TABLE lead (id int PRIMARY KEY, name text, code char(5), tags text[], n int, custom jsonb)`)
	b.exec(t, `INSERT INTO lead VALUES (1, 'Acme Inc', 'x', NULL, 1, NULL), (2, 'Nobody', 'acme', NULL, 1, NULL), (3, NULL, NULL, '{a,"of Acme"}', 1, NULL), (4, 'acmes', 'x', '{}', 1, '{"cf_x": "acme"}')`)
	fields, oids := b.describe(t, "lead")
	schemas := only(&Schema{ObjectType: "lead", ID: "id", Custom: "custom", Fields: fields})
	tables := func(string) SQLTable {
		return SQLTable{Name: "lead", TypeOf: func(c string) uint32 { return oids[c] }}
	}
	for node, want := range map[string][]string{
		`{"type":"text","mode":"full_words","value":"ACME"}`:               {"1", "2", "3"},
		`{"type":"text","mode":"full_words","value":"ACME","negate":true}`: {"4"},
		`{"type":"text","mode":"beginning_of_words","value":"acme"}`:       {"1", "2", "3", "4"},
		`{"type":"text","mode":"exact_value","value":"ACME "}`:             {"2"},
		`{"type":"text","mode":"phrase","value":"acme inc"}`:               {"1"},
		`{"type":"text","mode":"full_words","value":"?"}`:                  nil,
	} {
		if got := b.matching(t, q("lead", node), "lead", schemas, tables, SQLOptions{}); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", node, got, want)
		}
	}
}

func TestRelativeMoments(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	const now = `{"type":"now"}`
	off := func(direction, moment, units, end string) string {
		return fmt.Sprintf(`{"type":"offset","direction":%q,"moment":%s,"offset":%s,"which_day_end":%s}`, direction, moment, units, end)
	}
	day := func(value, which string) string {
		return fmt.Sprintf(`{"type":"fixed_local_date","value":%q,"which":%q}`, value, which)
	}
	for _, tt := range []struct{ name, now, moment, want, day string }{
		{"now", "2026-03-29T10:00:00Z", now, "2026-03-29T10:00:00Z", "2026-03-30"},
		{"now, between two microseconds", "2026-03-29T10:00:00.0000001Z", now, "2026-03-29T10:00:00.000001Z", "2026-03-30"},
		{"a day ago, over a change of clocks", "2026-03-29T10:00:00Z", off("past", now, `{"days":1}`, "null"), "2026-03-28T11:00:00Z", "2026-03-29"},
		{"24 hours ago, over the same", "2026-03-29T10:00:00Z", off("past", now, `{"hours":24}`, "null"), "2026-03-28T10:00:00Z", "2026-03-29"},
		{"into the hour that is skipped", "2026-03-28T01:30:00Z", off("future", now, `{"days":1}`, "null"), "2026-03-29T01:00:00Z", "2026-03-30"},
		{"with half a second", "2026-03-28T01:30:00.5Z", off("future", now, `{"days":1}`, "null"), "2026-03-29T01:00:00Z", "2026-03-30"},
		{"into the hour that comes twice", "2026-10-24T00:30:00Z", off("future", now, `{"days":1}`, "null"), "2026-10-25T00:30:00Z", "2026-10-26"},
		{"the second of the two stays without a calendar unit", "2026-10-25T01:30:00Z", off("past", now, `{"minutes":0}`, "null"), "2026-10-25T01:30:00Z", "2026-10-26"},
		{"a month on from the 31st", "2026-01-31T11:00:00Z", off("future", now, `{"months":1}`, "null"), "2026-02-28T11:00:00Z", "2026-03-01"},
		{"a year back from a leap day", "2028-02-29T11:00:00Z", off("past", now, `{"years":1}`, "null"), "2027-02-28T11:00:00Z", "2027-03-01"},
		{"months before days", "2026-01-31T11:00:00Z", off("future", now, `{"days":1,"months":1}`, "null"), "2026-03-01T11:00:00Z", "2026-03-02"},
		{"all units", "2026-01-01T00:00:00Z", off("future", now, `{"years":1,"months":1,"weeks":1,"days":1,"hours":1,"minutes":1,"seconds":1}`, "null"), "2027-02-09T01:01:01Z", "2027-02-10"},
		{"the start of its day", "2026-03-29T10:00:00Z", off("past", now, `{"days":7}`, `"start"`), "2026-03-21T23:00:00Z", "2026-03-22"},
		{"the end of its day", "2026-03-29T10:00:00Z", off("past", now, `{"days":0}`, `"end"`), "2026-03-29T22:00:00Z", "2026-03-30"},
		{"of a day", "2026-03-29T10:00:00Z", off("future", day("2026-03-28", "end"), `{"days":1}`, "null"), "2026-03-29T22:00:00Z", "2026-03-30"},
		{"of an instant", "2026-03-29T10:00:00Z", off("past", `{"type":"fixed_local_date","value":"2026-03-29T10:00:00.0000001Z"}`, `{"seconds":1}`, "null"), "2026-03-29T09:59:59.000001Z", "2026-03-30"},
		{"of an offset", "2026-03-29T10:00:00Z", off("past", off("future", now, `{"hours":2}`, "null"), `{"hours":1}`, "null"), "2026-03-29T11:00:00Z", "2026-03-30"},
		{"far back", "2026-03-29T10:00:00Z", off("past", off("past", off("past", now, `{"years":1000,"months":12000,"weeks":53000}`, "null"), `{"years":1000,"months":12000,"weeks":53000}`, "null"), `{"years":1000}`, "null"), "", ""},
	} {
		query := q("lead", fc("created_at", `{"type":"moment_range","on_or_after":`+tt.moment+`}`))
		if err := CheckRuntime([]byte(query), "lead", only(&leadSchema), berlin); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, tt.now)
		if err != nil {
			t.Fatal(err)
		}
		root, _ := parse([]byte(query))
		m := &root.queries[1].queries[0].cond.moments[0]
		c := sqlCompiler{loc: berlin, now: at}
		day, micros := c.bound(m)
		text, ok := instantText(micros, "+00")
		if !ok {
			t.Errorf("%s: %d is beyond what Postgres holds", tt.name, micros)
		}
		if tt.want == "" {
			continue
		}
		got, err := time.Parse("2006-01-02 15:04:05.999999-07", text)
		if err != nil {
			t.Fatal(err)
		}
		if dayGot, _ := dayText(day); got.UTC().Format(time.RFC3339Nano) != tt.want || dayGot != tt.day {
			t.Errorf("%s: %s, day %s; want %s, day %s", tt.name, got.UTC().Format(time.RFC3339Nano), dayGot, tt.want, tt.day)
		}
	}
}

// Adding days and clock time against the time package, where that is unambiguous.
func TestWallClock(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		loc := refLocations[rapid.IntRange(0, len(refLocations)-1).Draw(t, "zone")]
		at := time.Unix(rapid.Int64Range(-5e9, 5e9).Draw(t, "seconds"), rapid.Int64Range(0, 999_999).Draw(t, "micros")*1000).In(loc)
		days := rapid.IntRange(-400, 400).Draw(t, "days")
		o := offset{from: momentNode{typ: momentNow}, sign: 1, counts: [7]int64{unitDays: int64(days)}}
		micros := reckoning{microsOf(at), loc}.offset(&o)
		got := time.UnixMicro(micros + epochSecs*secsMicros).In(loc)
		if days == 0 {
			if !got.Equal(at) {
				t.Fatalf("%s became %s", at, got)
			}
			return
		}
		want := at.AddDate(0, 0, days)
		if want.Format(time.TimeOnly) != at.Format(time.TimeOnly) { // skipped: the first instant after it
			start, _ := got.ZoneBounds()
			if !got.Equal(start) {
				t.Fatalf("%s and %d days is %s", at, days, got)
			}
			return
		}
		if got.Format("2006-01-02 15:04:05.999999") != want.Format("2006-01-02 15:04:05.999999") || got.After(want) {
			t.Fatalf("%s and %d days is %s, want %s", at, days, got, want)
		}
	})
}

func TestSQLRelativeMoments(t *testing.T) {
	t.Parallel()
	b := newSQLBench(t)
	now := time.Date(2026, 3, 29, 10, 0, 0, 0, time.UTC)
	berlin := refLocations[1]
	week := `{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"weeks":1},"which_day_end":"start"}`
	condition := `{"type":"moment_range","on_or_after":` + week + `,"before":{"type":"now"}}`
	for decl, tt := range map[string]struct{ values, want []string }{
		"timestamptz": {
			[]string{"2026-03-21 22:59:59.999999+00", "2026-03-21 23:00:00+00", "2026-03-29 09:59:59.999999+00", "2026-03-29 10:00:00+00", "infinity", "-infinity"},
			[]string{"2026-03-21 23:00:00+00", "2026-03-29 09:59:59.999999+00"},
		},
		"timestamp": {[]string{"2026-03-21 22:59:59", "2026-03-21 23:00:00", "2026-03-29 10:00:00"}, []string{"2026-03-21 23:00:00"}},
		"date":      {[]string{"2026-03-21", "2026-03-22", "2026-03-29", "2026-03-30"}, []string{"2026-03-22", "2026-03-29"}},
	} {
		schemas, tables := b.oneColumn(t, decl, tt.values)
		if got := b.which(t, tt.values, condition, schemas, tables, SQLOptions{Location: berlin, Now: now}); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", decl, got, tt.want)
		}
	}
	schemas, tables := b.oneColumn(t, "jsonb", []string{`{"cf_x": "2026-03-22"}`, `{"cf_x": ["2026-03-21T23:00:00Z"]}`, `{"cf_x": "2026-03-29T10:00:00Z"}`, `{"cf_x": "tomorrow"}`, `{"cf_x": 5}`})
	if got := b.matching(t, q("lead", fc("cf_x", condition)), "lead", schemas, tables, SQLOptions{Location: berlin, Now: now}); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("JSON: %v", got)
	}
}

func TestCheckRuntime(t *testing.T) {
	t.Parallel()
	const at = "/queries/1/queries/0"
	moment := func(m string) string {
		return q("lead", fc("created_at", `{"type":"moment_range","before":`+m+`}`))
	}
	off := func(members string) string { return moment(`{"type":"offset",` + members + `}`) }
	const day = `"moment":{"type":"now"},"offset":{"days":1}`
	offAt := at + "/condition/before"
	inside := func(query string) string { return q("lead", hasRelated("lead", "contact", query, "")) }
	for _, tt := range []struct{ name, query, pointer, code, nearest string }{
		{"words", q("lead", fc("title", `{"type":"text","mode":"full_words","value":"CEO"}`)), "", "", ""},
		{"a phrase in a uuid", q("lead", fc("ref", `{"type":"text","mode":"phrase","value":"CEO"}`)), "", "", ""},
		{"words in a custom field", q("lead", fc("cf_x", `{"type":"text","mode":"beginning_of_words","value":"CEO"}`)), "", "", ""},
		{"words in a related object", inside(fieldOf("contact", "title", `{"type":"text","mode":"phrase","value":"CEO"}`)), "", "", ""},
		{"text in a related object", inside(`{"type":"text","mode":"phrase","value":"CEO"}`), "", "", ""},
		{"now", moment(`{"type":"now"}`), "", "", ""},
		{"offset", off(`"direction":"past",` + day + `,"which_day_end":null`), "", "", ""},
		{"offset of an offset", off(`"direction":"past","offset":{"days":1,"hours":null},"moment":{"type":"offset","direction":"future",` + day + `}`), "", "", ""},
		{"bare text", q("lead", `{"type":"text","mode":"full_words","value":"x"}`), "", "", ""},

		{"words in a number", q("lead", fc("value", `{"type":"text","mode":"full_words","value":"12"}`)), at + "/condition", CodeTypeMismatch, `{"type":"term","values":["12"]}`},
		{"words in a related number", inside(fieldOf("contact", "boss", `{"type":"text","mode":"full_words","value":"x"}`)), at + "/related_query/condition", CodeTypeMismatch, ""},
		{"unknown mode", q("lead", fc("title", `{"type":"text","mode":"fuzzy","value":"CEO"}`)), at + "/condition", CodeTextMode, `{"type":"text","mode":"exact_value","value":"CEO"}`},
		{"unknown mode of bare text", q("lead", `{"type":"text","mode":"fuzzy","value":"x"}`), at, CodeTextMode, `{"type":"text","mode":"full_words","value":"x"}`},
		{"now of text", q("lead", fc("title", `{"type":"moment_range","before":{"type":"now"}}`)), at + "/condition", CodeTypeMismatch, ""},
		{"no direction", off(day), offAt, CodeMissingMember, `{"type":"offset","moment":{"type":"now"},"offset":{"days":1},"direction":"past"}`},
		{"another direction", off(`"direction":"back",` + day), offAt, CodeTypeMismatch, `{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"days":1}}`},
		{"no moment", off(`"direction":"past","offset":{"days":1}`), offAt, CodeMissingMember, `{"type":"offset","direction":"past","offset":{"days":1},"moment":{"type":"now"}}`},
		{"no offset", off(`"direction":"past","moment":{"type":"now"}`), offAt, CodeMissingMember, `{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"days":1}}`},
		{"half a day", off(`"direction":"past","moment":{"type":"now"},"offset":{"days":0.5}`), offAt + "/offset/days", CodeTypeMismatch, ""},
		{"less than nothing", off(`"direction":"past","moment":{"type":"now"},"offset":{"days":-1}`), offAt + "/offset/days", CodeTypeMismatch, ""},
		{"a text of days", off(`"direction":"past","moment":{"type":"now"},"offset":{"days":"1"}`), offAt + "/offset/days", CodeTypeMismatch, ""},
		{"ages", off(`"direction":"past","moment":{"type":"now"},"offset":{"years":1001}`), offAt + "/offset/years", CodeTooLarge, "1000"},
		{"fortnights", off(`"direction":"past","moment":{"type":"now"},"offset":{"fortnights":1}`), offAt + "/offset", CodeUnknownMember, "{}"},
		{"a list for an offset", off(`"direction":"past","moment":{"type":"now"},"offset":[1]`), offAt + "/offset", CodeTypeMismatch, ""},
		{"another end", off(`"direction":"past",` + day + `,"which_day_end":"noon"`), offAt, CodeTypeMismatch, `{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"days":1},"which_day_end":"start"}`},
		{"no such moment inside", off(`"direction":"past","offset":{"days":1},"moment":{"type":"yesterday"}`), offAt + "/moment", CodeUnknownCondition, ""},
		{"wrong deep inside", off(`"direction":"past","offset":{"days":1},"moment":{"type":"offset","direction":"x",` + day + `}`), offAt + "/moment", CodeTypeMismatch,
			`{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"days":1}}`},
		{"too deep", off(`"direction":"past","offset":{},"moment":{"type":"offset","direction":"past","offset":{},"moment":{"type":"offset","direction":"past","offset":{},"moment":{"type":"offset","direction":"past",` + day + `}}}`),
			offAt + "/moment/moment/moment", CodeTooDeep, ""},
		{"wrong in a related object", inside(fieldOf("contact", "since", `{"type":"moment_range","before":{"type":"offset","direction":"past","moment":{"type":"now"},"offset":{"days":1.5}}}`)), at + "/related_query/condition/before/offset/days", CodeTypeMismatch, ""},
		{"current_user", q("lead", fc("owner_id", `{"type":"current_user"}`)), at + "/condition", CodeCurrentUser, ""},
		{"saved search", q("lead", `{"type":"saved_search","saved_search_id":"save_1"}`), at, CodeSavedSearch, ""},
		{"computed field", q("lead", `{"type":"field_condition","field":{"type":"computed_field"},"condition":{"type":"exists"}}`), at + "/field", CodeComputedField, ""},
		{"unknown field", q("lead", fc("statusid", `{"type":"text","mode":"phrase","value":"x"}`)), at + "/field", CodeUnknownField, `{"type":"regular_field","object_type":"lead","field_name":"status_id"}`},
		{"no object type", fc("title", `{"type":"text","mode":"phrase","value":"x"}`), "", CodeObjectTypeMissing, and(`{"type":"object_type","object_type":"lead"}`, fc("title", `{"type":"text","mode":"phrase","value":"x"}`))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			contact := crmContact
			contact.Fields = append(slices.Clone(contact.Fields), Field{"since", KindDate, false})
			schemas := only(&crmLead, &contact, &crmOpportunity)
			err := CheckRuntime([]byte(tt.query), "lead", schemas, nil)
			if _, compiled := CompileSQL([]byte(tt.query), "lead", schemas, func(string) SQLTable {
				return SQLTable{Name: "t", TypeOf: func(string) uint32 { return 0 }}
			}, SQLOptions{}); (err == nil) != (compiled == nil) {
				t.Errorf("checked: %v, compiled: %v", err, compiled)
			}
			if tt.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			problems := problemsOf(t, err)
			p := problems[0]
			if len(problems) != 1 || p.Pointer != tt.pointer || p.Code != tt.code || string(p.Nearest) != tt.nearest {
				t.Errorf("got  %s %s %s: %s\nwant %s %s %s (%d problems)", p.Pointer, p.Code, p.Nearest, p.Message, tt.pointer, tt.code, tt.nearest, len(problems))
			}
			if p.Message == "" || strings.Contains(p.Message, "trigger") {
				t.Errorf("message: %q", p.Message)
			}
			if p.at == 0 && p.Pointer != "" {
				t.Error("it is not known where in the text that is")
			}
			if tt.nearest != "" {
				if err := CheckRuntime(replaceAt(t, tt.query, p.Pointer, p.Nearest), "lead", schemas, nil); err != nil {
					t.Errorf("the nearest form is refused: %v", err)
				}
			}
		})
	}
}

// What triggers accept and refuse for other reasons, is accepted and refused here.
func TestCheckRuntimeIsCheck(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		schema := genSchema(t)
		n := genNode(t, &schema, 2, true)
		if rapid.Bool().Draw(t, "spoiled") {
			n["queries"] = []any{junk(t, 4)}
			n["type"] = pick(t, []string{"and", "or", "has_related"})
		}
		query := asJSON(pinned(n))
		schemas := only(&schema)
		s, err := CompileSQL(query, "lead", schemas, func(string) SQLTable {
			return SQLTable{Name: "t", TypeOf: func(string) uint32 { return 0 }}
		}, SQLOptions{FirstArg: 3})
		if Check(query, "lead", schemas, nil) == nil && err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if err == nil {
			for i := range s.Args {
				if !strings.Contains(s.Where, "$"+strconv.Itoa(i+3)) {
					t.Fatalf("%s %q: no $%d", s.Where, s.Args, i+3)
				}
			}
		}
	})
}

// A query uses the indexes that it can.
func TestSQLUsesIndexes(t *testing.T) {
	t.Parallel()
	b := newSQLBench(t)
	b.exec(t, `CREATE TABLE lead (id bigint PRIMARY KEY, organization_id text, status text, n int, big bigint, value numeric, at timestamptz, day date, ref uuid, tags text[], boss bigint)`)
	for _, c := range []string{"organization_id", "status", "n", "big", "value", "at", "day", "ref", "boss"} {
		b.exec(t, "CREATE INDEX lead_"+c+"_idx ON lead ("+c+")")
	}
	b.exec(t, `CREATE INDEX lead_tags_idx ON lead USING gin (tags)`)
	fields, oids := b.describe(t, "lead")
	schema := Schema{ObjectType: "lead", ID: "id", Organization: "organization_id", Fields: fields, Relations: []Relation{{"id", "lead", "boss"}}}
	tables := func(string) SQLTable {
		return SQLTable{Name: "lead", TypeOf: func(c string) uint32 { return oids[c] }}
	}
	for name, node := range map[string]string{
		"lead_pkey":                `{"type":"id","value":5}`,
		"lead_status_idx":          fc("status", term("a", "b")),
		"lead_n_idx":               fc("n", `{"type":"number_range","gte":1.5,"lt":7}`),
		"lead_big_idx":             fc("big", term("1", "2.0")),
		"lead_value_idx":           fc("value", `{"type":"number_range","gte":1.5}`),
		"lead_at_idx":              fc("at", `{"type":"moment_range","on_or_after":{"type":"now"}}`),
		"lead_day_idx":             fc("day", `{"type":"moment_range","on_or_after":{"type":"fixed_local_date","value":"2026-01-01","which":"start"}}`),
		"lead_ref_idx":             fc("ref", term(strings.ToUpper(sqlUUIDs[0]))),
		"lead_tags_idx":            fc("tags", term("a")),
		"lead_boss_idx":            and(`{"type":"id","value":5}`, hasRelated("lead", "lead", matchAll, "")),
		"lead_organization_id_idx": matchAll,
	} {
		o := SQLOptions{}
		if name == "lead_organization_id_idx" {
			o.Organization = "A"
		}
		s, err := CompileSQL([]byte(q("lead", node)), "lead", only(&schema), tables, o)
		if err != nil {
			t.Fatal(err)
		}
		err = pgx.BeginFunc(ctx, b.conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL enable_seqscan = off"); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, "EXPLAIN SELECT FROM lead t WHERE "+s.Where, s.Args...)
			if err != nil {
				return err
			}
			plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if text := strings.Join(plan, "\n"); !strings.Contains(text, name) || !strings.Contains(text, "Index Cond") {
				t.Errorf("%s is not used:\n%s", name, text)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, s.Where)
		}
	}
}
