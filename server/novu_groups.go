package server

// Groups of workflows, of v1: names to sort workflows by. A template may name any
// text as its group; one that isn't there becomes one.

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/notification"
)

// generalGroup is the group of an organization that has made none: clients take the
// first of the list for their templates.
const generalGroup = "general"

func (s *Server) registerGroups(mux *http.ServeMux) {
	const tag = "workflows"
	s.novu(mux,
		wire{method: http.MethodPost, path: "/v1/notification-groups", id: "create-notification-group", summary: "Make a group of workflows", tag: tag, handle: createGroup},
		wire{method: http.MethodGet, path: "/v1/notification-groups", id: "list-notification-groups", summary: "List groups of workflows", tag: tag, handle: listGroups},
		wire{method: http.MethodGet, path: "/v1/notification-groups/{id}", id: "get-notification-group", summary: "Get a group of workflows", tag: tag, handle: getGroup},
		wire{method: http.MethodPatch, path: "/v1/notification-groups/{id}", id: "patch-notification-group", summary: "Rename a group of workflows", tag: tag, handle: patchGroup},
		wire{method: http.MethodDelete, path: "/v1/notification-groups/{id}", id: "delete-notification-group", summary: "Delete a group that no workflow is in", tag: tag, handle: deleteGroup},
	)
}

func showGroup(g *dbq.PgautomateNotificationGroup) obj {
	return obj{
		"_id": g.Identifier, "name": g.Name, "_organizationId": g.OrganizationID, "_environmentId": g.OrganizationID,
		"createdAt": wireTime(g.CreatedAt), "updatedAt": wireTime(g.UpdatedAt),
	}
}

// groupName reads the body of a group.
func (c *call) groupName() (string, error) {
	var b struct {
		Name string `json:"name"`
	}
	if err := c.read(&b); err != nil {
		return "", err
	}
	if strings.TrimSpace(b.Name) == "" {
		return "", refuse("name should not be empty")
	}
	return b.Name, nil
}

func createGroup(c *call) (int, any, error) {
	name, err := c.groupName()
	if err != nil {
		return 0, nil, err
	}
	var id [12]byte
	_, _ = rand.Read(id[:])
	g, err := c.s.q.ApiInsertGroup(c.ctx, dbq.ApiInsertGroupParams{OrganizationID: c.org, Identifier: hex.EncodeToString(id[:]), Name: name})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, showGroup(&g), nil
}

func listGroups(c *call) (int, any, error) {
	rows, err := c.s.q.ApiListGroups(c.ctx, c.org)
	if err == nil && len(rows) == 0 {
		if err = ensureGroup(c, c.s.q, generalGroup); err == nil {
			rows, err = c.s.q.ApiListGroups(c.ctx, c.org)
		}
	}
	out := make([]obj, len(rows))
	for i := range rows {
		out[i] = showGroup(&rows[i])
	}
	return http.StatusOK, out, err
}

// ensureGroup makes the group that a template names, unless it is there.
func ensureGroup(c *call, q *dbq.Queries, id string) error {
	name := id
	if id == generalGroup {
		name = "General"
	}
	return q.ApiEnsureGroup(c.ctx, dbq.ApiEnsureGroupParams{OrganizationID: c.org, Identifier: id, Name: name})
}

func getGroup(c *call) (int, any, error) {
	id := c.PathValue("id")
	g, err := c.s.q.ApiGetGroup(c.ctx, dbq.ApiGetGroupParams{OrganizationID: c.org, Identifier: id})
	if err != nil {
		return 0, nil, orNotFound(err, "notification group", id)
	}
	return http.StatusOK, showGroup(&g), nil
}

func patchGroup(c *call) (int, any, error) {
	name, err := c.groupName()
	if err != nil {
		return 0, nil, err
	}
	id := c.PathValue("id")
	g, err := c.s.q.ApiRenameGroup(c.ctx, dbq.ApiRenameGroupParams{OrganizationID: c.org, Identifier: id, Name: name})
	if err != nil {
		return 0, nil, orNotFound(err, "notification group", id)
	}
	return http.StatusOK, showGroup(&g), nil
}

func deleteGroup(c *call) (int, any, error) {
	id := c.PathValue("id")
	n, err := c.s.q.ApiDeleteGroup(c.ctx, dbq.ApiDeleteGroupParams{OrganizationID: c.org, Identifier: id})
	if err == nil && n == 0 {
		if _, _, err = getGroup(c); err == nil {
			err = refuse("the group has workflows: move them to another (PUT /v1/notification-templates/{id} with notificationGroupId) or delete them first")
		}
	}
	return http.StatusOK, obj{"acknowledged": true, "status": "deleted"}, err
}

// checkGroup refuses what can't be the id of a template's group.
func checkGroup(id string) error {
	if id != "" && !notification.ValidID(id) {
		return refuse("notificationGroupId can't be one: use the _id of a group, or a name of at most 500 bytes")
	}
	return nil
}

// nameGroups gives workflows the names of their groups.
func (c *call) nameGroups(list ...*saved) error {
	ids := []string{}
	for _, w := range list {
		if w.GroupID != nil {
			ids = append(ids, *w.GroupID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := c.s.q.ApiGroupNames(c.ctx, dbq.ApiGroupNamesParams{OrganizationID: c.org, Identifiers: ids})
	names := map[string]string{}
	for _, g := range rows {
		names[g.Identifier] = g.Name
	}
	for _, w := range list {
		if w.GroupID != nil {
			w.group = names[*w.GroupID]
		}
	}
	return err
}
