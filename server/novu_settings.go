package server

// Integrations, tenants, and what a workflow is for one of them.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
	"github.com/pgautomate/pgautomate/notification"
)

func (s *Server) registerSettings(mux *http.ServeMux) {
	s.novu(mux,
		wire{method: http.MethodGet, path: "/v1/integrations", id: "list-integrations", summary: "List integrations", tag: "settings", handle: func(c *call) (int, any, error) { return c.integrations(false) }},
		wire{method: http.MethodGet, path: "/v1/integrations/active", id: "list-active-integrations", summary: "List active integrations", tag: "settings", handle: func(c *call) (int, any, error) { return c.integrations(true) }},
		wire{method: http.MethodPost, path: "/v1/integrations", id: "create-integration", summary: "Add an integration", tag: "settings", handle: createIntegration},
		wire{method: http.MethodGet, path: "/v1/integrations/{integrationId}", id: "get-integration", summary: "Get an integration", tag: "settings", handle: getIntegration},
		wire{method: http.MethodPut, path: "/v1/integrations/{integrationId}", id: "update-integration", summary: "Change an integration", tag: "settings", handle: updateIntegration},
		wire{method: http.MethodDelete, path: "/v1/integrations/{integrationId}", id: "delete-integration", summary: "Remove an integration", tag: "settings", handle: deleteIntegration},
		wire{method: http.MethodPost, path: "/v1/integrations/{integrationId}/set-primary", id: "set-primary-integration", summary: "Use an integration first", tag: "settings", handle: setPrimary},
		wire{method: http.MethodPost, path: "/v1/integrations/{integrationId}/auto-configure", id: "auto-configure-integration", summary: "Nothing to configure: no provider calls this server", tag: "settings", handle: autoConfigure},
		wire{method: http.MethodGet, path: "/v1/integrations/webhook/provider/{providerOrIntegrationId}/status", id: "integration-webhook-status", summary: "Whether a provider can report deliveries: none can", tag: "settings", handle: func(*call) (int, any, error) { return http.StatusOK, false, nil }},
		wire{method: http.MethodGet, path: "/v1/integrations/in-app/status", id: "in-app-status", summary: "Whether in-app messages are on: they need no integration", tag: "settings", handle: func(*call) (int, any, error) { return http.StatusOK, obj{"active": true}, nil }},
		wire{method: http.MethodPost, path: "/v1/integrations/{integrationIdentifier}/webhook/configure", id: "configure-integration-webhook", summary: "Refused: no provider calls this server", tag: "settings", handle: refused(noCallbacks)},
		wire{method: http.MethodPost, path: "/v1/integrations/{integrationIdentifier}/mobile-link", id: "integration-mobile-link", summary: "Refused: there is no linking by phone", tag: "settings", handle: refused(noOAuth)},
		wire{method: http.MethodPost, path: "/v1/integrations/chat/oauth", id: "integration-chat-oauth", summary: "Refused: there is no OAuth", tag: "settings", handle: refused(noOAuth)},
		wire{method: http.MethodPost, path: "/v1/integrations/channel-connections/oauth", id: "integration-connections-oauth", summary: "Refused: there is no OAuth", tag: "settings", handle: refused(noOAuth)},
		wire{method: http.MethodPost, path: "/v1/integrations/channel-endpoints/oauth", id: "integration-endpoints-oauth", summary: "Refused: there is no OAuth", tag: "settings", handle: refused(noOAuth)},
		wire{method: http.MethodPost, path: "/v1/integrations/channel-endpoints/link", id: "integration-endpoints-link", summary: "Refused: there is no OAuth", tag: "settings", handle: refused(noOAuth)},
		wire{method: http.MethodPost, path: "/v1/tenants", id: "create-tenant", summary: "Add a tenant", tag: "settings", handle: createTenant},
		wire{method: http.MethodGet, path: "/v1/tenants", id: "list-tenants", summary: "List tenants", tag: "settings", handle: listTenants},
		wire{method: http.MethodGet, path: "/v1/tenants/{identifier}", id: "get-tenant", summary: "Get a tenant", tag: "settings", handle: getTenant},
		wire{method: http.MethodPatch, path: "/v1/tenants/{identifier}", id: "patch-tenant", summary: "Change a tenant", tag: "settings", handle: patchTenant},
		wire{method: http.MethodDelete, path: "/v1/tenants/{identifier}", id: "delete-tenant", summary: "Delete a tenant", tag: "settings", handle: deleteTenant},
		wire{method: http.MethodPost, path: "/v1/workflow-overrides", id: "create-workflow-override", summary: "Say what a workflow is for a tenant", tag: "settings", handle: createOverride},
	)
}

// What is said where Novu's cloud would talk to a provider for the caller.
const (
	noCallbacks = "providers don't call this server, so there is no webhook to configure: what becomes of a message is what the provider answers when it is sent"
	noOAuth     = "there is no OAuth here: give the provider's credentials to the integration (POST /v1/integrations), and a subscriber's address to the subscriber " +
		"(PUT /v1/subscribers/{subscriberId}/credentials)"
)

// autoConfigure answers in Novu's words for a provider that can't be configured.
func autoConfigure(c *call) (int, any, error) {
	id, err := c.integrationID()
	if err != nil {
		return 0, nil, err
	}
	_, _, err = c.integration(http.StatusOK, id)
	return http.StatusOK, obj{"success": false, "message": noCallbacks}, err
}

func showIntegration(i *dbq.PgautomateIntegration) obj {
	m := obj{
		"_id": itoa(i.ID), "_environmentId": i.OrganizationID, "_organizationId": i.OrganizationID, "name": i.Name, "identifier": i.Identifier,
		"providerId": i.ProviderID, "channel": i.Channel, "credentials": maskCredentials(i.Credentials), "active": i.Active, "deleted": false, "primary": i.IsPrimary,
		"createdAt": wireTime(i.CreatedAt), "updatedAt": wireTime(i.UpdatedAt),
	}
	put(m, "conditions", i.Conditions)
	return m
}

// mask stands for a credential that is not given back; sent back, it means the one
// that is kept.
const mask = "********"

// openCredentials are those that are no secrets.
var openCredentials = []string{"from", "senderName", "host", "port", "secure", "requireTls", "ignoreTls", "region", "accountSid"}

// maskCredentials gives an integration's credentials without its secrets.
func maskCredentials(raw json.RawMessage) obj {
	m := obj{}
	if json.Unmarshal(raw, &m) != nil {
		return obj{}
	}
	for name, v := range m {
		switch v.(type) {
		case bool, nil:
		default:
			if !slices.Contains(openCredentials, name) {
				m[name] = mask
			}
		}
	}
	return m
}

// keepMasked gives credentials with what was kept in the place of masks.
func keepMasked(sent, kept json.RawMessage) (json.RawMessage, error) {
	var m, old map[string]json.RawMessage
	if err := json.Unmarshal(sent, &m); err != nil || m == nil {
		return sent, nil //nolint:nilerr // the database refuses what is no object
	}
	if err := json.Unmarshal(kept, &old); err != nil {
		return nil, err
	}
	for name, v := range m {
		if string(v) != `"`+mask+`"` {
			continue
		}
		if _, there := old[name]; !there {
			return nil, refuse("credentials." + name + " is the mask of a credential that is not there: send the credential itself")
		}
		m[name] = old[name]
	}
	return json.Marshal(m)
}

func getIntegration(c *call) (int, any, error) {
	id, err := c.integrationID()
	if err != nil {
		return 0, nil, err
	}
	return c.integration(http.StatusOK, id)
}

func (c *call) integrations(onlyActive bool) (int, any, error) {
	rows, err := c.s.q.ApiListIntegrations(c.ctx, dbq.ApiListIntegrationsParams{OrganizationID: c.org, OnlyActive: onlyActive})
	out := make([]obj, len(rows))
	for i := range rows {
		out[i] = showIntegration(&rows[i])
	}
	return http.StatusOK, out, err
}

func (c *call) integration(status int, id int64) (int, any, error) {
	rows, err := c.s.q.ApiListIntegrations(c.ctx, dbq.ApiListIntegrationsParams{OrganizationID: c.org, ID: &id})
	if err != nil {
		return 0, nil, err
	}
	if len(rows) == 0 {
		return 0, nil, notFound("integration", itoa(id))
	}
	return status, showIntegration(&rows[0]), nil
}

type integrationBody struct {
	ProviderID  string          `json:"providerId"`
	Channel     string          `json:"channel"`
	Credentials json.RawMessage `json:"credentials"`
	Active      *bool           `json:"active"`
	Name        *string         `json:"name"`
	Identifier  *string         `json:"identifier"`
	Conditions  json.RawMessage `json:"conditions"`
}

func taken(err error, message string) error {
	if isPG(err, pgerrcode.UniqueViolation) {
		return refuse(message)
	}
	if isPG(err, pgerrcode.CheckViolation) {
		return refuse("channel must be one of email, sms, push, chat, in_app, and credentials an object")
	}
	return err
}

func createIntegration(c *call) (int, any, error) {
	var b integrationBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if b.ProviderID == "" || b.Channel == "" {
		return 0, nil, refuse("providerId and channel should not be empty")
	}
	if err := checkKind("credentials", b.Credentials, '{'); err != nil {
		return 0, nil, err
	}
	if known := jobs.Providers(b.Channel); known != nil && !slices.Contains(known, b.ProviderID) {
		return 0, nil, refuse(fmt.Sprintf("providerId %q can't send %s here: use %s", clip(b.ProviderID), b.Channel, strings.Join(known, " or ")))
	}
	credentials, err := keepMasked(orObject(b.Credentials), json.RawMessage("{}"))
	if err != nil {
		return 0, nil, err
	}
	if err := notification.CheckFilters(b.Conditions); err != nil {
		return 0, nil, refuse("conditions: " + err.Error())
	}
	p := dbq.ApiInsertIntegrationParams{
		OrganizationID: c.org, Name: b.ProviderID, ProviderID: b.ProviderID, Channel: b.Channel, Credentials: credentials,
		Conditions: b.Conditions, Active: b.Active == nil || *b.Active,
	}
	if b.Name != nil {
		p.Name = *b.Name
	}
	if b.Identifier != nil {
		p.Identifier = *b.Identifier
	}
	id, err := c.s.q.ApiInsertIntegration(c.ctx, p)
	if err != nil {
		return 0, nil, taken(err, "there is an integration with this identifier already: choose another")
	}
	return c.integration(http.StatusCreated, id)
}

func (c *call) integrationID() (int64, error) {
	if id := idNumber(c.PathValue("integrationId")); id != nil {
		return *id, nil
	}
	return 0, notFound("integration", c.PathValue("integrationId"))
}

func updateIntegration(c *call) (int, any, error) {
	var b integrationBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if err := checkKind("credentials", b.Credentials, '{'); err != nil {
		return 0, nil, err
	}
	if err := notification.CheckFilters(b.Conditions); err != nil {
		return 0, nil, refuse("conditions: " + err.Error())
	}
	id, err := c.integrationID()
	if err != nil {
		return 0, nil, err
	}
	if b.Credentials != nil {
		rows, err := c.s.q.ApiListIntegrations(c.ctx, dbq.ApiListIntegrationsParams{OrganizationID: c.org, ID: &id})
		if err != nil {
			return 0, nil, err
		}
		if len(rows) == 0 {
			return 0, nil, notFound("integration", itoa(id))
		}
		if b.Credentials, err = keepMasked(b.Credentials, rows[0].Credentials); err != nil {
			return 0, nil, err
		}
	}
	_, err = c.s.q.ApiUpdateIntegration(c.ctx, dbq.ApiUpdateIntegrationParams{
		OrganizationID: c.org, ID: id, Name: b.Name, Identifier: b.Identifier, Credentials: b.Credentials, Active: b.Active, Conditions: b.Conditions,
	})
	if err != nil {
		return 0, nil, taken(err, "there is an integration with this identifier already: choose another")
	}
	return c.integration(http.StatusOK, id)
}

func deleteIntegration(c *call) (int, any, error) {
	id, err := c.integrationID()
	if err != nil {
		return 0, nil, err
	}
	n, err := c.s.q.ApiDeleteIntegration(c.ctx, dbq.ApiDeleteIntegrationParams{OrganizationID: c.org, ID: id})
	if err == nil && n == 0 {
		err = notFound("integration", itoa(id))
	}
	if err != nil {
		return 0, nil, err
	}
	return c.integrations(false)
}

func setPrimary(c *call) (int, any, error) {
	id, err := c.integrationID()
	if err != nil {
		return 0, nil, err
	}
	if _, _, err := c.integration(0, id); err != nil {
		return 0, nil, err
	}
	err = c.transaction(func(q *dbq.Queries) error {
		if err := q.ApiClearPrimary(c.ctx, id); err != nil {
			return err
		}
		_, err := q.ApiSetPrimary(c.ctx, dbq.ApiSetPrimaryParams{OrganizationID: c.org, ID: id})
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	return c.integration(http.StatusOK, id)
}

// Tenants.

type tenantBody struct {
	Identifier string          `json:"identifier"`
	Name       *string         `json:"name"`
	Data       json.RawMessage `json:"data"`
}

func showTenant(t *dbq.PgautomateTenant) obj {
	m := obj{
		"_id": itoa(t.ID), "identifier": t.Identifier, "name": t.Name, "_organizationId": t.OrganizationID, "_environmentId": t.OrganizationID,
		"createdAt": wireTime(t.CreatedAt), "updatedAt": wireTime(t.UpdatedAt),
	}
	put(m, "data", t.Data)
	return m
}

func (c *call) tenant(id string) (*dbq.PgautomateTenant, error) {
	t, err := c.s.q.ApiGetTenant(c.ctx, dbq.ApiGetTenantParams{OrganizationID: c.org, Identifier: id})
	if none(err) {
		return nil, problemf(http.StatusNotFound, "Tenant with identifier: %s is not exists under environment %s", clip(id), c.org)
	}
	return &t, err
}

func (c *call) saveTenant(status int, b *tenantBody) (int, any, error) {
	if err := checkKind("data", b.Data, '{'); err != nil {
		return 0, nil, err
	}
	_, err := c.s.q.UpsertTenant(c.ctx, dbq.UpsertTenantParams{OrganizationID: c.org, Identifier: b.Identifier, Name: b.Name, Data: b.Data})
	if err != nil {
		return 0, nil, err
	}
	t, err := c.tenant(b.Identifier)
	if err != nil {
		return 0, nil, err
	}
	return status, showTenant(t), nil
}

func createTenant(c *call) (int, any, error) {
	var b tenantBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if !notification.ValidID(b.Identifier) {
		return 0, nil, refuse("identifier should not be empty")
	}
	if _, err := c.tenant(b.Identifier); err == nil {
		return 0, nil, conflict("Tenant with identifier: %s already exists under environment %s", clip(b.Identifier), c.org)
	}
	return c.saveTenant(http.StatusCreated, &b)
}

func patchTenant(c *call) (int, any, error) {
	var b tenantBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	t, err := c.tenant(c.PathValue("identifier"))
	if err != nil {
		return 0, nil, err
	}
	b.Identifier = t.Identifier
	return c.saveTenant(http.StatusOK, &b)
}

func getTenant(c *call) (int, any, error) {
	t, err := c.tenant(c.PathValue("identifier"))
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, showTenant(t), nil
}

func listTenants(c *call) (int, any, error) {
	page, size, err := c.paging(100)
	if err != nil {
		return 0, nil, err
	}
	rows, err := c.s.q.ApiListTenants(c.ctx, dbq.ApiListTenantsParams{OrganizationID: c.org, MaxRows: size + 1, Skip: page * size})
	if err != nil {
		return 0, nil, err
	}
	data := []obj{}
	for i := range rows[:min(len(rows), int(size))] {
		data = append(data, showTenant(&rows[i]))
	}
	return http.StatusOK, obj{"page": page, "pageSize": size, "hasMore": len(rows) > int(size), "data": data}, nil
}

func deleteTenant(c *call) (int, any, error) {
	t, err := c.tenant(c.PathValue("identifier"))
	if err != nil {
		return 0, nil, err
	}
	_, err = c.s.q.ApiDeleteTenant(c.ctx, dbq.ApiDeleteTenantParams{OrganizationID: c.org, Identifier: t.Identifier})
	return http.StatusNoContent, nil, err
}

func createOverride(c *call) (int, any, error) {
	var b struct {
		WorkflowID         string          `json:"workflowId"`
		TenantID           string          `json:"tenantId"`
		Active             *bool           `json:"active"`
		PreferenceSettings json.RawMessage `json:"preferenceSettings"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if b.WorkflowID == "" || b.TenantID == "" {
		return 0, nil, refuse("workflowId and tenantId should not be empty")
	}
	var settings map[string]*bool
	if len(b.PreferenceSettings) > 0 && json.Unmarshal(b.PreferenceSettings, &settings) != nil {
		return 0, nil, refuse("preferenceSettings must be an object of channels that are true or false")
	}
	w, err := c.s.workflow(c.ctx, c.org, b.WorkflowID)
	if err != nil {
		return 0, nil, err
	}
	t, err := c.tenant(b.TenantID)
	if err != nil {
		return 0, nil, err
	}
	o, err := c.s.q.ApiPutOverride(c.ctx, dbq.ApiPutOverrideParams{
		WorkflowID: w.ID, TenantID: t.ID, Active: b.Active, PreferenceSettings: b.PreferenceSettings,
	})
	if err != nil {
		return 0, nil, err
	}
	m := obj{
		"_id": itoa(o.ID), "_organizationId": c.org, "_environmentId": c.org, "_workflowId": itoa(w.ID), "_tenantId": itoa(t.ID), "deleted": false,
		"createdAt": wireTime(o.CreatedAt), "updatedAt": wireTime(o.UpdatedAt),
	}
	put(m, "active", o.Active)
	put(m, "preferenceSettings", o.PreferenceSettings)
	return http.StatusCreated, m, nil
}
