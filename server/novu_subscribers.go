package server

// Subscribers: who can be notified, how, and what of it they want.

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/notification"
)

const (
	maxSubscribers = 500
	maxTokens      = 100 // of a provider's device tokens
)

func (s *Server) registerSubscribers(mux *http.ServeMux) {
	const tag, one = "subscribers", "/{subscriberId}"
	for _, v := range []string{"/v1", "/v2"} {
		base := v + "/subscribers"
		list := listSubscribersV1
		if v == "/v2" {
			list = listSubscribers
		}
		s.novu(mux,
			wire{method: http.MethodPost, path: base, id: v[1:] + "-create-subscriber", summary: "Make or change a subscriber", tag: tag, query: []string{"failIfExists"}, handle: createSubscriber},
			wire{method: http.MethodGet, path: base, id: v[1:] + "-list-subscribers", summary: "List subscribers", tag: tag, query: []string{"page", "limit", "after", "before", "includeCursor", "orderDirection", "email", "name", "phone", "subscriberId"}, handle: list},
			wire{method: http.MethodGet, path: base + one, id: v[1:] + "-get-subscriber", summary: "Get a subscriber", tag: tag, handle: getSubscriber},
			wire{method: http.MethodPatch, path: base + one, id: v[1:] + "-patch-subscriber", summary: "Change a subscriber", tag: tag, handle: patchSubscriber},
			wire{method: http.MethodDelete, path: base + one, id: v[1:] + "-delete-subscriber", summary: "Delete a subscriber", tag: tag, handle: deleteSubscriber},
		)
	}
	s.novu(mux,
		wire{method: http.MethodPut, path: "/v1/subscribers" + one, id: "put-subscriber", summary: "Change a subscriber", tag: tag, handle: patchSubscriber},
		wire{method: http.MethodPost, path: "/v1/subscribers/bulk", id: "bulk-subscribers", summary: "Make or change up to 500 subscribers", tag: tag, most: 8 << 20, handle: bulkSubscribers},
		wire{method: http.MethodPut, path: "/v1/subscribers/{subscriberId}/credentials", id: "put-credentials", summary: "Set credentials of a provider", tag: tag, handle: putCredentials},
		wire{method: http.MethodPatch, path: "/v1/subscribers/{subscriberId}/credentials", id: "patch-credentials", summary: "Add credentials of a provider", tag: tag, handle: patchCredentials},
		wire{method: http.MethodDelete, path: "/v1/subscribers/{subscriberId}/credentials/{providerId}", id: "delete-credentials", summary: "Remove credentials of a provider", tag: tag, handle: deleteCredentials},
		wire{method: http.MethodPatch, path: "/v1/subscribers/{subscriberId}/online-status", id: "online-status", summary: "Say whether a subscriber is online", tag: tag, handle: onlineStatus},
		wire{method: http.MethodGet, path: "/v2/subscribers/{subscriberId}/preferences", id: "list-preferences", summary: "What a subscriber wants", tag: tag, handle: listPreferences},
		wire{method: http.MethodPatch, path: "/v2/subscribers/{subscriberId}/preferences", id: "patch-preferences", summary: "Change what a subscriber wants", tag: tag, handle: patchPreferences},
		wire{method: http.MethodPatch, path: "/v2/subscribers/{subscriberId}/preferences/bulk", id: "bulk-preferences", summary: "Change what a subscriber wants of many workflows", tag: tag, handle: bulkPreferences},
		wire{method: http.MethodGet, path: "/v1/subscribers/{subscriberId}/preferences", id: "v1-list-preferences", summary: "What a subscriber wants (v1)", tag: tag, handle: listPreferencesV1},
		wire{method: http.MethodPatch, path: "/v1/subscribers/{subscriberId}/preferences", id: "v1-patch-global-preferences", summary: "Change what a subscriber wants (v1)", tag: tag, handle: patchGlobalV1},
		wire{method: http.MethodPatch, path: "/v1/subscribers/{subscriberId}/preferences/{templateId}", id: "v1-patch-preferences", summary: "Change what a subscriber wants of a workflow (v1)", tag: tag, handle: patchPreferencesV1},
	)
}

func showSubscriber(r *dbq.ApiGetSubscriberRow) obj {
	m := obj{
		"_id": itoa(r.ID), "subscriberId": r.SubscriberID, "_organizationId": r.OrganizationID, "_environmentId": r.OrganizationID, "deleted": false,
		"createdAt": wireTime(r.CreatedAt), "updatedAt": wireTime(r.UpdatedAt), "channels": r.Channels, "topics": orNone(r.Topics), "__v": 0,
	}
	put(m, "firstName", r.FirstName)
	put(m, "lastName", r.LastName)
	put(m, "email", r.Email)
	put(m, "phone", r.Phone)
	put(m, "avatar", r.Avatar)
	put(m, "locale", r.Locale)
	put(m, "timezone", r.Timezone)
	put(m, "data", r.Data)
	put(m, "isOnline", r.IsOnline)
	put(m, "lastOnlineAt", r.LastOnlineAt)
	return m
}

func (c *call) subscriber(id string) (*dbq.ApiGetSubscriberRow, error) {
	r, err := c.s.q.ApiGetSubscriber(c.ctx, dbq.ApiGetSubscriberParams{OrganizationID: c.org, SubscriberID: id})
	if err != nil {
		if none(err) {
			return nil, problemf(http.StatusNotFound, "Subscriber %s was not found", clip(id))
		}
		return nil, err
	}
	return &r, nil
}

func (c *call) subscriberAnswer(status int, id string) (int, any, error) {
	r, err := c.subscriber(id)
	if err != nil {
		return 0, nil, err
	}
	return status, showSubscriber(r), nil
}

// checkSubscriber refuses what would not be kept as it was sent.
func checkSubscriber(raw json.RawMessage) error {
	var b map[string]json.RawMessage
	if err := readInto(raw, &b, "the subscriber"); err != nil {
		return err
	}
	for _, name := range []string{"firstName", "lastName", "email", "phone", "avatar", "locale", "timezone"} {
		var text *string
		if len(b[name]) > 0 && json.Unmarshal(b[name], &text) != nil {
			return refuse(name + " must be a string")
		}
		if name != "timezone" || text == nil || *text == "" {
			continue
		}
		if _, err := time.LoadLocation(*text); err != nil || *text == "Local" {
			return refuse(fmt.Sprintf("timezone %q is not known: use an IANA name such as Europe/Vienna", clip(*text)))
		}
	}
	if err := checkKind("data", b["data"], '{'); err != nil {
		return err
	}
	return checkKind("channels", b["channels"], '[')
}

func createSubscriber(c *call) (int, any, error) {
	var b struct {
		SubscriberID string `json:"subscriberId"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if err := checkSubscriber(c.body); err != nil {
		return 0, nil, err
	}
	if c.query("failIfExists") == "true" {
		if r, err := c.subscriber(b.SubscriberID); err == nil {
			return http.StatusConflict, showSubscriber(r), nil
		}
	}
	var id string
	err := c.transaction(func(q *dbq.Queries) (err error) {
		id, err = c.s.notifications.UpsertSubscriber(c.ctx, q, c.org, c.body)
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	return c.subscriberAnswer(http.StatusCreated, id)
}

func bulkSubscribers(c *call) (int, any, error) {
	var b struct {
		Subscribers []json.RawMessage `json:"subscribers"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	switch {
	case len(b.Subscribers) == 0:
		return 0, nil, refuse("subscribers should not be empty")
	case len(b.Subscribers) > maxSubscribers:
		return 0, nil, refuse("subscribers must contain no more than 500 elements")
	}
	updated, created, failed := []obj{}, []obj{}, []obj{}
	for _, raw := range b.Subscribers {
		var named struct {
			SubscriberID string `json:"subscriberId"`
		}
		err := readInto(raw, &named, "the subscriber")
		if err == nil {
			err = checkSubscriber(raw)
		}
		before := false
		if err == nil {
			_, missing := c.subscriber(named.SubscriberID)
			before = missing == nil
			err = c.transaction(func(q *dbq.Queries) error {
				_, err := c.s.notifications.UpsertSubscriber(c.ctx, q, c.org, raw)
				return err
			})
		}
		one := obj{"subscriberId": named.SubscriberID}
		switch {
		case err != nil:
			message, known := c.refusal(err)
			if !known {
				return 0, nil, err
			}
			one["message"] = message
			failed = append(failed, one)
		case before:
			updated = append(updated, one)
		default:
			created = append(created, one)
		}
	}
	return http.StatusCreated, obj{"updated": updated, "created": created, "failed": failed}, nil
}

func getSubscriber(c *call) (int, any, error) {
	return c.subscriberAnswer(http.StatusOK, c.PathValue("subscriberId"))
}

func patchSubscriber(c *call) (int, any, error) {
	var b obj
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if err := checkSubscriber(c.body); err != nil {
		return 0, nil, err
	}
	id := c.PathValue("subscriberId")
	n, err := c.s.q.ApiPatchSubscriber(c.ctx, dbq.ApiPatchSubscriberParams{OrganizationID: c.org, SubscriberID: id, Patch: c.body})
	if err != nil {
		return 0, nil, err
	}
	if n == 0 {
		return 0, nil, problemf(http.StatusNotFound, "Subscriber %s was not found", clip(id))
	}
	return c.subscriberAnswer(http.StatusOK, id)
}

func deleteSubscriber(c *call) (int, any, error) {
	id := c.PathValue("subscriberId")
	_, err := c.s.q.ApiDeleteSubscriber(c.ctx, dbq.ApiDeleteSubscriberParams{OrganizationID: c.org, SubscriberID: id})
	if none(err) {
		return 0, nil, problemf(http.StatusNotFound, "Subscriber %s was not found", clip(id))
	}
	return http.StatusOK, obj{"acknowledged": true, "status": "deleted"}, err
}

func (c *call) listSubscribers(w walk, skip int32) ([]dbq.PgautomateSubscriber, error) {
	return c.s.q.ApiListSubscribers(c.ctx, dbq.ApiListSubscribersParams{
		OrganizationID: c.org, Email: c.query("email"), Phone: c.query("phone"), Name: c.query("name"), SubscriberID: c.query("subscriberId"),
		After: w.above, Before: w.below, MaxRows: w.rows(), Skip: skip, Ascending: w.ascending,
	})
}

func showListed(r *dbq.PgautomateSubscriber) obj {
	return showSubscriber(&dbq.ApiGetSubscriberRow{
		ID: r.ID, OrganizationID: r.OrganizationID, SubscriberID: r.SubscriberID, FirstName: r.FirstName, LastName: r.LastName, Email: r.Email,
		Phone: r.Phone, Avatar: r.Avatar, Locale: r.Locale, Timezone: r.Timezone, Data: r.Data, Channels: r.Channels, IsOnline: r.IsOnline,
		LastOnlineAt: r.LastOnlineAt, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	})
}

func listSubscribers(c *call) (int, any, error) {
	w, err := c.walk(c.query("orderDirection") == "ASC")
	if err != nil {
		return 0, nil, err
	}
	rows, err := c.listSubscribers(w, 0)
	if err != nil {
		return 0, nil, err
	}
	found, err := c.s.q.ApiCountSubscribers(c.ctx, dbq.ApiCountSubscribersParams{
		OrganizationID: c.org, Email: c.query("email"), Phone: c.query("phone"), Name: c.query("name"), SubscriberID: c.query("subscriberId"), Most: maxCounted + 1,
	})
	return http.StatusOK, cursorPage(rows, &w, found, func(r *dbq.PgautomateSubscriber) int64 { return r.ID }, showListed), err
}

func listSubscribersV1(c *call) (int, any, error) {
	page, size, err := c.paging(100)
	if err != nil {
		return 0, nil, err
	}
	rows, err := c.listSubscribers(walk{limit: size}, page*size)
	if err != nil {
		return 0, nil, err
	}
	more := len(rows) > int(size)
	data := []obj{}
	for i := range rows[:min(len(rows), int(size))] {
		data = append(data, showListed(&rows[i]))
	}
	return http.StatusOK, obj{"page": page, "pageSize": size, "hasMore": more, "data": data}, nil
}

// Credentials.

type credentialsBody struct {
	ProviderID            string          `json:"providerId"`
	IntegrationIdentifier string          `json:"integrationIdentifier,omitempty"`
	Credentials           json.RawMessage `json:"credentials"`
}

func putCredentials(c *call) (int, any, error)   { return c.credentials(false) }
func patchCredentials(c *call) (int, any, error) { return c.credentials(true) }

// credentials needs an active integration of that provider.
func (c *call) credentials(union bool) (int, any, error) {
	var b credentialsBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if b.ProviderID == "" {
		return 0, nil, refuse("providerId should not be empty")
	}
	if len(b.Credentials) == 0 || string(b.Credentials) == "null" {
		return 0, nil, refuse("credentials must be an object")
	}
	if err := checkKind("credentials", b.Credentials, '{'); err != nil {
		return 0, nil, err
	}
	id := c.PathValue("subscriberId")
	if _, err := c.subscriber(id); err != nil {
		return 0, nil, err
	}
	list, err := c.s.q.ApiListIntegrations(c.ctx, dbq.ApiListIntegrationsParams{OrganizationID: c.org, OnlyActive: true})
	if err != nil {
		return 0, nil, err
	}
	i := slices.IndexFunc(list, func(i dbq.PgautomateIntegration) bool {
		return i.ProviderID == b.ProviderID && (b.IntegrationIdentifier == "" || i.Identifier == b.IntegrationIdentifier)
	})
	if i < 0 {
		return 0, nil, problemf(http.StatusBadRequest, "Subscribers environment (%s) do not have active %s integration.", c.org, b.ProviderID)
	}
	channels, err := json.Marshal([]obj{{
		"providerId": b.ProviderID, "integrationIdentifier": list[i].Identifier, "_integrationId": itoa(list[i].ID), "credentials": orObject(b.Credentials),
	}})
	if err != nil {
		return 0, nil, err
	}
	err = c.transaction(func(q *dbq.Queries) error {
		if err := notification.MergeSubscriberChannels(c.ctx, q, c.org, id, channels, union); err != nil {
			return err
		}
		merged, err := q.SubscriberChannels(c.ctx, dbq.SubscriberChannelsParams{OrganizationID: c.org, SubscriberID: id})
		if err != nil {
			return err
		}
		return checkTokens(merged)
	})
	if err != nil {
		return 0, nil, err
	}
	return c.subscriberAnswer(http.StatusOK, id)
}

// checkTokens refuses more device tokens than a provider may have.
func checkTokens(channels json.RawMessage) error {
	var list []struct {
		Credentials struct {
			DeviceTokens any `json:"deviceTokens"`
		} `json:"credentials"`
	}
	if err := json.Unmarshal(channels, &list); err != nil {
		return err
	}
	for _, one := range list {
		tokens, ok := one.Credentials.DeviceTokens.([]any)
		switch {
		case !ok && one.Credentials.DeviceTokens != nil:
			return refuse("credentials.deviceTokens must be an array")
		case len(tokens) > maxTokens:
			return refuse(fmt.Sprintf("credentials.deviceTokens must contain no more than %d elements", maxTokens))
		}
	}
	return nil
}

func deleteCredentials(c *call) (int, any, error) {
	id, provider := c.PathValue("subscriberId"), c.PathValue("providerId")
	err := c.transaction(func(q *dbq.Queries) error {
		raw, err := q.SubscriberChannels(c.ctx, dbq.SubscriberChannelsParams{OrganizationID: c.org, SubscriberID: id})
		if none(err) {
			return problemf(http.StatusNotFound, "Subscriber %s was not found", clip(id))
		}
		if err != nil {
			return err
		}
		var list []obj
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
		list = slices.DeleteFunc(list, func(o obj) bool { return o["providerId"] == provider })
		if raw, err = json.Marshal(slices.Concat([]obj{}, list)); err != nil {
			return err
		}
		if len(list) == 0 {
			raw = json.RawMessage("[]")
		}
		return q.SetSubscriberChannels(c.ctx, dbq.SetSubscriberChannelsParams{OrganizationID: c.org, SubscriberID: id, Channels: raw})
	})
	return http.StatusNoContent, nil, err
}

func onlineStatus(c *call) (int, any, error) {
	var b struct {
		IsOnline *bool `json:"isOnline"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if b.IsOnline == nil {
		return 0, nil, refuse("isOnline must be a boolean value")
	}
	id := c.PathValue("subscriberId")
	_, err := c.s.q.ApiSetOnline(c.ctx, dbq.ApiSetOnlineParams{OrganizationID: c.org, SubscriberID: id, Online: b.IsOnline})
	if err != nil {
		return 0, nil, err
	}
	return c.subscriberAnswer(http.StatusOK, id)
}

// Preferences.

type preference struct {
	enabled   bool
	own       map[string]bool // what the subscriber said
	schedule  json.RawMessage
	updatedAt string
}

// preferencesOf gives what a subscriber said, by workflow; 0 is of all.
func (c *call) preferencesOf(no int64) (map[int64]preference, error) {
	rows, err := c.s.q.ApiPreferences(c.ctx, no)
	if err != nil {
		return nil, err
	}
	out := map[int64]preference{}
	for _, r := range rows {
		p := preference{enabled: r.Enabled, own: map[string]bool{}, schedule: r.Schedule, updatedAt: wireTime(r.UpdatedAt)}
		_ = json.Unmarshal(r.Channels, &p.own) // our own document
		out[r.WorkflowID] = p
	}
	return out, nil
}

func (p preference) show(of map[string]bool) obj {
	on := obj{}
	for _, channel := range channels {
		v, said := p.own[channel]
		if !said {
			v = of[channel]
		}
		on[channel] = v
	}
	return on
}

var allOn = map[string]bool{"email": true, "sms": true, "in_app": true, "chat": true, "push": true}

func (p preference) overrides() []obj {
	list := []obj{}
	for _, channel := range channels {
		source := "template"
		if _, said := p.own[channel]; said {
			source = "subscriber"
		}
		list = append(list, obj{"channel": channel, "source": source})
	}
	return list
}

func (c *call) showPreferences(no int64) (obj, error) {
	said, err := c.preferencesOf(no)
	if err != nil {
		return nil, err
	}
	list, _, err := c.listed(1000, 0, "")
	if err != nil {
		return nil, err
	}
	global, ok := said[0]
	if !ok {
		global.enabled = true
	}
	all := obj{"enabled": global.enabled, "channels": global.show(allOn)}
	put(all, "schedule", global.schedule)
	workflows := []obj{}
	for i := range list {
		w := &list[i]
		if w.Critical && c.query("criticality") != "all" && c.query("criticality") != "critical" {
			continue
		}
		p, ok := said[w.ID]
		if !ok {
			p.enabled = true
		}
		one := obj{
			"enabled": p.enabled, "channels": p.show(w.preferences()), "overrides": p.overrides(),
			"workflow": obj{"slug": w.slug(), "identifier": w.Identifier, "name": w.Name, "updatedAt": wireTime(w.UpdatedAt), "critical": w.Critical},
		}
		if p.updatedAt != "" {
			one["updatedAt"] = p.updatedAt
		}
		workflows = append(workflows, one)
	}
	return obj{"global": all, "workflows": workflows}, nil
}

func listPreferences(c *call) (int, any, error) {
	sub, err := c.subscriber(c.PathValue("subscriberId"))
	if err != nil {
		return 0, nil, err
	}
	out, err := c.showPreferences(sub.ID)
	return http.StatusOK, out, err
}

type preferencesBody struct {
	WorkflowID string           `json:"workflowId"`
	Enabled    *bool            `json:"enabled"`
	Channels   map[string]*bool `json:"channels"`
	Schedule   json.RawMessage  `json:"schedule"`
}

// wantedChannels keeps the channels that there are.
func (b *preferencesBody) wantedChannels() json.RawMessage {
	out := map[string]bool{}
	for _, channel := range channels {
		if v := b.Channels[channel]; v != nil {
			out[channel] = *v
		} else if v := b.Channels["inApp"]; channel == "in_app" && v != nil {
			out[channel] = *v
		}
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return json.RawMessage("{}")
	}
	return raw
}

// check refuses channels that there are not.
func (b *preferencesBody) check() error {
	for _, channel := range slices.Sorted(maps.Keys(b.Channels)) {
		if channel != "inApp" && channel != "tool" && !slices.Contains(channels, channel) {
			return refuse(fmt.Sprintf("channel %q is not known: use one of %s", clip(channel), strings.Join(channels, ", ")))
		}
	}
	return checkKind("schedule", b.Schedule, '{')
}

// setPreferences writes all of them or none; the workflows are in their order, nil for
// what is said of all.
func (c *call) setPreferences(no int64, list ...preferencesBody) ([]*saved, error) {
	of := make([]*saved, len(list))
	for i := range list {
		err := list[i].check()
		if err == nil && list[i].WorkflowID != "" {
			of[i], err = c.s.workflow(c.ctx, c.org, list[i].WorkflowID)
		}
		if err != nil {
			return nil, err
		}
	}
	return of, c.transaction(func(q *dbq.Queries) error {
		for i := range list {
			b := &list[i]
			p := dbq.ApiSetPreferenceParams{SubscriberNo: no, Enabled: b.Enabled, Channels: b.wantedChannels(), Schedule: b.Schedule}
			if of[i] != nil {
				p.WorkflowID = of[i].ID
			}
			if err := q.ApiSetPreference(c.ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
}

func patchPreferences(c *call) (int, any, error) {
	var b preferencesBody
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	sub, err := c.subscriber(c.PathValue("subscriberId"))
	if err == nil {
		_, err = c.setPreferences(sub.ID, b)
	}
	if err != nil {
		return 0, nil, err
	}
	out, err := c.showPreferences(sub.ID)
	return http.StatusOK, out, err
}

func bulkPreferences(c *call) (int, any, error) {
	var b struct {
		Preferences []preferencesBody `json:"preferences"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	if len(b.Preferences) > 100 {
		return 0, nil, refuse("preferences must contain no more than 100 elements")
	}
	sub, err := c.subscriber(c.PathValue("subscriberId"))
	if err != nil {
		return 0, nil, err
	}
	of, err := c.setPreferences(sub.ID, b.Preferences...)
	if err != nil {
		return 0, nil, err
	}
	said, err := c.preferencesOf(sub.ID)
	if err != nil {
		return 0, nil, err
	}
	out := []obj{}
	for _, w := range of {
		one := obj{"level": "global", "enabled": said[0].enabled, "channels": said[0].show(allOn)}
		if w != nil {
			p := said[w.ID]
			one = obj{
				"level": "template", "enabled": p.enabled, "channels": p.show(w.preferences()),
				"workflow": obj{
					"id": itoa(w.ID), "identifier": w.Identifier, "name": w.Name, "critical": w.Critical, "tags": w.Tags, "slug": w.slug(), "severity": "none",
				},
			}
		}
		out = append(out, one)
	}
	return http.StatusOK, out, nil
}

func showTemplatePreference(w *saved, p preference) obj {
	return obj{
		"template":   obj{"_id": itoa(w.ID), "name": w.Name, "critical": w.Critical, "triggers": []obj{{"type": "event", "identifier": w.Identifier, "variables": []obj{}}}},
		"preference": obj{"enabled": p.enabled, "channels": p.show(w.preferences()), "overrides": p.overrides()},
	}
}

func listPreferencesV1(c *call) (int, any, error) {
	sub, err := c.subscriber(c.PathValue("subscriberId"))
	if err != nil {
		return 0, nil, err
	}
	said, err := c.preferencesOf(sub.ID)
	if err != nil {
		return 0, nil, err
	}
	list, _, err := c.listed(1000, 0, "")
	out := []obj{}
	for i := range list {
		p, ok := said[list[i].ID]
		p.enabled = p.enabled || !ok
		out = append(out, showTemplatePreference(&list[i], p))
	}
	return http.StatusOK, out, err
}

type channelPreference struct {
	Type    string `json:"type"`
	Enabled *bool  `json:"enabled"`
}

func patchPreferencesV1(c *call) (int, any, error) {
	var b struct {
		Channel *channelPreference `json:"channel"`
		Enabled *bool              `json:"enabled"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	sub, err := c.subscriber(c.PathValue("subscriberId"))
	if err != nil {
		return 0, nil, err
	}
	in := preferencesBody{WorkflowID: c.PathValue("templateId"), Enabled: b.Enabled}
	if b.Channel != nil {
		in.Channels = map[string]*bool{b.Channel.Type: b.Channel.Enabled}
	}
	of, err := c.setPreferences(sub.ID, in)
	if err != nil {
		return 0, nil, err
	}
	said, err := c.preferencesOf(sub.ID)
	return http.StatusOK, showTemplatePreference(of[0], said[of[0].ID]), err
}

func patchGlobalV1(c *call) (int, any, error) {
	var b struct {
		Enabled     *bool               `json:"enabled"`
		Preferences []channelPreference `json:"preferences"`
	}
	if err := c.read(&b); err != nil {
		return 0, nil, err
	}
	sub, err := c.subscriber(c.PathValue("subscriberId"))
	if err != nil {
		return 0, nil, err
	}
	in := preferencesBody{Enabled: b.Enabled, Channels: map[string]*bool{}}
	for _, p := range b.Preferences {
		in.Channels[p.Type] = p.Enabled
	}
	if _, err := c.setPreferences(sub.ID, in); err != nil {
		return 0, nil, err
	}
	said, err := c.preferencesOf(sub.ID)
	return http.StatusOK, obj{"preference": obj{"enabled": said[0].enabled, "channels": said[0].show(allOn)}}, err
}
