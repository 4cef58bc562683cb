-- A job's time is a moment, as an action's is (00017). Locks: ACCESS EXCLUSIVE on
-- notification_jobs while it is read once.

-- +goose Up
-- +goose StatementBegin
DO $$
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    UPDATE pgautomate.notification_jobs SET perform_at = CASE WHEN perform_at > now() THEN '9999-12-31' ELSE now() END
     WHERE NOT isfinite(perform_at);
    PERFORM set_config('pgautomate.engine', '', true);
END $$;
-- +goose StatementEnd
ALTER TABLE pgautomate.notification_jobs ADD CONSTRAINT perform_at_is_a_moment CHECK (isfinite(perform_at));

-- +goose Down
ALTER TABLE pgautomate.notification_jobs DROP CONSTRAINT perform_at_is_a_moment;
