package jobs

// Action type wait_for_reply: the run goes on when the lead replies, or when the
// time is up. Replies are rows that the feed writes (table replies); a parked
// wait is woken by a carrier that comes with them. So a reply is looked for
// twice: when the wait begins, for it may have come before, and when it goes on.
// What is written is one outcome of one action: a reply and a timeout that race
// give one branch, and the result names the other as superseded.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Reply is a row that counts as a lead's reply.
type Reply struct {
	ObjectType  string    `json:"object_type"`
	ObjectID    string    `json:"object_id"`
	Channel     string    `json:"channel,omitempty"`
	ContactID   string    `json:"contact_id,omitempty"`
	CommittedAt time.Time `json:"committed_at"`
}

// Replies knows the leads' replies.
type Replies interface {
	// Since is when the action before this one in its stage started, or else when
	// the lead entered: earlier replies don't count.
	Since(ctx context.Context, a *Action) (time.Time, error)
	// Find gives the first reply of the action's lead since then, nil for none;
	// channel and contact, if not "", must be the reply's.
	Find(ctx context.Context, a *Action, since time.Time, channel, contact string) (*Reply, error)
}

type replyHandler struct {
	store   Store
	replies Replies
}

// ReplyOutput is the result of wait_for_reply.
type ReplyOutput struct {
	Until      time.Time        `json:"until"`
	Since      time.Time        `json:"since"`
	Channel    string           `json:"channel,omitempty"`
	Contact    string           `json:"contact,omitempty"`
	Outcome    string           `json:"outcome,omitempty"` // replied or timeout; not while it waits
	Reply      *Reply           `json:"reply,omitempty"`
	Then       any              `json:"then,omitempty"`
	Superseded *ReplySuperseded `json:"superseded,omitempty"`
}

// ReplySuperseded is what lost a race with the outcome.
type ReplySuperseded struct {
	Reply   *Reply     `json:"reply,omitempty"`
	Timeout *time.Time `json:"timeout,omitempty"`
}

// parked is what a wait that is woken keeps while it is parked.
type parked struct {
	// Woken is set by who woke it; without it only its time, or an app, ends it.
	Woken bool `json:"woken"`
}

func (h replyHandler) Run(ctx context.Context, a *Action) (Result, error) {
	if a.LeadStageID == 0 {
		return Result{}, Permanentf("%s: this action stands in no pipeline, so there is nothing to go on with", a.Type)
	}
	onReply, onTimeout, err := h.targets(a.Params)
	if err != nil {
		return Result{}, Permanent(err)
	}
	if h.store == nil || h.replies == nil {
		return Result{}, errNoStore
	}
	var out ReplyOutput
	woken := false
	if a.Resumed {
		var p parked
		if json.Unmarshal(a.Parked, &out) != nil || json.Unmarshal(a.Parked, &p) != nil || out.Until.IsZero() {
			return Result{}, Permanentf("the result of this wait was changed while it waited: it must keep until and since")
		}
		woken = p.Woken
	} else if out, err = h.begin(ctx, a); err != nil {
		return Result{}, err
	}
	reply, err := h.replies.Find(ctx, a, out.Since, out.Channel, out.Contact)
	if err != nil {
		return Result{}, fmt.Errorf("replies: %w", err)
	}
	// An app may have moved the time of a wait; being woken moves it, too.
	expired := !a.Now.Before(out.Until) || a.Resumed && !woken && !a.Now.Before(a.PerformAt)
	switch {
	case reply != nil && (!expired || !reply.CommittedAt.After(out.Until)):
		out.Outcome, out.Reply, out.Then = "replied", reply, onReply.words()
		if expired {
			out.Superseded = &ReplySuperseded{Timeout: &out.Until}
		}
		return onReply.lead(ctx, h.store, a, Result{Output: out})
	case expired:
		out.Outcome, out.Then = "timeout", onTimeout.words()
		if reply != nil {
			out.Superseded = &ReplySuperseded{Reply: reply}
		}
		return onTimeout.lead(ctx, h.store, a, Result{Output: out})
	default:
		return Result{Output: out, Until: out.Until}, nil
	}
}

// begin gives what the wait waits for.
func (h replyHandler) begin(ctx context.Context, a *Action) (ReplyOutput, error) {
	var out ReplyOutput
	p, err := Render(ctx, a.Params, a.Vars)
	if err != nil {
		return out, err
	}
	if out.Channel, err = textParam(p, "channel"); err != nil {
		return out, Permanent(err)
	}
	if out.Contact, err = textParam(p, "contact"); err != nil {
		return out, Permanent(err)
	}
	if _, named := p["contact"]; named && out.Contact == "" {
		return out, Permanentf("contact: the template gives no id: leave contact out for any contact of the lead")
	}
	if out.Until, err = timeout(p, a); err != nil {
		return out, Permanent(err)
	}
	if out.Since, err = h.replies.Since(ctx, a); err != nil {
		return out, fmt.Errorf("the action before: %w", err)
	}
	return out, nil
}

// timeout is when a wait that has a timeout is over: counted, as in wait, from
// when it became due.
func timeout(p map[string]any, a *Action) (time.Time, error) {
	text, ok := p["timeout"].(string)
	if !ok {
		return time.Time{}, fmt.Errorf("timeout: %s", spanForms)
	}
	s, err := parseSpan(text)
	if err != nil {
		return time.Time{}, fmt.Errorf("timeout: %w", err)
	}
	base := a.PerformAt
	if base.IsZero() {
		base = a.Now
	}
	loc := a.Location
	if loc == nil {
		loc = time.UTC
	}
	return s.after(base, loc), nil
}

func (replyHandler) targets(params json.RawMessage) (onReply, onTimeout target, err error) {
	return readTargets(params, "on_reply", "on_timeout")
}

// readTargets reads two targets of one action.
func readTargets(params json.RawMessage, first, second string) (a, b target, err error) {
	var p map[string]json.RawMessage
	if len(bytes.TrimSpace(params)) > 0 {
		if err := json.Unmarshal(params, &p); err != nil {
			return a, b, fmt.Errorf("params: not a JSON object: %w", err)
		}
	}
	if a, err = readTarget(first, p[first]); err != nil {
		return a, b, err
	}
	b, err = readTarget(second, p[second])
	return a, b, err
}

func (h replyHandler) Validate(params json.RawMessage) error {
	if _, _, err := h.targets(params); err != nil {
		return err
	}
	if err := validateText(params, "channel", "contact"); err != nil {
		return err
	}
	return validateTimeout(params)
}

func validateTimeout(params json.RawMessage) error {
	p, err := decodeParams(params)
	if err != nil {
		return err
	}
	if s, ok := p["timeout"].(string); ok && isTemplate(s) {
		return nil // checked when it is rendered
	}
	_, err = timeout(p, &Action{})
	return err
}

func (h replyHandler) References(params json.RawMessage) (stages []StageRef, queries []QueryRef) {
	onReply, onTimeout, err := h.targets(params)
	if err != nil {
		return nil, nil
	}
	return append(onReply.reference("/on_reply"), onTimeout.reference("/on_timeout")...), nil
}
