// Package line notices connections to Postgres that died without a word.
//
// A cut network, a proxy or load balancer that forgot a connection, a machine that is gone: nobody closes, so who waits
// for an answer waits for ever. Two watchmen:
//
//   - The kernel: keepalives, and a limit to how long what was sent may stay unacknowledged (TCP_USER_TIMEOUT). It sees
//     only as far as the next hop, which may be a healthy proxy.
//   - The server: when a connection that is waited on has been silent for 10 s, its Conn asks over a new connection, to
//     the same address, what its backend is doing. One that works, or waits for a lock, may take as long as it likes. One
//     that waits for its client, who waits for it, or that is no longer there, proves the connection dead.
//
// What is dead is ended on both sides, so that its locks, and a replication slot, are free at once. So a silent
// connection is given up within 30 s (Bound) of the moment from which new connections reach the server. When they don't,
// a minute of silence ends it too: then there is nothing to lose, and in a cut of one direction the server would go on
// believing in us.
//
// No answer is ever taken for late, then, because it takes long; and nothing here limits statements.
package line

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Bound is how long after a cut a connection is given up at the latest, if the server can be reached anew.
const Bound = 30 * time.Second

// ErrSilent is what reading and writing give on a connection that was found dead.
var ErrSilent = errors.New("the connection to the database is dead: nothing came through, and the server waits for us or has given it up")

// limits are variable for tests.
type limits struct {
	silent  time.Duration // without a sign of life, before the server is asked
	every   time.Duration // between two looks at a connection
	confirm time.Duration // for what the server sent just before it was asked
	giveUp  time.Duration // of silence, when the server can't be asked
	within  time.Duration // which it must have answered
}

var usual = limits{silent: 10 * time.Second, every: 2500 * time.Millisecond, confirm: 2 * time.Second, giveUp: time.Minute, within: 5 * time.Second}

// guard is what the connections of one configuration share.
type guard struct {
	limits

	cfg         *pgconn.Config // for asking
	application string
	dialer      net.Dialer
	lost        func()

	// One asks at a time: a cut strikes all connections at once, and the server has room for few more. What is in the
	// channel is when asking failed last.
	asking chan time.Time
}

// Watch has the connections that are made with cfg watched, each from when Identify is called for it. lost is called
// after each that was found dead: others of its pool may be as well. It may be nil.
func Watch(cfg *pgconn.Config, lost func()) { watch(cfg, lost, usual) }

func watch(cfg *pgconn.Config, lost func(), l limits) {
	if lost == nil {
		lost = func() {}
	}
	g := &guard{
		limits: l, lost: lost, cfg: cfg.Copy(), application: cfg.RuntimeParams["application_name"], asking: make(chan time.Time, 1),
		dialer: net.Dialer{
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 6},
			Control:         control,
		},
	}
	g.asking <- time.Time{}
	g.cfg.RuntimeParams = map[string]string{"application_name": "pgautomate look"}
	g.cfg.ConnectTimeout = l.within
	g.cfg.ValidateConnect, g.cfg.AfterConnect = nil, nil
	cfg.DialFunc = g.dial
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(&answers{Reader: r, conn: below(w)}, w)
	}
}

func (g *guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	inner, err := g.dialer.DialContext(ctx, network, address)
	if err != nil || network == "unix" {
		return inner, err
	}
	return &Conn{Conn: inner, guard: g, network: network, address: address}, nil
}

// Conn is a watched connection.
type Conn struct {
	net.Conn

	guard            *guard
	network, address string

	mu        sync.Mutex
	pid       uint32
	streaming bool
	reading   time.Time          // a Read has waited since; zero: none does
	writing   time.Time          // as reading
	read      time.Time          // when something came last
	written   time.Time          // when a part of something large was last taken from us
	owed      time.Time          // the first write since something came
	complete  bool               // what came last ended an answer
	cancel    context.CancelFunc // ends the watch
	closed    bool
	err       error // why it was given up
}

// below gives the watched connection below a Postgres connection, or nil: it is a unix socket, or not watched.
func below(conn any) *Conn {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, _ := conn.(*Conn)
	return c
}

// The server's side of the watch: its kernel notices that we are gone, and a statement ends that nobody waits for any
// more. Not tcp_user_timeout: a stream that its reader holds up is no dead one.
const sqlIdentify = `
SELECT pg_backend_pid(),
       set_config('tcp_keepalives_idle', least(current_setting('tcp_keepalives_idle')::int, 15)::text, false),
       set_config('tcp_keepalives_interval', least(current_setting('tcp_keepalives_interval')::int, 5)::text, false),
       set_config('tcp_keepalives_count', least(current_setting('tcp_keepalives_count')::int, 6)::text, false),
       CASE WHEN version() LIKE '%linux%' AND current_setting('client_connection_check_interval', true) = '0'
            THEN set_config('client_connection_check_interval', '10s', false) END`

// Identify begins the watch of a connection that was made with a configuration given to Watch.
func Identify(ctx context.Context, conn *pgconn.PgConn) error {
	c := below(conn.Conn())
	if c == nil {
		return nil
	}
	results, err := conn.Exec(ctx, sqlIdentify).ReadAll()
	if err != nil {
		return fmt.Errorf("settings of the connection: %w", err)
	}
	if string(results[0].Rows[0][0]) != strconv.FormatUint(uint64(conn.PID()), 10) {
		return nil // a pooler is in between: whom to ask for isn't known
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel == nil && !c.closed {
		ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
		c.pid = conn.PID()
		go c.watch(ctx)
	}
	return nil
}

// Stream says that the connection is now a stream of replication, whose server answers at once whenever it waits.
func Stream(conn *pgconn.PgConn) {
	if c := below(conn.Conn()); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.streaming = true
	}
}

func (c *Conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	c.reading = time.Now()
	c.mu.Unlock()
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = time.Time{}
	if n > 0 {
		c.read, c.owed = time.Now(), time.Time{}
	}
	if err != nil && c.err != nil {
		err = c.err
	}
	return n, err
}

// piece bounds what is written at once, so that a large write on a slow line shows its progress. Smaller ones show
// nothing: the kernel takes them from us whatever becomes of them.
const piece = 32 << 10

func (c *Conn) Write(b []byte) (written int, err error) {
	for first := true; first || len(b) > 0; first = false {
		now := time.Now()
		c.mu.Lock()
		c.writing = now
		if c.owed.IsZero() {
			c.owed = now
		}
		c.mu.Unlock()
		n, err := c.Conn.Write(b[:min(len(b), piece)])
		c.mu.Lock()
		c.writing = time.Time{}
		if n == piece {
			c.written = time.Now()
		}
		if err != nil && c.err != nil {
			err = c.err
		}
		c.mu.Unlock()
		written += n
		if err != nil {
			return written, err
		}
		b = b[n:]
	}
	return written, nil
}

// Close ends the watch too.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.cancel != nil {
		c.cancel()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// answers sees where the server's answers end.
type answers struct {
	io.Reader

	conn *Conn
	head []byte // of the message that begins
	left int    // bytes of the message to come
}

func (a *answers) Read(b []byte) (int, error) {
	n, err := a.Reader.Read(b)
	if a.conn != nil {
		a.conn.mu.Lock()
		defer a.conn.mu.Unlock()
		if a.conn.streaming {
			return n, err // there is no end
		}
		for came := b[:n]; len(came) > 0; {
			if skip := min(a.left, len(came)); skip > 0 {
				a.left, came = a.left-skip, came[skip:]
				continue
			}
			a.head, came = append(a.head, came[0]), came[1:]
			if len(a.head) < 5 {
				continue
			}
			a.left = max(0, int(binary.BigEndian.Uint32(a.head[1:]))-4)
			switch a.head[0] {
			case 'Z': // ReadyForQuery
				a.conn.complete = true
			case 'A', 'N', 'S': // notifications and notices, which come at any time
			default:
				a.conn.complete = false
			}
			a.head = a.head[:0]
		}
	}
	return n, err
}

// sight is what is known of a connection at a moment.
type sight struct {
	waiting bool      // somebody waits in Read or Write
	silent  time.Time // since when nothing moves
	moved   time.Time // when something did
}

func (c *Conn) see() sight {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := sight{waiting: !c.reading.IsZero() || !c.writing.IsZero(), silent: c.owed, moved: later(c.read, c.written)}
	if s.silent.IsZero() {
		s.silent = c.reading                 // for the rest of an answer
		s.waiting = s.waiting && !c.complete // not for a notification, which may come or not
	}
	s.silent = later(s.silent, s.moved)
	return s
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// watch looks at the connection now and then, until it is closed.
func (c *Conn) watch(ctx context.Context) {
	g := c.guard
	for next := g.every; sleep(ctx, next); {
		next = g.every
		s := c.see()
		if !s.waiting || time.Since(s.silent) < g.silent {
			continue
		}
		switch d := c.ask(ctx, false); d {
		case working:
			next = g.silent
		case unknown:
			if time.Since(s.silent) > g.giveUp {
				c.end()
			}
		default:
			// What the server sent just before it was asked may be on its way.
			if sleep(ctx, g.confirm) && c.see().moved.Equal(s.moved) && c.ask(ctx, false) == d {
				c.end()
				c.ask(context.WithoutCancel(ctx), true)
			}
		}
	}
}

// doing is what a backend does.
type doing string

const (
	unknown doing = ""        // the server can't be asked
	working doing = "working" // or waits for others than us
	idle    doing = "idle"    // waits for a statement
	talking doing = "talking" // waits for us in the middle of one, or of a stream
	gone    doing = "gone"
)

// The wait events of a stream are those in which a walsender heeds its client's messages.
const sqlLook = `
SELECT CASE
         WHEN state LIKE 'idle%' THEN 'idle'
         WHEN wait_event IN ('ClientRead', 'ClientWrite') THEN 'talking'
         WHEN $3 = 'true' AND wait_event IN ('WalSenderMain', 'WalSenderWaitForWAL', 'WalSenderWaitForWal', 'WalSenderWriteData',
                                             'WaitForStandbyConfirmation') THEN 'talking'
         ELSE 'working'
       END AS doing, pid
FROM pg_stat_activity
WHERE pid = $1::int AND application_name = $2`

// Its user is ours, so that no privilege is needed.
const sqlEnd = `SELECT doing, pg_terminate_backend(pid) FROM (` + sqlLook + `) s WHERE doing IN ('idle', 'talking')`

// ask asks the server what the connection's backend does; with end it is also ended if it waits for us.
func (c *Conn) ask(ctx context.Context, end bool) (d doing) {
	g := c.guard
	select {
	case failed := <-g.asking:
		defer func() {
			if d == unknown && ctx.Err() == nil {
				failed = time.Now()
			}
			g.asking <- failed
		}()
		if time.Since(failed) < g.every {
			return unknown // it would be in vain again
		}
	case <-ctx.Done():
		return unknown
	}
	within, cancel := context.WithTimeout(ctx, g.within)
	defer cancel()
	cfg := g.cfg.Copy()
	// The very server that the connection leads to, whatever its name means by now.
	cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"192.0.2.1"}, nil }
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return g.dialer.DialContext(ctx, c.network, c.address)
	}
	conn, err := pgconn.ConnectConfig(within, cfg)
	if err != nil {
		if _, answered := errors.AsType[*pgconn.PgError](err); answered {
			return working // no room for us: whether the backend works we can't know, but the server is there
		}
		return unknown
	}
	defer func() { _ = conn.Close(within) }()
	sql := sqlLook
	if end {
		sql = sqlEnd
	}
	c.mu.Lock()
	pid, streaming := c.pid, c.streaming
	c.mu.Unlock()
	r := conn.ExecParams(within, sql, [][]byte{
		[]byte(strconv.FormatUint(uint64(pid), 10)), []byte(g.application), []byte(strconv.FormatBool(streaming)),
	}, nil, nil, nil).Read()
	switch {
	case r.Err != nil:
		return unknown
	case len(r.Rows) == 0:
		return gone
	default:
		return doing(r.Rows[0][0])
	}
}

// end gives the connection up, and ends its watch.
func (c *Conn) end() {
	c.mu.Lock()
	c.err = ErrSilent
	c.mu.Unlock()
	_ = c.Close()
	c.guard.lost()
}

// sleep gives false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
