-- Groups of digests go with the last job that took part in them; those of which nothing
-- is left go now. Locks: digest_groups against digests, as long as that takes.

-- +goose Up
LOCK TABLE pgautomate.digest_groups IN EXCLUSIVE MODE;
DELETE FROM pgautomate.digest_groups g
 WHERE NOT EXISTS (SELECT FROM pgautomate.notification_jobs j WHERE j.digest_group = g.id);
COMMENT ON TABLE pgautomate.digest_groups IS 'What is merged with what: its lock decides who opens a window and who is merged. Deleted with the last of its jobs.';

-- +goose Down
COMMENT ON TABLE pgautomate.digest_groups IS 'What is merged with what: its lock decides who opens a window and who is merged.';
