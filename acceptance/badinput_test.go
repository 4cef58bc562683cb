package acceptance

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pgautomate/pgautomate/internal/dbtest"
)

// TestCommand builds the binary once, for the tests that need it as a process of
// its own: because they kill it, or because they look at what it prints.
func TestCommand(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "pgautomate")
	if out, err := exec.Command("go", "build", "-o", binary, "../cmd/pgautomate").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for name, test := range map[string]func(t *testing.T, binary string){
		"bad input":                 testBadInput,
		"wal_level":                 testWALLevel,
		"ready and drained":         testReadyAndDrained,
		"killed feeds":              testKilledFeeds,
		"a standby takes over":      testStandbyTakesOver,
		"memory of a large update":  testMemoryOfLargeUpdate,
		"two processes at one time": testTwoProcesses,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, binary)
		})
	}
}

// process is the binary running.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	stdout, stderr logBuffer
	done           chan struct{}
	once           sync.Once
}

// start starts the binary on a database ("" for none), without the settings of
// whoever runs the tests.
func start(t *testing.T, binary, databaseURL string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, args...), done: make(chan struct{})}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PG") && !strings.HasPrefix(e, "DATABASE_URL=") && !strings.HasPrefix(e, "SMTP_URL=") {
			p.cmd.Env = append(p.cmd.Env, e)
		}
	}
	if databaseURL != "" {
		p.cmd.Env = append(p.cmd.Env, "DATABASE_URL="+databaseURL)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("pgautomate %s printed\n%s%s", strings.Join(args, " "), &p.stdout, &p.stderr)
		}
	})
	return p
}

// kill is kill -9.
func (p *process) kill() {
	p.once.Do(func() { _ = p.cmd.Process.Kill() })
	<-p.done
}

// code waits for the end and gives the exit code.
func (p *process) code() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		p.kill()
		p.t.Errorf("%v did not end", p.cmd.Args[1:])
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) ready() bool { return strings.Contains(p.stdout.String(), "pgautomate ready\n") }

func (p *process) awaitReady() {
	p.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !p.ready() {
		select {
		case <-p.done:
			p.t.Fatalf("%v ended instead of being ready", p.cmd.Args[1:])
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%v is not ready", p.cmd.Args[1:])
		}
	}
}

// terminate sends SIGTERM and wants a clean end.
func (p *process) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if code := p.code(); code != 0 {
		p.t.Errorf("%v ended with %d after SIGTERM", p.cmd.Args[1:], code)
	}
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

// refused wants an exit code and one line on stderr that starts with
// "pgautomate: " and holds all the parts. The log may come before it when the
// command is one that logs.
func (p *process) refused(code int, logs bool, parts ...string) {
	p.t.Helper()
	if got := p.code(); got != code {
		p.t.Errorf("exit code %d, want %d", got, code)
	}
	all := p.stderr.String()
	var lines []string
	for line := range strings.Lines(all) {
		if !logs || !strings.HasPrefix(line, "time=") {
			lines = append(lines, line)
		}
	}
	if len(lines) != 1 || !strings.HasSuffix(all, lines[0]) {
		p.t.Errorf("%d lines on stderr, want one", len(lines))
		return
	}
	if !strings.HasPrefix(lines[0], "pgautomate: ") {
		p.t.Errorf("the line doesn't start with the program's name")
	}
	for _, part := range parts {
		if !strings.Contains(lines[0], part) {
			p.t.Errorf("%q doesn't say %q", lines[0], part)
		}
	}
}

func testBadInput(t *testing.T, binary string) { //nolint:thelper // a test
	db := dbtest.New(t)
	for _, sql := range []string{
		`CREATE TABLE keyless (a int)`, `CREATE TABLE two_keys (a int, b int, PRIMARY KEY (a, b))`, `CREATE TABLE lead (id int PRIMARY KEY, status_id text)`,
		`CREATE VIEW a_view AS SELECT * FROM lead`, `CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY)`,
	} {
		if _, err := db.Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if p := start(t, binary, db.URL, "watch", "lead"); p.code() != 0 {
		t.Fatal("the table can't be watched")
	}
	newer := dbtest.New(t)
	if _, err := newer.Pool.Exec(t.Context(), `INSERT INTO pgautomate.goose_db_version (version_id, is_applied) VALUES (99999, true)`); err != nil {
		t.Fatal(err)
	}
	older := dbtest.New(t)
	if _, err := older.Pool.Exec(t.Context(), `DELETE FROM pgautomate.goose_db_version WHERE version_id = (SELECT max(version_id) FROM pgautomate.goose_db_version)`); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	unreachable := "postgres://u:secret@" + freeAddress(t) + "/d"
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	run := func(more ...string) []string { return append([]string{"run", "--listen", "127.0.0.1:0"}, more...) }
	tests := []struct {
		name, url string
		args      []string
		code      int
		says      []string
	}{
		{"unknown table", db.URL, []string{"watch", "nowhere"}, 1, []string{"there is no table nowhere"}},
		{"nonsense for a table", db.URL, []string{"watch", "a.b.c.d; DROP TABLE lead"}, 1, []string{"name it as schema.table"}},
		{"table without a key", db.URL, []string{"watch", "keyless"}, 1, []string{"no primary key", "--id"}},
		{"key of two columns", db.URL, []string{"watch", "two_keys"}, 1, []string{"2 columns", "--id"}},
		{"no such organization column", db.URL, []string{"watch", "lead", "--organization", "org"}, 1, []string{"no column org", "status_id"}},
		{"a view", db.URL, []string{"watch", "a_view"}, 1, []string{"is not a table"}},
		{"an unlogged table", db.URL, []string{"watch", "unlogged"}, 1, []string{"SET LOGGED"}},
		{"the engine's own table", db.URL, []string{"watch", "pgautomate.triggers"}, 1, []string{"own table"}},
		{"unwatch what isn't watched", db.URL, []string{"unwatch", "keyless"}, 1, []string{"not watched"}},

		{"query with problems", db.URL, []string{"trigger", "check", write("query.json", and("lead", field("lead", "statusid", exists)))}, 1, []string{"problems: 1", "see above"}},
		{"query of a type that isn't watched", db.URL, []string{"trigger", "check", write("deal.json", and("deal"))}, 1, []string{"pgautomate watch"}},
		{"query that isn't JSON", db.URL, []string{"trigger", "check", write("broken.json", "{nonsense")}, 1, []string{"see above"}},
		{"query file that isn't there", db.URL, []string{"trigger", "check", filepath.Join(dir, "none.json")}, 1, []string{"none.json"}},

		{"unknown flag", db.URL, []string{"watch", "--tables", "lead"}, 2, []string{"--tables", "--help"}},
		{"unknown command", db.URL, []string{"wacth", "lead"}, 2, []string{"wacth"}},
		{"unknown subcommand", db.URL, []string{"trigger", "chek"}, 2, []string{"check"}},
		{"argument missing", db.URL, []string{"watch"}, 2, []string{"--help"}},
		{"argument too much", db.URL, []string{"doctor", "lead"}, 2, []string{"--help"}},
		{"unknown part", db.URL, run("--only", "everything"), 2, []string{"feed", "scheduler"}},
		{"unknown queue", db.URL, run("--queues", "pigeon"), 1, []string{"pigeon", "email"}},
		{"log level", db.URL, []string{"--log-level", "loud", "doctor"}, 2, []string{"debug"}},
		{"keys of nobody", db.URL, []string{"keys", "create"}, 2, []string{"--organization"}},
		{"key that isn't there", db.URL, []string{"keys", "revoke", "12345"}, 1, []string{"12345"}},
		{"migrate down without --yes", db.URL, []string{"migrate", "down"}, 2, []string{"--yes"}},
		{"address taken", db.URL, []string{"run", "--listen", taken.Addr().String()}, 1, []string{"--listen"}},
		{"address that is none", db.URL, []string{"run", "--listen", "nowhere"}, 1, []string{"--listen"}},
		{"name of a slot", db.URL, run("--slot", "Not A Slot"), 1, []string{"slot name"}},

		{"garbage for a URL", "not a url", run(), 1, []string{"DATABASE_URL", "postgres://"}},
		{"broken URL", "postgres://u:secret@host:port/%zz", run(), 1, []string{"DATABASE_URL", "postgres://"}},
		{"another URL", "https://example.com/", run(), 1, []string{"DATABASE_URL"}},
		{"unreachable", unreachable, run(), 1, []string{"DATABASE_URL", "server runs"}},
		{"unreachable, watch", unreachable, []string{"watch", "lead"}, 1, []string{"DATABASE_URL", "server runs"}},
		{"unreachable, doctor", unreachable, []string{"doctor"}, 1, []string{"DATABASE_URL", "server runs"}},
		{"no such database", strings.Replace(db.URL, db.Name, "nowhere", 1), run(), 1, []string{"nowhere"}},

		{"newer schema, run", newer.URL, run(), 1, []string{"99999", "newer pgautomate"}},
		{"newer schema, watch", newer.URL, []string{"watch", "lead"}, 1, []string{"99999", "newer pgautomate"}},
		{"newer schema, doctor", newer.URL, []string{"doctor"}, 1, []string{"99999", "newer pgautomate"}},
		{"older schema, run", older.URL, run(), 1, []string{"pgautomate migrate up"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, binary, tt.url, tt.args...)
			p.refused(tt.code, false, tt.says...)
			if strings.Contains(p.stderr.String()+p.stdout.String(), "secret") {
				t.Error("the password is printed")
			}
		})
	}
}

func testWALLevel(t *testing.T, binary string) { //nolint:thelper // a test
	db := dbtest.NewOn(t, dbtest.OwnServer(t, "wal_level=replica"))
	p := start(t, binary, db.URL, "run", "--listen", "127.0.0.1:0")
	p.refused(1, true, "wal_level is replica", "ALTER SYSTEM SET wal_level = 'logical'", "restart")
	if p.ready() {
		t.Error("it said that it is ready")
	}
	p = start(t, binary, db.URL, "doctor")
	p.refused(1, false, "problem")
	if !strings.Contains(p.stdout.String(), "ALTER SYSTEM SET wal_level = 'logical'") {
		t.Errorf("doctor prints %q", &p.stdout)
	}
}

func testReadyAndDrained(t *testing.T, binary string) { //nolint:thelper // a test
	db := dbtest.NewEmpty(t)
	p := start(t, binary, db.URL, "run", "--listen", freeAddress(t))
	p.awaitReady()
	p.terminate()
	if out := p.stdout.String(); out != "pgautomate ready\n" {
		t.Errorf("it printed %q", out)
	}
	for line := range strings.Lines(p.stderr.String()) {
		if !strings.Contains(line, "level=INFO") {
			t.Errorf("its log has %q", line)
		}
	}
	// Stopped, it has let go of all that it held.
	var n int
	err := db.Pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM pgautomate.workers)
		+ (SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database())`).Scan(&n)
	if err != nil || n != 0 {
		t.Errorf("%d workers and slots are still in use (%v)", n, err)
	}
}
