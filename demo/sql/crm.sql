-- The sample CRM: an app's own tables, which know nothing of automations.
CREATE TABLE lead (
    id              text PRIMARY KEY,
    organization_id text NOT NULL,
    name            text NOT NULL,
    email           text NOT NULL,
    source          text NOT NULL,
    status          text NOT NULL,
    score           integer NOT NULL DEFAULT 0,
    priority        text,
    is_vip          boolean NOT NULL DEFAULT false,
    custom          jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE contact (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    lead_id         text NOT NULL REFERENCES lead ON DELETE CASCADE,
    name            text NOT NULL,
    title           text NOT NULL
);
CREATE INDEX contact_lead_idx ON contact (lead_id);
CREATE TABLE opportunity (
    id              text PRIMARY KEY,
    organization_id text NOT NULL,
    lead_id         text NOT NULL REFERENCES lead ON DELETE CASCADE,
    status          text NOT NULL,
    value           numeric(12, 2) NOT NULL
);
CREATE INDEX opportunity_lead_idx ON opportunity (lead_id);
CREATE TABLE message (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    lead_id         text NOT NULL REFERENCES lead ON DELETE CASCADE,
    direction       text NOT NULL,
    body            text NOT NULL
);
CREATE INDEX message_lead_idx ON message (lead_id);
