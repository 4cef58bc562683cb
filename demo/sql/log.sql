-- The table of a replay: a case is a lead, an activity its status.
CREATE TABLE lead (
    id              text PRIMARY KEY,
    organization_id text NOT NULL,
    status          text NOT NULL,
    changed_at      timestamptz NOT NULL
) WITH (fillfactor = 70);
