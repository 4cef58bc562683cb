package line_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgautomate/pgautomate/db/line"
	"github.com/pgautomate/pgautomate/db/line/linetest"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func TestMain(m *testing.M) { dbtest.MainNoLeaks(m) }

const (
	silent = 600 * time.Millisecond
	giveUp = 3 * time.Second
)

// soon is when a test has waited in vain.
const soon = 30 * time.Second

type world struct {
	t     *testing.T
	db    *dbtest.DB
	proxy *linetest.Proxy
	lost  atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	d := dbtest.NewEmpty(t)
	return &world{t: t, db: d, proxy: linetest.New(t, d.URL)}
}

// connect opens a watched connection through the proxy.
func (w *world) connect() *pgconn.PgConn {
	w.t.Helper()
	cfg, err := pgconn.ParseConfig(w.proxy.URL(w.t, w.db.URL))
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.RuntimeParams["application_name"] = "watched"
	line.WatchClosely(cfg, func() { w.lost.Add(1) }, silent, giveUp)
	conn, err := pgconn.ConnectConfig(w.t.Context(), cfg)
	if err == nil {
		err = line.Identify(w.t.Context(), conn)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func query(t *testing.T, conn *pgconn.PgConn, sql string) error {
	t.Helper()
	return conn.ExecParams(t.Context(), sql, nil, nil, nil, nil).Read().Err
}

func (w *world) backends() (n int) {
	w.t.Helper()
	err := w.db.Pool.QueryRow(w.t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'watched'`).Scan(&n)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// dead wants the error of a dead connection, and nothing left of it on the server.
func (w *world) dead(err error) {
	w.t.Helper()
	if !errors.Is(err, line.ErrSilent) {
		w.t.Errorf("error %v, want %v", err, line.ErrSilent)
	}
	for end := time.Now().Add(soon); w.lost.Load() != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("lost was called %d times", w.lost.Load())
		}
	}
	for end := time.Now().Add(soon); w.backends() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%d backends are left", w.backends())
		}
	}
}

func TestCut(t *testing.T) {
	for name, way := range map[string]linetest.Way{"both": linetest.Both, "to the server": linetest.ToServer, "to the client": linetest.ToClient} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			conn := w.connect()
			w.proxy.Cut(way, false)
			err := query(t, conn, "SELECT 1")
			w.dead(err)
		})
	}
}

// What a dead connection held is free once it is given up.
func TestCutInTransaction(t *testing.T) {
	w := newWorld(t)
	conn := w.connect()
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t (); BEGIN; LOCK TABLE t").ReadAll(); err != nil {
		t.Fatal(err)
	}
	w.proxy.Cut(linetest.Both, false)
	err := query(t, conn, "COMMIT")
	w.dead(err)
	if _, err := w.db.Pool.Exec(t.Context(), "DROP TABLE IF EXISTS t"); err != nil {
		t.Fatal(err)
	}
}

// An answer of which a part has come.
func TestCutInAnswer(t *testing.T) {
	w := newWorld(t)
	conn := w.connect()
	rows := conn.ExecParams(t.Context(), "SELECT repeat('x', 10000) FROM generate_series(1, 20000)", nil, nil, nil, nil)
	for n := 0; rows.NextRow(); n++ {
		if n == 10 {
			w.proxy.Cut(linetest.ToClient, false)
		}
	}
	_, err := rows.Close()
	w.dead(err)
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = "x\n"[i%2]
	}
	return len(b) &^ 1, nil
}

func TestCutInCopy(t *testing.T) {
	w := newWorld(t)
	conn := w.connect()
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t (x text)").ReadAll(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(300*time.Millisecond, func() { w.proxy.Cut(linetest.Both, false) })
	defer timer.Stop()
	_, err := conn.CopyFrom(t.Context(), endless{}, "COPY t FROM STDIN")
	w.dead(err)
}

// Nobody can be asked, so it takes longer.
func TestCutOfAll(t *testing.T) {
	w := newWorld(t)
	conn := w.connect()
	w.proxy.Cut(linetest.Both, true)
	began := time.Now()
	if err := query(t, conn, "SELECT 1"); !errors.Is(err, line.ErrSilent) {
		t.Errorf("error %v, want %v", err, line.ErrSilent)
	}
	if took := time.Since(began); took < giveUp {
		t.Errorf("given up after %v", took)
	}
}

func TestHealed(t *testing.T) {
	w := newWorld(t)
	conn := w.connect()
	w.proxy.Cut(linetest.Both, true)
	timer := time.AfterFunc(giveUp/2, func() { w.proxy.Heal(true) })
	defer timer.Stop()
	if err := query(t, conn, "SELECT 1"); err != nil {
		t.Error(err)
	}
}

// What takes long is not dead.
func TestLong(t *testing.T) {
	slow := func(of io.Reader) io.Reader {
		return readerFunc(func(b []byte) (int, error) {
			time.Sleep(silent)
			return of.Read(b)
		})
	}
	for name, do := range map[string]func(w *world, conn *pgconn.PgConn) error{
		"statement": func(w *world, conn *pgconn.PgConn) error {
			return query(w.t, conn, "SELECT pg_sleep(3)")
		},
		"lock": func(w *world, conn *pgconn.PgConn) error {
			tx, err := w.db.Pool.Begin(w.t.Context())
			if err != nil {
				return err
			}
			if _, err := tx.Exec(w.t.Context(), "SELECT pg_advisory_xact_lock(1)"); err != nil {
				return err
			}
			timer := time.AfterFunc(3*time.Second, func() { _ = tx.Rollback(context.Background()) })
			defer timer.Stop()
			return query(w.t, conn, "SELECT pg_advisory_lock(1)")
		},
		"copy": func(w *world, conn *pgconn.PgConn) error {
			if _, err := conn.Exec(w.t.Context(), "CREATE TABLE t (x text)").ReadAll(); err != nil {
				return err
			}
			_, err := conn.CopyFrom(w.t.Context(), slow(strings.NewReader(strings.Repeat("x\n", 150_000))), "COPY t FROM STDIN")
			return err
		},
		"notification": func(w *world, conn *pgconn.PgConn) error {
			if err := query(w.t, conn, "LISTEN it"); err != nil {
				return err
			}
			timer := time.AfterFunc(3*time.Second, func() { _, _ = w.db.Pool.Exec(context.Background(), "NOTIFY it") })
			defer timer.Stop()
			return conn.WaitForNotification(w.t.Context())
		},
		"pause": func(w *world, conn *pgconn.PgConn) error {
			time.Sleep(3 * time.Second)
			return query(w.t, conn, "SELECT 1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			conn := w.connect()
			if err := do(w, conn); err != nil {
				t.Error(err)
			}
			if n := w.lost.Load(); n != 0 {
				t.Errorf("%d connections were given up", n)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestSettings(t *testing.T) {
	w := newWorld(t)
	conn := w.connect()
	results, err := conn.Exec(t.Context(), "SELECT current_setting('tcp_keepalives_idle'), current_setting('client_connection_check_interval')").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if row := results[0].Rows[0]; string(row[0]) != "15" || string(row[1]) != "10s" {
		t.Errorf("settings %s", row)
	}
}
