-- Triggers and their audit, as the HTTP API reads and writes them. A NULL
-- organization is an operator's: all of them.

-- name: ApiOrganizationTimeZone :one
SELECT coalesce((SELECT time_zone FROM pgautomate.organizations WHERE id = @id), 'UTC')::text AS time_zone;

-- name: ApiInsertTrigger :one
INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, before_query, extra_filter, action_type, action_params, status)
VALUES (@organization_id, @name, @object_type, @query, sqlc.narg(before_query), sqlc.narg(extra_filter), @action_type, @action_params, @status)
RETURNING *;

-- name: ApiGetTrigger :one
-- By triggers_pkey.
SELECT * FROM pgautomate.triggers
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL);

-- name: ApiUpdateTrigger :one
-- Only the version that was checked is replaced.
UPDATE pgautomate.triggers
   SET name = @name, object_type = @object_type, query = @query, before_query = sqlc.narg(before_query), extra_filter = sqlc.narg(extra_filter),
       action_type = @action_type, action_params = @action_params, status = coalesce(sqlc.narg(status), status)
 WHERE id = @id AND version = @version
RETURNING *;

-- name: ApiDeleteTrigger :execrows
DELETE FROM pgautomate.triggers
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL);

-- name: ApiListTriggers :many
-- By triggers_organization_idx.
SELECT * FROM pgautomate.triggers
 WHERE organization_id = @organization_id AND id > @after_id AND awaited_id IS NULL
   AND (object_type = sqlc.narg(object_type) OR sqlc.narg(object_type) IS NULL)
   AND (status = sqlc.narg(status) OR sqlc.narg(status) IS NULL)
 ORDER BY organization_id, id
 LIMIT @max_rows;

-- name: ApiListAllTriggers :many
-- By triggers_pkey.
SELECT * FROM pgautomate.triggers
 WHERE id > @after_id AND awaited_id IS NULL
   AND (object_type = sqlc.narg(object_type) OR sqlc.narg(object_type) IS NULL)
   AND (status = sqlc.narg(status) OR sqlc.narg(status) IS NULL)
 ORDER BY id
 LIMIT @max_rows;

-- name: ApiListFirings :many
-- By each partition's unique (trigger_id, object_id, commit_lsn, committed_at):
-- with an object_id only that object's firings are read.
SELECT id, trigger_id, trigger_version, organization_id, object_type, object_id, action, changed_fields, data, previous_data,
       commit_lsn::text AS commit_lsn, committed_at, fired_at, cause, depth, related
  FROM pgautomate.trigger_firings
 WHERE trigger_id = @trigger_id
   AND (object_id = sqlc.narg(object_id) OR sqlc.narg(object_id) IS NULL)
   AND (sqlc.narg(before_at)::timestamptz IS NULL
        OR (committed_at, id) < (sqlc.narg(before_at)::timestamptz, @before_id::bigint))
 ORDER BY committed_at DESC, id DESC
 LIMIT @max_rows;
