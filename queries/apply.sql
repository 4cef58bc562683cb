-- A new version of a pipeline for the leads that are parked in it.

-- name: ActiveInPipeline :one
SELECT count(*) FROM pgautomate.lead_stages s
 WHERE s.pipeline_stage_id IN (SELECT ps.id FROM pgautomate.pipeline_stages ps WHERE ps.pipeline_id = @pipeline_id) AND s.status = 'active';

-- The stages' actions as they are now. pipeline_stage_actions' own index.
-- name: NewestActions :many
SELECT a.pipeline_stage_id, a.action_type, a.params, coalesce((a.params ->> 'max_attempts')::integer, 10)::integer AS max_attempts
  FROM pgautomate.pipeline_stage_actions a
 WHERE a.pipeline_stage_id IN (SELECT ps.id FROM pgautomate.pipeline_stages ps WHERE ps.pipeline_id = @pipeline_id)
 ORDER BY a.pipeline_stage_id, a.sequence_number;

-- Leads in the pipeline, by the ids of their stages. One that somebody holds is
-- left as it is. lead_stages_stage_idx.
-- name: LockStagesToApply :many
SELECT s.id, s.pipeline_stage_id, s.entered_at FROM pgautomate.lead_stages s
 WHERE s.pipeline_stage_id IN (SELECT ps.id FROM pgautomate.pipeline_stages ps WHERE ps.pipeline_id = @pipeline_id)
   AND s.status = 'active' AND s.id > @after_id
 ORDER BY s.id LIMIT @most::bigint FOR UPDATE SKIP LOCKED;

-- What of them has not been handed out. lead_stage_actions_stage_idx.
-- name: LockActionsToApply :many
SELECT a.id FROM pgautomate.lead_stage_actions a
 WHERE a.lead_stage_id = ANY (@lead_stage_ids::bigint[]) AND a.status IN ('pending', 'delayed')
 ORDER BY a.id FOR UPDATE SKIP LOCKED;

-- All of them, read once the former are held. lead_stage_actions_stage_idx.
-- name: ActionsToApply :many
SELECT a.id, a.lead_stage_id, a.sequence_number, a.action_type, a.params, a.status::text AS status, a.perform_at, a.finished_at, a.timer, a.waits_from
  FROM pgautomate.lead_stage_actions a
 WHERE a.lead_stage_id = ANY (@lead_stage_ids::bigint[])
 ORDER BY a.lead_stage_id, a.sequence_number, a.id;

-- name: SupersedeActions :exec
UPDATE pgautomate.lead_stage_actions SET status = 'canceled', reason = 'superseded', finished_at = clock_timestamp()
 WHERE id = ANY (@ids::bigint[]);

-- A wait begins anew; what waits for its turn at the throttle gets other parameters.
-- name: ReplaceActions :many
UPDATE pgautomate.lead_stage_actions a
   SET params = w.params, max_attempts = w.max_attempts,
       status = 'pending', timer = false, result = NULL, started_at = NULL,
       attempt = CASE WHEN w.anew THEN 0 ELSE a.attempt END,
       perform_at = CASE WHEN w.anew THEN clock_timestamp() + make_interval(secs => w.later) ELSE a.perform_at END,
       waits_from = CASE WHEN w.anew THEN w.waits_from ELSE a.waits_from END
  FROM (SELECT unnest(@ids::bigint[]) AS id, unnest(@params::jsonb[]) AS params, unnest(@max_attempts::integer[]) AS max_attempts,
               unnest(@anews::boolean[]) AS anew, unnest(@waits_froms::timestamptz[]) AS waits_from, unnest(@laters::float8[]) AS later) w
 WHERE a.id = w.id
RETURNING a.organization_id, a.action_type, a.perform_at;

-- What is to follow.
-- name: AddActions :exec
INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, lead_stage_id, sequence_number, action_type, params, max_attempts,
                                           object_type, cause, depth, paused)
SELECT s.organization_id, s.lead_id, s.id, w.sequence_number, w.action_type, w.params, w.max_attempts, p.object_type, s.cause, s.depth, p.status = 'paused'
  FROM (SELECT unnest(@lead_stage_ids::bigint[]) AS lead_stage_id, unnest(@sequence_numbers::integer[]) AS sequence_number,
               unnest(@action_types::text[]) AS action_type, unnest(@params::jsonb[]) AS params, unnest(@max_attempts::integer[]) AS max_attempts) w
  JOIN pgautomate.lead_stages s ON s.id = w.lead_stage_id
  JOIN pgautomate.pipelines p ON p.id = s.pipeline_id
 ORDER BY w.lead_stage_id, w.sequence_number;

-- What became due at once is spread out.
-- name: SpreadActions :exec
UPDATE pgautomate.lead_stage_actions a SET perform_at = a.perform_at + make_interval(secs => w.later), waits_from = a.perform_at
  FROM (SELECT unnest(@lead_stage_ids::bigint[]) AS lead_stage_id, unnest(@laters::float8[]) AS later) w
 WHERE a.lead_stage_id = w.lead_stage_id AND a.status = 'pending' AND a.perform_at IS NOT NULL AND w.later > 0;
