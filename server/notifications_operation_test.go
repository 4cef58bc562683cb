package server_test

// Notifications from the operator's side: metric, problems, what is kept how long.

import (
	"strings"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/jobs"
)

func TestNotificationOperation(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("in_app", "x"), template("push", "y")})
	p.workflow("waits", []string{digest(`{"type":"regular","amount":1,"unit":"hours"}`), template("in_app", "x")})
	p.workflow("mail", []string{template("email", "x"), template("in_app", "y")})
	id := p.trigger("processed", `{"name":"w","to":"S1"}`)
	p.until("trigger:completed in_app:completed push:failed", ofEvent, id)
	p.trigger("processed", `{"name":"w","to":{"type":"Topic","topicKey":"nope"},"transactionId":"no topic"}`)
	p.text(`SELECT pgautomate.trigger_event('a', 'nope', '["S1"]')`)
	p.exec(`INSERT INTO pgautomate.notification_events (organization_id, workflow_id, transaction_id, created_at) SELECT 'a', id, 'stuck', now() - interval '41 days' FROM pgautomate.workflows LIMIT 1`)
	for _, want := range []string{"type push|1 failed in the last hour%integration%", "event no topic%|Topic with key nope not found%", "trigger_event()%|1 requests were refused%workflow_not_found", "event stuck%|it is still being shared out%"} {
		subject, problem, _ := strings.Cut(want, "|")
		p.until("1", `SELECT count(*)::text FROM pgautomate.problems WHERE subject LIKE '%' || $1 AND problem LIKE $2`, subject, problem)
	}
	families, err := p.engine.Metrics().Gather()
	ok(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "pgautomate_notification_jobs_total" {
				got[m.GetLabel()[1].GetValue()+":"+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	if got["in_app:completed"] != 1 || got["push:failed"] != 1 {
		t.Errorf("%v", got)
	}

	// What waits for its digest is kept whole, however old it is.
	one := p.trigger("processed", `{"name":"waits","to":"S2"}`)
	p.until("trigger:completed digest:delayed in_app:pending", ofEvent, one)
	two := p.trigger("processed", `{"name":"waits","to":"S2"}`)
	p.until("trigger:completed digest:merged in_app:merged", ofEvent, two)
	mail := p.trigger("processed", `{"name":"mail","to":{"subscriberId":"S3","email":"s3@example.com"}}`)
	p.until("trigger:completed email:completed in_app:completed", ofEvent, mail)
	// Of two digests' groups the one is used by a newer notification, too.
	p.workflow("keyed", []string{digest(`{"type":"regular","amount":0.01,"unit":"seconds","digestKey":"k"}`)})
	for _, k := range []string{"gone", "used", "used"} {
		more := ""
		if p.text(`SELECT count(*)::text FROM pgautomate.digest_groups WHERE digest_key = '"used"'`) == "1" {
			more = `,"transactionId":"newer"`
		}
		p.until("trigger:completed digest:completed", ofEvent, p.trigger("processed", `{"name":"keyed","to":"S5","payload":{"k":"`+k+`"}`+more+`}`))
	}
	fresh := p.trigger("processed", `{"name":"w","to":"S4"}`)
	p.until("trigger:completed in_app:completed push:failed", ofEvent, fresh)
	p.exec(`UPDATE pgautomate.notification_events SET created_at = now() - interval '40 days', finished_at = now() - interval '40 days' WHERE transaction_id NOT IN ($1, 'newer') AND status <> 'pending'`, fresh)
	p.exec(`UPDATE pgautomate.notifications SET created_at = now() - interval '40 days' WHERE transaction_id NOT IN ($1, 'newer')`, fresh)
	p.exec(`UPDATE pgautomate.notification_jobs SET finished_at = now() - interval '40 days' WHERE transaction_id NOT IN ($1, 'newer') AND finished_at IS NOT NULL`, fresh)
	p.exec(`UPDATE pgautomate.messages SET created_at = now() - interval '40 days' WHERE transaction_id = $1`, mail)
	p.exec(`UPDATE pgautomate.messages SET created_at = now() - interval '400 days' WHERE transaction_id = $1`, id)
	ok(t, p.engine.Notifications().Forget(t.Context(), 30*24*time.Hour))
	kept := func(table string) string {
		return p.text(`SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM (SELECT DISTINCT CASE transaction_id WHEN $1 THEN 'failed' WHEN $2 THEN 'master' WHEN $3 THEN 'follower'
			WHEN $4 THEN 'mail' WHEN $5 THEN 'fresh' ELSE transaction_id END AS name FROM pgautomate.`+table+`) x`, id, one, two, mail, fresh)
	}
	for table, want := range map[string]string{
		"notifications": "follower fresh master newer", "notification_jobs": "follower fresh master newer", "notification_events": "follower fresh master newer stuck", "messages": "fresh mail",
	} {
		if got := kept(table); got != want {
			t.Errorf("%s: kept are %s, want %s", table, got, want)
		}
	}
	if got := p.text(`SELECT string_agg(digest_key, ' ' ORDER BY digest_key) FROM pgautomate.digest_groups`); got != ` "used"` {
		t.Errorf("groups of digests: kept are %s", got)
	}
	if got := p.text(`SELECT string_agg(DISTINCT channel, ' ') FROM pgautomate.messages WHERE transaction_id = $1`, mail); got != "in_app" {
		t.Errorf("of the mail's notification %s is kept", got)
	}

	// What an action notifies carries the chain that led to it.
	a := &jobs.Action{ID: 7, OrganizationID: "a", FiringID: 3, Cause: &jobs.Cause{Depth: 2, Chain: []string{"1 first"}}}
	tx, err := p.pool.Begin(t.Context())
	ok(t, err)
	ok(t, p.engine.Notifications().Notify(t.Context(), tx, a, jobs.Notify{Workflow: "w", To: []byte(`"S9"`), TransactionID: "by an action"}))
	ok(t, tx.Commit(t.Context()))
	if got := p.text(`SELECT concat_ws(' ', cause ->> 'depth', cause ->> 'action_id', cause ->> 'firing_id', cause ->> 'chain') FROM pgautomate.notification_jobs
		WHERE transaction_id = 'by an action' AND action_type = 'in_app'`); got != `3 7 3 ["1 first"]` {
		t.Error(got)
	}
}
