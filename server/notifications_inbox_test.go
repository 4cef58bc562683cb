package server_test

// The inbox of v2, and new messages as server-sent events.

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestInbox(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"W","workflowId":"w","active":true,"tags":["news"],"steps":[{"name":"I","type":"in_app","controlValues":{
		"body":"{{payload.n}}","subject":"S","data":{"n":"{{payload.n}}"},"redirect":{"url":"/go"},
		"primaryAction":{"label":"Yes","redirect":{"url":"/yes"}},"secondaryAction":{"label":"No"}}}]}`)
	for n := range 4 {
		id := p.trigger("processed", fmt.Sprintf(`{"name":"w","to":{"subscriberId":"S1","firstName":"Ann"},"payload":{"n":%d}}`, n))
		p.until(fmt.Sprint(n), contents+` WHERE transaction_id = $1`, id)
	}
	const base = "/v2/subscribers/S1/notifications"
	list := func(query string) string {
		a := p.call(200, "GET", base+query, p.a, "")
		var bodies []string
		items, _ := a.get("data", "data").([]any)
		if items == nil {
			items, _ = a.get("data").([]any)
		}
		for _, i := range items {
			bodies = append(bodies, fmt.Sprint(i.(map[string]any)["body"]))
		}
		return strings.Join(bodies, "")
	}
	page := func(query string) *answer { return p.call(200, "GET", base+query, p.a, "") }
	first := page("?limit=1")
	at := func(path ...any) any {
		if _, wrapped := first.get("data").([]any); wrapped {
			return first.get(append([]any{"data", 0}, path...)...)
		}
		return first.get(append([]any{"data", "data", 0}, path...)...)
	}
	if got := fmt.Sprintln(at("body"), at("subject"), at("to", "firstName"), at("isRead"), at("isSnoozed"), at("redirect", "url"), at("primaryAction", "label"),
		at("primaryAction", "isCompleted"), at("secondaryAction", "label"), at("workflow", "identifier"), at("data", "n"), at("severity")); got !=
		"3 S Ann false false /go Yes false No w 3 none\n" {
		t.Error(got)
	}
	id := fmt.Sprint(at("id"))
	for _, c := range []struct{ query, want string }{
		{"", "3210"}, {"?limit=2", "32"}, {"?limit=2&offset=2", "10"}, {"?after=" + id, "210"}, {"?tags=news", "3210"}, {"?tags=other", ""}, {"?data=%7B%22n%22%3A%221%22%7D", "1"},
		{"?createdGte=" + fmt.Sprint(time.Now().Add(time.Hour).UnixMilli()), ""}, {"?createdLte=2999-01-01T00:00:00Z", "3210"},
	} {
		if got := list(c.query); got != c.want {
			t.Errorf("%s: %s, want %s", c.query, got, c.want)
		}
	}
	for _, query := range []string{"?limit=x", "?after=x", "?createdGte=x", "?data=x", "/count", "/count?filters=x"} {
		p.call(400, "GET", base+query, p.a, "")
	}
	p.call(404, "GET", "/v2/subscribers/nobody/notifications", p.a, "")

	for _, c := range []struct{ mark, member, want, query, left string }{
		{"read", "isRead", "true", "?read=false", "210"}, {"unread", "isRead", "false", "?read=false", "3210"},
		{"archive", "isArchived", "true", "?archived=false", "210"}, {"unarchive", "isArchived", "false", "?archived=false", "3210"},
	} {
		a := p.call(200, "PATCH", base+"/"+id+"/"+c.mark, p.a, "")
		if got := fmt.Sprint(a.get("data", c.member)); got != c.want || list(c.query) != c.left {
			t.Errorf("%s: %s, left %s", c.mark, a.raw, list(c.query))
		}
	}
	a := p.call(200, "PATCH", base+"/"+id+"/snooze", p.a, `{"snoozeUntil":"2999-01-01T00:00:00Z"}`)
	if a.get("data", "isSnoozed") != true || list("") != "210" || list("?snoozed=true") != "3" {
		t.Errorf("%s: %s and %s", a.raw, list(""), list("?snoozed=true"))
	}
	p.call(400, "PATCH", base+"/"+id+"/snooze", p.a, `{"snoozeUntil":"2020-01-01T00:00:00Z"}`)
	if a := p.call(200, "PATCH", base+"/"+id+"/unsnooze", p.a, ""); a.get("data", "isSnoozed") != false || list("") != "3210" {
		t.Error(a.raw)
	}
	if a := p.call(200, "PATCH", base+"/"+id+"/actions/primary/complete", p.a, ""); a.get("data", "primaryAction", "isCompleted") != true || a.get("data", "secondaryAction", "isCompleted") != false {
		t.Error(a.raw)
	}
	if a := p.call(200, "PATCH", base+"/"+id+"/actions/primary/revert", p.a, ""); a.get("data", "primaryAction", "isCompleted") != false {
		t.Error(a.raw)
	}
	p.call(400, "PATCH", base+"/"+id+"/actions/third/complete", p.a, "")
	if a := p.call(201, "POST", "/v1/subscribers/S1/messages/"+id+"/actions/secondary", p.a, `{"status":"done","payload":{"x":1}}`); a.get("data", "cta", "action", "status") != "done" {
		t.Error(a.raw)
	}

	count := func(filters string) string {
		a := p.call(200, "GET", base+"/count?filters="+filters, p.a, "")
		return fmt.Sprint(a.get("data", 0, "count"), a.get("data", 1, "count"))
	}
	const two = `%5B%7B%22read%22%3Afalse%7D%2C%7B%22archived%22%3Atrue%7D%5D` // [{"read":false},{"archived":true}]
	p.call(204, "POST", base+"/seen", p.a, `{"notificationIds":["`+id+`"]}`)
	if got := list("?seen=true"); got != "3" {
		t.Errorf("seen: %s", got)
	}
	if got := count(two); got != "4 0" {
		t.Errorf("counts %s", got)
	}
	p.call(204, "POST", base+"/read", p.a, `{"data":"{\"n\":\"2\"}"}`)
	p.call(204, "POST", base+"/read-archive", p.a, "")
	if got := count(two); got != "3 1" || list("?archived=true") != "2" {
		t.Errorf("counts %s, archived %s", got, list("?archived=true"))
	}
	p.call(204, "POST", base+"/archive", p.a, `{"tags":["other"]}`)
	p.call(204, "DELETE", base+"/"+id, p.a, "")
	p.call(404, "DELETE", base+"/"+id, p.a, "")
	if got := list(""); got != "210" {
		t.Errorf("left %s", got)
	}
	p.call(204, "POST", base+"/archive", p.a, "")
	p.call(204, "POST", base+"/delete", p.a, `{"tags":["news"]}`)
	if got := list(""); got != "" {
		t.Errorf("left %s", got)
	}
}

// sse reads a stream of server-sent events.
type sse struct {
	t      *testing.T
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

func (p *post) stream(subscriber, lastID string) *sse {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	p.t.Cleanup(cancel)
	r := p.request("GET", "/v1/subscribers/"+subscriber+"/notifications/stream", p.a, "").WithContext(ctx)
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	a, err := http.DefaultClient.Do(r)
	ok(p.t, err)
	p.t.Cleanup(func() { _ = a.Body.Close() })
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "text/event-stream" {
		p.t.Fatalf("%d %v", a.StatusCode, a.Header)
	}
	s := &sse{t: p.t, lines: bufio.NewScanner(a.Body), cancel: cancel}
	if !s.lines.Scan() || s.lines.Text() != "retry: 2000" {
		p.t.Fatalf("it begins with %q", s.lines.Text())
	}
	return s
}

// next is the id and the body of the next event.
func (s *sse) next() (id, body string) {
	s.t.Helper()
	for s.lines.Scan() {
		line := s.lines.Text()
		if v, found := strings.CutPrefix(line, "id: "); found {
			id = v
		}
		if v, found := strings.CutPrefix(line, "data: "); found {
			var item struct{ Body string }
			ok(s.t, json.Unmarshal([]byte(v), &item))
			return id, item.Body
		}
	}
	s.t.Fatalf("the stream ended: %v", s.lines.Err())
	return "", ""
}

func TestStream(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("in_app", "{{n}}")})
	send := func(who string, n int) {
		id := p.trigger("processed", fmt.Sprintf(`{"name":"w","to":%q,"payload":{"n":%d}}`, who, n))
		p.until(fmt.Sprint(n), contents+` WHERE transaction_id = $1`, id)
	}
	send("S1", 0)
	one, other := p.stream("S1", ""), p.stream("S1", "")
	var last string
	for n := 1; n < 4; n++ {
		send("S2", 100)
		send("S1", n)
		for _, s := range []*sse{one, other} {
			id, body := s.next()
			if body != fmt.Sprint(n) {
				t.Errorf("the %d. message is %q", n, body)
			}
			if n == 1 {
				last = id
			}
		}
	}
	// Who comes again goes on behind what it has seen, also over more than one look holds.
	p.exec(`INSERT INTO pgautomate.messages (organization_id, notification_id, job_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channel, content)
		SELECT 'a', 0, nextval('pgautomate.lead_stage_actions_id_seq'), 0, 'S1', s.id, 'x', 'in_app', (3 + g)::text FROM pgautomate.subscribers s, generate_series(1, 250) g WHERE s.subscriber_id = 'S1'`)
	one.cancel()
	again := p.stream("S1", last)
	for n := 2; n <= 253; n++ {
		if _, body := again.next(); body != fmt.Sprint(n) {
			t.Fatalf("after message 1 comes %q, want %d", body, n)
		}
	}
	// A message with a lower number whose transaction ends later is not lost.
	tx, err := p.pool.Begin(t.Context())
	ok(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO pgautomate.messages (organization_id, notification_id, job_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channel, content)
		SELECT 'a', 0, nextval('pgautomate.lead_stage_actions_id_seq'), 0, 'S1', id, 'x', 'in_app', 'late' FROM pgautomate.subscribers WHERE subscriber_id = 'S1'`)
	ok(t, err)
	send("S1", 254)
	if _, body := again.next(); body != "254" {
		t.Errorf("next comes %q", body)
	}
	ok(t, tx.Commit(t.Context()))
	send("S1", 255)
	_, a := again.next()
	_, b := again.next()
	if a+" "+b != "late 255" {
		t.Errorf("then %s, %s", a, b)
	}
	p.call(404, "GET", "/v1/subscribers/nobody/notifications/stream", p.a, "")
	p.call(401, "GET", "/v1/subscribers/S1/notifications/stream", "wrong", "")
	// The connection that hears is lost: what comes meanwhile comes all the same.
	p.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN pgautomate_messages%'`)
	send("S1", 256)
	if _, body := again.next(); body != "256" {
		t.Errorf("next comes %q", body)
	}
}
