package jobs

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func instant(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func params(t testing.TB, s string) map[string]any {
	t.Helper()
	p, err := decodeParams(json.RawMessage(s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWaitTime(t *testing.T) {
	t.Parallel()
	const berlin, newYork, apia, lordHowe = "Europe/Berlin", "America/New_York", "Pacific/Apia", "Australia/Lord_Howe"
	const office = `"window":{"weekdays":["mon","tue","wed","thu","fri"],"hours":["09:00","17:00"]`
	// 2028-03-13 is a Monday. Berlin: clocks forward 2028-03-26 02:00, back 2028-10-29 03:00.
	for _, tc := range []struct{ name, zone, base, params, want string }{
		{"days", "UTC", "2028-03-13T10:00:00.5Z", `{"for":"2 days"}`, "2028-03-15T10:00:00.5Z"},
		{"words", "UTC", "2028-03-13T10:00:00Z", `{"for":"1 hour 30 minutes"}`, "2028-03-13T11:30:00Z"},
		{"words with and", "UTC", "2028-03-13T10:00:00Z", `{"for":"1 week, 2 days and 3 hours"}`, "2028-03-22T13:00:00Z"},
		{"go", "UTC", "2028-03-13T10:00:00Z", `{"for":"90m"}`, "2028-03-13T11:30:00Z"},
		{"go, joined", "UTC", "2028-03-13T10:00:00Z", `{"for":"1h30m15s"}`, "2028-03-13T11:30:15Z"},
		{"fraction", "UTC", "2028-03-13T10:00:00Z", `{"for":"1.5 hours"}`, "2028-03-13T11:30:00Z"},
		{"iso", "UTC", "2028-03-13T10:00:00Z", `{"for":"PT1H"}`, "2028-03-13T11:00:00Z"},
		{"iso, all", "UTC", "2028-03-13T10:00:00Z", `{"for":"P1Y2M1W3DT4H5M6.5S"}`, "2029-05-23T14:05:06.5Z"},
		{"postgres", "UTC", "2028-03-13T10:00:00Z", `{"for":"1 day 02:30:00"}`, "2028-03-14T12:30:00Z"},
		{"month end", "UTC", "2028-01-31T10:00:00Z", `{"for":"1 month"}`, "2028-02-29T10:00:00Z"},
		{"nothing to wait", "UTC", "2028-03-13T10:00:00Z", `{"for":"0 seconds"}`, "2028-03-13T10:00:00Z"},
		{"calendar days keep the local time", berlin, "2028-03-25T09:00:00+01:00", `{"for":"2 days"}`, "2028-03-27T09:00:00+02:00"},
		{"hours are exact", berlin, "2028-03-25T09:00:00+01:00", `{"for":"48 hours"}`, "2028-03-27T10:00:00+02:00"},
		{"a skipped time", berlin, "2028-03-25T02:30:00+01:00", `{"for":"1 day"}`, "2028-03-26T03:00:00+02:00"},
		{"a time that comes twice", berlin, "2028-10-28T02:30:00+02:00", `{"for":"1 day"}`, "2028-10-29T02:30:00+02:00"},
		{"a skipped day", apia, "2011-12-29T10:00:00-10:00", `{"for":"1 day"}`, "2011-12-31T00:00:00+14:00"},
		{"half an hour of gap", lordHowe, "2028-09-30T02:15:00+10:30", `{"for":"1 day"}`, "2028-10-01T02:30:00+11:00"},

		{"instant", "UTC", "2028-03-13T10:00:00Z", `{"until":"2028-04-01T00:00:00+02:00"}`, "2028-03-31T22:00:00Z"},
		{"instant of Postgres", "UTC", "2028-03-13T10:00:00Z", `{"until":"2028-04-01 00:00:00.25+02"}`, "2028-03-31T22:00:00.25Z"},
		{"an instant that has passed", "UTC", "2028-03-13T10:00:00Z", `{"until":"2020-01-01T00:00:00Z"}`, "2020-01-01T00:00:00Z"},
		{"local date and time", berlin, "2028-03-13T10:00:00Z", `{"until":"2028-07-01 09:00"}`, "2028-07-01T09:00:00+02:00"},
		{"local date", berlin, "2028-03-13T10:00:00Z", `{"until":"2028-07-01"}`, "2028-07-01T00:00:00+02:00"},
		{"time of day, today", berlin, "2028-03-13T07:00:00+01:00", `{"until":"09:00"}`, "2028-03-13T09:00:00+01:00"},
		{"time of day, tomorrow", berlin, "2028-03-13T09:00:00.001+01:00", `{"until":"09:00"}`, "2028-03-14T09:00:00+01:00"},
		{"time of day, now", berlin, "2028-03-13T09:00:00+01:00", `{"until":"09:00"}`, "2028-03-13T09:00:00+01:00"},
		{"time of day, skipped", berlin, "2028-03-26T00:00:00+01:00", `{"until":"02:30"}`, "2028-03-26T03:00:00+02:00"},
		{"time of day, twice", berlin, "2028-10-29T00:00:00+02:00", `{"until":"02:30"}`, "2028-10-29T02:30:00+02:00"},
		{"time of day, after the first of two", berlin, "2028-10-29T02:45:00+02:00", `{"until":"02:30"}`, "2028-10-30T02:30:00+01:00"},
		{"the organization's day", newYork, "2028-03-14T02:00:00Z", `{"until":"23:00"}`, "2028-03-13T23:00:00-04:00"},

		{"inside the window", berlin, "2028-03-13T10:00:00+01:00", `{"for":"1h",` + office + `}}`, "2028-03-13T11:00:00+01:00"},
		{"before it opens", berlin, "2028-03-13T05:00:00+01:00", `{"for":"1h",` + office + `}}`, "2028-03-13T09:00:00+01:00"},
		{"at its end", berlin, "2028-03-13T16:00:00+01:00", `{"for":"1h",` + office + `}}`, "2028-03-14T09:00:00+01:00"},
		{"over the weekend", berlin, "2028-03-17T16:30:00+01:00", `{"for":"1h",` + office + `}}`, "2028-03-20T09:00:00+01:00"},
		{"a holiday", berlin, "2028-03-17T16:30:00+01:00", `{"for":"1h",` + office + `,"holidays":["2028-03-20","2028-03-21"]}}`, "2028-03-22T09:00:00+01:00"},
		{"window's own zone", berlin, "2028-03-13T12:00:00+01:00", `{"for":"1h",` + office + `,"time_zone":"America/New_York"}}`, "2028-03-13T09:00:00-04:00"},
		{"window alone", berlin, "2028-03-18T12:00:00+01:00", `{` + office + `}}`, "2028-03-20T09:00:00+01:00"},
		{"days only", "UTC", "2028-03-18T12:00:00Z", `{"for":"1h","window":{"weekdays":["Monday"]}}`, "2028-03-20T00:00:00Z"},
		{"hours only, end of day", "UTC", "2028-03-18T23:59:59Z", `{"for":"0s","window":{"hours":["20:00","24:00"]}}`, "2028-03-18T23:59:59Z"},
		{"over midnight, in the night", "UTC", "2028-03-18T02:00:00Z", `{"for":"0s","window":{"hours":["22:00","06:00"],"weekdays":["fri"]}}`, "2028-03-18T02:00:00Z"},
		{"over midnight, by day", "UTC", "2028-03-18T12:00:00Z", `{"for":"0s","window":{"hours":["22:00","06:00"]}}`, "2028-03-18T22:00:00Z"},
		{"an opening that is skipped", berlin, "2028-03-26T00:00:00+01:00", `{"for":"0s","window":{"hours":["02:15","05:00"]}}`, "2028-03-26T03:00:00+02:00"},
		{"a window that is skipped altogether", berlin, "2028-03-26T00:00:00+01:00", `{"for":"0s","window":{"hours":["02:15","02:45"]}}`, "2028-03-27T02:15:00+02:00"},
		{"until and window", berlin, "2028-03-17T18:00:00+01:00", `{"until":"08:00",` + office + `}}`, "2028-03-20T09:00:00+01:00"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := WaitTime(params(t, tc.params), instant(t, tc.base), zone(t, tc.zone))
			if err != nil {
				t.Fatal(err)
			}
			if want := instant(t, tc.want); !got.Equal(want) {
				t.Errorf("got %s, want %s", got.Format(time.RFC3339Nano), tc.want)
			}
		})
	}
}

func TestWaitRefuses(t *testing.T) {
	t.Parallel()
	r, err := Defaults(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ params, want string }{
		{`{}`, `wait: give "for" ("2 days") or "until"`},
		{`{"for":"1h","until":"09:00"}`, `either "for" or "until", not both`},
		{`{"for":90}`, `use a time span with its unit`},
		{`{"for":"soon"}`, `"soon" is not a time span: use a span such as "2 days"`},
		{`{"for":"2"}`, `"2" is not a time span`},
		{`{"for":""}`, `"" is not a time span`},
		{`{"for":"P"}`, `"P" is not a time span`},
		{`{"for":"-2 days"}`, `"-2 days" is not a time span`},
		{`{"for":"2 dayz"}`, `unit "dayz" is unknown (did you mean "day"?)`},
		{`{"for":"1.5 days"}`, `1.5 days: use a whole number, or hours for a part of a day`},
		{`{"for":"99999 weeks"}`, `wait at most 10 years`},
		{`{"for":"99999999999999999999 days"}`, `wait at most 10 years`},
		{`{"for":"999999999 hours"}`, `wait at most 10 years`},
		{`{"until":"tomorrow"}`, `"tomorrow" is not a time: use an instant`},
		{`{"until":"25:00"}`, `"25:00" is not a time`},
		{`{"until":9}`, `until: use an instant`},
		{`{"for":"1h","window":"office"}`, `window: use {"weekdays"`},
		{`{"for":"1h","window":{"days":["mon"]}}`, `window: unknown member "days"`},
		{`{"for":"1h","window":{"weekdays":["mo"]}}`, `window.weekdays: "mo" is not a day: use mon, tue`},
		{`{"for":"1h","window":{"weekdays":["monster"]}}`, `"monster" is not a day`},
		{`{"for":"1h","window":{"weekdays":[]}}`, `window.weekdays: use an array of days`},
		{`{"for":"1h","window":{"hours":["09:00"]}}`, `window.hours: use two times`},
		{`{"for":"1h","window":{"hours":["9am","17:00"]}}`, `"9am" is not a time of day`},
		{`{"for":"1h","window":{"hours":["09:00","09:00"]}}`, `the window is empty`},
		{`{"for":"1h","window":{"time_zone":"Mars/Olympus"}}`, `"Mars/Olympus" is not a time zone`},
		{`{"for":"1h","window":{"time_zone":"Local"}}`, `"Local" is not a time zone`},
		{`{"for":"1h","window":{"holidays":["13.3.2028"]}}`, `"13.3.2028" is not a date: use the form 2028-03-13`},
	} {
		err := r.Validate("wait", json.RawMessage(tc.params))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.params, err, tc.want)
		}
	}
	for _, ok := range []string{
		`{"for":"{{ lead.days }} days"}`, `{"until":"{{ lead.renewal_at }}"}`,
		`{"for":"1h","window":{"time_zone":"{{ lead.zone }}","hours":["09:00","17:00"]}}`, `{"window":{"time_zone":"{{ lead.zone }}"}}`,
	} {
		if err := r.Validate("wait", json.RawMessage(ok)); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
}

// P04: the wait counts from the end of the action before, parks once, completes
// when resumed, and at once when its time has passed.
func TestWaitRuns(t *testing.T) {
	t.Parallel()
	done := instant(t, "2028-03-13T10:00:00.123456Z")
	a := &Action{ID: 1, Type: "wait", Params: json.RawMessage(`{"for":"2 days"}`), PerformAt: done, Now: done.Add(90 * time.Second), Location: time.UTC}
	first, err := waitHandler{}.Run(t.Context(), a)
	if err != nil || !first.Until.Equal(done.AddDate(0, 0, 2)) {
		t.Fatalf("%+v, %v", first, err)
	}
	resumed := *a
	resumed.Resumed, resumed.Parked = true, rawJSON(t, first.Output)
	second, err := waitHandler{}.Run(t.Context(), &resumed)
	if err != nil || !second.Until.IsZero() || string(second.Output.(json.RawMessage)) != `{"until":"2028-03-15T10:00:00.123456Z"}` {
		t.Fatalf("%+v, %v", second, err)
	}
	late := *a
	late.Now = done.AddDate(0, 0, 3)
	third, err := waitHandler{}.Run(t.Context(), &late)
	if err != nil || !third.Until.IsZero() {
		t.Fatalf("%+v, %v", third, err)
	}
}

func TestWindowProperties(t *testing.T) {
	t.Parallel()
	zones := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/New_York"), zone(t, "Pacific/Apia"), zone(t, "Australia/Lord_Howe"), zone(t, "Asia/Kolkata")}
	rapid.Check(t, func(rt *rapid.T) {
		loc := rapid.SampledFrom(zones).Draw(rt, "zone")
		w := window{loc: loc, holidays: map[civil]bool{}}
		for i := range w.weekdays {
			w.weekdays[i] = rapid.Bool().Draw(rt, "weekday")
		}
		w.weekdays[rapid.IntRange(0, 6).Draw(rt, "open")] = true
		w.from = time.Duration(rapid.IntRange(0, 47).Draw(rt, "from")) * 30 * time.Minute
		w.to = time.Duration(rapid.IntRange(0, 48).Draw(rt, "to")) * 30 * time.Minute
		if w.from == w.to {
			w.to += 30 * time.Minute
		}
		at := time.Unix(rapid.Int64Range(1_300_000_000, 1_900_000_000).Draw(rt, "at"), 0)
		for range rapid.IntRange(0, 5).Draw(rt, "holidays") {
			w.holidays[civilOf(at.AddDate(0, 0, rapid.IntRange(0, 14).Draw(rt, "holiday")))] = true
		}
		next, err := w.next(at)
		if err != nil {
			rt.Fatal(err)
		}
		if next.Before(at) {
			rt.Fatalf("%s is before %s", next, at)
		}
		if again, err := w.next(next); err != nil || !again.Equal(next) {
			rt.Fatalf("not stable: %s, then %s (%v)", next, again, err)
		}
		// Nothing between is open: from any instant between the answer is the same.
		if gap := int64(next.Sub(at) / time.Second); gap > 0 {
			between := at.Add(time.Duration(rapid.Int64Range(0, gap).Draw(rt, "between")) * time.Second)
			if other, err := w.next(between); err != nil || !other.Equal(next) {
				rt.Fatalf("from %s: %s (%v), from %s: %s", at, next, err, between, other)
			}
		}
	})
}

// localInstant agrees with the definition: no earlier instant shows that time,
// and if none does, the clocks jumped over it.
func TestLocalInstantProperties(t *testing.T) {
	t.Parallel()
	zones := []*time.Location{zone(t, "Europe/Berlin"), zone(t, "America/New_York"), zone(t, "Pacific/Apia"), zone(t, "Australia/Lord_Howe"), zone(t, "Africa/Monrovia")}
	rapid.Check(t, func(rt *rapid.T) {
		loc := rapid.SampledFrom(zones).Draw(rt, "zone")
		wall := time.Unix(rapid.Int64Range(0, 2_000_000_000).Draw(rt, "wall"), 0).UTC().Truncate(15 * time.Minute)
		got := localInstant(civilOf(wall), clockOf(wall), loc)
		shown := got.In(loc)
		same := civilOf(shown) == civilOf(wall) && clockOf(shown) == clockOf(wall)
		earlier := func(t time.Time) bool { // shows a time before wall
			_, offset := t.In(loc).Zone()
			return t.Add(time.Duration(offset) * time.Second).Before(wall)
		}
		if !same && (!earlier(got.Add(-time.Nanosecond)) || earlier(got)) {
			rt.Fatalf("%s in %s: %s is not the end of a gap", wall, loc, shown)
		}
		for _, before := range []time.Duration{30 * time.Minute, time.Hour, 2 * time.Hour, 24 * time.Hour} {
			e := got.Add(-before).In(loc)
			if civilOf(e) == civilOf(wall) && clockOf(e) == clockOf(wall) {
				rt.Fatalf("%s in %s: %s comes before %s", wall, loc, e, shown)
			}
		}
	})
}
