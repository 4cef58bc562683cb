-- Throttles as the HTTP API writes them. By throttles_pkey; a small table.

-- name: ApiPutThrottle :one
INSERT INTO pgautomate.throttles (organization_id, action_type, max_starts, per, max_running)
VALUES (@organization_id, @action_type, sqlc.narg(max_starts), CAST(sqlc.arg(per)::text AS interval), sqlc.narg(max_running))
ON CONFLICT (organization_id, action_type) DO UPDATE
   SET max_starts = excluded.max_starts, per = excluded.per, max_running = excluded.max_running
RETURNING organization_id, action_type, max_starts, per::text AS per, max_running;

-- name: ApiListThrottles :many
SELECT organization_id, action_type, max_starts, per::text AS per, max_running
  FROM pgautomate.throttles
 WHERE (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL)
   AND (organization_id, action_type) > (@after_organization::text, @after_type::text)
 ORDER BY organization_id, action_type
 LIMIT @max_rows;

-- name: ApiDeleteThrottle :execrows
DELETE FROM pgautomate.throttles WHERE organization_id = @organization_id AND action_type = @action_type;
