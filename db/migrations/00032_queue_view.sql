-- action_queue: timers that have run out are due, and may be held by what runs;
-- autovacuum keeps up with entries and their ends. Locks: SHARE UPDATE EXCLUSIVE on
-- lead_stages and lead_runs, for a moment.

-- +goose Up
CREATE OR REPLACE VIEW pgautomate.action_queue AS
WITH lane AS (
    SELECT organization_id, action_type FROM pgautomate.lanes
    UNION SELECT organization_id, action_type FROM pgautomate.due_signals
), waiting AS (
    SELECT lane.organization_id, lane.action_type,
           (SELECT count(*) FROM pgautomate.work a WHERE a.organization_id = lane.organization_id
               AND a.action_type = lane.action_type AND a.status = 'pending' AND NOT a.paused AND a.perform_at <= now()) AS due,
           (SELECT count(*) FROM pgautomate.work a WHERE a.organization_id = lane.organization_id
               AND a.action_type = lane.action_type AND a.status = 'pending' AND NOT a.paused AND a.perform_at > now()) AS parked,
           (SELECT min(a.perform_at) FROM pgautomate.work a WHERE a.organization_id = lane.organization_id
               AND a.action_type = lane.action_type AND a.status = 'pending' AND NOT a.paused AND a.perform_at IS NOT NULL) AS oldest
      FROM lane
), timer AS (
    SELECT organization_id, action_type, count(*) FILTER (WHERE perform_at > now()) AS parked,
           count(*) FILTER (WHERE perform_at <= now()) AS out, min(perform_at) AS oldest
      FROM pgautomate.work WHERE status = 'delayed' AND NOT paused GROUP BY 1, 2
), paused AS (
    SELECT organization_id, action_type, count(*) FILTER (WHERE perform_at <= now()) AS due,
           count(*) FILTER (WHERE perform_at > now()) AS parked
      FROM pgautomate.work
     WHERE paused AND status IN ('pending', 'delayed') AND perform_at IS NOT NULL GROUP BY 1, 2
), flight AS (
    SELECT organization_id, action_type, count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status = 'queued') AS queued
      FROM pgautomate.work WHERE status IN ('queued', 'running') GROUP BY 1, 2
), kind AS (
    SELECT organization_id, action_type FROM waiting WHERE oldest IS NOT NULL
    UNION SELECT organization_id, action_type FROM timer
    UNION SELECT organization_id, action_type FROM paused
    UNION SELECT organization_id, action_type FROM flight
), known AS (
    SELECT k.organization_id, k.action_type,
           coalesce(w.due, 0)                                                      AS due,
           coalesce(w.parked, 0) + coalesce(t.parked, 0) + coalesce(p.parked, 0)   AS parked,
           coalesce(p.due, 0)                                                      AS paused,
           coalesce(t.out, 0)                                                      AS out,
           coalesce(f.queued, 0)                                                   AS queued,
           coalesce(f.running, 0)                                                  AS running,
           least(w.oldest, t.oldest)                                               AS oldest,
           th.max_starts, th.per, th.max_running,
           (SELECT coalesce(sum(s.starts), 0) FROM pgautomate.throttle_starts s
             WHERE s.organization_id = k.organization_id AND s.action_type = th.action_type
               AND s.slice_end > now() - th.per)                                   AS starts,
           (SELECT min(s.slice_end) + th.per FROM pgautomate.throttle_starts s
             WHERE s.organization_id = k.organization_id AND s.action_type = th.action_type
               AND s.slice_end > now() - th.per)                                   AS frees_at
      FROM kind k
      LEFT JOIN waiting w USING (organization_id, action_type)
      LEFT JOIN timer t USING (organization_id, action_type)
      LEFT JOIN paused p USING (organization_id, action_type)
      LEFT JOIN flight f USING (organization_id, action_type)
      LEFT JOIN LATERAL (
           SELECT x.* FROM pgautomate.throttles x
            WHERE x.organization_id IN (k.organization_id, '*') AND x.action_type IN (k.action_type, '*')
            ORDER BY (x.organization_id = '*'), (x.action_type = '*') LIMIT 1) th ON true
), judged AS (
    SELECT known.*,
           least(due, greatest(0, due - least(max_starts - starts - queued, max_running - queued - running)))::bigint AS throttled,
           coalesce(least(out, greatest(0, out - (max_running - queued - running))), 0)::bigint AS resumable_later
      FROM known
)
SELECT organization_id, action_type, due + out + paused AS due, parked, queued, running,
       CASE WHEN max_starts IS NULL AND max_running IS NULL THEN 0 ELSE coalesce(throttled, 0) END + resumable_later + paused AS held,
       CASE WHEN coalesce(throttled, 0) > 0 AND (max_starts = 0 OR max_running = 0) THEN 'paused by throttle'
            WHEN coalesce(throttled, 0) > 0 AND starts + queued + due > max_starts
                 THEN format('throttle: %s starts in any %s', max_starts, per)
            WHEN resumable_later > 0 AND max_running = 0 THEN 'paused by throttle'
            WHEN coalesce(throttled, 0) > 0 AND max_running IS NOT NULL OR resumable_later > 0 THEN format('throttle: %s running at once', max_running)
            WHEN paused > 0 THEN 'pipeline paused'
       END AS reason,
       CASE WHEN due + out = 0 THEN oldest
            WHEN max_starts = 0 AND out = 0 OR max_running = 0 THEN NULL
            WHEN starts + queued >= max_starts AND out = 0 THEN frees_at
            ELSE greatest(oldest, now())
       END AS next_eligible_at
  FROM judged;
COMMENT ON COLUMN pgautomate.action_queue.due IS 'Actions whose time has come and that have not been handed to the workers; also those that go on after a timer.';

ALTER TABLE pgautomate.lead_stages SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 1, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE pgautomate.lead_runs SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 1, autovacuum_analyze_scale_factor = 0.05);

-- +goose Down
ALTER TABLE pgautomate.lead_runs RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_delay, autovacuum_analyze_scale_factor);
ALTER TABLE pgautomate.lead_stages RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_vacuum_cost_delay, autovacuum_analyze_scale_factor);
CREATE OR REPLACE VIEW pgautomate.action_queue AS
WITH lane AS (
    SELECT organization_id, action_type FROM pgautomate.lanes
    UNION SELECT organization_id, action_type FROM pgautomate.due_signals
), waiting AS (
    SELECT lane.organization_id, lane.action_type,
           (SELECT count(*) FROM pgautomate.work a WHERE a.organization_id = lane.organization_id
               AND a.action_type = lane.action_type AND a.status = 'pending' AND NOT a.paused AND a.perform_at <= now()) AS due,
           (SELECT count(*) FROM pgautomate.work a WHERE a.organization_id = lane.organization_id
               AND a.action_type = lane.action_type AND a.status = 'pending' AND NOT a.paused AND a.perform_at > now()) AS parked,
           (SELECT min(a.perform_at) FROM pgautomate.work a WHERE a.organization_id = lane.organization_id
               AND a.action_type = lane.action_type AND a.status = 'pending' AND NOT a.paused AND a.perform_at IS NOT NULL) AS oldest
      FROM lane
), timer AS (
    SELECT organization_id, action_type, count(*) AS parked, min(perform_at) AS oldest
      FROM pgautomate.work WHERE status = 'delayed' AND NOT paused GROUP BY 1, 2
), paused AS (
    SELECT organization_id, action_type, count(*) FILTER (WHERE perform_at <= now()) AS due,
           count(*) FILTER (WHERE perform_at > now()) AS parked
      FROM pgautomate.work
     WHERE paused AND status IN ('pending', 'delayed') AND perform_at IS NOT NULL GROUP BY 1, 2
), flight AS (
    SELECT organization_id, action_type, count(*) FILTER (WHERE status = 'running') AS running,
           count(*) FILTER (WHERE status = 'queued') AS queued
      FROM pgautomate.work WHERE status IN ('queued', 'running') GROUP BY 1, 2
), kind AS (
    SELECT organization_id, action_type FROM waiting WHERE oldest IS NOT NULL
    UNION SELECT organization_id, action_type FROM timer
    UNION SELECT organization_id, action_type FROM paused
    UNION SELECT organization_id, action_type FROM flight
), known AS (
    SELECT k.organization_id, k.action_type,
           coalesce(w.due, 0)                                                      AS due,
           coalesce(w.parked, 0) + coalesce(t.parked, 0) + coalesce(p.parked, 0)   AS parked,
           coalesce(p.due, 0)                                                      AS paused,
           coalesce(f.queued, 0)                                                   AS queued,
           coalesce(f.running, 0)                                                  AS running,
           least(w.oldest, t.oldest)                                               AS oldest,
           th.max_starts, th.per, th.max_running,
           (SELECT coalesce(sum(s.starts), 0) FROM pgautomate.throttle_starts s
             WHERE s.organization_id = k.organization_id AND s.action_type = th.action_type
               AND s.slice_end > now() - th.per)                                   AS starts,
           (SELECT min(s.slice_end) + th.per FROM pgautomate.throttle_starts s
             WHERE s.organization_id = k.organization_id AND s.action_type = th.action_type
               AND s.slice_end > now() - th.per)                                   AS frees_at
      FROM kind k
      LEFT JOIN waiting w USING (organization_id, action_type)
      LEFT JOIN timer t USING (organization_id, action_type)
      LEFT JOIN paused p USING (organization_id, action_type)
      LEFT JOIN flight f USING (organization_id, action_type)
      LEFT JOIN LATERAL (
           SELECT x.* FROM pgautomate.throttles x
            WHERE x.organization_id IN (k.organization_id, '*') AND x.action_type IN (k.action_type, '*')
            ORDER BY (x.organization_id = '*'), (x.action_type = '*') LIMIT 1) th ON true
), judged AS (
    SELECT known.*,
           least(due, greatest(0, due - least(max_starts - starts - queued, max_running - queued - running)))::bigint AS throttled
      FROM known
)
SELECT organization_id, action_type, due + paused AS due, parked, queued, running,
       CASE WHEN max_starts IS NULL AND max_running IS NULL THEN 0 ELSE coalesce(throttled, 0) END + paused AS held,
       CASE WHEN coalesce(throttled, 0) > 0 AND (max_starts = 0 OR max_running = 0) THEN 'paused by throttle'
            WHEN coalesce(throttled, 0) > 0 AND starts + queued + due > max_starts
                 THEN format('throttle: %s starts in any %s', max_starts, per)
            WHEN coalesce(throttled, 0) > 0 AND max_running IS NOT NULL THEN format('throttle: %s running at once', max_running)
            WHEN paused > 0 THEN 'pipeline paused'
       END AS reason,
       CASE WHEN due = 0 THEN oldest
            WHEN max_starts = 0 OR max_running = 0 THEN NULL
            WHEN starts + queued >= max_starts THEN frees_at
            ELSE greatest(oldest, now())
       END AS next_eligible_at
  FROM judged;
COMMENT ON COLUMN pgautomate.action_queue.due IS 'Actions whose time has come and that have not been handed to the workers.';
