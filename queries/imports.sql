-- Imports of leads from files.

-- The one that was interrupted, or a new one. imports_running_idx.
-- name: BeginImport :one
INSERT INTO pgautomate.imports AS i (file_name, file_bytes, file_sha256, table_name, pipeline_stage_id, organization_id)
VALUES (@file_name, @file_bytes, @file_sha256, @table_name, sqlc.narg(pipeline_stage_id), sqlc.narg(organization_id))
ON CONFLICT (file_sha256, table_name, coalesce(pipeline_stage_id, 0), coalesce(organization_id, '')) WHERE status = 'running'
DO UPDATE SET file_name = excluded.file_name
RETURNING *;

-- Waits for whoever imports the same file at this moment.
-- name: LockImport :one
SELECT * FROM pgautomate.imports WHERE id = @id FOR UPDATE;

-- name: AdvanceImport :one
UPDATE pgautomate.imports SET position = @position, line = @line, imported = imported + @imported, rejected = rejected + @rejected,
       entered = entered + @entered, refused = @refused, updated_at = clock_timestamp()
 WHERE id = @id RETURNING *;

-- name: EndImport :exec
UPDATE pgautomate.imports SET status = 'completed', updated_at = clock_timestamp() WHERE id = @id;

-- import_rejects_pkey.
-- name: ImportRejects :many
SELECT line, row, error FROM pgautomate.import_rejects WHERE import_id = @import_id AND line > @after ORDER BY line LIMIT 1000;

-- name: StageOf :one
SELECT s.id, s.name AS stage, p.name AS pipeline, p.organization_id, p.object_type
  FROM pgautomate.pipeline_stages s JOIN pgautomate.pipelines p ON p.id = s.pipeline_id
 WHERE s.id = @id;

-- name: FinishedImport :one
SELECT * FROM pgautomate.imports
 WHERE file_sha256 = @file_sha256 AND table_name = @table_name AND pipeline_stage_id IS NOT DISTINCT FROM sqlc.narg(pipeline_stage_id)
   AND organization_id IS NOT DISTINCT FROM sqlc.narg(organization_id) AND status = 'completed'
 ORDER BY id DESC LIMIT 1;
