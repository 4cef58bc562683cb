-- Backfills: asked for by the API, worked by package backfill. All by primary key
-- unless said otherwise.

-- name: InsertBackfill :one
-- Only for the version that was looked at. trigger_backfills_running_idx refuses a second one.
INSERT INTO pgautomate.trigger_backfills (trigger_id, trigger_version, organization_id, max_objects, per_minute)
SELECT t.id, t.version, t.organization_id, sqlc.narg(max_objects), sqlc.narg(per_minute)
  FROM pgautomate.triggers t WHERE t.id = @trigger_id AND t.version = @version AND t.status NOT IN ('paused', 'invalid')
RETURNING *;

-- name: RunningBackfill :one
-- By trigger_backfills_running_idx.
SELECT id FROM pgautomate.trigger_backfills WHERE trigger_id = @trigger_id AND status IN ('pending', 'running');

-- name: GetBackfill :one
SELECT * FROM pgautomate.trigger_backfills WHERE id = @id AND trigger_id = @trigger_id;

-- name: ListBackfills :many
-- By trigger_backfills_trigger_idx.
SELECT * FROM pgautomate.trigger_backfills WHERE trigger_id = @trigger_id AND id < @before_id ORDER BY id DESC LIMIT @max_rows;

-- name: CancelBackfill :execrows
UPDATE pgautomate.trigger_backfills SET status = 'canceled', error = NULL
 WHERE id = @id AND trigger_id = @trigger_id AND status IN ('pending', 'running');

-- name: BackfillWork :one
-- A backfill with its trigger as it is now and as it was; known: whether the feed
-- has taken that version over, without which its firings would have no action.
SELECT b.status, b.trigger_id, b.trigger_version, b.organization_id, b.max_objects, b.found,
       coalesce(t.status, 'deleted') AS trigger_status, coalesce(t.version, 0) AS trigger_version_now,
       coalesce(t.object_type, '') AS object_type, coalesce(t.query, 'null')::jsonb AS query,
       EXISTS (SELECT FROM pgautomate.trigger_versions v WHERE v.trigger_id = b.trigger_id AND v.version = b.trigger_version) AS known,
       coalesce((SELECT time_zone FROM pgautomate.organizations o WHERE o.id = b.organization_id), 'UTC')::text AS time_zone,
       clock_timestamp()::timestamptz AS now
  FROM pgautomate.trigger_backfills b LEFT JOIN pgautomate.triggers t ON t.id = b.trigger_id
 WHERE b.id = @id;

-- name: TryLockBackfillSearch :one
-- Not the row's lock: who cancels it must not wait for the search.
SELECT pg_try_advisory_xact_lock(hashtextextended('pgautomate.trigger_backfills ' || (@id::bigint)::text, 0));

-- name: BackfillUnsearched :one
SELECT coalesce(status = 'pending' AND found IS NULL, false)::boolean AS unsearched FROM pgautomate.trigger_backfills WHERE id = @id;

-- name: BackfillFound :execrows
UPDATE pgautomate.trigger_backfills
   SET found = @found, status = 'running', started_at = clock_timestamp(), next_at = clock_timestamp(), error = NULL
 WHERE id = @id AND status = 'pending' AND found IS NULL;

-- name: LockBackfill :one
-- None when it ended. Waits for another worker's chunk.
SELECT per_minute, found, position, greatest(extract(epoch FROM next_at - clock_timestamp()), 0)::double precision AS wait_seconds,
       pg_current_wal_insert_lsn()::text AS lsn, clock_timestamp()::timestamptz AS now
  FROM pgautomate.trigger_backfills WHERE id = @id AND status = 'running' AND found IS NOT NULL FOR UPDATE;

-- name: BackfillObjects :many
SELECT position, object_id FROM pgautomate.trigger_backfill_objects
 WHERE backfill_id = @backfill_id AND position > @after ORDER BY backfill_id, position LIMIT @max_rows;

-- name: DropBackfillObjects :execrows
-- What is done, or with an ended backfill all, some at a time.
DELETE FROM pgautomate.trigger_backfill_objects d
 WHERE d.backfill_id = @backfill_id AND d.position <= (
       SELECT max(s.position) FROM (SELECT o.position FROM pgautomate.trigger_backfill_objects o
        WHERE o.backfill_id = @backfill_id AND o.position <= @up_to ORDER BY o.position LIMIT 10000) s);

-- name: AdvanceBackfill :exec
UPDATE pgautomate.trigger_backfills
   SET position = @position, fired = fired + @fired, skipped = skipped + @skipped, error = NULL,
       status = CASE WHEN @position >= found THEN 'completed' ELSE 'running' END::pgautomate.job_status,
       next_at = clock_timestamp() + make_interval(secs => @wait_seconds::double precision)
 WHERE id = @id;

-- name: EndBackfill :exec
UPDATE pgautomate.trigger_backfills SET status = @status, error = @error::text
 WHERE id = @id AND status IN ('pending', 'running');

-- name: DeferBackfill :exec
UPDATE pgautomate.trigger_backfills SET error = @error::text, next_at = clock_timestamp() + interval '1 second'
 WHERE id = @id AND status IN ('pending', 'running');

-- name: SilentBackfills :many
-- Those that nobody seems to work on: their process died. By trigger_backfills_running_idx.
SELECT id, status FROM pgautomate.trigger_backfills
 WHERE status IN ('pending', 'running') AND next_at < clock_timestamp() - interval '15 seconds'
   AND knocked_at < clock_timestamp() - interval '15 seconds'
 FOR UPDATE SKIP LOCKED;

-- name: KnockedForBackfill :exec
UPDATE pgautomate.trigger_backfills SET knocked_at = clock_timestamp() WHERE id = @id;
