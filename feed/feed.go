package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/change"
)

// Objects resolves tables to what they are watched as.
type Objects interface {
	// Object is called when a table's layout is new to the feed or changed, and
	// for every known table after Reload; never per row. It returns nil when the
	// table is not watched: its changes are then ignored.
	Object(ctx context.Context, rel *change.Relation) (*change.Object, error)

	// Reload is called after a commit that carried change.MessageRegistry was
	// applied and before any later commit is resolved, and once at the start of
	// every connection. There it reads what is registered by then, also for
	// commits that came before: a table is published no earlier than it is
	// registered, so none of its changes are resolved too early.
	Reload(ctx context.Context) error
}

// Applier takes commits.
type Applier interface {
	// Apply must be atomic: the effects of the commits and
	// Checkpoints.Advance(ctx, tx, position) in one transaction, durable when it
	// returns nil. The commits come in commit order and are never empty of
	// changes, notes and registry messages all at once; none of them at all
	// means that only the checkpoint moves.
	//
	// An error ends the connection; after a pause everything since the
	// checkpoint comes again. Serialization failures and deadlocks (SQLSTATE
	// 40001, 40P01) are tried again at once, with the same commits.
	//
	// The slice is reused after Apply returned, the commits are not. Rows and
	// ids alias blocks of 64 KiB: copy what is to be kept for long. A commit
	// whose Large is set is alone, may come to no change at all, and can be read
	// only until Apply returns: read every commit with Each.
	Apply(ctx context.Context, commits []*change.Commit, position change.EndLSN) error
}

// Lazy is implemented by an Applier that can tell that commits have no effect.
type Lazy interface {
	// ApplyLazily is Apply, but that when the commits come to nothing, it may write nothing,
	// not even the checkpoint, and give false. They may come again then, after a crash or a new
	// connection, and must come to nothing again. A feed that keeps up asks for this, so that a commit
	// that fires does not wait for the checkpoint of one that doesn't; it has the checkpoint written
	// soon after.
	ApplyLazily(ctx context.Context, commits []*change.Commit, position change.EndLSN) (written bool, err error)
}

// Config says what is fed from where to whom. The zero value of an optional
// field means its default.
type Config struct {
	// Conn is the URL (or DSN) of the source database. The feed opens its own
	// connections with it: one for replication, kept open, and a short one when
	// it makes the slot. It must lead to Postgres itself, for replication does
	// not pass through a pooler. Required.
	Conn string

	// Slot is the replication slot's name: lower-case letters, digits and
	// underscores. Required.
	Slot string

	// Publication says which tables are read. It must exist before the slot is
	// made. Required.
	Publication string

	// Objects, Applier and Store are the feed's partners; Store must be for the
	// same Slot. Required.
	Objects Objects
	Applier Applier
	Store   *Checkpoints

	// Init is called when the slot was made, at the start of its history, with a
	// transaction on the source database that sees exactly what lies before that
	// start: REPEATABLE READ with the slot's snapshot. It may write. When the
	// checkpoints are in the same database the first checkpoint is written in
	// this transaction; else just after it, so that Init may be called again,
	// with a newer snapshot, after a crash in between. Optional.
	Init func(ctx context.Context, tx pgx.Tx) error

	// Logger defaults to slog.Default().
	Logger *slog.Logger

	// MaxBatchCommits and MaxBatchBytes bound what is applied in one
	// transaction: 10,000 commits, 32 MiB of rows. A commit that is larger is a
	// batch by itself. Larger batches are faster and hold locks for longer.
	MaxBatchCommits int
	MaxBatchBytes   int

	// MaxTransactionBytes bounds the memory of the transaction being read: 64
	// MiB, of which each touched object takes 400 bytes beside its rows. A larger
	// one is netted in temporary files, behind caches of less than that size. So
	// the feed holds, whatever is sent to it, the commit being read, one that
	// waits for room, and two batches, one gathering and one being applied: with
	// the default limits, and commits below them, at most 256 MiB, and with a
	// single transaction of any size about 64 MiB; on top of that come the rows
	// of one message and the garbage that Go allows (GOGC, GOMEMLIMIT).
	MaxTransactionBytes int

	// SpillDir is where the temporary files are made: os.TempDir(), which
	// follows TMPDIR. A transaction takes there the bytes of its rows, old and
	// new, and about 150 bytes for each touched object, until it is applied. The
	// files have no names: they are gone with the process, however it ends. When
	// the disk is full the session ends with an error and is tried again; nothing
	// is lost. A folder that is itself in memory defeats the purpose.
	SpillDir string

	// StatusInterval is the longest time between two status messages to the
	// server: 5 s, and always at most a third of the server's
	// wal_sender_timeout, lest the server give the connection up. Each asks for an
	// answer, so that a connection that died without a word is noticed: within
	// line.Bound, 30 s, of when the server can be reached anew.
	StatusInterval time.Duration

	// StandbyInterval is how often a feed whose slot is in use by another
	// process looks whether it has become free: 1 s. It bounds the time that a
	// takeover takes, on top of the time that the server takes to notice the
	// former process's end.
	StandbyInterval time.Duration

	// MinBackoff and MaxBackoff bound the pauses between attempts after an
	// error: 100 ms, doubling, up to 10 s, each shortened at random by up to half.
	MinBackoff, MaxBackoff time.Duration

	// DrainTimeout is how long Run goes on applying what had wholly arrived when
	// its context ended: 10 s. What is left then comes again after the next
	// start.
	DrainTimeout time.Duration

	// IdleInterval and IdleDistance say when a checkpoint is written although no
	// watched table changed, so that the server may forget write-ahead log that
	// holds nothing for us: at most every 10 s, and only once the log has grown
	// by 64 KiB. Writing a checkpoint grows the log itself, by less than that;
	// so an otherwise idle server stays idle. Negative IdleDistance: at once.
	IdleInterval time.Duration
	IdleDistance int64
}

// State says what the feed is doing.
type State string

// States of a feed.
const (
	StateStarting     State = "starting"     // checks, makes the slot, has not yet streamed
	StateStreaming    State = "streaming"    // reads the stream
	StateStandby      State = "standby"      // another process has the slot; this one is ready to take over
	StateReconnecting State = "reconnecting" // lost the connection or could not apply; tries again
	StateStopped      State = "stopped"      // Run returned; LastError says why, if not asked to
)

// Status is a moment's view of a feed.
type Status struct {
	State State
	Since time.Time // when State began

	Received change.LSN    // how far the stream has been read
	Applied  change.EndLSN // checkpoint, committed
	Flushed  change.EndLSN // confirmed to the server

	// Waiting is the number of whole commits that have arrived and are not yet
	// taken up; Busy says that Apply is running. When neither, Received beyond
	// Applied is log that holds nothing for us.
	Waiting int
	Busy    bool

	LastCommit time.Time // commit time of the last applied commit; zero before the first
	Commits    int64     // applied since New
	Changes    int64     // net changes in them

	// LastError is kept until something is applied or the stream has run
	// without it for longer than MaxBackoff.
	LastError   error
	LastErrorAt time.Time
}

// Feed reads one slot. Make it with New, run it once with Run.
type Feed struct {
	cfg Config
	log *slog.Logger

	former string // the process that served the last stream

	// How often messages made no sense, and how many rows of a table, by its OID,
	// will never do.
	garbled    map[place]int
	unreadable map[uint32]int

	mu     sync.Mutex
	status Status
	live   *session // while streaming
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// New checks the configuration. It connects to nothing.
func New(cfg Config) (*Feed, error) {
	switch {
	case cfg.Conn == "":
		return nil, errors.New("feed: Conn is required")
	case !slotName.MatchString(cfg.Slot):
		return nil, fmt.Errorf("feed: slot name %q: use 1 to 63 lower-case letters, digits and underscores", cfg.Slot)
	case cfg.Publication == "":
		return nil, errors.New("feed: Publication is required")
	case cfg.Objects == nil || cfg.Applier == nil || cfg.Store == nil:
		return nil, errors.New("feed: Objects, Applier and Store are required")
	case cfg.Store.slot != cfg.Slot:
		return nil, fmt.Errorf("feed: Store is for slot %q, not for %q", cfg.Store.slot, cfg.Slot)
	}
	setDefault(&cfg.MaxBatchCommits, 10_000)
	setDefault(&cfg.MaxBatchBytes, 32<<20)
	setDefault(&cfg.MaxTransactionBytes, 64<<20)
	setDefault(&cfg.StatusInterval, 5*time.Second)
	setDefault(&cfg.StandbyInterval, time.Second)
	setDefault(&cfg.MinBackoff, 100*time.Millisecond)
	setDefault(&cfg.MaxBackoff, 10*time.Second)
	setDefault(&cfg.DrainTimeout, 10*time.Second)
	setDefault(&cfg.IdleInterval, 10*time.Second)
	if cfg.IdleDistance == 0 {
		cfg.IdleDistance = 64 << 10
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := &Feed{cfg: cfg, log: cfg.Logger.With("slot", cfg.Slot), garbled: map[place]int{}, unreadable: map[uint32]int{}}
	f.status = Status{State: StateStarting, Since: time.Now()}
	return f, nil
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Status may be called at any time, from any goroutine.
func (f *Feed) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look()
	return f.status
}

// look brings what the session knows up to date.
func (f *Feed) look() {
	if s := f.live; s != nil {
		s.mu.Lock()
		f.status.Received = change.LSN(s.tracker.Received())
		s.mu.Unlock()
		f.status.Waiting = s.queue.length()
	}
}

// watch says whose positions Status gives; nil keeps the last ones.
func (f *Feed) watch(s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look()
	f.live = s
}

// Run feeds until ctx ends, and then returns nil after it has applied what had
// wholly arrived, or until a permanent error (see ErrServer and its like). All
// else is tried again for ever; Status tells.
func (f *Feed) Run(ctx context.Context) error {
	backoff := f.cfg.MinBackoff
	for {
		progressed, err := f.session(ctx)
		switch {
		case ctx.Err() != nil:
			f.setState(StateStopped, nil)
			return nil //nolint:nilerr // asked to stop: what broke off on the way is no matter
		case isPermanent(err):
			f.log.Debug("feed stopped", "error", err) // Run returns it: one line is enough
			f.setState(StateStopped, err)
			return err
		}
		if progressed {
			backoff = f.cfg.MinBackoff
		}
		if e, ok := errors.AsType[*garbledError](err); ok {
			if len(f.garbled) > 1000 { // long past
				clear(f.garbled)
			}
			f.garbled[e.place]++
		}
		pause := f.cfg.StandbyInterval
		switch {
		case errors.Is(err, ErrAgain):
			pause = 0
		case errors.Is(err, errStandby):
			f.setState(StateStandby, nil)
		case errors.Is(err, ErrFenced):
			f.log.Warn("feed fenced", "error", err)
			f.setState(StateStandby, err)
		default:
			pause = backoff/2 + rand.N(backoff/2+1) //nolint:gosec // jitter
			f.log.Warn("feed interrupted", "error", err, "retry_in", pause)
			f.setState(StateReconnecting, err)
			backoff = min(2*backoff, f.cfg.MaxBackoff)
		}
		if !sleep(ctx, pause) {
			f.setState(StateStopped, nil)
			return nil
		}
	}
}

func (f *Feed) setState(state State, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.status.State != state {
		f.log.Debug("feed state", "from", f.status.State, "to", state)
		f.status.State, f.status.Since = state, time.Now()
	}
	if err != nil {
		f.status.LastError, f.status.LastErrorAt = err, time.Now()
	}
	f.status.Waiting, f.status.Busy = 0, false
}

// update changes the status under its lock.
func (f *Feed) update(change func(*Status)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.status)
}

// sleep gives false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
