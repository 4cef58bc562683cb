package jobs

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// inbox is a Replies with at most one reply.
type inbox struct {
	since time.Time
	reply *Reply
}

func (i inbox) Since(context.Context, *Action) (time.Time, error) { return i.since, nil }

func (i inbox) Find(_ context.Context, _ *Action, since time.Time, channel, contact string) (*Reply, error) {
	if i.reply == nil || i.reply.CommittedAt.Before(since) || channel != "" && channel != i.reply.Channel || contact != "" && contact != i.reply.ContactID {
		return nil, nil
	}
	return i.reply, nil
}

// TestWaitForReply goes through the orders in which a reply, the time and the
// looking may come.
func TestWaitForReply(t *testing.T) {
	t.Parallel()
	const due = "2028-03-13T10:00:00Z" // the wait became due; its time is up an hour later
	const waiting = `{"until":"2028-03-13T11:00:00Z","since":"2028-03-13T09:00:00Z"}`
	const woken = `{"until":"2028-03-13T11:00:00Z","since":"2028-03-13T09:00:00Z","woken":true}`
	for _, tc := range []struct {
		name, parked, now, performAt, reply string
		want, superseded                    string // "": parked again
	}{
		{"none yet", "", due, due, "", "", ""},
		{"before the wait", "", due, due, "2028-03-13T09:30:00Z", "replied", ""},
		{"before the action before it", "", due, due, "2028-03-13T08:59:59Z", "", ""},
		{"as that action started", "", due, due, "2028-03-13T09:00:00Z", "replied", ""},
		{"woken", woken, "2028-03-13T10:30:00Z", "2028-03-13T10:30:00Z", "2028-03-13T10:29:59Z", "replied", ""},
		{"woken for another's", woken, "2028-03-13T10:30:00Z", "2028-03-13T10:30:00Z", "", "", ""},
		{"time is up", waiting, "2028-03-13T11:00:00Z", "2028-03-13T11:00:00Z", "", "timeout", ""},
		{"an instant early", waiting, "2028-03-13T10:59:59.999Z", "2028-03-13T11:00:00Z", "", "", ""},
		{"both, the reply in time", waiting, "2028-03-13T11:00:01Z", "2028-03-13T11:00:00Z", "2028-03-13T11:00:00Z", "replied", "timeout"},
		{"both, the reply too late", waiting, "2028-03-13T11:00:01Z", "2028-03-13T11:00:00Z", "2028-03-13T11:00:00.5Z", "timeout", "reply"},
		{"woken too late", woken, "2028-03-13T11:00:01Z", "2028-03-13T11:00:01Z", "2028-03-13T11:00:00.5Z", "timeout", "reply"},
		{"an app ended it early", waiting, "2028-03-13T10:30:00Z", "2028-03-13T10:30:00Z", "", "timeout", ""},
		{"started late, time is up", "", "2028-03-13T12:00:00Z", due, "", "timeout", ""},
		{"started late, replied in time", "", "2028-03-13T12:00:00Z", due, "2028-03-13T10:30:00Z", "replied", "timeout"},
	} {
		box := inbox{since: instant(t, "2028-03-13T09:00:00Z")}
		if tc.reply != "" {
			box.reply = &Reply{ObjectType: "message", ObjectID: "5", CommittedAt: instant(t, tc.reply)}
		}
		store := &calls{}
		a := &Action{
			ID: 9, LeadStageID: 1, Type: "wait_for_reply", Params: json.RawMessage(`{"timeout":"1 hour","on_reply":"exit","on_timeout":{"stage":"late"}}`),
			Now: instant(t, tc.now), PerformAt: instant(t, tc.performAt), Resumed: tc.parked != "", Parked: json.RawMessage(tc.parked),
		}
		got, err := handlerFor(t, Config{Store: store, Replies: box}, "wait_for_reply").Run(t.Context(), a)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		out := got.Output.(ReplyOutput)
		superseded := ""
		if s := out.Superseded; s != nil && s.Reply != nil {
			superseded = "reply"
		} else if s != nil && s.Timeout != nil {
			superseded = "timeout"
		}
		if out.Outcome != tc.want || superseded != tc.superseded || (tc.want == "") != got.Until.Equal(out.Until) {
			t.Errorf("%s: %q, superseded %q, parked until %s; want %q, %q", tc.name, out.Outcome, superseded, got.Until, tc.want, tc.superseded)
		}
		if got.Effect != nil {
			_ = got.Effect(t.Context(), nil)
		}
		if done, want := strings.Join(store.got, ";"), map[string]string{"replied": `exit 9 ""`, "timeout": `move 9 "" "late"`}[tc.want]; done != want {
			t.Errorf("%s leads to %q, want %q", tc.name, done, want)
		}
	}
}

func TestWaitForReplyRefuses(t *testing.T) {
	t.Parallel()
	r, err := Defaults(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ params, want string }{
		{`{}`, `parameter "timeout" is missing`},
		{`{"timeout":3}`, `timeout: use a span such as "2 days"`},
		{`{"timeout":"soon"}`, `timeout: "soon" is not a time span`},
		{`{"timeout":"1 day","on_reply":"stop"}`, `on_reply: "stop" is not known: use "next", "exit" or {"stage": "name or id"}`},
		{`{"timeout":"1 day","on_timeout":{"stage":""}}`, `on_timeout: use "next", "exit" or`},
		{`{"timeout":"1 day","on_timeout":{"stage":"a","and":1}}`, `on_timeout: unknown member "and"`},
		{`{"timeout":"1 day","chanel":"sms"}`, `did you mean "channel"?`},
		{`{"timeout":"1 day","channel":["sms"]}`, `channel: use a string`},
	} {
		if err := r.Validate("wait_for_reply", json.RawMessage(tc.params)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.params, err, tc.want)
		}
	}
	if err := r.Validate("wait_for_reply", json.RawMessage(`{"timeout":"{{ lead.days }} days","on_reply":{"stage":"a"},"on_timeout":null,"max_attempts":3}`)); err != nil {
		t.Error(err)
	}
}
