package jobs

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shelves is an Integrations with several for the one channel that is asked for.
type shelves []Integration

func (s shelves) List(_ context.Context, _, _, identifier string) ([]Integration, error) {
	var out []Integration
	for _, i := range s {
		if identifier == "" || i.Identifier == identifier {
			out = append(out, i)
		}
	}
	return out, nil
}

// shelf is an Integrations with one for each channel.
type shelf map[string]*Integration

func (s shelf) List(_ context.Context, _, channel, identifier string) ([]Integration, error) {
	i := s[channel]
	if i == nil || identifier != "" && i.Identifier != identifier {
		return nil, nil
	}
	return []Integration{*i}, nil
}

// gateway is a real HTTP server that keeps what it was sent.
type gateway struct {
	*httptest.Server

	mu     sync.Mutex
	got    []*http.Request
	bodies []string
	answer func(w http.ResponseWriter)
	byPath map[string]int // statuses
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.got, g.bodies = append(g.got, r), append(g.bodies, string(body))
		if code := g.byPath[r.URL.Path]; code != 0 {
			if code == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", "7")
			}
			w.WriteHeader(code)
		} else if g.answer != nil {
			g.answer(w)
		}
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) set(answer func(w http.ResponseWriter)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = answer
}

var loopbackOnly = Webhook{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}

func send(t *testing.T, cfg Config, actionType, params string) (Result, error) {
	t.Helper()
	a := &Action{ID: 9, OrganizationID: "acme", LeadID: "7", Type: actionType, Params: json.RawMessage(params), Vars: leadVars()}
	return handlerFor(t, cfg, actionType).Run(t.Context(), a)
}

func TestSMS(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.set(func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"sid":"SM1","data":{"id":12}}`) })
	twilio := &Integration{Identifier: "main", Provider: "twilio", Credentials: map[string]any{"accountSid": "AC1", "token": "s3cret", "from": "+1555", "baseUrl": g.URL}}
	generic := &Integration{Identifier: "own", Provider: "generic-sms", Credentials: map[string]any{
		"baseUrl": g.URL + "/send", "from": "Acme", "apiKeyRequestHeader": "X-Key", "apiKey": "k", "secretKeyRequestHeader": "X-Secret", "secretKey": "s", "idPath": "data.id",
	}}
	const params = `{"to":" +49 1 ","body":"Hello {{ lead.name }}"}`

	got, err := send(t, Config{Integrations: shelf{"sms": twilio}, Webhook: loopbackOnly}, "sms", params)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(SMSOutput{"main", "twilio", "+49 1", "SM1", nil}, got.Output); d != "" {
		t.Error(d)
	}
	user, password, _ := g.got[0].BasicAuth()
	if g.got[0].URL.Path != "/2010-04-01/Accounts/AC1/Messages.json" || user != "AC1" || password != "s3cret" ||
		g.bodies[0] != "Body=Hello+Ada+%3Cb%3E&From=%2B1555&To=%2B49+1" || g.got[0].Header.Get("Idempotency-Key") != "pgautomate-action-9" {
		t.Errorf("%s %s:%s %s", g.got[0].URL, user, password, g.bodies[0])
	}
	twilio.Credentials["from"] = "MG" + strings.Repeat("0", 32)
	if _, err := send(t, Config{Integrations: shelf{"sms": twilio}, Webhook: loopbackOnly}, "sms", params); err != nil || !strings.Contains(g.bodies[1], "MessagingServiceSid=MG0") {
		t.Errorf("%v %s", err, g.bodies[1])
	}

	got, err = send(t, Config{Integrations: shelf{"sms": generic}, Webhook: loopbackOnly}, "sms", params)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(SMSOutput{"own", "generic-sms", "+49 1", "12", nil}, got.Output); d != "" {
		t.Error(d)
	}
	if g.got[2].URL.Path != "/send" || g.got[2].Header.Get("X-Key") != "k" || g.got[2].Header.Get("X-Secret") != "s" ||
		g.bodies[2] != `{"content":"Hello Ada \u003cb\u003e","from":"Acme","id":"pgautomate-action-9","sender":"Acme","to":"+49 1"}` {
		t.Errorf("%s %v %s", g.got[2].URL, g.got[2].Header, g.bodies[2])
	}

	for _, tc := range []struct {
		name   string
		cfg    Config
		params string
		answer int
		want   string
		class  ErrorClass
	}{
		{"none", Config{Integrations: shelf{}}, params, 0, `organization "acme" has no active sms integration: add one to pgautomate.integrations`, ClassPermanent},
		{"named", Config{Integrations: shelf{"sms": generic}}, `{"to":"1","body":"x","integration":"other"}`, 0, `no active sms integration "other"`, ClassPermanent},
		{"provider", Config{Integrations: shelf{"sms": {Identifier: "x", Provider: "pigeon"}}}, params, 0, `provider "pigeon" can't send sms`, ClassPermanent},
		{"credentials", Config{Integrations: shelf{"sms": {Identifier: "x", Provider: "twilio", Credentials: map[string]any{"accountSid": "a"}}}}, params, 0, "has no credentials.token", ClassPermanent},
		{"address", Config{Integrations: shelf{"sms": {Identifier: "x", Provider: "generic-sms", Credentials: map[string]any{"baseUrl": "gopher://x"}}}}, params, 0, "no http(s) address", ClassPermanent},
		{"private", Config{Integrations: shelf{"sms": generic}}, params, 0, "PGAUTOMATE_WEBHOOK_ALLOW", ClassPermanent},
		{"no number", Config{Integrations: shelf{"sms": generic}}, `{"to":"{{ lead.none }}","body":"x"}`, 0, "to: the template gives no number", ClassPermanent},
		{"empty", Config{Integrations: shelf{"sms": generic}}, `{"to":"1","body":"{{ lead.none }}"}`, 0, "body: the message is empty", ClassPermanent},
		{"too long", Config{Integrations: shelf{"sms": generic}}, `{"to":"1","body":"` + strings.Repeat("x", 1601) + `"}`, 0, "1601 characters are too many", ClassPermanent},
		{"refused", Config{Integrations: shelf{"sms": generic}, Webhook: loopbackOnly}, params, 400, "sms to ", ClassPermanent},
		{"busy", Config{Integrations: shelf{"sms": generic}, Webhook: loopbackOnly}, params, 429, "429", ClassRetryAfter},
		{"broken", Config{Integrations: shelf{"sms": generic}, Webhook: loopbackOnly}, params, 502, "502", ClassTransient},
	} {
		g.set(func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "3")
			w.WriteHeader(tc.answer)
			_, _ = io.WriteString(w, "number is no number")
		})
		if _, err := send(t, tc.cfg, "sms", tc.params); err == nil || !strings.Contains(err.Error(), tc.want) || class(err) != tc.class {
			t.Errorf("%s: %v (%v), want %q (%v)", tc.name, err, class(err), tc.want, tc.class)
		}
	}
}

func TestChatAndPush(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	host := strings.TrimPrefix(g.URL, "http://")
	url := "generic://" + host + "/hook/t0psecret?disabletls=yes&template=json"
	for _, actionType := range []string{"chat", "push"} {
		got, err := send(t, Config{Webhook: loopbackOnly}, actionType, `{"url":"`+url+`","body":"Hello {{ lead.name }}","title":"Hi"}`)
		if err != nil {
			t.Fatalf("%s: %v", actionType, err)
		}
		if d := cmp.Diff(ChatOutput{Service: "generic"}, got.Output); d != "" {
			t.Error(d)
		}
		var message map[string]string
		if err := json.Unmarshal([]byte(g.bodies[len(g.bodies)-1]), &message); err != nil || message["message"] != "Hello Ada <b>" || message["title"] != "Hi" {
			t.Errorf("%s: %s (%v)", actionType, g.bodies[len(g.bodies)-1], err)
		}
	}
	// Through an integration, by a service of its own kind.
	g.set(func(w http.ResponseWriter) { _, _ = io.WriteString(w, "{}") })
	ntfy := shelf{"push": {Identifier: "phone", Provider: "ntfy", Credentials: map[string]any{"url": "ntfy://" + host + "/topic1?scheme=http"}}}
	got, err := send(t, Config{Webhook: loopbackOnly, Integrations: ntfy}, "push", `{"body":"x"}`)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(ChatOutput{"ntfy", "phone", "ntfy", nil}, got.Output); d != "" {
		t.Error(d)
	}
	if last := g.got[len(g.got)-1]; last.URL.Path != "/topic1" {
		t.Errorf("%s", last.URL)
	}

	g.set(func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) })
	for _, tc := range []struct {
		name   string
		cfg    Config
		params string
		want   string
		class  ErrorClass
	}{
		{"none", Config{Integrations: shelf{}}, `{"body":"x"}`, `organization "acme" has no active chat integration`, ClassPermanent},
		{"no url", Config{Integrations: shelf{"chat": {Identifier: "x", Provider: "slack", Credentials: nil}}}, `{"body":"x"}`, `has no credentials.url`, ClassPermanent},
		{"no service", Config{}, `{"url":"pigeon://x","body":"x"}`, `there is no service "pigeon"`, ClassPermanent},
		{"no address", Config{}, `{"url":"{{ lead.name }}","body":"x"}`, "use a shoutrrr URL", ClassPermanent},
		{"bad address", Config{}, `{"url":"discord://nothing","body":"x"}`, "use a shoutrrr URL", ClassPermanent},
		{"private", Config{}, `{"url":"` + url + `","body":"x"}`, "127.0.0.1 is a loopback address: to call it, list its network in PGAUTOMATE_WEBHOOK_ALLOW", ClassPermanent},
		{"private name", Config{}, `{"url":"generic://localhost/x","body":"x"}`, "a loopback address", ClassPermanent},
		{"private by parameter", Config{}, `{"url":"teams://x@y/z?host=169.254.169.254","body":"x"}`, "169.254.169.254 is a link-local address", ClassPermanent},
		{"empty", Config{}, `{"url":"` + url + `","body":" "}`, "body: the message is empty", ClassPermanent},
		{"broken", Config{Webhook: loopbackOnly}, `{"url":"` + url + `","body":"x"}`, "500", ClassTransient},
	} {
		_, err := send(t, tc.cfg, "chat", tc.params)
		if err == nil || !strings.Contains(err.Error(), tc.want) || class(err) != tc.class {
			t.Errorf("%s: %v (%v), want %q (%v)", tc.name, err, class(err), tc.want, tc.class)
		} else if strings.Contains(err.Error(), "t0psecret") {
			t.Errorf("%s: the error tells the token: %v", tc.name, err)
		}
	}
	if err := handlerFor(t, Config{}, "chat").(Validator).Validate(json.RawMessage(`{"url":"pigeon://x","body":"x"}`)); err == nil {
		t.Error("an unknown service is not refused at save")
	}
	if err := handlerFor(t, Config{}, "chat").(Validator).Validate(json.RawMessage(`{"url":"{{ lead.url }}","body":"x"}`)); err != nil {
		t.Error(err)
	}
}

// The next integration sends what the one before can't; conditions come first, and
// one whose conditions nobody can answer is not used.
func TestFailover(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	sms := func(name, path, conditions string) Integration {
		return Integration{Identifier: name, Provider: "generic-sms", Credentials: map[string]any{"baseUrl": g.URL + path}, Conditions: json.RawMessage(conditions)}
	}
	g.byPath = map[string]int{"/down": 503, "/no": 400, "/busy": 429}
	run := func(list shelves, params string, meets func(context.Context, json.RawMessage) (bool, error)) (SMSOutput, error) {
		a := &Action{ID: 9, OrganizationID: "acme", Type: "sms", Params: json.RawMessage(params), Vars: NewVars(), Meets: meets}
		r, err := handlerFor(t, Config{Integrations: list, Webhook: loopbackOnly}, "sms").Run(t.Context(), a)
		out, _ := r.Output.(SMSOutput)
		return out, err
	}
	const text = `{"to":"1","body":"x"}`
	all := shelves{sms("a", "/down", ""), sms("b", "/no", "[]"), sms("c", "/up", "null"), sms("vip", "/vip", `[{"children":[]}]`)}
	for _, c := range []struct {
		name, params string
		list         shelves
		meets        func(context.Context, json.RawMessage) (bool, error)
		by           string
		tried        int
	}{
		{"the third takes it", text, all, nil, "c", 2},
		{"the one whose conditions hold goes first", text, all, func(context.Context, json.RawMessage) (bool, error) { return true, nil }, "vip", 0},
		{"the one whose conditions don't hold is left out", text, all, func(context.Context, json.RawMessage) (bool, error) { return false, nil }, "c", 2},
		{"the one that is named", `{"to":"1","body":"x","integration":"vip"}`, all, nil, "vip", 0},
	} {
		got, err := run(c.list, c.params, c.meets)
		if err != nil || got.Integration != c.by || len(got.FailedOver) != c.tried {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	for _, c := range []struct {
		name  string
		list  shelves
		class ErrorClass
	}{
		{"one may come back", shelves{sms("a", "/no", ""), sms("b", "/down", "")}, ClassTransient},
		{"one says when", shelves{sms("a", "/no", ""), sms("b", "/busy", "")}, ClassRetryAfter},
		{"none ever will", shelves{sms("a", "/no", ""), sms("b", "/no", "")}, ClassPermanent},
		{"none can be used", shelves{sms("vip", "/vip", `[{"children":[]}]`)}, ClassPermanent},
	} {
		if _, err := run(c.list, text, nil); class(err) != c.class {
			t.Errorf("%s: %v (%v)", c.name, err, class(err))
		}
	}
}
