-- Layouts of e-mails.

-- name: FindLayout :one
-- By identifier (layouts_identifier_idx) or number (layouts_pkey).
SELECT l.* FROM pgautomate.layouts l
 WHERE l.organization_id = @organization_id AND l.deleted_at IS NULL AND (l.identifier = @identifier OR l.id::text = @identifier)
 ORDER BY (l.identifier = @identifier) DESC LIMIT 1;

-- name: DefaultLayout :one
-- layouts_default_idx.
SELECT l.content FROM pgautomate.layouts l WHERE l.organization_id = @organization_id AND l.is_default AND l.deleted_at IS NULL;

-- name: ApiListLayouts :many
-- layouts_identifier_idx.
SELECT l.* FROM pgautomate.layouts l
 WHERE l.organization_id = @organization_id AND l.deleted_at IS NULL
   AND (@search::text = '' OR l.name ILIKE '%' || @search || '%' OR l.identifier ILIKE '%' || @search || '%')
 ORDER BY l.id DESC LIMIT @max_rows OFFSET @skip;

-- name: ApiCountLayouts :one
SELECT count(*) FROM pgautomate.layouts l
 WHERE l.organization_id = @organization_id AND l.deleted_at IS NULL
   AND (@search::text = '' OR l.name ILIKE '%' || @search || '%' OR l.identifier ILIKE '%' || @search || '%');

-- name: ApiInsertLayout :one
INSERT INTO pgautomate.layouts (organization_id, identifier, name, description, content, variables, extra)
VALUES (@organization_id, @identifier, @name, @description, @content, @variables, @extra)
ON CONFLICT (organization_id, identifier) WHERE deleted_at IS NULL DO NOTHING
RETURNING id;

-- name: ApiUpdateLayout :exec
UPDATE pgautomate.layouts
   SET name = @name, identifier = @identifier, description = @description, content = @content, variables = @variables, extra = @extra, updated_at = now()
 WHERE id = @id;

-- name: ApiClearDefaultLayout :exec
-- Takes it from the one that was. layouts_default_idx.
UPDATE pgautomate.layouts SET is_default = false
 WHERE organization_id = @organization_id AND is_default AND deleted_at IS NULL;

-- name: ApiMakeDefaultLayout :exec
UPDATE pgautomate.layouts SET is_default = true, updated_at = now() WHERE id = @id;

-- name: ApiDeleteLayout :exec
UPDATE pgautomate.layouts SET deleted_at = now(), is_default = false WHERE id = @id;

-- name: ApiLayoutUsage :many
-- The workflows whose steps name a layout. workflows_list_idx, workflow_steps_workflow_idx.
SELECT w.id, w.identifier, w.name FROM pgautomate.workflows w
 WHERE w.organization_id = @organization_id AND w.deleted_at IS NULL
   AND EXISTS (SELECT FROM pgautomate.workflow_steps s
                WHERE s.workflow_id = w.id AND s.retired_at IS NULL AND s.type = 'email'
                  AND (s.controls ->> 'layoutId' IN (@identifier::text, @number::text)
                       OR jsonb_path_exists(s.variants, '$[*].template.layoutId ? (@ == $a || @ == $b)',
                                            jsonb_build_object('a', @identifier, 'b', @number))))
 ORDER BY w.id;
