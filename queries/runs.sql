-- Runs of leads through pipelines, ended from outside. Who ends them holds what
-- entries and moves of the lead wait for (lead_runs), and looks for the active
-- stage only then: else a move at the same moment would go on unseen.

-- The firings among these that are goals'. Primary keys.
-- name: GoalsMet :many
SELECT f.id, f.organization_id, f.object_id AS lead_id, p.id AS pipeline_id, f.committed_at
  FROM (SELECT unnest(@ids::bigint[]) AS id, unnest(@committed_ats::timestamptz[]) AS committed_at) w
  JOIN pgautomate.trigger_firings f ON f.id = w.id AND f.committed_at = w.committed_at
  JOIN pgautomate.trigger_versions v ON v.trigger_id = f.trigger_id AND v.version = f.trigger_version AND v.action_type = 'goal'
  JOIN pgautomate.pipelines p ON p.id::text = v.action_params ->> 'pipeline_id' AND p.organization_id = f.organization_id
   AND p.object_type = f.object_type;

-- Runs that somebody else holds are not waited for: they are missing here.
-- lead_runs_pkey.
-- name: LockRuns :many
SELECT r.organization_id, r.lead_id, r.pipeline_id
  FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@lead_ids::text[]) AS lead_id,
               unnest(@pipeline_ids::bigint[]) AS pipeline_id) w
  JOIN pgautomate.lead_runs r ON r.organization_id = w.organization_id AND r.lead_id = w.lead_id AND r.pipeline_id = w.pipeline_id
   FOR UPDATE OF r SKIP LOCKED;

-- Those of these leads that are in one of the pipelines. lead_stages_one_active_idx.
-- name: ActiveRuns :many
SELECT s.id, s.organization_id, s.lead_id, s.pipeline_id, s.entered_at
  FROM (SELECT unnest(@organization_ids::text[]) AS organization_id, unnest(@lead_ids::text[]) AS lead_id,
               unnest(@pipeline_ids::bigint[]) AS pipeline_id) w
  JOIN pgautomate.lead_stages s ON s.organization_id = w.organization_id AND s.lead_id = w.lead_id AND s.pipeline_id = w.pipeline_id
   AND s.status = 'active';

-- The pipelines that objects of a type may be in, of one organization.
-- name: PipelinesOf :many
SELECT id, organization_id FROM pgautomate.pipelines
 WHERE object_type = @object_type AND (organization_id = @organization_id OR @organization_id = '');

-- The goal that a run's pipeline has now. Primary keys.
-- name: RunGoal :one
SELECT p.goal FROM pgautomate.lead_stages s JOIN pgautomate.pipelines p ON p.id = s.pipeline_id WHERE s.id = @lead_stage_id;

-- How often a lead entered a pipeline's stages lately. lead_stages_lead_idx.
-- name: EntriesLately :one
SELECT count(*) FROM pgautomate.lead_stages s
 WHERE s.organization_id = @organization_id AND s.lead_id = @lead_id AND s.entered_at > now() - interval '1 hour'
   AND s.pipeline_id = @pipeline_id AND s.reason IS DISTINCT FROM 'loop_suppressed';

-- name: NoteLoop :exec
INSERT INTO pgautomate.feed_notes (kind, detail)
VALUES ('loop_suppressed', jsonb_build_object('organization_id', @organization_id::text, 'lead_id', @lead_id::text, 'action_id', @action_id::bigint,
        'pipeline', @pipeline::text, 'stage', @stage::text, 'entries', @entries::bigint));

-- An entry that was not let through.
-- name: RefuseEntry :exec
INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_id, pipeline_stage_id, status, reason, finished_at)
VALUES (@organization_id, @lead_id, 0, @pipeline_stage_id, 'exited', @reason, clock_timestamp());
