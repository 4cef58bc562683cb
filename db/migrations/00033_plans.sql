-- Plans that hold whatever the tables' sizes were when a session made them: what an
-- entry, an end and an advance read, they find by index, row by row. One session's plan,
-- made for empty tables, took seconds for an import of a thousand leads, and minutes for
-- sixteen thousand. Locks: none that last.

-- +goose Up
-- As in 00008; read row by row.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.lead_stages_after_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    at    timestamptz := clock_timestamp();
    empty bigint[];
BEGIN
    -- A later row of the same statement may have closed what an earlier one opened.
    INSERT INTO lead_stage_actions (organization_id, lead_id, lead_stage_id, sequence_number, action_type, params,
                                    max_attempts, perform_at, object_type, cause, depth, paused, asks_goal)
    SELECT n.organization_id, n.lead_id, n.id, a.sequence_number, a.action_type, a.params,
           coalesce((a.params ->> 'max_attempts')::integer, 10),
           CASE WHEN a.place = 1 THEN at END,
           p.object_type, n.cause, n.depth, p.paused, p.asks_goal AND a.place = 1 AND n.moved_from IS NULL
      FROM entered n
     CROSS JOIN LATERAL (SELECT x.object_type, x.status = 'paused' AS paused, x.goal IS NOT NULL AS asks_goal
                           FROM pipelines x WHERE x.id = n.pipeline_id OFFSET 0) p
     CROSS JOIN LATERAL (SELECT FROM lead_stages s WHERE s.id = n.id AND s.status = 'active' OFFSET 0) s
     CROSS JOIN LATERAL (SELECT x.sequence_number, x.action_type, x.params, row_number() OVER (ORDER BY x.sequence_number) AS place
                           FROM pipeline_stage_actions x WHERE x.pipeline_stage_id = n.pipeline_stage_id OFFSET 0) a
     WHERE n.status = 'active'
     ORDER BY n.id, a.sequence_number;
    -- A stage with nothing to do is done on entry.
    SELECT array_agg(e.id) INTO empty
      FROM (SELECT DISTINCT n.pipeline_stage_id AS id FROM entered n WHERE n.status = 'active') e
     WHERE NOT EXISTS (SELECT FROM pipeline_stage_actions a WHERE a.pipeline_stage_id = e.id);
    IF empty IS NOT NULL THEN
        UPDATE lead_stages s SET status = 'completed', finished_at = at
         WHERE s.id = ANY (ARRAY(SELECT n.id FROM entered n WHERE n.status = 'active' AND n.pipeline_stage_id = ANY (empty))) AND s.status = 'active';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- As in 00002; what they read of lead_stages they find by id: the index of active
-- stages looks cheap to whoever made the plan when there were few, and isn't later.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.close_lead_stages(ids bigint[], new_status text, why text, action_reason text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    closed integer;
    was    text := current_setting('pgautomate.engine', true);
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    -- The stage first: who parks an action of it holds the stage's lock, so that
    -- what was parked a moment ago is seen below.
    WITH s AS MATERIALIZED (
        SELECT l.id, l.status FROM lead_stages l WHERE l.id = ANY (ids) ORDER BY l.id FOR UPDATE
    )
    UPDATE lead_stages l SET status = new_status, reason = why, finished_at = clock_timestamp()
      FROM s WHERE l.id = s.id AND s.status = 'active';
    GET DIAGNOSTICS closed = ROW_COUNT;
    UPDATE lead_stage_actions SET status = 'canceled', reason = action_reason, finished_at = clock_timestamp()
     WHERE lead_stage_id = ANY (ids) AND status IN ('pending', 'queued', 'delayed');
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
    RETURN closed;
END $$;
-- +goose StatementEnd
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

ALTER FUNCTION pgautomate.lead_stages_before_insert() SET enable_seqscan = off;
ALTER FUNCTION pgautomate.lead_stages_after_delete() SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off;
ALTER FUNCTION pgautomate.advance_notifications(bigint[]) SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off;

-- +goose Down
ALTER FUNCTION pgautomate.advance_notifications(bigint[]) RESET enable_seqscan RESET enable_hashjoin RESET enable_mergejoin RESET jit;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.advance_lead_stages(ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    at     timestamptz := clock_timestamp();
    was    text := current_setting('pgautomate.engine', true);
    locked bigint[];
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    SELECT coalesce(array_agg(l.id), '{}') INTO locked FROM (
        SELECT s.id FROM lead_stages s WHERE s.id = ANY (ids) AND s.status = 'active'
         ORDER BY s.id FOR UPDATE SKIP LOCKED) l;
    INSERT INTO advance_later (lead_stage_id)
    SELECT s.id FROM lead_stages s WHERE s.id = ANY (ids) AND s.status = 'active' AND s.id <> ALL (locked);

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
          FROM next WHERE next.id IS NULL AND s.id = next.lead_stage_id AND s.status = 'active'
    ), later AS (
        INSERT INTO advance_later (lead_stage_id)
        SELECT lead_stage_id FROM next WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM free)
    )
    INSERT INTO due_signals (organization_id, action_type, perform_at)
    SELECT DISTINCT organization_id, action_type, at FROM due;
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.close_lead_stages(ids bigint[], new_status text, why text, action_reason text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    closed integer;
    was    text := current_setting('pgautomate.engine', true);
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    -- The stage first: who parks an action of it holds the stage's lock, so that
    -- what was parked a moment ago is seen below.
    UPDATE lead_stages SET status = new_status, reason = why, finished_at = clock_timestamp()
     WHERE id = ANY (ids) AND status = 'active';
    GET DIAGNOSTICS closed = ROW_COUNT;
    UPDATE lead_stage_actions SET status = 'canceled', reason = action_reason, finished_at = clock_timestamp()
     WHERE lead_stage_id = ANY (ids) AND status IN ('pending', 'queued', 'delayed');
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
    RETURN closed;
END $$;
-- +goose StatementEnd
ALTER FUNCTION pgautomate.lead_stages_after_delete() RESET enable_seqscan RESET enable_hashjoin RESET enable_mergejoin RESET jit;
ALTER FUNCTION pgautomate.lead_stages_before_insert() RESET enable_seqscan;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.lead_stages_after_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    at timestamptz := clock_timestamp();
BEGIN
    INSERT INTO lead_stage_actions (organization_id, lead_id, lead_stage_id, sequence_number, action_type, params,
                                    max_attempts, perform_at, object_type, cause, depth, paused, asks_goal)
    SELECT n.organization_id, n.lead_id, n.id, a.sequence_number, a.action_type, a.params,
           coalesce((a.params ->> 'max_attempts')::integer, 10),
           CASE WHEN a.sequence_number = a.first THEN at END,
           a.object_type, n.cause, n.depth, a.paused, a.asks_goal AND a.sequence_number = a.first AND n.moved_from IS NULL
      FROM entered n
      JOIN lead_stages s ON s.id = n.id AND s.status = 'active'
      JOIN (SELECT psa.*, p.object_type, p.status = 'paused' AS paused, p.goal IS NOT NULL AS asks_goal, min(psa.sequence_number) OVER (PARTITION BY psa.pipeline_stage_id) AS first
              FROM pipeline_stage_actions psa
              JOIN pipeline_stages ps ON ps.id = psa.pipeline_stage_id
              JOIN pipelines p ON p.id = ps.pipeline_id
             WHERE psa.pipeline_stage_id IN (SELECT pipeline_stage_id FROM entered)) a
        ON a.pipeline_stage_id = n.pipeline_stage_id
     WHERE n.status = 'active'
     ORDER BY n.id, a.sequence_number;
    -- A stage with nothing to do is done on entry.
    UPDATE lead_stages s SET status = 'completed', finished_at = at
      FROM entered n
     WHERE s.id = n.id AND n.status = 'active' AND s.status = 'active'
       AND NOT EXISTS (SELECT FROM pipeline_stage_actions a WHERE a.pipeline_stage_id = n.pipeline_stage_id);
    RETURN NULL;
END $$;
-- +goose StatementEnd
