package acceptance

import (
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
