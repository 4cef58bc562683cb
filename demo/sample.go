package demo

// The sample CRM's automations, the same ones for each organization.

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgautomate/pgautomate/catalog"
)

var sampleOrganizations = []string{"acme", "globex", "initech"}

const (
	adwords = "Google Adwords Campaign"
	nurture = "Referral Nurture"
)

type object = map[string]any

type action struct {
	Type   string `json:"action_type"`
	Params object `json:"params"`
}

type stage struct {
	Name    string   `json:"name"`
	Actions []action `json:"actions"`
}

type pipeline struct {
	name   string
	stages []stage
}

// samplePipelines call sales, a URL, by webhooks.
func samplePipelines(sales string) []pipeline {
	email := func(subject, body string) action {
		return action{"email", object{"to": "{{ lead.email }}", "subject": subject, "body": body}}
	}
	setStatus := func(status string) action { return action{"update_row", object{"set": object{"status": status}}} }
	webhook := func(event string) action {
		return action{"webhook", object{"url": sales, "body": object{"event": event, "lead": "{{ lead.id }}"}}}
	}
	wait := func(long string) action { return action{"wait", object{"for": long}} }
	note := func(message string) action { return action{"log", object{"message": message}} }
	return []pipeline{
		{adwords, []stage{
			{"Inquired", []action{
				email("Thank you, {{ lead.name }}", "Hello {{ lead.name }},\n\nwe got your inquiry and will come back to you."),
				wait("2 seconds"),
				{"move", object{"stage": "Responded"}},
			}},
			{"Responded", []action{
				email("Our offer", "Hello {{ lead.name }},\n\nhere is our offer. When may we call you?"),
				setStatus("Responded"),
				webhook("responded"),
			}},
			{"Won", []action{
				setStatus("Won"),
				email("Welcome aboard", "Hello {{ lead.name }},\n\nwelcome to {{ organization.name }}."),
				webhook("won"),
			}},
			{"Lost", []action{
				setStatus("Lost"),
				wait("1 second"),
				note("lead {{ lead.id }} is lost"),
			}},
		}},
		{nurture, []stage{
			{"Welcome", []action{
				wait("1 second"),
				note("{{ lead.name }} was referred to us"),
				{"move", object{"stage": "Handed over"}},
			}},
			{"Handed over", []action{
				webhook("referral"),
				{"exit", object{"reason": "sales has it"}},
			}},
		}},
	}
}

// triggerRow is a row of pgautomate.triggers.
type triggerRow struct {
	Organization string `json:"organization_id"`
	Name         string `json:"name"`
	ObjectType   string `json:"object_type"`
	Query        object `json:"query"`
	ActionType   string `json:"action_type"`
	ActionParams object `json:"action_params"`
}

// when is a query: an object of that type that meets the conditions.
func when(objectType string, conditions ...object) object {
	queries := []object{{"type": "object_type", "object_type": objectType}}
	for _, c := range conditions {
		f := c["field"].(object) //nolint:forcetypeassert // field and custom made it
		if f["type"] == "regular_field" {
			f["object_type"] = objectType
		}
		queries = append(queries, c)
	}
	return object{"type": "and", "queries": queries}
}

func field(name string, condition object) object {
	return object{"type": "field_condition", "negate": false, "condition": condition, "field": object{"type": "regular_field", "field_name": name}}
}

func custom(id string, condition object) object {
	return object{"type": "field_condition", "negate": false, "condition": condition, "field": object{"type": "custom_field", "custom_field_id": id}}
}

func isOneOf(values ...string) object { return object{"type": "term", "values": values} }
func isAtLeast(n int) object          { return object{"type": "number_range", "gte": n} }
func isTrue() object                  { return object{"type": "boolean", "value": true} }

// The names of the triggers; the totals count firings by them.
const (
	newInquiry   = "New Adwords inquiry"
	newReferral  = "New referral"
	responded    = "Lead responded"
	hotLead      = "Hot lead"
	highPriority = "Lead got high priority"
	becameVIP    = "Lead became a VIP"
	goldPlan     = "Gold plan chosen"
	becameWon    = "Lead became a customer"
	becameLost   = "Lead was lost"
	bigDeal      = "Big deal"
	dealWon      = "Deal won"
	dealLost     = "Deal lost"
	decider      = "Contact who decides"
	replied      = "Reply came in"
)

func sampleTriggers(sales string) []triggerRow {
	note := func(message string) object { return object{"message": message} }
	enter := func(name, lead string) object {
		params := object{"pipeline": adwords, "stage": name}
		if lead != "" {
			params["lead"] = lead
		}
		return params
	}
	return []triggerRow{
		{Name: newInquiry, ObjectType: "lead", Query: when("lead", field("source", isOneOf("adwords"))),
			ActionType: "enter_stage", ActionParams: enter("Inquired", "")},
		{Name: newReferral, ObjectType: "lead", Query: when("lead", field("source", isOneOf("referral"))),
			ActionType: "email", ActionParams: object{
				"to": "sales@{{ organization.id }}.test", "subject": "Referral: {{ object.name }}", "body": "{{ object.name }} was referred to us.",
			}},
		{Name: responded, ObjectType: "lead", Query: when("lead", field("status", isOneOf("Responded"))),
			ActionType: "log", ActionParams: note("{{ object.name }} got our offer; before: {{ trigger.previous.status }}")},
		// Changes a row, which fires the next one: a cause, and a depth of 1.
		{Name: hotLead, ObjectType: "lead", Query: when("lead", field("score", isAtLeast(80))),
			ActionType: "update_row", ActionParams: object{"set": object{"priority": "high"}}},
		{Name: highPriority, ObjectType: "lead", Query: when("lead", field("priority", isOneOf("high"))),
			ActionType: "email", ActionParams: object{
				"to": "sales@{{ organization.id }}.test", "subject": "Call {{ object.name }} today", "body": "Score: {{ object.score }}",
			}},
		{Name: becameVIP, ObjectType: "lead", Query: when("lead", field("is_vip", isTrue())),
			ActionType: "webhook", ActionParams: object{"url": sales, "body": object{"event": "vip", "lead": "{{ object.id }}"}}},
		{Name: goldPlan, ObjectType: "lead", Query: when("lead", custom("cf_plan", isOneOf("gold"))),
			ActionType: "log", ActionParams: note("{{ object.name }} wants the gold plan")},
		{Name: becameWon, ObjectType: "lead", Query: when("lead", field("status", isOneOf("Won"))),
			ActionType: "log", ActionParams: note("{{ object.name }} is a customer")},
		{Name: becameLost, ObjectType: "lead", Query: when("lead", field("status", isOneOf("Lost"))),
			ActionType: "log", ActionParams: note("{{ object.name }} is lost")},
		{Name: bigDeal, ObjectType: "opportunity", Query: when("opportunity", field("value", isAtLeast(50_000))),
			ActionType: "log", ActionParams: note("a deal of {{ object.value }}")},
		{Name: dealWon, ObjectType: "opportunity", Query: when("opportunity", field("status", isOneOf("won"))),
			ActionType: "enter_stage", ActionParams: enter("Won", "{{ object.lead_id }}")},
		{Name: dealLost, ObjectType: "opportunity", Query: when("opportunity", field("status", isOneOf("lost"))),
			ActionType: "enter_stage", ActionParams: enter("Lost", "{{ object.lead_id }}")},
		{Name: decider, ObjectType: "contact", Query: when("contact", field("title", isOneOf("CEO", "CTO"))),
			ActionType: "log", ActionParams: note("{{ object.name }} decides")},
		{Name: replied, ObjectType: "message", Query: when("message", field("direction", isOneOf("in"))),
			ActionType: "log", ActionParams: note("lead {{ object.lead_id }} wrote: {{ object.body }}")},
	}
}

// setUpSample makes the sample CRM and its automations.
func setUpSample(ctx context.Context, pool *pgxpool.Pool, schema, sales string) error {
	if _, err := pool.Exec(ctx, script("crm.sql")); err != nil {
		return fmt.Errorf("the sample CRM: %w", err)
	}
	for _, table := range []string{"lead", "contact", "opportunity", "message"} {
		o := catalog.WatchOptions{Table: schema + "." + table, As: table, Organization: "organization_id"}
		if _, _, err := catalog.Watch(ctx, pool, o, false); err != nil {
			return err
		}
	}
	names := map[string][2]string{
		"acme": {"Acme", "Europe/Berlin"}, "globex": {"Globex", "America/New_York"}, "initech": {"Initech", "Asia/Kolkata"},
	}
	var triggers []triggerRow
	for _, organization := range sampleOrganizations {
		name := names[organization]
		if _, err := pool.Exec(ctx, statements["put_organization"], organization, name[0], name[1]); err != nil {
			return fmt.Errorf("organization %s: %w", organization, err)
		}
		for _, p := range samplePipelines(sales) {
			raw, err := json.Marshal(p.stages)
			if err != nil {
				return fmt.Errorf("pipeline %s: %w", p.name, err)
			}
			if _, err := pool.Exec(ctx, statements["put_pipeline"], organization, p.name, string(raw)); err != nil {
				return fmt.Errorf("pipeline %s: %w", p.name, err)
			}
		}
		for _, t := range sampleTriggers(sales) {
			t.Organization = organization
			triggers = append(triggers, t)
		}
	}
	// Globex's mail server takes no more: the others' mails don't wait for it.
	if _, err := pool.Exec(ctx, statements["put_throttle"], "globex", "email", 25, "1 second"); err != nil {
		return fmt.Errorf("throttle: %w", err)
	}
	return putTriggers(ctx, pool, triggers)
}

func putTriggers(ctx context.Context, pool *pgxpool.Pool, triggers []triggerRow) error {
	raw, err := json.Marshal(triggers)
	if err != nil {
		return fmt.Errorf("triggers: %w", err)
	}
	if _, err := pool.Exec(ctx, statements["put_triggers"], string(raw)); err != nil {
		return fmt.Errorf("triggers: %w", err)
	}
	return nil
}
