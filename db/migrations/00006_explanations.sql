-- Requests to the process that feeds. Locks: everything here is new.

-- +goose Up
CREATE UNLOGGED TABLE pgautomate.explanations (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trigger_id bigint NOT NULL,
    object_id  text NOT NULL,
    commit_lsn pg_lsn,
    asked_at   timestamptz NOT NULL DEFAULT now(),
    answer     jsonb,
    problem    text
);
COMMENT ON TABLE pgautomate.explanations IS
    'Questions why a trigger fired or did not, answered by the process that feeds; gone a minute later. Ask by POST /v1/triggers/{id}/explain or `pgautomate trigger explain`.';

-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.explanations TO %I', role);
            EXECUTE format('GRANT INSERT (trigger_id, object_id, commit_lsn) ON pgautomate.explanations TO %I', role);
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE pgautomate.explanations;
