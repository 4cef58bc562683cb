-- An action's time is a moment: with an infinite one it would never start, and
-- whoever reads times as such would stumble over it. Locks: ACCESS EXCLUSIVE on
-- lead_stage_actions while it is read once.

-- +goose Up
-- +goose StatementBegin
DO $$
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    UPDATE pgautomate.lead_stage_actions SET perform_at = CASE WHEN perform_at > now() THEN '9999-12-31' ELSE now() END
     WHERE NOT isfinite(perform_at);
    PERFORM set_config('pgautomate.engine', '', true);
END $$;
-- +goose StatementEnd
ALTER TABLE pgautomate.lead_stage_actions ADD CONSTRAINT perform_at_is_a_moment CHECK (isfinite(perform_at));

-- +goose Down
ALTER TABLE pgautomate.lead_stage_actions DROP CONSTRAINT perform_at_is_a_moment;
