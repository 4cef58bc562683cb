package server_test

// Notifications from end to end: the routes as Novu's clients call them, an engine
// that carries them out, and the rows that it leaves. The tests are named by the
// cases that they show.

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/internal/dbtest"
	"github.com/pgautomate/pgautomate/mailbox"
	"github.com/pgautomate/pgautomate/server"
)

// post is a server with an engine, a mailbox and an SMS provider.
type post struct {
	*site

	engine *pgautomate.Engine
	box    *mailbox.Mailbox
	sms    *provider
	folder string // of attachments
}

// provider is a generic-sms provider that can be told to fail.
type provider struct {
	*httptest.Server

	mu     sync.Mutex
	fail   int
	bodies []map[string]any
}

func (p *provider) got() []map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]map[string]any{}, p.bodies...)
}

func (p *provider) setFail(code int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = code
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.fail != 0 {
			http.Error(w, "told to", p.fail)
			return
		}
		var body map[string]any
		_ = json.NewDecoder(r.Body).Decode(&body)
		p.bodies = append(p.bodies, body)
		_, _ = w.Write([]byte(`{"id":"1"}`))
	}))
	t.Cleanup(p.Close)
	return p
}

// newPost starts all of it; first are statements for before the engine starts.
func newPost(t *testing.T, first ...string) *post {
	t.Helper()
	p := &post{sms: newProvider(t), folder: t.TempDir()}
	var err error
	p.box, err = mailbox.Start(t.Context(), "127.0.0.1:0")
	ok(t, err)
	t.Cleanup(func() { _ = p.box.Close() })
	d := dbtest.New(t)
	for _, sql := range first {
		_, err := d.Pool.Exec(t.Context(), sql)
		ok(t, err)
	}
	log := &safeBuffer{}
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the engine's log:\n%s", log)
		}
	})
	p.engine = startEngine(t, d.URL, logger, p.box.URL(), p.folder)
	s, err := server.New(server.Config{
		Pool: p.engine.Pool(), River: p.engine.River(), Objects: p.engine.Catalog(), Actions: p.engine.Registry(), Logger: logger,
		Notifications: p.engine.Notifications(), Version: "test",
	})
	ok(t, err)
	p.site = &site{t: t, pool: d.Pool, server: s, log: log}
	p.http = httptest.NewServer(s)
	t.Cleanup(p.http.Close)
	org := "a"
	p.a, _, err = server.CreateKey(t.Context(), d.Pool, &org, "test")
	ok(t, err)
	p.exec(`INSERT INTO pgautomate.integrations (organization_id, identifier, provider_id, channel, credentials, is_primary)
		VALUES ('a', 'sms', 'generic-sms', 'sms', jsonb_build_object('baseUrl', $1::text), true)`, p.sms.URL)
	return p
}

func startEngine(t *testing.T, url string, logger *slog.Logger, smtp, folder string) *pgautomate.Engine {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	engine, err := pgautomate.New(ctx, pgautomate.Config{
		DatabaseURL: url, Logger: logger, SMTPURL: smtp, Parts: []pgautomate.Part{pgautomate.SchedulerPart, pgautomate.WorkersPart},
		AttachmentsURL: "file://" + folder, WebhookAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Poll: 10 * time.Millisecond,
		WorkersPerType: 20,
	})
	ok(t, err)
	ok(t, engine.Prepare(ctx))
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the engine: %v", err)
		}
	})
	return engine
}

func (p *post) exec(sql string, args ...any) {
	p.t.Helper()
	_, err := p.pool.Exec(p.t.Context(), sql, args...)
	ok(p.t, err)
}

func value[T any](t testing.TB, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// text reads one text.
func (p *post) text(sql string, args ...any) string {
	p.t.Helper()
	return value[string](p.t, p.pool, sql, args...)
}

// until waits until a query gives what is wanted.
func (p *post) until(want, sql string, args ...any) {
	p.t.Helper()
	got := ""
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if got = p.text(sql, args...); got == want {
			return
		}
	}
	p.t.Fatalf("%s\n gave %q, wanted %q\njobs: %s", sql, got, want, p.text(`SELECT coalesce(jsonb_agg(to_jsonb(j) ORDER BY j.id), '[]')::text FROM pgautomate.notification_jobs j`))
}

const (
	statuses = `SELECT coalesce(string_agg(action_type || ':' || status, ' ' ORDER BY notification_id, sequence_number), '') FROM pgautomate.notification_jobs`
	ofEvent  = statuses + ` WHERE transaction_id = $1`
	contents = `SELECT coalesce(string_agg(content, '|' ORDER BY id), '') FROM pgautomate.messages`
)

// template is a v1 step.
func template(kind, content string, more ...string) string {
	extra := ""
	for _, m := range more {
		extra += "," + m
	}
	return fmt.Sprintf(`{"template":{"type":%q,"content":%q,"subject":"S"}%s}`, kind, content, extra)
}

func digest(metadata string) string {
	return `{"template":{"type":"digest","content":""},"metadata":` + metadata + `}`
}

func delay(metadata string) string {
	return `{"template":{"type":"delay","content":""},"metadata":` + metadata + `}`
}

const d2 = `{"type":"regular","amount":2,"unit":"seconds"}`

// workflow makes an active workflow by the v1 route; extra members may change that.
func (p *post) workflow(name string, steps []string, more ...string) string {
	p.t.Helper()
	extra := `,"active":true`
	if len(more) > 0 {
		extra = "," + strings.Join(more, ",")
	}
	a := p.call(201, "POST", "/v1/notification-templates", p.a,
		fmt.Sprintf(`{"name":%q,"notificationGroupId":"g","steps":[%s]%s}`, name, strings.Join(steps, ","), extra))
	return fmt.Sprint(a.get("data", "_id"))
}

// trigger triggers and insists on the status.
func (p *post) trigger(want, body string) string {
	p.t.Helper()
	a := p.call(201, "POST", "/v1/events/trigger", p.a, body)
	if got := a.get("data", "status"); got != want || a.get("data", "acknowledged") != true {
		p.t.Fatalf("%s: %s", body, a.raw)
	}
	id, _ := a.get("data", "transactionId").(string)
	return id
}

// subscriber makes a subscriber with e-mail and phone.
func (p *post) subscriber(id string) {
	p.t.Helper()
	p.call(201, "POST", "/v2/subscribers", p.a, fmt.Sprintf(`{"subscriberId":%q,"email":"%s@example.com","phone":"+1555"}`, id, id))
}

func (p *post) notified() int64 {
	p.t.Helper()
	return value[int64](p.t, p.pool, `SELECT count(*) FROM pgautomate.notifications`)
}

// Cases 1 to 8 and 12, 13: what a trigger is answered.
func TestTriggerAnswers(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	p.workflow("two", []string{template("email", "hello"), template("sms", "hello")})
	p.workflow("empty", nil)
	p.workflow("asleep", []string{template("email", "x", `"active":false`)})
	off := p.workflow("off", []string{template("in_app", "x")}, `"active":false`)
	p.workflow("draft", []string{template("in_app", "x")}, `"draft":true`)

	if id := p.trigger("processed", `{"name":"two","to":"S1","payload":{}}`); id == "" {
		t.Error("no transactionId")
	}
	if id := p.trigger("processed", `{"name":"two","to":{"subscriberId":"S1"},"transactionId":"tx-42"}`); id != "tx-42" {
		t.Errorf("transactionId %q", id)
	}
	p.until("trigger:completed email:completed sms:completed", ofEvent, "tx-42")
	if got := p.text(`SELECT transaction_id FROM pgautomate.notifications WHERE transaction_id = 'tx-42'`); got != "tx-42" {
		t.Error(got)
	}
	before := p.notified()
	a := p.call(422, "POST", "/v1/events/trigger", p.a, `{"name":"nope","to":"S1"}`)
	if a.get("message") != "workflow_not_found" {
		t.Error(a.raw)
	}
	for _, key := range []string{"", "wrong"} {
		p.call(401, "POST", "/v1/events/trigger", key, `{"name":"two","to":"S1"}`)
	}
	p.trigger("no_workflow_steps_defined", `{"name":"empty","to":"S1"}`)
	p.trigger("no_workflow_active_steps_defined", `{"name":"asleep","to":"S1"}`)
	for _, name := range []string{"off", "draft"} {
		if id := p.trigger("trigger_not_active", `{"name":"`+name+`","to":"S1"}`); id != "" {
			t.Errorf("%s: transactionId %q", name, id)
		}
	}
	p.trigger("no_tenant_found", `{"name":"two","to":"S1","tenant":"ghost"}`)
	p.trigger("invalid_recipients", `{"name":"two","to":[{"subscriberId":""}]}`)
	many := strings.TrimSuffix(strings.Repeat(`"S",`, 101), ",")
	for _, body := range []string{`{"name":"two"}`, `{"to":"S1"}`, `{"name":"two","to":[` + many + `]}`, `{"name":"two","to":"S1","payload":[]}`} {
		if a := p.do(p.request("POST", "/v1/events/trigger", p.a, body)); a.status < 400 || a.status >= 500 {
			t.Errorf("%.60s: %d", body, a.status)
		}
	}
	if n := p.notified(); n != before {
		t.Errorf("%d notifications were made of what was not accepted", n-before)
	}
	p.call(200, "PUT", "/v1/notification-templates/"+off+"/status", p.a, `{"active":true}`)
	p.trigger("processed", `{"name":"off","to":"S1"}`)
}

// Cases 9 to 11: variables of the payload.
func TestTriggerVariables(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("needs", []string{`{"template":{"type":"in_app","content":"{{x}}","variables":[
		{"name":"x","type":"String","required":true},{"name":"y","type":"Array","required":true},{"name":"z","type":"Boolean","required":true}]}}`})
	p.workflow("defaults", []string{`{"template":{"type":"in_app","content":"Hi {{who}}","variables":[{"name":"who","type":"String","required":true,"defaultValue":"you"}]}}`})
	a := p.call(400, "POST", "/v1/events/trigger", p.a, `{"name":"needs","to":"S1","payload":{}}`)
	if a.get("message") != "payload is missing required key(s) and type(s): x (Value), y (Array), z (Boolean)" {
		t.Error(a.raw)
	}
	a = p.call(400, "POST", "/v1/events/trigger", p.a, `{"name":"needs","to":"S1","payload":{"x":"a","y":"no list","z":true}}`)
	if a.get("message") != "payload is missing required key(s) and type(s): y (Array)" {
		t.Error(a.raw)
	}
	p.trigger("processed", `{"name":"needs","to":"S1","payload":{"x":"","y":[],"z":false}}`)
	p.trigger("processed", `{"name":"defaults","to":"S2","payload":{}}`)
	p.until("Hi you", contents+` WHERE subscriber_id = 'S2'`)
	p.trigger("processed", `{"name":"defaults","to":"S3","payload":{"who":"Ann"}}`)
	p.until("Hi Ann", contents+` WHERE subscriber_id = 'S3'`)
}

// Cases 14 to 17: subscribers in the trigger.
func TestTriggerSubscribers(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("mail", []string{template("email", "hello")})
	p.trigger("processed", `{"name":"mail","to":{"subscriberId":"S9","email":"s9@example.com","firstName":"Nina"}}`)
	a := p.call(200, "GET", "/v2/subscribers/S9", p.a, "")
	if a.get("data", "email") != "s9@example.com" || a.get("data", "firstName") != "Nina" {
		t.Error(a.raw)
	}
	p.trigger("processed", `{"name":"mail","to":{"subscriberId":"S9"}}`)
	p.trigger("processed", `{"name":"mail","to":{"subscriberId":"S9","email":""}}`)
	if got := p.text(`SELECT email FROM pgautomate.subscribers WHERE subscriber_id = 'S9'`); got != "s9@example.com" {
		t.Error(got)
	}
	id := p.trigger("processed", `{"name":"mail","to":"S9","payload":{"email":"b@example.com"}}`)
	p.until("b@example.com", `SELECT coalesce(max(recipient), '') FROM pgautomate.messages WHERE transaction_id = $1`, id)
	if got := p.text(`SELECT email FROM pgautomate.subscribers WHERE subscriber_id = 'S9'`); got != "s9@example.com" {
		t.Error(got)
	}
	id = p.trigger("processed", `{"name":"mail","to":["S1","S1",{"subscriberId":"S1"}]}`)
	if n := value[int64](t, p.pool, `SELECT count(*) FROM pgautomate.notifications WHERE transaction_id = $1`, id); n != 1 {
		t.Errorf("%d notifications", n)
	}
	p.trigger("processed", `{"name":"mail","to":{"subscriberId":"S9","email":null}}`)
	if n := value[int64](t, p.pool, `SELECT count(*) FROM pgautomate.subscribers WHERE subscriber_id = 'S9' AND email IS NULL`); n != 1 {
		t.Error("an e-mail of null does not unset it")
	}
}

// Cases 18, 19, 21, 22: a job's life.
func TestNotificationLifecycle(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	p.workflow("three", []string{template("email", "a"), template("sms", "b"), template("in_app", "c", `"active":false`)})
	id := p.trigger("processed", `{"name":"three","to":"S1"}`)
	p.until("trigger:completed email:completed sms:completed", ofEvent, id)
	if n := value[int64](t, p.pool, `SELECT count(*) FROM pgautomate.messages WHERE transaction_id = $1`, id); n != 2 {
		t.Errorf("%d messages", n)
	}
	a := p.call(200, "GET", "/v1/notifications?transactionId="+id, p.a, "")
	if got := fmt.Sprint(a.get("data", "data", 0, "channels")); got != "[email sms]" {
		t.Errorf("channels %s", got)
	}

	p.workflow("one", []string{template("in_app", "hello {{subscriber.subscriberId}}")})
	id = p.trigger("processed", `{"name":"one","to":"S1"}`)
	p.until("trigger:completed in_app:completed", ofEvent, id)
	a = p.call(200, "GET", "/v1/notifications?transactionId="+id, p.a, "")
	var trail []string
	details, _ := a.get("data", "data", 0, "jobs", 1, "executionDetails").([]any)
	for _, d := range details {
		trail = append(trail, fmt.Sprint(d.(map[string]any)["detail"]))
	}
	if got := strings.Join(trail, ", "); got != "Step created, Step queued, Start sending message, Message created, Message sent" {
		t.Error(got)
	}
	if got := p.text(contents+` WHERE transaction_id = $1`, id); got != "hello S1" {
		t.Error(got)
	}

	// The phone's provider refuses for good: the next step runs, unless the step says no.
	p.sms.setFail(400)
	p.workflow("goes on", []string{template("sms", "x"), template("email", "y")})
	id = p.trigger("processed", `{"name":"goes-on","to":"S1"}`)
	p.until("trigger:completed sms:failed email:completed", ofEvent, id)
	if got := p.text(`SELECT error FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type = 'sms'`, id); !strings.Contains(got, "400") {
		t.Errorf("error %q", got)
	}
	if got := p.text(`SELECT status FROM pgautomate.messages WHERE transaction_id = $1 AND channel = 'sms'`, id); got != "error" {
		t.Errorf("message %q", got)
	}
	p.workflow("stops", []string{template("sms", "x", `"shouldStopOnFail":true`), template("email", "y")})
	id = p.trigger("processed", `{"name":"stops","to":"S1"}`)
	p.until("trigger:completed sms:failed email:canceled", ofEvent, id)

	// No phone: nothing is sent.
	p.sms.setFail(0)
	before := len(p.sms.got())
	id = p.trigger("processed", `{"name":"goes-on","to":{"subscriberId":"S2","email":"s2@example.com"}}`)
	p.until("trigger:completed sms:canceled email:completed", ofEvent, id)
	if got := p.text(`SELECT status FROM pgautomate.messages WHERE transaction_id = $1 AND channel = 'sms'`, id); got != "warning" {
		t.Errorf("message %q", got)
	}
	if len(p.sms.got()) != before {
		t.Error("the provider was called")
	}

	// No integration: failed, saying so.
	p.workflow("pushes", []string{template("push", "x")})
	id = p.trigger("processed", `{"name":"pushes","to":"S1"}`)
	p.until("trigger:completed push:failed", ofEvent, id)
	if got := p.text(`SELECT error FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type = 'push'`, id); !strings.Contains(got, "integration") {
		t.Errorf("error %q", got)
	}
}

// Cases 20, 24 to 29 and 32: digests.
func TestDigestRegular(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	p.workflow("case 20", []string{template("email", "a"), digest(d2), template("in_app", "{{step.total_count}}")})
	id := p.trigger("processed", `{"name":"case-20","to":"S1"}`)
	p.until("trigger:completed email:completed digest:delayed in_app:pending", ofEvent, id)

	p.workflow("case 24", []string{digest(d2), template("in_app", "{{step.total_count}}:{% for e in step.events %}{{e.n}}{% endfor %}:{{n}}")})
	one := p.trigger("processed", `{"name":"case-24","to":"S2","payload":{"n":1}}`)
	two := p.trigger("processed", `{"name":"case-24","to":"S2","payload":{"n":2}}`)
	p.until("trigger:completed digest:delayed in_app:pending", ofEvent, one)
	p.until("trigger:completed digest:merged in_app:merged", ofEvent, two)
	p.until("trigger:completed digest:completed in_app:completed", ofEvent, one)
	if got := p.text(contents + ` WHERE subscriber_id = 'S2'`); got != "2:12:1" {
		t.Errorf("content %q", got)
	}
	a := p.call(200, "GET", "/v1/notifications?transactionId="+one, p.a, "")
	if got := fmt.Sprint(a.get("data", "data", 0, "jobs", 1, "digest", "events")); got != "[map[n:1] map[n:2]]" {
		t.Errorf("events %s", got)
	}
	a = p.call(200, "GET", "/v1/notifications?transactionId="+two, p.a, "")
	if got := a.get("data", "data", 0, "_digestedNotificationId"); got != p.text(`SELECT id::text FROM pgautomate.notifications WHERE transaction_id = $1`, one) {
		t.Errorf("digested into %v", got)
	}

	p.workflow("case 25", []string{digest(`{"type":"regular","amount":0.2,"unit":"seconds"}`), template("sms", "{{step.total_count}}")})
	id = p.trigger("processed", `{"name":"case-25","to":"S1"}`)
	p.until("trigger:completed digest:completed sms:completed", ofEvent, id)
	if got := p.text(contents+` WHERE transaction_id = $1`, id); got != "1" {
		t.Errorf("content %q", got)
	}

	p.workflow("case 26", []string{template("in_app", "{% if step.digest %}yes{% else %}no{% endif %}"), digest(`{"type":"regular","amount":0.2,"unit":"seconds"}`),
		template("in_app", "{% if step.digest %}yes{% else %}no{% endif %}")})
	id = p.trigger("processed", `{"name":"case-26","to":"S1"}`)
	p.until("no|yes", contents+` WHERE transaction_id = $1`, id)

	p.workflow("case 27", []string{digest(`{"type":"regular","amount":2,"unit":"seconds","digestKey":"a.id"}`), template("in_app", "{{step.total_count}}")})
	for _, key := range []string{"k1", "k1", "k2"} {
		p.trigger("processed", `{"name":"case-27","to":"S3","payload":{"a":{"id":"`+key+`"}}}`)
	}
	p.until("1 2", `SELECT coalesce(string_agg(content, ' ' ORDER BY content), '') FROM pgautomate.messages WHERE subscriber_id = 'S3'`)
	p.until("completed=2 merged=1", `SELECT string_agg(status || '=' || n, ' ' ORDER BY status) FROM (
		SELECT status::text, count(*) AS n FROM pgautomate.notification_jobs WHERE action_type = 'digest' AND subscriber_id = 'S3' GROUP BY 1) x`)

	p.workflow("case 28", []string{digest(`{"type":"regular","amount":2,"unit":"seconds","digestKey":"payload.id"}`), template("in_app", "{{step.total_count}}")})
	for _, payload := range []string{`{"id":"a"}`, `{}`, `{"id":"a"}`} {
		p.trigger("processed", `{"name":"case-28","to":"S4","payload":`+payload+`}`)
	}
	p.until("delayed=2 merged=1", `SELECT string_agg(status || '=' || n, ' ' ORDER BY status) FROM (
		SELECT status::text, count(*) AS n FROM pgautomate.notification_jobs WHERE action_type = 'digest' AND subscriber_id = 'S4' GROUP BY 1) x`)

	p.workflow("case 29", []string{template("sms", "first"), digest(d2), template("sms", "{{step.total_count}}")})
	for range 3 {
		p.trigger("processed", `{"name":"case-29","to":{"subscriberId":"S5","phone":"+15"}}`)
	}
	p.until("first|first|first|3", contents+` WHERE subscriber_id = 'S5'`)

	p.workflow("case 32", []string{digest(d2), template("in_app", "{% for e in step.events %}{{e.who}}{% endfor %}")})
	for _, who := range []string{"S6", "S7", "S6", "S7"} {
		p.trigger("processed", `{"name":"case-32","to":"`+who+`","payload":{"who":"`+who+`"}}`)
	}
	p.until("S6S6", contents+` WHERE subscriber_id = 'S6'`)
	p.until("S7S7", contents+` WHERE subscriber_id = 'S7'`)
}

// Cases 30 and 31: ten events in one window, one after the other and at once; the
// latter 50 times.
func TestDigestConcurrent(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("digest", []string{digest(`{"type":"regular","amount":1.5,"unit":"seconds"}`), template("in_app", "{{step.total_count}}")})
	count := func(who, status string) string {
		return p.text(`SELECT count(*)::text FROM pgautomate.notification_jobs WHERE action_type = 'digest' AND subscriber_id = $1 AND status::text = $2`, who, status)
	}
	for range 10 {
		p.trigger("processed", `{"name":"digest","to":"one by one"}`)
	}
	p.until("10", contents+` WHERE subscriber_id = 'one by one'`)
	if got := count("one by one", "merged"); got != "9" {
		t.Errorf("%s merged", got)
	}
	const rounds, events = 50, 10
	var all sync.WaitGroup
	for r := range rounds {
		who := fmt.Sprintf("at once %d", r)
		var group sync.WaitGroup
		for e := range events {
			group.Go(func() {
				p.trigger("processed", fmt.Sprintf(`{"name":"digest","to":%q,"payload":{"n":%d}}`, who, e))
			})
		}
		group.Wait()
		all.Go(func() {
			// All within one window, or shared by several when the machine is slow: each event once.
			p.until("10", `SELECT coalesce(sum(content::int), 0)::text FROM pgautomate.messages WHERE subscriber_id = $1`, who)
			masters := count(who, "completed")
			if merged := count(who, "merged"); masters != "1" || merged != "9" {
				t.Errorf("%s: %s windows, %s merged", who, masters, merged)
			}
		})
	}
	all.Wait()
	if got := p.text(`SELECT count(*)::text FROM (
		SELECT e ->> 'id' FROM pgautomate.notification_jobs j, jsonb_array_elements(j.result -> 'events') e WHERE j.action_type = 'digest' GROUP BY 1 HAVING count(*) > 1) x`); got != "0" {
		t.Errorf("%s events are in more than one digest", got)
	}
}

// Cases 33 and 34: the first event goes through, the next ones wait.
func TestDigestBackoff(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("v1", []string{digest(`{"type":"backoff","amount":2,"unit":"seconds","backoffAmount":10,"backoffUnit":"seconds"}`),
		template("in_app", "{{step.total_count}}{% if step.digest %}d{% endif %}")})
	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"v2","workflowId":"v2","active":true,"steps":[
		{"name":"D","type":"digest","controlValues":{"type":"regular","amount":2,"unit":"seconds","lookBackWindow":{"amount":10,"unit":"seconds"}}},
		{"name":"I","type":"in_app","controlValues":{"body":"{{steps.d.eventCount}}{% if step.digest %}d{% endif %}"}}]}`)
	for name, alone := range map[string]string{"v1": "0", "v2": ""} {
		who := "S" + name
		first := p.trigger("processed", `{"name":"`+name+`","to":"`+who+`"}`)
		p.until("trigger:completed digest:skipped in_app:completed", ofEvent, first)
		if got := p.text(contents+` WHERE transaction_id = $1`, first); got != alone {
			t.Errorf("%s: the first says %q", name, got)
		}
		second := p.trigger("processed", `{"name":"`+name+`","to":"`+who+`"}`)
		p.until("trigger:completed digest:delayed in_app:pending", ofEvent, second)
		third := p.trigger("processed", `{"name":"`+name+`","to":"`+who+`"}`)
		p.until("trigger:completed digest:merged in_app:merged", ofEvent, third)
		p.until("2d", contents+` WHERE transaction_id = $1`, second)
	}
	// At once: one goes through, one opens the window, the others are merged.
	for r := range 50 {
		who := fmt.Sprintf("at once %d", r)
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() { p.trigger("processed", `{"name":"v1","to":"`+who+`"}`) })
		}
		group.Wait()
		p.until("delayed=1 merged=3 skipped=1", `SELECT coalesce(string_agg(status || '=' || n, ' ' ORDER BY status), '') FROM (
			SELECT status::text, count(*) AS n FROM pgautomate.notification_jobs WHERE action_type = 'digest' AND subscriber_id = $1 GROUP BY 1) x`, who)
	}
}

// Cases 35 to 37: delays.
func TestDelay(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("case 35", []string{template("in_app", "before"), delay(`{"type":"regular","amount":2,"unit":"seconds"}`), template("in_app", "after")})
	id := p.trigger("processed", `{"name":"case-35","to":"S1"}`)
	p.until("trigger:completed in_app:completed delay:delayed in_app:pending", ofEvent, id)
	p.until("before|after", contents+` WHERE transaction_id = $1`, id)
	late := value[float64](t, p.pool, `SELECT extract(epoch FROM d.finished_at - (d.started_at + interval '2 seconds'))::float8
		FROM pgautomate.notification_jobs d WHERE d.transaction_id = $1 AND d.action_type = 'delay'`, id)
	if late < -0.2 || late > 1 {
		t.Errorf("woke %.2f s late", late)
	}
	p.workflow("case 36", []string{delay(`{"type":"regular","amount":60,"unit":"seconds"}`), template("in_app", "x")})
	id = p.trigger("processed", `{"name":"case-36","to":"S1","overrides":{"delay":{"amount":1,"unit":"seconds"}}}`)
	p.until("trigger:completed delay:completed in_app:completed", ofEvent, id)

	p.workflow("case 37", []string{delay(`{"type":"scheduled","delayPath":"sendAt"}`), template("in_app", "x")})
	at := time.Now().Add(30 * time.Second).UTC().Truncate(time.Second)
	id = p.trigger("processed", `{"name":"case-37","to":"S1","payload":{"sendAt":"`+at.Format(time.RFC3339)+`"}}`)
	p.until("trigger:completed delay:delayed in_app:pending", ofEvent, id)
	if got := value[time.Time](t, p.pool, `SELECT perform_at FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type = 'delay'`, id); !got.Equal(at) {
		t.Errorf("wakes at %s, wanted %s", got, at)
	}
	for _, payload := range []string{`{}`, `{"sendAt":"20-09-2025"}`} {
		a := p.call(400, "POST", "/v1/events/trigger", p.a, `{"name":"case-37","to":"S1","payload":`+payload+`}`)
		if a.get("message") != "payload is missing required key(s) and type(s): sendAt (ISO Date)" {
			t.Error(a.raw)
		}
	}
	id = p.trigger("processed", `{"name":"case-37","to":"S1","payload":{"sendAt":"2020-01-01T00:00:00Z"}}`)
	p.until("trigger:completed delay:failed in_app:canceled", ofEvent, id)

	p.workflow("dynamic", []string{delay(`{"type":"dynamic","dynamicKey":"payload.wait"}`), template("in_app", "x")})
	id = p.trigger("processed", `{"name":"dynamic","to":"S1","payload":{"wait":{"amount":0.2,"unit":"seconds"}}}`)
	p.until("trigger:completed delay:completed in_app:completed", ofEvent, id)
}

// Cases 38 and 39: filters and preferences.
func TestStepsHeldBack(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	filter := `"filters":[{"isNegated":false,"type":"GROUP","value":"AND","children":[{"on":"payload","field":"exclude","operator":"IS_DEFINED","value":""}]}]`
	for _, held := range []string{"delay", "digest"} {
		step := `{"template":{"type":"` + held + `","content":""},"metadata":{"type":"regular","amount":2,"unit":"seconds"},` + filter + `}`
		p.workflow(held, []string{template("email", "a"), step, template("email", "b {{step.total_count}}")})
		id := p.trigger("processed", `{"name":"`+held+`","to":"S1","payload":{}}`)
		status := map[string]string{"delay": "canceled", "digest": "skipped"}[held]
		p.until("trigger:completed email:completed "+held+":"+status+" email:completed", ofEvent, id)
		filtered := `SELECT count(*)::text FROM pgautomate.execution_details d JOIN pgautomate.notifications n ON n.id = d.notification_id
			WHERE n.transaction_id = $1 AND d.detail LIKE 'Step was filtered%'`
		if got := p.text(filtered, id); got != "1" {
			t.Errorf("%s: %s details say filtered", held, got)
		}
		id = p.trigger("processed", `{"name":"`+held+`","to":"S1","payload":{"exclude":false}}`)
		p.until("trigger:completed email:completed "+held+":completed email:completed", ofEvent, id)
		if got := p.text(filtered, id); got != "0" {
			t.Errorf("%s: %s details say filtered", held, got)
		}
	}
	wf := p.workflow("wanted", []string{template("email", "a"), template("in_app", "b")})
	p.call(200, "PATCH", "/v2/subscribers/S1/preferences", p.a, `{"workflowId":"wanted","channels":{"in_app":false}}`)
	id := p.trigger("processed", `{"name":"wanted","to":"S1"}`)
	p.until("trigger:completed email:completed in_app:canceled", ofEvent, id)
	p.call(200, "PUT", "/v1/notification-templates/"+wf, p.a, `{"critical":true}`)
	id = p.trigger("processed", `{"name":"wanted","to":"S1"}`)
	p.until("trigger:completed email:completed in_app:completed", ofEvent, id)

	p.call(201, "POST", "/v2/workflows", p.a, `{"name":"skips","workflowId":"skips","active":true,"steps":[
		{"name":"I","type":"in_app","controlValues":{"body":"x","skip":{"==":[{"var":"payload.quiet"},true]}}},
		{"name":"J","type":"in_app","controlValues":{"body":"y"}}]}`)
	id = p.trigger("processed", `{"name":"skips","to":"S1","payload":{"quiet":true}}`)
	p.until("trigger:completed in_app:skipped in_app:completed", ofEvent, id)
	id = p.trigger("processed", `{"name":"skips","to":"S1","payload":{"quiet":false}}`)
	p.until("trigger:completed in_app:completed in_app:completed", ofEvent, id)

	p.exec(`INSERT INTO pgautomate.suppressions (organization_id, subscriber_id, channel, reason) VALUES ('a', 'S1', 'email', 'unsubscribed')`)
	id = p.trigger("processed", `{"name":"wanted","to":"S1"}`)
	p.until("trigger:completed email:canceled/unsubscribed in_app:completed", `SELECT string_agg(action_type || ':' || concat_ws('/', status, reason), ' ' ORDER BY sequence_number)
		FROM pgautomate.notification_jobs WHERE transaction_id = $1`, id)
}

// Cases 40 and 41, and what goes beyond: a canceled digest hands over.
func TestCancel(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("delayed", []string{delay(`{"type":"regular","amount":5,"unit":"seconds"}`), template("in_app", "x")})
	p.workflow("digested", []string{digest(`{"type":"regular","amount":3,"unit":"seconds"}`), template("in_app", "{{step.total_count}}:{% for e in step.events %}{{e.n}}{% endfor %}")})
	cancel := func(id string) any {
		return p.call(200, "DELETE", "/v1/events/trigger/"+id, p.a, "").get("data")
	}
	if cancel("nothing") != false {
		t.Error("an unknown transaction was canceled")
	}
	// At every moment of the jobs' lives: right away, and later.
	var ids []string
	for r := range 50 {
		name := []string{"delayed", "digested"}[r%2]
		id := p.trigger("processed", fmt.Sprintf(`{"name":%q,"to":["A%d","B%d"]}`, name, r, r))
		time.Sleep(time.Duration(r%10) * 7 * time.Millisecond)
		if cancel(id) != true {
			t.Errorf("%s %d was not canceled", name, r)
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		p.until("0", `SELECT count(*)::text FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type <> 'trigger' AND status <> 'canceled'`, id)
	}
	if cancel(ids[0]) != false {
		t.Error("canceled twice")
	}

	one := p.trigger("processed", `{"name":"digested","to":["S1","S2"],"payload":{"n":1}}`)
	p.until("trigger:completed digest:delayed in_app:pending trigger:completed digest:delayed in_app:pending", ofEvent, one)
	ends := p.text(`SELECT min(perform_at)::text FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type = 'digest'`, one)
	two := p.trigger("processed", `{"name":"digested","to":["S1","S2"],"payload":{"n":2}}`)
	three := p.trigger("processed", `{"name":"digested","to":["S1","S2"],"payload":{"n":3}}`)
	merged := "trigger:completed digest:merged in_app:merged trigger:completed digest:merged in_app:merged"
	p.until(merged, ofEvent, two)
	p.until(merged, ofEvent, three)
	if cancel(one) != true {
		t.Error("not canceled")
	}
	p.until("trigger:completed digest:delayed in_app:pending trigger:completed digest:delayed in_app:pending", ofEvent, two)
	if got := p.text(`SELECT min(perform_at)::text FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND action_type = 'digest'`, two); got != ends {
		t.Errorf("the window ends at %s, was to end at %s", got, ends)
	}
	p.until("2:23|2:23", contents+` WHERE transaction_id = $1`, two)
	p.until(merged, ofEvent, three)
	if n := value[int64](t, p.pool, `SELECT count(*) FROM pgautomate.messages`); n != 2 {
		t.Errorf("%d messages", n)
	}
}

// Cases 42 to 44: many at once.
func TestManyRecipients(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("in_app", "x")})
	a := p.call(201, "POST", "/v1/events/trigger/bulk", p.a, `{"events":[
		{"name":"w","to":"S1","transactionId":"1111"},{"name":"nope","to":"S1"},{"name":"w","to":"S1","transactionId":"2222"},{"name":"w","to":"S1","transactionId":"3333"}]}`)
	if got := fmt.Sprintln(a.get("data", 0, "transactionId"), a.get("data", 1, "status"), a.get("data", 1, "error"), a.get("data", 2, "transactionId"),
		a.get("data", 3, "transactionId")); got != "1111 error [workflow_not_found] 2222 3333\n" {
		t.Error(got)
	}
	many := strings.TrimSuffix(strings.Repeat(`{"name":"w","to":"S1"},`, 101), ",")
	a = p.call(400, "POST", "/v1/events/trigger/bulk", p.a, `{"events":[`+many+`]}`)
	if got := a.get("message", 0); got != "events must contain no more than 100 elements" {
		t.Error(a.raw)
	}

	p.exec(`DELETE FROM pgautomate.subscribers WHERE organization_id = 'a'`)
	for i := range 5 {
		p.subscriber(fmt.Sprint("B", i))
	}
	p.call(200, "DELETE", "/v2/subscribers/B4", p.a, "")
	p.subscriber("B5")
	a = p.do(p.request("POST", "/v1/events/trigger/broadcast", p.a, `{"name":"w","payload":{},"transactionId":"all"}`))
	if a.get("data", "status") != "processed" {
		t.Fatal(a.raw)
	}
	p.until("B0 B1 B2 B3 B5", `SELECT coalesce(string_agg(subscriber_id, ' ' ORDER BY subscriber_id), '') FROM pgautomate.notifications WHERE transaction_id = 'all'`)

	p.engine.Notifications().Chunk = 50
	p.exec(`INSERT INTO pgautomate.subscribers (organization_id, subscriber_id) SELECT 'a', 'T' || g FROM generate_series(1, 236) g`)
	var members []string
	for i := range 236 {
		members = append(members, fmt.Sprintf(`"T%d"`, i+1))
	}
	a = p.call(201, "POST", "/v2/topics/fans/subscriptions", p.a, `{"subscriberIds":[`+strings.Join(members, ",")+`,"ghost"]}`)
	if got := fmt.Sprintln(a.get("data", "meta", "successful"), a.get("data", "meta", "failed")); got != "236 1\n" {
		t.Error(got)
	}
	for id, body := range map[string]string{
		"all-of-it": `{"name":"w","to":[{"type":"Topic","topicKey":"fans"}],"transactionId":"all-of-it"}`,
		"lone":      `{"name":"w","to":{"type":"Topic","topicKey":"fans"},"transactionId":"lone"}`,
	} {
		p.trigger("processed", body)
		p.until("236 236", `SELECT count(*) || ' ' || count(DISTINCT subscriber_id) FROM pgautomate.notifications WHERE transaction_id = $1`, id)
	}
	p.trigger("processed", `{"name":"w","to":[{"type":"Topic","topicKey":"fans"},"T1","new",{"type":"Topic","topicKey":"no such"}],"actor":"T7","transactionId":"acted"}`)
	p.until("done", `SELECT status FROM pgautomate.notification_events WHERE transaction_id = 'acted'`)
	if got := p.text(`SELECT count(*) || ' ' || count(*) FILTER (WHERE subscriber_id = 'T7') FROM pgautomate.notifications WHERE transaction_id = 'acted'`); got != "236 0" {
		t.Errorf("%s notifications in all and for the actor", got)
	}
	if got := p.text(`SELECT error FROM pgautomate.notification_events WHERE transaction_id = 'acted'`); got != "Topic with key no such not found in current environment" {
		t.Error(got)
	}
}
