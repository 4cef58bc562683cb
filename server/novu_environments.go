package server

// Environments and their variables. An organization is its one environment, so what
// would make another one, or end it, is refused with what to do instead.

import (
	"cmp"
	"net/http"
	"regexp"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/pgautomate/pgautomate/db/dbq"
)

func (s *Server) registerEnvironments(mux *http.ServeMux) {
	const tag = "environments"
	s.novu(mux,
		wire{method: http.MethodGet, path: "/v1/environments", id: "list-environments", summary: "The organization, as its one environment", tag: tag, handle: func(c *call) (int, any, error) {
			e, err := c.environment()
			return http.StatusOK, []obj{e}, err
		}},
		wire{method: http.MethodGet, path: "/v1/environments/me", id: "get-environment", summary: "The organization, as an environment", tag: tag, handle: func(c *call) (int, any, error) {
			e, err := c.environment()
			return http.StatusOK, e, err
		}},
		wire{method: http.MethodPost, path: "/v1/environments", id: "create-environment", summary: "Refused: an organization is its only environment", tag: tag, handle: refused(
			"an organization is its only environment: make a key for another organization (pgautomate keys create --organization NAME) and use that")},
		wire{method: http.MethodPut, path: "/v1/environments/{environmentId}", id: "update-environment", summary: "Name the organization", tag: tag, handle: updateEnvironment},
		wire{method: http.MethodDelete, path: "/v1/environments/{environmentId}", id: "delete-environment", summary: "Refused: an organization is its only environment", tag: tag, handle: refused(
			"an organization's only environment can't be deleted: delete its workflows and revoke its keys (DELETE /v1/keys/{id}) instead")},
		wire{method: http.MethodGet, path: "/v1/environments/api-keys", id: "list-environment-keys", summary: "The organization's keys: how each begins", tag: tag, handle: environmentKeys},
		wire{method: http.MethodPost, path: "/v1/environments/api-keys/regenerate", id: "regenerate-environment-keys", summary: "Refused: make a key and revoke the old one", tag: tag, handle: refused(
			"a key is not replaced by itself: make another (POST /v1/keys), put it in use, then revoke the old one (DELETE /v1/keys/{id})")},
		wire{method: http.MethodGet, path: "/v2/environments/{environmentId}/tags", id: "list-environment-tags", summary: "Tags of workflows", tag: tag, handle: environmentTags},
		wire{method: http.MethodPost, path: "/v2/environments/{environmentId}/diff", id: "diff-environments", summary: "What another environment has: there is none", tag: tag, handle: diffEnvironments},
		wire{method: http.MethodPost, path: "/v2/environments/{environmentId}/publish", id: "publish-environment", summary: "Bring workflows to another environment: there is none", tag: tag, handle: publishEnvironment},
		wire{method: http.MethodGet, path: "/v1/environment-variables", id: "list-environment-variables", summary: "List variables", tag: tag, query: []string{"search"}, handle: listVariables},
		wire{method: http.MethodPost, path: "/v1/environment-variables", id: "create-environment-variable", summary: "Add a variable: {{env.KEY}} in steps", tag: tag, handle: createVariable},
		wire{method: http.MethodGet, path: "/v1/environment-variables/{variableKey}", id: "get-environment-variable", summary: "Get a variable", tag: tag, handle: getVariable},
		wire{method: http.MethodPatch, path: "/v1/environment-variables/{variableKey}", id: "patch-environment-variable", summary: "Change a variable", tag: tag, handle: patchVariable},
		wire{method: http.MethodDelete, path: "/v1/environment-variables/{variableKey}", id: "delete-environment-variable", summary: "Delete a variable", tag: tag, handle: deleteVariable},
		wire{method: http.MethodGet, path: "/v1/environment-variables/{variableKey}/usage", id: "environment-variable-usage", summary: "Workflows whose steps name a variable", tag: tag, handle: variableUsage},
	)
}

// refused handles a route of Novu's that could do nothing here: its 400 says what to do
// instead, where a 404 would say that something is missing.
func refused(message string) func(*call) (int, any, error) {
	return func(*call) (int, any, error) { return 0, nil, problemf(http.StatusBadRequest, "%s", message) }
}

func (c *call) environment() (obj, error) {
	name, err := c.s.q.ApiOrganizationName(c.ctx, c.org)
	return obj{"_id": c.org, "name": name, "_organizationId": c.org, "identifier": c.org, "slug": c.org, "type": "prod"}, err
}

// ownEnvironment refuses all environments but the organization.
func (c *call) ownEnvironment() error {
	if id := c.PathValue("environmentId"); id != c.org {
		return problemf(http.StatusNotFound, "there is no environment %s: this key's is %s", clip(id), c.org)
	}
	return nil
}

func updateEnvironment(c *call) (int, any, error) {
	var b obj
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if err := c.ownEnvironment(); err != nil {
		return 0, nil, err
	}
	for _, other := range []string{"identifier", "parentId", "color", "dns", "bridge"} {
		if v, there := b[other]; there && v != nil && (other != "identifier" || v != c.org) {
			return 0, nil, refuse(other + " can't be changed: an organization is its only environment, and has a name alone")
		}
	}
	if v, there := b["name"]; there {
		name, ok := v.(string)
		if !ok || strings.TrimSpace(name) == "" {
			return 0, nil, refuse("name must be a string that is not empty")
		}
		if err := c.s.q.ApiNameOrganization(c.ctx, dbq.ApiNameOrganizationParams{ID: c.org, Name: name}); err != nil {
			return 0, nil, err
		}
	}
	e, err := c.environment()
	return http.StatusOK, e, err
}

// environmentKeys lists the keys in force. They are stored hashed: of each only its
// beginning can be shown.
func environmentKeys(c *call) (int, any, error) {
	out := []obj{}
	for after := int64(0); ; {
		rows, err := c.s.q.ApiListKeys(c.ctx, dbq.ApiListKeysParams{OrganizationID: &c.org, AfterID: after, MaxRows: 1000})
		if err != nil {
			return 0, nil, err
		}
		for i := range rows {
			if k := &rows[i]; k.RevokedAt == nil {
				out = append(out, obj{"_id": itoa(k.ID), "key": k.Prefix + mask, "_userId": c.org, "name": k.Name, "createdAt": wireTime(k.CreatedAt)})
			}
			after = rows[i].ID
		}
		if len(rows) < 1000 {
			return http.StatusOK, out, nil
		}
	}
}

func environmentTags(c *call) (int, any, error) {
	if err := c.ownEnvironment(); err != nil {
		return 0, nil, err
	}
	tags, err := c.s.q.ApiTags(c.ctx, c.org)
	out := make([]obj, len(tags))
	for i, t := range tags {
		out[i] = obj{"name": t}
	}
	return http.StatusOK, out, err
}

// bothEnvironments reads the environments that a route would bring together.
func (c *call) bothEnvironments() error {
	var b struct {
		Source string `json:"sourceEnvironmentId"`
	}
	if len(c.body) > 0 {
		if err := c.read(&b); err != nil {
			return err
		}
	}
	if b.Source != "" && b.Source != c.org {
		return problemf(http.StatusNotFound, "there is no environment %s: this key's only one is %s", clip(b.Source), c.org)
	}
	return c.ownEnvironment()
}

func diffEnvironments(c *call) (int, any, error) {
	return http.StatusOK, obj{
		"sourceEnvironmentId": c.org, "targetEnvironmentId": c.org, "resources": []obj{},
		"summary": obj{"totalEntities": 0, "totalChanges": 0, "hasChanges": false},
	}, c.bothEnvironments()
}

func publishEnvironment(c *call) (int, any, error) {
	return http.StatusOK, obj{"results": []obj{}, "summary": obj{"resources": 0, "successful": 0, "failed": 0, "skipped": 0}}, c.bothEnvironments()
}

// Variables.

var variableKey = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,199}$`)

type variableBody struct {
	Key    *string `json:"key"`
	Type   string  `json:"type"`
	Secret *bool   `json:"isSecret"`
	Values *[]struct {
		Environment string `json:"_environmentId"`
		Value       string `json:"value"`
	} `json:"values"`
}

// check reads a variable's body; said tells whether it says a value, nil takes one away.
func (b *variableBody) check(c *call) (value *string, said bool, err error) {
	if b.Type != "" && b.Type != "string" {
		return nil, false, refuse("type must be string: there are no others")
	}
	if b.Key != nil && !variableKey.MatchString(*b.Key) {
		return nil, false, refuse("key must begin with a letter, and have at most 200 letters, digits and underscores")
	}
	if b.Values == nil {
		return nil, false, nil
	}
	for _, v := range *b.Values {
		if v.Environment != "" && v.Environment != c.org {
			return nil, false, refuse("values: there is no environment " + clip(v.Environment) + ": this key's only one is " + c.org)
		}
		if value != nil {
			return nil, false, refuse("values must have one element: there is one environment")
		}
		value = &v.Value
	}
	return value, true, nil
}

func (c *call) showVariable(v *dbq.PgautomateEnvironmentVariable) obj {
	values := []obj{}
	if v.Value != nil {
		shown := *v.Value
		if v.IsSecret {
			shown = mask
		}
		values = append(values, obj{"_environmentId": c.org, "value": shown})
	}
	return obj{
		"_id": itoa(v.ID), "_organizationId": c.org, "key": v.Key, "type": "string", "isSecret": v.IsSecret, "values": values,
		"createdAt": wireTime(v.CreatedAt), "updatedAt": wireTime(v.UpdatedAt),
	}
}

func listVariables(c *call) (int, any, error) {
	rows, err := c.s.q.ApiListVariables(c.ctx, dbq.ApiListVariablesParams{OrganizationID: c.org, Search: c.query("search")})
	out := make([]obj, len(rows))
	for i := range rows {
		out[i] = c.showVariable(&rows[i])
	}
	return http.StatusOK, out, err
}

func (c *call) variable() (*dbq.PgautomateEnvironmentVariable, error) {
	key := c.PathValue("variableKey")
	v, err := c.s.q.ApiGetVariable(c.ctx, dbq.ApiGetVariableParams{OrganizationID: c.org, Key: key})
	return &v, orNotFound(err, "environment variable", key)
}

func getVariable(c *call) (int, any, error) {
	v, err := c.variable()
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, c.showVariable(v), nil
}

func variableTaken(err error) error {
	if isPG(err, pgerrcode.UniqueViolation) {
		return refuse("there is a variable of this key already: choose another, or change that one (PATCH /v1/environment-variables/{key})")
	}
	return err
}

func createVariable(c *call) (int, any, error) {
	var b variableBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if b.Key == nil {
		return 0, nil, refuse("key should not be empty")
	}
	value, _, err := b.check(c)
	if err != nil {
		return 0, nil, err
	}
	v, err := c.s.q.ApiInsertVariable(c.ctx, dbq.ApiInsertVariableParams{OrganizationID: c.org, Key: *b.Key, Value: value, IsSecret: b.Secret != nil && *b.Secret})
	if err != nil {
		return 0, nil, variableTaken(err)
	}
	return http.StatusOK, c.showVariable(&v), nil
}

func patchVariable(c *call) (int, any, error) {
	var b variableBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	value, said, err := b.check(c)
	if err != nil {
		return 0, nil, err
	}
	old, err := c.variable()
	if err != nil {
		return 0, nil, err
	}
	p := dbq.ApiUpdateVariableParams{OrganizationID: c.org, Key: old.Key, NewKey: *cmp.Or(b.Key, &old.Key), Value: old.Value, IsSecret: *cmp.Or(b.Secret, &old.IsSecret)}
	if said && (value == nil || !old.IsSecret || *value != mask) {
		p.Value = value
	} else if old.IsSecret && !p.IsSecret && old.Value != nil {
		return 0, nil, refuse("isSecret: a secret's value is not given back: send a value with it")
	}
	v, err := c.s.q.ApiUpdateVariable(c.ctx, p)
	if err != nil {
		return 0, nil, variableTaken(orNotFound(err, "environment variable", old.Key))
	}
	return http.StatusOK, c.showVariable(&v), nil
}

func deleteVariable(c *call) (int, any, error) {
	key := c.PathValue("variableKey")
	n, err := c.s.q.ApiDeleteVariable(c.ctx, dbq.ApiDeleteVariableParams{OrganizationID: c.org, Key: key})
	if err == nil && n == 0 {
		err = notFound("environment variable", key)
	}
	return http.StatusNoContent, nil, err
}

func variableUsage(c *call) (int, any, error) {
	v, err := c.variable()
	if err != nil {
		return 0, nil, err
	}
	rows, err := c.s.q.ApiVariableUsage(c.ctx, dbq.ApiVariableUsageParams{OrganizationID: c.org, Key: v.Key})
	out := make([]obj, len(rows))
	for i, w := range rows {
		out[i] = obj{"name": w.Name, "workflowId": w.Identifier}
	}
	return http.StatusOK, obj{"workflows": out}, err
}
