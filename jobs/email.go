package jobs

// Action type email: one message through the SMTP server of SMTP_URL.
//
// Mail is sent at least once. Each attempt of an action carries the same
// Message-ID, made of Action.IdempotencyKey and the sender's domain, so that a
// mailbox that gets it twice shows it once, and so that a log can tell.
//
// All recipients of a message are accepted or none: a refused one fails the
// action before any data is sent. Credentials never go over an unencrypted
// connection to another machine.

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
)

// Bounds of mails.
const (
	smtpConnectTimeout = 10 * time.Second
	smtpTimeout        = 60 * time.Second // connecting, and each message
	maxRecipients      = 100
	maxAttachments     = 10 << 20 // bytes, all of a mail together
	defaultSender      = "pgautomate@localhost"
)

var errNoSMTP error = &noIntegrationError{"no e-mail integration is set: set SMTP_URL (or PGAUTOMATE_DEV=1 for the local mailbox)"}

type emailHandler struct {
	server *smtpServer // nil: not configured
	from   string
}

// smtpServer is a parsed SMTP_URL.
type smtpServer struct {
	host, user, password string
	port                 int
	tls                  bool // from the start
	loopback             bool
}

func newEmail(cfg SMTP) (Handler, error) {
	h := emailHandler{from: cfg.From}
	if h.from == "" {
		h.from = defaultSender
	}
	if _, err := mail.ParseAddress(h.from); err != nil {
		return nil, fmt.Errorf("EMAIL_FROM: %q is not a mail address: use name@example.com or Name <name@example.com>", excerpt(h.from))
	}
	if cfg.URL == "" {
		return h, nil
	}
	server, err := parseSMTPURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	h.server = server
	return h, nil
}

// parseSMTPURL never puts the URL into its errors: it may hold a password.
func parseSMTPURL(raw string) (*smtpServer, error) {
	const form = "use smtp://[user:password@]host:port or smtps://[user:password@]host:port"
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "smtp" && u.Scheme != "smtps") || u.Hostname() == "" {
		return nil, fmt.Errorf("SMTP_URL: not an SMTP address: %s", form)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("SMTP_URL: nothing may follow the port (write special characters of the password as %%2F and so on): %s", form)
	}
	s := &smtpServer{host: u.Hostname(), tls: u.Scheme == "smtps", port: 587}
	if s.tls {
		s.port = 465
	}
	if p := u.Port(); p != "" {
		if s.port, err = strconv.Atoi(p); err != nil || s.port < 1 || s.port > 65535 {
			return nil, fmt.Errorf("SMTP_URL: the port is not between 1 and 65535: %s", form)
		}
	}
	if u.User != nil {
		s.user = u.User.Username()
		s.password, _ = u.User.Password()
	}
	ip, err := netip.ParseAddr(s.host)
	s.loopback = s.host == "localhost" || (err == nil && ip.IsLoopback())
	return s, nil
}

func (s *smtpServer) address() string { return net.JoinHostPort(s.host, strconv.Itoa(s.port)) }

// EmailOutput is the result of an email action.
type EmailOutput struct {
	MessageID string   `json:"message_id"`
	To        []string `json:"to"`
	Response  string   `json:"response,omitempty"` // the server's last word
	// Suppressed are recipients that were left out: nothing is to be sent to them.
	Suppressed []string `json:"suppressed,omitempty"`
}

func (h emailHandler) Run(ctx context.Context, a *Action) (Result, error) {
	if h.server == nil {
		return Result{}, Permanent(errNoSMTP)
	}
	p, err := Render(ctx, a.Params, a.Vars, HTML("html"))
	if err != nil {
		return Result{}, err
	}
	suppressed, err := wantedRecipients(ctx, a, p)
	if err != nil {
		return Result{}, err
	}
	msg, err := h.message(a, p)
	if err != nil {
		return Result{}, Permanent(err)
	}
	if err := h.server.send(ctx, msg); err != nil {
		return Result{}, err
	}
	out := EmailOutput{Suppressed: suppressed, MessageID: msg.GetMessageID(), Response: excerpt(msg.ServerResponse())}
	for _, to := range msg.GetTo() {
		out.To = append(out.To, to.Address)
	}
	return Result{Output: out}, nil
}

// Validate checks what stands there without templates.
func (h emailHandler) Validate(params json.RawMessage) error {
	p, err := decodeParams(params)
	if err != nil {
		return err
	}
	t, err := textParams(p, "subject", "body", "html", "from", "reply_to")
	if err != nil {
		return err
	}
	if t["body"] == "" && t["html"] == "" {
		return errors.New(`parameter "body" is missing`)
	}
	if s, isText := p["to"].(string); !isText || constant(s) {
		if err := h.validateTo(p["to"]); err != nil {
			return err
		}
	}
	for _, name := range []string{"from", "reply_to"} {
		if constant(t[name]) {
			if _, err := mail.ParseAddress(t[name]); err != nil {
				return badAddress(name, t[name])
			}
		}
	}
	if constant(t["subject"]) {
		if err := headerValue("subject", t["subject"]); err != nil {
			return err
		}
	}
	_, err = attachmentsOf(p["attachments"], true)
	return err
}

func (h emailHandler) validateTo(v any) error {
	if list, ok := v.([]any); ok {
		var fixed []any
		for _, e := range list {
			if s, ok := e.(string); ok && isTemplate(s) {
				e = "somebody@example.com"
			}
			fixed = append(fixed, e)
		}
		v = fixed
	}
	_, err := recipientsOf(v)
	return err
}

func badAddress(name, s string) error {
	return fmt.Errorf("%s: %q is not a mail address: use name@example.com or Name <name@example.com>", name, excerpt(s))
}

// recipientsOf reads a comma list or an array of addresses.
func recipientsOf(v any) ([]*mail.Address, error) {
	var out []*mail.Address
	switch v := v.(type) {
	case string:
		if strings.TrimSpace(v) == "" {
			return nil, errors.New("to: no address: name at least one recipient")
		}
		list, err := mail.ParseAddressList(v)
		if err != nil {
			return nil, badAddress("to", v)
		}
		out = list
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("to: use a string or an array of strings")
			}
			if strings.TrimSpace(s) == "" {
				continue // a template that gave nothing
			}
			list, err := mail.ParseAddressList(s)
			if err != nil {
				return nil, badAddress("to", s)
			}
			out = append(out, list...)
		}
	default:
		return nil, errors.New("to: use a string or an array of strings")
	}
	if len(out) == 0 {
		return nil, errors.New("to: no address: name at least one recipient")
	}
	if len(out) > maxRecipients {
		return nil, fmt.Errorf("to: %d recipients: send to at most %d at once", len(out), maxRecipients)
	}
	for _, a := range out {
		if err := headerValue("to", a.Name+a.Address); err != nil {
			return nil, err
		}
	}
	return out, nil
}

type attachment struct {
	name, contentType string
	content           []byte
}

// attachmentsOf reads [{name, content_base64 | content, content_type?}]; draft
// allows templates in them.
func attachmentsOf(v any, draft bool) ([]attachment, error) {
	if v == nil {
		return nil, nil
	}
	const form = "use [{\"name\", \"content_base64\" or \"content\", \"content_type\"?}]"
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("attachments: %s", form)
	}
	var out []attachment
	size := 0
	for i, e := range list {
		at := "attachments[" + strconv.Itoa(i) + "]"
		m, ok := e.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: %s", at, form)
		}
		t, err := textParams(m, "name", "content", "content_base64", "content_type")
		if err != nil {
			return nil, fmt.Errorf("%s.%w", at, err)
		}
		for name := range m {
			if _, known := t[name]; !known {
				return nil, fmt.Errorf("%s: unknown member %q: %s", at, name, form)
			}
		}
		templated := draft && (isTemplate(t["name"]) || isTemplate(t["content_base64"]) || isTemplate(t["content_type"]))
		if t["name"] == "" {
			return nil, fmt.Errorf("%s: name is missing: %s", at, form)
		}
		if t["content"] != "" && t["content_base64"] != "" {
			return nil, fmt.Errorf("%s: give content or content_base64, not both", at)
		}
		if templated {
			continue
		}
		if strings.ContainsAny(t["name"], "/\\\r\n\x00") {
			return nil, fmt.Errorf("%s.name: %q: use a file name without a path", at, excerpt(t["name"]))
		}
		if err := headerValue(at+".content_type", t["content_type"]); err != nil {
			return nil, err
		}
		a := attachment{name: t["name"], contentType: t["content_type"], content: []byte(t["content"])}
		if s := t["content_base64"]; s != "" {
			if a.content, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), "")); err != nil {
				return nil, fmt.Errorf("%s.content_base64: not base64", at)
			}
		}
		if size += len(a.content); size > maxAttachments {
			return nil, fmt.Errorf("attachments: more than %d MiB: send a link instead", maxAttachments>>20)
		}
		out = append(out, a)
	}
	return out, nil
}

// message builds the mail; its errors are about the parameters.
func (h emailHandler) message(a *Action, p map[string]any) (*gomail.Msg, error) {
	t, err := textParams(p, "subject", "body", "html", "from", "reply_to")
	if err != nil {
		return nil, err
	}
	if t["from"] == "" {
		t["from"] = h.from
	}
	to, err := recipientsOf(p["to"])
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"subject", "from", "reply_to"} {
		if err := headerValue(name, t[name]); err != nil {
			return nil, err
		}
	}
	from, err := mail.ParseAddress(t["from"])
	if err != nil {
		return nil, badAddress("from", t["from"])
	}
	files, err := attachmentsOf(p["attachments"], false)
	if err != nil {
		return nil, err
	}

	m := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	m.FromMailAddress(from)
	m.ToMailAddress(to...)
	if t["reply_to"] != "" {
		reply, err := mail.ParseAddress(t["reply_to"])
		if err != nil {
			return nil, badAddress("reply_to", t["reply_to"])
		}
		m.ReplyToMailAddress(reply)
	}
	m.Subject(t["subject"])
	m.SetMessageIDWithValue(a.IdempotencyKey() + "@" + from.Address[strings.LastIndexByte(from.Address, '@')+1:])
	m.SetGenHeader("Auto-Submitted", "auto-generated")
	if a.Now.IsZero() {
		m.SetDate()
	} else {
		m.SetDateWithValue(a.Now)
	}
	switch {
	case t["html"] == "":
		m.SetBodyString(gomail.TypeTextPlain, t["body"])
	case t["body"] == "":
		m.SetBodyString(gomail.TypeTextHTML, t["html"])
	default:
		m.SetBodyString(gomail.TypeTextPlain, t["body"])
		m.AddAlternativeString(gomail.TypeTextHTML, t["html"])
	}
	for _, f := range files {
		var opts []gomail.FileOption
		if f.contentType != "" {
			opts = append(opts, gomail.WithFileContentType(gomail.ContentType(f.contentType)))
		}
		m.AttachReadSeeker(f.name, bytes.NewReader(f.content), opts...)
	}
	return m, nil
}

// send delivers one message over a connection of its own.
func (s *smtpServer) send(ctx context.Context, msg *gomail.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, smtpTimeout)
	defer cancel()
	tlsConfig := &tls.Config{
		ServerName: s.host,
		MinVersion: tls.VersionTLS12,
		// Nobody sits between this process and its own machine; certificates for
		// localhost are rarely signed by anybody.
		InsecureSkipVerify: s.loopback, //nolint:gosec // see above
	}
	// The library minds ctx only while it connects: afterwards the end of ctx
	// closes the connection under it.
	var raw net.Conn
	dial := func(ctx2 context.Context, network, address string) (net.Conn, error) {
		d := &net.Dialer{Timeout: smtpConnectTimeout}
		var conn net.Conn
		var err error
		if s.tls {
			conn, err = (&tls.Dialer{NetDialer: d, Config: tlsConfig}).DialContext(ctx2, network, address)
		} else {
			conn, err = d.DialContext(ctx2, network, address)
		}
		if err != nil {
			return nil, err
		}
		raw = conn
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		return conn, nil
	}
	opts := []gomail.Option{
		gomail.WithPort(s.port), gomail.WithTimeout(smtpTimeout), gomail.WithTLSConfig(tlsConfig),
		gomail.WithDialContextFunc(dial), gomail.WithoutNoop(),
	}
	auth := []gomail.SMTPAuthType{
		gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin, gomail.SMTPAuthCramMD5,
	}
	policy := gomail.TLSOpportunistic
	switch {
	case s.tls:
		opts = append(opts, gomail.WithSSL())
	case s.user != "" && !s.loopback:
		policy = gomail.TLSMandatory
	case s.user != "":
		auth = []gomail.SMTPAuthType{gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlainNoEnc, gomail.SMTPAuthLoginNoEnc, gomail.SMTPAuthCramMD5}
	}
	opts = append(opts, gomail.WithTLSPolicy(policy))
	if s.user != "" {
		opts = append(opts, gomail.WithUsername(s.user), gomail.WithPassword(s.password), gomail.WithOpportunisticSMTPAuth(auth...))
	}
	client, err := gomail.NewClient(s.host, opts...)
	if err != nil {
		return fmt.Errorf("the mail client can't be set up: %w", err)
	}
	// cancel, at the end, closes the connection, which the library leaves open
	// when it can't greet or log in.
	conn, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return s.explain(ctx, err)
	}
	err = client.SendWithSMTPClient(conn, msg)
	if err != nil && !msg.IsDelivered() {
		return s.explain(ctx, err)
	}
	// The server has taken the message: how the connection ends doesn't matter.
	_ = raw.SetDeadline(time.Now().Add(2 * time.Second))
	_ = conn.Quit()
	return nil
}

// explain says in one line what went wrong and what to do. What the operator can
// mend in the settings is transient, also where the server's code is a 5xx: the
// mails wait for it.
func (s *smtpServer) explain(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	reason := oneLine(err.Error())
	timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded)
	var send *gomail.SendError
	var network *net.OpError
	switch {
	case errors.As(err, &send):
		code := send.ErrorCode()
		switch {
		case code == 530 || code == 534 || code == 535 || code == 538:
			return fmt.Errorf("the mail server %s wants a user and password: put them into SMTP_URL: %s", s.address(), reason)
		case code >= 500 && code < 510: // it doesn't speak that command: not the message's fault
			return fmt.Errorf("the mail server %s doesn't understand us: check SMTP_URL: %s", s.address(), reason)
		case code >= 500:
			return Permanentf("the mail server %s refuses the mail: %s", s.address(), reason)
		case code >= 400:
			return fmt.Errorf("the mail server %s can't take the mail now: %s", s.address(), reason)
		case timedOut:
			return fmt.Errorf("the mail server %s takes longer than %s to take the mail (it may have taken it; the next attempt has the same Message-ID)", s.address(), smtpTimeout)
		case send.Reason == gomail.ErrGetSender || send.Reason == gomail.ErrGetRcpts || send.Reason == gomail.ErrNoUnencoded:
			return Permanentf("the mail can't be sent: %s", reason)
		default:
			return fmt.Errorf("the connection to the mail server %s broke (it may have taken the mail; the next attempt has the same Message-ID): %s", s.address(), reason)
		}
	case strings.Contains(reason, "SMTP AUTH failed"):
		return fmt.Errorf("the mail server %s refuses the user or password: check those in SMTP_URL: %s", s.address(), reason)
	case strings.Contains(reason, "does not support STARTTLS"):
		return fmt.Errorf("the mail server %s offers no STARTTLS, and a password is never sent unencrypted to another machine: use smtps:// in SMTP_URL, or leave the password out", s.address())
	case strings.Contains(reason, "SMTP AUTH"):
		return fmt.Errorf("the mail server %s offers no way to log in that is known here: leave user and password out of SMTP_URL: %s", s.address(), reason)
	case strings.Contains(reason, "tls: ") || strings.Contains(reason, "x509: "):
		return fmt.Errorf("no encrypted connection to the mail server %s: check name and port in SMTP_URL (smtps:// is TLS from the start, smtp:// STARTTLS): %s", s.address(), reason)
	case timedOut || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the mail server %s doesn't answer: check SMTP_URL and that the server runs", s.address())
	case errors.As(err, &network):
		return fmt.Errorf("the mail server %s can't be reached: check SMTP_URL and that the server runs: %s", s.address(), reason)
	default:
		return fmt.Errorf("the mail server %s can't be used now: check SMTP_URL: %s", s.address(), reason)
	}
}
