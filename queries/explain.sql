-- Why a trigger fired or did not: requests to the process that feeds, which alone
-- has the latest changes, and what it looks up for an answer.

-- A trigger's definition that is live after a position. trigger_versions_pkey.
-- name: TriggerVersionAt :one
SELECT trigger_id, version, organization_id, name, object_type, query, before_query, extra_filter
  FROM pgautomate.trigger_versions
 WHERE trigger_id = @trigger_id AND valid_from <= (@at::text)::pg_lsn
 ORDER BY version DESC LIMIT 1;

-- By each partition's unique (trigger_id, committed_at, commit_lsn, object_id).
-- name: LatestFiring :one
SELECT id, commit_lsn::text AS commit_lsn, cause FROM pgautomate.trigger_firings
 WHERE trigger_id = @trigger_id AND object_id = @object_id AND commit_lsn <= (@at::text)::pg_lsn
 ORDER BY committed_at DESC, id DESC LIMIT 1;

-- name: AskExplanation :one
INSERT INTO pgautomate.explanations (trigger_id, object_id, commit_lsn)
VALUES (@trigger_id, @object_id, (sqlc.narg(commit_lsn)::text)::pg_lsn) RETURNING id;

-- name: Explanation :one
SELECT answer, problem FROM pgautomate.explanations WHERE id = @id;

-- name: OpenExplanations :many
WITH old AS (DELETE FROM pgautomate.explanations WHERE asked_at < now() - interval '1 minute')
SELECT id, trigger_id, object_id, coalesce(commit_lsn::text, '')::text AS commit_lsn FROM pgautomate.explanations
 WHERE answer IS NULL AND problem IS NULL ORDER BY id LIMIT 10;

-- name: AnswerExplanation :exec
UPDATE pgautomate.explanations SET answer = sqlc.narg(answer)::jsonb, problem = nullif(@problem::text, '') WHERE id = @id;
