package dbtest

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestMain(m *testing.M) { MainNoLeaks(m) }

func has(t *testing.T, d *DB, relation string) bool {
	t.Helper()
	var there bool
	if err := d.Pool.QueryRow(t.Context(), "SELECT to_regclass($1) IS NOT NULL", relation).Scan(&there); err != nil {
		t.Fatal(err)
	}
	return there
}

func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	one, two, empty := New(t), New(t), NewEmpty(t)
	for _, d := range []*DB{one, two} {
		if !has(t, d, "pgautomate.triggers") {
			t.Errorf("%s is not migrated", d.Name)
		}
	}
	if _, err := one.Pool.Exec(t.Context(), "CREATE TABLE only_here (id int)"); err != nil {
		t.Fatal(err)
	}
	if has(t, two, "only_here") || has(t, empty, "only_here") || has(t, empty, "pgautomate.triggers") {
		t.Error("databases share tables")
	}
}

// A database goes away also while a walsender streams from it and another session is open.
func TestDropsWhatIsInUse(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	var stream *pgconn.PgConn
	var session *pgx.Conn
	var name, slot string
	t.Run("use", func(t *testing.T) {
		d := New(t)
		name, slot = d.Name, d.Name+"_slot"
		for _, sql := range []string{
			"CREATE PUBLICATION p",
			"SELECT pg_create_logical_replication_slot('" + slot + "', 'pgoutput')",
		} {
			if _, err := d.Pool.Exec(ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if stream, err = pgconn.Connect(ctx, d.URL+"&replication=database"); err != nil {
			t.Fatal(err)
		}
		err = pglogrepl.StartReplication(ctx, stream, slot, 0, pglogrepl.StartReplicationOptions{
			PluginArgs: []string{"proto_version '1'", "publication_names 'p'"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if session, err = pgx.Connect(ctx, d.URL); err != nil {
			t.Fatal(err)
		}
	})
	_ = stream.Close(ctx)
	_ = session.Close(ctx)
	var left int
	err := admin(ctx, serverURL(t), func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_database WHERE datname = $1)
			+ (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $2)`, name, slot).Scan(&left)
	})
	if err != nil || left != 0 {
		t.Errorf("%d are left of database and slot, %v", left, err)
	}
}

func TestOwnServer(t *testing.T) {
	t.Parallel()
	server := OwnServer(t, "max_wal_senders=7")
	d := NewOn(t, server)
	if !has(t, d, "pgautomate.triggers") {
		t.Error("not migrated")
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Pool.Ping(t.Context()); err == nil {
		t.Fatal("a killed server answers")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	var senders string
	if err := d.Pool.QueryRow(t.Context(), "SHOW max_wal_senders").Scan(&senders); err != nil || senders != "7" {
		t.Errorf("max_wal_senders %s, %v", senders, err)
	}
}

// A killed test process leaves a template that is not marked ready; the next one makes it anew.
func TestHalfMadeTemplate(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := OwnServer(t)
	hash, err := schemaHash()
	if err != nil {
		t.Fatal(err)
	}
	err = admin(ctx, server.URL("postgres"), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE DATABASE "+quote("pgautomate_template_"+hash))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !has(t, NewOn(t, server), "pgautomate.triggers") {
		t.Error("cloned from a half-made template")
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		url := serverURL(b)
		if _, err := template(context.Background(), url); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		name := newName()
		err := admin(context.Background(), url, func(conn *pgx.Conn) error {
			_, err := conn.Exec(context.Background(), "CREATE DATABASE "+quote(name)+" TEMPLATE "+quote(templates.made[url]))
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := dropDatabase(url, name); err != nil {
			b.Fatal(err)
		}
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	for _, name := range []string{"killed", "held", "young"} {
		dir := filepath.Join(parent, folderPrefix+name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		lock, err := os.Create(filepath.Join(dir, "lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Close()
		if name == "held" {
			if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
				t.Fatal(err)
			}
		}
		if name != "young" {
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(lock.Name(), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweep(parent)
	for name, want := range map[string]bool{"killed": false, "held": true, "young": true} {
		if _, err := os.Stat(filepath.Join(parent, folderPrefix+name)); (err == nil) != want {
			t.Errorf("%s: there is %v", name, err == nil)
		}
	}
}
