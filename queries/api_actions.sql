-- Actions as the HTTP API shows, cancels and retries them. What a cancelation or
-- a due action sets off is said by the triggers of lead_stage_actions, not here.

-- name: ApiGetAction :one
-- By lead_stage_actions_pkey.
SELECT id, organization_id, lead_id, object_type, lead_stage_id, sequence_number, action_type, params, status::text AS status, reason,
       perform_at, attempt, max_attempts, error, result, created_at, queued_at, started_at, finished_at, firing_id, depth
  FROM pgautomate.lead_stage_actions
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL);

-- name: ApiListLeadActions :many
-- By lead_stage_actions_lead_idx.
SELECT id, organization_id, lead_id, object_type, lead_stage_id, sequence_number, action_type, params, status::text AS status, reason,
       perform_at, attempt, max_attempts, error, result, created_at, queued_at, started_at, finished_at, firing_id, depth
  FROM pgautomate.lead_stage_actions
 WHERE organization_id = @organization_id AND lead_id = @lead_id AND id < @before_id
   AND (status = sqlc.narg(status)::text::pgautomate.job_status OR sqlc.narg(status)::text IS NULL)
   AND (action_type = sqlc.narg(action_type) OR sqlc.narg(action_type) IS NULL)
 ORDER BY organization_id, lead_id, id DESC
 LIMIT @max_rows;

-- name: ApiListActions :many
-- By lead_stage_actions_pkey, newest first.
SELECT id, organization_id, lead_id, object_type, lead_stage_id, sequence_number, action_type, params, status::text AS status, reason,
       perform_at, attempt, max_attempts, error, result, created_at, queued_at, started_at, finished_at, firing_id, depth
  FROM pgautomate.lead_stage_actions
 WHERE id < @before_id
   AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL)
   AND (lead_id = sqlc.narg(lead_id) OR sqlc.narg(lead_id) IS NULL)
   AND (status = sqlc.narg(status)::text::pgautomate.job_status OR sqlc.narg(status)::text IS NULL)
   AND (action_type = sqlc.narg(action_type) OR sqlc.narg(action_type) IS NULL)
 ORDER BY id DESC
 LIMIT @max_rows;

-- name: ApiCancelAction :execrows
-- By lead_stage_actions_pkey.
UPDATE pgautomate.lead_stage_actions SET status = 'canceled'
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL)
   AND status IN ('pending', 'queued', 'delayed');

-- What finished long ago has left the table; to be retried it must be there.
-- name: ApiBringBackActions :exec
SELECT pgautomate.bring_back_actions(@id) WHERE EXISTS (SELECT FROM pgautomate.lead_stage_actions
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL));

-- name: ApiLockRunOfAction :exec
-- By lead_runs_pkey. What entries of the lead wait for, so that none comes between.
SELECT r.entries FROM pgautomate.lead_stage_actions a
  JOIN pgautomate.lead_stages s ON s.id = a.lead_stage_id
  JOIN pgautomate.lead_runs r ON r.organization_id = s.organization_id AND r.lead_id = s.lead_id AND r.pipeline_id = s.pipeline_id
 WHERE a.id = @id
   FOR UPDATE OF r;

-- name: ApiLockActionForRetry :one
-- By lead_stage_actions_pkey, lead_stages_pkey, lead_stages_one_active_idx and
-- lead_stage_actions_stage_idx.
SELECT a.status::text AS status, a.lead_stage_id, a.sequence_number,
       coalesce(s.status, '')::text AS stage_status, coalesce(s.reason, '')::text AS stage_reason,
       coalesce(p.name, '')::text AS pipeline,
       EXISTS (SELECT FROM pgautomate.lead_stages o WHERE o.organization_id = s.organization_id AND o.lead_id = s.lead_id
                  AND o.pipeline_id = s.pipeline_id AND o.status = 'active' AND o.id <> s.id)::boolean AS another_active,
       EXISTS (SELECT FROM pgautomate.lead_stage_actions l WHERE l.lead_stage_id = a.lead_stage_id
                  AND l.sequence_number > a.sequence_number AND l.status = 'failed')::boolean AS later_failed
  FROM pgautomate.lead_stage_actions a
  LEFT JOIN pgautomate.lead_stages s ON s.id = a.lead_stage_id
  LEFT JOIN pgautomate.pipelines p ON p.id = s.pipeline_id
 WHERE a.id = @id AND (a.organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL)
   FOR UPDATE OF a;

-- name: ApiReopenStage :exec
UPDATE pgautomate.lead_stages SET status = 'active', reason = NULL, finished_at = NULL
 WHERE id = @id AND status = 'failed';

-- name: ApiRestoreCanceledActions :exec
-- By lead_stage_actions_stage_idx. The actions that were canceled only because the
-- stage failed before them.
UPDATE pgautomate.lead_stage_actions
   SET status = 'pending', reason = NULL, perform_at = NULL, queued_at = NULL, finished_at = NULL, timer = false
 WHERE lead_stage_id = @lead_stage_id AND sequence_number > @sequence_number
   AND status = 'canceled' AND reason IS DISTINCT FROM 'canceled_by_app';

-- name: ApiResetAction :exec
-- As new: its attempts are counted from the start. In a stage it is not due by
-- itself: advance_lead_stages makes it so when its turn has come.
UPDATE pgautomate.lead_stage_actions
   SET status = 'pending', reason = NULL, error = NULL, result = NULL, attempt = 0,
       perform_at = CASE WHEN lead_stage_id IS NULL THEN now() END,
       queued_at = NULL, started_at = NULL, finished_at = NULL, worker_id = NULL, waiting_since = NULL,
       timer = false
 WHERE id = @id;

-- name: ApiAdvanceStage :exec
SELECT pgautomate.advance_lead_stages(ARRAY[@lead_stage_id::bigint]);
