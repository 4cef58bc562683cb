package faults

// Workflows triggered over HTTP while the engine is killed: each trigger that was
// answered is one event, each event is in one digest, each step leaves one message.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/mail"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgautomate/pgautomate/mailbox"
)

// notified is a world whose engine is triggered over HTTP.
type notified struct {
	*world

	address, key string
	box          *mailbox.Mailbox
	answered     atomic.Int64
}

const notifiedSubscribers = 12

// newNotified makes the workflow [in_app, digest, email], its subscribers and a mailbox.
func newNotified(w *world) *notified {
	w.t.Helper()
	n := &notified{world: w, address: freeAddress(w.t)}
	var err error
	if n.box, err = mailbox.Start(w.t.Context(), "127.0.0.1:0"); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = n.box.Close() })
	w.run().terminate() // makes schema and slot
	keys := w.command(nil, "keys", "create", "--organization", "n")
	if code := keys.code(); code != 0 {
		w.t.Fatalf("no key: exit code %d", code)
	}
	n.key = strings.TrimSpace(keys.stdout.String())
	w.exec(`INSERT INTO pgautomate.subscribers (organization_id, subscriber_id, email) SELECT 'n', 's' || i, 's' || i || '@example.com' FROM generate_series(0, $1 - 1) i`, notifiedSubscribers)
	w.exec(`WITH topic AS (INSERT INTO pgautomate.topics (organization_id, key) VALUES ('n', 'all') RETURNING id)
		INSERT INTO pgautomate.topic_subscribers (topic_id, subscriber_no) SELECT topic.id, s.id FROM topic, pgautomate.subscribers s WHERE s.organization_id = 'n'`)
	w.exec(`WITH w AS (INSERT INTO pgautomate.workflows (organization_id, identifier, name, active) VALUES ('n', 'digested', 'digested', true) RETURNING id)
		INSERT INTO pgautomate.workflow_steps (workflow_id, position, step_id, type, wire_type, controls, settings)
		SELECT id, 1, 'i', 'in_app', 'in_app', '{"body":"event {{payload.n}}"}'::jsonb, '{}'::jsonb FROM w
		UNION ALL SELECT id, 2, 'd', 'digest', 'digest', '{}', '{"type":"regular","amount":1,"unit":"seconds"}' FROM w
		UNION ALL SELECT id, 3, 'e', 'email', 'email', '{"subject":"{{step.total_count}}","body":"{{step.total_count}} events"}', '{}' FROM w`)
	return n
}

// start runs the engine at the address that the callers know.
func (n *notified) start(env ...string) *process {
	return n.command(append(env, "SMTP_URL="+n.box.URL()), "run", "--listen", n.address)
}

// trigger posts a trigger until it is answered; every other one is told apart only by its
// idempotency key.
func (n *notified) trigger(ctx context.Context, no int, to any) {
	body := map[string]any{"name": "digested", "to": to, "payload": map[string]any{"n": no}}
	if no%2 == 0 {
		body["transactionId"] = fmt.Sprintf("tx-%d", no)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		n.t.Error(err)
		return
	}
	for ctx.Err() == nil {
		again, err := n.post(ctx, raw, fmt.Sprintf("key-%d", no))
		if err != nil {
			n.t.Errorf("trigger %d: %v", no, err)
		}
		if !again {
			n.answered.Add(1)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// post says whether the trigger is to be sent again: there was no answer, or none yet.
func (n *notified) post(ctx context.Context, body []byte, key string) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+n.address+"/v1/events/trigger", bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	r.Header.Set("Authorization", "ApiKey "+n.key)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", key)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return true, nil // nobody is there
	}
	defer func() { _ = a.Body.Close() }()
	said, err := io.ReadAll(a.Body)
	switch {
	case err != nil || a.StatusCode == http.StatusConflict || a.StatusCode >= http.StatusInternalServerError:
		return true, nil
	case a.StatusCode != http.StatusCreated:
		return false, fmt.Errorf("%d %s", a.StatusCode, said)
	default:
		return false, nil
	}
}

// ended waits until all has ended, and wants each of so many events once for each of its
// recipients.
func (n *notified) ended(events, notifications int64) {
	n.t.Helper()
	n.until("every notification has ended", func() bool {
		return one[bool](n.world, `SELECT NOT EXISTS (SELECT FROM pgautomate.notification_events WHERE status = 'pending')
			AND NOT EXISTS (SELECT FROM pgautomate.notification_jobs WHERE status IN ('pending', 'queued', 'running', 'delayed'))`)
	})
	for what, c := range map[string]struct {
		want int64
		sql  string
	}{
		"events":        {events, `SELECT count(*) FROM pgautomate.notification_events`},
		"notifications": {notifications, `SELECT count(*) FROM pgautomate.notifications`},
		"notifications of one event and subscriber": {notifications, `SELECT count(DISTINCT (payload ->> 'n', subscriber_id)) FROM pgautomate.notifications n
			JOIN pgautomate.notification_events e ON e.id = n.event_id`},
		"completed in-app jobs":      {notifications, `SELECT count(*) FROM pgautomate.notification_jobs WHERE action_type = 'in_app' AND status = 'completed'`},
		"in-app messages":            {notifications, `SELECT count(*) FROM pgautomate.messages WHERE channel = 'in_app'`},
		"events in digests":          {notifications, `SELECT count(*) FROM pgautomate.notification_jobs j, jsonb_array_elements(j.result -> 'events') WHERE j.action_type = 'digest'`},
		"different ones":             {notifications, `SELECT count(DISTINCT e ->> 'id') FROM pgautomate.notification_jobs j, jsonb_array_elements(j.result -> 'events') e WHERE j.action_type = 'digest'`},
		"events that mails speak of": {notifications, `SELECT coalesce(sum(subject::int), 0)::bigint FROM pgautomate.messages WHERE channel = 'email'`},
		"messages too many":          {0, `SELECT count(*) FROM (SELECT FROM pgautomate.messages m JOIN pgautomate.notification_jobs j ON j.id = m.job_id GROUP BY m.notification_id, j.step_id HAVING count(*) > 1) x`},
		"jobs that failed":           {0, `SELECT count(*) FROM pgautomate.notification_jobs WHERE status NOT IN ('completed', 'merged')`},
	} {
		if got := one[int64](n.world, c.sql); got != c.want {
			n.t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
	mails := one[int64](n.world, `SELECT count(*) FROM pgautomate.notification_jobs WHERE action_type = 'email' AND status = 'completed'`)
	ids := map[string]int{}
	for _, m := range n.box.Messages() {
		parsed, err := mail.ReadMessage(bytes.NewReader(m.Raw))
		if err != nil {
			n.t.Error(err)
			continue
		}
		ids[parsed.Header.Get("Message-Id")]++
	}
	again := 0
	for _, times := range ids {
		again += times - 1
	}
	if int64(len(ids)) != mails {
		n.t.Errorf("%d different mails came, %d were sent", len(ids), mails)
	}
	n.t.Logf("%d events, %d notifications, %d mails (%d came again with the same Message-ID), killed %d times", events, notifications, mails, again, n.times)
}

// notificationsKilled kills the engine in the midst of so many triggers.
func (w *world) notificationsKilled(triggers, kills int) {
	n := newNotified(w)
	p := n.start()
	p.awaitReady()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*caughtUpWithin) // eight faults go on at one time
	defer cancel()
	var group sync.WaitGroup
	next := make(chan int)
	for range 8 {
		group.Go(func() {
			for no := range next {
				n.trigger(ctx, no, fmt.Sprintf("s%d", no%notifiedSubscribers))
			}
		})
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for no := range triggers {
			next <- no
		}
		close(next)
		group.Wait()
	}()
	for k := range kills {
		w.until("it is in the midst", func() bool { return n.answered.Load() >= int64((k+1)*triggers/(kills+1)) })
		p.kill()
		w.times++
		p = n.start()
		p.awaitReady()
	}
	<-sent
	if got := n.answered.Load(); got != int64(triggers) {
		w.t.Fatalf("%d of %d triggers were answered", got, triggers)
	}
	began := time.Now()
	n.ended(int64(triggers), int64(triggers))
	report.add(result{fault: w.fault, times: w.times, firings: triggers, actions: time.Since(began)})
	p.terminate()
}
