-- What ends runs and waits: replies, goals, queries, suppressions; and what
-- sends. Locks: ACCESS EXCLUSIVE on
-- object_types, triggers, lead_stages and lead_stage_actions, for a moment.

-- +goose Up
ALTER TABLE pgautomate.object_types
    ADD COLUMN reply_when jsonb, ADD COLUMN reply_lead text, ADD COLUMN reply_contact text, ADD COLUMN reply_channel text;
COMMENT ON COLUMN pgautomate.object_types.reply_when IS
    'A query: a row that comes to meet it is a reply, for wait_for_reply. NULL: the table holds no replies. Set by `pgautomate watch --reply-when`.';
COMMENT ON COLUMN pgautomate.object_types.reply_lead IS 'The column of a reply that names the lead it is from.';
COMMENT ON COLUMN pgautomate.object_types.reply_contact IS 'The column of a reply that names the contact it is from; NULL: none does.';
COMMENT ON COLUMN pgautomate.object_types.reply_channel IS 'The column of a reply that names its channel; NULL: none does.';

CREATE TABLE pgautomate.replies (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    lead_type       text NOT NULL,
    lead_id         text NOT NULL,
    object_type     text NOT NULL,
    object_id       text NOT NULL,
    contact_id      text,
    channel         text,
    committed_at    timestamptz NOT NULL,
    commit_lsn      pg_lsn NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX replies_lead_idx ON pgautomate.replies (organization_id, lead_type, lead_id, committed_at);
CREATE INDEX replies_committed_idx ON pgautomate.replies (committed_at);
COMMENT ON TABLE pgautomate.replies IS
    'Replies as the feed saw them, written with its checkpoint: what waits look into. One row for the lead that a reply is from, another for the contact. Kept for 30 days.';
COMMENT ON COLUMN pgautomate.replies.id IS 'Counts replies.';
COMMENT ON COLUMN pgautomate.replies.organization_id IS 'The reply''s organization.';
COMMENT ON COLUMN pgautomate.replies.lead_type IS 'What lead_id names: lead, or contact.';
COMMENT ON COLUMN pgautomate.replies.lead_id IS 'Whom the reply is from.';
COMMENT ON COLUMN pgautomate.replies.object_type IS 'The object type of the reply''s row.';
COMMENT ON COLUMN pgautomate.replies.object_id IS 'The id of the reply''s row.';
COMMENT ON COLUMN pgautomate.replies.contact_id IS 'The contact that it is from, if the row names one.';
COMMENT ON COLUMN pgautomate.replies.channel IS 'Its channel, if the row names one.';
COMMENT ON COLUMN pgautomate.replies.committed_at IS 'When the row came to be a reply.';
COMMENT ON COLUMN pgautomate.replies.commit_lsn IS 'The commit in which it did.';

-- Goals. A pipeline's goal is a trigger like any other, which its pipeline keeps:
-- so it is matched once for each commit, in order, and audited.
ALTER TABLE pgautomate.triggers ADD COLUMN pipeline_id bigint UNIQUE REFERENCES pgautomate.pipelines ON DELETE CASCADE;
COMMENT ON COLUMN pgautomate.triggers.pipeline_id IS
    'The pipeline whose goal this is: change it there. Who comes to meet it leaves that pipeline. NULL: a trigger of its own.';

ALTER TABLE pgautomate.lead_stages ADD COLUMN moved_from bigint;
COMMENT ON COLUMN pgautomate.lead_stages.moved_from IS 'The stage (lead_stages.id) from which the lead was moved; NULL: its run begins here.';

ALTER TABLE pgautomate.lead_stage_actions ADD COLUMN asks_goal boolean NOT NULL DEFAULT false;
ALTER TABLE pgautomate.lead_stage_actions ADD COLUMN waits_from timestamptz;
COMMENT ON COLUMN pgautomate.lead_stage_actions.waits_from IS 'What a wait''s time is counted from, where that is not perform_at: a new version was applied to it.';
COMMENT ON COLUMN pgautomate.lead_stage_actions.asks_goal IS
    'The first action of a run whose pipeline has a goal: before it starts, the lead is asked whether it meets that already.';

-- +goose StatementBegin
CREATE FUNCTION pgautomate.pipelines_after_goal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
BEGIN
    IF nullif(NEW.goal, 'null') IS NULL THEN
        DELETE FROM triggers WHERE pipeline_id = NEW.id;
        RETURN NULL;
    END IF;
    INSERT INTO triggers AS t (organization_id, name, object_type, query, action_type, action_params, pipeline_id)
    VALUES (NEW.organization_id, format('goal of pipeline %s', NEW.name), NEW.object_type, NEW.goal, 'goal',
            jsonb_build_object('pipeline_id', NEW.id), NEW.id)
    ON CONFLICT (pipeline_id) DO UPDATE
       SET organization_id = excluded.organization_id, name = excluded.name, object_type = excluded.object_type, query = excluded.query
     WHERE (t.organization_id, t.name, t.object_type, t.query)
           IS DISTINCT FROM (excluded.organization_id, excluded.name, excluded.object_type, excluded.query);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER pipelines_after_goal AFTER INSERT OR UPDATE OF goal, name, object_type, organization_id ON pgautomate.pipelines
    FOR EACH ROW EXECUTE FUNCTION pgautomate.pipelines_after_goal();

-- What wait_until waits for: each query once, however many leads wait for it. A
-- trigger sees to it where the query can be one; else it is asked again and again,
-- of all who wait.
CREATE TABLE pgautomate.awaited (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    object_type     text NOT NULL,
    query           jsonb NOT NULL,
    used_until      timestamptz NOT NULL,
    next_at         timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX awaited_query_idx ON pgautomate.awaited (organization_id, object_type, md5(query::text));
COMMENT ON TABLE pgautomate.awaited IS 'Queries that wait_until actions wait for, each with a trigger (triggers.awaited_id) where it can be one.';
COMMENT ON COLUMN pgautomate.awaited.id IS 'Waits name it in their result.';
COMMENT ON COLUMN pgautomate.awaited.organization_id IS 'The organization of the waits.';
COMMENT ON COLUMN pgautomate.awaited.object_type IS 'What the query is asked of.';
COMMENT ON COLUMN pgautomate.awaited.query IS 'The query.';
COMMENT ON COLUMN pgautomate.awaited.used_until IS 'When the last wait for it is over; a day later it is deleted, with its trigger.';
COMMENT ON COLUMN pgautomate.awaited.next_at IS 'When it is next asked by SQL, where no trigger sees to it.';
COMMENT ON COLUMN pgautomate.awaited.created_at IS 'Since when.';
ALTER TABLE pgautomate.triggers ADD COLUMN awaited_id bigint UNIQUE REFERENCES pgautomate.awaited ON DELETE CASCADE;
COMMENT ON COLUMN pgautomate.triggers.awaited_id IS 'What wait_until actions wait for, for which the engine made this trigger. NULL: a trigger of its own.';
CREATE INDEX lead_stage_actions_awaited_idx ON pgautomate.lead_stage_actions ((result ->> 'awaited'), id)
    WHERE status = 'delayed' AND action_type = 'wait_until';

-- Such triggers are their pipeline's, or the engine's: who writes them directly is told so.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.triggers_of_pipelines() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    pipeline bigint := CASE TG_OP WHEN 'INSERT' THEN NEW.pipeline_id WHEN 'DELETE' THEN OLD.pipeline_id ELSE coalesce(OLD.pipeline_id, NEW.pipeline_id) END;
    own      text[] := ARRAY['status', 'error', 'version', 'updated_at']; -- where the engine says what became of a trigger
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.status <> 'paused' AND to_jsonb(NEW) - own = to_jsonb(OLD) - own THEN
        RETURN NEW;
    END IF;
    IF pipeline IS NULL THEN
        RAISE EXCEPTION 'this trigger is the engine''s own, for wait_until actions that wait for its query' USING ERRCODE = 'check_violation';
    END IF;
    RAISE EXCEPTION 'this trigger is the goal of pipeline %: change pgautomate.pipelines.goal instead', pipeline USING ERRCODE = 'check_violation';
END $$;
-- +goose StatementEnd
CREATE TRIGGER triggers_of_pipelines_insert BEFORE INSERT ON pgautomate.triggers
    FOR EACH ROW WHEN ((NEW.pipeline_id IS NOT NULL OR NEW.awaited_id IS NOT NULL)
                       AND pg_trigger_depth() = 0 AND NOT pgautomate.is_engine())
    EXECUTE FUNCTION pgautomate.triggers_of_pipelines();
CREATE TRIGGER triggers_of_pipelines_update BEFORE UPDATE ON pgautomate.triggers
    FOR EACH ROW WHEN (coalesce(OLD.pipeline_id, NEW.pipeline_id, OLD.awaited_id, NEW.awaited_id) IS NOT NULL
                       AND pg_trigger_depth() = 0 AND NOT pgautomate.is_engine())
    EXECUTE FUNCTION pgautomate.triggers_of_pipelines();
CREATE TRIGGER triggers_of_pipelines_delete BEFORE DELETE ON pgautomate.triggers
    FOR EACH ROW WHEN ((OLD.pipeline_id IS NOT NULL OR OLD.awaited_id IS NOT NULL)
                       AND pg_trigger_depth() = 0 AND NOT pgautomate.is_engine())
    EXECUTE FUNCTION pgautomate.triggers_of_pipelines();

-- Whom nothing is to be sent to.
CREATE TABLE pgautomate.suppressions (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    lead_id         text,
    subscriber_id   text,
    channel         text,
    reason          text NOT NULL DEFAULT 'suppressed',
    lead_type       text NOT NULL DEFAULT 'lead',
    created_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT suppression_of_a_lead_or_a_subscriber CHECK (num_nonnulls(lead_id, subscriber_id) = 1)
);
CREATE UNIQUE INDEX suppressions_lead_idx ON pgautomate.suppressions (organization_id, lead_type, lead_id, coalesce(channel, '*')) WHERE lead_id IS NOT NULL;
CREATE UNIQUE INDEX suppressions_subscriber_idx ON pgautomate.suppressions (organization_id, subscriber_id, coalesce(channel, '*')) WHERE subscriber_id IS NOT NULL;
COMMENT ON TABLE pgautomate.suppressions IS
    'Whom nothing is to be sent to. Before each send it is looked up; the run ends then: unsubscribed, or suppressed. Who is suppressed on all channels is not let into pipelines.';
COMMENT ON COLUMN pgautomate.suppressions.id IS 'Counts suppressions.';
COMMENT ON COLUMN pgautomate.suppressions.organization_id IS 'The organization whose sends are meant.';
COMMENT ON COLUMN pgautomate.suppressions.lead_id IS 'The lead; of which object type says lead_type.';
COMMENT ON COLUMN pgautomate.suppressions.subscriber_id IS 'Or the subscriber, by its external id.';
COMMENT ON COLUMN pgautomate.suppressions.channel IS 'email, sms, push, chat or in_app; NULL or *: all of them.';
COMMENT ON COLUMN pgautomate.suppressions.reason IS 'unsubscribed ends runs with that reason; all others (bounced, complained, …) with suppressed.';
COMMENT ON COLUMN pgautomate.suppressions.lead_type IS 'The object type that lead_id is of.';
COMMENT ON COLUMN pgautomate.suppressions.created_at IS 'Since when.';

-- What sends for an organization.
CREATE TABLE pgautomate.integrations (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    identifier      text NOT NULL DEFAULT substr(md5(random()::text || clock_timestamp()::text), 1, 12),
    name            text NOT NULL DEFAULT '',
    provider_id     text NOT NULL,
    channel         text NOT NULL CHECK (channel IN ('email', 'sms', 'push', 'chat', 'in_app')),
    credentials     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(credentials) = 'object'),
    conditions      jsonb,
    active          boolean NOT NULL DEFAULT true,
    is_primary      boolean NOT NULL DEFAULT false,
    priority        integer NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, identifier)
);
CREATE INDEX integrations_channel_idx ON pgautomate.integrations (organization_id, channel, priority, id) WHERE active;
CREATE UNIQUE INDEX integrations_primary_idx ON pgautomate.integrations (organization_id, channel) WHERE is_primary;
COMMENT ON TABLE pgautomate.integrations IS 'What sends for an organization, by channel: the primary one, else the first by priority.';
COMMENT ON COLUMN pgautomate.integrations.id IS 'Counts integrations.';
COMMENT ON COLUMN pgautomate.integrations.organization_id IS 'Whose it is.';
COMMENT ON COLUMN pgautomate.integrations.identifier IS 'Names it in actions (integration).';
COMMENT ON COLUMN pgautomate.integrations.name IS 'For people.';
COMMENT ON COLUMN pgautomate.integrations.provider_id IS 'sms: twilio, generic-sms; push and chat: any name.';
COMMENT ON COLUMN pgautomate.integrations.channel IS 'email, sms, push, chat or in_app.';
COMMENT ON COLUMN pgautomate.integrations.credentials IS
    'twilio: accountSid, token, from; generic-sms: baseUrl, from, apiKeyRequestHeader, apiKey, secretKeyRequestHeader, secretKey, idPath; push and chat: url (shoutrrr). The roles for apps and readers don''t see them.';
COMMENT ON COLUMN pgautomate.integrations.conditions IS 'When it is used; NULL: always.';
COMMENT ON COLUMN pgautomate.integrations.active IS 'One that is not active sends nothing.';
COMMENT ON COLUMN pgautomate.integrations.is_primary IS 'The one that is used first; one for each organization and channel.';
COMMENT ON COLUMN pgautomate.integrations.priority IS 'The order of the others, the smallest first.';
COMMENT ON COLUMN pgautomate.integrations.created_at IS 'Since when.';
COMMENT ON COLUMN pgautomate.integrations.updated_at IS 'When it was last changed.';

-- As in 00002, and: where a lead was moved from; who is suppressed is not let in.
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

-- As in 00002, and: whose first action asks the goal.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.lead_stages_after_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    at timestamptz := clock_timestamp();
BEGIN
    INSERT INTO lead_stage_actions (organization_id, lead_id, lead_stage_id, sequence_number, action_type, params,
                                    max_attempts, perform_at, object_type, cause, depth, paused, asks_goal)
    SELECT n.organization_id, n.lead_id, n.id, a.sequence_number, a.action_type, a.params,
           coalesce((a.params ->> 'max_attempts')::integer, 10),
           CASE WHEN a.sequence_number = a.first THEN at END,
           a.object_type, n.cause, n.depth, a.paused, a.asks_goal AND a.sequence_number = a.first AND n.moved_from IS NULL
      FROM entered n
      JOIN lead_stages s ON s.id = n.id AND s.status = 'active'
      JOIN (SELECT psa.*, p.object_type, p.status = 'paused' AS paused, p.goal IS NOT NULL AS asks_goal, min(psa.sequence_number) OVER (PARTITION BY psa.pipeline_stage_id) AS first
              FROM pipeline_stage_actions psa
              JOIN pipeline_stages ps ON ps.id = psa.pipeline_stage_id
              JOIN pipelines p ON p.id = ps.pipeline_id
             WHERE psa.pipeline_stage_id IN (SELECT pipeline_stage_id FROM entered)) a
        ON a.pipeline_stage_id = n.pipeline_stage_id
     WHERE n.status = 'active'
     ORDER BY n.id, a.sequence_number;
    -- A stage with nothing to do is done on entry.
    UPDATE lead_stages s SET status = 'completed', finished_at = at
      FROM entered n
     WHERE s.id = n.id AND n.status = 'active' AND s.status = 'active'
       AND NOT EXISTS (SELECT FROM pipeline_stage_actions a WHERE a.pipeline_stage_id = n.pipeline_stage_id);
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- Goals that there are already.
UPDATE pgautomate.pipelines SET goal = goal WHERE goal IS NOT NULL;

-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.replies, pgautomate.awaited, pgautomate.suppressions TO %I', role);
            EXECUTE format('GRANT SELECT (id, organization_id, identifier, name, provider_id, channel, conditions, active, is_primary, priority, created_at, updated_at) ON pgautomate.integrations TO %I', role);
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgautomate_app') THEN
        GRANT INSERT, UPDATE, DELETE ON pgautomate.suppressions TO pgautomate_app;
    END IF;
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
    SELECT p.id, p.organization_id, p.reenrolment INTO pipeline
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
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION pgautomate.lead_stages_after_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    at timestamptz := clock_timestamp();
BEGIN
    INSERT INTO lead_stage_actions (organization_id, lead_id, lead_stage_id, sequence_number, action_type, params,
                                    max_attempts, perform_at, object_type, cause, depth, paused)
    SELECT n.organization_id, n.lead_id, n.id, a.sequence_number, a.action_type, a.params,
           coalesce((a.params ->> 'max_attempts')::integer, 10),
           CASE WHEN a.sequence_number = a.first THEN at END,
           a.object_type, n.cause, n.depth, a.paused
      FROM entered n
      JOIN lead_stages s ON s.id = n.id AND s.status = 'active'
      JOIN (SELECT psa.*, p.object_type, p.status = 'paused' AS paused, min(psa.sequence_number) OVER (PARTITION BY psa.pipeline_stage_id) AS first
              FROM pipeline_stage_actions psa
              JOIN pipeline_stages ps ON ps.id = psa.pipeline_stage_id
              JOIN pipelines p ON p.id = ps.pipeline_id
             WHERE psa.pipeline_stage_id IN (SELECT pipeline_stage_id FROM entered)) a
        ON a.pipeline_stage_id = n.pipeline_stage_id
     WHERE n.status = 'active'
     ORDER BY n.id, a.sequence_number;
    -- A stage with nothing to do is done on entry.
    UPDATE lead_stages s SET status = 'completed', finished_at = at
      FROM entered n
     WHERE s.id = n.id AND n.status = 'active' AND s.status = 'active'
       AND NOT EXISTS (SELECT FROM pipeline_stage_actions a WHERE a.pipeline_stage_id = n.pipeline_stage_id);
    RETURN NULL;
END $$;
-- +goose StatementEnd
DROP TRIGGER pipelines_after_goal ON pgautomate.pipelines;
DROP FUNCTION pgautomate.pipelines_after_goal();
DROP TRIGGER triggers_of_pipelines_insert ON pgautomate.triggers;
DROP TRIGGER triggers_of_pipelines_update ON pgautomate.triggers;
DROP TRIGGER triggers_of_pipelines_delete ON pgautomate.triggers;
DROP FUNCTION pgautomate.triggers_of_pipelines();
DELETE FROM pgautomate.triggers WHERE pipeline_id IS NOT NULL OR awaited_id IS NOT NULL;
DROP INDEX pgautomate.lead_stage_actions_awaited_idx;
ALTER TABLE pgautomate.triggers DROP COLUMN awaited_id;
DROP TABLE pgautomate.awaited;
ALTER TABLE pgautomate.lead_stage_actions DROP COLUMN asks_goal, DROP COLUMN waits_from;
ALTER TABLE pgautomate.lead_stages DROP COLUMN moved_from;
ALTER TABLE pgautomate.triggers DROP COLUMN pipeline_id;
DROP TABLE pgautomate.integrations;
DROP TABLE pgautomate.suppressions;
DROP TABLE pgautomate.replies;
ALTER TABLE pgautomate.object_types
    DROP COLUMN reply_when, DROP COLUMN reply_lead, DROP COLUMN reply_contact, DROP COLUMN reply_channel;
