-- Waits that something else ends: replies. Locks: ACCESS EXCLUSIVE on
-- object_types, for a moment.

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

-- +goose StatementBegin
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['pgautomate_app', 'pgautomate_readonly'] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON pgautomate.replies TO %I', role);
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP TABLE pgautomate.replies;
ALTER TABLE pgautomate.object_types
    DROP COLUMN reply_when, DROP COLUMN reply_lead, DROP COLUMN reply_contact, DROP COLUMN reply_channel;
