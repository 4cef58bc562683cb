package server_test

// What the SDKs ask for beside messages: environments and their variables, groups of
// workflows, and what of integrations needs Novu's cloud.

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/server"
)

func TestEnvironments(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one := s.call(200, "GET", "/v1/environments", s.a, "")
	for member, want := range map[string]any{"_id": "a", "name": "a", "_organizationId": "a", "identifier": "a", "type": "prod"} {
		one.want(want, "data", 0, member)
	}
	s.call(200, "PUT", "/v1/environments/a", s.a, `{"name":"Acme","identifier":"a"}`)
	s.call(200, "GET", "/v1/environments/me", s.a, "").want("Acme", "data", "name")
	s.call(200, "GET", "/v1/environments/me", s.b, "").want("b", "data", "name")
	if got := s.text(`SELECT name || ' ' || time_zone FROM pgautomate.organizations WHERE id = 'a'`); got != "Acme UTC" {
		t.Error(got)
	}
	for _, c := range []struct {
		status             int
		method, path, body string
		says               string
	}{
		{400, "POST", "/v1/environments", `{"name":"Staging","color":"#fff"}`, "pgautomate keys create --organization"},
		{400, "DELETE", "/v1/environments/a", ``, "DELETE /v1/keys/{id}"},
		{400, "POST", "/v1/environments/api-keys/regenerate", ``, "POST /v1/keys"},
		{404, "PUT", "/v1/environments/b", `{"name":"x"}`, "this key's is a"},
		{400, "PUT", "/v1/environments/a", `{"color":"#fff"}`, "color can't be changed"},
		{400, "PUT", "/v1/environments/a", `{"identifier":"z"}`, "identifier can't be changed"},
		{400, "PUT", "/v1/environments/a", `{"name":" "}`, "name must be"},
		{400, "PUT", "/v1/environments/a", `[]`, "must be an object"},
		{404, "GET", "/v2/environments/b/tags", ``, "this key's is a"},
		{404, "POST", "/v2/environments/a/diff", `{"sourceEnvironmentId":"b"}`, "no environment b"},
		{404, "POST", "/v2/environments/b/publish", `{}`, "no environment b"},
	} {
		if a := s.call(c.status, c.method, c.path, s.a, c.body); !strings.Contains(a.raw, c.says) {
			t.Errorf("%s %s %s: %s", c.method, c.path, c.body, a.raw)
		}
	}
	// Keys are shown as far as they are known; another organization's and revoked ones are not.
	_, id, err := server.CreateKey(t.Context(), s.pool, new("a"), "second")
	ok(t, err)
	keys := s.call(200, "GET", "/v1/environments/api-keys", s.a, "")
	if keys.len("data") != 2 || strings.Contains(keys.raw, s.a) || !strings.HasPrefix(fmt.Sprint(keys.get("data", 0, "key")), s.a[:8]) {
		t.Error(keys.raw)
	}
	s.call(204, "DELETE", "/v1/keys/"+fmt.Sprint(id), s.a, "")
	if keys = s.call(200, "GET", "/v1/environments/api-keys", s.a, ""); keys.len("data") != 1 {
		t.Error(keys.raw)
	}

	for i, tags := range []string{`["b","a"]`, `["a"]`, `[]`} {
		s.call(201, "POST", "/v2/workflows", s.a, fmt.Sprintf(`{"name":"w","workflowId":"w%d","tags":%s,"steps":[]}`, i, tags))
	}
	if a := s.call(200, "GET", "/v2/environments/a/tags", s.a, ""); fmt.Sprint(a.get("data")) != "[map[name:a] map[name:b]]" {
		t.Error(a.raw)
	}
	if a := s.call(200, "GET", "/v2/environments/b/tags", s.b, ""); a.len("data") != 0 {
		t.Error(a.raw)
	}
	s.call(200, "POST", "/v2/environments/a/diff", s.a, `{"sourceEnvironmentId":"a"}`).want(false, "data", "summary", "hasChanges")
	s.call(200, "POST", "/v2/environments/a/publish", s.a, "").want(float64(0), "data", "summary", "resources")
}

func TestEnvironmentVariables(t *testing.T) {
	t.Parallel()
	p := newPost(t)
	p.subscriber("S1")
	made := p.call(200, "POST", "/v1/environment-variables", p.a, `{"key":"SITE","values":[{"_environmentId":"a","value":"https://example.com"}]}`)
	made.want("string", "data", "type")
	made.want("https://example.com", "data", "values", 0, "value")
	p.call(200, "POST", "/v1/environment-variables", p.a, `{"key":"TOKEN","isSecret":true,"values":[{"_environmentId":"a","value":"s3cret"}]}`)
	p.call(200, "POST", "/v1/environment-variables", p.a, `{"key":"EMPTY"}`)

	say := func(name, content, payload string) string {
		p.workflow(name, []string{template("in_app", content)})
		tx := p.trigger("processed", fmt.Sprintf(`{"name":%q,"to":"S1","payload":%s}`, name, payload))
		p.until("trigger:completed in_app:completed", ofEvent, tx)
		return p.text(`SELECT content FROM pgautomate.messages WHERE transaction_id = $1`, tx)
	}
	if got := say("sites", "{{env.SITE}}/{{env.TOKEN}}/{{env.EMPTY}}/{{env.nothing}}", `{}`); got != "https://example.com/s3cret//" {
		t.Error(got)
	}
	if got := say("own", "{{env}} of the payload", `{"env":"dev"}`); got != "dev of the payload" {
		t.Error(got)
	}
	if a := p.call(200, "GET", "/v1/environment-variables/SITE/usage", p.a, ""); a.len("data", "workflows") != 1 {
		t.Error(a.raw)
	}
	p.call(200, "GET", "/v1/environment-variables/EMPTY/usage", p.a, "").want("sites", "data", "workflows", 0, "workflowId")

	// A secret is not given back, nor lost when its mask is; a new value takes its place.
	for _, at := range []string{"/v1/environment-variables", "/v1/environment-variables?search=tok", "/v1/environment-variables/TOKEN"} {
		if a := p.call(200, "GET", at, p.a, ""); strings.Contains(a.raw, "s3cret") || !strings.Contains(a.raw, "********") {
			t.Error(a.raw)
		}
	}
	if a := p.call(200, "GET", "/v1/environment-variables?search=tok", p.a, ""); a.len("data") != 1 {
		t.Error(a.raw)
	}
	kept := func(want string) {
		t.Helper()
		if got := p.text(`SELECT string_agg(key || '=' || coalesce(value, 'none'), ' ' ORDER BY key) FROM pgautomate.environment_variables`); got != want {
			t.Error(got)
		}
	}
	p.call(200, "PATCH", "/v1/environment-variables/TOKEN", p.a, `{"values":[{"_environmentId":"a","value":"********"}]}`)
	p.call(400, "PATCH", "/v1/environment-variables/TOKEN", p.a, `{"isSecret":false}`)
	kept("EMPTY=none SITE=https://example.com TOKEN=s3cret")
	p.call(200, "PATCH", "/v1/environment-variables/TOKEN", p.a, `{"key":"TOKEN_2","values":[{"_environmentId":"a","value":"new"}]}`)
	p.call(200, "PATCH", "/v1/environment-variables/SITE", p.a, `{"values":[]}`)
	kept("EMPTY=none SITE=none TOKEN_2=new")
	for _, c := range []struct {
		status             int
		method, path, body string
		says               string
	}{
		{400, "POST", "", `{}`, "key should not be empty"},
		{400, "POST", "", `{"key":"1x"}`, "begin with a letter"},
		{400, "POST", "", `{"key":"SITE"}`, "already"},
		{400, "POST", "", `{"key":"N","type":"number"}`, "type must be string"},
		{400, "POST", "", `{"key":"N","values":[{"_environmentId":"b","value":"x"}]}`, "no environment b"},
		{400, "POST", "", `{"key":"N","values":[{"value":"x"},{"value":"y"}]}`, "one element"},
		{400, "POST", "", `{"key":"N","values":[{"value":7}]}`, "must be a string"},
		{422, "POST", "", `{"key":"N","values":[{"value":"\u0000"}]}`, "U+0000"},
		{400, "PATCH", "/SITE", `{"key":"EMPTY"}`, "already"},
		{404, "PATCH", "/nothing", `{}`, "no environment variable nothing"},
		{404, "DELETE", "/nothing", ``, "no environment variable nothing"},
		{404, "GET", "/nothing/usage", ``, "no environment variable nothing"},
	} {
		if a := p.call(c.status, c.method, "/v1/environment-variables"+c.path, p.a, c.body); !strings.Contains(a.raw, c.says) {
			t.Errorf("%s %s %s: %s", c.method, c.path, c.body, a.raw)
		}
	}
	p.call(204, "DELETE", "/v1/environment-variables/SITE", p.a, "")
	kept("EMPTY=none TOKEN_2=new")
}

func TestIntegrationRoutes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	id := fmt.Sprint(s.call(201, "POST", "/v1/integrations", s.a, `{"providerId":"slack","channel":"chat"}`).get("data", "_id"))
	auto := s.call(200, "POST", "/v1/integrations/"+id+"/auto-configure", s.a, "")
	auto.want(false, "data", "success")
	if !strings.Contains(auto.raw, "providers don't call this server") {
		t.Error(auto.raw)
	}
	s.call(404, "POST", "/v1/integrations/"+id+"/auto-configure", s.b, "")
	s.call(200, "GET", "/v1/integrations/webhook/provider/"+id+"/status", s.a, "").want(false, "data")
	s.call(200, "GET", "/v1/integrations/in-app/status", s.a, "").want(true, "data", "active")
	for path, says := range map[string]string{
		"x/webhook/configure": "no webhook to configure", "x/mobile-link": "no OAuth", "chat/oauth": "POST /v1/integrations", "channel-connections/oauth": "no OAuth",
		"channel-endpoints/oauth": "no OAuth", "channel-endpoints/link": "/v1/subscribers/{subscriberId}/credentials",
	} {
		if a := s.call(400, "POST", "/v1/integrations/"+path, s.a, `{}`); !strings.Contains(a.raw, says) {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
}

func TestNotificationGroups(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	// There is always a group to put templates in.
	a := s.call(200, "GET", "/v1/notification-groups", s.a, "")
	if a.len("data") != 1 || a.get("data", 0, "name") != "General" {
		t.Fatal(a.raw)
	}
	general := fmt.Sprint(a.get("data", 0, "_id"))
	made := s.call(201, "POST", "/v1/notification-groups", s.a, `{"name":"News"}`)
	id := fmt.Sprint(made.get("data", "_id"))
	path := "/v1/notification-groups/" + id
	s.call(200, "GET", path, s.a, "").want("News", "data", "name")
	s.call(404, "GET", path, s.b, "")
	s.call(404, "PATCH", path, s.b, `{"name":"x"}`)
	s.call(404, "DELETE", path, s.b, "")

	template := func(group string) string {
		return fmt.Sprint(s.call(201, "POST", "/v1/notification-templates", s.a, fmt.Sprintf(`{"name":"w","notificationGroupId":%q,"steps":[]}`, group)).get("data", "_id"))
	}
	first, second := template(id), template("any text")
	s.call(200, "PATCH", path, s.a, `{"name":"Newsletters"}`)
	s.call(200, "GET", "/v1/notification-templates/"+first, s.a, "").want("Newsletters", "data", "notificationGroup", "name")
	s.call(200, "GET", "/v1/notification-templates", s.a, "").want("Newsletters", "data", "data", 1, "notificationGroup", "name")
	other := s.call(200, "GET", "/v1/notification-templates/"+second, s.a, "")
	other.want("any text", "data", "_notificationGroupId")
	other.want("any text", "data", "notificationGroup", "name")
	if a := s.call(200, "GET", "/v1/notification-groups", s.a, ""); a.len("data") != 3 {
		t.Error(a.raw)
	}
	if got := s.text(`SELECT string_agg(name, ', ' ORDER BY id) FROM pgautomate.notification_groups WHERE organization_id = 'a'`); got != "General, Newsletters, any text" {
		t.Error(got)
	}

	if a := s.call(400, "DELETE", path, s.a, ""); !strings.Contains(a.raw, "the group has workflows") {
		t.Error(a.raw)
	}
	s.call(200, "PUT", "/v1/notification-templates/"+first, s.a, fmt.Sprintf(`{"notificationGroupId":%q}`, general))
	s.call(200, "DELETE", path, s.a, "").want("deleted", "data", "status")
	s.call(404, "GET", path, s.a, "")
	s.call(404, "DELETE", path, s.a, "")
	s.call(200, "DELETE", "/v1/notification-templates/"+second, s.a, "")
	s.call(200, "DELETE", "/v1/notification-groups/any%20text", s.a, "")

	for _, c := range [][3]string{
		{"POST", "/v1/notification-groups", `{}`}, {"POST", "/v1/notification-groups", `{"name":7}`}, {"PATCH", "/v1/notification-groups/" + general, `{"name":" "}`},
		{"POST", "/v1/notification-templates", `{"name":"w","steps":[],"notificationGroupId":"` + strings.Repeat("x", 501) + `"}`},
	} {
		s.call(400, c[0], c[1], s.a, c[2])
	}
}
