-- Notifications as the HTTP API shows and changes them.

-- name: ApiGetWorkflow :one
-- By identifier (workflows_identifier_idx) or number (workflows_pkey).
SELECT w.* FROM pgautomate.workflows w
 WHERE w.organization_id = @organization_id AND w.deleted_at IS NULL
   AND (w.identifier = @identifier OR w.id = sqlc.narg(id)::bigint)
 ORDER BY (w.identifier = @identifier) DESC LIMIT 1;

-- name: ApiListWorkflows :many
-- workflows_list_idx.
SELECT w.*, count(*) OVER () AS total FROM pgautomate.workflows w
 WHERE w.organization_id = @organization_id AND w.deleted_at IS NULL
   AND (@search::text = '' OR w.name ILIKE '%' || @search || '%' OR w.identifier ILIKE '%' || @search || '%')
 ORDER BY w.id DESC LIMIT @max_rows OFFSET @skip;

-- name: ApiStepsOf :many
-- workflow_steps_workflow_idx.
SELECT s.* FROM pgautomate.workflow_steps s
 WHERE s.workflow_id = ANY (@workflow_ids::bigint[]) AND s.retired_at IS NULL ORDER BY s.workflow_id, s.position;

-- name: ApiInsertWorkflow :one
INSERT INTO pgautomate.workflows (organization_id, identifier, name, description, active, critical, tags, preference_settings, read_only,
                                  payload_schema, validate_payload, group_id, data, extra)
VALUES (@organization_id, @identifier, @name, @description, @active, @critical, @tags::text[], @preference_settings, @read_only,
        sqlc.narg(payload_schema), @validate_payload, sqlc.narg(group_id), sqlc.narg(data), @extra)
ON CONFLICT (organization_id, identifier) WHERE deleted_at IS NULL DO NOTHING
RETURNING id;

-- name: ApiUpdateWorkflow :exec
UPDATE pgautomate.workflows
   SET name = @name, description = @description, active = @active, critical = @critical, tags = @tags::text[],
       preference_settings = @preference_settings, read_only = @read_only, payload_schema = sqlc.narg(payload_schema),
       validate_payload = @validate_payload, group_id = sqlc.narg(group_id), data = sqlc.narg(data), extra = @extra, updated_at = now()
 WHERE id = @id;

-- name: ApiLockWorkflow :exec
SELECT id FROM pgautomate.workflows WHERE id = @id FOR UPDATE;

-- name: ApiSetWorkflowActive :exec
UPDATE pgautomate.workflows SET active = @active, updated_at = now() WHERE id = @id;

-- name: ApiDeleteWorkflow :exec
UPDATE pgautomate.workflows SET deleted_at = now(), active = false WHERE id = @id;

-- name: ApiRetireSteps :exec
UPDATE pgautomate.workflow_steps SET retired_at = now() WHERE workflow_id = @workflow_id AND retired_at IS NULL;

-- name: ApiInsertSteps :exec
INSERT INTO pgautomate.workflow_steps (workflow_id, position, step_id, name, type, wire_type, active, stop_on_fail, controls, settings, filters, variants, variables)
SELECT @workflow_id, r.position, r.step_id, r.name, r.type, r.wire_type, r.active, r.stop_on_fail, r.controls, r.settings, r.filters, r.variants, r.variables
  FROM jsonb_to_recordset(@steps::jsonb) AS r (position integer, step_id text, name text, type text, wire_type text, active boolean,
       stop_on_fail boolean, controls jsonb, settings jsonb, filters jsonb, variants jsonb, variables jsonb)
 ORDER BY r.position;

-- name: ApiGetSubscriber :one
-- subscribers_organization_id_subscriber_id_key.
SELECT s.*, ARRAY(SELECT t.key FROM pgautomate.topic_subscribers m JOIN pgautomate.topics t ON t.id = m.topic_id
                   WHERE m.subscriber_no = s.id ORDER BY t.key LIMIT 100)::text[] AS topics
  FROM pgautomate.subscribers s
 WHERE s.organization_id = @organization_id AND s.subscriber_id = @subscriber_id AND s.deleted_at IS NULL;

-- name: ApiListSubscribers :many
-- subscribers_live_idx.
SELECT s.* FROM pgautomate.subscribers s
 WHERE s.organization_id = @organization_id AND s.deleted_at IS NULL
   AND (@email::text = '' OR s.email ILIKE '%' || @email || '%')
   AND (@phone::text = '' OR s.phone LIKE '%' || @phone || '%')
   AND (@name::text = '' OR concat_ws(' ', s.first_name, s.last_name) ILIKE '%' || @name || '%')
   AND (@subscriber_id::text = '' OR s.subscriber_id = @subscriber_id)
   AND (@before::bigint = 0 OR s.id < @before) AND (@after::bigint = 0 OR s.id > @after)
 ORDER BY CASE WHEN @ascending::boolean THEN s.id END, CASE WHEN NOT @ascending THEN s.id END DESC
 LIMIT @max_rows OFFSET @skip;

-- name: ApiCountSubscribers :one
-- subscribers_live_idx.
SELECT count(*) FROM (
    SELECT FROM pgautomate.subscribers s
     WHERE s.organization_id = @organization_id AND s.deleted_at IS NULL
       AND (@email::text = '' OR s.email ILIKE '%' || @email || '%')
       AND (@phone::text = '' OR s.phone LIKE '%' || @phone || '%')
       AND (@name::text = '' OR concat_ws(' ', s.first_name, s.last_name) ILIKE '%' || @name || '%')
       AND (@subscriber_id::text = '' OR s.subscriber_id = @subscriber_id)
     LIMIT @most::bigint) x;

-- name: ApiPatchSubscriber :execrows
UPDATE pgautomate.subscribers s
   SET first_name = CASE WHEN @patch::jsonb ? 'firstName' THEN nullif(@patch ->> 'firstName', '') ELSE s.first_name END,
       last_name = CASE WHEN @patch ? 'lastName' THEN nullif(@patch ->> 'lastName', '') ELSE s.last_name END,
       email = CASE WHEN @patch ? 'email' THEN nullif(@patch ->> 'email', '') ELSE s.email END,
       phone = CASE WHEN @patch ? 'phone' THEN nullif(@patch ->> 'phone', '') ELSE s.phone END,
       avatar = CASE WHEN @patch ? 'avatar' THEN nullif(@patch ->> 'avatar', '') ELSE s.avatar END,
       locale = CASE WHEN @patch ? 'locale' THEN nullif(@patch ->> 'locale', '') ELSE s.locale END,
       timezone = CASE WHEN @patch ? 'timezone' THEN nullif(@patch ->> 'timezone', '') ELSE s.timezone END,
       data = CASE WHEN @patch ? 'data' THEN nullif(@patch -> 'data', 'null') ELSE s.data END,
       updated_at = now()
 WHERE s.organization_id = @organization_id AND s.subscriber_id = @subscriber_id AND s.deleted_at IS NULL;

-- name: ApiDeleteSubscriber :one
WITH gone AS (
    UPDATE pgautomate.subscribers SET deleted_at = now(), updated_at = now()
     WHERE organization_id = @organization_id AND subscriber_id = @subscriber_id AND deleted_at IS NULL
    RETURNING id
), topics AS (
    DELETE FROM pgautomate.topic_subscribers m USING gone WHERE m.subscriber_no = gone.id
), preferences AS (
    DELETE FROM pgautomate.preferences p USING gone WHERE p.subscriber_no = gone.id
)
SELECT id FROM gone;

-- name: ApiSetOnline :execrows
UPDATE pgautomate.subscribers
   SET last_online_at = CASE WHEN is_online IS DISTINCT FROM @online::boolean THEN now() ELSE last_online_at END, is_online = @online, updated_at = now()
 WHERE organization_id = @organization_id AND subscriber_id = @subscriber_id AND deleted_at IS NULL;

-- name: ApiInsertTopic :one
INSERT INTO pgautomate.topics (organization_id, key, name, data) VALUES (@organization_id, @key, @name, sqlc.narg(data))
ON CONFLICT (organization_id, key) DO NOTHING RETURNING id;

-- name: ApiGetTopic :one
-- topics_organization_id_key_key.
SELECT t.* FROM pgautomate.topics t WHERE t.organization_id = @organization_id AND t.key = @key;

-- name: ApiListTopics :many
SELECT t.* FROM pgautomate.topics t
 WHERE t.organization_id = @organization_id AND (@key::text = '' OR t.key ILIKE '%' || @key || '%')
   AND (@name::text = '' OR t.name ILIKE '%' || @name || '%')
   AND (@before::bigint = 0 OR t.id < @before) AND (@after::bigint = 0 OR t.id > @after)
 ORDER BY CASE WHEN @ascending::boolean THEN t.id END, CASE WHEN NOT @ascending THEN t.id END DESC
 LIMIT @max_rows OFFSET @skip;

-- name: ApiCountTopics :one
SELECT count(*) FROM (
    SELECT FROM pgautomate.topics t
     WHERE t.organization_id = @organization_id AND (@key::text = '' OR t.key ILIKE '%' || @key || '%')
       AND (@name::text = '' OR t.name ILIKE '%' || @name || '%')
     LIMIT @most::bigint) x;

-- name: ApiPatchTopic :execrows
UPDATE pgautomate.topics SET name = coalesce(sqlc.narg(name), name), data = coalesce(sqlc.narg(data), data), updated_at = now()
 WHERE organization_id = @organization_id AND key = @key;

-- name: ApiDeleteTopic :execrows
DELETE FROM pgautomate.topics WHERE organization_id = @organization_id AND key = @key;

-- name: ApiTopicSize :one
-- topic_subscribers_walk_idx.
SELECT count(*) FROM pgautomate.topic_subscribers WHERE topic_id = @topic_id;

-- name: ApiAddMembers :many
-- Adds those that are subscribers; a member stays what it is.
INSERT INTO pgautomate.topic_subscribers AS m (topic_id, subscriber_no, identifier)
SELECT @topic_id, s.id, nullif((@identifiers::text[])[array_position(@ids::text[], s.subscriber_id)], '')
  FROM pgautomate.subscribers s
 WHERE s.organization_id = @organization_id AND s.subscriber_id = ANY (@ids::text[]) AND s.deleted_at IS NULL
 ORDER BY s.id
ON CONFLICT (topic_id, subscriber_no) DO UPDATE SET identifier = coalesce(excluded.identifier, m.identifier)
RETURNING m.id, m.subscriber_no, m.identifier, m.created_at;

-- name: ApiRemoveMembers :many
DELETE FROM pgautomate.topic_subscribers m USING pgautomate.subscribers s
 WHERE m.topic_id = @topic_id AND s.id = m.subscriber_no AND s.subscriber_id = ANY (@ids::text[])
RETURNING m.id, m.subscriber_no, m.identifier, m.created_at;

-- name: ApiMembers :many
SELECT m.id, m.identifier, m.created_at, s.id AS subscriber_no, s.subscriber_id, s.first_name, s.last_name, s.email, s.avatar,
       s.created_at AS subscriber_created_at, s.updated_at AS subscriber_updated_at, t.id AS topic_id, t.key, t.name
  FROM pgautomate.topic_subscribers m
  JOIN pgautomate.topics t ON t.id = m.topic_id
  JOIN pgautomate.subscribers s ON s.id = m.subscriber_no AND s.deleted_at IS NULL
 WHERE t.organization_id = @organization_id
   AND (@topic_key::text = '' OR t.key = @topic_key) AND (@subscriber_id::text = '' OR s.subscriber_id = @subscriber_id)
   AND (@before::bigint = 0 OR m.id < @before) AND (@after::bigint = 0 OR m.id > @after)
 ORDER BY CASE WHEN @ascending::boolean THEN m.id END, CASE WHEN NOT @ascending THEN m.id END DESC
 LIMIT @max_rows;

-- name: ApiCountMembers :one
SELECT count(*) FROM (
    SELECT FROM pgautomate.topic_subscribers m
      JOIN pgautomate.topics t ON t.id = m.topic_id
      JOIN pgautomate.subscribers s ON s.id = m.subscriber_no AND s.deleted_at IS NULL
     WHERE t.organization_id = @organization_id
       AND (@topic_key::text = '' OR t.key = @topic_key) AND (@subscriber_id::text = '' OR s.subscriber_id = @subscriber_id)
     LIMIT @most::bigint) x;

-- name: ApiListNotifications :many
-- notifications_list_idx, newest first.
SELECT n.id, n.organization_id, n.workflow_id, n.subscriber_id, n.subscriber_no, n.transaction_id, n.channels, n.created_at, n.topic_key,
       coalesce((SELECT m.notification_id FROM pgautomate.notification_jobs j JOIN pgautomate.notification_jobs m ON m.id = j.merged_into
                  WHERE j.notification_id = n.id AND j.action_type = 'digest' AND j.status = 'merged' LIMIT 1), 0)::bigint AS digested_into,
       e.payload, e.overrides, w.name AS workflow_name, w.identifier, w.tags, coalesce(w.extra ->> 'severity', 'none')::text AS severity,
       s.first_name, s.last_name, s.email, s.phone
  FROM pgautomate.notifications n
  JOIN pgautomate.notification_events e ON e.id = n.event_id
  JOIN pgautomate.workflows w ON w.id = n.workflow_id
  JOIN pgautomate.subscribers s ON s.id = n.subscriber_no
 WHERE n.organization_id = @organization_id
   AND (sqlc.narg(id)::bigint IS NULL OR n.id = sqlc.narg(id))
   AND (cardinality(@transaction_ids::text[]) = 0 OR n.event_id IN (
        SELECT x.id FROM pgautomate.notification_events x WHERE x.organization_id = @organization_id AND x.transaction_id = ANY (@transaction_ids)))
   AND (cardinality(@channels::text[]) = 0 OR n.channels && @channels)
   AND (cardinality(@workflows::text[]) = 0 OR w.id::text = ANY (@workflows) OR w.identifier = ANY (@workflows))
   AND (cardinality(@emails::text[]) = 0 OR s.email = ANY (@emails))
   AND (cardinality(@subscriber_ids::text[]) = 0 OR n.subscriber_id = ANY (@subscriber_ids) OR s.id::text = ANY (@subscriber_ids))
   AND (@search::text = '' OR n.transaction_id = @search OR n.subscriber_id = @search OR s.email = @search)
   AND (sqlc.narg(after)::timestamptz IS NULL OR n.created_at >= sqlc.narg(after))
   AND (sqlc.narg(before)::timestamptz IS NULL OR n.created_at <= sqlc.narg(before))
   AND (@topic_key::text = '' OR n.topic_key = @topic_key)
   AND (cardinality(@severities::text[]) = 0 OR coalesce(w.extra ->> 'severity', 'none') = ANY (@severities))
 ORDER BY n.organization_id DESC, n.id DESC LIMIT @max_rows OFFSET @skip;

-- name: ApiListFailures :many
-- Topics that were not there, with the filters of ApiListNotifications that can hold for them. notification_failures_list_idx, newest first.
SELECT f.id FROM pgautomate.notification_failures f JOIN pgautomate.workflows w ON w.id = f.workflow_id
 WHERE f.organization_id = @organization_id
   AND (sqlc.narg(id)::bigint IS NULL OR f.id = sqlc.narg(id))
   AND (cardinality(@transaction_ids::text[]) = 0 OR f.event_id IN (
        SELECT x.id FROM pgautomate.notification_events x WHERE x.organization_id = @organization_id AND x.transaction_id = ANY (@transaction_ids)))
   AND (cardinality(@workflows::text[]) = 0 OR w.id::text = ANY (@workflows) OR w.identifier = ANY (@workflows))
   AND (@search::text = '' OR f.transaction_id = @search)
   AND (sqlc.narg(after)::timestamptz IS NULL OR f.created_at >= sqlc.narg(after))
   AND (sqlc.narg(before)::timestamptz IS NULL OR f.created_at <= sqlc.narg(before))
   AND (@topic_key::text = '' OR f.topic_key = @topic_key)
   AND (cardinality(@severities::text[]) = 0 OR coalesce(w.extra ->> 'severity', 'none') = ANY (@severities))
 ORDER BY f.organization_id DESC, f.id DESC LIMIT @max_rows;

-- name: ApiFailures :many
-- notification_failures_pkey.
SELECT f.id, f.organization_id, f.workflow_id, f.transaction_id, f.topic_key, f.detail, f.created_at, e.payload,
       w.name AS workflow_name, w.identifier, w.tags, coalesce(w.extra ->> 'severity', 'none')::text AS severity
  FROM pgautomate.notification_failures f
  JOIN pgautomate.notification_events e ON e.id = f.event_id
  JOIN pgautomate.workflows w ON w.id = f.workflow_id
 WHERE f.id = ANY (@ids::bigint[]);

-- name: ApiJobsOf :many
-- notification_jobs_notification_idx.
SELECT j.id, j.notification_id, j.sequence_number, j.action_type, j.status::text AS status, j.reason, j.error, j.perform_at, j.step_no, j.step_id,
       j.merged_into, j.result, j.created_at, j.finished_at, coalesce(m.provider_id, '') AS provider_id,
       s.filters, s.settings, s.name AS step_name, s.active, s.controls, s.wire_type
  FROM pgautomate.notification_jobs j
  LEFT JOIN pgautomate.workflow_steps s ON s.id = j.step_no
  LEFT JOIN pgautomate.messages m ON m.job_id = j.id
 WHERE j.notification_id = ANY (@ids::bigint[]) ORDER BY j.notification_id, j.sequence_number;

-- name: ApiDetailsOf :many
SELECT d.notification_id, d.job_id, d.detail_id, d.status, d.detail, d.source, d.provider_id, d.raw, d.created_at
  FROM pgautomate.execution_details d
 WHERE d.notification_id = ANY (@ids::bigint[]) ORDER BY d.job_id, d.place, d.created_at, d.detail_id;

-- name: ApiListMessages :many
-- messages_list_idx.
SELECT m.*, coalesce(w.identifier, '')::text AS workflow_identifier FROM pgautomate.messages m LEFT JOIN pgautomate.workflows w ON w.id = m.workflow_id
 WHERE m.organization_id = @organization_id AND m.deleted_at IS NULL
   AND (@channel::text = '' OR m.channel = @channel) AND (@id::bigint = 0 OR m.id = @id)
   AND (@subscriber_id::text = '' OR m.subscriber_id = @subscriber_id)
   AND (cardinality(@transaction_ids::text[]) = 0 OR m.transaction_id = ANY (@transaction_ids))
 ORDER BY m.organization_id DESC, m.id DESC LIMIT @max_rows OFFSET @skip;

-- name: ApiDeleteMessage :execrows
UPDATE pgautomate.messages SET deleted_at = now() WHERE organization_id = @organization_id AND id = @id AND deleted_at IS NULL;

-- name: ApiDeleteMessages :execrows
-- messages_transaction_idx.
UPDATE pgautomate.messages SET deleted_at = now()
 WHERE organization_id = @organization_id AND transaction_id = @transaction_id AND deleted_at IS NULL AND (@channel::text = '' OR channel = @channel);

-- name: ApiFeed :many
-- messages_feed_idx.
SELECT m.*, count(*) OVER () AS total FROM pgautomate.messages m
 WHERE m.subscriber_no = @subscriber_no AND m.channel = 'in_app' AND m.deleted_at IS NULL
   AND (sqlc.narg(read)::boolean IS NULL OR m.read = sqlc.narg(read))
   AND (sqlc.narg(seen)::boolean IS NULL OR m.seen = sqlc.narg(seen))
   AND (sqlc.narg(archived)::boolean IS NULL OR m.archived = sqlc.narg(archived))
   AND (sqlc.narg(payload)::jsonb IS NULL OR m.payload @> sqlc.narg(payload))
   AND (cardinality(@tags::text[]) = 0 OR m.tags && @tags)
 ORDER BY m.subscriber_no DESC, m.channel DESC, m.id DESC LIMIT @max_rows OFFSET @skip;

-- name: ApiFeedCount :one
SELECT count(*) FROM (
    SELECT FROM pgautomate.messages m
     WHERE m.subscriber_no = @subscriber_no AND m.channel = 'in_app' AND m.deleted_at IS NULL
       AND (sqlc.narg(read)::boolean IS NULL OR m.read = sqlc.narg(read))
       AND (sqlc.narg(seen)::boolean IS NULL OR m.seen = sqlc.narg(seen))
       AND (sqlc.narg(archived)::boolean IS NULL OR m.archived = sqlc.narg(archived))
       AND (cardinality(@tags::text[]) = 0 OR m.tags && @tags)
     LIMIT @most::bigint) x;

-- name: ApiMarkMessages :many
UPDATE pgautomate.messages m
   SET read = CASE @mark_as::text WHEN 'read' THEN true WHEN 'unread' THEN false ELSE m.read END,
       seen = CASE @mark_as WHEN 'unseen' THEN false WHEN 'archived' THEN m.seen WHEN 'unarchived' THEN m.seen ELSE true END,
       archived = CASE @mark_as WHEN 'archived' THEN true WHEN 'unarchived' THEN false ELSE m.archived END,
       read_at = CASE WHEN @mark_as IN ('read', 'unread') THEN now() ELSE m.read_at END,
       seen_at = CASE WHEN @mark_as IN ('archived', 'unarchived') THEN m.seen_at ELSE now() END,
       archived_at = CASE WHEN @mark_as IN ('archived', 'unarchived') THEN now() ELSE m.archived_at END,
       updated_at = now()
 WHERE m.subscriber_no = @subscriber_no AND m.id = ANY (@ids::bigint[]) AND m.deleted_at IS NULL
RETURNING m.*;

-- name: ApiMarkAll :execrows
-- Changes those whose flag differs. messages_feed_idx.
UPDATE pgautomate.messages m
   SET read = CASE @mark_as::text WHEN 'read' THEN true WHEN 'unread' THEN false ELSE m.read END,
       seen = CASE @mark_as WHEN 'unseen' THEN false ELSE true END,
       archived = CASE @mark_as WHEN 'archived' THEN true ELSE m.archived END,
       read_at = CASE WHEN @mark_as IN ('read', 'unread') THEN now() ELSE m.read_at END,
       seen_at = now(), updated_at = now()
 WHERE m.subscriber_no = @subscriber_no AND m.channel = 'in_app' AND m.deleted_at IS NULL
   AND CASE @mark_as WHEN 'read' THEN NOT m.read WHEN 'unread' THEN m.read WHEN 'seen' THEN NOT m.seen WHEN 'unseen' THEN m.seen
                     ELSE NOT m.archived END
   AND (cardinality(@tags::text[]) = 0 OR m.tags && @tags);

-- name: ApiPreferences :many
-- preferences_pkey.
SELECT p.workflow_id, p.enabled, p.channels, p.schedule, p.updated_at FROM pgautomate.preferences p WHERE p.subscriber_no = @subscriber_no;

-- name: ApiSetPreference :exec
INSERT INTO pgautomate.preferences AS p (subscriber_no, workflow_id, enabled, channels, schedule)
VALUES (@subscriber_no, @workflow_id, coalesce(sqlc.narg(enabled), true), @channels, sqlc.narg(schedule))
ON CONFLICT (subscriber_no, workflow_id) DO UPDATE
   SET enabled = coalesce(sqlc.narg(enabled), p.enabled), channels = p.channels || excluded.channels,
       schedule = coalesce(excluded.schedule, p.schedule), updated_at = now();

-- name: ApiListTenants :many
SELECT t.* FROM pgautomate.tenants t WHERE t.organization_id = @organization_id ORDER BY t.id DESC LIMIT @max_rows OFFSET @skip;

-- name: ApiGetTenant :one
SELECT t.* FROM pgautomate.tenants t WHERE t.organization_id = @organization_id AND (t.identifier = @identifier OR t.id::text = @identifier)
 ORDER BY (t.identifier = @identifier) DESC LIMIT 1;

-- name: ApiDeleteTenant :execrows
DELETE FROM pgautomate.tenants WHERE organization_id = @organization_id AND identifier = @identifier;

-- name: ApiPutOverride :one
INSERT INTO pgautomate.workflow_overrides AS o (workflow_id, tenant_id, active, preference_settings)
VALUES (@workflow_id, @tenant_id, sqlc.narg(active), sqlc.narg(preference_settings))
ON CONFLICT (workflow_id, tenant_id) DO UPDATE
   SET active = coalesce(sqlc.narg(active), o.active), preference_settings = coalesce(sqlc.narg(preference_settings), o.preference_settings), updated_at = now()
RETURNING o.*;

-- name: ApiListIntegrations :many
SELECT i.* FROM pgautomate.integrations i
 WHERE i.organization_id = @organization_id AND (NOT @only_active::boolean OR i.active) AND (sqlc.narg(id)::bigint IS NULL OR i.id = sqlc.narg(id))
 ORDER BY i.id;

-- name: ApiInsertIntegration :one
INSERT INTO pgautomate.integrations (organization_id, identifier, name, provider_id, channel, credentials, conditions, active, is_primary)
VALUES (@organization_id, coalesce(nullif(@identifier::text, ''), @provider_id || '-' || substr(md5(random()::text), 1, 8)), @name, @provider_id, @channel, @credentials,
        sqlc.narg(conditions), @active,
        @active AND NOT EXISTS (SELECT FROM pgautomate.integrations x WHERE x.organization_id = @organization_id AND x.channel = @channel AND x.is_primary))
RETURNING id;

-- name: ApiUpdateIntegration :execrows
UPDATE pgautomate.integrations
   SET name = coalesce(sqlc.narg(name), name), identifier = coalesce(sqlc.narg(identifier), identifier), credentials = coalesce(sqlc.narg(credentials), credentials),
       active = coalesce(sqlc.narg(active), active), conditions = coalesce(sqlc.narg(conditions), conditions), updated_at = now()
 WHERE organization_id = @organization_id AND id = @id;

-- name: ApiClearPrimary :exec
UPDATE pgautomate.integrations i SET is_primary = false
  FROM pgautomate.integrations x WHERE x.id = @id AND i.organization_id = x.organization_id AND i.channel = x.channel AND i.is_primary;

-- name: ApiSetPrimary :execrows
UPDATE pgautomate.integrations SET is_primary = true, active = true WHERE organization_id = @organization_id AND id = @id;

-- name: ApiDeleteIntegration :execrows
DELETE FROM pgautomate.integrations WHERE organization_id = @organization_id AND id = @id;

-- name: ReserveKey :one
-- The row as it was, or none when this request may go on: the key is new, or who held
-- it was lost. idempotency_keys_pkey.
INSERT INTO pgautomate.idempotency_keys AS k (organization_id, key, request_hash, reserved_until)
VALUES (@organization_id, @key, @request_hash, now() + make_interval(secs => @seconds::double precision))
ON CONFLICT (organization_id, key) DO UPDATE
   SET request_hash = excluded.request_hash, reserved_until = excluded.reserved_until, status = NULL, body = NULL, created_at = now()
 WHERE k.reserved_until < now() OR k.created_at < now() - interval '24 hours'
RETURNING k.key;

-- name: FindKey :one
SELECT k.request_hash, k.reserved_until, k.status, k.content_type, k.body FROM pgautomate.idempotency_keys k
 WHERE k.organization_id = @organization_id AND k.key = @key;

-- name: KeepAnswer :exec
UPDATE pgautomate.idempotency_keys SET reserved_until = NULL, status = @status, content_type = @content_type, body = @body
 WHERE organization_id = @organization_id AND key = @key AND request_hash = @request_hash;

-- name: ReleaseKey :exec
DELETE FROM pgautomate.idempotency_keys WHERE organization_id = @organization_id AND key = @key AND request_hash = @request_hash AND status IS NULL;

-- name: DeleteOldKeys :exec
-- idempotency_keys_created_idx.
DELETE FROM pgautomate.idempotency_keys WHERE ctid = ANY (ARRAY(
    SELECT k.ctid FROM pgautomate.idempotency_keys k WHERE k.created_at < now() - interval '24 hours' LIMIT 5000));

-- name: ApiInbox :many
-- The feed as v2 shows it, the newest first; what is snoozed is shown only when asked for. messages_feed_idx.
SELECT m.*, coalesce(w.identifier, '')::text AS workflow_identifier, coalesce(w.name, '')::text AS workflow_name, coalesce(w.critical, false)::boolean AS workflow_critical,
       coalesce(w.extra ->> 'severity', 'none')::text AS severity
  FROM pgautomate.messages m LEFT JOIN pgautomate.workflows w ON w.id = m.workflow_id
 WHERE m.subscriber_no = @subscriber_no AND m.channel = 'in_app' AND m.deleted_at IS NULL
   AND (cardinality(@ids::bigint[]) = 0 OR m.id = ANY (@ids))
   AND (@before::bigint = 0 OR m.id < @before)
   AND (sqlc.narg(read)::boolean IS NULL OR m.read = sqlc.narg(read))
   AND (sqlc.narg(seen)::boolean IS NULL OR m.seen = sqlc.narg(seen))
   AND (sqlc.narg(archived)::boolean IS NULL OR m.archived = sqlc.narg(archived))
   AND (sqlc.narg(snoozed)::boolean IS NULL OR (m.snoozed_until IS NOT NULL AND m.snoozed_until > now()) = sqlc.narg(snoozed))
   AND (sqlc.narg(data)::jsonb IS NULL OR m.data @> sqlc.narg(data))
   AND (cardinality(@tags::text[]) = 0 OR m.tags && @tags)
   AND (sqlc.narg(created_from)::timestamptz IS NULL OR m.created_at >= sqlc.narg(created_from))
   AND (sqlc.narg(created_until)::timestamptz IS NULL OR m.created_at <= sqlc.narg(created_until))
 ORDER BY m.subscriber_no DESC, m.channel DESC, m.id DESC LIMIT @max_rows OFFSET @skip;

-- name: ApiInboxCount :one
-- messages_feed_idx.
SELECT count(*) FROM pgautomate.messages m
 WHERE m.subscriber_no = @subscriber_no AND m.channel = 'in_app' AND m.deleted_at IS NULL
   AND (sqlc.narg(read)::boolean IS NULL OR m.read = sqlc.narg(read))
   AND (sqlc.narg(seen)::boolean IS NULL OR m.seen = sqlc.narg(seen))
   AND (sqlc.narg(archived)::boolean IS NULL OR m.archived = sqlc.narg(archived))
   AND (sqlc.narg(snoozed)::boolean IS NULL OR (m.snoozed_until IS NOT NULL AND m.snoozed_until > now()) = sqlc.narg(snoozed))
   AND (sqlc.narg(data)::jsonb IS NULL OR m.data @> sqlc.narg(data))
   AND (cardinality(@tags::text[]) = 0 OR m.tags && @tags);

-- name: ApiMarkInbox :execrows
-- All that the filters name: read, seen, archived, read-archived (archives what is read) or deleted. messages_feed_idx.
UPDATE pgautomate.messages m
   SET read = m.read OR @mark_as::text = 'read', read_at = CASE WHEN @mark_as = 'read' THEN now() ELSE m.read_at END,
       seen = m.seen OR @mark_as IN ('read', 'seen'), seen_at = CASE WHEN @mark_as IN ('read', 'seen') THEN now() ELSE m.seen_at END,
       archived = m.archived OR @mark_as IN ('archived', 'read-archived'),
       archived_at = CASE WHEN @mark_as IN ('archived', 'read-archived') THEN now() ELSE m.archived_at END,
       deleted_at = CASE WHEN @mark_as = 'deleted' THEN now() END, updated_at = now()
 WHERE m.subscriber_no = @subscriber_no AND m.channel = 'in_app' AND m.deleted_at IS NULL
   AND CASE @mark_as WHEN 'read' THEN NOT m.read WHEN 'seen' THEN NOT m.seen WHEN 'archived' THEN NOT m.archived
                     WHEN 'read-archived' THEN m.read AND NOT m.archived ELSE true END
   AND (cardinality(@ids::bigint[]) = 0 OR m.id = ANY (@ids))
   AND (sqlc.narg(data)::jsonb IS NULL OR m.data @> sqlc.narg(data))
   AND (cardinality(@tags::text[]) = 0 OR m.tags && @tags);

-- name: ApiSnooze :execrows
-- NULL ends it. messages_pkey.
UPDATE pgautomate.messages SET snoozed_until = sqlc.narg(until), updated_at = now()
 WHERE id = @id AND subscriber_no = @subscriber_no AND channel = 'in_app' AND deleted_at IS NULL;

-- name: ApiMessageAction :execrows
-- A button of a message was pressed, or is given back. messages_pkey.
UPDATE pgautomate.messages
   SET cta = jsonb_set(cta, '{action}',
                       coalesce(cta -> 'action', '{}') || jsonb_build_object('status', @status::text, 'result',
                           CASE WHEN @status = 'done' THEN jsonb_build_object('type', @button::text) || coalesce(sqlc.narg(payload)::jsonb, '{}') ELSE '{}' END)),
       updated_at = now()
 WHERE id = @id AND subscriber_no = @subscriber_no AND channel = 'in_app' AND deleted_at IS NULL;

-- name: ApiMember :one
-- One membership, by its own identifier or the subscriber's. topic_subscribers_topic_id_subscriber_no_key.
SELECT m.id, m.identifier, m.created_at, s.id AS subscriber_no, s.subscriber_id, s.first_name, s.last_name, s.email, s.avatar,
       s.created_at AS subscriber_created_at, s.updated_at AS subscriber_updated_at, t.id AS topic_id, t.key, t.name
  FROM pgautomate.topic_subscribers m
  JOIN pgautomate.topics t ON t.id = m.topic_id
  JOIN pgautomate.subscribers s ON s.id = m.subscriber_no AND s.deleted_at IS NULL
 WHERE t.organization_id = @organization_id AND t.key = @topic_key AND (m.identifier = @identifier::text OR s.subscriber_id = @identifier OR m.id::text = @identifier)
 ORDER BY (m.identifier = @identifier) DESC NULLS LAST, (s.subscriber_id = @identifier) DESC LIMIT 1;

-- name: ApiInboxAfter :many
-- The next of a feed, the oldest first. messages_feed_idx.
SELECT m.*, coalesce(w.identifier, '')::text AS workflow_identifier, coalesce(w.name, '')::text AS workflow_name, coalesce(w.critical, false)::boolean AS workflow_critical,
       coalesce(w.extra ->> 'severity', 'none')::text AS severity
  FROM pgautomate.messages m LEFT JOIN pgautomate.workflows w ON w.id = m.workflow_id
 WHERE m.subscriber_no = @subscriber_no AND m.channel = 'in_app' AND m.deleted_at IS NULL AND m.id > @after
 ORDER BY m.subscriber_no, m.channel, m.id LIMIT @max_rows;

-- name: ApiSettledMessage :one
-- The newest message of a feed that is older than so many seconds: nothing comes below it any more. messages_feed_idx.
SELECT coalesce((SELECT m.id FROM pgautomate.messages m
                  WHERE m.subscriber_no = @subscriber_no AND m.channel = 'in_app' AND m.created_at < now() - make_interval(secs => @seconds::double precision)
                    AND m.deleted_at IS NULL
                  ORDER BY m.subscriber_no DESC, m.channel DESC, m.id DESC LIMIT 1), 0)::bigint AS id;

-- name: ApiGetEvent :one
-- notification_events_organization_id_transaction_id_key.
SELECT e.id, e.transaction_id, e.status, e.error, e.broadcast, e.recipients, e.topics, e.topic_no, e.topic_after, e.fanned_out, e.actor,
       e.created_at, e.finished_at, e.canceled_at, w.id AS workflow_id, w.identifier, w.name
  FROM pgautomate.notification_events e JOIN pgautomate.workflows w ON w.id = e.workflow_id
 WHERE e.organization_id = @organization_id AND e.transaction_id = @transaction_id;

-- name: ApiMembersAfter :one
-- How many members of a topic come after one. topic_subscribers_walk_idx.
SELECT count(*) FROM pgautomate.topic_subscribers m JOIN pgautomate.topics t ON t.id = m.topic_id
 WHERE t.organization_id = @organization_id AND t.key = @key AND m.id > @after;

-- name: ApiSubscribersAfter :one
-- subscribers_live_idx.
SELECT count(*) FROM pgautomate.subscribers s WHERE s.organization_id = @organization_id AND s.deleted_at IS NULL AND s.id > @after;
