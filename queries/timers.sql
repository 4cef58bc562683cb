-- The timers of triggers that begin to match by the passing of time. All of it
-- runs in the feed's transaction.

-- name: TriggerClock :one
SELECT at AS clock_at FROM pgautomate.trigger_clock;

-- name: SetTriggerClock :exec
INSERT INTO pgautomate.trigger_clock (at) VALUES (@clock_at) ON CONFLICT (only_row) DO UPDATE SET at = excluded.at;

-- trigger_timers_due_idx, its first entry.
-- name: NextTimer :one
SELECT due_at FROM pgautomate.trigger_timers ORDER BY due_at LIMIT 1;

-- trigger_timers_due_idx.
-- name: DueTimers :many
SELECT trigger_id, object_id, due_at FROM pgautomate.trigger_timers
 WHERE due_at <= @until ORDER BY due_at, trigger_id, object_id LIMIT @most;

-- trigger_timers_pkey.
-- name: PutTimers :exec
INSERT INTO pgautomate.trigger_timers (trigger_id, object_id, due_at)
SELECT unnest(@trigger_ids::bigint[]), unnest(@object_ids::text[]), unnest(@due_ats::timestamptz[])
ON CONFLICT (trigger_id, object_id) DO UPDATE SET due_at = excluded.due_at
 WHERE trigger_timers.due_at <> excluded.due_at;

-- trigger_timers_pkey.
-- name: DeleteTimers :exec
DELETE FROM pgautomate.trigger_timers t
 USING (SELECT unnest(@trigger_ids::bigint[]) AS trigger_id, unnest(@object_ids::text[]) AS object_id) gone
 WHERE t.trigger_id = gone.trigger_id AND t.object_id = gone.object_id;

-- trigger_timers_pkey.
-- name: DeleteTimersOf :exec
DELETE FROM pgautomate.trigger_timers WHERE trigger_id = ANY (@trigger_ids::bigint[]);

-- name: TimersSet :exec
UPDATE pgautomate.live_triggers SET timers_version = version WHERE trigger_id = ANY (@trigger_ids::bigint[]);

-- Ends a commit that wakes the feed once a moment has come, and says how long it
-- is until then.
-- name: Tick :one
SELECT (CASE WHEN c.now >= c.due THEN pg_logical_emit_message(true, 'pgautomate.clock', '') END IS NOT NULL)::boolean AS ticked,
       extract(epoch FROM c.due - c.now)::double precision AS seconds
  FROM (SELECT clock_timestamp() AS now, @due_at::timestamptz AS due) c;
