-- What DBAs read with plain SELECTs, and the two roles for apps and readers.

-- +goose Up
CREATE VIEW pgautomate.feed_status AS
SELECT c.slot_name,
       coalesce(s.active, false)                                                  AS active,
       s.wal_status                                                               AS wal_status,
       c.position                                                                 AS position,
       s.confirmed_flush_lsn                                                      AS confirmed_flush_lsn,
       CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE pg_wal_lsn_diff(pg_current_wal_flush_lsn(), greatest(c.position, s.confirmed_flush_lsn)) END::bigint AS lag_bytes,
       CASE WHEN pg_is_in_recovery() THEN NULL
            ELSE pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.restart_lsn) END::bigint AS retained_bytes,
       extract(epoch FROM clock_timestamp() - c.updated_at)::double precision     AS seconds_since_checkpoint,
       c.updated_at
  FROM pgautomate.feed_checkpoints c
  LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = c.slot_name;
COMMENT ON VIEW pgautomate.feed_status IS 'The feed: its slot, how far it is, what it keeps from being removed.';
COMMENT ON COLUMN pgautomate.feed_status.slot_name IS 'The logical replication slot.';
COMMENT ON COLUMN pgautomate.feed_status.active IS 'Whether a process reads the slot now.';
COMMENT ON COLUMN pgautomate.feed_status.wal_status IS 'As in pg_replication_slots; lost means that changes were missed.';
COMMENT ON COLUMN pgautomate.feed_status.position IS 'End of the last commit whose effects are in this database.';
COMMENT ON COLUMN pgautomate.feed_status.confirmed_flush_lsn IS 'What the server was told of that.';
COMMENT ON COLUMN pgautomate.feed_status.lag_bytes IS 'Bytes of log written and not yet dealt with.';
COMMENT ON COLUMN pgautomate.feed_status.retained_bytes IS 'Bytes of log that the slot keeps on the server''s disk.';
COMMENT ON COLUMN pgautomate.feed_status.seconds_since_checkpoint IS 'Seconds since the checkpoint moved; large and harmless while nothing is written.';
COMMENT ON COLUMN pgautomate.feed_status.updated_at IS 'When the checkpoint last moved.';

CREATE VIEW pgautomate.action_queue AS
WITH lane AS (
    SELECT organization_id, action_type FROM pgautomate.lanes
    UNION SELECT organization_id, action_type FROM pgautomate.due_signals
), waiting AS (
    SELECT lane.organization_id, lane.action_type,
           (SELECT count(*) FROM pgautomate.lead_stage_actions a WHERE a.organization_id = lane.organization_id
               AND a.action_type = lane.action_type AND a.status = 'pending' AND NOT a.paused AND a.perform_at <= now()) AS due,
           (SELECT count(*) FROM pgautomate.lead_stage_actions a WHERE a.organization_id = lane.organization_id
               AND a.action_type = lane.action_type AND a.status = 'pending' AND NOT a.paused AND a.perform_at > now()) AS parked,
           (SELECT min(a.perform_at) FROM pgautomate.lead_stage_actions a WHERE a.organization_id = lane.organization_id
               AND a.action_type = lane.action_type AND a.status = 'pending' AND NOT a.paused AND a.perform_at IS NOT NULL) AS oldest
      FROM lane
), timer AS (
    SELECT organization_id, action_type, count(*) AS parked, min(perform_at) AS oldest
      FROM pgautomate.lead_stage_actions WHERE status = 'delayed' AND NOT paused GROUP BY 1, 2
), paused AS (
    SELECT organization_id, action_type, count(*) FILTER (WHERE perform_at <= now()) AS due,
           count(*) FILTER (WHERE perform_at > now()) AS parked
      FROM pgautomate.lead_stage_actions
     WHERE paused AND status IN ('pending', 'delayed') AND perform_at IS NOT NULL GROUP BY 1, 2
), flight AS (
    SELECT organization_id, action_type, count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status = 'queued') AS queued
      FROM pgautomate.lead_stage_actions WHERE status IN ('queued', 'running') GROUP BY 1, 2
), kind AS (
    SELECT organization_id, action_type FROM waiting WHERE oldest IS NOT NULL
    UNION SELECT organization_id, action_type FROM timer
    UNION SELECT organization_id, action_type FROM paused
    UNION SELECT organization_id, action_type FROM flight
), known AS (
    SELECT k.organization_id, k.action_type,
           coalesce(w.due, 0)                                                      AS due,
           coalesce(w.parked, 0) + coalesce(t.parked, 0) + coalesce(p.parked, 0)   AS parked,
           coalesce(p.due, 0)                                                      AS paused,
           coalesce(f.queued, 0)                                                   AS queued,
           coalesce(f.running, 0)                                                  AS running,
           least(w.oldest, t.oldest)                                               AS oldest,
           th.max_starts, th.per, th.max_running,
           (SELECT coalesce(sum(s.starts), 0) FROM pgautomate.throttle_starts s
             WHERE s.organization_id = k.organization_id AND s.action_type = th.action_type
               AND s.slice_end > now() - th.per)                                   AS starts,
           (SELECT min(s.slice_end) + th.per FROM pgautomate.throttle_starts s
             WHERE s.organization_id = k.organization_id AND s.action_type = th.action_type
               AND s.slice_end > now() - th.per)                                   AS frees_at
      FROM kind k
      LEFT JOIN waiting w USING (organization_id, action_type)
      LEFT JOIN timer t USING (organization_id, action_type)
      LEFT JOIN paused p USING (organization_id, action_type)
      LEFT JOIN flight f USING (organization_id, action_type)
      LEFT JOIN LATERAL (
           SELECT x.* FROM pgautomate.throttles x
            WHERE x.organization_id IN (k.organization_id, '*') AND x.action_type IN (k.action_type, '*')
            ORDER BY (x.organization_id = '*'), (x.action_type = '*') LIMIT 1) th ON true
), judged AS (
    SELECT known.*,
           least(due, greatest(0, due - least(max_starts - starts - queued, max_running - queued - running)))::bigint AS throttled
      FROM known
)
SELECT organization_id, action_type, due + paused AS due, parked, queued, running,
       CASE WHEN max_starts IS NULL AND max_running IS NULL THEN 0 ELSE coalesce(throttled, 0) END + paused AS held,
       CASE WHEN coalesce(throttled, 0) > 0 AND (max_starts = 0 OR max_running = 0) THEN 'paused by throttle'
            WHEN coalesce(throttled, 0) > 0 AND starts + queued + due > max_starts
                 THEN format('throttle: %s starts in any %s', max_starts, per)
            WHEN coalesce(throttled, 0) > 0 AND max_running IS NOT NULL THEN format('throttle: %s running at once', max_running)
            WHEN paused > 0 THEN 'pipeline paused'
       END AS reason,
       CASE WHEN due = 0 THEN oldest
            WHEN max_starts = 0 OR max_running = 0 THEN NULL
            WHEN starts + queued >= max_starts THEN frees_at
            ELSE greatest(oldest, now())
       END AS next_eligible_at
  FROM judged;
COMMENT ON VIEW pgautomate.action_queue IS 'What is due, parked and running, by organization and action type.';
COMMENT ON COLUMN pgautomate.action_queue.organization_id IS 'The organization.';
COMMENT ON COLUMN pgautomate.action_queue.action_type IS 'The action type.';
COMMENT ON COLUMN pgautomate.action_queue.due IS 'Actions whose time has come and that have not been handed to the workers.';
COMMENT ON COLUMN pgautomate.action_queue.parked IS 'Actions whose time is still to come: timers, retries.';
COMMENT ON COLUMN pgautomate.action_queue.queued IS 'Actions handed to the workers'' queue and not started yet.';
COMMENT ON COLUMN pgautomate.action_queue.running IS 'Actions that a worker runs now.';
COMMENT ON COLUMN pgautomate.action_queue.held IS 'Of the due ones, those that a throttle or a paused pipeline holds back now.';
COMMENT ON COLUMN pgautomate.action_queue.reason IS 'What holds them; NULL when nothing does.';
COMMENT ON COLUMN pgautomate.action_queue.next_eligible_at IS 'When the next one may start; NULL when only a changed throttle can let it.';

CREATE VIEW pgautomate.action_lateness AS
SELECT organization_id, action_type, count(*) AS actions,
       percentile_cont(0.5)  WITHIN GROUP (ORDER BY late) AS p50_seconds,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY late) AS p99_seconds,
       max(late)                                          AS max_seconds
  FROM (SELECT organization_id, action_type,
               greatest(extract(epoch FROM started_at - perform_at), 0)::double precision AS late
          FROM pgautomate.lead_stage_actions
         WHERE finished_at > now() - interval '1 hour' AND started_at IS NOT NULL AND perform_at IS NOT NULL) f
 GROUP BY organization_id, action_type;
COMMENT ON VIEW pgautomate.action_lateness IS 'How late actions started in the last hour: started_at - perform_at, in seconds.';
COMMENT ON COLUMN pgautomate.action_lateness.organization_id IS 'The organization.';
COMMENT ON COLUMN pgautomate.action_lateness.action_type IS 'The action type.';
COMMENT ON COLUMN pgautomate.action_lateness.actions IS 'Actions that finished in the last hour.';
COMMENT ON COLUMN pgautomate.action_lateness.p50_seconds IS 'Half of them started at most so late.';
COMMENT ON COLUMN pgautomate.action_lateness.p99_seconds IS '99 of 100 started at most so late.';
COMMENT ON COLUMN pgautomate.action_lateness.max_seconds IS 'The latest of them.';

-- How long who keeps deleted rows from being removed goes unmentioned: the setting of that name, 5 minutes without one or
-- with one that can't be read.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.old_transaction_after() RETURNS interval LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce(nullif(current_setting('pgautomate.old_transaction_after', true), ''), '5 minutes')::interval;
EXCEPTION WHEN OTHERS THEN
    RETURN '5 minutes';
END $$;
-- +goose StatementEnd

CREATE VIEW pgautomate.problems AS
WITH old AS (
    SELECT clock_timestamp() - pgautomate.old_transaction_after() AS began,
           -- Where the server doesn't say since when a slot is idle (before 17): at 1,000 transactions a second.
           1000 * extract(epoch FROM pgautomate.old_transaction_after()) AS transactions
)
SELECT 'error'::text AS severity, format('slot %s', f.slot_name) AS subject,
       CASE WHEN s.slot_name IS NULL THEN format('the replication slot is gone; changes after %s were not seen', f.position)
            ELSE format('the replication slot was invalidated; changes after %s were not seen', f.position) END AS problem,
       'run `pgautomate slot recreate`; the gap is then recorded in feed_gaps'::text AS fix,
       f.updated_at AS since
  FROM pgautomate.feed_checkpoints f LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = f.slot_name
 WHERE f.position IS NOT NULL AND (s.slot_name IS NULL OR s.wal_status = 'lost')
UNION ALL
SELECT 'warning', format('slot %s', f.slot_name), 'no process reads the feed',
       'start `pgautomate run`, or look into its log', f.updated_at
  FROM pgautomate.feed_status f WHERE NOT f.active AND f.wal_status IS DISTINCT FROM 'lost' AND f.wal_status IS NOT NULL
UNION ALL
SELECT CASE t.status WHEN 'invalid' THEN 'error' ELSE 'warning' END, format('trigger %s (%s)', t.id, t.name),
       coalesce(t.error, t.status), CASE t.status WHEN 'invalid' THEN 'mend the trigger''s query and save it'
       ELSE 'run the ALTER TABLE that the problem names' END, t.updated_at
  FROM pgautomate.triggers t WHERE t.status IN ('invalid', 'degraded')
UNION ALL
SELECT 'error', format('gap %s', g.id), format('no trigger saw the changes from %s to %s: %s', g.from_lsn, g.to_lsn, g.reason),
       'look whether automations are missing for that time; delete the row when it is dealt with', g.recorded_at
  FROM pgautomate.feed_gaps g
UNION ALL
SELECT 'warning', format('stage actions of organization %s, type %s', a.organization_id, a.action_type),
       format('%s failed in the last hour, the last with: %s', count(*), (array_agg(a.error ORDER BY a.finished_at DESC))[1]),
       'mend the cause, then retry them: POST /v1/actions/{id}/retry', min(a.finished_at)
  FROM pgautomate.lead_stage_actions a
 WHERE a.finished_at > now() - interval '1 hour' AND a.status = 'failed'
 GROUP BY a.organization_id, a.action_type
UNION ALL
-- VACUUM's own transaction holds nothing back.
SELECT 'warning', format('session %s', concat_ws(' ', a.pid, nullif(a.application_name, ''))),
       format('its transaction (user %s, %s) has been open since %s: VACUUM can''t remove what died since then, so tables and queues grow and get slow',
              a.usename, a.state, date_trunc('second', a.xact_start)),
       format('end it where it comes from, or with `SELECT pg_terminate_backend(%s)`', a.pid), a.xact_start
  FROM pg_catalog.pg_stat_activity a, old
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start < old.began
   AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL) AND a.backend_type <> 'autovacuum worker'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum v WHERE v.pid = a.pid)
UNION ALL
SELECT 'warning', format('prepared transaction %s', x.gid),
       format('it (user %s) has been open since %s: it keeps its locks, and VACUUM can''t remove what died since then',
              x.owner, date_trunc('second', x.prepared)),
       format('`COMMIT PREPARED %1$L` or `ROLLBACK PREPARED %1$L`', x.gid), x.prepared
  FROM pg_catalog.pg_prepared_xacts x, old
 WHERE x.database = current_database() AND x.prepared < old.began
UNION ALL
SELECT 'warning', format('slot %s', s.slot_name),
       CASE WHEN s.active THEN 'a query on its standby has been running for long: VACUUM can''t remove what died since then'
            ELSE format('nobody reads it%s: VACUUM can''t remove what died since then%s, and the log stays',
                        ' since ' || date_trunc('second', i.since), CASE WHEN s.xmin IS NULL THEN ' of the catalogs' END) END,
       CASE WHEN s.active THEN 'end that query, or set hot_standby_feedback = off there'
            ELSE format('start its reader, or `SELECT pg_drop_replication_slot(%L)`', s.slot_name) END,
       i.since
  FROM pg_catalog.pg_replication_slots s, old, LATERAL (
       SELECT (to_jsonb(s) ->> 'inactive_since')::timestamptz AS since, age(coalesce(s.xmin, s.catalog_xmin)) AS transactions) i
 WHERE NOT EXISTS (SELECT FROM pgautomate.feed_checkpoints f WHERE f.slot_name = s.slot_name) AND s.wal_status IS DISTINCT FROM 'lost'
   AND (s.xmin IS NOT NULL OR NOT s.active AND s.catalog_xmin IS NOT NULL)
   AND CASE WHEN s.active OR i.since IS NULL THEN i.transactions > old.transactions ELSE i.since < old.began END;
COMMENT ON VIEW pgautomate.problems IS 'All that needs a person. Old transactions: those older than the setting pgautomate.old_transaction_after (5 minutes).';
COMMENT ON COLUMN pgautomate.problems.severity IS 'error or warning.';
COMMENT ON COLUMN pgautomate.problems.subject IS 'What it is about.';
COMMENT ON COLUMN pgautomate.problems.problem IS 'What is wrong.';
COMMENT ON COLUMN pgautomate.problems.fix IS 'What to do.';
COMMENT ON COLUMN pgautomate.problems.since IS 'Since when.';

-- Roles belong to the whole server: made when they are not there and we may.
-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN
            RAISE NOTICE 'role % not made: %', role, SQLERRM;
        END;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_readonly') THEN
        GRANT USAGE ON SCHEMA pgautomate TO pgautomate_readonly;
        GRANT SELECT ON ALL TABLES IN SCHEMA pgautomate TO pgautomate_readonly;
        REVOKE SELECT ON pgautomate.api_keys FROM pgautomate_readonly;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_app') THEN
        GRANT USAGE ON SCHEMA pgautomate TO pgautomate_app;
        GRANT SELECT ON ALL TABLES IN SCHEMA pgautomate TO pgautomate_app;
        REVOKE SELECT ON pgautomate.api_keys FROM pgautomate_app;
        GRANT INSERT, UPDATE, DELETE ON pgautomate.triggers, pgautomate.pipelines, pgautomate.pipeline_stages,
            pgautomate.pipeline_stage_actions, pgautomate.organizations, pgautomate.throttles TO pgautomate_app;
        GRANT INSERT ON pgautomate.lead_stages TO pgautomate_app;
        GRANT UPDATE (status, perform_at, reason) ON pgautomate.lead_stage_actions TO pgautomate_app;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP VIEW pgautomate.problems;
DROP FUNCTION pgautomate.old_transaction_after;
DROP VIEW pgautomate.action_lateness;
DROP VIEW pgautomate.action_queue;
DROP VIEW pgautomate.feed_status;
