-- What Novu's API calls environments, their variables, and groups of workflows.

-- name: ApiOrganizationName :one
SELECT coalesce((SELECT nullif(o.name, '') FROM pgautomate.organizations o WHERE o.id = @id::text), @id)::text AS name;

-- name: ApiNameOrganization :exec
INSERT INTO pgautomate.organizations (id, name) VALUES (@id, @name) ON CONFLICT (id) DO UPDATE SET name = excluded.name;

-- name: ApiTags :many
-- workflows_list_idx.
SELECT DISTINCT t.tag::text AS tag FROM pgautomate.workflows w CROSS JOIN unnest(w.tags) AS t (tag)
 WHERE w.organization_id = @organization_id AND w.deleted_at IS NULL ORDER BY 1;

-- name: ApiListVariables :many
-- environment_variables_organization_id_key_key.
SELECT v.* FROM pgautomate.environment_variables v
 WHERE v.organization_id = @organization_id AND (@search::text = '' OR strpos(lower(v.key), lower(@search)) > 0) ORDER BY v.key;

-- name: ApiGetVariable :one
SELECT v.* FROM pgautomate.environment_variables v WHERE v.organization_id = @organization_id AND v.key = @key;

-- name: ApiInsertVariable :one
INSERT INTO pgautomate.environment_variables (organization_id, key, value, is_secret) VALUES (@organization_id, @key, sqlc.narg(value), @is_secret)
RETURNING *;

-- name: ApiUpdateVariable :one
UPDATE pgautomate.environment_variables SET key = @new_key, value = sqlc.narg(value), is_secret = @is_secret, updated_at = now()
 WHERE organization_id = @organization_id AND key = @key
RETURNING *;

-- name: ApiDeleteVariable :execrows
DELETE FROM pgautomate.environment_variables WHERE organization_id = @organization_id AND key = @key;

-- name: ApiVariableUsage :many
-- Workflows whose steps name a variable. workflows_list_idx, workflow_steps_workflow_idx.
SELECT w.name, w.identifier FROM pgautomate.workflows w
 WHERE w.organization_id = @organization_id AND w.deleted_at IS NULL
   AND EXISTS (SELECT FROM pgautomate.workflow_steps s
                WHERE s.workflow_id = w.id AND s.retired_at IS NULL AND concat(s.controls::text, s.variants::text) ~ ('\menv\.' || @key::text || '\M'))
 ORDER BY w.id;

-- name: VariablesOf :many
-- environment_variables_organization_id_key_key.
SELECT v.key, v.value::text AS value FROM pgautomate.environment_variables v WHERE v.organization_id = @organization_id AND v.value IS NOT NULL;

-- name: ApiListGroups :many
-- notification_groups_organization_id_identifier_key.
SELECT g.* FROM pgautomate.notification_groups g WHERE g.organization_id = @organization_id ORDER BY g.id;

-- name: ApiGetGroup :one
SELECT g.* FROM pgautomate.notification_groups g WHERE g.organization_id = @organization_id AND g.identifier = @identifier;

-- name: ApiInsertGroup :one
INSERT INTO pgautomate.notification_groups (organization_id, identifier, name) VALUES (@organization_id, @identifier, @name)
RETURNING *;

-- name: ApiEnsureGroup :exec
INSERT INTO pgautomate.notification_groups (organization_id, identifier, name) VALUES (@organization_id, @identifier, @name)
ON CONFLICT (organization_id, identifier) DO NOTHING;

-- name: ApiRenameGroup :one
UPDATE pgautomate.notification_groups SET name = @name, updated_at = now() WHERE organization_id = @organization_id AND identifier = @identifier
RETURNING *;

-- name: ApiDeleteGroup :execrows
-- One that no workflow is in. workflows_list_idx.
DELETE FROM pgautomate.notification_groups g
 WHERE g.organization_id = @organization_id AND g.identifier = @identifier
   AND NOT EXISTS (SELECT FROM pgautomate.workflows w WHERE w.organization_id = g.organization_id AND w.group_id = g.identifier AND w.deleted_at IS NULL);

-- name: ApiGroupNames :many
SELECT g.identifier, g.name FROM pgautomate.notification_groups g WHERE g.organization_id = @organization_id AND g.identifier = ANY (@identifiers::text[]);
