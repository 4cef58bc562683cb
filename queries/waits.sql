-- Waits that something else ends than their time.

-- Since when a reply counts: the start of the action before, else the entry into
-- the stage. lead_stage_actions_stage_idx.
-- name: ReplySince :one
SELECT coalesce((SELECT b.started_at FROM pgautomate.lead_stage_actions b
                  WHERE b.lead_stage_id = s.id AND b.sequence_number < @sequence_number AND b.started_at IS NOT NULL
                  ORDER BY b.sequence_number DESC, b.id DESC LIMIT 1), s.entered_at)::timestamptz AS since
  FROM pgautomate.lead_stages s WHERE s.id = @lead_stage_id;

-- The first reply that counts. replies_lead_idx.
-- name: FindReply :one
SELECT r.object_type, r.object_id, coalesce(r.channel, '')::text AS channel, coalesce(r.contact_id, '')::text AS contact_id, r.committed_at
  FROM pgautomate.replies r
 WHERE r.organization_id = @organization_id AND r.lead_type = @lead_type AND r.lead_id = @lead_id AND r.committed_at >= @since
   AND (@channel::text = '' OR lower(r.channel) = lower(@channel::text))
   AND (@contact::text = '' OR r.contact_id = @contact::text)
 ORDER BY r.committed_at, r.id LIMIT 1;

-- Written in the feed's transaction.
-- name: InsertReplies :exec
INSERT INTO pgautomate.replies (organization_id, lead_type, lead_id, object_type, object_id, contact_id, channel, committed_at, commit_lsn)
SELECT unnest(@organization_ids::text[]), unnest(@lead_types::text[]), unnest(@lead_ids::text[]), unnest(@object_types::text[]),
       unnest(@object_ids::text[]), nullif(unnest(@contact_ids::text[]), ''), nullif(unnest(@channels::text[]), ''),
       unnest(@committed_ats::timestamptz[]), unnest(@commit_lsns::text[])::pg_lsn;

-- Waits that a worker looks at now: it may have looked before what wakes them was
-- to be seen, so they are asked about again. lead_stage_actions_lead_idx.
-- name: WaitsBeingLookedAt :many
SELECT DISTINCT a.lead_id FROM pgautomate.lead_stage_actions a
 WHERE a.organization_id = @organization_id AND a.lead_id = ANY (@lead_ids::text[]) AND a.object_type = @object_type
   AND a.action_type = @action_type AND a.status = 'running';

-- Parked waits go on now; whose they are. One that somebody has locked is not
-- waited for, but left. lead_stage_actions_lead_idx.
-- name: WakeWaits :many
WITH parked AS MATERIALIZED (
    SELECT a.id, a.lead_id FROM pgautomate.lead_stage_actions a
     WHERE a.organization_id = @organization_id AND a.lead_id = ANY (@lead_ids::text[]) AND a.object_type = @object_type
       AND a.action_type = @action_type AND a.status = 'delayed' AND a.result -> 'woken' IS NULL
), free AS MATERIALIZED (
    SELECT a.id FROM pgautomate.lead_stage_actions a
     WHERE a.id IN (SELECT parked.id FROM parked) AND a.status = 'delayed' FOR UPDATE SKIP LOCKED
), woken AS (
    UPDATE pgautomate.lead_stage_actions a
       SET perform_at = clock_timestamp(), result = coalesce(a.result, '{}') || '{"woken": true}'
      FROM free WHERE a.id = free.id
    RETURNING a.id
), signal AS (
    INSERT INTO pgautomate.due_signals (organization_id, action_type, perform_at)
    SELECT @organization_id, @action_type, clock_timestamp() WHERE EXISTS (SELECT FROM woken)
)
SELECT parked.lead_id, (parked.id IN (SELECT woken.id FROM woken))::boolean AS woken FROM parked;

-- Replies that came too late for waits which had just run out: the wait's result
-- keeps the loser. lead_stage_actions_lead_idx, replies_lead_idx.
-- name: NoteLateReplies :exec
UPDATE pgautomate.lead_stage_actions a
   SET result = a.result || jsonb_build_object('superseded', jsonb_build_object('reply', jsonb_build_object(
       'object_type', r.object_type, 'object_id', r.object_id, 'channel', r.channel, 'contact_id', r.contact_id, 'committed_at', r.committed_at)))
  FROM pgautomate.lead_stage_actions w
 CROSS JOIN LATERAL (
       SELECT x.* FROM pgautomate.replies x
        WHERE x.organization_id = w.organization_id AND x.lead_type = w.object_type AND x.lead_id = w.lead_id
          AND x.committed_at >= (w.result ->> 'since')::timestamptz AND x.committed_at <= w.finished_at
          AND (w.result ->> 'channel' IS NULL OR lower(x.channel) = lower(w.result ->> 'channel'))
          AND (w.result ->> 'contact' IS NULL OR x.contact_id = w.result ->> 'contact')
        ORDER BY x.committed_at, x.id LIMIT 1) r
 WHERE w.organization_id = @organization_id AND w.lead_id = ANY (@lead_ids::text[]) AND w.object_type = @object_type
   AND w.action_type = 'wait_for_reply' AND w.status = 'completed' AND w.result ->> 'outcome' = 'timeout' AND w.result -> 'superseded' IS NULL
   AND w.finished_at > now() - interval '1 hour' AND a.id = w.id;

-- Bounded, so that no other statement waits for long. replies_committed_idx.
-- name: DeleteOldReplies :execrows
DELETE FROM pgautomate.replies WHERE id = ANY (ARRAY(
    SELECT r.id FROM pgautomate.replies r WHERE r.committed_at < now() - make_interval(secs => @older_than_seconds)
     ORDER BY r.committed_at LIMIT @most::bigint FOR UPDATE SKIP LOCKED));

-- What a wait_until waits for. awaited_query_idx.
-- name: FindAwaited :one
SELECT a.id, a.used_until, (a.created_at > now() - interval '10 seconds')::boolean AS fresh
  FROM pgautomate.awaited a
 WHERE a.organization_id = @organization_id AND a.object_type = @object_type AND md5(a.query::text) = md5((@query::jsonb)::text);

-- name: PutAwaited :one
INSERT INTO pgautomate.awaited AS a (organization_id, object_type, query, used_until)
VALUES (@organization_id, @object_type, @query, @used_until)
ON CONFLICT (organization_id, object_type, md5(query::text)) DO UPDATE SET used_until = greatest(a.used_until, excluded.used_until)
RETURNING a.id, (a.created_at > now() - interval '10 seconds')::boolean AS fresh, (xmax = 0)::boolean AS inserted;

-- name: PutAwaitedTrigger :exec
INSERT INTO pgautomate.triggers (organization_id, name, object_type, query, action_type, action_params, awaited_id)
VALUES (@organization_id, format('wait_until %s', @awaited_id::bigint), @object_type, @query, 'wake', jsonb_build_object('awaited', @awaited_id), @awaited_id);

-- The firings among these that waits wait for. Primary keys.
-- name: AwaitedMet :many
SELECT f.id, f.organization_id, f.object_type, f.object_id AS lead_id, (v.action_params ->> 'awaited')::text AS awaited, f.committed_at
  FROM (SELECT unnest(@ids::bigint[]) AS id, unnest(@committed_ats::timestamptz[]) AS committed_at) w
  JOIN pgautomate.trigger_firings f ON f.id = w.id AND f.committed_at = w.committed_at
  JOIN pgautomate.trigger_versions v ON v.trigger_id = f.trigger_id AND v.version = f.trigger_version AND v.action_type = 'wake'
 WHERE v.action_params ? 'awaited'
 ORDER BY f.id;

-- Of the leads that came to meet what they waited for, one of these each, with the
-- time of the commit. lead_stage_actions_lead_idx.
-- name: UntilsBeingLookedAt :many
SELECT DISTINCT w.place::bigint AS place
  FROM (SELECT unnest(@places::bigint[]) AS place, unnest(@organization_ids::text[]) AS organization_id,
               unnest(@object_types::text[]) AS object_type, unnest(@lead_ids::text[]) AS lead_id) w
  JOIN pgautomate.lead_stage_actions a ON a.organization_id = w.organization_id AND a.lead_id = w.lead_id AND a.object_type = w.object_type
   AND a.action_type = 'wait_until' AND a.status = 'running';

-- One that goes on already, by an earlier wake, is told all the same: the lead may
-- meet the query only for a moment, and no more when it is asked.
-- name: WakeUntils :many
WITH met AS MATERIALIZED (
    SELECT unnest(@places::bigint[]) AS place, unnest(@organization_ids::text[]) AS organization_id, unnest(@object_types::text[]) AS object_type,
           unnest(@lead_ids::text[]) AS lead_id, unnest(@awaited::text[]) AS awaited, unnest(@ats::timestamptz[]) AS at
), parked AS MATERIALIZED (
    SELECT a.id, met.place, met.at FROM met
      JOIN pgautomate.lead_stage_actions a ON a.organization_id = met.organization_id AND a.lead_id = met.lead_id AND a.object_type = met.object_type
     WHERE a.action_type = 'wait_until' AND a.status IN ('delayed', 'queued', 'pending') AND a.result ->> 'awaited' = met.awaited
       AND (a.result -> 'woken' IS NULL OR (a.result ->> 'woken')::timestamptz < met.at)
), free AS MATERIALIZED (
    SELECT a.id FROM pgautomate.lead_stage_actions a
     WHERE a.id IN (SELECT parked.id FROM parked) AND a.status IN ('delayed', 'queued', 'pending') FOR UPDATE SKIP LOCKED
), woken AS (
    UPDATE pgautomate.lead_stage_actions a
       SET perform_at = CASE WHEN a.status = 'delayed' THEN clock_timestamp() ELSE a.perform_at END, result = a.result || jsonb_build_object('woken', p.at)
      FROM free JOIN (SELECT parked.id, max(parked.at) AS at FROM parked GROUP BY parked.id) p ON p.id = free.id
     WHERE a.id = free.id
    RETURNING a.id, a.organization_id
), signal AS (
    INSERT INTO pgautomate.due_signals (organization_id, action_type, perform_at)
    SELECT DISTINCT woken.organization_id, 'wait_until', clock_timestamp() FROM woken
)
SELECT parked.place::bigint AS place, (parked.id IN (SELECT woken.id FROM woken))::boolean AS woken FROM parked;

-- Queries that no trigger sees to, to be asked again now. Few rows.
-- name: AwaitedToAsk :many
UPDATE pgautomate.awaited SET next_at = now() + make_interval(secs => @every_seconds) WHERE id = ANY (ARRAY(
    SELECT a.id FROM pgautomate.awaited a
      LEFT JOIN pgautomate.triggers t ON t.awaited_id = a.id
     WHERE a.next_at <= now() AND (t.id IS NULL OR t.status <> 'active')
     ORDER BY a.next_at LIMIT @most::bigint FOR UPDATE OF a SKIP LOCKED))
RETURNING id, organization_id, object_type, query;

-- Who waits for a query, by lead_stage_actions_awaited_idx.
-- name: WaitersFor :many
SELECT a.id, a.lead_id FROM pgautomate.lead_stage_actions a
 WHERE a.result ->> 'awaited' = @awaited::text AND a.status = 'delayed' AND a.action_type = 'wait_until' AND a.id > @after_id
 ORDER BY a.id LIMIT @most::bigint;

-- name: DeleteUnusedAwaited :execrows
DELETE FROM pgautomate.awaited WHERE id = ANY (ARRAY(
    SELECT a.id FROM pgautomate.awaited a WHERE a.used_until < now() - interval '1 day' LIMIT 1000 FOR UPDATE SKIP LOCKED));
