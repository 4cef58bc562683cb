package notification

// One job of a notification: is it carried out at all, what does it say, who sends
// it. The words of its history are Novu's.

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgautomate/pgautomate/db/dbq"
	"github.com/pgautomate/pgautomate/jobs"
)

// run is one attempt of one job.
type run struct {
	s          *Service
	q          *dbq.Queries
	action     *jobs.Action
	job        dbq.LoadJobsRow
	zone       *time.Location
	payload    map[string]any
	subscriber map[string]any
	controls   map[string]any
	content    map[string]any // the controls of the variant chosen, else the step's own
	overrides  map[string]any
	steps      map[string]any // what digests, webhooks and custom steps gave, by step
	vars       *jobs.Vars
	details    []jobs.Detail // what is to be told beside the outcome
	answers    map[string]answer
	askUntil   time.Time // when webhooks are given up, all together
}

// Run carries out one job; it is the jobs.Handler of all of them.
func (s *Service) Run(ctx context.Context, a *jobs.Action) (jobs.Result, error) {
	r := &run{s: s, q: dbq.New(s.Pool), action: a}
	result, err := r.carryOut(ctx)
	if err != nil || len(r.details) == 0 {
		return result, err
	}
	decide := result.Decide
	if decide == nil {
		return r.told(result), nil
	}
	result.Decide = func(ctx context.Context, tx pgx.Tx) (jobs.Result, error) {
		result, err := decide(ctx, tx)
		return r.told(result), err
	}
	return result, nil
}

// told puts the run's details in front of the result's.
func (r *run) told(result jobs.Result) jobs.Result {
	records := jobs.Records{}
	if result.Records != nil {
		records = *result.Records
	}
	records.Details = slices.Concat(r.details, records.Details)
	result.Records = &records
	return result
}

func (r *run) carryOut(ctx context.Context) (jobs.Result, error) {
	a := r.action
	if err := r.load(ctx); err != nil {
		return jobs.Result{}, err
	}
	if r.job.Canceled && !a.Resumed {
		return jobs.Result{Status: jobs.StatusCanceled, Reason: "canceled"}, nil
	}
	if a.Resumed {
		return r.resume()
	}
	if held, err := r.held(ctx); held != nil || err != nil {
		if err != nil {
			return jobs.Result{}, err
		}
		return *held, nil
	}
	switch r.job.Type {
	case "digest":
		return jobs.Result{Decide: r.decideDigest}, nil
	case "delay":
		return r.delay()
	case "throttle":
		return jobs.Result{Decide: r.decideThrottle}, nil
	case "custom":
		return r.custom(ctx)
	case "in_app":
		return r.inApp(ctx)
	default:
		return r.send(ctx)
	}
}

func (r *run) load(ctx context.Context) error {
	var err error
	if r.job, err = r.s.loads.Do(ctx, r.action.ID); err != nil {
		return fmt.Errorf("job %d: %w", r.action.ID, err)
	}
	if r.job.ID == 0 {
		return jobs.Permanent(errors.New("the notification of this job is not there any more"))
	}
	var row map[string]any
	for _, f := range []struct {
		raw  json.RawMessage
		into *map[string]any
	}{{r.job.Payload, &r.payload}, {r.job.Controls, &r.controls}, {r.job.Overrides, &r.overrides}, {r.job.Subscriber, &row}} {
		if *f.into, err = object(f.raw); err != nil {
			return jobs.Permanent(err)
		}
	}
	r.subscriber = subscriberDocument(row)
	r.zone = r.s.location(r.action.OrganizationID)
	if name, _ := r.subscriber["timezone"].(string); name != "" {
		if zone, err := time.LoadLocation(name); err == nil {
			r.zone = zone
		}
	}
	r.setVars()
	return nil
}

// subscriberDocument is a subscriber as templates see it.
func subscriberDocument(row map[string]any) map[string]any {
	if row == nil {
		return nil
	}
	out := map[string]any{}
	for wire, column := range map[string]string{
		"subscriberId": "subscriber_id", "firstName": "first_name", "lastName": "last_name", "email": "email", "phone": "phone",
		"avatar": "avatar", "locale": "locale", "timezone": "timezone", "data": "data", "isOnline": "is_online", "lastOnlineAt": "last_online_at",
		"channels": "channels", "createdAt": "created_at",
	} {
		if row[column] != nil {
			out[wire] = row[column]
		}
	}
	return out
}

// digestEvent is one event in a digest's result.
type digestEvent struct {
	ID      string          `json:"id"`
	Time    time.Time       `json:"time"`
	Payload json.RawMessage `json:"payload"`
}

// setVars gives templates what they may name. The payload's members stand for
// themselves, too, as in v1.
func (r *run) setVars() {
	v := jobs.NewVars()
	v.SetLocation(r.zone)
	for name, value := range r.payload {
		v.Set(name, value)
	}
	v.Set("payload", r.payload)
	v.Set("subscriber", r.subscriber)
	v.Set("workflow", map[string]any{"name": r.job.WorkflowName, "identifier": r.job.WorkflowIdentifier, "workflowId": r.job.WorkflowIdentifier})
	v.Set("organization", map[string]any{"id": r.action.OrganizationID})
	step := map[string]any{"digest": false, "total_count": 0, "events": []any{}}
	r.steps = map[string]any{}
	var results []struct {
		StepID string          `json:"step_id"`
		Type   string          `json:"type"`
		Result json.RawMessage `json:"result"`
	}
	_ = json.Unmarshal(r.job.Results, &results) // our own document
	for _, result := range results {
		if result.Type != "digest" {
			var given any
			_ = decode(result.Result, &given) // our own document
			r.steps[result.StepID] = given
			continue
		}
		var d struct {
			Events []digestEvent `json:"events"`
		}
		_ = json.Unmarshal(result.Result, &d) // our own document
		payloads, events := make([]any, len(d.Events)), make([]any, len(d.Events))
		for i, e := range d.Events {
			var payload any
			_ = decode(e.Payload, &payload) // our own document
			payloads[i] = payload
			events[i] = map[string]any{"id": e.ID, "time": e.Time, "payload": payload}
		}
		step = map[string]any{"digest": true, "total_count": len(payloads), "events": payloads}
		r.steps[result.StepID] = map[string]any{"events": events, "eventCount": len(events)}
	}
	v.Set("step", step)
	v.Set("steps", r.steps)
	if _, there := r.payload["env"]; !there {
		v.SetLazy("env", func(ctx context.Context) (any, error) {
			rows, err := r.q.VariablesOf(ctx, r.action.OrganizationID)
			if err != nil {
				return nil, fmt.Errorf("environment variables: %w", err)
			}
			env := make(map[string]any, len(rows))
			for _, v := range rows {
				env[v.Key] = v.Value
			}
			return env, nil
		})
	}
	v.SetLazy("actor", func(ctx context.Context) (any, error) {
		if r.job.Actor == "" {
			return nil, nil
		}
		raw, err := r.q.SubscriberDocument(ctx, dbq.SubscriberDocumentParams{OrganizationID: r.action.OrganizationID, SubscriberID: r.job.Actor})
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("actor: %w", err)
		}
		row, err := object(raw)
		return subscriberDocument(row), err
	})
	v.SetLazy("tenant", func(ctx context.Context) (any, error) {
		t, err := r.tenant(ctx)
		if err != nil || t == nil {
			return nil, err
		}
		data, err := object(t.Data)
		return map[string]any{"identifier": t.Identifier, "name": t.Name, "data": data}, err
	})
	r.vars = v
}

func (r *run) tenant(ctx context.Context) (*dbq.TenantOfRow, error) {
	if r.job.TenantID == nil {
		return nil, nil
	}
	t, err := r.q.TenantOf(ctx, dbq.TenantOfParams{ID: *r.job.TenantID, WorkflowID: r.job.WorkflowID})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("tenant: %w", err)
	}
	return &t, nil
}

// held says why a job is not carried out; nil when it is. What follows goes on.
func (r *run) held(ctx context.Context) (*jobs.Result, error) {
	skip, _ := json.Marshal(r.controls["skip"])
	skipped, err := r.skips(ctx, skip)
	if err != nil {
		return nil, err
	}
	passes, err := r.passes(ctx, r.job.Filters)
	if err != nil {
		return nil, err
	}
	status := jobs.StatusCanceled
	if r.job.Type == "digest" || skipped {
		status = jobs.StatusSkipped
	}
	if skipped || !passes {
		return ended(status, "filtered", "Step was filtered based on steps filters", ""), nil
	}
	if !isChannel(r.job.Type) {
		return nil, nil
	}
	if detail, err := r.unwanted(ctx); err != nil {
		return nil, err
	} else if detail != "" {
		return ended(jobs.StatusCanceled, "preference", detail, ""), nil
	}
	if !r.job.Suppressed {
		return nil, nil
	}
	word := "suppressed"
	if strings.EqualFold(strings.TrimSpace(r.job.Suppression), "unsubscribed") {
		word = "unsubscribed"
	}
	return ended(jobs.StatusCanceled, word, "Subscriber is suppressed", r.job.Suppression), nil
}

// isChannel says whether a step of that type sends something to the subscriber.
func isChannel(stepType string) bool {
	switch stepType {
	case "digest", "delay", "throttle", "custom":
		return false
	default:
		return true
	}
}

func ended(status, reason, detail, raw string) *jobs.Result {
	return &jobs.Result{Status: status, Reason: reason, Records: &jobs.Records{Details: []jobs.Detail{
		{Status: "Success", Detail: detail, Source: "Internal", Raw: raw},
	}}}
}

// unwanted says by which preference a channel is off; "" when it is on. A tenant's
// settings count before all, a critical workflow before the subscriber's.
func (r *run) unwanted(ctx context.Context) (string, error) {
	t, err := r.tenant(ctx)
	if err != nil {
		return "", err
	}
	if t != nil {
		if on, said := channelOn(t.PreferenceSettings, r.job.Type); said {
			if on {
				return "", nil
			}
			return "Step filtered by tenant workflow override", nil
		}
	}
	if r.job.Critical {
		return "", nil
	}
	byDefault, said := channelOn(r.job.PreferenceSettings, r.job.Type)
	off := said && !byDefault
	const byWorkflow, byAll = "Step filtered by subscriber workflow preferences", "Step filtered by subscriber global preferences"
	if !r.job.ReadOnly {
		var rows []struct {
			WorkflowID int64           `json:"workflow_id"`
			Enabled    bool            `json:"enabled"`
			Channels   json.RawMessage `json:"channels"`
		}
		if err := json.Unmarshal(r.job.Preferences, &rows); err != nil {
			return "", fmt.Errorf("preferences: %w", err)
		}
		for _, p := range rows {
			on, said := channelOn(p.Channels, r.job.Type)
			detail := byWorkflow
			if p.WorkflowID == 0 {
				detail = byAll
			}
			if !p.Enabled || said && !on {
				return detail, nil
			}
			if said && p.WorkflowID != 0 {
				off = false // asked for, whatever the workflow's default is
			}
		}
	}
	if off {
		return byWorkflow, nil
	}
	return "", nil
}

func channelOn(settings json.RawMessage, channel string) (on, said bool) {
	var m map[string]*bool
	if json.Unmarshal(settings, &m) != nil || m[channel] == nil {
		return true, false
	}
	return *m[channel], true
}

// override merges what the trigger overrides for this step: by channel, then by
// the newer forms, the step's own last.
func (r *run) override() map[string]any {
	out := map[string]any{}
	add := func(v any) {
		if m, ok := v.(map[string]any); ok {
			maps.Copy(out, m)
		}
	}
	add(r.overrides[r.job.Type])
	if m, ok := r.overrides["channels"].(map[string]any); ok {
		add(m[r.job.Type])
	}
	if m, ok := r.overrides["providers"].(map[string]any); ok {
		for _, name := range providersOf[r.job.Type] {
			add(m[name])
		}
	}
	for _, name := range providersOf[r.job.Type] {
		add(r.overrides[name])
	}
	if m, ok := r.overrides["steps"].(map[string]any); ok {
		if own, ok := m[r.job.StepID].(map[string]any); ok {
			providers, _ := own["providers"].(map[string]any)
			for _, name := range slices.Sorted(maps.Keys(providers)) {
				add(providers[name])
			}
		}
	}
	return out
}

// providersOf are the providers of a channel that overrides can name.
var providersOf = map[string][]string{
	"email": {"nodemailer", "email-webhook"}, "sms": {"twilio", "generic-sms"}, "push": {"push-webhook"}, "chat": {"slack", "discord", "chat-webhook"},
}

// content is a step's rendered content.
type content struct {
	Subject, Body, Title string
	HasSubject           bool
	rest                 map[string]any
}

// contentOf renders what was chosen.
func (r *run) contentOf(ctx context.Context, html bool) (*content, error) {
	controls := r.content
	body := controls["body"]
	if body == nil {
		body = controls["content"]
	}
	if blocks, ok := body.([]any); ok {
		body = joinBlocks(blocks, html)
	}
	params := map[string]any{"html": text(body), "subject": text(controls["subject"]), "title": text(controls["title"])}
	for _, name := range []string{"cta", "data", "avatar", "redirect", "primaryAction", "secondaryAction", "url", "method", "headers", "requestBody"} {
		if controls[name] != nil {
			params[name] = controls[name]
		}
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return nil, jobs.Permanent(err)
	}
	var opts []jobs.RenderOption
	if html {
		opts = append(opts, jobs.HTML("html"))
	}
	out, err := jobs.Render(ctx, raw, r.vars, opts...)
	if err != nil {
		return nil, err
	}
	return &content{
		Subject: text(out["subject"]), HasSubject: controls["subject"] != nil, Body: text(out["html"]), Title: text(out["title"]), rest: out,
	}, nil
}

// Preview renders a step's content for values that a caller makes up: payload,
// subscriber, steps. The error is one line about a template.
func Preview(ctx context.Context, stepType string, controls, values map[string]any) (map[string]any, error) {
	shown := maps.Clone(controls)
	delete(shown, "skip")
	var opts []jobs.RenderOption
	if stepType == "email" {
		before := text(shown["body"])
		var err error
		if shown, err = Blocks(shown); err != nil {
			return nil, err
		}
		if text(shown["body"]) != before {
			opts = append(opts, jobs.HTML("body"))
		}
	}
	raw, err := json.Marshal(shown)
	if err != nil {
		return nil, err
	}
	return jobs.Render(ctx, raw, previewVars(values), opts...)
}

// previewVars are the variables of a preview.
func previewVars(values map[string]any) *jobs.Vars {
	v := jobs.NewVars()
	payload, _ := values["payload"].(map[string]any)
	for name, value := range payload {
		v.Set(name, value)
	}
	for _, name := range []string{"payload", "subscriber", "steps", "actor", "tenant"} {
		if m, ok := values[name].(map[string]any); ok {
			v.Set(name, m)
		} else {
			v.Set(name, map[string]any{})
		}
	}
	v.Set("step", map[string]any{"digest": false, "total_count": 0, "events": []any{}})
	return v
}

// variant is the first variant whose filters pass, else the step's own content.
func (r *run) variant(ctx context.Context) (map[string]any, error) {
	var variants []struct {
		Active   *bool           `json:"active"`
		Filters  json.RawMessage `json:"filters"`
		Template map[string]any  `json:"template"`
	}
	if err := json.Unmarshal(r.job.Variants, &variants); err != nil {
		return nil, jobs.Permanentf("variants: %w", err)
	}
	for _, v := range variants {
		if v.Active != nil && !*v.Active || v.Template == nil {
			continue
		}
		if ok, err := r.passes(ctx, v.Filters); err != nil || ok {
			return v.Template, err
		}
	}
	return r.controls, nil
}

// joinBlocks makes a mail of v1's editor blocks.
func joinBlocks(blocks []any, html bool) string {
	var b strings.Builder
	for _, e := range blocks {
		m, _ := e.(map[string]any)
		line := text(m["content"])
		switch {
		case html && m["type"] == "button":
			fmt.Fprintf(&b, `<p><a href="%s">%s</a></p>`, text(m["url"]), line)
		case html:
			fmt.Fprintf(&b, "<p>%s</p>", line)
		default:
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// custom gives what its templates say to the steps after it.
func (r *run) custom(ctx context.Context) (jobs.Result, error) {
	controls := maps.Clone(r.controls)
	delete(controls, "skip")
	raw, err := json.Marshal(controls)
	if err != nil {
		return jobs.Result{}, jobs.Permanent(err)
	}
	out, err := jobs.Render(ctx, raw, r.vars)
	return jobs.Result{Output: out}, err
}

func (r *run) inApp(ctx context.Context) (jobs.Result, error) {
	var err error
	if r.content, err = r.variant(ctx); err != nil {
		return jobs.Result{}, err
	}
	c, err := r.contentOf(ctx, false)
	if err != nil {
		return jobs.Result{}, err
	}
	m := r.message(c)
	m.Avatar = text(c.rest["avatar"])
	if m.CTA, err = cta(c.rest); err != nil {
		return jobs.Result{}, jobs.Permanent(err)
	}
	if data, ok := c.rest["data"].(map[string]any); ok {
		if m.Data, err = json.Marshal(data); err != nil {
			return jobs.Result{}, jobs.Permanent(err)
		}
	}
	m.Payload = r.job.Payload
	return jobs.Result{Records: &jobs.Records{Message: m}}, nil
}

// cta is a feed message's call to action, in v1's form.
func cta(rest map[string]any) (json.RawMessage, error) {
	if rest["cta"] != nil {
		return json.Marshal(rest["cta"])
	}
	out := map[string]any{}
	if redirect, ok := rest["redirect"].(map[string]any); ok {
		out["type"], out["data"] = "redirect", map[string]any{"url": redirect["url"]}
	}
	var buttons []any
	for name, kind := range map[string]string{"primaryAction": "primary", "secondaryAction": "secondary"} {
		if action, ok := rest[name].(map[string]any); ok {
			button := map[string]any{"type": kind, "content": action["label"]}
			if redirect, ok := action["redirect"].(map[string]any); ok {
				button["url"] = redirect["url"]
			}
			buttons = append(buttons, button)
		}
	}
	if len(buttons) > 0 {
		out["action"] = map[string]any{"status": "pending", "buttons": buttons}
	}
	return json.Marshal(out)
}

func (r *run) message(c *content) *jobs.Message {
	m := &jobs.Message{Content: c.Body, Tags: r.job.Tags, ProviderID: "novu", Of: jobs.MessageOf{
		NotificationID: r.job.NotificationID, WorkflowID: r.job.WorkflowID, SubscriberNo: r.job.SubscriberNo,
		SubscriberID: r.job.SubscriberID, TransactionID: r.job.TransactionID,
	}}
	if c.HasSubject || c.Subject != "" {
		m.Subject = &c.Subject
	}
	return m
}

// send sends over a channel, by the handler of the action type of that name.
func (r *run) send(ctx context.Context) (jobs.Result, error) {
	channel := r.job.Type
	handler, ok := r.s.Senders.Handler(channel)
	if !ok {
		return jobs.Result{}, jobs.Permanent(&jobs.UnsentError{Err: fmt.Errorf("nothing here sends %s", channel), Detail: "Subscriber does not have an active integration"})
	}
	var err error
	if r.content, err = r.variant(ctx); err != nil {
		return jobs.Result{}, err
	}
	layout := ""
	if channel == "email" {
		if layout, err = r.layout(ctx); err != nil {
			return jobs.Result{}, err
		}
		if r.content, err = Blocks(r.content); err != nil {
			return jobs.Result{}, jobs.Permanent(err)
		}
	}
	c, err := r.contentOf(ctx, channel == "email" && (r.isHTML() || layout != ""))
	if err != nil {
		return jobs.Result{}, err
	}
	if layout != "" {
		if c.Body, err = r.laidOut(ctx, layout, c.Body); err != nil {
			return jobs.Result{}, err
		}
	}
	over := r.override()
	m := r.message(c)
	params := map[string]any{}
	switch channel {
	case "email":
		err = r.email(ctx, c, r.isHTML() || layout != "", over, params, m)
	case "sms":
		m.Recipient = first(text(over["to"]), text(r.payload["phone"]), text(r.subscriber["phone"]))
		params["to"], params["body"] = m.Recipient, first(text(over["content"]), c.Body)
		m.Content = text(params["body"])
	case "push", "chat":
		params["body"], params["title"] = first(text(over["content"]), c.Body), first(text(over["title"]), c.Title, c.Subject)
		m.Content = text(params["body"])
	case "webhook":
		params["url"] = first(text(c.rest["url"]), text(r.controls["url"]))
		params["method"] = first(text(c.rest["method"]), "POST")
		if c.rest["headers"] != nil {
			params["headers"] = c.rest["headers"]
		}
		if params["body"] = c.rest["requestBody"]; params["body"] == nil {
			params["body"] = c.Body
		}
		m.Recipient = text(params["url"])
	}
	if err != nil {
		return jobs.Result{}, err
	}
	if integration := text(over["integrationIdentifier"]); integration != "" && channel != "webhook" {
		params["integration"] = integration
	}
	if (channel == "email" || channel == "sms") && m.Recipient == "" {
		m.Status, m.ErrorID = "warning", "subscriber_no_"+map[string]string{"email": "email", "sms": "phone"}[channel]
		m.ErrorText = "Subscriber does not have an " + map[string]string{"email": "email address", "sms": "phone number"}[channel]
		return jobs.Result{Status: jobs.StatusCanceled, Reason: "no_recipient", Records: &jobs.Records{Message: m, Details: []jobs.Detail{
			{Status: "Warning", Detail: "Subscriber missing recipient details", Source: "Internal"},
		}}}, nil
	}
	if channel == "push" || channel == "chat" {
		return r.sendToEach(ctx, handler, params, text(over["url"]), m)
	}
	result, err := handler.Run(ctx, r.literal(params))
	if suppressed, ok := errors.AsType[*jobs.SuppressedError](err); ok {
		return *ended(jobs.StatusCanceled, suppressed.Reason, "Subscriber is suppressed", err.Error()), nil
	}
	if err != nil {
		return jobs.Result{}, r.unsent(err, m)
	}
	return jobs.Result{Output: result.Output, Records: sent(result, m)}, nil
}

// sent are the records of a message that somebody took: who did, and who did not.
func sent(result jobs.Result, m *jobs.Message) *jobs.Records {
	records := &jobs.Records{Message: m}
	raw, err := json.Marshal(result.Output)
	if err != nil {
		return records
	}
	var by struct {
		Provider   string   `json:"provider"`
		FailedOver []string `json:"failed_over"`
	}
	if json.Unmarshal(raw, &by) != nil {
		return records // an own handler's
	}
	if by.Provider != "" {
		m.ProviderID = by.Provider
	}
	for _, failure := range by.FailedOver {
		records.Details = append(records.Details, jobs.Detail{Status: "Warning", Detail: "Unexpected provider error", Source: "Internal", Raw: failure})
	}
	return records
}

// sendToEach sends to all of the subscriber's own addresses for the channel; where
// there are none, through the organization's integration. It is sent when one took it.
func (r *run) sendToEach(ctx context.Context, handler jobs.Handler, params map[string]any, override string, m *jobs.Message) (jobs.Result, error) {
	addresses := r.addresses(override)
	if len(addresses) == 0 {
		addresses = []string{""}
	}
	var taken *jobs.Result
	var failures []error
	for _, address := range addresses {
		params["url"] = address
		result, err := handler.Run(ctx, r.literal(params))
		if err != nil {
			failures = append(failures, err)
		} else if taken == nil {
			taken = &result
		}
	}
	if taken == nil {
		return jobs.Result{}, r.unsent(failures[0], m)
	}
	records := sent(*taken, m)
	for _, err := range failures {
		records.Details = append(records.Details, jobs.Detail{Status: "Warning", Detail: "Unexpected provider error", Source: "Internal", Raw: err.Error()})
	}
	return jobs.Result{Output: taken.Output, Records: records}, nil
}

// unsent keeps the message with the error for when no attempt is left.
func (r *run) unsent(err error, m *jobs.Message) error {
	m.Status, m.ErrorID, m.ErrorText = "error", "provider_error", err.Error()
	detail := ""
	if errors.Is(err, jobs.ErrNoIntegration) {
		m.ErrorID, detail = "no_integration", "Subscriber does not have an active integration"
	}
	return &jobs.UnsentError{Err: err, Detail: detail, Message: m}
}

func (r *run) isHTML() bool {
	body := r.content["body"]
	if body == nil {
		body = r.content["content"]
	}
	if _, ok := body.([]any); ok {
		return true
	}
	s := text(body)
	return strings.Contains(s, "</") || strings.Contains(s, "/>") || strings.Contains(s, "<br")
}

func (r *run) email(ctx context.Context, c *content, html bool, over, params map[string]any, m *jobs.Message) error {
	m.Recipient = first(text(r.payload["email"]), text(r.subscriber["email"]))
	to := []any{}
	if m.Recipient != "" {
		to = append(to, m.Recipient)
	}
	if replace, _ := over["replaceToRecipient"].(bool); replace {
		to = []any{}
	}
	if more, ok := over["to"].([]any); ok {
		to = append(to, more...)
	} else if one := text(over["to"]); one != "" {
		to = append(to, one)
	}
	if m.Recipient == "" && len(to) > 0 {
		m.Recipient = text(to[0])
	}
	params["to"] = to
	params["subject"] = first(text(over["subject"]), c.Subject)
	subject := text(params["subject"])
	m.Subject = &subject
	body := "body"
	if html {
		body = "html"
	}
	params[body] = c.Body
	if s := text(over["text"]); s != "" {
		params["body"] = s
	}
	if s := text(over["html"]); s != "" {
		params["html"], m.Content = s, s
	}
	if from := text(over["from"]); from != "" {
		params["from"] = from
		if name := text(over["senderName"]); name != "" {
			params["from"] = fmt.Sprintf("%q <%s>", name, from)
		}
	}
	if reply := text(over["replyTo"]); reply != "" {
		params["reply_to"] = reply
	}
	for _, name := range []string{"cc", "bcc", "headers"} {
		if over[name] != nil {
			params[name] = over[name]
		}
	}
	files, err := r.files(ctx)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		params["attachments"] = files
	}
	return nil
}

// files loads the attachments meant for this channel; one that is gone is left out.
func (r *run) files(ctx context.Context) ([]any, error) {
	var list []attachment
	if err := json.Unmarshal(r.job.Attachments, &list); err != nil {
		return nil, jobs.Permanentf("attachments: %w", err)
	}
	var out []any
	for _, a := range list {
		if len(a.Channels) > 0 && !slices.Contains(a.Channels, r.job.Type) {
			continue
		}
		if r.s.Attachments == nil {
			return nil, jobs.Permanent(errors.New("attachments can't be read here: set ATTACHMENTS_URL"))
		}
		raw, err := r.s.Attachments.Get(ctx, a.Key)
		if errors.Is(err, ErrNoAttachment) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attachment %q: %w", a.Name, err)
		}
		file := map[string]any{"name": a.Name, "content_base64": base64.StdEncoding.EncodeToString(raw)}
		if a.Mime != "" {
			file["content_type"] = a.Mime
		}
		if a.Disposition == "inline" || a.CID != "" {
			file["cid"] = first(a.CID, a.Name)
		}
		out = append(out, file)
	}
	return out, nil
}

// ErrNoAttachment says that an attachment is not kept any more.
var ErrNoAttachment = errors.New("the attachment is not there")

// addresses are where push or chat messages go: what the trigger says, else all of
// the subscriber's credentials for the channel that name an address, as shoutrrr URLs.
func (r *run) addresses(override string) []string {
	if override != "" {
		return []string{override}
	}
	var urls []string
	list, _ := r.subscriber["channels"].([]any)
	for _, e := range list {
		c, _ := e.(map[string]any)
		provider := text(c["providerId"])
		if other := otherChannel[provider]; other != "" && other != r.job.Type {
			continue
		}
		credentials, _ := c["credentials"].(map[string]any)
		if address := addressOf(provider, first(text(credentials["url"]), text(credentials["webhookUrl"]))); address != "" {
			urls = append(urls, address)
		}
	}
	return urls
}

// otherChannel says of providers that serve one channel only which it is.
var otherChannel = map[string]string{
	"slack": "chat", "discord": "chat", "msteams": "chat", "mattermost": "chat", "rocket-chat": "chat", "chat-webhook": "chat", "telegram": "chat",
	"fcm": "push", "apns": "push", "expo": "push", "one-signal": "push", "pushpad": "push", "pusher-beams": "push", "push-webhook": "push",
}

// addressOf makes a shoutrrr URL of what a subscriber's credentials say: such a URL,
// or the address of an incoming webhook.
func addressOf(provider, address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" {
		return ""
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return address
	}
	parts := strings.Split(strings.Trim(u.Path, "/"), "/")
	switch {
	case provider == "slack" && len(parts) == 4 && parts[0] == "services":
		return fmt.Sprintf("slack://hook:%s-%s-%s@webhook", parts[1], parts[2], parts[3])
	case provider == "discord" && len(parts) == 4 && parts[1] == "webhooks":
		return fmt.Sprintf("discord://%s@%s", parts[3], parts[2])
	}
	q := u.Query()
	q.Set("template", "json") // {"title": …, "message": …}
	u.RawQuery = q.Encode()
	return "generic+" + u.String()
}

// literal is the action that a handler gets: its parameters are rendered already,
// so each stands there as a variable, and nothing in it is a template any more.
func (r *run) literal(params map[string]any) *jobs.Action {
	vars := jobs.NewVars()
	n := 0
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case string:
			if !strings.Contains(v, "{{") && !strings.Contains(v, "{%") {
				return v
			}
			n++
			name := fmt.Sprintf("p%d", n)
			vars.Set(name, v)
			return "{{ " + name + " | raw }}"
		case []any:
			out := make([]any, len(v))
			for i, e := range v {
				out[i] = walk(e)
			}
			return out
		case map[string]any:
			out := make(map[string]any, len(v))
			for k, e := range v {
				out[k] = walk(e)
			}
			return out
		default:
			return v
		}
	}
	a := *r.action
	raw, err := json.Marshal(walk(params))
	if err != nil {
		raw = []byte("{}")
	}
	a.Params, a.Vars, a.Meets = bytes.TrimSpace(raw), vars, r.meets
	return &a
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
