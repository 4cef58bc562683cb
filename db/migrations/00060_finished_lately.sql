-- What finished in the last hour is asked by problems (and with it by /metrics) and by action_lateness; the months of finished
-- actions had no index for that, so each look read all of them from end to end. They are written in the order of
-- finished_at, so a BRIN index is enough. Locks: each month against writing (only the archive's), while it is read once.

-- +goose Up
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.ensure_finished_actions(month date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    first date := date_trunc('month', month);
    child text := 'lead_stage_actions_' || to_char(month, 'YYYY_MM');
    what  text;
BEGIN
    IF to_regclass('pgautomate.' || child) IS NOT NULL THEN
        RETURN child;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('pgautomate.ensure_finished_actions'));
    IF to_regclass('pgautomate.' || child) IS NOT NULL THEN
        RETURN child;
    END IF;
    EXECUTE format($sql$
        CREATE TABLE pgautomate.%1$I (
            PRIMARY KEY (id),
            CONSTRAINT is_finished CHECK (status IN ('completed', 'failed', 'canceled', 'merged', 'skipped')),
            CONSTRAINT of_month CHECK (finished_at >= %2$L::timestamptz AND finished_at < %3$L::timestamptz)
        ) INHERITS (pgautomate.lead_stage_actions) $sql$,
        child, first::timestamp AT TIME ZONE 'UTC', (first + interval '1 month')::timestamp AT TIME ZONE 'UTC');
    EXECUTE format('CREATE INDEX ON pgautomate.%I (organization_id, lead_id, id)', child);
    EXECUTE format('CREATE INDEX ON pgautomate.%I (lead_stage_id, sequence_number) WHERE lead_stage_id IS NOT NULL', child);
    EXECUTE format('CREATE INDEX ON pgautomate.%I (firing_id) WHERE firing_id IS NOT NULL', child);
    EXECUTE format('CREATE INDEX ON pgautomate.%I USING brin (finished_at) WITH (autosummarize = on)', child);
    EXECUTE format('CREATE TRIGGER lead_stage_actions_before_update BEFORE UPDATE OF status, perform_at ON pgautomate.%I FOR EACH ROW
        WHEN (NOT pgautomate.is_engine()) EXECUTE FUNCTION pgautomate.finished_actions_before_update()', child);
    EXECUTE format('COMMENT ON TABLE pgautomate.%I IS %L', child,
        'Actions that finished in that month (UTC). Read them through lead_stage_actions.');
    FOREACH what IN ARRAY ARRAY['pgautomate_readonly', 'pgautomate_app'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = what) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.%I TO %I', child, what);
        END IF;
    END LOOP;
    RETURN child;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
DO $$
DECLARE
    child text;
BEGIN
    FOR child IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'pgautomate.lead_stage_actions'::regclass LOOP
        EXECUTE format('CREATE INDEX ON pgautomate.%I USING brin (finished_at) WITH (autosummarize = on)', child);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.ensure_finished_actions(month date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    first date := date_trunc('month', month);
    child text := 'lead_stage_actions_' || to_char(month, 'YYYY_MM');
    what  text;
BEGIN
    IF to_regclass('pgautomate.' || child) IS NOT NULL THEN
        RETURN child;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('pgautomate.ensure_finished_actions'));
    IF to_regclass('pgautomate.' || child) IS NOT NULL THEN
        RETURN child;
    END IF;
    EXECUTE format($sql$
        CREATE TABLE pgautomate.%1$I (
            PRIMARY KEY (id),
            CONSTRAINT is_finished CHECK (status IN ('completed', 'failed', 'canceled', 'merged', 'skipped')),
            CONSTRAINT of_month CHECK (finished_at >= %2$L::timestamptz AND finished_at < %3$L::timestamptz)
        ) INHERITS (pgautomate.lead_stage_actions) $sql$,
        child, first::timestamp AT TIME ZONE 'UTC', (first + interval '1 month')::timestamp AT TIME ZONE 'UTC');
    EXECUTE format('CREATE INDEX ON pgautomate.%I (organization_id, lead_id, id)', child);
    EXECUTE format('CREATE INDEX ON pgautomate.%I (lead_stage_id, sequence_number) WHERE lead_stage_id IS NOT NULL', child);
    EXECUTE format('CREATE INDEX ON pgautomate.%I (firing_id) WHERE firing_id IS NOT NULL', child);
    EXECUTE format('CREATE TRIGGER lead_stage_actions_before_update BEFORE UPDATE OF status, perform_at ON pgautomate.%I FOR EACH ROW
        WHEN (NOT pgautomate.is_engine()) EXECUTE FUNCTION pgautomate.finished_actions_before_update()', child);
    EXECUTE format('COMMENT ON TABLE pgautomate.%I IS %L', child,
        'Actions that finished in that month (UTC). Read them through lead_stage_actions.');
    FOREACH what IN ARRAY ARRAY['pgautomate_readonly', 'pgautomate_app'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = what) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.%I TO %I', child, what);
        END IF;
    END LOOP;
    RETURN child;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
DO $$
DECLARE
    child text;
BEGIN
    FOR child IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'pgautomate.lead_stage_actions'::regclass LOOP
        EXECUTE format('DROP INDEX pgautomate.%I', child || '_finished_at_idx');
    END LOOP;
END $$;
-- +goose StatementEnd
