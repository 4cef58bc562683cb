package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const webhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

type received struct {
	method, path string
	header       http.Header
	body         []byte
}

// receiver is an HTTP server that keeps what it gets.
type receiver struct {
	*httptest.Server

	mu   sync.Mutex
	got  []received
	next []http.HandlerFunc // answers, in turn; then 200
}

func startReceiver(t *testing.T, answers ...http.HandlerFunc) *receiver {
	t.Helper()
	r := &receiver{next: answers}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.got = append(r.got, received{req.Method, req.URL.RequestURI(), req.Header, body})
		var answer http.HandlerFunc
		if len(r.next) > 0 {
			answer, r.next = r.next[0], r.next[1:]
		}
		r.mu.Unlock()
		if answer != nil {
			answer(w, req)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) requests() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]received(nil), r.got...)
}

func answer(code int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "because\nof it")
	}
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

func webhookFor(t *testing.T, cfg Webhook) Handler {
	t.Helper()
	return handlerFor(t, Config{Webhook: cfg}, "webhook")
}

func webhookAction(t *testing.T, params map[string]any) *Action {
	t.Helper()
	return &Action{
		ID: 123, OrganizationID: "acme", LeadID: "7", ObjectType: "lead", Type: "webhook", Attempt: 1, Params: rawJSON(t, params), Vars: leadVars(),
		PerformAt: time.Date(2028, 3, 13, 10, 0, 0, 0, time.UTC), Now: time.Now(), Location: time.UTC,
	}
}

func TestWebhookDefaultBodyAndSignature(t *testing.T) {
	t.Parallel()
	r := startReceiver(t)
	a := webhookAction(t, map[string]any{"url": r.URL + "/in?x={{ lead.score }}", "headers": map[string]any{"x-source": "crm {{ lead.score }}"}})
	a.Vars = NewVars()
	a.Vars.Set("lead", map[string]any{"score": json.Number("42"), "amount": json.Number("12.50")})
	a.Vars.Set("trigger", map[string]any{"id": "t1"})
	got, err := webhookFor(t, Webhook{Secret: webhookSecret, Allow: loopback}).Run(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(WebhookOutput{Status: 200}, got.Output); d != "" {
		t.Error(d)
	}
	req := r.requests()[0]
	const body = `{"type":"pgautomate.action","timestamp":"2028-03-13T10:00:00Z","action_id":"123","organization_id":"acme","lead_id":"7","object_type":"lead","trigger":{"id":"t1"},"data":{"amount":12.50,"score":42}}`
	if string(req.body) != body || req.method != "POST" || req.path != "/in?x=42" {
		t.Errorf("%s %s %s", req.method, req.path, req.body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Source": "crm 42", "Idempotency-Key": "pgautomate-action-123", "Webhook-Id": "pgautomate-action-123",
	} {
		if req.header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, req.header.Get(name), want)
		}
	}
	wh, err := standardwebhooks.NewWebhook(webhookSecret)
	if err != nil {
		t.Fatal(err)
	}
	if err := wh.Verify(req.body, req.header); err != nil {
		t.Error(err)
	}
	if err := wh.Verify(append(req.body, ' '), req.header); err == nil {
		t.Error("the signature holds for another body")
	}
}

func TestWebhookBodies(t *testing.T) {
	t.Parallel()
	r := startReceiver(t)
	h := webhookFor(t, Webhook{Allow: loopback})
	for i, tc := range []struct {
		method    string
		body      any
		want, typ string
	}{
		{"put", map[string]any{"score": "{{ lead.score }}", "name": "{{ lead.name }}", "n": 1}, `{"n":1,"name":"Ada \u003cb\u003e","score":42}`, "application/json"},
		{"patch", "Hello {{ lead.score }}", "Hello 42", "text/plain; charset=utf-8"},
		{"post", `{"a": {{ lead.score }}}`, `{"a": 42}`, "application/json"},
		{"post", "{{ lead.custom }}", `{"n":1.10,"plan":"pro"}`, "application/json"},
		{"post", "{{ lead.none }}", "", ""},
		{"get", nil, "", ""},
		{"delete", nil, "", ""},
	} {
		p := map[string]any{"url": r.URL, "method": tc.method}
		if tc.body != nil {
			p["body"] = tc.body
		}
		if _, err := h.Run(t.Context(), webhookAction(t, p)); err != nil {
			t.Fatal(err)
		}
		req := r.requests()[i]
		if string(req.body) != tc.want || req.header.Get("Content-Type") != tc.typ || req.method != strings.ToUpper(tc.method) {
			t.Errorf("%v: %s %q (%s)", tc.body, req.method, req.body, req.header.Get("Content-Type"))
		}
		if req.header.Get("Webhook-Signature") != "" {
			t.Error("signed without a secret")
		}
	}
}

// P25 and P26: two transient answers, then it works; each attempt carries the same key.
func TestWebhookTransientThenDone(t *testing.T) {
	t.Parallel()
	// The first time the receiver takes the request and breaks off before it answers.
	r := startReceiver(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, answer(500))
	h := webhookFor(t, Webhook{Secret: webhookSecret, Allow: loopback})
	a := webhookAction(t, map[string]any{"url": r.URL, "body": "x"})
	for a.Attempt = 1; a.Attempt <= 2; a.Attempt++ {
		if _, err := h.Run(t.Context(), a); class(err) != ClassTransient {
			t.Fatalf("attempt %d: %v (%v)", a.Attempt, err, class(err))
		}
	}
	if _, err := h.Run(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	requests := r.requests()
	if len(requests) != 3 {
		t.Fatalf("%d requests", len(requests))
	}
	for _, req := range requests {
		if req.header.Get("Idempotency-Key") != "pgautomate-action-123" || req.header.Get("Webhook-Id") != "pgautomate-action-123" || string(req.body) != "x" {
			t.Errorf("%v", req)
		}
	}
}

func TestWebhookAnswers(t *testing.T) {
	t.Parallel()
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		class  ErrorClass
		after  time.Duration
		want   string
	}{
		{"429 with seconds", answer(429, "Retry-After", "120"), ClassRetryAfter, 2 * time.Minute, "answered 429 Too Many Requests: because of it (again in 2m0s)"},
		{"429 with nothing", answer(429), ClassTransient, 0, "answered 429"},
		{"429 with nonsense", answer(429, "Retry-After", "soon"), ClassTransient, 0, "answered 429"},
		{"429 with zero", answer(429, "Retry-After", "0"), ClassRetryAfter, time.Second, "answered 429"},
		{"429 with a year", answer(429, "Retry-After", "31536000"), ClassRetryAfter, 24 * time.Hour, "answered 429"},
		{"429 with too much", answer(429, "Retry-After", "9223372036854775807"), ClassRetryAfter, 24 * time.Hour, "answered 429"},
		{"503 with a date", answer(503, "Retry-After", "Mon, 13 Mar 2028 10:00:30 GMT", "Date", "Mon, 13 Mar 2028 10:00:00 GMT"), ClassRetryAfter, 30 * time.Second, "answered 503"},
		{"503 with a date that passed", answer(503, "Retry-After", date(-time.Hour)), ClassRetryAfter, time.Second, "answered 503"},
		{"503", answer(503), ClassTransient, 0, "answered 503"},
		{"408", answer(408), ClassTransient, 0, "answered 408"},
		{"425", answer(425), ClassTransient, 0, "answered 425"},
		{"502 and Retry-After", answer(502, "Retry-After", "9"), ClassTransient, 0, "answered 502"},
		{"400", answer(400), ClassPermanent, 0, "answered 400 Bad Request: because of it"},
		{"404", answer(404), ClassPermanent, 0, "answered 404"},
		{"410", answer(410), ClassPermanent, 0, "answered 410"},
		{"302", answer(302, "Location", "http://127.0.0.1:1/other"), ClassPermanent, 0, "redirects are not followed: name the final address, http://127.0.0.1:1/other"},
		{"307", answer(307, "Location", "/other"), ClassPermanent, 0, "redirects are not followed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := startReceiver(t, tc.answer)
			_, err := webhookFor(t, Webhook{Allow: loopback}).Run(t.Context(), webhookAction(t, map[string]any{"url": r.URL, "body": "x"}))
			got, after := Classify(err)
			if got != tc.class || after != tc.after || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v (%v, %v), want %v, %v, %q", err, got, after, tc.class, tc.after, tc.want)
			}
			if n := len(r.requests()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

func TestWebhookReadsLittle(t *testing.T) {
	t.Parallel()
	r := startReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := bytes.Repeat([]byte("ä"), 16<<10)
		for { // ends when the client hangs up
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	got, err := webhookFor(t, Webhook{Allow: loopback}).Run(t.Context(), webhookAction(t, map[string]any{"url": r.URL, "body": "x"}))
	if err != nil {
		t.Fatal(err)
	}
	if out := got.Output.(WebhookOutput); len(out.Body) != 4096 || out.Status != 200 {
		t.Errorf("%d: %d bytes", out.Status, len(out.Body))
	}
}

func TestWebhookTimesOutAndStops(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }
	r := startReceiver(t, hang, hang)
	h, err := newWebhook(Webhook{Allow: loopback})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	h.timeout = 50 * time.Millisecond
	a := webhookAction(t, map[string]any{"url": r.URL, "body": "x"})
	if _, err := h.Run(t.Context(), a); class(err) != ClassTransient || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("%v (%v)", err, class(err))
	}
	h.timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := h.Run(ctx, a); class(err) != ClassStopped {
		t.Errorf("%v (%v)", err, class(err))
	}
}

func TestWebhookUnreachableHidesPassword(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	_, err = webhookFor(t, Webhook{Allow: loopback}).Run(t.Context(), webhookAction(t, map[string]any{"url": "http://u:secret@" + addr + "/token", "body": "x"}))
	if class(err) != ClassTransient || !strings.HasPrefix(err.Error(), "webhook to "+addr+": ") || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "token") {
		t.Errorf("%v (%v)", err, class(err))
	}
}

func TestWebhookRowNotVisible(t *testing.T) {
	t.Parallel()
	r := startReceiver(t)
	a := webhookAction(t, map[string]any{"url": r.URL})
	a.Vars = NewVars()
	a.Vars.SetLazy("lead", func(context.Context) (any, error) { return nil, ErrNotVisible })
	if _, err := webhookFor(t, Webhook{Allow: loopback}).Run(t.Context(), a); !errors.Is(err, ErrNotVisible) || len(r.requests()) != 0 {
		t.Errorf("%v", err)
	}
}

func TestWebhookRefusesPrivateAddresses(t *testing.T) {
	t.Parallel()
	r := startReceiver(t)
	_, port, err := net.SplitHostPort(r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	h := webhookFor(t, Webhook{})
	// The address that is dialed counts, however it is written.
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0", "[::]", "10.0.0.1", "169.254.169.254", "[64:ff9b::7f00:1]", "[fd00:ec2::254]"} {
		_, err := h.Run(t.Context(), webhookAction(t, map[string]any{"url": "http://" + host + ":" + port + "/", "body": "x"}))
		if class(err) != ClassPermanent || !strings.Contains(err.Error(), "list its network in PGAUTOMATE_WEBHOOK_ALLOW") {
			t.Errorf("%s: %v (%v)", host, err, class(err))
		}
	}
	if len(r.requests()) != 0 {
		t.Errorf("%d requests got through", len(r.requests()))
	}
}

func TestAddressGuard(t *testing.T) {
	t.Parallel()
	allow, err := ParseAllow("10.1.0.0/16, 192.168.7.9 fd12::/16")
	if err != nil {
		t.Fatal(err)
	}
	for addr, ok := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "2606:4700::1111": true, "64:ff9b::808:808": true, "2002:808:808::1": true,
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "64:ff9b::a01:203": true, "192.168.7.9": true, "fd12::1": true,
		"10.2.0.1": false, "172.16.0.1": false, "192.168.7.8": false, "127.0.0.1": false, "127.9.9.9": false, "0.0.0.0": false, "0.1.2.3": false,
		"100.64.0.1": false, "100.100.100.200": false, "169.254.169.254": false, "192.0.0.192": false, "192.0.2.1": false, "198.18.0.1": false,
		"224.0.0.1": false, "239.1.1.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::127.0.0.1": false, "::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "fe80::1%eth0": false, "fec0::1": false,
		"fc00::1": false, "fd00:ec2::254": false, "ff02::1": false, "64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::1": false,
		"2002:7f00:1::1": false, "2002:a00:1::": false, "2001:0:1::1": false, "2001:db8::1": false,
	} {
		if kind := (addressGuard{allow}).refuses(netip.MustParseAddr(addr)); (kind == "") != ok {
			t.Errorf("%s: %q", addr, kind)
		}
	}
	for bad, want := range map[string]string{
		"10.0.0.0/8,intranet": `"intranet" is not a network: use CIDRs such as 10.1.0.0/16`,
		"10.0.0.0/33":         `"10.0.0.0/33" is not a network`,
		"::ffff:10.0.0.0/104": `write an IPv4 network in its own form`,
	} {
		if _, err := ParseAllow(bad); err == nil || !strings.HasPrefix(err.Error(), "PGAUTOMATE_WEBHOOK_ALLOW: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if got, err := ParseAllow(" "); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWebhookRefuses(t *testing.T) {
	t.Parallel()
	r, err := Defaults(Config{})
	if err != nil {
		t.Fatal(err)
	}
	h, _ := r.Handler("webhook")
	for _, tc := range []struct {
		params, want string
		late         bool
	}{
		{`{}`, `parameter "url" is missing`, false},
		{`{"url":"ftp://x"}`, `url: use an address such as https://example.com/path`, false},
		{`{"url":"example.com"}`, `url: use an address`, false},
		{`{"url":"https://"}`, `url: use an address`, false},
		{`{"url":"https://x","method":"TRACE"}`, `method: "TRACE" is not possible: use POST, PUT, PATCH, DELETE, GET`, false},
		{`{"url":"https://x","headers":"x"}`, `headers: use an object`, false},
		{`{"url":"https://x","headers":{"a b":"x"}}`, `headers: "a b" is not a header's name`, false},
		{`{"url":"https://x","headers":{"host":"evil"}}`, `headers: Host is set by pgautomate`, false},
		{`{"url":"https://x","headers":{"webhook-signature":"v1,x"}}`, `headers: Webhook-Signature is set by pgautomate`, false},
		{`{"url":"https://x","headers":{"CONTENT-LENGTH":"1"}}`, `headers: Content-Length is set by pgautomate`, false},
		{`{"url":"https://x","headers":{"idempotency-key":"1"}}`, `headers: Idempotency-Key is set by pgautomate`, false},
		{`{"url":"https://x","headers":{"x-a":"1\r\nx-b: 2"}}`, `headers.x-a: line breaks are not allowed`, false},
		{`{"url":"https://x","headers":{"x-a":["1"]}}`, `headers.x-a: use a string`, false},
		{`{"url":"https://x","headers":{"x-a":"1","X-A":"2"}}`, `headers: X-A stands there twice`, false},
		{`{"url":"https://x","header":{}}`, `unknown parameter "header"; did you mean "headers"?`, false},
		{`{"url":"{{ lead.none }}"}`, `url: use an address`, true},
		{`{"url":"https://x","method":"{{ lead.name }}"}`, `is not possible`, true},
		{`{"url":"https://x","headers":{"x-a":"{{ lead.evil }}"}}`, `headers.x-a: line breaks are not allowed`, true},
	} {
		err := r.Validate("webhook", json.RawMessage(tc.params))
		if tc.late {
			if err != nil {
				t.Errorf("%s: at save: %v", tc.params, err)
			}
			_, err = h.Run(t.Context(), &Action{ID: 1, Params: json.RawMessage(tc.params), Vars: leadVars()})
			if class(err) != ClassPermanent {
				t.Errorf("%s: %v (%v)", tc.params, err, class(err))
			}
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.params, err, tc.want)
		}
	}
	for _, secret := range []string{"whsec_", "whsec_short", "not base64 !"} {
		_, err := Defaults(Config{Webhook: Webhook{Secret: secret}})
		if err == nil || !strings.HasPrefix(err.Error(), "PGAUTOMATE_WEBHOOK_SECRET: use whsec_ and the base64 of 24 to 64 random bytes") {
			t.Errorf("%s: %v", secret, err)
		}
	}
}
