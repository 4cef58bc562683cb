-- A process that schedules and works claims for itself what it has room for, straight to running. Others' workers are
-- sent what they are to do.

-- +goose Up
ALTER TABLE pgautomate.workers ADD COLUMN claims boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN pgautomate.workers.claims IS 'It claims for itself: no other process sends it actions.';

-- +goose Down
ALTER TABLE pgautomate.workers DROP COLUMN claims;
