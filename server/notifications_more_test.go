package server_test

// Notifications: what goes beyond Novu's own cases. Attachments, what is sent twice,
// triggers by SQL and by actions, throttles, the feed.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Case 23: the provider gets the bytes, the rows don't, and nothing is kept.
func TestAttachments(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	p.workflow("with file", []string{delay(`{"type":"regular","amount":0.5,"unit":"seconds"}`), template("email", "see {{attachments[0].name}}")})
	id := p.trigger("processed", `{"name":"with-file","to":"S1","payload":{"attachments":[{"name":"a.txt","file":"aGVsbG8gZmlsZQ==","mime":"text/plain"}]}}`)
	if n := p.files(); n == 0 {
		t.Error("nothing is kept while the mail waits")
	}
	p.until("trigger:completed delay:completed email:completed", ofEvent, id)
	ok(t, p.box.Wait(t.Context(), 1))
	raw := string(p.box.Messages()[0].Raw)
	if !strings.Contains(raw, "aGVsbG8gZmlsZQ==") || !strings.Contains(raw, "a.txt") || !strings.Contains(raw, "see a.txt") {
		t.Errorf("the mail:\n%s", raw)
	}
	if got := p.text(`SELECT payload::text FROM pgautomate.notification_events WHERE transaction_id = $1`, id); strings.Contains(got, "aGVsbG8") {
		t.Errorf("the payload holds the file: %s", got)
	}
	p.until("[]", `SELECT attachments::text FROM pgautomate.notification_events WHERE transaction_id = $1`, id)
	if n := p.files(); n != 0 {
		t.Errorf("%d files are kept", n)
	}
	// The same transaction again keeps nothing.
	p.trigger("processed", `{"name":"with-file","to":"S1","transactionId":"`+id+`","payload":{"attachments":[{"name":"a.txt","file":"aGVsbG8gZmlsZQ=="}]}}`)
	if n := p.files(); n != 0 {
		t.Errorf("%d files are kept", n)
	}
	p.call(422, "POST", "/v1/events/trigger", p.a, `{"name":"with-file","to":"S1","payload":{"attachments":[{"name":"a.txt","file":"no base64!"}]}}`)
}

// files counts the attachments that are kept.
func (p *post) files() int {
	n := 0
	_ = filepath.WalkDir(p.folder, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	return n
}

// A transactionId and an idempotency key are one event, however many ask at once.
func TestSentTwice(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("in_app", "x")})
	for r := range 10 {
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() { p.trigger("processed", fmt.Sprintf(`{"name":"w","to":"S1","transactionId":"tx %d"}`, r)) })
		}
		group.Wait()
	}
	if n := p.notified(); n != 10 {
		t.Errorf("%d notifications of 10 transactions", n)
	}
	// Who comes second changes nothing of what he says of his recipients either.
	if got := p.text(`SELECT coalesce(pgautomate.accept_event(e.organization_id, e.workflow_id, e.transaction_id, e.step_ids, '{}', '{}', NULL, NULL,
		'[{"subscriber_id": "S1", "first_name": "Other"}, {"subscriber_id": "S9"}]')::text, 'none') FROM pgautomate.notification_events e WHERE e.transaction_id = 'tx 1'`); got != "none" {
		t.Errorf("a second event %s", got)
	}
	if got := p.text(`SELECT string_agg(subscriber_id || coalesce(first_name, ''), ' ') FROM pgautomate.subscribers`); got != "S1" {
		t.Errorf("the second one changed subscribers: %s", got)
	}

	send := func(key, body string) *answer {
		r := p.request("POST", "/v1/events/trigger", p.a, body)
		r.Header.Set("Idempotency-Key", key)
		return p.do(r)
	}
	var statuses []int
	var ids []any
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			a := send("key", `{"name":"w","to":"S2"}`)
			mu.Lock()
			defer mu.Unlock()
			statuses = append(statuses, a.status)
			if a.status == 201 {
				ids = append(ids, a.get("data", "transactionId"))
			} else if a.status != 409 || a.header.Get("Retry-After") != "1" {
				t.Errorf("%d %s", a.status, a.raw)
			}
		})
	}
	group.Wait()
	if !slices.Contains(statuses, 201) || len(slices.Compact(ids)) != 1 {
		t.Errorf("%v %v", statuses, ids)
	}
	a := send("key", `{"name":"w","to":"S2"}`)
	if a.status != 201 || a.header.Get("Idempotency-Replay") != "true" || a.header.Get("Idempotency-Key") != "key" || a.get("data", "transactionId") != ids[0] {
		t.Errorf("%d %v %s", a.status, a.header, a.raw)
	}
	if a := send("key", `{"name":"w","to":"S3"}`); a.status != 422 {
		t.Errorf("another request with the same key: %d", a.status)
	}
	if a := send(strings.Repeat("k", 256), `{"name":"w","to":"S2"}`); a.status != 400 {
		t.Errorf("a long key: %d", a.status)
	}
	if got := p.text(`SELECT count(*)::text FROM pgautomate.notifications WHERE subscriber_id = 'S2'`); got != "1" {
		t.Errorf("%s notifications", got)
	}
	// Errors are kept, too: they would be the same.
	send("bad", `{"name":"nope","to":"S2"}`)
	if a := send("bad", `{"name":"nope","to":"S2"}`); a.status != 422 || a.header.Get("Idempotency-Replay") != "true" {
		t.Errorf("%d %v", a.status, a.header)
	}
	// The process died after the work and before the answer was kept: a minute later the repetition is none.
	p.exec(`UPDATE pgautomate.idempotency_keys SET status = NULL, body = NULL, reserved_until = now() - interval '1 second' WHERE key = 'key'`)
	if a := send("key", `{"name":"w","to":"S2"}`); a.status != 201 || a.get("data", "transactionId") != ids[0] {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if got := p.text(`SELECT count(*)::text FROM pgautomate.notifications WHERE subscriber_id = 'S2'`); got != "1" {
		t.Errorf("%s notifications", got)
	}
	// And while it may still be at work, it is told so.
	p.exec(`UPDATE pgautomate.idempotency_keys SET status = NULL, body = NULL, reserved_until = now() + interval '1 minute' WHERE key = 'key'`)
	if a := send("key", `{"name":"w","to":"S2"}`); a.status != 409 {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

// trigger_event() is part of the app's transaction.
func TestTriggerEventSQL(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("in_app", "hello {{name}}")})
	tx, err := p.pool.Begin(t.Context())
	ok(t, err)
	_, err = tx.Exec(t.Context(), `SELECT pgautomate.trigger_event('a', 'w', '"gone"')`)
	ok(t, err)
	ok(t, tx.Rollback(t.Context()))
	id := p.text(`SELECT pgautomate.trigger_event('a', 'w', '[{"subscriberId":"S1"}]', '{"name":"Ann"}', 'mine')`)
	p.until("hello Ann", contents+` WHERE transaction_id = $1`, id)
	p.text(`SELECT pgautomate.trigger_event('a', 'w', '["S1"]', '{"name":"Ann"}', 'mine')`)
	p.text(`SELECT pgautomate.trigger_event('a', 'nope', '["S1"]')`)
	p.until("mine processed , mine processed , nope  workflow_not_found", `SELECT coalesce(string_agg(concat_ws(' ', CASE WHEN workflow = 'w' THEN transaction_id ELSE workflow END, coalesce(answer, ''), coalesce(error, '')), ', ' ORDER BY id), '')
		FROM pgautomate.notification_requests WHERE finished_at IS NOT NULL`)
	if n := p.notified(); n != 1 {
		t.Errorf("%d notifications", n)
	}
	for _, sql := range []string{`SELECT pgautomate.trigger_event('a', '', '"S1"')`, `SELECT pgautomate.trigger_event('a', 'w', '3')`, `SELECT pgautomate.trigger_event('a', 'w', '"S1"', '[]')`} {
		if _, err := p.pool.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s: not refused", sql)
		}
	}
}

// notify and in_app as a pipeline's actions.
func TestNotifyAction(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("in_app", "{{payload.of}}")})
	p.call(201, "POST", "/v1/pipelines", p.a, `{"name":"P","object_type":"lead","stages":[{"name":"one","actions":[
		{"action_type":"notify","params":{"workflow":"w","to":{"subscriberId":"S-{{organization.id}}"},"payload":{"of":"{{organization.id}}"}}},
		{"action_type":"in_app","params":{"subscriber":"S-{{organization.id}}","subject":"direct","body":"by {{organization.id}}"}},
		{"action_type":"notify","params":{"workflow":"nope","to":"S1"}}]}]}`)
	p.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) SELECT 'a', '1', id FROM pgautomate.pipeline_stages`)
	p.until("notify:completed in_app:completed notify:failed", `SELECT string_agg(action_type || ':' || status, ' ' ORDER BY sequence_number) FROM pgautomate.lead_stage_actions`)
	p.until("a|by a", `SELECT coalesce(string_agg(content, '|' ORDER BY content), '') FROM pgautomate.messages WHERE subscriber_id = 'S-a'`)
	if got := p.text(`SELECT error FROM pgautomate.lead_stage_actions WHERE status = 'failed'`); got != `notify: workflow "nope": workflow_not_found` {
		t.Error(got)
	}
	a := p.call(200, "GET", "/v1/subscribers/S-a/notifications/feed", p.a, "")
	if a.get("data", "totalCount") != 2.0 {
		t.Error(a.raw)
	}
	if got := p.call(200, "GET", "/v1/messages?subscriberId=S-a", p.a, ""); len(got.get("data", "data").([]any)) != 2 {
		t.Error(got.raw)
	}
}

// A throttle of a channel counts stage actions and notifications' jobs together.
func TestThrottleByChannel(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("email", "x")})
	p.exec(`INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per) VALUES ('a', 'email', 3, '1 hour')`)
	p.call(201, "POST", "/v1/pipelines", p.a, `{"name":"P","object_type":"lead","stages":[{"name":"one","actions":[{"action_type":"log","params":{"message":"x"}}]}]}`)
	p.exec(`UPDATE pgautomate.pipeline_stage_actions SET action_type = 'email', params = '{"to":"l@example.com","subject":"s","body":"b"}'`)
	p.exec(`INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id) SELECT 'a', g::text, id FROM pgautomate.pipeline_stages, generate_series(1, 2) g`)
	p.until("2", `SELECT count(*)::text FROM pgautomate.lead_stage_actions WHERE status = 'completed'`)
	for i := range 5 {
		p.trigger("processed", fmt.Sprintf(`{"name":"w","to":{"subscriberId":"S%d","email":"s@example.com"}}`, i))
	}
	p.until("1", `SELECT count(*)::text FROM pgautomate.notification_jobs WHERE action_type = 'email' AND status = 'completed'`)
	time.Sleep(300 * time.Millisecond)
	if got := p.text(`SELECT count(*)::text FROM pgautomate.work WHERE action_type = 'email' AND started_at IS NOT NULL`); got != "3" {
		t.Errorf("%s were started, 3 may be", got)
	}
	if got := p.text(`SELECT held::text FROM pgautomate.action_queue WHERE action_type = 'email'`); got != "4" {
		t.Errorf("%s are held, of 4", got)
	}
}

// The in-app feed: read, seen, counts and marks.
func TestFeed(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("in_app", "{{n}}", `"name":"i"`)})
	for n := range 3 {
		id := p.trigger("processed", fmt.Sprintf(`{"name":"w","to":"S1","payload":{"n":%d,"kind":{"odd":%t}}}`, n, n%2 == 1))
		p.until(fmt.Sprint(n), contents+` WHERE transaction_id = $1`, id)
	}
	const base = "/v1/subscribers/S1"
	unseen := func() any {
		return p.call(200, "GET", base+"/notifications/unseen?seen=false", p.a, "").get("data", "count")
	}
	if unseen() != 3.0 {
		t.Errorf("%v unseen", unseen())
	}
	a := p.call(200, "GET", base+"/notifications/feed?limit=2", p.a, "")
	if got := fmt.Sprintln(a.get("data", "data", 0, "content"), a.get("data", "data", 1, "content"), a.get("data", "totalCount"), a.get("data", "hasMore")); got != "2 1 3 true\n" {
		t.Error(got)
	}
	first := fmt.Sprint(a.get("data", "data", 0, "_id"))
	a = p.call(200, "GET", base+"/notifications/feed?payload=eyJraW5kIjp7Im9kZCI6dHJ1ZX19", p.a, "")
	if got := fmt.Sprintln(a.get("data", "totalCount"), a.get("data", "data", 0, "content")); got != "1 1\n" {
		t.Error(got)
	}
	p.call(400, "GET", base+"/notifications/feed?payload=no", p.a, "")
	p.call(400, "GET", "/v1/subscribers/nobody/notifications/feed", p.a, "")
	mark := func(as string) string {
		a := p.call(201, "POST", base+"/messages/mark-as", p.a, `{"messageId":"`+first+`","markAs":"`+as+`"}`)
		return fmt.Sprint(a.get("data", 0, "read"), a.get("data", 0, "seen"))
	}
	for _, c := range [][2]string{{"read", "true true"}, {"unread", "false true"}, {"unseen", "false false"}, {"seen", "false true"}} {
		if got := mark(c[0]); got != c[1] {
			t.Errorf("%s: read, seen are %s", c[0], got)
		}
	}
	if unseen() != 2.0 {
		t.Errorf("%v unseen", unseen())
	}
	all := func(as string) any {
		return p.call(201, "POST", base+"/messages/mark-all", p.a, `{"markAs":"`+as+`"}`).get("data")
	}
	for _, c := range []struct {
		as      string
		changed float64
	}{{"seen", 2}, {"seen", 0}, {"read", 3}, {"unread", 3}, {"unseen", 3}} {
		if got := all(c.as); got != c.changed {
			t.Errorf("%s: %v changed, wanted %v", c.as, got, c.changed)
		}
	}
	p.call(400, "POST", base+"/messages/mark-as", p.a, `{"markAs":"read"}`)
	p.call(404, "POST", "/v1/subscribers/nobody/messages/mark-all", p.a, `{"markAs":"read"}`)
	p.call(200, "DELETE", "/v1/messages/"+first, p.a, "")
	p.call(404, "DELETE", "/v1/messages/"+first, p.a, "")
	if a := p.call(200, "GET", base+"/notifications/feed", p.a, ""); a.get("data", "totalCount") != 2.0 {
		t.Error(a.raw)
	}
}
