-- What the benchmarks ask of their database.

-- name: fill_leads
INSERT INTO lead
SELECT g, 'org_' || g % $2::int, 'cold',
       'value-' || g % 50, 'value-' || g % 49, 'value-' || g % 48, 'value-' || g % 47, 'value-' || g % 46, 'value-' || g % 45,
       'value-' || g % 44, 'value-' || g % 43, 'value-' || g % 42, 'value-' || g % 41, 'value-' || g % 40, 'value-' || g % 39,
       'value-' || g % 38, 'value-' || g % 37,
       -1 - g % 999, -1 - g % 998, -1 - g % 997, -1 - g % 996, -1 - g % 995, -1 - g % 994, -1 - g % 993, -1 - g % 992,
       g % 2 = 0, g % 3 = 0, g % 5 = 0, '2026-01-01'::date + g % 300, '2026-01-01'::date + g % 200, now(),
       jsonb_build_object('cf_0', 'value-' || g % 50, 'cf_1', 'value-' || g % 49, 'cf_2', 'value-' || g % 48, 'cf_3', 'value-' || g % 47,
                          'cf_4', 'value-' || g % 46, 'cf_5', 'value-' || g % 45, 'cf_6', 'value-' || g % 44, 'cf_7', 'value-' || g % 43)
  FROM generate_series(1, $1::int) g

-- name: fill_companies
INSERT INTO company SELECT g, 'org_' || g % $2::int, 'silver' FROM generate_series(1, $1::int) g

-- name: fill_deals
INSERT INTO deal SELECT g, 'org_' || c.organization, c.id, 'open', 'deal', -1
  FROM generate_series(1, $1::int) g
 CROSS JOIN LATERAL (SELECT 1 + g % $3::int AS id, (1 + g % $3::int) % $2::int AS organization) c

-- name: add_trigger
INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params)
VALUES ($1, $2, $3, $4, 'log', '{"message": "x"}') RETURNING id

-- name: edit_trigger
UPDATE pgautomate.triggers SET name = $2 WHERE id = $1

-- name: pause_trigger
UPDATE pgautomate.triggers SET status = $2 WHERE id = $1

-- name: read_definitions
SELECT v.trigger_id, v.version, v.organization_id, v.name, v.object_type, v.query, v.before_query, v.extra_filter
  FROM pgautomate.live_triggers l
  JOIN pgautomate.trigger_versions v ON v.trigger_id = l.trigger_id AND v.version = l.version

-- name: change_lead
UPDATE lead SET text0 = $2, text1 = $3 WHERE id = $1

-- name: flushed
SELECT pg_current_wal_insert_lsn()::text

-- name: make_slot
SELECT pg_create_logical_replication_slot($1, 'pgoutput')

-- name: drop_slots
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database() AND active_pid IS NULL

-- name: slots_left
SELECT count(*) FROM pg_replication_slots WHERE database = current_database()

-- name: forget_firings
TRUNCATE pgautomate.trigger_firings, pgautomate.river_job

-- name: hand_written
CREATE FUNCTION lead_to_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.text0 = 'hot' AND OLD.text0 IS DISTINCT FROM NEW.text0 THEN
        INSERT INTO bench_job (args) VALUES (jsonb_build_object('id', NEW.id, 'organization_id', NEW.organization_id, 'data', to_jsonb(NEW), 'previous', to_jsonb(OLD)));
    END IF;
    RETURN NULL;
END $$;
CREATE TABLE lead_unwatched (LIKE lead INCLUDING ALL);
INSERT INTO lead_unwatched SELECT * FROM lead;
CREATE TABLE lead_row_trigger (LIKE lead INCLUDING ALL);
INSERT INTO lead_row_trigger SELECT * FROM lead;
CREATE TRIGGER lead_to_job AFTER UPDATE ON lead_row_trigger FOR EACH ROW EXECUTE FUNCTION lead_to_job();

-- A pipeline of one stage with so many actions that do nothing, for each organization.
-- name: pipelines
WITH pipeline AS (
    INSERT INTO pgautomate.pipelines (organization_id, name, object_type)
    SELECT 'org_' || g, 'p', 'lead' FROM generate_series(0, $1::int - 1) g RETURNING id
), stage AS (
    INSERT INTO pgautomate.pipeline_stages (pipeline_id, name) SELECT id, 's' FROM pipeline RETURNING id
)
INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params)
SELECT stage.id, n, 'log', '{"message": "done"}' FROM stage, generate_series(1, $2::int) n

-- Every organization has a budget of its own, which is counted and doesn't hold.
-- name: throttles
INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per, max_running) VALUES ('*', 'log', 10000000, '1 minute', 100000)

-- name: enter
INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
SELECT p.organization_id, 'lead_' || ($1::int + g), s.id
  FROM generate_series(1, $2::int) g
  JOIN pgautomate.pipelines p ON p.organization_id = 'org_' || g % $3::int
  JOIN pgautomate.pipeline_stages s ON s.pipeline_id = p.id

-- name: active_left
SELECT EXISTS (SELECT FROM pgautomate.lead_stages WHERE status = 'active')

-- name: not_completed
SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status <> 'completed'

-- name: lateness
SELECT coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - perform_at)), 0)::float8 * 1000
  FROM pgautomate.lead_stage_actions WHERE created_at > $1

-- name: river_left
SELECT EXISTS (SELECT FROM pgautomate.river_job WHERE state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))

-- name: secondary_indexes
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
  FROM pg_index i WHERE i.indrelid = 'pgautomate.lead_stage_actions'::regclass AND NOT i.indisprimary

-- name: park
INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, params, status, perform_at, finished_at, started_at, attempt)
SELECT 'org_' || g % $3::int, 'lead_' || g, 'log', '{"message": "x"}',
       CASE WHEN g <= $1::int THEN 'pending' ELSE 'completed' END::pgautomate.job_status,
       CASE WHEN g <= $1::int THEN now() + interval '10 days' + g % 100000 * interval '1 second' ELSE now() - interval '1 hour' END,
       CASE WHEN g > $1::int THEN now() - interval '1 hour' END, CASE WHEN g > $1::int THEN now() - interval '1 hour' END,
       CASE WHEN g > $1::int THEN 1 ELSE 0 END
  FROM generate_series(1, $1::int + $2::int) g

-- name: lanes
INSERT INTO pgautomate.lanes (organization_id, action_type, next_at)
SELECT 'org_' || g, 'log', now() + interval '10 days' FROM generate_series(0, $1::int - 1) g

-- name: make_due
INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, params, perform_at)
SELECT 'org_' || $3::int + g % $2::int, 'lead_' || g, 'log', '{"message": "x"}', now() FROM generate_series(1, $1::int) g

-- name: end_queued
UPDATE pgautomate.lead_stage_actions SET status = 'completed', started_at = now(), finished_at = now() WHERE status = 'queued'

-- name: large_transaction
INSERT INTO note SELECT g, 'org_' || g % 1000, repeat('x', 90) FROM generate_series(1, $1::int) g

-- The organizations that import are limited, the others are not.
-- name: import_throttles
INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per)
SELECT '*', 'log', $3::int, $4::text::interval
 UNION ALL
SELECT 'org_' || g, 'log', NULL, $4::text::interval FROM generate_series($1::int, $2::int - 1) g

-- name: enter_organization
INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
SELECT p.organization_id, 'lead_' || ($2::int + g), s.id
  FROM pgautomate.pipelines p JOIN pgautomate.pipeline_stages s ON s.pipeline_id = p.id, generate_series(1, $3::int) g
 WHERE p.organization_id = $1

-- name: free_lateness
SELECT coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM coalesce(started_at, clock_timestamp()) - perform_at)), 0)::float8 * 1000,
       coalesce(max(extract(epoch FROM coalesce(started_at, clock_timestamp()) - perform_at)), 0)::float8 * 1000
  FROM pgautomate.lead_stage_actions WHERE organization_id = $1 AND created_at >= $2

-- name: free_lateness_before
SELECT coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - perform_at)), 0)::float8 * 1000,
       coalesce(max(extract(epoch FROM started_at - perform_at)), 0)::float8 * 1000
  FROM pgautomate.lead_stage_actions WHERE organization_id = $1 AND created_at < $2

-- An action may start once its time has come and the start that was so many before it is out of the window, which ends up
-- to a 32nd late. What has not started counts until now.
-- name: not_held_lateness
WITH s AS MATERIALIZED (
    SELECT organization_id, perform_at, started_at, lag(started_at, $1::int) OVER w AS before, row_number() OVER w AS place, count(*) OVER (PARTITION BY organization_id) AS starts
      FROM pgautomate.lead_stage_actions
     WHERE started_at IS NOT NULL AND organization_id IN (SELECT p.organization_id FROM pgautomate.pipelines p
               LEFT JOIN pgautomate.throttles t ON t.organization_id = p.organization_id WHERE t.organization_id IS NULL)
    WINDOW w AS (PARTITION BY organization_id ORDER BY started_at, id)
), left_over AS (
    SELECT o.organization_id, min(o.perform_at) AS perform_at,
           (SELECT s.started_at FROM s WHERE s.organization_id = o.organization_id AND s.place = s.starts - $1::int + 1) AS before
      FROM pgautomate.lead_stage_actions o
     WHERE o.status = 'pending' AND o.perform_at IS NOT NULL GROUP BY o.organization_id
)
SELECT coalesce(max(extract(epoch FROM at - greatest(perform_at, before + $2::text::interval * 33 / 32))), 0)::float8, (SELECT count(*) FROM s)::float8
  FROM (SELECT started_at AS at, perform_at, before FROM s
        UNION ALL SELECT (SELECT max(started_at) FROM pgautomate.lead_stage_actions), perform_at, before FROM left_over) x

-- name: end_unlimited
UPDATE pgautomate.lead_stage_actions SET status = 'canceled'
 WHERE status NOT IN ('completed', 'failed', 'canceled', 'merged', 'skipped') AND substr(organization_id, 5)::int >= $1::int

-- name: forget_starts
DELETE FROM pgautomate.throttle_starts; DELETE FROM pgautomate.advance_later; UPDATE pgautomate.throttles SET per = '1 hour'

-- name: use_limits
INSERT INTO pgautomate.throttle_starts (organization_id, action_type, slice_start, slice_end, starts)
SELECT 'org_' || g, 'log', now(), now() + interval '56 seconds', $2::int FROM generate_series(0, $1::int - 1) g

-- name: still_parked
SELECT count(*) FROM pgautomate.lead_stage_actions WHERE status = 'pending' AND perform_at IS NOT NULL

-- name: subscribers
INSERT INTO pgautomate.subscribers (organization_id, subscriber_id) SELECT $1, 'subscriber-' || g FROM generate_series(1, $2::int) g

-- name: topic
WITH topic AS (INSERT INTO pgautomate.topics (organization_id, key) VALUES ($1, $2) RETURNING id)
INSERT INTO pgautomate.topic_subscribers (topic_id, subscriber_no)
SELECT topic.id, s.id FROM topic, pgautomate.subscribers s WHERE s.organization_id = $1 ORDER BY s.id LIMIT $3::int

-- name: workflow
WITH w AS (INSERT INTO pgautomate.workflows (organization_id, identifier, name, active) VALUES ($1, $2, $2, true) RETURNING id)
INSERT INTO pgautomate.workflow_steps (workflow_id, position, step_id, type, wire_type, controls, settings)
SELECT w.id, t.place, 'step-' || t.place, t.type, t.type, '{"body": "Hello {{subscriber.subscriberId}}, {{payload.n}}"}', '{"type": "regular", "amount": 1, "unit": "hours"}'
  FROM w, unnest($3::text[]) WITH ORDINALITY t (type, place)

-- name: fanning_out
SELECT EXISTS (SELECT FROM pgautomate.notification_events WHERE status = 'pending')

-- name: to_notify
SELECT EXISTS (SELECT FROM pgautomate.notification_events WHERE status = 'pending')
    OR EXISTS (SELECT FROM pgautomate.notification_jobs WHERE status IN ('queued', 'running'))
    OR EXISTS (SELECT FROM pgautomate.notification_jobs WHERE status IN ('pending', 'delayed') AND perform_at IS NOT NULL)

-- name: not_notified
SELECT count(*) FROM pgautomate.notification_jobs WHERE status <> 'completed'

-- name: steps_of
SELECT w.id, ARRAY(SELECT s.id FROM pgautomate.workflow_steps s WHERE s.workflow_id = w.id ORDER BY s.position) FROM pgautomate.workflows w WHERE w.identifier = 'steps'


-- name: insert_event
INSERT INTO pgautomate.notification_events (organization_id, workflow_id, transaction_id, step_ids, status, fanned_out, finished_at)
VALUES ($1, $2, $3, $4, 'done', $5, now()) RETURNING id


-- name: insert_notification
INSERT INTO pgautomate.notifications (organization_id, event_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channels, topic_key)
VALUES ($1, $2, $3, $4, $5, $6, '{in_app}', 'all')


-- name: insert_step
INSERT INTO pgautomate.notification_jobs (organization_id, lead_id, object_type, notification_id, subscriber_id, transaction_id, sequence_number, action_type, step_id, step_no,
                                          status, perform_at, queued_at, started_at, finished_at, attempt, fence)
VALUES ($1, $2, 'subscriber', currval('pgautomate.notifications_id_seq'), $2, $3, $4, $5, $6, $7, 'completed', now(), now(), now(), now(), 1, 1)


-- name: insert_message
INSERT INTO pgautomate.messages (organization_id, notification_id, job_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channel, content, payload)
VALUES ($1, currval('pgautomate.notifications_id_seq'), currval('pgautomate.lead_stage_actions_id_seq'), $2, $3, $4, $5, 'in_app', $6, '{"n": 1}')


-- name: notified_plainly
WITH e AS (
    INSERT INTO pgautomate.notification_events (organization_id, workflow_id, transaction_id, step_ids, status, fanned_out, finished_at)
    SELECT w.organization_id, w.id, 'plainly ' || $1::int, ARRAY(SELECT s.id FROM pgautomate.workflow_steps s WHERE s.workflow_id = w.id), 'done', $2::int - $1::int, now()
      FROM pgautomate.workflows w WHERE w.identifier = 'steps' RETURNING id, organization_id, workflow_id, transaction_id, step_ids
), n AS (
    INSERT INTO pgautomate.notifications (organization_id, event_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channels, topic_key)
    SELECT e.organization_id, e.id, e.workflow_id, s.subscriber_id, s.id, e.transaction_id, '{in_app}', 'all'
      FROM e, pgautomate.subscribers s WHERE s.id > $1::int AND s.id <= $2::int
    RETURNING id, organization_id, workflow_id, subscriber_id, subscriber_no, transaction_id
), j AS (
    INSERT INTO pgautomate.notification_jobs (organization_id, lead_id, object_type, notification_id, subscriber_id, transaction_id, sequence_number, action_type, step_id, step_no,
                                              status, perform_at, queued_at, started_at, finished_at, attempt, fence)
    SELECT n.organization_id, n.subscriber_id, 'subscriber', n.id, n.subscriber_id, n.transaction_id, s.place, s.type, s.step_id, s.id,
           'completed', now(), now(), now(), now(), CASE WHEN s.place = 0 THEN 0 ELSE 1 END, CASE WHEN s.place = 0 THEN 0 ELSE 1 END
      FROM n, (SELECT 0 AS place, NULL::bigint AS id, 'trigger' AS type, '' AS step_id
               UNION ALL SELECT w.position, w.id, w.type, w.step_id FROM pgautomate.workflow_steps w JOIN e ON w.id = ANY (e.step_ids)) s
     ORDER BY n.id, s.place
    RETURNING id, notification_id, action_type
)
INSERT INTO pgautomate.messages (organization_id, notification_id, job_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channel, content, payload)
SELECT n.organization_id, n.id, j.id, n.workflow_id, n.subscriber_id, n.subscriber_no, n.transaction_id, j.action_type, 'Hello ' || n.subscriber_id || ', 1', '{"n": 1}'
  FROM j JOIN n ON n.id = j.notification_id WHERE j.action_type = 'in_app'


-- name: trigger_by_hand
WITH e AS (
    INSERT INTO pgautomate.notification_events (organization_id, workflow_id, transaction_id, step_ids, payload, status, fanned_out, finished_at)
    SELECT w.organization_id, w.id, $1, ARRAY(SELECT s.id FROM pgautomate.workflow_steps s WHERE s.workflow_id = w.id), '{"n": 1}', 'done', 1, now()
      FROM pgautomate.workflows w WHERE w.identifier = 'late' RETURNING id, organization_id, workflow_id, transaction_id, step_ids
), n AS (
    INSERT INTO pgautomate.notifications (organization_id, event_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channels)
    SELECT e.organization_id, e.id, e.workflow_id, s.subscriber_id, s.id, e.transaction_id, '{in_app}'
      FROM e, pgautomate.subscribers s WHERE s.organization_id = e.organization_id AND s.subscriber_id = $2
    RETURNING id, organization_id, subscriber_id, transaction_id
)
INSERT INTO pgautomate.notification_jobs (organization_id, lead_id, object_type, notification_id, subscriber_id, transaction_id, sequence_number, action_type, step_id, step_no, status, perform_at,
                                          started_at, finished_at)
SELECT n.organization_id, n.subscriber_id, 'subscriber', n.id, n.subscriber_id, n.transaction_id, s.place, s.type, s.step_id, s.id,
       (CASE s.place WHEN 0 THEN 'completed' ELSE 'pending' END)::pgautomate.job_status, CASE WHEN s.place < 2 THEN now() END,
       CASE WHEN s.place = 0 THEN now() END, CASE WHEN s.place = 0 THEN now() END
  FROM n, (SELECT 0 AS place, NULL::bigint AS id, 'trigger' AS type, '' AS step_id
           UNION ALL SELECT w.position, w.id, w.type, w.step_id FROM pgautomate.workflow_steps w JOIN e ON w.id = ANY (e.step_ids)) s
 ORDER BY s.place


-- name: fan_out_at_once
WITH e AS (
    INSERT INTO pgautomate.notification_events (organization_id, workflow_id, transaction_id, step_ids, status)
    SELECT w.organization_id, w.id, 'at once', ARRAY(SELECT s.id FROM pgautomate.workflow_steps s WHERE s.workflow_id = w.id), 'done'
      FROM pgautomate.workflows w WHERE w.identifier = 'late' RETURNING id, organization_id, workflow_id, step_ids
), n AS (
    INSERT INTO pgautomate.notifications (organization_id, event_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channels)
    SELECT e.organization_id, e.id, e.workflow_id, s.subscriber_id, s.id, 'at once', '{}' FROM e, pgautomate.subscribers s
    RETURNING id, subscriber_id
)
INSERT INTO pgautomate.notification_jobs (organization_id, lead_id, object_type, notification_id, subscriber_id, transaction_id, sequence_number, action_type, step_id, step_no, status, perform_at)
SELECT e.organization_id, n.subscriber_id, 'subscriber', n.id, n.subscriber_id, 'at once', s.place, s.type, '', s.id,
       (CASE s.place WHEN 0 THEN 'completed' ELSE 'pending' END)::pgautomate.job_status, CASE WHEN s.place < 2 THEN now() + interval '1 hour' END
  FROM e, n, (SELECT 0 AS place, NULL::bigint AS id, 'trigger' AS type UNION ALL SELECT w.position, w.id, w.type FROM pgautomate.workflow_steps w JOIN e ON w.id = ANY (e.step_ids)) s
 ORDER BY n.id, s.place
