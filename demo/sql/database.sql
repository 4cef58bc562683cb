-- How the demo gets a database that nothing is left in.

-- name: end_slots
SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active_pid IS NOT NULL

-- name: drop_slots
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1 AND active_pid IS NULL

-- name: slots_left
SELECT count(*) FROM pg_replication_slots WHERE database = $1

-- What a given database holds: of the demo, of the engine, of both.
-- name: holds
SELECT to_regnamespace($1) IS NOT NULL,
       coalesce(obj_description(to_regnamespace($1), 'pg_namespace') = $2, false),
       to_regclass('pgautomate.triggers') IS NOT NULL

-- Whether the engine in a given database was ever used for something else.
-- name: used
SELECT EXISTS (SELECT FROM pgautomate.object_types WHERE table_name NOT LIKE $1 || '.%')
    OR EXISTS (SELECT FROM pgautomate.triggers WHERE organization_id <> ALL ($2::text[]))
    OR EXISTS (SELECT FROM pgautomate.pipelines WHERE organization_id <> ALL ($2::text[]))
    OR EXISTS (SELECT FROM pgautomate.trigger_firings WHERE organization_id <> ALL ($2::text[]))
    OR EXISTS (SELECT FROM pgautomate.lead_stage_actions WHERE organization_id <> ALL ($2::text[]))

-- Whether a process reads the slot of this database.
-- name: engine_runs
SELECT EXISTS (SELECT FROM pg_replication_slots
                WHERE database = current_database() AND slot_name = $1 AND active_pid IS NOT NULL)

-- name: drop_slot
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
 WHERE database = current_database() AND slot_name = $1 AND active_pid IS NULL

-- name: slot_left
SELECT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database() AND slot_name = $1)

-- name: drop_publication
DROP PUBLICATION IF EXISTS pgautomate
