package acceptance

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestSends: sms, push and chat go out through the organization's integrations,
// and without one fail, saying so.
func TestSends(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	w.config.WebhookAllow = loopback
	web := newProvider(t, func(w http.ResponseWriter, path string, before int) {
		if path == "/sms" && before == 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write([]byte(`{"id": "m1"}`))
	})
	host := strings.TrimPrefix(web.URL, "http://")
	for _, i := range []struct{ org, identifier, provider, channel, credentials, more string }{
		{"a", "second", "generic-sms", "sms", `{"baseUrl": "` + web.URL + `/wrong"}`, "false, false, 0"},
		{"a", "first", "generic-sms", "sms", `{"baseUrl": "` + web.URL + `/sms", "from": "Acme"}`, "true, true, 9"},
		{"a", "off", "generic-sms", "push", `{"url": "generic://` + host + `/wrong?disabletls=yes"}`, "false, false, 0"},
		{"a", "on", "any", "push", `{"url": "generic://` + host + `/push?disabletls=yes"}`, "true, false, 1"},
		{"b", "other", "any", "chat", `{"url": "generic://` + host + `/wrong?disabletls=yes"}`, "true, true, 0"},
	} {
		w.exec(fmt.Sprintf(`INSERT INTO pgautomate.integrations (organization_id, identifier, provider_id, channel, credentials, active, is_primary, priority)
			VALUES ($1, $2, $3, $4, $5, %s)`, i.more), i.org, i.identifier, i.provider, i.channel, i.credentials)
	}
	stage := w.stage("a", "p", "s", act{"sms", `{"to": "+49", "body": "hello {{ lead.id }}"}`}, act{"push", `{"body": "pushed"}`},
		act{"chat", fmt.Sprintf(`{"body": "said", "url": "generic://%s/chat?disabletls=yes"}`, host)})
	none := w.stage("a", "q", "s", act{"chat", `{"body": "never"}`})
	w.run()
	run, lost := w.enter("a", "1", stage), w.enter("a", "1", none)
	w.untilRun(run, "completed")
	w.untilRun(lost, "failed/failed")
	if got := w.actionIs(w.action(lost, 1), "error"); !strings.Contains(got, `organization "a" has no active chat integration`) {
		t.Errorf("without an integration: %q", got)
	}
	if keys := web.header("/sms", "Idempotency-Key"); len(keys) != 2 || keys[0] != keys[1] {
		t.Errorf("the attempts' keys are %v", keys)
	}
	if got := w.actionIs(w.action(run, 1), `concat_ws(' ', attempt, result ->> 'integration', result ->> 'message_id')`); got != "2 first m1" {
		t.Errorf("the sms says %q", got)
	}
	if got := fmt.Sprint(len(web.bodies["/push"]), len(web.bodies["/chat"]), len(web.bodies["/wrong"]), strings.Contains(web.bodies["/sms"][1], "hello 1")); got != "1 1 0 true" {
		t.Errorf("the provider got %s", got)
	}
}
