-- Values that steps of workflows name instead of holding them: {{env.KEY}}.

-- +goose Up
CREATE TABLE pgautomate.environment_variables (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    key             text NOT NULL CHECK (key ~ '^[A-Za-z][A-Za-z0-9_]*$'),
    value           text,
    is_secret       boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, key)
);
COMMENT ON TABLE pgautomate.environment_variables IS 'Values that steps of workflows name instead of holding them: {{env.KEY}}.';
COMMENT ON COLUMN pgautomate.environment_variables.id IS 'Counts variables.';
COMMENT ON COLUMN pgautomate.environment_variables.organization_id IS 'Whose variable it is.';
COMMENT ON COLUMN pgautomate.environment_variables.key IS 'What templates call it, after env.';
COMMENT ON COLUMN pgautomate.environment_variables.value IS 'Its value; NULL: none yet. The roles for apps and readers don''t see it.';
COMMENT ON COLUMN pgautomate.environment_variables.is_secret IS 'The API does not give its value back.';
COMMENT ON COLUMN pgautomate.environment_variables.created_at IS 'Since when.';
COMMENT ON COLUMN pgautomate.environment_variables.updated_at IS 'When it was last changed.';

-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT (id, organization_id, key, is_secret, created_at, updated_at) ON pgautomate.environment_variables TO %I', role);
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE pgautomate.environment_variables;
