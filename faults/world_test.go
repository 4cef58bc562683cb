package faults

// The engine as processes of its own, on a server of its own.

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgautomate/pgautomate/catalog"
	"github.com/pgautomate/pgautomate/db/private"
	"github.com/pgautomate/pgautomate/internal/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m) }

// caughtUpWithin bounds each wait for the engine. It is longer than any bound that
// the engine promises (60 s), so that a slow machine isn't taken for a fault.
const caughtUpWithin = 150 * time.Second

// builds makes each kind of binary once.
var builds struct {
	sync.Mutex

	dir  string
	made map[string]string
}

// build gives the path of the binary, built with these tags.
func build(t *testing.T, tags string) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if path, ok := builds.made[tags]; ok {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	// The folder of the outermost test, for it outlives those that use the binary.
	if builds.dir == "" {
		t.Fatal("use needsBinaries first")
	}
	path := filepath.Join(builds.dir, "pgautomate-"+tags)
	if out, err := exec.Command("go", "build", "-tags", tags, "-o", path, "../cmd/pgautomate").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	builds.made[tags] = path
	return path
}

// needsBinaries makes a place for them that lasts as long as t.
func needsBinaries(t *testing.T) {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	builds.dir, builds.made = t.TempDir(), map[string]string{}
}

// world is a database under load with the processes that serve it.
type world struct {
	oracle

	t      *testing.T
	fault  string
	server *private.Server
	db     *dbtest.DB
	binary string
	times  int // how often the fault was inflicted
}

// newWorld makes a database on a server of its own: tables, audit, triggers.
func newWorld(t *testing.T, fault string, settings ...string) *world {
	t.Helper()
	return newWorldOn(t, fault, dbtest.OwnServer(t, settings...))
}

func newWorldOn(t *testing.T, fault string, server *private.Server) *world {
	t.Helper()
	w := &world{t: t, fault: fault, server: server, db: dbtest.NewOn(t, server), binary: build(t, "")}
	w.prepare()
	return w
}

func (w *world) watch(table string) {
	w.t.Helper()
	o := catalog.WatchOptions{Table: "public." + table, As: table, Organization: "organization_id"}
	if _, _, err := catalog.Watch(w.t.Context(), w.db.Pool, o, false); err != nil {
		w.t.Fatal(err)
	}
}

// cut says that an error is the connection's, not the statement's.
func cut(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(pg.Code, "57P") || strings.HasPrefix(pg.Code, "53") || strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "58")
	}
	return !errors.Is(err, pgx.ErrNoRows)
}

// again repeats what a fault of the server may cut short.
func (w *world) again(what string, do func(ctx context.Context) error) {
	w.t.Helper()
	deadline := time.Now().Add(caughtUpWithin)
	for {
		err := do(w.t.Context())
		if err == nil {
			return
		}
		if !cut(err) || time.Now().After(deadline) {
			w.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	w.again(sql, func(ctx context.Context) error { _, err := w.db.Pool.Exec(ctx, sql, args...); return err })
}

// one reads one value.
func one[T any](w *world, sql string, args ...any) (v T) {
	w.t.Helper()
	w.again(sql, func(ctx context.Context) error { return w.db.Pool.QueryRow(ctx, sql, args...).Scan(&v) })
	return v
}

// list reads rows.
func list[T any](w *world, sql string, args ...any) (v []T) {
	w.t.Helper()
	w.again(sql, func(ctx context.Context) error {
		rows, err := w.db.Pool.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		v, err = pgx.CollectRows(rows, pgx.RowToStructByPos[T])
		return err
	})
	return v
}

// until waits for a condition and says how long it took.
func (w *world) until(what string, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > caughtUpWithin {
			w.t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is the binary running.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr output
	done           chan struct{}
}

// command starts the binary; env are settings beside the database's URL.
func (w *world) command(env []string, args ...string) *process {
	w.t.Helper()
	p := &process{t: w.t, cmd: exec.Command(w.binary, args...), done: make(chan struct{})}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PG") && !strings.HasPrefix(e, "DATABASE_URL=") && !strings.HasPrefix(e, "SMTP_URL=") {
			p.cmd.Env = append(p.cmd.Env, e)
		}
	}
	p.cmd.Env = append(append(p.cmd.Env, "DATABASE_URL="+w.db.URL), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.SysProcAttr = child()
	started := make(chan error)
	go func() {
		// Never unlocked: to its child, the end of the thread is the parent's death. Without a thread of its own the
		// child would die with whatever else ends that one, such as a server's keeper.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if w.t.Failed() && p.ended() {
			w.t.Logf("pgautomate %s (%d): %v", strings.Join(args, " "), p.cmd.Process.Pid, p.cmd.ProcessState)
		}
		p.kill()
		if w.t.Failed() {
			w.t.Logf("pgautomate %s (%d) printed\n%s%s", strings.Join(args, " "), p.cmd.Process.Pid, &p.stdout, tail(p.stderr.String(), 4000))
		}
	})
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// run starts some parts of the engine and waits until they are ready.
func (w *world) run(args ...string) *process {
	w.t.Helper()
	p := w.command(nil, append([]string{"run", "--listen", freeAddress(w.t)}, args...)...)
	p.awaitReady()
	return p
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// code waits for the end and gives the exit code.
func (p *process) code() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(60 * time.Second):
		p.kill()
		p.t.Errorf("%v did not end", p.cmd.Args[1:])
	}
	return p.cmd.ProcessState.ExitCode()
}

// terminate drains it.
func (p *process) terminate() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		p.t.Errorf("%v ended with %d after SIGTERM", p.cmd.Args[1:], code)
	}
}

func (p *process) awaitReady() {
	p.t.Helper()
	if !p.readyOrDead() {
		p.t.Fatalf("%v ended instead of being ready", p.cmd.Args[1:])
	}
}

// readyOrDead waits until it is ready, or has ended.
func (p *process) readyOrDead() bool {
	p.t.Helper()
	deadline := time.Now().Add(caughtUpWithin)
	for !strings.Contains(p.stdout.String(), "pgautomate ready\n") {
		select {
		case <-p.done:
			return false
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%v is not ready", p.cmd.Args[1:])
		}
	}
	return true
}

// freeAddress is an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
