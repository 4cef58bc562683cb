-- An action is retried by SQL as by HTTP. What only the engine does is no longer
-- everybody's to call. Locks: none that last.

-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION pgautomate.retry_action(action bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    a    record;
    run  record;
    open boolean := true; -- the stage
    was  text := current_setting('pgautomate.engine', true);
BEGIN
    -- What finished long ago has left the table.
    PERFORM bring_back_actions(action);
    -- Entries of the lead wait for this, as they do for each other.
    PERFORM FROM lead_stage_actions x
      JOIN lead_stages s ON s.id = x.lead_stage_id
      JOIN lead_runs r ON r.organization_id = s.organization_id AND r.lead_id = s.lead_id AND r.pipeline_id = s.pipeline_id
     WHERE x.id = action FOR UPDATE OF r;
    SELECT x.status, x.lead_stage_id, x.sequence_number INTO a FROM ONLY lead_stage_actions x WHERE x.id = action FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no action %', action USING ERRCODE = 'no_data_found';
    END IF;
    IF a.status NOT IN ('failed', 'canceled') THEN
        RAISE EXCEPTION 'the action is %: only a failed or canceled one can be retried', a.status USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF a.lead_stage_id IS NOT NULL THEN
        -- What an action in a stage may do depends on the stage: the lead may long be somewhere else.
        SELECT s.status, s.reason, p.name AS pipeline,
               EXISTS (SELECT FROM lead_stages o WHERE o.organization_id = s.organization_id AND o.lead_id = s.lead_id
                          AND o.pipeline_id = s.pipeline_id AND o.status = 'active' AND o.id <> s.id) AS elsewhere,
               EXISTS (SELECT FROM lead_stage_actions l WHERE l.lead_stage_id = s.id
                          AND l.sequence_number > a.sequence_number AND l.status = 'failed') AS later_failed
          INTO run FROM lead_stages s JOIN pipelines p ON p.id = s.pipeline_id WHERE s.id = a.lead_stage_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the stage of this action is no more: put the lead into a stage instead' USING ERRCODE = 'object_not_in_prerequisite_state';
        ELSIF run.status = 'failed' AND a.status = 'canceled' THEN
            RAISE EXCEPTION 'this action was canceled because its stage failed before it: retry the action that failed' USING ERRCODE = 'object_not_in_prerequisite_state';
        ELSIF run.status = 'failed' AND run.later_failed THEN
            RAISE EXCEPTION 'the stage went on after this action and failed at a later one: retry that one' USING ERRCODE = 'object_not_in_prerequisite_state';
        ELSIF run.status NOT IN ('active', 'failed') THEN
            RAISE EXCEPTION 'the lead''s stage is % and the lead went on: put it into the stage again instead', run.status || coalesce(' (' || run.reason || ')', '')
                USING ERRCODE = 'object_not_in_prerequisite_state';
        ELSIF run.status = 'failed' AND run.elsewhere THEN
            RAISE EXCEPTION 'the lead is in another stage of pipeline "%" by now, and can only be in one', run.pipeline USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        open := run.status = 'active';
    END IF;
    PERFORM set_config('pgautomate.engine', 'on', true);
    IF NOT open THEN
        UPDATE lead_stages SET status = 'active', reason = NULL, finished_at = NULL WHERE id = a.lead_stage_id;
        -- Those that were canceled only because the stage failed before them.
        UPDATE ONLY lead_stage_actions SET status = 'pending', reason = NULL, perform_at = NULL, queued_at = NULL, finished_at = NULL, timer = false
         WHERE lead_stage_id = a.lead_stage_id AND sequence_number > a.sequence_number
           AND status = 'canceled' AND reason IS DISTINCT FROM 'canceled_by_app';
    END IF;
    -- As new: its attempts are counted from the start. In a stage it becomes due when its turn has come.
    UPDATE ONLY lead_stage_actions SET status = 'pending', reason = NULL, error = NULL, result = NULL, attempt = 0,
           perform_at = CASE WHEN lead_stage_id IS NULL THEN now() END,
           queued_at = NULL, started_at = NULL, finished_at = NULL, worker_id = NULL, waiting_since = NULL, timer = false
     WHERE id = action;
    IF a.lead_stage_id IS NULL THEN
        INSERT INTO due_signals (organization_id, action_type, perform_at)
        SELECT x.organization_id, x.action_type, x.perform_at FROM ONLY lead_stage_actions x WHERE x.id = action;
    ELSE
        PERFORM advance_lead_stages(ARRAY[a.lead_stage_id]);
    END IF;
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
END $$;
-- +goose StatementEnd
COMMENT ON FUNCTION pgautomate.retry_action(bigint) IS
    'Runs a failed or canceled action again, its attempts counted anew. The stage that failed because of it is reopened; refused where the lead went on.';

-- +goose StatementBegin
DO $$
DECLARE
    what text;
BEGIN
    FOREACH what IN ARRAY ARRAY['close_lead_stages(bigint[], text, text, text)', 'advance_lead_stages(bigint[])', 'advance_notifications(bigint[])',
        'archive_actions(interval, integer)', 'bring_back_actions(bigint)', 'drop_finished_actions(timestamptz)', 'ensure_finished_actions(date)', 'retry_action(bigint)'] LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION pgautomate.%s FROM PUBLIC', what);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_app') THEN
        GRANT EXECUTE ON FUNCTION pgautomate.retry_action(bigint) TO pgautomate_app;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION pgautomate.retry_action(bigint);
GRANT EXECUTE ON FUNCTION pgautomate.close_lead_stages(bigint[], text, text, text), pgautomate.advance_lead_stages(bigint[]),
    pgautomate.advance_notifications(bigint[]), pgautomate.archive_actions(interval, integer), pgautomate.bring_back_actions(bigint),
    pgautomate.drop_finished_actions(timestamptz), pgautomate.ensure_finished_actions(date) TO PUBLIC;
