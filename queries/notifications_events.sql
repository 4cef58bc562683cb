-- From a trigger to the notifications of its recipients.

-- name: FindWorkflow :many
-- A workflow, once for each of its steps, in their order; one without steps once, with step 0.
-- workflows_identifier_idx, workflow_steps_workflow_idx.
SELECT w.id, w.active, w.payload_schema, w.validate_payload,
       coalesce(s.id, 0)::bigint AS step, coalesce(s.active, false)::boolean AS step_active, coalesce(s.type, '')::text AS step_type,
       coalesce(s.settings, '{}')::jsonb AS step_settings, coalesce(s.variables, '[]')::jsonb AS step_variables
  FROM pgautomate.workflows w LEFT JOIN pgautomate.workflow_steps s ON s.workflow_id = w.id AND s.retired_at IS NULL
 WHERE w.organization_id = @organization_id AND w.identifier = @identifier AND w.deleted_at IS NULL
 ORDER BY s.position;

-- name: FindTenant :one
-- tenants_organization_id_identifier_key, workflow_overrides_workflow_id_tenant_id_key.
SELECT t.id, o.active FROM pgautomate.tenants t
  LEFT JOIN pgautomate.workflow_overrides o ON o.tenant_id = t.id AND o.workflow_id = @workflow_id
 WHERE t.organization_id = @organization_id AND t.identifier = @identifier;

-- name: UpsertTenant :one
INSERT INTO pgautomate.tenants AS t (organization_id, identifier, name, data)
VALUES (@organization_id, @identifier, coalesce(sqlc.narg(name)::text, ''), sqlc.narg(data))
ON CONFLICT (organization_id, identifier) DO UPDATE
   SET name = coalesce(sqlc.narg(name), t.name), data = coalesce(sqlc.narg(data), t.data), updated_at = now()
RETURNING t.id;

-- name: InsertEvent :one
-- No row: that transactionId was there before. notification_events_organization_id_transaction_id_key.
INSERT INTO pgautomate.notification_events (organization_id, workflow_id, transaction_id, step_ids, recipients, topics, broadcast,
                                            payload, overrides, actor, tenant_id, attachments, cause, status, fanned_out, finished_at)
VALUES (@organization_id, @workflow_id, @transaction_id, @step_ids::bigint[], @recipients, @topics, @broadcast,
        @payload, @overrides, sqlc.narg(actor), sqlc.narg(tenant_id), @attachments, sqlc.narg(cause),
        CASE WHEN @done::boolean THEN 'done' ELSE 'pending' END, @fanned_out, CASE WHEN @done THEN clock_timestamp() END)
ON CONFLICT (organization_id, transaction_id) DO NOTHING
RETURNING id;

-- name: AcceptEvent :one
-- The whole of a trigger for single recipients; no event: that transactionId was there before.
SELECT coalesce(pgautomate.accept_event(@organization_id::text, @workflow_id::bigint, @transaction_id::text, @step_ids::bigint[], @payload::jsonb,
                                        @overrides::jsonb, sqlc.narg(tenant_id)::bigint, sqlc.narg(cause)::jsonb, @recipients::jsonb), 0)::bigint AS id;

-- name: EventExists :one
SELECT EXISTS (SELECT FROM pgautomate.notification_events e WHERE e.organization_id = @organization_id AND e.transaction_id = @transaction_id);

-- name: LockEvent :one
-- Primary key.
SELECT e.id, e.organization_id, e.workflow_id, e.recipients, e.topics, e.broadcast, e.actor, e.status, e.topic_no, e.topic_after, e.error
  FROM pgautomate.notification_events e WHERE e.id = @id FOR UPDATE;

-- name: EventProgress :exec
UPDATE pgautomate.notification_events
   SET recipients = CASE WHEN @recipients_done::boolean THEN '[]' ELSE recipients END,
       topic_no = @topic_no, topic_after = @topic_after, fanned_out = fanned_out + @made::bigint,
       error = coalesce(sqlc.narg(error), error)
 WHERE id = @id;

-- name: InsertFailure :exec
INSERT INTO pgautomate.notification_failures (organization_id, event_id, workflow_id, transaction_id, topic_key, detail)
SELECT e.organization_id, e.id, e.workflow_id, e.transaction_id, @topic_key, @detail FROM pgautomate.notification_events e WHERE e.id = @event_id;

-- name: EventDone :exec
UPDATE pgautomate.notification_events SET status = 'done', finished_at = clock_timestamp() WHERE id = @id;

-- name: MakeNotifications :one
SELECT pgautomate.make_notifications(@event_id::bigint, @nos::bigint[], @ids::text[], sqlc.narg(topic)::text)::integer AS made;

-- name: FindTopic :one
-- topics_organization_id_key_key.
SELECT t.id FROM pgautomate.topics t WHERE t.organization_id = @organization_id AND t.key = @key;

-- name: TopicMembers :many
-- The next members of a topic. topic_subscribers_walk_idx.
SELECT m.id, m.subscriber_no, s.subscriber_id, (s.deleted_at IS NOT NULL OR s.subscriber_id = ANY (@without::text[]))::boolean AS left_out
  FROM pgautomate.topic_subscribers m JOIN pgautomate.subscribers s ON s.id = m.subscriber_no
 WHERE m.topic_id = @topic_id AND m.id > @after ORDER BY m.id LIMIT @most::bigint;

-- name: AllSubscribers :many
-- The next of all subscribers. subscribers_live_idx.
SELECT s.id, s.subscriber_id FROM pgautomate.subscribers s
 WHERE s.organization_id = @organization_id AND s.id > @after AND s.deleted_at IS NULL ORDER BY s.id LIMIT @most::bigint;

-- name: UpsertSubscribers :exec
SELECT pgautomate.upsert_subscribers(@organization_id::text, @recipients::jsonb);

-- name: UnsetEmails :exec
UPDATE pgautomate.subscribers SET email = NULL, updated_at = now()
 WHERE organization_id = @organization_id AND subscriber_id = ANY (@ids::text[]) AND email IS NOT NULL;

-- name: SubscriberNumbers :many
SELECT s.id, s.subscriber_id FROM pgautomate.subscribers s
 WHERE s.organization_id = @organization_id AND s.subscriber_id = ANY (@ids::text[]) AND s.deleted_at IS NULL;

-- name: SubscriberChannels :one
SELECT s.channels FROM pgautomate.subscribers s
 WHERE s.organization_id = @organization_id AND s.subscriber_id = @subscriber_id AND s.deleted_at IS NULL FOR UPDATE;

-- name: SetSubscriberChannels :exec
UPDATE pgautomate.subscribers SET channels = @channels, updated_at = now()
 WHERE organization_id = @organization_id AND subscriber_id = @subscriber_id;

-- name: TenantOf :one
-- Primary key, workflow_overrides_workflow_id_tenant_id_key.
SELECT t.identifier, t.name, t.data, o.preference_settings FROM pgautomate.tenants t
  LEFT JOIN pgautomate.workflow_overrides o ON o.tenant_id = t.id AND o.workflow_id = @workflow_id
 WHERE t.id = @id;

-- name: SubscriberDocument :one
SELECT to_jsonb(s.*) AS subscriber FROM pgautomate.subscribers s
 WHERE s.organization_id = @organization_id AND s.subscriber_id = @subscriber_id AND s.deleted_at IS NULL;

-- name: StepMessage :one
-- What an earlier step of the notification sent. messages_notification_idx.
SELECT m.read, m.seen FROM pgautomate.messages m JOIN pgautomate.notification_jobs j ON j.id = m.job_id
 WHERE m.notification_id = @notification_id AND j.step_id = @step_id LIMIT 1;

-- name: LockRequest :one
-- Primary key.
SELECT r.organization_id, r.workflow, r.recipients, r.payload, r.transaction_id FROM pgautomate.notification_requests r
 WHERE r.id = @id AND r.finished_at IS NULL FOR UPDATE;

-- name: AnswerRequest :exec
UPDATE pgautomate.notification_requests SET answer = nullif(@answer::text, ''), error = nullif(@error::text, ''), finished_at = clock_timestamp() WHERE id = @id;

-- name: DeleteOldRequests :exec
-- notification_requests_finished_idx.
DELETE FROM pgautomate.notification_requests WHERE id = ANY (ARRAY(
    SELECT r.id FROM pgautomate.notification_requests r WHERE r.finished_at < now() - interval '30 days' LIMIT 5000));

-- name: InsertInAppMessage :exec
-- The message of an action of type in_app: its id stands for a job's, both come from one sequence.
INSERT INTO pgautomate.messages AS m (organization_id, notification_id, job_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channel, subject, content)
SELECT @organization_id, 0, @action_id, 0, s.subscriber_id, s.id, @transaction_id, 'in_app', sqlc.narg(subject), @content
  FROM pgautomate.subscribers s WHERE s.organization_id = @organization_id AND s.subscriber_id = @subscriber_id AND s.deleted_at IS NULL
ON CONFLICT (job_id) DO UPDATE SET content = excluded.content, subject = excluded.subject, updated_at = clock_timestamp();

-- name: NotifyFeed :exec
SELECT pg_notify('pgautomate_messages', s.id::text) FROM pgautomate.subscribers s
 WHERE s.organization_id = @organization_id AND s.subscriber_id = @subscriber_id;
