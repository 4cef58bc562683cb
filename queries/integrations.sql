-- What sends for an organization.

-- integrations_channel_idx.
-- name: ListIntegrations :many
SELECT i.identifier, i.provider_id, i.credentials, i.conditions FROM pgautomate.integrations i
 WHERE i.organization_id = @organization_id AND i.channel = @channel AND i.active
   AND (@identifier::text = '' OR i.identifier = @identifier)
 ORDER BY i.is_primary DESC, i.priority, i.id;
