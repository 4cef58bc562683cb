package server_test

// Novu's wire where it is used wrongly or asked for much: what is refused, and with
// which words; lists, page by page; what webhooks are asked for conditions.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pgautomate/pgautomate/server"
)

// Each of these was taken for something else than what was sent, or for an error on
// our side, which clients send again for an hour.
func TestWireRefusals(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	p.workflow("w", []string{template("in_app", "x")})
	p.call(201, "POST", "/v1/tenants", p.a, `{"identifier":"T","name":"T"}`)
	p.call(201, "POST", "/v1/integrations", p.a, `{"providerId":"fcm","channel":"push","credentials":{}}`)
	tokens := strings.TrimSuffix(strings.Repeat(`"t",`, 101), ",")
	step := func(more string) string {
		return `{"name":"z","notificationGroupId":"g","steps":[{"template":{"type":"in_app","content":"x"},` + more + `}]}`
	}
	v2 := func(more string) string {
		return `{"name":"z","workflowId":"z","steps":[{"name":"s","type":"in_app","controlValues":{"body":"x"` + more + `}}]}`
	}
	for _, c := range []struct {
		status             int
		method, path, body string
		says               string
	}{
		{422, "POST", "/v1/events/trigger", `{"name":"w","to":"S1","payload":{"a":"\ud800"}}`, "the JSON holds half a character"},
		{422, "POST", "/v1/events/trigger", `{"name":"w","to":"S1","transactionId":"a\u0000b"}`, "without U+0000"},
		{400, "POST", "/v1/events/trigger", `[]`, "the body must be an object"},
		{422, "POST", "/v1/events/trigger", `{"name":"w","to":"S1","payload":{"attachments":[{"name":"f","file":{"type":"Buffer","data":[256]}}]}}`, "use base64"},
		{400, "POST", "/v2/subscribers", `{"subscriberId":"U","email":5}`, "email must be a string"},
		{400, "POST", "/v2/subscribers", `{"subscriberId":"U","data":"x"}`, "data must be an object"},
		{400, "POST", "/v2/subscribers", `{"subscriberId":"U","channels":5}`, "channels must be an array"},
		{400, "POST", "/v2/subscribers", `{"subscriberId":"U","timezone":"Mars/Base"}`, `timezone \"Mars/Base\" is not known`},
		{400, "PATCH", "/v2/subscribers/S1", `{"data":5}`, "data must be an object"},
		{400, "PATCH", "/v2/subscribers/S1", `{"timezone":"Mars/Base"}`, "is not known"},
		{400, "PUT", "/v1/subscribers/S1/credentials", `{"providerId":"fcm","credentials":"x"}`, "credentials must be an object"},
		{400, "PUT", "/v1/subscribers/S1/credentials", `{"providerId":"fcm"}`, "credentials must be an object"},
		{400, "PUT", "/v1/subscribers/S1/credentials", `{"providerId":"fcm","credentials":{"deviceTokens":"x"}}`, "deviceTokens must be an array"},
		{400, "PUT", "/v1/subscribers/S1/credentials", `{"providerId":"fcm","credentials":{"deviceTokens":[` + tokens + `]}}`, "no more than 100"},
		{400, "PATCH", "/v2/subscribers/S1/preferences", `{"channels":{"fax":true}}`, `channel \"fax\" is not known`},
		{400, "PATCH", "/v1/subscribers/S1/preferences/w", `{"channel":{"type":"fax","enabled":true}}`, `channel \"fax\" is not known`},
		{400, "POST", "/v2/topics", `{"key":"k","data":5}`, "data must be an object"},
		{400, "POST", "/v1/integrations", `{"providerId":"sendgrid","channel":"email"}`, "use nodemailer or email-webhook"},
		{400, "POST", "/v1/integrations", `{"providerId":"twilio","channel":"sms","credentials":"x"}`, "credentials must be an object"},
		{400, "POST", "/v1/tenants", `{"identifier":"U","data":5}`, "data must be an object"},
		{400, "POST", "/v1/workflow-overrides", `{}`, "workflowId and tenantId should not be empty"},
		{400, "POST", "/v1/workflow-overrides", `{"workflowId":"w","tenantId":"T","preferenceSettings":"x"}`, "preferenceSettings must be"},
		{400, "POST", "/v1/notification-templates", step(`"variants":[{"filters":[{"value":"XX"}],"template":{"type":"in_app","content":"x"}}]`), "steps[0].variants[0]: filters: value"},
		{400, "POST", "/v1/notification-templates", step(`"variants":[{"template":{"type":"in_app","content":"{{ x"}}]`), "steps[0].variants[0]: syntax error"},
		{400, "POST", "/v1/notification-templates", step(`"variants":[{}]`), "variants[0].template must be an object"},
		{400, "POST", "/v1/notification-templates", step(`"filters":"x"`), "steps[0].filters must be an array"},
		{400, "POST", "/v1/notification-templates", step(`"metadata":"x"`), "steps[0].metadata must be an object"},
		{400, "POST", "/v1/notification-templates", step(`"filters":[{"children":[{"on":"webhook","operator":"EQUAL","field":"a","value":"1","webhookUrl":"ftp://x"}]}]`), "filters: webhookUrl: use an address"},
		{400, "POST", "/v1/notification-templates", step(`"filters":[{"children":[{"on":"webhook","operator":"NOPE","field":"a","webhookUrl":"https://example.com"}]}]`), "operator"},
		{400, "POST", "/v1/notification-templates", `{"name":"z","notificationGroupId":"g","steps":[],"payloadSchema":{"type":"nope"}}`, "payloadSchema"},
		{400, "POST", "/v1/notification-templates", `{"name":"z","notificationGroupId":"g","steps":[],"preferenceSettings":{"email":"x"}}`, "preferenceSettings"},
		{400, "POST", "/v2/workflows", v2(`,"skip":"x"`), "skip: use JSON logic"},
		{400, "POST", "/v2/workflows", v2(`,"skip":[1]`), "skip: use JSON logic"},
		{400, "POST", "/v2/workflows", `{"name":"z","workflowId":"z","severity":"dire","steps":[]}`, "severity"},
	} {
		a := p.do(p.request(c.method, c.path, p.a, c.body))
		if a.status != c.status || !strings.Contains(a.raw, c.says) {
			t.Errorf("%s %s %.90s: %d %s; want %d, %q", c.method, c.path, c.body, a.status, a.raw, c.status, c.says)
		}
	}
	for _, path := range []string{"/v2/subscribers", "/v2/topics", "/v2/subscribers/S1/notifications", "/v2/subscribers/S1/subscriptions", "/v2/workflows", "/v1/notifications"} {
		p.call(200, "GET", path+"?limit=0", p.a, "")
	}
	if got := p.text(`SELECT count(*)::text FROM pgautomate.subscribers WHERE subscriber_id = 'U'`) + p.text(`SELECT count(*)::text FROM pgautomate.workflows WHERE name = 'z'`); got != "00" {
		t.Errorf("of what was refused something is there: %s", got)
	}

	// Of many, the bad ones are told in their own words; of preferences all count or none.
	a := p.call(201, "POST", "/v1/events/trigger/bulk", p.a, `{"events":[5,{"name":5},{"name":"w","to":"S1","payload":{"a":"\ud800"}},{"name":"w","to":"S1"}]}`)
	for i, says := range []string{"the event must be an object", "name must be a string", "the JSON holds half a character", ""} {
		one, _ := json.Marshal(a.get("data", i, "error"))
		if says == "" && string(one) != "null" || !strings.Contains(string(one), says) {
			t.Errorf("event %d: %s, want %s", i, one, says)
		}
	}
	a = p.call(201, "POST", "/v1/subscribers/bulk", p.a, `{"subscribers":[5,{"subscriberId":"B1","data":{"a":"\u0000"}},{"subscriberId":"B2"},{"subscriberId":"B3","email":1}]}`)
	for i, says := range []string{"the subscriber must be an object", "text may not contain the character U+0000", "email must be a string"} {
		if got := fmt.Sprint(a.get("data", "failed", i, "message")); got != says {
			t.Errorf("subscriber %d: %s, want %s", i, got, says)
		}
	}
	p.call(404, "PATCH", "/v2/subscribers/S1/preferences/bulk", p.a, `{"preferences":[{"workflowId":"w","channels":{"email":false}},{"workflowId":"nope","channels":{"email":false}}]}`)
	if got := p.text(`SELECT count(*)::text FROM pgautomate.preferences`); got != "0" {
		t.Errorf("%s preferences were set", got)
	}
}

// A transactionId that was there before has the first answer, whatever has become of
// the workflow.
func TestFirstAnswer(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	w := p.workflow("w", []string{template("in_app", "x")})
	p.trigger("processed", `{"name":"w","to":"S1","transactionId":"once"}`)
	p.call(200, "PUT", "/v1/notification-templates/"+w+"/status", p.a, `{"active":false}`)
	if id := p.trigger("processed", `{"name":"w","to":"S1","transactionId":"once"}`); id != "once" {
		t.Error(id)
	}
	p.trigger("trigger_not_active", `{"name":"w","to":"S1","transactionId":"another"}`)
	p.call(200, "DELETE", "/v1/notification-templates/"+w, p.a, "")
	p.trigger("processed", `{"name":"w","to":"S2","transactionId":"once"}`)
	if n := p.notified(); n != 1 {
		t.Errorf("%d notifications", n)
	}
}

// Lists of v2, forwards to the end and back to the beginning, in both directions.
func TestCursors(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.exec(`INSERT INTO pgautomate.subscribers (organization_id, subscriber_id) SELECT 'a', 's' || lpad(n::text, 2, '0') FROM generate_series(1, 23) n`)
	p.exec(`INSERT INTO pgautomate.topics (organization_id, key) SELECT 'a', 't' || lpad(n::text, 2, '0') FROM generate_series(1, 23) n`)
	p.exec(`INSERT INTO pgautomate.topic_subscribers (topic_id, subscriber_no) SELECT t.id, s.id FROM pgautomate.topics t, pgautomate.subscribers s WHERE t.key = 't01' ORDER BY s.id`)
	for path, name := range map[string]func(m map[string]any) any{
		"/v2/subscribers":              func(m map[string]any) any { return m["subscriberId"] },
		"/v2/topics":                   func(m map[string]any) any { return m["key"] },
		"/v2/topics/t01/subscriptions": func(m map[string]any) any { return m["subscriber"].(map[string]any)["subscriberId"] },
	} {
		for _, direction := range []string{"DESC", "ASC"} {
			page := func(cursor string) (names []string, next, previous any) {
				a := p.call(200, "GET", path+"?limit=10&orderDirection="+direction+cursor, p.a, "")
				if got := fmt.Sprint(a.get("data", "totalCount"), a.get("data", "totalCountCapped")); got != "23 false" {
					t.Errorf("%s%s: total %s", path, cursor, got)
				}
				list, _ := a.get("data", "data").([]any)
				for _, e := range list {
					names = append(names, fmt.Sprint(name(e.(map[string]any)))[1:])
				}
				return names, a.get("data", "next"), a.get("data", "previous")
			}
			var all []string
			for n := 1; n <= 23; n++ {
				all = append(all, fmt.Sprintf("%02d", n))
			}
			if direction == "DESC" {
				slices.Reverse(all)
			}
			one, next, previous := page("")
			if previous != nil {
				t.Errorf("%s: there is a page before the first", path)
			}
			two, next2, _ := page(fmt.Sprint("&after=", next))
			three, end, back := page(fmt.Sprint("&after=", next2))
			if got := slices.Concat(one, two, three); !slices.Equal(got, all) || end != nil {
				t.Errorf("%s %s: %v, then %v", path, direction, got, end)
			}
			again, forth, back2 := page(fmt.Sprint("&before=", back))
			first, _, none := page(fmt.Sprint("&before=", back2))
			if !slices.Equal(again, two) || !slices.Equal(first, one) || forth != next2 || none != nil {
				t.Errorf("%s %s: back %v, %v; %v, %v", path, direction, again, first, forth, none)
			}
			if with, _, _ := page(fmt.Sprint("&includeCursor=true&after=", next)); !slices.Equal(with, all[9:19]) {
				t.Errorf("%s %s: with its cursor %v", path, direction, with)
			}
		}
	}
	p.call(400, "GET", "/v2/subscribers?before=zzz", p.a, "")
	p.workflow("w", []string{template("in_app", "x")})
	for range 3 {
		p.until("trigger:completed in_app:completed", ofEvent, p.trigger("processed", `{"name":"w","to":"s01"}`))
	}
	for path, total := range map[string]string{"/v1/subscribers/s01/notifications/feed?page=7": "3", "/v1/notification-templates?page=7": "1", "/v2/workflows?offset=70": "1"} {
		if got := fmt.Sprint(p.call(200, "GET", path, p.a, "").get("data", "totalCount")); got != total {
			t.Errorf("%s: total %s", path, got)
		}
	}
}

// The form of marks that came before markAs.
func TestMark(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("in_app", "x")})
	p.until("trigger:completed in_app:completed", ofEvent, p.trigger("processed", `{"name":"w","to":"S1"}`))
	id := fmt.Sprint(p.call(200, "GET", "/v1/subscribers/S1/notifications/feed", p.a, "").get("data", "data", 0, "_id"))
	for _, c := range [][2]string{
		{`{"seen":true}`, "true false"}, {`{"read":true}`, "true true"}, {`{"read":false}`, "true false"}, {`{"seen":false}`, "false false"}, {`{"seen":true,"read":true}`, "true true"},
	} {
		a := p.call(201, "POST", "/v1/subscribers/S1/messages/markAs", p.a, `{"messageId":"`+id+`","mark":`+c[0]+`}`)
		if got := fmt.Sprint(a.get("data", 0, "seen"), " ", a.get("data", 0, "read")); got != c[1] {
			t.Errorf("%s: %s, want %s", c[0], got, c[1])
		}
	}
	p.call(400, "POST", "/v1/subscribers/S1/messages/markAs", p.a, `{"messageId":"`+id+`","mark":{}}`)
	p.call(400, "POST", "/v1/subscribers/S1/messages/markAs", p.a, `{"mark":{"read":true}}`)
	p.call(404, "POST", "/v1/subscribers/nobody/messages/markAs", p.a, `{"messageId":"`+id+`","mark":{"read":true}}`)
}

func TestSeverities(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	for _, severity := range []string{"high", "low"} {
		p.call(201, "POST", "/v2/workflows", p.a, fmt.Sprintf(`{"name":%q,"workflowId":%[1]q,"active":true,"severity":%[1]q,"steps":[{"name":"s","type":"in_app","controlValues":{"body":"x"}}]}`, severity))
		p.trigger("processed", `{"name":"`+severity+`","to":"S1"}`)
	}
	p.workflow("plain", []string{template("in_app", "x")})
	p.trigger("processed", `{"name":"plain","to":"S1"}`)
	for query, want := range map[string]string{"severity=high": "high", "severity[]=none": "none", "severity=low&severity=high": "low high", "": "none low high"} {
		a := p.call(200, "GET", "/v1/notifications?"+query, p.a, "")
		var got []string
		list, _ := a.get("data", "data").([]any)
		for i := range list {
			got = append(got, fmt.Sprint(a.get("data", "data", i, "severity")))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
}

// How far an event is shared out, as HTTP shows it.
func TestProgress(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.workflow("w", []string{template("in_app", "x")})
	p.exec(`INSERT INTO pgautomate.subscribers (organization_id, subscriber_id) SELECT 'a', 's' || n FROM generate_series(1, 50) n`)
	p.exec(`INSERT INTO pgautomate.topics (organization_id, key) VALUES ('a', 'fans'), ('a', 'others')`)
	p.exec(`INSERT INTO pgautomate.topic_subscribers (topic_id, subscriber_no) SELECT t.id, s.id FROM pgautomate.topics t, pgautomate.subscribers s ORDER BY t.id, s.id`)
	show := func(id string) string {
		a := p.call(200, "GET", "/v1/events/trigger/"+id, p.a, "")
		return fmt.Sprintln(a.get("data", "status"), a.get("data", "notifications"), a.get("data", "remaining"), a.get("data", "error"), a.get("data", "finishedAt") != nil, a.get("data", "canceledAt") != nil)
	}
	one := p.trigger("processed", `{"name":"w","to":["x",{"type":"Topic","topicKey":"fans"},{"type":"Topic","topicKey":"nope"}]}`)
	p.until("done", `SELECT status FROM pgautomate.notification_events WHERE transaction_id = $1`, one)
	if got := show(one); got != "done 51 0 Topic with key nope not found in current environment true false\n" {
		t.Error(got)
	}
	// As it is in the midst of a fan-out: the single one and ten of the first topic have theirs.
	p.exec(`INSERT INTO pgautomate.notification_events (organization_id, workflow_id, transaction_id, topics, topic_after, fanned_out)
		SELECT 'a', w.id, 'half', '[{"topicKey":"fans"},{"topicKey":"others"}]', (SELECT min(m.id) + 9 FROM pgautomate.topic_subscribers m), 11 FROM pgautomate.workflows w`)
	p.exec(`INSERT INTO pgautomate.notification_events (organization_id, workflow_id, transaction_id, broadcast, topic_after, fanned_out)
		SELECT 'a', w.id, 'all', true, (SELECT min(s.id) + 19 FROM pgautomate.subscribers s), 20 FROM pgautomate.workflows w`)
	if got := show("half") + show("all"); got != "pending 11 90 <nil> false false\npending 20 31 <nil> false false\n" {
		t.Error(got)
	}
	p.call(200, "DELETE", "/v1/events/trigger/half", p.a, "")
	if got := show("half"); got != "canceled 11 0 <nil> true true\n" {
		t.Error(got)
	}
	p.call(404, "GET", "/v1/events/trigger/nothing", p.a, "")
}

// A topic that isn't there: an entry of the activity feed that says so, in the order of all.
func TestMissingTopic(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	id := p.workflow("w", []string{template("in_app", "x")})
	p.workflow("other", []string{template("in_app", "x")})
	before := p.trigger("processed", `{"name":"other","to":"x"}`)
	tx := p.trigger("processed", `{"name":"w","to":["x",{"type":"Topic","topicKey":"nope"},{"type":"Topic","topicKey":"neither"}],"payload":{"n":1}}`)
	done := func(event string) {
		t.Helper()
		p.until("done", `SELECT status FROM pgautomate.notification_events WHERE transaction_id = $1`, event)
	}
	done(tx)
	alone := p.trigger("processed", `{"name":"w","to":{"type":"Topic","topicKey":"nope"}}`)
	done(alone)
	after := p.trigger("processed", `{"name":"other","to":"x"}`)
	// show is whom each entry was for: a subscriber, or a topic that wasn't there.
	show := func(query string) string {
		t.Helper()
		a := p.call(200, "GET", "/v1/notifications?"+query, p.a, "")
		var got []string
		for i := range a.len("data", "data") {
			who := a.get("data", "data", i, "subscriber", "subscriberId")
			if who == nil {
				who = a.get("data", "data", i, "to", "topicKey")
			}
			got = append(got, fmt.Sprint(who))
		}
		return fmt.Sprint(strings.Join(got, " "), " ", a.get("data", "hasMore"))
	}
	for query, want := range map[string]string{
		"": "x nope neither nope x x false", "limit=2": "x nope true", "limit=2&page=1": "neither nope true", "limit=2&page=2": "x x false",
		"transactionId=" + tx: "neither nope x false", "transactionId=" + alone: "nope false", "transactionId=" + before + "&transactionId=" + after: "x x false",
		"templates=other": "x x false", "templates=" + id: "nope neither nope x false", "topicKey=neither": "neither false", "subscriberIds=x": "x x x false",
		"channels=in_app": "x x x false", "emails=x@example.com": " false", "search=" + alone: "nope false", "severity=high": " false",
		"after=2020-01-01T00:00:00Z&before=2021-01-01T00:00:00Z": " false",
	} {
		if got := show(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	list := p.call(200, "GET", "/v1/notifications?transactionId="+alone, p.a, "")
	text := "Topic with key nope not found in current environment"
	one := p.call(200, "GET", "/v1/notifications/"+fmt.Sprint(list.get("data", "data", 0, "_id")), p.a, "")
	for _, a := range []*answer{list, one} {
		at := []any{"data"}
		if a == list {
			at = []any{"data", "data", 0}
		}
		want := func(value any, path ...any) { t.Helper(); a.want(value, append(slices.Clone(at), path...)...) }
		want("", "_subscriberId")
		want(alone, "transactionId")
		want("w", "template", "triggers", 0, "identifier")
		want("nope", "topics", 0, "topicKey")
		want("trigger", "jobs", 0, "type")
		want("failed", "jobs", 0, "status")
		want("Failed", "jobs", 0, "executionDetails", 0, "status")
		want(text, "jobs", 0, "executionDetails", 0, "detail")
	}
	p.call(200, "GET", "/v1/events/trigger/"+tx, p.a, "").want("Topic with key nope not found in current environment; Topic with key neither not found in current environment", "data", "error")
	other, _, err := server.CreateKey(t.Context(), p.pool, new("b"), "b")
	ok(t, err)
	p.call(404, "GET", "/v1/notifications/"+fmt.Sprint(list.get("data", "data", 0, "_id")), other, "")
	if a := p.call(200, "GET", "/v1/notifications", other, ""); a.len("data", "data") != 0 {
		t.Error(a.raw)
	}
	// What is found goes with its event.
	p.exec(`DELETE FROM pgautomate.notification_events WHERE transaction_id = $1`, alone)
	if got := p.text(`SELECT count(*)::text FROM pgautomate.notification_failures`); got != "2" {
		t.Errorf("%s are left", got)
	}
}

// judge is a webhook that conditions ask.
type judge struct {
	*httptest.Server

	mu    sync.Mutex
	asked []map[string]any
	heads []http.Header
	code  int
	says  string
	fails int // that many times it answers 503
}

func (j *judge) questions() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.asked)
}

func (j *judge) will(code int, says string, fails int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.code, j.says, j.fails = code, says, fails
}

func newJudge(t *testing.T) *judge {
	t.Helper()
	j := &judge{code: 200, says: `{"vip":true,"plan":{"level":7}}`}
	j.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		j.mu.Lock()
		defer j.mu.Unlock()
		var body map[string]any
		_ = json.NewDecoder(r.Body).Decode(&body)
		j.asked, j.heads = append(j.asked, body), append(j.heads, r.Header.Clone())
		if j.fails > 0 {
			j.fails--
			http.Error(w, "later", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(j.code)
		_, _ = w.Write([]byte(j.says))
	}))
	t.Cleanup(j.Close)
	return j
}

// Conditions of type webhook.
func TestWebhookConditions(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	j := newJudge(t)
	p.subscriber("S1")
	ask := func(operator, field, value string) string {
		return fmt.Sprintf(`{"on":"webhook","operator":%q,"field":%q,"value":%q,"webhookUrl":%q}`, operator, field, value, j.URL+"/judge")
	}
	group := func(value string, negated bool, children ...string) string {
		return fmt.Sprintf(`{"type":"GROUP","value":%q,"isNegated":%t,"children":[%s]}`, value, negated, strings.Join(children, ","))
	}
	n := 0
	// run makes a workflow of a step with these filters, runs it, and says what became of the step.
	run := func(kind string, filters ...string) (status, details string) {
		n++
		name := fmt.Sprintf("w%d", n)
		one := template(kind, "x", `"filters":[`+strings.Join(filters, ",")+`]`)
		if kind == "digest" {
			one = strings.TrimSuffix(digest(`{"type":"regular","amount":1,"unit":"hours"}`), "}") + `,"filters":[` + strings.Join(filters, ",") + `]}`
		}
		p.workflow(name, []string{one, template("in_app", "after")})
		id := p.trigger("processed", `{"name":"`+name+`","to":"S1","payload":{"a":1}}`)
		p.until("true", `SELECT (status NOT IN ('pending', 'queued', 'running'))::text FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND sequence_number = 1`, id)
		status = p.text(`SELECT status::text FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND sequence_number = 1`, id)
		return status, p.text(`SELECT coalesce(string_agg(d.status || ' ' || d.detail || coalesce(' ' || d.raw, ''), '; ' ORDER BY d.id), '') FROM pgautomate.job_details d
			JOIN pgautomate.notification_jobs j ON j.id = d.job_id WHERE j.transaction_id = $1 AND j.sequence_number = 1`, id)
	}
	want := func(what, wanted, status string) {
		t.Helper()
		if status != wanted {
			t.Errorf("%s: %s, want %s", what, status, wanted)
		}
	}
	payload := `{"on":"payload","operator":"EQUAL","field":"a","value":"1"}`
	notPayload := `{"on":"payload","operator":"EQUAL","field":"a","value":"2"}`

	status, _ := run("email", group("AND", false, ask("EQUAL", "vip", "true"), ask("LARGER", "plan.level", "5")))
	want("met", "completed", status)
	if j.questions() != 1 {
		t.Errorf("it was asked %d times for one step", j.questions())
	}
	q, head := j.asked[0], j.heads[0]
	subscriber, _ := q["subscriber"].(map[string]any)
	if subscriber["subscriberId"] != "S1" || fmt.Sprint(q["payload"]) != "map[a:1]" || q["identifier"] != "w1" || q["channel"] != "email" || head.Get("Content-Type") != "application/json" {
		t.Errorf("it was asked %v", q)
	}
	status, details := run("email", group("AND", false, ask("EQUAL", "vip", "false")))
	want("not met", "canceled", status)
	if details != "Success Step was filtered based on steps filters" {
		t.Error(details)
	}
	status, _ = run("email", group("AND", true, ask("EQUAL", "vip", "false")))
	want("negated", "completed", status)
	status, _ = run("email", group("AND", false, ask("IS_DEFINED", "nothing", "")))
	want("a member that isn't there", "canceled", status)

	// It is asked last, and not for nothing.
	before := j.questions()
	status, _ = run("email", group("AND", false, ask("EQUAL", "vip", "true"), notPayload))
	want("decided without it", "canceled", status)
	status, _ = run("email", group("OR", false, ask("EQUAL", "vip", "false"), payload))
	want("decided without it", "completed", status)
	status, _ = run("email", group("AND", false, ask("EQUAL", "vip", "false")), group("AND", false, payload))
	want("decided without it", "completed", status)
	if got := j.questions(); got != before {
		t.Errorf("it was asked %d times for what is decided already", got-before)
	}

	// What fails for a moment is asked again; what keeps failing is not met, negated or not.
	j.will(200, `{"vip":true}`, 2)
	status, _ = run("email", group("AND", false, ask("EQUAL", "vip", "true")))
	want("failing twice", "completed", status)
	const failed = "Failed Failed to get response from remote webhook filter on last retry webhook to "
	for says, code := range map[string]int{"no": 500, "not found": 404, "<html>": 200, `{"a":"` + strings.Repeat("x", 70<<10) + `"}`: 200} {
		j.will(code, says, 0)
		for _, negated := range []bool{false, true} {
			status, details = run("email", group("AND", negated, ask("NOT_EQUAL", "vip", "false")))
			want(fmt.Sprintf("%d %.9s, negated %t", code, says, negated), "canceled", status)
			if !strings.HasPrefix(details, failed) || !strings.HasSuffix(details, "; Success Step was filtered based on steps filters") {
				t.Errorf("%d %.9s: %s", code, says, details)
			}
		}
	}
	j.will(500, "no", 0)
	status, details = run("email", group("AND", false, ask("EQUAL", "vip", "true")), group("OR", false, ask("EQUAL", "vip", "true"), `{"on":"subscriber","operator":"EQUAL","field":"subscriberId","value":"S1"}`))
	want("another group holds", "completed", status)
	if !strings.HasPrefix(details, failed) {
		t.Error("a step that is carried out does not tell of the webhook: " + details)
	}
	status, details = run("digest", group("OR", true, notPayload, ask("EQUAL", "vip", "true")))
	want("a digest", "skipped", status)
	if !strings.HasPrefix(details, failed) {
		t.Error(details)
	}
	j.will(200, `{"vip":true}`, 0)
	status, _ = run("digest", group("AND", false, ask("EQUAL", "vip", "true")))
	want("a digest", "delayed", status)

	// Where webhooks may not go, conditions may not ask.
	status, details = run("email", group("AND", true, `{"on":"webhook","operator":"EQUAL","field":"a","value":"1","webhookUrl":"http://169.254.169.254/latest"}`))
	want("a link-local address", "canceled", status)
	if !strings.Contains(details, "PGAUTOMATE_WEBHOOK_ALLOW") {
		t.Error(details)
	}
}
