-- What an app does to an action is looked at after it, not before: a row trigger before updates makes Postgres lock each
-- row once more, whoever writes, and the engine writes each three times. Locks: the table, for a moment.

-- +goose Up
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.lead_stage_actions_after_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    was text := current_setting('pgautomate.engine', true);
BEGIN
    IF NEW.status = 'canceled' AND OLD.status <> 'canceled' THEN
        IF OLD.status NOT IN ('pending', 'queued', 'delayed') THEN
            RAISE EXCEPTION 'action % is %: only a pending, queued or delayed action can be canceled; add AND status IN (''pending'', ''queued'', ''delayed'')',
                OLD.id, OLD.status USING ERRCODE = 'check_violation';
        END IF;
        PERFORM set_config('pgautomate.engine', 'on', true);
        UPDATE ONLY lead_stage_actions SET reason = coalesce(reason, 'canceled_by_app'), finished_at = clock_timestamp() WHERE id = NEW.id;
        PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
    ELSIF OLD.status = 'pending' AND NEW.status = 'pending' AND NEW.lead_stage_id IS NOT NULL
          AND OLD.perform_at IS NULL AND NEW.perform_at IS NOT NULL THEN
        RAISE EXCEPTION 'it is not the turn of action % yet: it becomes due when the action before it ends; add AND perform_at IS NOT NULL',
            OLD.id USING ERRCODE = 'check_violation';
    ELSIF OLD.status IN ('pending', 'delayed') AND NEW.status IN ('pending', 'delayed')
          AND OLD.perform_at IS NOT NULL AND NEW.perform_at IS NULL THEN
        RAISE EXCEPTION 'action % would never run without a perform_at: set a time, or cancel it with status = ''canceled''',
            OLD.id USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.status IN ('pending', 'delayed') AND NEW.perform_at IS NOT NULL THEN
        INSERT INTO due_signals (organization_id, action_type, perform_at)
        VALUES (NEW.organization_id, NEW.action_type, NEW.perform_at);
    ELSIF NEW.status = 'canceled' AND NEW.lead_stage_id IS NOT NULL THEN
        PERFORM advance_lead_stages(ARRAY[NEW.lead_stage_id]);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
DROP TRIGGER lead_stage_actions_before_update ON pgautomate.lead_stage_actions;
DROP FUNCTION pgautomate.lead_stage_actions_before_update();

-- +goose Down
-- +goose StatementBegin
CREATE FUNCTION pgautomate.lead_stage_actions_before_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
BEGIN
    IF NEW.status = 'canceled' AND OLD.status <> 'canceled' THEN
        IF OLD.status NOT IN ('pending', 'queued', 'delayed') THEN
            RAISE EXCEPTION 'action % is %: only a pending, queued or delayed action can be canceled; add AND status IN (''pending'', ''queued'', ''delayed'')',
                OLD.id, OLD.status USING ERRCODE = 'check_violation';
        END IF;
        NEW.reason := coalesce(NEW.reason, 'canceled_by_app');
        NEW.finished_at := clock_timestamp();
    ELSIF OLD.status = 'pending' AND NEW.status = 'pending' AND NEW.lead_stage_id IS NOT NULL
          AND OLD.perform_at IS NULL AND NEW.perform_at IS NOT NULL THEN
        RAISE EXCEPTION 'it is not the turn of action % yet: it becomes due when the action before it ends; add AND perform_at IS NOT NULL',
            OLD.id USING ERRCODE = 'check_violation';
    ELSIF OLD.status IN ('pending', 'delayed') AND NEW.status IN ('pending', 'delayed')
          AND OLD.perform_at IS NOT NULL AND NEW.perform_at IS NULL THEN
        RAISE EXCEPTION 'action % would never run without a perform_at: set a time, or cancel it with status = ''canceled''',
            OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER lead_stage_actions_before_update BEFORE UPDATE OF status, perform_at ON pgautomate.lead_stage_actions
    FOR EACH ROW WHEN ((NEW.status IS DISTINCT FROM OLD.status OR NEW.perform_at IS DISTINCT FROM OLD.perform_at)
                       AND NOT pgautomate.is_engine())
    EXECUTE FUNCTION pgautomate.lead_stage_actions_before_update();
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.lead_stage_actions_after_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
BEGIN
    IF NEW.status IN ('pending', 'delayed') AND NEW.perform_at IS NOT NULL THEN
        INSERT INTO due_signals (organization_id, action_type, perform_at)
        VALUES (NEW.organization_id, NEW.action_type, NEW.perform_at);
    ELSIF NEW.status = 'canceled' AND NEW.lead_stage_id IS NOT NULL THEN
        PERFORM advance_lead_stages(ARRAY[NEW.lead_stage_id]);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
