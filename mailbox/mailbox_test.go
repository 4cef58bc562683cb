package mailbox_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/smtp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pgautomate/pgautomate/mailbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) *mailbox.Mailbox {
	t.Helper()
	box, err := mailbox.Start(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Close() })
	return box
}

func send(t *testing.T, box *mailbox.Mailbox, mail string) {
	t.Helper()
	if err := smtp.SendMail(box.Addr(), nil, "a@x.example", []string{"b@x.example"}, []byte(strings.ReplaceAll(mail, "\n", "\r\n"))); err != nil {
		t.Fatal(err)
	}
}

func TestMessagesAreParsed(t *testing.T) {
	t.Parallel()
	box := start(t)
	send(t, box, "From: Ada <a@x.example>\nTo: b@x.example\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\nMessage-ID: <1@x>\n"+
		"Content-Type: multipart/mixed; boundary=M\n\n--M\nContent-Type: multipart/alternative; boundary=A\n\n"+
		"--A\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\nZ=C3=A4hl\n"+
		"--A\nContent-Type: text/html\nContent-Transfer-Encoding: base64\n\nPGI+aGk8L2I+\n--A--\n"+
		"--M\nContent-Type: text/plain\nContent-Disposition: attachment; filename=a.txt\n\nfile\n--M--\n")
	if err := box.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	m := box.Messages()[0]
	type seen struct{ ID, From, To, HeaderFrom, Subject, MessageID, Text, HTML, File string }
	want := seen{"1", "a@x.example", "[b@x.example]", "Ada <a@x.example>", "Grüße", "1@x", "Zähl", "<b>hi</b>", "[{a.txt text/plain [102 105 108 101]}]"}
	got := seen{fmt.Sprint(m.ID), m.From, fmt.Sprint(m.To), m.HeaderFrom, m.Subject, m.MessageID, m.Text, m.HTML, fmt.Sprint(m.Attachments)}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	send(t, box, "no mail at all")
	if last := box.Messages()[1]; !strings.Contains(last.Text, "no mail at all") {
		t.Errorf("%+v", last)
	}
}

func TestOnlyTheNewestAreKept(t *testing.T) {
	t.Parallel()
	box := start(t)
	c, err := smtp.Dial(box.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Quit() }()
	const extra = 5
	for i := range mailbox.MaxMessages + extra {
		if err := errors.Join(c.Mail("a@x.example"), c.Rcpt("b@x.example")); err != nil {
			t.Fatal(err)
		}
		w, err := c.Data()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(w, "Subject: %d\r\n\r\nx", i+1)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ms := box.Messages()
	if len(ms) != mailbox.MaxMessages || box.Count() != mailbox.MaxMessages+extra || ms[0].Subject != fmt.Sprint(extra+1) || ms[0].ID != extra+1 {
		t.Errorf("%d kept of %d, first %d %q", len(ms), box.Count(), ms[0].ID, ms[0].Subject)
	}
	if _, there := box.Message(extra); there {
		t.Error("an old one is still there")
	}
	if m, there := box.Message(extra + 1); !there || m.ID != extra+1 {
		t.Error("a kept one is not found")
	}
	box.Clear()
	if len(box.Messages()) != 0 || box.Count() != mailbox.MaxMessages+extra {
		t.Error("Clear")
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"0.0.0.0:0": "use a loopback address", "192.0.2.1:25": "use a loopback address", ":0": "use a loopback address",
		"mail.example:25": "use a loopback address", "nonsense": "use 127.0.0.1:port",
	} {
		if _, err := mailbox.Start(t.Context(), addr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	box := start(t)
	if _, err := mailbox.Start(t.Context(), box.Addr()); err == nil || !strings.Contains(err.Error(), "choose another port") {
		t.Errorf("taken port: %v", err)
	}
}

func TestWaitAndContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	box, err := mailbox.Start(ctx, "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	send(t, box, "Subject: x\n\ny")
	gone, stop := context.WithCancel(t.Context())
	stop()
	if err := box.Wait(gone, 2); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 of 2") {
		t.Error(err)
	}
	cancel()
	if err := box.Wait(t.Context(), 2); err == nil {
		t.Error("Wait goes on after the mailbox has closed")
	}
	_ = box.Close()
	if _, err := smtp.Dial(box.Addr()); err == nil {
		t.Error("it still listens")
	}
	if len(box.Messages()) != 1 {
		t.Error("what was received is gone")
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	box := start(t)
	get := func(query, accept string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/mailbox/"+query, nil)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		box.Handler().ServeHTTP(w, r)
		return w
	}
	if body := get("", "").Body.String(); !strings.Contains(body, "No mail yet.") {
		t.Error(body)
	}
	const evil = `<script>alert(1)</script>`
	send(t, box, "From: a@x.example\nTo: b@x.example\nSubject: "+evil+"\nContent-Type: multipart/alternative; boundary=A\n\n"+
		"--A\nContent-Type: text/plain\n\n"+evil+"\n--A\nContent-Type: text/html\n\n"+evil+"\n--A--\n")
	for _, query := range []string{"", "?id=1"} {
		w := get(query, "text/html")
		body, policy := w.Body.String(), w.Header().Get("Content-Security-Policy")
		if strings.Contains(body, evil) || !strings.Contains(body, "&lt;script&gt;alert(1)") {
			t.Errorf("%s: not escaped: %s", query, body)
		}
		if strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") {
			t.Errorf("%s: policy %q", query, policy)
		}
		if strings.Contains(body, "//") {
			t.Errorf("%s: something from elsewhere: %s", query, body)
		}
	}
	if w := get("?id=1&part=html", ""); !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "sandbox; default-src 'none'") || !strings.Contains(w.Body.String(), evil) {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	if w := get("?id=1&part=raw", ""); w.Header().Get("Content-Type") != "text/plain; charset=utf-8" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", w.Header())
	}
	if w := get("", "application/json"); !strings.Contains(w.Body.String(), `"count":1`) || !strings.Contains(w.Body.String(), `"to":["b@x.example"]`) {
		t.Error(w.Body)
	}
	for _, query := range []string{"?id=2", "?id=x"} {
		if w := get(query, ""); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
	w := httptest.NewRecorder()
	box.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", io.NopCloser(strings.NewReader(""))))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	box := start(t)
	box.Inject(mailbox.Fault{At: mailbox.AtData, Code: 451}, mailbox.Fault{At: mailbox.AtRcpt, Code: 550}, mailbox.Fault{At: mailbox.AtAccepted}, mailbox.Fault{At: mailbox.AtConnect})
	try := func() error {
		return smtp.SendMail(box.Addr(), nil, "a@x.example", []string{"b@x.example"}, []byte("Subject: x\r\n\r\ny"))
	}
	// In the order in which a delivery reaches them.
	for i, want := range []string{"EOF", "550", "451", "EOF", ""} {
		err := try()
		if (want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), want) && !strings.Contains(err.Error(), "reset")) {
			t.Errorf("try %d: %v, want %q", i, err, want)
		}
	}
	if box.Count() != 2 { // the one whose answer was lost, and the last
		t.Errorf("%d messages", box.Count())
	}
}
