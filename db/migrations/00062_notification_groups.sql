-- Groups of workflows, as Novu's v1 has them. What workflows name as their group so far becomes one.

-- +goose Up
CREATE TABLE pgautomate.notification_groups (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    identifier      text NOT NULL CHECK (identifier <> ''),
    name            text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, identifier)
);
COMMENT ON TABLE pgautomate.notification_groups IS 'Groups of workflows: names to sort them by, nothing more.';
COMMENT ON COLUMN pgautomate.notification_groups.id IS 'Counts groups.';
COMMENT ON COLUMN pgautomate.notification_groups.organization_id IS 'Whose group it is.';
COMMENT ON COLUMN pgautomate.notification_groups.identifier IS 'What workflows.group_id calls it; its _id on the wire.';
COMMENT ON COLUMN pgautomate.notification_groups.name IS 'For people.';
COMMENT ON COLUMN pgautomate.notification_groups.created_at IS 'Since when.';
COMMENT ON COLUMN pgautomate.notification_groups.updated_at IS 'When it was last changed.';
COMMENT ON COLUMN pgautomate.workflows.group_id IS 'notificationGroupId of a v1 template: notification_groups.identifier.';

INSERT INTO pgautomate.notification_groups (organization_id, identifier, name)
SELECT DISTINCT w.organization_id, w.group_id, w.group_id FROM pgautomate.workflows w
 WHERE w.group_id <> '' AND octet_length(w.group_id) <= 500 AND w.deleted_at IS NULL;

-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.notification_groups TO %I', role);
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE pgautomate.notification_groups;
COMMENT ON COLUMN pgautomate.workflows.group_id IS 'notificationGroupId of a v1 template.';
