// These tests run real servers. What they guard is what a first-time user meets: a start that works whatever the run before
// left behind, as root and as anybody.

package private

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// childEnv makes this test binary a process that holds a private server of that data folder until it is killed.
const childEnv = "PGAUTOMATE_TEST_PRIVATE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		s, err := Start(context.Background(), Options{DataDir: dir, Volatile: true, NoFetch: true})
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(s.process.pid, s.URL("postgres"))
		time.Sleep(time.Hour)
	}
	goleak.VerifyTestMain(m)
}

func start(t *testing.T, opts Options) *Server {
	t.Helper()
	opts.Volatile, opts.NoFetch = true, true
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return s
}

// startChild starts another process that holds a server; it returns the process and the postmaster's pid.
func startChild(t *testing.T, dir string) (child *exec.Cmd, postmaster int, url string) {
	t.Helper()
	child = exec.Command(os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), childEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, url, _ := strings.Cut(strings.TrimSpace(line), " ")
	if postmaster, err = strconv.Atoi(pid); err != nil {
		t.Fatalf("child said %q", line)
	}
	t.Cleanup(func() { // before the folder is removed
		_ = child.Process.Kill()
		_ = child.Wait()
		if runtime.GOOS == "linux" {
			waitGone(t, postmaster)
		}
	})
	return child, postmaster, url
}

func query[T any](t *testing.T, url, sql string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var value T
	if err := conn.QueryRow(ctx, sql).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); alive(pid); time.Sleep(pollEvery) {
		if time.Now().After(until) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

func TestKeepsDataAndURL(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "a", "b")
	s := start(t, Options{DataDir: dir})
	url := s.URL("postgres")
	query[int](t, url, "WITH made AS (SELECT 1) SELECT 1 FROM made")
	if got := query[string](t, url, "SHOW wal_level"); got != "logical" {
		t.Errorf("wal_level is %s", got)
	}
	if got := query[string](t, url, "SELECT lower('ÄÉ')"); got != "äé" {
		t.Errorf("lower() folds only ASCII: %s", got)
	}
	if got := query[string](t, url, "SHOW server_version"); !strings.HasPrefix(got, s.Version()) {
		t.Errorf("server says version %s, Version() %s", got, s.Version())
	}
	query[string](t, url, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')::text")
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Errorf("second stop: %v", err)
	}
	again := start(t, Options{DataDir: dir})
	if again.URL("postgres") != url {
		t.Errorf("URL changed from %s to %s", url, again.URL("postgres"))
	}
	if got := query[int](t, url, "SELECT count(*)::int FROM pg_replication_slots"); got != 1 {
		t.Errorf("%d slots", got)
	}
	secret, err := os.Stat(filepath.Join(dir, "cluster", "password"))
	if err != nil || secret.Mode().Perm() != 0o600 {
		t.Errorf("password file: %v %v", secret, err)
	}
}

func TestSocketAsksForPassword(t *testing.T) {
	t.Parallel()
	s := start(t, Options{DataDir: openDir(t)})
	if filepath.Dir(filepath.Dir(s.SocketDir())) != s.DataDir() {
		t.Errorf("socket in %s", s.SocketDir())
	}
	dsn := fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", s.SocketDir(), s.Port())
	if conn, err := pgx.Connect(t.Context(), dsn+" password=wrong"); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password is taken")
	}
	conn, err := pgx.Connect(t.Context(), dsn+" password="+s.password)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context())
}

func TestLongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	s := start(t, Options{DataDir: dir})
	socket := s.SocketDir()
	if socket == "" || strings.HasPrefix(socket, dir) {
		t.Errorf("socket in %q", socket)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Errorf("%s is left behind", socket)
	}
}

// mktemp -d gives folders that only their owner may enter; as root the server runs as somebody else.
func TestFolderOnlyForOwner(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	if err := os.Chmod(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "x")
	s := start(t, Options{DataDir: dir})
	query[int](t, s.URL("postgres"), "SELECT 1")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	query[int](t, s.URL("postgres"), "SELECT 1")
	if info, err := os.Stat(parent); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("a parent that was not ours has been changed: %v", info.Mode())
	}
	// A leftover server is known here too.
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	child, postmaster, url := startChild(t, dir)
	_ = child.Process.Signal(syscall.SIGSTOP)
	if !isPostmasterOf(postmaster, filepath.Join(dir, "cluster", "data"), filepath.Join(dir, "cluster", "data")) {
		t.Error("does not know its own postmaster")
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	start(t, Options{DataDir: dir})
	query[int](t, url, "SELECT 1")
}

// openDir is a temporary folder that all users may enter; Go's own is closed to them.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestNotRunAsRoot(t *testing.T) {
	t.Parallel()
	s := start(t, Options{DataDir: t.TempDir()})
	info, err := os.Stat(filepath.Join(s.DataDir(), "cluster", "data"))
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid == 0 || uid != s.account.uid {
		t.Errorf("cluster belongs to %d", uid)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	s := start(t, Options{DataDir: t.TempDir()})
	url := s.URL("postgres")
	query[int](t, url, "WITH x AS (SELECT pg_logical_emit_message(false, 'a', 'b')) SELECT count(*)::int FROM x")
	done := s.Done()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	<-done
	if err := s.Kill(); err == nil {
		t.Error("killed twice")
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(t.Context()); err != nil { // from running
		t.Fatal(err)
	}
	if s.URL("postgres") != url {
		t.Errorf("URL changed from %s to %s", url, s.URL("postgres"))
	}
	query[int](t, url, "SELECT 1")
}

// After kill -9 of its parent the server must not stay, and the next start must work at once.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	child, postmaster, url := startChild(t, dir)
	query[int](t, url, "SELECT 1")
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	if runtime.GOOS == "linux" {
		waitGone(t, postmaster)
	}
	s := start(t, Options{DataDir: dir})
	if s.URL("postgres") != url {
		t.Errorf("URL changed from %s to %s", url, s.URL("postgres"))
	}
	query[int](t, url, "SELECT 1")
}

// Where no signal comes at the parent's death, or it gets lost, the next start shuts the leftover down.
func TestLeftoverServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{DataDir: dir})
	leftover := s.process
	s.mu.Lock()
	s.expectEnd()
	s.process = nil
	s.release() // as if this process had died without a signal to its child
	s.mu.Unlock()

	again := start(t, Options{DataDir: dir})
	<-leftover.done
	query[int](t, again.URL("postgres"), "SELECT 1")
}

func TestStalePidFile(t *testing.T) {
	t.Parallel()
	bystander := exec.Command("sleep", "100")
	if os.Geteuid() == 0 { // as the server's user: those are the pids that Postgres is afraid of
		a, err := chooseAccount("/")
		if err != nil {
			t.Fatal(err)
		}
		bystander.SysProcAttr = &syscall.SysProcAttr{Credential: a.credential()}
	}
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = bystander.Process.Kill()
		_ = bystander.Wait()
	}()
	dir := t.TempDir()
	s := start(t, Options{DataDir: dir})
	port := s.Port()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "cluster", "data")
	for name, content := range map[string]string{
		"another process": fmt.Sprintf("%d\n%s\n1700000000\n%d\n", bystander.Process.Pid, data, port),
		"dead":            fmt.Sprintf("%d\n%s\n1700000000\n%d\n", 4194303, data, port),
		"empty":           "",
		"rubbish":         "rubbish",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(data, "postmaster.pid")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.account.give(path); err != nil {
				t.Fatal(err)
			}
			again := start(t, Options{DataDir: dir})
			query[int](t, again.URL("postgres"), "SELECT 1")
			if err := again.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process that is none of ours was stopped: %v", err)
	}
}

func TestSecondHolderIsRefused(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	child, _, url := startChild(t, dir)
	_, err := Start(t.Context(), Options{DataDir: dir, NoFetch: true})
	if err == nil {
		t.Fatal("two processes share a data folder")
	}
	for _, want := range []string{strconv.Itoa(child.Process.Pid), "--data-dir", "DATABASE_URL"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
	query[int](t, url, "SELECT 1") // the holder is not disturbed
}

func TestKilledInitdb(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rubbish := filepath.Join(dir, "init-123", "data")
	if err := os.MkdirAll(rubbish, 0o700); err != nil {
		t.Fatal(err)
	}
	start(t, Options{DataDir: dir})
	if _, err := os.Stat(rubbish); err == nil {
		t.Errorf("%s is still there", rubbish)
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{DataDir: dir})
	port := s.Port()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	squatter, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()

	if _, err := Start(t.Context(), Options{DataDir: dir, Port: port, NoFetch: true}); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("a port that was asked for and is taken: %v", err)
	}
	again := start(t, Options{DataDir: dir})
	if again.Port() == port {
		t.Error("took a taken port")
	}
	query[int](t, again.URL("postgres"), "SELECT 1")
}

func TestSettingsWinAndErrorsAreOneLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{DataDir: dir, Settings: map[string]string{"wal_level": "replica", "max_wal_senders": "3"}})
	if got := query[string](t, s.URL("postgres"), "SHOW wal_level"); got != "replica" {
		t.Errorf("wal_level is %s", got)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{DataDir: dir, NoFetch: true, Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error is %v", err)
	}
}

func TestOtherMajorVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{DataDir: dir})
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster", "data", "PG_VERSION"), []byte("13\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{DataDir: dir, NoFetch: true})
	if err == nil || !strings.Contains(err.Error(), "Postgres 13") || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("error is %v", err)
	}
}

func TestCancelledStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	dir := t.TempDir()
	if _, err := Start(ctx, Options{DataDir: dir, NoFetch: true}); err == nil {
		t.Fatal("started in no time")
	}
	start(t, Options{DataDir: dir}) // and nothing is left of it
}

func TestStopWithCancelledContext(t *testing.T) {
	t.Parallel()
	s := start(t, Options{DataDir: t.TempDir()})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := s.Done()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	<-done
}
