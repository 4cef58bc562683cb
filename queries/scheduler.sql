-- What the scheduler asks, of lead_stage_actions and notification_jobs together
-- (work): of each index named here the other table has its own. Each statement says
-- which status it wants, or doesn't, so that the tables of finished actions are in no
-- plan; "not ended" where the index of what is in flight would be the wrong way in. A claim's cost is that of what it claims: it goes in
-- by lanes_next_idx (lanes whose time has come), then by
-- lead_stage_actions_due_idx (each lane's oldest due actions).

-- Is there anything to do at all? Index probes.
-- name: AnythingDue :one
SELECT EXISTS (SELECT FROM pgautomate.due_signals) AS signals,
       EXISTS (SELECT FROM pgautomate.advance_later WHERE noted_at < clock_timestamp() - interval '1 second') AS stalled,
       EXISTS (SELECT FROM pgautomate.notifications_later WHERE noted_at < clock_timestamp() - interval '200 milliseconds') AS stalled_notifications;

-- Signals become lanes. It doesn't wait for the disk: what the server forgets in a crash is still a signal. due_signals_pkey.
-- name: MergeSignals :execrows
WITH gone AS (
    DELETE FROM pgautomate.due_signals WHERE id = ANY (ARRAY(
        SELECT s.id FROM pgautomate.due_signals s WHERE (SELECT set_config('synchronous_commit', 'off', true)) <> ''
         ORDER BY s.id LIMIT @most::bigint FOR UPDATE SKIP LOCKED))
    RETURNING organization_id, action_type, perform_at
)
INSERT INTO pgautomate.lanes AS l (organization_id, action_type, next_at)
SELECT organization_id, action_type, min(perform_at) FROM gone GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (organization_id, action_type) DO UPDATE SET next_at = least(l.next_at, excluded.next_at);

-- Queued and running by type, all organizations, but for what those run that claim for themselves.
-- lead_stage_actions_in_flight_idx; reads only what is in flight.
-- name: InFlight :many
SELECT action_type, count(*) AS actions FROM pgautomate.work
 WHERE status IN ('queued', 'running')
   AND (worker_id IS NULL OR worker_id NOT IN (SELECT w.id FROM pgautomate.workers w WHERE w.claims))
 GROUP BY action_type;

-- What live workers can run at once, by type; 0 of those that claim for themselves.
-- name: WorkerCapacity :many
SELECT c.key::text AS action_type, sum(CASE WHEN w.claims THEN 0 ELSE c.value::integer END)::bigint AS capacity
  FROM pgautomate.workers w CROSS JOIN LATERAL jsonb_each_text(w.capacity) c
 WHERE w.heartbeat_at > now() - make_interval(secs => @dead_after_seconds)
 GROUP BY 1;

-- Lanes whose time has come, longest waiting first, of the types that have room.
-- A budget of type '*' is shared by an organization's lanes, so it is locked too,
-- here and not where it is read: what is read must be newer than the lock. Who
-- doesn't get the lock leaves the lane for the next round. lanes_next_idx.
-- name: LockLanes :many
SELECT l.organization_id, l.action_type,
       CASE WHEN EXISTS (SELECT FROM pgautomate.throttles x
                          WHERE x.organization_id IN (l.organization_id, '*') AND x.action_type = '*')
            THEN pg_try_advisory_xact_lock(hashtextextended('pgautomate.budget:' || l.organization_id, 0))
            ELSE true END::boolean AS locked
  FROM (SELECT unnest(@action_types::text[]) AS action_type, unnest(@most::bigint[]) AS most) t
 CROSS JOIN LATERAL (
       SELECT x.organization_id, x.action_type FROM pgautomate.lanes x
        WHERE x.action_type = t.action_type AND x.next_at <= now()
        ORDER BY x.next_at LIMIT t.most FOR UPDATE SKIP LOCKED) l;

-- The same for types that no worker knows.
-- name: LockUnknownLanes :many
SELECT organization_id, action_type FROM pgautomate.lanes
 WHERE action_type <> ALL (@known::text[]) AND next_at <= now()
 ORDER BY next_at LIMIT @most::bigint FOR UPDATE SKIP LOCKED;

-- Each lane's oldest parked action and timer, the throttle that holds for it and
-- what of it is used.
-- name: LaneHeads :many
SELECT w.organization_id::text AS organization_id, w.action_type::text AS action_type,
       (SELECT a.perform_at FROM pgautomate.work a
         WHERE a.organization_id = w.organization_id AND a.action_type = w.action_type
           AND a.status = 'pending' AND a.perform_at IS NOT NULL AND NOT a.paused
         ORDER BY a.perform_at, a.id LIMIT 1) AS pending_at,
       (SELECT a.perform_at FROM pgautomate.work a
         WHERE a.organization_id = w.organization_id AND a.action_type = w.action_type AND a.status = 'delayed' AND NOT a.paused
         ORDER BY a.perform_at, a.id LIMIT 1) AS timer_at,
       now()::timestamptz AS now,
       coalesce(th.action_type, '')::text AS budget, th.max_starts, th.max_running,
       coalesce(u.starts, 0)::bigint AS starts,
       coalesce(u.first_end + th.per, now())::timestamptz AS frees_at,
       (now() + coalesce(th.per, '0') * 65 / 64)::timestamptz AS frees_what_starts_now_at,
       coalesce(f.queued, 0)::bigint AS queued, coalesce(f.running, 0)::bigint AS running
  FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@action_types::text[]) AS action_type) w
  LEFT JOIN LATERAL (
       SELECT x.organization_id, x.action_type, x.max_starts, x.per, x.max_running FROM pgautomate.throttles x
        WHERE x.organization_id IN (w.organization_id, '*') AND x.action_type IN (w.action_type, '*')
        ORDER BY (x.organization_id = '*'), (x.action_type = '*') LIMIT 1) th ON true
  LEFT JOIN LATERAL (
       SELECT sum(s.starts) AS starts, min(s.slice_end) AS first_end FROM pgautomate.throttle_starts s
        WHERE s.organization_id = w.organization_id AND s.action_type = th.action_type
          AND s.slice_end > now() - th.per) u ON th.max_starts IS NOT NULL
  LEFT JOIN LATERAL (
       SELECT count(*) FILTER (WHERE a.status = 'queued') AS queued, count(*) FILTER (WHERE a.status = 'running') AS running
         FROM pgautomate.work a
        WHERE a.organization_id = w.organization_id AND a.status IN ('queued', 'running')
          AND (a.action_type = th.action_type
               OR th.action_type = '*' AND NOT EXISTS (
                  SELECT FROM pgautomate.throttles y
                   WHERE y.action_type = a.action_type
                     AND (y.organization_id = w.organization_id OR y.organization_id = '*' AND th.organization_id = '*')))
       ) f ON th.action_type IS NOT NULL;

-- The due-query: each lane's oldest due actions, as many as it may have, and no more of a type than there is room for:
-- lanes come in the order in which they are given.
-- lead_stage_actions_due_idx; reads exactly what it claims.
-- name: ClaimDue :many
UPDATE pgautomate.work q SET status = 'queued', queued_at = now()
 WHERE q.status = 'pending' AND q.id = ANY (ARRAY(
       SELECT d.id
         FROM (SELECT unnest(@types::text[]) AS action_type, unnest(@rooms::bigint[]) AS room) t
        CROSS JOIN LATERAL (
              SELECT l.id
                FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@action_types::text[]) AS action_type,
                             unnest(@most::bigint[]) AS most) w
               CROSS JOIN LATERAL (
                     SELECT a.id FROM pgautomate.work a
                      WHERE a.organization_id = w.organization_id AND a.action_type = w.action_type
                        AND a.status = 'pending' AND a.perform_at IS NOT NULL AND NOT a.paused AND a.perform_at <= now()
                      ORDER BY a.perform_at, a.id LIMIT w.most FOR UPDATE SKIP LOCKED) l
               WHERE w.action_type = t.action_type LIMIT t.room) d))
RETURNING q.id, q.organization_id, q.action_type;

-- Timers that have run out: no start, so no token, but they run. lead_stage_actions_timer_idx.
-- name: ClaimTimers :many
UPDATE pgautomate.work q SET status = 'queued', queued_at = now()
 WHERE q.status = 'delayed' AND q.id = ANY (ARRAY(
       SELECT d.id
         FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@action_types::text[]) AS action_type,
                      unnest(@most::bigint[]) AS most) w
        CROSS JOIN LATERAL (
              SELECT a.id FROM pgautomate.work a
               WHERE a.organization_id = w.organization_id AND a.action_type = w.action_type
                 AND a.status = 'delayed' AND NOT a.paused AND a.perform_at <= now()
               ORDER BY a.perform_at, a.id LIMIT w.most FOR UPDATE SKIP LOCKED) d))
RETURNING q.id, q.organization_id, q.action_type;

-- The due-query for this process's own workers: what ClaimDue and StartActions do, in one.
-- name: StartDue :many
UPDATE pgautomate.work q
   SET status = 'running', worker_id = @worker_id::bigint, fence = q.fence + 1, queued_at = now(),
       started_at = CASE WHEN q.timer THEN q.started_at ELSE now() END,
       attempt = q.attempt + CASE WHEN q.timer THEN 0 ELSE 1 END
 WHERE q.status = 'pending' AND q.id = ANY (ARRAY(
       SELECT d.id
         FROM (SELECT unnest(@types::text[]) AS action_type, unnest(@rooms::bigint[]) AS room) t
        CROSS JOIN LATERAL (
              SELECT l.id
                FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@action_types::text[]) AS action_type,
                             unnest(@most::bigint[]) AS most) w
               CROSS JOIN LATERAL (
                     SELECT a.id FROM pgautomate.work a
                      WHERE a.organization_id = w.organization_id AND a.action_type = w.action_type
                        AND a.status = 'pending' AND a.perform_at IS NOT NULL AND NOT a.paused AND a.perform_at <= now()
                      ORDER BY a.perform_at, a.id LIMIT w.most FOR UPDATE SKIP LOCKED) l
               WHERE w.action_type = t.action_type LIMIT t.room) d))
RETURNING q.id, q.organization_id, q.lead_id, q.lead_stage_id, q.sequence_number, q.action_type, q.params, q.attempt,
          q.max_attempts, q.perform_at, q.result, q.object_type, q.firing_id, q.firing_at, q.cause, q.depth, q.fence,
          q.timer, q.waiting_since, q.asks_goal, q.waits_from,
          (q.tableoid = 'pgautomate.notification_jobs'::regclass)::boolean AS notification, now()::timestamptz AS now,
          (q.lead_stage_id IS NULL OR EXISTS (
              SELECT FROM pgautomate.lead_stages s WHERE s.id = q.lead_stage_id AND s.status = 'active'))::boolean AS wanted;

-- The same of timers that have run out. lead_stage_actions_timer_idx.
-- name: StartTimers :many
UPDATE pgautomate.work q
   SET status = 'running', worker_id = @worker_id::bigint, fence = q.fence + 1, queued_at = now(),
       started_at = CASE WHEN q.timer THEN q.started_at ELSE now() END,
       attempt = q.attempt + CASE WHEN q.timer THEN 0 ELSE 1 END
 WHERE q.status = 'delayed' AND q.id = ANY (ARRAY(
       SELECT d.id
         FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@action_types::text[]) AS action_type,
                      unnest(@most::bigint[]) AS most) w
        CROSS JOIN LATERAL (
              SELECT a.id FROM pgautomate.work a
               WHERE a.organization_id = w.organization_id AND a.action_type = w.action_type
                 AND a.status = 'delayed' AND NOT a.paused AND a.perform_at <= now()
               ORDER BY a.perform_at, a.id LIMIT w.most FOR UPDATE SKIP LOCKED) d))
RETURNING q.id, q.organization_id, q.lead_id, q.lead_stage_id, q.sequence_number, q.action_type, q.params, q.attempt,
          q.max_attempts, q.perform_at, q.result, q.object_type, q.firing_id, q.firing_at, q.cause, q.depth, q.fence,
          q.timer, q.waiting_since, q.asks_goal, q.waits_from,
          (q.tableoid = 'pgautomate.notification_jobs'::regclass)::boolean AS notification, now()::timestamptz AS now,
          (q.lead_stage_id IS NULL OR EXISTS (
              SELECT FROM pgautomate.lead_stages s WHERE s.id = q.lead_stage_id AND s.status = 'active'))::boolean AS wanted;

-- Started actions whose lead has left its stage. Primary keys.
-- name: CancelUnwanted :exec
UPDATE pgautomate.work a
   SET status = 'canceled', reason = 'stage_left', finished_at = now(), worker_id = NULL,
       attempt = CASE WHEN a.timer THEN a.attempt ELSE a.attempt - 1 END
 WHERE a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'running' AND a.id = ANY (@ids::bigint[]);

-- What of each lane is left after a claim: its oldest parked action and timer.
-- name: LaneRests :many
SELECT w.organization_id::text AS organization_id, w.action_type::text AS action_type,
       (SELECT a.perform_at FROM pgautomate.work a
         WHERE a.organization_id = w.organization_id AND a.action_type = w.action_type
           AND a.status = 'pending' AND a.perform_at IS NOT NULL AND NOT a.paused
         ORDER BY a.perform_at, a.id LIMIT 1) AS pending_at,
       (SELECT a.perform_at FROM pgautomate.work a
         WHERE a.organization_id = w.organization_id AND a.action_type = w.action_type AND a.status = 'delayed' AND NOT a.paused
         ORDER BY a.perform_at, a.id LIMIT 1) AS timer_at
  FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@action_types::text[]) AS action_type) w;

-- name: SetLanes :exec
UPDATE pgautomate.lanes l SET next_at = w.next_at
  FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@action_types::text[]) AS action_type,
               unnest(@next_ats::timestamptz[]) AS next_at) w
 WHERE l.organization_id = w.organization_id AND l.action_type = w.action_type;

-- What follows asks for actions by their ids. Its status is compared as text, and months are kept out by "not ended": the index of what
-- is in flight looks as cheap as the primary key, for little ever is; but it holds all that was since VACUUM could last remove anything.

-- Takes queued actions for a worker. One that somebody has locked is not waited
-- for; one whose lead has left its stage meanwhile is canceled. Primary keys.
-- name: StartActions :many
WITH free AS MATERIALIZED (
    SELECT a.id, (a.lead_stage_id IS NULL OR EXISTS (
               SELECT FROM pgautomate.lead_stages s WHERE s.id = a.lead_stage_id AND s.status = 'active')) AS wanted
      FROM pgautomate.work a
     WHERE a.id = ANY (@ids::bigint[]) AND a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'queued' FOR UPDATE OF a SKIP LOCKED
), unwanted AS (
    UPDATE pgautomate.work a SET status = 'canceled', reason = 'stage_left', finished_at = now()
     WHERE a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'queued' AND a.id = ANY (ARRAY(SELECT free.id FROM free WHERE NOT free.wanted))
)
UPDATE pgautomate.work a
   SET status = 'running', worker_id = @worker_id::bigint, fence = a.fence + 1,
       started_at = CASE WHEN a.timer THEN a.started_at ELSE now() END,
       attempt = a.attempt + CASE WHEN a.timer THEN 0 ELSE 1 END
 WHERE a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'queued' AND a.id = ANY (ARRAY(SELECT free.id FROM free WHERE free.wanted))
RETURNING a.id, a.organization_id, a.lead_id, a.lead_stage_id, a.sequence_number, a.action_type, a.params, a.attempt,
          a.max_attempts, a.perform_at, a.result, a.object_type, a.firing_id, a.firing_at, a.cause, a.depth, a.fence,
          a.timer, a.waiting_since, a.asks_goal, a.waits_from,
          (a.tableoid = 'pgautomate.notification_jobs'::regclass)::boolean AS notification, now()::timestamptz AS now,
          true AS wanted;

-- name: StillQueued :many
SELECT id FROM pgautomate.work WHERE id = ANY (@ids::bigint[]) AND status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND status::text = 'queued';

-- Counts starts against their budgets, in slices of a 64th of the window.
-- name: CountStarts :exec
INSERT INTO pgautomate.throttle_starts AS c (organization_id, action_type, slice_start, slice_end, starts)
SELECT s.organization_id, th.action_type, b.slice_start, b.slice_start + th.per / 64, sum(s.starts)
  FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@action_types::text[]) AS action_type,
               unnest(@starts::integer[]) AS starts) s
 CROSS JOIN LATERAL (
       SELECT x.action_type, x.per, x.max_starts FROM pgautomate.throttles x
        WHERE x.organization_id IN (s.organization_id, '*') AND x.action_type IN (s.action_type, '*')
        ORDER BY (x.organization_id = '*'), (x.action_type = '*') LIMIT 1) th
 CROSS JOIN LATERAL (SELECT to_timestamp(
       floor(extract(epoch FROM now()) / (extract(epoch FROM th.per) / 64)) * (extract(epoch FROM th.per) / 64)) AS slice_start) b
 WHERE th.max_starts IS NOT NULL
 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3
ON CONFLICT (organization_id, action_type, slice_start, slice_end) DO UPDATE SET starts = c.starts + excluded.starts;

-- Writes outcomes, each only if the worker still holds its action. One that
-- somebody has locked is not waited for. What was to go on later is canceled when
-- the lead has left the stage meanwhile; the stage's lock tells for sure. Primary keys.
-- name: FinishActions :many
WITH done AS MATERIALIZED (
    SELECT unnest(@ids::bigint[]) AS id, unnest(@fences::bigint[]) AS fence, unnest(@statuses::text[]) AS status,
           nullif(unnest(@perform_ats::timestamptz[]), 'epoch') AS perform_at,
           nullif(unnest(@results::jsonb[]), 'null') AS result,
           nullif(unnest(@errors::text[]), '') AS error, nullif(unnest(@reasons::text[]), '') AS reason,
           unnest(@refunds::integer[]) AS refund, unnest(@timers::boolean[]) AS timer,
           nullif(unnest(@waiting_sinces::timestamptz[]), 'epoch') AS waiting_since
), stage AS MATERIALIZED (
    SELECT s.id, s.status FROM pgautomate.lead_stages s
     WHERE s.id = ANY (ARRAY(
           SELECT a.lead_stage_id FROM pgautomate.work a JOIN done d ON d.id = a.id
            WHERE a.id = ANY (@ids::bigint[]) AND a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND d.status IN ('pending', 'delayed')))
       FOR SHARE SKIP LOCKED
), free AS MATERIALIZED (
    SELECT a.id, (d.status IN ('pending', 'delayed') AND a.lead_stage_id IS NOT NULL AND NOT EXISTS (
               SELECT FROM stage WHERE stage.id = a.lead_stage_id AND stage.status = 'active')) AS unwanted
      FROM pgautomate.work a JOIN done d ON d.id = a.id AND d.fence = a.fence
     WHERE a.id = ANY (@ids::bigint[]) AND a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'running'
       AND (d.status NOT IN ('pending', 'delayed') OR a.lead_stage_id IS NULL
            OR EXISTS (SELECT FROM stage WHERE stage.id = a.lead_stage_id)
            OR NOT EXISTS (SELECT FROM pgautomate.lead_stages s WHERE s.id = a.lead_stage_id))
       FOR UPDATE OF a SKIP LOCKED
)
UPDATE pgautomate.work a
   SET status = CASE WHEN f.unwanted THEN 'canceled' ELSE d.status END::pgautomate.job_status,
       perform_at = coalesce(d.perform_at, a.perform_at),
       result = coalesce(d.result, a.result),
       error = d.error,
       reason = CASE WHEN f.unwanted THEN 'stage_left' ELSE d.reason END,
       attempt = a.attempt - d.refund,
       timer = d.timer,
       waiting_since = d.waiting_since,
       worker_id = NULL,
       finished_at = CASE WHEN f.unwanted OR d.status IN ('completed', 'failed', 'canceled', 'skipped', 'merged') THEN now() END
  FROM done d JOIN free f ON f.id = d.id
 WHERE a.id = d.id AND a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.id = ANY (ARRAY(SELECT free.id FROM free))
RETURNING a.id, a.lead_stage_id, a.organization_id, a.action_type, a.status::text AS status, a.perform_at,
          (a.tableoid = 'pgautomate.notification_jobs'::regclass)::boolean AS notification;

-- The same for stage actions that are completed, which is what most outcomes are, in one pass. It waits for locks: bound it.
-- Primary key; the status is compared as text, so that the index of what is in flight is no way in.
-- name: CompleteActions :many
UPDATE ONLY pgautomate.lead_stage_actions a
   SET status = 'completed', result = coalesce(d.result, a.result), error = NULL, reason = d.reason, timer = d.timer,
       waiting_since = NULL, worker_id = NULL, finished_at = now()
  FROM (SELECT unnest(@ids::bigint[]) AS id, unnest(@fences::bigint[]) AS fence, nullif(unnest(@results::jsonb[]), 'null') AS result,
               nullif(unnest(@reasons::text[]), '') AS reason, unnest(@timers::boolean[]) AS timer) d
 WHERE a.id = d.id AND a.fence = d.fence AND a.status::text = 'running'
RETURNING a.id, a.lead_stage_id, a.organization_id, a.action_type, a.status::text AS status, a.perform_at, false AS notification;

-- The same for notifications' jobs.
-- name: CompleteSteps :many
UPDATE pgautomate.notification_jobs a
   SET status = 'completed', result = coalesce(d.result, a.result), error = NULL, reason = d.reason, timer = d.timer,
       waiting_since = NULL, worker_id = NULL, finished_at = now()
  FROM (SELECT unnest(@ids::bigint[]) AS id, unnest(@fences::bigint[]) AS fence, nullif(unnest(@results::jsonb[]), 'null') AS result,
               nullif(unnest(@reasons::text[]), '') AS reason, unnest(@timers::boolean[]) AS timer) d
 WHERE a.id = d.id AND a.fence = d.fence AND a.status::text = 'running'
RETURNING a.id, a.lead_stage_id, a.organization_id, a.action_type, a.status::text AS status, a.perform_at, true AS notification;

-- name: StillHeld :many
SELECT a.id FROM pgautomate.work a
  JOIN (SELECT unnest(@ids::bigint[]) AS id, unnest(@fences::bigint[]) AS fence) d ON d.id = a.id AND d.fence = a.fence
 WHERE a.id = ANY (@ids::bigint[]) AND a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'running';

-- The same for one action whose effect runs in this transaction; waits for locks.
-- name: HoldAction :one
SELECT a.id FROM pgautomate.work a
 WHERE a.id = @id AND a.fence = @fence AND a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'running' FOR UPDATE;

-- An app may hold a row in a transaction that it leaves open: who waits for it
-- gives up soon and tries again.
-- name: BoundWaits :exec
SELECT set_config('lock_timeout', '2s', true);

-- name: Signal :exec
INSERT INTO pgautomate.due_signals (organization_id, action_type, perform_at)
SELECT unnest(@organization_ids::text[]), unnest(@action_types::text[]), unnest(@perform_ats::timestamptz[]);

-- name: Advance :exec
SELECT pgautomate.advance_lead_stages(@lead_stage_ids::bigint[]);

-- name: CloseStages :one
SELECT pgautomate.close_lead_stages(@lead_stage_ids::bigint[], @status::text, @reason::text, @action_reason::text)::integer;

-- name: TakeStalled :many
DELETE FROM pgautomate.advance_later WHERE ctid = ANY (ARRAY(
    SELECT l.ctid FROM pgautomate.advance_later l WHERE l.noted_at < clock_timestamp() - interval '1 second'
     LIMIT 1000 FOR UPDATE SKIP LOCKED))
RETURNING lead_stage_id;

-- Opens each of the engine's transactions. One whose process is frozen, or cut off
-- without a word, would hold its locks for ever, and with them whoever takes over.
-- name: BeEngine :exec
SELECT set_config('pgautomate.engine', 'on', true), set_config('idle_in_transaction_session_timeout', '20s', true);

-- name: EmitCause :exec
SELECT pg_logical_emit_message(true, 'pgautomate.cause', @cause::text);

-- name: AddWorker :one
INSERT INTO pgautomate.workers (hostname, pid, capacity, claims) VALUES (@hostname, @pid, @capacity, @claims) RETURNING id;

-- name: Heartbeat :exec
INSERT INTO pgautomate.workers (id, hostname, pid, capacity, claims) OVERRIDING SYSTEM VALUE
VALUES (@id, @hostname, @pid, @capacity, @claims)
ON CONFLICT (id) DO UPDATE SET heartbeat_at = now();

-- name: RemoveWorker :exec
DELETE FROM pgautomate.workers WHERE id = @id;

-- name: RemoveDeadWorkers :exec
DELETE FROM pgautomate.workers w WHERE w.heartbeat_at < now() - interval '1 hour'
   AND NOT EXISTS (SELECT FROM pgautomate.work a WHERE a.status IN ('queued', 'running') AND a.worker_id = w.id);

-- Actions of workers that are gone run again. Reads what is in flight.
-- name: RescueRunning :many
WITH lost AS MATERIALIZED (
    SELECT a.id FROM pgautomate.work a
      LEFT JOIN pgautomate.workers w ON w.id = a.worker_id
     WHERE a.status IN ('queued', 'running') AND a.status = 'running'
       AND (a.attempt < a.max_attempts OR a.timer)
       AND (w.id IS NULL OR w.heartbeat_at < now() - make_interval(secs => @dead_after_seconds))
       FOR UPDATE OF a SKIP LOCKED
)
UPDATE pgautomate.work a
   SET status = 'pending', perform_at = now(), worker_id = NULL, fence = a.fence + 1,
       error = 'the process that ran it ended without a word'
 WHERE a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'running' AND a.id = ANY (ARRAY(SELECT lost.id FROM lost))
RETURNING a.id, a.organization_id, a.action_type, a.perform_at;

-- The same where no attempt is left. Each is failed by itself: its stage's end may
-- have to wait for somebody's lock.
-- name: LostForGood :many
SELECT a.id, a.organization_id, a.lead_id, a.lead_stage_id, a.action_type, a.params, a.fence,
       (a.tableoid = 'pgautomate.notification_jobs'::regclass)::boolean AS notification
  FROM pgautomate.work a
  LEFT JOIN pgautomate.workers w ON w.id = a.worker_id
 WHERE a.status IN ('queued', 'running') AND a.status = 'running'
   AND a.attempt >= a.max_attempts AND NOT a.timer
   AND (w.id IS NULL OR w.heartbeat_at < now() - make_interval(secs => @dead_after_seconds))
 ORDER BY a.id LIMIT 1000;

-- What the database counts as this process's. Reads what is in flight.
-- name: RunningHere :many
SELECT id, fence FROM pgautomate.work
 WHERE status IN ('queued', 'running') AND status = 'running' AND worker_id = @worker_id::bigint;

-- Gives back what this process never heard of. It did not run, so no attempt is used.
-- name: GiveBack :many
WITH lost AS MATERIALIZED (
    SELECT a.id FROM pgautomate.work a
      JOIN (SELECT unnest(@ids::bigint[]) AS id, unnest(@fences::bigint[]) AS fence) d ON d.id = a.id AND d.fence = a.fence
     WHERE a.id = ANY (@ids::bigint[]) AND a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'running' AND a.worker_id = @worker_id::bigint
       FOR UPDATE OF a SKIP LOCKED
)
UPDATE pgautomate.work a
   SET status = 'pending', perform_at = now(), worker_id = NULL, fence = a.fence + 1,
       attempt = CASE WHEN a.timer THEN a.attempt ELSE greatest(a.attempt - 1, 0) END
 WHERE a.status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND a.status::text = 'running' AND a.id = ANY (ARRAY(SELECT lost.id FROM lost))
RETURNING a.id, a.organization_id, a.action_type, a.perform_at;

-- Queued actions whose carrier is late get another one; the first to arrive counts.
-- name: RequeueStale :many
WITH stale AS MATERIALIZED (
    SELECT a.id FROM pgautomate.work a
     WHERE a.status IN ('queued', 'running') AND a.status = 'queued'
       AND a.queued_at < now() - make_interval(secs => @late_after_seconds)
     LIMIT 5000 FOR UPDATE OF a SKIP LOCKED
)
UPDATE pgautomate.work a SET queued_at = now()
 WHERE a.status = 'queued' AND a.id = ANY (ARRAY(SELECT stale.id FROM stale))
RETURNING a.id, a.action_type;

-- name: DeleteOldStarts :exec
DELETE FROM pgautomate.throttle_starts s
 WHERE s.slice_end < now() - greatest((SELECT max(t.per) FROM pgautomate.throttles t), make_interval(secs => @kept_seconds));

-- name: FindStage :one
SELECT s.id, s.pipeline_id, p.organization_id, p.object_type, s.name AS stage_name, p.name AS pipeline_name
  FROM pgautomate.pipeline_stages s JOIN pgautomate.pipelines p ON p.id = s.pipeline_id
 WHERE p.organization_id = @organization_id
   AND (sqlc.narg(pipeline_id)::bigint IS NULL OR p.id = sqlc.narg(pipeline_id))
   AND (@pipeline::text = '' OR p.name = @pipeline OR p.id::text = @pipeline)
   AND (s.name = @stage::text OR s.id::text = @stage)
 ORDER BY (s.name = @stage) DESC, s.id LIMIT 1;

-- What entries of the lead wait for, so that none comes between.
-- name: LockRun :exec
SELECT r.entries FROM pgautomate.lead_stages s
  JOIN pgautomate.lead_runs r ON r.organization_id = s.organization_id AND r.lead_id = s.lead_id AND r.pipeline_id = s.pipeline_id
 WHERE s.id = @lead_stage_id
   FOR UPDATE OF r;

-- name: StagePipeline :one
SELECT l.pipeline_id, l.pipeline_stage_id, l.status, l.cause, l.depth FROM pgautomate.lead_stages l WHERE l.id = @id;

-- name: EnterStage :one
INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_id, pipeline_stage_id, cause, depth)
VALUES (@organization_id, @lead_id, 0, @pipeline_stage_id, sqlc.narg(cause), @depth)
RETURNING id, status, reason;

-- name: SetEntry :exec
SELECT set_config('pgautomate.entry', @how::text, true);

-- name: RenameLead :exec
WITH moved AS (
    UPDATE pgautomate.lead_stages l SET lead_id = @new_id::text
      FROM pgautomate.pipelines p
     WHERE p.id = l.pipeline_id AND p.object_type = @object_type::text
       AND l.organization_id = @organization_id::text AND l.lead_id = @old_id::text AND l.status = 'active'
       AND NOT EXISTS (SELECT FROM pgautomate.lead_stages o WHERE o.organization_id = l.organization_id
                          AND o.lead_id = @new_id AND o.pipeline_id = l.pipeline_id AND o.status = 'active')
    RETURNING l.id, l.pipeline_id
), runs AS (
    INSERT INTO pgautomate.lead_runs (organization_id, lead_id, pipeline_id, entries, last_entered_at)
    SELECT @organization_id, @new_id, r.pipeline_id, r.entries, r.last_entered_at
      FROM pgautomate.lead_runs r JOIN moved m ON m.pipeline_id = r.pipeline_id
     WHERE r.organization_id = @organization_id AND r.lead_id = @old_id
    ON CONFLICT DO NOTHING
)
UPDATE ONLY pgautomate.lead_stage_actions a SET lead_id = @new_id
  FROM moved WHERE a.lead_stage_id = moved.id;

-- Organizations that are not like all others. organizations_weight_idx.
-- name: Weights :many
SELECT id, weight FROM pgautomate.organizations WHERE weight <> 1;

-- The engine's tables that are twice as large as when they were last analyzed, or
-- vacuumed, and ours to analyze. Reads the catalog; 64 pages are half a megabyte.
-- name: GrownTables :many
SELECT c.relname::text FROM pg_catalog.pg_class c
 WHERE c.relnamespace = 'pgautomate'::regnamespace AND c.relkind = 'r'
   AND pg_relation_size(c.oid) / current_setting('block_size')::integer > greatest(64, 2 * c.relpages)
   AND pg_has_role(c.relowner, 'USAGE');

-- Several processes may be at it: each moves others. lead_stage_actions_finished_idx.
-- name: ArchiveActions :one
SELECT pgautomate.archive_actions(@older_than::interval, @most);

-- name: DropFinishedActions :one
SELECT pgautomate.drop_finished_actions(@before);
