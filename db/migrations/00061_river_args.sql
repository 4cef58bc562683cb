-- River's index of jobs' arguments goes. It is a GIN index, which keeps each key for ever: VACUUM removes only
-- what a key leads to. All our arguments hold an id, so each job left its keys, and the index grew with
-- every job until River's daily REINDEX. Nobody looks jobs up by it. Locks: river_job, for a moment.

-- +goose Up
DROP INDEX pgautomate.river_job_args_index;

-- +goose Down
CREATE INDEX river_job_args_index ON pgautomate.river_job USING gin (args);
