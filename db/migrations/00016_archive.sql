-- Finished actions leave the table of what is to be done. They go to tables that
-- inherit from it, one a month, so that lead_stage_actions still shows them all;
-- their CHECK keeps them out of every plan that asks for what is not finished.
-- Locks: none that last.

-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION pgautomate.ensure_finished_actions(month date) RETURNS text
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
CREATE FUNCTION pgautomate.finished_actions_before_update() RETURNS trigger
LANGUAGE plpgsql SET search_path = pgautomate, pg_temp AS $$
BEGIN
    IF (NEW.status, NEW.perform_at) IS NOT DISTINCT FROM (OLD.status, OLD.perform_at) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'action % is %: only a pending, queued or delayed action can be changed; add AND status IN (''pending'', ''queued'', ''delayed'')',
        OLD.id, OLD.status USING ERRCODE = 'check_violation';
END $$;
-- +goose StatementEnd

-- Moves up to so many actions of one month that finished long enough ago, the
-- oldest first, and says how many.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.archive_actions(older_than interval, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    oldest timestamptz;
    ends   timestamptz;
    child  text;
    moved  integer;
BEGIN
    SELECT finished_at INTO oldest FROM ONLY lead_stage_actions
     WHERE finished_at IS NOT NULL AND status IN ('completed', 'failed', 'canceled', 'merged', 'skipped')
     ORDER BY finished_at LIMIT 1;
    IF oldest IS NULL OR oldest >= now() - older_than THEN
        RETURN 0;
    END IF;
    child := ensure_finished_actions((oldest AT TIME ZONE 'UTC')::date);
    ends := (date_trunc('month', oldest AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC';
    EXECUTE format($sql$
        WITH old AS MATERIALIZED (
            SELECT a.ctid FROM ONLY pgautomate.lead_stage_actions a
             WHERE a.finished_at < least(now() - $1, $2) AND a.status IN ('completed', 'failed', 'canceled', 'merged', 'skipped')
             ORDER BY a.finished_at LIMIT $3 FOR UPDATE SKIP LOCKED
        ), gone AS (
            DELETE FROM ONLY pgautomate.lead_stage_actions a WHERE a.ctid = ANY (ARRAY(SELECT ctid FROM old)) RETURNING a.*
        )
        INSERT INTO pgautomate.%I SELECT * FROM gone $sql$, child) USING older_than, ends, most;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION pgautomate.archive_actions(interval, integer) IS 'Moves finished actions out of the way of those to be done; lead_stage_actions still shows them.';

-- Brings an action that is to be retried back, with those of its stage.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.bring_back_actions(action bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    stage bigint;
BEGIN
    SELECT a.lead_stage_id INTO stage FROM lead_stage_actions a
     WHERE a.id = action AND a.tableoid <> 'pgautomate.lead_stage_actions'::regclass;
    IF NOT FOUND THEN
        -- Others of its stage may have gone already.
        SELECT a.lead_stage_id INTO stage FROM ONLY lead_stage_actions a WHERE a.id = action;
    END IF;
    WITH back AS (
        DELETE FROM lead_stage_actions a
         WHERE a.tableoid <> 'pgautomate.lead_stage_actions'::regclass AND (a.id = action OR a.lead_stage_id = stage)
        RETURNING a.*
    )
    INSERT INTO lead_stage_actions OVERRIDING SYSTEM VALUE SELECT * FROM back;
END $$;
-- +goose StatementEnd

-- Drops the months that lie wholly before a moment, and says how many.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.drop_finished_actions(before timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    child   record;
    dropped integer := 0;
BEGIN
    FOR child IN
        SELECT c.relname, to_date(right(c.relname, 7), 'YYYY_MM') AS first
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'pgautomate.lead_stage_actions'::regclass AND c.relname ~ '^lead_stage_actions_\d{4}_\d\d$'
    LOOP
        IF (child.first + interval '1 month') AT TIME ZONE 'UTC' <= before THEN
            EXECUTE format('DROP TABLE pgautomate.%I', child.relname);
            dropped := dropped + 1;
        END IF;
    END LOOP;
    RETURN dropped;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DO $$
DECLARE
    child text;
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    FOR child IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'pgautomate.lead_stage_actions'::regclass LOOP
        EXECUTE format('INSERT INTO pgautomate.lead_stage_actions OVERRIDING SYSTEM VALUE SELECT * FROM pgautomate.%I', child);
        EXECUTE format('DROP TABLE pgautomate.%I', child);
    END LOOP;
END $$;
-- +goose StatementEnd
DROP FUNCTION pgautomate.drop_finished_actions(timestamptz);
DROP FUNCTION pgautomate.bring_back_actions(bigint);
DROP FUNCTION pgautomate.archive_actions(interval, integer);
DROP FUNCTION pgautomate.ensure_finished_actions(date);
DROP FUNCTION pgautomate.finished_actions_before_update();
