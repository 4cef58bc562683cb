-- Throttles as people set them. Small table, read whole or by its key.

-- name: ListThrottles :many
SELECT organization_id, action_type, max_starts, (extract(epoch FROM per))::double precision AS per_seconds, per::text AS per, max_running
  FROM pgautomate.throttles
 WHERE organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL
 ORDER BY organization_id, action_type;
