package feed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgautomate/pgautomate/change"
	"github.com/pgautomate/pgautomate/db/line"
	"github.com/pgautomate/pgautomate/internal/failpoint"
)

// This file is what happens before the stream: the connection, the checks, the
// making of the slot, and the questions whether slot and checkpoint belong
// together.

// recreate is the fix that most permanent errors name.
const recreate = "run `pgautomate slot recreate`"

// failoverSince is the first version whose logical slots standbys can keep a copy
// of, which serves after their promotion. Our slot is always of that kind: it costs
// nothing where no standby asks for it, and one that does is there to take over.
const failoverSince = 170000

// server is what a replication connection learns about its server.
type server struct {
	version       int
	walTimeout    time.Duration // wal_sender_timeout of this session
	maxSlots      string
	user          string
	flushed       change.LSN
	systemID      string
	timeline      int32
	walLevel      string
	versionString string
}

// connect opens the replication connection. The session's settings fix the text
// form of values, whatever the server's defaults.
func connect(ctx context.Context, url string) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(url)
	if err != nil {
		return nil, fault(ErrServer, "the connection string: %v", err)
	}
	maps.Copy(cfg.RuntimeParams, map[string]string{
		"replication":        "database",
		"application_name":   "pgautomate feed",
		"client_encoding":    "UTF8",
		"datestyle":          "ISO",
		"intervalstyle":      "postgres",
		"timezone":           "UTC",
		"extra_float_digits": "3",
		"bytea_output":       "hex",
		"statement_timeout":  "0",
		"lock_timeout":       "0",
		// Postgres 18 tells by a warning that it left changes out; it must reach us.
		"client_min_messages": "warning",

		"standard_conforming_strings": "on",
	})
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	// A time-out on silence would be wrong: a server that decodes a large
	// transaction of other tables says nothing for long. It is asked instead.
	line.Watch(cfg, nil)
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, explainConnect(ctx, url, err)
	}
	conn.Frontend().SetMaxBodyLen(1 << 30) // Postgres's own limit; a longer one is garbage, for which no memory is taken
	if err := line.Identify(ctx, conn); err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
		return nil, fmt.Errorf("connect for replication: %w", err)
	}
	return conn, nil
}

// explainConnect finds out why a replication connection was refused.
func explainConnect(ctx context.Context, url string, cause error) error {
	var pe *pgconn.PgError
	if !errors.As(cause, &pe) {
		return fmt.Errorf("connect for replication: %w", cause)
	}
	if pe.Code == "42501" {
		return fault(ErrPermission, "%s: run `ALTER ROLE … REPLICATION` for the feed's role", pe.Message)
	}
	plain, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect for replication: %w", cause)
	}
	defer func() { _ = plain.Close(context.WithoutCancel(ctx)) }()
	var level, senders string
	if err := plain.QueryRow(ctx, "SELECT current_setting('wal_level'), current_setting('max_wal_senders')").Scan(&level, &senders); err != nil {
		return fmt.Errorf("connect for replication: %w", cause)
	}
	switch {
	case level != "logical":
		return wrongWALLevel(level)
	case senders == "0":
		return fault(ErrServer, "max_wal_senders is 0: run `ALTER SYSTEM SET max_wal_senders = 10` and restart Postgres")
	case pe.Code == "53300":
		return fmt.Errorf("connect for replication: all max_wal_senders (%s) are in use: %w", senders, cause)
	default:
		return fmt.Errorf("connect for replication: %w", cause)
	}
}

func wrongWALLevel(level string) error {
	return fault(ErrServer, "wal_level is %s: run `ALTER SYSTEM SET wal_level = 'logical'` and restart Postgres", level)
}

// inspect reads and checks the server's settings.
func inspect(ctx context.Context, conn *pgconn.PgConn) (server, error) {
	var s server
	row, err := queryRow(ctx, conn, sqlServer)
	if err != nil {
		return s, err
	}
	s.version, _ = strconv.Atoi(row[0])
	s.versionString, s.walLevel = row[1], row[2]
	if ms, err := strconv.Atoi(row[3]); err == nil {
		s.walTimeout = time.Duration(ms) * time.Millisecond
	}
	s.maxSlots, s.user = row[4], row[5]
	if row[6] == "" {
		return s, errors.New("the server is a standby: the feed waits for it to be promoted, or for the address to lead to the primary")
	}
	if s.flushed, err = change.ParseLSN(row[6]); err != nil {
		return s, err
	}
	if row, err = queryRow(ctx, conn, "IDENTIFY_SYSTEM"); err != nil {
		return s, err
	}
	s.systemID = row[0]
	timeline, err := strconv.ParseInt(row[1], 10, 32)
	if err != nil {
		return s, fmt.Errorf("IDENTIFY_SYSTEM: timeline %q", row[1])
	}
	s.timeline = int32(timeline)
	switch {
	case s.version < 140000:
		return s, fault(ErrServer, "it is Postgres %s: upgrade to 14 or later", s.versionString)
	case s.walLevel != "logical":
		return s, wrongWALLevel(s.walLevel)
	case s.walTimeout == 0:
		// The server would keep the slot for ever for a reader that is gone, and no
		// standby could take over.
		s.walTimeout = time.Minute
		if _, err := query(ctx, conn, "SET wal_sender_timeout = '1min'"); err != nil {
			return s, err
		}
	}
	return s, nil
}

// checkPublication refuses what would hide changes from the feed.
func checkPublication(ctx context.Context, conn *pgconn.PgConn, s server, name string) error {
	rows, err := query(ctx, conn, fmt.Sprintf(sqlPublication, quoteLiteral(name)))
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fault(ErrPublication, "publication %q does not exist: run `pgautomate watch TABLE`, which creates it, or restart pgautomate", name)
	}
	for i, what := range []string{"insert", "update", "delete"} {
		if rows[0][i] != "t" {
			return fault(ErrPublication, "publication %q leaves out %ss: run `ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate')`",
				name, what, quoteIdent(name))
		}
	}
	if s.version < 150000 {
		return nil
	}
	if rows, err = query(ctx, conn, fmt.Sprintf(sqlPublicationParts, quoteLiteral(name))); err != nil {
		return err
	}
	if len(rows) == 0 {
		return nil
	}
	var tables []string
	for _, row := range rows {
		what := "a column list"
		if row[1] == "t" {
			what = "a row filter"
			if row[2] == "t" {
				what += " and a column list"
			}
		}
		tables = append(tables, row[0]+" ("+what+")")
	}
	return fault(ErrPublication, "publication %q hides part of %s, so before and after would be wrong: "+
		"drop the table from the publication and add it again without filter and columns", name, strings.Join(tables, ", "))
}

// slotRow is a row of pg_replication_slots.
type slotRow struct {
	exists    bool
	kind      string
	plugin    string
	database  string
	ours      bool // of this database
	active    bool
	activePID string
	walStatus string
	reason    string // why it was invalidated; Postgres 17 and later
	failover  bool   // standbys may keep a copy; Postgres 17 and later
	confirmed change.EndLSN
}

// elses says that the slot can't be one of this package's.
func (s slotRow) elses() bool {
	return s.exists && (s.kind != "logical" || s.plugin != "pgoutput" || !s.ours)
}

func (f *Feed) elsesSlot(s slotRow) error {
	return fault(ErrForeignSlot, "slot %s is a %s slot (plugin %q, database %q), not one of ours: configure another slot name",
		f.cfg.Slot, s.kind, s.plugin, s.database)
}

func readSlot(ctx context.Context, conn *pgconn.PgConn, name string) (slotRow, error) {
	rows, err := query(ctx, conn, fmt.Sprintf(sqlSlot, quoteLiteral(name)))
	if err != nil || len(rows) == 0 {
		return slotRow{}, err
	}
	r := rows[0]
	s := slotRow{
		exists: true, kind: r[0], plugin: r[1], database: r[2],
		active: r[3] == "t", activePID: r[4], walStatus: r[5], ours: r[7] == "t", reason: r[8],
		failover: r[9] == "true",
	}
	if r[6] != "" {
		lsn, err := change.ParseLSN(r[6])
		if err != nil {
			return s, err
		}
		s.confirmed = change.EndLSN(lsn)
	}
	return s, nil
}

// prepare gives the checkpoint to start from and the slot, making the slot when
// there was none ever. It returns errStandby while another process has the slot.
func (f *Feed) prepare(ctx context.Context, conn *pgconn.PgConn, s server) (Checkpoint, slotRow, error) {
	if err := checkPublication(ctx, conn, s, f.cfg.Publication); err != nil {
		return Checkpoint{}, slotRow{}, err
	}
	for {
		// The slot first, then the checkpoint: a running feed moves the slot only
		// after the checkpoint, so in this order the slot never seems ahead.
		slot, err := readSlot(ctx, conn, f.cfg.Slot)
		if err != nil {
			return Checkpoint{}, slotRow{}, err
		}
		cp, found, err := f.cfg.Store.Load(ctx)
		if err != nil {
			return Checkpoint{}, slotRow{}, err
		}
		switch {
		case slot.elses():
			return Checkpoint{}, slotRow{}, f.elsesSlot(slot)
		case !found && slot.exists:
			return Checkpoint{}, slotRow{}, fault(ErrForeignSlot, "slot %s exists, but there is no checkpoint for it: %s", f.cfg.Slot, recreate)
		case !found || cp.ConsistentPoint == 0:
			err := f.makeSlot(ctx, conn, s, "the making of the slot was interrupted", false)
			if errors.Is(err, errAlreadyMade) {
				continue
			}
			if err != nil {
				return Checkpoint{}, slotRow{}, err
			}
			continue
		case slot.active:
			f.setState(StateStandby, nil)
			if !sleep(ctx, f.cfg.StandbyInterval) {
				return Checkpoint{}, slotRow{}, ctx.Err()
			}
			if slot.activePID == f.former {
				// Our last connection, which we closed. If the server did not get to
				// know of that, it would wait for wal_sender_timeout.
				if _, err := query(ctx, conn, fmt.Sprintf(sqlEnd, quoteLiteral(f.cfg.Slot), f.former)); err != nil {
					return Checkpoint{}, slotRow{}, err
				}
			}
			continue
		}
		return cp, slot, f.verify(ctx, conn, s, slot, cp)
	}
}

// verify answers whether slot and checkpoint belong together, so that streaming
// from the checkpoint leaves nothing out. When it doesn't know, the answer is no.
//
// A slot that is at the checkpoint or before it, on a server whose history holds
// the checkpoint, sends every commit after it, whoever made or copied the slot:
// it was at that position or before when it was made. So a standby's copy of a
// failover slot is accepted after the standby's promotion, and so is any other
// that fits; a slot that was made by hand since then is ahead, and refused.
func (f *Feed) verify(ctx context.Context, conn *pgconn.PgConn, s server, slot slotRow, cp Checkpoint) error {
	if cp.SystemIdentifier != s.systemID {
		return fault(ErrForeignServer, "the checkpoint of slot %s is of server %s, this is server %s: connect to the right one, or %s",
			f.cfg.Slot, cp.SystemIdentifier, s.systemID, recreate)
	}
	left, err := f.leftAt(ctx, conn, s, cp)
	if err != nil {
		return err
	}
	promoted := cp.Timeline != s.timeline
	switch {
	case promoted && change.LSN(cp.Position) > left:
		return fault(ErrForeignServer, "the checkpoint %v of slot %s is ahead of this server, which was promoted at %v, to timeline %d: "+
			"it lacks what had been read by then: %s", cp.Position, f.cfg.Slot, left, s.timeline, recreate)
	case promoted && !slot.exists:
		return fault(ErrSlotLost, "the server was promoted at %v, to timeline %d, and slot %s did not come along; "+
			"changes since %v are not being read: %s", left, s.timeline, f.cfg.Slot, cp.Position, recreate)
	case !slot.exists:
		return fault(ErrSlotLost, "slot %s no longer exists; changes since %v are not being read: %s", f.cfg.Slot, cp.Position, recreate)
	case slot.walStatus == "lost":
		why := fmt.Sprintf("for the log since %v exceeded max_slot_wal_keep_size", cp.Position)
		if slot.reason != "" && slot.reason != "wal_removed" {
			why = fmt.Sprintf("for %s; changes since %v are lost", slot.reason, cp.Position)
		}
		return fault(ErrSlotLost, "slot %s was invalidated, %s: %s", f.cfg.Slot, why, recreate)
	case promoted && slot.confirmed > cp.Position:
		return fault(ErrForeignSlot, "the server was promoted at %v, to timeline %d; its slot %s is at %v, ahead of the checkpoint %v: "+
			"the former primary's last checkpoint did not come along, or the slot was made by hand: %s",
			left, s.timeline, f.cfg.Slot, slot.confirmed, cp.Position, recreate)
	case slot.confirmed > cp.Position:
		return fault(ErrForeignSlot, "slot %s is at %v, ahead of the checkpoint %v: it was recreated or moved by someone else: %s",
			f.cfg.Slot, slot.confirmed, cp.Position, recreate)
	}
	if change.LSN(cp.Position) > s.flushed {
		// s.flushed was read first: it may just be older than the checkpoint.
		row, err := queryRow(ctx, conn, "SELECT pg_current_wal_flush_lsn()")
		if err != nil {
			return err
		}
		now, err := change.ParseLSN(row[0])
		if err != nil {
			return err
		}
		if change.LSN(cp.Position) > now {
			return fault(ErrForeignServer, "the checkpoint %v of slot %s is ahead of the server's log %v: the server was restored or failed over with a loss: %s",
				cp.Position, f.cfg.Slot, now, recreate)
		}
	}
	if promoted {
		f.log.Info("the server was promoted, and has the slot and the checkpoint", "at", left, "timeline", s.timeline)
		return f.cfg.Store.setTimeline(ctx, cp, s.timeline)
	}
	return nil
}

// allowFailover makes a failover slot of one that is older than that.
func (f *Feed) allowFailover(ctx context.Context, conn *pgconn.PgConn, s server, slot slotRow) {
	if s.version < failoverSince || slot.failover {
		return
	}
	if _, err := query(ctx, conn, fmt.Sprintf("ALTER_REPLICATION_SLOT %s (FAILOVER)", quoteIdent(f.cfg.Slot))); err != nil {
		f.log.Warn("the slot can't be made a failover slot: standbys will not keep a copy of it", "error", err)
	}
}

// copied says whether standbys may have a copy of the slot, and will have one of the
// checkpoint: it is in the same database. Then it matters how far they have it
// before a position is confirmed (see Tracker).
func (f *Feed) copied(ctx context.Context, conn *pgconn.PgConn, s server, cp Checkpoint) (bool, error) {
	if s.version < failoverSince {
		return false, nil
	}
	row, err := queryRow(ctx, conn, sqlHasTable)
	if err != nil || row[0] != "t" {
		return false, err
	}
	row, err = queryRow(ctx, conn, fmt.Sprintf(sqlKept, quoteLiteral(f.cfg.Slot), cp.Generation, quoteLiteral(cp.SystemIdentifier)))
	return err == nil && row[0] == "t", err
}

// leftAt is where the server's history leaves the checkpoint's timeline; 0 when it
// is on it still.
func (f *Feed) leftAt(ctx context.Context, conn *pgconn.PgConn, s server, cp Checkpoint) (change.LSN, error) {
	if cp.Timeline == s.timeline {
		return 0, nil
	}
	lost := func(why string) error {
		return fault(ErrForeignServer, "the checkpoint %v of slot %s is on timeline %d, the server is on timeline %d %s: %s",
			cp.Position, f.cfg.Slot, cp.Timeline, s.timeline, why, recreate)
	}
	if s.timeline < cp.Timeline {
		return 0, lost("that came before it")
	}
	row, err := queryRow(ctx, conn, fmt.Sprintf("TIMELINE_HISTORY %d", s.timeline))
	if err != nil {
		return 0, err
	}
	for entry := range strings.Lines(row[1]) {
		if fields := strings.Fields(entry); len(fields) >= 2 && fields[0] == strconv.Itoa(int(cp.Timeline)) {
			return change.ParseLSN(fields[1])
		}
	}
	return 0, lost("that never was on it")
}

// errAlreadyMade: another process completed the slot meanwhile.
var errAlreadyMade = errors.New("the slot was made meanwhile")

// makeSlot makes the slot and the first checkpoint. The intention is recorded
// before the slot exists: a crash leaves an intention, perhaps with a slot that
// promised nothing to anyone, and both are made anew. An advisory lock lets one
// process at a time do so.
func (f *Feed) makeSlot(ctx context.Context, conn *pgconn.PgConn, s server, reason string, force bool) (err error) {
	row, err := queryRow(ctx, conn, fmt.Sprintf(sqlLock, quoteLiteral(f.cfg.Slot)))
	if err != nil {
		return err
	}
	if row[0] != "t" {
		return errStandby
	}
	defer func() {
		if _, e := query(context.WithoutCancel(ctx), conn, sqlUnlock); e != nil && err == nil {
			err = e
		}
	}()

	cp, found, err := f.cfg.Store.Load(ctx)
	if err != nil {
		return err
	}
	if found && cp.ConsistentPoint != 0 && !force {
		return errAlreadyMade
	}
	slot, err := readSlot(ctx, conn, f.cfg.Slot)
	if err != nil {
		return err
	}
	if slot.exists {
		if slot.elses() {
			return f.elsesSlot(slot) // not ours to drop, not even when asked to
		}
		if slot.active {
			return fmt.Errorf("%w: process %s has it", errStandby, slot.activePID)
		}
		if !found && !force {
			return fault(ErrForeignSlot, "slot %s exists, but there is no checkpoint for it: %s", f.cfg.Slot, recreate)
		}
	}
	var left change.LSN
	if found && cp.SystemIdentifier == s.systemID && cp.Timeline != s.timeline {
		if left, err = f.leftAt(ctx, conn, s, cp); err == nil {
			reason += fmt.Sprintf(" (the server was promoted at %v, to timeline %d)", left, s.timeline)
		}
	}
	intent, err := f.cfg.Store.intend(ctx, s.systemID, s.timeline)
	if err != nil {
		return err
	}
	if left != 0 {
		intent.since = min(intent.since, change.EndLSN(left)) // what was read beyond it, this server never had
	}
	if slot.exists {
		if err := dropSlot(ctx, conn, f.cfg.Slot); err != nil {
			return err
		}
	}
	failpoint.Hit("slot-intended")
	f.log.Info("making the replication slot; it waits for the transactions that are open now")
	options := "EXPORT_SNAPSHOT"
	if s.version >= failoverSince {
		options = "(SNAPSHOT 'export', FAILOVER)"
	}
	row, err = queryRow(ctx, conn, fmt.Sprintf("CREATE_REPLICATION_SLOT %s LOGICAL pgoutput %s", quoteIdent(f.cfg.Slot), options))
	if err != nil {
		return explainCreate(s, err)
	}
	failpoint.Hit("slot-made")
	consistent, err := change.ParseLSN(row[1])
	if err == nil {
		err = f.writeFirst(ctx, row[2], consistent, intent, reason)
	}
	if err != nil {
		if e := dropSlot(context.WithoutCancel(ctx), conn, f.cfg.Slot); e != nil {
			f.log.Warn("drop the unfinished slot", "error", e)
		}
		return err
	}
	f.log.Info("replication slot made", "consistent_point", consistent)
	return nil
}

// writeFirst runs Init and writes the first checkpoint, in one transaction when
// both are in one database.
func (f *Feed) writeFirst(ctx context.Context, snapshot string, consistent change.LSN, intent intention, reason string) error {
	cfg, err := pgx.ParseConfig(f.cfg.Conn)
	if err != nil {
		return err
	}
	cfg.RuntimeParams["application_name"] = "pgautomate feed"
	line.Watch(&cfg.Config, nil)
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connect to read as of the slot's start: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := line.Identify(ctx, conn.PgConn()); err != nil {
		return err
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "SET TRANSACTION SNAPSHOT "+quoteLiteral(snapshot)); err != nil {
		return fmt.Errorf("import the slot's snapshot: %w", err)
	}
	if f.cfg.Init != nil {
		if err := f.cfg.Init(ctx, tx); err != nil {
			return fmt.Errorf("read as of the slot's start: %w", err)
		}
	}
	var same bool
	if err := tx.QueryRow(ctx, sqlHasTable).Scan(&same); err != nil {
		return err
	}
	if same {
		if err := tx.QueryRow(ctx, sqlIsOurs, f.cfg.Slot, intent.generation, intent.updatedAt).Scan(&same); err != nil {
			return err
		}
	}
	if same {
		if err := f.cfg.Store.complete(ctx, tx, intent, consistent, reason); err != nil {
			return err
		}
		return tx.Commit(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, f.cfg.Store.pool, func(tx pgx.Tx) error {
		return f.cfg.Store.complete(ctx, tx, intent, consistent, reason)
	})
}

func explainCreate(s server, err error) error {
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		return fmt.Errorf("create the replication slot: %w", err)
	}
	switch pe.Code {
	case "53400":
		return fault(ErrServer, "all %s replication slots are in use: drop one that nobody reads (see pg_replication_slots), "+
			"or run `ALTER SYSTEM SET max_replication_slots = …` and restart Postgres", s.maxSlots)
	case "42501":
		return fault(ErrPermission, "%s: run `ALTER ROLE %s REPLICATION`", pe.Message, quoteIdent(s.user))
	default:
		return fmt.Errorf("create the replication slot: %w", err)
	}
}

func dropSlot(ctx context.Context, conn *pgconn.PgConn, name string) error {
	if _, err := query(ctx, conn, "DROP_REPLICATION_SLOT "+quoteIdent(name)); err != nil {
		return fmt.Errorf("drop slot %s: %w", name, err)
	}
	return nil
}

// Recreated says what Recreate did.
type Recreated struct {
	From change.EndLSN // the former checkpoint; 0: there was none
	To   change.LSN    // start of the new slot: what was committed in between was never read
}

// Recreate makes the slot anew, whatever became of the old one, and records the
// gap in pgautomate.feed_gaps. It is the operator's answer to ErrSlotLost,
// ErrForeignSlot, ErrForeignServer and a dropped publication; no feed may be
// streaming from the slot.
func Recreate(ctx context.Context, cfg Config, reason string) (Recreated, error) {
	f, err := New(cfg)
	if err != nil {
		return Recreated{}, err
	}
	conn, err := connect(ctx, cfg.Conn)
	if err != nil {
		return Recreated{}, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	s, err := inspect(ctx, conn)
	if err != nil {
		return Recreated{}, err
	}
	if err := checkPublication(ctx, conn, s, cfg.Publication); err != nil {
		return Recreated{}, err
	}
	before, _, err := f.cfg.Store.Load(ctx)
	if err != nil {
		return Recreated{}, err
	}
	if err := f.makeSlot(ctx, conn, s, reason, true); err != nil {
		if errors.Is(err, errStandby) {
			err = fmt.Errorf("%w: stop every pgautomate that reads it first", err)
		}
		return Recreated{}, err
	}
	after, _, err := f.cfg.Store.Load(ctx)
	return Recreated{From: before.Position, To: after.ConsistentPoint}, err
}

// query runs one command over the simple protocol.
func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for _, result := range results {
		for _, values := range result.Rows {
			row := make([]string, len(values))
			for i, v := range values {
				row[i] = string(v)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func queryRow(ctx context.Context, conn *pgconn.PgConn, sql string) ([]string, error) {
	rows, err := query(ctx, conn, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("%d rows where one was expected", len(rows))
	}
	return rows[0], nil
}

func quoteIdent(s string) string { return pgx.Identifier{s}.Sanitize() }

// quoteLiteral quotes for standard_conforming_strings = on, which connect sets.
func quoteLiteral(s string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(s, "\x00", ""), "'", "''") + "'"
}
