package feed_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/feed"
)

// openIn counts this process's open files in a folder, with or without a name.
func openIn(t *testing.T, dir string) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	for _, e := range list {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(name, dir+"/") {
			n++
		}
	}
	return n
}

// TestLargeCommit takes a commit through files while everything around it fails.
func TestLargeCommit(t *testing.T) {
	t.Parallel()
	const rows = 6_000
	w := newWorld(t)
	dir := t.TempDir()
	attempt, opened := 0, 0
	var large []*change.Commit
	lost := false
	r := w.start(func(c *feed.Config, r *recorder) {
		c.MaxTransactionBytes, c.SpillDir = 500_000, dir
		r.before = func(commits []*change.Commit) error {
			for _, c := range commits {
				if c.Large == nil {
					continue
				}
				if len(commits) > 1 {
					return fmt.Errorf("%d commits with a large one among them", len(commits))
				}
				large = append(large, c)
				opened = max(opened, openIn(t, dir))
				n := 0
				err := c.Each(func(*change.Change) error {
					if n++; n == rows/2 {
						return &pgconn.PgError{Code: "40001", Message: "in the middle"}
					}
					return nil
				})
				switch attempt++; attempt {
				case 1, 2:
					return err
				case 3:
					return errors.New("no transaction")
				}
			}
			return nil
		}
		r.after = func() error {
			if attempt > 0 && !lost {
				lost = true
				return errors.New("committed, but the answer was lost")
			}
			return nil
		}
	}).state(feed.StateStreaming)

	tx, err := w.db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`INSERT INTO lead SELECT i, 'A', 'v' || i, CASE WHEN i % 1000 = 0 THEN repeat('d', 50000) END FROM generate_series(1, 6000) i`,
		`UPDATE lead SET v = 'w' || id WHERE id % 2 = 0`,
		`SAVEPOINT s`, `DELETE FROM lead`, `ROLLBACK TO s`,
		`DELETE FROM lead WHERE id % 3 = 0`,
		`INSERT INTO lead SELECT i, 'B', 'x' || i FROM generate_series(3, 9) i WHERE i % 3 = 0`,
		`UPDATE lead SET id = id + 100000 WHERE id % 1000 = 0`,
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.exec(`UPDATE lead SET org = 'C' WHERE id = 1`)

	var want []string
	for i := 1; i <= rows; i++ {
		id, org, v, doc := i, "A", fmt.Sprintf("v%d", i), ""
		if i%2 == 0 {
			v = fmt.Sprintf("w%d", i)
		}
		if i%3 == 0 {
			continue
		}
		if i%1000 == 0 {
			id, doc = i+100_000, " doc=50000 bytes"
		}
		want = append(want, fmt.Sprintf("lead %d: - -> id=%d org=%s v=%s%s", id, id, org, v, doc))
	}
	for _, i := range []int{3, 6, 9} { // born again, so born last
		want = append(want, fmt.Sprintf("lead %d: - -> id=%d org=B v=x%d", i, i, i))
	}
	want = append(want, "lead 1: id=1 org=A v=v1 -> id=1 org=C v=v1 moved A>C")
	if diff := cmp.Diff(want, w.lines()); diff != "" {
		t.Errorf("want -, got +:\n%.3000s", diff)
	}
	if attempt != 4 || !lost || opened != 2 {
		t.Errorf("%d attempts, %d files", attempt, opened)
	}
	if !slices.Equal([]bool{large[0] == large[1], large[1] == large[2], large[2] == large[3]}, []bool{true, true, false}) {
		t.Error("the same commit is tried again in a session, another one in the next")
	}
	if n := openIn(t, dir); n != 0 {
		t.Errorf("%d files are still open", n)
	}

	// A session that ends in the middle of everything leaves nothing either.
	w.exec(`UPDATE lead SET v = 'again'`)
	w.until("files", func() bool {
		return openIn(t, dir) > 0 || r.feed.Status().Received >= change.LSN(r.feed.Status().Applied)
	})
	r.stop()
	if n := openIn(t, dir); n != 0 {
		t.Errorf("%d files are still open after the end", n)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
		t.Errorf("%d files have a name: %v", len(list), err)
	}
}

// TestNoRoomForLargeCommit: without a place for its files a large commit waits,
// and says why.
func TestNoRoomForLargeCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "later")
	r := w.start(func(c *feed.Config, _ *recorder) { c.MaxTransactionBytes, c.SpillDir = 1000, dir }).state(feed.StateStreaming)
	w.exec(`INSERT INTO other SELECT i, 'x' FROM generate_series(1, 100) i`)
	w.until("the error", func() bool {
		err := r.feed.Status().LastError
		return err != nil && strings.Contains(err.Error(), dir) && errors.Is(err, os.ErrNotExist)
	})
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if n := len(w.lines()); n != 100 {
		t.Errorf("%d changes, want 100", n)
	}
	if s := r.feed.Status(); s.Changes != 101 {
		t.Errorf("%d changes in the status, want 101", s.Changes)
	}
}

// TestLargeCommitKeepsTheConnection: the server ends a connection that is silent
// for 600 ms; neither netting in files nor a slow applier is.
func TestLargeCommitKeepsTheConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(func(c *feed.Config, r *recorder) {
		c.MaxTransactionBytes = 500_000
		c.StatusInterval = 20 * time.Millisecond
		separator := "?"
		if strings.Contains(w.db.URL, "?") {
			separator = "&"
		}
		c.Conn = w.db.URL + separator + "options=-c%20wal_sender_timeout%3D600"
		r.before = func(commits []*change.Commit) error {
			for _, c := range commits {
				if c.Large == nil {
					continue
				}
				n := 0
				if err := c.Each(func(*change.Change) error {
					if n++; n%1_500 == 0 {
						time.Sleep(400 * time.Millisecond)
					}
					return nil
				}); err != nil {
					return err
				}
			}
			return nil
		}
	}).state(feed.StateStreaming)
	pid := one[int](w, `SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1`, w.slot)
	defer func() {
		if t.Failed() {
			t.Logf("%+v", r.feed.Status())
		}
	}()
	err := pgx.BeginFunc(t.Context(), w.db.Pool, func(tx pgx.Tx) error {
		for _, sql := range []string{
			`INSERT INTO other SELECT i, 'x' FROM generate_series(1, 6000) i`,
			`UPDATE other SET id = -id`,
		} {
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(w.lines()); n != 6_000 {
		t.Errorf("%d changes", n)
	}
	if now := one[int](w, `SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1`, w.slot); now != pid {
		t.Errorf("the connection was lost: walsender %d, then %d; %v", pid, now, r.feed.Status().LastError)
	}
}
