// Package private runs a Postgres of our own: for `pgautomate demo`, for `run` without DATABASE_URL, and for tests.
//
// Nobody should need to administer it, so it must come up by itself whatever happened before: the binaries are those of
// the machine (or fetched once), a killed initdb leaves nothing behind, a server that outlived its killed parent is shut
// down first, and a root user, whom Postgres refuses to serve, gets a server that runs as somebody else.
//
//	data folder/
//	    lock          flock'ed by the one process that uses the folder; holds its pid
//	    port          the port of the last run, so that the URL stays the same
//	    server.log    the server's log, emptied at each start
//	    cluster/      owned by the server's user, mode 0700; appears at once, by rename, when initdb is done
//	        data/     Postgres's own data folder
//	        password  of the superuser `postgres`, made once
//	        socket/   the unix socket
//
// The life of a server:
//
//	Start -> running -> Stop            (the folder is free again)
//	          |   ^
//	          v   |
//	        Kill -> Restart             (for fault tests; the folder stays locked)
//
// The server listens on 127.0.0.1 and on a unix socket, both with a password (scram-sha-256).
package private

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Superuser is the one role that a new private server has.
const Superuser = "postgres"

const (
	minMajor = 14 // the oldest Postgres that pgautomate supports
	maxMajor = 18 // the newest one

	pollEvery        = 10 * time.Millisecond // how often files and processes of the server are looked at
	startAttempts    = 3                     // the first and two more, when the port was taken meanwhile
	leftoverPatience = 30 * time.Second      // how long a leftover server may take for a fast shutdown
	killPatience     = 10 * time.Second      // how long an immediate shutdown may take before SIGKILL
)

// Options say where a private server lives and how it behaves. Only DataDir is required.
type Options struct {
	// DataDir is the folder that holds everything of this server and is kept between runs; made when missing.
	DataDir string

	// Port on 127.0.0.1. 0 takes the port of the last run, or a free one when there was none or it is taken.
	// A port given here that is taken is an error.
	Port int

	// Settings are server settings (postgresql.conf names) that win over this package's own, e.g. "wal_level": "replica".
	Settings map[string]string

	// Volatile trades safety for speed: no fsync, so a crash of the machine (not of the server) may lose or break the
	// data. For tests only.
	Volatile bool

	// NoFetch forbids the download of server binaries; then a machine without Postgres is an error.
	NoFetch bool

	// Logger hears about starts, stops, recoveries and downloads. Nil discards.
	Logger *slog.Logger
}

// Server is a running private Postgres. Its methods may be called from any goroutine.
type Server struct {
	opts    Options
	log     *slog.Logger
	dir     string // absolute path of the data folder
	account account
	bin     binaries
	port    int

	mu       sync.Mutex // guards what follows, and makes Stop, Kill and Restart wait for each other
	lock     *os.File   // nil when the folder is not held
	process  *process   // the present or last postmaster
	password string
	socket   string
	ending   chan struct{} // closed when the end of the present process is wanted
}

// DefaultDataDir is where the private server of a user lives without --data-dir: in the user's cache folder. Root's is
// /var/cache/pgautomate, because the server runs as another user, who may not enter root's home.
func DefaultDataDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/pgautomate/private", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the private Postgres (%w): give --data-dir or set DATABASE_URL", err)
	}
	return filepath.Join(cache, "pgautomate", "private"), nil
}

// Start brings up the server of a data folder, which it makes when missing, and returns when it answers queries.
//
// How long this takes is bounded by ctx alone: a server that recovers from a crash may take minutes. Once Start has
// returned, the server no longer depends on ctx; it lives until Stop, or until this process ends, however it ends.
//
// Every error is one line that says what to do.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.DataDir == "" {
		return nil, errors.New("the private Postgres needs a data folder: give --data-dir or set DATABASE_URL")
	}
	dir, err := filepath.Abs(opts.DataDir)
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", opts.DataDir, err)
	}
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: opts, log: logger, dir: dir}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(ctx); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

// open takes the folder, recovers what an earlier run left there, and starts the server. The caller holds s.mu.
func (s *Server) open(ctx context.Context) error {
	var err error
	if err = makeFolder(s.dir); err != nil {
		return err
	}
	if s.lock, err = lockFolder(s.dir); err != nil {
		return err
	}
	if s.account, err = chooseAccount(s.dir); err != nil {
		return err
	}
	major, err := clusterMajor(s.dir)
	if err != nil {
		return err
	}
	if s.bin, err = findBinaries(ctx, s.account, major, s.dir, !s.opts.NoFetch, s.log); err != nil {
		return err
	}
	if err := s.stopLeftover(ctx); err != nil {
		return err
	}
	if major == 0 {
		if err := s.initialize(ctx); err != nil {
			return err
		}
	}
	if s.password, err = readPassword(s.dir); err != nil {
		return err
	}
	if s.socket, err = s.socketFolder(); err != nil {
		return err
	}
	return s.launch(ctx)
}

// launch starts the postmaster and waits until it answers. The caller holds s.mu and the folder.
func (s *Server) launch(ctx context.Context) error {
	began := time.Now()
	patience := began.Add(killPatience)
	for attempt := 1; ; attempt++ {
		if err := s.choosePort(attempt > 1); err != nil {
			return err
		}
		err := s.tryLaunch(ctx)
		if err == nil {
			break
		}
		failed, ended := errors.AsType[*startError](err)
		switch {
		case ctx.Err() != nil || !ended:
			return err
		case failed.portTaken() && s.opts.Port == 0 && attempt < startAttempts:
			s.log.Info("port was taken while the private Postgres started, trying another", "port", s.port)
		case failed.stillInUse() && time.Now().Before(patience):
			// Backends of a killed postmaster need a moment to notice that it is gone.
			if err := sleep(ctx, 20*pollEvery); err != nil {
				return err
			}
			attempt--
		default:
			return err
		}
	}
	if err := s.rememberPort(); err != nil {
		return err
	}
	s.log.Info("private Postgres runs", "version", s.bin.version, "port", s.port, "data_dir", s.dir,
		"pid", s.process.pid, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

func (s *Server) tryLaunch(ctx context.Context) error {
	logFile, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("can't write the server's log %s: make it writable or use another --data-dir (%w)", s.LogFile(), err)
	}
	defer logFile.Close()

	pathOf, extra, closeExtra, err := s.account.enter(s.clusterDir())
	if err != nil {
		return err
	}
	defer closeExtra()
	args := []string{"-D", filepath.Join(pathOf, "data")}
	args = append(args, s.settings().arguments()...)
	proc, err := startProcess(processSpec{
		path: s.bin.program("postgres"), args: args, account: s.account, output: logFile, extra: extra,
	})
	if err != nil {
		return s.account.explain(err, s.bin.program("postgres"))
	}
	s.process = proc
	s.ending = make(chan struct{})
	if err := s.waitReady(ctx); err != nil {
		s.end(proc, syscallQuit)
		return err
	}
	go watch(proc, s.ending, s.log, s.LogFile())
	return nil
}

// watch tells the log when a server ended that nobody asked to end. It ends with the process it watches.
func watch(proc *process, ending <-chan struct{}, logger *slog.Logger, logFile string) {
	<-proc.done
	select {
	case <-ending:
	default:
		logger.Error("private Postgres ended by itself: start pgautomate again", "state", proc.state(),
			"log", logFile, "last", lastFatal(logFile))
	}
}

// waitReady waits for the word "ready" in postmaster.pid, as pg_ctl does, then for one successful connection.
func (s *Server) waitReady(ctx context.Context) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	nextWord := time.Now().Add(10 * time.Second)
	for {
		if pid, ready := readPidFile(s.pidFile()); ready && pid.pid == s.process.pid {
			break
		}
		if time.Now().After(nextWord) {
			s.log.Info("private Postgres is still starting, perhaps recovering from a crash", "log", s.LogFile())
			nextWord = time.Now().Add(10 * time.Second)
		}
		select {
		case <-s.process.done:
			return &startError{log: s.LogFile(), last: lastFatal(s.LogFile()), state: s.process.state()}
		case <-ctx.Done():
			return fmt.Errorf("the private Postgres was not ready in time, see %s: %w", s.LogFile(), ctx.Err())
		case <-ticker.C:
		}
	}
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return fmt.Errorf("the private Postgres runs but refuses us: restore %s or use another --data-dir (%s)",
			filepath.Join(s.clusterDir(), "password"), oneLine(err.Error()))
	}
	return conn.Close(ctx)
}

// URL is the connection URL of a database of this server for its superuser. It holds the password.
func (s *Server) URL(database string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url(database)
}

func (s *Server) url(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(Superuser, s.password),
		Host:     net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Stop shuts the server down and frees the data folder. It is a fast shutdown (connections are ended, data is
// checkpointed); when ctx ends first it becomes an immediate one, after which the next start recovers from the log; that
// is not an error. Stopping a stopped server does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutDown(ctx)
	s.release()
	return nil
}

// shutDown ends the postmaster, fast or, when ctx ends, immediately. The caller holds s.mu.
func (s *Server) shutDown(ctx context.Context) {
	if s.process == nil {
		return
	}
	s.expectEnd()
	s.process.signal(syscallInterrupt)
	select {
	case <-s.process.done:
	case <-ctx.Done():
		s.end(s.process, syscallQuit)
	}
	s.process = nil
}

// Kill is an immediate shutdown, as after a crash: for tests of faults. The folder stays ours; Restart or Stop follows.
func (s *Server) Kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return errors.New("the private Postgres is not running: start it first")
	}
	s.expectEnd()
	s.end(s.process, syscallQuit)
	s.process = nil
	return nil
}

// Restart starts the server again on the same port, after stopping it when it runs. On error the folder is free.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutDown(ctx)
	s.release()
	if err := s.open(ctx); err != nil {
		s.release()
		return err
	}
	return nil
}

// Done is closed when the present server process has ended, for whatever reason. It is a new channel after Restart.
func (s *Server) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return s.process.done
}

// BinDir is the folder of the server binaries in use, where pg_dump and psql may be as well.
func (s *Server) BinDir() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bin.dir
}

// Version is what the server binaries say, such as "15.6".
func (s *Server) Version() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bin.version
}

// Major is the major version of the server binaries, such as 15.
func (s *Server) Major() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bin.major
}

// Port is the TCP port on 127.0.0.1.
func (s *Server) Port() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

// SocketDir is the folder of the unix socket, empty when the server has none.
func (s *Server) SocketDir() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.socket
}

// DataDir is the absolute path of the folder given in Options.
func (s *Server) DataDir() string { return s.dir }

// LogFile is the path of the server's log.
func (s *Server) LogFile() string { return filepath.Join(s.dir, "server.log") }

func (s *Server) clusterDir() string { return filepath.Join(s.dir, "cluster") }
func (s *Server) pgData() string     { return filepath.Join(s.clusterDir(), "data") }
func (s *Server) pidFile() string    { return filepath.Join(s.pgData(), "postmaster.pid") }

func (s *Server) expectEnd() {
	select {
	case <-s.ending:
	default:
		close(s.ending)
	}
}

// end signals a process and waits for its end, with SIGKILL when it takes too long.
func (s *Server) end(proc *process, sig osSignal) {
	proc.signal(sig)
	select {
	case <-proc.done:
		return
	case <-time.After(killPatience):
	}
	proc.signal(syscallKill)
	<-proc.done
}

// release gives the folder back. The caller holds s.mu.
func (s *Server) release() {
	if s.process == nil {
		s.dropSocketFolder()
	}
	if s.lock != nil {
		// Unlocked by word, not by closing alone: a child of this process that is between fork and exec has a copy of the
		// descriptor, and would hold the lock for that moment.
		_ = syscall.Flock(int(s.lock.Fd()), syscall.LOCK_UN)
		_ = s.lock.Close()
		s.lock = nil
	}
}

// startError is a postmaster that ended before it was ready.
type startError struct {
	log   string
	last  string
	state string
}

func (e *startError) Error() string {
	if e.last == "" {
		return fmt.Sprintf("the private Postgres did not start (%s): see %s, or set DATABASE_URL", e.state, e.log)
	}
	return fmt.Sprintf("the private Postgres did not start (%s): see %s, or set DATABASE_URL", e.last, e.log)
}

func (e *startError) portTaken() bool {
	return strings.Contains(e.last, "could not bind") || strings.Contains(e.last, "could not create any TCP/IP sockets")
}

func (e *startError) stillInUse() bool {
	return strings.Contains(e.last, "pre-existing shared memory block") || strings.Contains(e.last, "lock file")
}

// lastFatal is the last FATAL line of a server log, without its prefix; empty when there is none.
func lastFatal(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	last := ""
	for line := range strings.Lines(string(text)) {
		for _, word := range []string{"FATAL:", "PANIC:", "postgres: "} {
			if _, rest, ok := strings.Cut(line, word); ok {
				last = strings.TrimSpace(rest)
			}
		}
	}
	return last
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
