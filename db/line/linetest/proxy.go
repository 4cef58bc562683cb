// Package linetest stands between a test's client and its Postgres, and fails as networks do.
package linetest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"testing"
)

// Way is a direction, or both.
type Way int

// The ways.
const (
	ToServer Way = 1 << iota
	ToClient
	Both = ToServer | ToClient
)

// Proxy forwards TCP connections from an address on loopback.
type Proxy struct {
	listener net.Listener
	group    sync.WaitGroup

	mu     sync.Mutex
	target string
	cut    Way // of new connections
	open   map[*pair]struct{}
	tamper func(message []byte) []byte
}

// New starts a proxy to the server of a URL. It ends with the test.
func New(t testing.TB, to string) *Proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, open: map[*pair]struct{}{}}
	p.Point(t, to)
	p.group.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Sever()
		p.group.Wait()
	})
	return p
}

// URL is the given one, by way of the proxy.
func (p *Proxy) URL(t testing.TB, of string) string {
	t.Helper()
	u, err := url.Parse(of)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.listener.Addr().String()
	return u.String()
}

// Point leads new connections to the server of another URL.
func (p *Proxy) Point(t testing.TB, to string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = u.Host
}

// Cut lets nothing through any more on the connections there are, not even their end. What is sent meanwhile waits in
// the proxy. With later, new connections fare alike.
func (p *Proxy) Cut(w Way, later bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if later {
		p.cut |= w
	}
	for c := range p.open {
		c.cut(w)
	}
}

// Heal lets new connections through; with all also those that were cut, with what waits in them.
func (p *Proxy) Heal(all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = 0
	if !all {
		return
	}
	for c := range p.open {
		c.heal()
	}
}

// Sever closes all connections.
func (p *Proxy) Sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.close()
	}
}

// Tamper has a function see, and perhaps change, each CopyData message that the server sends on replication connections:
// its content, without type and length. It must not keep it. Nil ends that.
func (p *Proxy) Tamper(f func(message []byte) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tamper = f
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.group.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	c := &pair{proxy: p, client: client, gates: [2]gate{newGate(), newGate()}}
	p.mu.Lock()
	target := p.target
	c.cut(p.cut)
	p.open[c] = struct{}{}
	p.mu.Unlock()
	defer func() {
		c.close()
		p.mu.Lock()
		delete(p.open, c)
		p.mu.Unlock()
	}()
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", target)
	if err != nil || !c.joins(server) {
		return
	}
	first := make([]byte, 64<<10) // the startup message comes in one piece, as good as always
	n, err := client.Read(first)
	if err != nil {
		return
	}
	first = first[:n]
	var both sync.WaitGroup
	both.Go(func() {
		if c.gates[0].pass() {
			if _, err := server.Write(first); err == nil {
				c.copy(server, client, &c.gates[0])
			}
		}
		c.close()
	})
	both.Go(func() {
		if slices.Contains(words(first), "replication") {
			c.copyMessages(client, server, &c.gates[1])
		} else {
			c.copy(client, server, &c.gates[1])
		}
		c.close()
	})
	both.Wait()
}

// words are the zero-terminated strings of a startup message.
func words(startup []byte) (list []string) {
	for i, from := 8, 8; i < len(startup); i++ {
		if startup[i] == 0 {
			list = append(list, string(startup[from:i]))
			from = i + 1
		}
	}
	return list
}

// pair is a connection of the client and the one to the server.
type pair struct {
	proxy  *Proxy
	client net.Conn
	gates  [2]gate

	mu     sync.Mutex
	server net.Conn
	closed bool
}

func (c *pair) cut(w Way) {
	for i := range c.gates {
		if w&(1<<i) != 0 {
			c.gates[i].shut()
		}
	}
}

func (c *pair) heal() {
	for i := range c.gates {
		c.gates[i].open()
	}
}

func (c *pair) joins(server net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = server.Close()
		return false
	}
	c.server = server
	return true
}

func (c *pair) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	_ = c.client.Close()
	if c.server != nil {
		_ = c.server.Close()
	}
	for i := range c.gates {
		c.gates[i].remove()
	}
}

// copy forwards until an end, which passes the gate as all else does.
func (c *pair) copy(to io.Writer, from io.Reader, g *gate) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if !g.pass() {
			return
		}
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// copyMessages is copy, message by message.
func (c *pair) copyMessages(to io.Writer, from io.Reader, g *gate) {
	head := make([]byte, 5)
	for {
		_, err := io.ReadFull(from, head)
		var body []byte
		if err == nil {
			body = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
			_, err = io.ReadFull(from, body)
		}
		if !g.pass() || err != nil {
			return
		}
		if head[0] == 'd' {
			c.proxy.mu.Lock()
			tamper := c.proxy.tamper
			c.proxy.mu.Unlock()
			if tamper != nil {
				body = tamper(body)
			}
		}
		message := binary.BigEndian.AppendUint32(head[:1:1], uint32(len(body)+4))
		if _, err := to.Write(append(message, body...)); err != nil {
			return
		}
	}
}

// gate is open, shut, or gone with its connection.
type gate struct {
	mu     *sync.Mutex
	change *sync.Cond
	closed bool
	gone   bool
}

func newGate() gate {
	mu := new(sync.Mutex)
	return gate{mu: mu, change: sync.NewCond(mu)}
}

func (g *gate) set(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	g.change.Broadcast()
}

func (g *gate) shut()   { g.set(func() { g.closed = true }) }
func (g *gate) open()   { g.set(func() { g.closed = false }) }
func (g *gate) remove() { g.set(func() { g.gone = true }) }

// pass waits until the gate is open.
func (g *gate) pass() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.closed && !g.gone {
		g.change.Wait()
	}
	return !g.gone
}
