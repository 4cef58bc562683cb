-- Pipelines as the HTTP API reads and writes them. What an entry does to a lead
-- is said by the triggers of lead_stages, not here. A NULL organization is an
-- operator's: all of them.

-- name: ApiInsertPipeline :one
INSERT INTO pgautomate.pipelines (organization_id, name, object_type, status, reenrolment, goal)
VALUES (@organization_id, @name, @object_type, @status, @reenrolment, sqlc.narg(goal))
RETURNING *;

-- name: ApiGetPipeline :one
-- By pipelines_pkey.
SELECT * FROM pgautomate.pipelines
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL);

-- name: ApiBoundWaits :exec
-- An app may hold a lead or a stage in a transaction that it leaves open: a
-- request gives up then, so that it does not hold a connection for long. Nor does
-- a frozen process hold the locks of its requests for ever.
SELECT set_config('lock_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '20s', true);

-- name: ApiLockPipeline :one
-- By pipelines_pkey. Entries of leads go on meanwhile.
SELECT * FROM pgautomate.pipelines
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL)
   FOR NO KEY UPDATE;

-- name: ApiUpdatePipeline :one
UPDATE pgautomate.pipelines
   SET name = @name, status = @status, reenrolment = @reenrolment, goal = sqlc.narg(goal),
       version = version + @bump::integer
 WHERE id = @id
RETURNING *;

-- name: ApiDeletePipeline :exec
DELETE FROM pgautomate.pipelines WHERE id = @id;

-- name: ApiListPipelines :many
-- By pipelines_pkey; an installation has thousands of pipelines, not millions.
SELECT * FROM pgautomate.pipelines
 WHERE (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL) AND id > @after_id
   AND (name = sqlc.narg(name) OR sqlc.narg(name) IS NULL)
 ORDER BY id
 LIMIT @max_rows;

-- name: ApiPipelineStages :many
-- By pipeline_stages_pipeline_id_name_key.
SELECT * FROM pgautomate.pipeline_stages
 WHERE pipeline_id = ANY (@pipeline_ids::bigint[])
 ORDER BY pipeline_id, position, id;

-- name: ApiCloseStagesToEntries :exec
-- By pipeline_stages_pkey. Waits for entries under way into these stages, and
-- holds off new ones: what goes must be empty and stay so.
SELECT id FROM pgautomate.pipeline_stages
 WHERE id = ANY (@stage_ids::bigint[])
 ORDER BY id
   FOR UPDATE;

-- name: ApiStageActions :many
-- By pipeline_stage_actions_pipeline_stage_id_sequence_number_key.
SELECT * FROM pgautomate.pipeline_stage_actions
 WHERE pipeline_stage_id = ANY (@stage_ids::bigint[])
 ORDER BY pipeline_stage_id, sequence_number;

-- name: ApiStagesInUse :many
-- By lead_stages_stage_idx.
SELECT s.name, count(*) AS leads
  FROM pgautomate.lead_stages l
  JOIN pgautomate.pipeline_stages s ON s.id = l.pipeline_stage_id
 WHERE l.pipeline_stage_id = ANY (@stage_ids::bigint[]) AND l.status = 'active'
 GROUP BY s.id, s.name
 ORDER BY s.id;

-- name: ApiInsertStage :one
INSERT INTO pgautomate.pipeline_stages (pipeline_id, name, position)
VALUES (@pipeline_id, @name, @position)
RETURNING id;

-- name: ApiUpdateStage :exec
UPDATE pgautomate.pipeline_stages SET name = @name, position = @position WHERE id = @id;

-- name: ApiFreeStageNames :exec
-- Names are unique at every moment: those that change make way first.
UPDATE pgautomate.pipeline_stages SET name = format(E'\u0001%s', id)
 WHERE id = ANY (@stage_ids::bigint[]);

-- name: ApiDeleteStages :exec
DELETE FROM pgautomate.pipeline_stages WHERE id = ANY (@stage_ids::bigint[]);

-- name: ApiDeleteStageActions :exec
DELETE FROM pgautomate.pipeline_stage_actions WHERE pipeline_stage_id = ANY (@stage_ids::bigint[]);

-- name: ApiInsertStageAction :exec
INSERT INTO pgautomate.pipeline_stage_actions (pipeline_stage_id, sequence_number, action_type, params)
VALUES (@pipeline_stage_id, @sequence_number, @action_type, @params);

-- name: ApiEnterLeads :many
-- One statement for all of them, but those that meet the goal are not let in. In the order of lead_id, so that two such
-- statements never wait for each other in a circle.
INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id, status, reason, finished_at)
SELECT @organization_id, l.lead_id, @stage_id,
       CASE WHEN m.lead_id IS NULL THEN 'active' ELSE 'exited' END,
       CASE WHEN m.lead_id IS NOT NULL THEN 'goal_already_met' END, CASE WHEN m.lead_id IS NOT NULL THEN clock_timestamp() END
  FROM unnest(@lead_ids::text[]) AS l (lead_id)
  LEFT JOIN (SELECT DISTINCT unnest(@met::text[]) AS lead_id) m ON m.lead_id = l.lead_id
 ORDER BY l.lead_id
RETURNING id;

-- name: ApiEntries :many
-- By lead_stages_pkey: what became of entries, once the triggers have run.
SELECT id, lead_id, status, reason FROM pgautomate.lead_stages
 WHERE id = ANY (@ids::bigint[])
 ORDER BY id;

-- name: ApiTimeline :many
-- By lead_stage_actions_lead_idx and lead_stages_lead_idx. What has no time yet comes last.
WITH entries AS (
    SELECT 'action'::text AS kind, a.id, coalesce(a.started_at, a.finished_at, a.perform_at, 'infinity')::timestamptz AS sort_at,
           a.status::text AS status, a.reason, s.pipeline_id, p.name AS pipeline, st.name AS stage, a.lead_stage_id,
           a.sequence_number, a.action_type, NULL::timestamptz AS entered_at, a.perform_at, a.started_at, a.finished_at,
           a.attempt, a.error, a.firing_id
      FROM pgautomate.lead_stage_actions a
      LEFT JOIN pgautomate.lead_stages s ON s.id = a.lead_stage_id
      LEFT JOIN pgautomate.pipelines p ON p.id = s.pipeline_id
      LEFT JOIN pgautomate.pipeline_stages st ON st.id = s.pipeline_stage_id
     WHERE a.organization_id = @organization_id AND a.lead_id = @lead_id
    UNION ALL
    SELECT 'stage', s.id, s.entered_at,
           s.status, s.reason, s.pipeline_id, p.name, st.name, s.id,
           0, '', s.entered_at, NULL, NULL, s.finished_at,
           0, NULL, NULL
      FROM pgautomate.lead_stages s
      LEFT JOIN pgautomate.pipelines p ON p.id = s.pipeline_id
      LEFT JOIN pgautomate.pipeline_stages st ON st.id = s.pipeline_stage_id
     WHERE s.organization_id = @organization_id AND s.lead_id = @lead_id
)
SELECT kind, id, sort_at::text AS sort_at, status, reason, pipeline_id, pipeline, stage, lead_stage_id, sequence_number, action_type,
       entered_at, perform_at, started_at, finished_at, attempt, error, firing_id
  FROM entries
 WHERE sqlc.narg(after_at)::text IS NULL
    OR (sort_at, kind = 'action', id) > (sqlc.narg(after_at)::text::timestamptz, @after_action::boolean, @after_id::bigint)
 ORDER BY entries.sort_at, kind = 'action', id
 LIMIT @max_rows;

-- name: ApiNow :one
SELECT clock_timestamp()::timestamptz AS now;
