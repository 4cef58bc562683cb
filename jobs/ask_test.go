package jobs

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// What a condition asks is signed in Novu's way and in that of Standard Webhooks, and
// goes only where webhooks may go.
func TestAsk(t *testing.T) {
	t.Parallel()
	says := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
	}
	r := startReceiver(t, says(`{"a":1}`), answer(503), answer(500), says(`{"a":2}`), answer(302, "Location", "/elsewhere"), says("no JSON"))
	h, err := newWebhook(Webhook{Secret: webhookSecret, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	a := &Action{ID: 7, OrganizationID: "acme", Now: time.Now()}
	ask := func() (string, error) {
		got, err := h.Ask(t.Context(), a, r.URL+"/judge", map[string]any{"identifier": "w"})
		return string(got), err
	}
	if got, err := ask(); got != `{"a":1}` || err != nil {
		t.Fatal(got, err)
	}
	q := r.requests()[0]
	mac := hmac.New(sha256.New, []byte(webhookSecret))
	mac.Write([]byte("acme"))
	if got := q.header.Get(HeaderHMAC); got != hex.EncodeToString(mac.Sum(nil)) || q.method != "POST" || q.path != "/judge" || string(q.body) != `{"identifier":"w"}` {
		t.Errorf("%s %s %s %s", q.method, q.path, q.body, got)
	}
	verify, err := standardwebhooks.NewWebhook(webhookSecret)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.Verify(q.body, q.header); err != nil {
		t.Error(err)
	}
	if got, err := ask(); got != `{"a":2}` || err != nil || len(r.requests()) != 4 {
		t.Error(got, err, len(r.requests()))
	}
	for _, says := range []string{"redirects are not followed", "the answer is no JSON"} {
		if _, err := ask(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %s", err, says)
		}
	}
	if n := len(r.requests()); n != 6 {
		t.Errorf("%d requests: what is no answer for good was asked again", n)
	}

	guarded, err := newWebhook(Webhook{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = guarded.Close() })
	if _, err := guarded.Ask(t.Context(), a, r.URL, nil); err == nil || !strings.Contains(err.Error(), "PGAUTOMATE_WEBHOOK_ALLOW") {
		t.Error(err)
	}
	for _, address := range []string{"ftp://example.com", "//x", "http://", "x"} {
		if _, err := CheckAddress(address); err == nil {
			t.Errorf("%q can be called", address)
		}
	}
}
