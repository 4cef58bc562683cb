-- Weights between organizations; time zones that reach live triggers; reply queries
-- that don't work are a problem; addresses that nothing is sent to; cheaper entries.
-- Locks: ACCESS EXCLUSIVE on organizations, object_types and suppressions, for a
-- moment; the index on suppressions reads all of them.

-- +goose Up
ALTER TABLE pgautomate.organizations ADD COLUMN weight integer NOT NULL DEFAULT 1
    CONSTRAINT weight_is_1_to_100 CHECK (weight BETWEEN 1 AND 100);
COMMENT ON COLUMN pgautomate.organizations.weight IS
    'Turns that it has when others have one, where there is more to do than workers can: 1 to 100. It never exceeds the organization''s own throttles.';
CREATE INDEX organizations_weight_idx ON pgautomate.organizations (id) WHERE weight <> 1;

-- A time zone that doesn't exist is refused. Live triggers take over another one:
-- their rows come through the stream, and so at exactly this place of it.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.organizations_time_zones() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    bad text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE triggers t SET updated_at = now() FROM was w WHERE t.organization_id = w.id AND w.time_zone <> 'UTC';
        RETURN NULL;
    END IF;
    SELECT c.time_zone INTO bad FROM (SELECT DISTINCT n.time_zone FROM changed n WHERE n.time_zone <> 'UTC') c
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_timezone_names z WHERE z.name = c.time_zone) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'there is no time zone "%": use a name such as Europe/Berlin (SELECT name FROM pg_timezone_names)', bad
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF TG_OP = 'INSERT' THEN
        UPDATE triggers t SET updated_at = now() FROM changed n WHERE t.organization_id = n.id AND n.time_zone <> 'UTC';
    ELSE
        UPDATE triggers t SET updated_at = now()
         WHERE t.organization_id IN (
               SELECT id FROM (SELECT id, time_zone FROM changed EXCEPT SELECT id, time_zone FROM was) x
                UNION ALL SELECT id FROM (SELECT id, time_zone FROM was EXCEPT SELECT id, time_zone FROM changed) y);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER organizations_time_zones_insert AFTER INSERT ON pgautomate.organizations
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION pgautomate.organizations_time_zones();
CREATE TRIGGER organizations_time_zones_update AFTER UPDATE ON pgautomate.organizations
    REFERENCING NEW TABLE AS changed OLD TABLE AS was FOR EACH STATEMENT EXECUTE FUNCTION pgautomate.organizations_time_zones();
CREATE TRIGGER organizations_time_zones_delete AFTER DELETE ON pgautomate.organizations
    REFERENCING OLD TABLE AS was FOR EACH STATEMENT EXECUTE FUNCTION pgautomate.organizations_time_zones();

ALTER TABLE pgautomate.object_types ADD COLUMN reply_error text;
COMMENT ON COLUMN pgautomate.object_types.reply_error IS 'Why no row can be a reply: the reply query doesn''t hold for the table as it is. NULL: it does.';

-- +goose StatementBegin
DO $do$
BEGIN
    EXECUTE format($sql$CREATE OR REPLACE VIEW pgautomate.problems AS %s
UNION ALL
SELECT 'error', format('object type %%s', o.name), format('no row of %%s counts as a reply: %%s', o.table_name, o.reply_error),
       format('watch the table again with a --reply-when that holds for its columns: pgautomate watch %%s --as %%s --reply-when …', o.table_name, o.name), NULL::timestamptz
  FROM pgautomate.object_types o WHERE o.reply_when IS NOT NULL AND o.reply_error IS NOT NULL$sql$,
        rtrim(pg_get_viewdef('pgautomate.problems'::regclass), '; '));
END $do$;
-- +goose StatementEnd

-- Whom nothing is to be sent to may also be an address.
ALTER TABLE pgautomate.suppressions ADD COLUMN address text;
ALTER TABLE pgautomate.suppressions DROP CONSTRAINT suppression_of_a_lead_or_a_subscriber;
ALTER TABLE pgautomate.suppressions ADD CONSTRAINT suppression_of_a_lead_or_a_subscriber_or_an_address
    CHECK (num_nonnulls(lead_id, subscriber_id, address) = 1);
ALTER TABLE pgautomate.suppressions ADD CONSTRAINT suppression_channel_exists
    CHECK (channel IS NULL OR channel IN ('*', 'email', 'sms', 'push', 'chat', 'in_app')) NOT VALID;
COMMENT ON COLUMN pgautomate.suppressions.address IS
    'Or an e-mail address or phone number, whoever has it; kept in small letters, numbers without spaces, dashes, dots and brackets.';

-- Addresses are compared as they are kept.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.plain_address(address text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN position('@' IN address) > 0 THEN lower(btrim(address)) ELSE regexp_replace(address, '[\s().-]', '', 'g') END
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION pgautomate.plain_address(text) IS 'An e-mail address in small letters; a phone number without spaces, dashes, dots and brackets.';
-- +goose StatementBegin
CREATE FUNCTION pgautomate.suppressions_before_write() RETURNS trigger LANGUAGE plpgsql SET search_path = pgautomate, pg_temp AS $$
BEGIN
    NEW.address := plain_address(NEW.address);
    IF NEW.address = '' THEN
        RAISE EXCEPTION 'an address of a suppression is an e-mail address or a phone number, not nothing' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER suppressions_before_write BEFORE INSERT OR UPDATE OF address ON pgautomate.suppressions
    FOR EACH ROW WHEN (NEW.address IS NOT NULL) EXECUTE FUNCTION pgautomate.suppressions_before_write();
CREATE UNIQUE INDEX suppressions_address_idx ON pgautomate.suppressions (organization_id, address, coalesce(channel, '*')) WHERE address IS NOT NULL;

-- As in 00008, at less cost: the first entry of a lead writes its run once.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.lead_stages_before_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    pipeline  record;
    before    integer;
    last_at   timestamptz;
    current   record;
    first     boolean;
    moved     text := coalesce(nullif(current_setting('pgautomate.entry', true), ''), 'moved_by_app');
    refused   text;
BEGIN
    IF NEW.organization_id IS NULL OR NEW.lead_id IS NULL OR NEW.pipeline_stage_id IS NULL THEN
        RAISE EXCEPTION 'lead_stages needs organization_id, lead_id and pipeline_stage_id' USING ERRCODE = 'not_null_violation';
    END IF;
    SELECT p.id, p.organization_id, p.reenrolment, p.object_type INTO pipeline
      FROM pipeline_stages s JOIN pipelines p ON p.id = s.pipeline_id
     WHERE s.id = NEW.pipeline_stage_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no stage %: take an id from pgautomate.pipeline_stages', NEW.pipeline_stage_id
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF pipeline.organization_id <> NEW.organization_id THEN
        RAISE EXCEPTION 'stage % belongs to organization "%", not to "%": use a stage of that organization''s own pipelines',
            NEW.pipeline_stage_id, pipeline.organization_id, NEW.organization_id USING ERRCODE = 'check_violation';
    END IF;
    NEW.pipeline_id := pipeline.id;
    IF NEW.status <> 'active' THEN
        RETURN NEW; -- history brought along by the app
    END IF;
    NEW.finished_at := NULL;

    -- Waits here for a concurrent entry of the same lead. A pipeline that is being
    -- deleted takes its runs along: then the stage's own constraint speaks.
    INSERT INTO lead_runs (organization_id, lead_id, pipeline_id, entries, last_entered_at)
    VALUES (NEW.organization_id, NEW.lead_id, NEW.pipeline_id, 1, NEW.entered_at)
    ON CONFLICT (organization_id, lead_id, pipeline_id) DO NOTHING;
    first := FOUND;
    IF NOT first THEN
        SELECT r.entries, r.last_entered_at INTO before, last_at FROM lead_runs r
         WHERE r.organization_id = NEW.organization_id AND r.lead_id = NEW.lead_id AND r.pipeline_id = NEW.pipeline_id
           FOR UPDATE;
    END IF;
    IF before > 0 THEN
        SELECT s.id, s.pipeline_stage_id INTO current FROM lead_stages s
         WHERE s.organization_id = NEW.organization_id AND s.lead_id = NEW.lead_id
           AND s.pipeline_id = NEW.pipeline_id AND s.status = 'active';
        IF FOUND AND current.pipeline_stage_id = NEW.pipeline_stage_id AND moved = 'moved_by_app' THEN
            refused := 'already_enrolled';
        ELSIF FOUND THEN
            NEW.moved_from := current.id;
            PERFORM close_lead_stages(ARRAY[current.id],
                CASE WHEN moved = 'moved' THEN 'completed' ELSE 'exited' END, moved, 'stage_left');
        ELSIF moved = 'moved' OR pipeline.reenrolment IN ('after_exit', 'always') THEN
            NULL;
        ELSIF pipeline.reenrolment = 'never' THEN
            refused := 'already_enrolled';
        ELSIF last_at + pipeline.reenrolment::interval > clock_timestamp() THEN
            refused := 'already_enrolled';
        END IF;
    END IF;
    IF refused IS NULL AND NEW.moved_from IS NULL AND EXISTS (
        SELECT FROM suppressions x WHERE x.organization_id = NEW.organization_id AND x.lead_type = pipeline.object_type
           AND x.lead_id = NEW.lead_id AND coalesce(x.channel, '*') = '*') THEN
        refused := 'suppressed';
    END IF;
    IF refused IS NOT NULL THEN
        NEW.status := 'exited';
        NEW.reason := refused;
        NEW.finished_at := clock_timestamp();
        IF first THEN
            UPDATE lead_runs SET entries = 0, last_entered_at = NULL
             WHERE organization_id = NEW.organization_id AND lead_id = NEW.lead_id AND pipeline_id = NEW.pipeline_id;
        END IF;
        RETURN NEW;
    END IF;
    IF NOT first THEN
        UPDATE lead_runs SET entries = entries + 1, last_entered_at = NEW.entered_at
         WHERE organization_id = NEW.organization_id AND lead_id = NEW.lead_id AND pipeline_id = NEW.pipeline_id;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.lead_stages_before_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    pipeline  record;
    run       record;
    current   record;
    moved     text := coalesce(nullif(current_setting('pgautomate.entry', true), ''), 'moved_by_app');
    refused   text;
BEGIN
    IF NEW.organization_id IS NULL OR NEW.lead_id IS NULL OR NEW.pipeline_stage_id IS NULL THEN
        RAISE EXCEPTION 'lead_stages needs organization_id, lead_id and pipeline_stage_id' USING ERRCODE = 'not_null_violation';
    END IF;
    SELECT p.id, p.organization_id, p.reenrolment, p.object_type INTO pipeline
      FROM pipeline_stages s JOIN pipelines p ON p.id = s.pipeline_id
     WHERE s.id = NEW.pipeline_stage_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no stage %: take an id from pgautomate.pipeline_stages', NEW.pipeline_stage_id
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF pipeline.organization_id <> NEW.organization_id THEN
        RAISE EXCEPTION 'stage % belongs to organization "%", not to "%": use a stage of that organization''s own pipelines',
            NEW.pipeline_stage_id, pipeline.organization_id, NEW.organization_id USING ERRCODE = 'check_violation';
    END IF;
    NEW.pipeline_id := pipeline.id;
    IF NEW.status <> 'active' THEN
        RETURN NEW; -- history brought along by the app
    END IF;
    NEW.finished_at := NULL;

    -- Waits here for a concurrent entry of the same lead.
    INSERT INTO lead_runs AS r (organization_id, lead_id, pipeline_id)
    VALUES (NEW.organization_id, NEW.lead_id, NEW.pipeline_id)
    ON CONFLICT (organization_id, lead_id, pipeline_id) DO UPDATE SET entries = r.entries
    RETURNING r.entries, r.last_entered_at INTO run;

    IF run.entries > 0 THEN
        SELECT s.id, s.pipeline_stage_id INTO current FROM lead_stages s
         WHERE s.organization_id = NEW.organization_id AND s.lead_id = NEW.lead_id
           AND s.pipeline_id = NEW.pipeline_id AND s.status = 'active';
        IF FOUND AND current.pipeline_stage_id = NEW.pipeline_stage_id AND moved = 'moved_by_app' THEN
            refused := 'already_enrolled';
        ELSIF FOUND THEN
            NEW.moved_from := current.id;
            PERFORM close_lead_stages(ARRAY[current.id],
                CASE WHEN moved = 'moved' THEN 'completed' ELSE 'exited' END, moved, 'stage_left');
        ELSIF moved = 'moved' OR pipeline.reenrolment IN ('after_exit', 'always') THEN
            NULL;
        ELSIF pipeline.reenrolment = 'never' THEN
            refused := 'already_enrolled';
        ELSIF run.last_entered_at + pipeline.reenrolment::interval > clock_timestamp() THEN
            refused := 'already_enrolled';
        END IF;
    END IF;
    IF refused IS NULL AND NEW.moved_from IS NULL AND EXISTS (
        SELECT FROM suppressions x WHERE x.organization_id = NEW.organization_id AND x.lead_type = pipeline.object_type
           AND x.lead_id = NEW.lead_id AND coalesce(x.channel, '*') = '*') THEN
        refused := 'suppressed';
    END IF;
    IF refused IS NOT NULL THEN
        NEW.status := 'exited';
        NEW.reason := refused;
        NEW.finished_at := clock_timestamp();
        RETURN NEW;
    END IF;
    UPDATE lead_runs SET entries = entries + 1, last_entered_at = NEW.entered_at
     WHERE organization_id = NEW.organization_id AND lead_id = NEW.lead_id AND pipeline_id = NEW.pipeline_id;
    RETURN NEW;
END $$;
-- +goose StatementEnd
DROP INDEX pgautomate.suppressions_address_idx;
DROP TRIGGER suppressions_before_write ON pgautomate.suppressions;
DROP FUNCTION pgautomate.suppressions_before_write();
DROP FUNCTION pgautomate.plain_address(text);
ALTER TABLE pgautomate.suppressions DROP CONSTRAINT suppression_channel_exists, DROP CONSTRAINT suppression_of_a_lead_or_a_subscriber_or_an_address;
DELETE FROM pgautomate.suppressions WHERE address IS NOT NULL;
ALTER TABLE pgautomate.suppressions DROP COLUMN address,
    ADD CONSTRAINT suppression_of_a_lead_or_a_subscriber CHECK (num_nonnulls(lead_id, subscriber_id) = 1);
-- +goose StatementBegin
DO $do$
BEGIN
    EXECUTE 'CREATE OR REPLACE VIEW pgautomate.problems AS '
        || regexp_replace(pg_get_viewdef('pgautomate.problems'::regclass), '\s+UNION ALL(?!.*UNION ALL).*$', '');
END $do$;
-- +goose StatementEnd
ALTER TABLE pgautomate.object_types DROP COLUMN reply_error;
DROP TRIGGER organizations_time_zones_insert ON pgautomate.organizations;
DROP TRIGGER organizations_time_zones_update ON pgautomate.organizations;
DROP TRIGGER organizations_time_zones_delete ON pgautomate.organizations;
DROP FUNCTION pgautomate.organizations_time_zones();
DROP INDEX pgautomate.organizations_weight_idx;
ALTER TABLE pgautomate.organizations DROP COLUMN weight;
