-- What the feed and the triggers keep. All of it lives in the schema
-- pgautomate; nothing outside that schema is touched by a migration.
-- Locks: everything here is new, so nothing that exists is locked or rewritten.

-- +goose Up
CREATE SCHEMA IF NOT EXISTS pgautomate;

CREATE TYPE pgautomate.job_status AS ENUM (
    'pending', 'queued', 'running', 'completed', 'failed', 'delayed', 'canceled', 'merged', 'skipped');

CREATE TABLE pgautomate.organizations (
    id        text PRIMARY KEY,
    name      text NOT NULL DEFAULT '',
    time_zone text NOT NULL DEFAULT 'UTC'
);
COMMENT ON TABLE pgautomate.organizations IS 'Optional: an organization without a row here has the time zone UTC.';

CREATE TABLE pgautomate.object_types (
    name                text PRIMARY KEY,
    table_name          text NOT NULL UNIQUE,
    id_column           text NOT NULL,
    organization_column text,
    custom_column       text,
    identity_before     "char" NOT NULL DEFAULT 'd',
    created_at          timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pgautomate.object_types IS 'Watched tables; written by `pgautomate watch` and `unwatch`.';
COMMENT ON COLUMN pgautomate.object_types.table_name IS 'schema.table, quoted as SQL needs it.';
COMMENT ON COLUMN pgautomate.object_types.organization_column IS 'NULL: every row belongs to the organization "default".';
COMMENT ON COLUMN pgautomate.object_types.identity_before IS 'The table''s replica identity before it was watched; unwatch gives it back.';
COMMENT ON COLUMN pgautomate.object_types.custom_column IS 'The jsonb column that holds custom fields, if there is one.';

CREATE TABLE pgautomate.object_relations (
    this_object_type    text NOT NULL REFERENCES pgautomate.object_types ON DELETE CASCADE,
    this_column         text NOT NULL,
    related_object_type text NOT NULL REFERENCES pgautomate.object_types ON DELETE CASCADE,
    related_column      text NOT NULL,
    foreign_key         text NOT NULL,
    PRIMARY KEY (this_object_type, related_object_type, this_column, related_column)
);
COMMENT ON TABLE pgautomate.object_relations IS 'Relations between watched tables, both ways, read from their foreign keys by `pgautomate watch`.';

CREATE TABLE pgautomate.triggers (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    name            text NOT NULL,
    object_type     text NOT NULL,
    query           jsonb NOT NULL,
    action_type     text NOT NULL,
    action_params   jsonb NOT NULL DEFAULT '{}',
    status          text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'invalid', 'degraded')),
    error           text,
    version         integer NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX triggers_troubled_idx ON pgautomate.triggers (status, object_type) WHERE status IN ('invalid', 'degraded');
CREATE INDEX triggers_organization_idx ON pgautomate.triggers (organization_id, id);
-- The definitions travel through the feed, so that a trigger sees exactly the commits after its own.
ALTER TABLE pgautomate.triggers REPLICA IDENTITY FULL;
COMMENT ON COLUMN pgautomate.triggers.status IS
    'active; paused by a person; invalid: error says why and it does not match; degraded: the table''s replica identity hides the old row, so that only inserts fire.';
COMMENT ON COLUMN pgautomate.triggers.version IS 'Counts definitions: set by the database when what the trigger says changes.';

-- +goose StatementBegin
CREATE FUNCTION pgautomate.triggers_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    IF TG_OP = 'INSERT' THEN
        NEW.version := 1;
        IF NEW.status IN ('invalid', 'degraded') THEN
            NEW.status := 'active';
        END IF;
        NEW.error := NULL;
        RETURN NEW;
    END IF;
    IF (NEW.organization_id, NEW.name, NEW.object_type, NEW.query, NEW.action_type, NEW.action_params)
        IS DISTINCT FROM
       (OLD.organization_id, OLD.name, OLD.object_type, OLD.query, OLD.action_type, OLD.action_params) THEN
        NEW.version := OLD.version + 1;
        NEW.error := NULL;
        -- A mended definition is tried again.
        IF NEW.status IN ('invalid', 'degraded') THEN
            NEW.status := 'active';
        END IF;
    ELSE
        NEW.version := OLD.version;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER triggers_before_write BEFORE INSERT OR UPDATE ON pgautomate.triggers
    FOR EACH ROW EXECUTE FUNCTION pgautomate.triggers_before_write();

-- What the matcher holds, as of its checkpoint: advanced in the same
-- transaction, so that after a restart a trigger still sees exactly the commits
-- after its own.
CREATE TABLE pgautomate.trigger_versions (
    trigger_id      bigint NOT NULL,
    version         integer NOT NULL,
    organization_id text NOT NULL,
    name            text NOT NULL,
    object_type     text NOT NULL,
    query           jsonb NOT NULL,
    action_type     text NOT NULL,
    action_params   jsonb NOT NULL,
    valid_from      pg_lsn NOT NULL,
    PRIMARY KEY (trigger_id, version)
);
COMMENT ON TABLE pgautomate.trigger_versions IS 'Every definition that was ever live, as the matcher took it over; a firing names its trigger and version.';
CREATE TABLE pgautomate.live_triggers (
    trigger_id bigint PRIMARY KEY,
    version    integer NOT NULL
);
COMMENT ON TABLE pgautomate.live_triggers IS 'The triggers that match, as of the feed''s checkpoint.';

CREATE TABLE pgautomate.feed_checkpoints (
    slot_name         text PRIMARY KEY,
    system_identifier text NOT NULL,
    timeline          integer NOT NULL,
    consistent_point  pg_lsn,
    position          pg_lsn,
    generation        bigint NOT NULL DEFAULT 0,
    updated_at        timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON COLUMN pgautomate.feed_checkpoints.position IS 'End of the last commit whose effects are in this database; written in the same transaction as they are.';

CREATE TABLE pgautomate.feed_gaps (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slot_name   text NOT NULL,
    from_lsn    pg_lsn,
    to_lsn      pg_lsn,
    from_time   timestamptz,
    to_time     timestamptz,
    reason      text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE pgautomate.feed_gaps IS 'Stretches of the log that no trigger saw, because a slot was lost and made anew.';

CREATE TABLE pgautomate.feed_notes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    commit_lsn pg_lsn,
    at         timestamptz NOT NULL DEFAULT now(),
    kind       text NOT NULL,
    count      bigint NOT NULL DEFAULT 1,
    detail     jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX feed_notes_at_idx ON pgautomate.feed_notes (at);
COMMENT ON TABLE pgautomate.feed_notes IS 'What the feed met and did not act on: suppressed, truncate_ignored, loop_suppressed, type_mismatch and their like.';

CREATE TABLE pgautomate.trigger_firings (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    trigger_id      bigint NOT NULL,
    trigger_version integer NOT NULL,
    organization_id text NOT NULL,
    object_type     text NOT NULL,
    object_id       text NOT NULL,
    action          text NOT NULL CHECK (action IN ('created', 'updated')),
    changed_fields  text[],
    data            jsonb NOT NULL,
    previous_data   jsonb,
    commit_lsn      pg_lsn NOT NULL,
    committed_at    timestamptz NOT NULL,
    fired_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    cause           jsonb,
    depth           integer NOT NULL DEFAULT 0,
    PRIMARY KEY (id, committed_at),
    -- Belt and braces: the checkpoint already makes a second firing impossible.
    -- In this order it also serves a trigger's latest firings.
    UNIQUE (trigger_id, committed_at, commit_lsn, object_id)
) PARTITION BY RANGE (committed_at);
CREATE INDEX trigger_firings_object_idx ON pgautomate.trigger_firings (object_type, object_id, committed_at);
COMMENT ON TABLE pgautomate.trigger_firings IS 'The audit: every firing with what, when and why. One partition a day (UTC), made by the engine as commits need it.';
COMMENT ON COLUMN pgautomate.trigger_firings.previous_data IS 'The whole row before the commit; NULL when the object was created.';
COMMENT ON COLUMN pgautomate.trigger_firings.depth IS 'How many automations stand between a person''s change and this one; 0 for a person''s.';

-- Detached first and attached then: ATTACH takes only SHARE UPDATE EXCLUSIVE on
-- the parent, so that firings can be written and read meanwhile.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.ensure_firing_partition(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    part text := format('trigger_firings_%s', to_char(day, 'YYYYMMDD'));
BEGIN
    IF to_regclass('pgautomate.' || part) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('pgautomate.ensure_firing_partition'));
    IF to_regclass('pgautomate.' || part) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE pgautomate.%I (LIKE pgautomate.trigger_firings INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
    EXECUTE format('ALTER TABLE pgautomate.trigger_firings ATTACH PARTITION pgautomate.%I FOR VALUES FROM (%L) TO (%L)',
        part, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION pgautomate.object_types_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Tells the feed, at exactly this place of the stream, to read the object types anew.
    PERFORM pg_logical_emit_message(true, 'pgautomate.registry', '');
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER object_types_changed AFTER INSERT OR UPDATE OR DELETE ON pgautomate.object_types
    FOR EACH STATEMENT EXECUTE FUNCTION pgautomate.object_types_changed();

-- +goose StatementBegin
CREATE FUNCTION pgautomate.suppress() RETURNS void LANGUAGE sql AS $$
    SELECT pg_logical_emit_message(true, 'pgautomate.suppress', '')
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION pgautomate.suppress() IS 'Called inside a transaction: its changes fire no trigger. One row in feed_notes says how many changes that were.';

CREATE TABLE pgautomate.api_keys (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text,
    name            text NOT NULL DEFAULT '',
    prefix          text NOT NULL,
    hash            bytea NOT NULL UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT now(),
    last_used_at    timestamptz,
    revoked_at      timestamptz
);
COMMENT ON COLUMN pgautomate.api_keys.organization_id IS 'NULL: an operator''s key, which sees every organization.';
COMMENT ON COLUMN pgautomate.api_keys.hash IS 'SHA-256 of the key; the key itself is shown once and kept nowhere.';

-- +goose Down
DROP TABLE pgautomate.api_keys;
DROP FUNCTION pgautomate.suppress();
DROP TABLE pgautomate.object_relations;
DROP TABLE pgautomate.object_types;
DROP FUNCTION pgautomate.object_types_changed();
DROP FUNCTION pgautomate.ensure_firing_partition(date);
DROP TABLE pgautomate.trigger_firings;
DROP TABLE pgautomate.feed_notes;
DROP TABLE pgautomate.feed_gaps;
DROP TABLE pgautomate.feed_checkpoints;
DROP TABLE pgautomate.live_triggers;
DROP TABLE pgautomate.trigger_versions;
DROP TABLE pgautomate.triggers;
DROP FUNCTION pgautomate.triggers_before_write();
DROP TABLE pgautomate.organizations;
DROP TYPE pgautomate.job_status;
