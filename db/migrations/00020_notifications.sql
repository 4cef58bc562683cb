-- Notifications: workflows of steps, for subscribers. An event is what a caller
-- triggered; it becomes a notification for each recipient, and that a job for each
-- step, after a first one, of type trigger, that is done at once.
--
-- Jobs and stage actions are one queue: both tables inherit from pgautomate.work,
-- which holds no row of its own. What claims, starts, ends and rescues reads and
-- writes through it; ids come from one sequence. So one throttle counts both, and
-- each table, read by its own name, holds only its own rows.
--
-- Locks, in this order: notifications, digest groups, jobs. Who can't have a lock
-- of another transaction leaves the rest for later.

-- +goose Up
CREATE TABLE pgautomate.work (LIKE pgautomate.lead_stage_actions INCLUDING DEFAULTS);
ALTER TABLE pgautomate.lead_stage_actions INHERIT pgautomate.work;
COMMENT ON TABLE pgautomate.work IS 'lead_stage_actions and notification_jobs as one: what the scheduler claims. Holds no row of its own.';

CREATE TABLE pgautomate.subscribers (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    subscriber_id   text NOT NULL CHECK (subscriber_id <> ''),
    first_name      text,
    last_name       text,
    email           text,
    phone           text,
    avatar          text,
    locale          text,
    timezone        text,
    data            jsonb,
    channels        jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(channels) = 'array'),
    is_online       boolean,
    last_online_at  timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    deleted_at      timestamptz,
    UNIQUE (organization_id, subscriber_id)
);
CREATE INDEX subscribers_live_idx ON pgautomate.subscribers (organization_id, id) WHERE deleted_at IS NULL;
COMMENT ON TABLE pgautomate.subscribers IS 'Who can be notified.';
COMMENT ON COLUMN pgautomate.subscribers.id IS 'Counts subscribers.';
COMMENT ON COLUMN pgautomate.subscribers.organization_id IS 'Whose subscriber it is.';
COMMENT ON COLUMN pgautomate.subscribers.subscriber_id IS 'The app''s own id.';
COMMENT ON COLUMN pgautomate.subscribers.first_name IS 'subscriber.firstName in templates.';
COMMENT ON COLUMN pgautomate.subscribers.last_name IS 'subscriber.lastName in templates.';
COMMENT ON COLUMN pgautomate.subscribers.email IS 'Where e-mail goes.';
COMMENT ON COLUMN pgautomate.subscribers.phone IS 'Where text messages go.';
COMMENT ON COLUMN pgautomate.subscribers.avatar IS 'URL of a picture.';
COMMENT ON COLUMN pgautomate.subscribers.locale IS 'Such as en_US.';
COMMENT ON COLUMN pgautomate.subscribers.timezone IS 'IANA name; times for this subscriber are in it.';
COMMENT ON COLUMN pgautomate.subscribers.data IS 'subscriber.data in templates.';
COMMENT ON COLUMN pgautomate.subscribers.channels IS 'Credentials for push and chat: [{providerId, integrationIdentifier, credentials}].';
COMMENT ON COLUMN pgautomate.subscribers.is_online IS 'As the app last said.';
COMMENT ON COLUMN pgautomate.subscribers.last_online_at IS 'When the app last said that the subscriber is, or ceased to be, online.';
COMMENT ON COLUMN pgautomate.subscribers.created_at IS 'Since when.';
COMMENT ON COLUMN pgautomate.subscribers.updated_at IS 'When it was last changed.';
COMMENT ON COLUMN pgautomate.subscribers.deleted_at IS 'Deleted then; made anew when it is named again.';

CREATE TABLE pgautomate.topics (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    key             text NOT NULL CHECK (key <> ''),
    name            text NOT NULL DEFAULT '',
    data            jsonb,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, key)
);
COMMENT ON TABLE pgautomate.topics IS 'Groups of subscribers that a trigger can name.';
COMMENT ON COLUMN pgautomate.topics.id IS 'Counts topics.';
COMMENT ON COLUMN pgautomate.topics.organization_id IS 'Whose topic it is.';
COMMENT ON COLUMN pgautomate.topics.key IS 'The app''s name for it.';
COMMENT ON COLUMN pgautomate.topics.name IS 'For people.';
COMMENT ON COLUMN pgautomate.topics.data IS 'What the app keeps with it.';
COMMENT ON COLUMN pgautomate.topics.created_at IS 'Since when.';
COMMENT ON COLUMN pgautomate.topics.updated_at IS 'When it was last changed.';

CREATE TABLE pgautomate.topic_subscribers (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic_id      bigint NOT NULL REFERENCES pgautomate.topics ON DELETE CASCADE,
    subscriber_no bigint NOT NULL REFERENCES pgautomate.subscribers,
    identifier    text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (topic_id, subscriber_no)
);
CREATE INDEX topic_subscribers_walk_idx ON pgautomate.topic_subscribers (topic_id, id);
CREATE INDEX topic_subscribers_subscriber_idx ON pgautomate.topic_subscribers (subscriber_no);
COMMENT ON TABLE pgautomate.topic_subscribers IS 'Members of topics.';
COMMENT ON COLUMN pgautomate.topic_subscribers.id IS 'The order in which a fan-out goes through them.';
COMMENT ON COLUMN pgautomate.topic_subscribers.topic_id IS 'topics.id.';
COMMENT ON COLUMN pgautomate.topic_subscribers.subscriber_no IS 'subscribers.id.';
COMMENT ON COLUMN pgautomate.topic_subscribers.identifier IS 'The app''s name of this subscription.';
COMMENT ON COLUMN pgautomate.topic_subscribers.created_at IS 'Since when.';

CREATE TABLE pgautomate.workflows (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id     text NOT NULL,
    identifier          text NOT NULL CHECK (identifier <> ''),
    name                text NOT NULL,
    description         text NOT NULL DEFAULT '',
    active              boolean NOT NULL DEFAULT false,
    critical            boolean NOT NULL DEFAULT false,
    tags                text[] NOT NULL DEFAULT '{}',
    preference_settings jsonb NOT NULL DEFAULT '{}',
    read_only           boolean NOT NULL DEFAULT false,
    payload_schema      jsonb,
    validate_payload    boolean NOT NULL DEFAULT false,
    group_id            text,
    data                jsonb,
    extra               jsonb NOT NULL DEFAULT '{}',
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    last_triggered_at   timestamptz,
    deleted_at          timestamptz
);
CREATE UNIQUE INDEX workflows_identifier_idx ON pgautomate.workflows (organization_id, identifier) WHERE deleted_at IS NULL;
CREATE INDEX workflows_list_idx ON pgautomate.workflows (organization_id, id) WHERE deleted_at IS NULL;
COMMENT ON TABLE pgautomate.workflows IS 'What a trigger names: steps that each recipient goes through.';
COMMENT ON COLUMN pgautomate.workflows.id IS 'Counts workflows.';
COMMENT ON COLUMN pgautomate.workflows.organization_id IS 'Whose workflow it is.';
COMMENT ON COLUMN pgautomate.workflows.identifier IS 'What triggers call it.';
COMMENT ON COLUMN pgautomate.workflows.name IS 'For people.';
COMMENT ON COLUMN pgautomate.workflows.description IS 'For people.';
COMMENT ON COLUMN pgautomate.workflows.active IS 'One that is not active, a draft for one, starts nothing.';
COMMENT ON COLUMN pgautomate.workflows.critical IS 'Subscribers'' preferences don''t count.';
COMMENT ON COLUMN pgautomate.workflows.tags IS 'For people.';
COMMENT ON COLUMN pgautomate.workflows.preference_settings IS 'Channel -> whether it is on for who has said nothing.';
COMMENT ON COLUMN pgautomate.workflows.read_only IS 'Subscribers can''t choose: the workflow''s own settings count.';
COMMENT ON COLUMN pgautomate.workflows.payload_schema IS 'JSON schema of the payload.';
COMMENT ON COLUMN pgautomate.workflows.validate_payload IS 'Triggers whose payload violates the schema are refused.';
COMMENT ON COLUMN pgautomate.workflows.group_id IS 'notificationGroupId of a v1 template.';
COMMENT ON COLUMN pgautomate.workflows.data IS 'What the app keeps with it.';
COMMENT ON COLUMN pgautomate.workflows.extra IS 'Members of the request that mean nothing here and are given back.';
COMMENT ON COLUMN pgautomate.workflows.created_at IS 'Since when.';
COMMENT ON COLUMN pgautomate.workflows.updated_at IS 'When it was last changed.';
COMMENT ON COLUMN pgautomate.workflows.last_triggered_at IS 'Kept for the wire; NULL: not known.';
COMMENT ON COLUMN pgautomate.workflows.deleted_at IS 'Deleted then; what runs goes on.';

-- A step is never changed: who saves a workflow retires its steps and writes new
-- ones of the same names. So what runs goes on as it began, and holds no copy.
CREATE TABLE pgautomate.workflow_steps (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow_id  bigint NOT NULL REFERENCES pgautomate.workflows,
    position     integer NOT NULL,
    step_id      text NOT NULL,
    name         text NOT NULL DEFAULT '',
    type         text NOT NULL CHECK (type IN ('in_app', 'email', 'sms', 'push', 'chat', 'webhook', 'digest', 'delay')),
    wire_type    text NOT NULL,
    active       boolean NOT NULL DEFAULT true,
    stop_on_fail boolean NOT NULL DEFAULT false,
    controls     jsonb NOT NULL DEFAULT '{}',
    settings     jsonb NOT NULL DEFAULT '{}',
    filters      jsonb NOT NULL DEFAULT '[]',
    variants     jsonb NOT NULL DEFAULT '[]',
    variables    jsonb NOT NULL DEFAULT '[]',
    retired_at   timestamptz
);
CREATE INDEX workflow_steps_workflow_idx ON pgautomate.workflow_steps (workflow_id, position) WHERE retired_at IS NULL;
COMMENT ON TABLE pgautomate.workflow_steps IS 'Steps of workflows; a row is never changed, only retired.';
COMMENT ON COLUMN pgautomate.workflow_steps.id IS 'Counts steps.';
COMMENT ON COLUMN pgautomate.workflow_steps.workflow_id IS 'workflows.id.';
COMMENT ON COLUMN pgautomate.workflow_steps.position IS 'The order; from 1.';
COMMENT ON COLUMN pgautomate.workflow_steps.step_id IS 'Its name within the workflow, the same through changes.';
COMMENT ON COLUMN pgautomate.workflow_steps.name IS 'For people.';
COMMENT ON COLUMN pgautomate.workflow_steps.type IS 'The channel, or digest or delay.';
COMMENT ON COLUMN pgautomate.workflow_steps.wire_type IS 'The type as the request named it.';
COMMENT ON COLUMN pgautomate.workflow_steps.active IS 'One that is not active makes no job.';
COMMENT ON COLUMN pgautomate.workflow_steps.stop_on_fail IS 'When it fails, what follows is canceled.';
COMMENT ON COLUMN pgautomate.workflow_steps.controls IS 'The content: Liquid templates.';
COMMENT ON COLUMN pgautomate.workflow_steps.settings IS 'Of a digest or delay: how long, by which key.';
COMMENT ON COLUMN pgautomate.workflow_steps.filters IS 'When it is carried out, in the form of v1; JSON logic is in controls.skip.';
COMMENT ON COLUMN pgautomate.workflow_steps.variants IS 'Other contents, each with its filters; the first that passes counts.';
COMMENT ON COLUMN pgautomate.workflow_steps.variables IS 'What of the payload its content needs: [{name, type, required, defaultValue}].';
COMMENT ON COLUMN pgautomate.workflow_steps.retired_at IS 'Replaced or deleted then.';

CREATE TABLE pgautomate.tenants (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    identifier      text NOT NULL CHECK (identifier <> ''),
    name            text NOT NULL DEFAULT '',
    data            jsonb,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, identifier)
);
COMMENT ON TABLE pgautomate.tenants IS 'Customers of the organization''s own, for whom a trigger can speak.';
COMMENT ON COLUMN pgautomate.tenants.id IS 'Counts tenants.';
COMMENT ON COLUMN pgautomate.tenants.organization_id IS 'Whose tenant it is.';
COMMENT ON COLUMN pgautomate.tenants.identifier IS 'What triggers call it.';
COMMENT ON COLUMN pgautomate.tenants.name IS 'tenant.name in templates.';
COMMENT ON COLUMN pgautomate.tenants.data IS 'tenant.data in templates.';
COMMENT ON COLUMN pgautomate.tenants.created_at IS 'Since when.';
COMMENT ON COLUMN pgautomate.tenants.updated_at IS 'When it was last changed.';

CREATE TABLE pgautomate.workflow_overrides (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow_id         bigint NOT NULL REFERENCES pgautomate.workflows,
    tenant_id           bigint NOT NULL REFERENCES pgautomate.tenants ON DELETE CASCADE,
    active              boolean,
    preference_settings jsonb,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    UNIQUE (workflow_id, tenant_id)
);
COMMENT ON TABLE pgautomate.workflow_overrides IS 'What a workflow is for one tenant.';
COMMENT ON COLUMN pgautomate.workflow_overrides.id IS 'Counts overrides.';
COMMENT ON COLUMN pgautomate.workflow_overrides.workflow_id IS 'workflows.id.';
COMMENT ON COLUMN pgautomate.workflow_overrides.tenant_id IS 'tenants.id.';
COMMENT ON COLUMN pgautomate.workflow_overrides.active IS 'Counts instead of the workflow''s; NULL: the workflow''s.';
COMMENT ON COLUMN pgautomate.workflow_overrides.preference_settings IS 'Channel -> whether it is on; counts before all preferences. NULL: none.';
COMMENT ON COLUMN pgautomate.workflow_overrides.created_at IS 'Since when.';
COMMENT ON COLUMN pgautomate.workflow_overrides.updated_at IS 'When it was last changed.';

CREATE TABLE pgautomate.preferences (
    subscriber_no bigint NOT NULL REFERENCES pgautomate.subscribers,
    workflow_id   bigint NOT NULL DEFAULT 0,
    enabled       boolean NOT NULL DEFAULT true,
    channels      jsonb NOT NULL DEFAULT '{}',
    schedule      jsonb,
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subscriber_no, workflow_id)
);
COMMENT ON TABLE pgautomate.preferences IS 'What subscribers want to get.';
COMMENT ON COLUMN pgautomate.preferences.subscriber_no IS 'subscribers.id.';
COMMENT ON COLUMN pgautomate.preferences.workflow_id IS 'workflows.id; 0: of all workflows.';
COMMENT ON COLUMN pgautomate.preferences.enabled IS 'Whether anything is wanted.';
COMMENT ON COLUMN pgautomate.preferences.channels IS 'Channel -> whether it is wanted.';
COMMENT ON COLUMN pgautomate.preferences.schedule IS 'Kept for the wire.';
COMMENT ON COLUMN pgautomate.preferences.updated_at IS 'When it was last changed.';

CREATE TABLE pgautomate.notification_events (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    workflow_id     bigint NOT NULL,
    transaction_id  text NOT NULL,
    step_ids        bigint[] NOT NULL DEFAULT '{}',
    recipients      jsonb NOT NULL DEFAULT '[]',
    topics          jsonb NOT NULL DEFAULT '[]',
    broadcast       boolean NOT NULL DEFAULT false,
    payload         jsonb NOT NULL DEFAULT '{}',
    overrides       jsonb NOT NULL DEFAULT '{}',
    actor           text,
    tenant_id       bigint,
    attachments     jsonb NOT NULL DEFAULT '[]',
    status          text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'canceled', 'failed')),
    error           text,
    topic_no        integer NOT NULL DEFAULT 0,
    topic_after     bigint NOT NULL DEFAULT 0,
    fanned_out      bigint NOT NULL DEFAULT 0,
    cause           jsonb,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz,
    canceled_at     timestamptz,
    UNIQUE (organization_id, transaction_id)
);
CREATE INDEX notification_events_open_idx ON pgautomate.notification_events (id) WHERE status = 'pending';
CREATE INDEX notification_events_attachments_idx ON pgautomate.notification_events (id) WHERE attachments <> '[]';
COMMENT ON TABLE pgautomate.notification_events IS 'Triggers of workflows that were accepted, and how far each is shared out among its recipients.';
COMMENT ON COLUMN pgautomate.notification_events.id IS 'Counts events.';
COMMENT ON COLUMN pgautomate.notification_events.organization_id IS 'Whose event it is.';
COMMENT ON COLUMN pgautomate.notification_events.workflow_id IS 'workflows.id.';
COMMENT ON COLUMN pgautomate.notification_events.transaction_id IS 'The caller''s, or one made up; a second event of that id is none.';
COMMENT ON COLUMN pgautomate.notification_events.step_ids IS 'The workflow''s active steps when it was accepted.';
COMMENT ON COLUMN pgautomate.notification_events.recipients IS 'The single recipients, each once, as they were given; emptied when they have their notifications.';
COMMENT ON COLUMN pgautomate.notification_events.topics IS 'Topics: [{topicKey, exclude}].';
COMMENT ON COLUMN pgautomate.notification_events.broadcast IS 'For all subscribers.';
COMMENT ON COLUMN pgautomate.notification_events.payload IS 'The payload, without attachments'' bytes.';
COMMENT ON COLUMN pgautomate.notification_events.overrides IS 'As given.';
COMMENT ON COLUMN pgautomate.notification_events.actor IS 'subscriberId of who did it; left out of topics.';
COMMENT ON COLUMN pgautomate.notification_events.tenant_id IS 'tenants.id.';
COMMENT ON COLUMN pgautomate.notification_events.attachments IS 'Where attachments are kept: [{key, name, mime, channels, cid, disposition}].';
COMMENT ON COLUMN pgautomate.notification_events.status IS 'pending: still being shared out; done; canceled; failed.';
COMMENT ON COLUMN pgautomate.notification_events.error IS 'What could not be done, such as a topic that isn''t there.';
COMMENT ON COLUMN pgautomate.notification_events.topic_no IS 'Progress: which topic.';
COMMENT ON COLUMN pgautomate.notification_events.topic_after IS 'Progress: the last member of that topic, or subscriber, that has its notification.';
COMMENT ON COLUMN pgautomate.notification_events.fanned_out IS 'Progress: notifications made so far.';
COMMENT ON COLUMN pgautomate.notification_events.cause IS 'What automation triggered it, for the loop guard.';
COMMENT ON COLUMN pgautomate.notification_events.created_at IS 'When it was accepted.';
COMMENT ON COLUMN pgautomate.notification_events.finished_at IS 'When all had their notifications.';
COMMENT ON COLUMN pgautomate.notification_events.canceled_at IS 'When it was canceled: nothing of it starts from then on.';

CREATE TABLE pgautomate.notifications (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    event_id        bigint NOT NULL REFERENCES pgautomate.notification_events,
    workflow_id     bigint NOT NULL,
    subscriber_id   text NOT NULL,
    subscriber_no   bigint NOT NULL,
    transaction_id  text NOT NULL,
    channels        text[] NOT NULL DEFAULT '{}',
    digested_into   bigint,
    topic_key       text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    canceled_at     timestamptz,
    UNIQUE (event_id, subscriber_no)
) WITH (fillfactor = 90);
CREATE INDEX notifications_list_idx ON pgautomate.notifications (organization_id, id);
CREATE INDEX notifications_subscriber_idx ON pgautomate.notifications (subscriber_no, id);
COMMENT ON TABLE pgautomate.notifications IS 'One event for one recipient.';
COMMENT ON COLUMN pgautomate.notifications.id IS 'Counts notifications.';
COMMENT ON COLUMN pgautomate.notifications.organization_id IS 'Whose notification it is.';
COMMENT ON COLUMN pgautomate.notifications.event_id IS 'notification_events.id; payload and overrides are there.';
COMMENT ON COLUMN pgautomate.notifications.workflow_id IS 'workflows.id.';
COMMENT ON COLUMN pgautomate.notifications.subscriber_id IS 'The recipient: the app''s own id.';
COMMENT ON COLUMN pgautomate.notifications.subscriber_no IS 'subscribers.id.';
COMMENT ON COLUMN pgautomate.notifications.transaction_id IS 'The event''s.';
COMMENT ON COLUMN pgautomate.notifications.channels IS 'Types of its steps.';
COMMENT ON COLUMN pgautomate.notifications.digested_into IS 'The notification whose digest holds it.';
COMMENT ON COLUMN pgautomate.notifications.topic_key IS 'The topic through which the recipient was reached.';
COMMENT ON COLUMN pgautomate.notifications.created_at IS 'When it was made.';
COMMENT ON COLUMN pgautomate.notifications.canceled_at IS 'When it was canceled.';

CREATE TABLE pgautomate.digest_groups (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow_id   bigint NOT NULL,
    step_id       text NOT NULL,
    subscriber_no bigint NOT NULL,
    digest_key    text NOT NULL DEFAULT '',
    master_job_id bigint,
    ends_at       timestamptz,
    UNIQUE (workflow_id, step_id, subscriber_no, digest_key)
) WITH (fillfactor = 70);
COMMENT ON TABLE pgautomate.digest_groups IS 'What is merged with what: its lock decides who opens a window and who is merged.';
COMMENT ON COLUMN pgautomate.digest_groups.id IS 'Counts groups.';
COMMENT ON COLUMN pgautomate.digest_groups.workflow_id IS 'workflows.id.';
COMMENT ON COLUMN pgautomate.digest_groups.step_id IS 'The digest step''s name.';
COMMENT ON COLUMN pgautomate.digest_groups.subscriber_no IS 'subscribers.id.';
COMMENT ON COLUMN pgautomate.digest_groups.digest_key IS 'The digest key''s value, as JSON; empty without one.';
COMMENT ON COLUMN pgautomate.digest_groups.master_job_id IS 'The digest job whose window is open; NULL: none.';
COMMENT ON COLUMN pgautomate.digest_groups.ends_at IS 'When that window ends.';

CREATE TABLE pgautomate.notification_jobs (
    id              bigint NOT NULL DEFAULT nextval('pgautomate.lead_stage_actions_id_seq') PRIMARY KEY,
    notification_id bigint NOT NULL,
    subscriber_id   text NOT NULL,
    transaction_id  text NOT NULL,
    step_no         bigint,
    step_id         text NOT NULL DEFAULT '',
    stop_on_fail    boolean NOT NULL DEFAULT false,
    digest_group    bigint,
    merged_into     bigint
) INHERITS (pgautomate.work)
  WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 1, autovacuum_analyze_scale_factor = 0.05);
ALTER TABLE pgautomate.notification_jobs ALTER COLUMN max_attempts SET DEFAULT 3;
-- As those of lead_stage_actions.
CREATE INDEX notification_jobs_due_idx ON pgautomate.notification_jobs (organization_id, action_type, perform_at, id)
    WHERE status = 'pending' AND perform_at IS NOT NULL AND NOT paused;
CREATE INDEX notification_jobs_timer_idx ON pgautomate.notification_jobs (organization_id, action_type, perform_at, id)
    WHERE status = 'delayed' AND NOT paused;
CREATE INDEX notification_jobs_paused_idx ON pgautomate.notification_jobs (organization_id, action_type)
    WHERE paused AND status IN ('pending', 'delayed') AND perform_at IS NOT NULL;
CREATE INDEX notification_jobs_in_flight_idx ON pgautomate.notification_jobs (organization_id, action_type, status)
    WHERE status IN ('queued', 'running');
CREATE INDEX notification_jobs_finished_idx ON pgautomate.notification_jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE UNIQUE INDEX notification_jobs_notification_idx ON pgautomate.notification_jobs (notification_id, sequence_number);
CREATE INDEX notification_jobs_group_idx ON pgautomate.notification_jobs (digest_group, id) WHERE digest_group IS NOT NULL;
COMMENT ON TABLE pgautomate.notification_jobs IS 'A notification''s steps, one after the other; the first row is the trigger itself.';
COMMENT ON COLUMN pgautomate.notification_jobs.notification_id IS 'notifications.id.';
COMMENT ON COLUMN pgautomate.notification_jobs.subscriber_id IS 'The recipient: the app''s own id.';
COMMENT ON COLUMN pgautomate.notification_jobs.transaction_id IS 'The event''s.';
COMMENT ON COLUMN pgautomate.notification_jobs.step_no IS 'workflow_steps.id; NULL for the trigger''s row.';
COMMENT ON COLUMN pgautomate.notification_jobs.step_id IS 'The step''s name.';
COMMENT ON COLUMN pgautomate.notification_jobs.stop_on_fail IS 'When it fails, what follows is canceled.';
COMMENT ON COLUMN pgautomate.notification_jobs.digest_group IS 'digest_groups.id, of a digest that was reached.';
COMMENT ON COLUMN pgautomate.notification_jobs.merged_into IS 'The digest job that holds this one''s event.';
COMMENT ON COLUMN pgautomate.notification_jobs.action_type IS 'The step''s type: a channel, digest, delay, or trigger.';
COMMENT ON COLUMN pgautomate.notification_jobs.perform_at IS 'NULL: waits for the step before it. Else it may start from then on; a digest''s or delay''s end while it is delayed.';
COMMENT ON COLUMN pgautomate.notification_jobs.result IS 'What the step gave; a digest''s events.';

CREATE TABLE pgautomate.messages (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    notification_id bigint NOT NULL,
    job_id          bigint NOT NULL UNIQUE,
    workflow_id     bigint NOT NULL,
    subscriber_id   text NOT NULL,
    subscriber_no   bigint NOT NULL,
    transaction_id  text NOT NULL,
    channel         text NOT NULL,
    provider_id     text NOT NULL DEFAULT 'novu',
    recipient       text,
    subject         text,
    content         text,
    cta             jsonb NOT NULL DEFAULT '{}',
    payload         jsonb NOT NULL DEFAULT '{}',
    data            jsonb,
    avatar          text,
    tags            text[] NOT NULL DEFAULT '{}',
    status          text NOT NULL DEFAULT 'sent' CHECK (status IN ('sent', 'error', 'warning')),
    error_id        text,
    error_text      text,
    read            boolean NOT NULL DEFAULT false,
    seen            boolean NOT NULL DEFAULT false,
    archived        boolean NOT NULL DEFAULT false,
    read_at         timestamptz,
    seen_at         timestamptz,
    archived_at     timestamptz,
    snoozed_until   timestamptz,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at      timestamptz
);
CREATE INDEX messages_list_idx ON pgautomate.messages (organization_id, id) WHERE deleted_at IS NULL;
CREATE INDEX messages_transaction_idx ON pgautomate.messages (organization_id, transaction_id) WHERE deleted_at IS NULL;
CREATE INDEX messages_feed_idx ON pgautomate.messages (subscriber_no, channel, id) WHERE deleted_at IS NULL;
CREATE INDEX messages_unseen_idx ON pgautomate.messages (subscriber_no) WHERE NOT seen AND channel = 'in_app' AND deleted_at IS NULL;
CREATE INDEX messages_notification_idx ON pgautomate.messages (notification_id);
COMMENT ON TABLE pgautomate.messages IS 'What was sent, or put into the in-app feed; at most one for each job.';
COMMENT ON COLUMN pgautomate.messages.id IS 'Counts messages.';
COMMENT ON COLUMN pgautomate.messages.organization_id IS 'Whose message it is.';
COMMENT ON COLUMN pgautomate.messages.notification_id IS 'notifications.id.';
COMMENT ON COLUMN pgautomate.messages.job_id IS 'notification_jobs.id.';
COMMENT ON COLUMN pgautomate.messages.workflow_id IS 'workflows.id.';
COMMENT ON COLUMN pgautomate.messages.subscriber_id IS 'The recipient: the app''s own id.';
COMMENT ON COLUMN pgautomate.messages.subscriber_no IS 'subscribers.id.';
COMMENT ON COLUMN pgautomate.messages.transaction_id IS 'The event''s.';
COMMENT ON COLUMN pgautomate.messages.channel IS 'in_app, email, sms, push, chat or webhook.';
COMMENT ON COLUMN pgautomate.messages.provider_id IS 'Who took it.';
COMMENT ON COLUMN pgautomate.messages.recipient IS 'The address it went to.';
COMMENT ON COLUMN pgautomate.messages.subject IS 'The subject, rendered.';
COMMENT ON COLUMN pgautomate.messages.content IS 'The content, rendered.';
COMMENT ON COLUMN pgautomate.messages.cta IS 'Buttons and where they lead, in the feed.';
COMMENT ON COLUMN pgautomate.messages.payload IS 'The event''s payload.';
COMMENT ON COLUMN pgautomate.messages.data IS 'What the step gives along, in the feed.';
COMMENT ON COLUMN pgautomate.messages.avatar IS 'URL of a picture, in the feed.';
COMMENT ON COLUMN pgautomate.messages.tags IS 'The workflow''s.';
COMMENT ON COLUMN pgautomate.messages.status IS 'sent; warning: there was nowhere to send it; error: it could not be sent.';
COMMENT ON COLUMN pgautomate.messages.error_id IS 'What was wrong, a word.';
COMMENT ON COLUMN pgautomate.messages.error_text IS 'What was wrong.';
COMMENT ON COLUMN pgautomate.messages.read IS 'Read, in the feed.';
COMMENT ON COLUMN pgautomate.messages.seen IS 'Seen, in the feed.';
COMMENT ON COLUMN pgautomate.messages.archived IS 'Put away, in the feed.';
COMMENT ON COLUMN pgautomate.messages.read_at IS 'When read was last changed.';
COMMENT ON COLUMN pgautomate.messages.seen_at IS 'When seen was last changed.';
COMMENT ON COLUMN pgautomate.messages.archived_at IS 'When archived was last changed.';
COMMENT ON COLUMN pgautomate.messages.snoozed_until IS 'Not shown until then; kept for the wire.';
COMMENT ON COLUMN pgautomate.messages.created_at IS 'When it was made.';
COMMENT ON COLUMN pgautomate.messages.updated_at IS 'When it was last changed.';
COMMENT ON COLUMN pgautomate.messages.deleted_at IS 'Deleted then.';

-- What the lifecycle's columns don't say of a job.
CREATE TABLE pgautomate.job_details (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id          bigint NOT NULL,
    status          text NOT NULL CHECK (status IN ('Success', 'Warning', 'Failed', 'Pending', 'Queued', 'ReadConfirmation')),
    detail          text NOT NULL,
    source          text NOT NULL DEFAULT 'Internal' CHECK (source IN ('Credentials', 'Internal', 'Payload', 'Webhook')),
    provider_id     text,
    raw             text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX job_details_job_idx ON pgautomate.job_details (job_id, id);
COMMENT ON TABLE pgautomate.job_details IS 'What happened to a job beside the changes of its status; see execution_details.';
COMMENT ON COLUMN pgautomate.job_details.id IS 'Counts details.';
COMMENT ON COLUMN pgautomate.job_details.job_id IS 'notification_jobs.id.';
COMMENT ON COLUMN pgautomate.job_details.status IS 'How it went.';
COMMENT ON COLUMN pgautomate.job_details.detail IS 'What happened, in Novu''s words.';
COMMENT ON COLUMN pgautomate.job_details.source IS 'Whose doing it was.';
COMMENT ON COLUMN pgautomate.job_details.provider_id IS 'The provider, where one took part.';
COMMENT ON COLUMN pgautomate.job_details.raw IS 'More about it.';
COMMENT ON COLUMN pgautomate.job_details.created_at IS 'When.';

CREATE VIEW pgautomate.execution_details AS
SELECT j.organization_id, j.notification_id, d.job_id, d.id AS detail_id, d.status, d.detail, d.source, d.provider_id, d.raw, d.created_at, 3 AS place
  FROM pgautomate.job_details d JOIN pgautomate.notification_jobs j ON j.id = d.job_id
UNION ALL
SELECT organization_id, notification_id, id, 0, 'Pending', 'Step created', 'Internal', NULL, NULL, created_at, 0
  FROM pgautomate.notification_jobs
UNION ALL
SELECT organization_id, notification_id, id, 0, 'Pending', 'Step queued', 'Internal', NULL, NULL, queued_at, 1
  FROM pgautomate.notification_jobs WHERE queued_at IS NOT NULL AND action_type NOT IN ('trigger', 'digest', 'delay')
UNION ALL
SELECT organization_id, notification_id, id, 0, 'Pending', 'Start sending message', 'Internal', NULL, NULL, started_at, 2
  FROM pgautomate.notification_jobs WHERE started_at IS NOT NULL AND action_type NOT IN ('trigger', 'digest', 'delay')
UNION ALL
SELECT j.organization_id, j.notification_id, j.id, 0, CASE m.status WHEN 'sent' THEN 'Pending' WHEN 'warning' THEN 'Warning' ELSE 'Failed' END,
       'Message created', 'Internal', m.provider_id, NULL, m.created_at, 4
  FROM pgautomate.notification_jobs j JOIN pgautomate.messages m ON m.job_id = j.id
UNION ALL
SELECT j.organization_id, j.notification_id, j.id, 0, 'Success', 'Message sent', 'Internal', m.provider_id, NULL, j.finished_at, 5
  FROM pgautomate.notification_jobs j JOIN pgautomate.messages m ON m.job_id = j.id AND m.status = 'sent'
 WHERE j.status = 'completed';
COMMENT ON VIEW pgautomate.execution_details IS 'All that happened to jobs, in Novu''s words; order by place, created_at, detail_id.';
COMMENT ON COLUMN pgautomate.execution_details.organization_id IS 'The organization.';
COMMENT ON COLUMN pgautomate.execution_details.notification_id IS 'notifications.id.';
COMMENT ON COLUMN pgautomate.execution_details.job_id IS 'notification_jobs.id.';
COMMENT ON COLUMN pgautomate.execution_details.detail_id IS 'job_details.id; 0 where the job''s or its message''s own row says it.';
COMMENT ON COLUMN pgautomate.execution_details.status IS 'How it went.';
COMMENT ON COLUMN pgautomate.execution_details.detail IS 'What happened.';
COMMENT ON COLUMN pgautomate.execution_details.source IS 'Whose doing it was.';
COMMENT ON COLUMN pgautomate.execution_details.provider_id IS 'The provider, where one took part.';
COMMENT ON COLUMN pgautomate.execution_details.raw IS 'More about it.';
COMMENT ON COLUMN pgautomate.execution_details.created_at IS 'When.';
COMMENT ON COLUMN pgautomate.execution_details.place IS 'The order of what happened at the same moment.';

CREATE TABLE pgautomate.idempotency_keys (
    organization_id text NOT NULL,
    key             text NOT NULL,
    request_hash    bytea NOT NULL,
    reserved_until  timestamptz,
    status          integer,
    content_type    text,
    body            bytea,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, key)
);
CREATE INDEX idempotency_keys_created_idx ON pgautomate.idempotency_keys (created_at);
COMMENT ON TABLE pgautomate.idempotency_keys IS 'Answers of requests that carried an idempotency key, for a day.';
COMMENT ON COLUMN pgautomate.idempotency_keys.organization_id IS 'Whose key it is.';
COMMENT ON COLUMN pgautomate.idempotency_keys.key IS 'The header.';
COMMENT ON COLUMN pgautomate.idempotency_keys.request_hash IS 'SHA-256 of method, path and body: the same key with another request is refused.';
COMMENT ON COLUMN pgautomate.idempotency_keys.reserved_until IS 'The request is at work; from then on it is taken for lost. NULL: it has its answer.';
COMMENT ON COLUMN pgautomate.idempotency_keys.status IS 'The answer''s status.';
COMMENT ON COLUMN pgautomate.idempotency_keys.content_type IS 'The answer''s content type.';
COMMENT ON COLUMN pgautomate.idempotency_keys.body IS 'The answer.';
COMMENT ON COLUMN pgautomate.idempotency_keys.created_at IS 'When it first came.';

-- Notifications whose next job could not be made due at once.
CREATE TABLE pgautomate.notifications_later (
    notification_id bigint NOT NULL,
    noted_at        timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE pgautomate.notifications_later IS 'Whose next job is made due by the scheduler, because somebody held the notification.';
COMMENT ON COLUMN pgautomate.notifications_later.notification_id IS 'notifications.id.';
COMMENT ON COLUMN pgautomate.notifications_later.noted_at IS 'Since when.';

CREATE TRIGGER notification_jobs_after_insert AFTER INSERT ON pgautomate.notification_jobs
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION pgautomate.lead_stage_actions_after_insert();

-- Makes the next job of each notification due, once the one before it has ended.
-- What follows a job that failed and says so is canceled; what follows one that was
-- merged is merged with it.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.advance_notifications(ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    at     timestamptz := clock_timestamp();
    locked bigint[];
BEGIN
    SELECT coalesce(array_agg(l.id), '{}') INTO locked FROM (
        SELECT n.id FROM notifications n WHERE n.id = ANY (ids) ORDER BY n.id FOR UPDATE SKIP LOCKED) l;
    IF cardinality(locked) < cardinality(ids) THEN
        INSERT INTO notifications_later (notification_id)
        SELECT n.id FROM notifications n WHERE n.id = ANY (ids) AND n.id <> ALL (locked);
    END IF;
    UPDATE notification_jobs j SET status = 'canceled', reason = 'failed', finished_at = at
     WHERE j.notification_id = ANY (locked) AND j.status = 'pending'
       AND EXISTS (SELECT FROM notification_jobs f WHERE f.notification_id = j.notification_id
                      AND f.sequence_number < j.sequence_number AND f.status = 'failed' AND f.stop_on_fail);
    WITH next AS MATERIALIZED (
        SELECT a.id FROM unnest(locked) n (id)
         CROSS JOIN LATERAL (SELECT j.id FROM notification_jobs j
                              WHERE j.notification_id = n.id AND j.status = 'pending'
                              ORDER BY j.sequence_number LIMIT 1) a
         WHERE NOT EXISTS (SELECT FROM notification_jobs b WHERE b.notification_id = n.id
                              AND (b.status IN ('queued', 'running', 'delayed')
                                   OR b.status = 'pending' AND b.perform_at IS NOT NULL))
    ), due AS (
        UPDATE notification_jobs j SET perform_at = at WHERE j.id = ANY (ARRAY(SELECT next.id FROM next))
        RETURNING j.organization_id, j.action_type
    )
    INSERT INTO due_signals (organization_id, action_type, perform_at)
    SELECT DISTINCT organization_id, action_type, at FROM due;
END $$;
-- +goose StatementEnd

-- Gives recipients their notifications of an event, with a job for each step; who
-- has one already gets no second. How many were made.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.make_notifications(event bigint, nos bigint[], ids text[], topic text) RETURNS integer
LANGUAGE plpgsql SET search_path = pgautomate, pg_temp AS $$
DECLARE
    e    notification_events;
    kind text[];
    made integer;
BEGIN
    SELECT * INTO STRICT e FROM notification_events x WHERE x.id = event;
    SELECT array_agg(t.type ORDER BY t.first) INTO kind
      FROM (SELECT s.type, min(s.position) AS first FROM workflow_steps s WHERE s.id = ANY (e.step_ids) GROUP BY s.type) t;
    WITH n AS (
        INSERT INTO notifications (organization_id, event_id, workflow_id, subscriber_id, subscriber_no, transaction_id, channels, topic_key)
        SELECT e.organization_id, e.id, e.workflow_id, u.id, u.no, e.transaction_id, kind, topic
          FROM unnest(nos, ids) WITH ORDINALITY u (no, id, place) ORDER BY u.place
        ON CONFLICT (event_id, subscriber_no) DO NOTHING
        RETURNING notifications.id, notifications.subscriber_id
    ), j AS (
        INSERT INTO notification_jobs (organization_id, lead_id, object_type, notification_id, subscriber_id, transaction_id, sequence_number,
                                       action_type, step_no, step_id, stop_on_fail, status, perform_at, started_at, finished_at, cause)
        SELECT e.organization_id, n.subscriber_id, 'subscriber', n.id, n.subscriber_id, e.transaction_id, s.place,
               s.type, s.id, s.step_id, s.stop_on_fail, s.status::job_status,
               CASE WHEN s.place <= 1 THEN clock_timestamp() END, CASE WHEN s.place = 0 THEN clock_timestamp() END,
               CASE WHEN s.place = 0 THEN clock_timestamp() END, e.cause
          FROM n CROSS JOIN (
               SELECT 0 AS place, NULL::bigint AS id, '' AS step_id, 'trigger' AS type, false AS stop_on_fail, 'completed' AS status
                UNION ALL
               SELECT (row_number() OVER (ORDER BY w.position))::integer, w.id, w.step_id, w.type, w.stop_on_fail OR w.type = 'delay', 'pending'
                 FROM workflow_steps w WHERE w.id = ANY (e.step_ids)) s
         ORDER BY n.id, s.place
    )
    SELECT count(*)::integer INTO made FROM n;
    RETURN made;
END $$;
-- +goose StatementEnd

-- The views of the queue show both.
-- +goose StatementBegin
DO $$
DECLARE
    view text;
BEGIN
    FOREACH view IN ARRAY ARRAY['pgautomate.action_queue', 'pgautomate.action_lateness'] LOOP
        EXECUTE format('CREATE OR REPLACE VIEW %s AS %s', view, replace(pg_get_viewdef(view::regclass), 'lead_stage_actions', 'work'));
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.work, pgautomate.subscribers, pgautomate.topics, pgautomate.topic_subscribers, '
                'pgautomate.workflows, pgautomate.workflow_steps, pgautomate.tenants, pgautomate.workflow_overrides, pgautomate.preferences, '
                'pgautomate.notification_events, pgautomate.notifications, pgautomate.notification_jobs, pgautomate.digest_groups, '
                'pgautomate.messages, pgautomate.job_details, pgautomate.execution_details, pgautomate.notifications_later TO %I', role);
            EXECUTE format('GRANT SELECT (organization_id, key, reserved_until, status, created_at) ON pgautomate.idempotency_keys TO %I', role);
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DO $$
DECLARE
    view text;
BEGIN
    FOREACH view IN ARRAY ARRAY['pgautomate.action_queue', 'pgautomate.action_lateness'] LOOP
        EXECUTE format('CREATE OR REPLACE VIEW %s AS %s', view,
            regexp_replace(pg_get_viewdef(view::regclass), '\mwork\M', 'lead_stage_actions', 'g'));
    END LOOP;
END $$;
-- +goose StatementEnd
DROP FUNCTION pgautomate.make_notifications(bigint, bigint[], text[], text);
DROP FUNCTION pgautomate.advance_notifications(bigint[]);
DROP TABLE pgautomate.notifications_later;
DROP TABLE pgautomate.idempotency_keys;
DROP VIEW pgautomate.execution_details;
DROP TABLE pgautomate.job_details;
DROP TABLE pgautomate.messages;
DROP TABLE pgautomate.notification_jobs;
DROP TABLE pgautomate.digest_groups;
DROP TABLE pgautomate.notifications;
DROP TABLE pgautomate.notification_events;
DROP TABLE pgautomate.preferences;
DROP TABLE pgautomate.workflow_overrides;
DROP TABLE pgautomate.tenants;
DROP TABLE pgautomate.workflow_steps;
DROP TABLE pgautomate.workflows;
DROP TABLE pgautomate.topic_subscribers;
DROP TABLE pgautomate.topics;
DROP TABLE pgautomate.subscribers;
ALTER TABLE pgautomate.lead_stage_actions NO INHERIT pgautomate.work;
DROP TABLE pgautomate.work;
