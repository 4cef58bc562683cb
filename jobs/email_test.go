package jobs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgautomate/pgautomate/mailbox"
)

func startMailbox(t *testing.T, opts ...mailbox.Option) *mailbox.Mailbox {
	t.Helper()
	box, err := mailbox.Start(context.Background(), "", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Close() })
	return box
}

// handlerFor is a built-in handler as the engine gets it.
func handlerFor(t *testing.T, cfg Config, actionType string) Handler {
	t.Helper()
	r, err := Defaults(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	h, ok := r.Handler(actionType)
	if !ok {
		t.Fatalf("no handler for %q", actionType)
	}
	return h
}

func emailAction(params string) *Action {
	return &Action{
		ID: 123, OrganizationID: "acme", LeadID: "7", Type: "email", Attempt: 1, MaxAttempts: 5, Params: json.RawMessage(params), Vars: leadVars(),
		Now: time.Date(2028, 3, 13, 10, 0, 0, 0, time.UTC), Location: time.UTC,
	}
}

const plainEmail = `{"to":"ada@example.com","subject":"Hello {{ lead.name }}","body":"Score {{ lead.score }}"}`

func class(err error) ErrorClass {
	c, _ := Classify(err)
	return c
}

func TestEmailArrives(t *testing.T) {
	t.Parallel()
	box := startMailbox(t)
	h := handlerFor(t, Config{SMTP: SMTP{URL: box.URL(), From: "Sales <sales@acme.example>"}}, "email")
	got, err := h.Run(t.Context(), emailAction(`{"to":["Ada <ada@example.com>","bob@example.com, eve@example.com","{{ lead.none }}"],"subject":"Grüße, {{ lead.name }}",
		"body":"Score {{ lead.score }}\n.\nend","html":"<p>{{ lead.name }}</p>","reply_to":"desk@acme.example",
		"attachments":[{"name":"a.csv","content":"score\n{{ lead.score }}","content_type":"text/csv"},{"name":"b.bin","content_base64":"AAEC"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	m := box.Messages()[0]
	to := []string{"ada@example.com", "bob@example.com", "eve@example.com"}
	want := EmailOutput{MessageID: "<pgautomate-action-123@acme.example>", To: to, Response: got.Output.(EmailOutput).Response, Provider: "nodemailer"}
	if d := cmp.Diff(want, got.Output); d != "" {
		t.Error(d)
	}
	type seen struct {
		From, Subject, Text, HTML, ReplyTo, MessageID, Auto, Date string
		To                                                        []string
		Files                                                     []mailbox.Attachment
	}
	if d := cmp.Diff(seen{
		From: "sales@acme.example", Subject: "Grüße, Ada <b>", Text: "Score 42\n.\nend", HTML: "<p>Ada &lt;b&gt;</p>", ReplyTo: "<desk@acme.example>",
		MessageID: "pgautomate-action-123@acme.example", Auto: "auto-generated", Date: "Mon, 13 Mar 2028 10:00:00 +0000", To: to,
		Files: []mailbox.Attachment{{Name: "a.csv", ContentType: "text/csv", Content: []byte("score\n42")}, {Name: "b.bin", ContentType: "application/octet-stream", Content: []byte{0, 1, 2}}},
	}, seen{m.From, m.Subject, strings.TrimSpace(m.Text), strings.TrimSpace(m.HTML), m.ReplyTo, m.MessageID, m.Header.Get("Auto-Submitted"), m.Header.Get("Date"), m.To, m.Attachments}); d != "" {
		t.Error(d)
	}
	if !strings.Contains(m.HeaderFrom, "Sales") {
		t.Errorf("From: %q", m.HeaderFrom)
	}
}

// P25: two transient errors, then it works; each attempt is the same message.
func TestEmailTransientThenSent(t *testing.T) {
	t.Parallel()
	for _, at := range []mailbox.Point{mailbox.AtConnect, mailbox.AtMail, mailbox.AtRcpt, mailbox.AtData} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			box := startMailbox(t)
			box.Inject(mailbox.Fault{At: at, Code: 451}, mailbox.Fault{At: at})
			h := handlerFor(t, Config{SMTP: SMTP{URL: box.URL()}}, "email")
			for attempt := 1; attempt <= 2; attempt++ {
				a := emailAction(plainEmail)
				a.Attempt = attempt
				_, err := h.Run(t.Context(), a)
				if class(err) != ClassTransient || !strings.Contains(err.Error(), box.Addr()) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("attempt %d: %v (%v)", attempt, err, class(err))
				}
			}
			if _, err := h.Run(t.Context(), emailAction(plainEmail)); err != nil {
				t.Fatal(err)
			}
			if box.Count() != 1 {
				t.Errorf("%d messages", box.Count())
			}
		})
	}
}

func TestEmailPermanent(t *testing.T) {
	t.Parallel()
	box := startMailbox(t)
	h := handlerFor(t, Config{SMTP: SMTP{URL: box.URL()}}, "email")
	for _, at := range []mailbox.Point{mailbox.AtMail, mailbox.AtRcpt, mailbox.AtData} {
		box.Inject(mailbox.Fault{At: at, Code: 550})
		_, err := h.Run(t.Context(), emailAction(plainEmail))
		if class(err) != ClassPermanent || !strings.Contains(err.Error(), "refuses the mail") || !strings.Contains(err.Error(), "550") {
			t.Errorf("at %d: %v (%v)", at, err, class(err))
		}
	}
	// At the greeting a 5xx is about the server, not about the mail.
	box.Inject(mailbox.Fault{At: mailbox.AtConnect, Code: 554})
	if _, err := h.Run(t.Context(), emailAction(plainEmail)); class(err) != ClassTransient {
		t.Errorf("at the greeting: %v (%v)", err, class(err))
	}
	if box.Count() != 0 {
		t.Errorf("%d messages", box.Count())
	}
}

// P26: the server took the mail and the connection broke before it said so. The
// next attempt sends it again, under the same Message-ID.
func TestEmailSameMessageIDAfterCrash(t *testing.T) {
	t.Parallel()
	box := startMailbox(t)
	box.Inject(mailbox.Fault{At: mailbox.AtAccepted})
	h := handlerFor(t, Config{SMTP: SMTP{URL: box.URL()}}, "email")
	_, err := h.Run(t.Context(), emailAction(plainEmail))
	if class(err) != ClassTransient || !strings.Contains(err.Error(), "it may have taken the mail; the next attempt has the same Message-ID") {
		t.Fatalf("%v (%v)", err, class(err))
	}
	second := emailAction(plainEmail)
	second.Attempt, second.Now = 2, second.Now.Add(time.Minute)
	if _, err := h.Run(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	ms := box.Messages()
	if len(ms) != 2 || ms[0].MessageID != ms[1].MessageID || ms[0].MessageID != "pgautomate-action-123@localhost" {
		t.Errorf("messages: %+v", ms)
	}
}

func TestEmailHangingServer(t *testing.T) {
	t.Parallel()
	for _, at := range []mailbox.Point{mailbox.AtConnect, mailbox.AtRcpt, mailbox.AtData} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			box := startMailbox(t)
			box.Inject(mailbox.Fault{At: at, Hang: true}, mailbox.Fault{At: at, Hang: true})
			h := handlerFor(t, Config{SMTP: SMTP{URL: box.URL()}}, "email")
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if _, err := h.Run(ctx, emailAction(plainEmail)); class(err) != ClassTransient || !strings.Contains(err.Error(), box.Addr()) {
				t.Errorf("%v (%v)", err, class(err))
			}
			ctx2, cancel2 := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel2)
			if _, err := h.Run(ctx2, emailAction(plainEmail)); !errors.Is(err, context.Canceled) || class(err) != ClassStopped {
				t.Errorf("stopped: %v (%v)", err, class(err))
			}
		})
	}
}

func TestEmailUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	h := handlerFor(t, Config{SMTP: SMTP{URL: "smtp://" + addr}}, "email")
	_, err = h.Run(t.Context(), emailAction(plainEmail))
	if class(err) != ClassTransient || !strings.Contains(err.Error(), "the mail server "+addr+" can't be reached: check SMTP_URL and that the server runs") {
		t.Errorf("%v (%v)", err, class(err))
	}
}

func TestEmailNotConfigured(t *testing.T) {
	t.Parallel()
	_, err := handlerFor(t, Config{}, "email").Run(t.Context(), emailAction(plainEmail))
	if class(err) != ClassPermanent || err.Error() != "no e-mail integration is set: set SMTP_URL (or PGAUTOMATE_DEV=1 for the local mailbox), or add one to pgautomate.integrations" {
		t.Errorf("%v (%v)", err, class(err))
	}
}

func selfSigned(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}

func TestEmailTLSAndLogin(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		opts []mailbox.Option
	}{
		{"plain, login", []mailbox.Option{mailbox.WithAuth("u", "p/w@:")}},
		{"STARTTLS", []mailbox.Option{mailbox.WithSTARTTLS(selfSigned(t))}},
		{"STARTTLS, login", []mailbox.Option{mailbox.WithSTARTTLS(selfSigned(t)), mailbox.WithAuth("u", "p")}},
		{"TLS", []mailbox.Option{mailbox.WithTLS(selfSigned(t))}},
		{"TLS, login", []mailbox.Option{mailbox.WithTLS(selfSigned(t)), mailbox.WithAuth("u", "p")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			box := startMailbox(t, tc.opts...)
			h := handlerFor(t, Config{SMTP: SMTP{URL: box.URL()}}, "email")
			if _, err := h.Run(t.Context(), emailAction(plainEmail)); err != nil {
				t.Fatal(err)
			}
			if box.Count() != 1 {
				t.Errorf("%d messages", box.Count())
			}
		})
	}
	t.Run("wrong password waits for the operator", func(t *testing.T) {
		t.Parallel()
		box := startMailbox(t, mailbox.WithAuth("u", "p"))
		h := handlerFor(t, Config{SMTP: SMTP{URL: "smtp://u:wrong@" + box.Addr()}}, "email")
		_, err := h.Run(t.Context(), emailAction(plainEmail))
		if class(err) != ClassTransient || !strings.Contains(err.Error(), "refuses the user or password: check those in SMTP_URL") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%v (%v)", err, class(err))
		}
	})
	t.Run("login missing", func(t *testing.T) {
		t.Parallel()
		box := startMailbox(t, mailbox.WithAuth("u", "p"))
		h := handlerFor(t, Config{SMTP: SMTP{URL: "smtp://" + box.Addr()}}, "email")
		_, err := h.Run(t.Context(), emailAction(plainEmail))
		if class(err) != ClassTransient || !strings.Contains(err.Error(), "wants a user and password: put them into SMTP_URL") {
			t.Errorf("%v (%v)", err, class(err))
		}
	})
	t.Run("no password in the clear to another machine", func(t *testing.T) {
		t.Parallel()
		box := startMailbox(t, mailbox.WithAuth("u", "p"))
		s, err := parseSMTPURL(box.URL())
		if err != nil {
			t.Fatal(err)
		}
		s.loopback = false // as if it were another machine
		_, err = emailHandler{server: s, from: defaultSender}.Run(t.Context(), emailAction(plainEmail))
		if class(err) != ClassTransient || !strings.Contains(err.Error(), "offers no STARTTLS, and a password is never sent unencrypted") {
			t.Errorf("%v (%v)", err, class(err))
		}
	})
	t.Run("certificates of other machines are checked", func(t *testing.T) {
		t.Parallel()
		for _, opt := range []mailbox.Option{mailbox.WithTLS(selfSigned(t)), mailbox.WithSTARTTLS(selfSigned(t))} {
			box := startMailbox(t, opt, mailbox.WithAuth("u", "p"))
			s, err := parseSMTPURL(box.URL())
			if err != nil {
				t.Fatal(err)
			}
			s.loopback = false
			_, err = emailHandler{server: s, from: defaultSender}.Run(t.Context(), emailAction(plainEmail))
			if class(err) != ClassTransient || !strings.Contains(err.Error(), "no encrypted connection to the mail server") || box.Count() != 0 {
				t.Errorf("%v (%v)", err, class(err))
			}
		}
	})
}

func TestEmailRefuses(t *testing.T) {
	t.Parallel()
	box := startMailbox(t)
	r, err := Defaults(Config{SMTP: SMTP{URL: box.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	h, _ := r.Handler("email")
	for _, tc := range []struct {
		params, want string
		late         bool // only known when it runs
	}{
		{`{"subject":"s","body":"b"}`, `parameter "to" is missing`, false},
		{`{"to":"a@b.example","body":"b"}`, `parameter "subject" is missing`, false},
		{`{"to":"a@b.example","subject":"s"}`, `parameter "body" is missing`, false},
		{`{"to":"nobody","subject":"s","body":"b"}`, `to: "nobody" is not a mail address`, false},
		{`{"to":["a@b.example",7],"subject":"s","body":"b"}`, `to: use a string or an array of strings`, false},
		{`{"to":{"a":1},"subject":"s","body":"b"}`, `to: use a string or an array of strings`, false},
		{`{"to":"a@b.example","subject":"s\r\nBcc: x@y.z","body":"b"}`, `subject: line breaks are not allowed`, false},
		{`{"to":"a@b.example","subject":"s","body":"b","from":"me"}`, `from: "me" is not a mail address`, false},
		{`{"to":"a@b.example","subject":"s","body":"b","reply_to":"me"}`, `reply_to: "me" is not a mail address`, false},
		{`{"to":"a@b.example","subject":"s","body":"b","replyto":"me"}`, `unknown parameter "replyto"; did you mean "reply_to"?`, false},
		{`{"to":"a@b.example","subject":"s","body":["b"]}`, `body: use a string`, false},
		{`{"to":"a@b.example","subject":"s","body":"b","attachments":{}}`, `attachments: use [{"name"`, false},
		{`{"to":"a@b.example","subject":"s","body":"b","attachments":[{"content":"x"}]}`, `attachments[0]: name is missing`, false},
		{`{"to":"a@b.example","subject":"s","body":"b","attachments":[{"name":"../x","content":"x"}]}`, `use a file name without a path`, false},
		{`{"to":"a@b.example","subject":"s","body":"b","attachments":[{"name":"x","content_base64":"%"}]}`, `attachments[0].content_base64: not base64`, false},
		{`{"to":"a@b.example","subject":"s","body":"b","attachments":[{"name":"x","url":"y"}]}`, `attachments[0]: unknown member "url"`, false},
		{`{"to":"a@b.example","subject":"s","body":"b","attachments":[{"name":"x","content":"y","content_base64":"eQ=="}]}`, `give content or content_base64, not both`, false},
		{`{"to":"{{ lead.none }}","subject":"s","body":"b"}`, `to: no address`, true},
		{`{"to":"{{ lead.name }}","subject":"s","body":"b"}`, `is not a mail address`, true},
		{`{"to":"a@b.example","subject":"{{ lead.evil }}","body":"b"}`, `subject: line breaks are not allowed`, true},
		{`{"to":"a@b.example{{ lead.evil }}","subject":"s","body":"b"}`, `is not a mail address`, true},
		{`{"to":"a@b.example","subject":"s","body":"b","from":"{{ lead.evil }} <a@b.example>"}`, `from: line breaks are not allowed`, true},
	} {
		err := r.Validate("email", json.RawMessage(tc.params))
		if tc.late {
			if err != nil {
				t.Errorf("%s: at save: %v", tc.params, err)
			}
			_, err = h.Run(t.Context(), emailAction(tc.params))
			if class(err) != ClassPermanent {
				t.Errorf("%s: %v (%v)", tc.params, err, class(err))
			}
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.params, err, tc.want)
		}
	}
	if box.Count() != 0 {
		t.Errorf("%d messages", box.Count())
	}
	for _, tc := range []struct{ url, from, want string }{
		{"localhost:25", "", "SMTP_URL: not an SMTP address: use smtp://"},
		{"http://localhost", "", "SMTP_URL: not an SMTP address"},
		{"smtp://u:secret@h:99999", "", "SMTP_URL: the port is not between 1 and 65535"},
		{"smtp://u:sec/ret@h:25", "", "SMTP_URL: not an SMTP address"},
		{"smtp://h:25/x", "", "SMTP_URL: nothing may follow the port"},
		{"smtp://h:25", "nobody", `EMAIL_FROM: "nobody" is not a mail address`},
	} {
		_, err := Defaults(Config{SMTP: SMTP{URL: tc.url, From: tc.from}})
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "sec") {
			t.Errorf("%s: got %v, want %q", tc.url, err, tc.want)
		}
	}
}

// An organization's own integrations send its mail: an SMTP server of its own, an
// HTTP endpoint where that one is down; SMTP_URL is for who has none.
func TestEmailThroughIntegrations(t *testing.T) {
	t.Parallel()
	box, fallback, g := startMailbox(t), startMailbox(t), newGateway(t)
	g.set(func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"id":"m1"}`) })
	host, port, _ := net.SplitHostPort(box.Addr())
	own := Integration{Identifier: "own", Provider: "nodemailer", Credentials: map[string]any{
		"host": host, "port": port, "from": "news@acme.example", "senderName": "Acme",
	}}
	hook := Integration{Identifier: "hook", Provider: "email-webhook", Credentials: map[string]any{
		"webhookUrl": g.URL + "/mail", "hmacSecretKey": "s3cret", "from": "hook@acme.example",
	}}
	down := own
	down.Identifier, down.Credentials = "down", map[string]any{"host": host, "port": json.Number("1")}
	const params = `{"to":"ada@example.com","cc":"cy@example.com","bcc":["bea@example.com"],"subject":"S","body":"B","headers":{"X-Campaign":"{{ lead.score }}"},
		"attachments":[{"name":"logo.png","content":"x","cid":"logo"}]`
	run := func(list shelves, only bool, more string) (EmailOutput, error) {
		cfg := Config{SMTP: SMTP{URL: fallback.URL(), Only: only}, Webhook: loopbackOnly}
		if list != nil {
			cfg.Integrations = list
		}
		r, err := handlerFor(t, cfg, "email").Run(t.Context(), emailAction(params+more+"}"))
		out, _ := r.Output.(EmailOutput)
		return out, err
	}

	out, err := run(shelves{own, hook}, false, "")
	if err != nil || out.Integration != "own" || out.Provider != "nodemailer" {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := box.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	raw := string(box.Messages()[0].Raw)
	for _, want := range []string{`From: "Acme" <news@acme.example>`, "Cc: <cy@example.com>", "X-Campaign: 42", "Content-Id: <logo>", "@acme.example>"} {
		if !strings.Contains(raw, want) {
			t.Errorf("the mail has no %q:\n%s", want, raw)
		}
	}
	if strings.Contains(raw, "bea@") {
		t.Errorf("the mail names its hidden recipient:\n%s", raw)
	}
	if got := strings.Join(box.Messages()[0].To, " "); got != "ada@example.com cy@example.com bea@example.com" {
		t.Errorf("it went to %s", got)
	}

	out, err = run(shelves{down, hook}, false, "")
	if err != nil || out.Integration != "hook" || out.MessageID != "m1" || len(out.FailedOver) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	mac := hmac.New(sha256.New, []byte("s3cret"))
	mac.Write([]byte(g.bodies[0]))
	if got := g.got[0].Header.Get("X-Novu-Signature"); got != hex.EncodeToString(mac.Sum(nil)) {
		t.Errorf("signature %q", got)
	}
	var body map[string]any
	if err := json.Unmarshal([]byte(g.bodies[0]), &body); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintln(body["to"], body["cc"], body["bcc"], body["from"], body["subject"], body["text"], body["headers"]); got !=
		"[ada@example.com] [cy@example.com] [bea@example.com] hook@acme.example S B map[X-Campaign:42]\n" {
		t.Error(got)
	}

	for _, c := range []struct {
		name string
		list shelves
		only bool
		more string
	}{{"none", shelves{}, false, ""}, {"the mailbox only", shelves{own}, true, ""}} {
		before := fallback.Count()
		if _, err := run(c.list, c.only, c.more); err != nil || fallback.Count() != before+1 {
			t.Errorf("%s: not by SMTP_URL: %v", c.name, err)
		}
	}
	for _, c := range []struct {
		name, more, want string
		list             shelves
	}{
		{"named", `,"integration":"other"`, `no active email integration "other"`, shelves{own}},
		{"provider", "", `provider "pigeon" can't send email`, shelves{{Identifier: "x", Provider: "pigeon"}}},
		{"host", "", "has no credentials.host", shelves{{Identifier: "x", Provider: "nodemailer"}}},
		{"port", "", "credentials.port is not between", shelves{{Identifier: "x", Provider: "nodemailer", Credentials: map[string]any{"host": "h", "port": "x"}}}},
		{"header", `,"headers":{"Subject":"x"}`, `"Subject" can't be set`, shelves{own}},
		{"cc", `,"cc":"nobody"`, `cc: "nobody" is not a mail address`, shelves{own}},
	} {
		if _, err := run(c.list, false, c.more); class(err) != ClassPermanent || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// A private address is refused, and no name is looked for behind it.
	cfg := Config{Integrations: shelves{own}}
	if _, err := handlerFor(t, cfg, "email").Run(t.Context(), emailAction(plainEmail)); class(err) != ClassPermanent || !strings.Contains(err.Error(), "PGAUTOMATE_WEBHOOK_ALLOW") {
		t.Errorf("a private address: %v", err)
	}
}
