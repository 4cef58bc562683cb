package notification

// The arithmetic of times, and the readers of what callers send: pure.

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, text, zone string) (time.Time, *time.Location) {
	t.Helper()
	in, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	v, err := time.ParseInLocation("2006-01-02 15:04", text, in)
	if err != nil {
		t.Fatal(err)
	}
	return v, in
}

func TestSpans(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, zone string
		span       span
		want       string
	}{
		{"2028-03-13 10:00", "UTC", span{90, "seconds"}, "2028-03-13 10:01"},
		{"2028-03-13 10:00", "UTC", span{0.5, "hours"}, "2028-03-13 10:30"},
		{"2028-03-25 10:00", "Europe/Berlin", span{1, "days"}, "2028-03-26 10:00"}, // 23 hours
		{"2028-03-25 10:00", "Europe/Berlin", span{24, "hours"}, "2028-03-26 11:00"},
		{"2028-10-28 10:00", "Europe/Berlin", span{1, "weeks"}, "2028-11-04 10:00"},
		{"2028-01-31 10:00", "UTC", span{1, "months"}, "2028-02-29 10:00"},
		{"2027-12-31 10:00", "UTC", span{2, "months"}, "2028-02-29 10:00"},
		{"2028-03-13 10:00", "UTC", span{1.5, "days"}, "2028-03-14 22:00"},
		{"2028-03-25 10:00", "Europe/Berlin", span{0.5, "days"}, "2028-03-25 22:00"},
	} {
		from, in := at(t, c.from, c.zone)
		got := c.span.after(from, in)
		if s := got.In(in).Format("2006-01-02 15:04"); s != c.want {
			t.Errorf("%v after %s in %s is %s, want %s", c.span, c.from, c.zone, s, c.want)
		}
		if c.span.Unit != "months" && !c.span.before(got, in).Equal(from) {
			t.Errorf("%v before %s is %s, not %s", c.span, got, c.span.before(got, in), c.from)
		}
	}
}

// A day or month later, the clock shows the same; where a change skips that, it is the first instant after the gap.
func TestSpansIntoGaps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from string
		span span
	}{{"2028-03-25 02:30", span{1, "days"}}, {"2028-03-19 02:30", span{1, "weeks"}}, {"2028-02-26 02:30", span{1, "months"}}} {
		from, in := at(t, c.from, "Europe/Berlin")
		if got := c.span.after(from, in).In(in).Format("2006-01-02 15:04"); got != "2028-03-26 03:00" {
			t.Errorf("%v after %s is %s", c.span, c.from, got)
		}
	}
}

func TestRecurringTimes(t *testing.T) {
	t.Parallel()
	timed := func(members, timed string) string { return `{"type":"timed"` + members + `,"timed":{` + timed + `}}` }
	days, weeks, months := `,"amount":1,"unit":"days"`, `,"amount":1,"unit":"weeks"`, `,"amount":1,"unit":"months"`
	for _, c := range []struct{ settings, zone, from, want string }{
		{`{"cron":"0 9 * * 1-5"}`, "UTC", "2028-03-10 09:00", "2028-03-13 09:00"}, // a Friday
		{`{"cron":"0 9 * * 6-7"}`, "UTC", "2028-03-10 09:00", "2028-03-11 09:00"},
		{`{"cron":"0 9 * * 7"}`, "UTC", "2028-03-10 09:00", "2028-03-12 09:00"},
		{`{"cron":"30 0 9 * * *"}`, "UTC", "2028-03-10 09:00", "2028-03-10 09:00"}, // half a minute later
		{`{"cron":"@daily"}`, "UTC", "2028-03-10 09:00", "2028-03-11 00:00"},
		{`{"cron":"@every 90m"}`, "UTC", "2028-03-10 09:00", "2028-03-10 10:30"},
		{`{"cron":"0 9 * * *"}`, "America/New_York", "2028-03-13 09:00", "2028-03-14 09:00"},
		{timed("", `"cronExpression":"0 9 * * *"`), "UTC", "2028-03-13 10:00", "2028-03-14 09:00"},
		{timed("", `"atTime":"09:30"`), "UTC", "2028-03-13 10:00", "2028-03-14 09:30"},
		{timed("", `"atTime":"9:30"`), "UTC", "2028-03-13 09:00", "2028-03-13 09:30"},
		{timed(`,"amount":1,"unit":"hours"`, `"atTime":"09:30:00"`), "UTC", "2028-03-13 10:00", "2028-03-14 09:30"},
		{timed("", `"atTime":"09:30","weekDays":["monday","Friday"]`), "UTC", "2028-03-13 10:00", "2028-03-17 09:30"},
		{timed(days, `"atTime":"09:30","weekDays":["monday","friday"]`), "UTC", "2028-03-13 10:00", "2028-03-17 09:30"},
		{timed("", `"atTime":"00:00","monthDays":[1,15]`), "UTC", "2028-03-13 10:00", "2028-03-15 00:00"},
		{timed("", `"atTime":"00:00","monthDays":["1","15"],"monthlyType":"each"`), "UTC", "2028-03-13 10:00", "2028-03-15 00:00"},
		{timed("", `"atTime":"08:00","ordinal":"2","ordinalValue":"tuesday"`), "UTC", "2028-03-14 09:00", "2028-04-11 08:00"},
		{timed("", `"atTime":"08:00","ordinal":"last","ordinalValue":"weekday"`), "UTC", "2028-03-13 10:00", "2028-03-31 08:00"},
		{timed("", `"atTime":"08:00","ordinal":1,"ordinalValue":"weekend"`), "UTC", "2028-03-13 10:00", "2028-04-01 08:00"},
		{timed("", `"atTime":"08:00","ordinal":"last"`), "UTC", "2028-02-13 10:00", "2028-02-29 08:00"},
		{timed(months, `"atTime":"08:00","ordinal":"5","ordinalValue":"friday"`), "UTC", "2028-01-13 10:00", "2028-03-31 08:00"},
		{`{"type":"timed","amount":2,"unit":"hours"}`, "UTC", "2028-03-13 10:00", "2028-03-13 12:00"},
		{`{"type":"timed","amount":"7","unit":"minutes","timed":{}}`, "UTC", "2028-03-13 10:00", "2028-03-13 10:07"},

		// Several days, weeks and months at a time count from where it begins; what is left of that period comes first.
		{timed(`,"amount":4,"unit":"days"`, `"atTime":"01:00"`), "UTC", "2023-05-04 12:00", "2023-05-08 01:00"},
		{timed(`,"amount":2,"unit":"weeks"`, `"atTime":"09:00:00"`), "UTC", "2023-05-04 00:00", "2023-05-04 09:00"},
		{timed(`,"amount":2,"unit":"weeks"`, `"atTime":"09:00:00"`), "UTC", "2023-05-04 10:00", "2023-05-18 09:00"},
		{timed(`,"amount":2,"unit":"weeks"`, `"atTime":"09:00","weekDays":["monday","wednesday"]`), "UTC", "2023-05-02 00:00", "2023-05-03 09:00"},
		{timed(`,"amount":2,"unit":"weeks"`, `"atTime":"09:00","weekDays":["monday","wednesday"]`), "UTC", "2023-05-03 09:00", "2023-05-15 09:00"},
		{timed(weeks, `"atTime":"09:00","weekDays":["sunday"]`), "UTC", "2023-05-03 09:00", "2023-05-07 09:00"},
		{timed(`,"amount":3,"unit":"months"`, `"atTime":"12:00"`), "UTC", "2023-05-03 13:00", "2023-08-03 12:00"},
		{timed(`,"amount":3,"unit":"months"`, `"atTime":"12:00","monthDays":[1,15]`), "UTC", "2023-05-16 00:00", "2023-08-01 12:00"},
		{timed(months, `"atTime":"12:00"`), "UTC", "2028-01-31 13:00", "2028-02-29 12:00"},
		{timed(months, `"monthDays":[31]`), "UTC", "2028-02-03 07:45", "2028-03-31 07:45"},
		{timed(`,"amount":2,"unit":"months"`, `"atTime":"12:00","ordinal":"2","ordinalValue":"sunday","monthlyType":"on","monthDays":[3]`), "UTC", "2023-06-12 00:00", "2023-08-13 12:00"},

		// Clock changes: what is skipped comes after the gap, what comes twice the first time, a day has 23 or 25 hours.
		{`{"cron":"30 2 * * *"}`, "Europe/Berlin", "2028-03-25 12:00", "2028-03-26 03:00"},
		{`{"cron":"30 2 * * *"}`, "Europe/Berlin", "2028-03-26 03:00", "2028-03-27 02:30"},
		{timed("", `"atTime":"02:30"`), "Europe/Berlin", "2028-03-25 12:00", "2028-03-26 03:00"},
		{timed("", `"atTime":"09:00"`), "Europe/Berlin", "2028-03-25 12:00", "2028-03-26 09:00"},
		{`{"cron":"0 */2 * * *"}`, "Europe/Berlin", "2028-03-26 01:00", "2028-03-26 03:00"},
		{`{"cron":"*/20 * * * *"}`, "Europe/Berlin", "2028-03-26 01:50", "2028-03-26 03:00"},
		{`{"cron":"@midnight"}`, "Asia/Beirut", "2027-03-27 12:00", "2027-03-28 01:00"}, // from midnight on it is one
		{timed(weeks, `"atTime":"00:00","weekDays":["sunday"]`), "Asia/Beirut", "2027-03-27 12:00", "2027-03-28 01:00"},
	} {
		from, in := at(t, c.from, c.zone)
		if err := CheckSettings("digest", json.RawMessage(c.settings)); err != nil {
			t.Errorf("%s: %v", c.settings, err)
			continue
		}
		got, err := parseSettings("digest", json.RawMessage(c.settings)).next(from, in)
		if err != nil || got.In(in).Format("2006-01-02 15:04") != c.want {
			t.Errorf("%s after %s: %s, %v, want %s", c.settings, c.from, got, err, c.want)
		}
	}
	// The hour that comes twice: the first half past two counts, once.
	in, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	first := time.Date(2028, 10, 29, 0, 30, 0, 0, time.UTC)
	for _, settings := range []string{`{"cron":"30 2 * * *"}`, timed("", `"atTime":"02:30"`)} {
		s := parseSettings("digest", json.RawMessage(settings))
		for _, c := range []struct{ from, want time.Time }{
			{first.Add(-time.Hour), first}, {first, first.Add(25 * time.Hour)}, {first.Add(20 * time.Minute), first.Add(25 * time.Hour)}, {first.Add(time.Hour), first.Add(25 * time.Hour)},
		} {
			if got, err := s.next(c.from, in); err != nil || !got.Equal(c.want) {
				t.Errorf("%s after %s: %s, %v, want %s", settings, c.from, got, err, c.want)
			}
		}
	}
	every := parseSettings("digest", json.RawMessage(`{"cron":"*/20 * * * *"}`))
	if got, err := every.next(first.Add(15*time.Minute), in); err != nil || !got.Equal(first.Add(30*time.Minute)) {
		t.Errorf("each 20 minutes in the hour that comes twice: %s, %v", got, err)
	}
}

func TestSettingsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, settings, want string }{
		{"digest", `[]`, "must be an object"},
		{"digest", `{"type":"scheduled","amount":1,"unit":"hours"}`, `type "scheduled" is not known`},
		{"digest", `{"amount":0,"unit":"hours"}`, "amount is missing"},
		{"digest", `{"amount":1,"unit":"fortnights"}`, `unit "fortnights" is not known`},
		{"digest", `{"amount":1e300,"unit":"months"}`, "use at most 100 years"},
		{"digest", `{"type":"backoff","amount":1,"unit":"hours","backoffAmount":1,"backoffUnit":"x"}`, `unit "x" is not known`},
		{"digest", `{"cron":"* *"}`, "use five fields"},
		{"digest", `{"cron":"0 0 30 2 *"}`, "never comes"},
		{"digest", `{"type":"timed"}`, "say when"},
		{"digest", `{"cron":"TZ=x"}`, "names a time zone"},
		{"digest", `{"cron":5}`, "cron is of another kind"},
		{"digest", `{"amount":"some","unit":"hours"}`, "is no number"},
		{"digest", `{"type":"timed","amount":1,"unit":"fortnights"}`, `unit "fortnights" is not known`},
		{"digest", `{"type":"timed","timed":{"ordinal":"7"}}`, "use 1 to 5 or last"},
		{"digest", `{"type":"timed","timed":{"ordinal":"1","ordinalValue":"moonday"}}`, "ordinalValue"},
		{"digest", `{"type":"timed","timed":{"atTime":"25:00"}}`, "use 09:00"},
		{"digest", `{"type":"timed","timed":{"atTime":9}}`, "atTime is of another kind"},
		{"digest", `{"type":"timed","timed":{"weekDays":["moonday"]}}`, "use monday to sunday"},
		{"digest", `{"type":"timed","timed":{"monthDays":[0]}}`, "use 1 to 31"},
		{"digest", `{"type":"timed","timed":{"monthDays":["x"]}}`, "is no number"},
		{"digest", `{"type":"timed","timed":{"monthDays":[1],"monthlyType":"on"}}`, "ordinal is missing"},
		{"digest", `{"type":"timed","timed":{"monthDays":[1],"monthlyType":"off"}}`, "use each"},
		{"digest", `{"type":"timed","timed":{"monthDays":[1],"weekDays":["monday"]}}`, "one of them"},
		{"digest", `{"type":"timed","amount":5,"unit":"hours","timed":{"atTime":"09:00"}}`, "use days, weeks or months"},
		{"digest", `{"type":"timed","amount":1.5,"unit":"days","timed":{"atTime":"09:00"}}`, "use a whole number"},
		{"digest", `{"type":"timed","amount":1e300,"unit":"days","timed":{"atTime":"09:00"}}`, "use at most 100 years"},
		{"digest", `{"type":"timed","amount":1,"unit":"weeks","timed":{"monthDays":[1]}}`, "use unit months"},
		{"digest", `{"type":"timed","amount":2,"unit":"days","timed":{"weekDays":["monday"]}}`, "use unit weeks"},
		{"digest", `{"type":"timed","amount":12,"unit":"months","timed":{"monthDays":[30]}}`, "a day that each month has"},
		{"digest", `{"type":"timed","amount":12,"unit":"months","timed":{"ordinal":"5","ordinalValue":"friday"}}`, "a day that each month has"},
		{"delay", `{"type":"scheduled"}`, "delayPath"},
		{"delay", `{"type":"backoff","amount":1,"unit":"hours"}`, "is not known"},
		{"throttle", `{"type":"fixed","amount":1,"unit":"hours","threshold":-1}`, "threshold"},
	} {
		if err := CheckSettings(c.kind, json.RawMessage(c.settings)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %s: %v, want %q", c.kind, c.settings, err, c.want)
		}
	}
	// Both of Novu's forms of a look-back digest.
	for _, settings := range []string{`{"type":"backoff","amount":"5","unit":"minutes","backoffAmount":1,"backoffUnit":"hours"}`, `{"type":"regular","amount":5,"unit":"minutes","lookBackWindow":{"amount":1,"unit":"hours"}}`} {
		s := parseSettings("digest", json.RawMessage(settings))
		if s.Type != "backoff" || s.LookBack != (span{1, "hours"}) || s.Wait != (span{5, "minutes"}) {
			t.Errorf("%s: %+v", settings, s)
		}
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ provider, address, want string }{
		{"slack", "https://hooks.slack.com/services/T1/B2/c3", "slack://hook:T1-B2-c3@webhook"},
		{"discord", "https://discord.com/api/webhooks/12/tok", "discord://tok@12"},
		{"chat-webhook", "https://example.com/in?a=1", "generic+https://example.com/in?a=1&template=json"},
		{"telegram", "telegram://token@telegram?chats=1", "telegram://token@telegram?chats=1"},
		{"slack", "", ""}, {"slack", "not an address", ""},
	} {
		if got := addressOf(c.provider, c.address); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.provider, c.address, got, c.want)
		}
	}
}

func TestRecipients(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		to              string
		singles, topics int
		refused         string
	}{
		{`"S1"`, 1, 0, ""}, {`{"subscriberId":"S1"}`, 1, 0, ""}, {`["S1","S1",{"subscriberId":"S1","email":"e@example.com"}]`, 1, 0, ""},
		{`{"type":"Topic","topicKey":"t"}`, 0, 1, ""}, {`["S1",{"type":"Topic","topicKey":"t","exclude":["S2"]}]`, 1, 1, ""},
		{`[{"subscriberId":""},"S1"]`, 1, 0, ""}, {`""`, 0, 0, ""}, {``, 0, 0, "to"}, {`null`, 0, 0, "to"},
		{`[` + strings.TrimSuffix(strings.Repeat(`"a",`, 101), ",") + `]`, 0, 0, "100"},
	} {
		got, err := readRecipients(json.RawMessage(c.to))
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%.40s: %v, want %q", c.to, err, c.refused)
			}
			continue
		}
		if err != nil || len(got.Singles) != c.singles || len(got.Topics) != c.topics {
			t.Errorf("%s: %+v, %v", c.to, got, err)
		}
	}
}
