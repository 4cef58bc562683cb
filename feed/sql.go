package feed

// All SQL of this package. The queries on the source database run on the
// replication connection, which speaks only the simple protocol: their values
// are quoted by quoteLiteral.

const (
	// Primary key.
	sqlLoad = `
SELECT system_identifier::text, timeline, coalesce(consistent_point::text, ''), coalesce(position::text, ''),
       generation, updated_at
FROM pgautomate.feed_checkpoints
WHERE slot_name = $1`

	// An unfinished row may belong to a process that died: the next one takes it
	// over under a new generation, which fences the former. A row's position is
	// kept: it is where the gap starts.
	sqlIntend = `
INSERT INTO pgautomate.feed_checkpoints (slot_name, system_identifier, timeline, generation)
VALUES ($1, $2, $3, 1)
ON CONFLICT (slot_name) DO UPDATE
SET system_identifier = excluded.system_identifier, timeline = excluded.timeline, consistent_point = NULL,
    generation = feed_checkpoints.generation + 1
RETURNING generation, coalesce(position::text, ''), updated_at`

	sqlComplete = `
UPDATE pgautomate.feed_checkpoints
SET consistent_point = $3::text::pg_lsn, position = $3::text::pg_lsn, updated_at = now()
WHERE slot_name = $1 AND generation = $2 AND consistent_point IS NULL`

	sqlGap = `
INSERT INTO pgautomate.feed_gaps (slot_name, from_lsn, to_lsn, from_time, to_time, reason, recorded_at)
VALUES ($1, $2::text::pg_lsn, $3::text::pg_lsn, $4, now(), $5, now())`

	// Primary key; HOT, as no indexed column changes.
	sqlAdvance = `
UPDATE pgautomate.feed_checkpoints
SET position = $4::text::pg_lsn, updated_at = now()
WHERE slot_name = $1 AND generation = $2 AND position = $3::text::pg_lsn AND consistent_point IS NOT NULL`

	// The same, but an error when the row is another one: what is sent behind it in
	// the same round trip, the COMMIT, is not carried out then.
	sqlAdvanceOrFail = `
WITH moved AS (` + sqlAdvance + `
RETURNING 1)
SELECT 1 / count(*) FROM moved`
	divisionByZero = "22012"

	sqlTimeline = `
UPDATE pgautomate.feed_checkpoints
SET timeline = $3
WHERE slot_name = $1 AND generation = $2`

	// Where the log is now, after the checkpoint's own commit, and how far the
	// standbys have it that must not fall behind a failover slot; '' when none must.
	sqlStandbys = `
SELECT pg_current_wal_flush_lsn()::text,
       coalesce((SELECT min(coalesce(r.restart_lsn, '0/0'))
                 FROM unnest(string_to_array(current_setting('synchronized_standby_slots'), ',')) AS n(name)
                 LEFT JOIN pg_replication_slots r ON r.slot_name = trim(BOTH ' "' FROM n.name))::text, '')`

	// Is the checkpoint of this database the row that was just written?
	sqlHasTable = `SELECT to_regclass('pgautomate.feed_checkpoints') IS NOT NULL`
	sqlIsOurs   = `
SELECT EXISTS (
    SELECT FROM pgautomate.feed_checkpoints
    WHERE slot_name = $1 AND generation = $2 AND consistent_point IS NULL AND updated_at = $3)`
)

// On the source database, simple protocol.
const (
	sqlServer = `
SELECT current_setting('server_version_num'), current_setting('server_version'), current_setting('wal_level'),
       (SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'),
       current_setting('max_replication_slots'), current_user,
       CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_current_wal_flush_lsn()::text END`

	sqlSlot = `
SELECT slot_type, coalesce(plugin, ''), coalesce(database, ''), active, coalesce(active_pid, 0),
       coalesce(wal_status, ''), coalesce(confirmed_flush_lsn::text, ''), coalesce(database = current_database(), false),
       coalesce(to_jsonb(s) ->> 'invalidation_reason', ''), coalesce(to_jsonb(s) ->> 'failover', 'false')
FROM pg_replication_slots s
WHERE slot_name = %s`

	sqlEnd = `
SELECT pg_terminate_backend(active_pid)
FROM pg_replication_slots
WHERE slot_name = %s AND active_pid = %s`

	sqlPublication = `
SELECT pubinsert, pubupdate, pubdelete
FROM pg_publication
WHERE pubname = %s`

	// Postgres 15 and later: row filters and column lists.
	sqlPublicationParts = `
SELECT r.prrelid::regclass::text, r.prqual IS NOT NULL, r.prattrs IS NOT NULL
FROM pg_publication_rel r
JOIN pg_publication p ON p.oid = r.prpubid
WHERE p.pubname = %s AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)
ORDER BY 1`

	// Is the checkpoint kept in this database?
	sqlKept = `
SELECT EXISTS (
    SELECT FROM pgautomate.feed_checkpoints
    WHERE slot_name = %s AND generation = %d AND system_identifier = %s)`

	// Held by the connection that makes or takes over a slot.
	sqlLock   = `SELECT pg_try_advisory_lock(hashtextextended('pgautomate feed ' || %s, 0))`
	sqlUnlock = `SELECT pg_advisory_unlock_all()`
)
