// Package mailbox is an SMTP server that delivers nothing: it keeps what it gets
// in memory and shows it. The demo and PGAUTOMATE_DEV=1 send to it, so that no
// mail leaves the machine; tests use it as the real SMTP server that it is, and
// tell it to misbehave (Inject).
//
// It listens on loopback only. The newest messages are kept, up to MaxMessages
// and MaxBytes.
package mailbox

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Bounds of the store.
const (
	MaxMessages     = 1000
	MaxBytes        = 64 << 20 // of all messages together
	MaxMessageBytes = 24 << 20 // of one; larger ones are refused with 552
)

// Mailbox is a running server and what it has received. It is safe for concurrent use.
type Mailbox struct {
	server   *smtp.Server
	listener net.Listener
	options  options
	closed   chan struct{}
	served   chan struct{}
	stop     func() bool
	once     sync.Once

	mu       sync.Mutex
	messages []Message // oldest first
	bytes    int
	count    int
	faults   []Fault
	arrived  chan struct{} // closed and replaced with each message
}

type options struct {
	tls            *tls.Config
	implicit       bool
	user, password string
}

// Option changes how the server is set up.
type Option func(*options)

// WithSTARTTLS offers STARTTLS.
func WithSTARTTLS(config *tls.Config) Option { return func(o *options) { o.tls = config } }

// WithTLS speaks TLS from the start (smtps).
func WithTLS(config *tls.Config) Option { return func(o *options) { o.tls, o.implicit = config, true } }

// WithAuth takes mail only after a login with AUTH PLAIN, also unencrypted: it is loopback.
func WithAuth(user, password string) Option {
	return func(o *options) { o.user, o.password = user, password }
}

// Start listens on addr (host:port; "" for any free port of 127.0.0.1) until ctx
// ends or Close. It refuses addresses that other machines can reach.
func Start(ctx context.Context, addr string, opts ...Option) (*Mailbox, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("mailbox address %q: use 127.0.0.1:port", addr)
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("mailbox address %q: use a loopback address such as 127.0.0.1:port; other machines must not reach the mailbox", addr)
	}
	m := &Mailbox{closed: make(chan struct{}), served: make(chan struct{}), arrived: make(chan struct{})}
	for _, opt := range opts {
		opt(&m.options)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("mailbox: can't listen on %s (choose another port): %w", addr, err)
	}
	m.listener = l
	m.server = smtp.NewServer(smtp.BackendFunc(m.newSession))
	m.server.Domain = "localhost"
	m.server.MaxMessageBytes = MaxMessageBytes
	m.server.MaxRecipients = 1000
	m.server.ReadTimeout, m.server.WriteTimeout = time.Minute, time.Minute
	m.server.AllowInsecureAuth = true
	m.server.EnableSMTPUTF8 = true
	m.server.ErrorLog = log.New(io.Discard, "", 0)
	serve := l
	if m.options.tls != nil {
		if m.options.implicit {
			serve = tls.NewListener(l, m.options.tls)
		} else {
			m.server.TLSConfig = m.options.tls
		}
	}
	go func() {
		defer close(m.served)
		_ = m.server.Serve(serve)
	}()
	m.stop = context.AfterFunc(ctx, func() { _ = m.Close() })
	return m, nil
}

// Close stops the server and ends its connections. What it received stays readable.
func (m *Mailbox) Close() error {
	m.once.Do(func() {
		m.stop()
		close(m.closed)
		_ = m.server.Close()
		_ = m.listener.Close()
	})
	<-m.served
	return nil
}

// Addr is the address it listens on, as host:port.
func (m *Mailbox) Addr() string { return m.listener.Addr().String() }

// URL is the address in the form of SMTP_URL, with the login if one is needed.
func (m *Mailbox) URL() string {
	scheme, login := "smtp://", ""
	if m.options.implicit {
		scheme = "smtps://"
	}
	if m.options.user != "" {
		login = url.UserPassword(m.options.user, m.options.password).String() + "@"
	}
	return scheme + login + m.Addr()
}

// Messages are those kept, oldest first.
func (m *Mailbox) Messages() []Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.messages)
}

// Message is the one with that ID, if it is still kept.
func (m *Mailbox) Message(id int) (Message, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, found := slices.BinarySearchFunc(m.messages, id, func(msg Message, id int) int { return msg.ID - id })
	if !found {
		return Message{}, false
	}
	return m.messages[i], true
}

// Count is how many messages have arrived, kept or not.
func (m *Mailbox) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count
}

// Wait returns when n messages have arrived since the start, or with ctx's error.
func (m *Mailbox) Wait(ctx context.Context, n int) error {
	for {
		m.mu.Lock()
		count, arrived := m.count, m.arrived
		m.mu.Unlock()
		if count >= n {
			return nil
		}
		select {
		case <-arrived:
		case <-m.closed:
			return errors.New("the mailbox is closed")
		case <-ctx.Done():
			return fmt.Errorf("%d of %d messages arrived: %w", count, n, ctx.Err())
		}
	}
}

// Clear forgets all messages; Count stays.
func (m *Mailbox) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.messages, m.bytes = nil, 0
}

func (m *Mailbox) store(msg Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count++
	msg.ID = m.count
	m.messages = append(m.messages, msg)
	m.bytes += len(msg.Raw)
	for len(m.messages) > 1 && (len(m.messages) > MaxMessages || m.bytes > MaxBytes) {
		m.bytes -= len(m.messages[0].Raw)
		m.messages = slices.Delete(m.messages, 0, 1)
	}
	close(m.arrived)
	m.arrived = make(chan struct{})
}

// Point is where in a delivery a fault shows.
type Point int

// The points of a delivery.
const (
	AtConnect  Point = iota // in answer to EHLO; with a Code, the connection is closed after it
	AtMail                  // MAIL FROM
	AtRcpt                  // RCPT TO
	AtData                  // after the message's end, which is not kept
	AtAccepted              // after the message is kept, before the client hears of it
)

// Fault is one misbehaviour; it is used up by the next delivery that reaches it.
type Fault struct {
	At Point
	// Code is an SMTP reply such as 451 or 550. Without one, the connection is
	// closed, or nothing is said at all (Hang) until the client gives up.
	Code int
	Hang bool
}

// Inject queues faults; those for the same point come in this order.
func (m *Mailbox) Inject(faults ...Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, faults...)
}

// fault carries out the next fault of that point, if there is one.
func (m *Mailbox) fault(at Point, conn *smtp.Conn) error {
	m.mu.Lock()
	i := slices.IndexFunc(m.faults, func(f Fault) bool { return f.At == at })
	if i < 0 {
		m.mu.Unlock()
		return nil
	}
	f := m.faults[i]
	m.faults = slices.Delete(m.faults, i, i+1)
	m.mu.Unlock()
	switch {
	case f.Hang:
		// Until the client goes, or Close.
		_ = conn.Conn().SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, conn.Conn())
		fallthrough
	case f.Code == 0:
		_ = conn.Conn().Close()
		return errors.New("closed")
	case at == AtConnect:
		// Closed, lest the client try again with HELO.
		_, _ = fmt.Fprintf(conn.Conn(), "%d %d.0.0 told to say so\r\n", f.Code, f.Code/100)
		_ = conn.Conn().Close()
		return errors.New("closed")
	default:
		return &smtp.SMTPError{Code: f.Code, EnhancedCode: smtp.EnhancedCode{f.Code / 100, 0, 0}, Message: "told to say so"}
	}
}

// session is one SMTP connection.
type session struct {
	m        *Mailbox
	conn     *smtp.Conn
	loggedIn bool
	from     string
	to       []string
}

func (m *Mailbox) newSession(c *smtp.Conn) (smtp.Session, error) {
	if err := m.fault(AtConnect, c); err != nil {
		return nil, err
	}
	return &session{m: m, conn: c, loggedIn: m.options.user == ""}, nil
}

func (s *session) AuthMechanisms() []string {
	if s.m.options.user == "" {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != s.m.options.user || password != s.m.options.password {
			return smtp.ErrAuthFailed
		}
		s.loggedIn = true
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if !s.loggedIn {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	}
	s.from, s.to = from, nil
	return s.m.fault(AtMail, s.conn)
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := s.m.fault(AtRcpt, s.conn); err != nil {
		return err
	}
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := s.m.fault(AtData, s.conn); err != nil {
		return err
	}
	s.m.store(parse(s.from, s.to, raw, time.Now()))
	return s.m.fault(AtAccepted, s.conn)
}

func (s *session) Reset() { s.from, s.to = "", nil }

func (s *session) Logout() error { return nil }
