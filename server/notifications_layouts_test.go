package server_test

// Layouts: the routes of v1 and v2, and what e-mails look like.

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/server"
)

func TestLayouts(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	one := p.call(201, "POST", "/v1/layouts", p.a, `{"name":"News","identifier":"news","content":"<header>{{subscriber.subscriberId}}</header>{{{body}}}<footer>{{payload.x}}</footer>","variables":[]}`)
	id := fmt.Sprint(one.get("data", "_id"))
	two := p.call(201, "POST", "/v2/layouts", p.a, `{"layoutId":"promo","name":"Promo","__source":"dashboard","isTranslationEnabled":false}`)
	if got := fmt.Sprint(two.get("data", "layoutId"), two.get("data", "isDefault"), two.get("data", "controls", "values", "email", "body")); got != "promofalse<html><body>{{content}}</body></html>" {
		t.Error(got)
	}
	p.call(200, "PUT", "/v2/layouts/promo", p.a, `{"name":"Promo","controlValues":{"email":{"body":"<main>{{ content }}</main>","editorType":"html"}}}`)

	mail := func(name, step string, trigger string) string {
		p.call(201, "POST", "/v2/workflows", p.a, fmt.Sprintf(`{"name":%q,"workflowId":%[1]q,"active":true,"steps":[{"name":"m","type":"email","controlValues":{"subject":"s","body":%s}}]}`, name, step))
		tx := p.trigger("processed", fmt.Sprintf(`{"name":%q,"to":"S1","payload":{"x":"<b>","who":"A&B"}%s}`, name, trigger))
		p.until("trigger:completed email:completed", ofEvent, tx)
		return p.text(`SELECT content FROM pgautomate.messages WHERE transaction_id = $1`, tx)
	}
	for name, c := range map[string]struct{ step, trigger, want string }{
		"none":       {`"Hi {{payload.who}}"`, "", "Hi A&B"},
		"named":      {`"<p>Hi {{payload.who}}</p>","layoutId":"news"`, "", "<header>S1</header><p>Hi A&amp;B</p><footer>&lt;b&gt;</footer>"},
		"number":     {`"<p>Hi</p>","layoutId":"` + id + `"`, "", "<header>S1</header><p>Hi</p><footer>&lt;b&gt;</footer>"},
		"text":       {`"Hi {{payload.who}}\nBye","layoutId":"promo"`, "", "<main>Hi A&amp;B<br>\nBye</main>"},
		"overridden": {`"<p>Hi</p>","layoutId":"news"`, `,"overrides":{"channels":{"email":{"layoutId":"promo"}}}`, "<main><p>Hi</p></main>"},
		"by step":    {`"<p>Hi</p>"`, `,"overrides":{"layoutIdentifier":"news","steps":{"m":{"layoutId":"promo"}}}`, "<main><p>Hi</p></main>"},
		"classic":    {`"<p>Hi</p>"`, `,"overrides":{"layoutIdentifier":"promo"}`, "<main><p>Hi</p></main>"},
		"taken away": {`"<p>Hi</p>","layoutId":"news"`, `,"overrides":{"steps":{"m":{"layoutId":null}}}`, "<p>Hi</p>"},
	} {
		if got := mail(name, c.step, c.trigger); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	p.call(400, "POST", "/v2/workflows", p.a, `{"name":"z","workflowId":"z","steps":[{"name":"m","type":"email","controlValues":{"subject":"s","body":"x","layoutId":"nope"}}]}`)
	p.workflow("v1", []string{`{"template":{"type":"email","subject":"s","content":"<i>x</i>","layoutId":"promo"},"variants":[{"filters":[{"value":"AND","children":[{"on":"payload","field":"v","operator":"EQUAL","value":"1"}]}],"template":{"type":"email","subject":"v","content":"<u>variant</u>","layoutId":"` + id + `"}}]}`})
	tx := p.trigger("processed", `{"name":"v1","to":"S1","payload":{"v":1}}`)
	p.until("<header>S1</header><u>variant</u><footer></footer>", `SELECT coalesce(max(content), '') FROM pgautomate.messages WHERE transaction_id = $1`, tx)

	// The default stands around what names none, but where none is asked for.
	p.call(204, "POST", "/v1/layouts/promo/default", p.a, "")
	p.call(204, "POST", "/v1/layouts/"+id+"/default", p.a, "")
	if got := p.text(`SELECT string_agg(identifier, ' ') FROM pgautomate.layouts WHERE is_default`); got != "news" {
		t.Errorf("the default is %s", got)
	}
	if got := mail("by default", `"<p>Hi</p>"`, ""); got != "<header>S1</header><p>Hi</p><footer>&lt;b&gt;</footer>" {
		t.Error(got)
	}
	if got := mail("not by default", `"<p>Hi</p>","layoutId":null`, ""); got != "<p>Hi</p>" {
		t.Error(got)
	}
	tx = p.trigger("processed", `{"name":"classic","to":"S1","overrides":{"layoutIdentifier":"gone"}}`)
	p.until("trigger:completed email:failed", ofEvent, tx)
	if got := p.text(`SELECT error FROM pgautomate.notification_jobs WHERE transaction_id = $1 AND sequence_number = 1`, tx); got != `there is no layout "gone"` {
		t.Error(got)
	}

	// What is used, or the default, stays.
	usage := p.call(200, "GET", "/v2/layouts/news/usage", p.a, "")
	for _, name := range []string{"named", "number", "overridden", "v1"} {
		if !strings.Contains(usage.raw, `"workflowId":"`+name+`"`) {
			t.Errorf("%s is not in %s", name, usage.raw)
		}
	}
	p.call(409, "DELETE", "/v1/layouts/news", p.a, "")
	p.call(400, "DELETE", "/v2/layouts/promo", p.a, "")
	p.call(400, "PATCH", "/v1/layouts/news", p.a, `{"isDefault":false}`)
	p.call(400, "PATCH", "/v1/layouts/promo", p.a, `{"identifier":"other"}`)
	copied := p.call(201, "POST", "/v2/layouts/promo/duplicate", p.a, `{"name":"Copy"}`)
	if got := fmt.Sprint(copied.get("data", "controls", "values", "email", "body")); got != "<main>{{ content }}</main>" {
		t.Error(got)
	}
	slug := fmt.Sprint(copied.get("data", "slug"))
	patched := p.call(200, "PATCH", "/v1/layouts/"+slug, p.a, `{"identifier":"copied","description":"d","content":"[{{{ body }}}]"}`)
	if got := fmt.Sprint(patched.get("data", "identifier"), patched.get("data", "description"), patched.get("data", "content")); got != "copiedd[{{{ body }}}]" {
		t.Error(got)
	}
	preview := p.call(201, "POST", "/v2/layouts/copied/preview", p.a, `{"previewPayload":{"content":"<p>x</p>"}}`)
	if got := preview.get("data", "result", "preview", "body"); got != "[<p>x</p>]" {
		t.Error(got)
	}
	p.call(204, "DELETE", "/v2/layouts/copied", p.a, "")
	p.call(404, "GET", "/v2/layouts/copied", p.a, "")
	p.call(404, "GET", "/v1/layouts/copied", p.a, "")
	p.call(201, "POST", "/v2/layouts", p.a, `{"layoutId":"copied","name":"Again"}`)
	list := p.call(200, "GET", "/v2/layouts?limit=2&query=o", p.a, "")
	if got := fmt.Sprint(list.get("data", "totalCount"), list.get("data", "layouts", 0, "layoutId"), list.get("data", "layouts", 1, "layoutId")); got != "2 copied promo" && got != "2copiedpromo" {
		t.Error(got)
	}
	list = p.call(200, "GET", "/v1/layouts?page=1&pageSize=2", p.a, "")
	if got := fmt.Sprint(list.get("data", "totalCount"), list.get("data", "data", 0, "identifier")); got != "3news" && got != "3 news" {
		t.Error(got)
	}

	b := "b"
	other, _, err := server.CreateKey(t.Context(), p.pool, &b, "test")
	ok(t, err)
	p.call(404, "GET", "/v2/layouts/promo", other, "")
	for body, says := range map[string]string{
		`{}`: "name should not be empty", `{"name":"n","content":"no place"}`: "{{{body}}}", `{"name":"n","content":"{{{body}}}{{ x"}`: "syntax error",
		`{"name":"n","content":"{{{body}}}","variables":"x"}`: "variables must be an array",
	} {
		if a := p.call(400, "POST", "/v1/layouts", p.a, body); !strings.Contains(a.raw, says) {
			t.Errorf("%s: %s", body, a.raw)
		}
	}
	p.call(409, "POST", "/v1/layouts", p.a, `{"name":"n","identifier":"news","content":"{{{body}}}"}`)
	p.call(400, "POST", "/v2/layouts", p.a, `{"name":"n","layoutId":"news"}`)
	p.call(400, "PUT", "/v2/layouts/promo", p.a, `{"name":"n","controlValues":{"email":{"body":"no place","editorType":"html"}}}`)
	p.call(400, "PUT", "/v2/layouts/promo", p.a, `{"name":"n","controlValues":{"email":{"body":"{\"type\":\"doc\"}","editorType":"block"}}}`)
}

// E-mails and layouts that were made with Novu's block editor.
func TestBlocks(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	document := func(nodes string) string {
		raw, err := json.Marshal(`{"type":"doc","content":[` + nodes + `]}`)
		ok(t, err)
		return string(raw)
	}
	body := document(`{"type":"heading","attrs":{"level":2},"content":[{"type":"text","text":"Hi "},{"type":"variable","attrs":{"id":"payload.who","fallback":"you"}}]},
		{"type":"paragraph","attrs":{"showIfKey":"payload.news"},"content":[{"type":"text","text":"News"}]},
		{"type":"repeat","attrs":{"each":"steps.digest-step.events"},"content":[{"type":"variable","attrs":{"id":"steps.digest-step.events.payload.who"}},{"type":"text","text":"; "}]}`)
	p.call(201, "POST", "/v2/layouts", p.a, `{"layoutId":"frame","name":"Frame","controlValues":{"email":{"editorType":"block","body":`+
		document(`{"type":"section","content":[{"type":"variable","attrs":{"id":"content"}}]},{"type":"footer","content":[{"type":"text","text":"Bye {{payload.who}}"}]}`)+`}}}`).
		want("block", "data", "controls", "values", "email", "editorType")
	p.call(200, "GET", "/v1/layouts/frame", p.a, "").want("<div>{{ content }}</div><p>Bye {{payload.who}}</p>", "data", "content")
	made := p.call(201, "POST", "/v2/workflows", p.a, `{"name":"b","workflowId":"b","active":true,"steps":[{"name":"Digest step","stepId":"digest-step","type":"digest","controlValues":{"amount":1,"unit":"seconds"}},
		{"name":"m","type":"email","controlValues":{"subject":"s","editorType":"block","layoutId":"frame","body":`+body+`}}]}`)
	var sent string
	ok(t, json.Unmarshal([]byte(body), &sent))
	made.want(sent, "data", "steps", 1, "controls", "values", "body")
	tx := p.trigger("processed", `{"name":"b","to":"S1","payload":{"who":"A<b>"}}`)
	p.until("trigger:completed digest:completed email:completed", ofEvent, tx)
	want := "<div><h2>Hi A&lt;b&gt;</h2>A&lt;b&gt;; </div><p>Bye A&lt;b&gt;</p>"
	if got := p.text(`SELECT content FROM pgautomate.messages WHERE transaction_id = $1`, tx); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if raw := string(p.box.Messages()[0].Raw); !strings.Contains(raw, "text/html") {
		t.Error(raw)
	}
	step := fmt.Sprint(made.get("data", "steps", 1, "stepId"))
	p.call(201, "POST", "/v2/workflows/b/step/"+step+"/preview", p.a, `{"previewPayload":{"payload":{"news":true}}}`).want("<h2>Hi you</h2><p>News</p>", "data", "result", "preview", "body")

	// v1's content, and an HTML body that only looks so.
	p.workflow("v1", []string{`{"template":{"type":"email","subject":"s","content":` + document(`{"type":"paragraph","content":[{"type":"text","text":"v1"}]}`) + `}}`})
	tx = p.trigger("processed", `{"name":"v1","to":"S1"}`)
	p.until("<p>v1</p>", `SELECT coalesce(max(content), '') FROM pgautomate.messages WHERE transaction_id = $1`, tx)
	for nodes, says := range map[string]string{
		`{"type":"video"}`: `type \"video\" is not rendered here`, `{"type":"text","text":"{{ x"}`: "syntax error", `{"type":"button","attrs":{"url":"javascript:x"}}`: "can't be linked",
	} {
		for _, c := range [][2]string{
			{"/v2/workflows", `{"name":"z","workflowId":"z","steps":[{"name":"m","type":"email","controlValues":{"subject":"s","body":` + document(nodes) + `}}]}`},
			{"/v1/notification-templates", `{"name":"z","notificationGroupId":"g","steps":[{"template":{"type":"email","subject":"s","content":` + document(nodes) + `}}]}`},
			{"/v2/layouts", `{"name":"z","layoutId":"z","controlValues":{"email":{"editorType":"block","body":` + document(nodes+`,{"type":"variable","attrs":{"id":"content"}}`) + `}}}`},
		} {
			if a := p.call(400, "POST", c[0], p.a, c[1]); !strings.Contains(a.raw, says) {
				t.Errorf("%s: %s, want %s", c[0], a.raw, says)
			}
		}
	}
	p.call(400, "POST", "/v2/workflows", p.a, `{"name":"z","workflowId":"z","steps":[{"name":"m","type":"email","controlValues":{"subject":"s","editorType":"block","body":"{\"type\":\"page\"}"}}]}`)
}
