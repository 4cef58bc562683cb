package trigger

import (
	"bytes"
	"encoding/json"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/apd/v3"
	"pgregory.net/rapid"

	"github.com/pgautomate/pgautomate/internal/jsonscan"
)

func TestNumberOrder(t *testing.T) {
	t.Parallel()
	inOrder := []string{
		"-Infinity", "-1e400", "-1000.01", "-1000", "-999.99", "-10", "-9", "-1.21", "-1.2", "-1.1999", "-1", "-0.1201", "-0.12", "-0.0001", "-1e-400",
		"0", "1e-400", "0.0001", "0.12", "0.1201", "1", "1.1999", "1.2", "1.21", "9", "9.9", "10", "99", "100", "999.99", "1000", "1000.01",
		"9007199254740992", "9007199254740993", "1e400", "Infinity",
	}
	for i, a := range inOrder {
		for j, b := range inOrder {
			x, xc := appendNumber(nil, a)
			y, yc := appendNumber(nil, b)
			if xc != isNumber || yc != isNumber || bytes.Compare(x, y) != max(-1, min(1, i-j)) {
				t.Errorf("%s against %s: %d", a, b, bytes.Compare(x, y))
			}
		}
	}
}

func TestNumberForms(t *testing.T) {
	t.Parallel()
	for _, same := range [][]string{{"1000", "1000.00", "1e3", "+1000", "0001000", "1E+3", "10000e-1"}, {"0", "-0", "0.000", "0e5", "-0.0e-9"}, {"-0.5", "-0.50", "-5e-1"}, {"120", "1.2e2", "0.12e3"}} {
		first, _ := appendNumber(nil, same[0])
		for _, s := range same {
			if b, c := appendNumber(nil, s); c != isNumber || !bytes.Equal(first, b) {
				t.Errorf("%s is not %s", s, same[0])
			}
		}
	}
	for _, s := range []string{"", "-", "+", ".", "1.", ".5", "1e", "1e+", "1x", "--1", "1.2.3", "0x10", "1_000", "inf", "infinity", "nan", " 1", "1 ", "NaNs", "Infinityx", "1e5000000", "1e-5000000"} {
		if _, c := appendNumber(nil, s); c != notNumber {
			t.Errorf("%q is a number", s)
		}
	}
	if _, c := appendNumber(nil, "NaN"); c != isNaN {
		t.Error("NaN")
	}
}

func TestNumberOrderIsThatOfDecimals(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,20})?(e[+\-]?[0-9]{1,3})?`)
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		x, _, err := apd.NewFromString(a)
		if err != nil {
			t.Skip()
		}
		y, _, err := apd.NewFromString(b)
		if err != nil {
			t.Skip()
		}
		ea, ca := appendNumber(nil, a)
		eb, cb := appendNumber(nil, b)
		if ca != isNumber || cb != isNumber || bytes.Compare(ea, eb) != x.Cmp(y) {
			t.Fatalf("%s against %s: %d, want %d", a, b, bytes.Compare(ea, eb), x.Cmp(y))
		}
	})
}

func TestMoments(t *testing.T) {
	t.Parallel()
	at := func(s string) int64 {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v.UnixMicro() - epochSecs*secsMicros
	}
	for s, want := range map[string]int64{
		"2000-01-01":                       0,
		"2026-03-29 10:11:12.345678+00":    at("2026-03-29T10:11:12.345678Z"),
		"2026-03-29 10:11:12+05:30":        at("2026-03-29T10:11:12+05:30"),
		"2026-03-29T10:11:12.5Z":           at("2026-03-29T10:11:12.5Z"),
		"2026-03-29T10:11-0330":            at("2026-03-29T10:11:00-03:30"),
		"1900-01-01 00:00:00+00:53:28":     at("1899-12-31T23:06:32Z"),
		"2026-01-01 24:00:00":              at("2026-01-02T00:00:00Z"),
		"infinity":                         math.MaxInt64,
		"-infinity":                        math.MinInt64,
		"294276-12-31 23:59:59.999999":     (daysFromCivil(294276, 12, 31)+1)*dayMicros - 1,
		"4713-01-01 00:00:00 BC":           daysFromCivil(-4712, 1, 1) * dayMicros,
		"5874897-12-31":                    math.MaxInt64,
		"0001-01-01 00:00:00":              at("0001-01-01T00:00:00Z"),
		"0001-12-31 23:59:59 BC":           at("0001-01-01T00:00:00Z") - secsMicros,
		"2024-02-29":                       at("2024-02-29T00:00:00Z"),
		"2026-03-29 10:11:12.1234567+00":   at("2026-03-29T10:11:12.123456Z"),
		"1999-12-31 23:59:59.999999+00:00": -1,
	} {
		if m, ok := parseMoment(s); !ok || m.instant() != want {
			t.Errorf("%s: %d %v, want %d", s, m.instant(), ok, want)
		}
	}
	for _, s := range []string{
		"", "2026", "2026-1-1", "2026-13-01", "2026-00-01", "2026-02-29", "2026-01-01x", "2026-01-01 ", "2026-01-01 1:00", "2026-01-01 25:00:00",
		"2026-01-01 10:60:00", "2026-01-01 10:00:61", "2026-01-01 10:00:00.", "2026-01-01 10:00:00+", "2026-01-01 10:00:00Zx", "2026-01-01 24:00:01",
		"now", "Infinity", "01/02/2026", "99999999-01-01", "2026-01-01 10:00:00+01:99", "20260101",
	} {
		if _, ok := parseMoment(s); ok {
			t.Errorf("%q is a moment", s)
		}
	}
}

func TestDaysFromCivil(t *testing.T) {
	t.Parallel()
	day := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	for day.Year() < 2500 {
		want := (day.Unix() - epochSecs) / 86400
		if y, m, d := day.Date(); daysFromCivil(int64(y), int64(m), int64(d)) != want || int64(d) > daysIn(int64(y), int64(m)) {
			t.Fatalf("%s: want %d", day, want)
		}
		day = day.AddDate(0, 0, 1)
	}
}

// TestDayStart compares with a walk over the minutes of the days at which clocks
// were set around midnight.
func TestDayStart(t *testing.T) {
	t.Parallel()
	for zone, days := range map[string][]string{
		"America/Sao_Paulo":   {"2018-11-04", "2018-02-18", "2018-11-05"}, // no midnight; 23:00 twice
		"America/Havana":      {"2024-03-10", "2024-11-03"},               // no midnight; midnight twice
		"Asia/Beirut":         {"2022-03-27"},
		"Pacific/Apia":        {"2011-12-30", "2011-12-31"}, // a day that never was
		"America/St_Johns":    {"2010-03-14", "2010-11-07"}, // set at one minute past midnight
		"Europe/Berlin":       {"2026-03-29", "2026-10-25", "1980-04-06"},
		"Asia/Kolkata":        {"2026-01-01"},
		"Australia/Lord_Howe": {"2026-04-05"},
		"UTC":                 {"2026-01-01"},
	} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range days {
			m, _ := parseMoment(d)
			utc, _ := time.Parse(time.DateOnly, d)
			at := utc.Add(-48 * time.Hour)
			for at.In(loc).Format(time.DateOnly) < d {
				at = at.Add(time.Minute)
			}
			if got, want := dayStart(m.day, loc), (at.Unix()-epochSecs)*secsMicros; got != want {
				t.Errorf("%s in %s starts at %s, want %s", d, zone, time.Unix(got/secsMicros+epochSecs, 0).In(loc), at.In(loc))
			}
			for _, offset := range []int64{-1, 0, 1} {
				want := m.day
				for dayStart(want-1, loc) >= dayStart(m.day, loc)+offset {
					want--
				}
				for dayStart(want, loc) < dayStart(m.day, loc)+offset {
					want++
				}
				if got := dayAtOrAfter(dayStart(m.day, loc)+offset, loc); got != want && dayStart(got, loc) != dayStart(want, loc) {
					t.Errorf("%s in %s %+d µs: day %d, want %d", d, zone, offset, got, want)
				}
			}
		}
	}
}

func TestSplitArray(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		`{}`:                              {},
		`{a}`:                             {"a"},
		`{a,b}`:                           {"a", "b"},
		`{a,"b c",NULL}`:                  {"a", "b c"},
		`{"NULL",null}`:                   {"NULL", "null"},
		`{"",x}`:                          {"", "x"},
		`{"a\"b\\c","{,}"}`:               {`a"b\c`, "{,}"},
		`{{1,2},{3,NULL}}`:                {"1", "2", "3"},
		`[0:1]={a,b}`:                     {"a", "b"},
		`[-1:0][2:3]={{a,b},{c,d}}`:       {"a", "b", "c", "d"},
		`{"2026-01-01 00:00:00+00"}`:      {"2026-01-01 00:00:00+00"},
		`{"{\"k\": \"v, \\\\ \"}","[1]"}`: {`{"k": "v, \\ "}`, "[1]"},
	} {
		got := []string{}
		_, ok := splitArray([]byte(in), nil, func(e []byte) { got = append(got, string(e)) })
		if !ok || !slices.Equal(got, want) {
			t.Errorf("%s: %q %v", in, got, ok)
		}
	}
	for _, in := range []string{``, `a`, `{`, `}`, `{a`, `{"a`, `{a,}`, `{,a}`, `{a}b`, `{a"b"}`, `{"a"b}`, `{{a}{b}}`, `[0:1]`, `{a\`, `{"a\`, `{a}}`} {
		if _, ok := splitArray([]byte(in), nil, func([]byte) {}); ok {
			t.Errorf("%s is an array", in)
		}
	}
}

func TestEqualFold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-cA-CéÉßẞıİiI]{0,4}`), rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 4), func(b []byte) string { return string(b) }))
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		for _, b := range []string{b, strings.ToUpper(a), a} {
			if want := strings.ToLower(a) == strings.ToLower(b); equalFold([]byte(a), strings.ToLower(b)) != want { //nolint:staticcheck // not EqualFold: simple lower case is the rule
				t.Fatalf("%q against %q: want %v", a, b, want)
			}
		}
	})
}

func TestLists(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		gen := rapid.StringMatching(`[ab]{0,4}`)
		values := rapid.SliceOfN(gen, 0, 40).Draw(t, "values")
		list := string(appendList(nil, slices.Clone(values)))
		for range 5 {
			if v := gen.Draw(t, "v"); listHas(list, []byte(v)) != slices.Contains(values, v) {
				t.Fatalf("%q in %q", v, values)
			}
		}
	})
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	for oid, want := range map[uint32]Field{
		16: {Kind: KindBool}, 1000: {Kind: KindBool, Array: true}, 20: {Kind: KindNumber}, 1700: {Kind: KindNumber}, 1231: {Kind: KindNumber, Array: true},
		25: {Kind: KindText}, 1009: {Kind: KindText, Array: true}, 1042: {Kind: KindPadded}, 1082: {Kind: KindDate}, 1114: {Kind: KindTimestamp},
		1184: {Kind: KindTimestampTZ}, 3802: {Kind: KindJSON}, 2950: {Kind: KindOther}, 2951: {Kind: KindOther, Array: true}, 999999: {Kind: KindText},
	} {
		if k, array := KindOf(oid); k != want.Kind || array != want.Array {
			t.Errorf("%d: %v %v", oid, k, array)
		}
	}
}

// Fuzz targets.

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		qs, q("lead", not(or(fc("value", `{"type":"number_range","gte":1e3,"lt":5.5}`), fc("cf_x", term("a", "\u00e9"))))),
		q("lead", fc("close_date", `{"type":"moment_range","on_or_after":{"type":"fixed_local_date","value":"2026-01-01","which":"start"},"before":{"type":"now"}}`)),
		q("lead", `{"type":"has_related","this_object_type":"lead","related_object_type":"contact","related_query":{"type":"and","queries":[]}}`),
		q("lead", `{"type":"id","value":2}`, fc("owner_id", `{"type":"reference","reference_type":"user","object_ids":["u1"]}`)),
		`{"type":"and","queries":[null,1,"x",[],{}]}`, `{"type":"\ud83d\ude00\u12","negate":true}`, `[[[[`, ``, `{"a":1,"a":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, jsonErr := parseJSON(string(data))
		if valid := json.Valid(data); jsonErr == nil && !valid {
			t.Fatalf("not JSON, yet accepted: %q", data)
		} else if jsonErr != nil && valid && utf8.Valid(data) && !jsonErr.tooDeep && !strings.Contains(jsonErr.msg, "twice") {
			t.Fatalf("JSON, yet refused: %q: %+v", data, jsonErr)
		}
		checkErr := Check(data, "lead", only(&leadSchema), nil)
		if checkErr != nil {
			for _, p := range problemsOf(t, checkErr) {
				if p.Code == "" || p.Message == "" || p.Nearest != nil && !json.Valid(p.Nearest) {
					t.Fatalf("%+v", p)
				}
			}
		}
		query, err := Parse(data)
		if err != nil {
			if checkErr == nil {
				t.Fatalf("Check accepts what Parse refuses: %v", err)
			}
			return
		}
		// The tree survives being written and read again, and being kept as source.
		text := appendNode(nil, query.root)
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if second := appendNode(nil, again.root); !bytes.Equal(text, second) {
			t.Fatalf("%s\n%s", text, second)
		}
		if checkErr == nil {
			var in interner
			r := sourceReader{s: string(appendSource(nil, query.root, &in)), in: &in}
			if kept := appendNode(nil, r.node()); !bytes.Equal(text, kept) || r.s != "" {
				t.Fatalf("%s\n%s", text, kept)
			}
		}
	})
}

func FuzzNumber(f *testing.F) {
	for _, s := range []string{"0", "-1.50", "1e400", "NaN", "Infinity", "-0.0e-9", "9007199254740993", "1e99999999999999999999"} {
		f.Add(s, "1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, xc := appendNumber(nil, a)
		y, yc := appendNumber(nil, b)
		if len(a)+len(b) > 200 || xc != isNumber || yc != isNumber || strings.ContainsAny(a+b, "eEI") {
			return
		}
		r, ok := new(big.Rat).SetString(a)
		s, ok2 := new(big.Rat).SetString(b)
		if !ok || !ok2 || bytes.Compare(x, y) != r.Cmp(s) {
			t.Fatalf("%s against %s: %d", a, b, bytes.Compare(x, y))
		}
	})
}

var plainInstant = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$`)

func FuzzMoment(f *testing.F) {
	for _, s := range []string{"2026-01-01", "2026-01-01 10:00:00.5+05:30", "0044-03-15 BC", "infinity", "2026-01-01T00:00:00Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, ok := parseMoment(s)
		_, _ = m.instant(), m.days()
		if at, err := time.Parse(time.RFC3339, s); err == nil && plainInstant.MatchString(s) { // time.Parse lets more through
			if want := at.UnixMicro() - epochSecs*secsMicros; !ok || m.instant() != want {
				t.Fatalf("%s: %d %v, want %d", s, m.instant(), ok, want)
			}
		}
	})
}

func FuzzArray(f *testing.F) {
	for _, s := range []string{`{}`, `{a,"b c",NULL}`, `[0:1]={a,b}`, `{{1,2},{3,4}}`, `{"a\"b\\"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var quotedElements []string
		_, ok := splitArray(data, nil, func(e []byte) { quotedElements = append(quotedElements, quoteElement(string(e))) })
		if !ok {
			return
		}
		text := "{" + strings.Join(quotedElements, ",") + "}"
		var again []string
		if _, ok := splitArray([]byte(text), nil, func(e []byte) { again = append(again, quoteElement(string(e))) }); !ok || !slices.Equal(quotedElements, again) {
			t.Fatalf("%q: %q %q", data, quotedElements, again)
		}
	})
}

func FuzzJSONValue(f *testing.F) {
	for _, s := range []string{`{"cf_x": "gold", "b": [1, {"c": "}"}]}`, `{}`, `[1, "a", null]`, `{"a\"b": 1}`, `{"cf_x`, `nul`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var sd side
		sd.json(data, true)
		got, ok := jsonscan.Members(nil, data)
		var want map[string]json.RawMessage
		if !json.Valid(data) || json.Unmarshal(data, &want) != nil || want == nil {
			return
		}
		if !ok {
			t.Fatalf("%s: not read", data)
		}
		seen := map[string]bool{}
		for _, g := range slices.Backward(got) {
			var key string
			if err := json.Unmarshal([]byte(`"`+string(g.Key)+`"`), &key); err != nil {
				t.Fatal(err)
			}
			if !seen[key] && string(want[key]) != string(g.Value) {
				t.Fatalf("%s: %q is %s, want %s", data, key, g.Value, want[key])
			}
			seen[key] = true
			if utf8.Valid(g.Key) && string(jsonscan.Unquote(nil, g.Key)) != key {
				t.Fatalf("%q unquoted: %q", g.Key, jsonscan.Unquote(nil, g.Key))
			}
		}
		if len(seen) != len(want) {
			t.Fatalf("%s: %d members, want %d", data, len(seen), len(want))
		}
	})
}
