-- What the feed's transaction writes besides COPY, and what a firing's worker reads.

-- name: FiringIDs :many
SELECT nextval('pgautomate.trigger_firings_id_seq')::bigint AS id FROM generate_series(1, @n::integer);

-- name: EnsureFiringPartition :exec
SELECT pgautomate.ensure_firing_partition((@day::text)::date);

-- At the start of a slot's history: all triggers as of its snapshot.
-- name: AdoptTriggers :exec
INSERT INTO pgautomate.trigger_versions (trigger_id, version, organization_id, name, object_type, query, before_query, extra_filter,
                                         action_type, action_params, valid_from)
SELECT id, version, organization_id, name, object_type, query, before_query, extra_filter, action_type, action_params, '0/0'
  FROM pgautomate.triggers
ON CONFLICT (trigger_id, version) DO NOTHING;

-- name: ForgetLiveTriggers :exec
WITH timers AS (DELETE FROM pgautomate.trigger_timers), clock AS (DELETE FROM pgautomate.trigger_clock)
DELETE FROM pgautomate.live_triggers;

-- name: AdoptLiveTriggers :exec
INSERT INTO pgautomate.live_triggers (trigger_id, version)
SELECT id, version FROM pgautomate.triggers WHERE status <> 'paused';

-- name: PutTriggerVersions :exec
INSERT INTO pgautomate.trigger_versions (trigger_id, version, organization_id, name, object_type, query, before_query, extra_filter,
                                         action_type, action_params, valid_from)
SELECT unnest(@trigger_ids::bigint[]), unnest(@versions::integer[]), unnest(@organization_ids::text[]), unnest(@names::text[]),
       unnest(@object_types::text[]), unnest(@queries::jsonb[]), nullif(unnest(@before_queries::text[]), '')::jsonb,
       nullif(unnest(@extra_filters::text[]), '')::jsonb, unnest(@action_types::text[]), unnest(@action_params::jsonb[]),
       unnest(@valid_froms::text[])::pg_lsn
ON CONFLICT (trigger_id, version) DO NOTHING;

-- name: PutLiveTriggers :exec
INSERT INTO pgautomate.live_triggers (trigger_id, version)
SELECT unnest(@trigger_ids::bigint[]), unnest(@versions::integer[])
ON CONFLICT (trigger_id) DO UPDATE SET version = excluded.version;

-- name: RemoveLiveTriggers :exec
WITH timers AS (DELETE FROM pgautomate.trigger_timers WHERE trigger_id = ANY (@trigger_ids::bigint[]))
DELETE FROM pgautomate.live_triggers WHERE trigger_id = ANY (@trigger_ids::bigint[]);

-- By pages, in the order of live_triggers_pkey. As text, which nobody parses on the way. Each version is looked up by itself
-- (trigger_versions_pkey): a merge of both tables would read the versions from the first one on for every page.
-- name: LiveTriggers :many
SELECT v.trigger_id, v.version, v.organization_id, v.name, v.object_type, v.query::text AS query,
       coalesce(v.before_query::text, '')::text AS before_query, coalesce(v.extra_filter::text, '')::text AS extra_filter,
       coalesce(l.timers_version = v.version, false)::boolean AS timers_set
  FROM (SELECT t.trigger_id, t.version, t.timers_version FROM pgautomate.live_triggers t
         WHERE t.trigger_id > @after ORDER BY t.trigger_id LIMIT @most) l
 CROSS JOIN LATERAL (
       SELECT x.* FROM pgautomate.trigger_versions x WHERE x.trigger_id = l.trigger_id AND x.version = l.version OFFSET 0) v
 ORDER BY l.trigger_id;

-- Live ones that are shown as invalid. triggers_troubled_idx.
-- name: InvalidTriggers :many
SELECT t.id, t.version, t.object_type FROM pgautomate.triggers t
  JOIN pgautomate.live_triggers l ON l.trigger_id = t.id AND l.version = t.version
 WHERE t.status = 'invalid';

-- name: ObjectTypeHasPipelines :one
SELECT EXISTS (SELECT FROM pgautomate.pipelines WHERE object_type = @object_type);

-- name: MarkTrigger :execrows
UPDATE pgautomate.triggers SET status = @status, error = nullif(@error::text, '')
 WHERE id = @id AND version = @version AND status <> 'paused'
   AND (status, coalesce(error, '')) IS DISTINCT FROM (@status::text, @error::text);

-- Whether a trigger's row is there as the stream has shown it, or newer. Primary key.
-- name: TriggerVisible :one
SELECT EXISTS (SELECT FROM pgautomate.triggers WHERE id = @id AND version >= @version)::boolean;

-- name: DegradeTriggers :execrows
UPDATE pgautomate.triggers SET status = 'degraded', error = @error::text
 WHERE object_type = @object_type AND status = 'active';

-- name: RecoverTriggers :execrows
UPDATE pgautomate.triggers SET status = 'active', error = NULL
 WHERE object_type = @object_type AND status = 'degraded';

-- The firing with the definition that fired. Primary keys; one partition.
-- name: GetFiring :one
SELECT f.id, f.trigger_id, f.trigger_version, f.organization_id, f.object_type, f.object_id, f.action, f.changed_fields,
       f.data, f.previous_data, f.commit_lsn::text AS commit_lsn, f.committed_at, f.cause, f.depth,
       v.name, v.action_type, v.action_params
  FROM pgautomate.trigger_firings f
  JOIN pgautomate.trigger_versions v ON v.trigger_id = f.trigger_id AND v.version = f.trigger_version
 WHERE f.id = @id AND f.committed_at = @committed_at;

-- Firings become their triggers' own actions, in no pipeline; those of goals end
-- runs instead (GoalsMet), those of waits wake them (AwaitedMet). A second carrier of a firing changes nothing:
-- lead_stage_actions_firing_idx.
-- name: InsertFiringActions :many
INSERT INTO pgautomate.lead_stage_actions (organization_id, lead_id, action_type, params, max_attempts, perform_at,
                                           object_type, firing_id, firing_at, cause, depth)
SELECT f.organization_id, f.object_id, v.action_type, v.action_params,
       CASE WHEN jsonb_typeof(v.action_params -> 'max_attempts') = 'number'
            THEN greatest(1, least(100, (v.action_params ->> 'max_attempts')::numeric::integer)) ELSE 10 END,
       clock_timestamp(), f.object_type, f.id, f.committed_at,
       jsonb_build_object('depth', f.depth, 'firing_id', f.id,
           'chain', coalesce(f.cause -> 'chain', '[]') || to_jsonb(f.trigger_id || ' ' || v.name)),
       f.depth
  FROM (SELECT unnest(@ids::bigint[]) AS id, unnest(@committed_ats::timestamptz[]) AS committed_at) w
  JOIN pgautomate.trigger_firings f ON f.id = w.id AND f.committed_at = w.committed_at
  JOIN pgautomate.trigger_versions v ON v.trigger_id = f.trigger_id AND v.version = f.trigger_version
 WHERE NOT (v.action_type = 'goal' AND v.action_params ? 'pipeline_id' OR v.action_type = 'wake' AND v.action_params ? 'awaited')
   AND (f.fired_at > now() - interval '1 hour' -- later its action may be among the finished ones
        OR NOT EXISTS (SELECT FROM pgautomate.lead_stage_actions o WHERE o.firing_id = f.id))
 ORDER BY f.id
ON CONFLICT (firing_id) WHERE firing_id IS NOT NULL DO NOTHING
RETURNING id, firing_id;

-- name: GetOrganization :one
SELECT id, name, time_zone FROM pgautomate.organizations WHERE id = @id;
