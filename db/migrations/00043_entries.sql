-- An entry looks its stage up by id alone: with the status beside it the index of active
-- stages could be read from end to end for each row. A session whose plan was made while
-- an import was under way, which ANALYZE sees as many pages with few rows, did so: the
-- first sixteen thousand leads took minutes. Locks: none that last.

-- +goose Up
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
     CROSS JOIN LATERAL (SELECT x.status FROM lead_stages x WHERE x.id = n.id OFFSET 0) s
     CROSS JOIN LATERAL (SELECT x.sequence_number, x.action_type, x.params, row_number() OVER (ORDER BY x.sequence_number) AS place
                           FROM pipeline_stage_actions x WHERE x.pipeline_stage_id = n.pipeline_stage_id OFFSET 0) a
     WHERE n.status = 'active' AND s.status = 'active'
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

-- +goose Down
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
