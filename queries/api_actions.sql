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

-- name: ApiMoveAction :execrows
-- By lead_stage_actions_pkey.
UPDATE pgautomate.lead_stage_actions SET perform_at = @perform_at::timestamptz
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL)
   AND status IN ('pending', 'delayed') AND perform_at IS NOT NULL;

-- name: ApiRetryAction :exec
SELECT pgautomate.retry_action(@id::bigint);
