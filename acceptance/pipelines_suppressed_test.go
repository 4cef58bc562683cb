package acceptance

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pgautomate/pgautomate/mailbox"
)

// TestP22Suppressed: nothing is sent to who unsubscribed or is on a suppression
// list; the run ends there, instead of going on without its sends.
func TestP22Suppressed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crm()
	w.leads(6)
	box, err := mailbox.Start(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	w.config.SMTPURL = box.URL()
	mail := act{"email", `{"to": "{{ lead.id }}@example.com", "subject": "hello", "body": "hello"}`}
	stage := w.stage("a", "p", "s", act{"wait", `{"for": "1 hour"}`}, mail, mail, act{"log", `{"message": "end"}`})
	for _, sql := range []string{
		`INSERT INTO pgautomate.suppressions (organization_id, lead_id, channel) VALUES ('a', '5', 'sms'), ('b', '5', NULL)`, // not meant
		`INSERT INTO pgautomate.suppressions (organization_id, lead_id, reason) VALUES ('a', '4', 'complained')`,
		`INSERT INTO pgautomate.suppressions (organization_id, lead_id, lead_type) VALUES ('a', '5', 'contact')`,
	} {
		w.exec(sql)
	}
	w.run()
	var runs []int64
	for _, lead := range []string{"1", "2", "3", "4", "5"} {
		runs = append(runs, w.enter("a", lead, stage))
	}
	// Who is suppressed on all channels is not let in.
	if got := w.runState(runs[3]) + " " + w.actions(runs[3]); got != "exited/suppressed " {
		t.Errorf("an entry of a lead that is suppressed: %q", got)
	}
	for _, i := range []int{0, 1, 2, 4} {
		w.untilActions(runs[i], "delayed pending pending pending")
	}
	w.exec(`INSERT INTO pgautomate.suppressions (organization_id, lead_id, channel, reason) VALUES ('a', '1', 'email', 'unsubscribed'), ('a', '2', 'email', 'bounced'), ('a', '3', '*', 'Unsubscribed')`)
	w.exec(`UPDATE pgautomate.lead_stage_actions SET perform_at = now() WHERE status = 'delayed'`)
	for i, want := range map[int]string{0: "unsubscribed", 1: "suppressed", 2: "unsubscribed"} {
		w.untilRun(runs[i], "exited/"+want)
		w.untilActions(runs[i], "completed canceled/"+want+" canceled/"+want+" canceled/"+want)
		if got := w.actionIs(w.action(runs[i], 2), "attempt"); got != "0" {
			t.Errorf("a send that did not happen counts %s attempts", got)
		}
	}
	w.untilRun(runs[4], "completed")
	for _, m := range box.Messages() {
		if len(m.To) != 1 || m.To[0] != "5@example.com" {
			t.Errorf("a mail was sent to %s", m.To)
		}
	}
	// A trigger's own send doesn't happen either.
	w.triggerWith("a", "mails", "lead", qs("C"), "email", mail.params)
	w.exec(`UPDATE lead SET status_id = 'C' WHERE id IN (1, 6)`)
	w.until("both firings have been dealt with", func() bool {
		return one[int64](w, `SELECT count(*) FROM pgautomate.lead_stage_actions WHERE lead_stage_id IS NULL AND finished_at IS NOT NULL`) == 2
	})
	if got := one[string](w, `SELECT string_agg(concat_ws('/', lead_id, status, reason), ' ' ORDER BY lead_id) FROM pgautomate.lead_stage_actions WHERE lead_stage_id IS NULL`); got != "1/canceled/unsubscribed 6/completed" {
		t.Errorf("the trigger's sends are %s", got)
	}
	// Who is taken off the list may come in again.
	w.exec(`DELETE FROM pgautomate.suppressions WHERE lead_id = '4'`)
	if got := w.runState(w.enter("a", "4", stage)); got != "active" {
		t.Errorf("after the suppression was taken back: %q", got)
	}
}

// TestSuppressedAddresses: nothing is sent to an address on the list, whoever has it,
// however it is written; a mail to several goes to the others.
func TestSuppressedAddresses(t *testing.T) {
	t.Parallel()
	w := newWorkers(t)
	box, err := mailbox.Start(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	w.config.SMTPURL, w.config.WebhookAllow = box.URL(), loopback
	web := newProvider(t, func(w http.ResponseWriter, _ string, _ int) { _, _ = w.Write([]byte(`{"id": "m1"}`)) })
	w.exec(`INSERT INTO pgautomate.integrations (organization_id, provider_id, channel, credentials) VALUES ('a', 'generic-sms', 'sms', jsonb_build_object('baseUrl', $1::text))`, web.URL+"/sms")
	w.exec(`INSERT INTO pgautomate.suppressions (organization_id, address, channel, reason) VALUES
		('a', 'Ann@Example.com', NULL, 'complained'), ('a', 'bob@example.com', 'email', 'unsubscribed'), ('a', '+43 1 234', 'sms', 'unsubscribed'),
		('a', 'cid@example.com', 'sms', 'bounced'), ('b', 'cid@example.com', NULL, 'bounced')`)
	mail := func(to string) act { return act{"email", `{"to": ` + to + `, "subject": "hello", "body": "hello"}`} }
	sms := func(to string) act { return act{"sms", `{"to": "` + to + `", "body": "hello"}`} }
	w.run()
	for name, c := range map[string]struct {
		act  act
		want string
	}{
		"complained":           {mail(`"Ann <ANN@example.com>"`), "exited/suppressed"},
		"unsubscribed":         {mail(`"bob@example.com"`), "exited/unsubscribed"},
		"another channel's":    {mail(`"cid@example.com"`), "completed"},
		"one of several":       {mail(`["ann@example.com", "Dan <dan@example.com>", "bob@example.com"]`), "completed"},
		"a copy":               {mail(`"eve@example.com", "cc": ["ann@example.com", "fay@example.com"], "bcc": "bob@example.com"`), "completed"},
		"all of several":       {mail(`"ann@example.com, bob@example.com"`), "exited/suppressed"},
		"a number":             {sms("+43-1-234"), "exited/unsubscribed"},
		"another number":       {sms("+43 1 235"), "completed"},
		"a number of somebody": {sms("+44 1 234"), "completed"},
	} {
		run := w.enter("a", name, w.stage("a", name, "s", c.act))
		w.untilRun(run, c.want)
		if c.want == "completed" {
			continue
		}
		if got := w.actions(run); got != "canceled/"+strings.TrimPrefix(c.want, "exited/") {
			t.Errorf("%s: the send is %s", name, got)
		}
	}
	var to []string
	for _, m := range box.Messages() {
		to = append(to, m.To...)
	}
	slices.Sort(to)
	if got := strings.Join(to, " "); got != "cid@example.com dan@example.com eve@example.com fay@example.com" {
		t.Errorf("mails went to %s", got)
	}
	if n := len(web.bodies["/sms"]); n != 2 {
		t.Errorf("%d text messages went out, want 2", n)
	}
	if got := one[string](w, `SELECT result ->> 'suppressed' FROM pgautomate.lead_stage_actions WHERE lead_id = 'one of several'`); got != `["ann@example.com", "bob@example.com"]` {
		t.Errorf("the mail to several says that it left out %s", got)
	}
	if got := w.fails(`INSERT INTO pgautomate.suppressions (organization_id, address) VALUES ('a', ' - ')`); !strings.Contains(got, "not nothing") {
		t.Errorf("an empty address: %s", got)
	}
}
