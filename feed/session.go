package feed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/line"
)

// session is one replication connection, from the checkpoint on. Two goroutines
// share it: the reader, which alone uses the connection, and the applier. Both
// end with it.
type session struct {
	f        *Feed
	conn     *pgconn.PgConn
	net      net.Conn
	frontend *pgproto3.Frontend
	queue    *queue

	mu      sync.Mutex
	tracker Tracker

	// The reader sleeps in a read. Others wake it by the read deadline, after
	// setting what it is to see.
	stopping  atomic.Bool // ctx ended or the applier failed
	stopped   chan struct{}
	stopOnce  sync.Once
	statusDue atomic.Bool // the applied position moved
	lastSent  atomic.Int64
	progress  atomic.Bool // something was applied

	copied bool // standbys may have a copy of the slot, and of the checkpoint

	// Applier's own.
	guarded bool // they must have a checkpoint before it is confirmed
	looked  time.Time
	durable time.Time     // when the checkpoint was last written
	pending change.EndLSN // before it commits came to nothing, and no checkpoint was written; 0: none

	began       time.Time
	statusEvery time.Duration
	skipTo      change.EndLSN // commits that end here or before are already applied

	// behind is how long after its commit the latest transaction was sent, by the
	// server's clock alone.
	behind atomic.Int64

	applied  chan struct{} // signal: the applier moved on
	spills   spills        // commits that are in files
	done     chan struct{} // the applier has ended
	applyErr error         // why; read after done

	// Reader's own.
	wire      wire
	txn       netter
	relations map[uint32]*layout
	open      bool // between BEGIN and COMMIT
	place     place
	start     change.LSN // of the message, by its envelope: for COMMIT its end
	sent      uint64     // microseconds of the server's clock, by the envelope
	registry  bool       // the open transaction carries a registry message
	clock     bool       // it carries a clock message
	ahead     *LookAhead
	idleAsked time.Time

	answerAsked time.Time // by the last status message that did
}

// statusGap is the least time between two status messages that only tell of
// progress.
const statusGap = 20 * time.Millisecond

// session connects and feeds until something ends it. progressed says that it
// went well for a while.
func (f *Feed) session(ctx context.Context) (progressed bool, err error) {
	conn, err := connect(ctx, f.cfg.Conn)
	if err != nil {
		return false, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_ = conn.Conn().SetDeadline(time.Time{})
		_ = conn.Close(closing)
	}()
	srv, err := inspect(ctx, conn)
	if err != nil {
		return false, err
	}
	cp, slot, err := f.prepare(ctx, conn, srv)
	if err != nil {
		return false, err
	}
	f.allowFailover(ctx, conn, srv, slot)
	copied, err := f.copied(ctx, conn, srv, cp)
	if err != nil {
		return false, err
	}
	if err := f.cfg.Objects.Reload(ctx); err != nil {
		return false, fmt.Errorf("read the object types: %w", err)
	}
	err = pglogrepl.StartReplication(ctx, conn, quoteIdent(f.cfg.Slot), pglogrepl.LSN(cp.Position), pglogrepl.StartReplicationOptions{
		Mode: pglogrepl.LogicalReplication,
		PluginArgs: []string{
			"proto_version '1'", // whole transactions, in commit order; large ones spill on the server
			"publication_names " + quoteLiteral(quoteIdent(f.cfg.Publication)),
			"messages 'true'",
		},
	})
	if err != nil {
		return false, f.explainStart(cp, err)
	}
	line.Stream(conn)
	f.former = strconv.FormatUint(uint64(conn.PID()), 10)
	// The slot is ours now. Its former owner may have moved the checkpoint
	// since it was read; from here on only the fence can.
	generation := cp.Generation
	cp, found, err := f.cfg.Store.Load(ctx)
	if err != nil {
		return false, err
	}
	if !found || cp.Generation != generation {
		return false, fmt.Errorf("%w: slot %s was made anew", ErrFenced, f.cfg.Slot)
	}
	f.cfg.Store.follow(cp)

	s := &session{
		f: f, conn: conn, net: conn.Conn(), frontend: conn.Frontend(),
		queue:       newQueue(f.cfg.MaxBatchCommits, f.cfg.MaxBatchBytes),
		tracker:     NewTracker(cp.Position, cp.Position),
		began:       time.Now(),
		statusEvery: f.cfg.StatusInterval,
		skipTo:      cp.Position,
		applied:     make(chan struct{}, 1),
		done:        make(chan struct{}),
		stopped:     make(chan struct{}),
		relations:   make(map[uint32]*layout),
	}
	if s.copied = copied; copied {
		s.tracker = NewTracker(cp.Position, slot.confirmed) // until the standbys were looked at
	}
	s.place.after = cp.Position
	s.queue.patience = s.patience
	s.txn.limit, s.txn.dir = f.cfg.MaxTransactionBytes, f.cfg.SpillDir
	s.txn.opened = s.spills.add
	s.txn.pause = func() error { return s.pause(ctx) }
	// A third, so that the server has never reason to ask for a sign of life by
	// itself: if it does ask, it wants to shut down. See persistIdle.
	s.statusEvery = min(s.statusEvery, srv.walTimeout/3)
	defer s.spills.closeAll() // the applier has ended too
	if looked, err := s.lookAhead(ctx, cp.Position); err != nil || looked {
		if err == nil {
			err = ErrAgain
		}
		return true, err
	}
	f.setState(StateStreaming, nil)
	f.update(func(st *Status) {
		st.Applied = cp.Position
	})
	f.watch(s)
	defer f.watch(nil)
	f.log.Info("feed streams", "from", cp.Position)
	err = s.run(ctx)
	return s.progress.Load() || time.Since(s.began) > f.cfg.MaxBackoff, err
}

func (f *Feed) explainStart(cp Checkpoint, err error) error {
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		return fmt.Errorf("start replication: %w", err)
	}
	switch pe.Code {
	case "55006":
		return errStandby
	case "42704":
		return fault(ErrSlotLost, "slot %s no longer exists; changes since %v are not being read: %s", f.cfg.Slot, cp.Position, recreate)
	case "55000":
		return fault(ErrSlotLost, "slot %s was invalidated (%s); changes since %v are not being read: %s", f.cfg.Slot, pe.Message, cp.Position, recreate)
	case "42501":
		return fault(ErrPermission, "%s: run `ALTER ROLE … REPLICATION` for the feed's role", pe.Message)
	default:
		return fmt.Errorf("start replication: %w", err)
	}
}

// run reads until the end, lets the applier finish what has wholly arrived, and
// says good-bye to the server.
func (s *session) run(ctx context.Context) error {
	applyCtx, cancelApply := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelApply()
	go s.apply(applyCtx)
	defer context.AfterFunc(ctx, s.stop)()

	err := s.sendStatus(ctx)
	if err == nil {
		err = s.read(ctx)
	}
	if errors.Is(err, errStopping) {
		err = nil
	}

	s.queue.close()
	drain := time.NewTimer(s.f.cfg.DrainTimeout)
	defer drain.Stop()
	tick := time.NewTicker(s.statusEvery)
	defer tick.Stop()
	for drained := false; !drained; {
		select {
		case <-s.done:
			drained = true
		case <-drain.C:
			cancelApply()
		case <-s.applied:
		case <-tick.C:
			if err == nil {
				err = s.sendStatus(ctx)
			}
		}
	}
	if s.applyErr != nil {
		return s.applyErr // the cause, if the reader failed too
	}
	if err != nil {
		return err
	}
	if err := s.sendStatus(ctx); err != nil {
		return err
	}
	<-s.stopped // the applier's end sees to it; no wake comes after
	if err := s.net.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	_, err = pglogrepl.SendStandbyCopyDone(ctx, s.conn)
	return err
}

var errStopping = errors.New("stopping")

func (s *session) stop() {
	s.stopOnce.Do(func() {
		s.stopping.Store(true)
		s.wake(time.Now())
		close(s.stopped)
	})
}

// wake ends the reader's read at a time.
func (s *session) wake(at time.Time) { _ = s.net.SetReadDeadline(at) }

// ---- applier

func (s *session) apply(ctx context.Context) {
	defer close(s.done)
	defer s.stop()
	if s.applyErr = s.checkpointed(ctx, s.skipTo); s.applyErr != nil {
		return
	}
	lazy, _ := s.f.cfg.Applier.(Lazy)
	flush := time.AfterFunc(time.Hour, s.queue.requestLook)
	defer flush.Stop()
	var commits []*change.Commit
	for {
		var idle change.EndLSN
		var more bool
		commits, idle, more = s.queue.take(commits)
		if !more {
			if s.pending == 0 {
				return
			}
			// Ends with everything checkpointed.
		}
		if len(commits) > 0 {
			idle = commits[len(commits)-1].End
		}
		if idle == 0 {
			idle = s.pending
		}
		if idle == 0 { // a look at the standbys, or what was to be flushed is written
			if s.copied {
				if s.applyErr = s.standbys(ctx, 0); s.applyErr != nil {
					return
				}
			}
			continue
		}
		s.f.update(func(st *Status) { st.Busy = true })
		apply, written := s.f.cfg.Applier.Apply, true
		if lazy != nil && len(commits) > 0 && s.patience() == 0 && time.Since(s.durable) < lazyFor {
			apply = func(ctx context.Context, commits []*change.Commit, position change.EndLSN) (err error) {
				written, err = lazy.ApplyLazily(ctx, commits, position)
				return err
			}
		}
		if s.applyErr = s.applyBatch(ctx, apply, commits, idle); s.applyErr != nil {
			return
		}
		if written {
			s.f.cfg.Store.advanced(idle)
			s.durable, s.pending = time.Now(), 0
			if s.applyErr = s.checkpointed(ctx, idle); s.applyErr != nil {
				return
			}
		} else {
			if s.pending == 0 {
				flush.Reset(lazyFor - time.Since(s.durable))
			}
			s.pending = idle
		}
		changes := 0
		for _, c := range commits {
			changes += len(c.Changes)
			if large, ok := c.Large.(*spill); ok {
				changes += large.given
				s.spills.close(large)
			}
		}
		s.f.update(func(st *Status) {
			if st.Busy = false; written {
				st.Applied = idle
			}
			st.LastError, st.LastErrorAt = nil, time.Time{}
			st.Commits += int64(len(commits))
			st.Changes += int64(changes)
			if len(commits) > 0 {
				st.LastCommit = commits[len(commits)-1].Time
			}
		})
		s.progress.Store(true)
		if written {
			s.due()
			signal(s.applied)
		}
		if !more {
			return
		}
	}
}

// A feed that is this far behind gathers for so long before each transaction.
const (
	farBehind  = 200 * time.Millisecond
	gatherMost = 50 * time.Millisecond
)

// lazyFor bounds how old a checkpoint may become while commits come to nothing.
const lazyFor = 100 * time.Millisecond

// patience says how long the next batch may gather: not at all as long as the feed keeps up.
func (s *session) patience() time.Duration {
	if time.Duration(s.behind.Load()) < farBehind {
		return 0
	}
	return gatherMost
}

// due has the reader tell the server that we are further.
func (s *session) due() {
	if !s.statusDue.Swap(true) {
		s.wake(time.Unix(0, s.lastSent.Load()).Add(statusGap))
	}
}

// checkpointed says that the checkpoint at a position was committed. Now and then it
// looks whether standbys are named that must have it first.
func (s *session) checkpointed(ctx context.Context, at change.EndLSN) error {
	if s.copied && (s.guarded || time.Since(s.looked) > 10*time.Second) {
		return s.standbys(ctx, at)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tracker.Applied(at, 0)
	return nil
}

// standbys looks how far the standbys have the log, and so the checkpoints, of which
// the one at applied was just committed, if it isn't 0.
func (s *session) standbys(ctx context.Context, applied change.EndLSN) error {
	var here, there string
	if err := s.f.cfg.Store.pool.QueryRow(ctx, sqlStandbys).Scan(&here, &there); err != nil {
		return fmt.Errorf("look at the standbys: %w", err)
	}
	own, err := change.ParseLSN(here)
	if err != nil {
		return err
	}
	reached := own
	if there != "" {
		if reached, err = change.ParseLSN(there); err != nil {
			return err
		}
	}
	s.guarded, s.looked = there != "", time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.tracker.Confirmable()
	if applied != 0 {
		s.tracker.Applied(applied, own)
	}
	s.tracker.Reached(reached)
	if s.tracker.Confirmable() != before {
		s.due()
	}
	return nil
}

// applyBatch tries again only what the server itself says to try again; any
// other failure ends the session, for the commit's fate may be unknown and the
// checkpoint must be read anew.
func (s *session) applyBatch(ctx context.Context, apply func(context.Context, []*change.Commit, change.EndLSN) error, commits []*change.Commit, position change.EndLSN) error {
	for attempt := 1; ; attempt++ {
		err := apply(ctx, commits, position)
		if err == nil {
			return nil
		}
		state := sqlState(err)
		if attempt < 5 && (state == "40001" || state == "40P01") && sleep(ctx, time.Duration(attempt)*5*time.Millisecond) {
			continue
		}
		if len(commits) == 0 {
			return fmt.Errorf("checkpoint at %v: %w", position, err)
		}
		return fmt.Errorf("apply %d commits, %v to %v: %w", len(commits), commits[0].LSN, position, err)
	}
}

// ---- reader

func (s *session) read(ctx context.Context) error {
	if err := s.rearm(); err != nil {
		return err
	}
	for {
		msg, err := s.frontend.Receive()
		if err != nil {
			var ne net.Error
			switch {
			case errors.As(err, &ne) && ne.Timeout():
			case ne != nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, line.ErrSilent):
				return fmt.Errorf("read the replication stream: %w", err)
			default:
				return s.garbled(err.Error())
			}
			if err := s.tick(ctx); err != nil {
				return err
			}
			continue
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			if err := s.copyData(ctx, msg.Data); err != nil {
				return err
			}
			if s.stopping.Load() {
				return errStopping
			}
		case *pgproto3.ErrorResponse:
			return s.explainStream(pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.NoticeResponse:
			// Postgres 18 goes on without the publication's tables.
			if msg.SeverityUnlocalized == "WARNING" && msg.Code == "55000" {
				return fault(ErrPublication, "publication %q was dropped while changes waited to be read; they are lost: %s", s.f.cfg.Publication, recreate)
			}
			s.f.log.Info("server notice", "severity", msg.Severity, "message", msg.Message)
		case *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
			return errors.New("the server ended the replication stream")
		case *pgproto3.ParameterStatus:
		default:
			return s.garbled(fmt.Sprintf("%T does not belong here", msg))
		}
	}
}

func (s *session) explainStream(err error) error {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pe.Code == "42704" && strings.Contains(pe.Message, "publication"):
			return fault(ErrPublication, "%s in the log that waits to be read: it was dropped, or made after the slot: %s", pe.Message, recreate)
		case pe.Code == "55000" && strings.Contains(pe.Message, "slot"):
			return fault(ErrSlotLost, "%s: %s", pe.Message, recreate)
		}
	}
	return fmt.Errorf("replication stream: %w", err)
}

// rearm sets when the read ends for the next status message. It must come
// before the look at what woke the reader, lest a wake be overwritten unseen.
func (s *session) rearm() error {
	return s.net.SetReadDeadline(time.Unix(0, s.lastSent.Load()).Add(s.statusEvery))
}

// tick runs when the read's time is up.
func (s *session) tick(ctx context.Context) error {
	if err := s.rearm(); err != nil {
		return err
	}
	if s.stopping.Load() {
		return errStopping
	}
	since := time.Since(time.Unix(0, s.lastSent.Load()))
	switch {
	case since >= s.statusEvery, s.statusDue.Load() && since >= statusGap:
		if err := s.sendStatus(ctx); err != nil {
			return err
		}
		if err := s.rearm(); err != nil {
			return err
		}
		s.mu.Lock()
		held := s.tracker.Held()
		s.mu.Unlock()
		if held {
			s.queue.requestLook()
		}
	case s.statusDue.Load():
		s.wake(time.Unix(0, s.lastSent.Load()).Add(statusGap))
	}
	// Again, for a wake may have come between the first look and the last rearm.
	if s.stopping.Load() {
		return errStopping
	}
	s.persistIdle(false)
	return nil
}

// sendStatus tells the server how far we are. Flush and apply are always given:
// the library would fill a zero with the write position. Now and then it asks for
// an answer, for a silence after that tells that the line is dead (see package line).
func (s *session) sendStatus(ctx context.Context) error {
	s.statusDue.Store(false)
	s.mu.Lock()
	received, confirmed := s.tracker.Received(), s.tracker.Confirmable()
	s.mu.Unlock()
	if err := s.net.SetWriteDeadline(time.Now().Add(max(s.statusEvery, time.Second))); err != nil {
		return err
	}
	now := time.Now()
	ask := now.Sub(s.answerAsked) >= s.statusEvery
	err := pglogrepl.SendStandbyStatusUpdate(ctx, s.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: pglogrepl.LSN(received),
		WALFlushPosition: pglogrepl.LSN(confirmed),
		WALApplyPosition: pglogrepl.LSN(confirmed),
		ReplyRequested:   ask,
	})
	if err != nil {
		return fmt.Errorf("send status to the server: %w", err)
	}
	if ask {
		s.answerAsked = now
	}
	s.lastSent.Store(time.Now().UnixNano())
	s.f.update(func(st *Status) { st.Flushed = confirmed })
	return nil
}

// persistIdle asks the applier for a checkpoint at a position that holds no
// work, so that it may be confirmed. Seldom (see Config.IdleInterval), but soon
// when the server asks for a reply: it does so when it wants to shut down and
// waits for everything to be confirmed. If the checkpoint can't be written then,
// because the server takes no more connections, the session ends, and that lets
// the server go too.
func (s *session) persistIdle(asked bool) {
	s.mu.Lock()
	idle, applied := s.tracker.Idle(), s.tracker.Checkpoint()
	s.mu.Unlock()
	if idle == 0 {
		return
	}
	interval := s.f.cfg.IdleInterval
	if asked {
		interval = min(interval, time.Second)
	} else if int64(idle-applied) < s.f.cfg.IdleDistance {
		return
	}
	if now := time.Now(); now.Sub(s.idleAsked) >= interval {
		s.idleAsked = now
		s.queue.requestIdle(idle)
	}
}

// pause is called now and then by what keeps the reader from reading.
func (s *session) pause(ctx context.Context) error {
	if s.stopping.Load() {
		return errStopping
	}
	if time.Since(time.Unix(0, s.lastSent.Load())) < s.statusEvery {
		return nil
	}
	return s.sendStatus(ctx)
}

func (s *session) copyData(ctx context.Context, data []byte) error {
	if len(data) == 0 {
		return s.garbled(errTruncatedMessage.Error())
	}
	switch data[0] {
	case 'w': // start, end, time: the messages inside say it better, and COMMIT the same
		if len(data) < 25 {
			return s.garbled(errTruncatedMessage.Error())
		}
		s.start = change.LSN(binary.BigEndian.Uint64(data[1:]))
		s.sent = binary.BigEndian.Uint64(data[17:])
		return s.handle(ctx, data[25:])
	case 'k':
		if len(data) != 18 {
			return s.garbled("a keepalive of the wrong length")
		}
		position := change.EndLSN(binary.BigEndian.Uint64(data[1:]))
		s.mu.Lock()
		s.tracker.Keepalive(position)
		// An error is over when things go well again, and for longer than the
		// pause between attempts: the commit that failed may just be on its way.
		well := !s.tracker.Unapplied() && time.Since(s.began) > s.f.cfg.MaxBackoff
		s.mu.Unlock()
		if well {
			s.f.update(func(st *Status) { st.LastError, st.LastErrorAt = nil, time.Time{} })
		}
		s.queue.nothingMore()
		asked := data[17] != 0
		if asked {
			if err := s.sendStatus(ctx); err != nil {
				return err
			}
		}
		s.persistIdle(asked)
	default:
		return s.garbled(fmt.Sprintf("there is no message %q", data[0]))
	}
	return nil
}

// handle takes one pgoutput message.
func (s *session) handle(ctx context.Context, data []byte) error {
	m := &s.wire
	if err := m.parse(data); err != nil {
		return s.malformed(err.Error())
	}
	switch m.kind {
	case kindBegin:
		if s.open {
			return s.garbled("BEGIN inside a transaction")
		}
		s.open, s.registry, s.clock = true, false, false
		s.place = place{commit: change.CommitLSN(m.lsn)}
		s.txn.begin(m.xid)
		s.mu.Lock()
		s.tracker.Begin()
		s.mu.Unlock()
	case kindCommit:
		if !s.open || change.CommitLSN(m.lsn) != s.place.commit || m.end <= m.lsn || s.start != 0 && s.start != m.end {
			return s.garbled("COMMIT of no transaction, or of another one")
		}
		s.place = place{after: change.EndLSN(m.end)}
		return s.commit(ctx)
	case kindRelation:
		return s.relation(ctx, m.layout)
	case kindInsert, kindUpdate, kindDelete:
		l := s.relations[m.relation]
		if problem := s.misfit(l); problem != "" {
			return s.malformed(problem)
		}
		s.place.n++
		if l.object == nil {
			return nil
		}
		return s.row(l)
	case kindTruncate:
		for _, oid := range m.truncated {
			l := s.relations[oid]
			if l == nil || !s.open {
				return s.garbled(s.misfit(l))
			}
			if l.object == nil {
				continue
			}
			if err := s.row(l); err != nil {
				return err
			}
		}
		s.place.n++
	case kindMessage:
		if m.transactional && !s.open {
			return s.garbled(reasonOutside)
		}
		if !m.transactional {
			return nil
		}
		s.place.n++
		// Others' messages, e.g. heartbeats, are none of ours.
		if strings.HasPrefix(borrow(m.prefix), "pgautomate.") {
			s.registry = s.registry || borrow(m.prefix) == change.MessageRegistry
			s.clock = s.clock || borrow(m.prefix) == change.MessageClock
			s.txn.message(m.prefix, m.content)
		}
	}
	return nil
}

// misfit says why a well-formed change can't be one of the table's; "" when it can.
func (s *session) misfit(l *layout) string {
	m := &s.wire
	switch {
	case !s.open:
		return reasonOutside
	case l == nil:
		return reasonUnnamed
	case m.kind == kindTruncate:
	case m.new != nil && !sameWidth(l, m.new), m.old != nil && !sameWidth(l, m.old):
		return reasonWidth
	}
	return ""
}

// row nets what the message did to a watched table.
func (s *session) row(l *layout) (err error) {
	defer rescue(&err)
	switch m := &s.wire; m.kind {
	case kindInsert:
		s.txn.insert(l, m.new)
	case kindUpdate:
		s.txn.update(l, m.oldKind, m.old, m.new)
	case kindDelete:
		s.txn.delete(l, m.oldKind, m.old)
	case kindTruncate:
		s.txn.truncate(l)
	}
	return nil
}

// finish ends the open transaction.
func (s *session) finish() (c *change.Commit, size int, err error) {
	defer rescue(&err)
	c, size = s.txn.finish()
	if c.Large != nil {
		size = max(size, s.f.cfg.MaxBatchBytes) // a batch by itself
	}
	return c, size, nil
}

// rereads is how often a message that makes no sense is asked for again, and how many
// rows of a table must stay so until the table is known to be unreadable.
const rereads = 2

// garbled is what becomes of a message that makes no sense. Nothing of it may be
// applied, and it may not be left out: something on the way may have changed it, so
// the commit is read again, on a new connection. What comes the same again and again
// is so in the server, or not known here, and a person must look.
func (s *session) garbled(problem string) error {
	if s.f.garbled[s.place] >= rereads {
		return fault(ErrUnreadable, "a message %v makes no sense: %s; it came so %d times: look for what changes bytes on the way from Postgres, "+
			"or upgrade pgautomate; to go on behind it, %s", s.place, problem, rereads+1, recreate)
	}
	return &garbledError{s.place, problem}
}

// malformed is garbled for what may be a row: one that comes the same again and again
// does not stop the stream, as no poison may. It is noted, with its table.
func (s *session) malformed(problem string) error {
	err := s.garbled(problem)
	m := &s.wire
	if m.kind != kindInsert && m.kind != kindUpdate && m.kind != kindDelete {
		return err
	}
	l := s.relations[m.relation]
	if l == nil || !s.open {
		return err
	}
	if s.f.unreadable[m.relation] <= rereads {
		if !errors.Is(err, ErrUnreadable) {
			return err
		}
		if s.f.garbled[s.place] == rereads { // not counted yet
			s.f.garbled[s.place]++
			s.f.unreadable[m.relation]++
		}
		s.f.log.Error("a row of the replication stream makes no sense, it is left out and noted", "table", l.relation.String(),
			"place", s.place.String(), "problem", problem)
	}
	s.place.n++
	if l.object != nil {
		if problem != reasonWidth {
			problem = reasonMalformed
		}
		s.txn.undecodable(l, problem)
	}
	return nil
}

// relation takes a table's layout. The server repeats layouts that did not
// change; those keep their pointer.
func (s *session) relation(ctx context.Context, rel *change.Relation) error {
	if l := s.relations[rel.OID]; l != nil && equalLayout(l.relation, rel) {
		return nil
	}
	return s.while(ctx, func() error { return s.resolve(ctx, rel) })
}

func (s *session) resolve(ctx context.Context, rel *change.Relation) error {
	obj, err := s.f.cfg.Objects.Object(ctx, rel)
	if err != nil {
		return fmt.Errorf("look up table %s: %w", rel, err)
	}
	s.relations[rel.OID] = newLayout(rel, obj)
	return nil
}

func equalLayout(a, b *change.Relation) bool {
	return a.Schema == b.Schema && a.Name == b.Name && a.Identity == b.Identity && slices.Equal(a.Columns, b.Columns)
}

func (s *session) commit(ctx context.Context) error {
	m := &s.wire
	s.open = false
	c, size, err := s.finish()
	if err != nil {
		return err
	}
	c.LSN, c.End, c.Time = change.CommitLSN(m.lsn), change.EndLSN(m.end), m.time
	s.txn.commit = nil
	nothing := len(c.Changes) == 0 && c.Large == nil && len(c.Notes) == 0 && len(c.Truncated) == 0 && !s.registry && !s.clock
	if s.ahead != nil {
		return s.commitAhead(ctx, c, nothing)
	}
	if c.End <= s.skipTo || nothing {
		if large, ok := c.Large.(*spill); ok {
			s.spills.close(large)
		}
		s.mu.Lock()
		s.tracker.Skip(c.End)
		s.mu.Unlock()
		if s.registry {
			return s.reload(ctx) // applied by the slot's former owner
		}
		return nil
	}
	s.mu.Lock()
	s.tracker.Commit(c.End)
	s.mu.Unlock()
	s.behind.Store(int64(postgresTime(s.sent).Sub(c.Time)))
	if !s.queue.push(c, size) {
		if err := s.waitFor(ctx, s.queue.space, func() bool { return s.queue.push(c, size) }); err != nil {
			return err
		}
	}
	if !s.registry {
		return nil
	}
	// The barrier: what follows is resolved by the new registry.
	s.queue.nothingMore()
	end := c.End
	err = s.waitFor(ctx, s.applied, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.tracker.Checkpoint() >= end
	})
	if err != nil {
		return err
	}
	return s.reload(ctx)
}

// reload reads the registry anew and resolves every known table by it.
func (s *session) reload(ctx context.Context) error {
	return s.while(ctx, func() error {
		if err := s.f.cfg.Objects.Reload(ctx); err != nil {
			return fmt.Errorf("read the object types: %w", err)
		}
		for _, l := range s.relations {
			if err := s.resolve(ctx, l.relation); err != nil {
				return err
			}
		}
		return nil
	})
}

// waitFor waits, not reading, until ok; the server gets its status messages
// meanwhile. That is the back-pressure: the stream waits in the server.
func (s *session) waitFor(ctx context.Context, wake <-chan struct{}, ok func() bool) error {
	tick := time.NewTicker(s.statusEvery)
	defer tick.Stop()
	for !ok() {
		select {
		case <-wake:
			if s.statusDue.Load() {
				if err := s.sendStatus(ctx); err != nil {
					return err
				}
			}
		case <-s.stopped:
			return errStopping
		case <-tick.C:
			if err := s.sendStatus(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// while runs a call that may take long; the server gets its status messages
// meanwhile.
func (s *session) while(ctx context.Context, call func() error) error {
	result := make(chan error, 1)
	go func() { result <- call() }()
	tick := time.NewTicker(s.statusEvery)
	defer tick.Stop()
	var sendErr error
	for {
		select {
		case err := <-result:
			if err != nil {
				return err
			}
			return sendErr
		case <-tick.C:
			if sendErr == nil {
				sendErr = s.sendStatus(ctx)
			}
		}
	}
}
