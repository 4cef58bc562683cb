-- API keys. Looked up by their hash (api_keys_hash_key), listed whole: there are few.

-- name: ApiFindKey :one
SELECT id, organization_id, (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')::boolean AS stale
  FROM pgautomate.api_keys
 WHERE hash = @hash AND revoked_at IS NULL;

-- name: ApiTouchKey :exec
UPDATE pgautomate.api_keys SET last_used_at = now()
 WHERE id = @id AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute');

-- name: ApiInsertKey :one
INSERT INTO pgautomate.api_keys (organization_id, name, prefix, hash)
VALUES (sqlc.narg(organization_id), @name, @prefix, @hash)
RETURNING id, created_at;

-- name: ApiListKeys :many
-- By api_keys_pkey.
SELECT id, organization_id, name, prefix, created_at, last_used_at, revoked_at
  FROM pgautomate.api_keys
 WHERE (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL) AND id > @after_id::bigint
 ORDER BY id
 LIMIT @max_rows;

-- name: ApiRevokeKey :execrows
UPDATE pgautomate.api_keys SET revoked_at = now()
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL)
   AND revoked_at IS NULL;
