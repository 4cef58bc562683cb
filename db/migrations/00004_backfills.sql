-- Backfills: a trigger fired for what matches now; and two functions of queries
-- that run as SQL. Locks: everything here is new.

-- +goose Up
CREATE TABLE pgautomate.trigger_backfills (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trigger_id      bigint NOT NULL,
    trigger_version integer NOT NULL,
    organization_id text NOT NULL,
    status          pgautomate.job_status NOT NULL DEFAULT 'pending'
                    CHECK (status IN ('pending', 'running', 'completed', 'canceled', 'failed')),
    max_objects     bigint CHECK (max_objects > 0),
    per_minute      integer CHECK (per_minute > 0),
    found           bigint,
    fired           bigint NOT NULL DEFAULT 0,
    skipped         bigint NOT NULL DEFAULT 0,
    position        bigint NOT NULL DEFAULT 0,
    next_at         timestamptz NOT NULL DEFAULT now(),
    knocked_at      timestamptz NOT NULL DEFAULT now(),
    error           text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    finished_at     timestamptz
);
-- One at a time for each trigger: two would fire it twice for the same objects.
CREATE UNIQUE INDEX trigger_backfills_running_idx ON pgautomate.trigger_backfills (trigger_id) WHERE status IN ('pending', 'running');
CREATE INDEX trigger_backfills_trigger_idx ON pgautomate.trigger_backfills (trigger_id, id);
COMMENT ON TABLE pgautomate.trigger_backfills IS
    'Triggers fired for the objects that match at one moment. To stop one: UPDATE … SET status = ''canceled''.';
COMMENT ON COLUMN pgautomate.trigger_backfills.id IS 'Firings name it as their cause: {"backfill": id}.';
COMMENT ON COLUMN pgautomate.trigger_backfills.trigger_id IS 'The trigger.';
COMMENT ON COLUMN pgautomate.trigger_backfills.trigger_version IS 'Its version when the backfill was asked for; when the trigger changes, the backfill ends.';
COMMENT ON COLUMN pgautomate.trigger_backfills.organization_id IS 'The trigger''s organization.';
COMMENT ON COLUMN pgautomate.trigger_backfills.status IS 'pending until the matching objects are listed; running; completed; canceled; failed: error says why.';
COMMENT ON COLUMN pgautomate.trigger_backfills.max_objects IS 'The limit asked for: at most so many objects, by their ids. NULL: all.';
COMMENT ON COLUMN pgautomate.trigger_backfills.per_minute IS 'At most so many firings in any minute. NULL: no limit.';
COMMENT ON COLUMN pgautomate.trigger_backfills.found IS 'How many objects matched when they were listed. NULL: not listed yet.';
COMMENT ON COLUMN pgautomate.trigger_backfills.fired IS 'Firings written so far.';
COMMENT ON COLUMN pgautomate.trigger_backfills.skipped IS 'Objects that were listed, but no longer matched when their turn came.';
COMMENT ON COLUMN pgautomate.trigger_backfills.position IS 'How far down the list it is; moves in the transaction that writes the firings.';
COMMENT ON COLUMN pgautomate.trigger_backfills.next_at IS 'When it goes on.';
COMMENT ON COLUMN pgautomate.trigger_backfills.knocked_at IS 'When a job was last queued for it.';
COMMENT ON COLUMN pgautomate.trigger_backfills.error IS 'Why it waits, failed, or was canceled by the engine.';
COMMENT ON COLUMN pgautomate.trigger_backfills.created_at IS 'When it was asked for.';
COMMENT ON COLUMN pgautomate.trigger_backfills.started_at IS 'When the matching objects were listed.';
COMMENT ON COLUMN pgautomate.trigger_backfills.finished_at IS 'When it completed, failed or was canceled.';

CREATE TABLE pgautomate.trigger_backfill_objects (
    backfill_id bigint NOT NULL REFERENCES pgautomate.trigger_backfills ON DELETE CASCADE,
    position    bigint NOT NULL,
    object_id   text NOT NULL,
    PRIMARY KEY (backfill_id, position)
);
COMMENT ON TABLE pgautomate.trigger_backfill_objects IS
    'What backfills have still to do: the objects that matched at one moment, so that one that comes to match later fires once, through the feed.';
COMMENT ON COLUMN pgautomate.trigger_backfill_objects.backfill_id IS 'The backfill.';
COMMENT ON COLUMN pgautomate.trigger_backfill_objects.position IS 'The place in its list, which is by the objects'' ids.';
COMMENT ON COLUMN pgautomate.trigger_backfill_objects.object_id IS 'The object.';

-- +goose StatementBegin
CREATE FUNCTION pgautomate.trigger_backfills_before_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- What ended stays as it ended, also when somebody cancels it by plain SQL.
    IF OLD.status IN ('completed', 'canceled', 'failed') THEN
        NEW.status := OLD.status;
        NEW.finished_at := OLD.finished_at;
    ELSIF NEW.status IN ('completed', 'canceled', 'failed') THEN
        NEW.finished_at := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER trigger_backfills_before_update BEFORE UPDATE ON pgautomate.trigger_backfills
    FOR EACH ROW EXECUTE FUNCTION pgautomate.trigger_backfills_before_update();

-- Backfills make partitions, too. Who waited for the lock may still be told that there
-- is none: a session hears of others' tables when it locks one.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.ensure_firing_partition(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    part text := format('trigger_firings_%s', to_char(day, 'YYYYMMDD'));
BEGIN
    IF to_regclass('pgautomate.' || part) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('pgautomate.ensure_firing_partition'));
    EXECUTE format('CREATE TABLE pgautomate.%I (LIKE pgautomate.trigger_firings INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
    EXECUTE format('ALTER TABLE pgautomate.trigger_firings ATTACH PARTITION pgautomate.%I FOR VALUES FROM (%L) TO (%L)',
        part, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
EXCEPTION WHEN duplicate_table THEN
    NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION pgautomate.json_value(value json) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE AS $$
BEGIN
    RETURN value::jsonb;
EXCEPTION WHEN OTHERS THEN
    RETURN '{}'::jsonb;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION pgautomate.json_value(json) IS
    'jsonb of json; an empty object where jsonb can''t hold it (U+0000 in a string, a number too large). Never fails.';

-- Mirrors parseMoment in trigger/value.go.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.json_moment_between(value text, from_day bigint, from_micros bigint, before_day bigint, before_micros bigint)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    m      text[];
    y      bigint;
    mon    bigint;
    d      bigint;
    era    bigint;
    micros numeric; -- an offset may lead beyond what a bigint holds
BEGIN
    IF value COLLATE "C" = 'infinity' THEN
        RETURN before_micros IS NULL;
    ELSIF value COLLATE "C" = '-infinity' THEN
        RETURN from_micros IS NULL;
    END IF;
    m := regexp_match(value COLLATE "C", '^([0-9]{4,7})-([0-9]{2})-([0-9]{2})(?:[ Tt]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?'
        '(?:[Zz]|([+-])([0-9]{2})(?::?([0-9]{2})(?::?([0-9]{2}))?)?)?)?( BC)?$');
    IF m IS NULL THEN
        RETURN false;
    END IF;
    y := m[1]::bigint;
    mon := m[2]::bigint;
    d := m[3]::bigint;
    IF m[12] IS NOT NULL THEN
        y := 1 - y;
    END IF;
    IF mon < 1 OR mon > 12 OR d < 1 OR d > (CASE
        WHEN mon IN (4, 6, 9, 11) THEN 30
        WHEN mon <> 2 THEN 31
        WHEN y % 4 = 0 AND (y % 100 <> 0 OR y % 400 = 0) THEN 29
        ELSE 28 END) THEN
        RETURN false;
    END IF;
    -- Days since 2000-01-01, as in daysFromCivil.
    IF mon <= 2 THEN
        y := y - 1;
    END IF;
    era := CASE WHEN y >= 0 THEN y ELSE y - 399 END / 400;
    y := y - era * 400;
    d := era * 146097 + y * 365 + y / 4 - y / 100 + (153 * ((mon + 9) % 12) + 2) / 5 + d - 1 - 719468 - 10957;
    IF m[4] IS NULL THEN
        RETURN (from_day IS NULL OR d >= from_day) AND (before_day IS NULL OR d < before_day);
    END IF;

    IF m[4]::bigint > 24 OR m[5]::bigint > 59 OR m[6]::bigint > 60 OR m[10]::bigint > 59 OR m[11]::bigint > 59 THEN
        RETURN false;
    END IF;
    micros := ((m[4]::bigint * 60 + m[5]::bigint) * 60 + coalesce(m[6]::bigint, 0)) * 1000000
        + rpad(left(coalesce(m[7], ''), 6), 6, '0')::integer;
    IF micros > 86400000000 THEN
        RETURN false;
    END IF;
    IF d > 106751989 THEN -- beyond what a timestamp holds: infinity
        RETURN before_micros IS NULL;
    ELSIF d < -106751989 THEN
        RETURN from_micros IS NULL;
    END IF;
    micros := d::numeric * 86400000000 + micros - CASE WHEN m[8] = '-' THEN -1000000 ELSE 1000000 END
        * ((coalesce(m[9]::bigint, 0) * 60 + coalesce(m[10]::bigint, 0)) * 60 + coalesce(m[11]::bigint, 0));
    RETURN (from_micros IS NULL OR micros >= from_micros) AND (before_micros IS NULL OR micros < before_micros);
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION pgautomate.json_moment_between(text, bigint, bigint, bigint, bigint) IS
    'Whether a text is a date or date-time in a range: a date by days, a date-time by microseconds, both since 2000-01-01 UTC. NULL bounds are none. Never fails.';

-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_readonly') THEN
        GRANT SELECT ON pgautomate.trigger_backfills, pgautomate.trigger_backfill_objects TO pgautomate_readonly;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_app') THEN
        GRANT SELECT ON pgautomate.trigger_backfills, pgautomate.trigger_backfill_objects TO pgautomate_app;
        GRANT UPDATE (status) ON pgautomate.trigger_backfills TO pgautomate_app;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION pgautomate.json_moment_between(text, bigint, bigint, bigint, bigint);
DROP FUNCTION pgautomate.json_value(json);
DROP TABLE pgautomate.trigger_backfill_objects;
DROP TABLE pgautomate.trigger_backfills;
DROP FUNCTION pgautomate.trigger_backfills_before_update();
