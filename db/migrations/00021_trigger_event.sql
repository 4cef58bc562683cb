-- Workflows triggered by plain SQL: the request is a row of the app's own
-- transaction, and a River job beside it; it is looked through like one that came
-- over HTTP, and what is wrong with it stands in the row.

-- +goose Up
CREATE TABLE pgautomate.notification_requests (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    workflow        text NOT NULL,
    recipients      jsonb NOT NULL,
    payload         jsonb NOT NULL DEFAULT '{}',
    transaction_id  text NOT NULL,
    answer          text,
    error           text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz
);
CREATE INDEX notification_requests_finished_idx ON pgautomate.notification_requests (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE pgautomate.notification_requests IS 'What trigger_event() was asked for, for 30 days.';
COMMENT ON COLUMN pgautomate.notification_requests.id IS 'Counts requests.';
COMMENT ON COLUMN pgautomate.notification_requests.organization_id IS 'Whose workflow is meant.';
COMMENT ON COLUMN pgautomate.notification_requests.workflow IS 'The workflow''s identifier.';
COMMENT ON COLUMN pgautomate.notification_requests.recipients IS 'As `to` of POST /v1/events/trigger.';
COMMENT ON COLUMN pgautomate.notification_requests.payload IS 'The payload.';
COMMENT ON COLUMN pgautomate.notification_requests.transaction_id IS 'The event''s, given or made up.';
COMMENT ON COLUMN pgautomate.notification_requests.answer IS 'As HTTP would have answered: processed, trigger_not_active, …; NULL: not yet, or an error.';
COMMENT ON COLUMN pgautomate.notification_requests.error IS 'Why it was refused.';
COMMENT ON COLUMN pgautomate.notification_requests.created_at IS 'When it was asked for.';
COMMENT ON COLUMN pgautomate.notification_requests.finished_at IS 'When it was answered.';

-- +goose StatementBegin
CREATE FUNCTION pgautomate.trigger_event(organization_id text, workflow text, recipients jsonb, payload jsonb DEFAULT '{}', transaction_id text DEFAULT NULL)
RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    tx text := coalesce(nullif(transaction_id, ''), gen_random_uuid()::text);
    no bigint;
BEGIN
    IF organization_id IS NULL OR coalesce(workflow, '') = '' THEN
        RAISE EXCEPTION 'trigger_event needs an organization and a workflow''s identifier' USING ERRCODE = 'not_null_violation';
    END IF;
    IF recipients IS NULL OR jsonb_typeof(recipients) NOT IN ('string', 'object', 'array') THEN
        RAISE EXCEPTION 'trigger_event needs recipients: a subscriberId as a JSON string, a subscriber, a topic, or an array of them' USING ERRCODE = 'check_violation';
    END IF;
    IF jsonb_typeof(coalesce(payload, '{}')) <> 'object' THEN
        RAISE EXCEPTION 'the payload of trigger_event must be a JSON object' USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO notification_requests (organization_id, workflow, recipients, payload, transaction_id)
    VALUES (trigger_event.organization_id, trigger_event.workflow, trigger_event.recipients, coalesce(trigger_event.payload, '{}'), tx)
    RETURNING notification_requests.id INTO no;
    INSERT INTO river_job (args, kind, max_attempts, queue) VALUES (jsonb_build_object('id', no), 'notification_request', 25, 'notifications');
    PERFORM pg_notify('pgautomate.river_insert', '{"queue": "notifications"}');
    RETURN tx;
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION pgautomate.trigger_event(text, text, jsonb, jsonb, text) IS
    'Triggers a workflow when this transaction commits; returns the transactionId. What is wrong with it stands in notification_requests.';
REVOKE EXECUTE ON FUNCTION pgautomate.trigger_event(text, text, jsonb, jsonb, text) FROM PUBLIC;

-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.notification_requests TO %I', role);
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_app') THEN
        GRANT EXECUTE ON FUNCTION pgautomate.trigger_event(text, text, jsonb, jsonb, text) TO pgautomate_app;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION pgautomate.trigger_event(text, text, jsonb, jsonb, text);
DROP TABLE pgautomate.notification_requests;
