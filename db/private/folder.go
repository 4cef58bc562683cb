// The data folder: who holds it, what an earlier run left in it, and how a cluster comes into it.
//
// The flock on the file `lock` is the one truth about who uses the folder: the kernel drops it when its holder dies, so a
// stale one cannot exist. Whoever holds it may clean up everything that it finds.

package private

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// makeFolder makes the data folder and its missing parents. What root makes can be entered by all, because the server
// runs as another user; what is secret lies in `cluster`, which only the server's user may enter.
func makeFolder(dir string) error {
	var missing []string
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err == nil {
			if !info.IsDir() {
				return fmt.Errorf("%s is not a folder: use another --data-dir, or set DATABASE_URL", at)
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("can't use data folder %s: use another --data-dir, or set DATABASE_URL (%w)", dir, err)
		}
		missing = append(missing, at)
	}
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o755
	}
	for _, path := range slices.Backward(missing) {
		err := os.Mkdir(path, mode)
		if errors.Is(err, fs.ErrExist) {
			continue // another process was faster
		}
		if err == nil {
			err = os.Chmod(path, mode) // whatever the umask
		}
		if err != nil {
			return fmt.Errorf("can't make data folder %s: use another --data-dir, or set DATABASE_URL (%w)", dir, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err == nil {
		return fmt.Errorf("%s is the data folder of another Postgres: use another --data-dir, or start that server and set DATABASE_URL", dir)
	}
	return nil
}

// lockFolder takes the folder for this process until the file is closed, by us or by the kernel at our death.
func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("can't write into data folder %s: start as its owner, use another --data-dir, or set DATABASE_URL (%w)", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(f, 32))
		_ = f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("can't lock %s: use a --data-dir on a local disk, or set DATABASE_URL (%w)", path, err)
		}
		return nil, fmt.Errorf("data folder %s is in use by process %s: stop that one, use another --data-dir, or set DATABASE_URL",
			dir, strings.TrimSpace(string(holder)))
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err == nil {
			return f, nil
		}
	}
	_ = f.Close()
	return nil, fmt.Errorf("can't write %s: free some disk space or use another --data-dir", path)
}

// clusterMajor is the major version of the cluster in the folder, 0 when there is none yet.
func clusterMajor(dir string) (int, error) {
	path := filepath.Join(dir, "cluster", "data", "PG_VERSION")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(filepath.Join(dir, "cluster")); err == nil {
			return 0, fmt.Errorf("%s has lost its PG_VERSION: restore it, or remove %s and all its data", filepath.Join(dir, "cluster", "data"), filepath.Join(dir, "cluster"))
		}
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("can't read %s: start as its owner, use another --data-dir, or set DATABASE_URL (%w)", path, err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s is damaged: restore it, or use another --data-dir", path)
	}
	return major, nil
}

// initialize makes the cluster: initdb in a sibling folder, then one rename. A killed initdb thus leaves only rubbish that
// the next run removes.
func (s *Server) initialize(ctx context.Context) error {
	old, err := filepath.Glob(filepath.Join(s.dir, "init-*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		s.log.Info("removing what a killed initdb left", "path", path)
		if err := os.RemoveAll(path); err != nil {
			s.log.Warn("could not remove it all; remove it by hand", "path", path, "error", err)
		}
	}
	base, err := os.MkdirTemp(s.dir, "init-")
	if err != nil {
		return fmt.Errorf("can't write into data folder %s: use another --data-dir, or set DATABASE_URL (%w)", s.dir, err)
	}
	defer os.RemoveAll(base) // after the rename it is gone

	secret := make([]byte, 18)
	_, _ = rand.Read(secret) // never fails, says crypto/rand
	passwordFile := filepath.Join(base, "password")
	if err := os.WriteFile(passwordFile, []byte(hex.EncodeToString(secret)+"\n"), 0o600); err != nil {
		return fmt.Errorf("can't write into data folder %s: free some disk space or use another --data-dir (%w)", s.dir, err)
	}
	socket := filepath.Join(base, "socket")
	if err := os.Mkdir(socket, 0o700); err != nil {
		return fmt.Errorf("can't write into data folder %s: free some disk space or use another --data-dir (%w)", s.dir, err)
	}
	for _, path := range []string{passwordFile, socket, base} {
		if err := s.account.give(path); err != nil {
			return err
		}
	}
	s.log.Info("making a private Postgres", "version", s.bin.version, "data_dir", s.dir)
	if err := s.initdb(ctx, base); err != nil {
		return err
	}
	if err := os.Rename(base, s.clusterDir()); err != nil {
		return fmt.Errorf("can't finish data folder %s: use another --data-dir, or set DATABASE_URL (%w)", s.dir, err)
	}
	return nil
}

// initdb tries locales until the machine knows one. UTF-8 character classes matter: lower() must fold more than ASCII; the
// order of text does not, so the C order is taken, which is the same everywhere.
func (s *Server) initdb(ctx context.Context, base string) error {
	locales := [][]string{{"--locale=C.UTF-8"}, {"--locale=en_US.UTF-8"}, {"--locale=C"}}
	if s.bin.major >= 17 {
		locales = append([][]string{{"--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"}}, locales...)
	}
	var output []byte
	var err error
	for _, locale := range locales {
		output, err = s.runInitdb(ctx, base, locale)
		if err == nil || ctx.Err() != nil || !bytes.Contains(output, []byte("locale")) {
			break
		}
		if err := os.RemoveAll(filepath.Join(base, "data")); err != nil {
			return fmt.Errorf("can't clean %s: use another --data-dir (%w)", base, err)
		}
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stopped while making the private Postgres: %w", ctx.Err())
	}
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		return s.account.explain(err, s.bin.program("initdb"))
	}
	return fmt.Errorf("initdb failed: use another --data-dir, or set DATABASE_URL (%s)", initdbComplaint(output))
}

func (s *Server) runInitdb(ctx context.Context, base string, locale []string) ([]byte, error) {
	pathOf, extra, closeExtra, err := s.account.enter(base)
	if err != nil {
		return nil, err
	}
	defer closeExtra()
	args := []string{
		"-D", filepath.Join(pathOf, "data"), "--pwfile=" + filepath.Join(pathOf, "password"),
		"-U", Superuser, "--auth=scram-sha-256", "--encoding=UTF8",
	}
	args = append(args, locale...)
	if s.opts.Volatile {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, s.bin.program("initdb"), args...)
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.ExtraFiles = extra
	cmd.SysProcAttr = childAttributes(s.account, syscall.SIGKILL)
	cmd.WaitDelay = time.Second

	runtime.LockOSThread() // for the signal at the parent's death, see process.go
	defer runtime.UnlockOSThread()
	return cmd.CombinedOutput()
}

// initdbComplaint is the line of initdb's output that says what went wrong.
func initdbComplaint(output []byte) string {
	last := ""
	for line := range strings.Lines(string(output)) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "error:") || strings.Contains(line, "FATAL:") {
			return line
		}
		if line != "" {
			last = line
		}
	}
	return last
}

func readPassword(dir string) (string, error) {
	path := filepath.Join(dir, "cluster", "password")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("can't read the password of the private Postgres: restore %s or use another --data-dir (%w)", path, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// pidRecord is what postmaster.pid says: https://www.postgresql.org/docs/current/storage-file-layout.html
type pidRecord struct {
	pid     int
	dataDir string
}

func readPidFile(path string) (record pidRecord, ready bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return pidRecord{}, false
	}
	lines := strings.Split(string(text), "\n")
	record.pid, _ = strconv.Atoi(strings.TrimSpace(lines[0]))
	if len(lines) > 1 {
		record.dataDir = lines[1]
	}
	const statusLine = 7
	return record, len(lines) > statusLine && strings.TrimSpace(lines[statusLine]) == "ready"
}

// stopLeftover shuts down a postmaster that outlived its pgautomate. We hold the lock, so no living pgautomate owns it.
func (s *Server) stopLeftover(ctx context.Context) error {
	if !exists(s.pidFile()) {
		return nil
	}
	record, _ := readPidFile(s.pidFile())
	if record.pid <= 0 {
		return s.dropPidFile("it is damaged")
	}
	if !alive(record.pid) {
		return nil // Postgres sees this itself and checks for shared memory still in use
	}
	if !isPostmasterOf(record.pid, record.dataDir, s.pgData()) {
		// Another process has this pid by now; Postgres would take it for a postmaster and refuse to start.
		return s.dropPidFile("its process is another one by now")
	}
	s.log.Info("shutting down the private Postgres of a killed run", "pid", record.pid, "data_dir", s.dir)
	for _, step := range []struct {
		sig      osSignal
		patience time.Duration
	}{{syscallInterrupt, leftoverPatience}, {syscallQuit, killPatience}, {syscallKill, killPatience}} {
		if err := syscall.Kill(record.pid, step.sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("a Postgres of a killed run holds %s and can't be stopped: stop process %d or use another --data-dir (%w)", s.dir, record.pid, err)
		}
		for until := time.Now().Add(step.patience); time.Now().Before(until); {
			if !alive(record.pid) || !isPostmasterOf(record.pid, record.dataDir, s.pgData()) {
				return nil
			}
			if err := sleep(ctx, pollEvery); err != nil {
				return fmt.Errorf("stopped while the Postgres of a killed run (process %d) shut down: %w", record.pid, err)
			}
		}
	}
	return fmt.Errorf("a Postgres of a killed run holds %s: stop process %d or use another --data-dir", s.dir, record.pid)
}

func (s *Server) dropPidFile(why string) error {
	s.log.Info("removing a stale postmaster.pid", "why", why, "path", s.pidFile())
	if err := os.Remove(s.pidFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stale %s: remove it (%w)", s.pidFile(), err)
	}
	return nil
}

// choosePort settles s.port. Ports that the kernel gives to outgoing connections are avoided, so that the remembered one is
// likely to be free next time; where the search starts depends on the folder, so that two folders seldom meet.
func (s *Server) choosePort(another bool) error {
	if s.opts.Port != 0 {
		if !portFree(s.opts.Port) {
			return fmt.Errorf("port %d of 127.0.0.1 is taken: choose another one, or 0 for any", s.opts.Port)
		}
		s.port = s.opts.Port
		return nil
	}
	wanted := s.port
	if wanted == 0 {
		if text, err := os.ReadFile(s.portFile()); err == nil {
			wanted, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
	}
	if !another && wanted > 0 && wanted < 1<<16 {
		if portFree(wanted) {
			s.port = wanted
			return nil
		}
		s.log.Warn("the port of the last run is taken, the URL changes", "port", wanted)
	}
	const first, count = 20000, 10000
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(s.dir))
	start := int(hash.Sum32() % count)
	for i := range count {
		port := first + (start+i)%count
		if port != wanted && portFree(port) {
			s.port = port
			return nil
		}
	}
	return errors.New("no free port on 127.0.0.1 for the private Postgres: give one, or set DATABASE_URL")
}

func portFree(port int) bool {
	listener, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

func (s *Server) portFile() string { return filepath.Join(s.dir, "port") }

func (s *Server) rememberPort() error {
	if err := os.WriteFile(s.portFile(), []byte(strconv.Itoa(s.port)+"\n"), 0o600); err != nil {
		return fmt.Errorf("can't write into data folder %s: free some disk space or start as its owner (%w)", s.dir, err)
	}
	return nil
}

// socketFolder is where the unix socket goes: in the cluster, or in the system's temporary folder when the path would be
// longer than the kernel takes, or can't be entered by the server's user. Without a safe place there is no socket.
func (s *Server) socketFolder() (string, error) {
	const longest = 103 // sun_path on macOS; Linux takes 107
	name := "/.s.PGSQL.65535"
	inside := filepath.Join(s.clusterDir(), "socket")
	if len(inside+name) <= longest && s.account.reaches(s.clusterDir()) && !strings.ContainsAny(inside, `",`) {
		err := os.RemoveAll(inside) // a stale lock file there could name a pid that another process has by now
		if err == nil {
			err = os.Mkdir(inside, 0o700)
		}
		if err != nil {
			return "", fmt.Errorf("can't make %s: start as its owner or use another --data-dir (%w)", inside, err)
		}
		return inside, s.account.give(inside)
	}
	sum := sha256.Sum256([]byte(s.dir))
	outside := filepath.Join(os.TempDir(), "pgautomate-"+hex.EncodeToString(sum[:8]))
	if len(outside+name) > longest || !s.account.reaches(os.TempDir()) {
		return "", nil
	}
	if err := os.Mkdir(outside, 0o700); err == nil {
		return outside, s.account.give(outside)
	}
	// It was there. Anyone may have made it: only one that is the server user's own, and closed to others, is used.
	if !s.account.ownsPrivate(outside) {
		return "", nil
	}
	stale, _ := filepath.Glob(filepath.Join(outside, ".s.PGSQL.*"))
	for _, path := range stale {
		_ = os.Remove(path)
	}
	return outside, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// dropSocketFolder removes a socket folder outside of the cluster.
func (s *Server) dropSocketFolder() {
	if s.socket != "" && filepath.Dir(s.socket) != s.clusterDir() {
		_ = os.Remove(s.socket) // only when empty
	}
}
