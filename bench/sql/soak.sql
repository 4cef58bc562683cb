-- What the soak asks of its database, and the load that it puts on it.

-- The app's table lives for long here: it is vacuumed as any other.
-- name: soak_tables
ALTER TABLE lead RESET (autovacuum_enabled)

-- A pipeline for each organization: something to do, a wait, something to do.
-- name: soak_pipelines
WITH pipeline AS (
    INSERT INTO pgautomate.pipelines (organization_id, name, object_type)
    SELECT 'org_' || g, 'soak', 'lead' FROM generate_series(0, $1::int - 1) g RETURNING id
), stage AS (
    INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT id, 'stage' FROM pipeline RETURNING id
)
INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params)
SELECT stage.id, a.n, a.type, a.params::jsonb
  FROM stage, (VALUES (1, 'log', '{"message": "one"}'), (2, 'wait', '{"for": "2 seconds"}'), (3, 'log', '{"message": "two"}')) a (n, type, params)

-- Everybody's starts are counted; every tenth organization's limit holds its bursts.
-- name: soak_throttles
INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per, max_running)
SELECT '*', 'log', 10000000, interval '1 minute', 100000
 UNION ALL
SELECT 'org_' || g, 'log', $2::int, interval '10 seconds', NULL FROM generate_series(0, $1::int - 1, 10) g

-- A workflow for each organization: a digest of 5 seconds, a message.
-- name: soak_workflows
WITH s AS (
    INSERT INTO pgautomate.subscribers (organization_id, subscriber_id)
    SELECT 'org_' || o, 'subscriber-' || g FROM generate_series(0, $1::int - 1) o, generate_series(1, $2::int) g
), w AS (
    INSERT INTO pgautomate.workflows (organization_id, identifier, name, active)
    SELECT 'org_' || g, 'soak', 'soak', true FROM generate_series(0, $1::int - 1) g RETURNING id
)
INSERT INTO pgautomate.workflow_steps (workflow_id, position, step_id, type, wire_type, controls, settings)
SELECT w.id, t.place, 'step-' || t.place, t.type, t.type, '{"body": "Hello {{subscriber.subscriberId}}, {{payload.n}}"}', '{"type": "regular", "amount": 5, "unit": "seconds"}'
  FROM w, (VALUES (1, 'digest'), (2, 'in_app')) t (place, type)

-- Half of the rows that become hot are hot at first.
-- name: soak_heat
UPDATE lead SET text0 = 'hot' WHERE id % 10 = 0

-- Rows are visited by turns; every fifth goes from cold to hot and back, so that a tenth of all changes fires.
-- name: soak_change
UPDATE lead SET text0 = CASE WHEN id % 5 = 0 AND text0 = 'cold' THEN 'hot' ELSE 'cold' END, text1 = $2 WHERE id = $1

-- name: soak_enter
INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
SELECT p.organization_id, 'lead_' || g % $4::int, s.id
  FROM generate_series($1::int, $1::int + $2::int - 1) g
  JOIN pgautomate.pipelines p ON p.organization_id = 'org_' || g % $3::int
  JOIN pgautomate.pipeline_stages s ON s.pipeline_id = p.id

-- name: soak_notify
SELECT pgautomate.trigger_event('org_' || g % $3::int, 'soak', to_jsonb('subscriber-' || 1 + g / $3::int % $4::int), jsonb_build_object('n', g))
  FROM generate_series($1::int, $1::int + $2::int - 1) g

-- Starts since a moment of what doesn't wait by itself. Organizations with a limit of their own are held by it, which is no lateness.
-- name: soak_started
SELECT count(*)::float8 AS started,
       (count(*) FILTER (WHERE w.notification))::float8 AS notified,
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY w.late) FILTER (WHERE w.free), 0)::float8 AS p50,
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY w.late) FILTER (WHERE w.free), 0)::float8 AS p99,
       clock_timestamp() AS at
  FROM (SELECT a.notification, greatest(extract(epoch FROM a.started_at - a.perform_at), 0) * 1000 AS late,
               NOT EXISTS (SELECT FROM pgautomate.throttles t WHERE t.organization_id = a.organization_id) AS free
          FROM (SELECT organization_id, started_at, perform_at, action_type, false AS notification FROM ONLY pgautomate.lead_stage_actions
                 UNION ALL SELECT organization_id, started_at, perform_at, action_type, true FROM pgautomate.notification_jobs) a
         WHERE a.started_at > $1 AND a.action_type IN ('log', 'in_app')) w

-- name: soak_fired
SELECT count(*)::float8 AS fired, coalesce(max(id), $1)::bigint AS last,
       coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM fired_at - committed_at)), 0)::float8 * 1000 AS p50,
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM fired_at - committed_at)), 0)::float8 * 1000 AS p99
  FROM pgautomate.trigger_firings WHERE id > $1::bigint

-- What is due now and no limit of its own holds.
-- name: soak_due
SELECT count(*)::float8 FROM ONLY pgautomate.lead_stage_actions a
 WHERE a.status = 'pending' AND a.perform_at <= now()
   AND NOT EXISTS (SELECT FROM pgautomate.throttles t WHERE t.organization_id = a.organization_id)

-- name: soak_server
SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name IN ('pgautomate', 'pgautomate feed', 'pgautomate river'))::float8
     + (SELECT count(*) FROM pg_stat_replication)::float8 AS connections,
       coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) FROM pg_replication_slots), 0)::float8 AS kept,
       coalesce((SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)) FROM pg_replication_slots), 0)::float8 AS unconfirmed,
       (SELECT count(*) FROM pgautomate.problems)::float8 AS problems

-- Partitions and months are one table here. Sizes are those of the files, without the free space map.
-- name: soak_sizes
SELECT CASE WHEN c.relname ~ '^trigger_firings_' THEN 'trigger_firings' WHEN c.relname ~ '^lead_stage_actions_\d' THEN 'lead_stage_actions (months)' ELSE c.relname END AS name,
       sum(pg_relation_size(c.oid))::float8 AS heap, sum(pg_indexes_size(c.oid))::float8 AS indexes,
       sum(pg_stat_get_live_tuples(c.oid))::float8 AS live, sum(pg_stat_get_dead_tuples(c.oid))::float8 AS dead
  FROM pg_class c
 WHERE c.relkind = 'r' AND (c.relnamespace = 'pgautomate'::regnamespace OR c.oid = 'public.lead'::regclass)
 GROUP BY 1 ORDER BY 1

-- What claims cost the server so far: the statements of queries/scheduler.sql that a claim is made of.
-- name: soak_claims
SELECT coalesce(sum(total_exec_time), 0)::float8 AS ms, coalesce(sum(shared_blks_hit + shared_blks_read), 0)::float8 AS pages
  FROM pg_stat_statements
 WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND query ~ '^--\sname: (MergeSignals|LockLanes|LockUnknownLanes|LaneHeads|LaneRests|SetLanes|StartDue|StartTimers|ClaimDue|ClaimTimers|CountStarts|CancelUnwanted) '

-- What each of the engine's named statements has cost the server so far, the dearest first.
-- name: soak_statements
SELECT split_part(query, ' ', 3) AS name, sum(calls)::float8 AS calls, sum(total_exec_time)::float8 AS ms, sum(shared_blks_hit + shared_blks_read)::float8 AS pages
  FROM pg_stat_statements
 WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query ~ '^--\sname: '
 GROUP BY 1 ORDER BY 3 DESC
