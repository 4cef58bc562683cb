package server_test

// Notifications: how a step is decided, worded and sent beyond Novu's own cases.
// Tenants, variants, preferences, integrations, throttle and custom steps, schemas.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Case 12 and beyond: a tenant's name in templates, its workflow override before all.
func TestTenants(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	wf := p.workflow("w", []string{template("in_app", "{{tenant.name}}/{{tenant.data.plan}}"), template("email", "x")})
	p.subscriber("S1")
	p.trigger("no_tenant_found", `{"name":"w","to":"S1","tenant":"acme"}`)
	id := p.trigger("processed", `{"name":"w","to":"S1","tenant":{"identifier":"acme","name":"Acme","data":{"plan":"gold"}}}`)
	p.until("trigger:completed in_app:completed email:completed", ofEvent, id)
	if got := p.text(contents+` WHERE transaction_id = $1 AND channel = 'in_app'`, id); got != "Acme/gold" {
		t.Error(got)
	}
	if a := p.call(200, "GET", "/v1/tenants/acme", p.a, ""); a.get("data", "name") != "Acme" {
		t.Error(a.raw)
	}
	p.call(201, "POST", "/v1/tenants", p.a, `{"identifier":"other","name":"Other"}`)
	p.call(409, "POST", "/v1/tenants", p.a, `{"identifier":"other","name":"Other"}`)
	if a := p.call(201, "POST", "/v1/workflow-overrides", p.a, `{"workflowId":"w","tenantId":"acme","active":false}`); a.get("data", "active") != false {
		t.Error(a.raw)
	}
	p.trigger("trigger_not_active", `{"name":"w","to":"S1","tenant":"acme"}`)
	p.trigger("processed", `{"name":"w","to":"S1","tenant":"other"}`)
	// The other way round, too; and what it says of channels goes before all preferences.
	p.call(200, "PUT", "/v1/notification-templates/"+wf+"/status", p.a, `{"active":false}`)
	p.trigger("trigger_not_active", `{"name":"w","to":"S1","tenant":"other"}`)
	p.call(201, "POST", "/v1/workflow-overrides", p.a, `{"workflowId":"w","tenantId":"acme","active":true,"preferenceSettings":{"email":false,"in_app":true}}`)
	p.call(200, "PATCH", "/v2/subscribers/S1/preferences", p.a, `{"workflowId":"w","channels":{"in_app":false}}`)
	id = p.trigger("processed", `{"name":"w","to":"S1","tenant":"acme"}`)
	p.until("trigger:completed in_app:completed email:canceled", ofEvent, id)
}

// The subscriber's word for all workflows; the workflow's defaults; critical ones and
// those where nobody is asked.
func TestPreferences(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	wf := p.workflow("w", []string{template("email", "x"), template("in_app", "y")})
	p.workflow("off by default", []string{template("email", "x"), template("in_app", "y")}, `"active":true`, `"preferenceSettings":{"email":false}`)
	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"fixed","workflowId":"fixed","active":true,"preferences":{"user":{"all":{"enabled":true,"readOnly":true},"channels":{"email":{"enabled":true}}}},
		"steps":[{"name":"E","type":"email","controlValues":{"subject":"s","body":"b"}}]}`)
	run := func(name, want string) {
		t.Helper()
		p.until(want, ofEvent, p.trigger("processed", `{"name":"`+name+`","to":"S1"}`))
	}
	run("w", "trigger:completed email:completed in_app:completed")
	run("off-by-default", "trigger:completed email:canceled in_app:completed")
	// Asked for, whatever the default is.
	p.call(200, "PATCH", "/v2/subscribers/S1/preferences", p.a, `{"workflowId":"off-by-default","channels":{"email":true}}`)
	run("off-by-default", "trigger:completed email:completed in_app:completed")
	// A channel off for all workflows; then everything.
	p.call(200, "PATCH", "/v2/subscribers/S1/preferences", p.a, `{"channels":{"email":false}}`)
	run("w", "trigger:completed email:canceled in_app:completed")
	run("off-by-default", "trigger:completed email:canceled in_app:completed")
	run("fixed", "trigger:completed email:completed")
	a := p.call(200, "GET", "/v2/subscribers/S1/preferences", p.a, "")
	if a.get("data", "global", "channels", "email") != false {
		t.Error(a.raw)
	}
	p.call(200, "PATCH", "/v1/subscribers/S1/preferences", p.a, `{"enabled":false}`)
	run("w", "trigger:completed email:canceled in_app:canceled")
	if got := p.text(`SELECT string_agg(DISTINCT d.detail, '|') FROM pgautomate.job_details d JOIN pgautomate.notification_jobs j ON j.id = d.job_id
		WHERE j.status = 'canceled' AND j.action_type = 'in_app'`); got != "Step filtered by subscriber global preferences" {
		t.Error(got)
	}
	p.call(200, "PUT", "/v1/notification-templates/"+wf, p.a, `{"critical":true}`)
	run("w", "trigger:completed email:completed in_app:completed")
}

// Variants: the first active one whose filters pass, else the step's own content.
func TestVariants(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	when := func(plan string) string {
		return `"filters":[{"value":"AND","children":[{"on":"payload","field":"plan","operator":"EQUAL","value":"` + plan + `"}]}]`
	}
	p.workflow("w", []string{template("in_app", "plain", `"variants":[
		{"active":false,"template":{"type":"in_app","content":"never"},`+when("gold")+`},
		{"template":{"type":"in_app","content":"gold for {{subscriber.firstName}}"},`+when("gold")+`},
		{"template":{"type":"in_app","content":"gold, too"},`+when("gold")+`}]`)})
	for plan, want := range map[string]string{"gold": "gold for Ann", "tin": "plain"} {
		id := p.trigger("processed", `{"name":"w","to":{"subscriberId":"S1","firstName":"Ann"},"payload":{"plan":"`+plan+`"}}`)
		p.until(want, contents+` WHERE transaction_id = $1`, id)
	}
}

// Overrides of the trigger: who gets the mail besides, from whom, by which integration;
// integrations by condition, primary, and the next where one fails.
func TestIntegrations(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	p.workflow("mail", []string{template("email", "<p>hello</p>")})
	p.workflow("text", []string{template("sms", "hello")})
	p.workflow("chats", []string{template("chat", "hello {{n}}")})
	id := p.trigger("processed", `{"name":"mail","to":"S1","overrides":{"email":{"to":["more@example.com"],"cc":["cc@example.com"],"bcc":"bcc@example.com","from":"boss@example.com",
		"senderName":"The Boss","replyTo":"desk@example.com","subject":"Other","headers":{"X-Campaign":"7"}}}}`)
	p.until("trigger:completed email:completed", ofEvent, id)
	m := p.box.Messages()[0]
	if got := fmt.Sprint(m.To); got != "[S1@example.com more@example.com cc@example.com bcc@example.com]" {
		t.Error(got)
	}
	for _, want := range []string{`From: "The Boss" <boss@example.com>`, "Cc: <cc@example.com>", "Reply-To: <desk@example.com>", "Subject: Other", "X-Campaign: 7"} {
		if !strings.Contains(string(m.Raw), want) {
			t.Errorf("no %q in\n%s", want, m.Raw)
		}
	}

	// The provider of the primary integration fails for good: the next one sends, at once.
	second := newProvider(t)
	integrate := func(body string) string {
		a := p.call(201, "POST", "/v1/integrations", p.a, body)
		return fmt.Sprint(a.get("data", "_id"))
	}
	integrate(`{"providerId":"generic-sms","channel":"sms","identifier":"second","active":true,"credentials":{"baseUrl":"` + second.URL + `"}}`)
	p.sms.setFail(500)
	id = p.trigger("processed", `{"name":"text","to":"S1"}`)
	p.until("trigger:completed sms:completed", ofEvent, id)
	if len(second.got()) != 1 {
		t.Errorf("the second provider got %v", second.got())
	}
	if got := p.text(`SELECT result ->> 'integration' || ' ' || attempt FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type = 'sms'`, id); got != "second 1" {
		t.Error(got)
	}
	a := p.call(200, "GET", "/v1/notifications?transactionId="+id, p.a, "")
	if !strings.Contains(a.raw, `sms: sms to `) || !strings.Contains(a.raw, "answered 500") {
		t.Errorf("nothing tells of the first: %s", a.raw)
	}
	// A condition on the tenant goes first where it holds; a named one is the only one.
	special := newProvider(t)
	vip := integrate(`{"providerId":"generic-sms","channel":"sms","identifier":"vip","active":true,"credentials":{"baseUrl":"` + special.URL + `"},
		"conditions":[{"value":"AND","children":[{"on":"tenant","field":"identifier","operator":"EQUAL","value":"acme"}]}]}`)
	p.call(400, "POST", "/v1/integrations", p.a, `{"providerId":"generic-sms","channel":"sms","conditions":[{"children":[{"on":"moon"}]}]}`)
	p.sms.setFail(0)
	p.call(201, "POST", "/v1/tenants", p.a, `{"identifier":"acme","name":"Acme"}`)
	for _, c := range []struct{ more, by string }{
		{``, "sms"}, {`,"tenant":"acme"`, "vip"}, {`,"overrides":{"sms":{"integrationIdentifier":"second"}}`, "second"},
	} {
		id = p.trigger("processed", `{"name":"text","to":"S1"`+c.more+`}`)
		p.until("trigger:completed sms:completed", ofEvent, id)
		if got := p.text(`SELECT result ->> 'integration' FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type = 'sms'`, id); got != c.by {
			t.Errorf("%s: by %s, want %s", c.more, got, c.by)
		}
	}
	p.call(200, "DELETE", "/v1/integrations/"+vip, p.a, "")
	// A provider that is down for a moment gets another attempt.
	p.exec(`DELETE FROM pgautomate.integrations WHERE identifier = 'second'`)
	p.sms.setFail(503)
	id = p.trigger("processed", `{"name":"text","to":"S1"}`)
	p.until("pending", `SELECT status::text FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type = 'sms' AND error IS NOT NULL UNION ALL SELECT 'not yet' LIMIT 1`, id)
	p.sms.setFail(0)
	p.until("trigger:completed sms:completed", ofEvent, id)

	// An organization's own mail server.
	host, port, err := net.SplitHostPort(p.box.Addr())
	ok(t, err)
	integrate(`{"providerId":"nodemailer","channel":"email","identifier":"own","active":true,"credentials":{"host":"` + host + `","port":"` + port + `","from":"own@example.com"}}`)
	id = p.trigger("processed", `{"name":"mail","to":"S1"}`)
	p.until("trigger:completed email:completed", ofEvent, id)
	if got := p.box.Messages()[p.box.Count()-1].From; got != "own@example.com" {
		t.Errorf("from %s", got)
	}

	// Chat goes to all of the subscriber's own addresses.
	var mu sync.Mutex
	var heard []string
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, r.URL.Path+" "+string(body))
	}))
	t.Cleanup(hook.Close)
	p.exec(`UPDATE pgautomate.subscribers SET channels = jsonb_build_array(
		jsonb_build_object('providerId', 'chat-webhook', 'credentials', jsonb_build_object('webhookUrl', $1::text || '/one')),
		jsonb_build_object('providerId', 'fcm', 'credentials', jsonb_build_object('webhookUrl', $1::text || '/push')),
		jsonb_build_object('providerId', 'mattermost', 'credentials', jsonb_build_object('webhookUrl', $1::text || '/two'))) WHERE subscriber_id = 'S1'`, hook.URL)
	id = p.trigger("processed", `{"name":"chats","to":"S1","payload":{"n":1}}`)
	p.until("trigger:completed chat:completed", ofEvent, id)
	slices.Sort(heard)
	if len(heard) != 2 || !strings.HasPrefix(heard[0], "/one ") || !strings.HasPrefix(heard[1], "/two ") || !strings.Contains(heard[0], "hello 1") {
		t.Errorf("heard %q", heard)
	}
}

// A webhook's answer and a custom step's values are there for the steps after them.
func TestWebhookAndCustomSteps(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	type request struct{ method, key, header, body string }
	got := make(chan request, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- request{r.Method, r.Header.Get("Idempotency-Key"), r.Header.Get("X-Own"), string(body)}
		_, _ = w.Write([]byte(`{"ok":1}`))
	}))
	t.Cleanup(hook.Close)
	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"w","workflowId":"w","active":true,"steps":[
		{"name":"H","type":"http_request","controlValues":{"method":"PUT","url":"`+hook.URL+`/{{payload.n}}","headers":{"X-Own":"{{subscriber.subscriberId}}"},"body":"n is {{payload.n}}"}},
		{"name":"C","type":"custom","controlValues":{"price":"{{payload.n}} EUR","nested":{"who":"{{subscriber.subscriberId}}"}}},
		{"name":"I","type":"in_app","controlValues":{"body":"{{steps.c.price}} for {{steps.c.nested.who}}, {{steps.h.status}}"}}]}`)
	id := p.trigger("processed", `{"name":"w","to":"S1","payload":{"n":7}}`)
	p.until("trigger:completed webhook:completed custom:completed in_app:completed", ofEvent, id)
	r := <-got
	if r.method != "PUT" || r.header != "S1" || r.body != "n is 7" || !strings.HasPrefix(r.key, "pgautomate-action-") {
		t.Errorf("%+v", r)
	}
	if got := p.text(contents+` WHERE transaction_id = $1 AND channel = 'in_app'`, id); got != "7 EUR for S1, 200" {
		t.Error(got)
	}
	a := p.call(200, "GET", "/v1/notifications?transactionId="+id, p.a, "")
	if a.get("data", "data", 0, "jobs", 1, "type") != "http_request" || a.get("data", "data", 0, "jobs", 2, "type") != "custom" {
		t.Error(a.raw)
	}
	a = p.call(201, "POST", "/v2/workflows/w/step/i/preview", p.a, `{"controlValues":{"body":"{{payload.n}} {{subscriber.firstName}}"},"previewPayload":{"payload":{"n":1},"subscriber":{"firstName":"Ann"}}}`)
	if a.get("data", "result", "preview", "body") != "1 Ann" || a.get("data", "result", "type") != "in_app" {
		t.Error(a.raw)
	}
	p.call(400, "POST", "/v2/workflows/w/step/i/preview", p.a, `{"controlValues":{"body":"{{ broken"}}`)
	p.call(404, "POST", "/v2/workflows/w/step/nope/preview", p.a, `{}`)
	p.call(200, "PUT", "/v2/workflows/w/sync", p.a, `{"targetEnvironmentId":"a"}`)
	p.call(400, "PUT", "/v2/workflows/w/sync", p.a, `{"targetEnvironmentId":"production"}`)
}

// A throttle step lets so many through, by key, also of those that come at once.
func TestThrottleStep(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"w","workflowId":"w","active":true,"steps":[
		{"name":"T","type":"throttle","controlValues":{"type":"fixed","amount":3,"unit":"seconds","threshold":2,"throttleKey":"payload.kind"}},
		{"name":"I","type":"in_app","controlValues":{"body":"x"}}]}`)
	p.call(400, "POST", "/v2/workflows", p.a, `{"name":"bad","steps":[{"name":"T","type":"throttle","controlValues":{"type":"fixed","amount":0,"unit":"seconds"}}]}`)
	sums := `SELECT coalesce(string_agg(status || '=' || n, ' ' ORDER BY status), '') FROM (
		SELECT status::text || coalesce('/' || reason, '') AS status, count(*) AS n FROM pgautomate.notification_jobs WHERE subscriber_id = $1 AND action_type <> 'trigger' GROUP BY 1) x`
	for r := range 10 {
		who := fmt.Sprint("S", r)
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() { p.trigger("processed", `{"name":"w","to":"`+who+`","payload":{"kind":"a"}}`) })
		}
		group.Go(func() { p.trigger("processed", `{"name":"w","to":"`+who+`","payload":{"kind":"b"}}`) })
		group.Wait()
		p.until("canceled/throttled=3 completed=6 skipped/throttled=3", sums, who)
	}
	time.Sleep(3 * time.Second)
	id := p.trigger("processed", `{"name":"w","to":"S0","payload":{"kind":"a"}}`)
	p.until("trigger:completed throttle:completed in_app:completed", ofEvent, id)
}

// The payload's schema.
func TestPayloadSchema(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	const schema = `"payloadSchema":{"type":"object","required":["n"],"properties":{"n":{"type":"integer","minimum":1}}}`
	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"w","workflowId":"w","active":true,"validatePayload":true,`+schema+`,"steps":[{"name":"I","type":"in_app","controlValues":{"body":"x"}}]}`)
	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"lax","workflowId":"lax","active":true,`+schema+`,"steps":[{"name":"I","type":"in_app","controlValues":{"body":"x"}}]}`)
	p.trigger("processed", `{"name":"w","to":"S1","payload":{"n":1}}`)
	p.trigger("processed", `{"name":"lax","to":"S1","payload":{"n":0}}`)
	for _, payload := range []string{`{}`, `{"n":"1"}`, `{"n":0}`} {
		a := p.call(400, "POST", "/v1/events/trigger", p.a, `{"name":"w","to":"S1","payload":`+payload+`}`)
		if list, _ := a.get("errors").([]any); len(list) == 0 || a.get("type") == nil {
			t.Errorf("%s: %s", payload, a.raw)
		}
	}
	p.call(400, "POST", "/v2/workflows", p.a, `{"name":"bad","payloadSchema":{"type":"no such"},"steps":[]}`)
	if n := p.notified(); n != 2 {
		t.Errorf("%d notifications", n)
	}
}

// A digest to a recurring time; two digests in one workflow.
func TestDigestTimedAndMany(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("timed", []string{digest(`{"type":"timed","timed":{"atTime":"09:30","weekDays":["monday"]}}`), template("in_app", "x")})
	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"cron","workflowId":"cron","active":true,"steps":[
		{"name":"D","type":"digest","controlValues":{"cron":"0 9 * * 1"}},{"name":"I","type":"in_app","controlValues":{"body":"x"}}]}`)
	for name, clock := range map[string]string{"timed": "1 09:30", "cron": "1 09:00"} {
		one := p.trigger("processed", `{"name":"`+name+`","to":{"subscriberId":"S-`+name+`","timezone":"Asia/Tokyo"}}`)
		p.until("trigger:completed digest:delayed in_app:pending", ofEvent, one)
		two := p.trigger("processed", `{"name":"`+name+`","to":"S-`+name+`"}`)
		p.until("trigger:completed digest:merged in_app:merged", ofEvent, two)
		if got := p.text(`SELECT to_char(perform_at AT TIME ZONE 'Asia/Tokyo', 'ID HH24:MI') FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type = 'digest'`, one); got != clock {
			t.Errorf("%s: the window ends at %s, want %s", name, got, clock)
		}
		// The window is over.
		p.exec(`WITH j AS (UPDATE pgautomate.notification_jobs SET perform_at = now() WHERE transaction_id = $1 AND status = 'delayed' RETURNING organization_id, action_type, perform_at)
			INSERT INTO pgautomate.due_signals (organization_id, action_type, perform_at) SELECT organization_id, action_type, perform_at FROM j`, one)
		p.until("trigger:completed digest:completed in_app:completed", ofEvent, one)
	}
	for _, bad := range []string{`{"cron":"x"}`, `{"type":"timed","timed":{"atTime":"25:00"}}`, `{"type":"timed","timed":{"weekDays":["someday"]}}`, `{"type":"timed","timed":{"monthDays":[32]}}`, `{"amount":1,"unit":"fortnights"}`} {
		p.call(400, "POST", "/v1/notification-templates", p.a, `{"name":"bad","notificationGroupId":"g","steps":[`+digest(bad)+`]}`)
	}

	p.workflow("two", []string{digest(`{"type":"regular","amount":1,"unit":"seconds","digestKey":"k"}`), template("in_app", "one {{step.total_count}}"),
		digest(`{"type":"regular","amount":2,"unit":"seconds"}`), template("in_app", "two {{step.total_count}}")})
	for _, k := range []string{"a", "b", "a"} {
		p.trigger("processed", `{"name":"two","to":"S2","payload":{"k":"`+k+`"}}`)
	}
	p.until("one 1|one 2|two 2", `SELECT coalesce(string_agg(content, '|' ORDER BY content), '') FROM pgautomate.messages WHERE subscriber_id = 'S2'`)
	// A time that no calendar holds fails the step and says so.
	p.workflow("never", []string{delay(`{"type":"regular","amount":1,"unit":"seconds"}`), template("in_app", "x")})
	id := p.trigger("processed", `{"name":"never","to":"S1","overrides":{"delay":{"amount":1e300,"unit":"months"}}}`)
	p.until("trigger:completed delay:failed in_app:canceled", ofEvent, id)
}

// Triggers and cancelations at once: what was not canceled is in exactly one digest,
// what was is in none, and windows whose first event went keep their end.
func TestCancelDigestsConcurrently(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("d", []string{digest(`{"type":"regular","amount":1.5,"unit":"seconds"}`), template("in_app", "{{step.total_count}}")})
	const rounds, events = 50, 4
	var all sync.WaitGroup
	for r := range rounds {
		who := fmt.Sprint("S", r)
		for e := range events {
			p.trigger("processed", fmt.Sprintf(`{"name":"d","to":%q,"transactionId":"%d-%d"}`, who, r, e))
		}
		// The first one goes, at any moment, together with another one.
		for _, e := range []int{0, 1 + r%(events-1)} {
			all.Go(func() {
				time.Sleep(time.Duration(r%7*40) * time.Millisecond)
				p.call(200, "DELETE", fmt.Sprintf("/v1/events/trigger/%d-%d", r, e), p.a, "")
			})
		}
		if r%10 == 9 {
			all.Wait()
		}
	}
	all.Wait()
	p.until("0", `SELECT count(*)::text FROM pgautomate.notification_jobs WHERE status IN ('pending', 'queued', 'running', 'delayed')`)
	type count struct{ want, sql string }
	for what, c := range map[string]count{
		"events in digests": {fmt.Sprint(rounds * (events - 2)), `SELECT count(*)::text FROM pgautomate.notification_jobs j, jsonb_array_elements(j.result -> 'events') WHERE j.action_type = 'digest' AND j.status = 'completed'`},
		"different ones":    {fmt.Sprint(rounds * (events - 2)), `SELECT count(DISTINCT e ->> 'id')::text FROM pgautomate.notification_jobs j, jsonb_array_elements(j.result -> 'events') e WHERE j.action_type = 'digest' AND j.status = 'completed'`},
		"canceled ones among them": {"0", `SELECT count(*)::text FROM pgautomate.notification_jobs j, jsonb_array_elements(j.result -> 'events') e
			JOIN pgautomate.notifications n ON n.id = (e ->> 'id')::bigint WHERE j.action_type = 'digest' AND j.status = 'completed' AND n.canceled_at IS NOT NULL`},
		"messages": {fmt.Sprint(rounds * (events - 2)), `SELECT sum(content::int)::text FROM pgautomate.messages`},
		"windows":  {fmt.Sprint(rounds), `SELECT count(*)::text FROM pgautomate.messages`},
		"followers": {"0", `SELECT count(*)::text FROM pgautomate.notification_jobs j WHERE j.status = 'merged' AND j.action_type = 'digest' AND NOT EXISTS (
			SELECT FROM pgautomate.notification_jobs m WHERE m.id = j.merged_into AND m.status = 'completed')`},
		"late or early windows": {"0", `SELECT count(*)::text FROM pgautomate.notification_jobs j JOIN pgautomate.digest_groups g ON g.id = j.digest_group
			WHERE j.action_type = 'digest' AND j.status = 'completed' AND j.perform_at - (SELECT min(f.started_at) FROM pgautomate.notification_jobs f WHERE f.digest_group = g.id) NOT BETWEEN '1.3 seconds' AND '4 seconds'`},
	} {
		if got := p.text(c.sql); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

// A fan-out under way tells how far it is, and stops when it is canceled; one that was
// interrupted goes on where it was, and gives nobody a second notification.
func TestFanOut(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.engine.Notifications().Chunk = 20
	p.workflow("w", []string{delay(`{"type":"regular","amount":1,"unit":"hours"}`), template("in_app", "x")})
	p.exec(`INSERT INTO pgautomate.subscribers (organization_id, subscriber_id) SELECT 'a', 'T' || g FROM generate_series(1, 2000) g`)
	p.exec(`WITH topic AS (INSERT INTO pgautomate.topics (organization_id, key) VALUES ('a', 'fans') RETURNING id)
		INSERT INTO pgautomate.topic_subscribers (topic_id, subscriber_no) SELECT topic.id, s.id FROM topic, pgautomate.subscribers s ORDER BY s.id`)
	p.trigger("processed", `{"name":"w","to":{"type":"Topic","topicKey":"fans"},"transactionId":"stopped"}`)
	p.until("t", `SELECT (fanned_out >= 100)::text::char FROM pgautomate.notification_events WHERE transaction_id = 'stopped'`)
	if got := p.call(200, "DELETE", "/v1/events/trigger/stopped", p.a, "").get("data"); got != true {
		t.Error("not canceled")
	}
	p.until("canceled", `SELECT status FROM pgautomate.notification_events WHERE transaction_id = 'stopped'`)
	p.until("0", `SELECT count(*)::text FROM pgautomate.notification_jobs WHERE transaction_id = 'stopped' AND action_type <> 'trigger' AND status <> 'canceled'`)
	made := p.text(`SELECT count(*)::text FROM pgautomate.notifications WHERE transaction_id = 'stopped'`)
	if made == "2000" || made != p.text(`SELECT fanned_out::text FROM pgautomate.notification_events WHERE transaction_id = 'stopped'`) {
		t.Errorf("%s notifications were made", made)
	}
	time.Sleep(200 * time.Millisecond)
	if again := p.text(`SELECT count(*)::text FROM pgautomate.notifications WHERE transaction_id = 'stopped'`); again != made {
		t.Errorf("%s notifications, then %s: it goes on", made, again)
	}

	// The one who shares it out goes away in the midst of it, again and again.
	p.exec(`INSERT INTO pgautomate.notification_events (organization_id, workflow_id, transaction_id, step_ids, broadcast)
		SELECT 'a', w.id, 'resumed', ARRAY(SELECT s.id FROM pgautomate.workflow_steps s WHERE s.workflow_id = w.id), true FROM pgautomate.workflows w`)
	event := value[int64](t, p.pool, `SELECT id FROM pgautomate.notification_events WHERE transaction_id = 'resumed'`)
	interrupted := 0
	for done := false; !done; {
		// Each time a bit later: on a slow machine nothing is done in so short a time.
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(30+5*interrupted)*time.Millisecond)
		var err error
		if done, err = p.engine.Notifications().FanOut(ctx, event); err != nil {
			interrupted++
		}
		cancel()
	}
	if got := p.text(`SELECT concat_ws(' ', e.status, e.fanned_out, count(*), count(DISTINCT n.subscriber_id)) FROM pgautomate.notification_events e
		JOIN pgautomate.notifications n ON n.event_id = e.id WHERE e.id = $1 GROUP BY e.id`, event); got != "done 2000 2000 2000" {
		t.Errorf("after %d interruptions: %s", interrupted, got)
	}
	if interrupted == 0 {
		t.Error("it was never interrupted")
	}
	var a struct{ Data struct{ HasMore bool } }
	ok(t, json.Unmarshal([]byte(p.call(200, "GET", "/v1/notifications?transactionId=resumed&limit=10", p.a, "").raw), &a))
}
