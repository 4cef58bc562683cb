-- Whom nothing is to be sent to.

-- suppressions_lead_idx. The one for the channel alone before the one for all.
-- name: Suppression :one
SELECT x.reason FROM pgautomate.suppressions x
 WHERE x.organization_id = @organization_id AND x.lead_type = @lead_type AND x.lead_id = @lead_id
   AND (x.channel IS NULL OR x.channel IN ('*', @channel::text))
 ORDER BY (x.channel = @channel) DESC NULLS LAST, x.id LIMIT 1;
