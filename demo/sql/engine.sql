-- How the demo sets up the engine, and what it reads from it.

-- name: put_organization
INSERT INTO pgautomate.organizations (id, name, time_zone) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET name = excluded.name, time_zone = excluded.time_zone

-- name: put_pipeline
WITH pipeline AS (
    INSERT INTO pgautomate.pipelines (organization_id, name, object_type) VALUES ($1, $2, 'lead') RETURNING id
), stage AS (
    INSERT INTO pgautomate.pipeline_stages (pipeline_id, name, position)
    SELECT pipeline.id, s.value ->> 'name', s.ordinality
      FROM pipeline, jsonb_array_elements($3::jsonb) WITH ORDINALITY s
    RETURNING id, name
)
INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params)
SELECT stage.id, a.ordinality, a.value ->> 'action_type', a.value -> 'params'
  FROM jsonb_array_elements($3::jsonb) s
  JOIN stage ON stage.name = s ->> 'name'
 CROSS JOIN jsonb_array_elements(s -> 'actions') WITH ORDINALITY a

-- name: put_triggers
INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params)
SELECT t ->> 'organization_id', t ->> 'name', t ->> 'object_type', t -> 'query', t ->> 'action_type', t -> 'action_params'
  FROM jsonb_array_elements($1::jsonb) t

-- name: put_throttle
INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per) VALUES ($1, $2, $3, $4::interval)

-- Whether the matcher holds every trigger, and in the version that is written.
-- name: triggers_live
SELECT NOT EXISTS (
    SELECT FROM pgautomate.triggers t LEFT JOIN pgautomate.live_triggers l ON l.trigger_id = t.id
     WHERE l.version IS DISTINCT FROM t.version)

-- name: trigger_problem
SELECT name, coalesce(error, status) FROM pgautomate.triggers WHERE status IN ('invalid', 'degraded') ORDER BY id LIMIT 1

-- A commit of its own that travels through the feed behind all that is committed. It tells the feed to read the object types
-- anew, as a watched table does: commits that tell it nothing move no checkpoint.
-- name: mark
SELECT pg_logical_emit_message(true, 'pgautomate.registry', '')::text

-- name: mark_passed
SELECT coalesce(max(position) >= $1::text::pg_lsn, false) FROM pgautomate.feed_checkpoints

-- Whether an action is due, parked or running: the partial indexes lead_stage_actions_in_flight_idx, _due_idx, _timer_idx.
-- name: busy
SELECT EXISTS (SELECT FROM pgautomate.lead_stage_actions WHERE status IN ('queued', 'running'))
    OR EXISTS (SELECT FROM pgautomate.lead_stage_actions WHERE status = 'pending' AND perform_at IS NOT NULL)
    OR EXISTS (SELECT FROM pgautomate.lead_stage_actions WHERE status = 'delayed')

-- What is under way, counted whole. Entered stages are counted because a stage whose next action can't be made due at once has none.
-- name: state
SELECT (SELECT count(*) FROM pgautomate.trigger_firings) AS firings,
       count(*) FILTER (WHERE firing_id IS NOT NULL) AS acted,
       count(*) AS actions,
       count(*) FILTER (WHERE status IN ('pending', 'queued', 'running', 'delayed')) AS waiting,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       (SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'active') AS staged
  FROM pgautomate.lead_stage_actions

-- name: total_firings
SELECT t.name, count(f.id)
  FROM pgautomate.triggers t LEFT JOIN pgautomate.trigger_firings f ON f.trigger_id = t.id
 GROUP BY t.name

-- name: total_actions
SELECT action_type, status::text, count(*) FROM pgautomate.lead_stage_actions GROUP BY 1, 2

-- Rows that automations changed; each of these actions changes one.
-- name: total_effects
SELECT count(*) FROM pgautomate.lead_stage_actions WHERE action_type IN ('update_row', 'insert_row') AND status = 'completed'

-- name: total_lateness
SELECT coalesce(percentile_cont(0.5) WITHIN GROUP (ORDER BY late), 0),
       coalesce(percentile_cont(0.99) WITHIN GROUP (ORDER BY late), 0),
       coalesce(max(late), 0)
  FROM (SELECT greatest(extract(epoch FROM started_at - perform_at), 0)::double precision AS late
          FROM pgautomate.lead_stage_actions WHERE started_at IS NOT NULL AND perform_at IS NOT NULL) a
