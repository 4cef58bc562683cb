-- Topics of triggers that weren't there, each an entry of the activity feed.

-- +goose Up
CREATE TABLE pgautomate.notification_failures (
    id              bigint PRIMARY KEY DEFAULT nextval('pgautomate.notifications_id_seq'),
    organization_id text NOT NULL,
    event_id        bigint NOT NULL REFERENCES pgautomate.notification_events ON DELETE CASCADE,
    workflow_id     bigint NOT NULL,
    transaction_id  text NOT NULL,
    topic_key       text NOT NULL,
    detail          text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX notification_failures_list_idx ON pgautomate.notification_failures (organization_id, id);
CREATE INDEX notification_failures_event_idx ON pgautomate.notification_failures (event_id);
COMMENT ON TABLE pgautomate.notification_failures IS 'What of an event could not be shared out: a topic that wasn''t there. Goes with its event.';
COMMENT ON COLUMN pgautomate.notification_failures.id IS 'Counts on with notifications.id, so that the activity feed has one order.';
COMMENT ON COLUMN pgautomate.notification_failures.organization_id IS 'Whose event it was.';
COMMENT ON COLUMN pgautomate.notification_failures.event_id IS 'notification_events.id.';
COMMENT ON COLUMN pgautomate.notification_failures.workflow_id IS 'workflows.id.';
COMMENT ON COLUMN pgautomate.notification_failures.transaction_id IS 'The event''s.';
COMMENT ON COLUMN pgautomate.notification_failures.topic_key IS 'The topic, as the trigger named it.';
COMMENT ON COLUMN pgautomate.notification_failures.detail IS 'What was wrong.';
COMMENT ON COLUMN pgautomate.notification_failures.created_at IS 'When that was found.';

-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.notification_failures TO %I', role);
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE pgautomate.notification_failures;
