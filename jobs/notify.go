package jobs

// Action types notify, which triggers a workflow, and in_app, which puts a message
// into a subscriber's feed. Both are done in the transaction that completes the
// action: exactly once.

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Notifier triggers workflows and writes to feeds, in tx. What can't be done is a
// Permanent error.
type Notifier interface {
	Notify(ctx context.Context, tx pgx.Tx, a *Action, n Notify) error
	InApp(ctx context.Context, tx pgx.Tx, a *Action, subscriber, subject, body string) error
}

// Notify are the rendered parameters of notify.
type Notify struct {
	Workflow      string
	To            json.RawMessage
	Payload       json.RawMessage
	TransactionID string
}

type notifyHandler struct{ notifier Notifier }

func (h notifyHandler) Run(ctx context.Context, a *Action) (Result, error) {
	p, err := Render(ctx, a.Params, a.Vars, KeepTypes("to", "payload"))
	if err != nil {
		return Result{}, err
	}
	if err := checkNotify(p); err != nil {
		return Result{}, Permanent(err)
	}
	if h.notifier == nil {
		return Result{}, errNoStore
	}
	workflow, _ := textParam(p, "workflow")
	n := Notify{Workflow: workflow, TransactionID: a.IdempotencyKey()}
	if n.To, err = json.Marshal(recipientsParam(p["to"])); err != nil {
		return Result{}, Permanent(err)
	}
	if p["payload"] != nil {
		if n.Payload, err = json.Marshal(p["payload"]); err != nil {
			return Result{}, Permanent(err)
		}
	}
	return Result{
		Output: effectOutput{"workflow": workflow, "transaction_id": n.TransactionID},
		Effect: func(ctx context.Context, tx pgx.Tx) error { return h.notifier.Notify(ctx, tx, a, n) },
	}, nil
}

// recipientsParam makes ids of numbers, which columns often are.
func recipientsParam(v any) any {
	switch v := v.(type) {
	case json.Number:
		return v.String()
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = recipientsParam(e)
		}
		return out
	case map[string]any:
		if n, ok := v["subscriberId"].(json.Number); ok {
			v["subscriberId"] = n.String()
		}
		return v
	default:
		return v
	}
}

func checkNotify(p map[string]any) error {
	workflow, err := textParam(p, "workflow")
	if err != nil {
		return err
	}
	if strings.TrimSpace(workflow) == "" {
		return errors.New("workflow: name a workflow by its identifier")
	}
	switch to := p["to"].(type) {
	case string:
		if strings.TrimSpace(to) == "" {
			return errors.New("to: the template gives no subscriber")
		}
	case json.Number, []any, map[string]any:
	default:
		return errors.New("to: name a subscriber, {subscriberId, email, …}, {type: Topic, topicKey}, or a list of them")
	}
	switch payload := p["payload"].(type) {
	case nil, map[string]any:
		return nil
	case string:
		if isTemplate(payload) {
			return nil
		}
	}
	return errors.New("payload: use an object")
}

func (h notifyHandler) Validate(params json.RawMessage) error {
	p, err := decodeParams(params)
	if err != nil {
		return err
	}
	return checkNotify(p)
}

type inAppHandler struct{ notifier Notifier }

func (h inAppHandler) Run(ctx context.Context, a *Action) (Result, error) {
	p, err := Render(ctx, a.Params, a.Vars)
	if err != nil {
		return Result{}, err
	}
	t, err := textParams(p, "subscriber", "subject", "body")
	switch {
	case err != nil:
		return Result{}, Permanent(err)
	case strings.TrimSpace(t["subscriber"]) == "":
		return Result{}, Permanent(errors.New("subscriber: the template gives no subscriber"))
	case h.notifier == nil:
		return Result{}, errNoStore
	}
	return Result{
		Output: effectOutput{"subscriber": t["subscriber"]},
		Effect: func(ctx context.Context, tx pgx.Tx) error {
			return h.notifier.InApp(ctx, tx, a, t["subscriber"], t["subject"], t["body"])
		},
	}, nil
}

func (h inAppHandler) Validate(params json.RawMessage) error {
	return validateText(params, "subscriber", "subject", "body")
}
