-- Triggers across related objects, from one query to another, and on what
-- happens. Locks: ACCESS EXCLUSIVE on three tables, for a moment.

-- +goose Up
ALTER TABLE pgautomate.triggers ADD COLUMN before_query jsonb, ADD COLUMN extra_filter jsonb;
ALTER TABLE pgautomate.trigger_versions ADD COLUMN before_query jsonb, ADD COLUMN extra_filter jsonb;
COMMENT ON COLUMN pgautomate.triggers.before_query IS
    'A query that the object must have met before the commit, beside not having met query: from A to B. NULL: none.';
COMMENT ON COLUMN pgautomate.triggers.extra_filter IS
    'A filter on the change itself, in the grammar of Close''s webhooks: then the trigger fires for every change that passes it and after which query holds, whether or not it held before. NULL: none.';

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.triggers_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    -- Some clients write null where they mean nothing.
    NEW.before_query := nullif(NEW.before_query, 'null');
    NEW.extra_filter := nullif(NEW.extra_filter, 'null');
    IF TG_OP = 'INSERT' THEN
        NEW.version := 1;
        IF NEW.status IN ('invalid', 'degraded') THEN
            NEW.status := 'active';
        END IF;
        NEW.error := NULL;
        RETURN NEW;
    END IF;
    IF (NEW.organization_id, NEW.name, NEW.object_type, NEW.query, NEW.before_query, NEW.extra_filter, NEW.action_type, NEW.action_params)
        IS DISTINCT FROM
       (OLD.organization_id, OLD.name, OLD.object_type, OLD.query, OLD.before_query, OLD.extra_filter, OLD.action_type, OLD.action_params) THEN
        NEW.version := OLD.version + 1;
        NEW.error := NULL;
        -- A mended definition is tried again.
        IF NEW.status IN ('invalid', 'degraded') THEN
            NEW.status := 'active';
        END IF;
    ELSE
        NEW.version := OLD.version;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

ALTER TABLE pgautomate.trigger_firings ADD COLUMN related jsonb;
COMMENT ON COLUMN pgautomate.trigger_firings.related IS
    'The changed object that made this one match, {"object_type", "object_id"}; NULL when it is the object itself.';

-- +goose Down
ALTER TABLE pgautomate.trigger_firings DROP COLUMN related;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.triggers_before_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    IF TG_OP = 'INSERT' THEN
        NEW.version := 1;
        IF NEW.status IN ('invalid', 'degraded') THEN
            NEW.status := 'active';
        END IF;
        NEW.error := NULL;
        RETURN NEW;
    END IF;
    IF (NEW.organization_id, NEW.name, NEW.object_type, NEW.query, NEW.action_type, NEW.action_params)
        IS DISTINCT FROM
       (OLD.organization_id, OLD.name, OLD.object_type, OLD.query, OLD.action_type, OLD.action_params) THEN
        NEW.version := OLD.version + 1;
        NEW.error := NULL;
        IF NEW.status IN ('invalid', 'degraded') THEN
            NEW.status := 'active';
        END IF;
    ELSE
        NEW.version := OLD.version;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
ALTER TABLE pgautomate.trigger_versions DROP COLUMN before_query, DROP COLUMN extra_filter;
ALTER TABLE pgautomate.triggers DROP COLUMN before_query, DROP COLUMN extra_filter;
