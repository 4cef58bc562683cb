-- Imports of leads from files: how far each is, so that it can go on where it was
-- interrupted. Locks: everything is new.

-- +goose Up
CREATE TABLE pgautomate.imports (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_name         text        NOT NULL,
    file_bytes        bigint      NOT NULL,
    file_sha256       bytea       NOT NULL,
    table_name        text        NOT NULL,
    pipeline_stage_id bigint,
    organization_id   text,
    status            text        NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'completed')),
    position          bigint      NOT NULL DEFAULT 0,
    line              bigint      NOT NULL DEFAULT 1,
    imported          bigint      NOT NULL DEFAULT 0,
    rejected          bigint      NOT NULL DEFAULT 0,
    entered           bigint      NOT NULL DEFAULT 0,
    refused           jsonb       NOT NULL DEFAULT '{}',
    started_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at        timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX imports_running_idx ON pgautomate.imports
    (file_sha256, table_name, coalesce(pipeline_stage_id, 0), coalesce(organization_id, '')) WHERE status = 'running';
COMMENT ON COLUMN pgautomate.imports.position IS 'So many bytes of the file are done: their rows are imported or rejected.';
COMMENT ON COLUMN pgautomate.imports.line IS 'The line of the file that comes next, less one.';
COMMENT ON COLUMN pgautomate.imports.entered IS 'Leads that entered the stage.';
COMMENT ON COLUMN pgautomate.imports.refused IS 'Leads that are imported but could not enter the stage: reason -> count.';

CREATE TABLE pgautomate.import_rejects (
    import_id bigint NOT NULL REFERENCES pgautomate.imports ON DELETE CASCADE,
    line      bigint NOT NULL,
    row       text[] NOT NULL,
    error     text   NOT NULL,
    PRIMARY KEY (import_id, line)
);
COMMENT ON TABLE pgautomate.import_rejects IS 'Rows of files that could not be imported.';

-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_readonly') THEN
        GRANT SELECT ON pgautomate.imports, pgautomate.import_rejects TO pgautomate_readonly;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON pgautomate.imports, pgautomate.import_rejects TO pgautomate_app;
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE pgautomate.import_rejects;
DROP TABLE pgautomate.imports;
