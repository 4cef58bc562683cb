-- Steps of type throttle, which let only so many notifications of a workflow through
-- to a subscriber, and custom, which give what their templates say to the steps after
-- them. Where a delay, digest or throttle fails, what follows is canceled.

-- +goose Up
ALTER TABLE pgautomate.workflow_steps DROP CONSTRAINT workflow_steps_type_check;
ALTER TABLE pgautomate.workflow_steps ADD CONSTRAINT workflow_steps_type_check
    CHECK (type IN ('in_app', 'email', 'sms', 'push', 'chat', 'webhook', 'digest', 'delay', 'throttle', 'custom'));
COMMENT ON COLUMN pgautomate.workflow_steps.type IS 'The channel, or digest, delay, throttle or custom.';
COMMENT ON COLUMN pgautomate.workflow_steps.settings IS 'Of a digest, delay or throttle: how long, by which key.';
COMMENT ON COLUMN pgautomate.notification_jobs.digest_group IS 'digest_groups.id, of a digest or throttle that was reached.';

-- Gives recipients their notifications of an event, with a job for each step; who
-- has one already gets no second. How many were made.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.make_notifications(event bigint, nos bigint[], ids text[], topic text) RETURNS integer
LANGUAGE plpgsql SET search_path = pgautomate, pg_temp AS $$
DECLARE
    e    notification_events;
    kind text[];
    made integer;
BEGIN
    SELECT * INTO STRICT e FROM notification_events x WHERE x.id = event;
    SELECT array_agg(t.type ORDER BY t.first) INTO kind
      FROM (SELECT s.type, min(s.position) AS first FROM workflow_steps s WHERE s.id = ANY (e.step_ids) GROUP BY s.type) t;
    WITH n AS (
        INSERT INTO notifications (organization_id, event_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channels, topic_key)
        SELECT e.organization_id, e.id, e.workflow_id, u.id, u.no, e.transaction_id, kind, topic
          FROM unnest(nos, ids) WITH ORDINALITY u (no, id, place) ORDER BY u.place
        ON CONFLICT (event_id, subscriber_no) DO NOTHING
        RETURNING notifications.id, notifications.subscriber_id
    ), j AS (
        INSERT INTO notification_jobs (organization_id, lead_id, object_type, notification_id, subscriber_id, transaction_id, sequence_number,
                                       action_type, step_no, step_id, stop_on_fail, status, perform_at, started_at, finished_at, cause)
        SELECT e.organization_id, n.subscriber_id, 'subscriber', n.id, n.subscriber_id, e.transaction_id, s.place,
               s.type, s.id, s.step_id, s.stop_on_fail, s.status::job_status,
               CASE WHEN s.place <= 1 THEN clock_timestamp() END, CASE WHEN s.place = 0 THEN clock_timestamp() END,
               CASE WHEN s.place = 0 THEN clock_timestamp() END, e.cause
          FROM n CROSS JOIN (
               SELECT 0 AS place, NULL::bigint AS id, '' AS step_id, 'trigger' AS type, false AS stop_on_fail, 'completed' AS status
                UNION ALL
               SELECT (row_number() OVER (ORDER BY w.position))::integer, w.id, w.step_id, w.type, w.stop_on_fail OR w.type IN ('delay', 'digest', 'throttle'), 'pending'
                 FROM workflow_steps w WHERE w.id = ANY (e.step_ids)) s
         ORDER BY n.id, s.place
    )
    SELECT count(*)::integer INTO made FROM n;
    RETURN made;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pgautomate.workflow_steps WHERE type IN ('throttle', 'custom')) THEN
        RAISE EXCEPTION 'there are workflows with steps of type throttle or custom: delete their rows of pgautomate.workflow_steps first';
    END IF;
END $$;
-- +goose StatementEnd
ALTER TABLE pgautomate.workflow_steps DROP CONSTRAINT workflow_steps_type_check;
ALTER TABLE pgautomate.workflow_steps ADD CONSTRAINT workflow_steps_type_check
    CHECK (type IN ('in_app', 'email', 'sms', 'push', 'chat', 'webhook', 'digest', 'delay'));
-- Gives recipients their notifications of an event, with a job for each step; who
-- has one already gets no second. How many were made.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.make_notifications(event bigint, nos bigint[], ids text[], topic text) RETURNS integer
LANGUAGE plpgsql SET search_path = pgautomate, pg_temp AS $$
DECLARE
    e    notification_events;
    kind text[];
    made integer;
BEGIN
    SELECT * INTO STRICT e FROM notification_events x WHERE x.id = event;
    SELECT array_agg(t.type ORDER BY t.first) INTO kind
      FROM (SELECT s.type, min(s.position) AS first FROM workflow_steps s WHERE s.id = ANY (e.step_ids) GROUP BY s.type) t;
    WITH n AS (
        INSERT INTO notifications (organization_id, event_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channels, topic_key)
        SELECT e.organization_id, e.id, e.workflow_id, u.id, u.no, e.transaction_id, kind, topic
          FROM unnest(nos, ids) WITH ORDINALITY u (no, id, place) ORDER BY u.place
        ON CONFLICT (event_id, subscriber_no) DO NOTHING
        RETURNING notifications.id, notifications.subscriber_id
    ), j AS (
        INSERT INTO notification_jobs (organization_id, lead_id, object_type, notification_id, subscriber_id, transaction_id, sequence_number,
                                       action_type, step_no, step_id, stop_on_fail, status, perform_at, started_at, finished_at, cause)
        SELECT e.organization_id, n.subscriber_id, 'subscriber', n.id, n.subscriber_id, e.transaction_id, s.place,
               s.type, s.id, s.step_id, s.stop_on_fail, s.status::job_status,
               CASE WHEN s.place <= 1 THEN clock_timestamp() END, CASE WHEN s.place = 0 THEN clock_timestamp() END,
               CASE WHEN s.place = 0 THEN clock_timestamp() END, e.cause
          FROM n CROSS JOIN (
               SELECT 0 AS place, NULL::bigint AS id, '' AS step_id, 'trigger' AS type, false AS stop_on_fail, 'completed' AS status
                UNION ALL
               SELECT (row_number() OVER (ORDER BY w.position))::integer, w.id, w.step_id, w.type, w.stop_on_fail OR w.type = 'delay', 'pending'
                 FROM workflow_steps w WHERE w.id = ANY (e.step_ids)) s
         ORDER BY n.id, s.place
    )
    SELECT count(*)::integer INTO made FROM n;
    RETURN made;
END $$;
-- +goose StatementEnd
