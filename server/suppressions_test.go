package server_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestSuppressions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lead := s.call(201, "POST", "/v1/suppressions", s.a, `{"lead_id":"1","reason":"unsubscribed","channel":"email"}`)
	lead.want("lead", "data", "lead_type")
	lead.want("email", "data", "channel")
	who := s.call(201, "POST", "/v1/suppressions", s.a, `{"subscriber_id":"ann"}`)
	who.want("*", "data", "channel")
	who.want("suppressed", "data", "reason")
	who.want(nil, "data", "lead_type")
	// Addresses are kept as they are compared.
	s.call(201, "POST", "/v1/suppressions", s.a, `{"address":" Ann@Example.COM "}`).want("ann@example.com", "data", "address")
	s.call(201, "POST", "/v1/suppressions", s.a, `{"address":"+43 (1) 234-567","channel":"sms"}`).want("+431234567", "data", "address")
	s.call(409, "POST", "/v1/suppressions", s.a, `{"address":"ann@example.com"}`)
	s.call(201, "POST", "/v1/suppressions", s.b, `{"address":"ann@example.com"}`)

	s.call(200, "GET", "/v1/suppressions?address=ANN@example.com", s.a, "").want("ann@example.com", "data", 0, "address")
	s.call(200, "GET", "/v1/suppressions?lead_id=1", s.a, "").want("unsubscribed", "data", 0, "reason")
	if got := s.all("/v1/suppressions?limit=2", s.a, "id"); len(got) != 4 {
		t.Errorf("pages of suppressions: %v", got)
	}
	path := "/v1/suppressions/" + lead.id()
	s.call(200, "GET", path, s.a, "").want("1", "data", "lead_id")
	patched := s.call(200, "PATCH", path, s.a, `{"channel":"*","reason":"bounced"}`)
	patched.want("*", "data", "channel")
	patched.want("bounced", "data", "reason")
	if got := s.text(`SELECT coalesce(channel, 'all') FROM pgautomate.suppressions WHERE lead_id = '1'`); got != "all" {
		t.Errorf("the channel is %s", got)
	}
	s.call(201, "POST", "/v1/suppressions", s.a, `{"lead_id":"1","channel":"sms"}`)
	s.call(409, "PATCH", path, s.a, `{"channel":"sms"}`)
	for _, method := range []string{"GET", "DELETE"} {
		s.call(404, method, path, s.b, "")
	}
	s.call(404, "PATCH", path, s.b, `{"reason":"mine"}`)
	s.call(204, "DELETE", path, s.a, "")
	s.call(404, "DELETE", path, s.a, "")

	for _, body := range []string{`{}`, `{"lead_id":"1","address":"a@b.c"}`} {
		if a := s.call(422, "POST", "/v1/suppressions", s.a, body); !strings.Contains(a.raw, "name one of lead_id, subscriber_id and address") {
			t.Errorf("%s: %s", body, a.raw)
		}
	}
	for _, address := range []string{"nobody", "@", "a@b.c, d@e.f", "12", "+1 x"} {
		s.call(422, "POST", "/v1/suppressions", s.a, fmt.Sprintf(`{"address":%q}`, address)).wantError("/address", "invalid")
	}
	s.call(422, "POST", "/v1/suppressions", s.a, `{"lead_id":"9","channel":"fax"}`)
}

// TestIntegrationSecrets: credentials are taken and never given back; what is read
// may be sent back as it is.
func TestIntegrationSecrets(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	made := s.call(201, "POST", "/v1/integrations", s.a, `{"providerId":"twilio","channel":"sms","name":"SMS","credentials":{"accountSid":"AC1","token":"secret-token","from":"+43","ssl":true}}`)
	path := "/v1/integrations/" + fmt.Sprint(made.get("data", "_id"))
	kept := func(name string) string {
		return s.text(`SELECT coalesce(credentials ->> $1, '-') FROM pgautomate.integrations WHERE organization_id = 'a'`, name)
	}
	hidden := func(a *answer) {
		t.Helper()
		if strings.Contains(a.raw, "secret") {
			t.Errorf("a secret is given back: %s", a.raw)
		}
	}
	hidden(made)
	made.want("********", "data", "credentials", "token")
	made.want("AC1", "data", "credentials", "accountSid")
	made.want(true, "data", "credentials", "ssl")
	for _, at := range []string{"/v1/integrations", "/v1/integrations/active", path} {
		hidden(s.call(200, "GET", at, s.a, ""))
	}
	// As it was read, with another sender.
	hidden(s.call(200, "PUT", path, s.a, `{"credentials":{"accountSid":"AC1","token":"********","from":"+44"}}`))
	if token, from := kept("token"), kept("from"); token != "secret-token" || from != "+44" {
		t.Errorf("kept are token %s and from %s", token, from)
	}
	hidden(s.call(200, "PUT", path, s.a, `{"credentials":{"accountSid":"AC1","token":"secret-other"}}`))
	if token, from := kept("token"), kept("from"); token != "secret-other" || from != "-" {
		t.Errorf("kept are token %s and from %s", token, from)
	}
	hidden(s.call(200, "PUT", path, s.a, `{"name":"renamed"}`))
	if token := kept("token"); token != "secret-other" {
		t.Errorf("a new name changed the token to %s", token)
	}
	// A mask is nothing to begin with.
	for _, c := range [][2]string{{"PUT", path}, {"POST", "/v1/integrations"}} {
		if a := s.call(400, c[0], c[1], s.a, `{"providerId":"twilio","channel":"sms","credentials":{"apiKey":"********"}}`); !strings.Contains(a.raw, "credentials.apiKey is the mask") {
			t.Errorf("%s: %s", c, a.raw)
		}
	}
	s.call(404, "GET", path, s.b, "")
	s.call(404, "PUT", path, s.b, `{"credentials":{"token":"mine"}}`)
	s.call(404, "PUT", path, s.b, `{"name":"mine"}`)
	s.call(404, "DELETE", path, s.b, "")
	s.call(200, "DELETE", path, s.a, "")
	s.call(404, "GET", path, s.a, "")
}
