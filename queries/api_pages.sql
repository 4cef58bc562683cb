-- What the overview page and the operator's routes show: the views, bounded.

-- name: ApiFeedStatus :many
SELECT slot_name::text AS slot_name, active::boolean AS active, coalesce(wal_status, 'none')::text AS wal_status,
       coalesce(position::text, '')::text AS position, coalesce(confirmed_flush_lsn::text, '')::text AS confirmed_flush_lsn,
       coalesce(lag_bytes, 0)::bigint AS lag_bytes, coalesce(retained_bytes, 0)::bigint AS retained_bytes,
       coalesce(seconds_since_checkpoint, 0)::double precision AS seconds_since_checkpoint, updated_at::timestamptz AS updated_at
  FROM pgautomate.feed_status
 ORDER BY slot_name;

-- name: ApiProblems :many
SELECT severity::text AS severity, subject::text AS subject, problem::text AS problem, fix::text AS fix,
       coalesce(since, now())::timestamptz AS since
  FROM pgautomate.problems
 ORDER BY severity, since DESC NULLS LAST, subject
 LIMIT @max_rows;

-- name: ApiActionQueue :many
SELECT organization_id::text AS organization_id, action_type::text AS action_type, due::bigint AS due, parked::bigint AS parked,
       queued::bigint AS queued, running::bigint AS running, held::bigint AS held,
       coalesce(reason, '')::text AS reason, coalesce(next_eligible_at, 'epoch')::timestamptz AS next_eligible_at
  FROM pgautomate.action_queue
 ORDER BY due DESC, running DESC, parked DESC, organization_id, action_type
 LIMIT @max_rows;

-- name: ApiActionLateness :many
-- By lead_stage_actions_finished_idx.
SELECT organization_id, action_type, actions, p50_seconds::double precision AS p50_seconds,
       p99_seconds::double precision AS p99_seconds, max_seconds::double precision AS max_seconds
  FROM pgautomate.action_lateness
 ORDER BY max_seconds DESC, organization_id, action_type
 LIMIT @max_rows;

-- name: ApiFinishedActions :many
-- By lead_stage_actions_finished_idx.
SELECT action_type, status::text AS status, count(*) AS actions
  FROM pgautomate.lead_stage_actions
 WHERE finished_at > now() - interval '1 hour'
 GROUP BY action_type, status
 ORDER BY action_type, status;

-- name: ApiLatestFirings :many
-- By the partitions' primary keys, from their ends.
SELECT f.id, f.trigger_id, coalesce(t.name, '')::text AS trigger_name, f.organization_id, f.object_type, f.object_id, f.action,
       f.commit_lsn::text AS commit_lsn, f.committed_at, f.fired_at
  FROM (SELECT * FROM pgautomate.trigger_firings ORDER BY id DESC LIMIT @max_rows) f
  LEFT JOIN pgautomate.triggers t ON t.id = f.trigger_id
 ORDER BY f.id DESC;

-- name: ApiCounts :one
SELECT (SELECT count(*) FROM pgautomate.object_types) AS object_types,
       (SELECT count(*) FROM pgautomate.pipelines WHERE status = 'active') AS pipelines,
       (SELECT count(*) FROM pgautomate.live_triggers) AS live_triggers;
