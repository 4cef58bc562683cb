package jobs

// Action type email: one message through the organization's e-mail integrations
// (nodemailer: any SMTP server; email-webhook: an HTTP endpoint), where it has none
// through the SMTP server of SMTP_URL.
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
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	gomail "github.com/wneessen/go-mail"
	"golang.org/x/net/http/httpguts"
)

// Bounds of mails.
const (
	smtpConnectTimeout = 10 * time.Second
	smtpTimeout        = 60 * time.Second // connecting, and each message
	maxRecipients      = 100
	maxAttachments     = 20 << 20 // bytes, all of a mail together
	defaultSender      = "pgautomate@localhost"
)

var errNoSMTP error = &noIntegrationError{"no e-mail integration is set: set SMTP_URL (or PGAUTOMATE_DEV=1 for the local mailbox), or add one to pgautomate.integrations"}

type emailHandler struct {
	server *smtpServer // nil: not configured
	from   string
	// integrations, unless nil, go before server.
	integrations Integrations
	web          *webhookHandler // its client: guarded, bounded
	guard        addressGuard
}

// smtpServer is a parsed SMTP_URL.
type smtpServer struct {
	host, user, password string
	port                 int
	tls                  bool // from the start
	noStartTLS           bool // not even when it is offered
	mustStartTLS         bool
	loopback             bool
	// settings is where all this stands, for errors.
	settings string
	// control, unless nil, is asked before an address is dialed.
	control func(network, address string, c syscall.RawConn) error
}

func newEmail(cfg SMTP, integrations Integrations, web *webhookHandler, guard addressGuard) (Handler, error) {
	h := emailHandler{from: cfg.From, integrations: integrations, web: web, guard: guard}
	if cfg.Only {
		h.integrations = nil
	}
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
	s := &smtpServer{host: u.Hostname(), tls: u.Scheme == "smtps", port: 587, settings: "SMTP_URL"}
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
	s.loopback = isLoopback(s.host)
	return s, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.IsLoopback())
}

// smtpOf reads the credentials of a nodemailer integration: host, port, secure (TLS
// from the start), user, password, ignoreTls, requireTls.
func (h emailHandler) smtpOf(i *Integration) (*smtpServer, error) {
	c, err := i.need("host")
	if err != nil {
		return nil, err
	}
	s := &smtpServer{
		host: c[0], user: i.credential("user"), password: i.credential("password"), tls: i.credential("secure") == "true", port: 587,
		noStartTLS: i.credential("ignoreTls") == "true", mustStartTLS: i.credential("requireTls") == "true",
		loopback: isLoopback(c[0]), settings: fmt.Sprintf("the credentials of integration %q", i.Identifier), control: h.guard.control,
	}
	if p := i.credential("port"); p != "" {
		if s.port, err = strconv.Atoi(p); err != nil || s.port < 1 || s.port > 65535 {
			return nil, Permanentf("integration %q: credentials.port is not between 1 and 65535", i.Identifier)
		}
		s.tls = s.tls || s.port == 465
	} else if s.tls {
		s.port = 465
	}
	return s, nil
}

func (s *smtpServer) address() string { return net.JoinHostPort(s.host, strconv.Itoa(s.port)) }

// EmailOutput is the result of an email action.
type EmailOutput struct {
	MessageID   string   `json:"message_id"`
	To          []string `json:"to"`
	Response    string   `json:"response,omitempty"` // the server's last word
	Integration string   `json:"integration,omitempty"`
	Provider    string   `json:"provider,omitempty"`
	// FailedOver are the integrations that were tried before, with their errors.
	FailedOver []string `json:"failed_over,omitempty"`
	// Suppressed are recipients that were left out: nothing is to be sent to them.
	Suppressed []string `json:"suppressed,omitempty"`
}

func (h emailHandler) Run(ctx context.Context, a *Action) (Result, error) {
	p, err := Render(ctx, a.Params, a.Vars, HTML("html"))
	if err != nil {
		return Result{}, err
	}
	suppressed, err := wantedRecipients(ctx, a, p)
	if err != nil {
		return Result{}, err
	}
	identifier, err := textParam(p, "integration")
	if err != nil {
		return Result{}, Permanent(err)
	}
	if h.integrations != nil {
		out := EmailOutput{Suppressed: suppressed}
		i, failed, err := deliver(ctx, h.integrations, a, "email", identifier, " (provider_id nodemailer or email-webhook)",
			func(ctx context.Context, i *Integration) error { return h.through(ctx, a, p, i, &out) })
		if err == nil {
			out.Integration, out.Provider, out.FailedOver = i.Identifier, i.Provider, failed
			return Result{Output: out}, nil
		}
		if identifier != "" || !errors.Is(err, ErrNoIntegration) {
			return Result{}, err
		}
	}
	if h.server == nil {
		return Result{}, Permanent(errNoSMTP)
	}
	out := EmailOutput{Provider: "nodemailer", Suppressed: suppressed}
	err = h.bySMTP(ctx, a, p, h.from, h.server, &out)
	return Result{Output: out}, err
}

// through sends a mail through an integration.
func (h emailHandler) through(ctx context.Context, a *Action, p map[string]any, i *Integration, out *EmailOutput) error {
	from := h.from
	if address := i.credential("from"); address != "" {
		from = address
		if name := i.credential("senderName"); name != "" {
			from = (&mail.Address{Name: name, Address: address}).String()
		}
	}
	switch i.Provider {
	case "nodemailer":
		server, err := h.smtpOf(i)
		if err != nil {
			return err
		}
		return h.bySMTP(ctx, a, p, from, server, out)
	case "email-webhook":
		return h.byWebhook(ctx, a, p, from, i, out)
	default:
		return Permanentf("integration %q: provider %q can't send email: use nodemailer (an SMTP server) or email-webhook", i.Identifier, i.Provider)
	}
}

func (h emailHandler) bySMTP(ctx context.Context, a *Action, p map[string]any, from string, server *smtpServer, out *EmailOutput) error {
	m, err := readMail(p, from)
	if err != nil {
		return Permanent(err)
	}
	msg := m.message(a)
	if err := server.send(ctx, msg); err != nil {
		return err
	}
	out.MessageID, out.Response, out.To = msg.GetMessageID(), excerpt(msg.ServerResponse()), m.recipients()
	return nil
}

// byWebhook posts a mail as Novu's provider of that name does: JSON, signed by
// X-Novu-Signature, the HMAC-SHA256 of the body in hex.
func (h emailHandler) byWebhook(ctx context.Context, a *Action, p map[string]any, from string, i *Integration, out *EmailOutput) error {
	c, err := i.need("webhookUrl")
	if err != nil {
		return err
	}
	m, err := readMail(p, from)
	if err != nil {
		return Permanent(err)
	}
	body := map[string]any{
		"id": a.IdempotencyKey(), "to": addresses(m.to), "from": m.from.Address, "senderName": m.from.Name, "subject": m.subject,
		"html": m.html, "text": m.body, "headers": m.headers,
	}
	for name, list := range map[string][]*mail.Address{"cc": m.cc, "bcc": m.bcc} {
		if len(list) > 0 {
			body[name] = addresses(list)
		}
	}
	if m.replyTo != nil {
		body["replyTo"] = m.replyTo.Address
	}
	files := make([]map[string]string, len(m.files))
	for n, f := range m.files {
		files[n] = map[string]string{"name": f.name, "mime": f.contentType, "file": base64.StdEncoding.EncodeToString(f.content), "cid": f.cid}
	}
	body["attachments"] = files
	raw, err := json.Marshal(body)
	if err != nil {
		return Permanent(err)
	}
	answer, err := h.web.post(ctx, a, i, "webhookUrl", c[0], "application/json", raw, func(r *http.Request) {
		if secret := i.credential("hmacSecretKey"); secret != "" {
			sum := hmac.New(sha256.New, []byte(secret))
			sum.Write(raw)
			r.Header.Set("X-Novu-Signature", hex.EncodeToString(sum.Sum(nil)))
		}
	})
	if err != nil {
		return err
	}
	out.MessageID, out.To = member(answer, "id"), m.recipients()
	return nil
}

// Validate checks what stands there without templates.
func (h emailHandler) Validate(params json.RawMessage) error {
	p, err := decodeParams(params)
	if err != nil {
		return err
	}
	t, err := textParams(p, "subject", "body", "html", "from", "reply_to", "integration")
	if err != nil {
		return err
	}
	if t["body"] == "" && t["html"] == "" {
		return errors.New(`parameter "body" is missing`)
	}
	for _, name := range []string{"to", "cc", "bcc"} {
		s, isText := p[name].(string)
		if isText && !constant(s) && name == "to" || name != "to" && (p[name] == nil || isText && !constant(s)) {
			continue
		}
		if err := validateRecipients(name, p[name]); err != nil {
			return err
		}
	}
	if _, err := headersOf(p["headers"]); err != nil {
		return err
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

func validateRecipients(name string, v any) error {
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
	_, err := recipientsOf(name, v)
	return err
}

func badAddress(name, s string) error {
	return fmt.Errorf("%s: %q is not a mail address: use name@example.com or Name <name@example.com>", name, excerpt(s))
}

// recipientsOf reads a comma list or an array of addresses.
func recipientsOf(name string, v any) ([]*mail.Address, error) {
	var texts []string
	switch v := v.(type) {
	case string:
		texts = []string{v}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%s: use a string or an array of strings", name)
			}
			texts = append(texts, s)
		}
	default:
		return nil, fmt.Errorf("%s: use a string or an array of strings", name)
	}
	var out []*mail.Address
	for _, s := range texts {
		if strings.TrimSpace(s) == "" {
			continue // a template that gave nothing
		}
		list, err := mail.ParseAddressList(s)
		if err != nil {
			return nil, badAddress(name, s)
		}
		out = append(out, list...)
	}
	if len(out) == 0 && name == "to" {
		return nil, errors.New("to: no address: name at least one recipient")
	}
	for _, a := range out {
		if err := headerValue(name, a.Name+a.Address); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func addresses(list []*mail.Address) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = a.Address
	}
	return out
}

// ownHeaders are headers that are made here.
var ownHeaders = []string{
	"from", "to", "cc", "bcc", "sender", "reply-to", "return-path", "subject", "date", "message-id", "mime-version", "auto-submitted", "received", "dkim-signature",
}

// headersOf reads further headers: an object of names and values.
func headersOf(v any) (map[string]string, error) {
	if v == nil {
		return nil, nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("headers: use an object of names and values")
	}
	out := make(map[string]string, len(m))
	for name, value := range m {
		s, isText := value.(string)
		if !isText {
			return nil, fmt.Errorf("headers.%s: use a string", excerpt(name))
		}
		if !httpguts.ValidHeaderFieldName(name) || slices.Contains(ownHeaders, strings.ToLower(name)) || strings.HasPrefix(strings.ToLower(name), "content-") {
			return nil, fmt.Errorf("headers: %q can't be set: use a header of your own, such as X-Campaign or List-Unsubscribe", excerpt(name))
		}
		if err := headerValue("headers."+name, s); err != nil {
			return nil, err
		}
		out[name] = s
	}
	return out, nil
}

type attachment struct {
	name, contentType string
	cid               string // names it in the HTML, where it is shown
	content           []byte
}

// attachmentsOf reads [{name, content_base64 | content, content_type?}]; draft
// allows templates in them.
func attachmentsOf(v any, draft bool) ([]attachment, error) {
	if v == nil {
		return nil, nil
	}
	const form = "use [{\"name\", \"content_base64\" or \"content\", \"content_type\"?, \"cid\"?}]"
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
		t, err := textParams(m, "name", "content", "content_base64", "content_type", "cid")
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
		if err := headerValue(at+".cid", t["cid"]); err != nil {
			return nil, err
		}
		a := attachment{name: t["name"], contentType: t["content_type"], cid: t["cid"], content: []byte(t["content"])}
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

// mailing is a mail that is as it should be.
type mailing struct {
	from, replyTo       *mail.Address
	to, cc, bcc         []*mail.Address
	subject, body, html string
	headers             map[string]string
	files               []attachment
}

// readMail reads rendered parameters; its errors are about them.
func readMail(p map[string]any, from string) (*mailing, error) {
	t, err := textParams(p, "subject", "body", "html", "from", "reply_to")
	if err != nil {
		return nil, err
	}
	if t["from"] == "" {
		t["from"] = from
	}
	m := &mailing{subject: t["subject"], body: t["body"], html: t["html"]}
	for _, list := range []struct {
		name string
		into *[]*mail.Address
	}{{"to", &m.to}, {"cc", &m.cc}, {"bcc", &m.bcc}} {
		if list.name != "to" && p[list.name] == nil {
			continue
		}
		if *list.into, err = recipientsOf(list.name, p[list.name]); err != nil {
			return nil, err
		}
	}
	if n := len(m.to) + len(m.cc) + len(m.bcc); n > maxRecipients {
		return nil, fmt.Errorf("to: %d recipients: send to at most %d at once", n, maxRecipients)
	}
	for _, name := range []string{"subject", "from", "reply_to"} {
		if err := headerValue(name, t[name]); err != nil {
			return nil, err
		}
	}
	if m.from, err = mail.ParseAddress(t["from"]); err != nil {
		return nil, badAddress("from", t["from"])
	}
	if t["reply_to"] != "" {
		if m.replyTo, err = mail.ParseAddress(t["reply_to"]); err != nil {
			return nil, badAddress("reply_to", t["reply_to"])
		}
	}
	if m.headers, err = headersOf(p["headers"]); err != nil {
		return nil, err
	}
	m.files, err = attachmentsOf(p["attachments"], false)
	return m, err
}

func (m *mailing) recipients() []string {
	return addresses(slices.Concat(m.to, m.cc, m.bcc))
}

// message is the mail in SMTP's form.
func (m *mailing) message(a *Action) *gomail.Msg {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(m.from)
	msg.ToMailAddress(m.to...)
	msg.CcMailAddress(m.cc...)
	msg.BccMailAddress(m.bcc...)
	if m.replyTo != nil {
		msg.ReplyToMailAddress(m.replyTo)
	}
	msg.Subject(m.subject)
	msg.SetMessageIDWithValue(a.IdempotencyKey() + "@" + m.from.Address[strings.LastIndexByte(m.from.Address, '@')+1:])
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	for name, value := range m.headers {
		msg.SetGenHeader(gomail.Header(name), value)
	}
	if a.Now.IsZero() {
		msg.SetDate()
	} else {
		msg.SetDateWithValue(a.Now)
	}
	switch {
	case m.html == "":
		msg.SetBodyString(gomail.TypeTextPlain, m.body)
	case m.body == "":
		msg.SetBodyString(gomail.TypeTextHTML, m.html)
	default:
		msg.SetBodyString(gomail.TypeTextPlain, m.body)
		msg.AddAlternativeString(gomail.TypeTextHTML, m.html)
	}
	for _, f := range m.files {
		var opts []gomail.FileOption
		if f.contentType != "" {
			opts = append(opts, gomail.WithFileContentType(gomail.ContentType(f.contentType)))
		}
		if f.cid != "" {
			msg.EmbedReadSeeker(f.name, bytes.NewReader(f.content), append(opts, gomail.WithFileContentID("<"+strings.Trim(f.cid, "<>")+">"))...)
		} else {
			msg.AttachReadSeeker(f.name, bytes.NewReader(f.content), opts...)
		}
	}
	return msg
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
		d := &net.Dialer{Timeout: smtpConnectTimeout, Control: s.control}
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
	case s.mustStartTLS || s.user != "" && !s.loopback:
		policy = gomail.TLSMandatory
	case s.noStartTLS && s.user == "":
		policy = gomail.NoTLS
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
	var refused *refusedAddressError
	switch {
	case errors.As(err, &refused):
		return Permanentf("%s: %w", s.settings, refused)
	case errors.As(err, &send):
		code := send.ErrorCode()
		switch {
		case code == 530 || code == 534 || code == 535 || code == 538:
			return fmt.Errorf("the mail server %s wants a user and password: put them into %s: %s", s.address(), s.settings, reason)
		case code >= 500 && code < 510: // it doesn't speak that command: not the message's fault
			return fmt.Errorf("the mail server %s doesn't understand us: check %s: %s", s.address(), s.settings, reason)
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
		return fmt.Errorf("the mail server %s refuses the user or password: check those in %s: %s", s.address(), s.settings, reason)
	case strings.Contains(reason, "does not support STARTTLS"):
		return fmt.Errorf("the mail server %s offers no STARTTLS, and a password is never sent unencrypted to another machine: use smtps:// in %s, or leave the password out", s.address(), s.settings)
	case strings.Contains(reason, "SMTP AUTH"):
		return fmt.Errorf("the mail server %s offers no way to log in that is known here: leave user and password out of %s: %s", s.address(), s.settings, reason)
	case strings.Contains(reason, "tls: ") || strings.Contains(reason, "x509: "):
		return fmt.Errorf("no encrypted connection to the mail server %s: check name and port in %s (smtps:// is TLS from the start, smtp:// STARTTLS): %s", s.address(), s.settings, reason)
	case timedOut || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the mail server %s doesn't answer: check %s and that the server runs", s.address(), s.settings)
	case errors.As(err, &network):
		return fmt.Errorf("the mail server %s can't be reached: check %s and that the server runs: %s", s.address(), s.settings, reason)
	default:
		return fmt.Errorf("the mail server %s can't be used now: check %s: %s", s.address(), s.settings, reason)
	}
}
