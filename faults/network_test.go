//go:build faults

package faults

// Networks that fail without a word: nothing comes through any more, and nobody closes.

import (
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
