package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate"
	"github.com/pgautomate/pgautomate/internal/dbtest"
	"github.com/pgautomate/pgautomate/mailbox"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// provider is a real HTTP server that answers as told, by path, and keeps the
// requests.
type provider struct {
	*httptest.Server

	mu       sync.Mutex
	requests map[string][]*http.Request
	bodies   map[string][]string
	at       map[string][]time.Time
}

// newProvider's answer gets the path and how many requests of it came before.
func newProvider(t *testing.T, answer func(w http.ResponseWriter, path string, before int)) *provider {
	t.Helper()
	p := &provider{requests: map[string][]*http.Request{}, bodies: map[string][]string{}, at: map[string][]time.Time{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		before := len(p.requests[r.URL.Path])
		p.requests[r.URL.Path] = append(p.requests[r.URL.Path], r)
		p.bodies[r.URL.Path] = append(p.bodies[r.URL.Path], string(body))
		p.at[r.URL.Path] = append(p.at[r.URL.Path], time.Now())
		p.mu.Unlock()
		answer(w, r.URL.Path, before)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) header(path, name string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var values []string
	for _, r := range p.requests[path] {
		values = append(values, r.Header.Get(name))
	}
	return values
}

// TestP25Errors: what each kind of error leads to. All cases run at once in one
// engine.
func TestP25Errors(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.WebhookAllow = loopback
	web := newProvider(t, func(w http.ResponseWriter, path string, before int) {
		switch {
		case path == "/busy" && before == 0:
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusTooManyRequests)
		case path == "/broken" && before < 1:
			w.WriteHeader(http.StatusBadGateway)
		case path == "/gone":
			w.WriteHeader(http.StatusGone)
		}
	})
	hook := func(path, more string) act {
		return act{"webhook", fmt.Sprintf(`{"url": %q%s}`, web.URL+path, more)}
	}
	stages := map[string]int64{
		"twice":    w.stage("a", "twice", "s", act{"flaky", ""}, act{"log", `{"message": "next"}`}),
		"busy":     w.stage("a", "busy", "s", hook("/busy", ""), act{"log", `{"message": "next"}`}),
		"broken":   w.stage("a", "broken", "s", hook("/broken", `, "max_attempts": 2`), act{"log", `{"message": "next"}`}),
		"stop":     w.stage("a", "stop", "s", hook("/gone", ""), act{"log", `{"message": "never"}`}),
		"skip":     w.stage("a", "skip", "s", hook("/gone", `, "on_error": "skip"`), act{"log", `{"message": "next"}`}),
		"max":      w.stage("a", "max", "s", act{"never", `{"max_attempts": 2}`}, act{"log", `{"message": "never"}`}),
		"elsewher": w.stage("a", "elsewher", "s", hook("/gone", `, "on_error": {"stage": "rescue"}`), act{"log", `{"message": "never"}`}),
		"nowhere":  w.stage("a", "nowhere", "s", hook("/gone", `, "on_error": {"stage": "no such stage"}`), act{"log", `{"message": "never"}`}),
		"garbled":  w.stage("a", "garbled", "s", hook("/gone", `, "on_error": "jump"`), act{"log", `{"message": "never"}`}),
		"panics":   w.stage("a", "panics", "s", act{"panics", `{"max_attempts": 1}`}),
		"nul":      w.stage("a", "nul", "s", act{"nul", ""}, act{"nul", `{"max_attempts": 1, "error": true}`}),
	}
	rescue := w.stage("a", "elsewher", "rescue", logs("rescued")...)
	var flaky atomic.Int32
	w.run(
		handle("flaky", func(context.Context, *pgautomate.Action) (pgautomate.Result, error) {
			if flaky.Add(1) <= 2 {
				return pgautomate.Result{}, errors.New("not now")
			}
			return pgautomate.Result{Output: "done"}, nil
		}),
		handle("never", func(context.Context, *pgautomate.Action) (pgautomate.Result, error) {
			return pgautomate.Result{}, errors.New("never ever")
		}),
		handle("panics", func(context.Context, *pgautomate.Action) (pgautomate.Result, error) { panic("oh no") }),
		handle("nul", func(_ context.Context, a *pgautomate.Action) (pgautomate.Result, error) {
			if strings.Contains(string(a.Params), "error") {
				return pgautomate.Result{}, errors.New("bad \x00 bytes \xff")
			}
			return pgautomate.Result{Output: json.RawMessage(`{"\u0000": ["a\u0000b", "\ud800", 12345678901234567890.5]}`)}, nil
		}))
	runs := map[string]int64{}
	for name, stage := range stages {
		runs[name] = w.enter("a", name, stage)
	}
	// While the provider asks to wait, the attempt is given back and the next action waits for its turn.
	w.until("the provider has said 429", func() bool { return w.actionIs(w.action(runs["busy"], 1), "error") != "" })
	if got := w.actions(runs["busy"]) + " " + w.actionIs(w.action(runs["busy"], 1), "attempt"); got != "pending pending 0" {
		t.Errorf("after a 429: %q, want pending pending 0", got)
	}
	if got := w.actionIs(w.action(runs["busy"], 1), "error"); !strings.Contains(got, "429") {
		t.Errorf("after a 429 the error says %q", got)
	}
	if got := w.actionIs(w.action(runs["busy"], 2), "perform_at"); got != "" {
		t.Errorf("the next action is due at %s before its turn", got)
	}

	for _, c := range []struct{ name, run, actions, attempts, err string }{
		{"stop", "failed/failed", "failed canceled/failed", "1 0", "410"},
		{"skip", "completed", "failed completed", "1 1", "410"},
		{"elsewher", "completed/moved", "failed canceled/stage_left", "1 0", "410"},
		{"nowhere", "failed/failed", "failed canceled/failed", "1 0", "no such stage"},
		{"garbled", "failed/failed", "failed canceled/failed", "1 0", "on_error"},
		{"panics", "failed/failed", "failed", "1", "oh no"},
		{"nul", "failed/failed", "completed failed", "1 1", ""},
		{"busy", "completed", "completed completed", "1 1", ""},
		{"max", "failed/failed", "failed canceled/failed", "2 0", "never ever"},
		{"broken", "completed", "completed completed", "2 1", ""},
		{"twice", "completed", "completed completed", "3 1", ""},
	} {
		run := runs[c.name]
		w.untilRun(run, c.run)
		w.untilActions(run, c.actions)
		if got := one[string](w, `SELECT string_agg(attempt::text, ' ' ORDER BY sequence_number) FROM pgautomate.lead_stage_actions WHERE lead_stage_id = $1`, run); got != c.attempts {
			t.Errorf("%s: attempts %s, want %s", c.name, got, c.attempts)
		}
		got := w.actionIs(w.action(run, 1), "error")
		if !strings.Contains(got, c.err) || c.err == "" && got != "" || strings.Contains(got, "\n") {
			t.Errorf("%s: the error says %q, want %q in it, in one line", c.name, got, c.err)
		}
	}
	if got := w.actionIs(w.action(runs["nul"], 1), "result"); got != "{\"\uFFFD\": [\"a\uFFFDb\", \"\uFFFD\", 12345678901234567890.5]}" {
		t.Errorf("a result that Postgres can't hold became %s", got)
	}
	if got := w.actionIs(w.action(runs["nul"], 2), "error"); got != "bad \uFFFD bytes \uFFFD" {
		t.Errorf("an error that Postgres can't hold became %q", got)
	}
	w.untilRun(one[int64](w, `SELECT id FROM pgautomate.lead_stages WHERE pipeline_stage_id = $1`, rescue), "completed")
	if d := web.at["/busy"][1].Sub(web.at["/busy"][0]); d < 2*time.Second || d > 4*time.Second {
		t.Errorf("the provider asked for 2 s and got %s", d)
	}
	if n := len(web.at["/gone"]); n != 5 {
		t.Errorf("a permanent error was tried %d times for 5 actions", n)
	}
}

// TestP26SameKeyAgain: the provider has taken it, and then the process is gone.
func TestP26SameKeyAgain(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.WebhookAllow = loopback
	w.config.DeadAfter = 2 * time.Second
	box, err := mailbox.Start(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	w.config.SMTPURL, w.config.EmailFrom = box.URL(), "crm@example.com"
	accepted := make(chan string, 10)
	web := newProvider(t, func(_ http.ResponseWriter, path string, _ int) { accepted <- path })
	hook := w.stage("a", "p", "hook", act{"webhook", fmt.Sprintf(`{"url": %q, "body": {"n": 1}}`, web.URL+"/x")})
	mail := w.stage("a", "p", "mail", act{"email", `{"to": "ann@example.com", "subject": "hello", "body": "hi"}`})
	w.run()
	runs := []int64{w.enter("a", "1", hook), w.enter("a", "2", mail)}
	for _, run := range runs {
		w.untilRun(run, "completed")
	}
	// As if the process had died between the provider's answer and its own commit:
	// the action is still held by a worker that is no more.
	w.exec(`UPDATE pgautomate.lead_stages SET status = 'active', finished_at = NULL`)
	dead := one[int64](w, `INSERT INTO pgautomate.workers (hostname, pid, heartbeat_at) VALUES ('gone', 1, now() - interval '1 minute') RETURNING id`)
	w.exec(`UPDATE pgautomate.lead_stage_actions SET status = 'running', worker_id = $1, result = NULL, finished_at = NULL`, dead)
	for _, run := range runs {
		w.untilRun(run, "completed")
	}
	keys := web.header("/x", "Idempotency-Key")
	if len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("Idempotency-Keys %q, want two that are the same", keys)
	}
	if ids := web.header("/x", "webhook-id"); len(ids) != 2 || ids[0] != ids[1] {
		t.Errorf("webhook-ids %q, want two that are the same", ids)
	}
	if web.bodies["/x"][0] != web.bodies["/x"][1] {
		t.Errorf("bodies %q differ", web.bodies["/x"])
	}
	messages := box.Messages()
	if len(messages) != 2 || messages[0].MessageID == "" || messages[0].MessageID != messages[1].MessageID {
		t.Errorf("%d mails, want two with the same Message-ID", len(messages))
	}
	if got := one[string](w, `SELECT string_agg(attempt::text, ' ') FROM pgautomate.lead_stage_actions`); got != "2 2" {
		t.Errorf("attempts %s, want 2 2", got)
	}
}

// TestMailServers: a real one, and none at all.
func TestMailServers(t *testing.T) {
	t.Parallel()
	box, err := mailbox.Start(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorkers(t)
	w.config.SMTPURL, w.config.EmailFrom = box.URL(), "CRM <crm@example.com>"
	w.exec(`CREATE TABLE lead (id bigint PRIMARY KEY, name text, email text)`)
	w.exec(`INSERT INTO lead VALUES (7, 'Ann & Bob', 'ann@example.com')`)
	w.watchLead()
	stage := w.stage("default", "p", "s", act{"email", `{"to": "{{ lead.email }}", "subject": "Hello {{ lead.name }}", "body": "text", "html": "<b>{{ lead.name }}</b>"}`})
	w.run()
	run := w.enter("default", "7", stage)
	w.untilRun(run, "completed")
	got := box.Messages()
	if len(got) != 1 || got[0].To[0] != "ann@example.com" || got[0].Subject != "Hello Ann & Bob" ||
		strings.TrimSpace(got[0].HTML) != "<b>Ann &amp; Bob</b>" || got[0].HeaderFrom != `"CRM" <crm@example.com>` {
		t.Errorf("the mail is %+v", got)
	}
	if r := w.actionIs(w.action(run, 1), "result ->> 'message_id'"); !strings.Contains(r, got[0].MessageID) {
		t.Errorf("the result's message_id is %q, the mail's %q", r, got[0].MessageID)
	}

	// Unreachable: said clearly, and tried again; when it is back the mail goes out.
	addr := box.Addr()
	if err := box.Close(); err != nil {
		t.Fatal(err)
	}
	w.exec(`INSERT INTO lead VALUES (8, 'Cy', 'cy@example.com')`)
	run = w.enter("default", "8", stage)
	id := w.action(run, 1)
	w.until("the failure shows", func() bool { return w.actionIs(id, "error") != "" })
	if s := w.actionIs(id, "error"); !strings.Contains(s, addr) || !strings.Contains(s, "SMTP_URL") || strings.Contains(s, "\n") {
		t.Errorf("an unreachable mail server: %q", s)
	}
	if s := w.actionIs(id, "concat_ws(' ', status, attempt, perform_at > started_at)"); s != "pending 1 t" {
		t.Errorf("status, attempt, later: %q, want pending 1 t", s)
	}
	back, err := mailbox.Start(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	w.untilRun(run, "completed")
	if n := back.Count(); n != 1 {
		t.Errorf("%d mails arrived, want 1", n)
	}

	// Without any integration the action fails at once, saying so.
	none := newWorkers(t)
	stage = none.stage("a", "p", "s", act{"email", `{"to": "ann@example.com", "subject": "x", "body": "y"}`})
	none.run()
	run = none.enter("a", "1", stage)
	none.untilRun(run, "failed/failed")
	if s := none.actionIs(none.action(run, 1), "error"); !strings.Contains(s, "SMTP_URL") {
		t.Errorf("without an integration: %q", s)
	}
}

// TestWhatCannotRunSaysSo: action types that nobody knows, and parameters that
// nobody checked, written by plain SQL.
func TestWhatCannotRunSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.run()
	for _, c := range []struct {
		act

		want string
	}{
		{act{"emial", ""}, `action type "emial" is unknown; did you mean "email"?`},
		{act{"log", `{"message": "{{ lead.name"}`}, "message"},
		{act{"log", `{"message": "{{ nothing | no_such_filter }}"}`}, "no_such_filter"},
		{act{"wait", `{"for": "soon"}`}, `"soon" is not a time span`},
		{act{"webhook", `{"url": "http://127.0.0.1:1/"}`}, "PGAUTOMATE_WEBHOOK_ALLOW"},
		{act{"update_row", `{"set": {"x": 1}}`}, `pgautomate watch`},
		{act{"enter_stage", `{"pipeline": "none", "stage": "s"}`}, `no stage "s" in pipeline "none"`},
	} {
		t.Run(c.kind+c.params, func(t *testing.T) {
			name := c.kind + c.params
			run := w.enter("a", "1", w.stage("a", name, "s", c.act, act{"log", `{"message": "never"}`}))
			w.untilRun(run, "failed/failed")
			w.untilActions(run, "failed canceled/failed")
			if got := w.actionIs(w.action(run, 1), "error"); !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
				t.Errorf("the error says %q, want %q in it, in one line", got, c.want)
			}
		})
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.problems WHERE subject LIKE 'stage actions of organization a%'`); n == 0 {
		t.Error("the view problems knows nothing of failed actions")
	}
	for _, params := range []string{`{"max_attempts": 0}`, `{"max_attempts": "two"}`, `{"max_attempts": 1.5}`, `{"max_attempts": 101}`, `[]`} {
		w.fails(`INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params)
			SELECT min(id), 99, 'log', $1 FROM pgautomate.pipeline_stages`, params)
	}
}

// TestRowNotVisibleYet: a template that names a row which is not there (yet)
// waits for it, and doesn't wait for ever.
func TestRowNotVisibleYet(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.VisibleWithin = 3 * time.Second
	w.exec(`CREATE TABLE lead (id bigint PRIMARY KEY, name text, email text)`)
	w.watchLead()
	stage := w.stage("default", "p", "s", act{"log", `{"message": "hello {{ lead.name }}"}`})
	careless := w.stage("default", "q", "s", act{"log", `{"message": "hello"}`})
	w.run()
	late, never := w.enter("default", "1", stage), w.enter("default", "2", stage)
	w.untilRun(w.enter("default", "3", careless), "completed") // names no row, needs none
	w.until("the missing row is noted", func() bool { return w.actionIs(w.action(late, 1), "waiting_since") != "" })
	if got := w.actionIs(w.action(late, 1), "concat_ws(' ', status, attempt)"); got != "pending 0" {
		t.Errorf("while the row is missing: %q, want pending 0", got)
	}
	w.exec(`INSERT INTO lead VALUES (1, 'Ann')`)
	w.untilRun(late, "completed")
	if got := w.actionIs(w.action(late, 1), "concat_ws(' ', attempt, result ->> 'message')"); got != "1 hello Ann" {
		t.Errorf("once the row is there: %q, want 1 hello Ann", got)
	}
	w.untilRun(never, "failed/failed")
	if got := w.actionIs(w.action(never, 1), "error"); !strings.Contains(got, "not there (yet)") || !strings.Contains(got, "3s") {
		t.Errorf("a row that never comes: %q", got)
	}
}

// TestDatabaseAway: the outcomes of actions that ran while the database was away
// are written when it is back.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	server := dbtest.OwnServer(t)
	w := newWorkers(t)
	w.db = dbtest.NewOn(t, server)
	w.config.DatabaseURL = w.db.URL
	w.config.DeadAfter = 4 * time.Second
	stage := w.stage("a", "p", "s", act{"hold", ""}, act{"log", `{"message": "next"}`})
	going, letGo := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	w.run(handle("hold", func(ctx context.Context, _ *pgautomate.Action) (pgautomate.Result, error) {
		calls.Add(1)
		going <- struct{}{}
		select {
		case <-letGo:
		case <-ctx.Done():
		}
		return pgautomate.Result{}, ctx.Err()
	}))
	run := w.enter("a", "1", stage)
	<-going
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	close(letGo)
	time.Sleep(5 * time.Second) // longer than the first tries
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.db.Pool.Reset()
	go func() { // it may run twice, if the rescue is faster than the outcome
		for range going {
		}
	}()
	defer close(going)
	w.until("the database answers", func() bool { return w.db.Pool.Ping(context.Background()) == nil })
	w.untilRun(run, "completed")
	if n := calls.Load(); n > 2 {
		t.Errorf("the action ran %d times", n)
	}
}
