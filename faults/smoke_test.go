package faults

import (
	"context"
	"testing"
	"time"
)

// The two most frequent faults, for a short time, with all other tests.
func TestSmoke(t *testing.T) {
	needsBinaries(t)
	w := newWorld(t, "kill -9 and crash of the server")
	// The feed is killed, the workers are not: what a killed worker leaves is taken over
	// within a minute, which is too long for this test.
	worker := w.run("--only", "scheduler,workers")
	p := w.run("--only", "feed")
	w.write()
	w.underway()
	p.kill()
	p = w.run("--only", "feed")
	w.crash(0)
	feed := w.caughtUp()
	w.underway()
	w.times = 2
	w.check(feed)
	p.terminate()
	worker.terminate()
	t.Logf("\n%s", &report)
}

// crash is an immediate shutdown of the server, and its start after a while.
func (w *world) crash(away time.Duration) {
	w.t.Helper()
	if err := w.server.Kill(); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(away)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.server.Restart(ctx); err != nil {
		w.t.Fatal(err)
	}
}
