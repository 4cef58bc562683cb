-- Layouts: what stands around the content of e-mail steps.

-- +goose Up
CREATE TABLE pgautomate.layouts (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    identifier      text NOT NULL CHECK (identifier <> ''),
    name            text NOT NULL,
    description     text NOT NULL DEFAULT '',
    content         text NOT NULL,
    variables       jsonb NOT NULL DEFAULT '[]',
    is_default      boolean NOT NULL DEFAULT false,
    extra           jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    deleted_at      timestamptz
);
CREATE UNIQUE INDEX layouts_identifier_idx ON pgautomate.layouts (organization_id, identifier) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX layouts_default_idx ON pgautomate.layouts (organization_id) WHERE is_default AND deleted_at IS NULL;
COMMENT ON TABLE pgautomate.layouts IS 'What stands around the content of e-mail steps.';
COMMENT ON COLUMN pgautomate.layouts.id IS 'Counts layouts.';
COMMENT ON COLUMN pgautomate.layouts.organization_id IS 'Whose layout it is.';
COMMENT ON COLUMN pgautomate.layouts.identifier IS 'What steps call it (layoutId).';
COMMENT ON COLUMN pgautomate.layouts.name IS 'For people.';
COMMENT ON COLUMN pgautomate.layouts.description IS 'For people.';
COMMENT ON COLUMN pgautomate.layouts.content IS 'HTML, a Liquid template; the step''s content comes where {{{body}}} or {{content}} stands.';
COMMENT ON COLUMN pgautomate.layouts.variables IS 'Kept for the wire.';
COMMENT ON COLUMN pgautomate.layouts.is_default IS 'Stands around e-mail steps that name none.';
COMMENT ON COLUMN pgautomate.layouts.extra IS 'Members of the request that mean nothing here and are given back.';
COMMENT ON COLUMN pgautomate.layouts.created_at IS 'Since when.';
COMMENT ON COLUMN pgautomate.layouts.updated_at IS 'When it was last changed.';
COMMENT ON COLUMN pgautomate.layouts.deleted_at IS 'Deleted then.';

-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.layouts TO %I', role);
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE pgautomate.layouts;
