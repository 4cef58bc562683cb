package server

// Workflows in both of Novu's shapes, v1 (notification templates) and v2. Both are
// one workflow inside, so what one shape made the other shows.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/notification"
)

const maxSteps = 100

func (s *Server) registerWorkflows(mux *http.ServeMux) {
	const tag = "workflows"
	for _, base := range []string{"/v1/notification-templates", "/v1/workflows"} {
		id := strings.TrimPrefix(base, "/v1/")
		s.novu(mux,
			wire{method: http.MethodPost, path: base, id: "v1-create-" + id, summary: "Make a workflow (v1)", tag: tag, handle: createTemplate},
			wire{method: http.MethodGet, path: base, id: "v1-list-" + id, summary: "List workflows (v1)", tag: tag, query: []string{"page", "limit"}, handle: listTemplates},
			wire{method: http.MethodGet, path: base + "/{id}", id: "v1-get-" + id, summary: "Get a workflow (v1)", tag: tag, handle: getTemplate},
			wire{method: http.MethodPut, path: base + "/{id}", id: "v1-update-" + id, summary: "Change a workflow (v1)", tag: tag, handle: updateTemplate},
			wire{method: http.MethodPut, path: base + "/{id}/status", id: "v1-status-" + id, summary: "Switch a workflow on or off (v1)", tag: tag, handle: templateStatus},
			wire{method: http.MethodDelete, path: base + "/{id}", id: "v1-delete-" + id, summary: "Delete a workflow (v1)", tag: tag, handle: deleteTemplate},
		)
	}
	s.novu(mux,
		wire{method: http.MethodPost, path: "/v2/workflows", id: "create-workflow", summary: "Make a workflow", tag: tag, handle: createWorkflow},
		wire{method: http.MethodGet, path: "/v2/workflows", id: "list-workflows", summary: "List workflows", tag: tag, query: []string{"limit", "offset", "query"}, handle: listWorkflows},
		wire{method: http.MethodGet, path: "/v2/workflows/{workflowId}", id: "get-workflow", summary: "Get a workflow", tag: tag, handle: getWorkflow},
		wire{method: http.MethodPut, path: "/v2/workflows/{workflowId}", id: "update-workflow", summary: "Change a workflow", tag: tag, handle: putWorkflow},
		wire{method: http.MethodPatch, path: "/v2/workflows/{workflowId}", id: "patch-workflow", summary: "Change some of a workflow", tag: tag, handle: patchWorkflow},
		wire{method: http.MethodDelete, path: "/v2/workflows/{workflowId}", id: "delete-workflow", summary: "Delete a workflow", tag: tag, handle: deleteWorkflow},
		wire{method: http.MethodPut, path: "/v2/workflows/{workflowId}/sync", id: "sync-workflow", summary: "Get a workflow: there is one environment", tag: tag, handle: syncWorkflow},
		wire{method: http.MethodPost, path: "/v2/workflows/{workflowId}/step/{stepId}/preview", id: "preview-step", summary: "What a step would say", tag: tag, handle: previewStep},
		wire{method: http.MethodGet, path: "/v2/workflows/{workflowId}/steps/{stepId}", id: "get-workflow-step", summary: "Get a step of a workflow", tag: tag, handle: getStep},
	)
}

// step is one step on its way into the database.
type step struct {
	Position   int             `json:"position"`
	StepID     string          `json:"step_id"`
	Name       string          `json:"name"`
	Type       string          `json:"type"`
	WireType   string          `json:"wire_type"`
	Active     bool            `json:"active"`
	StopOnFail bool            `json:"stop_on_fail"`
	Controls   json.RawMessage `json:"controls"`
	Settings   json.RawMessage `json:"settings"`
	Filters    json.RawMessage `json:"filters"`
	Variants   json.RawMessage `json:"variants"`
	Variables  json.RawMessage `json:"variables"`
}

func orObject(raw json.RawMessage) json.RawMessage {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '{' {
		return json.RawMessage("{}")
	}
	return raw
}

func orList(raw json.RawMessage) json.RawMessage {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || raw[0] != '[' {
		return json.RawMessage("[]")
	}
	return raw
}

// stepTypes are the wire's types and ours.
var stepTypes = map[string]string{
	"in_app": "in_app", "email": "email", "sms": "sms", "push": "push", "chat": "chat", "digest": "digest", "delay": "delay", "http_request": "webhook", "throttle": "throttle", "custom": "custom",
}

// hasSettings says whether a step of that type waits or counts instead of saying something.
func hasSettings(stepType string) bool {
	return stepType == "digest" || stepType == "delay" || stepType == "throttle"
}

// check refuses a step that could never be carried out.
func (st *step) check(place int) error {
	at := fmt.Sprintf("steps[%d]", place)
	if stepTypes[st.WireType] == "" {
		known := []string{}
		for t := range stepTypes {
			known = append(known, t)
		}
		slices.Sort(known)
		return refuse(fmt.Sprintf("%s: type %q is not known: use one of %s", at, st.WireType, strings.Join(known, ", ")))
	}
	st.Type = stepTypes[st.WireType]
	if hasSettings(st.Type) {
		if err := notification.CheckSettings(st.Type, st.Settings); err != nil {
			return refuse(at + ": " + err.Error())
		}
	}
	var controls obj
	if err := json.Unmarshal(st.Controls, &controls); err != nil {
		return refuse(at + ": its content must be an object")
	}
	if err := st.checkContent(controls); err != nil {
		return refuse(at + ": " + err.Error())
	}
	if err := notification.CheckFilters(st.Filters); err != nil {
		return refuse(at + ": " + err.Error())
	}
	if err := st.checkVariants(); err != nil {
		return refuse(at + "." + err.Error())
	}
	skip, err := json.Marshal(controls["skip"])
	if err == nil {
		err = notification.CheckSkip(skip)
	}
	if err != nil {
		return refuse(at + ": " + err.Error())
	}
	return nil
}

// checkVariants says which variant could never be chosen or rendered.
func (st *step) checkVariants() error {
	var variants []struct {
		Filters  json.RawMessage `json:"filters"`
		Template any             `json:"template"`
	}
	if err := json.Unmarshal(st.Variants, &variants); err != nil {
		return errors.New("variants: use [{filters, template}]")
	}
	for i, v := range variants {
		template, ok := v.Template.(obj)
		if !ok {
			return fmt.Errorf("variants[%d].template must be an object", i)
		}
		if err := errors.Join(notification.CheckFilters(v.Filters), st.checkContent(template)); err != nil {
			return fmt.Errorf("variants[%d]: %s", i, firstLine(err.Error()))
		}
	}
	return nil
}

// checkKind refuses a member of another kind than the wire has: '{' an object, '[' a
// list. One that is not there, or null, is none.
func checkKind(name string, raw json.RawMessage, kind byte) error {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" || raw[0] == kind {
		return nil
	}
	if kind == '[' {
		return refuse(name + " must be an array")
	}
	return refuse(name + " must be an object")
}

// kinds checks many, in order.
func kinds(kind byte, members ...any) error {
	for i := 0; i+1 < len(members); i += 2 {
		name, _ := members[i].(string)
		raw, _ := members[i+1].(json.RawMessage)
		if err := checkKind(name, raw, kind); err != nil {
			return err
		}
	}
	return nil
}

// checkContent says what of a step's content does not parse; of an e-mail from the
// block editor that is the HTML made of it.
func (st *step) checkContent(controls obj) error {
	if st.Type == "email" {
		editor, _ := controls["editorType"].(string)
		body, ok := controls["body"].(string)
		if !ok {
			body, _ = controls["content"].(string)
		}
		if editor != "html" {
			if err := notification.CheckBlocks(editor, body); err != nil {
				return err
			}
		}
		var err error
		if controls, err = notification.Blocks(controls); err != nil {
			return err
		}
	}
	return checkContent(controls)
}

// checkContent says which template does not parse.
func checkContent(v any) error {
	switch v := v.(type) {
	case string:
		return jobs.CheckTemplate(v)
	case []any:
		for _, e := range v {
			if err := checkContent(e); err != nil {
				return err
			}
		}
	case obj:
		for _, e := range v {
			if err := checkContent(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// named gives steps their names within the workflow, each another.
func named(steps []step) {
	taken := map[string]bool{}
	for i := range steps {
		st := &steps[i]
		st.Position = i + 1
		if st.StepID == "" {
			st.StepID = slugOf(cmp.Or(st.Name, strings.ReplaceAll(st.WireType, "_", "-")+"-step"))
		}
		for base, n := st.StepID, 2; taken[st.StepID]; n++ {
			st.StepID = fmt.Sprintf("%s-%d", base, n)
		}
		taken[st.StepID] = true
	}
}

// saved is a workflow with its steps, as it is now.
type saved struct {
	dbq.PgautomateWorkflow

	steps []dbq.PgautomateWorkflowStep
	group string // its group's name, where that was asked for
}

func (s *Server) workflow(ctx context.Context, org, id string) (*saved, error) {
	if i := strings.LastIndex(id, "_wf_"); i > 0 && idNumber(id[i+4:]) != nil {
		id = id[i+4:] // our slug
	}
	w, err := s.q.ApiGetWorkflow(ctx, dbq.ApiGetWorkflowParams{OrganizationID: org, Identifier: id, ID: idNumber(id)})
	if err != nil {
		return nil, orNotFound(err, "workflow", id)
	}
	steps, err := s.q.ApiStepsOf(ctx, []int64{w.ID})
	return &saved{PgautomateWorkflow: w, steps: steps}, err
}

// saveSteps replaces the workflow's steps.
func saveSteps(ctx context.Context, q *dbq.Queries, workflow int64, steps []step) error {
	raw, err := json.Marshal(steps)
	if err != nil {
		return err
	}
	if err := q.ApiRetireSteps(ctx, workflow); err != nil {
		return err
	}
	return q.ApiInsertSteps(ctx, dbq.ApiInsertStepsParams{WorkflowID: workflow, Steps: raw})
}

var errTaken = errors.New("taken")

// create inserts a workflow; errTaken when there is one of that identifier.
func (c *call) create(p dbq.ApiInsertWorkflowParams, steps []step) (id int64, err error) {
	err = c.transaction(func(q *dbq.Queries) error {
		if id, err = q.ApiInsertWorkflow(c.ctx, p); errors.Is(err, pgx.ErrNoRows) {
			return errTaken
		} else if err != nil {
			return err
		}
		if p.GroupID != nil {
			if err := ensureGroup(c, q, *p.GroupID); err != nil {
				return err
			}
		}
		return saveSteps(c.ctx, q, id, steps)
	})
	return id, err
}

// v1.

type templateBody struct {
	Name                string          `json:"name"`
	NotificationGroupID string          `json:"notificationGroupId"`
	Identifier          string          `json:"identifier"`
	Description         string          `json:"description"`
	Tags                []string        `json:"tags"`
	Steps               []templateStep  `json:"steps"`
	Active              *bool           `json:"active"`
	Draft               *bool           `json:"draft"`
	Critical            bool            `json:"critical"`
	PreferenceSettings  json.RawMessage `json:"preferenceSettings"`
	Data                json.RawMessage `json:"data"`
	PayloadSchema       json.RawMessage `json:"payloadSchema"`
}

type templateStep struct {
	ID               string          `json:"_id"`
	UUID             string          `json:"uuid"`
	StepID           string          `json:"stepId"`
	Name             string          `json:"name"`
	Active           *bool           `json:"active"`
	ShouldStopOnFail bool            `json:"shouldStopOnFail"`
	Template         json.RawMessage `json:"template"`
	Filters          json.RawMessage `json:"filters"`
	Variants         json.RawMessage `json:"variants"`
	Metadata         json.RawMessage `json:"metadata"`
	DigestMetadata   json.RawMessage `json:"digestMetadata"` // what jobs call it
}

func (b *templateBody) steps(before []dbq.PgautomateWorkflowStep) ([]step, error) {
	if len(b.Steps) > maxSteps {
		return nil, refuse(fmt.Sprintf("steps must contain no more than %d elements", maxSteps))
	}
	steps := make([]step, len(b.Steps))
	for i, t := range b.Steps {
		var template struct {
			Type      string          `json:"type"`
			Variables json.RawMessage `json:"variables"`
		}
		at := fmt.Sprintf("steps[%d].", i)
		if len(t.Metadata) == 0 {
			t.Metadata = t.DigestMetadata
		}
		if err := kinds('{', at+"template", t.Template, at+"metadata", t.Metadata); err != nil {
			return nil, err
		}
		if err := kinds('[', at+"filters", t.Filters, at+"variants", t.Variants); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(orObject(t.Template), &template); err != nil {
			return nil, refuse(fmt.Sprintf("steps[%d].template must be an object with a type", i))
		}
		st := step{
			StepID: cmp.Or(t.UUID, t.StepID), Name: t.Name, WireType: template.Type, Active: t.Active == nil || *t.Active, StopOnFail: t.ShouldStopOnFail,
			Controls: orObject(t.Template), Settings: orObject(t.Metadata), Filters: orList(t.Filters), Variants: orList(t.Variants),
			Variables: orList(template.Variables),
		}
		for _, old := range before {
			if t.ID != "" && (t.ID == itoa(old.ID) || t.ID == old.StepID) {
				st.StepID = old.StepID
			}
		}
		if err := st.check(i); err != nil {
			return nil, err
		}
		steps[i] = st
	}
	named(steps)
	return steps, nil
}

func createTemplate(c *call) (int, any, error) {
	var b templateBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	var missing []string
	if strings.TrimSpace(b.Name) == "" {
		missing = append(missing, "name should not be empty")
	}
	if b.NotificationGroupID == "" {
		missing = append(missing, "notificationGroupId should not be empty")
	}
	if len(missing) > 0 {
		return 0, nil, refuse(missing...)
	}
	if err := b.check(); err != nil {
		return 0, nil, err
	}
	steps, err := b.steps(nil)
	if err == nil {
		err = c.checkLayouts(steps)
	}
	if err != nil {
		return 0, nil, err
	}
	p := dbq.ApiInsertWorkflowParams{
		OrganizationID: c.org, Name: b.Name, Description: b.Description, Active: b.isActive(false), Critical: b.Critical, Tags: orNone(b.Tags),
		PreferenceSettings: orObject(b.PreferenceSettings), GroupID: &b.NotificationGroupID, Data: b.Data, Extra: json.RawMessage("{}"),
		PayloadSchema: b.PayloadSchema, ValidatePayload: len(b.PayloadSchema) > 0,
	}
	base := cmp.Or(b.Identifier, slugOf(b.Name))
	for n := 0; ; n++ {
		p.Identifier = base
		if n > 0 {
			p.Identifier = fmt.Sprintf("%s-%s", base, randomSuffix())
		}
		id, err := c.create(p, steps)
		if errors.Is(err, errTaken) && n < 10 {
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		return c.template(http.StatusCreated, itoa(id))
	}
}

// check refuses settings that could never be what they say.
func (b *templateBody) check() error {
	if err := kinds('{', "preferenceSettings", b.PreferenceSettings, "data", b.Data); err != nil {
		return err
	}
	if err := checkGroup(b.NotificationGroupID); err != nil {
		return err
	}
	var settings map[string]*bool
	if json.Unmarshal(orObject(b.PreferenceSettings), &settings) != nil {
		return refuse("preferenceSettings must be an object of channels that are true or false")
	}
	if len(b.PayloadSchema) == 0 || string(b.PayloadSchema) == "null" {
		b.PayloadSchema = nil
		return nil
	}
	if err := notification.CheckSchema(b.PayloadSchema); err != nil {
		return refuse(err.Error())
	}
	return nil
}

// isActive reads active and its opposite, draft.
func (b *templateBody) isActive(otherwise bool) bool {
	switch {
	case b.Active != nil && b.Draft != nil:
		return *b.Active && !*b.Draft
	case b.Active != nil:
		return *b.Active
	case b.Draft != nil:
		return !*b.Draft
	default:
		return otherwise
	}
}

func orNone(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func updateTemplate(c *call) (int, any, error) {
	var b templateBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if err := b.check(); err != nil {
		return 0, nil, err
	}
	w, err := c.s.workflow(c.ctx, c.org, c.PathValue("id"))
	if err != nil {
		return 0, nil, err
	}
	var given obj
	_ = json.Unmarshal(c.body, &given) // read above
	p := w.params()
	if b.PayloadSchema != nil {
		p.PayloadSchema, p.ValidatePayload = b.PayloadSchema, true
	}
	if b.Name != "" {
		p.Name = b.Name
	}
	if given["description"] != nil {
		p.Description = b.Description
	}
	if given["tags"] != nil {
		p.Tags = orNone(b.Tags)
	}
	if given["critical"] != nil {
		p.Critical = b.Critical
	}
	if len(b.PreferenceSettings) > 0 {
		p.PreferenceSettings = orObject(b.PreferenceSettings)
	}
	if b.NotificationGroupID != "" {
		p.GroupID = &b.NotificationGroupID
	}
	if len(b.Data) > 0 {
		p.Data = b.Data
	}
	p.Active = b.isActive(p.Active)
	err = c.transaction(func(q *dbq.Queries) error {
		if err := q.ApiLockWorkflow(c.ctx, w.ID); err != nil {
			return err
		}
		if b.NotificationGroupID != "" {
			if err := ensureGroup(c, q, b.NotificationGroupID); err != nil {
				return err
			}
		}
		if err := q.ApiUpdateWorkflow(c.ctx, p); err != nil || given["steps"] == nil {
			return err
		}
		steps, err := b.steps(w.steps)
		if err == nil {
			err = c.checkLayouts(steps)
		}
		if err != nil {
			return err
		}
		return saveSteps(c.ctx, q, w.ID, steps)
	})
	if err != nil {
		return 0, nil, err
	}
	return c.template(http.StatusOK, itoa(w.ID))
}

func (w *saved) params() dbq.ApiUpdateWorkflowParams {
	return dbq.ApiUpdateWorkflowParams{
		ID: w.ID, Name: w.Name, Description: w.Description, Active: w.Active, Critical: w.Critical, Tags: w.Tags,
		PreferenceSettings: w.PreferenceSettings, ReadOnly: w.ReadOnly, PayloadSchema: w.PayloadSchema,
		ValidatePayload: w.ValidatePayload, GroupID: w.GroupID, Data: w.Data, Extra: w.Extra,
	}
}

func templateStatus(c *call) (int, any, error) {
	var b struct {
		Active *bool `json:"active"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if b.Active == nil {
		return 0, nil, refuse("active must be a boolean value")
	}
	w, err := c.s.workflow(c.ctx, c.org, c.PathValue("id"))
	if err == nil {
		err = c.s.q.ApiSetWorkflowActive(c.ctx, dbq.ApiSetWorkflowActiveParams{ID: w.ID, Active: *b.Active})
	}
	if err != nil {
		return 0, nil, err
	}
	return c.template(http.StatusOK, itoa(w.ID))
}

func (c *call) template(status int, id string) (int, any, error) {
	w, err := c.s.workflow(c.ctx, c.org, id)
	if err == nil {
		err = c.nameGroups(w)
	}
	if err != nil {
		return 0, nil, err
	}
	return status, w.showTemplate(), nil
}

func getTemplate(c *call) (int, any, error) { return c.template(http.StatusOK, c.PathValue("id")) }

func deleteTemplate(c *call) (int, any, error) {
	if err := c.removeWorkflow(c.PathValue("id")); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, true, nil
}

func (c *call) removeWorkflow(id string) error {
	w, err := c.s.workflow(c.ctx, c.org, id)
	if err != nil {
		return err
	}
	return c.s.q.ApiDeleteWorkflow(c.ctx, w.ID)
}

func (c *call) listed(limit, skip int32, search string) ([]saved, int64, error) {
	rows, err := c.s.q.ApiListWorkflows(c.ctx, dbq.ApiListWorkflowsParams{OrganizationID: c.org, Search: search, MaxRows: limit, Skip: skip})
	if err == nil && len(rows) == 0 && skip > 0 { // beyond the end: of what?
		_, total, err := c.listed(1, 0, search)
		return nil, total, err
	}
	if err != nil || len(rows) == 0 {
		return nil, 0, err
	}
	out := make([]saved, len(rows))
	ids, place := make([]int64, len(rows)), map[int64]int{}
	for i, r := range rows {
		out[i].PgautomateWorkflow = dbq.PgautomateWorkflow{
			ID: r.ID, OrganizationID: r.OrganizationID, Identifier: r.Identifier, Name: r.Name, Description: r.Description, Active: r.Active,
			Critical: r.Critical, Tags: r.Tags, PreferenceSettings: r.PreferenceSettings, ReadOnly: r.ReadOnly, PayloadSchema: r.PayloadSchema,
			ValidatePayload: r.ValidatePayload, GroupID: r.GroupID, Data: r.Data, Extra: r.Extra, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
			LastTriggeredAt: r.LastTriggeredAt,
		}
		ids[i], place[r.ID] = r.ID, i
	}
	steps, err := c.s.q.ApiStepsOf(c.ctx, ids)
	for _, st := range steps {
		w := &out[place[st.WorkflowID]]
		w.steps = append(w.steps, st)
	}
	return out, rows[0].Total, err
}

func listTemplates(c *call) (int, any, error) {
	page, size, err := c.paging(100)
	if err != nil {
		return 0, nil, err
	}
	list, total, err := c.listed(size, page*size, c.query("query"))
	if err != nil {
		return 0, nil, err
	}
	all := make([]*saved, len(list))
	for i := range list {
		all[i] = &list[i]
	}
	if err := c.nameGroups(all...); err != nil {
		return 0, nil, err
	}
	data := make([]obj, len(list))
	for i := range list {
		data[i] = list[i].showTemplate()
	}
	return http.StatusOK, obj{"page": page, "pageSize": size, "totalCount": total, "data": data}, nil
}

func (w *saved) showTemplate() obj {
	steps := make([]obj, len(w.steps))
	for i, st := range w.steps {
		template := obj{}
		_ = json.Unmarshal(st.Controls, &template) // our own document
		template["_id"], template["type"] = itoa(st.ID), st.WireType
		if template["content"] == nil {
			template["content"] = cmp.Or[any](template["body"], "")
		}
		steps[i] = obj{
			"_id": itoa(st.ID), "uuid": st.StepID, "stepId": st.StepID, "name": st.Name, "active": st.Active, "shouldStopOnFail": st.StopOnFail,
			"template": template, "_templateId": itoa(st.ID), "filters": st.Filters, "variants": st.Variants, "metadata": st.Settings,
		}
		if i > 0 {
			steps[i]["_parentId"] = itoa(w.steps[i-1].ID)
		}
	}
	m := obj{
		"_id": itoa(w.ID), "name": w.Name, "description": w.Description, "active": w.Active, "draft": !w.Active, "critical": w.Critical,
		"preferenceSettings": w.preferences(), "tags": w.Tags, "steps": steps, "_organizationId": w.OrganizationID, "_environmentId": w.OrganizationID,
		"_creatorId": w.OrganizationID, "deleted": false, "isBlueprint": false, "type": "REGULAR",
		"triggers": []obj{{
			"_id": itoa(w.ID), "type": "event", "identifier": w.Identifier, "variables": w.variables(), "reservedVariables": []obj{}, "subscriberVariables": []obj{},
		}},
		"createdAt": wireTime(w.CreatedAt), "updatedAt": wireTime(w.UpdatedAt),
	}
	if w.GroupID != nil {
		m["_notificationGroupId"] = *w.GroupID
		m["notificationGroup"] = obj{"_id": *w.GroupID, "name": cmp.Or(w.group, *w.GroupID), "_organizationId": w.OrganizationID, "_environmentId": w.OrganizationID}
	}
	put(m, "data", w.Data)
	put(m, "payloadSchema", w.PayloadSchema)
	return m
}

func (w *saved) variables() []obj {
	list, seen := []obj{}, map[string]bool{}
	for _, st := range w.steps {
		var variables []obj
		_ = json.Unmarshal(st.Variables, &variables) // our own document
		for _, v := range variables {
			if name, _ := v["name"].(string); name != "" && !seen[name] {
				seen[name] = true
				list = append(list, obj{"name": name, "type": cmp.Or[any](v["type"], "String")})
			}
		}
	}
	return list
}

var channels = []string{"email", "sms", "in_app", "chat", "push"}

// preferences are the workflow's settings for all channels.
func (w *saved) preferences() map[string]bool {
	set := map[string]bool{}
	_ = json.Unmarshal(w.PreferenceSettings, &set) // our own document
	out := map[string]bool{}
	for _, channel := range channels {
		on, said := set[channel]
		out[channel] = on || !said
	}
	return out
}

// v2.

type workflowBody struct {
	Name            string          `json:"name"`
	WorkflowID      string          `json:"workflowId"`
	Active          *bool           `json:"active"`
	Description     string          `json:"description"`
	Tags            []string        `json:"tags"`
	PayloadSchema   json.RawMessage `json:"payloadSchema"`
	ValidatePayload *bool           `json:"validatePayload"`
	Severity        string          `json:"severity"`
	Preferences     json.RawMessage `json:"preferences"`
	Translations    bool            `json:"isTranslationEnabled"`
	Steps           []workflowStep  `json:"steps"`
}

type workflowStep struct {
	ID            string          `json:"_id"`
	StepID        string          `json:"stepId"`
	Name          string          `json:"name"`
	Type          string          `json:"type"`
	ControlValues json.RawMessage `json:"controlValues"`
}

func (b *workflowBody) steps(before []dbq.PgautomateWorkflowStep) ([]step, error) {
	if len(b.Steps) > maxSteps {
		return nil, refuse(fmt.Sprintf("steps must contain no more than %d elements", maxSteps))
	}
	steps := make([]step, len(b.Steps))
	for i, t := range b.Steps {
		if err := checkKind(fmt.Sprintf("steps[%d].controlValues", i), t.ControlValues, '{'); err != nil {
			return nil, err
		}
		values := orObject(t.ControlValues)
		st := step{
			StepID: t.StepID, Name: t.Name, WireType: t.Type, Active: true, Controls: values, Settings: json.RawMessage("{}"),
			Filters: json.RawMessage("[]"), Variants: json.RawMessage("[]"), Variables: json.RawMessage("[]"),
		}
		if hasSettings(t.Type) {
			st.Settings = values
		}
		for _, old := range before {
			if t.ID != "" && t.ID == itoa(old.ID) {
				// What v2 doesn't speak of stays.
				st.StepID, st.Active, st.StopOnFail, st.Filters, st.Variants, st.Variables = old.StepID, old.Active, old.StopOnFail, old.Filters, old.Variants, old.Variables
				if len(t.ControlValues) == 0 {
					st.Controls, st.Settings = old.Controls, old.Settings
				}
			}
		}
		if err := st.check(i); err != nil {
			return nil, err
		}
		steps[i] = st
	}
	named(steps)
	return steps, nil
}

// preferences reads v2's preferences: what the workflow's maker says, else its default.
func (b *workflowBody) preferences() (settings json.RawMessage, readOnly bool) {
	var p struct {
		User, Workflow, Default *struct {
			All struct {
				Enabled  *bool `json:"enabled"`
				ReadOnly bool  `json:"readOnly"`
			} `json:"all"`
			Channels map[string]struct {
				Enabled *bool `json:"enabled"`
			} `json:"channels"`
		}
	}
	if len(b.Preferences) == 0 || json.Unmarshal(b.Preferences, &p) != nil {
		return json.RawMessage("{}"), false
	}
	of := cmp.Or(p.User, p.Workflow, p.Default)
	if of == nil {
		return json.RawMessage("{}"), false
	}
	out := map[string]bool{}
	for _, channel := range channels {
		name := channel
		if _, there := of.Channels[name]; !there && name == "in_app" {
			name = "inApp"
		}
		if v, there := of.Channels[name]; there && v.Enabled != nil {
			out[channel] = *v.Enabled
		} else if of.All.Enabled != nil && !*of.All.Enabled {
			out[channel] = false
		}
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return json.RawMessage("{}"), of.All.ReadOnly
	}
	return raw, of.All.ReadOnly
}

func (b *workflowBody) extra() json.RawMessage {
	raw, err := json.Marshal(obj{"severity": cmp.Or(b.Severity, "none"), "isTranslationEnabled": b.Translations})
	if err != nil {
		return json.RawMessage("{}")
	}
	return raw
}

func (b *workflowBody) check() error {
	if strings.TrimSpace(b.Name) == "" {
		return refuse("name should not be empty")
	}
	if levels := []string{"", "none", "low", "medium", "high"}; !slices.Contains(levels, b.Severity) {
		return refuse(fmt.Sprintf("severity %q is not known: use one of %s", clip(b.Severity), strings.Join(levels[1:], ", ")))
	}
	if len(b.PayloadSchema) > 0 && string(b.PayloadSchema) != "null" {
		if err := notification.CheckSchema(b.PayloadSchema); err != nil {
			return refuse(err.Error())
		}
	} else {
		b.PayloadSchema = nil
	}
	return nil
}

func createWorkflow(c *call) (int, any, error) {
	var b workflowBody
	err := c.read(&b)
	if err == nil {
		err = b.check()
	}
	if err != nil {
		return 0, nil, err
	}
	steps, err := b.steps(nil)
	if err == nil {
		err = c.checkLayouts(steps)
	}
	if err != nil {
		return 0, nil, err
	}
	settings, readOnly := b.preferences()
	p := dbq.ApiInsertWorkflowParams{
		OrganizationID: c.org, Identifier: cmp.Or(b.WorkflowID, slugOf(b.Name)), Name: b.Name, Description: b.Description, Active: b.Active != nil && *b.Active,
		Tags: orNone(b.Tags), PreferenceSettings: settings, ReadOnly: readOnly, PayloadSchema: b.PayloadSchema,
		ValidatePayload: b.ValidatePayload != nil && *b.ValidatePayload, Extra: b.extra(),
	}
	id, err := c.create(p, steps)
	if errors.Is(err, errTaken) {
		return 0, nil, refuse(fmt.Sprintf("there is a workflow %q already: choose another workflowId", p.Identifier))
	}
	if err != nil {
		return 0, nil, err
	}
	return c.workflowAnswer(http.StatusCreated, itoa(id))
}

func (c *call) workflowAnswer(status int, id string) (int, any, error) {
	w, err := c.s.workflow(c.ctx, c.org, id)
	if err != nil {
		return 0, nil, err
	}
	return status, w.show(), nil
}

func getWorkflow(c *call) (int, any, error) {
	return c.workflowAnswer(http.StatusOK, c.PathValue("workflowId"))
}

func deleteWorkflow(c *call) (int, any, error) {
	return http.StatusNoContent, nil, c.removeWorkflow(c.PathValue("workflowId"))
}

func putWorkflow(c *call) (int, any, error) {
	var b workflowBody
	err := c.read(&b)
	if err == nil {
		err = b.check()
	}
	if err != nil {
		return 0, nil, err
	}
	w, err := c.s.workflow(c.ctx, c.org, c.PathValue("workflowId"))
	if err != nil {
		return 0, nil, err
	}
	steps, err := b.steps(w.steps)
	if err == nil {
		err = c.checkLayouts(steps)
	}
	if err != nil {
		return 0, nil, err
	}
	p := w.params()
	p.Name, p.Description, p.Tags, p.PayloadSchema, p.Extra = b.Name, b.Description, orNone(b.Tags), b.PayloadSchema, b.extra()
	if b.Active != nil {
		p.Active = *b.Active
	}
	if b.ValidatePayload != nil {
		p.ValidatePayload = *b.ValidatePayload
	}
	if len(b.Preferences) > 0 {
		p.PreferenceSettings, p.ReadOnly = b.preferences()
	}
	err = c.transaction(func(q *dbq.Queries) error {
		if err := q.ApiLockWorkflow(c.ctx, w.ID); err != nil {
			return err
		}
		if err := q.ApiUpdateWorkflow(c.ctx, p); err != nil {
			return err
		}
		return saveSteps(c.ctx, q, w.ID, steps)
	})
	if err != nil {
		return 0, nil, err
	}
	return c.workflowAnswer(http.StatusOK, itoa(w.ID))
}

func patchWorkflow(c *call) (int, any, error) {
	var b workflowBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	w, err := c.s.workflow(c.ctx, c.org, c.PathValue("workflowId"))
	if err != nil {
		return 0, nil, err
	}
	var given obj
	_ = json.Unmarshal(c.body, &given) // read above
	p := w.params()
	p.Name = cmp.Or(b.Name, p.Name)
	if b.Active != nil {
		p.Active = *b.Active
	}
	if given["description"] != nil {
		p.Description = b.Description
	}
	if given["tags"] != nil {
		p.Tags = orNone(b.Tags)
	}
	if b.ValidatePayload != nil {
		p.ValidatePayload = *b.ValidatePayload
	}
	if given["payloadSchema"] != nil {
		if err := notification.CheckSchema(b.PayloadSchema); err != nil {
			return 0, nil, refuse(err.Error())
		}
		p.PayloadSchema = b.PayloadSchema
	}
	if err := c.s.q.ApiUpdateWorkflow(c.ctx, p); err != nil {
		return 0, nil, err
	}
	return c.workflowAnswer(http.StatusOK, itoa(w.ID))
}

func listWorkflows(c *call) (int, any, error) {
	limit, err := c.limit(50)
	if err != nil {
		return 0, nil, err
	}
	offset, err := c.number("offset", 0, 1_000_000)
	if err != nil {
		return 0, nil, err
	}
	list, total, err := c.listed(limit, offset, c.query("query"))
	if err != nil {
		return 0, nil, err
	}
	out := make([]obj, len(list))
	for i := range list {
		w := &list[i]
		types := []string{}
		for _, st := range w.steps {
			types = append(types, st.WireType)
		}
		out[i] = w.show()
		out[i]["stepTypeOverviews"] = types
	}
	return http.StatusOK, obj{"workflows": out, "totalCount": total}, nil
}

// step is a workflow's step by its name, number or slug.
func (w *saved) step(id string) (*dbq.PgautomateWorkflowStep, error) {
	for i := range w.steps {
		if st := &w.steps[i]; st.StepID == id || itoa(st.ID) == id || w.stepSlug(st) == id {
			return st, nil
		}
	}
	return nil, notFound("step", id)
}

func getStep(c *call) (int, any, error) {
	w, err := c.s.workflow(c.ctx, c.org, c.PathValue("workflowId"))
	if err != nil {
		return 0, nil, err
	}
	st, err := w.step(c.PathValue("stepId"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, w.showStep(st), nil
}

// syncWorkflow would bring a workflow to another environment; an organization is one.
func syncWorkflow(c *call) (int, any, error) {
	var b struct {
		Target string `json:"targetEnvironmentId"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if b.Target != c.org {
		return 0, nil, refuse(fmt.Sprintf("targetEnvironmentId must be %s: there is no other environment", c.org))
	}
	return c.workflowAnswer(http.StatusOK, c.PathValue("workflowId"))
}

// previewStep renders a step for a payload that the caller makes up.
func previewStep(c *call) (int, any, error) {
	var b struct {
		Controls obj `json:"controlValues"`
		Payload  obj `json:"previewPayload"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	w, err := c.s.workflow(c.ctx, c.org, c.PathValue("workflowId"))
	if err != nil {
		return 0, nil, err
	}
	st, err := w.step(c.PathValue("stepId"))
	if err != nil {
		return 0, nil, err
	}
	values, _ := w.showStep(st)["controlValues"].(obj)
	maps.Copy(values, b.Controls)
	if b.Payload == nil {
		b.Payload = obj{}
	}
	preview, err := notification.Preview(c.ctx, st.Type, values, b.Payload)
	if err != nil {
		return 0, nil, refuse(err.Error())
	}
	return http.StatusCreated, obj{"result": obj{"type": st.WireType, "preview": preview}, "previewPayloadExample": b.Payload, "schema": nil}, nil
}

func (w *saved) slug() string { return slugOf(w.Name) + "_wf_" + itoa(w.ID) }

func (w *saved) stepSlug(st *dbq.PgautomateWorkflowStep) string {
	return slugOf(cmp.Or(st.Name, st.StepID)) + "_st_" + itoa(st.ID)
}

func (w *saved) showStep(st *dbq.PgautomateWorkflowStep) obj {
	values := obj{}
	_ = json.Unmarshal(st.Controls, &values) // our own document
	if hasSettings(st.Type) && len(st.Settings) > 2 {
		_ = json.Unmarshal(st.Settings, &values) // our own document
		values = notification.ControlsOf(st.Type, values)
	}
	if st.Type == "email" && values["subject"] == nil {
		values["subject"] = ""
	}
	if !hasSettings(st.Type) && values["body"] == nil {
		if body, ok := values["content"].(string); ok {
			values["body"] = body
		}
	}
	return obj{
		"_id": itoa(st.ID), "stepId": st.StepID, "name": cmp.Or(st.Name, st.StepID), "slug": w.stepSlug(st), "type": st.WireType, "origin": "novu-cloud",
		"workflowId": w.Identifier, "workflowDatabaseId": itoa(w.ID), "controls": obj{"values": values}, "controlValues": values, "variables": obj{},
	}
}

func (w *saved) show() obj {
	steps := make([]obj, len(w.steps))
	for i := range w.steps {
		steps[i] = w.showStep(&w.steps[i])
	}
	on := obj{}
	for channel, enabled := range w.preferences() {
		on[channel] = obj{"enabled": enabled}
	}
	status := "INACTIVE"
	if w.Active {
		status = "ACTIVE"
	}
	extra := obj{}
	_ = json.Unmarshal(w.Extra, &extra) // our own document
	m := obj{
		"_id": itoa(w.ID), "workflowId": w.Identifier, "slug": w.slug(), "name": w.Name, "description": w.Description, "active": w.Active,
		"tags": w.Tags, "createdAt": wireTime(w.CreatedAt), "updatedAt": wireTime(w.UpdatedAt), "origin": "novu-cloud", "status": status,
		"severity": cmp.Or[any](extra["severity"], "none"), "isTranslationEnabled": extra["isTranslationEnabled"] == true,
		"validatePayload": w.ValidatePayload,
		"preferences": obj{"user": nil, "default": obj{
			"all": obj{"enabled": true, "readOnly": w.ReadOnly || w.Critical}, "channels": on,
		}},
		"steps": steps,
	}
	put(m, "payloadSchema", w.PayloadSchema)
	return m
}
