package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/mailbox"
)

// TestTriggerActions: what a firing's own action does, from a committed row to
// its effect.
func TestTriggerActions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	box, err := mailbox.Start(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	w.config.SMTPURL = box.URL()
	w.config.WebhookAllow = loopback
	web := newProvider(t, func(w http.ResponseWriter, _ string, _ int) { w.WriteHeader(http.StatusAccepted) })
	first := w.stage("a", "sales", "first", act{"log", `{"message": "welcome {{ lead.source }}"}`}, act{"update_row", `{"set": {"owner_id": "robot"}}`})
	w.run()
	w.triggerWith("a", "enters", "lead", qs("enter"), "enter_stage", `{"pipeline": "sales", "stage": "first"}`)
	w.triggerWith("a", "updates", "lead", qs("update"), "update_row", `{"set": {"value": 42.50, "description": "was {{ trigger.previous.status_id }}", "is_vip": true, "custom": {"a": [1]}}}`)
	w.triggerWith("a", "contacts", "lead", qs("contacts"), "update_row", `{"object": "contact", "set": {"title": "of {{ lead.id }}"}}`)
	w.triggerWith("a", "inserts", "lead", qs("insert"), "insert_row", `{"table": "contact", "values": {"lead_id": "{{ lead.id }}", "organization_id": "a", "title": "new"}}`)
	w.triggerWith("a", "mails", "lead", qs("mail"), "email", `{"to": "sales@example.com", "subject": "{{ trigger.name }}: {{ lead.id }}", "body": "{{ trigger.previous.status_id }} to {{ object.status_id }}"}`)
	w.triggerWith("a", "calls", "lead", qs("call"), "webhook", fmt.Sprintf(`{"url": %q}`, web.URL+"/hook"))
	w.triggerWith("a", "calls by contact", "contact", and("contact", field("contact", "title", `{"type":"text","mode":"exact_value","value":"CEO"}`)),
		"enter_stage", `{"pipeline": "sales", "stage": "first", "lead": "{{ object.lead_id }}"}`)

	w.exec(`INSERT INTO lead (id, organization_id, status_id, source) SELECT g, 'a', 'Q', 'web' FROM generate_series(1, 8) g`)
	w.exec(`INSERT INTO contact (id, organization_id, lead_id) VALUES (101, 'a', 3), (102, 'a', 3), (103, 'a', 4), (104, 'a', 8)`)
	for id, status := range map[int]string{1: "enter", 2: "update", 3: "contacts", 5: "insert", 6: "mail", 7: "call"} {
		w.exec(`UPDATE lead SET status_id = $1 WHERE id = $2`, status, id)
	}
	w.exec(`UPDATE contact SET title = 'CEO' WHERE id = 104`)
	w.settle()
	w.until("all actions are done", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE lead_stage_id IS NULL AND status = 'completed'`) == 7 &&
			one[int64](w, `SELECT count(*) FROM pgautomate.lead_stages WHERE status = 'completed'`) == 2
	})

	got := one[string](w, `SELECT string_agg(concat_ws(' ', s.lead_id, s.status, a.result ->> 'message'), ', ' ORDER BY s.lead_id)
		FROM pgautomate.lead_stages s JOIN pgautomate.lead_stage_actions a ON a.lead_stage_id = s.id AND a.sequence_number = 1 WHERE s.pipeline_stage_id = $1`, first)
	if got != "1 completed welcome web, 8 completed welcome web" {
		t.Errorf("entered: %s", got)
	}
	if n := one[int64](w, `SELECT count(*) FROM lead WHERE owner_id = 'robot'`); n != 2 {
		t.Errorf("%d leads were updated by the pipeline, want 2", n)
	}
	if got := one[string](w, `SELECT concat_ws(' ', value, description, is_vip, custom) FROM lead WHERE id = 2`); got != `42.50 was Q t {"a": [1]}` {
		t.Errorf("the updated row is %s", got)
	}
	if got := one[string](w, `SELECT string_agg(concat_ws(' ', id, title), ', ' ORDER BY id) FROM contact WHERE id IN (101, 102, 103)`); got != "101 of 3, 102 of 3, 103" {
		t.Errorf("the contacts are %s", got)
	}
	if got := one[string](w, `SELECT string_agg(title, ',') FROM contact WHERE lead_id = 5`); got != "new" {
		t.Errorf("the inserted contact is %s", got)
	}
	if m := box.Messages(); len(m) != 1 || m[0].Subject != "mails: 6" || strings.TrimSpace(m[0].Text) != "Q to mail" {
		t.Errorf("the mail is %+v", m)
	}
	var call struct {
		Type    string
		LeadID  string `json:"lead_id"`
		Trigger struct {
			Name          string
			ChangedFields []string `json:"changed_fields"`
		}
		Data struct {
			StatusID string `json:"status_id"`
		}
	}
	if len(web.bodies["/hook"]) != 1 {
		t.Fatalf("%d calls, want 1", len(web.bodies["/hook"]))
	}
	if err := json.Unmarshal([]byte(web.bodies["/hook"][0]), &call); err != nil {
		t.Fatal(err)
	}
	if call.LeadID != "7" || call.Trigger.Name != "calls" || call.Data.StatusID != "call" || len(call.Trigger.ChangedFields) != 1 {
		t.Errorf("the call is %s", web.bodies["/hook"][0])
	}
	// What an action changes says whose change it was.
	w.triggerWith("a", "robots", "lead", and("lead", field("lead", "description", `{"type":"exists"}`)), "log", `{"message": "x"}`)
	w.exec(`UPDATE lead SET status_id = 'update' WHERE id = 4`)
	w.until("the change of an action has fired", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.trigger_firings f JOIN pgautomate.triggers t ON t.id = f.trigger_id WHERE t.name = 'robots'`) == 1
	})
	if got := one[string](w, `SELECT concat_ws(' ', f.depth, f.cause -> 'chain' ->> 0) FROM pgautomate.trigger_firings f JOIN pgautomate.triggers t ON t.id = f.trigger_id WHERE t.name = 'robots'`); !strings.HasPrefix(got, "1 ") || !strings.HasSuffix(got, " updates") {
		t.Errorf("depth and chain of a firing caused by an action: %q", got)
	}
	if n := one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE lead_stage_id IS NULL AND (firing_id IS NULL OR attempt > 1)`); n != 0 {
		t.Errorf("%d triggers' actions have no firing or ran more than once", n)
	}
}
