package server_test

// Digests that end at a time of day, in both of Novu's shapes; the arithmetic of times
// is in package notification's tests.

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"
)

// same wants a member of the answer to be that JSON.
func (a *answer) same(want string, path ...any) {
	a.t.Helper()
	var v any
	ok(a.t, json.Unmarshal([]byte(want), &v))
	if got := a.get(path...); !reflect.DeepEqual(got, v) {
		a.t.Errorf("%v is %v, wanted %s", path, got, want)
	}
}

func TestTimedDigest(t *testing.T) {
	t.Parallel()
	p := newPost(t, `INSERT INTO pgautomate.organizations (id, time_zone) VALUES ('a', 'America/New_York')`)
	p.call(201, "POST", "/v2/subscribers", p.a, `{"subscriberId":"here"}`)
	p.call(201, "POST", "/v2/subscribers", p.a, `{"subscriberId":"there","timezone":"Asia/Kolkata"}`)
	zones := map[string]*time.Location{}
	for who, name := range map[string]string{"here": "America/New_York", "there": "Asia/Kolkata"} {
		var err error
		zones[who], err = time.LoadLocation(name)
		ok(t, err)
	}
	until := func(name, who string) time.Time {
		t.Helper()
		before := time.Now()
		for range 2 {
			p.trigger("processed", fmt.Sprintf(`{"name":%q,"to":%q}`, name, who))
		}
		p.until("trigger:completed digest:delayed in_app:pending trigger:completed digest:merged in_app:merged", statuses+
			` WHERE subscriber_id = $2 AND notification_id IN (SELECT n.id FROM pgautomate.notifications n JOIN pgautomate.workflows w ON w.id = n.workflow_id WHERE w.identifier = $1)`, name, who)
		ends := value[time.Time](t, p.pool, `SELECT j.perform_at FROM pgautomate.notification_jobs j JOIN pgautomate.notifications n ON n.id = j.notification_id JOIN pgautomate.workflows w ON w.id = n.workflow_id
			WHERE w.identifier = $1 AND j.subscriber_id = $2 AND j.status = 'delayed'`, name, who)
		if !ends.After(before) {
			t.Errorf("%s of %s ends at %s, which is over", name, who, ends)
		}
		return ends.In(zones[who])
	}

	// v1: what is sent is what is answered, and where the subscriber is it is nine.
	for i, c := range []struct {
		metadata string
		want     func(time.Time) bool
	}{
		{`{"type":"timed","amount":1,"unit":"days","timed":{"atTime":"09:00:00"}}`, func(time.Time) bool { return true }},
		{`{"type":"timed","amount":2,"unit":"weeks","digestKey":"k","timed":{"atTime":"09:00","weekDays":["monday","thursday"]}}`, func(at time.Time) bool {
			return at.Weekday() == time.Monday || at.Weekday() == time.Thursday
		}},
		{`{"type":"timed","amount":1,"unit":"months","timed":{"atTime":"09:00","monthlyType":"each","monthDays":[1,15]}}`, func(at time.Time) bool { return at.Day() == 1 || at.Day() == 15 }},
		{`{"type":"timed","amount":1,"unit":"months","timed":{"atTime":"09:00","monthlyType":"on","ordinal":"last","ordinalValue":"friday"}}`, func(at time.Time) bool {
			return at.Weekday() == time.Friday && at.AddDate(0, 0, 7).Month() != at.Month()
		}},
	} {
		name := fmt.Sprintf("timed-%d", i)
		id := p.workflow(name, []string{digest(c.metadata), template("in_app", "{{step.total_count}}")})
		p.call(200, "GET", "/v1/notification-templates/"+id, p.a, "").same(c.metadata, "data", "steps", 0, "metadata")
		for who := range zones {
			if at := until(name, who); at.Hour() != 9 || at.Minute() != 0 || at.Second() != 0 || !c.want(at) {
				t.Errorf("%s: %s's ends at %s", c.metadata, who, at)
			}
		}
	}
	// By the name that jobs have for it, too.
	named := p.call(201, "POST", "/v1/notification-templates", p.a, `{"name":"named","notificationGroupId":"g","steps":[{"template":{"type":"digest","content":""},
		"digestMetadata":{"type":"timed","timed":{"atTime":"09:00"}}}]}`)
	named.same(`{"type":"timed","timed":{"atTime":"09:00"}}`, "data", "steps", 0, "metadata")
	feed := p.call(200, "GET", "/v1/notifications?templates=timed-3&subscriberIds=there", p.a, "")
	feed.same(`{"type":"timed","amount":1,"unit":"months","timed":{"atTime":"09:00","monthlyType":"on","ordinal":"last","ordinalValue":"friday"}}`, "data", "data", 1, "jobs", 1, "digest")

	// v2, and v1's in the words of v2.
	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"c","workflowId":"cron","active":true,"steps":[{"name":"D","type":"digest","controlValues":{"type":"timed","cron":"30 8 * * 1-5"}},
		{"name":"I","type":"in_app","controlValues":{"body":"{{step.total_count}}"}}]}`).same(`{"type":"timed","cron":"30 8 * * 1-5"}`, "data", "steps", 0, "controlValues")
	for who := range zones {
		if at := until("cron", who); at.Format("15:04:05") != "08:30:00" || at.Weekday() == time.Saturday || at.Weekday() == time.Sunday {
			t.Errorf("%s's ends at %s", who, at)
		}
	}
	for name, cron := range map[string]any{"timed-0": "0 9 * * *", "timed-1": nil, "timed-2": "0 9 1,15 * *", "timed-3": nil} {
		p.call(200, "GET", "/v2/workflows/"+name, p.a, "").want(cron, "data", "steps", 0, "controls", "values", "cron")
	}
	p.workflow("back", []string{digest(`{"type":"backoff","amount":"5","unit":"minutes","backoffAmount":1,"backoffUnit":"hours"}`)})
	back := p.call(200, "GET", "/v2/workflows/back", p.a, "")
	back.same(`{"amount":1,"unit":"hours"}`, "data", "steps", 0, "controls", "values", "lookBackWindow")
	back.want(float64(5), "data", "steps", 0, "controls", "values", "amount")
	back.want("regular", "data", "steps", 0, "controls", "values", "type")

	// It runs then: for the one whose clock shows that time in a moment, not for the other.
	soon := time.Now().Add(6 * time.Second).Truncate(time.Second)
	p.workflow("soon", []string{digest(`{"type":"timed","unit":"days","timed":{"atTime":"` + soon.In(zones["there"]).Format("15:04:05") + `"}}`), template("in_app", "{{step.total_count}} events")})
	if at := until("soon", "there"); !at.Equal(soon) {
		t.Errorf("ends at %s, not %s", at, soon)
	}
	if at := until("soon", "here"); at.Sub(soon) < time.Hour {
		t.Errorf("the other's ends at %s", at)
	}
	p.until("2 events", contents+` WHERE content LIKE '%events'`)
	if late := time.Since(soon); late < 0 {
		t.Errorf("%s too early", -late)
	}

	for _, metadata := range []string{
		`{"type":"timed"}`, `{"type":"timed","timed":{"ordinal":"1","ordinalValue":"moonday"}}`, `{"type":"timed","timed":{"atTime":"later"}}`, `{"type":"timed","timed":[]}`,
		`{"type":"timed","amount":5,"unit":"hours","timed":{"atTime":"09:00"}}`, `{"cron":"TZ=x"}`, `{"cron":"0 0 30 2 *"}`, `{"cron":["0 9 * * *"]}`,
	} {
		for _, c := range [][2]string{
			{"/v1/notification-templates", `{"name":"x","notificationGroupId":"g","steps":[` + digest(metadata) + `]}`},
			{"/v2/workflows", `{"name":"x","workflowId":"x","steps":[{"name":"D","type":"digest","controlValues":` + metadata + `}]}`},
		} {
			p.call(400, "POST", c[0], p.a, c[1])
		}
	}
}
