-- Triggers that begin to match by the passing of time. Locks: ACCESS EXCLUSIVE on
-- live_triggers, for a moment.

-- +goose Up
CREATE TABLE pgautomate.trigger_timers (
    trigger_id bigint      NOT NULL,
    object_id  text        NOT NULL,
    due_at     timestamptz NOT NULL,
    PRIMARY KEY (trigger_id, object_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
CREATE INDEX trigger_timers_due_idx ON pgautomate.trigger_timers (due_at, trigger_id, object_id);
COMMENT ON TABLE pgautomate.trigger_timers IS
    'When a trigger with moments relative to now is to be asked of an object again: the next moment at which the clock can change the verdict. Written with the feed''s checkpoint, and as of it.';
COMMENT ON COLUMN pgautomate.trigger_timers.due_at IS 'By the clock of the commits, which is that of the watched database''s server.';

CREATE TABLE pgautomate.trigger_clock (
    only_row boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    at       timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE pgautomate.trigger_clock IS 'How far timers have been fired: the time of the latest commit, as of the feed''s checkpoint.';

ALTER TABLE pgautomate.live_triggers ADD COLUMN timers_version integer;
COMMENT ON COLUMN pgautomate.live_triggers.timers_version IS 'The version for which the timers of all objects are set; NULL: of none, or it has none.';

-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_readonly') THEN
        GRANT SELECT ON pgautomate.trigger_timers, pgautomate.trigger_clock TO pgautomate_readonly;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_app') THEN
        GRANT SELECT ON pgautomate.trigger_timers, pgautomate.trigger_clock TO pgautomate_app;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
ALTER TABLE pgautomate.live_triggers DROP COLUMN timers_version;
DROP TABLE pgautomate.trigger_clock;
DROP TABLE pgautomate.trigger_timers;
