-- What the scheduler and the steps' worker ask of notifications.

-- name: AdvanceNotifications :exec
-- By notification_jobs_pkey.
SELECT pgautomate.advance_notifications(ARRAY(
    SELECT DISTINCT j.notification_id FROM pgautomate.notification_jobs j WHERE j.id = ANY (@job_ids::bigint[])));

-- name: AdvanceStalledNotifications :exec
WITH taken AS (
    DELETE FROM pgautomate.notifications_later WHERE ctid = ANY (ARRAY(
        SELECT l.ctid FROM pgautomate.notifications_later l WHERE l.noted_at < clock_timestamp() - interval '200 milliseconds'
         LIMIT 1000 FOR UPDATE SKIP LOCKED))
    RETURNING notification_id
)
SELECT pgautomate.advance_notifications(ARRAY(SELECT DISTINCT taken.notification_id FROM taken));

-- name: WriteMessages :exec
-- What jobs sent; a job that is run again replaces its own. messages_job_id_key.
INSERT INTO pgautomate.messages AS m (organization_id, notification_id, job_id, workflow_id, subscriber_id, subscriber_no, transaction_id,
                                 channel, provider_id, recipient, subject, content, cta, data, avatar, tags, payload,
                                 status, error_id, error_text)
SELECT w.organization_id, w.notification_id, w.job_id, w.workflow_id, w.subscriber_id, w.subscriber_no, w.transaction_id,
       w.channel, coalesce(w.message ->> 'provider_id', 'novu'), w.message ->> 'recipient', w.message ->> 'subject', w.message ->> 'content',
       coalesce(w.message -> 'cta', '{}'), w.message -> 'data', w.message ->> 'avatar',
       ARRAY(SELECT jsonb_array_elements_text(coalesce(w.message -> 'tags', '[]'))), coalesce(w.message -> 'payload', '{}'),
       coalesce(w.message ->> 'status', 'sent'), w.message ->> 'error_id', w.message ->> 'error_text'
  FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@notification_ids::bigint[]) AS notification_id,
               unnest(@job_ids::bigint[]) AS job_id, unnest(@workflow_ids::bigint[]) AS workflow_id,
               unnest(@subscriber_ids::text[]) AS subscriber_id, unnest(@subscriber_nos::bigint[]) AS subscriber_no,
               unnest(@transaction_ids::text[]) AS transaction_id, unnest(@channels::text[]) AS channel,
               unnest(@messages::jsonb[]) AS message) w
ON CONFLICT (job_id) DO UPDATE
   SET provider_id = excluded.provider_id, recipient = excluded.recipient, subject = excluded.subject, content = excluded.content,
       cta = excluded.cta, data = excluded.data, avatar = excluded.avatar, status = excluded.status,
       error_id = excluded.error_id, error_text = excluded.error_text, updated_at = clock_timestamp();

-- name: NotifyFeeds :exec
-- Tells who listens (server-sent events) whose in-app feeds have something new: subscribers' numbers, with commas between.
SELECT pg_notify('pgautomate_messages', unnest(@subscribers::text[]));

-- name: WriteDetails :exec
INSERT INTO pgautomate.job_details (job_id, status, detail, source, provider_id, raw)
SELECT unnest(@job_ids::bigint[]), unnest(@statuses::text[]), unnest(@details::text[]), unnest(@sources::text[]),
       nullif(unnest(@provider_ids::text[]), ''), nullif(unnest(@raws::text[]), '');

-- name: LoadJobs :many
-- All that steps need to know. Primary keys, preferences_pkey, suppressions_subscriber_idx.
SELECT j.id, j.notification_id, j.step_id, j.sequence_number, j.digest_group, j.merged_into, j.created_at,
       n.workflow_id, n.subscriber_id, n.subscriber_no, n.transaction_id, (n.canceled_at IS NOT NULL OR e.canceled_at IS NOT NULL)::boolean AS canceled,
       n.created_at AS notification_created_at,
       e.payload, e.overrides, coalesce(e.actor, '') AS actor, e.tenant_id, e.attachments, e.cause,
       w.identifier AS workflow_identifier, w.name AS workflow_name, w.critical, w.read_only, w.preference_settings, w.tags,
       s.type, s.name AS step_name, s.controls, s.settings, s.filters, s.variants,
       to_jsonb(u.*) AS subscriber,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('step_id', d.step_id, 'type', d.action_type, 'result', d.result) ORDER BY d.sequence_number), '[]')
          FROM pgautomate.notification_jobs d
         WHERE d.notification_id = j.notification_id AND d.sequence_number < j.sequence_number
           AND d.action_type IN ('digest', 'custom', 'webhook') AND d.status = 'completed')::jsonb AS results,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('workflow_id', p.workflow_id, 'enabled', p.enabled, 'channels', p.channels)), '[]')
          FROM pgautomate.preferences p WHERE p.subscriber_no = n.subscriber_no AND p.workflow_id IN (0, n.workflow_id))::jsonb AS preferences,
       (x.reason IS NOT NULL)::boolean AS suppressed, coalesce(x.reason, '')::text AS suppression
  FROM pgautomate.notification_jobs j
  JOIN pgautomate.notifications n ON n.id = j.notification_id
  JOIN pgautomate.notification_events e ON e.id = n.event_id
  JOIN pgautomate.workflows w ON w.id = n.workflow_id
  JOIN pgautomate.workflow_steps s ON s.id = j.step_no
  JOIN pgautomate.subscribers u ON u.id = n.subscriber_no
  LEFT JOIN LATERAL (
       SELECT z.reason FROM pgautomate.suppressions z
        WHERE z.organization_id = j.organization_id AND z.subscriber_id = n.subscriber_id AND (z.channel IS NULL OR z.channel IN ('*', s.type))
        ORDER BY (z.channel = s.type) DESC NULLS LAST, z.id LIMIT 1) x ON true
 WHERE j.id = ANY (@ids::bigint[]);

-- name: LockNotification :one
-- What a cancelation and a decision about one of the jobs wait for. Primary key.
SELECT n.id, (n.canceled_at IS NOT NULL OR e.canceled_at IS NOT NULL)::boolean AS canceled
  FROM pgautomate.notifications n
  JOIN pgautomate.notification_events e ON e.id = n.event_id
 WHERE n.id = @id FOR UPDATE OF n;

-- name: LockNotificationOfJob :exec
SELECT n.id FROM pgautomate.notification_jobs j JOIN pgautomate.notifications n ON n.id = j.notification_id
 WHERE j.id = @job_id FOR UPDATE OF n;

-- name: LockDigestGroup :one
-- digest_groups_workflow_id_step_id_subscriber_no_digest_key_key.
INSERT INTO pgautomate.digest_groups AS g (workflow_id, step_id, subscriber_no, digest_key)
VALUES (@workflow_id, @step_id, @subscriber_no, @digest_key)
ON CONFLICT (workflow_id, step_id, subscriber_no, digest_key) DO UPDATE SET digest_key = g.digest_key
RETURNING g.id, g.master_job_id, g.ends_at;

-- name: JoinDigestGroup :exec
UPDATE pgautomate.notification_jobs SET digest_group = @digest_group::bigint, merged_into = sqlc.narg(merged_into) WHERE id = @id;

-- name: OpenWindow :exec
UPDATE pgautomate.digest_groups SET master_job_id = sqlc.narg(master_job_id), ends_at = sqlc.narg(ends_at) WHERE id = @id;

-- name: JobState :one
SELECT j.id, j.status::text AS status, j.notification_id, j.sequence_number FROM pgautomate.notification_jobs j WHERE j.id = @id;

-- name: DigestSeenWithin :one
-- For look-back digests: has anything else reached this group since then? notification_jobs_group_idx.
SELECT EXISTS (SELECT FROM pgautomate.notification_jobs j
                WHERE j.digest_group = @digest_group::bigint AND j.id <> @id AND j.created_at >= @since::timestamptz AND j.status <> 'canceled');

-- name: LetThrough :one
-- How many of a throttle's group went through since then. notification_jobs_group_idx.
SELECT count(*) FROM pgautomate.notification_jobs j
 WHERE j.digest_group = @digest_group::bigint AND j.id <> @id AND j.status = 'completed' AND j.finished_at > @since::timestamptz;

-- name: CancelRest :exec
-- notification_jobs_notification_idx.
UPDATE pgautomate.notification_jobs j SET status = 'canceled', reason = @reason::text, finished_at = clock_timestamp()
 WHERE j.notification_id = @notification_id AND j.sequence_number > @after_number AND j.status = 'pending';

-- name: DemoteMaster :execrows
-- An earlier event takes the window over from a later one that opened it.
UPDATE pgautomate.notification_jobs j
   SET status = 'merged', merged_into = @merged_into::bigint, timer = false, finished_at = now()
 WHERE j.id = @id AND j.status = 'delayed';

-- name: MergeFollowers :exec
UPDATE pgautomate.notification_jobs SET merged_into = @new_master::bigint
 WHERE digest_group = @digest_group::bigint AND merged_into = @old_master::bigint AND status = 'merged';

-- name: MergeRest :exec
-- The steps after a merged digest are merged with it. notification_jobs_notification_idx.
UPDATE pgautomate.notification_jobs j SET status = 'merged', merged_into = @merged_into::bigint, finished_at = now()
 WHERE j.notification_id = @notification_id AND j.sequence_number > @after_number AND j.status = 'pending';

-- name: DigestEvents :many
-- The events of a digest, in the order in which they came. notification_jobs_group_idx.
SELECT j.id, n.id AS notification_id, e.transaction_id, e.created_at, e.payload
  FROM pgautomate.notification_jobs j
  JOIN pgautomate.notifications n ON n.id = j.notification_id
  JOIN pgautomate.notification_events e ON e.id = n.event_id
 WHERE j.digest_group = @digest_group::bigint AND j.action_type = 'digest'
   AND (j.id = @master::bigint OR j.merged_into = @master AND j.status = 'merged')
 ORDER BY n.id;

-- name: CancelEvent :one
-- From now on nothing of it starts. notification_events_organization_id_transaction_id_key.
UPDATE pgautomate.notification_events e
   SET canceled_at = coalesce(e.canceled_at, clock_timestamp()),
       status = CASE WHEN e.status = 'pending' THEN 'canceled' ELSE e.status END,
       finished_at = coalesce(e.finished_at, clock_timestamp())
  FROM (SELECT x.id, x.status FROM pgautomate.notification_events x
         WHERE x.organization_id = @organization_id AND x.transaction_id = @transaction_id FOR UPDATE) old
 WHERE e.id = old.id
RETURNING e.id, (old.status = 'pending')::boolean AS stopped;

-- name: CancelNotifications :many
-- The next of the event's notifications that are not canceled yet, locked. notifications_event_id_subscriber_no_key.
UPDATE pgautomate.notifications n SET canceled_at = clock_timestamp()
 WHERE n.id = ANY (ARRAY(
       SELECT x.id FROM pgautomate.notifications x
        WHERE x.event_id = @event_id AND x.canceled_at IS NULL ORDER BY x.id LIMIT @most::bigint FOR UPDATE))
RETURNING n.id;

-- name: LockGroupsOf :many
-- The digests' groups that these notifications take part in, locked in one order.
SELECT g.id, g.master_job_id, g.ends_at FROM pgautomate.digest_groups g
 WHERE g.id = ANY (ARRAY(
       SELECT DISTINCT j.digest_group FROM pgautomate.notification_jobs j
        WHERE j.notification_id = ANY (@notification_ids::bigint[]) AND j.digest_group IS NOT NULL))
 ORDER BY g.id FOR UPDATE;

-- name: CancelJobs :many
-- What has not ended and does not run; what was merged, as long as its digest has
-- not ended. notification_jobs_notification_idx.
UPDATE pgautomate.notification_jobs j SET status = 'canceled', reason = 'canceled', finished_at = clock_timestamp()
 WHERE j.notification_id = ANY (@notification_ids::bigint[])
   AND (j.status IN ('pending', 'queued', 'delayed')
        OR j.status = 'merged' AND EXISTS (SELECT FROM pgautomate.notification_jobs m
                                            WHERE m.id = j.merged_into AND m.status IN ('pending', 'queued', 'running', 'delayed')))
RETURNING j.id;

-- name: Cancelable :one
-- Has an event anything that a cancelation would change? notifications_event_id_subscriber_no_key, notification_jobs_notification_idx.
SELECT e.id, (e.status = 'pending' OR EXISTS (
       SELECT FROM pgautomate.notifications n JOIN pgautomate.notification_jobs j ON j.notification_id = n.id
        WHERE n.event_id = e.id AND (j.status IN ('pending', 'queued', 'delayed')
           OR j.status = 'merged' AND EXISTS (SELECT FROM pgautomate.notification_jobs m
                                               WHERE m.id = j.merged_into AND m.status IN ('pending', 'queued', 'running', 'delayed')))))::boolean AS something
  FROM pgautomate.notification_events e
 WHERE e.organization_id = @organization_id AND e.transaction_id = @transaction_id;

-- name: OldestFollower :one
-- Who takes over a window whose digest was canceled. notification_jobs_group_idx.
SELECT j.id, j.notification_id, j.sequence_number FROM pgautomate.notification_jobs j
 WHERE j.digest_group = @digest_group::bigint AND j.action_type = 'digest' AND j.merged_into = @master::bigint AND j.status = 'merged'
 ORDER BY j.notification_id LIMIT 1;

-- name: Promote :exec
UPDATE pgautomate.notification_jobs j
   SET status = CASE WHEN j.id = @id THEN 'delayed' ELSE 'pending' END::pgautomate.job_status,
       perform_at = CASE WHEN j.id = @id THEN @ends_at::timestamptz END,
       timer = j.id = @id, merged_into = NULL, finished_at = NULL, reason = NULL
 WHERE j.notification_id = @notification_id AND j.sequence_number >= @from_number AND j.status = 'merged';

-- name: SpentAttachments :many
-- Events whose attachments nobody can need any more. notification_events_attachments_idx.
SELECT e.id, e.attachments FROM pgautomate.notification_events e
 WHERE e.attachments <> '[]' AND e.status <> 'pending'
   AND NOT EXISTS (SELECT FROM pgautomate.notifications n JOIN pgautomate.notification_jobs j ON j.notification_id = n.id
                    WHERE n.event_id = e.id AND (j.status IN ('pending', 'queued', 'running', 'delayed')
                       OR j.status = 'merged' AND EXISTS (SELECT FROM pgautomate.notification_jobs m
                                               WHERE m.id = j.merged_into AND m.status IN ('pending', 'queued', 'running', 'delayed'))))
 LIMIT 100 FOR UPDATE OF e SKIP LOCKED;

-- name: ForgetAttachments :exec
UPDATE pgautomate.notification_events SET attachments = '[]' WHERE id = @id;

-- name: SignalJob :exec
INSERT INTO pgautomate.due_signals (organization_id, action_type, perform_at)
SELECT j.organization_id, j.action_type, j.perform_at FROM pgautomate.notification_jobs j WHERE j.id = @id AND j.perform_at IS NOT NULL;

-- name: DeleteOldNotifications :one
-- Deletes the oldest notifications that ended before a moment, with all that belongs to
-- them but messages in feeds, and says how many, and which digests' groups they took
-- part in. notifications_pkey.
WITH newer AS MATERIALIZED (
    SELECT coalesce((SELECT x.id FROM pgautomate.notifications x WHERE x.created_at >= @before::timestamptz ORDER BY x.id LIMIT 1), 9223372036854775807) AS id
), old AS MATERIALIZED (
    SELECT n.id FROM pgautomate.notifications n CROSS JOIN newer
     WHERE n.id < newer.id
       AND NOT EXISTS (SELECT FROM pgautomate.notification_jobs j WHERE j.notification_id = n.id
                          AND (j.status IN ('pending', 'queued', 'running', 'delayed') OR j.finished_at >= @before
                               OR j.status = 'merged' AND EXISTS (SELECT FROM pgautomate.notification_jobs m
                                                                   WHERE m.id = j.merged_into AND m.status IN ('pending', 'queued', 'running', 'delayed'))))
     ORDER BY n.id LIMIT @most::bigint FOR UPDATE OF n SKIP LOCKED
), jobs AS (
    DELETE FROM pgautomate.notification_jobs j WHERE j.notification_id = ANY (ARRAY(SELECT old.id FROM old)) RETURNING j.id, j.digest_group
), details AS (
    DELETE FROM pgautomate.job_details d WHERE d.job_id = ANY (ARRAY(SELECT jobs.id FROM jobs))
), messages AS (
    DELETE FROM pgautomate.messages m WHERE m.notification_id = ANY (ARRAY(SELECT old.id FROM old)) AND m.channel <> 'in_app'
), gone AS (
    DELETE FROM pgautomate.notifications n WHERE n.id = ANY (ARRAY(SELECT old.id FROM old)) RETURNING n.id
)
SELECT (SELECT count(*) FROM gone) AS gone,
       ARRAY(SELECT DISTINCT jobs.digest_group FROM jobs WHERE jobs.digest_group IS NOT NULL)::bigint[] AS groups;

-- name: LockGroups :many
-- Those that nobody is at. digest_groups_pkey.
SELECT g.id FROM pgautomate.digest_groups g WHERE g.id = ANY (@ids::bigint[]) ORDER BY g.id FOR UPDATE SKIP LOCKED;

-- name: DeleteUnusedGroups :exec
-- Of locked groups those that no job took part in. notification_jobs_group_idx.
DELETE FROM pgautomate.digest_groups g
 WHERE g.id = ANY (@ids::bigint[]) AND NOT EXISTS (SELECT FROM pgautomate.notification_jobs j WHERE j.digest_group = g.id);

-- name: DeleteOldEvents :execrows
-- Events of which no notification is left. notification_events_pkey, notifications_event_id_subscriber_no_key.
DELETE FROM pgautomate.notification_events WHERE id = ANY (ARRAY(
    SELECT e.id FROM pgautomate.notification_events e
     WHERE e.id < coalesce((SELECT x.id FROM pgautomate.notification_events x WHERE x.created_at >= @before::timestamptz ORDER BY x.id LIMIT 1), 9223372036854775807)
       AND e.status <> 'pending' AND e.finished_at < @before AND e.attachments = '[]'
       AND NOT EXISTS (SELECT FROM pgautomate.notifications n WHERE n.event_id = e.id)
     ORDER BY e.id LIMIT @most::bigint FOR UPDATE SKIP LOCKED));

-- name: DeleteOldMessages :execrows
-- Messages in feeds. messages_pkey.
DELETE FROM pgautomate.messages WHERE id = ANY (ARRAY(
    SELECT m.id FROM pgautomate.messages m
     WHERE m.id < coalesce((SELECT x.id FROM pgautomate.messages x WHERE x.created_at >= @before::timestamptz ORDER BY x.id LIMIT 1), 9223372036854775807)
       AND m.channel = 'in_app' AND m.created_at < @before
     ORDER BY m.id LIMIT @most::bigint FOR UPDATE SKIP LOCKED));
