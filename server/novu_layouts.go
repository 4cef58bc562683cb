package server

// Layouts: what stands around the content of e-mail steps, in the shapes of v1 and v2.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/notification"
)

func (s *Server) registerLayouts(mux *http.ServeMux) {
	const tag = "layouts"
	s.novu(mux,
		wire{method: http.MethodPost, path: "/v1/layouts", id: "v1-create-layout", summary: "Make a layout (v1)", tag: tag, handle: createLayoutV1},
		wire{method: http.MethodGet, path: "/v1/layouts", id: "v1-list-layouts", summary: "List layouts (v1)", tag: tag, query: []string{"page", "pageSize"}, handle: listLayoutsV1},
		wire{method: http.MethodGet, path: "/v1/layouts/{layoutId}", id: "v1-get-layout", summary: "Get a layout (v1)", tag: tag, handle: func(c *call) (int, any, error) { return c.layoutAnswer(http.StatusOK, showLayoutV1) }},
		wire{method: http.MethodPatch, path: "/v1/layouts/{layoutId}", id: "v1-patch-layout", summary: "Change a layout (v1)", tag: tag, handle: patchLayoutV1},
		wire{method: http.MethodDelete, path: "/v1/layouts/{layoutId}", id: "v1-delete-layout", summary: "Delete a layout that nothing uses (v1)", tag: tag, handle: func(c *call) (int, any, error) { return c.deleteLayout(http.StatusConflict) }},
		wire{method: http.MethodPost, path: "/v1/layouts/{layoutId}/default", id: "v1-default-layout", summary: "Put a layout around all e-mails that name none (v1)", tag: tag, handle: defaultLayout},
		wire{method: http.MethodPost, path: "/v2/layouts", id: "create-layout", summary: "Make a layout", tag: tag, handle: createLayout},
		wire{method: http.MethodGet, path: "/v2/layouts", id: "list-layouts", summary: "List layouts", tag: tag, query: []string{"limit", "offset", "query"}, handle: listLayouts},
		wire{method: http.MethodGet, path: "/v2/layouts/{layoutId}", id: "get-layout", summary: "Get a layout", tag: tag, handle: func(c *call) (int, any, error) { return c.layoutAnswer(http.StatusOK, showLayout) }},
		wire{method: http.MethodPut, path: "/v2/layouts/{layoutId}", id: "update-layout", summary: "Change a layout", tag: tag, handle: putLayout},
		wire{method: http.MethodDelete, path: "/v2/layouts/{layoutId}", id: "delete-layout", summary: "Delete a layout that nothing uses", tag: tag, handle: func(c *call) (int, any, error) { return c.deleteLayout(http.StatusBadRequest) }},
		wire{method: http.MethodPost, path: "/v2/layouts/{layoutId}/duplicate", id: "duplicate-layout", summary: "Make a layout of another", tag: tag, handle: duplicateLayout},
		wire{method: http.MethodPost, path: "/v2/layouts/{layoutId}/preview", id: "preview-layout", summary: "What a layout would say", tag: tag, handle: previewLayout},
		wire{method: http.MethodGet, path: "/v2/layouts/{layoutId}/usage", id: "layout-usage", summary: "Workflows whose steps name a layout", tag: tag, handle: layoutUsage},
	)
}

// newLayout is the content of a layout that was given none.
const newLayout = "<html><body>{{content}}</body></html>"

func (c *call) layout(id string) (*dbq.PgautomateLayout, error) {
	if i := strings.LastIndex(id, "_layout_"); i > 0 && idNumber(id[i+len("_layout_"):]) != nil {
		id = id[i+len("_layout_"):] // our slug
	}
	l, err := c.s.q.FindLayout(c.ctx, dbq.FindLayoutParams{OrganizationID: c.org, Identifier: id})
	if none(err) {
		return nil, problemf(http.StatusNotFound, "Layout not found for id %s in the environment %s", clip(id), c.org)
	}
	return &l, err
}

func (c *call) layoutAnswer(status int, show func(*dbq.PgautomateLayout) obj) (int, any, error) {
	l, err := c.layout(c.PathValue("layoutId"))
	if err != nil {
		return 0, nil, err
	}
	return status, show(l), nil
}

func (c *call) layoutShown(status int, id int64, show func(*dbq.PgautomateLayout) obj) (int, any, error) {
	l, err := c.layout(itoa(id))
	if err != nil {
		return 0, nil, err
	}
	return status, show(l), nil
}

func showLayoutV1(l *dbq.PgautomateLayout) obj {
	content, _, err := notification.BlocksHTML(l.Content)
	if err != nil {
		content = l.Content
	}
	m := obj{
		"_id": itoa(l.ID), "_organizationId": l.OrganizationID, "_environmentId": l.OrganizationID, "_creatorId": l.OrganizationID, "name": l.Name,
		"identifier": l.Identifier, "description": l.Description, "channel": "email", "content": content, "contentType": "customHtml",
		"isDefault": l.IsDefault, "isDeleted": false, "createdAt": wireTime(l.CreatedAt), "updatedAt": wireTime(l.UpdatedAt),
	}
	put(m, "variables", l.Variables)
	return m
}

func showLayout(l *dbq.PgautomateLayout) obj {
	extra := obj{}
	_ = json.Unmarshal(l.Extra, &extra) // our own document
	editor := "html"
	if _, blocks, _ := notification.BlocksHTML(l.Content); blocks {
		editor = "block"
	}
	return obj{
		"_id": itoa(l.ID), "layoutId": l.Identifier, "slug": slugOf(l.Name) + "_layout_" + itoa(l.ID), "name": l.Name, "isDefault": l.IsDefault,
		"isTranslationEnabled": extra["isTranslationEnabled"] == true, "createdAt": wireTime(l.CreatedAt), "updatedAt": wireTime(l.UpdatedAt),
		"origin": "novu-cloud", "type": "REGULAR",
		"controls": obj{"values": obj{"email": obj{"body": l.Content, "editorType": editor}}},
	}
}

// checkLayout refuses contents that no e-mail could stand in.
func checkLayout(content string) error {
	if err := notification.CheckLayout(content); err != nil {
		return refuse(err.Error())
	}
	return nil
}

var errLayoutTaken = errors.New("taken")

func (c *call) insertLayout(p dbq.ApiInsertLayoutParams, isDefault bool) (id int64, err error) {
	p.OrganizationID = c.org
	if p.Variables == nil {
		p.Variables = json.RawMessage("[]")
	}
	if p.Extra == nil {
		p.Extra = json.RawMessage("{}")
	}
	err = c.transaction(func(q *dbq.Queries) error {
		if id, err = q.ApiInsertLayout(c.ctx, p); none(err) {
			return errLayoutTaken
		}
		if err == nil && isDefault {
			err = c.makeDefault(q, id)
		}
		return err
	})
	return id, err
}

func (c *call) makeDefault(q *dbq.Queries, id int64) error {
	if err := q.ApiClearDefaultLayout(c.ctx, c.org); err != nil {
		return err
	}
	return q.ApiMakeDefaultLayout(c.ctx, id)
}

// v1.

type layoutBodyV1 struct {
	Name        string          `json:"name"`
	Identifier  string          `json:"identifier"`
	Description *string         `json:"description"`
	Content     *string         `json:"content"`
	Variables   json.RawMessage `json:"variables"`
	IsDefault   *bool           `json:"isDefault"`
}

func (b *layoutBodyV1) check() error {
	if b.Content != nil {
		if err := checkLayout(*b.Content); err != nil {
			return err
		}
	}
	if b.Identifier != "" && !notification.ValidID(b.Identifier) {
		return refuse("identifier can't be one: use at most 500 bytes, without control characters")
	}
	return checkKind("variables", b.Variables, '[')
}

func createLayoutV1(c *call) (int, any, error) {
	var b layoutBodyV1
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	var missing []string
	if strings.TrimSpace(b.Name) == "" {
		missing = append(missing, "name should not be empty")
	}
	if b.Content == nil {
		missing = append(missing, "content should not be empty")
	}
	if len(missing) > 0 {
		return 0, nil, refuse(missing...)
	}
	if err := b.check(); err != nil {
		return 0, nil, err
	}
	p := dbq.ApiInsertLayoutParams{Identifier: cmp.Or(b.Identifier, slugOf(b.Name)), Name: b.Name, Content: *b.Content, Variables: orList(b.Variables)}
	if b.Description != nil {
		p.Description = *b.Description
	}
	id, err := c.insertLayout(p, b.IsDefault != nil && *b.IsDefault)
	if errors.Is(err, errLayoutTaken) {
		return 0, nil, conflict("Layout with identifier: %s already exists under environment %s", clip(p.Identifier), c.org)
	}
	if err != nil {
		return 0, nil, err
	}
	return c.layoutShown(http.StatusCreated, id, showLayoutV1)
}

func listLayoutsV1(c *call) (int, any, error) {
	page, err := c.number("page", 0, 1_000_000)
	if err != nil {
		return 0, nil, err
	}
	size, err := c.number("pageSize", 10, 100)
	if err != nil {
		return 0, nil, err
	}
	if size == 0 {
		size = 10
	}
	data, total, err := c.layouts(size, page*size, "", showLayoutV1)
	return http.StatusOK, obj{"page": page, "pageSize": size, "totalCount": total, "data": data}, err
}

func (c *call) layouts(limit, skip int32, search string, show func(*dbq.PgautomateLayout) obj) ([]obj, int64, error) {
	rows, err := c.s.q.ApiListLayouts(c.ctx, dbq.ApiListLayoutsParams{OrganizationID: c.org, Search: search, MaxRows: limit, Skip: skip})
	if err != nil {
		return nil, 0, err
	}
	out := make([]obj, len(rows))
	for i := range rows {
		out[i] = show(&rows[i])
	}
	total, err := c.s.q.ApiCountLayouts(c.ctx, dbq.ApiCountLayoutsParams{OrganizationID: c.org, Search: search})
	return out, total, err
}

func patchLayoutV1(c *call) (int, any, error) {
	var b layoutBodyV1
	err := c.read(&b)
	if err == nil {
		err = b.check()
	}
	if err != nil {
		return 0, nil, err
	}
	l, err := c.layout(c.PathValue("layoutId"))
	if err != nil {
		return 0, nil, err
	}
	if b.IsDefault != nil && !*b.IsDefault && l.IsDefault {
		return 0, nil, refuse("isDefault: make another layout the default instead")
	}
	if b.Identifier != "" && b.Identifier != l.Identifier {
		used, err := c.usage(l)
		if err != nil {
			return 0, nil, err
		}
		if len(used) > 0 {
			return 0, nil, refuse(fmt.Sprintf("identifier: workflow %s names the layout: change its steps first", used[0].Identifier))
		}
	}
	p := updateOf(l)
	p.Name, p.Identifier = cmp.Or(b.Name, p.Name), cmp.Or(b.Identifier, p.Identifier)
	if b.Description != nil {
		p.Description = *b.Description
	}
	if b.Content != nil {
		p.Content = *b.Content
	}
	if len(bytes.TrimSpace(b.Variables)) > 0 {
		p.Variables = orList(b.Variables)
	}
	err = c.transaction(func(q *dbq.Queries) error {
		if err := q.ApiUpdateLayout(c.ctx, p); err != nil {
			return layoutTaken(err)
		}
		if b.IsDefault != nil && *b.IsDefault && !l.IsDefault {
			return c.makeDefault(q, l.ID)
		}
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	return c.layoutShown(http.StatusOK, l.ID, showLayoutV1)
}

func updateOf(l *dbq.PgautomateLayout) dbq.ApiUpdateLayoutParams {
	return dbq.ApiUpdateLayoutParams{
		ID: l.ID, Name: l.Name, Identifier: l.Identifier, Description: l.Description, Content: l.Content, Variables: l.Variables, Extra: l.Extra,
	}
}

func layoutTaken(err error) error {
	return taken(err, "there is a layout with this identifier already: choose another")
}

func (c *call) usage(l *dbq.PgautomateLayout) ([]dbq.ApiLayoutUsageRow, error) {
	return c.s.q.ApiLayoutUsage(c.ctx, dbq.ApiLayoutUsageParams{OrganizationID: c.org, Identifier: l.Identifier, Number: itoa(l.ID)})
}

// deleteLayout refuses, with that status, to delete what something uses.
func (c *call) deleteLayout(refused int) (int, any, error) {
	l, err := c.layout(c.PathValue("layoutId"))
	if err != nil {
		return 0, nil, err
	}
	if l.IsDefault {
		return 0, nil, problemf(refused, "layout %s is the default: make another one the default first", l.Identifier)
	}
	used, err := c.usage(l)
	if err != nil {
		return 0, nil, err
	}
	if len(used) > 0 {
		return 0, nil, problemf(refused, "workflow %s names layout %s: change its steps first", used[0].Identifier, l.Identifier)
	}
	return http.StatusNoContent, nil, c.s.q.ApiDeleteLayout(c.ctx, l.ID)
}

func defaultLayout(c *call) (int, any, error) {
	l, err := c.layout(c.PathValue("layoutId"))
	if err == nil {
		err = c.transaction(func(q *dbq.Queries) error { return c.makeDefault(q, l.ID) })
	}
	return http.StatusNoContent, nil, err
}

// v2.

type layoutBody struct {
	Name          string `json:"name"`
	LayoutID      string `json:"layoutId"`
	Translations  bool   `json:"isTranslationEnabled"`
	ControlValues *struct {
		Email *struct {
			Body       *string `json:"body"`
			EditorType string  `json:"editorType"`
		} `json:"email"`
	} `json:"controlValues"`
}

// content is what the body says the layout is; nil: nothing.
func (b *layoutBody) content() (*string, error) {
	if strings.TrimSpace(b.Name) == "" {
		return nil, refuse("name should not be empty")
	}
	if b.ControlValues == nil || b.ControlValues.Email == nil || b.ControlValues.Email.Body == nil {
		return nil, nil
	}
	content := *b.ControlValues.Email.Body
	if err := notification.CheckBlocks(b.ControlValues.Email.EditorType, content); err != nil {
		return nil, refuse("controlValues.email: " + err.Error())
	}
	return &content, checkLayout(content)
}

func (b *layoutBody) extra() json.RawMessage {
	raw, err := json.Marshal(obj{"isTranslationEnabled": b.Translations})
	if err != nil {
		return json.RawMessage("{}")
	}
	return raw
}

func (c *call) newLayout(b *layoutBody, content string) (int, any, error) {
	identifier := cmp.Or(b.LayoutID, slugOf(b.Name))
	if !notification.ValidID(identifier) {
		return 0, nil, refuse("layoutId can't be one: use at most 500 bytes, without control characters")
	}
	id, err := c.insertLayout(dbq.ApiInsertLayoutParams{Identifier: identifier, Name: b.Name, Content: content, Extra: b.extra()}, false)
	if errors.Is(err, errLayoutTaken) {
		return 0, nil, refuse(fmt.Sprintf("there is a layout %q already: choose another layoutId", identifier))
	}
	if err != nil {
		return 0, nil, err
	}
	return c.layoutShown(http.StatusCreated, id, showLayout)
}

func createLayout(c *call) (int, any, error) {
	var b layoutBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	content, err := b.content()
	if err != nil {
		return 0, nil, err
	}
	if content == nil {
		text := newLayout
		content = &text
	}
	return c.newLayout(&b, *content)
}

func duplicateLayout(c *call) (int, any, error) {
	var b layoutBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if _, err := b.content(); err != nil {
		return 0, nil, err
	}
	l, err := c.layout(c.PathValue("layoutId"))
	if err != nil {
		return 0, nil, err
	}
	return c.newLayout(&b, l.Content)
}

func listLayouts(c *call) (int, any, error) {
	limit, err := c.limit(50)
	if err != nil {
		return 0, nil, err
	}
	offset, err := c.number("offset", 0, 1_000_000)
	if err != nil {
		return 0, nil, err
	}
	list, total, err := c.layouts(limit, offset, c.query("query"), showLayout)
	return http.StatusOK, obj{"layouts": list, "totalCount": total}, err
}

func putLayout(c *call) (int, any, error) {
	var b layoutBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	content, err := b.content()
	if err != nil {
		return 0, nil, err
	}
	l, err := c.layout(c.PathValue("layoutId"))
	if err != nil {
		return 0, nil, err
	}
	p := updateOf(l)
	p.Name, p.Extra = b.Name, b.extra()
	if content != nil {
		p.Content = *content
	}
	if err := c.s.q.ApiUpdateLayout(c.ctx, p); err != nil {
		return 0, nil, err
	}
	return c.layoutShown(http.StatusOK, l.ID, showLayout)
}

// previewLayout renders a layout for values that the caller makes up.
func previewLayout(c *call) (int, any, error) {
	var b struct {
		ControlValues struct {
			Email struct {
				Body string `json:"body"`
			} `json:"email"`
		} `json:"controlValues"`
		Payload obj `json:"previewPayload"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	l, err := c.layout(c.PathValue("layoutId"))
	if err != nil {
		return 0, nil, err
	}
	content := cmp.Or(b.ControlValues.Email.Body, l.Content)
	if err := checkLayout(content); err != nil {
		return 0, nil, err
	}
	if b.Payload == nil {
		b.Payload = obj{}
	}
	body, err := notification.PreviewLayout(c.ctx, content, b.Payload)
	if err != nil {
		return 0, nil, refuse(err.Error())
	}
	return http.StatusCreated, obj{"result": obj{"type": "email", "preview": obj{"body": body}}, "previewPayloadExample": b.Payload, "schema": nil}, nil
}

func layoutUsage(c *call) (int, any, error) {
	l, err := c.layout(c.PathValue("layoutId"))
	if err != nil {
		return 0, nil, err
	}
	rows, err := c.usage(l)
	if err != nil {
		return 0, nil, err
	}
	workflows := make([]obj, len(rows))
	for i, w := range rows {
		workflows[i] = obj{"name": w.Name, "workflowId": w.Identifier}
	}
	return http.StatusOK, obj{"workflows": workflows}, nil
}

// checkLayouts refuses steps that name a layout that isn't there.
func (c *call) checkLayouts(steps []step) error {
	for i, st := range steps {
		if st.Type != "email" {
			continue
		}
		for _, id := range notification.LayoutsOf(st.Controls, st.Variants) {
			if _, err := c.layout(id); err != nil {
				if p, ok := errors.AsType[*problem](err); ok && p.status == http.StatusNotFound {
					return refuse(fmt.Sprintf("steps[%d]: there is no layout %s", i, clip(id)))
				}
				return err
			}
		}
	}
	return nil
}
