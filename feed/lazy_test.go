package feed_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/feed"
)

// lazy records what fires, and writes nothing for what doesn't.
type lazy struct {
	*recorder

	mu      sync.Mutex
	matched []string // every change that came by
	skipped int      // calls that wrote nothing
}

func (l *lazy) fires(commits []*change.Commit) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	fires := false
	for _, c := range commits {
		for _, line := range describe(c) {
			l.matched = append(l.matched, line)
			fires = fires || strings.Contains(line, "v=fires")
		}
	}
	return fires
}

func (l *lazy) Apply(ctx context.Context, commits []*change.Commit, position change.EndLSN) error {
	if l.fires(commits) {
		return l.recorder.Apply(ctx, commits, position)
	}
	return pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error { return l.store.Advance(ctx, tx, position) })
}

func (l *lazy) ApplyLazily(ctx context.Context, commits []*change.Commit, position change.EndLSN) (bool, error) {
	if l.fires(commits) {
		return true, l.recorder.Apply(ctx, commits, position)
	}
	l.mu.Lock()
	l.skipped++
	l.mu.Unlock()
	return false, nil
}

// What comes to nothing gets no checkpoint of its own, but soon one all the same, at the latest
// when the feed ends; nothing that fires is missed or comes twice.
func TestLazy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var l *lazy
	start := func() *running {
		return w.start(func(c *feed.Config, r *recorder) {
			l = &lazy{recorder: r}
			c.Applier = l
		}).state(feed.StateStreaming)
	}
	r := start()
	id := 0
	write := func(n int) {
		for range n {
			id++
			v := "nothing"
			if id%10 == 0 {
				v = "fires"
			}
			w.exec(`INSERT INTO lead VALUES ($1, 'o', $2)`, id, v)
		}
	}
	write(205)
	w.until("a call wrote nothing", func() bool { // which only is when the last checkpoint is young
		l.mu.Lock()
		skipped := l.skipped
		l.mu.Unlock()
		if skipped == 0 {
			write(25)
		}
		return skipped > 0
	})

	w.until("the checkpoint", func() bool {
		return one[bool](w, `SELECT count(*) > 0 FROM recorded`) && int(r.feed.Status().Commits) == id
	})
	w.until("a checkpoint behind the last commit", func() bool {
		s := r.feed.Status()
		return change.LSN(s.Applied) > 0 && s.Applied == s.Flushed && !s.Busy && one[int](w, `SELECT count(*) FROM recorded WHERE line LIKE '%v=fires%'`) == id/10
	})
	l.mu.Lock()
	if len(l.matched) != id {
		t.Errorf("%d changes came by, of %d", len(l.matched), id)
	}
	l.mu.Unlock()

	write(3) // then the end, before any checkpoint perhaps
	w.until("all", func() bool { return int(r.feed.Status().Commits) == id })
	r.stop()
	if cp, found, err := r.rec.store.Load(t.Context()); err != nil || !found {
		t.Fatalf("%+v, %v, %v", cp, found, err)
	}

	r = start()
	write(12)
	w.until("all", func() bool { return one[int](w, `SELECT count(*) FROM recorded WHERE line LIKE '%v=fires%'`) == id/10 })
	r.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := slices.IndexFunc(l.matched, func(s string) bool { return strings.HasPrefix(s, fmt.Sprintf("lead %d:", id-11)) }); first != 0 {
		t.Errorf("after the restart came %v", l.matched)
	}
}

// A checkpoint that what fires has taken along leaves nothing to do when it comes due.
func TestLazyNothingLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(func(c *feed.Config, r *recorder) { c.Applier = &lazy{recorder: r} }).state(feed.StateStreaming)
	id := 0
	write := func(v string) {
		id++
		w.exec(`INSERT INTO lead VALUES ($1, 'o', $2)`, id, v)
		w.until("it came by", func() bool { return int(r.feed.Status().Commits) >= id })
	}
	for range 5 {
		write("fires") // a young checkpoint
		write("nothing")
		write("fires")
		end := time.Now().Add(150 * time.Millisecond)
		for time.Now().Before(end) {
			if s := r.feed.Status(); s.LastError != nil {
				t.Fatalf("the feed was interrupted: %v", s.LastError)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	w.until("all", func() bool { return one[int](w, `SELECT count(*) FROM recorded WHERE line LIKE '%v=fires%'`) == 10 })
	r.stop()
}
