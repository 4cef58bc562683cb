-- What the app writes. Each statement here changes one row of a watched table, but for enter_stage.

-- name: add_lead
INSERT INTO lead (id, organization_id, name, email, source, status, score) VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: add_contact
INSERT INTO contact (organization_id, lead_id, name, title) VALUES ($1, $2, $3, $4)

-- name: add_opportunity
INSERT INTO opportunity (id, organization_id, lead_id, status, value) VALUES ($1, $2, $3, 'open', $4)

-- name: add_message
INSERT INTO message (organization_id, lead_id, direction, body) VALUES ($1, $2, $3, $4)

-- name: set_score
UPDATE lead SET score = $2 WHERE id = $1

-- name: set_vip
UPDATE lead SET is_vip = $2 WHERE id = $1

-- name: set_plan
UPDATE lead SET custom = custom || jsonb_build_object('cf_plan', $2::text) WHERE id = $1

-- name: set_value
UPDATE opportunity SET value = $2 WHERE id = $1

-- name: close_deal
UPDATE opportunity SET status = $2 WHERE id = $1

-- An app puts a lead into a stage by an INSERT.
-- name: enter_stage
INSERT INTO pgautomate.lead_stages (organization_id, lead_id, pipeline_stage_id)
SELECT $1, $2, s.id
  FROM pgautomate.pipeline_stages s JOIN pgautomate.pipelines p ON p.id = s.pipeline_id
 WHERE p.organization_id = $1 AND p.name = $3 AND s.name = $4

-- The first event of a case, and those after it.
-- name: first_event
INSERT INTO lead (id, organization_id, status, changed_at) VALUES ($1, $2, $3, $4)

-- name: next_event
UPDATE lead SET status = $2, changed_at = $3 WHERE id = $1
