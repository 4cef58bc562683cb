-- Which notification's digest holds another one is what its jobs say (merged_into).
-- As a column of notifications it had to be written by whoever holds a digest's group,
-- who must not wait for a notification: that is the other way round than everybody else.

-- +goose Up
ALTER TABLE pgautomate.notifications DROP COLUMN digested_into;

-- +goose Down
ALTER TABLE pgautomate.notifications ADD COLUMN digested_into bigint;
COMMENT ON COLUMN pgautomate.notifications.digested_into IS 'The notification whose digest holds it.';
UPDATE pgautomate.notifications n SET digested_into = m.notification_id
  FROM pgautomate.notification_jobs j JOIN pgautomate.notification_jobs m ON m.id = j.merged_into
 WHERE j.notification_id = n.id AND j.action_type = 'digest' AND j.status = 'merged';
