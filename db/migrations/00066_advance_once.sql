-- Making stages' next actions due reads the actions of each stage once, where it was twice. VACUUM comes for
-- notification_requests, each of which is updated once, as early when many are kept as when few are. Locks: SHARE
-- UPDATE EXCLUSIVE on notification_requests, for a moment.

-- +goose Up
ALTER TABLE pgautomate.notification_requests SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.advance_lead_stages(ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    at     timestamptz := clock_timestamp();
    was    text := current_setting('pgautomate.engine', true);
    locked bigint[];
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    SELECT coalesce(array_agg(l.id), '{}') INTO locked FROM (
        SELECT s.id, s.status FROM lead_stages s WHERE s.id = ANY (ids)
         ORDER BY s.id FOR UPDATE SKIP LOCKED OFFSET 0) l WHERE l.status = 'active';
    IF cardinality(locked) < cardinality(ids) THEN
        INSERT INTO advance_later (lead_stage_id)
        SELECT l.id FROM (SELECT s.id, s.status FROM lead_stages s WHERE s.id = ANY (ids) OFFSET 0) l
         WHERE l.status = 'active' AND NOT EXISTS (SELECT FROM unnest(locked) x (id) WHERE x.id = l.id);
    END IF;

    -- Of each stage what has to end first, else what is next: its actions are read once.
    WITH next AS MATERIALIZED (
        SELECT s.id AS lead_stage_id, a.id
          FROM unnest(locked) s (id)
          LEFT JOIN LATERAL (SELECT n.id, n.status <> 'pending' OR n.perform_at IS NOT NULL AS busy FROM lead_stage_actions n
                              WHERE n.lead_stage_id = s.id AND n.status IN ('pending', 'queued', 'running', 'delayed')
                              ORDER BY busy DESC, n.sequence_number, n.id LIMIT 1) a ON true
         WHERE a.busy IS NOT TRUE
    ), free AS MATERIALIZED (
        SELECT a.id FROM lead_stage_actions a
         WHERE a.id IN (SELECT id FROM next) AND a.status = 'pending' AND a.perform_at IS NULL
           FOR UPDATE SKIP LOCKED
    ), due AS (
        UPDATE lead_stage_actions a SET perform_at = at FROM free WHERE a.id = free.id
        RETURNING a.organization_id, a.action_type
    ), ended AS (
        UPDATE lead_stages s SET status = 'completed', finished_at = at
          FROM next WHERE next.id IS NULL AND s.id = next.lead_stage_id
    ), later AS (
        INSERT INTO advance_later (lead_stage_id)
        SELECT lead_stage_id FROM next WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM free)
    )
    INSERT INTO due_signals (organization_id, action_type, perform_at)
    SELECT DISTINCT organization_id, action_type, at FROM due;
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
END $$;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE pgautomate.notification_requests RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.advance_lead_stages(ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    at     timestamptz := clock_timestamp();
    was    text := current_setting('pgautomate.engine', true);
    locked bigint[];
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    SELECT coalesce(array_agg(l.id), '{}') INTO locked FROM (
        SELECT s.id, s.status FROM lead_stages s WHERE s.id = ANY (ids)
         ORDER BY s.id FOR UPDATE SKIP LOCKED OFFSET 0) l WHERE l.status = 'active';
    IF cardinality(locked) < cardinality(ids) THEN
        INSERT INTO advance_later (lead_stage_id)
        SELECT l.id FROM (SELECT s.id, s.status FROM lead_stages s WHERE s.id = ANY (ids) OFFSET 0) l
         WHERE l.status = 'active' AND NOT EXISTS (SELECT FROM unnest(locked) x (id) WHERE x.id = l.id);
    END IF;

    WITH next AS MATERIALIZED (
        SELECT s.id AS lead_stage_id, a.id
          FROM unnest(locked) s (id)
          LEFT JOIN LATERAL (SELECT n.id FROM lead_stage_actions n
                              WHERE n.lead_stage_id = s.id AND n.status = 'pending'
                              ORDER BY n.sequence_number, n.id LIMIT 1) a ON true
         WHERE NOT EXISTS (SELECT FROM lead_stage_actions b WHERE b.lead_stage_id = s.id
                              AND (b.status IN ('queued', 'running', 'delayed')
                                   OR b.status = 'pending' AND b.perform_at IS NOT NULL))
    ), free AS MATERIALIZED (
        SELECT a.id FROM lead_stage_actions a
         WHERE a.id IN (SELECT id FROM next) AND a.status = 'pending' AND a.perform_at IS NULL
           FOR UPDATE SKIP LOCKED
    ), due AS (
        UPDATE lead_stage_actions a SET perform_at = at FROM free WHERE a.id = free.id
        RETURNING a.organization_id, a.action_type
    ), ended AS (
        UPDATE lead_stages s SET status = 'completed', finished_at = at
          FROM next WHERE next.id IS NULL AND s.id = next.lead_stage_id
    ), later AS (
        INSERT INTO advance_later (lead_stage_id)
        SELECT lead_stage_id FROM next WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM free)
    )
    INSERT INTO due_signals (organization_id, action_type, perform_at)
    SELECT DISTINCT organization_id, action_type, at FROM due;
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
END $$;
-- +goose StatementEnd
