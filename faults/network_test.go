//go:build faults

package faults

// Networks that fail without a word: nothing comes through any more, and nobody closes.

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pgautomate/pgautomate/db/line"
	"github.com/pgautomate/pgautomate/db/line/linetest"
)

// ways are the directions of a cut.
var ways = map[linetest.Way]string{linetest.Both: "both ways", linetest.ToServer: "to the server", linetest.ToClient: "to the engine"}

// slack is for a busy machine, beside a bound that the engine promises.
const slack = 15 * time.Second

// through starts an engine that reaches the server by way of a proxy.
func (w *world) through(p *linetest.Proxy) *process {
	w.t.Helper()
	e := w.behind(p)
	e.awaitReady()
	return e
}

func (w *world) behind(p *linetest.Proxy) *process {
	w.t.Helper()
	return w.command([]string{"DATABASE_URL=" + p.URL(w.t, w.db.URL)}, "run", "--listen", freeAddress(w.t))
}

// Old connections hang, new ones work: as when a firewall forgets what it let through.
func (w *world) silentCut() {
	proxy := linetest.New(w.t, w.db.URL)
	p := w.through(proxy)
	w.write()
	w.underway()
	var longest time.Duration
	for way, name := range ways {
		proxy.Cut(way, false)
		took := w.caughtUp()
		w.t.Logf("cut %s: the feed has caught up after %v", name, took.Round(time.Millisecond))
		longest = max(longest, took)
		w.times++
		w.underway()
	}
	if longest > line.Bound+slack {
		w.t.Errorf("the engine needed %v after a silent cut, the bound is %v", longest, line.Bound)
	}
	// What hung comes through after all, to sessions that were given up.
	proxy.Heal(true)
	w.underway()
	w.check(longest)
	p.terminate()
}

// Nothing comes through, then all does, also what was on its way.
func (w *world) silentCutHeals() {
	proxy := linetest.New(w.t, w.db.URL)
	p := w.through(proxy)
	w.write()
	w.underway()
	var longest time.Duration
	for _, away := range []time.Duration{3 * time.Second, 15 * time.Second, 40 * time.Second} {
		for way, name := range ways {
			if way != linetest.Both && away > 3*time.Second {
				continue
			}
			proxy.Cut(way, true)
			time.Sleep(away)
			proxy.Heal(true)
			took := w.caughtUp()
			w.t.Logf("cut %s for %v: the feed has caught up %v after its end", name, away, took.Round(time.Millisecond))
			longest = max(longest, took)
			w.times++
			w.underway()
		}
	}
	if longest > line.Bound+slack {
		w.t.Errorf("the engine needed %v after a silent cut's end, the bound is %v", longest, line.Bound)
	}
	w.check(longest)
	p.terminate()
}

// The active one is cut off, the standby isn't.
func (w *world) silentCutWithStandby() { w.cutOff(linetest.Both, senderTimeout+30*time.Second) }

// The server hears of the active one as ever; it is up to that one to let go: after a minute, for nobody can be asked.
func (w *world) deafWithStandby() { w.cutOff(linetest.ToClient, 90*time.Second) }

func (w *world) cutOff(way linetest.Way, bound time.Duration) {
	proxy := linetest.New(w.t, w.db.URL)
	active := w.through(proxy)
	standby := w.engine()
	w.write()
	w.underway()
	was := w.reader()
	proxy.Cut(way, true)
	took := w.until("the standby feeds", func() bool { pid := w.reader(); return pid != 0 && pid != was })
	took += w.caughtUp()
	w.times++
	if took > bound+slack {
		w.t.Errorf("the standby needed %v after the cut, the bound is %v", took, bound)
	}
	w.underway()
	proxy.Heal(true)
	w.underway()
	// It stands by now.
	standby.kill()
	w.caughtUp()
	w.check(took)
	active.terminate()
}

// Something on the way changes bytes of the stream, a few times, always elsewhere. What can be seen to make no sense is
// read again. (A value that was changed to another one can't be told by anybody: that is what TLS is for.)
func (w *world) garbage() {
	proxy := linetest.New(w.t, w.db.URL)
	p := w.through(proxy)
	w.write()
	w.underway()
	noticed := func() int { return strings.Count(p.stderr.String(), "makes no sense, it is read again") }
	for _, spoil := range spoils {
		before := noticed()
		// What is changed may still be on its way when the session ends for another reason: then once more.
		for tries := 0; noticed() == before; tries++ {
			if tries == 5 {
				w.t.Fatalf("%s was changed %d times, and nobody noticed", spoil.what, tries)
			}
			var done atomic.Bool
			proxy.Tamper(func(m []byte) []byte {
				if done.Load() || len(m) < 26 || m[0] != 'w' || m[25] != spoil.kind || spoil.kind != 'R' && rand.IntN(3) > 0 {
					return m
				}
				done.Store(true)
				return spoil.do(m)
			})
			if spoil.kind == 'R' { // once a session
				w.exec(`SELECT pg_terminate_backend($1)`, w.reader())
			}
			w.until("something is changed on the way: "+spoil.what, done.Load)
			proxy.Tamper(nil)
			w.times++
			w.underway()
		}
	}
	took := w.caughtUp()
	if n := one[int](w, `SELECT count(*) FROM pgautomate.feed_notes WHERE kind = 'undecodable'`); n != 0 {
		w.t.Errorf("%d notes of what could not be decoded", n)
	}
	w.check(took)
	p.terminate()
}

// spoils are what happens to a message: its envelope has 25 bytes.
var spoils = []struct {
	what string
	kind byte
	do   func(m []byte) []byte
}{
	{"an insert's letter", 'I', func(m []byte) []byte { m[25] ^= 0x20; return m }},
	{"an insert's table", 'I', func(m []byte) []byte { m[26] ^= 0x40; return m }},
	{"an insert's end", 'I', func(m []byte) []byte { return m[:len(m)-3] }},
	{"an insert's number of columns", 'I', func(m []byte) []byte { m[32]++; return m }},
	{"an update's old row", 'U', func(m []byte) []byte { m[30] = '?'; return m }},
	{"the length of an update's value", 'U', func(m []byte) []byte { m[34] ^= 0x10; return m }},
	{"what follows a delete", 'D', func(m []byte) []byte { return append(m, m...) }},
	{"a transaction's position", 'B', func(m []byte) []byte { m[30] ^= 1; return m }},
	{"the position of a commit", 'C', func(m []byte) []byte { m[29] ^= 1; return m }},
	{"the end of a commit", 'C', func(m []byte) []byte { m[42] ^= 1; return m }},
	{"a commit's letter", 'C', func(m []byte) []byte { m[25] = 'O'; return m }},
	{"a table's number of columns", 'R', func(m []byte) []byte { return m[:len(m)/2] }},
	{"the envelope", 'I', func(m []byte) []byte { m[0] = 'x'; return m }},
}

// The same message comes spoilt again and again, a row: the stream goes on without it, and says so.
func (w *world) spoiltRow() {
	proxy := linetest.New(w.t, w.db.URL)
	p := w.through(proxy)
	w.write()
	w.underway()
	proxy.Tamper(func(m []byte) []byte {
		if i := bytes.Index(m, []byte("spoil me")); i > 0 {
			m[i-5] = '?' // what kind of value follows
		}
		return m
	})
	// It is of nobody's, so that the count isn't concerned.
	w.exec(`INSERT INTO lead (id, organization_id, status_id, note) VALUES (0, 'nobody', 'C', 'spoil me')`)
	took := w.until("it is noted", func() bool {
		return one[bool](w, `SELECT EXISTS (SELECT FROM pgautomate.feed_notes WHERE kind = 'undecodable' AND detail::text LIKE '%lead%')`)
	})
	w.times++
	w.underway()
	w.check(took + w.caughtUp())
	p.terminate()
}

// The same, but it is no row: nothing can be said of what follows.
func (w *world) spoiltStream() {
	proxy := linetest.New(w.t, w.db.URL)
	p := w.through(proxy)
	l := w.write()
	w.underway()
	l.halt()
	w.settled()
	from := one[int64](w, here)
	proxy.Tamper(func(m []byte) []byte {
		if len(m) > 25 && m[0] == 'w' && m[25] == 'C' {
			m[29] ^= 1
		}
		return m
	})
	w.more()
	w.times++
	w.refused(p, "makes no sense", "commits at ")
	w.ends(w.mended(from))
}
