-- Whom nothing is to be sent to.

-- suppressions_lead_idx. The one for the channel alone before the one for all.
-- name: Suppression :one
SELECT x.reason FROM pgautomate.suppressions x
 WHERE x.organization_id = @organization_id AND x.lead_type = @lead_type AND x.lead_id = @lead_id
   AND (x.channel IS NULL OR x.channel IN ('*', @channel::text))
 ORDER BY (x.channel = @channel) DESC NULLS LAST, x.id LIMIT 1;

-- Those of some addresses, as they were asked for. suppressions_address_idx.
-- name: SuppressedAddresses :many
SELECT DISTINCT ON (w.asked) w.asked::text AS asked, x.reason
  FROM (SELECT unnest(@addresses::text[]) AS asked) w
  JOIN pgautomate.suppressions x ON x.organization_id = @organization_id AND x.address = pgautomate.plain_address(w.asked)
   AND (x.channel IS NULL OR x.channel IN ('*', @channel::text))
 ORDER BY w.asked, (x.channel = @channel) DESC NULLS LAST, x.id;

-- As the HTTP API lists them. suppressions_pkey, or one of the three unique indexes.
-- name: ApiListSuppressions :many
SELECT * FROM pgautomate.suppressions
 WHERE id > @after_id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL)
   AND (lead_id = sqlc.narg(lead_id) OR sqlc.narg(lead_id) IS NULL)
   AND (subscriber_id = sqlc.narg(subscriber_id) OR sqlc.narg(subscriber_id) IS NULL)
   AND (address = pgautomate.plain_address(sqlc.narg(address)) OR sqlc.narg(address) IS NULL)
 ORDER BY id LIMIT @max_rows;

-- name: ApiGetSuppression :one
SELECT * FROM pgautomate.suppressions WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL);

-- name: ApiInsertSuppression :one
INSERT INTO pgautomate.suppressions (organization_id, lead_id, subscriber_id, address, lead_type, channel, reason)
VALUES (@organization_id, sqlc.narg(lead_id), sqlc.narg(subscriber_id), sqlc.narg(address), @lead_type, nullif(@channel::text, '*'), @reason)
RETURNING *;

-- name: ApiUpdateSuppression :one
UPDATE pgautomate.suppressions SET reason = coalesce(sqlc.narg(reason), reason),
       channel = CASE WHEN sqlc.narg(channel)::text IS NULL THEN channel ELSE nullif(sqlc.narg(channel), '*') END
 WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL)
RETURNING *;

-- name: ApiDeleteSuppression :execrows
DELETE FROM pgautomate.suppressions WHERE id = @id AND (organization_id = sqlc.narg(organization_id) OR sqlc.narg(organization_id) IS NULL);
