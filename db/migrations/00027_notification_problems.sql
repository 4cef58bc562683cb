-- What of notifications needs a person stands in the view problems, too.

-- +goose Up
CREATE VIEW pgautomate.notification_problems AS
SELECT 'warning'::text AS severity, format('notification jobs of organization %s, type %s', j.organization_id, j.action_type) AS subject,
       format('%s failed in the last hour, the last with: %s', count(*), (array_agg(j.error ORDER BY j.finished_at DESC))[1]) AS problem,
       'mend the cause, then trigger the workflow again for those who missed it: SELECT subscriber_id FROM pgautomate.notification_jobs WHERE status = ''failed'''::text AS fix,
       min(j.finished_at) AS since
  FROM pgautomate.notification_jobs j
 WHERE j.finished_at > now() - interval '1 hour' AND j.status = 'failed'
 GROUP BY j.organization_id, j.action_type
UNION ALL
SELECT 'warning', format('event %s of organization %s', e.transaction_id, e.organization_id),
       format('it is still being shared out among its recipients: %s have their notifications', e.fanned_out),
       'look whether workers run (`pgautomate run`), and into their log', e.created_at
  FROM pgautomate.notification_events e
 WHERE e.status = 'pending' AND e.created_at < now() - interval '10 minutes'
UNION ALL
SELECT 'warning', format('trigger_event() of organization %s', r.organization_id),
       format('%s requests were refused in the last hour, the last (workflow %s) with: %s', count(*), (array_agg(r.workflow ORDER BY r.finished_at DESC))[1],
              (array_agg(coalesce(r.error, r.answer) ORDER BY r.finished_at DESC))[1]),
       'mend the call or the workflow, then call it again: SELECT * FROM pgautomate.notification_requests', min(r.finished_at)
  FROM pgautomate.notification_requests r
 WHERE r.finished_at > now() - interval '1 hour' AND (r.error IS NOT NULL OR r.answer IN ('error', 'no_tenant_found', 'invalid_recipients'))
 GROUP BY r.organization_id
UNION ALL
SELECT 'warning', format('event %s of organization %s', e.transaction_id, e.organization_id), e.error,
       'make the topic, then trigger the workflow for it again', e.created_at
  FROM pgautomate.notification_events e
 WHERE e.error IS NOT NULL AND e.finished_at > now() - interval '1 hour';
COMMENT ON VIEW pgautomate.notification_problems IS 'The part of problems that is about notifications.';
COMMENT ON COLUMN pgautomate.notification_problems.severity IS 'error or warning.';
COMMENT ON COLUMN pgautomate.notification_problems.subject IS 'What it is about.';
COMMENT ON COLUMN pgautomate.notification_problems.problem IS 'What is wrong.';
COMMENT ON COLUMN pgautomate.notification_problems.fix IS 'What to do.';
COMMENT ON COLUMN pgautomate.notification_problems.since IS 'Since when.';
CREATE INDEX notification_events_error_idx ON pgautomate.notification_events (finished_at) WHERE error IS NOT NULL;

-- +goose StatementBegin
DO $$
DECLARE
    who text;
BEGIN
    EXECUTE format('CREATE OR REPLACE VIEW pgautomate.problems AS %s UNION ALL SELECT severity, subject, problem, fix, since FROM pgautomate.notification_problems',
        rtrim(pg_get_viewdef('pgautomate.problems'::regclass), '; '));
    FOREACH who IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = who) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.notification_problems TO %I', who);
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE 'CREATE OR REPLACE VIEW pgautomate.problems AS '
        || regexp_replace(pg_get_viewdef('pgautomate.problems'::regclass), '\s+UNION ALL(?!.*UNION ALL).*$', '');
END $$;
-- +goose StatementEnd
DROP INDEX pgautomate.notification_events_error_idx;
DROP VIEW pgautomate.notification_problems;
